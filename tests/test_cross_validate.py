import shlex

import cross_validate
import pytest
from conftest import BUNDLE
from cross_validate import cross_validate as run

from cardiac_cine.errors import InputError
from cardiac_cine.report import read_evaluation

SMALL = "--phantoms 0 --filters [4,8,16] --spacing_mm [2.8,2.8,-1] --slice_size [96,96,-1] --crop_size [64,64]"


@pytest.fixture
def calls(monkeypatch):
    """The runs that were started, as configs and options; they still happen."""
    found = []
    real = cross_validate._run

    def record(configs, options):
        found.append((configs, options))
        real(configs, options)

    monkeypatch.setattr(cross_validate, "_run", record)
    return found


def test_every_patient_is_evaluated_by_a_network_that_did_not_see_them(phantom_acdc, tmp_path, calls, capfd):
    options = f"{SMALL} --batch_size 8 --max_epochs 1 --device cpu --warmup_iterations 2"
    for _ in range(2):  # the second time there is nothing left to train
        assert run(str(phantom_acdc), output_dir=str(tmp_path), max_minutes=5.0, folds=2, options=options) == 0
    assert [configs for configs, _ in calls] == [["train.json"], ["train.json", "evaluate.json"]] * 2
    assert all("--resume" not in given for _, given in calls)
    folds = [read_evaluation(tmp_path / f"fold{fold}" / "evaluation.json") for fold in range(2)]
    patients = [{result.patient for result in fold} for fold in folds]
    assert patients[0] and patients[1] and not patients[0] & patients[1]
    together = read_evaluation(tmp_path / "evaluation.json")
    assert {result.case for result in together} == {result.case for fold in folds for result in fold}
    assert f"over {len(together)} frames" in capfd.readouterr().out


def test_a_half_trained_fold_is_resumed(phantom_acdc, tmp_path, monkeypatch):
    (tmp_path / "fold0").mkdir()
    (tmp_path / "fold0" / "checkpoint.pt").touch()
    seen = []

    def stop(configs, options):
        seen.append(shlex.join(options))
        raise RuntimeError("stop")

    monkeypatch.setattr(cross_validate, "_run", stop)
    with pytest.raises(RuntimeError, match="stop"):
        run(str(phantom_acdc), output_dir=str(tmp_path), folds=1)
    assert seen[0].endswith("--resume true")


def test_failures_are_told(phantom_acdc, tmp_path, capfd):
    with pytest.raises(InputError, match="folds is 6, expected 1 to 5"):
        run(str(phantom_acdc), output_dir=str(tmp_path), folds=6)
    with pytest.raises(RuntimeError, match=r"train.json failed with --dataset_dir"):
        run(str(tmp_path / "none"), output_dir=str(tmp_path / "out"), folds=1)
    assert "no such folder" in capfd.readouterr().err
    assert not list(BUNDLE.rglob("fold0"))

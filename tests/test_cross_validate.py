import shlex
from dataclasses import replace

import cross_validate
import pytest
from conftest import BUNDLE
from cross_validate import cross_validate as run
from test_evaluation import two_frames

from cardiac_cine.datasets import open_datalist
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256
from cardiac_cine.report import read_about, read_evaluation, write_evaluation

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
    of_call = {"trained by this call": "fold0, fold1", "minutes of training each": "5.0", "options": options}
    for trained in (of_call, {}):  # the second time there is nothing left to train
        assert run(str(phantom_acdc), output_dir=str(tmp_path), max_minutes=5.0, folds=2, options=options) == 0
        about = read_about(tmp_path / "evaluation.json")
        assert {key: about.get(key) for key in of_call if key in about} == trained
    assert about["split"] == "fold0, fold1" and about["dataset"] == str(phantom_acdc)
    assert about["weights sha256"] == ", ".join(sha256(tmp_path / f"fold{fold}" / "model.pt") for fold in range(2))
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


def write_fold(dataset, folder, *, split=None, weights=b"weights", leave_out=0):
    """Write an evaluation of a fold as evaluate.json leaves it, the weights beside it."""
    cases = open_datalist(dataset).section(folder.name, "validation")
    results = [replace(two_frames()[0], case=case.name, patient=case.patient) for case in cases]
    folder.mkdir()
    (folder / "model.pt").write_bytes(weights)
    about = {"weights sha256": sha256(folder / "model.pt"), "dataset": f"of {folder.name}", "monai": "1.0"}
    write_evaluation(results[leave_out:], folder, {**about, "split": split or folder.name})


def test_what_was_evaluated_stands_in_the_folds_reports(phantom_acdc, tmp_path):
    for fold in range(2):
        write_fold(phantom_acdc, tmp_path / f"fold{fold}", weights=b"weights %d" % fold)
    digests = [sha256(tmp_path / f"fold{fold}" / "model.pt") for fold in range(2)]
    (tmp_path / "fold1" / "model.pt").unlink()  # weights may be kept elsewhere
    assert run(str(phantom_acdc), output_dir=str(tmp_path), folds=2, max_minutes=7.0, options="--seed 1") == 0
    assert read_about(tmp_path / "evaluation.json") == {
        "folds": "2",
        "weights sha256": ", ".join(digests),
        "dataset": "of fold0, of fold1",
        "monai": "1.0",
        "split": "fold0, fold1",
    }


def test_evaluations_that_are_not_the_folds_are_refused_before_any_training(phantom_acdc, tmp_path, calls):
    write_fold(phantom_acdc, tmp_path / "fold0", split="tutorial")
    write_fold(phantom_acdc, tmp_path / "fold1")
    (tmp_path / "fold1" / "model.pt").write_bytes(b"others")
    write_fold(phantom_acdc, tmp_path / "fold2", leave_out=1)
    (tmp_path / "fold3").mkdir()
    (tmp_path / "fold3" / "evaluation.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        run(str(phantom_acdc), output_dir=str(tmp_path))
    missing = open_datalist(phantom_acdc).section("fold2", "validation")[0].name
    expected = [
        "fold0/evaluation.json: evaluates split 'tutorial', expected 'fold0'",
        f"fold1/model.pt: has SHA-256 {sha256(tmp_path / 'fold1' / 'model.pt')}, expected",
        f"fold2/evaluation.json: evaluates 1 frames, expected the 2 of ACDC in fold2; in one alone: {missing}",
        "fold3/evaluation.json: KeyError",
    ]
    assert [text in problem for text, problem in zip(expected, caught.value.problems, strict=True)] == [True] * 4
    assert not calls and not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", []),
        ("--seed 1  --compile true", ["--seed", "1", "--compile", "true"]),
        (
            """--strength "{'rotate_prob': 0.6, 'flip_prob': 0}" --seed 1""",
            ["--strength", "{'rotate_prob': 0.6, 'flip_prob': 0}", "--seed", "1"],
        ),
    ],
)
def test_options_are_quoted_as_for_a_shell(phantom_acdc, tmp_path, monkeypatch, options, words):
    def stop(_, given):
        raise RuntimeError(given)

    monkeypatch.setattr(cross_validate, "_run", stop)
    with pytest.raises(RuntimeError) as caught:
        run(str(phantom_acdc), output_dir=str(tmp_path), folds=1, options=options)
    given = caught.value.args[0]
    assert given[given.index(str(tmp_path / "fold0")) + 1 : given.index("--output_dir")] == words


def test_failures_are_told(phantom_acdc, tmp_path, capfd):
    with pytest.raises(InputError, match="folds is 6, expected 1 to 5"):
        run(str(phantom_acdc), output_dir=str(tmp_path), folds=6)
    with pytest.raises(InputError, match="none: no such folder"):
        run(str(tmp_path / "none"), output_dir=str(tmp_path / "out"), folds=1)
    with pytest.raises(InputError, match=r"options is .*: No closing quotation; expected what a shell takes"):
        run(str(phantom_acdc), output_dir=str(tmp_path / "out"), folds=1, options="--strength '{")
    with pytest.raises(RuntimeError, match=r"train.json failed with --dataset_dir"):
        run(str(phantom_acdc), output_dir=str(tmp_path / "out"), folds=1, options="--amp perhaps")
    assert "perhaps" in capfd.readouterr().err
    assert not list(BUNDLE.rglob("fold0"))

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import BUNDLE
from test_cases import a_label, a_saved_case

from cardiac_cine.annotation.training_runs import (
    ARGUMENTS,
    LOG,
    RECORDS,
    dice_by_structure,
    is_owned,
    mean_dice,
    owned,
    progress,
    train,
)


def started(folder: Path, seconds: float = 0.0, records: object = None, **arguments: object) -> Path:
    """A run that began some seconds before its last record was written."""
    now = 1_700_000_000.0
    (folder / ARGUMENTS).write_text(json.dumps({"max_epochs": 100, "max_minutes": None, **arguments}))
    os.utime(folder / ARGUMENTS, (now, now))
    if records is not None:
        (folder / RECORDS).write_text(json.dumps(records))
        os.utime(folder / RECORDS, (now + seconds, now + seconds))
    return folder


def test_a_run_is_owned_while_a_process_works_on_it(tmp_path):
    assert not is_owned(tmp_path / "run")
    with owned(tmp_path / "run"):
        assert is_owned(tmp_path / "run") and is_owned(tmp_path / "run")
    assert not is_owned(tmp_path / "run")


def test_a_killed_process_owns_nothing(tmp_path):
    code = f"import sys, time; sys.path.insert(0, {str(BUNDLE)!r})\n"
    code += "from pathlib import Path; from cardiac_cine.annotation.training_runs import owned\n"
    code += f"with owned(Path({str(tmp_path)!r})): print('mine', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        assert is_owned(tmp_path)
        process.kill()
    assert not is_owned(tmp_path)


def test_progress_of_a_run_that_is_not_started(tmp_path):
    found = progress(tmp_path)
    assert (found.epoch, found.total_epochs, found.best, found.best_epoch, found.records) == (0, 0, None, 0, ())
    assert found.started == tmp_path.stat().st_mtime


def test_progress_before_the_first_epoch(tmp_path):
    found = progress(started(tmp_path))
    assert (found.epoch, found.total_epochs, found.best, found.best_epoch, found.records) == (0, 100, None, 0, ())
    assert found.started == 1_700_000_000
    assert progress(started(tmp_path, max_minutes=5)).total_epochs == 0


@pytest.mark.parametrize(
    ("max_minutes", "expected"),
    # Two epochs took one minute.
    [(None, 100), (10, 20), (1, 2), (0.1, 2), (50, 100), (500, 100)],
)
def test_the_budget_that_ends_first_says_how_many_epochs_there_will_be(tmp_path, max_minutes, expected):
    records = [{"epoch": 1.0}, {"epoch": 2.0}]
    assert progress(started(tmp_path, 60, records, max_minutes=max_minutes)).total_epochs == expected


def test_the_best_validation_is_found_among_the_records(tmp_path):
    records = [
        {"epoch": 1.0, "train_loss": 2.0, "val_mean_dice": 0.2},
        {"epoch": 2.0, "train_loss": 1.5},
        {"epoch": 3.0, "train_loss": 1.2, "val_mean_dice": 0.7, "val_dice_rv": None},
        {"epoch": 4.0, "train_loss": 1.1, "val_mean_dice": None},
    ]
    found = progress(started(tmp_path, 60, records))
    assert (found.epoch, found.best, found.best_epoch) == (4, 0.7, 3)
    assert found.records[2:] == (
        {"epoch": 3.0, "train_loss": 1.2, "val_mean_dice": 0.7},
        {"epoch": 4.0, "train_loss": 1.1},
    )


class Shifted:
    """A segmenter that answers with the label, moved by some voxels."""

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def segment(self, frame):
        return np.roll(a_label(), self.shift, 0)


def test_mean_dice_is_that_of_the_frames(tmp_path):
    cases = [a_saved_case(tmp_path, patient) for patient in ("p1", "p2")]
    assert mean_dice(Shifted(0), cases) == 1
    # The RV of 3 x 4 pixels moves by one third of itself, MYO's ring and LV of 4 by a quarter.
    label, moved = a_label(), np.roll(a_label(), 1, 0)
    expected = [2 * ((label == s) & (moved == s)).sum() / ((label == s).sum() + (moved == s).sum()) for s in (1, 2, 3)]
    assert expected[0] == pytest.approx(2 / 3) and expected[2] == pytest.approx(3 / 4)
    assert mean_dice(Shifted(1), cases) == pytest.approx(np.mean(expected))
    np.testing.assert_allclose(dice_by_structure(Shifted(1), cases), [expected] * 2)
    assert np.isnan(mean_dice(Shifted(0), []))


def test_what_a_training_that_fails_says_is_kept(tmp_path):
    assert train(BUNDLE, tmp_path, {"device": "cpu"}) > 0
    assert f"{tmp_path}: neither dataset.json nor patientXXX/Info.cfg in it" in (tmp_path / LOG).read_text()
    arguments = json.loads((tmp_path / ARGUMENTS).read_text())
    assert (arguments["output_dir"], arguments["ckpt_dir"]) == (str(tmp_path), str(tmp_path / "models"))

import json
import os
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("monailabel", reason="needs the app's packages: pip install -r requirements-app.txt")

from cardiac_cine.annotation import training_runs
from cardiac_cine.annotation.label_training import Options
from cardiac_cine.errors import InputError
from monailabel_app.lib.state import State
from monailabel_app.lib.training import CineTraining

RECORDS = [{"epoch": 1.0, "train_loss": 2.0, "val_mean_dice": 0.4}, {"epoch": 2.0, "train_loss": 1.0, "val_loss": None}]


@pytest.fixture
def training(tmp_path) -> CineTraining:
    conf = {"device": "cpu", "train_overrides": '{"filters": [4, 8]}'}
    return CineTraining(State(tmp_path / "state"), SimpleNamespace(), tmp_path / "bundle", conf)


def begun(training: CineTraining, result: dict | None = None):
    """A run of two epochs in a minute."""
    run = training.runs.folder / "20260102T030405.000000Z"
    run.mkdir(parents=True)
    (run / training_runs.ARGUMENTS).write_text(json.dumps({"max_epochs": 10, "max_minutes": None}))
    (run / training_runs.RECORDS).write_text(json.dumps(RECORDS))
    os.utime(run / training_runs.ARGUMENTS, (1_700_000_000, 1_700_000_000))
    if result:
        (run / "result.json").write_text(json.dumps(result))
    return run


def test_clients_are_offered_every_option_with_its_default(training):
    assert training.info()["config"].keys() == vars(Options()).keys()
    assert training.config()["initial"] == ["live", "shipped", "scratch"]
    assert Options.of(training.config()) == Options()
    assert training.runs.overrides == {"filters": [4, 8]}


def test_stats_before_the_first_training(training):
    assert training.stats() == {}


def test_stats_while_a_training_goes_on(training):
    with training_runs.owned(begun(training)):
        stats = training.stats()
    # OHIF and Slicer take a total_time for the end; they divide epoch by total_epochs.
    assert stats["status"] == "running" and stats["current_time"] and "total_time" not in stats
    assert (stats["epoch"], stats["total_epochs"], stats["best_metric"]) == (2, 10, 0.4)
    assert stats["train"]["metrics"] == {"epoch": 2.0, "train_loss": 1.0}
    assert stats["eval"] == {"best_metric": 0.4, "best_metric_epoch": 1, "key_metric_name": "val_mean_dice"}
    assert len(stats["curves"]) == 2
    json.dumps(stats, allow_nan=False)


@pytest.mark.parametrize(
    ("result", "status", "total_time"),
    [({"status": "published", "seconds": 61.2}, "published", "0:01:01"), (None, "interrupted", None)],
)
def test_stats_when_a_training_is_over(training, result, status, total_time):
    begun(training, result)
    stats = training.stats()
    assert (stats["status"], stats["epoch"], stats["total_epochs"]) == (status, 2, 2)
    assert stats["total_time"] == total_time or total_time is None
    assert stats["result"] == (result or {})


def test_a_request_becomes_options(training, monkeypatch):
    seen = []
    monkeypatch.setattr(training.runs, "_snapshot", lambda library, run: seen.append(library) or [])
    monkeypatch.setattr(training.runs, "_split", lambda labelled, options, run: seen.append(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training({"model": "cardiac_cine", "max_epochs": 3, "initial": "scratch", "local_rank": 0}, "the datastore")
    assert seen == ["the datastore", Options(max_epochs=3, initial="scratch")]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"device": "cuda:99"}, r"device is 'cuda:99', expected one of \['cpu'"),
        ({"max_epochs": 0}, "max_epochs is 0, expected a whole number from 1"),
    ],
)
def test_stats_tell_why_a_training_did_not_even_begin(training, request_, message):
    begun(training, {"status": "published", "seconds": 61.2})
    with pytest.raises(InputError, match=message):
        training(request_, "the datastore")
    stats = json.loads(json.dumps(training.stats(), allow_nan=False))
    assert (stats["status"], stats["epoch"], stats["total_epochs"], stats["total_time"]) == ("failed", 0, 1, "0:00:00")
    assert re.search(message, stats["result"]["error"])
    assert stats["train"]["metrics"] == {} and "best_metric" not in stats

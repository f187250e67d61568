import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE
from filelock import FileLock
from monai.bundle import ConfigParser

from cardiac_cine import cases
from cardiac_cine.annotation import training_runs
from cardiac_cine.annotation.label_training import LabelTraining, Options
from cardiac_cine.annotation.library import Library
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.annotation.sources import LocalSource
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256

OVERRIDES = {
    "filters": [4, 8, 16],
    "spacing_mm": [2.8, 2.8, -1],
    "slice_size": [96, 96, -1],
    "crop_size": [64, 64],
    "batch_size": 8,
    "val_interval": 1,
    "warmup_iterations": 2,
    "learning_rate": 0.01,
    "ema_momentum": 0.5,
}
SHARED = ("filters", "spacing_mm", "crop_size")
QUICK = Options(max_epochs=6, max_minutes=5, initial="scratch")


class FixedModel:
    """Models as far as a training uses them: a live one that stays, and a list of what was published."""

    def __init__(self, path: Path, trained_on: tuple[str, ...] = ()) -> None:
        self.path, self.live = path, SimpleNamespace(sha256=sha256(path), trained_on=trained_on)
        self.published = []

    def publish(self, path, metrics, trained_on):
        self.published.append((path.read_bytes(), metrics, trained_on))


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory) -> Path:
    """The bundle with a small network of random weights."""
    root = tmp_path_factory.mktemp("bundle") / "cardiac_cine"
    shutil.copytree(BUNDLE / "configs", root / "configs")
    shutil.copytree(BUNDLE / "cardiac_cine", root / "cardiac_cine", ignore=shutil.ignore_patterns("__pycache__"))
    config = json.loads((root / "configs" / "inference.json").read_text()) | {key: OVERRIDES[key] for key in SHARED}
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    parser = ConfigParser(config)
    parser["device"] = "cpu"
    torch.manual_seed(0)
    (root / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), root / "models" / "model.pt")
    return root


class Place:
    """Studies of the phantoms, their labels, and a training on them."""

    def __init__(self, root: Path, phantoms: Path, bundle: Path, trained_on: tuple[str, ...] = ()) -> None:
        self.root, self.phantoms, self.bundle = root / "state", phantoms, bundle
        self.lock = FileLock(root / ".lock")
        self.library = Library(LocalSource(phantoms), self.root, self.lock)
        self.models = FixedModel(bundle / "models" / "model.pt", trained_on)
        self.training = LabelTraining(self.root, self.lock, self.models, bundle, OVERRIDES)

    def with_real_models(self) -> "Place":
        self.training.models = self.models = ModelVersions(self.root / "models", self.lock, self.bundle, "cpu")
        return self

    def label(self, patients, tmp_path: Path, drawn=(1, 2, 3), **info) -> None:
        """Save the references of these patients as an annotator's, with only the structures drawn."""
        for entry in self.library.entries():
            if entry.patient in patients:
                [reference] = self.phantoms.rglob(f"{entry.case}_gt.nii.gz")
                image = nib.load(reference)
                mask = np.asarray(image.dataobj)
                path = tmp_path / "drawn.nii.gz"
                nib.save(nib.Nifti1Image(np.where(np.isin(mask, drawn), mask, 0).astype(np.uint8), image.affine), path)
                self.library.save(entry.id, path, "final", info)

    def train(self, **options) -> dict:
        return self.training.train(self.library, replace(QUICK, **options))

    def results(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.training.folder.glob("*/result.json"))]


@pytest.fixture
def place(tmp_path, phantom_acdc, small_bundle) -> Place:
    return Place(tmp_path, phantom_acdc, small_bundle)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom_acdc, small_bundle):
    """One training of three patients, with what it returned and what the bundle held before."""
    root = tmp_path_factory.mktemp("trained")
    place = Place(root, phantom_acdc, small_bundle).with_real_models()
    place.label(["patient001", "patient002", "patient003"], root)
    before, place.seen, done = contents(small_bundle), [], threading.Event()

    def watch():
        while not done.wait(0.1):
            place.seen.append(place.training.status())

    watcher = threading.Thread(target=watch)
    watcher.start()
    place.result = place.train()
    done.set()
    watcher.join()
    place.untouched = contents(small_bundle) == before
    [place.run] = place.training.folder.iterdir()
    return place


def test_a_training_publishes_what_is_better_than_random_weights(trained):
    assert trained.result["status"] == "published"
    assert trained.result["dice"]["new"] >= trained.result["dice"]["live"] - 0.001
    before, live = trained.models.history()
    assert before.sha256 == trained.result["live"] == sha256(trained.bundle / "models" / "model.pt")
    assert live == trained.models.live and live.sha256 == sha256(trained.run / "models" / "model.pt")
    assert live.metrics == {"val_mean_dice": trained.result["dice"]["new"]}
    assert live.trained_on == trained.result["training"]
    assert json.loads((trained.run / "result.json").read_text()) == trained.result


def test_patients_are_either_trained_on_or_validated(trained):
    assert len(trained.result["validation"]) == 1 and len(trained.result["training"]) == 2
    datalist = cases.read(trained.run / "dataset.json")
    sides = {side: {case.patient for case in datalist.section("labels", side)} for side in cases.SECTIONS}
    assert sides == {side: set(trained.result[side]) for side in cases.SECTIONS}
    assert len(datalist.cases) == trained.result["labels"] == 6


def test_everything_is_written_to_the_runs_folder(trained):
    assert trained.untouched
    names = {path.name for path in trained.run.iterdir()}
    assert {"arguments.json", "dataset.json", "labels", "learning_curves.json", "learning_curves.png"} <= names
    assert {"models", "result.json", "train.log"} <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert [path.name for path in (trained.run / "models").iterdir()] == ["model.pt"]


def test_the_status_at_the_end(trained):
    status = trained.training.status()
    assert (status.state, status.run, status.result) == ("published", trained.run.name, trained.result)
    assert (status.progress.epoch, status.progress.total_epochs) == (6, 6)
    scores = [record["val_mean_dice"] for record in status.progress.records]
    assert status.progress.best == max(scores) > 0
    assert status.seconds == trained.result["seconds"]


def test_the_status_while_it_goes_on(trained):
    running = [status for status in trained.seen if status and status.state == "running"]
    assert {0, 1} <= {status.progress.epoch for status in running}
    assert running[-1].progress.epoch == running[-1].progress.total_epochs == 6
    assert 0 < running[0].seconds < running[-1].seconds
    assert {status.state for status in trained.seen if status} <= {"running", "published"}


def test_before_the_first_training_there_is_no_status(place):
    assert place.training.status() is None


def test_the_labels_are_those_of_the_start(trained, tmp_path):
    """A label that is changed afterwards changes nothing in the run."""
    before = contents(trained.run / "labels")
    trained.label(["patient001"], tmp_path, drawn=(3,))
    assert len(before) == 6 and contents(trained.run / "labels") == before


@pytest.mark.parametrize(
    ("live", "new", "publish", "status"),
    [
        (0.9, 0.8989, True, "kept the live model"),
        (0.9, 0.8991, True, "published"),
        (0.9, 0.95, True, "published"),
        (0.9, float("nan"), True, "kept the live model"),
        (0.9, 0.95, False, "not published, as asked"),
    ],
)
def test_a_worse_model_stays_out(place, tmp_path, monkeypatch, live, new, publish, status):
    place.label(["patient001", "patient002"], tmp_path)

    def train(bundle_root, folder, overrides):
        (folder / "models").mkdir()
        shutil.copy(bundle_root / "models" / "model.pt", folder / "models")
        return 0

    def mean_dice(segmenter, held_out):
        assert {case.patient for case in held_out} == set(place.expected)
        return live if segmenter.ckpt_path == place.models.path else new

    monkeypatch.setattr(training_runs, "train", train)
    monkeypatch.setattr(training_runs, "mean_dice", mean_dice)
    place.expected = cases.stratified({"patient001": "NOR", "patient002": "MINF"}, 1, 0)
    result = place.train(publish=publish)
    assert (result["status"], result["dice"]["live"]) == (status, live)
    assert len(place.models.published) == (status == "published")


@pytest.mark.parametrize("initial", ["live", "shipped", "scratch"])
def test_where_a_training_starts(place, tmp_path, monkeypatch, initial):
    place.label(["patient001", "patient002"], tmp_path)
    place.models.path = tmp_path / "live.pt"
    seen = {}

    def train(bundle_root, folder, overrides):
        seen.update(overrides)
        return 1

    monkeypatch.setattr(training_runs, "train", train)
    place.training.overrides = {}
    with pytest.raises(RuntimeError, match=r"failed with code 1, see its train\.log"):
        place.train(initial=initial)
    shipped = place.bundle / "models" / "model.pt"
    assert seen["initial_weights"] == {"live": tmp_path / "live.pt", "shipped": shipped, "scratch": None}[initial]
    assert ("learning_rate" in seen) is (initial != "scratch")
    assert place.results()[-1]["status"] == "failed"


def prepared(place, monkeypatch, **request) -> tuple[cases.Datalist, dict]:
    """The datalist that a training would use, and what it would say, without training."""
    monkeypatch.setattr(training_runs, "train", lambda *_: 1)
    with pytest.raises(RuntimeError):
        place.train(**request)
    result = place.results()[-1]
    return cases.read(place.training.folder / result["run"] / "dataset.json"), result


def test_labels_of_unequal_completeness(place, tmp_path, monkeypatch):
    place.label(["patient001"], tmp_path)
    place.label(["patient002"], tmp_path, drawn=(3,))
    place.label(["patient003"], tmp_path, slices=[1, 2])
    datalist, result = prepared(place, monkeypatch)
    assert result["validation"] == ["patient001"]  # the only one whose labels say all
    kinds = {case.patient: (case.structures, case.slices) for case in datalist.cases}
    assert kinds == {
        "patient001": ((1, 2, 3), ()),
        "patient002": ((3,), ()),
        "patient003": ((1, 2, 3), (1, 2)),
    }


def test_incomplete_labels_of_who_validates_are_left_out(place, tmp_path, monkeypatch):
    place.label(["patient001", "patient002"], tmp_path, drawn=(3,))
    first = next(entry for entry in place.library.entries() if entry.patient == "patient001")
    [reference] = place.phantoms.rglob(f"{first.case}_gt.nii.gz")
    place.library.save(first.id, reference, "final", {})
    datalist, result = prepared(place, monkeypatch)
    assert (result["validation"], result["training"]) == (["patient001"], ["patient002"])
    assert [case.name for case in datalist.section("labels", "validation")] == [first.id]
    assert len(datalist.section("labels", "training")) == 2


def test_who_the_live_model_was_trained_on_does_not_validate(tmp_path, phantom_acdc, small_bundle, monkeypatch):
    known = ("patient001", "patient002", "patient004", "patient005")
    place = Place(tmp_path, phantom_acdc, small_bundle, trained_on=known)
    place.label([*known, "patient003"], tmp_path)
    for seed in range(3):
        _, result = prepared(place, monkeypatch, seed=seed, val_fraction=0.4)
        assert (result["validation"], result["live_trained_on"]) == (["patient003"], [])


def test_where_it_was_trained_on_all_the_result_says_so(tmp_path, phantom_acdc, small_bundle, monkeypatch):
    place = Place(tmp_path, phantom_acdc, small_bundle, trained_on=("patient001", "patient002"))
    place.label(["patient001", "patient002"], tmp_path)
    _, result = prepared(place, monkeypatch)
    assert result["live_trained_on"] == result["validation"] and len(result["validation"]) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "with final labels: 0, with complete ones: 0; expected two: one to train"),
        ({"patient001": (1, 2, 3)}, "with final labels: 1, with complete ones: 1; expected two: one to train"),
        (
            {"patient001": (3,), "patient002": (3,)},
            "with final labels: 2, with complete ones: 0; expected two: one to train",
        ),
    ],
)
def test_too_few_labels_are_refused(place, tmp_path, labels, message):
    for patient, drawn in labels.items():
        place.label([patient], tmp_path, drawn=drawn)
    with pytest.raises(InputError, match=message):
        place.train()
    status = place.training.status()
    assert (status.state, status.progress.epoch, status.progress.records) == ("failed", 0, ())
    assert re.search(message, status.result["error"])


def test_all_that_is_wrong_with_a_request_is_said():
    request = {"max_epochs": 0, "max_minutes": "soon", "val_fraction": 1, "seed": -1, "initial": "x", "publish": "yes"}
    with pytest.raises(InputError) as caught:
        Options.of(request | {"device": 7})
    assert [problem.split(", expected")[0] for problem in caught.value.problems] == [
        "max_epochs is 0",
        "max_minutes is 'soon'",
        "initial is 'x'",
        "val_fraction is 1.0",
        "device is 7",
        "seed is -1",
        "publish is 'yes'",
    ]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, Options()),
        ({"model": "cardiac_cine", "cardiac_cine": {}}, Options()),
        ({"initial": ["shipped", "live"], "device": ["cuda:0", "cpu"]}, Options(initial="shipped", device="cuda:0")),
        ({"max_epochs": "20", "max_minutes": "1.5", "seed": 3.0}, Options(max_epochs=20, max_minutes=1.5, seed=3)),
    ],
)
def test_requests_as_clients_send_them(request_, expected):
    options = Options.of(request_)
    assert options == expected
    assert all(type(value) is type(getattr(expected, key)) for key, value in asdict(options).items())


def test_of_trainings_that_begin_at_once_one_goes_on(place, tmp_path, monkeypatch):
    place.label(["patient001", "patient002"], tmp_path)
    status, running = LabelTraining.status, threading.Event()

    def slow_status(training):
        found = status(training)
        running.wait(0.3)  # as long as the other one may take to look as well
        return found

    def train(*_):
        running.wait(10)
        return 1

    monkeypatch.setattr(LabelTraining, "status", slow_status)
    monkeypatch.setattr(training_runs, "train", train)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(place.train) for _ in range(2)]
        refused, *_ = wait(jobs, return_when=FIRST_COMPLETED).done
        running.set()
    with pytest.raises(InputError, match="is still running, expected one at a time"):
        refused.result()
    assert len(place.results()) == 1


CHILD = """
import json, sys
from pathlib import Path
from filelock import FileLock
from cardiac_cine.annotation.label_training import LabelTraining, Options
from cardiac_cine.annotation.library import Library
from cardiac_cine.annotation.sources import LocalSource
from cardiac_cine.annotation.model_versions import ModelVersions
studies, root, lock, bundle, overrides, options = sys.argv[1:]
root, lock, bundle = Path(root), FileLock(lock), Path(bundle)
models = ModelVersions(root / "models", lock, bundle, "cpu")
training = LabelTraining(root, lock, models, bundle, json.loads(overrides))
training.train(Library(LocalSource(studies), root, lock), Options(**json.loads(options)))
"""


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_killed_at_any_moment_nothing_is_lost_and_the_next_training_works(place, tmp_path):
    place.with_real_models().label(["patient001", "patient002"], tmp_path)
    kept = contents(place.root / "labels" / "versions"), contents(place.bundle)
    for target, expected in (("the app's process", "interrupted"), ("the training itself", "stopped")):
        parent = start(place)
        while not (children := children_of(parent.pid)) and parent.poll() is None:
            time.sleep(0.05)
        assert place.training.status().state == "running"
        with pytest.raises(InputError, match="is still running, expected one at a time"):
            place.train()
        time.sleep(random.uniform(0, 15))
        os.kill(parent.pid if target == "the app's process" else children[0], signal.SIGKILL)
        parent.communicate(timeout=60)
        deadline = time.monotonic() + 10
        while is_running(children[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(children[0])
        assert place.training.status().state == expected
        assert (contents(place.root / "labels" / "versions"), contents(place.bundle)) == kept
        assert place.models.live.sha256 == sha256(place.bundle / "models" / "model.pt")
    assert place.train()["status"] == "published"


def start(place: Place) -> subprocess.Popen:
    """Start a training that would go on for minutes in a process of its own, as the server does."""
    given = [str(path) for path in (place.phantoms, place.root, place.lock.lock_file, place.bundle)]
    # Without patience it would end by itself after ten validations that do not gain, within seconds on a fast machine.
    given += [json.dumps(OVERRIDES | {"patience": None}), json.dumps(asdict(replace(QUICK, max_epochs=10_000)))]
    environment = os.environ | {"PYTHONPATH": str(BUNDLE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, *given], env=environment, stderr=subprocess.PIPE)

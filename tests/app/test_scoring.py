import itertools
import json
import multiprocessing
import os
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("monailabel", reason="needs the app's packages: pip install -r requirements-app.txt")

from cardiac_cine.annotation.active_learning import DESCRIPTORS
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.datasets.phantom import PhantomSpec, render, write_cine, write_frame
from cardiac_cine.errors import InputError
from cardiac_cine.labels import STRUCTURE_KEYS
from monailabel_app.lib.datastore import CineDatastore
from monailabel_app.lib.scoring import NICENESS, CineScores
from monailabel_app.lib.sources import open_source
from monailabel_app.lib.state import State
from monailabel_app.lib.strategies import all_strategies

REPO = Path(__file__).resolve().parents[2]
BUNDLE = REPO / "bundle"
SMALL = {"shape": (112, 112), "spacing_mm": (2.0, 2.0, 24.0), "oblique": False}
NUMBERS = ("uncertainty", *(f"uncertainty_{key}" for key in STRUCTURE_KEYS), "spread_lv_ef_points")


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """Two cines of eight phases, one of which cannot be read, and a frame."""
    root = tmp_path_factory.mktemp("studies")
    cine = render(PhantomSpec(phases=8, **SMALL))
    write_cine(cine, root / "anna" / "anna_4d.nii.gz")
    write_cine(cine, root / "cyd" / "cyd_4d.nii.gz")
    frame = render(PhantomSpec(phases=2, seed=1, **SMALL), frames=[0])
    write_frame(frame, 0, root / "ben" / "ben_frame01.nii.gz", root / "ben" / "ben_frame01_gt.nii.gz")
    return root


@pytest.fixture
def state(tmp_path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def datastore(studies, state, monkeypatch) -> CineDatastore:
    datastore = CineDatastore(open_source(str(studies), state.cache), state)
    read = datastore.cine

    def cine(case):
        if case.startswith("cyd"):
            raise InputError(f"{studies}/cyd/cyd_4d.nii.gz: cannot be read")
        return read(case)

    monkeypatch.setattr(datastore, "cine", cine)
    return datastore


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> ModelVersions:
    return ModelVersions(tmp_path_factory.mktemp("models"), nullcontext(), BUNDLE, "cpu")


class FastModels:
    """A model that finds the same in every image, and can be replaced."""

    def __init__(self):
        self.sha256, self.runs = "first", 0

    @property
    def live(self):
        return SimpleNamespace(sha256=self.sha256)

    def current(self):
        self.runs += 1
        raise InputError(f"no weights for {self.sha256}")


def test_the_whole_of_it_with_the_shipped_network(datastore, state, shipped):
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    result = {}
    worker = threading.Thread(target=lambda: result.update(CineScores(state, shipped)({}, datastore), nice=_nice()))
    worker.start()
    worker.join()
    assert result["nice"] == max(nice, NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == nice
    entries = datastore.entries()
    cases = {case: [e for e in entries if e.case == case] for case in {e.case for e in entries}}
    anna, ben, cyd = (cases[case] for case in sorted(cases))
    assert result["scored"] == 3
    assert result["failed"].keys() == {entry.id for entry in cyd}
    assert "cannot be read" in result["failed"][cyd[0].id]

    live = state.scores.all(shipped.live.sha256)
    assert [entry.key for entry in anna] == ["ED", "ES"]
    for entry in anna:
        record = live[entry.id]
        assert all(0 < record[name] < 5 for name in NUMBERS)
        assert 0 < record["temporal"] < 0.2
        assert 0 <= record["temporal_phase"] < 0.5
        assert (len(record["features"]), len(record["descriptor"])) == (256, len(DESCRIPTORS))
    frame = live[ben[0].id]
    assert 0 < frame["uncertainty"] < 1
    assert frame["temporal"] is frame["spread_lv_ef_points"] is None
    assert datastore.get_image_info(anna[0].id)["key_phase_source"] == "model"

    shown = state.scores.shown(cyd[0].id, shipped.live.sha256)
    assert shown == {"model": shipped.live.sha256, "error": "InputError", "current": True}
    assert "features" not in state.scores.shown(anna[0].id, "another")
    assert state.scores.shown(anna[0].id, "another")["current"] is False
    assert state.scores.shown("nobody", "another") == {}

    before = state.scores.path.read_bytes()
    CineScores(state, SimpleNamespace(live=shipped.live, current=lambda: (Refused(), shipped.live.sha256)))(
        {}, datastore
    )
    assert state.scores.path.read_bytes() == before, "what the live model has scored is not scored again"
    chosen = all_strategies(state, shipped)["uncertainty"]({"client_id": "ann"}, datastore)
    assert chosen["score"] == max(record["uncertainty"] for record in live.values() if "uncertainty" in record)


class Refused:
    def segment_cine(self, cine):
        raise AssertionError(f"{cine.name} is scored already")


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_without_a_usable_model_there_are_descriptors_for_a_cold_start(datastore, state):
    models = FastModels()
    result = CineScores(state, models)({}, datastore)
    assert result["scored"] == 0
    assert len(result["failed"]) == len(datastore.list_images())
    described = [record for record in state.scores.all().values() if record["descriptor"]]
    assert len(described) == 3
    assert models.runs == 3
    CineScores(state, models)({}, datastore)
    assert models.runs == 6, "what failed is tried again"
    found = all_strategies(state, models)["first"]({}, datastore)
    assert found["reason"] == "The most typical patient, to begin with."


@pytest.mark.parametrize("content", [None, "", '{"a": ', "\udcff"])
def test_scores_that_cannot_be_read_are_none(state, content):
    if content is not None:
        state.scores.path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert state.scores.all() == {}


def test_scores_are_read_again_when_the_file_has_changed(state):
    for value in (1.0, 2.0, 3.0):
        state.scores.put({"a": {"model": "m", "uncertainty": value}})
        assert state.scores.all("m") == {"a": {"descriptor": None, "model": "m", "uncertainty": value}}
        assert state.scores.all("m") is not state.scores.all("m")
        assert state.scores.all("n") == {}


def store_for_ever(root: Path, ready) -> None:
    scores = State(root).scores
    for number in itertools.count():
        scores.put({f"case{number % 20}": {"model": "m", "features": [number] * 2000}})
        if number == 3:
            ready.set()


def test_a_kill_leaves_scores_that_can_be_read(state):
    fork = multiprocessing.get_context("fork")
    for pause in (0.0, 0.005, 0.01, 0.02):
        ready = fork.Event()
        child = fork.Process(target=store_for_ever, args=(state.root, ready))
        child.start()
        assert ready.wait(60)
        time.sleep(pause)
        child.kill()
        child.join()
        content = json.loads(state.scores.path.read_text())
        assert len(content) >= 3
        assert all(len(set(record["features"])) == 1 for record in content.values())
        with state.lock:  # and nobody is locked out
            assert state.scores.all("m")

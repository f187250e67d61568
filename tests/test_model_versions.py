import json
import shutil
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from test_inference_bundle import write_bundle

from cardiac_cine.annotation.model_versions import ModelVersions, Version
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256


class Killed(BaseException):
    """No error of the code's: it gets no chance to put anything right."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "cardiac_cine_segmentation")


@pytest.fixture
def models(tiny, tmp_path):
    return ModelVersions(tmp_path / "models", threading.RLock(), tiny, "cpu")


@pytest.fixture
def weights(tiny, tmp_path):
    """Two other sets of weights."""
    state = torch.load(tiny / "models" / "model.pt", weights_only=True)
    paths = [tmp_path / "b.pt", tmp_path / "c.pt"]
    for number, path in enumerate(paths, start=1):
        torch.save({key: value + number / 100 for key, value in state.items()}, path)
    return paths


def test_the_bundles_weights_are_live_at_first(models, tiny):
    own = sha256(tiny / "models" / "model.pt")
    assert models.live == Version(own) and models.history() == [Version(own)]
    assert models.path == tiny / "models" / "model.pt" and models.device == "cpu"
    assert models.segmenter() is models.segmenter()
    with pytest.raises(InputError, match="there is no earlier model to go back to"):
        models.rollback()


def test_publish_and_roll_back(models, tiny, weights):
    own, (b, c) = sha256(tiny / "models" / "model.pt"), map(sha256, weights)
    first = models.segmenter()
    assert models.publish(weights[0], {"dice": 0.8}, ["x"]).sha256 == b
    models.publish(weights[1], {"dice": 0.9})
    assert [(v.sha256, v.parent, v.metrics, v.trained_on) for v in models.history()] == [
        (own, "", {}, []),
        (b, own, {"dice": 0.8}, ["x"]),
        (c, b, {"dice": 0.9}, []),
    ]
    assert models.live.sha256 == c and sha256(models.path) == c
    again = models.segmenter()
    assert again is not first and models.current()[1] == c
    assert models.rollback().sha256 == b and sha256(models.segmenter().ckpt_path) == b
    assert models.rollback().sha256 == own and models.live.parent == ""
    with pytest.raises(InputError, match="no earlier"):
        models.rollback()
    assert models.publish(weights[1], {"dice": 0.9}).parent == own


def test_weights_that_are_live_already_are_no_new_version(models, weights):
    models.publish(weights[0], {})
    assert models.publish(weights[0], {"dice": 1.0}).metrics == {} and len(models.history()) == 2


@pytest.mark.parametrize("bad", ["corrupt", "other network", "not finite", "missing"])
def test_unfit_weights_never_go_live(models, weights, tmp_path, bad):
    models.publish(weights[0], {})
    before, files = models.live, sorted(path.name for path in models.path.parent.iterdir())
    path = tmp_path / "bad.pt"
    state = torch.load(weights[1], weights_only=True)
    if bad == "corrupt":
        path.write_bytes(weights[1].read_bytes()[:2000])
    elif bad == "other network":
        torch.save({"layer.weight": torch.zeros(2, 2)}, path)
    elif bad == "not finite":
        torch.save({key: value / 0 for key, value in state.items()}, path)
    with pytest.raises(FileNotFoundError if bad == "missing" else InputError):
        models.publish(path, {})
    assert models.live == before and models.segmenter()
    assert sorted(path.name for path in models.path.parent.iterdir()) == files


@pytest.mark.parametrize("files", range(5))
def test_killed_at_any_point_the_live_model_loads(models, tiny, weights, monkeypatch, files):
    """New weights, the old ones, history, live: one file more gets its name each time."""
    own, b = sha256(tiny / "models" / "model.pt"), sha256(weights[0])
    replace, named = Path.replace, []

    def name_until_killed(path, target):
        if len(named) == files:
            raise Killed
        named.append(target)
        return replace(path, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "replace", name_until_killed)
        with pytest.raises(Killed) if files < 4 else nullcontext():
            models.publish(weights[0], {"dice": 0.5})
    restarted = ModelVersions(models._folder, threading.RLock(), tiny, "cpu")
    assert restarted.live.sha256 == (b if files == 4 else own) == restarted.current()[1]
    assert restarted.live in restarted.history()
    assert restarted.publish(weights[0], {"dice": 0.7}).sha256 == b and restarted.rollback().sha256 == own


def test_what_another_process_publishes_is_seen(models, tiny, weights):
    models.segmenter()
    other = ModelVersions(models._folder, threading.RLock(), tiny, "cpu")
    other.publish(weights[0], {})
    assert models.live.sha256 == sha256(weights[0]) == models.current()[1]


def test_without_any_weights(tiny, tmp_path, weights):
    root = tmp_path / "bare"
    shutil.copytree(tiny, root)
    (root / "models" / "model.pt").unlink()
    models = ModelVersions(tmp_path / "models", threading.RLock(), root, "cpu")
    assert models.live == Version("") and models.history() == []
    with pytest.raises(InputError, match="no such file"):
        models.segmenter()
    assert models.publish(weights[0], {}).parent == ""
    assert json.loads((tmp_path / "models" / "history.json").read_text())[0]["sha256"] == sha256(weights[0])

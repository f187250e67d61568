"""What 3D Slicer's MONAI Label module does, with the client class that comes with it, against a running server.

The client is in a process of its own, as Slicer is. What stands between it and Slicer's windows is done here as
MONAILabel.py of MONAI Label 0.8.5 does it, and in the last test by that file itself. Slicer is not tested.
"""

import itertools
import json
import os
import signal
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote_plus

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from app.servers import started
from cardiac_cine.annotation.training_runs import is_owned
from cardiac_cine.labels import LV, MYO, RV

PLUGIN = Path(sysconfig.get_path("data")) / "monailabel" / "plugins" / "slicer" / "MONAILabel"
sys.path.append(str(PLUGIN))
TOKEN = "a token for these tests only"
NAMES = ["rv", "myo", "lv"]
# The shipped network, trained for a moment only.
QUICK = {"warmup_iterations": 1, "val_interval": 1}


def call(address, user, client_id, folder, method, *args, **kwargs):
    """Do in Slicer's process what MONAILabelLogic._client and one of its methods do."""
    from MONAILabelLib import MONAILabelClient

    client = MONAILabelClient(address, folder, client_id)
    if client.auth_enabled():
        client.update_auth(client.auth_token(user, TOKEN))
        assert client.auth_valid_token()
    return getattr(client, method)(*args, **kwargs)


@dataclass
class Slicer:
    """One annotator's Slicer; the module's client id is "user-xyz" as long as nobody changes it."""

    pool: ProcessPoolExecutor
    address: str
    folder: Path
    user: str = "ann"
    client_id: str = "user-xyz"

    def __call__(self, method, *args, **kwargs):
        whose = (self.address, self.user, self.client_id, str(self.folder))
        return self.pool.submit(call, *whose, method, *args, **kwargs).result()

    def options(self, section, name):
        """getParamsFromConfig: of a list, the first."""
        config = self("info")[section][name].get("config", {})
        return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}

    def next_sample(self, strategy="random", **changed):
        return self("next_sample", strategy, self.options("strategies", strategy) | changed)

    def download(self, sample):
        """SampleData.downloadFromURL, which has no token: the image's file."""
        path = self.folder / sample["name"]
        address = f"{self.address}/datastore/image?image={quote_plus(sample['id'])}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            path.write_bytes(answer.read())
        return path

    def infer(self, model, sample, **params):
        """onClickSegmentation and onClickDeepgrow: the segments by name, the params, and the mask as an image."""
        params = params | self.options("models", model) | {"result_extension": ".nrrd", "result_dtype": "uint8"}
        file, about = self("infer", model, sample["id"], params)
        names = about.get("label_names") or self("info")["models"][model]["labels"]
        image = sitk.ReadImage(file)
        return segments(image, [name for name, _ in sorted(names.items(), key=lambda item: item[1])]), about, image

    def save_label(self, sample, drawn, like):
        """onSaveLabel: segments as a NIfTI file, the first as 1, the second as 2, and their names."""
        array = np.zeros(next(iter(drawn.values())).shape, np.uint8)
        for index, inside in enumerate(drawn.values(), start=1):
            array[inside] = index
        image = sitk.GetImageFromArray(array.T)
        image.CopyInformation(like)
        sitk.WriteImage(image, str(self.folder / "segmentation.nii.gz"))
        info = [{"name": name, "idx": index} for index, name in enumerate(drawn, start=1)]
        return self("save_label", sample["id"], str(self.folder / "segmentation.nii.gz"), params={"label_info": info})


def segments(image, names):
    """ImportLabelmapToSegmentationNode with a list of segments: the first is what has value 1, and so on."""
    array = sitk.GetArrayFromImage(image).T
    return {name: array == value for value, name in enumerate(names, start=1)}


def shown(info):
    """Read /info as fetchInfo, updateGUIFromParameterNode and monitorTraining do; return the progress bars' values."""
    assert not info.get("config")  # an old server
    for model in info["models"].values():
        assert model["type"] in ("segmentation", "deepedit") and isinstance(model["description"], str)
        assert [*model["labels"]] == NAMES and model["dimension"] == 3
    stats = next(iter(info["train_stats"].values()))
    accuracy = stats.get("best_metric", 0) * 100
    current = 0 if stats.get("total_time") else stats.get("epoch", 1)
    progress = max(1, 100 * current / stats.get("total_epochs", 1))
    labelled = info["datastore"].get("completed", 0) / max(info["datastore"].get("total", 0), 1) * 100
    return {"accuracy": accuracy, "training": progress, "labelled": labelled}


def edited(value, old):
    """invalidateConfigTable: what Slicer's table of options makes of a value that nobody has changed."""
    if isinstance(old, bool | list):
        return old
    return type(old)(value) if value else old


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Five patients' cines of four phases; phases 0 and 1 are ED and ES as long as nobody says otherwise."""
    from cardiac_cine.datasets.phantom import random_spec, render, write_cine

    root = tmp_path_factory.mktemp("slicer")
    size = {"shape": (80, 80), "spacing_mm": (2.8, 2.8, 14.0), "phases": 4}
    for seed, name in enumerate(("anna", "bert", "carl", "dora", "emil")):
        cine = render(random_spec(seed, "NOR", **size))
        write_cine(cine, root / "studies" / f"{name}.nii.gz", root / "references" / f"{name}.nii.gz")
    return root


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        yield processes


@pytest.fixture(scope="module")
def place(studies, tmp_path_factory):
    with started(tmp_path_factory.mktemp("open"), studies / "studies", conf={"train_overrides": QUICK}) as place:
        yield place


@pytest.fixture(scope="module")
def guarded(studies, tmp_path_factory):
    with started(tmp_path_factory.mktemp("guarded"), studies / "studies", token=TOKEN) as place:
        yield place


@pytest.fixture
def slicer(pool, place, tmp_path):
    return Slicer(pool, place.url, tmp_path)


def reference(studies, sample):
    """What an annotator would draw: the truth, (x, y, z)."""
    masks = np.asarray(nib.load(studies / "references" / f"{sample['case']}.nii.gz").dataobj)
    return masks[..., sample["frame"]]


def test_the_modules_windows_can_show_what_info_says(slicer):
    info = slicer("info")
    assert shown(info) == {"accuracy": 0, "training": 100, "labelled": 0}
    assert [*info["labels"]] == NAMES and info["name"] == "Cardiac cine MR"
    kinds = {name: model["type"] for name, model in info["models"].items()}
    assert next(iter(kinds)) == "cardiac_cine"  # runs by itself on a new sample, where that is set
    assert kinds["cardiac_cine"] == "segmentation" and kinds["cardiac_cine_correct"] == "deepedit"
    assert [*info["trainers"]] == ["cardiac_cine"] and next(iter(info["strategies"])) == "random"
    for section in ("models", "trainers", "strategies", "scoring"):
        for name, about in info[section].items():
            assert isinstance(about["description"], str), name
            for key, value in about.get("config", {}).items():
                assert isinstance(value, bool | int | float | str) or all(type(item) is str for item in value), key
                text = "" if not value else str(value)
                assert edited(text, value) == value


def test_without_a_token_nobody_is_asked_for_one(slicer):
    from MONAILabelLib import MONAILabelClient

    assert MONAILabelClient(slicer.address).auth_enabled() is False


def test_the_whole_loop(slicer, place, studies):
    """Next sample, segment, submit, until three patients are labelled; train; and the next sample."""
    first = sample = slicer.next_sample()
    assert {"id", "name", "path", "checksum"} & {*sample} == {"id", "name", "checksum"}
    assert sample["name"] == f"{sample['id']}.nii.gz" and sample["reason"]
    labelled = {}
    for count in itertools.count(1):
        file = slicer.download(sample)
        assert sample["checksum"] == f"SHA256:{sha256(file.read_bytes()).hexdigest()}"
        image, truth = sitk.ReadImage(str(file)), reference(studies, sample)
        assert image.GetSize() == truth.shape
        found, about, mask = slicer.infer("cardiac_cine", sample)
        assert [*found] == NAMES and mask.GetSize() == image.GetSize()
        assert np.allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)
        assert np.allclose(mask.GetDirection(), image.GetDirection(), atol=1e-5)
        assert {"volumes_ml", "measurements", "quality_flags", "model", "phase", "key"} <= {*about}
        voxel_ml = np.prod(image.GetSpacing()) / 1000
        assert about["volumes_ml"]["lv_ml"] == pytest.approx(found["lv"].sum() * voxel_ml, rel=1e-4)
        assert overlap(found["lv"], truth == LV) > 0.8
        # Slicer shows what a model made before, under "original", when a sample is opened.
        known = slicer("datastore")["objects"][sample["id"]]["labels"]["original"]["info"]
        assert not known.get("params", {}).get("label_names")  # so it takes the names of /info, in their order
        assert (
            sitk.GetArrayFromImage(sitk.ReadImage(slicer("download_label", sample["id"], "original"))).T == LV
        ).sum()
        drawn = {"rv": truth == RV, "myo": truth == MYO, "lv": truth == LV}
        answer = slicer.save_label(sample, drawn, like=image)
        assert answer["image"] == answer["label"] == sample["id"]
        # The module shows the whole answer as details of its message.
        assert answer["volumes_ml"]["lv_ml"] == pytest.approx((truth == LV).sum() * voxel_ml, rel=1e-4)
        saved = sitk.ReadImage(slicer("download_label", sample["id"], "final"))
        assert np.array_equal(sitk.GetArrayFromImage(saved).T, truth)
        labelled[sample["id"]] = sample
        info = slicer("info")
        assert info["datastore"]["completed"] == count and info["datastore"]["label_tags"]["final"] == count
        if count == 3:
            break
        sample = slicer.next_sample()
        assert sample["id"] not in labelled
    assert len({sample["patient"] for sample in labelled.values()}) == 3

    before = slicer.infer("cardiac_cine", first)[1]["model"]
    options = slicer.options("trainers", "cardiac_cine") | {"max_epochs": 1, "initial": "live"}
    status = slicer("train_start", "cardiac_cine", options)
    assert status["id"] and status["start_ts"] and status["status"] in ("SUBMITTED", "RUNNING")
    end = time.monotonic() + 300
    while (status := slicer("train_status"))["status"] in ("SUBMITTED", "RUNNING") and time.monotonic() < end:
        assert 1 <= shown(slicer("info"))["training"] <= 100
        time.sleep(0.5)
    assert status["status"] == "DONE", status["details"]
    assert str(place.root) not in json.dumps(status)
    assert slicer("train_status", True) is False
    info = slicer("info")
    stats = info["train_stats"]["cardiac_cine"]
    assert (stats["epoch"], stats["total_epochs"]) == (1, 1) and stats["total_time"]
    assert shown(info)["accuracy"] == pytest.approx(100 * stats["best_metric"])
    assert stats["status"] in ("published", "kept the live model")

    sample = slicer.next_sample()
    assert sample["id"] not in labelled
    found, about, _ = slicer.infer("cardiac_cine", sample)
    assert (about["model"] != before) is (stats["status"] == "published")
    assert found["lv"].any()
    # The ejection fraction is there once ED and ES have a mask, a person's or the model's.
    assert about["measurements"] == {}
    images = {image_id: known["image"]["info"] for image_id, known in slicer("datastore")["objects"].items()}
    [other] = [key for key, info in images.items() if info["case"] == first["case"] and key != first["id"]]
    assert 0 < slicer.infer("cardiac_cine", {"id": other})[1]["measurements"]["lv_ef_percent"] < 100


def test_clicks_correct_the_structures_they_name(slicer, studies):
    """The module sends the points of all segments by name; a structure that is not in the answer stays in its place."""
    sample = slicer.next_sample("first")
    image, truth = sitk.ReadImage(str(slicer.download(sample))), reference(studies, sample)
    slicer.save_label(sample, {"rv": truth < 0, "myo": truth < 0, "lv": truth == LV}, like=image)
    inside = np.argwhere(truth == MYO)
    z = int(np.median(inside[:, 2]))
    click = inside[inside[:, 2] == z][0].tolist()
    found, about, _ = slicer.infer(
        "cardiac_cine_correct", sample, label="myo", rv=[], myo=[click], lv=[], reset_state=True
    )
    assert found["myo"][tuple(click)]
    assert about["changed_slices"] == [z + 1]
    elsewhere = np.arange(truth.shape[2]) != z
    assert (found["lv"] == (truth == LV))[..., elsewhere].all()
    assert not found["rv"][..., elsewhere].any()


def test_clicks_as_foreground_and_background(slicer, studies):
    """What the module sends of a model without labels, and other clients do."""
    sample = slicer.next_sample()
    slicer.infer("cardiac_cine", sample)
    truth = reference(studies, sample)
    inside, outside = np.argwhere(truth == LV)[0].tolist(), [1, 1, 0]
    found, _, _ = slicer.infer("cardiac_cine_correct", sample, label="lv", foreground=[inside], background=[outside])
    assert found["lv"][tuple(inside)]
    assert not any(structure[tuple(outside)] for structure in found.values())


def test_a_wrong_segment_is_refused_in_words(slicer):
    sample = slicer.next_sample()
    image = sitk.ReadImage(str(slicer.download(sample)))
    drawn = np.zeros(image.GetSize(), bool)
    drawn[2, 2, 2] = True
    with pytest.raises(Exception, match="Status: 400") as refused:
        slicer.save_label(sample, {"atrium": drawn}, like=image)
    # What the module shows.
    assert "the label holds the segment 'atrium', expected one of rv, myo, lv" in refused.value.msg


def label_every_ed(slicer, studies):
    for image_id, known in slicer("datastore")["objects"].items():
        sample = {"id": image_id, **known["image"]["info"]}
        if sample["key"] == "ED":
            truth = reference(studies, sample)
            drawn = {"rv": truth == RV, "myo": truth == MYO, "lv": truth == LV}
            slicer.save_label(sample, drawn, like=sitk.ReadImage(str(slicer.download(sample))))


def test_a_training_can_be_stopped(slicer, studies):
    label_every_ed(slicer, studies)
    slicer("train_start", "cardiac_cine", slicer.options("trainers", "cardiac_cine") | {"publish": False})
    end = time.monotonic() + 120
    while (info := slicer("info"))["train_stats"]["cardiac_cine"].get("status") != "running" and time.monotonic() < end:
        shown(info)
        time.sleep(0.2)
    assert shown(info)["accuracy"] == 0 and slicer("train_status", True) is True
    stopped = slicer("train_stop")
    assert stopped["status"] == "STOPPED" and stopped["end_ts"] and stopped["details"][-1]
    assert slicer("train_status", True) is False
    while (info := slicer("info"))["train_stats"]["cardiac_cine"]["status"] == "running" and time.monotonic() < end:
        time.sleep(0.1)  # until the system has ended the process
    assert info["train_stats"]["cardiac_cine"]["status"] == "interrupted"
    assert shown(info)["accuracy"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends it")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_ends_with_the_server(pool, studies, tmp_path, how):
    with started(tmp_path, studies / "studies", conf={"train_overrides": QUICK}) as place:
        slicer = Slicer(pool, place.url, tmp_path)
        label_every_ed(slicer, studies)
        slicer("train_start", "cardiac_cine", slicer.options("trainers", "cardiac_cine"))
        end = time.monotonic() + 120
        while not (runs := [*filter(is_owned, place.state.glob("training/*"))]) and time.monotonic() < end:
            time.sleep(0.1)
        [run] = runs
        os.kill(place.pid, how)
        while is_owned(run) and time.monotonic() < end:
            time.sleep(0.1)
        assert not is_owned(run) and not (run / "result.json").exists()


def test_scores_are_computed_beside(slicer):
    """Slicer's module does not ask for scores; whoever does sees whether they are being computed."""
    started = requests.post(f"{slicer.address}/scoring/cine_scores", json={}, timeout=60).json()
    assert started["status"] in ("SUBMITTED", "RUNNING")
    shown(slicer("info"))
    assert requests.get(f"{slicer.address}/scoring/", timeout=60).json()["id"] == started["id"]
    assert requests.delete(f"{slicer.address}/scoring/", timeout=60).status_code == 200


def test_with_a_token(pool, guarded, tmp_path):
    slicer = Slicer(pool, guarded.url, tmp_path)
    from MONAILabelLib import MONAILabelClient, MONAILabelClientException

    client = MONAILabelClient(guarded.url)
    assert client.auth_enabled() is True
    with pytest.raises(MONAILabelClientException) as refused:
        client.info()
    assert refused.value.status_code == 401
    with pytest.raises(MONAILabelClientException) as refused:
        client.auth_token("ann", "guessed")
    assert refused.value.status_code == 401
    assert shown(slicer("info"))
    sample = slicer.next_sample()
    # The module downloads images without its token.
    with pytest.raises(urllib.error.HTTPError, match="401"):
        slicer.download(sample)
    token = client.auth_token("ann", TOKEN)["access_token"]
    told = requests.get(f"{guarded.url}/cine/slicer", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    carried = Slicer(pool, told.json()["server"], tmp_path)
    assert MONAILabelClient(carried.address).auth_enabled() is False
    assert carried.next_sample()["id"] == sample["id"]
    image = sitk.ReadImage(str(carried.download(sample)))
    found, _, mask = carried.infer("cardiac_cine", sample)
    carried.save_label(sample, found, like=mask)
    assert mask.GetSize() == image.GetSize()
    audited = [json.loads(line) for line in (guarded.state / "audit.jsonl").read_text().splitlines()]
    assert {line["user"] for line in audited if line["action"] != "sign-in refused"} == {"ann"}
    assert TOKEN not in guarded.log and token not in guarded.log


def test_two_annotators_never_get_the_same_case(pool, guarded, tmp_path):
    ann, bob = (Slicer(pool, guarded.url, tmp_path, name) for name in ("ann", "bob"))
    samples = [ann.next_sample(), bob.next_sample("diversity"), ann.next_sample("uncertainty"), bob.next_sample()]
    assert samples[0]["id"] == samples[2]["id"] and samples[1]["id"] == samples[3]["id"]
    assert samples[0]["case"] != samples[1]["case"]
    skipped = ann.next_sample(skip=samples[0]["id"])
    assert skipped.get("case") not in (samples[0]["case"], samples[1]["case"])


def use_the_module(address, folder, truth_of):
    """In a process of its own: press the buttons of the module, and return what came of it."""
    from app.slicer_module import Box, open_module

    window = open_module(address, folder)
    window.onClickFetchInfo()
    options = {}
    for section in range(4):
        window.ui.optionsSection.setCurrentIndex(section)
        window.onSelectOptionsSection(section)
        for index, name in enumerate([*window.ui.optionsName.items]):
            window.ui.optionsName.setCurrentIndex(index)
            window.onSelectOptionsName(index)
            kind = window.ui.optionsSection.currentText
            options[kind, name] = window.getParamsFromConfig(kind, name)
    window.onNextSampleButton()
    sample = dict(window.current_sample)
    window.ui.segmentationModelSelector.currentText = "cardiac_cine"
    window.onClickSegmentation()
    segmented = {name: segment.inside for name, segment in window._segmentNode.items()}
    truth = np.load(truth_of[sample["id"]])
    click = np.argwhere((truth == LV) & segmented["lv"])[0].tolist()
    window.getControlPointsXYZ = lambda node, name: [click] if name == "foreground" else []
    window.ui.labelComboBox.currentText = "rv"
    window.onClickDeepgrow(None)
    corrected = {name: segment.inside for name, segment in window._segmentNode.items()}
    for value, segment in enumerate(window._segmentNode.values(), start=1):
        segment.inside = truth == value
    window.onSaveLabel()
    said = sys.modules["slicer"].shown[-1]
    window.onTraining()
    bars = []  # until the first epoch begins, when there is no accuracy yet
    while window.isTrainingRunning() and window.info["train_stats"]["cardiac_cine"].get("status") != "running":
        window.monitorTraining()
        bars.append((window.ui.trainingProgressBar.value, window.ui.accuracyProgressBar.value))
        window.fetchInfo()
        time.sleep(0.2)
    window.onStopTraining()
    window.onNextSampleButton()
    return {
        "options": options,
        "boxes": {name: box.items for name, box in vars(window.ui).items() if isinstance(box, Box)},
        "sample": sample,
        "overlap": overlap(segmented["lv"], truth == LV),
        "clicked": bool(corrected["rv"][tuple(click)]),
        "said": json.loads(said),
        "bars": bars,
        "labelled": window.ui.activeLearningProgressBar.value,
        "next": window.current_sample["id"],
    }


def test_the_modules_own_code(pool, place, studies, tmp_path):
    slicer, truth_of = Slicer(pool, place.url, tmp_path), {}
    for image_id, known in slicer("datastore")["objects"].items():
        truth_of[image_id] = str(tmp_path / f"{image_id}.npy")
        np.save(truth_of[image_id], reference(studies, known["image"]["info"]))
    before = slicer("info")
    came = pool.submit(use_the_module, place.url, tmp_path, truth_of).result()
    assert came["boxes"]["segmentationModelSelector"] == ["cardiac_cine", "cardiac_cine_propagate"]
    assert came["boxes"]["deepgrowModelSelector"] == ["cardiac_cine_correct"]
    assert came["boxes"]["strategyBox"] == [*before["strategies"]] and came["boxes"]["trainerBox"] == ["cardiac_cine"]
    assert came["options"]["infer", "cardiac_cine"] == {"whole_cine": False}
    assert came["options"]["train", "cardiac_cine"] == {
        **before["trainers"]["cardiac_cine"]["config"],
        **{"initial": "live", "device": "cpu"},
    }
    assert came["overlap"] > 0.8 and came["clicked"]
    assert came["said"]["label"] == came["sample"]["id"] != came["next"]
    assert came["said"]["volumes_ml"]["lv_ml"] > 0
    assert all(1 <= progress <= 100 and accuracy == 0 for progress, accuracy in came["bars"])
    labelled = before["datastore"]["completed"] + 1
    assert came["labelled"] == pytest.approx(100 * labelled / before["datastore"]["total"])


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())

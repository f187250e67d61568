import json
import shutil
import tempfile
from contextlib import nullcontext
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE

pytest.importorskip("monailabel", reason="needs the app's packages: pip install -r requirements-app.txt")

import segment

from cardiac_cine.annotation.jobs import JobCancelledError, Jobs
from cardiac_cine.annotation.mask_files import write_for_viewer
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.annotation.sources import LocalSource
from cardiac_cine.datasets.phantom import PhantomSpec, render, write_cine
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256
from cardiac_cine.labels import LV, RV
from cardiac_cine.workflow import segment_study
from monailabel_app.lib.access import upload_folder
from monailabel_app.lib.datastore import DRAWN, FINAL, ORIGINAL, CineDatastore
from monailabel_app.lib.infer import CineSegmentation, Correction, Propagation
from monailabel_app.lib.state import State

ID = "heart_phase02"
OTHER = "heart_phase03"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One cine of four phases."""
    folder = tmp_path_factory.mktemp("studies")
    spec = PhantomSpec(shape=(112, 128), spacing_mm=(2.0, 2.0, 12.0), phases=4, centre_mm=(0.0, 0.0))
    write_cine(render(spec), folder / "heart.nii.gz")
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One model for all tests, loaded once."""
    return ModelVersions(tmp_path_factory.mktemp("models"), nullcontext(), BUNDLE, "cpu")


@pytest.fixture
def app(studies, shared, tmp_path):
    datastore, jobs = CineDatastore(LocalSource(studies), State(tmp_path / "state")), Jobs()
    parts = (datastore, shared, jobs)
    return SimpleNamespace(
        datastore=datastore,
        cine=datastore.cine("heart"),
        segmenter=shared.segmenter(),
        jobs=jobs,
        segmentation=CineSegmentation(*parts),
        correction=Correction(*parts),
        propagation=Propagation(*parts),
    )


def ask(task, image_id=ID, **request):
    path, params = task({"image_id": image_id, "image": "unused", **request})
    mask = np.asarray(nib.load(path).dataobj) if path.endswith(".nii.gz") else None
    Path(path).unlink()
    json.dumps(params, allow_nan=False)
    return mask, params


def test_what_clients_are_told(app):
    for task in (app.segmentation, app.correction, app.propagation):
        info = json.loads(json.dumps(task.info()))
        assert info["labels"] == {"rv": 1, "myo": 2, "lv": 3} and info["dimension"] == 3 and task.is_valid()
    assert app.segmentation.info()["type"] == "segmentation" and app.segmentation.config() == {"whole_cine": False}
    assert app.correction.info()["type"] == "deepedit" and app.propagation.config() == {"reach": 1}


def test_a_phase_is_segmented_as_the_script_does(app, studies, tmp_path):
    mask, params = ask(app.segmentation)
    np.testing.assert_array_equal(mask, app.segmenter.segment_cine(app.cine.single_phase(1))[..., 0])
    frame = tmp_path / "frame.nii.gz"
    nib.save(nib.Nifti1Image(app.cine.array[..., 1], app.cine.affine), frame)
    segment.segment(str(frame), output_dir=str(tmp_path / "out"), device="cpu", report=False)
    np.testing.assert_array_equal(mask, nib.load(tmp_path / "out" / "frame" / "frame_seg.nii.gz").get_fdata())
    assert params["label_names"] == {"rv": 1, "myo": 2, "lv": 3} and params["phase"] == 2 and params["key"] == "ES"
    assert params["model"] == sha256(BUNDLE / "models" / "model.pt") and params["measurements"] == {}
    assert set(params["latencies"]) == {"wait", "infer", "total"}
    np.testing.assert_array_equal(app.datastore.label_array(ID, ORIGINAL), mask)
    assert app.datastore.get_image_info(ID)["result"]["volumes_ml"] == params["volumes_ml"]


def test_the_ejection_fraction_comes_with_the_second_key_phase(app):
    _, ed = ask(app.segmentation, "heart_phase01")
    _, es = ask(app.segmentation, ID)
    measured = es["measurements"]
    assert (ed["key"], es["key"], es["key_phase_source"]) == ("ED", "ES", "guess")
    volumes = ed["volumes_ml"]["lv_ml"], es["volumes_ml"]["lv_ml"]
    assert measured["lv_ef_percent"] == pytest.approx(100 * (1 - volumes[1] / volumes[0]))
    assert (measured["ed_frame"], measured["es_frame"]) == (0, 1)


def test_a_whole_cine_is_segmented_at_once(app, monkeypatch):
    doubt = {"rv": 0.9, "myo": 0.5, "lv": 0.99}
    monkeypatch.setattr(type(app.segmenter), "agreement", lambda *_: doubt)
    mask, params = ask(app.segmentation, whole_cine=True)
    masks, _ = segment_study(app.segmenter, app.cine)
    np.testing.assert_array_equal(mask, masks[..., 1])
    for entry in app.datastore.phases_of("heart"):
        np.testing.assert_array_equal(app.datastore.label_array(entry.id, ORIGINAL), masks[..., entry.phase])
    measured = params["measurements"]
    assert len(measured["lv_volume_ml"]) == 4 and params["key_phase_source"] == "model"
    keys = {entry.key: entry.phase for entry in app.datastore.phases_of("heart")}
    assert (keys["ED"], keys["ES"]) == (measured["ed_frame"], measured["es_frame"])
    assert params["agreement"] == doubt
    assert {"few_phases", "low_confidence"} <= {flag["code"] for flag in params["quality_flags"]}


@pytest.mark.parametrize("request_", [{}, {"asked": False}, {"whole_cine": True}])
def test_what_is_drawn_by_hand_and_not_saved_stays(app, request_):
    drawn = np.zeros(app.cine.array.shape[:3], np.uint8)
    drawn[40:60, 40:60, 1] = LV
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        write_for_viewer(drawn, app.cine.affine, Path(file.name))
        app.datastore.save_label(ID, file.name, ORIGINAL, {"source": DRAWN})
    mask, _ = ask(app.segmentation, **request_)
    assert (mask != drawn).any()
    np.testing.assert_array_equal(app.datastore.label_array(ID, ORIGINAL), drawn)
    assert app.datastore.get_label_info(ID, ORIGINAL)["source"] == DRAWN


def test_a_cancelled_cine_stops_and_leaves_nothing(app, monkeypatch):
    run = app.jobs.run

    def cancelled_at_once(kind, image, function):
        def cancel_then(job):
            job.cancelled = True
            return function(job)

        return run(kind, image, cancel_then)

    monkeypatch.setattr(app.jobs, "run", cancelled_at_once)
    with pytest.raises(JobCancelledError):
        ask(app.segmentation, whole_cine=True)
    assert app.datastore.label_array(ID, ORIGINAL) is None
    monkeypatch.undo()
    assert ask(app.segmentation)[0].any()


def test_the_viewer_gets_its_format(app):
    path, _ = app.segmentation({"image_id": ID, "result_extension": ".nrrd"})
    assert path.endswith(".nrrd") and b"encoding: raw" in Path(path).read_bytes()[:600]
    Path(path).unlink()
    with pytest.raises(InputError, match=r"result_extension must be .nii.gz, .nii or .nrrd, got '.exe'"):
        app.segmentation({"image_id": ID, "result_extension": ".exe"})


def test_clicks_change_the_slices_they_are_in(app):
    before, _ = ask(app.segmentation)
    z = 2
    x, y = (int(places.mean()) for places in np.nonzero(before[..., z] == LV))
    after, params = ask(app.correction, rv=[[x, y, z]], lv=[], myo=[], background=[], label="rv")
    assert after[x, y, z] == RV and params["changed_slices"] == [z + 1]
    others = np.arange(after.shape[2]) != z
    np.testing.assert_array_equal(after[..., others], before[..., others])
    np.testing.assert_array_equal(app.datastore.label_array(ID, ORIGINAL), before)  # a proposal for now
    again, _ = ask(app.correction, foreground=[[x, y, z]], label="rv")
    np.testing.assert_array_equal(again, after)


def test_the_second_click_needs_no_network(app, monkeypatch):
    ask(app.correction, background=[[5, 5, 0]])
    monkeypatch.setattr(type(app.segmenter), "predict", None)
    ask(app.correction, background=[[5, 6, 0]])


def test_clicks_in_an_image_that_was_replaced_are_about_the_new_one(app, studies, tmp_path):
    cine, studies = app.cine, shutil.copytree(studies, tmp_path / "studies")
    app.correction.datastore = datastore = CineDatastore(LocalSource(studies), State(tmp_path / "other"))
    ask(app.correction, background=[[0, 0, 0]])
    for array in (np.roll(cine.array, 20, axis=0), np.ascontiguousarray(cine.array[:, :, :-1])):
        nib.save(nib.Nifti1Image(array, cine.affine), studies / "heart.nii.gz")
        datastore.refresh()
        anew = Correction(datastore, app.correction.models, app.jobs)
        found, expected = (ask(task, background=[[0, 0, 0]])[0] for task in (app.correction, anew))
        assert expected.any()
        np.testing.assert_array_equal(found, expected)


def test_what_is_corrected_is_the_upload_else_the_latest_label(app):
    network, _ = ask(app.correction, background=[[0, 0, 0]])
    drawn = np.zeros_like(network)
    drawn[40:60, 40:60, 1] = LV
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(suffix=".nii.gz", dir=folder) as file:
        write_for_viewer(drawn, app.cine.affine, Path(file.name))
        app.datastore.save_label(ID, file.name, FINAL, {})
        np.testing.assert_array_equal(ask(app.correction, background=[[0, 0, 0]])[0], drawn)
        drawn[50, 50, 1] = RV
        write_for_viewer(drawn, app.cine.affine, Path(file.name))
        within = copy_context()
        within.run(upload_folder.set, folder)
        asked = {"background": [[0, 0, 0]], "label": file.name}
        np.testing.assert_array_equal(within.run(ask, app.correction, **asked)[0], drawn)
        with pytest.raises(InputError, match="or a file that is uploaded"):
            ask(app.correction, **asked)  # by another request
        with pytest.raises(InputError, match="or a file that is uploaded"):
            within.run(ask, app.correction, **asked | {"label": f"{folder}/../{Path(file.name).name}"})
    ask(app.segmentation)
    np.testing.assert_array_equal(ask(app.correction, background=[[0, 0, 0]])[0], network)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "there are no points in the request"),
        ({"lv": [[500, 0, 0]]}, r"lv at \[500, 0, 0\], expected three indices within"),
        ({"lv": 7}, "not iterable"),
        ({"foreground": [[1, 1, 1]]}, "'None', expected one of"),
        ({"lv": [[1, 1, 1]], "label": "/etc/passwd"}, "label must be one of rv, myo, lv, or a file that is uploaded"),
        ({"lv": [[1, 1, 1]], "label": "../x.nii.gz"}, "or a file that is uploaded"),
        ({"lv": [[1, 1, 1]], "label": "x.nii.gz"}, "or a file that is uploaded"),
    ],
)
def test_wrong_clicks(app, request_, message):
    with pytest.raises(InputError, match=message):
        ask(app.correction, **request_)


def test_a_saved_label_is_carried_to_the_neighbours_that_have_none(app):
    with pytest.raises(InputError, match="there is no label to carry on"):
        ask(app.propagation)
    label, _ = ask(app.segmentation)
    label[:, :, 3][label[:, :, 3] == RV] = 0
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        write_for_viewer(label, app.cine.affine, Path(file.name))
        app.datastore.save_label(ID, file.name, FINAL, {})
        app.datastore.save_label("heart_phase01", file.name, FINAL, {})
    mask, params = ask(app.propagation)
    np.testing.assert_array_equal(mask, label)
    assert params["carried_to"] == [OTHER]
    carried = app.datastore.label_array(OTHER, ORIGINAL)
    network = app.segmenter.segment_cine(app.cine.single_phase(2))[..., 0]
    assert (carried[:, :, 3] == RV).sum() < 0.5 * (network[:, :, 3] == RV).sum()
    others = np.arange(carried.shape[2]) != 3
    np.testing.assert_array_equal(carried[..., others], network[..., others])
    assert app.datastore.label_array("heart_phase01", ORIGINAL) is None
    # What somebody drew there, finished or not, is left as it is.
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        write_for_viewer(label, app.cine.affine, Path(file.name))
        app.datastore.save_label(OTHER, file.name, ORIGINAL, {"source": DRAWN})
    assert ask(app.propagation)[1]["carried_to"] == []
    np.testing.assert_array_equal(app.datastore.label_array(OTHER, ORIGINAL), label)
    with pytest.raises(InputError, match="reach must be a number of phases from 1 to 3, got 9"):
        ask(app.propagation, reach=9)

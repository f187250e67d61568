import inspect
import io
import json
import shutil
import zipfile
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from dicom_sources import phantom, write_cine
from monailabel.endpoints import activelearning
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from cardiac_cine.datasets.phantom import write_cine as write_nifti_cine
from cardiac_cine.errors import InputError
from monailabel_app.lib.datastore import CineDatastore
from monailabel_app.lib.sources import open_source
from monailabel_app.lib.state import State

IDS = ["PHANTOM_phase01", "PHANTOM_phase02", "one_4d_phase01", "one_4d_phase02"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_nifti_cine(phantom(), folder / "one" / "one_4d.nii.gz")
    write_cine(folder / "dicom", "slice_major")
    return folder


@pytest.fixture
def datastore(written, tmp_path):
    studies = shutil.copytree(written, tmp_path / "studies")
    state = State(tmp_path / "state")
    return CineDatastore(open_source(str(studies), state.cache), state)


def save(datastore, image_id, folder, tag="final", value=3, **info):
    image = nib.load(datastore.get_image_uri(image_id))
    mask = np.zeros(image.shape, np.uint8)
    mask[10:20, 10:20, 1:4] = value
    nib.save(nib.Nifti1Image(mask, image.affine), folder / "upload.nii.gz")
    assert datastore.save_label(image_id, str(folder / "upload.nii.gz"), tag, info) == image_id
    return mask


def read(stream):
    return nib.Nifti1Image.from_bytes(__import__("gzip").decompress(stream.read()))


def test_the_whole_interface_is_there(datastore):
    assert not inspect.isabstract(CineDatastore)
    names = [name for name in vars(Datastore) if not name.startswith("_")]
    assert len(names) > 25 and all(callable(getattr(datastore, name)) for name in names)
    assert (datastore.name(), datastore.description()) == ("cine", "Short-axis cine MR, one image a phase")
    datastore.set_name("n")
    datastore.set_description("d")
    assert (datastore.name(), datastore.description()) == ("n", "d")


def test_lists_and_counts(datastore, tmp_path):
    assert datastore.list_images() == datastore.get_unlabeled_images() == IDS
    assert datastore.status() == {
        "total": 4,
        "completed": 0,
        "label_tags": {},
        "cases": 2,
        "patients": 2,
        "problems": 0,
    }
    save(datastore, "one_4d_phase02", tmp_path)
    # A phase beyond ED and ES counts once it is labelled, so that no more are completed than there are.
    save(datastore, "one_4d_phase04", tmp_path)
    save(datastore, "one_4d_phase04", tmp_path, value=2)
    save(datastore, "PHANTOM_phase03", tmp_path, tag=DefaultLabelTag.ORIGINAL, source="drawn")
    status = datastore.status()
    assert (status["total"], status["completed"]) == (6, 2)
    assert status["label_tags"] == {"final": 2, "original": 1}
    assert datastore.get_labeled_images() == datastore.get_labeled_images(DefaultLabelTag.FINAL)
    assert datastore.get_labeled_images() == ["one_4d_phase02", "one_4d_phase04"]
    assert datastore.get_labeled_images("original") == ["PHANTOM_phase03"]
    assert datastore.get_unlabeled_images() == [*IDS[:3], "PHANTOM_phase03"]
    with pytest.raises(InputError, match="tag must be one of final, original, got 'best'"):
        datastore.get_labeled_images("best")


def test_images(datastore):
    image = nib.load(datastore.get_image_uri("one_4d_phase03"))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), phantom().image[..., 2])
    np.testing.assert_array_equal(read(datastore.get_image("one_4d_phase03")).get_fdata(), phantom().image[..., 2])
    assert isinstance(datastore.get_image("one_4d_phase03"), io.BytesIO)


def test_what_clients_show_of_an_image(datastore):
    entry = datastore.entry("PHANTOM_phase02")
    datastore.get_image_uri("PHANTOM_phase02")
    assert datastore.get_image_info(entry.series_uid) == {
        "name": "PHANTOM_phase02.nii.gz",
        "case": "PHANTOM",
        "patient": "PHANTOM",
        "group": "",
        "phase": 2,
        "frame": 1,
        "phases": 4,
        "key": "ES",
        "key_phase_source": "guess",
        "Modality": "MR",
        "PatientID": "PHANTOM",
        "StudyDate": "20240102",
        "StudyInstanceUID": entry.study_uid,
        "SeriesInstanceUID": entry.series_uid,
        "SourceSeriesInstanceUID": datastore.instances(entry.id)[0][1],
    }
    assert "StudyInstanceUID" not in datastore.get_image_info("one_4d_phase01")
    datastore.update_image_info("one_4d_phase01", {"note": "blurred", "case": "other"})
    info = datastore.get_image_info("one_4d_phase01")
    assert info["note"] == "blurred" and info["case"] == "one_4d"


def test_labels(datastore, tmp_path):
    assert datastore.get_labels_by_image_id("one_4d_phase01") == {}
    assert datastore.get_label_uri("one_4d_phase01", "final") == ""
    mask = save(datastore, "one_4d_phase01", tmp_path, user="anna")
    assert datastore.get_labels_by_image_id("one_4d_phase01") == {"final": "one_4d_phase01"}
    assert datastore.get_label_by_image_id("one_4d_phase01", "final") == "one_4d_phase01"
    assert datastore.get_label_by_image_id("one_4d_phase01", "original") == ""
    np.testing.assert_array_equal(nib.load(datastore.get_label_uri("one_4d_phase01", "final")).get_fdata(), mask)
    np.testing.assert_array_equal(read(datastore.get_label("one_4d_phase01", DefaultLabelTag.FINAL)).get_fdata(), mask)
    datastore.update_label_info("one_4d_phase01", "final", {"note": "good"})
    info = datastore.get_label_info("one_4d_phase01", "final")
    assert (info["user"], info["note"]) == ("anna", "good")
    datastore.remove_label("one_4d_phase01", "final")
    assert datastore.status()["completed"] == 0
    assert len(list((tmp_path / "state" / "labels" / "versions" / "one_4d_phase01").glob("*.nii.gz"))) == 1


def test_what_is_not_there(datastore):
    for ask in (datastore.get_image, datastore.get_image_uri, datastore.get_image_info, datastore.entry):
        with pytest.raises(ImageNotFoundException):
            ask("../../etc/passwd")
    with pytest.raises(ImageNotFoundException):
        datastore.get_label_uri("nobody", "final")
    for ask in (datastore.get_label, datastore.remove_label, lambda *args: datastore.update_label_info(*args, {})):
        with pytest.raises(LabelNotFoundException):
            ask("one_4d_phase01", "final")
    with pytest.raises(InputError, match="tag must be one of"):
        datastore.get_label_uri("one_4d_phase01", "../..")
    with pytest.raises(ImageNotFoundException):
        datastore.save_label("nobody", "nothing.nii.gz", "final", {})


@pytest.mark.parametrize("info", [None, [], "x", 1])
def test_facts_are_objects(datastore, info, tmp_path):
    save(datastore, "one_4d_phase01", tmp_path)
    for ask in (
        lambda: datastore.save_label("one_4d_phase01", str(tmp_path / "upload.nii.gz"), "final", info),
        lambda: datastore.update_image_info("one_4d_phase01", info),
        lambda: datastore.update_label_info("one_4d_phase01", "final", info),
    ):
        with pytest.raises(InputError, match="must be JSON objects"):
            ask()


def test_any_name_may_be_given_to_a_fact(datastore):
    datastore.update_image_info("one_4d_phase01", {"name": "x", "self": 1, "version": "y", "lock": 2})
    info = datastore.get_image_info("one_4d_phase01")
    assert (info["name"], info["self"], info["lock"]) == ("one_4d_phase01.nii.gz", 1, 2)


def test_the_servers_result_is_not_a_clients_to_change(datastore):
    datastore.keep_facts("one_4d_phase01", {"result": {"model": "abc"}})
    datastore.update_image_info("one_4d_phase01", {"result": 5, "note": "blurred"})
    info = datastore.get_image_info("one_4d_phase01")
    assert (info["result"], info["note"]) == ({"model": "abc"}, "blurred")


def test_each_next_sample_is_answered_in_the_servers_own_words(datastore, monkeypatch):
    offered = {
        "id": "one_4d_phase01",
        "strategy": "random",
        "reason": "By chance.",
        "score": None,
        "checksum": "SHA256:1",
    }
    app = SimpleNamespace(info=dict, next_sample=lambda request: dict(offered), datastore=lambda: datastore)
    monkeypatch.setattr(activelearning, "app_instance", lambda: app)
    others = {"path": "/etc/hostname", "locked_by": "me", "StudyInstanceUID": "1.2"}
    datastore.update_image_info("one_4d_phase01", dict.fromkeys(offered, "x") | {"strategy": {}, "note": "y"} | others)
    for _ in range(2):
        found = activelearning.sample("random", {"client_id": "me"})
        assert offered.items() <= found.items() and found["note"] == "y" and not others.keys() & found.keys()


@pytest.mark.parametrize("strategy", [5, None, "random", []])
def test_strategies_are_an_object(datastore, strategy):
    with pytest.raises(InputError, match="strategy must be JSON objects"):
        datastore.update_image_info("one_4d_phase01", {"strategy": strategy})


def test_originals_are_neither_added_nor_removed(datastore, tmp_path):
    with pytest.raises(InputError, match="added to the studies themselves"):
        datastore.add_image("../x", str(tmp_path / "x.nii.gz"), {})
    with pytest.raises(InputError, match="never removed"):
        datastore.remove_image("one_4d_phase01")
    assert datastore.list_images() == IDS


def test_exports(datastore, tmp_path):
    with pytest.raises(InputError, match="nothing is labelled yet"):
        datastore.get_dataset_archive(None)
    save(datastore, "one_4d_phase01", tmp_path)
    mask = save(datastore, "PHANTOM_phase04", tmp_path)
    assert [(item["id"], item["patient"]) for item in datastore.datalist()] == [
        ("one_4d_phase01", "one"),
        ("PHANTOM_phase04", "PHANTOM"),
    ]
    with zipfile.ZipFile(datastore.get_dataset_archive(None)) as archive:
        assert len(archive.namelist()) == 5
        about = json.loads(archive.read("metadata.json"))["objects"]
        label = read(io.BytesIO(archive.read("label/PHANTOM_phase04.nii.gz")))
        image = read(io.BytesIO(archive.read("image/PHANTOM_phase04.nii.gz")))
    np.testing.assert_array_equal(label.get_fdata(), mask)
    np.testing.assert_allclose(label.affine, image.affine)
    assert about["PHANTOM_phase04"]["labels"]["final"]["info"]["covers"]["structures"] == [3]
    with zipfile.ZipFile(datastore.get_dataset_archive(1)) as archive:
        assert sorted(archive.namelist()) == [
            "image/one_4d_phase01.nii.gz",
            "label/one_4d_phase01.nii.gz",
            "metadata.json",
        ]


def test_everything_as_json(datastore, tmp_path):
    save(datastore, "one_4d_phase01", tmp_path)
    content = json.loads(json.dumps(datastore.json()))
    assert list(content["objects"]) == IDS
    assert content["objects"]["one_4d_phase01"]["image"]["info"]["phase"] == 1
    assert list(content["objects"]["one_4d_phase01"]["labels"]) == ["final"]


def test_all_phases_where_asked_for(written, tmp_path):
    state = State(tmp_path / "state")
    datastore = CineDatastore(open_source(str(written), state.cache), state, phases="all")
    assert len(datastore.list_images()) == datastore.status()["total"] == 8

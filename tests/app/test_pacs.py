"""The datastore over a PACS: needs Orthanc with its DICOMweb plugin."""

import socket
import time

import nibabel as nib
import numpy as np
import pytest
from dicom_sources import phantom, random_masks, write_cine
from monailabel.config import settings
from orthanc import run_orthanc

from cardiac_cine.cine_files import read_cine
from cardiac_cine.datasets.dicom_cine import scan
from cardiac_cine.datasets.phantom_dicom import Series, Study, write_dicom, write_series
from cardiac_cine.errors import InputError
from monailabel_app.lib.datastore import CineDatastore
from monailabel_app.lib.sources import open_source
from monailabel_app.lib.state import State


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with run_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def open_datastore(url, root, search_filter=None):
    state = State(root)
    return CineDatastore(open_source(url, state.cache, search_filter), state)


def dice(a, b, label):
    return 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())


@pytest.mark.parametrize("layout", ["phase_major", "slice_major", "series_per_slice"])
def test_a_label_goes_to_the_pacs_and_comes_back_as_it_was(orthanc, layout, tmp_path):
    check_round_trip(orthanc, write_cine(tmp_path / "dicom", layout), tmp_path)


@pytest.mark.acdc
@pytest.mark.parametrize("layout", ["phase_major", "slice_major"])
def test_every_phase_of_a_real_cine_goes_to_the_pacs_and_comes_back(orthanc, acdc_dir, layout, tmp_path):
    real = read_cine(acdc_dir / "training" / "patient090" / "patient090_4d.nii.gz")
    times = 1000 * np.arange(real.phases) / real.phases
    array, study = real.array.astype(np.int16), Study(patient_id="patient090")
    np.testing.assert_array_equal(array, real.array)
    write_series(
        array, real.affine, tmp_path / "dicom", study=study, series=Series(times_ms=times, rr_ms=1000), layout=layout
    )
    [stack] = scan(tmp_path / "dicom").stacks
    cine = stack.read()
    np.testing.assert_array_equal(cine.array, real.array)
    np.testing.assert_allclose(cine.affine, real.affine, atol=1e-4)
    check_round_trip(orthanc, cine, tmp_path)


def check_round_trip(orthanc, cine, folder):
    orthanc.clear()
    orthanc.store_folder(folder / "dicom")
    datastore, masks = open_datastore(orthanc.dicomweb_url, folder / "first"), random_masks(cine)
    assert len(datastore.phases_of(cine.name)) == cine.phases
    for entry in datastore.phases_of(cine.name):
        image = nib.load(datastore.get_image_uri(entry.id))
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), cine.array[..., entry.phase])
        nib.save(nib.Nifti1Image(masks[..., entry.phase], image.affine), folder / "label.nii.gz")
        datastore.save_label(entry.id, str(folder / "label.nii.gz"), "final", {})
        assert datastore.get_label_info(entry.id, "final")["SeriesInstanceUID"]
    fresh = open_datastore(orthanc.dicomweb_url, folder / "second")
    for entry in fresh.phases_of(cine.name):
        label = fresh.label_array(entry.id, "final")
        assert [dice(label, masks[..., entry.phase], structure) for structure in (1, 2, 3)] == [1, 1, 1]
        np.testing.assert_array_equal(label, masks[..., entry.phase])
    for opened in (datastore, fresh):
        assert (opened.status()["total"], opened.status()["completed"]) == (cine.phases, cine.phases)
        assert opened.problems == []


@pytest.mark.parametrize("search_filter", ['{"Modality": "MR", "PatientID": "B"}', {"PatientID": "B"}])
def test_the_search_filter(orthanc, search_filter, tmp_path):
    orthanc.clear()
    for patient in "AB":
        write_dicom(phantom(), tmp_path / patient, seed=ord(patient), patient_id=patient)
        orthanc.store_folder(tmp_path / patient)
    assert open_datastore(orthanc.dicomweb_url, tmp_path / "all").list_images() == [
        *("A_phase01", "A_phase02"),
        *("B_phase01", "B_phase02"),
    ]
    filtered = open_datastore(orthanc.dicomweb_url, tmp_path / "filtered", search_filter)
    assert filtered.list_images() == ["B_phase01", "B_phase02"]


@pytest.mark.parametrize("search_filter", ["MR", "[1]", "{"])
def test_filters_that_are_none(search_filter, tmp_path):
    with pytest.raises(InputError, match="dicomweb_filter must be JSON"):
        open_source("http://127.0.0.1:1/dicom-web", tmp_path, search_filter)


def test_credentials_are_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_USERNAME", "anna")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    source = open_source("http://127.0.0.1:1/dicom-web/", tmp_path)
    assert source._client._session.auth == ("anna", "secret")
    assert source._client.base_url == "http://127.0.0.1:1/dicom-web"


def test_a_pacs_that_does_not_answer_is_told_and_makes_nobody_wait(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        datastore = open_datastore(url, tmp_path)
    assert datastore.list_images() == []
    assert datastore.status()["problems"] == 2
    assert datastore.problems[0] == f"{url}: the archive does not answer (ConnectionError)"


def test_status_does_not_wait_for_a_pacs_that_hangs(tmp_path, monkeypatch):
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}/dicom-web"
        datastore = open_datastore(url, tmp_path)
        # From now on connections are taken, and never answered.
        hanging.listen()
        monkeypatch.setattr(datastore.source._client, "_timeout", 1)
        monkeypatch.setattr(datastore, "_refreshed", time.monotonic() - 1000)
        began = time.monotonic()
        datastore.status()
        assert datastore._refreshing.locked()
        assert time.monotonic() - began < 1
        with datastore._refreshing:
            pass
    assert "Timeout" in datastore.problems[0]

"""Cines in a real archive and labels that go there and come back: needs Orthanc with its DICOMweb plugin."""

import socket

import nibabel as nib
import numpy as np
import pytest
from dicom_sources import phantom, random_masks
from dicomweb_client import DICOMwebClient
from filelock import FileLock
from orthanc import run_orthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from cardiac_cine.annotation.dicom_archive import _UID, Archive, _created, _write_header
from cardiac_cine.annotation.library import FINAL, Library
from cardiac_cine.datasets.dicom_cine import scan
from cardiac_cine.datasets.phantom_dicom import write_dicom
from cardiac_cine.dicom_seg import write_seg
from cardiac_cine.errors import InputError

# What each cine of the archive is made as, by patient.
LAYOUTS = ("phase_major", "slice_major", "series_per_slice", "enhanced")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with run_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for seed, layout in enumerate(LAYOUTS):
        write_dicom(phantom(), folder / layout, layout=layout, seed=seed, patient_id=layout)
    return folder


@pytest.fixture
def filled(orthanc, written):
    orthanc.clear()
    orthanc.store_folder(written)
    return orthanc


def open_archive(url, folder, **search_filter):
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    client = DICOMwebClient(url, timeout=20)
    client.set_http_retry_params(retry=False)
    return Archive(client, cache, {"Modality": "MR", **search_filter})


def open_library(url, folder, **search_filter):
    return Library(open_archive(url, folder, **search_filter), folder / "state", FileLock(folder / "lock"))


def save(library, image_id, mask, folder):
    entry = library.entry(image_id)
    nib.save(nib.Nifti1Image(mask, library.cine(entry.case).affine), folder / "label.nii.gz")
    library.save(image_id, folder / "label.nii.gz", FINAL, {})


def test_every_phase_is_the_phantoms_whatever_the_numbering(filled, written, tmp_path):
    library = open_library(filled.dicomweb_url, tmp_path)
    assert library.problems == []
    assert [entry.id for entry in library.entries()] == [
        f"{case}_phase{number:02d}" for case in sorted(LAYOUTS) for number in (1, 2)
    ]
    # Until a cine is read, only headers are there.
    cache = tmp_path / "cache"
    assert not list(cache.rglob("*.dcm"))
    assert sum(path.stat().st_size for path in cache.rglob("*.head")) < 0.5 * phantom().image[..., :2].nbytes * 8
    for case in LAYOUTS:
        [truth] = [stack.read() for stack in scan(written / case).stacks]
        assert library.cine(case).phases == 4
        for entry in library.phases_of(case):
            image = nib.load(library.image_path(entry.id))
            np.testing.assert_array_equal(np.asanyarray(image.dataobj), truth.array[..., entry.phase])
            np.testing.assert_array_equal(truth.array[..., entry.phase], phantom().image[:, :, ::-1, entry.phase])
            np.testing.assert_allclose(image.affine, truth.affine, atol=1e-4)
            np.testing.assert_allclose(library.cine(case).affine, truth.affine, atol=1e-9)
            uids = [row[entry.phase].sop_instance_uid for row in truth.instances]
            assert [uid for uid, _, _ in library.instances(entry.id)] == uids
    assert not list(cache.rglob("*.head"))


def test_labels_come_back_from_the_archive_alone(filled, tmp_path):
    library = open_library(filled.dicomweb_url, tmp_path / "first")
    masks = {}
    for seed, case in enumerate(LAYOUTS):
        masks[f"{case}_phase04"] = random_masks(library.cine(case), seed)[..., 3]
        save(library, f"{case}_phase04", masks[f"{case}_phase04"], tmp_path)
    fresh = open_library(filled.dicomweb_url, tmp_path / "second")
    assert fresh.problems == [] and set(fresh.labels.all(FINAL)) == set(masks)
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(fresh.label_array(image_id, FINAL), mask)
        assert fresh.annotated(image_id, FINAL).slices == tuple(range(mask.shape[2]))
    assert not list((tmp_path / "second" / "cache").rglob("*.dcm"))
    # What came from the archive is not stored there again.
    segmentations = [item for item in filled.json("/series?expand") if item["MainDicomTags"]["Modality"] == "SEG"]
    assert len(segmentations) == len(masks) == 4


def test_the_last_of_several_saves_comes_back(filled, tmp_path):
    library = open_library(filled.dicomweb_url, tmp_path / "first", PatientID="slice_major")
    masks = [random_masks(library.cine("slice_major"), seed)[..., 1] for seed in range(3)]
    for mask in masks:
        save(library, "slice_major_phase02", mask, tmp_path)
    assert len(library.labels.all(FINAL)) == 1
    library.refresh()
    fresh = open_library(filled.dicomweb_url, tmp_path / "second")
    for opened in (library, fresh):
        np.testing.assert_array_equal(opened.label_array("slice_major_phase02", FINAL), masks[-1])


def store_foreign(orthanc, cine, mask, phase, folder, change):
    masks = np.zeros(cine.array.shape, np.uint8)
    masks[..., phase] = mask
    path = write_seg(cine, masks, folder, phases=[phase])[phase]
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    orthanc.store(path)


def as_viewers_do(dataset):
    """Name the structures, code them all as tissue, and count the one frame of a classic image."""
    for segment, name in zip(dataset.SegmentSequence, ("RV", "MYO", "Left ventricular cavity"), strict=True):
        segment.SegmentLabel = name
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "85756007", "SCT", "Tissue"
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = 1


@pytest.mark.parametrize("change", [lambda dataset: None, as_viewers_do], ids=["ours", "viewers"])
def test_segmentations_by_others_are_taken(filled, written, tmp_path, change):
    [stack] = scan(written / "phase_major").stacks
    mask = random_masks(stack.read())[..., 3]
    store_foreign(filled, stack.read(), mask, 3, tmp_path, change)
    library = open_library(filled.dicomweb_url, tmp_path)
    assert library.problems == []
    np.testing.assert_array_equal(library.label_array("phase_major_phase04", FINAL), mask)
    assert library.labels.info("phase_major_phase04", FINAL)["source"] == "archive"


def scar(dataset):
    dataset.SegmentSequence[0].SegmentLabel = "scar"
    dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "85756007"


def test_segmentations_that_are_no_labels_are_told_and_left(filled, written, tmp_path):
    [stack] = scan(written / "phase_major").stacks
    store_foreign(filled, stack.read(), random_masks(stack.read())[..., 3], 3, tmp_path, scar)
    library = open_library(filled.dicomweb_url, tmp_path)
    [problem] = library.problems
    assert "is not taken" in problem and "segment 1 is coded 85756007" in problem and "/" not in problem
    assert not library.labels.all(FINAL)


def about_others(dataset):
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = generate_uid()


def test_segmentations_of_other_images_of_the_study_are_none_of_ours(filled, written, tmp_path):
    [stack] = scan(written / "phase_major").stacks
    store_foreign(filled, stack.read(), random_masks(stack.read())[..., 0], 0, tmp_path, about_others)
    library = open_library(filled.dicomweb_url, tmp_path)
    assert library.problems == [] and not library.labels.all(FINAL)


def test_studies_that_come_later_are_found_and_those_filtered_out_are_not(orthanc, written, tmp_path):
    orthanc.clear()
    library = open_library(orthanc.dicomweb_url, tmp_path, PatientID="slice_major")
    assert library.entries() == [] and library.problems == []
    orthanc.store_folder(written)
    library.refresh()
    assert {entry.case for entry in library.entries()} == {"slice_major"}


def test_a_study_that_is_still_arriving_is_completed(orthanc, written, tmp_path):
    orthanc.clear()
    paths = sorted((written / "phase_major").rglob("*.dcm"))
    for path in paths[: len(paths) // 2]:
        orthanc.store(path)
    library = open_library(orthanc.dicomweb_url, tmp_path)
    assert [entry.phases for entry in library.entries()] == [2, 2]
    for path in paths:
        orthanc.store(path)
    library.refresh()
    assert [entry.phases for entry in library.entries()] == [4, 4]
    np.testing.assert_array_equal(library.cine("phase_major").array, phantom().image[:, :, ::-1])


def test_without_an_answer_what_is_known_stays(filled, tmp_path):
    library = open_library(filled.dicomweb_url, tmp_path, PatientID="phase_major")
    library.cine("phase_major")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}/dicom-web"
    # What a killed process left of a file is no file.
    left = next((tmp_path / "cache").rglob("*.dcm")).parent / ".staged-killed"
    left.mkdir()
    (left / "1.2.dcm").write_bytes(b"half")
    lost = open_library(nowhere, tmp_path)
    assert not left.exists()
    assert lost.problems == [
        f"{nowhere}: the archive does not answer (ConnectionError)",
        "the archive does not give its segmentations (ConnectionError)",
    ]
    assert [entry.id for entry in lost.entries()] == ["phase_major_phase01", "phase_major_phase02"]
    np.testing.assert_array_equal(lost.cine("phase_major").array, phantom().image[:, :, ::-1])
    mask = random_masks(lost.cine("phase_major"))[..., 0]
    save(lost, "phase_major_phase01", mask, tmp_path)
    np.testing.assert_array_equal(lost.label_array("phase_major_phase01", FINAL), mask)
    # The label goes to the archive as soon as that answers.
    again = open_library(filled.dicomweb_url, tmp_path, PatientID="phase_major")
    assert again.labels.info("phase_major_phase01", FINAL)["SeriesInstanceUID"]


def test_pixels_that_do_not_come_are_an_error(filled, tmp_path):
    library = open_library(filled.dicomweb_url, tmp_path, PatientID="phase_major")
    filled.clear()
    with pytest.raises(InputError, match=r"the archive does not give the pixels \(HTTPError\), expected whole images"):
        library.cine("phase_major")


def test_a_header_from_json_is_a_file_without_pixels(written, tmp_path):
    source = dcmread(next((written / "phase_major").rglob("*.dcm")))
    source.SpecificCharacterSet, source.PatientName = "ISO_IR 100", "Müller^Zoë"
    source.private_block(0x11, "vendor", create=True).add_new(1, "OB", bytes(100))
    content = source.to_json_dict()
    content["7FE00010"] = {"vr": "OW", "BulkDataURI": "http://pacs/bulk"}
    # JSON's numbers have more digits than a DICOM text of 16 characters.
    content["00200032"]["Value"] = [-12.345678901234567, 1 / 3, -1e-7]
    header = Dataset.from_json(content, bulk_data_uri_handler=lambda _: None)
    _write_header(header, tmp_path / "a.head")
    read = dcmread(tmp_path / "a.head", stop_before_pixels=True)
    assert (tmp_path / "a.head").stat().st_size < 4000
    assert str(read.PatientName) == "Müller^Zoë" and not [e for e in read if e.tag.is_private]
    np.testing.assert_allclose(np.array(read.ImagePositionPatient, float), [-12.345678901234567, 1 / 3, -1e-7], 1e-8)
    for keyword in ("SOPInstanceUID", "TriggerTime", "PixelSpacing", "ImageType", "Rows", "NominalInterval"):
        assert read[keyword].value == source[keyword].value


@pytest.mark.parametrize("uid", ["..", "1..2", "../1", "1/2", "", "1." * 40 + "1"])
def test_names_of_folders_are_uids(uid):
    assert not _UID.fullmatch(uid) and _UID.fullmatch("1.2.840.10008")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"ContentDate": "20240102", "ContentTime": "030405.25", "TimezoneOffsetFromUTC": "+0100"},
            "2024-01-02T02:04:05.250000+00:00",
        ),
        (
            {"SeriesDate": "20240102", "SeriesTime": "030405", "TimezoneOffsetFromUTC": "-0200"},
            "2024-01-02T05:04:05+00:00",
        ),
        ({"ContentDate": "20240102"}, "0"),
        ({}, "0"),
    ],
)
def test_when_a_segmentation_was_made(attributes, expected):
    dataset = Dataset()
    for key, value in attributes.items():
        setattr(dataset, key, value)
    assert _created(dataset) == expected

import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from cardiac_cine.datasets.dicom_cine import Scan, scan
from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.datasets.phantom_dicom import LAYOUTS, VENDORS, Series, Study, write_dicom, write_series
from cardiac_cine.errors import InputError
from cardiac_cine.patients import LIMITS

STUDY = Study(patient_id="P1")
TIMES = np.array([0.0, 200, 400, 600])
CINE = Series(times_ms=TIMES, rr_ms=800)


def affine_of(spacing=(1.5, 2.0, 8.0), angles=(0.5, -0.4, 0.3), origin=(10.0, -30, 5)):
    """Right-handed in LPS, tilted against every axis."""
    a, b, c = angles
    rotations = [
        np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]]),
        np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]]),
        np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]]),
    ]
    affine = np.eye(4)
    affine[:3, :3] = rotations[0] @ rotations[1] @ rotations[2] @ np.diag(spacing)
    affine[:3, 3] = origin
    return np.diag([-1.0, -1, 1, 1]) @ affine


AFFINE = affine_of()
ARRAY = np.random.default_rng(0).integers(0, 4096, (12, 10, 5, 4)).astype(np.int16)


def add(folder, array=ARRAY, affine=AFFINE, *, study=STUDY, series=CINE, layout="phase_major"):
    """Write a series into a folder of its own, by default the short-axis cine that most tests start from."""
    folder = folder / f"{series.number:03d}"
    return write_series(array, affine, folder, study=study, series=series, layout=layout)


def path_of(paths, z, t):
    return paths[z * ARRAY.shape[3] + t]


def level_of(z):
    """Where a slice lies along the normal, mm; pixels of 1.5 x 2 mm make a cross product of 3."""
    return np.cross(AFFINE[:3, 0], AFFINE[:3, 1]) / 3 @ (AFFINE @ [0, 0, z, 1])[:3]


def edit(path, change):
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


def only(found):
    assert found.problems == ()
    (stack,) = found.stacks
    return stack


def reasons(found):
    return {entry.series: entry.reason for entry in found.left_out}


@pytest.fixture(scope="module")
def phantom():
    return render(
        PhantomSpec(
            shape=(64, 72),
            spacing_mm=(2.4, 2.2, 14.0),
            phases=3,
            centre_mm=(0, 0),
            lv_length_mm=66,
            lv_edv_ml=80,
            rv_edv_ml=80,
        )
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_phantom_is_the_same_in_every_layout(phantom, tmp_path, layout, vendor):
    write_dicom(phantom, tmp_path, layout=layout, vendor=vendor)
    cine = only(scan(tmp_path)).read()
    # The phantom's slices descend along the normal.
    flip = np.diag([1.0, 1, -1, 1])
    flip[2, 3] = phantom.image.shape[2] - 1
    assert np.array_equal(cine.array, phantom.image[:, :, ::-1])
    assert cine.affine == pytest.approx(phantom.affine @ flip, abs=1e-6)
    assert cine.times_ms == pytest.approx([0, 307.692, 615.385], abs=1e-3)
    assert cine.rr_ms == pytest.approx(60_000 / 65, abs=0.5)
    assert cine.spacing_mm == pytest.approx((2.4, 2.2, 14))
    for z, row in enumerate(cine.instances):
        for t, instance in enumerate(row):
            assert (instance.frame_number is not None) == (layout == "enhanced")
            frames = pydicom.dcmread(instance.path)
            assert frames.SOPInstanceUID == instance.sop_instance_uid
            if layout == "enhanced":
                pixels = frames.pixel_array[instance.frame_number - 1]
                assert np.array_equal(pixels.T, cine.array[:, :, z, t])
            else:
                assert float(frames.TriggerTime) == pytest.approx(cine.times_ms[t])


def test_what_a_cine_says_of_patient_and_scan(tmp_path):
    study = Study(patient_id="A/../B 1", patient_sex="F", patient_height_cm=171, patient_weight_kg=63.5)
    study = replace(study, patient_birth_date="19800601", study_date="20240531", study_description="Herz")
    add(tmp_path, study=study)
    stack = only(scan(tmp_path))
    cine = stack.read()
    patient = cine.patient
    assert (patient.id, patient.sex, patient.age_years) == ("A/../B 1", "F", 43)
    assert (patient.height_cm, patient.weight_kg) == (171, 63.5)
    assert cine.name == stack.name == "A_.._B_1"
    assert cine.source == stack.source == tmp_path / "005" / "series005"
    assert cine.about == {
        "study_date": "2024-05-31",
        "study_description": "Herz",
        "series_description": "cine_sax",
        "manufacturer": "SIEMENS",
        "model": "Phantom",
        "field_strength_t": "1.5",
        "study_instance_uid": study.uid("study"),
    }
    assert cine.array.dtype == np.uint16
    assert cine.affine == pytest.approx(AFFINE, abs=1e-6)
    assert cine.remarks == ("Only 4 phases: end-systole may lie between two of them.",)


def test_unknown_of_the_patient_stays_unknown(tmp_path):
    for path in add(tmp_path, study=Study(patient_id=None, patient_height_cm=17_000, patient_weight_kg=None)):
        edit(path, lambda ds: setattr(ds, "PatientWeight", "0"))
    cine = only(scan(tmp_path)).read()
    assert (cine.patient.id, cine.patient.sex, cine.name) == ("", "", "series005")
    assert all(map(math.isnan, (cine.patient.age_years, cine.patient.height_cm, cine.patient.weight_kg)))
    assert "The height of 170 m (PatientSize) is not that of a person and is left out." in cine.remarks


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom doubts what it is told to write
@pytest.mark.parametrize(
    ("age", "years"), [("042Y", 42), ("018M", 1.5), ("010W", 70 / 365.25), ("100D", 100 / 365.25), ("old", math.nan)]
)
def test_age_strings(tmp_path, age, years):
    add(tmp_path, series=replace(CINE, attributes={"PatientAge": age}))
    assert only(scan(tmp_path)).read().patient.age_years == pytest.approx(years, nan_ok=True)


@pytest.mark.parametrize(
    ("attributes", "rr_ms", "remark"),
    [
        ({}, 800, None),
        ({"NominalInterval": None, "HeartRate": 75}, 800, None),
        ({"NominalInterval": None}, 800, "do not give the length of the cycle; 800 ms"),
        ({"NominalInterval": 0}, 800, "do not give the length of the cycle; 800 ms"),
        ({"NominalInterval": 500}, 800, "give a cycle shorter than the phases span; 800 ms"),
        ({"NominalInterval": 2500}, 2500, None),
        ({"NominalInterval": 2600}, 800, "do not give the length of the cycle; 800 ms"),
        # What makes no heartbeat does not keep the next source from being asked.
        ({"NominalInterval": 1, "HeartRate": 60}, 1000, None),
        ({"NominalInterval": 2600, "HeartRate": 60}, 1000, None),
        ({"NominalInterval": 0, "HeartRate": 600}, 800, "do not give the length of the cycle; 800 ms"),
    ],
)
def test_length_of_the_cycle(tmp_path, attributes, rr_ms, remark):
    add(tmp_path, series=replace(CINE, attributes=attributes))
    cine = only(scan(tmp_path)).read()
    assert cine.rr_ms == rr_ms
    assert len(cine.remarks) == 1 + (remark is not None)
    assert not remark or remark in cine.remarks[1]


def test_a_slow_heart_is_read_as_in_other_formats(tmp_path):
    # 28 beats a minute, by a retrospectively gated cine of eleven phases.
    times_ms = np.arange(11) * 195.0
    add(tmp_path, ARRAY[..., np.arange(11) % 4], series=replace(CINE, times_ms=times_ms, rr_ms=11 * 195.0))
    cine = only(scan(tmp_path)).read()
    assert (cine.phases, cine.rr_ms) == (11, 11 * 195.0)


@pytest.mark.parametrize(
    ("height_cm", "weight_kg"), [tuple(limits[end] for limits in list(LIMITS.values())[:2]) for end in (0, 1)]
)
def test_limits_of_a_patient_are_those_of_the_table(tmp_path, height_cm, weight_kg):
    add(tmp_path, study=Study(patient_height_cm=height_cm, patient_weight_kg=weight_kg))
    patient = only(scan(tmp_path)).read().patient
    assert (patient.height_cm, patient.weight_kg) == pytest.approx((height_cm, weight_kg))


@pytest.mark.parametrize("key", ["TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber"])
def test_phases_without_trigger_times(tmp_path, key):
    paths = add(tmp_path, layout="slice_major")
    for index, path in enumerate(paths):
        edit(path, lambda ds, t=index % 4: (delattr(ds, "TriggerTime"), setattr(ds, key, 9 - t)))
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, ARRAY[..., ::-1])
    assert cine.times_ms is None
    assert cine.rr_ms == 800
    assert any(
        f"no time after the R wave; phases are in the order of their {key[:8].lower()}" in r for r in cine.remarks
    )


def test_times_are_means_over_slices_of_another_heart_rate(tmp_path):
    stretch = np.array([1, 1.02, 0.98, 1, 1.05])
    add(tmp_path, series=replace(CINE, times_ms=TIMES * stretch[:, None]))
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, ARRAY)
    assert cine.times_ms == pytest.approx([0, 202, 404, 606])
    assert not any("heart rate" in remark for remark in cine.remarks)


def test_slices_whose_times_count_from_other_moments_are_each_counted_from_their_first_phase(tmp_path):
    # Each slice's times go on where the ones of the slice before ended.
    add(tmp_path, series=replace(CINE, times_ms=TIMES + 1000 * np.arange(5)[:, None]))
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, ARRAY)
    assert cine.times_ms == pytest.approx(TIMES)
    assert any("first phases are up to 4000 ms apart" in remark for remark in cine.remarks)
    assert not any("heart rate" in remark for remark in cine.remarks)


def test_a_heart_rate_that_changes_much_and_a_late_phase_are_remarked_on(tmp_path):
    times = np.array([[0.0, 100, 200, 500]] * 4 + [[0, 300, 600, 1500]])
    add(tmp_path, series=replace(CINE, times_ms=times))
    remarks = only(scan(tmp_path)).read().remarks
    assert any("heart rate changed between slices" in remark for remark in remarks)
    assert any("Phases 3 and 4 are 420 ms apart, the others about 140 ms" in remark for remark in remarks)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A study as it leaves a scanner: everything in one tree, with files that are no images."""
    root = tmp_path_factory.mktemp("mixed")
    add(root)
    for number, angles in enumerate(((0, 0, 0), (math.pi / 2, 0, 0), (0, math.pi / 2, 0))):
        scout = Series(number=1, description="loc", image_type=("ORIGINAL", "PRIMARY", "M", "LOCALIZER"))
        add(root / str(number), ARRAY[:, :, :1, 0], affine_of(angles=angles), series=scout)
    for number, angle in ((2, 1.2), (3, 0.9)):
        series = replace(CINE, number=number, description="cine views")
        add(root, ARRAY[:, :, :1], affine_of(angles=(angle, 0.2, 0)), series=series)
    add(root, series=replace(CINE, number=4, description="cine_4ch"), affine=affine_of(angles=(1.4, 0, 0)))
    add(root, ARRAY[..., 0], series=Series(number=6, description="LGE sax"))
    add(root, ARRAY[..., 0], series=Series(number=7, description="T1 something"))
    for number, kind in ((8, "M"), (9, "P")):
        series = replace(CINE, number=number, description="ao", image_type=("ORIGINAL", "PRIMARY", kind, "ND"))
        add(root, ARRAY[:, :, :1], affine_of(angles=(1.0, 0, 0.4)), series=series)
    add(root, series=replace(CINE, number=10, description="thin"), affine=affine_of((2, 2, 2.0)))
    perfusion = replace(CINE, number=11, description="dynamic sax", times_ms=TIMES * 5)
    add(root, ARRAY[:, :, 1:4], series=perfusion)
    add(root, ARRAY[..., 0], series=Series(number=12, modality="CT", description="thorax"))
    add(root, series=replace(CINE, number=13, description="sax tagging"))
    capture = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"}
    add(root, ARRAY[:, :, :1, 0], series=Series(number=14, description="screen", attributes=capture))
    report = pydicom.Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3"
    report.StudyInstanceUID, report.SeriesInstanceUID = STUDY.uid("study"), "1.2.4"
    report.SeriesNumber, report.SeriesDescription, report.Modality, report.PatientID = 15, "report", "SR", "P1"
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.save_as(root / "report", enforce_file_format=True)
    (root / "notes.txt").write_text("DICM")
    (root / ".DS_Store").write_bytes(b"\0" * 200)
    return root


def test_the_short_axis_is_found_among_all_else(mixed):
    found = scan(mixed)
    cine = only(found).read()
    assert np.array_equal(cine.array, ARRAY)
    assert cine.about["series_description"] == "cine_sax"
    found = reasons(found)
    expected = {
        "1 'loc'": "a scout",
        "4 'cine_4ch'": "another view, by its description",
        "6 'LGE sax'": "late enhancement, by its description",
        "7 'T1 something'": "a single phase",
        "9 'ao'": "a flow measurement: phase images",
        "8 'ao'": "a single slice, expected a stack of at least 3",
        "10 'thin'": "slices 2.0 mm apart, expected 4 to 15 mm",
        "11 'dynamic sax'": (
            "its phases span 3000 ms, more than one heartbeat: perfusion, or a real-time cine, which is not supported"
        ),
        "12 'thorax'": "CT Image Storage, no MR images",
        "13 'sax tagging'": "tagging, by its description",
        "14 'screen'": "Secondary Capture Image Storage, no MR images",
        "15 'report'": "Basic Text SR Storage, no MR images",
        "2 'cine views'": "a single slice, expected a stack of at least 3",
        "3 'cine views'": "a single slice, expected a stack of at least 3",
    }
    assert found == expected


def test_perfusion_with_equal_trigger_times_is_known_by_its_acquisition_times(tmp_path):
    paths = add(tmp_path, series=replace(CINE, description="dynamic", times_ms=np.full(4, 120.0)))
    for index, path in enumerate(paths):
        edit(path, lambda ds, t=index % 4: setattr(ds, "AcquisitionTime", f"10150{2 * t}.5"))
    found = scan(tmp_path)
    assert "acquired one by one over 6 s: perfusion" in reasons(found)["5 'dynamic'"]
    assert found.problems == (f"{tmp_path / '005' / 'series005'}: no short-axis cine among the 1 series of this study",)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (replace(CINE, number=9, description="cine tra"), "its description says short axis"),
        (replace(CINE, number=9, image_type=("DERIVED", "SECONDARY", "M")), "its images are original"),
    ],
)
def test_of_two_stacks_the_better_one_is_taken(tmp_path, other, why):
    add(tmp_path)
    large = np.concatenate([ARRAY, ARRAY], axis=2)
    add(tmp_path, large, affine_of(angles=(0, 0, 0)), series=other)
    found = scan(tmp_path)
    cine = only(found).read()
    assert np.array_equal(cine.array, ARRAY)
    assert list(reasons(found).values()) == [f"another cine stack; {why}"]
    assert any(f"was chosen before series 9 '{other.description}': {why}" in remark for remark in cine.remarks)


def test_of_two_equal_stacks_the_larger_is_taken(tmp_path):
    add(tmp_path, ARRAY[:, :, :4], affine_of(angles=(0, 0, 0)), series=replace(CINE, description="a"))
    add(tmp_path, series=replace(CINE, number=9, description="b"))
    found = scan(tmp_path)
    assert np.array_equal(only(found).read().array, ARRAY)
    assert reasons(found) == {"5 'a'": "another cine stack; it has 20 images, the other 16"}


@pytest.mark.parametrize(
    ("numbers", "why"),
    [((9, 8), "has the lower number"), ((7, 7), "comes first by the names of its files")],
)
def test_of_two_stacks_of_as_many_images_the_first_is_taken(tmp_path, numbers, why):
    descriptions = ("sax post", "sax pre") if numbers[0] > numbers[1] else ("sax pre", "sax post")
    for folder, number, description in zip("ab", numbers, descriptions, strict=True):
        array = ARRAY if description == "sax pre" else 4095 - ARRAY
        add(tmp_path / folder, array, series=replace(CINE, number=number, description=description))
    found = scan(tmp_path)
    cine = only(found).read()
    assert np.array_equal(cine.array, ARRAY)
    first, other = f"{numbers[1]} 'sax pre'", f"{numbers[0]} 'sax post'"
    why = f"both have 20 images, and series {first} {why}"
    assert f"Series {first} was chosen before series {other}: {why}." in cine.remarks
    assert reasons(found) == {other: f"another cine stack; {why}"}


def test_an_axial_stack_is_taken_with_a_remark(tmp_path):
    add(tmp_path, affine=affine_of(angles=(0, 0, 0.1)), series=replace(CINE, description="cine"))
    remarks = only(scan(tmp_path)).read().remarks
    assert any("within 10 degrees of the axial plane" in remark for remark in remarks)


def test_derived_images_are_taken_where_there_are_no_others(tmp_path):
    add(tmp_path, series=replace(CINE, image_type=("DERIVED", "SECONDARY", "M")))
    remarks = only(scan(tmp_path)).read().remarks
    assert "The images are derived ones (ImageType); there are no original ones." in remarks


def test_series_of_other_names_complete_the_stack(tmp_path):
    lower = AFFINE.copy()
    lower[:3, 3] = (AFFINE @ [0, 0, 3, 1])[:3]
    add(tmp_path, ARRAY[:, :, :3], series=replace(CINE, description="base"))
    add(tmp_path, ARRAY[:, :, 3:], lower, series=replace(CINE, number=6, description="apex"))
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, ARRAY)
    assert "Series 5 'base' and series 6 'apex' together make the stack." in cine.remarks


def test_the_latest_complete_take_of_a_slice_counts(tmp_path):
    add(tmp_path)
    again = AFFINE.copy()
    again[:3, 3] = (AFFINE @ [0, 0, 2, 1])[:3]
    add(tmp_path, 4095 - ARRAY[:, :, 2:3], again, series=replace(CINE, number=8))
    broken = add(tmp_path, ARRAY[:, :, 2:3] // 2, again, series=replace(CINE, number=9))
    broken[1].unlink()
    cine = only(scan(tmp_path)).read()
    expected = ARRAY.copy()
    expected[:, :, 2] = 4095 - ARRAY[:, :, 2]
    assert np.array_equal(cine.array, expected)
    level = level_of(2)
    assert cine.remarks[-1] == (
        f"Slices were taken more than once, at {level:.1f} mm along the normal; the latest complete take of each is "
        "used, from series 8 'cine_sax'."
    )


def test_takes_within_a_series_go_by_acquisition_number(tmp_path):
    add(tmp_path)
    series = replace(CINE, attributes={"AcquisitionNumber": 2})
    study = replace(STUDY, seed=5)
    for path in add(tmp_path / "again", 4095 - ARRAY, study=study, series=series):
        edit(path, lambda ds: [setattr(ds, k, v) for k, v in uids_of(STUDY).items()])
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, 4095 - ARRAY)
    levels = ", ".join(f"{level_of(z):.1f}" for z in range(5))
    assert any(f"taken more than once, at {levels} mm" in remark for remark in cine.remarks)


def uids_of(study):
    return {
        "StudyInstanceUID": study.uid("study"),
        "SeriesInstanceUID": study.uid("series", CINE.number, CINE.description),
        "FrameOfReferenceUID": study.uid("frame of reference", CINE.frame_of_reference),
    }


def test_copies_of_files_count_once(tmp_path):
    paths = add(tmp_path)
    for path in paths[:3]:
        shutil.copy(path, tmp_path / f"copy of {path.name}")
    paths[0].write_bytes(paths[0].read_bytes()[:-50])
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, ARRAY)
    assert any(remark.startswith("3 files are copies of others") for remark in cine.remarks)


def test_one_uid_for_two_images_is_refused(tmp_path):
    paths = add(tmp_path)
    uid = pydicom.dcmread(paths[0]).SOPInstanceUID
    edit(paths[1], lambda ds: setattr(ds, "SOPInstanceUID", uid))
    found = scan(tmp_path)
    assert not found.stacks
    assert found.problems[0] == f"{paths[1]}: has the SOPInstanceUID of {paths[0]} but shows another image"


def test_two_images_for_one_place_are_refused(tmp_path):
    paths = add(tmp_path)
    edit(path_of(paths, 1, 2), lambda ds: setattr(ds, "TriggerTime", "200"))
    found = scan(tmp_path)
    assert not found.stacks
    (problem,) = found.problems
    assert str(path_of(paths, 1, 1)) in problem and str(path_of(paths, 1, 2)) in problem
    assert "both show the slice at" in problem and "at the same trigger time" in problem


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"RescaleSlope": "0"}, "RescaleSlope and RescaleIntercept are 0 and 0"),
        ({"BitsStored": 17}, "17 of 16 bits for a pixel, expected up to as many of 8, 16, 32"),
    ],
)
def test_headers_that_give_no_values_are_refused(tmp_path, attributes, message):
    add(tmp_path, series=replace(CINE, attributes=attributes))
    found = scan(tmp_path)
    assert not found.stacks
    assert all(message in problem for problem in found.problems)


def test_a_time_that_is_missing_once_is_told_from_no_times_at_all(tmp_path):
    paths = add(tmp_path)
    edit(paths[5], lambda ds: delattr(ds, "TriggerTime"))
    cine = only(scan(tmp_path)).read()
    assert np.array_equal(cine.array, ARRAY)
    assert cine.times_ms is None
    assert any("do not give every phase a time of its own after the R wave" in remark for remark in cine.remarks)


def test_a_missing_phase_is_refused(tmp_path):
    paths = add(tmp_path)
    path_of(paths, 3, 1).unlink()
    (problem,) = scan(tmp_path).problems
    assert f"the slice at {level_of(3):.1f} mm (series 5 'cine_sax'): 3 phases, expected 4" in problem


def test_a_missing_slice_is_refused(tmp_path):
    paths = add(tmp_path)
    for t in range(4):
        path_of(paths, 1, t).unlink()
    (problem,) = scan(tmp_path).problems
    assert "lie 16.00 mm apart, expected 8.00 mm as between the others (1 missing)" in problem


def move(paths, z, shift):
    """Move one slice by mm along x, y and the normal of its image."""
    axes = AFFINE[:3, :3] / np.linalg.norm(AFFINE[:3, :3], axis=0)
    ras = (AFFINE @ [0, 0, z, 1])[:3] + axes @ shift
    position = [f"{value:.6f}" for value in ras * [-1, -1, 1]]
    for t in range(4):
        edit(path_of(paths, z, t), lambda ds: setattr(ds, "ImagePositionPatient", position))


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ((0, 0, 2.0), r"lie 10.00 mm apart, expected 8.00 mm as between the others \(uneven spacing\)"),
        ((0, 0, -1.2), r"lie 9.20 mm apart, expected 8.00 mm as between the others \(uneven spacing\)"),
        ((1.6, 0, 0), r"origins lie up to 1.60 mm beside their common normal, expected at most a pixel \(1.50 mm\)"),
    ],
)
def test_slices_off_the_grid_are_refused(tmp_path, shift, message):
    paths = add(tmp_path)
    move(paths, 2, shift)
    with pytest.raises(InputError, match=message):
        raise InputError(scan(tmp_path).problems)


@pytest.mark.parametrize(
    ("shift", "remark"),
    [
        ((0.02, -0.03, 0.02), None),
        ((0, 0, 0.4), "lie 7.60 to 8.40 mm apart; their mean is used"),
        ((0.3, 0.4, 0), "origins lie up to 0.50 mm beside their common normal, which is ignored"),
    ],
)
def test_slices_almost_on_the_grid_are_used(tmp_path, shift, remark):
    paths = add(tmp_path)
    move(paths, 2, shift)
    cine = only(scan(tmp_path)).read()
    assert cine.affine == pytest.approx(AFFINE, abs=1e-5)
    assert np.array_equal(cine.array, ARRAY)
    assert len(cine.remarks) == 1 + (remark is not None)
    assert not remark or any(remark in said for said in cine.remarks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PixelSpacing": ["2.1", "1.5"]}, "pixels of 1.500 x 2.100 mm, expected 1.500 x 2.000 mm"),
        ({"Rows": 5, "BitsAllocated": 16}, "12 x 5 pixels, expected 12 x 10"),
        ({"FrameOfReferenceUID": "1.2.3"}, "the frame of reference 1.2.3, expected "),
    ],
)
def test_slices_of_another_grid_are_refused(tmp_path, change, message):
    paths = add(tmp_path)
    for t in range(4):
        edit(path_of(paths, 4, t), lambda ds: [setattr(ds, *item) for item in change.items()])
    found = scan(tmp_path)
    assert not found.stacks
    (problem,) = found.problems
    assert message in problem
    assert "as in the other slices of series 5 'cine_sax'" in problem


def test_a_slice_of_another_direction_is_refused(tmp_path):
    paths = add(tmp_path)
    tilted = add(tmp_path / "tilted", affine=affine_of(angles=(0.53, -0.4, 0.3)), study=replace(STUDY, seed=2))
    orientation = pydicom.dcmread(tilted[0]).ImageOrientationPatient
    for t in range(4):
        edit(path_of(paths, 4, t), lambda ds: setattr(ds, "ImageOrientationPatient", orientation))
    shutil.rmtree(tmp_path / "tilted")
    (problem,) = scan(tmp_path).problems
    assert "its direction differs by 1.6 degrees" in problem


def test_mixed_patients_are_refused_and_other_studies_go_on(tmp_path):
    paths = add(tmp_path / "a")
    edit(paths[7], lambda ds: setattr(ds, "PatientID", "P2"))
    add(tmp_path / "b", study=Study(seed=1, patient_id="P3"))
    found = scan(tmp_path)
    assert [stack.name for stack in found.stacks] == ["P3"]
    (problem,) = found.problems
    assert problem.startswith(str(tmp_path / "a"))
    assert "one StudyInstanceUID, but PatientID is 'P1', 'P2'; expected one patient" in problem


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom doubts what it is told to write
def test_names_are_unique_and_safe(tmp_path):
    studies = [
        Study(seed=1, patient_id="P1", study_date="20240101"),
        Study(seed=2, patient_id="P1", study_date="20250101"),
        Study(seed=3, patient_id="p1", study_date="20250101"),
        Study(seed=4, patient_id="../../etc/x"),
        Study(seed=5, patient_id="."),
        Study(seed=6, patient_id="Ä" * 3 + "b" * 100),
    ]
    for study in studies:
        add(
            tmp_path / f"study {study.seed}", ARRAY[:, :, :3, :2], series=replace(CINE, times_ms=TIMES[:2]), study=study
        )
    names = [stack.name for stack in scan(tmp_path).stacks]
    assert names == ["P1_20240101", "P1_20250101", "p1_20250101_2", "etc_x", "series005", "b" * 64]


@pytest.mark.parametrize("part", [0.3, 0.6, -1])
@pytest.mark.parametrize("layout", ["phase_major", "enhanced"])
def test_a_truncated_file_is_named_and_other_studies_go_on(tmp_path, part, layout):
    path = add(tmp_path / "a", layout=layout)[-1]
    add(tmp_path / "b", study=Study(seed=1, patient_id="P3"))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(part * len(raw)) if part > 0 else part])
    found = scan(tmp_path)
    assert [stack.name for stack in found.stacks] == ["P3"]
    assert any(str(path) in problem for problem in found.problems), found.problems


def test_damage_outside_the_short_axis_does_not_matter(tmp_path):
    add(tmp_path)
    path = add(tmp_path, ARRAY[..., 0], series=Series(number=6, description="lge"))[0]
    path.write_bytes(path.read_bytes()[:-10])
    assert np.array_equal(only(scan(tmp_path)).read().array, ARRAY)


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        ("a.dcm", b"", ["no DICOM file or an empty one"]),
        ("a.dcm", b"no DICOM at all" * 20, ["no DICOM file or an empty one"]),
        ("a", b"\0" * 128 + b"DICM", ["a: lacks StudyInstanceUID or SOPClassUID"]),
        ("a", b"\0" * 128 + b"DICM\x02\0\0\0UL\4\0", ["a: "]),
    ],
)
def test_files_that_are_no_dicom(tmp_path, name, content, problems):
    (tmp_path / name).write_bytes(content)
    add(tmp_path / "good")
    found = scan(tmp_path)
    assert len(found.stacks) == 1
    assert len(found.problems) == len(problems)
    assert all(part in problem for part, problem in zip(problems, found.problems, strict=True))


@pytest.mark.parametrize("hidden", ["._{}", ".Trashes/{}"])
def test_hidden_files_are_passed_over(tmp_path, hidden):
    for path in add(tmp_path):
        beside = path.parent / hidden.format(path.name)
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 100)
    assert np.array_equal(only(scan(tmp_path)).read().array, ARRAY)


def test_a_hidden_folder_above_or_a_hidden_file_named_by_itself_is_read(tmp_path):
    path = add(tmp_path / ".cache", layout="enhanced")[0]
    assert np.array_equal(only(scan(tmp_path / ".cache")).read().array, ARRAY)
    hidden = path.rename(path.parent / ".study.dcm")
    assert np.array_equal(only(scan(hidden)).read().array, ARRAY)


def test_folders_without_a_cine(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        scan(tmp_path / "nowhere")
    assert scan(tmp_path) == Scan((), (), ())
    add(tmp_path, ARRAY[..., 0], series=Series(number=1, modality="CT", description="ct"))
    found = scan(tmp_path)
    assert found.stacks == () and found.problems == ()
    assert reasons(found) == {"1 'ct'": "CT Image Storage, no MR images"}
    assert str(found.left_out[0]).endswith("series 1 'ct': CT Image Storage, no MR images")


def test_dicomdir_is_passed_over(tmp_path):
    add(tmp_path)
    fileset = FileSet()
    for path in tmp_path.rglob("*.dcm"):
        fileset.add(path)
    fileset.write(tmp_path / "media")
    shutil.rmtree(tmp_path / "005")
    assert (tmp_path / "media" / "DICOMDIR").is_file()
    assert np.array_equal(only(scan(tmp_path)).read().array, ARRAY)


@pytest.mark.parametrize("layout", ["phase_major", "enhanced"])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_pixels(tmp_path, layout, syntax):
    for path in add(tmp_path, layout=layout):
        edit(path, lambda ds: ds.compress(syntax, generate_instance_uid=False))
    assert np.array_equal(only(scan(tmp_path)).read().array, ARRAY)


@pytest.mark.parametrize("layout", ["phase_major", "enhanced"])
def test_deflated_files(tmp_path, layout):
    paths = add(tmp_path, layout=layout)
    for path in paths:
        edit(path, lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
    assert np.array_equal(only(scan(tmp_path)).read().array, ARRAY)
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    assert f"{paths[0]}: not readable as DICOM" in scan(tmp_path).problems[0]


@pytest.mark.parametrize("layout", ["phase_major", "enhanced"])
def test_deflated_files_without_pixels_are_refused(tmp_path, layout):
    for path in add(tmp_path, layout=layout):
        edit(path, strip_and_deflate)
    stack = only(scan(tmp_path))
    with pytest.raises(InputError, match="pixels not readable as Deflated Explicit VR Little Endian"):
        stack.read()


def strip_and_deflate(ds):
    del ds.PixelData
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_pixels_that_no_decoder_takes_are_refused(tmp_path, syntax):
    paths = add(tmp_path)
    path = path_of(paths, 2, 2)

    def spoil(ds):
        ds.PixelData = encapsulate([b"\xff\xd8 not a picture"])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = syntax

    edit(path, spoil)
    stack = only(scan(tmp_path))
    with pytest.raises(InputError, match=f"{path.name}: pixels not readable as JPEG.*expected a whole DICOM image"):
        stack.read()


def test_all_files_that_went_missing_are_named_at_once(tmp_path):
    paths = add(tmp_path)
    stack = only(scan(tmp_path))
    for path in paths[:7]:
        path.unlink()
    with pytest.raises(InputError, match=r"(?s)IM00001.dcm: .*\.\.\. and 2 more files"):
        stack.read()


@pytest.mark.parametrize(
    ("attributes", "dtype", "expected"),
    [
        ({"BitsStored": 12, "HighBit": 11}, np.int16, ARRAY),
        ({}, np.uint16, ARRAY),
        ({"PixelRepresentation": 1}, np.int16, ARRAY),
        ({"BitsStored": 12, "HighBit": 11, "RescaleSlope": "2", "RescaleIntercept": "-5"}, np.int16, 2 * ARRAY - 5),
        ({"RescaleSlope": "3"}, np.float32, 3.0 * ARRAY),
        ({"RescaleSlope": "0.25", "RescaleIntercept": "1"}, np.float32, ARRAY / 4 + 1),
    ],
)
def test_values_are_exact_in_the_smallest_type(tmp_path, attributes, dtype, expected):
    add(tmp_path, series=replace(CINE, attributes=attributes))
    array = only(scan(tmp_path)).read().array
    assert array.dtype == dtype
    assert np.array_equal(array, expected)


@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="needs dcmcjpeg, of DCMTK")
@pytest.mark.parametrize(
    ("layout", "vendor"), [("phase_major", "SIEMENS"), ("phase_major", "PHILIPS"), ("enhanced", "GE")]
)
def test_lossless_jpeg(tmp_path, layout, vendor):
    for path in add(tmp_path, layout=layout, study=replace(STUDY, vendor=vendor)):
        assert os.spawnlp(os.P_WAIT, "dcmcjpeg", "dcmcjpeg", "+e1", str(path), str(path)) == 0
    assert np.array_equal(only(scan(tmp_path)).read().array, ARRAY)

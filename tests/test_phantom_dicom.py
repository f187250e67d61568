import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.datasets.phantom_dicom import LAYOUTS, VENDORS, Series, Study, write_dicom, write_series
from cardiac_cine.errors import InputError

SPEC = PhantomSpec(
    shape=(64, 72), spacing_mm=(2.4, 2.2, 14.0), phases=3, centre_mm=(0, 0), lv_length_mm=66, lv_edv_ml=80, rv_edv_ml=80
)
SLICES, PHASES = SPEC.slice_count, 3


@pytest.fixture(scope="module")
def cine():
    return render(SPEC)


def images(paths):
    return [pydicom.dcmread(path) for path in paths]


def by_place(paths, cine):
    """Images by slice and phase, from nothing but position and trigger time."""
    found = {}
    for ds in images(paths):
        ras = np.array(ds.ImagePositionPatient, float) * [-1, -1, 1]
        z = np.linalg.solve(cine.affine[:3, :3], ras - cine.affine[:3, 3])
        assert z[:2] == pytest.approx([0, 0], abs=1e-6)
        found[round(z[2]), round(float(ds.TriggerTime) / 1000 / SPEC.frame_time_s)] = ds
    return found


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "enhanced"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_classic_images_hold_every_voxel_once(cine, tmp_path, layout, vendor):
    paths = write_dicom(cine, tmp_path, layout=layout, vendor=vendor)
    assert len(set(paths)) == len(paths) == SLICES * PHASES
    found = by_place(paths, cine)
    assert len(found) == len(paths)
    for (z, t), ds in found.items():
        values = ds.pixel_array.T * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        assert np.array_equal(values, cine.image[:, :, z, t])
        assert ds.SOPClassUID == MRImageStorage
    assert len({ds.SOPInstanceUID for ds in found.values()}) == len(paths)
    assert len({ds.StudyInstanceUID for ds in found.values()}) == 1


@pytest.mark.parametrize(
    ("layout", "number"),
    [
        ("phase_major", lambda z, t: t * SLICES + z + 1),
        ("slice_major", lambda z, t: z * PHASES + t + 1),
        ("series_per_slice", lambda z, t: t + 1),
        ("reversed", lambda z, t: t * SLICES + SLICES - z),
    ],
)
def test_layouts_number_the_images(cine, tmp_path, layout, number):
    found = by_place(write_dicom(cine, tmp_path, layout=layout), cine)
    assert {place: ds.InstanceNumber for place, ds in found.items()} == {(z, t): number(z, t) for z, t in found}
    series = {ds.SeriesInstanceUID for ds in found.values()}
    assert len(series) == (SLICES if layout == "series_per_slice" else 1)


def test_shuffled_numbers_and_names_follow_no_axis(cine, tmp_path):
    paths = write_dicom(cine, tmp_path, layout="shuffled")
    found = by_place(paths, cine)
    numbers = [found[place].InstanceNumber for place in sorted(found)]
    assert sorted(numbers) == list(range(1, SLICES * PHASES + 1))
    for order in (sorted(found), sorted(found, key=lambda place: place[::-1])):
        steps = np.diff([found[place].InstanceNumber for place in order])
        assert (steps > 0).any() and (steps < 0).any()
    assert not any(path.suffix == ".dcm" for path in paths)


def test_another_reader_sees_the_affine(cine, tmp_path):
    for path in write_dicom(cine, tmp_path, layout="slice_major")[::PHASES]:
        image = SimpleITK.ReadImage(str(path))
        direction = np.array(image.GetDirection()).reshape(3, 3)[:, :2] * image.GetSpacing()[:2]
        assert np.diag([-1, -1, 1]) @ direction == pytest.approx(cine.affine[:3, :2], abs=1e-6)
        assert image.GetSize()[:2] == SPEC.shape


@pytest.mark.parametrize(
    ("vendor", "present", "absent"),
    [
        ("SIEMENS", {"NominalInterval": 923, "CardiacNumberOfImages": 3}, ["HeartRate", "TemporalPositionIdentifier"]),
        ("GE", {"HeartRate": 65, "CardiacNumberOfImages": 3}, ["NominalInterval", "TemporalPositionIdentifier"]),
        ("PHILIPS", {"HeartRate": 65, "NumberOfTemporalPositions": 3, "RescaleSlope": 0.5}, ["NominalInterval"]),
    ],
)
def test_vendors_describe_the_cycle_in_their_own_way(cine, tmp_path, vendor, present, absent):
    ds = images(write_dicom(cine, tmp_path, vendor=vendor))[1]
    assert {keyword: ds.get(keyword) for keyword in present} == present
    assert float(ds.TriggerTime) == pytest.approx(1000 * SPEC.frame_time_s)
    assert not [keyword for keyword in absent if keyword in ds]
    assert ds.Manufacturer == VENDORS[vendor]


def test_enhanced_image_has_every_frame_in_its_place(cine, tmp_path):
    (path,) = write_dicom(cine, tmp_path, layout="enhanced")
    ds = pydicom.dcmread(path)
    assert (ds.SOPClassUID, ds.NumberOfFrames) == (EnhancedMRImageStorage, SLICES * PHASES)
    frames = ds.pixel_array
    for frame, groups in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        content = groups.FrameContentSequence[0]
        z, t = content.InStackPositionNumber - 1, content.TemporalPositionIndex - 1
        assert np.array_equal(frame.T, cine.image[:, :, z, t])
        assert content.DimensionIndexValues == [1, z + 1, t + 1]
        delay = groups.CardiacSynchronizationSequence[0].NominalCardiacTriggerDelayTime
        assert delay == pytest.approx(1000 * t * SPEC.frame_time_s)
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float) * [-1, -1, 1]
        assert position == pytest.approx((cine.affine @ [0, 0, z, 1])[:3])
    assert ds.CardiacRRIntervalSpecified == pytest.approx(60_000 / SPEC.heart_rate_bpm)


@pytest.mark.parametrize("layout", ["phase_major", "shuffled", "enhanced"])
def test_equal_arguments_give_equal_files_and_another_seed_other_uids(cine, tmp_path, layout):
    first, again, other = (
        write_dicom(cine, tmp_path / name, layout=layout, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert [p.relative_to(tmp_path / "first") for p in first] == [p.relative_to(tmp_path / "again") for p in again]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert not {ds[keyword].value for ds in images(first)} & {ds[keyword].value for ds in images(other)}


def test_patient_stands_in_every_file(cine, tmp_path):
    fields = {"patient_id": "A 1", "patient_sex": "F", "patient_age_years": 7, "patient_birth_date": "20161231"}
    for ds in images(write_dicom(cine, tmp_path, **fields, patient_height_cm=121.5, patient_weight_kg=23.4)):
        assert (ds.PatientID, ds.PatientSex, ds.PatientAge, ds.PatientBirthDate) == ("A 1", "F", "007Y", "20161231")
        assert (ds.PatientSize, ds.PatientWeight) == (1.215, 23.4)


def test_a_series_takes_one_phase_or_other_attributes(tmp_path):
    array = np.arange(4 * 5 * 2).reshape(4, 5, 2)
    series = Series(number=9, description="lge", attributes={"ImageType": ["DERIVED", "SECONDARY"], "EchoTime": None})
    first, _ = images(write_series(array, np.diag([2, 3, 8, 1]), tmp_path, study=Study(), series=series))
    assert (first.Columns, first.Rows, first.PixelSpacing) == (4, 5, [3, 2])
    assert "TriggerTime" not in first and "EchoTime" not in first
    assert first.ImageType == ["DERIVED", "SECONDARY"]
    assert first.ImageOrientationPatient == [-1, 0, 0, 0, -1, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layout": "nested"}, InputError, "layout must be one of .*enhanced.*, got 'nested'"),
        ({"vendor": "ACME"}, InputError, "vendor must be one of .*SIEMENS.*, got 'ACME'"),
        ({"colour": 1}, TypeError, "colour"),
    ],
)
def test_write_dicom_rejects(cine, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        write_dicom(cine, tmp_path, **change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), int), r"integers \(x, y, z\)"),
        (np.zeros((4, 4, 4)), "of float64"),
        (np.full((4, 4, 4), -1), "0 to 32767, got -1 to -1"),
        (np.full((4, 4, 4), 40_000), "got 40000"),
    ],
)
def test_write_series_rejects(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        write_series(array, np.eye(4), tmp_path, study=Study(), series=Series())


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy, of Debian's dicom3tools")
@pytest.mark.parametrize(
    ("layout", "vendor", "modality"),
    [(layout, vendor, "MR") for layout in ("phase_major", "enhanced") for vendor in VENDORS]
    + [("phase_major", "GE", "CT")],
)
def test_files_conform_to_the_standard(tmp_path, layout, vendor, modality):
    array = np.arange(4 * 5 * 2 * 2).reshape(4, 5, 2, 2)
    kind = ("ORIGINAL", "PRIMARY", "AXIAL") if modality == "CT" else Series.image_type
    series = Series(times_ms=np.array([0, 400]), rr_ms=800, modality=modality, image_type=kind)
    study = Study(vendor=vendor, patient_sex="M", patient_age_years=40, patient_height_cm=180.5, patient_weight_kg=77.7)
    path = write_series(array, np.diag([-2, -3, 8, 1]), tmp_path, study=study, series=series, layout=layout)[0]
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "Image" in checked.stderr
    assert not [line for line in checked.stderr.splitlines() if line.startswith(("Error", "Abort"))]

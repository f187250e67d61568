import math

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

from cardiac_cine.cine_files import case_name, read_cine
from cardiac_cine.errors import InputError

AFFINE = np.array([[-1.5, 0, 0, 10], [0, -1.4, 0, 20], [0, 0, 8, 30], [0, 0, 0, 1.0]])
PHASES = 20


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 999, (60, 70, 6, PHASES)).astype(np.int16)


def write_nifti(voxels, path, step=0.04, unit="sec"):
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.set_xyzt_units("mm", unit)
    if voxels.ndim == 4:
        image.header.set_zooms((1.5, 1.4, 8, step))
    nib.save(image, path)
    return path


def itk_frame(voxels):
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing((1.5, 1.4, 8))
    image.SetOrigin((-10, -20, 30))
    return image


def write_fourth_axis(voxels, path):
    sitk.WriteImage(sitk.JoinSeries([itk_frame(voxels[..., phase]) for phase in range(PHASES)]), str(path))
    return path


def write_components(voxels, path):
    sitk.WriteImage(sitk.Compose([itk_frame(voxels[..., phase]) for phase in range(PHASES)]), str(path))
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.nii", write_nifti),
        ("a.nii.gz", write_nifti),
        ("a.mha", write_fourth_axis),
        ("a.mhd", write_fourth_axis),
        ("a.nrrd", write_fourth_axis),
        ("a.seq.nrrd", write_components),
        ("a.mha", write_components),
    ],
)
def test_formats_agree(voxels, tmp_path, name, write):
    cine = read_cine(write(voxels, tmp_path / name))
    np.testing.assert_array_equal(cine.array, voxels)
    assert cine.array.dtype == np.int16
    np.testing.assert_allclose(cine.affine, AFFINE, atol=1e-6)
    assert cine.name == "a" and cine.source == tmp_path / name and cine.instances == ()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_a_frame_is_a_cine_of_one_phase(voxels, tmp_path, name):
    if name.endswith("mha"):
        sitk.WriteImage(itk_frame(voxels[..., 0]), str(tmp_path / name))
    else:
        write_nifti(voxels[..., 0], tmp_path / name)
    cine = read_cine(tmp_path / name)
    assert cine.phases == 1 and cine.times_ms is None and math.isnan(cine.heart_rate_bpm)
    np.testing.assert_array_equal(cine.frame(0).array, voxels[..., 0].astype(np.float32))


@pytest.mark.parametrize(
    ("step", "unit", "step_ms"),
    [
        (0.04, "sec", 40),
        (40, "msec", 40),
        (40_000, "usec", 40),
        (0.04, "unknown", 40),
        (40, "unknown", 40),
        (20, "msec", 20),
        (1, "sec", None),
        (1, "unknown", None),
        (0, "sec", None),
    ],
)
def test_times_are_taken_where_they_make_a_cycle(voxels, tmp_path, step, unit, step_ms):
    cine = read_cine(write_nifti(voxels, tmp_path / "a.nii", step, unit))
    if step_ms is None:
        assert cine.times_ms is None and math.isnan(cine.rr_ms) and cine.about == {}
    else:
        np.testing.assert_allclose(cine.times_ms, step_ms * np.arange(PHASES), rtol=1e-5)
        assert cine.rr_ms == pytest.approx(step_ms * PHASES)
        assert cine.heart_rate_bpm == pytest.approx(60_000 / PHASES / step_ms)
        assert cine.about["cycle"].startswith(f"20 phases x {step_ms:.1f} ms = {20 * step_ms} ms. If the scan does not")
        assert cine.remarks == ()  # each would be a quality flag


@pytest.mark.parametrize("unit", ["sec", "msec", "unknown"])
def test_a_time_step_of_one_is_the_default_and_no_time(voxels, tmp_path, unit):
    # Two phases a second apart would make a cycle.
    assert read_cine(write_nifti(voxels[..., :2], tmp_path / "a.nii", 1, unit)).times_ms is None


def test_scaled_voxels_are_scaled(voxels, tmp_path):
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii")
    cine = read_cine(tmp_path / "a.nii")
    assert cine.array.dtype == np.float32
    np.testing.assert_allclose(cine.array, np.asanyarray(nib.load(tmp_path / "a.nii").dataobj), rtol=1e-6)


@pytest.mark.parametrize(
    ("scales", "remark"),
    [
        ((1.5, 1.4, 10), "sform has a spacing of 1.5 x 1.4 x 10 mm, its pixdim one of 1.5 x 1.4 x 8 mm; pixdim and"),
        ((1, 1, 1), ""),  # as ACDC's: no spacing, so nothing is contradicted
        ((math.nan, 1.4, 8), ""),
    ],
)
def test_an_sform_that_contradicts_pixdim_is_remarked_on(voxels, tmp_path, scales, remark):
    path = write_nifti(voxels, tmp_path / "a.nii")
    image = nib.load(path)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = np.diag([*scales, 1])[:3]
    image.header["sform_code"] = 1
    raw = path.read_bytes()
    path.write_bytes(image.header.binaryblock + raw[len(image.header.binaryblock) :])
    cine = read_cine(path)
    assert cine.spacing_mm == pytest.approx((1.5, 1.4, 8))  # as ITK and MONAI read it
    assert len(cine.remarks) == bool(remark) and all(remark in found for found in cine.remarks)


def test_acdc_cine_has_its_spacing(acdc_dir):
    cine = read_cine(acdc_dir / "training" / "patient090" / "patient090_4d.nii.gz")
    assert cine.array.shape == (154, 224, 7, 12) and cine.times_ms is None
    np.testing.assert_allclose(cine.spacing_mm, (1.78571, 1.78571, 10), atol=1e-4)


def truncated(voxels, path):
    write_fourth_axis(voxels, path)
    path.write_bytes(path.read_bytes()[:3000])


def with_a_blank_phase(voxels, path):
    voxels[..., 7] = 5
    write_fourth_axis(voxels, path)


def of_two_dimensions(voxels, path):
    sitk.WriteImage(sitk.GetImageFromArray(voxels[..., 0, 0]), str(path))


def without_spacing(voxels, path):
    sitk.WriteImage(sitk.GetImageFromArray(voxels[..., 0].T), str(path))


def with_sheared_slices(voxels, path):
    image = itk_frame(voxels[..., 0])
    image.SetDirection((1, 0, 0.1, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_sheared_slices, "the slices lean up to .* beside their common normal, expected at most a pixel"),
        (truncated, "truncated, corrupted or of another format"),
        (with_a_blank_phase, "phase 8: all voxels are 5, expected an image"),
        (of_two_dimensions, "a 2D image, expected a 3D frame or a 4D cine"),
        (without_spacing, "a spacing of 1 x 1 x 1 mm, expected 2 to 30 mm between slices"),
        (lambda voxels, path: path.write_text("nothing"), "truncated, corrupted or of another format"),
        (lambda voxels, path: path.mkdir(), "a folder, expected an image file"),
        (lambda voxels, path: None, "no such file, expected an image file"),
    ],
)
def test_bad_files_are_refused_by_name(voxels, tmp_path, write, message):
    write(voxels, tmp_path / "a.mha")
    with pytest.raises(InputError, match=rf"a\.mha: {message}"):
        read_cine(tmp_path / "a.mha")


def test_nifti_phases_are_checked(voxels, tmp_path):
    voxels = voxels.astype(np.float32)
    voxels[3, 3, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"phase 5: 1 voxels are NaN"):
        read_cine(write_nifti(voxels, tmp_path / "a.nii"))


def test_other_names_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"not named as an image file, expected an image file \(\.nii"):
        read_cine(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("name", "case"), [("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("A.SEQ.NRRD", "A"), ("x.nhdr", "x"), ("plain", "plain")]
)
def test_case_names(tmp_path, name, case):
    assert case_name(tmp_path / name) == case

import contextlib
import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.orientations import apply_orientation, inv_ornt_aff

from cardiac_cine.annotation.mask_files import read_mask, structure_id, write_for_viewer
from cardiac_cine.errors import InputError
from cardiac_cine.images import Frame

SHAPE = (5, 6, 4)
# Oblique: 30 degrees about x, then 20 about z, spacing 1.5 x 1.25 x 8 mm.
C, S, E, F = np.cos(np.pi / 6), np.sin(np.pi / 6), np.cos(np.pi / 9), np.sin(np.pi / 9)
ROTATION = np.array([[E, -F, 0], [F, E, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, C, -S], [0, S, C]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = ROTATION * [1.5, 1.25, 8.0]
AFFINE[:3, 3] = [10, -20, 30]
IMAGE = Frame(Path("case_phase01"), np.zeros(SHAPE), AFFINE)
MASK = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
RV_MYO_LV = [{"name": "rv"}, {"name": "myo"}, {"name": "lv"}]


def write(array, affine, path):
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    else:
        image = sitk.GetImageFromArray(array.T)
        lps = np.diag([-1, -1, 1, 1]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_formats(suffix, tmp_path):
    np.testing.assert_array_equal(read_mask(write(MASK, AFFINE, tmp_path / f"a{suffix}"), IMAGE), MASK)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_types(dtype, tmp_path):
    read = read_mask(write(MASK.astype(dtype), AFFINE, tmp_path / "a.nii.gz"), IMAGE)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, MASK)


@pytest.mark.parametrize(
    "orientation",
    [
        [[0, -1], [1, 1], [2, 1]],
        [[0, -1], [1, -1], [2, -1]],
        [[1, 1], [0, -1], [2, 1]],
        [[2, -1], [0, 1], [1, -1]],
    ],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_flipped_and_reordered_axes_are_put_back(orientation, suffix, tmp_path):
    array = apply_orientation(MASK, np.array(orientation))
    affine = AFFINE @ inv_ornt_aff(np.array(orientation), SHAPE)
    np.testing.assert_array_equal(read_mask(write(array, affine, tmp_path / f"a{suffix}"), IMAGE), MASK)


def test_an_sform_of_unit_scale_gives_way_to_pixdim(tmp_path):
    image = nib.Nifti1Image(MASK, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.header.set_sform(np.eye(4), code=1)
    image.header["pixdim"][1:4] = [1.5, 1.25, 8.0]
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii.gz", IMAGE), MASK)


@pytest.mark.parametrize(
    ("shape", "scale", "shift", "message"),
    [
        ((5, 6, 3), 1, 0, r"shape \(5, 6, 3\), expected \(5, 6, 4\).*5 x 6 x 3 voxels of 1.5 x 1.25 x 8 mm"),
        (SHAPE, 1.1, 0, r"mm off case_phase01.*found 5 x 6 x 4 voxels of 1.65 x 1.375 x 8.8 mm, .*1.5 x 1.25 x 8 mm"),
        (SHAPE, 1, 0.5, "0.50 mm off case_phase01"),
    ],
)
def test_other_grids_are_refused(shape, scale, shift, message, tmp_path):
    affine = AFFINE.copy()
    affine[:3, :3] *= scale
    affine[0, 3] += shift
    with pytest.raises(InputError, match=message):
        read_mask(write(np.ones(shape, np.uint8), affine, tmp_path / "a.nii.gz"), IMAGE)


def test_a_turned_grid_is_refused(tmp_path):
    affine = AFFINE.copy()
    affine[:3, :3] = affine[:3, :3] @ np.array([[0.98, -0.2, 0], [0.2, 0.98, 0], [0, 0, 1]])
    with pytest.raises(InputError, match="mm off case_phase01"):
        read_mask(write(MASK, affine, tmp_path / "a.nii.gz"), IMAGE)


@pytest.mark.parametrize(
    ("values", "segments", "expected"),
    [
        ([1, 2, 3], [], [1, 2, 3]),
        ([1, 2, 3], RV_MYO_LV, [1, 2, 3]),
        ([1, 2, 3], [{"name": "lv"}, {"name": "rv"}, {"name": "MYO"}], [3, 1, 2]),
        ([1], [{"name": "left ventricular cavity"}], [3]),
        ([3], [{"name": "lv"}], [3]),
        ([1, 2], [{"name": "rv"}, {"name": "lv"}], [1, 3]),
        ([2, 3], [{"name": "myo"}, {"name": "lv"}], [2, 3]),
        ([7, 5], [{"name": "rv", "value": 5}, {"name": "lv", "value": 7}], [3, 1]),
        ([1, 3], [{"name": "rv"}, {"name": "scar"}, {"name": "lv"}], [1, 3]),
    ],
)
def test_values_mean_what_the_viewer_says(values, segments, expected, tmp_path):
    array, wanted = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    array[: len(values), 2, 1], wanted[: len(values), 2, 1] = values, expected
    np.testing.assert_array_equal(read_mask(write(array, AFFINE, tmp_path / "a.nii.gz"), IMAGE, segments), wanted)


@pytest.mark.parametrize(
    ("value", "segments", "message"),
    [
        (4, [], "voxels of value 4, expected one of rv, myo, lv"),
        (1.5, [], "voxels of value 1.5"),
        (-1, RV_MYO_LV, "voxels of value -1"),
        (np.nan, [], "voxels of value nan"),
        (1, [{"name": "scar"}], "the segment 'scar', expected one of rv, myo, lv"),
        (9, [{"name": "rv", "value": 1}], "voxels of value 9"),
        (1, [{"title": "rv"}], "must be a list of objects with a name"),
        (1, [{"name": "rv", "value": "x"}], "must be a list of objects with a name"),
    ],
)
def test_what_is_no_structure_is_refused(value, segments, message, tmp_path):
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = value
    with pytest.raises(InputError, match=message):
        read_mask(write(array, AFFINE, tmp_path / "a.nii.gz"), IMAGE, segments)


def write_segmentation(layers, segments, path):
    """Write layers (layer, x, y, z) as 3D Slicer writes a segmentation."""
    image = sitk.GetImageFromArray(np.moveaxis(layers, 0, -1).transpose(2, 1, 0, 3), isVector=True)
    template = sitk.ReadImage(str(write(layers[0], AFFINE, path.with_suffix(".mha"))))
    image.CopyInformation(template)
    for number, (name, value, layer) in enumerate(segments):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Layer", str(layer))
    sitk.WriteImage(image, str(path))
    return path


def test_layers_of_a_segmentation(tmp_path):
    layers, wanted = np.zeros((2, *SHAPE), np.uint8), np.zeros(SHAPE, np.uint8)
    layers[0, 0], layers[0, 1], layers[1, 3] = 1, 2, 1
    wanted[0], wanted[1], wanted[3] = 3, 1, 2
    path = write_segmentation(layers, [("LV", 1, 0), ("RV", 2, 0), ("myo", 1, 1)], tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(read_mask(path, IMAGE, RV_MYO_LV), wanted)


def test_segments_that_overlap_are_refused(tmp_path):
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[:, 2, 2, 2] = 1
    path = write_segmentation(layers, [("lv", 1, 0), ("myo", 1, 1)], tmp_path / "a.seg.nrrd")
    with pytest.raises(InputError, match="'myo' overlaps another"):
        read_mask(path, IMAGE)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.xyz"])
def test_files_that_are_none_are_refused_without_their_path(name, tmp_path):
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(InputError, match="the label is not readable") as error:
        read_mask(tmp_path / name, IMAGE)
    assert str(tmp_path) not in str(error.value)


def with_extension(path, size, *, announced=None, version=nib.Nifti1Image):
    """Write the mask with a header extension of zeros, of which the offset of the voxels may say something else."""
    header = version(MASK, AFFINE, dtype=np.uint8).header
    offset = header.single_vox_offset + size
    header["magic"], header["vox_offset"] = header.single_magic, offset if announced is None else announced
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as stream:
        stream.write(header.binaryblock + bytes([1, 0, 0, 0]) + struct.pack("<ii", size, 6))
        for start in range(8, size, 1 << 20):
            stream.write(bytes(min(1 << 20, size - start)))
        stream.write(MASK.tobytes(order="F"))
    return path


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_short_header_extension_is_passed_over(suffix, version, tmp_path):
    path = with_extension(tmp_path / f"a{suffix}", 4096, version=version)
    np.testing.assert_array_equal(read_mask(path, IMAGE), MASK)


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("announced", "message"),
    [
        (None, r"the label's header takes 50000\d{3} bytes, expected at most 65536"),
        (1024, "the label is not readable"),
        (0, "the label is not readable"),
    ],
)
def test_a_long_header_extension_is_refused_before_it_is_read(announced, message, version, tmp_path):
    size = 50_000_000 - 50_000_000 % 16
    path = with_extension(tmp_path / "a.nii.gz", size, announced=announced, version=version)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read_mask(path, IMAGE)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_what_is_damaged_is_read_or_refused_in_words(tmp_path):
    path = write(MASK, AFFINE, tmp_path / "a.nii.gz")
    whole = bytearray(path.read_bytes())
    for place in range(10, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(InputError):
            read_mask(path, IMAGE)


def test_a_cine_is_no_mask(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.uint8), AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"of shape \(5, 6, 4, 2\), expected a 3D image"):
        read_mask(tmp_path / "a.nii.gz", IMAGE)


@pytest.mark.parametrize(
    ("name", "expected"), [("rv", 1), (" LV ", 3), ("Left ventricular myocardium", 2), ("heart", None), ("", None)]
)
def test_structure_id(name, expected):
    assert structure_id(name) == expected


@pytest.mark.parametrize("name", ["mask.nrrd", "mask.nii.gz", "mask.nii"])
def test_what_a_viewer_gets_lies_on_the_image(tmp_path, name):
    path = tmp_path / name
    write_for_viewer(MASK, AFFINE, path)
    np.testing.assert_array_equal(read_mask(path, IMAGE), MASK)
    if name == "mask.nrrd":
        header, _, voxels = path.read_bytes().partition(b"\n\n")
        assert b"encoding: raw" in header and b"type: unsigned char" in header
        assert voxels == MASK.tobytes(order="F")
        assert sitk.ReadImage(str(path)).GetSize() == MASK.shape
    else:
        np.testing.assert_allclose(nib.load(path).affine, AFFINE, atol=1e-4)

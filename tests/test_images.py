import gzip
import re

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from cardiac_cine import images
from cardiac_cine.errors import InputError
from cardiac_cine.images import case_name, check_pair, find_frames, read_frame, read_label, write_mask

SPACING = (1.6, 1.3, 8.0)
COLOURS = [(name, np.uint8) for name in "RGB"]
# A short-axis plane: axes rotated out of all three world planes.
OBLIQUE = nib.eulerangles.euler2mat(0.4, -0.3, 0.9)


def heart(shape=(96, 80, 6)):
    """Concentric ellipses, smaller towards the apex, on noise."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.hypot(x, 1.2 * y) * (1.4 + 0.3 * z)
    return 400 * (radius < 0.5) - 150 * (radius < 0.25) + 40 * rng.random(shape) + 20


def affine_of(spacing=SPACING, rotation=OBLIQUE, origin=(-60, 20, 35)):
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def write_stack(path, array=None, affine=None, dtype=np.int16):
    """Write a NIfTI file; by default a plausible oblique short-axis frame."""
    array = heart() if array is None else array
    image = nib.Nifti1Image(array.astype(dtype), affine_of() if affine is None else affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_like_acdc(path, array=None, spacing=SPACING):
    """Write as ACDC does: an sform of unit scale, no qform, the spacing in pixdim alone."""
    image = nib.Nifti1Image((heart() if array is None else array).astype(np.int16), None)
    image.header.set_zooms(spacing)
    image.set_sform(np.diag([-1.0, -1, 1, 1]), code=2, update_affine=False)
    image.set_qform(None, code=0)
    image.header.set_zooms(spacing)
    image.header["quatern_d"] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    assert not np.allclose(np.diag(nib.load(path).affine)[:3], spacing)
    return path


def patch_header(path, **fields):
    """Overwrite fields of an uncompressed NIfTI file's header, as they are."""
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


def with_pixdim(*spacing):
    def write(folder):
        return patch_header(write_stack(folder / "a.nii"), pixdim=[1, *spacing, 0, 0, 0, 0])

    return write


def with_array(array, **kwargs):
    return lambda folder: write_stack(folder / "a.nii.gz", array, **kwargs)


def with_bytes(change, name="a.nii.gz"):
    def write(folder):
        path = write_stack(folder / name)
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


def with_voxel(value):
    array = heart()
    array[3, 4, 2] = value
    return with_array(array, dtype=np.float32)


def flip_bit(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def parallel_axes():
    affine = affine_of(rotation=np.eye(3))
    affine[:3, 1] = affine[:3, 0] * SPACING[1] / SPACING[0]
    return affine


def sheared(axis, along, ratio):
    """Return an affine with so much of one axis' direction in another one."""
    shear = np.eye(3)
    shear[axis, along] = ratio
    return affine_of(rotation=OBLIQUE @ shear)


def broken_orientation(folder):
    path = patch_header(write_stack(folder / "a.nii"), srow_x=[0, 0, 0, 0], qform_code=1)
    return patch_header(path, quatern_b=1, quatern_c=1, quatern_d=1)


def named(name):
    def write(folder):
        write_stack(folder / "a.nii.gz")
        return (folder / "a.nii.gz").rename(folder / name)

    return write


BAD_FILES = {
    "missing": (lambda folder: folder / "a.nii.gz", "no such file"),
    "folder": (lambda folder: folder, "a folder, expected one 3D NIfTI frame"),
    "not named NIfTI": (named("a.dcm"), "not named as NIfTI"),
    "empty": (with_bytes(lambda data: b""), "the file is empty"),
    "text": (with_bytes(lambda data: b"no image" * 99, "a.nii"), "not readable as NIfTI"),
    "text named gzip": (with_bytes(lambda data: b"no image" * 99), "not readable as NIfTI"),
    "plain named gzip": (with_bytes(gzip.decompress), "not readable as NIfTI"),
    "header cut": (with_bytes(lambda data: data[:200], "a.nii"), "not readable as NIfTI"),
    "gzip cut in the header": (with_bytes(lambda data: data[:40]), "not readable as NIfTI"),
    "gzip cut in the voxels": (with_bytes(lambda data: data[: len(data) // 2]), "truncated or corrupted"),
    "gzip cut in the checksum": (with_bytes(lambda data: data[:-6]), "truncated or corrupted"),
    "gzip checksum wrong": (with_bytes(lambda data: flip_bit(data, len(data) - 6)), "truncated or corrupted.*CRC"),
    "voxels cut": (with_bytes(lambda data: data[:-100], "a.nii"), "truncated or corrupted"),
    "2D": (with_array(heart()[..., 0]), r"a 2D image of shape \(96, 80\); expected one 3D frame"),
    "4D": (with_array(np.stack([heart()] * 3, -1)), r"a 4D image of shape \(96, 80, 6, 3\), a cine; expected one 3D"),
    "5D": (with_array(np.ones((4, 4, 3, 1, 2))), r"a 5D image of shape \(4, 4, 3, 1, 2\); expected one 3D frame"),
    "complex": (with_array(heart(), dtype=np.complex64), "voxels of type complex64, expected real numbers"),
    "colours": (with_array(np.ones((96, 80, 6)), dtype=COLOURS), "voxels of type .*, expected real numbers"),
    "one slice": (
        with_array(heart((96, 80, 1))),
        r"number of slices \(third axis\) is 1, expected a stack of 2 to 100",
    ),
    "too many slices": (with_array(np.ones((50, 50, 101))), r"number of slices \(third axis\) is 101"),
    "too many pixels": (with_array(np.ones((1025, 50, 2))), "1025 x 50 pixels, expected at most 1024"),
    "slices first": (with_array(np.moveaxis(heart(), 2, 0)), "a field of view of 10 x 125 mm, expected at least 64 mm"),
    "zero spacing": (with_pixdim(1.6, 0, 8), "a spacing of 1.6 x 0 x 8 mm, expected positive numbers"),
    "negative spacing": (with_pixdim(1.6, 1.3, -8), "a spacing of 1.6 x 1.3 x -8 mm, expected positive numbers"),
    "NaN spacing": (with_pixdim(np.nan, 1.3, 8), "a spacing of nan x 1.3 x 8 mm, expected positive numbers"),
    "spacing in metres": (with_pixdim(0.0016, 0.0013, 0.008), r"expected 0.3 to 5 mm in plane"),
    "spacing in micrometres": (with_pixdim(1600, 1300, 8000), r"expected 0.3 to 5 mm in plane"),
    "spacing never set": (with_pixdim(1, 1, 1), "a spacing of 1 x 1 x 1 mm, expected 2 to 30 mm between slices"),
    "parallel axes": (
        with_array(heart(), affine=parallel_axes()),
        r"rows and columns are skewed by 152.00 mm over the image, expected at most a pixel \(1.30 mm\)",
    ),
    "sheared in plane": (
        with_array(heart(), affine=sheared(0, 1, 0.02)),
        "rows and columns are skewed by 3.04 mm over the image",
    ),
    "sheared stack": (
        with_array(heart(), affine=sheared(1, 2, 0.05)),
        r"the slices lean up to 2.00 mm beside their common normal, expected at most a pixel \(1.30 mm\)",
    ),
    "no orientation": (broken_orientation, "neither sform nor qform is usable"),
    "NaN": (with_voxel(np.nan), "1 voxels are NaN or infinite, expected finite intensities"),
    "infinite": (with_voxel(np.inf), "1 voxels are NaN or infinite"),
    "beyond float32": (
        with_array(heart() * 1e300, dtype=np.float64),
        "voxels are NaN or infinite, expected finite intensities",
    ),
    "constant": (with_array(np.full((96, 80, 6), 7)), "all voxels are 7, expected an image"),
    "mask": (with_array(np.digitize(heart(), (100, 300, 400))), "all voxels are labels, as in a mask"),
}


@pytest.mark.parametrize(("write", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_frame_is_refused_by_name(tmp_path, write, message):
    path = write(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_frame(path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)


def test_all_problems_of_a_header_are_listed(tmp_path):
    path = write_stack(tmp_path / "a.nii.gz", np.ones((90, 90, 1)), affine_of((9, 9, 8)))
    write_stack(path, np.ones((2000, 90, 1)))
    with pytest.raises(InputError) as caught:
        read_frame(path)
    assert len(caught.value.problems) == 2


def test_frame_has_voxels_and_true_spacing(tmp_path):
    frame = read_frame(write_stack(tmp_path / "a.b.nii.gz", heart(), dtype=np.float32))
    np.testing.assert_array_equal(frame.array, heart().astype(np.float32))
    assert frame.array.dtype == np.float32
    np.testing.assert_allclose(frame.affine, affine_of(), atol=1e-5)
    assert frame.spacing_mm == pytest.approx(SPACING)
    assert frame.name == "a.b"


@pytest.mark.parametrize(("axis", "along", "ratio"), [(0, 1, 0.008), (0, 2, 0.03), (1, 2, -0.03)])
def test_axes_may_lean_by_less_than_a_pixel(tmp_path, axis, along, ratio):
    # Over 152 mm of rows and 40 mm of slices 1.2 mm, of pixels of 1.3 mm.
    read_frame(write_stack(tmp_path / "a.nii.gz", affine=sheared(axis, along, ratio)))


def test_sform_of_unit_scale_is_repaired(tmp_path):
    frame = read_frame(write_like_acdc(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(frame.affine, np.diag([-1.6, -1.3, 8.0, 1]), rtol=1e-6)


def as_qform_only(folder):
    path = write_stack(folder / "a.nii")
    return patch_header(path, sform_code=0, qform_code=1)


def as_no_form(folder):
    return patch_header(write_stack(folder / "a.nii"), sform_code=0, qform_code=0)


def as_nan_sform(folder):
    return patch_header(write_stack(folder / "a.nii"), srow_x=[np.nan] * 4)


def as_scaled(folder):
    return patch_header(write_stack(folder / "a.nii"), scl_slope=0.37, scl_inter=-11)


def as_big_endian(folder):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(heart().astype(">i2"), affine_of(), header)
    nib.save(image, folder / "a.nii.gz")
    return folder / "a.nii.gz"


def as_nifti2(folder):
    nib.save(nib.Nifti2Image(heart(), affine_of()), folder / "a.nii.gz")
    return folder / "a.nii.gz"


@pytest.mark.parametrize(
    "write",
    [
        with_array(heart()),
        with_array(heart(), dtype=np.float64),
        lambda folder: write_like_acdc(folder / "a.nii.gz"),
        as_qform_only,
        as_no_form,
        as_nan_sform,
        as_scaled,
        as_big_endian,
        as_nifti2,
    ],
)
def test_reads_what_monai_reads(tmp_path, write):
    path = write(tmp_path)
    frame, loaded = read_frame(path), LoadImage()(path)
    np.testing.assert_array_equal(frame.array, loaded.numpy())
    np.testing.assert_array_equal(frame.affine, loaded.affine.numpy())


@pytest.mark.acdc
def test_acdc_frames_and_references_are_read(acdc_dir):
    for path in find_frames(acdc_dir / "training")[::40]:
        frame = read_frame(path)
        loaded = LoadImage()(path)
        np.testing.assert_array_equal(frame.array, loaded.numpy())
        np.testing.assert_array_equal(frame.affine, loaded.affine.numpy())
        assert 0.7 <= frame.spacing_mm[0] <= 1.95 and 5 <= frame.spacing_mm[2] <= 10
        check_pair(frame, read_label(path.with_name(f"{frame.name}_gt.nii.gz")))


def label_stack(*values):
    array = np.zeros((96, 80, 6), np.float32)
    array.flat[: len(values)] = values
    return array


def test_label_is_read_as_ids(tmp_path):
    label = read_label(write_stack(tmp_path / "a_gt.nii.gz", label_stack(1, 2, 3), dtype=np.float32))
    assert label.array.dtype == np.uint8
    np.testing.assert_array_equal(label.array, label_stack(1, 2, 3))
    assert not read_label(write_stack(tmp_path / "empty_gt.nii.gz", label_stack())).array.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 4), r"holds label values 4, expected only \(0, 1, 2, 3\)"),
        ((-1, 1), "holds label values -1, "),
        ((0.5, 1), "holds label values 0.5, "),
        ((np.nan, 1), "holds label values nan, "),
        ((5, 6, 7, 8, 9, 10), r"holds label values 5, 6, 7, 8, 9, \.\.\., expected"),
    ],
)
def test_other_label_values_are_refused(tmp_path, values, message):
    path = write_stack(tmp_path / "a_gt.nii.gz", label_stack(*values), dtype=np.float32)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}"):
        read_label(path)


def test_label_file_is_checked_as_a_frame_is(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_label(tmp_path / "a_gt.nii.gz")


def test_pair_on_one_grid(tmp_path):
    image = read_frame(write_stack(tmp_path / "a.nii.gz"))
    moved = affine_of(origin=(-60.05, 20, 35))
    check_pair(image, read_label(write_stack(tmp_path / "a_gt.nii.gz", label_stack(1), moved)))


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (label_stack()[:-1], affine_of(), r"shape \(95, 80, 6\), expected \(96, 80, 6\) as .*a.nii.gz"),
        (label_stack(), affine_of(origin=(-60, 20, 36)), "lies up to 1.00 mm off .*a.nii.gz, expected the same affine"),
        (label_stack(), affine_of((1.6, 1.3, 8.1)), "lies up to 0.50 mm off"),
        (label_stack(), affine_of(rotation=np.eye(3)), "lies up to 152.90 mm off"),
    ],
)
def test_pair_on_two_grids_is_refused(tmp_path, array, affine, message):
    image = read_frame(write_stack(tmp_path / "a.nii.gz"))
    label = read_label(write_stack(tmp_path / "a_gt.nii.gz", array, affine))
    with pytest.raises(InputError, match=f"a_gt.nii.gz: {message}"):
        check_pair(image, label)


def test_frames_are_found_at_any_depth(tmp_path):
    frames = ["b.nii", "p1/p1_frame01.nii.gz", "p1/p1_frame12.nii.gz", "p1/x/scan.1.nii.gz", "label.nii.gz", "4d.nii"]
    others = ["a_gt.nii.gz", "a_seg.nii.gz", "p1/a_label.nii", "p1/p1_4d.nii.gz", ".a.nii", "p1/._p1.nii.gz", "a.txt"]
    others += [".cache/c.nii"]
    for name in [*frames, *others, "OUT/a/a_seg.nii.gz"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert find_frames(tmp_path) == sorted(tmp_path / name for name in frames)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "p1").symlink_to(tmp_path / "p1")
    assert len(find_frames(tmp_path / "links")) == 3


def test_folder_without_a_frame_is_refused(tmp_path):
    (tmp_path / "a_4d.nii.gz").touch()
    with pytest.raises(InputError, match=r"no frame below it; only 3D NIfTI frames .* are supported"):
        find_frames(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_frames(tmp_path / "nowhere")


def test_frames_of_one_name_are_refused(tmp_path):
    for name in ("p1/a.nii.gz", "p2/a.nii", "p1/b.nii", "p2/b.nii", "c.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"p1/a.nii.gz and .*p2/a.nii: the results of both would be named a") as caught:
        find_frames(tmp_path)
    assert len(caught.value.problems) == 2


def test_case_name(tmp_path):
    names = ("a.nii", "a.nii.gz", "a.b.nii.gz", "A.NII.GZ", "A.NII")
    assert [case_name(tmp_path / name) for name in names] == ["a", "a", "a.b", "A", "A"]


@pytest.mark.parametrize("name", ["HEART.NII.GZ", "heart.nii.GZ", "heart.NII", "HEART.NII.gz"])
def test_names_may_be_in_capitals(tmp_path, name):
    path = write_stack(tmp_path / "a.nii.gz" if name.lower().endswith("gz") else tmp_path / "a.nii").rename(
        tmp_path / name
    )
    np.testing.assert_array_equal(read_frame(path).array, heart().astype(np.int16))


def test_a_damaged_file_in_capitals_is_noticed(tmp_path):
    path = with_bytes(lambda data: flip_bit(data, len(data) - 6))(tmp_path).rename(tmp_path / "HEART.NII.GZ")
    with pytest.raises(InputError, match="truncated or corrupted"):
        read_frame(path)


def test_mask_comes_back_as_written(tmp_path):
    mask = label_stack(0, 1, 2, 3).astype(np.int64)
    path = write_mask(mask, affine_of(), tmp_path / "new" / "out", "case")
    assert path == tmp_path / "new" / "out" / "case" / "case_seg.nii.gz"
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8 and image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(image.dataobj), mask)
    for affine in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(affine, affine_of(), atol=1e-5)
    assert read_label(path).spacing_mm == pytest.approx(SPACING)


def test_mask_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    earlier = write_mask(label_stack(1).astype(int), affine_of(), tmp_path, "old").read_bytes()

    def die_midway(image, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(images.nib, "save", die_midway)
    for name in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            write_mask(label_stack(2).astype(int), affine_of(), tmp_path, name)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tmp_path / "old" / "old_seg.nii.gz"] and left[0].read_bytes() == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("mask", [np.zeros((4, 4), int), np.zeros((4, 4, 4), np.float32)])
def test_mask_must_be_3d_and_integer(tmp_path, mask):
    with pytest.raises(ValueError, match="mask must be a 3D or 4D integer array"):
        write_mask(mask, np.eye(4), tmp_path, "case")

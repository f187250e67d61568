"""NIfTI at the edge: frames and reference masks are checked as they are read, results are written whole.

Arrays are (x, y, z) with the slices along z. Affines carry the true spacing, which stands in the header's pixdim:
ACDC's files have an sform of unit scale, and MONAI's ``LoadImaged`` repairs that by the same rule.
"""

import gzip
import itertools
import re
import tempfile
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from cardiac_cine import geometry
from cardiac_cine.errors import InputError
from cardiac_cine.labels import BACKGROUND, STRUCTURE_IDS

# The rule of inference.json's "is_frame": no hidden file, no reference, no earlier result, no cine.
FRAME_NAME = re.compile(r"(?!\.)(.+)(?<!_gt)(?<!_seg)(?<!_label)(?<!_4d)\.nii(\.gz)?")
RESULT_POSTFIX = "_seg.nii.gz"
EXPECTED = "expected one 3D NIfTI frame (.nii or .nii.gz)"

# Cine MR has pixels of 0.7-2 mm; beyond these limits the header holds metres, micrometres or another kind of scan.
IN_PLANE_MM = (0.3, 5.0)
# Short-axis slices lie 5-10 mm apart; 1 mm is what tools write that never knew the spacing.
BETWEEN_SLICES_MM = (2.0, 30.0)
# A heart is 100 mm wide; much smaller fields would also leave the network's deepest level a single pixel.
MIN_FIELD_OF_VIEW_MM = 64.0
# Scanners interpolate to 512 pixels and a heart fits 20 slices: far more is another kind of scan, and much memory.
MAX_PIXELS = 1024
SLICES = (2, 100)
# Orthogonal axes span a unit cube of volume 1, parallel ones of 0.
MIN_AXES_DETERMINANT = 0.1
# Headers round to float32 and tools convert between RAS and LPS: micrometres. Half a pixel is 0.15 mm or more.
GRID_TOLERANCE_MM = 0.1

_CHUNK_BYTES = 1 << 20
_LISTED_VALUES = 5
_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One 3D image of a short-axis stack.

    Attributes:
        path: the file it comes from.
        array: voxels, (x, y, z); float32 intensities or uint8 labels.
        affine: 4 x 4 voxel-to-world matrix with the true spacing, mm.
    """

    path: Path
    array: np.ndarray
    affine: np.ndarray

    @property
    def name(self) -> str:
        """The file's name without its extension."""
        return case_name(self.path)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing along x, y and z in mm."""
        return geometry.spacing_mm(self.affine)


def case_name(path: Path) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz, the name its results are written under."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def find_frames(folder: Path) -> list[Path]:
    """List the frames below a folder, at any depth, sorted.

    Hidden files and names that end in _gt, _seg, _label or _4d are no frames. inference.json finds the same files.

    Raises:
        InputError: there is no such folder, no frame in it, or two frames have one name and so one result.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one that holds NIfTI frames")
    frames = sorted(path for path in folder.rglob("*") if path.is_file() and FRAME_NAME.fullmatch(path.name))
    if not frames:
        raise InputError(
            f"{folder}: no frame below it; only 3D NIfTI frames (.nii, .nii.gz) are supported, and names ending in "
            "_gt, _seg, _label or _4d are not taken for frames"
        )
    by_name = defaultdict(list)
    for path in frames:
        by_name[case_name(path)].append(str(path))
    problems = [
        f"{' and '.join(paths)}: the results of both would be named {name}, expected unique names"
        for name, paths in by_name.items()
        if len(paths) > 1
    ]
    if problems:
        raise InputError(problems)
    return frames


def read_frame(path: Path) -> Frame:
    """Read and check one frame.

    Returns:
        The frame, float32 intensities.

    Raises:
        InputError: with all that is wrong. The file is missing, empty, no NIfTI, truncated or corrupted; the image is
            not 3D, has a single slice or an absurd size, spacing or affine; voxels are NaN, infinite or all the same.
    """
    frame = _read(path)
    array = frame.array
    if not np.isfinite(array).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise InputError(f"{path}: {count} voxels are NaN or infinite, expected finite intensities")
    if array.min() == array.max():
        raise InputError(f"{path}: all voxels are {array.min():g}, expected an image")
    return frame


def read_label(path: Path) -> Frame:
    """Read and check one reference mask. A mask of background alone is returned as it is.

    Returns:
        The mask, uint8 label ids.

    Raises:
        InputError: as :func:`read_frame` for the file and its grid, or voxels that are no label id of 0 to 3.
    """
    frame = _read(path)
    ids = (BACKGROUND, *STRUCTURE_IDS)
    wrong = [value for value in np.unique(frame.array).tolist() if value not in ids]
    if wrong:
        listed = ", ".join(f"{value:g}" for value in wrong[:_LISTED_VALUES])
        more = ", ..." if len(wrong) > _LISTED_VALUES else ""
        raise InputError(f"{path}: holds label values {listed}{more}, expected only {ids}")
    return replace(frame, array=frame.array.astype(np.uint8))


def check_pair(image: Frame, label: Frame) -> None:
    """Check that a mask lies on its image's grid.

    Raises:
        InputError: shapes differ, or a corner of the grid is off by more than ``GRID_TOLERANCE_MM``.
    """
    if image.array.shape != label.array.shape:
        raise InputError(f"{label.path}: shape {label.array.shape}, expected {image.array.shape} as {image.path}")
    ends = [(0, size - 1) for size in image.array.shape]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    off = np.linalg.norm(corners @ (image.affine - label.affine).T, axis=1).max()
    if off > GRID_TOLERANCE_MM:
        raise InputError(f"{label.path}: lies up to {off:.2f} mm off {image.path}, expected the same affine")


def write_mask(mask: np.ndarray, affine: np.ndarray, output_dir: Path, name: str) -> Path:
    """Write ``output_dir/name/name_seg.nii.gz``, whole or not at all.

    Args:
        mask: label ids, (x, y, z).
        affine: 4 x 4 voxel-to-world matrix, mm.
        output_dir: made where missing.
        name: the case.

    Returns:
        The file written. An earlier one is replaced.

    Raises:
        ValueError: ``mask`` is not 3D or not of integers.
    """
    if mask.ndim != 3 or not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"mask must be a 3D integer array, got shape {mask.shape} of {mask.dtype}")
    image = nib.Nifti1Image(mask.astype(np.uint8), affine)
    # Both forms, since readers differ in which one they take.
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    path = output_dir / name / f"{name}{RESULT_POSTFIX}"
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staged-", dir=output_dir) as staging:
        staged = Path(staging) / path.name
        nib.save(image, staged)
        path.parent.mkdir(exist_ok=True)
        staged.replace(path)
    return path


def _read(path: Path) -> Frame:
    """Read a file and check all but the meaning of its voxels."""
    image = _open(path)
    problems = _shape_problems(image)
    if not problems:
        problems = _spacing_problems(image, path)
    affine = np.eye(4)
    if not problems:
        affine, problems = _true_affine(image)
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems])
    return Frame(path, _voxels(image, path), affine)


def _open(path: Path) -> nib.Nifti1Image:
    if path.is_dir():
        raise InputError(f"{path}: a folder, {EXPECTED}")
    if not path.is_file():
        raise InputError(f"{path}: no such file, {EXPECTED}")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: not named as NIfTI, {EXPECTED}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, {EXPECTED}")
    try:
        return nib.load(path)
    except _UNREADABLE as error:
        raise InputError(f"{path}: not readable as NIfTI ({error}), {EXPECTED}") from None


def _shape_problems(image: nib.Nifti1Image) -> list[str]:
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) == 4:
        return [f"a 4D image of shape {shape}, a cine; expected one 3D frame"]
    if len(shape) != 3:
        return [f"a {len(shape)}D image of shape {shape}; expected one 3D frame"]
    problems = []
    if dtype.fields or np.issubdtype(dtype, np.complexfloating):
        problems.append(f"voxels of type {dtype}, expected real numbers")
    if max(shape[:2]) > MAX_PIXELS:
        problems.append(f"{shape[0]} x {shape[1]} pixels, expected at most {MAX_PIXELS} along each axis")
    if not SLICES[0] <= shape[2] <= SLICES[1]:
        problems.append(f"number of slices (last axis) is {shape[2]}, expected a stack of {SLICES[0]} to {SLICES[1]}")
    return problems


def _spacing_problems(image: nib.Nifti1Image, path: Path) -> list[str]:
    # nibabel replaces zero and negative values as it loads, so they are read once more as they are.
    with ImageOpener(path) as stream:
        spacing = image.header_class.from_fileobj(stream, check=False)["pixdim"][1:4].astype(float)
    x, y, z = spacing.tolist()
    found = f"a spacing of {x:g} x {y:g} x {z:g} mm"
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        return [f"{found}, expected positive numbers in pixdim"]
    problems = []
    low, high = IN_PLANE_MM
    if not (low <= x <= high and low <= y <= high):
        problems.append(f"{found}, expected {low:g} to {high:g} mm in plane")
    low, high = BETWEEN_SLICES_MM
    if not low <= z <= high:
        problems.append(f"{found}, expected {low:g} to {high:g} mm between slices, along the last axis")
    width, height = spacing[:2] * image.shape[:2]
    if min(width, height) < MIN_FIELD_OF_VIEW_MM:
        problems.append(
            f"a field of view of {width:.0f} x {height:.0f} mm, expected at least {MIN_FIELD_OF_VIEW_MM:g} mm "
            "along the first two axes, slices along the last"
        )
    return problems


def _true_affine(image: nib.Nifti1Image) -> tuple[np.ndarray, list[str]]:
    """Return the affine as ``LoadImaged`` repairs it: the qform, made from pixdim, where the sform has other scales."""
    if not np.allclose(image.header.get_zooms(), np.linalg.norm(image.affine[:3, :3], axis=0)):
        try:
            image.set_sform(image.get_qform())
        except ValueError as error:
            return image.affine, [f"neither sform nor qform is usable ({error}), expected an affine that fits pixdim"]
    affine = image.affine
    if not np.isfinite(affine).all():
        return affine, [f"an affine of {affine.tolist()}, expected finite numbers"]
    determinant = abs(np.linalg.det(affine[:3, :3])) / np.prod(geometry.spacing_mm(affine))
    if determinant < MIN_AXES_DETERMINANT:
        return affine, [f"a singular affine {affine.tolist()}, expected three axes of their own directions"]
    return affine, []


def _voxels(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    try:
        if path.suffix == ".gz":
            # nibabel stops short of the checksum at the end of the stream.
            with gzip.open(path) as stream:
                while stream.read(_CHUNK_BYTES):
                    pass
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
            return np.asanyarray(image.dataobj).astype(np.float32)
    except _UNREADABLE as error:
        raise InputError(f"{path}: truncated or corrupted ({error}), expected a whole NIfTI file") from None

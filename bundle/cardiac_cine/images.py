"""NIfTI at the edge: images and reference masks are checked as they are read, results are written whole.

Arrays are (x, y, z), or (x, y, z, t) for a cine, with the slices along z. Affines carry the true
spacing, which stands in the header's pixdim: ACDC's files have an sform of unit scale, and MONAI's ``LoadImaged``
repairs that by the same rule.
"""

import gzip
import itertools
import math
import re
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from tqdm import tqdm

from cardiac_cine import geometry
from cardiac_cine.errors import InputError
from cardiac_cine.folders import files_below
from cardiac_cine.labels import BACKGROUND, STRUCTURE_IDS
from cardiac_cine.stacks import CYCLE_MS, affine_problems, check_voxels, grid_problems

# What counts as a frame: no hidden file, no reference, no earlier result, no cine.
FRAME_NAME = re.compile(r"(?!\.)(.+)(?<!_gt)(?<!_seg)(?<!_label)(?<!_4d)\.nii(\.gz)?")
# In capitals, too, as nibabel finds them; it does not find .Nii.
_SUFFIX = re.compile(r"\.(nii|NII)(\.gz|\.GZ)?$")
RESULT_POSTFIX = "_seg.nii.gz"
EXPECTED = "expected one 3D NIfTI frame (.nii or .nii.gz)"
EXPECTED_CINE = "expected a NIfTI cine or frame (.nii or .nii.gz)"

# Headers round to float32 and tools convert between RAS and LPS: micrometres. Half a pixel is 0.15 mm or more.
GRID_TOLERANCE_MM = 0.1

_CHUNK_BYTES = 1 << 20
_MS_PER_UNIT = {"sec": 1000.0, "msec": 1.0, "usec": 0.001}
# What nibabel and others write where nobody told the time, in whatever unit.
_DEFAULT_STEP = 1.0
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
    """Return a NIfTI file's name without .nii or .nii.gz, also in capitals: the name its results are written under."""
    return _SUFFIX.sub("", path.name)


def find_frames(folder: Path) -> list[Path]:
    """List the frames below a folder, at any depth and also behind links, sorted.

    Hidden files and folders are passed over; names that end in _gt, _seg, _label or _4d are no frames. inference.json
    finds the same files.

    Raises:
        InputError: there is no such folder, no frame in it, a folder that cannot be read, or two frames have one name
            and so one result.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one that holds NIfTI frames")
    files, problems = files_below(folder)
    frames = [path for path in files if FRAME_NAME.fullmatch(path.name)]
    if not frames and not problems:
        raise InputError(
            f"{folder}: no frame below it; only 3D NIfTI frames (.nii, .nii.gz) are supported, and names ending in "
            "_gt, _seg, _label or _4d are not taken for frames"
        )
    by_name = defaultdict(list)
    for path in frames:
        by_name[case_name(path)].append(str(path))
    problems += [
        f"{' and '.join(paths)}: the results of both would be named {name}, expected unique names"
        for name, paths in by_name.items()
        if len(paths) > 1
    ]
    if problems:
        raise InputError(problems)
    return frames


def check_frames(paths: Sequence[Path | str]) -> None:
    """Read every frame and raise one error that lists all that is wrong, before anything is done with any of them.

    Raises:
        InputError: any problem of :func:`read_frame`.
    """
    problems: list[str] = []
    for path in tqdm(paths, desc="checking frames", unit="frame", disable=None):
        try:
            read_frame(Path(path))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def read_frame(path: Path) -> Frame:
    """Read and check one frame.

    Returns:
        The frame, float32 intensities.

    Raises:
        InputError: with all that is wrong. The file is missing, empty, no NIfTI, truncated or corrupted; the image is
            not 3D, has a single slice or an absurd size, spacing or affine; voxels are NaN, infinite, all the same or a
            mask's.
    """
    image, affine, _ = _open_checked(path, (3,), EXPECTED)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
        array = _voxels(image, path).astype(np.float32)
    check_voxels(array, path)
    return Frame(path, array, affine)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, float, tuple[str, ...]]:
    """Read and check a NIfTI cine or frame.

    Returns:
        Voxels (x, y, z, t), one phase for a 3D file, in the file's own type where it stores no scaling and as float32
        otherwise; 4 x 4 affine in mm; time between phases in ms, NaN where the file does not say; a remark where the
        file gives two spacings.

    Raises:
        InputError: as :func:`read_frame`, for a 3D or 4D file; every phase is checked.
    """
    image, affine, remarks = _open_checked(path, (3, 4), EXPECTED_CINE)
    array = _voxels(image, path)
    array = array[..., None] if array.ndim == 3 else array
    for phase in range(array.shape[3]):
        check_voxels(array[..., phase], path, f"phase {phase + 1}: " if array.shape[3] > 1 else "")
    return array, affine, _time_step_ms(image), remarks


def read_label(path: Path) -> Frame:
    """Read and check one reference mask. A mask of background alone is returned as it is.

    Returns:
        The mask, uint8 label ids.

    Raises:
        InputError: as :func:`read_frame` for the file and its grid, or voxels that are no label id of 0 to 3.
    """
    image, affine, _ = _open_checked(path, (3,), EXPECTED)
    array = _voxels(image, path)
    ids = (BACKGROUND, *STRUCTURE_IDS)
    wrong = [value for value in np.unique(array).tolist() if value not in ids]
    if wrong:
        listed = ", ".join(f"{value:g}" for value in wrong[:_LISTED_VALUES])
        more = ", ..." if len(wrong) > _LISTED_VALUES else ""
        raise InputError(f"{path}: holds label values {listed}{more}, expected only {ids}")
    return Frame(path, array.astype(np.uint8), affine)


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


def write_mask(
    mask: np.ndarray, affine: np.ndarray, output_dir: Path, name: str, *, time_step_ms: float = math.nan
) -> Path:
    """Write ``output_dir/name/name_seg.nii.gz``, whole or not at all.

    Args:
        mask: label ids, (x, y, z) or (x, y, z, t).
        affine: 4 x 4 voxel-to-world matrix, mm.
        output_dir: made where missing.
        name: the case.
        time_step_ms: between the phases of a 4D mask, NaN where unknown.

    Returns:
        The file written. An earlier one is replaced.

    Raises:
        ValueError: ``mask`` is not 3D or 4D, or not of integers.
    """
    if mask.ndim not in (3, 4) or not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"mask must be a 3D or 4D integer array, got shape {mask.shape} of {mask.dtype}")
    path = output_dir / name / f"{name}{RESULT_POSTFIX}"
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staged-", dir=output_dir) as staging:
        staged = Path(staging) / path.name
        nib.save(nifti_image(mask.astype(np.uint8), affine, time_step_ms=time_step_ms), staged)
        path.parent.mkdir(exist_ok=True)
        staged.replace(path)
    return path


def nifti_image(array: np.ndarray, affine: np.ndarray, *, time_step_ms: float = math.nan) -> nib.Nifti1Image:
    """Return voxels as a NIfTI image of their own type, with the affine in both forms, since readers differ.

    Args:
        array: (x, y, z) or (x, y, z, t).
        affine: 4 x 4 voxel-to-world matrix, mm.
        time_step_ms: between the phases of a 4D array, NaN where unknown.
    """
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if array.ndim == 4 and math.isfinite(time_step_ms):
        image.header.set_zooms((*image.header.get_zooms()[:3], time_step_ms / 1000))
    return image


def _open_checked(
    path: Path, dimensions: tuple[int, ...], expected: str
) -> tuple[nib.Nifti1Image, np.ndarray, tuple[str, ...]]:
    """Open a file and check all but its voxels; return it with its affine and remarks on that."""
    image = _open(path, expected)
    problems = _kind_problems(image, dimensions)
    if not problems:
        # nibabel replaces zero and negative values as it loads, so they are read once more as they are.
        with ImageOpener(path) as stream:
            spacing = image.header_class.from_fileobj(stream, check=False)["pixdim"][1:4].astype(float)
        problems = grid_problems(image.shape, spacing)
    affine = np.eye(4)
    remarks: tuple[str, ...] = ()
    if not problems:
        remarks = _spacing_remarks(image)
        affine, problems = _true_affine(image)
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems])
    return image, affine, remarks


def _open(path: Path, expected: str) -> nib.Nifti1Image:
    if path.is_dir():
        raise InputError(f"{path}: a folder, {expected}")
    if not path.is_file():
        raise InputError(f"{path}: no such file, {expected}")
    if not _SUFFIX.search(path.name):
        raise InputError(f"{path}: not named as NIfTI, {expected}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, {expected}")
    try:
        return nib.load(path)
    except _UNREADABLE as error:
        raise InputError(f"{path}: not readable as NIfTI ({error}), {expected}") from None


def _kind_problems(image: nib.Nifti1Image, dimensions: tuple[int, ...]) -> list[str]:
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) not in dimensions:
        wanted = "one 3D frame" if dimensions == (3,) else "a 4D cine or a 3D frame"
        kind = ", a cine" if len(shape) == 4 else ""
        return [f"a {len(shape)}D image of shape {shape}{kind}; expected {wanted}"]
    if dtype.fields or np.issubdtype(dtype, np.complexfloating):
        return [f"voxels of type {dtype}, expected real numbers"]
    return []


def _spacings(image: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the spacing of pixdim and that of the affine, which differ where the affine is an sform of its own."""
    return np.array(image.header.get_zooms()[:3]), np.linalg.norm(image.affine[:3, :3], axis=0)


def _spacing_remarks(image: nib.Nifti1Image) -> tuple[str, ...]:
    """Return a remark where an sform contradicts pixdim; one of unit scale, or that is no matrix, has no spacing."""
    pixdim, sform = _spacings(image)
    if np.allclose(pixdim, sform) or np.allclose(sform, 1) or not np.isfinite(sform).all():
        return ()
    stated, used = (" x ".join(f"{value:.6g}" for value in spacing) for spacing in (sform, pixdim))
    return (f"The file's sform has a spacing of {stated} mm, its pixdim one of {used} mm; pixdim and qform are used.",)


def _true_affine(image: nib.Nifti1Image) -> tuple[np.ndarray, list[str]]:
    """Return the affine as ``LoadImaged`` repairs it: the qform, made from pixdim, where the sform has other scales."""
    if not np.allclose(*_spacings(image)):
        try:
            image.set_sform(image.get_qform())
        except ValueError as error:
            return image.affine, [f"neither sform nor qform is usable ({error}), expected an affine that fits pixdim"]
    return image.affine, affine_problems(image.affine, image.shape)


def _time_step_ms(image: nib.Nifti1Image) -> float:
    """Return the time between phases, NaN where the header has its default or none that makes a heart's cycle."""
    if len(image.shape) < 4 or image.shape[3] < 2:
        return math.nan
    step, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
    if step == _DEFAULT_STEP:
        return math.nan
    for factor in [_MS_PER_UNIT[unit]] if unit in _MS_PER_UNIT else [1000.0, 1.0]:
        if CYCLE_MS[0] <= step * factor * image.shape[3] <= CYCLE_MS[1]:
            return step * factor
    return math.nan


def _voxels(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """Read the voxels: as stored where the file has no scaling, as float32 otherwise."""
    try:
        if path.suffix.lower() == ".gz":
            # nibabel stops short of the checksum at the end of the stream.
            with gzip.open(path) as stream:
                while stream.read(_CHUNK_BYTES):
                    pass
        scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        with np.errstate(over="ignore"):
            return np.asanyarray(image.dataobj, dtype=np.float32 if scaled else None)
    except _UNREADABLE as error:
        raise InputError(f"{path}: truncated or corrupted ({error}), expected a whole NIfTI file") from None

"""Cines in single files: NIfTI, and what SimpleITK reads of MetaImage and NRRD."""

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

from cardiac_cine.cine import CYCLE, Cine
from cardiac_cine.errors import InputError
from cardiac_cine.geometry import RAS_LPS
from cardiac_cine.images import read_nifti
from cardiac_cine.stacks import affine_problems, check_voxels, grid_problems

NIFTI_SUFFIXES = (".nii", ".nii.gz")
# .seq.nrrd is what 3D Slicer names a sequence.
ITK_SUFFIXES = (".mha", ".mhd", ".seq.nrrd", ".nrrd", ".nhdr")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
_EXPECTED = f"expected an image file ({', '.join(SUFFIXES)})"


def is_image_file(path: Path) -> bool:
    """Tell whether a file is named as one of the formats that :func:`read_cine` takes."""
    return path.name.lower().endswith(SUFFIXES)


def case_name(path: Path) -> str:
    """Return an image file's name without its extension, the name its results are written under."""
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_cine(path: Path) -> Cine:
    """Read and check a cine, or a single frame, from one file.

    Args:
        path: .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr. Phases are the fourth axis, or an NRRD's or MetaImage's vector
            components, as 3D Slicer writes sequences.

    Returns:
        The cine. Times are known where the file has a time between phases that makes a heart's cycle; the first
        phase is then at 0 ms, and the phases are taken to fill the cycle, as "about" says under ``CYCLE``.

    Raises:
        InputError: with all that is wrong with the file, its grid or its voxels.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {kind}, {_EXPECTED}")
    if not is_image_file(path):
        raise InputError(f"{path}: not named as an image file, {_EXPECTED}")
    read = read_nifti if path.name.lower().endswith(NIFTI_SUFFIXES) else _read_itk
    array, affine, step_ms, remarks = read(path)
    phases = array.shape[3]
    known = math.isfinite(step_ms)
    return Cine(
        name=case_name(path),
        source=path,
        array=array,
        affine=affine,
        times_ms=tuple(step_ms * phase for phase in range(phases)) if known else None,
        rr_ms=step_ms * phases if known else math.nan,
        about={CYCLE: _cycle_note(phases, step_ms)} if known else {},
        remarks=remarks,
    )


def _cycle_note(phases: int, step_ms: float) -> str:
    return (
        f"{phases} phases x {step_ms:.1f} ms = {phases * step_ms:.0f} ms. If the scan does not cover the whole cycle, "
        "the heart rate is too high."
    )


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray, float, tuple[str, ...]]:
    """Read voxels (x, y, z, t), affine and no time, for which the formats name no unit; there is nothing to remark."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        dimension, size, spacing = reader.GetDimension(), reader.GetSize(), reader.GetSpacing()
        components = reader.GetNumberOfComponents()
        kind = _kind_problem(dimension, components)
        shape = (*size[:3], components if dimension == 3 else size[-1])
        problems = [kind] if kind else grid_problems(shape, spacing[:3])
        if problems:
            raise InputError([f"{path}: {problem}" for problem in problems])
        image = reader.Execute()
    except RuntimeError as error:  # whatever ITK meets, it raises this with a page of text
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: truncated, corrupted or of another format ({reason}), {_EXPECTED}") from None
    array = sitk.GetArrayFromImage(image)
    # Axes come slowest first, components last.
    array = np.moveaxis(array, -1, 0).T if components > 1 else array.T
    if array.ndim == 3:
        array = array[..., None]
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine[:3, :3] = direction * spacing[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    affine = RAS_LPS @ affine
    problems = affine_problems(affine, array.shape)
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems])
    for phase in range(array.shape[3]):
        check_voxels(array[..., phase], path, f"phase {phase + 1}: " if array.shape[3] > 1 else "")
    return array, affine, math.nan, ()


def _kind_problem(dimension: int, components: int) -> str:
    if dimension not in (3, 4):
        return f"a {dimension}D image, expected a 3D frame or a 4D cine"
    if dimension == 4 and components > 1:
        return f"a 4D image of {components} components, expected one intensity for each voxel"
    return ""

"""What makes an array of voxels a short-axis stack: the limits, and a sentence for whatever is beyond them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cardiac_cine import geometry
from cardiac_cine.errors import InputError
from cardiac_cine.labels import BACKGROUND, STRUCTURE_IDS

# Cine MR has pixels of 0.7-2 mm; beyond these limits the header holds metres, micrometres or another kind of scan.
IN_PLANE_MM = (0.3, 5.0)
# Short-axis slices lie 5-10 mm apart; 1 mm is what tools write that never knew the spacing.
BETWEEN_SLICES_MM = (2.0, 30.0)
# A heart is 100 mm wide; much smaller fields would also leave the network's deepest level a single pixel.
MIN_FIELD_OF_VIEW_MM = 64.0
# Scanners interpolate to 512 pixels and a heart fits 20 slices: far more is another kind of scan, and much memory.
MAX_PIXELS = 1024
SLICES = (2, 100)
# Scanners reconstruct up to 50 or 60 phases; more is a series over many heartbeats.
MAX_PHASES = 200
# 200 to 24 beats a minute: what makes another cycle is a placeholder, another unit or no single heartbeat.
CYCLE_MS = (300.0, 2500.0)
# Volumes are measured as if the axes were orthogonal: over the whole stack the slices may lean, and over the image rows
# and columns may be skewed, by at most this many pixels.
MAX_LEAN_PIXELS = 1.0


def check_voxels(array: np.ndarray, path: Path, where: str = "") -> None:
    """Check that an image holds an image.

    Args:
        array: intensities.
        path: named in the message.
        where: in front of what is wrong.

    Raises:
        InputError: voxels are NaN, infinite, all the same or a mask's.
    """
    if not np.isfinite(array).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise InputError(f"{path}: {where}{count} voxels are NaN or infinite, expected finite intensities")
    if array.min() == array.max():
        raise InputError(f"{path}: {where}all voxels are {array.min():g}, expected an image")
    if np.isin(array, (BACKGROUND, *STRUCTURE_IDS)).all():
        raise InputError(f"{path}: {where}all voxels are labels, as in a mask; expected an image")


def grid_problems(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[str]:
    """Tell what keeps a grid from being a short-axis stack.

    Args:
        shape: (x, y, z) or (x, y, z, t), in voxels.
        spacing_mm: along x, y and z.

    Returns:
        One sentence for each problem: too many pixels, slices or phases, or an absurd spacing or field of view.
    """
    problems = []
    if max(shape[:2]) > MAX_PIXELS:
        problems.append(f"{shape[0]} x {shape[1]} pixels, expected at most {MAX_PIXELS} along each axis")
    if not SLICES[0] <= shape[2] <= SLICES[1]:
        problems.append(f"number of slices (third axis) is {shape[2]}, expected a stack of {SLICES[0]} to {SLICES[1]}")
    if len(shape) > 3 and not 1 <= shape[3] <= MAX_PHASES:
        problems.append(f"number of phases (fourth axis) is {shape[3]}, expected 1 to {MAX_PHASES}")
    if problems:
        return problems
    x, y, z = (float(value) for value in spacing_mm)
    found = f"a spacing of {x:g} x {y:g} x {z:g} mm"
    if not (np.isfinite([x, y, z]).all() and min(x, y, z) > 0):
        return [f"{found}, expected positive numbers in pixdim"]
    low, high = IN_PLANE_MM
    if not (low <= x <= high and low <= y <= high):
        problems.append(f"{found}, expected {low:g} to {high:g} mm in plane")
    low, high = BETWEEN_SLICES_MM
    if not low <= z <= high:
        problems.append(f"{found}, expected {low:g} to {high:g} mm between slices, along the third axis")
    width, height = x * shape[0], y * shape[1]
    if min(width, height) < MIN_FIELD_OF_VIEW_MM:
        problems.append(
            f"a field of view of {width:.0f} x {height:.0f} mm, expected at least {MIN_FIELD_OF_VIEW_MM:g} mm "
            "along the first two axes, slices along the third"
        )
    return problems


def affine_problems(affine: np.ndarray, shape: Sequence[int]) -> list[str]:
    """Tell what keeps a 4 x 4 matrix from being the affine of a stack with orthogonal axes.

    Args:
        affine: voxel to world, mm.
        shape: (x, y, z) or (x, y, z, t), in voxels.

    Returns:
        A sentence for numbers that are not finite, for skewed rows and columns, or for slices that are not stacked
        along their normal; none where all is well.
    """
    if not np.isfinite(affine).all():
        return [f"an affine of {affine.tolist()}, expected finite numbers"]
    spacing = np.array(geometry.spacing_mm(affine))
    x, y, _ = (affine[:3, :3] / spacing).T
    length = (np.array(shape[:3]) - 1) * spacing
    pixel = MAX_LEAN_PIXELS * spacing[:2].min()
    expected = f"expected at most a pixel ({pixel:.2f} mm)"
    skew = abs(x @ y) * length[:2].max()
    if skew > pixel:
        return [
            f"rows and columns are skewed by {skew:.2f} mm over the image, {expected}: axes that are not orthogonal"
        ]
    normal = np.cross(x, y)
    stacked = affine[:3, 2] * (shape[2] - 1)
    lean = np.linalg.norm(stacked - (stacked @ normal) * normal / (normal @ normal))
    if lean > pixel:
        return [f"the slices lean up to {lean:.2f} mm beside their common normal, {expected}: a sheared stack"]
    return []

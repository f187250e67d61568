"""Axes, spacing, volume and windows: pure numpy, arrays in (x, y, z) order, slices along the last axis."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# A cubic millimetre is a thousandth of a millilitre.
MM3_PER_ML = 1000.0
# From NIfTI's axes (right, anterior, superior) to those of DICOM and ITK (left, posterior, superior), and back.
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel spacing along the array's axes.

    Args:
        affine: 4 x 4 voxel-to-world matrix, mm.

    Returns:
        Spacing along x, y, z in mm: the lengths of the affine's first three columns.

    Raises:
        ValueError: ``affine`` is not 4 x 4, not finite, or has a column of zero length.
    """
    matrix = np.asarray(affine, dtype=float)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"affine must be a finite 4 x 4 matrix, got {matrix.tolist()}")
    x, y, z = np.linalg.norm(matrix[:3, :3], axis=0).tolist()
    if min(x, y, z) <= 0:
        raise ValueError(f"affine has a zero spacing: {(x, y, z)} mm")
    return x, y, z


def voxel_volume_ml(spacing: Sequence[float]) -> float:
    """Return the volume of one voxel in mL.

    Args:
        spacing: three spacings in mm.

    Raises:
        ValueError: not three values, or one of them is not a positive finite number.
    """
    values = np.asarray(spacing, dtype=float)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(f"spacing must be three positive numbers in mm, got {tuple(spacing)}")
    return float(values.prod()) / MM3_PER_ML


def with_margin(occupied: ArrayLike, margin: int) -> slice:
    """Return the part of an axis from its first to its last occupied index, with a margin on either side.

    Args:
        occupied: booleans, one for each index.
        margin: in indices, as far as the axis goes.

    Returns:
        The part, with both ends; the whole axis where nothing is occupied.
    """
    size, indices = np.size(occupied), np.flatnonzero(occupied)
    if not len(indices):
        return slice(0, size)
    return slice(max(0, int(indices[0]) - margin), min(size, int(indices[-1]) + margin + 1))

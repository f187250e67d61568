"""How consistent the masks of a cine are from slice to slice and from phase to phase: measures, no judgement.

Pure functions on arrays. What the measures may be before somebody should look is up to
:mod:`~cardiac_cine.quality`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_cine.geometry import voxel_volume_ml
from cardiac_cine.labels import LV, MYO, STRUCTURES, check_mask
from cardiac_cine.levels import base_is_first

# Below this a cavity's centroid hangs on a few pixels: 200 mm2 is 16 mm across, near the apex at end-diastole.
MIN_CENTROID_MM2 = 200.0
# A structure this small comes and goes at the heart's ends without changing a volume by more than 1 or 2 %.
MIN_FLICKER_ML = 1.0
# The neighbours that a value of the volume curve is held against: two on either side, and not itself.
MIN_CURVE_PHASES = 5


@dataclass(frozen=True)
class Coverage:
    """Whether a stack reaches beyond the left ventricle at both ends.

    Attributes:
        basal_slice: the stack's outermost slice at the base, counted from 0.
        basal_share: the LV cavity's area there, as a share of its largest in any slice.
        apical_slice: the stack's outermost slice at the apex, counted from 0.
        apical_share: the same share there.
        length_to_width: LV cavity from its first to its last slice, slice spacing included, over the diameter of the
            circle with the area of the largest epicardial contour.
    """

    basal_slice: int
    basal_share: float
    apical_slice: int
    apical_share: float
    length_to_width: float


@dataclass(frozen=True)
class Jump:
    """How far one value of a volume curve lies off the course of its neighbours."""

    phase: int
    ml: float


@dataclass(frozen=True)
class Shift:
    """How far the LV cavity of one slice lies off the line through its neighbours."""

    slice: int
    mm: float


@dataclass(frozen=True)
class Gap:
    """A structure that one slice lacks in one phase, though slices on both sides show it."""

    structure: str
    slice: int
    phase: int


@dataclass(frozen=True)
class Flicker:
    """A structure that comes and goes in one slice more than once in a cycle."""

    structure: str
    slice: int
    phases_with: int


def coverage(mask: np.ndarray, spacing_mm: Sequence[float]) -> Coverage | None:
    """Measure how far the stack covers the left ventricle.

    Args:
        mask: integer labels 0-3, (x, y, z), end-diastole.
        spacing_mm: spacing along x, y, z in mm; along z from slice to slice, gap included.

    Returns:
        None where the stack's base cannot be told, see :func:`~cardiac_cine.levels.base_is_first`, or there is no LV.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3.
    """
    first_is_base = base_is_first(mask)
    lv = np.count_nonzero(mask == LV, axis=(0, 1))
    if first_is_base is None or not lv.any():
        return None
    sx, sy, sz = spacing_mm
    epicardial_mm2 = float((lv + np.count_nonzero(mask == MYO, axis=(0, 1))).max()) * sx * sy
    slices = np.flatnonzero(lv)
    first, last = 0, mask.shape[2] - 1
    basal, apical = (first, last) if first_is_base else (last, first)
    return Coverage(
        basal_slice=basal,
        basal_share=float(lv[basal] / lv.max()),
        apical_slice=apical,
        apical_share=float(lv[apical] / lv.max()),
        length_to_width=float(slices[-1] - slices[0] + 1) * sz / (2 * math.sqrt(epicardial_mm2 / math.pi)),
    )


def largest_jump(volumes_ml: Sequence[float]) -> Jump | None:
    """Find the value of a volume curve that lies furthest off the course of its neighbours.

    The course is the cubic through the two values on either side, round the cycle. A prospectively gated cine ends
    before the cycle does, so the two phases at either end may follow the parabola of their own side as well.

    Args:
        volumes_ml: one value per phase in mL, in the order of the cycle.

    Returns:
        None for fewer than 5 phases, or where a value is not finite.
    """
    curve = np.asarray(volumes_ml, dtype=float)
    if len(curve) < MIN_CURVE_PHASES or not np.isfinite(curve).all():
        return None
    near, far = (np.roll(curve, step) + np.roll(curve, -step) for step in (1, 2))
    off = np.abs(6 * curve - 4 * near + far) / 6
    for first, second, third, fourth in ((0, 1, 2, 3), (-1, -2, -3, -4)):
        bend = abs(curve[first] - 3 * curve[second] + 3 * curve[third] - curve[fourth])
        off[first] = min(off[first], bend)
        off[second] = min(off[second], bend / 3)
    phase = int(off.argmax())
    return Jump(phase, float(off[phase]))


def largest_shift(mask: np.ndarray, spacing_mm: Sequence[float]) -> Shift | None:
    """Find the slice whose LV cavity lies furthest off the line through those of its two neighbours.

    Breath-holds of different depth shift slices against each other. The heart's axis may be tilted to the stack, so
    the midpoint of the neighbours' centroids is what a slice is held against; the outermost slices have none.

    Args:
        mask: integer labels 0-3, (x, y, z).
        spacing_mm: spacing along x, y, z in mm.

    Returns:
        None without three slices in a row that show an LV cavity of 200 mm2 or more each.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3.
    """
    check_mask(mask, 3)
    sx, sy, _ = spacing_mm
    centroids = np.full((mask.shape[2], 2), math.nan)
    for z in range(mask.shape[2]):
        pixels = np.argwhere(mask[..., z] == LV)
        if len(pixels) * sx * sy >= MIN_CENTROID_MM2:
            centroids[z] = pixels.mean(axis=0) * (sx, sy)
    off = np.hypot(*(centroids[1:-1] - (centroids[:-2] + centroids[2:]) / 2).T)
    if not np.isfinite(off).any():
        return None
    index = int(np.nanargmax(off))
    return Shift(index + 1, float(off[index]))


def difference_share(first: float, second: float) -> float:
    """Return how far two positive values are apart, as a share of the larger; NaN unless both are above 0."""
    if not (first > 0 and second > 0):
        return math.nan
    return abs(first - second) / max(first, second)


def pixel_counts(masks: np.ndarray) -> np.ndarray:
    """Count every structure's pixels in every slice of every phase.

    Args:
        masks: integer labels 0-3, (x, y, z, t).

    Returns:
        Integers (structure, z, t), structures in the order of ``labels.STRUCTURES``.

    Raises:
        ValueError: ``masks`` is not a 4D integer array of ids 0-3.
    """
    check_mask(masks, 4, "masks")
    return np.stack([np.count_nonzero(masks == structure.id, axis=(0, 1)) for structure in STRUCTURES])


def gaps(counts: np.ndarray) -> tuple[Gap, ...]:
    """Find the slices that lack a structure though slices on both sides of them show it in the same phase.

    Args:
        counts: pixels (structure, z, t), see :func:`pixel_counts`.

    Returns:
        In the order of structure, phase and slice; none of a structure that is nowhere.
    """
    shown = counts > 0
    before = np.logical_or.accumulate(shown, axis=1)
    after = np.logical_or.accumulate(shown[:, ::-1], axis=1)[:, ::-1]
    missing = np.argwhere((before & after & ~shown).transpose(0, 2, 1)).tolist()
    return tuple(Gap(STRUCTURES[structure].key, z, phase) for structure, phase, z in missing)


def flickers(counts: np.ndarray, spacing_mm: Sequence[float]) -> tuple[Flicker, ...]:
    """Find the slices in which a structure appears more than once in a cycle.

    The heart moves through the slices at its ends, so there a structure may be absent for a part of the cycle, but
    for one part only.

    Args:
        counts: pixels (structure, z, t), see :func:`pixel_counts`.
        spacing_mm: spacing along x, y, z in mm. A structure of less than 1 mL in the slice, the median of the phases
            that show it, is passed over.

    Returns:
        In the order of structure and slice.
    """
    shown = counts > 0
    appearances = np.count_nonzero(shown & ~np.roll(shown, 1, axis=2), axis=2)
    found = []
    for structure, z in np.argwhere(appearances > 1).tolist():
        pixels = counts[structure, z][shown[structure, z]]
        if float(np.median(pixels)) * voxel_volume_ml(spacing_mm) >= MIN_FLICKER_ML:
            found.append(Flicker(STRUCTURES[structure].key, z, len(pixels)))
    return tuple(found)

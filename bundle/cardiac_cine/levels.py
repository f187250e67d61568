"""Where in the heart a slice lies, from base to apex: pure numpy on masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_cine.labels import STRUCTURE_IDS, check_mask


def base_is_first(mask: np.ndarray) -> bool | None:
    """Tell whether a stack's slice 0 lies at the base of the heart.

    Every structure has most of its volume in the basal half: the ventricles taper and the RV ends before the apex. So
    the mean of the structures' centroids along z is held against the middle of the heart's slices. The LV alone would
    mislead in the few hearts whose apex is its widest part.

    Args:
        mask: integer labels 0-3, (x, y, z); a reference where there is one.

    Returns:
        None where it cannot be told: an empty mask, a single slice, or a stack that looks the same from both ends. A
        missing structure has no say.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3.
    """
    check_mask(mask, 3)
    if not mask.any():
        return None
    areas = [np.count_nonzero(mask == structure, axis=(0, 1)) for structure in STRUCTURE_IDS]
    centroids = [np.average(np.arange(mask.shape[2]), weights=area) for area in areas if area.any()]
    offset = float(np.mean(centroids)) - sum(_span(mask)) / 2
    return None if math.isclose(offset, 0.0, abs_tol=1e-9) else offset < 0


def slice_levels(mask: np.ndarray) -> np.ndarray:
    """Return the level of every slice in the heart.

    Args:
        mask: integer labels 0-3, (x, y, z); a reference where there is one.

    Returns:
        One value per slice: 0 for the most basal slice with any label, 1 for the most apical, evenly spaced between.
        NaN for slices beyond them, and for all slices where :func:`base_is_first` cannot tell.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3.
    """
    first_is_base = base_is_first(mask)
    levels = np.full(mask.shape[2], math.nan)
    if first_is_base is not None:
        first, last = _span(mask)
        ascending = np.linspace(0.0, 1.0, last - first + 1)
        levels[first : last + 1] = ascending if first_is_base else ascending[::-1]
    return levels


@dataclass(frozen=True)
class LevelCounts:
    """Slices per bin of level, from base to apex, and those without a level."""

    counts: tuple[int, ...]
    without_level: int


def count_by_level(levels: Sequence[float] | np.ndarray, bins: int = 3) -> LevelCounts:
    """Bin slices by level, for the histogram of degenerated slices that Bernard et al. (2018) show for ACDC.

    Args:
        levels: levels 0-1 or NaN, such as ``slice_levels(reference)`` at the degenerated slices of any number of
            frames.
        bins: number of bins of equal width; 3 is base, middle, apex.

    Returns:
        Counts from base to apex, all 0 for no slices.

    Raises:
        ValueError: ``bins`` is less than 1, or a level lies outside 0-1.
    """
    values = np.asarray(levels, dtype=float)
    known = values[~np.isnan(values)]
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}")
    if ((known < 0) | (known > 1)).any():
        raise ValueError(f"levels must lie in 0-1, got {known.min()} to {known.max()}")
    counts, _ = np.histogram(known, bins=bins, range=(0.0, 1.0))
    return LevelCounts(tuple(counts.tolist()), len(values) - len(known))


def _span(mask: np.ndarray) -> tuple[int, int]:
    """Return the first and last slice with any label."""
    labelled = np.flatnonzero(mask.any(axis=(0, 1)))
    return int(labelled[0]), int(labelled[-1])

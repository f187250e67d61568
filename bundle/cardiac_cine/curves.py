"""Curves of volume over the heart's cycle: smoothing on the closed cycle and rates of change. Pure functions.

A cine shows one beat again and again, so its last phase is followed by its first: nothing here has ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter

# Cubics over about a quarter of the cycle (Savitzky & Golay, Anal Chem 36(8), 1964). They keep the peak rates of a
# phantom's heart within a few per cent, where parabolas lose 10 to 35 %, and average out a phase's own error.
_POLYNOMIAL = 3
_WINDOWS_PER_CYCLE = 4
# The fewest phases that a cubic smooths at all; fewer in the window and it would pass through every one.
_MIN_WINDOW = 5

MS_PER_S = 1000.0


@dataclass(frozen=True)
class PeakRates:
    """The steepest changes of a ventricle's volume, both positive, in mL/s."""

    ejection_ml_s: float
    filling_ml_s: float


def missing_phases(volume_ml: Sequence[float] | np.ndarray) -> np.ndarray:
    """Tell in which phases a volume is unknown.

    Args:
        volume_ml: one value per phase.

    Returns:
        True where the volume is NaN or 0: no chamber empties wholly, so a mask without it says nothing of its size.

    Raises:
        ValueError: not a series of at least one value, or one of them is negative or infinite.
    """
    curve = np.asarray(volume_ml, dtype=float)
    if curve.ndim != 1 or len(curve) == 0 or (curve < 0).any() or np.isinf(curve).any():
        raise ValueError(f"volume_ml must be volumes of 0 mL or more, one per phase, got {curve.tolist()}")
    return np.isnan(curve) | (curve == 0)


def smooth(curve: np.ndarray) -> np.ndarray:
    """Smooth a curve over the closed cycle.

    Args:
        curve: one finite value per phase, evenly spaced in time.

    Returns:
        As many values, each from a cubic fitted to about a quarter of the cycle around it. A copy where that quarter
        holds fewer than five phases, in cycles of less than 12.
    """
    window = _window(len(curve))
    if window < _MIN_WINDOW:
        return np.array(curve, dtype=float)
    return savgol_filter(curve, window, _POLYNOMIAL, mode="wrap")


def peak_rates_ml_s(
    volume_ml: Sequence[float] | np.ndarray, times_ms: Sequence[float] | None, rr_ms: float = math.nan
) -> PeakRates:
    """Return how fast a ventricle empties and fills at most.

    The derivative is that of the cubics of :func:`smooth`; the peak rates are its lowest value, with its sign turned,
    and its highest, wherever in the cycle they are. Filling may peak in the early wave or in the atrial one.

    Args:
        volume_ml: one value per phase.
        times_ms: of every phase, increasing; None where unknown.
        rr_ms: length of the cycle. Where it is NaN, or too short for the times, the last phase is taken to last as long
            as a phase does in the median.

    Returns:
        mL/s. NaN without times, with fewer than 12 phases, which are too coarse for a rate, and where the volume of a
        phase is missing, see :func:`missing_phases`. Times that are not evenly spaced, and a part of the cycle
        that the cine leaves out, are bridged by straight lines.

    Raises:
        ValueError: a volume is negative or infinite, or ``times_ms`` is not one finite, increasing time per phase.
    """
    missing = missing_phases(volume_ml)
    count = len(missing)
    if times_ms is None:
        return PeakRates(math.nan, math.nan)
    times = check_times(times_ms, count)
    window = _window(count)
    if missing.any() or window < _MIN_WINDOW:
        return PeakRates(math.nan, math.nan)
    span = times[-1] - times[0]
    cycle = rr_ms if rr_ms > span else span + float(np.median(np.diff(times)))
    step = cycle / count
    even = np.interp(times[0] + step * np.arange(count), times, np.asarray(volume_ml, dtype=float), period=cycle)
    rates = savgol_filter(even, window, _POLYNOMIAL, deriv=1, delta=step / MS_PER_S, mode="wrap")
    return PeakRates(ejection_ml_s=float(-rates.min()), filling_ml_s=float(rates.max()))


def check_times(times_ms: Sequence[float], phases: int) -> np.ndarray:
    """Return the times of the phases as an array.

    Raises:
        ValueError: not one finite time per phase, or they do not increase.
    """
    times = np.asarray(times_ms, dtype=float)
    if times.shape != (phases,) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(f"times_ms must be {phases} increasing times, one per phase, got {times.tolist()}")
    return times


def _window(phases: int) -> int:
    """Return the odd number of phases nearest to a quarter of the cycle."""
    return 2 * round(phases / (2 * _WINDOWS_PER_CYCLE)) + 1

"""End-diastole and end-systole from the left ventricle's volume over the cycle. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_cine.curves import missing_phases, smooth

# Phases whose smoothed volumes lie closer to the largest than this part of the curve's range count as full as it: 1 to
# 3 mL, which a segmentation cannot tell apart, and a tenth of what the atrial kick adds.
PLATEAU_FRACTION = 0.02


@dataclass(frozen=True)
class Phases:
    """End-diastole and end-systole, counted from 0."""

    ed_frame: int
    es_frame: int


def find_phases(
    lv_ml: Sequence[float] | np.ndarray, *, ed_frame: int | None = None, es_frame: int | None = None
) -> Phases:
    """Find end-diastole and end-systole in a curve of the left ventricle's volume.

    End-diastole is where the smoothed curve is largest, end-systole where it is smallest. The curve is smoothed on
    the closed cycle, by cubics over a quarter of it (:func:`cardiac_cine.curves.smooth`); curves of less than 12
    phases stay as they are.

    Around its largest value the curve can be flat, most of all where no atrial kick ends the diastasis. Among the
    phases about as full as the largest one and next to each other, up to it, frame 0 is taken if it is there: cines
    are gated at the R wave, so it is the end-diastolic one by convention. If it is not, the last is taken: end-diastole
    is where filling has ended and ejection has yet to start, not where filling first levels off.

    Args:
        lv_ml: volume of the left ventricle's cavity in every phase, in mL.
        ed_frame: end-diastole where a person has chosen it, counted from 0.
        es_frame: end-systole where a person has chosen it, counted from 0.

    Returns:
        The two phases. A given one is kept, and the other is looked for in the rest of the cycle. Phases whose volume
        is NaN or 0 were not segmented and are not chosen; the smoothing bridges them by straight lines. With fewer than
        two known volumes there is no cycle, and both are the same: the phase given, or else the one known, or else
        frame 0. A curve without any change has its end-systole right after its end-diastole.

    Raises:
        ValueError: ``lv_ml`` is not one volume of 0 mL or more per phase, a given frame is not one of its phases, or
            both are given as the same of several.
    """
    missing = missing_phases(lv_ml)
    count = len(missing)
    for name, frame in (("ed_frame", ed_frame), ("es_frame", es_frame)):
        if frame is not None and not 0 <= frame < count:
            raise ValueError(f"{name} must be one of the frames 0 to {count - 1}, got {frame}")
    if ed_frame is not None and ed_frame == es_frame and count > 1:
        raise ValueError(f"ed_frame and es_frame must be two different frames, got {ed_frame} for both")
    if ed_frame is not None and es_frame is not None:
        return Phases(ed_frame, es_frame)
    known = np.flatnonzero(~missing)
    if len(known) < 2:
        given = es_frame if ed_frame is None else ed_frame
        frame = given if given is not None else int(known[0]) if len(known) else 0
        return Phases(frame, frame)
    curve = smooth(np.interp(np.arange(count), known, np.asarray(lv_ml, dtype=float)[known], period=count))
    if ed_frame is None:
        ed_frame = _fullest(np.where(missing | (np.arange(count) == es_frame), -np.inf, curve), np.ptp(curve))
    if es_frame is None:
        emptiest_first = np.where(missing, np.inf, curve)
        emptiest_first[ed_frame] = np.inf
        # From end-diastole on, so that the first of equals is the first to be reached.
        order = (ed_frame + 1 + np.arange(count - 1)) % count
        es_frame = int(order[emptiest_first[order].argmin()])
    return Phases(ed_frame, es_frame)


def _fullest(curve: np.ndarray, span: float) -> int:
    """Return the end-diastolic phase of a smoothed curve, -inf where a phase cannot be chosen."""
    count, largest = len(curve), int(curve.argmax())
    full = curve >= curve[largest] - PLATEAU_FRACTION * span
    if full.all():
        return 0
    # The run of full phases around the largest, in the order of the cycle.
    steps = np.arange(count)
    after = int((~full[(largest + steps) % count]).argmax()) - 1
    before = int((~full[(largest - steps) % count]).argmax()) - 1
    run = (largest + np.arange(-before, after + 1)) % count
    return 0 if 0 in run else int(run[-1])

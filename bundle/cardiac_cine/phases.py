"""End-diastole and end-systole from the left ventricle's volume over the cycle. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_cine.curves import missing_phases, smooth

# Phases whose smoothed volumes lie closer to the largest than this part of the curve's range count as full as it: 1 to
# 3 mL, which a segmentation cannot tell apart, and a tenth of what the atrial kick adds.
PLATEAU_FRACTION = 0.02
# How far from frame 0 the largest smoothed volume may be for frame 0's own to count: half of what smoothing looks at.
NEAR_FRACTION = 1 / 8
# By how much of the curve's range frame 0 is above the last one where the end of the beat was left out.
GAP_FRACTION = 0.15


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

    A cine that leaves out the end of the beat, as prospective gating does, jumps from its last phase to its first, and
    smoothing across that gap pulls frame 0 down. So frame 0 is taken, too, where its own volume is as full, lies above
    the last one's by more than 0.15 of the range, and the largest value is within an eighth of the cycle of it.

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
        barred = missing | (np.arange(count) == es_frame)
        jumps = not barred[[0, -1]].any() and lv_ml[0] - lv_ml[-1] > GAP_FRACTION * np.ptp(curve)
        first = float(lv_ml[0]) if jumps else -np.inf
        ed_frame = _fullest(np.where(barred, -np.inf, curve), first, np.ptp(curve))
    if es_frame is None:
        # From end-diastole on, so that the first of equals is the first to be reached.
        order = (ed_frame + 1 + np.arange(count - 1)) % count
        es_frame = int(order[np.where(missing, np.inf, curve)[order].argmin()])
    return Phases(ed_frame, es_frame)


def _fullest(curve: np.ndarray, first: float, span: float) -> int:
    """Return the end-diastolic phase.

    Args:
        curve: smoothed volumes, -inf where a phase cannot be chosen.
        first: frame 0's own volume where the cine leaves out the end of the beat, else -inf.
        span: the smoothed curve's range.
    """
    count, largest = len(curve), int(curve.argmax())
    enough = curve[largest] - PLATEAU_FRACTION * span
    full = curve >= enough
    near = min(largest, count - largest) <= NEAR_FRACTION * count
    if full.all() or (near and first >= enough):
        return 0
    # The run of full phases around the largest, in the order of the cycle.
    steps = np.arange(count)
    after = int((~full[(largest + steps) % count]).argmax()) - 1
    before = int((~full[(largest - steps) % count]).argmax()) - 1
    run = (largest + np.arange(-before, after + 1)) % count
    return 0 if 0 in run else int(run[-1])

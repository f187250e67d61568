"""Reasons why a cine's result should be looked at before it is used, in words for its reader.

A flag is no verdict: valve disease, a shunt or an unusual heart raises some of them just as a wrong mask does. The
limits are set so that expert masks seldom raise one: ``scripts/calibrate_flags.py`` counts how often, and the shares
quoted below are its count for the 100 patients of ACDC's training split. What the files do not say (times, heart rate,
height, weight) is no flag: the numbers that need it are undefined in the measurements, and that says it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cardiac_cine import consistency
from cardiac_cine.anatomy import degenerated_slices
from cardiac_cine.cine import Cine
from cardiac_cine.labels import LV, STRUCTURE_KEYS, STRUCTURES, check_mask
from cardiac_cine.measurements import Measurements

# Experts: LV 10-82 %, RV 2-86 %; 2 of 100 RVs below and 1 above.
EF_PERCENT = (5.0, 85.0)
# Mean Dice between variants of one prediction. Two readers of one ACDC scan reach 0.95 or more for every structure, but
# 0.78 for another scan's RV at end-systole: below these a reader would draw another contour. Chosen, not calibrated.
MIN_AGREEMENT = {"rv": 0.85, "myo": 0.80, "lv": 0.90}
# At end-diastole the outermost slice at the base shows the LV in 95 of 100 expert masks, so that alone says nothing.
# With an area beyond this share of the largest, and an LV shorter than this times its width, the base may be cut off:
# 6 of 100 expert masks, and 89 once their three most basal slices with LV are taken away.
MAX_BASAL_SHARE = 0.75
MIN_LENGTH_TO_WIDTH = 0.9
# The share of the largest LV area in the outermost slice at the apex: 3 of 100 expert masks show more, and 91 once
# their two most apical slices with LV are taken away.
MAX_APICAL_SHARE = 0.35
# Of the largest volume: one phase moves an ejection fraction by as many points. Smooth curves of phantoms stay below
# 0.04 with 20 phases or more and 0.1 with 12 to 19, cut-off cycles included; with fewer they bend too much to tell.
MAX_JUMP = {20: 0.05, 12: 0.10}
# Difference between ED and ES over the larger. The wall hardly changes its volume, but at end-systole experts draw
# more of it: 13 % in the median; 6 of 100 are beyond this.
MAX_MYO_CHANGE = 0.26
# Difference over the larger stroke volume. Leaking valves and shunts are in there, and the RV's base, where experts
# disagree most: 6 of 100 are beyond this, 12 beyond 0.5.
MAX_SV_MISMATCH = 0.60
# Experts: 3 mm in the median, 5 of 100 beyond this, real shifts between breath-holds.
MAX_SHIFT_MM = 10.0
# This project's threshold: 67 ms a phase at 60 beats a minute, so that end-systole is met by chance and EF too low.
MIN_PHASES = 15
# ACDC has 0.7-1.95 mm and 5-10 mm; a wall of 10 mm is four pixels here, and a slice an eighth of the heart.
MAX_IN_PLANE_MM = 2.5
MAX_BETWEEN_SLICES_MM = 12.0
# ACDC's fewest. With five slices each carries a fifth of the volume.
MIN_LV_SLICES = 6

_NAMED_SLICES = 4
_NAMES = {"rv": "RV cavity", "myo": "myocardium", "lv": "LV cavity"}


@dataclass(frozen=True)
class Flag:
    """One reason to look at a result.

    Attributes:
        code: stable, one of ``CODES``.
        reason: one plain sentence with the numbers; slices and phases count from 1.
    """

    code: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Study:
    masks: np.ndarray
    cine: Cine
    measured: Measurements
    uncertainty: Mapping[str, float]

    @property
    def phases(self) -> int:
        return self.masks.shape[3]

    @cached_property
    def key_phases(self) -> dict[str, int]:
        """The phases that the measurements come from, by what a sentence calls them; " " before it."""
        ed, es = self.measured.ed_frame, self.measured.es_frame
        if self.phases == 1:
            return {"": 0}
        if ed == es:
            return {f" in phase {ed + 1} of {self.phases}": ed}
        return {" at end-diastole": ed, " at end-systole": es}

    @cached_property
    def pixel_counts(self) -> np.ndarray:
        return consistency.pixel_counts(self.masks)

    @cached_property
    def ed_mask(self) -> np.ndarray:
        return self.masks[..., self.measured.ed_frame]

    @cached_property
    def coverage(self) -> consistency.Coverage | None:
        return consistency.coverage(self.ed_mask, self.cine.spacing_mm)

    def slice(self, index: int) -> str:
        return f"slice {index + 1} of {self.masks.shape[2]}"

    def in_phases(self, phases: list[int]) -> str:
        if self.phases == 1:
            return ""
        return f" in phase {phases[0] + 1}" if len(phases) == 1 else f" in {len(phases)} phases"


def quality_flags(
    masks: np.ndarray, cine: Cine, measurements: Measurements, *, uncertainty: Mapping[str, float] | None = None
) -> tuple[Flag, ...]:
    """Return the reasons why a result should be looked at.

    Args:
        masks: uint8 labels 0-3, (x, y, z, t), on the cine's grid.
        cine: what was segmented; its spacing and remarks count, not its voxels.
        measurements: of these masks.
        uncertainty: structure key to the mean Dice, 0 to 1, between variants of the prediction at end-diastole and
            end-systole; NaN where no variant shows the structure.

    Returns:
        The most serious first, in the order of ``CODES``; a code comes once for each ventricle, structure or remark
        concerned. Empty masks give no more than what they lack and what the scan itself is flagged for. Checks over
        the cycle need phases: a volume curve is judged from 12 on, and one phase has no ejection.

    Raises:
        ValueError: ``masks`` are not integer ids 0-3 of the cine's shape, the measurements name a phase that is not
            there, or the uncertainty names an unknown structure or is outside 0-1.
    """
    check_mask(masks, 4, "masks")
    if masks.shape != cine.array.shape:
        raise ValueError(f"masks must have the cine's shape {cine.array.shape}, got {masks.shape}")
    for name, frame in (("ed_frame", measurements.ed_frame), ("es_frame", measurements.es_frame)):
        if not 0 <= frame < masks.shape[3]:
            raise ValueError(f"measurements.{name} must be from 0 to {masks.shape[3] - 1}, got {frame}")
    for key, dice in (uncertainty or {}).items():
        if key not in STRUCTURE_KEYS or dice < 0 or dice > 1:
            raise ValueError(f"uncertainty must map {STRUCTURE_KEYS} to values of 0 to 1, got {key!r}: {dice!r}")
    study = _Study(masks, cine, measurements, uncertainty or {})
    return tuple(Flag(code, reason) for code, check in _CHECKS.items() for reason in check(study))


def _structure_missing(study: _Study) -> Iterator[str]:
    for structure, counts in zip(STRUCTURES, study.pixel_counts, strict=True):
        missing = ~counts.any(axis=0)
        where = " and".join(when for when, phase in study.key_phases.items() if missing[phase])
        if missing.all():
            where = " in any phase" if study.phases > 1 else ""
        elif not where and missing.any():
            where = f" in {np.count_nonzero(missing)} of {study.phases} phases"
            if structure.id == LV:
                where += "; end-diastole and end-systole were looked for in the others"
        if missing.any():
            yield f"The mask has no {_NAMES[structure.key]}{where}."


def _negative_stroke_volume(study: _Study) -> Iterator[str]:
    for name, edv, esv in _volumes(study):
        if esv > edv:
            yield (
                f"The {name} holds more at end-systole ({esv:.0f} mL) than at end-diastole ({edv:.0f} mL), "
                "so its stroke volume is negative."
            )


def _single_phase(study: _Study) -> Iterator[str]:
    if study.measured.ed_frame == study.measured.es_frame:
        what = "The cine has a single phase" if study.phases == 1 else "No more than one phase shows the LV"
        yield f"{what}, taken for end-diastole, so there is no stroke volume or ejection fraction."


def _implausible_ef(study: _Study) -> Iterator[str]:
    low, high = EF_PERCENT
    for name, ef in (("LV", study.measured.lv_ef_percent), ("RV", study.measured.rv_ef_percent)):
        if 0 <= ef < low or ef > high:
            yield f"The {name}'s ejection fraction is {ef:.0f} %, outside the plausible {low:.0f} to {high:.0f} %."


def _low_confidence(study: _Study) -> Iterator[str]:
    for key in STRUCTURE_KEYS:
        dice = study.uncertainty.get(key, math.nan)
        if dice < MIN_AGREEMENT[key]:
            yield (
                f"The {_NAMES[key]} is uncertain: variants of the prediction overlap by a mean Dice of {dice:.2f}, "
                f"expected {MIN_AGREEMENT[key]:.2f} or more."
            )


def _unknown_direction(study: _Study) -> Iterator[str]:
    if (study.ed_mask == LV).any() and study.coverage is None:
        yield (
            "Which end of the stack is the base of the heart cannot be told from the mask at end-diastole, so nor can "
            "whether the stack reaches both ends."
        )


def _missing_base(study: _Study) -> Iterator[str]:
    found = study.coverage
    if found and found.basal_share > MAX_BASAL_SHARE and found.length_to_width < MIN_LENGTH_TO_WIDTH:
        yield (
            f"The stack may not reach the base: {study.slice(found.basal_slice)}, its most basal, still shows "
            f"{100 * found.basal_share:.0f} % of the largest LV area, and the LV is only {found.length_to_width:.2f} "
            "times as long as it is wide."
        )


def _missing_apex(study: _Study) -> Iterator[str]:
    found = study.coverage
    if found and found.apical_share > MAX_APICAL_SHARE:
        yield (
            f"The stack may not reach the apex: {study.slice(found.apical_slice)}, its most apical, still shows "
            f"{100 * found.apical_share:.0f} % of the largest LV area."
        )


def _ragged_volume_curve(study: _Study) -> Iterator[str]:
    limit = next((limit for fewest, limit in MAX_JUMP.items() if study.phases >= fewest), math.inf)
    for name, curve in (("LV", study.measured.lv_volume_ml), ("RV", study.measured.rv_volume_ml)):
        jump = consistency.largest_jump(curve)
        if jump and jump.ml > limit * max(curve) > 0:
            yield (
                f"The {name}'s volume in phase {jump.phase + 1} of {study.phases} lies {jump.ml:.0f} mL off the course "
                f"of its neighbours, {100 * jump.ml / max(curve):.0f} % of the largest volume."
            )


def _implausible_slices(study: _Study) -> Iterator[str]:
    found = [
        f"{study.slice(z)}{when} ({', '.join(fault.reason for fault in faults)})"
        for when, phase in study.key_phases.items()
        for z, faults in degenerated_slices(study.masks[..., phase], study.cine.spacing_mm).items()
    ]
    if found:
        yield f"The mask is anatomically implausible in {_listed(found)}."


def _missing_between_slices(study: _Study) -> Iterator[str]:
    found = consistency.gaps(study.pixel_counts)
    for key in STRUCTURE_KEYS:
        phases: dict[int, list[int]] = {}
        for gap in found:
            if gap.structure == key:
                phases.setdefault(gap.slice, []).append(gap.phase)
        where = [study.slice(z) + study.in_phases(absent) for z, absent in sorted(phases.items())]
        if where:
            yield f"The {_NAMES[key]} is missing between slices that show it: {_listed(where)}."


def _flickering_slice(study: _Study) -> Iterator[str]:
    found = consistency.flickers(study.pixel_counts, study.cine.spacing_mm)
    for key in STRUCTURE_KEYS:
        where = [f"{study.slice(f.slice)}, {f.phases_with} phases with it" for f in found if f.structure == key]
        if where:
            yield f"The {_NAMES[key]} comes and goes more than once in the cycle: {_listed(where)}."


def _myocardial_volume_change(study: _Study) -> Iterator[str]:
    curve = study.measured.myo_volume_ml
    ed, es = curve[study.measured.ed_frame], curve[study.measured.es_frame]
    share = consistency.difference_share(ed, es)
    if share > MAX_MYO_CHANGE:
        yield (
            f"The myocardium has {ed:.0f} mL at end-diastole and {es:.0f} mL at end-systole, apart by "
            f"{100 * share:.0f} % of the larger, though the wall hardly changes its volume."
        )


def _stroke_volume_mismatch(study: _Study) -> Iterator[str]:
    lv, rv = study.measured.lv_sv_ml, study.measured.rv_sv_ml
    share = consistency.difference_share(lv, rv)
    if share > MAX_SV_MISMATCH:
        yield (
            f"The stroke volumes are apart by {100 * share:.0f} % of the larger, LV {lv:.0f} mL and RV {rv:.0f} mL: "
            "a leaking valve, a shunt or a wrong mask."
        )


def _slice_motion(study: _Study) -> Iterator[str]:
    found = consistency.largest_shift(study.ed_mask, study.cine.spacing_mm)
    if found and found.mm > MAX_SHIFT_MM:
        yield (
            f"At end-diastole {study.slice(found.slice)} lies {found.mm:.0f} mm off the line through its neighbours' "
            "LV centres: breath-holds of different depth, or a wrong mask."
        )


def _few_phases(study: _Study) -> Iterator[str]:
    if 1 < study.phases < MIN_PHASES:
        yield (
            f"The cine has {study.phases} phases, fewer than {MIN_PHASES}: end-systole may fall between two of them "
            "and the ejection fraction come out too low."
        )


def _few_slices(study: _Study) -> Iterator[str]:
    count = np.count_nonzero((study.ed_mask == LV).any(axis=(0, 1)))
    if 0 < count < MIN_LV_SLICES:
        yield f"The LV shows in {count} slices at end-diastole, fewer than {MIN_LV_SLICES}, so its volume is coarse."


def _unusual_spacing(study: _Study) -> Iterator[str]:
    x, y, z = study.cine.spacing_mm
    if max(x, y) > MAX_IN_PLANE_MM or z > MAX_BETWEEN_SLICES_MM:
        yield (
            f"The resolution is low: pixels of {x:.2g} x {y:.2g} mm and slices {z:.3g} mm apart, expected at most "
            f"{MAX_IN_PLANE_MM:g} mm and {MAX_BETWEEN_SLICES_MM:g} mm."
        )


def _reading(study: _Study) -> Iterator[str]:
    yield from study.cine.remarks


def _volumes(study: _Study) -> Iterator[tuple[str, float, float]]:
    yield "LV", study.measured.lv_edv_ml, study.measured.lv_esv_ml
    yield "RV", study.measured.rv_edv_ml, study.measured.rv_esv_ml


def _listed(entries: list[str]) -> str:
    more = len(entries) - _NAMED_SLICES
    return "; ".join(entries[:_NAMED_SLICES]) + (f"; and {more} more" if more > 0 else "")


# The most serious first: nothing to measure, numbers that cannot be, doubtful masks, doubtful coverage, doubtful scans.
_CHECKS: dict[str, Callable[[_Study], Iterator[str]]] = {
    "structure_missing": _structure_missing,
    "negative_stroke_volume": _negative_stroke_volume,
    "single_phase": _single_phase,
    "implausible_ef": _implausible_ef,
    "low_confidence": _low_confidence,
    "missing_base": _missing_base,
    "missing_apex": _missing_apex,
    "unknown_direction": _unknown_direction,
    "implausible_slices": _implausible_slices,
    "missing_between_slices": _missing_between_slices,
    "ragged_volume_curve": _ragged_volume_curve,
    "flickering_slice": _flickering_slice,
    "myocardial_volume_change": _myocardial_volume_change,
    "stroke_volume_mismatch": _stroke_volume_mismatch,
    "slice_motion": _slice_motion,
    "few_phases": _few_phases,
    "few_slices": _few_slices,
    "unusual_spacing": _unusual_spacing,
    "reading": _reading,
}
CODES = tuple(_CHECKS)

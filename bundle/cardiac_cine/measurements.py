"""Numbers from masks: volumes, ejection fraction, myocardial mass and what else a short-axis report states.

Pure functions on arrays, no files. What is reported follows SCMR's recommendations (Hundley et al., J Cardiovasc Magn
Reson 24:29, 2022; Schulz-Menger et al., 22:19, 2020).

Papillary muscles and trabeculae count to the cavity wherever the mask says so, as ACDC's references do; reference
ranges from the other convention do not apply.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cardiac_cine.cine import MS_PER_MINUTE, Patient
from cardiac_cine.curves import check_times, peak_rates_ml_s
from cardiac_cine.geometry import spacing_mm as spacing_of
from cardiac_cine.geometry import voxel_volume_ml
from cardiac_cine.labels import LV, MYO, NUM_CLASSES, RV, check_mask
from cardiac_cine.phases import find_phases
from cardiac_cine.wall import SEGMENTS, segment_thickness_mm

# Density of myocardium, SCMR's convention for mass from cine volumes.
MYOCARDIAL_DENSITY_G_PER_ML = 1.05
ML_PER_L = 1000.0
# Mosteller, N Engl J Med 317(17), 1987: the square root of height times weight over this, in cm, kg and m2.
_MOSTELLER = 3600.0
_NOBODY = Patient()
# The fields of Measurements that have a value for each phase.
CURVES = ("lv_volume_ml", "rv_volume_ml", "myo_volume_ml", "times_ms")


@dataclass(frozen=True)
class Volumes:
    """Volumes of one frame in mL: right ventricular cavity, left ventricular myocardium and cavity."""

    rv_ml: float
    myo_ml: float
    lv_ml: float


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What a short-axis report states of one cine; the fields in order are the keys of its JSON.

    A number that cannot be had is NaN: a structure that the masks lack in the phase in question, end-systole in a cine
    of a single phase, an index without the patient's height and weight, a rate without times.

    Attributes:
        ed_frame: end-diastole, counted from 0, by the left ventricle, for the right one too.
        es_frame: end-systole, likewise; the same as ``ed_frame`` where there is no cycle to find it in.
        phases: number of phases.
        lv_edv_ml: end-diastolic volume of the left ventricle's cavity; likewise ``lv_esv_ml`` and ``rv_...``.
        lv_sv_ml: stroke volume, the difference of the two; likewise ``rv_sv_ml``.
        lv_ef_percent: ejection fraction, see :func:`ef_percent`; likewise ``rv_ef_percent``.
        lv_mass_g: mass of the left ventricle's wall at end-diastole.
        lv_mass_es_g: the same at end-systole; the two agree in sound masks.
        heart_rate_bpm: from the length of the cycle.
        cardiac_output_l_min: left ventricular stroke volume times heart rate.
        cardiac_index_l_min_m2: cardiac output over body surface area.
        bsa_m2: body surface area, see :func:`bsa_m2`.
        lv_edvi_ml_m2: end-diastolic volume over body surface area; likewise the other indices.
        lv_mass_index_g_m2: end-diastolic mass over body surface area.
        lv_peak_ejection_rate_ml_s: positive, see :func:`cardiac_cine.curves.peak_rates_ml_s`; likewise the others.
        lv_volume_ml: of every phase, 0 where the mask has none, as measured; likewise the other curves.
        times_ms: of every phase, None where unknown.
        wall_thickness_ed_mm: of 16 segments, see :func:`cardiac_cine.wall.segment_thickness_mm`.
        wall_thickness_es_mm: the same at end-systole.
        wall_thickening_percent: from end-diastole to end-systole, of the end-diastolic thickness.
    """

    ed_frame: int
    es_frame: int
    phases: int
    lv_edv_ml: float
    lv_esv_ml: float
    lv_sv_ml: float
    lv_ef_percent: float
    lv_mass_g: float
    lv_mass_es_g: float
    rv_edv_ml: float
    rv_esv_ml: float
    rv_sv_ml: float
    rv_ef_percent: float
    heart_rate_bpm: float
    cardiac_output_l_min: float
    cardiac_index_l_min_m2: float
    bsa_m2: float
    lv_edvi_ml_m2: float
    lv_esvi_ml_m2: float
    lv_svi_ml_m2: float
    lv_mass_index_g_m2: float
    rv_edvi_ml_m2: float
    rv_esvi_ml_m2: float
    rv_svi_ml_m2: float
    lv_peak_ejection_rate_ml_s: float
    lv_peak_filling_rate_ml_s: float
    rv_peak_ejection_rate_ml_s: float
    rv_peak_filling_rate_ml_s: float
    lv_volume_ml: tuple[float, ...]
    rv_volume_ml: tuple[float, ...]
    myo_volume_ml: tuple[float, ...]
    times_ms: tuple[float, ...] | None
    wall_thickness_ed_mm: tuple[float, ...]
    wall_thickness_es_mm: tuple[float, ...]
    wall_thickening_percent: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, tuples as lists and NaN as None."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def measure(
    masks: np.ndarray,
    affine: np.ndarray,
    *,
    times_ms: Sequence[float] | None = None,
    rr_ms: float = math.nan,
    patient: Patient = _NOBODY,
    ed_frame: int | None = None,
    es_frame: int | None = None,
) -> Measurements:
    """Measure a segmented cine.

    Args:
        masks: integer labels 0-3, (x, y, z, t), slices along z, phases along t in the order of the cycle.
        affine: 4 x 4 voxel to world, mm, NIfTI's axes (right, anterior, superior).
        times_ms: of every phase, increasing; None where unknown.
        rr_ms: length of the cycle, NaN where unknown.
        patient: whose height and weight index the volumes; by default nothing is known of either.
        ed_frame: end-diastole where a person has chosen it, counted from 0; otherwise found by
            :func:`cardiac_cine.phases.find_phases`.
        es_frame: end-systole, likewise.

    Returns:
        The measurements, see :class:`Measurements` for what is NaN and when. Empty masks give NaN throughout, and
        curves of 0 mL.

    Raises:
        ValueError: ``masks`` is not a 4D integer array of ids 0-3, ``affine`` is not a finite 4 x 4 matrix with three
            axes, ``times_ms`` is not one increasing time per phase, ``rr_ms`` is not a positive length, or a frame is
            out of range or chosen twice.
    """
    check_mask(masks, 4, "masks")
    spacing = spacing_of(affine)
    if rr_ms <= 0 or math.isinf(rr_ms):
        raise ValueError(f"rr_ms must be a positive length of the cycle or NaN, got {rr_ms}")
    count = masks.shape[3]
    times = None if times_ms is None else tuple(check_times(times_ms, count).tolist())
    frames = [volumes_ml(masks[..., phase], spacing) for phase in range(count)]
    lv, rv, myo = (tuple(getattr(frame, key) for frame in frames) for key in ("lv_ml", "rv_ml", "myo_ml"))
    phases = find_phases(lv, ed_frame=ed_frame, es_frame=es_frame)
    ed = phases.ed_frame
    # Where end-systole is the same phase there is no cycle, and nothing is known of end-systole.
    es = phases.es_frame if phases.es_frame != ed else None
    lv_edv, lv_esv, rv_edv, rv_esv = (_known(curve, phase) for curve in (lv, rv) for phase in (ed, es))
    mass = mass_g(_known(myo, ed))
    bsa = bsa_m2(patient.height_cm, patient.weight_kg)
    rate = MS_PER_MINUTE / rr_ms
    output = (lv_edv - lv_esv) * rate / ML_PER_L
    lv_rates, rv_rates = (peak_rates_ml_s(curve, times, rr_ms) for curve in (lv, rv))
    unknown = (math.nan,) * SEGMENTS
    wall_ed = segment_thickness_mm(masks[..., ed], affine)
    wall_es = unknown if es is None else segment_thickness_mm(masks[..., es], affine)
    return Measurements(
        ed_frame=ed,
        es_frame=phases.es_frame,
        phases=count,
        lv_edv_ml=lv_edv,
        lv_esv_ml=lv_esv,
        lv_sv_ml=lv_edv - lv_esv,
        lv_ef_percent=ef_percent(lv_edv, lv_esv),
        lv_mass_g=mass,
        lv_mass_es_g=mass_g(_known(myo, es)),
        rv_edv_ml=rv_edv,
        rv_esv_ml=rv_esv,
        rv_sv_ml=rv_edv - rv_esv,
        rv_ef_percent=ef_percent(rv_edv, rv_esv),
        heart_rate_bpm=rate,
        cardiac_output_l_min=output,
        cardiac_index_l_min_m2=output / bsa,
        bsa_m2=bsa,
        lv_edvi_ml_m2=lv_edv / bsa,
        lv_esvi_ml_m2=lv_esv / bsa,
        lv_svi_ml_m2=(lv_edv - lv_esv) / bsa,
        lv_mass_index_g_m2=mass / bsa,
        rv_edvi_ml_m2=rv_edv / bsa,
        rv_esvi_ml_m2=rv_esv / bsa,
        rv_svi_ml_m2=(rv_edv - rv_esv) / bsa,
        lv_peak_ejection_rate_ml_s=lv_rates.ejection_ml_s,
        lv_peak_filling_rate_ml_s=lv_rates.filling_ml_s,
        rv_peak_ejection_rate_ml_s=rv_rates.ejection_ml_s,
        rv_peak_filling_rate_ml_s=rv_rates.filling_ml_s,
        lv_volume_ml=lv,
        rv_volume_ml=rv,
        myo_volume_ml=myo,
        times_ms=times,
        wall_thickness_ed_mm=wall_ed,
        wall_thickness_es_mm=wall_es,
        wall_thickening_percent=tuple(
            100 * (after / before - 1) for before, after in zip(wall_ed, wall_es, strict=True)
        ),
    )


def volumes_ml(mask: np.ndarray, spacing_mm: Sequence[float]) -> Volumes:
    """Measure the volume of every structure in one frame.

    Args:
        mask: integer labels 0-3, (x, y, z).
        spacing_mm: spacing along x, y, z in mm; along z from slice to slice, gap included.

    Returns:
        Volumes in mL. A structure that is not in the mask has 0 mL, as measured; :func:`measure` takes it for unknown.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3, or ``spacing_mm`` is not three positive numbers.
    """
    check_mask(mask, 3)
    counts = np.bincount(mask.ravel(), minlength=NUM_CLASSES) * voxel_volume_ml(spacing_mm)
    return Volumes(rv_ml=float(counts[RV]), myo_ml=float(counts[MYO]), lv_ml=float(counts[LV]))


def ef_percent(edv_ml: float, esv_ml: float) -> float:
    """Return the ejection fraction, stroke volume over end-diastolic volume.

    Args:
        edv_ml: end-diastolic volume in mL.
        esv_ml: end-systolic volume in mL.

    Returns:
        Percent, not clipped: negative where the end-systolic volume is the larger. NaN where the end-diastolic volume
        is 0 or either volume is NaN.

    Raises:
        ValueError: a volume is negative or infinite.
    """
    for name, value in (("edv_ml", edv_ml), ("esv_ml", esv_ml)):
        _check_volume(name, value)
    return 100.0 * (edv_ml - esv_ml) / edv_ml if edv_ml > 0 else math.nan


def mass_g(myo_volume_ml: float) -> float:
    """Return the mass of a myocardial volume.

    Args:
        myo_volume_ml: volume of the myocardium in mL.

    Returns:
        Grams at 1.05 g/mL; NaN for NaN.

    Raises:
        ValueError: the volume is negative or infinite.
    """
    _check_volume("myo_volume_ml", myo_volume_ml)
    return MYOCARDIAL_DENSITY_G_PER_ML * myo_volume_ml


def bsa_m2(height_cm: float, weight_kg: float) -> float:
    """Return the body surface area by Mosteller's formula (N Engl J Med 317(17), 1987).

    Args:
        height_cm: body height.
        weight_kg: body weight.

    Returns:
        Square root of height times weight over 3600, in m2. NaN unless both are positive and finite: files write 0 for
        what nobody entered.
    """
    if not (0 < height_cm < math.inf and 0 < weight_kg < math.inf):
        return math.nan
    return math.sqrt(height_cm * weight_kg / _MOSTELLER)


def ef_category(lv_ef_percent: float) -> str | None:
    """Return the class of an ejection fraction as heart failure is divided by it.

    These are the classes of ESC 2021 (McDonagh et al., Eur Heart J 42(36)) and of AHA/ACC/HFSA 2022 (Heidenreich et
    al., Circulation 145(18)). They class the number; whether there is heart failure is for a physician to say.

    Args:
        lv_ef_percent: ejection fraction of the left ventricle.

    Returns:
        ``"reduced"`` up to 40 %, ``"mildly reduced"`` from 41 to 49 %, ``"preserved"`` from 50 %; None for NaN. The
        guidelines speak in whole per cent, so the value is rounded to one first, halves up: 40.4 % is reduced,
        40.5 and 49.4 % are mildly reduced, 49.5 % is preserved.
    """
    if math.isnan(lv_ef_percent):
        return None
    whole = math.floor(lv_ef_percent + 0.5)
    return "reduced" if whole <= 40 else "mildly reduced" if whole <= 49 else "preserved"


def _known(curve: Sequence[float], phase: int | None) -> float:
    """Return a structure's volume in a phase, NaN without a phase, and where the mask lacks the structure."""
    return curve[phase] if phase is not None and curve[phase] > 0 else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_volume(name: str, value: float) -> None:
    if value < 0 or math.isinf(value):
        raise ValueError(f"{name} must be a volume of 0 mL or more, got {value}")

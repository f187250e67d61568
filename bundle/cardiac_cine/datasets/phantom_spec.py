"""What defines a phantom of the beating heart, and what is therefore true of it."""

from dataclasses import asdict, dataclass
from math import ceil, isfinite
from typing import Any

import numpy as np

from cardiac_cine.errors import InputError
from cardiac_cine.measurements import MYOCARDIAL_DENSITY_G_PER_ML

# End-systole after this part of the cycle; early filling ends and the atrial kick starts after these parts of the
# diastole, and early filling takes up this part of the stroke.
SYSTOLE_FRACTION = 0.37
EARLY_FILLING_END = 0.45
ATRIAL_KICK_START = 0.72
EARLY_FILLING_SHARE = 0.76

# Smallest and largest value of each field that still makes a heart or an image.
_LIMITS = {
    "lv_edv_ml": (20.0, 600.0),
    "lv_ef_percent": (1.0, 85.0),
    "rv_edv_ml": (20.0, 600.0),
    "rv_ef_percent": (1.0, 85.0),
    "lv_mass_g": (30.0, 500.0),
    "lv_length_mm": (60.0, 150.0),
    "heart_rate_bpm": (20.0, 250.0),
    "rotation_deg": (-360.0, 360.0),
    "noise_sd": (0.0, 0.5),
    "bias": (0.0, 1.0),
    "respiratory_shift_mm": (0.0, 10.0),
}

# Ranges of the left ventricle's end-diastolic volume (mL), ejection fraction (%) and mass (g) and of the right
# ventricle's end-diastolic volume relative to it, after ACDC's groups (Bernard et al., IEEE TMI 37(11), 2018).
_GROUPS = {
    "NOR": ((110, 170), (56, 67), (90, 135), (1.0, 1.2)),
    "MINF": ((150, 220), (24, 38), (115, 160), (0.65, 0.9)),
    "DCM": ((220, 320), (15, 33), (140, 200), (0.55, 0.8)),
    "HCM": ((95, 145), (62, 74), (190, 260), (1.05, 1.3)),
    "RV": ((95, 145), (50, 62), (85, 120), (1.8, 2.3)),
}
GROUPS = tuple(_GROUPS)


@dataclass(frozen=True)
class PhantomTruth:
    """What is true of a phantom by construction.

    Attributes:
        lv_volume_ml: the left ventricle's cavity in every phase, papillary muscles included.
        rv_volume_ml: the right ventricle's cavity in every phase.
        myo_volume_ml: the left ventricle's wall, the same in every phase.
        lv_mass_g: mass of that wall.
        ed_frame: end-diastole, counted from 0.
        es_frame: end-systole, counted from 0.
        lv_edv_ml: end-diastolic volume of the left ventricle.
        lv_esv_ml: its end-systolic volume.
        lv_ef_percent: its ejection fraction.
        rv_edv_ml: end-diastolic volume of the right ventricle.
        rv_esv_ml: its end-systolic volume.
        rv_ef_percent: its ejection fraction.
    """

    lv_volume_ml: tuple[float, ...]
    rv_volume_ml: tuple[float, ...]
    myo_volume_ml: float
    lv_mass_g: float
    ed_frame: int
    es_frame: int
    lv_edv_ml: float
    lv_esv_ml: float
    lv_ef_percent: float
    rv_edv_ml: float
    rv_esv_ml: float
    rv_ef_percent: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        fields = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


@dataclass(frozen=True, kw_only=True)
class PhantomSpec:
    """Everything that defines a phantom: equal fields give equal voxels.

    Attributes:
        lv_edv_ml: end-diastolic volume of the left ventricle, papillary muscles included.
        lv_ef_percent: its ejection fraction.
        rv_edv_ml: end-diastolic volume of the right ventricle.
        rv_ef_percent: its ejection fraction.
        lv_mass_g: mass of the left ventricle's wall.
        lv_length_mm: base to epicardial apex at end-diastole.
        heart_rate_bpm: beats a minute; with ``phases`` it gives the time between frames.
        shape: pixels along x and y.
        slices: None for as many as cover the heart and leave something above and below it.
        phases: frames in one cycle, at least 2; end-diastole is the first.
        spacing_mm: along x, y and z; slices are as thick as they are far apart.
        rotation_deg: of the heart in its plane: 0 puts the right ventricle towards -x, 90 towards +y.
        centre_mm: of the left ventricle, from the centre of the image, along x and y.
        oblique: a clinical short-axis orientation; otherwise the axes point left, posterior and up without a tilt.
        noise_sd: of the Rician noise, as a part of the blood's signal.
        bias: strength of the smooth multiplicative field, about its relative range in either direction.
        respiratory_shift_mm: standard deviation of each slice's shift along x and along y, cut off at 2 of them.
        seed: of shifts, scenery and noise.

    Raises:
        InputError: (a ValueError) fields out of range, or a stack too short for the heart; all of them at once.
    """

    lv_edv_ml: float = 140.0
    lv_ef_percent: float = 60.0
    rv_edv_ml: float = 150.0
    rv_ef_percent: float = 56.0
    lv_mass_g: float = 120.0
    lv_length_mm: float = 96.0
    heart_rate_bpm: float = 65.0
    shape: tuple[int, int] = (216, 256)
    slices: int | None = None
    phases: int = 20
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 10.0)
    rotation_deg: float = 20.0
    centre_mm: tuple[float, float] = (-18.0, -12.0)
    oblique: bool = True
    noise_sd: float = 0.03
    bias: float = 0.3
    respiratory_shift_mm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a number from {low:g} to {high:g}, got {getattr(self, name)!r}"
            for name, (low, high) in _LIMITS.items()
            if not (_is_number(getattr(self, name)) and low <= getattr(self, name) <= high)
        ]
        if not (_are(self.shape, 2, _is_int) and min(self.shape) >= 1):
            problems.append(f"shape must be two positive integers, got {self.shape!r}")
        if not (self.slices is None or (_is_int(self.slices) and self.slices >= 1)):
            problems.append(f"slices must be None or a positive integer, got {self.slices!r}")
        if not (_is_int(self.phases) and self.phases >= 2):
            problems.append(f"phases must be an integer of at least 2, got {self.phases!r}")
        if not (_are(self.spacing_mm, 3, _is_number) and min(self.spacing_mm) > 0):
            problems.append(f"spacing_mm must be three positive numbers, got {self.spacing_mm!r}")
        if not _are(self.centre_mm, 2, _is_number):
            problems.append(f"centre_mm must be two numbers, got {self.centre_mm!r}")
        if not (_is_int(self.seed) and self.seed >= 0):
            problems.append(f"seed must be an integer of at least 0, got {self.seed!r}")
        if not problems and self.slice_count * self.spacing_mm[2] < self.lv_length_mm:
            problems.append(
                f"slices={self.slices} at spacing_mm={self.spacing_mm!r} cover "
                f"{self.slice_count * self.spacing_mm[2]:g} mm, expected lv_length_mm={self.lv_length_mm:g} or more"
            )
        if problems:
            raise InputError(problems)

    @property
    def slice_count(self) -> int:
        """Slices of the stack: ``slices``, or as many as cover the heart and one to two more."""
        return self.slices or ceil(self.lv_length_mm / self.spacing_mm[2] + 1)

    @property
    def es_frame(self) -> int:
        """End-systole, counted from 0; end-diastole is frame 0."""
        return min(max(round(SYSTOLE_FRACTION * self.phases), 1), self.phases - 1)

    @property
    def frame_time_s(self) -> float:
        """Seconds from frame to frame."""
        return 60.0 / self.heart_rate_bpm / self.phases

    def truth(self) -> PhantomTruth:
        """Return the volumes in every phase and what follows from them."""
        effort = activation(self.phases, self.es_frame)
        lv = self.lv_edv_ml * (1 - self.lv_ef_percent / 100 * effort)
        rv = self.rv_edv_ml * (1 - self.rv_ef_percent / 100 * effort)
        return PhantomTruth(
            lv_volume_ml=tuple(lv.tolist()),
            rv_volume_ml=tuple(rv.tolist()),
            myo_volume_ml=self.lv_mass_g / MYOCARDIAL_DENSITY_G_PER_ML,
            lv_mass_g=self.lv_mass_g,
            ed_frame=0,
            es_frame=self.es_frame,
            lv_edv_ml=float(lv[0]),
            lv_esv_ml=float(lv[self.es_frame]),
            lv_ef_percent=self.lv_ef_percent,
            rv_edv_ml=float(rv[0]),
            rv_esv_ml=float(rv[self.es_frame]),
            rv_ef_percent=self.rv_ef_percent,
        )


def random_spec(seed: int, group: str | None = None, **fields: Any) -> PhantomSpec:
    """Draw a plausible patient.

    Both ventricles eject about the same stroke volume, as they do without a shunt or a leaking valve.

    Args:
        seed: of the draw and of the phantom's noise; the same seed gives the same patient.
        group: one of ``GROUPS``; drawn too where None.
        fields: fields of :class:`PhantomSpec` to set instead of drawing them.

    Raises:
        InputError: (a ValueError) ``group`` is not one of ``GROUPS``, or a field is out of range.
        TypeError: there is no such field.
    """
    if group is not None and group not in _GROUPS:
        raise InputError(f"group must be one of {GROUPS} or None, got {group!r}")
    if not (_is_int(seed) and seed >= 0):
        raise InputError(f"seed must be an integer of at least 0, got {seed!r}")
    rng = np.random.default_rng([seed, 1])
    drawn = GROUPS[rng.integers(len(GROUPS))]
    edv, ef, mass, rv_ratio = (rng.uniform(*limits) for limits in _GROUPS[group or drawn])
    pixel = round(rng.uniform(1.3, 1.6), 3)
    drawn_fields = {
        "lv_edv_ml": edv,
        "lv_ef_percent": ef,
        "rv_edv_ml": edv * rv_ratio,
        "rv_ef_percent": ef / rv_ratio * rng.uniform(0.95, 1.05),
        "lv_mass_g": mass,
        "lv_length_mm": 58 + 7 * np.cbrt(edv) + rng.uniform(-4, 4),
        "heart_rate_bpm": rng.uniform(55, 85),
        "rotation_deg": rng.uniform(-5, 30),
        "noise_sd": rng.uniform(0.015, 0.04),
        "bias": rng.uniform(0.15, 0.4),
        "respiratory_shift_mm": rng.uniform(0.3, 1.5),
    }
    spec: dict[str, Any] = {key: round(float(value), 3) for key, value in drawn_fields.items()}
    spec["phases"] = int(rng.integers(20, 31))
    spec["spacing_mm"] = (pixel, pixel, float(rng.choice([8.0, 10.0])))
    spec["centre_mm"] = (round(rng.uniform(-30, -5), 1), round(rng.uniform(-25, 0), 1))
    return PhantomSpec(**{**spec, "seed": seed, **fields})


def activation(phases: int, es_frame: int) -> np.ndarray:
    """Return how far the heart is contracted in each frame: 0 at frame 0, 1 at ``es_frame`` and nowhere else.

    Ejection, early filling, diastasis and the atrial kick follow each other without corners.

    Args:
        phases: frames in the cycle.
        es_frame: end-systole, from 1 to ``phases - 1``.

    Returns:
        Array of shape (phases,).
    """
    frame = np.arange(phases)
    systole = np.sin(np.pi / 2 * np.clip(frame / es_frame, 0, 1)) ** 2
    diastole = (frame - es_frame) / (phases - es_frame)
    early = EARLY_FILLING_SHARE * _smooth_step(diastole / EARLY_FILLING_END)
    kick = (1 - EARLY_FILLING_SHARE) * _smooth_step((diastole - ATRIAL_KICK_START) / (1 - ATRIAL_KICK_START))
    return np.where(frame <= es_frame, systole, 1 - early - kick)


def _smooth_step(value: np.ndarray) -> np.ndarray:
    part = np.clip(value, 0, 1)
    return part * part * (3 - 2 * part)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are(values: Any, count: int, check: Any) -> bool:
    return isinstance(values, tuple) and len(values) == count and all(check(value) for value in values)

"""Numbers from masks: volumes, ejection fraction and myocardial mass. Pure functions on arrays, no files.

Papillary muscles and trabeculae count to the cavity wherever the mask says so, as ACDC's references do; reference
ranges from the other convention do not apply.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_cine.geometry import voxel_volume_ml
from cardiac_cine.labels import LV, MYO, NUM_CLASSES, RV, check_mask

# Density of myocardium, SCMR's convention for mass from cine volumes.
MYOCARDIAL_DENSITY_G_PER_ML = 1.05


@dataclass(frozen=True)
class Volumes:
    """Volumes of one frame in mL: right ventricular cavity, left ventricular myocardium and cavity."""

    rv_ml: float
    myo_ml: float
    lv_ml: float


def volumes_ml(mask: np.ndarray, spacing_mm: Sequence[float]) -> Volumes:
    """Measure the volume of every structure in one frame.

    Args:
        mask: integer labels 0-3, (x, y, z).
        spacing_mm: spacing along x, y, z in mm; along z from slice to slice, gap included.

    Returns:
        Volumes in mL. A structure that is not in the mask has 0 mL, as measured; an ejection fraction from it is NaN.

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


def _check_volume(name: str, value: float) -> None:
    if value < 0 or math.isinf(value):
        raise ValueError(f"{name} must be a volume of 0 mL or more, got {value}")

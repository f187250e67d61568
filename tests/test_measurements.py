import math

import numpy as np
import pytest

from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.measurements import MYOCARDIAL_DENSITY_G_PER_ML, Volumes, ef_percent, mass_g, volumes_ml


def a_mask(rv: int, myo: int, lv: int) -> np.ndarray:
    """A 4 x 5 x 2 mask with so many voxels of each structure."""
    mask = np.zeros(40, np.uint8)
    mask[: rv + myo + lv] = [RV] * rv + [MYO] * myo + [LV] * lv
    return mask.reshape(4, 5, 2)


@pytest.mark.parametrize(
    ("voxels", "spacing_mm", "expected"),
    [
        ((10, 20, 5), (1.0, 1.0, 1.0), Volumes(0.010, 0.020, 0.005)),
        ((10, 20, 5), (1.25, 2.0, 10.0), Volumes(0.25, 0.5, 0.125)),  # 25 mm3 a voxel
        ((0, 20, 5), (1.25, 2.0, 10.0), Volumes(0.0, 0.5, 0.125)),
        ((0, 0, 0), (1.25, 2.0, 10.0), Volumes(0.0, 0.0, 0.0)),
    ],
)
def test_volumes_are_voxels_times_their_volume(voxels, spacing_mm, expected):
    volumes = volumes_ml(a_mask(*voxels), spacing_mm)
    assert (volumes.rv_ml, volumes.myo_ml, volumes.lv_ml) == pytest.approx(
        (expected.rv_ml, expected.myo_ml, expected.lv_ml)
    )


@pytest.mark.parametrize(
    ("mask", "spacing_mm", "message"),
    [
        (np.zeros((4, 4), np.uint8), (1, 1, 1), r"mask must be a non-empty 3D array, got shape \(4, 4\)"),
        (np.zeros((4, 0, 4), np.uint8), (1, 1, 1), r"mask must be a non-empty 3D array, got shape \(4, 0, 4\)"),
        (np.zeros((4, 4, 4)), (1, 1, 1), "mask must hold integer label ids, got float64"),
        (np.full((4, 4, 4), 4), (1, 1, 1), r"mask holds label ids \[4\], expected only \[0, 1, 2, 3\]"),
        (np.full((4, 4, 4), -1), (1, 1, 1), r"mask holds label ids \[-1\], expected only \[0, 1, 2, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), (1, 1), "spacing must be three positive numbers in mm"),
        (np.zeros((4, 4, 4), np.uint8), (1, 1, 0), "spacing must be three positive numbers in mm"),
    ],
)
def test_volumes_reject(mask, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        volumes_ml(mask, spacing_mm)


@pytest.mark.parametrize(
    ("edv_ml", "esv_ml", "expected"),
    [
        (120.0, 48.0, 60.0),
        (120.0, 0.0, 100.0),
        (100.0, 130.0, -30.0),  # not clipped
        (0.0, 0.0, math.nan),
        (0.0, 10.0, math.nan),
        (math.nan, 10.0, math.nan),
        (120.0, math.nan, math.nan),
    ],
)
def test_ejection_fraction(edv_ml, esv_ml, expected):
    assert ef_percent(edv_ml, esv_ml) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("edv_ml", "esv_ml", "name"), [(-1.0, 10.0, "edv_ml"), (10.0, -1.0, "esv_ml")])
def test_ejection_fraction_rejects_negative_volumes(edv_ml, esv_ml, name):
    with pytest.raises(ValueError, match=f"{name} must be a volume of 0 mL or more, got -1.0"):
        ef_percent(edv_ml, esv_ml)


def test_mass_is_volume_times_density():
    assert MYOCARDIAL_DENSITY_G_PER_ML == 1.05
    assert mass_g(100.0) == pytest.approx(105.0)
    assert mass_g(0.0) == 0.0
    assert math.isnan(mass_g(math.nan))


@pytest.mark.parametrize("volume_ml", [-0.5, math.inf])
def test_mass_rejects(volume_ml):
    with pytest.raises(ValueError, match="myo_volume_ml must be a volume of 0 mL or more"):
        mass_g(volume_ml)

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from cardiac_cine.cine import Patient
from cardiac_cine.curves import peak_rates_ml_s
from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.measurements import (
    MYOCARDIAL_DENSITY_G_PER_ML,
    Measurements,
    Volumes,
    bsa_m2,
    ef_category,
    ef_percent,
    mass_g,
    measure,
    volumes_ml,
)


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


@pytest.mark.parametrize(
    ("height_cm", "weight_kg", "expected"),
    [
        (180.0, 80.0, 2.0),
        (160.0, 90.0, 2.0),
        (100.0, 9.0, 0.5),
        (math.nan, 80.0, math.nan),
        (180.0, math.nan, math.nan),
        (0.0, 80.0, math.nan),  # not entered
        (180.0, -1.0, math.nan),
        (math.inf, 80.0, math.nan),
    ],
)
def test_body_surface_area(height_cm, weight_kg, expected):
    assert bsa_m2(height_cm, weight_kg) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("lv_ef_percent", "expected"),
    [
        (-5.0, "reduced"),
        (35.0, "reduced"),
        (40.0, "reduced"),
        (40.49, "reduced"),
        (40.5, "mildly reduced"),
        (41.0, "mildly reduced"),
        (49.0, "mildly reduced"),
        (49.49, "mildly reduced"),
        (49.5, "preserved"),
        (50.0, "preserved"),
        (70.0, "preserved"),
        (math.nan, None),
    ],
)
def test_class_of_an_ejection_fraction(lv_ef_percent, expected):
    assert ef_category(lv_ef_percent) == expected


# 0.1 mL a voxel: 5 x 5 x 4 mm.
AFFINE = np.diag([-5.0, -5.0, 4.0, 1.0])


def a_cine(rv: list[int], myo: list[int], lv: list[int]) -> np.ndarray:
    """A 20 x 20 x 10 cine whose phases have so many voxels of each structure."""
    masks = np.zeros((4000, len(lv)), np.uint8)
    for phase, counts in enumerate(zip(rv, myo, lv, strict=True)):
        masks[: sum(counts), phase] = np.repeat([RV, MYO, LV], counts)
    return masks.reshape(20, 20, 10, -1)


def test_measurements_of_a_hand_computed_cine():
    masks = a_cine(rv=[1400, 900, 500, 1000], myo=[1000, 990, 1020, 980], lv=[1200, 800, 400, 900])
    result = measure(
        masks, AFFINE, times_ms=[0, 200, 400, 600], rr_ms=800.0, patient=Patient(height_cm=180, weight_kg=80)
    )
    expected = {
        "ed_frame": 0,
        "es_frame": 2,
        "phases": 4,
        "lv_edv_ml": 120.0,
        "lv_esv_ml": 40.0,
        "lv_sv_ml": 80.0,
        "lv_ef_percent": 100 * 80 / 120,
        "lv_mass_g": 105.0,
        "lv_mass_es_g": 107.1,
        "rv_edv_ml": 140.0,
        "rv_esv_ml": 50.0,
        "rv_sv_ml": 90.0,
        "rv_ef_percent": 100 * 90 / 140,
        "heart_rate_bpm": 75.0,
        "cardiac_output_l_min": 6.0,
        "cardiac_index_l_min_m2": 3.0,
        "bsa_m2": 2.0,
        "lv_edvi_ml_m2": 60.0,
        "lv_esvi_ml_m2": 20.0,
        "lv_svi_ml_m2": 40.0,
        "lv_mass_index_g_m2": 52.5,
        "rv_edvi_ml_m2": 70.0,
        "rv_esvi_ml_m2": 25.0,
        "rv_svi_ml_m2": 45.0,
    }
    assert {key: getattr(result, key) for key in expected} == pytest.approx(expected)
    assert result.lv_volume_ml == pytest.approx((120, 80, 40, 90))
    assert result.rv_volume_ml == pytest.approx((140, 90, 50, 100))
    assert result.myo_volume_ml == pytest.approx((100, 99, 102, 98))
    assert result.times_ms == (0.0, 200.0, 400.0, 600.0)
    # Four phases are too few for rates, and the voxels drawn are no rings.
    assert math.isnan(result.lv_peak_ejection_rate_ml_s)
    assert np.isnan(result.wall_thickness_ed_mm).all()


def test_the_right_ventricle_is_measured_at_the_left_ones_phases():
    result = measure(a_cine(rv=[800, 1400, 500, 900], myo=[1000] * 4, lv=[1200, 1000, 600, 400]), AFFINE)
    assert (result.ed_frame, result.es_frame) == (0, 3)
    assert (result.rv_edv_ml, result.rv_esv_ml) == pytest.approx((80, 90))
    assert result.rv_ef_percent == pytest.approx(-12.5)  # not clipped


def test_rates_take_the_length_of_the_cycle_that_is_given():
    # Filling goes on beyond the last phase: if that ended the cycle, half of it would seem to happen in 40 ms.
    lv = [120, 110, 95, 80, 65, 52, 42, 36, 40, 46, 53, 60, 67, 73]
    rv = [volume + 10 for volume in lv]
    masks = a_cine(rv=[10 * v for v in rv], myo=[100] * len(lv), lv=[10 * v for v in lv])
    times_ms = [40.0 * phase for phase in range(len(lv))]
    result = measure(masks, AFFINE, times_ms=times_ms, rr_ms=900.0)
    for side, curve in (("lv", lv), ("rv", rv)):
        expected = peak_rates_ml_s(curve, times_ms, 900.0)
        assert expected.filling_ml_s < 0.5 * peak_rates_ml_s(curve, times_ms).filling_ml_s
        assert getattr(result, f"{side}_peak_filling_rate_ml_s") == pytest.approx(expected.filling_ml_s)
        assert getattr(result, f"{side}_peak_ejection_rate_ml_s") == pytest.approx(expected.ejection_ml_s)


def test_frames_that_are_given_win():
    masks = a_cine(rv=[800, 700, 500, 600], myo=[1000] * 4, lv=[1200, 1000, 400, 600])
    result = measure(masks, AFFINE, ed_frame=1, es_frame=3)
    assert (result.ed_frame, result.es_frame, result.lv_edv_ml, result.lv_esv_ml) == pytest.approx((1, 3, 100, 60))


def unknown(result: Measurements) -> set[str]:
    """The keys that are null, or null throughout."""
    values = result.to_dict().items()
    return {key for key, value in values if value is None or (isinstance(value, list) and set(value) == {None})}


ALWAYS_KNOWN = {"ed_frame", "es_frame", "phases", "lv_volume_ml", "rv_volume_ml", "myo_volume_ml"}
KEYS = {field.name for field in fields(Measurements)}


def test_one_phase_says_nothing_of_end_systole():
    spec = PhantomSpec(shape=(110, 120), spacing_mm=(1.8, 2.0, 12.0), phases=4, centre_mm=(0.0, 0.0))
    cine = render(spec, (0,))
    result = measure(cine.mask, cine.affine, rr_ms=1000.0, patient=Patient(height_cm=180, weight_kg=80))
    assert (result.ed_frame, result.es_frame, result.phases) == (0, 0, 1)
    assert KEYS - unknown(result) - ALWAYS_KNOWN == {
        "lv_edv_ml",
        "lv_mass_g",
        "rv_edv_ml",
        "heart_rate_bpm",
        "bsa_m2",
        "lv_edvi_ml_m2",
        "lv_mass_index_g_m2",
        "rv_edvi_ml_m2",
        "wall_thickness_ed_mm",
    }


def test_nothing_is_known_of_empty_masks():
    result = measure(np.zeros((8, 8, 4, 3), np.uint8), AFFINE)
    assert KEYS - unknown(result) == ALWAYS_KNOWN
    assert (result.ed_frame, result.es_frame, result.lv_volume_ml) == (0, 0, (0.0, 0.0, 0.0))


def test_a_structure_that_is_missing_has_no_volume():
    result = measure(a_cine(rv=[500, 0, 300], myo=[0, 0, 0], lv=[900, 400, 600]), AFFINE)
    assert (result.rv_edv_ml, result.lv_edv_ml, result.lv_esv_ml) == pytest.approx((50, 90, 40))
    missing = {"rv_esv_ml", "rv_sv_ml", "rv_ef_percent", "lv_mass_g", "lv_mass_es_g", "heart_rate_bpm", "bsa_m2"}
    assert missing < unknown(result)
    assert result.rv_volume_ml == pytest.approx((50, 0, 30))


def test_measurements_of_a_phantom():
    spec = PhantomSpec(
        shape=(110, 120), spacing_mm=(1.8, 2.0, 12.0), phases=16, centre_mm=(0.0, 0.0), heart_rate_bpm=60
    )
    cine, truth = render(spec), spec.truth()
    result = measure(cine.mask, cine.affine, times_ms=np.arange(16) * 62.5, rr_ms=1000.0)
    assert (result.ed_frame, result.es_frame) == (truth.ed_frame, truth.es_frame)
    for key in ("lv_edv_ml", "lv_esv_ml", "rv_edv_ml", "rv_esv_ml", "lv_mass_g"):
        assert getattr(result, key) == pytest.approx(getattr(truth, key), rel=0.005)
    assert result.lv_mass_es_g == pytest.approx(truth.lv_mass_g, rel=0.005)
    # 84 mL by a squared sine in 6 of 16 phases of a second.
    assert result.lv_peak_ejection_rate_ml_s == pytest.approx(84 * math.pi / 2 / (6 / 16), rel=0.05)
    assert result.lv_peak_filling_rate_ml_s == pytest.approx(84 * 0.76 * 1.5 / (0.45 * 10 / 16), rel=0.05)
    assert result.rv_peak_ejection_rate_ml_s == pytest.approx(84 * math.pi / 2 / (6 / 16), rel=0.05)
    assert result.wall_thickening_percent[6] == pytest.approx(
        100 * (result.wall_thickness_es_mm[6] - result.wall_thickness_ed_mm[6]) / result.wall_thickness_ed_mm[6]
    )
    assert 20 < min(result.wall_thickening_percent) < max(result.wall_thickening_percent) < 80


def test_measurements_as_json():
    result = measure(a_cine(rv=[500, 300], myo=[900, 900], lv=[900, 400]), AFFINE, times_ms=[0.0, 300.0])
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(content) == [field.name for field in fields(Measurements)]
    assert (content["lv_edv_ml"], content["lv_volume_ml"], content["times_ms"]) == (90, [90, 40], [0, 300])
    assert content["heart_rate_bpm"] is None
    assert content["wall_thickness_ed_mm"] == [None] * 16
    assert measure(a_cine([500], [900], [900]), AFFINE).to_dict()["times_ms"] is None


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), {}, r"masks must be a non-empty 4D array, got shape \(4, 4, 4\)"),
        (np.zeros((4, 4, 4, 2)), {}, "masks must hold integer label ids, got float64"),
        (np.zeros((4, 4, 4, 2), np.uint8), {"times_ms": [0.0]}, "times_ms must be 2 increasing times"),
        (np.zeros((4, 4, 4, 2), np.uint8), {"rr_ms": 0.0}, "rr_ms must be a positive length of the cycle or NaN"),
        (np.zeros((4, 4, 4, 2), np.uint8), {"rr_ms": math.inf}, "rr_ms must be a positive length of the cycle or NaN"),
        (np.zeros((4, 4, 4, 2), np.uint8), {"ed_frame": 2}, "ed_frame must be one of the frames 0 to 1, got 2"),
        (np.zeros((4, 4, 4, 2), np.uint8), {"ed_frame": 1, "es_frame": 1}, "must be two different frames"),
    ],
)
def test_measure_rejects(masks, options, message):
    with pytest.raises(ValueError, match=message):
        measure(masks, AFFINE, **options)


def test_measure_rejects_an_affine_without_three_axes():
    with pytest.raises(ValueError, match="affine has a zero spacing"):
        measure(np.zeros((4, 4, 4, 2), np.uint8), np.diag([1.0, 0.0, 1.0, 1.0]))

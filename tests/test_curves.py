import math

import numpy as np
import pytest

from cardiac_cine.curves import PeakRates, check_times, missing_phases, peak_rates_ml_s, smooth
from cardiac_cine.datasets.phantom_spec import PhantomSpec


def a_wave(phases: int) -> np.ndarray:
    """From 140 mL down to 60 and back: 100 mL + 40 mL times the cosine."""
    return 100 + 40 * np.cos(2 * np.pi * np.arange(phases) / phases)


@pytest.mark.parametrize(
    ("volume_ml", "expected"),
    [
        ([100.0, 0.0, 50.0], [False, True, False]),
        ([math.nan, 80.0], [True, False]),
        ([0.0], [True]),
    ],
)
def test_a_phase_without_a_volume_is_missing(volume_ml, expected):
    assert missing_phases(volume_ml).tolist() == expected


@pytest.mark.parametrize("volume_ml", [[], [[1.0]], [-1.0, 2.0], [math.inf, 2.0]])
def test_what_is_no_curve_is_refused(volume_ml):
    for function in (missing_phases, lambda curve: peak_rates_ml_s(curve, None)):
        with pytest.raises(ValueError, match="volume_ml must be volumes of 0 mL or more, one per phase, got"):
            function(volume_ml)


@pytest.mark.parametrize("phases", [1, 2, 5, 11])
def test_short_curves_are_not_smoothed(phases):
    curve = np.random.default_rng(phases).uniform(50, 150, phases)
    np.testing.assert_array_equal(smooth(curve), curve)


def test_smoothing_has_no_ends():
    curve = np.random.default_rng(0).uniform(50, 150, 20)
    for shift in (1, 7, 19):
        np.testing.assert_allclose(smooth(np.roll(curve, shift)), np.roll(smooth(curve), shift))


def test_smoothing_of_a_hand_computed_spike():
    # Cubics over 5 phases have the weights -3, 12, 17, 12, -3 over 35 (Savitzky & Golay, 1964).
    spike = np.zeros(16)
    spike[0] = 35
    assert smooth(spike) == pytest.approx([17, 12, -3, *[0] * 11, -3, 12])


@pytest.mark.parametrize("phases", [12, 16, 20, 25, 30, 50])
def test_peak_rates_of_a_cosine(phases):
    # 40 mL times 2 pi a second, both ways.
    rates = peak_rates_ml_s(a_wave(phases), np.arange(phases) * 1000 / phases, 1000.0)
    assert (rates.ejection_ml_s, rates.filling_ml_s) == pytest.approx([80 * math.pi] * 2, rel=0.06)


@pytest.mark.parametrize("phases", [16, 20, 25, 30])
def test_peak_rates_of_a_phantom(phases):
    spec = PhantomSpec(phases=phases, heart_rate_bpm=60, lv_edv_ml=150, lv_ef_percent=60)
    truth = spec.truth()
    times = np.arange(phases) * spec.frame_time_s * 1000
    rates = peak_rates_ml_s(truth.lv_volume_ml, times, 1000.0)
    # 90 mL: a squared sine empties them at most pi / 2 times their mean over the systole, and a smooth step fills 76 %
    # of them in 45 % of the diastole at most at 3 / 2 of the mean.
    systole = spec.es_frame / phases
    assert rates.ejection_ml_s == pytest.approx(90 * math.pi / 2 / systole, rel=0.05)
    assert rates.filling_ml_s == pytest.approx(90 * 0.76 * 1.5 / (0.45 * (1 - systole)), rel=0.05)


def test_rates_are_per_second():
    slow, fast = (peak_rates_ml_s(a_wave(20), np.arange(20) * step, 20 * step) for step in (50.0, 25.0))
    assert fast.ejection_ml_s == pytest.approx(2 * slow.ejection_ml_s)
    assert peak_rates_ml_s(a_wave(20), 300 + np.arange(20) * 50.0, 1000.0) == slow


def test_rates_count_from_the_first_phase_wherever_that_is():
    early, late = (peak_rates_ml_s(a_wave(20), first + np.arange(20) * 50.0, 1000.0) for first in (0.0, 17.0))
    assert (late.ejection_ml_s, late.filling_ml_s) == pytest.approx((early.ejection_ml_s, early.filling_ml_s))


@pytest.mark.parametrize("rr_ms", [math.nan, 900.0])
def test_without_a_usable_cycle_length_the_last_phase_is_as_long_as_the_others(rr_ms):
    times = np.arange(20) * 50.0
    expected = peak_rates_ml_s(a_wave(20), times, 1000.0)
    actual = peak_rates_ml_s(a_wave(20), times, rr_ms)
    assert (actual.ejection_ml_s, actual.filling_ml_s) == pytest.approx((expected.ejection_ml_s, expected.filling_ml_s))


def test_a_part_of_the_cycle_that_is_left_out_makes_no_jump():
    # Prospective gating: 24 of 30 phases. Taken as the whole cycle, 87 mL would seem to fill in 33 ms to 140.
    times = np.arange(24) * 1000 / 30
    rates = peak_rates_ml_s(a_wave(30)[:24], times, 1000.0)
    assert rates.filling_ml_s == pytest.approx(80 * math.pi, rel=0.06)
    assert peak_rates_ml_s(a_wave(30)[:24], times).filling_ml_s > 1.5 * rates.filling_ml_s


@pytest.mark.parametrize(
    ("volume_ml", "times_ms"),
    [
        (a_wave(20), None),
        (a_wave(11), np.arange(11) * 90.0),
        ([100.0], [0.0]),
        (np.where(np.arange(20) == 4, 0, a_wave(20)), np.arange(20) * 50.0),
        (np.where(np.arange(20) == 4, np.nan, a_wave(20)), np.arange(20) * 50.0),
    ],
)
def test_rates_that_cannot_be_told(volume_ml, times_ms):
    rates = peak_rates_ml_s(volume_ml, times_ms, 1000.0)
    assert isinstance(rates, PeakRates)
    assert math.isnan(rates.ejection_ml_s)
    assert math.isnan(rates.filling_ml_s)


@pytest.mark.parametrize("times_ms", [[0.0, 50.0], [0.0, 50.0, 50.0], [0.0, 60.0, 50.0], [0.0, 50.0, math.nan]])
def test_times_that_are_refused(times_ms):
    assert check_times((0, 50, 90.5), 3).tolist() == [0.0, 50.0, 90.5]
    with pytest.raises(ValueError, match="times_ms must be 3 increasing times, one per phase, got"):
        check_times(times_ms, 3)
    with pytest.raises(ValueError, match="times_ms must be 3 increasing times, one per phase, got"):
        peak_rates_ml_s([100.0, 60.0, 80.0], times_ms)

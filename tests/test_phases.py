import dataclasses
import math

import numpy as np
import pytest

from cardiac_cine.datasets.phantom_spec import GROUPS, random_spec
from cardiac_cine.phases import Phases, find_phases


@pytest.mark.parametrize(
    ("lv_ml", "expected"),
    [
        ([120.0, 50.0], Phases(0, 1)),
        ([50.0, 120.0], Phases(1, 0)),
        ([120.0, 90.0, 50.0, 80.0, 110.0], Phases(0, 2)),
        ([110.0, 112.0, 118.0, 121.0, 110.0, 95.0, 80.0, 70.0, 61.0, 55.0, 70.0], Phases(3, 9)),  # starts mid-diastole
        ([120.0], Phases(0, 0)),
        ([0.0], Phases(0, 0)),
        ([math.nan] * 4, Phases(0, 0)),
        ([0.0] * 4, Phases(0, 0)),
        ([0.0, 0.0, 120.0, 0.0], Phases(2, 2)),  # a single phase with a volume
        ([80.0, 80.0, 80.0], Phases(0, 1)),  # no beat at all
        ([120.0, 90.0, 0.0, 60.0, 100.0], Phases(0, 3)),  # a phase without an LV is not end-systole
        ([120.0, 90.0, math.nan, 60.0, 100.0], Phases(0, 3)),
    ],
)
def test_phases_of_short_curves(lv_ml, expected):
    assert find_phases(lv_ml) == expected


@pytest.mark.parametrize(
    ("lv_ml", "ed_frame"),
    [
        # Within 2 % of the stroke, 70 mL, of the largest: the plateau before ejection.
        ([119.0, 110.0, 80.0, 50.0, 70.0, 100.0, 118.9, 120.0, 119.2], 0),  # frame 0 is on it
        ([118.0, 110.0, 80.0, 50.0, 70.0, 100.0, 118.9, 120.0, 119.2], 8),  # frame 0 is not, the last is
        ([119.2, 119.9, 120.0, 80.0, 50.0, 70.0, 100.0, 116.0, 118.0], 0),  # it goes on after the R wave
        ([110.0, 118.9, 120.0, 119.5, 80.0, 50.0, 70.0, 100.0, 105.0], 3),
        ([110.0, 120.0, 118.0, 119.5, 80.0, 50.0, 70.0, 100.0, 105.0], 1),  # not one run
    ],
)
def test_end_diastole_on_a_plateau(lv_ml, ed_frame):
    assert find_phases(lv_ml).ed_frame == ed_frame


@pytest.mark.parametrize(
    ("lv_ml", "ed_frame"),
    [
        # Frame 0 is as full and lies above the last one, but the largest is half a cycle away.
        ([119.5, 60.0, 50.0, 70.0, 120.0, 117.0, 100.0, 90.0], 4),
        # Smoothed, the largest lies right before it, across the end of the cycle.
        ([119, 119, *range(115, 40, -8), 41, *range(45, 101, 8), 119, 122, 107], 0),
    ],
)
def test_frame_0_of_a_cine_that_ends_early_counts_near_the_largest(lv_ml, ed_frame):
    assert find_phases(lv_ml).ed_frame == ed_frame


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("noise_fraction", [0.0, 0.005, 0.01])
def test_noisy_phantoms_within_one_phase_wherever_the_cycle_starts(group, noise_fraction):
    rng = np.random.default_rng(1)
    for seed in range(20):
        spec = random_spec(seed, group)
        truth, start = spec.truth(), int(rng.integers(spec.phases))
        curve = np.array(truth.lv_volume_ml) + rng.normal(0, noise_fraction * truth.lv_edv_ml, spec.phases)
        found = find_phases(np.roll(curve, start))
        for frame, true in ((found.ed_frame, truth.ed_frame), (found.es_frame, truth.es_frame)):
            away = (frame - start - true) % spec.phases
            assert min(away, spec.phases - away) <= 1, (seed, found, start)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("covered", [0.8, 0.9, 0.95, 1.0])
def test_a_cine_that_ends_before_the_beat_does_keeps_its_end_diastole(group, covered):
    for seed, phases in enumerate((12, 20, 30, 40)):
        truth = dataclasses.replace(random_spec(seed, group), phases=phases).truth()
        found = find_phases(truth.lv_volume_ml[: round(covered * phases)])
        assert found.ed_frame == truth.ed_frame == 0
        assert abs(found.es_frame - truth.es_frame) <= 1


@pytest.mark.parametrize("group", GROUPS)
def test_noise_seldom_moves_the_end_diastole_of_such_a_cine(group):
    rng = np.random.default_rng(2)
    found = []
    for seed in range(20):
        truth = dataclasses.replace(random_spec(seed, group), phases=30).truth()
        curve = np.array(truth.lv_volume_ml) + rng.normal(0, 0.005 * truth.lv_edv_ml, 30)
        found.append(find_phases(curve[:27]).ed_frame)
    assert found.count(0) >= 18


def test_smoothing_does_not_fall_for_one_bad_phase():
    curve = 100 + 40 * np.cos(2 * np.pi * np.arange(24) / 24)
    curve[19] = 145.0
    curve[4] = 55.0
    assert abs(find_phases(curve).es_frame - 12) <= 1
    assert find_phases(curve).ed_frame in (23, 0, 1)


def test_missing_phases_are_bridged_across_the_end_of_the_cycle():
    curve = 100 + 40 * np.cos(2 * np.pi * (np.arange(24) - 3) / 24)
    curve[[0, 23, 15]] = [math.nan, 0.0, 0.0]
    found = find_phases(curve)
    assert abs(found.ed_frame - 3) <= 1
    assert found.es_frame in (14, 16)


def test_bridging_goes_on_from_the_last_phase_to_the_first():
    missing = [0, 22, 23]
    empty_at_1, full_at_1 = (100 + side * 40 * np.cos(2 * np.pi * (np.arange(24) - 1) / 24) for side in (-1, 1))
    empty_at_1[missing] = full_at_1[missing] = 0.0
    assert find_phases(empty_at_1).es_frame == 1
    assert find_phases(full_at_1).ed_frame in (1, 2)


def test_of_equal_phases_the_first_after_end_diastole_is_end_systole():
    assert find_phases([80.0] * 4, ed_frame=2) == Phases(2, 3)
    assert find_phases([50.0, 90.0, 120.0, 50.0, 50.0]) == Phases(2, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ed_frame": 1}, Phases(1, 2)),
        ({"es_frame": 3}, Phases(0, 3)),
        ({"ed_frame": 2}, Phases(2, 3)),  # the smallest itself: the other is looked for in the rest
        ({"es_frame": 0}, Phases(4, 0)),
        ({"ed_frame": 4, "es_frame": 1}, Phases(4, 1)),
        ({"ed_frame": np.int64(1)}, Phases(1, 2)),
    ],
)
def test_a_frame_that_is_given_wins(given, expected):
    assert find_phases([120.0, 90.0, 50.0, 80.0, 110.0], **given) == expected


def test_a_frame_that_is_given_wins_where_there_is_no_curve():
    assert find_phases([0.0, 0.0, 0.0], ed_frame=2) == Phases(2, 2)
    assert find_phases([0.0, 0.0, 0.0], es_frame=1) == Phases(1, 1)
    assert find_phases([0.0, 0.0, 0.0], ed_frame=2, es_frame=1) == Phases(2, 1)
    assert find_phases([120.0], ed_frame=0, es_frame=0) == Phases(0, 0)


@pytest.mark.parametrize(
    ("lv_ml", "given", "message"),
    [
        ([120.0, 50.0], {"ed_frame": 2}, "ed_frame must be one of the frames 0 to 1, got 2"),
        ([120.0, 50.0], {"es_frame": -1}, "es_frame must be one of the frames 0 to 1, got -1"),
        (
            [120.0, 50.0],
            {"ed_frame": 1, "es_frame": 1},
            "ed_frame and es_frame must be two different frames, got 1 for both",
        ),
        ([120.0, -50.0], {}, "volume_ml must be volumes of 0 mL or more, one per phase"),
        ([], {}, "volume_ml must be volumes of 0 mL or more, one per phase"),
    ],
)
def test_find_phases_rejects(lv_ml, given, message):
    with pytest.raises(ValueError, match=message):
        find_phases(lv_ml, **given)

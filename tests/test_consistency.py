import math

import numpy as np
import pytest

from cardiac_cine.consistency import (
    Coverage,
    Flicker,
    Gap,
    Jump,
    Shift,
    coverage,
    difference_share,
    flickers,
    gaps,
    largest_jump,
    largest_shift,
    pixel_counts,
)
from cardiac_cine.labels import LV, MYO, RV

# A pixel is 2 mm2, slices lie 10 mm apart: 50 pixels in a slice are 1 mL.
SPACING_MM = (1.0, 2.0, 10.0)


def a_stack(rv: list[int], myo: list[int], lv: list[int]) -> np.ndarray:
    """A stack whose slices have so many pixels of each structure."""
    mask = np.zeros((1, 400, len(rv)), np.uint8)
    for z, counts in enumerate(zip(rv, myo, lv, strict=True)):
        mask[0, : sum(counts), z] = np.repeat([RV, MYO, LV], counts)
    return mask


def test_coverage_of_a_heart_that_is_cut_off_at_its_base():
    mask = a_stack([60, 50, 20, 0, 0], [50, 57, 40, 30, 0], [80, 100, 60, 20, 0])
    # The largest epicardial area is 157 pixels, 314 mm2, a circle 20 mm across; the LV takes four slices.
    found = coverage(mask, SPACING_MM)
    assert found == Coverage(0, 0.8, 4, 0.0, pytest.approx(2.0, abs=1e-3))
    flipped = coverage(mask[..., ::-1], SPACING_MM)
    assert flipped == Coverage(4, 0.8, 0, 0.0, found.length_to_width)


@pytest.mark.parametrize(
    "mask",
    [
        a_stack([0, 0, 0], [0, 0, 0], [0, 0, 0]),
        a_stack([40, 20, 0], [9, 8, 7], [0, 0, 0]),  # no LV
        a_stack([0, 40, 0], [0, 9, 0], [0, 60, 0]),  # a single slice has no base
    ],
)
def test_no_coverage_without_a_base_or_an_lv(mask):
    assert coverage(mask, SPACING_MM) is None


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([100, 96, 82, 70, 56, 50, 50, 56, 70, 82, 96, 100], 0.0),
        ([100.0] * 12, 0.0),
        ([100.0] * 4 + [106.0] + [100.0] * 7, 6.0),
        ([94.0] + [100.0] * 11, 6.0),  # the first phase and the last are neighbours
        ([100.0] * 11 + [94.0], 6.0),
        ([100.0, 94.0] + [100.0] * 10, 6.0),
        ([0.0] * 12, 0.0),
    ],
)
def test_largest_jump(curve, expected):
    found = largest_jump(curve)
    if expected:
        outlier = int(np.abs(np.array(curve) - 100.0).argmax())
        assert found == Jump(outlier, pytest.approx(expected))
    else:
        assert found is not None
        assert found.ml < 5.0


def test_a_prospectively_gated_cine_may_end_before_the_cycle_does():
    # Straight filling up to the last phase, which holds 30 mL less than the first.
    curve = [100.0, 99.0, 90.0, 75.0, 60.0, 51.0, 50.0, 54.0, 58.0, 62.0, 66.0, 70.0]
    assert largest_jump(curve).ml < 2.5
    # 14 mL off its own side; the cubic from both sides, (4 * 66 + 4 * 100 - 62 - 99) / 6 mL, is further away.
    assert largest_jump([*curve[:-1], 56.0]) == Jump(11, pytest.approx(14.0))


@pytest.mark.parametrize("curve", [[], [100.0, 40.0], [100.0, 90.0, 50.0, 80.0], [100.0, 90.0, math.nan, 50.0, 80.0]])
def test_no_jump_in_what_is_no_curve(curve):
    assert largest_jump(curve) is None


def cylinder(shifts: dict[int, tuple[int, int]], slices: int = 7, size: int = 20) -> np.ndarray:
    """A square LV in every slice that moves by (1, 1) pixel from slice to slice, some slices shifted further."""
    mask = np.zeros((80, 80, slices), np.uint8)
    for z in range(slices):
        x, y = (10 + z + shift for shift in shifts.get(z, (0, 0)))
        mask[x : x + size, y : y + size, z] = LV
    return mask


def test_largest_shift_is_told_from_a_tilted_axis():
    assert largest_shift(cylinder({}), SPACING_MM) == Shift(1, 0.0)
    assert largest_shift(cylinder({3: (6, 4)}), SPACING_MM) == Shift(3, pytest.approx(10.0))
    # An end has no midpoint; its shift shows by half in its neighbour.
    assert largest_shift(cylinder({0: (6, 4)}), SPACING_MM) == Shift(1, pytest.approx(5.0))


def test_no_shift_without_three_slices_in_a_row():
    mask = cylinder({}, slices=5)
    mask[..., 2] = 0
    assert largest_shift(mask, SPACING_MM) is None
    assert largest_shift(mask[..., :2], SPACING_MM) is None
    # 9 x 9 pixels are 162 mm2, too little for a centre.
    assert largest_shift(cylinder({}, size=9), SPACING_MM) is None
    assert largest_shift(np.zeros_like(mask), SPACING_MM) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(80.0, 60.0, 0.25), (60.0, 80.0, 0.25), (50.0, 50.0, 0.0), (0.0, 50.0, math.nan), (-5.0, 50.0, math.nan)],
)
def test_difference_share(first, second, expected):
    assert difference_share(first, second) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(difference_share(math.nan, second))


def a_cine(pixels: str, structure: int = RV, copies: int = 60) -> np.ndarray:
    """A cine of one structure, drawn as a line per slice with one character per phase, # where it is there."""
    drawn = np.array([[character == "#" for character in line] for line in pixels.split()])
    return np.repeat(drawn[None, None], copies, axis=1).astype(np.uint8) * structure


def test_pixels_are_counted_by_structure_slice_and_phase():
    masks = a_cine("##. .#.", LV, copies=3)
    assert pixel_counts(masks).tolist() == [
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[3, 3, 0], [0, 3, 0]],
    ]
    with pytest.raises(ValueError, match="masks must be a non-empty 4D array"):
        pixel_counts(masks[..., 0])


def test_gaps_lie_between_slices_that_show_the_structure():
    masks = a_cine("###. #.#. #.#. .###", MYO)
    assert gaps(pixel_counts(masks)) == (Gap("myo", 1, 1), Gap("myo", 2, 1))
    assert gaps(pixel_counts(np.zeros_like(masks))) == ()


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ("########", None),
        ("........", None),
        ("##....##", None),  # a basal slice, left by the heart at end-systole
        ("..####..", None),
        ("##.#..##", 5),
        ("#.#.#.#.", 4),
    ],
)
def test_a_structure_may_leave_a_slice_once_in_a_cycle(phases, expected):
    found = flickers(pixel_counts(a_cine(phases)), SPACING_MM)
    assert found == (() if expected is None else (Flicker("rv", 0, expected),))


def test_what_is_too_small_may_flicker():
    assert flickers(pixel_counts(a_cine("#.#.", copies=49)), SPACING_MM) == ()
    assert flickers(pixel_counts(a_cine("#.#.", copies=50)), SPACING_MM) == (Flicker("rv", 0, 2),)

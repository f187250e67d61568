import math

import nibabel as nib
import numpy as np
import pytest

from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.levels import LevelCounts, base_is_first, count_by_level, slice_levels


def a_stack(rv: list[int], myo: list[int], lv: list[int]) -> np.ndarray:
    """A stack whose slices have so many pixels of each structure."""
    mask = np.zeros((1, 40, len(rv)), np.uint8)
    for z, counts in enumerate(zip(rv, myo, lv, strict=True)):
        mask[0, : sum(counts), z] = np.repeat([RV, MYO, LV], counts)
    return mask


@pytest.mark.parametrize(
    ("rv", "myo", "lv", "expected"),
    [
        ([8, 6, 3, 0], [6, 6, 5, 3], [9, 8, 6, 2], True),
        ([0, 0, 8, 6, 3, 0], [4, 7, 8, 7, 5, 3], [5, 9, 9, 8, 6, 2], True),  # the most basal slices show no RV
        ([0, 8, 7, 3, 1, 0], [5, 8, 8, 7, 6, 4], [4, 6, 7, 9, 12, 9], True),  # the apex is the LV's widest part
        ([0, 0, 0], [0, 0, 0], [9, 6, 2], True),
        ([4, 4, 4], [2, 3, 2], [6, 6, 6], None),
        ([0, 5, 0], [0, 2, 0], [0, 6, 0], None),  # a single slice
        ([0, 0, 0], [0, 0, 0], [0, 0, 0], None),
    ],
)
def test_which_end_is_the_base(rv, myo, lv, expected):
    mask = a_stack(rv, myo, lv)
    assert base_is_first(mask) is expected
    assert base_is_first(mask[..., ::-1]) is (None if expected is None else not expected)


def test_a_structure_that_is_missing_has_no_say():
    # The LV's centroid says slice 0 is the base, and the two others are not there to disagree.
    assert base_is_first(a_stack([0, 0, 0], [0, 0, 0], [3, 2, 2])) is True
    # Centroids off the middle of the heart, slice 1: the LV's by -1/7, the RV's and the myocardium's by a whole slice.
    assert base_is_first(a_stack([0, 0, 2], [0, 0, 0], [3, 2, 2])) is False
    assert base_is_first(a_stack([4, 0, 0], [0, 0, 2], [3, 2, 2])) is True


@pytest.mark.parametrize(
    ("rv", "myo", "lv", "expected"),
    [
        ([0, 8, 4, 0, 0], [0, 5, 5, 3, 0], [0, 9, 6, 2, 0], [math.nan, 0.0, 0.5, 1.0, math.nan]),
        ([8, 6, 5, 4, 0], [6, 6, 6, 5, 4], [9, 8, 7, 5, 3], [0.0, 0.25, 0.5, 0.75, 1.0]),
        ([8, 0, 4, 0], [5, 0, 5, 3], [9, 0, 6, 2], [0.0, 1 / 3, 2 / 3, 1.0]),  # a slice left out has its level
        ([0, 5, 0], [0, 2, 0], [0, 6, 0], [math.nan] * 3),  # a single slice has no ends
        ([4, 4, 4], [2, 3, 2], [6, 6, 6], [math.nan] * 3),
        ([0, 0, 0], [0, 0, 0], [0, 0, 0], [math.nan] * 3),
    ],
)
def test_levels_run_from_base_to_apex_of_the_heart(rv, myo, lv, expected):
    mask = a_stack(rv, myo, lv)
    np.testing.assert_allclose(slice_levels(mask), expected)
    np.testing.assert_allclose(slice_levels(mask[..., ::-1]), expected[::-1])


@pytest.mark.parametrize("function", [base_is_first, slice_levels])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"mask must be a non-empty 3D array, got shape \(4, 4\)"),
        (np.zeros((4, 4, 4)), "mask must hold integer label ids, got float64"),
        (np.full((4, 4, 4), 4), r"mask holds label ids \[4\], expected only \[0, 1, 2, 3\]"),
    ],
)
def test_what_is_no_mask_is_refused(function, mask, message):
    with pytest.raises(ValueError, match=message):
        function(mask)


def test_levels_are_counted_in_bins():
    levels = [0.0, 0.1, 0.5, 0.9, 1.0, 1.0, math.nan]
    assert count_by_level(levels) == LevelCounts((2, 1, 3), 1)
    assert count_by_level(levels, bins=5) == LevelCounts((2, 0, 1, 0, 3), 1)
    assert count_by_level([]) == LevelCounts((0, 0, 0), 0)
    with pytest.raises(ValueError, match="bins must be 1 or more, got 0"):
        count_by_level(levels, bins=0)
    with pytest.raises(ValueError, match=r"levels must lie in 0-1, got -0.5 to 1.0"):
        count_by_level([-0.5, 1.0])
    with pytest.raises(ValueError, match=r"levels must lie in 0-1, got 0.5 to inf"):
        count_by_level([0.5, math.inf])


@pytest.mark.acdc
def test_slice_0_of_the_training_split_is_the_base(acdc_dir):
    paths = sorted((acdc_dir / "training").glob("patient*/*_gt.nii.gz"))
    assert len(paths) == 200
    assert [path.name for path in paths if base_is_first(np.asarray(nib.load(path).dataobj)) is not True] == []

import numpy as np
import pytest

from cardiac_cine.annotation.correction import (
    BACKGROUND_SEED,
    RADIUS_MM,
    correct,
    seeds_from_clicks,
    seeds_from_request,
)
from cardiac_cine.errors import InputError
from cardiac_cine.labels import LV, MYO, RV

SPACING_MM = (2.0, 1.0, 8.0)


def block(shape=(40, 40, 3)):
    """A square LV in a square wall in every slice."""
    mask = np.zeros(shape, np.uint8)
    mask[10:30, 10:30] = MYO
    mask[15:25, 15:25] = LV
    return mask


def sure(mask):
    """Probabilities of 0.97 for a mask's labels and 0.01 for each other."""
    return np.where(np.arange(4)[:, None, None, None] == mask, 0.97, 0.01)


def test_a_doubtful_region_flips_as_a_whole_and_nothing_else():
    mask = block()
    probabilities = sure(mask)
    region = (slice(2, 8), slice(10, 30), 1)  # more likely background, perhaps RV
    probabilities[(slice(None), *region)] = np.array([0.5, 0.48, 0.01, 0.01])[:, None, None]
    found = correct(mask, seeds_from_clicks(mask.shape, {"rv": [[5, 20, 1]]}), SPACING_MM, probabilities)
    expected = mask.copy()
    expected[region] = RV
    # A click's label wins by a margin that also takes sure pixels next to it, not those across the region's border.
    np.testing.assert_array_equal(found[region], RV)
    np.testing.assert_array_equal(found[10:], mask[10:])
    np.testing.assert_array_equal(found[..., [0, 2]], mask[..., [0, 2]])
    assert (found == RV).sum() - expected[region].size < 0.5 * expected[region].size


def test_every_click_has_its_label_however_close_they_are():
    mask = block()
    clicks = {"lv": [[12, 12, 1], [12, 14, 1]], "myo": [[12, 13, 1]], "background": [[20, 20, 1]]}
    found = correct(mask, seeds_from_clicks(mask.shape, clicks), SPACING_MM, sure(mask))
    assert [found[12, 12, 1], found[12, 13, 1], found[12, 14, 1], found[20, 20, 1]] == [LV, MYO, LV, 0]


@pytest.mark.parametrize("network", [True, False])
def test_only_slices_with_seeds_change_and_only_near_them(network):
    mask = np.zeros((120, 40, 3), np.uint8)
    mask[:, 10:30, 1] = MYO
    probabilities = np.full((4, *mask.shape), 0.25) if network else None  # all alike: nothing but distance counts
    seeds = seeds_from_clicks(mask.shape, {"lv": [[10, 20, 1]]})
    changed = correct(mask, seeds, SPACING_MM, probabilities) != mask
    assert changed[10, 20, 1] and not changed[..., [0, 2]].any()
    x, y = np.nonzero(changed[..., 1])
    assert np.hypot(2.0 * (x - 10), y - 20).max() <= RADIUS_MM
    far = np.zeros((120, 40, 3), bool)
    far[36:, :, 1] = True  # 52 mm and more
    assert not changed[far].any()


def test_what_does_not_hang_together_with_the_click_stays():
    mask = block()
    probabilities = sure(mask)
    for columns in (slice(2, 6), slice(32, 36)):  # two doubtful islands, one is clicked
        probabilities[:, 34:38, columns, 1] = np.array([0.5, 0.48, 0.01, 0.01])[:, None, None]
    found = correct(mask, seeds_from_clicks(mask.shape, {"rv": [[36, 4, 1]]}), SPACING_MM, probabilities)
    assert (found[34:38, 2:6, 1] == RV).all() and not (found[34:38, 32:36, 1] == RV).any()


def test_an_earlier_correction_counts_more_than_the_network():
    """The mask says LV where the network is sure of background, as an annotator has drawn it."""
    mask = block()
    probabilities = sure(mask)
    mask[32:36, 5:35, 1] = LV
    seeds = seeds_from_clicks(mask.shape, {"rv": [[3, 20, 1]]})
    np.testing.assert_array_equal(correct(mask, seeds, SPACING_MM, probabilities)[32:36, :, 1], mask[32:36, :, 1])
    # ... until a click says otherwise: the network's answer then takes the whole of it away.
    seeds = seeds_from_clicks(mask.shape, {"background": [[34, 20, 1]]})
    assert not correct(mask, seeds, SPACING_MM, probabilities)[32:36, 15:25, 1].any()


def test_a_scribble_counts_as_one_stroke():
    mask = block()
    seeds = np.zeros(mask.shape, np.uint8)
    seeds[34, 5:35, 1] = RV
    found = correct(mask, seeds, SPACING_MM)
    assert (found[34, 5:35, 1] == RV).all() and (found[15:25, 15:25, 1] == LV).all()


def test_no_seeds_no_change():
    mask = block()
    found = correct(mask, np.zeros(mask.shape, np.uint8), SPACING_MM)
    np.testing.assert_array_equal(found, mask)
    assert found is not mask


def test_clicks_become_seeds():
    seeds = seeds_from_clicks((4, 5, 2), {"rv": [[0, 0, 0]], "lv": [[3, 4, 1], [1, 1, 1]], "background": [[1, 1, 1]]})
    assert {tuple(map(int, place)): int(seeds[tuple(place)]) for place in np.argwhere(seeds)} == {
        (0, 0, 0): RV,
        (3, 4, 1): LV,
        (1, 1, 1): BACKGROUND_SEED,
    }


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ({"liver": [[0, 0, 0]]}, "clicks: 'liver', expected one of"),
        ({"lv": [[0, 0, 9]], "rv": [[-1, 0, 0]]}, r"lv at \[0, 0, 9\], .*; rv at \[-1, 0, 0\], expected three"),
        ({"lv": [[1, 1]]}, r"lv at \[1, 1\], expected three indices within \(4, 4, 4\)"),
        ({"lv": [5]}, "lv at 5, expected three"),
        ({"lv": [["a", 0, 0]]}, r"lv at \['a', 0, 0\], expected three"),
        ({"lv": [[float("nan"), 0, 0]]}, "expected three indices"),
    ],
)
def test_clicks_that_are_none(clicks, message):
    with pytest.raises(ValueError, match=message):
        seeds_from_clicks((4, 4, 4), clicks)


@pytest.mark.parametrize(
    "request_", [{"rv": [[1, 2, 0]], "lv": [], "label": "lv"}, {"foreground": [[1, 2, 0]], "label": "rv", "lv": None}]
)
def test_a_request_has_clicks_by_structure_or_those_of_one(request_):
    found = seeds_from_request(request_, (4, 4, 1))
    assert found[1, 2, 0] == RV and np.count_nonzero(found) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"lv": []}, "there are no points in the request: click on what is wrong first"),
        ({"lv": 7}, "'int' object is not iterable"),
        ({"lv": [[9, 0, 0]]}, r"lv at \[9, 0, 0\], expected three indices within"),
        ({"foreground": [[1, 1, 0]]}, "'None', expected one of"),
    ],
)
def test_a_request_without_clicks(request_, message):
    with pytest.raises(InputError, match=message):
        seeds_from_request(request_, (4, 4, 1))


@pytest.mark.parametrize(
    ("seeds", "probabilities", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), None, "seeds must be integers 0 to 4 of shape"),
        (np.full((4, 4, 4), 5, np.uint8), None, "from 5 to 5"),
        (np.zeros((4, 4, 4)), None, "got float64"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 4, 4)), "probabilities must be finite, of shape"),
        (np.zeros((4, 4, 4), np.uint8), np.full((4, 4, 4, 4), np.nan), "probabilities must be finite"),
    ],
)
def test_wrong_arguments(seeds, probabilities, message):
    with pytest.raises(ValueError, match=message):
        correct(np.zeros((4, 4, 4), np.uint8), seeds, SPACING_MM, probabilities)

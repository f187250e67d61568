import numpy as np
import pytest

from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.views import OUTLINES, View, heart_view


def a_scene() -> tuple[np.ndarray, np.ndarray]:
    """A ramp that brightens with x and y, and one pixel of the LV at (20, 15)."""
    x, y = np.mgrid[:40, :30]
    mask = np.zeros((40, 30, 1, 1), np.uint8)
    mask[20, 15] = LV
    return (x + 100 * y)[..., None, None].astype(np.int16), mask


def test_view_is_the_heart_with_18_mm_around_it():
    image, mask = a_scene()
    view = heart_view(image, mask, (2.0, 3.0, 8.0))
    assert (view.columns, view.rows) == (slice(11, 30), slice(9, 22))
    assert view.size_mm == (38.0, 39.0)
    assert 911 <= view.low < view.high <= 2129


def test_view_ends_where_the_image_ends_and_is_everything_without_a_heart():
    image, mask = a_scene()
    assert heart_view(image, mask, (0.5, 0.5, 8.0)).columns == slice(0, 40)
    empty = heart_view(image, mask * 0, (2.0, 3.0, 8.0))
    assert (empty.columns, empty.rows) == (slice(0, 40), slice(0, 30))


def test_grey_has_y_downwards_and_x_to_the_right():
    image, _ = a_scene()
    view = View(slice(10, 14), slice(5, 8), 510.0, 713.0, (1.0, 1.0))
    grey = view.grey(image[..., 0, 0])
    assert grey.dtype == np.uint8 and grey.shape == (3, 4)
    assert (grey[0, 0], grey[-1, -1]) == (0, 255)
    assert (np.diff(grey.astype(int), axis=0) > np.diff(grey.astype(int), axis=1).max()).all()


def test_grey_of_a_flat_image_is_black():
    view = View(slice(0, 2), slice(0, 2), 7.0, 7.0, (1.0, 1.0))
    assert (view.grey(np.full((2, 2), 7)) == 0).all()


def test_outline_of_a_pixel_lies_around_its_centre_in_mm():
    _, mask = a_scene()
    view = View(slice(11, 30), slice(9, 22), 0.0, 1.0, (2.0, 3.0))
    lines = view.outlines(mask[..., 0, 0])
    (lv,) = lines["lv"]
    # The pixel's centre is 9.5 pixels of 2 mm and 6.5 pixels of 3 mm away from the corner.
    assert lv.min(axis=0) == pytest.approx([18.0, 18.0])
    assert lv.max(axis=0) == pytest.approx([20.0, 21.0])
    assert lv[0] == pytest.approx(lv[-1])
    assert lines["epi"][0] == pytest.approx(lv)
    assert lines["rv"] == []


def test_epicardium_goes_around_wall_and_cavity_and_shows_a_hole():
    plane = np.zeros((9, 9), np.uint8)
    plane[1:8, 1:8], plane[3:6, 3:6] = MYO, LV
    view = View(slice(0, 9), slice(0, 9), 0.0, 1.0, (1.0, 1.0))
    assert [len(view.outlines(plane)[key]) for key in ("epi", "lv", "rv")] == [1, 1, 0]
    plane[2, 2] = 0
    assert len(view.outlines(plane)["epi"]) == 2


def test_outline_closes_at_the_edge_of_the_view():
    plane = np.full((4, 4), RV, np.uint8)
    (line,) = View(slice(0, 4), slice(0, 4), 0.0, 1.0, (1.0, 1.0)).outlines(plane)["rv"]
    assert (line.min(), line.max()) == (0.0, 4.0)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("outline", OUTLINES, ids=lambda outline: outline.key)
def test_colours_have_contrast_on_white_and_on_black(outline):
    assert 1.05 / (luminance(outline.on_paper) + 0.05) >= 4.5
    assert (luminance(outline.on_image) + 0.05) / 0.05 >= 7


def test_outlines_differ_in_their_stroke():
    assert len({outline.dashes for outline in OUTLINES}) == len(OUTLINES)

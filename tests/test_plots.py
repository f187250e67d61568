import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from cardiac_cine.labels import BY_KEY, LV, MYO, RV
from cardiac_cine.plots import bland_altman, degeneration_histogram, learning_curves, overlay_grid, volume_curves

# The fill's opacity over a black image, and the lowest part of an overlay, where the legend is.
OPACITY = 0.4
LEGEND_ROWS = 55


@pytest.fixture
def figures(monkeypatch):
    """All figures that are saved, besides their being saved."""
    saved = []
    savefig = Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def pixels(path: Path) -> np.ndarray:
    """Read a PNG as rows from top to bottom, columns from left to right, red, green and blue from 0 to 255."""
    return np.rint(imread(path)[..., :3] * 255)


def where(path: Path, colour: tuple[float, ...], tolerance: float = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels of a colour, above the legend."""
    close = np.abs(pixels(path)[:-LEGEND_ROWS] - colour).max(axis=2) <= tolerance
    assert close.any()
    return np.nonzero(close)


def fill_colour(key: str) -> tuple[float, ...]:
    return tuple(OPACITY * value for value in BY_KEY[key].colour)


def spread(path: Path, colour: tuple[float, ...]) -> tuple[int, int, int, int]:
    """First and last row, first and last column of a colour."""
    rows, columns = where(path, colour)
    return rows.min(), rows.max(), columns.min(), columns.max()


def a_scene(slices: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A black image and a mask: RV upper left, myocardium to its right, LV below that."""
    mask = np.zeros((24, 16, slices), np.uint8)
    mask[2:6, 2:5], mask[14:20, 2:5], mask[14:20, 10:12] = RV, MYO, LV
    return np.zeros(mask.shape, np.float32), mask


def test_overlay_puts_each_colour_where_the_mask_is(tmp_path):
    image, mask = a_scene()
    path = tmp_path / "overlay.png"
    overlay_grid(image, mask, (1.0, 2.0, 10.0), path, title="scene")
    found = {key: spread(path, fill_colour(key)) for key in ("rv", "myo", "lv")}
    top, bottom, left, right = range(4)
    # x runs to the right and y downwards.
    assert found["myo"][left] > found["rv"][right]
    assert abs(found["myo"][top] - found["rv"][top]) <= 1
    assert abs(found["myo"][bottom] - found["rv"][bottom]) <= 1
    assert found["lv"][top] > found["myo"][bottom]
    assert abs(found["lv"][left] - found["myo"][left]) <= 1
    # To scale in mm: 6 by 6 mm of myocardium is a square, 4 by 6 of RV and 6 by 4 of LV are not.
    sizes = {key: (one[right] - one[left] + 1, one[bottom] - one[top] + 1) for key, one in found.items()}
    per_mm = sizes["myo"][0] / 6
    assert per_mm > 5
    for key, width_mm, height_mm in (("rv", 4, 6), ("myo", 6, 6), ("lv", 6, 4)):
        assert sizes[key] == pytest.approx((width_mm * per_mm, height_mm * per_mm), abs=2.5)
    # From the RV's left edge at x = 2 mm to the LV's at 14 mm, and from y = 4 mm to 20 mm.
    assert found["lv"][left] - found["rv"][left] == pytest.approx(12 * per_mm, abs=2.5)
    assert found["lv"][top] - found["rv"][top] == pytest.approx(16 * per_mm, abs=2.5)


def test_overlay_shows_the_image_the_same_way_round(tmp_path):
    image, mask = a_scene()
    image[14:20, 10:12] = 100.0
    bright, filled = tmp_path / "bright.png", tmp_path / "filled.png"
    overlay_grid(image, np.where(mask == RV, RV, 0), (1.0, 2.0, 10.0), bright, title="")
    overlay_grid(np.zeros_like(image), mask, (1.0, 2.0, 10.0), filled, title="")
    # The image is white where the other figure is filled with the LV, and black where that one has the myocardium.
    for key, expected in (("lv", 255), ("myo", 0)):
        assert (pixels(bright)[where(filled, fill_colour(key))] == expected).all()


@pytest.mark.parametrize("key", ["rv", "myo", "lv"])
def test_overlay_draws_the_reference_as_a_contour_round_its_pixels(tmp_path, key):
    image, mask = a_scene()
    nothing = np.zeros_like(mask)
    filled, contour = tmp_path / "filled.png", tmp_path / "contour.png"
    overlay_grid(image, mask, (1.0, 2.0, 10.0), filled, title="")
    overlay_grid(image, nothing, (1.0, 2.0, 10.0), contour, title="", reference=mask)
    expected, found = spread(filled, fill_colour(key)), spread(contour, BY_KEY[key].colour)
    assert found == pytest.approx(expected, abs=2)
    # A line, not an area: there is no colour in the middle.
    row, column = (found[0] + found[1]) // 2, (found[2] + found[3]) // 2
    assert (pixels(contour)[row, column] == 0).all()


def test_overlay_is_cropped_to_both_masks_with_a_margin(tmp_path, figures):
    image = np.random.default_rng(0).random((120, 100, 2))
    prediction, reference = np.zeros((2, *image.shape), np.uint8)
    prediction[50:60, 40:50, 0] = LV
    reference[55:65, 45:46, 1] = MYO
    overlay_grid(image, prediction, (1.25, 2.5, 8.0), tmp_path / "a.png", title="both", reference=reference)
    # 25 mm are 20 and 10 pixels: x from 30 to 84, y from 30 to 59.
    shown = figures[0].axes[1].get_images()[0]
    np.testing.assert_array_equal(shown.get_array(), image[30:85, 30:60, 1].T)
    overlay_grid(image, prediction, (1.25, 2.5, 8.0), tmp_path / "b.png", title="")
    np.testing.assert_array_equal(figures[1].axes[0].get_images()[0].get_array(), image[30:80, 30:60, 0].T)


def test_overlay_of_an_empty_mask_shows_everything(tmp_path, figures):
    image = np.random.default_rng(0).random((30, 20, 3))
    overlay_grid(image, np.zeros(image.shape, np.uint8), (1.0, 1.0, 8.0), tmp_path / "a.png", title="")
    assert figures[0].axes[2].get_images()[0].get_array().shape == (20, 30)


def test_overlay_grid_has_a_cell_per_slice(tmp_path, figures):
    image, mask = a_scene(8)
    path = tmp_path / "new" / "overlay.png"
    overlay_grid(image, mask, (1.0, 1.0, 10.0), path, title="p1  DCM ED", reference=mask)
    (figure,) = figures
    assert figure.get_suptitle() == "p1  DCM ED"
    assert [axes.get_title() for axes in figure.axes] == [f"slice {z}" for z in range(8)] + [""] * 4
    assert not any(axes.get_images() for axes in figure.axes[8:])
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "filled: prediction, contour: reference"
    assert [(patch.get_label(), to_hex(patch.get_facecolor())) for patch in legend.legend_handles] == [
        ("LV", "#2cbe3c"),
        ("MYO", "#1f77dc"),
        ("RV", "#d62728"),
    ]
    height, width, _ = pixels(path).shape
    assert width == pytest.approx(6 * 2.1 * 110, abs=1) and 300 < height < 600
    assert list(path.parent.iterdir()) == [path]


def test_histogram_counts_by_level(tmp_path, figures):
    degeneration_histogram((3, 0, 1, 0), (10, 20, 30, 0), tmp_path / "h.png")
    axes = figures[0].axes[0]
    assert [bar.get_height() for bar in axes.patches] == [3, 0, 1, 0]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert [text.get_text() for text in axes.texts] == ["3 of 10", "0 of 20", "1 of 30", "0 of 0"]
    assert axes.get_xlabel() == "level, 0 = base to 1 = apex"
    assert pixels(tmp_path / "h.png").shape == (440, 770, 3)
    degeneration_histogram((0, 0), (0, 0), tmp_path / "none.png")
    assert figures[1].axes[0].get_ylim()[1] >= 1


def test_bland_altman_draws_differences_against_means(tmp_path, figures):
    bland_altman([60, 50, math.nan], [50, 54, 40], (-16.4, 3.0, 22.4), tmp_path / "b.png", name="LV EF (%)")
    scatter, difference = figures[0].axes
    points, identity = scatter.lines
    np.testing.assert_array_equal(points.get_xydata(), [[50, 60], [54, 50], [40, math.nan]])
    np.testing.assert_array_equal(identity.get_xydata(), [[40, 40], [60, 60]])
    points, *lines = difference.lines
    np.testing.assert_array_equal(points.get_xydata(), [[55, 10], [52, -4], [math.nan, math.nan]])
    assert [line.get_ydata()[0] for line in lines] == [-16.4, 3.0, 22.4]
    assert [line.get_linestyle() for line in lines] == ["--", "-", "--"]
    assert [text.get_text() for text in difference.texts] == ["lower limit\n-16.4", "bias\n+3.0", "upper limit\n+22.4"]
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("LV EF (%), reference", "LV EF (%), automatic")
    assert difference.get_ylabel() == "LV EF (%), automatic - reference"
    assert pixels(tmp_path / "b.png").shape == (462, 1100, 3)


def test_volume_curves_take_their_structures_colours(tmp_path, figures):
    curves = {"LV": [120, 50, 118], "LV true": [118, 51, 119], "rv": [140, 70, 141]}
    volume_curves([0, 300, 600], curves, tmp_path / "v.png", xlabel="time (ms)")
    axes = figures[0].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["LV"].get_xydata(), [[0, 120], [300, 50], [600, 118]])
    assert {label: line.get_linestyle() for label, line in lines.items()} == {"LV": "-", "LV true": "--", "rv": "-"}
    colours = {label: to_hex(line.get_color()) for label, line in lines.items()}
    assert colours == {"LV": "#2cbe3c", "LV true": "#2cbe3c", "rv": "#d62728"}
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()[0]) == ("time (ms)", "volume (mL)", 0)
    assert pixels(tmp_path / "v.png").shape == (462, 770, 3)


def test_learning_curves_leave_out_epochs_without_validation(tmp_path, figures):
    records = [
        {"epoch": 1.0, "train_loss": 1.5, "train_dice_lv": 0.2},
        {"epoch": 2.0, "train_loss": 0.9, "train_dice_lv": 0.5, "val_loss": 1.1, "val_dice_lv": 0.4},
        {"epoch": 3.0, "train_loss": 0.7, "train_dice_lv": 0.6},
        {"epoch": 4.0, "train_loss": 0.6, "train_dice_lv": 0.7, "val_loss": 0.8, "val_mean_dice": 0.6},
    ]
    learning_curves(records, tmp_path / "l.png")
    loss, dice = figures[0].axes
    data = {line.get_label(): line.get_xydata().tolist() for axes in (loss, dice) for line in axes.lines}
    assert data == {
        "training": [[1, 1.5], [2, 0.9], [3, 0.7], [4, 0.6]],
        "validation": [[2, 1.1], [4, 0.8]],
        "LV training": [[1, 0.2], [2, 0.5], [3, 0.6], [4, 0.7]],
        "LV validation": [[2, 0.4]],
        "mean per frame, validation": [[4, 0.6]],
    }
    assert dice.get_ylim() == (0, 1)
    assert pixels(tmp_path / "l.png").shape == (440, 1210, 3)


def test_learning_curves_of_one_epoch_have_no_fractions_of_it(tmp_path, figures):
    learning_curves([{"epoch": 1, "train_loss": 1.0, "train_dice_lv": 0.2}], tmp_path / "l.png")
    for axes in figures[-1].axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_a_figure_that_fails_midway_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "h.png"
    degeneration_histogram((1,), (2,), path)
    before = path.read_bytes()

    def fail(self, target, **kwargs):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        degeneration_histogram((2,), (2,), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before

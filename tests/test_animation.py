import io

import numpy as np
import pytest
from PIL import Image

from cardiac_cine import animation
from cardiac_cine.animation import animate, still
from cardiac_cine.labels import LV
from cardiac_cine.views import BY_KEY, View

VIEW = View(slice(0, 20), slice(0, 10), 0.0, 100.0, (1.0, 2.0))


def a_cine(phases: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Black images with an LV that moves one pixel along x from phase to phase."""
    masks = np.zeros((20, 10, 3, phases), np.uint8)
    for phase in range(phases):
        masks[4 + phase : 12 + phase, 2:8, :, phase] = LV
    return np.zeros(masks.shape, np.int16), masks


def frames(content: bytes) -> list[np.ndarray]:
    image = Image.open(io.BytesIO(content))
    found = []
    for index in range(image.n_frames):
        image.seek(index)
        found.append(np.asarray(image.convert("RGB")).astype(int))
    return found


def coloured(frame: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that are close to an outline's colour."""
    colour = [int(BY_KEY[key].on_image[start : start + 2], 16) for start in (1, 3, 5)]
    return np.nonzero(np.abs(frame - colour).max(axis=2) < 60)


def test_loops_without_end_with_a_frame_for_every_phase():
    image = Image.open(io.BytesIO(animate(*a_cine(), VIEW, [0, 2], 1000.0)))
    image.load()
    assert image.n_frames == 5
    assert image.info["loop"] == 0
    assert image.info["duration"] == 200
    # Two slices of 20 x 20 mm side by side.
    assert image.size == (606, 300)


def test_outline_moves_with_the_mask():
    found = frames(animate(*a_cine(), VIEW, [1], 1000.0))
    # 15 pixels a mm: the cavity's left border lies at 4 mm in the first phase and at 8 mm in the last.
    for frame, left in ((found[0], 60), (found[-1], 120)):
        rows, columns = coloured(frame, "lv")
        assert abs(columns.min() - left) <= 3
        assert abs(rows.min() - 60) <= 3 and abs(rows.max() - 240) <= 3


def test_dashed_line_has_gaps():
    array, masks = a_cine(1)
    masks[masks == LV] = 1
    rows, columns = coloured(frames(animate(array, masks, VIEW, [0], 0.0))[0], "rv")
    top = np.unique(columns[rows < 66])
    assert (np.diff(top) > 2).sum() > 5


def test_still_is_one_frame_of_the_same_size():
    content = still(*a_cine(), VIEW, [0, 2], 4)
    (frame,) = frames(content)
    assert frame.shape == (300, 606, 3)
    assert abs(coloured(frame, "lv")[1].min() - 120) <= 3


def test_equal_input_gives_equal_bytes():
    assert animate(*a_cine(), VIEW, [0], 800.0) == animate(*a_cine(), VIEW, [0], 800.0)


def test_quality_gives_way_to_size(monkeypatch):
    array, masks = a_cine()
    array = np.random.default_rng(0).integers(0, 100, array.shape).astype(np.int16)
    large = animate(array, masks, VIEW, [0], 1000.0)
    monkeypatch.setattr(animation, "MAX_BYTES", 1)
    assert len(animate(array, masks, VIEW, [0], 1000.0)) < len(large)


def test_rejects_no_slices():
    with pytest.raises(ValueError, match="slices must name at least one slice to show, got none"):
        animate(*a_cine(), VIEW, [], 1000.0)

"""A beating heart as one looping animated WebP: some slices side by side with their outlines."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cardiac_cine.views import OUTLINES, View

# Width of one slice, and how much finer it is drawn, which makes the lines smooth.
_TILE_PX = 300
_OVERSAMPLING = 2
_LINE_PX = 1.8
_GAP_PX = 6
# The file stays below MAX_BYTES where one of these qualities allows it; the last is taken in any case.
MAX_BYTES = 1_400_000
_QUALITIES = (80, 65, 50, 30)


def animate(array: np.ndarray, masks: np.ndarray, view: View, slices: Sequence[int], cycle_ms: float) -> bytes:
    """Draw the cycle of some slices, side by side, looping without end.

    Args:
        array: voxels (x, y, z, t).
        masks: labels 0-3, same shape.
        view: what is shown of every slice.
        slices: indices along z, from left to right.
        cycle_ms: length of the loop.

    Returns:
        An animated WebP of one frame per phase, equal neighbours joined; a still one for a single phase. At most 1.4 MB
        unless the cycle is exceptionally long.

    Raises:
        ValueError: no slices.
    """
    if not slices:
        raise ValueError("slices must name at least one slice to show, got none")
    frames = [_side_by_side(array, masks, view, slices, phase) for phase in range(array.shape[3])]
    duration = round(cycle_ms / len(frames))
    encoded = b""
    for quality in _QUALITIES:
        encoded = _encode(frames, duration, quality)
        if len(encoded) <= MAX_BYTES:
            break
    return encoded


def still(array: np.ndarray, masks: np.ndarray, view: View, slices: Sequence[int], phase: int) -> bytes:
    """Draw one phase as :func:`animate` does, for readers who want nothing to move.

    Args:
        array: voxels (x, y, z, t).
        masks: labels 0-3, same shape.
        view: what is shown of every slice.
        slices: indices along z, from left to right.
        phase: index along t.

    Returns:
        A WebP of the animation's size in pixels.
    """
    return animate(array[..., [phase]], masks[..., [phase]], view, slices, 0.0)


def _encode(frames: Sequence[Image.Image], duration: int, quality: int) -> bytes:
    file = io.BytesIO()
    if len(frames) == 1:
        frames[0].save(file, "WEBP", quality=quality)
    else:
        frames[0].save(
            file, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=quality, method=4
        )
    return file.getvalue()


def _side_by_side(array: np.ndarray, masks: np.ndarray, view: View, slices: Sequence[int], phase: int) -> Image.Image:
    tiles = [_tile(array[:, :, z, phase], masks[:, :, z, phase], view) for z in slices]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (len(tiles) * (width + _GAP_PX) - _GAP_PX, height), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index * (width + _GAP_PX), 0))
    return sheet


def _tile(plane: np.ndarray, labels: np.ndarray, view: View) -> Image.Image:
    width_mm, height_mm = view.size_mm
    size = (_TILE_PX, max(1, round(_TILE_PX * height_mm / width_mm)))
    fine = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
    image = Image.fromarray(view.grey(plane)).resize(fine, Image.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(image)
    width = round(_LINE_PX * _OVERSAMPLING)
    lines = view.outlines(labels)
    for outline in OUTLINES:
        for line in lines[outline.key]:
            _draw_line(draw, line * (fine[0] / width_mm), outline.on_image, width, outline.dashes)
    return image.resize(size, Image.Resampling.LANCZOS)


def _draw_line(draw: ImageDraw.ImageDraw, line: np.ndarray, colour: str, width: int, dashes: Sequence[float]) -> None:
    """Draw a line point by point, leaving out what falls into its gaps."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    if dashes:
        stroke, gap = (length * width for length in dashes)
        # Points close enough for the gaps to begin and end where they should.
        along = np.concatenate([[0.0], np.cumsum(steps)])
        places = np.arange(0.0, along[-1], width / 2)
        line = np.stack([np.interp(places, along, line[:, axis]) for axis in (0, 1)], axis=1)
        shown = places[:-1] % (stroke + gap) < stroke
    else:
        shown = np.ones(len(steps), bool)
    for index in np.flatnonzero(shown):
        draw.line([*line[index], *line[index + 1]], fill=colour, width=width)
        if not dashes:  # closes the wedges between segments
            x, y = line[index]
            draw.ellipse([x - width / 2 + 0.5, y - width / 2 + 0.5, x + width / 2 - 0.5, y + width / 2 - 0.5], colour)

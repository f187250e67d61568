"""All slices of a phase as inline SVG: the image as it was acquired, the masks' outlines as sharp lines above it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cardiac_cine.labels import LV
from cardiac_cine.levels import base_is_first, slice_levels
from cardiac_cine.pages import data_uri
from cardiac_cine.views import OUTLINES, Outline, View

# Levels of the slices that stand for base, middle and apex: the middles of three equal parts.
_THIRDS = {"basal": 1 / 6, "mid-ventricular": 1 / 2, "apical": 5 / 6}


@dataclass(frozen=True)
class Tile:
    """One slice of one phase.

    Attributes:
        number: of the slice, from 1 in the order of the file.
        svg: what is seen, an ``<svg>`` element without any text from files.
    """

    number: int
    svg: str


def montage(array: np.ndarray, masks: np.ndarray, view: View, phase: int, name: str) -> list[Tile]:
    """Draw all slices of a phase, from base to apex where the masks tell which end is which.

    Args:
        array: voxels (x, y, z, t).
        masks: labels 0-3, same shape.
        view: what is shown of every slice.
        phase: index along t.
        name: of the phase, for the pictures' descriptions; plain text of our own.
    """
    order = base_to_apex(masks)
    return [
        Tile(z + 1, _svg(array[:, :, z, phase], masks[:, :, z, phase], view, f"{name}, slice {z + 1}")) for z in order
    ]


def base_to_apex(masks: np.ndarray) -> list[int]:
    """Return the slices' indices from base to apex, or in the order of the file where that cannot be told.

    Args:
        masks: labels 0-3, (x, y, z, t).
    """
    indices = list(range(masks.shape[2]))
    return indices[::-1] if base_is_first(_ever(masks)) is False else indices


def base_is_known(masks: np.ndarray) -> bool:
    """Tell whether the masks show which end of the stack is the base.

    Args:
        masks: labels 0-3, (x, y, z, t).
    """
    return base_is_first(_ever(masks)) is not None


def representative_slices(masks: np.ndarray, phases: Sequence[int]) -> dict[str, int]:
    """Choose a basal, a mid-ventricular and an apical slice.

    Args:
        masks: labels 0-3, (x, y, z, t).
        phases: indices along t, in all of which the slices should hold the LV's cavity; slices that hold it in one of
            them do where none does so in all.

    Returns:
        Level to slice index, from base to apex. Fewer where the heart has fewer slices; without an LV, or where base
        and apex cannot be told apart, the middle slice of the stack alone.
    """
    cavity = (masks[..., list(phases)] == LV).any(axis=(0, 1))
    slices = np.flatnonzero(cavity.all(axis=1)) if cavity.all(axis=1).any() else np.flatnonzero(cavity.any(axis=1))
    levels = slice_levels(_ever(masks))
    slices = slices[~np.isnan(levels[slices])]
    if not len(slices):
        return {"middle of the stack": masks.shape[2] // 2}
    low, high = levels[slices].min(), levels[slices].max()
    chosen: dict[str, int] = {}
    # The middle first: where slices are few it is the one to keep.
    for name in ("mid-ventricular", "basal", "apical"):
        wanted = low + _THIRDS[name] * (high - low)
        nearest = int(slices[np.abs(levels[slices] - wanted).argmin()])
        if nearest not in chosen.values():
            chosen[name] = nearest
    return {name: chosen[name] for name in _THIRDS if name in chosen}


def legend_line(outline: Outline) -> str:
    """Return a short piece of an outline as an ``<svg>`` element, over the black that images have around them."""
    return (
        '<svg class="key" viewBox="0 0 44 14" width="44" height="14" aria-hidden="true"><rect width="44" height="14" '
        f'rx="2" fill="#20262d"/>{_path("M4 7H40", outline)}</svg>'
    )


def _svg(plane: np.ndarray, labels: np.ndarray, view: View, description: str) -> str:
    width, height = view.size_mm
    lines = view.outlines(labels)
    borders = "".join(
        _path("".join(_subpath(line) for line in lines[outline.key]), outline)
        for outline in OUTLINES
        if lines[outline.key]
    )
    held = ", ".join(outline.name for outline in reversed(OUTLINES) if lines[outline.key]) or "no outline"
    return (
        f'<svg viewBox="0 0 {width:.2f} {height:.2f}" role="img" aria-label="{description}: {held}">'
        f'<image width="{width:.2f}" height="{height:.2f}" preserveAspectRatio="none" href="{_png(view.grey(plane))}"/>'
        f"{borders}</svg>"
    )


def _path(data: str, outline: Outline) -> str:
    dashes = (
        f' stroke-dasharray="{" ".join(f"{1.5 * length:g}" for length in outline.dashes)}"' if outline.dashes else ""
    )
    return (
        f'<path d="{data}" fill="none" stroke="{outline.on_image}" stroke-width="1.5" '
        f'vector-effect="non-scaling-stroke"{dashes}/>'
    )


def _subpath(line: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line[:-1]) + "Z"


def _png(grey: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG", optimize=True)
    return data_uri("image/png", file.getvalue())


def _ever(masks: np.ndarray) -> np.ndarray:
    """Return every voxel's largest label over the cycle, which no phase of a moving base can mislead."""
    return masks.max(axis=3)

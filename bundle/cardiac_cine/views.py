"""What the pictures of a study show: the part around the heart, on one grey scale, with the masks' outlines.

Pictures have y downwards and x to the right, as the scanner shows a short-axis slice. Colours keep apart with every
kind of colour vision, and every outline has a stroke of its own besides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.measure import find_contours

from cardiac_cine.geometry import with_margin
from cardiac_cine.labels import LV, MYO, RV

# Room around the heart, enough to see what it borders on.
MARGIN_MM = 18.0
# Of the grey values in view: the darkest and the brightest few carry nothing that a reader needs.
_WINDOW_PERCENT = (0.5, 99.7)


@dataclass(frozen=True)
class Outline:
    """How the border of one structure is drawn.

    Attributes:
        key: short name.
        name: what a legend calls it.
        labels: the label ids inside the border.
        on_image: colour over grey images.
        on_paper: colour of the same hue over white.
        dashes: lengths of stroke and gap in widths of the line; empty for a solid line.
    """

    key: str
    name: str
    labels: tuple[int, ...]
    on_image: str
    on_paper: str
    dashes: tuple[float, ...]


# Hues of Okabe and Ito's palette (Color Universal Design, 2008), lighter over images, darker over white.
OUTLINES = (
    Outline("epi", "LV epicardium", (MYO, LV), "#f0e442", "#6b6400", (4.0, 2.5)),
    Outline("lv", "LV endocardium", (LV,), "#56b4e9", "#0072b2", ()),
    Outline("rv", "RV endocardium", (RV,), "#ff9440", "#b34700", (2.0, 1.5)),
)
BY_KEY = {outline.key: outline for outline in OUTLINES}


@dataclass(frozen=True)
class View:
    """The part of every slice that is shown, and how.

    Attributes:
        columns: pixels along x.
        rows: pixels along y.
        low: the grey value shown as black.
        high: the grey value shown as white.
        spacing_mm: along x and y.
    """

    columns: slice
    rows: slice
    low: float
    high: float
    spacing_mm: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        return (
            (self.columns.stop - self.columns.start) * self.spacing_mm[0],
            (self.rows.stop - self.rows.start) * self.spacing_mm[1],
        )

    def grey(self, plane: np.ndarray) -> np.ndarray:
        """Return a slice's part in view as uint8, row by row.

        Args:
            plane: one whole slice, (x, y).
        """
        part = plane[self.columns, self.rows].T.astype(np.float32)
        scaled = (part - self.low) / max(self.high - self.low, 1e-6)
        return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)

    def outlines(self, plane: np.ndarray) -> dict[str, list[np.ndarray]]:
        """Return the borders in a slice.

        Args:
            plane: labels 0-3 of one whole slice, (x, y).

        Returns:
            For every key of ``OUTLINES`` its closed lines, each (n, 2): mm to the right and downwards from the upper
            left corner of the view. No line where the structure is not in the slice.
        """
        part = np.pad(plane[self.columns, self.rows], 1)
        return {
            outline.key: [
                # Half a pixel from a pixel's corner to its centre, less the padding.
                (line - 0.5) * self.spacing_mm
                for line in find_contours(np.isin(part, outline.labels).astype(np.float32), 0.5)
            ]
            for outline in OUTLINES
        }


def heart_view(array: np.ndarray, masks: np.ndarray, spacing_mm: Sequence[float]) -> View:
    """Return the view around the heart.

    Args:
        array: voxels (x, y, z, t).
        masks: labels 0-3, same shape; without any label the whole slice is in view.
        spacing_mm: along x, y and z.
    """
    heart = masks > 0
    columns, rows = (
        with_margin(heart.any(axis=others), round(MARGIN_MM / spacing_mm[axis]))
        for axis, others in enumerate([(1, 2, 3), (0, 2, 3)])
    )
    low, high = np.percentile(array[columns, rows], _WINDOW_PERCENT)
    return View(columns, rows, float(low), float(high), (float(spacing_mm[0]), float(spacing_mm[1])))

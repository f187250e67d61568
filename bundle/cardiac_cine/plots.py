"""Figures, drawn to a PNG each, or for a report to draw. Arrays and numbers come in; nothing is measured here.

Figures use matplotlib's object interface with the Agg canvas, so that they need no display and no global state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from skimage.measure import find_contours

from cardiac_cine.files import staged
from cardiac_cine.geometry import with_margin
from cardiac_cine.labels import BY_KEY, STRUCTURES, Structure

_DPI = 110
# Margin around the heart in the overlay grid.
_MARGIN_MM = 25.0
_GRID_COLUMNS = 6


def learning_curves(records: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and Dice of training and validation over epochs.

    Args:
        records: one per epoch: ``epoch``, ``train_loss`` and ``train_dice_*`` always, ``val_loss``, ``val_dice_*`` and
            ``val_mean_dice`` where that epoch was validated.
        path: PNG to write.
    """
    figure = _figure(11, 4)
    loss, dice = figure.subplots(1, 2)
    _curve(loss, records, "train_loss", "training", "0.55")
    _curve(loss, records, "val_loss", "validation", "black")
    loss.set(title="Loss", xlabel="epoch")
    for structure in STRUCTURES:
        colour = _rgb(structure)
        _curve(dice, records, f"train_dice_{structure.key}", f"{structure.key.upper()} training", colour, style="--")
        _curve(dice, records, f"val_dice_{structure.key}", f"{structure.key.upper()} validation", colour)
    _curve(dice, records, "val_mean_dice", "mean per frame, validation", "black")
    dice.set(title="Dice", xlabel="epoch", ylim=(0, 1))
    for axes in (loss, dice):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(fontsize=8)
    _save(figure, path)


def overlay_grid(
    image: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    path: Path,
    *,
    title: str,
    reference: np.ndarray | None = None,
) -> None:
    """Draw all slices of a frame with the prediction filled and the reference as contour.

    LV green, MYO blue, RV red. The view is cropped to the heart with a margin, the same in every slice.

    Args:
        image: (x, y, z).
        prediction: labels 0-3, same shape.
        spacing_mm: spacing along x, y, z in mm.
        path: PNG to write.
        title: heading.
        reference: labels 0-3, same shape; None for no contour.
    """
    heart = prediction > 0 if reference is None else (prediction > 0) | (reference > 0)
    x, y = (with_margin(heart.any(axis=(1 - axis, 2)), round(_MARGIN_MM / spacing_mm[axis])) for axis in (0, 1))
    columns = min(_GRID_COLUMNS, image.shape[2])
    rows = -(-image.shape[2] // columns)
    aspect = (y.stop - y.start) * spacing_mm[1] / ((x.stop - x.start) * spacing_mm[0])
    figure = _figure(2.1 * columns, 2.1 * aspect * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high = np.percentile(image, (1, 99.5))
    for cell in axes.flat:
        cell.set_axis_off()
    for z, cell in zip(range(image.shape[2]), axes.flat, strict=False):
        view = (x, y, z)
        cell.imshow(image[view].T, cmap="gray", vmin=low, vmax=high, aspect=spacing_mm[1] / spacing_mm[0])
        fill = np.zeros((*image[view].T.shape, 4))
        for structure in STRUCTURES:
            fill[(prediction[view] == structure.id).T] = (*_rgb(structure), 0.4)
            if reference is not None:
                padded = np.pad(reference[view] == structure.id, 1)
                for contour in find_contours(padded.astype(float), 0.5):
                    cell.plot(contour[:, 0] - 1, contour[:, 1] - 1, color=_rgb(structure), linewidth=1.2)
        cell.imshow(fill, aspect=spacing_mm[1] / spacing_mm[0])
        cell.set_title(f"slice {z}", fontsize=7, pad=2)
    figure.suptitle(title, fontsize=10)
    meaning = "filled: prediction" + ("" if reference is None else ", contour: reference")
    handles = [Patch(color=_rgb(structure), label=structure.key.upper()) for structure in reversed(STRUCTURES)]
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=8, title=meaning, title_fontsize=8)
    figure.set_layout_engine("constrained", rect=(0, 0.5 / figure.get_figheight(), 1, 1 - 0.5 / figure.get_figheight()))
    _save(figure, path)


def degeneration_histogram(degenerated: Sequence[int], slices: Sequence[int], path: Path) -> None:
    """Draw how many slices are degenerated, by level from base to apex, as the ACDC paper does.

    Args:
        degenerated: count per bin.
        slices: slices per bin, written above the bars.
        path: PNG to write.
    """
    figure = _figure(7, 4)
    axes = figure.subplots()
    edges = np.linspace(0, 1, len(degenerated) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    bars = axes.bar(centres, degenerated, width=0.8 / len(degenerated), color="#b04a2f")
    labels = [f"{count} of {total}" for count, total in zip(degenerated, slices, strict=True)]
    axes.bar_label(bars, labels=labels, fontsize=7, padding=2)
    axes.set(xlabel="level, 0 = base to 1 = apex", ylabel="degenerated slices", xlim=(0, 1))
    axes.set_ylim(0, max(1, *degenerated) * 1.2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def bland_altman(
    values: Sequence[float],
    references: Sequence[float],
    limits: tuple[float, float, float],
    path: Path,
    *,
    name: str,
) -> None:
    """Draw what :func:`bland_altman_figure` returns; ``path`` is the PNG to write."""
    _save(bland_altman_figure(values, references, limits, name), path)


def bland_altman_figure(
    values: Sequence[float], references: Sequence[float], limits: tuple[float, float, float], name: str
) -> Figure:
    """Return a figure of value against reference, and of their difference against their mean.

    Args:
        values: one per subject.
        references: in the same order and unit.
        limits: lower limit of agreement, bias, upper limit.
        name: the quantity and its unit, such as "LV EF (%)".
    """
    measured, expected = np.asarray(values, float), np.asarray(references, float)
    figure = _figure(10, 4.2)
    scatter, difference = figure.subplots(1, 2)
    scatter.plot(expected, measured, "o", color="#1f5fa8", markersize=4, alpha=0.8)
    ends = [np.nanmin([measured, expected]), np.nanmax([measured, expected])]
    scatter.plot(ends, ends, color="0.5", linewidth=1)
    scatter.set(xlabel=f"{name}, reference", ylabel=f"{name}, automatic", title="Correlation")
    difference.plot((measured + expected) / 2, measured - expected, "o", color="#1f5fa8", markersize=4, alpha=0.8)
    for value, style, what in zip(limits, ("--", "-", "--"), ("lower limit", "bias", "upper limit"), strict=True):
        difference.axhline(value, linestyle=style, color="0.3", linewidth=1)
        beside = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center", "fontsize": 8}
        difference.annotate(f"{what}\n{value:+.1f}", (1.01, value), **beside)
    difference.set(xlabel=f"{name}, mean of both", ylabel=f"{name}, automatic - reference", title="Bland-Altman")
    for axes in (scatter, difference):
        axes.grid(alpha=0.3)
    return figure


def volume_curves(times: Sequence[float], curves: Mapping[str, Sequence[float]], path: Path, *, xlabel: str) -> None:
    """Draw volumes over the cardiac cycle.

    Args:
        times: one per phase.
        curves: label to volumes in mL. A label's first word is a structure's key, whose colour the curve takes; a curve
            whose label ends with "true" is dashed.
        path: PNG to write.
        xlabel: what ``times`` are, with the unit.
    """
    figure = _figure(7, 4.2)
    axes = figure.subplots()
    for label, volumes in curves.items():
        structure = BY_KEY[label.split()[0].lower()]
        style = "--" if label.endswith("true") else "-"
        axes.plot(times, volumes, style, color=_rgb(structure), label=label, marker="." if style == "-" else None)
    axes.set(xlabel=xlabel, ylabel="volume (mL)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all."""
    with staged(path) as target:
        figure.savefig(target)


def _curve(
    axes: Axes,
    records: Sequence[Mapping[str, float]],
    key: str,
    label: str,
    colour: str | tuple[float, float, float],
    *,
    style: str = "-",
) -> None:
    points = [(record["epoch"], record[key]) for record in records if key in record]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.4, marker=".")


def _rgb(structure: Structure) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in structure.colour)
    return red, green, blue

"""The figures of study and cohort reports as SVG text. Numbers come in; nothing is measured here.

Equal numbers give equal text: no dates, no random ids. Letters are drawn as paths, so that a figure looks the same
wherever it is opened; what it says stands in the page beside it as text.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Wedge

from cardiac_cine import plots
from cardiac_cine.quantities import number
from cardiac_cine.statistics import method_agreement
from cardiac_cine.views import BY_KEY
from cardiac_cine.wall import SEGMENTS

_SVG = {"svg.hashsalt": "cardiac_cine", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9}
_INK = "#1d2733"
_FAINT = "#5b6673"
# AHA's 16 segments (Cerqueira et al., Circulation 105, 2002): outer and inner radius of each level's ring, its number
# of segments and where the first one, the anterior, begins, in degrees anticlockwise from the right.
_RINGS = ((1.0, 0.72, 6, 60.0), (0.72, 0.44, 6, 60.0), (0.44, 0.16, 4, 45.0))
_AROUND = {
    90: "anterior",
    150: "antero-\nseptal",
    210: "infero-\nseptal",
    270: "inferior",
    330: "infero-\nlateral",
    30: "antero-\nlateral",
}
# Above this part of the scale the map is bright and takes dark letters.
_DARK_TEXT_ABOVE = 0.55
# Bars of a histogram, and how those of flagged studies look: hatched, so that they stand out without colour.
_BARS = 12
_FLAGGED: dict[str, Any] = {"hatch": "////", "edgecolor": "#7a4d00", "linewidth": 0.6}


@mpl.rc_context(_SVG)
def volume_curves(
    places: Sequence[float], lv_ml: Sequence[float], rv_ml: Sequence[float], marks: Mapping[str, int], xlabel: str
) -> str:
    """Draw both ventricles' volumes over the cycle.

    Args:
        places: one per phase, where it lies on the x axis.
        lv_ml: volume of the left ventricle in every phase; NaN leaves a gap, and NaN throughout no curve.
        rv_ml: the same of the right ventricle.
        marks: names of phases to mark, to indices into these.
        xlabel: what ``places`` are, with the unit.
    """
    figure = _figure(6.4, 3.3)
    axes = figure.subplots()
    top = np.nanmax([*lv_ml, *rv_ml, 1.0])
    ends = _apart([_last_known(lv_ml), _last_known(rv_ml)], 0.09 * top)
    for key, volumes, style, end in (("lv", lv_ml, "-o", ends[0]), ("rv", rv_ml, "--s", ends[1])):
        if math.isnan(_last_known(volumes)):
            continue
        colour = BY_KEY[key].on_paper
        axes.plot(places, volumes, style, color=colour, markersize=3.5, linewidth=1.8)
        axes.annotate(
            key.upper(), (1.0, end), xycoords=("axes fraction", "data"), va="center", fontweight="bold", color=colour
        )
    for name, index in marks.items():
        axes.axvline(places[index], color=_FAINT, linewidth=0.9, linestyle=":")
        # White behind the letters keeps the dotted line out of them.
        axes.annotate(
            name,
            (places[index], top * 1.13),
            ha="center",
            va="center",
            fontweight="bold",
            color=_INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    axes.set(xlabel=xlabel, ylabel="volume (mL)", ylim=(0, top * 1.2))
    _plain(axes)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(10, integer=True))
    return _svg(figure)


@mpl.rc_context(_SVG)
def bulls_eye(values: Sequence[float], title: str, unit: str, digits: int, scale: tuple[float, float]) -> str:
    """Draw AHA's 16 segments as rings, base outside, anterior wall on top, septum on the left.

    Args:
        values: of segments 1 to 16; NaN is hatched and has a dash for a number.
        title: heading.
        unit: of the values, below the colour bar.
        digits: decimals of the numbers.
        scale: values of the colour bar's ends; numbers beyond them take the end's colour and are written as they are.

    Raises:
        ValueError: not 16 values.
    """
    if len(values) != SEGMENTS:
        raise ValueError(f"values must be those of AHA's segments 1 to 16, got {len(values)}")
    figure = _figure(3.5, 3.9)
    axes = figure.subplots()
    colours, norm = colormaps["cividis"], Normalize(*scale)
    for value, (outer, inner, start, end) in zip(values, _segments(), strict=True):
        known = not math.isnan(value)
        part = min(max(float(norm(value)), 0.0), 1.0) if known else 1.0
        look = {"facecolor": colours(part)} if known else {"facecolor": "#eceff2", "hatch": "////"}
        axes.add_patch(Wedge((0, 0), outer, start, end, width=outer - inner, edgecolor="white", linewidth=1.5, **look))
        axes.annotate(
            number(value, digits),
            _place((outer + inner) / 2, (start + end) / 2),
            ha="center",
            va="center",
            color=_INK if part > _DARK_TEXT_ABOVE else "white",
        )
    for degrees, name in _AROUND.items():
        x, y = _place(1.06, degrees)
        side = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        height = "center" if side != "center" else "bottom" if y > 0 else "top"
        axes.annotate(name, (x, y), ha=side, va=height, fontsize=7, color=_FAINT)
    axes.set(xlim=(-1.42, 1.42), ylim=(-1.2, 1.2), aspect="equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, color=_INK)
    mappable = mpl.cm.ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=axes, orientation="horizontal", shrink=0.6, aspect=24, pad=0.02)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return _svg(figure)


@mpl.rc_context(_SVG)
def histogram(values: Sequence[float], flagged: Sequence[bool], name: str, *, digits: int = 1) -> str:
    """Draw how a quantity is distributed over studies, the flagged ones apart.

    Args:
        values: one per study; NaN is left out and counted in the title.
        flagged: whether the study has a flag, in the same order.
        name: the quantity and its unit.
        digits: decimals that a report shows; where no two values differ by that much, all are in one bar.
    """
    array, mark = np.asarray(values, float), np.asarray(flagged, bool)
    known = ~np.isnan(array)
    figure = _figure(3.6, 2.6)
    axes = figure.subplots()
    stacks = [array[known & ~mark], array[known & mark]]
    edges = _edges(array[known], digits)
    axes.hist(
        stacks, edges, stacked=True, color=["#0072b2", "#f2b84b"], edgecolor="white", label=["no flag", "flagged"]
    )
    for bar in axes.containers[1]:
        if bar.get_height():  # an edge around nothing would still be drawn
            bar.set(**_FLAGGED)
    missing = int((~known).sum())
    axes.set(xlabel=name, ylabel="studies")
    if missing:
        axes.set_title(f"{missing} without a value", fontsize=8, color=_FAINT, loc="right")
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    _plain(axes)
    handles = [Patch(color="#0072b2", label="no flag"), Patch(facecolor="#f2b84b", label="flagged", **_FLAGGED)]
    axes.legend(handles=handles, fontsize=7, frameon=False)
    return _svg(figure)


@mpl.rc_context(_SVG)
def bland_altman(values: Sequence[float], references: Sequence[float], name: str) -> str:
    """Draw measured against reference values, and their difference against their mean, with bias and limits.

    Args:
        values: one per study, none NaN.
        references: in the same order and unit.
        name: the quantity and its unit.

    Raises:
        ValueError: fewer than two pairs, which have no limits of agreement.
    """
    found = method_agreement(values, references)
    if found.n < 2:
        raise ValueError(f"limits of agreement need at least two pairs, got {found.n}")
    limits = (found.lower, found.bias, found.upper)
    return _svg(plots.bland_altman_figure(values, references, limits, name), transparent=False)


def _edges(values: np.ndarray, digits: int) -> list[float]:
    """Return where bars begin and end; values that a report writes alike share one, as wide as its last digit."""
    ends = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    width = 10.0**-digits
    if ends[1] - ends[0] < width:
        first = sum(ends) / 2 - (_BARS // 2 + 0.5) * width
        ends = (first, first + _BARS * width)
    return np.histogram_bin_edges(values, _BARS, ends).tolist()


def _segments() -> Iterator[tuple[float, float, float, float]]:
    """Yield outer and inner radius, start and end in degrees of segments 1 to 16."""
    for outer, inner, count, start in _RINGS:
        for index in range(count):
            yield outer, inner, start + index * 360 / count, start + (index + 1) * 360 / count


def _place(radius: float, degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees)
    return radius * math.cos(angle), radius * math.sin(angle)


def _last_known(volumes: Sequence[float]) -> float:
    """Return the last volume that is not NaN, NaN where there is none."""
    return next((volume for volume in reversed(volumes) if not math.isnan(volume)), math.nan)


def _apart(ends: Sequence[float], gap: float) -> tuple[float, ...]:
    """Return two places on an axis, moved apart where they are closer than a gap; 0 for NaN."""
    first, second = (0.0 if math.isnan(end) else end for end in ends)
    push = max(0.0, gap - abs(first - second)) / 2
    return (first + push, second - push) if first >= second else (first - push, second + push)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: Axes) -> None:
    axes.grid(color="#d9dee3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure, *, transparent: bool = True) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=transparent)
    return _bare(text.getvalue())


def _bare(text: str) -> str:
    """Return the element alone: no prolog, which names a DTD on the network, and no metadata, which hold a date."""
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)

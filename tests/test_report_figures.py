import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cardiac_cine import report_figures
from cardiac_cine.report_figures import bland_altman, bulls_eye, histogram, volume_curves

NAN = math.nan


@pytest.fixture
def as_text(monkeypatch):
    """Letters as text in place of paths, to be read."""
    monkeypatch.setitem(report_figures._SVG, "svg.fonttype", "none")


def texts(svg: str) -> list[tuple[str, float, float]]:
    """Every text in a figure with its place, x to the right and y downwards."""
    found = re.findall(r'<text[^>]*transform="rotate\(-?[\d.]+ ([\d.]+) ([\d.]+)\)"[^>]*>([^<]*)</text>', svg)
    return [(text, float(x), float(y)) for x, y, text in found]


def words(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</t(?:ext|span)>", svg)


FIGURES = {
    "curves": lambda: volume_curves([0, 40, 80], [120, 60, 110], [130, 70, NAN], {"ED": 0, "ES": 1}, "time (ms)"),
    "bulls_eye": lambda: bulls_eye([8.0] * 15 + [NAN], "Thickness", "mm", 1, (4, 16)),
    "histogram": lambda: histogram([50, 60, 61, NAN], [False, True, False, True], "LV EF (%)"),
    "bland_altman": lambda: bland_altman([50, 60, 71], [52, 60, 69], "LV EF (%)"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_plain_svg_that_depends_on_nothing_but_its_numbers(name):
    svg = FIGURES[name]()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == FIGURES[name]()
    assert not re.search(r"<metadata|<!DOCTYPE|<script|<text", svg)
    assert set(re.findall(r'href="(#|data:|)', svg)) <= {"#", "data:"}


def test_curves_mark_the_phases_and_name_the_ventricles(as_text):
    places = {text: (x, y) for text, x, y in texts(FIGURES["curves"]())}
    assert places["ED"][0] < places["ES"][0] < places["LV"][0]
    assert {"time (ms)", "volume (mL)"} <= set(words(FIGURES["curves"]()))
    assert "ED" not in words(volume_curves([1, 2], [0, 0], [0, 0], {}, "phase"))


def test_names_of_curves_that_end_together_are_moved_apart(as_text):
    svg = volume_curves([0, 40], [100, 100], [120, 100], {}, "phase")
    (_, _, lv), (_, _, rv) = (next(t for t in texts(svg) if t[0] == name) for name in ("LV", "RV"))
    assert rv - lv > 9


def test_a_curve_ends_where_it_is_last_known_and_one_that_is_not_known_is_not_there(as_text):
    known, cut = (volume_curves([0, 40, 80], [120, 60, 110], rv, {}, "phase") for rv in ([130, 70, 70], [130, 70, NAN]))
    assert [text for text in texts(cut) if text[0] == "RV"] == [text for text in texts(known) if text[0] == "RV"]
    lv_alone = volume_curves([0, 40, 80], [120, 60, 110], [NAN] * 3, {}, "phase")
    assert [text for text, _, _ in texts(lv_alone) if text in ("LV", "RV")] == ["LV"]


def test_segments_lie_where_the_aha_puts_them(as_text):
    svg = bulls_eye(range(101, 117), "T", "mm", 0, (0, 50))
    places = {int(text): (x, y) for text, x, y in texts(svg) if text.isdigit() and int(text) > 100}
    assert places.keys() == set(range(101, 117))
    centre = places[101][0]
    # Anterior on top, inferior below, the septum on the left; the basal ring is the outer one.
    assert places[101][1] < places[107][1] < places[113][1] < places[115][1] < places[110][1] < places[104][1]
    assert all(places[segment][0] < centre - 10 for segment in (102, 103, 108, 109, 114))
    assert all(places[segment][0] > centre + 10 for segment in (105, 106, 111, 112, 116))
    assert places[102][1] < places[103][1] and places[106][1] < places[105][1]


def test_segments_show_what_is_beyond_the_scale_and_what_is_missing(as_text):
    found = words(bulls_eye([-18.0, 140.0, NAN, *[50.0] * 13], "T", "%", 0, (0, 100)))
    assert {"\N{MINUS SIGN}18", "140", "\N{EN DASH}"} <= set(found)
    assert found.count("50") == 13


def test_bulls_eye_rejects_another_number_of_segments():
    with pytest.raises(ValueError, match="values must be those of AHA's segments 1 to 16, got 17"):
        bulls_eye([8.0] * 17, "T", "mm", 1, (4, 16))


def test_histogram_counts_what_it_leaves_out(as_text):
    assert {"1 without a value", "flagged", "no flag", "LV EF (%)"} <= set(words(FIGURES["histogram"]()))
    assert not any("without" in word for word in words(histogram([50, 60], [False, False], "LV EF (%)")))


@pytest.mark.parametrize(
    ("values", "digits"),
    [([60.31073446327684, 60.310734463276824], 1), ([50.0, 50.0], 1), ([1.8, 2.4], 0), ([1e-9, 0.0], 2)],
)
def test_values_that_a_report_writes_alike_share_a_bar(values, digits):
    histogram(values, [False, True], "LV EF (%)", digits=digits)
    edges = report_figures._edges(np.array(values), digits)
    assert len(edges) == 13 and np.diff(edges) == pytest.approx([10.0**-digits] * 12)
    assert sorted(np.histogram(values, edges)[0])[-2:] == [0, 2]


def test_histogram_of_different_values_spans_them():
    assert report_figures._edges(np.array([50.0, 62.0]), 1) == list(range(50, 63))
    assert report_figures._edges(np.array([]), 1) == pytest.approx(np.linspace(0, 1, 13).tolist())


def test_bland_altman_shows_bias_and_limits(as_text):
    # Differences -2, 0 and 2: bias 0, standard deviation 2.
    shown = "|".join(words(FIGURES["bland_altman"]()))
    for label in ("bias|+0.0", "upper limit|+3.9", "lower limit|-3.9"):
        assert label in shown


def test_bland_altman_rejects_a_single_pair():
    with pytest.raises(ValueError, match="limits of agreement need at least two pairs, got 1"):
        bland_altman([50.0], [51.0], "LV EF (%)")

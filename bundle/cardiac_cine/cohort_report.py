"""A cohort on one page: what failed, what to look at first, how the numbers are spread and agree with a reference.

One HTML file; nothing is fetched, and the one script in it, which sorts the table, is the only one that may run.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from cardiac_cine import report_figures
from cardiac_cine.errors import InputError
from cardiac_cine.files import read_csv
from cardiac_cine.pages import svg_uri, write_page
from cardiac_cine.quantities import MISSING, QUANTITIES, Quantity
from cardiac_cine.statistics import method_agreement, summarise

_COLUMNS = (
    "lv_ef_percent",
    "lv_edv_ml",
    "lv_esv_ml",
    "lv_edvi_ml_m2",
    "lv_mass_g",
    "lv_mass_index_g_m2",
    "cardiac_output_l_min",
    "rv_ef_percent",
    "rv_edv_ml",
    "rv_esv_ml",
    "rv_edvi_ml_m2",
)
_DISTRIBUTIONS = ("lv_ef_percent", "lv_edv_ml", "lv_esv_ml", "lv_mass_g", "rv_ef_percent", "rv_edv_ml")
_EXPECTED_CSV = "expected a CSV with the column case and columns such as lv_ef_percent and lv_edv_ml"


def read_reference_csv(path: Path | str | None) -> dict[str, dict[str, float]] | None:
    """Read reference values to hold a cohort against.

    Args:
        path: CSV with the column ``case`` and a column for every quantity, named as in the measurements
            (``lv_ef_percent``, ``lv_edv_ml`` ...); an empty cell is no value. With None there is no reference.

    Returns:
        Case to quantity to value; None where there is no reference.

    Raises:
        InputError: no such file, no CSV, an unknown or repeated column, a repeated case, or a cell that is no number;
            all of them at once.
    """
    if path is None:
        return None
    path = Path(path)
    columns, rows = read_csv(path, _EXPECTED_CSV)
    if "case" not in columns:
        raise InputError(f"{path}: has the columns {columns}, {_EXPECTED_CSV}")
    keys = [column for column in columns if column != "case"]
    problems = [f"{path}: unknown column {key!r}, {_expected_keys()}" for key in keys if key not in QUANTITIES]
    problems += [f"{path}: column {key!r} comes twice" for key in sorted({k for k in columns if columns.count(k) > 1})]
    values: dict[str, dict[str, float]] = {}
    for line, row in rows:
        case = (row["case"] or "").strip()
        if case in values:
            problems.append(f"{path}, line {line}: case {case!r} comes twice")
        if None in row:
            problems.append(f"{path}, line {line}: more cells than columns")
        values[case] = {}
        for key in keys:
            text = (row[key] or "").strip()
            number = _number(text)
            if number is not None:
                values[case][key] = number
            elif text:
                problems.append(f"{path}, line {line}: {key} is {text!r}, expected a number or nothing")
    if problems:
        raise InputError(problems)
    return values


def write_cohort(
    studies: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    created: datetime | None = None,
) -> None:
    """Write the page of a cohort.

    Args:
        studies: of each ``case``; ``status``, "done" or "failed"; where done the keys of ``Measurements.to_dict()``
            (None for what is undefined), ``quality_flags``, mappings of ``code`` and ``reason``, and ``report``, a path
            relative to the page; where failed ``reasons``. A failed one whose case is "" is a problem with files that
            make no study.
        path: HTML file to write, whole or not at all.
        reference: case to quantity to value, see :func:`read_reference_csv`; None for no comparison. Cases beyond the
            studies are left aside.
        created: when; now where left out.

    Raises:
        InputError: the reference has a quantity that there is not.
    """
    _check_quantities(reference or {})
    done = sorted(
        (study for study in studies if study["status"] == "done"),
        key=lambda study: (-len(study["quality_flags"]), study["case"]),
    )
    failed = sorted(
        (study for study in studies if study["status"] != "done"), key=lambda study: (not study["case"], study["case"])
    )
    # A single phase may be any: its volume is no end-diastolic one to compare with others'.
    cines = [study for study in done if study["phases"] > 1]
    script = Path(__file__).with_name("templates").joinpath("sort.js").read_text(encoding="utf-8")
    content = {
        "counts": _counts(done, failed),
        "failed": failed,
        "not_measured": _not_measured(failed),
        "columns": [QUANTITIES[key] for key in _COLUMNS],
        "rows": [_row(study) for study in done],
        "histograms": _histograms(cines),
        "summary": [_summary_row(QUANTITIES[key], _values(cines, key)) for key in _COLUMNS],
        "agreement": None if reference is None else _agreement(done, reference),
        "script": Markup(script),
        # Only the script with this hash may run, see Content Security Policy Level 3.
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    write_page("cohort.html.jinja", content, path, created)


def _check_quantities(reference: Mapping[str, Mapping[str, float]]) -> None:
    unknown = sorted({key for values in reference.values() for key in values if key not in QUANTITIES})
    if unknown:
        raise InputError([f"reference: unknown quantity {key!r}, {_expected_keys()}" for key in unknown])


def _expected_keys() -> str:
    return f"expected one of {', '.join(QUANTITIES)}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _counts(done: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]]) -> str:
    flagged = sum(bool(study["quality_flags"]) for study in done)
    count = len(done) + sum(bool(study["case"]) for study in failed)
    noun = "study" if count == 1 else "studies"
    return f"{count} {noun}: {len(done)} measured, {flagged} of them flagged, {_not_measured(failed)}"


def _not_measured(failed: Sequence[Mapping[str, Any]]) -> str:
    problems = sum(not study["case"] for study in failed)
    return f"{len(failed) - problems} failed" + (f", {problems_text(problems)}" if problems else "")


def problems_text(count: int) -> str:
    """Return how many problems there are with files that make no study; one file may have several."""
    return f"{count} problem{'s' * (count != 1)} with files that make no study"


def _row(study: Mapping[str, Any]) -> dict[str, Any]:
    values = [(QUANTITIES[key], study[key]) for key in _COLUMNS]
    return {
        "case": study["case"],
        # Quoted, a path stays a path: no name of a folder makes it a link to somewhere else.
        "report": quote(study.get("report") or ""),
        "flags": study["quality_flags"],
        "cells": [("" if value is None else repr(float(value)), quantity.number(value)) for quantity, value in values],
    }


def _values(studies: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if study[key] is None else float(study[key]) for study in studies]


def _histograms(cines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    flagged = [bool(study["quality_flags"]) for study in cines]
    figures = []
    for key in _DISTRIBUTIONS:
        values = _values(cines, key)
        found = summarise(values)
        if found.n > 1:
            quantity = QUANTITIES[key]
            svg = report_figures.histogram(values, flagged, quantity.heading, digits=quantity.digits)
            spread = f"mean {quantity.text(found.mean)}, SD {quantity.text(found.sd)}"
            alt = f"{quantity.short} in {found.n} studies: {spread}."
            figures.append({"src": svg_uri(svg), "alt": alt})
    return figures


def _summary_row(quantity: Quantity, values: Sequence[float]) -> tuple[str, ...]:
    found = summarise(values)
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    numbers = (quantity.number(value) for value in (found.mean, found.sd, min(known), max(known)))
    return (quantity.heading, str(found.n), *numbers)


def _agreement(done: Sequence[Mapping[str, Any]], reference: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    keys = {key for values in reference.values() for key in values}
    rows = []
    for key, quantity in QUANTITIES.items():
        if key not in keys:
            continue
        pairs = [
            (value, reference.get(study["case"], {}).get(key, math.nan))
            for study, value in zip(done, _values(done, key), strict=True)
        ]
        pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
        values, expected = [value for value, _ in pairs], [other for _, other in pairs]
        found = method_agreement(values, expected)
        # Differences are smaller than values and need a decimal more.
        fine = replace(quantity, digits=quantity.digits + 1)
        limits = f"{fine.number(found.lower)} to {fine.number(found.upper)}" if found.n > 1 else MISSING
        row = {
            "name": quantity.heading,
            "n": str(found.n),
            "bias": fine.number(found.bias),
            "limits": limits,
            "mean_absolute": fine.number(found.mean_absolute),
            "r": MISSING if math.isnan(found.r) else f"{found.r:.3f}",
            "src": "",
            "alt": f"{quantity.short}: bias {fine.text(found.bias)}, limits of agreement {limits} {quantity.unit}.",
        }
        if found.n > 1:
            svg = report_figures.bland_altman(values, expected, quantity.heading)
            row["src"] = svg_uri(svg)
        rows.append(row)
    return rows

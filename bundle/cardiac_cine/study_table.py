"""The table of a study's numbers: both ventricles side by side, with units, reference ranges and reasons for gaps."""

import math
from typing import Any

from cardiac_cine.measurements import Measurements
from cardiac_cine.quantities import MISSING, QUANTITIES
from cardiac_cine.reference_ranges import ranges_for

# Rows of the table: a quantity without its ventricle, and its index by body surface area.
_BOTH_ROWS = (
    ("ef_percent", None),
    ("edv_ml", "edvi_ml_m2"),
    ("esv_ml", "esvi_ml_m2"),
    ("sv_ml", "svi_ml_m2"),
    ("peak_ejection_rate_ml_s", None),
    ("peak_filling_rate_ml_s", None),
)
_VOLUME_ROWS = 4
_LV_ROWS = (
    ("lv_mass_g", "lv_mass_index_g_m2"),
    ("lv_mass_es_g", None),
    ("cardiac_output_l_min", "cardiac_index_l_min_m2"),
)


def rows(measurements: Measurements, sex: str) -> list[dict[str, Any]]:
    """Return the rows of the table.

    Args:
        measurements: of the study.
        sex: "M" or "F", whose reference ranges are shown; "" for both.

    Returns:
        Of each row its ``name``; ``lv``, ``lv_index``, ``rv`` and ``rv_index``, cells as :func:`cell` gives them or
        None where there is no such quantity; ``ranges``, of the left ventricle's value or index.
    """
    table = [_row(f"lv_{key}", index and f"lv_{index}", measurements, sex) for key, index in _BOTH_ROWS]
    for row, (key, index) in zip(table, _BOTH_ROWS, strict=True):
        row["rv"] = cell(f"rv_{key}", measurements)
        row["rv_index"] = cell(f"rv_{index}", measurements) if index else None
    # Volumes, then mass and output, then the rates.
    table[_VOLUME_ROWS:_VOLUME_ROWS] = [_row(key, index, measurements, sex) for key, index in _LV_ROWS]
    return table


def _row(key: str, index: str | None, measurements: Measurements, sex: str) -> dict[str, Any]:
    """Return a row of the table with nothing for the right ventricle."""
    return {
        "name": QUANTITIES[key].name,
        "lv": cell(key, measurements),
        "lv_index": cell(index, measurements) if index else None,
        "ranges": range_texts(key, sex) + (range_texts(index, sex) if index else []),
        "rv": None,
        "rv_index": None,
    }


def cell(key: str, measurements: Measurements) -> dict[str, str]:
    """Return a value as ``text`` with its unit; where it is undefined a dash, and ``why``.

    Args:
        key: the quantity.
        measurements: of the study.
    """
    text = QUANTITIES[key].text(getattr(measurements, key))
    return {"text": text, "why": _why_missing(key, measurements) if text == MISSING else ""}


def _why_missing(key: str, measurements: Measurements) -> str:
    """Return why a value is undefined: the first thing it needs that is not there."""
    side = key[:2] if key.startswith(("lv", "rv")) else "lv"
    mass = "mass" in key
    structure = "myocardium" if mass else f"{side.upper()} cavity"
    at_ed, at_es = ("lv_mass_g", "lv_mass_es_g") if mass else (f"{side}_edv_ml", f"{side}_esv_ml")
    needs_es = not key.endswith(("edv_ml", "edvi_ml_m2", "lv_mass_g", "lv_mass_index_g_m2"))
    reasons = {
        "needs two phases": needs_es and measurements.phases == 1,
        f"no {structure}": math.isnan(getattr(measurements, at_ed)),
        "no end-systole": needs_es and measurements.es_frame == measurements.ed_frame,
        f"no {structure} at ES": needs_es and math.isnan(getattr(measurements, at_es)),
        "no heart rate": key.startswith("cardiac") and math.isnan(measurements.heart_rate_bpm),
        "no times of phases": key.endswith("_rate_ml_s") and measurements.times_ms is None,
        "no height or weight": key.endswith("_m2") and math.isnan(measurements.bsa_m2),
        "too few phases, or gaps": key.endswith("_rate_ml_s"),
    }
    return next((reason for reason, holds in reasons.items() if holds), "not measurable")


def range_texts(key: str, sex: str) -> list[str]:
    """Return the reference ranges of a quantity as text, each with the sex it holds for; none where none is given.

    Args:
        key: the quantity.
        sex: "M", "F", or "" for both.
    """
    quantity = QUANTITIES[key]
    return [
        f"{found.low:.0f} to {found.high:.0f} {quantity.unit} ({'men' if found.sex == 'M' else 'women'})"
        for found in ranges_for(key, sex)
    ]

"""One study's report as one HTML file: nothing to install, nothing fetched, for the screen and for A4.

What is undefined is a dash with its reason. What comes from files is escaped; the page's own policy forbids scripts and
any access to a network.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cardiac_cine import animation, report_figures, study_table
from cardiac_cine.cine import Cine
from cardiac_cine.curves import missing_phases
from cardiac_cine.labels import STRUCTURES, check_mask
from cardiac_cine.measurements import Measurements, ef_category
from cardiac_cine.montage import base_is_known, legend_line, montage, representative_slices
from cardiac_cine.pages import data_uri, svg_uri, write_page
from cardiac_cine.quality import Flag
from cardiac_cine.quantities import MISSING, QUANTITIES, number
from cardiac_cine.reference_ranges import CAVITY, RANGES, ranges_for
from cardiac_cine.views import OUTLINES, heart_view
from cardiac_cine.wall import orientation_is_known

_LEVEL_NAMES = ("Basal", "Mid-ventricular", "Apical")
_WALL_NAMES = ("anterior", "anteroseptal", "inferoseptal", "inferior", "inferolateral", "anterolateral")
_APICAL_NAMES = ("anterior", "septal", "inferior", "lateral")
# Ends of the colour bars, the same in every study so that studies can be held against each other.
_THICKNESS_SCALE_MM = (4.0, 16.0)
_THICKENING_SCALE_PERCENT = (0.0, 100.0)
_SEX = {"M": "male", "F": "female", "": "unknown"}
_ROW_OF_TILES = 6
# Where the files do not say how long a beat takes: 60 beats a minute.
_CYCLE_MS = 1000.0


def write_report(
    cine: Cine,
    masks: np.ndarray,
    measurements: Measurements,
    flags: Sequence[Flag],
    software: Mapping[str, Any],
    path: Path,
    *,
    uncertainty: Mapping[str, float] | None = None,
    created: datetime | None = None,
) -> None:
    """Write a study's report.

    Args:
        cine: the images, and who was scanned.
        masks: integer labels 0-3, the cine's shape, (x, y, z, t). Empty ones give pictures without outlines.
        measurements: of these masks. With one phase there are no curves and nothing moves.
        flags: why the study should be looked at, most serious first.
        software: what measured it: names to values, nested mappings such as versions too.
        path: HTML file to write, whole or not at all; about 1 to 3 MB.
        uncertainty: structure key to the mean Dice between variants of the prediction, see
            :func:`cardiac_cine.quality.quality_flags`.
        created: when; now where left out.

    Raises:
        ValueError: the masks are no labels 0-3 of the cine's shape.
    """
    check_mask(masks, 4, "masks")
    if masks.shape != cine.array.shape:
        raise ValueError(f"masks must have the cine's shape {cine.array.shape}, got {masks.shape}")
    content = {
        "case": cine.name,
        "flags": flags,
        "remarks": [remark for remark in cine.remarks if not any(remark in flag.reason for flag in flags)],
        "identity": _identity(cine, measurements),
        "agreement": _agreement(uncertainty or {}),
        "software": [*((_name(k), v) for k, v in cine.about.items() if k.endswith("_uid")), *_flat(software)],
        **_numbers(cine, measurements),
        **_curves(measurements),
        **_pictures(cine, masks, measurements),
        **_wall(measurements),
        "orientation_is_known": orientation_is_known(cine.affine),
    }
    write_page("study.html.jinja", content, path, created)


def _identity(cine: Cine, measurements: Measurements) -> list[tuple[str, str]]:
    """Return what the report's head says of patient, scan and images, without what is unknown."""
    patient = cine.patient
    spacing = " x ".join(f"{value:.3g}" for value in cine.spacing_mm)
    known = [
        ("Case", cine.name),
        ("Patient ID", patient.id),
        ("Sex", _SEX[patient.sex]),
        ("Age", "" if math.isnan(patient.age_years) else f"{patient.age_years:.0f} years"),
        ("Height", "" if math.isnan(patient.height_cm) else f"{patient.height_cm:.0f} cm"),
        ("Weight", "" if math.isnan(patient.weight_kg) else f"{patient.weight_kg:.0f} kg"),
        *((QUANTITIES[key].name, _known(key, measurements)) for key in ("bsa_m2", "heart_rate_bpm")),
        *((_name(key), value) for key, value in cine.about.items() if not key.endswith("_uid")),
        ("Images", f"{cine.phases} phase{'s' * (cine.phases > 1)}, {cine.array.shape[2]} slices, {spacing} mm"),
    ]
    return [(name, value) for name, value in known if value]


def _name(key: str) -> str:
    """Return a key of ``Cine.about`` in words."""
    words = key.removesuffix("_t").replace("_", " ").capitalize().replace(" uid", " UID")
    return f"{words} (T)" if key.endswith("_t") else words


def _known(key: str, measurements: Measurements) -> str:
    text = QUANTITIES[key].text(getattr(measurements, key))
    return "" if text == MISSING else text


def _agreement(uncertainty: Mapping[str, float]) -> str:
    found = [(s.key.upper(), uncertainty[s.key]) for s in reversed(STRUCTURES) if s.key in uncertainty]
    return ", ".join(f"{key} {number(dice, 2)}" for key, dice in found)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return names and values, those of inner mappings with both names."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        pairs += _flat(value, name) if isinstance(value, Mapping) else [(name, str(value))]
    return pairs


def _numbers(cine: Cine, measurements: Measurements) -> dict[str, Any]:
    sex = cine.patient.sex
    return {
        "sex": sex,
        "ef": study_table.cell("lv_ef_percent", measurements),
        "ef_value": measurements.lv_ef_percent,
        "category": ef_category(measurements.lv_ef_percent),
        "bands": ranges_for("lv_ef_percent", sex),
        "ef_ranges": study_table.range_texts("lv_ef_percent", sex),
        "rows": study_table.rows(measurements, sex),
        "sources": sorted({found.source for found in RANGES if found.convention == CAVITY}),
        "convention": CAVITY,
    }


def _curves(measurements: Measurements) -> dict[str, Any]:
    if measurements.phases == 1:
        return {"curves": "", "curves_alt": ""}
    times = measurements.times_ms
    places = range(1, measurements.phases + 1) if times is None else times
    xlabel = "phase" if times is None else "time after the R wave (ms)"
    ed, es = measurements.ed_frame, measurements.es_frame
    marks = {"ED": ed, "ES": es} if ed != es else {}
    # A mask without a cavity says nothing of its volume, least of all that the ventricle is empty.
    lv_ml, rv_ml = (
        np.where(missing_phases(curve), math.nan, curve).tolist()
        for curve in (measurements.lv_volume_ml, measurements.rv_volume_ml)
    )
    svg = report_figures.volume_curves(places, lv_ml, rv_ml, marks, xlabel)
    alt = "; ".join(
        f"{side} volume {QUANTITIES[f'{key}_edv_ml'].text(getattr(measurements, f'{key}_edv_ml'))} at end-diastole, "
        f"{QUANTITIES[f'{key}_esv_ml'].text(getattr(measurements, f'{key}_esv_ml'))} at end-systole"
        for key, side in (("lv", "Left ventricular"), ("rv", "right ventricular"))
    )
    return {"curves": svg_uri(svg), "curves_alt": f"Volumes over the cardiac cycle. {alt}."}


def _pictures(cine: Cine, masks: np.ndarray, measurements: Measurements) -> dict[str, Any]:
    view = heart_view(cine.array, masks, cine.spacing_mm)
    ed, es = measurements.ed_frame, measurements.es_frame
    chosen = representative_slices(masks, sorted({ed, es}))
    found = "Phase not identified" if math.isnan(measurements.lv_edv_ml) else "End-diastole"
    phases = {found: ed, "End-systole": es} if ed != es else {found: ed}
    count = cine.array.shape[2]
    content: dict[str, Any] = {
        "legend": [{"svg": Markup(legend_line(outline)), "name": outline.name} for outline in OUTLINES],
        "sheets": [
            {
                "name": f"{name} ({_phase(phase, measurements)})",
                "tiles": [
                    {"number": tile.number, "svg": Markup(tile.svg)}
                    for tile in montage(cine.array, masks, view, phase, name)
                ],
                "columns": math.ceil(count / math.ceil(count / _ROW_OF_TILES)),
                "ordered": base_is_known(masks) and count > 1,
            }
            for name, phase in phases.items()
        ],
        "animation": "",
    }
    if cine.phases > 1:
        cycle = _CYCLE_MS if math.isnan(cine.rr_ms) else cine.rr_ms
        slices = list(chosen.values())
        names = [f"{name}, slice {z + 1}" for name, z in chosen.items()]
        content |= {
            "animation": data_uri("image/webp", animation.animate(cine.array, masks, view, slices, cycle)),
            "still": data_uri("image/webp", animation.still(cine.array, masks, view, slices, ed)),
            "motion_names": names,
            "motion_alt": f"The beating heart with its outlines: {'; '.join(names)}.",
            "motion_speed": "Shown at 60 beats a minute; the files do not give the heart rate."
            if math.isnan(cine.rr_ms)
            else f"Shown at the patient's heart rate, {cine.heart_rate_bpm:.0f} beats a minute.",
        }
    return content


def _phase(phase: int, measurements: Measurements) -> str:
    """Return which phase it is, counted from 1, and when it is, as far as known."""
    text = f"phase {phase + 1} of {measurements.phases}"
    return text if measurements.times_ms is None else f"{text}, {measurements.times_ms[phase]:.0f} ms"


def _wall(measurements: Measurements) -> dict[str, Any]:
    names = [f"{level}, {wall}" for level in _LEVEL_NAMES[:2] for wall in _WALL_NAMES]
    names += [f"{_LEVEL_NAMES[2]}, {wall}" for wall in _APICAL_NAMES]
    thickness = measurements.wall_thickness_ed_mm
    columns = (thickness, measurements.wall_thickness_es_mm, measurements.wall_thickening_percent)
    eyes = [("Wall thickness at end-diastole", thickness, "mm", 1, _THICKNESS_SCALE_MM)]
    if measurements.es_frame != measurements.ed_frame:
        thickening = measurements.wall_thickening_percent
        eyes.append(("Systolic wall thickening", thickening, "%", 0, _THICKENING_SCALE_PERCENT))
    return {
        "eyes": [
            {
                "src": svg_uri(report_figures.bulls_eye(values, title, unit, digits, scale)),
                "alt": f"{title}: {_span(values, unit)}",
            }
            for title, values, unit, digits, scale in eyes
        ],
        "segments": [
            (f"{segment} {name}", number(ed_mm, 1), number(es_mm, 1), number(percent, 0))
            for segment, (name, ed_mm, es_mm, percent) in enumerate(zip(names, *columns, strict=True), 1)
        ],
    }


def _span(values: Sequence[float], unit: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "not measurable in any segment."
    span = f"{number(min(known), 0)} to {number(max(known), 0)} {unit}"
    return f"{span} in {len(known)} of {len(values)} segments; the numbers are in the table below."

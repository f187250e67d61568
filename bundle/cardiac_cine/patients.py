"""What a person knows about the patients and the files do not say: a CSV file beside NIfTI cines, mostly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cardiac_cine.cine import CYCLE, MS_PER_MINUTE, Cine
from cardiac_cine.errors import InputError
from cardiac_cine.files import read_csv
from cardiac_cine.stacks import CYCLE_MS

# Between the smallest child and the tallest and heaviest adult on record; beyond, the unit is another one.
LIMITS = {
    "height_cm": (30.0, 275.0),
    "weight_kg": (1.0, 650.0),
    "heart_rate_bpm": (MS_PER_MINUTE / CYCLE_MS[1], MS_PER_MINUTE / CYCLE_MS[0]),
}
# A heart rate on paper was not counted in the very beats of the cine; more than a tenth apart, one of both is wrong.
MAX_DIFFERENCE = 0.1
COLUMNS = ("case", "sex", *LIMITS)
SEXES = ("M", "F", "")
_EXPECTED = f"expected a CSV with the column case and some of {', '.join(COLUMNS[1:])}"


@dataclass(frozen=True)
class Known:
    """What is known of one patient; NaN or "" where it is not."""

    sex: str = ""
    height_cm: float = math.nan
    weight_kg: float = math.nan
    heart_rate_bpm: float = math.nan


def read_patients_csv(path: Path | str | None) -> dict[str, Known]:
    """Read what is known of the patients.

    Args:
        path: CSV with the column ``case`` and any of ``sex`` (M or F), ``height_cm``, ``weight_kg`` and
            ``heart_rate_bpm``; an empty cell is not known. With None nothing is known.

    Returns:
        Case to what is known.

    Raises:
        InputError: no such file, no CSV, an unknown column, a repeated case, or a value that cannot be; all at once.
    """
    if path is None:
        return {}
    path = Path(path)
    columns, rows = read_csv(path, _EXPECTED)
    if "case" not in columns or not set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        raise InputError(f"{path}: has the columns {columns}, {_EXPECTED}")
    problems: list[str] = []
    known: dict[str, Known] = {}
    for line, row in rows:
        cells = {key: (value or "").strip() for key, value in row.items() if key is not None}
        where = f"{path}, line {line}"
        if None in row:
            problems.append(f"{where}: more cells than columns")
        if cells["case"] in known:
            problems.append(f"{where}: case {cells['case']!r} comes twice")
        sex = cells.get("sex", "").upper()
        if sex not in SEXES:
            problems.append(f"{where}: sex is {sex!r}, expected M, F or nothing")
        numbers = {key: _number(cells.get(key, ""), key, where, problems) for key in LIMITS}
        known[cells["case"]] = Known(sex=sex, **numbers)
    if problems:
        raise InputError(problems)
    return known


def complete(cine: Cine, known: Mapping[str, Known]) -> Cine:
    """Return a cine with what is known of its patient in place of what its files say.

    With a heart rate, phases without times are taken to be spread evenly over the cycle. A remark tells that, or that
    the heart rate does not fit the files.

    Args:
        cine: the cine.
        known: case to what is known; a case that is not there stays as it is.
    """
    facts = known.get(cine.name, Known())
    patient = replace(
        cine.patient,
        sex=facts.sex or cine.patient.sex,
        height_cm=cine.patient.height_cm if math.isnan(facts.height_cm) else facts.height_cm,
        weight_kg=cine.patient.weight_kg if math.isnan(facts.weight_kg) else facts.weight_kg,
    )
    if math.isnan(facts.heart_rate_bpm):
        return replace(cine, patient=patient)
    rr_ms = MS_PER_MINUTE / facts.heart_rate_bpm
    times_ms, remarks = cine.times_ms, _doubts(cine, facts.heart_rate_bpm)
    if times_ms is None and cine.phases > 1:
        times_ms = tuple(rr_ms * phase / cine.phases for phase in range(cine.phases))
        remarks.append("The phases are taken to be spread evenly over the cycle of the given heart rate.")
    about = {key: value for key, value in cine.about.items() if key != CYCLE}
    return replace(
        cine, patient=patient, rr_ms=rr_ms, times_ms=times_ms, about=about, remarks=(*cine.remarks, *remarks)
    )


def _doubts(cine: Cine, heart_rate_bpm: float) -> list[str]:
    """Return how a given heart rate contradicts the files: their cycle, or else the span of their phases."""
    rr_ms = MS_PER_MINUTE / heart_rate_bpm
    given = f"The given heart rate of {heart_rate_bpm:.0f} beats a minute makes a cycle of {rr_ms:.0f} ms"
    if abs(rr_ms - cine.rr_ms) > MAX_DIFFERENCE * cine.rr_ms:
        return [f"{given}, that of the files is {cine.rr_ms:.0f} ms; the given one is used."]
    times_ms = cine.times_ms or (0.0,)
    span_ms = times_ms[-1] - times_ms[0]
    return [f"{given}, but the phases span {span_ms:.0f} ms."] if rr_ms < span_ms else []


def _number(text: str, key: str, where: str, problems: list[str]) -> float:
    if not text:
        return math.nan
    low, high = LIMITS[key]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        problems.append(f"{where}: {key} is {text!r}, expected {low:g} to {high:g} or nothing")
    return value

"""Files that an evaluation leaves: CSV and JSON to compute with, Markdown and PNG to look at.

Numbers come from :mod:`cardiac_cine.evaluation`; nothing is measured here.
"""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from cardiac_cine import plots
from cardiac_cine.agreement import Agreement
from cardiac_cine.errors import InputError
from cardiac_cine.evaluation import (
    CAVITIES,
    Cell,
    FrameResult,
    Overlap,
    PatientEjection,
    SliceFinding,
    degeneration,
    ejection_agreement,
    ejections,
    group_cells,
    level_cells,
    summary_cells,
    worst_first,
)
from cardiac_cine.files import staged, write_json, write_text
from cardiac_cine.labels import STRUCTURES
from cardiac_cine.markdown import table
from cardiac_cine.statistics import MethodAgreement, summarise

T = TypeVar("T")

QUANTITIES = {"ef_percent": "EF (%)", "edv_ml": "EDV (mL)", "esv_ml": "ESV (mL)"}
# Observers' and the published table's figures stand beside ours in the model card, not here: other patients.
_WORST_SHOWN = 5
# Columns of the CSVs, which a table without rows has as well.
_FRAME_COLUMNS = ("case", "patient", "group", "phase", *(field.name for field in fields(Agreement)))
_PATIENT_COLUMNS = tuple(field.name for field in fields(PatientEjection))
_SLICE_COLUMNS = ("case", "slice", "level", "reasons", "reference_too")


def write_evaluation(results: Sequence[FrameResult], out_dir: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write all files of an evaluation but the overlays.

    ``frames.csv`` has a row per frame and structure, ``patients.csv`` a row per patient and cavity, ``slices.csv`` a
    row per degenerated slice, ``evaluation.json`` everything, ``evaluation.md`` the tables, and the PNGs the figures.
    Undefined numbers are empty in the CSVs and null in the JSON.

    Args:
        results: all frames.
        out_dir: folder to write to, made where missing.
        about: what was evaluated: weights, their hash, dataset, split, versions.

    Returns:
        The content of ``evaluation.json``, with NaN for what is undefined.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    cells = summary_cells(results)
    patients = ejections(results)
    slices = degeneration(results)
    agreement = {
        cavity: {quantity: ejection_agreement(patients, cavity, quantity) for quantity in QUANTITIES}
        for cavity in CAVITIES
    }
    content = {
        "about": dict(about),
        "mean_dice": summarise([cell.dice.mean for cell in cells]).mean,
        "summary": [asdict(cell) for cell in cells],
        "groups": [asdict(cell) for cell in group_cells(results)],
        "levels": [asdict(cell) for cell in level_cells(results)],
        "agreement": {c: {q: asdict(found) for q, found in by.items()} for c, by in agreement.items()},
        "degenerated_slices": asdict(slices),
        "frames": [asdict(result) | {"mean_dice": result.mean_dice} for result in worst_first(results)],
        "patients": [asdict(patient) for patient in patients],
    }
    write_json(content, out_dir / "evaluation.json")
    _write_csv(out_dir / "frames.csv", _FRAME_COLUMNS, _frame_rows(results))
    _write_csv(out_dir / "patients.csv", _PATIENT_COLUMNS, [asdict(patient) for patient in patients])
    _write_csv(out_dir / "slices.csv", _SLICE_COLUMNS, _slice_rows(results))
    plots.degeneration_histogram(slices.degenerated, slices.slices, out_dir / "degenerated_slices.png")
    for cavity in CAVITIES:
        chosen = [patient for patient in patients if patient.cavity == cavity]
        found = agreement[cavity]["ef_percent"]
        if found.n > 1:
            plots.bland_altman(
                [patient.ef_percent for patient in chosen],
                [patient.reference_ef_percent for patient in chosen],
                (found.lower, found.bias, found.upper),
                out_dir / f"{cavity}_ef.png",
                name=f"{cavity.upper()} EF (%)",
            )
    write_text(_markdown(results, cells, agreement, content), out_dir / "evaluation.md")
    for cavity in CAVITIES:
        if agreement[cavity]["ef_percent"].n < 2:  # an earlier evaluation's figure would belie this one
            (out_dir / f"{cavity}_ef.png").unlink(missing_ok=True)
    return content


def read_evaluation(path: Path) -> list[FrameResult]:
    """Read the frames of an ``evaluation.json`` back.

    Args:
        path: as :func:`write_evaluation` wrote it.

    Raises:
        InputError: the file is missing, is no JSON, or was written by another version.
    """
    return _read(path, lambda content: [_frame_result(frame) for frame in content["frames"]])


def read_about(path: Path) -> dict[str, str]:
    """Read back what an ``evaluation.json`` says was evaluated, as text.

    Args:
        path: as :func:`write_evaluation` wrote it.

    Raises:
        InputError: as :func:`read_evaluation`.
    """
    return _read(path, lambda content: {key: str(value) for key, value in content["about"].items()})


def _read(path: Path, take: Callable[[Any], T]) -> T:
    expected = "expected the evaluation.json of an evaluation by this version"
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}; {expected}") from None


def _frame_result(frame: Mapping[str, Any]) -> FrameResult:
    def known(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: math.nan if value is None else value for key, value in values.items() if key != "mean_dice"}

    return FrameResult(
        **known(frame)
        | {
            "agreements": tuple(Agreement(**known(item)) for item in frame["agreements"]),
            "degenerated": tuple(
                SliceFinding(**known(item) | {"reasons": tuple(item["reasons"])}) for item in frame["degenerated"]
            ),
            "levels": tuple(math.nan if level is None else level for level in frame["levels"]),
            "overlaps": tuple(tuple(Overlap(**item) for item in overlaps) for overlaps in frame["overlaps"]),
        }
    )


def overlay_name(rank: int, result: FrameResult) -> str:
    """Return the file name of a frame's overlay; the names sort worst first."""
    return f"{rank:03d}_{result.case}_dice{result.mean_dice:.3f}.png"


def summary_table(cells: Sequence[Cell]) -> str:
    """Return the summary as Markdown, laid out as the published table: phase and structure by Dice and d_H."""
    rows = [
        [
            cell.phase or "unknown",
            cell.structure.upper(),
            _mean_sd(cell.dice.mean, cell.dice.sd, 3),
            _mean_sd(cell.hausdorff_mm.mean, cell.hausdorff_mm.sd, 1),
            _mean_sd(cell.hd95_mm.mean, cell.hd95_mm.sd, 1),
            _mean_sd(cell.assd_mm.mean, cell.assd_mm.sd, 2),
            str(cell.dice.n),
            str(cell.empty_predictions),
        ]
        for cell in cells
    ]
    head = ["Phase", "Structure", "Dice", "d_H (mm)", "HD95 (mm)", "ASSD (mm)", "frames", "empty"]
    return table(head, rows)


def _markdown(
    results: Sequence[FrameResult],
    cells: Sequence[Cell],
    agreement: Mapping[str, Mapping[str, MethodAgreement]],
    content: Mapping[str, Any],
) -> str:
    slices = content["degenerated_slices"]
    lines = ["# Evaluation", ""]
    lines += [f"- {key}: {value}" for key, value in content["about"].items()]
    lines += ["", f"Mean Dice over the table's cells: **{_number(content['mean_dice'], 4)}**", "", summary_table(cells)]
    lines += ["", "Mean ± standard deviation over frames; distances in 3D with the true spacing.", ""]
    lines += ["## Volumes and ejection fraction against the reference", ""]
    lines += [
        table(
            ["Cavity", "Quantity", "patients", "r", "bias", "limits of agreement", "mean absolute difference"],
            [
                [
                    cavity.upper(),
                    QUANTITIES[quantity],
                    str(found.n),
                    _number(found.r, 3),
                    _number(found.bias, 2, sign=True),
                    f"{_number(found.lower, 1, sign=True)} to {_number(found.upper, 1, sign=True)}",
                    _number(found.mean_absolute, 2),
                ]
                for cavity, by in agreement.items()
                for quantity, found in by.items()
            ],
        )
    ]
    lines += ["", *(f"![{c.upper()} EF]({c}_ef.png)" for c, by in agreement.items() if by["ef_percent"].n > 1), ""]
    lines += ["## By pathology", "", _by_group(results), "", "Both phases together, mean over frames.", ""]
    lines += ["## By level", "", _by_level(results), ""]
    lines += ["Thirds of the reference's heart and slices beyond it; Dice of all pixels of a level together.", ""]
    lines += ["## Degenerated slices", ""]
    lines += [
        f"{sum(slices['degenerated']) + slices['beyond']} slices in {slices['frames']} of {len(results)} frames fail "
        f"the calibrated criteria, {slices['beyond']} of them beyond the reference's base or apex; "
        f"{slices['worse_than_reference']} where the expert's own slice passes. {slices['reference']} of the experts' "
        f"slices fail them. By the criteria as printed in the paper {slices['naive']} slices fail.",
        "",
        "![Degenerated slices by level](degenerated_slices.png)",
        "",
        f"{sum(r.pieces for r in results)} structures are in more than one piece, and in "
        f"{sum(r.open_rings for r in results)} slices the LV touches background or the RV (the experts': "
        f"{sum(r.reference_open_rings for r in results)}).",
        "",
        "## Worst frames",
        "",
        table(
            ["Case", "Group", "Phase", *(f"Dice {cell.upper()}" for cell in ("rv", "myo", "lv")), "degenerated slices"],
            [
                [r.case, r.group, r.phase, *(_number(a.dice, 3) for a in r.agreements), str(len(r.degenerated))]
                for r in worst_first(results)[:_WORST_SHOWN]
            ],
        ),
        "",
        "Where overlays are drawn, `overlays/` has all frames, worst first.",
        "",
    ]
    return "\n".join(lines)


def _by_group(results: Sequence[FrameResult]) -> str:
    cells = group_cells(results)
    head = ["Group", "frames", *(f"{what} {s.key.upper()}" for what in ("Dice", "d_H (mm)") for s in STRUCTURES)]
    rows = []
    for group in dict.fromkeys(cell.group for cell in cells):
        own = [cell for cell in cells if cell.group == group]
        means = [_number(c.dice.mean, 3) for c in own] + [_number(c.hausdorff_mm.mean, 1) for c in own]
        rows.append([group or "unknown", str(sum(r.group == group for r in results)), *means])
    return table(head, rows)


def _by_level(results: Sequence[FrameResult]) -> str:
    cells = level_cells(results)
    head = ["Level", *(f"{what} {s.key.upper()}" for what in ("Dice", "slices") for s in STRUCTURES)]
    rows = []
    for level in dict.fromkeys(cell.level for cell in cells):
        own = [cell for cell in cells if cell.level == level]
        rows.append([level, *(_number(c.dice, 3) for c in own), *(str(c.slices) for c in own)])
    return table(head, rows)


def _frame_rows(results: Sequence[FrameResult]) -> list[dict[str, Any]]:
    return [
        {"case": r.case, "patient": r.patient, "group": r.group, "phase": r.phase, **asdict(agreement)}
        for r in worst_first(results)
        for agreement in r.agreements
    ]


def _slice_rows(results: Sequence[FrameResult]) -> list[dict[str, Any]]:
    return [
        {
            "case": r.case,
            "slice": finding.index,
            "level": finding.level,
            "reasons": "; ".join(finding.reasons),
            "reference_too": finding.reference_too,
        }
        for r in worst_first(results)
        for finding in r.degenerated
    ]


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with staged(path) as target, target.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()} for r in rows)


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    return "undefined" if math.isnan(value) else f"{value:{'+' if sign else ''}.{digits}f}"


def _mean_sd(mean: float, sd: float, digits: int) -> str:
    return _number(mean, digits) + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}")

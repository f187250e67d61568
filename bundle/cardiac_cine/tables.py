"""The table over all studies: one row each, numbers as they are, for a spreadsheet or pandas."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cardiac_cine.files import write_text
from cardiac_cine.measurements import CURVES, Measurements

# One number for each of these measurements; curves and wall segments stay in the JSON files.
NUMBERS = tuple(
    field.name for field in fields(Measurements) if field.name not in CURVES and not field.name.startswith("wall_")
)
COLUMNS = ("case", "status", "flags", "reasons", *NUMBERS, "lv_ef_category", "report", "source")


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write ``measurements.csv``, whole or not at all.

    Args:
        rows: one for each study: "case", "status", "quality_flags" with code and reason, "reasons" of a failure, and
            the keys of its measurements. What is missing or None becomes an empty cell.
        path: the file.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flags = row.get("quality_flags", ())
        reasons = [*row.get("reasons", ()), *(flag["reason"] for flag in flags)]
        codes = "; ".join(flag["code"] for flag in flags)
        writer.writerow({**row, "flags": _cell(codes), "reasons": _cell(" ".join(reasons)), "case": _cell(row["case"])})
    write_text(text.getvalue(), path)


def _cell(text: str) -> str:
    """Keep a spreadsheet from taking text out of a file's header for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

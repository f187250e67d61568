"""Hold expert masks against the anatomical criteria: how many slices and frames pass, naively and calibrated."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli

if TYPE_CHECKING:
    from cardiac_cine.images import Frame

PATTERN = "*_gt.nii.gz"


def calibrate(source: str, output_dir: str = "criteria") -> None:
    """Write OUTPUT_DIR/criteria.txt and criteria.json for the expert masks below SOURCE, and print the text.

    They tell how many slices and frames pass the 16 criteria for degenerated slices, with the tolerances as printed in
    the paper (naive) and with those calibrated on experts; for each criterion what the experts' masks measure and how
    many slices fail; and which slices still fail when calibrated. Also how many stacks begin at the base of the heart.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        source: folder searched for *_gt.nii.gz, at any depth: 3D masks, 0 background, 1 RV, 2 myocardium, 3 LV.
        output_dir: folder for the two files.
    """
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json, write_text

    folder, out = Path(source), Path(output_dir)
    paths = sorted(folder.rglob(PATTERN))
    if not paths:
        raise InputError(f"{source}: no {PATTERN} below it, expected a folder of expert masks")
    result = {"source": source, **_measure(folder, paths)}
    text = "\n".join(_lines(result))
    write_text(text + "\n", out / "criteria.txt")
    write_json(result, out / "criteria.json")
    print(text)
    print(f"written: {out / 'criteria.txt'} and {out / 'criteria.json'}")


def _frames(paths: list[Path]) -> "Iterator[Frame]":
    from tqdm import tqdm

    from cardiac_cine.errors import InputError
    from cardiac_cine.images import read_label

    problems: list[str] = []
    for path in tqdm(paths, desc="measuring", unit="frame", disable=None):
        try:
            yield read_label(path)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems, f"unusable masks among {len(paths)}:")


def _measure(folder: Path, paths: list[Path]) -> dict[str, Any]:
    import dataclasses
    import math

    import numpy as np

    from cardiac_cine.anatomy import CALIBRATED, NAIVE, Criterion, slice_measures
    from cardiac_cine.levels import base_is_first, slice_levels

    tolerances = {"naive": NAIVE, "calibrated": CALIBRATED}
    slices = []
    ends = {True: "base", False: "apex", None: "undecided"}
    slice_0_is = dict.fromkeys(ends.values(), 0)
    for frame in _frames(paths):
        mask = frame.array
        case = frame.path.relative_to(folder).as_posix().removesuffix(PATTERN[1:])
        slice_0_is[ends[base_is_first(mask)]] += 1
        levels = slice_levels(mask)
        for z in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
            level = None if math.isnan(levels[z]) else float(levels[z])
            slices.append((case, z, level, slice_measures(mask[..., z], frame.spacing_mm[:2])))

    criteria: dict[str, Any] = {}
    for criterion in Criterion:
        values = np.array([measures[criterion] for *_, measures in slices])
        known = np.sort(values[~np.isnan(values)])
        if criterion.tolerance == "min_circularity":
            known = known[::-1]
        criteria[criterion.name] = {
            "reason": criterion.reason,
            "unit": criterion.tolerance.rpartition("_")[2].replace("circularity", ""),
            "slices_measured": len(known),
            "not_zero": int(np.count_nonzero(known)),
            "worst_percent": float(known[int(0.99 * (len(known) - 1))]) if len(known) else None,
            "worst": float(known[-1]) if len(known) else None,
        }
    result: dict[str, Any] = {
        "frames": len(paths),
        "slices": len(slices),
        "slice_0_is": slice_0_is,
        "criteria": criteria,
    }
    for name, tolerance in tolerances.items():
        rejected: list[dict[str, Any]] = []
        for case, z, level, measures in slices:
            failed = {c.name: measures[c] for c in Criterion if c.fails(measures[c], tolerance)}
            if failed:
                rejected.append({"case": case, "slice": z, "level": level, "measures": failed})
        for criterion in Criterion:
            criteria[criterion.name][name] = {
                "tolerance": getattr(tolerance, criterion.tolerance),
                "slices_failed": sum(criterion.name in entry["measures"] for entry in rejected),
            }
        result[name] = {
            "tolerances": dataclasses.asdict(tolerance),
            "slices_accepted": len(slices) - len(rejected),
            "frames_accepted": len(paths) - len({entry["case"] for entry in rejected}),
            "rejected": rejected,
        }
    return result


def _lines(result: dict[str, Any]) -> Iterator[str]:
    naive, calibrated = result["naive"], result["calibrated"]
    yield f"{result['source']}: {result['frames']} frames, {result['slices']} slices with any label"
    ends = ", ".join(f"{count} {end}" for end, count in result["slice_0_is"].items())
    yield f"slice 0 is at the: {ends}"
    yield ""
    yield f"{'accepted':44}{'naive':>18}{'calibrated':>18}"
    for unit in ("slices", "frames"):
        shares = [entry[f"{unit}_accepted"] for entry in (naive, calibrated)]
        yield f"{unit:44}" + "".join(f"{n:9} {100 * n / max(result[unit], 1):6.1f} %" for n in shares)
    yield ""
    yield f"{'':50}{'experts measure':^28}{'naive':^18}{'calibrated':^18}"
    columns = f"{'not 0':>9}{'worst 1 %':>10}{'worst':>9}" + 2 * f"{'limit':>9}{'failed':>9}"
    yield f"{'criterion':50}{columns}"
    for entry in result["criteria"].values():
        label = f"{entry['reason']}, {entry['unit']}".removesuffix(", ")
        experts = "".join(
            f"{'-' if value is None else format(value, '.2f'):>{width}}"
            for value, width in ((entry["worst_percent"], 10), (entry["worst"], 9))
        )
        limits = "".join(
            f"{entry[name]['tolerance']:9.1f}{entry[name]['slices_failed']:9}" for name in ("naive", "calibrated")
        )
        yield f"{label:50}{entry['not_zero']:9}{experts}{limits}"
    yield ""
    yield f"rejected when calibrated: {len(calibrated['rejected'])} slices, counted from 0; level 0 base, 1 apex"
    for entry in calibrated["rejected"]:
        level = "unknown" if entry["level"] is None else f"{entry['level']:.2f}"
        reasons = "; ".join(
            f"{result['criteria'][name]['reason']} ({value:.2f} {result['criteria'][name]['unit']}".rstrip() + ")"
            for name, value in entry["measures"].items()
        )
        yield f"- {entry['case']} slice {entry['slice']}, level {level}: {reasons}"


if __name__ == "__main__":
    sys.exit(cli.main(calibrate, "calibrate_criteria.py"))

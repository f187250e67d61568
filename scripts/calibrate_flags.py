"""Hold expert masks against the quality flags: how many patients raise each, and what the limits are set on."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli

if TYPE_CHECKING:
    import numpy as np

    from cardiac_cine.cases import Case
    from cardiac_cine.cine import Cine
    from cardiac_cine.measurements import Measurements

PERCENTILES = (0, 5, 50, 95, 100)
# What two frames of a whole cine cannot show, and would raise for every patient.
NOT_COUNTED = {"few_phases": "the datalist has two frames of each cine"}
# Of a slice, in one direction; only one of ACDC's expert masks holds a larger one.
SHIFT_MM = 15.0
# Fewer leave nothing of the heart once three are cut off.
MIN_LV_SLICES = 6


def calibrate(dataset_dir: str, output_dir: str = "flags") -> None:
    """Write OUTPUT_DIR/flags.txt and flags.json for the expert masks of DATASET_DIR, and print the text.

    Each patient's masks at end-diastole and end-systole are taken for a cine of two phases. The table tells how many
    patients raise each quality flag and which, what the measures behind the limits are, and how many patients raise the
    right flag once their masks are spoilt. Checks that need the whole cycle (ragged volume curves, flickering slices)
    have nothing to judge here.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: a raw ACDC root, or a folder that prepare_dataset.py wrote.
        output_dir: folder for the two files.
    """
    from dataclasses import replace

    from tqdm import tqdm

    from cardiac_cine.datasets import open_datalist
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json, write_text
    from cardiac_cine.measurements import measure
    from cardiac_cine.quality import quality_flags

    patients: dict[str, dict[str, Case]] = {}
    for case in open_datalist(dataset_dir).cases:
        patients.setdefault(case.patient, {})[case.phase] = case
    raised: dict[str, dict[str, list[str]]] = {}
    noticed: dict[str, dict[str, bool]] = {}
    measures: dict[str, dict[str, float]] = {}
    problems: list[str] = []
    for patient, frames in tqdm(patients.items(), desc="measuring", unit="patient", disable=None):
        try:
            cine = _two_phases(patient, frames)
        except InputError as error:
            problems += error.problems
            continue
        result = measure(cine.array, cine.affine, ed_frame=0, es_frame=1)
        measures[patient] = {name: of(cine, result) for name, of in _measures().items()}
        raised[patient] = {}
        for flag in quality_flags(cine.array, cine, result):
            if flag.code not in NOT_COUNTED:
                raised[patient].setdefault(flag.code, []).append(flag.reason)
        for name, code, masks in _spoilt(cine):
            found = measure(masks, cine.affine, ed_frame=0, es_frame=1)
            codes = {flag.code for flag in quality_flags(masks, replace(cine, array=masks), found)}
            noticed.setdefault(f"{name}: {code}", {})[patient] = code in codes
    if problems:
        raise InputError(problems, f"{dataset_dir}: unusable masks:")
    table = {"dataset_dir": dataset_dir, **_table(raised, measures), "spoilt": noticed}
    text = "\n".join(_lines(table))
    out = Path(output_dir)
    write_text(text + "\n", out / "flags.txt")
    write_json(table, out / "flags.json")
    print(text)
    print(f"written: {out / 'flags.txt'} and {out / 'flags.json'}")


def _two_phases(patient: str, frames: "dict[str, Case]") -> "Cine":
    """Return a patient's masks at end-diastole and end-systole as if they were a cine."""
    import numpy as np

    from cardiac_cine.cases import PHASES
    from cardiac_cine.cine import Cine
    from cardiac_cine.errors import InputError
    from cardiac_cine.images import check_pair, read_label
    from cardiac_cine.levels import base_is_first

    missing = [phase for phase in PHASES if phase not in frames]
    if missing:
        raise InputError(f"{patient}: no frame at {' and '.join(missing)}, expected {' and '.join(PHASES)}")
    ed, es = (read_label(frames[phase].label) for phase in PHASES)
    check_pair(ed, es)
    # From base to apex, for the cuts to come; no measure depends on it.
    order = slice(None, None, -1) if base_is_first(ed.array) is False else slice(None)
    return Cine(patient, ed.path.parent, np.stack([ed.array, es.array], axis=-1)[:, :, order], ed.affine)


def _spoilt(cine: "Cine") -> "Iterator[tuple[str, str, np.ndarray]]":
    """Yield what was done to the masks, the code of the flag that should notice, and the spoilt masks."""
    import numpy as np

    from cardiac_cine.labels import BACKGROUND, LV, RV

    masks = cine.array
    lv = np.flatnonzero((masks[..., 0] == LV).any(axis=(0, 1))).tolist()
    rv = np.flatnonzero((masks[..., 1] == RV).any(axis=(0, 1))).tolist()
    if len(lv) < MIN_LV_SLICES:
        return
    yield "three basal slices cut off", "missing_base", masks[:, :, lv[3] :]
    yield "two apical slices cut off", "missing_apex", masks[:, :, : lv[-2]]
    middle = lv[len(lv) // 2]
    shifted = masks.copy()
    shifted[:, :, middle] = np.roll(masks[:, :, middle], round(SHIFT_MM / cine.spacing_mm[0]), axis=0)
    yield f"a slice shifted by {SHIFT_MM:g} mm", "slice_motion", shifted
    holed = masks.copy()
    x, y = np.argwhere(masks[:, :, middle, 0] == LV).mean(axis=0).round().astype(int)
    holed[x, y, middle, 0] = BACKGROUND
    yield "a pixel of the LV erased", "implausible_slices", holed
    if len(rv) > 2:
        gapped = masks.copy()
        slice_at_es = gapped[:, :, rv[len(rv) // 2], 1]
        slice_at_es[slice_at_es == RV] = BACKGROUND
        yield "the RV of a slice erased", "missing_between_slices", gapped


def _measures() -> "dict[str, Callable[[Cine, Measurements], float]]":
    """Return what the limits are set on, by name."""
    import math

    from cardiac_cine import consistency

    def ed(cine: "Cine") -> "tuple[np.ndarray, tuple[float, float, float]]":
        return cine.array[..., 0], cine.spacing_mm

    def covered(name: str) -> "Callable[[Cine, Measurements], float]":
        return lambda cine, _: getattr(consistency.coverage(*ed(cine)), name, math.nan)

    return {
        "lv_ef_percent": lambda _, result: result.lv_ef_percent,
        "rv_ef_percent": lambda _, result: result.rv_ef_percent,
        "basal_share": covered("basal_share"),
        "length_to_width": covered("length_to_width"),
        "apical_share": covered("apical_share"),
        "myo_change": lambda _, result: consistency.difference_share(*result.myo_volume_ml),
        "sv_mismatch": lambda _, result: consistency.difference_share(result.lv_sv_ml, result.rv_sv_ml),
        "shift_mm": lambda cine, _: getattr(consistency.largest_shift(*ed(cine)), "mm", math.nan),
    }


def _table(raised: dict[str, dict[str, list[str]]], measures: dict[str, dict[str, float]]) -> dict[str, Any]:
    import numpy as np

    from cardiac_cine.quality import CODES

    spread: dict[str, dict[str, float | None]] = {}
    for name in _measures():
        values = np.array([entry[name] for entry in measures.values()])
        known = values[np.isfinite(values)]
        spread[name] = {str(p): float(np.percentile(known, p)) if known.size else None for p in PERCENTILES}
        spread[name]["undefined"] = len(values) - len(known)
    return {
        "patients": len(raised),
        "without_flags": sum(not flags for flags in raised.values()),
        "not_counted": NOT_COUNTED,
        "flags": {
            code: [patient for patient, flags in raised.items() if code in flags]
            for code in CODES
            if code not in NOT_COUNTED
        },
        "measures": spread,
        "reasons": {patient: flags for patient, flags in raised.items() if flags},
    }


def _lines(table: dict[str, Any]) -> Iterator[str]:
    total = table["patients"]
    yield f"{table['dataset_dir']}: {total} patients, {table['without_flags']} without a flag"
    yield ""
    yield f"{'flag':28}{'patients':>9}{'share':>9}"
    for code, patients in table["flags"].items():
        yield f"{code:28}{len(patients):9}{100 * len(patients) / total:7.1f} %"
    for code, why in table["not_counted"].items():
        yield f"{code:28}{'-':>9}  not counted: {why}"
    yield ""
    yield f"{'spoilt masks: flag that should notice':58}{'patients':>9}{'noticed':>9}"
    for name, patients in table["spoilt"].items():
        yield f"{name:58}{len(patients):9}{100 * sum(patients.values()) / len(patients):7.1f} %"
    yield ""
    yield f"{'measure, percentiles':24}" + "".join(f"{p:>9}" for p in PERCENTILES) + f"{'undefined':>11}"
    for name, spread in table["measures"].items():
        values = (spread[str(p)] for p in PERCENTILES)
        cells = "".join(f"{'-' if value is None else format(value, '.2f'):>9}" for value in values)
        yield f"{name:24}{cells}{spread['undefined']:11}"
    yield ""
    for patient, flags in table["reasons"].items():
        for code, reasons in flags.items():
            for reason in reasons:
                yield f"- {patient} {code}: {reason}"


if __name__ == "__main__":
    sys.exit(cli.main(calibrate, "calibrate_flags.py"))

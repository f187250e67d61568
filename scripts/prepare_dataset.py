"""Write the datalist that training and evaluation read. Images and labels stay where they are."""

import sys
from dataclasses import replace
from pathlib import Path

import cli


def acdc(source: str, out: str) -> int:
    """Write OUT/dataset.json for the ACDC training split below SOURCE.

    Every frame and reference is read and checked first. A patient with a bad file is left out and listed, the others
    are written all the same.

    Exit codes: 0 all patients are written, 1 wrong input (some of it may be written), 2 failed or interrupted.

    Args:
        source: the folder that holds training/patientXXX, or training itself.
        out: folder for dataset.json and for skipped.json, the list of what was left out.
    """
    from tqdm import tqdm

    from cardiac_cine import cases
    from cardiac_cine.datasets import acdc as adapter
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import check_writable, write_json

    folder = Path(out)
    check_writable(folder, "out")
    datalist, problems = adapter.scan(Path(source))
    by_patient: dict[str, list[cases.Case]] = {}
    for case in datalist.cases:
        by_patient.setdefault(case.patient, []).append(case)
    bad = set()
    for patient, frames in tqdm(by_patient.items(), desc="checking", unit="patient", disable=None):
        for found in cases.problems_of(frames).values():
            problems += found
            bad.add(patient)
    good = tuple(case for case in datalist.cases if case.patient not in bad)
    if not good:
        raise InputError(problems, f"{source}: no patient is usable")
    splits = {name: tuple(p for p in listed if p not in bad) for name, listed in datalist.splits.items()}
    written = replace(datalist, cases=good, splits=splits)
    path = cases.write(written, folder, Path(source))
    write_json(problems, path.with_name("skipped.json"))
    print(f"{path}: {len(good)} frames of {len({case.patient for case in good})} patients")
    for name in written.split_names():
        try:
            sizes = {side: len({case.patient for case in written.section(name, side)}) for side in cases.SECTIONS}
            print(f"  split {name}: {sizes['training']} patients train, {sizes['validation']} validate")
        except InputError as error:  # a few patients do not fill all splits, and the others are usable
            print(f"  split {name}: not usable, {error}")
    if problems:
        print(f"left out, {len(problems)} problems:", *problems, sep="\n- ", file=sys.stderr)
    return cli.WRONG_INPUT if problems else cli.DONE


if __name__ == "__main__":
    sys.exit(cli.main({"acdc": acdc}, "prepare_dataset.py"))

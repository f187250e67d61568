"""Write the datalist that training and evaluation read. Images and labels stay where they are."""

import json
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import fire
from fire.parser import DefaultParseValue

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

DONE, WRONG_INPUT, FAILED = range(3)


@dataclass(frozen=True)
class Acdc:
    """The command line, parsed."""

    source: Path
    out: Path


def acdc(source: str, out: str) -> Acdc:
    """Write OUT/dataset.json for the ACDC training split below SOURCE.

    Every frame and reference is read and checked first. A patient with a bad file is left out and listed, the others
    are written all the same, and the exit code is 1.

    Exit codes: 0 all patients are written, 1 wrong input (some of it may be written), 2 failed or interrupted.

    Args:
        source: the folder that holds training/patientXXX, or training itself.
        out: folder for dataset.json and for skipped.json, the list of what was left out.
    """
    return Acdc(Path(source), Path(out))


def prepare(job: Acdc) -> int:
    """Check all patients, write the good ones and return the exit code.

    Raises:
        InputError: no patient is usable, or ``out`` is no folder.
    """
    from tqdm import tqdm

    from cardiac_cine import cases
    from cardiac_cine.datasets import acdc as adapter
    from cardiac_cine.errors import InputError

    if job.out.exists() and not job.out.is_dir():
        raise InputError(f"{job.out}: not a folder, expected one to write to")
    datalist, problems = adapter.scan(job.source)
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
        raise InputError(problems, f"{job.source}: no patient is usable")
    splits = {name: tuple(p for p in listed if p not in bad) for name, listed in datalist.splits.items()}
    written = replace(datalist, cases=good, splits=splits)
    path = cases.write(written, job.out, job.source)
    staged = path.with_name(".skipped.json.tmp")
    staged.write_text(json.dumps(problems, indent=1))
    staged.replace(path.with_name("skipped.json"))
    print(f"{path}: {len(good)} frames of {len({case.patient for case in good})} patients")
    for name in written.split_names():
        try:
            sizes = {side: len({case.patient for case in written.section(name, side)}) for side in cases.SECTIONS}
            print(f"  split {name}: {sizes['training']} patients train, {sizes['validation']} validate")
        except InputError as error:  # a few patients do not fill all splits, and the others are usable
            print(f"  split {name}: not usable, {error}")
    if problems:
        print(f"left out, {len(problems)} problems:", *problems, sep="\n- ", file=sys.stderr)
        return WRONG_INPUT
    return DONE


def _literal(argument: str) -> str:
    """Quote a value, so that Fire does not read a folder named 2024_01 as the number 202401."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return argument if DefaultParseValue(value) == value else f"{flag}{equals}{value!r}"


def main() -> int:
    """Parse the command line, run it and return the exit code."""
    # Fire only parses: it complains about a superfluous argument after the call, and nothing may be written by then.
    command = [_literal(argument) for argument in sys.argv[1:] or ["--help"]]
    job = fire.Fire({"acdc": acdc}, command=command, name="prepare_dataset.py", serialize=lambda _: None)
    from cardiac_cine.errors import InputError

    try:
        return prepare(job)
    except InputError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except Exception:  # any other error means the exit code of failure, which is not Python's own
        traceback.print_exc()
    return FAILED


if __name__ == "__main__":
    sys.exit(main())

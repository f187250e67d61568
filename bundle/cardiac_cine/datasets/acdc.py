"""The Automated Cardiac Diagnosis Challenge (ACDC), training split.

Source: O. Bernard et al., "Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and
Diagnosis: Is the Problem Solved?", IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502. Licence CC BY-NC-SA 4.0.

Layout: ``training/patientXXX/`` with ``Info.cfg`` and, for the frames at end-diastole and end-systole,
``patientXXX_frameYY.nii.gz`` and ``patientXXX_frameYY_gt.nii.gz``; some copies add ``patientXXX_4d.nii.gz``.

- Labels: 0 background, 1 RV cavity, 2 LV myocardium, 3 LV cavity, the ids used here. Papillary muscles and
  trabeculae count to the cavities; the infundibulum is left out.
- Frame numbers count from 1. ``Info.cfg`` has ED, ES, NbFrame, Group (NOR, MINF, DCM, HCM, RV), Height in cm and
  Weight in kg.
- Spacing: 0.70-1.95 mm in plane, slices 5-10 mm apart, 6-21 slices. The files' sform has unit scales: the true
  spacing stands in pixdim.
- patient055 is the scan of a patient of the testing split, so it never trains. patient074 and patient076 are one scan
  with two references, so they share a fold.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cardiac_cine.cases import NUM_FOLDS, Case, Datalist
from cardiac_cine.errors import InputError

GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
LICENCE = "CC BY-NC-SA 4.0"
REFERENCE = "Bernard et al., IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502"
EXCLUDED = {"patient055": "the same scan as a patient of the testing split"}
SAME_SCAN = {"patient076": "patient074"}
# The tutorial lets every fifth patient validate, as fold 0 does.
TUTORIAL_SPLIT = "tutorial"
# Trains on all who may train and validates on those who may not; without any of those there is no such split.
ALL_SPLIT = "all"
_GROUP = re.compile(r"^Group:\s*(\S+)", re.MULTILINE)


def is_acdc(root: Path) -> bool:
    """Say whether ``root`` is an ACDC root or its training folder."""
    return next(_training_dir(root).glob("patient*/Info.cfg"), None) is not None


def scan(root: Path) -> tuple[Datalist, list[str]]:
    """List the frames of an ACDC root.

    Args:
        root: the folder that holds ``training``, or ``training`` itself. A testing split beside it is not looked at.

    Returns:
        The datalist of all complete patients, and what is wrong with those that had to be left out: an ``Info.cfg``
        that lacks or mistypes an entry or names one frame twice, frames or references that are missing.

    Raises:
        InputError: no patient is complete.
    """
    cases: list[Case] = []
    problems: list[str] = []
    for folder in sorted(path for path in _training_dir(root).glob("patient*") if path.is_dir()):
        try:
            cases += _patient(folder)
        except InputError as error:
            problems += error.problems
    if not cases:
        expected = f"{root}: expected an ACDC root with training/patientXXX/Info.cfg and frames below it"
        raise InputError([expected, *problems])
    patients = sorted({case.patient for case in cases})
    folds = assign_folds(patients)
    validating = tuple(patient for patient in patients if folds[patient] == 0)
    excluded = tuple(patient for patient in patients if patient in EXCLUDED)
    datalist = Datalist(
        name="ACDC",
        cases=tuple(replace(case, fold=folds[case.patient]) for case in cases),
        splits={TUTORIAL_SPLIT: validating, **({ALL_SPLIT: excluded} if excluded else {})},
        licence=LICENCE,
        reference=REFERENCE,
    )
    return datalist, problems


def assign_folds(patients: Sequence[str]) -> dict[str, int]:
    """Assign each patient a validation fold by the number in the id, whichever other patients there are.

    ACDC numbers its patients by pathology group, so each fold has its share of every group. Fold 0 validates on the
    patients of the tutorial's split: 5, 10, ... 100.

    Args:
        patients: sorted patient ids. One that does not end in a number counts by its place among them.

    Returns:
        Patient to fold, 0 to 4. Patients who are one scan share the fold of the first.
    """

    def number(patient: str, place: int) -> int:
        digits = re.search(r"\d+$", SAME_SCAN.get(patient, patient))
        return int(digits.group()) if digits else place

    return {patient: number(patient, place) % NUM_FOLDS for place, patient in enumerate(patients, start=1)}


def group_of(folder: Path) -> str:
    """Return the pathology group that a patient's ``Info.cfg`` names, "" where there is none."""
    path = folder / "Info.cfg"
    found = _GROUP.search(path.read_text(errors="replace")) if path.is_file() else None
    return found[1] if found else ""


def _training_dir(root: Path) -> Path:
    return root / "training" if (root / "training").is_dir() else root


def _patient(folder: Path) -> list[Case]:
    info = _info(folder / "Info.cfg")
    patient = folder.name
    cases = []
    problems = []
    for phase in ("ED", "ES"):
        number = int(info[phase])
        image = _nifti(folder / f"{patient}_frame{number:02d}")
        label = _nifti(folder / f"{patient}_frame{number:02d}_gt")
        problems += [f"{path}: no such file, named by Info.cfg" for path in (image, label) if not path.is_file()]
        cases.append(
            Case(
                patient=patient,
                phase=phase,
                image=image,
                label=label,
                group=info.get("Group", ""),
                height_cm=float(info.get("Height", math.nan)),
                weight_kg=float(info.get("Weight", math.nan)),
                frame_number=number,
                num_frames=int(info.get("NbFrame", 0)),
                excluded_from_training=EXCLUDED.get(patient, ""),
            )
        )
    if problems:
        raise InputError(problems)
    return cases


def _nifti(stem: Path) -> Path:
    plain = stem.with_name(stem.name + ".nii")
    return plain if plain.is_file() else stem.with_name(stem.name + ".nii.gz")


def _info(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}), expected lines such as 'ED: 1'") from None
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip()}
    problems = []
    for key, kind in {"ED": int, "ES": int, "NbFrame": int, "Height": float, "Weight": float}.items():
        required = key in ("ED", "ES")
        if required and key not in info:
            problems.append(f"{path}: no line {key!r}, expected the frame's number counted from 1")
        elif key in info:
            try:
                kind(info[key])
            except ValueError:
                problems.append(f"{path}: {key} is {info[key]!r}, expected a number")
    if not problems and int(info["ED"]) == int(info["ES"]):
        problems.append(f"{path}: ED and ES are both frame {info['ED']}, expected two frames")
    if problems:
        raise InputError(problems)
    return info

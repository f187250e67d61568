"""The datalist: which frames there are, whose they are, and who trains and who validates.

A datalist is one JSON file in the style of the Medical Segmentation Decathlon, ``dataset.json``. It names images and
labels where they lie and copies none. Splits are by patient, never by file.
"""

import dataclasses
import json
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardiac_cine.errors import InputError
from cardiac_cine.files import write_json
from cardiac_cine.images import case_name, check_pair, read_frame, read_label
from cardiac_cine.labels import STRUCTURE_IDS, STRUCTURES

FILENAME = "dataset.json"
PHASES = ("ED", "ES")
OTHER_PHASE = ""
SECTIONS = ("training", "validation")
NUM_FOLDS = 5
# What JSON holds for each type of a case's fields.
_IN_JSON: dict[Any, tuple[type, ...]] = {
    str: (str,),
    Path: (str,),
    int: (int,),
    float: (float, int),
    tuple[int, ...]: (list,),
}


@dataclass(frozen=True)
class Case:
    """One labelled frame of one patient.

    Attributes:
        patient: the patient's id; frames of one patient share it.
        phase: "ED" or "ES", "" for any other.
        image: NIfTI file of the frame, (x, y, z).
        label: NIfTI file of its reference mask, on the image's grid.
        group: pathology group, "" where unknown.
        height_cm: NaN where unknown.
        weight_kg: NaN where unknown.
        frame_number: the frame's number in its cine, counted from 1; 0 where unknown.
        num_frames: the cine's number of frames; 0 where unknown.
        fold: the cross-validation fold in which the patient validates, 0 to 4.
        excluded_from_training: why this patient never trains; "" for all others.
        structures: ids of the structures that were drawn; where another one lies, the mask does not say.
        slices: indices along z, from 0, of the slices that were labelled; empty where all were.
    """

    patient: str
    phase: str
    image: Path
    label: Path
    group: str = ""
    height_cm: float = math.nan
    weight_kg: float = math.nan
    frame_number: int = 0
    num_frames: int = 0
    fold: int = 0
    excluded_from_training: str = ""
    structures: tuple[int, ...] = STRUCTURE_IDS
    slices: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the mask says of every voxel what it is."""
        return set(self.structures) == set(STRUCTURE_IDS) and not self.slices

    @property
    def name(self) -> str:
        """The image's file name without its extension."""
        return case_name(self.image)

    def item(self) -> dict[str, Any]:
        """Return the case as the flat dictionary that MONAI's transforms read, paths as text."""
        return {**dataclasses.asdict(self), "image": str(self.image), "label": str(self.label)}


@dataclass(frozen=True)
class Datalist:
    """A dataset's frames and its named splits.

    Attributes:
        name: the dataset's name.
        cases: all frames.
        splits: split name to the patients that validate; all others train.
        licence: terms of the data.
        reference: citation.
    """

    name: str
    cases: tuple[Case, ...]
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    licence: str = ""
    reference: str = ""

    def split_names(self) -> list[str]:
        """Return the named splits, then ``fold0`` to ``fold4``."""
        return [*self.splits, *(f"fold{index}" for index in range(NUM_FOLDS))]

    def section(self, split: str, section: str) -> list[Case]:
        """Return one side of a split.

        Args:
            split: a name out of :meth:`split_names`, or several joined by "+": "fold1+fold2" validates on the patients
                of both.
            section: "training" or "validation".

        Returns:
            The section's cases in the datalist's order. Patients excluded from training never train, in any split, and
            incomplete masks never validate: what they leave open would count as an error of the prediction.

        Raises:
            InputError: there is no such split or section, or the section is empty.
        """
        names = split.split("+")
        for name in names:
            if name not in self.split_names():
                raise InputError(f"{self.name}: no split {name!r}, expected one of {self.split_names()}")
        if section not in SECTIONS:
            raise InputError(f"no section {section!r}, expected one of {SECTIONS}")
        validating = {case.patient for case in self.cases if f"fold{case.fold}" in names}
        validating |= {patient for name in names for patient in self.splits.get(name, ())}
        if section == "validation":
            chosen = [case for case in self.cases if case.patient in validating and case.complete]
        else:
            chosen = [c for c in self.cases if c.patient not in validating and not c.excluded_from_training]
        if not chosen:
            raise InputError(f"{self.name}: the {section} section of split {split!r} is empty")
        return chosen


def stratified(groups: Mapping[str, str], count: int, seed: int) -> tuple[str, ...]:
    """Choose patients at random, from every pathology group about its share.

    Args:
        groups: patient to group, "" where unknown.
        count: how many to choose.
        seed: another one chooses others.

    Returns:
        Sorted patients; all of them where there are no more than ``count``, none for a ``count`` of 0.
    """
    shuffled = random.Random(seed).sample(sorted(groups), len(groups))
    ordered = sorted(shuffled, key=lambda patient: groups[patient])
    chosen = min(count, len(ordered))
    return tuple(sorted(ordered[(2 * index + 1) * len(ordered) // (2 * chosen)] for index in range(chosen)))


def problems_of(cases: Iterable[Case]) -> dict[str, list[str]]:
    """Read every image and label and say what is wrong with them.

    Returns:
        Case name to its problems, only for cases that have any: unreadable files, a wrong number of dimensions, NaN
        or constant voxels, absurd spacing, labels outside 0-3, an image and a label on different grids. Cases of one
        name share an entry.
    """

    def check(case: Case) -> list[str]:
        found: list[str] = []
        frames = []
        for read, path in ((read_frame, case.image), (read_label, case.label)):
            try:
                frames.append(read(path))
            except InputError as error:
                found += error.problems
        if not found:
            try:
                check_pair(*frames)
            except InputError as error:
                found += error.problems
        return found

    cases = list(cases)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        problems: dict[str, list[str]] = {}
        for case, found in zip(cases, pool.map(check, cases), strict=True):
            if found:
                problems.setdefault(case.name, []).extend(found)
    return problems


def validate(cases: Sequence[Case]) -> None:
    """Raise one error that lists all that is wrong with the cases' files.

    Raises:
        InputError: any problem of :func:`problems_of`, or two cases of one name.
    """
    names = [case.name for case in cases]
    doubled = sorted({name for name in names if names.count(name) > 1})
    problems = [f"case {name}: the datalist has more than one image of this name" for name in doubled]
    problems += [problem for found in problems_of(cases).values() for problem in found]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError(problems, f"{count} in the datalist's files:")


def write(datalist: Datalist, out_dir: Path, source: Path) -> Path:
    """Write ``dataset.json``, whole or not at all.

    Args:
        datalist: what to write.
        out_dir: folder to write to, made where missing.
        source: folder that all images lie below; paths are written relative to it, so that moved data need one edit.

    Returns:
        The file written.

    Raises:
        InputError: images or labels that do not lie below ``source``; all of them in one message.
    """
    training = []
    outside = []
    for case in datalist.cases:
        entry = case.item()
        for key in ("image", "label"):
            # Links stay as they are: a folder of links to data elsewhere is a source like any other.
            try:
                entry[key] = Path(entry[key]).absolute().relative_to(source.absolute()).as_posix()
            except ValueError:
                outside.append(f"{entry[key]}: not below {source}, expected all files of the datalist there")
        training.append(entry)
    if outside:
        raise InputError(outside)
    content = {
        "name": datalist.name,
        "licence": datalist.licence,
        "reference": datalist.reference,
        "tensorImageSize": "3D",
        "modality": {"0": "MR"},
        "labels": {"0": "background", **{str(structure.id): structure.key for structure in STRUCTURES}},
        "numTraining": len(training),
        "numTest": 0,
        "source": str(source.resolve()),
        "splits": {name: {"validation": list(patients)} for name, patients in datalist.splits.items()},
        "training": training,
        "test": [],
    }
    path = out_dir / FILENAME
    write_json(content, path)
    return path


def read(path: Path) -> Datalist:
    """Read a ``dataset.json``.

    Args:
        path: the file. A relative ``source`` in it is taken from the file's own folder.

    Raises:
        InputError: the file is missing, is not JSON, or lacks or mistypes an entry; all such entries in one message.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a datalist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}), expected a datalist") from None
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise InputError(f"{path}: expected an object with a list 'training'")
    cases: list[Case] = []
    problems: list[str] = []
    source = content.get("source", ".")
    if not isinstance(source, str):
        problems.append(f"{path}: 'source' is {source!r}, expected a folder")
        source = "."
    for index, entry in enumerate(content["training"]):
        try:
            cases.append(_case(entry, path.parent / source))
        except (TypeError, ValueError) as error:
            problems.append(f"{path}: entry {index} of 'training': {error}")
    listed = content.get("splits", {})
    if not isinstance(listed, dict):
        problems.append(f"{path}: 'splits' is {listed!r}, expected an object")
        listed = {}
    for name, split in listed.items():
        if not isinstance(split, dict) or not isinstance(split.get("validation"), list):
            problems.append(f"{path}: split {name!r} is {split!r}, expected an object with a list 'validation'")
            continue
        unknown = [patient for patient in split["validation"] if patient not in {case.patient for case in cases}]
        if unknown:
            problems.append(f"{path}: split {name!r} names patients that have no entry: {unknown}")
    if problems:
        raise InputError(problems, f"{len(problems)} unusable entries:")
    return Datalist(
        name=content.get("name", path.parent.name),
        cases=tuple(cases),
        splits={name: tuple(split["validation"]) for name, split in listed.items()},
        licence=content.get("licence", ""),
        reference=content.get("reference", ""),
    )


def _case(entry: dict[str, Any], source: Path) -> Case:
    if not isinstance(entry, dict):
        raise TypeError(f"expected an object, got {entry!r}")
    known = {item.name for item in dataclasses.fields(Case)}
    values = {key: value for key, value in entry.items() if key in known and value is not None}
    missing = sorted({"patient", "phase", "image", "label"} - values.keys())
    if missing:
        raise ValueError(f"lacks {missing}")
    for item in dataclasses.fields(Case):
        kinds = _IN_JSON[item.type]
        if not isinstance(values.get(item.name, kinds[0]()), kinds):
            raise TypeError(f"{item.name} is {values[item.name]!r}, expected {kinds[0].__name__}")
    if values["phase"] not in (*PHASES, OTHER_PHASE):
        raise ValueError(f"phase {values['phase']!r}, expected one of {(*PHASES, OTHER_PHASE)}")
    if values.get("fold", 0) not in range(NUM_FOLDS):
        raise ValueError(f"fold {values['fold']!r}, expected 0 to {NUM_FOLDS - 1}")
    for key in ("structures", "slices"):
        values[key] = tuple(values.get(key, getattr(Case, key)))
        if not all(type(number) is int and number >= 0 for number in values[key]):
            raise ValueError(f"{key} {list(values[key])}, expected numbers from 0")
    if not set(values["structures"]) <= set(STRUCTURE_IDS):
        raise ValueError(f"structures {list(values['structures'])}, expected only {list(STRUCTURE_IDS)}")
    for key in ("image", "label"):
        values[key] = source / values[key]
    return Case(**values)

"""Short-axis cines in a folder of DICOM files, one for each study that has one.

Reads classic and Enhanced MR images of any vendor, at any depth and under any names. :mod:`.dicom_headers` reads the
headers, :mod:`.dicom_select` says which images of a study are its short-axis cine, :mod:`.dicom_stack` puts them in
order, :mod:`.dicom_pixels` decodes them. Out of scope: real-time cines, cines whose phases are series of their own, and
mosaics.

Arrays are (x, y, z, t): x along the columns, y along the rows, z ascending along the slices' normal, phases in the
order of the time after the R wave. DICOM's axes (left, posterior, superior) become NIfTI's (right, anterior, superior).
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cardiac_cine.cine import Cine, Instance
from cardiac_cine.datasets import dicom_headers, dicom_pixels, dicom_select, dicom_stack
from cardiac_cine.datasets.dicom_errors import quiet_pydicom
from cardiac_cine.datasets.dicom_headers import Header, Plane
from cardiac_cine.errors import InputError

# Names of files stay portable and readable.
_MAX_NAME = 64
_LISTED = 5


@dataclass(frozen=True)
class LeftOut:
    """A series that is not the short-axis cine of its study.

    Attributes:
        source: the study's folder.
        series: number and description.
        reason: in a few words.
    """

    source: Path
    series: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: series {self.series}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Stack:
    """The short-axis cine of one study, its pixels still in the files.

    Attributes:
        name: safe as a file's name: the patient's id, with the study's date where a patient has several studies.
        source: the folder that holds its files.
        grid: its images in order.
    """

    name: str
    source: Path
    grid: dicom_stack.Grid

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is made of, each once."""
        return tuple(dict.fromkeys(plane.header.path for row in self.grid.planes for plane in row))

    @property
    def header(self) -> Header:
        """The header of its first image."""
        return self.grid.planes[0][0].header

    def read(self) -> Cine:
        """Read the pixels.

        Returns:
            The cine; int16 or uint16 where the rescaled values are such integers, float32 otherwise. Besides the
            array only one image is held at a time.

        Raises:
            InputError: files that are missing, truncated or corrupted, or encoded in a way that no installed decoder
                reads; all of them at once.
        """
        slices, phases = len(self.grid.planes), len(self.grid.planes[0])
        by_file: dict[Path, list[tuple[Plane, int, int]]] = defaultdict(list)
        for z, t in np.ndindex(slices, phases):
            plane = self.grid.planes[z][t]
            by_file[plane.header.path].append((plane, z, t))
        dtype = dicom_pixels.dtype_of([plane for row in self.grid.planes for plane in row])
        array = np.empty((*self.header.size, slices, phases), dtype)
        problems: list[str] = []
        with quiet_pydicom():
            for places in by_file.values():
                try:
                    images = dicom_pixels.read([plane for plane, _, _ in places])
                    for (_, z, t), values in zip(places, images, strict=True):
                        array[:, :, z, t] = values
                except InputError as error:
                    problems += error.problems
        if problems:
            more = [f"... and {len(problems) - _LISTED} more files"] if len(problems) > _LISTED else []
            raise InputError(problems[:_LISTED] + more)
        return replace(self.outline(), array=array)

    def outline(self) -> Cine:
        """Return the cine as :meth:`read` does, but with voxels that are all 0, and without opening a file."""
        header, planes = self.header, self.grid.planes
        return Cine(
            name=self.name,
            source=self.source,
            array=np.broadcast_to(np.int16(0), (*header.size, len(planes), len(planes[0]))),
            affine=self.grid.affine,
            times_ms=self.grid.times_ms,
            rr_ms=self.grid.rr_ms,
            patient=header.patient,
            about=_about(header),
            instances=tuple(tuple(map(_instance, row)) for row in planes),
            remarks=self.grid.remarks,
        )


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        stacks: one short-axis cine for each study that has a usable one.
        left_out: the other series.
        problems: files and folders that cannot be read and studies that cannot be used, one sentence each.
    """

    stacks: tuple[Stack, ...]
    left_out: tuple[LeftOut, ...]
    problems: tuple[str, ...]


def scan(path: Path) -> Scan:
    """Look for short-axis cines, reading headers only.

    Args:
        path: a folder of one study or many, in any arrangement, or one file. Files that are not DICOM are left alone.

    Returns:
        What was found. A damaged study or file is a problem and does not keep the others from being used; a study of
        MR images without a short-axis cine is one too. Without any DICOM image there is nothing to tell.

    Raises:
        InputError: there is no such folder or file.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder, expected one that holds DICOM files")
    headers, planes, problems = dicom_headers.read_files(path)
    studies: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        studies[header.study_uid].append(header)
    stacks: list[Stack] = []
    left_out: list[LeftOut] = []
    for members in studies.values():
        source = _common_folder(members)
        try:
            stack, others = _stack(source, members, planes)
        except InputError as error:
            problems += error.problems
            continue
        left_out += [LeftOut(source, series, reason) for series, reason in others]
        if stack:
            stacks.append(stack)
        elif any(header.sop_class_uid in dicom_headers.MR_IMAGES for header in members):
            problems.append(f"{source}: no short-axis cine among the {len(others)} series of this study")
    return Scan(tuple(_named(stacks)), tuple(left_out), tuple(problems))


def _stack(
    source: Path, headers: Sequence[Header], planes: Mapping[str, Sequence[Plane]]
) -> tuple[Stack | None, list[tuple[str, str]]]:
    """Return a study's short-axis cine, and its other series with the reasons."""
    _check_one_patient(source, headers)
    family, left_out = dicom_select.find_short_axis(headers, planes)
    if family is None:
        return None, left_out
    grid = dicom_stack.order(family.planes)
    remarks = [*family.remarks, *grid.remarks, *grid.planes[0][0].header.remarks]
    used = {plane.header.sop_instance_uid for row in grid.planes for plane in row}
    copies = sum(count - 1 for uid, count in Counter(h.sop_instance_uid for h in headers).items() if uid in used)
    if copies:
        remarks.append(f"{copies} files are copies of others (equal SOPInstanceUID) and are ignored.")
    own = _common_folder([plane.header for row in grid.planes for plane in row])
    return Stack("", own, replace(grid, remarks=tuple(remarks))), left_out


def _check_one_patient(source: Path, headers: Sequence[Header]) -> None:
    for what, values in (
        ("PatientID", {header.patient.id for header in headers}),
        ("PatientBirthDate", {header.birth_date for header in headers}),
        ("PatientSex", {header.patient.sex for header in headers}),
    ):
        known = sorted(values - {""})
        if len(known) > 1:
            listed = ", ".join(map(repr, known[:_LISTED]))
            raise InputError(f"{source}: one StudyInstanceUID, but {what} is {listed}; expected one patient")


def _common_folder(headers: Sequence[Header]) -> Path:
    return Path(os.path.commonpath([header.path.parent for header in headers]))


def _named(stacks: Sequence[Stack]) -> Iterator[Stack]:
    """Yield the stacks with names of their own, also where a file system ignores case."""
    plain = [_safe(stack.header.patient.id) or _safe(stack.source.name) or "study" for stack in stacks]
    repeated = Counter(name.lower() for name in plain)
    taken: set[str] = set()
    for stack, name in zip(stacks, plain, strict=True):
        date = _safe(stack.header.study_date)
        dated = f"{name}_{date}" if repeated[name.lower()] > 1 and date else name
        unique, number = dated, 1
        while unique.lower() in taken:
            number += 1
            unique = f"{dated}_{number}"
        taken.add(unique.lower())
        yield replace(stack, name=unique)


def _safe(text: str) -> str:
    """Return text as part of a file's name: no separators, no leading dot, of limited length."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:_MAX_NAME]


def _about(header: Header) -> dict[str, str]:
    date = header.study_date
    about = {
        "study_date": f"{date[:4]}-{date[4:6]}-{date[6:8]}" if re.fullmatch(r"\d{8}", date) else date,
        **header.about,
        "study_instance_uid": header.study_uid,
    }
    return {key: value for key, value in about.items() if value}


def _instance(plane: Plane) -> Instance:
    header = plane.header
    return Instance(header.path, header.sop_class_uid, header.sop_instance_uid, plane.frame_number)

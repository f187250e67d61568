"""What there is to segment at a path: one image file, a DICOM folder, or a folder of many of both."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cardiac_cine.cine import Cine
from cardiac_cine.cine_files import SUFFIXES, case_name, is_image_file, read_cine
from cardiac_cine.datasets import dicom_cine
from cardiac_cine.errors import InputError
from cardiac_cine.folders import files_below

# References and earlier results lie beside images under these endings.
_NO_IMAGE = ("_gt", "_seg", "_label")
# Headers whose voxels are in files of their own; a list of a file for each slice and phase stays below this size.
_HEADERS, _HEADER_BYTES = (".mhd", ".nhdr"), 1 << 20
# Longer ones are no names to any file system.
_MAX_NAME = 255
# So many names say what kind of name is meant.
_LISTED = 3


@dataclass(frozen=True)
class Study:
    """One cine to segment, not read yet.

    Attributes:
        name: the case, unique among the studies found together.
        source: the file or folder it comes from.
        files: the files that make it up, a header's data files among them.
        read: reads and checks it; raises InputError.
        stack: what was found of a cine in DICOM; None for an image file.
    """

    name: str
    source: Path
    files: tuple[Path, ...]
    read: Callable[[], Cine]
    stack: dicom_cine.Stack | None = None


@dataclass(frozen=True)
class Found:
    """What :func:`find_studies` found.

    Attributes:
        studies: what can be tried, sorted by name.
        left_out: what is no short-axis cine, one sentence each with the reason.
        problems: what should have been one and cannot be used, one sentence each.
    """

    studies: tuple[Study, ...]
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def find_studies(path: Path | str) -> Found:
    """Find the studies at a path without reading voxels.

    Args:
        path: an image file as :func:`cardiac_cine.cine_files.read_cine` takes, a DICOM file, or a folder of image files
            and DICOM studies at any depth, also behind links. Below a folder, hidden files and names that end in _gt,
            _seg or _label are no images. An image whose name another study has, too, is named by its path below the
            folder, such as sub1_sa for ``sub1/sa.nii``.

    Raises:
        InputError: there is no such path, or nothing at it that could be a cine.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file() and is_image_file(path):
        return Found((_image_study(path),))
    files, unreadable = ([], []) if path.is_file() else files_below(path)
    scan = dicom_cine.scan(path)
    problems = tuple(dict.fromkeys((*unreadable, *scan.problems)))
    studies = [_image_study(file) for file in files if _is_candidate(file)]
    studies += [Study(stack.name, stack.source, stack.files, stack.read, stack) for stack in scan.stacks]
    left_out = tuple(str(item) for item in scan.left_out)
    if not studies:
        expected = f"expected image files ({', '.join(SUFFIXES)}) or a short-axis cine in DICOM"
        raise InputError([*problems, *left_out, f"{path}: nothing to segment, {expected}"])
    clashes, unique = _same_names(_named_apart(studies, path))
    return Found(tuple(sorted(unique, key=lambda study: study.name)), left_out, (*problems, *clashes))


def unmatched(table: str, cases: Collection[str], studies: Collection[Study]) -> str:
    """Return a sentence on the cases of a table that are no study's; "" where there are none.

    Args:
        table: what it is called.
        cases: its cases.
        studies: what was found.
    """
    names = {study.name for study in studies}
    others = [case for case in cases if case not in names]
    if not others:
        return ""
    more = ", ..." if len(others) > _LISTED else ""
    return (
        f"{table}: {len(others)} of {len(cases)} cases are no study's: {', '.join(map(repr, others[:_LISTED]))}{more}; "
        f"expected names of studies such as {', '.join(map(repr, sorted(names)[:_LISTED]))}"
    )


def _image_study(path: Path) -> Study:
    return Study(case_name(path), path, (path, *_data_files(path)), lambda: read_cine(path))


def _named_apart(studies: Sequence[Study], root: Path) -> list[Study]:
    """Return the studies, with images whose name is not theirs alone named by their path below the root."""
    counts = Counter(study.name for study in studies)
    return [study if study.stack or counts[study.name] == 1 else _named_by_path(study, root) for study in studies]


def _named_by_path(study: Study, root: Path) -> Study:
    name = "_".join((*study.source.parent.relative_to(root).parts, study.name))
    return replace(study, name=name, read=lambda: replace(study.read(), name=name))


def _data_files(path: Path) -> list[Path]:
    """Return the files of voxels that a header names: a line of its own, or what follows on ``=`` or ``:``."""
    if not path.name.lower().endswith(_HEADERS):
        return []
    try:
        with path.open("rb") as stream:
            lines = stream.read(_HEADER_BYTES).decode(errors="replace").splitlines()
    except OSError:  # reading the study says so
        return []
    names = dict.fromkeys(name.strip() for line in lines for name in (line, re.split("[=:]", line, maxsplit=1)[-1]))
    files = [path.parent / name for name in names if len(name) <= _MAX_NAME]
    return [file for file in files if file.is_file() and file != path]


def _is_candidate(path: Path) -> bool:
    return is_image_file(path) and not case_name(path).endswith(_NO_IMAGE)


def _same_names(studies: list[Study]) -> tuple[list[str], list[Study]]:
    """Return a problem for each name that several studies share, and the studies of their own name."""
    by_name = defaultdict(list)
    for study in studies:
        by_name[study.name].append(study)
    problems = [
        f"{' and '.join(str(study.source) for study in group)}: the results of both would be named {name}, expected "
        "unique names"
        for name, group in by_name.items()
        if len(group) > 1
    ]
    return problems, [group[0] for group in by_name.values() if len(group) == 1]

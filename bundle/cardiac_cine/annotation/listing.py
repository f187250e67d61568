"""The cines at a path as a list shows them, before any voxel is read: whose they are and how many phases they have."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from nibabel.filebasedimages import ImageFileError

from cardiac_cine.cine import Cine
from cardiac_cine.cine_files import NIFTI_SUFFIXES, case_name
from cardiac_cine.datasets import acdc
from cardiac_cine.datasets.dicom_cine import Stack
from cardiac_cine.errors import InputError
from cardiac_cine.fingerprints import content_sha256
from cardiac_cine.studies import Study, find_studies

# What tells the files of one patient apart.
_PHASE_SUFFIX = re.compile(r"(_(frame|phase)\d+|_4d|_ed|_es)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Listed:
    """A cine that has not been read.

    Attributes:
        identity: tells it from all others for as long as it exists, whatever else comes or goes: the
            StudyInstanceUID, or the file's path below the folder of studies.
        name: the case.
        patient: the PatientID; for image files the folder's name where that is a patient's, its path below the folder
            of studies where others are called so, too, else what the file's name begins with.
        group: pathology, "" where unknown.
        phases: how many.
        version: what it is made of as it is listed; another value may be another cine under the same identity.
        read: reads and checks it; raises InputError.
        look: returns the version as of now, "" where it is gone.
        digest: returns what tells its voxels from others, wherever they lie, "" where they cannot be read; takes as
            long as reading them.
        stack: its DICOM images, None for other formats.
    """

    identity: str
    name: str
    patient: str
    group: str
    phases: int
    version: str
    read: Callable[[], Cine]
    look: Callable[[], str]
    digest: Callable[[], str]
    stack: Stack | None = None


def list_cines(path: Path) -> tuple[list[Listed], list[str]]:
    """List the cines at a path.

    Args:
        path: as :func:`cardiac_cine.studies.find_studies` takes.

    Returns:
        The cines, sorted by name, and a sentence for each thing that cannot be used, the path itself among them.
    """
    try:
        found = find_studies(path)
    except InputError as error:
        return [], list(error.problems)
    listed, problems = [], list(found.problems)
    root = path if path.is_dir() else path.parent
    patients = _patients([study for study in found.studies if study.stack is None], root)
    for study in found.studies:
        try:
            listed.append(from_stack(study.stack) if study.stack else _from_file(study, patients[study.source], root))
        except (RuntimeError, OSError, ValueError, ImageFileError) as error:
            problems.append(f"{study.source}: header not readable ({str(error).strip().splitlines()[-1]})")
    return listed, problems


def from_stack(stack: Stack, read: Callable[[], Cine] | None = None) -> Listed:
    """Return the entry of a DICOM study, read by ``read`` or by the stack itself."""
    header, planes = stack.header, [plane for row in stack.grid.planes for plane in row]
    uids = "/".join(f"{plane.header.sop_instance_uid}.{plane.frame_number}" for plane in planes)
    version = sha256(uids.encode()).hexdigest()[:16]
    return Listed(
        identity=header.study_uid,
        name=stack.name,
        patient=header.patient.id or header.study_uid,
        group="",
        phases=len(stack.grid.planes[0]),
        version=version,
        read=read or stack.read,
        look=lambda: version,
        digest=lambda: version,
        stack=stack,
    )


def _from_file(study: Study, patient: str, root: Path) -> Listed:
    return Listed(
        identity=study.source.relative_to(root).as_posix(),
        name=study.name,
        patient=patient,
        group=acdc.group_of(study.source.parent),
        phases=_phases(study.source),
        version=_version(study.files),
        read=study.read,
        look=lambda: _version(study.files),
        digest=lambda: _digest(study.files),
    )


def _version(files: Sequence[Path]) -> str:
    """Return times and sizes of files, "" where one cannot be looked at."""
    try:
        return "/".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in map(Path.stat, files))
    except OSError:
        return ""


def _digest(files: Sequence[Path]) -> str:
    """Return a digest of what files hold, "" where one cannot be read."""
    try:
        return content_sha256(files)
    except InputError:
        return ""


def _phases(path: Path) -> int:
    """Return how many phases a file's header tells of."""
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        shape = nib.load(path).shape
        return shape[3] if len(shape) > 3 else 1
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader.GetSize()[3] if reader.GetDimension() > 3 else reader.GetNumberOfComponents()


def _patients(studies: Sequence[Study], root: Path) -> dict[Path, str]:
    stems: dict[Path, set[str]] = defaultdict(set)
    for study in studies:
        stems[study.source.parent].add(_stem(study))
    same_name = Counter(folder.name for folder in stems)
    patients = {}
    for study in studies:
        folder = study.source.parent
        # A folder such as imagesTr holds many patients, whose files are not called as it is.
        own = len(stems[folder]) == 1 or all(stem.startswith(folder.name) for stem in stems[folder])
        called = folder.name if same_name[folder.name] == 1 else "_".join(folder.relative_to(root).parts)
        patients[study.source] = called if folder != root and own else _stem(study)
    return patients


def _stem(study: Study) -> str:
    name = case_name(study.source)
    return _PHASE_SUFFIX.sub("", name) or name

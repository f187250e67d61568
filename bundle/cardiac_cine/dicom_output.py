"""What the DICOM objects made here have in common: who made them, and the headers of the images that they are about."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID, generate_uid

from cardiac_cine import __version__
from cardiac_cine.cine import Cine
from cardiac_cine.errors import InputError

# Names and free text in any language, whatever the images can hold.
UTF_8 = "ISO_IR 192"
# Archives and anonymisers leave these out, though the standard wants them present, empty where unknown.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_DATES, _TIMES = ("PatientBirthDate", "StudyDate"), ("PatientBirthTime", "StudyTime")
_SEXES = ("", "M", "F", "O")
# Hours, and then minutes, seconds and a fraction, each only behind the one before (PS3.5, TM).
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Software:
    """Who made a result, for the equipment and algorithm attributes of DICOM objects.

    Attributes:
        name: of the algorithm.
        version: of the software.
        model: what tells its weights from others, such as the file's SHA-256 in hexadecimal; "" where unknown.
        manufacturer: who answers for it.
    """

    name: str = "Cardiac cine segmentation"
    version: str = __version__
    model: str = ""
    manufacturer: str = "cardiac_cine_segmentation"

    @property
    def serial_number(self) -> str:
        """The weights, which tell one installation's results from another's; "unknown" where they are not known."""
        return self.model or "unknown"

    @property
    def equipment(self) -> dict[str, Any]:
        """The equipment attributes as highdicom's constructors take them."""
        return {
            "manufacturer": self.manufacturer,
            "manufacturer_model_name": self.name,
            "software_versions": self.version,
            "device_serial_number": self.serial_number,
        }

    @property
    def uid(self) -> UID:
        """A UID that is the same wherever and whenever this software runs with these weights."""
        return generate_uid(entropy_srcs=[self.manufacturer, self.name, self.version, self.model])


def check_sources(cine: Cine) -> None:
    """Refuse a cine whose source images are unknown.

    Raises:
        InputError: it was not read from DICOM files.
        ValueError: its instances are not (z, t), one for every slice of every phase.
    """
    if not cine.instances:
        raise InputError(f"{cine.source}: expected DICOM files, since results in DICOM refer to their source images")
    shape = (len(cine.instances), *{len(phases) for phases in cine.instances})
    if shape != cine.array.shape[2:]:
        raise ValueError(f"cine.instances must be (z, t) = {cine.array.shape[2:]}, got {shape}")


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Dataset:
    """Read a DICOM file without its pixels.

    Args:
        path: the file.
        keywords: the only attributes to read, for many files; None reads all.

    Returns:
        The attributes. Those about patient and study that the standard wants present are there, empty where unknown and
        where a date, a time or a sex is written in a way that says nothing; other ways to write a date or a time become
        the standard's, and of several values where there is to be one it is the first.

    Raises:
        InputError: the file cannot be read as DICOM, or lacks one of its UIDs.
    """
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=None if keywords is None else list(keywords))
    except (InvalidDicomError, OSError) as error:
        raise InputError(f"{path}: not readable as DICOM ({error})") from None
    missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}")
    if keywords is None:
        _repair(header)
    return header


def _repair(header: Dataset) -> None:
    """Bring what is known of patient and study into the form that new objects must have."""
    for keyword in (*_MAY_BE_EMPTY, "PatientBirthTime"):
        value = header.get(keyword) or ""
        value = value[0] if isinstance(value, MultiValue) else value
        if keyword in _DATES:
            value = _date(str(value))
        elif keyword in _TIMES:
            value = _time(str(value))
        elif keyword == "PatientSex" and value not in _SEXES:
            value = ""
        if keyword in _MAY_BE_EMPTY or keyword in header:
            setattr(header, keyword, value)


def _date(text: str) -> str:
    """Return a date as YYYYMMDD, also from forms such as 1970-01-02; "" for what is none."""
    digits = re.sub(r"[-./ ]", "", text)
    try:
        return digits if len(digits) == len("YYYYMMDD") and datetime.strptime(digits, "%Y%m%d") else ""
    except ValueError:
        return ""


def _time(text: str) -> str:
    """Return a time as HHMMSS.FFFFFF or the start of it, also from forms such as 9:05:00; "" for what is none."""
    whole, point, fraction = "".join(part.zfill(2) for part in text.strip().split(":")).partition(".")
    found = whole + point + fraction[:6]
    return found if text and _TIME.fullmatch(found) else ""


def read_evidence(cine: Cine) -> list[Dataset]:
    """Read the UIDs of all images of a cine, the first one's header in full.

    Raises:
        InputError: as for :func:`read_header`.
    """
    paths = list(dict.fromkeys(instance.path for phases in cine.instances for instance in phases))
    return [read_header(path, _NEEDED if index else None) for index, path in enumerate(paths)]

"""Values of DICOM attributes in the units used here, missing ones as "" or NaN.

Attributes come as plain dictionaries by keyword, which answer a lookup many times faster than pydicom's Dataset. An
image may say one thing in several places, a frame's functional groups above all: where a lookup takes several sources
the first that has a value wins.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cardiac_cine.cine import MS_PER_MINUTE, Patient
from cardiac_cine.patients import LIMITS
from cardiac_cine.stacks import CYCLE_MS

Attributes = Mapping[str, Any]

_CM_PER_M = 100.0
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_DATE = "%Y%m%d"


def values(ds: Dataset) -> Attributes:
    """Return a dataset's attributes by keyword; private ones, which have none, are lost."""
    return {element.keyword: element.value for element in ds}


def groups(items: Iterable[Dataset] | None) -> Iterator[Attributes]:
    """Yield the first item of every functional group; attributes do not repeat among the groups read here."""
    for item in items or ():
        for element in item:
            if element.VR == "SQ" and element.value:
                yield values(element.value[0])


def first(sources: Iterable[Attributes], *keywords: str) -> Any:
    """Return the first value that is not empty, by keyword and then by source; None where there is none."""
    for keyword in keywords:
        for source in sources:
            value = source.get(keyword)
            if value is not None and value != "":
                return value
    return None


def first_number(sources: Iterable[Attributes], *keywords: str, missing: float = math.nan) -> float:
    """Return :func:`first` as a number, ``missing`` where it is none."""
    return _as_number(first(sources, *keywords), missing)


def number(source: Attributes, keyword: str, missing: float = math.nan) -> float:
    """Return one attribute as a number, ``missing`` where it is none."""
    return _as_number(source.get(keyword), missing)


def numbers(sources: Iterable[Attributes], keyword: str, count: int) -> tuple[float, ...]:
    """Return ``count`` finite numbers, or none where there are not that many."""
    found = tuple(_as_number(value, math.nan) for value in texts(sources, keyword))
    return found if len(found) == count and all(map(math.isfinite, found)) else ()


def text(source: Attributes, keyword: str) -> str:
    """Return one attribute as text, several values separated by backslashes."""
    value = source.get(keyword)
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value).strip()


def texts(sources: Iterable[Attributes], keyword: str) -> list[str]:
    """Return the values of :func:`first` as texts."""
    value = first(sources, keyword)
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, MultiValue | list) else [str(value)]


def patient(source: Attributes) -> tuple[Patient, tuple[str, ...]]:
    """Return the patient, and remarks on a height or weight that cannot be one."""
    sex = text(source, "PatientSex").upper()
    remarks = []
    height_m, weight_kg = number(source, "PatientSize"), number(source, "PatientWeight")
    height_cm = _CM_PER_M * height_m
    has_height, has_weight = _within(height_cm, LIMITS["height_cm"]), _within(weight_kg, LIMITS["weight_kg"])
    # Consoles write 0 where nothing was entered.
    if height_m > 0 and not has_height:
        remarks.append(f"The height of {height_m:g} m (PatientSize) is not that of a person and is left out.")
    if weight_kg > 0 and not has_weight:
        remarks.append(f"The weight of {weight_kg:g} kg (PatientWeight) is not that of a person and is left out.")
    found = Patient(
        id=text(source, "PatientID"),
        sex=sex if sex in ("M", "F") else "",
        age_years=age_years(*(text(source, k) for k in ("PatientAge", "PatientBirthDate", "StudyDate"))),
        height_cm=height_cm if has_height else math.nan,
        weight_kg=weight_kg if has_weight else math.nan,
    )
    return found, tuple(remarks)


def age_years(age: str, birth_date: str, study_date: str) -> float:
    """Return the age from an age string such as 042Y, else in whole years from two dates, else NaN."""
    if age[:-1].isdigit() and age[-1:] in _YEARS:
        return int(age[:-1]) * _YEARS[age[-1]]
    try:
        born, scanned = (datetime.strptime(date, _DATE) for date in (birth_date, study_date))
    except ValueError:
        return math.nan
    had_birthday = (scanned.month, scanned.day) >= (born.month, born.day)
    return float(scanned.year - born.year - (not had_birthday)) if scanned >= born else math.nan


def rr_ms(sources: Sequence[Attributes]) -> float:
    """Return the length of the cycle, else what the heart rate amounts to, else NaN.

    A number that makes no heartbeat, 0 above all, is a placeholder, and the next source is asked.
    """
    keywords = ("NominalInterval", "CardiacRRIntervalSpecified", "RRIntervalTimeNominal")
    rate = first_number(sources, "HeartRate")
    intervals = [*(first_number(sources, keyword) for keyword in keywords), MS_PER_MINUTE / rate if rate else math.nan]
    return next((interval for interval in intervals if _within(interval, CYCLE_MS)), math.nan)


def acquired_s(sources: Sequence[Attributes]) -> float:
    """Return when an image was acquired, in seconds from an arbitrary origin; NaN where unknown."""
    stamp = first(sources, "FrameAcquisitionDateTime", "FrameReferenceDateTime", "AcquisitionDateTime")
    if stamp is None:
        stamp = "".join(str(first(sources, keyword) or "") for keyword in ("AcquisitionDate", "AcquisitionTime"))
    digits, _, fraction = str(stamp).partition(".")
    # YYYYMMDDHHMMSS.FFFFFF&ZZXX, where the zone is the same throughout a study.
    fraction = fraction[:6].partition("+")[0].partition("-")[0]
    for pattern in ("%Y%m%d%H%M%S", "%H%M%S"):
        try:
            seconds = (datetime.strptime(digits[:14], pattern) - datetime(1900, 1, 1)).total_seconds()
        except ValueError:
            continue
        return seconds + (float(f"0.{fraction}") if fraction.isdigit() else 0.0)
    return math.nan


def _as_number(value: Any, missing: float) -> float:
    try:
        return missing if value is None else float(value)
    except (TypeError, ValueError):
        return missing


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]

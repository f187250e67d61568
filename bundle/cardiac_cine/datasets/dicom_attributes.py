"""Values of DICOM attributes in the units used here, missing ones as "" or NaN.

Attributes come as plain dictionaries by keyword, which answer a lookup many times faster than pydicom's Dataset. An image
may say one thing in several places, a frame's functional groups above all, so lookups take several such sources and
the first that has a value wins.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cardiac_cine.cine import MS_PER_MINUTE, Patient

Attributes = Mapping[str, Any]

# Heights are in metres; beyond these limits the file means another unit or nothing at all.
_HEIGHT_M, _WEIGHT_KG = (0.3, 2.5), (1.0, 400.0)
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def groups(items: Iterable[Dataset] | None) -> Iterator[Attributes]:
    """Yield the first item of every functional group: attribute names do not repeat among those read here."""
    for groups in items or ():
        for element in groups:
            if element.VR == "SQ" and element.value:
                yield values(element.value[0])


def values(ds: Dataset) -> Attributes:
    """Return an item's attributes by keyword: a plain dictionary answers many times faster than a Dataset."""
    return {element.keyword: element.value for element in ds}


def patient(ds: Attributes) -> tuple[Patient, tuple[str, ...]]:
    sex = text(ds, "PatientSex").upper()
    remarks = []
    height, weight = number(ds, "PatientSize"), number(ds, "PatientWeight")
    # Consoles write 0 where nothing was entered.
    if height > 0 and not _HEIGHT_M[0] <= height <= _HEIGHT_M[1]:
        remarks.append(f"The height of {height:g} m (PatientSize) is not that of a person and is left out.")
    if weight > 0 and not _WEIGHT_KG[0] <= weight <= _WEIGHT_KG[1]:
        remarks.append(f"The weight of {weight:g} kg (PatientWeight) is not that of a person and is left out.")
    patient = Patient(
        id=text(ds, "PatientID"),
        sex=sex if sex in ("M", "F") else "",
        age_years=age_years(text(ds, "PatientAge"), text(ds, "PatientBirthDate"), text(ds, "StudyDate")),
        height_cm=100 * height if _HEIGHT_M[0] <= height <= _HEIGHT_M[1] else math.nan,
        weight_kg=weight if _WEIGHT_KG[0] <= weight <= _WEIGHT_KG[1] else math.nan,
    )
    return patient, tuple(remarks)


def age_years(age: str, birth: str, study: str) -> float:
    """Return the age from an age string such as 042Y, or else from two dates."""
    if age[:-1].isdigit() and age[-1:] in _YEARS:
        return int(age[:-1]) * _YEARS[age[-1]]
    try:
        days = (datetime.strptime(study, "%Y%m%d") - datetime.strptime(birth, "%Y%m%d")).days
    except ValueError:
        return math.nan
    return math.floor(days / 365.25) if days >= 0 else math.nan


def rr_ms(ds: Attributes) -> float:
    shared = list(groups(ds.get("SharedFunctionalGroupsSequence")))
    first = (ds.get("PerFrameFunctionalGroupsSequence") or [])[:1]
    sources = [ds, *groups(first), *shared]
    for keyword in ("NominalInterval", "CardiacRRIntervalSpecified", "RRIntervalTimeNominal"):
        value = as_number(first(sources, keyword))
        if value > 0:
            return value
    rate = as_number(first(sources, "HeartRate"))
    return MS_PER_MINUTE / rate if rate > 0 else math.nan


def seconds(time: str) -> float:
    """Return YYYYMMDDHHMMSS.F, or HHMMSS.F, in seconds from an arbitrary origin."""
    digits, _, fraction = time.partition(".")
    digits = digits[:14]
    for pattern in ("%Y%m%d%H%M%S", "%H%M%S"):
        try:
            seconds = (datetime.strptime(digits, pattern) - datetime(1900, 1, 1)).total_seconds()
        except ValueError:
            continue
        leading = fraction.partition("+")[0].partition("-")[0]
        return seconds + (float(f"0.{leading}") if leading.isdigit() else 0.0)
    return math.nan


def first(sources: Iterable[Attributes], *keywords: str) -> Any:
    """Return the first value that is not empty, by keyword and then by source."""
    for keyword in keywords:
        for source in sources:
            value = source.get(keyword)
            if value is not None and value != "":
                return value
    return None


def texts(sources: Iterable[Attributes], keyword: str) -> list[str]:
    value = first(sources, keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def numbers(sources: Iterable[Attributes], keyword: str, count: int) -> tuple[float, ...]:
    values = tuple(as_number(value) for value in texts(sources, keyword))
    return values if len(values) == count and all(map(math.isfinite, values)) else ()


def text(ds: Attributes, keyword: str) -> str:
    value = ds.get(keyword)
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value).strip()


def number(ds: Attributes, keyword: str, missing: float = math.nan) -> float:
    return as_number(ds.get(keyword), missing)


def as_number(value: Any, missing: float = math.nan) -> float:
    try:
        return missing if value is None else float(value)
    except (TypeError, ValueError):
        return missing

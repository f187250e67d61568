"""What the DICOM files of a phantom's study have in common, classic or enhanced."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds

from cardiac_cine.errors import InputError
from cardiac_cine.geometry import RAS_LPS

VENDORS = {"SIEMENS": "SIEMENS", "GE": "GE MEDICAL SYSTEMS", "PHILIPS": "Philips Medical Systems"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the files of one study share.

    Attributes:
        seed: of all UIDs; studies that differ in it differ in every UID.
        vendor: a key of ``VENDORS``.
        patient_id: as are the others, left out of the files where None.
        patient_sex: "M", "F" or "O".
        patient_age_years: whole years.
        patient_birth_date: YYYYMMDD.
        patient_height_cm: body height.
        patient_weight_kg: body weight.
        study_date: YYYYMMDD.
        study_description: free text.
    """

    seed: int = 0
    vendor: str = "SIEMENS"
    patient_id: str | None = "PHANTOM"
    patient_sex: str | None = None
    patient_age_years: int | None = None
    patient_birth_date: str | None = None
    patient_height_cm: float | None = None
    patient_weight_kg: float | None = None
    study_date: str = "20240102"
    study_description: str = "Cardiac MR"

    def __post_init__(self) -> None:
        if self.vendor not in VENDORS:
            raise InputError(f"vendor must be one of {tuple(VENDORS)}, got {self.vendor!r}")

    def uid(self, *parts: object) -> str:
        """Return the UID of a thing of this study, always the same for the same parts."""
        return generate_uid(entropy_srcs=["cardiac_cine phantom", str(self.seed), *map(str, parts)])

    def patient_module(self) -> Dataset:
        """Return the attributes of patient and study."""
        ds = Dataset()
        ds.PatientName = f"Phantom^{self.patient_id or ''}"
        ds.PatientID = self.patient_id or ""
        ds.PatientBirthDate = self.patient_birth_date or ""
        ds.PatientSex = self.patient_sex or ""
        if self.patient_age_years is not None:
            ds.PatientAge = f"{self.patient_age_years:03d}Y"
        if self.patient_height_cm is not None:
            ds.PatientSize = decimal(self.patient_height_cm / 100)
        if self.patient_weight_kg is not None:
            ds.PatientWeight = decimal(self.patient_weight_kg)
        ds.StudyInstanceUID = self.uid("study")
        ds.StudyID = "1"
        ds.StudyDate = self.study_date
        ds.StudyTime = "101500"
        ds.StudyDescription = self.study_description
        ds.AccessionNumber = ""
        ds.ReferringPhysicianName = ""
        return ds

    def equipment_module(self) -> Dataset:
        """Return the attributes of the scanner."""
        ds = Dataset()
        ds.Manufacturer = VENDORS[self.vendor]
        ds.ManufacturerModelName = "Phantom"
        ds.DeviceSerialNumber = "0"
        ds.SoftwareVersions = "1"
        return ds


@dataclass(frozen=True, kw_only=True)
class Series:
    """What one series holds.

    Attributes:
        number: SeriesNumber; with the description it makes the series' UID.
        description: SeriesDescription.
        times_ms: after the R wave, (t,) or (slices, t); None leaves out every attribute of the cardiac cycle.
        rr_ms: length of the cycle, NaN leaves it out.
        image_type: ImageType.
        frame_of_reference: a name; equal names are one frame of reference.
        modality: "MR" or "CT".
        attributes: keyword to value, set on every image last; None deletes.
    """

    number: int = 5
    description: str = "cine_sax"
    times_ms: np.ndarray | None = None
    rr_ms: float = math.nan
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")
    frame_of_reference: str = "scanner"
    modality: str = "MR"
    attributes: Mapping[str, Any] = field(default_factory=dict)


def plane(affine: np.ndarray, z: int = 0) -> tuple[list[str], list[str], list[str], str]:
    """Return ImagePositionPatient, ImageOrientationPatient and PixelSpacing of a slice, and the slices' distance."""
    lps = RAS_LPS @ affine
    x, y, distance = np.linalg.norm(lps[:3, :3], axis=0)
    position = (lps @ [0, 0, z, 1])[:3]
    orientation = [*(lps[:3, 0] / x), *(lps[:3, 1] / y)]
    return (
        [decimal(v) for v in position],
        [decimal(v) for v in orientation],
        [decimal(y), decimal(x)],
        decimal(distance),
    )


def pixel_module(ds: Dataset, pixels: np.ndarray) -> None:
    """Set the attributes of 16-bit pixels, given as (x, y) or (x, y, frames)."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Columns, ds.Rows = pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.PixelData = np.ascontiguousarray(pixels.T, np.dtype("<u2")).tobytes()


def series_module(ds: Dataset, study: Study, series: Series) -> None:
    """Set the attributes of series and frame of reference."""
    ds.Modality = series.modality
    ds.SeriesInstanceUID = study.uid("series", series.number, series.description)
    ds.SeriesNumber = series.number
    ds.SeriesDescription = series.description
    ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = study.study_date
    ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = (
        f"{10 + series.number // 60 % 10:02d}{series.number % 60:02d}00"
    )
    ds.BodyPartExamined = "HEART"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = study.uid("frame of reference", series.frame_of_reference)
    ds.PositionReferenceIndicator = ""
    ds.ImageType = list(series.image_type)


def decimal(value: float) -> str:
    """Return a number as a DICOM decimal string, of 16 characters at most."""
    return format_number_as_ds(float(value))

"""DICOM headers: what each image of a folder says about itself, before any pixel is read.

Classic MR images hold one :class:`Plane` each, Enhanced MR images (and legacy images converted to them) one for each
frame; everything behind this module treats both alike. Attribute numbers and units follow PS3.3 and PS3.6.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import config
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)
from tqdm import tqdm

from cardiac_cine.cine import Patient
from cardiac_cine.datasets import dicom_attributes as attributes
from cardiac_cine.datasets.dicom_errors import UNREADABLE, one_line, quiet_pydicom
from cardiac_cine.folders import files_below

MULTI_FRAME = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
MR_IMAGES = (MRImageStorage, *MULTI_FRAME)
# Names that promise DICOM: such a file is missed where it does not hold any.
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# Encodings whose pixels take the bytes that the header says, and how many stand before them: tag, length and, where
# explicit, the value representation.
_PIXEL_TAG_BYTES = {ImplicitVRLittleEndian: 8, ExplicitVRLittleEndian: 12, ExplicitVRBigEndian: 12}

_BITS = (8, 16, 32)
_NO_PIXELS = "no pixels, expected a whole image; the file may be truncated"
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("StudyDate", "StudyDescription", "SeriesDescription", "SeriesNumber", "Modality", "ImageType"),
    *("PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
    *("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "NumberOfFrames", "RescaleSlope", "RescaleIntercept"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber", "AcquisitionNumber"),
    *("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "TemporalPositionIdentifier"),
    *("TriggerTime", "NominalInterval", "HeartRate", "CardiacRRIntervalSpecified"),
    *("ScanningSequence", "SequenceVariant", "EchoTime", "PhaseContrast", "SaturationRecovery"),
    *("EchoPulseSequence", "SteadyStatePulseSequence", "SharedFunctionalGroupsSequence"),
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says as a whole. Texts are "" and numbers NaN where it does not say.

    Attributes:
        path: the file.
        sop_class_uid: kind of object.
        sop_instance_uid: this object.
        transfer_syntax_uid: encoding of the pixels.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_of_reference: FrameOfReferenceUID.
        series_number: 0 where missing.
        modality: "MR", "CT", "SR" ...
        study_date: YYYYMMDD.
        about: descriptions of study and series, manufacturer, model, field strength.
        patient: who was scanned.
        birth_date: YYYYMMDD.
        remarks: what could not be taken as it stands.
        size: columns and rows.
        bits: allocated and stored for a pixel, and whether pixels are signed.
        photometric: PhotometricInterpretation.
        sequence: what tells one pulse sequence from another, in words.
        echo_ms: EchoTime.
        phase_contrast: the image encodes flow.
        saturation_recovery: as perfusion does.
        rr_ms: length of the cycle.
        damage: why the pixels cannot be read, "" for a whole file.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference: str
    series_number: int
    modality: str
    study_date: str
    about: dict[str, str]
    patient: Patient
    birth_date: str
    remarks: tuple[str, ...]
    size: tuple[int, int]
    bits: tuple[int, int, bool]
    photometric: str
    sequence: tuple[str, ...]
    echo_ms: float
    phase_contrast: bool
    saturation_recovery: bool
    rr_ms: float
    damage: str

    @property
    def series(self) -> str:
        """Number and description, for messages."""
        return f"{self.series_number} {self.about['series_description']!r}"

    @property
    def kind(self) -> str:
        """Kind of object in words."""
        return UID(self.sop_class_uid, config.IGNORE).name


@dataclass(frozen=True, eq=False)
class Plane:
    """One two-dimensional image: a classic image, or one frame. Missing numbers are NaN.

    Attributes:
        header: the file.
        frame_number: from 1 in a multi-frame file, None in a classic one.
        image_type: upper-case values, a frame's own where it has one.
        position: ImagePositionPatient, mm, LPS; empty where missing, as are the next two.
        orientation: ImageOrientationPatient, direction of the columns' index, then of the rows'.
        spacing: PixelSpacing, mm between rows, then between columns.
        trigger_ms: time after the R wave.
        temporal_position: TemporalPositionIdentifier or TemporalPositionIndex.
        acquisition_number: AcquisitionNumber.
        instance_number: InstanceNumber, for a frame its number.
        acquired_s: time of the acquisition in seconds, of an origin common to the study.
        slope: RescaleSlope, 1 where missing.
        intercept: RescaleIntercept, 0 where missing.
    """

    header: Header
    frame_number: int | None
    image_type: tuple[str, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    trigger_ms: float
    temporal_position: float
    acquisition_number: float
    instance_number: float
    acquired_s: float
    slope: float
    intercept: float

    @property
    def place(self) -> tuple[object, ...]:
        """Where and when: what copies of one file share."""
        return self.header.series_uid, self.position, str(self.trigger_ms), str(self.instance_number)

    def __str__(self) -> str:
        frame = "" if self.frame_number is None else f" (frame {self.frame_number})"
        return f"{self.header.path}{frame}"


def read_files(root: Path) -> tuple[list[Header], dict[str, list[Plane]], list[str]]:
    """Read the headers of all DICOM files below a folder, at any depth, whatever their names, or of one file.

    Args:
        root: is searched; hidden files below it, DICOMDIRs and files of other formats are passed over.

    Returns:
        Every file's header; the planes of the MR images among them by SOPInstanceUID, of several copies of a file the
        first whole one; and a sentence for each file that is damaged or lacks what it should have, and for each folder
        that cannot be read.
    """
    headers: list[Header] = []
    planes: dict[str, list[Plane]] = {}
    paths, problems = ([root], []) if root.is_file() else files_below(root)
    with quiet_pydicom():
        for path in tqdm(paths, "headers", disable=None, leave=False):
            try:
                found = _read(path)
            except UNREADABLE as error:
                if not isinstance(error, InvalidDicomError):
                    problems.append(f"{path}: not readable as DICOM ({one_line(error)}), expected a whole file")
                elif path.suffix.lower() in _DICOM_SUFFIXES:
                    problems.append(f"{path}: no DICOM file or an empty one, though its name says so")
                continue
            if found is None:
                continue
            header, own = found
            if not header.study_uid or not header.sop_class_uid:
                problems.append(f"{path}: lacks StudyInstanceUID or SOPClassUID, expected a whole DICOM file")
                continue
            if header.sop_class_uid in MR_IMAGES and not own:
                problems.append(f"{path}: {header.damage}")
                continue
            headers.append(header)
            known = planes.get(header.sop_instance_uid)
            if known and own and known[0].place != own[0].place:
                problems.append(f"{path}: has the SOPInstanceUID of {known[0].header.path} but shows another image")
            elif known is None or (known and known[0].header.damage and not header.damage):
                planes[header.sop_instance_uid] = own
    return headers, planes, problems


def _read(path: Path) -> tuple[Header, list[Plane]] | None:
    """Return a file's header and its planes; None for a DICOMDIR."""
    with path.open("rb") as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
        syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")), config.IGNORE)
        # A deflated file is inflated as a whole, which fails where it is truncated; nothing is left to count then.
        deflated = syntax == DeflatedExplicitVRLittleEndian
        behind = math.inf if deflated else path.stat().st_size - stream.tell()
    ds = attributes.values(dataset)
    sop_class = attributes.text(ds, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if sop_class == MediaStorageDirectoryStorage:
        return None
    header = _header(ds, path, sop_class, syntax, behind)
    if sop_class not in MR_IMAGES or header.damage == _NO_PIXELS:
        return header, []
    return header, list(_frames(ds, header) if sop_class in MULTI_FRAME else [_plane(header, None, [ds])])


def _header(ds: attributes.Attributes, path: Path, sop_class: str, syntax: UID, behind: float) -> Header:
    patient, remarks = attributes.patient(ds)
    size = (int(attributes.number(ds, "Columns", 0)), int(attributes.number(ds, "Rows", 0)))
    bits = (int(attributes.number(ds, "BitsAllocated", 16)), int(attributes.number(ds, "BitsStored", 16)))
    pixels = (
        math.prod(size)
        * int(attributes.number(ds, "NumberOfFrames", 1))
        * int(attributes.number(ds, "SamplesPerPixel", 1))
    )
    damage = ""
    tag = _PIXEL_TAG_BYTES.get(syntax, 0)
    expected = tag + pixels * bits[0] // 8
    if behind <= tag or not all(size):
        damage = _NO_PIXELS
    elif bits[0] not in _BITS or not 1 <= bits[1] <= bits[0]:
        damage = f"{bits[1]} of {bits[0]} bits for a pixel, expected up to as many of {', '.join(map(str, _BITS))}"
    elif tag and behind < expected:
        damage = f"truncated, holds {behind - tag} bytes of pixel data, expected {expected - tag}"
    keywords = ("ScanningSequence", "SequenceVariant", "EchoPulseSequence", "SteadyStatePulseSequence")
    return Header(
        path=path,
        sop_class_uid=sop_class,
        sop_instance_uid=attributes.text(ds, "SOPInstanceUID") or str(path),
        transfer_syntax_uid=str(syntax),
        study_uid=attributes.text(ds, "StudyInstanceUID"),
        series_uid=attributes.text(ds, "SeriesInstanceUID"),
        frame_of_reference=attributes.text(ds, "FrameOfReferenceUID"),
        series_number=int(attributes.number(ds, "SeriesNumber", 0)),
        modality=attributes.text(ds, "Modality"),
        study_date=attributes.text(ds, "StudyDate"),
        about={
            "study_description": attributes.text(ds, "StudyDescription"),
            "series_description": attributes.text(ds, "SeriesDescription"),
            "manufacturer": attributes.text(ds, "Manufacturer"),
            "model": attributes.text(ds, "ManufacturerModelName"),
            "field_strength_t": attributes.text(ds, "MagneticFieldStrength"),
        },
        patient=patient,
        birth_date=attributes.text(ds, "PatientBirthDate"),
        remarks=remarks,
        size=size,
        bits=(*bits, attributes.number(ds, "PixelRepresentation", 0) == 1),
        photometric=attributes.text(ds, "PhotometricInterpretation"),
        sequence=tuple(attributes.text(ds, keyword) for keyword in keywords),
        echo_ms=attributes.number(ds, "EchoTime"),
        phase_contrast=attributes.text(ds, "PhaseContrast") == "YES",
        saturation_recovery=attributes.text(ds, "SaturationRecovery") == "YES",
        rr_ms=attributes.rr_ms(_cycle_sources(ds)),
        damage=damage,
    )


def _frames(ds: attributes.Attributes, header: Header) -> Iterator[Plane]:
    """Yield a multi-frame image's planes; a frame's own functional groups stand before the shared ones."""
    shared = list(attributes.groups(ds.get("SharedFunctionalGroupsSequence")))
    for number, item in enumerate(ds.get("PerFrameFunctionalGroupsSequence") or [], start=1):
        yield _plane(header, number, [*attributes.groups([item]), *shared, ds])


def _cycle_sources(ds: attributes.Attributes) -> list[attributes.Attributes]:
    """Return where the cycle may be described: the file, its first frame, what all frames share."""
    first = (ds.get("PerFrameFunctionalGroupsSequence") or [])[:1]
    return [ds, *attributes.groups(first), *attributes.groups(ds.get("SharedFunctionalGroupsSequence"))]


def _plane(header: Header, frame_number: int | None, sources: Sequence[attributes.Attributes]) -> Plane:
    image_type = [*attributes.texts(sources, "FrameType"), *attributes.texts(sources, "ComplexImageComponent")]
    return Plane(
        header=header,
        frame_number=frame_number,
        image_type=tuple(value.upper() for value in image_type or attributes.texts(sources, "ImageType")),
        position=attributes.numbers(sources, "ImagePositionPatient", 3),
        orientation=attributes.numbers(sources, "ImageOrientationPatient", 6),
        spacing=attributes.numbers(sources, "PixelSpacing", 2),
        trigger_ms=attributes.first_number(sources, "NominalCardiacTriggerDelayTime", "TriggerTime"),
        temporal_position=attributes.first_number(sources, "TemporalPositionIndex", "TemporalPositionIdentifier"),
        acquisition_number=attributes.first_number(sources, "FrameAcquisitionNumber", "AcquisitionNumber"),
        instance_number=float(frame_number or attributes.first_number(sources, "InstanceNumber")),
        acquired_s=attributes.acquired_s(sources),
        slope=attributes.first_number(sources, "RescaleSlope", missing=1.0),
        intercept=attributes.first_number(sources, "RescaleIntercept", missing=0.0),
    )

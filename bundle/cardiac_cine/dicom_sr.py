"""A DICOM structured report of a cine's measurements: TID 1500, Measurement Report, as Comprehensive 3D SR.

Every number has a code, a unit and the anatomy that it is of; the images that it comes from, and the segmentation
where there is one, are named beside it. A number that is unknown is left out: there is no code for it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import highdicom as hd
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from cardiac_cine import files
from cardiac_cine.cine import Cine
from cardiac_cine.dicom_codes import AHA_SEGMENTS, GROUPS, MAX_MEANING, SCHEME, SCHEME_NAME, Group, private
from cardiac_cine.dicom_output import UTF_8, Software, check_sources, read_evidence, read_header
from cardiac_cine.measurements import Measurements
from cardiac_cine.quality import Flag

# Beyond what scanners use for their own series.
SERIES_NUMBER = 9100


def write_sr(
    cine: Cine,
    measurements: Measurements,
    flags: Sequence[Flag],
    path: Path,
    *,
    seg: Mapping[int, Path] | None = None,
    software: Software | None = None,
) -> None:
    """Write a Measurement Report, whole or not at all.

    Args:
        cine: read from DICOM. Its files are read once more, without their pixels.
        measurements: of the cine. NaN and groups without a number are left out.
        flags: reasons to look at the result, most serious first; the report also says that there is none.
        path: the file.
        seg: phase, counted from 0, to its segmentation, as :func:`cardiac_cine.dicom_seg.write_seg` returns it. The
            measurements refer to those of end-diastole and end-systole.
        software: what made the measurements.

    Raises:
        InputError: the cine is not from DICOM, or a file cannot be read.
        ValueError: ``seg`` belongs to another study.
    """
    check_sources(cine)
    software = software or Software()
    evidence = read_evidence(cine)
    segmentations = {phase: read_header(file) for phase, file in (seg or {}).items()}
    for phase, header in segmentations.items():
        if header.StudyInstanceUID != evidence[0].StudyInstanceUID:
            raise ValueError(f"seg[{phase}] must be of study {evidence[0].StudyInstanceUID}")
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=software.uid,
        name=software.name,
        manufacturer_name=software.manufacturer,
        model_name=f"{software.name} {software.version}",
        serial_number=software.serial_number,
    )
    groups = [_measurement_group(group, measurements, cine, segmentations, software) for group in GROUPS]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=device)
        ),
        procedure_reported=codes.SCT.CardiacMRI,
        imaging_measurements=[group for group in groups if group is not None] + [_quality_group(flags, software)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.Comprehensive3DSR(
        evidence=[*evidence, *segmentations.values()],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        **software.equipment,
        specific_character_set=UTF_8,
        series_description="Cine measurements",
        is_complete=True,
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = software.manufacturer
    report.CodingSchemeIdentificationSequence = [scheme]
    with files.staged(path) as target:
        report.save_as(target)


def _measurement_group(
    group: Group, measurements: Measurements, cine: Cine, segmentations: Mapping[int, Dataset], software: Software
) -> sr.MeasurementsAndQualitativeEvaluations | None:
    """Return a group with all of its numbers that are known, None where none is."""
    numbers = []
    for attribute, code, unit in group.quantities:
        value = getattr(measurements, attribute)
        if isinstance(value, tuple):
            sites = zip(value, AHA_SEGMENTS, strict=True)
            numbers += [_measurement(code, part, unit, site) for part, site in sites if math.isfinite(part)]
        elif math.isfinite(value):
            numbers.append(_measurement(code, value, unit))
    if not numbers:
        return None
    if group.phases is None:
        phases = list(range(cine.phases))
    else:
        phases = sorted({getattr(measurements, attribute) for attribute in group.phases})
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=group.name),
        algorithm_id=_algorithm(software),
        finding_sites=[sr.FindingSite(group.site)] if group.site else None,
        measurements=numbers,
        qualitative_evaluations=[sr.QualitativeEvaluation(*evaluation) for evaluation in group.evaluations],
        source_images=[*_images(cine, phases), *_objects(segmentations, phases)] or None,
    )


def _quality_group(flags: Sequence[Flag], software: Software) -> sr.MeasurementsAndQualitativeEvaluations:
    findings = [private(flag.code, flag.code.replace("_", " ")[:MAX_MEANING]) for flag in flags]
    findings = findings or [private("no_flag", "No reason for doubt found")]
    evaluations = [sr.QualitativeEvaluation(codes.DCM.QualityFinding, finding) for finding in findings]
    for evaluation, flag in zip(evaluations, flags, strict=False):  # without flags there is still one evaluation
        comment = sr.TextContentItem(
            codes.DCM.Comment, flag.reason, relationship_type=sr.RelationshipTypeValues.HAS_PROPERTIES
        )
        evaluation[0].ContentSequence = sr.ContentSequence([comment])
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier="Quality"),
        algorithm_id=_algorithm(software),
        qualitative_evaluations=evaluations,
    )


def _measurement(code: Code, value: float, unit: Code, site: Code | None = None) -> sr.Measurement:
    return sr.Measurement(code, float(value), unit, finding_sites=[sr.FindingSite(site)] if site else None)


def _algorithm(software: Software) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=software.name,
        version=software.version,
        parameters=[f"model {software.model}"] if software.model else None,
        manufacturer=software.manufacturer,
    )


def _images(cine: Cine, phases: Iterable[int]) -> list[sr.SourceImageForMeasurementGroup]:
    """Return references to all images of some phases, to a multi-frame one once with all of its frames."""
    frames: dict[tuple[str, str], list[int]] = {}
    for phase in phases:
        for row in cine.instances:
            instance = row[phase]
            numbers = frames.setdefault((instance.sop_class_uid, instance.sop_instance_uid), [])
            if instance.frame_number is not None:
                numbers.append(instance.frame_number)
    return [sr.SourceImageForMeasurementGroup(*image, sorted(numbers) or None) for image, numbers in frames.items()]


def _objects(segmentations: Mapping[int, Dataset], phases: Iterable[int]) -> list[sr.SourceImageForMeasurementGroup]:
    headers = [segmentations[phase] for phase in phases if phase in segmentations]
    return [sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in headers]

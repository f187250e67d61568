"""DICOM Segmentation objects of a cine's masks, one for each phase, and the way back.

A phase is an object, and a series, of its own, because clients place segmentations by geometry. Several frames of one
segment at one position are more than they can tell apart: OHIF draws the first over the whole cycle (OHIF/Viewers
#4789), highdicom refuses to write them (ImagingDataCommons/highdicom #369). Of several objects in one series OHIF
offers the last alone. Every frame names the very image that it lies on, so that a viewer can put it there.

Empty frames are written too: without them dcmqi, and so 3D Slicer, sees a smaller stack (QIICR/dcmqi #462), and they
are one bit a pixel.

Codes: DICOM's CID 7152 (Cardiac Structure Segmentation Types) has the ventricles, CID 12305 the left ventricle's
myocardium. Neither has a cavity apart from its ventricle, so the cavities carry their ventricle's code and say in the
label that they are the cavity.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes

from cardiac_cine import files
from cardiac_cine.cine import Cine, Instance
from cardiac_cine.dicom_output import UTF_8, Software, check_sources, read_header
from cardiac_cine.dicom_planes import classic_planes
from cardiac_cine.errors import InputError
from cardiac_cine.labels import LV, MYO, RV, STRUCTURES, check_mask

# What a segment holds, by label id.
PROPERTY_TYPES = {RV: codes.SCT.RightVentricle, MYO: codes.SCT.LeftVentricleMyocardium, LV: codes.SCT.LeftVentricle}
# Beyond what scanners use for their own series, one for each phase.
SERIES_NUMBER = 9100
# What DICOM allows a description.
_MAX_TEXT = 64


def write_seg(
    cine: Cine,
    masks: np.ndarray,
    folder: Path,
    *,
    phases: Mapping[int, str] | Iterable[int] | None = None,
    software: Software | None = None,
) -> dict[int, Path]:
    """Write a Segmentation object (BINARY) for every phase, each whole or not at all.

    Segments are numbered by label id and present in every object; an empty mask gives empty frames.

    Args:
        cine: read from DICOM. Its files are read once more, without their pixels.
        masks: integer labels 0-3, (x, y, z, t), of the cine's shape.
        folder: gets ``phase01_seg.dcm`` and so on, counted from 1; made where missing.
        phases: which, counted from 0; a mapping also names them for the series' descriptions, such as
            ``{0: "end-diastole", 7: "end-systole"}``. None writes all.
        software: what made the masks.

    Returns:
        Phase, counted from 0, to its file.

    Raises:
        InputError: the cine is not from DICOM, a file cannot be read, has no frame of reference, other pixels than
            the cine or another place than its affine says.
        ValueError: ``masks`` is no mask of the cine's shape, or there is no such phase.
    """
    check_sources(cine)
    check_mask(masks, 4, "masks")
    if masks.shape != cine.array.shape:
        raise ValueError(f"masks must have the cine's shape {cine.array.shape}, got {masks.shape}")
    chosen = list(range(cine.phases) if phases is None else dict.fromkeys(phases))
    if not chosen or not set(chosen) <= set(range(cine.phases)):
        raise ValueError(f"phases must be from 0 to {cine.phases - 1}, got {chosen}")
    names = phases if isinstance(phases, Mapping) else {}
    software = software or Software()
    segments = _segments(software)
    written: dict[int, Path] = {}
    headers: dict[Path, Dataset] = {}
    for phase in chosen:
        # A multi-frame file serves all phases; of classic ones, only one phase's headers are held.
        instances = [row[phase] for row in cine.instances]
        paths = {instance.path for instance in instances}
        headers = {path: headers[path] if path in headers else read_header(path) for path in paths}
        planes = classic_planes(cine, instances, headers)
        name = f"{names[phase]}, " if names.get(phase) else ""
        segmentation = _segmentation(
            planes,
            masks[..., phase],
            segments,
            software,
            number=phase + 1,
            description=f"Cine segmentation, {name}phase {phase + 1} of {cine.phases}"[:_MAX_TEXT],
        )
        _refer_to(segmentation, {plane.SOPInstanceUID: i for plane, i in zip(planes, instances, strict=True)}, headers)
        written[phase] = folder / f"phase{phase + 1:02d}_seg.dcm"
        with files.staged(written[phase]) as target:
            segmentation.save_as(target)
    return written


def read_seg(path: Path, cine: Cine) -> dict[int, np.ndarray]:
    """Read a Segmentation object of a cine, by whichever software, as far as it uses the codes of this module.

    Args:
        path: the file.
        cine: the cine that it segments, for the images that its frames refer to.

    Returns:
        Every phase that a frame refers to, counted from 0, to its mask: uint8 labels 0-3, (x, y, z). Where an object
        leaves out empty frames, a phase without a frame is missing.

    Raises:
        InputError: not a BINARY segmentation, a segment's code is not one of ``PROPERTY_TYPES``, a frame refers to
            none or to more than one image of the cine, has other pixels, or two segments overlap.
    """
    check_sources(cine)
    try:
        segmentation = hd.seg.segread(path)
    except (InvalidDicomError, OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as a DICOM segmentation ({error})") from None
    if segmentation.segmentation_type != SegmentationTypeValues.BINARY:
        raise InputError(f"{path}: a {segmentation.segmentation_type.value} segmentation, expected BINARY")
    shape = cine.array.shape[:3]
    if (segmentation.Columns, segmentation.Rows) != shape[:2]:
        found = f"{segmentation.Columns} x {segmentation.Rows} pixels"
        raise InputError(f"{path}: {found}, expected {shape[0]} x {shape[1]} as {cine.source}")
    labels = _labels(segmentation, path)
    places = {
        (instance.sop_instance_uid, instance.frame_number): (z, t)
        for z, row in enumerate(cine.instances)
        for t, instance in enumerate(row)
    }
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    masks: dict[int, np.ndarray] = {}
    for pixels, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        z, phase = _place(groups, places, path)
        label = labels[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        plane = masks.setdefault(phase, np.zeros(shape, np.uint8))[:, :, z]
        inside = pixels.T > 0
        if plane[inside].any():
            raise InputError(f"{path}: segments overlap in slice {z + 1} of phase {phase + 1}, expected one per voxel")
        plane[inside] = label
    return masks


def _segmentation(
    planes: Sequence[Dataset],
    mask: np.ndarray,
    segments: Sequence[SegmentDescription],
    software: Software,
    *,
    number: int,
    description: str,
) -> hd.seg.Segmentation:
    return hd.seg.Segmentation(
        source_images=planes,
        pixel_array=np.ascontiguousarray(mask.T.astype(np.uint8)),  # (z, rows, columns)
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER + number,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        **software.equipment,
        specific_character_set=UTF_8,
        content_label="CINE_SEG",
        content_description=description,
        series_description=description,
        omit_empty_frames=False,
    )


def _segments(software: Software) -> list[SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=software.name,
        family=codes.DCM.ArtificialIntelligence,
        version=software.version,
        source=software.manufacturer,
        parameters={"model": software.model} if software.model else None,
    )
    return [
        SegmentDescription(
            segment_number=structure.id,
            segment_label=structure.name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=PROPERTY_TYPES[structure.id],
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            # One structure in all phases of this cine.
            tracking_uid=hd.UID(),
            tracking_id=structure.name,
            display_color=CIELabColor.from_rgb(*structure.colour),
        )
        for structure in STRUCTURES
    ]


def _refer_to(segmentation: Dataset, instances: Mapping[str, Instance], headers: Mapping[Path, Dataset]) -> None:
    """Replace the planes, wherever the segmentation refers to them, by the images that they stand for."""
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        derivation = groups.DerivationImageSequence[0]
        reference = Dataset()
        reference.update(derivation.SourceImageSequence[0])
        instance = instances[reference.ReferencedSOPInstanceUID]
        reference.update(_reference(instance))
        if instance.frame_number is not None:
            reference.ReferencedFrameNumber = instance.frame_number
        derivation.SourceImageSequence = [reference]
    # A multi-frame image once, however many of its frames are used.
    images = {instance.sop_instance_uid: instance for instance in instances.values()}.values()
    by_series: dict[str, list[Dataset]] = {}
    for instance in images:
        by_series.setdefault(headers[instance.path].SeriesInstanceUID, []).append(_reference(instance))
    segmentation.SourceImageSequence = [_reference(instance) for instance in images]
    segmentation.ReferencedSeriesSequence = []
    for uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedInstanceSequence = references
        segmentation.ReferencedSeriesSequence.append(series)


def _reference(instance: Instance) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = instance.sop_class_uid
    reference.ReferencedSOPInstanceUID = instance.sop_instance_uid
    return reference


def _labels(segmentation: hd.seg.Segmentation, path: Path) -> dict[int, int]:
    """Return segment number to label id."""
    ids = {(code.scheme_designator, code.value): label for label, code in PROPERTY_TYPES.items()}
    labels, problems = {}, []
    for number in segmentation.segment_numbers:
        segment = segmentation.get_segment_description(number)
        code = segment.segmented_property_type
        label = ids.get((code.scheme_designator, code.value))
        if label is None:
            expected = ", ".join(f"{known.value} ({known.meaning})" for known in PROPERTY_TYPES.values())
            found = f"{code.value} {code.scheme_designator} ({code.meaning})"
            problems.append(f"{path}: segment {number} is coded {found}, expected one of {expected}")
        else:
            labels[number] = label
    if problems:
        raise InputError(problems)
    return labels


def _place(groups: Dataset, places: Mapping[tuple[str, int | None], tuple[int, int]], path: Path) -> tuple[int, int]:
    """Return the slice and phase of the one image that a frame refers to."""
    references = [
        (reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber"))
        for derivation in groups.get("DerivationImageSequence", [])
        for reference in derivation.SourceImageSequence
    ]
    found = {places[reference] for reference in references if reference in places}
    if len(found) != 1:
        raise InputError(f"{path}: a frame refers to {len(found)} images of the cine ({references}), expected one")
    return found.pop()

"""The slices of one phase in one form, whichever form their files have.

highdicom takes the images that a segmentation is derived from as classic images of one series, or as one multi-frame
image without two frames at one position. A cine is neither where its frames share a file or its slices have series of
their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pydicom.valuerep import format_number_as_ds

from cardiac_cine.cine import Cine, Instance
from cardiac_cine.dicom_output import check_sources, read_evidence, read_header
from cardiac_cine.errors import InputError
from cardiac_cine.geometry import RAS_LPS

# The affine is the mean grid of slices that may be a little off it; a stack upside down is off by more.
_MAX_OFF_SLICES = 0.5
_MULTI_FRAME = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames")


def check_planes(cine: Cine) -> None:
    """Refuse a cine that no segmentation can be written about, by what its files say: UIDs, and places of one phase.

    Raises:
        InputError: as for :func:`cardiac_cine.dicom_output.read_header` and :func:`classic_planes`.
        ValueError: as for :func:`cardiac_cine.dicom_output.check_sources`.
    """
    check_sources(cine)
    read_evidence(cine)
    instances = [row[0] for row in cine.instances]
    classic_planes(cine, instances, {path: read_header(path) for path in {instance.path for instance in instances}})


def classic_planes(cine: Cine, instances: Sequence[Instance], headers: Mapping[Path, Dataset]) -> list[Dataset]:
    """Return the slices of one phase as headers of classic images, of one series, each under a UID made here.

    Args:
        cine: whose grid the slices are on.
        instances: the images, in the order of z.
        headers: of every file that the images are in; they stay as they are.

    Raises:
        InputError: an image has other pixels than the cine, lies elsewhere, or has no frame of reference or
            another one than the first.
    """
    planes: list[Dataset] = []
    problems: list[str] = []
    for z, instance in enumerate(instances):
        header = headers[instance.path]
        geometry = _geometry(header, instance, cine)
        first = (planes or [geometry])[0]
        # Scanners round each slice's orientation by itself, and may give each slice a series; highdicom wants one.
        geometry.ImageOrientationPatient = first.ImageOrientationPatient
        geometry.SeriesInstanceUID = first.get("SeriesInstanceUID", header.SeriesInstanceUID)
        geometry.SOPClassUID = MRImageStorage
        geometry.SOPInstanceUID = hd.UID()
        plane = Dataset()
        plane.update({element.tag: element for element in header if element.keyword not in _MULTI_FRAME})
        plane.update(geometry)
        planes.append(plane)
        problems += [f"{instance.path}: {problem}" for problem in _problems(plane, planes[0], z, cine)]
    if problems:
        raise InputError(problems)
    return planes


def _problems(plane: Dataset, first: Dataset, z: int, cine: Cine) -> list[str]:
    """Tell what keeps a plane from being slice ``z`` of the cine."""
    problems = []
    if (plane.Columns, plane.Rows) != cine.array.shape[:2]:
        expected = " x ".join(map(str, cine.array.shape[:2]))
        problems.append(f"{plane.Columns} x {plane.Rows} pixels, expected {expected}")
    uid = plane.get("FrameOfReferenceUID")
    if not uid or uid != first.get("FrameOfReferenceUID"):
        problems.append(
            f"FrameOfReferenceUID is {uid or 'missing'}, expected one for all slices, which places a segmentation"
        )
    place = RAS_LPS @ cine.affine @ [0, 0, z, 1]
    off = np.linalg.norm(np.array(plane.ImagePositionPatient, float) - place[:3])
    if off > _MAX_OFF_SLICES * cine.spacing_mm[2]:
        problems.append(f"lies {off:.1f} mm off slice {z + 1} of the cine's affine")
    return problems


def _geometry(header: Dataset, instance: Instance, cine: Cine) -> Dataset:
    """Return a slice's attributes of the Image Plane module."""
    groups = [header] * 3
    if instance.frame_number is not None:
        names = ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")
        groups = [_group(header, instance.frame_number, name) for name in names]
    measures, orientation, position = groups
    geometry = Dataset()
    geometry.PixelSpacing = measures.PixelSpacing
    geometry.SpacingBetweenSlices = format_number_as_ds(cine.spacing_mm[2])
    geometry.SliceThickness = measures.get("SliceThickness") or geometry.SpacingBetweenSlices
    geometry.ImageOrientationPatient = orientation.ImageOrientationPatient
    geometry.ImagePositionPatient = position.ImagePositionPatient
    return geometry


def _group(header: Dataset, frame_number: int, keyword: str) -> Dataset:
    """Return a functional group of a frame: its own, or the one that all frames share."""
    own = header.PerFrameFunctionalGroupsSequence[frame_number - 1]
    groups = own if keyword in own else header.SharedFunctionalGroupsSequence[0]
    return groups[keyword].value[0]

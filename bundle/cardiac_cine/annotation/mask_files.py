"""Masks from and for viewers. They come in any format that SimpleITK reads, with the viewer's axes and label values.

3D Slicer writes segments as 1, 2, 3 in the order of its list, whatever they are, and in a .seg.nrrd several layers
that may overlap, each segment's layer, value and name in the header (Slicer's documentation, "Segmentation file
format"). Tools also reorder and flip axes; voxels and world stay the same, and so they are put back.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError

from cardiac_cine import geometry
from cardiac_cine.annotation.label_store import write_volume
from cardiac_cine.errors import InputError
from cardiac_cine.images import Frame, check_pair
from cardiac_cine.labels import STRUCTURES

_IDS = {name.lower(): structure.id for structure in STRUCTURES for name in (structure.key, structure.name)}
# Before a NIfTI file's voxels; viewers write some hundred bytes. And of a voxel, of the largest type there is.
_HEADER_BYTES, _VOXEL_BYTES = 1 << 16, 16
_EXPECTED = f"expected one of {', '.join(structure.key for structure in STRUCTURES)}"


@dataclass(frozen=True)
class Segment:
    """What voxels of a value in a layer (from 0) of a file are."""

    name: str
    value: int
    layer: int = 0


def structure_id(name: str) -> int | None:
    """Return the label id of a structure's key or full name in any case, None for any other name."""
    return _IDS.get(name.strip().lower())


def read_mask(path: Path, image: Frame, segments: Sequence[Mapping[str, Any]] = ()) -> np.ndarray:
    """Read a mask onto an image's grid.

    Args:
        path: a 3D file; a .seg.nrrd may have several layers.
        image: the grid; messages call it by ``image.name``, and the mask "the label".
        segments: what the viewer says of its segments, in its order: ``{"name": ...}`` and, where values do not count
            up from 1, ``"value"``. Used where the file itself does not say. With none, or where values exceed their
            number and none has a "value", values are label ids.

    Returns:
        uint8 label ids 0-3, (x, y, z) as ``image.array``.

    Raises:
        InputError: unreadable, voxels of another grid, a value that is no whole number or none of the segments, a
            segment that is drawn and is none of the structures, or segments that overlap.
    """
    layers, affine, own = _read(path, image.array.shape)
    layers, affine = _reoriented(layers, affine, image.affine)
    _check_grid(Frame(Path("the label"), layers[..., 0], affine), image)
    mask = np.zeros(image.array.shape, np.uint8)
    problems: list[str] = []
    meanings = own or _meanings(segments, layers)
    for layer in range(layers.shape[3]):
        for value in np.unique(layers[..., layer]).tolist():
            if value == 0:
                continue
            name = next((s.name for s in meanings if (s.value, s.layer) == (value, layer)), None)
            label = structure_id(name) if name is not None else None
            inside = layers[..., layer] == value
            if label is None:
                found = f"voxels of value {value:g}" if name is None else f"the segment {name[:64]!r}"
                problems.append(f"the label holds {found}, {_EXPECTED}")
            elif (mask[inside] != 0).any():
                problems.append(f"the segment {name!r} overlaps another, expected one structure for each voxel")
            else:
                mask[inside] = label
    if problems:
        raise InputError(problems)
    return mask


def write_for_viewer(mask: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a mask in the form that the file's name says: .nrrd, .nii or .nii.gz.

    A NRRD file is not compressed and has its voxels in the order of the image's, x fastest: OHIF takes them as they
    are, without a look at the geometry.

    Args:
        mask: label ids, (x, y, z).
        affine: 4 x 4 voxel to world, mm, NIfTI's axes.
        path: the file.
    """
    mask = mask.astype(np.uint8)
    if path.suffix != ".nrrd":
        write_volume(mask, affine, path)
        return
    lps = geometry.RAS_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(mask.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=False)


def _meanings(segments: Sequence[Mapping[str, Any]], layers: np.ndarray) -> list[Segment]:
    ids = [Segment(structure.key, structure.id) for structure in STRUCTURES]
    if not segments:
        return ids
    if not any("value" in segment for segment in segments) and layers.max() > len(segments):
        return ids
    try:
        return [Segment(str(s["name"]), int(s.get("value", i))) for i, s in enumerate(segments, start=1)]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError("the label's segments must be a list of objects with a name, and a value if any") from None


def _read(path: Path, expected: Sequence[int]) -> tuple[np.ndarray, np.ndarray, list[Segment]]:
    """Read layers (x, y, z, layer), affine and what the file says of its segments.

    A small file can announce more voxels, or a longer header, than fit the memory, so both are held against what is
    expected before they are read.
    """
    kind = "the label is not readable, expected a 3D image (.nii, .nii.gz, .nrrd, .seg.nrrd)"
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            image = _nifti(path, expected)
            _check_size(image.shape, expected)
            scales = np.linalg.norm(image.affine[:3, :3], axis=0)
            # As LoadImaged repairs it: an sform of other scales than pixdim's gives way to the qform.
            same = np.allclose(image.header.get_zooms()[:3], scales)
            array, affine = np.asanyarray(image.dataobj), image.affine if same else image.get_qform()
            return array[..., None], affine, []
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_size(reader.GetSize(), expected)
        volume = reader.Execute()
    except (RuntimeError, ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{kind} ({str(error).strip().splitlines()[-1][:200]})".replace(str(path), "it")) from None
    array = sitk.GetArrayFromImage(volume)
    # (z, y, x), and (z, y, x, layer) of several.
    array = array.swapaxes(0, 2) if volume.GetNumberOfComponentsPerPixel() > 1 else array.T[..., None]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(volume.GetDirection(), (3, 3)) * volume.GetSpacing()
    affine[:3, 3] = volume.GetOrigin()
    return array, geometry.RAS_LPS @ affine, _header_segments(volume)


def _nifti(path: Path, expected: Sequence[int]) -> nib.Nifti1Image:
    """Read as much of a NIfTI file as a short header and the image's voxels can take."""
    with Opener(path, "rb") as stream:
        start = stream.read(_HEADER_BYTES + _VOXEL_BYTES * math.prod(expected))
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        header = start[: kind.header_class.sizeof_hdr]
        if kind.header_class.may_contain_header(header):
            offset = float(kind.header_class(header, check=False)["vox_offset"])
            if not offset <= _HEADER_BYTES:
                raise InputError(f"the label's header takes {offset:.0f} bytes, expected at most {_HEADER_BYTES}")
            return kind.from_bytes(start)
    raise ImageFileError("no NIfTI header")


def _check_size(shape: Sequence[int], expected: Sequence[int]) -> None:
    if len(shape) != 3:
        raise InputError(f"the label is of shape {tuple(shape)}, expected a 3D image")
    if math.prod(map(int, shape)) > math.prod(expected):
        raise InputError(f"the label is of shape {tuple(shape)}, expected no more voxels than the image's {expected}")


def _header_segments(volume: sitk.Image) -> list[Segment]:
    """Return what a .seg.nrrd says of its segments; values that are not there are those of older files."""
    keys = {key: volume.GetMetaData(key) for key in volume.GetMetaDataKeys()}
    numbers = sorted(int(m[1]) for key in keys if (m := re.fullmatch(r"Segment(\d+)_Name", key)))
    try:
        return [
            Segment(
                keys[f"Segment{number}_Name"],
                int(keys.get(f"Segment{number}_LabelValue", 1)),
                int(keys.get(f"Segment{number}_Layer", 0)),
            )
            for number in numbers
        ]
    except ValueError:
        raise InputError("the label's header has a segment whose LabelValue or Layer is no number") from None


def _reoriented(layers: np.ndarray, affine: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder and flip the axes so that they point along the target's; an oblique difference is left as it is."""
    try:
        orientation = io_orientation(np.linalg.inv(target) @ affine)
    except np.linalg.LinAlgError:
        raise InputError(f"the label has a singular affine {affine.tolist()}") from None
    if np.isnan(orientation).any():
        raise InputError(f"the label has a singular affine {affine.tolist()}")
    return apply_orientation(layers, orientation), affine @ inv_ornt_aff(orientation, layers.shape[:3])


def _check_grid(label: Frame, image: Frame) -> None:
    try:
        check_pair(image, label)
    except InputError as error:
        found, expected = (
            f"{' x '.join(map(str, frame.array.shape))} voxels of "
            f"{' x '.join(f'{mm:.4g}' for mm in geometry.spacing_mm(frame.affine))} mm"
            for frame in (label, image)
        )
        raise InputError(f"{error}; found {found}, expected the grid of {image.name}, {expected}") from None

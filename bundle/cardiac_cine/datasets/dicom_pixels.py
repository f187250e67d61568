"""Pixels of DICOM images, decompressed and rescaled, one image at a time."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import config, dcmread
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from cardiac_cine.datasets.dicom_errors import UNREADABLE, one_line
from cardiac_cine.datasets.dicom_headers import Plane
from cardiac_cine.errors import InputError


def dtype_of(planes: Sequence[Plane]) -> np.dtype:
    """Return int16 or uint16 where that holds every value the images may have, float32 otherwise."""
    low, high = math.inf, -math.inf
    for plane in planes:
        if not (plane.slope.is_integer() and plane.intercept.is_integer()):
            return np.dtype(np.float32)
        _, stored, signed = plane.header.bits
        ends = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
        values = [end * plane.slope + plane.intercept for end in ends]
        low, high = min(low, *values), max(high, *values)
    for dtype in (np.int16, np.uint16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float32)


def read(planes: Sequence[Plane]) -> Iterator[np.ndarray]:
    """Yield the rescaled values (x, y) of images that lie in one file, in the order given.

    pydicom decodes; what it has no decoder for, lossless JPEG above all, goes through SimpleITK's.

    Raises:
        InputError: the file is missing, truncated or corrupted, of another size than its header says, or in an
            encoding that cannot be decoded.
    """
    path, syntax = planes[0].header.path, UID(planes[0].header.transfer_syntax_uid, config.IGNORE)
    try:
        for plane, values in zip(planes, _decoded(path, syntax, planes), strict=True):
            if values.shape != plane.header.size:
                raise ValueError(f"{values.shape} columns and rows, expected {plane.header.size}")
            yield values
    except UNREADABLE as error:
        raise InputError(
            f"{path}: pixels not readable as {syntax.name} ({one_line(error)}), expected a whole DICOM image"
        ) from None


def _decoded(path: Path, syntax: UID, planes: Sequence[Plane]) -> Iterator[np.ndarray]:
    if not _has_decoder(syntax):
        yield from _decoded_by_itk(path, planes)
        return
    indices = None if planes[0].frame_number is None else [(plane.frame_number or 1) - 1 for plane in planes]
    # pydicom seeks pixels in the file, where those of a deflated one do not lie.
    source = dcmread(path) if syntax == DeflatedExplicitVRLittleEndian else path
    for plane, pixels in zip(planes, iter_pixels(source, indices=indices, raw=True), strict=True):
        if (plane.slope, plane.intercept) == (1, 0):
            yield pixels.T
        else:
            yield pixels.T * np.float64(plane.slope) + plane.intercept


def _has_decoder(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _decoded_by_itk(path: Path, planes: Sequence[Plane]) -> Iterator[np.ndarray]:
    import SimpleITK

    if len({(plane.slope, plane.intercept) for plane in planes}) > 1:
        raise ValueError("no decoder for frames that are rescaled differently")
    # SimpleITK rescales by itself.
    frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
    for plane in planes:
        yield frames[(plane.frame_number or 1) - 1].T

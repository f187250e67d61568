"""Phantom cines, and whatever else lies in a study, as DICOM files in the forms that scanners and archives give them.

Source: phantoms of :mod:`~cardiac_cine.datasets.phantom`; no value comes from a patient. Pixels hold the arrays' exact
values. Geometry follows PS3.3 C.7.6.2: an array's x runs along the columns, y along the rows.

- Layouts say how images are numbered, named and split into series; :data:`LAYOUTS` lists them.
- Vendors say which attributes hold the time in the cycle: all give ``TriggerTime``; SIEMENS adds ``NominalInterval``,
  GE ``HeartRate`` and ``CardiacNumberOfImages``, PHILIPS ``HeartRate``, temporal positions and a rescale slope that
  is not 1.
- Times count from the R wave in ms. UIDs follow from ``Study.seed``, so equal arguments give equal files.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from cardiac_cine import files
from cardiac_cine.datasets.phantom import PhantomCine
from cardiac_cine.datasets.phantom_enhanced import enhanced_image
from cardiac_cine.datasets.phantom_study import VENDORS, Series, Study, decimal, pixel_module, plane, series_module
from cardiac_cine.errors import InputError

__all__ = ["LAYOUTS", "VENDORS", "Series", "Study", "write_dicom", "write_series"]

LAYOUTS = ("phase_major", "slice_major", "series_per_slice", "reversed", "shuffled", "enhanced")
# Philips stores scaled values; these powers of two keep integers exact.
PHILIPS_SLOPE, PHILIPS_INTERCEPT = 0.5, -20.0
# The pulse sequence of the classic cine.
_REPETITION_MS, _ECHO_MS, _FLIP_DEG, _FIELD_T = 3.2, 1.6, 60, 1.5


def write_dicom(cine: PhantomCine, folder: str | Path, *, layout: str = "phase_major", **fields: Any) -> list[Path]:
    """Write a phantom's cine as one study of one short-axis series, or one series for each slice.

    Args:
        cine: the rendered phantom.
        folder: made where missing; files already in it stay.
        layout: one of ``LAYOUTS``. "reversed" numbers the slices from the last, "shuffled" gives names and numbers
            that say nothing, "enhanced" writes one multi-frame file.
        fields: of :class:`Study`: ``vendor``, ``seed``, ``patient_id`` and so on.

    Returns:
        The files.

    Raises:
        InputError: (a ValueError) unknown layout or vendor.
        TypeError: ``Study`` has no such field.
    """
    frame_ms = 1000 * cine.spec.frame_time_s
    series = Series(times_ms=frame_ms * np.array(cine.frames), rr_ms=frame_ms * cine.spec.phases)
    return write_series(cine.image, cine.affine, Path(folder), study=Study(**fields), series=series, layout=layout)


def write_series(
    array: np.ndarray, affine: np.ndarray, folder: Path, *, study: Study, series: Series, layout: str = "phase_major"
) -> list[Path]:
    """Write one series of parallel slices, each whole or not at all.

    A localiser is three calls with one slice each, a long-axis view one slice of many phases, late enhancement many
    slices of one phase.

    Args:
        array: integers of 0 to 32767, (x, y, z) or (x, y, z, t).
        affine: 4 x 4 voxel to world, mm, NIfTI's axes.
        folder: made where missing.
        study: patient, study and scanner.
        series: the series.
        layout: one of ``LAYOUTS``.

    Returns:
        The files.

    Raises:
        InputError: (a ValueError) unknown layout.
        ValueError: ``array`` has another number of axes, type or range.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {LAYOUTS}, got {layout!r}")
    voxels = array[..., None] if array.ndim == 3 else array
    if voxels.ndim != 4 or not np.issubdtype(voxels.dtype, np.integer):
        raise ValueError(f"array must hold integers (x, y, z) or (x, y, z, t), got {array.shape} of {array.dtype}")
    if voxels.min() < 0 or voxels.max() > np.iinfo(np.int16).max:
        raise ValueError(f"array must lie within 0 to 32767, got {voxels.min()} to {voxels.max()}")
    if series.times_ms is not None:
        series = replace(series, times_ms=np.broadcast_to(series.times_ms, voxels.shape[2:]))
    if layout == "enhanced":
        path = folder / f"series{series.number:03d}.dcm"
        _write(enhanced_image(voxels, affine, study, series), path)
        return [path]
    written = []
    slices, phases = voxels.shape[2:]
    order = np.random.default_rng([study.seed, series.number]).permutation(slices * phases)
    for z, t in np.ndindex(slices, phases):
        number = {
            "slice_major": z * phases + t,
            "series_per_slice": t,
            "reversed": t * slices + slices - 1 - z,
            "shuffled": int(order[z * phases + t]),
        }.get(layout, t * slices + z)
        own = replace(series, number=series.number + z) if layout == "series_per_slice" else series
        image = _classic_image(voxels, affine, (z, t), study, own, number + 1)
        stem = f"series{own.number:03d}" if layout != "shuffled" else f"{order[-1 - number] % 7:02d}"
        name = f"IM{number + 1:05d}.dcm" if layout != "shuffled" else image.SOPInstanceUID.rpartition(".")[2]
        _write(image, folder / stem / name)
        written.append(folder / stem / name)
    return written


def _classic_image(
    voxels: np.ndarray, affine: np.ndarray, index: tuple[int, int], study: Study, series: Series, number: int
) -> Dataset:
    z, t = index
    ds = study.patient_module()
    ds.update(study.equipment_module())
    ds.SOPClassUID = CTImageStorage if series.modality == "CT" else MRImageStorage
    ds.SOPInstanceUID = study.uid("image", series.number, series.description, z, t)
    series_module(ds, study, series)
    ds.InstanceNumber = number
    ds.AcquisitionNumber = 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, distance = plane(affine, z)
    ds.SliceThickness = distance
    if series.modality == "CT":
        ds.KVP = "120"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "HU"
        pixel_module(ds, voxels[:, :, z, t])
    else:
        _sequence_module(ds, distance)
        _cycle_attributes(ds, index, voxels.shape[3], study, series)
        stored = voxels[:, :, z, t]
        if study.vendor == "PHILIPS":
            ds.RescaleSlope, ds.RescaleIntercept = decimal(PHILIPS_SLOPE), decimal(PHILIPS_INTERCEPT)
            ds.RescaleType = "US"
            stored = ((stored - PHILIPS_INTERCEPT) / PHILIPS_SLOPE).astype(np.uint16)
        pixel_module(ds, stored)
    for keyword, value in series.attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    return ds


def _sequence_module(ds: Dataset, distance: str) -> None:
    """Set the attributes of the MR Image module: balanced steady-state free precession."""
    ds.ScanningSequence = "GR"
    ds.SequenceVariant = ["SK", "SP", "SS"]
    ds.ScanOptions = "CG"
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = decimal(_REPETITION_MS), decimal(_ECHO_MS), decimal(_FLIP_DEG)
    ds.EchoTrainLength = 1
    ds.MagneticFieldStrength = decimal(_FIELD_T)
    ds.SpacingBetweenSlices = distance


def _cycle_attributes(ds: Dataset, index: tuple[int, int], phases: int, study: Study, series: Series) -> None:
    if series.times_ms is None:
        return
    ds.TriggerTime = decimal(series.times_ms[index])
    if study.vendor == "PHILIPS":
        ds.TemporalPositionIdentifier = index[1] + 1
        ds.NumberOfTemporalPositions = phases
    else:
        ds.CardiacNumberOfImages = phases
    if math.isfinite(series.rr_ms):
        if study.vendor == "SIEMENS":
            ds.NominalInterval = round(series.rr_ms)
        else:
            ds.HeartRate = round(60_000 / series.rr_ms)


def _write(ds: Dataset, path: Path) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    with files.staged(path) as target:
        ds.save_as(target, enforce_file_format=True)

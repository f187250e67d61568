"""What an annotator gets of a phase or a cine while drawing: masks, numbers, flags, and a file for the viewer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

from cardiac_cine.annotation.label_store import write_volume
from cardiac_cine.annotation.library import Library
from cardiac_cine.cine import Cine
from cardiac_cine.files import plain
from cardiac_cine.geometry import RAS_LPS
from cardiac_cine.measurements import Measurements, measure, volumes_ml
from cardiac_cine.quality import Flag, quality_flags
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.workflow import segment_study

# Two phases make no curve.
_CURVES = ("lv_volume_ml", "rv_volume_ml", "myo_volume_ml", "times_ms")


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network makes of a cine: masks (x, y, z, t), measurements, flags, and how far it agrees with itself."""

    masks: np.ndarray
    measured: Measurements
    flags: tuple[Flag, ...]
    agreement: Mapping[str, float]


def phase_of(cine: Cine, phase: int) -> Cine:
    """Return one phase, counted from 0, as a cine of its own."""
    return replace(cine, array=cine.array[..., phase : phase + 1], times_ms=None, instances=())


def answer(segmenter: Segmenter, cine: Cine) -> Answer:
    """Segment, measure and check a whole cine as ``scripts/segment.py`` does."""
    masks, _ = segment_study(segmenter, cine)
    measured = measure(masks, cine.affine, times_ms=cine.times_ms, rr_ms=cine.rr_ms, patient=cine.patient)
    agreement = segmenter.agreement(cine, (measured.ed_frame, measured.es_frame))
    flags = quality_flags(masks, cine, measured, uncertainty=agreement)
    return Answer(masks, measured, flags, agreement)


def numbers(library: Library, image_id: str, mask: np.ndarray | None = None) -> dict[str, Any]:
    """Measure and check a phase's mask.

    Args:
        library: of the image and its cine's other phases.
        image_id: the phase.
        mask: label ids, (x, y, z); by default the phase's standing label.

    Returns:
        As JSON values ``volumes_ml`` and ``quality_flags`` of this phase, and ``measurements`` at end-diastole and
        end-systole, {} until both have masks. {} where there is no mask.
    """
    entry = library.entry(image_id)
    cine = library.cine(entry.case)
    mask = library.label_array(entry.id, library.standing(entry.id)) if mask is None else mask
    if mask is None:
        return {}
    masks = mask[..., None]
    found = quality_flags(masks, phase_of(cine, entry.phase), measure(masks, cine.affine, patient=cine.patient))
    flags = [vars(flag) for flag in found if flag.code != "single_phase"]
    key_phases: dict[str, tuple[int, np.ndarray]] = {}
    for each in library.phases_of(entry.case):
        own = each.id == entry.id
        one = mask if own else library.label_array(each.id, library.standing(each.id)) if each.key else None
        if each.key and one is not None:
            key_phases[each.key] = (each.phase, one)
    measured = measure_key_phases(cine, key_phases["ED"], key_phases["ES"]) if len(key_phases) == 2 else {}
    volumes = vars(volumes_ml(mask, cine.spacing_mm))
    return plain({"volumes_ml": volumes, "measurements": measured, "quality_flags": flags})


def measure_key_phases(cine: Cine, ed: tuple[int, np.ndarray], es: tuple[int, np.ndarray]) -> dict[str, Any]:
    """Measure a cine of which two phases are segmented.

    Args:
        cine: what was segmented.
        ed: end-diastole, counted from 0, and its mask, integer labels 0-3, (x, y, z).
        es: end-systole, likewise.

    Returns:
        The fields of :class:`cardiac_cine.measurements.Measurements` but for curves over the cycle, as JSON values.

    Raises:
        ValueError: a mask is not 3D of integer ids 0-3, or their shapes differ.
    """
    masks = np.stack((ed[1], es[1]), axis=-1)
    pair = measure(masks, cine.affine, rr_ms=cine.rr_ms, patient=cine.patient, ed_frame=0, es_frame=1)
    found = pair.to_dict() | {"ed_frame": ed[0], "es_frame": es[0], "phases": cine.phases}
    return {key: value for key, value in found.items() if key not in _CURVES}


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
    lps = RAS_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(mask.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=False)

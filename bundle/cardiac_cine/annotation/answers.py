"""What an annotator gets of a phase or a cine while drawing: masks, numbers and flags."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cardiac_cine.annotation.library import Library
from cardiac_cine.cine import Cine
from cardiac_cine.files import plain
from cardiac_cine.measurements import CURVES, Measurements, measure, volumes_ml
from cardiac_cine.quality import Flag, quality_flags
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.workflow import segment_study


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network makes of a cine: masks (x, y, z, t), measurements, flags, and how far it agrees with itself."""

    masks: np.ndarray
    measured: Measurements
    flags: tuple[Flag, ...]
    agreement: Mapping[str, float]


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
    found = quality_flags(masks, cine.single_phase(entry.phase), measure(masks, cine.affine, patient=cine.patient))
    flags = [vars(flag) for flag in found if flag.code != "single_phase"]
    key_phases: dict[str, tuple[int, np.ndarray]] = {}
    for each in library.phases_of(entry.case):
        if each.key:
            other = mask if each.id == entry.id else library.label_array(each.id, library.standing(each.id))
            if other is not None:
                key_phases[each.key] = (each.phase, other)
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
    return {key: value for key, value in found.items() if key not in CURVES}  # two phases make no curve

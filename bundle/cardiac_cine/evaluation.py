"""What an evaluation against references finds: per frame, per patient and over all. Pure functions on masks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from cardiac_cine.agreement import Agreement, compare_masks
from cardiac_cine.anatomy import NAIVE, degenerated_slices, exposed_lv
from cardiac_cine.cases import PHASES
from cardiac_cine.labels import STRUCTURE_IDS, STRUCTURE_KEYS
from cardiac_cine.levels import count_by_level, slice_levels
from cardiac_cine.measurements import ef_percent
from cardiac_cine.statistics import MethodAgreement, Summary, method_agreement, summarise

# Bins from base to apex of the histogram of degenerated slices.
LEVEL_BINS = 10
CAVITIES = ("lv", "rv")
# Thirds of the heart, and slices where the reference has none.
LEVELS = ("base", "middle", "apex")
BEYOND = "beyond"


@dataclass(frozen=True)
class SliceFinding:
    """A degenerated slice of one frame.

    Attributes:
        index: slice index along z, from 0.
        level: 0 at the base to 1 at the apex of the reference; NaN beyond the reference or where it has no ends.
        reasons: the criteria that the slice fails, in words.
        reference_too: the expert's own slice fails as well.
    """

    index: int
    level: float
    reasons: tuple[str, ...]
    reference_too: bool


@dataclass(frozen=True)
class Overlap:
    """Pixels of one structure in one slice, as counted for Dice.

    Attributes:
        common: in both masks.
        predicted: in the prediction.
        reference: in the reference.
    """

    common: int
    predicted: int
    reference: int


@dataclass(frozen=True)
class FrameResult:
    """All findings for one frame.

    Attributes:
        case: the image's name.
        patient: whose it is.
        phase: "ED" or "ES", "" where unknown.
        group: pathology group, "" where unknown.
        agreements: one per structure.
        degenerated: slices of the prediction that fail the calibrated criteria.
        degenerated_naive: how many fail the criteria as printed.
        reference_degenerated: how many of the reference's slices fail the calibrated criteria.
        pieces: how many of the prediction's structures are in more than one piece; voxels that share a corner are one.
        open_rings: how many of the prediction's slices show the LV touching background or the RV.
        reference_open_rings: how many of the reference's do.
        levels: level of every slice, see :func:`cardiac_cine.levels.slice_levels`.
        overlaps: of every slice, one per structure in the order of the label ids.
    """

    case: str
    patient: str
    phase: str
    group: str
    agreements: tuple[Agreement, ...]
    degenerated: tuple[SliceFinding, ...]
    degenerated_naive: int
    reference_degenerated: int
    pieces: int
    open_rings: int
    reference_open_rings: int
    levels: tuple[float, ...]
    overlaps: tuple[tuple[Overlap, ...], ...]

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures that either mask holds; NaN where there is none."""
        return summarise([agreement.dice for agreement in self.agreements]).mean


def evaluate_frame(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], about: Mapping[str, Any]
) -> FrameResult:
    """Compare one predicted frame with its reference.

    Args:
        prediction: integer labels 0-3, (x, y, z).
        reference: the expert's, same shape.
        spacing_mm: spacing along x, y, z in mm.
        about: ``case`` and, where known, ``patient``, ``phase`` and ``group``.

    Raises:
        ValueError: as :func:`cardiac_cine.agreement.compare_masks`.
    """
    agreements = compare_masks(prediction, reference, spacing_mm)
    levels = slice_levels(reference)
    expert = degenerated_slices(reference, spacing_mm)
    findings = tuple(
        SliceFinding(z, float(levels[z]), tuple(criterion.reason for criterion in failed), z in expert)
        for z, failed in degenerated_slices(prediction, spacing_mm).items()
    )
    return FrameResult(
        case=str(about["case"]),
        patient=str(about.get("patient", about["case"])),
        phase=str(about.get("phase", "")),
        group=str(about.get("group", "")),
        agreements=agreements,
        degenerated=findings,
        degenerated_naive=len(degenerated_slices(prediction, spacing_mm, tolerances=NAIVE)),
        reference_degenerated=len(expert),
        pieces=sum(_is_in_pieces(prediction == structure) for structure in STRUCTURE_IDS),
        open_rings=_open_rings(prediction),
        reference_open_rings=_open_rings(reference),
        levels=tuple(levels.tolist()),
        overlaps=tuple(_overlaps(prediction[..., z], reference[..., z]) for z in range(reference.shape[2])),
    )


def _is_in_pieces(structure: np.ndarray) -> bool:
    return bool(ndimage.label(structure, np.ones((3, 3, 3)))[1] > 1)


def _open_rings(mask: np.ndarray) -> int:
    return int(exposed_lv(mask).any(axis=(0, 1)).sum())


def _overlaps(prediction: np.ndarray, reference: np.ndarray) -> tuple[Overlap, ...]:
    found = []
    for structure in STRUCTURE_IDS:
        ours, theirs = prediction == structure, reference == structure
        found.append(Overlap(*(int(np.count_nonzero(pixels)) for pixels in (ours & theirs, ours, theirs))))
    return tuple(found)


def worst_first(results: Sequence[FrameResult]) -> list[FrameResult]:
    """Return the frames by rising mean Dice, undefined ones first."""
    return sorted(results, key=lambda result: (not math.isnan(result.mean_dice), result.mean_dice))


@dataclass(frozen=True)
class Cell:
    """One phase and structure of the summary table."""

    phase: str
    structure: str
    dice: Summary
    hausdorff_mm: Summary
    hd95_mm: Summary
    assd_mm: Summary
    empty_predictions: int


def summary_cells(results: Sequence[FrameResult]) -> list[Cell]:
    """Summarise over frames, ED before ES, in the order LV, RV, MYO of the published table.

    Frames of an unknown phase make a phase of their own, named "". A phase without frames gives no cells.
    """
    cells = []
    for phase in [name for name in (*PHASES, "") if any(result.phase == name for result in results)]:
        for key in ("lv", "rv", "myo"):
            found = [a for r in results if r.phase == phase for a in r.agreements if a.structure == key]
            cells.append(
                Cell(
                    phase,
                    key,
                    dice=summarise([a.dice for a in found]),
                    hausdorff_mm=summarise([a.hausdorff_mm for a in found]),
                    hd95_mm=summarise([a.hd95_mm for a in found]),
                    assd_mm=summarise([a.assd_mm for a in found]),
                    empty_predictions=sum(a.volume_ml == 0 and a.reference_volume_ml > 0 for a in found),
                )
            )
    return cells


@dataclass(frozen=True)
class GroupCell:
    """One pathology group and structure, both phases together."""

    group: str
    structure: str
    dice: Summary
    hausdorff_mm: Summary


def group_cells(results: Sequence[FrameResult]) -> list[GroupCell]:
    """Summarise over the frames of each pathology group, in alphabetical order; "" where it is unknown."""
    return [
        GroupCell(group, key, summarise([a.dice for a in found]), summarise([a.hausdorff_mm for a in found]))
        for group in sorted({result.group for result in results})
        for key in STRUCTURE_KEYS
        for found in [[a for r in results if r.group == group for a in r.agreements if a.structure == key]]
    ]


@dataclass(frozen=True)
class LevelCell:
    """One structure in the slices of one level, all frames together.

    Attributes:
        level: "base", "middle", "apex", thirds of the reference's heart, or "beyond" it.
        structure: its key.
        slices: how many of them hold the structure in either mask.
        dice: of all their pixels together; NaN where there are none.
    """

    level: str
    structure: str
    slices: int
    dice: float


def level_cells(results: Sequence[FrameResult]) -> list[LevelCell]:
    """Pool the slices of all frames by level, from base to apex and beyond."""
    pooled: dict[tuple[str, str], list[Overlap]] = {
        (level, key): [] for level in (*LEVELS, BEYOND) for key in STRUCTURE_KEYS
    }
    for result in results:
        for level, overlaps in zip(result.levels, result.overlaps, strict=True):
            name = BEYOND if math.isnan(level) else LEVELS[min(int(level * len(LEVELS)), len(LEVELS) - 1)]
            for key, overlap in zip(STRUCTURE_KEYS, overlaps, strict=True):
                if overlap.predicted or overlap.reference:
                    pooled[name, key].append(overlap)
    return [LevelCell(*place, len(found), _pooled_dice(found)) for place, found in pooled.items()]


def _pooled_dice(overlaps: Sequence[Overlap]) -> float:
    size = sum(overlap.predicted + overlap.reference for overlap in overlaps)
    return 2 * sum(overlap.common for overlap in overlaps) / size if size else math.nan


@dataclass(frozen=True)
class PatientEjection:
    """One patient's volumes and ejection fraction of one cavity, predicted and reference."""

    patient: str
    group: str
    cavity: str
    edv_ml: float
    esv_ml: float
    ef_percent: float
    reference_edv_ml: float
    reference_esv_ml: float
    reference_ef_percent: float


def ejections(results: Sequence[FrameResult]) -> list[PatientEjection]:
    """Return volumes and ejection fraction of both cavities for every patient who has an ED and an ES frame.

    A cavity that a mask lacks has 0 mL there and, as in the measurements of a cine, no ejection fraction: NaN.
    """
    frames = {(result.patient, result.phase): result for result in results}
    found = []
    for patient in dict.fromkeys(result.patient for result in results):
        pair = [frames.get((patient, phase)) for phase in PHASES]
        if pair[0] is None or pair[1] is None:
            continue
        for cavity in CAVITIES:
            index = STRUCTURE_KEYS.index(cavity)
            ed, es = pair[0].agreements[index], pair[1].agreements[index]
            found.append(
                PatientEjection(
                    patient=patient,
                    group=pair[0].group,
                    cavity=cavity,
                    edv_ml=ed.volume_ml,
                    esv_ml=es.volume_ml,
                    ef_percent=_ef_percent(ed.volume_ml, es.volume_ml),
                    reference_edv_ml=ed.reference_volume_ml,
                    reference_esv_ml=es.reference_volume_ml,
                    reference_ef_percent=_ef_percent(ed.reference_volume_ml, es.reference_volume_ml),
                )
            )
    return found


def _ef_percent(edv_ml: float, esv_ml: float) -> float:
    return ef_percent(edv_ml, esv_ml) if esv_ml > 0 else math.nan


def ejection_agreement(patients: Sequence[PatientEjection], cavity: str, quantity: str) -> MethodAgreement:
    """Compare a quantity over patients.

    Args:
        patients: what :func:`ejections` returns.
        cavity: "lv" or "rv".
        quantity: "ef_percent", "edv_ml" or "esv_ml".
    """
    chosen = [patient for patient in patients if patient.cavity == cavity]
    return method_agreement(
        [getattr(patient, quantity) for patient in chosen],
        [getattr(patient, f"reference_{quantity}") for patient in chosen],
    )


@dataclass(frozen=True)
class Degeneration:
    """Degenerated slices over all frames, by level from base to apex.

    Attributes:
        slices: slices of the references that have a level, per bin.
        degenerated: slices of the predictions that fail the calibrated criteria, per bin.
        beyond: degenerated slices beyond the reference's base or apex.
        frames: frames with any degenerated slice.
        naive: slices that fail the criteria as printed.
        reference: slices of the references that fail the calibrated criteria.
        worse_than_reference: degenerated slices whose reference slice passes.
    """

    slices: tuple[int, ...]
    degenerated: tuple[int, ...]
    beyond: int
    frames: int
    naive: int
    reference: int
    worse_than_reference: int


def degeneration(results: Sequence[FrameResult]) -> Degeneration:
    """Count degenerated slices by level."""
    findings = [finding for result in results for finding in result.degenerated]
    failed = count_by_level([finding.level for finding in findings], LEVEL_BINS)
    return Degeneration(
        slices=count_by_level([level for result in results for level in result.levels], LEVEL_BINS).counts,
        degenerated=failed.counts,
        beyond=failed.without_level,
        frames=sum(bool(result.degenerated) for result in results),
        naive=sum(result.degenerated_naive for result in results),
        reference=sum(result.reference_degenerated for result in results),
        worse_than_reference=sum(not finding.reference_too for finding in findings),
    )

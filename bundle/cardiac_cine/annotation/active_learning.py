"""Which phase of which cine to annotate next: what a model makes of an image, and how an image differs from others.

Every score is higher where a label is expected to teach more. The formulas are pure functions on arrays; those that
take a segmenter use its public stages alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_numpy

from cardiac_cine.cine import Cine
from cardiac_cine.geometry import spacing_mm as spacing_of
from cardiac_cine.labels import NUM_CLASSES, STRUCTURE_IDS, STRUCTURES, check_mask
from cardiac_cine.measurements import ef_percent, volumes_ml
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.temporal import MIN_PHASES

# A softmax is never 0: without a floor, the tens of thousands of voxels far from a heart add up to one of their own.
_FLOOR = 0.01
# Intensities between these percentiles are scaled to 0-1, as the network's preprocessing scales them.
_RANGE_PERCENT = (0.5, 99.5)
_QUARTILES_PERCENT = (25, 50, 75)
# What describe() tells, in its order.
DESCRIPTORS = ("pixel_mm", "slice_mm", "view_mm", "slices", "phases", "quartile_1", "median", "quartile_3", "motion")


@dataclass(frozen=True)
class Spread:
    """How far a cine's measurements depend on how the model is asked, standard deviations over the test-time variants.

    Attributes:
        lv_ef_points: of the left ventricle's ejection fraction, in points (per cent of the end-diastolic volume).
        lv_edv_ml: of its end-diastolic volume.
        lv_esv_ml: of its end-systolic volume.
    """

    lv_ef_points: float
    lv_edv_ml: float
    lv_esv_ml: float


@dataclass(frozen=True)
class PhaseScores:
    """What a model makes of one phase of a cine; higher is more worth a label. NaN is what cannot be told.

    Attributes:
        uncertainty: mean of ``structures``.
        structures: structure key to :func:`dice_uncertainty`.
        temporal: mean of :func:`temporal_disagreement` over the cine, the same in all its phases.
        temporal_phase: the phase's own disagreement with its neighbours.
        spread: of the cine's measurements, the same in all its phases; see :func:`ef_spread`.
        features: of the network's bottleneck, see :func:`bottleneck_features`.
    """

    uncertainty: float
    structures: dict[str, float]
    temporal: float
    temporal_phase: float
    spread: Spread
    features: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name, one level deep; numbers that cannot be told are NaN."""
        structures = {f"uncertainty_{key}": value for key, value in self.structures.items()}
        spread = {f"spread_{key}": value for key, value in asdict(self.spread).items()}
        phase = {"temporal": self.temporal, "temporal_phase": self.temporal_phase}
        return {"uncertainty": self.uncertainty, **structures, **phase, **spread, "features": self.features.tolist()}


def dice_uncertainty(probabilities: np.ndarray) -> dict[str, float]:
    """Return how far a prediction of each structure is expected to overlap with the truth, taken from 1.

    This is 1 - SDC with the soft Dice confidence SDC = 2 sum(p m) / (sum(p) + sum(m)), p a structure's probability
    and m its mask, the most likely label; nearly the expected Dice where voxels err independently (Borges, Pacheco and
    Silva, Soft Dice Confidence, arXiv:2402.10665). Background counts for nothing, so neither the field of view nor the
    empty slices matter, and a heart twice as large in the same proportions gives the same. As with Dice, an edge of the
    same width in mm weighs more in a smaller structure.

    Args:
        probabilities: (4, x, y, z), background first, 0 to 1; below 0.01 they count as 0.

    Returns:
        Structure key to 0 (sure) to 1. A structure that is nowhere the most likely label gives 1: a stack of a heart
        has all three, and with any truth the overlap would be 0.

    Raises:
        ValueError: not four channels of probabilities.
    """
    if probabilities.ndim != 4 or len(probabilities) != NUM_CLASSES:
        raise ValueError(f"probabilities must be ({NUM_CLASSES}, x, y, z), got shape {probabilities.shape}")
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("probabilities must be from 0 to 1")
    labels = probabilities.argmax(0)
    uncertainty = {}
    for structure in STRUCTURES:
        likely = probabilities[structure.id].astype(float)
        mask = labels == structure.id
        total = likely[likely >= _FLOOR].sum() + mask.sum()
        uncertainty[structure.key] = float(1 - 2 * likely[mask].sum() / total) if mask.any() else 1.0
    return uncertainty


def temporal_disagreement(masks: np.ndarray) -> tuple[float, ...]:
    """Return how far each phase's mask differs from what it and its two neighbours in time say together.

    For each structure 1 - Dice between the mask and the majority of the three, then the mean over the structures. A
    border that moves one way costs nothing, however fast, since the phase in the middle is the majority; what comes and
    goes costs, and so, a little, does the turn at end-diastole and end-systole. No label and no second model is needed.

    Args:
        masks: integer labels 0-3, (x, y, z, t), the phases of one cycle, of which the last precedes the first.

    Returns:
        One value from 0 to 1 for each phase. A structure that neither the phase nor the majority has is left out; NaN
        without any. With fewer than 8 phases, all are NaN.

    Raises:
        ValueError: ``masks`` is not a 4D integer array of ids 0-3.
    """
    check_mask(masks, 4, "masks")
    count = masks.shape[3]
    if count < MIN_PHASES:
        return (math.nan,) * count
    disagreement = np.full((len(STRUCTURE_IDS), count), math.nan)
    for row, structure in enumerate(STRUCTURE_IDS):
        for phase in range(count):
            before, own, after = (masks[..., (phase + step) % count] == structure for step in (-1, 0, 1))
            # The majority differs from the phase where its neighbours agree with each other and not with it.
            changed = (before == after) & (own != before)
            total = 2 * own.sum() + (changed & before).sum() - (changed & own).sum()
            if total:
                disagreement[row, phase] = changed.sum() / total
    return tuple(_mean(column) for column in disagreement.T)


def ef_spread(edv_ml: Sequence[float], esv_ml: Sequence[float]) -> Spread:
    """Return the sample standard deviations of the ejection fraction and the volumes over variants of a prediction.

    Wang et al. (Neurocomputing 338, 2019) estimate uncertainty by test-time augmentation in the same way, and take it
    up to what is measured.

    Args:
        edv_ml: end-diastolic volume in each variant.
        esv_ml: end-systolic volume in the same variants.

    Returns:
        The spread. A volume of 0 mL was not found: its variant is left out. NaN where fewer than two are left.

    Raises:
        ValueError: the two are of different lengths, or a volume is negative or infinite.
    """
    edv, esv = (np.where(np.asarray(ml, float) == 0, math.nan, ml) for ml in (edv_ml, esv_ml))
    ef = np.array([ef_percent(*pair) for pair in zip(edv, esv, strict=True)])
    return Spread(*(_deviation(values) for values in (ef, edv, esv)))


def novelty(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return how far each point is from the nearest centre, one step of the greedy k-centre choice.

    Taking the farthest point and making it a centre, again and again, covers all points within at most twice the best
    possible distance (Gonzalez, Theor Comput Sci 38, 1985); in the space of a network's features that is the core-set
    of Sener and Savarese (ICLR 2018).

    Args:
        points: (n, d).
        centres: (m, d), what is labelled. Without any, the first choice is the most typical point.

    Returns:
        (n,) Euclidean distances; without centres, minus the distances from the points' mean.
    """
    if not len(points):
        return np.zeros(0)
    if not len(centres):
        return -np.linalg.norm(points - points.mean(0), axis=1)
    return np.min([np.linalg.norm(points - centre, axis=1) for centre in centres], axis=0)


def standardise(points: np.ndarray) -> np.ndarray:
    """Return points (n, d) with mean 0 and standard deviation 1 in every column.

    A constant column becomes 0, and so does NaN: what is unknown is taken as the mean of what is known.
    """
    known = np.isfinite(points)
    count = np.maximum(known.sum(0), 1)
    centred = np.where(known, points - np.where(known, points, 0).sum(0) / count, 0)
    scale = np.sqrt((centred**2).sum(0) / count)
    # Rounding leaves a constant column a scale of some 1e-16.
    return np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 1e-9)


def describe(cine: Cine) -> np.ndarray:
    """Describe a cine without a model: resolution, extent, contrast and motion.

    Returns:
        (9,), one for each of ``DESCRIPTORS``: logarithms of the pixel size (mm), slice spacing (mm), in-plane field of
        view (mm, square root of the area), slices and phases; the quartiles of the intensities scaled to 0-1; and the
        motion, the mean absolute change of the scaled intensities from phase to phase, summed over the cycle; NaN for
        a single phase.
    """
    x, y, z = cine.spacing_mm
    nx, ny, slices, phases = cine.array.shape
    low, high = np.percentile(cine.array, _RANGE_PERCENT)
    scale = max(high - low, 1e-6)
    quartiles = np.clip((np.percentile(cine.array, _QUARTILES_PERCENT) - low) / scale, 0, 1)
    motion, before = 0.0, np.clip((cine.array[..., -1] - low) / scale, 0, 1)
    for phase in range(phases):
        now = np.clip((cine.array[..., phase] - low) / scale, 0, 1)
        motion += float(np.abs(now - before).mean())
        before = now
    return np.array(
        [
            *np.log([math.sqrt(x * y), z, math.sqrt(nx * x * ny * y), slices, phases]),
            *quartiles,
            motion if phases > 1 else math.nan,
        ]
    )


def score_phases(
    segmenter: Segmenter, cine: Cine, masks: np.ndarray, phases: Iterable[int], *, ed_frame: int, es_frame: int
) -> dict[int, PhaseScores]:
    """Score phases of a segmented cine.

    Args:
        segmenter: the model.
        cine: the cine.
        masks: of all its phases by this model, as :meth:`cardiac_cine.segmenter.Segmenter.segment_cine` returns them.
        phases: which to score, counted from 0.
        ed_frame: end-diastole, counted from 0.
        es_frame: end-systole; where it is the same, there is no ejection fraction and its spread is NaN.

    Returns:
        The scores of each phase asked for.
    """
    disagreement = temporal_disagreement(masks)
    wanted = sorted({*phases})
    uncertainty, features, volumes = {}, {}, {}
    for phase in sorted({*wanted, ed_frame, es_frame}):
        with _bottleneck(segmenter) as seen:
            data = segmenter.predict(segmenter.preprocess(cine.frame(phase)))
        uncertainty[phase] = dice_uncertainty(convert_to_numpy(torch.softmax(data["pred"].float(), 0)))
        features[phase] = bottleneck_features(seen, data["image"].shape[-1])
        if phase in (ed_frame, es_frame):
            volumes[phase] = list(_lv_volumes_ml(segmenter, data))
    esv = volumes[es_frame] if es_frame != ed_frame else [math.nan] * len(volumes[ed_frame])
    spread = ef_spread(volumes[ed_frame], esv)
    return {
        phase: PhaseScores(
            uncertainty=_mean(uncertainty[phase].values()),
            structures=uncertainty[phase],
            temporal=_mean(disagreement),
            temporal_phase=disagreement[phase],
            spread=spread,
            features=features[phase],
        )
        for phase in wanted
    }


def bottleneck_features(seen: Sequence[torch.Tensor], slices: int) -> np.ndarray:
    """Return what the network's deepest layer says of a frame: the mean over slices and positions, (channels,).

    Args:
        seen: the layer's outputs in the order of the calls, (n, channels, x, y) each.
        slices: of the frame; only the last so many count, since those before come from the search for the heart.
    """
    means = torch.cat([output.float().mean(dim=(2, 3)) for output in seen])
    return means[-slices:].mean(0).cpu().numpy().astype(float)


@contextmanager
def _bottleneck(segmenter: Segmenter) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of the network's deepest layer while the segmenter predicts."""
    seen: list[torch.Tensor] = []
    handle = segmenter.network.get_submodule("bottleneck").register_forward_hook(
        lambda layer, inputs, output: seen.append(output)
    )
    try:
        yield seen
    finally:
        handle.remove()


def _lv_volumes_ml(segmenter: Segmenter, data: Mapping[str, MetaTensor]) -> Iterator[float]:
    """Yield the LV's volume in a prediction and in each of its test-time variants, before postprocessing."""
    image = data["image"]
    spacing = spacing_of(convert_to_numpy(image.affine))
    yield volumes_ml(convert_to_numpy(data["pred"]).argmax(0), spacing).lv_ml
    for logits in segmenter.variants(segmenter.around_heart(image.as_tensor())):
        yield volumes_ml(convert_to_numpy(logits).argmax(0), spacing).lv_ml


def _mean(values: Iterable[float]) -> float:
    """Return the mean of what is known, NaN where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _deviation(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan

"""Agreement of a predicted with a reference mask of one frame: overlap, and surface distances in millimetres."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance
from scipy import ndimage

from cardiac_cine.geometry import voxel_volume_ml
from cardiac_cine.labels import STRUCTURES, check_mask


@dataclass(frozen=True)
class Agreement:
    """How well two masks agree on one structure.

    Attributes:
        structure: the structure's key, such as "lv".
        dice: Dice overlap, 0 to 1. NaN where both masks lack the structure, 0 where one lacks it.
        hausdorff_mm: largest distance from one surface to the other, the worse direction of the two.
        hd95_mm: the same with the 95th percentile in place of the largest.
        assd_mm: average symmetric surface distance, over the surface voxels of both masks together.
        volume_ml: the predicted volume.
        reference_volume_ml: the reference's volume.

    The three distances are NaN where either mask lacks the structure.
    """

    structure: str
    dice: float
    hausdorff_mm: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    reference_volume_ml: float


def compare_masks(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> tuple[Agreement, ...]:
    """Compare two masks of one frame, structure by structure.

    Distances are three-dimensional, between the centres of surface voxels (those with a face neighbour outside the
    structure), as MONAI's metrics define them.

    Args:
        prediction: integer labels 0-3, (x, y, z).
        reference: integer labels 0-3, same shape.
        spacing_mm: spacing along x, y, z in mm.

    Returns:
        One agreement per structure, in the order of the label ids. What an absent structure gives is told at
        :class:`Agreement`.

    Raises:
        ValueError: a mask is not a 3D integer array of ids 0-3, the shapes differ, or ``spacing_mm`` is not three
            positive numbers.
    """
    check_mask(prediction, 3, "prediction")
    check_mask(reference, 3, "reference")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference must have one shape, got {prediction.shape} and {reference.shape}")
    voxel_ml = voxel_volume_ml(spacing_mm)
    return tuple(
        _compare(structure.key, prediction == structure.id, reference == structure.id, spacing_mm, voxel_ml)
        for structure in STRUCTURES
    )


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Return the Dice overlap of two boolean arrays of one shape, 0 to 1; NaN where both are empty."""
    size = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / size if size else math.nan


def _compare(
    key: str, prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], voxel_ml: float
) -> Agreement:
    size, reference_size = int(prediction.sum()), int(reference.sum())
    hausdorff_mm = hd95_mm = assd_mm = math.nan
    if size and reference_size:
        # Erosion takes what lies beyond the box for background, so the crop moves no surface.
        box = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]
        edges = get_mask_edges(prediction[box], reference[box], crop=False)
        distances = [
            np.asarray(get_surface_distance(start, end, spacing=list(spacing_mm)))
            for start, end in (edges, edges[::-1])
        ]
        hausdorff_mm = float(max(distance.max() for distance in distances))
        hd95_mm = float(max(np.quantile(distance, 0.95) for distance in distances))
        assd_mm = float(np.concatenate(distances).mean())
    overlap = dice(prediction, reference)
    return Agreement(key, overlap, hausdorff_mm, hd95_mm, assd_mm, size * voxel_ml, reference_size * voxel_ml)

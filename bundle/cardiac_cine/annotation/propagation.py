"""Carry a correction to the next phase of a cine: what was changed in one phase moves with the heart.

The network errs alike in neighbouring phases, so a correction of one is a proposal for the next. Where the corrected
mask differs from the network's, the label is moved along by optical flow (TV-L1: Zach, Pock and Bischof, DAGM 2007)
between the two images, slice by slice; elsewhere the network's own mask of that phase stays, since it follows the
contraction better than a registration does.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from scipy import ndimage
from skimage.registration import optical_flow_tvl1

from cardiac_cine.geometry import with_margin
from cardiac_cine.labels import BACKGROUND, NUM_CLASSES, check_mask
from cardiac_cine.postprocess import repair

# Round what is labelled: the flow needs some surroundings, and time grows with the area.
_MARGIN_MM = 25.0


def carry_on(
    array: np.ndarray,
    label: np.ndarray,
    phase: int,
    reach: int,
    spacing_mm: Sequence[float],
    *,
    segment: Callable[[int], np.ndarray],
    stops: Collection[int] = (),
) -> Iterator[tuple[int, np.ndarray]]:
    """Carry a phase's label on from phase to phase, in both directions of the cycle.

    Args:
        array: the cine, (x, y, z, t); the last phase precedes the first.
        label: of the phase, integer labels 0-3, (x, y, z).
        phase: which, counted from 0.
        reach: how many phases to either side; no phase is reached twice.
        spacing_mm: spacing along x, y and z in mm.
        segment: gives the network's mask of a phase.
        stops: phases that need no proposal, and end the way that leads to them.

    Yields:
        A phase and its mask, see :func:`carry`.

    Raises:
        ValueError: as :func:`carry`, or ``reach`` is less than 1.
    """
    if reach < 1:
        raise ValueError(f"reach must be 1 or more, got {reach}")
    first = segment(phase)
    ended = {phase, *stops}
    for step in (1, -1):
        here, mask, automatic = phase, label, first
        for _ in range(reach):
            there = (here + step) % array.shape[3]
            if there in ended:
                break
            ended.add(there)
            proposed = segment(there)
            mask = carry((array[..., here], array[..., there]), mask, (automatic, proposed), spacing_mm)
            yield there, mask
            here, automatic = there, proposed


def carry(
    images: tuple[np.ndarray, np.ndarray],
    corrected: np.ndarray,
    automatic: tuple[np.ndarray, np.ndarray],
    spacing_mm: Sequence[float],
) -> np.ndarray:
    """Return a mask of the next phase that has this phase's correction in it.

    Args:
        images: this phase and the next, (x, y, z).
        corrected: this phase's mask after correction, integer labels 0-3, (x, y, z).
        automatic: the network's masks of this phase and the next.
        spacing_mm: spacing along x, y and z in mm.

    Returns:
        A new mask, uint8, repaired (:func:`cardiac_cine.postprocess.repair`) in the slices that changed. It is
        ``automatic[1]`` where nothing was corrected.

    Raises:
        ValueError: a mask is not 3D of integer ids 0-3, or the shapes differ.
    """
    for name, mask in (("corrected", corrected), ("automatic[0]", automatic[0]), ("automatic[1]", automatic[1])):
        check_mask(mask, 3, name)
    shapes = {array.shape for array in (*images, corrected, *automatic)}
    if len(shapes) > 1:
        raise ValueError(f"images and masks must have one shape, got {sorted(shapes)}")
    result = automatic[1].astype(np.uint8)
    changed = corrected != automatic[0]
    touched = np.flatnonzero(changed.any(axis=(0, 1)))
    for z in touched:
        marked = changed[..., z] | (corrected[..., z] > 0) | (result[..., z] > 0)
        x, y = (with_margin(marked.any(axis=1 - axis), round(_MARGIN_MM / spacing_mm[axis])) for axis in (0, 1))
        window = (x, y, z)
        here, there = (_scaled(image[window]) for image in images)
        labels, region = _moved(here, there, corrected[window], changed[window])
        result[window] = np.where(region, labels, result[window])
    if len(touched):
        repaired = repair(result, spacing_mm)
        result[..., touched] = repaired[..., touched]
    return result


def completed(
    label: np.ndarray, automatic: np.ndarray, structures: Collection[int] = (), slices: Collection[int] = ()
) -> np.ndarray:
    """Return a label that covers part of a heart, completed by the network's mask.

    Args:
        label: integer labels 0-3, (x, y, z).
        automatic: the network's mask of the same phase.
        structures: ids that the label covers; none given: the label covers all.
        slices: that it covers, likewise.

    Returns:
        A new mask, uint8: the network's, but in covered slices without the covered structures, where the label's are
        drawn instead. What the label leaves of another structure stays.

    Raises:
        ValueError: a mask is not 3D of integer ids 0-3, or the shapes differ.
    """
    for name, mask in (("label", label), ("automatic", automatic)):
        check_mask(mask, 3, name)
    if label.shape != automatic.shape:
        raise ValueError(f"label must have automatic's shape {automatic.shape}, got {label.shape}")
    if not structures and not slices:
        return label.astype(np.uint8)
    here = np.isin(np.arange(label.shape[2]), list(slices))
    result = automatic.astype(np.uint8)
    result[here & np.isin(automatic, list(structures))] = BACKGROUND
    drawn = here & np.isin(label, list(structures))
    result[drawn] = label[drawn]
    return result


def _moved(
    here: np.ndarray, there: np.ndarray, labels: np.ndarray, changed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the changed region as they lie in the other image."""
    rows, columns = optical_flow_tvl1(there, here)
    x, y = np.indices(here.shape)
    places = (x + rows, y + columns)
    shares = [
        ndimage.map_coordinates((labels == label).astype(np.float32), places, order=1, mode="nearest")
        for label in range(NUM_CLASSES)
    ]
    region = ndimage.map_coordinates(changed.astype(np.float32), places, order=1, mode="nearest") >= 0.5
    return np.argmax(shares, axis=0).astype(np.uint8), region


def _scaled(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    return ((image.astype(np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)

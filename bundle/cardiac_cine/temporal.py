"""Agreement of a heart's phases with each other: a slice that differs from the phases before and after gives way.

Every phase is segmented by itself, so now and then a slice near the base or the apex is lost or taken for ventricle in
a single phase. Averaging all phases would mend that and also flatten end-systole; so only slices whose area jumps out
and back within one phase are changed, by the vote of three phases. Base and apex follow the same rule in every phase:
whether a slice belongs to the ventricle is the network's decision, at end-diastole as at end-systole.
"""

import numpy as np

from cardiac_cine.labels import NUM_CLASSES, STRUCTURE_IDS, check_mask

# A jump has to exceed this share of the structure's largest area in that slice over the cycle ...
_JUMP = 0.25
# ... and this share of the change between the two neighbours, which is the slice's own motion.
_MOTION = 2.0
# With fewer phases, neighbours are too far apart to say what lies between them.
MIN_PHASES = 8


def stabilise(masks: np.ndarray) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Replace slices that jump out and back within one phase.

    Args:
        masks: integer labels 0-3, (x, y, z, t), the phases of one cycle, of which the last precedes the first.

    Returns:
        New masks, uint8, and the (slice, phase) pairs that were replaced, each by the majority of its own label and
        those of the phases before and after. Fewer than 8 phases come back unchanged.

    Raises:
        ValueError: ``masks`` is not a 4D integer array of ids 0-3.
    """
    check_mask(masks, 4, "masks")
    masks = masks.astype(np.uint8)
    if masks.shape[3] < MIN_PHASES:
        return masks, ()
    jumps = np.zeros(masks.shape[2:], bool)
    for structure in STRUCTURE_IDS:
        jumps |= _jumps(np.count_nonzero(masks == structure, axis=(0, 1)))
    result = masks.copy()
    replaced = [(int(z), int(phase)) for z, phase in np.argwhere(jumps)]
    for z, phase in replaced:
        around = [masks[:, :, z, (phase + step) % masks.shape[3]] for step in (-1, 0, 1)]
        votes = np.stack([sum(labels == label for labels in around) for label in range(NUM_CLASSES)])
        # Where all three differ, the phase keeps its own label.
        result[:, :, z, phase] = np.where(votes.max(0) > 1, votes.argmax(0), around[1])
    return result, tuple(replaced)


def _jumps(areas: np.ndarray) -> np.ndarray:
    """Tell where areas (z, t) lie beyond both neighbours in time, on the same side of both."""
    before, after = np.roll(areas, 1, axis=1), np.roll(areas, -1, axis=1)
    above = areas - np.maximum(before, after)
    below = np.minimum(before, after) - areas
    jump = np.maximum(above, below)
    largest = areas.max(axis=1, keepdims=True)
    return (jump > _JUMP * largest) & (jump > _MOTION * np.abs(after - before))

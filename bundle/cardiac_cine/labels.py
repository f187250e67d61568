"""The one source of truth for label ids, names and colours.

Inside the bundle every mask uses ACDC's ids. Another dataset's adapter maps its ids on the way in.
"""

from dataclasses import dataclass

import numpy as np

BACKGROUND = 0
RV = 1
MYO = 2
LV = 3


@dataclass(frozen=True)
class Structure:
    """One segmented structure: its id in masks, short key, full name and display colour (sRGB, 0-255)."""

    id: int
    key: str
    name: str
    colour: tuple[int, int, int]


# In the order of their ids, which is also the order of the network's output channels after background.
STRUCTURES = (
    Structure(RV, "rv", "right ventricular cavity", (214, 39, 40)),
    Structure(MYO, "myo", "left ventricular myocardium", (31, 119, 220)),
    Structure(LV, "lv", "left ventricular cavity", (44, 190, 60)),
)
STRUCTURE_IDS = tuple(structure.id for structure in STRUCTURES)
STRUCTURE_KEYS = tuple(structure.key for structure in STRUCTURES)
BY_KEY = {structure.key: structure for structure in STRUCTURES}
NUM_CLASSES = 1 + len(STRUCTURES)


def check_mask(mask: np.ndarray, ndim: int, name: str = "mask") -> None:
    """Refuse an array that is not a mask in this package's labels.

    Args:
        mask: the array.
        ndim: number of axes it must have.
        name: what the message calls it.

    Raises:
        ValueError: wrong number of axes, no voxels, not integers, or an id outside 0-3.
    """
    if mask.ndim != ndim or mask.size == 0:
        raise ValueError(f"{name} must be a non-empty {ndim}D array, got shape {mask.shape}")
    if mask.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integer label ids, got {mask.dtype}")
    if mask.min() < 0 or mask.max() >= NUM_CLASSES:
        raise ValueError(f"{name} holds label ids {np.unique(mask).tolist()}, expected only {list(range(NUM_CLASSES))}")

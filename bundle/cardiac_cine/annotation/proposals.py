"""What one phase's label proposes for the phases beside it: :mod:`cardiac_cine.annotation.propagation` in a library."""

from functools import lru_cache

import numpy as np

from cardiac_cine.annotation.library import Library
from cardiac_cine.annotation.phase_images import Entry
from cardiac_cine.annotation.propagation import carry_on, completed
from cardiac_cine.cine import Cine
from cardiac_cine.errors import InputError
from cardiac_cine.segmenter import Segmenter


def propose_neighbours(
    library: Library, entry: Entry, cine: Cine, segmenter: Segmenter, *, reach: int, model: str
) -> tuple[np.ndarray, list[str]]:
    """Carry a phase's label on in both directions, up to what is drawn by hand, as "original" labels.

    Args:
        library: of the image; gets the labels.
        entry: the phase; its own label stays.
        cine: that it is a phase of.
        segmenter: with the model's network.
        reach: how many phases to either side.
        model: kept with the labels.

    Returns:
        The phase's label, (x, y, z), and the images that got labels.

    Raises:
        InputError: the phase has no label, or ``reach`` is no whole number from 1 to the number of other phases.
    """
    tag = library.standing(entry.id)
    label = library.label_array(entry.id, tag)
    if label is None:
        raise InputError(f"{entry.id}: there is no label to carry on, save one first")
    if not isinstance(reach, int) or not 1 <= reach < cine.phases:
        raise InputError(f"reach must be a number of phases from 1 to {cine.phases - 1}, got {reach!r}")

    @lru_cache
    def segment(phase: int) -> np.ndarray:
        return segmenter.segment_cine(cine.single_phase(phase))[..., 0]

    entries, to = library.phases_of(entry.case), list[str]()
    stops = [each.phase for each in entries if library.by_hand(each.id)]
    start = completed(label, segment(entry.phase), *library.annotated(entry.id, tag))
    for phase, mask in carry_on(cine.array, start, entry.phase, reach, cine.spacing_mm, segment=segment, stops=stops):
        told = {"source": "carried", "carried_from": entry.id, "model": model}
        library.propose(entries[phase].id, mask, asked=False, **told)
        to.append(entries[phase].id)
    return label, to

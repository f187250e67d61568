"""From a network's answer to anatomy: one piece of each structure, and slices that a heart can have.

Of the probabilities the most likely label counts, but for an RV that is small in its most basal slice. LV and MYO
that lie beside the rest at an end of the heart, or do not go on there as the ventricle narrows, are cleared.

Slices that pass the criteria of :mod:`cardiac_cine.anatomy` are left as they are, but for pixels of the LV that touch
background or the RV: these become myocardium, so that the ring is closed. One that fails is replaced by the
candidate that passes with the fewest pixels changed: islands and holes are cleared up, the wall is closed round the
LV, contours are smoothed by opening or closing, and where nothing else will do, the slice loses its RV or all of it.
"""

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from skimage.morphology import convex_hull_image, disk

from cardiac_cine.anatomy import exposed_lv, slice_faults
from cardiac_cine.geometry import spacing_mm as spacing_of
from cardiac_cine.geometry import with_margin
from cardiac_cine.labels import BACKGROUND, LV, MYO, RV, STRUCTURE_IDS, check_mask
from cardiac_cine.levels import base_is_first

# Repairing a slice may cut a structure's last bridge to the next slice, which the next round clears up.
_ROUNDS = 4
# Radii to smooth contours with; more than half the wall of a hypertrophic heart is another shape.
_SMOOTHING_MM = (1.5, 3.0, 6.0, 12.0)
# Labelled pixels are more often right than the background that a broken slice shows.
_LOSS = 1
# Tidying that costs more than this share of a slice has lost the heart.
_TIDY = 0.5
# How far slices may be apart, and how much they share, to belong together. ACDC's experts' slices share 0.39 and more.
_NEAR, _SHARED = 2, 0.35
# How far off the slice above, and how much of a slice, is no longer the same ventricle. None of ACDC's experts' is.
_OFF_MM, _MOST = 10.0, 0.5
_EIGHT = np.ones((3, 3), bool)
_TWENTY_SIX = np.ones((3, 3, 3), bool)


def repair(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a frame's mask with one component of each structure, a closed ring round the LV and no degenerated slice.

    Args:
        mask: integer labels 0-3, (x, y, z).
        spacing_mm: spacing along x, y, z in mm.

    Returns:
        A new mask, uint8, of the same shape. Slices that pass the criteria change only where they hold an island in
        three dimensions, where LV and MYO do not go on at an end of the heart, or where the LV touches background or
        the RV. An empty mask stays empty. In rare cases a slice is beyond repair after all rounds and is
        cleared.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3.
    """
    check_mask(mask, 3)
    mask = without_detached_slices(largest_components(mask))
    in_plane_mm = (float(spacing_mm[0]), float(spacing_mm[1]))
    passed: dict[int, np.ndarray] = {}
    for attempt in itertools.count():
        mask = largest_components(mask)
        # Checking takes longer than all else, so a slice that passed is checked again only where it changed.
        changed = [z for z in range(mask.shape[2]) if z not in passed or (mask[..., z] != passed[z]).any()]
        failing = [z for z in changed if slice_faults(mask[..., z], in_plane_mm)]
        passed.update({z: mask[..., z].copy() for z in changed if z not in failing})
        for z in failing:
            mask[..., z] = repair_slice(mask[..., z], in_plane_mm) if attempt < _ROUNDS else BACKGROUND
        # Only gaps that are too small to be a fault are left to close here; a wide one is for the repair to judge.
        exposed = exposed_lv(mask) & (not failing)
        mask[exposed] = MYO
        if not failing and not exposed.any():
            narrowing = without_stray_ends(mask, in_plane_mm)
            if (narrowing == mask).all():
                break
            mask = narrowing
    return mask


def most_likely(probabilities: np.ndarray, min_basal_rv: float) -> np.ndarray:
    """Return the most likely label of every voxel, but no RV in its most basal slice where it is small there.

    The RV is wide up to its base. Beyond that lie the atrium and the outflow tract, which look much like it in one
    slice: the network draws a small RV there, and the readers mostly none.

    Args:
        probabilities: (4, x, y, z), background first.
        min_basal_rv: share of the area of its largest slice that the RV needs in its most basal one to stay there; 0
            for no such rule.

    Returns:
        Label ids (x, y, z), uint8. The RV keeps one slice at least, and all where the base cannot be told, see
        :func:`cardiac_cine.levels.base_is_first`.
    """
    mask = torch.from_numpy(probabilities).max(0).indices.numpy().astype(np.uint8)  # numpy's argmax takes twice as long
    heart = largest_components(mask)
    rv = heart == RV
    slices = np.flatnonzero(rv.any(axis=(0, 1)))
    first_is_base = base_is_first(heart)
    if len(slices) > 1 and first_is_base is not None:
        z = slices[0] if first_is_base else slices[-1]
        areas = rv.sum(axis=(0, 1))
        if areas[z] < min_basal_rv * areas.max():
            mask[..., z][mask[..., z] == RV] = BACKGROUND
    return mask


def largest_components(mask: np.ndarray) -> np.ndarray:
    """Keep each structure's largest component, voxels that share a corner being connected.

    Args:
        mask: integer labels 0-3, (x, y, z).

    Returns:
        A new mask, uint8.
    """
    kept = np.zeros(mask.shape, np.uint8)
    for box in ndimage.find_objects((mask != BACKGROUND).astype(np.uint8)):  # one, or none where the mask is empty
        for structure in STRUCTURE_IDS:
            kept[box][_largest(mask[box] == structure, _TWENTY_SIX)] = structure
    return kept


def without_detached_slices(mask: np.ndarray) -> np.ndarray:
    """Clear LV and MYO at an end of the heart where they lie beside the rest, as where they are seen in the RV's apex.

    Slices next to each other, or with one between them, belong together where ``_SHARED`` of the smaller one's LV and
    MYO lies over the other's. What is beyond the largest part that belongs together is cleared.

    Args:
        mask: integer labels 0-3, (x, y, z).

    Returns:
        A new mask, uint8.
    """
    mask = mask.astype(np.uint8)
    heart = (mask == LV) | (mask == MYO)
    areas = heart.sum(axis=(0, 1))
    slices = np.flatnonzero(areas)
    if not len(slices):
        return mask
    together = [
        [
            abs(a - b) <= _NEAR and np.count_nonzero(heart[..., a] & heart[..., b]) >= _SHARED * min(areas[a], areas[b])
            for a in slices
        ]
        for b in slices
    ]
    _, part = connected_components(np.array(together))
    kept = slices[part == np.bincount(part, weights=areas[slices]).argmax()]
    for z in slices[(slices < kept[0]) | (slices > kept[-1])]:
        mask[..., z][heart[..., z]] = BACKGROUND
    return mask


def without_stray_ends(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Clear LV and MYO in the most basal and the most apical slice where they do not go on as the ventricle narrows.

    From base to apex, each slice's LV and MYO lie about within those of the slice above. In an end slice of which that
    is not so, ``_MOST`` of the lower of the two more than ``_OFF_MM`` off the upper, an arc was drawn along the atrium,
    or a ring round the RV's apex.

    Args:
        mask: labels 0-3, (x, y, z), uint8.
        spacing_mm: spacing along x and y in mm.

    Returns:
        A new mask, uint8; unchanged with fewer than three slices, or where the base cannot be told, see
        :func:`cardiac_cine.levels.base_is_first`.
    """
    heart = (mask == LV) | (mask == MYO)
    slices = np.flatnonzero(heart.any(axis=(0, 1)))
    first_is_base = base_is_first(mask)
    if len(slices) < 3 or first_is_base is None:
        return mask.copy()
    down = slices if first_is_base else slices[::-1]
    cleared = mask.copy()
    for end, upper, lower in ((down[0], down[0], down[1]), (down[-1], down[-2], down[-1])):
        off_mm = ndimage.distance_transform_edt(~heart[..., upper], sampling=spacing_mm)
        if np.mean(off_mm[heart[..., lower]] > _OFF_MM) > _MOST:
            cleared[..., end][heart[..., end]] = BACKGROUND
    return cleared


def repair_slice(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a slice near to a given one that passes the criteria.

    Args:
        mask: integer labels 0-3, (x, y).
        spacing_mm: spacing along x and y in mm.

    Returns:
        The mask itself where it passes; else the tidied slice, without islands and holes and with the wall closed round
        the LV, where that passes; else the candidate that passes at the lowest cost: a pixel for each change, and
        ``_LOSS`` more for each that falls to the background. Clearing the slice is a candidate, too.
    """
    if not slice_faults(mask, spacing_mm):
        return mask
    margin = 1 + round(max(_SMOOTHING_MM) / min(spacing_mm))
    window = (with_margin(mask.any(1), margin), with_margin(mask.any(0), margin))
    part = mask[window]
    repaired = np.zeros_like(mask)
    repaired[window] = _cheapest(part, spacing_mm)
    return repaired


def _cheapest(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    candidates = _candidates(mask, spacing_mm)
    tidied = next(candidates)
    if _cost(tidied, mask) < _TIDY * np.count_nonzero(mask) and not slice_faults(tidied, spacing_mm):
        return tidied
    distinct = {candidate.tobytes(): candidate for candidate in (tidied, *candidates)}
    for candidate in sorted(distinct.values(), key=lambda candidate: _cost(candidate, mask)):
        if not slice_faults(candidate, spacing_mm):
            return candidate
    return np.zeros_like(mask)


def _cost(candidate: np.ndarray, mask: np.ndarray) -> int:
    changed = candidate != mask
    return int(np.count_nonzero(changed) + _LOSS * np.count_nonzero(changed & (candidate == BACKGROUND)))


class MostLikelyd(MapTransform):
    """:func:`most_likely` as a dictionary transform from probabilities (4, x, y, z) to masks (1, x, y, z).

    Args:
        keys: of the probabilities.
        min_basal_rv: see there.
    """

    def __init__(self, keys: KeysCollection, min_basal_rv: float) -> None:
        super().__init__(keys)
        self.min_basal_rv = min_basal_rv

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with masks in place of probabilities."""
        result = dict(data)
        for key in self.key_iterator(result):
            found: MetaTensor = result[key]
            mask = most_likely(found.cpu().numpy(), self.min_basal_rv)
            result[key] = MetaTensor(torch.from_numpy(mask)[None], meta=found.meta)
        return result


class RepairAnatomyd(MapTransform):
    """:func:`repair` as a dictionary transform for masks (1, x, y, z) that know their affine.

    Args:
        keys: of the masks.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with repaired masks of the same type."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask: MetaTensor = result[key]
            repaired = repair(mask[0].cpu().numpy().astype(np.uint8), spacing_of(np.asarray(mask.affine.cpu())))
            result[key] = MetaTensor(torch.from_numpy(repaired)[None].to(mask.dtype), meta=mask.meta)
        return result


def _candidates(mask: np.ndarray, spacing_mm: Sequence[float]) -> Iterator[np.ndarray]:
    """Yield repaired slices, the tidied one first."""
    pieces = (mask == LV) | (mask == MYO)
    heart = _largest(pieces, _EIGHT)
    lv = ndimage.binary_fill_holes(_largest((mask == LV) & heart, _EIGHT))
    rv = mask == RV
    yield _assemble(ndimage.binary_fill_holes(heart | lv), lv, rv)
    outlines = [ndimage.binary_fill_holes(heart | lv)]
    # Opening comes before holes are filled, so that a thin false ring beside the heart goes and the heart stays.
    outlines += [ndimage.binary_fill_holes(_largest(opened, _EIGHT)) for opened in _opened(heart | lv, spacing_mm)]
    outlines += _closed(heart, spacing_mm)
    outlines += [_hull(heart), _hull(pieces)]
    fragments = mask == LV
    cavities = [lv, *_opened(lv, spacing_mm), *_closed(fragments, spacing_mm), _hull(lv), _hull(fragments)]
    ventricles = [rv, *_opened(rv, spacing_mm), *_closed(rv, spacing_mm), np.zeros_like(rv)]
    for outline in outlines:
        for cavity in cavities:
            yield _assemble(outline, cavity & outline, rv)
    for ventricle in ventricles[1:]:
        for outline in outlines:
            yield _assemble(outline, lv & outline, ventricle)
    yield _assemble(outlines[0], np.zeros_like(lv), rv)
    yield np.zeros_like(mask)


def _assemble(heart: np.ndarray, lv: np.ndarray, rv: np.ndarray) -> np.ndarray:
    """Put a slice together: a wall of a pixel at least round the LV, and the RV in one piece against the wall."""
    lv = _largest(lv, _EIGHT)
    heart = heart | ndimage.binary_dilation(lv, _EIGHT)
    rv = _largest(rv & ~heart, _EIGHT)
    # What heart and RV enclose between them goes to the RV, which the septum bounds.
    rv = ndimage.binary_fill_holes(rv | heart) & ~heart if rv.any() else rv
    mask = np.zeros(heart.shape, np.uint8)
    mask[_largest(rv, _EIGHT)] = RV
    mask[heart] = MYO
    mask[lv] = LV
    return mask


def _opened(structure: np.ndarray, spacing_mm: Sequence[float]) -> list[np.ndarray]:
    return [ndimage.binary_opening(structure, disk(radius)) for radius in _radii(spacing_mm)]


def _closed(structure: np.ndarray, spacing_mm: Sequence[float]) -> list[np.ndarray]:
    return [
        ndimage.binary_fill_holes(ndimage.binary_closing(structure, disk(radius)) | structure)
        for radius in _radii(spacing_mm)
    ]


def _hull(structure: np.ndarray) -> np.ndarray:
    return convex_hull_image(structure) if structure.any() else structure


def _radii(spacing_mm: Sequence[float]) -> list[int]:
    return sorted({max(1, round(length / max(spacing_mm))) for length in _SMOOTHING_MM})


def _largest(structure: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(structure, neighbours)
    if count < 2:
        return structure
    return parts == np.bincount(parts[structure]).argmax()

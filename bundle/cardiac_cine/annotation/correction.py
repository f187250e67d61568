"""Correct a mask where an annotator points: clicks and scribbles, weighed against what the network thought.

The current mask is the most likely one under scores per label: the network's log probabilities, raised where the mask
says otherwise, so that earlier corrections count. A click raises its own label's score until it wins under the click,
and by less the farther a pixel is (a Gaussian). So a doubtful region flips as a whole, a confident one only nearby.

``scripts/benchmark_correction.py`` measures it by simulated clicks against a disc brush and a random walker.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from cardiac_cine.errors import InputError
from cardiac_cine.labels import BACKGROUND, BY_KEY, NUM_CLASSES, check_mask

# In an array of seeds, where 0 is not pointed at.
BACKGROUND_SEED = NUM_CLASSES
BACKGROUND_KEY = "background"

# Nothing farther than this from a seed changes.
RADIUS_MM = 50.0
# How fast a click's say fades. Of 15 and 20 mm, 20 leaves the smaller wrong area after three clicks, 15 after five.
_SIGMA_MM = 20.0
# By how much a clicked label wins, and the mask's over the network's, in units of log probability.
_MARGIN = 2.0
_HELD = 0.5
# The network is never surer than this.
_LEAST = 1e-4
# Raising one click's label can cost another's; a few rounds settle it, and seeds keep their label in any case.
_ROUNDS = 3
# Without a network a mask counts as blurred by this, so that its contours are doubtful and its middles are not.
_BLUR_MM = 4.0
_EIGHT = np.ones((3, 3), bool)


def seeds_from_request(request: Mapping[str, Any], shape: Sequence[int]) -> np.ndarray:
    """Mark a request's clicks in an array.

    Args:
        request: lists of voxel indices by structure key or "background", or the "foreground" of one structure, which
            is the "label" then.
        shape: of the image, (x, y, z).

    Returns:
        As :func:`seeds_from_clicks`.

    Raises:
        InputError: no list, no click at all, or clicks as ``seeds_from_clicks`` refuses them.
    """
    try:
        clicks = {key: list(request.get(key) or ()) for key in (*BY_KEY, BACKGROUND_KEY)}
        if request.get("foreground"):
            clicks[str(request.get("label"))] = list(request["foreground"])
        seeds = seeds_from_clicks(shape, clicks)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    if not seeds.any():
        raise InputError("there are no points in the request: click on what is wrong first")
    return seeds


def seeds_from_clicks(shape: Sequence[int], clicks: Mapping[str, Sequence[Sequence[int]]]) -> np.ndarray:
    """Mark clicks in an array.

    Args:
        shape: of the image, (x, y, z).
        clicks: structure key or "background" to voxel indices; of two clicks in one voxel the later counts.

    Returns:
        uint8 (x, y, z): 0 not pointed at, 1 to 3 structures, ``BACKGROUND_SEED`` background.

    Raises:
        ValueError: an unknown key, or a click that is no voxel of the image; all of them in one message.
    """
    labels = {key: structure.id for key, structure in BY_KEY.items()} | {BACKGROUND_KEY: BACKGROUND_SEED}
    problems = [f"{key!r}, expected one of {[*labels]}" for key in clicks if key not in labels]
    seeds = np.zeros(tuple(shape), np.uint8)
    for key, points in clicks.items():
        for point in points:
            if not _is_voxel(point, shape):
                problems.append(f"{key} at {point}, expected three indices within {tuple(shape)}")
            elif key in labels:
                seeds[tuple(int(index) for index in point)] = labels[key]
    if problems:
        raise ValueError(f"clicks: {'; '.join(problems)}")
    return seeds


def correct(
    mask: np.ndarray,
    seeds: np.ndarray,
    spacing_mm: Sequence[float],
    probabilities: np.ndarray | None = None,
) -> np.ndarray:
    """Return a mask corrected where seeds say what is what.

    Args:
        mask: the current one, integer labels 0-3, (x, y, z).
        seeds: clicks and scribbles of the same shape: 0 not pointed at, 1 to 3 structures, ``BACKGROUND_SEED``.
        spacing_mm: spacing along x, y and z in mm; what counts is x and y.
        probabilities: the network's, (4, x, y, z); without them the mask's own contours stand in.

    Returns:
        A new mask, uint8, in which every seed has its label. Only slices with seeds change, only within ``RADIUS_MM``
        of a seed, and only pixels that hang together with a seed of their new label. Without seeds the mask is
        returned as it was.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3, ``seeds`` differ from it in shape or hold other
            values, or ``probabilities`` have another shape or are not finite.
    """
    check_mask(mask, 3)
    if seeds.shape != mask.shape or seeds.dtype.kind not in "iu" or seeds.min() < 0 or seeds.max() > BACKGROUND_SEED:
        raise ValueError(
            f"seeds must be integers 0 to {BACKGROUND_SEED} of shape {mask.shape}, got {seeds.dtype} of {seeds.shape} "
            f"from {seeds.min()} to {seeds.max()}"
        )
    if probabilities is not None:
        expected = (NUM_CLASSES, *mask.shape)
        if probabilities.shape != expected or not np.isfinite(probabilities).all():
            raise ValueError(f"probabilities must be finite, of shape {expected}, got {probabilities.shape}")
    in_plane_mm = (float(spacing_mm[0]), float(spacing_mm[1]))
    result = mask.astype(np.uint8)
    for z in np.flatnonzero(seeds.any(axis=(0, 1))):
        given = _blurred(result[..., z], in_plane_mm) if probabilities is None else probabilities[..., z]
        result[..., z] = _corrected_slice(result[..., z], seeds[..., z], in_plane_mm, given)
    return result


def _corrected_slice(
    mask: np.ndarray, seeds: np.ndarray, spacing_mm: tuple[float, float], probabilities: np.ndarray
) -> np.ndarray:
    strokes = _strokes(seeds)
    distances = [ndimage.distance_transform_edt(~stroke, sampling=spacing_mm) for _, stroke in strokes]
    scores = _scores(mask, probabilities)
    says = [_say(index, strokes, distances) for index in range(len(strokes))]
    for _ in range(_ROUNDS):
        for (label, stroke), say in zip(strokes, says, strict=True):
            others = np.delete(scores, label, axis=0).max(0)
            lacking = float((others + _MARGIN - scores[label])[stroke].max())
            if lacking > 0:
                scores[label] += lacking * say
    wanted = np.where(np.min(distances, axis=0) <= RADIUS_MM, scores.argmax(0), mask).astype(np.uint8)
    for label, stroke in strokes:
        wanted[stroke] = label
    kept = np.zeros(mask.shape, bool)
    for label, stroke in strokes:
        parts, _ = ndimage.label(wanted == label, _EIGHT)
        kept |= np.isin(parts, np.unique(parts[stroke]))
    return np.where(kept, wanted, mask)


def _is_voxel(point: Any, shape: Sequence[int]) -> bool:
    """Tell whether something from outside names a voxel; viewers may write whole numbers as 7.0."""
    if not isinstance(point, list | tuple | np.ndarray) or len(point) != len(shape):
        return False
    return all(
        isinstance(index, int | float | np.integer) and 0 <= index < size
        for index, size in zip(point, shape, strict=True)
    )


def _strokes(seeds: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return label and pixels of every click or stroke: seeds of one label that touch each other are one."""
    strokes = []
    for seed in np.unique(seeds[seeds > 0]).tolist():
        parts, count = ndimage.label(seeds == seed, _EIGHT)
        label = BACKGROUND if seed == BACKGROUND_SEED else seed
        strokes += [(label, parts == part) for part in range(1, count + 1)]
    return strokes


def _say(index: int, strokes: Sequence[tuple[int, np.ndarray]], distances: Sequence[np.ndarray]) -> np.ndarray:
    """Return how much a stroke has to say in each pixel, 0 to 1; less than it had where another label's is nearer."""
    say = np.exp(-((distances[index] / _SIGMA_MM) ** 2) / 2)
    rivals = [d for (label, _), d in zip(strokes, distances, strict=True) if label != strokes[index][0]]
    if rivals:
        nearest = np.min(rivals, axis=0)
        say *= np.minimum(1, 2 * nearest / (nearest + distances[index])) ** 2
    return say


def _scores(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return scores (4, x, y) of which the mask's label has the largest."""
    scores = np.log(np.clip(probabilities.astype(np.float64), _LEAST, 1))
    places = mask[None].astype(np.intp)
    own = np.take_along_axis(scores, places, 0)
    top = scores.max(0, keepdims=True)
    np.put_along_axis(scores, places, np.where(scores.argmax(0)[None] == places, own, top + _HELD), 0)
    return scores


def _blurred(mask: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    width = [_BLUR_MM / spacing for spacing in spacing_mm]
    return np.stack([ndimage.gaussian_filter((mask == label).astype(float), width) for label in range(NUM_CLASSES)])

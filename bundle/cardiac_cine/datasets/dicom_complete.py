"""Whether a chosen stack lacks slices that the study holds in another form: of another grid, timing or image type."""

import math
from collections.abc import Sequence

import numpy as np

from cardiac_cine.datasets import dicom_series, dicom_stack
from cardiac_cine.datasets.dicom_family import SAME_DIRECTION, Family, regular, same_echo, same_geometry
from cardiac_cine.datasets.dicom_headers import Plane
from cardiac_cine.errors import InputError

# A slice that was planned a little differently belongs to its stack, one of a radial series does not.
ALMOST_PARALLEL_DEG = 5.0
# Late enhancement, scouts and pairs of images of one slice have fewer phases, cines more.
SEVERAL_PHASES = 3
# Slices that begin this many steps beyond a stack continue it; farther away they show something else.
NEAR_STEPS = 2


def check_complete(
    best: Family, cines: Sequence[Family], candidates: Sequence[Family], usable: Sequence[Plane]
) -> None:
    """Refuse a stack of which the study holds further slices that do not fit it.

    Args:
        best: the stack.
        cines: families of images with phases, ``best`` and ``candidates`` among them.
        candidates: families that could be a short axis of their own.
        usable: all planes of the study that may show a short axis.

    Raises:
        InputError: slices of its series or name differ in size, spacing or direction; slices of its geometry continue
            it and differ in phases, image type or pulse sequence. All of them at once.
    """
    problems = [*_other_grids(best, candidates, usable), *_other_kinds(best, cines)]
    if problems:
        raise InputError(problems)


def beyond_mm(best: Family, other: Family) -> np.ndarray:
    """Return at which levels another family of its geometry continues a stack in whole steps; empty where at none."""
    levels, others = best.levels_mm, other.levels_along(dicom_stack.normal(best.planes[0]))
    if not same_geometry(best.planes[0], other.planes[0]):
        return others[:0]
    steps = np.maximum(levels[0] - others, others - levels[-1]) / np.median(np.diff(levels))
    whole = np.round(steps)
    beyond = (whole >= 1) & (np.abs(steps - whole) <= dicom_stack.MAX_SPACING)
    return others[beyond] if (beyond & (whole <= NEAR_STEPS)).any() else others[:0]


def _other_grids(best: Family, candidates: Sequence[Family], usable: Sequence[Plane]) -> list[str]:
    first = best.planes[0]
    direction = dicom_stack.normal(first)
    series = {plane.header.series_uid for plane in best.planes}
    chosen = set(map(id, best.planes))
    # A whole stack after the table moved is another scan, not the missing part of this one.
    elsewhere = {
        id(plane)
        for family in candidates
        if family.planes[0].header.frame_of_reference != first.header.frame_of_reference
        for plane in family.planes
    }
    problems = {}
    for plane in usable:
        if id(plane) in chosen or id(plane) in elsewhere or same_geometry(plane, first):
            continue
        kin = (
            plane.header.series_uid in series
            or dicom_series.plain(plane.header.about["series_description"]) == best.name
        )
        parallel = dicom_stack.normal(plane) @ direction > np.cos(np.radians(ALMOST_PARALLEL_DEG))
        level = float(direction @ plane.position)
        if kin and parallel and np.abs(best.levels_mm - level).min() > dicom_stack.SAME_SLICE_MM:
            found = _differences(plane, first)
            problems[round(level, 1)] = (
                f"{plane}: the slice at {level:.1f} mm has {found} as in the other slices of series "
                f"{first.header.series}"
            )
    return list(problems.values())


def _differences(plane: Plane, expected: Plane) -> str:
    """Return in what an image is of another grid, and what would have been right."""
    cosine = float(np.clip(dicom_stack.normal(plane) @ dicom_stack.normal(expected), -1, 1))
    angle = np.degrees(np.arccos(cosine))
    pairs = [
        (f"{p.header.size[0]} x {p.header.size[1]}", f"{p.spacing[1]:.3f} x {p.spacing[0]:.3f} mm")
        for p in (plane, expected)
    ]
    differences = []
    if pairs[0][0] != pairs[1][0]:
        differences.append(f"{pairs[0][0]} pixels, expected {pairs[1][0]}")
    if pairs[0][1] != pairs[1][1]:
        differences.append(f"pixels of {pairs[0][1]}, expected {pairs[1][1]}")
    if plane.header.frame_of_reference != expected.header.frame_of_reference:
        frames = (plane.header.frame_of_reference, expected.header.frame_of_reference)
        differences.append(f"the frame of reference {frames[0]}, expected {frames[1]}")
    if not np.allclose(plane.orientation, expected.orientation, atol=SAME_DIRECTION):
        differences.append(f"another orientation (its direction differs by {angle:.1f} degrees), expected the same")
    return "; ".join(differences)


def _other_kinds(best: Family, cines: Sequence[Family]) -> list[str]:
    direction = dicom_stack.normal(best.planes[0])
    problems = []
    for family in cines:
        missing = _missing_mm(best, family)
        if family is best or not len(missing) or family.phases < SEVERAL_PHASES:
            continue
        paths = sorted(
            {
                plane.header.path
                for plane in family.planes
                if np.abs(missing - direction @ plane.position).min() <= dicom_stack.SAME_SLICE_MM
            }
        )
        more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
        at = ", ".join(f"{level:.1f}" for level in missing)
        problems.append(
            f"{paths[0]}{more}: series {family.series} continues the stack of series {best.series} at {at} mm along "
            f"the normal, but has {_other_kind(family, best)}"
        )
    return problems


def _missing_mm(best: Family, other: Family) -> np.ndarray:
    """Return where another family has slices that a stack lacks; empty where it is an acquisition of its own.

    It is one where most of its slices repeat the stack's, or lie between its steps.
    """
    beyond, others = beyond_mm(best, other), other.levels_along(dicom_stack.normal(best.planes[0]))
    if 2 * len(beyond) >= len(others):
        return beyond
    interleaved = same_geometry(best.planes[0], other.planes[0]) and regular(np.concatenate([best.levels_mm, others]))
    return others if interleaved else beyond[:0]


def _other_kind(family: Family, expected: Family) -> str:
    """Return what keeps a family from being joined to a stack, and what would have been right."""
    differences = []
    if family.phases != expected.phases:
        differences.append(f"{family.phases} phases, expected {expected.phases}")
    if family.derived != expected.derived:
        kinds = ("original", "derived")
        differences.append(f"{kinds[family.derived]} images (ImageType), expected {kinds[expected.derived]} ones")
    ours, theirs = (each.planes[0].header for each in (family, expected))
    if ours.sequence != theirs.sequence:
        differences.append(f"the pulse sequence {' '.join(ours.sequence)}, expected {' '.join(theirs.sequence)}")
    if not same_echo(family, expected):
        echoes = ["none" if math.isnan(each.echo_ms) else f"{each.echo_ms:g} ms" for each in (ours, theirs)]
        differences.append(f"another EchoTime ({echoes[0]}), expected {echoes[1]}")
    return "; ".join(differences) or _place(family, expected)


def _place(family: Family, expected: Family) -> str:
    """Return how slices of a stack's kind that are not joined to it lie."""
    levels, others = expected.levels_mm, family.levels_along(dicom_stack.normal(expected.planes[0]))
    distances = np.abs(others[:, None] - levels).min(axis=1)
    if distances.min() <= dicom_stack.SAME_SLICE_MM:
        return "slices where the stack has some, too, expected others"
    return f"its next slice {distances.min():.2f} mm away, expected {np.median(np.diff(levels)):.2f} mm"

"""From the images of one short-axis cine to a grid of slices and phases, with everything checked that a grid promises.

Slices go by their position along the normal, phases by the time after the R wave; how a scanner numbered, named or
split its images does not matter. A slice that was taken again counts once, in its latest complete take.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_cine.datasets.dicom_headers import Plane
from cardiac_cine.errors import InputError
from cardiac_cine.geometry import RAS_LPS
from cardiac_cine.stacks import CYCLE_MS, MAX_LEAN_PIXELS

# Origins closer than this along the normal are one slice; slices of a cine lie at least 4 mm apart.
SAME_SLICE_MM = 1.0
# Headers round positions to micrometres; distances that differ by more than a hundredth were prescribed unevenly, and
# beyond a tenth no common spacing gives the volume.
NOTED_SPACING, MAX_SPACING = 0.01, 0.1
# A stack may lean this far off its normal, in mm, before it is remarked on.
NOTED_LEAN_MM = 0.1
# Directions of rows and columns are orthonormal to the digits that headers keep.
ORTHONORMAL = 1e-3
# A step between phases this much longer than usual is where a phase may be missing.
LONG_STEP = 1.5

# What may tell phases apart, the best first, with how it is called.
_PHASE_KEYS: tuple[tuple[str, Callable[[Plane], float]], ...] = (
    ("trigger time", lambda plane: plane.trigger_ms),
    ("temporal position", lambda plane: plane.temporal_position),
    ("acquisition number", lambda plane: plane.acquisition_number),
    ("instance number", lambda plane: plane.instance_number),
)


@dataclass(frozen=True, eq=False)
class Grid:
    """A cine in order.

    Attributes:
        planes: (z, t), slices ascending along the normal.
        affine: 4 x 4 voxel (x column, y row, z slice) to world, mm, NIfTI's axes.
        times_ms: mean over the slices of each phase's time after the R wave; None where the files do not say.
        rr_ms: mean length of the cycle, NaN where unknown.
        remarks: choices that were made.
    """

    planes: tuple[tuple[Plane, ...], ...]
    affine: np.ndarray
    times_ms: tuple[float, ...] | None
    rr_ms: float
    remarks: tuple[str, ...]


def normal(plane: Plane) -> np.ndarray:
    """Return the unit normal of an image, LPS: the direction of its rows' index crossed with its columns'."""
    across = np.cross(plane.orientation[:3], plane.orientation[3:])
    return across / np.linalg.norm(across)


def level_mm(plane: Plane) -> float:
    """Return where an image lies along its normal."""
    return float(normal(plane) @ plane.position)


def by_level(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group parallel images by position along the normal, ascending."""
    groups: list[list[Plane]] = []
    last = -math.inf
    direction = normal(planes[0])
    for level, plane in sorted(((float(direction @ p.position), p) for p in planes), key=lambda pair: pair[0]):
        if level - last > SAME_SLICE_MM:
            groups.append([])
        groups[-1].append(plane)
        last = level
    return groups


def takes(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Split the images of one slice into its takes, the latest last: by series, and by acquisition where one repeats.

    Raises:
        InputError: two images of one acquisition have the same time.
    """
    found = []
    by_series = defaultdict(list)
    for plane in planes:
        by_series[plane.header.series_uid].append(plane)
    for images in by_series.values():
        parts = [images]
        if _twins(images):
            by_number = defaultdict(list)
            for plane in images:
                by_number[plane.acquisition_number].append(plane)
            parts = list(by_number.values())
        twins = next(filter(None, map(_twins, parts)), None)
        if twins:
            one, other, name = twins
            raise InputError(
                f"{one} and {other}: both show the slice at {level_mm(one):.1f} mm at the same {name}, expected one"
            )
        found += parts
    return sorted(found, key=_recency)


def order(planes: Sequence[Plane]) -> Grid:
    """Put the images of one cine in order.

    Args:
        planes: parallel images of one size, spacing and frame of reference; at least three slices.

    Raises:
        InputError: a damaged file; slices that lack a phase, are missing, unevenly spaced or not stacked along their
            normal; two images for one place. All problems that do not hide each other at once.
    """
    chosen, problems, remarks = _latest_complete(by_level(planes))
    damaged = {plane.header.path: plane.header.damage for take in chosen for plane in take if plane.header.damage}
    problems += [f"{path}: {damage}" for path, damage in damaged.items()]
    problems += [
        f"{plane}: RescaleSlope and RescaleIntercept are {plane.slope:g} and {plane.intercept:g}, expected finite "
        "numbers and a slope other than 0"
        for take in chosen
        for plane in take
        if plane.slope == 0 or not math.isfinite(plane.slope + plane.intercept)
    ]
    off_grid, uneven = _check_positions(chosen)
    if problems or off_grid:
        raise InputError(problems + off_grid)
    ordered, times_ms, said = _in_time(chosen)
    rr_ms, estimated = _cycle_ms(ordered, times_ms)
    return Grid(ordered, _affine(ordered), times_ms, rr_ms, (*remarks, *uneven, *said, *estimated))


def _latest_complete(slices: Sequence[Sequence[Plane]]) -> tuple[list[list[Plane]], list[str], list[str]]:
    """Return one take of every slice, what is wrong with them, and a remark where slices had several."""
    all_takes = [takes(images) for images in slices]
    counts = Counter(len(take) for found in all_takes for take in found)
    # What most takes have, the larger of two numbers that are equally frequent.
    expected = max(counts, key=lambda count: (counts[count], count))
    chosen, problems, repeated = [], [], []
    for found in all_takes:
        complete = [take for take in found if len(take) == expected]
        chosen.append((complete or found)[-1])
        if not complete:
            problems.append(
                f"{_where(chosen[-1])}: {len(chosen[-1])} phases, expected {expected} as in most slices of the stack"
            )
        elif len(found) > 1:
            repeated.append(chosen[-1])
    if not repeated:
        return chosen, problems, []
    levels = ", ".join(f"{level_mm(take[0]):.1f}" for take in repeated)
    series = ", ".join(dict.fromkeys(take[0].header.series for take in repeated))
    remark = (
        f"Slices were taken more than once, at {levels} mm along the normal; the latest complete take of each is used, "
        f"from series {series}."
    )
    return chosen, problems, [remark]


def _twins(images: Sequence[Plane]) -> tuple[Plane, Plane, str] | None:
    """Return two images that nothing tells apart, and the name of what was looked at; None for a series of phases."""
    for name, key in _PHASE_KEYS:
        seen: dict[float, Plane] = {}
        values = {key(plane) for plane in images}
        if len(values) < 2 or any(map(math.isnan, values)):
            continue
        for plane in images:
            if key(plane) in seen:
                return seen[key(plane)], plane, name
            seen[key(plane)] = plane
        return None
    return (images[0], images[1], "time and number") if len(images) > 1 else None


def _recency(take: Sequence[Plane]) -> tuple[float, ...]:
    first = take[0]
    numbers = (first.header.series_number, first.acquired_s, first.acquisition_number)
    return tuple(-math.inf if math.isnan(number) else number for number in numbers)


def _where(take: Sequence[Plane]) -> str:
    return f"{take[0].header.path.parent}: the slice at {level_mm(take[0]):.1f} mm (series {take[0].header.series})"


def _check_positions(chosen: Sequence[Sequence[Plane]]) -> tuple[list[str], list[str]]:
    """Return what keeps the slices from being a regular stack, and what is only worth a remark."""
    first = chosen[0][0]
    folder = first.header.path.parent
    x, y = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    if np.abs([x @ x - 1, y @ y - 1, x @ y]).max() > ORTHONORMAL:
        return [f"{folder}: ImageOrientationPatient is {first.orientation}, expected two orthogonal unit vectors"], []
    problems, remarks = [], []
    levels = np.array([level_mm(take[0]) for take in chosen])
    steps = np.diff(levels)
    spacing = float(np.median(steps))
    gaps = [index for index, step in enumerate(steps) if step > (1 + MAX_SPACING) * spacing]
    for index in gaps:
        missing = steps[index] / spacing - 1
        what = f"{missing:.0f} missing" if abs(missing - round(missing)) < MAX_SPACING else "uneven spacing"
        problems.append(
            f"{folder}: the slices at {levels[index]:.1f} and {levels[index + 1]:.1f} mm lie {steps[index]:.2f} mm "
            f"apart, expected {spacing:.2f} mm as between the others ({what})"
        )
    off = np.abs(steps - spacing).max()
    if not gaps and off > MAX_SPACING * spacing:
        problems.append(
            f"{folder}: the slices lie {steps.min():.2f} to {steps.max():.2f} mm apart, expected one spacing"
        )
    elif not gaps and off > NOTED_SPACING * spacing:
        remarks.append(f"The slices lie {steps.min():.2f} to {steps.max():.2f} mm apart; their mean is used.")
    positions = np.array([plane.position for take in chosen for plane in take]) - first.position
    direction = normal(first)
    lean = np.linalg.norm(positions - np.outer(positions @ direction, direction), axis=1).max()
    if lean > MAX_LEAN_PIXELS * min(first.spacing):
        problems.append(
            f"{folder}: the slices' origins lie up to {lean:.2f} mm beside their common normal, expected at most a "
            f"pixel ({min(first.spacing):.2f} mm): a sheared stack, or slices moved against each other"
        )
    elif lean > NOTED_LEAN_MM:
        remarks.append(f"The slices' origins lie up to {lean:.2f} mm beside their common normal, which is ignored.")
    return problems, remarks


def _affine(ordered: Sequence[Sequence[Plane]]) -> np.ndarray:
    first = ordered[0][0]
    step = (level_mm(ordered[-1][0]) - level_mm(first)) / (len(ordered) - 1)
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = normal(first) * step
    affine[:3, 3] = first.position
    return RAS_LPS @ affine


def _in_time(
    chosen: Sequence[Sequence[Plane]],
) -> tuple[tuple[tuple[Plane, ...], ...], tuple[float, ...] | None, list[str]]:
    """Return the images (z, t), the mean time of every phase, and remarks."""
    name, key = next((name, key) for name, key in _PHASE_KEYS if all(_tells_apart(key, take) for take in chosen))
    ordered = tuple(tuple(sorted(take, key=key)) for take in chosen)
    if name != "trigger time":
        known = any(math.isfinite(plane.trigger_ms) for take in chosen for plane in take)
        what = "do not give every phase a time of its own" if known else "give no time"
        return ordered, None, [f"The files {what} after the R wave; phases are in the order of their {name}."]
    times = np.array([[plane.trigger_ms for plane in take] for take in ordered])
    steps = np.diff(times.mean(axis=0))
    remarks = []
    apart = np.ptp(times[:, 0])
    if apart > np.median(steps):
        times = times - times[:, :1]
        remarks.append(
            f"The slices' first phases are up to {apart:.0f} ms apart, so their times do not all count from an R wave; "
            "those of each slice are counted from its first phase."
        )
    if len(steps) > 1 and steps.max() > LONG_STEP * np.median(steps):
        late = int(steps.argmax())
        remarks.append(
            f"Phases {late + 1} and {late + 2} are {steps[late]:.0f} ms apart, the others about "
            f"{np.median(steps):.0f} ms: one may be missing."
        )
    if np.abs(times - times.mean(axis=0)).max() > np.median(steps):
        remarks.append("The heart rate changed between slices by more than a phase over the cycle; times are means.")
    return ordered, tuple(times.mean(axis=0).tolist()), remarks


def _tells_apart(key: Callable[[Plane], float], take: Sequence[Plane]) -> bool:
    values = {key(plane) for plane in take}
    return len(values) == len(take) and not any(map(math.isnan, values))


def _cycle_ms(ordered: Sequence[Sequence[Plane]], times_ms: tuple[float, ...] | None) -> tuple[float, list[str]]:
    """Return the length of the cycle and how it came about where the files do not give it."""
    given = [take[0].header.rr_ms for take in ordered]
    given = [value for value in given if not math.isnan(value)]
    if given and (times_ms is None or np.mean(given) >= times_ms[-1] - times_ms[0]):
        return float(np.mean(given)), []
    if times_ms is None or len(times_ms) < 2:
        return math.nan, []
    estimate = (times_ms[-1] - times_ms[0]) * len(times_ms) / (len(times_ms) - 1)
    if not CYCLE_MS[0] <= estimate <= CYCLE_MS[1]:
        return math.nan, [f"The phases span {estimate:.0f} ms, no heartbeat; the heart rate is unknown."]
    why = "do not give the length of the cycle" if not given else "give a cycle shorter than the phases span"
    return estimate, [f"The files {why}; {estimate:.0f} ms follow from the phases' times."]

"""Families: images that one acquisition of parallel slices could have made.

One plane, size, spacing, pulse sequence and name (without digits, which number slices and breath-holds) make a family;
families that complete each other to one regular stack are joined.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np

from cardiac_cine.datasets import dicom_series, dicom_stack
from cardiac_cine.datasets.dicom_headers import Plane
from cardiac_cine.errors import InputError
from cardiac_cine.stacks import CYCLE_MS

MIN_PHASES = 2
SPACING_MM = (4.0, 15.0)
# Components of directions, and pixels relative to each other, agree to this where they mean the same.
SAME_DIRECTION, SAME_SPACING = 0.01, 1e-3
# Images of one slice that were acquired over a longer time than a reconstruction's time stamps differ by, each at its
# own time, are one heartbeat each.
MAX_STAMPS_S = 3.0
# Scanners fit the echo time to each slice's direction; echoes that are told apart, in phase and opposed, lie at least
# 1 ms apart.
SAME_ECHO_MS = 0.2


@dataclass(frozen=True, eq=False)
class Family:
    """Images that one acquisition of parallel slices could have made.

    Attributes:
        planes: all of them.
        name: series description in plain words, without digits.
        remarks: what was done to make it.
    """

    planes: tuple[Plane, ...]
    name: str
    remarks: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The series' numbers and descriptions, for messages."""
        names = {plane.header.series_uid: plane.header.series for plane in self.planes}
        listed = sorted(names.values(), key=lambda name: int(name.split()[0]))
        return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")

    @cached_property
    def levels_mm(self) -> np.ndarray:
        """Where its slices lie along its normal, ascending."""
        return self.levels_along(dicom_stack.normal(self.planes[0]))

    @cached_property
    def phases(self) -> int:
        """What most slices have, the larger of two numbers that are equally frequent."""
        counts = [len(takes_or_all(images)[-1]) for images in dicom_stack.by_level(self.planes)]
        return max(set(counts), key=lambda count: (counts.count(count), count))

    @cached_property
    def timing_reason(self) -> str:
        """Why the images of a slice are not the phases of one heartbeat, "" if they may be."""
        for images in dicom_stack.by_level(self.planes):
            times = [plane.trigger_ms for plane in images]
            if max(times) - min(times) > CYCLE_MS[1]:
                return (
                    f"its phases span {max(times) - min(times):.0f} ms, more than one heartbeat: perfusion, or a "
                    "real-time cine, which is not supported"
                )
            for take in takes_or_all(images):
                stamps = [plane.acquired_s for plane in take]
                if max(stamps) - min(stamps) > MAX_STAMPS_S and len(set(stamps)) > len(stamps) / 2:
                    return (
                        f"the images of one slice were acquired one by one over {max(stamps) - min(stamps):.0f} s: "
                        "perfusion, or a real-time cine, which is not supported"
                    )
        return ""

    @property
    def derived(self) -> bool:
        """Whether its images are computed ones."""
        return _derived(self.planes[0])

    def levels_along(self, direction: np.ndarray) -> np.ndarray:
        """Return where its slices lie along a normal like its own, LPS, in mm, ascending."""
        return np.array([direction @ images[0].position for images in dicom_stack.by_level(self.planes)])


def families(planes: Sequence[Plane]) -> list[Family]:
    """Split images into families, and join those that complete each other, the largest first."""
    geometries: list[Plane] = []
    known: dict[tuple, int] = {}
    members: dict[tuple, list[Plane]] = defaultdict(list)
    echo_group = _echo_groups(planes)
    for plane in planes:
        header = plane.header
        exactly = (header.frame_of_reference, header.size, plane.spacing, plane.orientation)
        if exactly not in known:
            same = (index for index, other in enumerate(geometries) if same_geometry(plane, other))
            known[exactly] = next(same, len(geometries))
            if known[exactly] == len(geometries):
                geometries.append(plane)
        name = dicom_series.plain(header.about["series_description"])
        members[known[exactly], header.sequence, echo_group(header.echo_ms), _derived(plane), name].append(plane)
    return _joined([Family(tuple(images), key[-1]) for key, images in members.items()])


def same_geometry(one: Plane, other: Plane) -> bool:
    """Say whether two images differ in nothing but their position."""
    return (
        one.header.frame_of_reference == other.header.frame_of_reference
        and one.header.size == other.header.size
        and np.allclose(one.spacing, other.spacing, rtol=SAME_SPACING)
        and np.allclose(one.orientation, other.orientation, atol=SAME_DIRECTION)
    )


def same_echo(one: Family, other: Family) -> bool:
    """Say whether two families have one echo time, or none."""
    echoes = [family.planes[0].header.echo_ms for family in (one, other)]
    return all(map(math.isnan, echoes)) or abs(echoes[0] - echoes[1]) <= SAME_ECHO_MS


def regular(levels_mm: np.ndarray) -> bool:
    """Say whether slices lie one step apart that a short axis may have; at least two."""
    steps = np.diff(np.sort(levels_mm))
    if not len(steps):
        return False
    step = float(np.median(steps))
    usual = SPACING_MM[0] <= round(step, 2) <= SPACING_MM[1]
    return usual and bool(np.abs(steps - step).max() <= dicom_stack.MAX_SPACING * step)


def takes_or_all(images: Sequence[Plane]) -> list[list[Plane]]:
    """Return a slice's takes; all its images where they cannot be told apart, which is reported once it is chosen."""
    try:
        return dicom_stack.takes(images)
    except InputError:
        return [list(images)]


def _echo_groups(planes: Sequence[Plane]) -> Callable[[float], int]:
    """Return what gives echo times that mean the same one number, and -1 where there is none."""
    echoes = sorted({plane.header.echo_ms for plane in planes if not math.isnan(plane.header.echo_ms)})
    starts = [echo for before, echo in pairwise([-math.inf, *echoes]) if echo - before > SAME_ECHO_MS]
    return lambda echo: -1 if math.isnan(echo) else bisect_right(starts, echo)


def _joined(found: Sequence[Family]) -> list[Family]:
    """Join pairs of families that complete each other until there is none; the largest come first."""
    joined = sorted(found, key=lambda family: -len(family.planes))
    while True:
        pair = next((pair for pair in combinations(joined, 2) if _complete_each_other(*pair)), None)
        if pair is None:
            return joined
        one, other = pair
        remark = f"Series {one.series} and series {other.series} together make the stack."
        whole = Family(one.planes + other.planes, one.name, (*one.remarks, *other.remarks, remark))
        joined = [whole if family is one else family for family in joined if family is not other]


def _complete_each_other(one: Family, other: Family) -> bool:
    alike = (
        one.planes[0].header.sequence == other.planes[0].header.sequence
        and same_echo(one, other)
        and one.derived == other.derived
        and same_geometry(one.planes[0], other.planes[0])
        and one.phases == other.phases >= MIN_PHASES
        and bool(one.timing_reason) == bool(other.timing_reason)
    )
    if not alike:
        return False
    together = Family(one.planes + other.planes, one.name).levels_mm
    return len(together) == len(one.levels_mm) + len(other.levels_mm) and regular(together)


def _derived(plane: Plane) -> bool:
    return plane.image_type[:1] == ("DERIVED",)

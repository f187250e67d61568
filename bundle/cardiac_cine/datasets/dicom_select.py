"""Which images of a study are its short-axis cine.

Every series is looked at for what rules it out: no MR magnitude images, a scout, flow, perfusion. The rest is split
into families that one acquisition could have made: one plane, size, spacing, pulse sequence and name (without digits,
which number slices and breath-holds). A family of at least three parallel slices 4 to 15 mm apart and at least two
phases is a candidate. The short axis is no particular direction of the patient, so a direction refuses nothing; among
several candidates those of original images go first, then those whose name says short axis, then those of most images,
then those of the lower series number.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardiac_cine.datasets import dicom_series, dicom_stack
from cardiac_cine.datasets.dicom_headers import Header, Plane
from cardiac_cine.errors import InputError

MIN_PHASES = 2
MIN_SLICES = 3
SPACING_MM = (4.0, 15.0)
# Fewer phases miss end-systole by more than 5% of the cycle; guidelines ask for 20 and more.
FEW_PHASES = 10
# Components of directions, and pixels relative to each other, agree to this where they mean the same.
SAME_DIRECTION, SAME_SPACING = 0.01, 1e-3
# A slice that was planned a little differently belongs to its stack, one of a radial series does not.
ALMOST_PARALLEL_DEG = 5.0
# A cycle lasts up to 2 s (30 beats a minute); images of one slice that were acquired over a longer time than a
# reconstruction's time stamps differ by, each at its own time, are one heartbeat each.
MAX_CYCLE_MS, MAX_STAMPS_S = 2000.0, 3.0
# The slices of a short axis lie oblique to the patient; closer to a plane than this they deserve a look.
STRAIGHT_DEG = 10.0
_PATIENT_PLANES = ("sagittal", "coronal", "axial")


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


def find_short_axis(
    headers: Sequence[Header], planes: Mapping[str, Sequence[Plane]]
) -> tuple[Family | None, list[tuple[str, str]]]:
    """Find the short-axis cine of one study.

    Args:
        headers: the study's files.
        planes: of the MR images among them, by SOPInstanceUID.

    Returns:
        The cine's images, None where there is none, and what was left out: series and reason.

    Raises:
        InputError: the cine's slices differ in size, spacing or direction.
    """
    left_out: list[tuple[str, str]] = []
    usable: list[Plane] = []
    by_series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.series_uid].append(header)
    for members in by_series.values():
        own = [plane for uid in dict.fromkeys(h.sop_instance_uid for h in members) for plane in planes[uid]]
        reason = dicom_series.reason_against(members, own)
        if reason:
            left_out.append((members[0].series, reason))
        else:
            usable += own
    candidates = []
    for family in _joined(_families(usable)):
        reason = _family_reason(family)
        if reason:
            left_out.append((family.series, reason))
        else:
            candidates.append(family)
    if not candidates:
        return None, left_out
    best = min(candidates, key=_rank)
    _check_complete(best, candidates, usable)
    remarks = list(best.remarks)
    for other in candidates:
        if other is not best:
            left_out.append((other.series, f"another cine stack; {_why(best, other)}"))
            remarks.append(f"Series {best.series} was chosen before series {other.series}: {_why(best, other)}.")
    return replace(best, remarks=(*remarks, *_looks(best))), left_out


def _families(planes: Sequence[Plane]) -> list[Family]:
    geometries: list[Plane] = []
    known: dict[tuple, int] = {}
    families: dict[tuple, list[Plane]] = defaultdict(list)
    for plane in planes:
        header = plane.header
        exactly = (header.frame_of_reference, header.size, plane.spacing, plane.orientation)
        if exactly not in known:
            same = (index for index, other in enumerate(geometries) if _same_geometry(plane, other))
            known[exactly] = next(same, len(geometries))
            if known[exactly] == len(geometries):
                geometries.append(plane)
        name = dicom_series.plain(header.about["series_description"])
        families[known[exactly], header.sequence, _derived(plane), name].append(plane)
    return [Family(tuple(members), key[-1]) for key, members in families.items()]


def _same_geometry(one: Plane, other: Plane) -> bool:
    return (
        one.header.frame_of_reference == other.header.frame_of_reference
        and one.header.size == other.header.size
        and np.allclose(one.spacing, other.spacing, rtol=SAME_SPACING)
        and np.allclose(one.orientation, other.orientation, atol=SAME_DIRECTION)
    )


def _joined(families: Sequence[Family]) -> list[Family]:
    """Join families of one geometry and sequence whose slices complete each other to one regular stack."""
    joined: list[Family] = []
    for family in sorted(families, key=lambda family: -len(family.planes)):
        for index, other in enumerate(joined):
            if _complete_each_other(other, family):
                remark = f"Series {other.series} and series {family.series} together make the stack."
                joined[index] = Family(other.planes + family.planes, other.name, (*other.remarks, remark))
                break
        else:
            joined.append(family)
    return joined


def _complete_each_other(one: Family, other: Family) -> bool:
    first, second = one.planes[0], other.planes[0]
    alike = (
        _same_geometry(first, second)
        and first.header.sequence == second.header.sequence
        and _derived(first) == _derived(second)
        and _phases(one) == _phases(other) >= MIN_PHASES
    )
    if not alike:
        return False
    slices = len(dicom_stack.by_level(one.planes)) + len(dicom_stack.by_level(other.planes))
    levels = [dicom_stack.level_mm(images[0]) for images in dicom_stack.by_level(one.planes + other.planes)]
    steps = np.diff(levels)
    even = len(steps) > 0 and np.abs(steps - np.median(steps)).max() <= dicom_stack.MAX_SPACING * np.median(steps)
    return len(levels) == slices and bool(even)


def _family_reason(family: Family) -> str:
    """Return why a family is no short-axis cine, "" if it may be one."""
    slices = dicom_stack.by_level(family.planes)
    if _phases(family) < MIN_PHASES:
        return "a single phase"
    if len(slices) < MIN_SLICES:
        found = "a single slice" if len(slices) == 1 else f"{len(slices)} parallel slices"
        return f"{found}, expected a stack of at least {MIN_SLICES}"
    spacing = float(np.median(np.diff([dicom_stack.level_mm(images[0]) for images in slices])))
    if not SPACING_MM[0] <= round(spacing, 2) <= SPACING_MM[1]:
        return f"slices {spacing:.1f} mm apart, expected {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
    for images in slices:
        times = [plane.trigger_ms for plane in images]
        if max(times) - min(times) > MAX_CYCLE_MS:
            return (
                f"its phases span {max(times) - min(times):.0f} ms, more than one heartbeat: perfusion, or a "
                "real-time cine, which is not supported"
            )
        for take in _takes_or_all(images):
            stamps = [plane.acquired_s for plane in take]
            if max(stamps) - min(stamps) > MAX_STAMPS_S and len(set(stamps)) > len(stamps) / 2:
                return (
                    f"the images of one slice were acquired one by one over {max(stamps) - min(stamps):.0f} s: "
                    "perfusion, or a real-time cine, which is not supported"
                )
    return ""


def _check_complete(best: Family, candidates: Sequence[Family], usable: Sequence[Plane]) -> None:
    """Refuse a stack that lacks slices because these are of another grid."""
    first = best.planes[0]
    direction = dicom_stack.normal(first)
    levels = np.array([dicom_stack.level_mm(images[0]) for images in dicom_stack.by_level(best.planes)])
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
        if id(plane) in chosen or id(plane) in elsewhere or _same_geometry(plane, first):
            continue
        kin = (
            plane.header.series_uid in series
            or dicom_series.plain(plane.header.about["series_description"]) == best.name
        )
        parallel = dicom_stack.normal(plane) @ direction > np.cos(np.radians(ALMOST_PARALLEL_DEG))
        level = float(direction @ plane.position)
        if kin and parallel and np.abs(levels - level).min() > dicom_stack.SAME_SLICE_MM:
            found = _differences(plane, first)
            problems[round(level, 1)] = (
                f"{plane}: the slice at {level:.1f} mm has {found} as in the other slices of series "
                f"{first.header.series}"
            )
    if problems:
        raise InputError(list(problems.values()))


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


def _rank(family: Family) -> tuple[bool, bool, int, int, str]:
    """Return what candidates are ordered by, the best one's lowest."""
    headers = [plane.header for plane in family.planes]
    return (
        _derived(family.planes[0]),
        not dicom_series.says_short_axis(family.name),
        -len(family.planes),
        min(header.series_number for header in headers),
        min(str(header.path) for header in headers),
    )


def _why(best: Family, other: Family) -> str:
    ours, theirs = _rank(best), _rank(other)
    if ours[0] != theirs[0]:
        return "its images are original"
    if ours[1] != theirs[1]:
        return "its description says short axis"
    if ours[2] != theirs[2]:
        return f"it has {-ours[2]} images, the other {-theirs[2]}"
    first = "has the lower number" if ours[3] != theirs[3] else "comes first by the names of its files"
    return f"both have {-ours[2]} images, and series {best.series} {first}"


def _looks(family: Family) -> list[str]:
    """Return what a person should check."""
    first = family.planes[0]
    remarks = []
    if _derived(first):
        remarks.append("The images are derived ones (ImageType); there are no original ones.")
    if _phases(family) < FEW_PHASES:
        remarks.append(f"Only {_phases(family)} phases: end-systole may lie between two of them.")
    angles = np.degrees(np.arccos(np.clip(np.abs(dicom_stack.normal(first)), 0, 1)))
    if angles.min() < STRAIGHT_DEG and not dicom_series.says_short_axis(family.name):
        plane = _PATIENT_PLANES[int(angles.argmin())]
        remarks.append(
            f"The slices lie within {STRAIGHT_DEG:g} degrees of the {plane} plane and series {family.series} does "
            "not say short axis: check that it is one."
        )
    return remarks


def _phases(family: Family) -> int:
    counts = [len(_takes_or_all(images)[-1]) for images in dicom_stack.by_level(family.planes)]
    return max(set(counts), key=lambda count: (counts.count(count), count))


def _takes_or_all(images: Sequence[Plane]) -> list[list[Plane]]:
    """Return a slice's takes; all its images where they cannot be told apart, which is reported once it is chosen."""
    try:
        return dicom_stack.takes(images)
    except InputError:
        return [list(images)]


def _derived(plane: Plane) -> bool:
    return plane.image_type[:1] == ("DERIVED",)

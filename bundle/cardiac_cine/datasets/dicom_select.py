"""Which images of a study are its short-axis cine.

Every series is looked at for what rules it out: no MR magnitude images, a scout, flow, perfusion. The rest is split
into the families of :mod:`.dicom_family`. A family of at least three parallel slices 4 to 15 mm apart and at least two
phases is a candidate. The short axis is no particular direction of the patient, so a direction refuses nothing; among
several candidates those of original images go first, then those whose name says short axis, then those of most images,
then those of the lower series number. Slices that continue the best one and do not fit it are an error of
:mod:`.dicom_complete`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cardiac_cine.datasets import dicom_complete, dicom_family, dicom_series, dicom_stack
from cardiac_cine.datasets.dicom_family import MIN_PHASES, SPACING_MM, Family
from cardiac_cine.datasets.dicom_headers import Header, Plane

MIN_SLICES = 3
# Fewer phases miss end-systole by more than 5% of the cycle; guidelines ask for 20 and more.
FEW_PHASES = 10
# The slices of a short axis lie oblique to the patient; closer to a plane than this they deserve a look.
STRAIGHT_DEG = 10.0
_PATIENT_PLANES = ("sagittal", "coronal", "axial")


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
        InputError: the cine's slices differ in size, spacing or direction, or others continue it that differ in
            phases, image type or pulse sequence.
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
    families = dicom_family.families(usable)
    for family in families:
        reason = _family_reason(family)
        if reason:
            left_out.append((family.series, reason))
        else:
            candidates.append(family)
    if not candidates:
        return None, left_out
    best = min(candidates, key=_rank)
    cines = [family for family in families if not family.timing_reason]
    dicom_complete.check_complete(best, cines, candidates, usable)
    remarks = list(best.remarks)
    for other in candidates:
        if other is not best:
            left_out.append((other.series, f"another cine stack; {_why(best, other)}"))
            remarks.append(f"Series {best.series} was chosen before series {other.series}: {_why(best, other)}.")
            remarks += _beyond(best, other)
    return replace(best, remarks=(*remarks, *_looks(best))), left_out


def _family_reason(family: Family) -> str:
    """Return why a family is no short-axis cine, "" if it may be one."""
    levels = family.levels_mm
    if family.phases < MIN_PHASES:
        return "a single phase"
    if len(levels) < MIN_SLICES:
        found = "a single slice" if len(levels) == 1 else f"{len(levels)} parallel slices"
        return f"{found}, expected a stack of at least {MIN_SLICES}"
    spacing = float(np.median(np.diff(levels)))
    if not SPACING_MM[0] <= round(spacing, 2) <= SPACING_MM[1]:
        return f"slices {spacing:.1f} mm apart, expected {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
    return family.timing_reason


def _rank(family: Family) -> tuple[bool, bool, int, int, str]:
    """Return what candidates are ordered by, the best one's lowest."""
    headers = [plane.header for plane in family.planes]
    return (
        family.derived,
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


def _beyond(best: Family, other: Family) -> list[str]:
    levels = dicom_complete.beyond_mm(best, other)
    at = ", ".join(f"{level:.1f}" for level in levels)
    where = f"Series {other.series} has slices beyond those of series {best.series}, at {at} mm along the normal."
    return [where] if len(levels) else []


def _looks(family: Family) -> list[str]:
    """Return what a person should check."""
    first = family.planes[0]
    remarks = []
    if family.derived:
        remarks.append("The images are derived ones (ImageType); there are no original ones.")
    if family.phases < FEW_PHASES:
        remarks.append(f"Only {family.phases} phases: end-systole may lie between two of them.")
    angles = np.degrees(np.arccos(np.clip(np.abs(dicom_stack.normal(first)), 0, 1)))
    if angles.min() < STRAIGHT_DEG and not dicom_series.says_short_axis(family.name):
        plane = _PATIENT_PLANES[int(angles.argmin())]
        remarks.append(
            f"The slices lie within {STRAIGHT_DEG:g} degrees of the {plane} plane and series {family.series} does "
            "not say short axis: check that it is one."
        )
    return remarks

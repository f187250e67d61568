"""DICOM JSON (PS3.18 F.2) of a study whose cine is shown as a series for each phase, to viewers of a volume a series.

Images keep their SOP instance UIDs, by which what is drawn on them finds its way back. Nothing else of them changes but
the series that they are in and their number in it, from 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]

# Attributes by tag.
SERIES_UID, SERIES_DESCRIPTION, SERIES_NUMBER, SERIES_IMAGES = "0020000E", "0008103E", "00200011", "00201209"
SOP_UID, INSTANCE_NUMBER = "00080018", "00200013"
_REFERENCED_SERIES, _REFERENCED_INSTANCES, _REFERENCED_SOP = "00081115", "0008114A", "00081155"


@dataclass(frozen=True)
class PhaseImage:
    """Where one slice of one phase is shown.

    Attributes:
        series_uid: of the series that the phase is shown as.
        source_uid: of the series that the image is in.
        description: of the phase's series.
        number: of the phase's series; numbers below those of all others put it before them.
        slice: from 0.
        slices: of the phase.
    """

    series_uid: str
    source_uid: str
    description: str
    number: int
    slice: int
    slices: int

    @property
    def series(self) -> Item:
        """The attributes of the phase's series."""
        return {
            SERIES_UID: {"vr": "UI", "Value": [self.series_uid]},
            SERIES_NUMBER: {"vr": "IS", "Value": [self.number]},
            SERIES_DESCRIPTION: {"vr": "LO", "Value": [self.description]},
        }


def value(item: Item, tag: str) -> Any:
    """Return an attribute's first value, "" where it has none."""
    return next(iter(item.get(tag, {}).get("Value") or ()), "")


def shown_series(items: Iterable[Item], shown: Mapping[str, PhaseImage]) -> list[Item]:
    """Return a study's series with the cines' replaced by one for each phase.

    Args:
        items: what the archive lists, one for each series.
        shown: by SOP instance UID, in the order in which the phases are to come.

    Returns:
        The phases, then the other series as they are.
    """
    by_uid = {value(item, SERIES_UID): item for item in items}
    phases = [
        by_uid[image.source_uid] | image.series | {SERIES_IMAGES: {"vr": "IS", "Value": [image.slices]}}
        for image in shown.values()
        if image.slice == 0 and image.source_uid in by_uid
    ]
    hidden = {image.source_uid for image in shown.values()}
    return phases + [item for uid, item in by_uid.items() if uid not in hidden]


def shown_images(items: Iterable[Item], shown: Mapping[str, PhaseImage]) -> list[Item]:
    """Return images with those of the cines in the series of their phases.

    What refers to images of one phase alone, such as its segmentation, refers to that phase's series, since a viewer
    looks there for them.

    Args:
        items: what the archive tells of the images.
        shown: by SOP instance UID, in the order in which they are to come.

    Returns:
        The cines' images, then all others.
    """
    cine, others = {}, []
    for item in items:
        image = shown.get(value(item, SOP_UID))
        if image:
            number = {INSTANCE_NUMBER: {"vr": "IS", "Value": [image.slice + 1]}}
            cine[value(item, SOP_UID)] = item | image.series | number
        else:
            others.append(_refer_to_phase(item, shown))
    return [cine[uid] for uid in shown if uid in cine] + others


def _refer_to_phase(item: Item, shown: Mapping[str, PhaseImage]) -> Item:
    references = []
    for reference in item.get(_REFERENCED_SERIES, {}).get("Value") or ():
        images = reference.get(_REFERENCED_INSTANCES, {}).get("Value") or ()
        series = {shown[uid].series_uid if uid in shown else "" for uid in (value(i, _REFERENCED_SOP) for i in images)}
        one = {SERIES_UID: {"vr": "UI", "Value": list(series)}} if len(series) == 1 and series != {""} else {}
        references.append(reference | one)
    return item | {_REFERENCED_SERIES: {"vr": "SQ", "Value": references}} if references else item

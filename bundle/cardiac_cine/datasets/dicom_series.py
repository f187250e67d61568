"""What a series is, by what its images and its description say: reasons why it cannot be a short-axis cine."""

import re
from collections.abc import Sequence

from cardiac_cine.datasets.dicom_headers import MR_IMAGES, Header, Plane

_SHORT_AXIS = re.compile(r"\b(sax|sa|short ?axis|kurzachse|kurze achse|ka|petit axe|asse corto|eje corto)\d*\b")
# What descriptions call other acquisitions: these rule a series out ...
_OTHER_KINDS = {
    "a flow measurement": r"\b(flow|venc|pc|phase ?contrast|velocity|4d ?flow)\b",
    "perfusion": r"\b(perf|perfusion|first ?pass)\b",
    "late enhancement": r"\b(lge|late|delayed|psir|de ?mri)\b",
    "tagging": r"\b(tag|tagged|tagging|grid|spamm|csp ?amm|dense)\b",
    "mapping": r"\b(molli|shmolli|sasha|t1 ?map|t2 ?map|t2 ?star|mapping)\b",
    "a real-time cine, which is not supported": r"\b(real ?time|rt ?cine)\b",
}
# ... and these only where it is not called short axis as well.
_OTHER_VIEWS = {
    "a scout": r"\b(scout|localizer|localiser|survey|loc|haste)\b",
    "another view": (
        r"\b(lax|long ?axis|langachse|grand axe|[234] ?ch|[234] ?chambers?|hla|vla|rvot|lvot|aorta|aortic|radial)\d*\b"
    ),
}
_FLOW_TYPES = {"P", "PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP", "PCA", "FLOW_ENCODED"}
_NOT_MAGNITUDE = {"R", "I", "REAL", "IMAGINARY"}


def reason_against(headers: Sequence[Header], planes: Sequence[Plane]) -> str:
    """Return why a series cannot hold the cine, "" if it can."""
    first = headers[0]
    if first.sop_class_uid not in MR_IMAGES:
        return f"{first.kind}, no MR images"
    types = {value for plane in planes for value in plane.image_type}
    words = _words(first.about["series_description"])
    if not all(p.position and p.orientation and p.spacing and min(p.spacing) > 0 for p in planes):
        return "no position, direction or pixel spacing"
    if any(header.photometric != "MONOCHROME2" for header in headers):
        return f"{first.photometric or 'no PhotometricInterpretation'}, expected MONOCHROME2"
    if "LOCALIZER" in types:
        return "a scout"
    if "MOSAIC" in types:
        return "mosaics"
    if types & _FLOW_TYPES or any(header.phase_contrast for header in headers):
        return "a flow measurement: phase images"
    if types & _NOT_MAGNITUDE and "M" not in types:
        return "real or imaginary images"
    if any(header.saturation_recovery for header in headers):
        return "perfusion: saturation recovery"
    kinds = _OTHER_KINDS if says_short_axis(words) else {**_OTHER_KINDS, **_OTHER_VIEWS}
    kind = next((kind for kind, pattern in kinds.items() if re.search(pattern, words)), "")
    return f"{kind}, by its description" if kind else ""


def says_short_axis(description: str) -> bool:
    """Say whether a description names the short axis."""
    return bool(_SHORT_AXIS.search(_words(description)))


def _words(description: str) -> str:
    """Return a description in lower case, without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", description.lower()).split())


def plain(description: str) -> str:
    """Return a description's words without digits, which number slices and breath-holds."""
    return " ".join(re.sub(r"\d+", " ", _words(description)).split())

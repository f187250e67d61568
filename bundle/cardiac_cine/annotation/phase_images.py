"""The phases of cines as images of their own: their ids, and which are end-diastole and end-systole.

Labels go by the ids, so a case keeps its name for as long as the cine exists, whatever else comes or goes.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import NAMESPACE_OID, uuid5

from cardiac_cine.annotation.listing import Listed

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
# End-systole comes after about this part of the cycle at rest: a guess until somebody has looked.
_SYSTOLE = 0.35
# Leaves room for the phase in an id.
_MAX_CASE = 100


@dataclass(frozen=True)
class Entry:
    """One phase of one cine.

    Attributes:
        id: matches ``ID_PATTERN``.
        case: its cine.
        patient: whose it is; patients, not cines, are what training and validation must not share.
        phase: from 0.
        phases: of the cine.
        key: "ED", "ES" or "".
        study_uid: StudyInstanceUID, "" where not from DICOM, as the next one.
        series_uid: of a series that the phase can be shown as by itself.
        group: pathology, "" where unknown.
    """

    id: str
    case: str
    patient: str
    phase: int
    phases: int
    key: str
    study_uid: str
    series_uid: str
    group: str


def name_cases(listed: Collection[Listed], known: Mapping[str, str]) -> dict[str, Listed]:
    """Name cines so that names are safe, differ in more than case, and never change.

    Args:
        listed: the cines.
        known: identity to the name given earlier, also of cines that are not listed now.

    Returns:
        Name to cine, sorted.
    """
    names, taken = dict(known), {name.lower() for name in known.values()}
    for cine in listed:
        if cine.identity not in names:
            safe = re.sub(r"[^A-Za-z0-9._-]+", "_", cine.name).strip("._-")[:_MAX_CASE] or "study"
            name, number = safe, 1
            while not _is_free(name.lower(), taken):
                number += 1
                name = f"{safe}_{number}"
            names[cine.identity] = name
            taken.add(name.lower())
    return dict(sorted((names[cine.identity], cine) for cine in listed))


def _is_free(name: str, taken: set[str]) -> bool:
    """Tell whether neither a case's name nor the ids of its phases can be those of another."""
    stem = re.sub(r"_phase\d+$", "", name)
    return name not in taken and stem not in taken and not any(other.startswith(f"{name}_phase") for other in taken)


@lru_cache(maxsize=1 << 16)
def phase_series_uid(series_uid: str, phase: int) -> str:
    """Return the UID of the series that one phase (from 0) is shown as, always the same."""
    return f"2.25.{uuid5(NAMESPACE_OID, f'{series_uid}/{phase}').int}"


@lru_cache(maxsize=1 << 12)
def entries_of(case: str, cine: Listed, ed: int | None = None, es: int | None = None) -> tuple[Entry, ...]:
    """Return the phases of a cine in order.

    Args:
        case: its name.
        cine: the cine.
        ed: end-diastole, from 0, where it is known.
        es: end-systole. Where one of them is unknown or not possible, both are guessed.
    """
    header, digits = (cine.stack.header if cine.stack else None), 2 if cine.phases < 100 else 3
    if ed is None or es is None or max(ed, es) >= cine.phases:
        ed, es = 0, max(round(_SYSTOLE * cine.phases), 1)
    names = {ed: "ED", es: "ES"} if cine.phases > 1 else {}
    return tuple(
        Entry(
            id=f"{case}_phase{phase + 1:0{digits}d}" if cine.phases > 1 else case,
            case=case,
            patient=cine.patient,
            phase=phase,
            phases=cine.phases,
            key=names.get(phase, ""),
            study_uid=header.study_uid if header else "",
            series_uid=phase_series_uid(header.series_uid, phase) if header else "",
            group=cine.group,
        )
        for phase in range(cine.phases)
    )

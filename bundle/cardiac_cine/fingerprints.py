"""What a finished study's results depend on: whether they still hold, and whether they are this study's at all."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256
from cardiac_cine.studies import Study

_CONTENT, _SOURCE, _UID = "content_sha256", "source", "study_instance_uid"


def content_sha256(files: Iterable[Path]) -> str:
    """Return one SHA-256 over the contents of files, in hexadecimal, whatever they are called and wherever they lie.

    Args:
        files: in any order.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        digests = sorted(map(sha256, files))
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}, expected a file of a study") from None
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def fingerprint(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a study's results depend on, and what they do not: where the study lies and its StudyInstanceUID.

    Args:
        study: its files are read.
        settings: what else there is, as JSON has it: weights, version, options.

    Raises:
        InputError: a file cannot be read.
    """
    return {_CONTENT: content_sha256(study.files), **_identity(study), **settings}


def named_as_before(studies: Collection[Study], results: Mapping[str, Any]) -> tuple[Study, ...]:
    """Return the studies, sorted by name, those that have results by another name under that one.

    Studies of one patient, and files of one name, are named apart where there are several, so that a name would change
    when others come or go.

    Args:
        studies: of different names.
        results: case to the fingerprint of its results, as :func:`fingerprint`, None where there is none.
    """
    told = {case: _told(earlier) for case, earlier in results.items() if isinstance(earlier, Mapping)}
    known = {identity: case for case, identity in told.items()}
    names, named = {study.name for study in studies}, []
    for study in studies:
        own = _told(_identity(study))
        case = known.pop(own, study.name)
        named.append(study if told.get(study.name) == own or case in names else _called(study, case))
    return tuple(sorted(named, key=lambda study: study.name))


def _identity(study: Study) -> dict[str, str]:
    return {_SOURCE: str(study.source.resolve()), _UID: study.stack.header.study_uid if study.stack else ""}


def _told(identity: Mapping[str, Any]) -> str:
    return str(identity.get(_UID) or identity.get(_SOURCE))


def _called(study: Study, name: str) -> Study:
    return replace(study, name=name, read=lambda: replace(study.read(), name=name))


def same_results(earlier: Any, current: Mapping[str, Any]) -> bool:
    """Tell whether results of an earlier fingerprint are what a study would get again. None is no fingerprint."""
    aside = {_SOURCE: None, _UID: None}
    return isinstance(earlier, Mapping) and {**earlier, **aside} == {**current, **aside}


def other_study(earlier: Any, current: Mapping[str, Any]) -> str:
    """Return where results come from that are of another study.

    That is one of another StudyInstanceUID, or of other content from another place.

    Returns:
        The path, with the StudyInstanceUID where that differs; "" where the study is the same, changed in its place, or
        the results do not say where they come from. An image file has no identity besides its place: whatever lies
        there by now is the same study.
    """
    if not isinstance(earlier, Mapping) or _SOURCE not in earlier:
        return ""
    uids = (earlier.get(_UID), current[_UID])
    if all(uids) and uids[0] != uids[1]:
        return f"{earlier[_SOURCE]} (StudyInstanceUID {uids[0]})"
    differs = all(earlier.get(key) != current[key] for key in (_CONTENT, _SOURCE))
    return str(earlier[_SOURCE]) if differs else ""

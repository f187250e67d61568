"""What a finished study's results depend on: whether they still hold, and whether they are this study's at all."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cardiac_cine.errors import InputError
from cardiac_cine.studies import Study
from cardiac_cine.weights import sha256

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
    uid = study.stack.header.study_uid if study.stack else ""
    return {_CONTENT: content_sha256(study.files), _SOURCE: str(study.source.resolve()), _UID: uid, **settings}


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

"""What a finished study's results depend on: whether they still hold, and whether they are this study's at all."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cardiac_cine.errors import InputError
from cardiac_cine.studies import Study
from cardiac_cine.weights import sha256

_CONTENT, _SOURCE = "content_sha256", "source"


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
    """Return what a study's results depend on, and where the study lies, which they do not depend on.

    Args:
        study: its files are read.
        settings: what else there is, as JSON has it: weights, version, options.

    Raises:
        InputError: a file cannot be read.
    """
    return {_CONTENT: content_sha256(study.files), _SOURCE: str(study.source.resolve()), **settings}


def same_results(earlier: Any, current: Mapping[str, Any]) -> bool:
    """Tell whether results of an earlier fingerprint are what a study would get again. None is no fingerprint."""
    return isinstance(earlier, Mapping) and {**earlier, _SOURCE: None} == {**current, _SOURCE: None}


def other_study(earlier: Any, current: Mapping[str, Any]) -> str:
    """Return where results come from that are of another study: of other content from another place.

    Returns:
        The path, "" where the study is the same, changed in its place, or the results do not say where they come from.
    """
    if not isinstance(earlier, Mapping) or _SOURCE not in earlier:
        return ""
    differs = all(earlier.get(key) != current[key] for key in (_CONTENT, _SOURCE))
    return str(earlier[_SOURCE]) if differs else ""

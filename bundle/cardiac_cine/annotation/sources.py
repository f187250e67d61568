"""Where the cines of a library are: the contract, and a folder. A DICOM archive is in :mod:`.dicom_archive`."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from cardiac_cine.annotation.listing import Listed, list_cines
from cardiac_cine.folders import files_below


@dataclass(frozen=True, eq=False)
class Returned:
    """A segmentation that a source has.

    Attributes:
        series_uid: its SeriesInstanceUID.
        identity: of the cine.
        utc: when it was made, ISO 8601.
        affine: the cine's.
        masks: uint8 label ids (x, y, z) by phase, from 0.
        problem: why there are none, "" where nothing is wrong.
    """

    series_uid: str
    identity: str
    utc: str
    affine: np.ndarray
    masks: Mapping[int, np.ndarray]
    problem: str = ""


class Source(Protocol):
    """Where cines are. ``remote``: it takes labels, and has those of others."""

    remote: bool

    def scan(self) -> tuple[list[Listed], list[str]]:
        """Return the cines, and a sentence for each thing that cannot be used; raises nothing."""
        ...

    def push(self, cine: Listed, phase: int, mask: np.ndarray, name: str) -> dict[str, str]:
        """Store a phase's mask (x, y, z) beside its images; return its SeriesInstanceUID. Raises InputError."""
        ...

    def pull(self, seen: Collection[str]) -> Iterator[Returned]:
        """Yield the segmentations in series that were not ``seen``, the oldest first. Raises InputError."""
        ...


class LocalSource:
    """A folder of image files and DICOM studies, or one of them; nothing is ever written there."""

    remote = False

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().resolve()
        self._seen, self._found = "", (list[Listed](), list[str]())

    def scan(self) -> tuple[list[Listed], list[str]]:
        """See :class:`Source`. Headers are read again only where files have come, gone or changed."""
        seen = self._look()
        if seen != self._seen:
            self._seen, self._found = seen, list_cines(self.path)
        return self._found

    def _look(self) -> str:
        """Return what tells the files as they are from what they were, a change of who may read them included."""
        files, problems = ([self.path], []) if self.path.is_file() else files_below(self.path)
        digest = sha256("\n".join(problems).encode(errors="surrogateescape"))
        for file in files:
            with suppress(OSError):  # it is gone since
                stat = file.stat()
                known = f"\n{file} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
                digest.update(known.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def push(self, cine: Listed, phase: int, mask: np.ndarray, name: str) -> dict[str, str]:
        """Do nothing."""
        return {}

    def pull(self, seen: Collection[str]) -> Iterator[Returned]:
        """Yield nothing."""
        yield from ()

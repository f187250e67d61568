"""Small JSON records in folders that several processes share, and files that survive a crash once they are named."""

import copy
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from cardiac_cine import files

logger = logging.getLogger(__name__)

# A time stamp moves in steps of the kernel's clock: one this young may hide a change that follows.
_YOUNG_NS = 50_000_000


class Records:
    """A folder of JSON objects by name, each whole or not at all. Reading is cheap where nothing has changed.

    Args:
        folder: made where missing; names become ``NAME.json``.
        lock: what every process that writes into the folder holds meanwhile; it must be reentrant.
    """

    def __init__(self, folder: Path, lock: AbstractContextManager) -> None:
        self._folder, self._lock = folder, lock
        # The folder's stamp, and for each file its stamp and content; a stamp of None is not to be trusted.
        self._cache: tuple[int | None, dict[str, tuple[tuple[int, int] | None, dict[str, Any]]]] = (None, {})
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> dict[str, dict[str, Any]]:
        """Return name to record as of now, for reading only; files that are no JSON are left out."""
        now, stamp = time.time_ns(), self._folder.stat().st_mtime_ns
        trusted, known = self._cache
        if stamp != trusted:
            found = {}
            for item in os.scandir(self._folder):
                if item.name.endswith(".json"):
                    try:
                        mark = (item.stat().st_mtime_ns, item.inode())
                        old = known.get(item.name, (None, {}))
                        record = old[1] if old[0] == mark else json.loads(Path(item.path).read_text(encoding="utf-8"))
                    except FileNotFoundError:  # removed since the folder was read
                        continue
                    except (OSError, ValueError) as error:
                        logger.warning("%s: not readable as JSON (%s), and so taken for none", item.path, error)
                        continue
                    found[item.name] = (mark if now - mark[0] > _YOUNG_NS else None, record)
            known, self._cache = found, (stamp if now - stamp > _YOUNG_NS else None, found)
        return {name.removesuffix(".json"): record for name, (_, record) in known.items()}

    def get(self, name: str) -> dict[str, Any]:
        """Return a copy of one record, empty where there is none."""
        return copy.deepcopy(self.all().get(name, {}))

    def put(self, name: str, record: dict[str, Any]) -> None:
        """Replace a record."""
        with self._lock:
            write_record(record, self._folder / f"{name}.json")

    def update(self, name: str, /, **values: Any) -> None:
        """Set some values of a record, which need not exist."""
        with self._lock:
            self.put(name, {**self.get(name), **values})

    def remove(self, name: str) -> None:
        """Forget a record."""
        with self._lock:
            (self._folder / f"{name}.json").unlink(missing_ok=True)


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write a JSON object, durably; values that JSON does not know become text."""
    with durable(path) as target:
        target.write_text(json.dumps(files.plain(record), indent=1, default=str), encoding="utf-8")


@contextmanager
def durable(path: Path) -> Iterator[Path]:
    """Do as :func:`cardiac_cine.files.staged` does, and have the file on the disk before it gets its name."""
    with files.staged(path) as target:
        yield target
        _sync(target)
    _sync(path.parent)


def clean(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder; the caller holds the lock of its writers."""
    for left in folder.rglob(".staged-*"):
        shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

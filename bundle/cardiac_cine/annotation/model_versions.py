"""A network's weights over time: which are live, which were before, and the way back.

A folder holds all versions as ``<sha256>.pt``, ``history.json`` says what they are, and which is live is said by the
content of ``model.pt`` alone, or of the bundle's where there is none: so the two cannot contradict each other. Every
file appears whole or not at all, so several processes may publish, and one that is killed leaves a live model.
"""

import json
import logging
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cardiac_cine.annotation.records import durable
from cardiac_cine.errors import InputError
from cardiac_cine.files import plain, sha256
from cardiac_cine.segmenter import Segmenter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """One set of weights.

    Attributes:
        sha256: of the file.
        created: when it was published, ISO 8601 in UTC; "" for the bundle's own.
        parent: the hash of what was live before it, "" for the bundle's own.
        metrics: what it was judged by.
        trained_on: the patients whose labels it has seen; none where unknown.
    """

    sha256: str
    created: str = ""
    parent: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Sequence[str] = ()


class ModelVersions:
    """The live network and its history.

    Args:
        folder: of the versions, made where missing.
        lock: held while a version is published, by all processes; it may be taken again by who holds it.
        bundle_root: whose configs/inference.json is used, and whose models/model.pt is live at first.
        device: such as "cpu"; by default the first GPU, and the CPU where there is none.
    """

    def __init__(
        self, folder: Path, lock: AbstractContextManager, bundle_root: Path, device: str | None = None
    ) -> None:
        self._folder, self._shared, self.bundle_root, self._device = folder, lock, bundle_root, device
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._known: tuple[tuple[int, ...], str] = ((), "")
        self._loaded: tuple[Segmenter, str] | None = None

    @property
    def path(self) -> Path:
        """The live weights' file."""
        own = self._folder / "model.pt"
        return own if own.is_file() else self.bundle_root / "models" / "model.pt"

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self.segmenter().device)

    @property
    def live(self) -> Version:
        """The version in use; without a hash where there are no weights at all."""
        sha = self._live_sha256()
        return next((version for version in self.history() if version.sha256 == sha), Version(sha))

    def history(self) -> list[Version]:
        """Return all versions, the oldest first."""
        path, sha = self._folder / "history.json", self._live_sha256()
        if path.is_file():
            return [Version(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        return [Version(sha)] if sha else []

    def segmenter(self) -> Segmenter:
        """Return the live network."""
        return self.current()[0]

    def current(self) -> tuple[Segmenter, str]:
        """Return the live network and its hash; loaded once, and again when another is live.

        Raises:
            InputError: there are no weights, or the bundle's are not usable.
        """
        with self._lock:
            sha = self._live_sha256()
            if self._loaded is None or self._loaded[1] != sha:
                path = self._file(sha) if self._file(sha).is_file() else self.path
                self._loaded = (Segmenter.from_bundle(self.bundle_root, ckpt_path=path, device=self._device), sha)
                logger.info("live model %s", sha[:12])
            return self._loaded

    def publish(self, path: Path, metrics: Mapping[str, Any], trained_on: Sequence[str] = ()) -> Version:
        """Make weights live; the version before is kept.

        Args:
            path: a checkpoint, copied.
            metrics: kept in the history.
            trained_on: likewise.

        Returns:
            The live version; the one that was live already where the weights are the same.

        Raises:
            InputError: corrupt, or not this network's weights; nothing has changed then.
        """
        with self._shared:
            parent, sha = self.live.sha256, sha256(path)
            if parent != sha:
                self._keep(path, sha)
                if parent:  # the bundle's weights may be others by the time of a rollback
                    self._keep(self.path, parent)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                others = [version for version in self.history() if version.sha256 != sha]
                versions = [*others, Version(sha, now, parent, metrics, trained_on)]
                with durable(self._folder / "history.json") as target:
                    target.write_text(json.dumps(plain([asdict(version) for version in versions]), indent=1))
                self._go_live(sha)
            return self.live

    def rollback(self) -> Version:
        """Make the version before the live one live again, and return it.

        Raises:
            InputError: there is none.
        """
        with self._shared:
            parent = self.live.parent
            if not parent:
                raise InputError("there is no earlier model to go back to")
            self._go_live(parent)
            return self.live

    def _file(self, sha: str) -> Path:
        return self._folder / f"{sha}.pt"

    def _keep(self, path: Path, sha: str) -> None:
        """Copy weights beside the others, checked as they are loaded."""
        if not self._file(sha).is_file():
            with durable(self._file(sha)) as target:
                shutil.copyfile(path, target)
                Segmenter.from_bundle(self.bundle_root, ckpt_path=target, device="cpu")

    def _go_live(self, sha: str) -> None:
        with durable(self._folder / "model.pt") as target:
            shutil.copyfile(self._file(sha), target)

    def _live_sha256(self) -> str:
        """Return the live file's hash, computed again when the file is another: a rename changes its inode."""
        with self._lock:
            path = self.path
            stat = path.stat() if path.is_file() else None
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size) if stat else ()
            if mark != self._known[0]:
                self._known = (mark, sha256(path) if stat else "")
            return self._known[1]

"""Where the app keeps what it makes: one folder, outside of the studies and the bundle, shared by its processes."""

import os
import re
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from cardiac_cine.annotation.scores import Scores
from cardiac_cine.annotation.worklist import Worklist

_LOCK_SECONDS = 60


class State:
    """The app's own folders and files; library and training have theirs below the same root.

    Whoever holds ``lock`` has the state to itself among all processes, and may take it again.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().resolve()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)  # also where it exists
        self.lock = FileLock(self.root / ".lock", timeout=_LOCK_SECONDS)
        self.cache, self.models = self.root / "cache", self.root / "models"
        self.cache.mkdir(exist_ok=True)
        self.audit = self.root / "audit.jsonl"
        self.scores = Scores(self.root / "scores.json", self.lock)
        self.worklist = Worklist(self.root / "assignments.json", self.lock, self.scores)

    @classmethod
    def of(cls, studies: str, state_dir: str = "") -> "State":
        """Return the state of these studies: in ``state_dir``, or in a folder of its own in the user's home."""
        home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "cardiac_label"
        where = studies.rstrip("/") if "://" in studies else str(Path(studies).expanduser().resolve())
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", where.rpartition("/")[2]).strip("._-") or "studies"
        return cls(state_dir or home / f"{name}-{sha256(where.encode()).hexdigest()[:8]}")

"""Who annotates what: cases that are held for a while by one person, and images that somebody has skipped."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cardiac_cine.annotation.records import write_record

logger = logging.getLogger(__name__)

HOLD_SECONDS = 60 * 60


@dataclass(frozen=True)
class Hold:
    """A case that is one person's until a time in seconds since 1970, because of one of its images."""

    client: str
    image: str
    until: float


@dataclass
class Assignments:
    """What is held, by case, and the images that each person has skipped."""

    held: dict[str, Hold] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def take(self, client: str, case: str, image: str) -> None:
        """Hold a case for an hour from now."""
        self.held[case] = Hold(client, image, time.time() + HOLD_SECONDS)

    def free(self, which: Callable[[Hold], bool]) -> None:
        """Let go of the cases whose hold is such."""
        self.held = {case: hold for case, hold in self.held.items() if not which(hold)}

    def skip(self, client: str, image: str) -> None:
        """Remember that a person does not want an image, and let go of its case where that is why they hold it."""
        self.skipped[client] = sorted({*self.skipped.get(client, ()), image})
        self.free(lambda hold: (hold.client, hold.image) == (client, image))

    def about(self, image: str, case: str) -> dict[str, Any]:
        """Return "locked_by" and "locked_until" of the case and "skipped_by" of the image, as far as there are any."""
        hold, skipped = self.held.get(case), sorted(name for name, images in self.skipped.items() if image in images)
        locked = {"locked_by": hold.client, "locked_until": int(hold.until)} if hold else {}
        return locked | ({"skipped_by": skipped} if skipped else {})


def read(path: Path) -> Assignments:
    """Read assignments, without holds that are over; empty where there is no file, or none that can be read."""
    found = Assignments()
    if path.exists():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = Assignments({case: Hold(**hold) for case, hold in content["held"].items()}, content["skipped"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s: not readable (%s), so nobody holds or has skipped anything", path, error)
    found.free(lambda hold: hold.until <= time.time())
    return found


@contextmanager
def opened(path: Path, lock: AbstractContextManager) -> Iterator[Assignments]:
    """Read assignments, and write them back if the block ends well; other processes wait for the lock meanwhile."""
    with lock:
        found = read(path)
        yield found
        write_record(asdict(found), path)

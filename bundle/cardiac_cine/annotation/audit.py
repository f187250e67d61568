"""The record of who did what: a file that only grows, one JSON object a line."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cardiac_cine.files import plain


def append_event(file: Path, user: str, action: str, **what: Any) -> None:
    """Add a line to the record, durably.

    Args:
        file: made where missing.
        user: who.
        action: did what.
        what: more about it; values that JSON does not know become text.

    Raises:
        OSError: it cannot be written.
    """
    event = {"utc": datetime.now(UTC).isoformat(timespec="seconds"), "user": user, "action": action, **what}
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(plain(event), default=str) + "\n")
        stream.flush()
        os.fsync(stream.fileno())

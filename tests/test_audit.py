import json
from pathlib import Path

import pytest

from cardiac_cine.annotation.audit import append_event


def test_the_audit_log_grows_line_by_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    append_event(path, "anna", "save_label", image="a", path=Path("x"), many=[float("nan")])
    append_event(path, "otto\n{}", "train")
    first, second = map(json.loads, path.read_text().splitlines())
    assert first.pop("utc").endswith("+00:00")
    assert first == {"user": "anna", "action": "save_label", "image": "a", "path": "x", "many": [None]}
    assert second["user"] == "otto\n{}"


def test_a_line_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        append_event(tmp_path / "missing" / "audit.jsonl", "anna", "train")

import time
from contextlib import nullcontext

import pytest

from cardiac_cine.annotation import assignments
from cardiac_cine.annotation.assignments import HOLD_SECONDS, Assignments, opened, read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "assignments.json"


def test_nothing_is_held_to_begin_with(path):
    assert read(path) == Assignments()
    assert read(path).about("a_ED", "a") == {}
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"held": {"a": {"x": 1}}, "skipped": {}}'])
def test_what_cannot_be_read_holds_nothing_and_stops_nobody(path, caplog, content):
    path.write_text(content)
    assert read(path) == Assignments()
    assert "assignments.json: not readable" in caplog.text
    with opened(path, nullcontext()) as book:
        book.take("ann", "a", "a_ED")
    assert set(read(path).held) == {"a"}


def test_what_is_taken_and_skipped_is_read_back(path):
    with opened(path, nullcontext()) as book:
        book.take("ann", "a", "a_ED")
        book.skip("ben", "a_ED")
        book.skip("ann", "b_ES")
        book.skip("ann", "b_ED")
    assert read(path) == book
    told = read(path).about("a_ED", "a")
    assert abs(told.pop("locked_until") - time.time() - HOLD_SECONDS) < 60
    assert told == {"locked_by": "ann", "skipped_by": ["ben"]}
    assert book.skipped["ann"] == ["b_ED", "b_ES"]


def test_a_hold_ends_with_its_time(path, monkeypatch):
    with opened(path, nullcontext()) as book:
        book.take("ann", "a", "a_ED")
    now = time.time()
    monkeypatch.setattr(assignments.time, "time", lambda: now + HOLD_SECONDS - 60)
    assert "a" in read(path).held
    monkeypatch.setattr(assignments.time, "time", lambda: now + HOLD_SECONDS + 60)
    assert read(path).held == {}


def test_skipping_ends_the_own_hold_for_that_image_only():
    book = Assignments()
    book.take("ann", "a", "a_ED")
    book.skip("ann", "a_ES")
    book.skip("ben", "a_ED")
    assert "a" in book.held
    book.skip("ann", "a_ED")
    assert book.held == {}


def test_a_block_that_fails_changes_nothing(path):
    with opened(path, nullcontext()) as book:
        book.take("ann", "a", "a_ED")
    before = path.read_bytes()
    with pytest.raises(KeyError), opened(path, nullcontext()) as book:
        book.take("ben", "b", "b_ED")
        raise KeyError("b")
    assert path.read_bytes() == before

import pytest

from monailabel_app.lib.state import State


def test_the_state_is_for_its_owner_only(tmp_path):
    state = State(tmp_path / "deep" / "state")
    assert state.cache.is_dir() and {state.cache.parent, state.models.parent} == {state.root}
    assert state.root.stat().st_mode & 0o077 == 0
    state.root.chmod(0o755)
    assert State(state.root).root.stat().st_mode & 0o777 == 0o700
    assert {state.scores.path.name, state.audit.name} == {"scores.json", "audit.jsonl"}


def test_the_state_lies_in_the_users_home_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    studies = tmp_path / "my studies"
    state = State.of(str(studies))
    assert state.root.parent == tmp_path / "home" / "cardiac_label"
    assert state.root.name.startswith("my_studies-") and len(state.root.name) == len("my_studies-") + 8
    assert State.of(str(studies) + "/").root == state.root
    assert State.of(str(tmp_path / "other" / "my studies")).root != state.root
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert State.of(str(studies)).root == tmp_path / "user" / ".local" / "state" / "cardiac_label" / state.root.name


def test_an_archive_has_a_state_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    root = State.of("http://127.0.0.1:8042/dicom-web").root
    assert root.name.startswith("dicom-web-") and root == State.of("http://127.0.0.1:8042/dicom-web/").root
    assert root != State.of("http://127.0.0.1:8043/dicom-web").root


def test_a_folder_of_the_users_choice(tmp_path):
    assert State.of("anything", str(tmp_path / "mine")).root == tmp_path / "mine"


def test_the_lock_may_be_taken_again_and_keeps_others_out(tmp_path):
    state, other = State(tmp_path), State(tmp_path)
    with state.lock, state.lock, pytest.raises(TimeoutError):
        other.lock.acquire(timeout=0)
    with other.lock.acquire(timeout=0):
        pass

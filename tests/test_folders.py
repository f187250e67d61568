import os
from pathlib import Path

import pytest

from cardiac_cine.folders import files_below


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def below(root):
    files, problems = files_below(root)
    assert problems == []
    return [path.relative_to(root).as_posix() for path in files]


@pytest.fixture
def root(tmp_path):
    write(*(tmp_path / "root" / name for name in ("b/c/x", "b/y", "a", ".h", "b/.g/z")))
    return tmp_path / "root"


def test_files_at_any_depth_are_sorted_and_hidden_ones_left_out(root):
    assert below(root) == ["a", "b/c/x", "b/y"]
    hidden = root.rename(root.with_name(".root"))
    assert below(hidden) == ["a", "b/c/x", "b/y"]


def test_links_are_followed(root, tmp_path):
    write(tmp_path / "store" / "p1" / "d", tmp_path / "other" / "e")
    (root / "link").symlink_to(tmp_path / "store")
    (root / "file").symlink_to(tmp_path / "other" / "e")
    (tmp_path / "store" / "p1" / "on").symlink_to(tmp_path / "other")
    (root / "broken").symlink_to(tmp_path / "gone")
    assert below(root) == ["a", "b/c/x", "b/y", "file", "link/p1/d", "link/p1/on/e"]
    (tmp_path / "root2").symlink_to(root)
    assert below(tmp_path / "root2") == below(root)


def test_a_folder_is_searched_once_under_a_path_without_links(root, tmp_path):
    write(tmp_path / "store" / "d")
    (root / "0").symlink_to(root / "b")
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "c" / "self").symlink_to(root / "b" / "c")
    (root / "1").symlink_to(tmp_path / "store")
    (root / "2").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(root)
    assert below(root) == ["1/d", "a", "b/c/x", "b/y"]


@pytest.mark.parametrize(("owner", "name"), [(os, "scandir"), (Path, "is_file")], ids=["folder", "files in it"])
def test_a_folder_that_cannot_be_read_is_named_once(root, monkeypatch, owner, name):
    write(root / "b" / "c" / "w")
    look = getattr(owner, name)

    def refuse(path):
        if (root / "b" / "c") in (Path(path), Path(path).parent):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(owner, name, refuse)
    files, problems = files_below(root)
    assert files == [root / "a", root / "b" / "y"]
    assert problems == [f"{root / 'b' / 'c'}: Permission denied, expected a folder that can be read"]

import json
import math
from pathlib import Path

import pytest

from cardiac_cine.errors import InputError
from cardiac_cine.files import check_finite, check_writable, sha256, staged, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with staged(path) as target:
        assert target.name == "a.txt"
        target.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with pytest.raises(type(error)), staged(path) as target:
        target.write_text("half")
        raise error
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["a.txt"]


def test_a_place_for_results_is_tried_and_left_as_it_was(tmp_path):
    check_writable(tmp_path, "output_dir")
    check_writable(tmp_path / "a" / "b", "output_dir")
    assert names(tmp_path) == []
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for folder, reason in (
        ("file", "Not a directory"),
        ("file/a/b", f"{tmp_path}/file: Not a directory"),
        ("dangling/a", f"{tmp_path}/dangling: No such file or directory"),
    ):
        with pytest.raises(InputError) as caught:
            check_writable(tmp_path / folder, "output_dir")
        assert str(caught.value) == f"output_dir {tmp_path / folder}: {reason}, expected a folder to write to"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), staged(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_json_has_null_for_what_is_not_finite_and_text_for_paths(tmp_path):
    path = tmp_path / "a.json"
    write_json({"x": math.nan, "y": [1.5, (math.nan, 2, -math.inf)], 3: Path("a/b"), "z": None}, path)
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_text()) == {"x": None, "y": [1.5, [None, 2, None]], "3": "a/b", "z": None}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**5000], ids=["nan", "inf", "-inf", "long"])
def test_numbers_are_finite(number):
    assert check_finite({"a": [1.5, 2, None, "x"]}) == {"a": [1.5, 2, None, "x"]}
    with pytest.raises(InputError, match="all numbers must be finite"):
        check_finite({"a": [1.5, {"b": number}]})


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json({"x": {1.5}}, tmp_path / "a.json")
    assert names(tmp_path) == []


def test_text_is_written(tmp_path):
    write_text("± mm\n", tmp_path / "a.md")
    assert (tmp_path / "a.md").read_text() == "± mm\n"


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        # The examples of FIPS 180-2, and the empty message.
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_sha256(tmp_path, content, digest):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert sha256(path) == digest

"""Files that appear whole or not at all, what tells them apart, and tables that people write."""

import csv
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cardiac_cine.errors import InputError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a path of the same name to write to, and move what was written into place.

    Args:
        path: the file to appear; its folder is made where missing, an earlier file is replaced.

    Yields:
        A path in a temporary folder beside it, on the same file system. If the block raises, nothing is left behind
        and an earlier file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".staged-") as folder:
        yield Path(folder) / path.name
        (Path(folder) / path.name).replace(path)


def check_writable(folder: Path, name: str) -> None:
    """Try to write where a folder is or will be made, so that a long job does not fail at its end. Nothing is left.

    Args:
        folder: for results.
        name: the argument that it was given as.

    Raises:
        InputError: it, or the folder that it would be made in, is no folder or cannot be written to.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".staged-"):
            pass
    except OSError as error:
        reason = f"{place}: {error.strerror}" if place != folder else error.strerror
        raise InputError(f"{name} {folder}: {reason}, expected a folder to write to") from None


def write_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    with staged(path) as target:
        target.write_text(text, encoding="utf-8")


def write_json(content: Any, path: Path) -> None:
    """Write a JSON file, whole or not at all.

    Args:
        content: plain values, mappings and sequences; paths become text, and NaN and infinities, which JSON does
            not have, null.
        path: the file.
    """
    write_text(json.dumps(plain(content), indent=1, allow_nan=False), path)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: mappings and sequences as they are, paths as text, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_finite(value: Any) -> Any:
    """Return a value as JSON has it.

    Raises:
        InputError: a number in it is NaN or infinite, or has thousands of digits.
    """
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise InputError("all numbers must be finite") from None
    return value


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_csv(path: Path, expected: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a table.

    Args:
        path: CSV in UTF-8, with or without a byte order mark.
        expected: what the file should be, for the error.

    Returns:
        The columns' names as they stand, and for each row the line it ends in and column to cell. Cells beyond the
        columns are under None; where a row ends early, its last cells are None.

    Raises:
        InputError: no such file, or no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            return list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, {expected}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no CSV ({error}), {expected}") from None

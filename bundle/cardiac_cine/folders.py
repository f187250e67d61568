"""What lies below a folder, behind links to other folders, too."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(root: Path) -> tuple[list[Path], list[str]]:
    """Return all files below a folder, at any depth, and what could not be searched.

    Files and folders whose names begin with a dot are passed over, such as macOS's ``._`` companions. Links to folders
    are followed. A folder that several paths lead to is searched once, under a path without links where there is one,
    so that a link to a folder above ends there.

    Args:
        root: the folder; its own name and those above it are not looked at.

    Returns:
        The files, sorted, without broken links and what is neither file nor folder; and a sentence for each folder
        that cannot be read.
    """
    files: list[Path] = []
    problems: dict[str, str] = {}
    for path in _entries(root, problems):
        try:
            if path.is_file():
                files.append(path)
        except PermissionError as error:
            # Where a folder does not let at its files, it is the folder that is named, once.
            place = path if _is_link(path) else path.parent
            problems.setdefault(str(place), _unreadable(place, error))
    return sorted(files), list(problems.values())


def _entries(root: Path, problems: dict[str, str]) -> Iterator[Path]:
    """Yield what is no folder; what cannot be listed goes to the problems, by path."""

    def note(error: OSError) -> None:
        problems[str(error.filename)] = _unreadable(error.filename, error)

    seen: set[str] = set()
    waiting = [root]
    while waiting:
        links: list[Path] = []  # followed when everything that lies below without them has been seen
        for start in waiting:
            for folder, folders, names in os.walk(start, onerror=note):
                real = os.path.realpath(folder)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                shown = sorted(name for name in folders if not name.startswith("."))
                folders[:] = [name for name in shown if not _is_link(Path(folder, name))]
                links += [Path(folder, name) for name in shown if name not in folders]
                yield from (Path(folder, name) for name in names if not name.startswith("."))
        waiting = links


def _is_link(path: Path) -> bool:
    """Tell whether a path is a link; False where its folder does not say."""
    try:
        return path.is_symlink()
    except OSError:
        return False


def _unreadable(path: Path | str, error: OSError) -> str:
    return f"{path}: {error.strerror}, expected a folder that can be read"

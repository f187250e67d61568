"""The files of a study's results: what they are called, whether they are all there, how they come into place."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MASK = "{case}_seg.nii.gz"
MEASUREMENTS = "{case}_measurements.json"
REPORT = "{case}_report.html"
DICOM_SEG = "{case}_seg_dicom"
DICOM_SR = "{case}_sr.dcm"
# The key in the measurements that lists the other files.
FILES = "files"


def read_measurements(folder: Path) -> dict[str, Any] | None:
    """Return the measurements in the folder of a case, None where there are none that can be read."""
    path = folder / MEASUREMENTS.format(case=folder.name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def result_files(folder: Path) -> list[str]:
    """Return the paths of all files in a folder of results, below it and sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def all_there(folder: Path, measurements: Mapping[str, Any]) -> bool:
    """Tell whether the files that measurements list are in the folder of a case; False without a list."""
    listed = measurements.get(FILES)
    return isinstance(listed, list) and all((folder / str(name)).is_file() for name in listed)


def publish(staged: Path, folder: Path) -> None:
    """Move a study's results into place, after taking away an earlier run's.

    The measurements say that a study is finished, so they go first and come last. Other files in the folder stay.

    Args:
        staged: holds what to move, under the case's name.
        folder: where it goes, of the same name.
    """
    folder.mkdir(exist_ok=True)
    names = [name.format(case=folder.name) for name in (MEASUREMENTS, MASK, REPORT, DICOM_SEG, DICOM_SR)]
    for earlier in (folder / name for name in names):
        if earlier.is_dir():
            shutil.rmtree(earlier)
        else:
            earlier.unlink(missing_ok=True)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == names[0]):
        path.replace(folder / path.name)

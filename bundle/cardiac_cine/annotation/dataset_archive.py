"""What is labelled as one ZIP file: image/ID.nii.gz, label/ID.nii.gz and metadata.json."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cardiac_cine import files


def write_archive(items: Sequence[Mapping[str, Any]], about: Mapping[str, Any], path: Path) -> None:
    """Write the archive, whole or not at all.

    Args:
        items: "id", and the NIfTI files "image" and "label" of each.
        about: becomes metadata.json; values that JSON does not know become text.
        path: the archive; an earlier one is replaced.

    Raises:
        OSError: a file is missing, or the archive cannot be written.
    """
    with files.staged(path) as target, zipfile.ZipFile(target, "w") as archive:
        for item in items:
            archive.write(item["image"], f"image/{item['id']}.nii.gz")
            archive.write(item["label"], f"label/{item['id']}.nii.gz")
        archive.writestr("metadata.json", json.dumps(about, default=str))

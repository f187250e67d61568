import json
import zipfile
from pathlib import Path

import pytest

from cardiac_cine.annotation.dataset_archive import write_archive


def test_an_archive_has_images_labels_and_what_is_known(tmp_path):
    for name in ("i.nii.gz", "l.nii.gz"):
        (tmp_path / name).write_bytes(name.encode())
    item = {"id": "a", "image": str(tmp_path / "i.nii.gz"), "label": str(tmp_path / "l.nii.gz")}
    write_archive([item], {"name": "cine", "path": Path("x")}, tmp_path / "dataset.zip")
    with zipfile.ZipFile(tmp_path / "dataset.zip") as archive:
        assert archive.namelist() == ["image/a.nii.gz", "label/a.nii.gz", "metadata.json"]
        assert archive.read("label/a.nii.gz") == b"l.nii.gz"
        assert json.loads(archive.read("metadata.json")) == {"name": "cine", "path": "x"}


def test_a_missing_file_leaves_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_archive([{"id": "a", "image": "missing", "label": "missing"}], {}, tmp_path / "dataset.zip")
    assert list(tmp_path.iterdir()) == []

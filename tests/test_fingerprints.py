from pathlib import Path
from types import SimpleNamespace

import pytest
from dicom_sources import phantom
from pydicom import dcmread

from cardiac_cine.datasets.phantom_dicom import write_dicom
from cardiac_cine.errors import InputError
from cardiac_cine.fingerprints import content_sha256, fingerprint, named_as_before, other_study, same_results
from cardiac_cine.studies import Study, find_studies


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_contents_count_and_neither_names_nor_order(tmp_path):
    first = [write(tmp_path / "1" / name, content) for name, content in (("a", b"x"), ("b", b"yz"))]
    second = [write(tmp_path / "2" / name, content) for name, content in (("c", b"yz"), ("d", b"x"))]
    assert content_sha256(first) == content_sha256(second)
    for others in ([first[0]], [*first, first[0]], [first[0], write(tmp_path / "e", b"zy")], []):
        assert content_sha256(others) != content_sha256(first)


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone: No such file or directory, expected a file of a study"):
        content_sha256([tmp_path / "gone"])


def test_a_fingerprint_has_content_place_and_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(Path("a.nii"), b"x")
    found = fingerprint(Study("a", path, (path,), lambda: None), {"version": "1"})
    assert found == {
        "content_sha256": content_sha256([path]),
        "source": str(tmp_path.resolve() / "a.nii"),
        "study_instance_uid": "",
        "version": "1",
    }


def test_a_study_in_dicom_has_an_identity(tmp_path):
    write_dicom(phantom(), tmp_path, layout="enhanced")
    [study] = find_studies(tmp_path).studies
    assert fingerprint(study, {})["study_instance_uid"] == dcmread(study.files[0]).StudyInstanceUID


NOW = {"content_sha256": "c", "source": "/s", "study_instance_uid": "1.2", "version": "1"}


@pytest.mark.parametrize(
    ("earlier", "same", "other"),
    [
        (NOW, True, ""),
        (NOW | {"source": "/t"}, True, ""),
        (NOW | {"version": "2"}, False, ""),
        (NOW | {"content_sha256": "d"}, False, ""),
        (NOW | {"source": "/t", "version": "2"}, False, ""),
        (NOW | {"content_sha256": "d", "source": "/t"}, False, "/t"),
        (NOW | {"content_sha256": "d", "study_instance_uid": "1.3"}, False, "/s (StudyInstanceUID 1.3)"),
        (NOW | {"content_sha256": "d", "study_instance_uid": ""}, False, ""),
        ({key: NOW[key] for key in ("content_sha256", "source", "version")}, True, ""),
        ({"files": 1, "version": "1"}, False, ""),
        ([], False, ""),
        (None, False, ""),
    ],
)
def test_earlier_results_are_the_same_changed_or_another_studys(earlier, same, other):
    assert same_results(earlier, NOW) is same
    assert other_study(earlier, NOW) == other


def test_two_studies_do_not_take_one_name(tmp_path):
    stack = SimpleNamespace(header=SimpleNamespace(study_uid="1.2"))
    twins = [Study(name, tmp_path / name, (), lambda: None, stack=stack) for name in ("a", "b")]
    named = named_as_before(twins, {"earlier": {"study_instance_uid": "1.2"}, "unfinished": None})
    assert sorted(study.name for study in named) == ["b", "earlier"]

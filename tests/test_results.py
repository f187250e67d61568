import json

import pytest

from cardiac_cine.results import all_there, publish, read_measurements, result_files


def write(folder, *names, content="{}"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("listed", "expected"), [(["a_seg.nii.gz", "d/b"], True), (["a_seg.nii.gz", "gone"], False), ([], True)]
)
def test_results_are_there_when_all_listed_files_are(tmp_path, listed, expected):
    write(tmp_path, "a_seg.nii.gz", "d/b")
    assert all_there(tmp_path, {"files": listed}) is expected


@pytest.mark.parametrize("measurements", [{}, {"files": None}, {"files": "a"}])
def test_results_without_a_list_are_not_there(tmp_path, measurements):
    write(tmp_path, "a")
    assert not all_there(tmp_path, measurements)


def test_a_folder_is_no_file(tmp_path):
    write(tmp_path, "d/b")
    assert not all_there(tmp_path, {"files": ["d"]})


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_measurements_that_cannot_be_read_are_none(tmp_path, content):
    assert read_measurements(tmp_path / "a") is None
    write(tmp_path / "a", "a_measurements.json", content=content)
    assert read_measurements(tmp_path / "a") is None
    write(tmp_path / "a", "a_measurements.json", content=json.dumps({"x": 1}))
    assert read_measurements(tmp_path / "a") == {"x": 1}


def test_results_replace_an_earlier_runs_and_leave_the_rest(tmp_path):
    write(tmp_path / "a", "a_measurements.json", "a_report.html", "a_seg_dicom/1.dcm", "a_sr.dcm", "notes.txt")
    write(tmp_path / "new", "a_measurements.json", "a_seg.nii.gz", content='{"x": 1}')
    publish(tmp_path / "new", tmp_path / "a")
    assert result_files(tmp_path / "a") == ["a_measurements.json", "a_seg.nii.gz", "notes.txt"]
    assert read_measurements(tmp_path / "a") == {"x": 1}

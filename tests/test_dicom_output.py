import re
from dataclasses import replace

import pytest
from dicom_sources import write_cine
from pydicom import dcmread

from cardiac_cine.dicom_output import Software, check_sources, read_evidence, read_header
from cardiac_cine.errors import InputError


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    return write_cine(tmp_path_factory.mktemp("cine"))


@pytest.fixture
def image(cine):
    return dcmread(cine.instances[0][0].path)


def header_of(image, folder):
    image.save_as(folder / "a.dcm")
    return read_header(folder / "a.dcm")


def test_a_software_has_one_uid_and_other_weights_another():
    assert Software(model="a").uid == Software(model="a").uid != Software(model="b").uid


def test_unknown_weights_are_called_so():
    assert Software().serial_number == "unknown"
    assert Software(model="a1b2").serial_number == "a1b2"


def test_headers_come_without_pixels_and_with_what_anonymisers_drop(image, tmp_path):
    del image.PatientBirthDate, image.AccessionNumber, image.StudyTime
    header = header_of(image, tmp_path)
    assert "PixelData" not in header
    assert header.PatientBirthDate == header.AccessionNumber == header.StudyTime == ""
    assert header.PatientID == "PHANTOM"


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyDate", "20240102", "20240102"),
        ("StudyDate", "2024-01-02", "20240102"),
        ("PatientBirthDate", "1970.01.02", "19700102"),
        ("PatientBirthDate", "02.01.1970", ""),
        ("PatientBirthDate", "19700000", ""),
        ("PatientBirthDate", ["19700101", "19700102"], "19700101"),
        ("StudyDate", "2024", ""),
        ("StudyTime", "101500.123456", "101500.123456"),
        ("StudyTime", "101500.1234567", "101500.123456"),
        ("StudyTime", "10", "10"),
        ("StudyTime", "10:15:00", "101500"),
        ("StudyTime", "9:05", "0905"),
        ("StudyTime", "256199", ""),
        ("StudyTime", "noon", ""),
        ("PatientBirthTime", "x", ""),
        ("PatientSex", "male", ""),
        ("PatientSex", "F", "F"),
        ("PatientName", ["A^B", "C^D"], "A^B"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*VR")
def test_dates_times_and_the_like_become_the_standards_or_empty(image, tmp_path, keyword, value, expected):
    setattr(image, keyword, value)
    assert getattr(header_of(image, tmp_path), keyword) == expected


@pytest.mark.parametrize(
    ("content", "message"), [(None, "a.dcm: not readable as DICOM"), (b"no DICOM", "a.dcm: not readable as DICOM")]
)
def test_unreadable_files_are_named(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(tmp_path / "a.dcm")


def test_missing_uids_are_named(image, tmp_path):
    del image.StudyInstanceUID, image.SeriesInstanceUID
    with pytest.raises(InputError, match=r"a\.dcm: lacks StudyInstanceUID, SeriesInstanceUID"):
        header_of(image, tmp_path)


def test_evidence_is_every_file_once(cine, tmp_path):
    evidence = read_evidence(cine)
    assert [header.SOPInstanceUID for header in evidence] == [
        instance.sop_instance_uid for row in cine.instances for instance in row
    ]
    assert evidence[0].PatientID == "PHANTOM"
    assert len(read_evidence(write_cine(tmp_path, "enhanced"))) == 1


def test_a_cine_from_other_files_has_no_sources(cine):
    with pytest.raises(InputError, match=re.escape(f"{cine.source}: expected DICOM files")):
        check_sources(replace(cine, instances=()))


def test_every_image_must_be_known(cine):
    with pytest.raises(ValueError, match=r"cine\.instances must be \(z, t\)"):
        check_sources(replace(cine, instances=cine.instances[:-1]))

import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from cardiac_cine.datasets.dicom_cine import scan
from cardiac_cine.datasets.phantom_dicom import Series, Study, write_series

STUDY = Study(patient_id="P1")
CINE = Series(times_ms=np.array([0.0, 200, 400, 600]), rr_ms=800)
ARRAY = np.random.default_rng(0).integers(0, 4096, (9, 8, 11, 4)).astype(np.int16)
STEP_MM = 8.0
DERIVED = ("DERIVED", "SECONDARY", "M")
SPOILED = {"SequenceVariant": "SP"}


def put(folder, first, last, number, description, *, phases=4, **fields):
    """Write some slices of one stack as a series; slice z lies at 8 z mm along the normal, towards the head."""
    affine = np.diag([-1.5, -2.0, STEP_MM, 1])
    affine[2, 3] = STEP_MM * first
    series = replace(CINE, number=number, description=description, times_ms=CINE.times_ms[:phases], **fields)
    array = ARRAY[:, :, first:last, :phases]
    return write_series(array, affine, folder / str(number), study=STUDY, series=series)


def read(folder):
    found = scan(folder)
    assert found.problems == ()
    (stack,) = found.stacks
    return stack.read()


@pytest.mark.parametrize(
    "parts",
    [
        ((0, 3, "sax base"), (3, 6, "sax mid"), (6, 11, "sax apex")),
        ((0, 2, "sax base"), (2, 3, "sax mid"), (3, 11, "sax apex")),
        ((0, 2, "sax a"), (2, 4, "sax b"), (4, 6, "sax c"), (6, 8, "sax d"), (8, 11, "sax e")),
        ((0, 1, "sax a"), (2, 3, "sax c"), (1, 2, "sax b"), (3, 11, "sax d")),
    ],
)
def test_series_of_other_names_complete_the_stack_in_any_order(tmp_path, parts):
    for number, (first, last, description) in enumerate(parts, start=5):
        put(tmp_path, first, last, number, description)
    cine = read(tmp_path)
    assert np.array_equal(cine.array, ARRAY)
    assert sum("together make the stack" in remark for remark in cine.remarks) == len(parts) - 1


def test_echo_times_within_the_tolerance_are_one_stack(tmp_path):
    paths = put(tmp_path, 0, 11, 5, "sax")
    for index, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.EchoTime = "1.66" if index < 8 else "1.64"
        ds.save_as(path)
    put(tmp_path, 8, 11, 6, "sax more", attributes={"EchoTime": "1.7"})
    assert np.array_equal(read(tmp_path).array, ARRAY)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("base", {"phases": 3}, "3 phases, expected 4"),
        ("sax", {"image_type": DERIVED}, r"derived images \(ImageType\), expected original ones"),
        ("sax", {"attributes": {"EchoTime": "2.7"}}, r"another EchoTime \(2.7 ms\), expected 1.6 ms"),
        ("sax", {"attributes": {"EchoTime": None}}, r"another EchoTime \(none\), expected 1.6 ms"),
        ("sax", {"attributes": SPOILED}, r"the pulse sequence GR SP .*expected GR SK\\SP\\SS"),
        ("base", {"phases": 3, "image_type": DERIVED}, "3 phases, expected 4; derived images"),
    ],
)
def test_slices_that_continue_the_stack_in_another_form_are_refused(tmp_path, name, fields, message):
    put(tmp_path, 0, 9, 5, "sax")
    paths = put(tmp_path, 9, 11, 6, name, **fields)
    found = scan(tmp_path)
    assert not found.stacks
    (problem,) = found.problems
    assert problem.startswith(
        f"{paths[0]} and {len(paths) - 1} more files: series 6 '{name}' continues the stack of series 5 'sax' at 72.0, "
        "80.0 mm along the normal, but has "
    )
    assert re.search(message, problem)


@pytest.mark.parametrize(
    ("first", "message"),
    [(7, "slices where the stack has some, too, expected others"), (9, "its next slice 16.00 mm away, expected 8.00")],
)
def test_slices_of_the_same_kind_that_cannot_be_joined_are_refused(tmp_path, first, message):
    put(tmp_path, 0, 8, 5, "sax")
    put(tmp_path, first, 11, 6, "base")
    (problem,) = scan(tmp_path).problems
    assert message in problem


def test_derived_slices_within_one_series_are_refused(tmp_path):
    paths = put(tmp_path, 0, 11, 5, "sax")
    for path in paths[:8]:
        ds = pydicom.dcmread(path)
        ds.ImageType = list(DERIVED)
        ds.save_as(path)
    (problem,) = scan(tmp_path).problems
    assert "series 5 'sax' continues the stack of series 5 'sax' at 0.0, 8.0 mm" in problem


def test_slices_between_those_of_the_stack_are_refused_where_they_differ(tmp_path):
    affine = np.diag([-1.5, -2.0, STEP_MM, 1])
    for number, description, phases in ((5, "sax", 4), (6, "base", 3)):
        series = replace(CINE, number=number, description=description, times_ms=CINE.times_ms[:phases])
        affine[2, 3] = STEP_MM / 2 * (number - 5)
        write_series(ARRAY[..., :phases], affine, tmp_path / str(number), study=STUDY, series=series)
    (problem,) = scan(tmp_path).problems
    assert "at 4.0, 12.0, " in problem and "3 phases, expected 4" in problem


@pytest.mark.parametrize(
    ("first", "last", "name", "fields", "reason"),
    [
        (9, 11, "something", {"phases": 1}, "a single phase"),
        (9, 11, "something", {"phases": 2}, "2 parallel slices, expected a stack of at least 3"),
        (4, 5, "repeated", {}, "a single slice, expected a stack of at least 3"),
        (0, 9, "sax", {"image_type": DERIVED}, "another cine stack; its images are original"),
        (9, 11, "late", {}, "late enhancement, by its description"),
    ],
)
def test_other_acquisitions_are_left_out_as_before(tmp_path, first, last, name, fields, reason):
    put(tmp_path, 0, 9, 5, "sax")
    put(tmp_path, first, last, 6, name, **fields)
    found = scan(tmp_path)
    assert found.problems == ()
    assert found.stacks[0].grid.planes[0][0].header.series_number == 5
    assert {entry.series: entry.reason for entry in found.left_out} == {f"6 '{name}'": reason}


def test_perfusion_beside_the_stack_is_left_out(tmp_path):
    put(tmp_path, 0, 9, 5, "sax")
    for index, path in enumerate(put(tmp_path, 9, 11, 6, "dynamic")):
        ds = pydicom.dcmread(path)
        ds.TriggerTime = str(900 * (index % 4))
        ds.save_as(path)
    assert np.array_equal(read(tmp_path).array, ARRAY[:, :, :9])


def test_another_acquisition_that_reaches_farther_is_remarked_on(tmp_path):
    put(tmp_path, 0, 10, 5, "sax rest")
    put(tmp_path, 1, 11, 6, "sax stress")
    cine = read(tmp_path)
    assert np.array_equal(cine.array, ARRAY[:, :, :10])
    beyond = "Series 6 'sax stress' has slices beyond those of series 5 'sax rest', at 80.0 mm along the normal."
    assert beyond in cine.remarks

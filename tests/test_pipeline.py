"""From files to results as a user runs it: what is written does not depend on how the same cine is stored."""

import itertools
import json
import re
import shutil
import sys

import cli
import nibabel as nib
import numpy as np
import pydicom
import pytest
import segment
from test_images import heart, write_stack

from cardiac_cine.datasets.phantom import PhantomSpec, render, write_cine
from cardiac_cine.datasets.phantom_dicom import LAYOUTS, VENDORS, Series, Study, write_dicom, write_series
from cardiac_cine.dicom_seg import read_seg
from cardiac_cine.studies import find_studies

pytestmark = pytest.mark.usefixtures("one_thread")
# Small enough for a second, large enough for the shipped network to find the heart.
FIELDS = {"shape": (80, 96), "spacing_mm": (3.0, 2.5, 15.0), "phases": 3, "centre_mm": (-8.0, -4.0)}
# Where a cine comes from, and what its files say beyond voxels, grid and time.
OF_THE_FILES = {"case", "source", "patient", "about", "remarks", "files", "fingerprint"}
# Siemens' and GE's headers give the cycle in whole ms, or beats a minute; times in NIfTI are float32.
OF_THE_CYCLE = {"rr_ms", "heart_rate_bpm", "cardiac_output_l_min", "times_ms", "quality_flags"}


def script(*arguments):
    """Run scripts/segment.py in this process with the shipped weights; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["segment.py", *map(str, arguments), "--device", "cpu"])
        return cli.main(segment.segment, "segment.py")


def mask_of(folder, case):
    image = nib.load(folder / case / f"{case}_seg.nii.gz")
    return np.asarray(image.dataobj), image.affine


def measurements_of(folder, case):
    return json.loads((folder / case / f"{case}_measurements.json").read_text())


def on_grid(mask, affine, expected_affine):
    """Return a mask in the order of voxels of another affine of the same grid, of which axes may run backwards."""
    steps = np.linalg.inv(affine) @ expected_affine
    whole = np.round(steps)
    np.testing.assert_allclose(steps, whole, atol=1e-4)
    np.testing.assert_array_equal(np.abs(whole[:3, :3]), np.eye(3))
    return mask[tuple(slice(None, None, int(sign)) for sign in np.diag(whole)[:3])]


@pytest.fixture(scope="module", params=[True, False], ids=["oblique", "straight"])
def same_cine(request, tmp_path_factory):
    """Results of one phantom as 4D NIfTI and in every layout of DICOM, vendors taking turns; and the phantom."""
    root = tmp_path_factory.mktemp("pipeline")
    fields = FIELDS if request.param else {**FIELDS, "phases": 2}
    phantom = render(PhantomSpec(**fields, oblique=request.param))
    write_cine(phantom, root / "data" / "nifti.nii.gz")
    # The other turn of vendors for the other orientation.
    vendors = itertools.cycle(VENDORS if request.param else reversed(VENDORS))
    for seed, (layout, vendor) in enumerate(zip(LAYOUTS, vendors, strict=False)):
        write_dicom(phantom, root / "data" / layout, layout=layout, vendor=vendor, seed=seed, patient_id=layout)
    assert script(root / "data", "--output_dir", root / "out", "--noreport") == 0
    return root, phantom


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_do_not_depend_on_the_format(same_cine, layout):
    root, phantom = same_cine
    expected, grid = mask_of(root / "out", "nifti")
    np.testing.assert_allclose(grid, phantom.affine, atol=1e-4)
    mask, affine = mask_of(root / "out", layout)
    np.testing.assert_array_equal(on_grid(mask, affine, grid), expected)
    # The network has found the heart, so that equal masks say something.
    for label in (1, 2, 3):
        overlap = np.count_nonzero((expected == label) & (phantom.mask == label))
        assert 2 * overlap > 0.7 * (np.count_nonzero(expected == label) + np.count_nonzero(phantom.mask == label))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_measurements_do_not_depend_on_the_format(same_cine, layout):
    root, phantom = same_cine
    expected, found = (measurements_of(root / "out", case) for case in ("nifti", layout))
    assert found.keys() == expected.keys()
    assert found["lv_ef_percent"] > 20
    for key in found.keys() - OF_THE_FILES - OF_THE_CYCLE:
        assert close(found[key], expected[key], rel=1e-6), key
    assert found["rr_ms"] == pytest.approx(1000 * phantom.spec.frame_time_s * phantom.spec.phases, abs=0.5)
    assert found["times_ms"] == pytest.approx(expected["times_ms"], abs=1e-2)
    for key in ("heart_rate_bpm", "cardiac_output_l_min"):
        assert found[key] == pytest.approx(expected[key], rel=1e-3)
    assert codes(found) - {"reading"} == codes(expected) - {"reading"}


def close(found, expected, rel):
    """Compare JSON values; spacings in NIfTI are float32, and what is measured in mm inherits that."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key], rel) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(close(*pair, rel) for pair in zip(found, expected, strict=True))
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=rel)
    return found == expected


def codes(measurements):
    return {flag["code"] for flag in measurements["quality_flags"]}


@pytest.fixture(scope="module")
def with_dicom(tmp_path_factory):
    """One study in DICOM with its results in DICOM."""
    root = tmp_path_factory.mktemp("dicom")
    write_dicom(render(PhantomSpec(**FIELDS)), root / "data", patient_id="P1")
    assert script(root / "data", "--output_dir", root / "out", "--noreport", "--dicom_seg") == 0
    return root


def test_segmentations_in_dicom_hold_the_same_masks(with_dicom):
    [study] = find_studies(with_dicom / "data").studies
    cine = study.read()
    mask, affine = mask_of(with_dicom / "out", "P1")
    np.testing.assert_allclose(affine, cine.affine, atol=1e-4)
    found = {}
    for path in sorted((with_dicom / "out" / "P1" / "P1_seg_dicom").iterdir()):
        found |= read_seg(path, cine)
    assert sorted(found) == list(range(FIELDS["phases"]))
    np.testing.assert_array_equal(np.stack([found[phase] for phase in sorted(found)], -1), mask)


def test_the_measurement_report_in_dicom_has_the_measurements(with_dicom):
    report = pydicom.dcmread(with_dicom / "out" / "P1" / "P1_sr.dcm")
    values = [
        float(item.MeasuredValueSequence[0].NumericValue) for item in items(report) if "MeasuredValueSequence" in item
    ]
    measured = measurements_of(with_dicom / "out", "P1")
    for name in ("lv_edv_ml", "lv_esv_ml", "lv_ef_percent", "rv_edv_ml", "rv_ef_percent", "lv_mass_g"):
        assert min(abs(value - measured[name]) for value in values) < 0.1, name


def items(content):
    """Yield the items of a structured report, at any depth."""
    for item in content.get("ContentSequence", []):
        yield item
        yield from items(item)


def test_bad_studies_are_named_and_the_good_one_is_finished(with_dicom, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(with_dicom / "data", data / "good")
    cine = render(PhantomSpec(**FIELDS))
    bad = {}
    for seed, name in enumerate(["truncated", "mixed", "localiser", "half"], start=10):
        bad[name] = write_dicom(cine, data / name, patient_id=name, seed=seed)
    truncated = bad["truncated"][0]
    truncated.write_bytes(truncated.read_bytes()[:-999])
    other = pydicom.dcmread(bad["mixed"][-1])
    other.PatientID = "another"
    other.save_as(bad["mixed"][-1])
    for path in bad["localiser"][1:]:
        path.unlink()
    phases = FIELDS["phases"]
    for path in bad["half"][2 * phases + 1 : 3 * phases]:
        path.unlink()
    scout = Series(number=1, description="chest", modality="CT")
    study = Study(seed=20, patient_id="ct")
    write_series(cine.image[..., 0], cine.affine, data / "ct", study=study, series=scout)
    # What an earlier run sent to the archive comes back with the study.
    shutil.copy(with_dicom / "out" / "P1" / "P1_sr.dcm", data / "good")
    array = heart()
    array[0, 0, 0] = np.nan
    write_stack(data / "nan.nii.gz", array, dtype=np.float32)
    assert script(data, "--output_dir", out, "--noreport") == 1
    printed = capsys.readouterr()
    assert "1 of 2 studies segmented" in printed.out and "1 failed" in printed.out
    left_out, problems = printed.err.split("left out:")[1].split("problems:")
    for name, reason in {
        "truncated": rf"{truncated.name}: truncated, holds \d+ bytes of pixel data, expected 15360",
        "mixed": r"one StudyInstanceUID, but PatientID is 'another', 'mixed'; expected one patient",
        "localiser": r"no short-axis cine among the 1 series of this study",
        "half": r"the slice at -?[\d.]+ mm \(series 5 'cine_sax'\): 1 phases, expected 3 as in most slices",
        "nan.nii.gz": r"1 voxels are NaN or infinite, expected finite intensities",
    }.items():
        assert [line for line in problems.splitlines() if name in line and re.search(reason, line)], name
    assert re.search(r"/ct/series001: series 1 'chest': ", left_out)
    assert re.search(r"/good: series \d+ .*Comprehensive", left_out)
    assert {path.name for path in out.iterdir()} == {"P1", "measurements.csv", "segment.json"}
    assert {path.name for path in (out / "P1").iterdir()} == {"P1_seg.nii.gz", "P1_measurements.json"}
    np.testing.assert_array_equal(mask_of(out, "P1")[0], mask_of(with_dicom / "out", "P1")[0])

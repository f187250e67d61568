import csv
import json
import os
import shutil
from pathlib import Path

import cli
import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_sources import phantom
from pydicom import dcmread
from test_images import heart, patch_header, write_stack
from test_temporal import beating

from cardiac_cine.cine import Cine
from cardiac_cine.datasets.phantom_dicom import write_dicom
from cardiac_cine.errors import InputError
from cardiac_cine.labels import RV
from cardiac_cine.patients import Known
from cardiac_cine.results import result_files
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.studies import Found, Study, find_studies
from cardiac_cine.workflow import NO_DICOM, Options, Workflow, segment_study

pytestmark = pytest.mark.usefixtures("one_thread")
# What these tests do not look at, left out for speed.
QUICK = {"report": False, "agreement": False}
SMALL = heart((64, 64, 2))


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_bundle(cli.BUNDLE, device="cpu")


def statuses(run):
    return {outcome.name: outcome.status for outcome in run.outcomes}


def content_of(folder, case):
    return json.loads((folder / case / f"{case}_measurements.json").read_text())


def unreadable(folder, name):
    array = SMALL.copy()
    array[0, 0, 0] = np.nan
    return write_stack(folder / f"{name}.nii.gz", array, dtype=np.float32)


def test_a_finished_study_is_done_again_when_something_it_depends_on_changes(segmenter, tmp_path):
    path = write_stack(tmp_path / "data" / "a.nii.gz", SMALL)
    out = tmp_path / "out"

    def status(options=QUICK, network=segmenter):
        return statuses(Workflow(network, out, options).run(find_studies(path)))["a"]

    assert [status(), status()] == ["done", "skipped"]
    written = (out / "a" / "a_seg.nii.gz").stat().st_mtime_ns
    write_stack(path, SMALL[::-1])
    assert [status(), status()] == ["done", "skipped"]
    assert (out / "a" / "a_seg.nii.gz").stat().st_mtime_ns > written
    for options in ({**QUICK, "stabilise": False}, {**QUICK, "ed_frame": 0}, QUICK):
        assert [status(options), status(options)] == ["done", "skipped"]
    assert [status({**QUICK, "overwrite": True}), status()] == ["done", "skipped"]
    state = {key: value + 1e-3 for key, value in segmenter.network.state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    other = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=tmp_path / "other.pt", device="cpu")
    assert [status(network=other), status(network=other)] == ["done", "skipped"]
    assert content_of(out, "a")["software"]["weights"] == str(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path,
        lambda path: shutil.copytree(path.parent, path.parents[1] / "copy") / path.name,
        lambda path: path.rename(path.with_name("moved") / path.name),
    ],
    ids=["touched", "copied", "moved"],
)
def test_a_finished_study_stays_finished_wherever_its_files_lie(segmenter, tmp_path, change):
    path = write_stack(tmp_path / "data" / "a.nii.gz", SMALL)
    workflow = Workflow(segmenter, tmp_path / "out", QUICK)
    workflow.run(find_studies(path)).check()
    (tmp_path / "data" / "moved").mkdir()
    path = change(path)
    os.utime(path, ns=(0, 1_000_000_000))
    assert statuses(workflow.run(find_studies(path))) == {"a": "skipped"}
    assert str(path) in (tmp_path / "out" / "measurements.csv").read_text()


def test_results_of_another_study_are_not_replaced_unasked(segmenter, tmp_path):
    first = write_stack(tmp_path / "one" / "a.nii", SMALL)
    second = write_stack(tmp_path / "two" / "a.nii", SMALL[::-1])
    stat = first.stat()
    os.utime(second, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert second.stat().st_size == stat.st_size
    out = tmp_path / "out"
    Workflow(segmenter, out, QUICK).run(find_studies(first)).check()
    before = (out / "a" / "a_measurements.json").read_bytes()
    [outcome] = Workflow(segmenter, out, QUICK).run(find_studies(second)).outcomes
    assert outcome.reasons == (
        f"{second}: {out / 'a'} holds the results of another study of the same case name, {first.resolve()}; expected "
        "another output_dir, or --overwrite to replace them",
    )
    assert (out / "a" / "a_measurements.json").read_bytes() == before
    Workflow(segmenter, out, {**QUICK, "overwrite": True}).run(find_studies(second)).check()
    assert content_of(out, "a")["source"] == str(second)


def test_another_study_in_dicom_is_another_at_the_same_place_too(segmenter, tmp_path):
    place, out = tmp_path / "inbox", tmp_path / "out"
    uids = []
    for seed in (1, 2):
        shutil.rmtree(place, ignore_errors=True)
        write_dicom(phantom(), place, layout="enhanced", patient_id="ANON", seed=seed)
        found = find_studies(place)
        uids.append(found.studies[0].stack.header.study_uid)
        [outcome] = Workflow(segmenter, out, QUICK).run(found).outcomes
    [reason] = outcome.reasons
    assert f"{place} (StudyInstanceUID {uids[0]}); expected another output_dir" in reason
    assert content_of(out, "ANON")["about"]["study_instance_uid"] == uids[0]
    Workflow(segmenter, out, {**QUICK, "overwrite": True}).run(found).check()
    assert content_of(out, "ANON")["about"]["study_instance_uid"] == uids[1]


def test_results_keep_their_names_when_other_studies_come_and_go(segmenter, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"

    def run():
        found = find_studies(data)
        return {study.name for study in found.studies}, statuses(Workflow(segmenter, out, QUICK).run(found))

    write_stack(data / "1" / "sa.nii", SMALL)
    write_dicom(phantom(), data / "2", layout="enhanced", patient_id="ANN", seed=1)
    assert run() == ({"ANN", "sa"}, {"ANN": "done", "sa": "done"})
    write_stack(data / "3" / "sa.nii", SMALL[::-1])
    write_dicom(phantom(), data / "4", layout="enhanced", patient_id="ANN", seed=2)
    names, became = run()
    assert names == {"1_sa", "3_sa", "ANN_20240102", "ANN_20240102_2"}
    assert became == {"ANN": "skipped", "sa": "skipped", "ANN_20240102_2": "done", "3_sa": "done"}
    assert set(run()[1].values()) == {"skipped"}
    assert content_of(out, "ANN_20240102_2")["case"] == "ANN_20240102_2"
    # What is left keeps the name that it got beside the others.
    shutil.rmtree(data / "1")
    shutil.rmtree(data / "2")
    assert run() == ({"ANN", "sa"}, {"ANN_20240102_2": "skipped", "3_sa": "skipped"})


def test_a_study_of_which_a_file_is_gone_is_not_finished(segmenter, tmp_path):
    write_dicom(phantom(), tmp_path / "data", layout="enhanced", patient_id="a")
    found = find_studies(tmp_path / "data")
    out = tmp_path / "out"
    workflow = Workflow(segmenter, out, {"agreement": False, "dicom_seg": True})
    workflow.run(found).check()
    written = result_files(out / "a")
    phases = [f"a_seg_dicom/phase{number:02d}_seg.dcm" for number in (1, 2, 3, 4)]
    assert written == sorted(["a_measurements.json", "a_report.html", "a_seg.nii.gz", "a_sr.dcm", *phases])
    assert statuses(workflow.run(found)) == {"a": "skipped"}
    for name in ("a_report.html", "a_seg.nii.gz", phases[2]):
        (out / "a" / name).unlink()
        assert statuses(workflow.run(found)) == {"a": "done"}
        assert result_files(out / "a") == written


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_study_with_unreadable_measurements_is_not_finished(segmenter, tmp_path, damage):
    path = write_stack(tmp_path / "a.nii.gz", SMALL)
    workflow = Workflow(segmenter, tmp_path / "out", QUICK)
    workflow.run(find_studies(path))
    (tmp_path / "out" / "a" / "a_measurements.json").write_bytes(damage)
    assert statuses(workflow.run(find_studies(path))) == {"a": "done"}


def test_flagged_studies_come_first_and_failed_ones_last(segmenter, tmp_path):
    for name in ("good1", "good2", "odd"):
        write_stack(tmp_path / "data" / f"{name}.nii.gz", SMALL)
    unreadable(tmp_path / "data", "bad")
    out = tmp_path / "out"
    workflow = Workflow(segmenter, out, QUICK)
    workflow.run(find_studies(tmp_path / "data"))
    # Rows of finished studies come from their files, where a test can decide on the flags.
    for name in ("good1", "good2", "odd"):
        flags = [{"code": "odd_shape", "reason": "The heart is odd."}] if name == "odd" else []
        content = content_of(out, name) | {"quality_flags": flags}
        (out / name / f"{name}_measurements.json").write_text(json.dumps(content))
    run = workflow.run(find_studies(tmp_path / "data"))
    assert statuses(run) == {"bad": "failed", "good1": "skipped", "good2": "skipped", "odd": "skipped"}
    with (out / "measurements.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["status"], row["flags"]) for row in rows] == [
        ("odd", "done", "odd_shape"),
        ("good1", "done", ""),
        ("good2", "done", ""),
        ("bad", "failed", ""),
    ]
    assert "bad.nii.gz: 1 voxels are NaN or infinite" in rows[-1]["reasons"]


def test_a_run_is_checked(segmenter, tmp_path):
    write_stack(tmp_path / "data" / "a.nii.gz", SMALL)
    workflow = Workflow(segmenter, tmp_path / "out", QUICK)
    workflow.run(find_studies(tmp_path / "data")).check()
    unreadable(tmp_path / "data", "b")
    (tmp_path / "data" / "c.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError, match=r"^1 of 2 studies failed") as caught:
        workflow.run(find_studies(tmp_path / "data")).check()
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        str(tmp_path / "data" / "b.nii.gz"),
        str(tmp_path / "data" / "c.dcm"),
    ]


def test_what_makes_no_study_is_told_with_the_failed_ones(segmenter, tmp_path):
    write_stack(tmp_path / "data" / "a.nii.gz", SMALL)
    (tmp_path / "data" / "c.dcm").write_bytes(b"no DICOM")
    found = find_studies(tmp_path / "data")
    Workflow(segmenter, tmp_path / "out", {"agreement": False}).run(found)
    with (tmp_path / "out" / "measurements.csv").open(newline="") as stream:
        rows = [(row["case"], row["status"], row["reasons"]) for row in csv.DictReader(stream)]
    assert rows[0][:2] == ("a", "done")
    assert rows[1:] == [("", "failed", found.problems[0])]
    assert "1 problem with files that make no study" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("failing", [True, False])
def test_cases_of_tables_that_are_no_studys_are_told_and_stop_nothing(segmenter, tmp_path, failing):
    (unreadable if failing else lambda folder, name: write_stack(folder / f"{name}.nii.gz", SMALL))(tmp_path, "a")
    options = {"agreement": False, "patients": {"a": Known("F"), "b": Known("M")}}
    reference = {"a": {"lv_ef_percent": 60.0}, "z": {"lv_ef_percent": 50.0}}
    run = Workflow(segmenter, tmp_path / "out", options).run(find_studies(tmp_path), reference=reference)
    assert run.not_used == (
        "patients_csv: 1 of 2 cases are no study's: 'b'; expected names of studies such as 'a'",
        "reference_csv: 1 of 2 cases are no study's: 'z'; expected names of studies such as 'a'",
    )
    assert bool(run.failures()) == failing
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["not_used"] == list(run.not_used)
    assert "Agreement with the reference" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(("step_ms", "expected_s"), [(200.0, 0.2), (None, 0.25)])
def test_the_masks_time_step_is_that_of_the_phases_times(segmenter, tmp_path, step_ms, expected_s):
    path = write_stack(tmp_path / "a.nii", np.stack([SMALL] * 4, -1))
    if step_ms:
        patch_header(path, pixdim=[1, 1.6, 1.3, 8, step_ms, 0, 0, 0], xyzt_units=2 + 16)
    options = {**QUICK, "patients": {"a": Known(heart_rate_bpm=60.0)}}
    Workflow(segmenter, tmp_path / "out", options).run(find_studies(path)).check()
    image = nib.load(tmp_path / "out" / "a" / "a_seg.nii.gz")
    assert image.header.get_zooms()[3] == pytest.approx(expected_s)


def test_results_in_dicom_are_left_out_where_the_study_is_not_in_dicom(segmenter, tmp_path, caplog):
    path = write_stack(tmp_path / "a.nii.gz", np.stack([SMALL] * 2, -1))
    workflow = Workflow(segmenter, tmp_path / "out", {"agreement": False, "dicom_seg": True})
    workflow.run(find_studies(path)).check()
    folder = tmp_path / "out" / "a"
    assert result_files(folder) == ["a_measurements.json", "a_report.html", "a_seg.nii.gz"]
    assert content_of(tmp_path / "out", "a")["remarks"][-1] == NO_DICOM
    assert not any(NO_DICOM in flag["reason"] for flag in content_of(tmp_path / "out", "a")["quality_flags"])
    assert NO_DICOM in (folder / "a_report.html").read_text()
    assert f"{path}: {NO_DICOM}" in caplog.text
    assert statuses(workflow.run(find_studies(path))) == {"a": "skipped"}


def change_files(folder, **values):
    """Set attributes of all DICOM files in a folder; None removes them."""
    for path in folder.rglob("*.dcm"):
        image = dcmread(path)
        for keyword, value in values.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        image.save_as(path)


@pytest.mark.filterwarnings("ignore:.*VR")
def test_results_in_dicom_have_repaired_dates_and_times(segmenter, tmp_path):
    write_dicom(phantom(), tmp_path / "data", layout="enhanced", patient_id="a")
    change_files(tmp_path / "data", StudyTime="10:15:00", PatientBirthDate="1970.01.02", StudyDate="in May")
    Workflow(segmenter, tmp_path / "out", {**QUICK, "dicom_seg": True}).run(find_studies(tmp_path / "data")).check()
    for name in ("a_sr.dcm", "a_seg_dicom/phase01_seg.dcm"):
        written = dcmread(tmp_path / "out" / "a" / name)
        assert (written.StudyTime, written.PatientBirthDate, written.StudyDate) == ("101500", "19700102", "")


@pytest.mark.parametrize("layout", ["phase_major", "enhanced"])
def test_files_that_results_in_dicom_cannot_refer_to_fail_before_segmentation(segmenter, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(segmenter, "segment_cine", None)
    write_dicom(phantom(), tmp_path / "data", layout=layout, patient_id="a")
    change_files(tmp_path / "data", FrameOfReferenceUID=None)
    found = find_studies(tmp_path / "data")
    [outcome] = Workflow(segmenter, tmp_path / "out", {**QUICK, "dicom_seg": True}).run(found).outcomes
    assert not outcome.unexpected
    assert "FrameOfReferenceUID is missing, expected one for all slices" in outcome.reasons[0]


def test_phases_that_there_are_not_fail_the_study_before_it_is_segmented(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, "segment_cine", None)
    path = write_stack(tmp_path / "a.nii.gz", SMALL)
    options = {**QUICK, "ed_frame": 1, "es_frame": 2}
    [outcome] = Workflow(segmenter, tmp_path / "out", options).run(find_studies(path)).outcomes
    assert outcome.reasons == (f"{path}: ed_frame is 1, expected 0 to 0", f"{path}: es_frame is 2, expected 0 to 0")
    assert not outcome.unexpected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ed_frame": -1}, "ed_frame is -1, expected a phase counted from 0"),
        ({"es_frame": True}, "es_frame is True, expected a phase counted from 0"),
        ({"ed_frame": 1.0}, "ed_frame is 1.0, expected a phase counted from 0"),
        ({"es_frame": "ten"}, "es_frame is 'ten', expected a phase counted from 0"),
        ({"ed_frame": 3, "es_frame": 3}, "ed_frame and es_frame are both 3, expected two different phases"),
        ({"report": "maybe"}, "report is 'maybe', expected true or false"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Options(**options)


def test_unknown_options_and_a_file_as_folder_are_refused(segmenter, tmp_path):
    with pytest.raises(TypeError, match="reports"):
        Workflow(segmenter, tmp_path, {"reports": True})
    with pytest.raises(InputError, match=r"a.nii.gz: Not a directory, expected a folder to write to"):
        Workflow(segmenter, write_stack(tmp_path / "a.nii.gz", SMALL))


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(segmenter, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^output_dir .*/file: Not a directory, expected a folder to write to$"):
        Workflow(segmenter, tmp_path / "file" / "out")
    out = tmp_path / "out"
    Workflow(segmenter, out)
    assert not out.exists()  # the attempt leaves nothing behind
    out.mkdir(0o500)
    if not os.access(out, os.W_OK):  # root may write everywhere
        with pytest.raises(InputError, match=r"out: Permission denied, expected a folder to write to$"):
            Workflow(segmenter, out)


def test_what_an_earlier_run_wrote_and_this_one_does_not_is_gone(segmenter, tmp_path):
    write_dicom(phantom(), tmp_path / "data", layout="enhanced", patient_id="a")
    found = find_studies(tmp_path / "data")
    out = tmp_path / "out"
    Workflow(segmenter, out, {"agreement": False, "dicom_seg": True}).run(found).check()
    (out / "a" / "notes.txt").write_text("a reader's own")
    always = {"a_measurements.json", "a_seg.nii.gz", "notes.txt"}
    named = {path.name for path in (out / "a").iterdir()}
    assert named == always | {"a_report.html", "a_seg_dicom", "a_sr.dcm"}
    assert (out / "index.html").is_file()
    Workflow(segmenter, out, QUICK).run(found).check()
    assert {path.name for path in (out / "a").iterdir()} == always
    assert not (out / "index.html").exists()
    with (out / "measurements.csv").open(newline="") as stream:
        assert [row["report"] for row in csv.DictReader(stream)] == [""]


def test_a_study_that_stopped_between_two_files_is_not_finished(segmenter, tmp_path, monkeypatch):
    path = write_stack(tmp_path / "a.nii.gz", SMALL)
    out = tmp_path / "out"
    workflow = Workflow(segmenter, out, QUICK)
    workflow.run(find_studies(path)).check()
    write_stack(path, heart((64, 64, 3)))
    replace = Path.replace

    def full_disk(self, target):
        if Path(target) == out / "a" / "a_measurements.json":
            raise OSError("disk full")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        [outcome] = workflow.run(find_studies(path)).outcomes
    assert outcome.unexpected and outcome.reasons == (f"{path}: OSError: disk full",)
    assert [item.name for item in (out / "a").iterdir()] == ["a_seg.nii.gz"]
    assert [item.name for item in out.iterdir() if item.name.startswith(".")] == []
    assert statuses(workflow.run(find_studies(path))) == {"a": "done"}
    assert content_of(out, "a")["shape"] == [64, 64, 3, 1]


def test_an_interruption_leaves_a_summary_of_what_is_done(segmenter, tmp_path):
    [a] = find_studies(write_stack(tmp_path / "a.nii.gz", SMALL)).studies

    def interrupt():
        raise KeyboardInterrupt

    others = [Study(name, tmp_path / name, (a.source,), interrupt) for name in "bc"]
    run = Workflow(segmenter, tmp_path / "out", QUICK).run(Found((a, *others)))
    assert run.interrupted and statuses(run) == {"a": "done"}
    assert [study.name for study in run.not_reached] == ["b", "c"]
    summary = json.loads((tmp_path / "out" / "segment.json").read_text())
    assert summary["not_reached"] == [str(tmp_path / "b"), str(tmp_path / "c")]
    assert (tmp_path / "out" / "measurements.csv").read_text().count("\n") == 2
    with pytest.raises(InputError, match=r"^0 of 3 studies failed\ninterrupted$"):
        run.check()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interruption_keeps_finished_studies_in_the_tables(segmenter, tmp_path, monkeypatch, overwrite):
    for number, name in enumerate("abcde"):
        write_stack(tmp_path / "data" / f"{name}.nii.gz", np.roll(SMALL, number, 0))
    out = tmp_path / "out"
    first = Workflow(segmenter, out, {"agreement": False})
    for name in "cde":
        first.run(find_studies(tmp_path / "data" / f"{name}.nii.gz")).check()
    write_stack(tmp_path / "data" / "e.nii.gz", SMALL[::-1])

    def interrupt(cine):
        raise KeyboardInterrupt

    monkeypatch.setattr(segmenter, "segment_cine", interrupt)
    run = Workflow(segmenter, out, {"agreement": False, "overwrite": overwrite}).run(find_studies(tmp_path / "data"))
    assert run.interrupted and statuses(run) == {"c": "skipped", "d": "skipped"}
    assert [study.name for study in run.not_reached] == ["a", "b", "e"]
    with (out / "measurements.csv").open(newline="") as stream:
        assert [(row["case"], row["status"]) for row in csv.DictReader(stream)] == [("c", "done"), ("d", "done")]
    assert "2 studies" in (out / "index.html").read_text()


def test_another_interruption_ends_the_search_for_finished_studies(segmenter, tmp_path, monkeypatch):
    for number, name in enumerate("ab"):
        write_stack(tmp_path / "data" / f"{name}.nii.gz", np.roll(SMALL, number, 0))
    workflow = Workflow(segmenter, tmp_path / "out", QUICK)
    workflow.run(find_studies(tmp_path / "data")).check()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cardiac_cine.workflow.fingerprint", interrupt)
    run = workflow.run(find_studies(tmp_path / "data"))
    assert run.interrupted and run.outcomes == ()
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["studies"] == []


class Flickering:
    """Answers with masks of a beating heart that lost a slice in one phase."""

    def segment_cine(self, cine):
        masks = beating()
        masks[masks == RV] = 0  # a strip, which the repair would not leave
        masks[:, :, 1, 5] = 0
        return masks


def test_a_slice_that_flickers_is_replaced():
    cine = Cine("a", Path("a"), np.zeros(beating().shape), np.diag([2.0, 2.0, 10.0, 1.0]))
    masks, replaced = segment_study(Flickering(), cine)
    assert replaced == ((1, 5),)
    np.testing.assert_array_equal(masks[:, :, 1, 5] > 0, (beating()[:, :, 1, 4] > 0) & (beating()[:, :, 1, 6] > 0))
    others = np.ones(beating().shape[2:], bool)
    others[1, 5] = False
    np.testing.assert_array_equal(masks[:, :, others], Flickering().segment_cine(cine)[:, :, others])
    masks, replaced = segment_study(Flickering(), cine, steady=False)
    assert replaced == () and not masks[:, :, 1, 5].any()

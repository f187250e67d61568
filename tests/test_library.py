import os
import shutil
import threading

import nibabel as nib
import numpy as np
import pytest
from dicom_sources import phantom, write_cine
from filelock import FileLock

from cardiac_cine.annotation import sources
from cardiac_cine.annotation.library import DRAWN, FINAL, ORIGINAL, Annotated, Library
from cardiac_cine.annotation.listing import list_cines
from cardiac_cine.annotation.sources import LocalSource, Returned
from cardiac_cine.datasets.phantom import write_cine as write_nifti_cine
from cardiac_cine.errors import InputError


def open_library(folder, root, **options):
    return Library(LocalSource(folder), root, FileLock(root.parent / f"{root.name}.lock"), **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_nifti_cine(phantom(), folder / "nifti" / "one_4d.nii.gz")
    write_cine(folder / "dicom", "slice_major")
    return folder


@pytest.fixture
def studies(written, tmp_path):
    return shutil.copytree(written, tmp_path / "studies")


@pytest.fixture
def library(studies, tmp_path):
    return open_library(studies, tmp_path / "state")


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def label_file(library, image_id, folder, flip=False):
    image = nib.load(library.image_path(image_id))
    mask = np.random.default_rng(abs(hash(image_id)) % 2**32).integers(0, 4, image.shape).astype(np.uint8)
    stored, affine = (mask[::-1], image.affine @ np.diag([-1, 1, 1, 1])) if flip else (mask, image.affine)
    if flip:
        affine[:3, 3] += image.affine[:3, 0] * (image.shape[0] - 1)
    nib.save(nib.Nifti1Image(stored, affine), folder / "label.nii.gz")
    return mask, folder / "label.nii.gz"


def test_ed_and_es_come_first_and_labelled_phases_after(library, tmp_path):
    first = ["PHANTOM_phase01", "PHANTOM_phase02", "one_4d_phase01", "one_4d_phase02"]
    assert [entry.id for entry in library.entries()] == first
    rest = ["PHANTOM_phase03", "PHANTOM_phase04", "one_4d_phase03", "one_4d_phase04"]
    assert [entry.id for entry in library.entries(all_phases=True)] == first + rest
    for image, tag in (("one_4d_phase04", ORIGINAL), ("PHANTOM_phase04", FINAL)):
        library.save(image, label_file(library, image, tmp_path)[1], tag, {"source": DRAWN})
    library.propose("one_4d_phase03", library.label_array("one_4d_phase04", ORIGINAL), source="model")
    assert [entry.id for entry in library.entries()] == [*first, "PHANTOM_phase04", "one_4d_phase04"]


def test_all_phases_are_listed_where_asked_for(studies, tmp_path):
    assert len(open_library(studies, tmp_path / "state", all_phases=True).entries()) == 8


def test_images_are_the_phases_exactly_and_originals_stay(studies, library):
    before = contents(studies)
    for entry in library.entries(all_phases=True):
        cine = library.cine(entry.case)
        image = nib.load(library.image_path(entry.id))
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), cine.array[..., entry.phase])
        assert image.get_data_dtype() == cine.array.dtype
        np.testing.assert_allclose(image.affine, cine.affine, atol=1e-4)
        # DICOM's slices ascend along the normal; the phantom's descend.
        truth = phantom().image[..., entry.phase]
        np.testing.assert_array_equal(cine.array[..., entry.phase], truth[:, :, ::-1] if entry.study_uid else truth)
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in studies.rglob("*") if path.is_file()
    }


def test_an_image_is_made_again_when_its_cine_has_changed(studies, library):
    path = library.image_path("one_4d_phase01")
    stamp = path.stat().st_mtime_ns
    assert library.image_path("one_4d_phase01").stat().st_mtime_ns == stamp
    image = nib.load(studies / "nifti" / "one_4d.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asanyarray(image.dataobj) + np.int16(7), image.affine), studies / "nifti" / "one_4d.nii.gz"
    )
    library.refresh()
    changed = np.asanyarray(nib.load(library.image_path("one_4d_phase01")).dataobj)
    np.testing.assert_array_equal(changed, phantom().image[..., 0] + 7)


def test_names_that_resolve(library):
    dicom = library.phases_of("PHANTOM")
    for entry in dicom:
        assert library.resolve(entry.id) == library.resolve(entry.series_uid) == entry.id
    real = library.instances(dicom[2].id)[0][1]
    assert library.resolve(real) == "PHANTOM_phase01"
    library.set_key_phases("PHANTOM", 3, 1)
    assert library.resolve(real) == "PHANTOM_phase04"


@pytest.mark.parametrize("name", ["", "nothing", "../one_4d_phase01", "one_4d", "one_4d_phase1", "one_4d_phase05"])
def test_names_that_do_not_resolve(library, name):
    with pytest.raises(InputError, match="there is no image"):
        library.resolve(name)


def test_instances_lead_to_the_source(studies, library):
    cine = library.cine("PHANTOM")
    for entry in library.phases_of("PHANTOM"):
        uids = [uid for uid, _, _ in library.instances(entry.id)]
        assert uids == [row[entry.phase].sop_instance_uid for row in cine.instances]
    assert library.instances("one_4d_phase01") == ()


def test_key_phases_of_a_person_stay(library):
    assert library.key_phase_source("PHANTOM") == "guess"
    library.set_key_phases("PHANTOM", 0, 2)
    assert library.key_phase_source("PHANTOM") == "model"
    library.set_key_phases("PHANTOM", 1, 3, source="user")
    library.set_key_phases("PHANTOM", 0, 2)
    assert {entry.key: entry.phase for entry in library.phases_of("PHANTOM") if entry.key} == {"ED": 1, "ES": 3}
    with pytest.raises(InputError, match="two phases of 0 to 3, got 1 and 1"):
        library.set_key_phases("PHANTOM", 1, 1)


def test_a_person_who_makes_es_of_ed_swaps_them(library):
    def source_and_keys():
        phases = {entry.key: entry.phase for entry in library.phases_of("PHANTOM") if entry.key}
        return library.key_phase_source("PHANTOM"), phases

    assert library.choose_key_phase("PHANTOM_phase04", "ES") == {"ED": 0, "ES": 3}
    assert source_and_keys() == ("user", {"ED": 0, "ES": 3})
    assert library.choose_key_phase("PHANTOM_phase04", "ES") == {"ED": 0, "ES": 3}
    assert library.choose_key_phase("PHANTOM_phase04", "ED") == {"ED": 3, "ES": 0}
    assert source_and_keys() == ("user", {"ED": 3, "ES": 0})


def test_a_grid_is_that_of_the_image(library):
    for image_id in ("PHANTOM_phase02", "one_4d_phase02"):
        grid, image = library.grid(image_id), nib.load(library.image_path(image_id))
        assert grid.array.shape == image.shape and grid.name == image_id
        np.testing.assert_allclose(grid.affine, image.affine, atol=1e-4)


def test_a_single_phase_is_neither_ed_nor_es(library, studies):
    source = studies / "nifti" / "one_4d.nii.gz"
    image = nib.load(source)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[..., 0], image.affine), studies / "nifti" / "two.nii.gz")
    library.refresh()
    library.set_key_phases("two", 0, 0)
    with pytest.raises(InputError, match="two is a cine's only phase: that is neither ED nor ES"):
        library.choose_key_phase("two", "ED")
    assert [(entry.id, entry.key) for entry in library.phases_of("two")] == [("two", "")]
    assert "two" in [entry.id for entry in library.entries()]


@pytest.mark.parametrize("flip", [False, True])
def test_labels_come_back_on_the_image(library, flip, tmp_path):
    mask, path = label_file(library, "PHANTOM_phase03", tmp_path, flip)
    assert library.save("PHANTOM_phase03", path, FINAL, {"user": "me"}) == "PHANTOM_phase03"
    np.testing.assert_array_equal(library.label_array("PHANTOM_phase03", FINAL), mask)
    assert library.annotated("PHANTOM_phase03", FINAL) == Annotated((1, 2, 3), tuple(range(mask.shape[2])))
    assert library.annotated("PHANTOM_phase01", FINAL) == Annotated((), ())
    assert library.label_array("PHANTOM_phase01", FINAL) is None


@pytest.mark.parametrize(
    ("tag", "info", "message"),
    [
        ("finale", {}, "tag must be one of final, original, got 'finale'"),
        (FINAL, {"label_info": "rv"}, "label_info must be a list of objects"),
        (FINAL, {"label_info": ["rv"]}, "label_info must be a list of objects"),
        (FINAL, {"slices": [99]}, "slices must be a list of whole numbers"),
    ],
)
def test_labels_that_are_refused_leave_nothing(library, tag, info, message, tmp_path):
    _, path = label_file(library, "PHANTOM_phase01", tmp_path)
    with pytest.raises(InputError, match=message):
        library.save("PHANTOM_phase01", path, tag, info)
    assert not list((tmp_path / "state").rglob("versions/*"))


def test_another_process_sees_labels_and_key_phases(studies, library, tmp_path):
    other = open_library(studies, tmp_path / "state")
    mask, path = label_file(library, "PHANTOM_phase01", tmp_path)
    library.save("PHANTOM_phase01", path, FINAL, {})
    library.set_key_phases("PHANTOM", 0, 3)
    np.testing.assert_array_equal(other.label_array("PHANTOM_phase01", FINAL), mask)
    assert [entry.id for entry in other.entries()][1] == "PHANTOM_phase04"


def test_labels_survive_that_a_study_comes_between(studies, library, tmp_path):
    mask, path = label_file(library, "PHANTOM_phase01", tmp_path)
    library.save("PHANTOM_phase01", path, FINAL, {})
    # Another study of the same patient, which sorts and is named before.
    write_cine(studies / "a", "phase_major", seed=5)
    again = open_library(studies, tmp_path / "state")
    assert len(again.entries(all_phases=True)) == 12
    np.testing.assert_array_equal(again.label_array("PHANTOM_phase01", FINAL), mask)
    assert again.entry("PHANTOM_phase01").study_uid == library.entry("PHANTOM_phase01").study_uid


def test_a_label_counts_on_the_voxels_it_was_drawn_on(studies, tmp_path, caplog):
    path = studies / "nifti" / "one_4d.nii.gz"
    library = open_library(studies, tmp_path / "state")
    for image_id, tag in (("one_4d_phase01", FINAL), ("one_4d_phase02", ORIGINAL), ("PHANTOM_phase01", FINAL)):
        library.save(image_id, label_file(library, image_id, tmp_path)[1], tag, {})
    first = library.label_array("one_4d_phase01", FINAL)
    # Copied or restored, a file is younger and the same.
    os.utime(path, ns=(0, 0))
    assert set(open_library(studies, tmp_path / "state").labels.all(FINAL)) == {"one_4d_phase01", "PHANTOM_phase01"}
    before, image = path.read_bytes(), nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[:, :, :-1], image.affine), path)
    # Seen by whoever reads the images, without another start.
    assert library.cine("one_4d").array.shape[2] == first.shape[2] - 1
    for seen in (library, open_library(studies, tmp_path / "state")):
        assert set(seen.labels.all(FINAL)) == {"PHANTOM_phase01"} and not seen.labels.all(ORIGINAL)
        assert seen.label_array("one_4d_phase01", FINAL) is None and seen.standing("one_4d_phase02") == ""
        problem = "one_4d: 2 of its labels were drawn on other images than it has now; they are kept and not used"
        assert seen.problems == [problem]
    assert problem in caplog.text
    library.save("one_4d_phase01", label_file(library, "one_4d_phase01", tmp_path)[1], FINAL, {})
    assert library.problems == [problem] and library.label_array("one_4d_phase01", FINAL).shape[2] == first.shape[2] - 1
    library.labels.remove("one_4d_phase01", FINAL)
    path.write_bytes(before)
    library.refresh()
    assert library.problems == [] and set(library.labels.all(ORIGINAL)) == {"one_4d_phase02"}


def test_labels_of_a_file_that_cannot_be_read_for_a_while_stay(studies, tmp_path, monkeypatch):
    path, state = studies / "nifti" / "one_4d.nii.gz", tmp_path / "state"
    library = open_library(studies, state)
    library.save("one_4d_phase01", label_file(library, "one_4d_phase01", tmp_path)[1], FINAL, {})
    os.utime(path, ns=(0, 0))
    with monkeypatch.context() as patched:
        patched.setattr("cardiac_cine.fingerprints.sha256", lambda path: path.with_name("gone").open())
        assert set(open_library(studies, state).labels.all(FINAL)) == {"one_4d_phase01"}
    again = open_library(studies, state)
    assert set(again.labels.all(FINAL)) == {"one_4d_phase01"} and again.problems == []


def test_a_study_that_goes_away_takes_its_images_along(studies, library):
    (studies / "nifti" / "one_4d.nii.gz").unlink()
    with pytest.raises(InputError, match="there is no case 'one_4d'"):
        library.image_path("one_4d_phase01")


def test_studies_that_come_and_go_are_listed_without_a_restart(studies, library, monkeypatch):
    def look_again():
        monkeypatch.setattr(library, "_refreshed", -1e9)
        library.refresh_when_old()
        for thread in threading.enumerate():
            if thread.name == "refresh":
                thread.join(20)
        return {entry.case for entry in library.entries()}

    assert look_again() == {"PHANTOM", "one_4d"}
    write_nifti_cine(phantom(), studies / "nifti" / "two_4d.nii.gz")
    assert look_again() == {"PHANTOM", "one_4d", "two_4d"}
    shutil.rmtree(studies / "dicom")
    assert look_again() == {"one_4d", "two_4d"}


def test_headers_of_a_folder_are_read_again_only_where_something_has_changed(studies, monkeypatch):
    read = []
    monkeypatch.setattr(sources, "list_cines", lambda path: read.append(path) or list_cines(path))
    source, one = LocalSource(studies), studies / "nifti" / "one_4d.nii.gz"
    assert source.scan() == source.scan() and len(read) == 1
    one.write_bytes(one.read_bytes())
    assert {cine.name for cine in source.scan()[0]} == {"PHANTOM", "one_4d"} and len(read) == 2
    one.unlink()
    assert [cine.name for cine in source.scan()[0]] == ["PHANTOM"] and len(read) == 3
    single = LocalSource(studies / "nifti" / "two_4d.nii.gz")
    assert single.scan()[0] == []
    write_nifti_cine(phantom(), single.path)
    assert [cine.name for cine in single.scan()[0]] == ["two_4d"]


def test_facts_are_kept_with_an_image(library):
    library.image_path("PHANTOM_phase01")
    answered = {"id": "x", "path": "/etc", "checksum": "0", "name": "x", "strategy": {"random": 1}, "locked_by": "me"}
    library.keep_facts("PHANTOM_phase01", {"note": "blurred", "version": "other"} | answered)
    library.keep_facts("PHANTOM_phase01", {"skipped": True})
    assert library.image_facts("PHANTOM_phase01") == {"note": "blurred", "skipped": True}
    assert library.image_facts("PHANTOM_phase02") == {}


def test_a_folder_that_goes_away_is_a_problem_and_no_crash(studies, library, tmp_path):
    studies.rename(tmp_path / "gone")
    library.refresh()
    assert library.entries() == [] and library.problems == [f"{studies}: no such file or folder"]


class Remote(LocalSource):
    """A folder that also keeps labels."""

    remote = True

    def __init__(self, path):
        super().__init__(path)
        self.stored, self.pushed, self.down = [], [], False

    def push(self, cine, phase, mask, name):
        if self.down:
            raise InputError("down")
        self.pushed.append((cine.identity, phase, mask, name))
        return {"SeriesInstanceUID": f"1.{len(self.pushed)}"}

    def pull(self, seen):
        if self.down:
            raise InputError("down")
        yield from (label for label in self.stored if label.series_uid not in seen)


def test_what_stands_for_an_image(library, tmp_path):
    image = "one_4d_phase02"
    mask, path = label_file(library, image, tmp_path)

    def state():
        return library.latest(image), library.standing(image), library.by_hand(image)

    assert state() == ("", "", False)
    library.propose(image, mask, asked=False, source="model")
    assert state() == (ORIGINAL, ORIGINAL, False)
    library.save(image, path, ORIGINAL, {"source": DRAWN})
    assert state() == (ORIGINAL, ORIGINAL, True)
    library.save(image, path, FINAL, {"source": DRAWN})
    assert state() == (FINAL, FINAL, True)
    library.save(image, path, ORIGINAL, {"source": DRAWN})  # drawn on
    assert state() == (ORIGINAL, ORIGINAL, True)
    library.propose(image, mask, source="model")
    assert state() == (ORIGINAL, ORIGINAL, True)
    library.save(image, path, FINAL, {"source": DRAWN})
    library.propose(image, mask, source="model")
    assert state() == (ORIGINAL, FINAL, True)


def test_a_proposal_takes_no_drawings_place(library, tmp_path):
    drawn, finished, empty = "one_4d_phase01", "one_4d_phase02", "one_4d_phase03"
    masks = {}
    for image, tag in ((drawn, ORIGINAL), (finished, FINAL)):
        masks[image], path = label_file(library, image, tmp_path)
        library.save(image, path, tag, {"source": DRAWN})
    for image in (drawn, finished, empty):
        library.propose(image, np.ones_like(masks[drawn]), asked=False, source="model")
    np.testing.assert_array_equal(library.label_array(drawn, ORIGINAL), masks[drawn])
    np.testing.assert_array_equal(library.label_array(finished, FINAL), masks[finished])
    assert library.label_array(finished, ORIGINAL) is None
    assert library.label_array(empty, ORIGINAL).all()
    for image in (drawn, finished):
        library.propose(image, np.ones_like(masks[drawn]), source="model")
    np.testing.assert_array_equal(library.label_array(drawn, ORIGINAL), masks[drawn])
    assert library.label_array(finished, ORIGINAL).all() and library.standing(finished) == FINAL


@pytest.fixture
def remote(studies, tmp_path):
    return Library(Remote(studies), tmp_path / "state", FileLock(tmp_path / "lock"))


def returned(library, series, utc, value, problem=""):
    cine = library.cine("PHANTOM")
    masks = {} if problem else {2: np.full(cine.array.shape[:3], value, np.uint8)}
    return Returned(series, cine.about["study_instance_uid"], utc, cine.affine, masks, problem)


def test_final_labels_are_stored_in_the_source_once_each(remote, tmp_path):
    mask, path = label_file(remote, "PHANTOM_phase02", tmp_path)
    remote.save("PHANTOM_phase02", path, ORIGINAL, {})
    assert remote.source.pushed == []
    remote.save("PHANTOM_phase02", path, FINAL, {"SeriesInstanceUID": "told by a client"})
    remote.refresh()
    [(identity, phase, pushed, name)] = remote.source.pushed
    assert (identity, phase, name) == (remote.cine("PHANTOM").about["study_instance_uid"], 1, "end-systole")
    np.testing.assert_array_equal(pushed, mask)
    assert remote.labels.info("PHANTOM_phase02", FINAL)["SeriesInstanceUID"] == "1.1"
    remote.save("PHANTOM_phase02", path, FINAL, {})
    assert remote.labels.info("PHANTOM_phase02", FINAL)["SeriesInstanceUID"] == "1.2"


def test_a_label_that_the_source_does_not_take_is_kept_and_stored_later(remote, tmp_path):
    mask, path = label_file(remote, "PHANTOM_phase01", tmp_path)
    remote.source.down = True
    remote.save("PHANTOM_phase01", path, FINAL, {})
    np.testing.assert_array_equal(remote.label_array("PHANTOM_phase01", FINAL), mask)
    remote.refresh()
    assert remote.problems == ["down"] and remote.source.pushed == []
    remote.source.down = False
    remote.refresh()
    assert remote.problems == [] and len(remote.source.pushed) == 1


def test_labels_of_others_are_taken_unless_ours_is_newer(remote, tmp_path):
    remote.source.stored = [returned(remote, "9.1", "2024-01-01T00:00:00+00:00", 1)]
    remote.refresh()
    assert remote.label_array("PHANTOM_phase03", FINAL).max() == 1
    assert remote.labels.info("PHANTOM_phase03", FINAL)["source"] == "archive"
    assert remote.source.pushed == []
    mask, path = label_file(remote, "PHANTOM_phase03", tmp_path)
    remote.save("PHANTOM_phase03", path, FINAL, {})
    remote.source.stored.append(returned(remote, "9.2", "2024-01-02T00:00:00+00:00", 2))
    remote.refresh()
    np.testing.assert_array_equal(remote.label_array("PHANTOM_phase03", FINAL), mask)
    remote.source.stored.append(returned(remote, "9.3", "2099-01-02T00:00:00+00:00", 3))
    remote.refresh()
    assert remote.label_array("PHANTOM_phase03", FINAL).min() == 3


def test_a_label_that_was_removed_does_not_come_back(remote):
    remote.source.stored = [returned(remote, "9.1", "2024-01-01T00:00:00+00:00", 1)]
    remote.refresh()
    remote.labels.remove("PHANTOM_phase03", FINAL)
    remote.refresh()
    assert remote.label_array("PHANTOM_phase03", FINAL) is None


def test_what_is_wrong_with_labels_of_others_is_told_each_time(remote):
    remote.source.stored = [returned(remote, "9.1", "2024-01-01T00:00:00+00:00", 1, problem="no good")]
    remote.refresh()
    remote.refresh()
    assert remote.problems == ["no good"]


def test_looking_at_a_slow_source_makes_nobody_wait(remote, monkeypatch):
    began, go_on = threading.Event(), threading.Event()
    scan = remote.source.scan

    def slow_scan():
        began.set()
        assert go_on.wait(20)
        return scan()

    monkeypatch.setattr(remote.source, "scan", slow_scan)
    monkeypatch.setattr(remote, "_refreshed", -1e9)
    remote.refresh_when_old()
    assert began.wait(20)
    monkeypatch.setattr(remote, "_refreshed", -1e9)  # it takes longer than the time between two looks
    remote.refresh_when_old()
    assert len(remote.entries()) == 4
    assert sum(thread.name == "refresh" for thread in threading.enumerate()) == 1
    go_on.set()

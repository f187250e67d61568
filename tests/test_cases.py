import dataclasses
import json
import math
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cardiac_cine import cases
from cardiac_cine.cases import Case, Datalist, problems_of, read, stratified, validate, write
from cardiac_cine.errors import InputError

# The smallest stack that passes for a heart's: 80 x 72 mm in plane.
SHAPE = (16, 15, 3)
SPACING_MM = (5.0, 4.8, 8.0)


def save(path: Path, array: np.ndarray, spacing_mm: tuple[float, ...] = SPACING_MM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), path)
    return path


def an_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.float32)


def a_label() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6, 5:9], mask[6:12, 4:10], mask[7:11, 5:9] = 1, 2, 3
    return mask


def save_patient(root: Path, number: int, *, group: str = "NOR", frames: tuple[int, int] = (1, 8)) -> Path:
    """Write one patient as ACDC's training split has it and return the folder."""
    patient = f"patient{number:03d}"
    folder = root / patient
    for frame in frames:
        save(folder / f"{patient}_frame{frame:02d}.nii.gz", an_image(frame))
        save(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", a_label())
    lines = [f"ED: {frames[0]}", f"ES: {frames[1]}", f"Group: {group}", "Height: 171.5", "NbFrame: 12", "Weight: 64.0"]
    (folder / "Info.cfg").write_text("\n".join(lines))
    return folder


def a_case(folder: Path, patient: str = "p1", phase: str = "ED", **fields: object) -> Case:
    name = f"{patient}_{phase}"
    return Case(patient, phase, folder / f"{name}.nii.gz", folder / f"{name}_gt.nii.gz", **fields)


def a_saved_case(folder: Path, patient: str = "p1", phase: str = "ED") -> Case:
    case = a_case(folder, patient, phase)
    save(case.image, an_image())
    save(case.label, a_label())
    return case


def a_datalist(folder: Path, folds: tuple[int, ...] = (0, 1, 2, 3, 4), **splits: tuple[str, ...]) -> Datalist:
    """Two frames of each patient p0, p1, ... in those folds; p1 never trains."""
    listed = [
        a_case(folder, f"p{index}", phase, fold=fold, excluded_from_training="leaks" if index == 1 else "")
        for index, fold in enumerate(folds)
        for phase in cases.PHASES
    ]
    return Datalist("toy", tuple(listed), splits)


def patients(chosen: list[Case]) -> list[str]:
    return [case.patient for case in chosen[::2]]


def test_an_input_error_lists_its_problems():
    assert str(InputError("a.nii: empty")) == "a.nii: empty"
    assert str(InputError(["a.nii: empty"], "1 problem:")) == "1 problem:\na.nii: empty"
    error = InputError(["a.nii: empty", "b.nii: missing"], "2 problems:")
    assert isinstance(error, ValueError)
    assert error.problems == ("a.nii: empty", "b.nii: missing")
    assert str(error) == "2 problems:\n- a.nii: empty\n- b.nii: missing"


def test_an_input_error_survives_pickling():
    error = pickle.loads(pickle.dumps(InputError(["a", "b"], "both:")))
    assert (type(error), error.problems, error.summary) == (InputError, ("a", "b"), "both:")
    assert str(error) == "both:\n- a\n- b"


def test_a_case_is_named_after_its_image_and_becomes_a_flat_item():
    case = a_case(Path("/data"), group="DCM", fold=3)
    assert case.name == "p1_ED"
    item = case.item()
    assert item.keys() == {field.name for field in dataclasses.fields(Case)}
    assert (item["image"], item["label"]) == ("/data/p1_ED.nii.gz", "/data/p1_ED_gt.nii.gz")
    assert (item["patient"], item["group"], item["fold"]) == ("p1", "DCM", 3)
    assert math.isnan(item["height_cm"])


@pytest.mark.parametrize(
    ("fields", "complete"),
    [
        ({}, True),
        ({"structures": (3, 1, 2)}, True),
        ({"structures": (1, 2)}, False),
        ({"structures": ()}, False),
        ({"slices": (0,)}, False),
    ],
)
def test_a_complete_case_has_all_structures_in_all_slices(fields, complete):
    assert a_case(Path("/data"), **fields).complete is complete


def test_patients_are_chosen_from_every_group_by_its_share():
    groups = {f"{group}{index}": group for group, size in (("DCM", 8), ("", 4), ("RV", 4)) for index in range(size)}
    chosen = {seed: stratified(groups, 4, seed) for seed in range(20)}
    for patients in chosen.values():
        assert list(patients) == sorted(set(patients))
        assert sorted(groups[patient] for patient in patients) == ["", "DCM", "DCM", "RV"]
    assert len(set(chosen.values())) > 10
    assert stratified(groups, 4, 0) == stratified(dict(reversed(groups.items())), 4, 0)
    assert stratified(groups, 99, 0) == tuple(sorted(groups))
    assert stratified(groups, 0, 0) == stratified({}, 3, 0) == ()


def test_sections_split_by_patient():
    datalist = a_datalist(Path("/data"), (0, 1, 0, 2, 2), mine=("p3", "p1"))
    assert datalist.split_names() == ["mine", "fold0", "fold1", "fold2", "fold3", "fold4"]
    assert patients(datalist.section("mine", "validation")) == ["p1", "p3"]
    assert patients(datalist.section("mine", "training")) == ["p0", "p2", "p4"]
    assert patients(datalist.section("fold0", "validation")) == ["p0", "p2"]
    # p1, who never trains, validates in fold 1 and is in neither section of the others.
    assert patients(datalist.section("fold0", "training")) == ["p3", "p4"]
    assert patients(datalist.section("fold1", "validation")) == ["p1"]
    assert patients(datalist.section("fold1", "training")) == ["p0", "p2", "p3", "p4"]
    assert [case.phase for case in datalist.section("fold1", "validation")] == ["ED", "ES"]
    # Several together: nobody of any of them trains.
    assert patients(datalist.section("fold1+fold2", "validation")) == ["p1", "p3", "p4"]
    assert patients(datalist.section("fold1+fold2", "training")) == ["p0", "p2"]
    assert patients(datalist.section("mine+fold2", "validation")) == ["p1", "p3", "p4"]


def test_incomplete_masks_train_and_do_not_validate(tmp_path):
    listed = [a_case(tmp_path, "p0", "ED"), a_case(tmp_path, "p0", "ES", structures=(3,))]
    listed += [a_case(tmp_path, "p1", "ED", fold=1), a_case(tmp_path, "p1", "ES", fold=1, slices=(0,))]
    datalist = Datalist("toy", tuple(listed))
    for fold, (judged, trains) in {"fold0": ("p0", "p1"), "fold1": ("p1", "p0")}.items():
        assert [case.name for case in datalist.section(fold, "validation")] == [f"{judged}_ED"]
        assert [case.name for case in datalist.section(fold, "training")] == [f"{trains}_ED", f"{trains}_ES"]


@pytest.mark.parametrize(
    ("split", "section", "message"),
    [
        ("fold5", "training", r"toy: no split 'fold5', expected one of \['mine', 'fold0', .*'fold4'\]"),
        ("fold0+fold7", "training", "toy: no split 'fold7', expected one of"),
        ("mine", "test", r"no section 'test', expected one of \('training', 'validation'\)"),
        ("fold4", "validation", "toy: the validation section of split 'fold4' is empty"),
        ("mine", "training", "toy: the training section of split 'mine' is empty"),
    ],
)
def test_sections_reject(split, section, message):
    datalist = a_datalist(Path("/data"), (0, 1), mine=("p0",))  # p1 does not validate, and never trains
    with pytest.raises(InputError, match=message):
        datalist.section(split, section)


def test_a_datalist_written_is_read_back(tmp_path):
    listed = (
        a_case(tmp_path / "source" / "a", group="HCM", height_cm=181.5, weight_kg=77.0, frame_number=3, num_frames=30),
        a_case(tmp_path / "source", "p2", "ES", fold=4, excluded_from_training="the same scan as another's"),
        a_case(tmp_path / "source", "p3", "", structures=(3, 2), slices=(0, 4)),
    )
    datalist = Datalist("toy", listed, {"mine": ("p2",), "none": ()}, licence="CC BY 4.0", reference="Ä. et al.")
    path = write(datalist, tmp_path / "new" / "out", tmp_path / "source")
    assert path == tmp_path / "new" / "out" / "dataset.json"
    assert list(path.parent.iterdir()) == [path]
    assert read(path) == datalist
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert content["source"] == str(tmp_path / "source")
    assert [entry["image"] for entry in content["training"]] == ["a/p1_ED.nii.gz", "p2_ES.nii.gz", "p3_.nii.gz"]
    assert content["training"][1]["height_cm"] is None
    assert content["labels"] == {"0": "background", "1": "rv", "2": "myo", "3": "lv"}
    assert (content["numTraining"], content["tensorImageSize"]) == (3, "3D")


def test_a_datalist_replaces_an_earlier_one(tmp_path):
    write(a_datalist(tmp_path, (0, 1)), tmp_path, tmp_path)
    path = write(a_datalist(tmp_path, (4,)), tmp_path, tmp_path)
    assert [case.fold for case in read(path).cases] == [4, 4]


def test_a_writer_that_fails_leaves_the_earlier_datalist(tmp_path, monkeypatch):
    path = write(a_datalist(tmp_path, (0, 1)), tmp_path / "out", tmp_path)
    before = path.read_bytes()
    write_text = Path.write_text

    def fail(self, text, *args, **kwargs):
        write_text(self, text[:100], *args, **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write(a_datalist(tmp_path, (4,)), tmp_path / "out", tmp_path)
    assert list((tmp_path / "out").iterdir()) == [path]
    assert path.read_bytes() == before


def test_files_outside_the_source_are_refused(tmp_path):
    datalist = Datalist("toy", (a_case(tmp_path / "source"), a_case(tmp_path / "elsewhere", "p2")))
    with pytest.raises(InputError) as caught:
        write(datalist, tmp_path / "out", tmp_path / "source")
    assert caught.value.problems == tuple(
        f"{tmp_path}/elsewhere/p2_ED{ending}.nii.gz: not below {tmp_path}/source, expected all files of the datalist "
        "there"
        for ending in ("", "_gt")
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_of_links_is_a_source(tmp_path):
    a_saved_case(tmp_path / "archive")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "subset").symlink_to(tmp_path / "archive")
    datalist = Datalist("toy", (a_case(tmp_path / "source" / "subset"),))
    written = read(write(datalist, tmp_path / "out", tmp_path / "source"))
    assert written.cases[0].image == tmp_path / "source" / "subset" / "p1_ED.nii.gz"
    validate(written.cases)


def test_a_relative_source_makes_data_and_datalist_movable(tmp_path, monkeypatch):
    a_saved_case(tmp_path / "here" / "images")
    monkeypatch.chdir(tmp_path / "here")
    datalist = Datalist("toy", (a_case(Path("images")),))
    path = write(datalist, Path("lists"), Path("images"))
    content = json.loads(path.read_text())
    assert content["source"] == str(tmp_path / "here" / "images")
    path.write_text(json.dumps(content | {"source": "../images"}))
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir("/")
    moved = read(tmp_path / "there" / "lists" / "dataset.json")
    assert moved.cases[0].image.samefile(tmp_path / "there" / "images" / "p1_ED.nii.gz")
    validate(moved.cases)


def test_what_a_hand_written_datalist_may_leave_out(tmp_path):
    entry = {"patient": "p1", "phase": "ES", "image": "i.nii", "label": "l.nii", "weight_kg": None, "unheard_of": 1}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    datalist = read(tmp_path / "dataset.json")
    assert datalist == Datalist(tmp_path.name, (Case("p1", "ES", tmp_path / "i.nii", tmp_path / "l.nii"),))


ENTRY = {"patient": "p1", "phase": "ED", "image": "i.nii", "label": "l.nii"}
BAD_DATALISTS = {
    "cut short": ('{"training": [', ["not readable as JSON (Expecting value.*), expected a datalist"]),
    "binary": (b"\xff\xfe\x00", ["not readable as JSON (.*), expected a datalist"]),
    "a list": ([ENTRY], ["expected an object with a list 'training'"]),
    "no training": ({"name": "toy"}, ["expected an object with a list 'training'"]),
    "training an object": ({"training": {"p1": ENTRY}}, ["expected an object with a list 'training'"]),
    "bad entries": (
        {
            "training": [
                {"patient": "p1", "phase": "ED", "label": None},
                ENTRY,
                "p1",
                ENTRY | {"phase": "MD"},
                ENTRY | {"fold": 5},
                ENTRY | {"image": 7},
                ENTRY | {"height_cm": "tall"},
                ENTRY | {"fold": "0"},
                ENTRY | {"frame_number": 1.5},
                ENTRY | {"structures": 3},
                ENTRY | {"structures": [3, 4]},
                ENTRY | {"slices": [0, -1]},
                ENTRY | {"slices": [True]},
            ]
        },
        [
            "entry 0 of 'training': lacks ['image', 'label']",
            "entry 2 of 'training': expected an object, got 'p1'",
            "entry 3 of 'training': phase 'MD', expected one of ('ED', 'ES', '')",
            "entry 4 of 'training': fold 5, expected 0 to 4",
            "entry 5 of 'training': image is 7, expected str",
            "entry 6 of 'training': height_cm is 'tall', expected float",
            "entry 7 of 'training': fold is '0', expected int",
            "entry 8 of 'training': frame_number is 1.5, expected int",
            "entry 9 of 'training': structures is 3, expected list",
            "entry 10 of 'training': structures [3, 4], expected only [1, 2, 3]",
            "entry 11 of 'training': slices [0, -1], expected numbers from 0",
            "entry 12 of 'training': slices [True], expected numbers from 0",
        ],
    ),
    "bad splits and source": (
        {
            "training": [ENTRY, ENTRY | {"fold": -1}],
            "source": None,
            "splits": {"a": ["p1"], "b": {"training": ["p1"]}, "c": {"validation": "p1"}, "d": {"validation": ["p1"]}},
        },
        [
            "'source' is None, expected a folder",
            "entry 1 of 'training': fold -1, expected 0 to 4",
            "split 'a' is ['p1'], expected an object with a list 'validation'",
            "split 'b' is {'training': ['p1']}, expected an object with a list 'validation'",
            "split 'c' is {'validation': 'p1'}, expected an object with a list 'validation'",
        ],
    ),
    "split of strangers": (
        {"training": [ENTRY], "splits": {"a": {"validation": ["p1", "p10"]}}},
        ["split 'a' names patients that have no entry: ['p10']"],
    ),
    "splits a list": ({"training": [], "splits": ["a"]}, ["'splits' is ['a'], expected an object"]),
}


@pytest.mark.parametrize(("content", "problems"), BAD_DATALISTS.values(), ids=BAD_DATALISTS.keys())
def test_bad_datalists_are_refused_with_all_that_is_wrong(tmp_path, content, problems):
    path = tmp_path / "dataset.json"
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert len(caught.value.problems) == len(problems)
    for found, expected in zip(caught.value.problems, problems, strict=True):
        start, _, end = f"{path}: {expected}".partition(".*")
        assert found.startswith(start) and found.endswith(end)


def test_a_missing_datalist_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/dataset.json: no such file, expected a datalist"):
        read(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(InputError, match=r"not readable as JSON .*directory.*, expected a datalist"):
        read(tmp_path / "dataset.json")


def nan_image(case: Case) -> None:
    array = an_image()
    array[4, 4, 1] = math.nan
    save(case.image, array)


def foreign_label(case: Case) -> None:
    save(case.label, np.where(a_label() == 3, 7, a_label()).astype(np.uint8))


def truncated(case: Case) -> None:
    case.image.write_bytes(case.image.read_bytes()[:-200])


FAULTS = {
    "NaN": (nan_image, "{image}: 1 voxels are NaN or infinite"),
    "label 7": (foreign_label, "{label}: holds label values 7, expected only (0, 1, 2, 3)"),
    "shapes": (lambda case: save(case.label, a_label()[:, :-1]), "{label}: shape (16, 14, 3), expected (16, 15, 3) as"),
    "grids": (lambda case: save(case.label, a_label(), (5.0, 4.8, 10.0)), "{label}: lies up to 4.00 mm off {image}"),
    "truncated": (truncated, "{image}: truncated or corrupted"),
    "missing": (lambda case: case.label.unlink(), "{label}: no such file"),
    "constant": (lambda case: save(case.image, np.full(SHAPE, 9.0)), "{image}: all voxels are 9"),
    "4D": (lambda case: save(case.image, np.stack([an_image()] * 2, -1)), "{image}: a 4D image"),
    "metres": (lambda case: save(case.image, an_image(), (0.005, 0.0048, 0.008)), "{image}: a spacing of 0.005 x"),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_problems_of_one_case(tmp_path, spoil, message):
    good, bad = a_saved_case(tmp_path, "good"), a_saved_case(tmp_path, "bad")
    assert problems_of([good, bad]) == {}
    spoil(bad)
    found = problems_of([good, bad])
    assert found.keys() == {"bad_ED"}
    assert found["bad_ED"][0].startswith(message.format(image=bad.image, label=bad.label))


def test_image_and_label_are_both_looked_at(tmp_path):
    case = a_saved_case(tmp_path)
    nan_image(case)
    foreign_label(case)
    assert len(problems_of([case])["p1_ED"]) == 2


def test_validate_lists_all_problems_in_the_datalists_order(tmp_path):
    good = [a_saved_case(tmp_path, f"good{index}") for index in range(3)]
    bad = [a_saved_case(tmp_path, f"bad{index}") for index in range(len(FAULTS))]
    for case, (spoil, _) in zip(bad, FAULTS.values(), strict=True):
        spoil(case)
    validate(good)
    with pytest.raises(InputError) as caught:
        validate([*bad[:4], *good, *bad[4:]])
    starts = [
        text.format(image=case.image, label=case.label) for case, (_, text) in zip(bad, FAULTS.values(), strict=True)
    ]
    for start in starts:
        assert any(problem.startswith(start) for problem in caught.value.problems), start
    # Metres are wrong in three ways at once: in plane, between slices, and in the field of view.
    assert len(caught.value.problems) == len(FAULTS) + 2
    assert str(caught.value).startswith("11 problems in the datalist's files:\n- ")
    order = [problem.split(":")[0] for problem in caught.value.problems]
    assert order == sorted(order, key=lambda path: [path in (str(c.image), str(c.label)) for c in bad].index(True))


def test_two_images_of_one_name_are_refused_and_both_checked(tmp_path):
    listed = [a_saved_case(tmp_path / "a"), a_saved_case(tmp_path / "b"), a_saved_case(tmp_path, "p2")]
    with pytest.raises(InputError) as caught:
        validate(listed)
    assert caught.value.problems == ("case p1_ED: the datalist has more than one image of this name",)
    for case in listed[:2]:
        foreign_label(case)
    assert len(problems_of(listed)["p1_ED"]) == 2
    with pytest.raises(InputError, match="3 problems in the datalist's files") as caught:
        validate(listed)
    for case in listed[:2]:
        assert str(case.label) in str(caught.value)

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_cases import save_patient

from cardiac_cine.cases import SECTIONS
from cardiac_cine.datasets import acdc
from cardiac_cine.errors import InputError

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
FOLDS = [f"fold{index}" for index in range(5)]


def without_voxels(root, number, group="NOR", frames=(1, 8)):
    """A patient of empty files, which is all that a scan looks at."""
    patient = f"patient{number:03d}"
    folder = root / patient
    folder.mkdir(parents=True)
    for frame in frames:
        (folder / f"{patient}_frame{frame:02d}.nii.gz").touch()
        (folder / f"{patient}_frame{frame:02d}_gt.nii.gz").touch()
    (folder / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: {group}\n")
    return folder


@pytest.fixture(scope="module")
def twenty_five(tmp_path_factory):
    """The scan of 25 patients, five of each group, among them those of whom something is known."""
    root = tmp_path_factory.mktemp("acdc")
    numbers = [*range(1, 23), 55, 74, 76]
    for index, number in enumerate(numbers):
        without_voxels(root / "training", number, acdc.GROUPS[index // 5])
    datalist, problems = acdc.scan(root)
    assert problems == []
    return datalist


def patients(cases):
    return list(dict.fromkeys(case.patient for case in cases))


def test_a_patient_is_read(tmp_path):
    folder = save_patient(tmp_path / "training", 7, group="HCM", frames=(2, 11))
    datalist, problems = acdc.scan(tmp_path)
    assert (problems, datalist.name, datalist.licence) == ([], "ACDC", "CC BY-NC-SA 4.0")
    ed, es = datalist.cases
    assert (ed.patient, ed.phase, ed.group, ed.name) == ("patient007", "ED", "HCM", "patient007_frame02")
    assert ed.image == folder / "patient007_frame02.nii.gz"
    assert ed.label == folder / "patient007_frame02_gt.nii.gz"
    assert (ed.height_cm, ed.weight_kg, ed.frame_number, ed.num_frames) == (171.5, 64.0, 2, 12)
    assert (es.phase, es.frame_number, es.image.name) == ("ES", 11, "patient007_frame11.nii.gz")
    assert {case.excluded_from_training for case in datalist.cases} == {""}


def test_uncompressed_files_and_a_short_info(tmp_path):
    folder = save_patient(tmp_path, 1)
    (folder / "patient001_frame08.nii.gz").rename(folder / "patient001_frame08.nii")
    (folder / "Info.cfg").write_text("ES: 8\r\n\r\nED:1\r\n")
    datalist, problems = acdc.scan(tmp_path)
    assert problems == []
    es = datalist.cases[1]
    assert es.image == folder / "patient001_frame08.nii"
    assert (es.group, es.num_frames) == ("", 0)
    assert math.isnan(es.height_cm) and math.isnan(es.weight_kg)


def test_root_or_training_folder_but_no_testing_split(tmp_path):
    for split in ("training", "testing"):
        without_voxels(tmp_path / split, 1 if split == "training" else 101)
    assert patients(acdc.scan(tmp_path)[0].cases) == ["patient001"]
    assert acdc.scan(tmp_path)[0] == acdc.scan(tmp_path / "training")[0]
    assert acdc.is_acdc(tmp_path) and acdc.is_acdc(tmp_path / "training")


def test_what_is_no_acdc_root(tmp_path):
    assert not acdc.is_acdc(tmp_path / "nowhere")
    (tmp_path / "patient001").mkdir()
    assert not acdc.is_acdc(tmp_path)
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=f"{root}: expected an ACDC root with training/patientXXX/Info.cfg"):
            acdc.scan(root)


BAD_INFO = {
    "no ES": ("ED: 1\nGroup: NOR\n", ["no line 'ES', expected the frame's number counted from 1"]),
    "empty": ("", [f"no line '{key}', expected the frame's number counted from 1" for key in ("ED", "ES")]),
    "words": (
        "ED: one\nES: 8\nHeight: 1.7 m\nNbFrame: 1e1\n",
        [f"{key} is {value!r}, expected a number" for key, value in (("ED", "one"), ("NbFrame", "1e1"))]
        + ["Height is '1.7 m', expected a number"],
    ),
    "one frame": ("ED: 1\nES: 01\n", ["ED and ES are both frame 1, expected two frames"]),
    "binary": (b"\xff\xfe\x00", ["not readable (.*), expected lines such as 'ED: 1'"]),
    "missing": (None, ["not readable (.*No such file.*), expected lines such as 'ED: 1'"]),
}


@pytest.mark.parametrize(("content", "problems"), BAD_INFO.values(), ids=BAD_INFO.keys())
def test_a_patient_with_a_bad_info_is_left_out(tmp_path, content, problems):
    without_voxels(tmp_path, 1)
    info = without_voxels(tmp_path, 2) / "Info.cfg"
    if content is None:
        info.unlink()
    else:
        info.write_bytes(content if isinstance(content, bytes) else content.encode())
    datalist, found = acdc.scan(tmp_path)
    assert patients(datalist.cases) == ["patient001"]
    assert len(found) == len(problems)
    for problem, expected in zip(found, problems, strict=True):
        parts = f"{info}: {expected}".split(".*")
        assert problem.startswith(parts[0]) and problem.endswith(parts[-1])


def test_patients_without_all_their_files_are_left_out(tmp_path):
    for number in (1, 2, 3):
        without_voxels(tmp_path, number)
    gone = [
        tmp_path / "patient001" / "patient001_frame08.nii.gz",
        tmp_path / "patient003" / "patient003_frame01_gt.nii.gz",
        tmp_path / "patient003" / "patient003_frame08.nii.gz",
    ]
    for path in gone:
        path.unlink()
    datalist, problems = acdc.scan(tmp_path)
    assert patients(datalist.cases) == ["patient002"]
    assert problems == [f"{path}: no such file, named by Info.cfg" for path in gone]


def test_no_complete_patient_is_an_error_with_all_problems(tmp_path):
    for number in (1, 2):
        (without_voxels(tmp_path, number) / "Info.cfg").write_text("ES: 8")
    with pytest.raises(InputError, match="expected an ACDC root") as caught:
        acdc.scan(tmp_path)
    assert len(caught.value.problems) == 3
    assert "patient002/Info.cfg: no line 'ED'" in str(caught.value)


def test_folds_are_stratified(twenty_five):
    groups = Counter((case.fold, case.group) for case in twenty_five.cases)
    # Two frames of a patient of each group in every fold, but for the second patient of one scan.
    for group in acdc.GROUPS[:-1]:
        assert [groups[fold, group] for fold in range(5)] == [2] * 5
    assert [groups[fold, "RV"] for fold in range(5)] == [2, 2, 2, 0, 4]


def test_every_patient_validates_in_one_fold(twenty_five):
    validating = [patient for fold in FOLDS for patient in patients(twenty_five.section(fold, "validation"))]
    assert sorted(validating) == patients(twenty_five.cases)
    for fold in FOLDS:
        sides = [set(patients(twenty_five.section(fold, side))) for side in SECTIONS]
        assert not sides[0] & sides[1]


def test_one_scan_is_in_one_fold(twenty_five):
    folds = {case.patient: case.fold for case in twenty_five.cases}
    assert folds["patient074"] == folds["patient076"]


def test_patient055_never_trains_but_validates(twenty_five):
    assert "same scan as a patient of the testing split" in acdc.EXCLUDED["patient055"]
    found = Counter()
    for split in twenty_five.split_names():
        for side in SECTIONS:
            found[side] += "patient055" in patients(twenty_five.section(split, side))
    # In the tutorial, which is its own fold, and where all others train.
    assert found == {"training": 0, "validation": 3}
    assert patients(twenty_five.section("all", "validation")) == ["patient055"]
    assert len(patients(twenty_five.section("tutorial", "training"))) == 25 - 5


def test_in_the_tutorial_every_fifth_patient_validates(twenty_five):
    expected = ["patient005", "patient010", "patient015", "patient020", "patient055"]
    for split in ("tutorial", "fold0"):
        assert patients(twenty_five.section(split, "validation")) == expected


def test_folds_go_by_the_patients_number():
    listed = [f"patient{number:03d}" for number in (73, 74, 75, 76, 77, 78, 79)]
    folds = acdc.assign_folds(listed)
    assert list(folds.values()) == [3, 4, 0, 4, 2, 3, 4]
    assert acdc.assign_folds(["patientA", "patientB", "patient010"]) == {"patientA": 1, "patientB": 2, "patient010": 0}
    for absent in listed:
        left = [patient for patient in listed if patient != absent]
        assert acdc.assign_folds(left) == {patient: folds[patient] for patient in left}


def test_the_adapter_does_without_torch():
    code = f"""
import sys
sys.path.insert(0, {str(BUNDLE)!r})
from cardiac_cine.datasets import acdc
print({{"torch", "monai"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.acdc
def test_the_training_split(acdc_dir):
    datalist, problems = acdc.scan(acdc_dir)
    assert problems == []
    assert patients(datalist.cases) == [f"patient{number:03d}" for number in range(1, 101)]
    assert [case.phase for case in datalist.cases] == ["ED", "ES"] * 100
    by_fold = Counter((case.fold, case.group) for case in datalist.cases if case.phase == "ED")
    expected = {(fold, group): 4 for fold in range(5) for group in acdc.GROUPS}
    assert by_fold == expected | {(1, "NOR"): 3, (4, "NOR"): 5}
    folds = {case.patient: case.fold for case in datalist.cases}
    assert folds["patient074"] == folds["patient076"]
    assert all(100 < case.height_cm < 210 and 20 < case.weight_kg < 150 for case in datalist.cases)
    assert all(1 <= case.frame_number <= case.num_frames for case in datalist.cases)
    # 80 patients less patient055, where that one does not validate; patient076 is in fold 4, not in 1.
    trains = {split: patients(datalist.section(split, "training")) for split in datalist.split_names()}
    assert not any("patient055" in chosen for chosen in trains.values())
    sizes = {"tutorial": 80, "all": 99, "fold0": 80, "fold1": 80, "fold2": 79, "fold3": 79, "fold4": 78}
    assert {split: len(chosen) for split, chosen in trains.items()} == sizes
    validates = patients(datalist.section("tutorial", "validation"))
    assert validates == [f"patient{number:03d}" for number in range(5, 101, 5)]

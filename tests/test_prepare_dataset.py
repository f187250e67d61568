import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cases import SHAPE, save, save_patient

from cardiac_cine import cases
from cardiac_cine.datasets import acdc

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "prepare_dataset.py"


def prepare(*arguments, cwd=None):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PAGER": "cat"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def skipped(out):
    return json.loads((out / "skipped.json").read_text())


def save_patients(root, count):
    """Write patients of all groups."""
    return {number: save_patient(root, number, group=acdc.GROUPS[number % 5]) for number in range(1, count + 1)}


def test_a_sound_copy_is_written_whole(tmp_path):
    save_patients(tmp_path / "acdc" / "training", 6)
    done = prepare("acdc", tmp_path / "acdc", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "skipped.json"]
    assert skipped(tmp_path / "out") == []
    assert cases.read(tmp_path / "out" / "dataset.json") == acdc.scan(tmp_path / "acdc")[0]
    assert done.stdout.splitlines() == [
        f"{tmp_path}/out/dataset.json: 12 frames of 6 patients",
        "  split tutorial: 5 patients train, 1 validate",
        "  split fold0: 5 patients train, 1 validate",
        "  split fold1: 4 patients train, 2 validate",
        *(f"  split fold{index}: 5 patients train, 1 validate" for index in range(2, 5)),
    ]


def test_bad_patients_are_left_out_and_the_rest_is_written(tmp_path):
    folders = save_patients(tmp_path / "acdc" / "training", 7)
    incomplete = folders[2] / "patient002_frame08_gt.nii.gz"
    incomplete.unlink()
    foreign = save(folders[4] / "patient004_frame01_gt.nii.gz", np.full(SHAPE, 7, np.uint8))
    cut = folders[6] / "patient006_frame08.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-300])
    done = prepare("acdc", tmp_path / "acdc", tmp_path / "out")
    assert done.returncode == 1
    problems = skipped(tmp_path / "out")
    assert [problem.split(": ")[0] for problem in problems] == [str(incomplete), str(foreign), str(cut)]
    assert "holds label values 7" in problems[1] and "truncated or corrupted" in problems[2]
    assert "left out, 3 problems:\n- " in done.stderr
    assert all(problem in done.stderr for problem in problems)
    datalist = cases.read(tmp_path / "out" / "dataset.json")
    assert [case.patient for case in datalist.cases[::2]] == [f"patient00{number}" for number in (1, 3, 5, 7)]
    cases.validate(datalist.cases)
    # Every patient keeps the fold of its number, whoever is left out.
    assert datalist.splits == {"tutorial": ("patient005",)}
    assert done.stdout.splitlines() == [
        f"{tmp_path}/out/dataset.json: 8 frames of 4 patients",
        "  split tutorial: 3 patients train, 1 validate",
        *(f"  split fold{index}: 3 patients train, 1 validate" for index in range(4)),
        "  split fold4: not usable, ACDC: the validation section of split 'fold4' is empty",
    ]


@pytest.mark.parametrize("all_bad", [True, False])
def test_no_usable_patient_is_wrong_input(tmp_path, all_bad):
    if all_bad:
        folder = save_patient(tmp_path / "acdc", 1)
        save(folder / "patient001_frame01.nii.gz", np.zeros(SHAPE, np.uint8))
    done = prepare("acdc", tmp_path / "acdc", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    expected = "no patient is usable" if all_bad else "expected an ACDC root with training/patientXXX/Info.cfg"
    assert done.stderr.startswith(f"{tmp_path}/acdc: {expected}")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_wrong_input(tmp_path):
    save_patient(tmp_path / "acdc", 1)
    (tmp_path / "out").write_text("mine")
    done = prepare("acdc", tmp_path / "acdc", tmp_path / "out")
    assert (done.returncode, done.stderr) == (
        1,
        f"out {tmp_path}/out: Not a directory, expected a folder to write to\n",
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_a_failure_to_write_is_no_wrong_input(tmp_path):
    save_patient(tmp_path / "acdc", 1)
    (tmp_path / "out" / "dataset.json" / "in the way").mkdir(parents=True)
    done = prepare("acdc", tmp_path / "acdc", tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]


def test_relative_names_stay_text_and_lead_to_absolute_paths(tmp_path):
    save_patient(tmp_path / "2024_01" / "training", 1)
    done = prepare("acdc", "2024_01", "1e3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "1e3" / "dataset.json").read_text())
    assert content["source"] == str(tmp_path / "2024_01")
    assert content["training"][0]["image"] == "training/patient001/patient001_frame01.nii.gz"
    cases.validate(cases.read(tmp_path / "1e3" / "dataset.json").cases)


def test_a_superfluous_argument_writes_nothing(tmp_path):
    save_patient(tmp_path / "acdc", 1)
    done = prepare("acdc", tmp_path / "acdc", tmp_path / "out", "more")
    assert done.returncode == 1
    assert "Could not consume arg: more" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_says_what_it_takes():
    done = prepare("acdc", "--help")
    assert done.returncode == 0
    for text in ("SOURCE", "OUT", "skipped.json", "Exit codes: 0"):
        assert text in done.stdout + done.stderr


@pytest.mark.acdc
def test_the_training_split(acdc_dir, tmp_path):
    done = prepare("acdc", acdc_dir, tmp_path)
    assert (done.returncode, skipped(tmp_path)) == (0, [])
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/dataset.json: 200 frames of 100 patients"
    assert lines[1] == "  split tutorial: 80 patients train, 20 validate"
    assert lines[4:] == [  # patient055, of fold 0, never trains; patient076 is in fold 4 with patient074
        "  split fold1: 80 patients train, 19 validate",
        "  split fold2: 79 patients train, 20 validate",
        "  split fold3: 79 patients train, 20 validate",
        "  split fold4: 78 patients train, 21 validate",
    ]
    datalist = cases.read(tmp_path / "dataset.json")
    assert datalist == acdc.scan(acdc_dir)[0]

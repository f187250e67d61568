import json
import shutil
import subprocess
import sys

from conftest import REPO


def calibrate(*arguments):
    script = REPO / "scripts" / "calibrate_flags.py"
    return subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)


def test_phantoms_raise_no_flag_until_they_are_spoilt(phantom_acdc, tmp_path):
    done = calibrate(phantom_acdc, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "flags.json").read_text())
    assert (table["patients"], table["without_flags"], table["reasons"]) == (5, 5, {})
    assert not any(table["flags"].values())
    assert table["not_counted"].keys() == {"few_phases"}
    assert table["measures"]["sv_mismatch"]["undefined"] == 0
    assert 0 < table["measures"]["lv_ef_percent"]["0"] < table["measures"]["lv_ef_percent"]["100"] < 80
    noticed = {name.partition(": ")[2]: sum(patients.values()) for name, patients in table["spoilt"].items()}
    assert noticed.keys() == {
        "missing_base",
        "missing_apex",
        "slice_motion",
        "implausible_slices",
        "missing_between_slices",
    }
    assert set(noticed.values()) == {5}
    assert (tmp_path / "flags.txt").read_text() in done.stdout


def test_wrong_input_is_listed(phantom_acdc, tmp_path):
    done = calibrate(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "neither dataset.json nor patientXXX/Info.cfg in it" in done.stderr
    shutil.copytree(phantom_acdc, tmp_path / "data")
    broken = sorted((tmp_path / "data").glob("patient00[12]/*_gt.nii.gz"))[::2]
    for path in broken:
        path.write_bytes(b"")
    done = calibrate(tmp_path / "data", "--output_dir", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    for path in broken:
        assert f"{path.name}: the file is empty" in done.stderr
    assert not (tmp_path / "out").exists()

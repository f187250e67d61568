import json
import subprocess
import sys

import pytest
from conftest import BUNDLE, REPO

DEMO = REPO / "scripts" / "demo.py"


@pytest.mark.skipif(not (BUNDLE / "models" / "model.pt").is_file(), reason="needs the shipped weights")
def test_the_demo_measures_the_phantom(tmp_path):
    command = [sys.executable, str(DEMO), "--output_dir", str(tmp_path / "demo"), "--lv_ef_percent", "45"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "demo" / "measurements.json").read_text())
    assert found["lv_ef_percent"]["true"] == pytest.approx(45)
    assert abs(found["lv_ef_percent"]["measured"] - 45) < 10
    for name in ("overlay_ED.png", "overlay_ES.png", "volume_curves.png"):
        assert (tmp_path / "demo" / name).read_bytes().startswith(b"\x89PNG")
        assert name in done.stdout
    assert len(list((tmp_path / "demo" / "masks").glob("*/*_seg.nii.gz"))) == 12
    assert "lv_ef_percent" in done.stdout


def test_the_demo_names_weights_that_are_missing(tmp_path):
    command = [sys.executable, str(DEMO), "--output_dir", str(tmp_path), "--ckpt_path", str(tmp_path / "none.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "none.pt: no such file" in done.stderr

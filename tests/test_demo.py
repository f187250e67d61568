import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE, REPO

DEMO = REPO / "scripts" / "demo.py"


@pytest.mark.skipif(not (BUNDLE / "models" / "model.pt").is_file(), reason="needs the shipped weights")
def test_the_demo_measures_the_phantom(tmp_path):
    command = [sys.executable, str(DEMO), "--output_dir", str(tmp_path / "demo"), "--lv_ef_percent", "45"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    contents = []
    for folder, case in (("from_nifti", "phantom_4d"), ("from_dicom", "phantom")):
        stem = tmp_path / "demo" / folder / case / case
        contents.append(json.loads(Path(f"{stem}_measurements.json").read_text()))
        assert f"{stem}_report.html" in done.stdout
        assert "Left and right ventricular function" in Path(f"{stem}_report.html").read_text(encoding="utf-8")
    nifti, dicom = contents
    assert abs(nifti["lv_ef_percent"] - 45) < 6
    assert nifti["es_frame"] == dicom["es_frame"]
    assert nifti["lv_ef_percent"] == pytest.approx(dicom["lv_ef_percent"], abs=1e-6)
    assert dicom["bsa_m2"] == pytest.approx(1.728, abs=0.001) and nifti["bsa_m2"] is None
    assert len(list((tmp_path / "demo" / "from_dicom" / "phantom" / "phantom_seg_dicom").iterdir())) == 16


def test_the_demo_names_weights_that_are_missing(tmp_path):
    command = [sys.executable, str(DEMO), "--output_dir", str(tmp_path), "--ckpt_path", str(tmp_path / "none.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "none.pt: no such file" in done.stderr

"""configs/cine.json through MONAI's own command line: the same product as scripts/segment.py."""

import inspect
import json
import os
import re
import subprocess
import sys

import cli
import nibabel as nib
import numpy as np
import pytest
import segment
from dicom_sources import phantom
from monai.bundle import ConfigParser
from test_images import heart, write_stack

from cardiac_cine.datasets.phantom import write_cine
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.studies import Found
from cardiac_cine.workflow import Options, Workflow

CONFIGS = cli.BUNDLE / "configs"
FILES = [str(CONFIGS / f"{name}.json") for name in ("inference", "cine")]
# Keys of cine.json by the name of the option that they set.
OPTION_KEYS = {"patients": "known"}


def run_bundle(tmp_path, *arguments):
    """Run both configs from a directory of their own; the data are in ../data."""
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(FILES)]
    command += ["--bundle_root", cli.BUNDLE, "--dataset_dir", "../data", "--device", "cpu", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    return done


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def content_of(folder, case):
    content = json.loads((folder / case / f"{case}_measurements.json").read_text())
    return {key: value for key, value in content.items() if key not in ("source", "software", "fingerprint")}


@pytest.fixture
def parser(tmp_path):
    config = ConfigParser()
    config.read_config(FILES)
    write_stack(tmp_path / "data" / "a.nii.gz", heart((64, 64, 2)))
    paths = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    config.update({"bundle_root": str(cli.BUNDLE), "device": "cpu", **paths})
    return config


def test_every_key_resolves(parser):
    keys = json.loads((CONFIGS / "cine.json").read_text())
    resolved = {key: parser.get_parsed_content(key) for key in keys if key != "run"}
    assert isinstance(resolved["segmenter"], Segmenter)
    assert isinstance(resolved["workflow"], Workflow)
    assert isinstance(resolved["studies"], Found)
    assert [study.name for study in resolved["studies"].studies] == ["a"]
    assert resolved["workflow"].segmenter is resolved["segmenter"]


def test_keys_do_not_clash_with_those_of_inference_json():
    inference, cine = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("inference", "cine"))
    assert inference.keys() & cine.keys() == {"initialize", "run"}


def test_every_option_can_be_set_and_has_the_workflows_default(parser):
    assert parser.get_parsed_content("workflow").options == Options()
    options = parser.config["workflow"]["options"]
    assert options == {name: f"@{OPTION_KEYS.get(name, name)}" for name in vars(Options())}


def test_options_are_called_as_the_scripts_are():
    cine = json.loads((CONFIGS / "cine.json").read_text())
    given = {
        name for name, key in inspect.signature(segment.segment).parameters.items() if key.default is not key.empty
    }
    elsewhere = {"bundle_root", "ckpt_path", "device"}
    assert {key for key, value in cine.items() if value in (None, True, False)} == given - elsewhere


def test_writes_what_the_script_writes(tmp_path, monkeypatch):
    write_cine(phantom(), tmp_path / "data" / "heart.nii.gz")
    done = run_bundle(tmp_path, "--output_dir", "../bundle")
    assert done.returncode == 0, done.stderr
    argv = ["segment.py", str(tmp_path / "data"), "--output_dir", str(tmp_path / "script"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", argv)
    assert cli.main(segment.segment, "segment.py") == 0
    assert files(tmp_path / "bundle") == files(tmp_path / "script")
    assert "heart/heart_report.html" in files(tmp_path / "bundle")
    masks = [nib.load(tmp_path / way / "heart" / "heart_seg.nii.gz") for way in ("bundle", "script")]
    np.testing.assert_array_equal(*(np.asarray(mask.dataobj) for mask in masks))
    np.testing.assert_array_equal(*(mask.affine for mask in masks))
    assert np.unique(np.asarray(masks[0].dataobj)).tolist() == [0, 1, 2, 3]
    assert content_of(tmp_path / "bundle", "heart") == content_of(tmp_path / "script", "heart")


def test_a_failing_study_fails_the_run_after_the_others(tmp_path):
    array = heart((64, 64, 2))
    array[0, 0, 0] = np.nan
    write_stack(tmp_path / "data" / "a_bad.nii.gz", array, dtype=np.float32)
    write_stack(tmp_path / "data" / "b_good.nii.gz", np.stack([heart((64, 64, 2))] * 2, -1))
    (tmp_path / "reference.csv").write_text("case,lv_ef_percent\nc_none,60\n")
    options = ("--report", "False", "--ed_frame", 1, "--reference_csv", "../reference.csv")
    done = run_bundle(tmp_path, "--output_dir", "../out", *options)
    assert done.returncode != 0
    assert re.search(r"1 of 2 studies failed\n.*a_bad.nii.gz: 1 voxels are NaN or infinite", done.stderr)
    # No page over all studies and no report, as --report False asks.
    finished = {"b_good/b_good_seg.nii.gz", "b_good/b_good_measurements.json"}
    assert files(tmp_path / "out") == finished | {"segment.json", "measurements.csv"}
    assert content_of(tmp_path / "out", "b_good")["ed_frame"] == 1
    [not_used] = json.loads((tmp_path / "out" / "segment.json").read_text())["not_used"]
    assert not_used.startswith("reference_csv: 1 of 1 cases are no study's: 'c_none'")

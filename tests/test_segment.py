import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import cli
import nibabel as nib
import numpy as np
import pytest
import segment
import torch
from test_images import heart, write_stack
from test_inference_bundle import run_inference, write_bundle, write_dataset

from cardiac_cine import images
from cardiac_cine.errors import InputError
from cardiac_cine.images import read_frame
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.weights import load_checkpoint, load_weights

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "segment.py"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep small networks from waiting for other processes' threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "cardiac_cine_segmentation")


@pytest.fixture(scope="module")
def segmenter(bundle):
    return Segmenter.from_bundle(bundle, device="cpu")


@pytest.fixture
def script(monkeypatch, bundle):
    """scripts/segment.py in this process: called with arguments, returns its exit code."""

    def run(*arguments):
        argv = ["segment.py", *map(str, arguments), "--bundle_root", str(bundle), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", argv)
        return cli.main(segment.segment, "segment.py")

    return run


def summary(folder):
    return json.loads((folder / "segment.json").read_text())


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_writes_what_inference_json_writes(bundle, segmenter, tmp_path):
    frames = write_dataset(tmp_path / "data")
    run_inference(bundle, tmp_path / "data", tmp_path / "stock")
    for name, path in frames.items():
        written = segmenter.segment_file(path, tmp_path / "out")
        assert written == tmp_path / "out" / name / f"{name}_seg.nii.gz"
        ours, stock = nib.load(written), nib.load(tmp_path / "stock" / name / f"{name}_seg.nii.gz")
        assert ours.get_data_dtype() == stock.get_data_dtype()
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(stock.dataobj))
        np.testing.assert_array_equal(ours.affine, stock.affine)
        np.testing.assert_array_equal(ours.get_qform(), stock.get_qform())
        assert np.unique(np.asarray(ours.dataobj)).size > 1
    assert files(tmp_path / "out") == files(tmp_path / "stock")


def test_stages(segmenter, tmp_path):
    frame = read_frame(write_stack(tmp_path / "a.nii.gz"))
    before = frame.array.copy()
    data = segmenter.preprocess(frame)
    assert data["image"].shape == (1, 128, 96, 6)
    data = segmenter.predict(data)
    assert data["pred"].shape == (4, 128, 96, 6)
    mask = segmenter.postprocess(data)
    assert mask.shape == frame.array.shape and mask.dtype == np.uint8
    np.testing.assert_array_equal(segmenter.segment(frame), mask)
    np.testing.assert_array_equal(frame.array, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz"]


def test_bad_frame_is_refused_and_nothing_written(segmenter, tmp_path):
    path = write_stack(tmp_path / "a.nii.gz", np.ones((96, 80, 6)))
    with pytest.raises(InputError, match=r"a.nii.gz: all voxels are 1"):
        segmenter.segment_file(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bundle_without_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"inference.json: no such file, expected the root folder of a bundle"):
        Segmenter.from_bundle(tmp_path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unusable_device_is_refused(bundle, device):
    with pytest.raises(InputError, match=f"device '{device}' cannot be used"):
        Segmenter.from_bundle(bundle, device=device)


def network():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(2, 4, 1))


def edited(edit):
    state = network().state_dict()
    edit(state)
    return state


BAD_CHECKPOINTS = {
    "list": ([1, 2], "holds a list, expected the network's state_dict"),
    "numbers": ({"epoch": 3, "loss": 0.1}, "holds no state_dict but keys epoch, loss, expected"),
    "lacks keys": (edited(lambda state: state.pop("1.bias")), "lacks 1.bias, expected the weights of Sequential"),
    "holds others": (edited(lambda state: state.update({"2.bias": torch.zeros(1)})), "holds unknown 2.bias, expected"),
    "another network": ({f"layer{i}": torch.ones(1) for i in range(9)}, "unknown layer0, layer1, layer2 and 6 more"),
    "other shape": (
        edited(lambda state: state.update({"0.bias": torch.zeros(5)})),
        r"differs in shape: 0.bias \(5,\) instead of \(2,\)",
    ),
    "NaN": (edited(lambda state: state["0.bias"].fill_(torch.nan)), "is not finite in 0.bias"),
    "pickled module": (network(), "not readable as a checkpoint"),
}


@pytest.mark.parametrize(("content", "message"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS.keys())
def test_other_weights_are_refused(tmp_path, content, message):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=message) as caught:
        load_weights(network(), path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "not readable as a checkpoint"),
        (lambda data: data[: len(data) // 2], "not readable as a checkpoint"),
        (lambda data: b"weights" * 99, "not readable as a checkpoint"),
    ],
)
def test_broken_checkpoint_is_refused(tmp_path, change, message):
    path = tmp_path / "model.pt"
    torch.save(network().state_dict(), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path}: {message}"):
        load_checkpoint(path)


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model.pt: no such file, expected the network's state_dict"):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "epoch": 3}])
def test_weights_are_loaded(tmp_path, wrap):
    source, target = network(), network()
    torch.save(wrap(source.state_dict()), tmp_path / "model.pt")
    load_weights(target, tmp_path / "model.pt")
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_folder_is_segmented(script, bundle, tmp_path, capsys):
    frames = write_dataset(tmp_path / "data")
    assert script(tmp_path / "data", "--output_dir", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {f"{name}/{name}_seg.nii.gz" for name in frames} | {"segment.json"}
    result = summary(tmp_path / "out")
    assert {Path(item["frame"]) for item in result["done"]} == set(frames.values())
    assert all(Path(item["mask"]).is_file() for item in result["done"])
    assert result["skipped"] == result["not_reached"] == []
    weights = (bundle / "models" / "model.pt").read_bytes()
    assert result["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert result["versions"]["monai"] == version("monai")
    assert "3 of 3 frames segmented" in capsys.readouterr().out


def test_bad_files_are_listed_and_do_not_stop_the_rest(script, tmp_path, capsys):
    frames = write_dataset(tmp_path / "data")
    write_stack(tmp_path / "data" / "cine.nii.gz", np.stack([heart()] * 2, -1))
    (tmp_path / "data" / "broken.nii.gz").write_bytes((frames["oblique"]).read_bytes()[:999])
    assert script(tmp_path / "data", "--output_dir", tmp_path / "out") == 1
    assert files(tmp_path / "out") == {f"{name}/{name}_seg.nii.gz" for name in frames} | {"segment.json"}
    reasons = {Path(item["frame"]).name: item["reasons"] for item in summary(tmp_path / "out")["skipped"]}
    assert reasons.keys() == {"cine.nii.gz", "broken.nii.gz"}
    printed = capsys.readouterr()
    assert "3 of 5 frames segmented" in printed.out
    assert "a cine; expected one 3D frame" in printed.err and "truncated or corrupted" in printed.err


def as_dicom_folder(folder):
    (folder / "IM0001.dcm").write_bytes(b"\0" * 128 + b"DICM")
    return folder


def as_cine(folder):
    return write_stack(folder / "a_4d.nii.gz", np.stack([heart()] * 2, -1))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (as_dicom_folder, "only 3D NIfTI frames (.nii, .nii.gz) are supported"),
        (lambda folder: as_dicom_folder(folder) / "IM0001.dcm", "not named as NIfTI, expected one 3D NIfTI frame"),
        (as_cine, "a 4D image of shape (96, 80, 6, 2), a cine; expected one 3D frame"),
        (lambda folder: folder / "nowhere", "no such file, expected one 3D NIfTI frame"),
    ],
)
def test_unusable_input_is_wrong_input(script, tmp_path, capsys, write, message):
    assert script(write(tmp_path), "--output_dir", tmp_path / "out") == 1
    assert message in capsys.readouterr().err


def test_unusable_weights_and_output_are_wrong_input(script, tmp_path, capsys):
    path = write_stack(tmp_path / "a.nii.gz")
    assert script(path, "--output_dir", tmp_path / "out", "--ckpt_path", tmp_path / "no.pt") == 1
    assert "no.pt: no such file" in capsys.readouterr().err
    assert script(path, "--output_dir", path) == 1
    assert "not a folder, expected one to write to" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_midway_leaves_whole_results_and_a_summary(script, tmp_path, monkeypatch, capsys, error):
    for name in "abc":
        write_stack(tmp_path / "data" / f"{name}.nii.gz")
    save = nib.save

    def fail_at_b(image, path):
        save(image, path)
        if path.name.startswith("b"):
            raise error

    monkeypatch.setattr(images.nib, "save", fail_at_b)
    assert script(tmp_path / "data", "--output_dir", tmp_path / "out") == 2
    assert files(tmp_path / "out") == {"a/a_seg.nii.gz", "segment.json"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "segment.json"]
    result = summary(tmp_path / "out")
    assert [Path(item["frame"]).name for item in result["done"]] == ["a.nii.gz"]
    assert [Path(path).name for path in result["not_reached"]] == ["b.nii.gz", "c.nii.gz"]
    assert ("interrupted" if isinstance(error, KeyboardInterrupt) else "disk full") in capsys.readouterr().err


def test_failure_before_the_first_frame(script, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Segmenter, "__init__", fail)
    assert script(write_stack(tmp_path / "a.nii.gz"), "--output_dir", tmp_path / "out") == 2
    assert "out of memory" in capsys.readouterr().err


def test_superfluous_argument_segments_nothing(script, tmp_path):
    path = write_stack(tmp_path / "a.nii.gz")
    assert script(path, path, "--output_dir", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()


def test_names_stay_text(script, tmp_path, monkeypatch):
    write_stack(tmp_path / "2024_01" / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert script("2024_01", "--output_dir=1e3") == 0
    assert files(tmp_path / "1e3") == {"a/a_seg.nii.gz", "segment.json"}


def test_script_runs_from_another_directory(bundle, tmp_path):
    write_stack(tmp_path / "a.nii.gz")
    command = [sys.executable, SCRIPT, "a.nii.gz", "--output_dir", "out", "--bundle_root", bundle, "--device", "cpu"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    assert files(tmp_path / "out") == {"a/a_seg.nii.gz", "segment.json"}


def test_help_is_fast_and_complete():
    code = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.argv = ["segment.py", "--help"]
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
except SystemExit:
    print({{"torch", "monai", "nibabel", "numpy"}} & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.endswith("set()\n")
    for text in ("INPUT", "--output_dir", "--bundle_root", "--ckpt_path", "--device", "Exit codes: 0"):
        assert text in shown.stdout + shown.stderr

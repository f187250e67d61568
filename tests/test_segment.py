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
from cardiac_cine.cine import Cine
from cardiac_cine.datasets.phantom import PhantomSpec, render, write_frame
from cardiac_cine.errors import InputError
from cardiac_cine.images import read_frame
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.weights import load_checkpoint, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "segment.py"


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


def write_phantom(path):
    """A small heart, which the shipped weights know."""
    spec = PhantomSpec(shape=(112, 128), spacing_mm=(2.0, 2.0, 12.0), phases=4, centre_mm=(0.0, 0.0))
    write_frame(render(spec, (0,)), 0, path, path.with_name("phantom_gt.nii.gz"))
    return path


@pytest.mark.parametrize("shipped", [False, True])
def test_writes_what_inference_json_writes(bundle, segmenter, tmp_path, shipped):
    if shipped:
        bundle, segmenter = cli.BUNDLE, Segmenter.from_bundle(cli.BUNDLE, device="cpu")
        frames = {"phantom": write_phantom(tmp_path / "data" / "phantom.nii.gz")}
    else:
        frames = write_dataset(tmp_path / "data")
    run_inference(bundle, tmp_path / "data", tmp_path / "stock")
    for name, path in frames.items():
        frame = read_frame(path)
        written = images.write_mask(segmenter.segment(frame), frame.affine, tmp_path / "out", name)
        ours, stock = nib.load(written), nib.load(tmp_path / "stock" / name / f"{name}_seg.nii.gz")
        assert ours.get_data_dtype() == stock.get_data_dtype()
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(stock.dataobj))
        np.testing.assert_allclose(ours.affine, stock.affine, atol=1e-6)
        np.testing.assert_allclose(ours.get_qform(), stock.get_qform(), atol=1e-6)
        assert not shipped or np.unique(np.asarray(ours.dataobj)).tolist() == [0, 1, 2, 3]
    assert files(tmp_path / "out") == files(tmp_path / "stock")


def test_stages(segmenter, tmp_path):
    frame = read_frame(write_stack(tmp_path / "a.nii.gz"))
    before = frame.array.copy()
    data = segmenter.preprocess(frame)
    assert data["image"].shape == (1, 110, 74, 6)
    data = segmenter.predict(data)
    assert data["pred"].shape == (4, 110, 74, 6)
    mask = segmenter.postprocess(data)
    assert mask.shape == frame.array.shape and mask.dtype == np.uint8
    np.testing.assert_array_equal(segmenter.segment(frame), mask)
    np.testing.assert_array_equal(frame.array, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz"]


@pytest.mark.parametrize("context", [0, 1])
def test_the_phases_of_a_cine_are_segmented_each_on_its_own(tmp_path, monkeypatch, context):
    segmenter = Segmenter.from_bundle(write_bundle(tmp_path / "bundle", context=context), device="cpu")
    # The network's own answer: random weights make no heart that the postprocessing would keep, and show no base.
    monkeypatch.setattr(segmenter, "postprocess", lambda data: data["pred"].argmax(0).numpy().astype(np.uint8))
    monkeypatch.setattr("cardiac_cine.inferers.base_is_first", lambda mask: True)
    phases = np.stack([heart((64, 64, 3)), heart((64, 64, 3))[::-1], heart((64, 64, 3))[:, ::-1]], -1)
    cine = Cine("c", tmp_path / "c.nii", phases.astype(np.float32), np.diag([1.4, 1.4, 8, 1]))
    masks = segmenter.segment_cine(cine)
    assert len(np.unique(masks)) > 1
    for phase in range(3):
        alone = segmenter.postprocess(segmenter.predict(segmenter.preprocess(cine.frame(phase))))
        np.testing.assert_array_equal(masks[..., phase], alone)


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


OVERVIEW = {"segment.json", "measurements.csv", "index.html"}


def results(*cases):
    return OVERVIEW | {f"{case}/{case}_{end}" for case in cases for end in ("seg.nii.gz", "measurements.json")}


def statuses(folder):
    return {item["case"]: item["status"] for item in summary(folder)["studies"]}


def test_folder_is_segmented(script, bundle, tmp_path, capsys):
    frames = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "patient001_4d.nii.gz").unlink()  # too small to be one
    assert script(tmp_path / "data", "--output_dir", tmp_path / "out") == 0
    assert files(tmp_path / "out") == results(*frames)
    result = summary(tmp_path / "out")
    assert statuses(tmp_path / "out") == dict.fromkeys(frames, "done")
    assert result["problems"] == result["not_reached"] == []
    weights = (bundle / "models" / "model.pt").read_bytes()
    assert result["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert result["versions"]["monai"] == version("monai")
    assert "3 of 3 studies segmented" in capsys.readouterr().out


def test_finished_studies_are_skipped_until_something_changes(script, tmp_path, capsys):
    for name in "ab":
        write_stack(tmp_path / "data" / f"{name}.nii.gz")
    arguments = (tmp_path / "data", "--output_dir", tmp_path / "out")
    assert script(*arguments) == 0
    (tmp_path / "out" / "b" / "b_measurements.json").unlink()
    assert script(*arguments) == 0
    assert statuses(tmp_path / "out") == {"a": "skipped", "b": "done"}
    assert "1 of 2 studies segmented" in capsys.readouterr().out
    assert files(tmp_path / "out") == results("a", "b")
    table = (tmp_path / "out" / "measurements.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["case", "a", "b"]
    assert script(*arguments, "--overwrite") == 0
    assert statuses(tmp_path / "out") == {"a": "done", "b": "done"}
    write_stack(tmp_path / "data" / "a.nii.gz", heart((96, 80, 7)))
    assert script(*arguments) == 0
    assert statuses(tmp_path / "out") == {"a": "done", "b": "skipped"}


def test_bad_files_are_listed_and_do_not_stop_the_rest(script, tmp_path, capsys):
    frames = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "broken.nii.gz").write_bytes((frames["oblique"]).read_bytes()[:999])
    assert script(tmp_path / "data", "--output_dir", tmp_path / "out") == 1
    assert files(tmp_path / "out") == results(*frames)
    assert statuses(tmp_path / "out") == {
        **dict.fromkeys(frames, "done"),
        "broken": "failed",
        "patient001_4d": "failed",
    }
    printed = capsys.readouterr()
    assert "3 of 5 studies segmented" in printed.out and "2 failed" in printed.out
    assert "a 2D image" in printed.err and "truncated or corrupted" in printed.err
    rows = (tmp_path / "out" / "measurements.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[-2:]] == ["failed", "failed"]


def test_problems_are_counted_and_cases_not_used_are_named(script, tmp_path, capsys):
    write_stack(tmp_path / "data" / "a.nii.gz")
    (tmp_path / "reference.csv").write_text("case,lv_ef_percent\na,60\nb,50\n")
    arguments = (tmp_path / "data", "--output_dir", tmp_path / "out", "--reference_csv", tmp_path / "reference.csv")
    assert script(*arguments) == 0
    printed = capsys.readouterr()
    assert "not used:\n- reference_csv: 1 of 2 cases are no study's: 'b'" in printed.err
    assert printed.out.endswith("0 finished before, 0 failed\n")
    (tmp_path / "data" / "c.dcm").write_bytes(b"no DICOM")
    assert script(*arguments) == 1
    end = "1 finished before, 0 failed, 1 problem with files that make no study\n"
    assert capsys.readouterr().out.endswith(end)


def test_a_cine_gets_a_4d_mask_and_a_report(script, tmp_path):
    cine = np.stack([heart()] * 3, -1)
    write_stack(tmp_path / "a_4d.nii.gz", cine)
    assert script(tmp_path / "a_4d.nii.gz", "--output_dir", tmp_path / "out", "--ed_frame", 2) == 0
    assert files(tmp_path / "out") == results("a_4d") | {"a_4d/a_4d_report.html"}
    mask = nib.load(tmp_path / "out" / "a_4d" / "a_4d_seg.nii.gz")
    assert mask.shape == cine.shape
    assert json.loads((tmp_path / "out" / "a_4d" / "a_4d_measurements.json").read_text())["ed_frame"] == 2
    assert "a_4d/a_4d_report.html" in (tmp_path / "out" / "index.html").read_text()
    arguments = (tmp_path / "a_4d.nii.gz", "--output_dir", tmp_path / "out2", "--noreport")
    assert script(*arguments) == 0
    assert files(tmp_path / "out2") == results("a_4d") - {"index.html"}
    assert script(*arguments[:2], tmp_path / "out3", "--ed_frame", 3) == 1


def as_broken_dicom(folder):
    (folder / "IM0001.dcm").write_bytes(b"\0" * 128 + b"DICM")
    return folder


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (as_broken_dicom, "nothing to segment, expected image files"),
        (lambda folder: as_broken_dicom(folder) / "IM0001.dcm", "nothing to segment, expected image files"),
        (lambda folder: folder, "nothing to segment, expected image files"),
        (lambda folder: folder / "nowhere", "no such file or folder"),
    ],
)
def test_unusable_input_is_wrong_input(script, tmp_path, capsys, write, message):
    assert script(write(tmp_path), "--output_dir", tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unusable_weights_output_and_frames_are_wrong_input(script, tmp_path, capsys):
    path = write_stack(tmp_path / "a.nii.gz")
    assert script(path, "--output_dir", tmp_path / "out", "--ckpt_path", tmp_path / "no.pt") == 1
    assert "no.pt: no such file" in capsys.readouterr().err
    assert script(path, "--output_dir", path) == 1
    assert "Not a directory, expected a folder to write to" in capsys.readouterr().err
    assert script(path, "--output_dir", tmp_path / "out", "--ed_frame", "ten") == 1
    assert capsys.readouterr().err.endswith("ed_frame is 'ten', expected a phase counted from 0\n")


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
    result = summary(tmp_path / "out")
    printed = capsys.readouterr().err
    if isinstance(error, KeyboardInterrupt):
        assert files(tmp_path / "out") == results("a")
        assert [Path(path).name for path in result["not_reached"]] == ["b.nii.gz", "c.nii.gz"]
        assert "interrupted" in printed
    else:
        assert files(tmp_path / "out") == results("a", "c")
        assert statuses(tmp_path / "out") == {"a": "done", "b": "failed", "c": "done"}
        assert "b.nii.gz: OSError: disk full" in printed
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


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
    assert files(tmp_path / "1e3") == results("a")


def test_script_runs_from_another_directory(bundle, tmp_path):
    write_stack(tmp_path / "a.nii.gz")
    command = [sys.executable, SCRIPT, "a.nii.gz", "--output_dir", "out", "--bundle_root", bundle, "--device", "cpu"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    assert files(tmp_path / "out") == results("a")


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

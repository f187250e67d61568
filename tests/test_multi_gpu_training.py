"""Training in several processes, really run: two of them on the CPU, which exchange what two GPUs would."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import BUNDLE

CONFIGS = [str(BUNDLE / "configs" / name) for name in ("train.json", "multi_gpu_train.json")]


# One frame in each process: of the LV's voxels 2 of 4 are found, and 1 of 1 with two more around it.
POOLED = f"""
import sys
sys.path.insert(0, {str(BUNDLE)!r})
import ignite.distributed as idist
import torch
from cardiac_cine.handlers import PooledDice

idist.initialize("gloo")
predicted, expected = [([3, 3, 0, 0, 1], [3, 3, 3, 3, 1]), ([3, 3, 3, 0, 0], [3, 0, 0, 0, 1])][idist.get_rank()]
metric = PooledDice("d", lambda output: output)
scores = torch.nn.functional.one_hot(torch.tensor([predicted]), 4).movedim(-1, 1).float()
metric.update(metric._output_transform((scores, torch.tensor([[expected]]))))
found = metric.compute()
print(f"lv {{found['d_lv']:.4f}}, rv {{found['d_rv']:.4f}}", flush=True)
idist.finalize()
"""


def in_two_processes(*command) -> str:
    """Run a Python module or script in two processes and return what they said."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def train(small_training: dict, out, *overlays, **more) -> str:
    options = {**small_training, "ckpt_dir": out / "models", "output_dir": out / "eval", "batch_size": 4, **more}
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return in_two_processes("-m", "monai.bundle", "run", "--config_file", str([*CONFIGS, *overlays]), *flags)


@pytest.fixture(scope="module")
def together(small_training, tmp_path_factory):
    out = tmp_path_factory.mktemp("together")
    train(small_training, out, max_epochs=3)
    return out


def test_two_processes_share_the_slices_and_leave_one_set_of_files(together, small_training):
    saved = torch.load(together / "models" / "checkpoint.pt", weights_only=True)
    records = json.loads((together / "eval" / "learning_curves.json").read_text())
    assert [record["epoch"] for record in records] == [1, 2, 3] and records == saved["curves"]["records"]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert all(0 <= record["val_mean_dice"] <= 1 for record in records)
    assert sorted(path.name for path in (together / "models").iterdir()) == ["checkpoint.pt", "model.pt"]
    assert len(list((together / "eval").glob("events.out.tfevents.*"))) == 2  # training and validation, each once


def test_weights_load_into_one_process_and_its_checkpoint_goes_on_in_two(together, small_training, tmp_path):
    (tmp_path / "models").mkdir()
    state = torch.load(together / "models" / "checkpoint.pt", weights_only=True)
    assert state["network"].keys() == torch.load(together / "models" / "model.pt", weights_only=True).keys()
    torch.save(state, tmp_path / "models" / "checkpoint.pt")
    said = train(small_training, tmp_path, max_epochs=4, resume=True)
    assert said.count("resumed after epoch 3") == 2
    resumed = torch.load(tmp_path / "models" / "checkpoint.pt", weights_only=True)
    assert resumed["trainer"]["iteration"] == state["trainer"]["iteration"] // 3 * 4


def test_minutes_end_both_processes_together(small_training, tmp_path):
    said = train(small_training, tmp_path, max_epochs=10_000, max_minutes=0.3)
    assert said.count("max_minutes reached") == 2


def test_no_process_leaves_before_the_first_has_written_everything(small_training, tmp_path):
    """One that fails while it leaves, as gloo's threads make it now and then, would have the others killed."""
    steps = [
        "$atexit.register(print, @rank, 'leaves', flush=True)",
        "$time.sleep(0 if @rank else 4)",
        "$print(@rank, 'is done', flush=True)",
    ]
    imports = [f"$import {name}" for name in ("atexit", "os", "time", "ignite.distributed as idist")]
    (tmp_path / "late.json").write_text(json.dumps({"imports": imports, "run": steps}))
    said = train(small_training, tmp_path, str(tmp_path / "late.json"))
    assert said.index("0 is done") < said.index("1 leaves")


def test_dice_of_a_structure_is_that_of_the_frames_of_both_processes(tmp_path):
    script = tmp_path / "pooled.py"
    script.write_text(POOLED)
    assert in_two_processes(str(script)).count("lv 0.6000, rv 0.6667") == 2

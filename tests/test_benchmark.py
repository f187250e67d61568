import json
import subprocess
import sys

import pytest
from benchmark import run_alone
from conftest import REPO


def test_the_benchmark_fills_its_table(tmp_path, phantom_acdc):
    """Only that it measures; how fast anything is depends on the machine."""
    command = [sys.executable, str(REPO / "scripts" / "benchmark.py"), "--dataset_dir", str(phantom_acdc)]
    command += ["--output_dir", str(tmp_path), "--blocks", "1", "--frames", "1", "--phases", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "benchmark.json").read_text())
    training, inference = found["training"], found["inference"]
    assert training["ratio"] * training["network_loop_samples_per_s"] > 0
    assert inference["stages_s"].keys() == {"load", "preprocess", "network", "postprocess", "save"}
    assert 0 < sum(inference["stages_s"].values()) < inference["first_result_s"]
    assert inference["total_over_network"] > 1
    assert inference["peak_memory_mb"] > 100
    assert found["cine"]["shape"] == [216, 256, 10, 2] and found["cine"]["peak_memory_mb"] > 100
    assert found["large_cine"] is None
    assert (tmp_path / "benchmark.md").read_text() in done.stdout


@pytest.mark.parametrize(("held_mb", "lowest", "highest"), [(0, 5, 100), (200, 200, 300)])
def test_peak_memory_is_that_of_the_command_alone(held_mb, lowest, highest):
    ballast = b"x" * (300 << 20)  # more than the command has in any row
    run = run_alone([sys.executable, "-c", f"held = b'x' * ({held_mb} << 20); print('done', len(held))"])
    assert lowest < run.peak_memory_mb < highest
    assert run.output.strip() == f"done {held_mb << 20}" and run.seconds > 0
    assert len(ballast) == 300 << 20


def test_a_command_that_fails_is_named():
    with pytest.raises(RuntimeError, match=r"failed: .* -c 'raise SystemExit"):
        run_alone([sys.executable, "-c", "raise SystemExit(3)"])

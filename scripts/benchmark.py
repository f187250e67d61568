"""Measure how fast training and inference are on this machine, end to end and against the bare network."""

import itertools
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli
from cli import BUNDLE

SCRIPTS = Path(__file__).resolve().parent

# Iterations of the trainer, then as many of the bare loop, in turn, so that a drift of the machine's speed hits both.
BLOCK = 10
PHANTOM_PATIENTS = 5

# Linux counts the memory of the process that forks into the peak of what it starts, through exec. A training's would
# stand for segment.py's; this process is smaller than anything that is measured.
_LAUNCHER = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print()
print(json.dumps({"seconds": time.perf_counter() - begun, "peak_memory_mb": usage.ru_maxrss / 1024}))
sys.exit(0 if status == 0 else 1)
"""


@dataclass(frozen=True)
class Run:
    """A command that has run: what it printed, the seconds it took, and its peak memory in MB."""

    output: str
    seconds: float
    peak_memory_mb: float


def benchmark(
    *,
    dataset_dir: str | None = None,
    output_dir: str = "benchmark",
    blocks: int = 6,
    frames: int = 10,
    phases: int = 30,
    large_cine: bool = False,
    ckpt_path: str | None = None,
) -> None:
    """Time training and inference and write OUTPUT_DIR/benchmark.json and benchmark.md.

    Training: samples per second of the configured trainer (loading, augmentation, network, EMA, metrics) and of a bare
    loop of the same network, loss and optimiser on one batch in memory, taken in turn in one process.
    Inference: seconds per frame, split into load, preprocess, network, postprocess and save; peak memory; and the time
    from the start of scripts/segment.py to its first result.
    Cine: scripts/segment.py on a phantom of 10 slices in DICOM, from its start to the report.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: an ACDC root or a folder with dataset.json; synthetic phantoms where it is not given.
        output_dir: folder for the results.
        blocks: how many times 10 iterations of the trainer and 10 of the bare loop are timed, after one of warm-up.
        frames: how many validation frames are segmented, after one of warm-up.
        phases: of the cine.
        large_cine: also measure a cine of 50 slices, 30 phases and 512 x 512 pixels, which takes minutes.
        ckpt_path: weights for inference; the bundle's where not given, random ones where it has none.
    """
    import torch

    from cardiac_cine.files import write_json, write_text
    from cardiac_cine.weights import versions

    out = Path(output_dir)
    with tempfile.TemporaryDirectory() as scratch:
        source = dataset_dir or _phantoms(Path(scratch))
        weights = Path(ckpt_path) if ckpt_path else _weights(Path(scratch))
        result = {
            "machine": {
                "processor": processor(),
                "threads": torch.get_num_threads(),
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                **versions(),
            },
            "data": dataset_dir or "phantoms",
            "training": _training(source, blocks, Path(scratch)),
            "inference": _inference(source, weights, frames, Path(scratch)),
            "cine": _cine(weights, phases, Path(scratch)),
            "large_cine": _large_cine(weights, Path(scratch)) if large_cine else None,
        }
    write_json(result, out / "benchmark.json")
    text = _table(result)
    write_text(text, out / "benchmark.md")
    print(text)


def _training(dataset_dir: str, blocks: int, scratch: Path) -> dict[str, float]:
    import torch
    from ignite.engine import Events
    from monai.bundle import ConfigParser
    from tqdm import tqdm

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    parser.update({"bundle_root": str(BUNDLE), "dataset_dir": dataset_dir, "phantoms": 0})
    parser.update({"output_dir": str(scratch / "eval"), "ckpt_dir": str(scratch / "models")})
    trainer = parser.get_parsed_content("train#trainer")
    bare = _bare_loop(trainer, parser.get_parsed_content("train#step"))
    size = parser["batch_size"]
    seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
    bar = tqdm(total=blocks + 1, desc="training", unit="block", disable=None)
    clock = {"started": 0.0, "samples": 0}

    def count(engine: Any) -> None:
        clock["samples"] += len(engine.state.output["image"])
        if engine.state.iteration % BLOCK:
            return
        seconds["trainer"].append((time.perf_counter() - clock["started"]) / clock["samples"])
        begun = time.perf_counter()
        for _ in range(BLOCK):
            bare()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds["bare"].append((time.perf_counter() - begun) / (BLOCK * size))
        bar.update()
        if len(seconds["bare"]) > blocks:
            engine.terminate(skip_completed=True)
        clock.update(started=time.perf_counter(), samples=0)

    trainer.add_event_handler(Events.STARTED, lambda _: clock.update(started=time.perf_counter()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, count)
    # An epoch of phantoms is shorter than the benchmark; validation and checkpoints at its end are not to be timed.
    trainer.state.epoch_length = (blocks + 2) * BLOCK
    trainer.run()
    bar.close()
    speeds = {name: 1 / statistics.median(values[1:]) for name, values in seconds.items()}
    ratios = [bare / whole for whole, bare in zip(seconds["trainer"][1:], seconds["bare"][1:], strict=True)]
    return {
        "batch_size": size,
        "end_to_end_samples_per_s": speeds["trainer"],
        "network_loop_samples_per_s": speeds["bare"],
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


def _bare_loop(trainer: Any, step: Any) -> Callable[[], None]:
    """Return one iteration on a copy of the trainer's network and one batch that is in memory already."""
    import copy

    import torch

    # Copied together, so that the copied optimiser steps the copied network.
    network, optimizer = copy.deepcopy((trainer.network.train(), trainer.optimizer))
    image, label = trainer.prepare_batch(next(iter(trainer.data_loader)), step.device)

    def iterate() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(step.device.type, step.dtype, enabled=step.dtype != torch.float32):
            logits = network(image)
        loss = trainer.loss_function(logits.float(), label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), step.max_grad_norm)
        optimizer.step()
        loss.item()

    return iterate


def _inference(dataset_dir: str, weights: Path, count: int, scratch: Path) -> dict[str, Any]:
    from tqdm import tqdm

    from cardiac_cine import datasets

    names = ("load", "preprocess", "network", "postprocess", "save")
    listed = datasets.open_datalist(dataset_dir).section("tutorial", "validation")
    paths = [case.image for case in (listed * (1 + count // len(listed)))[: count + 1]]
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from benchmark import time_frames\n"
        "print(json.dumps(time_frames(*sys.argv[2:4], sys.argv[4:])))"
    )
    arguments = [str(SCRIPTS), str(weights), str(scratch / "timed"), *map(str, paths)]
    run = run_alone([sys.executable, "-c", code, *arguments])
    timed = json.loads(run.output.splitlines()[-1])
    stages = {name: statistics.median(row[name] for row in timed[1:]) for name in names}
    totals = [sum(row[name] for name in names) for row in timed[1:]]
    latencies = []
    for attempt in tqdm(range(3), desc="first result", unit="start", disable=None):
        begun = time.perf_counter()
        command = [sys.executable, str(SCRIPTS / "segment.py"), str(paths[0])]
        # A folder of its own: what is finished would be skipped.
        command += ["--output_dir", str(scratch / f"first{attempt}"), "--ckpt_path", str(weights)]
        subprocess.run(command, check=True, capture_output=True)
        latencies.append(time.perf_counter() - begun)
    return {
        "frames": len(totals),
        "median_slices": statistics.median(row["slices"] for row in timed[1:]),
        "seconds_per_frame": statistics.median(totals),
        "stages_s": stages,
        "total_over_network": statistics.median(
            total / row["network"] for total, row in zip(totals, timed[1:], strict=True)
        ),
        "peak_memory_mb": run.peak_memory_mb,
        "first_result_s": statistics.median(latencies),
    }


def time_frames(weights: str, output_dir: str, paths: list[str]) -> list[dict[str, float]]:
    """Segment frames one by one and return for each the seconds of every stage and its number of slices.

    Args:
        weights: checkpoint.
        output_dir: folder for the masks.
        paths: NIfTI frames.
    """
    import torch

    from cardiac_cine.images import read_frame, write_mask
    from cardiac_cine.segmenter import Segmenter

    segmenter = Segmenter.from_bundle(BUNDLE, ckpt_path=weights)
    rows = []
    for path in paths:
        marks = [time.perf_counter()]
        frame = read_frame(Path(path))
        marks.append(time.perf_counter())
        data = segmenter.preprocess(frame)
        marks.append(time.perf_counter())
        data = segmenter.predict(data)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        mask = segmenter.postprocess(data)
        marks.append(time.perf_counter())
        write_mask(mask, frame.affine, Path(output_dir), frame.name)
        marks.append(time.perf_counter())
        spans = [end - start for start, end in itertools.pairwise(marks)]
        stages = dict(zip(("load", "preprocess", "network", "postprocess", "save"), spans, strict=True))
        rows.append({**stages, "slices": mask.shape[2]})
    return rows


def _cine(weights: Path, phases: int, scratch: Path) -> dict[str, Any]:
    """Time segment.py on a clinical cine in DICOM, everything included."""
    from cardiac_cine.datasets.phantom import render
    from cardiac_cine.datasets.phantom_dicom import write_dicom
    from cardiac_cine.datasets.phantom_spec import PhantomSpec

    phantom = render(PhantomSpec(lv_length_mm=80.0, slices=10, phases=phases))
    write_dicom(phantom, scratch / "cine_dicom")
    return _timed_segment(scratch / "cine_dicom", weights, scratch / "cine", phantom.image.shape)


def _large_cine(weights: Path, scratch: Path) -> dict[str, Any]:
    """Time segment.py on a cine of many small voxels: one phase of a phantom, shifted from phase to phase."""
    import nibabel as nib
    import numpy as np

    from cardiac_cine.datasets.phantom import render
    from cardiac_cine.datasets.phantom_spec import PhantomSpec

    spec = PhantomSpec(shape=(512, 512), spacing_mm=(0.7, 0.7, 2.5), slices=50, phases=30)
    phantom = render(spec, (0,))
    array = np.stack([np.roll(phantom.image[..., 0], phase % 3, axis=0) for phase in range(spec.phases)], -1)
    nib.save(nib.Nifti1Image(array, phantom.affine), scratch / "large.nii")
    return _timed_segment(scratch / "large.nii", weights, scratch / "large", array.shape)


def _timed_segment(path: Path, weights: Path, out: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / "segment.py"), str(path), "--output_dir", str(out)]
    run = run_alone([*command, "--ckpt_path", str(weights)])
    return {"shape": shape, "seconds": run.seconds, "peak_memory_mb": run.peak_memory_mb}


def run_alone(command: Sequence[str]) -> Run:
    """Run a command so that its peak memory is its own and not that of the process that starts it.

    Raises:
        RuntimeError: the command failed; it has printed why.
    """
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launch, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"failed: {shlex.join(command)}")
    output, _, measured = done.stdout.rstrip().rpartition("\n")
    return Run(output, **json.loads(measured))


def _phantoms(folder: Path) -> str:
    from cardiac_cine.datasets.phantom import write_acdc

    write_acdc(folder / "phantoms", PHANTOM_PATIENTS, seed=0)
    return str(folder / "phantoms")


def _weights(folder: Path) -> Path:
    """Return the bundle's weights, or random ones of the same network, which take the same time."""
    shipped = BUNDLE / "models" / "model.pt"
    if shipped.is_file():
        return shipped
    write_random_weights(folder / "random.pt", 0)
    return folder / "random.pt"


def write_random_weights(path: Path, seed: int) -> None:
    """Write weights of the bundle's network before any training."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    torch.manual_seed(seed)
    torch.save(parser.get_parsed_content("network_def").state_dict(), path)


def processor() -> str:
    """Return this machine's processor and its number of cores, in words."""
    described = Path("/proc/cpuinfo")
    names = [line for line in described.read_text().splitlines() if "model name" in line] if described.exists() else []
    return f"{names[0].partition(':')[2].strip() if names else platform.processor()}, {os.cpu_count()} cores"


def _table(result: dict[str, Any]) -> str:
    from cardiac_cine import markdown

    training, inference = result["training"], result["inference"]
    rows = [
        ("training, end to end", f"{training['end_to_end_samples_per_s']:.1f} slices/s"),
        ("training, bare network loop", f"{training['network_loop_samples_per_s']:.1f} slices/s"),
        ("ratio, median of blocks", f"{training['ratio']:.2f}"),
        (f"inference of a frame, {inference['median_slices']:g} slices", f"{inference['seconds_per_frame']:.2f} s"),
        *((f"- {name}", f"{seconds:.3f} s") for name, seconds in inference["stages_s"].items()),
        ("total over network, median of the frames' ratios", f"{inference['total_over_network']:.2f}"),
        ("peak memory of inference", f"{inference['peak_memory_mb']:.0f} MB"),
        ("first result of scripts/segment.py", f"{inference['first_result_s']:.1f} s"),
    ]
    for name, cine in (("cine in DICOM to report", result["cine"]), ("large cine to report", result["large_cine"])):
        if cine:
            size = " x ".join(map(str, cine["shape"]))
            rows.append((f"{name}, {size}", f"{cine['seconds']:.0f} s, {cine['peak_memory_mb']:.0f} MB"))
    machine = result["machine"]
    head = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, data: {result['data']}"
    return "\n".join([head, "", markdown.table(["measure", "value"], rows), ""])


if __name__ == "__main__":
    sys.exit(cli.main(benchmark, "benchmark.py"))

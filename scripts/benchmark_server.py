"""Measure how fast the annotation server starts and answers on this machine."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli
from benchmark import processor
from cli import BUNDLE

REPO = BUNDLE.parent
MODEL = "cardiac_cine"
# What is wanted of an annotation server, in the order of the table.
WANTED = {"first_inference_s": 5.0, "later_over_segment": 1.3, "info_p95_ms": 200.0}


@dataclass(frozen=True)
class Server:
    """A running server: its address, its process, and the seconds from its start to its first answer."""

    url: str
    process: subprocess.Popen
    started_s: float


def benchmark(
    studies: str,
    *,
    image: str | None = None,
    repeats: int = 10,
    info_seconds: float = 30.0,
    scoring: bool = False,
    device: str | None = None,
    output_json: str | None = None,
) -> None:
    """Start the annotation server on the folder STUDIES, measure it, and print a table in Markdown.

    Start: seconds from the start of the process to the first answer to /info/.
    Inference: the first one after that answer, then REPEATS of the same image, each in turn with what segment.py
    does with that image in this process: reading it, segmenting it with the same weights, writing the mask. What
    segment.py does beside that (confidence, measurements, report) is measured too and not compared with.
    /info/: how long it takes while another client has one inference running after the other.

    The server's labels go to a temporary folder. Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        studies: a folder of images and DICOM studies.
        image: id of the image to segment; the first one where not given.
        repeats: how many later inferences are timed.
        info_seconds: how long /info/ is asked for during inferences.
        scoring: let the server score its samples in the background at the same time, as it does in use.
        device: cpu or cuda:0, for example. Default: the first GPU, and the CPU where there is none.
        output_json: file for all the numbers.
    """
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json

    cli.check_app()
    if not Path(studies).exists():
        raise InputError(f"{studies}: there is no such file or folder")
    chosen = ["--device", device] if device else []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["--studies", studies, "--state_dir", f"{scratch}/state", *chosen]
        with serving(arguments, Path(scratch) / "log", MONAI_LABEL_AUTO_UPDATE_SCORING=str(scoring)) as server:
            result = _measured(server, image, repeats, info_seconds, device, Path(scratch))
    result = {"studies": studies, "background_scoring": scoring, "processor": processor(), **result}
    if output_json:
        write_json(result, Path(output_json))
    print(table(result))


@contextlib.contextmanager
def serving(
    arguments: Sequence[str], log: Path, *, module: str = "monailabel_app", **environment: str
) -> Iterator[Server]:
    """Run a server on a free port for the length of a block.

    Args:
        arguments: of the command line, without the port.
        log: file for what the server says.
        module: what starts it.
        environment: variables besides this process's own.

    Raises:
        RuntimeError: it does not answer, with the end of what it said.
    """
    import requests

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", module, *arguments, "--port", str(port)]
    url, begun = f"http://127.0.0.1:{port}", time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, cwd=REPO, env=os.environ | environment, stdout=stream, stderr=stream) as process,
    ):
        try:
            while True:
                with contextlib.suppress(requests.ConnectionError):
                    requests.get(f"{url}/info/", timeout=60)  # 401 is an answer, too
                    break
                if process.poll() is not None or time.perf_counter() - begun > 180:
                    raise RuntimeError(f"the server does not answer:\n{log.read_text()[-4000:]}")
                time.sleep(0.05)
            yield Server(url, process, time.perf_counter() - begun)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def info_times_ms(url: str, seconds: float) -> list[float]:
    """Ask for /info/ over and over and return how long each answer took."""
    import requests

    times, end = [], time.perf_counter() + seconds
    with requests.Session() as session:
        while time.perf_counter() < end:
            begun = time.perf_counter()
            session.get(f"{url}/info/", timeout=60).raise_for_status()
            times.append(1000 * (time.perf_counter() - begun))
            time.sleep(0.05)
    return times


def table(result: Mapping[str, Any]) -> str:
    """Return what was measured as Markdown."""
    from cardiac_cine import markdown

    rows = [
        ("start to first answer of /info/", f"{result['started_s']:.1f} s", ""),
        ("first inference after start", f"{result['first_inference_s']:.2f} s", "first_inference_s"),
        ("later inferences, median", f"{result['later_inference_s']:.2f} s", ""),
        ("segment.py, the same image", f"{result['segment_s']:.2f} s", ""),
        ("segment.py with confidence and measurements", f"{result['segment_all_s']:.2f} s", ""),
        ("later inferences over segment.py", f"{result['later_over_segment']:.2f}", "later_over_segment"),
        ("/info/ during inferences, p50", f"{result['info_p50_ms']:.0f} ms", ""),
        ("/info/ during inferences, p95", f"{result['info_p95_ms']:.0f} ms", "info_p95_ms"),
    ]
    verdicts = {key: f"at most {most:g}, {'met' if result[key] <= most else 'missed'}" for key, most in WANTED.items()}
    cells = [(name, value, verdicts.get(key, "")) for name, value, key in rows]
    head = f"{result['processor']}, {result['image']} of {' x '.join(map(str, result['shape']))} voxels"
    return "\n".join([head, "", markdown.table(["measure", "value", "wanted"], cells), ""])


def _measured(
    server: Server, image: str | None, repeats: int, info_seconds: float, device: str | None, scratch: Path
) -> dict[str, Any]:
    import numpy as np
    import requests

    image = image or next(iter(requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]))

    def infer() -> float:
        begun = time.perf_counter()
        answer = requests.post(
            f"{server.url}/infer/{MODEL}",
            params={"image": image},
            files={"params": (None, json.dumps({"result_extension": ".nrrd"}))},
            timeout=600,
        )
        answer.raise_for_status()
        return time.perf_counter() - begun

    first = infer()
    path = scratch / f"{image}.nii.gz"
    path.write_bytes(requests.get(f"{server.url}/datastore/image", params={"image": image}, timeout=60).content)
    segment, segment_all, shape = _segment(path, device, scratch / "segment")
    later, own = zip(*((infer(), segment()) for _ in range(repeats)), strict=True)
    whole = [segment_all() for _ in range(max(1, repeats // 3))]

    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            infer()

    other = threading.Thread(target=keep_busy)
    other.start()
    try:
        info_ms = info_times_ms(server.url, info_seconds)
    finally:
        stop.set()
        other.join()
    return {
        "image": image,
        "shape": shape,
        "started_s": server.started_s,
        "first_inference_s": first,
        "later_inference_s": float(np.median(later)),
        "segment_s": float(np.median(own)),
        "segment_all_s": float(np.median(whole)),
        "later_over_segment": float(np.median(np.divide(later, own))),
        "info_requests": len(info_ms),
        "info_p50_ms": float(np.percentile(info_ms, 50)),
        "info_p95_ms": float(np.percentile(info_ms, 95)),
    }


def _segment(path: Path, device: str | None, out: Path) -> tuple[Any, Any, tuple[int, ...]]:
    """Return two calls that time segment.py's work on an image, its core and all of it without the report."""
    from cardiac_cine.images import write_mask
    from cardiac_cine.segmenter import Segmenter
    from cardiac_cine.studies import find_studies
    from cardiac_cine.workflow import Workflow, segment_study

    segmenter = Segmenter.from_bundle(BUNDLE, device=device)
    [study] = find_studies(path).studies

    def core() -> float:
        begun = time.perf_counter()
        cine = study.read()
        masks, _ = segment_study(segmenter, cine)
        write_mask(masks[..., 0], cine.affine, out, cine.name)
        return time.perf_counter() - begun

    def everything() -> float:
        begun = time.perf_counter()
        Workflow(segmenter, out, {"report": False, "overwrite": True}).run(find_studies(path))
        return time.perf_counter() - begun

    core()  # the first call is slower than all others
    return core, everything, study.read().array.shape[:3]


if __name__ == "__main__":
    sys.exit(cli.main(benchmark, "benchmark_server.py"))

"""A training of the bundle in a folder and a process of its own: started, followed from elsewhere, and judged."""

import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cardiac_cine.agreement import dice
from cardiac_cine.cases import Case
from cardiac_cine.files import write_json
from cardiac_cine.images import read_frame, read_label
from cardiac_cine.labels import STRUCTURE_IDS
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.statistics import summarise

logger = logging.getLogger(__name__)

WEIGHTS = Path("models") / "model.pt"
KEY_METRIC = "val_mean_dice"
ARGUMENTS, OWNER, LOG, RECORDS = "arguments.json", ".owner", "train.log", "learning_curves.json"
_NICENESS = 10
# All that a training needs of its parent's environment.
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def train(bundle_root: Path, folder: Path, overrides: Mapping[str, Any]) -> int:
    """Run train.json in a child process, at low priority, and wait for it.

    The child writes below ``folder`` alone: weights, curves, TensorBoard events, and what it says to train.log. On
    Linux it ends with the process that waits, however that ends.

    Args:
        bundle_root: the bundle.
        folder: the run's own, with the datalist in it.
        overrides: values for keys of train.json.

    Returns:
        The child's exit code, negative where a signal ended it.
    """
    paths = {"dataset_dir": folder, "output_dir": folder, "ckpt_dir": folder / WEIGHTS.parent}
    config = {"config_file": bundle_root / "configs" / "train.json", "bundle_root": bundle_root}
    write_json({**config, **paths, **overrides}, folder / ARGUMENTS)
    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    with (
        (folder / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(folder / ARGUMENTS)],
            cwd=folder,
            # Bytecode would be written into the bundle.
            env={**environment, "PYTHONPATH": str(bundle_root), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=_background,
        ) as child,
    ):
        for line in child.stdout or ():
            log.write(line)
            log.flush()
            logger.info(line.rstrip())
    return child.returncode


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a run for as long as this process works on it; the system lets go when the process ends, however it does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OWNER).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_owned(folder: Path) -> bool:
    """Tell whether a process works on the run."""
    path = folder / OWNER
    if not path.is_file():
        return False
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        started: in seconds since 1970.
        epoch: the last one that is done, 0 before the first.
        total_epochs: how many the budget allows at this pace, whichever part of it ends first; 0 while unknown.
        best: the best validation, None before the first.
        best_epoch: when it was.
        records: metrics of every epoch, undefined ones left out.
    """

    started: float
    epoch: int
    total_epochs: int
    best: float | None
    best_epoch: int
    records: tuple[dict[str, float], ...]


def progress(folder: Path) -> Progress:
    """Read how far a run is, before it is started, while it goes on or after its end."""
    if not (folder / ARGUMENTS).is_file():
        return Progress(folder.stat().st_mtime, 0, 0, None, 0, ())
    arguments = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
    started = (folder / ARGUMENTS).stat().st_mtime
    written = folder / RECORDS
    found = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else []
    records = tuple({key: value for key, value in record.items() if value is not None} for record in found)
    validated = [(record[KEY_METRIC], int(record["epoch"])) for record in records if KEY_METRIC in record]
    best, best_epoch = max(validated, key=lambda pair: pair[0], default=(None, 0))
    epoch = int(records[-1]["epoch"]) if records else 0
    total = epochs = int(arguments["max_epochs"])
    if arguments.get("max_minutes"):
        used = (written.stat().st_mtime - started) / 60 if records else 0.0
        total = round(epoch * arguments["max_minutes"] / used) if used > 0 else 0
    return Progress(started, epoch, max(epoch, min(epochs, total)), best, best_epoch, records)


def dice_by_structure(segmenter: Segmenter, cases: Iterable[Case]) -> np.ndarray:
    """Segment the cases and compare them with their labels, which must be complete.

    Returns:
        Dice, (cases, structures in the order of their ids); NaN where neither mask has the structure.
    """
    found = []
    for case in cases:
        predicted, label = segmenter.segment(read_frame(case.image)), read_label(case.label).array
        found.append([dice(predicted == structure, label == structure) for structure in STRUCTURE_IDS])
    return np.array(found).reshape(-1, len(STRUCTURE_IDS))


def mean_dice(segmenter: Segmenter, cases: Iterable[Case]) -> float:
    """Return the mean over the cases of the mean Dice over the structures that either mask has; NaN without any."""
    return summarise([summarise(row).mean for row in dice_by_structure(segmenter, cases).tolist()]).mean


def end_with_parent() -> None:
    """Have the system end this process, on Linux, when the thread that started it ends, and so with its process."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _background() -> None:
    """Run in the child: a process group of its own, at low priority, that ends with its parent."""
    os.setsid()
    os.nice(_NICENESS)
    end_with_parent()

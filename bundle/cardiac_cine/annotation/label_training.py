"""Training on a library's labels: who trains, who validates, and whether the new model takes the live one's place."""

import json
import logging
import math
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cardiac_cine import cases
from cardiac_cine.annotation import training_runs
from cardiac_cine.annotation.library import FINAL, Library
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.errors import InputError
from cardiac_cine.files import plain, write_json
from cardiac_cine.images import read_label
from cardiac_cine.segmenter import Segmenter

logger = logging.getLogger(__name__)

# How a training went that has ended.
PUBLISHED, KEPT, NOT_ASKED = "published", "kept the live model", "not published, as asked"
STOPPED, FAILED = "stopped", "failed"
# And one whose process was ended before it could say, or that goes on.
INTERRUPTED, RUNNING = "interrupted", "running"

RESULT = "result.json"
# Of mean Dice: what is within it is not worse.
TOLERANCE = 0.001
STARTS = ("live", "shipped", "scratch")
_SPLIT = "labels"
# For minutes on a CPU rather than hours: small batches, a short warm-up and an average over fewer steps.
BATCH_SIZE = 8
_SHORT = {"batch_size": BATCH_SIZE, "warmup_iterations": 50, "ema_momentum": 0.02, "phantoms": 0}
_FINE_TUNING = {"learning_rate": 0.0005}
# Validations without gain before training ends, and about how many iterations lie between two.
_PATIENCE, _ITERATIONS = 10, 100


@dataclass(frozen=True)
class Options:
    """What a training is asked for.

    Attributes:
        max_epochs: whichever of this and the next ends first.
        max_minutes: of the training as such, by the clock.
        initial: weights to start from: "live", "shipped" with the bundle, or "scratch" for random ones.
        val_fraction: share of the labelled patients that validate; at least one does.
        device: such as "cpu" or "cuda:0".
        seed: of the split and of the training.
        publish: False compares with the live model and leaves it as it is.

    Raises:
        InputError: values that cannot be, all in one message.
    """

    max_epochs: int = 300
    max_minutes: float = 60.0
    initial: str = "live"
    val_fraction: float = 0.2
    device: str = "cpu"
    seed: int = 0
    publish: bool = True

    def __post_init__(self) -> None:
        numbers = {name: _number(getattr(self, name)) for name in ("max_epochs", "max_minutes", "val_fraction", "seed")}
        epochs, minutes, fraction, seed = numbers.values()
        rules = {
            "max_epochs": (epochs >= 1 and epochs % 1 == 0, "a whole number from 1"),
            "max_minutes": (0 < minutes < math.inf, "a positive number"),
            "initial": (self.initial in STARTS, f"one of {STARTS}"),
            "val_fraction": (0 < fraction < 1, "a number between 0 and 1"),
            "device": (isinstance(self.device, str), "a name such as 'cpu'"),
            "seed": (0 <= seed < 2**32 and seed % 1 == 0, "a whole number from 0"),
            "publish": (isinstance(self.publish, bool), "true or false"),
        }
        bad = [f"{key} is {getattr(self, key)!r}, expected {what}" for key, (good, what) in rules.items() if not good]
        if bad:
            raise InputError(bad, "training was asked for with what it cannot take:")

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> "Options":
        """Take from a request what it says; the first of a list of choices, numbers as text too."""
        given: dict[str, Any] = {}
        for item in fields(cls):
            value = request.get(item.name, item.default)
            value = value[0] if isinstance(value, list) and value else value
            number = _number(value) if item.type in (int, float) else math.nan
            whole = item.type is int and number % 1 == 0
            given[item.name] = value if math.isnan(number) else int(number) if whole else number
        return cls(**given)


@dataclass(frozen=True)
class Status:
    """How the last training goes or went.

    Attributes:
        run: its folder's name.
        state: one of this module's words for it.
        seconds: since it began, or that it took.
        progress: how far it is.
        result: what came of it, {} before the end.
    """

    run: str
    state: str
    seconds: float
    progress: training_runs.Progress
    result: Mapping[str, Any]


class LabelTraining:
    """Trains the bundle on the final labels; every run has a folder of its own and writes nowhere else.

    Args:
        root: holds the library's images; gets training/.
        lock: held by who writes labels or begins a training; reentrant.
        models: what the new model is compared with, and published to.
        bundle_root: the bundle.
        overrides: of keys of train.json, for all runs.
    """

    def __init__(
        self,
        root: Path,
        lock: AbstractContextManager,
        models: ModelVersions,
        bundle_root: Path,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.root, self.folder, self.lock, self.models = root, root / "training", lock, models
        self.bundle_root, self.overrides = Path(bundle_root).resolve(), dict(overrides or {})

    def status(self) -> Status | None:
        """Return how the last training goes, None before the first."""
        files = (training_runs.OWNER, training_runs.ARGUMENTS)
        run = max((path.parent for name in files for path in self.folder.glob(f"*/{name}")), default=None)
        if run is None:
            return None
        # In this order: a run that ends in between has its result by then.
        owned, progress = training_runs.is_owned(run), training_runs.progress(run)
        written = run / RESULT
        result = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
        state = result.get("status", RUNNING if owned else INTERRUPTED)
        return Status(run.name, state, result.get("seconds", time.time() - progress.started), progress, result)

    def train(
        self, library: Library, asked: Options | Mapping[str, Any], devices: Collection[str] = ()
    ) -> dict[str, Any]:
        """Train, compare with the live model, and publish what is not worse.

        Args:
            library: the images and their labels.
            asked: options, or a request as :meth:`Options.of` takes it.
            devices: those to choose from; with none, any.

        Returns:
            What came of it, also kept as result.json in the run's folder: "status", "dice" of the new and the live
            model, "training" and "validation" patients, and those of the latter that the live model was trained on.

        Raises:
            InputError: options that cannot be, another device, too few labels, or another training goes on.
            RuntimeError: training failed or was stopped.
        """
        with ExitStack() as running:
            with self.lock:  # nobody else begins in between
                last = self.status()
                if last and last.state == RUNNING:
                    raise InputError(f"training {last.run} is still running, expected one at a time")
                run = self.folder / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
                running.enter_context(training_runs.owned(run))
            began = time.monotonic()
            result: dict[str, Any] = {"run": run.name, "status": FAILED}
            try:
                options = asked if isinstance(asked, Options) else Options.of(asked)
                result["options"] = asdict(options)
                if devices and options.device not in devices:
                    raise InputError(f"device is {options.device!r}, expected one of {list(devices)}")
                labelled = self._snapshot(library, run)
                result |= self._split(labelled, options, run)
                code = training_runs.train(self.bundle_root, run, self._arguments(labelled, result, options))
                if code:
                    result["status"] = STOPPED if code < 0 else FAILED
                    raise RuntimeError(f"training {run.name} {result['status']} with code {code}, see its train.log")
                result |= self._judge(run, options, result["training"])
            except Exception as error:
                result["error"] = str(error)
                raise
            finally:
                (run / "models" / "checkpoint.pt").unlink(missing_ok=True)  # of use to a resumed run only
                result["seconds"] = round(time.monotonic() - began, 1)
                write_json(result, run / RESULT)
        logger.info("training %s: %s", run.name, result["status"])
        return plain(result)

    def _snapshot(self, library: Library, run: Path) -> list[cases.Case]:
        """Copy the labels, so that later changes do not matter."""
        labelled = []
        for entry in library.entries():
            with self.lock:  # the file and what it covers belong together
                label, covers = library.labels.path(entry.id, FINAL), library.annotated(entry.id, FINAL)
            if label and covers.structures and covers.slices:
                (run / "labels").mkdir(exist_ok=True)
                copied = Path(shutil.copyfile(label, run / "labels" / f"{entry.id}.nii.gz"))
                every = len(covers.slices) == read_label(copied).array.shape[2]
                case = cases.Case(entry.patient, entry.key, library.image_path(entry.id), copied, group=entry.group)
                labelled.append(replace(case, structures=covers.structures, slices=() if every else covers.slices))
        return labelled

    def _split(self, labelled: list[cases.Case], options: Options, run: Path) -> dict[str, Any]:
        """Write the datalist, and return who trains and who validates."""
        groups = {case.patient: case.group for case in labelled}
        complete = {case.patient: case.group for case in labelled if case.complete}
        if len(groups) < 2 or not complete:
            raise InputError(
                f"patients with final labels: {len(groups)}, with complete ones: {len(complete)}; expected two: one to "
                "train on, and one with all slices and structures labelled to validate on"
            )
        trained_on = set(self.models.live.trained_on)
        # A patient that the live model was trained on would flatter it; where all were, the result says so.
        unseen = {patient: group for patient, group in complete.items() if patient not in trained_on} or complete
        count = min(max(1, round(options.val_fraction * len(groups))), len(groups) - 1)
        validating = cases.stratified(unseen, count, options.seed)
        training = sorted(set(groups) - set(validating))
        # Who validates does not train, nor do that patient's incomplete labels validate.
        used = tuple(case for case in labelled if case.complete or case.patient in training)
        cases.write(cases.Datalist("final labels", used, {_SPLIT: validating}), run, self.root)
        known = sorted(trained_on & set(validating))
        return {"training": training, "validation": validating, "labels": len(used), "live_trained_on": known}

    def _arguments(self, labelled: list[cases.Case], split: Mapping[str, Any], options: Options) -> dict[str, Any]:
        """Return values for train.json."""
        training = [case for case in labelled if case.patient in split["training"]]
        slices = sum(len(case.slices) or read_label(case.label).array.shape[2] for case in training)
        starts = {"live": self.models.path, "shipped": self.bundle_root / "models" / "model.pt", "scratch": None}
        return {
            **{"split": _SPLIT, "patience": _PATIENCE, **_SHORT},
            **{"max_epochs": options.max_epochs, "max_minutes": options.max_minutes},
            **{"device": options.device, "seed": options.seed},
            "val_interval": max(1, round(_ITERATIONS / math.ceil(slices / BATCH_SIZE))),
            "initial_weights": starts[options.initial],
            **({} if options.initial == "scratch" else _FINE_TUNING),
            **self.overrides,
        }

    def _judge(self, run: Path, options: Options, training: list[str]) -> dict[str, Any]:
        """Compare the new model with the live one on the validation patients, each through the whole pipeline."""
        weights, live = run / training_runs.WEIGHTS, self.models.live
        held_out = cases.read(run / cases.FILENAME).section(_SPLIT, "validation")
        dice = {}
        for name, path in (("new", weights), ("live", self.models.path)):
            segmenter = Segmenter.from_bundle(self.bundle_root, ckpt_path=path, device=options.device)
            dice[name] = training_runs.mean_dice(segmenter, held_out)
        status = NOT_ASKED
        if options.publish:
            status = PUBLISHED if dice["new"] >= dice["live"] - TOLERANCE else KEPT
        if status == PUBLISHED:
            self.models.publish(weights, metrics={training_runs.KEY_METRIC: dice["new"]}, trained_on=training)
        return {"status": status, "dice": dice, "live": live.sha256}


def _number(value: Any) -> float:
    """Return a number, which may be text; NaN where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan

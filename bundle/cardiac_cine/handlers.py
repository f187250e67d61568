"""Handlers that trainers and evaluators carry: metrics per structure, checkpoints, curves."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.metrics import ConfusionMatrix
from monai.handlers import ValidationHandler as EveryNthValidationHandler
from tqdm import tqdm

from cardiac_cine.errors import InputError
from cardiac_cine.evaluation import FrameResult, evaluate_frame, worst_first
from cardiac_cine.files import check_writable, sha256, staged, write_json
from cardiac_cine.flags import flag
from cardiac_cine.geometry import spacing_mm
from cardiac_cine.images import case_name, read_frame
from cardiac_cine.labels import NUM_CLASSES, STRUCTURES
from cardiac_cine.plots import learning_curves, overlay_grid
from cardiac_cine.report import overlay_name, write_evaluation
from cardiac_cine.weights import checksum_file, load_checkpoint, load_weights, versions

logger = logging.getLogger(__name__)


def batches(keys: Sequence[str]) -> Callable[[Any], tuple[torch.Tensor, ...]]:
    """Return an output transform that picks ``keys`` as whole batches, of decollated outputs too.

    Args:
        keys: keys of an engine's output, such as ["pred", "label"].
    """

    def pick(output: Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        if isinstance(output, Mapping):
            return tuple(output[key] for key in keys)
        return tuple(torch.stack([item[key] for item in output]) for key in keys)

    return pick


class PooledDice(ConfusionMatrix):
    """Dice per structure over all voxels of an epoch together, for training and validation alike.

    The result is a dictionary ``PREFIX_rv``, ``PREFIX_myo``, ``PREFIX_lv``, which ignite spreads over the engine's
    metrics. Pooling makes the figures of augmented slices and of whole validation frames comparable, so that
    over-fitting shows. Pixels that a partial label leaves open do not count.

    Args:
        prefix: what the names begin with, such as "train_dice".
        output_transform: picks (b, classes, ...) scores and (b, 1, ...) ids out of the engine's output.
    """

    def __init__(self, prefix: str, output_transform: Callable) -> None:
        self.prefix = prefix

        def scores_and_ids(output: Any) -> tuple[torch.Tensor, torch.Tensor]:
            scores, ids = output_transform(output)
            return torch.as_tensor(scores).flatten(2), torch.as_tensor(ids).flatten(2)[:, 0].long()

        super().__init__(num_classes=NUM_CLASSES, output_transform=scores_and_ids)

    def compute(self) -> dict[str, float]:
        """Return the pooled Dice of each structure, over all processes; NaN where neither mask holds it."""
        matrix = super().compute().double()
        both = matrix.diag()
        dice = (2 * both / (matrix.sum(0) + matrix.sum(1))).tolist()
        return {f"{self.prefix}_{structure.key}": dice[structure.id] for structure in STRUCTURES}


class Attach:
    """Put a handler into a config's list that is defined elsewhere in the config, for others to refer to.

    ``check_properties`` wants every entry of such a list to be a component, not a reference.

    Args:
        handler: anything that has ``attach``.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Attach the handler."""
        self.handler.attach(engine)


class ValidationHandler(EveryNthValidationHandler):
    """MONAI's handler, which validates every ``interval`` epochs, made to validate after the first and last as well.

    The first shows early whether all is well, and how long a validation takes. The last epoch is the one that reaches
    ``max_epochs`` or after which another handler has asked to terminate; attach this one after it.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate, if it is time to."""
        at_an_end = engine.should_terminate or engine.state.epoch in (1, engine.state.max_epochs)
        if at_an_end or engine.state.epoch % self.interval == 0:
            super().__call__(engine)


class EarlyStop:
    """End training when validations in a row bring no gain.

    Args:
        evaluator: the validation.
        key_metric: name of the metric that is to be high.
        patience: how many such validations to see; None for training that goes on to its budget's end.
    """

    def __init__(self, evaluator: Engine, key_metric: str, patience: int | None = None) -> None:
        self.evaluator = evaluator
        self.key_metric = key_metric
        self.patience = patience
        self._stopping: EarlyStopping | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.patience is not None:
            self._stopping = EarlyStopping(
                self.patience, lambda validation: validation.state.metrics[self.key_metric], engine
            )
            self.evaluator.add_event_handler(Events.COMPLETED, self._stopping)

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation so far and how many came after it; empty without patience."""
        return dict(self._stopping.state_dict()) if self._stopping else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier run's validations, if it counted them."""
        if self._stopping and state:
            self._stopping.load_state_dict(state)


class Curves:
    """The run's history: one record of all scalar metrics per epoch, kept over resumed runs, drawn at the end.

    A resumed run goes on with the epoch that the earlier run's end cut short, and replaces that epoch's record.

    Args:
        evaluator: the validation, whose metrics go with those of its epoch.
        path: PNG to draw. The records themselves stand beside it as JSON after every epoch, so that others can follow.
    """

    def __init__(self, evaluator: Engine, path: str | Path) -> None:
        self.evaluator = evaluator
        self.path = Path(path)
        self.records: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the validation."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._record)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def state_dict(self) -> dict[str, Any]:
        """Return the history so far."""
        return {"records": self.records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an earlier run's history."""
        self.records = list(state["records"])

    def _record(self, engine: Engine) -> None:
        record = {"epoch": float(engine.state.epoch)}
        engines = [engine, self.evaluator] if self.evaluator.state.epoch == engine.state.epoch else [engine]
        for source in engines:
            record.update({k: float(v) for k, v in source.state.metrics.items() if isinstance(v, (int, float))})
        self.records = [*(earlier for earlier in self.records if earlier["epoch"] < record["epoch"]), record]
        if idist.get_rank() == 0:
            write_json(self.records, self.path.with_suffix(".json"))

    def _draw(self, _: Engine) -> None:
        if idist.get_rank() > 0:
            return
        learning_curves(self.records, self.path)
        logger.info("learning curves: %s", self.path)


class Checkpoints:
    """Keep the best weights and the whole last state, each written to a temporary file first and then renamed.

    ``model.pt`` holds the weights of the best validation so far, nothing else, and loads with ``weights_only=True``;
    with ``keep_last`` those of the last one, so that the patients who validate have no say in the weights.
    ``checkpoint.pt`` holds everything that ``--resume`` needs, written after every epoch. A ``model.pt`` that another
    run wrote is kept as ``model.previous.pt`` when this run first replaces it; its checksum file goes. Of processes
    that train together, the first one writes.

    Args:
        ckpt_dir: folder for both.
        weights: the network whose weights to keep, the averaged one where there is one.
        state: name to object with ``state_dict``, for resuming.
        evaluator: the validation, which decides what is best.
        key_metric: name of the metric that is to be high.
        keep_last: keep the weights of the last validation, which comes after the last epoch, however good.
        resume: start from ``checkpoint.pt``.
        split: which patients train. A checkpoint of another split is refused: it may have seen those who validate.
    """

    MODEL = "model.pt"
    PREVIOUS = "model.previous.pt"
    LAST = "checkpoint.pt"

    def __init__(
        self,
        ckpt_dir: str | Path,
        weights: torch.nn.Module,
        state: Mapping[str, Any],
        evaluator: Engine,
        *,
        key_metric: str,
        keep_last: bool | str = False,
        resume: bool | str = False,
        split: str = "",
    ) -> None:
        self.ckpt_dir = Path(ckpt_dir)
        self.weights = weights
        self.state = dict(state)
        self.evaluator = evaluator
        self.key_metric = key_metric
        self.keep_last = flag("keep_last", keep_last)
        self.resume = flag("resume", resume)
        self.split = split
        # The metric of the weights that are kept.
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the validation and whatever else ``state`` names."""
        self.state["trainer"] = engine
        self.state["checkpoints"] = self
        engine.add_event_handler(Events.STARTED, self._check)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def state_dict(self) -> dict[str, float | str]:
        """Return the best metric so far and the split."""
        return {"best": self.best, "split": self.split}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier run's best.

        Raises:
            ValueError: the run was of another split.
        """
        # Versions up to 0.8.1 did not keep it.
        split = state.get("split", self.split)
        if split != self.split:
            raise ValueError(f"its split is {split!r}, not {self.split!r}")
        self.best = float(state["best"])

    def _check(self, _: Engine) -> None:
        if idist.get_rank() == 0:
            check_writable(self.ckpt_dir, "ckpt_dir")

    def _save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        validated = self.evaluator.state.epoch == engine.state.epoch
        value = self.evaluator.state.metrics.get(self.key_metric)
        if validated and value is not None and (self.keep_last or value > self.best):
            model = self.ckpt_dir / self.MODEL
            if self.best == float("-inf") and model.is_file():
                with staged(self.ckpt_dir / self.PREVIOUS) as target:  # a copy, so that there is a model at any time
                    shutil.copy2(model, target)
                logger.info("an earlier %s is kept as %s", self.MODEL, self.PREVIOUS)
            self.best = value
            checksum_file(model).unlink(missing_ok=True)
            self._write(self.weights.state_dict(), self.MODEL)
            which = "last" if self.keep_last else "best"
            logger.info("%s so far: %s %.4f, weights in %s", which, self.key_metric, value, model)
        self._write({name: item.state_dict() for name, item in self.state.items()}, self.LAST)

    def _write(self, content: Mapping[str, Any], name: str) -> None:
        with staged(self.ckpt_dir / name) as target:
            torch.save(content, target)

    def _resume(self, engine: Engine) -> None:
        path = self.ckpt_dir / self.LAST
        saved = load_checkpoint(path)
        missing = [name for name in self.state if name not in saved]
        if missing:
            raise InputError(f"{path}: lacks {missing}, expected a checkpoint that training wrote, not weights alone")
        max_epochs = engine.state.max_epochs
        try:
            for name, item in self.state.items():
                item.load_state_dict(saved[name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: {name!r} does not fit ({reason}), expected a run with this config") from error
        engine.state.max_epochs = max_epochs
        logger.info("resumed after epoch %d from %s", engine.state.epoch, path)


class LoadWeights:
    """Load a network's weights when an evaluator starts, with an error that says what is wrong with the file.

    Args:
        path: see :func:`cardiac_cine.weights.load_weights`.
        network: whose weights to load.
    """

    def __init__(self, path: str | Path, network: torch.nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: load_weights(self.network, self.path))


class Evaluation:
    """Compare every frame with its reference on the frame's own grid, and write the report when all are done.

    Args:
        output_dir: folder for the report.
        weights: the weights under evaluation.
        about: what else to say in the report.
        overlays: draw every frame, worst first, into ``output_dir/overlays``.
    """

    def __init__(
        self, output_dir: str | Path, weights: str | Path, about: Mapping[str, Any], *, overlays: bool | str = True
    ) -> None:
        self.output_dir = Path(output_dir)
        self.weights = Path(weights)
        self.about = about
        self.overlays = flag("overlays", overlays)
        self._results: list[FrameResult] = []
        # Case name to image file, predicted and reference mask, for the overlays.
        self._frames: dict[str, tuple[Path, np.ndarray, np.ndarray]] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: check_writable(self.output_dir, "output_dir"))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._compare)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _compare(self, engine: Engine) -> None:
        for entry, output in zip(engine.state.batch, engine.state.output, strict=True):
            path = Path(output["label"].meta["filename_or_obj"])
            image = Path(output["image"].meta["filename_or_obj"])
            prediction, reference = (output[key][0].cpu().numpy().astype(np.uint8) for key in ("pred", "label"))
            if prediction.shape != reference.shape:
                raise ValueError(f"{path}: shape {reference.shape}, but the prediction has {prediction.shape}")
            result = evaluate_frame(
                prediction, reference, spacing_mm(output["label"].affine.numpy()), {**entry, "case": case_name(image)}
            )
            self._results.append(result)
            if self.overlays:
                self._frames[result.case] = (image, prediction, reference)

    def _report(self, _: Engine) -> None:
        about = {"weights": self.weights, "weights sha256": sha256(self.weights), **self.about, **versions()}
        content = write_evaluation(self._results, self.output_dir, {key: str(value) for key, value in about.items()})
        ranked = worst_first(self._results) if self.overlays else []
        for old in (self.output_dir / "overlays").glob("*.png"):
            old.unlink()
        for rank, result in enumerate(tqdm(ranked, desc="drawing overlays", unit="frame", disable=None), start=1):
            path, prediction, reference = self._frames[result.case]
            frame = read_frame(path)
            overlay_grid(
                frame.array,
                prediction,
                frame.spacing_mm,
                self.output_dir / "overlays" / overlay_name(rank, result),
                title=f"{result.case}  {result.group} {result.phase}  mean Dice {result.mean_dice:.3f}",
                reference=reference,
            )
        logger.info("mean Dice %.4f, report: %s", content["mean_dice"], self.output_dir / "evaluation.md")

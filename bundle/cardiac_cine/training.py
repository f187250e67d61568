"""One training step, and how long training goes on."""

import copy
import logging
import math
import time
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from cardiac_cine.flags import flag

logger = logging.getLogger(__name__)

# Kept back from max_minutes, so that the run as a whole ends within it: the final validation, which may take longer
# than the last one did, and a share for what comes before the clock and after the training.
VALIDATION_RESERVE = 1.25
SHARE_RESERVE = 0.01


def amp_dtype(device: torch.device | str, enabled: bool | str = True) -> torch.dtype:
    """Return the number format for mixed precision that the device is fast at.

    Args:
        device: where the network runs.
        enabled: False for full precision everywhere.

    Returns:
        bfloat16 on a GPU or CPU with instructions for it, float16 on an older GPU, float32 otherwise.
    """
    kind = torch.device(device).type
    if not flag("amp", enabled):
        return torch.float32
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if kind == "cpu":
        capable = torch.cpu.get_capabilities()
        if capable.get("amx_bf16") or capable.get("avx512_bf16"):
            return torch.bfloat16
    return torch.float32


def compiled(network: torch.nn.Module, enabled: bool | str = True) -> torch.nn.Module:
    """Return the network compiled for training, much faster on a CPU; it shares its parameters with ``network``.

    Instance normalisation is written as a group normalisation with a group for each channel, the same function, which
    the compiler fuses with its neighbours where it leaves instance normalisation as it is. Needs a C++ compiler.
    The first step of each batch shape takes about a minute; the compiler keeps its results on disk.

    Args:
        network: a network of two dimensions. Train the returned one; evaluate and save this one.
        enabled: False returns ``network`` itself.
    """
    if not flag("compile", enabled):
        return network
    twin = copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})
    for name, norm in list(twin.named_modules()):
        if isinstance(norm, torch.nn.InstanceNorm2d):
            group = torch.nn.GroupNorm(norm.num_features, norm.num_features, eps=norm.eps, affine=norm.affine)
            group.weight, group.bias = norm.weight, norm.bias
            twin.set_submodule(name, group)
    twin.compile(dynamic=False)
    return twin


class AmpStep:
    """A trainer's ``iteration_update``: forward, backward and optimiser step in mixed precision, gradients clipped.

    MONAI's own step knows mixed precision on CUDA only and does not clip.

    Args:
        dtype: number format of the forward pass; float16 adds loss scaling.
        max_grad_norm: gradients are scaled down to this norm.
        device: where the network runs.
    """

    def __init__(self, dtype: torch.dtype, max_grad_norm: float, device: torch.device | str) -> None:
        self.dtype = dtype
        self.max_grad_norm = max_grad_norm
        self.device = torch.device(device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def __call__(self, engine: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Run one iteration and return image, label, prediction and loss.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        engine.network.train()
        image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = engine.inferer(image, engine.network)
        loss = engine.loss_function(logits.float(), label)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at iteration {engine.state.iteration}; lower learning_rate")
        engine.output = {
            CommonKeys.IMAGE: image,
            CommonKeys.LABEL: label,
            CommonKeys.PRED: logits.detach(),
            CommonKeys.LOSS: value,
        }
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_grad_norm)
        self.scaler.step(engine.optimizer)
        self.scaler.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.output


class Budget:
    """How far training is, by epochs and, where a limit is set, by minutes; sets the learning rate and ends the run.

    The learning rate warms up linearly and then falls along half a cosine to 0 at the end of whichever budget runs out
    first, so that a run cut to minutes still ends annealed. Minutes include loading and validation, with some kept in
    reserve for the final one, and add up over resumed runs.

    A run limited by epochs is the same whenever it is repeated; one limited by minutes depends on the machine. Where
    several processes train together, the first one's clock counts for all.

    Args:
        optimizer: whose learning rate to set.
        learning_rate: the highest.
        warmup_iterations: iterations until it is reached.
        evaluator: the validation, whose time counts.
        max_minutes: wall-clock limit, None for no limit.
        started: when the minutes began, by :func:`time.monotonic`; None for now.

    Raises:
        ValueError: a limit that is not positive.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        learning_rate: float,
        warmup_iterations: int,
        evaluator: Engine,
        max_minutes: float | None = None,
        started: float | None = None,
    ) -> None:
        if max_minutes is not None and not max_minutes > 0:
            raise ValueError(f"max_minutes is {max_minutes}, expected a positive number or null")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate is {learning_rate}, expected a positive number")
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.warmup_iterations = warmup_iterations
        self.evaluator = evaluator
        self.max_minutes = max_minutes
        self._started = time.monotonic() if started is None else started
        self._minutes_before = 0.0

    def minutes(self) -> float:
        """Return the minutes used so far, those of resumed runs included."""
        return self._minutes_before + (time.monotonic() - self._started) / 60

    def progress(self, engine: Engine) -> float:
        """Return the share of the budget that is used, 0 to 1."""
        by_epochs = engine.state.iteration / max(1, engine.state.epoch_length * engine.state.max_epochs)
        if self.max_minutes is None:
            return min(1.0, by_epochs)
        validation = (self.evaluator.state.times.get(Events.COMPLETED.name) or 0.0) / 60
        usable = self.max_minutes * (1 - SHARE_RESERVE) - validation * VALIDATION_RESERVE
        used = min(1.0, max(by_epochs, self.minutes() / max(usable, 1e-6)))
        return used if idist.get_world_size() == 1 else float(idist.broadcast(used))

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_run)

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run has to know."""
        return {"minutes": self.minutes()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting from an earlier run's minutes."""
        self._minutes_before = float(state["minutes"])

    def _set_learning_rate(self, engine: Engine) -> None:
        warm = min(1.0, engine.state.iteration / max(1, self.warmup_iterations))
        rate = self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.progress(engine)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _out_of_time(self, engine: Engine) -> bool:
        return self.max_minutes is not None and self.progress(engine) >= 1

    def _end_epoch(self, engine: Engine) -> None:
        if self._out_of_time(engine):
            engine.terminate_epoch()

    def _end_run(self, engine: Engine) -> None:
        done = self.progress(engine)
        used = self.minutes()
        left = "" if done <= 0 else f", about {used / done - used:.1f} min left"
        logger.info("epoch %d: %.0f %% of the budget, %.1f min used%s", engine.state.epoch, 100 * done, used, left)
        if self._out_of_time(engine):
            logger.info("max_minutes reached, training ends")
            engine.terminate()


class EpochSeed:
    """Seed all generators at the start of each epoch from the run's seed and the epoch's number.

    What an epoch draws then depends on nothing before it, so a resumed run goes on as an unbroken one would. Processes
    that train together draw differently.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed torch on every device; nothing random in training draws from elsewhere."""
        mixed = np.random.SeedSequence((self.seed, engine.state.epoch, idist.get_rank()))
        torch.manual_seed(int(mixed.generate_state(1)[0]))

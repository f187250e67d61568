"""Weight files: reading them safely, checking that they fit, and saying which ones and what software they are."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import cardiac_cine
from cardiac_cine.errors import InputError
from cardiac_cine.files import sha256

# The key MONAI's CheckpointLoader looks under before it takes the file for a plain state_dict.
NESTED_KEY = "model"
_EXPECTED_WEIGHTS = "expected the network's state_dict as torch.save writes it"
_LISTED_KEYS = 3
_PACKAGES = ("monai", "torch", "numpy", "nibabel")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code from it.

    Where a file of its name and ".sha256" lies beside it, as ``sha256sum`` writes it, the checkpoint must match.

    Returns:
        What ``torch.save`` wrote: a state_dict, or a dictionary of several.

    Raises:
        InputError: the file is missing, unreadable, truncated, not the one that its checksum was made of, or holds
            anything but a dictionary of plain data.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, {_EXPECTED_WEIGHTS}")
    _verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes can lead the unpickler to any of them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as a checkpoint ({reason}), {_EXPECTED_WEIGHTS}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, {_EXPECTED_WEIGHTS}")
    return content


def load_weights(network: torch.nn.Module, path: Path, *, widen: bool = False) -> None:
    """Load a network's weights from a checkpoint, all of them and nothing else.

    Args:
        network: takes the weights, on its own device.
        path: a state_dict, or a dictionary that holds one under "model".
        widen: accept weights of a network that saw fewer neighbours of a slice; those it did not have no say at first.

    Raises:
        InputError: as :func:`load_checkpoint`, or keys, shapes or values that do not make this network.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get(NESTED_KEY, checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict but keys {_listed(list(checkpoint))}, {_EXPECTED_WEIGHTS}")
    expected = network.state_dict()
    if widen:
        state = {key: _widened(value, expected[key]) if key in expected else value for key, value in state.items()}
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    common = [key for key in expected if key in state]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in common
        if state[key].shape != expected[key].shape
    ]
    broken = [key for key in common if not torch.isfinite(state[key]).all()]
    found = {"lacks": missing, "holds unknown": unknown, "differs in shape:": shapes, "is not finite in": broken}
    problems = [
        f"{path}: {what} {_listed(keys)}, expected the weights of {type(network).__name__} as configured"
        for what, keys in found.items()
        if keys
    ]
    if problems:
        raise InputError(problems)
    network.load_state_dict(state)


def _widened(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a convolution of some input channels, a slice and its neighbours, as one of more that looks at these."""
    same_but_for_channels = weights.ndim == like.ndim == 4 and weights[:, :1].shape == like[:, :1].shape
    more = like.shape[1] - weights.shape[1] if same_but_for_channels else 0
    if more <= 0 or more % 2:
        return weights
    wide = torch.zeros_like(like, device=weights.device)
    wide[:, more // 2 : more // 2 + weights.shape[1]] = weights
    return wide


def checksum_file(path: Path) -> Path:
    """Return where the checksum of a weight file is kept; whoever replaces the weights removes it first."""
    return path.with_name(path.name + ".sha256")


def _verify(path: Path) -> None:
    checksum = checksum_file(path)
    if not checksum.is_file():
        return
    expected = checksum.read_text(encoding="utf-8", errors="replace").split()[:1]
    found = sha256(path)
    if expected != [found]:
        raise InputError(
            f"{path}: SHA-256 is {found}, expected {' '.join(expected) or 'one'} as in {checksum.name}; the file is"
            f" damaged, or was replaced and {checksum.name} is to go"
        )


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages that a result depends on."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"cardiac_cine": cardiac_cine.__version__, "python": platform.python_version(), **packages}


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED_KEYS} more" if len(items) > _LISTED_KEYS else ""
    return ", ".join(str(item) for item in items[:_LISTED_KEYS]) + more

"""Inference slice by slice on a window round the heart."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor

from cardiac_cine.labels import BACKGROUND
from cardiac_cine.levels import base_is_first
from cardiac_cine.slices import with_neighbours

# Logits where the network did not look: background, as sure as a softmax in single precision can be.
_SURE = 20.0
# Windows of the search overlap by this share, so that one of them holds the whole left ventricle.
_OVERLAP = 0.3


@dataclass(frozen=True)
class Window:
    """Where the network looks.

    Attributes:
        corner: indices along x and y, of an image padded to the window's size where it is smaller.
        turned: the stack goes through the network upside down, since its last slice lies nearer to the heart's base.
    """

    corner: tuple[int, int] = (0, 0)
    turned: bool = False


def window_size(crop_size: Sequence[int], filters: Sequence[int]) -> tuple[int, int]:
    """Return the size of the network's window along x and y, checked.

    Args:
        crop_size: in pixels of the network's grid.
        filters: of the network's levels; each but the first halves the window.

    Raises:
        ValueError: ``crop_size`` is not two numbers that can be halved so often.
    """
    levels = len(filters)
    multiple = 2 ** (levels - 1)
    if len(crop_size) != 2 or any(size < multiple or size % multiple for size in crop_size):
        raise ValueError(
            f"crop_size is {list(crop_size)}, expected two multiples of {multiple} for a network of {levels} levels"
        )
    return int(crop_size[0]), int(crop_size[1])


class HeartWindowInferer(Inferer):
    """Find the heart in a few slices, then run the network on a window round it in every slice, the base first.

    The network's normalisation depends on what else is in view: a window of the size it was trained on gives better
    masks than a whole slice, whatever the field of view or the empty border round the image, and takes half the time.
    Which end of a stack is the base cannot be read from every file, so the network's first look tells.

    Args:
        window_size: of the window along x and y, the crop size of training. A smaller image is padded with 0.
        batch_size: slices that go through the network at once.
        dtype: number format of the network's forward pass; float32 for none but full precision.
        context: neighbours on either side of a slice that the network sees with it, as in training.

    Raises:
        ValueError: ``batch_size`` is less than 1.
    """

    def __init__(
        self,
        window_size: Sequence[int],
        batch_size: int = 1,
        dtype: torch.dtype = torch.float32,
        context: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.window_size = (int(window_size[0]), int(window_size[1]))
        self.batch_size = batch_size
        self.dtype = dtype
        self.context = context

    def __call__(self, inputs: Tensor, network: Any, window: Window | None = None) -> Tensor:
        """Return logits (b, classes, x, y, z), float32, for images (b, 1, x, y, z); background beyond the window.

        Args:
            inputs: images.
            network: takes (n, 1 + 2 context, window x, window y).
            window: the same in all images and slices; None looks for each image's own.
        """
        # A stack of images that each remember their transforms would remember them in a form that no transform takes.
        plain = convert_to_tensor(inputs, track_meta=False)
        windows = [window or self.find(image, network) for image in plain]
        stacks = [self._slices(_turn(image, place)) for image, place in zip(plain, windows, strict=True)]
        parts = [self._cut(slices, place.corner) for slices, place in zip(stacks, windows, strict=True)]
        found = self._run(torch.cat(parts), network).split([len(part) for part in parts])
        pasted = (self._paste(*item, plain.shape[2:4]) for item in zip(found, windows, stacks, strict=True))
        return torch.stack([_turn(logits, place) for logits, place in zip(pasted, windows, strict=True)])

    def find(self, image: Tensor, network: Any) -> Window:
        """Return the window round the heart.

        The slices in the middle are searched in overlapping windows; the one with most of a heart in it is moved to the
        heart's middle, and once more to that of the heart in four slices, a quarter and half way from either end. Where
        the middle shows no heart, the four are searched. They also show where the base is.

        Args:
            image: (1, x, y, z).
            network: as for calling.

        Returns:
            The window; in the middle where no heart is found.
        """
        slices = self._slices(image)
        shape = slices.shape[2:]
        last = len(slices) - 1
        outer, inner = ({int(share * last), last - int(share * last)} for share in (0.25, 0.5))
        four = slices[sorted(outer | inner)]
        x_starts, y_starts = (_starts(n, window) for n, window in zip(shape, self.window_size, strict=True))
        corners = list(itertools.product(x_starts, y_starts))
        corner = self._inside([n / 2 for n in shape], shape)
        for searched in (slices[sorted(inner)], four) if len(corners) > 1 else ():
            looks = [(place, self._look(searched, network, place)) for place in corners]
            place, mask = max(looks, key=lambda look: int(look[1].count_nonzero()))
            if mask.any():
                corner = self._round(place, mask, shape)
                break
        mask = self._look(four, network, corner)
        turned = base_is_first(mask.movedim(0, -1).cpu().numpy()) is False
        return Window(self._round(corner, mask, shape) if mask.any() else corner, turned)

    def around_heart(self, image: Tensor, network: Any) -> Tensor:
        """Return the part of an image (1, x, y, z) in the window round the heart, the base first; see :meth:`find`."""
        window = self.find(image, network)
        x, y = window.corner
        return _turn(image[:, x : x + self.window_size[0], y : y + self.window_size[1]], window)

    def _look(self, slices: Tensor, network: Any, corner: tuple[int, int]) -> Tensor:
        """Return the likeliest labels in a window, (n, window x, window y)."""
        return self._run(self._cut(slices, corner), network).argmax(1)

    def _round(self, corner: tuple[int, int], mask: Tensor, shape: Sequence[int]) -> tuple[int, int]:
        """Return the corner of the window in the middle of the heart that was found in another."""
        heart = (mask != BACKGROUND).nonzero()[:, 1:].double()
        return self._inside([start + at + 0.5 for start, at in zip(corner, heart.mean(0).tolist(), strict=True)], shape)

    def _inside(self, middle: Sequence[float], shape: Sequence[int]) -> tuple[int, int]:
        x, y = (
            min(max(0, round(centre - window / 2)), n - window)
            for centre, window, n in zip(middle, self.window_size, shape, strict=True)
        )
        return x, y

    def _paste(self, found: Tensor, window: Window, slices: Tensor, size: Sequence[int]) -> Tensor:
        logits = found.new_full((*found.shape[:2], *slices.shape[2:]), -_SURE)
        logits[:, 0] = _SURE
        self._cut(logits, window.corner)[:] = found
        return logits[:, :, : size[0], : size[1]].movedim(0, -1)

    def _slices(self, image: Tensor) -> Tensor:
        """Return the image as (z, 1 + 2 context, x, y), at least as large as the window."""
        missing = [max(0, window - n) for window, n in zip(self.window_size, image.shape[1:3], strict=True)]
        return with_neighbours(F.pad(image.movedim(-1, 0), (0, missing[1], 0, missing[0])), self.context)

    def _cut(self, slices: Tensor, corner: tuple[int, int]) -> Tensor:
        x, y = corner
        return slices[:, :, x : x + self.window_size[0], y : y + self.window_size[1]]

    def _run(self, slices: Tensor, network: Any) -> Tensor:
        with torch.autocast(slices.device.type, self.dtype, enabled=self.dtype != torch.float32):
            parts = [network(part) for part in slices.split(self.batch_size)]
        return torch.cat(parts).float()


def _turn(stack: Tensor, window: Window) -> Tensor:
    """Return (..., z) as it goes through the network, or as it came."""
    return stack.flip(-1) if window.turned else stack


def _starts(length: int, window: int) -> list[int]:
    """Return where windows start that cover a length evenly with some overlap."""
    count = 1 + math.ceil(max(0, length - window) / ((1 - _OVERLAP) * window))
    return [round(index * (length - window) / max(1, count - 1)) for index in range(count)]

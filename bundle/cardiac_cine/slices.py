"""Frames as slices with their neighbours: what a 2D network sees."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from cardiac_cine.labels import STRUCTURE_IDS
from cardiac_cine.levels import base_is_first
from cardiac_cine.losses import leave_open


def with_neighbours(slices: torch.Tensor, context: int) -> torch.Tensor:
    """Return a stack's slices, each with those above and below it as further channels.

    Args:
        slices: (z, 1, x, y), one stack in order.
        context: neighbours on either side; with 0 every slice stays alone.

    Returns:
        (z, 1 + 2 context, x, y), the slice itself in the middle. A neighbour beyond the stack is 0.
    """
    padded = torch.nn.functional.pad(slices, (0,) * 6 + (context, context))
    return torch.cat([padded[shift : shift + len(slices)] for shift in range(2 * context + 1)], 1)


class SliceDataset(Dataset):
    """All labelled slices of all frames, preprocessed once and kept in memory, handed out in whole batches.

    A slice takes 3 bytes a pixel (half-precision image, 8-bit label), so all 1500 or so slices of an ACDC split fit in
    0.3 GB. A batch is one indexing operation, which keeps the loader out of the way of the network; random
    transforms follow on the batch, see :mod:`cardiac_cine.augmentation`.

    Args:
        data: one dictionary per frame with the keys ``image`` and ``label`` and, where its label is not complete, the
            ids of the ``structures`` that were drawn and the indices of the ``slices`` that were labelled. Other slices
            are seen as neighbours only; what the label leaves open is as in :func:`cardiac_cine.losses.leave_open`.
        transform: deterministic preprocessing from such a dictionary to ``image`` (1, x, y, z), float, about 0 to 1,
            and ``label`` (1, x, y, z), ids. All frames must come out with one in-plane size.
        context: neighbours on either side of a slice that it is handed out with, see :func:`with_neighbours`; those
            towards the base come first, as in inference. Where a label does not show the base, with slices or
            structures that were not labelled, too, half of the slices are handed out with their neighbours turned.

    Raises:
        ValueError: frames of different in-plane size, an image and its label of different shape, or a slice or
            structure that there is not.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        context: int = 0,
    ) -> None:
        self.data = data
        self.context = context
        self.transform = transform
        images: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        labelled: list[torch.Tensor] = []
        orders: list[bool | None] = []
        for entry in tqdm(data, desc="loading frames", unit="frame", disable=None):
            frame = transform(entry)
            image, label = torch.as_tensor(frame["image"]), torch.as_tensor(frame["label"])
            if image.shape != label.shape:
                raise ValueError(f"{entry['image']}: image {tuple(image.shape)} and label {tuple(label.shape)} differ")
            if images and image.shape[:-1] != images[0].shape[1:]:
                raise ValueError(
                    f"{entry['image']}: in-plane size {tuple(image.shape[1:-1])} after preprocessing, expected "
                    f"{tuple(images[0].shape[2:])} as for the frames before; pad or crop to one size"
                )
            chosen = torch.tensor(entry.get("slices") or range(image.shape[-1]))
            if chosen.min() < 0 or chosen.max() >= image.shape[-1]:
                raise ValueError(f"{entry['image']}: slices {chosen.tolist()} of {image.shape[-1]}, counted from 0")
            ids = label.movedim(-1, 0)[chosen].to(torch.uint8).as_subclass(torch.Tensor)
            labels.append(leave_open(ids, entry.get("structures", STRUCTURE_IDS)))
            whole = len(chosen) == image.shape[-1] and set(entry.get("structures", STRUCTURE_IDS)) == set(STRUCTURE_IDS)
            orders.append(base_is_first(label[0].numpy().astype(np.uint8)) if whole else None)
            labelled.append(chosen + sum(len(earlier) for earlier in images))
            images.append(image.movedim(-1, 0).half().as_subclass(torch.Tensor))
        # The last image is empty and stands for every neighbour that there is not.
        self.images = torch.cat([*images, torch.zeros_like(images[0][:1])])
        self.labels = torch.cat(labels)
        self.channels = torch.cat(list(self._channels([len(image) for image in images], orders)))[torch.cat(labelled)]
        self.either_way = torch.tensor([order is None for order in orders])[
            torch.repeat_interleave(torch.tensor([len(chosen) for chosen in labelled]))
        ]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one labelled slice: ``image`` (1 + 2 context, x, y) float32, ``label`` (1, x, y) uint8."""
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a batch: ``image`` (b, 1 + 2 context, x, y) float32, ``label`` (b, 1, x, y) uint8."""
        chosen = torch.as_tensor(indices)
        channels = self.channels[chosen]
        turned = self.either_way[chosen] & (torch.rand(len(chosen)) < 0.5)
        channels = torch.where(turned[:, None], channels.flip(1), channels)
        return {"image": self.images[channels, 0].float(), "label": self.labels[chosen]}

    def _channels(self, lengths: Sequence[int], orders: Sequence[bool | None]) -> Iterator[torch.Tensor]:
        """Yield for each stack where every channel of its slices lies in ``images``, as (z, 1 + 2 context)."""
        start = 0
        for length, first_is_base in zip(lengths, orders, strict=True):
            places = torch.arange(start, start + length)[:, None] + torch.arange(-self.context, self.context + 1)
            beyond = (places < start) | (places >= start + length)
            found = places.masked_fill(beyond, len(self.images) - 1)
            yield found.flip(1) if first_is_base is False else found
            start += length


def keep_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate nothing: :class:`SliceDataset` hands out whole batches already."""
    return batch

"""Frames as slices in memory: what a 2D network trains on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm


class SliceDataset(Dataset):
    """All slices of all frames, preprocessed once and kept in memory, handed out in whole batches.

    A slice takes 3 bytes a pixel (half-precision image, 8-bit label), so all 1500 or so slices of an ACDC split fit in
    0.3 GB. A batch is one indexing operation, which keeps the loader out of the way of the network; random
    transforms follow on the batch, see :mod:`cardiac_cine.augmentation`.

    Args:
        data: one dictionary per frame with the keys ``image`` and ``label``.
        transform: deterministic preprocessing from such a dictionary to ``image`` (1, x, y, z), float, about 0 to 1,
            and ``label`` (1, x, y, z), ids. All frames must come out with one in-plane size.
        progress: show a progress bar while loading.

    Raises:
        ValueError: frames of different in-plane size, or an image and its label of different shape.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        progress: bool = True,
    ) -> None:
        self.data = data
        self.transform = transform
        images: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        for entry in tqdm(data, desc="loading frames", unit="frame", disable=None if progress else True):
            frame = transform(entry)
            image, label = torch.as_tensor(frame["image"]), torch.as_tensor(frame["label"])
            if image.shape != label.shape:
                raise ValueError(f"{entry['image']}: image {tuple(image.shape)} and label {tuple(label.shape)} differ")
            if images and image.shape[:-1] != images[0].shape[1:]:
                raise ValueError(
                    f"{entry['image']}: in-plane size {tuple(image.shape[1:-1])} after preprocessing, expected "
                    f"{tuple(images[0].shape[2:])} as for the frames before; pad or crop to one size"
                )
            images.append(image.movedim(-1, 0).half().as_subclass(torch.Tensor))
            labels.append(label.movedim(-1, 0).to(torch.uint8).as_subclass(torch.Tensor))
        self.images = torch.cat(images)
        self.labels = torch.cat(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one slice: ``image`` (1, x, y) float32, ``label`` (1, x, y) uint8."""
        return {"image": self.images[index].float(), "label": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a batch: ``image`` (b, 1, x, y) float32, ``label`` (b, 1, x, y) uint8."""
        chosen = torch.as_tensor(indices)
        return {"image": self.images[chosen].float(), "label": self.labels[chosen]}


def keep_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate nothing: :class:`SliceDataset` hands out whole batches already."""
    return batch

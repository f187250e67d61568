"""The training loss, for labels in which not every structure was drawn.

A pixel that nobody drew on is background only if every structure was drawn. Otherwise it may also belong to any of
those that were not. Such a pixel's label is a code that says which classes stay open; all others keep their id.
"""

from collections.abc import Collection

import torch
from monai.losses import DiceCELoss
from torch import Tensor

from cardiac_cine.labels import BACKGROUND, NUM_CLASSES, STRUCTURE_IDS

# A code is this plus one bit for each class that is possible, bit 0 for background: 17 to 31, which fit 8 bits.
OPEN = 16
# As in MONAI's Dice loss.
_SMOOTH = 1e-5


def leave_open(label: Tensor, drawn: Collection[int]) -> Tensor:
    """Return a label in which background may be any structure that was not drawn.

    Args:
        label: ids, any shape.
        drawn: ids of the structures that were drawn; a structure among them that has no pixel is not there.

    Returns:
        The label itself where all were drawn, otherwise a copy with a code for every pixel of background.

    Raises:
        ValueError: ``drawn`` holds what is no structure's id.
    """
    unknown = sorted(set(drawn) - set(STRUCTURE_IDS))
    if unknown:
        raise ValueError(f"structures {unknown} were drawn, expected only {STRUCTURE_IDS}")
    missing = set(STRUCTURE_IDS) - set(drawn)
    if not missing:
        return label
    return label.masked_fill(label == BACKGROUND, OPEN + sum(1 << index for index in {BACKGROUND, *missing}))


class PartialDiceCELoss(torch.nn.Module):
    """Dice over the batch plus cross-entropy, each over what the label says for certain.

    Cross-entropy of an open pixel is minus the logarithm of the summed probabilities of its possible classes, the
    marginal loss; Dice of a class leaves out the pixels that may or may not be of it. Sources: G. Shi et al., "Marginal
    loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis 70, 2021, doi
    10.1016/j.media.2021.101979; L. Fidon et al., "Label-set loss functions for partial supervision", MICCAI 2021, doi
    10.1007/978-3-030-87196-3_60. A batch without open pixels goes through MONAI's own ``DiceCELoss``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.complete = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: (b, classes, ...).
            label: (b, 1, ...) ids and codes of :func:`leave_open`.
        """
        if label.max() < OPEN:
            return self.complete(logits, label)
        label = label.to(torch.uint8)
        classes = torch.arange(NUM_CLASSES, dtype=torch.uint8, device=label.device).view(1, -1, *[1] * (label.ndim - 2))
        target = label == classes
        possible = target | ((label >= OPEN) & (label.bitwise_right_shift(classes) & 1).bool())
        logarithms = logits.log_softmax(1)
        cross_entropy = -logarithms.masked_fill(~possible, -torch.inf).logsumexp(1).mean()
        # Left out: where a class is possible, but not certain.
        probabilities = logarithms.exp().masked_fill(possible ^ target, 0)
        pixels = [0, *range(2, logits.ndim)]
        common = probabilities.masked_fill(~target, 0).sum(pixels)
        sizes = probabilities.sum(pixels) + target.sum(pixels)
        dice = (2 * common + _SMOOTH) / (sizes + _SMOOTH)
        return 1 - dice.mean() + cross_entropy

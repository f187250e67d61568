"""Inference slice by slice in mixed precision."""

from typing import Any

import torch
from monai.inferers import SliceInferer


class AutocastSliceInferer(SliceInferer):
    """MONAI's slice-by-slice inference with autocast on any device; MONAI's evaluators know CUDA only.

    Args:
        dtype: number format of the network's forward pass; float32 for none but full precision.
        kwargs: as for :class:`monai.inferers.SliceInferer`.
    """

    def __init__(self, dtype: torch.dtype, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the network's output for every slice of ``inputs`` (b, c, x, y, z), in float32."""
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return super().__call__(inputs, network, *args, **kwargs).float()

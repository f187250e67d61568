"""Transforms that MONAI does not have."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import Flip, InvertibleTransform, MapTransform
from monai.utils import TraceKeys


class RightHandedd(MapTransform, InvertibleTransform):
    """Turn a stack upside down where its axes are left-handed; DICOM's, slices ascending, are right-handed.

    The first look, which tells where the heart and its base are, sees neighbours in this order: without it, the order
    in which a file happens to keep its slices would show in the masks.

    Args:
        keys: MetaTensors (c, x, y, z).
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)
        self._flip = Flip(spatial_axis=2)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each stack right-handed."""
        turned = dict(data)
        for key in self.key_iterator(turned):
            if torch.linalg.det(turned[key].affine[:3, :3].double()) < 0:
                turned[key] = self._flip(turned[key])
        return turned

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each stack as it was."""
        back = dict(data)
        for key in self.key_iterator(back):
            done = back[key].applied_operations
            if done and done[-1][TraceKeys.CLASS_NAME] == Flip.__name__:
                back[key] = self._flip.inverse(back[key])
        return back

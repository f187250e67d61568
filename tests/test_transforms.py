import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cardiac_cine.transforms import RightHandedd

AFFINE = np.array([[0, -2, 0, 5], [1.5, 0, 0, 6], [0, 0, 8, 7], [0, 0, 0, 1]], float)


@pytest.mark.parametrize("turned", [False, True])
def test_a_stack_comes_out_the_same_in_either_order_and_goes_back(turned):
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    affine = AFFINE.copy()
    stored = image
    if turned:
        stored = image.flip(-1)
        affine[:3, 2], affine[:3, 3] = -AFFINE[:3, 2], AFFINE[:3] @ (0, 0, 3, 1)
    transform = RightHandedd("image")
    found = transform({"image": MetaTensor(stored, affine=torch.from_numpy(affine)), "other": 1})
    torch.testing.assert_close(found["image"].as_tensor(), image)
    torch.testing.assert_close(found["image"].affine, torch.from_numpy(AFFINE))
    back = transform.inverse(found)
    torch.testing.assert_close(back["image"].as_tensor(), stored)
    torch.testing.assert_close(back["image"].affine, torch.from_numpy(affine))
    assert back["other"] == 1

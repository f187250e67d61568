"""A viewer's labelmap as a mask."""

import numpy as np
import pytest

from cardiac_cine.annotation.labelmaps import mask_from_planes
from cardiac_cine.errors import InputError

NAMES = {"1": "lv", "2": "myo", "7": "Right ventricular cavity"}
# (x, y, z) of 3 x 2 x 2, as a viewer holds it: x fastest, its planes from the other end of the stack.
DRAWN = bytes([1, 2, 0, 0, 0, 0, 7, 7, 0, 0, 0, 2])


def _mask(voxels=DRAWN, planes=("top", "bottom"), names=NAMES):
    return mask_from_planes(voxels, planes, names, images=("bottom", "top"), shape=(3, 2, 2))


def test_planes_go_by_their_images_and_values_by_name():
    expected = np.zeros((3, 2, 2), np.uint8)
    expected[:, 0, 1] = [3, 2, 0]
    expected[:, 0, 0] = [1, 1, 0]
    expected[2, 1, 0] = 2
    np.testing.assert_array_equal(_mask(), expected)
    np.testing.assert_array_equal(_mask(planes=("bottom", "top")), expected[:, :, ::-1])


def test_nothing_drawn_is_an_empty_mask():
    assert not _mask(bytes(12), names={}).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": ("top",)}, "planes: 1 UIDs, expected those of the 2 images"),
        ({"planes": ("top", "top")}, "planes: 2 UIDs, expected those of the 2 images, each once"),
        ({"planes": ("top", "other")}, "each once"),
        ({"voxels": DRAWN[:-1]}, "voxels: 11 bytes, expected 3 x 2 x 2"),
        ({"names": {"1": "lv", "7": "rv"}}, "value 2: drawn as '', expected one of rv, myo, lv"),
        ({"names": {**NAMES, "2": "liver"}}, "value 2: drawn as 'liver'"),
    ],
)
def test_what_is_no_mask_of_the_phase_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        _mask(**change)

import numpy as np
import pytest

from cardiac_cine.annotation.propagation import carry, carry_on, completed
from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.labels import LV, MYO, RV

SLICE = 1


@pytest.fixture(scope="module")
def phantom():
    """The first and the last three of 20 phases, in the order of the cycle."""
    spec = PhantomSpec(shape=(112, 128), spacing_mm=(2.0, 2.0, 12.0), phases=20, centre_mm=(0.0, 0.0))
    return render(spec, (17, 18, 19, 0, 1, 2, 3))


def spacing(phantom):
    return phantom.spec.spacing_mm


def spoilt(mask, how):
    mask = mask.copy()
    lost = {"rv": (RV,), "lv": (LV,), "heart": (RV, MYO, LV)}[how]
    mask[:, :, SLICE][np.isin(mask[:, :, SLICE], lost)] = MYO if how == "lv" else 0
    return mask


def dice(a, b):
    return np.mean([2 * ((a == s) & (b == s)).sum() / ((a == s).sum() + (b == s).sum()) for s in (RV, MYO, LV)])


@pytest.mark.parametrize("how", ["rv", "lv", "heart"])
@pytest.mark.parametrize("there", [2, 4])
def test_a_correction_moves_with_the_heart(phantom, how, there):
    """The network has lost a structure in two phases, and one of them is corrected."""
    here = 3
    images = phantom.image[..., here], phantom.image[..., there]
    network = spoilt(phantom.mask[..., here], how), spoilt(phantom.mask[..., there], how)
    carried = carry(images, phantom.mask[..., here], network, spacing(phantom))
    truth = phantom.mask[:, :, SLICE, there]
    assert dice(carried[:, :, SLICE], truth) > 0.95 > dice(network[1][:, :, SLICE], truth) + 0.1
    others = np.arange(carried.shape[2]) != SLICE
    np.testing.assert_array_equal(carried[..., others], network[1][..., others])


def test_nothing_corrected_nothing_changed(phantom):
    here, there = phantom.mask[..., 3], spoilt(phantom.mask[..., 4], "rv")
    carried = carry((phantom.image[..., 3], phantom.image[..., 4]), here, (here, there), spacing(phantom))
    np.testing.assert_array_equal(carried, there)
    assert carried is not there and carried.dtype == np.uint8


def test_where_the_network_was_right_little_is_lost(phantom):
    """A correction is carried to a phase that needs none."""
    here = spoilt(phantom.mask[..., 3], "rv")
    images = phantom.image[..., 3], phantom.image[..., 4]
    carried = carry(images, phantom.mask[..., 3], (here, phantom.mask[..., 4]), spacing(phantom))
    assert dice(carried[:, :, SLICE], phantom.mask[:, :, SLICE, 4]) > 0.95


def test_goes_both_ways_as_far_as_it_may(phantom):
    masks = [spoilt(phantom.mask[..., phase], "rv") for phase in range(7)]
    asked = []

    def segment(phase):
        asked.append(phase)
        return masks[phase]

    def reached(reach, stops=(), phase=3):
        asked.clear()
        label = phantom.mask[..., phase]
        found = carry_on(phantom.image, label, phase, reach, spacing(phantom), segment=segment, stops=stops)
        return dict(found)

    found = reached(2)
    assert list(found) == [4, 5, 2, 1] and asked == [3, 4, 5, 2, 1]
    for there, mask in found.items():
        assert dice(mask[:, :, SLICE], phantom.mask[:, :, SLICE, there]) > 0.9
    assert list(reached(2, stops=[5])) == [4, 2, 1]
    assert list(reached(2, stops=[2, 4])) == [] and asked == [3]
    assert list(reached(1, phase=0)) == [1, 6]  # the last phase precedes the first
    assert list(reached(4, stops=[5])) == [4, 2, 1, 0, 6]
    with pytest.raises(ValueError, match="reach must be 1 or more, got 0"):
        reached(0)


def test_a_partial_label_is_completed():
    automatic = np.zeros((6, 2, 2), np.uint8)
    automatic[0], automatic[1], automatic[2] = RV, MYO, LV
    label = np.zeros_like(automatic)
    label[3, :, 0] = LV  # the annotator's cavity is elsewhere, and takes the place of the network's
    label[1, 0, 0] = LV
    label[0, 0, 0] = MYO  # not covered: left out
    found = completed(label, automatic, structures=(LV,), slices=(0,))
    assert found[:, 0, 0].tolist() == [RV, LV, 0, LV, 0, 0]
    assert found[:, 1, 0].tolist() == [RV, MYO, 0, LV, 0, 0]
    np.testing.assert_array_equal(found[..., 1], automatic[..., 1])
    np.testing.assert_array_equal(completed(label, automatic), label)


def test_wrong_arguments(phantom):
    image, mask = phantom.image[..., 0], phantom.mask[..., 0]
    with pytest.raises(ValueError, match=r"automatic\[1\] holds label ids"):
        carry((image, image), mask, (mask, mask + 4), (2, 2, 12))
    with pytest.raises(ValueError, match="images and masks must have one shape"):
        carry((image, image[:-1]), mask, (mask, mask), (2, 2, 12))
    with pytest.raises(ValueError, match="label must have automatic's shape"):
        completed(mask[:-1], mask)

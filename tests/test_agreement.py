import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.networks.utils import one_hot

from cardiac_cine.agreement import Agreement, compare_masks
from cardiac_cine.labels import LV, MYO, NUM_CLASSES, RV, STRUCTURE_KEYS

SPACING_MM = (1.5, 2.0, 10.0)


def a_block(start: tuple[int, int, int], size: tuple[int, int, int], label: int = LV) -> np.ndarray:
    mask = np.zeros((12, 14, 8), np.uint8)
    mask[tuple(slice(low, low + length) for low, length in zip(start, size, strict=True))] = label
    return mask


def lv_of(prediction: np.ndarray, reference: np.ndarray) -> Agreement:
    return compare_masks(prediction, reference, SPACING_MM)[STRUCTURE_KEYS.index("lv")]


def distances(agreement: Agreement) -> tuple[float, float, float]:
    return agreement.hausdorff_mm, agreement.hd95_mm, agreement.assd_mm


@pytest.mark.parametrize(
    ("shift", "dice", "expected_mm"),
    [
        # Two single-slice plates of 4 x 4 voxels: moved along z, every voxel is so far from the other plate.
        ((0, 0, 0), 1.0, (0.0, 0.0, 0.0)),
        ((0, 0, 1), 0.0, (10.0, 10.0, 10.0)),
        ((0, 0, 3), 0.0, (30.0, 30.0, 30.0)),
        # Moved by one voxel in the plane, a quarter of the voxels is one spacing away from the other plate.
        ((1, 0, 0), 0.75, (1.5, 1.5, 0.375)),
        ((0, 1, 0), 0.75, (2.0, 2.0, 0.5)),
        # Moved by two, one quarter is one spacing away and one quarter two.
        ((0, 2, 0), 0.5, (4.0, 4.0, 1.5)),
    ],
)
def test_plates_moved_apart(shift, dice, expected_mm):
    found = lv_of(a_block((2 + shift[0], 2 + shift[1], 2 + shift[2]), (4, 4, 1)), a_block((2, 2, 2), (4, 4, 1)))
    assert found.dice == pytest.approx(dice)
    assert distances(found) == pytest.approx(expected_mm)


def test_only_surface_voxels_count():
    # A 4 x 4 x 4 cube hides 2 x 2 x 2 voxels. One slice lower its top plate of 16 is 10 mm off, and the others lie on
    # the reference's surface but for the 4 in the middle of the lowest plate, which lie on hidden voxels: the way out
    # is 1.5 mm along x. The same holds upwards.
    found = lv_of(a_block((2, 2, 1), (4, 4, 4)), a_block((2, 2, 2), (4, 4, 4)))
    assert found.dice == pytest.approx(0.75)
    assert found.hausdorff_mm == pytest.approx(10.0)
    assert found.assd_mm == pytest.approx((16 * 10.0 + 4 * 1.5) / 56)


def test_percentile_takes_the_worse_direction():
    # 40 voxels agree and one stray voxel lies 6 voxels along y: 12 mm for it, 0 mm for all others.
    reference = a_block((1, 1, 1), (10, 4, 1))
    prediction = reference.copy()
    prediction[1, 10, 1] = LV
    found = lv_of(prediction, reference)
    assert found.hausdorff_mm == pytest.approx(12.0)
    assert found.hd95_mm == 0.0
    assert found.assd_mm == pytest.approx(12.0 / 81)
    # With 5 strays among 45 voxels the percentile lies on the strays, from whichever side.
    prediction[1:11:2, 10, 1] = LV
    assert lv_of(prediction, reference).hd95_mm == pytest.approx(12.0)
    assert lv_of(reference, prediction).hd95_mm == pytest.approx(12.0)


def test_structures_at_the_image_border_have_a_surface_there():
    found = lv_of(a_block((0, 0, 0), (12, 14, 1)), a_block((0, 0, 0), (12, 14, 2)))
    assert found.hausdorff_mm == pytest.approx(10.0)


def test_volumes_and_order():
    prediction = a_block((1, 1, 1), (2, 3, 4), RV)
    reference = a_block((1, 1, 1), (2, 3, 2), RV)
    found = compare_masks(prediction, reference, SPACING_MM)
    assert tuple(agreement.structure for agreement in found) == STRUCTURE_KEYS
    assert found[0].volume_ml == pytest.approx(24 * 0.03)
    assert found[0].reference_volume_ml == pytest.approx(12 * 0.03)


def test_absent_from_both_is_undefined():
    found = lv_of(a_block((1, 1, 1), (2, 2, 2), RV), a_block((1, 1, 1), (2, 2, 2), MYO))
    assert all(math.isnan(value) for value in (found.dice, *distances(found)))
    assert (found.volume_ml, found.reference_volume_ml) == (0.0, 0.0)


@pytest.mark.parametrize("swap", [False, True])
def test_absent_from_one_has_no_overlap_and_no_distance(swap):
    masks = [a_block((1, 1, 1), (2, 2, 2)), np.zeros((12, 14, 8), np.uint8)]
    found = lv_of(*(masks[::-1] if swap else masks))
    assert found.dice == 0.0
    assert all(math.isnan(value) for value in distances(found))


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing_mm", "message"),
    [
        (
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 3), np.uint8),
            SPACING_MM,
            r"one shape, got \(4, 4, 4\) and \(4, 4, 3\)",
        ),
        (np.full((4, 4, 4), 5), np.zeros((4, 4, 4), int), SPACING_MM, r"prediction holds label ids \[5\]"),
        (np.zeros((4, 4, 4), int), np.full((4, 4, 4), 255), SPACING_MM, r"reference holds label ids \[255\]"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), SPACING_MM, "prediction must be a non-empty 3D array"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), SPACING_MM, "prediction must hold integer label ids"),
        (np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int), (1.5, 1.5), "spacing must be three positive numbers"),
    ],
)
def test_rejects(prediction, reference, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        compare_masks(prediction, reference, spacing_mm)


def from_monai(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Hausdorff distance, its 95th percentile and ASSD by MONAI's metrics, one row per structure."""
    pair = [one_hot(torch.from_numpy(mask.astype(int))[None, None], NUM_CLASSES) for mask in (prediction, reference)]
    return torch.cat(
        [
            compute_hausdorff_distance(*pair, spacing=spacing_mm),
            compute_hausdorff_distance(*pair, spacing=spacing_mm, percentile=95),
            compute_average_surface_distance(*pair, spacing=spacing_mm, symmetric=True),
        ]
    ).T.numpy()


def test_distances_are_those_of_monai():
    reference = np.zeros((24, 24, 6), np.uint8)
    reference[3:10, 4:20, 1:5] = RV
    reference[10:20, 5:18, 1:6] = MYO
    reference[12:18, 8:15, 1:5] = LV
    rng = np.random.default_rng(0)
    prediction = np.where(rng.random(reference.shape) < 0.1, np.roll(reference, (2, -1, 1), (0, 1, 2)), reference)
    found = compare_masks(prediction, reference, SPACING_MM)
    np.testing.assert_allclose(
        [distances(agreement) for agreement in found], from_monai(prediction, reference, SPACING_MM), rtol=1e-6
    )


@pytest.mark.acdc
def test_distances_on_a_real_frame_are_those_of_monai(acdc_dir):
    image = nib.load(acdc_dir / "training" / "patient001" / "patient001_frame01_gt.nii.gz")
    reference = np.asarray(image.dataobj)
    spacing_mm = tuple(map(float, image.header.get_zooms()))
    prediction = np.roll(reference, (2, 1, 1), (0, 1, 2))
    found = compare_masks(prediction, reference, spacing_mm)
    np.testing.assert_allclose(
        [distances(agreement) for agreement in found], from_monai(prediction, reference, spacing_mm), rtol=1e-6
    )

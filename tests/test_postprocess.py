import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from cardiac_cine import postprocess
from cardiac_cine.anatomy import degenerated_slices, exposed_lv, slice_faults
from cardiac_cine.datasets import acdc
from cardiac_cine.images import read_label
from cardiac_cine.labels import LV, MYO, RV, STRUCTURE_IDS
from cardiac_cine.levels import base_is_first
from cardiac_cine.postprocess import (
    MostLikelyd,
    RepairAnatomyd,
    largest_components,
    most_likely,
    repair,
    repair_slice,
    without_detached_slices,
    without_stray_ends,
)

SPACING = (1.5, 1.5, 8.0)


def disc(shape, centre, radius):
    x, y = np.ogrid[: shape[0], : shape[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def sound_slice(shape=(80, 80)):
    mask = np.zeros(shape, np.uint8)
    mask[disc(shape, (30, 40), 16)] = RV
    mask[disc(shape, (46, 40), 16)] = MYO
    mask[disc(shape, (46, 40), 10)] = LV
    return mask


def sound_heart(slices=4):
    return np.stack([sound_slice()] * slices, -1)


def with_open_ring(mask):
    mask[56:, 36:44][mask[56:, 36:44] == MYO] = 0
    return mask


def with_hole_in_lv(mask):
    mask[44:47, 39:42] = 0
    return mask


def with_island(mask):
    mask[5:10, 5:10] = RV
    return mask


def with_rv_against_lv(mask):
    mask[30:38, 37:43] = RV
    return mask


def with_fragments(mask):
    """An arc of wall with crumbs of LV inside, as a network leaves near the base."""
    mask[:] = 0
    ring = disc(mask.shape, (46, 40), 16) & ~disc(mask.shape, (46, 40), 12)
    ring[:44] = False
    mask[ring] = MYO
    mask[46:50, 32:36] = mask[48:54, 44:48] = LV
    return mask


BROKEN = [with_open_ring, with_hole_in_lv, with_island, with_rv_against_lv, with_fragments]


def test_a_sound_heart_stays_as_it_is():
    assert slice_faults(sound_slice(), SPACING[:2]) == ()
    np.testing.assert_array_equal(repair(sound_heart(), SPACING), sound_heart())


@pytest.mark.parametrize("break_slice", BROKEN)
def test_a_broken_slice_is_mended(break_slice):
    broken = break_slice(sound_slice())
    assert slice_faults(broken, SPACING[:2])
    mended = repair_slice(broken, SPACING[:2])
    assert slice_faults(mended, SPACING[:2]) == ()
    assert {LV, MYO} <= set(np.unique(mended))


@pytest.mark.parametrize("break_slice", BROKEN[:-1])
def test_mending_brings_back_the_sound_slice(break_slice):
    mended = repair_slice(break_slice(sound_slice()), SPACING[:2])
    for structure in STRUCTURE_IDS:
        found, truth = mended == structure, sound_slice() == structure
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95


@pytest.mark.parametrize("break_slice", BROKEN)
def test_a_heart_with_a_broken_slice_is_mended(break_slice):
    heart = sound_heart()
    heart[..., 1] = break_slice(heart[..., 1])
    mended = repair(heart, SPACING)
    assert degenerated_slices(mended, SPACING) == {}
    for structure in STRUCTURE_IDS:
        assert ndimage.label(mended == structure, np.ones((3, 3, 3)))[1] == 1
    # Without an RV in the broken slice, the RV above it is an island.
    intact = [2, 3] if break_slice is with_fragments else [0, 2, 3]
    np.testing.assert_array_equal(mended[..., intact], sound_heart()[..., intact])


def test_a_seam_between_heart_and_rv_goes_to_the_rv():
    seam = sound_slice()
    along_the_septum = disc(seam.shape, (46, 40), 18)
    along_the_septum[:, :30] = along_the_septum[:, 51:] = False
    seam[along_the_septum & (seam == RV)] = 0
    assert slice_faults(seam, SPACING[:2])
    np.testing.assert_array_equal(repair_slice(seam, SPACING[:2]), sound_slice())


def test_what_is_beyond_repair_is_cleared(monkeypatch):
    monkeypatch.setattr(postprocess, "_ROUNDS", 0)
    heart = sound_heart()
    heart[..., 3] = with_hole_in_lv(heart[..., 3])
    mended = repair(heart, SPACING)
    assert not mended[..., 3].any()
    np.testing.assert_array_equal(mended[..., :3], sound_heart(3))


def test_two_slices_are_no_course_to_stray_from():
    heart = sound_heart(2)
    heart[..., 1] = np.roll(sound_slice(), 25, axis=1) * (np.roll(sound_slice(), 25, axis=1) != RV)
    assert base_is_first(heart)
    np.testing.assert_array_equal(without_stray_ends(heart, SPACING[:2]), heart)


def test_noise_does_not_survive():
    noise = np.random.default_rng(0).integers(0, 4, (40, 40, 3)).astype(np.uint8)
    mended = repair(noise, SPACING)
    assert degenerated_slices(mended, SPACING) == {}
    assert not exposed_lv(mended).any()


def test_a_gap_too_small_to_be_a_fault_is_closed_too():
    heart = sound_heart()
    heart[disc((80, 80), (51, 40), 10), 1] = LV  # the wall is one pixel thin where it is farthest from the RV,
    heart[62, 40, 1] = 0  # and has a gap there
    assert slice_faults(heart[..., 1], SPACING[:2]) == ()
    assert np.argwhere(exposed_lv(heart)).tolist() == [[61, 40, 1]]
    closed = repair(heart, SPACING)
    assert closed[61, 40, 1] == MYO and not exposed_lv(closed).any()
    assert np.count_nonzero(closed != heart) == 1


def test_the_input_is_left_alone_and_empty_stays_empty():
    broken = np.stack([with_open_ring(sound_slice())] * 2, -1)
    before = broken.copy()
    repair(broken, SPACING)
    np.testing.assert_array_equal(broken, before)
    assert not repair(np.zeros((20, 20, 3), np.uint8), SPACING).any()


def test_components_that_share_a_corner_are_one():
    mask = np.zeros((4, 4, 2), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = LV
    mask[3, 3, 1] = LV
    kept = largest_components(mask)
    assert kept[0, 0, 0] == kept[1, 1, 1] == LV and kept[3, 3, 1] == 0


def test_transform_takes_the_spacing_from_the_affine():
    heart = sound_heart()
    heart[..., 1] = with_open_ring(heart[..., 1])
    mask = MetaTensor(torch.from_numpy(heart)[None].long(), affine=torch.diag(torch.tensor([*SPACING, 1.0])))
    result = RepairAnatomyd("pred")({"pred": mask, "image": "untouched"})
    assert result["pred"].dtype == torch.long and result["image"] == "untouched"
    np.testing.assert_array_equal(result["pred"][0].numpy(), repair(heart, SPACING))
    torch.testing.assert_close(result["pred"].affine, mask.affine)
    np.testing.assert_array_equal(mask[0].numpy(), heart)


def test_only_masks_are_taken():
    with pytest.raises(ValueError, match="3D"):
        repair(np.zeros((4, 4), np.uint8), SPACING)


def a_heart(basal_rows):
    """Probabilities of a heart whose RV has so many of 16 rows in its most basal slice, the second of six."""
    probabilities = np.zeros((4, 40, 40, 6), np.float32)
    for z in range(1, 6):
        size = 14 - z
        probabilities[MYO, 20 - size : 20 + size, 20 - size : 20 + size, z] = 1
        probabilities[LV, 23 - size : 17 + size, 23 - size : 17 + size, z] = 1
        probabilities[MYO, 23 - size : 17 + size, 23 - size : 17 + size, z] = 0
        if z < 5:
            probabilities[RV, 15 - size : 20 - size, 12 : 12 + (basal_rows if z == 1 else 16), z] = 1
    probabilities[0] = 1 - probabilities.sum(0)
    return probabilities


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("basal_rows", "kept"), [(16, True), (8, True), (7, False), (2, False)])
def test_a_small_rv_is_left_out_of_its_most_basal_slice(basal_rows, kept, turned):
    probabilities = a_heart(basal_rows)[..., :: -1 if turned else 1]
    mask = most_likely(np.ascontiguousarray(probabilities), 0.5)
    plain = probabilities.argmax(0)
    base = 4 if turned else 1
    assert (mask[..., base] == RV).any() == kept
    others = np.arange(6) != base
    np.testing.assert_array_equal(mask[..., others], plain[..., others])
    np.testing.assert_array_equal(mask == LV, plain == LV)
    np.testing.assert_array_equal(most_likely(np.ascontiguousarray(probabilities), 0.0), plain)


def test_an_island_is_not_the_base_of_the_rv():
    probabilities = a_heart(7)
    probabilities[:, 36:38, 36:38, 0] = np.array([0, 1, 0, 0])[:, None, None]
    mask = most_likely(probabilities, 0.5)
    assert not (mask[:20, :, 1] == RV).any()
    assert (mask[36:38, 36:38, 0] == RV).all()


def test_the_rv_keeps_a_slice_and_no_heart_stays_none():
    probabilities = a_heart(7)
    probabilities[0, ..., 2:] += probabilities[RV, ..., 2:]
    probabilities[RV, ..., 2:] = 0
    assert (most_likely(probabilities, 0.5) == RV).any(axis=(0, 1)).tolist() == [False, True] + [False] * 4
    empty = np.zeros((4, 8, 8, 3), np.float32)
    empty[0] = 1
    assert not most_likely(empty, 0.5).any()


def test_probabilities_become_a_mask_of_their_grid():
    affine = torch.diag(torch.tensor([1.5, 1.5, 8.0, 1.0], dtype=torch.float64))
    found = MetaTensor(torch.from_numpy(a_heart(7)), affine=affine)
    result = MostLikelyd("pred", min_basal_rv=0.5)({"pred": found, "image": "untouched"})
    assert result["pred"].shape == (1, 40, 40, 6) and result["image"] == "untouched"
    torch.testing.assert_close(result["pred"].affine, affine)
    np.testing.assert_array_equal(result["pred"][0].numpy(), most_likely(a_heart(7), 0.5))


@pytest.mark.parametrize("turned", [False, True])
def test_lv_and_wall_that_jump_aside_are_cleared_with_all_beyond(turned):
    mask = np.stack([sound_slice()] * 6, axis=-1)
    aside = np.roll(sound_slice(), 25, axis=1)
    mask[..., 4] = mask[..., 5] = aside
    mask = mask[..., :: -1 if turned else 1]
    found = without_detached_slices(mask)
    kept = slice(2, 6) if turned else slice(0, 4)
    np.testing.assert_array_equal(found[..., kept], mask[..., kept])
    gone = slice(0, 2) if turned else slice(4, 6)
    assert not np.isin(found[..., gone], (LV, MYO)).any()
    np.testing.assert_array_equal(found[..., gone] == RV, mask[..., gone] == RV)


def test_slices_that_are_shifted_a_little_or_get_smaller_stay():
    shifted = np.stack([np.roll(sound_slice(), step, axis=0) for step in (0, 4, 0, 4)], axis=-1)
    np.testing.assert_array_equal(without_detached_slices(shifted), shifted)
    apex = shifted.copy()
    apex[..., 3] = 0
    apex[36:44, 36:44, 3] = MYO
    np.testing.assert_array_equal(without_detached_slices(apex), apex)
    # One slice aside is for the repair of slices: the heart goes on beyond it.
    between = np.stack([sound_slice()] * 5, axis=-1)
    between[..., 3] = np.roll(sound_slice(), 25, axis=1)
    np.testing.assert_array_equal(without_detached_slices(between), between)
    assert not without_detached_slices(np.zeros((4, 4, 3), np.uint8)).any()


def narrowing_heart():
    """LV and wall that narrow from the first of six slices to the last, and the RV beside them."""
    mask = np.zeros((80, 80, 6), np.uint8)
    for z in range(6):
        mask[disc((80, 80), (30, 40), 18 - 2 * z), z] = RV
        mask[disc((80, 80), (46, 40), 20 - 2 * z), z] = MYO
        mask[disc((80, 80), (46, 40), 12 - 2 * z), z] = LV
    return mask


def with_arc_at_the_base(mask):
    mask[..., 0] = 0
    mask[disc((80, 80), (46, 40), 20) & ~disc((80, 80), (43, 40), 20), 0] = MYO
    return 0


def with_ring_round_the_apex_of_the_rv(mask):
    mask[..., 5] = 0
    mask[disc((80, 80), (24, 40), 20), 5] = MYO
    return 5


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("draw", [with_arc_at_the_base, with_ring_round_the_apex_of_the_rv])
def test_lv_and_wall_that_do_not_go_on_at_an_end_are_cleared(draw, turned):
    mask = narrowing_heart()
    end = draw(mask)
    mask[60:70, 10:20, end] = RV
    expected = mask.copy()
    expected[..., end][mask[..., end] == MYO] = 0
    order = slice(None, None, -1 if turned else 1)
    np.testing.assert_array_equal(without_stray_ends(mask[..., order], SPACING[:2]), expected[..., order])
    assert not np.isin(repair(mask[..., order], SPACING)[..., order][..., end], (LV, MYO)).any()


def test_a_heart_that_narrows_stays_whole():
    for mask in (narrowing_heart(), narrowing_heart()[..., :2], np.zeros((4, 4, 3), np.uint8)):
        np.testing.assert_array_equal(without_stray_ends(mask, SPACING[:2]), mask)
    # A slice that breathing has moved goes on beside the one above.
    moved = narrowing_heart()
    moved[..., 0] = np.roll(moved[..., 0], 10, axis=1)
    np.testing.assert_array_equal(without_stray_ends(moved, SPACING[:2]), moved)


@pytest.mark.acdc
def test_no_slice_that_an_expert_drew_is_beside_the_rest(acdc_dir):
    for case in acdc.scan(acdc_dir)[0].cases:
        label = read_label(case.label)
        drawn = label.array.astype(np.uint8)
        np.testing.assert_array_equal(without_detached_slices(drawn), drawn, err_msg=case.name)
        np.testing.assert_array_equal(without_stray_ends(drawn, label.spacing_mm[:2]), drawn, err_msg=case.name)

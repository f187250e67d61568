import numpy as np
import pytest
from test_postprocess import disc

from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.temporal import stabilise

PHASES = 12


def beating():
    """Three slices whose LV shrinks to end-systole and grows again; the first slice has an RV all along."""
    masks = np.zeros((48, 48, 3, PHASES), np.uint8)
    for phase in range(PHASES):
        radius = 11 - 4 * np.sin(np.pi * phase / PHASES) ** 2
        for z in range(3):
            masks[:, :, z, phase][disc((48, 48), (28, 24), radius + 4)] = MYO
            masks[:, :, z, phase][disc((48, 48), (28, 24), radius)] = LV
        masks[4:10, 10:40, 0, phase] = RV
    return masks


def test_a_steady_beat_stays_as_it_is():
    masks, replaced = stabilise(beating())
    assert replaced == ()
    np.testing.assert_array_equal(masks, beating())


@pytest.mark.parametrize("phase", [0, 5, PHASES - 1])
def test_a_slice_lost_in_one_phase_comes_back(phase):
    broken = beating()
    broken[:, :, 0, phase] = 0
    masks, replaced = stabilise(broken)
    assert replaced == ((0, phase),)
    before, after = beating()[:, :, 0, phase - 1], beating()[:, :, 0, (phase + 1) % PHASES]
    for structure in (RV, MYO, LV):
        np.testing.assert_array_equal(masks[:, :, 0, phase] == structure, (before == structure) & (after == structure))
    untouched = np.ones(PHASES, bool)
    untouched[phase] = False
    np.testing.assert_array_equal(masks[..., untouched], beating()[..., untouched])


def test_a_structure_found_in_one_phase_alone_goes():
    broken = beating()
    broken[4:10, 10:40, 2, 6] = RV
    masks, replaced = stabilise(broken)
    assert replaced == ((2, 6),)
    assert not (masks[:, :, 2] == RV).any()


def test_a_slice_that_leaves_the_ventricle_for_systole_is_no_jump():
    leaving = beating()
    leaving[:, :, 0, 4:8] = 0
    masks, replaced = stabilise(leaving)
    assert replaced == ()
    np.testing.assert_array_equal(masks, leaving)


def test_fast_motion_is_no_jump():
    # From phase 4 to 6 the RV grows from 60 to 180 pixels, and on the way, by 90 more, beyond: its own motion.
    moving = beating()
    for phase, columns in ((4, 10), (5, 45), (6, 30), (7, 30)):
        moving[4:10, :, 2, phase] = 0
        moving[4:10, :columns, 2, phase] = RV
    assert stabilise(moving)[1] == ()


def test_each_slice_is_decided_by_the_phases_as_they_were_segmented():
    # The RV of a slice shows in phase 5 alone, and from 7 on without a gap: 5 and 6 jump, side by side.
    broken = beating()
    for phase in (1, 2, 3, 4, 6):
        broken[4:10, 10:40, 0, phase] = 0
    masks, replaced = stabilise(broken)
    assert replaced == ((0, 5), (0, 6))
    assert not (masks[:, :, 0, 5] == RV).any()
    np.testing.assert_array_equal(masks[:, :, 0, 6] == RV, beating()[:, :, 0, 6] == RV)


def test_where_three_phases_differ_the_own_label_stays():
    broken = beating()
    broken[:, :, 0, 5] = 0
    broken[20, 2, 0, 4:7] = RV, LV, MYO
    masks, replaced = stabilise(broken)
    assert replaced == ((0, 5),)
    assert masks[20, 2, 0, 5] == LV


def test_few_phases_stay_as_they_are():
    broken = beating()[..., :7]
    broken[:, :, 0, 3] = 0
    assert stabilise(broken)[1] == ()


def test_only_masks_over_time_are_taken():
    with pytest.raises(ValueError, match="masks must be a non-empty 4D array"):
        stabilise(np.zeros((4, 4, 4), np.uint8))

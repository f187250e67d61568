from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardiac_cine.cine import Cine
from cardiac_cine.consistency import largest_jump
from cardiac_cine.datasets import open_datalist
from cardiac_cine.datasets.phantom import PhantomSpec, random_spec, render
from cardiac_cine.images import read_label
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.measurements import measure
from cardiac_cine.quality import CODES, MAX_JUMP, Flag, quality_flags

# Of 13 slices the LV shows in 2 to 12 at end-diastole, frame 0, and the RV in 2 to 11, counted from 1; end-systole is
# frame 7 and the heart leaves slice 2 on its way there.
SPEC = PhantomSpec(phases=20, shape=(112, 128), spacing_mm=(2.0, 2.0, 8.0))
ES = SPEC.es_frame


@pytest.fixture(scope="module")
def phantom():
    return render(SPEC)


@pytest.fixture
def masks(phantom):
    return phantom.mask.copy()


def flags_of(masks, affine, *, remarks=(), uncertainty=None, ed_frame=None, es_frame=None):
    cine = Cine("heart", Path("heart"), masks, affine, remarks=remarks)
    found = measure(masks, affine, ed_frame=ed_frame, es_frame=es_frame)
    return quality_flags(masks, cine, found, uncertainty=uncertainty)


def codes_of(flags):
    return [flag.code for flag in flags]


def test_a_sound_phantom_raises_nothing(phantom):
    assert flags_of(phantom.mask, phantom.affine) == ()


@pytest.mark.parametrize("seed", range(12))
def test_random_phantoms_raise_nothing(seed):
    spec = random_spec(seed, shape=(144, 160), spacing_mm=(2.0, 2.0, 10.0))
    phantom = render(spec, frames=(0, spec.es_frame))
    assert codes_of(flags_of(phantom.mask, phantom.affine)) == ["few_phases"]


@pytest.mark.parametrize(("phases", "shown"), [(12, 12), (15, 15), (20, 20), (30, 30), (15, 13), (25, 20), (40, 32)])
def test_smooth_curves_are_not_ragged(phases, shown):
    """Of a whole cycle, and of one that a prospectively gated cine cuts off."""
    limit = next(limit for fewest, limit in MAX_JUMP.items() if shown >= fewest)
    for seed in range(30):
        truth = random_spec(seed, phases=phases).truth()
        for curve in (truth.lv_volume_ml[:shown], truth.rv_volume_ml[:shown]):
            assert largest_jump(curve).ml < limit * max(curve)


def without_rv(masks):
    masks[masks == RV] = 0


def without_lv_at_es(masks):
    masks[..., ES][masks[..., ES] == LV] = MYO


def without_rv_in_one_slice_of_one_phase(masks):
    masks[:, :, 5, 12][masks[:, :, 5, 12] == RV] = 0


def with_a_blinking_apex(masks):
    apex = masks[:, :, 11, 0:20:3]
    apex[apex == LV] = MYO


def with_a_wide_phase(masks):
    masks[:, :, 2:6, 14][masks[:, :, 2:6, 14] == MYO] = LV


def with_a_shifted_slice(masks):
    masks[:, :, 6] = np.roll(masks[:, :, 6], 8, axis=0)  # 16 mm, less what a breath has shifted it before


def with_a_hole(masks):
    inside = np.argwhere(masks[:, :, 4, 0] == LV).mean(axis=0).round().astype(int)
    masks[inside[0], inside[1], 4, 0] = 0


def with_a_thick_wall_at_es(masks):
    frame = masks[..., ES]
    grown = np.array([np.roll(frame == MYO, step, axis=0) | np.roll(frame == MYO, step, axis=1) for step in (-3, 3)])
    frame[grown.any(axis=0) & (frame != LV) & (frame != RV)] = MYO


def with_a_stiff_rv(masks):
    frame, rv_at_ed = masks[:, :, 2:6, ES], masks[:, :, 2:6, 0] == RV
    frame[rv_at_ed & (frame == 0)] = RV


def without_lv_in_another_phase(masks):
    masks[..., 3][masks[..., 3] == LV] = MYO


@pytest.mark.parametrize(
    ("spoil", "code", "reason"),
    [
        (without_rv, "structure_missing", "The mask has no RV cavity in any phase."),
        (without_lv_at_es, "structure_missing", "The mask has no LV cavity at end-systole."),
        (
            without_lv_in_another_phase,
            "structure_missing",
            "The mask has no LV cavity in 1 of 20 phases; end-diastole and end-systole were looked for in the others.",
        ),
        (
            without_rv_in_one_slice_of_one_phase,
            "missing_between_slices",
            "The RV cavity is missing between slices that show it: slice 6 of 13 in phase 13.",
        ),
        (
            with_a_blinking_apex,
            "flickering_slice",
            "The LV cavity comes and goes more than once in the cycle: slice 12 of 13, 13 phases with it.",
        ),
        (with_a_wide_phase, "ragged_volume_curve", "The LV's volume in phase 15 of 20 lies "),
        (with_a_shifted_slice, "slice_motion", "At end-diastole slice 7 of 13 lies 15 mm off the line"),
        (
            with_a_hole,
            "implausible_slices",
            "The mask is anatomically implausible in slice 5 of 13 at end-diastole (hole in the LV cavity).",
        ),
        (with_a_thick_wall_at_es, "myocardial_volume_change", "The myocardium has 114 mL at end-diastole and "),
        (with_a_stiff_rv, "stroke_volume_mismatch", "The stroke volumes are apart by "),
    ],
)
def test_a_broken_mask_raises_its_flag(phantom, masks, spoil, code, reason):
    spoil(masks)
    found = [flag for flag in flags_of(masks, phantom.affine, ed_frame=0, es_frame=ES) if flag.code == code]
    assert len(found) == 1
    assert found[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("slices", "spacing_z_mm", "expected"),
    [
        (slice(6, None), 8.0, ["missing_base"]),
        (slice(None, 9), 8.0, ["missing_apex"]),
        (slice(3, 8), 8.0, ["missing_base", "missing_apex", "few_slices"]),
        (slice(1, None, 2), 16.0, ["unusual_spacing"]),
    ],
)
def test_what_the_stack_does_not_cover(phantom, slices, spacing_z_mm, expected):
    affine = np.diag([2.0, 2.0, spacing_z_mm, 1.0])
    for order in (slice(None), slice(None, None, -1)):
        cut = phantom.mask[:, :, slices][:, :, order]
        assert codes_of(flags_of(cut, affine)) == expected


def test_the_base_is_named_whichever_end_it_is(phantom):
    flipped = phantom.mask[:, :, :5:-1]
    (flag,) = flags_of(flipped, phantom.affine)
    assert flag.code == "missing_base"
    assert "slice 7 of 7, its most basal, still shows 100 % of the largest LV area" in flag.reason


def test_a_stack_that_looks_the_same_from_both_ends(phantom):
    masks = np.repeat(phantom.mask[:, :, 4:5], 7, axis=2)
    assert codes_of(flags_of(masks, phantom.affine)) == ["unknown_direction"]


@pytest.mark.parametrize(
    ("phases", "expected"), [(1, ["single_phase"]), (2, ["few_phases"]), (14, ["few_phases"]), (15, [])]
)
def test_few_phases(phases, expected):
    phantom = render(replace(SPEC, phases=max(phases, 2)))
    assert codes_of(flags_of(phantom.mask[..., :phases], phantom.affine)) == expected


def test_a_heart_that_does_not_move(phantom):
    masks = np.repeat(phantom.mask[..., :1], 20, axis=3)
    assert codes_of(flags_of(masks, phantom.affine)) == ["implausible_ef"] * 2


def test_a_cine_with_one_phase_segmented(phantom):
    masks = np.zeros_like(phantom.mask)
    masks[..., 4] = phantom.mask[..., 4]
    flags = flags_of(masks, phantom.affine)
    assert codes_of(flags)[:4] == ["structure_missing"] * 3 + ["single_phase"]
    assert flags[0].reason == "The mask has no RV cavity in 19 of 20 phases."
    assert flags[3].reason.startswith("No more than one phase shows the LV, taken for end-diastole")


def test_ejection_fractions_that_cannot_be(phantom):
    # A person has mixed up the frames.
    flags = flags_of(phantom.mask, phantom.affine, ed_frame=ES, es_frame=0)
    assert codes_of(flags) == ["negative_stroke_volume"] * 2
    assert flags[0].reason.startswith("The LV holds more at end-systole (")
    # The frame after end-diastole: next to nothing is ejected.
    flags = flags_of(phantom.mask, phantom.affine, ed_frame=0, es_frame=1)
    assert flags[0].code == "implausible_ef"
    assert flags[0].reason == "The LV's ejection fraction is 3 %, outside the plausible 5 to 85 %."


def test_empty_masks_say_no_more_than_that(phantom):
    flags = flags_of(np.zeros_like(phantom.mask), phantom.affine)
    assert codes_of(flags) == ["structure_missing"] * 3 + ["single_phase"]
    assert flags[1] == Flag("structure_missing", "The mask has no myocardium in any phase.")


@pytest.mark.parametrize(("x", "y"), [(2.6, 2.0), (2.0, 2.6)])
def test_coarse_pixels(phantom, x, y):
    (flag,) = flags_of(phantom.mask, np.diag([x, y, 8.0, 1.0]))
    assert flag == Flag(
        "unusual_spacing",
        f"The resolution is low: pixels of {x:g} x {y:g} mm and slices 8 mm apart, expected at most 2.5 mm and 12 mm.",
    )


def test_low_agreement_between_variants(phantom):
    found = flags_of(phantom.mask, phantom.affine, uncertainty={"lv": 0.97, "myo": 0.61, "rv": float("nan")})
    assert found == (
        Flag(
            "low_confidence",
            "The myocardium is uncertain: variants of the prediction overlap by a mean Dice of 0.61, expected 0.80 or "
            "more.",
        ),
    )


def test_the_readers_remarks_come_last_and_the_most_serious_first(phantom, masks):
    without_rv(masks)
    with_a_shifted_slice(masks)
    flags = flags_of(masks[..., :14], phantom.affine, remarks=("Two series were joined.", "Times are guessed."))
    assert [flag.reason for flag in flags[-2:]] == ["Two series were joined.", "Times are guessed."]
    assert codes_of(flags) == ["structure_missing", "slice_motion", "few_phases", "reading", "reading"]
    positions = [CODES.index(flag.code) for flag in flags]
    assert positions == sorted(positions)


def test_flags_are_deterministic_and_leave_their_input_alone(phantom, masks):
    with_a_blinking_apex(masks)
    before = masks.copy()
    assert flags_of(masks, phantom.affine) == flags_of(masks, phantom.affine)
    np.testing.assert_array_equal(masks, before)


@pytest.mark.parametrize(
    ("uncertainty", "message"),
    [({"aorta": 0.9}, "got 'aorta': 0.9"), ({"lv": 1.2}, "got 'lv': 1.2"), ({"lv": -0.1}, "values of 0 to 1")],
)
def test_uncertainty_is_checked(phantom, uncertainty, message):
    with pytest.raises(ValueError, match=message):
        flags_of(phantom.mask, phantom.affine, uncertainty=uncertainty)


def test_masks_and_measurements_must_fit_the_cine(phantom):
    cine = Cine("heart", Path("heart"), phantom.image, phantom.affine)
    found = measure(phantom.mask, phantom.affine)
    with pytest.raises(ValueError, match=r"cine's shape \(112, 128, 13, 20\), got \(112, 128, 12, 20\)"):
        quality_flags(phantom.mask[:, :, 1:], cine, found)
    with pytest.raises(ValueError, match="masks must be a non-empty 4D array"):
        quality_flags(phantom.mask[..., 0], cine, found)
    with pytest.raises(ValueError, match=r"measurements.es_frame must be from 0 to 19, got 20"):
        quality_flags(phantom.mask, cine, replace(found, es_frame=20))


@pytest.mark.acdc
def test_experts_seldom_raise_a_flag(acdc_dir):
    frames = {}
    for case in open_datalist(acdc_dir).cases:
        frames.setdefault(case.patient, []).append(read_label(case.label))
    raised = dict.fromkeys(CODES, 0)
    for ed, es in frames.values():
        masks = np.stack([ed.array, es.array], axis=-1)
        for code in set(codes_of(flags_of(masks, ed.affine, ed_frame=0, es_frame=1))):
            raised[code] += 1
    assert {code: count for code, count in raised.items() if count} == {
        "implausible_ef": 3,
        "missing_base": 6,
        "missing_apex": 3,
        "implausible_slices": 2,
        "myocardial_volume_change": 6,
        "stroke_volume_mismatch": 6,
        "slice_motion": 5,
        "few_phases": 100,
    }

import math

import numpy as np
import pytest

from cardiac_cine.agreement import Agreement
from cardiac_cine.evaluation import (
    LEVEL_BINS,
    FrameResult,
    Overlap,
    SliceFinding,
    degeneration,
    ejection_agreement,
    ejections,
    evaluate_frame,
    group_cells,
    level_cells,
    summary_cells,
    worst_first,
)
from cardiac_cine.labels import LV, MYO, RV, STRUCTURE_KEYS

NAN = math.nan
# Rows are x and columns y. A pixel is 3 mm2 and a voxel 0.03 mL.
SPACING_MM = (1.5, 2.0, 10.0)
LETTERS = {".": 0, "R": RV, "M": MYO, "L": LV}

BASE = """
    ..........
    .RMMMMM...
    RRMLLLM...
    RRMLLLM...
    RRMLLLM...
    .RMMMMM...
    ..........
"""
APEX = BASE.replace("R", ".")
EMPTY = """
    ..........
    ..........
    ..........
    ..........
    ..........
    ..........
    ..........
"""
# A free pixel in the middle of the LV.
HOLE = """
    ..........
    .RMMMMM...
    RRMLLLM...
    RRML.LM...
    RRMLLLM...
    .RMMMMM...
    ..........
"""
# A lone pixel of RV, which the criteria as printed refuse and the calibrated ones let pass.
SPECK = """
    ..........
    .RMMMMM...
    RRMLLLM.R.
    RRMLLLM...
    RRMLLLM...
    .RMMMMM...
    ..........
"""
BARE = """
    ..........
    ..........
    ...LLL....
    ...LLL....
    ...LLL....
    ..........
    ..........
"""


def a_mask(*slices: str) -> np.ndarray:
    pictures = [[[LETTERS[letter] for letter in line] for line in picture.split()] for picture in slices]
    return np.moveaxis(np.array(pictures, np.uint8), 0, -1)


def an_agreement(structure: str, dice: float = 0.9, **fields: float) -> Agreement:
    defaults = dict.fromkeys(("hausdorff_mm", "hd95_mm", "assd_mm"), NAN)
    return Agreement(structure, dice, **{**defaults, "volume_ml": 50.0, "reference_volume_ml": 50.0, **fields})


def a_result(case: str = "p1_ED", dice: tuple[float, float, float] = (0.9, 0.8, 0.7), **fields) -> FrameResult:
    """A frame's result, its patient and phase taken from its name; Dice of RV, MYO and LV."""
    patient, _, phase = case.partition("_")
    agreements = tuple(an_agreement(key, value) for key, value in zip(("rv", "myo", "lv"), dice, strict=True))
    defaults = {"agreements": agreements, "degenerated": (), "degenerated_naive": 0, "reference_degenerated": 0}
    defaults |= {"pieces": 0, "open_rings": 0, "reference_open_rings": 0}
    defaults |= {"group": "NOR", "levels": (0.0, 0.5, 1.0), "overlaps": ((Overlap(8, 10, 10),) * 3,) * 3}
    return FrameResult(case, patient, phase, **{**defaults, **fields})


def with_volumes(case: str, lv: tuple[float, float], rv: tuple[float, float], group: str = "NOR") -> FrameResult:
    """A frame of these volumes, predicted and reference."""
    agreements = tuple(
        an_agreement(key, volume_ml=pair[0], reference_volume_ml=pair[1])
        for key, pair in (("rv", rv), ("myo", (90.0, 95.0)), ("lv", lv))
    )
    return a_result(case, agreements=agreements, group=group)


def about(case: str = "p1_ED") -> dict[str, str]:
    return {"case": case, "patient": "p1", "phase": "ED", "group": "DCM"}


def test_a_perfect_frame():
    mask = a_mask(BASE, BASE, APEX)
    found = evaluate_frame(mask, mask.copy(), SPACING_MM, about())
    assert (found.pieces, found.open_rings, found.reference_open_rings) == (0, 0, 0)
    assert (found.case, found.patient, found.phase, found.group) == ("p1_ED", "p1", "ED", "DCM")
    assert [agreement.structure for agreement in found.agreements] == ["rv", "myo", "lv"]
    # 8 pixels of RV in two slices, 16 of myocardium and 9 of LV in three.
    assert [agreement.volume_ml for agreement in found.agreements] == pytest.approx([0.48, 1.44, 0.81])
    assert {agreement.dice for agreement in found.agreements} == {1.0} == {found.mean_dice}
    assert (found.degenerated, found.degenerated_naive, found.reference_degenerated) == ((), 0, 0)
    assert found.levels == (0.0, 0.5, 1.0)


def test_a_degenerated_slice_is_found_with_its_level_and_reason():
    found = evaluate_frame(a_mask(BASE, HOLE, APEX), a_mask(BASE, BASE, APEX), SPACING_MM, about())
    assert found.degenerated == (SliceFinding(1, 0.5, ("hole in the LV cavity",), reference_too=False),)
    assert (found.degenerated_naive, found.reference_degenerated) == (1, 0)
    assert [agreement.dice for agreement in found.agreements] == pytest.approx([1.0, 1.0, 2 * 26 / 53])
    assert found.mean_dice == pytest.approx((2 + 52 / 53) / 3)


def test_an_experts_slice_may_fail_too():
    reference = a_mask(HOLE, HOLE, APEX)
    found = evaluate_frame(a_mask(HOLE, BASE, APEX), reference, SPACING_MM, about())
    assert [(finding.index, finding.reference_too) for finding in found.degenerated] == [(0, True)]
    assert found.reference_degenerated == 2


def test_naive_criteria_find_more():
    found = evaluate_frame(a_mask(EMPTY, SPECK, APEX), a_mask(BASE, BASE, APEX), SPACING_MM, about())
    assert (found.degenerated, found.degenerated_naive, found.pieces) == ((), 1, 1)


def test_a_slice_beyond_the_reference_has_no_level():
    prediction, reference = a_mask(BARE, BASE, BASE, APEX), a_mask(EMPTY, BASE, BASE, APEX)
    found = evaluate_frame(prediction, reference, SPACING_MM, about())
    assert [(finding.index, finding.reasons) for finding in found.degenerated] == [
        (0, ("LV cavity touching the background",))
    ]
    assert (found.open_rings, found.reference_open_rings) == (1, 0)
    assert math.isnan(found.degenerated[0].level)
    np.testing.assert_equal(found.levels, (NAN, 0.0, 0.5, 1.0))


def test_a_stack_from_apex_to_base():
    found = evaluate_frame(a_mask(APEX, BASE, HOLE), a_mask(APEX, BASE, BASE), SPACING_MM, about())
    assert found.levels == (1.0, 0.5, 0.0)
    assert (found.degenerated[0].index, found.degenerated[0].level) == (2, 0.0)


def test_empty_masks():
    found = evaluate_frame(a_mask(EMPTY, EMPTY), a_mask(EMPTY, EMPTY), SPACING_MM, {"case": "x"})
    assert (found.case, found.patient, found.phase, found.group) == ("x", "x", "", "")
    assert math.isnan(found.mean_dice)
    assert found.degenerated == ()
    assert all(math.isnan(level) for level in found.levels)
    lost = evaluate_frame(a_mask(EMPTY, EMPTY), a_mask(APEX, APEX), SPACING_MM, {"case": "x"})
    assert lost.mean_dice == 0.0  # of LV and myocardium; neither mask has an RV


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing_mm", "message"),
    [
        # The slice too many is degenerated, and its level would have to be looked up.
        (
            a_mask(BASE, APEX, HOLE),
            a_mask(BASE, APEX),
            SPACING_MM,
            r"prediction and reference must have one shape, got \(7, 10, 3\) and \(7, 10, 2\)",
        ),
        (a_mask(BASE) + 3, a_mask(BASE), SPACING_MM, r"prediction holds label ids \[3, 4, 5, 6\]"),
        (a_mask(BASE), a_mask(BASE) * 1.0, SPACING_MM, "reference must hold integer label ids, got float64"),
        (a_mask(BASE)[..., 0], a_mask(BASE), SPACING_MM, "prediction must be a non-empty 3D array"),
        (a_mask(BASE), a_mask(BASE), SPACING_MM[:2], "spacing must be three positive numbers in mm"),
    ],
)
def test_a_frame_that_cannot_be_compared_is_refused(prediction, reference, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        evaluate_frame(prediction, reference, spacing_mm, about())


def test_mean_dice_leaves_out_what_is_undefined():
    assert a_result(dice=(NAN, 0.5, 0.7)).mean_dice == pytest.approx(0.6)
    assert math.isnan(a_result(dice=(NAN, NAN, NAN)).mean_dice)


def test_worst_first():
    results = [
        a_result("good", (0.9, 0.9, 0.9)),
        a_result("none", (NAN, NAN, NAN)),
        a_result("bad", (0.0, 0.1, 0.2)),
        a_result("half", (NAN, 0.5, 0.5)),
    ]
    assert [result.case for result in worst_first(results)] == ["none", "bad", "half", "good"]
    assert [result.case for result in results] == ["good", "none", "bad", "half"]


def two_frames() -> list[FrameResult]:
    """Two frames at ED: in the second the LV was not found, and there is no RV."""
    first = (
        an_agreement("rv", 0.8, hausdorff_mm=12.0, hd95_mm=8.0, assd_mm=2.0),
        an_agreement("myo", 0.85, hausdorff_mm=7.0, hd95_mm=4.0, assd_mm=1.0),
        an_agreement("lv", 0.9, hausdorff_mm=6.0, hd95_mm=3.0, assd_mm=0.5),
    )
    second = (
        an_agreement("rv", NAN, volume_ml=0.0, reference_volume_ml=0.0),
        an_agreement("myo", 0.75, hausdorff_mm=9.0, hd95_mm=4.0, assd_mm=2.0),
        an_agreement("lv", 0.0, volume_ml=0.0),
    )
    return [a_result("p1_ED", agreements=first), a_result("p2_ED", agreements=second)]


def test_summary_of_two_frames():
    cells = summary_cells(two_frames())
    assert [(cell.phase, cell.structure) for cell in cells] == [("ED", "lv"), ("ED", "rv"), ("ED", "myo")]
    lv, rv, myo = cells
    root = math.sqrt(0.5)  # standard deviation of two values, per unit between them

    def fields(summary):
        return tuple(vars(summary).values())

    assert fields(lv.dice) == pytest.approx((0.45, 0.9 * root, 2, 0))
    assert fields(lv.hausdorff_mm) == pytest.approx((6.0, NAN, 1, 1), nan_ok=True)
    assert fields(lv.hd95_mm) == pytest.approx((3.0, NAN, 1, 1), nan_ok=True)
    assert fields(lv.assd_mm) == pytest.approx((0.5, NAN, 1, 1), nan_ok=True)
    assert fields(rv.dice) == pytest.approx((0.8, NAN, 1, 1), nan_ok=True)
    assert fields(myo.dice) == pytest.approx((0.8, 0.1 * root, 2, 0))
    assert fields(myo.hausdorff_mm) == pytest.approx((8.0, 2 * root, 2, 0))
    assert fields(myo.hd95_mm) == pytest.approx((4.0, 0.0, 2, 0))
    assert fields(myo.assd_mm) == pytest.approx((1.5, root, 2, 0))
    assert [cell.empty_predictions for cell in cells] == [1, 0, 0]


def test_summary_has_a_phase_of_its_own_for_frames_without():
    results = [a_result("p1_ES", (0.1, 0.2, 0.3)), a_result("p2", (0.4, 0.5, 0.6)), a_result("p1_ED", (0.7, 0.8, 0.9))]
    assert [(cell.phase, cell.structure, cell.dice.mean) for cell in summary_cells(results)] == [
        ("ED", "lv", 0.9),
        ("ED", "rv", 0.7),
        ("ED", "myo", 0.8),
        ("ES", "lv", 0.3),
        ("ES", "rv", 0.1),
        ("ES", "myo", 0.2),
        ("", "lv", 0.6),
        ("", "rv", 0.4),
        ("", "myo", 0.5),
    ]
    assert [cell.phase for cell in summary_cells(results[:1])] == ["ES"] * 3
    assert summary_cells([]) == []


def three_patients() -> list[FrameResult]:
    """Two patients with ED and ES, and one whose ES is missing."""
    return [
        with_volumes("p1_ED", lv=(120.0, 100.0), rv=(150.0, 160.0), group="DCM"),
        with_volumes("p2_ES", lv=(40.0, 44.0), rv=(90.0, 60.0)),
        with_volumes("p3_ED", lv=(100.0, 100.0), rv=(100.0, 100.0)),
        with_volumes("p1_ES", lv=(48.0, 50.0), rv=(75.0, 40.0), group="DCM"),
        with_volumes("p2_ED", lv=(100.0, 110.0), rv=(0.0, 120.0)),
    ]


def test_ejections():
    found = ejections(three_patients())
    assert [(one.patient, one.group, one.cavity) for one in found] == [
        ("p1", "DCM", "lv"),
        ("p1", "DCM", "rv"),
        ("p2", "NOR", "lv"),
        ("p2", "NOR", "rv"),
    ]
    numbers = [tuple(vars(one).values())[3:] for one in found]
    assert numbers[0] == pytest.approx((120, 48, 60, 100, 50, 50))
    assert numbers[1] == pytest.approx((150, 75, 50, 160, 40, 75))
    assert numbers[2] == pytest.approx((100, 40, 60, 110, 44, 60))
    # An RV that was not found at ED has no ejection fraction.
    assert numbers[3] == pytest.approx((0, 90, NAN, 120, 60, 50), nan_ok=True)


def test_a_cavity_that_a_mask_lacks_at_end_systole_has_no_ejection_fraction():
    frames = [
        with_volumes("p1_ED", lv=(120.0, 100.0), rv=(150.0, 160.0)),
        with_volumes("p1_ES", lv=(0.0, 50.0), rv=(75.0, 0.0)),
    ]
    lv, rv = ejections(frames)
    assert (lv.esv_ml, lv.ef_percent, lv.reference_ef_percent) == pytest.approx((0, NAN, 50), nan_ok=True)
    assert (rv.ef_percent, rv.reference_ef_percent) == pytest.approx((50, NAN), nan_ok=True)
    assert ejection_agreement([lv, rv], "lv", "ef_percent").n == 0


def test_agreement_of_ejection_fractions_and_volumes():
    found = ejections(three_patients())
    lv_ef = ejection_agreement(found, "lv", "ef_percent")  # differences 10 and 0
    assert (lv_ef.n, lv_ef.bias, lv_ef.sd, lv_ef.mean_absolute) == pytest.approx((2, 5, math.sqrt(50), 5))
    assert math.isnan(lv_ef.r)  # both predictions are 60 %
    rv_ef = ejection_agreement(found, "rv", "ef_percent")
    assert (rv_ef.n, rv_ef.bias) == pytest.approx((1, -25))
    lv_edv = ejection_agreement(found, "lv", "edv_ml")  # 20 and -10
    assert (lv_edv.n, lv_edv.bias, lv_edv.mean_absolute, lv_edv.r) == pytest.approx((2, 5, 15, -1))
    rv_esv = ejection_agreement(found, "rv", "esv_ml")  # 35 and 30
    assert (rv_esv.n, rv_esv.bias) == pytest.approx((2, 32.5))
    assert ejection_agreement([], "lv", "ef_percent").n == 0


def test_degeneration_counts_by_level():
    def finding(level, reference_too=False):
        return SliceFinding(0, level, ("hole in the LV cavity",), reference_too)

    results = [
        a_result(
            "p1_ED",
            degenerated=(finding(0.0, reference_too=True), finding(0.55), finding(NAN)),
            degenerated_naive=4,
            reference_degenerated=1,
            levels=(NAN, 0.0, 0.55, 1.0),
        ),
        a_result("p1_ES", degenerated=(finding(1.0),), degenerated_naive=1),
        a_result("p2_ED", reference_degenerated=2),
    ]
    found = degeneration(results)
    assert LEVEL_BINS == 10
    assert found.degenerated == (1, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    # Levels 0, 0.55 and 1 of the first frame and 0, 0.5 and 1 of the two others.
    assert found.slices == (3, 0, 0, 0, 0, 3, 0, 0, 0, 3)
    assert (found.beyond, found.frames, found.naive) == (1, 2, 5)
    assert (found.reference, found.worse_than_reference) == (3, 3)
    nothing = degeneration([])
    assert (nothing.degenerated, nothing.slices, nothing.frames) == ((0,) * 10, (0,) * 10, 0)


def test_overlaps_count_the_pixels_of_each_slice():
    found = evaluate_frame(a_mask(BASE, HOLE, APEX), a_mask(BASE, BASE, APEX), SPACING_MM, about())
    assert len(found.overlaps) == 3
    assert found.overlaps[0] == tuple(Overlap(n, n, n) for n in (8, 16, 9))
    assert [overlap.common for overlap in found.overlaps[1]][2] == found.overlaps[1][2].predicted == 8
    assert found.overlaps[1][2].reference == 9


def test_groups_are_summarised_over_both_phases():
    results = [a_result("p1_ED", (1.0, 0.8, 0.6)), a_result("p1_ES", (0.5, 0.8, 0.6)), a_result("p2_ED", group="DCM")]
    cells = group_cells(results)
    assert [(cell.group, cell.structure) for cell in cells] == [(g, s) for g in ("DCM", "NOR") for s in STRUCTURE_KEYS]
    assert [cell.dice.n for cell in cells] == [1, 1, 1, 2, 2, 2]
    assert [cell.dice.mean for cell in cells] == pytest.approx([0.9, 0.8, 0.7, 0.75, 0.8, 0.6])


def test_levels_pool_the_pixels_of_all_frames():
    absent = Overlap(0, 0, 0)
    first = a_result(levels=(0.0, 0.4, NAN), overlaps=(((Overlap(8, 10, 10), absent, absent)),) * 3)
    second = a_result(levels=(1.0, 0.2), overlaps=((absent,) * 3, (Overlap(0, 0, 10), absent, absent)))
    cells = {(cell.level, cell.structure): cell for cell in level_cells([first, second])}
    assert len(cells) == 12
    # Two slices at the base, 8 pixels in common of 10 + 10 and 0 + 10; the apex has none.
    assert (cells["base", "rv"].slices, cells["base", "rv"].dice) == (2, pytest.approx(16 / 30))
    assert (cells["middle", "rv"].slices, cells["middle", "rv"].dice) == (1, 0.8)
    assert (cells["beyond", "rv"].slices, cells["beyond", "rv"].dice) == (1, 0.8)
    assert cells["apex", "rv"].slices == 0 and math.isnan(cells["apex", "rv"].dice)
    assert math.isnan(cells["base", "lv"].dice)

import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cardiac_cine.anatomy import (
    CALIBRATED,
    NAIVE,
    Criterion,
    Tolerances,
    degenerated_slices,
    slice_faults,
    slice_measures,
)
from cardiac_cine.labels import LV, MYO, RV

# Rows are x and columns y. A pixel is 3 mm2; an edge between two rows is 2 mm long, one between two columns 1.5 mm.
SPACING_MM = (1.5, 2.0)
LETTERS = {".": 0, "R": RV, "M": MYO, "L": LV}

HEALTHY = """
    ..............
    ......MMMM....
    ..RRRMMMMMM...
    .RRRMMMLLMMM..
    .RRRMMLLLLMM..
    .RRRMMLLLLMM..
    .RRRMMMLLMMM..
    ..RRRMMMMMM...
    ......MMMM....
    ..............
"""


def draw(picture: str) -> np.ndarray:
    return np.array([[LETTERS[letter] for letter in line] for line in picture.split()], np.uint8)


def redraw(letter: str, *pixels: tuple[int, int]) -> np.ndarray:
    """The healthy heart with some pixels changed, two rows and columns away from the image's border."""
    mask = draw(HEALTHY)
    for x, y in pixels:
        mask[x, y] = LETTERS[letter]
    return np.pad(mask, 2)


def names(mask: np.ndarray, tolerances: Tolerances, spacing_mm: tuple[float, float] = SPACING_MM) -> set[str]:
    return {criterion.name for criterion in slice_faults(mask, spacing_mm, tolerances=tolerances)}


@pytest.mark.parametrize("tolerances", [NAIVE, CALIBRATED])
@pytest.mark.parametrize(
    "mask",
    [
        np.pad(draw(HEALTHY), 2),
        draw(HEALTHY),
        np.zeros((6, 7), np.uint8),
        draw("..... ..R.. ....."),  # a single pixel
        draw("..... .MM.. .MM.. ....."),  # an apical slice without cavities
        np.where(draw(HEALTHY) == RV, RV, 0).astype(np.uint8),
        np.where(draw(HEALTHY) == RV, 0, draw(HEALTHY)).astype(np.uint8),
    ],
)
def test_healthy_and_incomplete_slices_pass(mask, tolerances):
    assert slice_faults(mask, SPACING_MM, tolerances=tolerances) == ()


# Changed pixels, the criterion they concern, its measure, and all that fails with either tolerance.
EDITS = {
    "hole in LV": (redraw(".", (4, 7)), "LV_HOLE", 3.0, {"LV_HOLE"}, {"LV_HOLE"}),
    # By its corner the wall still reaches the pixel, so it is no island of it.
    "myocardium in LV": (redraw("M", (4, 7)), "LV_HOLE", 3.0, {"LV_HOLE"}, {"LV_HOLE"}),
    "hole in RV": (redraw(".", (4, 2), (5, 2)), "RV_HOLE", 6.0, {"RV_HOLE"}, {"RV_HOLE"}),
    "hole in wall": (redraw(".", (2, 6)), "MYO_HOLE", 3.0, {"MYO_HOLE"}, {"MYO_HOLE"}),
    "LV in two halves": (
        redraw("M", (3, 7), (3, 8), (4, 7), (4, 8), (5, 7), (5, 8), (6, 7), (6, 8)),
        "LV_ISLANDS",
        6.0,
        {"LV_ISLANDS"},
        {"LV_ISLANDS"},
    ),
    "RV speck": (redraw("R", (0, 2)), "RV_ISLANDS", 3.0, {"RV_ISLANDS"}, set()),
    "RV blob": (redraw("R", (0, 2), (0, 1)), "RV_ISLANDS", 6.0, {"RV_ISLANDS"}, {"RV_ISLANDS"}),
    "wall speck": (redraw("M", (0, 12)), "MYO_ISLANDS", 3.0, {"MYO_ISLANDS"}, set()),
    "wall blob": (redraw("M", (0, 12), (0, 13)), "MYO_ISLANDS", 6.0, {"MYO_ISLANDS"}, {"MYO_ISLANDS"}),
    "gap under LV": (redraw(".", (3, 7)), "LV_MYO_GAP", 3.0, {"LV_MYO_GAP"}, {"LV_MYO_GAP"}),
    "gap at septum": (redraw(".", (4, 3)), "RV_MYO_GAP", 3.0, {"RV_MYO_GAP"}, set()),
    "long gap at septum": (
        redraw(".", (3, 3), (4, 3), (5, 3), (6, 3)),
        "RV_MYO_GAP",
        12.0,
        {"RV_MYO_GAP"},
        {"RV_MYO_GAP"},
    ),
    "pinhole in septum": (redraw("L", (4, 4), (4, 5)), "LV_RV_CONTACT", 1.5, {"LV_RV_CONTACT"}, set()),
    "septum open": (
        redraw("L", (4, 4), (4, 5), (5, 4), (5, 5)),
        "LV_RV_CONTACT",
        3.0,
        {"LV_RV_CONTACT"},
        {"LV_RV_CONTACT"},
    ),
    "wall thins out": (redraw("L", (4, 10), (4, 11)), "LV_BACKGROUND_CONTACT", 1.5, {"LV_BACKGROUND_CONTACT"}, set()),
    "wall open over an arc": (
        # Four edges to the right, 1.5 mm each, and one up and one down at the corners, 2 mm each.
        redraw("L", *((x, y) for x in range(3, 7) for y in range(9, 12))),
        "LV_BACKGROUND_CONTACT",
        10.0,
        {"LV_BACKGROUND_CONTACT"},
        {"LV_BACKGROUND_CONTACT"},
    ),
}


@pytest.mark.parametrize(("mask", "name", "measure", "naive", "calibrated"), EDITS.values(), ids=EDITS.keys())
def test_one_change_to_a_healthy_slice(mask, name, measure, naive, calibrated):
    assert slice_measures(mask, SPACING_MM)[Criterion[name]] == pytest.approx(measure)
    assert names(mask, NAIVE) == naive
    assert names(mask, CALIBRATED) == calibrated


@pytest.mark.parametrize("tolerances", [NAIVE, CALIBRATED])
def test_rv_floating_away(tolerances):
    heart = np.pad(draw(HEALTHY), 4)
    mask = np.where(heart == RV, 0, heart)
    mask[:, :-2][heart[:, 2:] == RV] = RV
    # Two pixels to the left leave one free along y, between the RV's corners and the wall.
    assert slice_measures(mask, SPACING_MM)[Criterion.RV_APART] == pytest.approx(2.0)
    assert names(mask, tolerances) == {"RV_APART"}


@pytest.mark.parametrize("tolerances", [NAIVE, CALIBRATED])
def test_lv_without_wall_and_ring_without_lv(tolerances):
    heart = np.pad(draw(HEALTHY), 2)
    bare = np.where(heart == MYO, 0, heart).astype(np.uint8)
    assert names(bare, tolerances) == {"LV_BACKGROUND_CONTACT"}
    ring = np.where(heart == LV, 0, heart).astype(np.uint8)
    assert slice_measures(ring, SPACING_MM)[Criterion.MYO_HOLE] == pytest.approx(12 * 3.0)
    assert names(ring, tolerances) == {"MYO_HOLE"}


def test_corners_do_not_touch():
    # A wall one pixel wide runs down the diagonal: 8-connected, and no path for blood through it.
    mask = draw("RRM RML MLL")
    measures = slice_measures(mask, SPACING_MM)
    assert measures[Criterion.LV_RV_CONTACT] == 0.0
    assert measures[Criterion.MYO_ISLANDS] == 0.0
    assert measures[Criterion.RV_APART] == 0.0


def a_notched_square(label: int, size: int, notch: int, around: int = 0) -> np.ndarray:
    """A square of one structure, a slit two pixels wide and so many pixels deep in its upper side."""
    mask = np.full((size + 8, size + 8), around, np.uint8)
    mask[4:-4, 4:-4] = label
    mask[4 : 4 + notch, 3 + size // 2 : 5 + size // 2] = around
    return np.pad(mask, 2)


@pytest.mark.parametrize(
    ("mask", "name", "depth_mm", "naive", "calibrated"),
    [
        # The hull's upper side runs through the square's first row, so a notch of n rows is n - 1 rows of 1.5 mm deep.
        (a_notched_square(LV, 12, 3, MYO), "LV_CONCAVITY", 3.0, False, False),
        (a_notched_square(LV, 12, 4, MYO), "LV_CONCAVITY", 4.5, True, False),
        (a_notched_square(LV, 12, 5, MYO), "LV_CONCAVITY", 6.0, True, True),
        (a_notched_square(RV, 60, 21), "RV_CONCAVITY", 30.0, False, False),
        (a_notched_square(RV, 60, 22), "RV_CONCAVITY", 31.5, True, False),
        (a_notched_square(RV, 60, 23), "RV_CONCAVITY", 33.0, True, True),
        (a_notched_square(MYO, 12, 1), "MYO_CONCAVITY", 0.0, False, False),
        (a_notched_square(MYO, 12, 2), "MYO_CONCAVITY", 1.5, True, False),
        (a_notched_square(MYO, 12, 4), "MYO_CONCAVITY", 4.5, True, True),
    ],
)
def test_concavity(mask, name, depth_mm, naive, calibrated):
    assert slice_measures(mask, SPACING_MM)[Criterion[name]] == pytest.approx(depth_mm)
    assert names(mask, NAIVE) == ({name} if naive else set())
    assert names(mask, CALIBRATED) == ({name} if calibrated else set())


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5), (0.7, 0.7), (1.0, 1.95)])
def test_a_digitised_ellipse_is_convex(spacing_mm):
    x, y = np.mgrid[-30:31, -30:31]
    mask = np.where((x / 25.3) ** 2 + (y / 18.1) ** 2 <= 1, MYO, 0).astype(np.uint8)
    assert slice_measures(mask, spacing_mm)[Criterion.MYO_CONCAVITY] == 0.0


def test_circularity_of_shapes():
    # Outlines run half way between pixel centres and cut corners: a strip of n pixels along y at 1 mm has the area
    # n - 1/2 and the perimeter 2 (n - 1) + 2 sqrt(2).
    strip = np.zeros((7, 30), np.uint8)
    strip[2:5, 4:26], strip[3, 5:25] = MYO, LV
    expected = 4 * math.pi * 19.5 / (38 + math.sqrt(8)) ** 2
    assert slice_measures(strip, (1.0, 1.0))[Criterion.LV_CIRCULARITY] == pytest.approx(expected)
    assert names(strip, NAIVE, (1.0, 1.0)) == names(strip, CALIBRATED, (1.0, 1.0)) == {"LV_CIRCULARITY"}
    # The contour round that strip is 3 pixels wide and passes; the same strip of myocardium does not.
    strip = np.where(strip == LV, MYO, 0).astype(np.uint8)
    assert names(strip, NAIVE, (1.0, 1.0)) == names(strip, CALIBRATED, (1.0, 1.0)) == {"MYO_CIRCULARITY"}
    # Pixels ten times as long along x: ten times the area, and four cut corners of 5 by 0.5 mm.
    expected = 4 * math.pi * 195 / (38 + 4 * math.hypot(5, 0.5)) ** 2
    assert slice_measures(strip, (10.0, 1.0))[Criterion.MYO_CIRCULARITY] == pytest.approx(expected)


@pytest.mark.parametrize("tolerances", [NAIVE, CALIBRATED])
@pytest.mark.parametrize(
    "view",
    [
        np.s_[:, 8:],  # the LV touches the image's border, and the wall runs out of view
        np.s_[:, :8],
        np.s_[4:6, :],  # the wall in two pieces that join out of view
        np.s_[5:, 2:],
    ],
)
def test_what_the_field_of_view_cuts_is_no_fault(view, tolerances):
    mask = draw(HEALTHY)[view]
    assert mask.any()
    assert names(mask, tolerances) == set()


def test_background_that_leaves_the_view_is_no_hole():
    measures = slice_measures(draw("MM.MM MM.MM MM.MM MMMMM MMMMM"), SPACING_MM)
    assert measures[Criterion.MYO_HOLE] == 0.0
    assert measures[Criterion.MYO_CONCAVITY] == pytest.approx(3.0)


def test_every_criterion_has_a_reason_and_a_tolerance():
    assert len(Criterion) == 16
    assert len({criterion.reason for criterion in Criterion}) == 16
    for criterion in Criterion:
        assert hasattr(NAIVE, criterion.tolerance)
        assert not criterion.fails(math.nan, NAIVE)


@pytest.mark.parametrize(
    ("mask", "spacing_mm", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), (1, 1), r"mask must be a non-empty 2D array, got shape \(4, 4, 4\)"),
        (np.full((4, 4), 7), (1, 1), r"mask holds label ids \[7\]"),
        (np.zeros((4, 4)), (1, 1), "mask must hold integer label ids, got float64"),
        (np.zeros((4, 4), int), (1, 1, 1), "spacing_mm must be 2 positive numbers in mm"),
        (np.zeros((4, 4), int), (1, math.nan), "spacing_mm must be 2 positive numbers in mm"),
    ],
)
def test_slices_reject(mask, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        slice_faults(mask, spacing_mm)


def test_degenerated_slices_of_a_frame():
    good, hole, speck = redraw("."), redraw(".", (4, 7)), redraw("R", (0, 2))
    mask = np.stack([np.zeros_like(good), speck, good, hole], axis=-1)
    assert degenerated_slices(mask, (*SPACING_MM, 10.0)) == {3: (Criterion.LV_HOLE,)}
    assert degenerated_slices(mask, (*SPACING_MM, 10.0), tolerances=NAIVE) == {
        1: (Criterion.RV_ISLANDS,),
        3: (Criterion.LV_HOLE,),
    }
    assert degenerated_slices(np.zeros_like(mask), (*SPACING_MM, 10.0)) == {}
    with pytest.raises(ValueError, match="spacing_mm must be 3 positive numbers in mm"):
        degenerated_slices(mask, SPACING_MM)
    with pytest.raises(ValueError, match="mask must be a non-empty 3D array"):
        degenerated_slices(good, (*SPACING_MM, 10.0))


def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    image = nib.load(path)
    return np.asarray(image.dataobj), tuple(map(float, image.header.get_zooms()))


@pytest.mark.acdc
def test_expert_masks_pass_when_calibrated(acdc_dir):
    paths = sorted((acdc_dir / "training").glob("patient*/*_gt.nii.gz"))
    assert len(paths) == 200
    slices, naive, calibrated = 0, 0, []
    for path in paths:
        mask, spacing_mm = read(path)
        for z in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
            slices += 1
            measures = slice_measures(mask[..., z], spacing_mm[:2])
            naive += any(criterion.fails(measures[criterion], NAIVE) for criterion in Criterion)
            if any(criterion.fails(measures[criterion], CALIBRATED) for criterion in Criterion):
                calibrated.append((path.name, z))
    assert slices == 1841
    assert naive == 449
    # A basal ring open over 23 mm, and a seam of 25 mm2 between RV and septum.
    assert calibrated == [("patient029_frame01_gt.nii.gz", 0), ("patient096_frame01_gt.nii.gz", 1)]


@pytest.mark.acdc
def test_a_spoilt_expert_slice_fails_when_calibrated(acdc_dir):
    mask, spacing_mm = read(acdc_dir / "training" / "patient001" / "patient001_frame01_gt.nii.gz")
    expert, in_plane_mm = mask[..., 4], spacing_mm[:2]
    assert slice_faults(expert, in_plane_mm) == ()
    lv, rv, myo = expert == LV, expert == RV, expert == MYO
    x, y = np.argwhere(lv).mean(axis=0).round().astype(int)

    def spoil(label: int, where: np.ndarray) -> set[str]:
        return names(np.where(where, label, expert).astype(np.uint8), CALIBRATED, in_plane_mm)

    centre = np.zeros_like(lv)
    centre[x, y] = True
    assert spoil(0, centre) == {"LV_HOLE"}
    far = np.zeros_like(lv)
    far[2:4, 2:4] = True
    assert spoil(LV, far) == {"LV_ISLANDS", "LV_BACKGROUND_CONTACT"}
    assert spoil(RV, far) == {"RV_ISLANDS"}
    assert spoil(MYO, far) == {"MYO_ISLANDS"}
    # A quarter of the wall is missing, the septum is filled with blood from the right, and the RV has drifted off.
    rows, columns = np.indices(lv.shape)
    assert "LV_BACKGROUND_CONTACT" in spoil(0, myo & (rows > x) & (columns > y))
    to_rv = np.argwhere(rv).mean(axis=0) - (x, y)
    septum = myo & ((rows - x) * to_rv[0] + (columns - y) * to_rv[1] > 0)
    assert "LV_RV_CONTACT" in spoil(RV, septum)
    drifted = np.where(rv, 0, expert).astype(np.uint8)
    drifted[np.roll(rv, np.sign(to_rv).astype(int) * 8, axis=(0, 1))] = RV
    assert names(drifted, CALIBRATED, in_plane_mm) == {"RV_APART"}


def save(path: Path, slices: list[np.ndarray]) -> None:
    """Write a mask of 64 x 64 pixels at 1.5 mm and slices 10 mm apart."""
    mask = np.stack(slices, axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.pad(mask, ((20, 30), (20, 26), (0, 0))), np.diag([1.5, 1.5, 10.0, 1.0])), path)


def calibrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[1] / "scripts" / "calibrate_criteria.py"
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_calibration_script_counts_what_passes(tmp_path):
    good, speck, hole = redraw("."), redraw("R", (0, 2)), redraw(".", (4, 7))
    empty, apex = np.zeros_like(good), np.where(good == RV, 0, good)
    save(tmp_path / "in" / "a" / "a_gt.nii.gz", [empty, good, speck, apex])
    save(tmp_path / "in" / "b" / "b_gt.nii.gz", [apex, apex, hole, good])
    done = calibrate(str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "criteria.json").read_text())
    assert (result["frames"], result["slices"]) == (2, 7)
    assert result["slice_0_is"] == {"base": 1, "apex": 1, "undecided": 0}
    assert (result["naive"]["slices_accepted"], result["naive"]["frames_accepted"]) == (5, 0)
    assert (result["calibrated"]["slices_accepted"], result["calibrated"]["frames_accepted"]) == (6, 1)
    assert result["calibrated"]["rejected"] == [
        {"case": "b/b", "slice": 2, "level": pytest.approx(1 / 3), "measures": {"LV_HOLE": 2.25}}
    ]
    assert result["criteria"]["RV_ISLANDS"]["worst"] == 2.25
    text = (tmp_path / "out" / "criteria.txt").read_text()
    assert text in done.stdout
    assert "- b/b slice 2, level 0.33: hole in the LV cavity (2.25 mm2)" in text


def test_calibration_script_lists_wrong_input(tmp_path):
    done = calibrate(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no *_gt.nii.gz below it" in done.stderr
    for name in ("a", "b"):
        save(tmp_path / f"{name}_gt.nii.gz", [redraw(".") * 2, redraw(".")])
    done = calibrate(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    for name in ("a", "b"):
        assert f"{name}_gt.nii.gz: holds label values 4, 6" in done.stderr

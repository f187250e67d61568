import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.ndimage import binary_dilation, binary_fill_holes, label

from cardiac_cine import cases
from cardiac_cine.datasets import acdc, phantom
from cardiac_cine.datasets.phantom import GROUPS, PhantomSpec, random_spec, render
from cardiac_cine.datasets.phantom_heart import Heart, crescent_area, crescent_disc, lens_area
from cardiac_cine.datasets.phantom_spec import activation
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.measurements import ef_percent, volumes_ml

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_phantom.py"
CLINICAL = [(1.4, 1.4, 8.0), (1.4, 1.4, 10.0), (1.2, 1.8, 9.0)]
SMALL = PhantomSpec(shape=(120, 130), spacing_mm=(1.8, 2.0, 12.0), phases=6, centre_mm=(0.0, 0.0))


@pytest.fixture(scope="module")
def small():
    return render(SMALL)


@pytest.mark.parametrize(
    ("first", "second", "distance", "area"),
    [
        (1, 1, 3, 0),
        (1, 1, 2, 0),
        (1, 1, 0, np.pi),
        (1, 5, 2, np.pi),
        (5, 1, 4, np.pi),
        (1, 1, 1, 2 * np.pi / 3 - np.sqrt(3) / 2),
        # A right angle between the radii: two sectors less the kite of the radii.
        (3, 4, 5, 9 * np.arccos(3 / 5) + 16 * np.arccos(4 / 5) - 12),
    ],
)
def test_lens_area_of_hand_computed_discs(first, second, distance, area):
    assert lens_area(first, second, distance) == pytest.approx(area, abs=1e-12)


def test_crescent_disc_crosses_the_circle_at_the_angle():
    # Through (0, 1), (0, -1) and (2, 0): centre 0.75, radius 1.25.
    centre, radius = crescent_disc(np.array(1.0), np.array(1.0), np.array(np.pi / 2))
    assert (centre, radius) == pytest.approx((0.75, 1.25))
    shared = lens_area(1.25, 1.0, 0.75)
    assert crescent_area(np.array(1.0), np.array(1.0), np.array(np.pi / 2)) == pytest.approx(np.pi * 1.25**2 - shared)
    assert crescent_area(np.array(0.0), np.array(1.0), np.array(1.0)) == pytest.approx(0)


def test_activation_of_a_hand_computed_cycle():
    # 4 frames of systole, 8 of diastole: half contracted halfway, 0.24 left in diastasis, before the atrial kick.
    effort = activation(12, 4)
    assert effort[[0, 2, 4, 8, 9]] == pytest.approx([0, 0.5, 1, 0.24, 0.24])
    assert (np.diff(effort[:5]) > 0).all()
    assert (np.diff(effort[4:]) <= 0).all()
    assert 0 < effort[11] < 0.24


@pytest.mark.parametrize("phases", [2, 3, 30, 200])
def test_activation_peaks_once(phases):
    spec = PhantomSpec(phases=phases)
    effort = activation(phases, spec.es_frame)
    assert np.flatnonzero(effort == 1).tolist() == [spec.es_frame]
    assert np.flatnonzero(effort == 0).tolist() == [0]


def test_truth_of_hand_computed_volumes():
    spec = PhantomSpec(
        lv_edv_ml=140, lv_ef_percent=60, rv_edv_ml=150, rv_ef_percent=56, lv_mass_g=126, heart_rate_bpm=60
    )
    truth = spec.truth()
    assert (truth.ed_frame, truth.es_frame) == (0, 7)
    assert (truth.lv_edv_ml, truth.lv_esv_ml) == pytest.approx((140, 56))
    assert (truth.rv_edv_ml, truth.rv_esv_ml) == pytest.approx((150, 66))
    assert truth.myo_volume_ml == pytest.approx(120)
    assert int(np.argmin(truth.lv_volume_ml)) == int(np.argmin(truth.rv_volume_ml)) == 7
    assert spec.frame_time_s == pytest.approx(0.05)
    assert json.loads(json.dumps(truth.to_dict()))["lv_volume_ml"][7] == pytest.approx(56)


@pytest.mark.parametrize("group", GROUPS)
def test_areas_integrate_to_the_volumes(group):
    spec = random_spec(3, group, phases=4)
    heart, truth = Heart(spec), spec.truth()
    for phase in range(spec.phases):
        for area, volume in (
            (heart.lv_area_mm2, truth.lv_volume_ml[phase]),
            (heart.epi_area_mm2, truth.lv_volume_ml[phase] + truth.myo_volume_ml),
            (heart.rv_area_mm2, truth.rv_volume_ml[phase]),
        ):
            kinks = [heart.base[phase] + heart.rv_length[phase]]
            kinks += [
                heart.base[phase] + heart.above[phase] + below[phase] for below in (heart.lv_below, heart.epi_below)
            ]
            integral, _ = quad(
                lambda z, area=area, phase=phase: area(np.array([z]))[phase],
                heart.base[phase],
                spec.lv_length_mm,
                points=kinks,
            )
            assert integral / 1000 == pytest.approx(volume, rel=1e-9)


@pytest.mark.parametrize("spacing_mm", CLINICAL)
def test_slices_sum_to_the_volumes_before_the_raster(spacing_mm):
    spec = random_spec(4, spacing_mm=spacing_mm)
    contours, truth = Heart(spec).contours(), spec.truth()
    lv, epi = np.pi * contours.lv_mm**2, np.pi * contours.epi_mm**2
    rv = np.pi * contours.rv_mm**2 - lens_area(contours.rv_mm, contours.epi_mm, contours.rv_offset_mm)
    for area, volume in ((lv, truth.lv_volume_ml), (epi - lv, truth.myo_volume_ml), (rv, truth.rv_volume_ml)):
        assert area.sum(axis=0) * spacing_mm[2] / 1000 == pytest.approx(np.broadcast_to(volume, spec.phases))


@pytest.mark.parametrize(("seed", "group"), list(enumerate(GROUPS)))
def test_masks_hold_the_volumes_in_every_phase(seed, group):
    spec = random_spec(seed, group, spacing_mm=CLINICAL[seed % len(CLINICAL)], phases=6)
    cine = render(spec)
    measured = [volumes_ml(cine.mask[..., phase], spec.spacing_mm) for phase in range(spec.phases)]
    truth = cine.truth
    assert [v.lv_ml for v in measured] == pytest.approx(truth.lv_volume_ml, rel=0.01)
    assert [v.rv_ml for v in measured] == pytest.approx(truth.rv_volume_ml, rel=0.01)
    assert [v.myo_ml for v in measured] == pytest.approx([truth.myo_volume_ml] * 6, rel=0.01)
    ed, es = measured[truth.ed_frame], measured[truth.es_frame]
    assert ef_percent(ed.lv_ml, es.lv_ml) == pytest.approx(truth.lv_ef_percent, abs=0.3)
    assert ef_percent(ed.rv_ml, es.rv_ml) == pytest.approx(truth.rv_ef_percent, abs=0.3)
    for index in range(spec.slice_count):
        for phase in range(spec.phases):
            assert_anatomical(cine.mask[:, :, index, phase])
    assert_plausible(cine.mask, truth)


def assert_anatomical(labels):
    for structure in (RV, MYO, LV):
        assert label(labels == structure)[1] <= 1
    cavity, wall = labels == LV, labels == MYO
    if cavity.any():
        # The wall is one unbroken ring that holds the cavity and nothing else, diagonals included.
        assert (binary_fill_holes(wall) == (wall | cavity)).all()
        assert not np.isin(labels[binary_dilation(cavity, np.ones((3, 3)))], [0, RV]).any()
    if (labels == RV).any():
        assert (binary_dilation(labels == RV) & wall).any()


def assert_plausible(mask, truth):
    shown = {structure: (mask == structure).any(axis=(0, 1)) for structure in (RV, MYO, LV)}
    first = {structure: where.argmax(axis=0) for structure, where in shown.items()}
    last = {structure: len(where) - 1 - where[::-1].argmax(axis=0) for structure, where in shown.items()}
    assert (first[LV] == first[MYO]).all()
    assert (first[LV] == first[RV]).all()
    assert (last[RV] < last[MYO]).all()
    assert (last[LV] <= last[MYO]).all()
    # The base comes down in systole, the apex stays but for a sliver.
    assert first[LV][truth.es_frame] >= first[LV][truth.ed_frame]
    assert abs(int(last[MYO][truth.es_frame]) - int(last[MYO][truth.ed_frame])) <= 1
    # The right ventricle lies towards -x.
    places = np.argwhere(mask[..., 0] == RV).mean(axis=0), np.argwhere(mask[..., 0] == LV).mean(axis=0)
    assert places[0][0] < places[1][0]


def test_thick_slices_hold_the_volumes_too():
    spec = dataclasses.replace(SMALL, slices=4, spacing_mm=(1.4, 1.4, 30.0), shape=(150, 150))
    cine = render(spec, [0])
    assert cine.mask.shape == (150, 150, 4, 1)
    assert volumes_ml(cine.mask[..., 0], spec.spacing_mm).lv_ml == pytest.approx(140, rel=0.02)


def test_frames_do_not_depend_on_what_else_is_rendered(small):
    some = render(SMALL, [4, 1])
    assert some.frames == (4, 1)
    assert (some.image == small.image[..., [4, 1]]).all()
    assert (some.mask == small.mask[..., [4, 1]]).all()


def test_the_seed_gives_the_voxels(small):
    again = render(dataclasses.replace(SMALL), [0])
    other = render(dataclasses.replace(SMALL, seed=1), [0])
    assert (again.image == small.image[..., :1]).all()
    assert (other.image != again.image).any()
    assert (other.mask != again.mask).any()


def test_slices_shift_sideways_without_a_change_of_volume():
    still = render(dataclasses.replace(SMALL, respiratory_shift_mm=0.0), [0]).mask[..., 0]
    moved = render(dataclasses.replace(SMALL, respiratory_shift_mm=4.0), [0]).mask[..., 0]

    def centres(mask):
        stack = [np.argwhere(mask[..., index] == LV) for index in range(mask.shape[2])]
        return np.array([points.mean(axis=0) for points in stack if len(points)])

    assert np.ptp(centres(still), axis=0).max() < 0.5
    assert np.ptp(centres(moved), axis=0).max() > 2
    assert (moved == LV).sum() == pytest.approx((still == LV).sum(), rel=0.01)


def test_the_picture_has_the_contrast_of_bssfp():
    spec = PhantomSpec(phases=3, bias=0.0, noise_sd=0.0)
    cine = render(spec, [0])
    means = {structure: cine.image[cine.mask == structure].mean() for structure in (RV, MYO, LV)}
    assert means[LV] > means[RV] > 2 * means[MYO]
    # Papillary muscles: dark, labelled as cavity, away from the wall.
    middle = cine.mask.shape[2] // 2
    inner = cine.image[:, :, middle, 0][cine.mask[:, :, middle, 0] == LV]
    assert 0.02 < (inner < 0.6 * means[LV]).mean() < 0.3
    # Blood above the base carries no label.
    assert (cine.mask[..., 0, 0] == 0).all()
    assert (cine.image[..., 0, 0] > 0.8 * means[RV]).any()
    assert (cine.image.dtype, cine.mask.dtype) == (np.int16, np.uint8)


def test_noise_and_bias_change_the_image_alone():
    plain = render(dataclasses.replace(SMALL, noise_sd=0.0, bias=0.0), [0])
    noisy = render(dataclasses.replace(SMALL, noise_sd=0.1, bias=0.0), [0])
    biased = render(dataclasses.replace(SMALL, noise_sd=0.0, bias=0.4), [0])
    assert (plain.mask == noisy.mask).all()
    assert (plain.mask == biased.mask).all()
    blood = plain.mask == LV
    spread = (noisy.image[blood] - plain.image[blood].astype(float)).std()
    assert spread == pytest.approx(0.1 * 260, rel=0.05)
    # The coil lies on the chest, at low x.
    ratio = biased.image.astype(float) / np.maximum(plain.image, 1)
    assert ratio[plain.mask == RV].mean() > ratio[plain.mask == LV].mean()


@pytest.mark.parametrize("oblique", [True, False])
def test_affine_has_the_spacing_and_points_to_the_apex(oblique):
    cine = render(dataclasses.replace(SMALL, oblique=oblique), [0])
    directions = cine.affine[:3, :3] / SMALL.spacing_mm
    assert directions.T @ directions == pytest.approx(np.eye(3), abs=1e-12)
    middle = (np.array(cine.image.shape[:3]) - 1) / 2
    assert cine.affine @ [*middle, 1] == pytest.approx([0, 0, 0, 1])
    assert "".join(nib.aff2axcodes(cine.affine)) == ("PIL" if oblique else "LPS")
    if oblique:
        left_front_down = directions[:, 2] * [-1, 1, -1]
        assert (left_front_down > 0.4).all()


def test_frames_survive_the_trip_through_a_file(small, tmp_path):
    phantom.write_frame(small, 2, tmp_path / "new" / "a.nii.gz", tmp_path / "new" / "a_gt.nii")
    image, mask = nib.load(tmp_path / "new" / "a.nii.gz"), nib.load(tmp_path / "new" / "a_gt.nii")
    for nifti, array, dtype in ((image, small.image, np.int16), (mask, small.mask, np.uint8)):
        assert nifti.get_data_dtype() == dtype
        assert (np.asarray(nifti.dataobj) == array[..., 2]).all()
        assert nifti.header.get_zooms() == pytest.approx(SMALL.spacing_mm)
        assert nifti.get_sform(coded=True)[0] == pytest.approx(small.affine, abs=1e-4)
        assert nifti.get_qform(coded=True)[0] == pytest.approx(small.affine, abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.nii.gz", "a_gt.nii"]


def test_cines_survive_the_trip_through_a_file(small, tmp_path):
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    phantom.write_cine(small, paths[0], tmp_path / "a_gt.nii.gz")
    phantom.write_cine(small, paths[1])
    nifti = nib.load(paths[0])
    assert (np.asarray(nifti.dataobj) == small.image).all()
    assert nifti.header.get_zooms() == pytest.approx((*SMALL.spacing_mm, 60 / 65 / 6))
    assert nifti.header.get_xyzt_units() == ("mm", "sec")
    assert (np.asarray(nib.load(tmp_path / "a_gt.nii.gz").dataobj) == small.mask).all()
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_failed_write_leaves_nothing(small, tmp_path, monkeypatch):
    def fail(_, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        phantom.write_cine(small, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_acdc_folder_is_read_by_the_adapter(tmp_path):
    truths = phantom.write_acdc(tmp_path, 6, seed=2, phases=5, shape=(160, 160), spacing_mm=(1.8, 1.8, 10.0))
    assert list(truths) == [f"patient{number:03d}" for number in range(1, 7)]
    datalist, problems = acdc.scan(tmp_path)
    assert problems == []
    assert cases.problems_of(datalist.cases) == {}
    assert [case.group for case in datalist.cases[::2]] == [*GROUPS, "NOR"]
    assert {case.num_frames for case in datalist.cases} == {5}
    assert all(150 < case.height_cm < 200 and 40 < case.weight_kg < 120 for case in datalist.cases)
    for case in datalist.cases:
        truth = truths[case.patient]
        frame = case.frame_number - 1
        assert frame == (truth.ed_frame if case.phase == "ED" else truth.es_frame)
        measured = volumes_ml(np.asarray(nib.load(case.label).dataobj), (1.8, 1.8, 10.0))
        assert measured.lv_ml == pytest.approx(truth.lv_volume_ml[frame], rel=0.02)
    assert not list(tmp_path.rglob("*_4d.nii.gz"))
    assert (tmp_path / "patient001" / "Info.cfg").read_text().splitlines()[:3] == [
        "ED: 1",
        "ES: 3",
        "Group: NOR",
    ]


def test_training_items_are_frames_with_references(tmp_path):
    items = phantom.training_items(tmp_path, 2, seed=7)
    assert [item["phase"] for item in items] == ["ED", "ES"] * 2
    assert all(Path(item["image"]).is_file() and Path(item["label"]).is_file() for item in items)
    assert phantom.training_items(tmp_path, 1, seed=7) == items[:2]
    assert phantom.training_items(tmp_path / "none", 0) == [] and not (tmp_path / "none").exists()


def test_acdc_folder_with_cines_has_the_same_frames(tmp_path):
    phantom.write_acdc(tmp_path, 1, phases=3, shape=(140, 140), cines=True, centre_mm=(0.0, 0.0))
    folder = tmp_path / "patient001"
    cine = nib.load(folder / "patient001_4d.nii.gz")
    assert cine.shape[3] == 3
    for number in (1, 2):
        frame = nib.load(folder / f"patient001_frame{number:02d}.nii.gz")
        assert (np.asarray(frame.dataobj) == np.asarray(cine.dataobj)[..., number - 1]).all()


def test_groups_are_those_of_acdc():
    assert GROUPS == acdc.GROUPS


@pytest.mark.parametrize("seed", range(12))
def test_random_patients_fit_their_group(seed):
    normal, infarct, dilated, thick, right = (random_spec(seed, group) for group in GROUPS)
    for spec in (normal, infarct, dilated, thick, right):
        Heart(spec).contours()
        stroke_ml = spec.lv_edv_ml * spec.lv_ef_percent, spec.rv_edv_ml * spec.rv_ef_percent
        assert stroke_ml[1] == pytest.approx(stroke_ml[0], rel=0.051)
    assert normal.lv_ef_percent > 50
    assert infarct.lv_ef_percent < 40
    assert dilated.lv_ef_percent < 40
    assert dilated.lv_edv_ml > 200
    assert thick.lv_mass_g > 180
    assert right.rv_ef_percent < 40
    assert right.rv_edv_ml > 160


def test_random_patients_take_given_fields():
    spec = random_spec(5, "DCM", lv_ef_percent=12.5, phases=7)
    assert (spec.lv_ef_percent, spec.phases, spec.seed) == (12.5, 7, 5)
    assert spec == random_spec(5, "DCM", lv_ef_percent=12.5, phases=7)
    assert random_spec(5) != random_spec(6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lv_edv_ml": -1.0}, "lv_edv_ml must be a number from 20 to 600, got -1.0"),
        ({"lv_ef_percent": 100.0}, "lv_ef_percent must be a number from 1 to 85, got 100.0"),
        ({"rv_edv_ml": float("nan")}, "rv_edv_ml must be .* got nan"),
        ({"lv_mass_g": "heavy"}, "lv_mass_g must be .* got 'heavy'"),
        ({"noise_sd": True}, "noise_sd must be .* got True"),
        ({"shape": (200,)}, r"shape must be two positive integers, got \(200,\)"),
        ({"shape": (200, 0)}, r"shape must be two positive integers, got \(200, 0\)"),
        ({"slices": 0}, "slices must be None or a positive integer, got 0"),
        ({"phases": 1}, "phases must be an integer of at least 2, got 1"),
        ({"spacing_mm": (1.4, 1.4)}, r"spacing_mm must be three positive numbers, got \(1.4, 1.4\)"),
        ({"spacing_mm": (1.4, 1.4, 0.0)}, "spacing_mm must be three positive numbers"),
        ({"centre_mm": (0.0,)}, r"centre_mm must be two numbers, got \(0.0,\)"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"slices": 9}, r"slices=9 at spacing_mm=\(1.4, 1.4, 10.0\) cover 90 mm, expected lv_length_mm=96"),
    ],
)
def test_absurd_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PhantomSpec(**fields)


def test_all_absurd_fields_are_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)bias.*got 7.*phases.*got 0"):
        PhantomSpec(bias=7, phases=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lv_mass_g": 30.0, "spacing_mm": (2.0, 2.0, 10.0)}, r"lv_mass_g=30 makes a wall of .* mm at spacing_mm=\(2"),
        ({"lv_edv_ml": 20.0, "lv_ef_percent": 85.0}, "lv_edv_ml=20 and lv_ef_percent=85 make a cavity of"),
        ({"shape": (60, 256)}, r"shape=\(60, 256\) .* along x, the heart at .* needs"),
        ({"centre_mm": (0.0, 170.0)}, r"along y, the heart at centre_mm=\(0.0, 170.0\) needs"),
    ],
)
def test_hearts_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        render(PhantomSpec(**fields))


@pytest.mark.parametrize("frames", [[], [6], [-1]])
def test_frames_that_do_not_exist_are_refused(frames):
    with pytest.raises(ValueError, match="frames must be from 0 to 5, got"):
        render(SMALL, frames)


def test_wrong_requests_to_write_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match=r"frame must be one of \(0, 1, 2, 3, 4, 5\), got 6"):
        phantom.write_frame(small, 6, tmp_path / "a.nii", tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"a\.mha: expected a name that ends in \.nii or \.nii\.gz"):
        phantom.write_cine(small, tmp_path / "a.mha")
    with pytest.raises(ValueError, match=r"cine holds the frames \(0,\), expected all of 0 to 5"):
        phantom.write_cine(render(SMALL, [0]), tmp_path / "a.nii")
    for patients in (0, 1000, 2.5):
        with pytest.raises(ValueError, match=f"patients must be an integer from 1 to 999, got {patients}"):
            phantom.write_acdc(tmp_path, patients)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        phantom.write_acdc(tmp_path, 1, seed=-1)
    with pytest.raises(ValueError, match=r"group must be one of \('NOR', .* got 'XYZ'"):
        random_spec(0, "XYZ")
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got None"):
        random_spec(None)
    with pytest.raises(TypeError, match="colour"):
        random_spec(0, colour="red")
    assert list(tmp_path.iterdir()) == []


def command_line(*arguments, cwd):
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True)


def test_command_line_makes_a_cine(tmp_path):
    done = command_line(
        *("cine", "2024_01.nii.gz", "--lv_ef_percent", "55", "--phases", "3", "--shape", "160,170"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "2024_01.nii.gz").shape[:2] == (160, 170)
    assert nib.load(tmp_path / "2024_01_gt.nii.gz").shape[3] == 3
    truth = json.loads((tmp_path / "2024_01_truth.json").read_text())
    assert (truth["lv_ef_percent"], truth["spec"]["phases"]) == (55, 3)


def test_command_line_makes_an_acdc_folder(tmp_path):
    done = command_line("acdc", "out", "--patients", "1", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert truth["patient001"]["lv_ef_percent"] == random_spec(7, "NOR").lv_ef_percent
    assert (tmp_path / "out" / "patient001" / "Info.cfg").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("cine", "a.nii.gz", "--lv_ef_percent", "120"), 1, "lv_ef_percent must be a number from 1 to 85, got 120"),
        (("cine", "a.dcm"), 1, "a.dcm: expected a name that ends in .nii or .nii.gz"),
        (("acdc", "out", "--patience", "3"), 1, "Could not consume arg: --patience"),
        (("acdc", "taken/out", "--patients", "1"), 2, "taken"),
    ],
)
def test_command_line_says_what_is_wrong(arguments, code, message, tmp_path):
    (tmp_path / "taken").write_text("a file where a folder is needed")
    done = command_line(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

import math
import re

import nibabel as nib
import numpy as np
import pytest

from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.datasets.phantom_heart import Heart
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.wall import (
    RAYS,
    Ring,
    find_insertions,
    find_rings,
    orientation_is_known,
    segment_thickness_mm,
)

# A heart's own axes in the patient (right, anterior, superior): to the apex, across the septum, to the front wall.
TO_APEX = np.array([-0.65, 0.60, -0.46]) / np.linalg.norm([-0.65, 0.60, -0.46])
TO_RV = np.cross(TO_APEX, [0.2, -0.1, 1.0]) / np.linalg.norm(np.cross(TO_APEX, [0.2, -0.1, 1.0]))
TO_FRONT = np.cross(TO_RV, TO_APEX)

CAVITY_MM = 22.0
SLICE_MM = 8.0
HALF_SEPTUM_DEG = 60.0
# What is drawn in segments 1 to 16: no two alike side by side.
DRAWN = (9.0, 11.0, 12.0, 10.0, 8.0, 7.0, 8.0, 10.0, 11.0, 9.0, 7.0, 6.0, 8.0, 9.0, 7.0, 6.0)


def drawn_thickness(degrees: np.ndarray, third: int) -> np.ndarray:
    """Thickness where the wall points so many degrees from the middle of the septum, the anterior wall at +90."""
    if third == 2:  # quarters around 0 (septal), 90 (anterior), 180 (lateral), 270 (inferior)
        return np.array(DRAWN)[[13, 12, 15, 14]][((degrees + 45) // 90 % 4).astype(int)]
    # Sixths from 0: anteroseptal, anterior, anterolateral, inferolateral, inferior, inferoseptal.
    order = np.array([2, 1, 6, 5, 4, 3]) - 1 + 6 * third
    return np.array(DRAWN)[order][(degrees // 60 % 6).astype(int)]


def draw(directions: np.ndarray, spacing: tuple[float, float], shape: tuple[int, int], slices: int = 6, **options):
    """The drawn heart on a grid whose columns are ``directions``, and that grid's affine."""
    affine = np.eye(4)
    affine[:3, :3] = directions * (*spacing, SLICE_MM)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array([*shape, slices]) - 1) / 2) + [5, -40, 12]
    indices = np.indices((*shape, slices)).reshape(3, -1)
    offset = affine[:3, :3] @ (indices - (np.array([*shape, slices])[:, None] - 1) / 2)
    right, front, down = (axis @ offset for axis in (TO_RV, TO_FRONT, TO_APEX))
    level = (down / SLICE_MM + slices / 2) / slices  # 0 at the base, 1 at the apex
    degrees, radius = np.degrees(np.arctan2(front, right)), np.hypot(right, front)
    wall = np.choose((3 * level).astype(int), [drawn_thickness(degrees, third) for third in range(3)])
    cavity = CAVITY_MM - 4 * level
    mask = np.zeros(radius.shape, np.uint8)
    rv = (np.abs(degrees) < options.get("half_septum_deg", HALF_SEPTUM_DEG)) & (level < options.get("rv_end", 0.7))
    mask[rv & (radius < cavity + wall + 20 * (1 - level))] = RV
    mask[radius < cavity + wall] = MYO
    mask[radius < cavity] = LV
    return mask.reshape(*shape, slices), affine


def in_plane(degrees: float) -> np.ndarray:
    """Columns of a short-axis grid turned by so many degrees."""
    turn = np.radians(degrees)
    x = -TO_RV * np.cos(turn) + TO_FRONT * np.sin(turn)
    return np.stack([x, np.cross(x, TO_APEX), TO_APEX], axis=1)


def an_annulus(inner_mm: float, outer_mm: float, spacing: tuple[float, float], centre=(0.0, 0.0)) -> np.ndarray:
    x, y = np.indices((90, 80)) * np.array(spacing)[:, None, None]
    radius = np.hypot(x - 45 * spacing[0] - centre[0], y - 40 * spacing[1] - centre[1])
    return np.where(radius < inner_mm, LV, np.where(radius < outer_mm, MYO, 0)).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0, 35, 90, 200])
def test_every_segment_has_the_thickness_drawn_there(degrees):
    mask, affine = draw(in_plane(degrees), (1.3, 1.3), (110, 110))
    assert segment_thickness_mm(mask, affine) == pytest.approx(DRAWN, abs=0.45)


def test_every_segment_on_a_grid_of_oblong_pixels():
    mask, affine = draw(in_plane(20), (1.0, 1.8), (140, 80))
    assert segment_thickness_mm(mask, affine) == pytest.approx(DRAWN, abs=0.45)


def flip(mask: np.ndarray, affine: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    flipped = affine.copy()
    flipped[:3, 3] += affine[:3, axis] * (mask.shape[axis] - 1)
    flipped[:3, axis] *= -1
    return np.flip(mask, axis), flipped


def transpose(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask.swapaxes(0, 1), affine[:, [1, 0, 2, 3]]


@pytest.mark.parametrize(
    "change",
    [
        lambda mask, affine: flip(mask, affine, 0),
        lambda mask, affine: flip(mask, affine, 1),
        lambda mask, affine: flip(mask, affine, 2),
        transpose,
        lambda mask, affine: transpose(*flip(mask, affine, 0)),
        lambda mask, affine: flip(*transpose(*flip(mask, affine, 2)), 1),
    ],
)
def test_the_order_of_the_voxels_makes_no_difference(change):
    mask, affine = draw(in_plane(15), (1.2, 1.5), (120, 100))
    changed = change(mask, affine)
    assert segment_thickness_mm(*changed) == pytest.approx(segment_thickness_mm(mask, affine), abs=0.1)


def test_a_file_without_its_orientation_is_taken_as_it_is_looked_at():
    # ACDC's files say left, posterior, superior whatever the scan's plane was; the front wall is at the top.
    mask, _ = draw(in_plane(0), (1.3, 1.3), (110, 110))
    assert segment_thickness_mm(mask, np.diag([-1.3, -1.3, SLICE_MM, 1])) == pytest.approx(DRAWN, abs=0.45)


def test_insertions_lie_where_the_right_ventricle_begins_and_ends():
    mask, affine = draw(in_plane(0), (1.3, 1.3), (110, 110), half_septum_deg=50)
    insertions = find_insertions(find_rings(mask, affine), affine)
    assert sorted(insertions) == list(range(6))
    # The grid's x points away from the RV and its y away from the front wall: the anterior insertion is at 180 + 50.
    assert math.degrees(insertions[0].anterior_rad) % 360 == pytest.approx(230, abs=6)
    assert math.degrees(insertions[0].septum_rad) == pytest.approx(-100, abs=9)
    # Slices beyond the end of the right ventricle have the insertions of the last that shows it.
    assert insertions[4] == insertions[5] == insertions[3]


def a_ring(slice_index: int, first_deg: int, last_deg: int) -> Ring:
    """A ring that the right ventricle touches from one angle to another."""
    degrees = np.arange(RAYS) * 360 / RAYS
    contact = (degrees >= first_deg) & (degrees <= last_deg)
    return Ring(slice_index, np.full(RAYS, 20.0), np.full(RAYS, 30.0), contact)


def test_a_ring_between_two_septa_has_the_wider_ones_insertions():
    rings = (a_ring(0, 90, 180), a_ring(1, 0, 0), a_ring(2, 90, 240))
    found = find_insertions(rings, np.diag([-1.0, -1.0, 8.0, 1.0]))
    assert found[1] == found[2] != found[0]


def test_which_insertion_is_anterior_does_not_hang_on_the_pixels_shape():
    # The line between the insertions runs along (-1, 1.7), and y is as much upwards as x.
    rings = (a_ring(0, 120, 300),)
    directions = np.array([[1, -1, 0], [0, 0, 2**0.5], [1, 1, 0]]) / 2**0.5
    affines = [np.eye(4), np.eye(4)]
    for affine, spacing in zip(affines, ((1, 1, 8), (2, 1, 8)), strict=True):
        affine[:3, :3] = directions * spacing
    found = [find_insertions(rings, affine) for affine in affines]
    assert found[0] == found[1] != {}


@pytest.mark.parametrize(("seam", "touches"), [(0, True), (1, True), (2, False)])
def test_a_seam_of_one_pixel_is_a_contact(seam, touches):
    mask = an_annulus(12, 20, (1.0, 1.0))
    free = 45 + 20 + seam  # the first row beyond the wall and the seam
    mask[free : free + 10, 25:56][mask[free : free + 10, 25:56] == 0] = RV
    (ring,) = find_rings(mask[..., None], np.eye(4))
    assert ring.contact[0] == touches


def test_a_narrow_contact_is_no_septum():
    mask, affine = draw(in_plane(0), (1.3, 1.3), (110, 110), half_septum_deg=8)
    assert find_insertions(find_rings(mask, affine), affine) == {}
    assert np.isnan(segment_thickness_mm(mask, affine)).all()


def test_insertions_level_with_each_other_are_not_told_apart():
    mask, affine = draw(in_plane(0), (1.3, 1.3), (110, 110))
    # The septum at the top of a flat image: neither insertion lies further up or forwards than the other.
    sideways = np.zeros((4, 4))
    sideways[[0, 1, 2, 3], [1, 0, 2, 3]] = [1.3, -1.3, SLICE_MM, 1]
    assert find_insertions(find_rings(mask, affine), sideways) == {}
    assert np.isnan(segment_thickness_mm(mask, sideways)).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.7), (1.5625, 1.5625)])
@pytest.mark.parametrize(("inner_mm", "outer_mm"), [(20.0, 27.0), (10.0, 25.0), (6.0, 10.0)])
def test_thickness_of_an_annulus(spacing, inner_mm, outer_mm):
    mask = an_annulus(inner_mm, outer_mm, spacing, centre=(0.3, 0.2))[..., None]
    (ring,) = find_rings(mask, np.diag([*spacing, 8.0, 1.0]))
    assert ring.thickness_mm.mean() == pytest.approx(outer_mm - inner_mm, abs=0.15)
    assert np.abs(ring.thickness_mm - (outer_mm - inner_mm)).max() < max(spacing)
    assert not ring.contact.any()


def test_an_oval_wall_is_measured_square_to_itself():
    x, y = np.indices((120, 120)) - 59.5
    angle = np.linspace(0, 2 * np.pi, 4000)
    # The curve 4 mm outside and inside of an ellipse of 34 x 24 mm: a wall of 8 mm everywhere.
    ellipse = np.stack([34 * np.cos(angle), 24 * np.sin(angle)], axis=1)
    distance = np.min([np.hypot(x - px, y - py) for px, py in ellipse[::10]], axis=0)
    inside = (x / 34) ** 2 + (y / 24) ** 2 < 1
    mask = np.where(distance < 4, MYO, np.where(inside, LV, 0)).astype(np.uint8)[..., None]
    (ring,) = find_rings(mask, np.eye(4))
    assert ring.thickness_mm.mean() == pytest.approx(8, abs=0.1)
    assert (ring.epi_mm - ring.endo_mm).mean() > 8.15


def a_slice(kind: str) -> np.ndarray:
    mask = an_annulus(12, 20, (1.0, 1.0))
    if kind == "open":
        mask[45:, 38:42][mask[45:, 38:42] == MYO] = 0
    elif kind == "no cavity":
        mask[mask == LV] = MYO
    elif kind == "no wall":
        mask[mask == MYO] = 0
    elif kind == "cut off":
        mask = mask[:60]
    elif kind == "bent":  # a crescent that does not hold its own centroid
        mask[(np.hypot(*(np.indices(mask.shape) - np.array([41, 40])[:, None, None])) < 9.5) & (mask == LV)] = MYO
    elif kind == "empty":
        mask[:] = 0
    return mask[..., None]


@pytest.mark.parametrize("kind", ["open", "no cavity", "no wall", "cut off", "bent", "empty"])
def test_slices_without_a_ring_to_measure(kind):
    assert len(find_rings(a_slice("whole"), np.eye(4))) == 1
    assert find_rings(a_slice(kind), np.eye(4)) == ()
    assert np.isnan(segment_thickness_mm(a_slice(kind), np.eye(4))).all()


def test_specks_and_papillary_muscles_do_not_matter():
    clean = an_annulus(12, 20, (1.0, 1.0))
    marked = clean.copy()
    marked[3:5, 3:5] = MYO
    marked[80:83, 70] = LV
    marked[47:50, 40:43] = MYO  # within the cavity
    (expected,), (ring,) = (find_rings(mask[..., None], np.eye(4)) for mask in (clean, marked))
    np.testing.assert_allclose(ring.thickness_mm, expected.thickness_mm)


def test_thirds_without_a_slice_are_nan():
    mask, affine = draw(in_plane(0), (1.3, 1.3), (110, 110))
    mask[:, :, 4:] = 0
    mask[:, :, :2][mask[:, :, :2] == MYO] = 0  # the basal slices have lost their walls
    values = segment_thickness_mm(mask, affine)
    # Two rings are left: the first is basal, the second apical.
    assert np.isnan(values).tolist() == [False] * 6 + [True] * 6 + [False] * 4


@pytest.mark.parametrize("structure", [RV, LV, MYO])
def test_nothing_is_measured_without_a_structure(structure):
    mask, affine = draw(in_plane(0), (1.3, 1.3), (110, 110))
    mask[mask == structure] = 0
    assert np.isnan(segment_thickness_mm(mask, affine)).all()


def test_a_stack_that_looks_the_same_from_both_ends_has_no_base():
    mask, affine = draw(in_plane(0), (1.3, 1.3), (110, 110))
    assert np.isnan(segment_thickness_mm(np.repeat(mask[:, :, :1], 5, axis=2), affine)).all()


@pytest.mark.parametrize(
    ("mask", "affine", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.eye(4), "mask must be a non-empty 3D array, got shape (4, 4)"),
        (np.zeros((4, 4, 4)), np.eye(4), "mask must hold integer label ids, got float64"),
        (np.zeros((4, 4, 4), np.uint8), np.eye(3), "affine must be a finite 4 x 4 matrix"),
        (np.zeros((4, 4, 4), np.uint8), np.diag([1, 0, 1, 1]), "affine has a zero spacing"),
    ],
)
def test_segment_thickness_rejects(mask, affine, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        segment_thickness_mm(mask, affine)


@pytest.mark.parametrize("oblique", [True, False])
def test_the_wall_of_a_phantom(oblique):
    spec = PhantomSpec(phases=5, oblique=oblique, shape=(150, 170), centre_mm=(0.0, 0.0), rotation_deg=25)
    cine, contours = render(spec, (0, spec.es_frame)), Heart(spec).contours()
    for position, frame in enumerate(cine.frames):
        mask = cine.mask[..., position]
        rings = find_rings(mask, cine.affine)
        drawn = (contours.epi_mm - contours.lv_mm)[:, frame]
        assert [ring.slice_index for ring in rings] == np.flatnonzero(contours.lv_mm[:, frame]).tolist()
        for ring in rings:
            assert ring.thickness_mm.mean() == pytest.approx(drawn[ring.slice_index], abs=0.1)
        # The phantom's wall is equally thick all around; the thirds differ.
        values = np.array(segment_thickness_mm(mask, cine.affine))
        for first, last in ((0, 6), (6, 12), (12, 16)):
            np.testing.assert_allclose(values[first:last], values[first:last].mean(), atol=0.4)
        # Its septum lies towards the RV, 25 degrees below -x, the anterior insertion anticlockwise of it on screen.
        middle = find_insertions(rings, cine.affine)[rings[3].slice_index]
        towards_rv = math.degrees(middle.anterior_rad + middle.septum_rad / 2) % 360
        assert towards_rv == pytest.approx(155, abs=4)
        assert middle.septum_rad < 0


@pytest.mark.acdc
def test_septa_of_acdc_are_thicker_in_hypertrophy_than_in_dilation(acdc_dir):
    septa = {}
    for group, numbers in {"DCM": (1, 4, 10), "HCM": (22, 26, 30)}.items():
        for number in numbers:
            folder = acdc_dir / "training" / f"patient{number:03d}"
            info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
            assert info["Group"] == group
            image = nib.load(folder / f"{folder.name}_frame{int(info['ED']):02d}_gt.nii.gz")
            affine = np.diag([*np.multiply(image.header.get_zooms(), (-1, -1, 1)), 1])
            values = segment_thickness_mm(np.asarray(image.dataobj).astype(np.uint8), affine)
            assert not np.isnan(values).any()
            septa.setdefault(group, []).append(np.mean([values[index - 1] for index in (2, 3, 8, 9)]))
    assert max(septa["DCM"]) < min(septa["HCM"])
    assert min(septa["DCM"]) > 5 and max(septa["HCM"]) < 20


def tilted(degrees):
    """The affine of slices of 1.5 x 1.5 x 8 mm, turned about the patient's left-right axis."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
    return turn @ np.diag([-1.5, -1.5, 8.0, 1.0])


@pytest.mark.parametrize(
    ("affine", "known"),
    [
        (np.diag([-1.0, -1.0, 1.0, 1.0]), False),  # ACDC's
        (np.diag([1.5, 1.5, -8.0, 1.0])[:, [1, 2, 0, 3]], False),  # sagittal
        (tilted(0.9), False),
        (tilted(1.1), True),
        (tilted(-45), True),
        (render(PhantomSpec(phases=2, shape=(64, 64), spacing_mm=(4.0, 4.0, 24.0))).affine, True),
    ],
)
def test_orientation_is_known(affine, known):
    assert orientation_is_known(affine) is known

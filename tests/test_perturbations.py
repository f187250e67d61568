import itertools

import numpy as np
import pytest

from cardiac_cine import perturbations
from cardiac_cine.geometry import spacing_mm
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.perturbations import PERTURBATIONS, LabelledStack, Perturbation

ANGLE = 0.4
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])


def a_stack(shape=(7, 6, 5), spacing=(1.5, 2.0, 8.0), labelled=(slice(2, 4), slice(1, 4), slice(1, 4))):
    """Every voxel has a number of its own from 1, an oblique affine, and a heart that tapers with z."""
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    label = np.zeros(shape, np.uint8)
    label[labelled] = LV
    label[labelled[0], labelled[1].start, labelled[2].start] = RV
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.diag(spacing)
    affine[:3, 3] = (-20, 30, 5)
    return LabelledStack(array, label, affine)


def slices_of(*values, labels=None):
    """A stack of 2 x 2 pixels whose slices have one value each, and one label each where given."""
    array = np.broadcast_to(np.array(values, np.float32), (2, 2, len(values)))
    label = np.broadcast_to(np.array(labels or [0] * len(values), np.uint8), array.shape)
    return LabelledStack(array, label, np.diag([1.0, 1, 8, 1]))


def world(affine, indices):
    return np.asarray(indices) @ affine[:3, :3].T + affine[:3, 3]


def identical(one, other):
    return (
        np.array_equal(one.array, other.array)
        and np.array_equal(one.label, other.label)
        and np.array_equal(one.affine, other.affine)
    )


def rng(seed=0):
    return np.random.default_rng(seed)


MOVES = {
    "90 degrees": (lambda stack: perturbations.rotate(stack, 1), (6, 7, 5)),
    "180 degrees": (lambda stack: perturbations.rotate(stack, 2), (7, 6, 5)),
    "270 degrees": (lambda stack: perturbations.rotate(stack, 3), (6, 7, 5)),
    "flip x": (lambda stack: perturbations.flip(stack, 0), (7, 6, 5)),
    "flip y": (lambda stack: perturbations.flip(stack, 1), (7, 6, 5)),
    "flip z": (lambda stack: perturbations.flip(stack, 2), (7, 6, 5)),
    "crop": (lambda stack: perturbations.crop(stack, (3, 4)), (3, 4, 5)),
    "crop to a share": (lambda stack: perturbations.crop_share(stack, 0.8), (6, 5, 5)),
    "crop to odd": (lambda stack: perturbations.crop_to_odd(stack, (5, 201)), (5, 5, 5)),
    "pad": (lambda stack: perturbations.pad(stack, 9), (9, 9, 5)),
    "no basal slice": (perturbations.drop_basal_slice, (7, 6, 3)),
}


@pytest.mark.parametrize(("move", "shape"), MOVES.values(), ids=MOVES.keys())
def test_voxels_keep_their_place_in_the_world_and_their_label(move, shape):
    stack = a_stack()
    moved = move(stack)
    assert moved.array.shape == moved.label.shape == shape
    assert moved.label.dtype == np.uint8
    kept = 0
    for index in np.ndindex(shape):
        if moved.array[index] == 0:  # padded
            assert moved.label[index] == 0
            continue
        old = np.unravel_index(int(moved.array[index]) - 1, stack.array.shape)
        np.testing.assert_allclose(world(moved.affine, index), world(stack.affine, old), atol=1e-9)
        assert moved.label[index] == stack.label[old]
        kept += 1
    assert kept == min(moved.array.size, stack.array.size)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_is_numpys(quarters):
    stack = a_stack()
    np.testing.assert_array_equal(perturbations.rotate(stack, quarters).array, np.rot90(stack.array, quarters))


def test_four_quarter_turns_and_two_flips_change_nothing():
    stack = a_stack()
    assert identical(perturbations.rotate(stack, 4), stack)
    turned = perturbations.rotate(perturbations.rotate(stack, 1), 3)
    assert np.array_equal(turned.array, stack.array)
    np.testing.assert_allclose(turned.affine, stack.affine)
    for axis in (0, 1, 2):
        twice = perturbations.flip(perturbations.flip(stack, axis), axis)
        assert np.array_equal(twice.array, stack.array)
        np.testing.assert_allclose(twice.affine, stack.affine)


NOTHING = {
    "rotate": lambda stack: perturbations.rotate(stack, 0),
    "resample": lambda stack: perturbations.resample(stack, 1.0),
    "crop": lambda stack: perturbations.crop(stack, (7, 6)),
    "crop_share": lambda stack: perturbations.crop_share(stack, 1.0),
    "pad": lambda stack: perturbations.pad(stack, 6),
    "scale": lambda stack: perturbations.scale(stack, 1),
    "shift": lambda stack: perturbations.shift(stack, 0),
    "gaussian_noise": lambda stack: perturbations.gaussian_noise(stack, rng(), 0),
    "rician_noise": lambda stack: perturbations.rician_noise(stack, rng(), 0),
    "blur": lambda stack: perturbations.blur(stack, 0),
    "bias_field": lambda stack: perturbations.bias_field(stack, rng(), 0),
    "store_as": lambda stack: perturbations.store_as(stack, "float32"),
}


@pytest.mark.parametrize("change", NOTHING.values(), ids=NOTHING.keys())
def test_a_level_of_nothing_changes_nothing(change):
    stack = a_stack(labelled=(slice(2, 4), slice(1, 4), slice(2, 3)))
    assert identical(change(stack), stack)


def test_gamma_of_one_changes_nothing_but_by_rounding():
    np.testing.assert_allclose(perturbations.gamma(a_stack(), 1).array, a_stack().array, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.25, 1.6])
def test_resampling_keeps_a_ramp_where_it_is(factor):
    """A linear image is the same function of the world on every grid, away from the edges."""
    stack = a_stack((40, 30, 2))
    slope = np.array([0.3, -0.7, 0.1])
    values = world(stack.affine, list(np.ndindex(stack.array.shape))) @ slope
    stack = LabelledStack(values.reshape(stack.array.shape), stack.label, stack.affine)
    new = perturbations.resample(stack, factor)
    assert spacing_mm(new.affine) == pytest.approx((1.5 * factor, 2.0 * factor, 8.0))
    assert new.array.shape == new.label.shape == (round(40 / factor), round(30 / factor), 2)
    inner = [i for i in np.ndindex(new.array.shape) if 6 < i[0] * factor < 33 and 6 < i[1] * factor < 23]
    assert len(inner) > 50
    np.testing.assert_allclose([new.array[i] for i in inner], world(new.affine, inner) @ slope, atol=1e-6)


def test_labels_of_half_the_spacing_are_doubled_and_of_twice_halved():
    stack = a_stack((4, 4, 2), labelled=(slice(0, 2), slice(2, 4), slice(0, 1)))
    fine = perturbations.resample(stack, 0.5)
    np.testing.assert_array_equal(fine.label, stack.label.repeat(2, 0).repeat(2, 1))
    np.testing.assert_allclose(world(fine.affine, (-0.5, -0.5, 0)), world(stack.affine, (-0.5, -0.5, 0)))
    np.testing.assert_array_equal(perturbations.resample(fine, 2).label > 0, stack.label > 0)


def test_a_coarser_image_is_smoothed_first():
    stripes = a_stack((40, 40, 2))
    stripes.array[:] = np.arange(40)[:, None, None] % 2
    coarse = perturbations.resample(stripes, 3).array[2:-2, 2:-2]
    assert coarse.min() > 0.4 and coarse.max() < 0.6


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_a_spacing_that_is_none_is_refused(factor):
    with pytest.raises(ValueError, match="factor must be positive"):
        perturbations.resample(a_stack(), factor)


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [
        (slice(4, 5), slice(4, 5), (slice(2, 8), slice(3, 7))),  # the middle
        (slice(0, 2), slice(8, 10), (slice(0, 6), slice(6, 10))),  # moved to either side
        (slice(1, 9), slice(0, 10), (slice(1, 9), slice(0, 10))),  # widened
    ],
)
def test_a_crop_keeps_the_heart(columns, rows, expected):
    stack = a_stack((10, 10, 3), labelled=(columns, rows, slice(0, 2)))
    cut = perturbations.crop(stack, (6, 4))
    np.testing.assert_array_equal(cut.array, stack.array[expected])
    assert np.count_nonzero(cut.label) == np.count_nonzero(stack.label)


def test_a_crop_without_labels_is_the_middle():
    stack = a_stack((10, 10, 3), labelled=(slice(0, 0), slice(0, 0), slice(0, 0)))
    stack.label[:] = 0
    np.testing.assert_array_equal(perturbations.crop(stack, (6, 4)).array, stack.array[2:8, 3:7])


@pytest.mark.parametrize(("shape", "expected"), [((216, 256), (187, 201)), ((150, 255), (149, 201)), ((9, 9), (9, 9))])
def test_odd_sizes(shape, expected):
    stack = LabelledStack(np.zeros((*shape, 2)), np.zeros((*shape, 2), np.uint8), np.eye(4))
    assert perturbations.crop_to_odd(stack, (187, 201)).array.shape == (*expected, 2)


def test_padding_is_zero_on_both_sides():
    stack = slices_of(7, 8, labels=[LV, MYO])
    padded = perturbations.pad(stack, 5)
    expected = np.zeros((5, 5), int)
    expected[1:3, 1:3] = 7
    np.testing.assert_array_equal(padded.array[..., 0], expected)
    assert np.count_nonzero(padded.label == MYO) == 4
    assert perturbations.pad(a_stack((7, 6, 2)), 6).array.shape == (7, 6, 2)


@pytest.mark.parametrize(
    ("labels", "middle", "basal"),
    [
        ([0, 3, 3, 3, 0, 0], [1, 2, 4, 5, 6], [3, 4, 5, 6]),  # no way to tell the base: the first
        ([0, 3, 3, 0, 0, 0], [1, 2, 4, 5, 6], [3, 4, 5, 6]),
        ([0, 0, 3, 0, 0, 0], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        ([0] * 6, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
    ],
)
def test_missing_slices(labels, middle, basal):
    stack = slices_of(1, 2, 3, 4, 5, 6, labels=labels)
    without = perturbations.drop_middle_slice(stack)
    assert without.array[0, 0].tolist() == middle
    assert without.label[0, 0].tolist() == [labels[value - 1] for value in middle]
    np.testing.assert_array_equal(without.affine, stack.affine)
    low = perturbations.drop_basal_slice(stack)
    assert low.array[0, 0].tolist() == basal
    assert low.label[0, 0].tolist() == [labels[value - 1] for value in basal]
    assert low.affine[2, 3] == 8 * (basal[0] - 1)


def test_the_base_may_be_last():
    stack = slices_of(1, 2, 3, 4, 5, labels=[0, LV, LV, LV, 0])
    label = stack.label.copy()
    label[0, 0, 1] = 0
    low = perturbations.drop_basal_slice(LabelledStack(stack.array, label, stack.affine))
    assert low.array[0, 0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(low.affine, stack.affine)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda stack: perturbations.scale(stack, 10), [0, 100, 400]),
        (lambda stack: perturbations.shift(stack, 2), [80, 90, 120]),
        (lambda stack: perturbations.shift(stack, -2), [-80, -70, -40]),
        (perturbations.invert, [40, 30, 0]),
        (lambda stack: perturbations.gamma(stack, 0.5), [0, 20, 40]),
        (lambda stack: perturbations.gamma(stack, 2), [0, 2.5, 40]),
        (lambda stack: perturbations.store_as(stack, "uint8"), [0, 64, 255]),
        (lambda stack: perturbations.store_as(stack, "int16"), [0, 1024, 4095]),
        (lambda stack: perturbations.store_as(stack, "float32"), [0, 10, 40]),
    ],
)
def test_intensities_by_hand(change, expected):
    stack = slices_of(0, 10, 40, labels=[LV, MYO, 0])
    changed = change(stack)
    assert changed.array[1, 0].tolist() == pytest.approx(expected)
    assert np.array_equal(changed.label, stack.label) and np.array_equal(changed.affine, stack.affine)


def test_a_constant_image_gives_no_nan():
    stack = slices_of(5, 5)
    assert identical(perturbations.gamma(stack, 0.7), stack)
    assert perturbations.store_as(stack, "uint8").array.tolist() == np.zeros((2, 2, 2)).tolist()


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "f4"), ("int16", "i2"), ("uint8", "u1")])
def test_storage_has_the_type(dtype, kind):
    assert perturbations.store_as(a_stack(), dtype).array.dtype == kind


def test_storage_in_another_type_is_refused():
    with pytest.raises(ValueError, match=r"dtype must be one of \['float32', 'int16', 'uint8'\], got 'int8'"):
        perturbations.store_as(a_stack(), "int8")


def test_noise_has_its_standard_deviation():
    flat = a_stack((60, 50, 4))
    flat.array[:] = 100
    flat.array[:2] = 0
    flat.array[-2:] = 200  # each more than a percent: the range between the percentiles is 200
    middle = slice(2, -2)
    gaussian = perturbations.gaussian_noise(flat, rng(), 0.05).array[middle]
    assert gaussian.mean() == pytest.approx(100, abs=0.5) and gaussian.std() == pytest.approx(10, rel=0.05)
    rician = perturbations.rician_noise(flat, rng(), 0.05).array
    # A signal of 10 sd: mean A + sd^2 / (2 A). None at all: Rayleigh, sd x sqrt(pi / 2).
    assert rician[middle].mean() == pytest.approx(100.5, abs=0.4)
    assert rician[:2].mean() == pytest.approx(10 * np.sqrt(np.pi / 2), rel=0.1)
    assert rician.min() >= 0


def test_a_blur_is_given_in_millimetres_and_stays_in_its_slice():
    point = a_stack((41, 41, 3), spacing=(1.0, 2.0, 8.0))
    point.array[:] = 0
    point.array[20, 20, 1] = 1
    found = perturbations.blur(point, 2.0).array
    assert found.sum() == pytest.approx(1, abs=1e-4) and not found[..., [0, 2]].any()
    offsets_mm = np.arange(-20, 21)
    assert found[..., 1].sum(axis=1) @ (1.0 * offsets_mm) ** 2 == pytest.approx(4, rel=0.05)
    assert found[..., 1].sum(axis=0) @ (2.0 * offsets_mm) ** 2 == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("amplitude", [0.3, 0.5])
def test_a_bias_field_is_smooth_and_reaches_its_amplitude(amplitude):
    flat = a_stack((60, 50, 4))
    flat.array[:] = 10
    field = perturbations.bias_field(flat, rng(1), amplitude).array / 10
    assert (field.min(), field.max()) == pytest.approx((1 - amplitude, 1 + amplitude))
    steps = itertools.chain.from_iterable(np.abs(np.diff(field, axis=axis)).flat for axis in (0, 1))
    assert max(steps) < 0.2 * amplitude


def test_stacks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"of one shape, got \(2, 2, 2\), \(2, 2, 3\)"):
        LabelledStack(np.zeros((2, 2, 2)), np.zeros((2, 2, 3), np.uint8), np.eye(4))
    with pytest.raises(ValueError, match="must be 3D"):
        LabelledStack(np.zeros((2, 2)), np.zeros((2, 2), np.uint8), np.eye(4))


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda item: f"{item.name} {item.level}")
def test_each_is_determined_by_its_seed_and_leaves_its_input_alone(perturbation: Perturbation):
    stack, untouched = a_stack((24, 20, 5)), a_stack((24, 20, 5))
    one, same, other = (perturbation.apply(stack, rng(seed)) for seed in (3, 3, 4))
    assert identical(one, same)
    assert identical(stack, untouched)
    random = perturbation.name in ("gaussian_noise", "rician_noise", "bias_field")
    assert identical(one, other) is not random
    assert one.array.dtype == (np.dtype(perturbation.level) if perturbation.on_disk else np.float32)
    assert one.label.dtype == np.uint8 and one.label.any()
    assert np.isfinite(one.array).all()
    # Only the frame as it is stored by default stays what it is.
    assert identical(one, stack) is (perturbation.level == "float32")


def test_each_family_has_at_most_one_strongest_level():
    levels = [(item.name, item.level) for item in PERTURBATIONS]
    assert len(set(levels)) == len(levels)
    strongest = {item.name: item.level for item in PERTURBATIONS if item.strongest}
    assert len(strongest) == sum(item.strongest for item in PERTURBATIONS)
    assert strongest == {
        "pixel_size": "x 1.6",
        "gamma": "1.5",
        "gaussian_noise": "sd 0.1",
        "rician_noise": "sd 0.1",
        "blur": "sd 2 mm",
        "bias_field": "up to 50%",
    }
    assert [item.name for item in PERTURBATIONS if not item.limited] == ["inverted_contrast"]

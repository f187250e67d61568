import dataclasses
import math

import pytest
import torch

from cardiac_cine.augmentation import BatchAugmentation, Strength, change_intensities, lose_neighbours, warp

PROBABILITIES = [field.name for field in dataclasses.fields(Strength) if field.name.endswith("_prob")]
OFF = dict.fromkeys(PROBABILITIES, 0.0) | {"shift": 0.0}


def only(**fields: object) -> dict[str, object]:
    """A strength with nothing on but this."""
    return OFF | fields


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def a_batch(count: int = 3, size: tuple[int, int] = (24, 20)) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 1, *size), "label": torch.randint(0, 4, (count, 1, *size), dtype=torch.uint8)}


def blobs(count: int = 8, size: int = 64) -> torch.Tensor:
    """A square upper left of the middle, the same in every slice, as 0 and 1."""
    mask = torch.zeros(count, 1, size, size)
    mask[..., 18:30, 22:42] = 1
    return mask


def centre(batch: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    low = [(whole - part) // 2 for whole, part in zip(batch.shape[2:], size, strict=True)]
    return batch[..., low[0] : low[0] + size[0], low[1] : low[1] + size[1]]


def symmetries(image: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(image, quarter, (-2, -1)) for quarter in range(4)]
    return turned + [one.flip(-1) for one in turned]


@pytest.mark.parametrize("size", [(24, 20), (16, 12), (2, 20)])
def test_with_everything_off_it_is_the_centre_crop(size):
    batch = a_batch()
    image, label = BatchAugmentation(size, OFF)(batch)
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    torch.testing.assert_close(image, centre(batch["image"], size))
    assert torch.equal(label, centre(batch["label"], size))


def test_a_crop_larger_than_the_image_is_padded_with_zeros():
    batch = a_batch()
    image, label = BatchAugmentation((30, 26), OFF)(batch)
    torch.testing.assert_close(centre(image, (24, 20)), batch["image"])
    assert torch.equal(centre(label, (24, 20)), batch["label"])
    assert max(image[:, :, :3].abs().max(), image[..., -3:].abs().max()) < 1e-5
    assert label[:, :, :3].max() == label[..., -3:].max() == 0


def test_the_batch_itself_is_left_as_it_is():
    batch = a_batch()
    before = {key: value.clone() for key, value in batch.items()}
    BatchAugmentation((16, 16))(batch)
    assert all(torch.equal(batch[key], before[key]) for key in batch)


def test_one_seed_gives_one_output():
    batch = a_batch()
    outputs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        outputs.append(BatchAugmentation((16, 16))(batch, "cpu", non_blocking=True))
    assert all(torch.equal(*pair) for pair in zip(outputs[0], outputs[1], strict=True))
    assert not torch.equal(outputs[0][0], outputs[2][0])


def test_outputs_have_the_crops_size_labels_and_finite_intensities():
    augment = BatchAugmentation([16, 12], dict.fromkeys(PROBABILITIES, 1.0))
    for _ in range(20):
        image, label = augment(a_batch(8), torch.device("cpu"))
        assert image.shape == label.shape == (8, 1, 16, 12)
        assert label.dtype == torch.uint8 and label.max() <= 3
        assert image.isfinite().all()


SPATIAL = {
    "rotation": {"rotate_prob": 1.0},
    "scaling": {"scale_prob": 1.0},
    "symmetry": {"symmetry_prob": 1.0},
    "shift": {"shift": 12.0},
    "elastic": {"elastic_prob": 1.0},
    "all": {"rotate_prob": 1.0, "scale_prob": 1.0, "symmetry_prob": 1.0, "shift": 12.0, "elastic_prob": 1.0},
}


@pytest.mark.parametrize("fields", SPATIAL.values(), ids=SPATIAL.keys())
def test_image_and_label_move_together(fields):
    mask = blobs()
    image, label = warp(mask, mask.to(torch.uint8), (64, 64), Strength(**only(**fields)))
    assert not torch.equal(label, mask.to(torch.uint8))
    # Linear interpolation of 0 and 1 is above a half where the nearest pixel is 1, but for corners and seams.
    clear = (image - 0.5).abs() > 0.26
    assert torch.equal((image > 0.5)[clear], label[clear].bool())
    assert ((image > 0.5) != label.bool()).float().mean() < 0.01
    assert clear.float().mean() > 0.9


def test_slices_of_a_batch_move_each_on_its_own():
    mask = blobs()
    image, _ = warp(mask, mask.to(torch.uint8), (64, 64), Strength(**only(rotate_prob=1.0)))
    assert len(torch.unique(image, dim=0)) == len(mask)


def test_about_the_given_share_is_changed():
    mask = blobs(400, 32)
    _, label = warp(mask, mask.to(torch.uint8), (32, 32), Strength(**only(symmetry_prob=0.5)))
    changed = (label != mask.to(torch.uint8)).flatten(1).any(1).float().mean().item()
    # A half, of which one eighth draws the identity; four standard deviations of 400 draws.
    assert changed == pytest.approx(0.5 * 7 / 8, abs=0.1)


def test_rotation_keeps_within_its_degrees():
    # A bar along x, seen by its far end: its direction is the angle.
    bar = torch.zeros(60, 1, 65, 65)
    bar[:, :, 32:60, 31:34] = 1
    image, _ = warp(bar, bar.to(torch.uint8), (65, 65), Strength(**only(rotate_prob=1.0, rotate_degrees=30.0)))
    axis = torch.arange(65.0) - 32
    x = (image[:, 0] * axis[:, None]).sum((1, 2)) / image.sum((1, 2, 3))
    y = (image[:, 0] * axis).sum((1, 2)) / image.sum((1, 2, 3))
    degrees = torch.rad2deg(torch.atan2(y, x))
    assert degrees.abs().max() < 31
    assert degrees.min() < -20 and degrees.max() > 20
    torch.testing.assert_close(torch.hypot(x, y), torch.full((60,), 13.5), atol=0.3, rtol=0)


@pytest.mark.parametrize(("limits", "expected"), [((2.0, 2.0), 4.0), ((0.5, 0.5), 0.25)])
def test_scaling_enlarges_by_its_factor(limits, expected):
    mask = blobs()
    fields = only(scale_prob=1.0, scale_range=limits, stretch=0.0)
    _, label = warp(mask, mask.to(torch.uint8), (64, 64), Strength(**fields))
    ratio = label.sum((1, 2, 3)) / mask.sum((1, 2, 3))
    torch.testing.assert_close(ratio, torch.full((8,), expected), atol=0.02, rtol=0)


def test_stretch_changes_the_shape_and_keeps_the_area():
    disc = (
        torch.hypot(*torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")) < 16
    ) * 1.0
    mask = disc.expand(40, 1, 64, 64)
    fields = only(scale_prob=1.0, scale_range=(1.0, 1.0), stretch=0.3)
    _, label = warp(mask, mask.to(torch.uint8), (64, 64), Strength(**fields))
    width, height = (label[:, 0].any(axis).sum(1).float() for axis in (2, 1))
    assert (width / height).max() > 1.3 and (width / height).min() < 1 / 1.3
    assert (width / height).max() < math.exp(0.6) * 1.05
    torch.testing.assert_close(width * height, torch.full((40,), 32.0**2), atol=70, rtol=0)


def test_the_shift_stays_within_its_limit():
    point = torch.zeros(200, 1, 41, 41)
    point[..., 20, 20] = 1
    _, label = warp(point, point.to(torch.uint8), (41, 41), Strength(**only(shift=6.0)))
    found = label.nonzero()
    assert len(found) == 200
    offsets = found[:, 2:] - 20
    assert offsets.abs().max() == 6
    assert (offsets.min(0).values < -4).all() and (offsets.max(0).values > 4).all()


def test_symmetries_are_exact_flips_and_turns():
    image = torch.arange(36.0).reshape(1, 1, 6, 6).expand(200, 1, 6, 6)
    ids = (image % 4).to(torch.uint8)
    warped, label = warp(image, ids, (6, 6), Strength(**only(symmetry_prob=1.0)))
    drawn = []
    for index in range(200):
        matches = [
            number for number, one in enumerate(symmetries(image[0])) if torch.allclose(warped[index], one, atol=1e-4)
        ]
        assert len(matches) == 1
        assert torch.equal(label[index], symmetries(ids[0])[matches[0]])
        drawn += matches
    assert set(drawn) == set(range(8))


def test_elastic_deformation_is_smooth_and_of_its_size():
    # A ramp along x shows how far each pixel has moved along it.
    ramp = torch.arange(96.0).view(1, 1, 96, 1).expand(30, 1, 96, 96)
    fields = only(elastic_prob=1.0, elastic_sd=3.0)
    warped, _ = warp(ramp, torch.zeros(30, 1, 96, 96, dtype=torch.uint8), (64, 64), Strength(**fields))
    moved = warped - centre(ramp, (64, 64))
    assert 1.5 < moved.std() < 3.5
    # Independent pixels would differ from their neighbours by sqrt(2) of that.
    assert moved.diff(dim=2).std() < 0.2 * moved.std()


def a_stack(count: int = 200) -> torch.Tensor:
    """Slices of 2 between neighbours of 1 and 3."""
    return torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(count, 3, 8, 8)


def test_some_neighbours_are_lost():
    lost = lose_neighbours(a_stack(), Strength(**only(lost_prob=0.3)))[:, :, 0, 0]
    assert (lost[:, 1] == 2).all()
    assert ((lost[:, 0] == 0) | (lost[:, 0] == 1)).all() and ((lost[:, 2] == 0) | (lost[:, 2] == 3)).all()
    assert 0.2 < (lost[:, [0, 2]] == 0).float().mean() < 0.4


def test_a_slice_without_neighbours_stays_alone():
    image = torch.rand(3, 1, 8, 8)
    assert lose_neighbours(image, Strength(lost_prob=1.0)) is image


def test_neighbours_move_and_change_with_their_slice():
    mask = blobs()
    batch = {"image": mask.expand(8, 3, 64, 64), "label": mask.to(torch.uint8)}
    image, label = BatchAugmentation((64, 64), {"noise_prob": 0.0, "lost_prob": 0.0})(batch)
    assert image.shape == (8, 3, 64, 64) and label.shape == (8, 1, 64, 64)
    torch.testing.assert_close(image, image[:, 1:2].expand_as(image))


def test_a_neighbour_that_there_is_not_stays_so():
    stack = torch.rand(30, 3, 24, 20)
    stack[:15, 0] = 0
    strength = dict.fromkeys(PROBABILITIES, 1.0) | {"lost_prob": 0.0}
    image, _ = BatchAugmentation((16, 12), strength)({"image": stack, "label": torch.zeros(30, 1, 24, 20)})
    empty = image.flatten(2).eq(0).all(-1)
    # Whichever way up: one neighbour of each of the first fifteen, nothing else.
    assert (empty[:15].sum(1) == 1).all() and not empty[15:].any() and not empty[:, 1].any()


INTENSITIES = ["bias_prob", "blur_prob", "low_resolution_prob", "contrast_prob", "brightness_prob", "gamma_prob"]


def change(image: torch.Tensor, **fields: object) -> torch.Tensor:
    return change_intensities(image, Strength(**only(**fields)))


def test_intensities_stay_with_everything_off():
    image = torch.rand(3, 1, 24, 20)
    torch.testing.assert_close(change(image), image)


@pytest.mark.parametrize("name", [*INTENSITIES, "noise_prob"])
def test_each_intensity_change_alone_changes_the_image_but_not_the_label(name):
    batch = a_batch()
    image, label = BatchAugmentation((24, 20), only(**{name: 1.0}))(batch)
    assert ((image - batch["image"]).abs().amax((1, 2, 3)) > 1e-3).all()
    assert torch.equal(label, batch["label"])


def test_brightness_shifts_all_pixels_alike():
    image = torch.rand(200, 1, 8, 8)
    offset = change(image, brightness_prob=1.0, brightness_sd=0.2) - image
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset), atol=1e-5, rtol=0)
    assert 0.15 < offset[:, 0, 0, 0].std() < 0.25


def test_contrast_keeps_the_mean_and_scales_the_spread():
    image = torch.rand(100, 1, 8, 8)
    changed = change(image, contrast_prob=1.0, contrast_range=(0.5, 2.0))
    torch.testing.assert_close(changed.mean((1, 2, 3)), image.mean((1, 2, 3)))
    factor = changed.std((1, 2, 3)) / image.std((1, 2, 3))
    assert 0.5 <= factor.min() < 0.6 and 1.7 < factor.max() <= 2.0001
    doubled = change(image, contrast_prob=1.0, contrast_range=(2.0, 2.0))
    mean = image.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(doubled, 2 * image - mean)


def test_gamma_keeps_the_ends_and_bends_between():
    image = torch.linspace(-1, 3, 5).view(1, 1, 5, 1)
    squared = change(image, gamma_prob=1.0, gamma_range=(2.0, 2.0))
    torch.testing.assert_close(squared.flatten(), torch.tensor([-1, -0.75, 0, 1.25, 3.0]))
    constant = torch.full((2, 1, 4, 4), 0.3)
    torch.testing.assert_close(change(constant, gamma_prob=1.0), constant)


def test_noise_is_independent_per_pixel_and_within_its_size():
    image = torch.full((50, 1, 32, 32), 0.5)
    noise = change(image, noise_prob=1.0, noise_sd=0.2) - image
    sd = noise.std((1, 2, 3))
    assert sd.max() < 0.21 and sd.min() < 0.05 and sd.mean() == pytest.approx(0.1, abs=0.03)
    assert noise.mean((1, 2, 3)).abs().max() < 0.03
    assert (noise[..., 1:] * noise[..., :-1]).mean().abs() < 0.1 * noise.var()


def test_bias_is_a_smooth_positive_factor():
    image = torch.ones(50, 1, 64, 64)
    field = change(image, bias_prob=1.0, bias_sd=0.3)
    assert (field > 0).all()
    assert 0.15 < field.log().std() < 0.35
    assert field.log().diff(dim=2).std() < 0.1 * field.log().std()
    dark = torch.zeros(2, 1, 64, 64)
    assert torch.equal(change(dark, bias_prob=1.0), dark)


def test_blur_is_a_gaussian_of_its_standard_deviation():
    point = torch.zeros(4, 1, 31, 31)
    point[..., 15, 15] = 1
    blurred = change(point, blur_prob=1.0, blur_range=(1.5, 1.5))
    axis = torch.arange(31.0) - 15
    line = torch.exp(-0.5 * (axis / 1.5) ** 2)
    torch.testing.assert_close(blurred[0, 0], torch.outer(line, line) / line.sum() ** 2, atol=1e-4, rtol=0)
    # Every slice has its own.
    widths = change(point, blur_prob=1.0, blur_range=(0.5, 2.0)).amax((1, 2, 3))
    assert len(widths.unique()) == 4
    flat = torch.full((1, 1, 16, 16), 0.7)
    torch.testing.assert_close(change(flat, blur_prob=1.0), flat)  # no dark rim


def test_lower_resolution_takes_the_detail_and_keeps_the_rest():
    stripes = (torch.arange(64) % 2).float().view(1, 1, 64, 1).expand(1, 1, 64, 64)
    coarse = change(stripes, low_resolution_prob=1.0, low_resolution_range=(4.0, 4.0))
    assert coarse.shape == stripes.shape
    # Sampled at every fourth row, the stripes are gone.
    assert coarse.std() < 1e-3
    ramp = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(1, 1, 64, 64)
    coarse = change(ramp, low_resolution_prob=1.0, low_resolution_range=(2.0, 2.0))
    torch.testing.assert_close(coarse, ramp, atol=0.03, rtol=0)


def test_only_the_share_is_blurred():
    image = torch.rand(300, 1, 9, 9)
    changed = (change(image, blur_prob=0.3) - image).abs().amax((1, 2, 3)) > 1e-4
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.1)


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'rotation'"):
        BatchAugmentation((16, 16), {"rotation": 10})


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_what_is_no_probability_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, expected a probability from 0 to 1"):
        BatchAugmentation((16, 16), {name: value})


def test_the_defaults_are_those_of_strength():
    assert BatchAugmentation((16, 16)).strength == Strength()
    assert BatchAugmentation((16, 16), {"shift": 3.0}).strength == dataclasses.replace(Strength(), shift=3.0)

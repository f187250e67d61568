import pytest
import torch

from cardiac_cine.inferers import HeartWindowInferer, Window, window_size


class Bright(torch.nn.Module):
    """Calls every bright pixel LV, with one convolution so that the number format shows."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1, bias=False)
        torch.nn.init.constant_(self.layer.weight, 2.0)
        self.seen = []

    def forward(self, image):
        doubled = self.layer(image)
        self.seen.append((tuple(image.shape), doubled.dtype))
        bright = (doubled > 1).to(doubled.dtype)
        return 10 * torch.cat([1 - bright, torch.zeros_like(bright), torch.zeros_like(bright), bright], 1)


def image_with_heart(size, x, y, slices=8):
    image = torch.zeros(1, *size, slices)
    image[0, x - 5 : x + 6, y - 4 : y + 5, 1:-1] = 1
    return image


def infer(image, window=(32, 32), **options):
    network = Bright()
    with torch.no_grad():
        logits = HeartWindowInferer(window, **options)(image[None], network)
    return logits[0], network.seen


@pytest.mark.parametrize("middle", [(50, 60), (6, 7), (93, 112), (20, 100)])
def test_the_heart_is_found_wherever_it_is(middle):
    image = image_with_heart((100, 120), *middle)
    logits, _ = infer(image)
    assert logits.shape == (4, 100, 120, 8) and logits.dtype == torch.float32
    torch.testing.assert_close(logits.argmax(0) == 3, image[0] > 0.5)


def test_the_window_is_centred_on_the_heart():
    network = Bright()
    assert HeartWindowInferer((32, 32)).find(image_with_heart((100, 120), 50, 60), network) == Window((34, 44))
    assert HeartWindowInferer((32, 32)).find(image_with_heart((100, 120), 6, 118), network) == Window((0, 88))
    assert HeartWindowInferer((32, 32)).find(torch.zeros(1, 100, 120, 8), network) == Window((34, 44))


def test_the_window_does_not_depend_on_the_order_of_slices():
    torch.manual_seed(0)
    image = torch.rand(1, 70, 80, 10) ** 4
    inferer = HeartWindowInferer((32, 32))
    assert inferer.find(image, Bright()).corner == inferer.find(image.flip(-1), Bright()).corner


@pytest.mark.parametrize("outer_only", [False, True])
def test_slices_beyond_the_middle_are_searched_where_that_shows_no_heart(outer_only):
    image = image_with_heart((60, 60), 20, 40)
    if outer_only:
        image[..., 3:5] = 0
    network = Bright()
    assert HeartWindowInferer((32, 32)).find(image, network) == Window((4, 24))
    # Nine windows in the two middle slices, in all four only where those are empty; the last look is at four.
    assert len(network.seen) == 9 * 2 + 9 * 4 * outer_only + 4


def test_around_the_heart_is_the_window_with_the_base_first():
    image, network = image_with_heart((100, 120), 50, 60), Bright()
    inferer = HeartWindowInferer((32, 32))
    torch.testing.assert_close(inferer.around_heart(image, network), image[:, 34:66, 44:76])
    image[0, 50:54, 60, :2] = 0
    torch.testing.assert_close(inferer.around_heart(image, network), image[:, 34:66, 44:76].flip(-1))
    assert inferer.around_heart(image[:, :20, 40:60], network).shape == (1, 20, 20, 8)


def test_small_images_are_padded():
    image = image_with_heart((20, 40), 10, 20)
    logits, seen = infer(image)
    assert logits.shape == (4, 20, 40, 8)
    torch.testing.assert_close(logits.argmax(0) == 3, image[0] > 0.5)
    assert {shape for shape, _ in seen} == {(1, 1, 32, 32)}
    assert infer(image_with_heart((20, 30), 10, 15))[0].shape == (4, 20, 30, 8)


def test_beyond_the_window_is_background():
    image = image_with_heart((100, 120), 50, 60)
    image[0, 2, 2] = 1
    network = Bright()
    with torch.no_grad():
        logits = HeartWindowInferer((32, 32))(image[None], network, Window((34, 44)))[0]
    assert logits[:, 2, 2].argmax(0).tolist() == [0] * 8
    assert logits[:, 2, 2].softmax(0)[0].min() > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 8), (3, [3, 3, 2])])
def test_slices_go_through_in_batches_in_the_format_asked_for(dtype, batch_size, batches):
    network = Bright()
    inferer = HeartWindowInferer((32, 32), dtype=dtype, batch_size=batch_size)
    with torch.no_grad():
        inferer(image_with_heart((32, 32), 16, 16)[None], network, Window())
    assert network.seen == [((count, 1, 32, 32), dtype) for count in batches]


def test_each_image_has_its_own_window():
    images = torch.stack([image_with_heart((100, 120), 20, 20), image_with_heart((100, 120), 80, 100)])
    with torch.no_grad():
        logits = HeartWindowInferer((32, 32))(images, Bright())
    torch.testing.assert_close(logits.argmax(1) == 3, images[:, 0] > 0.5)


class Ordered(torch.nn.Module):
    """Calls bright pixels LV, but MYO where the neighbour before is dark."""

    def forward(self, image):
        heart = (image[:, 1:2] > 0.5).float()
        myo = heart * (image[:, :1] < 0.5)
        return 10 * torch.cat([1 - heart, torch.zeros_like(heart), myo, heart - myo], 1)


@pytest.mark.parametrize("size", [(100, 120), (32, 32), (20, 30)])
def test_neighbours_towards_the_base_come_first_whatever_the_order_of_slices(size):
    image = torch.zeros(1, *size, 8)
    for z in range(1, 7):
        image[0, 4 + z : 17 - z, 4:17, z] = 1
    inferer = HeartWindowInferer((32, 32), context=1)
    upright, turned = (inferer(stack[None], Ordered())[0].argmax(0) for stack in (image, image.flip(-1)))
    assert set(upright[10, 10].tolist()) == {0, 2, 3} and upright[10, 10, 1] == 2 and (upright[..., 2:] != 2).all()
    torch.testing.assert_close(turned, upright.flip(-1))


class Differing(torch.nn.Module):
    """Calls LV where the middle channel exceeds the mean of its neighbours."""

    def forward(self, image):
        found = (image[:, 1:2] > image[:, [0, 2]].mean(1, keepdim=True)).float()
        return 10 * torch.cat([1 - found, torch.zeros_like(found), torch.zeros_like(found), found], 1)


def test_neighbours_stay_within_their_image():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 50, 60, 4)
    inferer = HeartWindowInferer((32, 32), batch_size=5, context=1)
    together = inferer(images, Differing())
    alone = torch.cat([inferer(image[None], Differing()) for image in images])
    assert together.shape == (3, 4, 50, 60, 4)
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    fixed = inferer(images[:1], Differing(), Window((10, 20)))[0].argmax(0)[10:42, 20:52]
    padded = torch.nn.functional.pad(images[0, 0, 10:42, 20:52], (1, 1))
    expected = padded[..., 1:-1] > (padded[..., :-2] + padded[..., 2:]) / 2
    torch.testing.assert_close(fixed == 3, expected)


def test_batches_need_a_slice():
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        HeartWindowInferer((32, 32), batch_size=0)


def test_window_is_what_the_network_can_halve():
    assert window_size([160, 96], [4, 8, 16, 32]) == (160, 96)


@pytest.mark.parametrize("size", [[160, 100], [0, 160], [160], [160, 160, 160]])
def test_window_that_cannot_be_halved_is_refused(size):
    with pytest.raises(ValueError, match="expected two multiples of 8 for a network of 4 levels") as caught:
        window_size(size, [4, 8, 16, 32])
    assert str(size) in str(caught.value)

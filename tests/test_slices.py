import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.utils.data import DataLoader

from cardiac_cine.losses import OPEN
from cardiac_cine.slices import SliceDataset, keep_batch, with_neighbours


def a_frame(index: int, slices: int, size: tuple[int, int] = (4, 6)) -> dict[str, object]:
    """A frame whose slice z is filled with index + z / 8, and z rows fewer of it are LV: the base comes first."""
    shape = (1, *size, slices)
    heights = torch.arange(slices, dtype=torch.float32).expand(shape)
    rows = torch.arange(size[0]).view(1, -1, 1, 1)
    return {"image": index + heights / 8, "label": 3 * (rows + heights < size[0]).to(torch.int16), "name": index}


def entry(index: int, slices: int, **fields: object) -> dict[str, object]:
    return {"image": f"p{index}.nii.gz", "frame": a_frame(index, slices, **fields)}


def dataset(*entries, context: int = 0) -> SliceDataset:
    return SliceDataset(entries, lambda given: given["frame"], context)


def values(channels: torch.Tensor) -> list[float]:
    """What each channel of one slice is filled with."""
    assert (channels == channels[:, :1, :1]).all()
    return channels[:, 0, 0].tolist()


def height(label: torch.Tensor) -> int:
    """Which slice of its frame a label is of."""
    return label.shape[1] - int((label[0, :, 0] == 3).sum())


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (0, [[1], [2], [3]]),
        (1, [[0, 1, 2], [1, 2, 3], [2, 3, 0]]),
        (2, [[0, 0, 1, 2, 3], [0, 1, 2, 3, 0], [1, 2, 3, 0, 0]]),
        (4, [[0, 0, 0, 0, 1, 2, 3, 0, 0], [0, 0, 0, 1, 2, 3, 0, 0, 0], [0, 0, 1, 2, 3, 0, 0, 0, 0]]),
    ],
)
def test_neighbours_stand_round_their_slice(context, expected):
    stack = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 4, 6)
    seen = with_neighbours(stack, context)
    assert seen.shape == (3, 1 + 2 * context, 4, 6)
    assert [values(channels) for channels in seen] == expected


def test_all_slices_of_all_frames_in_order():
    slices = dataset(entry(1, 3), entry(2, 2))
    assert len(slices) == 5
    assert [(item["image"].unique().tolist(), height(item["label"])) for item in slices] == [
        ([1.0], 0),
        ([1.125], 1),
        ([1.25], 2),
        ([2.0], 0),
        ([2.125], 1),
    ]
    item = slices[4]
    assert item.keys() == {"image", "label"}
    assert (item["image"].shape, item["image"].dtype) == ((1, 4, 6), torch.float32)
    assert (item["label"].shape, item["label"].dtype) == ((1, 4, 6), torch.uint8)


def test_the_axes_keep_their_order():
    image = torch.arange(24.0).reshape(1, 4, 3, 2)
    slices = dataset({"image": "p.nii", "frame": {"image": image, "label": image % 4}})
    for z in range(2):
        torch.testing.assert_close(slices[z]["image"], image[..., z])
        torch.testing.assert_close(slices[z]["label"], (image[..., z] % 4).to(torch.uint8))


def test_neighbours_never_come_from_another_frame():
    slices = dataset(entry(1, 3), entry(2, 1), entry(3, 2), context=1)
    assert [values(item["image"]) for item in slices] == [
        [0, 1, 1.125],
        [1, 1.125, 1.25],
        [1.125, 1.25, 0],
        [0, 2, 0],
        [0, 3, 3.125],
        [3, 3.125, 0],
    ]
    assert [height(item["label"]) for item in slices] == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize("context", [0, 1, 3])
def test_a_frame_is_seen_as_in_inference(context):
    frame = a_frame(1, 5, (8, 6)) | {"image": torch.rand(1, 8, 6, 5).half().float()}
    slices = dataset({"image": "p.nii", "frame": frame}, entry(7, 2, size=(8, 6)), context=context)
    expected = with_neighbours(frame["image"].movedim(-1, 0), context)
    torch.testing.assert_close(slices.__getitems__(range(5))["image"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("context", [0, 1])
def test_a_batch_is_what_its_slices_are(context):
    slices = dataset(entry(1, 3), entry(2, 2), context=context)
    indices = [4, 0, 0, 2]
    batch = slices.__getitems__(indices)
    assert batch["image"].shape == (4, 1 + 2 * context, 4, 6)
    assert batch["label"].shape == (4, 1, 4, 6)
    for key in ("image", "label"):
        torch.testing.assert_close(batch[key], torch.stack([slices[index][key] for index in indices]))
    assert batch["image"].dtype == torch.float32 and batch["label"].dtype == torch.uint8


def test_a_loader_hands_out_whole_batches():
    slices = dataset(entry(1, 3), entry(2, 2))
    batches = list(DataLoader(slices, batch_size=2, collate_fn=keep_batch))
    assert [len(batch["image"]) for batch in batches] == [2, 2, 1]
    expected = torch.stack([item["image"] for item in slices])
    torch.testing.assert_close(torch.cat([batch["image"] for batch in batches]), expected)


def test_a_batch_is_a_copy():
    slices = dataset(entry(1, 3))
    batch = slices.__getitems__([0])
    batch["image"].zero_(), batch["label"].fill_(0)
    assert slices[0]["image"].unique().tolist() == [1.0] and slices[0]["label"].unique().tolist() == [3]


def test_slices_that_were_not_labelled_are_neighbours_only():
    slices = dataset(entry(1, 3) | {"slices": (2, 0)}, entry(2, 2), entry(3, 3) | {"slices": (1,)}, context=1)
    seen = [values(item["image"]) for item in slices]
    assert [sorted((one, one[::-1])) for one in seen[:2] + seen[4:]] == [
        [[0, 1.25, 1.125], [1.125, 1.25, 0]],
        [[0, 1, 1.125], [1.125, 1, 0]],
        [[3, 3.125, 3.25], [3.25, 3.125, 3]],
    ]
    assert seen[2:4] == [[0, 2, 2.125], [2, 2.125, 0]]
    assert [height(item["label"]) for item in slices] == [2, 0, 0, 1, 1]
    assert height(slices.__getitems__([4, 1])["label"][1]) == 0


def turned(given: dict[str, object]) -> dict[str, object]:
    frame = {key: value.flip(-1) if key != "name" else value for key, value in given["frame"].items()}
    return given | {"frame": frame}


def test_neighbours_towards_the_base_come_first_whatever_the_order_of_slices():
    slices = dataset(entry(1, 3), turned(entry(2, 3)), context=1)
    assert [values(item["image"]) for item in slices] == [
        [0, 1, 1.125],
        [1, 1.125, 1.25],
        [1.125, 1.25, 0],
        [2.125, 2.25, 0],
        [2, 2.125, 2.25],
        [0, 2, 2.125],
    ]


@pytest.mark.parametrize("unknown", [{"slices": (0, 1)}, {"structures": (1, 3)}, {"label": torch.zeros(1, 4, 6, 3)}])
def test_neighbours_come_either_way_where_the_base_is_not_known(unknown):
    frame = a_frame(1, 3) | {key: value for key, value in unknown.items() if key == "label"}
    slices = dataset(entry(1, 3) | unknown | {"frame": frame, "image": "p1.nii.gz"}, context=1)
    torch.manual_seed(0)
    seen = slices.__getitems__([1] * 200)["image"]
    first = seen[:, 0, 0, 0]
    assert set(first.tolist()) == {1, 1.25} and (seen[:, 0] + seen[:, 2] == 2.25).all()
    assert 0.4 < (first == 1).float().mean() < 0.6


def test_background_is_open_where_a_structure_was_not_drawn():
    label = torch.arange(3).expand(1, 4, 6, 3)
    entries = [
        entry(index, 3) | {"frame": a_frame(index, 3) | {"label": label}, "structures": drawn}
        for index, drawn in ((1, (1, 2)), (2, (1, 2, 3)))
    ]
    slices = dataset(*entries)
    assert [values(item["label"]) for item in slices] == [[OPEN + 0b1001], [1], [2], [0], [1], [2]]


@pytest.mark.parametrize("index", [-1, 3])
def test_a_slice_that_there_is_not_is_refused(index):
    with pytest.raises(ValueError, match=rf"p1.nii.gz: slices \[0, {index}\] of 3, counted from 0"):
        dataset(entry(1, 3) | {"slices": (0, index)})


def test_three_bytes_a_pixel():
    slices = dataset(entry(1, 3))
    assert sum(part.element_size() for part in (slices.images, slices.labels)) == 3
    assert slices.labels.shape == (3, 1, 4, 6)
    assert slices.images.shape == (4, 1, 4, 6)  # one more, empty: the neighbour that there is not


@pytest.mark.parametrize("kind", [np.asarray, MetaTensor])
def test_arrays_and_metatensors_become_plain_tensors(kind):
    frame = {key: kind(value) for key, value in a_frame(1, 2).items() if key != "name"}
    slices = dataset({"image": "p.nii", "frame": frame})
    assert type(slices[0]["image"]) is type(slices[0]["label"]) is torch.Tensor
    assert type(slices.__getitems__([1])["image"]) is torch.Tensor


def test_frames_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match=r"p3.nii.gz: in-plane size \(5, 6\) after preprocessing, expected \(4, 6\) as for the frames"
    ):
        dataset(entry(1, 2), entry(2, 3), entry(3, 2, size=(5, 6)))


def test_an_image_and_a_label_of_two_sizes_are_refused():
    frame = {"image": torch.zeros(1, 4, 6, 3), "label": torch.zeros(1, 4, 6, 2)}
    with pytest.raises(ValueError, match=r"p.nii: image \(1, 4, 6, 3\) and label \(1, 4, 6, 2\) differ"):
        dataset({"image": "p.nii", "frame": frame})

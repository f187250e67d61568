import math

import pytest
import torch
from monai.losses import DiceCELoss

from cardiac_cine.losses import OPEN, PartialDiceCELoss, leave_open

# What an undrawn RV and myocardium leave open: bits 0, 1 and 2.
BACKGROUND_RV_MYO = OPEN + 0b0111


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def logits_of(*probabilities: tuple[float, ...]) -> torch.Tensor:
    """One row of pixels with these class probabilities, (1, 4, 1, n)."""
    return torch.tensor(probabilities).log().T[None, :, None]


def row(*ids: int) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.uint8).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ((1, 2, 3), [0, 1, 2, 3]),
        ((3,), [OPEN + 0b0111, 1, 2, 3]),
        ((1, 2), [OPEN + 0b1001, 1, 2, 3]),
        ((), [OPEN + 0b1111, 1, 2, 3]),
    ],
)
def test_background_stays_open_to_what_was_not_drawn(drawn, expected):
    label = row(0, 1, 2, 3)
    assert leave_open(label, drawn).flatten().tolist() == expected
    assert leave_open(label, drawn).dtype == torch.uint8
    assert label.flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("drawn", [(0, 3), (4,), (1, 2, 3, 7)])
def test_only_structures_are_drawn(drawn):
    with pytest.raises(ValueError, match=r"were drawn, expected only \(1, 2, 3\)"):
        leave_open(row(0), drawn)


@pytest.mark.parametrize("shape", [(5, 4, 24, 20), (2, 4, 9, 8, 3)])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels last"])
def test_complete_labels_give_monais_loss(shape, memory_format):
    logits = torch.randn(shape)
    if memory_format == "channels last":
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    label = torch.randint(0, 4, (shape[0], 1, *shape[2:]), dtype=torch.uint8)
    expected = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(logits, label)
    torch.testing.assert_close(PartialDiceCELoss()(logits, label), expected, rtol=0, atol=1e-6)


def test_the_partial_formula_is_the_complete_one_where_all_is_certain():
    """A single open pixel whose classes are all possible adds nothing but a pixel to the cross-entropy's mean."""
    logits, label = torch.randn(1, 4, 1, 100), torch.randint(0, 4, (1, 1, 1, 100), dtype=torch.uint8)
    label[..., 0] = OPEN + 0b1111
    known = logits[..., 1:], label[..., 1:]
    dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    expected = dice_ce.dice(*known) + dice_ce.ce(*known) * 99 / 100
    torch.testing.assert_close(PartialDiceCELoss()(logits, label), expected)


def test_by_hand():
    logits = logits_of((0.4, 0.2, 0.1, 0.3), (0.1, 0.1, 0.1, 0.7))
    loss = PartialDiceCELoss()(logits, row(BACKGROUND_RV_MYO, 3)).item()
    cross_entropy = -(math.log(0.4 + 0.2 + 0.1) + math.log(0.7)) / 2
    # The first pixel is surely no LV and says nothing of the others; the second is surely LV.
    small = 1e-5
    dice = [small / (0.1 + small)] * 3 + [(2 * 0.7 + small) / (0.3 + 0.7 + 1 + small)]
    assert loss == pytest.approx(1 - sum(dice) / 4 + cross_entropy, abs=1e-6)


def test_an_open_pixel_may_be_any_of_its_classes():
    label = row(BACKGROUND_RV_MYO, 3)
    sure = [
        PartialDiceCELoss()(logits_of(p, (1e-6, 1e-6, 1e-6, 1.0)), label)
        for p in ((1.0, 1e-6, 1e-6, 1e-6), (1e-6, 1.0, 1e-6, 1e-6), (1e-6, 1e-6, 1.0, 1e-6))
    ]
    torch.testing.assert_close(torch.stack(sure), sure[0].expand(3), atol=1e-4, rtol=0)
    assert PartialDiceCELoss()(logits_of((1e-6, 1e-6, 1e-6, 1.0), (1e-6, 1e-6, 1e-6, 1.0)), label) > sure[0] + 1


def test_gradients_are_finite_and_leave_open_classes_alone():
    logits = (20 * torch.randn(2, 4, 8, 8)).requires_grad_()
    label = torch.full((2, 1, 8, 8), OPEN + 0b1111, dtype=torch.uint8)
    PartialDiceCELoss()(logits, label).backward()
    assert logits.grad.abs().max() < 1e-6  # any class will do
    label[:, :, :4] = 3
    PartialDiceCELoss()(logits, label).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().max() > 1e-4


def test_only_one_structure_is_learnt_from_where_only_it_was_drawn():
    """Descending from no knowledge, LV is found and the other classes share the rest."""
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[..., 2:5, 2:5] = 3
    logits = torch.zeros(1, 4, 8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        PartialDiceCELoss()(logits, leave_open(label, (3,))).backward()
        optimizer.step()
    probabilities = logits.softmax(1)[0]
    assert ((probabilities[3] > 0.9) == (label[0, 0] == 3)).all()
    open_pixels = probabilities[:3, 6]
    torch.testing.assert_close(open_pixels, open_pixels[:1].expand(3, 8), atol=0.05, rtol=0)

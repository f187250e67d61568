import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cardiac_cine.annotation.active_learning import (
    PhaseScores,
    Spread,
    bottleneck_features,
    describe,
    dice_uncertainty,
    ef_spread,
    novelty,
    score_phases,
    standardise,
    temporal_disagreement,
)
from cardiac_cine.cine import Cine
from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.segmenter import Segmenter

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def probabilities(rv: list[float], myo: list[float], lv: list[float]) -> np.ndarray:
    """Probabilities of a row of voxels, the background's being what is left."""
    foreground = np.array([rv, myo, lv])
    return np.concatenate([1 - foreground.sum(0, keepdims=True), foreground])[:, :, None, None]


@pytest.fixture
def a_row() -> np.ndarray:
    #                      RV        RV   edge  MYO  MYO  LV   LV?
    return probabilities([1.0, 0.8, 0.4, 0, 0, 0, 0], [0, 0, 0, 1, 0.75, 0.25, 0], [0, 0, 0, 0, 0.25, 0.75, 0.4])


def test_uncertainty_is_one_minus_the_soft_dice_confidence(a_row):
    uncertainty = dice_uncertainty(a_row)
    assert uncertainty == pytest.approx(
        {
            "rv": 1 - 2 * 1.8 / (2.2 + 2),  # voxels of 1 and 0.8 in the mask, of 0.4 beyond it
            "myo": 1 - 2 * 1.75 / (2.0 + 2),
            "lv": 1 - 2 * 0.75 / (1.4 + 1),
        }
    )


def test_uncertainty_of_a_sure_prediction_is_0_and_of_a_missing_structure_1():
    sure = probabilities([1, 0, 0], [0, 1, 0], [0, 0, 0])
    assert dice_uncertainty(sure) == {"rv": 0.0, "myo": 0.0, "lv": 1.0}
    doubtful = probabilities([1, 0, 0], [0, 1, 0], [0, 0, 0.45])
    assert dice_uncertainty(doubtful)["lv"] == 1.0


def test_uncertainty_does_not_depend_on_the_size_or_the_surroundings_of_the_heart(a_row):
    expected = dice_uncertainty(a_row)
    larger = a_row.repeat(4, axis=1).repeat(3, axis=2).repeat(2, axis=3)
    assert dice_uncertainty(larger) == pytest.approx(expected)
    # A wide field of view with the little that a softmax leaves everywhere.
    around = np.full((4, 107, 100, 1), 0.002)
    around[0] = 1 - 0.006
    around[:, :7, :1] = a_row
    assert dice_uncertainty(around) == pytest.approx(expected)
    assert dice_uncertainty(a_row[:, ::-1]) == pytest.approx(expected)


def test_uncertainty_grows_with_the_softness_of_the_edge():
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) < 10
    found = []
    for width in (1, 2, 4):
        lv = gaussian_filter(disc.astype(float), width)
        found.append(dice_uncertainty(np.stack([1 - lv, 0 * lv, 0 * lv, lv])[..., None])["lv"])
    assert 0 < found[0] < found[1] < found[2] < 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2, 2, 2)), r"probabilities must be \(4, x, y, z\), got shape \(3, 2, 2, 2\)"),
        (np.zeros((4, 2, 2)), r"probabilities must be \(4, x, y, z\), got shape \(4, 2, 2\)"),
        (np.full((4, 1, 1, 1), 1.5), "probabilities must be from 0 to 1"),
        (np.full((4, 1, 1, 1), math.nan), "probabilities must be from 0 to 1"),
    ],
)
def test_uncertainty_rejects(array, message):
    with pytest.raises(ValueError, match=message):
        dice_uncertainty(array)


def masks(lengths: list[int], label: int = LV) -> np.ndarray:
    """A bar of so many voxels in each phase, (12, 1, 1, t)."""
    array = np.zeros((12, 1, 1, len(lengths)), np.uint8)
    for phase, length in enumerate(lengths):
        array[:length, ..., phase] = label
    return array


def test_a_static_cine_agrees_with_itself():
    assert temporal_disagreement(masks([5] * 8)) == (0.0,) * 8


def test_a_border_that_moves_one_way_costs_nothing_and_a_turn_a_little():
    found = temporal_disagreement(masks([10, 9, 6, 3, 2, 4, 6, 8]))
    # At the turns the majority is the nearer neighbour's mask: Dice of 10 and 9, and of 2 and 3 voxels.
    assert found == pytest.approx((1 - 2 * 9 / 19, 0, 0, 0, 1 - 2 * 2 / 5, 0, 0, 0))


def test_a_mask_lost_in_one_phase_disagrees_fully_there_and_not_beside_it():
    assert temporal_disagreement(masks([6, 6, 6, 0, 6, 6, 6, 6])) == (0, 0, 0, 1.0, 0, 0, 0, 0)


def test_the_disagreement_is_the_mean_of_the_structures_that_there_are():
    both = np.concatenate([masks([6, 6, 6, 0, 6, 6, 6, 6]), masks([5] * 8, MYO)])
    assert temporal_disagreement(both) == (0, 0, 0, 0.5, 0, 0, 0, 0)
    # The first and the last phase are neighbours.
    turned = np.roll(both, -3, axis=3)
    assert temporal_disagreement(turned) == (0.5, 0, 0, 0, 0, 0, 0, 0)
    assert temporal_disagreement(both.repeat(3, axis=1)) == (0, 0, 0, 0.5, 0, 0, 0, 0)


def test_the_disagreement_is_undefined_without_masks_or_neighbours():
    assert all(map(math.isnan, temporal_disagreement(masks([0] * 8))))
    assert all(map(math.isnan, temporal_disagreement(masks([5] * 7))))
    with pytest.raises(ValueError, match="masks must hold integer label ids"):
        temporal_disagreement(np.zeros((2, 2, 2, 8)))


def test_the_spread_of_the_ejection_fraction_is_in_points():
    # Ejection fractions of 50, 60 and 70 %.
    found = ef_spread([100, 100, 200], [50, 40, 60])
    assert found == pytest.approx(Spread(10.0, math.sqrt(10000 / 3), 10.0))
    assert ef_spread([100, 100], [50, 50]) == Spread(0.0, 0.0, 0.0)


def test_a_variant_without_a_ventricle_is_left_out_of_the_spread():
    assert ef_spread([100, 0, 100], [50, 40, 60]) == pytest.approx(Spread(math.sqrt(50), 0.0, 10.0))
    only_one = ef_spread([100, 0, 0], [50, 40, math.nan])
    assert math.isnan(only_one.lv_ef_points)
    assert math.isnan(only_one.lv_edv_ml)
    assert only_one.lv_esv_ml == pytest.approx(math.sqrt(50))
    with pytest.raises(ValueError, match="shorter"):
        ef_spread([100, 100], [50])
    with pytest.raises(ValueError, match="edv_ml must be a volume of 0 mL or more, got -1"):
        ef_spread([-1.0], [50])


def test_novelty_is_the_distance_to_the_nearest_centre():
    points = np.array([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    assert novelty(points, points[:1]).tolist() == [0.0, 5.0, 10.0]
    assert novelty(points, points[[0, 2]]).tolist() == [0.0, 5.0, 0.0]
    assert novelty(np.zeros((0, 2)), points).tolist() == []


def test_without_centres_the_most_typical_point_comes_first():
    points = np.array([[0.0], [1.0], [2.0], [9.0]])  # of mean 3
    assert novelty(points, points[:0]).tolist() == [-3.0, -2.0, -1.0, -6.0]


def test_greedy_choice_covers_clusters_before_it_returns_to_one():
    rng = np.random.default_rng(0)
    points = np.concatenate([centre + rng.normal(0, 0.1, (5, 2)) for centre in ([0, 0], [5, 0], [0, 5])])
    chosen = [0]
    for _ in range(2):
        chosen.append(int(novelty(points, points[chosen]).argmax()))
    assert {index // 5 for index in chosen} == {0, 1, 2}


def test_standardised_columns_are_comparable_and_unknowns_are_average():
    points = np.array([[1.0, 7.3, 10.0, math.nan], [2.0, 7.3, math.nan, math.nan], [3.0, 7.3, 30.0, math.nan]])
    found = standardise(points)
    root = math.sqrt(1.5)
    assert found == pytest.approx(np.array([[-root, 0, -1, 0], [0, 0, 0, 0], [root, 0, 1, 0]]))


def a_cine(array: np.ndarray, spacing_mm=(1.0, 4.0, 10.0)) -> Cine:
    return Cine("a", Path("a.nii.gz"), array, np.diag([*spacing_mm, 1.0]))


def test_a_cine_is_described_by_its_scan_and_its_motion():
    array = np.zeros((4, 1, 2, 2), np.int16)
    array[2:] = 100
    array[..., 1] = array[::-1, ..., 0]  # everything moves once, and back
    described = describe(a_cine(array))
    assert described == pytest.approx([math.log(2), math.log(10), math.log(4), math.log(2), math.log(2), 0, 0.5, 1, 2])
    # Neither the units of the voxels nor a phase that repeats another make a difference.
    assert describe(a_cine(3 * array + 7)) == pytest.approx(described)
    assert describe(a_cine(array.repeat(2, axis=3)))[-1] == pytest.approx(2)
    assert math.isnan(describe(a_cine(array[..., :1]))[-1])
    assert describe(a_cine(np.zeros_like(array)))[5:] == pytest.approx([0, 0, 0, 0])


def test_features_are_of_the_frame_and_not_of_the_search_for_it():
    searched, slices = torch.full((4, 3, 2, 2), 100.0), torch.zeros(5, 3, 2, 2)
    slices[:, 1] = 2.0
    slices[0, 2, 0, 0] = 20.0
    assert bottleneck_features([searched, slices[:2], slices[2:]], 5).tolist() == [0.0, 2.0, 1.0]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle(BUNDLE, device="cpu")


@pytest.fixture(scope="module")
def clean() -> Cine:
    spec = PhantomSpec(phases=2, shape=(112, 112), spacing_mm=(2.0, 2.0, 20.0), oblique=False, noise_sd=0.01)
    phantom = render(spec)
    return a_cine(phantom.image[:, :, 2:5], (2.0, 2.0, 20.0))


def scored(segmenter: Segmenter, cine: Cine) -> PhaseScores:
    masks = np.zeros(cine.array.shape, np.uint8)
    return score_phases(segmenter, cine, masks, [1], ed_frame=0, es_frame=1)[1]


def test_the_shipped_network_is_less_sure_of_a_noisy_and_of_a_blurred_image(segmenter, clean):
    noise = np.random.default_rng(0).normal(0, 0.5 * clean.array.std(), clean.array.shape)
    noisy = replace(clean, array=np.float32(clean.array + noise))
    blurred = replace(clean, array=gaussian_filter(np.float32(clean.array), (4, 4, 0, 0)))
    plain = scored(segmenter, clean)
    for spoilt in (noisy, blurred):
        logits = segmenter.predict(segmenter.preprocess(spoilt.frame(1)))["pred"]
        uncertainty = dice_uncertainty(torch.softmax(logits, 0).numpy())
        assert 0 < plain.uncertainty < np.mean(list(uncertainty.values())) < 1
    assert plain.uncertainty == pytest.approx(np.mean(list(plain.structures.values())))
    assert 0 < plain.spread.lv_ef_points < 5
    assert 0 < plain.spread.lv_edv_ml < 20
    assert math.isnan(plain.temporal) and math.isnan(plain.temporal_phase)  # two phases
    assert plain.features.shape == (256,)
    assert not segmenter.network.bottleneck._forward_hooks


def test_a_cine_without_systole_has_no_spread_of_its_ejection_fraction(segmenter, clean):
    one = replace(clean, array=clean.array[..., :1])
    found = score_phases(segmenter, one, np.zeros(one.array.shape, np.uint8), [0], ed_frame=0, es_frame=0)[0]
    assert math.isnan(found.spread.lv_ef_points)
    assert math.isnan(found.spread.lv_esv_ml)
    assert found.spread.lv_edv_ml > 0


def test_a_static_cine_is_segmented_alike_and_disagrees_nowhere(segmenter, clean):
    static = replace(clean, array=clean.array[..., :1].repeat(8, axis=3))
    found = segmenter.segment_cine(static)
    assert set(np.unique(found)) == {0, RV, MYO, LV}
    assert temporal_disagreement(found) == (0.0,) * 8

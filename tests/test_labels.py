import json
from pathlib import Path

import numpy as np
import pytest

from cardiac_cine.labels import (
    BACKGROUND,
    BY_KEY,
    LV,
    MYO,
    NUM_CLASSES,
    RV,
    STRUCTURE_IDS,
    STRUCTURE_KEYS,
    STRUCTURES,
    check_mask,
)

METADATA = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "metadata.json"


def test_ids_are_those_of_acdc_in_the_order_of_the_channels():
    assert (BACKGROUND, RV, MYO, LV, NUM_CLASSES) == (0, 1, 2, 3, 4)
    assert STRUCTURE_IDS == (1, 2, 3)
    assert STRUCTURE_KEYS == ("rv", "myo", "lv")
    assert {key: structure.id for key, structure in BY_KEY.items()} == {"rv": 1, "myo": 2, "lv": 3}


def test_rv_is_red_myocardium_blue_and_lv_green():
    strongest = {structure.key: int(np.argmax(structure.colour)) for structure in STRUCTURES}
    assert strongest == {"rv": 0, "myo": 2, "lv": 1}
    assert all(0 <= value <= 255 for structure in STRUCTURES for value in structure.colour)


def test_metadata_names_the_same_channels():
    metadata = json.loads(METADATA.read_text())
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["num_channels"] == NUM_CLASSES
    channels = {int(index): name for index, name in output["channel_def"].items()}
    assert channels.pop(BACKGROUND) == "background"
    assert channels == {structure.id: structure.name for structure in STRUCTURES}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_a_mask_passes(dtype):
    check_mask(np.array([[0, 1], [2, 3]], dtype), 2)
    check_mask(np.zeros((1, 1, 1), dtype), 3)


@pytest.mark.parametrize(
    ("mask", "ndim", "message"),
    [
        (np.zeros((2, 2), int), 3, r"heart must be a non-empty 3D array, got shape \(2, 2\)"),
        (np.zeros((2, 0, 2), int), 3, r"heart must be a non-empty 3D array, got shape \(2, 0, 2\)"),
        (np.zeros((2, 2)), 2, "heart must hold integer label ids, got float64"),
        (np.zeros((2, 2), bool), 2, "heart must hold integer label ids, got bool"),
        (np.array([[0, 4]]), 2, r"heart holds label ids \[0, 4\], expected only \[0, 1, 2, 3\]"),
        (np.array([[-1, 3]]), 2, r"heart holds label ids \[-1, 3\], expected only \[0, 1, 2, 3\]"),
    ],
)
def test_what_is_no_mask_is_refused(mask, ndim, message):
    with pytest.raises(ValueError, match=message):
        check_mask(mask, ndim, "heart")

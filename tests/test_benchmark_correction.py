import json
import sys

import benchmark_correction
import cli
import numpy as np
import pytest

from cardiac_cine.annotation.correction import BACKGROUND_SEED
from cardiac_cine.errors import InputError
from cardiac_cine.labels import LV, MYO, RV


def test_the_table(phantom_acdc, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [phantom_acdc, "--patients", 1, "--clicks", 2, "--output_dir", out]
    arguments += ["--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["benchmark_correction.py", *map(str, arguments)])
    assert cli.main(benchmark_correction.benchmark_correction, "benchmark_correction.py") == cli.DONE
    result = json.loads((out / "correction.json").read_text())
    assert len(result["slices"]) == 2 and len(result["methods"]) == 4
    (start,) = {row["dice"][0] for row in result["methods"].values()}
    assert 0 < start < result["methods"]["correction"]["dice"][2] < 1
    assert all(len(row["dice"]) == len(row["wrong_cm2"]) == 3 for row in result["methods"].values())
    text = (out / "correction.md").read_text()
    assert text in capsys.readouterr().out and "| start | 1 click | 2 clicks | median s |" in text


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r"patients is 0, expected at least 1\n- clicks is -1"):
        benchmark_correction.benchmark_correction("nowhere", patients=0, clicks=-1)


@pytest.mark.parametrize(("label", "seed"), [(RV, RV), (LV, LV), (0, BACKGROUND_SEED)])
def test_the_next_click_is_in_the_middle_of_the_largest_error(label, seed):
    reference = np.full((30, 30), MYO, np.uint8)
    mask = reference.copy()
    reference[5:14, 10:19] = label
    reference[20:22, 5:8] = (label + 1) % 4
    assert benchmark_correction.next_click(mask, reference) == (9, 14, seed)


def test_pieces_of_different_labels_are_different_errors():
    mask = np.full((30, 30), MYO, np.uint8)
    reference = mask.copy()
    reference[5:10, 5:10] = LV
    reference[10:13, 5:10] = RV
    assert benchmark_correction.next_click(mask, reference) == (7, 7, LV)


def test_nothing_wrong_no_click():
    mask = np.full((5, 5), LV, np.uint8)
    assert benchmark_correction.next_click(mask, mask) is None


@pytest.mark.parametrize("name", list(benchmark_correction.methods()))
def test_a_method_puts_every_click_right(name):
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 40, 1), np.uint8)
    mask[10:30, 10:30] = MYO
    reference = mask.copy()
    reference[10:20, 12:25] = LV
    image = (reference * 100.0 + rng.normal(0, 5, mask.shape)).astype(np.float32)
    item = benchmark_correction.Slice("x", image, mask, reference, np.full((4, 40, 40, 1), 0.25), (1.5, 1.5, 8.0))
    found = benchmark_correction.correct_by_clicks(item, benchmark_correction.methods()[name], 3)
    assert len(found["dice"]) == 4 and found["dice"][0] < 0.5
    seeds = np.zeros_like(mask)
    seeds[15, 18, 0], seeds[25, 25, 0], seeds[2, 2, 0] = LV, MYO, BACKGROUND_SEED
    corrected = benchmark_correction.methods()[name](item, seeds)
    assert corrected.shape == mask.shape and [corrected[p] for p in ((15, 18, 0), (25, 25, 0), (2, 2, 0))] == [3, 2, 0]

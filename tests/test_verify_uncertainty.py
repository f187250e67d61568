import json

import pytest
from verify_uncertainty import verify

from cardiac_cine.errors import InputError


def test_a_table_of_rank_correlations(phantom_acdc, tmp_path, capsys):
    assert verify(str(phantom_acdc), output_dir=str(tmp_path), section="training", device="cpu") == 0
    rows = json.loads((tmp_path / "uncertainty.json").read_text())
    assert len(rows) == 8 and {"error_rv", "uncertainty_mean", "entropy_lv"} <= rows[0].keys()
    assert all(0 <= row["error_mean"] < 0.5 and 0 <= row["uncertainty_mean"] < 0.5 for row in rows)
    table = (tmp_path / "uncertainty.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()] == [
        "score",
        "---",
        "1 - expected Dice",
        "entropy, mean over the volume",
    ]
    assert table in capsys.readouterr().out


def test_no_frames_no_table(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        verify(str(tmp_path / "none"), output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()

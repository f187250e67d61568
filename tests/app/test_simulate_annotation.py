import sys

import cli
import pytest

pytest.importorskip("monailabel", reason="needs the app's packages: pip install -r requirements-app.txt")

import simulate_annotation


@pytest.mark.parametrize(("few", "many"), [(1, 10), (2, 2), (5, 3)])
def test_an_order_of_numbers_that_makes_no_sense_is_wrong_input(monkeypatch, capsys, tmp_path, few, many):
    arguments = [str(tmp_path), "--few", str(few), "--many", str(many), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["simulate_annotation.py", *arguments])
    assert cli.main(simulate_annotation.simulate, "simulate_annotation.py") == cli.WRONG_INPUT
    assert f"few is {few} and many is {many}, expected 2 or more and more than that" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

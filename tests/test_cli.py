import subprocess
import sys
from pathlib import Path

import benchmark_server
import pytest
import simulate_annotation
from conftest import REPO

from cardiac_cine.errors import InputError

SCRIPT = """
import sys
sys.path.insert(0, {scripts!r})
import cli
from cardiac_cine.errors import InputError

def show(source: str, out: str | None = None, *, count: int = 1, name: str = "x") -> None:
    '''Show what arrived.'''
    if source == "bad":
        raise InputError(["first", "second"], "two problems:")
    if source == "broken":
        raise RuntimeError("a bug")
    if source == "stop":
        raise KeyboardInterrupt
    print(repr((source, out, count, name)))

def store(*, output_dir: str = "results") -> None:
    print("stored in", output_dir)

sys.exit(cli.main({commands}, "show.py"))
"""


def run(*arguments, commands="show"):
    code = SCRIPT.format(scripts=str(REPO / "scripts"), commands=commands)
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["2024_01"], "('2024_01', None, 1, 'x')"),
        (["a", "1e3", "--count", "3", "--name", "7"], "('a', '1e3', 3, '7')"),
        (["--source=5", "--name=[1]", "--count=2"], "('5', None, 2, '[1]')"),
        (["None", "--out", "True"], "('None', 'True', 1, 'x')"),
    ],
)
def test_text_stays_text_and_numbers_are_numbers(arguments, expected):
    done = run(*arguments)
    assert (done.returncode, done.stdout.strip()) == (0, expected)
    assert run("show", *arguments, commands="{'show': show}").stdout.strip() == expected


def test_bad_input_is_told_without_a_traceback():
    done = run("bad")
    assert (done.returncode, done.stderr) == (1, "two problems:\n- first\n- second\n")


def test_a_bug_keeps_its_traceback_and_has_its_own_code():
    done = run("broken")
    assert done.returncode == 2
    assert "RuntimeError: a bug" in done.stderr
    assert run("stop").returncode == 2


@pytest.mark.parametrize("arguments", [[], ["a", "--mistyped", "1"], ["a", "b", "c"]])
def test_wrong_arguments_run_nothing(arguments):
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""


def test_results_without_a_place_to_go_to_are_not_worked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(commands="store").stdout == "stored in results\n"
    Path("results").touch()
    for arguments, folder in (((), "results"), (("--output_dir", "results/1"), "results/1")):
        done = run(*arguments, commands="store")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"output_dir {folder}: " in done.stderr and "expected a folder to write to" in done.stderr


def test_help_is_not_an_error():
    done = run("--help")
    assert done.returncode == 0
    assert "Show what arrived." in done.stdout + done.stderr
    assert "GROUP" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [benchmark_server.benchmark, simulate_annotation.simulate])
def test_what_the_annotation_server_needs_is_named(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monailabel", None)
    with pytest.raises(InputError, match=r"monailabel is not installed, expected .*: make app"):
        command(str(tmp_path))

"""What the command lines share: how arguments become a call, and what its outcome means as an exit code."""

import functools
import importlib.util
import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
from fire.core import FireExit
from fire.parser import DefaultParseValue

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

DONE, WRONG_INPUT, FAILED = range(3)

# MONAI and torch report GPU helpers that are not installed, which says nothing to who reads a command's output.
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


class _Job:
    """A call that Fire has parsed and not made yet."""

    def __init__(self, command: Callable[..., int | None], arguments: inspect.BoundArguments) -> None:
        self._command, self._arguments = command, arguments

    def run(self) -> int | None:
        """Make the call, if its results have a place to go to."""
        from cardiac_cine.files import check_writable

        if self._arguments.arguments.get("output_dir"):
            check_writable(Path(self._arguments.arguments["output_dir"]), "output_dir")
        return self._command(*self._arguments.args, **self._arguments.kwargs)


def main(commands: Callable | Mapping[str, Callable], name: str) -> int:
    """Parse the command line, make the call it asks for and return the exit code.

    Fire complains about a superfluous argument only after the call; so it parses here and the call follows, and a
    mistyped flag writes nothing. Parameters annotated as text stay text, whatever they look like: a folder named
    2024_01 is not the number 202401.

    Args:
        commands: a function, or name to function. Each returns an exit code, or None for 0. Its InputErrors are
            printed without a traceback and exit with 1, all other errors with 2.
        name: the script's file name, for the help.

    Returns:
        0 done, 1 wrong input, 2 failed or interrupted.
    """
    if isinstance(commands, Mapping):
        parsers: Any = {key: _parser(command) for key, command in commands.items()}
        arguments = _quoted(sys.argv[1:], commands.values())
    else:
        parsers = _parser(commands)
        arguments = _quoted(sys.argv[1:], [commands])
    try:
        job = fire.Fire(parsers, command=arguments, name=name, serialize=lambda _: None)
    except FireExit as stop:
        return WRONG_INPUT if stop.code else DONE
    if not isinstance(job, _Job):
        return DONE  # Fire has shown its help
    from cardiac_cine.errors import InputError

    try:
        return job.run() or DONE
    except InputError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED
    except Exception:  # any other error means the exit code of failure, which is not Python's own
        traceback.print_exc()
        return FAILED


def check_app() -> None:
    """Check that MONAI Label is installed, which the annotation server runs on and segmenting does without.

    Raises:
        InputError: it is not.
    """
    from cardiac_cine.errors import InputError

    if importlib.util.find_spec("monailabel") is None:
        raise InputError("monailabel is not installed, expected the annotation server's environment: make app")


def _parser(command: Callable) -> Callable[..., _Job]:
    @functools.wraps(command)
    def parse(*args: Any, **kwargs: Any) -> _Job:
        arguments = inspect.signature(command).bind(*args, **kwargs)
        arguments.apply_defaults()
        return _Job(command, arguments)

    return parse


def _quoted(arguments: Sequence[str], commands: Iterable[Callable]) -> list[str]:
    """Quote what Fire would not leave as text: positional values, all of them text here, and values of text flags."""
    texts = {
        parameter.name
        for command in commands
        for parameter in inspect.signature(command).parameters.values()
        if parameter.annotation in (str, str | None)
    }
    quoted = []
    is_text = True
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if flag:
            is_text = flag[2:].replace("-", "_") in texts
        if (equals or not flag) and is_text and DefaultParseValue(value) != value:
            quoted.append(f"{flag}{equals}{value!r}")
        else:
            quoted.append(argument)
        is_text = is_text if flag and not equals else True
    return quoted

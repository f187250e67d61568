import ast
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cardiac_cine.errors import InputError
from monailabel_app import __main__
from monailabel_app.lib.access import TOKEN_VARIABLE, Access, chosen_token, is_loopback, parse_origins

REPO = str(Path(__file__).resolve().parents[2])
TOKEN = "0123456789abcdef"


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder up to the start of the server; return what it said and would run."""

    def run(*arguments, **environment):
        calls = []
        fake = SimpleNamespace(run=lambda app, **options: calls.append((app, options, dict(os.environ))))
        monkeypatch.setitem(sys.modules, "uvicorn", fake)
        monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), **environment})
        monkeypatch.setattr(sys, "argv", ["monailabel_app", *arguments])
        monkeypatch.setattr(os, "umask", lambda mask: None)
        monkeypatch.chdir(tmp_path)
        try:
            code = __main__.main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err, calls

    return run


@pytest.fixture
def started(start):
    def run(*arguments, **environment):
        code, out, err, calls = start(*arguments, **environment)
        assert (code, err) == (0, "")
        ((app, options, environment),) = calls
        assert app == "monailabel.app:app"
        return out, options, environment

    return run


def test_it_listens_on_this_machine_only_by_default(started, tmp_path):
    (tmp_path / "2024_01").mkdir()
    line, options, environment = started("--studies", "2024_01")
    assert (options["host"], options["port"]) == ("127.0.0.1", 8000)
    assert line.startswith(
        f"http://127.0.0.1:8000/ohif/ for {tmp_path}/2024_01; labels and models in {tmp_path}/.local/"
    )
    assert environment["MONAI_LABEL_STUDIES"] == f"{tmp_path}/2024_01"
    assert environment["MONAI_LABEL_APP_DIR"] == f"{REPO}/monailabel_app"
    assert json.loads(environment["MONAI_LABEL_APP_CONF"]) == {"phases": "key"}
    assert json.loads(environment["MONAI_LABEL_CORS_ORIGINS"]) == ["http://127.0.0.1:8000"]
    assert "PYTHONPATH" in environment


def test_options_reach_the_app(started):
    arguments = ["--state_dir", "state", "--phases=all", "--device", "cpu", "--port", "8123"]
    _, options, environment = started("--studies", ".", *arguments)
    conf = json.loads(environment["MONAI_LABEL_APP_CONF"])
    assert conf == {"state_dir": "state", "phases": "all", "device": "cpu"}
    assert (options["port"], environment["MONAI_LABEL_SERVER_PORT"]) == (8123, "8123")


@pytest.mark.parametrize("way", ["flag", "file", "environment"])
def test_a_token_is_kept_out_of_what_is_logged(started, tmp_path, way):
    (tmp_path / "secret").write_text(TOKEN + "\n")
    arguments = {"flag": ["--token", TOKEN], "file": ["--token_file", "secret"], "environment": []}[way]
    given = {TOKEN_VARIABLE: TOKEN} if way == "environment" else {}
    network = ["--host", "0.0.0.0", "--origins", "https://label.example.org"]
    line, options, environment = started("--studies", ".", *network, *arguments, **given)
    assert environment[TOKEN_VARIABLE] == TOKEN
    assert TOKEN not in environment["MONAI_LABEL_APP_CONF"] + line
    assert options["host"] == "0.0.0.0"
    assert options["access_log"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--studies", "missing"], "--studies missing: there is no such file or folder"),
        (["--studies", ".", "--host", "0.0.0.0"], "other machines are served only with --origins and a token"),
        (["--studies", ".", "--host", "::", "--token", TOKEN], "other machines are served only with --origins"),
        (
            ["--studies", ".", "--host", "10.0.0.5", "--token", "short", "--origins", "http://a"],
            "--token: a token of at least 16",
        ),
        (["--studies", ".", "--origins", "*"], "origin '*': expected http(s)://HOST[:PORT]"),
        (["--studies", ".", "--origins", "http://a/path"], "origin 'http://a/path': expected"),
        (["--studies", ".", "--origins", "http://[abc]"], "origin 'http://[abc]': expected"),
        (
            ["--studies", ".", "--origins", "https://a,http://localhost"],
            "--origins https://a: other machines are served",
        ),
        (["--studies", ".", "--token", ""], "--token: a token of at least 16 characters is expected, found 0"),
        (["--studies", ".", "--token", "short"], "--token: a token of at least 16 characters is expected, found 5"),
        (["--studies", ".", "--token_file", "missing"], "--token_file missing"),
        (["--studies", ".", "--token_file", ""], "--token_file : there is no such file"),
        (["--studies", ".", "--token_file", "empty"], "--token_file: a token of at least 16 characters"),
        (["--studies", ".", "--port", "http"], "--port http"),
    ],
)
def test_what_is_refused(start, tmp_path, arguments, message):
    (tmp_path / "empty").write_text(" \n")
    code, out, err, calls = start(*arguments)
    assert (code, out, calls) == (1, "", [])
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--studies", ".", "--orgins", "http://a"], "--orgins"), ([], "studies")]
)
def test_what_fire_refuses(start, arguments, message):
    code, out, err, calls = start(*arguments)
    assert (code, out, calls) == (2, "", [])
    assert message in err


def test_a_variable_that_holds_no_token_is_refused(start):
    code, _, err, calls = start("--studies", ".", **{TOKEN_VARIABLE: ""})
    assert (code, calls) == (1, [])
    assert f"{TOKEN_VARIABLE}: a token of at least 16 characters is expected, found 0" in err


@pytest.mark.parametrize(
    ("conf", "variable", "message"),
    [
        ({"token": ""}, None, f"--conf token: it is in MONAI Label's log by now; set {TOKEN_VARIABLE} to another one"),
        ({"token": TOKEN}, None, f"set {TOKEN_VARIABLE} to another one"),
        ({}, " ", f"{TOKEN_VARIABLE}: a token of at least 16 characters is expected, found 0"),
        ({}, "short", f"{TOKEN_VARIABLE}: a token of at least 16 characters is expected, found 5"),
        ({"origins": "https://a.org"}, None, "--origins https://a.org: other machines are served only with a token"),
    ],
)
def test_monai_labels_own_command_asks_for_the_same(monkeypatch, conf, variable, message):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, variable)
    with pytest.raises(InputError, match=message):
        Access.from_conf(conf)


def test_the_first_token_counts():
    assert chosen_token({"a": None, "b": f"{TOKEN}\n", "c": "another of 16 letters"}) == TOKEN
    assert chosen_token({"a": None}) == ""


def test_keycloak_stands_in_for_a_token(started):
    network = ["--host", "0.0.0.0", "--origins", "https://label.example.org"]
    _, options, _ = started("--studies", ".", *network, MONAI_LABEL_AUTH_ENABLE="true")
    assert options["host"] == "0.0.0.0"


def test_loopback():
    names = ["127.0.0.1", "127.8.9.1", "::1", "localhost"]
    assert [name for name in names if not is_loopback(name)] == []
    names = ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.org", "127.0.0.1.evil.org", "2130706433", ""]
    assert [name for name in names if is_loopback(name)] == []


def test_origins_are_read_as_browsers_send_them():
    assert parse_origins(" https://a.org/, http://b:8042 ,") == {"https://a.org", "http://b:8042"}
    assert parse_origins("") == frozenset()


def test_monai_labels_own_command_serves_the_app_and_this_machine_only(tmp_path):
    from cardiac_cine.datasets.phantom import write_acdc

    write_acdc(tmp_path / "studies", 1, seed=5, shape=(64, 64), spacing_mm=(3.0, 3.0, 12.0), oblique=False)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # It makes folders in the app's, so it has a copy.
    app = shutil.copytree(Path(REPO) / "monailabel_app", tmp_path / "checkout" / "monailabel_app")
    (tmp_path / "checkout" / "bundle").symlink_to(Path(REPO) / "bundle")
    arguments = ["--app", app, "--studies", tmp_path / "studies", "--port", port]
    conf = ["--conf", "state_dir", tmp_path / "state", "--conf", "device", "cpu"]
    command = [sys.executable, "-m", "monailabel.main", "start_server", *map(str, [*arguments, *conf])]
    environment = os.environ | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path, umask=0o022)
    try:
        assert _asked(process, "127.0.0.1", port, tmp_path / "log") == 200
        outside = _outside_address()
        if outside:
            assert _asked(process, outside, port, tmp_path / "log") == 403
        assert [path for path in (tmp_path / "state").rglob("*") if path.stat().st_mode & 0o077] == []
    finally:
        process.terminate()
        process.wait()


def _asked(process, host, port, log):
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(host, port, timeout=60)
            # With a host name that is accepted, so that only the client's address matters.
            connection.request("GET", "/info/", headers={"Host": "localhost"})
            return connection.getresponse().status
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])


def _outside_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route, contextlib.suppress(OSError):
        route.connect(("192.0.2.1", 9))  # sends nothing
        address = route.getsockname()[0]
        return None if is_loopback(address) else address


def test_the_app_is_small():
    """Under 1,500 lines of its own, without blank lines, comments and docstrings."""
    lines = 0
    for path in (Path(REPO) / "monailabel_app").rglob("*"):
        text = path.read_text() if path.suffix in (".py", ".js", ".css", ".html") else ""
        skipped = set()
        for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0] if node.body else None
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    skipped |= {*range(first.lineno, (first.end_lineno or 0) + 1)}
        comment = "#" if path.suffix == ".py" else ("//", "/*")
        code = enumerate((line.strip() for line in text.splitlines()), 1)
        lines += sum(bool(line) and not line.startswith(comment) and n not in skipped for n, line in code)
    assert 1000 < lines < 1500

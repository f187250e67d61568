"""Hostile requests against a real server; `python tests/app/test_hostile.py` prints the table of docs/security.md."""

import contextlib
import gzip
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import jwt
import nibabel as nib
import numpy as np
import pytest
from urllib3.filepost import encode_multipart_formdata

REPO = Path(__file__).resolve().parents[2]
TOKEN = "a token for these tests only"
CANARY = b"canary-7b1f0e"
JSON, TEXT = {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}
NO_TOKEN = {"Authorization": ""}
MODEL, TRAIN, INFER = "/model/cardiac_cine", "/train/cardiac_cine", "/infer/cardiac_cine?image={image}"
SAVE = "/datastore/label?image={image}&tag=final"
INFO, LABEL_INFO = "/datastore/image/info?image={image}", "/datastore/label/info?label={image}"


@dataclass(frozen=True)
class Row:
    """One request; {image} is an image of the server, {outside} a folder beside its studies, {port} its port."""

    what: str
    method: str
    target: str
    status: int
    headers: dict = field(default_factory=dict)
    body: bytes = b""


def bearer(value):
    return {"Authorization": f"Bearer {value}"}


def form(what, method, target, status, **fields):
    body, content_type = encode_multipart_formdata(fields, boundary="x" * 20)
    return Row(what, method, target, status, {"Content-Type": content_type}, body)


def params(what, value, status=400, target=INFER, method="POST"):
    return form(what, method, target, status, params=value if isinstance(value, str) else json.dumps(value))


def image(what, name, status=404):
    return Row(f"image id: {what}", "GET", f"/datastore/image?image={name}", status)


def upload(what, name, content, status=400, target=SAVE):
    return form(what, "PUT", target, status, label=(name, content))


def announced(*shape):
    """A NIfTI file of a few bytes that says it holds this many voxels."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype("uint8")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return gzip.compress(header.binaryblock + bytes(100))


ROWS = (
    # who
    Row("no token", "GET", "/info/", 401, NO_TOKEN),
    Row("no token, viewer", "GET", "/ohif/", 401, NO_TOKEN),
    Row("no token, image", "GET", "/datastore/image?image={image}", 401, NO_TOKEN),
    Row("wrong token", "GET", "/info/", 401, bearer("wrong")),
    Row("token as Basic", "GET", "/info/", 401, {"Authorization": f"Basic {TOKEN}"}),
    Row("expired session", "GET", "/info/", 401, bearer("{expired}")),
    Row("session signed with another key", "GET", "/info/", 401, bearer("{forged}")),
    Row("session with algorithm none", "GET", "/info/", 401, bearer("{unsigned}")),
    Row("forged session in the address", "GET", "/as/{forged}/info/", 401, NO_TOKEN),
    Row("forged cookie", "GET", "/info/", 401, NO_TOKEN | {"Cookie": "cardiac_label={forged}"}),
    Row("sign-in with a wrong token", "GET", "/cine/login?token=wrong", 401, NO_TOKEN),
    form("Slicer's sign-in with a wrong password", "POST", "/auth/token", 401, username="ann", password="wrong"),
    form("user name with markup", "POST", "/auth/token", 400, username="<script>", password=TOKEN),
    # from where
    Row("foreign origin reads", "GET", "/info/", 403, {"Origin": "https://evil.example"}),
    Row("foreign origin trains", "POST", TRAIN, 403, {"Origin": "https://evil.example"} | JSON, b"{}"),
    Row("foreign origin asks for permission", "OPTIONS", "/info/", 403, {"Origin": "https://evil.example"} | NO_TOKEN),
    Row("origin null, a sandboxed page", "GET", "/info/", 403, {"Origin": "null"}),
    Row("origin that begins like ours", "GET", "/info/", 403, {"Origin": "http://127.0.0.1:{port}.evil.example"}),
    Row("origin on another port", "GET", "/info/", 403, {"Origin": "http://127.0.0.1:1"}),
    Row("foreign host name (DNS rebinding)", "GET", "/info/", 403, {"Host": "evil.example"}),
    Row("host name that begins like ours", "GET", "/info/", 403, {"Host": "127.0.0.1.evil.example"}),
    # which file
    image("parent folders", "../outside/secret"),
    image("parent folders, encoded", "%2e%2e%2foutside%2fsecret"),
    image("parent folders, encoded twice", "%252e%252e%252foutside%252fsecret"),
    image("parent folders, Windows", "..%5Coutside%5Csecret"),
    image("absolute path", "{outside}/secret.nii.gz"),
    image("/etc/passwd", "/etc/passwd"),
    image("file URL", "file://{outside}/secret.nii.gz"),
    image("http URL", "http://127.0.0.1:{port}/info/"),
    image("NUL", "{image}%00.nii.gz"),
    image("line break", "{image}%0d%0aX-Injected:1"),
    image("right-to-left override", quote("\u202e{image}".replace("{image}", "x"))),
    image("full-width dots", quote("\uff0e\uff0e/outside/secret")),
    image("invalid UTF-8", "%ff%fe"),
    image("10,000 characters", "a" * 10_000),
    image("SQL", quote("x' OR '1'='1")),
    image("shell", quote("x;cat /etc/passwd|$(id)")),
    image("none", ""),
    Row("image given twice", "GET", "/datastore/image?image={image}&image=/etc/passwd", 400),
    Row("unknown query parameter", "GET", "/datastore/image?image={image}&path=/etc/passwd", 400),
    Row("viewer file outside", "GET", "/ohif/../../../../../etc/passwd", 404),
    Row("viewer file outside, encoded", "GET", "/ohif/%2e%2e/%2e%2e/%2e%2e/app.py", 404),
    Row("static file outside", "GET", "/static/..%2f..%2fapp.py", 404),
    Row("PACS path outside", "GET", "/proxy/dicom/wado/../../../etc/passwd", 404),
    Row("PACS with another host", "GET", "/proxy/dicom/wado//evil.example/x", 404),
    Row("dataset with paths of the server", "GET", "/datastore/?output=train", 400),
    Row("archive of a text of cases", "GET", "/datastore/dataset?limit_cases=all", 400),
    # labels
    Row("label tag with parent folders", "GET", "/datastore/label?label={image}&tag=../..", 400),
    Row("unknown tag", "GET", "/datastore/label?label={image}&tag=draft", 400),
    upload("label saved outside by its tag", "x.nii.gz", b"x", 400, "/datastore/label?image={image}&tag=../../x"),
    upload("label saved outside by its image", "x.nii.gz", b"x", 404, "/datastore/label?image=../x&tag=final"),
    upload("label with a script's file name", "../../x.py", CANARY),
    upload("label with a file name of 300 letters", "a" * 300 + ".nii.gz", b"x"),
    upload("label that is no image", "x.nii.gz", CANARY),
    upload("label that is a picture", "x.nrrd", b"\x89PNG\r\n\x1a\n"),
    upload(
        "label that refers to another file",
        "x.nrrd",
        b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {outside}/secret.nii.gz\n\n",
    ),
    upload("label that says it has 27 tera-voxels", "x.nii.gz", announced(30_000, 30_000, 30_000)),
    upload("label of 65 MB", "x.nii.gz", bytes(65 << 20), 413),
    form("label as text", "PUT", SAVE, 400, label="x"),
    form("label missing", "PUT", SAVE, 400, params="{}"),
    form("two labels", "PUT", SAVE, 400, label=("a.nii", b"x"), file=("b.nii", b"x")),
    params("label params that are no JSON", "{", 400, SAVE, "PUT"),
    params("label params of another kind", "[1]", 400, SAVE, "PUT"),
    params("unknown label param", {"path": "/etc"}, 400, SAVE, "PUT"),
    form("image info that is no JSON", "PUT", INFO, 400, info="{'a': 1}"),
    form("image info with an infinite number", "PUT", INFO, 400, info='{"a": [1e999]}'),
    form("image info that is not a number", "PUT", INFO, 400, info='{"a": {"b": NaN}}'),
    form("image info with a strategy of another kind", "PUT", INFO, 400, info='{"strategy": 5}'),
    form("label info with an infinite number", "PUT", LABEL_INFO, 400, info='{"a": Infinity}'),
    params("segments with an infinite number", '{"label_info": [{"a": -Infinity}]}', 400, SAVE, "PUT"),
    Row("label of nobody removed", "DELETE", "/datastore/label?id=../x&tag=final", 404),
    # inference
    Row("inference of an absolute path", "POST", "/infer/cardiac_cine?image={outside}/secret.nii.gz", 404),
    Row("inference of nothing", "POST", "/infer/cardiac_cine", 404),
    form("inference of an uploaded image", "POST", INFER, 400, file=("x.nii.gz", b"x")),
    params("another image in the params", {"image": "/etc/passwd"}),
    params("another model file", {"model_filename": "/tmp/evil.pt"}),
    params("a label's path in the params", {"label": "/etc/passwd"}),
    params("another description", {"description": "x"}),
    params("result written elsewhere", {"result_extension": "/../../x.nii.gz"}),
    params("points as text", {"foreground": "[[1, 2, 3]]"}),
    params("points that are no numbers", '{"foreground": [[NaN, 1, 2]]}'),
    params("100,000 points", {"foreground": [[1, 2, 3]] * 100_000}),
    params("params nested 100,000 deep", "[" * 100_000),
    Row("session's image", "POST", INFER + "&session_id=x", 400),
    Row("result as stock DICOM SEG", "POST", INFER + "&output=dicom_seg", 400),
    Row("unknown model", "POST", "/infer/other?image={image}", 404),
    Row("model with parent folders", "POST", "/infer/..%2f..%2fx?image={image}", 404),
    Row("model with a fragment", "POST", "/infer/cardiac_cine%23x?image={image}", 404),
    Row("form without a boundary", "POST", INFER, 400, {"Content-Type": "multipart/form-data"}, b"--b\r\n"),
    Row("label cut off", "PUT", SAVE, 400, {"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nContent-"),
    Row("pathology inference", "POST", "/infer/wsi/cardiac_cine?image={image}", 404),
    # training, scoring, active learning
    Row("training in the server's process", "POST", TRAIN + "?run_sync=true", 400, JSON, b"{}"),
    Row("training with a path", "POST", TRAIN, 400, JSON, b'{"dataset_dir": "/etc"}'),
    Row("training with a list", "POST", TRAIN, 400, JSON, b"[]"),
    Row("training with broken JSON", "POST", TRAIN, 400, JSON, b'{"a":'),
    Row("training by a plain form of another site", "POST", TRAIN, 415, TEXT, b"{}"),
    Row("training with 2 MB", "POST", TRAIN, 413, JSON, b" " * (2 << 20)),
    Row("unknown trainer", "POST", "/train/other", 404, JSON, b"{}"),
    Row("unknown scoring", "POST", "/scoring/other", 404, JSON, b"{}"),
    Row("unknown strategy", "POST", "/activelearning/other", 404, JSON, b"{}"),
    Row("batch inference into final labels", "POST", "/batch/infer/cardiac_cine", 400, JSON, b'{"label_tag": "final"}'),
    # what the bar in OHIF calls
    Row("phase made neither ED nor ES", "POST", "/cine/key?image={image}&key=EDV", 400),
    Row("phase of nobody made ED", "POST", "/cine/key?image=../x&key=ED", 404),
    Row("foreign origin chooses ED", "POST", "/cine/key?image={image}&key=ED", 403, {"Origin": "https://evil.example"}),
    Row("foreign origin signs out", "POST", "/cine/logout", 403, {"Origin": "https://evil.example"}),
    form("drawing saved for nobody", "POST", "/cine/save?image=../x", 404, about="{}", voxels=("v", b"x")),
    form("drawing that is none", "POST", "/cine/save?image={image}", 400, about="[]", voxels=("v", b"x")),
    form("drawing nested 100,000 deep", "POST", "/cine/save?image={image}", 400, about="[" * 10**5, voxels=("v", b"x")),
    # closed
    Row("weights downloaded", "GET", MODEL, 404),
    form("weights replaced", "PUT", MODEL, 404, file=("model.pt", CANARY)),
    Row("weights deleted", "DELETE", MODEL, 404),
    Row("app reloaded", "POST", "/reload", 404),
    Row("logs", "GET", "/logs/?lines=1000", 404),
    Row("GPU's state", "GET", "/logs/gpu", 404),
    form("session with an archive", "PUT", "/session/?uncompress=true", 404, files=("x.zip", b"PK")),
    Row("session", "GET", "/session/x?image=true", 404),
    form("image added", "PUT", "/datastore/image?image=../x", 404, file=("x.nii.gz", CANARY)),
    form("image added, old address", "PUT", "/datastore/?image=../x", 404, file=("x.nii.gz", CANARY)),
    Row("image removed", "DELETE", "/datastore/image?id={image}", 404),
    Row("write to the PACS", "POST", "/proxy/dicom/stow/studies", 404, {}, b"x"),
    Row("bare PACS proxy", "GET", "/proxy/dicom/studies", 404),
    Row("another method", "PATCH", "/info/", 404),
    Row("no such place", "GET", "/wp-login.php", 404),
)


def table():
    """The rows as they stand in docs/security.md."""
    lines = ["| request | sent as | answer |", "|---|---|---|"]
    for row in ROWS:
        target = row.target if len(row.target) < 80 else f"{row.target[:60]}..."
        lines.append(f"| {row.what} | `{row.method} {target.replace('|', '%7C')}` | {row.status} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Server:
    port: int
    values: dict
    root: Path

    def send(self, row):
        fill = {**self.values, "port": str(self.port)}

        def filled(text):
            for name, value in fill.items():
                text = text.replace(f"{{{name}}}", value)
            return text

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(row.method, filled(row.target), skip_host=True, skip_accept_encoding=True)
        body = filled(row.body.decode("latin-1")).encode("latin-1") if len(row.body) < 10_000 else row.body
        headers = {"Host": f"127.0.0.1:{self.port}", **bearer(TOKEN), **row.headers, "Content-Length": str(len(body))}
        for name, value in headers.items():
            if value:
                connection.putheader(name, filled(value))
        connection.endheaders()
        with contextlib.suppress(OSError):  # refused before all of it has been sent
            connection.send(body)
        answered = connection.getresponse()
        content = answered.read()
        connection.close()
        return answered.status, answered.headers, content


def snapshot(*folders):
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")
    from cardiac_cine.datasets.phantom import write_acdc
    from monailabel_app.lib.access import TOKEN_VARIABLE, Access

    root = tmp_path_factory.mktemp("hostile")
    for name in ("studies", "outside", "home", "temporary"):
        (root / name).mkdir()
    write_acdc(root / "studies", 1, seed=5, shape=(64, 64), spacing_mm=(3.0, 3.0, 12.0), oblique=False)
    (root / "outside" / "secret.nii.gz").write_bytes(CANARY)
    (root / "secret").write_bytes(CANARY)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    places = {"HOME": str(root / "home"), "TMPDIR": str(root / "temporary"), "XDG_STATE_HOME": "", "PYTHONPATH": ""}
    environment = os.environ | places | {TOKEN_VARIABLE: TOKEN, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ["--studies", root / "studies", "--state_dir", root / "state", "--port", str(port), "--device", "cpu"]
    command = [sys.executable, "-m", "monailabel_app", *map(str, arguments)]
    access = Access(TOKEN)
    payload = {"sub": "ann", "exp": 9_999_999_999}
    values = {
        "outside": str(root / "outside"),
        "expired": jwt.encode({"sub": "ann", "exp": 1}, access._key, "HS256"),
        "forged": jwt.encode(payload, b"x" * 32, "HS256"),
        "unsigned": jwt.encode(payload, None, "none"),
    }
    (root / "state").mkdir(mode=0o755)
    with (
        (root / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=REPO, umask=0o022) as process,
    ):
        try:
            values["image"] = _first_image(Server(port, values, root), process)
            yield Server(port, values, root)
        finally:
            process.terminate()


def _first_image(started, process):
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            status, _, content = started.send(Row("", "GET", "/datastore/?output=all", 200))
            if status == 200:
                return next(iter(json.loads(content)["objects"]))
        time.sleep(0.5)
    raise AssertionError((started.root / "log").read_text()[-4000:])


@pytest.fixture(scope="module")
def before(server):
    return snapshot(*_guarded(server))


def _guarded(server):
    folders = [server.root / name for name in ("studies", "outside", "home", "temporary")]
    return [
        *folders,
        server.root / "state" / "labels",
        server.root / "state" / "models",
        REPO / "bundle",
        REPO / "monailabel_app",
    ]


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_it_is_refused(server, before, row):
    status, headers, content = server.send(row)
    assert status == row.status, content[:300]
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Injected"] is None
    detail = json.loads(content)["detail"]
    assert isinstance(detail, str)
    assert len(detail) < 500
    for secret in (CANARY.decode(), "Traceback", "root:", str(server.root), str(REPO), "site-packages", TOKEN):
        assert secret not in detail


def test_nothing_was_read_or_written_outside(server, before):
    assert snapshot(*_guarded(server)) == before
    assert sorted(path.name for path in server.root.iterdir()) == sorted(
        ["home", "log", "outside", "secret", "state", "studies", "temporary"]
    )
    written = [path for path in (server.root / "state").rglob("*") if path.is_file()]
    assert [path for path in written if CANARY in path.read_bytes()] == []
    log = server.root.joinpath("log").read_text()
    assert TOKEN not in log
    audit = server.root / "state" / "audit.jsonl"
    audited = [json.loads(line) for line in audit.read_text().splitlines()] if audit.exists() else []
    assert {line["action"] for line in audited} <= {"sign-in refused"}


def test_a_mask_that_is_uploaded_is_corrected(server, before):
    _, _, content = server.send(Row("", "GET", "/datastore/image?image={image}", 200))
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    mask = np.zeros(image.shape, np.uint8)
    mask[20:30, 20:30, :2] = 3
    asked = {"params": json.dumps({"background": [[0, 0, 2]]})}
    label = ("mask.nii.gz", gzip.compress(nib.Nifti1Image(mask, image.affine).to_bytes()))
    target = "/infer/cardiac_cine_correct?image={image}&output=json"
    status, _, content = server.send(form("", "POST", target, 200, label=label, **asked))
    assert status == 200, content
    volume_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert json.loads(content)["volumes_ml"]["lv_ml"] == pytest.approx(200 * volume_ml)
    end = time.monotonic() + 10
    while list((server.root / "temporary").iterdir()) and time.monotonic() < end:
        time.sleep(0.05)  # the files go when the answer has been sent
    assert snapshot(*_guarded(server)) == before


def test_what_is_written_is_for_the_servers_user_alone(server):
    state = server.root / "state"
    assert [path for path in (state, *state.rglob("*")) if path.stat().st_mode & 0o077] == []


def test_the_server_still_serves_and_tells_no_paths(server):
    for target, expected in (
        ("/info/", b'"cardiac_cine"'),
        ("/datastore/?output=all", server.values["image"].encode()),
        ("/datastore/image/info?image={image}", b"{"),
        ("/datastore/image?image={image}", b"\x1f\x8b"),
        ("/ohif/", b"<!doctype html>"),
    ):
        status, _, content = server.send(Row("", "GET", target, 200))
        assert status == 200
        assert expected in content
        assert str(server.root).encode() not in content
        assert str(REPO).encode() not in content


def test_the_table_in_the_documentation_is_this_one():
    assert len(ROWS) >= 40
    assert table() in (REPO / "docs" / "security.md").read_text()


if __name__ == "__main__":
    print(table())

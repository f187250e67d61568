"""The DICOMweb that OHIF sees, over an archive of a few canned answers."""

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.interfaces.exception import ImageNotFoundException

from monailabel_app.lib import dicomweb


@dataclass
class _Entry:
    id: str
    study_uid: str
    series_uid: str
    key: str
    phase: int
    phases: int = 2


class _Datastore:
    """One cine, series 1.5 of study 1: two phases of two slices; images 1.5.PHASE.SLICE."""

    phases = (_Entry("a_phase01", "1", "2.25.1", "ED", 0), _Entry("a_phase02", "1", "2.25.2", "", 1))

    def entries(self, all_phases=False):
        return [*self.phases, _Entry("b", "2", "2.25.9", "", 0, phases=1)]

    def entry(self, name):
        found = [each for each in self.phases if name in (each.id, each.series_uid)]
        if not found:
            raise ImageNotFoundException(name)
        return found[0]

    def instances(self, image_id):
        phase = self.entry(image_id).phase
        return tuple((f"1.5.{phase}.{z}", "1.5", None) for z in range(2))


def _item(**tags):
    return {tag.removeprefix("t"): {"vr": "UI", "Value": [value]} for tag, value in tags.items()}


@pytest.fixture
def archive():
    """Answers by path, and what was asked for."""
    asked = []
    cine = [_item(t00080018=f"1.5.{t}.{z}", t0020000E="1.5") for z in range(2) for t in range(2)]
    scout = _item(t00080018="1.1.1", t0020000E="1.1")
    answers = {
        "/dw/studies": [_item(t0020000D="1")],
        "/dw/studies/1/series": [_item(t0020000E="1.1"), _item(t0020000E="1.5")],
        "/dw/studies/1/metadata": [scout, *cine],
        "/dw/studies/1/series/1.5/metadata": cine,
        "/dw/studies/1/series/1.1/metadata": [scout],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            asked.append((path, query, self.headers["Accept"], self.headers["Authorization"]))
            if path.endswith("/1.1"):
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/")
                self.end_headers()
                return
            frame = "/frames/" in path or path.endswith("/rendered")
            body = b"pixels" if frame else json.dumps(answers.get(path, "")).encode()
            body = body.replace(b'"1.1.1"', f'"http://127.0.0.1:{self.server.server_port}/dw/x"'.encode())
            self.send_response(200 if frame or path in answers else 404)
            self.send_header("Content-Type", "multipart/related" if frame else "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/dw", asked=asked)
    server.shutdown()
    server.server_close()


def _client(studies):
    api = FastAPI()
    api.include_router(dicomweb.router(SimpleNamespace(studies=studies, datastore=_Datastore)))
    return TestClient(api, raise_server_exceptions=False)


@pytest.fixture
def client(archive):
    return _client(archive.url)


def _values(response, *tags):
    assert response.status_code == 200
    return [tuple(item[tag]["Value"][0] for tag in tags) for item in response.json()]


def test_a_cine_is_listed_as_its_phases(client):
    series = client.get("/proxy/dicom/qido/studies/1/series")
    assert _values(series, "0020000E") == [("2.25.1",), ("2.25.2",), ("1.1",)]
    named = [item["0008103E"]["Value"][0] for item in series.json() if "0008103E" in item]
    assert named == ["ED, phase 1 of 2", "phase 2 of 2"]
    assert [item["00200011"]["Value"][0] for item in series.json()[:2]] == [-2, -1]
    one = client.get("/proxy/dicom/qido/studies/1/series?SeriesInstanceUID=2.25.2&limit=5")
    assert _values(one, "0020000E", "0008103E") == [("2.25.2", "phase 2 of 2")]


def test_other_lists_pass(client, archive):
    assert _values(client.get("/proxy/dicom/qido/studies?PatientID=P1&limit=2"), "0020000D") == [("1",)]
    assert archive.asked[-1][:2] == ("/dw/studies", "PatientID=P1&limit=2")


@pytest.mark.parametrize("kind", ["wado", "qido"])
def test_a_phase_holds_its_images_in_the_order_of_the_slices(client, kind):
    images = client.get(f"/proxy/dicom/{kind}/studies/1/series/2.25.2/metadata")
    assert _values(images, "00080018", "0020000E", "00200013") == [("1.5.1.0", "2.25.2", 1), ("1.5.1.1", "2.25.2", 2)]
    whole = client.get(f"/proxy/dicom/{kind}/studies/1/metadata")
    assert _values(whole, "0020000E") == [("2.25.1",)] * 2 + [("2.25.2",)] * 2 + [("1.1",)]


def test_addresses_of_the_archive_are_not_told(client, archive):
    text = client.get("/proxy/dicom/wado/studies/1/series/1.1/metadata").text
    assert archive.url not in text and "/proxy/dicom/wado/x" in text


def test_pixels_come_from_the_real_series(client, archive):
    accept = 'multipart/related; type="application/octet-stream"'
    path = "studies/1/series/{}/instances/1.5.1.0/frames/1"
    answer = client.get(f"/proxy/dicom/wado/{path.format('2.25.2')}", headers={"Accept": accept})
    assert (answer.content, answer.headers["content-type"]) == (b"pixels", "multipart/related")
    assert archive.asked[-1][0] == f"/dw/{path.format('1.5')}" and archive.asked[-1][2] == accept
    # An image of another phase is not in this one: it is asked for as it was, for the archive to refuse.
    client.get("/proxy/dicom/wado/studies/1/series/2.25.2/instances/9.9/rendered")
    assert archive.asked[-1][0] == "/dw/studies/1/series/2.25.2/instances/9.9/rendered"


def test_the_archive_gets_the_credentials_of_the_settings_and_no_others(client, archive, monkeypatch):
    client.get("/proxy/dicom/qido/studies", headers={"Authorization": "Bearer ours", "Cookie": "cardiac_label=ours"})
    assert archive.asked[-1][3] is None
    monkeypatch.setattr(dicomweb.settings, "MONAI_LABEL_DICOMWEB_USERNAME", "user")
    monkeypatch.setattr(dicomweb.settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    client.get("/proxy/dicom/qido/studies")
    assert archive.asked[-1][3] == "Basic dXNlcjpzZWNyZXQ="


@pytest.mark.parametrize(
    "path",
    [
        "wado/",
        "stow/studies",
        "wado/../system",
        "wado/studies/1/series/1.5/../../../system",
        "wado/studies/%2e%2e/%2e%2e/system",
        "wado/studies/1%3fx/series",
        "wado/studies/abc/series",
        "wado/studies/1/series/1.5/archive",
        "wado/studies/1/series/1.5/instances/1/bulk/../../../../../system",
        "wado/http://127.0.0.1:9/studies",
        "wado/studies/1/series/1.5/instances/1/frames/1%0d%0aHost:x",
        "wado/studies/1%0a/series",
    ],
)
def test_nothing_else_is_asked_for(client, archive, path):
    assert client.get(f"/proxy/dicom/{path}").status_code == 404
    assert archive.asked == []


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_nothing_is_written(client, archive, method):
    assert getattr(client, method)("/proxy/dicom/wado/studies").status_code == 405
    assert archive.asked == []


def test_what_the_archive_refuses(client, archive):
    missing = client.get("/proxy/dicom/qido/studies/3/series")
    assert (missing.status_code, missing.json()["detail"]) == (404, "the PACS answers 404")
    assert client.get("/proxy/dicom/wado/studies/1/series/1.5/instances/1.1").status_code == 502  # sends elsewhere
    gone = _client("http://127.0.0.1:9").get("/proxy/dicom/qido/studies")
    assert (gone.status_code, gone.json()["detail"]) == (502, "the PACS does not answer")


def test_a_folder_of_studies_has_no_archive(tmp_path):
    assert _client(str(tmp_path)).get("/proxy/dicom/qido/studies").status_code == 404

"""OHIF's files with the bar, and the addresses that the bar calls."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from cardiac_cine.datasets.phantom import render
from cardiac_cine.datasets.phantom_dicom import write_dicom
from cardiac_cine.datasets.phantom_spec import PhantomSpec
from cardiac_cine.errors import InputError
from monailabel_app.lib import routes
from monailabel_app.lib.datastore import CineDatastore
from monailabel_app.lib.sources import LocalSource
from monailabel_app.lib.state import State

SPEC = PhantomSpec(
    shape=(80, 96), spacing_mm=(3.0, 2.5, 15.0), phases=4, lv_length_mm=60.0, lv_edv_ml=90.0, rv_edv_ml=90.0,
    lv_mass_g=80.0, centre_mm=(-8.0, -4.0),
)  # fmt: skip
ID = "P1_phase02"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    write_dicom(render(SPEC), folder, layout="slice_major", patient_id="P1")
    return folder


@pytest.fixture
def app(studies, tmp_path):
    state = State(tmp_path / "state")
    datastore, told = CineDatastore(LocalSource(studies), state), []
    jobs = SimpleNamespace(list=lambda: [{"id": "1"}], cancel=lambda job: job == "1")
    saved = lambda *ids: told.append(ids)  # noqa: E731
    return SimpleNamespace(state=state, datastore=lambda: datastore, jobs=jobs, told=told, on_save_label=saved)


@pytest.fixture
def client(app):
    api = FastAPI()
    api.include_router(routes.router(app))

    @api.exception_handler(InputError)
    async def wrong(request, error):
        return routes.Response(str(error), 400)

    return TestClient(api)


def _drawn(app, flip=False):
    """Return a mask, and the form by which the bar sends it; the planes in either order."""
    images = [uid for uid, _, _ in app.datastore().instances(ID)]
    mask = np.zeros((80, 96, len(images)), np.uint8)
    mask[10:20, 30:50, 1], mask[12:15, 33:40, 1], mask[40, 41, 2] = 2, 3, 1
    shown = mask[:, :, ::-1] if flip else mask
    about = {"planes": images[::-1] if flip else images, "names": {"1": "rv", "2": "myo", "3": "lv"}}
    return mask, {"data": {"about": json.dumps(about)}, "files": {"voxels": shown.tobytes(order="F")}}


@pytest.mark.parametrize("path", ["", "/", "/monai-label?StudyInstanceUIDs=1.2", "/index.html"])
def test_the_viewer_opens_with_the_bar(client, path):
    page = client.get(f"/ohif{path}")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert page.text.count('<script src="/cine/panel.js"></script></head>') == 1


def test_nested_files_are_themselves(client):
    icon = client.get("/ohif/assets/android-chrome-36x36.png")
    assert (icon.headers["content-type"], icon.content[:4]) == ("image/png", b"\x89PNG")
    assert client.get("/ohif/app-config.js").text.startswith("window.config")
    assert (
        client.get("/cine/panel.js").headers["content-type"].startswith(("text/javascript", "application/javascript"))
    )
    assert client.get("/cine/panel.css").headers["content-type"].startswith("text/css")


@pytest.mark.parametrize(
    "path", ["../ohif.py", "../../../__init__.py", "/etc/passwd", "assets/../../../ohif.py", "no.js"]
)
def test_other_files_are_not_there(path):
    with pytest.raises(routes.HTTPException) as refused:
        routes.ohif_file(path)
    assert refused.value.status_code == 404


def test_a_summary_tells_what_the_bar_shows(app, client):
    found = client.get(f"/cine/summary?image={app.datastore().entry(ID).series_uid}").json()
    assert (found["id"], found["phase"], found["result"], found["label"]) == (ID, 1, {}, None)
    assert [each["key"] for each in found["phases"]] == ["ED", "ES", "", ""]
    assert [each["key"] for each in found["structures"]] == ["rv", "myo", "lv"]
    assert found["slices"] == [uid for uid, _, _ in app.datastore().instances(ID)]


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_saved_is_what_was_drawn(app, client, flip):
    mask, form = _drawn(app, flip)
    assert client.post(f"/cine/save?image={ID}", **form).json()["id"] == ID
    np.testing.assert_array_equal(app.datastore().label_array(ID, "final"), mask)
    assert client.get(f"/cine/label?image={ID}").content == mask.tobytes(order="F")
    found = client.get(f"/cine/summary?image={ID}").json()
    assert (found["label"]["tag"], found["label"]["source"]) == ("final", "drawn")
    assert [each["labelled"] for each in found["phases"]] == [False, True, False, False]
    assert app.told == [(ID, ID)]


def test_a_draft_is_no_label(app, client):
    mask, form = _drawn(app)
    assert client.post(f"/cine/save?image={ID}&tag=original", **form).status_code == 200
    assert app.datastore().get_labeled_images() == [] and app.told == []
    assert client.get(f"/cine/label?image={ID}&tag=original").content == mask.tobytes(order="F")
    assert client.get(f"/cine/label?image={ID}").status_code == 404


def test_flags_and_numbers_are_those_of_what_is_displayed(app, client):
    datastore, (mask, form) = app.datastore(), _drawn(app)

    def flags():
        return [flag["code"] for flag in client.get(f"/cine/summary?image={ID}").json()["result"]["quality_flags"]]

    told = {"model": "m", "quality_flags": [{"code": "low_confidence", "reason": "Of the whole cine."}]}
    datastore.keep_facts(ID, {"result": told})
    datastore.propose(ID, mask, source="model", model="m")
    assert flags() == ["low_confidence"]
    datastore.propose(ID, mask, source="model", model="n")  # with another phase's cine
    assert "low_confidence" not in flags()
    client.post(f"/cine/save?image={ID}&tag=original", **form)
    assert "low_confidence" not in flags() and "few_slices" in flags()
    volume = client.get(f"/cine/summary?image={ID}").json()["result"]["volumes_ml"]["lv_ml"]
    assert volume == pytest.approx((mask == 3).sum() * 3.0 * 2.5 * 15.0 / 1000)


def test_a_label_that_is_gone_leaves_no_numbers(app, client):
    datastore, (mask, _) = app.datastore(), _drawn(app)
    told = {"model": "m", "volumes_ml": {"lv_ml": 1.0}, "measurements": {"lv_ef_percent": 60}}
    datastore.keep_facts(ID, {"result": told})
    datastore.propose(ID, mask, source="model", model="m")
    assert client.get(f"/cine/summary?image={ID}").json()["result"]["volumes_ml"]["lv_ml"] > 0
    datastore.remove_label(ID, "original")
    found = client.get(f"/cine/summary?image={ID}").json()
    assert (found["label"], found["result"]) == (None, {})


def test_an_only_phase_is_neither_ed_nor_es(app, client, monkeypatch):
    only = SimpleNamespace(id=ID, case="P1", phase=0, key="")
    monkeypatch.setattr(app.datastore(), "entry", lambda image: only)
    monkeypatch.setattr(app.datastore(), "phases_of", lambda case: [only])
    answer = client.post(f"/cine/key?image={ID}&key=ED")
    assert (answer.status_code, answer.text) == (400, f"{ID} is a cine's only phase: that is neither ED nor ES")


def test_a_person_says_which_phases_are_ed_and_es(app, client):
    def keys():
        return [each["key"] for each in client.get(f"/cine/summary?image={ID}").json()["phases"]]

    assert client.post("/cine/key?image=P1_phase04&key=ES").json() == {"ED": 1, "ES": 4}
    assert keys() == ["ED", "", "", "ES"]
    app.datastore().set_key_phases("P1", 2, 1)  # the network no longer changes it
    assert keys() == ["ED", "", "", "ES"]
    assert client.post("/cine/key?image=P1_phase04&key=ED").json() == {"ED": 4, "ES": 1}
    assert client.post("/cine/key?image=P1_phase04&key=EF").status_code == 422
    assert keys() == ["ES", "", "", "ED"]


@pytest.mark.parametrize(
    ("about", "voxels"),
    [
        ("[]", b""),
        ("no JSON", b""),
        ("[" * 100_000, b""),
        ('{"planes": 1, "names": {}}', b""),
        ('{"planes": [], "names": []}', b""),
        ('{"planes": ["1.2"], "names": {}}', b"\1"),
    ],
)
def test_what_is_no_drawing_is_refused(app, client, about, voxels):
    answer = client.post(f"/cine/save?image={ID}", data={"about": about}, files={"voxels": voxels})
    assert answer.status_code == 400
    assert app.datastore().label_array(ID, "final") is None


def test_jobs_and_scores(app, client):
    assert client.get("/cine/jobs").json() == [{"id": "1"}]
    assert client.delete("/cine/jobs/1").json() == {"cancelled": True}
    assert client.delete("/cine/jobs/2").status_code == 404
    assert client.get("/cine/scores").json() == {}
    app.state.scores.path.write_text('{"P1_phase01": {"uncertainty": 0.5}}')
    assert client.get("/cine/scores").json() == {"P1_phase01": {"uncertainty": 0.5}}

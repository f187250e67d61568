"""OHIF behind a token: nothing without signing in, all of it afterwards, and the audit log says who it was."""

import json

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from app.viewer import Viewer, chromium, ward, write_phantom

TOKEN = "a token for these tests only"
NAME, USER = "secret", "Dr Who"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("ohif_token")
    write_phantom(root, NAME, 0)
    with ward(root, token=TOKEN) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(site):
    with chromium() as browser, Viewer(browser, site, "token") as opened:
        yield opened


def _sign_in(site, page):
    page.goto(f"{site.url}/ohif/")
    page.get_by_label("Name, for the record").fill(USER)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text(NAME, exact=True).first.wait_for()


def _audited(site):
    return [json.loads(line) for line in (site.place.state / "audit.jsonl").read_text().splitlines()]


def test_without_signing_in_there_is_a_way_to_and_no_data(site, viewer):
    for path in ("/ohif/", "/ohif/monai-label?StudyInstanceUIDs=1.2.3"):
        answer = viewer.page.goto(site.url + path)
        assert answer.status == 401
        assert viewer.page.get_by_label("Token").get_attribute("type") == "password"
        assert NAME not in viewer.page.content()
    viewer.picture("sign_in")
    for path in ("/proxy/dicom/qido/studies", "/info/", f"/cine/summary?image={NAME}_phase01", "/cine/panel.js"):
        answer = viewer.page.request.get(site.url + path)
        assert (answer.status, answer.json()) == (401, {"detail": "a valid token is needed"})
    viewer.page.goto(f"{site.url}/cine/login")
    viewer.page.get_by_label("Name, for the record").fill(USER)
    viewer.page.get_by_label("Token").fill("wrong")
    viewer.page.get_by_role("button", name="Sign in").click()
    viewer.page.wait_for_load_state()
    assert viewer.page.get_by_label("Token").is_visible()
    assert viewer.context.cookies() == []


def test_signed_in_the_loop_works_and_the_log_tells_who(site, viewer):
    _sign_in(site, viewer.page)
    assert TOKEN not in viewer.page.url
    viewer.open(NAME)
    viewer.wait_for(1, "no label yet")
    viewer.press("Segment")
    viewer.wait_for(1, " mL")
    viewer.press("Save")
    viewer.wait_for(1, "saved at")
    viewer.picture("saved")
    assert set(np.unique(site.label(f"{NAME}_phase01", "final"))) == {0, 1, 2, 3}
    [saved] = [event for event in _audited(site) if event.get("tag") == "final"]
    assert (saved["user"], saved["action"], saved["image"]) == (USER, "save label", f"{NAME}_phase01")


def test_signing_in_leads_to_the_page_that_was_asked_for(site, viewer):
    asked = viewer.page.url
    viewer.context.clear_cookies()
    viewer.page.goto(asked)
    viewer.page.get_by_label("Name, for the record").fill(USER)
    viewer.page.get_by_label("Token").fill(TOKEN)
    viewer.page.get_by_role("button", name="Sign in").click()
    viewer.wait_for(1, "saved at")
    assert viewer.page.url == asked


def test_what_is_drawn_outlives_a_session(site, viewer):
    viewer.draw("RV", -180)
    viewer.wait_for(1, "changed, not saved")
    viewer.context.clear_cookies()
    viewer.press("Save")
    viewer.wait_for(1, "You are signed out. Sign in at /cine/login in another tab, then press Save here.")
    viewer.picture("signed_out")
    other = viewer.context.new_page()
    _sign_in(site, other)
    other.close()
    before = site.label(f"{NAME}_phase01", "final")
    viewer.press("Save")
    viewer.wait_for(1, "saved at")
    assert (site.label(f"{NAME}_phase01", "final") != before).any()


def test_signing_out_leads_to_the_page_to_sign_in(site, viewer):
    viewer.context.clear_cookies()
    _sign_in(site, viewer.page)
    viewer.open(NAME)
    viewer.wait_for(1, "saved at")
    viewer.press("Sign out")
    viewer.page.get_by_label("Token").wait_for()
    assert viewer.page.request.get(f"{site.url}/info/").status == 401

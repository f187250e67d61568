"""What counts as drawn by hand in OHIF, and that it is kept: a real Chromium, a real Orthanc."""

import gzip
import json
import re
import time

import numpy as np
import pytest
import requests

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from app.viewer import Viewer, chromium, read_study, ward, write_phantom

NAME = "draft"
DRAFT_MS = 3500  # after them what was drawn is on the server


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("ohif_draft")
    write_phantom(root, NAME, 0)
    with ward(root) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(site):
    with chromium() as browser, Viewer(browser, site, "draft") as opened:
        opened.open(NAME)
        yield opened


@pytest.fixture(scope="module")
def case(site):
    return read_study(site.place.root.parent, NAME)


def _info(site, phase, tag="original"):
    return site.ask("GET", f"/datastore/label/info?label={NAME}_phase0{phase}&tag={tag}").json()


def _standing(site, phase):
    label = site.ask("GET", f"/cine/summary?image={NAME}_phase0{phase}").json()["label"]
    return label["tag"], label["source"]


def _wait_until_kept(site, phase, drawn):
    """Wait until the draft of a phase is what was drawn."""
    deadline = time.monotonic() + 15
    while True:
        kept = site.label(f"{NAME}_phase0{phase}", "original")
        if _info(site, phase)["source"] == "drawn" and (kept == drawn).all():
            return
        assert time.monotonic() < deadline, f"{(kept != drawn).sum()} voxels differ"
        time.sleep(0.2)


def test_what_a_model_proposes_does_not_count_as_drawn(site, viewer, case):
    viewer.wait_for(1, "no label yet")
    viewer.press("Segment")
    viewer.wait_for(1, "proposal, not saved")
    viewer.wait_for(1, " mL")
    viewer.page.wait_for_timeout(DRAFT_MS)
    viewer.wait_for(1, "proposal, not saved")
    proposed = _info(site, 1)
    assert proposed["source"] == "model"
    # The whole cine leaves a proposal where nobody has drawn anything.
    viewer.press("Whole cine")
    viewer.page.wait_for_function("!document.querySelector('#cine-bar').textContent.includes('whole cine …')")
    viewer.wait_for(1, "proposal, not saved")
    assert _info(site, 1)["name"] != proposed["name"]
    np.testing.assert_array_equal(viewer.displayed().mask(case, 1), site.label(f"{NAME}_phase01", "original"))


def test_what_is_drawn_on_a_proposal_is_kept(site, viewer, case):
    proposal = site.infer(f"{NAME}_phase01")
    viewer.wait_for(1, "not")
    with viewer.page.expect_response("**/infer/**"):
        viewer.press("Segment")
    viewer.page.wait_for_timeout(100)
    viewer.draw("RV", -180)
    viewer.wait_for(1, "changed, not saved")
    drawn = viewer.displayed().mask(case, 1)
    assert ((drawn == 1) & (proposal == 0)).any()
    assert (drawn[proposal == 3] == 3).all()
    _wait_until_kept(site, 1, drawn)


def test_what_is_drawn_while_a_model_works_stays(site, viewer, case):
    viewer.press("▶")
    viewer.wait_for(2, "proposal, not saved")
    with viewer.holding("**/infer/**") as held:
        viewer.press("Segment")
        while not held:
            viewer.page.wait_for_timeout(50)
        viewer.draw("RV", -180)
        viewer.wait_for(2, "changed, not saved")
        drawn = viewer.displayed().mask(case, 2)
        viewer.page.wait_for_timeout(DRAFT_MS)
    viewer.page.get_by_text("You have drawn in Phase 2 meanwhile: that stays.").wait_for()
    viewer.picture("meanwhile")
    _wait_until_kept(site, 2, drawn)
    np.testing.assert_array_equal(viewer.displayed().mask(case, 2), drawn)
    viewer.wait_for(2, "changed, not saved")


def test_a_proposal_over_a_saved_label_leaves_it(site, viewer, case):
    viewer.press("Save")
    viewer.wait_for(2, "saved at")
    saved, name = viewer.displayed().mask(case, 2), _info(site, 2, "final")["name"]
    viewer.press("Segment")
    viewer.wait_for(2, "proposal, not saved")
    proposal = viewer.displayed().mask(case, 2)
    np.testing.assert_array_equal(proposal, site.infer(f"{NAME}_phase02"))
    rv_ml = (proposal == 1).sum() * np.prod(case.spacing_mm) / 1000
    assert re.search(rf"RV {rv_ml:.0f} mL", viewer.bar())
    viewer.page.wait_for_timeout(DRAFT_MS)
    assert (_standing(site, 2)[0], _info(site, 2)["source"]) == ("final", "model")
    viewer.picture("over_saved")
    # Whoever comes back finds what was saved.
    viewer.press("▶")
    viewer.wait_for(3, "proposal, not saved")
    viewer.press("◀")
    viewer.wait_for(2, "saved at")
    np.testing.assert_array_equal(viewer.displayed().mask(case, 2), saved)
    # It may be drawn on, or saved as it is.
    viewer.press("Segment")
    viewer.wait_for(2, "proposal, not saved")
    viewer.press("Save")
    viewer.wait_for(2, "saved at")
    np.testing.assert_array_equal(site.label(f"{NAME}_phase02", "final"), proposal)
    assert _info(site, 2, "final")["name"] != name


def test_what_is_loaded_does_not_count_as_drawn(site, viewer):
    before = [_info(site, phase) for phase in (1, 2, 3)]
    viewer.page.reload()
    for phase, text in ((1, "changed, not saved"), (2, "saved at"), (3, "proposal, not saved")):
        viewer.wait_for(phase, text)
        viewer.page.wait_for_timeout(DRAFT_MS)
        viewer.wait_for(phase, text)
        viewer.press("▶")
    assert [_info(site, phase) for phase in (1, 2, 3)] == before


def test_a_click_that_corrects_counts_as_drawn(site, viewer, case):
    viewer.press("ED")
    viewer.wait_for(1, "changed, not saved")
    viewer.press("▶")
    viewer.wait_for(2, "saved at")
    viewer.press("▶")
    viewer.wait_for(3, "proposal, not saved")
    # As the panel at the right asks for it and draws what it gets.
    viewer.page.evaluate(
        """series => new Promise(done => {
          const request = new XMLHttpRequest(), form = new FormData();
          form.append('params', JSON.stringify({rv: [[10, 10, 1]], result_extension: '.nrrd'}));
          request.open('POST', `/infer/cardiac_cine_correct?image=${series}&output=image`);
          request.responseType = 'arraybuffer';
          request.onloadend = () => {
            const {cornerstone: {cache, eventTarget, triggerEvent}, cornerstoneTools: tools} = window;
            const {volumeId} = tools.segmentation.state.getSegmentation('1').representationData.Labelmap;
            const {voxelManager} = cache.getVolume(volumeId), size = voxelManager.getCompleteScalarDataArray().length;
            voxelManager.setCompleteScalarDataArray(new Uint8Array(request.response.slice(-size)));
            triggerEvent(eventTarget, tools.Enums.Events.SEGMENTATION_DATA_MODIFIED, {segmentationId: '1'});
            done();
          };
          request.send(form);
        })""",
        viewer.page.evaluate(
            """() => {
              const {viewportGridService: grid, displaySetService: sets} = window.services;
              const [uid] = grid.getState().viewports.get(grid.getActiveViewportId()).displaySetInstanceUIDs;
              return sets.getDisplaySetByUID(uid).SeriesInstanceUID;
            }"""
        ),
    )
    viewer.wait_for(3, "changed, not saved")
    _wait_until_kept(site, 3, viewer.displayed().mask(case, 3))


@pytest.mark.parametrize("way", ["leave", "go back", "hide", "close"])
def test_what_was_just_drawn_outlives_the_page(site, viewer, case, way):
    viewer.open(NAME)
    viewer.wait_for(1, "changed, not saved")
    viewer.page.wait_for_timeout(1000)
    was = viewer.displayed().mask(case, 1)
    viewer.draw("MYO", {"leave": -220, "go back": -180, "hide": -140, "close": -100}[way])
    # Only what the page sends when it goes: its clock stands still.
    viewer.page.evaluate("Date.now = () => 0")
    drawn = viewer.displayed().mask(case, 1)
    assert (drawn != was).any()
    match way:
        case "leave":
            viewer.page.goto("about:blank")
        case "go back":
            viewer.page.go_back()
        case "hide":
            viewer.page.evaluate("document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")
        case "close":
            viewer.page.close(run_before_unload=True)
    _wait_until_kept(site, 1, drawn)
    if way == "close":
        viewer.page = viewer.context.new_page()


def test_a_page_whose_drawing_was_refused_asks_before_it_closes(site, viewer, case):
    from playwright.sync_api import Error

    asked = []

    def stay(dialog):
        asked.append(dialog.type)
        dialog.dismiss()

    viewer.open(NAME)
    viewer.wait_for(1, "Save")
    viewer.page.wait_for_timeout(1000)
    viewer.page.on("dialog", stay)
    was = viewer.displayed().mask(case, 1)
    viewer.page.route("**/cine/save?**", lambda route: route.fulfill(status=503, json={"detail": "no space left"}))
    viewer.draw("LV", -120)
    drawn = viewer.displayed().mask(case, 1)
    assert (drawn != was).any()
    viewer.wait_for(1, "no space left")
    with pytest.raises(Error):
        viewer.page.goto("about:blank")
    assert asked == ["beforeunload"]
    np.testing.assert_array_equal(viewer.displayed().mask(case, 1), drawn)
    # The server takes it, with what is drawn next: nothing can be lost any more.
    viewer.page.unroute("**/cine/save?**")
    viewer.draw("MYO", -60)
    _wait_until_kept(site, 1, viewer.displayed().mask(case, 1))
    viewer.wait_for(1, "changed, not saved")
    viewer.page.goto("about:blank")
    assert asked == ["beforeunload"]


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (b"no gzip", "voxels as they say"),
        (gzip.compress(bytes(10)), "voxels: 10 bytes, expected"),
        # Not unpacked beyond what a phase has.
        (gzip.compress(bytes(1 << 26)), r"voxels: \d+ bytes, expected"),
    ],
    ids=["no gzip", "too few", "too many"],
)
def test_voxels_that_are_no_mask_are_refused(site, case, voxels, message):
    about = {"planes": [row[0].sop_instance_uid for row in case.instances], "names": {}, "gzip": True}
    form = {"about": (None, json.dumps(about)), "voxels": ("blob", voxels)}
    answer = requests.post(f"{site.url}/cine/save?image={NAME}_phase04&tag=original", files=form, timeout=60)
    assert answer.status_code == 400
    found = re.search(message, answer.json()["detail"])
    assert found and str(1 << 26) not in found[0]

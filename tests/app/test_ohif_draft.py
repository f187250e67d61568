"""What counts as drawn by hand in OHIF, and that it is kept: a real Chromium, a real Orthanc."""

import re
import time

import numpy as np
import pytest

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


def _wait_until_drawn(site, phase, before=None):
    """Wait for a draft of a phase that is younger than one before, and return it."""
    deadline = time.monotonic() + 10
    while (info := _info(site, phase)).get("source") != "drawn" or info == before:
        assert time.monotonic() < deadline, info
        time.sleep(0.2)
    return site.label(f"{NAME}_phase0{phase}", "original")


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
    viewer.press("Segment")
    viewer.page.wait_for_timeout(1500)
    viewer.draw("RV", -180)
    viewer.wait_for(1, "changed, not saved")
    kept = _wait_until_drawn(site, 1)
    assert ((kept == 1) & (proposal == 0)).any()
    assert (kept[proposal == 3] == 3).all()
    np.testing.assert_array_equal(viewer.displayed().mask(case, 1), kept)


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
    np.testing.assert_array_equal(_wait_until_drawn(site, 2), drawn)
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
    np.testing.assert_array_equal(_wait_until_drawn(site, 3), viewer.displayed().mask(case, 3))

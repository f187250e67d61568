"""The bar below OHIF's images: the whole cine, results that come late, and what to annotate next."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from app.viewer import PHASES, Viewer, chromium, read_study, ward, write_phantom

NAMES = ("first", "second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ohif_bar")
    for seed, name in enumerate(NAMES):
        write_phantom(root, name, seed)
    return root


@pytest.fixture(scope="module")
def site(folder):
    with ward(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(site):
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(browser, site):
    with Viewer(browser, site, "bar") as opened:
        yield opened


@pytest.fixture(scope="module")
def case(folder):
    return read_study(folder, NAMES[0])


def _wait_until_held(viewer, held):
    for _ in range(200):
        if held:
            return
        viewer.page.wait_for_timeout(50)
    pytest.fail("no request was made")


def test_images_that_come_slowly_are_waited_for(viewer, case):
    with viewer.holding("**/frames/**"):
        viewer.open(case.name)
        viewer.page.get_by_text("Connecting …").wait_for()
        viewer.page.wait_for_timeout(3000)
        assert viewer.alarms() == []
    viewer.wait_for(1, "no label yet")
    assert viewer.alarms() == []


def test_a_late_result_is_kept_for_its_phase_and_not_drawn_over_another(site, viewer, case):
    with viewer.holding("**/infer/**") as held:
        viewer.press("Segment")
        _wait_until_held(viewer, held)
        viewer.press("▶")
        viewer.wait_for(2, "no label yet")
    viewer.page.get_by_text("Phase 1 is segmented. You see it when you go back there.").wait_for()
    viewer.page.wait_for_timeout(500)
    viewer.picture("late")
    assert not viewer.displayed().mask(case, 2).any()
    assert "no label yet" in viewer.bar()
    assert viewer.alarms() == []
    assert not viewer.page.locator("#cine-bar.failed").count()
    viewer.press("◀")
    viewer.wait_for(1, "proposal, not saved")
    viewer.picture("late_back")
    np.testing.assert_array_equal(viewer.displayed().mask(case, 1), site.infer(f"{case.name}_phase01"))


def test_a_result_that_comes_after_going_there_and_back_is_drawn(site, viewer, case):
    viewer.press("▶")
    viewer.wait_for(2, "no label yet")
    with viewer.holding("**/infer/**") as held:
        viewer.press("Segment")
        _wait_until_held(viewer, held)
        viewer.press("▶")
        viewer.wait_for(3, "no label yet")
        viewer.press("◀")
        viewer.wait_for(2, "no label yet")
    viewer.wait_for(2, " mL")
    np.testing.assert_array_equal(viewer.displayed().mask(case, 2), site.infer(f"{case.name}_phase02"))


def test_why_a_phase_could_not_be_segmented_is_told(viewer):
    viewer.press("▶")
    viewer.wait_for(3, "no label yet")
    refused = {"status": 503, "json": {"detail": "32 computations are waiting, try again later"}}
    viewer.page.route("**/infer/**", lambda route: route.fulfill(**refused))
    viewer.press("Segment")
    viewer.page.get_by_text("Phase 3 was not segmented: 32 computations are waiting, try again later").wait_for()
    viewer.picture("not_segmented")
    viewer.page.unroute("**/infer/**")


def test_numbers_are_those_of_what_is_drawn(site, viewer, case):
    viewer.press("◀")
    viewer.wait_for(2, "not saved")
    before = re.search(r"RV (\d+) mL", viewer.bar())[1]
    for way in (-300, -260, -220):
        viewer.draw("RV", way)
    viewer.page.wait_for_function(
        "before => !document.querySelector('#cine-numbers').textContent.includes(before)", arg=f"RV {before} mL"
    )
    viewer.wait_for(2, "changed, not saved")
    voxels = (viewer.displayed().mask(case, 2) == 1).sum()
    assert f"RV {voxels * np.prod(case.spacing_mm) / 1000:.0f} mL" in viewer.bar()
    viewer.press("Save")
    viewer.wait_for(2, "saved at")


def test_the_whole_cine_gives_a_proposal_in_each_phase_and_leaves_what_is_saved(site, viewer, case):
    saved = viewer.displayed().mask(case, 2)
    info = site.ask("GET", f"/datastore/label/info?label={case.name}_phase02&tag=final").json()
    viewer.press("Whole cine")
    viewer.wait_for(2, "Segmenting the whole cine …")
    # It goes on wherever the annotator looks meanwhile.
    viewer.press("▶")
    viewer.wait_for(3, "Segmenting the whole cine … no label yet")
    viewer.wait_for(3, "proposal, not saved")
    viewer.page.wait_for_function("!document.querySelector('#cine-bar').textContent.includes('whole cine …')")
    result = site.ask("GET", f"/datastore/image/info?image={case.name}_phase02").json()["result"]
    assert result["measurements"]["phases"] == PHASES
    shown = {}
    for phase in (3, 4, 1):
        viewer.wait_for(phase, "proposal, not saved")
        shown[phase] = viewer.displayed().mask(case, phase)
        np.testing.assert_array_equal(shown[phase], site.label(f"{case.name}_phase{phase:02d}", "original"))
        assert re.search(r"LV \d+ mL, EF \d+ %\s+·\s+RV \d+ mL, EF \d+ %", viewer.bar())
        viewer.picture(f"whole_cine_phase{phase}")
        viewer.press("▶")
    assert len({mask.tobytes() for mask in shown.values()}) == 3
    # This one was saved before.
    viewer.wait_for(2, "saved at")
    viewer.picture("whole_cine_saved_phase2")
    np.testing.assert_array_equal(viewer.displayed().mask(case, 2), saved)
    np.testing.assert_array_equal(site.label(f"{case.name}_phase02", "final"), saved)
    assert site.ask("GET", f"/datastore/label/info?label={case.name}_phase02&tag=final").json() == info


def test_what_is_drawn_while_the_whole_cine_is_segmented_stays(site, viewer, case):
    viewer.press("▶")
    viewer.wait_for(3, "proposal, not saved")
    with viewer.holding("**/infer/**") as held:
        viewer.press("Whole cine")
        _wait_until_held(viewer, held)
        viewer.draw("RV", -150)
        viewer.wait_for(3, "changed, not saved")
        drawn = viewer.displayed().mask(case, 3)
    viewer.page.wait_for_function("!document.querySelector('#cine-bar').textContent.includes('whole cine …')")
    viewer.wait_for(3, "changed, not saved")
    np.testing.assert_array_equal(viewer.displayed().mask(case, 3), drawn)
    np.testing.assert_array_equal(site.label(f"{case.name}_phase03", "original"), drawn)
    assert (drawn != site.infer(f"{case.name}_phase03")).any()


def test_the_tool_in_hand_is_marked(viewer):
    def marked():
        return viewer.page.locator("#cine-bar button.on").all_inner_texts()

    viewer.press("MYO")
    viewer.page.wait_for_timeout(300)
    assert "MYO" in marked() and not {"RV", "LV", "Erase"} & set(marked())
    viewer.press("Erase")
    viewer.page.wait_for_timeout(300)
    viewer.page.mouse.move(700, 400)  # what is pointed at is lit, too
    viewer.picture("erase")
    assert "Erase" in marked() and "MYO" not in marked()
    viewer.page.evaluate("window.commandsManager.run('setToolActiveToolbar', {toolName: 'Pan', toolGroupIds: ['mpr']})")
    viewer.page.wait_for_timeout(300)
    viewer.picture("tool")
    assert not {"RV", "MYO", "LV", "Erase"} & set(marked())


def test_ed_and_es_can_be_chosen(site, viewer, case):
    def info():
        return site.ask("GET", f"/datastore/image/info?image={case.name}_phase03").json()

    keys = viewer.page.locator("#cine-bar select")
    assert keys.input_value() == info()["key"]
    wanted = "ED" if info()["key"] == "ES" else "ES"
    keys.select_option(wanted)
    viewer.page.wait_for_function(
        "wanted => document.querySelector('#cine-bar button.on').textContent.startsWith(wanted)", arg=wanted
    )
    assert (info()["key"], info()["key_phase_source"]) == (wanted, "user")
    assert keys.input_value() == wanted
    viewer.picture("key")


def _next_case(viewer):
    """Press the button and wait for the phase that it leads to; return the study and the series."""
    found = {}

    def listen(route):
        response = route.fetch()
        found.update(response.json())
        route.fulfill(response=response)

    viewer.page.route("**/activelearning/**", listen)
    viewer.press("Next case")
    for _ in range(200):
        if found:
            break
        viewer.page.wait_for_timeout(50)
    viewer.page.unroute("**/activelearning/**")
    viewer.page.wait_for_function(
        """series => {
          if (!document.querySelector('#cine-phase')) return false;
          const {viewportGridService: grid, displaySetService: sets} = window.services;
          const [uid] = grid.getState().viewports.get(grid.getActiveViewportId())?.displaySetInstanceUIDs ?? [];
          return uid && sets.getDisplaySetByUID(uid).SeriesInstanceUID === series;
        }""",
        arg=found["SeriesInstanceUID"],
    )
    assert viewer.alarms() == []
    return found["StudyInstanceUID"], found["SeriesInstanceUID"]


def test_the_next_case_is_nobody_elses(site, viewer, browser):
    viewer.open(NAMES[0])
    viewer.page.locator("#cine-phase").wait_for()
    mine, series = _next_case(viewer)
    viewer.page.get_by_text(re.compile("no label yet|proposal, not saved|This is the next one")).wait_for()
    viewer.picture("next")
    with Viewer(browser, site, "bar_other") as other:
        other.open(NAMES[0])
        other.page.locator("#cine-phase").wait_for()
        assert _next_case(other)[0] != mine
        other.picture("next")
        # Not saved yet: it stays the next one.
        viewer.press("Next case")
        viewer.page.get_by_text("This is the next one: it is yours until its label is saved.").wait_for()
        viewer.picture("next_again")
        # A third annotator finds nothing.
        other.page.evaluate("localStorage.removeItem('cineClient')")
        other.press("Next case")
        other.page.get_by_text("Nothing is left that nobody else works on.").wait_for()
        other.picture("nothing_left")
    # Saved, it is free again, and another phase comes.
    viewer.press("Segment")
    viewer.page.get_by_text("proposal, not saved").wait_for()
    viewer.press("Save")
    viewer.page.get_by_text("saved at").wait_for()
    assert _next_case(viewer)[1] != series
    viewer.picture("next_saved")


def test_what_is_skipped_is_not_offered_again(site, viewer):
    _next_case(viewer)
    viewer.page.get_by_text(re.compile("no label yet|proposal, not saved|This is the next one")).wait_for()
    # It is the last one: the other case is another annotator's.
    viewer.press("Skip")
    viewer.page.get_by_text("Nothing is left that nobody else works on.").wait_for()
    viewer.picture("skipped")
    [skipped] = json.loads((site.place.state / "assignments.json").read_text())["skipped"].values()
    shown = viewer.page.evaluate("document.querySelector('#cine-phase').textContent")
    assert [image[-2:] for image in skipped] == [f"0{shown.split()[1]}"]
    viewer.press("Next case")
    viewer.page.wait_for_timeout(1000)
    assert "Nothing is left that nobody else works on." in viewer.bar()

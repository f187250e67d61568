"""The whole loop in a real OHIF: a real Chromium, a real Orthanc, and the server as it is started."""

import time

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from app.viewer import PHASES, Viewer, chromium, read_study, ward, write_phantom
from cardiac_cine.dicom_seg import read_seg

LAYOUTS = ("phase_major", "slice_major", "reversed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ohif")
    for seed, layout in enumerate(LAYOUTS):
        write_phantom(root, layout, seed, layout)
    return root


@pytest.fixture(scope="module")
def site(folder):
    with ward(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(site):
    with chromium() as browser, Viewer(browser, site, "phantom") as opened:
        yield opened


@pytest.fixture(params=LAYOUTS)
def case(request, folder):
    """One study as read from its files, for what ought to be displayed."""
    return read_study(folder, request.param)


def _completed(site):
    return site.ask("GET", "/info/").json()["datastore"]["completed"]


def test_what_is_segmented_corrected_and_saved_is_the_phase_that_is_displayed(site, viewer, case, tmp_path):
    labelled = _completed(site)
    viewer.open(case.name)
    # Connected, in the plane of the slices, without a click or an address to type.
    viewer.wait_for(1, "no label yet")
    masks = {}
    for phase in range(1, PHASES + 1):
        viewer.wait_for(phase, "not segmented yet")
        viewer.press("Segment")
        viewer.wait_for(phase, " mL")
        shown = viewer.displayed()
        assert shown.description.split(", ")[-1].lower() == f"phase {phase} of {PHASES}"
        np.testing.assert_array_equal(shown.image(case, phase), case.array[..., phase - 1])
        masks[phase] = site.infer(f"{case.name}_phase{phase:02d}")
        np.testing.assert_array_equal(shown.mask(case, phase), masks[phase])
        viewer.picture(f"{case.name}_phase{phase}")
        viewer.press("▶")
    assert len({mask.tobytes() for mask in masks.values()}) == PHASES

    # A stroke of the brush, and one of the eraser.
    viewer.wait_for(1, "ED")
    viewer.draw("RV", -180)
    viewer.draw("Erase", -20)
    viewer.wait_for(1, "changed, not saved")
    expected = viewer.displayed().mask(case, 1)
    viewer.picture(f"{case.name}_corrected")
    added, erased = (expected == 1) & (masks[1] == 0), (expected == 0) & (masks[1] != 0)
    assert added.any() and erased.any()

    viewer.press("Save")
    viewer.wait_for(1, "saved at")
    viewer.picture(f"{case.name}_saved")
    image = f"{case.name}_phase01"
    np.testing.assert_array_equal(site.label(image, "final"), expected)
    assert _completed(site) == labelled + 1
    listed = site.ask("GET", "/datastore/?output=all").json()["objects"]
    assert list(listed[image]["labels"]) == ["final", "original"]
    # The archive has it as a segmentation of this very phase.
    [segmentation] = site.segmentations(viewer.displayed().study, tmp_path)
    returned = read_seg(segmentation, case)
    assert list(returned) == [0]
    np.testing.assert_array_equal(returned[0], expected)

    # It is there again for whoever opens the study next.
    viewer.page.reload()
    viewer.wait_for(1, "saved at")
    np.testing.assert_array_equal(viewer.displayed().mask(case, 1), expected)


def test_the_model_learns_from_what_was_saved_and_segments_again(site, viewer):
    if _completed(site) < len(LAYOUTS):
        pytest.skip("needs the labels that the tests above save")
    [old] = site.ask("GET", "/cine/models").json()["history"]
    site.ask("POST", "/train/cardiac_cine", json={"max_epochs": 1, "max_minutes": 3, "seed": 1})
    deadline = time.monotonic() + 400
    while site.ask("GET", "/train/?all=false").json()["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(2)
    status = site.ask("GET", "/info/").json()["train_stats"]["cardiac_cine"]["status"]
    assert status in ("published", "kept the live model")
    live = site.ask("GET", "/cine/models").json()["live"]["sha256"]
    assert (live != old["sha256"]) == (status == "published")

    viewer.open(LAYOUTS[0])
    viewer.wait_for(1, "saved at")
    viewer.press("Segment")
    viewer.wait_for(1, "proposal, not saved")
    viewer.picture("segmented_again")
    info = site.ask("GET", f"/datastore/image/info?image={LAYOUTS[0]}_phase01").json()
    assert info["result"]["model"] == live

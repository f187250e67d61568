"""The whole loop in a real OHIF: a real Chromium, a real Orthanc, and the server as it is started."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from cardiac_cine.datasets.phantom import render
from cardiac_cine.datasets.phantom_dicom import write_dicom
from cardiac_cine.datasets.phantom_spec import PhantomSpec
from cardiac_cine.dicom_seg import read_seg
from cardiac_cine.studies import find_studies

REPO = Path(__file__).resolve().parents[2]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LAYOUTS = ("phase_major", "slice_major", "reversed")
PHASES = 4
# Without a screen and without a graphics card.
CHROMIUM = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--ignore-gpu-blocklist",
]
# What the page holds: the volume that is displayed and the mask over it, plane by plane with their SOP instance UIDs.
STATE = """() => {
  const {cornerstone: {cache}, cornerstoneTools: tools, services} = window;
  const uids = ids => ids.map(id => /instances\\/([0-9.]+)/.exec(id)[1]);
  const voxels = volume => [...volume.voxelManager.getCompleteScalarDataArray()];
  const labelmap = tools.segmentation.state.getSegmentation('1').representationData.Labelmap;
  const volume = cache.getVolume(labelmap.volumeId), image = cache.getVolume(labelmap.referencedVolumeId);
  const {viewports, activeViewportId} = services.viewportGridService.getState();
  const set = services.displaySetService.getDisplaySetByUID(viewports.get(activeViewportId).displaySetInstanceUIDs[0]);
  const segments = Object.values(services.segmentationService.getSegmentation('1').segments);
  return {
    description: set.SeriesDescription, dimensions: [...volume.dimensions],
    names: Object.fromEntries(segments.map(segment => [segment.segmentIndex, segment.label])),
    imagePlanes: uids(image.imageIds), image: voxels(image),
    planes: uids(volume.imageIds.map(id => cache.getImage(id).referencedImageId)), mask: voxels(volume),
  };
}"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _request(url: str, method: str = "GET", data: bytes | None = None, accept: str = "*/*") -> bytes:
    headers = {"Accept": accept, "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as response:
        return response.read()


def _json(url: str, **options):
    return json.loads(_request(url, accept="application/json", **options))


def _start(command: list[str], folder: Path, url: str, seconds: float, **environment: str) -> subprocess.Popen:
    """Start a server and wait until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        env = os.environ | environment
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=env)
    deadline = time.monotonic() + seconds
    while True:
        try:
            _request(url)
            return process
        except (urllib.error.URLError, ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"{command[0]} does not start ({error}): {(folder / 'log.txt').read_text()[-3000:]}")
            time.sleep(0.2)


@dataclass(frozen=True)
class Place:
    """Where everything runs, and where pictures go for a person to look at."""

    server: str
    orthanc: str
    studies: Path
    state: Path
    pictures: Path

    def label(self, image: str, tag: str) -> np.ndarray:
        """Return a label as Slicer downloads it."""
        path = self.pictures / "label.nii.gz"
        path.write_bytes(_request(f"{self.server}/datastore/label?label={image}&tag={tag}"))
        return np.asanyarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    orthanc = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if orthanc is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("ohif")
    for number, layout in enumerate(LAYOUTS):
        spec = PhantomSpec(
            shape=(80, 96), spacing_mm=(3.0, 2.5, 15.0), phases=PHASES, lv_length_mm=60.0, lv_edv_ml=90.0,
            rv_edv_ml=90.0, lv_mass_g=80.0, centre_mm=(-8.0, -4.0), seed=number,
        )  # fmt: skip
        write_dicom(render(spec), folder / "studies" / layout, layout=layout, patient_id=layout, seed=number)
    archive, server = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    config = {
        "StorageDirectory": str(folder / "archive"), "IndexDirectory": str(folder / "archive"),
        "HttpPort": int(archive.rpartition(":")[2]), "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomServerEnabled": False, "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(config))
    running = [_start([orthanc, str(folder / "orthanc.json")], folder / "orthanc", f"{archive}/system", 30)]
    try:
        for path in sorted((folder / "studies").rglob("*.dcm")):
            _request(f"{archive}/instances", method="POST", data=path.read_bytes())
        arguments = ["--studies", f"{archive}/dicom-web", "--port", server.rpartition(":")[2], "--device", "cpu"]
        command = [sys.executable, "-m", "monailabel_app", *arguments, "--state_dir", str(folder / "state")]
        path = os.pathsep.join([str(REPO), str(REPO / "bundle")])
        running.append(_start(command, folder / "server", f"{server}/info/", 90, PYTHONPATH=path))
        pictures = Path(os.environ.get("OHIF_PICTURES") or folder / "pictures")
        pictures.mkdir(parents=True, exist_ok=True)
        yield Place(server, archive, folder / "studies", folder / "state", pictures)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(20)


@pytest.fixture(scope="module")
def page(place):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(180_000)
        said: list[str] = []
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        yield page
        page.screenshot(path=place.pictures / "last.png")
        (place.pictures / "console.txt").write_text("\n".join(said))
        browser.close()


def _wait_for(page, phase: int, text: str) -> None:
    """Wait until the bar shows a phase, from 1, and says something."""
    page.wait_for_function(
        "([phase, text]) => document.querySelector('#cine-phase')?.textContent === phase"
        " && document.querySelector('#cine-bar').textContent.includes(text)",
        arg=[f"phase {phase} of {PHASES}", text],
    )


def _press(page, name: str) -> None:
    page.locator("#cine-bar").get_by_role("button", name=name, exact=True).click()


def _planes(page) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what is displayed: its name, and by SOP instance UID its pixels and the label ids over them."""
    state = page.evaluate(STATE)
    shape = state["dimensions"][::-1]
    ids = {"rv": 1, "myo": 2, "lv": 3}
    table = np.zeros(256, np.uint8)
    for value, name in state["names"].items():
        table[int(value)] = ids[name]
    mask = table[np.array(state["mask"], np.uint8)].reshape(shape)
    image = np.array(state["image"]).reshape(shape)
    images, masks = (
        dict(zip(state[key], planes, strict=True)) for key, planes in (("imagePlanes", image), ("planes", mask))
    )
    return state["description"], images, masks


@pytest.fixture(params=LAYOUTS)
def case(request, place):
    """One study as read from its files, for what ought to be displayed."""
    [study] = [each for each in find_studies(place.studies).studies if each.name == request.param]
    return study.read()


def test_what_is_segmented_corrected_and_saved_is_the_phase_that_is_displayed(place, page, case):
    labelled = _json(f"{place.server}/info/")["datastore"]["completed"]
    page.goto(f"{place.server}/ohif/")
    hide = page.get_by_text("Confirm and Hide")
    hide.or_(page.get_by_text(case.name, exact=True)).first.wait_for()
    if hide.count():
        hide.click()
    page.get_by_text(case.name, exact=True).first.click()
    page.get_by_text("MONAI Label", exact=True).first.click()
    # Connected, in the plane of the slices, without a click or an address to type.
    _wait_for(page, 1, "no label yet")
    masks = {}
    for phase in range(1, PHASES + 1):
        _wait_for(page, phase, "not segmented yet")
        _press(page, "Segment")
        _wait_for(page, phase, " mL")
        description, images, drawn = _planes(page)
        assert description.split(", ")[-1].lower() == f"phase {phase} of {PHASES}"
        proposal = place.label(f"{case.name}_phase{phase:02d}", "original")
        for z, row in enumerate(case.instances):
            uid = row[phase - 1].sop_instance_uid
            np.testing.assert_array_equal(images[uid], case.array[:, :, z, phase - 1].T)
            np.testing.assert_array_equal(drawn[uid], proposal[:, :, z].T)
        masks[phase] = proposal
        page.screenshot(path=place.pictures / f"{case.name}_phase{phase}.png")
        _press(page, "▶")
    assert len({mask.tobytes() for mask in masks.values()}) == PHASES

    # A stroke of the brush, and one of the eraser.
    _wait_for(page, 1, "ED")
    box = page.locator(".cornerstone-viewport-element").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for tool, way in (("RV", -180), ("Erase", -20)):
        _press(page, tool)
        page.mouse.move(x + way, y + 20)
        page.mouse.down()
        page.mouse.move(x + way + 40, y + 50, steps=4)
        page.mouse.up()
    _wait_for(page, 1, "changed, not saved")
    _, _, drawn = _planes(page)
    page.screenshot(path=place.pictures / f"{case.name}_corrected.png")
    expected = np.stack([drawn[row[0].sop_instance_uid].T for row in case.instances], axis=-1)
    added, erased = (expected == 1) & (masks[1] == 0), (expected == 0) & (masks[1] != 0)
    assert added.any() and erased.any()

    _press(page, "Save")
    _wait_for(page, 1, "saved at")
    page.screenshot(path=place.pictures / f"{case.name}_saved.png")
    image = f"{case.name}_phase01"
    np.testing.assert_array_equal(place.label(image, "final"), expected)
    assert _json(f"{place.server}/info/")["datastore"]["completed"] == labelled + 1
    assert list(_json(f"{place.server}/datastore/?output=all")["objects"][image]["labels"]) == ["final", "original"]
    # The archive has it as a segmentation of this very phase.
    study = dcmread(case.instances[0][0].path, stop_before_pixels=True).StudyInstanceUID
    series = f"{place.orthanc}/dicom-web/studies/{study}/series?Modality=SEG"
    [segmentation] = [each["0020000E"]["Value"][0] for each in _json(series)]
    [found] = _json(f"{place.orthanc}/tools/find", method="POST", data=json.dumps(
        {"Level": "Instance", "Query": {"SeriesInstanceUID": segmentation}}).encode())  # fmt: skip
    path = place.pictures / f"{case.name}_seg.dcm"
    path.write_bytes(_request(f"{place.orthanc}/instances/{found}/file"))
    returned = read_seg(path, case)
    assert list(returned) == [0]
    np.testing.assert_array_equal(returned[0], expected)

    # It is there again for whoever opens the study next.
    page.reload()
    _wait_for(page, 1, "saved at")
    _, _, drawn = _planes(page)
    again = np.stack([drawn[row[0].sop_instance_uid].T for row in case.instances], axis=-1)
    np.testing.assert_array_equal(again, expected)


def test_the_model_learns_from_what_was_saved_and_segments_again(place, page):
    if _json(f"{place.server}/info/")["datastore"]["completed"] < len(LAYOUTS):
        pytest.skip("needs the labels that the tests above save")
    [old] = _json(f"{place.server}/cine/models")["history"]
    asked = {"max_epochs": 1, "max_minutes": 3, "seed": 1}
    _json(f"{place.server}/train/cardiac_cine", method="POST", data=json.dumps(asked).encode())
    deadline = time.monotonic() + 400
    while _json(f"{place.server}/train/?all=false")["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(2)
    status = _json(f"{place.server}/info/")["train_stats"]["cardiac_cine"]["status"]
    assert status in ("published", "kept the live model")
    live = _json(f"{place.server}/cine/models")["live"]["sha256"]
    assert (live != old["sha256"]) == (status == "published")

    page.goto(f"{place.server}/ohif/")
    page.get_by_text(LAYOUTS[0], exact=True).first.click()
    page.get_by_text("MONAI Label", exact=True).first.click()
    _wait_for(page, 1, "saved at")
    _press(page, "Segment")
    _wait_for(page, 1, "changed, not saved")
    page.screenshot(path=place.pictures / "segmented_again.png")
    info = _json(f"{place.server}/datastore/image/info?image={LAYOUTS[0]}_phase01")
    assert info["result"]["model"] == live

"""OHIF in a real Chromium: what an annotator does there, and what the page holds then."""

import contextlib
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from orthanc import Orthanc, run_orthanc

from app.servers import Place, started
from cardiac_cine.cine import Cine
from cardiac_cine.datasets.phantom import render
from cardiac_cine.datasets.phantom_dicom import write_dicom
from cardiac_cine.datasets.phantom_spec import PhantomSpec
from cardiac_cine.studies import find_studies

IDS = {"rv": 1, "myo": 2, "lv": 3}
PHASES = 4  # of the phantoms
TIMEOUT_MS = 120_000
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
    description: set.SeriesDescription, study: set.StudyInstanceUID, dimensions: [...volume.dimensions],
    names: Object.fromEntries(segments.map(segment => [segment.segmentIndex, segment.label])),
    imagePlanes: uids(image.imageIds), image: voxels(image),
    planes: uids(volume.imageIds.map(id => cache.getImage(id).referencedImageId)), mask: voxels(volume),
  };
}"""


@dataclass(frozen=True)
class Ward:
    """An archive, the server before it, and a folder with pictures for a person to look at (OHIF_PICTURES)."""

    orthanc: Orthanc
    place: Place
    pictures: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.place.url

    def ask(self, method: str, path: str, **options) -> requests.Response:
        """Ask the server beside the viewer."""
        answer = requests.request(method, self.url + path, headers=self.headers, timeout=300, **options)
        answer.raise_for_status()
        return answer

    def label(self, image: str, tag: str) -> np.ndarray:
        """Return a label as Slicer downloads it."""
        return self._volume(self.ask("GET", f"/datastore/label?label={image}&tag={tag}"))

    def infer(self, image: str) -> np.ndarray:
        """Return what the model makes of an image, asked for without the viewer."""
        form = {"params": (None, json.dumps({"result_extension": ".nii.gz"}))}
        return self._volume(self.ask("POST", f"/infer/cardiac_cine?image={image}&output=image", files=form))

    def _volume(self, answer: requests.Response) -> np.ndarray:
        path = self.place.root / "answer.nii.gz"
        path.write_bytes(answer.content)
        return np.asanyarray(nib.load(path).dataobj)

    def segmentations(self, study: str, folder: Path) -> list[Path]:
        """Fetch a study's segmentations from the archive itself."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study, "Modality": "SEG"}}
        request = urllib.request.Request(f"{self.orthanc.url}/tools/find", json.dumps(query).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=20) as found:
            names = json.load(found)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / f"{name}.dcm").write_bytes(self.orthanc.get(f"/instances/{name}/file"))
        return [folder / f"{name}.dcm" for name in names]


@contextlib.contextmanager
def ward(folder: Path, *, token: str = "") -> Iterator[Ward]:
    """Serve what lies in ``folder``/studies from an archive; with a token in a file where one is given."""
    with run_orthanc(_made(folder / "orthanc")) as orthanc:
        orthanc.store_folder(folder / "studies")
        arguments = []
        if token:
            (folder / "token").write_text(f"{token}\n")
            arguments = ["--token_file", str(folder / "token")]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        pictures = _made(Path(os.environ.get("OHIF_PICTURES") or folder / "pictures"))
        with started(_made(folder / "server"), orthanc.dicomweb_url, arguments=arguments) as place:
            yield Ward(orthanc, place, pictures, headers)


def write_phantom(folder: Path, name: str, seed: int, layout: str = "phase_major") -> None:
    """Write a patient of few voxels below ``folder``/studies."""
    spec = PhantomSpec(
        shape=(80, 96), spacing_mm=(3.0, 2.5, 15.0), phases=PHASES, lv_length_mm=60.0, lv_edv_ml=90.0,
        rv_edv_ml=90.0, lv_mass_g=80.0, centre_mm=(-8.0, -4.0), seed=seed,
    )  # fmt: skip
    write_dicom(render(spec), folder / "studies" / name, layout=layout, patient_id=name, seed=seed)


def read_study(folder: Path, name: str) -> Cine:
    """Return one of the studies below ``folder``/studies, for what ought to be displayed."""
    [study] = [each for each in find_studies(folder / "studies").studies if each.name == name]
    return study.read()


@contextlib.contextmanager
def chromium():
    """Run a browser, or skip the test with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=program, headless=True, args=CHROMIUM)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Displayed:
    """What is displayed: its name, and by SOP instance UID its pixels and the label ids over them, rows first."""

    description: str
    study: str
    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]

    def mask(self, cine: Cine, phase: int) -> np.ndarray:
        """Return the mask (x, y, z) over a phase of a cine, from 1; KeyError where other images are displayed."""
        return np.stack([self.masks[uid].T for uid in uids(cine, phase)], axis=-1)

    def image(self, cine: Cine, phase: int) -> np.ndarray:
        """Return the pixels likewise."""
        return np.stack([self.images[uid].T for uid in uids(cine, phase)], axis=-1)


def uids(cine: Cine, phase: int) -> list[str]:
    """Return the SOP instance UIDs of a phase, from 1, slice by slice."""
    return [row[phase - 1].sop_instance_uid for row in cine.instances]


class Viewer:
    """One annotator's browser window."""

    def __init__(self, browser, ward: Ward, name: str) -> None:
        self.ward, self.name, self.said = ward, name, list[str]()
        self.context = browser.new_context(viewport={"width": 1500, "height": 900})
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"uncaught: {error.stack}"))

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self.picture("last")
        (self.ward.pictures / f"{self.name}_console.txt").write_text("\n".join(self.said))
        self.context.close()

    def picture(self, what: str) -> None:
        self.page.screenshot(path=self.ward.pictures / f"{self.name}_{what}.png")

    def open(self, patient: str) -> None:
        """Go by the list of studies, as an annotator does."""
        self.page.goto(f"{self.ward.url}/ohif/")
        hide = self.page.get_by_text("Confirm and Hide")
        hide.or_(self.page.get_by_text(patient, exact=True)).first.wait_for()
        if hide.count():
            hide.click()
        self.page.get_by_text(patient, exact=True).first.click()
        self.page.get_by_text("MONAI Label", exact=True).first.click()

    def press(self, name: str) -> None:
        self.page.locator("#cine-bar").get_by_role("button", name=name, exact=True).click()

    def wait_for(self, phase: int, text: str, phases: int = PHASES) -> None:
        """Wait until the bar shows a phase, from 1, and says something."""
        self.page.wait_for_function(
            "([phase, text]) => document.querySelector('#cine-phase')?.textContent === phase"
            " && document.querySelector('#cine-bar').textContent.includes(text)",
            arg=[f"phase {phase} of {phases}", text],
        )

    def bar(self) -> str:
        """Return what the bar says."""
        return self.page.locator("#cine-bar").inner_text()

    @contextlib.contextmanager
    def holding(self, addresses: str) -> Iterator[list]:
        """Hold requests back until the block ends; yields those that wait."""
        held = []
        self.page.route(addresses, lambda route: held.append(route))
        yield held
        for route in held:
            route.continue_()
        self.page.unroute(addresses)

    def alarms(self) -> list[str]:
        """Return the failures that OHIF announces."""
        return self.page.locator("[data-sonner-toast][data-type=error]").all_inner_texts()

    def displayed(self) -> Displayed:
        state = self.page.evaluate(STATE)
        shape = state["dimensions"][::-1]
        table = np.zeros(256, np.uint8)
        for value, name in state["names"].items():
            table[int(value)] = IDS[name]
        mask = table[np.array(state["mask"], np.uint8)].reshape(shape)
        image = np.array(state["image"]).reshape(shape)
        images, masks = (
            dict(zip(state[key], planes, strict=True)) for key, planes in (("imagePlanes", image), ("planes", mask))
        )
        return Displayed(state["description"], state["study"], images, masks)

    def draw(self, tool: str, way: int) -> None:
        """Draw a short stroke below the middle, ``way`` to its right."""
        box = self.page.locator(".cornerstone-viewport-element").first.bounding_box()
        x, y = box["x"] + box["width"] / 2 + way, box["y"] + box["height"] / 2
        self.press(tool)
        self.page.mouse.move(x, y + 20)
        self.page.mouse.down()
        self.page.mouse.move(x + 40, y + 50, steps=4)
        self.page.mouse.up()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""What is written as DICOM goes into a real archive and comes back: needs Orthanc with its DICOMweb plugin."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from dicom_sources import random_masks, write_cine
from pydicom import dcmread

from cardiac_cine.dicom_seg import read_seg, write_seg
from cardiac_cine.dicom_sr import write_sr
from cardiac_cine.measurements import measure
from cardiac_cine.quality import Flag

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 30


class Orthanc:
    """An Orthanc's REST and DICOMweb interfaces."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.read()

    def json(self, path: str):
        return json.loads(self.get(path, "application/json"))

    def store(self, path: Path) -> dict:
        request = urllib.request.Request(f"{self.url}/instances", path.read_bytes(), method="POST")
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    config = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    server = Orthanc(port)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                server.get("/system")
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"Orthanc does not start: {(folder / 'log.txt').read_text()[-2000:]}")
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(10)
        log.close()


@pytest.mark.parametrize(("layout", "seed"), [("phase_major", 1), ("enhanced", 2)])
def test_images_segmentations_and_report_survive_an_archive(orthanc, layout, seed, tmp_path):
    cine = write_cine(tmp_path / "cine", layout, seed)
    masks = random_masks(cine)
    segmentations = write_seg(cine, masks, tmp_path / "seg", phases={0: "end-diastole", 2: "end-systole"})
    report = tmp_path / "sr.dcm"
    measurements = measure(masks, cine.affine, ed_frame=0, es_frame=2)
    write_sr(cine, measurements, [Flag("missing_base", "The base is cut off.")], report, seg=segmentations)

    images = sorted({instance.path for row in cine.instances for instance in row})
    stored = {}
    for path in (*images, *segmentations.values(), report):
        answer = orthanc.store(path)
        assert answer["Status"] in ("Success", "AlreadyStored")
        stored[path] = answer
    assert len({answer["ParentStudy"] for answer in stored.values()}) == 1

    # As OHIF asks: which series has the study, and what is in them.
    study = dcmread(report, stop_before_pixels=True).StudyInstanceUID
    series = orthanc.json(f"/dicom-web/studies/{study}/series")
    modalities = sorted(item["00080060"]["Value"][0] for item in series)
    assert modalities == ["MR", "SEG", "SEG", "SR"]
    [metadata] = orthanc.json(f"/dicom-web/studies/{study}/series/{dcmread(report).SeriesInstanceUID}/metadata")
    assert metadata["00080016"]["Value"] == ["1.2.840.10008.5.1.4.1.1.88.34"]

    for phase, path in segmentations.items():
        returned = tmp_path / f"returned{phase}.dcm"
        returned.write_bytes(orthanc.get(f"/instances/{stored[path]['ID']}/file"))
        np.testing.assert_array_equal(read_seg(returned, cine)[phase], masks[..., phase])
    returned = tmp_path / "returned.dcm"
    returned.write_bytes(orthanc.get(f"/instances/{stored[report]['ID']}/file"))
    assert dcmread(returned).ContentSequence == dcmread(report).ContentSequence

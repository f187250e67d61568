"""A real Orthanc with its DICOMweb plugin, for tests of what goes into an archive and comes back."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 30


class Orthanc:
    """An Orthanc's REST and DICOMweb interfaces."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

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

    def store_folder(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*.dcm")):
            self.store(path)

    def clear(self) -> None:
        for patient in self.json("/patients"):
            request = urllib.request.Request(f"{self.url}/patients/{patient}", method="DELETE")
            urllib.request.urlopen(request, timeout=20).close()


@contextmanager
def run_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run an Orthanc on a free port, its database in ``folder``, or skip the test with the reason."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
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

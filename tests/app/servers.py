"""The annotation server in a process of its own, as its users run it."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from benchmark_server import serving
from conftest import REPO


@dataclass(frozen=True)
class Place:
    """A running server's address, the folder that holds its state and its log, and its process."""

    url: str
    root: Path
    pid: int

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()


@contextlib.contextmanager
def started(root: Path, studies: Path | str, *, conf=None, token="", arguments=(), **environment):
    """Serve studies on a free port, without scores in the background, until the block ends.

    With ``conf``, the server is started by MONAI Label's own command and its --conf; else by the app's, which may get
    more ``arguments``.
    """
    environment = {
        "HOME": str(root),
        "XDG_STATE_HOME": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        **({"CARDIAC_LABEL_TOKEN": token} if token else {}),
        **environment,
    }
    if conf is None:
        module = "monailabel_app"
        arguments = ["--state_dir", str(root / "state"), "--device", "cpu", *arguments]
    else:
        module = "monailabel.main"
        arguments = ["start_server", "--app", str(REPO / "monailabel_app"), "--host", "127.0.0.1"]
        for key, value in {"state_dir": str(root / "state"), "device": "cpu", **conf}.items():
            arguments += ["--conf", key, value if isinstance(value, str) else json.dumps(value)]
    arguments += ["--studies", str(studies)]
    with serving(arguments, root / "log", module=module, **environment) as server:
        yield Place(server.url, root, server.process.pid)

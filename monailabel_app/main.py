"""What MONAI Label loads from the app's folder: the app class, wherever the server or its child was started from."""

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [folder for folder in (str(REPO), str(REPO / "bundle")) if folder not in sys.path]

from monailabel_app.lib.app import CardiacCineApp  # noqa: E402 - needs the paths above

__all__ = ["CardiacCineApp"]

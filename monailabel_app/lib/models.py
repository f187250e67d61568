"""The live network and its earlier versions, in the app's state."""

from pathlib import Path

from cardiac_cine.annotation.model_versions import ModelVersions, Version
from monailabel_app.lib.state import State

__all__ = ["Models", "Version"]


class Models(ModelVersions):
    """See the base class; the training's process publishes to the same folder."""

    def __init__(self, state: State, bundle_root: Path, device: str | None = None) -> None:
        super().__init__(state.models, state.lock, Path(bundle_root), device)

"""The app: one place where datastore, models, tasks and strategies meet MONAI Label."""

import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.utils.async_tasks.utils import processes, run_background_task

import cardiac_cine
from cardiac_cine.annotation.answers import numbers
from cardiac_cine.annotation.audit import append_event
from cardiac_cine.annotation.jobs import Jobs
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.annotation.training_runs import end_with_parent
from cardiac_cine.files import sha256
from monailabel_app.lib import access, guard, scoring, state, strategies
from monailabel_app.lib.datastore import ORIGINAL, CineDatastore, Entry
from monailabel_app.lib.infer import LABELS, CineSegmentation, Correction, Propagation
from monailabel_app.lib.sources import open_source
from monailabel_app.lib.training import CineTraining

logger = logging.getLogger(__name__)

BUNDLE = Path(cardiac_cine.__file__).resolve().parents[1]
NAME = "cardiac_cine"
# What the server starts for training, scoring and batch inference.
_CHILD = "monailabel.interfaces.utils.app"
_SECONDS_BETWEEN_LOOKS = 5.0


class CardiacCineApp(MONAILabelApp):
    """Annotation of short-axis cines.

    Conf keys: state_dir, origins, phases, device, dicomweb_filter, train_overrides. The token is in the environment.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        os.umask(0o077)  # what is written is for the server's user alone, also what its child processes write
        if getattr(sys.modules["__main__"].__spec__, "name", "") == _CHILD:
            end_with_parent()  # a training must not outlive the server and publish
        os.environ.pop("MONAI_LABEL_CORS_ORIGINS", None)  # read by now; MONAI Label's child processes fail with it
        settings.MONAI_LABEL_SESSIONS = False  # sessions unpack uploaded archives, which nothing here needs
        self.state = state.State.of(studies, conf.get("state_dir", ""))
        self.models = ModelVersions(self.state.models, self.state.lock, BUNDLE, conf.get("device") or None)
        self.jobs = Jobs()
        about = "LV cavity, LV myocardium and RV in short-axis cine MR, over the whole cycle"
        version, labels = cardiac_cine.__version__, list(LABELS)  # OHIF adds to it, which an object does not take
        super().__init__(app_dir, studies, conf, "Cardiac cine MR", about, version, labels)

    def init_datastore(self) -> CineDatastore:
        """Open the studies: a folder, or a PACS behind DICOMweb."""
        source = open_source(self.studies, self.state.cache, self.conf.get("dicomweb_filter"))
        datastore = CineDatastore(source, self.state, phases=self.conf.get("phases", "key"))
        datastore.more = self._about
        return datastore

    def init_infers(self) -> dict[str, Any]:
        """Return the models: automatic, corrected by clicks, and carried on to other phases."""
        parts = (self._datastore, self.models, self.jobs)
        return {
            NAME: CineSegmentation(*parts),
            f"{NAME}_correct": Correction(*parts),
            f"{NAME}_propagate": Propagation(*parts),
        }

    def init_trainers(self) -> dict[str, Any]:
        """Return the one training."""
        return {NAME: CineTraining(self.state, self.models, BUNDLE, self.conf)}

    def init_strategies(self) -> dict[str, Any]:
        """Return the ways to choose what to annotate next, the default first."""
        return strategies.all_strategies(self.state, self.models)

    def init_scoring_methods(self) -> dict[str, Any]:
        """Return what the strategies' scores are computed by."""
        return {scoring.NAME: scoring.CineScores(self.state, self.models)}

    def on_init_complete(self) -> None:
        """Guard the server, load the network, and keep the scores up to date."""
        guard.install(self)
        for work in (self.models.segmenter, self._keep_scores):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Run a model on an image of the datastore; the result is a temporary file and parameters."""
        task = self._infers.get(request.get("model"))
        if task is None:
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, f"no model {request.get('model')!r}")
        image_id = self._datastore.resolve(request["image"])
        uri = self._datastore.get_image_uri(image_id)
        path, params = task({**request, "image_id": image_id, "image": uri})
        return {"label": path, "tag": ORIGINAL, "file": path, "params": params}

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment many images, and leave what is drawn by hand; the stock task divides by the number of GPUs."""
        own = {"asked": False, "multi_gpu": False, "device": str(self.models.device)}
        return super().batch_infer(request | own, datastore)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Choose what to annotate next; clients download the image, so no path of the server is told."""
        found = super().next_sample(request)
        guard.noted.get().update(image=found.get("id"), skipped=request.get("skip"))
        if path := found.pop("path", ""):  # Slicer keeps images by name; without it, those of another server too
            found["checksum"] = f"SHA256:{sha256(Path(path))}"
        return found

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Let others have the case; return its numbers, which Slicer shows as details of the saved label."""
        try:
            image_id = self._datastore.resolve(image_id)
            self.state.worklist.release(image_id)
            return numbers(self._datastore, image_id)
        except Exception:  # the label is saved, whatever fails after it
            logger.exception("%s: no numbers of the saved label", image_id)
            return {}

    def async_scoring(self, method: str | None, params: Any = None) -> dict[str, Any]:
        """Do nothing where the stock app asks for scores: the server recomputes them when the model has changed."""
        return {}

    def audit(self, action: str, **what: Any) -> None:
        """Note who did what."""
        append_event(self.state.audit, access.current_user.get(), action, **what)

    def _about(self, entry: Entry) -> dict[str, Any]:
        scores = self.state.scores.shown(entry.id, self.models.live.sha256)
        return self.state.worklist.about(entry.id, entry.case) | ({"scores": scores} if scores else {})

    def _keep_scores(self) -> None:
        scored = None
        while settings.MONAI_LABEL_AUTO_UPDATE_SCORING:
            now = (self.models.live.sha256, self._datastore.status()["total"])
            if now != scored and not processes("scoring"):
                run_background_task({"method": scoring.NAME}, "scoring")
                scored = now
            time.sleep(_SECONDS_BETWEEN_LOOKS)

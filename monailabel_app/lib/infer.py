"""What annotators ask of the network: a mask of a phase, a corrected one, or its correction carried to other phases."""

import tempfile
import time
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from cardiac_cine.annotation.answers import answer, numbers
from cardiac_cine.annotation.correction import BACKGROUND_KEY, correct, seeds_from_request
from cardiac_cine.annotation.jobs import Job, Jobs
from cardiac_cine.annotation.mask_files import read_mask, write_for_viewer
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.annotation.probabilities import segment_with_probabilities
from cardiac_cine.annotation.proposals import propose_neighbours
from cardiac_cine.cine import Cine
from cardiac_cine.errors import InputError
from cardiac_cine.files import plain
from cardiac_cine.images import Frame
from cardiac_cine.labels import STRUCTURES
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.workflow import segment_study
from monailabel_app.lib.access import upload_folder
from monailabel_app.lib.datastore import CineDatastore, Entry

LABELS = {structure.key: structure.id for structure in STRUCTURES}
_SEEN = 3  # phases before this one whose probabilities are kept
Found = tuple[np.ndarray, dict[str, Any]]


class CineTask(InferTask):
    """An answer about one phase, computed in the queue: a temporary file with a mask, and what is to be said of it."""

    kind, about, options = InferType.SEGMENTATION, "", dict[str, Any]()

    def __init__(self, datastore: CineDatastore, models: ModelVersions, jobs: Jobs) -> None:
        super().__init__(self.kind.value, LABELS, 3, self.about, self.options)
        self.datastore, self.models, self.jobs = datastore, models, jobs

    def is_valid(self) -> bool:
        """Always."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the file, for the caller to remove, and the parameters."""
        came = time.perf_counter()
        return self.jobs.run(type(self).__name__, request["image_id"], lambda job: self._answer(request, job, came))

    @abstractmethod
    def mask(self, request: dict[str, Any], entry: Entry, cine: Cine, segmenter: Segmenter, model: str) -> Found:
        """Return the mask (x, y, z) and what more is known of it."""

    def _answer(self, request: dict[str, Any], job: Job, came: float) -> tuple[str, dict[str, Any]]:
        begun, entry = time.perf_counter(), self.datastore.entry(request["image_id"])
        suffix = request.get("result_extension") or ".nii.gz"
        if suffix not in (".nii.gz", ".nii", ".nrrd"):
            raise InputError(f"result_extension must be .nii.gz, .nii or .nrrd, got {suffix!r}")
        cine, (segmenter, model) = self.datastore.cine(entry.case), self.models.current()
        hook = segmenter.network.register_forward_pre_hook(lambda *_: job.check())  # a whole cine can be stopped
        try:
            mask, found = self.mask(request, entry, cine, segmenter, model)
        finally:
            hook.remove()
        job.check()
        inferred, entry = time.perf_counter(), self.datastore.entry(entry.id)
        params = {
            "label_names": LABELS,  # all of them: Slicer takes the first name for value 1, and so on
            "phase": entry.phase + 1,
            "key": entry.key,
            "key_phase_source": self.datastore.key_phase_source(entry.case),
            "model": model,
            **numbers(self.datastore, entry.id, mask),
        }
        params = plain(params | found)
        self.datastore.keep_facts(entry.id, {"result": params})
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            write_for_viewer(mask, cine.affine, Path(file.name))
        spans = {"wait": begun - came, "infer": inferred - begun, "total": time.perf_counter() - came}
        return file.name, params | {"latencies": {name: round(seconds, 3) for name, seconds in spans.items()}}


class CineSegmentation(CineTask):
    """The network's mask of a phase, as scripts/segment.py makes of that phase alone, or those of the whole cine."""

    about, options = "Segments this phase, or the whole cine: volumes, EF, what to check", {"whole_cine": False}

    def mask(self, request: dict[str, Any], entry: Entry, cine: Cine, segmenter: Segmenter, model: str) -> Found:
        """Segment, measure and check; the masks are kept as "original" labels."""
        if not request.get("whole_cine") or cine.phases == 1:
            mask = segment_study(segmenter, cine.single_phase(entry.phase))[0][..., 0]
            self.datastore.propose(entry.id, mask, asked=request.get("asked", True), source="model", model=model)
            return mask, {}
        given = answer(segmenter, cine)
        for each in self.datastore.phases_of(entry.case):
            mask = given.masks[..., each.phase]
            self.datastore.propose(each.id, mask, asked=False, source="model", model=model)
        if given.measured.ed_frame != given.measured.es_frame:
            self.datastore.set_key_phases(entry.case, given.measured.ed_frame, given.measured.es_frame)
        flags, measured = [vars(flag) for flag in given.flags], given.measured.to_dict()
        found = {"quality_flags": flags, "measurements": measured, "agreement": given.agreement}
        return given.masks[..., entry.phase], found


class Correction(CineTask):
    """The current mask, mended where clicks point: one that is uploaded, else the latest label, else the network's."""

    kind, about = InferType.DEEPEDIT, "Corrects the mask where you click; only the slices that you click in change"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._seen: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}

    def mask(self, request: dict[str, Any], entry: Entry, cine: Cine, segmenter: Segmenter, model: str) -> Found:
        """Correct; the next click in the phase needs no network."""
        seeds, version = seeds_from_request(request, cine.array.shape[:3]), self.datastore.listed(entry.id).version
        if (key := (entry.id, version, model)) not in self._seen:
            kept = [*self._seen.items()][-_SEEN:]
            self._seen = dict([*kept, (key, segment_with_probabilities(segmenter, cine.frame(entry.phase)))])
        automatic, probabilities = self._seen[key]
        current = _uploaded(request, replace(cine.frame(entry.phase), path=Path(entry.id)))
        current = self.datastore.label_array(entry.id, self.datastore.latest(entry.id)) if current is None else current
        current = automatic if current is None else current
        mask = correct(current, seeds, cine.spacing_mm, probabilities)
        return mask, {"changed_slices": (np.flatnonzero((mask != current).any(axis=(0, 1))) + 1).tolist()}


class Propagation(CineTask):
    """What was corrected in this phase, carried to its neighbours as their "original" labels."""

    about, options = "Carries this phase's saved label to the phases beside it, as proposals", {"reach": 1}

    def mask(self, request: dict[str, Any], entry: Entry, cine: Cine, segmenter: Segmenter, model: str) -> Found:
        """Carry on in both directions as far as ``reach``, and up to what is drawn by hand; its own mask stays."""
        parts = (self.datastore, entry, cine, segmenter)
        label, to = propose_neighbours(*parts, reach=request.get("reach", 1), model=model)
        return label, {"carried_to": to}


def _uploaded(request: dict[str, Any], frame: Frame) -> np.ndarray | None:
    """Return the mask that came with a request, if any; no other file may be named."""
    name = request.get("label") or BACKGROUND_KEY
    if name in (*LABELS, BACKGROUND_KEY):
        return None
    folder = upload_folder.get("")
    if not folder or Path(name).parent != Path(folder):
        raise InputError(f"label must be one of {', '.join(LABELS)}, or a file that is uploaded")
    return read_mask(Path(name), frame, request.get("label_info") or ())

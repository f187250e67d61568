"""Scores of every sample by the live model, made in a child process and kept in the state's folder."""

import json
import logging
import os
import threading
from collections import defaultdict
from contextlib import suppress
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from cardiac_cine.annotation.active_learning import DESCRIPTORS, describe, score_phases
from cardiac_cine.files import write_json
from cardiac_cine.labels import LV
from cardiac_cine.phases import find_phases

logger = logging.getLogger(__name__)

NAME = "cine_scores"
NICENESS = 10
# What no client needs to see of a record.
_INTERNAL = ("features", "descriptor", "reason")
# File to its stamp and what was read from it.
_read: dict[str, tuple[tuple[int, ...], dict[str, dict[str, Any]]]] = {}


def scores(state: Any, model_sha: str | None = None) -> dict[str, dict[str, Any]]:
    """Return image id to record, of one model where given; empty without a readable file."""
    try:
        stat, path = state.scores.stat(), str(state.scores)
        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if path not in _read or _read[path][0] != stamp:
            _read[path] = stamp, json.loads(state.scores.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("scores cannot be read: %s", error)
        return {}
    return {key: record for key, record in _read[path][1].items() if model_sha in (None, record.get("model"))}


def client_scores(state: Any, model_sha: str, image_id: str) -> dict[str, Any]:
    """Return what clients are shown of an image's scores; ``current``: they are the live model's."""
    record = scores(state).get(image_id, {})
    shown = {key: value for key, value in record.items() if key not in _INTERNAL}
    return {**shown, "current": record["model"] == model_sha} if "model" in record else {}


class CineScores(ScoringMethod):
    """Describes every cine, then scores those that the live model has not scored; stores after each."""

    def __init__(self, state: Any, models: Any) -> None:
        super().__init__("Uncertainty, temporal disagreement, spread of EF and features of every sample")
        self._state, self._models = state, models

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Score what is missing; return how many samples have scores, and the reason for each that has none."""
        with suppress(OSError):  # on Linux, of this thread and those it starts
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        labelled, cases = set(datastore.get_labeled_images()), defaultdict(list)
        for image_id in datastore.list_images():
            cases[datastore.entry(image_id).case].append(image_id)
        order = sorted(cases, key=lambda case: (labelled.issuperset(cases[case]), case))
        for work in (self._describe, self._score):
            for case in order:
                try:
                    found = work(case, cases[case], datastore)
                except Exception as error:
                    logger.exception("%s cannot be scored", case)
                    failed = {"model": self._models.live.sha256, "error": type(error).__name__, "reason": str(error)}
                    found = dict.fromkeys(cases[case], failed)
                if found:
                    self._store(found)
                    logger.info("%s: %s", work.__name__.strip("_"), case)
        known = scores(self._state, self._models.live.sha256)
        reasons = {key: record["reason"] for key, record in known.items() if "error" in record}
        return {"scored": len(known) - len(reasons), "failed": reasons}

    def _describe(self, case: str, images: list[str], datastore: Any) -> dict[str, dict[str, Any]]:
        known = {key: scores(self._state).get(key, {}) for key in images}
        if all(len(record.get("descriptor") or ()) == len(DESCRIPTORS) for record in known.values()):
            return {}
        descriptor = describe(datastore.cine(case)).tolist()
        return {key: {**record, "descriptor": descriptor} for key, record in known.items()}

    def _score(self, case: str, images: list[str], datastore: Any) -> dict[str, dict[str, Any]]:
        segmenter, model = self._models.current()
        known = scores(self._state, model)
        if all("error" not in known.get(key, {"error": "none yet"}) for key in images):
            return {}
        cine = datastore.cine(case)
        masks = segmenter.segment_cine(cine)
        key = find_phases((masks == LV).sum(axis=(0, 1, 2)))
        if key.ed_frame != key.es_frame:
            datastore.set_key_phases(case, key.ed_frame, key.es_frame)
        # Those phases are other images now, and a person's choice stands over the model's.
        listed, entries = {*images, *datastore.list_images()}, datastore.phases_of(case)
        ed, es = (next((e.phase for e in entries if e.key == name), 0) for name in ("ED", "ES"))
        wanted = {entry.id: entry.phase for entry in entries if entry.id in listed}
        found = score_phases(segmenter, cine, masks, wanted.values(), ed_frame=ed, es_frame=es)
        own = {"model": model, "descriptor": describe(cine).tolist()}
        return {image_id: found[phase].to_dict() | own for image_id, phase in wanted.items()}

    def _store(self, records: dict[str, dict[str, Any]]) -> None:
        with self._state.lock:
            old = scores(self._state)
            kept = {key: {"descriptor": old.get(key, {}).get("descriptor")} for key in records}
            write_json(old | {key: kept[key] | record for key, record in records.items()}, self._state.scores)

"""Scores of every image by the live network, in one file that several processes share."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cardiac_cine.annotation.active_learning import DESCRIPTORS, describe, score_phases
from cardiac_cine.annotation.library import FINAL, Library
from cardiac_cine.annotation.model_versions import ModelVersions
from cardiac_cine.files import write_json
from cardiac_cine.labels import LV
from cardiac_cine.phases import find_phases

logger = logging.getLogger(__name__)

# What no client needs to see of a record.
_INTERNAL = ("features", "descriptor", "reason")

Record = dict[str, Any]


class Scores:
    """What is known of each image for choosing what to annotate: of its scan, and by the network that scored it.

    A record holds ``model``, the network's hash, with the values of
    :class:`~cardiac_cine.annotation.active_learning.PhaseScores` or an ``error`` and its ``reason``, and ``descriptor``
    whatever the network, see :func:`~cardiac_cine.annotation.active_learning.describe`.

    Args:
        path: the file.
        lock: held while it is written, by all processes; reentrant.
    """

    def __init__(self, path: Path, lock: AbstractContextManager) -> None:
        self.path, self._lock = path, lock
        # The file's stamp and what was read from it.
        self._read: tuple[tuple[int, ...], dict[str, Record]] = ((), {})

    def all(self, model: str | None = None) -> dict[str, Record]:
        """Return image to record, of one network where given; empty without a readable file."""
        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._read[0]:
                self._read = stamp, json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("scores cannot be read: %s", error)
            return {}
        return {key: record for key, record in self._read[1].items() if model in (None, record.get("model"))}

    def of_network(self, model: str) -> dict[str, Record]:
        """Return image to record; what another network scored keeps its descriptor alone, which holds for any."""
        return {
            key: record if record.get("model") == model else {"descriptor": record.get("descriptor")}
            for key, record in self.all().items()
        }

    def shown(self, image_id: str, model: str) -> Record:
        """Return what clients are shown of an image's record; ``current``: it is this network's."""
        record = self.all().get(image_id, {})
        shown = {key: value for key, value in record.items() if key not in _INTERNAL}
        return {**shown, "current": record["model"] == model} if "model" in record else {}

    def put(self, records: Mapping[str, Record]) -> None:
        """Replace some images' records; a descriptor stays where a record has none."""
        with self._lock:
            old = self.all()
            kept = {key: {"descriptor": old.get(key, {}).get("descriptor")} for key in records}
            write_json(old | {key: kept[key] | record for key, record in records.items()}, self.path)

    def update(self, library: Library, models: ModelVersions) -> dict[str, Any]:
        """Describe every cine, then score those that the live network has not scored; each is stored when it is done.

        Returns:
            ``scored``, the number of images that have scores, and ``failed``, the reason for each that has none.
        """
        library.refresh_when_old()
        labelled, cases = library.labels.all(FINAL), defaultdict(list)
        for entry in library.entries():
            cases[entry.case].append(entry.id)
        order = sorted(cases, key=lambda case: (all(image in labelled for image in cases[case]), case))
        steps: tuple[Callable[..., dict[str, Record]], ...] = (self._describe, self._score)
        for step in steps:
            for case in order:
                try:
                    found = step(case, cases[case], library, models)
                except Exception as error:
                    logger.exception("%s cannot be scored", case)
                    failed = {"model": models.live.sha256, "error": type(error).__name__, "reason": str(error)}
                    found = dict.fromkeys(cases[case], failed)
                if found:
                    self.put(found)
                    logger.info("%s: %s", step.__name__.strip("_"), case)
        known = self.all(models.live.sha256)
        reasons = {key: record["reason"] for key, record in known.items() if "error" in record}
        return {"scored": len(known) - len(reasons), "failed": reasons}

    def _describe(self, case: str, images: list[str], library: Library, models: ModelVersions) -> dict[str, Record]:
        known = {key: self.all().get(key, {}) for key in images}
        if all(len(record.get("descriptor") or ()) == len(DESCRIPTORS) for record in known.values()):
            return {}
        descriptor = describe(library.cine(case)).tolist()
        return {key: {**record, "descriptor": descriptor} for key, record in known.items()}

    def _score(self, case: str, images: list[str], library: Library, models: ModelVersions) -> dict[str, Record]:
        segmenter, model = models.current()
        known = self.all(model)
        if all("error" not in known.get(key, {"error": "none yet"}) for key in images):
            return {}
        cine = library.cine(case)
        masks = segmenter.segment_cine(cine)
        key = find_phases((masks == LV).sum(axis=(0, 1, 2)))
        if key.ed_frame != key.es_frame:
            library.set_key_phases(case, key.ed_frame, key.es_frame)
        # Those phases are other images now, and a person's choice stands over the network's.
        listed, entries = {*images, *(entry.id for entry in library.entries())}, library.phases_of(case)
        ed, es = (next((e.phase for e in entries if e.key == name), 0) for name in ("ED", "ES"))
        wanted = {entry.id: entry.phase for entry in entries if entry.id in listed}
        found = score_phases(segmenter, cine, masks, wanted.values(), ed_frame=ed, es_frame=es)
        own = {"model": model, "descriptor": describe(cine).tolist()}
        return {image_id: found[phase].to_dict() | own for image_id, phase in wanted.items()}

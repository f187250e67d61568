"""Cines as images, one for each phase, and their labels: what annotation works on.

The cines stay where they are and are only read. End-diastole and end-systole come first, since they are what volumes
are measured in.
"""

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from cardiac_cine.annotation.label_store import LabelStore, coverage, write_volume
from cardiac_cine.annotation.listing import Listed
from cardiac_cine.annotation.mask_files import read_mask, structure_id
from cardiac_cine.annotation.phase_images import Entry, entries_of, name_cases
from cardiac_cine.annotation.records import Records, clean
from cardiac_cine.annotation.sources import Source
from cardiac_cine.cine import Cine
from cardiac_cine.errors import InputError
from cardiac_cine.images import Frame

logger = logging.getLogger(__name__)

# A finished label, and what a model made of it.
FINAL, ORIGINAL = "final", "original"
TAGS = (FINAL, ORIGINAL)
# The "source" of labels that a person drew.
DRAWN = "drawn"
# What is answered about an image beside the facts that are kept with it, and must not be taken for one of them.
_ANSWERED = {"id", "name", "path", "checksum", "version", "strategy", "reason", "score", "scores"}
_ANSWERED |= {"locked_by", "locked_until", "skipped_by", "Modality", "PatientID", "StudyDate"}
_ANSWERED |= {"StudyInstanceUID", "SeriesInstanceUID", "SourceSeriesInstanceUID"}
_KEY_NAMES = {"ED": "end-diastole", "ES": "end-systole", "": ""}
_REFRESH_SECONDS = 30
_EXCHANGE_SECONDS = 300
_CINES_HELD = 2


class Annotated(NamedTuple):
    """What a label covers, see :func:`cardiac_cine.annotation.label_store.coverage`."""

    structures: tuple[int, ...]
    slices: tuple[int, ...]


class Library:
    """The images of a source and their labels, shared by several processes and threads.

    Args:
        source: where the cines are.
        root: gets images/, labels/ and cases/.
        lock: held while writing there; reentrant, and the same for all processes.
        all_phases: list all phases, not only ED, ES and those that someone labelled.

    Attributes:
        labels: their labels.
        problems: what cannot be used of the source, one sentence each.
    """

    # What is raised for an image that is not there.
    not_found: type[Exception] = InputError

    def __init__(self, source: Source, root: Path, lock: AbstractContextManager, all_phases: bool = False) -> None:
        self.source, self.problems = source, list[str]()
        self.labels = LabelStore(root / "labels", lock, TAGS, self._is_of_these_images)
        self._root, self._lock, self._all_phases = root, lock, all_phases
        self._about, self._cases = Records(root / "images", lock), Records(root / "cases", lock)
        self._taken = Records(root / "labels" / "taken", lock)
        # One process at a time stores labels, so that none is stored twice.
        self._exchanging = FileLock(root / "labels" / ".exchange", timeout=_EXCHANGE_SECONDS)
        self._listed: dict[str, Listed] = {}
        self._places: dict[str, tuple[str, int | None]] = {}
        self._digests: dict[str, str] = {}
        self._cines: OrderedDict[str, tuple[str, Cine]] = OrderedDict()
        self._reading, self._refreshing, self._refreshed = threading.Lock(), threading.Lock(), 0.0
        with lock:
            clean(root / "images")
            clean(root / "cases")
        self.refresh()

    def refresh(self) -> None:
        """Look at the source again; labels that others stored in it are taken, ours that it lacks are stored."""
        with self._refreshing:
            listed, problems = self.source.scan()
            with self._lock:
                known = {record["identity"]: case for case, record in self._cases.all().items() if "identity" in record}
                cases = name_cases(listed, known)
                for case, cine in cases.items():
                    if cine.identity not in known:
                        self._cases.update(case, identity=cine.identity)
            places: dict[str, tuple[str, int | None]] = {}
            for case, cine in cases.items():
                for entry in entries_of(case, cine):
                    places |= {entry.id: (case, entry.phase), entry.series_uid: (case, entry.phase)}
                if cine.stack:
                    places |= {plane.header.series_uid: (case, None) for row in cine.stack.grid.planes for plane in row}
            places.pop("", None)
            self._listed, self._places = cases, places
            problems = problems + self._compare_labels()
            if self.source.remote:
                problems = problems + self._exchange()
            for problem in problems:
                if problem not in self.problems:
                    logger.warning("%s", problem)
            self.problems, self._refreshed = problems, time.monotonic()

    def refresh_when_old(self) -> None:
        """Start to look at the source again, unless that is going on, and do not wait for it."""
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS and not self._refreshing.locked():
            self._refreshed = time.monotonic()
            threading.Thread(target=self.refresh, daemon=True, name="refresh").start()

    def resolve(self, name: str) -> str:
        """Return the image of an id, of the series that a phase is shown as, or of a cine's series: its ED.

        Raises:
            not_found: there is none.
        """
        case, phase = self._places.get(name, ("", None))
        entries = self.phases_of(case) if case in self._listed else []
        found = [e.id for e in entries if e.phase == phase or (phase is None and (e.key == "ED" or e.phases == 1))]
        if not found:
            raise self.not_found(f"there is no image {str(name)[:128]!r}")
        return found[0]

    def entry(self, image_id: str) -> Entry:
        """Return what an image is; as for all methods, by any name that :meth:`resolve` takes."""
        image_id = self.resolve(image_id)
        return next(entry for entry in self.phases_of(self._places[image_id][0]) if entry.id == image_id)

    def phases_of(self, case: str) -> list[Entry]:
        """Return all phases of a cine in order."""
        if case not in self._listed:
            raise self.not_found(f"there is no case {str(case)[:128]!r}")
        record = self._cases.all().get(case, {})
        return list(entries_of(case, self._listed[case], record.get("ed"), record.get("es")))

    def entries(self, all_phases: bool = False) -> list[Entry]:
        """Return the images: ED and ES of each cine, then of the rest those that someone labelled, or all of it."""
        drafts = self.labels.all(ORIGINAL).items()
        labelled = {*self.labels.all(FINAL), *(name for name, info in drafts if info.get("source") == DRAWN)}
        records = self._cases.all()
        entries: list[Entry] = []
        for case, cine in self._listed.items():
            record = records.get(case, {})
            entries += entries_of(case, cine, record.get("ed"), record.get("es"))
        first = [entry for entry in entries if entry.key or entry.phases == 1]
        rest = [entry for entry in entries if entry.phases > 1 and not entry.key]
        first.sort(key=lambda entry: (entry.case, entry.key))
        everything = all_phases or self._all_phases
        return first + [entry for entry in rest if everything or entry.id in labelled]

    def key_phase_source(self, case: str) -> str:
        """Return who said which phases are ED and ES: "guess", "model" or "user"."""
        return self._cases.all().get(case, {}).get("key_phase_source", "guess")

    def set_key_phases(self, case: str, ed: int, es: int, source: str = "model") -> None:
        """Set a cine's ED and ES, from 0; a model does not overrule a user, and a single phase is neither."""
        phases = len(self.phases_of(case))
        if phases == 1:
            return
        if not (0 <= ed < phases and 0 <= es < phases and ed != es):
            raise InputError(f"ED and ES must be two phases of 0 to {phases - 1}, got {ed} and {es}")
        with self._lock:
            if source == "user" or self.key_phase_source(case) != "user":
                self._cases.update(case, ed=ed, es=es, key_phase_source=source)

    def choose_key_phase(self, image_id: str, key: str) -> dict[str, int]:
        """Make a phase "ED" or "ES", as a person says; where it was the other of them, the two change places.

        Returns:
            "ED" and "ES" to their phases, from 0.

        Raises:
            InputError: it is a cine's only phase.
        """
        with self._lock:
            entry = self.entry(image_id)
            phases = {each.key: each.phase for each in self.phases_of(entry.case) if each.key}
            if not phases:
                raise InputError(f"{entry.id} is a cine's only phase: that is neither ED nor ES")
            if entry.key:
                phases[entry.key] = phases[key]
            phases[key] = entry.phase
            self.set_key_phases(entry.case, phases["ED"], phases["ES"], "user")
        return phases

    def listed(self, image_id: str) -> Listed:
        """Return the cine of an image as it is listed."""
        return self._listed[self.entry(image_id).case]

    def _as_it_is_now(self, case: str) -> Listed:
        """Return a cine as it is listed, after another look at the source where its files have changed."""
        if case in self._listed and self._listed[case].look() != self._listed[case].version:
            self.refresh()
        self.phases_of(case)
        return self._listed[case]

    def _digest(self, case: str) -> str:
        """Return what tells a cine's voxels from others, kept while its files stay the same; "" where unreadable."""
        listed, kept = self._listed[case], self._cases.all().get(case, {}).get("digest", {})
        if kept.get("version") != listed.version:
            kept = {"version": listed.version, "value": listed.digest()}
            if kept["value"]:  # what cannot be read now may be read later
                self._cases.update(case, digest=kept)
        self._digests[case] = kept["value"]
        return kept["value"]

    def _is_of_these_images(self, image_id: str, record: Mapping[str, Any]) -> bool:
        """Say whether a label was drawn on the voxels that its image has now; so it is where either is not known."""
        case, _ = self._places.get(image_id, ("", None))
        drawn_on, now = record.get("of"), self._digests.get(case)
        return not drawn_on or not now or drawn_on == now

    def _compare_labels(self) -> list[str]:
        """See which labels were drawn on other voxels than their images have now; return a sentence for each case."""
        others: Counter[str] = Counter()
        for name, record in (label for tag in TAGS for label in self.labels.stored(tag).items()):
            case, _ = self._places.get(name, ("", None))
            if case and record.get("of"):
                self._digest(case)
                others[case] += not self._is_of_these_images(name, record)
        return [
            f"{case}: {count} of its labels were drawn on other images than it has now; they are kept and not used"
            for case, count in others.items()
            if count
        ]

    def instances(self, image_id: str) -> tuple[tuple[str, str, int | None], ...]:
        """Return SOP instance UID, series UID and frame number of each slice of a phase; () where not from DICOM."""
        entry, stack = self.entry(image_id), self.listed(image_id).stack
        planes = [row[entry.phase] for row in stack.grid.planes] if stack else []
        return tuple((p.header.sop_instance_uid, p.header.series_uid, p.frame_number) for p in planes)

    def cine(self, case: str) -> Cine:
        """Return a whole cine; the last ones are held."""
        listed = self._as_it_is_now(case)
        with self._reading:
            version, cine = self._cines.pop(case, ("", None))
            if cine is None or version != listed.version:
                cine = replace(listed.read(), name=case)
            self._cines[case] = (listed.version, cine)
            while len(self._cines) > _CINES_HELD:
                self._cines.popitem(last=False)
            return cine

    def grid(self, image_id: str) -> Frame:
        """Return a phase by its grid; of DICOM images that is known without their voxels, which are 0 then."""
        entry, stack = self.entry(image_id), self.listed(image_id).stack
        cine = stack.outline() if stack else self.cine(entry.case)
        return replace(cine.frame(entry.phase), path=Path(entry.id))

    def image_path(self, image_id: str) -> Path:
        """Return a phase as a NIfTI file with the cine's voxels and affine, written when it is first asked for."""
        version = self._as_it_is_now(self.entry(image_id).case).version
        entry = self.entry(image_id)
        path = self._root / "images" / f"{entry.id}.nii.gz"
        if not path.exists() or self._about.get(entry.id).get("version") != version:
            cine = self.cine(entry.case)
            with self._lock:
                write_volume(cine.array[..., entry.phase], cine.affine, path)
                self._about.update(entry.id, version=version)
        return path

    def image_facts(self, image_id: str) -> dict[str, Any]:
        """Return what :meth:`keep_facts` kept with an image."""
        kept = self._about.get(self.resolve(image_id))
        return {key: value for key, value in kept.items() if key not in _ANSWERED}

    def keep_facts(self, image_id: str, facts: Mapping[str, Any]) -> None:
        """Keep some facts with an image, but for those that have the name of what is answered about it anyway."""
        new = {key: value for key, value in facts.items() if key not in _ANSWERED}
        self._about.update(self.resolve(image_id), **new)

    def save(self, image_id: str, path: Path, tag: str, info: Mapping[str, Any]) -> str:
        """Make a mask in a file an image's label, stored in the source too where it is final; return the image's id.

        Args:
            image_id: the image.
            path: see :func:`cardiac_cine.annotation.mask_files.read_mask`.
            tag: one of ``TAGS``.
            info: kept with the label. Its "label_info" are the viewer's segments, its "slices" those dealt with.

        Raises:
            InputError: as ``read_mask`` and ``coverage``, no such tag, or segments of another form.
        """
        entry, segments = self.entry(image_id), info.get("label_info") or []
        if tag not in TAGS:
            raise InputError(f"tag must be one of {', '.join(TAGS)}, got {str(tag)[:64]!r}")
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise InputError("label_info must be a list of objects, each with a segment's name")
        grid = self.grid(entry.id)
        mask = read_mask(path, grid, segments)
        named = {label for segment in segments if (label := structure_id(str(segment.get("name"))))}
        about = {"utc": "", "SeriesInstanceUID": "", "covers": coverage(mask, named, info.get("slices"))}
        self.labels.save(entry.id, mask, grid.affine, tag, {**info, **about, "of": self._digest(entry.case)})
        if tag == FINAL and self.source.remote:
            self._push(entry)
        return entry.id

    def label_array(self, image_id: str, tag: str) -> np.ndarray | None:
        """Return a label's ids, uint8 (x, y, z), None where there is none."""
        return self.labels.array(self.resolve(image_id), tag)

    def latest(self, image_id: str) -> str:
        """Return the tag of an image's younger label, "" where it has none."""
        image_id = self.resolve(image_id)
        times = {tag: self.labels.info(image_id, tag).get("utc", "") for tag in TAGS}
        tag = max(TAGS, key=lambda tag: times[tag])
        return tag if times[tag] else ""

    def standing(self, image_id: str) -> str:
        """Return the tag of what an image's mask is: as :meth:`latest`, but no proposal stands over a final label."""
        original, final = (self.labels.info(self.resolve(image_id), tag) for tag in (ORIGINAL, FINAL))
        return FINAL if final and original.get("source") != DRAWN else self.latest(image_id)

    def by_hand(self, image_id: str) -> bool:
        """Say whether an image's mask is a person's work: a final label, or what was drawn and not finished yet."""
        tag = self.standing(image_id)
        return tag == FINAL or self.labels.info(self.resolve(image_id), tag).get("source") == DRAWN

    def propose(self, image_id: str, mask: np.ndarray, *, asked: bool = True, **info: Any) -> None:
        """Make a mask an image's "original" label, a proposal, which leaves a final one as it is.

        It never takes the place of what somebody draws and has not finished: then nothing is kept.

        Args:
            image_id: the image.
            mask: label ids, (x, y, z).
            asked: someone asked for just this. Otherwise it does not stand beside a final label either.
            info: kept with the label.
        """
        entry = self.entry(image_id)
        if not self.by_hand(entry.id) or (asked and self.standing(entry.id) == FINAL):
            affine = self.cine(entry.case).affine
            about = {"covers": coverage(mask), "of": self._digest(entry.case)}
            self.labels.save(entry.id, mask, affine, ORIGINAL, {**info, **about})

    def annotated(self, image_id: str, tag: str) -> Annotated:
        """Return what a label covers, nothing where there is none."""
        covers = self.labels.info(self.resolve(image_id), tag).get("covers", {})
        return Annotated(tuple(covers.get("structures", ())), tuple(covers.get("slices", ())))

    def _push(self, entry: Entry) -> bool:
        """Store a final label in the source and tell whether that went well; if not, a refresh tries again."""
        with self._exchanging:
            info, mask = self.labels.info(entry.id, FINAL), self.labels.array(entry.id, FINAL)
            if mask is None or info.get("SeriesInstanceUID"):
                return True
            try:
                uids = self.source.push(self._listed[entry.case], entry.phase, mask, _KEY_NAMES[entry.key])
            except InputError as error:
                logger.warning("%s: the label is saved, and goes to the archive later: %s", entry.id, error)
                return False
            self._taken.put(uids["SeriesInstanceUID"], {"image": entry.id})
            self.labels.note_stored(entry.id, FINAL, uids, info["name"])
            return True

    def _exchange(self) -> list[str]:
        """Take the labels that the source has and store those that it lacks; return what is wrong with them."""
        cases = {cine.identity: case for case, cine in self._listed.items()}
        try:
            for label in self.source.pull(self._taken.all()):
                case = cases[label.identity]
                entries, affine = self.phases_of(case), label.affine
                for phase, mask in label.masks.items():
                    info = {"source": "archive", "SeriesInstanceUID": label.series_uid, "utc": label.utc}
                    about = {**info, "covers": coverage(mask), "of": self._digest(case)}
                    self.labels.save(entries[phase].id, mask, affine, FINAL, about)
                self._taken.put(label.series_uid, {"problem": label.problem})
            for image_id in [*self.labels.all(FINAL)]:
                if image_id in self._places and not self._push(self.entry(image_id)):
                    break
        except InputError as error:
            return list(error.problems)
        return [record["problem"] for record in self._taken.all().values() if record.get("problem")]

"""MONAI Label's datastore: an image is one phase of one cine, a label its mask; originals are only ever read."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from cardiac_cine.annotation.dataset_archive import write_archive
from cardiac_cine.annotation.library import DRAWN, FINAL, ORIGINAL, TAGS, Library
from cardiac_cine.annotation.phase_images import Entry
from cardiac_cine.annotation.sources import Source
from cardiac_cine.errors import InputError
from monailabel_app.lib.state import State

__all__ = ["DRAWN", "FINAL", "ORIGINAL", "CineDatastore", "Entry"]


class CineDatastore(Library, Datastore):
    """MONAI Label's names for what its base class does. Tags are "final" and "original"."""

    not_found = ImageNotFoundException

    def __init__(self, source: Source, state: State, phases: str = "key") -> None:
        self.state, self._name, self._description = state, "cine", "Short-axis cine MR, one image a phase"
        self.more: Callable[[Entry], dict[str, Any]] = lambda entry: {}  # what others know of an image
        super().__init__(source, state.root, state.lock, all_phases=phases == "all")

    def name(self) -> str:
        """Return the datastore's name."""
        return self._name

    def set_name(self, name: str) -> None:
        """Set the name for as long as the server runs."""
        self._name = name

    def description(self) -> str:
        """Return what the datastore is."""
        return self._description

    def set_description(self, description: str) -> None:
        """Set the description for as long as the server runs."""
        self._description = description

    def list_images(self) -> list[str]:
        """Return the images' ids, ED and ES of each cine first."""
        self.refresh_when_old()
        return [entry.id for entry in self.entries()]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the images that have a label, a final one where no tag is given."""
        known = self.labels.all(_tag(label_tag or FINAL))
        return [image_id for image_id in self.list_images() if image_id in known]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the images that have none."""
        known = self.labels.all(_tag(label_tag or FINAL))
        return [image_id for image_id in self.list_images() if image_id not in known]

    def status(self) -> dict[str, Any]:
        """Return counts, without waiting for the source."""
        self.refresh_when_old()
        entries = self.entries()
        tags = {tag: sum(entry.id in known for entry in entries) for tag, known in self._known().items()}
        return {
            "total": len(entries),
            "completed": tags[FINAL],
            "label_tags": {tag: count for tag, count in tags.items() if count},
            "cases": len({entry.case for entry in entries}),
            "patients": len({entry.patient for entry in entries}),
            "problems": len(self.problems),
        }

    def json(self) -> dict[str, Any]:
        """Return everything listed with what is known of it."""
        objects = {image_id: self._about_image(image_id) for image_id in self.list_images()}
        return {"name": self._name, "description": self._description, "objects": objects}

    def datalist(self) -> list[dict[str, Any]]:
        """Return id, patient, group, image and final label of what is labelled."""
        items = []
        for entry in map(self.entry, self.get_labeled_images()):
            paths = {"image": self.get_image_uri(entry.id), "label": self.get_label_uri(entry.id, FINAL)}
            items.append({"id": entry.id, "patient": entry.patient, "group": entry.group, **paths})
        return items

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return a ZIP file of what is labelled: image/ID.nii.gz, label/ID.nii.gz, metadata.json."""
        items = self.datalist()[: limit_cases if limit_cases and limit_cases > 0 else None]
        if not items:
            raise InputError("nothing is labelled yet, so there is nothing to export")
        objects = {item["id"]: self._about_image(item["id"]) for item in items}
        path = self.state.cache / "dataset.zip"
        write_archive(items, {"name": self._name, "objects": objects}, path)
        return str(path)

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """Return a phase as the bytes of a NIfTI file."""
        return io.BytesIO(self.image_path(image_id).read_bytes())

    def get_image_uri(self, image_id: str) -> str:
        """Return a phase as a NIfTI file."""
        return str(self.image_path(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return what clients show of an image; ``phase`` counts from 1, ``frame`` from 0."""
        entry, stack = self.entry(image_id), self.listed(image_id).stack
        info = (
            self.image_facts(entry.id)
            | self.more(entry)
            | {
                "name": f"{entry.id}.nii.gz",
                "phase": entry.phase + 1,
                "frame": entry.phase,
                "key_phase_source": self.key_phase_source(entry.case),
                **{key: getattr(entry, key) for key in ("case", "patient", "group", "phases", "key")},
            }
        )
        if stack:
            info["Modality"], info["StudyDate"] = stack.header.modality, stack.header.study_date
            info["PatientID"], info["StudyInstanceUID"] = stack.header.patient.id, entry.study_uid
            info["SeriesInstanceUID"], info["SourceSeriesInstanceUID"] = entry.series_uid, stack.header.series_uid
        return info

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Keep some facts with an image; its result is the server's own, and its strategies are an object."""
        _facts(_facts(info).get("strategy", {}))
        self.keep_facts(image_id, {key: value for key, value in info.items() if key != "result"})

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse: the studies are only read."""
        raise InputError("images are added to the studies themselves, not through this server")

    def remove_image(self, image_id: str) -> None:
        """Refuse: the studies are only read."""
        raise InputError("images are never removed through this server")

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Make a mask the image's label; earlier ones stay as versions."""
        return self.save(image_id, Path(label_filename), _tag(label_tag), _facts(label_info))

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Take a label off its image; it stays among the versions."""
        self.labels.remove(self._labelled(label_id, label_tag), _tag(label_tag))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """Return a label as the bytes of a NIfTI file."""
        return io.BytesIO(Path(self.get_label_uri(self._labelled(label_id, label_tag), label_tag)).read_bytes())

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Return the file of a label, "" where there is none."""
        return str(self.labels.path(self.resolve(label_id), _tag(label_tag)) or "")

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return what is known of a label, {} where there is none."""
        return self.labels.info(self.resolve(label_id), _tag(label_tag))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Keep some facts with a label; what the app itself keeps there stays."""
        self.labels.update(self._labelled(label_id, label_tag), _tag(label_tag), _facts(info))

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Return tag to label id."""
        image_id = self.resolve(image_id)
        return {tag: image_id for tag, known in self._known().items() if image_id in known}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """Return the label id for a tag, "" where there is none."""
        return self.get_labels_by_image_id(image_id).get(_tag(tag), "")

    def _labelled(self, label_id: str, label_tag: str) -> str:
        if not self.get_label_info(label_id, label_tag):
            raise LabelNotFoundException(f"there is no {_tag(label_tag)} label of {label_id}")
        return self.resolve(label_id)

    def _known(self) -> dict[str, Any]:
        return {tag: self.labels.all(tag) for tag in TAGS}

    def _about_image(self, image_id: str) -> dict[str, Any]:
        tags = {tag: {"ext": ".nii.gz", "info": of[image_id]} for tag, of in self._known().items() if image_id in of}
        return {"image": {"ext": ".nii.gz", "info": self.get_image_info(image_id)}, "labels": tags}


def _tag(tag: str) -> str:
    """Return a tag, a text or of MONAI Label's enumeration, as text."""
    text = str(getattr(tag, "value", tag))
    if text not in TAGS:
        raise InputError(f"tag must be one of {', '.join(TAGS)}, got {text[:64]!r}")
    return text


def _facts(info: Any) -> dict[str, Any]:
    """Return what a client wants kept, if it is an object as JSON has them."""
    if not isinstance(info, dict):
        raise InputError(f"params, info and strategy must be JSON objects, got {type(info).__name__}")
    return info

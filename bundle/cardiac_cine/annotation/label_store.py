"""Labels of images in a folder, with every version that was ever saved.

``versions/NAME/TAG.TIME-N.nii.gz`` holds a mask, ``TAG/NAME.json`` what is known of the current one and which version
it is. The latter is replaced last and in one step, so that a process may be killed at any moment: either the label
before is current or the new one, and what was saved before is there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cardiac_cine.annotation.records import Records, clean, durable, write_record
from cardiac_cine.errors import InputError
from cardiac_cine.images import nifti_image
from cardiac_cine.labels import STRUCTURE_IDS, check_mask

# What this program itself says of a label: its version, what it is about, whose work it is, where else it is stored.
_OWN = ("name", "utc", "ts", "covers", "of", "source", "model", "SeriesInstanceUID", "SOPInstanceUID")


class LabelStore:
    """The labels of images by name and tag.

    Args:
        folder: made where missing.
        lock: held while writing; reentrant, and the same for all processes.
        tags: the kinds of label, each image has at most one of each.
        counts: tells of an image and what is known of its label whether that is still its label; one that is not stays
            where it is and is as good as none.
    """

    def __init__(
        self,
        folder: Path,
        lock: AbstractContextManager,
        tags: Sequence[str],
        counts: Callable[[str, Mapping[str, Any]], bool] = lambda name, record: True,
    ) -> None:
        self._folder, self._lock, self.tags, self._counts = folder, lock, tuple(tags), counts
        self._current = {tag: Records(folder / tag, lock) for tag in tags}
        with lock:
            clean(folder)

    def save(self, name: str, mask: np.ndarray, affine: np.ndarray, tag: str, info: Mapping[str, Any]) -> None:
        """Make a mask an image's label.

        Args:
            name: the image, safe as a file's name.
            mask: label ids 0-3, (x, y, z).
            affine: 4 x 4 voxel to world, mm.
            tag: one of ``tags``.
            info: kept with the label, among it "covers" of :func:`coverage`. With a time "utc" (ISO 8601) the label is
                of that time and does not replace a younger one; without, it is of now.

        Raises:
            ValueError: no such tag, or no mask.
        """
        if tag not in self.tags:
            raise ValueError(f"tag must be one of {self.tags}, got {tag!r}")
        check_mask(mask, 3)
        folder = self._folder / "versions" / name
        with self._lock:
            if info.get("utc") and self.info(name, tag).get("utc", "") >= info["utc"]:
                return
            now = datetime.now(UTC)
            number = len(list(folder.glob(f"{tag}.*.nii.gz"))) + 1
            version = f"{tag}.{now:%Y%m%dT%H%M%SZ}-{number}.nii.gz"
            record = {**info, "utc": info.get("utc") or now.isoformat(), "ts": int(now.timestamp()), "name": version}
            write_volume(mask.astype(np.uint8), affine, folder / version)
            write_record(record, folder / version.replace(".nii.gz", ".json"))
            self._current[tag].put(name, record)

    def all(self, tag: str) -> Mapping[str, Mapping[str, Any]]:
        """Return image to what is known of its label, as of now and for reading only; {} for an unknown tag."""
        known = self.stored(tag)
        return {name: record for name, record in known.items() if self._counts(name, record)}

    def stored(self, tag: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the same with labels that do not count."""
        return self._current[tag].all() if tag in self.tags else {}

    def info(self, name: str, tag: str) -> dict[str, Any]:
        """Return what is known of a label, {} where there is none."""
        known = self._current[tag].get(name) if tag in self.tags else {}
        return known if known and self._counts(name, known) else {}

    def update(self, name: str, tag: str, info: Mapping[str, Any]) -> None:
        """Keep more with a label; what this program itself says of it stays, also where that is nothing."""
        with self._lock:
            known = self.info(name, tag)
            if known:
                more = {key: value for key, value in info.items() if key not in _OWN}
                self._current[tag].put(name, {**known, **more})

    def note_stored(self, name: str, tag: str, uids: Mapping[str, str], version: str) -> None:
        """Keep as what a version of a label is stored elsewhere; nothing where another one is current by now."""
        with self._lock:
            known = self.info(name, tag)
            if known.get("name") == version:
                self._current[tag].put(name, {**known, **uids})

    def remove(self, name: str, tag: str) -> None:
        """Take a label off its image; it stays among the versions."""
        self._current[tag].remove(name)

    def path(self, name: str, tag: str) -> Path | None:
        """Return a label's file, None where there is no label."""
        version = self.info(name, tag).get("name")
        return self._folder / "versions" / name / version if version else None

    def array(self, name: str, tag: str) -> np.ndarray | None:
        """Return a label's ids, uint8 (x, y, z), None where there is no label."""
        path = self.path(name, tag)
        return np.asarray(nib.load(path).dataobj, np.uint8) if path else None


def coverage(mask: np.ndarray, named: Collection[int] = (), slices: Any = None) -> dict[str, list[int]]:
    """Return what a label says something about; elsewhere its background means that nobody drew there.

    Args:
        mask: label ids, (x, y, z).
        named: the structures that the annotator's tool had, none if it does not say.
        slices: those that the annotator has dealt with, from 0; None where unknown.

    Returns:
        "structures": those drawn, as far as they are named; a heart lacks none, so one without a voxel was not drawn.
        "slices": the given ones, else all where the drawn ones lie next to each other, since the rest then is above
        and below the heart, else the drawn ones alone. An empty mask covers nothing.

    Raises:
        InputError: ``slices`` are no indices of slices.
    """
    depth = mask.shape[2]
    structures = [label for label in STRUCTURE_IDS if (mask == label).any() and (not named or label in named)]
    if slices is not None:
        if not isinstance(slices, list | tuple) or not all(type(z) is int and 0 <= z < depth for z in slices):
            raise InputError(f"slices must be a list of whole numbers of 0 to {depth - 1}")
        return {"structures": structures, "slices": sorted(set(slices))}
    drawn = np.flatnonzero(mask.any(axis=(0, 1))).tolist()
    gapless = bool(drawn) and drawn[-1] - drawn[0] + 1 == len(drawn)
    return {"structures": structures, "slices": list(range(depth)) if gapless else drawn}


def write_volume(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write voxels (x, y, z) as they are to a NIfTI file, durably; see :func:`cardiac_cine.images.nifti_image`."""
    with durable(path) as target:
        nib.save(nifti_image(array, affine), target)

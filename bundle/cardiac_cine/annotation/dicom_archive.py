"""Short-axis cines in a PACS behind DICOMweb, and the segmentations beside them.

Headers come first (QIDO-RS, then the metadata of each series, PS3.18) and lie in a cache as DICOM files without
pixels, so that the same reader finds the cines as in a folder; the pixels follow when a cine is read.
"""

import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from pydicom.valuerep import format_number_as_ds

from cardiac_cine import files
from cardiac_cine.annotation.listing import Listed, from_stack
from cardiac_cine.annotation.mask_files import structure_id
from cardiac_cine.annotation.records import clean
from cardiac_cine.annotation.sources import Returned
from cardiac_cine.cine import Cine
from cardiac_cine.datasets.dicom_cine import Stack, scan
from cardiac_cine.dicom_output import UTF_8, Software
from cardiac_cine.dicom_seg import PROPERTY_TYPES, read_seg, write_seg
from cardiac_cine.errors import InputError

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient

logger = logging.getLogger(__name__)

# Whatever a server and the network do to a request: requests' own errors are OSErrors, answers of other forms the rest.
FAILED = (OSError, ValueError, KeyError, TypeError, AttributeError)
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
_LOCK_SECONDS = 120
_HEADER, _WHOLE = ".head", ".dcm"
# Instances as the archive has them, not decoded for us.
_AS_STORED = (("application/dicom", "*"),)


class Archive:
    """The cines of a PACS: a :class:`cardiac_cine.annotation.sources.Source`.

    Args:
        client: of its DICOMweb services, with the time limits that shall hold.
        cache: a folder for what is fetched; it may be lost at any time.
        search_filter: QIDO-RS attributes of the series to look at.
        software: what the segmentations stored are said to be made by.
    """

    remote = True

    def __init__(
        self, client: "DICOMwebClient", cache: Path, search_filter: Mapping[str, Any], software: Software | None = None
    ) -> None:
        self._client, self._cache, self._filter = client, cache, dict(search_filter)
        self._software, self._lock = software or Software(), FileLock(cache / ".lock", timeout=_LOCK_SECONDS)
        self._stacks: dict[str, tuple[frozenset[str], Stack | None, list[str]]] = {}
        with self._lock:
            for study in self._known():
                clean(cache / study)

    def scan(self) -> tuple[list[Listed], list[str]]:
        """Return the short-axis cine of each study, as known from earlier where the archive does not answer.

        Returns:
            The cines, sorted by study, and a sentence for each thing that cannot be used.
        """
        problems: list[str] = []
        try:
            studies = self._search()
        except FAILED as error:
            logger.warning("%s does not answer: %s", self._client.base_url, error)
            problems.append(f"{self._client.base_url}: the archive does not answer ({type(error).__name__})")
            studies = {study: {} for study in self._known()}
        listed = []
        for study, series in sorted(studies.items()):
            for uid, count in series.items():
                try:
                    self._fetch_headers(study, uid, count)
                except FAILED as error:
                    logger.warning("headers of series %s: %s", uid, error)
                    problems.append(f"series {uid}: headers not readable ({type(error).__name__})")
            stack, own = self._look(study)
            listed += [from_stack(stack, partial(self.read, study))] if stack else []
            problems += own
        return listed, problems

    def stack(self, study: str) -> Stack:
        """Return the cine of a study; its files exist, if only their headers.

        Raises:
            InputError: there is none, or none any more.
        """
        stack, problems = self._look(study)
        if stack is None:
            raise InputError(problems or f"study {study}: no short-axis cine")
        return stack

    def read(self, study: str) -> Cine:
        """Read the cine of a study; pixels that are not there yet are fetched.

        Raises:
            InputError: the archive does not answer, or the cine cannot be read.
        """
        stack = self.stack(study)
        lacking = {p.header.series_uid for row in stack.grid.planes for p in row if p.header.path.suffix == _HEADER}
        if lacking:
            try:
                for series in sorted(lacking):
                    self._fetch(study, series)
            except FAILED as error:
                logger.warning("pixels of study %s: %s", study, error)
                found = f"the archive does not give the pixels ({type(error).__name__})"
                raise InputError(f"study {study}: {found}, expected whole images") from None
            stack = self.stack(study)
        return stack.read()

    def push(self, cine: Listed, phase: int, mask: np.ndarray, name: str) -> dict[str, str]:
        """Store a mask, (x, y, z), as the Segmentation of a phase, a series of its own; return its UIDs.

        Raises:
            InputError: as :func:`cardiac_cine.dicom_seg.write_seg`, or the archive does not take it.
        """
        source = self.stack(cine.identity).outline()
        masks = np.zeros(source.array.shape, np.uint8)
        masks[..., phase] = mask
        with tempfile.TemporaryDirectory() as folder:
            written = write_seg(source, masks, Path(folder), phases={phase: name}, software=self._software)
            segmentation = dcmread(written[phase])
        try:
            refused = self._client.store_instances([segmentation]).get("FailedSOPSequence")
        except FAILED as error:
            raise InputError(f"the archive does not take a segmentation ({type(error).__name__})") from None
        if refused:
            raise InputError(f"the archive refuses a segmentation of study {cine.identity}")
        return {key: str(segmentation[key].value) for key in ("SeriesInstanceUID", "SOPInstanceUID")}

    def pull(self, seen: Collection[str]) -> Iterator[Returned]:
        """Yield the segmentations of the cines scanned last, by whomever, the oldest first.

        Args:
            seen: series not to look at again. One that is about other images yields no masks and no problem.

        Raises:
            InputError: the archive does not answer.
        """
        found: list[Returned] = []
        try:
            items = self._client.search_for_series(search_filters={"Modality": "SEG"})
        except FAILED as error:
            raise InputError(f"the archive does not give its segmentations ({type(error).__name__})") from None
        for item in items:
            series = Dataset.from_json(item)
            study, uid = str(series.get("StudyInstanceUID")), str(series.get("SeriesInstanceUID"))
            if uid not in seen and _UID.fullmatch(uid) and self._stacks.get(study, (None, None))[1] is not None:
                try:
                    found += [self._returned(study, uid, s) for s in self._client.retrieve_series(study, uid)]
                except FAILED as error:
                    logger.warning("segmentation in series %s is tried again later: %s", uid, error)
        yield from sorted(found, key=lambda returned: returned.utc)

    def _known(self) -> list[str]:
        return [path.name for path in self._cache.iterdir() if path.is_dir() and _UID.fullmatch(path.name)]

    def _search(self) -> dict[str, dict[str, int]]:
        """Return the series of each study and how many instances they have, 0 where the archive does not say."""
        studies: dict[str, dict[str, int]] = {}
        for item in self._client.search_for_series(search_filters=self._filter):
            series = Dataset.from_json(item)
            study, uid = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
            if _UID.fullmatch(study) and _UID.fullmatch(uid):
                studies.setdefault(study, {})[uid] = int(series.get("NumberOfSeriesRelatedInstances") or 0)
        return studies

    def _fetch_headers(self, study: str, series: str, count: int) -> None:
        folder = self._cache / study / series
        known = {path.stem for path in folder.glob("*.*")} if folder.is_dir() else set()
        if known and len(known) >= count:
            return
        items = self._client.retrieve_series_metadata(study, series)
        with self._lock:
            for item in items:
                header = Dataset.from_json(item, bulk_data_uri_handler=lambda _: None)
                uid = str(header.SOPInstanceUID)
                if _UID.fullmatch(uid) and uid not in known:
                    _write_header(header, folder / f"{uid}{_HEADER}")

    def _fetch(self, study: str, series: str) -> None:
        folder = self._cache / study / series
        for instance in self._client.iter_series(study, series, media_types=_AS_STORED):
            uid = str(instance.SOPInstanceUID)
            if _UID.fullmatch(uid):
                with self._lock:
                    with files.staged(folder / f"{uid}{_WHOLE}") as target:
                        instance.save_as(target, enforce_file_format=True)
                    (folder / f"{uid}{_HEADER}").unlink(missing_ok=True)

    def _look(self, study: str) -> tuple[Stack | None, list[str]]:
        """Return what a study's cached files hold, read again where there are others than last time."""
        folder = self._cache / study
        with self._lock:
            names = frozenset(str(path) for path in folder.rglob("*.*") if ".staged-" not in str(path))
            known = self._stacks.get(study)
            if known is None or known[0] != names:
                found = scan(folder) if names else None
                stack = found.stacks[0] if found and found.stacks else None
                problems = [text.replace(str(folder), f"study {study}") for text in found.problems] if found else []
                known = self._stacks[study] = (names, stack, problems)
        return known[1], known[2]

    def _returned(self, study: str, series: str, segmentation: Dataset) -> Returned:
        cine, problem = self.stack(study).outline(), ""
        masks: dict[int, np.ndarray] = {}
        if _refers_to(segmentation, {instance.sop_instance_uid for row in cine.instances for instance in row}):
            try:
                _translate(segmentation, cine)
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"{series}.dcm"
                    segmentation.save_as(path, enforce_file_format=True)
                    masks = read_seg(path, cine)
            except InputError as error:
                problem = "; ".join(re.sub(r"\S*/", "", text) for text in error.problems)
            except FAILED as error:
                logger.warning("segmentation in series %s: %s", series, error)
                problem = f"{series}: not readable as a DICOM segmentation ({type(error).__name__})"
        problem = problem and f"a segmentation in the archive is not taken: {problem}"
        return Returned(series, study, _created(segmentation), cine.affine, masks, problem)


def _write_header(header: Dataset, path: Path) -> None:
    """Write a header as a DICOM file, a stand-in of a few bytes for its pixels."""
    for element in list(header):
        if element.tag.group == 2 or element.tag.is_private or element.keyword.endswith("PixelData"):
            del header[element.tag]
        elif element.VR == "DS" and element.value not in (None, ""):
            # JSON has numbers, of which a text of 16 characters is to be made.
            several = element.value if element.VM > 1 else [element.value]
            element.value = [format_number_as_ds(float(value)) for value in several]
    header.SpecificCharacterSet = UTF_8
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = RLELossless
    header.PixelData = encapsulate([bytes(2)])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    with files.staged(path) as target:
        header.save_as(target, enforce_file_format=True)


def _refers_to(segmentation: Dataset, uids: Collection[str]) -> bool:
    return any(
        reference.get("ReferencedSOPInstanceUID") in uids
        for groups in segmentation.get("PerFrameFunctionalGroupsSequence", [])
        for derivation in groups.get("DerivationImageSequence", [])
        for reference in derivation.get("SourceImageSequence", [])
    )


def _translate(segmentation: Dataset, cine: Cine) -> None:
    """Bring a segmentation by other software to the codes and references of ours.

    Viewers leave a segment's code at "tissue" but give it the structure's name; some count the one frame of a classic
    image.
    """
    codes = {(code.scheme_designator, code.value) for code in PROPERTY_TYPES.values()}
    for segment in segmentation.get("SegmentSequence", []):
        kind = segment.get("SegmentedPropertyTypeCodeSequence", [Dataset()])[0]
        label = structure_id(str(segment.get("SegmentLabel", "")))
        if label and (kind.get("CodingSchemeDesignator"), kind.get("CodeValue")) not in codes:
            kind = Dataset()
            kind.CodeValue = PROPERTY_TYPES[label].value
            kind.CodingSchemeDesignator = PROPERTY_TYPES[label].scheme_designator
            kind.CodeMeaning = PROPERTY_TYPES[label].meaning
            segment.SegmentedPropertyTypeCodeSequence = [kind]
    classic = {i.sop_instance_uid for row in cine.instances for i in row if i.frame_number is None}
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get("DerivationImageSequence", []):
            for reference in derivation.get("SourceImageSequence", []):
                if reference.get("ReferencedSOPInstanceUID") in classic and "ReferencedFrameNumber" in reference:
                    del reference.ReferencedFrameNumber


def _created(segmentation: Dataset) -> str:
    """Return when an object was made (ISO 8601, UTC), in this machine's time where it names no zone; "0" if unknown."""
    zone = str(segmentation.get("TimezoneOffsetFromUTC") or "")
    for date, time in (("ContentDate", "ContentTime"), ("SeriesDate", "SeriesTime")):
        whole, _, fraction = str(segmentation.get(time) or "").partition(".")
        text = f"{segmentation.get(date) or ''} {whole}.{fraction or 0} {zone}".strip()
        try:
            return datetime.strptime(text, f"%Y%m%d %H%M%S.%f{' %z' if zone else ''}").astimezone(UTC).isoformat()
        except ValueError:
            continue
    return "0"

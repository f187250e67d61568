"""From studies to results: segment, measure, flag, report; one study after the other, each whole or not at all."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cardiac_cine import cohort_report, study_report
from cardiac_cine.cine import Cine
from cardiac_cine.dicom_output import Software
from cardiac_cine.dicom_planes import check_planes
from cardiac_cine.dicom_seg import write_seg
from cardiac_cine.dicom_sr import write_sr
from cardiac_cine.errors import InputError
from cardiac_cine.files import check_writable, plain, sha256, write_json
from cardiac_cine.fingerprints import fingerprint, named_as_before, other_study, same_results
from cardiac_cine.flags import flag
from cardiac_cine.images import write_mask
from cardiac_cine.measurements import Measurements, ef_category, measure
from cardiac_cine.patients import Known, complete
from cardiac_cine.postprocess import repair
from cardiac_cine.quality import Flag, quality_flags
from cardiac_cine.results import (
    DICOM_SEG,
    DICOM_SR,
    FILES,
    MEASUREMENTS,
    REPORT,
    all_there,
    publish,
    read_measurements,
    result_files,
)
from cardiac_cine.runs import DONE, FAILED, SKIPPED, Outcome, Run
from cardiac_cine.segmenter import Segmenter
from cardiac_cine.studies import Found, Study, unmatched
from cardiac_cine.tables import write_table
from cardiac_cine.temporal import stabilise
from cardiac_cine.weights import versions

logger = logging.getLogger(__name__)

TABLE = "measurements.csv"
COHORT = "index.html"
SUMMARY = "segment.json"
NO_DICOM = "No results in DICOM are written, since they would refer to source images in DICOM and there are none."


@dataclass(frozen=True)
class Options:
    """What to make of a study besides its mask and its measurements.

    Attributes:
        report: an HTML report for each cine, and a page over all studies.
        dicom_seg: Segmentation objects for all phases and a Measurement Report, for studies in DICOM; others get the
            rest, with a remark.
        ed_frame: end-diastole, counted from 0, where a person has chosen it.
        es_frame: end-systole, likewise.
        stabilise: replace slices that jump out and back within one phase, see :mod:`cardiac_cine.temporal`.
        agreement: let the network see end-diastole and end-systole in variants, for the flag of low confidence.
        overwrite: do finished studies again.
        patients: case to what is known of its patient beside the files, see :mod:`cardiac_cine.patients`.

    Raises:
        InputError: a switch that is neither true nor false, or frames that are no two different numbers from 0.
    """

    report: bool = True
    dicom_seg: bool = False
    ed_frame: int | None = None
    es_frame: int | None = None
    stabilise: bool = True
    agreement: bool = True
    overwrite: bool = False
    patients: Mapping[str, Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("report", "dicom_seg", "stabilise", "agreement", "overwrite"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        for name in ("ed_frame", "es_frame"):
            frame = getattr(self, name)
            if frame is not None and (type(frame) is not int or frame < 0):
                raise InputError(f"{name} is {frame!r}, expected a phase counted from 0")
        if self.ed_frame is not None and self.ed_frame == self.es_frame:
            raise InputError(f"ed_frame and es_frame are both {self.ed_frame}, expected two different phases")


class Workflow:
    """Segments studies into a folder.

    Every study gets ``CASE/CASE_seg.nii.gz`` on the input's grid, ``CASE/CASE_measurements.json`` and, for a cine,
    ``CASE/CASE_report.html``. The measurements are written last and list the others: with all of them a study is
    finished, and another run with files of the same content, wherever they lie, the same weights and options leaves it
    alone, under the name that its results have. What another study of the same case name left there is not replaced
    unless ``overwrite`` says so.

    Args:
        segmenter: makes the masks.
        output_dir: folder for the results, made where missing.
        options: fields of :class:`Options`.

    Raises:
        TypeError: an option that there is not.
        InputError: ``output_dir`` is a file or cannot be written to, or as :class:`Options`.
    """

    def __init__(self, segmenter: Segmenter, output_dir: Path | str, options: Mapping[str, Any] | None = None) -> None:
        self.segmenter = segmenter
        self.output_dir = Path(output_dir)
        self.options = Options(**(options or {}))
        check_writable(self.output_dir, "output_dir")
        self.model = sha256(segmenter.ckpt_path)
        self.software = {
            "weights_sha256": self.model,
            "weights": str(segmenter.ckpt_path),
            "device": str(segmenter.device),
            "versions": versions(),
        }

    def run(self, found: Found, *, reference: Mapping[str, Any] | None = None) -> Run:
        """Segment all studies; one that fails does not keep the others from being done.

        Afterwards, or when interrupted, ``measurements.csv`` has one row for each study reached or finished before,
        flagged ones first and failed ones last, with a row for each problem with files that make no study. Results of
        studies that are not among those found are left in the folder and out of the tables. ``index.html`` shows the
        same where reports are wanted; where not, an earlier one is removed. ``segment.json`` says what was done with
        which weights and versions, and which cases of the reference and of the patients are no study's.

        Args:
            found: the studies.
            reference: case to measurements of another source to compare with on the page over all studies, see
                :func:`cardiac_cine.cohort_report.read_reference_csv`.
        """
        folders = sorted(path for path in self.output_dir.glob("*") if path.is_dir())
        results = {folder.name: (read_measurements(folder) or {}).get("fingerprint") for folder in folders}
        found = replace(found, studies=named_as_before(found.studies, results))
        outcomes: list[Outcome] = []
        interrupted = False
        try:
            for study in tqdm(found.studies, desc="segmenting", unit="study", disable=None):
                outcomes.append(self._outcome(study))
        except KeyboardInterrupt:
            interrupted = True
        not_reached = found.studies[len(outcomes) :]
        finished = self._finished(not_reached)
        outcomes += [Outcome(study.name, study.source, SKIPPED) for study in finished]
        not_reached = tuple(study for study in not_reached if study not in finished)
        tables = {"patients_csv": self.options.patients, "reference_csv": reference or {}}
        not_used = tuple(filter(None, (unmatched(name, cases, found.studies) for name, cases in tables.items())))
        run = Run(tuple(outcomes), not_reached, found.problems, found.left_out, interrupted, not_used)
        self._summarise(run, reference)
        return run

    def _summarise(self, run: Run, reference: Mapping[str, Any] | None) -> None:
        rows = [self._row(outcome) for outcome in run.outcomes]
        rows += [_failed_row("", "", [problem]) for problem in run.problems]
        rows.sort(key=lambda row: (row["status"] == FAILED, not row["quality_flags"], row["case"]))
        write_table(rows, self.output_dir / TABLE)
        summary = {
            "studies": [
                {"case": o.name, "source": o.source, "status": o.status, "reasons": o.reasons} for o in run.outcomes
            ],
            "not_reached": [study.source for study in run.not_reached],
            "problems": run.problems,
            "left_out": run.left_out,
            "not_used": run.not_used,
            "options": asdict(self.options),
            **self.software,
        }
        write_json(summary, self.output_dir / SUMMARY)
        if self.options.report:
            cohort_report.write_cohort(rows, self.output_dir / COHORT, reference=reference)
        else:  # an earlier run's shows other numbers, and leads to reports that are gone
            (self.output_dir / COHORT).unlink(missing_ok=True)

    def _outcome(self, study: Study) -> Outcome:
        try:
            current = self._fingerprint(study)
            if not self.options.overwrite and self._is_finished(study, current):
                return Outcome(study.name, study.source, SKIPPED)
            self._process(study, current)
        except InputError as error:
            return Outcome(study.name, study.source, FAILED, error.problems)
        except Exception as error:  # one study's failure, whatever it is, must not cost the others
            logger.exception("%s failed", study.source)
            reason = f"{study.source}: {type(error).__name__}: {error}"
            return Outcome(study.name, study.source, FAILED, (reason,), unexpected=True)
        return Outcome(study.name, study.source, DONE)

    def _process(self, study: Study, current: Mapping[str, Any]) -> None:
        cine = complete(study.read(), self.options.patients)
        self._check_frames(cine)
        if self.options.dicom_seg and cine.instances:
            check_planes(cine)
        masks, replaced = segment_study(self.segmenter, cine, steady=self.options.stabilise)
        found = measure(
            masks,
            cine.affine,
            times_ms=cine.times_ms,
            rr_ms=cine.rr_ms,
            patient=cine.patient,
            ed_frame=self.options.ed_frame,
            es_frame=self.options.es_frame,
        )
        key_phases = (found.ed_frame, found.es_frame)
        uncertainty = self.segmenter.agreement(cine, key_phases) if self.options.agreement else None
        flags = quality_flags(masks, cine, found, uncertainty=uncertainty)
        if self.options.dicom_seg and not cine.instances:
            logger.warning("%s: %s", cine.source, NO_DICOM)
            cine = replace(cine, remarks=(*cine.remarks, NO_DICOM))
        content = {
            "case": cine.name,
            "source": cine.source,
            "patient": vars(cine.patient),
            "about": cine.about,
            "remarks": cine.remarks,
            "shape": cine.array.shape,
            "spacing_mm": cine.spacing_mm,
            "rr_ms": cine.rr_ms,
            **found.to_dict(),
            "lv_ef_category": ef_category(found.lv_ef_percent),
            "agreement": uncertainty,
            "stabilised": [{"slice": z, "phase": phase} for z, phase in replaced],
            "quality_flags": [asdict(each) for each in flags],
            "software": self.software,
            "fingerprint": current,
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".staged-", dir=self.output_dir) as staging:
            self._write(cine, masks, found, flags, uncertainty, Path(staging))
            folder = Path(staging) / cine.name
            content[FILES] = result_files(folder)
            write_json(content, folder / MEASUREMENTS.format(case=cine.name))
            publish(folder, self.output_dir / cine.name)

    def _check_frames(self, cine: Cine) -> None:
        frames = {"ed_frame": self.options.ed_frame, "es_frame": self.options.es_frame}
        beyond = {name: frame for name, frame in frames.items() if frame is not None and frame >= cine.phases}
        if beyond:
            expected = f"expected 0 to {cine.phases - 1}"
            raise InputError([f"{cine.source}: {name} is {frame}, {expected}" for name, frame in beyond.items()])

    def _write(
        self,
        cine: Cine,
        masks: np.ndarray,
        found: Measurements,
        flags: Sequence[Flag],
        uncertainty: Mapping[str, float] | None,
        staging: Path,
    ) -> None:
        is_cine = cine.phases > 1
        mask = masks if is_cine else masks[..., 0]
        write_mask(mask, cine.affine, staging, cine.name, time_step_ms=cine.time_step_ms)
        folder = staging / cine.name
        if self.options.report and is_cine:
            path = folder / REPORT.format(case=cine.name)
            study_report.write_report(cine, masks, found, flags, self.software, path, uncertainty=uncertainty)
        if self.options.dicom_seg and cine.instances:
            software = Software(model=self.model)
            names = {found.ed_frame: "end-diastole", found.es_frame: "end-systole"}
            phases = {phase: names.get(phase, f"phase {phase + 1}") for phase in range(cine.phases)}
            seg = write_seg(cine, masks, folder / DICOM_SEG.format(case=cine.name), phases=phases, software=software)
            write_sr(cine, found, flags, folder / DICOM_SR.format(case=cine.name), seg=seg, software=software)

    def _fingerprint(self, study: Study) -> dict[str, Any]:
        settings = {
            "weights_sha256": self.model,
            "version": versions()["cardiac_cine"],
            "options": {k: v for k, v in vars(self.options).items() if k not in ("overwrite", "patients")},
            "patient": plain(asdict(self.options.patients.get(study.name, Known()))),
        }
        return fingerprint(study, settings)

    def _finished(self, studies: Sequence[Study]) -> list[Study]:
        """Return the studies, not reached, whose results are there; another interruption ends the search."""
        finished = []
        with suppress(KeyboardInterrupt):
            for study in studies:
                with suppress(InputError):
                    if read_measurements(self.output_dir / study.name) and self._is_finished(
                        study, self._fingerprint(study)
                    ):
                        finished.append(study)
        return finished

    def _is_finished(self, study: Study, current: Mapping[str, Any]) -> bool:
        """Tell whether a study's results are there, all of them; raise InputError where another study's are."""
        folder = self.output_dir / study.name
        measurements = read_measurements(folder) or {}
        earlier = measurements.get("fingerprint")
        other = other_study(earlier, current)
        if other:
            raise InputError(
                f"{study.source}: {folder} holds the results of another study of the same case name, {other}; expected "
                "another output_dir, or --overwrite to replace them"
            )
        return same_results(earlier, current) and all_there(folder, measurements)

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        if outcome.status == FAILED:
            return _failed_row(outcome.name, str(outcome.source), outcome.reasons)
        report = Path(outcome.name) / REPORT.format(case=outcome.name)
        link = {"report": report.as_posix()} if (self.output_dir / report).is_file() else {}
        measurements = read_measurements(self.output_dir / outcome.name) or {}
        # A finished study may have moved since.
        place = {"case": outcome.name, "source": str(outcome.source)}
        return {"quality_flags": [], **measurements, **place, **link, "status": DONE, "reasons": []}


def _failed_row(case: str, source: str, reasons: Sequence[str]) -> dict[str, Any]:
    return {"case": case, "source": source, "status": FAILED, "reasons": list(reasons), "quality_flags": []}


def segment_study(
    segmenter: Segmenter, cine: Cine, *, steady: bool = True
) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Segment all phases of a cine and let them agree with each other.

    Args:
        segmenter: makes the masks.
        cine: the cine.
        steady: replace slices that jump out and back within one phase.

    Returns:
        Masks, uint8 label ids (x, y, z, t), and the (slice, phase) pairs that were replaced.
    """
    masks = segmenter.segment_cine(cine)
    replaced: tuple[tuple[int, int], ...] = ()
    if steady:
        masks, replaced = stabilise(masks)
        for phase in sorted({phase for _, phase in replaced}):
            masks[..., phase] = repair(masks[..., phase], cine.spacing_mm)
    return masks, replaced

"""Segment short-axis cine MR: masks, volumes and ejection fraction, and a report for each study."""

import signal
import sys
from pathlib import Path

import cli


def segment(
    input: str,
    *,
    output_dir: str,
    bundle_root: str = str(cli.BUNDLE),
    ckpt_path: str | None = None,
    device: str | None = None,
    dicom_seg: bool = False,
    ed_frame: int | None = None,
    es_frame: int | None = None,
    patients_csv: str | None = None,
    reference_csv: str | None = None,
    stabilise: bool = True,
    agreement: bool = True,
    report: bool = True,
    overwrite: bool = False,
) -> int:
    """Segment INPUT, one study or a folder of many, into OUTPUT_DIR.

    INPUT is a 3D or 4D image (.nii, .nii.gz, .mha, .mhd, .nrrd), a DICOM file or folder, or a folder that holds any
    number of these at any depth, also behind links. In a DICOM study the short-axis cine is found among the other
    series. CASE is an image's file name, or a DICOM patient's id; images of one name in several folders are named by
    their path, such as sub1_sa for sub1/sa.nii.

    OUTPUT_DIR/CASE/CASE_seg.nii.gz has the masks on the input's grid, 3D or 4D: 0 background, 1 right ventricle,
    2 myocardium, 3 left ventricle. CASE_measurements.json has the volumes, ejection fractions and quality flags, and of
    a cine CASE_report.html shows them. Over all studies there are OUTPUT_DIR/measurements.csv, index.html and
    segment.json.

    A study that cannot be used is listed with its reason and does not stop the others. Run again, studies of the same
    content, weights and options are skipped while all of their files are there. What OUTPUT_DIR/CASE holds of another
    study of the same name is kept. The table, index.html and segment.json are of INPUT's studies alone.

    Exit codes: 0 all studies are done, 1 wrong input (the others are done), 2 failed or interrupted.

    Args:
        input: what to segment. Below a folder, names ending in _gt, _seg or _label are left out.
        output_dir: folder for the results, made where missing.
        bundle_root: the bundle whose configs/inference.json and models/model.pt are used.
        ckpt_path: weights to use instead of the bundle's.
        device: cpu or cuda:0, for example. Default: the first GPU, and the CPU where there is none.
        dicom_seg: for studies in DICOM, write a DICOM Segmentation of every phase and a Measurement Report, too. Other
            studies get the rest, and a remark.
        ed_frame: phase at end-diastole, counted from 0, instead of the one found; for all studies.
        es_frame: phase at end-systole, likewise.
        patients_csv: what the files do not say; columns case and any of sex, height_cm, weight_kg and heart_rate_bpm.
            Rows of cases that INPUT does not have are named as not used.
        reference_csv: measurements to compare with in index.html; columns case, lv_ef_percent, lv_edv_ml and so on.
            Cases that INPUT does not have are named as not used.
        stabilise: replace slices that jump out and back within one phase; --nostabilise leaves them as they are.
        agreement: look at ED and ES mirrored and in another contrast, for the flag of low confidence; --noagreement
            saves the time.
        report: write HTML reports; --noreport leaves them out, and removes an earlier run's.
        overwrite: do finished studies again, and replace other studies' results of the same name.
    """
    from cardiac_cine.studies import find_studies

    found = find_studies(Path(input))
    from cardiac_cine.cohort_report import problems_text, read_reference_csv
    from cardiac_cine.patients import read_patients_csv
    from cardiac_cine.segmenter import Segmenter
    from cardiac_cine.workflow import DONE, FAILED, SKIPPED, Workflow

    reference = read_reference_csv(reference_csv)
    segmenter = Segmenter.from_bundle(bundle_root, ckpt_path=ckpt_path, device=device)
    options = {
        "report": report,
        "dicom_seg": dicom_seg,
        "ed_frame": ed_frame,
        "es_frame": es_frame,
        "stabilise": stabilise,
        "agreement": agreement,
        "overwrite": overwrite,
        "patients": read_patients_csv(patients_csv),
    }
    run = Workflow(segmenter, output_dir, options).run(found, reference=reference)
    print(
        f"{run.count(DONE)} of {len(found.studies)} studies segmented into {output_dir}, {run.count(SKIPPED)} finished "
        f"before, {run.count(FAILED)} failed" + (f", {problems_text(len(run.problems))}" if run.problems else "")
    )
    told = {"left out": run.left_out, "not used": run.not_used, "problems": run.failures()}
    for title, sentences in told.items():
        if sentences:
            print(f"{title}:", *sentences, sep="\n- ", file=sys.stderr)
    if run.interrupted:
        print("interrupted", file=sys.stderr)
    if run.interrupted or any(outcome.unexpected for outcome in run.outcomes):
        return cli.FAILED
    return cli.WRONG_INPUT if run.failures() else cli.DONE


if __name__ == "__main__":
    # What stops a job ends it as Ctrl-C does: nothing half-written, and a summary.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(cli.main(segment, "segment.py"))

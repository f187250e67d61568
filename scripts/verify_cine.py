"""Hold the pipeline against real cines of which two phases have references: ACDC's patientXXX_4d.nii.gz."""

import sys
from pathlib import Path
from typing import Any

import cli


def verify(
    dataset_dir: str, *, output_dir: str = "cine_check", ckpt_path: str | None = None, device: str | None = None
) -> int:
    """Segment every 4D cine of an ACDC folder and write OUTPUT_DIR/cines.md.

    For each: end-diastole and end-systole as found and as in Info.cfg, Dice at the two labelled phases, and how far the
    volume curves jump, with slices that flicker replaced and without.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: the ACDC root that holds training/patientXXX.
        output_dir: folder for the table, as Markdown and JSON.
        ckpt_path: weights to use instead of the bundle's.
        device: cpu or cuda:0, for example.
    """
    from cardiac_cine.datasets import open_datalist
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json, write_text
    from cardiac_cine.segmenter import Segmenter

    cases = open_datalist(dataset_dir).cases
    patients = dict.fromkeys(case.patient for case in cases if _cine(case).is_file())
    if not patients:
        raise InputError(f"{dataset_dir}: no patientXXX_4d.nii.gz in it, expected the cines of an ACDC folder")
    segmenter = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=ckpt_path, device=device)
    rows = []
    for patient in patients:
        rows += _rows(segmenter, [case for case in cases if case.patient == patient])
    out = Path(output_dir)
    write_json(rows, out / "cines.json")
    write_text(_markdown(rows), out / "cines.md")
    print(_markdown(rows))
    return cli.DONE


def _cine(case: Any) -> Path:
    return case.image.with_name(f"{case.patient}_4d.nii.gz")


def _rows(segmenter: Any, cases: list[Any]) -> list[dict[str, Any]]:
    from cardiac_cine.agreement import compare_masks
    from cardiac_cine.cine_files import read_cine
    from cardiac_cine.consistency import largest_jump
    from cardiac_cine.images import read_label
    from cardiac_cine.measurements import measure
    from cardiac_cine.workflow import segment_study

    cine = read_cine(_cine(cases[0]))
    rows = []
    for steady in (True, False):
        masks, replaced = segment_study(segmenter, cine, steady=steady)
        found = measure(masks, cine.affine)
        row: dict[str, Any] = {"patient": cases[0].patient, "steady": steady, "replaced": len(replaced)}
        for case in cases:
            phase, key = case.frame_number - 1, case.phase.lower()
            reference = read_label(case.label).array
            row[f"{key}_frame"] = getattr(found, f"{key}_frame")
            row[f"{key}_frame_reference"] = phase
            for agreement in compare_masks(masks[..., phase], reference, cine.spacing_mm):
                row[f"{key}_dice_{agreement.structure}"] = agreement.dice
        for key in ("lv", "rv"):
            jump = largest_jump(getattr(found, f"{key}_volume_ml"))
            row[f"{key}_largest_jump_ml"] = jump.ml if jump else float("nan")
        rows.append({**row, "phases": cine.phases, "lv_ef_percent": found.lv_ef_percent})
    return rows


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def _markdown(rows: list[dict[str, Any]]) -> str:
    from cardiac_cine import markdown

    head = ["patient", "flicker replaced", "ED found (Info.cfg)", "ES found (Info.cfg)", "Dice ED LV, RV, MYO"]
    head += ["Dice ES LV, RV, MYO", "largest jump mL LV, RV", "LV EF %"]
    table = []
    for row in rows:
        cells = [row["patient"], _slices(row["replaced"]) if row["steady"] else "off"]
        cells += [f"{row[f'{k}_frame']} ({row[f'{k}_frame_reference']}) of {row['phases']}" for k in ("ed", "es")]
        for phase in ("ed", "es"):
            cells.append(", ".join(f"{row[f'{phase}_dice_{key}']:.3f}" for key in ("lv", "rv", "myo")))
        cells.append(f"{row['lv_largest_jump_ml']:.1f}, {row['rv_largest_jump_ml']:.1f}")
        table.append([*cells, f"{row['lv_ef_percent']:.1f}"])
    return markdown.table(head, table) + "\n"


if __name__ == "__main__":
    sys.exit(cli.main(verify, "verify_cine.py"))

"""Hold the whole pipeline against phantoms whose volumes and ejection fractions are known."""

import math
import sys
from pathlib import Path
from typing import Any

import cli

EF_PERCENT = (15, 25, 35, 45, 55, 65, 75)
NOISE_SD = (0.02, 0.05, 0.08)
# Far from the seeds that training, the demo and the tests use.
FIRST_SEED = 5000


def verify(
    *,
    output_dir: str = "phantom_check",
    repeats: int = 3,
    phases: int = 16,
    ckpt_path: str | None = None,
    device: str | None = None,
) -> int:
    """Segment phantoms of EF 15 to 75 % in many geometries and noise levels, and write OUTPUT_DIR/phantoms.md.

    Each phantom goes through the same steps as a study does in segment.py, once with the network and once with its
    true masks, which shows what measuring costs by itself. Every EF is drawn REPEATS times, each time with another
    patient and another noise.

    Exit codes: 0 within the limits, 1 wrong input, 2 failed or beyond the limits.

    Args:
        output_dir: folder for the table, as Markdown and JSON.
        repeats: patients for each EF.
        phases: in the cycle.
        ckpt_path: weights to use instead of the bundle's.
        device: cpu or cuda:0, for example.
    """
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json, write_text
    from cardiac_cine.segmenter import Segmenter

    if repeats < 1 or phases < 2:
        raise InputError(f"repeats is {repeats} and phases is {phases}, expected at least 1 and 2")
    segmenter = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=ckpt_path, device=device)
    from tqdm import tqdm

    jobs = [(ef, repeat) for ef in EF_PERCENT for repeat in range(repeats)]
    rows = [_phantom(segmenter, ef, repeat, phases) for ef, repeat in tqdm(jobs, "phantoms", disable=None)]
    summary = _summary(rows)
    out = Path(output_dir)
    write_json({"summary": summary, "phantoms": rows}, out / "phantoms.json")
    text = _markdown(rows, summary)
    write_text(text, out / "phantoms.md")
    print(text)
    return cli.DONE if summary["within_limits"] else cli.FAILED


def _phantom(segmenter: Any, ef_percent: int, repeat: int, phases: int) -> dict[str, Any]:
    from cardiac_cine.cine import Cine
    from cardiac_cine.datasets.phantom import render
    from cardiac_cine.datasets.phantom_spec import GROUPS, random_spec
    from cardiac_cine.measurements import measure
    from cardiac_cine.workflow import segment_study

    seed = FIRST_SEED + 100 * repeat + ef_percent
    # A heart of low EF is a large one: the groups' geometries fit their range of EF.
    group = "DCM" if ef_percent < 30 else "MINF" if ef_percent < 45 else GROUPS[(seed + repeat) % len(GROUPS)]
    noise = NOISE_SD[repeat % len(NOISE_SD)]
    spec = random_spec(seed, group, lv_ef_percent=float(ef_percent), phases=phases, noise_sd=noise)
    cine, truth = render(spec), spec.truth()
    times = tuple(1000 * spec.frame_time_s * phase for phase in range(phases))
    study = Cine("phantom", Path("phantom"), cine.image, cine.affine, times, 1000 * spec.frame_time_s * phases)
    masks, _ = segment_study(segmenter, study)
    found, known = (measure(m, cine.affine, times_ms=times, rr_ms=study.rr_ms) for m in (masks, cine.mask))
    return {
        "group": group,
        "noise_sd": noise,
        "lv_ef_percent": truth.lv_ef_percent,
        "lv_ef_error": found.lv_ef_percent - truth.lv_ef_percent,
        "lv_ef_error_of_true_masks": known.lv_ef_percent - truth.lv_ef_percent,
        "rv_ef_percent": truth.rv_ef_percent,
        "rv_ef_error": found.rv_ef_percent - truth.rv_ef_percent,
        "lv_edv_error_ml": found.lv_edv_ml - truth.lv_edv_ml,
        "lv_esv_error_ml": found.lv_esv_ml - truth.lv_esv_ml,
        "ed_off": _phases_apart(found.ed_frame, truth.ed_frame, phases),
        "es_off": _phases_apart(found.es_frame, truth.es_frame, phases),
    }


def _phases_apart(found: int, true: int, phases: int) -> int:
    distance = abs(found - true)
    return min(distance, phases - distance)


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [abs(row["lv_ef_error"]) for row in rows]
    exact = [abs(row["lv_ef_error_of_true_masks"]) for row in rows]
    summary = {
        "phantoms": len(rows),
        "lv_ef_mean_abs_error": math.fsum(errors) / len(rows),
        "lv_ef_worst_abs_error": max(errors),
        "lv_ef_worst_abs_error_of_true_masks": max(exact),
        "rv_ef_mean_abs_error": math.fsum(abs(row["rv_ef_error"]) for row in rows) / len(rows),
        "ed_worst_phases_off": max(row["ed_off"] for row in rows),
        "es_worst_phases_off": max(row["es_off"] for row in rows),
    }
    within = (
        summary["lv_ef_mean_abs_error"] <= 3
        and summary["lv_ef_worst_abs_error"] <= 6
        and summary["lv_ef_worst_abs_error_of_true_masks"] <= 0.5
        and max(summary["ed_worst_phases_off"], summary["es_worst_phases_off"]) <= 1
    )
    return {**summary, "within_limits": within}


def _markdown(rows: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    from cardiac_cine import markdown

    head = ["group", "noise", "LV EF %", "LV EF error", "from true masks", "RV EF error"]
    head += ["LV EDV error mL", "LV ESV error mL", "ED, ES phases off"]
    table = []
    for row in rows:
        cells = [row["group"], f"{row['noise_sd']:.2f}", f"{row['lv_ef_percent']:.1f}", f"{row['lv_ef_error']:+.1f}"]
        cells += [f"{row['lv_ef_error_of_true_masks']:+.2f}", f"{row['rv_ef_error']:+.1f}"]
        cells += [f"{row['lv_edv_error_ml']:+.1f}", f"{row['lv_esv_error_ml']:+.1f}"]
        table.append([*cells, f"{row['ed_off']}, {row['es_off']}"])
    told = (
        f"{summary['phantoms']} phantoms. LV EF: mean absolute error {summary['lv_ef_mean_abs_error']:.1f}, worst "
        f"{summary['lv_ef_worst_abs_error']:.1f} points; from the true masks at worst "
        f"{summary['lv_ef_worst_abs_error_of_true_masks']:.2f}. RV EF: mean absolute error "
        f"{summary['rv_ef_mean_abs_error']:.1f} points."
    )
    return f"{markdown.table(head, table)}\n\n{told}\n"


if __name__ == "__main__":
    sys.exit(cli.main(verify, "verify_phantoms.py"))

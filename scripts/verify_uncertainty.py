"""Hold the uncertainty that chooses samples against the errors it should find: rank correlation over frames."""

import sys
from pathlib import Path
from typing import Any

import cli
import numpy as np


def verify(
    dataset_dir: str,
    *,
    output_dir: str = "uncertainty_check",
    split: str = "tutorial",
    section: str = "validation",
    ckpt_path: str | None = None,
    device: str | None = None,
) -> int:
    """Correlate each frame's uncertainty with 1 - Dice and write OUTPUT_DIR/uncertainty.md and .json.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: a raw ACDC root, or a folder that prepare_dataset.py wrote.
        output_dir: folder for the table.
        split: of the datalist, such as tutorial or fold0.
        section: training or validation.
        ckpt_path: weights to use instead of the bundle's; those that have seen the frames flatter the table.
        device: cpu or cuda:0, for example.
    """
    from scipy.stats import spearmanr
    from tqdm import tqdm

    from cardiac_cine import markdown
    from cardiac_cine.datasets import open_datalist
    from cardiac_cine.files import write_json, write_text
    from cardiac_cine.labels import STRUCTURE_KEYS
    from cardiac_cine.segmenter import Segmenter

    segmenter = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=ckpt_path, device=device)
    cases = open_datalist(dataset_dir).section(split, section)
    rows = [_row(segmenter, case) for case in tqdm(cases, unit="frame", disable=None)]
    for row in rows:
        for kind in ("error", "uncertainty", "entropy"):
            row[f"{kind}_mean"] = float(np.mean([row[f"{kind}_{key}"] for key in STRUCTURE_KEYS]))
    keys = (*STRUCTURE_KEYS, "mean")
    cells = []
    for kind, name in (("uncertainty", "1 - expected Dice"), ("entropy", "entropy, mean over the volume")):
        found = [spearmanr([r[f"{kind}_{key}"] for r in rows], [r[f"error_{key}"] for r in rows])[0] for key in keys]
        cells.append([name, *(f"{value:.2f}" for value in found)])
    table = markdown.table(["score", *(key.upper() for key in STRUCTURE_KEYS), "mean"], cells) + "\n"
    write_json(rows, Path(output_dir) / "uncertainty.json")
    write_text(table, Path(output_dir) / "uncertainty.md")
    print(f"Spearman's correlation with 1 - Dice over {len(rows)} frames\n\n{table}", end="")
    return cli.DONE


def _row(segmenter: Any, case: Any) -> dict[str, Any]:
    """Return a frame's errors and scores by structure."""
    from cardiac_cine.agreement import compare_masks
    from cardiac_cine.annotation.active_learning import dice_uncertainty
    from cardiac_cine.images import read_frame, read_label
    from cardiac_cine.labels import STRUCTURE_KEYS

    frame = read_frame(case.image)
    data = segmenter.predict(segmenter.preprocess(frame))
    probabilities = np.asarray(data["pred"].softmax(0).cpu())
    found = compare_masks(segmenter.postprocess(data), read_label(case.label).array, frame.spacing_mm)
    row: dict[str, Any] = {"case": case.name, **{f"error_{each.structure}": 1 - each.dice for each in found}}
    uncertainty = dice_uncertainty(probabilities)
    entropy = float(-(probabilities * np.log(probabilities.clip(1e-9))).sum(0).mean())
    for key in STRUCTURE_KEYS:
        row |= {f"uncertainty_{key}": float(uncertainty[key]), f"entropy_{key}": entropy}
    return row


if __name__ == "__main__":
    sys.exit(cli.main(verify, "verify_uncertainty.py"))

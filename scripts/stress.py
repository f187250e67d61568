"""Perturb labelled frames and see what it costs the segmentation: mean Dice against the clean frames, with limits."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli

if TYPE_CHECKING:
    from cardiac_cine.agreement import Agreement
    from cardiac_cine.cases import Case
    from cardiac_cine.images import Frame
    from cardiac_cine.perturbations import LabelledStack, Perturbation
    from cardiac_cine.segmenter import Segmenter

# What mean Dice may lose, and what it may lose to the strongest level of a graded family.
LIMIT = 0.02
STRONGEST_LIMIT = 0.04


def stress(
    dataset_dir: str,
    *,
    output_dir: str = "stress",
    split: str = "tutorial",
    section: str = "validation",
    frames: int = 20,
    only: str | None = None,
    bundle_root: str = str(cli.BUNDLE),
    ckpt_path: str | None = None,
    device: str | None = None,
) -> int:
    """Segment perturbed frames of DATASET_DIR, and write OUTPUT_DIR/stress.md and stress.json.

    Each row of the table is a perturbation with its mean Dice over structures and frames, against the reference
    perturbed in the same way, and the difference to the mean Dice of the clean frames. At most 0.02 may be lost, 0.04
    to the strongest level of a family; inverted contrast has no limit. Random perturbations are the same in every run.

    Exit codes: 0 within the limits, 1 wrong input, 2 failed or beyond the limits.

    Args:
        dataset_dir: a raw ACDC root, or a folder that prepare_dataset.py wrote.
        output_dir: folder for the table, as Markdown and JSON.
        split: of the datalist, such as tutorial or fold0.
        section: training or validation.
        frames: how many frames, spread evenly over the patients; all where there are fewer.
        only: families of perturbations, separated by commas, such as rotations,storage; all where not given.
        bundle_root: the bundle whose configs/inference.json and models/model.pt are used.
        ckpt_path: weights to use instead of the bundle's.
        device: cpu or cuda:0, for example.
    """
    from tqdm import tqdm

    from cardiac_cine import cases
    from cardiac_cine.datasets import open_datalist
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json, write_text

    if frames < 1:
        raise InputError(f"frames is {frames}, expected at least 1")
    perturbations = chosen_perturbations(only)
    chosen = spread_over_patients(open_datalist(dataset_dir).section(split, section), frames)
    cases.validate(chosen)
    from cardiac_cine.segmenter import Segmenter

    segmenter = Segmenter.from_bundle(bundle_root, ckpt_path=ckpt_path, device=device)
    clean: list[Sequence[Agreement]] = []
    found: list[list[Sequence[Agreement]]] = [[] for _ in perturbations]
    with tqdm(total=len(chosen) * (1 + len(perturbations)), desc="segmenting", unit="frame", disable=None) as bar:
        for case in chosen:
            frame, stack = _read(case)
            clean.append(_compare(segmenter, frame, stack))
            bar.update()
            for perturbation, agreements in zip(perturbations, found, strict=True):
                agreements.append(_compare(segmenter, *_perturbed(perturbation, frame, stack)))
                bar.update()
    base = _dice(clean)
    rows = [
        {**row(perturbation, _dice(agreements), base["mean"]), "dice_of_frames": _dice_of_frames(agreements)}
        for perturbation, agreements in zip(perturbations, found, strict=True)
    ]
    result = {
        "dataset_dir": dataset_dir,
        "split": split,
        "section": section,
        "ckpt_path": segmenter.ckpt_path,
        "frames": [case.name for case in chosen],
        "clean": base,
        "clean_dice_of_frames": _dice_of_frames(clean),
        "perturbations": rows,
        "within_limits": within_limits(rows),
    }
    out = Path(output_dir)
    write_json(result, out / "stress.json")
    text = _markdown(result)
    write_text(text, out / "stress.md")
    print(text)
    print(f"written: {out / 'stress.md'} and {out / 'stress.json'}")
    return cli.DONE if result["within_limits"] else cli.FAILED


def chosen_perturbations(only: str | None) -> "list[Perturbation]":
    """Return the families named, in the table's order; all for None.

    Raises:
        InputError: there is no such family; all of them in one message.
    """
    from cardiac_cine.errors import InputError
    from cardiac_cine.perturbations import PERTURBATIONS

    known = list(dict.fromkeys(perturbation.name for perturbation in PERTURBATIONS))
    names = known if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"only: no perturbations named {', '.join(map(repr, unknown))}, expected some of {known}")
    return [perturbation for perturbation in PERTURBATIONS if perturbation.name in names]


def spread_over_patients(listed: "Sequence[Case]", count: int) -> "list[Case]":
    """Choose frames evenly: of as many patients as there are, and in turn of each patient's frames.

    Returns:
        ``count`` cases, or all where there are fewer, in the order listed.
    """
    frames: dict[str, list[Case]] = {}
    for case in listed:
        frames.setdefault(case.patient, []).append(case)
    chosen: list[Case] = []
    while len(chosen) < min(count, len(listed)):
        waiting = [mine for mine in frames.values() if mine]
        picks = min(count - len(chosen), len(waiting))
        for pick in range(picks):
            mine = waiting[pick * len(waiting) // picks]
            chosen.append(mine.pop(pick % len(mine)))
    return [case for case in listed if case in chosen]


def row(perturbation: "Perturbation", dice: dict[str, float], clean: float) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        perturbation: what was done.
        dice: what it gave, "mean" among it.
        clean: mean Dice of the clean frames.

    Returns:
        With its limit and whether it is within; both None where there is no limit. NaN is never within one.
    """
    difference = dice["mean"] - clean
    limit = (STRONGEST_LIMIT if perturbation.strongest else LIMIT) if perturbation.limited else None
    return {
        "perturbation": perturbation.name,
        "level": perturbation.level,
        "dice": dice,
        "difference": difference,
        "limit": limit,
        # Rounded, so that a loss of exactly the limit is within it whatever the binary fractions.
        "within": None if limit is None else round(difference, 9) >= -limit,
    }


def within_limits(rows: Sequence[dict[str, Any]]) -> bool:
    """Tell whether all rows that have a limit are within it."""
    return all(entry["within"] is not False for entry in rows)


def _read(case: "Case") -> "tuple[Frame, LabelledStack]":
    from cardiac_cine.images import read_frame, read_label
    from cardiac_cine.perturbations import LabelledStack

    frame = read_frame(case.image)
    return frame, LabelledStack(frame.array, read_label(case.label).array, frame.affine)


def _perturbed(perturbation: "Perturbation", frame: "Frame", stack: "LabelledStack") -> "tuple[Frame, LabelledStack]":
    import tempfile
    import zlib

    import nibabel as nib
    import numpy as np

    from cardiac_cine.images import Frame, read_frame

    # One seed for all levels of a family, so that they differ in strength alone, and another for each frame.
    rng = np.random.default_rng(zlib.crc32(f"{perturbation.name} {frame.name}".encode()))
    stack = perturbation.apply(stack, rng)
    if not perturbation.on_disk:
        # torch does not take the negative strides of a flipped view.
        array = np.array(stack.array, np.float32, order="C")
        return Frame(frame.path, array, stack.affine), stack
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / frame.path.name
        nib.save(nib.Nifti1Image(stack.array, stack.affine), path)
        return read_frame(path), stack


def _compare(segmenter: "Segmenter", frame: "Frame", stack: "LabelledStack") -> "Sequence[Agreement]":
    from cardiac_cine.agreement import compare_masks

    return compare_masks(segmenter.segment(frame), stack.label, frame.spacing_mm)


def _dice(frames: "Sequence[Sequence[Agreement]]") -> dict[str, float]:
    """Return the mean Dice of each structure and of all, leaving out what neither mask holds."""
    from cardiac_cine.labels import STRUCTURE_KEYS
    from cardiac_cine.statistics import summarise

    found = [agreement for agreements in frames for agreement in agreements]
    means = {key: summarise([a.dice for a in found if a.structure == key]).mean for key in STRUCTURE_KEYS}
    return {"mean": summarise([a.dice for a in found]).mean, **means}


def _dice_of_frames(frames: "Sequence[Sequence[Agreement]]") -> list[float]:
    """Return each frame's mean Dice, which tells one heart that is lost from many that are a little worse."""
    from cardiac_cine.statistics import summarise

    return [summarise([agreement.dice for agreement in agreements]).mean for agreements in frames]


def _markdown(result: dict[str, Any]) -> str:
    from cardiac_cine import markdown
    from cardiac_cine.labels import STRUCTURE_KEYS

    def numbers(dice: dict[str, float]) -> list[str]:
        return ["-" if math.isnan(dice[key]) else f"{dice[key]:.4f}" for key in ("mean", *STRUCTURE_KEYS)]

    head = ["perturbation", "level", "mean Dice", *(key.upper() for key in STRUCTURE_KEYS)]
    head += ["difference", "limit", "within"]
    rows = [["none", "", *numbers(result["clean"]), "", "", ""]]
    for entry in result["perturbations"]:
        difference = "-" if math.isnan(entry["difference"]) else f"{entry['difference']:+.4f}"
        limit = "-" if entry["limit"] is None else f"{-entry['limit']:.2f}"
        within = {True: "yes", False: "no", None: "-"}[entry["within"]]
        name = entry["perturbation"].replace("_", " ")
        rows.append([name, entry["level"], *numbers(entry["dice"]), difference, limit, within])
    judged = [entry for entry in result["perturbations"] if entry["limit"] is not None]
    told = f"Frames: {len(result['frames'])}, of the {result['section']} section of split {result['split']}."
    told += f" Within the limits: {sum(entry['within'] for entry in judged)} of {len(judged)}."
    return f"{markdown.table(head, rows)}\n\n{told}\n"


if __name__ == "__main__":
    sys.exit(cli.main(stress, "stress.py"))

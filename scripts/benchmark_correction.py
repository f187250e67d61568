"""Measure by simulated clicks how well a mask is corrected, against a disc brush and a random walker."""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cli

if TYPE_CHECKING:
    import numpy as np

    from cardiac_cine.cases import Case
    from cardiac_cine.segmenter import Segmenter

# Of the baselines: the best of 3, 5 and 8 mm, and the better of 10 and 20 mm.
_BRUSH_MM = 8.0
_WALK_MM = 20.0
_DISC_MM = 1.5
SHOWN = (1, 2, 3, 5)


class Slice(NamedTuple):
    """The worst slice of a frame, and what the methods may use: arrays (x, y, 1), probabilities (4, x, y, 1)."""

    name: str
    image: "np.ndarray"
    mask: "np.ndarray"
    reference: "np.ndarray"
    probabilities: "np.ndarray"
    spacing_mm: tuple[float, float, float]


# From a slice and its seeds to a mask.
Method = Callable[[Slice, "np.ndarray"], "np.ndarray"]


def benchmark_correction(
    dataset_dir: str,
    *,
    output_dir: str = "benchmark_correction",
    patients: int = 6,
    clicks: int = 5,
    split: str = "tutorial",
    section: str = "validation",
    bundle_root: str = str(cli.BUNDLE),
    ckpt_path: str | None = None,
    device: str | None = None,
) -> None:
    """Correct the worst slice of each frame of DATASET_DIR by clicks; write OUTPUT_DIR/correction.md and .json.

    The slice starts as the network left it. Each click goes to the middle of the largest piece of wrong pixels that
    belong to one label, with that label; all clicks so far are applied to the first mask. Reported are the mean Dice of
    the slice and the area of its wrong pixels after each click, and the seconds that a correction takes.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: a raw ACDC root, or a folder that prepare_dataset.py wrote.
        output_dir: folder for the table, as Markdown and JSON.
        patients: how many, in the order of the datalist; all frames of each.
        clicks: how many, in turn.
        split: of the datalist, such as tutorial or fold0.
        section: training or validation.
        bundle_root: the bundle whose configs/inference.json and models/model.pt are used.
        ckpt_path: weights to use instead of the bundle's.
        device: cpu or cuda:0, for example.
    """
    from tqdm import tqdm

    from cardiac_cine import cases
    from cardiac_cine.datasets import open_datalist
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json, write_text

    problems = [
        f"{k} is {v}, expected at least 1" for k, v in {"patients": patients, "clicks": clicks}.items() if v < 1
    ]
    if problems:
        raise InputError(problems)
    listed = open_datalist(dataset_dir).section(split, section)
    names = list(dict.fromkeys(case.patient for case in listed))[:patients]
    chosen = [case for case in listed if case.patient in names]
    cases.validate(chosen)
    from cardiac_cine.segmenter import Segmenter

    segmenter = Segmenter.from_bundle(bundle_root, ckpt_path=ckpt_path, device=device)
    slices = [worst_slice(case, segmenter) for case in tqdm(chosen, desc="segmenting", unit="frame", disable=None)]
    result = {
        "dataset_dir": dataset_dir,
        "split": split,
        "section": section,
        "ckpt_path": segmenter.ckpt_path,
        "slices": [item.name for item in slices],
        "methods": {
            name: _mean([correct_by_clicks(item, method, clicks) for item in slices])
            for name, method in tqdm(methods().items(), desc="correcting", unit="method", disable=None)
        },
    }
    out = Path(output_dir)
    write_json(result, out / "correction.json")
    text = _markdown(result)
    write_text(text, out / "correction.md")
    print(text)
    print(f"written: {out / 'correction.md'} and {out / 'correction.json'}")


def methods() -> dict[str, Method]:
    """Return what is compared, by name; the shipped one last."""
    from cardiac_cine.annotation.correction import correct

    return {
        f"disc brush of {_BRUSH_MM:g} mm": _brush,
        f"random walker within {_WALK_MM:g} mm": _random_walk,
        "correction without the network": lambda item, seeds: correct(item.mask, seeds, item.spacing_mm),
        "correction": lambda item, seeds: correct(item.mask, seeds, item.spacing_mm, item.probabilities),
    }


def worst_slice(case: "Case", segmenter: "Segmenter") -> Slice:
    """Segment a frame and return the slice with the largest wrong area."""
    from cardiac_cine.annotation.probabilities import segment_with_probabilities
    from cardiac_cine.images import read_frame, read_label

    frame, reference = read_frame(case.image), read_label(case.label).array
    mask, probabilities = segment_with_probabilities(segmenter, frame)
    z = int((mask != reference).sum((0, 1)).argmax())
    at = (Ellipsis, slice(z, z + 1))
    return Slice(case.name, frame.array[at], mask[at], reference[at], probabilities[at], frame.spacing_mm)


def correct_by_clicks(item: Slice, method: Method, clicks: int) -> dict[str, list[float]]:
    """Return the slice's mean Dice and wrong area before and after each click, and the seconds of each correction."""
    import numpy as np

    mask, seeds = item.mask, np.zeros_like(item.mask)
    found = {"dice": [_dice(item, mask)], "wrong_cm2": [_wrong_cm2(item, mask)], "seconds": []}
    for _ in range(clicks):
        click = next_click(mask[..., 0], item.reference[..., 0])
        if click:
            seeds[(*click[:2], 0)] = click[2]
        begun = time.perf_counter()
        mask = method(item, seeds) if seeds.any() else mask
        found["seconds"].append(time.perf_counter() - begun)
        found["dice"].append(_dice(item, mask))
        found["wrong_cm2"].append(_wrong_cm2(item, mask))
    return found


def next_click(mask: "np.ndarray", reference: "np.ndarray") -> tuple[int, int, int] | None:
    """Return x, y and seed of the click that an annotator would make next, None where nothing is wrong.

    Args:
        mask: labels 0-3, (x, y).
        reference: the same, as it should be.
    """
    import numpy as np
    from scipy import ndimage

    from cardiac_cine.annotation.correction import BACKGROUND_SEED

    largest, seed = np.zeros(mask.shape, bool), 0
    for label in np.unique(reference).tolist():
        pieces, count = ndimage.label((mask != reference) & (reference == label))
        for piece in range(1, count + 1):
            if (pieces == piece).sum() > largest.sum():
                largest, seed = pieces == piece, label or BACKGROUND_SEED
    if not seed:
        return None
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    x, y = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y), seed


def _brush(item: Slice, seeds: "np.ndarray") -> "np.ndarray":
    return _painted(item.mask, item, seeds, _BRUSH_MM)


def _random_walk(item: Slice, seeds: "np.ndarray") -> "np.ndarray":
    """Let scikit-image's random walker share out what is near a click, the mask being given beyond."""
    import numpy as np
    from skimage.segmentation import random_walker

    given = np.where(_distance_mm(item, seeds > 0) <= _WALK_MM, 0, item.mask + 1)
    given = _painted(given, item, seeds, _DISC_MM, offset=1)
    known = np.unique(given[given > 0])
    if len(known) < 2:
        return np.where(given == 0, known[0] - 1, item.mask).astype(np.uint8)
    low, high = np.percentile(item.image, (0.5, 99.5))
    image = ((item.image - low) / max(high - low, 1e-6)).clip(0, 1)
    # The walker wants labels 1, 2, ... without a gap.
    order = np.where(given > 0, np.searchsorted(known, given) + 1, 0)
    walked = random_walker(image[..., 0], order[..., 0], beta=130, mode="cg_j", spacing=np.array(item.spacing_mm[:2]))
    return (known[walked - 1] - 1).astype(np.uint8)[..., None]


def _painted(
    labels: "np.ndarray", item: Slice, seeds: "np.ndarray", radius_mm: float, *, offset: int = 0
) -> "np.ndarray":
    import numpy as np

    from cardiac_cine.annotation.correction import BACKGROUND_SEED

    painted = labels.copy()
    for radius in (radius_mm, 0.0):  # every click's own pixel last, whatever a neighbour painted over it
        for x, y, z in np.argwhere(seeds):
            here = np.zeros(seeds.shape, bool)
            here[x, y, z] = True
            painted[_distance_mm(item, here) <= radius] = seeds[x, y, z] % BACKGROUND_SEED + offset
    return painted


def _distance_mm(item: Slice, pixels: "np.ndarray") -> "np.ndarray":
    from scipy import ndimage

    return ndimage.distance_transform_edt(~pixels, sampling=item.spacing_mm)


def _dice(item: Slice, mask: "np.ndarray") -> float:
    from cardiac_cine.agreement import dice
    from cardiac_cine.labels import STRUCTURE_IDS
    from cardiac_cine.statistics import summarise

    mean = summarise([dice(mask == label, item.reference == label) for label in STRUCTURE_IDS]).mean
    return 1.0 if math.isnan(mean) else mean


def _wrong_cm2(item: Slice, mask: "np.ndarray") -> float:
    return float((mask != item.reference).sum() * math.prod(item.spacing_mm[:2]) / 100)


def _mean(rows: list[dict[str, list[float]]]) -> dict[str, Any]:
    import numpy as np

    seconds = [value for row in rows for value in row["seconds"]]
    return {
        "dice": np.mean([row["dice"] for row in rows], axis=0).tolist(),
        "wrong_cm2": np.mean([row["wrong_cm2"] for row in rows], axis=0).tolist(),
        "median_seconds": float(np.median(seconds)),
        "longest_seconds": max(seconds),
    }


def _markdown(result: dict[str, Any]) -> str:
    from cardiac_cine import markdown

    count = len(next(iter(result["methods"].values()))["dice"]) - 1
    shown = [0, *(number for number in SHOWN if number <= count)]
    head = ["method", *("start" if n == 0 else f"{n} click{'s' * (n > 1)}" for n in shown), "median s", "longest s"]
    rows = []
    for name, row in result["methods"].items():
        cells = [f"{row['dice'][n]:.3f}, {row['wrong_cm2'][n]:.1f}" for n in shown]
        rows.append([name, *cells, f"{row['median_seconds']:.3f}", f"{row['longest_seconds']:.2f}"])
    lines = ["Mean Dice of the slice, and area of wrong pixels in cm2:", "", markdown.table(head, rows)]
    lines += ["", f"Frames: {len(result['slices'])}, of the {result['section']} section of split {result['split']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(cli.main(benchmark_correction, "benchmark_correction.py"))

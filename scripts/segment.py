"""Segment short-axis cine MR frames into masks of the ventricles and the myocardium."""

import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import cli

SUMMARY = "segment.json"


def segment(
    input: str,
    *,
    output_dir: str,
    bundle_root: str = str(cli.BUNDLE),
    ckpt_path: str | None = None,
    device: str | None = None,
) -> int:
    """Segment INPUT, a 3D NIfTI frame or a folder of frames, into OUTPUT_DIR/CASE/CASE_seg.nii.gz.

    Masks lie on the grid of their frame: 0 background, 1 right ventricle, 2 myocardium, 3 left ventricle. CASE is the
    frame's file name without .nii or .nii.gz. Below a folder, names ending in _gt, _seg, _label or _4d are left out.
    A frame that cannot be used is skipped and listed with its reason at the end, and in OUTPUT_DIR/segment.json.

    Exit codes: 0 all frames are done, 1 wrong input (some of it may be done), 2 failed or interrupted.

    Args:
        input: a NIfTI file (.nii or .nii.gz) of one 3D frame, or a folder that holds such files at any depth.
        output_dir: folder for the masks and segment.json, made where missing.
        bundle_root: the bundle whose configs/inference.json and models/model.pt are used.
        ckpt_path: weights to use instead of the bundle's.
        device: cpu or cuda:0, for example. Default: the first GPU, and the CPU where there is none.
    """
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json
    from cardiac_cine.images import find_frames

    out = Path(output_dir)
    frames = find_frames(Path(input)) if Path(input).is_dir() else [Path(input)]
    if out.exists() and not out.is_dir():
        raise InputError(f"output_dir {out}: not a folder, expected one to write to")
    from cardiac_cine.segmenter import Segmenter
    from cardiac_cine.weights import sha256, versions

    segmenter = Segmenter(Path(bundle_root), ckpt_path=Path(ckpt_path) if ckpt_path else None, device=device)
    from tqdm import tqdm

    done: list[dict[str, str]] = []
    skipped: list[dict[str, Any]] = []
    stopped = False
    try:
        for path in tqdm(frames, desc="segmenting", unit="frame", disable=None):
            try:
                mask = segmenter.segment_file(path, out)
                done.append({"frame": str(path), "mask": str(mask)})
            except InputError as error:
                skipped.append({"frame": str(path), "reasons": list(error.problems)})
    except KeyboardInterrupt:
        stopped = True
        print("interrupted", file=sys.stderr)
    except Exception:  # the frames done so far are still reported
        stopped = True
        traceback.print_exc()
    summary = {
        "input": input,
        "done": done,
        "skipped": skipped,
        "not_reached": frames[len(done) + len(skipped) :],
        "device": str(segmenter.device),
        "weights": {"path": segmenter.ckpt_path, "sha256": sha256(segmenter.ckpt_path)},
        "versions": versions(),
    }
    write_json(summary, out / SUMMARY)
    print(f"{len(done)} of {len(frames)} frames segmented into {out}")
    if skipped:
        reasons = [reason for item in skipped for reason in item["reasons"]]
        print(f"skipped {len(skipped)}:", *reasons, sep="\n- ", file=sys.stderr)
    if stopped:
        return cli.FAILED
    return cli.WRONG_INPUT if skipped else cli.DONE


if __name__ == "__main__":
    # What stops a job ends it as Ctrl-C does: nothing half-written, and a summary.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(cli.main(segment, "segment.py"))

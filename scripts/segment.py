"""Segment short-axis cine MR frames into masks of the ventricles and the myocardium."""

import json
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fire
from fire.parser import DefaultParseValue

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

SUMMARY = "segment.json"
DONE, WRONG_INPUT, FAILED = range(3)


@dataclass(frozen=True)
class Options:
    """The command line, parsed."""

    input: Path
    output_dir: Path
    bundle_root: Path
    ckpt_path: Path | None
    device: str | None


def segment(
    input: str,
    *,
    output_dir: str,
    bundle_root: str = str(BUNDLE),
    ckpt_path: str | None = None,
    device: str | None = None,
) -> Options:
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
    return Options(
        input=Path(input),
        output_dir=Path(output_dir),
        bundle_root=Path(bundle_root),
        ckpt_path=None if ckpt_path is None else Path(ckpt_path),
        device=device,
    )


def run(options: Options) -> int:
    """Segment what the options name and return the exit code."""
    from cardiac_cine.errors import InputError

    try:
        from cardiac_cine.images import find_frames

        frames = find_frames(options.input) if options.input.is_dir() else [options.input]
        if options.output_dir.exists() and not options.output_dir.is_dir():
            raise InputError(f"output_dir {options.output_dir}: not a folder, expected one to write to")
        from cardiac_cine.segmenter import Segmenter
        from cardiac_cine.weights import sha256, versions

        segmenter = Segmenter(options.bundle_root, ckpt_path=options.ckpt_path, device=options.device)
    except InputError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    from tqdm import tqdm

    options.output_dir.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, str]] = []
    skipped: list[dict[str, Any]] = []
    stopped = False
    try:
        for path in tqdm(frames, desc="segmenting", unit="frame", disable=None):
            try:
                mask = segmenter.segment_file(path, options.output_dir)
                done.append({"frame": str(path), "mask": str(mask)})
            except InputError as error:
                skipped.append({"frame": str(path), "reasons": list(error.problems)})
    except KeyboardInterrupt:
        stopped = True
        print("interrupted", file=sys.stderr)
    except Exception:  # the frames done so far are still reported
        stopped = True
        traceback.print_exc()
    _write_summary(
        options.output_dir,
        {
            "options": asdict(options),
            "done": done,
            "skipped": skipped,
            "not_reached": [str(path) for path in frames[len(done) + len(skipped) :]],
            "device": str(segmenter.device),
            "weights": {"path": str(segmenter.ckpt_path), "sha256": sha256(segmenter.ckpt_path)},
            "versions": versions(),
        },
    )
    print(f"{len(done)} of {len(frames)} frames segmented into {options.output_dir}")
    if skipped:
        reasons = [reason for item in skipped for reason in item["reasons"]]
        print(f"skipped {len(skipped)}:", *reasons, sep="\n- ", file=sys.stderr)
    if stopped:
        return FAILED
    return WRONG_INPUT if skipped else DONE


def _write_summary(output_dir: Path, summary: dict[str, Any]) -> None:
    staged = output_dir / f".{SUMMARY}.tmp"
    staged.write_text(json.dumps(summary, indent=1, default=str))
    staged.replace(output_dir / SUMMARY)


def _literal(argument: str) -> str:
    """Quote a value, so that Fire does not read a folder named 2024_01 as the number 202401."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return argument if DefaultParseValue(value) == value else f"{flag}{equals}{value!r}"


def main() -> int:
    """Parse the command line, run it and return the exit code."""
    # Fire only parses: it complains about a superfluous argument after the call, and nothing may be segmented by then.
    command = [_literal(argument) for argument in sys.argv[1:]]
    options = fire.Fire(segment, command=command, name="segment.py", serialize=lambda _: None)
    try:
        return run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except Exception:  # any other error means the exit code of failure, which is not Python's own
        traceback.print_exc()
    return FAILED


if __name__ == "__main__":
    # What stops a job ends it as Ctrl-C does: nothing half-written, and a summary.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())

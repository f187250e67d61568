"""Make a synthetic beating heart, segment its whole cycle, and hold the numbers against the truth. Needs no data."""

import sys
from pathlib import Path
from typing import Any

import cli

# Small enough for a minute on two cores, enough for a curve.
PHASES = 12


def demo(*, output_dir: str = "demo", lv_ef_percent: float = 60.0, seed: int = 1, ckpt_path: str | None = None) -> None:
    """Segment a phantom cine with the bundle's network and print volumes and EF beside the true ones.

    Writes the phantom and its masks as NIfTI, the numbers as JSON, and overlays and volume curves as PNG.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        output_dir: folder for everything.
        lv_ef_percent: ejection fraction of the phantom's left ventricle.
        seed: another seed gives another noise, breathing and thorax.
        ckpt_path: weights to use instead of the bundle's models/model.pt.
    """
    found = _run(Path(output_dir), lv_ef_percent, seed, Path(ckpt_path) if ckpt_path else None)
    print(_table(found))
    print(f"\nLook at the pictures and files in {Path(output_dir).resolve()}:")
    for name in found["files"]:
        print(f"  {name}")


def _run(out: Path, lv_ef_percent: float, seed: int, ckpt_path: Path | None) -> dict[str, Any]:
    from tqdm import tqdm

    from cardiac_cine import plots
    from cardiac_cine.datasets.phantom import render, write_cine, write_frame
    from cardiac_cine.datasets.phantom_spec import PhantomSpec
    from cardiac_cine.files import write_json
    from cardiac_cine.images import read_frame, write_mask
    from cardiac_cine.measurements import ef_percent, volumes_ml
    from cardiac_cine.segmenter import Segmenter

    segmenter = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=ckpt_path)
    spec = PhantomSpec(lv_ef_percent=lv_ef_percent, phases=PHASES, seed=seed)
    cine, truth = render(spec), spec.truth()
    files = ["phantom_4d.nii.gz", "phantom_4d_true.nii.gz"]
    write_cine(cine, out / files[0], out / files[1])
    volumes = []
    for index in tqdm(range(PHASES), desc="segmenting", unit="phase", disable=None):
        name = f"phantom_frame{index + 1:02d}"
        write_frame(cine, index, out / "frames" / f"{name}.nii.gz", out / "frames" / f"{name}_gt.nii.gz")
        frame = read_frame(out / "frames" / f"{name}.nii.gz")
        mask = segmenter.segment(frame)
        write_mask(mask, frame.affine, out / "masks", name)
        volumes.append(volumes_ml(mask, frame.spacing_mm))
        if index in (truth.ed_frame, truth.es_frame):
            phase = "ED" if index == truth.ed_frame else "ES"
            files.append(f"overlay_{phase}.png")
            plots.overlay_grid(
                frame.array,
                mask,
                frame.spacing_mm,
                out / files[-1],
                title=f"Phantom at {phase}, frame {index + 1} of {PHASES}",
                reference=cine.mask[..., index],
            )
    times_ms = [1000 * spec.frame_time_s * index for index in range(PHASES)]
    curves = {
        "LV": [found.lv_ml for found in volumes],
        "LV true": list(truth.lv_volume_ml),
        "RV": [found.rv_ml for found in volumes],
        "RV true": list(truth.rv_volume_ml),
    }
    files.append("volume_curves.png")
    plots.volume_curves(times_ms, curves, out / files[-1], xlabel="time after the R wave (ms)")
    ed, es = volumes[truth.ed_frame], volumes[truth.es_frame]
    numbers = {
        "lv_edv_ml": (ed.lv_ml, truth.lv_edv_ml),
        "lv_esv_ml": (es.lv_ml, truth.lv_esv_ml),
        "lv_ef_percent": (ef_percent(ed.lv_ml, es.lv_ml), truth.lv_ef_percent),
        "rv_edv_ml": (ed.rv_ml, truth.rv_edv_ml),
        "rv_esv_ml": (es.rv_ml, truth.rv_esv_ml),
        "rv_ef_percent": (ef_percent(ed.rv_ml, es.rv_ml), truth.rv_ef_percent),
        "myo_volume_ml": (ed.myo_ml, truth.myo_volume_ml),
    }
    files.append("measurements.json")
    content = {name: {"measured": measured, "true": true} for name, (measured, true) in numbers.items()}
    write_json(content, out / files[-1])
    return {"numbers": content, "files": [*files, "frames/", "masks/"]}


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'':16}{'measured':>10}{'true':>10}"]
    for name, pair in found["numbers"].items():
        lines.append(f"{name:16}{pair['measured']:10.1f}{pair['true']:10.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.main(demo, "demo.py"))

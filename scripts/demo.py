"""Make a synthetic beating heart, segment its whole cycle, and hold the numbers against the truth. Needs no data."""

import sys
from pathlib import Path
from typing import Any

import cli

# Small enough for a minute on two cores, enough for a curve.
PHASES = 16
COMPARED = ("lv_edv_ml", "lv_esv_ml", "lv_ef_percent", "rv_edv_ml", "rv_esv_ml", "rv_ef_percent", "lv_mass_g")


def demo(*, output_dir: str = "demo", lv_ef_percent: float = 60.0, seed: int = 1, ckpt_path: str | None = None) -> int:
    """Segment a phantom cine, once as NIfTI and once as DICOM, and print volumes and EF beside the true ones.

    Writes the phantom, and for each form what segment.py writes: masks, measurements and a report to open in a browser;
    for the DICOM form Segmentation objects and a structured report, too.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        output_dir: folder for everything.
        lv_ef_percent: ejection fraction of the phantom's left ventricle.
        seed: another seed gives another noise, breathing and thorax.
        ckpt_path: weights to use instead of the bundle's models/model.pt.
    """
    from cardiac_cine.datasets.phantom import render, write_cine
    from cardiac_cine.datasets.phantom_dicom import write_dicom
    from cardiac_cine.datasets.phantom_spec import PhantomSpec
    from cardiac_cine.results import REPORT, read_measurements
    from cardiac_cine.segmenter import Segmenter
    from cardiac_cine.studies import find_studies
    from cardiac_cine.workflow import Workflow

    out = Path(output_dir)
    segmenter = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=ckpt_path)
    spec = PhantomSpec(lv_ef_percent=lv_ef_percent, phases=PHASES, seed=seed)
    phantom = render(spec)
    nifti, dicom = out / "phantom_4d.nii.gz", out / "phantom_dicom"
    write_cine(phantom, nifti, out / "phantom_4d_gt.nii.gz")
    write_dicom(phantom, dicom, patient_id="phantom", patient_sex="F", patient_height_cm=168.0, patient_weight_kg=64.0)
    folders = []
    for path, name in ((nifti, "from_nifti"), (dicom, "from_dicom")):
        found = find_studies(path)
        workflow = Workflow(segmenter, out / name, {"dicom_seg": path is dicom, "overwrite": True})
        workflow.run(found).check()
        folders.append(out / name / found.studies[0].name)
    print(_table([read_measurements(folder) or {} for folder in folders], spec.truth().to_dict()))
    print("\nOpen in a browser:")
    for folder in folders:
        print(f"  {(folder / REPORT.format(case=folder.name)).resolve()}")
    return cli.DONE


def _table(measured: list[dict[str, Any]], truth: dict[str, Any]) -> str:
    lines = [f"{'':16}{'from NIfTI':>12}{'from DICOM':>12}{'true':>10}"]
    for key in COMPARED:
        values = [content[key] for content in measured]
        lines.append(f"{key:16}" + "".join(f"{value:12.1f}" for value in values) + f"{truth[key]:10.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.main(demo, "demo.py"))

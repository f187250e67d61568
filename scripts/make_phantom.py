"""Make beating-heart phantoms whose volumes and ejection fractions are known exactly."""

import dataclasses
import sys
from pathlib import Path

import cli


def acdc(out: str, *, patients: int = 10, seed: int = 0, cines: bool = False) -> None:
    """Write PATIENTS phantoms into the folder OUT, laid out as ACDC's training split, and OUT/truth.json.

    The pathology groups NOR, MINF, DCM, HCM and RV take turns. Each patientXXX has Info.cfg, the frames at
    end-diastole and end-systole, and their references. The same seed gives the same voxels.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        out: folder to write to, made where missing.
        patients: how many, 1 to 999.
        seed: of the first patient; the others count up from it.
        cines: write each patient's whole cycle too, as patientXXX_4d.nii.gz.
    """
    from cardiac_cine.datasets import phantom
    from cardiac_cine.files import write_json

    truths = phantom.write_acdc(out, patients, seed, cines=cines)
    path = Path(out) / "truth.json"
    write_json({patient: truth.to_dict() for patient, truth in truths.items()}, path)
    print(f"{out}: {len(truths)} patients, their volumes in {path.name}")


def cine(
    out: str,
    *,
    group: str | None = None,
    seed: int = 0,
    lv_edv_ml: float | None = None,
    lv_ef_percent: float | None = None,
    rv_edv_ml: float | None = None,
    rv_ef_percent: float | None = None,
    lv_mass_g: float | None = None,
    heart_rate_bpm: float | None = None,
    phases: int | None = None,
    slices: int | None = None,
    shape: tuple[int, int] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    noise_sd: float | None = None,
    respiratory_shift_mm: float | None = None,
) -> None:
    """Write one phantom's whole cycle as the 4D NIfTI file OUT, its masks and its true volumes beside it.

    For OUT heart.nii.gz, the masks are heart_gt.nii.gz and the volumes heart_truth.json. What is not given is drawn at
    random for the group; the same seed gives the same voxels.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        out: file to write, .nii or .nii.gz.
        group: NOR, MINF, DCM, HCM or RV. Default: drawn.
        seed: of all that is random.
        lv_edv_ml: end-diastolic volume of the left ventricle.
        lv_ef_percent: its ejection fraction.
        rv_edv_ml: end-diastolic volume of the right ventricle.
        rv_ef_percent: its ejection fraction.
        lv_mass_g: mass of the left ventricle's wall.
        heart_rate_bpm: beats a minute.
        phases: frames in the cycle, at least 2.
        slices: default: enough for the heart.
        shape: pixels along x and y, as 216,256.
        spacing_mm: along x, y and z, as 1.4,1.4,8.
        noise_sd: of the noise, as a part of the blood's signal.
        respiratory_shift_mm: standard deviation of the slices' shifts.
    """
    given = {
        "lv_edv_ml": lv_edv_ml,
        "lv_ef_percent": lv_ef_percent,
        "rv_edv_ml": rv_edv_ml,
        "rv_ef_percent": rv_ef_percent,
        "lv_mass_g": lv_mass_g,
        "heart_rate_bpm": heart_rate_bpm,
        "phases": phases,
        "slices": slices,
        "shape": shape,
        "spacing_mm": spacing_mm,
        "noise_sd": noise_sd,
        "respiratory_shift_mm": respiratory_shift_mm,
    }
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}
    from cardiac_cine.datasets import phantom
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json

    path = Path(out)
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    suffix = path.name.removeprefix(stem)
    if suffix not in (".nii", ".nii.gz"):
        raise InputError(f"{path}: expected a name that ends in .nii or .nii.gz")
    rendered = phantom.render(phantom.random_spec(seed, group, **fields))
    mask, truth = (path.with_name(stem + ending) for ending in (f"_gt{suffix}", "_truth.json"))
    phantom.write_cine(rendered, path, mask)
    write_json({**rendered.truth.to_dict(), "spec": dataclasses.asdict(rendered.spec)}, truth)
    print(f"{path}: {rendered.spec.phases} frames, masks in {mask.name}, volumes in {truth.name}")


if __name__ == "__main__":
    sys.exit(cli.main({"acdc": acdc, "cine": cine}, "make_phantom.py"))

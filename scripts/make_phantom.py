"""Make beating-heart phantoms whose volumes and ejection fractions are known exactly."""

import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import fire
from fire.core import FireExit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

DONE, WRONG_INPUT, FAILED = range(3)


@dataclasses.dataclass(frozen=True)
class Acdc:
    """A folder of patients to make."""

    out: Path
    patients: int
    seed: int
    cines: bool

    def make(self) -> None:
        """Write the patients and the JSON of what is true of them."""
        from cardiac_cine.datasets import phantom

        truths = phantom.write_acdc(self.out, self.patients, self.seed, cines=self.cines)
        path = self.out / "truth.json"
        _write_json({patient: truth.to_dict() for patient, truth in truths.items()}, path)
        print(f"{self.out}: {len(truths)} patients, their volumes in {path.name}")


@dataclasses.dataclass(frozen=True)
class Cine:
    """One cine to make."""

    out: Path
    group: str | None
    seed: int
    fields: dict[str, Any]

    def make(self) -> None:
        """Write the cine, its masks and the JSON of what is true of it."""
        from cardiac_cine.datasets import phantom
        from cardiac_cine.errors import InputError

        stem = self.out.name.removesuffix(".gz").removesuffix(".nii")
        suffix = self.out.name.removeprefix(stem)
        if suffix not in (".nii", ".nii.gz"):
            raise InputError(f"{self.out}: expected a name that ends in .nii or .nii.gz")
        cine = phantom.render(phantom.random_spec(self.seed, self.group, **self.fields))
        mask, truth = (self.out.with_name(stem + ending) for ending in (f"_gt{suffix}", "_truth.json"))
        phantom.write_cine(cine, self.out, mask)
        _write_json({**cine.truth.to_dict(), "spec": dataclasses.asdict(cine.spec)}, truth)
        print(f"{self.out}: {cine.spec.phases} frames, masks in {mask.name}, volumes in {truth.name}")


def acdc(out: str, *, patients: int = 10, seed: int = 0, cines: bool = False) -> Acdc:
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
    return Acdc(Path(out), patients, seed, cines)


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
) -> Cine:
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
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Cine(Path(out), group, seed, {key: value for key, value in fields.items() if value is not None})


def _write_json(content: dict[str, Any], path: Path) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(json.dumps(content, indent=1))
    staged.replace(path)


def _command() -> list[str]:
    """Return the arguments with OUT quoted, so that Fire does not read a folder named 2024_01 as the number 202401."""
    name, *rest = sys.argv[1:] or ["--help"]
    out = [repr(value) for value in rest[:1] if not value.startswith("-")]
    return [name, *out, *rest[len(out) :]]


def main() -> int:
    """Parse the command line, make what it asks for and return the exit code."""
    # Fire only parses: it complains about a superfluous argument after the call, and nothing may be written by then.
    try:
        commands = {"acdc": acdc, "cine": cine}
        job = fire.Fire(commands, command=_command(), name="make_phantom.py", serialize=lambda _: None)
    except FireExit as stop:
        return WRONG_INPUT if stop.code else DONE
    from cardiac_cine.errors import InputError

    try:
        job.make()
    except InputError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED
    except Exception:  # any other error means the exit code of failure, which is not Python's own
        traceback.print_exc()
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())

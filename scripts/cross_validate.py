"""Train and evaluate the five folds, so that every patient is predicted by a network that did not see them."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli

if TYPE_CHECKING:
    from cardiac_cine.cases import Datalist

REPORT = "evaluation.json"


def cross_validate(
    dataset_dir: str,
    *,
    output_dir: str = "cross_validation",
    max_minutes: float = 120.0,
    folds: int = 5,
    options: str = "",
) -> int:
    """Train FOLDS folds of DATASET_DIR for MAX_MINUTES each, and write OUTPUT_DIR/evaluation.md over all patients.

    Every fold is one run of train.json and one of evaluate.json in OUTPUT_DIR/foldN. Run again after an interruption,
    it goes on where it was: a fold that is evaluated stays, one that is half trained is resumed. An evaluation of
    another split, of other weights than the fold's, or of other frames than DATASET_DIR has in the fold is refused.
    Fewer than five folds evaluate the patients of those folds alone.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: a raw ACDC root, or a folder that prepare_dataset.py wrote.
        output_dir: folder for weights, reports and the table over all folds.
        max_minutes: of training, for each fold.
        folds: how many of the five.
        options: further options of the training, quoted as on its command line: --options="--learning_rate 0.001".
    """
    from cardiac_cine.cases import NUM_FOLDS
    from cardiac_cine.datasets import open_datalist
    from cardiac_cine.errors import InputError
    from cardiac_cine.report import read_about, read_evaluation, write_evaluation

    if not 1 <= folds <= NUM_FOLDS:
        raise InputError(f"folds is {folds}, expected 1 to {NUM_FOLDS}")
    datalist = open_datalist(dataset_dir)
    out = Path(output_dir)
    folders = [out / f"fold{fold}" for fold in range(folds)]
    untrained = [folder for folder in folders if not (folder / REPORT).is_file()]
    problems = [text for folder in folders if folder not in untrained for text in _problems(folder, datalist)]
    if problems:
        raise InputError(problems)
    given = _words(options)
    for folder in untrained:
        common = ["--dataset_dir", dataset_dir, "--split", folder.name, "--ckpt_dir", str(folder), *given]
        common += ["--output_dir", str(folder)]
        resume = ["--resume", "true"] if (folder / "checkpoint.pt").is_file() else []
        _run(["train.json"], [*common, "--max_minutes", str(max_minutes), *resume])
        _run(["train.json", "evaluate.json"], [*common, "--overlays", "false"])
    results = [result for folder in folders for result in read_evaluation(folder / REPORT)]
    about = {"folds": folds, **_together([read_about(folder / REPORT) for folder in folders])}
    if untrained:
        names = ", ".join(folder.name for folder in untrained)
        about |= {"trained by this call": names, "minutes of training each": max_minutes, "options": options}
    content = write_evaluation(results, out, about)
    print(f"mean Dice {content['mean_dice']:.4f} over {len(results)} frames: {out / 'evaluation.md'}")
    return cli.DONE


def _problems(folder: Path, datalist: "Datalist") -> list[str]:
    """Say why an evaluation that lies in a fold's folder is not that of the fold's weights on the fold's patients."""
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import sha256
    from cardiac_cine.report import read_about, read_evaluation

    report, model = folder / REPORT, folder / "model.pt"
    try:
        about, results = read_about(report), read_evaluation(report)
        expected = {case.name for case in datalist.section(folder.name, "validation")}
    except InputError as error:
        return list(error.problems)
    problems = []
    if about.get("split") != folder.name:
        problems.append(f"{report}: evaluates split {about.get('split')!r}, expected {folder.name!r}")
    evaluated = about.get("weights sha256")
    if model.is_file() and evaluated != sha256(model):
        problems.append(f"{model}: has SHA-256 {sha256(model)}, expected {evaluated} as evaluated in {report}")
    differing = sorted(expected ^ {result.case for result in results})
    if differing:
        problems.append(
            f"{report}: evaluates {len(results)} frames, expected the {len(expected)} of {datalist.name} in"
            f" {folder.name}; in one alone: {', '.join(differing)}"
        )
    return problems


def _together(abouts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what the folds' reports say of themselves, each value once."""
    keys = dict.fromkeys(key for about in abouts for key in about)
    return {key: ", ".join(dict.fromkeys(about[key] for about in abouts if key in about)) for key in keys}


def _words(options: str) -> list[str]:
    from cardiac_cine.errors import InputError

    try:
        return shlex.split(options)
    except ValueError as error:
        raise InputError(f"options is {options!r}: {error}; expected what a shell takes") from None


def _run(configs: list[str], options: list[str]) -> None:
    """Run configs of the bundle, merged in order.

    Raises:
        RuntimeError: the run failed; it has printed why.
    """
    files = str([str(cli.BUNDLE / "configs" / name) for name in configs])
    command = ["-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", str(cli.BUNDLE), *options]
    if subprocess.run([sys.executable, *command]).returncode:
        raise RuntimeError(f"{' and '.join(configs)} failed with {shlex.join(options)}")


if __name__ == "__main__":
    sys.exit(cli.main(cross_validate, "cross_validate.py"))

"""Train and evaluate the five folds, so that every patient is predicted by a network that did not see them."""

import subprocess
import sys
from pathlib import Path

import cli


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
    it goes on where it was: a fold that is evaluated stays, one that is half trained is resumed. Fewer than five folds
    evaluate the patients of those folds alone.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        dataset_dir: a raw ACDC root, or a folder that prepare_dataset.py wrote.
        output_dir: folder for weights, reports and the table over all folds.
        max_minutes: of training, for each fold.
        folds: how many of the five.
        options: further options of the training, as on its command line: --options="--learning_rate 0.001 --seed 1".
    """
    from cardiac_cine.cases import NUM_FOLDS
    from cardiac_cine.errors import InputError
    from cardiac_cine.report import read_evaluation, write_evaluation
    from cardiac_cine.weights import sha256, versions

    if not 1 <= folds <= NUM_FOLDS:
        raise InputError(f"folds is {folds}, expected 1 to {NUM_FOLDS}")
    out = Path(output_dir)
    results = []
    weights = []
    for fold in range(folds):
        folder = out / f"fold{fold}"
        report = folder / "evaluation.json"
        if not report.is_file():
            common = [
                "--dataset_dir",
                dataset_dir,
                "--split",
                f"fold{fold}",
                "--ckpt_dir",
                str(folder),
                *options.split(),
            ]
            common += ["--output_dir", str(folder)]
            resume = ["--resume", "true"] if (folder / "checkpoint.pt").is_file() else []
            _run(["train.json"], [*common, "--max_minutes", str(max_minutes), *resume])
            _run(["train.json", "evaluate.json"], [*common, "--overlays", "false"])
        results += read_evaluation(report)
        weights.append(sha256(folder / "model.pt"))
    about = {"dataset": dataset_dir, "folds": folds, "minutes of training each": max_minutes, "options": options}
    content = write_evaluation(results, out, {**about, "weights sha256": ", ".join(weights), **versions()})
    print(f"mean Dice {content['mean_dice']:.4f} over {len(results)} frames: {out / 'evaluation.md'}")
    return cli.DONE


def _run(configs: list[str], options: list[str]) -> None:
    """Run configs of the bundle, merged in order.

    Raises:
        RuntimeError: the run failed; it has printed why.
    """
    files = str([str(cli.BUNDLE / "configs" / name) for name in configs])
    command = ["-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", str(cli.BUNDLE), *options]
    if subprocess.run([sys.executable, *command]).returncode:
        raise RuntimeError(f"{' and '.join(configs)} failed with {' '.join(options)}")


if __name__ == "__main__":
    sys.exit(cli.main(cross_validate, "cross_validate.py"))

"""Simulate an annotator, and measure how much better the app's training gets with more labels."""

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import cli
from benchmark import write_random_weights

sys.path.insert(0, str(cli.BUNDLE.parent))

VAL_FRACTION = 0.2


def simulate(
    acdc_dir: str,
    *,
    output_dir: str = "simulated_annotation",
    strategy: str = "random",
    few: int = 2,
    many: int = 10,
    unseen: int = 10,
    iterations: int = 400,
    seed: int = 0,
) -> int:
    """Label FEW and then MANY patients with ACDC's references, train on each, and measure Dice on UNSEEN others.

    The patients come in the order of the app's strategy, their labels are saved and trained on through the app's own
    classes, from random weights and as many ITERATIONS each. One seed gives one result. Writes
    OUTPUT_DIR/simulated_annotation.json and prints a table.

    Exit codes: 0 done, 1 wrong input, 2 failed.

    Args:
        acdc_dir: a raw ACDC root.
        output_dir: the app's state, with every run.
        strategy: name of one that needs no scores, such as random.
        few: patients labelled before the first training.
        many: patients labelled before the second.
        unseen: patients to measure on.
        iterations: about how many steps each training takes, at least one epoch.
        seed: of the choice of patients, of the splits and of the weights.
    """
    cli.check_app()
    import numpy as np

    from cardiac_cine import cases, markdown
    from cardiac_cine.annotation.label_training import BATCH_SIZE
    from cardiac_cine.annotation.model_versions import ModelVersions
    from cardiac_cine.annotation.training_runs import WEIGHTS, dice_by_structure
    from cardiac_cine.datasets import acdc
    from cardiac_cine.errors import InputError
    from cardiac_cine.files import write_json
    from cardiac_cine.labels import STRUCTURE_KEYS
    from cardiac_cine.segmenter import Segmenter
    from monailabel_app.lib.datastore import FINAL, CineDatastore
    from monailabel_app.lib.sources import open_source
    from monailabel_app.lib.state import State
    from monailabel_app.lib.strategies import all_strategies
    from monailabel_app.lib.training import CineTraining

    if not 2 <= few < many:
        raise InputError(f"few is {few} and many is {many}, expected 2 or more and more than that")
    datalist, _ = acdc.scan(Path(acdc_dir))
    held_back = datalist.section(acdc.TUTORIAL_SPLIT, "validation")
    measured = cases.stratified({case.patient: case.group for case in held_back}, unseen, seed)
    frames = [case for case in held_back if case.patient in measured]
    pool = datalist.section(acdc.TUTORIAL_SPLIT, "training")
    references = {case.name: case.label for case in pool}
    out = Path(output_dir).absolute()
    with tempfile.TemporaryDirectory() as studies:
        for case in pool:
            folder = Path(studies) / case.patient
            folder.mkdir(exist_ok=True)
            for path in (case.image, case.image.parent / "Info.cfg"):
                if not (folder / path.name).exists():
                    (folder / path.name).symlink_to(path.absolute())
        state = State(out)
        models = ModelVersions(state.models, state.lock, cli.BUNDLE)
        datastore = CineDatastore(open_source(studies, state.cache), state)
        training = CineTraining(state, models, cli.BUNDLE, {})
        choose = all_strategies(state, models)[strategy]
        results = {}
        for count in (few, many, 0):
            labelled = {entry.patient for entry in datastore.entries() if datastore.get_label_uri(entry.id, FINAL)}
            while len(labelled) < count:
                sample = choose({"client_id": "simulated", "seed": seed + len(labelled)}, datastore)
                patient = datastore.entry(sample["id"]).patient
                for entry in datastore.entries():
                    if entry.patient == patient:
                        datastore.save_label(entry.id, str(references[entry.case]), FINAL, {})
                state.worklist.release(sample["id"])
                labelled.add(patient)
            about: dict[str, Any] = {}
            weights = out / "untrained.pt"
            if count == 0:
                write_random_weights(weights, seed)
            else:
                depths = [len(datastore.annotated(image_id, FINAL).slices) for image_id in datastore.labels.all(FINAL)]
                trained = 1 - max(1, round(VAL_FRACTION * count)) / count
                epochs = math.ceil(iterations / math.ceil(sum(depths) * trained / BATCH_SIZE))
                request = {"initial": "scratch", "max_epochs": epochs, "max_minutes": 24 * 60, "seed": seed}
                request |= {"val_fraction": VAL_FRACTION, "publish": False, "device": "cpu"}
                about = training(request, datastore)
                weights = training.runs.folder / about["run"] / WEIGHTS
            segmenter = Segmenter.from_bundle(cli.BUNDLE, ckpt_path=weights, device="cpu")
            dice = dice_by_structure(segmenter, frames)
            by_structure = dict(zip(STRUCTURE_KEYS, np.nanmean(dice, 0).tolist(), strict=True))
            results[count] = {"mean": float(np.nanmean(dice, 1).mean()), **by_structure, "training": about}
            print(f"{count} patients labelled: mean Dice {results[count]['mean']:.3f}", flush=True)
    write_json({"command": sys.argv, "unseen": measured, "results": results}, out / "simulated_annotation.json")
    rows = [
        [str(count), *(f"{found[key]:.3f}" for key in ("mean", "lv", "rv", "myo"))]
        for count, found in sorted(results.items())
    ]
    print(markdown.table(["Patients labelled", "Dice", "LV", "RV", "MYO"], rows))
    print(f"{len(frames)} frames of {len(measured)} unseen patients; Dice is the mean over frames")
    return cli.DONE


if __name__ == "__main__":
    raise SystemExit(cli.main(simulate, "simulate_annotation.py"))

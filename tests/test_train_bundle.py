"""The shipped training and evaluation configs, really run, on phantoms."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import BUNDLE, REPO
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cardiac_cine.errors import InputError

TRAIN = BUNDLE / "configs" / "train.json"
EVALUATE = BUNDLE / "configs" / "evaluate.json"


def workflow(overrides: dict, *configs: Path, kind: str = "train") -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(path) for path in configs or (TRAIN,)],
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **overrides,
    )


def train(overrides: dict, out: Path, **more) -> ConfigWorkflow:
    flow = workflow({**overrides, "output_dir": str(out / "eval"), "ckpt_dir": str(out / "models"), **more})
    flow.initialize()
    flow.run()
    return flow


@pytest.fixture(scope="module")
def trained(small_training, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(small_training, out, max_epochs=4)
    return out


def checkpoint(out: Path) -> dict:
    return torch.load(out / "models" / "checkpoint.pt", weights_only=True)


def assert_same(first, second):
    """Compare nested state, bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.mark.parametrize("configs", [(TRAIN,), (TRAIN, EVALUATE)])
def test_properties_are_complete(small_training, configs):
    flow = workflow(small_training, *configs)
    flow.initialize()
    assert flow.check_properties() == []


def test_training_leaves_weights_curves_and_events(trained):
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert (trained / "eval" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list((trained / "models").glob("*.tmp*"))
    tags = set()
    for events in (trained / "eval").glob("events.out.tfevents.*"):
        tags |= set(EventAccumulator(str(events)).Reload().Tags()["scalars"])
    structures = ("rv", "myo", "lv")
    expected = {f"{side}_dice_{key}" for side in ("train", "val") for key in structures}
    assert expected | {"train_loss", "val_loss", "val_mean_dice"} <= tags


def test_the_network_learns(trained):
    records = checkpoint(trained)["curves"]["records"]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert records[-1]["train_loss"] < 0.8 * records[0]["train_loss"]


def test_a_resumed_run_equals_an_unbroken_one(trained, small_training, tmp_path):
    flow = workflow(
        {
            **small_training,
            "output_dir": str(tmp_path / "eval"),
            "ckpt_dir": str(tmp_path / "models"),
            "max_epochs": 4,
        }
    )
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")

    def break_off(engine):
        raise KeyboardInterrupt

    # In the middle of the third epoch: its work is lost, and the resumed run does it again.
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2 * trainer.state.epoch_length + 2), break_off)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        flow.run()
    assert checkpoint(tmp_path)["trainer"]["epoch_length"] * 2 == checkpoint(tmp_path)["trainer"]["iteration"]
    train(small_training, tmp_path, max_epochs=4, resume=True)
    unbroken, resumed = checkpoint(trained), checkpoint(tmp_path)
    for state in (unbroken, resumed):
        assert state.pop("budget")["minutes"] > 0
    assert_same(unbroken, resumed)
    assert_same(*(torch.load(out / "models" / "model.pt", weights_only=True) for out in (trained, tmp_path)))


def test_a_seed_gives_one_result_and_another_seed_another(trained, small_training, tmp_path):
    train(small_training, tmp_path / "again", max_epochs=4)
    assert_same(checkpoint(trained)["network"], checkpoint(tmp_path / "again")["network"])
    train(small_training, tmp_path / "other", max_epochs=4, seed=1)
    other = checkpoint(tmp_path / "other")["network"]
    assert any(not torch.equal(value, other[key]) for key, value in checkpoint(trained)["network"].items())


def test_minutes_end_the_run_validated_and_annealed(small_training, tmp_path):
    flow = train(small_training, tmp_path, max_epochs=10_000, max_minutes=0.15)
    trainer = flow.parser.get_parsed_content("train#trainer")
    evaluator = flow.parser.get_parsed_content("validate#evaluator")
    assert 1 < trainer.state.epoch < 10_000
    assert evaluator.state.epoch == trainer.state.epoch
    assert trainer.optimizer.param_groups[0]["lr"] < 0.1 * flow.parser.get_parsed_content("learning_rate")
    assert (tmp_path / "models" / "model.pt").is_file()


def test_minutes_count_from_the_start_of_the_bundle(small_training, tmp_path):
    flow = workflow({**small_training, "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path)})
    before = time.monotonic()
    flow.initialize()
    after = time.monotonic()
    flow.parser.get_parsed_content("train#dataset")
    assert before <= flow.parser.get_parsed_content("train#budget")._started <= after


def test_weights_of_another_run_are_kept(small_training, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"another run's")
    train(small_training, tmp_path, max_epochs=1)
    assert (tmp_path / "models" / "model.previous.pt").read_bytes() == b"another run's"
    assert torch.load(tmp_path / "models" / "model.pt", weights_only=True)


def test_resuming_from_nothing_is_an_error(small_training, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        train(small_training, tmp_path, resume=True)
    # MONAI wraps what an expression raises.
    assert isinstance(caught.value.__cause__, InputError)
    assert "checkpoint.pt: no such file" in str(caught.value.__cause__)


@pytest.mark.parametrize("context", [0, 1])
def test_training_starts_from_the_weights_given(small_training, tmp_path, context):
    flow = workflow({**small_training, "context": context})
    flow.initialize()
    network = flow.parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "initial.pt")
    still = {"context": context, "learning_rate": 1e-9, "weight_decay": 0, "max_epochs": 1, "seed": 5}
    train(small_training, tmp_path, **still, initial_weights=str(tmp_path / "initial.pt"))
    for name, value in torch.load(tmp_path / "models" / "model.pt", weights_only=True).items():
        torch.testing.assert_close(value, network.state_dict()[name], atol=1e-6, rtol=0)


def test_weights_to_start_from_have_to_fit(small_training, tmp_path):
    torch.save({"layer": torch.zeros(2)}, tmp_path / "initial.pt")
    with pytest.raises(RuntimeError) as caught:
        train(small_training, tmp_path, initial_weights=str(tmp_path / "initial.pt"))
    assert "initial.pt: lacks" in str(caught.value.__cause__)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("root", [".", str(BUNDLE)], ids=["from the bundle root", "from elsewhere"])
def test_the_promised_commands_train_evaluate_and_segment(small_training, tmp_path, root):
    where = BUNDLE if root == "." else tmp_path
    options = {**small_training, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    if root == ".":
        del options["bundle_root"]  # the configs' own default
    train_json, evaluate_json, inference_json = (
        f"{root}/configs/{name}.json" for name in ("train", "evaluate", "inference")
    )
    segment = {
        "ckpt_path": tmp_path / "models" / "model.pt",
        "output_dir": tmp_path / "masks",
        **{key: options[key] for key in ("bundle_root", "dataset_dir", "filters", "spacing_mm") if key in options},
    }
    for configs, given in (
        (train_json, options),
        (f"['{train_json}','{evaluate_json}']", options),
        (inference_json, segment),
    ):
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs]
        command += [f"--{key}={value}" for key, value in given.items()]
        subprocess.run(command, check=True, cwd=where, capture_output=True)
    out = tmp_path / "out"
    content = json.loads((out / "evaluation.json").read_text())
    assert content["about"]["split"] == "tutorial"
    assert [(cell["phase"], cell["structure"]) for cell in content["summary"]] == [
        (phase, structure) for phase in ("ED", "ES") for structure in ("lv", "rv", "myo")
    ]
    with (out / "frames.csv").open() as file:
        assert {row["case"][:10] for row in csv.DictReader(file)} == {"patient005"}
    overlays = sorted(path.name for path in (out / "overlays").iterdir())
    assert len(overlays) == 2
    assert overlays[0].startswith("001_patient005_frame")
    masks = sorted((tmp_path / "masks").glob("*/*_seg.nii.gz"))
    assert len(masks) == 10  # ED and ES of five patients, and no reference among them


def test_evaluation_names_weights_that_do_not_fit(trained, small_training, tmp_path):
    other = {**small_training, "filters": [4, 8, 8], "output_dir": str(tmp_path)}
    for path, message in (
        (trained / "models" / "model.pt", "differs in shape"),
        (tmp_path / "none.pt", "none.pt: no such file"),
    ):
        flow = workflow({**other, "ckpt_path": str(path)}, TRAIN, EVALUATE)
        flow.initialize()
        with pytest.raises(RuntimeError) as caught:
            flow.run()
        assert isinstance(caught.value.__cause__, InputError)
        assert message in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


def test_evaluation_agrees_with_inference(trained, small_training, tmp_path):
    """The masks that evaluate.json judges are those that inference.json writes."""
    import nibabel as nib
    import numpy as np

    from cardiac_cine.datasets import sections

    weights = str(trained / "models" / "model.pt")
    flow = workflow(
        {**small_training, "output_dir": str(tmp_path), "ckpt_path": weights, "overlays": False}, TRAIN, EVALUATE
    )
    flow.initialize()
    judged = {}
    evaluator = flow.parser.get_parsed_content("validate#evaluator")

    def keep(engine):
        for output in engine.state.output:
            judged[Path(output["image"].meta["filename_or_obj"]).name] = np.asarray(output["pred"][0])

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
    flow.run()
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    unseen = sections(small_training["dataset_dir"], "tutorial", ["validation"])["validation"]
    frames = [Path(item["image"]) for item in unseen]
    shared = {key: small_training[key] for key in ("bundle_root", "filters", "spacing_mm", "crop_size", "device")}
    parser.update({**shared, "dataset_dir": str(frames[0].parent), "output_dir": str(tmp_path / "inferred")})
    parser.update({"ckpt_path": weights})
    inference = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        logging_file=False,
        **shared,
        dataset_dir=str(frames[0].parent),
        output_dir=str(tmp_path / "inferred"),
        ckpt_path=weights,
    )
    inference.initialize()
    inference.run()
    for frame in frames:
        name = frame.name.removesuffix(".nii.gz")
        written = np.asarray(nib.load(tmp_path / "inferred" / name / f"{name}_seg.nii.gz").dataobj)
        np.testing.assert_array_equal(judged[frame.name], written)


def test_training_and_inference_share_what_they_must():
    roots = []
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(str(BUNDLE / "configs" / f"{name}.json"))
        roots.append(parser)
    training, inference = roots
    keys = ("network_def", "filters", "spacing_mm", "crop_size", "context", "inference_batch_size")
    for key in (*keys, "percentiles", "scale", "scale_intensity"):
        assert training[key] == inference[key], key
    evaluation = json.loads(EVALUATE.read_text())

    def steps(transforms):
        """Transforms as applied to the image alone."""
        return [
            step if isinstance(step, str) else {k: v for k, v in step.items() if k not in ("keys", "mode")}
            for step in transforms
        ]

    expected = steps(inference["preprocessing#transforms"])
    assert steps(evaluation["validate#preprocessing"]["transforms"]) == expected
    assert steps(training["load#transforms"]) == expected
    assert training["validate#inferer"] == inference["inferer"]
    shared = [step for step in inference["postprocessing#transforms"] if step["_target_"] != "SaveImaged"]
    judged = evaluation["validate#postprocessing"]["transforms"]
    assert [step["_target_"] for step in judged] == [step["_target_"] for step in shared]
    assert judged[-2:] == shared[-2:]
    assert evaluation["min_basal_rv"] == inference["min_basal_rv"]


def test_bad_data_are_listed_before_training_starts(small_training, phantom_acdc, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(phantom_acdc, broken)
    images = sorted(broken.glob("patient00[15]/*frame01.nii.gz"))  # one trains, the other validates
    assert len(images) == 2
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:500])
    run = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(TRAIN)]
    options = {**small_training, "dataset_dir": broken, "output_dir": tmp_path, "ckpt_dir": tmp_path / "models"}
    done = subprocess.run(
        [*run, *(f"--{key}={value}" for key, value in options.items())], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "2 problems in the datalist's files" in done.stderr
    for image in images:
        assert str(image) in done.stderr
    assert not (tmp_path / "models").exists()

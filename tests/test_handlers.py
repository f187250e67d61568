import json
import logging
import resource
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator

from cardiac_cine.errors import InputError
from cardiac_cine.handlers import (
    Attach,
    Checkpoints,
    Curves,
    EarlyStop,
    Evaluation,
    PooledDice,
    ValidationHandler,
    batches,
)
from cardiac_cine.losses import leave_open
from cardiac_cine.weights import load_checkpoint


def test_batches_are_picked_from_both_kinds_of_output():
    whole = {"pred": torch.arange(6.0).reshape(2, 3), "label": torch.zeros(2, 1)}
    pieces = [{key: value[index] for key, value in whole.items()} for index in range(2)]
    pick = batches(["pred", "label"])
    for output in (whole, pieces):
        pred, label = pick(output)
        assert torch.equal(pred, whole["pred"])
        assert label.shape == (2, 1)


def test_pooled_dice_counts_all_voxels_of_the_epoch_together():
    # Frame 1: LV predicted on 2 of its 4 voxels. Frame 2: LV predicted on 3 voxels, 1 of them right, of 1.
    # Pooled: 2 * (2 + 1) / (2 + 3 + 4 + 1) = 0.6. MYO is in no mask.
    frames = [
        ([3, 3, 0, 0, 1], [3, 3, 3, 3, 1]),
        ([3, 3, 3, 0, 0], [3, 0, 0, 0, 1]),
    ]
    metric = PooledDice("val_dice", lambda output: output)
    for predicted, expected in frames:
        scores = torch.nn.functional.one_hot(torch.tensor([predicted]), 4).movedim(-1, 1).float()
        metric.update(metric._output_transform((scores, torch.tensor([[expected]]))))
    found = metric.compute()
    assert found["val_dice_lv"] == pytest.approx(0.6)
    assert found["val_dice_rv"] == pytest.approx(2 / 3)
    assert found["val_dice_myo"] != found["val_dice_myo"]


def test_pooled_dice_leaves_out_what_a_label_leaves_open():
    metric = PooledDice("d", lambda output: output)
    scores = torch.nn.functional.one_hot(torch.tensor([[3, 3, 1, 0]]), 4).movedim(-1, 1).float()
    label = leave_open(torch.tensor([[[3, 0, 0, 0]]], dtype=torch.uint8), (2, 3))
    metric.update(metric._output_transform((scores, label)))
    assert metric.compute()["d_lv"] == 1  # the second pixel may be RV, for all the label says
    assert metric.compute()["d_rv"] != metric.compute()["d_rv"]


class CountingEvaluator(Evaluator):
    """Runs nothing but remembers the epochs it was asked for."""

    def __init__(self):
        super().__init__(device="cpu", val_data_loader=[0])
        self.epochs = []

    def run(self, global_epoch=1):
        self.epochs.append(global_epoch)


@pytest.mark.parametrize(
    ("epochs", "stop_after", "expected"), [(7, None, [1, 3, 6, 7]), (6, None, [1, 3, 6]), (9, 4, [1, 3, 4])]
)
def test_validation_runs_at_the_interval_and_at_both_ends(epochs, stop_after, expected):
    evaluator = CountingEvaluator()
    trainer = Engine(lambda *_: None)
    stop = SimpleNamespace(
        attach=lambda engine: engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: e.terminate() if e.state.epoch == stop_after else None
        )
    )
    Attach(stop).attach(trainer)
    ValidationHandler(3, evaluator).attach(trainer)
    trainer.run([0], max_epochs=epochs)
    assert evaluator.epochs == expected


def a_run(tmp_path, values, **more):
    """A trainer whose validation yields the given metric values, None for an epoch without validation."""
    network = torch.nn.Linear(1, 1, bias=False)
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))
    trainer = Engine(lambda *_: None)

    def validate(engine):
        torch.nn.init.constant_(network.weight, float(engine.state.epoch))
        value = values[engine.state.epoch - 1]
        if value is not None:
            evaluator.state.epoch, evaluator.state.metrics = engine.state.epoch, {"dice": value}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    keeper = Checkpoints(tmp_path, network, {"network": network}, evaluator, key_metric="dice", **more)
    keeper.attach(trainer)
    return trainer, network, keeper


def weight_in(path):
    return next(iter(torch.load(path, weights_only=True).values())).item()


def test_the_best_weights_are_kept_and_the_last_state(tmp_path):
    trainer, _, _ = a_run(tmp_path, [0.5, 0.7, None, 0.6])
    trainer.run([0], max_epochs=4)
    assert weight_in(tmp_path / "model.pt") == 2.0
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert last["network"]["weight"].item() == 4.0
    assert last["checkpoints"] == {"best": 0.7, "split": ""}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def test_the_last_weights_are_kept_where_that_is_asked_for(tmp_path):
    trainer, _, _ = a_run(tmp_path, [0.5, 0.7, None, 0.6], keep_last="true")
    trainer.run([0], max_epochs=3)
    assert weight_in(tmp_path / "model.pt") == 2.0
    trainer, _, _ = a_run(tmp_path, [None, None, None, 0.6], keep_last=True, resume=True)
    trainer.run([0], max_epochs=4)
    assert weight_in(tmp_path / "model.pt") == 4.0
    assert not (tmp_path / "model.previous.pt").exists()


def test_a_run_of_another_split_is_not_gone_on_with(tmp_path):
    a_run(tmp_path, [0.5], split="fold0")[0].run([0], max_epochs=1)
    trainer, _, _ = a_run(tmp_path, [None, 0.9], split="fold1", resume=True)
    with pytest.raises(InputError, match=r"'checkpoints' does not fit .its split is 'fold0', not 'fold1'"):
        trainer.run([0], max_epochs=2)
    trainer, _, _ = a_run(tmp_path, [None, 0.9], split="fold0", resume=True)
    trainer.run([0], max_epochs=2)
    assert weight_in(tmp_path / "model.pt") == 2.0


def test_a_checkpoint_that_does_not_name_its_split_can_be_gone_on_with(tmp_path):
    _, _, keeper = a_run(tmp_path, [0.5], split="fold0")
    keeper.load_state_dict({"best": 0.4})
    assert keeper.best == 0.4


def test_a_resumed_run_remembers_its_best(tmp_path):
    trainer, _, _ = a_run(tmp_path, [0.5, 0.7])
    trainer.run([0], max_epochs=2)
    trainer, _, _ = a_run(tmp_path, [None, None, 0.6, 0.8], resume=True)
    seen = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: seen.append(e.state.epoch))
    trainer.run([0], max_epochs=3)
    assert seen == [3]
    assert weight_in(tmp_path / "model.pt") == 2.0
    assert not (tmp_path / "model.previous.pt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(1, 1)}, r"lacks \['network', 'trainer', 'checkpoints'\], expected a checkpoint"),
        (
            {"network": {"weight": torch.ones(2, 2)}, "trainer": {}, "checkpoints": {"best": 0.5}},
            r"'network' does not fit \(Error.* state_dict for Linear.*, expected a run with this config",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "checkpoint.pt")
    trainer, _, _ = a_run(tmp_path, [0.5], resume=True)
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(InputError, match=message):
            trainer.run([0], max_epochs=1)
    finally:
        logging.disable(logging.NOTSET)


def test_a_write_that_fails_leaves_the_earlier_weights_and_nothing_else(tmp_path):
    trainer, _, _ = a_run(tmp_path, [0.5])
    trainer.run([0], max_epochs=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    trainer, _, _ = a_run(tmp_path, [None, 0.9], resume=True)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, most))  # as if the disk were full
    try:
        with pytest.raises((OSError, RuntimeError)):
            trainer.run([0], max_epochs=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        logging.disable(logging.NOTSET)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert weight_in(tmp_path / "model.pt") == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_epoch(tmp_path):
    (tmp_path / "file").touch()
    trainer, _, _ = a_run(tmp_path / "file" / "models", [0.5])
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(InputError, match=r"ckpt_dir .*file/models: .*Not a directory, expected a folder"):
            trainer.run([0], max_epochs=1)
    finally:
        logging.disable(logging.NOTSET)
    assert trainer.state.epoch == 0


def test_an_evaluation_refuses_such_a_folder_before_the_first_frame(tmp_path):
    (tmp_path / "file").touch()
    seen = []
    evaluator = Engine(lambda *_: seen.append(1))
    Evaluation(tmp_path / "file", tmp_path / "model.pt", {}).attach(evaluator)
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(InputError, match=r"output_dir .*file: Not a directory, expected a folder"):
            evaluator.run([0])
    finally:
        logging.disable(logging.NOTSET)
    assert not seen


def test_new_weights_take_away_the_checksum_of_those_before(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"another run's")
    (tmp_path / "model.pt.sha256").write_text("the checksum of those")
    trainer, _, _ = a_run(tmp_path, [0.5])
    trainer.run([0], max_epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.previous.pt", "model.pt"]
    assert load_checkpoint(tmp_path / "model.pt")["weight"].item() == 1.0


def test_there_is_a_model_at_any_time(tmp_path, monkeypatch):
    (tmp_path / "model.pt").write_bytes(b"another run's")
    trainer, _, _ = a_run(tmp_path, [0.5])

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], max_epochs=1)
    assert (tmp_path / "model.pt").read_bytes() == b"another run's"
    assert (tmp_path / "model.previous.pt").read_bytes() == b"another run's"


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [
        (None, [0.5, 0.4, 0.4, 0.4, 0.4], 5),
        (2, [0.5, 0.4, 0.5, 0.9, 0.9], 3),
        (2, [0.1, 0.1, 0.2, 0.2, 0.3], 5),
        (3, [0.5, 0.4, 0.6, 0.6, 0.2], 5),
        (3, [0.5, 0.4, 0.4, 0.5, 0.9], 4),
    ],
)
def test_training_stops_early_when_validations_bring_no_gain(patience, scores, epochs):
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)

    def score(engine):
        engine.state.metrics["val_mean_dice"] = scores[trainer.state.epoch - 1]

    evaluator.add_event_handler(Events.STARTED, score)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run([0]))
    EarlyStop(evaluator, "val_mean_dice", patience).attach(trainer)
    trainer.run([0], max_epochs=len(scores))
    assert trainer.state.epoch == epochs


def test_a_resumed_run_stops_early_where_the_unbroken_one_would(tmp_path):
    def run(epochs, before=None):
        trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
        stop = EarlyStop(evaluator, "val_mean_dice", 3)
        stop.attach(trainer)
        if before:
            stop.load_state_dict(before[1])
            trainer.load_state_dict(before[0])
        evaluator.add_event_handler(
            Events.STARTED, lambda e: e.state.metrics.update(val_mean_dice=0.5 if trainer.state.epoch == 1 else 0.4)
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run([0]))
        trainer.run([0], max_epochs=epochs)
        return trainer.state_dict(), stop.state_dict(), trainer.state.epoch

    assert run(10)[2] == 4
    assert run(10, run(3))[2] == 4
    # A run without patience keeps no count, and one with patience begins its own from there.
    patient, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    endless = EarlyStop(evaluator, "val_mean_dice")
    endless.attach(patient)
    assert endless.state_dict() == {}
    endless.load_state_dict(run(3)[1])


def test_curves_can_be_followed_while_training_goes_on(tmp_path):
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=1, metrics={"val_mean_dice": float("nan")}))
    trainer = Engine(lambda *_: None)
    Curves(evaluator, tmp_path / "curves.png").attach(trainer)
    seen = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda _: seen.append(json.loads((tmp_path / "curves.json").read_text()))
    )
    trainer.run([0], max_epochs=2)
    assert seen == [[{"epoch": 1.0, "val_mean_dice": None}], [{"epoch": 1.0, "val_mean_dice": None}, {"epoch": 2.0}]]


def test_curves_hold_a_record_per_epoch_and_survive_a_resume(tmp_path):
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=2, metrics={"val_loss": 0.5, "val_dice": {"lv": 1}}))
    trainer = Engine(lambda *_: None)
    curves = Curves(evaluator, tmp_path / "curves.png")
    curves.load_state_dict({"records": [{"epoch": 0.0, "train_loss": 3.0}]})
    curves.attach(trainer)
    trainer.add_event_handler(Events.STARTED, lambda engine: engine.state.metrics.update(train_loss=2.0))
    trainer.run([0], max_epochs=2)
    assert curves.state_dict()["records"] == [
        {"epoch": 0.0, "train_loss": 3.0},
        {"epoch": 1.0, "train_loss": 2.0},
        {"epoch": 2.0, "train_loss": 2.0, "val_loss": 0.5},
    ]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_epoch_cut_short_has_one_record_after_a_resume(tmp_path):
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))

    def a_training():
        trainer = Engine(lambda *_: None)
        curves = Curves(evaluator, tmp_path / "curves.png")
        curves.attach(trainer)
        return trainer, curves

    trainer, curves = a_training()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda engine: engine.terminate_epoch())
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    trainer.run(range(4), max_epochs=3)
    assert [record["epoch"] for record in curves.records] == [1, 2]
    resumed, longer = a_training()
    resumed.load_state_dict(trainer.state_dict())
    longer.load_state_dict(curves.state_dict())
    resumed.run(range(4), max_epochs=3)
    assert resumed.state.iteration == 12
    assert [record["epoch"] for record in json.loads((tmp_path / "curves.json").read_text())] == [1, 2, 3]

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from cardiac_cine.training import AmpStep, Budget, EpochSeed, amp_dtype, compiled


def budget(monkeypatch, *, max_minutes=None, warmup=0, validation_s=0.0):
    """A budget of learning rate 1, with a clock to set by hand."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("cardiac_cine.training.time.monotonic", lambda: clock.seconds)
    evaluator = Engine(lambda *_: None)
    evaluator.state.times[Events.COMPLETED.name] = validation_s
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)
    return Budget(optimizer, 1.0, warmup, evaluator, max_minutes), clock


def run(handler, epochs, per_epoch=10, each=lambda engine: None):
    """Run an empty trainer and return the learning rate of every iteration."""
    rates = []

    def step(engine, _):
        rates.append(handler.optimizer.param_groups[0]["lr"])
        each(engine)

    engine = Engine(step)
    handler.attach(engine)
    engine.run(range(per_epoch), max_epochs=epochs)
    return rates, engine


def test_the_rate_falls_along_half_a_cosine(monkeypatch):
    handler, _ = budget(monkeypatch)
    rates, _ = run(handler, epochs=4)
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 40)) for i in range(1, 41)])
    assert rates[19] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_rate_warms_up(monkeypatch):
    handler, _ = budget(monkeypatch, warmup=4)
    plain, _ = run(budget(monkeypatch)[0], epochs=4)
    rates, _ = run(handler, epochs=4)
    assert rates[:5] == pytest.approx([plain[0] / 4, plain[1] / 2, plain[2] * 3 / 4, plain[3], plain[4]])


def test_minutes_end_the_run(monkeypatch):
    handler, clock = budget(monkeypatch, max_minutes=1.0)

    def six_seconds(_):
        clock.seconds += 6

    rates, engine = run(handler, epochs=100, per_epoch=4, each=six_seconds)
    # Ten iterations of 6 s; half a minute is half the cosine.
    assert len(rates) == 10
    assert rates[5] == pytest.approx(0.5, abs=0.01)
    assert engine.state.epoch == 3


def test_the_last_validation_is_kept_in_reserve(monkeypatch):
    handler, clock = budget(monkeypatch, max_minutes=1.0, validation_s=30.0)

    def six_seconds(_):
        clock.seconds += 6

    rates, _ = run(handler, epochs=100, each=six_seconds)
    # 60 s less 1 % and 1.25 times 30 s are 21.9 s, reached by the fourth iteration.
    assert len(rates) == 4


def test_minutes_add_up_over_resumed_runs(monkeypatch):
    handler, clock = budget(monkeypatch, max_minutes=2.0)
    handler.load_state_dict({"minutes": 1.5})
    clock.seconds = 15.0
    assert handler.minutes() == pytest.approx(1.75)
    assert handler.state_dict() == {"minutes": pytest.approx(1.75)}
    engine = SimpleNamespace(state=SimpleNamespace(iteration=0, epoch_length=10, max_epochs=10))
    assert handler.progress(engine) == pytest.approx(1.75 / 1.98)


def test_minutes_may_have_begun_before(monkeypatch):
    monkeypatch.setattr("cardiac_cine.training.time.monotonic", lambda: 100.0)
    assert Budget(None, 1.0, 1, None, 2.0, started=70.0).minutes() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, 1, None, None), "learning_rate is 0.0"), ((1.0, 1, None, -3), "max_minutes is -3")],
)
def test_limits_must_be_positive(arguments, message):
    with pytest.raises(ValueError, match=message):
        Budget(None, *arguments)


def test_an_epoch_draws_the_same_whatever_came_before():
    draws = {}

    def step(engine, _):
        draws.setdefault(engine.state.epoch, []).append(torch.rand(1).item())

    for before in (0, 7):
        torch.rand(before)
        engine = Engine(step)
        EpochSeed(5).attach(engine)
        engine.run([0], max_epochs=2)
    assert draws[1][0] == draws[1][1]
    assert draws[2][0] == draws[2][1]
    assert draws[1][0] != draws[2][0]


def test_neighbouring_seeds_share_no_epoch():
    draws = []
    for seed in (0, 1, 2):
        engine = Engine(lambda *_: draws.append(torch.rand(1).item()))
        EpochSeed(seed).attach(engine)
        engine.run([0], max_epochs=4)
    assert len(set(draws)) == 12


def a_trainer(step, weight=1.0):
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, weight)
    return SimpleNamespace(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda logits, label: (logits - label).pow(2).mean(),
        prepare_batch=lambda batch, device, non_blocking, **_: (batch["image"], batch["label"]),
        inferer=lambda image, net: net(image),
        state=SimpleNamespace(device="cpu", iteration=1),
        non_blocking=False,
        to_kwargs={},
        fire_event=lambda event: None,
    )


def test_a_step_clips_the_gradient():
    # Loss (w x - y)^2 with w = 1, x = 1, y = 6: gradient -10, clipped to norm 0.5, so w goes to 1.5.
    step = AmpStep(torch.float32, max_grad_norm=0.5, device="cpu")
    trainer = a_trainer(step)
    output = step(trainer, {"image": torch.ones(1, 1), "label": torch.full((1, 1), 6.0)})
    assert output["loss"] == pytest.approx(25.0)
    assert trainer.network.weight.item() == pytest.approx(1.5, abs=1e-5)


def test_a_step_computes_in_the_format_asked_for():
    step = AmpStep(torch.bfloat16, max_grad_norm=1.0, device="cpu")
    output = step(a_trainer(step, 1.001), {"image": torch.ones(1, 1), "label": torch.zeros(1, 1)})
    assert output["pred"].dtype == torch.bfloat16
    assert output["loss"] == 1.0  # 1.001 is 1 in bfloat16


def test_a_loss_that_is_not_finite_stops_the_run():
    step = AmpStep(torch.float32, max_grad_norm=1.0, device="cpu")
    with pytest.raises(FloatingPointError, match="the loss is nan at iteration 1"):
        step(a_trainer(step), {"image": torch.full((1, 1), math.nan), "label": torch.zeros(1, 1)})


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
)
def test_mixed_precision_on_a_cpu_needs_its_instructions(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert amp_dtype("cpu") == expected
    assert amp_dtype("cpu", enabled=False) == torch.float32


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_mixed_precision_on_a_gpu(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert amp_dtype("cuda:0") == expected


def test_a_compiled_network_is_the_same_function_of_the_same_parameters():
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.InstanceNorm2d(3, affine=True))
    image = torch.randn(2, 1, 8, 8)
    twin = compiled(network)
    torch.testing.assert_close(twin(image), network(image))

    twin(image).square().sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= 0.001 * parameter.grad
    torch.testing.assert_close(twin(image), network(image), rtol=1e-4, atol=1e-4)
    assert isinstance(network[1], torch.nn.InstanceNorm2d)
    assert compiled(network, enabled=False) is network

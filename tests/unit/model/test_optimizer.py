"""The optimizer, its rate, refused steps, and averages of the weights."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from steel.config import NetworkConfig, OptimConfig
from steel.errors import InputError
from steel.model.batch_norm import RunningStatistics
from steel.model.network import UnifiedModel
from steel.model.optimizer import (
    AveragedTensors,
    EqualAverage,
    ExponentialAverage,
    average_state_dicts,
    build_optimizer,
    load_optimizer_state,
    parameter_groups,
    set_lr,
    step_if_finite,
)

CONFIG = OptimConfig(weight_decay=0.1, encoder_lr_scale=0.25)
ACCEPT, REFUSE = torch.tensor(0.0), torch.tensor(1.0)


@pytest.fixture(scope="module")
def template():
    torch.manual_seed(0)
    return UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, 1, decoder_channels=(8, 8)))


@pytest.fixture
def model(template):
    return copy.deepcopy(template)


def backward(model, seed=0, scale=1.0):
    torch.manual_seed(seed)  # the dropout's too
    masks, labels = model(scale * torch.randn(2, 1, 32, 32)).values()
    (masks.square().mean() + labels.square().mean()).backward()


def train(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        backward(model, seed)
        step_if_finite(optimizer, ACCEPT)


def everything(model, optimizer, average=None):
    """Copies of every tensor that a step may move."""
    tensors = [*model.state_dict().values()]
    tensors += [v for values in optimizer.state_dict()["state"].values() for v in values.values()]
    if average:
        tensors += [*average.model.parameters(), average.state_dict()["num_updates"]]
    return [t.detach().clone() for t in tensors]


def same(left, right):
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_groups_cover_each_parameter_once(model):
    groups = parameter_groups(model, CONFIG)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    by_name = {group["name"]: group for group in groups}
    assert set(by_name) == {"encoder", "encoder (no decay)", "decoder", "decoder (no decay)"}
    norms = [p for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()]
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    undecayed = {id(p) for name in by_name if "no decay" in name for p in by_name[name]["params"]}
    assert {id(p) for p in [*norms, *biases, model.classification_head.reliance]} == undecayed
    for name, group in by_name.items():
        assert group["lr_scale"] == (0.25 if name.startswith("encoder") else 1.0)
        assert group["weight_decay"] == (0.0 if "no decay" in name else 0.1)


def test_further_parameters_are_trained_as_the_decoder_is(model):
    layer = torch.nn.Conv2d(8, 2, 1)
    plain, groups = parameter_groups(model, CONFIG), parameter_groups(model, CONFIG, layer.parameters())
    assert [group["name"] for group in groups] == [group["name"] for group in plain]
    for group, without, last in zip(groups, plain, (None, None, layer.weight, layer.bias), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in (*without["params"], last) if p is not None]


def test_the_rate_decays_over_the_encoders_stages(model):
    """By hand: two stages, for a decoder of two widths reads two features; the last one has the encoder's rate."""
    groups = parameter_groups(model, replace(CONFIG, layer_decay=0.5))
    assert [(group["name"], group["lr_scale"], group["weight_decay"]) for group in groups] == [
        ("encoder stage 1", 0.125, 0.1),
        ("encoder stage 1 (no decay)", 0.125, 0.0),
        ("encoder stage 2", 0.25, 0.1),
        ("encoder stage 2 (no decay)", 0.25, 0.0),
        ("decoder", 1.0, 0.1),
        ("decoder (no decay)", 1.0, 0.0),
    ]
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(parameter): name for name, parameter in model.encoder.named_parameters()}
    parts = [{names[id(p)].split(".")[1] for p in group["params"]} for group in groups[:4]]
    assert parts == [{"conv1"}, {"conv1", "bn1"}, {"layer1"}, {"layer1"}]


def test_a_step_at_a_decaying_rate_moves_each_stage_by_its_share(model):
    """AdamW's first step moves a weight by the rate, whatever its gradient."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # timm starts the last one of a block at 0
            torch.nn.init.ones_(layer.weight)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.0, layer_decay=0.5))
    set_lr(optimizer, 0.01)
    before = [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]
    train(model, optimizer, [0])
    for group, were in zip(optimizer.param_groups, before, strict=True):
        moved = max((p.detach() - was).abs().max().item() for p, was in zip(group["params"], were, strict=True))
        assert moved == pytest.approx(0.01 * group["lr_scale"], rel=1e-3)


def test_one_stage_has_no_rate_that_could_decay():
    shallow = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, 1, decoder_channels=(8,)))
    assert len(parameter_groups(shallow, CONFIG)) == 4
    with pytest.raises(InputError, match=r"^optim\.layer-decay 0\.5: the encoder tu-test_resnet has one stage alone"):
        parameter_groups(shallow, replace(CONFIG, layer_decay=0.5))


def test_set_rate_scales_the_encoder(model):
    optimizer = build_optimizer(model, CONFIG)
    set_lr(optimizer, 0.8)
    assert {group["name"].split()[0]: group["lr"] for group in optimizer.param_groups} == {
        "encoder": pytest.approx(0.2),
        "decoder": 0.8,
    }


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_refused_step_changes_nothing(model, steps_before):
    optimizer = build_optimizer(model, CONFIG)
    set_lr(optimizer, 0.01)
    train(model, optimizer, range(steps_before))
    optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    before = everything(model, optimizer)
    step_if_finite(optimizer, REFUSE)
    after = everything(model, optimizer)
    if steps_before:
        assert same(before, after)
    else:  # the moments now exist; they and the step counts are 0
        assert same(before, after[: len(before)])
        assert all((t == 0).all() for t in after[len(before) :])
    assert not hasattr(optimizer, "found_inf")


def test_an_accepted_step_is_the_plain_step(model):
    twin = copy.deepcopy(model)
    results = []
    for m, plain in ((model, False), (twin, True)):
        optimizer = build_optimizer(m, CONFIG)
        set_lr(optimizer, 0.01)
        for seed in range(3):
            optimizer.zero_grad()
            backward(m, seed)
            if plain:
                optimizer.step()
            else:
                step_if_finite(optimizer, ACCEPT)
        results.append(everything(m, optimizer))
    assert same(*results)


def test_gradients_of_another_memory_layout_do_not_corrupt_the_step(model):
    model = model.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    results = []
    for m, contiguous in ((model, False), (twin, True)):
        optimizer = build_optimizer(m, CONFIG)
        set_lr(optimizer, 0.01)
        for seed in range(2):
            optimizer.zero_grad()
            backward(m, seed)
            if contiguous:
                for parameter in m.parameters():
                    parameter.grad = parameter.grad.contiguous()
            step_if_finite(optimizer, ACCEPT)
        results.append(everything(m, optimizer))
    assert same(*results)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resumed_from_contiguous_state_goes_on_bit_for_bit(model, layout):
    model = model.to(memory_format=layout)
    optimizer, average = build_optimizer(model, CONFIG), ExponentialAverage(model, 0.9)
    set_lr(optimizer, 0.01)
    train(model, optimizer, range(2))
    average.update(AveragedTensors.of(model))

    stored = copy.deepcopy({"m": model.state_dict(), "o": optimizer.state_dict(), "a": average.state_dict()})
    for values in stored["o"]["state"].values():
        for name in values:
            values[name] = values[name].contiguous()
    resumed = copy.deepcopy(model)
    for parameter in resumed.parameters():
        torch.nn.init.zeros_(parameter)
    resumed.load_state_dict(stored["m"])
    resumed_optimizer, resumed_average = build_optimizer(resumed, CONFIG), ExponentialAverage(resumed, 0.9)
    load_optimizer_state(resumed_optimizer, stored["o"])
    resumed_average.load_state_dict(stored["a"])

    train(model, optimizer, range(2, 5))
    train(resumed, resumed_optimizer, range(2, 5))
    average.update(AveragedTensors.of(model))
    resumed_average.update(AveragedTensors.of(resumed))
    assert same(everything(model, optimizer, average), everything(resumed, resumed_optimizer, resumed_average))


def test_a_poisoned_step_leaves_no_trace(model):
    optimizer, average = build_optimizer(model, CONFIG), ExponentialAverage(model, 0.9)
    set_lr(optimizer, 0.01)
    statistics = RunningStatistics(model)
    train(model, optimizer, range(2))
    average.update(AveragedTensors.of(model))

    def look():
        state = model.state_dict()
        moments = [v for values in optimizer.state_dict()["state"].values() for v in values.values()]
        averages = [v for v in average.model.state_dict().values() if v.is_floating_point()]
        return [t.clone() for t in (*state.values(), *moments, *averages, average.state_dict()["num_updates"])]

    before = look()
    taken = statistics.take()
    optimizer.zero_grad()
    backward(model, seed=9, scale=math.inf)
    assert any(not torch.isfinite(b).all() for b in model.buffers()), "the poison must reach the statistics"
    found_inf = torch.stack([(~torch.isfinite(p.grad)).any() for p in model.parameters()]).any().float()
    step_if_finite(optimizer, found_inf)
    statistics.settle(taken, found_inf, range(1), 1, lambda tensor: None)
    average.update(AveragedTensors.of(model), skip=found_inf)
    assert same(before, look())


def linear(weight, batches=0):
    module = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1, affine=False))
    torch.nn.init.constant_(module[0].weight, weight)
    module[1].running_mean.fill_(10 * weight)
    module[1].num_batches_tracked.fill_(batches)
    return module


def test_average_by_hand():
    average = ExponentialAverage(linear(1.0), decay=0.5)
    # Updates 0 to 8 would move by 9/10 ... 9/18; the first two by .9 and .818..., later ones by 1 - decay.
    average.update(AveragedTensors.of(linear(2.0, batches=7)))
    first = 1 + 0.9 * (2 - 1)
    assert average.model[0].weight.item() == pytest.approx(first)
    assert average.model[1].running_mean.item() == pytest.approx(10 * first)
    assert average.model[1].num_batches_tracked.item() == 7
    average.update(AveragedTensors.of(linear(5.0)), skip=REFUSE)
    assert average.model[0].weight.item() == pytest.approx(first)
    average.update(AveragedTensors.of(linear(0.0)), skip=ACCEPT)
    assert average.model[0].weight.item() == pytest.approx(first * (1 - 9 / 11))
    for _ in range(20):
        average.update(AveragedTensors.of(linear(0.0)))
    before = average.model[0].weight.item()
    average.update(AveragedTensors.of(linear(1.0)))
    assert average.model[0].weight.item() == pytest.approx(0.5 * before + 0.5)


@pytest.mark.parametrize("steps", [300, 3000])
def test_a_decay_of_1_fits_any_length(steps):
    """With weights that are the number of their step: 9 s ** 8, by the share s of the steps, has the mean 0.9."""
    average = ExponentialAverage(linear(0.0), decay=1)
    for step in range(steps):
        average.update(AveragedTensors.of(linear(float(step))))
    assert average.model[0].weight.item() / steps == pytest.approx(0.9, abs=0.005)


def test_equal_average_by_hand():
    """The weights that it starts from and those after a refused step do not count."""
    average = EqualAverage(linear(100.0))

    def look():
        return [average.model[0].weight.item(), average.model[1].running_mean.item() / 10]

    average.update(AveragedTensors.of(linear(2.0)), skip=REFUSE)
    assert look() == pytest.approx([2.0, 2.0]), "until one counts it is the latest"
    for weight, skip, expected in (
        (5.0, ACCEPT, 5.0),
        (2.0, None, 3.5),
        (7.0, REFUSE, 3.5),
        (0.5, ACCEPT, (5 + 2 + 0.5) / 3),
        (-1.5, ACCEPT, (5 + 2 + 0.5 - 1.5) / 4),
    ):
        average.update(AveragedTensors.of(linear(weight, batches=7)), skip=skip)
        assert look() == pytest.approx([expected] * 2)
    assert average.model[1].num_batches_tracked.item() == 7
    assert average.state_dict()["num_updates"].item() == 4


def test_equal_average_of_a_thousand_steps_is_their_mean():
    """To a few units of float32's last place, though each step is a thousandth of a difference at the end."""
    torch.manual_seed(0)
    weights = (1 + 0.01 * torch.randn(1000)).tolist()
    average = EqualAverage(linear(0.0))
    for weight in weights:
        average.update(AveragedTensors.of(linear(weight)), skip=ACCEPT)
    assert average.model[0].weight.item() == pytest.approx(sum(weights) / 1000, rel=2e-6)


@pytest.mark.parametrize("build", [lambda model: ExponentialAverage(model, 0.99), EqualAverage])
def test_average_of_a_constant_model_is_that_model(model, build):
    average = build(model)
    for _ in range(3):
        average.update(AveragedTensors.of(model))
    for (name, mean), live in zip(average.model.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(mean, live), name
    assert not average.model.training


def test_average_state_dicts():
    states = [linear(w, batches=int(w)).state_dict() for w in (1.0, 2.0, 6.0)]
    mean = average_state_dicts(states)
    assert mean["0.weight"].item() == 3.0
    assert mean["1.running_mean"].item() == 30.0
    assert mean["1.num_batches_tracked"].item() == 6
    assert mean["0.weight"].dtype == torch.float32
    model = linear(0.0)
    model.load_state_dict(mean)

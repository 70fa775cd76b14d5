"""The compiled step: one graph, few of them in a run, chosen alike by all ranks, gone on with after a stop."""

import ctypes
import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from steel.config import Config, LossConfig
from steel.distributed.runtime import Runtime, start
from steel.errors import SharedError
from steel.loading.train_loader import present_pairs
from steel.model.losses import LOSS_TERMS
from tests.numerics.one_step import HEIGHT, NUM_CLASSES, WIDTH, build_training, config_of, plan_of
from train.engine import compilation
from train.engine.compilation import CompileChoice, choose_compilation, is_worth_trying
from train.engine.loop_state import LoopState
from train.engine.made_up_batch import made_up_batch
from train.engine.micro_batch_losses import hold_gradients
from train.engine.step import TrainingState
from train.fit import main

torch_compile = torch.compile


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start("no", cpu=True)
    torch.set_num_threads(threads)
    torch.compiler.reset()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """Graphs that are made, which are then run as they are: what takes the time is generating code for them."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    def compile_for_test(function: Any, *, fullgraph: bool, dynamic: bool, options: Any) -> Any:
        assert options == {"fallback_random": True, "triton.cudagraphs": False}
        return torch_compile(function, fullgraph=fullgraph, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", compile_for_test)
    return made


def configured(compile: str = "on", **changes: Any) -> Config:
    config = config_of(**changes)
    return replace(config, runtime=replace(config.runtime, compile=compile))


def choose(training: TrainingState, earlier: CompileChoice | None = None, step: int = 0) -> CompileChoice:
    plan = plan_of(training.config)
    return choose_compilation(training, plan, step, lambda: batch_of(plan.phase.micro_batch), earlier)


def batch_of(num: int) -> Any:
    return made_up_batch(1, NUM_CLASSES, num, (HEIGHT, WIDTH), pin_memory=False)


# --- the graph -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged_stages", [0, 2])
@pytest.mark.parametrize("pairs", [None, torch.tensor([0, 3])])
def test_a_micro_batch_is_one_graph_without_a_break(
    runtime: Runtime, pairs: torch.Tensor | None, judged_stages: int
) -> None:
    """With every term of the loss."""
    training = build_training(runtime, config_of(deep_supervision=judged_stages))
    loss = LossConfig(dict.fromkeys(LOSS_TERMS, 0.5), absent=0.3, class_weights=(1.0, 2.0, 3.0))
    batch = batch_of(2)
    found = torch._dynamo.explain(training.micro_batch_losses.eager)(batch.images, batch.targets, loss, pairs)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.parametrize("judged_stages", [0, 2])
def test_the_number_of_pairs_does_not_make_another_graph(
    runtime: Runtime, graphs: list[Any], judged_stages: int
) -> None:
    training = build_training(runtime, configured(micro_batch=2, deep_supervision=judged_stages))
    losses, batch, loss = training.micro_batch_losses, batch_of(2), training.config.phases[0].loss
    losses.compile_anew(cuda_graphs=False)
    for pairs in ([0, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4, 5], [1, 4]):
        found = losses(batch.images, batch.targets, loss, torch.tensor(pairs))
        expected = losses.eager(batch.images, batch.targets, loss, torch.tensor(pairs))
        assert found.keys() == expected.keys() and ("deep_supervision" in found) == (judged_stages > 0)
        for head in found:
            if head != "classification":  # which drops other features in each call
                torch.testing.assert_close(found[head], expected[head])
    assert len(graphs) == 1


def test_micro_batches_of_one_image_are_one_graph(runtime: Runtime, graphs: list[Any]) -> None:
    """Whether no class is present in the image, one, or all."""
    training = build_training(runtime, configured(micro_batch=1))
    losses, batch, loss = training.micro_batch_losses, batch_of(1), training.config.phases[0].loss
    losses.compile_anew(cuda_graphs=False)
    for present in (0, 1, (1 << NUM_CLASSES) - 1, 2):
        targets = torch.full_like(batch.targets, present)
        losses(batch.images, targets, loss, torch.from_numpy(present_pairs(targets.numpy(), NUM_CLASSES)))
    assert len(graphs) == 1


@pytest.mark.usefixtures("emulated_bf16")
def test_a_run_of_two_phases_makes_two_graphs(
    runtime: Runtime, graphs: list[Any], tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a phase, validations and losses on validation images included; a third where the encoder is released."""
    from tests.numerics.quick import quicken

    quicken(monkeypatch)
    options = (
        "--preset smoke --phases.0.epochs 2 --phases.1.epochs 1 --runtime.workers 0 --validation.tta "
        "--runtime.compile on --tracking.tracker none"
    ).split()
    for out, more, expected in (("plain", [], 2), ("frozen", ["--optim.freeze-encoder-epochs", "1"], 3)):
        graphs.clear()
        assert main([*options, *more, "--data", str(tiny_shards), "--out", str(tmp_path / out)]) == 0
        assert len(graphs) == expected, out


def test_ddp_cuts_the_graph_at_its_buckets(runtime: Runtime, graphs: list[Any], tmp_path: Path) -> None:
    """So that gradients are summed while others are computed; losses stay as they are."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        losses = build_training(runtime, configured()).micro_batch_losses
        wrapped = nn.parallel.DistributedDataParallel(losses, broadcast_buffers=False, bucket_cap_mb=8)
        batch, loss = batch_of(2), config_of().phases[0].loss
        torch.manual_seed(0)
        expected = wrapped(batch.images, batch.targets, loss, batch.pairs)
        losses.compile_anew(cuda_graphs=False)
        torch.manual_seed(0)
        found = wrapped(batch.images, batch.targets, loss, batch.pairs)
    finally:
        torch.distributed.destroy_process_group()
    assert len(graphs) > 1
    torch.testing.assert_close(found["segmentation"], expected["segmentation"])


# --- the choice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "worth"), [(399, False), (401, True)])
def test_a_phase_must_be_long_enough_to_repay_a_minute(seconds: float, worth: bool) -> None:
    """15 % of 400 s are 60 s."""
    assert is_worth_trying(seconds) == worth


def test_nothing_is_tried_on_a_cpu_unless_asked(runtime: Runtime, graphs: list[Any]) -> None:
    for asked in ("auto", "off"):
        training = build_training(runtime, configured(asked))
        assert choose(training) == CompileChoice(False)
        assert not training.micro_batch_losses.is_compiled
    assert graphs == []


def test_a_resumed_run_takes_the_choice_that_was_made(runtime: Runtime, graphs: list[Any]) -> None:
    training = build_training(runtime, configured("auto"))
    compiled, plain = CompileChoice(True, 1.5), CompileChoice(False, 0.9)
    assert choose(training, plain, step=1) == plain and not training.micro_batch_losses.is_compiled
    assert choose(training, compiled, step=1) == compiled and training.micro_batch_losses.is_compiled
    assert choose(training, plain, step=1) == plain and not training.micro_batch_losses.is_compiled
    off = build_training(runtime, configured("off"))  # asked for in so many words
    assert choose(off, compiled, step=1) == CompileChoice(False)
    assert len(graphs) == 1


def test_a_run_that_was_told_not_to_compile_chooses_when_it_is_resumed_with_auto(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = choose(build_training(runtime, configured("off")))
    measured = CompileChoice(True, 1.5)
    monkeypatch.setattr(compilation, "_measure", lambda *_, **__: measured)
    monkeypatch.setattr(compilation, "untouched", lambda _: nullcontext())
    training = build_training(runtime, configured("auto"))
    assert choose(training, off, step=1) == off  # on a CPU
    monkeypatch.setattr(Runtime, "device", property(lambda _: torch.device("cuda")))
    assert choose(training, off, step=1) == measured


def test_a_cuda_graph_that_cannot_be_recorded_leaves_the_phase_as_it_is(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Recording is in the second call of what is compiled."""
    training, calls = build_training(runtime, configured("auto")), []
    losses = training.micro_batch_losses

    def there_and_back(*_: Any) -> None:
        if losses.is_compiled:
            calls.append("compiled")
            if len(calls) == 2:
                raise RuntimeError("out of memory while a graph was recorded")

    monkeypatch.setattr(compilation, "there_and_back", there_and_back)
    monkeypatch.setattr(compilation, "untouched", lambda _: nullcontext())
    monkeypatch.setattr(compilation, "is_worth_trying", lambda _: True)
    monkeypatch.setattr(Runtime, "device", property(lambda _: torch.device("cuda")))
    with caplog.at_level(logging.WARNING, logger="train.fit"):
        assert choose(training) == CompileChoice(False)
    assert len(calls) == 2 and not losses.is_compiled
    assert "out of memory while a graph was recorded" in caplog.text


@pytest.mark.parametrize(
    ("eager", "compiled", "kept"), [((2.0, 3.0), (2.95, 1.0), False), ((2.0, 3.0), (2.0, 1.0), True)]
)
def test_ranks_choose_by_the_slowest(
    eager: tuple[float, float],
    compiled: tuple[float, float],
    kept: bool,
    runtime: Runtime,
    graphs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two; a gain of 3 / 2.95 is too small to be kept. Either rank comes to the same."""
    choices = []
    for rank in (0, 1):
        training = build_training(runtime, configured("auto"))
        # In turn: the first micro-batch, those without a graph, those that are not counted, those with it.
        times = iter([eager, eager, compiled, compiled])
        latest: list[tuple[float, float]] = []

        def seconds(self: Any, repeats: int, times: Any = times, latest: Any = latest, rank: int = rank) -> float:
            latest.append(next(times))
            return latest[-1][rank]

        def all_gather(value: Any, latest: Any = latest) -> list[Any]:
            return [value, value] if value is None else list(latest[-1])

        monkeypatch.setattr(compilation._Trial, "seconds", seconds)
        cpu = torch.device("cpu")
        job = SimpleNamespace(all_gather=all_gather, device=cpu, accelerator=runtime.accelerator, world=2)
        training.runtime = job  # type: ignore[assignment]
        trial = compilation._Trial(training, plan_of(training.config), batch_of(2), lambda: False)
        plan = replace(plan_of(training.config), epoch_length=12_000)
        choices.append(compilation._measure(trial, job, plan, 0, must=False))  # type: ignore[arg-type]
        assert training.micro_batch_losses.is_compiled == kept
    assert choices == [CompileChoice(kept, max(eager) / max(compiled))] * 2


def test_ranks_of_unequal_shares_agree_on_whether_a_phase_is_long_enough(
    runtime: Runtime, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight micro-batches on three ranks: those of three, and that of two, ask as often what the others measured."""
    asked = []
    for share in (range(3), range(3, 6), range(6, 8)):
        training = build_training(runtime, configured("auto"))
        gathered: list[Any] = []

        def all_gather(value: Any, gathered: list[Any] = gathered) -> list[Any]:
            gathered.append(value)
            return [value] * 3

        monkeypatch.setattr(compilation._Trial, "seconds", lambda *_: 1.0)
        cpu = torch.device("cpu")
        job = SimpleNamespace(all_gather=all_gather, device=cpu, accelerator=runtime.accelerator, world=3)
        training.runtime = job  # type: ignore[assignment]
        plan = plan_of(training.config)
        phase = replace(plan.phase, batch_size=8 * plan.phase.micro_batch)
        plan = replace(plan, phase=phase, share=share)
        steps = plan.steps
        monkeypatch.setattr(compilation, "is_worth_trying", lambda seconds, steps=steps: seconds > 2.5 * steps)
        trial = compilation._Trial(training, plan, batch_of(2), lambda: False)
        compilation._measure(trial, job, plan, 0, must=False)  # type: ignore[arg-type]
        asked.append(len(gathered))
    assert asked[0] > 1 and asked == asked[:1] * 3


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(
        RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\n\nmore"),
        monkeypatch,
    )


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no step be compiled."""

    def compile_without(function: Any, **_: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            raise error

        return fail

    monkeypatch.setattr(torch, "compile", compile_without)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_on_is_one_clear_error(runtime: Runtime) -> None:
    training = build_training(runtime, configured("on"))
    with pytest.raises(SharedError) as raised:
        choose(training)
    assert str(raised.value) == (
        "phase crops: runtime.compile on: torch cannot compile the step (No working C++ compiler found in "
        "torch._inductor.config.cpp.cxx: (None, 'g++')); see that a C++ compiler such as g++ works, or take "
        "--runtime.compile off"
    )


def test_a_library_that_a_killed_compiler_has_left_is_to_be_removed(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The words are those of the C library, of a file without content."""
    library = tmp_path / "cut.so"
    library.touch()
    with pytest.raises(OSError) as found:
        ctypes.CDLL(str(library))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    fail_with(ImportError(str(found.value)), monkeypatch)
    with pytest.raises(SharedError) as raised:
        choose(build_training(runtime, configured("on")))
    assert f"remove {tmp_path}, where a compiler that was killed" in str(raised.value)


@pytest.mark.parametrize("asked", ["on", "auto"])
@pytest.mark.usefixtures("no_compiler")
def test_a_compiler_that_fails_with_a_stop_signal_is_no_verdict(runtime: Runtime, asked: str) -> None:
    """The signal of a whole process group has killed it."""
    training = build_training(runtime, configured(asked))
    arguments = training, plan_of(training.config), 1, lambda: batch_of(3), CompileChoice(True, 1.5)
    assert choose_compilation(*arguments, is_told_to_stop=lambda: True) is None
    assert not training.micro_batch_losses.is_compiled


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_goes_on_without(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    training = build_training(runtime, configured("auto"))
    with caplog.at_level(logging.INFO, "train.fit"):
        assert choose(training, CompileChoice(True, 1.5), step=1) == CompileChoice(False)
    assert len(caplog.messages) == 2 and "not compiled: torch cannot compile the step (No working" in caplog.messages[1]
    assert not training.micro_batch_losses.is_compiled


def test_the_measurement_leaves_no_trace(runtime: Runtime, graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    training = build_training(runtime, configured("on"))

    def look() -> list[torch.Tensor]:
        modes = torch.tensor([module.training for module in training.model.modules()])
        return [tensor.clone() for tensor in training.tensors().values()] + [torch.get_rng_state(), modes]

    before = look()
    choice = choose(training)
    assert choice.compiled and choice.gain is not None and choice.gain > 0 and len(graphs) == 1
    assert all(a.equal(b) for a, b in zip(look(), before, strict=True))
    assert all(parameter.grad is None for parameter in training.model.parameters())


def test_the_choice_is_the_phases_and_travels_in_the_state() -> None:
    from steel.plain import from_dict, to_dict

    state = LoopState()
    for choice in (CompileChoice(False), CompileChoice(True, 1.25)):  # a resumed run chooses again
        state.compilation = choice
    assert from_dict(LoopState, json.loads(json.dumps(to_dict(state)))) == state
    state.start_phase(1)
    assert state.compilation is None
    state.compilation = CompileChoice(False, 0.9)
    assert state.compilation == CompileChoice(False, 0.9)
    assert state.compilations == [CompileChoice(True, 1.25), CompileChoice(False, 0.9)]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (CompileChoice(False), ""),
        (CompileChoice(True), "compiled"),
        (CompileChoice(True, 1.254), "compiled: a micro-batch was 1.25 times as fast with a graph as without"),
        (CompileChoice(False, 0.9), "not compiled: a micro-batch was 0.90 times as fast with a graph as without"),
    ],
)
def test_the_choice_in_words(choice: CompileChoice, said: str) -> None:
    assert str(choice) == said


def test_gradients_that_a_replay_would_write_over_have_memory_of_their_own() -> None:
    frozen, fresh, used = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    used.grad = torch.full((2,), 3.0)
    hold_gradients([frozen, fresh, used])
    assert frozen.grad is None and fresh.grad is not None and fresh.grad.tolist() == [0, 0]
    assert used.grad.tolist() == [3, 3]

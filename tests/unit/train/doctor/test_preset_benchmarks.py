"""What bounds a run: said by hand-made figures, and measured once for real."""

import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.config import Config, NetworkConfig
from steel.distributed.runtime import start
from steel.errors import SharedError
from steel.model.network import UnifiedModel
from steel.shards.reader import ShardReader
from tests.shard_folder import small_shards
from train.budget import Budget
from train.doctor import benchmarks, preset_benchmarks
from train.doctor.checks import Finding
from train.doctor.decoded_cache import CachedRates
from train.doctor.preset_benchmarks import (
    StepCost,
    bound,
    compile_advice,
    compile_gain,
    not_compiled,
    probe_preset,
    step_cost,
)
from train.engine import compilation
from train.engine.compilation import CompileChoice
from train.fitting import fit_preset, preset_for
from train.presets import AUTO, SMOKE

PHASE = replace(SMOKE.phases[0], name="crops", batch_size=16, micro_batch=8)
UNKNOWN = "no room"


def costs(half: float, own: float, twice: float) -> dict[int, StepCost | None]:
    """Seconds of a step with micro-batches of 4, 8 and 16."""
    return {4: StepCost(half, 0), 8: StepCost(own, 0), 16: StepCost(twice, 0)}


def test_a_loader_with_a_quarter_to_spare_leaves_the_network() -> None:
    # 8 images in 0.02 s are 400 per second: 490 are too few, 500 are enough.
    (finding,) = bound(PHASE, {1: 490.0, 4: 500.0, 8: 900.0}, costs(0.01, 0.02, 0.04), UNKNOWN)
    assert finding == Finding("bound", "phase crops: the network, 400 images/s a rank; --runtime.workers 4 is enough")


def test_a_micro_batch_that_is_much_faster_is_named_with_what_it_changes() -> None:
    _, finding = bound(PHASE, {1: 1000.0}, costs(0.02, 0.02, 0.02), UNKNOWN)  # launches alone take the time
    assert finding.level == "fine"
    assert "a micro-batch of 16 would take 800 images/s; it changes what BatchNorm sees" in finding.text


def cached(held: float, decoded: float) -> CachedRates:
    return CachedRates(held, decoded, room=10, samples=10, num_bytes=1, memory=2)


@pytest.mark.parametrize(
    ("rates", "advice"),
    [
        (
            cached(812.0, 370.0),
            ", or decode once: 812 crops/s with --runtime.decoded-cache on, which auto, the default, is where a run "
            "saves time by it",
        ),
        (cached(380.0, 370.0), ""),
        (cached(812.0, 900.0), ""),
        (UNKNOWN, ""),
    ],
)
def test_a_slow_loader_is_a_warning_and_advice_is_what_was_measured(rates: CachedRates | str, advice: str) -> None:
    (finding,) = bound(PHASE, {1: 100.0, 4: 380.0, 8: 300.0}, costs(0.01, 0.02, 0.04), rates)
    assert finding.level == "warning"
    said = "the loader, 380 crops/s per rank with 4 workers where the network takes 400; give each rank more cores"
    assert finding.text == f"phase crops: {said}{advice}"


def test_too_little_memory_is_a_problem_and_names_what_fits() -> None:
    (finding,) = bound(PHASE, {1: 100.0}, {4: StepCost(0.1, 1), 8: None, 16: None}, UNKNOWN)
    assert finding.level == "problem"
    assert "micro-batch 8 does not fit; a smaller phases.N.micro-batch does, 4 here" in finding.text


def test_a_sum_that_cannot_hide_behind_the_backward_pass_is_a_warning() -> None:
    # Half of the step is as much as is let pass.
    own = StepCost(0.02, 0, sum_seconds=0.0101, sum_bytes=97_000_000)
    finding, other = bound(PHASE, {1: 1000.0}, {8: own}, UNKNOWN)
    assert (finding.level, other.level) == ("warning", "fine")
    said = "the link between the ranks: to sum 97 MB of gradients takes 10 ms, and a step of a micro-batch each 20;"
    assert finding.text.startswith(f"phase crops: {said}")
    (finding,) = bound(PHASE, {1: 1000.0}, {8: replace(own, sum_seconds=0.0099)}, UNKNOWN)
    assert "the network" in finding.text


def test_auto_is_what_a_run_on_these_shards_begins_with(tmp_path: Path) -> None:
    shards = small_shards(tmp_path / "shards")
    assert preset_for(AUTO, ShardReader(shards)) == fit_preset(AUTO, str(shards), [tmp_path / "run"], Budget())
    assert preset_for("smoke", ShardReader(shards)) == SMOKE


@pytest.fixture
def small() -> Config:
    """One phase of a network that takes no time."""
    network = replace(SMOKE.model, encoder="tu-test_resnet", decoder_channels=(8, 8))
    return replace(SMOKE, phases=SMOKE.phases[:1], model=network)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Functions that are asked to be compiled, and are left as they are; timed once."""
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: asked.append(function) or function)
    monkeypatch.setattr(compilation, "REPEATS", 1)
    return asked


def probe(config: Config, tmp_path: Path, *, compiles: bool) -> list[Finding]:
    config = replace(config, runtime=replace(config.runtime, cache_dir=str(tmp_path / "node")))
    reader = ShardReader(small_shards(tmp_path / "shards"))
    return list(probe_preset(start("no", cpu=True), config, reader, 1, compiles=compiles))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(preset_benchmarks, "STEP_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("compiles", [False, True])
def test_a_preset_is_measured(small: Config, uncompiled: list[Any], tmp_path: Path, compiles: bool) -> None:
    found = probe(small, tmp_path, compiles=compiles)
    bounds = ["bound"] * (len(found) - 3 - compiles)
    expected = ["loader", "loader", "step", *bounds, *["compile"][:compiles]]
    assert [finding.subject for finding in found] == expected
    said = r"phase crops: with the decoded cache \d+ crops/s with \d+ workers, \d+\.\dx those that decode; it takes "
    assert re.fullmatch(said + r"\d+ KiB", found[1].text)
    assert list((tmp_path / "node" / "decoded").iterdir()) == []
    assert re.search(r"images/s, \d+\.\d GiB\), 4 in ", found[2].text)
    assert "by micro-batch: 2 in " in found[2].text and ", 4 in " in found[2].text
    assert len(uncompiled) == compiles and ("x as fast; " in found[-1].text) == compiles
    assert {finding.level for finding in found} <= {"fine", "warning"}


def test_no_network_is_there_while_another_is_measured(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU its weights and moments would count as the other's memory."""
    made: list[weakref.ref[UnifiedModel]] = []
    others: list[int] = []

    def build(network: NetworkConfig) -> UnifiedModel:
        others.append(sum(one() is not None for one in made))
        model = UnifiedModel(network)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(preset_benchmarks, "UnifiedModel", build)
    monkeypatch.setattr(preset_benchmarks, "STEP_SECONDS", 0.0)
    runtime, reader = start("no", cpu=True), ShardReader(small_shards(tmp_path / "shards"))
    for micro_batch in (2, 4, 8):
        step_cost(runtime, small, reader, small.phases[0], (32, 64), micro_batch)
    assert others == [0, 0, 0]


def gain_of(small: Config, tmp_path: Path) -> Finding:
    reader = ShardReader(small_shards(tmp_path / "shards"))
    return compile_gain(start("no", cpu=True), small, reader, small.phases[0], (32, 64))


def test_compiling_is_measured_as_a_run_does_it(small: Config, uncompiled: list[Any], tmp_path: Path) -> None:
    finding = gain_of(small, tmp_path)
    assert len(uncompiled) == 1
    assert (finding.subject, finding.level) == ("compile", "fine")
    assert finding.text.startswith("phase crops: compiled, a micro-batch is ")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            CompileChoice(True, 1.251),
            "phase crops: compiled, a micro-batch is 1.25x as fast; --runtime.compile on takes it, auto never compiles "
            "on a CPU",
        ),
        (
            SharedError("phase crops: torch cannot, or take --runtime.compile off"),
            "phase crops: torch cannot; training needs none of it: on a CPU only --runtime.compile on compiles",
        ),
    ],
)
def test_what_compiling_gains_is_said(
    outcome: CompileChoice | SharedError,
    said: str,
    small: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def choose(training: Any, *_: Any) -> CompileChoice:
        assert training.config.runtime.compile == "on"
        if isinstance(outcome, SharedError):
            raise outcome
        return outcome

    monkeypatch.setattr(preset_benchmarks, "choose_compilation", choose)
    assert gain_of(small, tmp_path) == Finding("compile", said)


@pytest.mark.parametrize(
    ("gain", "on_cpu", "advice"),
    [
        (1.25, False, "--runtime.compile auto takes it"),
        (1.25, True, "--runtime.compile on takes it, auto never compiles on a CPU"),
        (1.02, False, "--runtime.compile off is as good"),
        (0.98, True, "--runtime.compile off is as good"),
        (0.8, True, "--runtime.compile off is faster"),
    ],
)
def test_advice_is_true_of_the_device(gain: float, on_cpu: bool, advice: str) -> None:
    assert compile_advice(gain, on_cpu=on_cpu) == advice


def test_a_missing_compiler_is_a_warning_on_a_gpu_alone() -> None:
    assert not_compiled("torch cannot", on_cpu=False) == Finding("compile", "torch cannot", "warning")
    assert not_compiled("torch cannot", on_cpu=True).level == "fine"

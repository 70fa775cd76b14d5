"""What the doctor says of a machine with a GPU, and what it measures there: the halves on a CPU run everywhere."""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from steel.config import Config
from steel.distributed.runtime import Runtime
from steel.machine import reset_peak_memory
from steel.model.network import UnifiedModel
from steel.model.passes import intra_op_threads
from steel.shards.reader import ShardReader
from tests.distributed.launching import run_script
from tests.doctor_report import complaints
from tests.gpu.places import PLACES, job_on
from tests.shard_folder import small_shards
from train.doctor import __main__ as doctor
from train.doctor import benchmarks, preset_benchmarks
from train.doctor.checks import check_gpus, run_checks
from train.doctor.link import UNKNOWN, find_link
from train.doctor.preset_benchmarks import StepCost, bound, step_cost
from train.engine.step import StepSums, TrainingState
from train.preparation import network_for
from train.presets import PRESETS, SMOKE

CROP = (64, 96)


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    return ShardReader(small_shards(tmp_path / "shards"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A recipe of one phase and a network of few layers, whose kernels need no memory beside that of tensors; measured
    in few steps."""
    monkeypatch.setattr(benchmarks, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(preset_benchmarks, "STEP_SECONDS", 0.0)
    network = replace(SMOKE.model, encoder="tu-test_resnet", decoder_channels=(8, 8))
    runtime = replace(SMOKE.runtime, cudnn_benchmark=False)
    return replace(SMOKE, phases=SMOKE.phases[:1], model=network, runtime=runtime)


def cost_of(runtime: Runtime, config: Config, reader: ShardReader, micro_batch: int) -> StepCost | None:
    return step_cost(runtime, config, reader, config.phases[0], CROP, micro_batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_every_gpu_is_listed_with_the_versions_it_runs_on() -> None:
    findings = run_checks({"gpu": check_gpus})
    assert not [finding for finding in findings if finding.level == "problem"]
    assert sum("compute" in finding.text for finding in findings) == torch.cuda.device_count()
    (nccl,) = [finding.text for finding in findings if finding.subject == "nccl"]
    assert f"CUDA {torch.version.cuda}, driver " in nccl
    assert "unknown" not in nccl


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("place", PLACES)
def test_a_preset_is_reported(
    place: torch.device,
    reader: ShardReader,
    tiny: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the whole program: with memory beside the time of each step, and with what a cache and compiling gain."""
    on_gpu = place.type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(not on_gpu).lower())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PRESETS, "smoke", tiny)
    if not on_gpu:  # where code for a graph takes minutes
        graph_of = partial(torch.compile, backend="aot_eager", fullgraph=True, dynamic=False)
        monkeypatch.setattr(torch, "compile", lambda function, **_: graph_of(function))
    asked = ["--preset", "smoke", "--data", str(reader.root), "--out", str(tmp_path), *["--compile"][: not on_gpu]]
    with intra_op_threads(1):  # see `job_on`
        assert doctor.main(asked) == 0
    report = capsys.readouterr().out
    AcceleratorState._reset_state(reset_partial_state=True)

    (steps,) = re.findall(r"^  step +phase crops: by micro-batch: (.*)$", report, re.MULTILINE)
    size = tiny.phases[0].micro_batch
    assert re.findall(r"(\d+) in \d+ ms \(\d+\.\d images/s, \d+\.\d GiB\)", steps) == [str(size), str(2 * size)], steps
    cached = (
        r"^  loader +phase crops: with the decoded cache \d+ crops/s with \d+ workers, \d+\.\dx those that decode; "
    )
    assert re.search(cached, report, re.MULTILINE), report
    assert not list((tmp_path / "cache" / "steel" / "decoded").iterdir())
    assert re.search(r"^[ !] bound +phase crops: the (network|loader), \d", report, re.MULTILINE), report
    gains = re.findall(r"^  compile +phase crops: compiled, a micro-batch is \d+\.\d+x as fast; ", report, re.MULTILINE)
    assert len(gains) == (not on_gpu or shutil.which("g++") is not None), report
    assert not [text for text in complaints(report) if not re.match("! (bound|compile) ", text)], report


@pytest.mark.parametrize("place", PLACES)
def test_a_step_is_timed_to_its_end_on_the_device(
    place: torch.device, reader: ShardReader, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has much of it still to do when the host has asked for all."""
    step = TrainingState.step

    def slow_step(training: TrainingState, *arguments: Any) -> StepSums:
        sums = step(training, *arguments)
        if place.type == "cuda":
            torch.cuda._sleep(10**9)  # in cycles, of which no GPU does more than three in a nanosecond
        else:
            time.sleep(0.3)
        return sums

    monkeypatch.setattr(TrainingState, "step", slow_step)
    with job_on(place) as runtime:
        cost = cost_of(runtime, tiny, reader, 2)
    assert cost is not None and cost.seconds >= 0.3


@pytest.mark.parametrize("place", PLACES)
def test_memory_is_that_of_one_micro_batch(place: torch.device, reader: ShardReader, tiny: Config) -> None:
    """Beside weights, gradients and moments, and nothing of what was measured before; on a CPU beside all else that the
    process holds."""
    on_gpu, image = place.type == "cuda", 4 * CROP[0] * CROP[1]  # normalised
    if not on_gpu and not reset_peak_memory():
        pytest.skip("needs glibc and a writable /proc/self/clear_refs")
    weights = sum(p.nbytes for p in UnifiedModel(network_for(tiny, reader.manifest)).parameters())
    many_images = 32 if on_gpu else 512
    with job_on(place) as runtime:
        costs = [cost_of(runtime, tiny, reader, size) for size in (2, many_images, 2, 2)]
    few, many, second, third = (cost.memory for cost in costs if cost is not None and cost.memory is not None)
    assert few > 4 * weights
    assert many > few + (many_images - 2) * image
    assert second < (few + many) / 2
    assert not on_gpu or third - second < weights


@contextlib.contextmanager
def little_memory(place: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU gives no more than 256 MiB beyond what is in use. A CPU is said to have none left."""
    if place.type == "cuda":
        torch.cuda.empty_cache()
        allowed = torch.cuda.memory_reserved(place) + 2**28
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info(place)[1], place)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place)
        return

    def run_out(*_: Any) -> StepSums:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "step", run_out)
        yield


@pytest.mark.parametrize("place", PLACES)
def test_what_does_not_fit_is_no_end(
    place: torch.device, reader: ShardReader, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 MB of normalised images on a GPU. What fits is measured after it as before."""
    large = 2**14 if place.type == "cuda" else 16
    with job_on(place) as runtime:
        with little_memory(place, monkeypatch):
            assert cost_of(runtime, tiny, reader, large) is None
        small = cost_of(runtime, tiny, reader, 2)
    assert small is not None
    phase = replace(tiny.phases[0], batch_size=large, micro_batch=large)
    (finding,) = bound(phase, {1: 100.0}, {2: small, large: None}, "no room")
    assert finding.level == "problem"
    assert f"micro-batch {large} does not fit; a smaller phases.N.micro-batch does, 2 here" in finding.text


@pytest.mark.parametrize("place", PLACES)
def test_the_link_is_known(place: torch.device) -> None:
    """On GPUs where `nvidia-smi` names those that torch does."""
    if place.type == "cuda" and shutil.which("nvidia-smi") is None:
        pytest.skip("needs nvidia-smi")
    with job_on(place) as runtime:
        link = find_link(runtime)
    assert link != UNKNOWN
    assert link.is_bound == (place.type == "cuda")
    assert place.type == "cuda" or (link.gb_per_s or 0) > 0


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_sum_over_their_link(tmp_path: Path) -> None:
    done = run_script(2, "-m", "train.doctor", "--out", tmp_path, CUDA_VISIBLE_DEVICES="0,1")
    said = r"^  all-reduce 2 ranks sum 100 MiB in \d+ ms \(.*(NVLink|PCIe)"
    assert re.search(said, done.stdout, re.MULTILINE), done.stdout
    assert not complaints(done.stdout), done.stdout

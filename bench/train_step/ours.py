"""Our side: the step that `train.fit` takes, with the hand-over of its figures. Tasks of a worker."""

import functools
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile

from bench.train_step.profiling import summary
from bench.train_step.setting import (
    CLIP_NORM,
    MEAN,
    STD,
    WEIGHT_DECAY,
    Meter,
    Setting,
    build_network,
    micro_batches,
    phase_of,
)
from steel.config import Config, OptimConfig, RuntimeConfig
from steel.distributed.ending import end_program
from steel.distributed.runtime import Runtime, start
from steel.distributed.signals import StopSignals
from steel.loading.train_loader import MicroBatch
from train.engine.batch_plan import PhasePlan, micro_batch_share
from train.engine.device_batches import device_batches
from train.engine.step import TrainingState
from train.engine.step_metrics import StepMetrics
from train.engine.stopwatch import TimedIterator

_METERS: list[Meter] = []
_OF_RANKS: defaultdict[Setting, list[dict[str, float]]] = defaultdict(list)
"""What the first of several ranks has seen, of each repeat."""


def step(**options: Any) -> tuple[int, float]:
    """A repeat: images, seconds; options as of `_asked`."""
    return _asked(**options).repeat()


def profiled(**options: Any) -> dict[str, Any]:
    """What a profiler saw of the timed steps of a repeat, as `profiling.summary` tells it; options as of `_asked`."""
    return _asked(**options).profile()


def _asked(
    *,
    compiled: bool = False,
    ddp: bool = False,
    keep_freed: bool = True,
    runtime: Mapping[str, bool] = MappingProxyType({}),
    **setting: object,
) -> "Loop":
    """The training under way that has these options.

    Args:
        compiled: by `torch.compile`.
        ddp: wrapped as where there are several ranks.
        keep_freed: have the C library keep freed memory, as training on a CPU does; once kept, a process keeps it.
        runtime: fields of `RuntimeConfig` that differ from the default.
        setting: the fields of a `Setting`.
    """
    changes = tuple(sorted(runtime.items()))
    return _loop(Setting(**setting), compiled, ddp, keep_freed, changes)  # type: ignore[arg-type]


def figures() -> dict[str, float]:
    """What else was seen of the last row."""
    return _METERS[-1].figures()


def ranks(*, world: int, **setting: object) -> tuple[int, float]:
    """A repeat by several gloo ranks, one thread each, in processes of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command += ["-m", "bench.train_step.ours", json.dumps({**setting, "threads": 1})]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.stderr.write(done.stderr)  # the launcher frames what its ranks say of themselves
        raise RuntimeError(f"exit code {done.returncode}")
    images, seconds, seen = json.loads(done.stdout.strip().rpartition("\n")[2])
    meter = Meter(Setting(**setting))  # type: ignore[arg-type]
    repeats = _OF_RANKS[Setting(**setting)]  # type: ignore[arg-type]
    repeats.append(seen)
    meter.figures = lambda: _medians(repeats)  # type: ignore[method-assign]
    _METERS.append(meter)
    return images, seconds


def _medians(repeats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure, the first repeat left out, as `Meter.figures` does."""
    counted = repeats[1:] or repeats
    return {name: statistics.median(each[name] for each in counted) for name in counted[0]}


class Loop:
    """A training under way that never ends."""

    def __init__(
        self,
        setting: Setting,
        runtime: Runtime,
        *,
        compiled: bool = False,
        ddp: bool = False,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        config = Config(
            "bench",
            phases=(phase_of(setting),),
            optim=OptimConfig(weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM),
            runtime=RuntimeConfig(precision="no" if setting.precision == "no" else "bf16", **changes),
        )
        self.training = TrainingState(runtime, config, build_network(setting), MEAN, STD, freeze_steps=0)
        if ddp:
            self.training.wrapped = _wrapped(self.training.micro_batch_losses, setting.device)
            # By itself accelerate lets each micro-batch sum gradients where it knows of one rank only.
            runtime.accelerator.no_sync = DistributedDataParallel.no_sync
        if compiled:
            self.training.micro_batch_losses.compile_anew(cuda_graphs=setting.device == "cuda")
        phase = config.phases[0]
        share = micro_batch_share(phase, runtime.rank, runtime.world)
        self._plan = PhasePlan(0, phase, setting.batch, 10**9, 0, share)
        self._batches = device_batches(micro_batches(setting, share, pin_in_place=True), runtime.device)
        self._metrics = StepMetrics(runtime, StopSignals(), fp16=False)
        self._numbers = count()
        self._setting = setting
        self.meter = Meter(setting)
        _METERS.append(self.meter)

    def repeat(self) -> tuple[int, float]:
        """The lead, then a stretch of steps."""
        batches = TimedIterator(self._batches)
        if self._setting.lead:
            self.meter.launch()
            self._steps(batches, self._setting.lead)
            self.meter.launched(waited=batches.take_seconds())
        self.meter.start()
        self._steps(batches, self._setting.steps, self.meter.stepped)
        return self.meter.stop(waited=batches.take_seconds())

    def profile(self) -> dict[str, Any]:
        """As `repeat`, under a profiler; see `summary`."""
        self.repeat()
        batches = TimedIterator(self._batches)
        with profile():  # the first kernels that it sees cost more
            self._steps(batches, 1)
        batches.take_seconds()
        with profile() as profiler:
            self.meter.start()
            self._steps(batches, self._setting.steps, self.meter.stepped)
            waited = batches.take_seconds()
            _, seconds = self.meter.stop(waited=waited)
        return summary(profiler, self._setting.steps, seconds, waited)

    def _steps(self, batches: TimedIterator[MicroBatch], num: int, stepped: Callable[[], None] = lambda: None) -> None:
        """So many steps; `stepped` is called behind each."""
        for number in (next(self._numbers) for _ in range(num)):
            sums = self.training.step(self._plan, number, self._plan.phase.lr, batches)
            done = self._metrics.push(self._plan, number, self._plan.phase.lr, sums)
            if done is not None and self.meter.first_loss is None:
                self.meter.first_loss = sum(done.losses.values())
            stepped()


@functools.lru_cache(maxsize=1)
def _loop(setting: Setting, compiled: bool, ddp: bool, keep_freed: bool, changes: tuple[tuple[str, bool], ...]) -> Loop:
    # Where the environment sets the allocator, be it to its default, training leaves it as it is.
    with mock.patch.dict(os.environ, {} if keep_freed else {"MALLOC_PERTURB_": "0"}):
        runtime = start(setting.precision, cpu=setting.device == "cpu")
    return Loop(setting, runtime, compiled=compiled, ddp=ddp, changes=dict(changes))


def _wrapped(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """As Accelerate wraps it where there are several ranks; here there is one."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group(backend_of(device), store=store, rank=0, world_size=1)
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def backend_of(device: str) -> str:
    """What sums gradients on `cpu` or `cuda`: what training takes there."""
    return "nccl" if device == "cuda" else "gloo"


def main() -> None:
    """One of several ranks; the first prints what all did."""
    setting = Setting(**json.loads(sys.argv[1]))
    with start(setting.precision, cpu=setting.device == "cpu").running() as runtime:
        loop = Loop(setting, runtime)
        loop.repeat()
        runtime.barrier()
        images, seconds = loop.repeat()
        if runtime.is_main:
            print(json.dumps([images, seconds, loop.meter.figures()]))


if __name__ == "__main__":
    main()
    end_program(0)

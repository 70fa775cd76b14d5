"""What all sides of a row have in common: network, loss, batches, optimizer, and how a step is timed.

Runs in the project's environment and in the peers', which borrows it.
"""

import functools
import itertools
import resource
import statistics
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from segmentation_models_pytorch.encoders.efficientnet import EfficientNetEncoder
from timm.layers import DropPath
from torch.nn.modules.dropout import _DropoutNd

from steel.config import NetworkConfig, PhaseConfig
from steel.loading.augment import Augmenter
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import MicroBatch, train_batches, unpack_targets
from steel.machine import keep_freed_memory
from steel.model.losses import head_losses
from steel.model.network import UnifiedModel, normalise
from steel.shards.reader import ShardReader
from train.engine.batch_plan import MicroBatchRange
from train.engine.made_up_batch import made_up_batch
from train.presets import SEVERSTAL

NUM_CLASSES = 4
MEAN, STD = (0.34,), (0.2,)
CLIP_NORM, LR, WEIGHT_DECAY = 1.0, 1e-4, 0.01
LOSS = SEVERSTAL.phases[0].loss
WORKERS = 2


@dataclass(frozen=True)
class Setting:
    """Of a row; plain values, so that it can be handed to other processes."""

    architecture: str = "Unet"
    encoder: str = "resnet18"
    height: int = 192
    width: int = 192
    batch: int = 8
    """Images a step."""
    micro: int = 8
    """Images a forward pass."""
    steps: int = 1
    """Timed ones of a repeat, after `lead`."""
    threads: int = 2
    """Of torch, on a CPU."""
    device: str = "cpu"
    precision: str = "no"
    """`no` or `bf16`."""
    shards: str | None = None
    """Where the loader reads; a made-up batch over and over when None."""

    @property
    def lead(self) -> int:
        """Steps before the timed ones of a repeat: one on a GPU, which tells the host's time on an idle device."""
        return 1 if self.device == "cuda" else 0

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.encoder}, {self.height}x{self.width}, batch {self.batch}"


def build_network(setting: Setting) -> UnifiedModel:
    """The same weights on every side; nothing is dropped, so that losses can be compared."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    model = UnifiedModel(NetworkConfig(setting.architecture, setting.encoder, NUM_CLASSES, 1, dropout=0.0))
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, EfficientNetEncoder):  # which drops whole blocks by itself
            module._drop_connect_rate = 0.0
    return model


def set_allocator(*, keep_freed: bool) -> None:
    """Of this process, before it computes: the C library's own, or, `keep_freed`, as training on a CPU has it.

    Raises:
        RuntimeError: it is to keep what is freed, and cannot.
    """
    if keep_freed and not keep_freed_memory():
        raise RuntimeError("freed memory is not kept: a C library other than glibc, or MALLOC_... is set")


def phase_of(setting: Setting) -> PhaseConfig:
    """One that never ends."""
    crop = (setting.height, setting.width)
    return replace(
        SEVERSTAL.phases[0], epochs=1e6, crop=crop, batch_size=setting.batch, micro_batch=setting.micro, lr=LR
    )


def micro_batches(
    setting: Setting, share: range | None = None, *, pin_in_place: bool = False
) -> Generator[MicroBatch, None, None]:
    """Without end: those of `share` of each step, all of them when None. For `pin_in_place` see `train_batches`."""
    share = share or range(setting.batch // setting.micro)
    crop, on_gpu = (setting.height, setting.width), setting.device == "cuda"
    if setting.shards is None:
        for index in itertools.cycle(share):
            yield _made_up(setting.micro, crop, on_gpu, index)
    assert setting.shards is not None
    reader, phase = ShardReader(setting.shards), phase_of(setting)
    rows = torch.arange(len(reader)).numpy()
    sampler = build_sampler(rows, reader.index.areas, phase.sampling, seed=0, phase=0, shards=reader.index.shard)
    augmenter = Augmenter(SEVERSTAL.augment, crop, phase.sampling, NUM_CLASSES, reader.manifest.ignore_bit)
    numbers = ((step, index) for step in itertools.count() for index in share)
    firsts = ((step, index, step * setting.batch + index * setting.micro) for step, index in numbers)
    places = (MicroBatchRange(step, index, range(first, first + setting.micro)) for step, index, first in firsts)
    given = reader, sampler, augmenter, places
    yield from train_batches(*given, seed=0, phase=0, workers=WORKERS, pin_memory=on_gpu, pin_in_place=pin_in_place)


@functools.cache
def _made_up(num: int, crop: tuple[int, int], on_gpu: bool, index: int) -> MicroBatch:
    return made_up_batch(1, NUM_CLASSES, num, crop, pin_memory=on_gpu, index=index)


def loss_of(
    setting: Setting, network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, *, channels_last: bool
) -> torch.Tensor:
    """What a plain loop writes down: normalise, run, weigh the losses; this micro-batch's share of the step's mean.

    Args:
        setting: of the row.
        network: a `UnifiedModel` or what wraps it.
        images: (m, 1, h, w) uint8, on the device.
        targets: (m, h, w) packed, there too.
        channels_last: the order in which the network takes images.
    """
    inputs = normalise(images, MEAN, STD)
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return loss_of_outputs(setting, network(inputs), targets)


def loss_of_outputs(setting: Setting, outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """As `loss_of`, of the network's outputs."""
    masks, valid = unpack_targets(targets, NUM_CLASSES)
    losses = head_losses(outputs, masks, valid, LOSS)
    return torch.stack([loss.sum() / (setting.batch * loss.shape[1]) for loss in losses.values()]).sum()


def takes_fused_optimizer(setting: Setting, *, channels_last: bool) -> bool:
    """Not on a CPU for a network in channels_last: fused, AdamW errs there where a gradient does not lie in memory as
    its parameter does."""
    return setting.device == "cuda" or not channels_last


def build_plain_optimizer(network: torch.nn.Module, *, fused: bool) -> torch.optim.AdamW:
    """torch's AdamW, fused or its usual one."""
    return torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=fused)


class Meter:
    """Times stretches of steps, each from a moment at which the device has nothing to do to the next such; before each,
    what the host does for a step while the device keeps it waiting for nothing.

    On a GPU an event stands before the first step of a stretch and behind each. The device passes them in turn with its
    work, and they are read once the stretch is over, so that no step waits for its time. Where the host is the slower
    of both, the time between two events is that of the host.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._steps: list[float] = []
        self._host: list[float] = []
        self._waits: list[float] = []
        self._ends: list[torch.cuda.Event] = []
        """Events of the stretch under way: its start, and the end of each of its steps."""
        self._device: list[float] = []
        """Of each stretch, the median milliseconds of a step between two events."""
        self._shares: list[float] = []
        self.first_loss: float | None = None

    def lose(self, share: torch.Tensor) -> None:
        """A micro-batch's share of its step's loss, in turn: those of the first step are the first loss."""
        if self.first_loss is None:
            self._shares.append(share.item())
            if len(self._shares) == self._setting.batch // self._setting.micro:
                self.first_loss = sum(self._shares)

    def launch(self) -> None:
        """The next step begins on an idle device; it is of no stretch."""
        self._synchronise()
        self._begun = time.perf_counter()

    def launched(self, *, waited: float = 0.0) -> None:
        """All of that step has been launched; `waited` seconds for data."""
        self._host.append(time.perf_counter() - self._begun - waited)

    def start(self) -> None:
        """The next step is the first of a stretch."""
        self._synchronise()
        self._ends.clear()
        self._begun = time.perf_counter()
        self.stepped()

    def stepped(self) -> None:
        """All of a step of the stretch has been launched; without a GPU nothing is noted."""
        if self._setting.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._ends.append(event)

    def stop(self, *, waited: float | None = None) -> tuple[int, float]:
        """The setting's number of steps has been launched: (images, seconds).

        Args:
            waited: seconds of them in which the host waited for data.
        """
        self._synchronise()
        seconds = time.perf_counter() - self._begun
        self._steps.append(seconds / self._setting.steps)
        if self._ends:
            assert len(self._ends) == self._setting.steps + 1, "each step of the stretch has told its end"
            self._device.append(statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(self._ends)))
        if waited is not None:
            self._waits.append(waited / seconds)
        return self._setting.steps * self._setting.batch, seconds

    def _synchronise(self) -> None:
        if self._setting.device == "cuda":
            torch.cuda.synchronize()

    def figures(self) -> dict[str, float]:
        """Medians, the first of each left out; the times of host and device only where they are two."""
        on_gpu = self._setting.device == "cuda"
        most_held = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory = torch.cuda.max_memory_allocated() if on_gpu else most_held
        found = {"step_ms": 1000 * statistics.median(self._steps[1:] or self._steps), "memory_gib": memory / 2**30}
        if on_gpu:
            found["host_ms"] = 1000 * statistics.median(self._host[1:] or self._host)
            found["device_ms"] = statistics.median(self._device[1:] or self._device)
        if self._waits and self._setting.shards is not None:
            found["data_wait"] = statistics.median(self._waits[1:] or self._waits)
        if self.first_loss is not None:
            found["first_loss"] = self.first_loss
        return found

"""The plain loop that anybody writes: forward, loss, backward, clip, step. Tasks of a worker."""

import functools

import torch

from bench.train_step.setting import (
    CLIP_NORM,
    Meter,
    Setting,
    build_network,
    build_plain_optimizer,
    loss_of,
    micro_batches,
    set_allocator,
    takes_fused_optimizer,
)
from train.engine.stopwatch import TimedIterator

_METERS: list[Meter] = []


def step(
    *, channels_last: bool, compiled: bool = False, keep_freed: bool = False, **setting: object
) -> tuple[int, float]:
    """A repeat: images, seconds."""
    set_allocator(keep_freed=keep_freed)
    return _loop(Setting(**setting), channels_last, compiled).repeat()  # type: ignore[arg-type]


def figures() -> dict[str, float]:
    """What else was seen of the last row."""
    return _METERS[-1].figures()


class Loop:
    """A training under way that never ends."""

    def __init__(self, setting: Setting, channels_last: bool, compiled: bool = False) -> None:
        self._setting = setting
        self.network = build_network(setting).to(setting.device).train()
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        loss = functools.partial(loss_of, setting, self.network, channels_last=channels_last)
        self._loss = torch.compile(loss, dynamic=False) if compiled else loss
        fused = takes_fused_optimizer(setting, channels_last=channels_last)
        self._optimizer = build_plain_optimizer(self.network, fused=fused)
        self._batches = micro_batches(setting)
        self.meter = Meter(setting)
        _METERS.append(self.meter)

    def repeat(self) -> tuple[int, float]:
        """The lead, then a stretch of steps."""
        batches = TimedIterator(self._batches)
        if self._setting.lead:
            self.meter.launch()
            self._step(batches)
            self.meter.launched(waited=batches.take_seconds())
        self.meter.start()
        for _ in range(self._setting.steps):
            self._step(batches)
            self.meter.stepped()
        return self.meter.stop(waited=batches.take_seconds())

    def _step(self, batches: TimedIterator) -> None:
        setting = self._setting
        for _ in range(setting.batch // setting.micro):
            batch = next(batches)
            images = batch.images.to(setting.device, non_blocking=True)
            targets = batch.targets.to(setting.device, non_blocking=True)
            with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
                loss = self._loss(images, targets)
            loss.backward()
            self.meter.lose(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


@functools.lru_cache(maxsize=1)
def _loop(setting: Setting, channels_last: bool, compiled: bool) -> Loop:
    return Loop(setting, channels_last, compiled)

"""PyTorch Lightning's and MONAI's training steps on the same network, batches and optimizer. Tasks of a worker."""

import functools
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch

from bench.train_step.setting import (
    CLIP_NORM,
    MEAN,
    STD,
    Meter,
    Setting,
    build_network,
    build_plain_optimizer,
    loss_of,
    loss_of_outputs,
    micro_batches,
    set_allocator,
    takes_fused_optimizer,
)
from steel.model.network import normalise

_METERS: list[Meter] = []


def lightning(*, channels_last: bool, keep_freed: bool = False, **setting: object) -> tuple[int, float]:
    """A repeat with Lightning's Trainer: images, seconds."""
    set_allocator(keep_freed=keep_freed)
    return _lightning(Setting(**setting), channels_last)()  # type: ignore[arg-type]


def monai(*, channels_last: bool, keep_freed: bool = False, **setting: object) -> tuple[int, float]:
    """A repeat with MONAI's SupervisedTrainer: images, seconds."""
    set_allocator(keep_freed=keep_freed)
    return _monai(Setting(**setting), channels_last)()  # type: ignore[arg-type]


def versions() -> dict[str, str]:
    """Of the peers."""
    return {name: version(name) for name in ("pytorch-lightning", "monai", "pytorch-ignite")}


def figures() -> dict[str, float]:
    """What else was seen of the last row."""
    return _METERS[-1].figures()


def _pairs(setting: Setting) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in micro_batches(setting):
        yield batch.images, batch.targets


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


class _Feed:
    """What their trainers take for a loader: an iterable, each time from where the last one ended."""

    def __init__(self, setting: Setting) -> None:
        self._pairs = _pairs(setting)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self._pairs.__next__, None)


@functools.lru_cache(maxsize=1)
def _lightning(setting: Setting, channels_last: bool) -> Any:
    import pytorch_lightning as pl

    meter, feed = Meter(setting), _Feed(setting)
    _METERS.append(meter)
    micro_steps = setting.batch // setting.micro
    lead, layout = setting.lead * micro_steps, _layout(channels_last)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = build_network(setting).to(memory_format=layout)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            share = loss_of(setting, self.network, *batch, channels_last=channels_last)
            meter.lose(share)
            return micro_steps * share  # Lightning divides by their number

        def configure_optimizers(self) -> torch.optim.Optimizer:
            # In mixed precision Lightning clips no gradients of a fused one.
            fused = setting.precision == "no" and takes_fused_optimizer(setting, channels_last=channels_last)
            return build_plain_optimizer(self.network, fused=fused)

    class Clock(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == lead:
                meter.start()
            elif index == 0:
                meter.launch()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index == lead - 1:
                meter.launched()
            elif index % micro_steps == micro_steps - 1:
                meter.stepped()
            if index == lead + setting.steps * micro_steps - 1:
                self.result = meter.stop()

    module = Module()

    def repeat() -> tuple[int, float]:
        clock = Clock()
        trainer = pl.Trainer(
            accelerator="gpu" if setting.device == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            limit_train_batches=lead + setting.steps * micro_steps,
            accumulate_grad_batches=micro_steps,
            gradient_clip_val=CLIP_NORM,
            precision="bf16-mixed" if setting.precision == "bf16" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(module, feed)
        return clock.result

    return repeat


@functools.lru_cache(maxsize=1)
def _monai(setting: Setting, channels_last: bool) -> Any:
    from ignite.engine import Events
    from monai.engines import SupervisedTrainer
    from monai.engines.utils import IterationEvents

    meter, feed = Meter(setting), _Feed(setting)
    _METERS.append(meter)
    micro_steps = setting.batch // setting.micro
    lead, layout = setting.lead * micro_steps, _layout(channels_last)
    network = build_network(setting).to(setting.device).to(memory_format=layout)
    fused = takes_fused_optimizer(setting, channels_last=channels_last)
    optimizer = build_plain_optimizer(network, fused=fused)

    def prepare(batch: Any, device: Any, non_blocking: bool, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = (values.to(device, non_blocking=non_blocking) for values in batch)
        return normalise(images, MEAN, STD).contiguous(memory_format=layout), targets

    def loss_function(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        share = loss_of_outputs(setting, outputs, targets)
        meter.lose(share)
        return micro_steps * share  # MONAI divides by their number

    def clip(trainer: Any) -> None:
        if trainer.state.iteration % micro_steps == 0:
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)

    def repeat() -> tuple[int, float]:
        results: list[tuple[int, float]] = []
        trainer = SupervisedTrainer(
            device=torch.device(setting.device),
            max_epochs=1,
            epoch_length=lead + setting.steps * micro_steps,
            train_data_loader=feed,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            prepare_batch=prepare,
            non_blocking=True,
            amp=setting.precision == "bf16",
            amp_kwargs={"dtype": torch.bfloat16} if setting.precision == "bf16" else None,
            decollate=False,
            optim_set_to_none=True,
            accumulation_steps=micro_steps,
        )
        if trainer.amp:  # bfloat16 has float32's range; and the norm would be that of scaled gradients
            trainer.scaler = torch.amp.GradScaler(enabled=False)
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, clip)

        def before_each(engine: Any) -> None:
            if engine.state.iteration == lead + 1:
                meter.start()
            elif engine.state.iteration == 1:
                meter.launch()

        def after_each(engine: Any) -> None:
            if engine.state.iteration == lead:
                meter.launched()
            elif engine.state.iteration % micro_steps == 0:
                meter.stepped()

        trainer.add_event_handler(Events.ITERATION_STARTED, before_each)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, after_each)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: results.append(meter.stop()))
        trainer.run()
        return results[0]

    return repeat

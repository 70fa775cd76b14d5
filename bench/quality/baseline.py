"""The plain training loop that most people would write first, on the same shards and with the same network.

A U-Net from scratch or on a pretrained encoder, AdamW under a one-cycle rate, BCE + Dice over the batch, flips,
brightness and contrast, channels-last; the last weights are what it gives.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import albumentations as A
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from bench.quality.networks import mixed_precision
from bench.quality.trial import TEST, VALIDATION, Trial
from steel.checkpoint import Checkpoint, save_checkpoint
from steel.config import ModelConfig, NetworkConfig
from steel.images.bitmask import unpack_masks
from steel.model.network import UnifiedModel
from steel.pretrained.stem import Normalisation
from steel.shards.reader import Sample, ShardReader
from steel.shards.selection import folds_of, rows_in
from train.engine.weight_initialisation import find_first_weights


def train_plain(
    folder: Path,
    data: Path,
    *,
    encoder: str,
    decoder: tuple[int, ...],
    passes: int,
    crop: tuple[int, int],
    seed: int,
    batch_size: int = 16,
    lr: float = 1e-3,
    weights: str = "none",
    held_out: Sequence[int] = (VALIDATION, TEST),
) -> Trial:
    """Train on every fold but those held out; what was finished before is not done again.

    The network is stored as a checkpoint of the same kind as ours, with a classification head that was never trained,
    so that one and the same code scores both.

    Args:
        folder: of the training.
        data: its shards.
        encoder: by smp's name.
        decoder: widths of the U-Net, deepest first.
        passes: over the training images.
        crop: height and width.
        seed: of first weights, order and augmentation.
        batch_size: images a step.
        lr: peak of the one-cycle rate.
        weights: the encoder's first ones, as `--model.weights`; inputs are normalised as they expect.
        held_out: folds that it does not see.
    """
    trial, reader = Trial(folder), ShardReader(str(data))
    folds = [fold for fold in folds_of(reader) if fold not in held_out]
    rows = rows_in(reader, folds, "train").tolist()
    steps = math.ceil(passes * len(rows) / batch_size)
    asked = [
        *(encoder, "-".join(map(str, decoder)), f"{passes} passes", "crops of {}x{}".format(*crop), f"seed {seed}"),
        *(f"{steps} steps of {batch_size}", f"a rate of {lr:g}", weights, f"without folds {held_out}"),
    ]
    if trial.is_done(asked):
        return trial
    begun, used = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    manifest = reader.manifest
    samples = [reader.read(row) for row in rows]

    network = NetworkConfig("Unet", encoder, manifest.num_classes, manifest.channels, decoder)
    model = _build(network)
    holder = UnifiedModel(network)
    first = find_first_weights(holder, ModelConfig(weights=weights), None, manifest)
    if first.encoder is not None:
        model.encoder.load_state_dict(holder.encoder.state_dict())
    model.to(device).to(memory_format=torch.channels_last)
    batches = _batches(samples, manifest.num_classes, crop, batch_size, seed)
    _optimise(model, batches, first.inputs, steps=steps, lr=lr)
    seconds, processor_seconds = time.perf_counter() - begun, time.process_time() - used

    folder.mkdir(parents=True, exist_ok=True)
    tensors = _as_ours(model, network)
    save_checkpoint(
        trial.checkpoint,
        Checkpoint(network, manifest.class_names, first.inputs.mean, first.inputs.std, tensors, folds={"train": folds}),
    )
    trial.finish(seconds, processor_seconds, asked)
    return trial


def _optimise(
    model: nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    inputs: Normalisation,
    *,
    steps: int,
    lr: float,
) -> None:
    """Train in place for so many steps."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    dice = smp.losses.DiceLoss(mode="multilabel")
    bce = nn.BCEWithLogitsLoss()
    mean, std = (torch.tensor(each, device=device).view(-1, 1, 1) for each in (inputs.mean, inputs.std))
    model.train()
    for _, (images, masks) in zip(range(steps), batches, strict=False):
        pixels = (images.to(device).float() / 255 - mean) / std
        truth = masks.to(device).float()
        with mixed_precision(device):
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = bce(logits.float(), truth) + dice(logits.float(), truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _build(network: NetworkConfig) -> smp.Unet:
    """The U-Net with random weights, without anything of ours."""
    return smp.Unet(
        network.encoder,
        encoder_weights=None,
        decoder_channels=network.decoder_channels,
        in_channels=network.in_channels,
        classes=network.num_classes,
    )


def _batches(
    samples: Sequence[Sample], num_classes: int, crop: tuple[int, int], batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented crops (h, w) without end: (B, channels, h, w) uint8 and masks (B, num_classes, h, w) uint8.

    A batch that a pass leaves incomplete is filled from the next one, as ours are: none sees fewer images.
    """
    order = _shuffled_passes(len(samples), seed)
    augment = A.Compose(
        [
            A.PadIfNeeded(*crop),
            A.RandomCrop(*crop),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomBrightnessContrast(p=0.5),
        ],
        seed=seed,
    )
    while True:
        chosen = [samples[i] for i in itertools.islice(order, batch_size)]
        done = [augment(image=sample.image, mask=sample.bitmask) for sample in chosen]
        images = np.stack([d["image"] for d in done]).reshape(batch_size, *crop, -1)
        masks = np.stack([unpack_masks(d["mask"], num_classes) for d in done])
        yield torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def _shuffled_passes(num: int, seed: int) -> Iterator[int]:
    """Pass after pass over `num` samples, each in an order of its own, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(num).tolist()


def _as_ours(model: nn.Module, network: NetworkConfig) -> dict[str, torch.Tensor]:
    """The weights as a checkpoint of one member holds them, with a classification head that knows nothing."""
    holder = UnifiedModel(network)
    missing = holder.load_state_dict(model.state_dict(), strict=False)
    assert not missing.unexpected_keys, missing
    return {name: tensor.unsqueeze(0) for name, tensor in holder.state_dict().items()}

"""Networks for a part of the work: the unified one's, a classifier's, one class's U-Net.

All are built of the same encoder, decoder, head, losses, augmentation and optimizer (a `Recipe`) and trained by the
same short loop, so that only the division of labour differs. As in the cascades, classifiers see whole images, and a
U-Net sees images that have its class. What tells several classes apart draws images in the recipe's order.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench.quality.recipes import Recipe
from steel.config import NetworkConfig, PhaseConfig, TilingConfig
from steel.images.geometry import restore_size
from steel.loading.augment import Augmenter
from steel.loading.eval_loader import eval_batches
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import train_batches, unpack_targets
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.model.heads import SEGMENTATION, Features, pool
from steel.model.losses import classification_loss, head_losses, labels_from_targets
from steel.model.lr_schedule import lr_at
from steel.model.network import UnifiedModel, normalise, reflect_to_stride
from steel.model.optimizer import AveragedTensors, ExponentialAverage, build_optimizer, set_lr
from steel.model.passes import default_pixels_per_pass
from steel.model.tta import quantise
from steel.precision import choose_precision
from steel.shards.reader import ShardReader
from steel.shards.selection import rows_in
from train.engine.data import resolve_crop
from train.engine.weight_initialisation import find_first_weights


def mixed_precision(device: torch.device) -> torch.autocast:
    """As a user has it: bf16, but not where it is emulated; a step takes 13 times as long on such a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=choose_precision("auto", device.type) == "bf16")


@dataclass(frozen=True)
class Task:
    """What one network is to say."""

    name: str
    classes: tuple[int, ...]
    """It segments, from 0."""
    labels: tuple[int, ...]
    """It classifies: 0 for any defect, then the classes from 1."""

    def phase(self, recipe: Recipe) -> PhaseConfig:
        """How it is trained, but for the number of steps."""
        weights = recipe.phase.loss.class_weights
        loss = replace(recipe.phase.loss, class_weights=(weights and tuple(weights[k] for k in self.classes)) or None)
        phase = replace(recipe.phase, loss=loss)
        if max(len(self.classes), len(self.labels)) == 1:  # it has no classes whose shares could be equal
            phase = replace(phase, sampling=replace(phase.sampling, order="natural"))
        if not self.classes:
            phase = replace(phase, crop=(0, 0), sampling=replace(phase.sampling, defect_crop=0.0, paste=0.0))
        return phase


def tasks(num_classes: int) -> tuple[Task, tuple[Task, ...]]:
    """The unified network's task, and those of the cascade."""
    everything = tuple(range(num_classes))
    labels = tuple(range(1, num_classes + 1))
    unets = [Task(f"U-Net of class {k + 1}", (k,), ()) for k in everything]
    cascade = (Task("binary", (), (0,)), Task("multi-label", (), labels), *unets)
    return Task("unified", everything, (0, *labels)), cascade


class Network:
    """A network for one task, with only those parts that the task needs."""

    def __init__(self, task: Task, recipe: Recipe, reader: ShardReader, rows: np.ndarray, seed: int) -> None:
        torch.manual_seed(seed)
        self.task, self.recipe, self.manifest = task, recipe, reader.manifest
        self.phase = task.phase(recipe)
        config = NetworkConfig(
            recipe.model.architecture,
            recipe.model.encoder,
            max(1, len(task.classes)),
            self.manifest.channels,
            recipe.model.decoder_channels,
            recipe.model.dropout,
        )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = UnifiedModel(config)
        self.inputs = find_first_weights(self.model, recipe.model, None, self.manifest).inputs
        head = self.model.classification_head.linear
        self.model.classification_head.linear = torch.nn.Linear(head.in_features, max(1, len(task.labels)))
        self.rows = rows
        areas = np.asarray(reader.index.areas)
        if len(task.classes) == 1:
            self.rows = rows[areas[rows, task.classes[0]] > 0]
        self._start_heads(areas[self.rows], reader)
        self.model.to(self.device).to(memory_format=torch.channels_last)

    def _start_heads(self, areas: np.ndarray, reader: ShardReader) -> None:
        """Biases at the frequencies of what the network will see, as `train.engine.weight_initialisation` does it."""
        present = areas > 0
        labels = np.concatenate([present.any(1, keepdims=True), present], axis=1).mean(0)
        sizes = reader.index.original_height[self.rows].astype(np.int64) * reader.index.original_width[self.rows]
        shares = areas.sum(0, dtype=np.float64) / sizes.sum()
        convolution = self.model.segmentation_head.get_submodule("0")
        for layer, chosen, frequencies in (
            (convolution, self.task.classes, shares),
            (self.model.classification_head.linear, self.task.labels, labels),
        ):
            if chosen:
                clipped = np.clip(frequencies[list(chosen)], 1e-3, 1 - 1e-3)
                with torch.no_grad():
                    layer.get_parameter("bias").copy_(torch.logit(torch.from_numpy(clipped)))

    @property
    def num_parameters(self) -> int:
        """Of the parts in use."""
        model = self.model
        parts = [model.encoder]
        parts += [model.decoder, model.segmentation_head] if self.task.classes else []
        parts += [model.classification_head] if self.task.labels else []
        return sum(p.numel() for part in parts for p in part.parameters())

    def __call__(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """uint8 images -> mask logits (n, classes, H, W) and label logits (n, labels), None where not asked for."""
        pixels = normalise(images.to(self.device), self.inputs.mean, self.inputs.std)
        height, width = pixels.shape[-2:]
        padded = reflect_to_stride(pixels, self.model.stride).contiguous(memory_format=torch.channels_last)
        with mixed_precision(self.device):
            features, head = self.model.encoder(padded), self.model.classification_head
            masks = labels = None
            if self.task.classes:
                decoded = self.model.decoder(features)
                masks = self.model.segmentation_head(decoded)
                if self.task.labels:
                    labels = head(Features((padded.shape[-2], padded.shape[-1]), decoded, features[-1], masks))
                masks = masks[..., :height, :width]
            elif self.task.labels:  # a classifier has no masks
                labels = head.linear(head.dropout(pool(features[-1])))
        return masks, labels

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Of a batch: segmentation and classification as the recipe weighs them; a classifier alone has weight 1."""
        truth, valid = unpack_targets(targets.to(self.device), self.manifest.num_classes)
        masks, labels = self(images)
        loss = torch.zeros((), device=self.device)
        if masks is not None:
            wanted = truth[:, list(self.task.classes)]
            loss = loss + head_losses({SEGMENTATION: masks}, wanted, valid, self.phase.loss)[SEGMENTATION].mean()
        if labels is not None:
            wanted = labels_from_targets(truth, valid)[:, list(self.task.labels)]
            weight = self.phase.loss.weights.get("classification", 0.0) if masks is not None else 1.0
            loss = loss + weight * classification_loss(labels, wanted).mean()
        return loss

    def train(self, reader: ShardReader, steps: int, seed: int) -> float:
        """Train for so many steps; the seconds a step took, the first ones left out. A moving average is kept."""
        phase = self.phase
        sampler = build_sampler(self.rows, np.asarray(reader.index.areas), phase.sampling, seed=seed, phase=0)
        crop = resolve_crop(reader, self.rows, phase.crop, TilingConfig())
        augmenter = Augmenter(
            self.recipe.augment, crop, phase.sampling, self.manifest.num_classes, self.manifest.ignore_bit
        )
        size = phase.batch_size
        places = (_Place(0, range(step * size, (step + 1) * size)) for step in range(steps))
        optimizer = build_optimizer(self.model, self.recipe.optim)
        decay = self.recipe.optim.ema_decay
        average = ExponentialAverage(self.model, decay) if decay else None
        latest = AveragedTensors.of(self.model)
        self.model.train()
        warm, begun = min(5, steps - 1), time.perf_counter()
        for step, batch in enumerate(train_batches(reader, sampler, augmenter, places, seed=seed, phase=0, workers=1)):
            if step == warm:
                begun = time.perf_counter()
            set_lr(optimizer, lr_at(step, steps, phase))
            self.loss(batch.images, batch.targets).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(latest)
        if average is not None:
            self.model.load_state_dict(average.model.state_dict())
        return (time.perf_counter() - begun) / (steps - warm)


@dataclass(frozen=True)
class _Place:
    index: int
    positions: range


@torch.inference_mode()
def evaluate(networks: Sequence[Network], reader: ShardReader, fold: int) -> tuple[EvaluationStatistics, float]:
    """What the networks say together of one fold, plain views; and images per second."""
    num_classes = reader.manifest.num_classes
    for network in networks:
        network.model.eval()
    images, begun = [], time.perf_counter()
    rows = rows_in(reader, [fold], "fold")
    pixels = default_pixels_per_pass(networks[0].device.type)
    for batch in eval_batches(reader, rows, pixels_per_pass=pixels, stride=networks[0].model.stride, workers=1):
        count = len(batch.images)
        masks = np.zeros((count, num_classes, *batch.images.shape[-2:]), np.uint8)
        labels = np.zeros((count, 1 + num_classes), np.uint8)
        for network in networks:
            mask_logits, label_logits = network(batch.images)
            if mask_logits is not None:
                masks[:, list(network.task.classes)] = quantise(torch.sigmoid(mask_logits.float())).cpu().numpy()
            if label_logits is not None:
                labels[:, list(network.task.labels)] = quantise(torch.sigmoid(label_logits.float())).cpu().numpy()
        for i, row in enumerate(batch.rows.tolist()):
            height, width = (int(size) for size in batch.sizes[i])
            probs = restore_size(masks[i, :, :height, :width], *batch.bitmasks[i].shape)
            images.append(
                image_statistics(row, probs, labels[i], batch.bitmasks[i], ignore_bit=reader.manifest.ignore_bit)
            )
    return EvaluationStatistics.from_images(images, num_classes), len(rows) / (time.perf_counter() - begun)

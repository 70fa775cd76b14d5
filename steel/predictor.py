"""Checkpoint and images -> probabilities, masks and labels."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steel.checkpoint import Checkpoint, load_checkpoint
from steel.data.geometry import pad_to_stride, resize_image, restore_size
from steel.data.pixel_format import EIGHT_BITS, Depth, to_channels
from steel.errors import InputError
from steel.evaluation.decision import Decision, apply_decision, default_decision, labels
from steel.model.network import UnifiedModel, normalise
from steel.model.tta import check_tta, predict_views, quantise

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MAX_BATCHES_AHEAD = 4


class ImageProbs(NamedTuple):
    """Quantised probabilities (0 to 255) of a batch of B images, after all views and members, on the CPU."""

    mask_probs: np.ndarray
    """(B, C, H, W) uint8."""
    label_probs: np.ndarray
    """(B, 1 + C) uint8: any defect, then each class."""


class Prediction(NamedTuple):
    """The answer for one image, at its original size."""

    masks: np.ndarray
    """(C, H, W) bool: where each class is, by the decision."""
    labels: np.ndarray
    """(1 + C,) bool: what the classification head says of any defect and of each class, by the decision."""
    mask_probs: np.ndarray
    """(C, H, W) uint8, 255 for certainty."""
    label_probs: np.ndarray
    """(1 + C,) uint8."""


class Predictor:
    """One network, or several whose probabilities are averaged, ready to answer.

    Every forward pass has `batch_size` images, the last ones black if need be, because the last bits of a result may
    depend on the shape of a batch: an image's answer is the same whatever it is predicted together with.
    """

    def __init__(
        self,
        models: Sequence[UnifiedModel],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        decision: Decision | None = None,
        tta: Sequence[str] | None = None,
        input_size: tuple[int, int] | None = None,
        depth: Depth = EIGHT_BITS,
        batch_size: int = 8,
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> None:
        """Predict with `models` as they are at each call; their mode (training or not) is put back afterwards.

        Args:
            models: at least one, of one network.
            mean: a channel, in 0..1.
            std: a channel.
            class_names: C names; `class 1`, ... when None.
            decision: thresholds of one half when None.
            tta: flipped views to average with the plain one; those of the decision when None.
            input_size: height and width that images are resized to; as they are when None.
            depth: what becomes of images of more than 8 bits.
            batch_size: images a forward pass.
            device: `auto` takes a GPU if there is one.
            precision: `no`, `bf16`, `fp16`; `auto` takes bf16 on a GPU that has it.

        Raises:
            InputError: a device that is not there, an unknown view, or a decision for other classes.
        """
        self.models = list(models)
        network = self.models[0].network
        self.num_classes = network.num_classes
        self.in_channels = network.in_channels
        self.stride = self.models[0].stride
        self.mean, self.std = tuple(mean), tuple(std)
        self.class_names = tuple(class_names or (f"class {k}" for k in range(1, self.num_classes + 1)))
        self.is_calibrated = decision is not None
        self.decision = decision or default_decision(self.num_classes)
        if len(self.decision.classes) != self.num_classes:
            raise InputError(f"a decision for {len(self.decision.classes)} classes, a network for {self.num_classes}")
        self.tta = check_tta(self.decision.tta if tta is None else tta)
        self.input_size = input_size
        self.depth = depth
        self.batch_size = batch_size
        self.device = choose_device(device)
        self._dtype = _choose_dtype(precision, self.device)
        for model in self.models:
            model.to(self.device)

    @classmethod
    def from_checkpoint(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        device: str | torch.device = "auto",
        tta: Sequence[str] | None = None,
        batch_size: int = 8,
        precision: str = "auto",
    ) -> "Predictor":
        """A predictor of the checkpoint at a path or URL, or of one already loaded; arguments as in the constructor.

        Raises:
            InputError: not a usable checkpoint, or a device that is not there.
        """
        checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
        try:
            models = build_models(checkpoint)
        except InputError as error:
            where = "checkpoint" if isinstance(source, Checkpoint) else os.fspath(source)
            raise InputError(f"{where}: {error}") from error
        return cls(
            models,
            mean=checkpoint.mean,
            std=checkpoint.std,
            class_names=checkpoint.class_names,
            decision=None if checkpoint.decision is None else Decision.from_dict(checkpoint.decision),
            tta=tta,
            input_size=checkpoint.input_size,
            depth=checkpoint.depth,
            batch_size=batch_size,
            device=device,
            precision=precision,
        )

    def probabilities(self, images: Tensor) -> ImageProbs:
        """Probabilities of a batch (B, c, H, W) uint8, averaged over members and views and rounded once.

        The batch is taken as it is: whoever calls this sees to equal batch shapes.
        """
        assert images.dtype == torch.uint8, images.dtype
        inputs = normalise(images.to(self.device, non_blocking=True), self.mean, self.std)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        training = [model.training for model in self.models]
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, enabled=self._is_reduced):
                views = [predict_views(model.eval(), inputs, self.tta) for model in self.models]
                mask_probs = torch.stack([masks for masks, _ in views]).mean(dim=0)
                label_probs = torch.stack([labels for _, labels in views]).mean(dim=0)
                return ImageProbs(quantise(mask_probs).cpu().numpy(), quantise(label_probs).cpu().numpy())
        finally:
            for model, was_training in zip(self.models, training, strict=True):
                model.train(was_training)

    def predict(self, images: Iterable[np.ndarray], decision: Decision | None = None) -> list[Prediction]:
        """Answers for images (H, W) gray or (H, W, 3) RGB uint8, of any sizes, by `decision` or the predictor's own.

        Images of uint16 are taken where those trained on were converted, and treated alike.

        Raises:
            InputError: an image of another shape or type.
        """
        return list(self.predict_stream(images, decision))

    def predict_stream(self, images: Iterable[np.ndarray], decision: Decision | None = None) -> Iterator[Prediction]:
        """As `predict`, one by one in the order of `images`, which are taken only as far as needed."""
        decision = decision or self.decision
        waiting: dict[tuple[int, ...], list[tuple[int, _Prepared]]] = {}
        done: dict[int, Prediction] = {}
        next_index = 0

        def run(shape: tuple[int, ...]) -> None:
            group = waiting.pop(shape)
            answers = self._answer([prepared for _, prepared in group], decision)
            done.update(zip((index for index, _ in group), answers, strict=True))

        for index, image in enumerate(images):
            prepared = self._prepare(image)
            shape = prepared.pixels.shape
            waiting.setdefault(shape, []).append((index, prepared))
            if len(waiting[shape]) == self.batch_size:
                run(shape)
            elif index - next_index >= _MAX_BATCHES_AHEAD * self.batch_size:
                run(next(iter(waiting)))  # that of the next image; one rare size must not hold up all that follows
            while next_index in done:
                yield done.pop(next_index)
                next_index += 1
        for shape in list(waiting):
            run(shape)
        while next_index in done:
            yield done.pop(next_index)
            next_index += 1

    def _prepare(self, image: np.ndarray) -> "_Prepared":
        pixels = to_channels(self.depth.to_uint8(image), self.in_channels)
        if self.input_size is not None:
            pixels = resize_image(pixels, self.input_size)
        height, width = pixels.shape[:2]
        padded = pad_to_stride(pixels, self.stride)
        planes = padded[None] if padded.ndim == 2 else padded.transpose(2, 0, 1)
        return _Prepared(planes, (height, width), (image.shape[0], image.shape[1]))

    def _answer(self, group: Sequence["_Prepared"], decision: Decision) -> list[Prediction]:
        """Answers for at most `batch_size` images of one padded size."""
        batch = np.zeros((self.batch_size, *group[0].pixels.shape), np.uint8)
        for place, prepared in zip(batch, group, strict=False):
            place[:] = prepared.pixels
        probs = self.probabilities(torch.from_numpy(batch))
        answers = []
        for i, prepared in enumerate(group):
            height, width = prepared.size
            mask_probs = restore_size(probs.mask_probs[i, :, :height, :width], *prepared.original_size)
            label_probs = probs.label_probs[i]
            masks = apply_decision(decision, mask_probs, label_probs)
            answers.append(Prediction(masks, labels(decision, label_probs), mask_probs, label_probs))
        return answers

    @property
    def _is_reduced(self) -> bool:
        return self._dtype != torch.float32


class _Prepared(NamedTuple):
    """An image as the network takes it."""

    pixels: np.ndarray
    """(c, H, W) uint8, whole strides."""
    size: tuple[int, int]
    """Height and width before padding."""
    original_size: tuple[int, int]
    """Before resizing."""


def build_models(checkpoint: Checkpoint) -> list[UnifiedModel]:
    """The networks of a checkpoint with their weights, on the CPU, in evaluation mode and channels-last.

    Raises:
        InputError: the weights are not those of the network that the checkpoint names.
    """
    models = []
    for member in range(checkpoint.members):
        model = UnifiedModel(checkpoint.network).to(memory_format=torch.channels_last)
        try:
            model.load_state_dict(checkpoint.member_state(member))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"its weights do not fit {checkpoint.network.architecture} on {checkpoint.network.encoder} as the "
                f"installed segmentation-models-pytorch and timm build it ({reason})"
            ) from error
        models.append(model.eval())
    return models


def choose_device(device: str | torch.device) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`, ... as a device that is there.

    Raises:
        InputError: it is not.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not to be had here; choose auto or cpu") from error
    return chosen


def _choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if precision not in _DTYPES:
        raise InputError(f"precision {precision!r} is unknown; choose auto, {', '.join(_DTYPES)}")
    return _DTYPES[precision]

"""Checkpoint and images -> probabilities, masks and labels."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from steel.checkpoint import Checkpoint, default_views, digest_tensors, load_with_header
from steel.checkpoint_header import digest_content, network_to_dict
from steel.config import TilingConfig
from steel.decision import Decision, check_covers, default_decision
from steel.errors import InputError, out_of_memory_as, told_url
from steel.extensions import require_extensions
from steel.images.geometry import views_per_pass
from steel.images.pixel_format import EIGHT_BITS, Depth
from steel.inference.base_predictor import BasePredictor
from steel.inference.batching import Cleared, ImageProbs
from steel.inference.gated_passes import MOST_PIXELS, begin_gated
from steel.inference.tiled_passes import pass_in_tiles
from steel.inference.tiles import is_tiled, tile_size
from steel.model.folding import fold_batch_norms, shorten_weights
from steel.model.host_copy import read_beside
from steel.model.network import UnifiedModel, normalise, reflect_to_stride
from steel.model.passes import Passes, count_passes, default_pixels_per_pass, intra_op_threads, open_passes
from steel.model.tta import Axes, average_probs, view_probs
from steel.plain import to_dict
from steel.precision import DTYPES, choose_precision
from steel.views import check_tta, flips_of

_Result = Callable[[], tuple[Tensor, ...]]
"""Waits for what is on its way to the host."""
Reduce = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Makes of a batch's quantised probabilities what is wanted on the host."""


class Predictor(BasePredictor):
    """One network, or several whose probabilities are averaged, ready to predict with torch."""

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
        tiling: TilingConfig | None = None,
        pixels_per_pass: int | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> None:
        """Predict with `models` as they are now: with copies, whose BatchNorms are folded into their convolutions.

        Args:
            models: at least one, of one network.
            mean: a channel, in 0..1.
            std: a channel.
            class_names: C names; `class 1`, ... when None.
            decision: thresholds of one half when None.
            tta: flipped views to average with the plain one; those of the decision when None.
            input_size: height and width that images are resized to; as they are when None.
            depth: how images of 16 bits become images of 8.
            tiling: which images go through the network in tiles, and in which; the usual one when None.
            pixels_per_pass: as many images of one padded size, on a GPU also as many of their views, share a forward
                pass as have no more pixels than that, but at least one; what is fast on the device when None.
            device: `auto` takes a GPU if there is one.
            precision: `no`, `bf16`, `fp16`; `auto` takes bf16 where the device is fast at it.

        Raises:
            InputError: a device that is not there, an unknown view or precision, or a decision for other classes.
        """
        self.device = choose_device(device)
        super().__init__(pixels_per_pass, default_pixels_per_pass(self.device.type))
        self.models = [fold_batch_norms(model).to(self.device) for model in models]
        network = self.models[0].network
        self.num_classes = network.num_classes
        self.in_channels = network.in_channels
        self.stride = self.models[0].stride
        self.mean, self.std = tuple(mean), tuple(std)
        self.class_names = tuple(class_names or (f"class {k}" for k in range(1, self.num_classes + 1)))
        self.is_tuned = decision is not None
        self.decision = decision or default_decision(self.num_classes)
        check_covers(self.decision, self.num_classes)
        self.tta = check_tta(self.decision.tta if tta is None else tta)
        self.input_size = input_size
        self.depth = depth
        self.tiling = tiling or TilingConfig()
        self.passes_at_once = count_passes(self.device)
        self.precision = choose_precision(precision, self.device.type)
        for model in self.models:
            shorten_weights(model, DTYPES[self.precision])

    @classmethod
    def from_checkpoint(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        device: str | torch.device = "auto",
        tta: Sequence[str] | None = None,
        pixels_per_pass: int | None = None,
        precision: str = "auto",
    ) -> "Predictor":
        """A predictor of the checkpoint at a path or URL, or of one already loaded; arguments as in the constructor,
        but that without `tta` those of `default_views` are averaged.

        Raises:
            InputError: not a usable checkpoint, or a device that is not there.
        """
        checkpoint, header = (source, None) if isinstance(source, Checkpoint) else load_with_header(source)
        try:
            models = build_models(checkpoint)
        except InputError as error:
            where = "checkpoint" if isinstance(source, Checkpoint) else told_url(source)
            raise InputError(f"{where}: {error}") from error
        found = cls(
            models,
            mean=checkpoint.mean,
            std=checkpoint.std,
            class_names=checkpoint.class_names,
            decision=checkpoint.decision,
            tta=default_views(checkpoint) if tta is None else tta,
            input_size=checkpoint.input_size,
            depth=checkpoint.depth,
            tiling=checkpoint.tiling,
            pixels_per_pass=pixels_per_pass,
            device=device,
            precision=precision,
        )
        found.header = header
        found.file_digest = None if header is None else digest_content(header)
        return found

    def probabilities(self, images: Tensor) -> ImageProbs:
        """Probabilities of a batch (B, c, H, W) uint8, averaged over members and views and rounded once.

        The batch is taken as it is: whoever calls this sees to equal batch shapes.
        """
        (probs,) = self.stream_probabilities([images])
        return probs

    def stream_probabilities(self, batches: Iterable[Tensor], cleared: Cleared | None = None) -> Iterator[ImageProbs]:
        """As `probabilities`, of one batch after another; several are under way at once.

        Args:
            batches: each (B, c, H, W) uint8.
            cleared: by P(any defect), which images have no masks: where that is so of a whole batch, masks are 0 and
                no decoder runs.

        Images beyond the tiling's budget are taken tile by tile.

        Raises:
            OutOfMemoryError: says what needs less.
        """
        for found in self.stream(batches, lambda mask_probs, label_probs: (mask_probs, label_probs), cleared):
            # Pinned memory is scarce, and the caller may keep what he gets.
            yield ImageProbs(*((each.clone() if each.is_pinned() else each).numpy() for each in found))

    def stream(
        self, batches: Iterable[Tensor], reduce: Reduce, cleared: Cleared | None = None
    ) -> Iterator[tuple[Tensor, ...]]:
        """What `reduce` makes of the quantised probabilities of one batch after another, and behind it of which images
        they say anything, (B,) bool as in `ImageProbs`; all on the host.

        On a GPU the next batches are launched before the host waits for the one before them.

        Args:
            batches: (B, c, H, W) uint8 each, taken as they are.
            reduce: of mask_probs (B, C, H, W) and label_probs (B, 1 + C), uint8, where the network is; called once per
                batch, in their order.
            cleared: as of `stream_probabilities`.

        Raises:
            OutOfMemoryError: says what needs less.
        """
        begun: deque[Callable[[], _Result]] = deque()
        launched: deque[_Result] = deque()
        with open_passes(self.device) as passes:
            for images in batches:
                launch, at_once = self._begin(images, passes, reduce, cleared)
                begun.append(launch)
                while begun and (at_once or len(begun) > passes.ahead):
                    launched.append(begun.popleft()())
                while launched and len(begun) + len(launched) > passes.ahead + passes.unread:
                    yield launched.popleft()()
            while begun or launched:
                if begun:
                    launched.append(begun.popleft()())
                yield launched.popleft()()

    def model_digest(self) -> str:
        """Over the weights of all members, and what is done with images before and after."""
        states = [model.state_dict() for model in self.models]
        weights = [digest_tensors({name: tensor.cpu() for name, tensor in state.items()}) for state in states]
        told = {"network": network_to_dict(self.models[0].network), "weights": weights, "classes": self.class_names}
        images = {"mean": self.mean, "std": self.std, "input_size": self.input_size}
        return digest_content({**told, **images, "depth": to_dict(self.depth), "tiling": to_dict(self.tiling)})

    def _stream(self, batches: Iterable[np.ndarray], cleared: Cleared | None) -> Iterator[ImageProbs]:
        return self.stream_probabilities((torch.from_numpy(batch) for batch in batches), cleared)

    @property
    def views_at_once(self) -> int:
        """All of them on a GPU; a CPU gives each a thread of its own instead, which is faster."""
        return 1 + len(self.tta) if self._on_gpu else 1

    def takes_tiles(self, height: int, width: int) -> bool:
        """Whether images of this size go through the network tile by tile."""
        return is_tiled(height, width, self.tiling, self.stride)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _begin(
        self, images: Tensor, passes: Passes, reduce: Reduce, cleared: Cleared | None
    ) -> tuple[Callable[[], _Result], bool]:
        """Begin the passes of all members and views over a batch.

        Returns:
            What launches what is left of them, and whether that need not wait until the next batch has begun. Batches
            are launched in their order all the same, or `reduce` would take one for another.
        """
        assert images.dtype == torch.uint8, images.dtype
        height, width = images.shape[-2:]
        if self.takes_tiles(height, width):

            def whole() -> tuple[Tensor, ...]:
                mask_probs, label_probs, is_finite = map(torch.from_numpy, self._in_tiles(images, passes))
                return *reduce(mask_probs, label_probs), is_finite

            return partial(_launch, whole, passes), self._on_gpu
        pixels = len(images) * height * width
        groups = self._shared_flips(pixels)
        advice = self._less_memory(len(groups[0]) * len(images), height, width)
        with out_of_memory_as(advice), passes.own_work(pixels), self._modes():
            padded = self._inputs(images)
            views = [(model, flips) for model in self.models for flips in groups]
            in_halves = cleared is not None and len(self.models) * (1 + len(self.tta)) * pixels <= MOST_PIXELS
            if cleared is not None and in_halves:
                ask = begin_gated(padded, views, passes, cleared, modes=self._modes)
                average = ask() if self._on_gpu else lambda: ask()()
            else:
                results = [passes.begin(partial(self._pass, model, padded, flips), pixels) for model, flips in views]
                average = partial(average_probs, chain.from_iterable(result() for result in results))

        def finish() -> tuple[Tensor, ...]:
            with out_of_memory_as(advice), passes.own_work(pixels), self._modes():
                mask_probs, label_probs, is_finite = average()
                return *reduce(mask_probs[..., :height, :width], label_probs), is_finite

        return partial(_launch, finish, passes), self._on_gpu and not in_halves

    def _in_tiles(self, images: Tensor, passes: Passes) -> ImageProbs:
        """Probabilities of a batch of images beyond the budget, one by one."""
        height, width = images.shape[-2:]
        padded = reflect_to_stride(images, self.stride)
        views = [(model, axes) for model in self.models for axes in flips_of(self.tta)]
        tall, wide = tile_size(padded.shape[-2], padded.shape[-1], self.tiling)
        advice = f"in a forward pass of a tile of {tall}x{wide}, the checkpoint's size (in training --tiling.tile)"
        with out_of_memory_as(advice):
            found = [
                pass_in_tiles(
                    image, views, self.tiling, passes, prepare=self._inputs, modes=self._modes, on_tile=self.on_tile
                )
                for image in padded
            ]
        mask_probs, label_probs, is_finite = zip(*found, strict=True)
        whole = mask_probs[0][None] if len(found) == 1 else np.stack(mask_probs)  # no copy of a large one
        return ImageProbs(whole[..., :height, :width], np.stack(label_probs), np.stack(is_finite))

    def _inputs(self, images: Tensor) -> Tensor:
        """Images (B, c, h, w) uint8 as the network takes them, on the device."""
        if self._on_gpu and not images.is_pinned():
            images = images.pin_memory()  # a copy from other memory would wait for what was launched before
        inputs = normalise(images.to(self.device, non_blocking=True), self.mean, self.std)
        return reflect_to_stride(inputs, self.stride).contiguous(memory_format=torch.channels_last)

    def _shared_flips(self, pixels: int) -> list[list[Axes]]:
        """The views of a batch of so many pixels, in groups that share a pass."""
        flips = flips_of(self.tta)
        shared = views_per_pass(pixels, self.pixels_per_pass, self.views_at_once)
        return [flips[start : start + shared] for start in range(0, len(flips), shared)]

    def _pass(self, model: UnifiedModel, inputs: Tensor, flips: Sequence[Axes]) -> list[tuple[Tensor, Tensor]]:
        """Views by one member; see `view_probs`."""
        with self._modes():  # again, as it may be in a thread of its own
            return view_probs(model.forward_padded, inputs, flips)

    @contextmanager
    def _modes(self) -> Iterator[None]:
        """No gradients, and the predictor's precision."""
        dtype = DTYPES[self.precision]
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            yield

    def _less_memory(self, count: int, height: int, width: int) -> str:
        """What to do when a pass over so many images of a size does not fit into memory."""
        if count > 1:
            return (
                f"in a forward pass of {count} images of {height}x{width}; give fewer --pixels-per-pass than "
                f"{self.pixels_per_pass} (in training --runtime.pixels-per-pass)"
            )
        less = "OMP_NUM_THREADS=1 has fewer at once" if self.device.type == "cpu" else "--device cpu may have more"
        return f"in a forward pass of one image of {height}x{width}, the fewest pixels per pass there can be; {less}"


def _launch(finish: _Result, passes: Passes) -> _Result:
    """On a GPU `finish` is called now, and what it gives is copied to the host beside the passes to come."""
    if passes.aside is None:
        return finish
    readers = read_beside(passes.aside, finish())
    return lambda: tuple(read() for read in readers)


def build_models(checkpoint: Checkpoint) -> list[UnifiedModel]:
    """The networks of a checkpoint with their weights, on the CPU, in evaluation mode and channels-last.

    Raises:
        InputError: the weights are not those of the network that the checkpoint names, or an extension is missing
            that its heads came with.
    """
    if checkpoint.network.heads:
        require_extensions(checkpoint.provenance, f"its heads {', '.join(checkpoint.network.heads)}")
    with intra_op_threads(1):
        return [_build_member(checkpoint, member) for member in range(checkpoint.members)]


def _build_member(checkpoint: Checkpoint, member: int) -> UnifiedModel:
    model = UnifiedModel(checkpoint.network, draw_weights=False).to(memory_format=torch.channels_last)
    try:
        model.load_state_dict(checkpoint.member_state(member))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"its weights do not fit {checkpoint.network.architecture} on {checkpoint.network.encoder} as the "
            f"installed segmentation-models-pytorch and timm build it ({reason})"
        ) from error
    return model.eval()


_DEVICE_TYPES = ("cpu", "cuda")


def choose_device(device: str | torch.device) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`, ... as a device that is there.

    Raises:
        InputError: it is not, or of a kind that networks do not run on here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type not in _DEVICE_TYPES:
            raise InputError(f"device {str(device)!r}: choose auto, cpu, cuda, or one of several GPUs as cuda:1")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not to be had here; choose auto or cpu") from error
    return chosen

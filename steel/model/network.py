"""The unified multi-head network: one encoder, one decoder, and heads on both (see `steel.model.heads`)."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steel.config import NetworkConfig
from steel.errors import InputError
from steel.model.architectures import EXTRA_STRIDE, MISFIT_ERRORS, build_parts, check_architecture, misfit
from steel.model.heads import CLASSIFICATION, HEADS, SEGMENTATION, ClassificationHead, Features, HeadShape
from steel.model.passes import intra_op_threads

Outputs = dict[str, Tensor]
"""What the network says of a batch of n images: logits, to be read through a sigmoid, by the name of their head.
`segmentation`: (n, C, H, W), each class in each pixel; `classification`: (n, 1 + C), any defect, then each class; then
those of further heads."""


class Encoded(NamedTuple):
    """What an encoder makes of n images."""

    size: tuple[int, int]
    """Height and width of the padded images."""
    features: list[Tensor]
    """From the finest to the coarsest."""
    tokens: list[Any]


class UnifiedModel(nn.Module):
    """A segmentation-models-pytorch encoder, decoder and segmentation head, with heads of our own beside it.

    Images of any size are padded at the bottom and right to multiples of `stride`, and the masks cropped back. The
    padding is the image's own reflection, never zeros or repeated edge pixels: a black border looks like the end of the
    strip, and smeared edge pixels like the straight traces that some defects are. It depends on the image alone.
    """

    def __init__(self, network: NetworkConfig, *, draw_weights: bool = True) -> None:
        """Build the network with random weights.

        Args:
            network: which one.
            draw_weights: False saves the time of drawing them for whoever loads all of them next; until then they are
                what memory happened to hold.

        Raises:
            InputError: an unknown or impossible combination.
        """
        super().__init__()
        check_architecture(network)
        _check_heads(network.heads)
        try:
            parts = build_parts(network, draw_weights=draw_weights)
        except MISFIT_ERRORS as error:
            raise misfit(network, error) from error
        self.network = network
        self.encoder: nn.Module = parts.encoder
        self.decoder: nn.Module = parts.decoder
        self.segmentation_head: nn.Module = parts.segmentation_head
        self.classification_head: ClassificationHead
        self.stride = int(parts.encoder.output_stride) * EXTRA_STRIDE.get(network.architecture, 1)
        self.encoder_frozen = False
        shape = self._try_out()
        for name in self.further_heads:
            self.add_module(f"{name}_head", HEADS[name].build(shape))

    def forward(self, images: Tensor) -> Outputs:
        """Normalised images (n, c, H, W) float, of any H and W -> `Outputs` at the same size."""
        height, width = images.shape[-2:]
        outputs = self.forward_padded(reflect_to_stride(images, self.stride))
        return {head: out[..., :height, :width] if out.ndim == 4 else out for head, out in outputs.items()}

    def forward_padded(self, images: Tensor) -> Outputs:
        """As `forward`, for images of whole strides: what predicts and exports, which training never compiles."""
        masks, features = self.segment(images)
        further = {name: self.get_submodule(f"{name}_head")(features) for name in self.further_heads}
        return {SEGMENTATION: masks, **further}

    @property
    def further_heads(self) -> tuple[str, ...]:
        """The heads beside the segmentation's."""
        return CLASSIFICATION, *self.network.heads

    def train(self, mode: bool = True) -> "UnifiedModel":
        """As `Module.train`, but a frozen encoder stays as it is in evaluation (see `set_encoder_trainable`)."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def segment(self, images: Tensor) -> tuple[Tensor, Features]:
        """Images (n, c, H, W) of whole strides -> mask logits (n, C, H, W), and what further heads read."""
        return self.decode(self.encode(images))

    def encode(self, images: Tensor) -> Encoded:
        """Images (n, c, H, W) of whole strides -> what the decoder reads, and what says whether there is any defect."""
        encoded = self.encoder(images)
        # Vision transformers (DPT) hand their prefix tokens to the decoder beside the features.
        features, *tokens = encoded if isinstance(encoded, tuple) else (encoded,)
        return Encoded((images.shape[-2], images.shape[-1]), features, tokens)

    def decode(self, encoded: Encoded) -> tuple[Tensor, Features]:
        """Mask logits (n, C, H, W), and what further heads read."""
        decoded = self.decoder(encoded.features, *encoded.tokens)
        masks = self.segmentation_head(decoded)
        return masks, Features(encoded.size, decoded, encoded.features[-1], masks)

    def encoder_stages(self) -> list[list[nn.Parameter]]:
        """The encoder's parameters in training, from the input on: what each of its features needs that none before
        it did.

        Read off the features of a small empty image, so that it holds for any encoder, whatever its modules are called;
        one that hands out a single feature, or whose first feature needs all, has one stage.
        """
        was_training = self.encoder.training
        self.encoder.eval()
        with torch.enable_grad():
            features = self.encode(self.small_images()).features
        self.encoder.train(was_training)
        left = {id(parameter): parameter for parameter in self.encoder.parameters() if parameter.requires_grad}
        stages: list[list[nn.Parameter]] = []
        for feature in features:
            reached = _reached(feature)
            stages.append([left.pop(each) for each in list(left) if each in reached])
        assert not left, "what reaches no feature has been removed"
        return [stage for stage in stages if stage]

    def small_images(self) -> Tensor:
        """One black image (1, c, H, W) of whole strides, large enough for every architecture."""
        height = -(-128 // self.stride) * self.stride
        parameter = next(self.parameters())
        size = (1, self.network.in_channels, height, height + self.stride)
        return torch.zeros(size, device=parameter.device, dtype=parameter.dtype)

    def _try_out(self) -> HeadShape:
        """Run a small empty image, so that parts that do not fit fail now; returns what further heads are built for.

        What does not reach an output (stages below a shallow decoder, some encoders' last convolution) is removed: DDP
        would wait for its gradients for ever, and a checkpoint has no use for it.
        """
        config = self.network
        images = self.small_images()
        self.eval()
        try:
            with intra_op_threads(1), torch.enable_grad():
                masks, features = self.segment(images)
            reached = _reached(masks, features.encoded)
            fixed = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
            if fixed:  # it would be taken for one that reaches no output
                raise ValueError(f"its {fixed[0]} is not to be trained")
        except MISFIT_ERRORS as error:
            raise misfit(config, error) from error
        if masks.shape != (1, config.num_classes, *images.shape[-2:]):
            raise misfit(config, ValueError(f"masks come out as {tuple(masks.shape)} for {tuple(images.shape)}"))
        _remove_unreached(self, reached)
        self.train()
        decoded, encoded = (int(feature.shape[1]) for feature in (features.decoded, features.encoded))
        return HeadShape(config.num_classes, decoded, encoded, config.dropout)


def _check_heads(names: Sequence[str]) -> None:
    missing = [name for name in names if name not in HEADS]
    if missing:
        known = ", ".join(name for name in HEADS if name != CLASSIFICATION) or "none"
        raise InputError(f"model.heads: {missing[0]!r} is unknown; there are: {known} (an extension may add some)")


class _Removed(nn.Module):
    """Stands where something without effect was; unlike `nn.Identity` it takes any further arguments."""

    def forward(self, feature: Tensor, *_: Any) -> Tensor:
        return feature


def _reached(*outputs: Tensor) -> set[int]:
    """The ids of the parameters that `outputs` depend on, read off autograd's graph: no gradient need be computed."""
    todo: list[Any] = [output.grad_fn for output in outputs]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [after for after, _ in node.next_functions]
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


def _remove_unreached(module: nn.Module, reached: set[int]) -> None:
    """Replace the largest submodules that have parameters, none of them `reached` (by id)."""
    for name, child in module.named_children():
        ids = [id(p) for p in child.parameters()]
        if ids and reached.isdisjoint(ids):
            setattr(module, name, _Removed())
        else:
            _remove_unreached(child, reached)
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(id(parameter) in reached)


def reflect_to_stride(images: Tensor, stride: int) -> Tensor:
    """Reflect (n, c, H, W) at its bottom and right edges up to the next multiples of `stride`.

    The same pixels as OpenCV's BORDER_REFLECT_101; also right for images smaller than their padding.
    """
    for dim in (-2, -1):
        size = images.shape[dim]
        # An exported graph is for any size and cannot branch on it.
        if torch.compiler.is_exporting() or size % stride:
            padded = (size + stride - 1) // stride * stride
            images = images.index_select(dim, _reflected(size, padded, images.device))
    return images


def _reflected(size: int, padded: int, device: torch.device) -> Tensor:
    """Which of `size` pixels shows at each of `padded` places: 0 1 2 3 2 1 0 1 ... for a size of 4."""
    period = torch.full((), 2 * size - 2, device=device).clamp(min=1)
    places = torch.arange(padded, device=device).remainder(period)
    return torch.where(places < size, places, period - places)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images (n, c, h, w) -> float32 on the same device: in [0, 1], less `mean`, over `std`; one per channel.

    Gray images come out with as many channels as there are means. The three steps are folded into one multiplication
    and one addition.
    """
    return scale_pixels(images, *scale_and_shift(tuple(mean), tuple(std), images.device))


def scale_pixels(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """As `normalise`, with the result of `scale_and_shift`."""
    assert images.shape[1] in (1, len(scale)), f"{images.shape[1]} channels, {len(scale)} means"
    return torch.addcmul(shift, images.float(), scale)


@functools.lru_cache(maxsize=16)
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What turns uint8 values into normalised ones: two (c, 1, 1) float32 tensors.

    Kept from call to call, because moving them to a GPU anew for each batch would wait for it.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
    return scale.view(-1, 1, 1).to(device), shift.view(-1, 1, 1).to(device)


def set_encoder_trainable(model: UnifiedModel, trainable: bool) -> None:
    """Freeze or release the encoder: frozen, it runs as in evaluation (batch statistics fixed, no drop-path).

    `requires_grad` stays as it is: DDP decides at construction which gradients it waits for. A training loop therefore
    drops a frozen encoder's gradients after each backward pass (`drop_gradients`) before it clips and steps; an
    optimizer skips parameters without a gradient, state, step count and weight decay included. Cheap and idempotent, so
    a loop may call it at each step with a pure function of the step, which is what makes resuming exact.
    """
    is_frozen = not trainable
    if model.encoder_frozen != is_frozen:
        model.encoder_frozen = is_frozen
        model.encoder.train(model.training and not is_frozen)


def drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Forget the gradients of `parameters`, as of the encoder; see `set_encoder_trainable`."""
    for parameter in parameters:
        parameter.grad = None

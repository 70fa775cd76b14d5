"""Deep supervision (Lee et al. 2015): the decoder's coarser stages are judged as its masks are, in training alone.

Each of them gets a 1x1 convolution of its own, whose logits are judged by the segmentation's terms against the masks at
that stage's resolution; with each stage towards the coarsest the weight halves, and all weights, the finest's included,
add up to 1, as in nnU-Net (Isensee et al. 2021). What the other heads count for stays as it is.

These layers stand beside the network and read its decoder through hooks: what is validated, shipped and exported is the
network alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steel.config import LossConfig
from steel.errors import InputError
from steel.model.heads import SEGMENTATION
from steel.model.losses import head_losses
from steel.model.network import UnifiedModel

DEEP_SUPERVISION = "deep_supervision"
"""Beside the names of heads: what judging the coarser stages too adds to the loss."""

STAGES: dict[str, Callable[[Any], Sequence[nn.Module]]] = {
    "Unet": lambda decoder: decoder.blocks,
    "UnetPlusPlus": lambda decoder: [decoder.blocks[f"x_0_{number}"] for number in range(decoder.depth + 1)],
    "MAnet": lambda decoder: decoder.blocks,
    "Linknet": lambda decoder: decoder.blocks,
    "FPN": lambda decoder: (decoder.p5, decoder.p4, decoder.p3, decoder.p2),
    "UPerNet": lambda decoder: (decoder.psp, *decoder.fpn_conv_blocks),
}
"""By architecture, what gives the decoder's stages, from the coarsest to the one that the masks are made at."""


class StageHeads(nn.Module):
    """Layers of a network's coarser decoder stages, the finest of these first."""

    def __init__(self, network: UnifiedModel, num_stages: int) -> None:
        """Watch `network`, which is on its device and at its first weights, from now on.

        Args:
            network: the one that is trained. A copy of it that is made later may be validated, but not trained.
            num_stages: so many; with 0 there is no layer, nothing is watched, and no random number drawn.

        Raises:
            InputError: its decoder has no such stages, or not so many.
        """
        super().__init__()
        self._features: dict[int, Tensor] = {}
        """Of the last forward pass with gradients, by number."""
        watched = _coarser_stages(network, num_stages)
        for number, stage in enumerate(watched):
            stage.register_forward_hook(_keep_in(self._features, number))
        shapes = _shapes_of(network, self._features) if watched else []
        classes, like = network.network.num_classes, next(network.parameters())
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, classes, 1, dtype=like.dtype) for _, channels in shapes)
        self.strides = [stride for stride, _ in shapes]
        """How many pixels of the image, in rows and in columns, one of each stage stands for."""
        self.to(like.device)
        _start_like(network.segmentation_head, self.convolutions)

    def logits(self) -> list[Tensor]:
        """(n, C, h, w) of each stage, of the network's last forward pass with gradients, padded as its images were."""
        return [convolution(self._features.pop(number)) for number, convolution in enumerate(self.convolutions)]

    def loss(
        self,
        logits: Sequence[Tensor],
        finest: Tensor,
        masks: Tensor,
        valid: Tensor,
        config: LossConfig,
        pairs: Tensor | None = None,
    ) -> Tensor:
        """By how much the segmentation loses more in the weighted mean over all resolutions than at the finest.

        Added to `finest` it makes that mean; apart, what the segmentation loses stays the number that it is without
        deep supervision, and in validation. It is negative where the coarser stages do better.

        Args:
            logits: of one stage or more, as `logits` gives them.
            finest: (n, C) that the segmentation loses.
            masks: (n, C, h, w) of 0 and 1, of the images before they were padded.
            valid: (n, 1, h, w) of 0 and 1.
            config: the weights.
            pairs: see `steel.model.losses.PairFunction`. What is absent from the masks is absent from coarser ones.

        Returns:
            (n, C), of the type of `finest`.
        """
        excess = []
        for stage, stride, weight in zip(logits, self.strides, stage_weights(len(logits))[1:], strict=True):
            coarse_masks, coarse_valid = coarsen(masks, valid, stride)
            height, width = coarse_masks.shape[-2:]
            precise = stage[..., :height, :width].to(torch.promote_types(stage.dtype, torch.float32))
            losses = head_losses({SEGMENTATION: precise}, coarse_masks, coarse_valid, config, pairs)
            excess.append(weight * (losses[SEGMENTATION] - finest))
        return torch.stack(excess).sum(dim=0)


@torch.no_grad()
def _start_like(masks_head: nn.Module, convolutions: nn.ModuleList) -> None:
    """Give each the bias that the masks' head has by now: what says how often a class occurs need not be learnt anew.

    That head ends in one convolution with a row for each class.
    """
    *_, last = (part for part in masks_head.modules() if isinstance(part, nn.Conv2d))
    for convolution in convolutions:
        cast(nn.Parameter, convolution.bias).copy_(cast(nn.Parameter, last.bias))


def stage_weights(num_coarser: int) -> list[float]:
    """Of the finest resolution and of so many coarser ones: each half of the one before it, 1 together."""
    halves = [0.5**number for number in range(num_coarser + 1)]
    return [half / sum(halves) for half in halves]


def coarsen(masks: Tensor, valid: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Masks (n, C, h, w) and valid pixels (n, 1, h, w), float 0/1, in cells of `stride` x `stride` pixels, those at the
    bottom and right of what is left.

    A cell is of a class where any known pixel of it is: the mean would lose the small defects, or leave fractions,
    which the overlap terms are not made for. It is valid where all of its pixels are, and where one of them is known to
    be of some class, as beside the ignored bands of pseudo-labels: of the others nobody can say that none is there.
    """
    known = F.max_pool2d(masks * valid, stride, ceil_mode=True)
    unknown = F.max_pool2d(1 - valid, stride, ceil_mode=True)
    return known, torch.maximum(1 - unknown, known.amax(dim=1, keepdim=True))


def _coarser_stages(network: UnifiedModel, num: int) -> list[nn.Module]:
    """The modules that give them, the finest first."""
    if num == 0:
        return []
    architecture = network.network.architecture
    if architecture not in STAGES:
        raise InputError(
            f"model.deep-supervision {num}: the decoder of {architecture} has no stages from coarse to fine; "
            f"leave it at 0 or choose one of {', '.join(STAGES)}"
        )
    *coarser, _ = STAGES[architecture](network.decoder)
    if num > len(coarser):
        raise InputError(
            f"model.deep-supervision {num}: this {architecture} on {network.network.encoder} has {len(coarser)} stages "
            f"below its finest; give at most {len(coarser)}"
        )
    return coarser[::-1][:num]


def _keep_in(features: dict[int, Tensor], number: int) -> Callable[[nn.Module, Any, Tensor], None]:
    """A forward hook. What is computed without gradients is no training, and its features are nobody's to hold."""

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            features[number] = output

    return keep


def _shapes_of(network: UnifiedModel, features: dict[int, Tensor]) -> list[tuple[int, int]]:
    """Stride and channels of each of the `features`, which a pass of a small image fills and which are empty again."""
    images, was_training = network.small_images(), network.training
    network.eval()
    with torch.enable_grad():
        network.segment(images)
    network.train(was_training)
    shapes = [(images.shape[-1] // features[n].shape[-1], int(features[n].shape[1])) for n in sorted(features)]
    features.clear()
    return shapes

"""From a micro-batch as the loader has it to its losses: what is compiled into one graph, and what DDP wraps.

Everything between the uint8 pixels and the losses of each image is in one `forward`, so that a graph of it has all that
a compiler can fuse: normalisation into the first layer's input, targets into the losses. Backward follows from it.
"""

import importlib

import torch
from torch import Tensor, nn

from steel.config import LossConfig
from steel.loading.train_loader import unpack_targets
from steel.model.deep_supervision import DEEP_SUPERVISION, StageHeads
from steel.model.distillation import SoftTargets, blend_with_teacher
from steel.model.heads import SEGMENTATION
from steel.model.losses import head_losses
from steel.model.network import UnifiedModel, scale_and_shift, scale_pixels


class MicroBatchLosses(nn.Module):
    """Losses of a micro-batch by a network: `forward` by the one that is trained, `of` by any."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: UnifiedModel,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        channels_last: bool,
        teacher_share: float = 0.0,
        judged_stages: int = 0,
    ) -> None:
        """Args:
        network: on its device.
        mean: that it expects, one per channel.
        std: likewise.
        channels_last: the order of memory in which it takes images.
        teacher_share: of the loss, where a teacher is asked; see `blend_with_teacher`.
        judged_stages: of the decoder's coarser ones, so many have layers of their own; see `StageHeads`.

        Raises:
            InputError: the decoder has not so many.
        """
        super().__init__()
        self.network = network
        self.stage_heads = StageHeads(network, judged_stages)
        if channels_last:
            self.stage_heads.to(memory_format=torch.channels_last)
        scale, shift = scale_and_shift(mean, std, next(network.parameters()).device)
        # As buffers they are inputs of a graph; constants of it would be moved to the device in each run.
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.num_classes = network.network.num_classes
        self._channels_last = channels_last
        self._teacher_share = teacher_share
        self._compute = self.eager
        self.replays = False
        """Whether backward passes are CUDA graphs, which write where the last one wrote; see `hold_gradients`."""

    def forward(
        self,
        images: Tensor,
        targets: Tensor,
        loss: LossConfig,
        pairs: Tensor | None = None,
        soft: SoftTargets | None = None,
    ) -> dict[str, Tensor]:
        """What each head of the network loses, by its graph where there is one; see `of`."""
        return self._compute(images, targets, loss, pairs, soft)

    def eager(
        self,
        images: Tensor,
        targets: Tensor,
        loss: LossConfig,
        pairs: Tensor | None = None,
        soft: SoftTargets | None = None,
    ) -> dict[str, Tensor]:
        """As `forward`, operation by operation."""
        return self.of(self.network, images, targets, loss, pairs, soft, self.stage_heads)

    def of(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        loss: LossConfig,
        pairs: Tensor | None = None,
        soft: SoftTargets | None = None,
        stage_heads: StageHeads | None = None,
    ) -> dict[str, Tensor]:
        """What each head of `network` loses, as `head_losses`, and by a teacher where there is one.

        Where coarser stages are judged too, what that adds stands beside the heads as `DEEP_SUPERVISION`.

        Args:
            network: such as the moving average.
            images: (m, c, h, w) uint8, on the device.
            targets: (m, h, w), packed as `MicroBatch.targets` are, there too.
            loss: of the phase.
            pairs: see `PairFunction`; None when it is not known what is present.
            soft: what the teacher says of the images; the coarser stages go by the labels alone.
            stage_heads: those of `network`, for its gradients; None for its own losses alone.
        """
        masks, valid = unpack_targets(targets, self.num_classes)
        inputs = scale_pixels(images, self.scale, self.shift)
        if self._channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        outputs = network(inputs)
        stages = [] if stage_heads is None else stage_heads.logits()
        # Half precision is for the network; a loss, an extension's too, is given float32 and computes in it.
        with torch.autocast(images.device.type, enabled=False):
            precise = {head: out.to(torch.promote_types(out.dtype, torch.float32)) for head, out in outputs.items()}
            losses = head_losses(precise, masks, valid, loss, pairs)
            if soft is not None:
                losses = blend_with_teacher(losses, precise, soft, loss, self._teacher_share)
            if stage_heads is not None and stages:
                losses[DEEP_SUPERVISION] = stage_heads.loss(stages, losses[SEGMENTATION], masks, valid, loss, pairs)
            return losses

    @property
    def is_compiled(self) -> bool:
        """Whether `forward` goes through a graph."""
        return self._compute != self.eager

    def compile_anew(self, *, cuda_graphs: bool) -> None:
        """Let `forward` go through a graph, which its first call makes; graphs made before are forgotten.

        DDP stays outside: torch finds it around the graph and cuts that at the bounds of its buckets, so that the first
        gradients are summed over the ranks while the others are computed.

        Sizes are constants of the graph, but for the number of `pairs`. Random numbers are drawn as in `eager`, so that
        both drop the same features; that costs nothing to speak of where only the classification head drops any.

        Args:
            cuda_graphs: replay each graph's kernels as one launch (what torch calls "reduce-overhead"); gradients must
                then have memory of their own before a backward pass, see `hold_gradients`.
        """
        self.replays = cuda_graphs
        if cuda_graphs:  # else the first `reset` imports it, amid a walk over what that adds to, and fails
            importlib.import_module("torch._inductor.cudagraph_trees")
        torch.compiler.reset()  # what an earlier phase needed counts against torch's limit of graphs of one function
        compiled = torch.compile(
            self.eager,
            fullgraph=True,
            dynamic=False,
            options={"fallback_random": True, "triton.cudagraphs": cuda_graphs},
        )

        def compute(
            images: Tensor,
            targets: Tensor,
            loss: LossConfig,
            pairs: Tensor | None = None,
            soft: SoftTargets | None = None,
        ) -> dict[str, Tensor]:
            if pairs is not None and len(pairs) > 1:
                torch._dynamo.mark_dynamic(pairs, 0)
            if cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()  # what the last replay gave has been used
            return compiled(images, targets, loss, pairs, soft)

        self._compute = compute

    def compute_eagerly(self) -> None:
        """Let `forward` go operation by operation, and forget its graphs."""
        if self.is_compiled:
            self._compute, self.replays = self.eager, False
            torch.compiler.reset()


def hold_gradients(parameters: list[nn.Parameter]) -> None:
    """Give each parameter without a gradient one of zeros, to which a replayed backward pass adds.

    Without it autograd keeps the pass's own output as the gradient, whose memory the next replay writes over.
    """
    for parameter in parameters:
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)

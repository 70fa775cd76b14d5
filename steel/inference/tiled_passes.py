"""The forward passes over one image of many pixels: tile by tile, through all members and views."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from steel.config import TilingConfig
from steel.inference.tiles import Blender, Tile, make_tiles, own_cells
from steel.model.heads import FeaturePool
from steel.model.host_copy import HostCopy
from steel.model.network import UnifiedModel
from steel.model.passes import Passes
from steel.model.tta import probs_of_labels, quantise_labels, view_parts


def pass_in_tiles(
    image: Tensor,
    views: Sequence[tuple[UnifiedModel, tuple[int, ...]]],
    tiling: TilingConfig,
    passes: Passes,
    *,
    prepare: Callable[[Tensor], Tensor],
    modes: Callable[[], AbstractContextManager[None]],
    on_tile: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of one image, averaged over views, as `Predictor.probabilities` gives them.

    Masks are blended before they are rounded. The labels of an image cannot be had from those of its tiles: each tile
    hands over its own part of what the classification head pools, and the head answers once.

    Args:
        image: (c, H, W) uint8, whole strides.
        views: members, each with the axes to flip.
        tiling: how large tiles are and how much they share.
        passes: where passes run.
        prepare: makes of a tile (1, c, h, w) uint8 what the network takes.
        modes: a context for every computation, in whatever thread it runs.
        on_tile: called with the tiles done and in all.

    Returns:
        mask_probs (C, H, W) and label_probs (1 + C,), both uint8; and () bool, whether they say anything, see
        `ImageProbs`.
    """
    first, height, width = views[0][0], image.shape[-2], image.shape[-1]
    tiles = make_tiles(height, width, tiling, first.stride)
    blender = Blender(first.network.num_classes, height, width)
    pools = [FeaturePool() for _ in views]
    sums: list[list[Tensor]] = [[] for _ in views]  # of each tile's logits: not finite where one of these is not
    waiting: deque[tuple[Tile, HostCopy]] = deque()  # a tile is blended while a GPU has the next one to do

    def blend() -> None:
        tile, copy = waiting.popleft()
        blender.add(tile, copy.tensor().numpy())

    for done, tile in enumerate(tiles, start=1):
        part = image[None, :, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
        part = part.contiguous()  # with gaps between its rows the host would wait for its copy to a GPU
        pixels = part.shape[-2] * part.shape[-1]
        with passes.own_work(pixels), modes():
            inputs = prepare(part)
            results = [passes.begin(partial(_pass, model, axes, inputs, modes), pixels) for model, axes in views]
            total: Tensor | None = None
            for pool, of_view, result in zip(pools, sums, results, strict=True):
                masks, encoded = result()
                of_view.append(masks.sum())
                mask_probs = torch.sigmoid(masks)
                total = mask_probs if total is None else total + mask_probs
                pool.add(*(planes[:, :, *own_cells(tile, *planes.shape[2:])] for planes in (encoded, masks)))
            assert total is not None
            waiting.append((tile, HostCopy(total[0] / len(views))))
        if len(waiting) > 1:
            blend()
        on_tile(done, len(tiles))
    blend()
    with modes():
        probs = [
            probs_of_labels(model.classification_head.classify(*pool.pooled()), torch.stack(of_view)[None])
            for (model, _), pool, of_view in zip(views, pools, sums, strict=True)
        ]
        label_probs, is_finite = quantise_labels(torch.stack(probs).mean(dim=0).cpu())
    return blender.finish(), label_probs[0].numpy(), is_finite[0].numpy()


def _pass(
    model: UnifiedModel, axes: tuple[int, ...], tile: Tensor, modes: Callable[[], AbstractContextManager[None]]
) -> tuple[Tensor, Tensor]:
    """One view by one member; see `view_parts`."""
    with modes():  # again, as it may be in a thread of its own
        return view_parts(model.segment, tile, axes)

"""The classification head without torch: labels of an image of which an exported graph saw one tile after another.

A graph tells labels of what it is shown. Of an image in tiles they are told once, as in `steel.inference.tiled_passes`:
from what the graph hands over of each tile beside its probabilities, and the head's weights in its metadata.
"""

import base64
from collections.abc import Sequence

import numpy as np

from steel.errors import InputError
from steel.inference.tiles import Tile, own_cells


def encode_head(weight: np.ndarray, bias: np.ndarray, reliance: np.ndarray) -> str:
    """A head as the metadata of a graph has it, see `decode_head`.

    Args:
        weight: (1 + C, 2F), of the pooled feature.
        bias: (1 + C,).
        reliance: (C,), of the largest logit of each class's mask.
    """
    rows = np.column_stack([weight, np.concatenate([[0], reliance]), bias])
    return base64.b64encode(rows.astype("<f4").tobytes()).decode()


def decode_head(text: str, num_classes: int) -> np.ndarray:
    """A head's rows (1 + C, 2F + 2) float32, any defect first: of the pooled feature, of the mask's peak, and the bias.

    Raises:
        InputError: not such rows.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(1 + num_classes, -1)
    except ValueError as error:
        raise InputError(f"label_heads: {error}") from error


class LabelPool:
    """What the heads of all views read of an image, gathered from its tiles, each of which adds its own part."""

    def __init__(self, heads: Sequence[np.ndarray]) -> None:
        """Gather for one head a view, in the order of the graph's output; see `decode_head`."""
        self._heads = heads
        num_classes, num_features = heads[0].shape[0] - 1, (heads[0].shape[1] - 2) // 2
        self._total = np.zeros((len(heads), num_features))
        self._peak = np.full((len(heads), num_features), -np.inf, np.float32)
        self._mask_peak = np.full((len(heads), num_classes), -np.inf, np.float32)
        self._num_cells = 0

    def add(self, tile: Tile, features: np.ndarray, mask_peaks: np.ndarray) -> None:
        """Take in a tile.

        Args:
            tile: of `make_tiles`.
            features: (V, F, h', w') float32, of each view, in the tile's orientation.
            mask_peaks: (V, C, h'', w'') float32, the largest logits in squares of one stride.
        """
        own, own_peaks = (planes[:, :, *own_cells(tile, *planes.shape[2:])] for planes in (features, mask_peaks))
        self._total += own.sum(axis=(2, 3), dtype=np.float64)
        self._peak = np.maximum(self._peak, own.max(axis=(2, 3)))
        self._mask_peak = np.maximum(self._mask_peak, own_peaks.max(axis=(2, 3)))
        self._num_cells += own.shape[2] * own.shape[3]

    def label_probs(self) -> np.ndarray:
        """(1 + C,) uint8, averaged over views and rounded once; any numbers where not all that was added is finite."""
        pooled = np.concatenate([self._total / self._num_cells, self._peak], axis=1)
        logits = [
            rows[:, :-2] @ view + rows[:, -2] * np.concatenate([[0], mask_peak]) + rows[:, -1]
            for rows, view, mask_peak in zip(self._heads, pooled, self._mask_peak, strict=True)
        ]
        with np.errstate(invalid="ignore"):
            probs = np.mean([1 / (1 + np.exp(-each)) for each in logits], axis=0)
            return np.rint(255 * probs).astype(np.uint8)

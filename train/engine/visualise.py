"""Pictures of what a model predicts: a fixed choice of images, true and predicted masks drawn in."""

from collections.abc import Sequence

import numpy as np

from steel.decision import Decision, apply_decision
from steel.images.bitmask import unpack_masks
from steel.images.geometry import resize_image, restore_size
from steel.images.pictures import draw_overlay
from steel.inference.predictor import Predictor
from steel.shards.reader import ShardReader


def choose_examples(reader: ShardReader, rows: np.ndarray, count: int) -> list[int]:
    """`count` of `rows`, always the same: each class in turn with its most typical area first, then clean images."""
    areas = reader.index.areas[rows]
    queues = []
    for k in range(areas.shape[1]):
        having = np.flatnonzero(areas[:, k] > 0)
        typical = np.abs(np.log(areas[having, k]) - np.log(np.median(areas[having, k]))) if len(having) else having
        queues.append(list(having[np.argsort(typical, kind="stable")]))
    queues.append(list(np.flatnonzero(areas.sum(1) == 0)))
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue and int(rows[queue[0]]) in chosen:
                queue.pop(0)
            if queue and len(chosen) < count:
                chosen.append(int(rows[queue.pop(0)]))
    return chosen


def choose_random(rows: np.ndarray, count: int) -> list[int]:
    """`count` of `rows` by chance, always the same ones."""
    return np.random.default_rng(0).permutation(rows)[:count].tolist()


def draw_examples(
    predictor: Predictor, decision: Decision, reader: ShardReader, rows: Sequence[int]
) -> tuple[list[np.ndarray], list[str]]:
    """(H, W, 3) uint8 RGB pictures with true and predicted masks, and their captions.

    All at the images' original size, which the decision's areas are for, also where the shards hold reduced ones.
    """
    names = reader.manifest.class_names
    samples = [reader.read(row, original_mask=True) for row in rows]
    pictures, captions = [], []
    for row, sample, prediction in zip(rows, samples, predictor.predict([s.image for s in samples]), strict=True):
        size = sample.bitmask.shape
        truth = unpack_masks(sample.bitmask, len(names))
        masks = apply_decision(decision, restore_size(prediction.mask_probs, *size), prediction.label_probs)
        pictures.append(draw_overlay(resize_image(sample.image, size), masks, truth=truth))
        said = [n for n, mask in zip(names, masks, strict=True) if mask.any()]
        true = [n for n, mask in zip(names, truth, strict=True) if mask.any()]
        captions.append(
            f"{reader.index.image_id(row)}  true: {', '.join(true) or 'clean'}  predicted: {', '.join(said) or 'clean'}"
        )
    return pictures, captions

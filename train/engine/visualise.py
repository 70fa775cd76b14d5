"""Pictures of what a model predicts: a fixed choice of images, true and predicted masks drawn in."""

from collections.abc import Iterator, Sequence

import numpy as np

from steel.decision import Decision, apply_decision
from steel.images.bitmask import mask_areas, pack_masks, unpack_masks
from steel.images.geometry import resize_image, restore_size
from steel.images.pictures import draw_comparison
from steel.inference.predictor import Predictor
from steel.inference.region_tags import mark_regions, tags_of
from steel.shards.reader import BadSampleError, Sample, ShardReader
from steel.tracking.items import MaskedImage

NUM_EXAMPLES = 12
"""Typical and random images of a report, of each so many."""


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


def predict_examples(
    predictor: Predictor, decision: Decision, reader: ShardReader, rows: Sequence[int]
) -> list[MaskedImage]:
    """Images with their true and predicted masks, captioned with both; without damaged ones, where these are skipped.

    All at the images' original size, which the decision's areas are for, also where the shards hold reduced ones.
    """
    names = reader.manifest.class_names
    samples = list(_readable(reader, rows))
    examples = []
    for sample, prediction in zip(samples, predictor.predict([s.image for s in samples]), strict=True):
        size = sample.bitmask.shape
        mask_probs = restore_size(prediction.mask_probs, *size)
        masks = apply_decision(decision, mask_probs, prediction.label_probs)
        said = [name for name, mask in zip(names, masks, strict=True) if mask.any()]
        true = [name for name, area in zip(names, mask_areas(sample.bitmask, len(names)), strict=True) if area]
        image_id = reader.index.image_id(sample.row)
        caption = f"{image_id} · true: {', '.join(true) or 'clean'} · predicted: {', '.join(said) or 'clean'}"
        image = resize_image(sample.image, size)
        examples.append(
            MaskedImage(
                *(image_id, caption, image, sample.bitmask, pack_masks(masks), mask_probs.max(axis=0)),
                tags=tags_of(mark_regions(masks, mask_probs), names),
                true_tags=tags_of(mark_regions(unpack_masks(sample.bitmask, len(names))), names),
            )
        )
    return examples


def _readable(reader: ShardReader, rows: Sequence[int]) -> Iterator[Sample]:
    for row in rows:
        try:
            yield reader.read(row, original_mask=True)
        except BadSampleError:
            if reader.on_bad_sample == "fail":
                raise


def draw_examples(examples: Sequence[MaskedImage], num_classes: int) -> tuple[list[np.ndarray], list[str]]:
    """(H, W, 3) uint8 RGB pictures, truth above prediction, and their captions."""
    pictures = [
        draw_comparison(
            e.image,
            unpack_masks(e.predicted, num_classes),
            unpack_masks(e.true, num_classes),
            tags=e.tags,
            true_tags=e.true_tags,
        )
        for e in examples
    ]
    return pictures, [example.caption for example in examples]

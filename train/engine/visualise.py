"""Pictures of what a model predicts: a fixed choice of images, true and predicted masks drawn in."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from steel.decision import Decision, apply_decision
from steel.images.bitmask import mask_areas, pack_masks, unpack_masks
from steel.images.contact_sheet import shrink_for_sheet
from steel.images.geometry import resize_image, restore_size
from steel.images.pictures import draw_comparison
from steel.inference.prediction import Prediction
from steel.inference.predictor import Predictor
from steel.inference.region_tags import mark_regions, tags_of
from steel.metrics.counts import valid_mask
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
    """All that `stream_examples` yields."""
    return list(stream_examples(predictor, decision, reader, rows))


def stream_examples(
    predictor: Predictor, decision: Decision, reader: ShardReader, rows: Sequence[int]
) -> Iterator[MaskedImage]:
    """Images with their true and predicted masks, captioned with both; without damaged ones, where these are skipped.

    All at the images' original size, which the decision's areas are for, also where the shards hold reduced ones. Only
    as many are held at once as the predictor has under way.
    """
    under_way: deque[Sample] = deque()

    def images() -> Iterator[np.ndarray]:
        for sample in _readable(reader, rows):
            under_way.append(sample)
            yield sample.image

    for prediction in predictor.predict_stream(images()):
        yield _example(under_way.popleft(), prediction, decision, reader)


def _example(sample: Sample, prediction: Prediction, decision: Decision, reader: ShardReader) -> MaskedImage:
    names, size = reader.manifest.class_names, sample.bitmask.shape
    mask_probs = restore_size(prediction.mask_probs, *size)
    # As the scores have it: ignored pixels are never predicted.
    valid = valid_mask(sample.bitmask, reader.manifest.ignore_bit)
    masks = apply_decision(decision, mask_probs, prediction.label_probs, valid)
    said = [name for name, mask in zip(names, masks, strict=True) if mask.any()]
    true = [name for name, area in zip(names, mask_areas(sample.bitmask, len(names)), strict=True) if area]
    image_id = reader.index.image_id(sample.row)
    caption = f"{image_id} · true: {', '.join(true) or 'clean'} · predicted: {', '.join(said) or 'clean'}"
    return MaskedImage(
        *(image_id, caption, resize_image(sample.image, size)),
        *(sample.bitmask, pack_masks(masks), mask_probs.max(axis=0)),
        tags=tags_of(mark_regions(masks, mask_probs), names),
        true_tags=tags_of(mark_regions(unpack_masks(sample.bitmask, len(names))), names),
    )


def _readable(reader: ShardReader, rows: Sequence[int]) -> Iterator[Sample]:
    for row in rows:
        try:
            yield reader.read(row, original_mask=True)
        except BadSampleError:
            if reader.on_bad_sample == "fail":
                raise


def draw_examples(examples: Iterable[MaskedImage], num_classes: int) -> tuple[list[np.ndarray], list[str]]:
    """(H, W, 3) uint8 RGB pictures for a contact sheet, truth above prediction, and their captions.

    Each is shrunk to what the sheet shows before the next example is taken: large images would fill the memory.
    """
    pictures, captions = [], []
    for example in examples:
        predicted, true = (unpack_masks(bitmask, num_classes) for bitmask in (example.predicted, example.true))
        drawn = draw_comparison(example.image, predicted, true, tags=example.tags, true_tags=example.true_tags)
        pictures.append(shrink_for_sheet(drawn))
        captions.append(example.caption)
    return pictures, captions

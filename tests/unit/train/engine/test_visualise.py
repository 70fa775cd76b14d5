"""Pictures of answers must show what the scores count, also where the shards hold reduced images."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from steel.decision import ClassDecision, Decision
from steel.inference.prediction import Prediction
from steel.shards.reader import BadSampleError, ShardReader
from steel.tracking.items import MaskedImage
from tests.shard_folder import damage_image, make_shards, steel_image
from train.engine.visualise import draw_examples, predict_examples, stream_examples


class SureOfACorner:
    """Is certain of class 1 in the upper left 4x4 pixels of whatever it is shown."""

    def predict_stream(self, images: Iterable[np.ndarray]) -> Iterator[Prediction]:
        for image in images:
            probs = np.zeros((1, *image.shape[:2]), np.uint8)
            probs[0, :4, :4] = 255
            decision = Decision((ClassDecision(),))
            yield Prediction("", image, ("a",), decision, probs, np.full(2, 255, np.uint8))


def test_a_damaged_image_is_not_shown_where_it_is_skipped(tmp_path) -> None:
    images = [steel_image(n, 32, 64) for n in range(2)]
    shards = make_shards(tmp_path / "shards", images, [np.zeros((32, 64), np.uint8)] * 2, num_classes=1)
    damage_image(shards, 0)
    decision, skipping = Decision((ClassDecision(),)), ShardReader(str(shards), on_bad_sample="skip")
    (shown,) = predict_examples(SureOfACorner(), decision, skipping, [0, 1])  # type: ignore[arg-type]
    assert shown.image_id == skipping.index.image_id(1)
    with pytest.raises(BadSampleError):
        predict_examples(SureOfACorner(), decision, ShardReader(str(shards)), [0, 1])  # type: ignore[arg-type]


def test_areas_are_counted_at_the_original_size(tmp_path) -> None:
    original = np.zeros((64, 128), np.uint8)
    original[:8, :8] = 1
    reader = ShardReader(str(make_shards(tmp_path / "shards", [steel_image(0, 32, 64)], [original], num_classes=1)))
    for min_area, said in ((50, "class 1"), (90, "clean")):  # 4x4 pixels are about 8x8 originally
        decision = Decision((ClassDecision(min_area=min_area),))
        examples = predict_examples(SureOfACorner(), decision, reader, [0])  # type: ignore[arg-type]
        pictures, captions = draw_examples(examples, num_classes=1)
        assert pictures[0].shape[1] == 3 * 128  # enlarged, so that there is room for names
        assert [tag.text for tag in examples[0].true_tags] == ["class 1"]
        assert [tag.text[:9] for tag in examples[0].tags] == ["class 1 0"] * (said == "class 1")
        assert captions[0].endswith(f"predicted: {said}"), captions[0]


def test_ignored_pixels_are_never_predicted(tmp_path) -> None:
    ignored = np.zeros((32, 64), np.uint8)
    ignored[:4, :4] = 1 << 7
    masks = [ignored, np.zeros_like(ignored)]
    shards = make_shards(
        tmp_path / "shards", [steel_image(n, 32, 64) for n in range(2)], masks, num_classes=1, ignore_bit=7
    )
    decision = Decision((ClassDecision(),))
    examples = predict_examples(SureOfACorner(), decision, ShardReader(str(shards)), [0, 1])  # type: ignore[arg-type]
    assert [example.caption[-15:] for example in examples] == ["redicted: clean", "dicted: class 1"]
    assert [np.count_nonzero(example.predicted) for example in examples] == [0, 16]
    assert [len(example.tags) for example in examples] == [0, 1]


def test_large_images_are_read_drawn_and_shrunk_one_by_one(tmp_path) -> None:
    side, events = 3000, []
    images, masks = [np.full((side, side), 90, np.uint8)] * 2, [np.zeros((side, side), np.uint8)] * 2
    shards = make_shards(tmp_path / "shards", images, masks, num_classes=1)

    class Noting(ShardReader):
        def read(self, row, **options):
            events.append(f"read {row}")
            return super().read(row, **options)

    def noted(examples: Iterable[MaskedImage]) -> Iterator[MaskedImage]:
        for example in examples:
            yield example
            events.append("drawn")

    reader = Noting(str(shards))
    examples = stream_examples(SureOfACorner(), Decision((ClassDecision(),)), reader, [0, 1])  # type: ignore[arg-type]
    pictures, captions = draw_examples(noted(examples), num_classes=1)
    assert events == ["read 0", "drawn", "read 1", "drawn"]
    assert len(captions) == 2
    assert sum(picture.nbytes for picture in pictures) < side * side / 2

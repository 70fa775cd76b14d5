"""Who shares a forward pass with whom, and whom a failure hits."""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait

import numpy as np
import pytest

from steel.config import TilingConfig
from steel.decision import default_decision
from steel.errors import InputError
from steel.images.pixel_format import EIGHT_BITS
from steel.inference.base_predictor import BasePredictor
from steel.inference.batching import Cleared, ImageProbs
from steel.inference.prediction import Prediction
from steel.serving.queue import PredictionQueue

PASS = 4 * 64


class Recording(BasePredictor):
    """Says the first pixel of each image as P(any defect); notes batches; fails on an image that begins with 255."""

    class_names = ("spot",)
    decision = default_decision(1)
    in_channels, stride, input_size, depth = 1, 1, None, EIGHT_BITS
    tiling = TilingConfig()

    def __init__(self) -> None:
        super().__init__(PASS, default=PASS)
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def model_digest(self) -> str:
        return "of no weights"

    def _stream(self, batches: Iterable[np.ndarray], cleared: Cleared | None) -> Iterator[ImageProbs]:
        for batch in batches:
            firsts = batch[:, 0, 0, 0]
            self.batches.append([int(first) for first in firsts if first])
            assert self.may_go_on.wait(10)
            if 255 in firsts:
                raise InputError("an image of 255")
            yield ImageProbs(np.zeros_like(batch), np.stack([firsts, firsts], axis=1), np.ones(len(batch), bool))


def image(value: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.full(size, value, np.uint8)


def started(predictor: Recording, wait_s: float = 0.0) -> tuple[PredictionQueue, list[int]]:
    counts: list[int] = []
    queue = PredictionQueue(predictor, wait_s, counts.append)
    queue.start()
    return queue, counts


def busy() -> tuple[Recording, PredictionQueue, list[int], Future[Prediction]]:
    """A queue whose first image is being predicted until its predictor may go on, and what that image will be."""
    predictor = Recording()
    predictor.may_go_on.clear()
    queue, counts = started(predictor)
    first = queue.put("1", image(1))
    while not predictor.batches:
        time.sleep(0.001)
    return predictor, queue, counts, first


def test_images_that_come_while_a_pass_runs_share_the_next() -> None:
    predictor, queue, counts, first = busy()
    others = [queue.put(str(k), image(k)) for k in range(2, 8)]
    assert len(queue) == 6
    predictor.may_go_on.set()
    found = [future.result(10) for future in (first, *others)]
    assert [int(p.label_probs[0]) for p in found] == list(range(1, 8))
    assert [p.image_id for p in found] == [str(k) for k in range(1, 8)]
    assert predictor.batches == [[1], [2, 3, 4, 5], [6, 7]], "no more than fill a pass"
    queue.close()
    assert counts == [1, 4, 2]


@pytest.mark.parametrize(
    ("side", "counts"),
    [
        pytest.param(8, [1, 8, 2], id="four images fill a pass, so that two passes take eight"),
        pytest.param(32, [1, 2, 2, 2, 2, 2], id="each image is more than a pass"),
    ],
)
def test_a_batch_fills_the_passes_that_run_at_once(side: int, counts: list[int]) -> None:
    predictor = Recording()
    predictor.passes_at_once = 2
    predictor.may_go_on.clear()
    queue, seen = started(predictor)
    first = queue.put("1", image(1, (side, side)))
    while not predictor.batches:
        time.sleep(0.001)
    others = [queue.put(str(k), image(k, (side, side))) for k in range(2, 12)]
    predictor.may_go_on.set()
    found = [future.result(10) for future in (first, *others)]
    assert [int(p.label_probs[0]) for p in found] == list(range(1, 12))
    queue.close()
    assert seen == counts


def test_an_image_waits_for_others_up_to_the_bound_and_no_longer() -> None:
    predictor = Recording()
    queue, _ = started(predictor, wait_s=0.3)
    begun = time.monotonic()
    futures = [queue.put("1", image(1)), queue.put("2", image(2))]
    wait(futures, 10)
    assert 0.3 <= time.monotonic() - begun < 5
    assert predictor.batches == [[1, 2]]
    queue.close()


@pytest.mark.parametrize("count", [1, 4])
def test_a_full_pass_does_not_wait(count: int) -> None:
    queue, counts = started(Recording(), wait_s=60)
    size = (8, 8) if count == 4 else (16, 16)
    wait([queue.put("", image(1, size)) for _ in range(count)], 10)
    queue.close()
    assert counts == [count]


def test_an_image_that_fails_fails_alone() -> None:
    queue, _ = started(Recording(), wait_s=60)
    futures = [queue.put(str(k), image(k)) for k in (1, 255, 3, 4)]
    assert [int(f.result(10).label_probs[0]) for f in futures if f is not futures[1]] == [1, 3, 4]
    with pytest.raises(InputError, match="an image of 255"):
        futures[1].result(10)
    assert queue.is_running
    queue.close()


def test_an_image_that_nobody_waits_for_is_dropped_before_its_turn() -> None:
    predictor, queue, counts, first = busy()
    left = [queue.put("2", image(2)) for _ in range(5)]
    second = queue.put("3", image(3))
    assert all(future.cancel() for future in left)
    assert len(queue) == 1
    assert not first.cancel(), "it is being predicted"
    predictor.may_go_on.set()
    assert [int(future.result(10).label_probs[0]) for future in (first, second)] == [1, 3]
    queue.close()
    assert counts == [1, 1]


def test_a_queue_that_everybody_has_left_goes_on() -> None:
    predictor = Recording()
    queue, counts = started(predictor, wait_s=0.2)
    assert queue.put("1", image(1)).cancel()
    time.sleep(0.4)
    assert queue.is_running
    assert int(queue.put("2", image(2)).result(10).label_probs[0]) == 2
    queue.close()
    assert counts == [1]


def test_what_nobody_waits_for_is_left_out_and_closing_predicts_the_rest() -> None:
    predictor = Recording()
    queue, counts = started(predictor, wait_s=60)
    futures = [queue.put(str(k), image(k)) for k in (1, 2, 3)]
    assert futures[1].cancel()
    queue.close()
    assert not queue.is_running
    assert [int(futures[k].result(0).label_probs[0]) for k in (0, 2)] == [1, 3]
    assert predictor.batches == [[1, 3]] and counts == [2]

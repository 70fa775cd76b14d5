"""Images of concurrent requests on their way into shared forward passes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from steel.inference.base_predictor import BasePredictor
from steel.inference.prediction import Prediction
from steel.inference.sources import NamedImage


class _Job(NamedTuple):
    name: str
    image: np.ndarray
    since: float
    """When it came, by the monotonic clock."""
    done: "Future[Prediction]"


class PredictionQueue:
    """One thread that predicts, in batches of those images that have come meanwhile.

    A batch begins when its images fill a forward pass, or when the first has waited `wait_s`: where one image fills a
    pass alone, nobody waits. It takes as many as are there, up to all passes that the predictor runs at once. How many
    images a forward pass has depends on their size alone, so a prediction is the same in any company.
    """

    def __init__(self, predictor: BasePredictor, wait_s: float, on_batch: Callable[[int], None]) -> None:
        """Nothing runs before `start`.

        Args:
            predictor: used by the queue's thread alone.
            wait_s: seconds that the first image of a batch waits for others.
            on_batch: is told the number of images in each batch, in the queue's thread.
        """
        self._predictor = predictor
        self._wait_s = wait_s
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)

    def start(self) -> None:
        """Begin to predict."""
        self._thread.start()

    def close(self) -> None:
        """Predict what is waiting, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether images that are put here will be predicted."""
        return self._thread.is_alive() and not self._closed

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, name: str, image: np.ndarray) -> "Future[Prediction]":
        """Have an image predicted.

        Args:
            name: the prediction's `image_id`; never taken for a path.
            image: (H, W) or (H, W, 3) uint8, as `decode_image` gives it.

        Returns:
            A future; cancelled before its batch begins, the image is dropped at once. What a prediction may raise it
            raises.
        """
        job = _Job(name, image, time.monotonic(), Future())
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        job.done.add_done_callback(self._drop)
        return job.done

    def _drop(self, done: "Future[Prediction]") -> None:
        """Let go of an image that nobody wants any more: a slow batch may be under way for long before its turn."""
        if done.cancelled():
            with self._changed:
                self._jobs = deque(job for job in self._jobs if job.done is not done)

    def _run(self) -> None:
        while batch := self._next_batch():
            wanted = [job for job in batch if job.done.set_running_or_notify_cancel()]
            if wanted:
                self._on_batch(len(wanted))
                self._predict(wanted)

    def _next_batch(self) -> list[_Job]:
        """Wait for images, and then for more of them as long as it is worth it; none once the queue is closed."""
        with self._changed:
            while (left := self._wait_left()) is None or left > 0:
                self._changed.wait(left)
            batch: list[_Job] = []
            while self._jobs and not self._fill(batch, self._predictor.passes_at_once):
                batch.append(self._jobs.popleft())
            return batch

    def _wait_left(self) -> float | None:
        """Seconds that it is worth to wait for more images; None while there is none, and nobody has closed."""
        if not self._jobs and not self._closed:
            return None
        if self._closed or self._fill(self._jobs, 1):
            return 0
        return self._jobs[0].since + self._wait_s - time.monotonic()

    def _fill(self, jobs: Collection[_Job], passes: int) -> bool:
        """Whether one more would not fit into so many forward passes with them; a large image has one to itself."""
        height, width = self._predictor.input_size or (0, 0)
        most = self._predictor.pixels_per_pass
        pixels = sum(min(most, height * width or job.image.shape[0] * job.image.shape[1]) for job in jobs)
        return bool(jobs) and pixels + pixels // len(jobs) > passes * most

    def _predict(self, jobs: Sequence[_Job]) -> None:
        """Give each job its prediction; where a batch fails, its images go alone, so that one fails alone."""
        left = deque(jobs)
        try:
            for prediction in self._predictor.predict_stream([NamedImage(job.name, job.image) for job in jobs]):
                left.popleft().done.set_result(prediction)
        except Exception as error:
            if len(jobs) == 1:
                left.popleft().done.set_exception(error)
        for job in left:
            self._predict([job])

"""What a service counts, in Prometheus' text form."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from steel.inference.prediction import Prediction
from steel.labels.classes import ANY

RECENT = 1000
"""Images behind the gauges of drift."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service. Used in the event loop's thread, but for `batch`."""

    def __init__(
        self,
        class_names: Sequence[str],
        expected: Mapping[str, Any] | None,
        waiting: Callable[[], int],
        under_way: Callable[[], int],
    ) -> None:
        """All at zero.

        Args:
            class_names: C names.
            expected: what the checkpoint says of its validation fold: `mean_probabilities`, 1 + C numbers from 0 to 1
                as those of `Prediction.label_probs`, and `defective_share`; None where it says nothing.
            waiting: how many images wait for their forward pass.
            under_way: how many requests have a place.
        """
        self._registry = CollectorRegistry()
        self._targets = (ANY, *class_names)
        self._recent: deque[tuple[bool, np.ndarray]] = deque(maxlen=RECENT)
        make: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("steel_requests", "Requests to /predict by HTTP status", ["status"], **make)
        self._seconds = Histogram(
            "steel_request_seconds", "From a request's headers to its response", buckets=_SECONDS, **make
        )
        self._verdicts = Counter("steel_images", "Images predicted, by verdict", ["verdict"], **make)
        self._classes = Counter("steel_class_images", "Images with a mask of the class", ["class_name"], **make)
        self._batches = Histogram("steel_batch_images", "Images predicted together", buckets=_IMAGES, **make)
        Gauge("steel_waiting_images", "Images that wait for their forward pass", **make).set_function(waiting)
        Gauge("steel_requests_under_way", "Requests whose image has arrived", **make).set_function(under_way)
        self._share = Gauge("steel_recent_defective_share", f"Of the last {RECENT} images", **make)
        self._mean = Gauge(
            "steel_recent_mean_probability",
            f"By the classification head, over the last {RECENT} images",
            ["target"],
            **make,
        )
        for verdict in ("clean", "defective"):
            self._verdicts.labels(verdict)
        for name in class_names:
            self._classes.labels(name)
        if expected is not None:
            share = Gauge("steel_validation_defective_share", "Of the images the decision was tuned on", **make)
            share.set(expected["defective_share"])
            mean = Gauge(
                "steel_validation_mean_probability",
                "By the classification head, over the images the decision was tuned on",
                ["target"],
                **make,
            )
            for target, value in zip(self._targets, expected["mean_probabilities"], strict=True):
                mean.labels(target).set(value)

    def request(self, status: int, seconds: float) -> None:
        """Count a request to /predict and its response."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def prediction(self, prediction: Prediction) -> None:
        """Count what was predicted for an image."""
        is_defective = bool(prediction.class_ids)
        self._verdicts.labels("defective" if is_defective else "clean").inc()
        for class_id in prediction.class_ids:
            self._classes.labels(prediction.class_names[class_id - 1]).inc()
        self._recent.append((is_defective, prediction.label_probs))

    def batch(self, images: int) -> None:
        """Count images that were predicted together; from any thread."""
        self._batches.observe(images)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        if self._recent:
            verdicts, probs = zip(*self._recent, strict=True)
            self._share.set(sum(verdicts) / len(verdicts))
            for target, value in zip(self._targets, np.mean(probs, axis=0) / 255, strict=True):
                self._mean.labels(target).set(float(value))
        return generate_latest(self._registry)

"""What no network should be needed for: the statistics of 5x5 pixels must not give synthetic defects away."""

import csv
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from steel.labels.rle import decode_rle
from steel.synthetic.dataset import synthesize

NUM_CLASSES = 4
SAMPLES = 800
"""Pixels an image that the regression learns from, and half as many of each class there."""
NUM_LEARNED = 60
"""Images that the regression learns from, the first ones that train."""
SHARES = np.r_[np.linspace(0.02, 0.98, 49), 0.99, 0.995, 0.998]
"""Thresholds tried, as shares of the training pixels below them."""


def _statistics(image: np.ndarray) -> np.ndarray:
    """(H, W, 18) float32: what can be said of the 5x5 pixels around each, plain and relative to their brightness."""
    x = image.astype(np.float32)
    kernel = np.ones((5, 5))
    mean = cv2.blur(x, (5, 5))
    std = np.sqrt(np.maximum(cv2.blur(x * x, (5, 5)) - mean * mean, 0))
    low, high, median = cv2.erode(x, kernel), cv2.dilate(x, kernel), cv2.medianBlur(image, 5).astype(np.float32)
    slopes = [cv2.blur(np.abs(cv2.Sobel(x, cv2.CV_32F, *axes)), (5, 5)) for axes in ((1, 0), (0, 1))]
    curvature = cv2.blur(np.abs(cv2.Laplacian(x, cv2.CV_32F)), (5, 5))
    level = np.float32(max(1.0, float(np.median(x))))
    base = [mean, std, low, high, median, *slopes, curvature]
    relative = [value / (mean + 1) for value in (std, low, high, *slopes, curvature)]
    lightness = [mean / level, np.abs(mean / level - 1), std / level, (mean / level) ** 2]
    return np.stack([*base, *relative, *lightness], axis=-1)


def _load(images: Path, truth: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Gray images and their (4, H, W) bool masks."""
    rles: dict[str, dict[int, str]] = {}
    with truth.open(newline="") as file:
        for row in csv.DictReader(file):
            rles.setdefault(row["ImageId"], {})[int(row["ClassId"])] = row["EncodedPixels"]
    for path in sorted(images.iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        masks = np.zeros((NUM_CLASSES, *image.shape), bool)
        for class_id, rle in rles.get(path.name, {}).items():
            masks[class_id - 1] = decode_rle(rle, *image.shape)
        yield image, masks


def _sample(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    """Pixel numbers of an image: some anywhere, some of each class it has."""
    pixels = masks[0].size
    chosen = [rng.integers(0, pixels, SAMPLES)]
    chosen += [rng.choice(np.flatnonzero(mask), SAMPLES // 2) for mask in masks if mask.any()]
    return np.concatenate(chosen)


def _dice(scores: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Dice of `scores > threshold` for each threshold."""
    inside = mask.sum()
    hits = inside - np.searchsorted(np.sort(scores[mask]), thresholds, "right")
    answered = mask.size - np.searchsorted(np.sort(scores, axis=None), thresholds, "right")
    return 2 * hits / (answered + inside)


def _mean_dice(
    scored: Iterable[tuple[np.ndarray, np.ndarray]], thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each class the Dice, summed over the images that have it, at each threshold, and how many these are."""
    total, count = np.zeros(thresholds.shape), np.zeros(NUM_CLASSES)
    for scores, masks in scored:
        for k in np.flatnonzero(masks.any(axis=(1, 2))):
            total[k] += _dice(scores[..., k], masks[k], thresholds[k])
            count[k] += 1
    return total, count


@pytest.mark.parametrize(
    ("seed", "num_train"),
    [(0, NUM_LEARNED), *(pytest.param(seed, 800, marks=pytest.mark.slow) for seed in (0, 11, 12, 13))],
)
def test_patch_statistics_do_not_find_the_defects(tmp_path, seed: int, num_train: int) -> None:
    """Of images as the demo's; with 800 that train, they are the demo's own (launch/demo.sh)."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    synthesize(tmp_path / "d", num_train, 100, seed=seed, class_share=(0.25, 0.25, 0.25, 0.25), workers=2)
    train = list(islice(_load(tmp_path / "d" / "train_images", tmp_path / "d" / "train.csv"), NUM_LEARNED))
    rng = np.random.default_rng(0)
    x, y = [], []
    for image, masks in train:
        chosen = _sample(rng, masks)
        x.append(_statistics(image).reshape(-1, 18)[chosen])
        y.append(masks.reshape(NUM_CLASSES, -1)[:, chosen].T)
    features, labels = np.concatenate(x), np.concatenate(y)
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    features = (features - mean) / std
    models = [
        linear_model.LogisticRegression(class_weight="balanced", tol=1e-3, max_iter=300).fit(features, labels[:, k])
        for k in range(NUM_CLASSES)
    ]
    weights = np.stack([model.coef_[0] / std for model in models], axis=1).astype(np.float32)
    bias = np.array([model.intercept_[0] - (model.coef_[0] * mean / std).sum() for model in models], np.float32)

    def score(image: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Every fourth pixel: half the time, the same figure.
        return _statistics(image)[::2, ::2] @ weights + bias, masks[:, ::2, ::2]

    learned = [score(*pair) for pair in train]
    thresholds = np.quantile(np.concatenate([s[::4, ::4].reshape(-1, 4) for s, _ in learned]), SHARES, axis=0).T
    total, count = _mean_dice(learned, thresholds)
    best = (total / count[:, None]).argmax(axis=1)  # the thresholds are chosen where it learned, as a user would
    test = _load(tmp_path / "d" / "test_images", tmp_path / "d" / "test_truth.csv")
    total, count = _mean_dice((score(*pair) for pair in test), thresholds)
    assert (count >= 8).all()
    mean_dice_positive = total[np.arange(NUM_CLASSES), best].sum() / count.sum()
    per_class = (total[np.arange(NUM_CLASSES), best] / count).round(3).tolist()
    assert mean_dice_positive < 0.15, f"{mean_dice_positive:.3f}, by class {per_class}"
    assert mean_dice_positive > 0.02, "so low that this test, not the data, must be at fault"

"""Percentiles of all 16-bit values of a set, and the window that they come to."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.depth import LevelsTask, Percentiles, count_levels, kept_levels, parse_depth, sum_levels, window_between
from steel.errors import InputError
from steel.images.listing import ImageRecord
from steel.images.pixel_format import Depth

RNG = np.random.default_rng(3)
VALUES = [RNG.integers(200 * k, 900 * k + 300, (20 + k, 30)).astype(np.uint16) for k in range(1, 5)]


def tasks(folder: Path) -> list[LevelsTask]:
    """Two shards: images of 16 bits, and one of 8 that counts nothing."""
    for k, values in enumerate(VALUES):
        cv2.imwrite(str(folder / f"{k}.png"), values)
    cv2.imwrite(str(folder / "flat.png"), np.full((9, 9), 200, np.uint8))
    names = ["0.png", "1.png", "2.png"], ["3.png", "flat.png"]
    return [
        LevelsTask(
            tuple(ImageRecord(name, str(folder / name)) for name in some), str(folder / f"{k}.levels"), "f", str(folder)
        )
        for k, some in enumerate(names)
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0.1, 99.9), (2, 50), (33.3, 66.6)])
def test_the_window_is_numpys_percentiles_of_all_values(tmp_path: Path, low: float, high: float) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = window_between(sum_levels(tasks(tmp_path), pool), Percentiles(low, high))
    everything = np.concatenate([values.ravel() for values in VALUES])
    expected = np.percentile(everything, [low, high], method="inverted_cdf")
    assert found == Depth("window", *map(int, expected))


def test_counts_are_kept_for_their_plan_alone(tmp_path: Path) -> None:
    task = tasks(tmp_path)[0]
    assert kept_levels(task) is None
    counts = count_levels(task)
    assert np.array_equal(kept_levels(task), counts)
    for record in task.records:
        Path(record.url).unlink()
    assert np.array_equal(count_levels(task), counts)
    other = LevelsTask(task.records, task.url, "g", task.staging)
    assert kept_levels(other) is None
    with pytest.raises(InputError, match=r"unusable images \(No such file or directory\): 0\.png, "):
        count_levels(other)
    damaged = bytearray(Path(task.url).read_bytes())
    damaged[20] ^= 1
    Path(task.url).write_bytes(damaged)
    assert kept_levels(task) is None


def test_what_makes_no_window(tmp_path: Path) -> None:
    counts = np.zeros(65536, np.int64)
    with pytest.raises(InputError, match="no image has 16 bits; leave --depth out"):
        window_between(counts, Percentiles(1, 99))
    counts[700] = 5
    with pytest.raises(InputError, match="both percentiles are 700"):
        window_between(counts, Percentiles(1, 99))


def test_depth_in_words() -> None:
    assert parse_depth(["window", "0", "4095"]) == Depth("window", 0, 4095)
    assert parse_depth(["high-byte"]) == Depth("high-byte")
    assert parse_depth(["percentile", "0.5", "99"]) == Percentiles(0.5, 99)
    for words in (["window", "5"], ["window", "a", "9"], ["percentile"], ["high-byte", "1"], ["8-bit"], ["soft"]):
        with pytest.raises(InputError, match="give window LOW HIGH, percentile P Q or high-byte"):
            parse_depth(words)
    for words in (["percentile", "9", "1"], ["percentile", "0", "101"], ["percentile", "nan", "9"]):
        with pytest.raises(InputError, match="give two percentages"):
            parse_depth(words)
    with pytest.raises(InputError, match="is no window"):
        parse_depth(["window", "9", "9"])

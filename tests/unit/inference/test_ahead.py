"""How much is done ahead of its use: few results, and fewer large ones."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steel.images.decode import decode_image
from steel.images.listing import list_images
from steel.images.pixel_format import EIGHT_BITS
from steel.inference import ahead
from steel.inference.ahead import decode_ahead, map_ahead
from tests.at_once import AtOnce


def begun_before_each(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of items of these sizes have begun when each is handed out, where at most 10 are to be ahead."""
    monkeypatch.setattr(ahead, "_SIZE", 10)
    begun: list[int] = []
    results = map_ahead(AtOnce(), 1, lambda size: begun.append(size) or size, sizes, lambda size: size)
    counts = []
    for place, result in enumerate(results):
        assert result == sizes[place]
        counts.append(len(begun))
    assert len(counts) == len(sizes)
    return counts


@pytest.mark.parametrize(
    ("sizes", "begun"),
    [
        ([0] * 12, [9, 10, 11, 12] + [12] * 8),  # eight a thread, whatever their size
        ([5] * 6, [3, 4, 5, 6, 6, 6]),  # two, from the first on
        ([11] * 4, [2, 3, 4, 4]),  # larger than all that may be ahead: one
        ([2, 2, 2, 2, 9, 9, 2, 1], [5, 5, 5, 5, 6, 7, 8, 8]),  # large ones behind small ones, and the other way round
    ],
)
def test_of_large_items_fewer_are_ahead_from_the_first_on(
    sizes: list[int], begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begun_before_each(sizes, monkeypatch) == begun


def test_what_is_wanted_at_once_waits_for_nothing_that_comes_after_it() -> None:
    begun: list[int] = []
    results = map_ahead(AtOnce(), 1, lambda number: begun.append(number) or number, range(12), at_once=True)
    assert [(result, len(begun)) for result in results] == [(number, number + 1) for number in range(12)]


def test_an_error_comes_in_its_place_and_what_is_left_is_not_begun() -> None:
    begun: list[int] = []

    def invert(number: int) -> float:
        begun.append(number)
        return 1 / number

    results = map_ahead(AtOnce(), 1, invert, [4, 2, 0, *range(1, 20)])
    assert [next(results), next(results)] == [0.25, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert begun == [4, 2, 0, *range(1, 9)]
    assert list(results) == []


@pytest.mark.parametrize("names", [["a.png"] * 8, ["a.bmp"] * 8, ["a.png"] * 4 + ["a.bmp"] * 4], ids=str)
def test_images_are_counted_before_they_are_decoded(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(names):
        cv2.imwrite(str(tmp_path / f"{number}{name}"), np.full((20, 32), number, np.uint8))
    decoded: list[int] = []

    def decode(*arguments: Any) -> np.ndarray:
        decoded.append(len(decoded))
        return decode_image(*arguments)

    monkeypatch.setattr(ahead, "decode_image", decode)
    monkeypatch.setattr(ahead, "_SIZE", 2 * 20 * 32)
    counts = []
    for number, image in enumerate(decode_ahead(AtOnce(), 4, list_images(str(tmp_path)), 1, EIGHT_BITS)):
        assert not isinstance(image, str)
        np.testing.assert_array_equal(image.pixels, np.full((20, 32), number, np.uint8))
        counts.append(len(decoded))
    assert counts == [3, 4, 5, 6, 7, 8, 8, 8]


def test_files_are_read_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.bmp"), np.zeros((20, 32), np.uint8))
    records = list_images(str(tmp_path))
    assert {record.size for record in records} == {(tmp_path / "0.bmp").stat().st_size}
    read: list[str] = []
    own = ahead.ImageRecord.read
    monkeypatch.setattr(ahead.ImageRecord, "read", lambda record: read.append(record.image_id) or own(record))
    monkeypatch.setattr(ahead, "_SIZE", 1)
    next(decode_ahead(AtOnce(), 4, records, 1, EIGHT_BITS))
    assert read == ["0.bmp", "1.bmp", "2.bmp"]  # one is ahead of its use in either place


def test_what_cannot_be_had_stands_in_its_place(tmp_path: Path) -> None:
    for name in ("a.png", "c.png", "d.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 32), np.uint8))
    (tmp_path / "b.webp").write_bytes(b"RIFF\x04\0\0\0WEBP")
    records = list_images(str(tmp_path))
    (tmp_path / "c.png").unlink()
    first, *why, last = decode_ahead(AtOnce(), 1, records, 1, EIGHT_BITS)
    assert not isinstance(first, str) and not isinstance(last, str)
    with pytest.raises(ValueError) as damaged:
        decode_image((tmp_path / "b.webp").read_bytes(), 1)
    assert why == [str(damaged.value), "No such file or directory"]

"""What a set is asked before images from elsewhere join it, and folders that appear whole."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.duplicates import image_signature
from data_prep.further_fold import FurtherFold, NewImage, like_none
from data_prep.pixels import load_image
from data_prep.whole_folder import appearing_whole
from steel.errors import InputError
from steel.images.png import encode_png
from steel.shards.reader import ShardReader
from tests.shard_folder import make_shards, steel_image


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)


def test_an_image_is_new_where_no_known_one_is_like_it_or_like_one_that_is() -> None:
    known = [image_signature(noise(n)) for n in range(5)] + [image_signature(np.full((64, 64), 7, np.uint8))]
    new = [
        noise(10),
        noise(3)[:, ::-1],  # flipped
        noise(4),
        np.full((64, 64), 7, np.uint8),  # flat, and the same
        np.full((64, 64), 8, np.uint8),  # flat, and another
        noise(11),
    ]
    found = like_none([image_signature(image) for image in new], known)
    assert found.tolist() == [True, False, False, False, False, True]


def shards_of(root: Path, num_classes: int, ignore_bit: int | None = None) -> ShardReader:
    kind = np.uint8 if num_classes + (ignore_bit is not None) <= 8 else np.uint16
    masks = [np.zeros((32, 64), kind)] * 3
    images = [steel_image(n) for n in range(3)]
    return ShardReader(str(make_shards(root, images, masks, num_classes=num_classes, ignore_bit=ignore_bit)))


@pytest.mark.parametrize(
    ("num_classes", "ignore_bit", "expected"), [(3, None, 7), (7, None, 7), (9, None, 15), (8, 15, 15), (7, 7, 7)]
)
def test_ignored_pixels_get_the_top_bit_of_the_masks(
    tmp_path: Path, num_classes: int, ignore_bit: int | None, expected: int
) -> None:
    fold = FurtherFold.of(shards_of(tmp_path / "s", num_classes, ignore_bit))
    assert (fold.ignore_bit, fold.number) == (expected, 2)
    masks = np.zeros((num_classes, 1, 3), bool)
    masks[0, 0, 0] = masks[2, 0, :2] = True
    bitmask = fold.bitmask(masks, np.array([[False, False, True]]))
    assert bitmask.tolist() == [[0b101, 0b100, 1 << expected]]
    assert bitmask.itemsize == (1 if expected == 7 else 2)


@pytest.mark.parametrize("num_classes", [8, 16])
def test_masks_without_a_bit_to_spare_are_refused(tmp_path: Path, num_classes: int) -> None:
    with pytest.raises(InputError, match=f"masks of {num_classes} bits hold {num_classes} classes"):
        FurtherFold.of(shards_of(tmp_path / "s", num_classes))


def test_a_set_of_unknown_gray_levels_goes_on_without(tmp_path: Path) -> None:
    fold = FurtherFold.of(shards_of(tmp_path / "s", 3))
    image = load_image(encode_png(noise(9)), "png")
    new = NewImage("fold-2/a.png", image, np.zeros((64, 64), np.uint8), image_signature(image.pixels))
    known = fold.known_signatures(1, lambda done, total: None)
    with appearing_whole(str(tmp_path / "more")) as unfinished:
        made = fold.write(unfinished.path, known, [new], dict)
    assert made.manifest.fold_levels is None and made.fold_sizes == (2, 1, 1)
    assert ShardReader(str(tmp_path / "more")).manifest == made.manifest


def fill(out: str, number: int) -> None:
    with appearing_whole(out) as unfinished:
        (unfinished.path / "whole").write_text(str(1 / number))


def test_a_folder_appears_with_all_that_is_in_it_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        fill(str(out), 0)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()  # an empty one is no harm
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "left").write_text("by a run that was killed")
    with appearing_whole(str(out)) as unfinished:
        assert unfinished.is_restart
        assert list(out.iterdir()) == []
    fill(str(out), 1)
    assert [path.name for path in out.iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(InputError, match="is not empty"):
        fill(str(out), 1)


def test_two_jobs_do_not_share_a_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with appearing_whole(out), pytest.raises(InputError, match="another job is writing there"):
        fill(out, 1)
    assert (tmp_path / "out").is_dir()

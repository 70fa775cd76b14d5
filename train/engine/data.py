"""Which rows of the shards play which role in a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from steel.config import FoldsConfig, TilingConfig
from steel.errors import InputError, alike_on_all_ranks
from steel.inference.tiles import tile_size
from steel.shards.reader import ShardReader
from steel.shards.selection import folds_of, refuse_pseudo, rows_in


@dataclass(frozen=True)
class FoldRows:
    """(n,) rows of each role, ascending, and the folds they come from."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_folds: tuple[int, ...]


@alike_on_all_ranks()
def split_rows(reader: ShardReader, folds: FoldsConfig) -> FoldRows:
    """Deal the rows to their roles: what is neither validation nor test is trained on.

    Raises:
        SharedError: a fold that the shards do not have, or a role without any image; only test folds may be missing.
            A fold that a checkpoint has labelled and that is to validate or test.
    """
    present = folds_of(reader)
    for role, judging in (("validation", folds.validation), ("test", folds.test)):
        refuse_pseudo(f"--folds.{role} {' '.join(map(str, judging))}", judging, reader.manifest)
    train_folds = tuple(f for f in present if f not in (*folds.validation, *folds.test))
    if not train_folds:
        raise InputError(_say_none_to_train(present, folds))
    return FoldRows(
        train=rows_in(reader, train_folds, "train"),
        validation=rows_in(reader, folds.validation, "validation"),
        test=reader.index.rows([f for f in folds.test if f in present]),
        train_folds=train_folds,
    )


@alike_on_all_ranks()
def check_test_folds(reader: ShardReader, folds: FoldsConfig) -> None:
    """See that the folds are there which somebody wants to be kept for a test; of the default, 1, nobody has said so.

    Raises:
        SharedError: one is not.
    """
    if folds.test:
        rows_in(reader, folds.test, "--folds.test: test")


def say_shared_groups(reader: ShardReader, rows: FoldRows) -> list[str]:
    """A line for each role whose images some that train belong to, as near-duplicates or by `--groups`.

    The scores of that role flatter, of the validation those that weights and thresholds are chosen by.
    """
    group, lines = reader.index.group, []
    of_train = group[rows.train]
    for role, held in (("validation", rows.validation), ("test", rows.test)):
        shared = np.isin(of_train, group[held])
        if shared.any():
            lines.append(
                f"{np.count_nonzero(shared):,} of {len(of_train):,} images that train are near-duplicates of "
                f"{role} images, or belong together with them, whose scores they flatter"
            )
    return lines


def say_missing_classes(reader: ShardReader, rows: FoldRows) -> list[str]:
    """A line where no image that trains, or none that validates, has a class that other images have.

    Of a class that no image has at all data_prep has told.
    """
    has, lines = np.asarray(reader.index.areas) > 0, list[str]()
    for role, held, so in (
        ("trains", rows.train, "nothing here teaches it"),
        ("validates", rows.validation, "no validation can say whether it is found"),
    ):
        counts = zip(reader.manifest.class_names, has.sum(axis=0).tolist(), has[held].any(axis=0).tolist(), strict=True)
        for name, num, is_held in counts:
            if num and not is_held:
                others = "1 other has" if num == 1 else f"{num:,} others have"
                lines.append(f"no image that {role} has {name}, though {others} it: {so}")
    return lines


def _say_none_to_train(present: Sequence[int], folds: FoldsConfig) -> str:
    """That validation and test have all folds, and what to do about it."""
    roles = {"--folds.validation": folds.validation, "--folds.test": folds.test}
    taken = " and ".join(" ".join((option, *map(str, of))) for option, of in roles.items() if of)
    named = {*folds.validation, *folds.test}
    there = f"fold{'s' * (len(present) > 1)} {', '.join(map(str, present))}"
    enough = max(len(named), max(named)) + 1
    fewer = "name fewer there (--folds.test without a number tests on none), or " if len(present) > 1 else ""
    return (
        f"train folds: no fold is left beside {taken}; the shards have {there}; {fewer}"
        f"deal the images to at least {enough} with data_prep --folds"
    )


@alike_on_all_ranks()
def resolve_crop(
    reader: ShardReader, rows: np.ndarray, crop: tuple[int, int], tiling: TilingConfig, scale: float = 1.0
) -> tuple[int, int]:
    """`crop`, or for (0, 0) the height and width that hold every image of `rows`; beyond the budget, a tile within it.

    Where the shards store large images in tiles, training reads these as images.

    Args:
        reader: of the shards.
        rows: of the images.
        crop: height and width in pixels, or (0, 0).
        tiling: the budget.
        scale: the smallest at which a crop shows its part of an image; above 1 it is as 1.

    Raises:
        SharedError: it shows more than the tiles that the images are stored in.
    """
    height, width = _largest(reader, rows)
    crop = _within_budget(height, width, tiling) if crop == (0, 0) else crop
    shown = [round(side / min(1.0, scale)) for side in crop]
    whole = int(reader.index.height[rows].max()), int(reader.index.width[rows].max())
    if any(wanted > tile < image for wanted, tile, image in zip(shown, (height, width), whole, strict=True)):
        scaled = f" at a scale of {scale:g}, which shows {shown[0]}x{shown[1]}" if scale < 1 else ""
        raise InputError(
            f"crop {crop[0]}x{crop[1]}{scaled}: the shards store images of up to {whole[0]}x{whole[1]} in tiles of "
            f"{height}x{width}; give a crop that shows no more, or make shards with a larger --tile"
        )
    return crop


def explain_crop(reader: ShardReader, rows: np.ndarray, crop: tuple[int, int], tiling: TilingConfig) -> str | None:
    """What became of (0, 0) where images are too large for it, or stored in tiles; None where they are not."""
    height, width = _largest(reader, rows)
    if crop != (0, 0):
        return None
    if height * width > tiling.budget:
        tall, wide = _within_budget(height, width, tiling)
        return (
            f"images of up to {height}x{width} are more than the {tiling.budget:,} pixels of --tiling.budget: crop "
            f"(0, 0) takes {tall}x{wide} of them"
        )
    if reader.manifest.tile is not None:
        return f"the shards store large images in tiles: crop (0, 0) takes whole tiles of up to {height}x{width}"
    return None


def _within_budget(height: int, width: int, tiling: TilingConfig) -> tuple[int, int]:
    """Height and width of an image, or of a tile of it that has no more pixels than the budget."""
    if height * width <= tiling.budget:
        return height, width
    side = max(2, min(tiling.tile, math.isqrt(tiling.budget)))
    return tile_size(height, width, replace(tiling, tile=side, overlap=min(tiling.overlap, side // 2)))


def _largest(reader: ShardReader, rows: np.ndarray) -> tuple[int, int]:
    """The greatest height and width of the samples of these images."""
    samples, rows = reader.samples, reader.index.samples(rows)
    return int(samples.height[rows].max()), int(samples.width[rows].max())

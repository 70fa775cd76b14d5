"""Real steel at an equal budget: our recipe against the plain loop, on NEU-Seg without its hidden duplicates.

NEU-Seg's 3,618 images are about 870 originals, most of them four times, turned and flipped. One image of each is kept;
a fifth of them is held out for the test, a tenth of the rest chooses weights and thresholds, the others train. Both
sides see the same training images the same number of times, with the same network and precision.
"""

import csv
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.baseline import train_plain
from bench.quality.seeds import gain, mean_dice, miou, spread, values
from bench.quality.trial import FLIPS, TEST, VALIDATION, raw, train, tuned
from data_prep.__main__ import main as shard
from steel.shards.reader import ShardReader

CROP = 128
AIM = 2
ENCODER, DECODER = "resnet18", (64, 48, 32, 24, 16)


def make_shards(
    source: Path,
    work: Path,
    *,
    development: tuple[int, int] | None = None,
    num_train: int | None = None,
    few: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Shards of one image a group of duplicates: fold 0 validates, fold 1 tests, the others train.

    Args:
        source: NEU-Seg, with images/ and masks/.
        work: where they go.
        development: leave the test images out; of the training images let so many stand in for them and so many
            train, so that a recipe can be chosen without a look at the test.
        num_train: let so many train, the first of those that a larger number has too, and a quarter of that number
            validate, eight at least; the test images stay. All when None.
        few: number of a class, from 0; of the images that have it let only so many train, and so many validate. The
            test images are left out.
        seed: of the split.
    """
    out = work / ("-".join(map(str, ("development", *development))) if development else "shards")
    if num_train is not None:
        out = work / f"train-{num_train}"
    if few is not None:
        out = work / "-".join(map(str, ("few", *few)))
    if (out / "manifest.json").exists():
        return out
    test, validation, train_names = _deal(source, work, seed)
    if few is not None:
        with_class = _names_with(work, few[0])
        train_names, validation = (
            _thinned(names, with_class, most) for names, most in zip((train_names, validation), few[1:], strict=True)
        )
        test = []
    if development:
        num_test, num_train = development
        test, train_names = train_names[:num_test], train_names[num_test : num_test + num_train]
    if num_train is not None:
        validation, train_names = validation[: max(8, num_train // 4)], train_names[:num_train]
    fold_of = dict.fromkeys(test, TEST) | dict.fromkeys(validation, VALIDATION) | dict.fromkeys(train_names, 2)
    _shard_as_dealt(source, out, fold_of)
    return out


def make_folds(source: Path, work: Path, number: int, *, seed: int = 0) -> Path:
    """Shards of the same images, of which those that do not test are dealt to so many folds: 0, 2, 3, ..."""
    out = work / f"folds-{number}"
    if not (out / "manifest.json").exists():
        test, *others = _deal(source, work, seed)
        rest = [name for names in others for name in names]
        folds = [fold for fold in range(number + 1) if fold != TEST]
        dealt = {name: folds[i % number] for i, name in enumerate(rest)}
        _shard_as_dealt(source, out, dict.fromkeys(test, TEST) | dealt)
    return out


def copy_unlabelled(source: Path, work: Path, *, num_train: int, seed: int = 0) -> Path:
    """A folder of the training images that `make_shards` of so many leaves out, and of no others."""
    out = work / f"unlabelled-{num_train}"
    if not out.exists():
        partial = out.with_name(f"{out.name}-partial")
        partial.mkdir(parents=True, exist_ok=True)
        for name in _deal(source, work, seed)[2][num_train:]:
            shutil.copy(source / "images" / name, partial / name)
        partial.rename(out)
    return out


def _deal(source: Path, work: Path, seed: int) -> tuple[list[str], list[str], list[str]]:
    """One image of each group of duplicates: those that test, validate and train."""
    if not (work / "all" / "manifest.json").exists():
        _shard(source / "images", source / "masks", work / "all")
    index = ShardReader(str(work / "all")).index
    rng = np.random.default_rng(seed)
    groups: dict[int, list[str]] = {}
    for row, group in enumerate(np.asarray(index.group).tolist()):
        groups.setdefault(group, []).append(index.image_id(row))
    chosen = [str(rng.choice(sorted(groups[group]))) for group in sorted(groups)]
    rng.shuffle(chosen)
    fifth = len(chosen) // 5
    test, rest = chosen[:fifth], chosen[fifth:]
    return test, rest[: len(rest) // 10], rest[len(rest) // 10 :]


def _shard_as_dealt(source: Path, out: Path, fold_of: Mapping[str, int]) -> None:
    """Shards of the images that are named, in the folds that they are given."""
    images, masks = out.with_name(f"{out.name}-images"), out.with_name(f"{out.name}-masks")
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    mask_of = {path.stem: path for path in (source / "masks").iterdir()}
    for name in fold_of:
        shutil.copy(source / "images" / name, images / name)
        mask = mask_of[Path(name).stem]
        shutil.copy(mask, masks / mask.name)
    split = out.with_name(f"{out.name}-split.csv")
    with split.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "fold"), *sorted(fold_of.items())])
    _shard(images, masks, out, "--split-file", str(split))


def _names_with(work: Path, number: int) -> set[str]:
    """The images that have a class (from 0)."""
    index = ShardReader(str(work / "all")).index
    return {index.image_id(row) for row in np.flatnonzero(np.asarray(index.areas)[:, number]).tolist()}


def _thinned(names: Sequence[str], with_class: set[str], most: int) -> list[str]:
    """Those without the class, and the first few with it, in their order."""
    dropped = set([name for name in names if name in with_class][most:])
    return [name for name in names if name not in dropped]


def _shard(images: Path, masks: Path, out: Path, *options: str) -> None:
    names = ("--class-names", "inclusion,patches,scratches")
    if shard(["--images", str(images), "--labels", str(masks), "--out", str(out), *names, *options]) != 0:
        sys.exit(1)


def recipe(passes: int, seed: int) -> list[str]:
    """The two phases of the preset for Severstal in its own proportion (30 : 8 epochs), for images of 200x200; in
    batches of 16 at half of its rates, as the square root of the batch has it."""
    full = round(passes * 8 / 38)
    return [
        *("--seed", str(seed), "--model.encoder", ENCODER, "--model.weights", "none"),
        *("--model.decoder-channels", *map(str, DECODER)),
        *("--phases.0.epochs", str(passes - full), "--phases.0.crop", str(CROP), str(CROP)),
        *("--phases.1.epochs", str(full)),
        *("--phases.0.batch-size", "16", "--phases.1.batch-size", "16"),
        *("--phases.0.lr", "1e-3", "--phases.1.lr", "1e-4"),
        *("--validation.every-epochs", "4"),
    ]


def run(source: Path, work: Path, *, passes: int, seeds: Sequence[int]) -> str:
    """Train both sides for every seed; the section of the report as Markdown."""
    data = make_shards(source, work)
    ours = [train(work / f"ours-{passes}-{seed}", data, "severstal", recipe(passes, seed)) for seed in seeds]
    plain = [
        train_plain(
            work / f"plain-{passes}-{seed}",
            data,
            encoder=ENCODER,
            decoder=DECODER,
            passes=passes,
            crop=(CROP, CROP),
            seed=seed,
        )
        for seed in seeds
    ]
    sides = {
        "plain loop, threshold 0.5": [raw(t, data) for t in plain],
        "ours, threshold 0.5": [raw(t, data) for t in ours],
        "plain loop, threshold tuning and TTA": [tuned(t, data, ("none",)) for t in plain],
        "ours, threshold tuning and TTA": [tuned(t, data) for t in ours],
    }
    num = np.bincount(np.asarray(ShardReader(str(data)).index.fold), minlength=3)
    lines = [
        f"{num[2]} images train, {num[VALIDATION]} validate, {num[TEST]} test; U-Net with {ENCODER} from scratch and a "
        f"decoder of {'-'.join(map(str, DECODER))} channels; {passes} passes in batches of 16, crops of {CROP}x{CROP} "
        f"(ours: preset severstal, with whole images in its last phase); seeds {', '.join(map(str, seeds))}. IoU in "
        "percent.",
        "",
        "| | mean IoU of three classes (each seed) | seconds to train (each seed) |",
        "|---|---|---|",
    ]
    for name, outcomes in sides.items():
        seconds = ", ".join(f"{t.seconds:.0f}" for t in (plain if name.startswith("plain") else ours))
        lines.append(f"| {name} | {spread(values(outcomes, miou))} | {seconds} |")
    lines += ["", f"The aim was {AIM} points over the plain loop, before and after threshold tuning.", ""]
    lines += ["| gain of ours | points | 95 % over seeds | 95 % over test images |", "|---|---|---|---|"]
    names = list(sides)
    for ours_name, other in ((names[1], names[0]), (names[3], names[0]), (names[3], names[2])):
        lines.append(f"| {ours_name}, over: {other} | {gain(sides[ours_name], sides[other], miou).text()} |")
    lines += [
        "",
        "What tuning adds on the test fold, which it never saw, over thresholds of one half with the same flips:",
        "",
        "| | mean Dice before | after | points | 95 % over seeds | 95 % over test images |",
        "|---|---|---|---|---|---|",
    ]
    for name, trials in (("plain loop", plain), ("ours", ours)):
        before, after = [raw(t, data, FLIPS) for t in trials], sides[f"{name}, threshold tuning and TTA"]
        lines.append(
            f"| {name} | {spread(values(before, mean_dice))} | {spread(values(after, mean_dice))} | "
            f"{gain(after, before, mean_dice).text()} |"
        )
    return "\n".join(lines)

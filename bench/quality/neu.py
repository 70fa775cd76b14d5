"""Real steel at an equal budget: our recipe against the plain loop, on NEU-Seg without its hidden duplicates.

NEU-Seg's 3,618 images are about 870 originals, most of them four times, turned and flipped. One image of each is kept;
a fifth of them is held out for the test, a tenth of the rest chooses weights and thresholds, the others train. Both
sides see the same training images the same number of times, with the same network and precision.
"""

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.quality.baseline import train_plain
from bench.quality.seeds import gain, mean_dice, miou, spread, values
from bench.quality.trial import FLIPS, TEST, VALIDATION, Trial, calibrated, train
from data_prep.__main__ import main as shard
from steel.data.shards import ShardReader
from steel.evaluation.decision import GATES, default_decision
from steel.evaluation.scores import Outcome, decide

CROP = 128
BATCH, EMA_DECAY = 16, "0.992"
RATES = ("3e-3", "3e-4")
AIM = 2
ENCODER, DECODER = "resnet18", (64, 48, 32, 24, 16)


def make_shards(source: Path, work: Path, seed: int = 0) -> Path:
    """Shards of one image a group of duplicates: fold 0 validates, fold 1 tests, the others train."""
    out = work / "shards"
    if (out / "manifest.json").exists():
        return out
    _shard(source / "images", source / "masks", work / "all")
    index = ShardReader(str(work / "all")).index
    rng = np.random.default_rng(seed)
    groups: dict[int, list[str]] = {}
    for row, group in enumerate(np.asarray(index.group).tolist()):
        groups.setdefault(group, []).append(index.image_id(row))
    chosen = [str(rng.choice(sorted(groups[group]))) for group in sorted(groups)]
    rng.shuffle(chosen)
    fifth = len(chosen) // 5
    fold_of = dict.fromkeys(chosen[:fifth], TEST)
    rest = chosen[fifth:]
    fold_of |= {name: VALIDATION if i < len(rest) // 10 else 2 for i, name in enumerate(rest)}
    for kind in ("images", "masks"):
        (work / "chosen" / kind).mkdir(parents=True, exist_ok=True)
    masks = {path.stem: path for path in (source / "masks").iterdir()}
    for name in chosen:
        shutil.copy(source / "images" / name, work / "chosen" / "images" / name)
        mask = masks[Path(name).stem]
        shutil.copy(mask, work / "chosen" / "masks" / mask.name)
    with (work / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "fold"), *sorted(fold_of.items())])
    _shard(work / "chosen" / "images", work / "chosen" / "masks", out, "--split-file", str(work / "split.csv"))
    return out


def _shard(images: Path, masks: Path, out: Path, *options: str) -> None:
    names = ("--class-names", "inclusion,patches,scratches")
    if shard(["--images", str(images), "--masks", str(masks), "--out", str(out), *names, *options]) != 0:
        sys.exit(1)


def recipe(passes: int, seed: int) -> list[str]:
    """The default preset for 627 images of 200x200 instead of 10,000 of 256x1600.

    Its two phases in their proportion (30 : 8 epochs); smaller batches, for there are few steps; three times its rates,
    for it starts from random weights; and a moving average as long in proportion to the training (about a fifth of it).
    """
    full = round(passes * 8 / 38)
    return [
        *("--optim.ema-decay", EMA_DECAY),
        *("--seed", str(seed), "--model.encoder", ENCODER, "--model.no-pretrained"),
        *("--model.decoder-channels", *map(str, DECODER)),
        *("--phases.0.epochs", str(passes - full), "--phases.0.crop", str(CROP), str(CROP)),
        *("--phases.1.epochs", str(full)),
        *("--phases.0.lr", RATES[0], "--phases.1.lr", RATES[1]),
        *("--phases.0.batch-size", str(BATCH), "--phases.1.batch-size", str(BATCH)),
        *("--phases.0.micro-batch", str(BATCH // 2), "--phases.1.micro-batch", str(BATCH // 2)),
        *("--validation.every-epochs", "4"),
    ]


def run(source: Path, work: Path, *, passes: int, seeds: Sequence[int], plain_rates: Sequence[float]) -> str:
    """Train ours, and the plain loop at each rate, for every seed; the section of the report as Markdown."""
    data = make_shards(source, work)
    ours = [train(work / f"ours-{passes}-{seed}", data, "severstal", recipe(passes, seed)) for seed in seeds]
    loops = {
        f"plain loop, rate {rate:g}": [
            train_plain(
                work / f"plain-{passes}-{rate:g}-{seed}",
                data,
                encoder=ENCODER,
                decoder=DECODER,
                passes=passes,
                crop=CROP,
                seed=seed,
                batch_size=BATCH,
                lr=rate,
            )
            for seed in seeds
        ]
        for rate in plain_rates
    }
    trained = loops | {"ours": ours}
    raw = {name: [_raw(t, data) for t in trials] for name, trials in trained.items()}
    whole = {
        name: [calibrated(t, data, GATES if name == "ours" else ("none",)) for t in trained[name]] for name in trained
    }
    num = np.bincount(np.asarray(ShardReader(str(data)).index.fold), minlength=3)
    lines = [
        f"{num[2]} images train, {num[VALIDATION]} validate, {num[TEST]} test; U-Net with {ENCODER} from scratch and a "
        f"decoder of {'-'.join(map(str, DECODER))} channels; {passes} passes in batches of {BATCH}, crops of "
        f"{CROP}x{CROP} (ours: whole images in its last phase, rates {' and '.join(RATES)}); "
        f"seeds {', '.join(map(str, seeds))}. IoU in percent.",
        "",
        "| | mean IoU of three classes (each seed) | seconds to train (each seed) |",
        "|---|---|---|",
    ]
    for how, sides in (("threshold 0.5", raw), ("calibration and TTA", whole)):
        for name, outcomes in sides.items():
            seconds = ", ".join(f"{t.seconds:.0f}" for t in trained[name])
            lines.append(f"| {name}, {how} | {spread(values(outcomes, miou))} | {seconds} |")
    lines += ["", f"The aim was {AIM} points over the plain loop, before and after calibration.", ""]
    lines += ["| gain of ours | points | 95 % over seeds | 95 % over test images |", "|---|---|---|---|"]
    for name in loops:
        for how, mine, theirs in (
            ("both at threshold 0.5", raw, raw),
            ("ours with calibration and TTA", whole, raw),
            ("both with calibration and TTA", whole, whole),
        ):
            lines.append(f"| over {name}, {how} | {gain(mine['ours'], theirs[name], miou).text()} |")
    lines += [
        "",
        "What calibration adds on the test fold, which it never saw, over thresholds of one half with the same flips:",
        "",
        "| | mean Dice before | after | points | 95 % over seeds | 95 % over test images |",
        "|---|---|---|---|---|---|",
    ]
    for name, trials in trained.items():
        before = [_raw(t, data, FLIPS) for t in trials]
        lines.append(
            f"| {name} | {spread(values(before, mean_dice))} | {spread(values(whole[name], mean_dice))} | "
            f"{gain(whole[name], before, mean_dice).text()} |"
        )
    return "\n".join(lines)


def _raw(trial: Trial, data: Path, tta: tuple[str, ...] = ()) -> Outcome:
    statistics = trial.statistics(data, TEST, tta)
    return decide(statistics, default_decision(statistics.num_classes))

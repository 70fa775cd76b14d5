"""One unified network against the six it replaces: a binary and a multi-label classifier and a U-Net a class.

The six get the time of the unified network together, and again that time each. `networks.py` says how all are built,
`recipes.py` how they are trained.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.quality.networks import Network, Task, evaluate, tasks
from bench.quality.recipes import Recipe
from bench.quality.seeds import Measure, gain, mean_dice, mean_dice_positive, spread, values
from bench.quality.trial import TEST, VALIDATION, claim, folder_name
from data_prep.__main__ import main as shard
from steel.errors import InputError
from steel.labels.csv_file import read_names
from steel.labels.kaggle_csv import read_kaggle_csv
from steel.metrics.scores import Outcome, decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.plain import to_dict
from steel.shards.reader import ShardReader
from steel.shards.selection import folds_of, rows_in
from steel.synthetic.dataset import synthesize
from steel.thresholds.tuning import tune_thresholds

PACE_STEPS = 45
"""Steps by which a network's pace is taken before its budget is turned into a number of steps."""
UNIFIED, TOGETHER, EACH = "one unified network", "six, the same time together", "six, the same time each"
LONG = "one unified network, six times as long"
"""As long as six with that time each."""
SIDES = (UNIFIED, TOGETHER, EACH)


def make_shards(work: Path, annotations: Path, image_ids: Path | None, num_images: int, per_class: int) -> Path:
    """Strips rendered for real masks: `steel synth --annotations`, at a quarter of their height and width; once.

    Raises:
        InputError: those that were made before are of other masks.
    """
    out, wanted = work / "shards", work / "image_ids.txt"
    chosen = "\n".join(choose_images(annotations, image_ids, num_images, per_class)) + "\n"
    if not (out / "manifest.json").exists():
        wanted.write_text(chosen)
        synthesize(work / "data", annotations=annotations, image_ids=wanted)
        images = ("--images", str(work / "data" / "train_images"), "--labels", str(work / "data" / "train.csv"))
        if shard([*images, "--out", str(out), "--folds", "5", "--resize", "64x400"]) != 0:
            sys.exit(1)
    elif wanted.exists() and wanted.read_text() != chosen:
        raise InputError(f"{out}: strips of other masks than are asked for; choose another --work, or remove {work}")
    return out


def choose_images(annotations: Path, image_ids: Path | None, num_images: int, per_class: int) -> list[str]:
    """Images of which at least `per_class` hold each class, as far as there are so many, and clean ones for the rest.

    In the natural mix a small set has hardly an image of the rare classes, and a network that answers the commonest
    class alone looks as good as one that knows them all.
    """
    rows = read_kaggle_csv(str(annotations)).rows
    ids = sorted(set(read_names(str(image_ids))) if image_ids is not None else {row.image_id for row in rows})
    np.random.default_rng(0).shuffle(ids)
    classes: dict[str, set[int]] = {name: set() for name in ids}
    for row in rows:
        if row.rle and row.class_id is not None and row.image_id in classes:
            classes[row.image_id].add(row.class_id)
    holders = {k: [name for name in ids if k in classes[name]] for k in sorted(set().union(*classes.values()))}
    chosen: set[str] = set()
    for names in sorted(holders.values(), key=len):
        missing = per_class - len(chosen.intersection(names))
        chosen.update([name for name in names if name not in chosen][: max(0, missing)])
    clean = [name for name in ids if not classes[name]]
    return sorted(chosen) + sorted(clean[: max(0, num_images - len(chosen))])


@dataclass(frozen=True)
class Side:
    """One way to divide the labour, trained with one seed."""

    validation: EvaluationStatistics
    test: EvaluationStatistics
    training_seconds: float
    steps: tuple[int, ...]
    """Of each network."""
    images_per_second: float
    """Judged by all networks one after the other."""
    parameters: int

    @property
    def num_networks(self) -> int:
        """One for ours, more for a cascade."""
        return len(self.steps)

    def save(self, folder: Path) -> None:
        """Write it, for `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.validation.save(folder / "validation.npz")
        self.test.save(folder / "test.npz")
        names = ("training_seconds", "steps", "images_per_second", "parameters")
        (folder / "side.json").write_text(json.dumps({name: getattr(self, name) for name in names}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Side":
        """What `save` wrote."""
        rest = json.loads((folder / "side.json").read_text())
        rest["steps"] = tuple(rest["steps"])
        validation, test = (EvaluationStatistics.load(folder / f"{part}.npz") for part in ("validation", "test"))
        return cls(validation, test, **rest)


def train_side(
    folder: Path, parts: Sequence[tuple[Task, int]], recipe: Recipe, reader: ShardReader, rows: np.ndarray, seed: int
) -> Side:
    """Train each task for its number of steps and judge them together; what was finished before is not done again."""
    if (folder / "side.json").exists():
        return Side.load(folder)
    begun = time.perf_counter()
    networks = [Network(task, recipe, reader, rows, seed) for task, _ in parts]
    for network, (_, steps) in zip(networks, parts, strict=True):
        network.train(reader, steps, seed)
    seconds = time.perf_counter() - begun
    (validation, _), (test, speed) = evaluate(networks, reader, VALIDATION), evaluate(networks, reader, TEST)
    side = Side(
        validation,
        test,
        round(seconds, 1),
        tuple(steps for _, steps in parts),
        round(speed, 1),
        sum(network.num_parameters for network in networks),
    )
    side.save(folder)
    return side


def run(
    data: Path, work: Path, recipe: Recipe, *, seconds: float, seeds: Sequence[int], names: Sequence[str] = SIDES
) -> str:
    """Train and judge the unified network and both cascades; the section of the report as Markdown.

    Args:
        data: shards with a validation and a test fold.
        work: where finished sides are kept.
        recipe: of all networks.
        seconds: of training for the unified network.
        seeds: of the trainings.
        names: the sides; `LONG` may join `SIDES`.

    Raises:
        InputError: `work` holds sides of another recipe or other shards.
    """
    reader = ShardReader(str(data))
    claim(work, _asked(recipe, reader), is_begun=any(work.glob("*/side.json")))
    rows = rows_in(reader, [f for f in folds_of(reader) if f not in (VALIDATION, TEST)], "train")
    one, six = tasks(reader.manifest.num_classes)
    sides: dict[str, list[Side]] = {name: [] for name in names}
    steps = _steps(work / f"steps-{seconds:g}.json", (one, *six), recipe, reader, rows, seconds)
    shares = {UNIFIED: ((one,), 1.0), TOGETHER: (six, 1 / len(six)), EACH: (six, 1.0), LONG: ((one,), float(len(six)))}
    for seed in seeds:
        for name, trained in sides.items():
            networks, share = shares[name]
            parts = [(task, max(10, round(share * steps[task.name]))) for task in networks]
            folder = work / f"{folder_name(name)}-{seconds:g}-{seed}"
            trained.append(train_side(folder, parts, recipe, reader, rows, seed))
    outcomes = {name: [_tuned(side, reader, rows) for side in those] for name, those in sides.items()}
    return _report(reader, rows, recipe, seconds, sides, outcomes)


def _asked(recipe: Recipe, reader: ShardReader) -> list[str]:
    """What sides in a folder follow from, but for what their names say."""
    model = replace(recipe.model, weights=Path(recipe.model.weights).name)  # wherever it lies
    parts = to_dict(replace(recipe, model=model))
    del parts["told"]
    fields = [f"{part} {name}={json.dumps(value)}" for part, those in parts.items() for name, value in those.items()]
    return [*fields, f"of shards {reader.manifest.digest}"]


def _steps(
    path: Path, tasks: Sequence[Task], recipe: Recipe, reader: ShardReader, rows: np.ndarray, seconds: float
) -> dict[str, int]:
    """How many steps of each network take `seconds`; measured once, so that all seeds have the same.

    The faster of two rounds counts: other work on the machine only ever slows a network down.
    """
    if not path.exists():
        rounds = [
            {task.name: Network(task, recipe, reader, rows, 0).train(reader, PACE_STEPS, 0) for task in tasks}
            for _ in range(2)
        ]
        pace = {name: min(one[name] for one in rounds) for name in rounds[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({name: max(1, round(seconds / step)) for name, step in pace.items()}) + "\n", encoding="utf-8"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _tuned(side: Side, reader: ShardReader, rows: np.ndarray) -> Outcome:
    areas = np.asarray(reader.index.areas)[rows]
    return decide(side.test, tune_thresholds(side.validation, training_areas=areas).decision)


def _report(
    reader: ShardReader,
    rows: np.ndarray,
    recipe: Recipe,
    seconds: float,
    sides: Mapping[str, Sequence[Side]],
    outcomes: Mapping[str, Sequence[Outcome]],
) -> str:
    index = reader.index
    folds = np.asarray(index.fold)
    held = [int(np.count_nonzero(folds == fold)) for fold in (VALIDATION, TEST)]
    with_class = np.count_nonzero(np.asarray(index.areas)[folds == TEST], axis=0)
    floor = float(score(outcomes[UNIFIED][0]).mean_dice_all_empty)
    lines = [
        f"Synthetic strips, rendered for real masks: {len(rows)} images train, {held[0]} validate, {held[1]} test "
        f"(with each class: {', '.join(map(str, with_class.tolist()))}), at {index.height[0]}x{index.width[0]}; no "
        f"test-time augmentation; {seconds:g} s of training for the unified network, in steps of "
        f"{recipe.phase.batch_size} crops (classifiers: whole images). Every side has {recipe.told} and is tuned "
        f"alike, with the gate that suits it best. Answering nothing gets {100 * floor:.2f}.",
        "",
        "| | mean Dice (each seed) | positive Dice (each seed) | of each class |",
        "|---|---|---|---|",
    ]
    for name, those in outcomes.items():
        classes = np.mean([score(outcome).dice_positive_per_class for outcome in those], axis=0)
        lines.append(
            f"| {name} | {spread(values(those, mean_dice))} | {spread(values(those, mean_dice_positive))} | "
            f"{', '.join(f'{100 * value:.2f}' for value in classes)} |"
        )
    lines += _gains("the unified network", outcomes[UNIFIED], {name: outcomes[name] for name in (TOGETHER, EACH)})
    if LONG in outcomes:
        shorter = {name: outcomes[name] for name in (UNIFIED, EACH)}
        lines += _gains("the unified network, six times as long,", outcomes[LONG], shorter)
    lines += ["", "| | parameters | seconds to train | steps | images/s | files |", "|---|---|---|---|---|---|"]
    for name, trained in sides.items():
        first = trained[0]
        lines.append(
            f"| {name} | {first.parameters:,} | {_list(side.training_seconds for side in trained)} | "
            f"{_list(first.steps)} | {_list(side.images_per_second for side in trained)} | {first.num_networks} |"
        )
    return "\n".join(lines)


def _gains(ours_name: str, ours: Sequence[Outcome], others: Mapping[str, Sequence[Outcome]]) -> list[str]:
    lines = ["", f"| {ours_name} over | measure | points | 95 % over seeds | 95 % over test images |"]
    lines.append("|---|---|---|---|---|")
    measures: Mapping[str, Measure] = {"mean Dice": mean_dice, "positive Dice": mean_dice_positive}
    for name, theirs in others.items():
        for measure_name, measure in measures.items():
            lines.append(f"| {name} | {measure_name} | {gain(ours, theirs, measure).text()} |")
    return lines


def _list(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.0f}" for number in numbers)

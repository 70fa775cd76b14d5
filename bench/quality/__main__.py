"""Quality of trained models, measured:  python -m bench.quality QUESTION

severstal | pretrained-neu | pretrained-bsdata | pretrained-strips | pretrained-strips-all | auto-choice | auto-bsdata
auto-strips | batches | batches-neu | batches-bsdata | clean | small | pseudo-labels | distill | rare | rare-strips
neu | choice | cascade-pretrained | cascade | parts | ablation | thresholds | thresholds-neu | thresholds-bsdata
thresholds-strips | demo

Each answers one question: it writes its section into bench/quality/sections and puts bench/quality.md together anew.
What was trained before is not trained again: remove a run's folder under --work to repeat it.
"""

import argparse
import os
import platform
import sys
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

from bench.made_by import made_by
from bench.quality import (
    ablation,
    auto_choice,
    batches,
    bsdata,
    cascade,
    choice,
    clean,
    demo,
    distill,
    neu,
    parts,
    pretrained,
    pseudo,
    rare,
    recipes,
    severstal,
    small,
    thresholds,
)
from bench.quality.trial import ROOT
from steel.commands.common import Parser
from steel.errors import run_program

HERE = Path(__file__).parent
PACKAGES = ("torch", "accelerate", "segmentation-models-pytorch", "albumentations", "timm", "numpy")
SECTIONS = {
    "severstal": "The full Severstal set, beside what was published",
    "pretrained-neu": "With pretrained weights: better than the plain loop on hot-rolled steel?",
    "pretrained-bsdata": "With pretrained weights: better than the plain loop on small pits?",
    "pretrained-strips": "With pretrained weights: better than the plain loop on Severstal's geometry?",
    "pretrained-strips-all": "And on all of its images, in the natural mix?",
    "auto-choice": "What could `--preset auto` do better on pretrained weights?",
    "auto-bsdata": "And on small pits?",
    "auto-strips": "And on Severstal's geometry?",
    "batches": "Does the batch that many GPUs share cost quality?",
    "batches-neu": "Does it on hot-rolled steel?",
    "batches-bsdata": "Does it on small pits?",
    "clean": "And where 90 % of the images are clean?",
    "small": "With few images: what pretrained weights and the recipe are worth",
    "pseudo-labels": "What are images without labels worth?",
    "distill": "What does one network learn from an ensemble?",
    "rare": "Is a class found of which 8 images train?",
    "rare-strips": "And on strips?",
    "neu": "Better than the plain loop?",
    "choice": "How was that recipe chosen?",
    "cascade-pretrained": "Better than six networks, with pretrained weights?",
    "cascade": "Better than six networks?",
    "parts": "Which parts matter on real steel?",
    "ablation": "Which parts matter on synthetic strips?",
    "thresholds": "Does tuning thresholds on few images ever harm?",
    "thresholds-neu": "Does it where trained networks see hot-rolled steel?",
    "thresholds-bsdata": "Where they see small pits?",
    "thresholds-strips": "Where they see strips?",
    "demo": "Does the demo reach its bounds on data that nothing was chosen on?",
}
OTHER_SETS = {"auto-bsdata": "pretrained-bsdata", "auto-strips": "pretrained-strips"}
"""Questions about `auto` on the sets of others, whose trainings of it they take."""
OF_BATCHES = {
    "batches": "pretrained-strips",
    "batches-neu": "pretrained-neu",
    "batches-bsdata": "pretrained-bsdata",
}
"""Questions about the preset for Severstal on these sets, whose trainings of it they take."""
SAME_WORK = {**OTHER_SETS, **OF_BATCHES}
OF_THRESHOLDS = {
    "thresholds-neu": "pretrained-neu",
    "thresholds-bsdata": "pretrained-bsdata",
    "thresholds-strips": "pretrained-strips",
}
"""Questions about the networks of `auto` that were trained for these."""
RENDERED = ("pretrained-strips", pretrained.ALL_STRIPS, "auto-strips", "batches", "cascade-pretrained", "cascade")
"""Of strips rendered for real masks."""
RARE = ("rare", "rare-strips")
"""Of a class of which few images train."""


def main() -> int:
    """Entry point; returns the exit code."""
    options = _parse()
    work = options.work.absolute() / {**SAME_WORK, **OF_THRESHOLDS}.get(options.what, options.what)
    work.mkdir(parents=True, exist_ok=True)
    if options.what in pretrained.SETS:
        given = options.what, _shards(options, work), options.weights, work
        text = pretrained.run(*given, passes=options.passes, seeds=options.seeds)
    elif options.what == "severstal":
        recipe = severstal.Recipe(options.preset, _given_weights(options.weights), options.size)
        text = severstal.run(options.data, work, recipe, splits=options.variants or list(severstal.SPLITS))
        if recipe.is_rehearsal:
            print(text)
            return 0
    elif options.what == "auto-choice":
        text = auto_choice.run(
            options.source,
            options.weights,
            work,
            passes=options.passes,
            seeds=options.seeds,
            variants=list(auto_choice.VARIANTS) if options.variants is None else options.variants,
            once=options.once,
        )
    elif options.what in OTHER_SETS:
        text = auto_choice.run_on_validation(
            *(OTHER_SETS[options.what], _shards(options, work), options.weights, work),
            passes=options.passes,
            seeds=options.seeds,
            variants=options.variants or [auto_choice.NO_BRIGHTNESS],
            once=options.once,
        )
    elif options.what in OF_BATCHES:
        given = OF_BATCHES[options.what], _shards(options, work), options.weights, work
        text = batches.run(*given, seeds=options.seeds, variants=options.variants or list(batches.VARIANTS))
    elif options.what == "clean":
        variants = list(clean.VARIANTS) if options.variants is None else options.variants
        text = clean.run(
            *(options.weights, work),
            passes=options.passes,
            seeds=options.seeds,
            variants=variants,
            once=options.once,
        )
    elif options.what == "small":
        text = small.run(options.source, options.weights, work, seeds=options.seeds)
    elif options.what == "pseudo-labels":
        text = pseudo.run(options.source, options.weights, work, seeds=options.seeds, passes=options.passes)
    elif options.what == "distill":
        text = distill.run(options.source, options.weights, work, passes=options.passes, seeds=options.seeds)
    elif options.what in RARE:
        of_set = rare.make_steel(options.source, work) if options.what == "rare" else rare.make_strips(work)
        variants = options.variants or list(rare.VARIANTS)
        text = rare.run(of_set, options.weights, work, seeds=options.seeds, variants=variants)
    elif options.what == "neu":
        text = neu.run(options.source, work, passes=options.passes or 16, seeds=options.seeds)
    elif options.what == "choice":
        variants = options.variants or list(choice.VARIANTS)
        text = choice.run(options.source, work, passes=options.passes or 16, seeds=options.seeds, variants=variants)
    elif options.what == "cascade":
        text = cascade.run(
            *(_shards(options, work), work, recipes.FROM_SCRATCH), seconds=options.seconds, seeds=options.seeds
        )
    elif options.what == "cascade-pretrained":
        data = _shards(options, work)
        text = cascade.run(
            *(data, work, recipes.on_pretrained(data, options.weights)),
            seconds=options.seconds,
            seeds=options.seeds,
            names=(*cascade.SIDES, cascade.LONG),
        )
    elif options.what == "parts":
        text = parts.run(options.source, work, seeds=options.seeds, parts=options.variants or list(parts.PARTS))
    elif options.what == "thresholds":
        text = thresholds.run(resamples=options.resamples)
    elif options.what in OF_THRESHOLDS:
        text = thresholds.run_on_trained(OF_THRESHOLDS[options.what], work, resamples=options.resamples)
    elif options.what == "demo":
        text = demo.run(work, seeds=options.seeds)
    else:
        text = ablation.run(work, seeds=options.seeds, variants=options.variants or list(ablation.VARIANTS))
    (HERE / "sections" / f"{options.what}.md").write_text(f"{_head()}\n\n{text}\n")
    HERE.with_suffix(".md").write_text(report())
    print(text)
    return 0


def _shards(options: argparse.Namespace, work: Path) -> Path:
    """Of a question that is asked of one data set, made once under `work`."""
    if options.what == pretrained.ALL_STRIPS:
        return cascade.make_shards(work, options.annotations, options.image_ids, sys.maxsize, sys.maxsize)
    if options.what in RENDERED:
        return cascade.make_shards(work, options.annotations, options.image_ids, options.num_images, options.per_class)
    make = bsdata.make_shards if options.what.endswith("bsdata") else neu.make_shards
    return make(options.source, work)


def _given_weights(weights: str | None) -> str | None:
    """As `--model.weights` of a program that runs elsewhere: a file's full path, a URL or a word as it is."""
    return weights if weights is None or not Path(weights).exists() else str(Path(weights).absolute())


def report() -> str:
    """All sections that were measured, and the names of those that were not."""
    parts = [(HERE / "head.md").read_text().rstrip()]
    for name, title in SECTIONS.items():
        section = HERE / "sections" / f"{name}.md"
        parts.append(f"## {title}\n\n" + (section.read_text().rstrip() if section.exists() else "Not measured yet."))
    return "\n\n".join(parts) + "\n"


def _head() -> str:
    import torch

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{made_by('bench.quality')}, {machine}, Python {platform.python_version()}, {versions}."


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m bench.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(SECTIONS))
    parser.add_argument("--source", type=Path, help="folder of NEU-Seg with images/ and masks/; of BSData")
    parser.add_argument(
        "--weights",
        help="file with an encoder's weights: of all questions on pretrained encoders; of severstal a URL, too",
    )
    parser.add_argument("--data", type=Path, help="severstal: Kaggle's folder with train.csv and train_images/")
    parser.add_argument("--preset", default="severstal", help="severstal: what is trained")
    parser.add_argument("--size", metavar="HxW", help="severstal: store images at this size, for a rehearsal")
    parser.add_argument("--passes", type=int, help="times each training image is seen (neu, choice: 16)")
    parser.add_argument(
        "--annotations", type=Path, help="cascade*, *-strips*, batches: run-length masks to render images for"
    )
    parser.add_argument(
        "--image-ids", type=Path, help="cascade*, *-strips*, batches: ids to render, as `steel synth` takes them"
    )
    parser.add_argument("--num-images", type=int, default=1800, help="cascade*, *-strips, batches: images to render")
    parser.add_argument(
        "--per-class",
        type=int,
        default=240,
        help="cascade*, *-strips, batches: of them, at least so many of each class",
    )
    parser.add_argument("--seconds", type=float, default=90, help="cascade*: training time of the unified network")
    parser.add_argument("--resamples", type=int, default=20, help="thresholds*: sets of images for each network")
    parser.add_argument(
        "--variants", nargs="+", help="choice, auto-*, batches*, clean, rare*, parts, ablation, severstal: only these"
    )
    parser.add_argument(
        "--once",
        nargs="+",
        default=[],
        metavar="VARIANT",
        help="auto-*, clean: these too, with the first seed alone",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="of the trainings (0 1 2; rare*: 0 to 4), of the demo's data (11 12 13)"
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "quality", help="data sets and runs")
    options = parser.parse_args()
    seeds = {"demo": demo.SEEDS, **dict.fromkeys(RARE, range(5))}
    options.seeds = options.seeds or list(seeds.get(options.what, (0, 1, 2)))
    of_neu = ("neu", "choice", "parts", "auto-choice", "small", "pseudo-labels", "distill", "rare")
    if (
        options.what in (*of_neu, *pretrained.SETS, *SAME_WORK)
        and options.what not in RENDERED
        and options.source is None
    ):
        parser.error(f"{options.what} needs --source, the folder of its images")
    pretrained_too = (
        "auto-choice",
        *SAME_WORK,
        "clean",
        "small",
        "pseudo-labels",
        "distill",
        *RARE,
        "cascade-pretrained",
        *pretrained.SETS,
    )
    if options.what in pretrained_too and options.weights is None:
        parser.error(f"{options.what} needs --weights, a file for {pretrained.ENCODER}")
    if options.what in pretrained_too:
        options.weights = Path(options.weights)
        if not options.weights.is_file():
            parser.error(f"--weights {options.weights}: there is no such file")
    if options.what == "severstal" and options.data is None:
        parser.error("severstal needs --data, Kaggle's folder with train.csv and train_images/")
    if options.what in RENDERED and options.annotations is None:
        parser.error(f"{options.what} needs --annotations, a CSV of run-length masks")
    tables = {
        "choice": choice.VARIANTS,
        "parts": parts.PARTS,
        "severstal": severstal.SPLITS,
        "auto-choice": auto_choice.VARIANTS,
        **{section: auto_choice.VARIANTS_ON[name] for section, name in OTHER_SETS.items()},
        **dict.fromkeys(OF_BATCHES, batches.VARIANTS),
        "clean": clean.VARIANTS,
        **dict.fromkeys(RARE, rare.VARIANTS),
    }
    known: Collection[str] = tables.get(options.what, ablation.VARIANTS)
    if options.once and options.what not in ("auto-choice", *OTHER_SETS, "clean"):
        parser.error("--once is of auto-* and clean alone")
    for option, names in (("--variants", options.variants or ()), ("--once", options.once)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            parser.error(f"{option}: there is no {unknown[0]!r}; there are {'; '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(run_program(main))

"""The questions of `python -m bench.quality`: what each is asked of, and who answers it."""

import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    drift,
    fold_ensemble,
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
from bench.quality.severstal_recipe import Recipe

SOURCE, WEIGHTS, ANNOTATIONS, DATA = "source", "weights", "annotations", "data"
NEEDS = {
    SOURCE: "the folder of its images",
    WEIGHTS: f"a file for {pretrained.ENCODER}",
    ANNOTATIONS: "a CSV of run-length masks",
    DATA: "Kaggle's folder with train.csv and train_images/",
}
"""Options that some questions cannot be answered without, and what they take."""


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is answered."""

    title: str
    """Of its section."""
    answer: Callable[[Namespace, Path], str]
    """The section of the report as Markdown, of the options and the folder of data and runs."""
    needs: tuple[str, ...] = ()
    """Of `NEEDS`."""
    variants: Collection[str] = ()
    """What `--variants` may name."""
    takes_once: bool = False
    """Whether `--once` may name some of them, too."""
    seeds: Sequence[int] = (0, 1, 2)
    """What `--seeds` is where it is not given; none where it is not taken."""
    goes_on_in: str | None = None
    """The question whose trainings it takes, and in whose folder it works."""


def _on_pretrained(
    title: str, name: str, needs: tuple[str, ...], shards: Callable[[Namespace, Path], Path]
) -> Question:
    def answer(options: Namespace, work: Path) -> str:
        data = shards(options, work)
        return pretrained.run(name, data, options.weights, work, passes=options.passes, seeds=options.seeds)

    return Question(title, answer, (WEIGHTS, *needs))


def _of_auto(title: str, name: str, needs: tuple[str, ...], shards: Callable[[Namespace, Path], Path]) -> Question:
    def answer(options: Namespace, work: Path) -> str:
        return auto_choice.run_on_validation(
            *(name, shards(options, work), options.weights, work),
            passes=options.passes,
            seeds=options.seeds,
            variants=options.variants or [auto_choice.NO_BRIGHTNESS],
            once=options.once,
        )

    variants = auto_choice.VARIANTS_ON[name]
    return Question(title, answer, (WEIGHTS, *needs), variants, takes_once=True, goes_on_in=name)


def _of_batches(title: str, name: str, needs: tuple[str, ...], shards: Callable[[Namespace, Path], Path]) -> Question:
    def answer(options: Namespace, work: Path) -> str:
        given = name, shards(options, work), options.weights, work
        return batches.run(*given, seeds=options.seeds, variants=options.variants or list(batches.VARIANTS))

    return Question(title, answer, (WEIGHTS, *needs), batches.VARIANTS, goes_on_in=name)


def _of_drift(title: str, name: str, goes_on_in: str, shards: Callable[[Namespace, Path], Path]) -> Question:
    def answer(options: Namespace, work: Path) -> str:
        data = shards(options, work)
        return drift.run(name, data, options.weights, work, passes=options.passes, seeds=options.seeds)

    return Question(title, answer, (WEIGHTS, SOURCE), goes_on_in=goes_on_in)


def _of_thresholds(title: str, name: str) -> Question:
    def answer(options: Namespace, work: Path) -> str:
        return thresholds.run_on_trained(name, work, resamples=options.resamples)

    return Question(title, answer, seeds=(), goes_on_in=name)


def _neu_shards(options: Namespace, work: Path) -> Path:
    return neu.make_shards(options.source, work)


def _neu_development(options: Namespace, work: Path) -> Path:
    """Without the test images."""
    return neu.make_shards(options.source, work, development=choice.DEVELOPMENT)


def _bsdata_shards(options: Namespace, work: Path) -> Path:
    return bsdata.make_shards(options.source, work)


def _strips(options: Namespace, work: Path) -> Path:
    """Rendered, as many as are asked for."""
    given = options.annotations, options.image_ids, options.num_images, options.per_class
    return cascade.make_shards(work, *given)


def _all_strips(options: Namespace, work: Path) -> Path:
    """Rendered for every image whose masks are known."""
    return cascade.make_shards(work, options.annotations, options.image_ids, sys.maxsize, sys.maxsize)


def _beside_preset(options: Namespace, work: Path) -> str:
    given = pretrained.ALL_STRIPS, _all_strips(options, work), options.weights, work
    return pretrained.run_beside_preset(*given, passes=options.passes, seeds=options.seeds)


def _severstal(options: Namespace, work: Path) -> str:
    recipe = severstal_recipe(options)
    return severstal.run(options.data, work, recipe, splits=options.variants or list(severstal.SPLITS))


def severstal_recipe(options: Namespace) -> Recipe:
    """How Kaggle's set is trained on; a file of weights by its full path, as programs run elsewhere."""
    weights = options.weights
    is_file = weights is not None and Path(weights).exists()
    return Recipe(options.preset, str(Path(weights).absolute()) if is_file else weights, options.size)


def _auto_choice(options: Namespace, work: Path) -> str:
    return auto_choice.run(
        *(options.source, options.weights, work),
        passes=options.passes,
        seeds=options.seeds,
        variants=_named(options, auto_choice.VARIANTS),
        once=options.once,
    )


def _clean(options: Namespace, work: Path) -> str:
    variants = _named(options, clean.VARIANTS)
    given = {"passes": options.passes, "seeds": options.seeds, "variants": variants, "once": options.once}
    return clean.run(options.weights, work, **given)


def _small(options: Namespace, work: Path) -> str:
    return small.run(options.source, options.weights, work, seeds=options.seeds)


def _pseudo(options: Namespace, work: Path) -> str:
    return pseudo.run(options.source, options.weights, work, seeds=options.seeds, passes=options.passes)


def _distill(options: Namespace, work: Path) -> str:
    return distill.run(options.source, options.weights, work, passes=options.passes, seeds=options.seeds)


def _folds(options: Namespace, work: Path) -> str:
    given = options.source, options.weights, work
    return fold_ensemble.run(*given, passes=options.passes, seeds=options.seeds)


def _rare(options: Namespace, work: Path) -> str:
    of_set = rare.make_steel(options.source, work)
    return rare.run(of_set, options.weights, work, seeds=options.seeds, variants=_named(options, rare.VARIANTS))


def _rare_strips(options: Namespace, work: Path) -> str:
    of_set = rare.make_strips(work)
    return rare.run(of_set, options.weights, work, seeds=options.seeds, variants=_named(options, rare.VARIANTS))


def _neu(options: Namespace, work: Path) -> str:
    return neu.run(options.source, work, passes=options.passes or 16, seeds=options.seeds)


def _choice(options: Namespace, work: Path) -> str:
    variants = _named(options, choice.VARIANTS)
    return choice.run(options.source, work, passes=options.passes or 16, seeds=options.seeds, variants=variants)


def _cascade(options: Namespace, work: Path) -> str:
    given = _strips(options, work), work, recipes.FROM_SCRATCH
    return cascade.run(*given, seconds=options.seconds, seeds=options.seeds)


def _cascade_pretrained(options: Namespace, work: Path) -> str:
    data = _strips(options, work)
    given = data, work, recipes.on_pretrained(data, options.weights)
    return cascade.run(*given, seconds=options.seconds, seeds=options.seeds, names=(*cascade.SIDES, cascade.LONG))


def _parts(options: Namespace, work: Path) -> str:
    return parts.run(options.source, work, seeds=options.seeds, parts=_named(options, parts.PARTS))


def _ablation(options: Namespace, work: Path) -> str:
    return ablation.run(work, seeds=options.seeds, variants=_named(options, ablation.VARIANTS))


def _thresholds(options: Namespace, work: Path) -> str:
    return thresholds.run(resamples=options.resamples)


def _demo(options: Namespace, work: Path) -> str:
    return demo.run(work, seeds=options.seeds)


def _named(options: Namespace, variants: Collection[str]) -> list[str]:
    """The variants that are asked for; all of them where none is named."""
    return list(variants) if options.variants is None else options.variants


_OF_NEU, _OF_STRIPS = ((SOURCE,), _neu_shards), ((ANNOTATIONS,), _strips)
_OF_BSDATA = ((SOURCE,), _bsdata_shards)

QUESTIONS = {
    "severstal": Question(
        "The full Severstal set, beside what was published", _severstal, (DATA,), severstal.SPLITS, seeds=()
    ),
    "pretrained-neu": _on_pretrained(
        "With pretrained weights: better than the plain loop on hot-rolled steel?", "pretrained-neu", *_OF_NEU
    ),
    "pretrained-bsdata": _on_pretrained(
        "With pretrained weights: better than the plain loop on small pits?", "pretrained-bsdata", *_OF_BSDATA
    ),
    pretrained.OWN_LENGTH: _on_pretrained(
        "And at the length that `--preset auto` takes by itself?", pretrained.OWN_LENGTH, *_OF_BSDATA
    ),
    "pretrained-strips": _on_pretrained(
        "With pretrained weights: better than the plain loop on Severstal's geometry?", "pretrained-strips", *_OF_STRIPS
    ),
    "pretrained-strips-all": _on_pretrained(
        "And on all of its images, in the natural mix?", pretrained.ALL_STRIPS, (ANNOTATIONS,), _all_strips
    ),
    "preset-strips-all": Question(
        "And beside the preset `severstal`?", _beside_preset, (WEIGHTS, ANNOTATIONS), goes_on_in=pretrained.ALL_STRIPS
    ),
    "auto-choice": Question(
        "What could `--preset auto` do better on pretrained weights?",
        _auto_choice,
        (WEIGHTS, SOURCE),
        variants=auto_choice.VARIANTS,
        takes_once=True,
    ),
    "auto-bsdata": _of_auto("And on small pits?", "pretrained-bsdata", *_OF_BSDATA),
    "auto-strips": _of_auto("And on Severstal's geometry?", "pretrained-strips", *_OF_STRIPS),
    "drift": _of_drift(
        "Is varied brightness worth its place where images are alike?",
        "pretrained-neu",
        "auto-choice",
        _neu_development,
    ),
    "drift-bsdata": _of_drift("Is it on small pits?", "pretrained-bsdata", "pretrained-bsdata", _bsdata_shards),
    "batches": _of_batches("Does the batch that many GPUs share cost quality?", "pretrained-strips", *_OF_STRIPS),
    "batches-neu": _of_batches("Does it on hot-rolled steel?", "pretrained-neu", *_OF_NEU),
    "batches-bsdata": _of_batches("Does it on small pits?", "pretrained-bsdata", *_OF_BSDATA),
    "clean": Question(
        "And where 90 % of the images are clean?", _clean, (WEIGHTS,), variants=clean.VARIANTS, takes_once=True
    ),
    "small": Question("With few images: what pretrained weights and the recipe are worth", _small, (WEIGHTS, SOURCE)),
    "pseudo-labels": Question("What are images without labels worth?", _pseudo, (WEIGHTS, SOURCE)),
    "distill": Question("What does one network learn from an ensemble?", _distill, (WEIGHTS, SOURCE)),
    "folds": Question("What is an ensemble by folds worth?", _folds, (WEIGHTS, SOURCE), goes_on_in="distill"),
    "rare": Question(
        "Is a class found of which 8 images train?",
        _rare,
        (WEIGHTS, SOURCE),
        variants=rare.VARIANTS,
        seeds=range(5),
    ),
    "rare-strips": Question("And on strips?", _rare_strips, (WEIGHTS,), variants=rare.VARIANTS, seeds=range(5)),
    "neu": Question("Better than the plain loop?", _neu, (SOURCE,)),
    "choice": Question("How was that recipe chosen?", _choice, (SOURCE,), variants=choice.VARIANTS),
    "cascade-pretrained": Question(
        "Better than six networks, with pretrained weights?", _cascade_pretrained, (WEIGHTS, ANNOTATIONS)
    ),
    "cascade": Question("Better than six networks?", _cascade, (ANNOTATIONS,)),
    "parts": Question("Which parts matter on real steel?", _parts, (SOURCE,), variants=parts.PARTS),
    "ablation": Question("Which parts matter on synthetic strips?", _ablation, variants=ablation.VARIANTS),
    "thresholds": Question("Does tuning thresholds on few images ever harm?", _thresholds, seeds=()),
    "thresholds-neu": _of_thresholds("Does it where trained networks see hot-rolled steel?", "pretrained-neu"),
    "thresholds-bsdata": _of_thresholds("Where they see small pits?", "pretrained-bsdata"),
    "thresholds-strips": _of_thresholds("Where they see strips?", "pretrained-strips"),
    "demo": Question("Does the demo reach its bounds on data that nothing was chosen on?", _demo, seeds=demo.SEEDS),
}
"""By name, in the order of the report."""

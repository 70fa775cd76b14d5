"""`--preset auto`: a recipe from what the shards say of themselves and what the machine can hold, each choice with its
reason.

The rules carry the preset for Severstal over to images of other sizes and sets of other lengths; on Severstal's images
and a large GPU they give back its crops, passes, batches and rates. What the first phase minimises and how its rate
rises were chosen on pretrained weights, by trials of one seed that no table keeps: a reason does not say that they are
better. Where one does say so, of anything, `bench/quality.md` has the table.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from steel.config import Config, LossConfig, ModelConfig, TransformConfig, ValidationConfig
from steel.errors import InputError, counted
from steel.thresholds.search_space import SearchSpace
from train.crop_recipe import choose_crops, choose_defect_crop, choose_micro_batch
from train.level_difference import LEAST_DIFFERENCE, STANDARD_RANGE, LevelDifference
from train.presets import AUGMENT, SEVERSTAL
from train.recipe_facts import DataFacts, MachineClass, padded_pixels
from train.recipe_words import is_nearly_square, noun_of, typical_of, up_to

_CROPS, _FULL = SEVERSTAL.phases
_LOSS = LossConfig({"bce": 1.0, "batch_dice": 1.0, "classification": 0.02}, absent=0.0)
"""Of both phases, but for the boundary term. Lovász in the last one, as in Severstal's preset, was worse or made no
difference on three sets (`bench/decisions.md`)."""
_BOUNDARY, _FEW_CLEAN = 0.5, 0.1
"""Weight of the boundary term in both phases, where less than that share of the images is clean."""
_WARMUP = 0.3
"""Of the first phase: share of the steps in which the rate rises."""
_REFERENCE_IMAGES, _REFERENCE_PASSES = 12_568, 30
"""Images of Severstal's set, all folds together, and passes of the first phase of its preset."""
_MOST_PASSES = 100
_LEAST_STEPS = 1500
"""Of the first phase; a smaller batch makes more of few images."""
_VALIDATIONS = 15
"""Of the first phase, about; one a pass where it is short."""
_RARE, _FEW = 0.01, (30, 0.03)
"""A class is rare in less than that share of the images; or in fewer than so many of them, if less than that share."""
_PASTE = 0.5
"""Of the crops, where a class is rare."""
_MOSTLY_CLEAN, _SEEN_OFTEN = 0.5, 3000
"""From that share of clean images on, they and the classes are drawn in equal shares if else a class would be drawn
fewer than so many times in the first phase. Short trainings were better with it (`auto-strips` and `clean` in
`bench/quality.md`); that a long one was no longer, which the limit rests on, no table keeps
(`bench/decisions.md`)."""


def auto_recipe(facts: DataFacts, machine: MachineClass, budget: float | None = None) -> Config:
    """The recipe for a set on a class of machines; a pure function of both.

    Args:
        facts: of the set.
        machine: its class.
        budget: passes of both phases together; as many as the set's length asks for when None.

    Returns:
        A configuration whose `reasons` has a sentence for each option that was chosen.

    Raises:
        InputError: a set without images.
    """
    if facts.images < 1:
        raise InputError("--preset auto: the shards hold no images")
    reasons: dict[str, str] = {}
    crop, full = choose_crops(facts, machine, reasons)
    passes, batch = _length(facts, budget, reasons)
    micro = [choose_micro_batch(k, part, facts.largest, batch, machine, reasons) for k, part in enumerate((crop, full))]
    lr = _rate(reasons)
    order, paste = _draws(facts, passes, reasons)
    sampling = replace(_CROPS.sampling, order=order, paste=paste, defect_crop=choose_defect_crop(facts, crop, reasons))
    first = replace(_CROPS, epochs=passes, crop=crop, batch_size=batch, micro_batch=micro[0], lr=lr, sampling=sampling)
    loss = _loss(facts, reasons)
    reasons["tiling"], reasons["thresholds"] = _why_tiling(facts), _why_thresholds()
    last = _last_passes(passes, reasons)
    reasons["phases.1.batch-size"] = f"{batch}, as in the first phase"
    reasons["phases.1.lr"] = f"{lr / 10:g}, a tenth of the first phase's, as in Severstal's preset"
    second = replace(_FULL, epochs=last, crop=full, batch_size=batch, micro_batch=micro[1], lr=lr / 10, loss=loss)
    return replace(
        SEVERSTAL,
        preset="auto",
        model=_model(machine, reasons),
        phases=(replace(first, warmup=_WARMUP, loss=loss), second),
        augment=_augment(facts, crop, reasons),
        validation=_validation(passes, reasons),
        reasons={"machine": f"{machine}: auto's encoder, crops and micro-batches depend on that", **reasons},
    )


def _length(facts: DataFacts, budget: float | None, reasons: dict[str, str]) -> tuple[float, int]:
    """Passes of the first phase, and the batch."""
    wanted = _REFERENCE_PASSES * math.sqrt(_REFERENCE_IMAGES / facts.images)
    passes = float(min(_MOST_PASSES, max(1, round(wanted))))
    length = (
        f"{counted(passes, 'pass')} over a set of {facts.images:,} {noun_of(facts)}s: {_REFERENCE_PASSES} for "
        f"{_REFERENCE_IMAGES:,}, and more for fewer by the square root, up to {_MOST_PASSES}"
    )
    if budget is not None:
        passes = max(0.01, round(budget * _CROPS.epochs / (_CROPS.epochs + _FULL.epochs), 2))
        length = f"{passes:g} of the budget's {counted(budget, 'pass')}; without one, {length}"
    reasons["phases.0.epochs"] = length
    batch = _CROPS.batch_size
    while batch > 8 and passes * facts.images / batch < _LEAST_STEPS:
        batch //= 2
    reasons["phases.0.batch-size"] = (
        f"{batch}: {math.ceil(passes * facts.images / batch):,} steps, were all {noun_of(facts)}s to train, where at "
        f"least {_LEAST_STEPS:,} are wanted"
    )
    return passes, batch


def _rate(reasons: dict[str, str]) -> float:
    """The first phase's, whatever the batch."""
    reasons["phases.0.lr"] = (
        f"{_CROPS.lr:g}, as in Severstal's preset, rising for {_WARMUP:.0%} of the steps, whatever the batch: by "
        "trials of one seed with EfficientNet-Lite0, the rate in batches of 64 and of 8, the rise in those of 8"
    )
    return _CROPS.lr


def _last_passes(passes: float, reasons: dict[str, str]) -> float:
    last = max(0.01, round(passes * _FULL.epochs / _CROPS.epochs, 1 if passes >= 10 else 2))
    reasons["phases.1.epochs"] = f"{last:g}, 8 for 30 as in Severstal's preset"
    return last


def _draws(facts: DataFacts, passes: float, reasons: dict[str, str]) -> tuple[Literal["natural", "balanced"], float]:
    """Which images are drawn, and into how many crops a defect is pasted."""
    nouns = f"{noun_of(facts)}s"
    there = [(n, name) for n, name in zip(facts.images_per_class, facts.class_names, strict=True) if n > 0]
    fewest, name = min(there, default=(facts.images, ""))
    nowhere = _why_not_there(facts)
    more, one = (f"; {nowhere}", f"class that {nouns} have") if nowhere else ("", "class")
    if fewest < max(_RARE * facts.images, min(_FEW[0], _FEW[1] * facts.images)):
        rare = f"{name} is in {fewest} of {facts.images:,} {nouns} only"
        reasons["phases.0.sampling.order"] = f"balanced: {rare}{more}"
        reasons["phases.0.sampling.paste"] = f"{_PASTE:g}: {rare}; its defects are pasted onto the steel of others"
        return "balanced", _PASTE
    few = f"fewer than {_FEW[0]} that are less than {_FEW[1]:.0%}"
    common = f"no {one} is in fewer than {_RARE:.0%} of the {nouns}, nor in {few}{more}" if there else nowhere
    reasons["phases.0.sampling.paste"] = f"0: {common}"
    clean = _how_many_clean(facts)
    if not there or facts.clean < _MOSTLY_CLEAN * facts.images:
        reasons["phases.0.sampling.order"] = f"natural: {clean}, and {common}"
        return "natural", 0.0
    drawn = f"{clean}, and as they come {name} would be drawn {passes * fewest:,.0f} times"
    if passes * fewest < _SEEN_OFTEN:
        reasons["phases.0.sampling.order"] = (
            f"balanced: {drawn}, of {_SEEN_OFTEN:,}; so each {one} gets an equal share{more}"
        )
        return "balanced", 0.0
    reasons["phases.0.sampling.order"] = f"natural: {drawn}, of {_SEEN_OFTEN:,} at least{more}"
    return "natural", 0.0


def _why_not_there(facts: DataFacts) -> str:
    """That no image has some of the classes; nothing where each is in one."""
    absent = [name for n, name in zip(facts.images_per_class, facts.class_names, strict=True) if n == 0]
    names = " and ".join(part for part in (", ".join(absent[:-1]), *absent[-1:]) if part)
    return f"{names} {'is' if len(absent) == 1 else 'are'} in no {noun_of(facts)}" if absent else ""


def _how_many_clean(facts: DataFacts) -> str:
    """As a count: on either side of a limit a rounded share may be the same."""
    return f"{facts.clean:,} of {facts.images:,} {noun_of(facts)}s are clean"


def _loss(facts: DataFacts, reasons: dict[str, str]) -> LossConfig:
    """Of both phases."""
    boundary, clean = _BOUNDARY if facts.clean / facts.images < _FEW_CLEAN else 0.0, _how_many_clean(facts)
    for phase in (0, 1):
        reasons[f"phases.{phase}.loss.boundary"] = f"{boundary:g}, for {clean}: " + (
            "pixels near a border count for more, so that outlines and small defects do"
            if boundary
            else "where 90 % are, it was not shown to help, and no table has shares between"
        )
        reasons[f"phases.{phase}.loss.class-weights"] = "equal: no other choice has been shown to be better"
    reasons["phases.0.loss.batch-dice"] = (
        "1, beside cross-entropy of 1, in both phases: Dice over the micro-batch, as nnU-Net has it for 2D images; no "
        "table compares it with Dice of each image"
    )
    reasons["phases.0.loss.absent"] = (
        f"{_LOSS.absent:g} ({clean}): where a class is absent from a micro-batch, each pixel's own term alone "
        "teaches it"
    )
    return replace(_LOSS, weights={**_LOSS.weights, "boundary": boundary})


def _augment(facts: DataFacts, crop: tuple[int, int], reasons: dict[str, str]) -> Mapping[str, TransformConfig]:
    turns = crop[0] == crop[1] and is_nearly_square(facts.size)
    reasons["augment.rotate90"] = (
        f"on: the first phase's crops are square, and {typical_of(facts)} nearly so; not for steel that has a "
        "direction, which no count tells"
        if turns
        else f"off: {typical_of(facts)} or the first phase's crops are not square"
    )
    reasons["augment.brightness-contrast"] = _why_brightness(facts.levels)
    strength = 1.0 if facts.levels is None else facts.levels.strength
    chosen = {**AUGMENT, "brightness_contrast": TransformConfig(0.5, strength)}
    return {**chosen, "rotate90": TransformConfig(0.5)} if turns else chosen


def _why_brightness(levels: LevelDifference | None) -> str:
    """Where folds are alike it is on, as lamps drift beyond what a set shows. What it costs on images as they are and
    is worth on darker and brighter ones: `drift` and `drift-bsdata` in `bench/quality.md`."""
    if levels is None:
        return "on, as lamps drift; the shards do not tell whether gray levels differ between folds"
    means = f"the mean gray levels of the folds, {levels.lowest:.2f} to {levels.highest:.2f} of 255,"
    if not levels.is_visible:
        return f"on, as lamps drift; {means} are less than {LEAST_DIFFERENCE} apart"
    p_value = f"F test: p {'< 0.0001' if levels.p_value < 1e-4 else f'= {levels.p_value:.2g}'}"
    if not levels.is_real:
        return f"on, as lamps drift; {means} may be so far apart by chance ({p_value})"
    reach = f"changes of up to {round(STANDARD_RANGE * levels.strength)} levels"
    return f"on, at a strength of {levels.strength:g}: {means} are hardly so far apart by chance ({p_value}); {reach}"


def _model(machine: MachineClass, reasons: dict[str, str]) -> ModelConfig:
    if machine.kind == "gpu":
        reasons["model.encoder"] = "resnet34, as in Severstal's preset"
        return SEVERSTAL.model
    widths = (64, 48, 32, 24, 16)
    reasons["model.encoder"] = "EfficientNet-Lite0, for a CPU: it has fewer weights than ResNet-34"
    reasons["model.decoder-channels"] = (
        f"{' '.join(map(str, widths))}, a narrow decoder: with EfficientNet-Lite0 a seventh of the weights of "
        "ResNet-34's network"
    )
    return ModelConfig(encoder="tu-tf_efficientnet_lite0", decoder_channels=widths)


def _validation(passes: float, reasons: dict[str, str]) -> ValidationConfig:
    every = float(max(1, round(passes / _VALIDATIONS)))
    reasons["validation.every-epochs"] = (
        f"{every:g}: about {counted(math.ceil(passes / every), 'validation')} in the first phase"
    )
    return replace(SEVERSTAL.validation, every_epochs=every)


def _why_tiling(facts: DataFacts) -> str:
    """As in Severstal's preset, whatever the set: what that means for its images."""
    tiling, largest = SEVERSTAL.tiling, facts.whole or facts.largest
    if (facts.most_pixels or padded_pixels(largest)) <= tiling.budget:
        return (
            f"none: images, {up_to(largest)}, are validated and predicted whole, as they are up to "
            f"{tiling.budget:,} pixels"
        )
    return (
        f"images of more than {tiling.budget:,} pixels are validated and predicted in tiles of as many as in "
        f"{tiling.tile}x{tiling.tile} that share {tiling.overlap}, smaller ones whole; here they are "
        f"{up_to(largest)}"
    )


def _why_thresholds() -> str:
    """The search has no options; it is told of because people ask what was chosen."""
    space = SearchSpace()
    of_pixels, of_labels = (
        f"{len(tried)} from {tried[0] / 255:.2f} to {tried[-1] / 255:.2f}"
        for tried in (space.pixel_thresholds, space.label_thresholds)
    )
    return (
        f"the same search for every set, on the validation images: of pixels {of_pixels}, of labels {of_labels}, and "
        f"{space.area_steps} areas between those of the class's own training images; what gains no more than noise, "
        "cross-fitted, is not taken, so that nothing is left to choose beforehand"
    )

"""The recipe that fits itself: a pure function whose choices hold together, with a reason for each."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import Config, LossConfig, TransformConfig
from steel.errors import InputError
from steel.inference.tiles import is_tiled
from steel.loading.augment import TRANSFORMS
from steel.plain import to_dict
from steel.shards.reader import ShardReader
from tests.shard_folder import small_shards
from train import fitting
from train.arguments import parse_fit
from train.auto_recipe import auto_recipe, fit_crop
from train.budget import Budget
from train.engine.batch_plan import plan_phases
from train.engine.run_folder import RunFolder
from train.fitting import find_machine_class, fit_preset, read_facts
from train.level_difference import STANDARD_RANGE, LevelDifference
from train.presets import SEVERSTAL
from train.recipe_facts import MEMORY_CLASSES, DataFacts, MachineClass, memory_class
from train.recipe_reasons import explain_changes

LARGE = MachineClass("gpu", 80)
SMALL = MachineClass("cpu", 8)
STRIPS = DataFacts(12_568, 5902, ("1", "2", "3", "4"), (897, 247, 5150, 801), (256, 1600), (256, 1600))
"""Severstal's set."""
TILES = DataFacts(700, 0, ("a", "b"), (300, 400), (200, 200), (200, 200))
SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


def changed(facts: DataFacts, **values: Any) -> DataFacts:
    return replace(facts, **values)


def test_severstal_on_a_large_gpu_has_its_presets_crops_passes_batches_and_rates() -> None:
    """Its loss, warm-up and gray levels are those of pretrained weights."""
    found = auto_recipe(STRIPS, LARGE)
    crops, full = SEVERSTAL.phases
    loss = LossConfig({"bce": 1, "batch_dice": 1, "classification": 0.02}, absent=0)
    assert found.phases == (replace(crops, warmup=0.3, loss=loss), full)
    assert found.augment == {**SEVERSTAL.augment, "brightness_contrast": TransformConfig(0.5)}
    rest = {"preset": "severstal", "reasons": {}, "phases": SEVERSTAL.phases, "augment": SEVERSTAL.augment}
    assert replace(found, **rest, validation=SEVERSTAL.validation) == SEVERSTAL
    assert found.validation == replace(SEVERSTAL.validation, every_epochs=2)


def test_small_square_images_are_taken_whole_and_turned() -> None:
    found = auto_recipe(TILES, LARGE)
    assert [phase.crop for phase in found.phases] == [(200, 200), (0, 0)]
    assert found.phases[0].sampling.defect_crop == 0
    assert found.augment["rotate90"] == TransformConfig(0.5)
    # 30 passes times the root of 12,568 / 700 are 127; and 70,000 images in batches of 64 are 1,094 steps, of 32 2,188.
    assert (found.phases[0].epochs, found.phases[0].batch_size) == (100, 32)
    assert [phase.lr for phase in found.phases] == [1e-3, 1e-4]
    assert "rotate90" not in auto_recipe(STRIPS, LARGE).augment


@pytest.mark.parametrize(("clean", "weight"), [(0, 0.5), (69, 0.5), (70, 0), (700, 0)])
def test_borders_count_for_more_where_few_images_are_clean(clean: int, weight: float) -> None:
    found = auto_recipe(changed(TILES, clean=clean), LARGE)
    losses = [phase.loss.weights for phase in found.phases]
    assert [loss.get("boundary", 0) for loss in losses] == [weight, weight]
    assert [{name: w for name, w in loss.items() if name != "boundary"} for loss in losses] == [
        {"bce": 1, "batch_dice": 1, "classification": 0.02},
        {"bce": 0.5, "lovasz": 0.5, "classification": 0.02},
    ]
    assert found.reasons["phases.0.loss.boundary"].startswith(f"{weight:g} in both phases, for {clean / 700:.0%} of")


@pytest.mark.parametrize(
    "facts",
    [
        replace(TILES, whole=(3000, 4000)),
        replace(TILES, whole=(3000, 4000), images_per_class=(5, 400), clean=690, size=(900, 100), largest=(900, 100)),
    ],
)
def test_what_is_counted_in_stored_tiles_is_told_so(facts: DataFacts) -> None:
    """Of a machine where crops are less than a tile, and of one where they are not."""
    for machine_class in (LARGE, SMALL):
        told = auto_recipe(facts, machine_class).reasons
        of_images = {name for name, reason in told.items() if re.search(r"\bimages?\b", reason)}
        # Those are of whole images; one tells of what was measured.
        assert of_images == {"phases.1.crop", "tiling", "thresholds", "phases.0.loss.batch-dice"}
        assert f" over a set of {facts.images} stored tiles: " in told["phases.0.epochs"]
        for name in ("loss.boundary", "loss.absent", "sampling.order", "sampling.paste", "sampling.defect-crop"):
            assert "stored tile" in told[f"phases.0.{name}"], name


def test_crops_of_nearly_square_images_are_square_and_turned() -> None:
    found = auto_recipe(TILES, MachineClass("cpu", 16))  # 200x200 is more than a CPU's 32,768 pixels; 181x181 is not
    assert found.phases[0].crop == (160, 160) and found.augment["rotate90"] == TransformConfig(0.5)
    assert "square, as images nearly are" in found.reasons["phases.0.crop"]
    strips = auto_recipe(changed(TILES, size=(200, 260), largest=(200, 260)), MachineClass("cpu", 16))
    assert strips.phases[0].crop == (160, 192) and "rotate90" not in strips.augment


def test_images_of_many_sizes_are_not_padded_to_the_largest() -> None:
    found = auto_recipe(changed(TILES, size=(250, 350), largest=(1200, 1600)), LARGE)
    assert [phase.crop for phase in found.phases] == [(250, 350), (250, 350)]


@pytest.mark.parametrize(
    ("levels", "strength", "reason"),
    [
        (None, 1, "on, as lamps drift; the shards do not tell whether gray levels differ between folds"),
        (
            LevelDifference(98.3, 121.04, 0.0002),
            1,
            "on, at a strength of 1: the mean gray levels of the folds, 98.30 to 121.04 of 255, are hardly so far "
            "apart by chance (F test: p = 0.0002); changes of up to 51 levels",
        ),
        (
            LevelDifference(60, 136.5, 1e-12),
            1.5,
            "on, at a strength of 1.5: the mean gray levels of the folds, 60.00 to 136.50 of 255, are hardly so far "
            "apart by chance (F test: p < 0.0001); changes of up to 76 levels",
        ),
        (
            LevelDifference(20, 220, 1e-12),
            2,
            "on, at a strength of 2: the mean gray levels of the folds, 20.00 to 220.00 of 255, are hardly so far "
            "apart by chance (F test: p < 0.0001); changes of up to 102 levels",
        ),
        (
            LevelDifference(20, 220, 0.01),
            1,
            "on, as lamps drift; the mean gray levels of the folds, 20.00 to 220.00 of 255, may be so far apart by "
            "chance (F test: p = 0.01)",
        ),
        (
            LevelDifference(98.3, 100.29, 1e-12),
            1,
            "on, as lamps drift; the mean gray levels of the folds, 98.30 to 100.29 of 255, are less than 2 apart",
        ),
    ],
)
def test_brightness_reaches_as_far_as_folds_differ(
    levels: LevelDifference | None, strength: float, reason: str
) -> None:
    found = auto_recipe(changed(TILES, levels=levels), LARGE)
    assert found.reasons["augment.brightness-contrast"] == reason
    assert found.augment["brightness_contrast"] == TransformConfig(0.5, strength)
    assert found.augment["rotate90"] == TransformConfig(0.5)
    given = replace(found, augment={**found.augment, "brightness_contrast": TransformConfig(0.3)})
    assert (
        explain_changes(found, given).reasons["augment.brightness-contrast"]
        == f"another value, as given (auto: {reason})"
    )


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_brightness_reaches_as_far_as_the_reason_says(strength: float) -> None:
    transform = TRANSFORMS["brightness_contrast"].build(TransformConfig(0.5, strength), (8, 8), 1)
    assert [255 * limit for limit in transform.brightness_limit] == pytest.approx(
        [-STANDARD_RANGE * strength, STANDARD_RANGE * strength]
    )
    assert transform.brightness_by_max  # a share of 255, whatever the image


@pytest.mark.parametrize(
    ("images", "fewest", "is_rare"),
    [(700, 20, True), (700, 21, False), (2000, 29, True), (2000, 30, False), (10_000, 99, True), (10_000, 100, False)],
)
def test_a_rare_class_is_drawn_and_pasted_more_often(images: int, fewest: int, is_rare: bool) -> None:
    found = auto_recipe(changed(TILES, images=images, images_per_class=(fewest, 690)), LARGE)
    sampling = found.phases[0].sampling
    assert (sampling.order, sampling.paste) == (("balanced", 0.5) if is_rare else ("natural", 0.0))
    assert found.phases[1].sampling.paste == 0
    said = [found.reasons[f"phases.0.sampling.{option}"] for option in ("order", "paste")]
    assert all((f"a is in {fewest} of {images:,} images" in reason) == is_rare for reason in said)


@pytest.mark.parametrize(
    ("clean", "budget", "order", "drawn"),
    [
        (349, 38 / 3, "natural", None),  # of 700: half are not clean
        (350, 38 / 3, "balanced", "1,000 times, of 3,000"),  # ten passes of the first phase, and 100 images with a
        (350, 38, "natural", "3,000 times, of 3,000 at least"),
    ],
)
def test_where_half_are_clean_a_short_training_draws_classes_in_equal_shares(
    clean: int, budget: float, order: str, drawn: str | None
) -> None:
    found = auto_recipe(changed(TILES, clean=clean, images_per_class=(100, 300)), LARGE, budget)
    assert (found.phases[0].sampling.order, found.phases[0].sampling.paste) == (order, 0)
    assert found.phases[1].sampling.order == "natural"
    reason = found.reasons["phases.0.sampling.order"]
    assert reason.startswith(f"{order}: 50% of the images are clean, and ")
    assert drawn is None or f"as they come a would be drawn {drawn}" in reason


def test_clean_images_alone_are_drawn_as_they_come() -> None:
    found = auto_recipe(changed(TILES, clean=700, images_per_class=(0, 0)), LARGE)
    assert found.phases[0].sampling.order == "natural"


def test_a_class_that_no_image_has_is_not_rare() -> None:
    assert auto_recipe(changed(TILES, images_per_class=(0, 690)), LARGE).phases[0].sampling.order == "natural"


def test_the_machine_changes_what_its_memory_asks_for_alone() -> None:
    large, small = auto_recipe(STRIPS, LARGE), auto_recipe(STRIPS, MachineClass("gpu", 8))
    assert [phase.micro_batch for phase in small.phases] == [4, 2]  # half of 8 GB at 4 kB a pixel: a million pixels
    same = tuple(replace(p, micro_batch=q.micro_batch) for p, q in zip(small.phases, large.phases, strict=True))
    assert replace(small, phases=same, reasons=large.reasons) == large
    cpu = auto_recipe(STRIPS, MachineClass("cpu", 16))
    assert [phase.lr for phase in cpu.phases] == [2e-3, 2e-4]  # this encoder's
    assert cpu.model.encoder == "tu-tf_efficientnet_lite0" and math.prod(cpu.phases[0].crop) <= 128 * 256
    assert (cpu.phases[0].epochs, cpu.phases[0].batch_size) == (large.phases[0].epochs, large.phases[0].batch_size)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 10**6),
    SIZES,
    SIZES,
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
    st.sampled_from(["cpu", "gpu"]),
    st.sampled_from(MEMORY_CLASSES),
)
def test_every_choice_holds_together(
    images: int, size: tuple[int, int], more: tuple[int, int], counts: list[int], kind: Any, memory: int
) -> None:
    largest = (size[0] + more[0] % 7, size[1] + more[1] % 900)
    names = tuple(f"c{k}" for k in range(len(counts)))
    facts = DataFacts(images, 0, names, tuple(min(n, images) for n in counts), size, largest)
    machine = MachineClass(kind, memory)
    found = auto_recipe(facts, machine)  # a Config, which checks itself
    assert found == auto_recipe(facts, machine)
    for phase in found.phases:
        height, width = largest if phase.crop == (0, 0) else phase.crop
        assert height <= max(32, largest[0]) and width <= max(32, largest[1])
        assert phase.micro_batch >= 2
        # 4 kB per pixel; a step of two of the smallest crops always fits.
        assert phase.micro_batch * height * width * 4000 <= memory * 0.5e9 * 1.01 or phase.crop == (0, 0)
    assert {"phases.0.crop", "phases.1.micro-batch", "model.encoder", "machine"} <= found.reasons.keys()
    assert all(len(reason.splitlines()) == 1 for reason in found.reasons.values())


def test_few_images_leave_one_process_and_the_way_to_two_is_told() -> None:
    """A recipe is the same for any number of processes; one that is too large for it is refused."""
    found = auto_recipe(changed(TILES, images=100, images_per_class=(50, 60)), LARGE)
    assert [(phase.batch_size, phase.micro_batch) for phase in found.phases] == [(8, 8), (8, 8)]
    plan = partial(plan_phases, epoch_lengths=[100, 100], every_epochs=found.validation.every_epochs)
    plan(found.phases, rank=0, world=1)
    with pytest.raises(InputError, match="2 processes share 1 micro-batch per step") as caught:
        plan(found.phases, rank=1, world=2)
    assert "(--phases.0.micro-batch 4 --phases.1.micro-batch 4)" in str(caught.value)
    halved = plan([replace(phase, micro_batch=4) for phase in found.phases], rank=1, world=2)
    assert [part.share for part in halved] == [range(1, 2), range(1, 2)]
    assert len(plan(auto_recipe(STRIPS, LARGE).phases, rank=7, world=8)) == 2


@pytest.mark.parametrize(
    ("size", "pixels", "crop"),
    [
        ((256, 1600), 256 * 512, (256, 512)),
        ((1600, 256), 256 * 512, (512, 256)),
        ((200, 200), 256 * 512, (200, 200)),
        ((460, 1130), 256 * 512, (352, 352)),
        ((2000, 2000), 256 * 512, (352, 352)),
        ((40, 5000), 256 * 512, (32, 4096)),
    ],
)
def test_crops(size: tuple[int, int], pixels: int, crop: tuple[int, int]) -> None:
    assert fit_crop(size, pixels) == crop


def test_memory_has_classes() -> None:
    """An H100 of 80 GB tells of 84.9, a 24 GB card of 25.3 and a 16 GB host of 15.6 or so times 10**9 bytes."""
    given_bytes = [84.9e9, 25.3e9, 15.6e9, 14.9e9, 1e9]
    assert [memory_class(num) for num in given_bytes] == [80, 24, 16, 12, 4]


def test_too_little_memory_is_said_with_what_needs_less() -> None:
    """Tiles of many sizes have no whole images; of one large size they do."""
    huge = changed(TILES, size=(500, 800), largest=(500, 800))
    found = auto_recipe(huge, MachineClass("gpu", 4))
    # 500x800 pixels twice, at 4 kB, are 3.2 GB; half of 4 GB holds 250,000 pixels twice.
    assert found.phases[1].micro_batch == 2 and math.prod(found.phases[1].crop) <= 250_000
    assert found.reasons["phases.1.crop"] == (
        "480x512 of images of 500x800: at 4 kB per pixel, two crops of 250,000 pixels need half of a GPU with 4 GB"
    )


def crop_reasons(facts: DataFacts, machine: MachineClass, **sizes: tuple[int, int]) -> list[str]:
    """Of both phases."""
    told = auto_recipe(changed(facts, **sizes), machine).reasons
    return [told[f"phases.{number}.crop"] for number in (0, 1)]


@pytest.mark.parametrize(
    ("sizes", "first", "second"),
    [
        (  # the limit is on pixels; memory would hold five times as many
            {"size": (2000, 2000), "largest": (2000, 2000)},
            "352x352 of images of 2000x2000: 131072 pixels at most, square, as images nearly are, in whole 32s",
            "1024x1024 of images of 2000x2000: 1,048,576 pixels at most, on whatever machine",
        ),
        (
            {"size": (250, 350), "largest": (1200, 1600)},
            "the median image, 250x350: it is no larger than a crop is on gpus",
            "250x350 of images of 250x350 at the median, up to 1200x1600: the median pads few, and larger ones are "
            "cropped",
        ),
        (
            {"size": (256, 1600), "largest": (256, 1600)},
            "256x512 of images of 256x1600: 131072 pixels at most, all of their height, in whole 32s",
            "whole images, as they will be predicted",
        ),
        (
            {"size": (460, 1130), "largest": (460, 1130)},
            "352x352 of images of 460x1130: 131072 pixels at most, nearly square, which shows more around a defect, in "
            "whole 32s",
            "whole images, as they will be predicted",
        ),
        (
            {"size": (1024, 1024), "largest": (1024, 1024), "whole": (3000, 4000)},
            "352x352 of stored tiles of 1024x1024: 131072 pixels at most, square, as stored tiles nearly are, in whole "
            "32s",
            "whole stored tiles of 1024x1024, as images of up to 3000x4000 are stored",
        ),
    ],
)
def test_crops_are_explained_by_what_limits_them(sizes: dict[str, Any], first: str, second: str) -> None:
    assert crop_reasons(TILES, LARGE, **sizes) == [first, second]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({}, "none: images, of up to 200x200, are validated and predicted whole, as they are up to 2,097,152 pixels"),
        ({"largest": (1024, 2048)}, "none: images, of up to 1024x2048, are"),
        # 1025 rows are padded to 1056, of 2048 columns.
        ({"largest": (1025, 2048)}, "images of more than 2,097,152 pixels are validated and predicted in tiles of"),
        ({"whole": (3000, 4000)}, "images of more than 2,097,152 pixels are validated"),
    ],
)
def test_how_large_images_are_predicted_is_told(sizes: dict[str, Any], reason: str) -> None:
    found = auto_recipe(changed(TILES, **sizes), LARGE)
    assert found.reasons["tiling"].startswith(reason) and found.tiling == SEVERSTAL.tiling
    largest = sizes.get("whole", sizes.get("largest", (200, 200)))
    assert is_tiled(*largest, found.tiling, 32) == reason.startswith("images of more")
    assert f"up to {largest[0]}x{largest[1]}" in found.reasons["tiling"]
    given = replace(found, tiling=replace(found.tiling, tile=512))
    assert explain_changes(found, given).reasons["tiling"].startswith("another value, as given (auto: ")


def test_the_search_of_thresholds_is_told() -> None:
    """It depends on no set and no machine."""
    (told,) = {auto_recipe(facts, m).reasons["thresholds"] for facts in (TILES, STRIPS) for m in (LARGE, SMALL)}
    assert "of pixels 15 from 0.06 to 0.94, of labels 9 from 0.13 to 0.88, and 8 areas" in told


def test_each_phase_says_why_it_has_its_batch_and_rate() -> None:
    found = auto_recipe(TILES, LARGE)
    assert found.reasons["phases.1.batch-size"] == f"{found.phases[1].batch_size}, as in the first phase"
    assert found.reasons["phases.1.lr"].startswith(f"{found.phases[1].lr:g}, a tenth of the first phase's")
    first = replace(found.phases[0], lr=3e-4, batch_size=16)
    told = explain_changes(found, replace(found, phases=(first, found.phases[1]))).reasons
    assert told["phases.1.lr"].endswith("; chosen for phases.0.lr 0.001, now given otherwise")
    assert told["phases.1.batch-size"].endswith(
        f"; chosen for phases.0.batch-size {found.phases[0].batch_size}, now given otherwise"
    )


def test_a_set_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        auto_recipe(changed(TILES, images=0), LARGE)


def test_options_have_the_last_word_and_the_reasons_say_so() -> None:
    derived = auto_recipe(STRIPS, LARGE)
    first = replace(derived.phases[0], crop=(128, 256))
    told = explain_changes(derived, replace(derived, phases=(first, derived.phases[1]), reasons={})).reasons
    assert told["phases.0.crop"].startswith("128x256, as given (auto: 256x512 of images of 256x1600")
    assert told["phases.0.sampling.defect-crop"] == (
        "0.5: a crop is 32% of an image; chosen for phases.0.crop 256x512, now given otherwise"
    )
    others = ("crop", "micro-batch", "sampling.defect-crop")
    kept = derived.reasons.keys() - {f"phases.0.{name}" for name in others} - {"augment.rotate90"}
    assert {name: told[name] for name in kept} == {name: derived.reasons[name] for name in kept}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_what_was_chosen_for_autos_own_encoder_says_so_of_another(kind: Any) -> None:
    derived = auto_recipe(STRIPS, MachineClass(kind, 16))
    own, other = derived.model.encoder, "tu-convnext_tiny"
    told = explain_changes(derived, replace(derived, model=replace(derived.model, encoder=other))).reasons
    assert told["model.encoder"].startswith(f"{other}, as given (auto: ")
    changed_reasons = {name for name in told if told[name] != derived.reasons[name]} - {"model.encoder"}
    assert changed_reasons == {f"phases.{n}.{option}" for n in (0, 1) for option in ("lr", "micro-batch")}
    assert all(told[n].endswith(f"; chosen for model.encoder {own}, now given otherwise") for n in changed_reasons)
    assert not any("this encoder" in reason for reason in told.values())


def test_facts_are_the_sets(tiny_shards: Path) -> None:
    reader = ShardReader(str(tiny_shards))
    facts = read_facts(reader)
    assert (facts.images, facts.size, facts.largest) == (27, (64, 160), (64, 160))
    assert (facts.clean, facts.images_per_class) == (reader.manifest.num_clean, reader.manifest.num_positive)
    levels = [np.mean([reader.read(int(row)).image.mean() for row in reader.index.rows([fold])]) for fold in range(3)]
    assert facts.levels is not None
    assert (facts.levels.lowest, facts.levels.highest) == pytest.approx((min(levels), max(levels)))


def test_older_shards_do_not_tell_of_gray_levels(tmp_path: Path) -> None:
    reader = ShardReader(str(small_shards(tmp_path / "shards")))
    assert reader.manifest.fold_levels is None
    assert read_facts(reader).levels is None


def parse(shards: Path, out: Path, *options: str) -> Config:
    return parse_fit("fit", ["--preset", "auto", "--data", str(shards), "--out", str(out), *options]).config


def machine(monkeypatch: pytest.MonkeyPatch, *given: Any) -> None:
    monkeypatch.setattr(fitting, "find_machine_class", lambda: MachineClass(*given))


def test_the_command_line(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "gpu", 24)
    found = parse(tiny_shards, tmp_path, "--phases.0.lr", "1e-5")
    expected = fit_preset("auto", str(tiny_shards), str(tmp_path), Budget())
    assert (found.preset, found.phases[0].lr) == ("auto", 1e-5)
    assert found.phases[1] == expected.phases[1] and found.reasons["phases.0.lr"].startswith("1e-05, as given")


def test_a_run_goes_on_with_its_recipe_on_another_machine(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, "gpu", 80)
    options: Sequence[str] = ("--phases.0.lr", "1e-5")
    begun = parse(tiny_shards, tmp_path, *options)
    folder = RunFolder(tmp_path)
    folder.open(begun, "digest", "auto")
    folder.release()
    machine(monkeypatch, "cpu", 4)
    assert parse(tiny_shards, tmp_path, *options) != begun  # nothing has been trained yet
    (folder.states / "000000-00000001").mkdir(parents=True)
    assert to_dict(parse(tiny_shards, tmp_path, *options)) == to_dict(begun)


def test_this_machine_has_a_class() -> None:
    assert find_machine_class().memory_gb in MEMORY_CLASSES

"""The reasons in a recipe: what each choice follows from, kept true where options change one."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from steel.config import Config, TransformConfig
from steel.inference.tiles import is_tiled
from steel.loading.augment import TRANSFORMS
from tests.recipe_inputs import LARGE, SMALL, STRIPS, TILES, changed
from train.auto_recipe import auto_recipe
from train.level_difference import STANDARD_RANGE, LevelDifference
from train.options import parse_fields
from train.presets import SEVERSTAL
from train.recipe_facts import DataFacts, MachineClass
from train.recipe_reasons import explain_changes


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
        == f"p 0.3, strength 1.0, as given (auto: {reason})"
    )
    without = replace(found, augment={name: given for name, given in found.augment.items() if name == "hflip"})
    told = explain_changes(found, without).reasons
    assert told["augment.brightness-contrast"] == f"off, as given (auto: {reason})"
    assert told["augment.rotate90"].startswith("off, as given (auto: on: ")


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_brightness_reaches_as_far_as_the_reason_says(strength: float) -> None:
    transform = TRANSFORMS["brightness_contrast"].build(TransformConfig(0.5, strength), (8, 8), 1)
    assert [255 * limit for limit in transform.brightness_limit] == pytest.approx(
        [-STANDARD_RANGE * strength, STANDARD_RANGE * strength]
    )
    assert transform.brightness_by_max  # a share of 255, whatever the image


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
            "the median image, 250x350: a crop of 131072 pixels at most, as on gpus, would show more than half of it",
            "250x350 of images of 250x350 at the median, up to 1200 high and 1600 wide: the median pads less "
            "than the largest would, and larger ones are cropped",
        ),
        (  # others may be of any shape
            {"size": (1000, 1100), "largest": (1100, 3000)},
            "352x352 of images of 1000x1100 at the median, up to 1100 high and 3000 wide: 131072 pixels at most, "
            "square, as the median image nearly is, in whole 32s",
            "992x1056 of images of 1000x1100 at the median, up to 1100 high and 3000 wide: 1,048,576 pixels at most, "
            "on whatever machine",
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
            "whole stored tiles of 1024x1024, as images up to 3000 high and 4000 wide are stored",
        ),
    ],
)
def test_crops_are_explained_by_what_limits_them(sizes: dict[str, Any], first: str, second: str) -> None:
    assert crop_reasons(TILES, LARGE, **sizes) == [first, second]


UPRIGHT = {"size": (256, 96), "largest": (256, 256), "box": (256, 256)}
LYING_STRIPS = {"size": (256, 1600), "largest": (1600, 1600), "box": (1600, 1600)}


@pytest.mark.parametrize(
    ("sizes", "machine", "first", "second", "moved"),
    [
        (
            *(UPRIGHT, LARGE),
            "256x256, which holds images of several shapes, 256x96 at the median: a crop of 131072 pixels at most, as "
            "on gpus, would show more than half of it",
            "whole images, as they will be predicted; a crop of the median's shape would cut others",
            "0: the crop holds the median image",
        ),
        (  # 160 of 256 rows
            *(UPRIGHT, SMALL),
            "160x160 of images of 256x96 at the median, up to 256 high and 256 wide: 32768 pixels at most, for images "
            "of several shapes, in whole 32s",
            "whole images, as they will be predicted; a crop of the median's shape would cut others",
            "0: a crop is 62% of the median image",
        ),
        (
            *({**UPRIGHT, "largest": (1000, 2000), "box": (256, 256)}, SMALL),
            "160x160 of images of 256x96 at the median, up to 1000 high and 2000 wide: 32768 pixels at most, for "
            "images of several shapes, in whole 32s",
            "256x256 of images of 256x96 at the median, up to 1000 high and 2000 wide: what holds several shapes pads "
            "less than the largest would, and larger ones are cropped",
            "0.5: a crop is 62% of the median image, but less of larger ones",
        ),
        (  # of a few that are much larger a crop shows 256x256
            *({**UPRIGHT, "largest": (1000, 2000)}, LARGE),
            "256x256, which holds images of several shapes, 256x96 at the median: a crop of 131072 pixels at most, as "
            "on gpus, would show more than half of it",
            "256x256 of images of 256x96 at the median, up to 1000 high and 2000 wide: what holds several shapes pads "
            "less than the largest would, and larger ones are cropped",
            "0.5: the crop holds the median image, but less of larger ones",
        ),
        (  # 1600x1600 are 2,560,000 pixels; of an image of 256x1600 a crop shows 256x352
            *(LYING_STRIPS, LARGE),
            "352x352 of images of 256x1600 at the median, up to 1600 high and 1600 wide: 131072 pixels at most, for "
            "images of several shapes, in whole 32s",
            "1024x1024 of images of 256x1600 at the median, up to 1600 high and 1600 wide: 1,048,576 pixels at most, "
            "on whatever machine",
            "0.5: a crop is 22% of the median image",
        ),
    ],
)
def test_images_of_several_shapes_have_crops_that_suit_all_of_them(
    sizes: dict[str, Any], machine: MachineClass, first: str, second: str, moved: str
) -> None:
    found = auto_recipe(changed(TILES, **sizes), machine)
    assert [found.reasons[f"phases.{number}.crop"] for number in (0, 1)] == [first, second]
    assert found.reasons["phases.0.sampling.defect-crop"] == moved
    assert found.reasons["augment.rotate90"].startswith("off: the median image or ")
    said = [f"{height}x{width}" for height, width in (phase.crop for phase in found.phases)]
    assert first.startswith(said[0]) and second.startswith("whole images" if said[1] == "0x0" else said[1])


@pytest.mark.parametrize(
    ("size", "machine", "first", "second"),
    [
        (  # 1,040,000 are no more than 1,048,576; padded to 1,081,344 they are
            *((1000, 1040), LARGE),
            "352x352 of images of 1000x1040: 131072 pixels at most, square, as images nearly are, in whole 32s",
            "992x1024 of images of 1000x1040: 1,048,576 pixels at most, on whatever machine, where 1000x1040 counts as "
            "1024x1056",
        ),
        (  # 249,900 are no more than 250,000; padded to 262,144 they are
            *((490, 510), MachineClass("gpu", 4)),
            "352x352 of images of 490x510: 131072 pixels at most, square, as images nearly are, in whole 32s",
            "480x480 of images of 490x510: at 4 kB per pixel, two crops of 250,000 pixels need half of a GPU with 4 "
            "GB, where 490x510 counts as 512x512",
        ),
    ],
)
def test_images_that_only_padding_makes_larger_than_a_crop_are_told_so(
    size: tuple[int, int], machine: MachineClass, first: str, second: str
) -> None:
    assert crop_reasons(TILES, machine, size=size, largest=size) == [first, second]


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"size": (256, 1600), "largest": (256, 1600)}, "256x512 .*, all of their height"),
        ({"size": (250, 1600), "largest": (250, 1600)}, "224x576 .*, 224 of their 250 rows"),
        ({"size": (1600, 250), "largest": (1600, 250)}, "576x224 .*, 224 of their 250 columns"),
        ({"size": (63, 5000), "largest": (63, 5000)}, "32x4096 .*, 32 of their 63 rows"),
        ({"size": (7, 18_000), "largest": (7, 18_000)}, "32x4096 .*, all of their height"),
        ({"size": (256, 1600), "largest": (300, 1600)}, "256x512 .*, all of the median's height"),
        ({"size": (250, 1600), "largest": (300, 1600)}, "224x576 .*, 224 of the median's 250 rows"),
    ],
)
def test_a_crop_that_is_rounded_below_an_images_height_shows_part_of_it(sizes: dict[str, Any], shape: str) -> None:
    assert re.fullmatch(rf"{shape}, in whole 32s", crop_reasons(TILES, LARGE, **sizes)[0])


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (
            {},
            "none: images, up to 200 high and 200 wide, are validated and predicted whole, as they are up to 2,097,152 "
            "pixels",
        ),
        ({"largest": (1024, 2048)}, "none: images, up to 1024 high and 2048 wide, are"),
        # 1025 rows are padded to 1056, of 2048 columns.
        ({"largest": (1025, 2048)}, "images of more than 2,097,152 pixels are validated and predicted in tiles of"),
        ({"whole": (3000, 4000)}, "images of more than 2,097,152 pixels are validated"),
        # One of 1500x32 and one of 32x2000: none is that high and wide.
        ({"largest": (1500, 2000), "most_pixels": 1504 * 32}, "none: images, up to 1500 high and 2000 wide, are"),
    ],
)
def test_how_large_images_are_predicted_is_told(sizes: dict[str, Any], reason: str) -> None:
    found = auto_recipe(changed(TILES, **sizes), LARGE)
    assert found.reasons["tiling"].startswith(reason) and found.tiling == SEVERSTAL.tiling
    largest = sizes.get("whole", sizes.get("largest", (200, 200)))
    if "most_pixels" not in sizes:
        assert is_tiled(*largest, found.tiling, 32) == reason.startswith("images of more")
    assert f"up to {largest[0]} high and {largest[1]} wide" in found.reasons["tiling"]
    given = replace(found, tiling=replace(found.tiling, tile=512))
    told = explain_changes(found, given).reasons["tiling"]
    assert told == f"budget 2097152, tile 512, overlap 256, as given (auto: {found.reasons['tiling']})"


@pytest.mark.parametrize(("clean", "order", "boundary"), [(996, "natural", "0"), (99, "natural", "0.5")])
def test_clean_images_are_told_as_a_count(clean: int, order: str, boundary: str) -> None:
    """As shares they would be "100%" and "10%", the latter on either side of its limit."""
    facts = changed(TILES, images=1000, clean=clean, class_names=("a",), images_per_class=(30,))
    told = auto_recipe(facts, LARGE, 38_000).reasons  # so long that classes are seen often
    said = f"{clean} of 1,000 images are clean"
    assert told["phases.0.sampling.order"].startswith(f"{order}: {said}, and ")
    assert told["phases.0.loss.absent"].startswith(f"0 ({said}): ")
    for phase in (0, 1):
        assert told[f"phases.{phase}.loss.boundary"].startswith(f"{boundary}, for {said}: ")


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
    assert told["phases.1.lr"].endswith("; chosen for phases.0.lr 0.002, now given otherwise")
    assert told["phases.1.batch-size"].endswith(
        f"; chosen for phases.0.batch-size {found.phases[0].batch_size}, now given otherwise"
    )


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
    decoder = {"model.decoder-channels"} & derived.reasons.keys()
    assert bool(decoder) == (kind == "cpu")
    assert changed_reasons == decoder | {f"phases.{n}.{option}" for n in (0, 1) for option in ("lr", "micro-batch")}
    assert all(told[n].endswith(f"; chosen for model.encoder {own}, now given otherwise") for n in changed_reasons)
    assert not any("this encoder" in reason for reason in told.values())


DERIVED = {
    "strips": auto_recipe(STRIPS, LARGE),
    "tiles": auto_recipe(TILES, SMALL),
    "little memory": auto_recipe(changed(TILES, size=(500, 800), largest=(500, 800)), MachineClass("gpu", 4)),
    "mostly clean": auto_recipe(changed(TILES, clean=400), LARGE, 8),
    "mostly clean, long": auto_recipe(changed(STRIPS, clean=12_000), LARGE),
    "a rare class": auto_recipe(changed(TILES, images_per_class=(9, 690), size=(60, 900), largest=(90, 999)), SMALL),
    "unlike folds": auto_recipe(changed(TILES, levels=LevelDifference(60, 136.5, 1e-12), whole=(3000, 4000)), LARGE),
}
"""Recipes that have each kind of sentence between them."""
OWN = {
    "phases.N.crop": "32 96",
    "phases.N.epochs": "3",
    "phases.N.batch-size": "128",
    "phases.N.micro-batch": "1",
    "phases.N.lr": "1e-5",
    "phases.N.sampling.order": "balanced natural",
    "phases.N.sampling.paste": "0.3",
    "phases.N.sampling.defect-crop": "0.1",
    "phases.N.loss.boundary": "0 0.7",
    "phases.N.loss.class-weights": "1 2",
    "phases.N.loss.batch-dice": "0",
    "phases.N.loss.absent": "1",
    "augment.rotate90": "--augment.rotate90.p 0.1",
    "augment.brightness-contrast": "--augment.brightness-contrast.p 0",
    "validation.every-epochs": "3",
    "tiling": "--tiling.tile 512",
    "model.encoder": "resnet18",
    "model.decoder-channels": "256 128 64 32 16",
}
"""Other values of the options that have a reason; two where the first may be what was chosen."""
NO_OPTIONS = {"machine", "thresholds"}
MEMORY = ("needs about", "kB per pixel")
SPEAKS_OF = {
    "phases.0.warmup 0.05": ("rising for",),
    "phases.0.loss.bce 0.5": (r"cross-entropy of \d", "own term"),
    "phases.1.loss.bce 0.5": ("in both phases",),
    "phases.1.loss.batch-dice 0": ("in both phases",),
    "model.decoder-channels 256 128 64 32 8": ("decoder", *MEMORY),
    "model.encoder resnet18": ("EfficientNet-Lite0", *MEMORY),
    "model.architecture FPN": ("ResNet-34's network", *MEMORY),
    "phases.0.epochs 3": (r"\d for 30 as", "validations in the first", "steps, were", "would be drawn"),
    "--phases.0.sampling.defective-only": ("over a set of", "steps, were", " are clean, and"),
    "phases.0.batch-size 128": (r"^\d+, as in the first phase",),
    "phases.0.lr 1e-5": ("a tenth of the first phase's",),
    "phases.0.crop 32 96": ("crop is (?!on)", "first phase's crops"),
    "phases.0.sampling.zoom 0.5 0.5": ("crop is (?!on)", r"of (their|the median's) "),
    "phases.N.crop 32 96": ("needs about",),
    "phases.N.batch-size 128": ("needs about",),
    "tiling.budget 1000": ("as they will be predicted",),
    "phases.1.sampling.zoom 0.5 0.5": ("as they will be predicted",),
}
"""Options with other values, and the words of sentences that then speak of them."""
SPOKEN = [(option, words) for option, all_words in SPEAKS_OF.items() for words in all_words]


def told_with(derived: Config, option: str, value: str) -> dict[str, str]:
    """The reasons where the option is given."""
    words = value.split() if value.startswith("--") else [f"--{option}", *value.split()]
    return dict(explain_changes(derived, parse_fields("fit", derived, words)).reasons)


@pytest.mark.parametrize("derived", DERIVED.values(), ids=DERIVED)
def test_an_option_that_is_given_changes_its_own_reason(derived: Config) -> None:
    for name, reason in derived.reasons.items():
        if name in NO_OPTIONS:
            continue
        value = OWN[re.sub(r"^phases\.\d", "phases.N", name)]
        alternatives = value.split() if name.endswith(("order", "boundary")) else [value]
        told = [told_with(derived, name, one)[name] for one in alternatives]
        assert any(one.endswith(f" as given (auto: {reason})") for one in told), name


@pytest.mark.parametrize(("option", "words"), SPOKEN)
def test_an_option_that_is_given_leaves_no_sentence_that_speaks_of_it(option: str, words: str) -> None:
    """Of whatever option the sentence is; N is that one's phase."""
    name, _, value = option.partition(" ")
    value = value or name
    spoken = [
        (derived, of, reason)
        for derived in DERIVED.values()
        for of, reason in derived.reasons.items()
        if of not in NO_OPTIONS and re.search(words, reason)
    ]
    assert spoken
    for derived, of, reason in spoken:
        assert told_with(derived, name.replace("N", of.split(".")[1]), value).get(of) != reason, of


def test_a_phase_has_its_own_reason_for_what_both_have() -> None:
    told = told_with(DERIVED["tiles"], "phases.1.loss.boundary", "0")
    assert told["phases.1.loss.boundary"].startswith("0, as given (auto: 0.5, for 0 of 700 images are clean")
    assert told["phases.0.loss.boundary"] == DERIVED["tiles"].reasons["phases.0.loss.boundary"]
    told = told_with(DERIVED["tiles"], "phases.1.loss.class-weights", "1 2")
    assert told["phases.1.loss.class-weights"].startswith("1 2, as given (auto: equal")
    assert told["phases.0.loss.class-weights"].startswith("equal")


def test_what_was_chosen_beside_others_says_what_they_were() -> None:
    derived = DERIVED["tiles"]
    told = told_with(derived, "phases.0.warmup", "0.05")
    assert told["phases.0.lr"].endswith("; chosen for phases.0.warmup 0.3, now given otherwise")
    told = told_with(derived, "phases.0.loss.bce", "0.5")
    assert told["phases.0.loss.batch-dice"].endswith("; chosen for phases.0.loss.bce 1.0, now given otherwise")
    last = "--phases.1.loss.batch-dice 0 --phases.1.loss.lovasz 1 --phases.1.loss.bce 0.5"
    assert told_with(derived, "phases.0.loss.batch-dice", last)["phases.0.loss.batch-dice"].endswith(
        "; chosen for phases.1.loss.batch-dice 1.0 and phases.1.loss.bce 1.0, now given otherwise"
    )
    told = told_with(derived, "model.decoder-channels", OWN["model.decoder-channels"])
    assert told["model.decoder-channels"].startswith("256 128 64 32 16, as given (auto: 64 48 32 24 16, a narrow")
    assert told["model.encoder"] == derived.reasons["model.encoder"] and "decoder" not in told["model.encoder"]


def test_a_sentence_is_not_taken_back_for_an_option_that_it_does_not_speak_of() -> None:
    """What was rare by its images is so in any number of passes; a crop that memory limits is no whole image."""
    rare, little = DERIVED["a rare class"], DERIVED["little memory"]
    told = told_with(rare, "phases.0.epochs", "3")
    assert told["phases.0.sampling.order"] == rare.reasons["phases.0.sampling.order"]
    told = told_with(little, "tiling.budget", "1000")
    assert told["phases.1.crop"] == little.reasons["phases.1.crop"]

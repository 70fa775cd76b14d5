"""The recipe that fits itself: a pure function whose choices hold together."""

import math
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import LossConfig, TransformConfig
from steel.errors import InputError
from tests.paths import ROOT
from tests.recipe_inputs import LARGE, SMALL, STRIPS, TILES, changed
from train.auto_recipe import auto_recipe
from train.crop_recipe import fit_crop
from train.engine.batch_plan import plan_phases
from train.presets import SEVERSTAL
from train.recipe_facts import MEMORY_CLASSES, DataFacts, MachineClass, machine_class

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


def test_severstal_on_a_large_gpu_has_its_presets_crops_passes_batches_and_rates() -> None:
    """Its loss, warm-up and gray levels are those of pretrained weights."""
    found = auto_recipe(STRIPS, LARGE)
    crops, full = SEVERSTAL.phases
    loss = LossConfig({"bce": 1, "batch_dice": 1, "classification": 0.02}, absent=0)
    assert found.phases == (replace(crops, warmup=0.3, loss=loss), replace(full, loss=loss))
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
    assert [phase.lr for phase in found.phases] == [2e-3, 2e-4]
    assert "rotate90" not in auto_recipe(STRIPS, LARGE).augment


@pytest.mark.parametrize(("clean", "weight"), [(0, 0.5), (69, 0.5), (70, 0), (700, 0)])
def test_borders_count_for_more_where_few_images_are_clean(clean: int, weight: float) -> None:
    found = auto_recipe(changed(TILES, clean=clean), LARGE)
    losses = [phase.loss.weights for phase in found.phases]
    assert [loss.get("boundary", 0) for loss in losses] == [weight, weight]
    for loss in losses:
        assert {**loss, "boundary": 0} == {"bce": 1, "batch_dice": 1, "classification": 0.02, "boundary": 0}
    for phase in (0, 1):
        assert found.reasons[f"phases.{phase}.loss.boundary"].startswith(f"{weight:g}, for {clean} of 700 images are ")


def test_crops_of_nearly_square_images_are_square_and_turned() -> None:
    found = auto_recipe(changed(TILES, size=(260, 270), largest=(260, 270)), MachineClass("cpu", 16))
    assert found.phases[0].crop == (160, 160) and found.augment["rotate90"] == TransformConfig(0.5)
    assert "square, as images nearly are" in found.reasons["phases.0.crop"]
    strips = auto_recipe(changed(TILES, size=(230, 300), largest=(230, 300)), MachineClass("cpu", 16))
    assert strips.phases[0].crop == (160, 192) and "rotate90" not in strips.augment


@pytest.mark.parametrize(
    ("machine", "size", "crop"),
    [
        (MachineClass("cpu", 16), (200, 200), (200, 200)),  # of which 160x160 would be 64 %
        (MachineClass("cpu", 16), (226, 226), (226, 226)),  # 50.1 %
        (MachineClass("cpu", 16), (227, 227), (160, 160)),  # 49.7 %
        (MachineClass("cpu", 16), (7, 2000), (7, 2000)),  # of which 32x1024 would be 51 %
        (LARGE, (497, 497), (497, 497)),
        (LARGE, (498, 498), (352, 352)),
        (LARGE, (256, 1000), (256, 1000)),  # of which 256x512 would be 51 %
        (LARGE, (256, 1600), (256, 512)),
        (MachineClass("gpu", 4), (256, 960), (256, 960)),  # 245,760 pixels: half of 4 GB holds two at 4 kB each
        (MachineClass("gpu", 4), (256, 1000), (256, 512)),  # but not of 262,144, to which that is padded
    ],
)
def test_images_of_which_a_crop_would_show_most_are_taken_whole(
    machine: MachineClass, size: tuple[int, int], crop: tuple[int, int]
) -> None:
    assert auto_recipe(changed(TILES, size=size, largest=size), machine).phases[0].crop == crop


def test_images_of_many_sizes_are_not_padded_to_the_largest() -> None:
    found = auto_recipe(changed(TILES, size=(250, 350), largest=(1200, 1600)), LARGE)
    assert [phase.crop for phase in found.phases] == [(250, 350), (250, 350)]


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
    assert reason.startswith(f"{order}: {clean} of 700 images are clean, and ")
    assert drawn is None or f"as they come a would be drawn {drawn}" in reason


@pytest.mark.parametrize(
    ("counts", "clean", "order", "paste"),
    [
        ((0, 0, 0), 700, "natural: 700 of 700 images are clean, and a, b and c are in no image", "0: a, b and c are"),
        (
            (0, 690, 600),
            0,
            "natural: .*, and no class that images have is in .*; a is in no image",
            "0: no class that ",
        ),
        ((0, 690, 0), 0, "natural: .*, and no class that images have is in .*; a and c are in no image", "0: no class"),
        ((0, 9, 600), 0, "balanced: b is in 9 of 700 images only; a is in no image", "0.5: b is in 9 of 700 images "),
        (
            (0, 100, 300),
            350,
            "balanced: .* so each class that images have gets an equal share; a is in no image",
            "0: ",
        ),
        ((0, 300, 350), 350, "natural: .* of 3,000 at least; a is in no image", "0: no class that images have is in"),
    ],
)
def test_a_class_that_no_image_has_is_named_and_is_not_rare(
    counts: tuple[int, ...], clean: int, order: str, paste: str
) -> None:
    facts = changed(TILES, class_names=("a", "b", "c"), images_per_class=counts, clean=clean)
    found = auto_recipe(facts, LARGE, None if counts[1] == 300 else 8)
    assert re.fullmatch(order, found.reasons["phases.0.sampling.order"])
    assert found.reasons["phases.0.sampling.paste"].startswith(paste)
    assert order.startswith(found.phases[0].sampling.order)


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
    st.booleans(),
)
def test_every_choice_holds_together(
    images: int, size: tuple[int, int], more: tuple[int, int], counts: list[int], kind: Any, memory: int, shapes: bool
) -> None:
    largest = (size[0] + more[0] % 7, size[1] + more[1] % 900)
    names = tuple(f"c{k}" for k in range(len(counts)))
    facts = DataFacts(images, 0, names, tuple(min(n, images) for n in counts), size, largest)
    facts = changed(facts, box=largest if shapes else None)
    machine = MachineClass(kind, memory)
    found = auto_recipe(facts, machine)  # a Config, which checks itself
    assert found == auto_recipe(facts, machine)
    for phase in found.phases:
        height, width = largest if phase.crop == (0, 0) else phase.crop
        assert height <= max(32, largest[0]) and width <= max(32, largest[1])
        assert phase.micro_batch >= 2
        # 4 kB per pixel, padded as the network is given them; a step of two of the smallest crops always fits.
        pixels = math.ceil(height / 32) * 32 * math.ceil(width / 32) * 32
        assert phase.micro_batch * pixels * 4000 <= memory * 0.5e9 * 1.01 or phase.crop == (0, 0)
    assert {"phases.0.crop", "phases.1.micro-batch", "model.encoder", "machine"} <= found.reasons.keys()
    assert all(len(reason.splitlines()) == 1 for reason in found.reasons.values())


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("facts", [STRIPS, TILES, changed(TILES, clean=690), changed(TILES, images_per_class=(9, 690))])
def test_no_reason_claims_to_be_better(facts: DataFacts, kind: Any) -> None:
    """A choice that is to say so needs a table of `bench/quality.md` first."""
    reasons = auto_recipe(facts, MachineClass(kind, 16)).reasons
    claims = {name: reason for name, reason in reasons.items() if re.search("better|best|worse|false alarms", reason)}
    equal = "equal: no other choice has been shown to be better"
    assert claims == {f"phases.{phase}.loss.class-weights": equal for phase in (0, 1)}


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
        ((7, 18_000), 256 * 512, (32, 4096)),  # 126,000 pixels, which are padded to 576,512
    ],
)
def test_crops(size: tuple[int, int], pixels: int, crop: tuple[int, int]) -> None:
    assert fit_crop(size, pixels) == crop


@pytest.mark.parametrize(
    ("machine", "most"),
    [
        (LARGE, [352, 1024]),  # the roots of 131,072 and 1,048,576 pixels are 362 and 1,024
        (SMALL, [160, 704]),  # those of 32,768, and of 500,000, two of which half of 8 GB holds, 181 and 707
    ],
)
def test_the_shorter_side_of_a_crop_is_at_most_the_root_of_its_pixels(machine: MachineClass, most: list[int]) -> None:
    found = auto_recipe(changed(TILES, size=(3000, 4000), largest=(3000, 4000)), machine)
    assert [min(phase.crop) for phase in found.phases] == most
    limit = re.search(r"(\d+) at most on the shorter side \((\d+) on a CPU\)", (ROOT / "docs" / "auto.md").read_text())
    assert limit is not None and most[0] == int(limit[1 if machine == LARGE else 2])


def test_thin_images_count_as_they_are_padded() -> None:
    """7 rows are given to the network as 32, and a crop of 32 rows of them shows 7."""
    thin = changed(TILES, size=(7, 20_000), largest=(7, 20_000))
    found = auto_recipe(thin, MachineClass("cpu", 24))
    # 32 x 20,000 pixels of 4 kB are 2.56 GB; half of 24 GB holds four.
    assert found.phases[1].micro_batch == 4
    assert found.reasons["phases.1.micro-batch"].startswith("4: needs about 10.2 GB of ")
    assert found.phases[0].crop == (32, 1024)
    assert found.reasons["phases.0.sampling.defect-crop"] == "0.8: a crop is 5% of an image"  # 7 x 1,024 of 7 x 20,000
    huge = changed(TILES, size=(4000, 4000), largest=(4000, 4000))
    told = auto_recipe(huge, MachineClass("cpu", 24)).reasons["phases.0.sampling.defect-crop"]
    assert told == "0.8: a crop is less than 1% of an image"


@pytest.mark.parametrize(
    ("size", "largest", "whole", "reason"),
    [
        ((128, 256), (128, 256), None, "0: the crop is the image"),
        ((128, 256), (128, 256), (2000, 2000), "0: the crop is the stored tile"),
        ((128, 256), (140, 300), None, "0: the crop is the median image"),
        ((128, 256), (1024, 1024), None, "0.5: the crop is the median image, but less of larger ones"),
        ((256, 256), (1024, 1024), None, "0.5: a crop is 39% of the median image"),
        ((600, 2000), (900, 2000), None, "0.8: a crop is 3% of the median image"),
    ],
)
def test_crops_of_larger_images_than_the_median_are_moved_onto_defects(
    size: tuple[int, int], largest: tuple[int, int], whole: tuple[int, int] | None, reason: str
) -> None:
    """On a CPU, whose crops have 32,768 pixels."""
    found = auto_recipe(changed(TILES, size=size, largest=largest, whole=whole), MachineClass("cpu", 24))
    assert found.reasons["phases.0.sampling.defect-crop"] == reason
    assert found.phases[0].sampling.defect_crop == float(reason.partition(":")[0])


def test_memory_has_classes() -> None:
    """An H100 of 80 GB tells of 84.9, a 24 GB card of 25.3 and a 16 GB host of 15.6 or so times 10**9 bytes."""
    given_bytes = [84.9e9, 25.3e9, 15.6e9, 14.9e9, 3.75e9]
    assert [machine_class("gpu", num) for num in given_bytes] == [MachineClass("gpu", gb) for gb in (80, 24, 16, 12, 4)]


@pytest.mark.parametrize("facts", [STRIPS, changed(TILES, size=(500, 800), largest=(500, 800))])
def test_a_machine_below_all_classes_is_told_so_and_has_the_recipe_of_the_smallest(facts: DataFacts) -> None:
    below, smallest = machine_class("gpu", 3.7e9), MachineClass("gpu", 4)
    found, expected = auto_recipe(facts, below), auto_recipe(facts, smallest)
    assert replace(found, reasons=expected.reasons) == expected
    assert found.reasons["machine"].startswith("a GPU with less than 4 GB: ")
    assert all("a GPU with 4 GB" in expected.reasons[f"phases.{n}.micro-batch"] for n in (0, 1))
    assert not any("a GPU with 4 GB" in reason for reason in found.reasons.values())
    assert not any("half of a GPU" in reason for reason in found.reasons.values())


def test_a_set_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        auto_recipe(changed(TILES, images=0), LARGE)

"""Crops of `--preset auto`: how much of an image a step sees, of how many images at a time, and where."""

import math

from train.recipe_facts import STRIDE, DataFacts, MachineClass, padded, padded_pixels
from train.recipe_words import is_nearly_square, noun_of, size_text, sizes_of, typical_of, up_to

_CROP_PIXELS = {"gpu": 256 * 512, "cpu": 128 * 256}
"""Of a crop of the first phase: Severstal's, and a quarter of it where each costs a CPU seconds."""
_MOST = 0.5
"""An image of which a crop would show more than this is taken whole, as it is predicted: it would save little."""
_FULL_PIXELS = 1 << 20
"""Larger images than that are cut in the second phase, too."""
_BYTES_PER_PIXEL = 4000
"""Of a micro-batch in training: what a U-Net on ResNet-34 keeps for its backward pass in float32 (1.5 kB; 2.1 kB with
EfficientNet-Lite0), and as much again for what that pass makes."""
_USED_MEMORY = 0.5
"""Share of the memory that a micro-batch may take."""


def choose_crops(
    facts: DataFacts, machine: MachineClass, reasons: dict[str, str]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Crops of both phases; (0, 0) is the whole image. They go by the median image, or by what holds several shapes."""
    size, budget = facts.box or facts.size, _CROP_PIXELS[machine.kind]
    room = int(_USED_MEMORY * machine.memory_gb * 1e9 / _BYTES_PER_PIXEL / 2)
    crop = _first_crop(size, budget)
    if _shown(crop, size) > _MOST and padded_pixels(size) <= room:
        crop = size
    if padded_pixels(size) > min(_FULL_PIXELS, room):
        full = fit_crop(size, min(_FULL_PIXELS, room))
    else:
        full = (0, 0) if facts.largest == size else size
    reasons["phases.0.crop"] = _why_first(crop, facts, machine)
    reasons["phases.1.crop"] = _why_second(full, facts, machine, room)
    return crop, full


def _first_crop(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """What fits, square where an image nearly is, so that quarter turns fit."""
    crop = fit_crop(size, pixels)
    return (min(crop), min(crop)) if crop != size and is_nearly_square(size) else crop


def _why_first(crop: tuple[int, int], facts: DataFacts, machine: MachineClass) -> str:
    size, noun, pixels = facts.box or facts.size, noun_of(facts), _CROP_PIXELS[machine.kind]
    if crop != size:
        shape = f"{pixels} pixels at most, {_shape(crop, facts)}, in whole 32s"
        return f"{size_text(crop)} of {sizes_of(facts)}: {shape}"
    if facts.box is None:
        whole = f"the median {noun}, {size_text(size)}"
    else:
        whole = f"{size_text(size)}, which holds {noun}s of several shapes, {size_text(facts.size)} at the median"
    return f"{whole}: a crop of {pixels} pixels at most, as on {machine.kind}s, would show more than half of it"


def _why_second(full: tuple[int, int], facts: DataFacts, machine: MachineClass, room: int) -> str:
    """`room` is the pixels that memory holds twice."""
    size, sizes = facts.box or facts.size, sizes_of(facts)
    if full == (0, 0):
        whole = (
            "whole images, as they will be predicted"
            if facts.whole is None
            else f"whole {sizes}, as images {up_to(facts.whole)} are stored"
        )
        return whole if facts.box is None else f"{whole}; a crop of the median's shape would cut others"
    if full == size:
        held = "the median" if facts.box is None else "what holds several shapes"
        return f"{size_text(full)} of {sizes}: {held} pads less than the largest would, and larger ones are cropped"
    padding = _padding(size, min(_FULL_PIXELS, room))
    if room < _FULL_PIXELS:
        return (
            f"{size_text(full)} of {sizes}: at {_BYTES_PER_PIXEL // 1000} kB per pixel, two crops of {room:,} pixels "
            f"need half of {_memory(machine)}{padding}"
        )
    return f"{size_text(full)} of {sizes}: {_FULL_PIXELS:,} pixels at most, on whatever machine{padding}"


def fit_crop(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The crop of about so many pixels that an image has room for, in whole 32s; the image where it has no more. It is
    square where both sides of the image have room for that: such a crop sees more around a defect than a thin one.

    Args:
        size: height and width of the image.
        pixels: of the crop, padded to whole 32s.
    """
    if padded_pixels(size) <= pixels:
        return size
    short, long = min(size), max(size)
    least = _whole(min(short, math.isqrt(pixels)))
    most = _whole(min(long, pixels / least))
    return (least, most) if size[0] <= size[1] else (most, least)


def choose_micro_batch(
    phase: int,
    crop: tuple[int, int],
    largest: tuple[int, int],
    batch: int,
    machine: MachineClass,
    reasons: dict[str, str],
) -> int:
    """As many images of a crop as half of the memory holds, up to 8; two at least, for batch normalisation."""
    pixels = padded_pixels(largest if crop == (0, 0) else crop)
    room = _USED_MEMORY * machine.memory_gb * 1e9
    micro = next((m for m in (8, 4) if m <= batch and m * pixels * _BYTES_PER_PIXEL <= room), 2)
    needed = micro * pixels * _BYTES_PER_PIXEL / 1e9
    less = (
        f", more than half; if that is too much, phases.{phase}.crop needs fewer pixels" if needed > room / 1e9 else ""
    )
    reasons[f"phases.{phase}.micro-batch"] = f"{micro}: needs about {needed:.1f} GB of {machine}{less}"
    return micro


def choose_defect_crop(facts: DataFacts, crop: tuple[int, int], reasons: dict[str, str]) -> float:
    """Share of the crops of defective images that are moved onto a defect: more, the less of an image a crop shows.

    Where a crop is most of the median image but not of larger ones, half are moved for these: in an image that a crop
    holds, there is no other place for it. Where images differ in shape alone, none is larger.
    """
    largest = facts.size if facts.largest == facts.box else facts.largest
    share, of_largest = (_shown(crop, size) for size in (facts.size, largest))
    chosen = 0.0 if of_largest > _MOST else 0.5 if share > 0.1 else 0.8
    part = f"{share:.0%}" if share >= 0.01 else "less than 1%"
    noun = noun_of(facts)
    one, another = ("the", "an" if facts.whole is None else "a") if facts.is_one_size else ("the median",) * 2
    whole = f"the crop {'is' if crop == facts.size else 'holds'} {one} {noun}"
    why = whole if share >= 1 else f"a crop is {part} of {another} {noun}"
    less = ", but less of larger ones" if share > _MOST and chosen else ""
    reasons["phases.0.sampling.defect-crop"] = f"{chosen:g}: {why}{less}"
    return chosen


def _shown(crop: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of an image that a crop shows."""
    return math.prod(map(min, crop, size)) / math.prod(size)


def _memory(machine: MachineClass) -> str:
    """What is reckoned with, for reasons."""
    if machine.is_below:
        return f"{machine.memory_gb} GB, the least that auto reckons with; here is {machine}"
    return str(machine)


def _padding(size: tuple[int, int], pixels: int) -> str:
    """Why an image of no more than so many pixels is larger than a crop of them, for reasons."""
    return "" if math.prod(size) > pixels else f", where {size_text(size)} counts as {size_text(padded(size))}"


def _shape(crop: tuple[int, int], facts: DataFacts) -> str:
    """Of a crop of an image that is larger, for reasons."""
    if facts.box is not None:
        return f"for {noun_of(facts)}s of several shapes"
    size = facts.size
    if is_nearly_square(size):
        return f"square, as {typical_of(facts)} nearly {'are' if facts.is_one_size else 'is'}"
    if min(crop) == _whole(min(size)):
        shown, there = min(crop), min(size)
        side, lines = ("height", "rows") if size[0] <= size[1] else ("width", "columns")
        whose = "their" if facts.is_one_size else "the median's"
        return f"all of {whose} {side}" if shown >= there else f"{shown} of {whose} {there} {lines}"
    return "nearly square, which shows more around a defect"


def _whole(length: float) -> int:
    """The nearest multiple of the stride that is not more, but one stride at least."""
    return max(STRIDE, int(length) // STRIDE * STRIDE)

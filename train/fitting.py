"""The preset that a run begins with: `--preset auto` looks at the shards and the machine, `--budget` at the length, and
a run that resumes at what it began with."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steel.config import Config
from steel.distributed.accelerate_environment import says_cpu
from steel.errors import InputError
from steel.machine import whole_memory
from steel.plain import from_dict
from steel.shards.reader import ShardReader
from train.auto_recipe import auto_recipe
from train.budget import Budget, scale_to
from train.engine.run_folder import RunFolder
from train.level_difference import level_difference
from train.presets import AUTO, SEVERSTAL, get_preset
from train.recipe_facts import (
    DataFacts,
    MachineClass,
    box_of_shapes,
    machine_class,
    most_padded_pixels,
    padded_pixels,
)


def fit_preset(
    name: str, data: str, folders: Sequence[Path], budget: Budget, reader: ShardReader | None = None
) -> Config:
    """The preset `name` for the shards at `data` on this machine; where a run has begun, the one that it began with, if
    that depended on them, but for `runtime` and `tracking`: these never do, and are what is asked for now.

    Args:
        name: of the preset.
        data: folder or URL of the shards.
        folders: of the run, or of those that have one recipe; the first that has begun counts.
        budget: the length.
        reader: of the shards; they are opened when None.

    Raises:
        InputError: no usable shards or run folder, or no such preset.
    """
    for folder in folders:
        begun = RunFolder(folder).begun_config()
        if begun is None:
            continue
        if begun.get("preset") == name and (name == AUTO or _has_budget(begun)):
            try:
                fresh = SEVERSTAL if name == AUTO else get_preset(name)  # auto derives neither part
                return replace(from_dict(Config, begun), runtime=fresh.runtime, tracking=fresh.tracking)
            except InputError as error:
                raise InputError(
                    f"--out {folder}: its config.json cannot be used ({error}); choose another folder"
                ) from error
        break
    if name != AUTO:
        return get_preset(name) if budget.passes is None else scale_to(get_preset(name), budget.passes)
    return preset_for(name, ShardReader(data, on_bad_sample="skip") if reader is None else reader, budget.passes)


def _has_budget(begun: dict[str, Any]) -> bool:
    """Whether `--budget` has changed the preset's length, by a configuration as plain JSON values."""
    reasons = begun.get("reasons")
    return isinstance(reasons, dict) and "budget" in reasons


def preset_for(name: str, reader: ShardReader, passes: float | None = None) -> Config:
    """The preset `name` for these shards on this machine.

    Args:
        name: of one, `auto` among them.
        reader: of the shards.
        passes: the length of `auto`; its own when None.
    """
    return auto_recipe(read_facts(reader), find_machine_class(), passes) if name == AUTO else get_preset(name)


def read_facts(reader: ShardReader) -> DataFacts:
    """What a set says of itself: of its tiles, where it stores large images in such; training reads them as images."""
    index = reader.samples
    present = np.asarray(index.areas) > 0
    largest, whole = (_largest(part.height, part.width) for part in (index, reader.index))
    size, areas = _median_size(index.height, index.width), _areas(index.height, index.width)
    most = most_padded_pixels(reader.index.height, reader.index.width)
    return DataFacts(
        images=len(index),
        clean=int((~present.any(axis=1)).sum()),
        class_names=reader.manifest.class_names,
        images_per_class=tuple(int(count) for count in present.sum(axis=0)),
        size=size,
        largest=largest,
        has_smaller=bool((areas < math.prod(size)).any()),
        box=box_of_shapes(index.height, index.width, size),
        whole=whole if whole != largest else None,
        most_pixels=most if most != padded_pixels(whole) else None,
        levels=level_difference(reader.manifest.fold_levels),
    )


def _largest(heights: Any, widths: Any) -> tuple[int, int]:
    return int(np.max(heights, initial=1)), int(np.max(widths, initial=1))


def find_machine_class() -> MachineClass:
    """The class of this machine: its smallest GPU's, or that of the host's memory which this process may have."""
    if torch.cuda.is_available() and not says_cpu(os.environ):
        smallest = min(torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count()))
        return machine_class("gpu", smallest)
    return machine_class("cpu", whole_memory())


def _areas(heights: Any, widths: Any) -> np.ndarray:
    """(N,) pixels of each image, as int64."""
    return np.asarray(heights, np.int64) * np.asarray(widths, np.int64)


def _median_size(heights: Any, widths: Any) -> tuple[int, int]:
    """Of the image with the median area: height and width that occur together. Of equal areas the lower image comes
    first, of an even number the first of the two in the middle counts."""
    if not len(heights):
        return 1, 1
    middle = np.lexsort((heights, _areas(heights, widths)))[(len(heights) - 1) // 2]
    return int(heights[middle]), int(widths[middle])

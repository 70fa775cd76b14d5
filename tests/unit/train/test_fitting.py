"""The preset of a run: made for its shards and its machine, and kept by a run that goes on."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steel.config import Config
from steel.plain import to_dict
from steel.shards.reader import ShardReader
from tests.shard_folder import small_shards
from train import fitting
from train.arguments import parse_fit
from train.auto_recipe import auto_recipe
from train.budget import Budget
from train.engine.run_folder import RunFolder
from train.fitting import find_machine_class, fit_preset, read_facts
from train.recipe_facts import MEMORY_CLASSES, DataFacts, MachineClass


def test_facts_are_the_sets(tiny_shards: Path) -> None:
    reader = ShardReader(str(tiny_shards))
    facts = read_facts(reader)
    assert (facts.images, facts.size, facts.largest) == (27, (64, 160), (64, 160))
    assert (facts.clean, facts.images_per_class) == (reader.manifest.num_clean, reader.manifest.num_positive)
    levels = [np.mean([reader.read(int(row)).image.mean() for row in reader.index.rows([fold])]) for fold in range(3)]
    assert facts.levels is not None
    assert (facts.levels.lowest, facts.levels.highest) == pytest.approx((min(levels), max(levels)))


@pytest.mark.parametrize(
    ("sizes", "median"),
    [
        ([(480, 640), (640, 480)], (480, 640)),  # half each: no image is 480x480
        ([(480, 640), (640, 480), (640, 480)], (640, 480)),
        ([(100, 400), (200, 210), (1000, 90)], (200, 210)),
        ([(50_000, 50_000), (50_000, 50_000), (10, 10)], (50_000, 50_000)),  # more pixels than 32 bits count
        ([], (1, 1)),
    ],
)
def test_the_median_size_is_an_images_whatever_the_order(sizes: list[tuple[int, int]], median: tuple[int, int]) -> None:
    for ordered in itertools.permutations(sizes):
        assert facts_of(ordered).size == median


@dataclass(frozen=True)
class SizedRows:
    """The columns of an index that a recipe reads."""

    height: np.ndarray
    width: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.height)


def facts_of(sizes: Sequence[tuple[int, int]]) -> DataFacts:
    """Of a set of images of these sizes, each with its one class."""
    height, width = np.array(sizes, np.int32).reshape(-1, 2).T
    rows = SizedRows(height, width, np.ones((len(sizes), 1), np.int64))
    manifest = SimpleNamespace(class_names=("a",), fold_levels=None)
    reader: Any = SimpleNamespace(samples=rows, index=rows, manifest=manifest)
    return read_facts(reader)


def test_sizes_that_the_largest_does_not_tell_apart_are_several() -> None:
    """The median has the greatest height and width both, and others are lower."""
    facts = facts_of([(512, 512)] * 60 + [(128, 512)] * 40)
    assert (facts.size, facts.largest, facts.is_one_size) == ((512, 512), (512, 512), False)
    found = auto_recipe(facts, MachineClass("gpu", 80))
    assert found.reasons["phases.0.crop"] == (
        "352x352 of images of 512x512 at the median, up to 512 high and 512 wide: 131072 pixels at most, square, as "
        "the median image nearly is, in whole 32s"
    )
    assert found.reasons["phases.0.sampling.defect-crop"] == "0.5: a crop is 47% of the median image"
    assert "and the median image nearly so" in found.reasons["augment.rotate90"]
    assert facts_of([(512, 512)] * 3).is_one_size and not facts_of([(512, 512), (512, 513)]).is_one_size


def test_images_on_their_side_are_not_taken_for_square_ones() -> None:
    """Half 480x640, half 640x480: 409,600 pixels hold both, which is more than a crop of the first phase has."""
    found = auto_recipe(facts_of([(480, 640), (640, 480)]), MachineClass("gpu", 80))
    assert "rotate90" not in found.augment and [phase.crop for phase in found.phases] == [(352, 352), (0, 0)]


UPRIGHT, LYING = (256, 96), (96, 256)


@pytest.mark.parametrize(
    ("sizes", "box"),
    [
        ([UPRIGHT] * 8 + [LYING] * 7, (256, 256)),
        ([UPRIGHT] * 9 + [LYING], (256, 256)),  # a tenth
        ([UPRIGHT] * 10 + [LYING], None),  # less
        ([UPRIGHT] * 8 + [LYING] * 7 + [(1000, 2000)], (256, 256)),  # what is much larger does not count
        ([UPRIGHT] * 3 + [(288, 96)] * 2, None),  # higher, and a crop of 256 rows shows eight ninths
        ([UPRIGHT] * 3 + [(320, 96)] * 2, None),  # 1.25 times as many pixels as it shows
        ([UPRIGHT] * 3 + [(320, 95), (321, 95)], (321, 96)),  # one in five that has more than that
        ([(512, 512)] * 60 + [(128, 512)] * 40, None),
        ([], None),
    ],
)
def test_what_holds_several_shapes_is_known_where_many_have_another(
    sizes: list[tuple[int, int]], box: tuple[int, int] | None
) -> None:
    assert facts_of(sizes).box == box


@pytest.mark.parametrize(
    ("sizes", "expected"), [([(1500, 20), (32, 2000), (200, 300)], 224 * 320), ([(32, 40), (200, 300)], None)]
)
def test_the_image_of_most_pixels_counts_not_the_greatest_sides(
    sizes: list[tuple[int, int]], expected: int | None
) -> None:
    """The three of the first set are padded to 1504x32, 32x2016 and 224x320; none is 1500x2000."""
    facts = facts_of(sizes)
    assert facts.largest == tuple(np.max(sizes, axis=0)) and facts.most_pixels == expected


def test_older_shards_do_not_tell_of_gray_levels(tmp_path: Path) -> None:
    reader = ShardReader(str(small_shards(tmp_path / "shards")))
    assert reader.manifest.fold_levels is None
    assert read_facts(reader).levels is None


def parse(shards: Path, out: Path, *options: str, preset: str = "auto") -> Config:
    return parse_fit("fit", ["--preset", preset, "--data", str(shards), "--out", str(out), *options]).config


def machine(monkeypatch: pytest.MonkeyPatch, *given: Any) -> None:
    monkeypatch.setattr(fitting, "find_machine_class", lambda: MachineClass(*given))


def test_the_command_line(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "gpu", 24)
    found = parse(tiny_shards, tmp_path, "--phases.0.lr", "1e-5")
    expected = fit_preset("auto", str(tiny_shards), [tmp_path], Budget())
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


@pytest.mark.parametrize(
    ("preset", "length"), [("auto", []), ("auto", ["--budget", "2passes"]), ("demo", ["--budget", "2passes"])]
)
def test_how_a_run_is_carried_out_is_what_its_latest_start_says(
    preset: str, length: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    """As with any other preset: an option that is left out is back at its default."""
    options = "--runtime.on-bad-sample skip --runtime.workers 3 --tracking.tracker none --phases.0.lr 1e-5".split()
    begun = parse(tiny_shards, tmp_path, *length, *options, preset=preset)
    assert (begun.runtime.on_bad_sample, begun.runtime.workers, begun.tracking.tracker) == ("skip", 3, "none")
    folder = RunFolder(tmp_path)
    folder.open(begun, "digest", "auto")
    folder.release()
    (folder.states / "000000-00000001").mkdir(parents=True)
    again = parse(tiny_shards, tmp_path, *length, "--phases.0.lr", "1e-5", preset=preset)
    assert again.recipe() == begun.recipe()
    fresh = parse(tiny_shards, tmp_path / "new", preset=preset)
    assert (again.runtime, again.tracking) == (fresh.runtime, fresh.tracking)


def test_this_machine_has_a_class() -> None:
    assert find_machine_class().memory_gb in MEMORY_CLASSES


def test_a_containers_limit_and_a_launcher_that_stays_on_the_cpu_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "whole_memory", lambda: 8 << 30)  # of a machine with much more
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    memories = [SimpleNamespace(total_memory=gib << 30) for gib in (80, 24)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", memories.__getitem__)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert find_machine_class() == MachineClass("gpu", 24)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert find_machine_class() == MachineClass("cpu", 8)

"""Manifest and index: each value that cannot be is named, and a million rows take a fraction of a second."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steel.errors import InputError
from steel.shards.checks import manifest_fault, rows_fault, shard_fault, totals
from steel.shards.format import FoldLevels, Manifest, ShardInfo

Columns = dict[str, np.ndarray]
SHARD = ShardInfo("shard-000000.tar", 2, 10_240, "ab" * 32)
LEVELS = FoldLevels(2, 0.5, 0.1)


def sound_set(num_rows: int = 4, per_shard: int = 2, num_classes: int = 2) -> tuple[Columns, Manifest]:
    """Columns and manifest of `num_rows` images of 4x5 pixels; the first pixel of every third is of class 1."""
    rows = np.arange(num_rows)
    columns: Columns = {"shard": (rows // per_shard).astype(np.int32)}
    for number, member in enumerate(("image", "mask", "json")):
        columns[f"{member}_offset"] = (512 + rows % per_shard * 3072 + number * 1024).astype(np.int64)
        columns[f"{member}_length"] = np.full(num_rows, 500, np.int32)
        columns[f"{member}_crc"] = rows.astype(np.uint32)
    for name, size in (("height", 4), ("width", 5), ("original_height", 4), ("original_width", 5)):
        columns[name] = np.full(num_rows, size, np.int32)
    columns["areas"] = np.zeros((num_rows, num_classes), np.int32)
    columns["areas"][::3, 0] = 1
    columns["ignored"] = np.zeros(num_rows, np.int32)
    columns["fold"], columns["group"] = (rows % 2).astype(np.int16), rows.astype(np.int32)
    num_marked = len(rows[::3])
    manifest = Manifest(
        class_names=tuple("abcdefgh"[:num_classes]),
        num_samples=num_rows,
        num_positive=(num_marked, *[0] * (num_classes - 1)),
        num_clean=num_rows - num_marked,
        channels=1,
        mean=(0.5,),
        std=(0.2,),
        ignore_bit=None,
        folds=2,
        num_groups=num_rows,
        seed=0,
        shards=tuple(
            ShardInfo(f"shard-{k:06d}.tar", per_shard, 512 + 3072 * per_shard, "ab" * 32)
            for k in range(num_rows // per_shard)
        ),
        index_size=1000,
        index_sha256="cd" * 32,
    )
    return columns, manifest


def test_a_sound_set_has_no_fault() -> None:
    columns, manifest = sound_set()
    assert manifest_fault(manifest) is None
    assert rows_fault(columns, manifest) is None
    assert [total for total in totals(columns, manifest) if total.expected != total.found] == []
    assert Manifest.from_json(manifest.to_json()) == manifest


# --- manifest ---


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"class_names": ("a", "a")}, "class names: the name a stands there twice"),
        ({"class_names": ("any", "b")}, "class names: `any` is what metrics call a defect of any class"),
        ({"class_names": ("a", "b\n")}, "class names: 'b\\n' is empty, or has blanks around it or control"),
        ({"class_names": ("a", "")}, "class names: '' is empty"),
        ({"class_names": (), "num_positive": ()}, "no classes"),
        ({"class_names": tuple(map(str, range(17)))}, "17 classes, but at most 16 are possible"),
        ({"class_names": tuple(map(str, range(16))), "ignore_bit": 15}, "16 classes and ignored pixels"),
        ({"ignore_bit": 15}, "bit 15 for ignored pixels beside 2 classes"),
        ({"ignore_bit": -1}, "bit -1 for ignored pixels"),
        ({"ignore_value": 255}, "an ignored value where no pixels are ignored"),
        ({"ignore_value": 2, "ignore_bit": 7, "mask_coding": "labels"}, "2 as the value of ignored pixels"),
        ({"ignore_value": 65536, "ignore_bit": 7, "mask_coding": "labels"}, "65536 as the value"),
        ({"mask_coding": "binary"}, "binary masks of more than one class"),
        ({"num_samples": 0}, "counts beyond|0 samples"),
        ({"num_samples": 5}, "the shards hold another number of samples"),
        ({"num_positive": (2,)}, "1 counts for 2 classes"),
        ({"num_positive": (5, 0)}, "counts beyond the number of samples"),
        ({"num_clean": -1}, "counts beyond the number of samples"),
        ({"folds": 0}, "0 folds"),
        ({"folds": 2**15}, "32768 folds"),
        ({"num_groups": 0}, "0 groups"),
        ({"num_groups": 5}, "5 groups"),
        ({"channels": 3}, "mean or deviation of other than 3 channels"),
        ({"mean": (0.5, 0.5)}, "mean or deviation of other than 1 channels"),
        ({"std": (1.5,)}, "a mean or deviation outside of 0 to 1"),
        ({"mean": (float("nan"),)}, "a mean or deviation outside of 0 to 1"),
        ({"fold_levels": ()}, "gray levels of 0 folds, not of 2"),
        ({"fold_levels": (LEVELS,) * 3}, "gray levels of 3 folds, not of 2"),
        ({"fold_levels": (LEVELS, FoldLevels(3, 0.5, 0.1))}, "gray levels of another number of images"),
        ({"fold_levels": (FoldLevels(-1, 0.5, 0.1), FoldLevels(5, 0.5, 0.1))}, "gray levels of another number of im"),
        ({"fold_levels": (LEVELS, FoldLevels(2, 1.5, 0.1))}, "gray levels of folds outside of 0 to 1"),
        ({"fold_levels": (LEVELS, FoldLevels(2, 0.5, float("nan")))}, "gray levels of folds outside of 0 to 1"),
        ({"options": {"resize": [4]}}, "options.resize is no height and width"),
        ({"options": {"resize": [0, 4]}}, "options.resize is no height and width"),
        ({"options": {"resize": "4x5"}}, "options.resize is no height and width"),
        ({"shards": (SHARD, SHARD)}, "two shards have one name"),
        ({"index_size": 0}, "no size and sha256 of the index"),
        ({"index_sha256": "cd"}, "no size and sha256 of the index"),
    ],
)
def test_a_manifest_that_cannot_be_is_told(changes: dict[str, Any], fault: str) -> None:
    _, manifest = sound_set()
    found = manifest_fault(replace(manifest, **changes))
    assert found is not None and any(found.startswith(part) for part in fault.split("|")), found


def test_ignored_pixels_and_label_maps_have_their_place() -> None:
    _, manifest = sound_set()
    assert manifest_fault(replace(manifest, ignore_bit=7, ignore_value=255, mask_coding="labels")) is None
    assert manifest_fault(replace(manifest, options={"resize": [128, 800]})) is None


@pytest.mark.parametrize(
    "name", ["shard-000000.tar", "part 1/tars/Stück-1.tar", "прокат/a.TAR", "a..b/c.tar", "x" * 251 + ".tar"]
)
def test_names_of_shards_are_paths_below_their_folder(name: str) -> None:
    assert shard_fault(replace(SHARD, name=name)) is None


@pytest.mark.parametrize(
    "name",
    [
        "", ".tar", "../a.tar", "a/../../b.tar", "/a.tar", "a//b.tar", "./a.tar", "a/.hidden/b.tar", ".a.lock.tar",
        "C:\\a.tar", "C:a.tar", "a\\..\\b.tar", "s3://bucket/a.tar", "a\nb.tar", "a\0.tar", "\udcff.tar", "a.zip",
        "index.arrow", "a.tar/", "..", "x" * 252 + ".tar",
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_or_cannot_be_are_refused(name: str) -> None:
    found = shard_fault(replace(SHARD, name=name))
    assert found is not None and found.endswith("is no name of a shard")


@pytest.mark.parametrize("changes", [{"size": 0}, {"size": 2**63}, {"num_samples": -1}, {"sha256": "AB" * 32}])
def test_numbers_of_a_shard(changes: dict[str, Any]) -> None:
    assert shard_fault(replace(SHARD, **changes)) is not None


def test_a_manifest_in_a_file_is_named_with_its_fault() -> None:
    _, manifest = sound_set()
    text = manifest.to_json().replace('"folds": 2', '"folds": 2.0')
    with pytest.raises(InputError, match=r"^here/manifest\.json: not a manifest of shards \(folds must be a whole"):
        Manifest.from_json(text, "here/manifest.json")


def test_gray_levels_of_folds_count_the_images_of_each() -> None:
    columns, manifest = sound_set()
    manifest = replace(manifest, fold_levels=(LEVELS, LEVELS))
    assert manifest_fault(manifest) is None
    assert all(total.expected == total.found for total in totals(columns, manifest))
    wrong = replace(manifest, fold_levels=(FoldLevels(4, 0.5, 0.1), FoldLevels(0, 0.0, 0.0)))
    assert manifest_fault(wrong) is None  # the index alone tells
    (total,) = [total for total in totals(columns, wrong) if total.expected != total.found]
    assert (total.what, total.expected, total.found) == ("images in each fold", [4, 0], [2, 2])


# --- index ---


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("shard", 0, "its rows are not in the order of shards"),
        ("shard", 2, "its rows are not in the order of shards"),
        ("shard", -1, "its rows are not in the order of shards"),
        ("shard", -(2**31), "its rows are not in the order of shards"),
        ("image_offset", -1, "the image does not lie in its shard"),
        ("image_offset", 6157, "the image does not lie in its shard"),
        ("image_offset", 2**63 - 1, "the image does not lie in its shard"),
        ("mask_length", -1, "the mask does not lie in its shard"),
        ("json_length", 2**31 - 1, "the json does not lie in its shard"),
        ("image_length", 0, "it has no image"),
        ("height", 0, "an image of impossible size"),
        ("width", -5, "an image of impossible size"),
        ("width", 2**31 - 1, "an image of impossible size"),
        ("original_height", 2**29, "an image of impossible original_size"),
        ("areas", (21, 0), "a class has more pixels than the image"),
        ("areas", (0, -1), "a class has more pixels than the image"),
        ("ignored", 1, "more ignored pixels than there can be"),
        ("ignored", -1, "more ignored pixels than there can be"),
        ("mask_length", 0, "pixels of a class, but no mask"),
        ("fold", 2, "a fold outside of 0 to 1"),
        ("fold", -1, "a fold outside of 0 to 1"),
        ("group", 4, "an impossible group"),
        ("group", -1, "an impossible group"),
    ],
)
def test_a_row_that_cannot_be_is_told(column: str, value: Any, fault: str) -> None:
    columns, manifest = sound_set()
    columns[column][3] = value
    found = rows_fault(columns, manifest)
    assert found == (fault if "order" in fault else f"row 3: {fault}")


def test_values_at_their_bounds_are_fine() -> None:
    columns, manifest = sound_set()
    columns["image_offset"][3], columns["image_length"][3] = 512 + 6144 - 500, 500
    columns["areas"][3], columns["ignored"][3] = (20, 20), 20
    assert rows_fault(columns, replace(manifest, ignore_bit=7)) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c["areas"].__setitem__((1, 1), 1), ["images of each class", "clean images"]),
        (lambda c: c["group"].__setitem__(1, 0), ["groups"]),
        (lambda c: c["shard"].__setitem__(1, 1), ["samples in each shard"]),
    ],
)
def test_counts_that_differ_are_told(change: Callable[[Columns], None], what: list[str]) -> None:
    columns, manifest = sound_set()
    change(columns)
    assert rows_fault(columns, manifest) is None
    assert [total.what for total in totals(columns, manifest) if total.expected != total.found] == what


def test_a_million_rows_take_a_fraction_of_a_second() -> None:
    columns, manifest = sound_set(1_000_000, 500, 4)
    begun = time.process_time()
    assert rows_fault(columns, manifest) is None
    assert all(total.expected == total.found for total in totals(columns, manifest))
    assert time.process_time() - begun < 0.5  # 0.09 s on a quiet core
    columns["fold"][999_999] = 7
    assert rows_fault(columns, manifest) == "row 999999: a fold outside of 0 to 1"

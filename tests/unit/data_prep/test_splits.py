"""Folds: balanced, without leaks through groups, reproducible; the published split; split files."""

import csv
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.plan import shuffled
from data_prep.splits import read_groups_file, read_split_file, severstal_classic, straddling_groups
from steel.errors import InputError
from steel.folds import assign_folds, put_large_last
from steel.images.listing import ImageRecord
from steel.validation_errors import ValidationErrors

REAL_DATA = os.environ.get("STEEL_REAL_DATA")


def names(number: int) -> list[str]:
    return [f"{k:06x}.jpg" for k in range(number)]


def one_hot(labels: list[int], num_classes: int) -> np.ndarray:
    """0 is clean, k is class k."""
    return np.array(labels)[:, None] == np.arange(1, num_classes + 1)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=200), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_single_images_of_one_class_are_dealt_evenly(labels, num_folds, seed):
    folds = assign_folds(names(len(labels)), np.arange(len(labels)), one_hot(labels, 3), num_folds, seed)
    assert folds.dtype == np.int16
    assert np.ptp(np.bincount(folds, minlength=num_folds)) <= 1
    for label in range(4):
        counts = np.bincount(folds[np.array(labels) == label], minlength=num_folds)
        assert np.ptp(counts) <= (2 if label == 0 else 1)


def test_rare_classes_come_first():
    """Ten images hold the rare class and a common one: both must be spread."""
    classes = np.zeros((1000, 2), bool)
    classes[:10] = True
    classes[10:500, 1] = True
    folds = assign_folds(names(1000), np.arange(1000), classes, 5, 0)
    assert np.bincount(folds[:10]).tolist() == [2] * 5
    assert np.bincount(folds[:500]).tolist() == [100] * 5
    assert np.bincount(folds).tolist() == [200] * 5


@st.composite
def grouped_images(draw):
    number = draw(st.integers(20, 120))
    groups = draw(st.lists(st.integers(0, number // 3), min_size=number, max_size=number))
    classes = draw(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=number, max_size=number))
    return np.array(groups), np.array(classes)


@given(grouped_images(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_groups_stay_together_and_order_does_not_matter(case, random):
    groups, classes = case
    if len(np.unique(groups)) < 3:
        return
    ids = names(len(groups))
    folds = assign_folds(ids, groups, classes, 3, 7)
    assert straddling_groups(groups, folds).size == 0
    shuffle = list(range(len(ids)))
    random.shuffle(shuffle)
    renumbered = (groups.max() - groups) * 17  # the same groups under other numbers
    again = assign_folds([ids[k] for k in shuffle], renumbered[shuffle], classes[shuffle], 3, 7)
    assert np.array_equal(again, folds[shuffle])


def test_large_groups_do_not_unbalance_the_folds():
    groups = np.repeat(np.arange(60), np.tile([1, 2, 4, 13], 15))
    classes = one_hot((groups % 3).tolist(), 2)
    folds = assign_folds(names(len(groups)), groups, classes, 5, 1)
    sizes = np.bincount(folds)
    assert np.ptp(sizes) <= 0.1 * sizes.mean()
    for k in range(2):
        positives = np.bincount(folds[classes[:, k]], minlength=5)
        assert np.ptp(positives) <= 0.2 * positives.mean()


def test_groups_larger_than_an_even_fold_train():
    """And of the folds that fit the larger ones judge; an even one has 43 of 216 images here."""
    groups = np.repeat(np.arange(5), [94, 88, 16, 9, 9])
    folds = put_large_last(assign_folds(names(216), groups, one_hot([1] * 216, 1), 5, 0), groups)
    assert folds.dtype == np.int16
    assert np.bincount(folds).tolist() == [16, 9, 9, 88, 94]
    assert straddling_groups(groups, folds).size == 0
    even = np.repeat(np.arange(5), [43, 43, 44, 43, 43])  # 44 of 216 in five folds are just too many
    folds = np.repeat(np.arange(5, dtype=np.int16), [43, 43, 44, 43, 43])
    assert np.bincount(put_large_last(folds, even)).tolist() == [43, 43, 43, 43, 44]


@given(st.lists(st.integers(0, 3), min_size=30, max_size=90), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_folds_of_groups_that_fit_keep_their_numbers(labels, num_folds):
    groups = np.arange(len(labels)) // 2
    folds = assign_folds(names(len(labels)), groups, one_hot(labels, 3), num_folds, 0)
    assert put_large_last(folds, groups) is folds


@pytest.mark.parametrize("seed", [-1, 0, 2**63 - 1])
def test_images_are_shuffled_by_any_seed_that_a_set_was_ever_made_with(seed):
    records = [ImageRecord(name, name) for name in names(40)]
    assert shuffled(records, seed) == shuffled(records[::-1], seed) != records


def test_the_seed_decides():
    classes = one_hot([k % 4 for k in range(200)], 3)
    first, again, other = (assign_folds(names(200), np.arange(200), classes, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert 0.6 < np.mean(first != other) < 0.95


@pytest.mark.parametrize(
    ("groups", "num_folds", "message"),
    [
        ([0, 1, 2], 0, "0 folds: give 1 to"),
        ([0, 0, 1], 3, "3 images in 2 groups cannot fill 3 folds"),
        ([0, 0], 2, "2 images in 1 group cannot fill 2 folds"),
        ([], 2, "0 images"),
    ],
)
def test_impossible_folds(groups, num_folds, message):
    with pytest.raises(InputError, match=message):
        assign_folds(names(len(groups)), np.array(groups, int), np.zeros((len(groups), 2), bool), num_folds, 0)


def test_straddling_groups():
    assert straddling_groups(np.array([5, 5, 2, 2, 9]), np.array([0, 1, 1, 1, 0])).tolist() == [5]


def test_split_file(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("image,fold\nb.jpg,0\nsub/a.jpg, 3\nc.jpg,1\n")
    folds = read_split_file(str(path), ["c.jpg", "sub/a.jpg", "b.jpg"])
    assert folds.tolist() == [1, 3, 0]
    assert folds.dtype == np.int16


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_in_tables_are_the_same_however_they_are_written(tmp_path, forms):
    """Spreadsheets write an umlaut as one character, macOS as two in the names of files."""
    there, named = (unicodedata.normalize(one, "Prüf/Öl.png") for one in forms)
    path = tmp_path / "table.csv"
    path.write_text(f"image,fold\n{named},1\nb.png,0\n", "utf-8")
    assert read_split_file(str(path), ["b.png", there]).tolist() == [0, 1]
    path.write_text(f"image,group\n{named},x\nb.png,x\n", "utf-8")
    assert read_groups_file(str(path), ["b.png", there, "c.png"]).tolist() == [0, 0, 1]
    assert read_groups_file(str(path), ["b.png", there, named]).tolist() == [0, 1, 0]  # the one that is called so


def test_all_problems_of_a_split_file_are_told_at_once(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("image,fold\na.jpg,0\na.jpg,1\nb.jpg,-1\nc.jpg,train\nx.jpg,1\nd.jpg,1,2\n")
    with pytest.raises(ValidationErrors) as error:
        read_split_file(str(path), ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"])
    assert error.value.issues == (
        ("malformed rows", "line 7 (d.jpg,1,2)"),
        ("duplicate rows", "a.jpg (line 3)"),
        ("rows without a fold number", "line 4 (b.jpg,-1)"),
        ("rows without a fold number", "line 5 (c.jpg,train)"),
        ("ids without an image", "x.jpg"),
        ("images without a fold", "d.jpg"),
        ("images without a fold", "e.jpg"),
        ("images without a fold", "f.jpg"),
    )


def test_a_split_file_that_is_none(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("name;fold\n")
    with pytest.raises(
        InputError, match=r"header is `name;fold`, with semicolons .* commas are wanted, expected `image,fold`"
    ):
        read_split_file(str(path), ["a.jpg"])
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_split_file(str(tmp_path / "none.csv"), ["a.jpg"])


def test_images_of_one_group_share_its_number_and_others_are_alone(tmp_path):
    path = tmp_path / "coils.csv"
    path.write_text("image,group\nb.jpg,0815\nsub/a.jpg,e.jpg\nc.jpg, 0815\n")
    # e.jpg is not named: it is not of the group that is called like it.
    groups = read_groups_file(str(path), ["c.jpg", "d.jpg", "sub/a.jpg", "b.jpg", "e.jpg"])
    assert groups.tolist() == [0, 1, 2, 0, 3]


def test_a_file_with_groups_that_names_nothing_is_refused(tmp_path):
    (tmp_path / "coils.csv").write_text("image,group\n")
    with pytest.raises(InputError, match=r"coils\.csv: names no image"):
        read_groups_file(str(tmp_path / "coils.csv"), ["a.jpg"])


def test_all_problems_of_a_file_with_groups_are_told_at_once(tmp_path):
    path = tmp_path / "coils.csv"
    path.write_text("image,group\na.jpg,1\na.jpg,2\nb.jpg,\nx.jpg,1\nc.jpg,1,2\n")
    with pytest.raises(ValidationErrors) as error:
        read_groups_file(str(path), ["a.jpg", "b.jpg", "c.jpg"])
    assert error.value.issues == (
        ("malformed rows", "line 6 (c.jpg,1,2)"),
        ("duplicate rows", "a.jpg (line 3)"),
        ("rows without a group", "line 4 (b.jpg,)"),
        ("ids without an image", "x.jpg"),
    )


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
def test_the_published_split_of_severstal():
    with open(Path(str(REAL_DATA)) / "severstal_annotations" / "image_classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = np.array([[str(k) in row["classes"].split() for k in (1, 2, 3, 4)] for row in rows])
    ids = [row["ImageId"] for row in rows]
    folds = severstal_classic(ids, classes)
    assert np.bincount(folds).tolist() == [2263, 1257, 9048]
    train = classes[folds == 2]
    assert train.sum(axis=0).tolist() == [645, 178, 3712, 576]
    assert np.bincount(train.sum(axis=1)).tolist() == [4249, 4487, 312]
    shuffle = np.random.default_rng(0).permutation(len(ids))
    assert np.array_equal(severstal_classic([ids[k] for k in shuffle], classes[shuffle]), folds[shuffle])


def test_the_published_split_is_for_four_classes_and_enough_images():
    with pytest.raises(InputError, match="for 4 classes, not 3"):
        severstal_classic(names(100), np.zeros((100, 3), bool))
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match="too few images"):
        severstal_classic(names(20), one_hot([k % 5 for k in range(20)], 4))


def test_one_fold_holds_all():
    folds = assign_folds(names(5), np.array([0, 0, 1, 2, 3]), one_hot([0, 1, 2, 0, 0], 3), 1, 0)
    np.testing.assert_array_equal(folds, 0)

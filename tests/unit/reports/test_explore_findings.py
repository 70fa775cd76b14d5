"""What the page about a data set finds conspicuous, by data that is so on purpose."""

from pathlib import Path

import numpy as np

from steel.reports.explore import explore
from steel.reports.explore_data import data_of_shards
from tests.explored_page import PageText, titles
from tests.shard_folder import make_shards


def test_what_is_conspicuous_comes_first(tmp_path: Path) -> None:
    """40 images, of which two copies differ in their class, one mask has a pixel, one is odd in size, one in light."""
    rng = np.random.default_rng(0)
    images = [rng.integers(95, 106, (40, 80)).astype(np.uint8) for _ in range(40)]
    masks = [np.zeros((40, 80), np.uint8) for _ in images]
    for n in range(1, 25):
        masks[n][4:20, 4:24] = 1
    masks[25][10:20, 10:20] = 2
    masks[26][3, 3] = 1
    masks[27][0:10, 0:10] = 1
    masks[27][30, 60] = 1  # a speck
    images[28], masks[28] = np.full((30, 50), 100, np.uint8), np.zeros((30, 50), np.uint8)
    images[29][:] = 240
    images[30][:] = 0
    groups = list(range(40))
    groups[2] = groups[31]  # of class 1, and clean
    groups[3] = groups[4]  # both of class 1
    dense = np.unique(groups, return_inverse=True)[1].tolist()
    shards = make_shards(tmp_path / "s", images, masks, num_classes=3, folds=4, groups=dense)
    figures = explore(data_of_shards(shards), tmp_path / "out")
    found = titles(figures)
    assert list(found)[:3] == [
        "1 group of duplicates labelled differently",
        "2 groups of duplicates in several folds",
        "no image has class 3",
    ]
    names = {title: [name.removeprefix("images/").removesuffix(".png") for name in found[title]] for title in found}
    assert names["1 group of duplicates labelled differently"] == ["0002", "0031"]
    assert names["class 2 is too rare to measure: 1 image"] == ["0025"]
    assert names["1 mask of at most 10 pixels, 1 of a single one"] == ["0026"]
    assert names["1 image with specks of 1 or 2 pixels beside larger regions"] == ["0027"]
    assert names["1 image of another size than 40x80"] == ["0028"]
    assert names["1 image almost wholly black"] == ["0030"]
    assert names["1 image of odd brightness"] == ["0029"]
    text = PageText.of((tmp_path / "out/index.html").read_text())
    assert text.index("labelled differently") < text.index("Images of each class")


def test_groups_larger_than_a_fold_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(95, 106, (40, 80)).astype(np.uint8) for _ in range(20)]
    masks = [np.zeros((40, 80), np.uint8) for _ in images]
    groups = [0] * 6 + [1] * 2 + list(range(2, 14))
    shards = make_shards(tmp_path / "s", images, masks, num_classes=1, folds=4, groups=groups)
    found = titles(explore(data_of_shards(shards), tmp_path / "out"))
    assert "8 of 20 images lie in 2 groups of duplicates" in found
    assert "6 of 20 images belong together, more than an even fold has" in found
    shards = make_shards(tmp_path / "even", images, masks, num_classes=1, folds=2, groups=groups)
    assert not any("belong together" in title for title in titles(explore(data_of_shards(shards), tmp_path / "of-two")))


def test_nothing_is_made_of_sound_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(90, 110, (20, 40)).astype(np.uint8) for _ in range(80)]
    masks = [np.zeros((20, 40), np.uint8) for _ in images]
    for n in range(0, 80, 2):
        masks[n][4:10, 4:24] = 1
    figures = explore(
        data_of_shards(make_shards(tmp_path / "s", images, masks, num_classes=1, folds=5)), tmp_path / "out"
    )
    assert figures["findings"] == []
    assert "Nothing conspicuous was found." in (tmp_path / "out/index.html").read_text()


def test_a_fold_that_differs_is_named(tmp_path: Path) -> None:
    """Fold 0 is all class 1, of which the others have none."""
    masks = [np.zeros((20, 40), np.uint8) for _ in range(120)]
    for n in range(0, 120, 4):
        masks[n][4:10, 4:24] = 1
    images = [np.full((20, 40), 90, np.uint8)] * 120
    found = titles(
        explore(data_of_shards(make_shards(tmp_path / "s", images, masks, num_classes=1, folds=4)), tmp_path / "out")
    )
    assert "fold 0 differs: 100.0 % class 1, 25.0 % of all" in found
    assert "fold 0 has no clean image" in found
    assert [title for title in found if title.endswith("no class 1 image")] == [
        f"fold {k} has no class 1 image" for k in (1, 2, 3)
    ]

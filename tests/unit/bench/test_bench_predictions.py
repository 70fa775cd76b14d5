"""The sides of `bench.predictions` run: on few and small images, as nothing is timed here."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench import predictions
from tests.shard_folder import defect_mask, make_shards, steel_image

SIZES = [(40, 64), (33, 50), (64, 96), (40, 64)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of three sizes under the name of one of the bench's sets."""
    folder = tmp_path_factory.mktemp("predictions") / "even"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        image = rng.integers(0, 256, (height, width), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    return folder


@pytest.mark.parametrize("usual", [False, True])
def test_both_ways_predict_all_images(usual: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "draw_sizes", lambda name: SIZES)
    assert predictions.predict(str(folder), "tu-test_resnet", usual).items == len(SIZES)


@pytest.mark.parametrize("plain", [None, "nchw", "channels_last"])
def test_all_ways_from_files_predict_all_images(plain: str | None, tmp_path: Path) -> None:
    strips = tmp_path / "strips"
    strips.mkdir()
    for number in range(2):
        cv2.imwrite(str(strips / f"{number}.jpg"), np.full((64, 96), 90, np.uint8))
    assert predictions.files(str(strips), "tu-test_resnet", plain).items == 2


@pytest.mark.parametrize(("usual", "workers"), [(False, None), (True, 2), (True, 0)])
def test_all_ways_validate_all_images(usual: bool, workers: int | None, tmp_path: Path) -> None:
    masks = [defect_mask(number, num_classes=4) for number in range(3)]
    make_shards(tmp_path / "shards", [steel_image(number) for number in range(3)], masks, num_classes=4)
    assert predictions.validate(str(tmp_path), "tu-test_resnet", usual, workers).items == 3

"""What a network sees of an image is the same, pixel for pixel, from a shard and from the file that was sharded."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_prep.__main__ import main
from steel.config import NetworkConfig
from steel.images.decode import decode_image
from steel.inference.predictor import ImageProbs, Predictor
from steel.loading.eval_loader import eval_batches
from steel.model.network import UnifiedModel
from steel.shards.reader import ShardReader

SIZES = ((61, 97), (40, 64), (128, 33), (62, 98))
DEPTHS = (["--depth", "percentile", 1, 99], ["--depth", "window", 50, 4000], ["--depth", "high-byte"])


class Recording(Predictor):
    """Keeps what its network is shown, and answers nothing."""

    def stream_probabilities(self, batches: Iterable[torch.Tensor], cleared: object = None) -> Iterator[ImageProbs]:
        for images in batches:
            self.shown = images.numpy().copy()
            num, _, height, width = images.shape
            masks, labels = np.zeros((num, 2, height, width), np.uint8), np.zeros((num, 3), np.uint8)
            yield ImageProbs(masks, labels, np.ones(num, bool))


@pytest.fixture(scope="module")
def models() -> dict[int, UnifiedModel]:
    """A network for gray images and one for colour."""
    options = {"num_classes": 2, "decoder_channels": (8, 8)}
    networks = {
        channels: NetworkConfig("Unet", "tu-test_resnet", in_channels=channels, **options) for channels in (1, 3)
    }
    return {channels: UnifiedModel(network).eval() for channels, network in networks.items()}


def write_images(folder: Path, kind: str) -> list[str]:
    """Images of several sizes and formats: gray, colour, both among each other, or of 16 bits."""
    rng = np.random.default_rng(5)
    names = []
    (folder / "images").mkdir()
    for number, (height, width) in enumerate(SIZES):
        gray = cv2.GaussianBlur(rng.integers(0, 256, (height, width), np.uint8), (5, 5), 1.2)
        colour = np.dstack([gray, np.roll(gray, 7), np.roll(gray, 19)])
        pixels = {
            "gray": gray,
            "colour": colour,
            "mixed": colour if number % 2 else gray,
            "deep": (gray.astype(np.uint16) << 4) + 7,
        }
        names.append(f"{number}.{'png' if kind == 'deep' or number == 3 else 'jpg'}")
        assert cv2.imwrite(str(folder / "images" / names[-1]), pixels[kind])
    (folder / "train.csv").write_text(f"ImageId,ClassId,EncodedPixels\n{names[0]},1,1 30\n{names[1]},2,5 7\n")
    return names


def seen_in_evaluation(reader: ShardReader, stride: int) -> Iterator[tuple[str, np.ndarray]]:
    for batch in eval_batches(reader, np.arange(len(reader)), pixels_per_pass=1, stride=stride):
        height, width = batch.sizes[0].tolist()
        yield reader.index.image_id(int(batch.rows[0])), batch.images[0, :, :height, :width].numpy().copy()


@pytest.mark.parametrize("kind", ["gray", "colour", "mixed", "deep"])
@pytest.mark.parametrize("resize", [None, (20, 31), (24, 40), (150, 200), (100, 30)])
def test_evaluation_and_prediction_see_the_same(
    models: dict[int, UnifiedModel], tmp_path: Path, kind: str, resize: tuple[int, int] | None
) -> None:
    names = write_images(tmp_path, kind)
    line = ["--images", tmp_path / "images", "--labels", tmp_path / "train.csv", "--out", tmp_path / "out"]
    line += [
        "--folds",
        1,
        "--executor",
        "thread",
        "--workers",
        1,
        "--no-group-duplicates",
        *(DEPTHS[len(resize or ()) and resize[0] % 3] if kind == "deep" else []),
    ]
    line += ["--resize", "{}x{}".format(*resize)] if resize else []
    assert main([str(part) for part in line]) == 0
    reader = ShardReader(tmp_path / "out")
    channels = reader.manifest.channels
    assert channels == (1 if kind in ("gray", "deep") else 3)

    manifest, model = reader.manifest, models[channels]
    predictor = Recording(
        [model],
        mean=manifest.mean,
        std=manifest.std,
        input_size=manifest.input_size,
        depth=manifest.depth,
        pixels_per_pass=1,
        device="cpu",
    )
    evaluated = dict(seen_in_evaluation(reader, predictor.stride))
    assert sorted(evaluated) == names
    for name in names:
        predictor.predict([decode_image((tmp_path / "images" / name).read_bytes(), channels, predictor.depth)])
        _, height, width = evaluated[name].shape
        assert (height, width) == (resize or SIZES[names.index(name)])
        assert np.array_equal(evaluated[name], predictor.shown[0, :, :height, :width]), name

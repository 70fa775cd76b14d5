"""Large images stored in tiles: the images, masks, folds and counts of a set stored whole, and one sample a tile."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset as wds

from data_prep.__main__ import main
from data_prep.index import main as index_main
from data_prep.options import Options
from data_prep.plan import make_plan
from data_prep.verify import main as verify_main
from steel.config import SamplingConfig
from steel.images.decode import decode_image
from steel.loading.augment import Augmenter
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import train_batches
from steel.shards.format import Manifest
from steel.shards.reader import BadSampleError, ShardReader
from steel.shards.tiles import TileGrid
from tests.image_folder import tree_digest
from tests.integration.test_data_prep_resume import run_killed_at
from tests.integration.test_submission_score import encode
from train.engine.batch_plan import MicroBatchRange
from train.fitting import read_facts

SIZES = [(40, 64), (90, 260), (200, 61), (64, 64), (100, 65), (70, 70), (64, 190)]
NAMES = [f"coil.{n % 2}/{n}.{'jpg' if n % 3 else 'png'}" for n in range(len(SIZES))]
TILE = ("--tile", "64x64", "--tile-overlap", "20")


def picture(number: int, *channels: int) -> np.ndarray:
    noise = np.random.default_rng(number).integers(0, 256, (*SIZES[number], *channels), np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 1.5)


def masks_of(number: int) -> np.ndarray:
    """(2, H, W) bool; every third image is clean."""
    generator = np.random.default_rng(100 + number)
    height, width = SIZES[number]
    masks = np.zeros((2, height, width), bool)
    if number % 3:
        for mask in masks[: 1 + number % 2]:
            mask[:] = cv2.GaussianBlur(generator.random((height, width)), (15, 15), 4.0) > 0.51
    return masks


def write_input(folder: Path, *channels: int) -> Path:
    rows = ["ImageId,ClassId,EncodedPixels"]
    for number, name in enumerate(NAMES):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / name), picture(number, *channels))
        rows += [f"{name},{k + 1},{encode(mask)}" for k, mask in enumerate(masks_of(number)) if mask.any()]
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


def line(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--images", folder / "images", "--labels", folder / "train.csv", "--out", out]
    return [*map(str, given), "--folds", "3", "--shard-size", "3", "--workers", "1", *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_input(tmp_path_factory.mktemp("input"))
    for name, how in (("whole", ()), ("tiled", TILE)):
        assert main(line(folder, folder / name, *how)) == 0
    return folder


def number_of(reader: ShardReader, row: int) -> int:
    return NAMES.index(reader.index.image_id(row))


def test_images_masks_folds_and_counts_are_those_of_a_set_stored_whole(folder: Path) -> None:
    whole, tiled = ShardReader(folder / "whole"), ShardReader(folder / "tiled")
    for name in ("shard", "height", "width", "original_height", "original_width", "areas", "ignored", "fold", "group"):
        assert np.array_equal(getattr(whole.index, name), getattr(tiled.index, name)), name
    for row in range(len(SIZES)):
        image_id, number = tiled.index.image_id(row), number_of(tiled, row)
        assert image_id == whole.index.image_id(row)
        sample = tiled.read(row)
        pixels = decode_image((folder / "images" / image_id).read_bytes(), 1)
        assert np.array_equal(sample.image, pixels), "lossless, a JPEG's pixels, too"
        assert np.array_equal(sample.bitmask, masks_of(number)[0] + 2 * masks_of(number)[1])
        assert tiled.index.areas[row].tolist() == masks_of(number).sum((1, 2)).tolist()
        assert tiled.read(row, original_mask=True).row == row
    ours, theirs = tiled.manifest, whole.manifest
    for name in ("num_positive", "num_clean", "mean", "std", "channels", "folds", "num_groups", "fold_levels"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.tile, ours.num_images, theirs.tile, theirs.num_images) == (TileGrid(64, 64, 20), 7, None, None)
    assert "tile" not in json.loads((folder / "whole" / "manifest.json").read_text())


def test_a_recipe_knows_tiles_from_the_images_that_they_are_of(folder: Path) -> None:
    whole, tiled = (read_facts(ShardReader(folder / name)) for name in ("whole", "tiled"))
    assert (whole.largest, whole.whole, whole.images) == ((200, 260), None, 7)
    assert (tiled.largest, tiled.whole, tiled.images) == ((64, 64), (200, 260), 31)
    present = np.asarray(ShardReader(folder / "tiled").samples.areas) > 0  # of tiles, as training draws them
    assert (tiled.clean, tiled.images_per_class) == ((~present.any(1)).sum(), tuple(present.sum(0)))
    assert tiled.clean > whole.clean
    assert tiled.levels is not None and tiled.levels == whole.levels


def test_samples_are_tiles_and_small_images_are_the_files_that_went_in(folder: Path) -> None:
    reader = ShardReader(folder / "tiled")
    samples = reader.samples
    # of 64 pixels, sharing 20: 90 has 2, 260 has 6, 200 has 5, 61 has 1, 100 has 2, 65 has 2, 70 has 2, 190 has 4
    counts = {0: 1, 1: 12, 2: 5, 3: 1, 4: 4, 5: 4, 6: 4}
    assert len(samples) == reader.manifest.num_samples == sum(counts.values())
    for row in range(len(SIZES)):
        number, tiles = number_of(reader, row), reader.index.tiles(row)
        assert len(tiles) == counts[number]
        assert reader.index.samples(np.array([row])).tolist() == list(tiles)
        image, masks = reader.read(row).image, masks_of(number)
        for sample in tiles:
            top, left = int(samples.columns["top"][sample]), int(samples.columns["left"][sample])
            inside = np.s_[top : top + 64, left : left + 64]
            read = reader.read_sample(sample)
            assert np.array_equal(read.image, image[inside])
            assert samples.areas[sample].tolist() == masks[:, *inside].sum((1, 2)).tolist()
            assert samples.fold[sample] == reader.index.fold[row]
            assert samples.image_id(sample) == reader.index.image_id(row)
        if len(tiles) == 1:
            assert reader.read_bytes(tiles[0]).image == (folder / "images" / NAMES[number]).read_bytes()


def test_webdataset_reads_tiles_as_samples(folder: Path) -> None:
    urls = [str(path) for path in sorted((folder / "tiled").glob("*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("l8"))
    assert len(samples) == 31
    for sample in samples:
        said = sample["json"]
        masks = masks_of(NAMES.index(said["image_id"]))
        inside = np.s_[:, said["top"] : said["top"] + said["height"], said["left"] : said["left"] + said["width"]]
        assert np.array_equal(sample["mask.png"] & 1, masks[inside][0])
        assert sample.get("png", sample.get("jpg")).shape == (said["height"], said["width"])
        assert (said["image_height"], said["image_width"]) == masks.shape[1:]


def test_the_bytes_do_not_depend_on_workers_or_parts(folder: Path, tmp_path: Path) -> None:
    expected = tree_digest(folder / "tiled")
    for kind in ("thread", "process"):
        assert main(line(folder, tmp_path / kind, *TILE, "--workers", "2", "--executor", kind)) == 0
        assert tree_digest(tmp_path / kind) == expected
    for part in ("2/3", "1/3", "3/3"):
        assert main(line(folder, tmp_path / "parts", *TILE, "--part", part)) == 0
    assert main(line(folder, tmp_path / "parts", *TILE, "--join", "3")) == 0
    assert tree_digest(tmp_path / "parts") == expected
    assert main(line(folder, tmp_path / "parts", *TILE)) == 0  # finished, nothing to do


def test_killed_and_started_again(folder: Path, tmp_path: Path) -> None:
    for step in (6, 9, 14, 17, 21):
        out = tmp_path / str(step)
        assert run_killed_at(line(folder, out, *TILE), step)
        assert main(line(folder, out, *TILE)) == 0
        assert tree_digest(out) == tree_digest(folder / "tiled"), step


def test_colour_and_16_bits(tmp_path: Path) -> None:
    write_input(tmp_path, 3)
    deep = np.random.default_rng(5).integers(0, 4096, (90, 150, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "images" / "deep.png"), deep)
    depth = ("--depth", "window", "0", "4095")
    for name, how in (("whole", ()), ("tiled", ("--tile", "64x96"))):
        assert main(line(tmp_path, tmp_path / name, *depth, *how)) == 0
    whole, tiled = ShardReader(tmp_path / "whole"), ShardReader(tmp_path / "tiled")
    assert (tiled.manifest.mean, tiled.manifest.std) == (whole.manifest.mean, whole.manifest.std)
    assert tiled.manifest.tile == TileGrid(64, 96, 16)  # a quarter of the shorter side
    for row in range(len(whole)):
        assert np.array_equal(whole.read(row).image, tiled.read(row).image)
    row = [whole.index.image_id(n) for n in range(len(whole))].index("deep.png")
    assert np.array_equal(tiled.read(row).image, np.rint(deep[..., ::-1] / 4095 * 255))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--tile", "64x64", "--resize", "32x32"), "--tile and --resize: give one of them"),
        (("--tile", "31x64"), "--tile 31x64: give at least 32x32"),
        (("--tile", "64x1000001"), "--tile 64x1000001: give 1,000,000 pixels a side at most"),
        (("--tile", "64x64", "--tile-overlap", "33"), "--tile-overlap 33: give 0 to 32 pixels"),
        (("--tile", "64x64", "--tile-overlap", "-1"), "--tile-overlap -1: give 0 to 32"),
        (("--tile-overlap", "8"), "--tile-overlap 8: give --tile HxW, too"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], words: str
) -> None:
    assert main(line(folder, tmp_path / "out", *given)) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and words in said
    assert not (tmp_path / "out").exists()


def test_a_finished_set_of_other_tiles_is_not_taken_for_this_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, how, differing in (
        ("tiled", (), "tile 64 64 20, not none"),
        ("whole", TILE, "tile none, not 64 64 20"),
        ("tiled", ("--tile", "64x64"), "tile 64 64 20, not 64 64 16"),
    ):
        assert main(line(folder, folder / out, *how)) == 2
        assert (
            f"already holds shards made with other options: {differing}; choose another --out"
            in capsys.readouterr().err
        )


def rewrite(root: Path, change: Any) -> None:
    """Change a tile's files in the first shard, then all that vouches for their bytes."""
    from tests.fuzz_shards import mend_sums

    path = root / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    change(data, ShardReader(root))
    path.write_bytes(bytes(data))
    mend_sums(root)


def test_verify_sees_that_tiles_do_not_fit_together(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_main([str(folder / "tiled"), "--workers", "1"]) == 0
    for path in (folder / "tiled").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["shards"]) == 3

    def swap(data: bytearray, reader: ShardReader) -> None:
        """Put an image's second tile in the place of its first: as many bytes, other pixels."""
        place = reader.samples.place
        first = next(t for row in range(3) if len(t := reader.index.tiles(row)) > 3)[0]
        for a in range(first, first + 3):
            one, two = place(a), place(a + 1)
            if one.image_length <= two.image_length:
                continue
            png = bytes(data[two.image_offset : two.image_offset + two.image_length])
            data[one.image_offset : one.image_offset + one.image_length] = png.ljust(one.image_length, b"\0")
            return
        raise AssertionError

    rewrite(tmp_path, swap)
    capsys.readouterr()
    assert verify_main([str(tmp_path), "--workers", "1"]) == 1
    assert "it differs from its neighbours where they overlap" in capsys.readouterr().out


def test_a_damaged_tile_is_a_damaged_image(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "tiled").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    reader = ShardReader(tmp_path)
    row = next(row for row in range(len(SIZES)) if len(reader.index.tiles(row)) > 1)
    last = reader.index.tiles(row)[-1]
    at = reader.samples.place(last)
    path = tmp_path / reader.manifest.shards[at.shard].name
    data = bytearray(path.read_bytes())
    data[at.image_offset + 50] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadSampleError, match=r"wrong checksum") as caught:
        ShardReader(tmp_path).read(row)
    assert caught.value.row == last


def test_tars_of_tiles_are_not_indexed_as_images_of_their_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "tiled").glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert index_main([str(tmp_path), "--class-names", "a,b", "--mask-coding", "bitmask", "--workers", "1"]) == 2
    assert "a tile of a larger image" in capsys.readouterr().err
    assert not (tmp_path / "manifest.json").exists()


def test_training_draws_tiles_as_images(folder: Path) -> None:
    reader = ShardReader(folder / "tiled")
    images = reader.index.rows([0])
    rows = reader.index.samples(images)
    assert len(rows) > len(images)
    sampling = SamplingConfig(defect_crop=0)
    sampler = build_sampler(rows, reader.samples.areas, sampling, seed=1, phase=0, shards=reader.samples.shard)
    assert sampler.epoch_length == len(rows)
    augmenter = Augmenter({}, (64, 64), sampling, 2, None)
    epoch = [MicroBatchRange(0, 0, range(len(rows)))]
    (batch,) = train_batches(reader, sampler, augmenter, epoch, seed=1, phase=0, workers=0)
    assert sorted(batch.rows.tolist()) == rows.tolist()
    pictures = {row: reader.read(row).image for row in images.tolist()}
    for row, picture, target in zip(
        batch.rows.tolist(), batch.images[:, 0].numpy(), batch.targets.numpy(), strict=True
    ):
        image = next(image for image in pictures if row in reader.index.tiles(image))
        top, left = (int(reader.samples.columns[name][row]) for name in ("top", "left"))
        inside = np.s_[top : top + 64, left : left + 64]
        masks = masks_of(number_of(reader, image))[:, *inside]
        if masks.shape == (2, 64, 64):
            assert np.array_equal(picture, pictures[image][inside])
            assert np.array_equal(target, masks[0] + 2 * masks[1])


def test_the_room_that_tiles_take_is_reckoned_with(folder: Path) -> None:
    """With an overlap of half a tile, four times as many pixels; as PNG twice what a JPEG takes."""
    options = Options(str(folder / "images"), "out", str(folder / "train.csv"), tile=TileGrid(64, 64, 32))
    sizes = {name: (folder / "images" / name).stat().st_size for name in NAMES}
    expected = sum(4 * size * (2 if name.endswith("jpg") else 1) + 8192 for name, size in sizes.items())
    assert sum(shard.num_bytes for shard in make_plan(options).shards) == expected


def test_the_manifest_comes_back(folder: Path) -> None:
    manifest = Manifest.load(str(folder / "tiled"))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.held() == "7 images in 31 tiles"

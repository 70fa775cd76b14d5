"""From a folder of images to shards that our reader and webdataset read, of images and masks of every kind."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from data_prep.__main__ import main
from data_prep.verify import main as verify_main
from steel.images.bitmask import unpack_masks
from steel.images.decode import decode_labels
from steel.images.pixel_format import Depth
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.image_folder import (
    HEIGHT,
    NUM_IMAGES,
    WIDTH,
    arguments,
    image_name,
    last_line,
    masks_of,
    texture,
    tree_digest,
)
from tests.paths import ROOT

NUMBERS = {image_name(number): number for number in range(NUM_IMAGES)}


def test_samples_are_the_files_and_masks_that_went_in(folder: Path, shards: Path) -> None:
    reader = ShardReader(shards)
    assert sorted(reader.index.image_id(row) for row in range(len(reader))) == sorted(NUMBERS)
    for row in range(len(reader)):
        image_id = reader.index.image_id(row)
        masks = masks_of(NUMBERS[image_id])
        raw, sample = reader.read_bytes(row), reader.read(row)
        assert raw.image == (folder / "images" / image_id).read_bytes()
        assert np.array_equal(unpack_masks(decode_labels(raw.mask), 4), masks)
        assert np.array_equal(unpack_masks(sample.bitmask, 4), masks)
        assert json.loads(raw.meta) == {
            "image_id": image_id,
            "height": HEIGHT,
            "width": WIDTH,
            "original_height": HEIGHT,
            "original_width": WIDTH,
            "classes": [k + 1 for k in range(4) if masks[k].any()],
            "areas": masks.sum((1, 2)).tolist(),
        }
        assert reader.index.areas[row].tolist() == masks.sum((1, 2)).tolist()


def test_the_manifest_counts_what_is_there(folder: Path, shards: Path) -> None:
    manifest = Manifest.load(str(shards))
    positive = np.stack([masks_of(number).any((1, 2)) for number in range(NUM_IMAGES)])
    pixels = np.stack([cv2.imread(str(folder / "images" / name), cv2.IMREAD_GRAYSCALE) for name in NUMBERS]) / 255
    assert manifest.class_names == ("class 1", "class 2", "class 3", "class 4")
    assert (manifest.num_samples, manifest.channels, manifest.folds) == (NUM_IMAGES, 1, 3)
    assert manifest.num_positive == tuple(positive.sum(0))
    assert manifest.num_clean == (~positive.any(1)).sum()
    assert manifest.mean == pytest.approx((pixels.mean(),), rel=1e-12)
    assert manifest.std == pytest.approx((pixels.std(),), rel=1e-9)
    assert [shard.name for shard in manifest.shards] == [f"shard-{n:06d}.tar" for n in range(4)]
    assert [shard.num_samples for shard in manifest.shards] == [5, 5, 5, 2]
    names = {"manifest.json", "index.arrow", "duplicates.json", *(shard.name for shard in manifest.shards)}
    assert set(os.listdir(shards)) == names


def image_levels(folder: Path, names: Iterable[str]) -> np.ndarray:
    """Mean gray level of image files over their pixels and channels, in 0..1."""
    return np.array([cv2.imread(str(folder / "images" / name)).mean() / 255 for name in names])


def test_the_manifest_says_how_bright_each_fold_is(folder: Path, shards: Path) -> None:
    reader = ShardReader(shards)
    found = reader.manifest.fold_levels
    assert found is not None and len(found) == 3 and sum(fold.num_images for fold in found) == NUM_IMAGES
    for number, fold in enumerate(found):
        levels = image_levels(folder, [reader.index.image_id(int(row)) for row in reader.index.rows([number])])
        assert fold.num_images == len(levels)
        assert (fold.mean, fold.std) == pytest.approx((levels.mean(), levels.std()), rel=1e-9)


def test_shards_mix_the_folder(shards: Path) -> None:
    reader = ShardReader(shards)
    ids = [reader.index.image_id(row) for row in range(len(reader))]
    assert ids != sorted(ids)


def test_webdataset_reads_the_shards_with_its_own_decoders(folder: Path, shards: Path) -> None:
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("l8"))
    assert {sample["json"]["image_id"] for sample in samples} == set(NUMBERS)
    for sample in samples:
        number = NUMBERS[sample["json"]["image_id"]]
        assert np.array_equal(unpack_masks(sample["mask.png"], 4), masks_of(number))
        assert sample["jpg"].shape == (HEIGHT, WIDTH)


def test_the_lines_of_the_readme_read_the_shards(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n([^`]*webdataset\.WebDataset[^`]*)```", readme)
    assert len([line for line in lines.splitlines() if line]) <= 5
    monkeypatch.chdir(shards.parent)
    found: dict[str, Any] = {}
    exec(lines, found)
    number = NUMBERS[found["sample"]["json"]["image_id"]]
    assert found["image"].shape == (HEIGHT, WIDTH)
    assert np.array_equal(found["bits"], sum(mask.astype(int) << k for k, mask in enumerate(masks_of(number))))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    for line in said:
        number = NUMBERS[line.split()[0]]
        classes = [k + 1 for k, mask in enumerate(masks_of(number)) if mask.any()]
        area = masks_of(number)[0].sum()
        assert line == f"{image_name(number)} ({HEIGHT}, {WIDTH}) {classes} {area} pixels of class 1"


def test_one_colour_image_makes_a_colour_set(own_folder: Path) -> None:
    cv2.imwrite(str(own_folder / "images" / "tinted.png"), cv2.merge([texture(90), texture(90), texture(91)]))
    assert main(arguments(own_folder, own_folder / "out")) == 0
    manifest = Manifest.load(str(own_folder / "out"))
    names = [*NUMBERS, "tinted.png"]
    images = [cv2.imread(str(own_folder / "images" / name))[..., ::-1].reshape(-1, 3) / 255 for name in names]
    pixels = np.concatenate(images)
    assert manifest.channels == 3
    assert manifest.mean == pytest.approx(tuple(pixels.mean(0)), rel=1e-12)
    assert manifest.std == pytest.approx(tuple(pixels.std(0)), rel=1e-9)
    assert manifest.fold_levels is not None
    total = sum(fold.num_images * fold.mean for fold in manifest.fold_levels)
    assert total == pytest.approx(image_levels(own_folder, names).sum(), rel=1e-12)


def test_label_maps_with_ignored_pixels(tmp_path: Path) -> None:
    for number in range(6):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:4], labels[4:6], labels[-3:] = 1 + number % 2, 2, 255
        for name, pixels in (("images", texture(number)), ("masks", labels)):
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), pixels)
    line = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "masks"), "--out", str(tmp_path / "out")]
    line += ["--class-names", "spot,scratch", "--ignore-value", "255", "--folds", "2", "--workers", "1"]
    assert main(line) == 0
    reader = ShardReader(tmp_path / "out")
    assert reader.manifest.class_names == ("spot", "scratch")
    assert reader.manifest.ignore_bit == 7
    assert reader.manifest.num_positive == (3, 6)
    assert reader.index.ignored.tolist() == [3 * WIDTH] * 6
    assert sorted(reader.index.areas[:, 0].tolist()) == [0] * 3 + [4 * WIDTH] * 3
    assert (reader.read(0).bitmask[-3:] == 128).all()


def test_reduced_images_keep_their_masks_at_the_original_size(folder: Path, tmp_path: Path) -> None:
    assert main(arguments(folder, tmp_path / "out", resize=f"{HEIGHT // 2}x{WIDTH // 4}")) == 0
    reader = ShardReader(tmp_path / "out")
    for row in range(len(reader)):
        masks = masks_of(NUMBERS[reader.index.image_id(row)])
        covered = masks.reshape(4, HEIGHT // 2, 2, WIDTH // 4, 4).mean((2, 4))
        sample = reader.read(row)
        assert sample.image.shape == sample.bitmask.shape == (HEIGHT // 2, WIDTH // 4)
        assert np.array_equal(unpack_masks(sample.bitmask, 4), covered >= 0.5)
        assert np.array_equal(unpack_masks(reader.read(row, original_mask=True).bitmask, 4), masks)
        assert reader.index.areas[row].tolist() == masks.sum((1, 2)).tolist()
        assert (reader.index.original_height[row], reader.index.original_width[row]) == (HEIGHT, WIDTH)
        assert json.loads(reader.read_bytes(row).meta)["original_width"] == WIDTH


def test_deep_images_are_refused_or_converted(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = texture(50).astype(np.uint16) * 257
    cv2.imwrite(str(own_folder / "images" / "deep.png"), deep)
    assert main(arguments(own_folder, own_folder / "out")) == 2
    assert "deep.png (16 bits a pixel; --depth" in last_line(capsys)
    assert main(arguments(own_folder, own_folder / "out16", depth="high-byte")) == 0
    reader = ShardReader(own_folder / "out16")
    row = next(row for row in range(len(reader)) if reader.index.image_id(row) == "deep.png")
    assert np.array_equal(reader.read(row).image, texture(50))
    assert reader.manifest.depth == Depth("high-byte")
    assert reader.read_bytes(row).image == (own_folder / "images" / "deep.png").read_bytes()
    assert "images of 16 bits are read by high-byte" in capsys.readouterr().out


def test_percentiles_of_a_set_become_its_window(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted over all images, once; in parts as at once; and what is read is their window."""
    images = sorted((own_folder / "images").rglob("*.jpg"))
    deep = {}
    for number, path in enumerate(images):
        deep[path.name] = texture(number).astype(np.uint16) * (7 + number) + 300
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".png")), deep[path.name])
    table = own_folder / "train.csv"
    table.write_text(table.read_text().replace(".jpg", ".png"))
    wanted = [*arguments(own_folder, own_folder / "out", shard_size=2), "--depth", "percentile", "1", "99"]
    assert main(wanted) == 0
    everything = np.concatenate([values.ravel() for values in deep.values()])
    low, high = np.percentile(everything, [1, 99], method="inverted_cdf").astype(int).tolist()
    reader = ShardReader(own_folder / "out")
    assert reader.manifest.depth == Depth("window", low, high)
    assert f"images of 16 bits are read by window {low} {high}" in capsys.readouterr().out
    shown = []
    for row in range(len(reader)):
        values = deep[Path(reader.index.image_id(row)).with_suffix(".jpg").name].astype(float)
        shown.append(np.floor(255 * (values.clip(low, high) - low) / (high - low) + 0.5))
        assert np.array_equal(reader.read(row).image, shown[-1])
    assert reader.manifest.mean == pytest.approx([np.mean(shown) / 255])
    assert verify_main([str(own_folder / "out"), "--executor", "thread", "--workers", "1"]) == 0

    line = [part.replace(str(own_folder / "out"), str(own_folder / "parts")) for part in wanted]
    assert main([*line, "--part", "1/2"]) == 0
    assert main([*line, "--join", "2"]) == 2
    assert "not complete" in last_line(capsys)
    assert main([*line, "--part", "2/2"]) == 0
    assert main([*line, "--join", "2"]) == 0
    assert tree_digest(own_folder / "parts") == tree_digest(own_folder / "out")


def test_soft_masks_are_told_and_taken_by_a_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        soft = np.zeros((HEIGHT, WIDTH), np.float32)
        soft[:, 3:9], soft[:, 9:12] = 0.99, 0.2
        for name, pixels in ((f"images/{number}.png", texture(number)), (f"masks/{number}.tif", soft)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name), pixels)
    line = ["--images", tmp_path / "images", "--labels", tmp_path / "masks", "--out", tmp_path / "out"]
    line = [str(part) for part in (*line, "--folds", 2, "--workers", 1, "--executor", "thread")]
    assert main(line) == 2
    message = last_line(capsys)
    assert f"as inside): {tmp_path}/masks/0.tif ({9 * HEIGHT} values that are not whole" in message
    assert "--mask-threshold T takes values from T up as inside" in message
    assert main([*line, "--mask-threshold", "0"]) == 2
    assert "--mask-threshold 0: must be above 0" in last_line(capsys)
    assert main([*line, "--mask-threshold", "128", "--out", str(tmp_path / "of-255")]) == 0
    assert "warning: every image is clean: no value of any mask reaches --mask-threshold 128\n" in (
        capsys.readouterr().out
    )
    assert main([*line, "--mask-threshold", "0.5"]) == 0
    assert "warning: every" not in capsys.readouterr().out
    reader = ShardReader(tmp_path / "out")
    assert reader.index.areas.tolist() == [[6 * HEIGHT]] * 4
    assert reader.manifest.options["mask_threshold"] == 0.5
    assert main([*line, "--mask-threshold", "0.1"]) == 2
    assert "made with other options: mask-threshold 0.5, not 0.1; choose another --out" in last_line(capsys)


def test_classes_of_no_image_are_told(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "pit,scratch,patch,scale,crack"
    assert main(arguments(own_folder, own_folder / "out", class_names=names)) == 0
    assert "warning: no image has crack\n" in capsys.readouterr().out
    with (own_folder / "train.csv").open("a") as table:
        table.write(f"{image_name(0)},7,1 3\n")
    assert main(arguments(own_folder, own_folder / "mistyped")) == 0
    told = "warning: no image has class 5, class 6; they come of class 7, in 1 image: if that is a slip, mend it, or"
    assert f"{told} give --class-names\n" in capsys.readouterr().out


def test_images_that_exif_turns_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of shards that an earlier attempt has written; pixels are those that are stored."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        exif = Image.Exif()
        exif[0x0112] = 3 if number > 4 else 1
        Image.fromarray(texture(number)).save(tmp_path / f"images/{number}.jpg", exif=exif)
        Image.fromarray(np.uint8(masks_of(number)[1])).save(tmp_path / f"masks/{number}.png")
    turned = Image.fromarray(np.zeros((WIDTH, HEIGHT), np.uint8))
    turned.save(tmp_path / "masks/9.png")
    line = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "masks"), "--out", str(tmp_path / "out")]
    line += ["--workers", "1", "--shard-size", "5"]
    assert main(line) == 2
    assert "masks turned by a quarter against their image (turn them, or export" in capsys.readouterr().err
    exif[0x0112] = 6
    Image.fromarray(texture(9)).save(tmp_path / "images/9.jpg", exif=exif)
    assert main(line) == 2
    told = capsys.readouterr().err
    assert "masks turned by a quarter against their image (by its EXIF orientation" in told
    assert "mogrify -auto-orient" in told
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "masks/9.png")
    assert main(line) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "EXIF" in line]
    assert warning.startswith("warning: 5 images with an EXIF orientation other than 1: ")
    assert ".jpg and 2 more; pixels are taken as stored, and labels must be of these" in warning


def test_images_in_colour_among_gray_ones_are_told(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One makes three channels of all; sets of one kind are no news."""
    assert main(arguments(own_folder, own_folder / "gray")) == 0
    assert "colour image" not in capsys.readouterr().out
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(colours).save(own_folder / "images" / image_name(4))
    assert main(arguments(own_folder, own_folder / "out")) == 0
    told = f"warning: 1 colour image among {NUM_IMAGES - 1} gray: {image_name(4)}; the network takes three channels for"
    assert f"{told} all of them" in capsys.readouterr().out
    assert ShardReader(own_folder / "out").manifest.channels == 3

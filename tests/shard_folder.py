"""Makes small finished shard folders for tests, straight from the contract in `steel.shards.format`."""

import hashlib
import io
import json
import tarfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa

from steel.images.bitmask import mask_areas
from steel.shards.format import (
    INDEX_NAME,
    MANIFEST_NAME,
    MASK_EXTENSION,
    Manifest,
    ShardInfo,
    index_schema,
    sample_key,
    write_index,
)
from steel.shards.mask_codec import encode_mask
from steel.shards.reader import ShardReader


def steel_image(number: int, height: int = 32, width: int = 64, channels: int = 1) -> np.ndarray:
    """A smooth gray (or coloured) picture, different for every number."""
    generator = np.random.default_rng(number)
    noise = generator.integers(40, 220, (height, width, channels), dtype=np.uint8)
    return np.squeeze(cv2.GaussianBlur(noise, (5, 5), 2.0).reshape(height, width, channels))


def defect_mask(number: int, height: int = 32, width: int = 64, num_classes: int = 3) -> np.ndarray:
    """A bitmask: clean for every third number, else one rectangle of each of one or two classes."""
    generator = np.random.default_rng(number + 1000)
    bitmask = np.zeros((height, width), np.uint8)
    for _ in range(number % 3):
        top, left = int(generator.integers(height - 4)), int(generator.integers(width - 6))
        bitmask[top : top + 4, left : left + 6] |= np.uint8(1 << int(generator.integers(num_classes)))
    return bitmask


def write_tar(path: Path, members: Mapping[str, bytes]) -> dict[str, int]:
    """Write a tar by Python's own library; returns where the bytes of each member start, as that library reads it."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {info.name: info.offset_data for info in tar}


def _places(key: str, extension: str, members: Mapping[str, bytes], offsets: Mapping[str, int]) -> dict[str, int]:
    """Where the members of a sample are, and their checksums."""
    places = {}
    for member, suffix in (("image", extension), ("mask", MASK_EXTENSION), ("json", "json")):
        name = f"{key}.{suffix}"
        places |= {f"{member}_offset": offsets[name], f"{member}_length": len(members[name])}
        places[f"{member}_crc"] = zlib.crc32(members[name])
    return places


def make_shards(
    root: Path,
    images: Sequence[np.ndarray],
    bitmasks: Sequence[np.ndarray],
    *,
    num_classes: int = 3,
    shard_size: int = 4,
    folds: int = 2,
    ignore_bit: int | None = None,
    extension: str = "png",
    groups: Sequence[int] | None = None,
) -> Path:
    """Write images (H, W) or (H, W, 3) RGB and their bitmasks; sample n is `images/n.<extension>`, fold n % folds.

    A bitmask of another size than its image says that the image was reduced from that size. `groups` are those of
    duplicates, an image; each is one of its own when None.
    """
    root.mkdir(parents=True)
    rows: list[dict] = []
    shards: list[ShardInfo] = []
    for start in range(0, len(images), shard_size):
        members: dict[str, bytes] = {}
        in_this_shard: list[dict] = []
        for number in range(start, min(start + shard_size, len(images))):
            image, bitmask = images[number], bitmasks[number]
            row = _row(number, image, bitmask, num_classes, folds, ignore_bit, extension, len(shards))
            pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            members[f"{row['key']}.{extension}"] = cv2.imencode(f".{extension}", pixels)[1].tobytes()
            members[f"{row['key']}.{MASK_EXTENSION}"] = encode_mask(bitmask)
            members[f"{row['key']}.json"] = json.dumps({"image_id": row["image_id"]}).encode()
            row["group"] = number if groups is None else groups[number]
            in_this_shard.append(row)
        name = f"shard-{len(shards):06d}.tar"
        offsets = write_tar(root / name, members)
        for row in in_this_shard:
            row |= _places(row["key"], extension, members, offsets)
        rows += in_this_shard
        tar = (root / name).read_bytes()
        shards.append(ShardInfo(name, len(in_this_shard), len(tar), hashlib.sha256(tar).hexdigest()))
    with open(root / INDEX_NAME, "wb") as file:
        write_index(pa.Table.from_pylist(rows, index_schema(num_classes)), file)
    index = (root / INDEX_NAME).read_bytes()
    areas = np.array([row["areas"] for row in rows])
    channels = 1 if all(image.ndim == 2 for image in images) else 3
    manifest = Manifest(
        class_names=tuple(f"class {k + 1}" for k in range(num_classes)),
        num_samples=len(rows),
        num_positive=tuple(int(n) for n in (areas > 0).sum(axis=0)),
        num_clean=int((areas.sum(axis=1) == 0).sum()),
        channels=channels,  # type: ignore[arg-type]
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        ignore_bit=ignore_bit,
        folds=folds,
        num_groups=len({row["group"] for row in rows}),
        seed=0,
        shards=tuple(shards),
        index_size=len(index),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    (root / MANIFEST_NAME).write_text(manifest.to_json())
    return root


def small_shards(root: Path, num: int = 14, height: int = 32, width: int = 64) -> Path:
    """A folder of `num` gray images of one size with three classes, four a shard."""
    images = [steel_image(n, height, width) for n in range(num)]
    return make_shards(root, images, [defect_mask(n, height, width) for n in range(num)])


def damage_image(shards: Path, row: int) -> None:
    """Flip a bit in the stored image of a sample."""
    reader = ShardReader(shards)
    at = reader.samples.place(row)
    path = shards / reader.manifest.shards[at.shard].name
    data = bytearray(path.read_bytes())
    data[at.image_offset + at.image_length // 2] ^= 1
    path.write_bytes(data)


def rename_shards(shards: Path, names: Sequence[str]) -> None:
    """Give the shards of a folder other names, in their order."""
    manifest = Manifest.load(str(shards))
    infos = tuple(replace(info, name=name) for info, name in zip(manifest.shards, names, strict=True))
    for old, new in zip(manifest.shards, infos, strict=True):
        (shards / new.name).parent.mkdir(parents=True, exist_ok=True)
        (shards / old.name).rename(shards / new.name)
    (shards / MANIFEST_NAME).write_text(replace(manifest, shards=infos).to_json())


def put_in_memory(shards: Path, login: str = "") -> str:
    """The same folder in fsspec's store in memory; its URL, each time a new one, with `login` (`user:password@`)."""
    store, url = fsspec.filesystem("memory"), f"memory://{login}store-{time.time_ns()}"
    for file in filter(Path.is_file, shards.rglob("*")):
        store.pipe_file(f"{url}/{file.relative_to(shards)}", file.read_bytes())
    return url


def _row(
    number: int,
    image: np.ndarray,
    bitmask: np.ndarray,
    num_classes: int,
    folds: int,
    ignore_bit: int | None,
    extension: str,
    shard: int,
) -> dict:
    image_id = f"images/{number:04d}.{extension}"
    height, width = image.shape[:2]
    return {
        "key": sample_key(image_id),
        "image_id": image_id,
        "image_ext": extension,
        "shard": shard,
        "height": height,
        "width": width,
        "original_height": bitmask.shape[0],
        "original_width": bitmask.shape[1],
        "areas": mask_areas(bitmask, num_classes),
        "ignored": 0 if ignore_bit is None else int((bitmask >> ignore_bit & 1).sum()),
        "fold": number % folds,
    }

"""Write one shard: the unit of parallel work and of resuming."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.duplicates import image_signature
from data_prep.options import Options
from data_prep.pixels import StoredImage, cut_image, gray_of, ignored_area, load_image, pixel_sums
from data_prep.plan import ShardPlan
from data_prep.reading import read_images
from data_prep.rows import ShardRows, measured, rows_schema, write_rows
from data_prep.shard_file import ShardFile
from steel import storage
from steel.images.bitmask import mask_areas
from steel.images.listing import ImageRecord
from steel.images.pixel_format import Depth
from steel.labels.labels import Labels
from steel.shards.format import MASK_EXTENSION, sample_key
from steel.shards.mask_codec import encode_mask
from steel.shards.tiles import TILE_MARK, TileGrid
from steel.validation_errors import Issue, ValidationErrors, raise_issues


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs, wherever it runs."""

    shard: ShardPlan
    labels: Labels
    """Of this shard's images alone."""
    options: Options
    fingerprint: str
    rows_url: str
    """Where the mark of completion goes."""
    staging: str
    """Local folder for unfinished files."""
    depth: Depth


def write_shard(task: ShardTask) -> int:
    """Write one tar, then the mark that it is complete; both appear whole or not at all.

    Returns:
        The number of images.

    Raises:
        ValidationErrors: every image or mask of this shard that cannot be used.
    """
    rows: list[dict[str, Any]] = []
    issues: list[Issue] = []
    with (
        storage.open_write(storage.join(task.options.out, task.shard.name), staging=task.staging) as file,
        ShardFile(file) as tar,
    ):
        for record, data in read_images(task.shard.records):
            try:
                if isinstance(data, ValueError):
                    raise data
                rows += [{"shard": task.shard.number, **row} for row in _add_image(tar, record, data, task)]
            except ValidationErrors as error:
                issues += error.issues
            except ValueError as error:
                issues.append(Issue("unusable images", f"{record.image_id} ({error})"))
        raise_issues(issues)
    table = pa.Table.from_pylist(rows, rows_schema(len(task.labels.class_names), tiled=task.options.tile is not None))
    finished = ShardRows(tar.size, tar.sha256, task.fingerprint, table)
    write_rows(task.rows_url, finished, task.staging)
    return len(task.shard.records)


def _add_image(tar: ShardFile, record: ImageRecord, data: bytes, task: ShardTask) -> list[dict[str, Any]]:
    """Append an image, as one sample or in tiles; returns their rows. Nothing is appended when it cannot be used."""
    options, labels = task.options, task.labels
    extension = record.image_id.rpartition(".")[2].lower()
    image = load_image(data, extension, resize=options.resize, depth=task.depth)
    # At the original size even where the image is reduced: masks are small, and scores are then exact.
    bitmask = labels.bitmask(record.image_id, *image.original_size)
    signature = image_signature(gray_of(image.pixels)) if options.split_options.group_duplicates else b""
    measures = measured(pixel_sums(image.pixels), signature)
    key = sample_key(record.image_id)
    if options.tile is None:
        return [{**_add_sample(tar, record.image_id, key, image, bitmask, labels, {}), **measures}]
    whole = {
        "image_areas": mask_areas(bitmask, len(labels.class_names)),
        "image_ignored": ignored_area(bitmask, labels.ignore_bit),
        **measures,
    }
    return [
        {**_add_sample(tar, record.image_id, f"{key}{mark}", tile, part, labels, place), **whole}
        for mark, tile, part, place in _tiles_of(image, bitmask, options.tile)
    ]


def _tiles_of(
    image: StoredImage, bitmask: np.ndarray, grid: TileGrid
) -> Iterator[tuple[str, StoredImage, np.ndarray, dict[str, int]]]:
    """Each tile's end of its key, its pixels, its bitmask and its place; an image that needs no cut stays as it is."""
    size = {"image_height": image.size[0], "image_width": image.size[1]}
    places = grid.places(*image.size)
    if len(places) == 1:
        yield "", image, bitmask, {"top": 0, "left": 0, **size}
        return
    for place in places:
        mark = f"{TILE_MARK}{place.top}-{place.left}"
        part = np.ascontiguousarray(bitmask[place.inside])
        yield mark, cut_image(image, place), part, {"top": place.top, "left": place.left, **size}


def _add_sample(
    tar: ShardFile,
    image_id: str,
    key: str,
    image: StoredImage,
    bitmask: np.ndarray,
    labels: Labels,
    place: Mapping[str, int],
) -> dict[str, Any]:
    """Append an image or a tile, its mask and its description; returns its row but for what is measured."""
    areas = mask_areas(bitmask, len(labels.class_names))
    described = {
        "height": image.size[0],
        "width": image.size[1],
        "original_height": image.original_size[0],
        "original_width": image.original_size[1],
        **place,
    }
    return {
        "key": key,
        "image_id": image_id,
        "image_ext": image.extension,
        **tar.add("image", key, image.extension, image.data),
        **tar.add("mask", key, MASK_EXTENSION, encode_mask(bitmask)),
        **tar.add("json", key, "json", _description(image_id, described, areas)),
        **described,
        "areas": areas,
        "ignored": ignored_area(bitmask, labels.ignore_bit),
    }


def _description(image_id: str, described: Mapping[str, int], areas: list[int]) -> bytes:
    values = {
        "image_id": image_id,
        **described,
        "classes": [k + 1 for k, area in enumerate(areas) if area],
        "areas": areas,
    }
    return json.dumps(values, ensure_ascii=False).encode()

"""An image and its mask as members of a tar: one sample, or one for each tile."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.pixels import StoredImage, cut_image, ignored_area
from data_prep.shard_file import ShardFile
from steel.images.bitmask import mask_areas
from steel.shards.format import MASK_EXTENSION, sample_key
from steel.shards.mask_codec import encode_mask
from steel.shards.tiles import TILE_MARK, TileGrid


@dataclass(frozen=True)
class SampleForm:
    """What all samples of a set have in common."""

    num_classes: int
    ignore_bit: int | None
    """Of a bitmask; None where no pixels are ignored."""
    tile: TileGrid | None
    """How larger images are cut; None where each is one sample."""


def add_image(
    tar: ShardFile, image_id: str, image: StoredImage, bitmask: np.ndarray, form: SampleForm
) -> list[dict[str, Any]]:
    """Append an image, as one sample or in tiles.

    Args:
        tar: the shard.
        image_id: of the image.
        image: as it is stored.
        bitmask: (H, W) at the image's original size, even where it is stored reduced: masks are small, and scores are
            then exact.
        form: of the set.

    Returns:
        A row of the index for each sample, but for its shard, fold and group.
    """
    key = sample_key(image_id)
    if form.tile is None:
        return [_add_sample(tar, image_id, key, image, bitmask, form, {})]
    whole = {
        "image_areas": mask_areas(bitmask, form.num_classes),
        "image_ignored": ignored_area(bitmask, form.ignore_bit),
    }
    return [
        {**_add_sample(tar, image_id, f"{key}{mark}", tile, part, form, place), **whole}
        for mark, tile, part, place in _tiles_of(image, bitmask, form.tile)
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
    form: SampleForm,
    place: Mapping[str, int],
) -> dict[str, Any]:
    """Append an image or a tile, its mask and its description; returns its row."""
    areas = mask_areas(bitmask, form.num_classes)
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
        "ignored": ignored_area(bitmask, form.ignore_bit),
    }


def _description(image_id: str, described: Mapping[str, int], areas: list[int]) -> bytes:
    values = {
        "image_id": image_id,
        **described,
        "classes": [k + 1 for k, area in enumerate(areas) if area],
        "areas": areas,
    }
    return json.dumps(values, ensure_ascii=False).encode()

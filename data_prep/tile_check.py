"""Whether the tiles of an image fit together: the same pixels where they overlap, and the areas of the whole."""

from typing import Any

import numpy as np

from data_prep.pixels import ignored_area
from steel.images.bitmask import mask_areas
from steel.shards.format import Manifest


class TileCheck:
    """Puts the images of a shard together, tile by tile in the order of the index."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._image_id: str | None = None

    def add(self, row: dict[str, Any], image: np.ndarray, bitmask: np.ndarray) -> str | None:
        """Take a tile that is sound by itself; what is wrong with it beside those before it, None when nothing is.

        Args:
            row: of the index.
            image: (h, w) or (h, w, 3) uint8.
            bitmask: (h, w).
        """
        top, left, size = row["top"], row["left"], (row["image_height"], row["image_width"])
        if row["image_id"] != self._image_id:
            self._image_id = row["image_id"]
            self._image, self._seen = np.zeros((*size, *image.shape[2:]), np.uint8), np.zeros(size, bool)
            self._bitmask = np.zeros(size, bitmask.dtype)
        inside = slice(top, top + image.shape[0]), slice(left, left + image.shape[1])
        seen = self._seen[inside]
        differ = (self._image[inside] != image)[seen].any() or (self._bitmask[inside] != bitmask)[seen].any()
        self._image[inside], self._bitmask[inside], self._seen[inside] = image, bitmask, True
        if differ:
            return "it differs from its neighbours where they overlap"
        return self._areas_fault(row) if self._seen.all() else None

    def _areas_fault(self, row: dict[str, Any]) -> str | None:
        areas = mask_areas(self._bitmask, self._manifest.num_classes)
        ignored = ignored_area(self._bitmask, self._manifest.ignore_bit)
        if (areas, ignored) != (row["image_areas"], row["image_ignored"]):
            return (
                f"the image's masks cover {areas} pixels of the classes and ignore {ignored}, the index says "
                f"{row['image_areas']} and {row['image_ignored']}"
            )
        return None

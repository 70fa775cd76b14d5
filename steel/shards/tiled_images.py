"""The images that the samples of a set make up which holds them in tiles."""

import numpy as np

from steel.shards.index import Images, Index
from steel.shards.tiles import image_starts


class TiledImages(Images):
    """The images that the samples of a set make up; in memory, as there are few beside their tiles."""

    def __init__(self, samples: Index) -> None:
        """Args:
        samples: of the set, whose tiles are sound.
        """
        starts, columns = image_starts(samples.columns), samples.columns
        self._samples, self._edges = samples, np.append(starts, len(samples))
        for name in ("shard", "fold", "group"):
            setattr(self, name, columns[name][starts])
        self.height = self.original_height = columns["image_height"][starts]
        self.width = self.original_width = columns["image_width"][starts]
        self.areas, self.ignored = columns["image_areas"][starts], columns["image_ignored"][starts]

    def __reduce__(self) -> tuple:
        return TiledImages, (self._samples,)

    def __len__(self) -> int:
        return len(self._edges) - 1

    def image_id(self, row: int) -> str:
        """Path of the image relative to the folder it came from, with its extension."""
        return self._samples.image_id(int(self._edges[row]))

    def samples(self, rows: np.ndarray) -> np.ndarray:
        """(m,) int32 rows of the samples of these images, ascending."""
        is_asked = np.zeros(len(self), bool)
        is_asked[rows] = True
        return np.flatnonzero(np.repeat(is_asked, np.diff(self._edges))).astype(np.int32)

    def tiles(self, row: int) -> range:
        """The samples that an image consists of."""
        return range(int(self._edges[row]), int(self._edges[row + 1]))

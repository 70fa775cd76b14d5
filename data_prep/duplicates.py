"""Hidden duplicates: images that are equal or nearly so up to flips and quarter turns.

Each image gives a small signature once: a perceptual hash and a thumbnail of its texture. Pairs that may be duplicates
are neighbours when the hashes are sorted in several ways, so their number grows with the number of images, not with its
square; the correlation of the thumbnails decides. Equal pixels are equal however little there is to be seen in them.

What the thumbnail shows is the texture alone. Strips look alike in their brightness, their black edges and the stripes
along the line: raw thumbnails of different images correlate up to 0.97. So what varies slowly is taken away, the rest
is scaled to even contrast, and row and column means are removed. Different images then stay below 0.3, while a copy
that was saved again as a JPEG stays above 0.95.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from steel.errors import counted, list_some
from steel.images.geometry import resize_image

_HASH_SIDE = 16
_FINE_SIDE, _SIDE = 64, 32
SIGNATURE_DTYPE = np.dtype(
    [
        ("height", "<u4"),
        ("width", "<u4"),
        ("hash", "u1", (_HASH_SIDE * _HASH_SIDE // 8,)),
        ("thumbnail", "i1", (_SIDE, _SIDE)),
        ("digest", "<u8"),
    ]
)
"""Layout of a signature: 1,072 bytes. The digest is of all pixels; 0 where they are of one gray level."""

_SMOOTH_SIGMA = 3.0
"""Pixels of the fine thumbnail: what varies more slowly is light, not texture."""
_NOISE_LEVEL = 1.0
"""Gray levels: fainter texture is not brought up to full contrast, so that flat areas stay flat."""
_LEVELS = 32.0
"""Thumbnail steps per unit of evened contrast."""
_FLATNESS = 0.1
"""An image whose texture is below this, in units of evened contrast, says too little to be compared by it."""
_WINDOW = 2
"""Neighbours looked at on either side in each sorting."""
_MAX_BITS_APART = 96
"""Of 256: hashes of different images are 128 apart, plus or minus 8."""
_SAME_SHAPE = 0.02
"""Largest difference of the logarithm of width / height between duplicates."""
_LARGE_SHARE, _LARGE_GROUP = 0.01, 5
"""A group is worth a warning above both: in a small set every pair is more than a hundredth."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class DuplicateReport:
    """What the search found; rows are positions in the list of signatures."""

    num_images: int
    num_groups: int
    """Single images included."""
    groups: tuple[tuple[int, ...], ...]
    """Rows of each group of two or more images, the largest first."""
    num_flat: int
    """Images with too little texture to be compared: only others of the same pixels share their group."""

    def to_dict(self, image_ids: Sequence[str]) -> dict[str, object]:
        """As plain JSON values, with names instead of rows."""
        return {
            "num_images": self.num_images,
            "num_groups": self.num_groups,
            "num_flat": self.num_flat,
            "groups": [[image_ids[row] for row in group] for group in self.groups],
        }

    def warnings(self, image_ids: Sequence[str]) -> list[str]:
        """A line for each group of more than five images that are more than 1 % of all."""
        least = max(_LARGE_GROUP, _LARGE_SHARE * self.num_images)
        large = [group for group in self.groups if len(group) > least]
        return [
            f"{len(group)} of {self.num_images} images are one group of duplicates "
            f"and will lie in one fold: {list_some([image_ids[row] for row in group], 3)}"
            for group in large
        ]

    def told(self) -> list[str]:
        """What was found, and of how many images only exact copies could be."""
        held = sum(map(len, self.groups))
        found = f"{held} images lie in {counted(len(self.groups), 'group')} of duplicates" if held else "no duplicates"
        flat = counted(self.num_flat, "image")
        return [
            found,
            *([f"too little texture to look for more than exact copies: {flat}"] if self.num_flat else []),
        ]


def image_signature(gray: npt.NDArray[np.uint8]) -> bytes:
    """What an image is recognised by.

    Args:
        gray: (H, W) uint8.

    Returns:
        One record of `SIGNATURE_DTYPE`.
    """
    import imagehash  # slow to import, and not in the base install
    from PIL import Image

    fine = _texture(gray)
    shades = np.clip(fine * 48 + 128, 0, 255).astype(np.uint8)
    coarse = cv2.resize(fine, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    coarse = coarse - coarse.mean(axis=0) - coarse.mean(axis=1, keepdims=True) + coarse.mean()
    signature = np.zeros(1, SIGNATURE_DTYPE)
    signature["height"], signature["width"] = gray.shape
    signature["hash"] = np.packbits(imagehash.phash(Image.fromarray(shades), _HASH_SIDE).hash)
    signature["thumbnail"] = np.clip(np.rint(coarse * _LEVELS), -127, 127)
    signature["digest"] = _digest(gray)
    return signature.tobytes()


def group_duplicates(
    signatures: Sequence[bytes], *, min_correlation: float = 0.75
) -> tuple[npt.NDArray[np.int32], DuplicateReport]:
    """Put images that are equal up to flips and quarter turns, or nearly, into one group.

    Of images with too little texture only those with the same pixels are, and of images of one gray level none: frames
    without steel, which tell nothing, would link all the coils that have some.

    Args:
        signatures: (N,) of `image_signature`.
        min_correlation: Of two thumbnails, above which images are duplicates. Images that share three quarters of their
            surface reach it too.

    Returns:
        (N,) int32 group numbers, counted from 0 by their first image, and what was found.
    """
    records = np.frombuffer(b"".join(signatures), SIGNATURE_DTYPE)
    assert len(records) == len(signatures)
    texture = np.sqrt(np.square(records["thumbnail"], dtype=np.float32).mean(axis=(1, 2))) / _LEVELS
    rows = np.flatnonzero(texture > _FLATNESS)
    pairs = _confirm(records[rows], _candidates(records[rows]), min_correlation)
    groups = connect(len(records), np.concatenate([rows[pairs], _copies(records["digest"])]))
    members = np.argsort(groups, kind="stable")
    found = [g for g in np.split(members, np.cumsum(np.bincount(groups))[:-1]) if len(g) > 1] if len(groups) else []
    report = DuplicateReport(
        num_images=len(records),
        num_groups=int(groups.max(initial=-1)) + 1,
        groups=tuple(tuple(int(row) for row in group) for group in sorted(found, key=len, reverse=True)),
        num_flat=len(records) - len(rows),
    )
    return groups, report


def _digest(gray: npt.NDArray[np.uint8]) -> int:
    """Of shape and pixels (H, W); 0 where all are of one gray level."""
    if gray.min() == gray.max():
        return 0
    pixels = hashlib.blake2b(repr(gray.shape).encode(), digest_size=8)
    pixels.update(np.ascontiguousarray(gray).data)
    return int.from_bytes(pixels.digest(), "little")


def _copies(digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Pairs (M, 2) of the first image with some digest and each that has the same; the first with itself, too."""
    rows = np.flatnonzero(digests)
    _, first, number = np.unique(digests[rows], return_index=True, return_inverse=True)
    return np.stack([rows[first[number]], rows], axis=1)


def _texture(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The image squeezed to (64, 64), without slow changes of brightness and with even contrast."""
    squeezed = resize_image(gray.astype(np.float32), (_FINE_SIDE, _FINE_SIDE))
    detail = squeezed - _smooth(squeezed)
    return detail / np.sqrt(_smooth(detail * detail) + np.float32(_NOISE_LEVEL**2))


def _smooth(pixels: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(pixels, (0, 0), _SMOOTH_SIGMA, borderType=cv2.BORDER_REFLECT)


@dataclass(frozen=True)
class _Transform:
    """One of the eight ways to lay an image on another: transpose first, then flip."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def of_hashes(self, bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Hashes (N, 16, 16) of the transformed images: a flip changes the sign of every other cosine."""
        bits = bits.transpose(0, 2, 1) if self.transpose else bits
        odd = np.arange(_HASH_SIDE) % 2 == 1
        return bits ^ (self.flip_rows & odd)[:, None] ^ (self.flip_columns & odd)

    def of_images(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images (N, side, side), transformed."""
        pixels = pixels.transpose(0, 2, 1) if self.transpose else pixels
        return pixels[:, :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


_TRANSFORMS = tuple(_Transform(t, r, c) for t in (False, True) for r in (False, True) for c in (False, True))


def _candidates(records: np.ndarray) -> npt.NDArray[np.int64]:
    """Pairs that may be duplicates: (M, 3) of row, other row, and the transform of the other that fits the first.

    Hashes are sorted 16 times, each time from another bit on; two hashes that differ in few bits are neighbours in some
    of these orders. Only a few neighbours are looked at, so common hashes cost no more than others.
    """
    num_images = len(records)
    bits = np.unpackbits(records["hash"], axis=1).astype(bool).reshape(-1, _HASH_SIDE, _HASH_SIDE)
    shapes = np.log(records["width"] / records["height"])
    words = _to_words(bits)
    found = [np.empty(0, np.int64)]  # row, other row and transform in one number: those are quick to sort
    for number, transform in enumerate(_TRANSFORMS):
        turned = _to_words(transform.of_hashes(bits))
        turned_shapes = -shapes if transform.transpose else shapes
        for start in range(_HASH_SIDE):
            keys = _bits_from(words, start)
            order = np.argsort(keys, kind="stable")  # equal hashes in the same order on every machine
            place = np.searchsorted(keys[order], _bits_from(turned, start))
            for step in range(-_WINDOW, _WINDOW + 1):
                other = order[np.clip(place + step, 0, num_images - 1)]
                apart = np.bitwise_count(words[other] ^ turned).sum(axis=1)
                near = (apart <= _MAX_BITS_APART) & (abs(shapes[other] - turned_shapes) <= _SAME_SHAPE)
                row = np.flatnonzero(near & (other != np.arange(num_images)))
                found.append((other[row] * num_images + row) * len(_TRANSFORMS) + number)
    pairs, number_of = np.divmod(np.unique(np.concatenate(found)), len(_TRANSFORMS))
    return np.stack([*np.divmod(pairs, max(1, num_images)), number_of], axis=1)


def _to_words(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Hashes (N, 16, 16) as (N, 4) words, the first bit the highest."""
    return np.packbits(bits.reshape(-1, _HASH_SIDE * _HASH_SIDE), axis=1).view(">u8").astype(np.uint64)


def _bits_from(words: npt.NDArray[np.uint64], row: int) -> npt.NDArray[np.uint64]:
    """(N,) the 64 bits that start at a row of 16 bits of the hash, around its end."""
    word, rest = divmod(row * _HASH_SIDE, 64)
    high = words[:, word % 4] << np.uint64(rest)
    return high | (words[:, (word + 1) % 4] >> np.uint64(64 - rest)) if rest else high


def _confirm(records: np.ndarray, candidates: npt.NDArray[np.int64], min_correlation: float) -> npt.NDArray[np.int64]:
    """The candidates (M, 2) whose thumbnails correlate."""
    confirmed = [np.empty((0, 2), np.int64)]
    for start in range(0, len(candidates), _CHUNK):
        chunk = candidates[start : start + _CHUNK]
        first = _normalised(records["thumbnail"][chunk[:, 0]])
        second = _normalised(records["thumbnail"][chunk[:, 1]])
        for number, transform in enumerate(_TRANSFORMS):
            mine = chunk[:, 2] == number
            correlation = np.einsum("nij,nij->n", first[mine], transform.of_images(second[mine]))
            confirmed.append(chunk[mine][correlation > min_correlation, :2])
    return np.concatenate(confirmed)


def _normalised(thumbnails: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    pixels = thumbnails.astype(np.float32)
    return pixels / np.sqrt(np.square(pixels).sum(axis=(1, 2), keepdims=True))


def join_groups(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Groups (N,) of images that are together in either way, or linked by such; counted from 0 by their first image."""
    pairs = []
    for groups in (one, other):
        _, first, number = np.unique(groups, return_index=True, return_inverse=True)
        pairs.append(np.stack([first[number], np.arange(len(groups))], axis=1))
    return connect(len(one), np.concatenate(pairs))


def connect(num_images: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Group numbers from pairs: whoever is linked to a member belongs to the group."""
    parent = list(range(num_images))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in pairs.tolist():
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    roots = np.array([root(row) for row in range(num_images)], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)  # a root is the first image of its group

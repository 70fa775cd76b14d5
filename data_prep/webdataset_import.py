"""Tars that somebody else wrote, in webdataset's convention: what is in them, seen as samples of ours."""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from data_prep.duplicates import image_signature
from data_prep.pixels import gray_of, ignored_area, load_image, pixel_sums
from data_prep.rows import ShardRows, measured, rows_schema
from steel import storage
from steel.errors import printable
from steel.images.bitmask import mask_areas
from steel.images.exif import exif_orientation
from steel.images.listing import IMAGE_SUFFIXES
from steel.shards.format import Manifest
from steel.shards.mask_codec import decode_stored_mask
from steel.shards.tiles import TILE_MARK
from steel.stopping import end_if_stopped
from steel.validation_errors import Issue, raise_issues

_IMAGES = (*(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES if suffix != ".png"), "png")
"""Extensions that hold an image, in that order: png last, which may hold the mask of any other."""
_MASKS = ("mask.png", "seg.png", "png")
"""Extensions that hold a mask, in the order in which they are looked for, the image's own left out."""


@dataclass(frozen=True)
class ForeignTask:
    """One tar to look through."""

    number: int
    name: str
    url: str
    manifest: Manifest
    """Tells the classes and how masks are coded; its counts are not known yet."""
    image_extension: str | None
    mask_extension: str | None
    missing_is_clean: bool
    with_signatures: bool
    """Measure what duplicates are recognised by."""


class _Member(NamedTuple):
    extension: str
    """As the tar spells it; members are looked for in small letters."""
    offset: int
    """Where its bytes start in the tar."""
    data: bytes


def index_tar(task: ForeignTask) -> ShardRows:
    """The rows of one tar.

    Raises:
        ValidationErrors: the tar is damaged, or samples in it that cannot be used: all of them.
    """
    rows: list[dict[str, Any]] = []
    issues: list[Issue] = []
    with storage.local_copy(task.url) as path:
        try:
            for key, members in _samples(path):
                try:
                    rows.append({"shard": task.number, **_row(key, members, task)})
                except ValueError as error:
                    issues.append(Issue("unusable samples", f"{task.name}: {key} ({error})"))
        except _TAR_ERRORS as error:
            issues.append(Issue("unusable tars", f"{task.name} ({error})"))
        raise_issues(issues)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        table = pa.Table.from_pylist(rows, rows_schema(task.manifest.num_classes))
        return ShardRows(path.stat().st_size, digest, "", table)


_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)
"""What Python's library may say of a damaged header."""


_WHOLE_FILES = "with --dereference --hard-dereference and without --sparse"
"""How GNU tar writes each file whole, of which a deduplicator may have made one with several names."""


class _Bounded:
    """A file for tarfile, which reads as many bytes as a header says: never sets more aside than there are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._file.tell()
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int) -> int:
        return self._file.seek(min(offset, self._size))

    def tell(self) -> int:
        return self._file.tell()


def _samples(path: Path) -> Iterator[tuple[str, dict[str, _Member]]]:
    """Key and members of each sample: files that follow each other with the same name up to the first dot.

    Raises:
        _TAR_ERRORS: the tar is compressed or damaged, or holds links or files with holes. A damaged header would else
            look like the end of the tar.
    """
    key, end = "", 0
    members: dict[str, _Member] = {}
    with open(path, "rb") as file, tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[call-overload]
        for info in tar:
            padded = -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if info.isreg() else 0
            end = info.offset_data + padded
            found = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", info.name, re.DOTALL)
            end_if_stopped()
            if info.islnk() or info.issym() or info.issparse():  # whoever reads at an offset finds other bytes, or none
                what = "a file with holes" if info.issparse() else "a link"
                raise tarfile.ReadError(f"{info.name} is {what}; make the tar anew, {_WHOLE_FILES}")
            if not info.isreg() or found is None:
                continue
            if found[1] != key and members:
                yield key, members
                members = {}
            key, extension = found[1], found[2].lower()
            if extension in members:
                raise tarfile.ReadError(f"{info.name} stands there twice")
            contents = tar.extractfile(info)
            assert contents is not None
            data = contents.read()
            if len(data) != info.size:
                raise tarfile.ReadError(f"{info.name} is cut short")
            members[extension] = _Member(found[2], info.offset_data, data)
        file.seek(min(end, path.stat().st_size))
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"damaged after {end} bytes")
    if members:
        yield key, members


def _row(key: str, members: dict[str, _Member], task: ForeignTask) -> dict[str, Any]:
    manifest = task.manifest
    if printable(key) != key:
        raise ValueError("a name with control characters or bytes that are not UTF-8")
    if TILE_MARK in key:
        raise ValueError("a tile of a larger image; make such shards with `python -m data_prep --tile`")
    masks = (task.mask_extension.lower().removeprefix("."),) if task.mask_extension else ()
    pictures = {name: member for name, member in members.items() if name not in masks}
    extension = _choose(pictures, task.image_extension, _IMAGES)
    if extension is None:
        raise ValueError(f"no image among {', '.join(members)}")
    others = {name: member for name, member in members.items() if name != extension}
    mask_extension = _choose(others, task.mask_extension, _MASKS)
    image = load_image(members[extension].data, extension, depth=manifest.depth)
    mask = others.get(mask_extension or "")
    if mask is None and not task.missing_is_clean:
        raise ValueError(f"no mask among {', '.join(members)}; --missing-mask clean takes that for no defect")
    bitmask = decode_stored_mask(manifest, mask.data if mask is not None else b"", *image.size)
    _check_bits(bitmask, manifest)
    signature = image_signature(gray_of(image.pixels)) if task.with_signatures else b""
    return {
        "key": key,
        "image_id": f"{key}.{members[extension].extension}",
        "image_ext": members[extension].extension,
        **_place("image", members[extension]),
        **_place("mask", mask),
        **_place("json", others.get("json")),
        "height": image.size[0],
        "width": image.size[1],
        "original_height": image.size[0],
        "original_width": image.size[1],
        "areas": mask_areas(bitmask, manifest.num_classes),
        "ignored": ignored_area(bitmask, manifest.ignore_bit),
        **measured(pixel_sums(image.pixels), signature, exif_orientation(members[extension].data)),
    }


def _check_bits(bitmask: np.ndarray, manifest: Manifest) -> None:
    known = (1 << manifest.num_classes) - 1 | (0 if manifest.ignore_bit is None else 1 << manifest.ignore_bit)
    beyond = int(np.bitwise_or.reduce(bitmask, axis=None)) & ~known
    if beyond:
        raise ValueError(f"the mask has bit {beyond.bit_length() - 1}, beyond {manifest.num_classes} classes")


def _choose(members: dict[str, _Member], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    """The extension that holds the image or the mask: the one asked for, in any case of letters and with a dot before
    it or not, else the first usual one; None without any."""
    candidates = usual if wanted is None else (wanted.lower().removeprefix("."),)
    return next((extension for extension in candidates if extension in members), None)


def _place(kind: str, member: _Member | None) -> dict[str, int]:
    if member is None:
        return {f"{kind}_offset": 0, f"{kind}_length": 0, f"{kind}_crc": 0}
    return {
        f"{kind}_offset": member.offset,
        f"{kind}_length": len(member.data),
        f"{kind}_crc": zlib.crc32(member.data),
    }

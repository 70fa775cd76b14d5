"""Pages of a TIFF, written by Pillow and by tifffile: each is a whole TIFF of its own, with the values it had."""

import errno
import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steel import storage
from steel.errors import ResourceError, exit_code
from steel.images.decode import decode_pixels
from steel.images.listing import ImageRecord, list_images, split_pages
from steel.images.tiff_pages import count_pages, page_of
from steel.validation_errors import ValidationErrors

RANDOM = np.random.default_rng(0)
PAGES = [
    RANDOM.integers(0, 256, (31, 47), np.uint8),
    RANDOM.integers(0, 256, (20, 90, 3), np.uint8),
    RANDOM.integers(0, 65536, (64, 33), np.uint16),
]


def by_pillow(pages: list[np.ndarray], **options: Any) -> bytes:
    first, *others = [Image.fromarray(page) for page in pages]
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}],
    ids=lambda options: options.get("compression", "raw"),
)
def test_pages_by_pillow(options: dict[str, Any]) -> None:
    data = by_pillow(PAGES, **options)
    assert count_pages(data) == 3
    for number, pixels in enumerate(PAGES, 1):
        page = page_of(memoryview(data), number)
        assert count_pages(page) == 1
        assert np.array_equal(decode_pixels(page), pixels)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(page))), pixels)
        assert len(page) < pixels.nbytes + 3000, "it does not carry the other pages along"
        assert page_of(page, 1) == page
    for number in (0, 4):
        with pytest.raises(ValueError, match=f"a TIFF of 3 pages has no page {number}"):
            page_of(data, number)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_pages_by_tifffile(order: str, big: bool) -> None:
    """In tiles, in many strips, of either order of bytes, with a smaller copy and another kind of metadata between."""
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=big, byteorder=order) as writer:
        writer.write(PAGES[0], photometric="minisblack", tile=(32, 32), description="the first, in tiles")
        writer.write(PAGES[0][::2, ::2], photometric="minisblack", subfiletype=1)
        writer.write(PAGES[1], photometric="rgb", rowsperstrip=3, compression="zlib", predictor=True)
        writer.write(PAGES[2], photometric="minisblack", rowsperstrip=5, resolution=(300, 300))
    data = buffer.getvalue()
    assert count_pages(data) == 3
    for number, pixels in enumerate(PAGES, 1):
        page = page_of(data, number)
        assert np.array_equal(tifffile.imread(io.BytesIO(page)), pixels)
        assert np.array_equal(decode_pixels(page), pixels)
    with tifffile.TiffFile(io.BytesIO(page_of(data, 1))) as file:
        assert file.pages[0].description == "the first, in tiles"


def test_palettes_and_alpha_of_a_page_stay() -> None:
    coloured = Image.fromarray(PAGES[0], "P")
    coloured.putpalette(RANDOM.integers(0, 256, 768, np.uint8).tolist())
    clear = Image.fromarray(np.dstack([PAGES[1], np.full((20, 90), 7, np.uint8)]))
    buffer = io.BytesIO()
    coloured.save(buffer, "TIFF", save_all=True, append_images=[clear], compression="tiff_lzw")
    assert np.array_equal(decode_pixels(page_of(buffer.getvalue(), 1)), np.asarray(coloured.convert("RGB")))
    assert np.array_equal(decode_pixels(page_of(buffer.getvalue(), 2)), PAGES[1])


def test_a_damaged_file_is_a_value_error_wherever_it_is_cut() -> None:
    data = by_pillow(PAGES, compression="tiff_lzw")
    for length in range(8, len(data), len(data) // 60):
        with pytest.raises(ValueError, match="damaged TIFF"):
            pytest.fail(f"{length}: {[page_of(data[:length], number)[:8] for number in (1, 2, 3)]}")
    changed = bytearray(data)
    struct.pack_into("<I", changed, 4, 2**31)
    with pytest.raises(ValueError, match="damaged TIFF"):
        page_of(bytes(changed), 1)


def test_what_a_page_would_lose_is_refused() -> None:
    """A tag that points to pixels beside the strips, in the place of the one that tells the rows in a strip."""
    data = by_pillow(PAGES[:1])
    kind = next(kind for kind in (3, 4) if struct.pack("<HH", 278, kind) in data)
    old = data.replace(struct.pack("<HH", 278, kind), struct.pack("<HH", 513, kind))
    with pytest.raises(ValueError, match="a JPEG of the old kind"):
        page_of(old, 1)


@pytest.mark.parametrize("big", [False, True])
def test_edited_files_are_pages_or_a_value_error(big: bool) -> None:
    data = by_pillow([page[:9, :9] for page in PAGES], big_tiff=big, compression="tiff_lzw")
    for seed in range(600):
        random = np.random.default_rng(seed)
        edited = bytearray(data)
        for _ in range(1 + seed % 3):
            edited[int(random.integers(4, len(data)))] = int(random.choice([0, 1, 4, 16, 127, 255]))
        try:
            pages = [page_of(bytes(edited), number) for number in range(1, count_pages(bytes(edited)) + 1)]
        except ValueError:
            continue
        assert all(len(page) < 2 * len(data) for page in pages), seed


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_the_pages_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a" / "stack.TIF", by_pillow(PAGES))
    write(tmp_path / "one.tiff", by_pillow(PAGES[:1]))
    write(tmp_path / "text.tif", b"no image")
    write(tmp_path / "cut.tif", by_pillow(PAGES)[:40])
    write(tmp_path / "b.png", b"")
    names = [record.image_id for record in list_images(str(tmp_path))]
    assert names == ["a/stack.TIF", "b.png", "cut.tif", "one.tiff", "text.tif"]
    records = list_images(str(tmp_path), tiff_pages="split")
    assert [(record.image_id, record.page) for record in records] == [
        ("a/stack_p1.TIF", 1),
        ("a/stack_p2.TIF", 2),
        ("a/stack_p3.TIF", 3),
        ("b.png", None),
        ("cut.tif", None),
        ("one.tiff", None),
        ("text.tif", None),
    ]
    for record, pixels in zip(records, PAGES, strict=False):
        assert np.array_equal(decode_pixels(record.read()), pixels)
    assert records[5].read() == by_pillow(PAGES[:1])


@pytest.mark.parametrize(
    ("number", "is_told"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EACCES, False), (errno.ENOENT, False)]
)
def test_pages_are_not_lost_where_a_disk_fails_while_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_told: bool
) -> None:
    write(tmp_path / "stack.tif", by_pillow(PAGES))

    def fail(url: str) -> None:
        raise OSError(number, os.strerror(number), url)

    monkeypatch.setattr(storage, "mapped", fail)
    if is_told:
        with pytest.raises(ResourceError, match=r"stack\.tif: cannot be read now \(.*\); see to that") as told:
            list_images(str(tmp_path), tiff_pages="split")
        assert exit_code(told.value) == 1
    else:
        assert [record.page for record in list_images(str(tmp_path), tiff_pages="split")] == [None]


def test_a_page_that_is_called_as_another_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "stack.tif", by_pillow(PAGES))
    write(tmp_path / "stack_p2.tif", by_pillow(PAGES[:1]))
    with pytest.raises(ValidationErrors, match=r"pages that are called as another image.*stack_p2\.tif"):
        list_images(str(tmp_path), tiff_pages="split")
    assert len(split_pages([ImageRecord("stack.tif", str(tmp_path / "stack.tif"))])) == 3

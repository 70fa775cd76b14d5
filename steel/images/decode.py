"""Image files -> pixels: the one place where they are decoded, and so the one notion of a whole file.

JPEG, PNG, TIFF, BMP and WebP are told apart by their first bytes. Refused is every file that is cut short, and every
one whose damage its format can show: all of PNG (checksums); all of TIFF with deflate, most with other compression;
JPEG with a hole of zeros, or where the damaged code no longer fits, which libjpeg only warns of and simplejpeg takes
for an error. Not to be seen, because nothing in the file contradicts it: a JPEG whose changed bytes decode to just as
many blocks (there are no checksums; the fewer they are, the likelier), and changed bytes inside BMP, WebP and
uncompressed TIFF. Refused, too, is a file of several images: TIFFs of several pages, animated PNG and WebP.

EXIF rotation is ignored on purpose: masks and run-length codes are about pixels as they are stored.
"""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import PIL
import simplejpeg

from steel.images.jpeg import has_hole
from steel.images.memory import raise_out_of_memory
from steel.images.pillow_reader import read_by_pillow, size_by_pillow
from steel.images.pixel_format import EIGHT_BITS, MAX_PIXELS, Depth, check_size, to_channels
from steel.images.png import SIGNATURE, PngHeader, check_png, decode_unfiltered
from steel.images.tiff import TiffHeader, check_tiff, tiff_header
from steel.images.webp import check_webp

_Kind = Literal["JPEG", "PNG", "TIFF", "BMP", "WebP"]
_STARTS: dict[bytes, _Kind] = {
    b"\xff\xd8": "JPEG",
    SIGNATURE: "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
}
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are told in one line, by whoever asked


def decode_image(data: bytes, channels: int, depth: Depth = EIGHT_BITS) -> np.ndarray:
    """What a network of so many channels is shown of a file, before any resizing.

    Args:
        data: the file.
        channels: 1 or 3.
        depth: how images of 16 bits become images of 8.

    Returns:
        (H, W) uint8 for 1 channel, (H, W, 3) RGB uint8 for 3.

    Raises:
        ValueError: not a whole image, too large, or of a depth that is not wanted.
        MemoryError: there is too little memory for it, which is no fault of the file.
    """
    is_gray_jpeg = channels == 1 and _kind(data) == "JPEG"
    return to_channels(depth.to_uint8(_decode_jpeg(data, "GRAY") if is_gray_jpeg else decode_pixels(data)), channels)


def decode_pixels(data: bytes) -> np.ndarray:
    """Pixels (H, W), or (H, W, 3) in RGB, of the file's own depth; palettes applied, alpha left out.

    Raises:
        ValueError: not a whole image, or too large.
    """
    kind = _kind(data)
    if kind == "JPEG":
        return _decode_jpeg(data, "RGB")
    header = _check_frame(data, kind)
    if isinstance(header, TiffHeader) and header.has_straight_alpha and header.depth == 8:
        values = read_by_pillow(data, "TIFF")  # OpenCV would darken colours by their alpha
        return values[:, :, 0] if values.shape[2] == 2 else np.ascontiguousarray(values[:, :, :3])
    pixels = _decode_by_opencv(data, kind, _AS_STORED)
    if header is not None and header.depth > 8 and pixels.dtype == np.uint8 and not header.is_palette:
        raise ValueError(f"an unusual {kind} of {header.depth} bits a value; save it without alpha, at 8 or 16 bits")
    if isinstance(header, TiffHeader) and 8 < header.depth < 16:
        pixels = pixels >> (16 - header.depth)  # OpenCV spreads packed values over 16 bits
    return pixels if pixels.ndim == 2 else cv2.merge(cv2.split(pixels)[::-1])


def decoder_versions() -> str:
    """The libraries that pixels come from, with their versions: another one may differ in the last bit."""
    return f"opencv {cv2.__version__}, simplejpeg {simplejpeg.__version__}, pillow {PIL.__version__}"


def count_pixels(data: bytes) -> int:
    """Pixels of an image file by its header alone, before room is made for them; of a tile of a TIFF that is larger.

    Raises:
        ValueError: not an image, damaged where it can be seen without decoding, or too large.
    """
    kind = _kind(data)
    if kind == "TIFF":
        return tiff_header(data).pixels
    if kind == "JPEG":
        height, width, _ = _jpeg_header(data)
    elif kind == "PNG":
        width, height = check_png(data)[:2]
    else:
        width, height = size_by_pillow(data, kind)
    check_size(width, height)
    return width * height


def decode_labels(data: bytes) -> np.ndarray:
    """The stored values of a mask, palette indices as they are, of single bits what they show. Maybe read-only.

    Returns:
        (H, W), or (H, W, channels) for a file with colours; uint8 or uint16.

    Raises:
        ValueError: not a whole PNG, TIFF or BMP file, too large, or with values that are no labels.
    """
    return to_labels(decode_values(data))


def decode_values(data: bytes) -> np.ndarray:
    """As `decode_labels`, in the file's own type: bool, any integers, or floating point.

    Raises:
        ValueError: not a whole PNG, TIFF or BMP file, or too large.
    """
    kind = _kind(data)
    if kind not in ("PNG", "TIFF", "BMP"):
        raise ValueError(f"{kind} does not keep the values of masks; give PNG, TIFF or BMP")
    header = _check_frame(data, kind)
    own = decode_unfiltered(data) if kind == "PNG" else None
    if own is not None:
        return own
    if header is None or header.is_palette:  # OpenCV would turn palettes into colours
        values = read_by_pillow(data, kind)
        if header is None and values.dtype == bool and _bmp_depth(data) in (4, 8):  # Pillow unpacks them as single bits
            return _decode_by_opencv(data, kind, cv2.IMREAD_GRAYSCALE) != 0
        return values
    if header.depth == 1:  # black and white, whichever of them is stored as 0
        return read_by_pillow(data, kind)
    if header.depth < 8:  # of which OpenCV makes 0..255, and so does Pillow
        pixels = read_by_pillow(data, kind)
    else:
        pixels = _decode_by_opencv(data, kind, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if isinstance(header, TiffHeader) and header.is_white_zero and header.samples == 1 and header.depth <= 8:
        pixels = ~pixels
    if header.depth < 8:
        return pixels // (255 // (2**header.depth - 1))
    return pixels if pixels.ndim == 2 else np.concatenate([pixels[:, :, 2::-1], pixels[:, :, 3:]], axis=2)


def to_labels(values: np.ndarray) -> np.ndarray:
    """Values of any type as uint8 or uint16.

    Raises:
        ValueError: some are not whole numbers from 0 to 65535.
    """
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype == bool:
        return values.astype(np.uint8)
    unusable = (values < 0) | (values > 65535)
    if values.dtype.kind == "f":
        unusable |= values != np.floor(values)  # also what is not a number
    if unusable.any():
        found = values[unusable]
        raise ValueError(f"{len(found):,} values that are not whole numbers from 0 to 65535, such as {found[0]!s}")
    return values.astype(np.uint16)


def is_tiff(data: bytes | memoryview) -> bool:
    """Whether the first bytes are those of a TIFF."""
    return any(bytes(data[: len(start)]) == start for start, kind in _STARTS.items() if kind == "TIFF")


def _kind(data: bytes) -> _Kind:
    """Which format it is, by its first bytes.

    Raises:
        ValueError: none of those that are read.
    """
    if not len(data):
        raise ValueError("an empty file")
    head = bytes(data[:12])
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WebP"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    raise ValueError("not a readable image (JPEG, PNG, TIFF, BMP or WebP)")


def _bmp_depth(data: bytes) -> int:
    """Bits of a pixel of a BMP, by its header of 40 bytes or more."""
    return int.from_bytes(data[28:30], "little")


def _check_frame(data: bytes, kind: _Kind) -> PngHeader | TiffHeader | None:
    """The header of a PNG or TIFF that is whole; of other formats, decoders notice themselves when they are cut.

    Raises:
        ValueError: damaged, too large, or several images.
    """
    if kind == "WebP":
        check_webp(data)
    checks: dict[_Kind, Callable[[bytes], PngHeader | TiffHeader]] = {"PNG": check_png, "TIFF": check_tiff}
    return checks[kind](data) if kind in checks else None


def _jpeg_header(data: bytes) -> tuple[int, int, str]:
    """Height, width and colour space of a JPEG."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:  # KeyError: a subsampling that has no name there
        raise ValueError(f"damaged or unusual JPEG ({error})") from error
    return int(height), int(width), space


def _decode_jpeg(data: bytes, colours: Literal["GRAY", "RGB"]) -> np.ndarray:
    """A JPEG as gray (H, W), or as (H, W, 3) RGB unless it is stored gray: the pixels that OpenCV makes of it."""
    height, width, space = _jpeg_header(data)
    check_size(width, height)
    if has_hole(data):
        raise ValueError("damaged JPEG (a hole of zeros in its code)")
    colours = "GRAY" if space == "Gray" else colours
    try:
        pixels = simplejpeg.decode_jpeg(data, colours)
    except ValueError as error:
        raise_out_of_memory(error, "JPEG")
        raise ValueError(f"damaged JPEG ({error})") from error
    return pixels[:, :, 0] if colours == "GRAY" else pixels


def _decode_by_opencv(data: bytes, kind: _Kind, how: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        raise_out_of_memory(error, kind)
        raise ValueError(f"more than {MAX_PIXELS:,} pixels, or a {kind} beyond OpenCV; cut it into tiles") from error
    if pixels is None:
        raise ValueError(f"damaged or unusual {kind}")
    return pixels

"""Pillow's decoders, one format at a time, for stored values that OpenCV would change and strips that it lets pass."""

import io
import threading
from typing import Literal

import numpy as np

from steel.images.memory import raise_out_of_memory

_limit = threading.Lock()


def read_by_pillow(data: bytes, kind: Literal["PNG", "TIFF", "BMP"]) -> np.ndarray:
    """The values of a file of this format, and no other, of any size.

    `Image.open` would look for other formats, too, and Pillow's limit is lower than what one line camera makes in a
    second; whoever calls this has looked at the size.

    Raises:
        ValueError: damaged, or a variant that Pillow does not know.
        MemoryError: there is too little memory for it, which is no fault of the file.
    """
    from PIL import Image
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.TiffImagePlugin import TiffImageFile

    reader = {"PNG": PngImageFile, "TIFF": TiffImageFile, "BMP": BmpImageFile}[kind]
    with _limit:  # the limit is one for the whole process, and TIFFs meet it only as they are decoded
        found, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with reader(io.BytesIO(data)) as image:  # type: ignore[abstract]
                return np.asarray(image)
        except Exception as error:  # on damaged files Pillow raises whatever its parser stumbles over
            raise_out_of_memory(error, kind)
            raise ValueError(f"damaged or unusual {kind} ({error})") from error
        finally:
            Image.MAX_IMAGE_PIXELS = found


def size_by_pillow(data: bytes, kind: Literal["BMP", "WebP"]) -> tuple[int, int]:
    """Width and height by the header of a file of this format, and no other; nothing is decoded.

    Raises:
        ValueError: damaged, or a variant that Pillow does not know.
        MemoryError: there is too little memory for it, which is no fault of the file.
    """
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    try:
        with (BmpImageFile if kind == "BMP" else WebPImageFile)(io.BytesIO(data)) as image:
            return image.size
    except Exception as error:  # on damaged files Pillow raises whatever its parser stumbles over
        raise_out_of_memory(error, kind)
        raise ValueError(f"damaged or unusual {kind} ({error})") from error

"""The values in one mask file, and the classes that they mean.

A label map holds 0 for the background and a number a class; with a single class 255 will do for 1. In a file of one
class 0 is outside and one other value, whichever it is, inside. Any further value is refused by name: it may be a soft
edge, or a class that was not foreseen. Where a threshold is given, files are of one class each, every value from it up
is inside and every other outside; values need not be whole numbers then, JPEG will do, and single bits and palettes
are the grays that a viewer shows. In coloured masks each class has a colour, and black is the background unless a class
has it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from steel import storage
from steel.images.decode import decode_pixels, decode_values, to_labels
from steel.images.listing import LOSSY_SUFFIXES
from steel.labels.sizes import TURNED, resize_plane, same_shape
from steel.validation_errors import Issue, ValidationErrors

THRESHOLD_HINT = "--mask-threshold T takes values from T up as inside"
COLOUR_HINT = "--class-names '#ff0000=NAME,...' says what each colour means"


@dataclass(frozen=True)
class MaskCode:
    """What the values of mask files mean."""

    value_of: dict[int, int]
    """Value or colour of a label map -> class (from 1); empty when every file is of one class."""
    ignore_value: int | None = None
    threshold: float | None = None
    """Values from here up are inside, in files of one class each."""
    has_colours: bool = False
    resize: bool = False
    """Masks of another size than their image are brought to it."""
    is_one_class: bool = False
    """There is a single class, so that a threshold could tell it."""

    def planes(self, url: str, class_id: int, height: int, width: int) -> dict[int, np.ndarray]:
        """The masks (height, width) of uint8 0/1 in one file, by class; ignored pixels under 0.

        Args:
            url: Of the file.
            class_id: The one class of the file; 0 for a label map.
            height: Of the image, in pixels.
            width: Likewise.

        Raises:
            ValidationErrors: unreadable, of another size, or with unknown values.
        """
        if self.has_colours:
            values = read_colours(url)
        elif self.threshold is not None:
            values = read_grays(url)
        else:
            values = read_values(url)
        if values.shape != (height, width) and not (self.resize and same_shape(values.shape, (height, width))):
            raise ValidationErrors([_size_issue(values.shape, height, width, url)])
        if self.threshold is not None:
            found = self._planes_above(class_id or 1, values, self.threshold, url)
        else:
            found = self._planes_of(class_id, values if self.has_colours else labels_of(values, url), url)
        return {k: resize_plane(plane, height, width) for k, plane in found.items()}

    def _planes_above(self, class_id: int, values: np.ndarray, threshold: float, url: str) -> dict[int, np.ndarray]:
        """The plane of a class where values reach the threshold; ignored pixels under 0."""
        undefined = np.count_nonzero(np.isnan(values))
        if undefined:
            raise ValidationErrors([Issue("masks with unusable values", f"{url} ({undefined:,} that are not numbers)")])
        inside, ignored = values >= threshold, np.zeros(values.shape, bool)
        if self.ignore_value is not None:
            ignored = values == self.ignore_value
        found = {class_id: inside & ~ignored, 0: ignored}
        return {k: plane.view(np.uint8) for k, plane in found.items() if plane.any()}

    def _planes_of(self, class_id: int, pixels: np.ndarray, url: str) -> dict[int, np.ndarray]:
        """The planes in one file of labels, by class; ignored pixels under 0."""
        values = [v for v in distinct_values(pixels) if v != 0 or 0 in self.value_of]
        inside = [v for v in values if v != self.ignore_value]
        if class_id:
            if len(inside) > 1:
                raise self._unknown_values(url, inside, f"expected 0 and one other; {THRESHOLD_HINT}")
            class_of = dict.fromkeys(inside, class_id)
        else:
            unknown = [v for v in inside if v not in self.value_of]
            if unknown:
                hint = COLOUR_HINT if self.has_colours else THRESHOLD_HINT if self.is_one_class else "--class-names"
                raise self._unknown_values(url, unknown, f"known are {self._known()}; {hint}")
            class_of = {v: self.value_of[v] for v in inside}
            if len(set(class_of.values())) < len(class_of):
                raise self._unknown_values(url, inside, "one class, but two values: is 255 the ignored one?")
        planes = {k: (pixels == value).view(np.uint8) for value, k in class_of.items()}
        if self.ignore_value in values:
            planes[0] = (pixels == self.ignore_value).view(np.uint8)
        return planes

    def _known(self) -> str:
        return ", ".join(map(self._shown, dict.fromkeys([0, *self.value_of])))

    def _shown(self, value: int) -> str:
        return f"#{value:06x}" if self.has_colours else str(value)

    def _unknown_values(self, url: str, values: list[int], expected: str) -> ValidationErrors:
        some = ", ".join(map(self._shown, values[:5])) + (", ..." if len(values) > 5 else "")
        return ValidationErrors([Issue(f"masks with unknown values ({expected})", f"{url} (values {some})")])


def read_values(url: str) -> np.ndarray:
    """The stored values (H, W) of a mask file, palette indices as they are, in the file's own type.

    Raises:
        ValidationErrors: unreadable, or in true colours.
    """
    try:
        pixels = decode_values(storage.read_bytes(url))
    except (OSError, ValueError) as error:
        raise _unreadable(url, error) from error
    return _gray_of(pixels, url)


def read_colours(url: str) -> np.ndarray:
    """The colours (H, W) of a mask file as int32 0xRRGGBB, palettes applied, transparency left out.

    Raises:
        ValidationErrors: unreadable, or of more than 8 bits a value.
    """
    try:
        pixels = decode_pixels(storage.read_bytes(url))
        if pixels.dtype != np.uint8:
            raise ValueError(f"{pixels.dtype} values; colours have 8 bits")
    except (OSError, ValueError) as error:
        raise _unreadable(url, error) from error
    if pixels.ndim == 2:
        return pixels.astype(np.int32) * 0x010101
    return pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def read_grays(url: str) -> np.ndarray:
    """The values (H, W) of a mask file that a threshold is for; JPEG and WebP are allowed, as grays.

    Raises:
        ValidationErrors: unreadable, or in true colours.
    """
    is_lossy = url.lower().endswith(LOSSY_SUFFIXES)
    try:
        data = storage.read_bytes(url)
        pixels = decode_pixels(data) if is_lossy else decode_values(data)
        if pixels.ndim == 2 and pixels.dtype in (np.uint8, bool):
            pixels = decode_pixels(data)  # single bits and indices of a palette are no grays
    except (OSError, ValueError) as error:
        raise _unreadable(url, error) from error
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if is_lossy and pixels.ndim == 3 else _gray_of(pixels, url)


def _gray_of(pixels: np.ndarray, url: str) -> np.ndarray:
    """The one value (H, W) of each pixel (H, W) or (H, W, channels): what has colours may be gray, opaque everywhere.

    Raises:
        ValidationErrors: in true colours, or transparent somewhere.
    """
    if pixels.ndim == 2:
        return pixels
    if (
        pixels.shape[2] in (2, 4)
        and pixels.dtype.kind == "u"
        and (pixels[:, :, -1] == np.iinfo(pixels.dtype).max).all()
    ):
        pixels = pixels[:, :, :-1]
    if pixels.shape[2] not in (1, 3) or (pixels != pixels[:, :, :1]).any():
        raise ValidationErrors([Issue(f"masks in true colours or with transparency ({COLOUR_HINT})", url)])
    return pixels[:, :, 0]


def labels_of(values: np.ndarray, url: str) -> np.ndarray:
    """Stored values as uint8 or uint16.

    Raises:
        ValidationErrors: some are no labels; the message names them.
    """
    try:
        return to_labels(values)
    except ValueError as error:
        issue = Issue(f"masks with unusable values (for one class, {THRESHOLD_HINT})", f"{url} ({error})")
        raise ValidationErrors([issue]) from error


def distinct_values(pixels: np.ndarray) -> list[int]:
    """The values that occur in pixels of any whole numbers, sorted."""
    if pixels.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(cv2.calcHist([pixels], [0], None, [256], [0, 256]))]
    return [int(v) for v in np.unique(pixels)]


def _unreadable(url: str, error: Exception) -> ValidationErrors:
    return ValidationErrors([Issue("unreadable masks", f"{url} ({error})")])


def _size_issue(shape: tuple[int, ...], height: int, width: int, url: str) -> Issue:
    sizes = f"{url} ({shape[0]}x{shape[1]}, its image {height}x{width})"
    if same_shape(shape, (height, width)):
        return Issue("masks of another size than their image (--resize-masks brings them to it)", sizes)
    if shape[:2] == (width, height):
        return Issue(f"masks{TURNED} (turn them, or export them anew)", sizes)
    return Issue("masks of another shape than their image (are they of other images?)", sizes)

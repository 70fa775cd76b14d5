"""Labels as shapes: outlines, run lengths, discs and small masks, drawn when they are asked for."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from steel.errors import InputError
from steel.images.decode import decode_values
from steel.labels.coco_rle import check_counts, decode_counts, fill_counts
from steel.labels.options import LabelOptions
from steel.labels.polygon import fill_polygon
from steel.labels.sizes import TURNED, resize_plane, same_shape
from steel.labels.stray import NO_AREA, OPTION
from steel.validation_errors import Issue, ValidationErrors

LARGEST = 1e9
"""Pixels; no coordinate is beyond it."""

SLACK = 0.5
"""How far outside of its image a shape may reach, in image sizes; an annotator's hand slips over the border."""


class Shape(Protocol):
    """Something that covers pixels of an image."""

    def draw(self, plane: np.ndarray) -> int:
        """Set its pixels in a mask (height, width) of uint8 to 1; returns how many it covers.

        Raises:
            ValueError: it does not fit the image.
        """


@dataclass(frozen=True, slots=True)
class Polygon:
    """An outline, see `steel.labels.polygon`."""

    coordinates: bytes
    """x, y, x, y, ... in the smallest type that holds them. There may be millions of polygons, and an array has a
    hundred bytes beside its numbers."""
    kind: str
    """Of the numbers, as numpy's `dtype.char`."""
    is_relative: bool = False
    """Coordinates are shares of the image's width and height."""

    def draw(self, plane: np.ndarray) -> int:
        """As in `Shape`; see `steel.labels.polygon` for which pixels are inside."""
        points = np.frombuffer(self.coordinates, self.kind).astype(np.float64).reshape(-1, 2)
        points = points * plane.shape[::-1] if self.is_relative else points
        count = fill_polygon(points, plane)
        if count:
            _check_reach(points.min(axis=0), points.max(axis=0), plane)
        return count


@dataclass(frozen=True, slots=True)
class Ellipse:
    """A disc, perhaps stretched and turned: the pixels whose centres are less than its radii from its centre."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    degrees: float = 0.0
    """Turned clockwise."""

    def draw(self, plane: np.ndarray) -> int:
        """As in `Shape`."""
        if not (self.radius_x > 0 and self.radius_y > 0):
            return 0
        height, width = plane.shape
        reach = max(self.radius_x, self.radius_y)
        rows = slice(*(int(np.clip(v, 0, height)) for v in (self.y - reach - 1, self.y + reach + 1)))
        columns = slice(*(int(np.clip(v, 0, width)) for v in (self.x - reach - 1, self.x + reach + 1)))
        dx = np.arange(columns.start, columns.stop) + 0.5 - self.x
        dy = (np.arange(rows.start, rows.stop) + 0.5 - self.y)[:, None]
        turn = np.deg2rad(self.degrees)
        along = (dx * np.cos(turn) + dy * np.sin(turn)) / self.radius_x
        across = (dy * np.cos(turn) - dx * np.sin(turn)) / self.radius_y
        with np.errstate(over="ignore"):  # what is so far outside need not be a number
            inside = along**2 + across**2 < 1
        plane[rows, columns] |= inside.view(np.uint8)
        if inside.any():
            middle, turned = np.array([self.x, self.y]), np.array([np.cos(turn), np.sin(turn)])
            half = np.hypot(self.radius_x * turned, self.radius_y * turned[::-1])
            _check_reach(middle - half, middle + half, plane)
        return int(np.count_nonzero(inside))


@dataclass(frozen=True, slots=True)
class Runs:
    """Run lengths of a window of the image, outside and inside in turn."""

    counts: np.ndarray | str
    """(n,) whole numbers, or COCO's compressed text."""
    window: tuple[int, int, int, int] | None = None
    """Left, top, width, height; the whole image when None."""
    size: tuple[int, int] | None = None
    """Height and width of the image that they are for; unknown when None."""
    by_rows: bool = False
    """Pixels are counted along the rows instead of down the columns."""

    def draw(self, plane: np.ndarray) -> int:
        """As in `Shape`."""
        height, width = plane.shape
        if self.size is not None and self.size != plane.shape:
            raise InputError(f"RLE for {self.size[0]}x{self.size[1]} pixels, the image has {height}x{width}")
        counts = decode_counts(self.counts) if isinstance(self.counts, str) else self.counts.astype(np.int64)
        left, top, columns, rows = self.window or (0, 0, width, height)
        if left < 0 or top < 0 or left + columns > width or top + rows > height:
            raise InputError(f"RLE for {rows}x{columns} pixels at {left}, {top}: beyond the image of {height}x{width}")
        check_counts(counts, rows * columns)
        return fill_counts(counts, plane[top : top + rows, left : left + columns], by_rows=self.by_rows)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A small mask as an image file, somewhere in the image; what lies beyond the border is cut off."""

    data: bytes
    left: int
    top: int

    def draw(self, plane: np.ndarray) -> int:
        """As in `Shape`."""
        values = decode_values(self.data)
        bits = ((values if values.ndim == 2 else values.max(axis=2)) != 0).view(np.uint8)
        (height, width), (rows, columns) = plane.shape, bits.shape
        top, left = np.clip([self.top, self.left], 0, [height, width])
        bottom, right = np.clip([self.top + rows, self.left + columns], 0, [height, width])
        bits = bits[top - self.top : bottom - self.top, left - self.left : right - self.left]
        plane[top:bottom, left:right] |= bits
        return int(np.count_nonzero(bits))


def _check_reach(low: np.ndarray, high: np.ndarray, plane: np.ndarray) -> None:
    """Refuse what covers pixels of an image and reaches far beyond it: it was most likely drawn for another size.

    What covers none is told as that.

    Args:
        low: (2,) the least x and y.
        high: (2,) the largest.
        plane: (height, width) of the image.

    Raises:
        InputError: more than `SLACK` of the image's sides lie between its border and the end of the shape.
    """
    sides = np.array(plane.shape[::-1])
    if (low < -SLACK * sides).any() or (high > (1 + SLACK) * sides).any():
        reach = "{:g}, {:g} to {:g}, {:g}".format(*low, *high)
        raise InputError(f"reaches from {reach}, far beyond the image of {plane.shape[0]}x{plane.shape[1]}")


def polygon_of(numbers: np.ndarray, *, is_relative: bool = False) -> Polygon:
    """A polygon from the coordinates x, y, x, y, ...

    Args:
        numbers: (2 n,) float64.
        is_relative: They are shares of the image's size.

    Raises:
        InputError: an odd count, fewer than 3 points, or coordinates that are no numbers or beyond every image.
    """
    if len(numbers) % 2 or len(numbers) < 6:
        raise InputError(f"{len(numbers)} coordinates, where a polygon has pairs, and 3 or more")
    if not (np.abs(numbers) <= LARGEST).all():
        raise InputError(f"a coordinate of {numbers[~(np.abs(numbers) <= LARGEST)][0]:g}")
    small = shrink(numbers)
    return Polygon(small.tobytes(), small.dtype.char, is_relative)


def shrink(numbers: np.ndarray) -> np.ndarray:
    """Numbers in the smallest of a few types that holds them exactly."""
    for kind in (np.uint16, np.int32, np.float32):
        with np.errstate(invalid="ignore", over="ignore"):
            small = numbers.astype(kind)
        if np.array_equal(small, numbers):
            return small
    return numbers


@dataclass(frozen=True)
class ShapeMasks:
    """The shapes of a set of images."""

    class_names: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, Shape], ...]]
    """Image id -> (class from 1, shape); without entry: clean."""
    sizes: dict[str, tuple[int, int]]
    """Image id -> height and width that the shapes were drawn for, where labels say so."""
    options: LabelOptions
    where: str
    """File or folder that they are from."""
    ignore: bool = False

    def class_ids(self, image_id: str) -> frozenset[int]:
        """The image's classes, of shapes that may turn out to cover no pixel."""
        return frozenset(class_id for class_id, _ in self.shapes.get(image_id, ()))

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """The masks (height, width) of uint8 0/1 of the classes that the image has.

        Raises:
            ValidationErrors: labels of another size than the image, and every shape that does not fit or covers no
                pixel.
        """
        size = self.sizes.get(image_id, (height, width))
        if size != (height, width):
            self._check_size(image_id, size, (height, width))
        planes: dict[int, np.ndarray] = {}
        issues: list[Issue] = []
        for number, (class_id, shape) in enumerate(self.shapes.get(image_id, ()), 1):
            plane = planes.setdefault(class_id, np.zeros(size, np.uint8))
            name = f"{image_id} shape {number} ({self.class_names[class_id - 1]})"
            try:
                if not shape.draw(plane) and self.options.stray_labels == "error":
                    issues.append(Issue(f"{NO_AREA} ({OPTION})", name))
            except ValueError as error:
                issues.append(Issue("shapes that do not fit their image", f"{name}: {error}"))
        if issues:
            raise ValidationErrors(issues, f"in {self.where}")
        return {k: resize_plane(plane, height, width) for k, plane in planes.items()}

    def _check_size(self, image_id: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        kind, hint = "labels for another shape of their image", "; was it turned since?"
        if same_shape(size, wanted):
            if self.options.resize_masks:
                return
            kind, hint = "labels for another size of their image", "; --resize-masks brings them to it"
        elif size == wanted[::-1]:
            kind, hint = f"labels{TURNED} (turn the images back, or export labels anew)", ""
        name = f"{image_id} ({size[0]}x{size[1]}, the image is {wanted[0]}x{wanted[1]})"
        raise ValidationErrors([Issue(kind, name)], f"in {self.where}{hint}")

    def subset(self, image_ids: Collection[str]) -> "ShapeMasks":
        """The shapes of these images alone."""
        return replace(
            self,
            shapes={i: self.shapes[i] for i in image_ids if i in self.shapes},
            sizes={i: self.sizes[i] for i in image_ids if i in self.sizes},
        )

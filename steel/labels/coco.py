"""COCO's JSON: polygons and run lengths, compressed or not.

A segmentation is a list of polygons, whose pixels are added up as the COCO tools do, or run lengths; where there is
none, the box is what was drawn. `iscrowd` says how a region was drawn, not what it shows: such regions are masks as any
other. An image that is listed without annotations is clean; one that is not listed has no labels.
"""

import codecs
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from steel import storage
from steel.errors import InputError, counted
from steel.labels.coco_rle import counts_of, encode_counts
from steel.labels.image_index import ImageIndex
from steel.labels.json_stream import stream_lists
from steel.labels.labels import LabelledImage
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.polygon import trace_polygons
from steel.labels.shape_collector import ShapeCollector
from steel.labels.shapes import Runs, Shape, polygon_of, shrink
from steel.labels.stray import NO_AREA, NO_IMAGE

KEYS = frozenset(("images", "annotations", "categories"))
AS_LIST = "put a list of results into the file of its images and categories, as `annotations`"
"""What to do with COCO's results, which do not say what image or class a number is."""
_MALFORMED = "malformed entries"


def read_coco(urls: Sequence[str], where: str, images: ImageIndex, options: LabelOptions) -> FoundLabels:
    """Read COCO files, each a part of the labels, as a stream: only the shapes are kept.

    Args:
        urls: Of the files; classes of the same name are one.
        where: The file or folder, for messages.
        images: Of the folder of images.
        options: Classes that it does not name are the categories, in the order of their ids.

    Raises:
        ValidationErrors: everything that cannot be used, at once.
        InputError: no such file, or not COCO's JSON.
    """
    collector = ShapeCollector(where, images, options)
    numbers: dict[str, list[int]] = {}
    groups: set[str] = set()
    for url in urls:
        part = _Part(url)
        try:
            with storage.local_copy(url) as path:
                if storage.read_range(path, 0, 64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
                    raise InputError(f"not COCO's: a list, and no object of {', '.join(sorted(KEYS))}; {AS_LIST}")
                there = stream_lists(path, part.on_item)
            if missing := sorted(KEYS - there):
                raise InputError(f"not COCO's: `{missing[0]}` is missing")
        except InputError as error:
            raise InputError(f"{url}: {error}") from error
        part.hand_over(collector)
        for number, (name, group) in sorted(part.categories.items(), key=lambda entry: _order(entry[0])):
            numbers.setdefault(name, []).extend([number] if isinstance(number, int) else [])
            groups |= {group} - {name}  # some tools name each category as its own group
    if options.classes is None:  # a category that only groups others, as some tools write it, is no class
        used = collector.used_classes()
        numbers = {name: ids for name, ids in numbers.items() if name in used or name not in groups}
    return collector.finish(numbers)


def _order(number: int | str) -> tuple[bool, int, str]:
    return (True, 0, number) if isinstance(number, str) else (False, number, "")


class _Part:
    """One file while it is read: annotations may come before the images and categories that they speak of."""

    def __init__(self, url: str) -> None:
        self.categories: dict[int | str, tuple[str, str]] = {}
        self._url, self._name = url, url.rpartition("/")[2]
        self._images: dict[int | str, tuple[str, tuple[int, int] | None]] = {}
        self._shapes: dict[int | str, list[tuple[int | str, Shape]]] = {}
        self._issues: list[tuple[str, str]] = []
        self.on_item = {"categories": self._category, "images": self._image, "annotations": self._annotation}
        """What is called with each element of the file's lists."""

    def _category(self, entry: Any) -> None:
        number, name = _identity(entry, "id"), _field(entry, "name", str)
        if number is None or name is None:
            self._issues.append((_MALFORMED, f"a category in {self._name} ({_shown(entry)})"))
        elif (other := self.categories.get(number, (name,))[0]) != name:
            self._issues.append(("categories with the same id", f"{name} and {other} in {self._name}"))
        else:
            self.categories[number] = name, _field(entry, "supercategory", str) or ""

    def _image(self, entry: Any) -> None:
        number, name = _identity(entry, "id"), _field(entry, "file_name", str)
        if number is None or not name:
            self._issues.append((_MALFORMED, f"an image in {self._name} ({_shown(entry)})"))
            return
        if number in self._images:
            self._issues.append(("images with the same id", f"{name} and {self._images[number][0]} in {self._name}"))
        height, width = _identity(entry, "height"), _identity(entry, "width")
        is_size = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
        self._images[number] = name, (height, width) if is_size else None  # type: ignore[assignment]

    def _annotation(self, entry: Any) -> None:
        shown = f"annotation {_identity(entry, 'id') if isinstance(entry, dict) else ''} in {self._name}"
        image, category = _identity(entry, "image_id"), _identity(entry, "category_id")
        if image is None or category is None:
            self._issues.append((_MALFORMED, f"{shown} ({_shown(entry)})"))
            return
        shapes = self._shapes.setdefault(image, [])
        try:
            found = list(_shapes_of(entry.get("segmentation"), entry.get("bbox")))
        except InputError as error:
            self._issues.append((_MALFORMED, f"{shown} ({error})"))
            return
        if not found:
            self._issues.append((NO_AREA, f"{shown} (no outline)"))
        shapes += [(category, shape) for shape in found]

    def hand_over(self, collector: ShapeCollector) -> None:
        """Everything of this file, once all of it was read."""
        for kind, name in self._issues:
            collector.fail(kind, name)
        for number, (file_name, size) in self._images.items():
            image_id = collector.open_image(file_name, size, file_name, self._url)
            for category, shape in self._shapes.pop(number, []):
                if image_id is not None:
                    name, _ = self.categories.get(category, (f"category {category}, which is not listed", ""))
                    collector.add(image_id, name, shape)
        for number, shapes in self._shapes.items():
            told = f"image id {number}, which is not listed in {self._name}"
            collector.fail(NO_IMAGE, f"{told} ({counted(len(shapes), 'shape')})")


def _shapes_of(segmentation: Any, box: Any) -> Iterable[Shape]:
    """The shapes of one annotation, its box where there is no segmentation; none where it has no outline.

    Raises:
        InputError: neither polygons nor run lengths, or a malformed box.
    """
    has_none = segmentation is None or (isinstance(segmentation, list) and all(ring == [] for ring in segmentation))
    if has_none and box:
        yield _box_of(box)
        return
    if isinstance(segmentation, dict):
        yield _runs_of(segmentation)
        return
    if segmentation is not None and not isinstance(segmentation, list):
        raise InputError(f"a segmentation of {_shown(segmentation)}")
    for ring in segmentation or []:
        numbers = _numbers(ring)
        if len(numbers) > 4 or len(numbers) % 2:  # a point or a line is no outline
            yield polygon_of(numbers)


def _box_of(box: Any) -> Shape:
    numbers = _numbers(box)
    if len(numbers) != 4:
        raise InputError(f"a box of {_shown(box)}")
    left, top, width, height = numbers
    right, bottom = left + width, top + height
    return polygon_of(np.array([left, top, right, top, right, bottom, left, bottom]))


def _runs_of(segmentation: dict[str, Any]) -> Runs:
    counts, size = segmentation.get("counts"), _numbers(segmentation.get("size"))
    if len(size) != 2 or not (size == np.floor(size)).all() or not ((size > 0) & (size < 1 << 30)).all():
        raise InputError(f"run lengths of the size {_shown(segmentation.get('size'))}")
    height_width = _same_size(*map(int, size))
    if isinstance(counts, str):
        return Runs(counts, size=height_width)
    lengths = _numbers(counts)
    if not (lengths == np.floor(lengths)).all() or not (np.abs(lengths) < 1 << 40).all():
        raise InputError("run lengths that are no whole numbers")
    return Runs(shrink(lengths.astype(np.int64)), size=height_width)


@lru_cache
def _same_size(height: int, width: int) -> tuple[int, int]:
    """The one pair for all run lengths of a size: there may be millions."""
    return height, width


def _numbers(values: Any) -> np.ndarray:
    """A list of numbers as (n,) float64."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise InputError(f"{_shown(values)} where a list of numbers should be")
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise InputError("a number beyond every image") from error


def _identity(entry: Any, key: str) -> int | str | None:
    """An id: a whole number, `3.0` too, or a text; None where there is none."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _field(entry: Any, key: str, kind: type) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, kind) else None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


class CocoImage(NamedTuple):
    """An image and what is written of it."""

    image_id: str
    height: int
    width: int
    annotations: Iterable[dict[str, Any]]
    """`category_id`, `segmentation` and what else an annotation says; ids are given when they are written."""


def write_coco(url: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Write a COCO file: a polygon for each part of a mask that hangs together, which gives its pixels back exactly.

    Args:
        url: File to write, a path or URL.
        class_names: The categories, numbered from 1.
        images: In the order of the file.
    """
    write_annotations(
        url,
        class_names,
        (
            CocoImage(
                image.image_id,
                image.height,
                image.width,
                (
                    {"category_id": class_id, **describe_polygon(outline.points, outline.area)}
                    for class_id, plane in sorted(image.planes.items())
                    for outline in trace_polygons(plane)
                ),
            )
            for image in images
        ),
    )


def write_annotations(
    url: str, class_names: Sequence[str], images: Iterable[CocoImage], *, staging: str | None = None
) -> None:
    """Write a COCO file of any annotations, each image as it comes; images and annotations are numbered from 1.

    Args:
        url: the file to write.
        class_names: of the categories, in their order.
        images: with their annotations.
        staging: as for `steel.storage.open_write`.
    """
    count = 0
    with (
        storage.open_write(url, staging=staging) as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as listed,
    ):
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        categories = [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(class_names, 1)]
        text.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')
        for number, image in enumerate(images, 1):
            entry = {"id": number, "file_name": image.image_id, "height": image.height, "width": image.width}
            listed.write(("" if number == 1 else ", ") + json.dumps(entry, ensure_ascii=False))
            for annotation in image.annotations:
                count += 1
                entry = {"id": count, "image_id": number, **annotation}
                text.write(("\n" if count == 1 else ",\n") + json.dumps(entry))
        text.write('],\n"images": [')
        listed.seek(0)
        shutil.copyfileobj(listed, text)
        text.write("]}\n")
        text.detach()


def describe_polygon(points: np.ndarray, area: int) -> dict[str, Any]:
    """What an annotation says of an outline (n, 2) along pixel edges."""
    low, high = points.min(axis=0), points.max(axis=0)
    box = [*low.tolist(), *(high - low).tolist()]
    return {"segmentation": [points.ravel().tolist()], "area": area, "bbox": box, "iscrowd": 0}


def describe_runs(plane: np.ndarray) -> dict[str, Any]:
    """What an annotation says of a mask (height, width) of bool, not empty, as compressed run lengths."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1]
    runs = {"size": list(plane.shape), "counts": encode_counts(counts_of(plane))}
    return {"segmentation": runs, "area": int(np.count_nonzero(plane)), "bbox": box, "iscrowd": 0}

"""LabelMe's JSON, one file per image: polygons, rectangles, circles and masks.

The file belongs to the image of the same relative path, else to the one that its `imagePath` names. Coordinates are
those of `steel.labels.polygon`: of a border that passes through a pixel, the side of the pixel's centre decides.
(LabelMe's own export to masks also fills every pixel that the border touches.)
"""

import base64
import binascii
import codecs
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from steel import storage
from steel.errors import InputError
from steel.images.listing import image_stem
from steel.labels.image_index import ImageIndex
from steel.labels.labels import LabelledImage
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.place import Place, read_all
from steel.labels.polygon import trace_polygons
from steel.labels.shape_collector import ShapeCollector
from steel.labels.shapes import LARGEST, Ellipse, Shape, Stamp, polygon_of
from steel.labels.stray import NO_AREA
from steel.plain import parse_json

KEYS = frozenset(("shapes", "imagePath", "imageData"))
_VERSION = "5.5.0"
"""Of LabelMe, whose form is written."""


def read_labelme(place: Place, images: ImageIndex, options: LabelOptions) -> FoundLabels:
    """Read a folder of LabelMe files, or a single one.

    Args:
        place: Of the files.
        images: Of the folder of images.
        options: Classes that it does not name are the labels, in alphabetical order.

    Raises:
        ValidationErrors: everything that cannot be used, at once.
        InputError: no classes, or too many.
    """
    collector = ShapeCollector(place.url, images, options)
    names: set[str] = set()
    for path, data in read_all(place, ".json"):
        try:
            if isinstance(data, OSError):
                raise data
            content = parse_json(data.removeprefix(codecs.BOM_UTF8))
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise InputError("not LabelMe's: `shapes` is missing")
        except (InputError, OSError) as error:
            collector.fail("files that cannot be read", f"{path} ({error})")
            continue
        _collect(path, storage.join(place.url, path), content, images, options, collector, names)
    return collector.finish(dict.fromkeys(sorted(names), ()))


def _collect(
    path: str,
    url: str,
    content: dict[str, Any],
    images: ImageIndex,
    options: LabelOptions,
    collector: ShapeCollector,
    names: set[str],
) -> None:
    """Add one file's shapes."""
    named, is_own_name = _name_of_image(path, content.get("imagePath"), images, options)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    is_size = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    size = (height, width) if is_size else None
    image_id = collector.open_image(named, size, path, "" if is_own_name else url)  # type: ignore[arg-type]
    for number, shape in enumerate(content["shapes"], 1):
        shown = f"{path} shape {number}"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            collector.fail("shapes without a label", shown)
            continue
        names.add(label)
        try:
            found = _shape_of(shape)
        except InputError as error:
            collector.fail("malformed shapes", f"{shown} ({error})")
            continue
        if found is None:
            collector.fail(NO_AREA, f"{shown} ({shape.get('shape_type')})")
        elif image_id is not None:
            collector.add(image_id, label, found)


def _name_of_image(path: str, image_path: Any, images: ImageIndex, options: LabelOptions) -> tuple[str, bool]:
    """What a file calls its image: its own name where an image has it, else its `imagePath`, which starts in the file's
    folder; and whether it is the former.

    Where neither is an image's without an option, it is the own name, if that has an issue to be told.

    Args:
        path: Of the file.
        image_path: What stands in it.
        images: Of the folder of images.
        options: Whether capitals count.
    """
    by_name = images.of_file_name(f"{image_stem(path)}.json", options, "labels")
    if by_name.image_id is not None and by_name.issue is None:
        return by_name.image_id, True
    if not isinstance(image_path, str) or not image_path.strip():
        return path, True
    by_path = images.of_file_name(image_path, options, "labels", path.rpartition("/")[0])
    is_image = by_path.image_id is not None and by_path.issue is None
    return (image_path, False) if is_image or by_name.issue is None else (path, True)


def _shape_of(shape: dict[str, Any]) -> Shape | None:
    """One shape; None for points and lines, which have no area.

    Raises:
        InputError: malformed.
    """
    kind, points = shape.get("shape_type") or "polygon", _points(shape.get("points"))
    if kind == "mask":
        return _stamp_of(shape.get("mask"), points)
    if kind in ("point", "points", "line", "linestrip") or len(points) < 2:
        return None
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points[0].tolist(), points[1].tolist()
        radius = float(np.hypot(edge_x - x, edge_y - y))
        return Ellipse(x, y, radius, radius) if radius else None
    if kind == "rectangle" and len(points) == 2:  # any two opposite corners
        (left, top), (right, bottom) = points.tolist()
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    elif kind not in ("polygon", "rectangle", "oriented_rectangle"):
        raise InputError(f"a shape of the kind {kind!r}")
    return polygon_of(points.ravel()) if len(points) > 2 else None


def _points(value: Any) -> np.ndarray:
    """(n, 2) float64 from a list of pairs."""
    pairs = value if isinstance(value, list) else [None]
    if not all(isinstance(p, list) and len(p) == 2 and set(map(type, p)) <= {int, float} for p in pairs):
        raise InputError("points that are no pairs of numbers")
    try:
        points = np.array(pairs, np.float64).reshape(-1, 2)
    except OverflowError as error:
        raise InputError("a number beyond every image") from error
    if not (np.abs(points) <= LARGEST).all():
        raise InputError("a coordinate beyond every image")
    return points


def _stamp_of(mask: Any, points: np.ndarray) -> Stamp:
    """A mask: a PNG in base64, whose first pixel lies at the first point."""
    if not isinstance(mask, str) or not len(points):
        raise InputError("a mask without pixels or place")
    try:
        data = base64.b64decode(mask, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("a mask that is not in base64") from error
    left, top = np.round(points[0]).astype(int).tolist()
    return Stamp(data, left, top)


def write_labelme(out: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Write a file per image: a polygon for each part of a mask that hangs together, which gives its pixels back.

    Args:
        out: Local folder, which exists; files lie in it as images do in theirs.
        class_names: The labels.
        images: Clean ones get a file without shapes.
    """
    for image in images:
        shapes: list[dict[str, Any]] = [
            {
                "label": class_names[class_id - 1],
                "points": [[float(x), float(y)] for x, y in outline.points.tolist()],
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for class_id, plane in sorted(image.planes.items())
            for outline in trace_polygons(plane)
        ]
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.image_id.rpartition("/")[2],
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        path = Path(out, f"{image_stem(image.image_id)}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")

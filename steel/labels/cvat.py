"""CVAT's XML for images: polygons, boxes, ellipses, masks, and tags that say that an image is clean.

An image that is listed without shapes is clean. Where some such images have a tag that is no class of shapes (`good`,
`checked`), the tag is what says so, and those without it have no labels: CVAT lists all images of a task, looked at or
not. A tag that names a class of shapes says that there is a defect but not where, so the image must have such a shape.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from steel import storage
from steel.errors import InputError
from steel.labels.image_index import ImageIndex
from steel.labels.labels import LabelledImage
from steel.labels.mask_names import MISSING_HINT
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.polygon import trace_polygons
from steel.labels.shape_collector import ShapeCollector
from steel.labels.shapes import LARGEST, Ellipse, Runs, Shape, polygon_of, shrink
from steel.labels.stray import NO_AREA

_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")
_NO_CLASSES = ("tag", "polyline", "points", "cuboid", "skeleton")
"""Types of labels that shapes with an area cannot have."""


def read_cvat(urls: Sequence[str], where: str, images: ImageIndex, options: LabelOptions) -> FoundLabels:
    """Read XML files, each a part of the labels, an image at a time.

    Args:
        urls: Of the files.
        where: The file or folder, for messages.
        images: Of the folder of images.
        options: Classes that it does not name are the labels of the task, in its order, but for those of tags alone.

    Raises:
        ValidationErrors: everything that cannot be used, at once.
        InputError: not CVAT's XML for images.
    """
    collector = ShapeCollector(where, images, options)
    names: dict[str, None] = {}
    tags: dict[str, frozenset[str]] = {}
    for url in urls:
        try:
            with storage.local_copy(url) as path:
                for element in _stream(path):
                    if element.tag == "label":
                        names |= dict.fromkeys(_class_of(element))
                    else:
                        _collect(element, url, collector, tags)
        except InputError as error:
            raise InputError(f"{url}: {error}") from error
    used = collector.used_classes()
    of_tags = frozenset().union(*tags.values())
    names = {name: None for name in names if name in used or name not in of_tags}
    _judge_tags(tags, collector, options)
    return collector.finish(dict.fromkeys([*names, *sorted(used - names.keys())], ()))


def _stream(path: Path) -> Iterator[ET.Element]:
    """The labels of the task and the images of a file, each dropped once it was used.

    Raises:
        InputError: no XML, other XML, or tracks of a video.
    """
    root: ET.Element | None = None
    for event, element in _events(path):
        if root is None:
            root = element
            if root.tag == "annotation":
                raise InputError(
                    "Pascal VOC's XML, whose boxes are no masks; give its SegmentationClass folder where there is one "
                    "(--labels-format masks), or export polygons or masks, as COCO, CVAT for images 1.1, LabelMe or "
                    "YOLO segmentation"
                )
            if root.tag != "annotations":
                raise InputError(f"not CVAT's: `{root.tag}` where `annotations` should be")
        elif event == "end" and element.tag == "track":
            raise InputError("tracks of a video; export it as `CVAT for images 1.1`")
        elif event == "end" and element.tag in ("label", "image"):
            yield element
            element.clear()
            if element.tag == "image":
                root.clear()


def _events(path: Path) -> Iterator[tuple[str, ET.Element]]:
    try:
        yield from ET.iterparse(path, events=("start", "end"))
    except (ET.ParseError, LookupError, ValueError) as error:  # the latter of encodings that it does not know
        raise InputError(f"not XML: {error}") from error


def _class_of(label: ET.Element) -> list[str]:
    """The class that a label of the task stands for, if it can have shapes with an area."""
    name, kind = label.findtext("name"), label.findtext("type") or "any"
    is_class = name and kind not in _NO_CLASSES and label.find("parent") is None
    return [name] if name and is_class else []


def _collect(image: ET.Element, url: str, collector: ShapeCollector, tags: dict[str, frozenset[str]]) -> None:
    """Add one image's shapes and tags."""
    name = image.get("name") or ""
    sides = [image.get(side, "") for side in ("height", "width")]
    is_size = all(side.isascii() and side.isdigit() and 0 < len(side) < 10 for side in sides)
    size = (int(sides[0]), int(sides[1])) if is_size else None
    shown = name or f"an image in {url.rpartition('/')[2]}"
    image_id = collector.open_image(name, size if size and min(size) else None, shown, url)
    if image_id is not None:
        tags[image_id] = frozenset(tag.get("label") or "" for tag in image.iter("tag"))
    for number, element in enumerate((e for e in image if e.tag not in ("tag", "attribute")), 1):
        shown, label = f"{name} shape {number}", element.get("label")
        if element.tag in _WITHOUT_AREA:
            collector.fail(NO_AREA, f"{shown} ({element.tag})")
            continue
        try:
            if not label:
                raise InputError("without a label")
            shape = _shape_of(element)
        except InputError as error:
            collector.fail("malformed shapes", f"{shown} ({error})")
            continue
        if image_id is not None:
            collector.add(image_id, label, shape)


def _shape_of(element: ET.Element) -> Shape:
    """One shape.

    Raises:
        InputError: malformed, or of an unknown kind.
    """
    if element.tag == "polygon":
        return polygon_of(np.array(_floats(element.get("points", "").replace(";", ","))))
    if element.tag == "mask":
        left, top, width, height = (_whole(element, name) for name in ("left", "top", "width", "height"))
        counts = np.array(_floats(element.get("rle", "")))
        if not (counts == np.floor(counts)).all() or not (np.abs(counts) < 1 << 40).all():
            raise InputError("run lengths that are no whole numbers")
        return Runs(shrink(counts.astype(np.int64)), (left, top, width, height), by_rows=True)
    turn = _number(element, "rotation", "0")
    if element.tag == "ellipse":
        x, y, radius_x, radius_y = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
        return Ellipse(x, y, radius_x, radius_y, turn)
    if element.tag != "box":
        raise InputError(f"a shape of the kind {element.tag!r}")
    left_x, top_y, right, bottom = (_number(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([[left_x, top_y], [right, top_y], [right, bottom], [left_x, bottom]])
    middle, angle = corners.mean(axis=0), np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return polygon_of((middle + (corners - middle) @ rotation if turn else corners).ravel())


def _floats(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{text[:40]!r} where numbers should be") from error


def _number(element: ET.Element, name: str, default: str = "") -> float:
    (value, *more) = _floats(element.get(name, default))
    if more or not abs(value) <= LARGEST:
        raise InputError(f"{name} of {element.get(name, default)[:40]!r}")
    return value


def _whole(element: ET.Element, name: str) -> int:
    value = _number(element, name)
    if not value.is_integer() or value < 0:
        raise InputError(f"{name} of {element.get(name)!r}")
    return int(value)


def _judge_tags(tags: dict[str, frozenset[str]], collector: ShapeCollector, options: LabelOptions) -> None:
    """Tell clean images from those that nobody has labelled; see the module."""
    if options.missing_mask == "clean":
        return
    used = collector.used_classes()
    classes_of = {image_id: collector.classes_of(image_id) for image_id in tags}
    marks = {tag for image_id, those in tags.items() if not classes_of[image_id] for tag in those - used}
    for image_id, those in tags.items():
        for name in sorted(those & used - classes_of[image_id]):
            collector.fail(
                f"images tagged with a class, without a shape of it ({MISSING_HINT})", f"{image_id} ({name})"
            )
        if marks and not classes_of[image_id] and not those:
            kind = f"images without shapes and without the tag that others have ({', '.join(sorted(marks))})"
            collector.fail(f"{kind} ({MISSING_HINT})", image_id)


def write_cvat(url: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Write a file that CVAT imports: a polygon for each part of a mask that hangs together, its pixels given exactly.

    Args:
        url: File to write, a path or URL.
        class_names: The labels of the task.
        images: In the order of the file.
    """
    with storage.open_write(url) as file:
        file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        meta = ET.Element("meta")
        labels = ET.SubElement(ET.SubElement(meta, "task"), "labels")
        for name in class_names:
            label = ET.SubElement(labels, "label")
            ET.SubElement(label, "name").text = name
            ET.SubElement(label, "attributes")
        file.write(ET.tostring(meta) + b"\n")
        for number, image in enumerate(images):
            sides = {"width": str(image.width), "height": str(image.height)}
            element = ET.Element("image", {"id": str(number), "name": image.image_id, **sides})
            for class_id, plane in sorted(image.planes.items()):
                for outline in trace_polygons(plane):
                    points = ";".join(f"{x},{y}" for x, y in outline.points.tolist())
                    fixed = {"source": "manual", "occluded": "0", "z_order": "0"}
                    ET.SubElement(element, "polygon", {"label": class_names[class_id - 1], "points": points, **fixed})
            file.write(ET.tostring(element) + b"\n")
        file.write(b"</annotations>\n")

"""A stranger's label format, as an extension of its own: no program that shards needs torch."""

from collections.abc import Iterable

import numpy as np

from steel import storage
from steel.extensions import register
from steel.inference.writers import WRITERS, FileWriter, Predicted
from steel.labels.formats import FORMATS, LabelFormat
from steel.labels.image_index import ImageIndex
from steel.labels.labels import LabelledImage
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.place import Place
from steel.labels.shape_collector import ShapeCollector
from steel.labels.shapes import polygon_of


def read_boxes(place: Place, images: ImageIndex, options: LabelOptions) -> FoundLabels:
    """A label format: a line per box, `image class left top right bottom`; images without a line are clean."""
    collector = ShapeCollector(place.url, images, options)
    boxes = [line.split() for line in storage.read_bytes(place.url).decode().splitlines()]
    for name in dict.fromkeys([*images.image_ids, *(box[0] for box in boxes)]):
        image_id = collector.open_image(name, None, name)
        for _, class_name, *sides in (box for box in boxes if box[0] == name):
            left, top, right, bottom = map(float, sides)
            corners = np.array([left, top, right, top, right, bottom, left, bottom])
            if image_id is not None:
                collector.add(image_id, class_name, polygon_of(corners))
    return collector.finish(dict.fromkeys((box[1] for box in boxes), ()))


def write_areas(url: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Its other way: a line per mask, with its area."""
    lines = [f"{i.image_id} {class_names[k - 1]} {plane.sum()}" for i in images for k, plane in i.planes.items()]
    storage.write_text(url, "\n".join(lines))


register(
    FORMATS,
    "boxes",
    LabelFormat("lines of boxes", lambda place, images: place.url.endswith(".boxes"), read_boxes, write_areas),
)


def write_counts(url: str, predicted: Predicted) -> None:
    """A format of predictions: a line an image, with the number of its regions."""
    storage.write_text(url, "\n".join(f"{image_id} {count}" for image_id, count in predicted.entries.items()))


register(WRITERS, "counts", FileWriter("regions an image", "counts.txt", lambda p: len(p.regions()), write_counts))

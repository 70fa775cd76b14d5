"""Formats for `test_fuzz`: files of labels."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from steel.errors import InputError
from steel.images.png import encode_png
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from tests.fuzzing import JSON_EDITS, VALUES, Format, edit_bytes

NAMES = ("a.png", "b.png", "c.png")
SQUARE = [1.5, 1, 6, 1, 6, 5.25, 1, 5]


def with_images(name: str, text: str) -> Callable[[Path], str]:
    """Three images of 8x9 pixels, and a file of labels."""

    def make(folder: Path) -> str:
        (folder / "images").mkdir()
        for image in NAMES:
            cv2.imwrite(str(folder / "images" / image), np.full((8, 9), 7, np.uint8))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        return name

    return make


def reads(name: str, format: str, **options: Any) -> Callable[[Path], Any]:
    """Classes and bitmasks of all images; what is wrong with one names the image instead of the file."""

    def read(folder: Path) -> Any:
        path = folder / name
        found = load_labels(folder / "images", path, LabelOptions(format=format, **options))
        try:
            return found.class_names, [found.bitmask(image, 8, 9).tolist() for image in NAMES]
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    return read


COCO = {
    "info": {"year": 2026},
    "images": [{"id": k, "file_name": name, "height": 8, "width": 9} for k, name in enumerate(NAMES)],
    "categories": [{"id": 1, "name": "pit"}, {"id": 2, "name": "dent", "supercategory": "any"}],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [SQUARE, [0, 0, 9, 8, 0, 8]], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": {"size": [8, 9], "counts": [10, 5, 57]}},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": {"size": [8, 9], "counts": ":5i1"}, "iscrowd": 1},
        {"id": 4, "image_id": 2, "category_id": 1, "segmentation": [], "bbox": [1, 1, 3.5, 2]},
    ],
}

LABELME = {
    "version": "5.5.0",
    "flags": {},
    "shapes": [
        {"label": "pit", "points": [[1, 1], [6.5, 1], [5, 6]], "group_id": None, "shape_type": "polygon", "flags": {}},
        {"label": "pit", "points": [[1, 1], [6, 3]], "shape_type": "rectangle"},
        {"label": "dent", "points": [[4, 4], [6, 4]], "shape_type": "circle"},
        {
            "label": "dent",
            "points": [[2, 3], [3, 4]],
            "shape_type": "mask",
            "mask": base64.b64encode(encode_png(np.array([[1, 0], [1, 1]], np.uint8))).decode(),
        },
    ],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": 8,
    "imageWidth": 9,
}

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels><label><name>pit</name><type>any</type></label><label><name>good</name><type>tag</type></label>
</labels></task></meta>
<image id="0" name="a.png" width="9" height="8">
<polygon label="pit" points="1.5,1;6,1;6,5.25;1,5" occluded="0"></polygon>
<box label="pit" xtl="1" ytl="2" xbr="5" ybr="6" rotation="30"></box>
</image>
<image id="1" name="b.png" width="9" height="8">
<mask label="pit" rle="0, 3, 1, 2" left="1" top="2" width="3" height="2"></mask>
<ellipse label="pit" cx="4" cy="4" rx="2" ry="3"></ellipse>
</image>
<image id="2" name="c.png" width="9" height="8"><tag label="good" source="manual"></tag></image>
</annotations>
"""


def edit_xml(data: bytes, random: np.random.Generator) -> bytes:
    """Change one attribute, tag or text of an XML file."""
    places = list(re.finditer(rb'(?<=")[^"<>]*(?=")|(?<=>)[^<>]+(?=<)|(?<=<)/?[a-z]+', data))
    at = places[int(random.integers(len(places)))]
    values = [str(value).encode("utf-8", "replace") for value in VALUES] + [b"tag", b"mask", b"image", b"track", b"0,1"]
    return data[: at.start()] + values[int(random.integers(len(values)))] + data[at.end() :]


YOLO = "0 0.1 0.1 0.9 0.1 0.5 0.75\n1 0.5 0.5 0.25 0.5\n\n0 0 0 1 0 1 1 0 1\n"


def edit_words(data: bytes, random: np.random.Generator) -> bytes:
    """Change one word of a text."""
    places = list(re.finditer(rb"[^\s]+", data))
    at = places[int(random.integers(len(places)))]
    values = [str(value).encode("utf-8", "replace") for value in VALUES] + [b"1 2", b"\n", b"0.5", b"1e-9"]
    return data[: at.start()] + values[int(random.integers(len(values)))] + data[at.end() :]


def make_yolo_names(folder: Path) -> str:
    with_images("labels/a.txt", YOLO)(folder)
    for name in ("b", "c"):
        (folder / f"labels/{name}.txt").touch()
    (folder / "data.yaml").write_text("path: .\nnames:\n  0: pit\n  1: dent\n")
    return "data.yaml"


FORMATS: dict[str, Format] = {
    "COCO": Format(
        with_images("labels.json", json.dumps(COCO)), reads("labels.json", "coco"), JSON_EDITS, names="labels.json"
    ),
    "CVAT": Format(with_images("labels.xml", CVAT), reads("labels.xml", "cvat"), (edit_xml, edit_xml, edit_bytes)),
    "YOLO": Format(
        with_images("labels/a.txt", YOLO),
        reads("labels", "yolo", missing_mask="clean", class_names=["pit", "dent"]),
        (edit_words, edit_words, edit_bytes),
        names="labels",
    ),
    "YOLO's names": Format(make_yolo_names, reads("data.yaml", "yolo"), (edit_words, edit_bytes), names="folder"),
    "LabelMe": Format(
        with_images("labels/a.json", json.dumps(LABELME)),
        reads("labels", "labelme", missing_mask="clean"),
        JSON_EDITS,
        names="labels",
    ),
}

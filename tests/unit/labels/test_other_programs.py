"""Files that other programs wrote, as they wrote them, in `files/`; what they were given stands here.

labelme/ by LabelMe 6.3.1: `labelme._label_file.write_label_file(path, shapes=..., image_path="a.png", image_height=40,
image_width=60, image_data=<PNG>)`, each shape with the keys of `labelme.app._shape_to_dict` and a mask by
`labelme.utils.img_arr_to_b64`; clean.json without shapes and without the image's bytes.

datumaro/ by Datumaro 1.13.12, CVAT's library for formats: `Dataset.from_iterable(items, categories=...).export(path,
"cvat")` of Polygon, Bbox, Mask, PolyLine, Points and a Label alone.

supervision/ by supervision 0.31.2: `DetectionDataset(classes, images, annotations).as_yolo(
annotations_directory_path=..., data_yaml_path=...)` of the two masks of `traced_masks`, of a box without a mask, and of
nothing.

label_studio/ by label-studio-sdk 2.1.2: tasks.json by `label-studio-converter import coco` of what `write_coco` makes
of the two masks of `traced_masks` and of nothing; result.json by `Converter.convert_to_coco` of these tasks, their
rectangles taken out by the lines of docs/predictions.md.

pycocotools writes test_coco.py's files as they are needed.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_tools
from skimage.draw import disk

from steel.errors import InputError
from steel.labels.labels import Labels
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from tests.label_files import write_images
from tests.paths import ROOT

FILES = Path(__file__).with_name("files")
HEIGHT, WIDTH = 40, 60
TRIANGLE = [3.4, 2.2, 30.7, 5.5, 12.25, 33.3]
STAMP = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], np.uint8)
BOX = (slice(4, 12), slice(40, 50))
"""The pixels with their centres between x 40 and 50.2, y 4.2 and 12."""


def empty() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.uint8)


def by_coco(points: list[float]) -> np.ndarray:
    return coco_tools.decode(coco_tools.frPyObjects([points], HEIGHT, WIDTH))[:, :, 0]


def boxed() -> np.ndarray:
    plane = empty()
    plane[BOX] = 1
    return plane


def stamped() -> np.ndarray:
    plane = empty()
    plane[30:34, 20:25] = STAMP
    return plane


def traced_masks() -> dict[str, np.ndarray]:
    """A ring; and a block with a stamp below it, of whose pixels one touches the others at a corner alone."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ring = (np.hypot(x - 20, y - 18) < 13) & (np.hypot(x - 22, y - 18) > 5)
    blocks = empty()
    blocks[4:12, 40:51] = 1
    blocks[30:34, 40:45] = STAMP
    return {"Riß": ring.astype(np.uint8), "pit": blocks}


def assert_planes(found: Labels, image_id: str, expected: dict[str, np.ndarray]) -> None:
    """The image's pixels are these of these classes, and of no other."""
    bits = found.bitmask(image_id, HEIGHT, WIDTH)
    for number, name in enumerate(found.class_names):
        assert np.array_equal(bits >> number & 1, expected.get(name, empty())), name
    assert found.class_ids(image_id) == {found.class_names.index(name) + 1 for name in expected}


def test_labelme(tmp_path: Path) -> None:
    found = load_labels(write_images(tmp_path, "a.png", "clean.png", shape=(HEIGHT, WIDTH)), FILES / "labelme")
    assert found.class_names == ("Riß", "pit", "scratch")
    pits = stamped()
    pits[disk((27.8 - 0.5, 44.3 - 0.5), 8, shape=pits.shape)] = 1  # skimage has pixel centres at whole numbers
    assert_planes(found, "a.png", {"scratch": by_coco(TRIANGLE), "Riß": boxed(), "pit": pits})
    assert_planes(found, "clean.png", {})


def test_cvat(tmp_path: Path) -> None:
    """Lines and points are told; left out, the rest is whole. A label of tags alone is no class."""
    images = write_images(tmp_path, "a.png", "coil/b.png", "clean.png", shape=(HEIGHT, WIDTH))
    path = FILES / "datumaro/default.xml"
    told = r"shapes that cover no pixel: coil/b\.png shape 2 \(polyline\), coil/b\.png shape 3 \(points\)"
    with pytest.raises(InputError, match=told):
        load_labels(images, path)
    found = load_labels(images, path, LabelOptions(stray_labels="skip"))
    assert found.left_out == ("left out: shapes that cover no pixel (2)",)
    assert found.class_names == ("scratch", "Riß", "pit")
    assert_planes(found, "a.png", {"scratch": by_coco(TRIANGLE), "Riß": boxed(), "pit": stamped()})
    assert_planes(found, "coil/b.png", {"pit": boxed()})
    assert_planes(found, "clean.png", {})


def test_label_studio_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes in as COCO comes out to the pixel, under the names of its local storage."""
    found = load_labels(
        write_images(tmp_path / "images", "a.png", "clean.png", shape=(HEIGHT, WIDTH)),
        FILES / "label_studio/result.json",
    )
    assert_planes(found, "a.png", traced_masks())
    assert_planes(found, "clean.png", {})
    page = (ROOT / "docs/predictions.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copy(FILES / "label_studio/tasks.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    kinds = [
        [shape["type"] for annotation in task["annotations"] for shape in annotation["result"]]
        for name in ("tasks.json", "polygons.json")
        for task in json.loads((tmp_path / name).read_text())
    ]
    assert kinds == [["rectanglelabels", "polygonlabels"] * 4, [], ["polygonlabels"] * 4, []]


def test_yolo(tmp_path: Path) -> None:
    """Polygons are as the COCO tools draw their numbers.

    supervision numbers a mask's border pixels from 0 and joins the numbers, so its outline lies half a pixel up and to
    the left of their centres: a pixel is inside if it, its right, its lower and its lower right neighbour are in the
    mask. If one of the four is not, the outline runs through the pixel's centre.
    """
    images = write_images(tmp_path, "a.png", "box.png", "clean.png", shape=(HEIGHT, WIDTH))
    found = load_labels(images, FILES / "supervision/labels")
    assert found.class_names == ("pit", "Riß")
    drawn = {name: empty() for name in found.class_names}
    for line in (FILES / "supervision/labels/a.txt").read_text("utf-8").splitlines():
        number, *shares = map(float, line.split())
        pixels = np.reshape(shares, (-1, 2)) * [WIDTH, HEIGHT]
        drawn[found.class_names[int(number)]] |= by_coco(pixels.ravel().tolist())
    assert_planes(found, "a.png", drawn)
    for name, mask in traced_masks().items():
        padded = np.pad(mask, (0, 1))
        corners = padded[:-1, :-1] + padded[:-1, 1:] + padded[1:, :-1] + padded[1:, 1:]
        assert np.array_equal(drawn[name][corners != 3], corners[corners != 3] == 4), name
    assert_planes(found, "box.png", {"Riß": boxed()})
    assert_planes(found, "clean.png", {})

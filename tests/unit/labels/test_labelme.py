"""LabelMe files, by its published schema: every kind of shape, and a real data set."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_tools
from skimage.draw import disk

from data_prep.__main__ import main as shard
from steel.errors import InputError
from steel.labels.labelme import write_labelme
from steel.labels.labels import labelled_images
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.shards.reader import ShardReader

REAL_DATA = os.environ.get("STEEL_REAL_DATA")
HEIGHT, WIDTH = 40, 60
TRIANGLE = [[3.4, 2.2], [30.7, 5.5], [12.25, 33.3]]


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH), 90, np.uint8))
    return folder


def shape(label: Any, points: Any, kind: Any = "polygon", **more: Any) -> dict[str, Any]:
    """As LabelMe 5 writes it."""
    fields = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return {**fields, "mask": None, **more}


def write(path: Path, image: str, *shapes: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    path.write_text(json.dumps({**content, "imageHeight": HEIGHT, "imageWidth": WIDTH, **more}))
    return path


def by_coco(points: list[list[float]]) -> np.ndarray:
    return coco_tools.decode(coco_tools.frPyObjects([np.ravel(points).tolist()], HEIGHT, WIDTH))[:, :, 0]


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


STAMP = np.random.default_rng(3).random((7, 9)) < 0.5


def stamped(left: int, top: int) -> np.ndarray:
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    plane[top : top + 7, left : left + 9] = STAMP
    return plane


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """skimage has pixel centres at whole numbers."""
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    plane[disk((y - 0.5, x - 0.5), radius, shape=plane.shape)] = 1
    return plane


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (shape("pit", TRIANGLE), by_coco(TRIANGLE)),
        (shape("pit", TRIANGLE, None), by_coco(TRIANGLE)),
        (shape("pit", [[20.5, 30], [4, 6.5]], "rectangle"), by_coco([[4, 6.5], [20.5, 6.5], [20.5, 30], [4, 30]])),
        (shape("pit", [*TRIANGLE, [1, 20]], "oriented_rectangle"), by_coco([*TRIANGLE, [1, 20]])),
        (shape("pit", [[20.3, 15.8], [25.3, 15.8]], "circle"), disc(20.3, 15.8, 5)),
        (shape("pit", [[2.5, 38], [2.5, 20]], "circle"), disc(2.5, 38, 18)),
        (shape("pit", [[11.0, 5.0], [19.0, 11.0]], "mask", mask=png(STAMP)), stamped(11, 5)),
        (shape("pit", [[10.8, 5.2], [18.8, 11.2]], "mask", mask=png(STAMP.astype(np.uint8) * 255)), stamped(11, 5)),
    ],
    ids=["polygon", "no kind", "rectangle", "oriented", "circle", "cut circle", "mask", "gray mask"],
)
def test_every_kind_of_shape(tmp_path: Path, given: dict[str, Any], expected: np.ndarray) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.json", "a.jpg", given)
    found = load_labels(images, tmp_path / "labels")
    assert found.class_names == ("pit",)
    assert np.array_equal(found.bitmask("a.jpg", HEIGHT, WIDTH), expected)


def test_a_mask_beyond_the_border_is_cut(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.json", "a.jpg", shape("pit", [[-2, -3], [6, 3]], "mask", mask=png(STAMP)))
    bits = load_labels(images, tmp_path / "labels").bitmask("a.jpg", HEIGHT, WIDTH)
    assert np.array_equal(bits[:4, :7], STAMP[3:, 2:])
    assert bits.sum() == STAMP[3:, 2:].sum()


def test_files_belong_to_images_by_name_or_by_their_path(tmp_path: Path) -> None:
    """Beside the images, in a folder of the same shape, or with names of their own."""
    write_images(tmp_path, "a.jpg", "coil/b.jpg", "clean.jpg", "c.jpg")
    write(tmp_path / "a.json", "..\\elsewhere\\x.jpg", shape("pit", TRIANGLE))
    write(tmp_path / "coil/b.json", "b.jpg", shape("dent", TRIANGLE))
    write(tmp_path / "clean.json", "clean.jpg")
    write(tmp_path / "labels_of_c.json", "c.jpg", shape("pit", TRIANGLE), shape("dent", TRIANGLE))
    found = load_labels(tmp_path, tmp_path)
    assert found.class_names == ("dent", "pit")
    assert [found.class_ids(i) for i in ("a.jpg", "c.jpg", "clean.jpg", "coil/b.jpg")] == [{2}, {1, 2}, set(), {1}]


def test_a_file_in_other_capitals_needs_the_option_and_its_path_comes_first(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg")
    write(tmp_path / "labels/A.json", "b.jpg", shape("pit", TRIANGLE))
    found = load_labels(images, tmp_path / "labels", LabelOptions(missing_mask="clean"))
    assert (found.class_ids("a.jpg"), found.class_ids("b.jpg")) == (frozenset(), {1})
    for image_path in ("A.jpg", "gone.jpg", ""):
        write(tmp_path / "labels/A.json", image_path, shape("pit", TRIANGLE))
        told = r"labels named in other capitals than their image \(--any-case takes them\): A\.json \(for a\.jpg\)"
        with pytest.raises(InputError, match=told):
            load_labels(images, tmp_path / "labels", LabelOptions(missing_mask="clean"))
        found = load_labels(images, tmp_path / "labels", LabelOptions(missing_mask="clean", any_case=True))
        assert found.class_ids("a.jpg") == {1}


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    labels = tmp_path / "labels"
    odd = [shape("pit", [[1, 2], [3, "x"]]), shape("pit", TRIANGLE, "hexagon"), shape(None, TRIANGLE)]
    odd += [shape("pit", [[1, 2], [5, 6]], "mask"), shape("pit", [[1, 2], [5, 6]], "line"), shape("pit", [[5, 5]] * 2)]
    write(labels / "a.json", "a.jpg", *odd, "no shape", shape("pit", [[5, 5], [5, 5]], "circle"))
    write(labels / "a2.json", "a.jpg", shape("pit", TRIANGLE))
    write(labels / "lost.json", "lost.jpg", shape("pit", TRIANGLE))
    (labels / "b.json").write_text('{"shapes": [')
    (labels / "notes.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        load_labels(images, labels, LabelOptions(format="labelme"))
    line = str(caught.value)
    for expected in (
        "malformed shapes: a.json shape 1 (points that are no pairs of numbers), a.json shape 2 (a shape of the kind",
        "shapes without a label: a.json shape 3, a.json shape 7",
        "shapes that cover no pixel: a.json shape 5 (line), a.json shape 6 (polygon), a.json shape 8 (circle)",
        "second labels for one image: a2.json (for a.jpg)",
        "labels without an image: lost.json",
        "files that cannot be read: b.json (not JSON",
        "notes.json (not LabelMe's: `shapes` is missing)",
        "images without labels: b.jpg, c.jpg",
        "--missing-mask clean takes no labels for no defect",
        "--stray-labels skip leaves them out",
    ):
        assert expected in line, line


def test_a_mask_that_is_no_image_is_told_when_it_is_drawn(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.json", "a.jpg", shape("pit", [[1, 2], [5, 6]], "mask", mask="bm8gaW1hZ2U="))
    with pytest.raises(InputError, match=r"do not fit their image: a\.jpg shape 1 \(pit\): not a readable image"):
        load_labels(images, tmp_path / "labels").bitmask("a.jpg", HEIGHT, WIDTH)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "coil/a.jpg", "b.jpg")
    holes = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.6
    whole = shape("pit", [[0, 0], [WIDTH - 1, HEIGHT - 1]], "mask", mask=png(holes))
    write(tmp_path / "labels/coil/a.json", "a.jpg", whole, shape("dent", TRIANGLE))
    write(tmp_path / "labels/b.json", "b.jpg")
    found = load_labels(images, tmp_path / "labels")
    (tmp_path / "out").mkdir()
    write_labelme(str(tmp_path / "out"), found.class_names, labelled_images(found))
    again = load_labels(images, tmp_path / "out")
    assert again.class_names == found.class_names
    for record in found.images:
        bits = again.bitmask(record.image_id, HEIGHT, WIDTH)
        assert np.array_equal(bits, found.bitmask(record.image_id, HEIGHT, WIDTH))
    content = json.loads((tmp_path / "out/coil/a.json").read_text())
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("a.jpg", HEIGHT, WIDTH)
    assert {entry["shape_type"] for entry in content["shapes"]} == {"polygon"}


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
def test_a_real_data_set_goes_in_by_one_command(tmp_path: Path) -> None:
    """BSData: its own masks are drawn as LabelMe draws them, with every pixel that the border touches."""
    root = Path(str(REAL_DATA)) / "bsdata"
    out = tmp_path / "shards"
    line = ["--images", root / "images", "--labels", root / "labelme", "--out", out, "--no-group-duplicates"]
    assert shard([str(part) for part in (*line, "--workers", 1)]) == 0
    assert ShardReader(str(out)).manifest.num_samples == 216
    found = load_labels(root / "images", root / "labelme")
    assert found.class_names == ("Pitting",)
    ours = theirs = both = 0
    for record in found.images[::6]:
        drawn = np.asarray(Image.open(root / "masks" / f"{Path(record.image_id).stem}.png"))
        bits = found.bitmask(record.image_id, *drawn.shape)
        assert not (bits & ~cv2.dilate(drawn, np.ones((3, 3), np.uint8))).any()
        ours, theirs, both = ours + bits.sum(), theirs + drawn.sum(), both + (bits & drawn).sum()
    assert both > 0.998 * ours and 0.95 * theirs < ours < theirs

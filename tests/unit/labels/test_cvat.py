"""CVAT's XML for images, by its published format: every kind of shape, tags, and what cannot be used."""

import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_tools
from skimage.draw import ellipse

from steel.errors import InputError
from steel.labels.cvat import write_cvat
from steel.labels.labels import Labels, labelled_images
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.labels.shapes import Ellipse

HEIGHT, WIDTH = 40, 60
TASK = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>12</id>
      <name>line 3</name>
      <size>2</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <flipped>False</flipped>
      <labels>
        <label>
          <name>scratch</name>
          <type>any</type>
          <attributes>
            <attribute><name>depth</name><mutable>False</mutable><input_type>number</input_type></attribute>
          </attributes>
        </label>
        <label><name>pit</name><attributes></attributes></label>
        <label><name>good</name><type>any</type><attributes></attributes></label>
        <label><name>arm</name><type>skeleton</type><attributes></attributes></label>
        <label><name>1</name><type>points</type><attributes></attributes><parent>arm</parent></label>
      </labels>
      <segments><segment><id>7</id><start>0</start><stop>1</stop></segment></segments>
    </task>
    <dumped>2026-01-05 11:38:28.799808+03:00</dumped>
  </meta>
"""


def image(name: str, *shapes: str) -> str:
    return f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image>\n'


def polygon(label: str, points: str = "1,1;21,1;21,11;1,11") -> str:
    return f'<polygon label="{label}" source="manual" occluded="0" points="{points}" z_order="1"></polygon>'


def load(folder: Path, *entries: str, **options: object) -> Labels:
    """The labels in a file with these images, of a folder with a.jpg and b.jpg."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(images / name), np.full((HEIGHT, WIDTH), 90, np.uint8))
    (folder / "annotations.xml").write_text(TASK + "".join(entries) + "</annotations>\n")
    return load_labels(images, folder / "annotations.xml", LabelOptions(**options))  # type: ignore[arg-type]


def by_coco(*points: float) -> np.ndarray:
    return coco_tools.decode(coco_tools.frPyObjects([list(points)], HEIGHT, WIDTH))[:, :, 0]


def window(rows: list[list[int]], left: int, top: int) -> np.ndarray:
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    plane[top : top + len(rows), left : left + len(rows[0])] = rows
    return plane


def oval(degrees: float) -> np.ndarray:
    """skimage has pixel centres at whole numbers, and turns the other way round."""
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    rows, columns = ellipse(19.6, 29.9, 7, 15, shape=plane.shape, rotation=-np.deg2rad(degrees))
    plane[rows, columns] = 1
    return plane


ROWS = [[0, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.filterwarnings("error")
def test_an_ellipse_smaller_than_any_number_of_pixels_covers_the_centre_that_it_is_on() -> None:
    plane = np.zeros((4, 6), np.uint8)
    assert Ellipse(2.5, 1.5, 1e-200, 1e-200).draw(plane) == 1
    assert np.argwhere(plane).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (polygon("pit", "3.40,2.20;30.70,5.50;12.25,33.30"), by_coco(3.4, 2.2, 30.7, 5.5, 12.25, 33.3)),
        (
            '<box label="pit" xtl="4.50" ytl="6.20" xbr="20.10" ybr="9.00" occluded="1" z_order="4">'
            '<attribute name="depth">3</attribute></box>',
            by_coco(4.5, 6.2, 20.1, 6.2, 20.1, 9, 4.5, 9),
        ),
        (
            '<box label="pit" xtl="20" ytl="10" xbr="40" ybr="30" rotation="45"></box>',
            by_coco(30, 20 - 200**0.5, 30 + 200**0.5, 20, 30, 20 + 200**0.5, 30 - 200**0.5, 20),
        ),
        (
            '<mask label="pit" source="manual" occluded="0" rle="1, 2, 2, 4, 3" left="7" top="8" width="4" height="3" '
            'z_order="0"></mask>',
            window(ROWS, 7, 8),
        ),
        ('<ellipse label="pit" cx="30.4" cy="20.1" rx="15" ry="7"></ellipse>', oval(0)),
        ('<ellipse label="pit" cx="30.4" cy="20.1" rx="15" ry="7" rotation="30"></ellipse>', oval(30)),
    ],
    ids=["polygon", "box", "turned box", "mask", "ellipse", "turned ellipse"],
)
def test_every_kind_of_shape(tmp_path: Path, shape: str, expected: np.ndarray) -> None:
    found = load(tmp_path, image("a.jpg", shape), image("b.jpg"))
    bits = found.bitmask("a.jpg", HEIGHT, WIDTH)
    assert np.array_equal(bits >> found.class_names.index("pit"), expected)
    assert found.class_ids("b.jpg") == frozenset()


def test_classes_are_the_labels_of_the_task_that_shapes_can_have(tmp_path: Path) -> None:
    good = '<tag label="good" source="manual"></tag>'
    found = load(tmp_path, image("a.jpg", polygon("pit")), image("b.jpg", good))
    assert found.class_names == ("scratch", "pit")
    assert (found.class_ids("a.jpg"), found.class_ids("b.jpg")) == ({2}, frozenset())
    assert load(tmp_path, image("a.jpg"), image("b.jpg")).class_names == ("scratch", "pit", "good")


def test_tasks_may_name_images_alike(tmp_path: Path) -> None:
    for k, line in enumerate(("line1", "line2")):
        (tmp_path / "images" / line).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / line / "a.jpg"), np.full((HEIGHT, WIDTH), 90, np.uint8))
        (tmp_path / "labels" / line).mkdir(parents=True)
        shapes = image("a.jpg", polygon(("scratch", "pit")[k]))
        (tmp_path / "labels" / line / "annotations.xml").write_text(f"{TASK}{shapes}</annotations>\n")
    found = load_labels(tmp_path / "images", tmp_path / "labels")
    assert (found.class_ids("line1/a.jpg"), found.class_ids("line2/a.jpg")) == ({1}, {2})


def test_where_some_images_are_tagged_clean_the_others_are_not(tmp_path: Path) -> None:
    entries = image("a.jpg", '<tag label="good" source="manual"></tag>'), image("b.jpg")
    with pytest.raises(InputError, match=r"images without shapes and without the tag that others have \(good\) \(--m"):
        load(tmp_path, *entries)
    assert load(tmp_path, *entries, missing_mask="clean").class_ids("b.jpg") == frozenset()


def test_a_tag_that_names_a_class_asks_for_its_shape(tmp_path: Path) -> None:
    tag = '<tag label="pit" source="auto"></tag>'
    assert load(tmp_path, image("a.jpg", polygon("pit"), tag), image("b.jpg")).class_ids("a.jpg") == {2}
    with pytest.raises(InputError, match=r"images tagged with a class, without a shape of it .*: b\.jpg \(pit\)"):
        load(tmp_path, image("a.jpg", polygon("pit")), image("b.jpg", tag))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    shapes = [
        polygon("pit", "1,1;2"),
        polygon("pit", "1,1;x,2;3,3"),
        polygon("pit", "1,1;nan,2;3,3"),
        '<box label="pit" xtl="1" ytl="2" xbr="3"></box>',
        '<mask label="pit" rle="1, 2" left="-1" top="0" width="1" height="3"></mask>',
        '<polygon points="1,1;2,2;3,1"></polygon>',
        '<star label="pit"></star>',
        '<polyline label="pit" points="1,1;2,2"></polyline>',
        '<skeleton label="arm"><points label="1" points="1,1"></points></skeleton>',
        polygon("dent"),
    ]
    with pytest.raises(InputError) as caught:
        load(tmp_path, image("a.jpg", *shapes), image("lost.jpg", polygon("pit")), class_names=["pit"])
    line = str(caught.value)
    for expected in (
        "malformed shapes: a.jpg shape 1 (3 coordinates, where",
        "a.jpg shape 2 ('1,1,x,2,3,3' where numbers should be), a.jpg shape 3 (a coordinate of nan)",
        "a.jpg shape 4 ('' where numbers should be), a.jpg shape 5 (left of '-1') and 2 more",
        "shapes that cover no pixel: a.jpg shape 8 (polyline), a.jpg shape 9 (skeleton)",
        "labels without an image: lost.jpg",
        "labels of an unknown class: dent (1 shape)",
        "images without labels: b.jpg",
        "known classes: pit",
    ):
        assert expected in line, line


@pytest.mark.parametrize(
    "mask", ['rle="1, 2, 3" left="0" top="0" width="2" height="2"', 'rle="0, 4" left="59" top="0" width="2" height="2"']
)
def test_masks_that_do_not_fit_are_told_when_they_are_drawn(tmp_path: Path, mask: str) -> None:
    found = load(tmp_path, image("a.jpg", f'<mask label="pit" {mask}></mask>'), image("b.jpg"))
    with pytest.raises(InputError, match=r"do not fit their image: a\.jpg shape 1 \(pit\): RLE"):
        found.bitmask("a.jpg", HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image>", "no element found|unclosed"),
        ("<dataset></dataset>", "not CVAT's: `dataset` where `annotations` should be"),
        ("<annotation><object><bndbox/></object></annotation>", "Pascal VOC's XML, whose boxes are no masks; .*COCO"),
        (TASK + '<track id="0" label="pit"></track></annotations>', "tracks of a video; export it as `CVAT for images"),
        ("not XML", "syntax error"),
        (
            '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
            + "".join(f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(12))
            + "]><annotations><version>&m;</version></annotations>",
            "amplification",
        ),
    ],
    ids=["cut", "other", "boxes", "video", "no XML", "entities"],
)
def test_files_that_are_not_cvat_are_named(tmp_path: Path, text: str, message: str) -> None:
    load(tmp_path, image("a.jpg"), image("b.jpg"))
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_labels(tmp_path / "images", tmp_path / "annotations.xml")
    assert "annotations.xml: " in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    holes = (np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.6).astype(int)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], holes.ravel(), [2]]))))
    rle = ", ".join(map(str, [*([0] if holes[0, 0] else []), *runs]))
    mask = f'<mask label="pit" rle="{rle}" left="0" top="0" width="{WIDTH}" height="{HEIGHT}"></mask>'
    found = load(tmp_path, image("a.jpg", mask, polygon("scratch")), image("b.jpg"))
    assert np.array_equal(found.bitmask("a.jpg", HEIGHT, WIDTH) >> 1, holes)
    write_cvat(str(tmp_path / "out.xml"), ("Kratzer & <Riß>", "pit", "good"), labelled_images(found))
    again = load_labels(tmp_path / "images", tmp_path / "out.xml")
    assert again.class_names == ("Kratzer & <Riß>", "pit", "good")
    for name in ("a.jpg", "b.jpg"):
        assert np.array_equal(again.bitmask(name, HEIGHT, WIDTH), found.bitmask(name, HEIGHT, WIDTH))
    assert [e.attrib["name"] for e in ET.parse(tmp_path / "out.xml").getroot().iter("image")] == ["a.jpg", "b.jpg"]

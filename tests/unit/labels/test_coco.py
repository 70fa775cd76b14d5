"""COCO files: read as pycocotools reads them, written so that pycocotools reads them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_tools
from pycocotools.coco import COCO

from steel.errors import InputError
from steel.labels.coco import write_coco
from steel.labels.labels import Labels, labelled_images
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions

HEIGHT, WIDTH = 40, 60
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]


def write_images(folder: Path, *names: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full(size, 90, np.uint8))
    return folder


def image_entry(number: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, **more}


def annotation(number: int, image: Any, category: Any, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def write(path: Path, images: list[Any], annotations: list[Any], categories: Any = ("pit", "scratch")) -> Path:
    entries = [{"id": k, "name": n} if isinstance(n, str) else n for k, n in enumerate(categories, 1)]
    path.write_text(json.dumps({"images": images, "categories": entries, "annotations": annotations}))
    return path


def by_pycocotools(path: Path, file_name: str) -> dict[str, np.ndarray]:
    """Class name -> mask of 0/1, the union of all its annotations in an image."""
    coco = COCO(str(path))
    (image,) = [entry for entry in coco.imgs.values() if entry["file_name"] == file_name]
    masks = {c["name"]: np.zeros((image["height"], image["width"]), np.uint8) for c in coco.cats.values()}
    for entry in coco.imgToAnns[image["id"]]:
        masks[coco.cats[entry["category_id"]]["name"]] |= coco.annToMask(entry)
    return masks


def assert_equal(found: Labels, path: Path, *names: str) -> None:
    for name in names:
        theirs = by_pycocotools(path, name)
        bits = found.bitmask(name, HEIGHT, WIDTH)
        for k, class_name in enumerate(found.class_names):
            assert np.array_equal(bits >> k & 1, theirs[class_name]), (name, class_name)


def make_everything(folder: Path) -> tuple[Path, Path]:
    """Polygons of several parts, crossing themselves, with holes and partly outside; both kinds of run lengths."""
    random = np.random.default_rng(5)
    images = write_images(folder / "images", "a.jpg", "sub/b.jpg", "clean.jpg")
    blob = np.asfortranarray((random.random((HEIGHT, WIDTH)) < 0.3).astype(np.uint8))
    compressed = coco_tools.encode(blob)
    text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], blob.T.ravel(), [2]]))))
    counts = [*([] if blob[0, 0] == 0 else [0]), *runs.tolist()]
    keyhole = [2, 2, 30, 2, 30, 30, 2, 30, 2, 2, 8, 8, 20, 8, 20, 20, 8, 20, 8, 8, 2, 2]
    annotations = [
        annotation(1, 1, 1, [(random.random(14) * 60).tolist(), (random.random(8) * 40).tolist()], iscrowd=0),
        annotation(2, 1, 2, [keyhole, SQUARE], iscrowd=0),
        annotation(3, 1, 2, [(random.random((6, 2)) * [110, 75] - [25, 18]).ravel().tolist()], iscrowd=0),
        annotation(4, 2, 1, text, iscrowd=1),
        annotation(5, 2, 2, {"size": [HEIGHT, WIDTH], "counts": counts}, iscrowd=1),
    ]
    entries = [image_entry(k, name) for k, name in ((1, "a.jpg"), (2, "sub/b.jpg"), (3, "clean.jpg"))]
    return images, write(folder / "labels.json", entries, annotations)


def test_every_segmentation_equals_pycocotools(tmp_path: Path) -> None:
    images, path = make_everything(tmp_path)
    found = load_labels(images, path)
    assert found.class_names == ("pit", "scratch")
    assert_equal(found, path, "a.jpg", "sub/b.jpg", "clean.jpg")
    assert found.class_ids("clean.jpg") == frozenset()
    assert found.class_ids("a.jpg") == {1, 2}


def test_what_is_written_reads_back_in_both(tmp_path: Path) -> None:
    images, path = make_everything(tmp_path)
    found = load_labels(images, path)
    out = tmp_path / "out.json"
    write_coco(str(out), found.class_names, labelled_images(found))
    assert_equal(found, out, "a.jpg", "sub/b.jpg", "clean.jpg")
    again = load_labels(images, out)
    for record in found.images:
        bits = again.bitmask(record.image_id, HEIGHT, WIDTH)
        assert np.array_equal(bits, found.bitmask(record.image_id, HEIGHT, WIDTH))
    for entry in COCO(str(out)).anns.values():
        theirs = coco_tools.frPyObjects(entry["segmentation"], HEIGHT, WIDTH)
        assert entry["area"] == coco_tools.area(theirs)[0]
        assert entry["bbox"] == coco_tools.toBbox(theirs)[0].tolist()


def test_keys_in_any_order_and_ids_of_any_kind(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg")
    value = {
        "annotations": [annotation(1, 7.0, 3.0, [SQUARE]), annotation(2, "second", 5, [SQUARE])],
        "info": {"images": ["no entry"]},
        "images": [image_entry(7, "a.jpg"), image_entry("second", "b.jpg")],
        "categories": [{"id": 5, "name": "dent"}, {"id": 3, "name": "pit"}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(value))
    found = load_labels(images, path)
    assert found.class_names == ("pit", "dent")
    assert (found.class_ids("a.jpg"), found.class_ids("b.jpg")) == ({1}, {2})


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["scratch", "pit"], 2), (["2=groove", "1=hole"], 2), (["scratch", "dent", "pit"], 4)],
)
def test_classes_by_name_or_by_id(tmp_path: Path, names: list[str], expected: int) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 1, [SQUARE])])
    found = load_labels(images, path, LabelOptions(class_names=names))
    assert found.bitmask("a.jpg", HEIGHT, WIDTH).max() == expected


def test_a_category_that_only_groups_others_is_no_class(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    categories = [{"id": 1, "name": "defects", "supercategory": "none"}]
    categories += [{"id": k, "name": n, "supercategory": "defects"} for k, n in ((2, "pit"), (3, "never seen"))]
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 2, [SQUARE])], categories)
    assert load_labels(images, path).class_names == ("pit", "never seen")


def test_a_category_that_is_called_as_its_own_group_is_a_class(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    categories = [{"id": k, "name": n, "supercategory": n} for k, n in enumerate(("never seen", "pit", "defects"), 1)]
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 2, [SQUARE])], categories)
    found = load_labels(images, path)
    assert found.class_names == ("never seen", "pit", "defects")
    assert found.class_ids("a.jpg") == {2}
    categories.append({"id": 4, "name": "dent", "supercategory": "defects"})
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 2, [SQUARE])], categories)
    assert load_labels(images, path).class_names == ("never seen", "pit", "dent")


@pytest.mark.parametrize(
    "name",
    [
        *("D:\\line 3\\images\\a.jpg", "/data/images/a.jpg", "./a.jpg", "a.png"),
        *("/data/local-files/?d=a.jpg", "/data/local-files/?d=line%203/a.jpg"),
    ],
)
def test_file_names_are_paths_of_another_machine(tmp_path: Path, name: str) -> None:
    images = write_images(tmp_path / "images", "coil/a.jpg", "coil/b.jpg")
    entries = [image_entry(1, name), image_entry(2, "coil/b.jpg")]
    if name == "a.png":
        entries[0]["file_name"] = "coil/a.png"  # the images were converted since
    found = load_labels(images, write(tmp_path / "labels.json", entries, [annotation(1, 1, 1, [SQUARE])]))
    assert found.class_ids("coil/a.jpg") == {1}


def test_files_in_a_folder_are_parts_of_the_labels(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg")
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels/train.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 1, [SQUARE])], ["pit"])
    write(tmp_path / "labels/val.json", [image_entry(1, "b.jpg")], [annotation(1, 1, 1, [SQUARE])], ["dent"])
    found = load_labels(images, tmp_path / "labels")
    assert found.class_names == ("pit", "dent")
    assert (found.class_ids("a.jpg"), found.class_ids("b.jpg")) == ({1}, {2})
    write(tmp_path / "labels/val.json", [image_entry(1, "a.jpg"), image_entry(2, "b.jpg")], [], ["pit"])
    with pytest.raises(InputError, match=r"second labels for one image: a\.jpg \(for a\.jpg\)"):
        load_labels(images, tmp_path / "labels")


@pytest.mark.parametrize("empty", [None, [], [[]], [[], []]])
def test_a_box_stands_for_an_outline_that_is_not_there(tmp_path: Path, empty: Any) -> None:
    """As Label Studio, CVAT and Roboflow write boxes; a line, or a box beside an outline, is none."""
    images = write_images(tmp_path / "images", "a.jpg")
    shapes = [
        annotation(1, 1, 1, empty, bbox=[4.2, 6.2, 15.9, 2.8]),
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 20, 8, 6], "area": 48},
        annotation(3, 1, 1, [SQUARE], bbox=[0, 0, WIDTH, HEIGHT]),
    ]
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], shapes)
    bits = load_labels(images, path).bitmask("a.jpg", HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:8, 2:8] = expected[6:9, 4:20] = 1
    expected[20:26, 30:38] = 2
    assert np.array_equal(bits, expected)
    shapes = [annotation(1, 1, 1, [[1, 1, 9, 9]], bbox=[1, 1, 8, 8]), annotation(2, 1, 1, [], bbox=[1, 2])]
    write(path, [image_entry(1, "a.jpg")], shapes)
    with pytest.raises(
        InputError, match=r"malformed entries: annotation 2 in labels\.json \(a box of \[1, 2\]\)"
    ) as caught:
        load_labels(images, path)
    assert "shapes that cover no pixel: annotation 1 in labels.json (no outline)" in str(caught.value)


def test_files_of_several_folders_may_name_images_alike(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "line1/a.jpg", "line2/a.jpg")
    for k, line in enumerate(("line1", "line2"), 1):
        (tmp_path / "labels" / line).mkdir(parents=True)
        write(tmp_path / f"labels/{line}/coco.json", [image_entry(1, "a.jpg")], [annotation(1, 1, k, [SQUARE])])
    found = load_labels(images, tmp_path / "labels")
    assert (found.class_ids("line1/a.jpg"), found.class_ids("line2/a.jpg")) == ({1}, {2})
    options = LabelOptions(missing_mask="clean", stray_labels="skip")
    with pytest.raises(InputError, match=r"named as several images are .*: a\.jpg \(line1/a\.jpg, line2/a\.jpg"):
        load_labels(images, tmp_path / "labels/line1/coco.json", options)
    write(tmp_path / "labels/line1/coco.json", [image_entry(1, "line3/a.jpg")], [annotation(1, 1, 1, [SQUARE])])
    found = load_labels(images, tmp_path / "labels/line1/coco.json", options)
    assert found.left_out == ("left out: labels without an image (1)",)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "unlisted.jpg")
    entries = [image_entry(1, "a.jpg"), image_entry(2, "lost.jpg"), {"id": 3}]
    path = write(
        tmp_path / "labels.json",
        entries,
        [
            annotation(1, 1, 9, [SQUARE]),
            annotation(2, 8, 1, [SQUARE]),
            annotation(3, 1, 1, [[1, 2, 3, "x"]]),
            annotation(4, 1, 1, []),
            annotation(5, 1, 1, [[1, 2, 3]]),
            annotation(6, 1, None, [SQUARE]),
            annotation(7, 1, 1, {"counts": [1], "size": [HEIGHT]}),
        ],
    )
    with pytest.raises(InputError) as caught:
        load_labels(images, path)
    line = str(caught.value)
    for expected in (
        'malformed entries: an image in labels.json ({"id": 3}), annotation 3 in labels.json ([1, 2, 3, "x"] where',
        "annotation 5 in labels.json (3 coordinates, where a polygon has pairs",
        "annotation 7 in labels.json (run lengths of the size [40])",
        "shapes that cover no pixel: annotation 4 in labels.json (no outline)",
        "labels without an image: lost.jpg, image id 8, which is not listed in labels.json (1 shape)",
        "labels of an unknown class: category 9, which is not listed (1 shape)",
        "images without labels: unlisted.jpg",
        "known classes: pit, scratch",
        "--missing-mask clean takes no labels for no defect",
        "--stray-labels skip leaves them out",
    ):
        assert expected in line
    assert "\n" not in line


def test_stray_labels_and_missing_images_are_taken_by_their_options(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "unlisted.jpg")
    entries = [image_entry(1, "a.jpg"), image_entry(2, "lost.jpg")]
    shapes = [annotation(1, 1, 1, [SQUARE]), annotation(2, 1, 2, [SQUARE]), annotation(3, 1, 1, [])]
    path = write(tmp_path / "labels.json", entries, shapes)
    found = load_labels(images, path, LabelOptions(class_names=["pit"], missing_mask="clean", stray_labels="skip"))
    assert found.bitmask("a.jpg", HEIGHT, WIDTH).sum() == 36
    assert found.left_out == (
        "left out: shapes that cover no pixel (1)",
        "left out: labels without an image (1)",
        "left out: labels of an unknown class (1)",
    )


def test_two_categories_of_one_id_are_told(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    entries, shapes = [image_entry(1, "a.jpg")], [annotation(1, 1, 1, [SQUARE])]
    same = [{"id": 1, "name": "pit"}] * 2
    assert load_labels(images, write(tmp_path / "same.json", entries, shapes, same)).class_names == ("pit",)
    path = write(tmp_path / "labels.json", entries, shapes, [*same, {"id": 1, "name": "dent"}])
    with pytest.raises(InputError, match=r"categories with the same id: dent and pit in labels\.json"):
        load_labels(images, path)


@pytest.mark.parametrize("points", [[1, 1, 1.1, 1, 1.1, 1.1], [-9, -9, -3, -9, -3, -3], [5, 5, 9, 9, 5, 5]])
def test_shapes_without_a_pixel_are_told_when_they_are_drawn(tmp_path: Path, points: list[float]) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 1, [points])])
    with pytest.raises(InputError, match=r"cover no pixel \(--stray-labels skip .*: a\.jpg shape 1 \(pit\) \(in"):
        load_labels(images, path).bitmask("a.jpg", HEIGHT, WIDTH)
    assert not load_labels(images, path, LabelOptions(stray_labels="skip")).bitmask("a.jpg", HEIGHT, WIDTH).any()


def test_labels_for_another_size(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", size=(2 * HEIGHT, 2 * WIDTH))
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 1, [SQUARE])])
    with pytest.raises(InputError, match=r"another size of their image: a\.jpg \(40x60, .*--resize-masks brings"):
        load_labels(images, path).bitmask("a.jpg", 2 * HEIGHT, 2 * WIDTH)
    bits = load_labels(images, path, LabelOptions(resize_masks=True)).bitmask("a.jpg", 2 * HEIGHT, 2 * WIDTH)
    assert np.argwhere(bits).min(axis=0).tolist() == [4, 4] and bits.sum() == 12 * 12
    with pytest.raises(InputError, match=r"labels turned by a quarter against their image \(turn the images"):
        load_labels(images, path, LabelOptions(resize_masks=True)).bitmask("a.jpg", WIDTH, HEIGHT)
    with pytest.raises(InputError, match=r"labels for another shape of their image: .*was it turned since"):
        load_labels(images, path, LabelOptions(resize_masks=True)).bitmask("a.jpg", 2 * WIDTH, HEIGHT)


def test_run_lengths_of_another_size_are_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    runs = {"size": [20, 30], "counts": [0, 600]}
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], [annotation(1, 1, 1, runs)])
    with pytest.raises(InputError, match=r"do not fit their image: a\.jpg shape 1 \(pit\): RLE for 20x30 pixels"):
        load_labels(images, path).bitmask("a.jpg", HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": []}', "not COCO's: `annotations` is missing"),
        (' [{"images": "of another tool"}]', "not COCO's: a list, and no object of .*put a list of"),
        ('{"images": [], "annotations": {}}', "`annotations` is no list"),
        ('{"images": [', "not JSON: Expecting value, at character 12"),
        ('{"images": [], "annotations": [], "categories": []}', "no classes"),
    ],
)
def test_files_that_are_not_coco_are_named(tmp_path: Path, text: str, message: str) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(InputError, match=f"{message}"):
        load_labels(images, tmp_path / "labels.json", LabelOptions(missing_mask="clean"))


def test_thousands_of_shapes_in_one_image(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    random = np.random.default_rng(1)
    corners = random.random((1000, 2)) * [WIDTH, HEIGHT]
    rings = (corners[:, None] + np.array([[0, 0], [2, 0], [2, 2], [0, 2]])).reshape(1000, 8)
    shapes = [annotation(k, 1, 1 + k % 2, [ring.tolist()]) for k, ring in enumerate(rings)]
    path = write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], shapes)
    assert_equal(load_labels(images, path, LabelOptions(stray_labels="skip")), path, "a.jpg")


SMALL = {
    "polygons": {"segmentation": [[1.01, 2.02, 21.53, 2.13, 21.54, 22.17, 1.36, 22.41]]},
    "boxes": {"segmentation": []},
    "run lengths": {"segmentation": {"size": [4096, 4096], "counts": "".join(["PPYo0"] * 7)}},
}


@pytest.mark.parametrize("kind", SMALL)
def test_many_small_shapes_take_less_than_twice_the_file(tmp_path: Path, kind: str) -> None:
    """As of 2 GB less than 4: of such shapes Python's own objects weigh more than their numbers."""
    images = write_images(tmp_path / "images", *(f"{k}.jpg" for k in range(50)), size=(4, 4))
    more = {"bbox": [1.01, 2.02, 20.53, 20.39], "area": 400.0, "iscrowd": 0}
    entries = [{"id": k, "image_id": k % 50, "category_id": 1, **SMALL[kind], **more} for k in range(10000)]
    path = write(tmp_path / "labels.json", [image_entry(k, f"{k}.jpg") for k in range(50)], entries)
    code = (
        "import sys, tracemalloc; from steel.labels.load import load_labels\n"
        "tracemalloc.start(); labels = load_labels(sys.argv[1], sys.argv[2]); print(tracemalloc.get_traced_memory()[0])"
    )
    line = [sys.executable, "-c", code, str(images), str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.75 * path.stat().st_size


def test_a_large_file_takes_less_memory_than_its_size(tmp_path: Path) -> None:
    """9 MB of polygons with two decimals, read, matched and held in less memory than the file has bytes."""
    images = write_images(tmp_path / "images", *(f"{k}.jpg" for k in range(100)), size=(4, 4))
    random = np.random.default_rng(2)
    with (tmp_path / "labels.json").open("w") as file:
        file.write('{"annotations": [')
        for k in range(3000):
            numbers = ", ".join(f"{v:.2f}" for v in random.random(400) * 3000)
            tail = f'"segmentation": [[{numbers}]]}}'
            file.write((", " if k else "") + f'{{"id": {k}, "image_id": {k % 100}, "category_id": 1, {tail}')
        entries = [{"id": k, "file_name": f"{k}.jpg"} for k in range(100)]
        file.write(f'], "images": {json.dumps(entries)}, "categories": [{{"id": 1, "name": "pit"}}]}}')
    code = (
        "import resource, sys; from steel.labels.load import load_labels\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); labels = load_labels(sys.argv[1], sys.argv[2]); print(peak() - before)"
    )
    line = [sys.executable, "-c", code, str(images), str(tmp_path / "labels.json")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert (tmp_path / "labels.json").stat().st_size > 9_000_000
    assert int(done.stdout) * 1024 < 1.3 * 9_000_000 + 8_000_000


@pytest.mark.parametrize(
    ("drawn", "says"),
    [
        ({"segmentation": [[1, 1, 5000, 1, 5, 500]]}, "reaches from 1, 1 to 5000, 500, far beyond the image of 40x60"),
        ({"segmentation": [], "bbox": [5, -30, 10, 50]}, "reaches from 5, -30 to 15, 20, far beyond"),
        ({"segmentation": [[1, 1, 90, 1, 5, 60]]}, None),
        ({"segmentation": [[-30, -20, 20, 1, 5, 30]]}, None),
    ],
)
def test_shapes_that_reach_far_beyond_their_image_are_refused(tmp_path: Path, drawn: Any, says: str | None) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    entries = [annotation(7, 1, 1, [SQUARE]), {"id": 8, "image_id": 1, "category_id": 2, **drawn}]
    found = load_labels(images, write(tmp_path / "labels.json", [image_entry(1, "a.jpg")], entries))
    if says is None:
        assert found.bitmask("a.jpg", HEIGHT, WIDTH).any()
        return
    with pytest.raises(InputError) as caught:
        found.bitmask("a.jpg", HEIGHT, WIDTH)
    assert f"shapes that do not fit their image: a.jpg shape 2 (scratch): {says}" in str(caught.value)
    assert "labels.json" in str(caught.value)

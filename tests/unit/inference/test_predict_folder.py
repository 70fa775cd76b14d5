"""Predictions of a folder in every format, beside other programs' reading of them."""

import csv
import json
import re
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from skimage import measure

from steel.cli import build_parser
from steel.images.decode import decode_image
from steel.inference import ahead
from steel.inference.folder_job import FolderJob
from steel.inference.predict_folder import predict_folder
from steel.inference.predictor import Predictor
from steel.inference.writers import WRITERS, FileWriter
from steel.labels.load import load_labels
from tests.paths import ROOT
from tests.predicted_folder import SIZES
from tests.serving import CLASS_NAMES

NAMES = sorted(SIZES)


@pytest.fixture(scope="module")
def masks(folder: Path, predictor: Predictor) -> dict[str, np.ndarray]:
    """What the predictor says of each image."""
    images = [decode_image((folder / "images" / name).read_bytes(), 1) for name in NAMES]
    return {name: p.masks for name, p in zip(NAMES, predictor.predict(images), strict=True)}


@pytest.mark.parametrize("name", ["coco.json", "coco_rle.json"])
def test_pycocotools_reads_every_mask_to_the_pixel(undisturbed: Path, masks: dict[str, np.ndarray], name: str) -> None:
    coco = COCO(str(undisturbed / name))
    assert [category["name"] for category in coco.dataset["categories"]] == list(CLASS_NAMES)
    assert [image["file_name"] for image in coco.dataset["images"]] == NAMES
    assert [a["id"] for a in coco.dataset["annotations"]] == list(range(1, len(coco.anns) + 1))
    for image in coco.dataset["images"]:
        height, width = SIZES[image["file_name"]]
        assert (image["height"], image["width"]) == (height, width)
        for class_id in (1, 2):
            found = coco.loadAnns(coco.getAnnIds(image["id"], class_id))
            drawn = [coco.annToMask(annotation) for annotation in found]
            assert [mask.sum() for mask in drawn] == [annotation["area"] for annotation in found]
            both = np.sum([np.zeros((height, width)), *drawn], axis=0)
            np.testing.assert_array_equal(both, masks[image["file_name"]][class_id - 1])
            for mask, annotation in zip(drawn, found, strict=True):
                left, top, columns, rows = cv2.boundingRect(mask)
                assert annotation["bbox"] == [left, top, columns, rows]
                assert annotation["iscrowd"] == 0
                assert 120 / 255 - 1e-3 <= annotation["score"] <= 1


def test_labels_in_the_form_of_coco_and_masks_read_back(folder: Path, undisturbed: Path, masks: dict) -> None:
    """What is predicted can be corrected in a labelling tool and goes into `data_prep` again."""
    for place in ("coco.json", "masks", "submission.csv"):
        labels = load_labels(folder / "images", undisturbed / place)
        assert [record.image_id for record in labels.images] == NAMES
        for name in NAMES:
            expected = masks[name][0] + 2 * masks[name][1].astype(np.uint8)
            np.testing.assert_array_equal(labels.bitmask(name, *SIZES[name]), expected)


def test_the_lines_say_what_scikit_image_measures(folder: Path, undisturbed: Path, predictor: Predictor) -> None:
    lines = [json.loads(line) for line in (undisturbed / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines] == NAMES
    for line in lines:
        image = decode_image((folder / "images" / line["image"]).read_bytes(), 1)
        (prediction,) = predictor.predict([image])
        assert (line["height"], line["width"]) == SIZES[line["image"]]
        probs = [line["probabilities"]["any"], *line["probabilities"]["classes"].values()]
        np.testing.assert_allclose(probs, prediction.label_probs / 255, atol=5e-5)
        present = [name for name, mask in zip(CLASS_NAMES, prediction.masks, strict=True) if mask.any()]
        assert line["classes"] == present
        assert line["verdict"] == ("defective" if present else "clean")
        expected = []
        for k, mask in enumerate(prediction.masks):
            for part in measure.regionprops(measure.label(mask, connectivity=1), prediction.mask_probs[k]):
                top, left, bottom, right = part.bbox
                mean = part.intensity_mean / 255
                expected.append((CLASS_NAMES[k], k + 1, part.area, [left, top, right - left, bottom - top], mean))
        found = [(r["class"], r["class_id"], r["area"], r["box"], r["mean_probability"]) for r in line["regions"]]
        assert [r[:4] for r in sorted(found)] == [r[:4] for r in sorted(expected)]
        np.testing.assert_allclose([r[4] for r in sorted(found)], [r[4] for r in sorted(expected)], atol=5e-5)


def test_pictures_of_masks(folder: Path, undisturbed: Path, masks: dict[str, np.ndarray], predictor: Predictor) -> None:
    for name in NAMES:
        stem = name.rpartition(".")[0]
        for k, class_name in enumerate(CLASS_NAMES):
            data = np.frombuffer((undisturbed / "masks" / class_name / f"{stem}.png").read_bytes(), np.uint8)
            plane = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(plane, 255 * masks[name][k].astype(np.uint8))
        data = np.frombuffer((undisturbed / "labelmaps" / f"{stem}.png").read_bytes(), np.uint8)
        label_map = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        (prediction,) = predictor.predict([decode_image((folder / "images" / name).read_bytes(), 1)])
        for y, x in np.ndindex(label_map.shape):  # the likelier of those that are there
            there = [k for k in (1, 2) if masks[name][k - 1, y, x]]
            best = max(there, key=lambda k: prediction.mask_probs[k - 1, y, x], default=0)
            assert label_map[y, x] == best
    overlays = {p.relative_to(undisturbed / "overlays").as_posix() for p in (undisturbed / "overlays").rglob("*.jpg")}
    assert overlays == {"a.jpg", "b.png.jpg", "line/c.png.jpg", "line/d.jpg", "Öl, 1.png.jpg"}


def test_a_long_folder_is_never_held(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(150):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), np.full((24, 24), number, np.uint8))
    decoded: list[weakref.ref[np.ndarray]] = []
    most = 0

    def decode(*arguments: object) -> np.ndarray:
        nonlocal most
        image = decode_image(*arguments)  # type: ignore[arg-type]
        decoded.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in decoded))
        return image

    monkeypatch.setattr(ahead, "decode_image", decode)
    predict_folder(predictor, FolderJob(str(tmp_path), str(tmp_path / "../out150"), threads=1), {})
    assert len(decoded) == 150
    assert most < 50
    monkeypatch.setattr(ahead, "_SIZE", 24 * 24)
    decoded.clear()
    most = 0
    predict_folder(predictor, FolderJob(str(tmp_path), str(tmp_path / "../out150"), threads=1), {})
    assert most < 32  # large images: one ahead on either side, and those that are in or wait for a forward pass


def test_a_writer_that_an_extension_registers(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(url: str, predicted: object) -> None:
        with open(url, "w", newline="") as file:
            csv.writer(file).writerows(predicted.entries.items())  # type: ignore[attr-defined]

    brightest = FileWriter("the brightest pixel", "peaks.csv", lambda p: int(p.image.max()), write)
    monkeypatch.setitem(WRITERS, "peaks", brightest)
    predict_folder(predictor, FolderJob(str(folder / "images"), str(tmp_path), ("peaks",)), {})
    rows = list(csv.reader((tmp_path / "peaks.csv").open()))
    assert rows == [[n, str(decode_image((folder / "images" / n).read_bytes(), 1).max())] for n in NAMES]


def test_the_page_on_predictions_lists_every_format() -> None:
    page = (ROOT / "docs" / "predictions.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)", page, re.MULTILINE)
    assert rows == [(name, writer.place) for name, writer in WRITERS.items()]
    for line in re.findall(r"^(?:`)?steel (predict [^`\n]*)", page, re.MULTILINE):
        arguments = build_parser().parse_args(line.split())
        assert set(arguments.format) <= set(WRITERS)

"""TIFFs of several pages: refused by a line that names the option, or an image a page, from labels to predictions."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from data_prep.__main__ import main as data_prep
from data_prep.verify import main as verify
from steel import load_predictor
from steel.cli import main as steel
from steel.errors import InputError
from steel.images.tiff_pages import count_pages, page_of
from steel.shards.reader import ShardReader
from tests.integration.plain_score import read_masks
from tests.integration.test_submission_score import Plant
from tests.serving import serving

PAGES = [cv2.GaussianBlur(np.random.default_rng(n).integers(0, 256, (40, 64), np.uint8), (5, 5), 1.5) for n in range(5)]
NAMES = ["line/stack_p1.tif", "line/stack_p2.tif", "line/stack_p3.tif", "other.png"]


def write_images(folder: Path) -> None:
    """A stack of three pages, and an image of its own."""
    (folder / "line").mkdir(parents=True)
    first, *others = [Image.fromarray(page) for page in PAGES[:3]]
    first.save(folder / "line" / "stack.tif", save_all=True, append_images=others, compression="tiff_lzw")
    cv2.imwrite(str(folder / "other.png"), PAGES[3])


def line(folder: Path, labels: str, *more: str) -> list[str]:
    given = ["--images", folder / "images", "--labels", folder / labels, "--out", folder / "out"]
    return [*map(str, given), "--folds", "1", "--workers", "1", *more]


@pytest.mark.parametrize("labels", ["train.csv", "masks"])
def test_labels_name_pages(tmp_path: Path, labels: str) -> None:
    write_images(tmp_path / "images")
    mask = np.zeros((40, 64), np.uint8)
    mask[4:9, 2] = 1
    if labels == "masks":
        (tmp_path / labels / "line").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / labels / "line" / "stack_p2.png"), mask)
    else:
        # column 2 of an image of 40 rows, from its row 4 on: 2 * 40 + 4, counted from 1
        (tmp_path / labels).write_text("ImageId,ClassId,EncodedPixels\nline/stack_p2.tif,1,85 5\n")
    more = ("--missing-mask", "clean", "--class-names", "scratch") if labels == "masks" else ()
    assert data_prep(line(tmp_path, labels, "--tiff-pages", "split", *more)) == 0
    reader = ShardReader(tmp_path / "out")
    found = {reader.index.image_id(row): row for row in range(len(reader))}
    assert sorted(found) == NAMES
    for number, name in enumerate(NAMES):
        sample = reader.read(found[name])
        assert np.array_equal(sample.image, PAGES[number])
        assert np.array_equal(sample.bitmask, mask if number == 1 else np.zeros_like(mask))
        if number < 3:
            assert count_pages(reader.read_bytes(found[name]).image) == 1
    assert reader.manifest.options["tiff_pages"] == "split"
    assert verify([str(tmp_path / "out"), "--workers", "1"]) == 0


def test_without_the_option_they_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\nother.png,1,85 5\n")
    assert data_prep(line(tmp_path, "train.csv")) == 2
    said = capsys.readouterr().err
    assert "line/stack.tif (a TIFF of 3 pages; save each page as a file of its own, or have each taken for an" in said
    assert "--tiff-pages split" in said
    assert not list((tmp_path / "out").glob("*.tar"))


def test_pages_are_predicted_as_the_same_pictures_in_files_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = Plant(tmp_path / "plant", [(40, 64), (40, 64)])
    checkpoint = plant.make_checkpoint()
    write_images(tmp_path / "stacked")
    for name, page in zip(NAMES, PAGES, strict=False):
        (tmp_path / "single" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "single" / name), page)

    def predict(images: str, *more: str) -> int:
        given = ["predict", checkpoint, tmp_path / images, "--out", tmp_path / f"of-{images.partition('/')[0]}"]
        return steel([*map(str, given), "--device", "cpu", *more])

    assert predict("stacked") == 3
    assert "line/stack.tif (a TIFF of 3 pages" in (said := capsys.readouterr().err)
    assert "--tiff-pages split" in said
    both = ("--format", "kaggle,labelmaps")
    assert predict("single", *both) == 0
    assert predict("stacked", *both, "--tiff-pages", "split") == 0
    expected = read_masks(tmp_path / "of-single" / "submission.csv")
    assert sorted({name for name, _ in expected}) == NAMES
    assert any(expected.values())
    assert read_masks(tmp_path / "of-stacked" / "submission.csv") == expected
    for path in (tmp_path / "of-single" / "labelmaps").rglob("*.png"):
        other = tmp_path / "of-stacked" / path.relative_to(tmp_path / "of-single")
        assert other.read_bytes() == path.read_bytes()
    (tmp_path / "stacked").rename(tmp_path / "alone")
    assert predict("alone/line/stack.tif", "--tiff-pages", "split") == 0
    alone = read_masks(tmp_path / "of-alone" / "submission.csv")
    assert alone == {(n.removeprefix("line/"), k): runs for (n, k), runs in expected.items() if n.startswith("line/")}


def test_a_predictor_and_a_service_refuse_them_in_one_line(tmp_path: Path) -> None:
    """As neither can tell which page is meant; pages as arrays, or as files of one page, they take."""
    for package in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    checkpoint = Plant(tmp_path / "plant", [(40, 64), (40, 64)]).make_checkpoint()
    write_images(tmp_path / "images")
    stack = tmp_path / "images" / "line" / "stack.tif"
    refused = (
        "a TIFF of 3 pages; save each page as a file of its own, or have each taken for an image by --tiff-pages split"
    )
    predictor = load_predictor(checkpoint, device="cpu", precision="no")
    for source in (stack, stack.parent, [tmp_path / "images" / "other.png", stack]):
        with pytest.raises(InputError, match=rf"^\S*stack\.tif: {refused} \(data_prep, steel predict\)$"):
            predictor.predict(source)
    expected = predictor.predict(np.stack(PAGES[:3]))
    with Image.open(stack) as file:
        pages = [np.array(page) for page in ImageSequence.Iterator(file)]
    assert [p.to_dict() for p in predictor.predict(pages)] == [p.to_dict() for p in expected]
    with serving(checkpoint, "--precision", "no") as server:
        reply = server.ask("/predict", stack.read_bytes())
        assert (reply.status, reply.json) == (400, {"error": f"{refused} (data_prep, steel predict)"})
        for number, prediction in enumerate(expected, 1):
            page = server.ask(f"/predict?name={number - 1}", page_of(stack.read_bytes(), number))
            assert page.json == json.loads(json.dumps(prediction.to_dict()))
        assert server.stop() == 0

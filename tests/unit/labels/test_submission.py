"""Submission files: both forms, in the shape of a sample, and what makes one invalid."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steel.errors import InputError
from steel.labels.rle import decode_rle, encode_rle
from steel.labels.submission import check_coverage, read_submission, write_encoded, write_submission
from tests.submission_check import validate_submission

SIZE = (4, 5)


def masks(*filled: int, num_classes: int = 2) -> np.ndarray:
    """(C, 4, 5) bool with the first column of the given classes set."""
    result = np.zeros((num_classes, *SIZE), bool)
    for class_id in filled:
        result[class_id - 1, :, 0] = True
    return result


ANSWERS = [("b.jpg", masks(2)), ("a_1.jpg", masks()), ("c.jpg", masks(1, 2))]
ENCODED = {image_id: [encode_rle(mask) for mask in its] for image_id, its in ANSWERS}


def test_pair_form_has_a_row_for_every_class_of_every_image(tmp_path: Path) -> None:
    summary = write_submission(tmp_path / "s.csv", ANSWERS)
    assert (tmp_path / "s.csv").read_bytes().decode() == (
        "ImageId_ClassId,EncodedPixels\nb.jpg_1,\nb.jpg_2,1 4\na_1.jpg_1,\na_1.jpg_2,\nc.jpg_1,1 4\nc.jpg_2,1 4\n"
    )
    assert (summary.images, summary.rows, summary.masks, summary.unknown) == (3, 6, 3, ())
    assert (
        validate_submission(tmp_path / "s.csv", num_classes=2, image_ids=[i for i, _ in ANSWERS], size=SIZE) == summary
    )


def test_row_form(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.csv", ANSWERS[:1], format="ImageId,ClassId")
    assert (tmp_path / "s.csv").read_text() == "ImageId,ClassId,EncodedPixels\nb.jpg,1,\nb.jpg,2,1 4\n"
    validate_submission(tmp_path / "s.csv", num_classes=2, image_ids=["b.jpg"], size={"b.jpg": SIZE})


def test_what_is_read_back_is_what_was_answered(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    answers = {f"{i},odd name.png": rng.random((3, 7, 9)) < 0.4 for i in range(5)}
    for format in ("ImageId_ClassId", "ImageId,ClassId"):
        write_submission(tmp_path / "s.csv", answers.items(), format=format)
        rows = read_submission(tmp_path / "s.csv").rows
        assert len(rows) == 15
        for row in rows:
            assert np.array_equal(decode_rle(row.rle, 7, 9), answers[row.image_id][row.class_id - 1])


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (
            "ImageId_ClassId,EncodedPixels\nc.jpg_2,1 1\nc.jpg_1,1 1\nb.jpg_1,\nb.jpg_2,\n",
            "ImageId_ClassId,EncodedPixels\nc.jpg_2,1 4\nc.jpg_1,1 4\nb.jpg_1,\nb.jpg_2,1 4\n",
        ),
        (
            "ImageId,EncodedPixels,ClassId\r\nc.jpg,1 1,1\r\nc.jpg,1 1,2\r\nb.jpg,,2\r\nb.jpg,,1\r\n",
            "ImageId,EncodedPixels,ClassId\nc.jpg,1 4,1\nc.jpg,1 4,2\nb.jpg,1 4,2\nb.jpg,,1\n",
        ),
        (  # one row per image: a row for each class that was found, or one empty row
            "ImageId,EncodedPixels,ClassId\nc.jpg,1 409600,0\na_1.jpg,1 409600,0\nb.jpg,1 409600,0\n",
            "ImageId,EncodedPixels,ClassId\nc.jpg,1 4,1\nc.jpg,1 4,2\na_1.jpg,,1\nb.jpg,1 4,2\n",
        ),
    ],
)
def test_rows_and_order_of_a_sample(tmp_path: Path, sample: str, expected: str) -> None:
    (tmp_path / "sample.csv").write_bytes(sample.encode())
    summary = write_encoded(tmp_path / "s.csv", ENCODED, 2, template=tmp_path / "sample.csv")
    assert (tmp_path / "s.csv").read_bytes().decode() == expected
    assert summary.unknown == (() if "a_1.jpg" in sample else ("a_1.jpg",))
    validate_submission(tmp_path / "s.csv", num_classes=2, size=SIZE)


def test_images_missing_from_the_answers_leave_no_file(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("ImageId_ClassId,EncodedPixels\nx.jpg_1,\nx.jpg_2,\nb.jpg_1,\nb.jpg_2,\n")
    with pytest.raises(InputError, match=r"images of the sample that were not predicted: x\.jpg"):
        write_encoded(tmp_path / "s.csv", ENCODED, 2, template=tmp_path / "sample.csv")
    assert not (tmp_path / "s.csv").exists()
    sample = read_submission(tmp_path / "sample.csv")
    assert check_coverage(sample, {"x.jpg", "b.jpg", "z.jpg", "y.jpg"}, "sample.csv") == ("y.jpg", "z.jpg")


@pytest.mark.parametrize(
    "sample",
    [
        "ImageId_ClassId,EncodedPixels\nb.jpg_1,\n",  # class 2 is not asked for
        "ImageId_ClassId,EncodedPixels\nb.jpg_1,\nb.jpg_2,\nb.jpg_3,\n",  # a class this model does not know
        "ImageId_ClassId,EncodedPixels\nb.jpg_1,\nb.jpg_2,\nb.jpg_2,\n",
        "ImageId,ClassId,EncodedPixels\nb.jpg,1,\nb.jpg,2,\nc.jpg,1,\n",
    ],
)
def test_a_sample_of_another_task_is_refused(tmp_path: Path, sample: str) -> None:
    (tmp_path / "sample.csv").write_text(sample)
    with pytest.raises(InputError, match="classes 1 to 2 of every image"):
        write_encoded(tmp_path / "s.csv", ENCODED, 2, template=tmp_path / "sample.csv")
    assert not (tmp_path / "s.csv").exists()


def test_rows_of_unreadable_images_are_empty_in_a_sample_and_missing_without_one(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("ImageId_ClassId,EncodedPixels\nx.jpg_1,\nx.jpg_2,\nc.jpg_1,\nc.jpg_2,\n")
    write_encoded(tmp_path / "s.csv", ENCODED, 2, template=tmp_path / "sample.csv", unreadable={"x.jpg": "cut"})
    rows = "x.jpg_1,\nx.jpg_2,\nc.jpg_1,1 4\nc.jpg_2,1 4\n"
    assert (tmp_path / "s.csv").read_text() == f"ImageId_ClassId,EncodedPixels\n{rows}"
    summary = write_encoded(tmp_path / "s.csv", ENCODED, 2, unreadable={"x.jpg": "cut"})
    assert (summary.images, summary.rows, summary.masks) == (3, 6, 3)
    assert "x.jpg" not in (tmp_path / "s.csv").read_text()


def test_a_broken_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("id,mask\n")
    with pytest.raises(InputError, match="header is `id,mask`, expected `ImageId,ClassId,EncodedPixels` or"):
        write_encoded(tmp_path / "s.csv", ENCODED, 2, template=tmp_path / "sample.csv")
    with pytest.raises(InputError, match="no such file"):
        write_encoded(tmp_path / "s.csv", ENCODED, 2, template=tmp_path / "other.csv")
    with pytest.raises(InputError, match="unknown format"):
        write_submission(tmp_path / "s.csv", iter(ANSWERS), format="rle")


def test_masks_are_not_held_while_writing(tmp_path: Path) -> None:
    handed_over: list[weakref.ref] = []

    def answers() -> Iterator[tuple[str, np.ndarray]]:
        for i in range(20):
            mask = masks(1)
            handed_over.append(weakref.ref(mask))
            yield f"{i}.jpg", mask
            assert sum(reference() is not None for reference in handed_over) <= 2

    write_submission(tmp_path / "s.csv", answers())
    assert len(handed_over) == 20


def test_an_interrupted_prediction_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("old\n")

    def answers() -> Iterator[tuple[str, np.ndarray]]:
        yield ANSWERS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_submission(tmp_path / "s.csv", answers())
    assert (tmp_path / "s.csv").read_text() == "old\n"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,\n", "missing rows: a.jpg class 2"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,\na.jpg_2,\na.jpg_2,\n", "repeated rows: a.jpg class 2"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,\na.jpg_2,\na.jpg_5,\n", "unknown class ids: a.jpg class 5"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,\na.jpg_2,20 2\n", "a.jpg class 2: RLE: pair 1 (20 2)"),
        ("ImageId_ClassId,EncodedPixels\nz.jpg_1,\nz.jpg_2,\n", "images without a row: a.jpg; unknown images: z.jpg"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,1 2,x\n", "malformed rows: line 2 (a.jpg_1,1 2,x)"),
        ("ImageId_ClassId,EncodedPixels\na.jpg,1 2\n", "malformed rows: line 2 (a.jpg,1 2)"),
        (
            "ImageId,ClassId,EncodedPixels\na.jpg,one,1 2\n",
            "class ids that are no whole number from 0 on: line 2 ('one' for a.jpg)",
        ),
        ("", "the file is empty, expected `ImageId,ClassId,EncodedPixels` or"),
    ],
)
def test_invalid_submissions_are_told_by_their_faults(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        validate_submission(tmp_path / "s.csv", num_classes=2, image_ids=["a.jpg"], size=SIZE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("STEEL_REAL_DATA" not in os.environ, reason="STEEL_REAL_DATA names no folder of real data")
def test_a_real_submission_is_valid_and_can_be_followed(tmp_path: Path) -> None:
    real = Path(os.environ["STEEL_REAL_DATA"]) / "severstal_annotations" / "submission_example.csv"
    summary = validate_submission(real, num_classes=4, size=(256, 1600))
    assert (summary.images, summary.rows) == (1801, 7204)
    submission = read_submission(real)
    found = {(row.image_id, row.class_id): row.rle for row in submission.rows}
    answers = {
        image_id: [encode_rle(decode_rle(found[image_id, k], 256, 1600)) for k in range(1, 5)]
        for image_id in reversed(submission.image_ids)
    }
    write_encoded(tmp_path / "s.csv", answers, 4, template=real)
    assert read_submission(tmp_path / "s.csv") == submission

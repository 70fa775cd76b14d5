"""What predictions are written as, by name. The one place where a format of predictions registers."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steel import storage
from steel.errors import InputError
from steel.images.listing import JPEG_SUFFIXES, ImageRecord, image_stem
from steel.images.pictures import encode_picture
from steel.images.png import encode_png
from steel.inference.prediction import DIGITS, Prediction
from steel.labels.classes import beside_classes
from steel.labels.coco import CocoImage, describe_polygon, describe_runs, write_annotations
from steel.labels.labels import refuse_same_stems
from steel.labels.mask_writer import INSIDE, check_folder_names
from steel.labels.rle import encode_rle
from steel.labels.submission import check_classes, check_coverage, read_submission, write_encoded


@dataclass(frozen=True)
class Task:
    """What is known before anything is predicted."""

    class_names: tuple[str, ...]
    image_ids: Sequence[str]
    columns: str = "ImageId_ClassId"
    """The first columns of a submission, see `steel.labels.submission.SUBMISSION_FORMATS`."""
    template: str | None = None
    """A sample submission."""


@dataclass(frozen=True)
class Predicted:
    """All that was predicted, for a writer of one file."""

    task: Task
    entries: Mapping[str, Any]
    """Image id -> what `encode` made of it, in the order of the images; read when it is asked for."""
    unreadable: Mapping[str, str]
    """Image id -> why there is no entry."""
    staging: str | None = None
    """The path of a local folder for what is unfinished, which goes with the job's; beside the file when None."""


def _no_check(task: Task) -> None:
    pass


def _no_names(class_names: Sequence[str], image_id: str) -> list[str]:
    return []


@dataclass(frozen=True)
class FileWriter:
    """A format that is one file for all images."""

    meaning: str
    """A line that says what it is, for `--help` and the docs."""
    place: str
    """The file's name in the output folder."""
    encode: Callable[[Prediction], Any]
    """What the file needs of an image, as plain JSON values. Runs on threads."""
    write: Callable[[str, Predicted], None]
    """Writes the file, a path or URL, from all that was encoded."""
    check: Callable[[Task], None] = _no_check
    """Raises InputError where it cannot be written; asked before anything is predicted."""
    tells_labels: bool = True
    """Tells probabilities of classes, also for an image without a mask, whose decoder must run then."""


@dataclass(frozen=True)
class FolderWriter:
    """A format that is a folder of files, one or more for each image."""

    meaning: str
    place: str
    """The folder's name in the output folder."""
    files: Callable[[Prediction], Iterator[tuple[str, bytes]]]
    """The files of an image: their paths in the folder, and their bytes. Runs on threads."""
    check: Callable[[Task], None] = _no_check
    tells_labels: bool = True
    """As of `FileWriter`."""
    names: Callable[[Sequence[str], str], list[str]] = _no_names
    """The paths of an image's files, by the names of the classes and its id: a job that goes on removes those of images
    that are gone or unreadable since."""


def _check_sample(task: Task) -> None:
    if task.template is not None:
        sample = read_submission(task.template)
        check_coverage(sample, set(task.image_ids), task.template)
        check_classes(sample, len(task.class_names), task.template)


def _write_submission(url: str, predicted: Predicted) -> None:
    task = predicted.task
    write_encoded(
        url,
        predicted.entries,
        len(task.class_names),
        format=task.columns,
        template=task.template,
        unreadable=predicted.unreadable,
        staging=predicted.staging,
    )


def _polygons(prediction: Prediction) -> dict[str, Any]:
    annotations = [
        {
            "category_id": region.class_id,
            **describe_polygon(region.polygon, region.area),
            "score": round(region.mean_prob, DIGITS),
        }
        for region in prediction.regions()
    ]
    return _coco_entry(prediction, annotations)


def _runs(prediction: Prediction) -> dict[str, Any]:
    annotations = [
        {
            "category_id": class_id,
            **describe_runs(prediction.masks[class_id - 1]),
            "score": round(
                float(prediction.mask_probs[class_id - 1][prediction.masks[class_id - 1]].mean()) / 255, DIGITS
            ),
        }
        for class_id in prediction.class_ids
    ]
    return _coco_entry(prediction, annotations)


def _coco_entry(prediction: Prediction, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    height, width = prediction.image.shape[:2]
    return {"height": height, "width": width, "annotations": annotations}


def _write_coco(url: str, predicted: Predicted) -> None:
    images = (
        CocoImage(image_id, entry["height"], entry["width"], entry["annotations"])
        for image_id, entry in predicted.entries.items()
    )
    write_annotations(url, predicted.task.class_names, images, staging=predicted.staging)


def _write_lines(url: str, predicted: Predicted) -> None:
    """Every image has a line, in the order of the images; those that could not be read say why."""
    with storage.open_write(url, staging=predicted.staging) as file:
        for image_id in predicted.task.image_ids:
            if image_id in predicted.unreadable:
                line = {"image": image_id, "error": predicted.unreadable[image_id]}
            else:
                line = predicted.entries[image_id]
            file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode())


def most_likely_class(prediction: Prediction) -> int:
    """The class (from 1) that the classification head finds likeliest; 0 when it calls the image clean."""
    return 1 + int(prediction.label_probs[1:].argmax()) if prediction.labels[0] else 0


def _row(prediction: Prediction) -> list[Any]:
    likeliest = most_likely_class(prediction)
    name = prediction.class_names[likeliest - 1] if likeliest else beside_classes("clean", prediction.class_names)
    areas = [int(np.count_nonzero(mask)) for mask in prediction.masks]
    return [likeliest, name, *(f"{prob / 255:.3f}" for prob in prediction.label_probs), *areas]


def _write_table(url: str, predicted: Predicted) -> None:
    names = predicted.task.class_names
    with storage.open_write(url, staging=predicted.staging) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        probs, areas = (f"P({name})" for name in names), (f"Area({name})" for name in names)
        writer.writerow(["ImageId", "ClassId", "ClassName", "P(any)", *probs, *areas])
        for image_id, row in predicted.entries.items():
            writer.writerow([image_id, *row])
        text.detach()  # flushes, and leaves the file open for `open_write` to finish


def _label_map(prediction: Prediction) -> Iterator[tuple[str, bytes]]:
    yield _label_map_name(prediction.image_id), encode_png(prediction.label_map())


def _label_map_name(image_id: str) -> str:
    return f"{image_stem(image_id)}.png"


def _class_masks(prediction: Prediction) -> Iterator[tuple[str, bytes]]:
    names = _class_mask_names(prediction.class_names, prediction.image_id)
    for name, mask in zip(names, prediction.masks, strict=True):
        yield name, encode_png(mask.view(np.uint8) * np.uint8(INSIDE))


def _class_mask_names(class_names: Sequence[str], image_id: str) -> list[str]:
    return [f"{name}/{image_stem(image_id)}.png" for name in class_names]


def _overlay(prediction: Prediction) -> Iterator[tuple[str, bytes]]:
    yield _overlay_name(prediction.image_id), encode_picture(prediction.overlay(), ".jpg")


def _overlay_name(image_id: str) -> str:
    return image_id if image_id.lower().endswith(JPEG_SUFFIXES) else f"{image_id}.jpg"


def _check_overlays(task: Task) -> None:
    taken: dict[str, str] = {}
    for image_id in task.image_ids:
        other = taken.setdefault(_overlay_name(image_id), image_id)
        if other != image_id:
            raise InputError(f"--format overlays: {other} and {image_id} would share a picture; rename one")


def _check_stems(task: Task) -> None:
    refuse_same_stems([ImageRecord(image_id, "") for image_id in task.image_ids], image_stem)


def _check_class_folders(task: Task) -> None:
    check_folder_names(task.class_names)
    _check_stems(task)


WRITERS: dict[str, FileWriter | FolderWriter] = {
    "kaggle": FileWriter(
        "Kaggle's run lengths of every class of every image",
        "submission.csv",
        lambda prediction: [encode_rle(mask) for mask in prediction.masks],
        _write_submission,
        _check_sample,
        tells_labels=False,
    ),
    "coco": FileWriter(
        "COCO's JSON, a polygon per region, as CVAT and Label Studio import it",
        "coco.json",
        _polygons,
        _write_coco,
        tells_labels=False,
    ),
    "coco_rle": FileWriter(
        "COCO's JSON, compressed run lengths, an annotation per class and image",
        "coco_rle.json",
        _runs,
        _write_coco,
        tells_labels=False,
    ),
    "jsonl": FileWriter(
        "JSON lines: verdict, classes and probabilities of each image, and its regions",
        "predictions.jsonl",
        Prediction.to_dict,
        _write_lines,
    ),
    "table": FileWriter(
        "CSV: the likeliest class of each image, all probabilities and areas", "table.csv", _row, _write_table
    ),
    "labelmaps": FolderWriter(
        "a PNG per image, whose pixels are class numbers, 0 for none",
        "labelmaps",
        _label_map,
        _check_stems,
        tells_labels=False,
        names=lambda class_names, image_id: [_label_map_name(image_id)],
    ),
    "masks": FolderWriter(
        "a PNG of 0 and 255 per class and image, in a folder per class",
        "masks",
        _class_masks,
        _check_class_folders,
        tells_labels=False,
        names=_class_mask_names,
    ),
    "overlays": FolderWriter(
        "JPEG pictures with masks, class names and mean probabilities drawn in",
        "overlays",
        _overlay,
        _check_overlays,
        tells_labels=False,
        names=lambda class_names, image_id: [_overlay_name(image_id)],
    ),
}
"""By name. Extensions add to it."""

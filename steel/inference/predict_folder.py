"""Predictions for a folder of any size, written in any formats; stopped at any moment, the same call goes on.

What each image needs is made on threads while the network runs, and kept in a journal; the files are put together at
the end, in the order of the images. So they have the same bytes whatever was stopped, and on however many ranks.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from steel import storage
from steel.errors import out_of_memory_as
from steel.images.listing import ImageRecord
from steel.inference.ahead import decode_ahead, map_ahead
from steel.inference.base_predictor import BasePredictor
from steel.inference.folder_job import FolderJob, Plan, plan_folder, versions_of
from steel.inference.journal import Journal, Lines, line_of
from steel.inference.prediction import Prediction
from steel.inference.sources import NamedImage
from steel.inference.writers import WRITERS, FileWriter, Predicted
from steel.labels.submission import read_submission


@dataclass(frozen=True)
class FolderSummary:
    """What was predicted, by this and earlier attempts."""

    images: int
    """That have predictions."""
    new: int
    """Of them by this attempt."""
    defective: int
    """Images with any mask."""
    per_class: tuple[int, ...]
    """(C,) images with a mask of the class."""
    unreadable: Mapping[str, str]
    """Image id -> why it could not be read."""
    not_in_sample: int
    """Images that the template does not list."""
    turned: tuple[str, ...]
    """Images that EXIF asks viewers to turn: their masks are of the pixels as stored."""


def predict_folder(
    predictor: BasePredictor,
    job: FolderJob,
    depends_on: Mapping[str, Any],
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> FolderSummary:
    """Predict every image that can be read; files appear under their names when they are complete.

    Args:
        predictor: with its decision and views.
        job: what is to be done.
        depends_on: what else the predictions depend on, as plain JSON values; what the predictor says of itself is
            added. With `checkpoint`, as `describe_predictor` has it, its weights need not be read for that.
        on_image: called with the images done so far and in total.

    Raises:
        InputError: no images, formats or places that cannot be, or unfinished predictions of another job.
        ResourceError: the disk or store of the images fails; the same call goes on.
        OutOfMemoryError: says what needs less.
    """
    model = {} if "checkpoint" in depends_on else {"checkpoint": predictor.model_digest()}
    plan = plan_folder(job, predictor.class_names, {**depends_on, **model, **_settings(predictor)})
    before, total = len(plan.records) - len(plan.missing), len(plan.records)
    unreadable = predict_images(predictor, job, plan.mark, plan.missing, lambda done: on_image(before + done, total))
    return finish_folder(job, predictor.class_names, plan, unreadable)


def describe_predictor(predictor: BasePredictor) -> dict[str, Any]:
    """What predictions depend on, as plain JSON values: of the file as it was loaded, whatever is there by now."""
    return {"checkpoint": predictor.file_digest or predictor.model_digest(), **_settings(predictor)}


def _settings(predictor: BasePredictor) -> dict[str, Any]:
    """How it predicts now, whatever its model is."""
    return {
        "decision": predictor.decision.to_dict(),
        "tta": list(predictor.tta),
        "device": str(predictor.device).partition(":")[0],
        "precision": predictor.precision,
        "pixels-per-pass": predictor.pixels_per_pass,
    }


def predict_images(
    predictor: BasePredictor,
    job: FolderJob,
    mark: str,
    records: Sequence[ImageRecord],
    on_image: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Predict some images of a job into its journal, and write the files that belong to single images.

    Args:
        predictor: with its decision and views.
        job: what is to be done.
        mark: of its journal, as its plan has it.
        records: the images.
        on_image: called with the number of images done.

    Returns:
        Images that cannot be read, and why.

    Raises:
        InputError: the journal is gone, or another job's by now.
        ResourceError: the disk or store of the images fails.
        OutOfMemoryError: says what needs less.
    """
    journal, unreadable, versions = Journal(job.out, mark), dict[str, str](), versions_of(records)
    turned = set[str]()
    with journal.watched(), out_of_memory_as("fewer --threads need less"), ThreadPoolExecutor(job.threads) as pool:

        def images() -> Iterator[NamedImage]:
            decoded = decode_ahead(pool, job.threads, records, predictor.in_channels, predictor.depth)
            for record, image in zip(records, decoded, strict=True):
                if isinstance(image, str):
                    unreadable[record.image_id] = image
                    continue
                if image.is_turned:
                    turned.add(record.image_id)
                yield NamedImage(record.image_id, image.pixels)

        with journal.recorder() as recorder:
            masks_only = not any(WRITERS[name].tells_labels for name in job.formats)
            encode = partial(_encode, versions=versions, turned=turned, job=job, journal=journal)
            predictions = predictor.predict_stream(images(), masks_only=masks_only)
            lines = map_ahead(pool, job.threads, encode, predictions, lambda one: one.num_pixels, at_once=True)
            for done, line in enumerate(lines, 1):
                recorder.add(line)
                on_image(done + len(unreadable))
    return unreadable


def finish_folder(
    job: FolderJob, class_names: Sequence[str], plan: Plan, unreadable: Mapping[str, str]
) -> FolderSummary:
    """Write the files of all images from the journal, then remove it.

    Raises:
        InputError: the journal is gone, or another job's by now.
    """
    journal, task = Journal(job.out, plan.mark), job.task(class_names, plan.records)
    with journal.watched(), journal.local_lines(versions_of(plan.records)) as lines:
        journal.check_ours()
        journal.check_whole(lines, set(task.image_ids) - unreadable.keys())
        for name in job.formats:
            writer = WRITERS[name]
            if isinstance(writer, FileWriter):
                predicted = Predicted(task, _Entries(lines, name), unreadable, journal.staging)
                writer.write(storage.join(job.out, writer.place), predicted)
        found = {image_id: (line["classes"], "turned" in line) for image_id, line in lines.items()}
    listed = set(task.image_ids if job.template is None else read_submission(job.template).image_ids)
    journal.remove()
    return FolderSummary(
        images=len(found),
        new=len(plan.missing) - len(unreadable),
        defective=sum(bool(classes) for classes, _ in found.values()),
        per_class=tuple(sum(k in classes for classes, _ in found.values()) for k in range(1, len(class_names) + 1)),
        unreadable=unreadable,
        not_in_sample=len(set(task.image_ids) - listed),
        turned=tuple(image_id for image_id, (_, is_turned) in found.items() if is_turned),
    )


class _Entries(Mapping[str, Any]):
    """What the lines of a journal hold for one writer."""

    def __init__(self, lines: Lines, name: str) -> None:
        self._lines, self._name = lines, name

    def __getitem__(self, image_id: str) -> Any:
        return self._lines[image_id]["entries"][self._name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._lines


def _encode(
    prediction: Prediction, versions: Mapping[str, str], turned: Collection[str], job: FolderJob, journal: Journal
) -> bytes:
    """The journal's line on a prediction, once the files that belong to it alone are written."""
    entries: dict[str, Any] = {}
    for name in job.formats:
        writer = WRITERS[name]
        if isinstance(writer, FileWriter):
            entries[name] = writer.encode(prediction)
            continue
        for path, data in writer.files(prediction):
            url = storage.join(job.out, writer.place, path)
            storage.make_folder(url.rpartition("/")[0])
            storage.write_bytes(url, data, staging=journal.staging)
    image_id = prediction.image_id
    noted = {"turned": True} if image_id in turned else {}
    return line_of(image_id, versions[image_id], {"classes": prediction.class_ids, "entries": entries, **noted})

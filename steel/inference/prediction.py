"""Answers for a folder of images: submission, overlays and a table of classes, written as the images go by."""

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np

from steel import storage
from steel.errors import InputError, out_of_memory_as
from steel.images.decode import decode_image
from steel.images.listing import IMAGE_SUFFIXES, ImageRecord, lies_in, list_images
from steel.images.pictures import draw_overlay, encode_picture
from steel.inference.predictor import Prediction, Predictor
from steel.labels.submission import SubmissionSummary, check_coverage, read_submission, write_submission
from steel.validation_errors import Issue, raise_issues

T = TypeVar("T")
R = TypeVar("R")
_TASKS_AHEAD = 8
"""Images decoded, or overlays being written, beyond those at work, a thread."""


def predict_folder(
    predictor: Predictor,
    source: str,
    out: str,
    *,
    format: str = "ImageId_ClassId",
    template: str | None = None,
    overlays: str | None = None,
    classes_out: str | None = None,
    threads: int = 4,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> SubmissionSummary:
    """Answer every image; files appear under their names when they are complete.

    Args:
        predictor: with its decision and views.
        source: a folder of images, or one image; a path or URL.
        out: the submission to write.
        format: of the submission, see `write_submission`.
        template: a sample submission whose rows and order to take.
        overlays: folder for pictures with the masks drawn in, as JPEG.
        classes_out: CSV of what the classification head says of each image.
        threads: decode images and draw overlays while the model runs.
        on_image: called with the images answered so far and in total.

    Raises:
        InputError: no images, images that cannot be read, a sample that asks for others, or a place for an output that
            is one of images.
        OutOfMemoryError: says what needs less.
    """
    records = find_images(source)
    _check_places(source, (out, classes_out), overlays)
    if template is not None:
        check_coverage(read_submission(template), [record.image_id for record in records], template)
    with out_of_memory_as("fewer --threads need less"), ThreadPoolExecutor(threads) as pool, ExitStack() as stack:
        note_classes = stack.enter_context(_class_table(classes_out, predictor.class_names)) if classes_out else None
        draw = stack.enter_context(_background(pool, threads)) if overlays else None

        def predictions() -> Iterator[tuple[str, np.ndarray]]:
            shown: deque[np.ndarray] = deque()
            decoded = _map_ahead(pool, lambda record: _decode(record, predictor), records, threads)
            stream = predictor.predict_stream(_readable(decoded, shown))
            for done, (record, prediction) in enumerate(zip(records, stream, strict=True), start=1):
                image = shown.popleft()
                if note_classes is not None:
                    note_classes(record.image_id, prediction)
                if draw is not None:
                    assert overlays is not None
                    draw(_write_overlay, overlays, record.image_id, image, prediction.masks)
                yield record.image_id, prediction.masks
                on_image(done, len(records))

        return write_submission(out, predictions(), format=format, template=template)


def _readable(decoded: Iterable[np.ndarray | Issue], shown: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The images, each also put into `shown`, up to the first that cannot be read; then all that cannot, at once."""
    bad = []
    for image in decoded:
        if isinstance(image, Issue):
            bad.append(image)  # from here on only look for more of them
        elif not bad:
            shown.append(image)
            yield image
    raise_issues(bad, "mend or remove them")


def find_images(source: str) -> tuple[ImageRecord, ...]:
    """The images of a folder, or the one image that `source` names.

    Raises:
        InputError: no such folder or file, or no image there.
    """
    if not storage.is_remote(source) and not storage.local_path(source).exists():
        raise InputError(f"{source}: no such file or folder")
    if not _is_file(source):
        return list_images(source)
    record = ImageRecord(source.rpartition("/")[2], source)
    raise_issues(storage.name_issues([record.image_id]), "rename it")
    return (record,)


def _is_file(source: str) -> bool:
    """Whether `source` names one image; a store is not asked, its name decides."""
    if storage.is_remote(source):
        return source.lower().endswith(IMAGE_SUFFIXES)
    return storage.local_path(source).is_file()


def _check_places(source: str, tables: Sequence[str | None], overlays: str | None) -> None:
    """Refuse outputs that would replace images, or be taken for images by the next run."""
    for table in tables:
        if table is not None and table.lower().endswith(IMAGE_SUFFIXES):
            raise InputError(f"{table}: the name of an image; give that of the table to write, such as submission.csv")
    if overlays is None:
        return
    if _is_file(source):
        folder = source.rpartition("/")[0] or "."
        inside = lies_in(overlays, folder) and lies_in(folder, overlays)
    else:
        folder, inside = source, lies_in(overlays, source)
    if inside:
        raise InputError(f"{overlays}: overlays in {folder} would be taken for images later; choose a folder outside")


def most_likely_class(prediction: Prediction) -> int:
    """The class (from 1) that the classification head finds likeliest; 0 when it calls the image clean."""
    return 1 + int(prediction.label_probs[1:].argmax()) if prediction.labels[0] else 0


def _decode(record: ImageRecord, predictor: Predictor) -> np.ndarray | Issue:
    try:
        return decode_image(storage.read_bytes(record.url), predictor.in_channels, predictor.depth)
    except (OSError, ValueError) as error:
        return Issue("unreadable images", f"{record.image_id} ({error})")


def _write_overlay(folder: str, image_id: str, image: np.ndarray, masks: np.ndarray) -> None:
    name = image_id if image_id.lower().endswith((".jpg", ".jpeg")) else f"{image_id}.jpg"
    path = storage.join(folder, name)
    storage.make_folder(path.rpartition("/")[0])
    storage.write_bytes(path, encode_picture(draw_overlay(image, masks), ".jpg"))


@contextmanager
def _class_table(path: str, class_names: Sequence[str]) -> Iterator[Callable[[str, Prediction], None]]:
    """A function that adds a row for an image to the table at `path`."""
    with storage.open_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["ImageId", "ClassId", "ClassName", "P(any)", *(f"P({name})" for name in class_names)])

        def add(image_id: str, prediction: Prediction) -> None:
            likeliest = most_likely_class(prediction)
            name = class_names[likeliest - 1] if likeliest else "clean"
            writer.writerow([image_id, likeliest, name, *(f"{q / 255:.3f}" for q in prediction.label_probs)])

        yield add
        text.detach()  # flushes, and leaves the file open for `open_write` to finish


def _map_ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """As `pool.map`, in order, but never more than a few results ahead of their use."""
    tasks: deque[Future[R]] = deque()
    try:
        for item in items:
            tasks.append(pool.submit(function, item))
            if len(tasks) > _TASKS_AHEAD * threads:
                yield tasks.popleft().result()
        while tasks:
            yield tasks.popleft().result()
    finally:
        for task in tasks:
            task.cancel()


@contextmanager
def _background(pool: Executor, threads: int) -> Iterator[Callable[..., None]]:
    """A function that calls others in the pool; waits where too many are under way, and raises what they raise."""
    tasks: deque[Future[Any]] = deque()

    def submit(function: Callable[..., Any], *arguments: Any) -> None:
        tasks.append(pool.submit(function, *arguments))
        while len(tasks) > _TASKS_AHEAD * threads:
            tasks.popleft().result()

    yield submit
    for task in tasks:
        task.result()

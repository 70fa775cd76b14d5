"""Synthetic data sets in the layout of Kaggle's *Severstal: Steel Defect Detection*.

    OUT/train_images/*.jpg    OUT/train.csv               rows `ImageId,ClassId,EncodedPixels`, defective images only
    OUT/test_images/*.jpg     OUT/sample_submission.csv   rows `ImageId_ClassId,EncodedPixels`, four an image
    OUT/test_truth.csv        the test images' masks, in the form of train.csv
    OUT/synthetic.json        the options it was made with

Every image is a function of the seed, its number and the options alone, so the number of workers changes nothing.
"""

import csv
import functools
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from steel import storage
from steel.errors import InputError
from steel.executors import open_executor
from steel.labels.rle import encode_rle
from steel.plain import parse_json
from steel.stopping import end_if_stopped
from steel.synthetic.annotations import GivenMasks, decode_rows, read_given_masks
from steel.synthetic.masks import NUM_CLASSES
from steel.synthetic.plan import plan_classes
from steel.synthetic.scene import draw_masks, extent_around, render

FORMAT_VERSION = 1
JPEG_QUALITY = 93  # gives files of about the originals' size
_NAME_DIGITS = 9  # as the originals have them
_POOL_FROM = 24
"""Fewer full-size images than this are made in the calling process: starting workers would take longer."""


@dataclass(frozen=True)
class Options:
    """What a synthetic data set is made from; stored beside it."""

    num_train: int
    num_test: int
    seed: int
    height: int
    width: int
    class_share: tuple[float, ...] | None
    defect_share: float | None
    annotations: str | None
    """Digest of the given masks."""
    format_version: int = FORMAT_VERSION

    def check(self) -> None:
        """Raises InputError for sizes and counts that make no data set."""
        if self.num_train < 1 or self.num_test < 0:
            raise InputError(f"synth: {self.num_train} training and {self.num_test} test images; give at least 1 and 0")
        if self.seed < 0:
            raise InputError(f"synth: seed {self.seed} is negative")
        if not (32 <= self.height <= 4096 and 64 <= self.width <= 16384):
            raise InputError(f"synth: {self.height}x{self.width} pixels; heights are 32 to 4096, widths 64 to 16384")


@dataclass(frozen=True)
class _Job:
    """One image to make: its file, the seed of its choices, its classes and, if given, their run lengths."""

    path: str
    seed: tuple[int, ...]
    class_ids: frozenset[int]
    given: tuple[tuple[int, str], ...] | None


Row = tuple[str, int, str]
"""ImageId, ClassId, EncodedPixels."""


def synthesize(
    out: str | os.PathLike[str],
    num_train: int | None = None,
    num_test: int = 0,
    seed: int = 0,
    *,
    annotations: str | os.PathLike[str] | None = None,
    image_ids: str | os.PathLike[str] | None = None,
    class_share: Sequence[float] | None = None,
    defect_share: float | None = None,
    workers: int | None = None,
    height: int = 256,
    width: int = 1600,
    on_image: Callable[[int, int], None] | None = None,
) -> bool:
    """Make a data set; nothing appears under `out` before all of it is there.

    Args:
        out: folder to make; may exist when empty, or when it holds the result of the same call.
        num_train: training images. With `annotations` a random part of the annotated ones; all when None.
        num_test: test images, always with masks of our own.
        seed: anything from 0 on.
        annotations: CSV of masks for the training images, in either of Kaggle's forms; drawn at random when None.
        image_ids: text file, one image id per line: exactly these are made, those without a row in `annotations` clean.
        class_share: for each class the share of images that hold it, so that a small set has enough of the rare ones.
        defect_share: share of images with any defect; as in the real data (53 %) when None, or, with `class_share`,
            as few as give the real share of images with two classes.
        workers: processes; one per CPU when None.
        height: of an image, in pixels; scenes are scaled to it.
        width: likewise.
        on_image: called with (images done, images in all) after each image.

    Returns:
        False when `out` already holds exactly this data set and nothing was done.

    Raises:
        InputError: an impossible request, faulty annotations, or an `out` that holds something else.
        ResourceError: a worker process was killed.
    """
    given = None
    if annotations is not None:
        _refuse_shares(class_share, defect_share)
        given = read_given_masks(annotations, image_ids, height, width).part(num_train, seed)
    elif num_train is None or image_ids is not None:
        raise InputError("synth: give --num-train, or --annotations (with --image-ids if need be)")
    options = Options(
        num_train=len(given.image_ids) if given is not None else num_train or 0,
        num_test=num_test,
        seed=seed,
        height=height,
        width=width,
        class_share=tuple(class_share) if class_share is not None else None,
        defect_share=defect_share,
        annotations=given.digest() if given is not None else None,
    )
    options.check()
    root = Path(out).absolute()
    if _is_made(root, options):
        return False
    with storage.open_folder(root) as staging:
        _write(staging, options, _plan(options, given), given, workers, on_image)
    return True


def _refuse_shares(class_share: Sequence[float] | None, defect_share: float | None) -> None:
    if class_share is not None or defect_share is not None:
        raise InputError("synth: class and defect shares are those of the annotations; leave them out")


def _is_made(root: Path, options: Options) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        made = parse_json((root / "synthetic.json").read_bytes())
    except (OSError, InputError):
        raise InputError(f"synth: {root} exists and is no synthetic data set; name an empty or new folder") from None
    if made != json.loads(json.dumps(asdict(options))):
        raise InputError(f"synth: {root} holds a synthetic data set with other options; name an empty or new folder")
    return True


def _plan(options: Options, given: GivenMasks | None) -> list[_Job]:
    """Every image with its seed: training images first, each part sorted by name."""
    jobs = []
    for part, name, number in ((0, "train", options.num_train), (1, "test", options.num_test)):
        if part == 0 and given is not None:
            for image_id in given.image_ids:
                # Seeded by name, so an image looks the same in every part of the annotations.
                key = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:6], "big")
                rows = given.rows(image_id)
                class_ids = frozenset(class_id for class_id, _ in rows)
                jobs.append(_Job(f"train_images/{image_id}", (options.seed, 2, key), class_ids, rows))
            continue
        classes = plan_classes(
            np.random.default_rng([options.seed, part, 0]), number, options.class_share, options.defect_share
        )
        names = _image_ids(options.seed, part, number)
        jobs += [
            _Job(f"{name}_images/{names[index]}", (options.seed, part, 1, index), frozenset(classes[index]), None)
            for index in sorted(range(number), key=names.__getitem__)
        ]
    return jobs


def _image_ids(seed: int, part: int, number: int) -> list[str]:
    """File names of nine hexadecimal digits; of more where images before it have those already."""
    taken: dict[str, None] = {}
    for index in range(number):
        digits = hashlib.sha256(f"{seed} {part} {index}".encode()).hexdigest()
        lengths = range(_NAME_DIGITS, len(digits) + 1)
        taken[next(digits[:length] for length in lengths if digits[:length] not in taken)] = None
    return [f"{name}.jpg" for name in taken]


def _write(
    root: Path,
    options: Options,
    jobs: Sequence[_Job],
    given: GivenMasks | None,
    workers: int | None,
    on_image: Callable[[int, int], None] | None,
) -> None:
    (root / "train_images").mkdir()
    (root / "test_images").mkdir()
    make = functools.partial(_make_image, str(root), options.height, options.width)
    rows: dict[str, list[Row]] = {"train_images": [], "test_images": []}
    with closing(_run(make, jobs, options, workers)) as made:  # interrupted, no worker writes into what is removed
        for done, (job, found) in enumerate(zip(jobs, made, strict=True), start=1):
            rows[job.path.split("/")[0]] += found
            if on_image is not None:
                on_image(done, len(jobs))
    header = ("ImageId", "ClassId", "EncodedPixels")
    _write_csv(root / "train.csv", header, rows["train_images"] if given is None else given.all_rows())
    _write_csv(root / "test_truth.csv", header, rows["test_images"])
    test_ids = [job.path.split("/")[1] for job in jobs if job.path.startswith("test_images/")]
    _write_csv(
        root / "sample_submission.csv",
        ("ImageId_ClassId", "EncodedPixels"),
        ((f"{image_id}_{class_id}", "1 1") for image_id in test_ids for class_id in range(1, NUM_CLASSES + 1)),
    )
    storage.write_text(root / "synthetic.json", json.dumps(asdict(options), indent=2) + "\n")


def _run(
    make: Callable[[_Job], list[Row]], jobs: Sequence[_Job], options: Options, workers: int | None
) -> Generator[list[Row], None, None]:
    """The rows of each job, in the jobs' order, whoever makes them."""
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise InputError(f"synth: {workers} workers; give at least 1")
    full_size = 256 * 1600
    if workers == 1 or len(jobs) * options.height * options.width < _POOL_FROM * full_size:
        yield from map(make, jobs)
        return
    with open_executor("process", min(workers, len(jobs))) as pool:
        yield from pool.map(make, jobs, chunksize=4)


def _make_image(root: str, height: int, width: int, job: _Job) -> list[Row]:
    """Write one image and return its rows."""
    end_if_stopped()
    rng = np.random.default_rng(job.seed)
    if job.given is None:
        masks, extent = draw_masks(rng, job.class_ids, height, width)
    else:
        masks = decode_rows(job.given, height, width)
        extent = extent_around(rng, masks, width)
    gray = render(rng, masks, extent, height, width)
    # The originals are stored as colour with R = G = B.
    done, data = cv2.imencode(".jpg", cv2.merge([gray] * 3), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV could not encode a JPEG"
    Path(root, job.path).write_bytes(data.tobytes())
    image_id = job.path.split("/")[1]
    return [(image_id, class_id, encode_rle(mask)) for class_id, mask in sorted(masks.items())]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

"""Write one shard: the unit of parallel work and of resuming."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_prep.duplicates import image_signature
from data_prep.options import Options
from data_prep.pixels import gray_of, load_image, pixel_sums
from data_prep.plan import ShardPlan
from data_prep.reading import read_images
from data_prep.rows import ShardRows, measured, rows_schema, write_rows
from data_prep.samples import SampleForm, add_image
from data_prep.shard_file import ShardFile
from data_prep.unusable import unusable
from steel import storage
from steel.images.exif import exif_orientation
from steel.images.listing import ImageRecord
from steel.images.pixel_format import Depth
from steel.labels.labels import Labels
from steel.labels.sizes import exif_named
from steel.validation_errors import Issue, ValidationErrors, raise_issues


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs, wherever it runs."""

    shard: ShardPlan
    labels: Labels
    """Of this shard's images alone."""
    options: Options
    fingerprint: str
    rows_url: str
    """Where the mark of completion goes."""
    staging: str
    """Local folder for unfinished files."""
    depth: Depth


def write_shard(task: ShardTask) -> int:
    """Write one tar, then the mark that it is complete; both appear whole or not at all.

    Returns:
        The number of images.

    Raises:
        ValidationErrors: every image or mask of this shard that cannot be used.
        ResourceError: the disk or store of the images fails.
    """
    rows: list[dict[str, Any]] = []
    issues: list[Issue] = []
    with (
        storage.open_write(storage.join(task.options.out, task.shard.name), staging=task.staging) as file,
        ShardFile(file) as tar,
    ):
        for record, data in read_images(task.shard.records):
            try:
                if isinstance(data, ValueError):
                    raise data
                rows += [{"shard": task.shard.number, **row} for row in _add_image(tar, record, data, task)]
            except ValidationErrors as error:
                issues += error.issues
            except ValueError as error:
                issues.append(unusable(record.image_id, error))
        raise_issues(issues)
    table = pa.Table.from_pylist(rows, rows_schema(len(task.labels.class_names), tiled=task.options.tile is not None))
    finished = ShardRows(tar.size, tar.sha256, task.fingerprint, table)
    write_rows(task.rows_url, finished, task.staging)
    return len(task.shard.records)


def _add_image(tar: ShardFile, record: ImageRecord, data: bytes, task: ShardTask) -> list[dict[str, Any]]:
    """Append an image, as one sample or in tiles; returns their rows. Nothing is appended when it cannot be used."""
    options, labels = task.options, task.labels
    extension = record.image_id.rpartition(".")[2].lower()
    image = load_image(data, extension, resize=options.resize, depth=task.depth)
    with exif_named(data):
        bitmask = labels.bitmask(record.image_id, *image.original_size)
    signature = image_signature(gray_of(image.pixels)) if options.split_options.group_duplicates else b""
    measures = measured(pixel_sums(image.pixels), signature, exif_orientation(data))
    form = SampleForm(len(labels.class_names), labels.ignore_bit, options.tile)
    return [{**row, **measures} for row in add_image(tar, record.image_id, image, bitmask, form)]

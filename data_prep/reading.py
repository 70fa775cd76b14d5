"""The files of images, read ahead where a store is far."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from steel import storage
from steel.images.listing import ImageRecord, why_unreadable
from steel.stopping import end_if_stopped

_REMOTE_READS = 16
"""Images fetched at once from a remote store: each request waits for the network, not for a core."""


def read_images(records: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, bytes | ValueError]]:
    """The bytes of each image, or why they cannot be read.

    Raises:
        CancelledError: the task is to end, of `end_if_stopped`.
        ResourceError, OSError: a disk, a store or the machine is at fault, see `why_unreadable`.
    """
    for image in _read_all(records):
        end_if_stopped()
        yield image


def _read_all(records: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, bytes | ValueError]]:
    if not any(storage.is_remote(record.url) for record in records):
        yield from zip(records, map(_read_image, records), strict=True)
        return
    with ThreadPoolExecutor(_REMOTE_READS) as pool:
        for start in range(0, len(records), 4 * _REMOTE_READS):
            chunk = records[start : start + 4 * _REMOTE_READS]
            yield from zip(chunk, pool.map(_read_image, chunk), strict=True)


def _read_image(record: ImageRecord) -> bytes | ValueError:
    try:
        return record.read()
    except (OSError, ValueError) as error:
        return ValueError(why_unreadable(record, error))

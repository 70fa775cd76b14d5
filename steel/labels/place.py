"""What lies where labels shall be, looked at once for all formats."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from steel import storage
from steel.errors import InputError, told_url
from steel.images.listing import IMAGE_SUFFIXES, lies_in
from steel.labels.mask_names import split_masks
from steel.storage import FileInfo

_HEAD = 4096


@dataclass(frozen=True)
class Place:
    """A file or folder of labels."""

    url: str
    files: tuple[FileInfo, ...]
    """All files of a folder, sorted by path; the one file itself."""
    masks: tuple[FileInfo, ...]
    """The image files of a folder that can be masks."""
    is_file: bool
    has_images: bool
    """The images lie in the same folder."""

    def json_keys(self) -> set[str]:
        """Names that stand near the beginning of the JSON file that is there, or of the first one in the folder."""
        urls = self.ending(".json")
        head = storage.read_range(urls[0], 0, _HEAD) if urls else b""
        return {name.decode("utf-8", "replace") for name in re.findall(rb'"([^"\\\\]*)"\s*:', head)}

    def ending(self, *suffixes: str) -> list[str]:
        """Locations of the files whose names end so, in any case of letters."""
        if self.is_file:  # a URL may have a query, with which it is fetched
            spelled = (told_url(self.url), self.url)
            return [self.url] if any(url.lower().endswith(suffixes) for url in spelled) else []
        return [storage.join(self.url, file.path) for file in self.files if file.path.lower().endswith(suffixes)]


def look_at(url: str, images: str) -> Place:
    """What lies at a path or URL of labels.

    Args:
        url: Of the labels.
        images: Folder of the images: masks may lie in it, below it or above it.

    Raises:
        ValidationErrors: names and links that cannot be used.
        InputError: nothing is there.
    """
    if not storage.is_folder(url):
        info = storage.file_info(url)
        if info is None:
            raise InputError(f"{url}: no such file or folder")
        return Place(url, (info,), (), is_file=True, has_images=False)
    files = storage.list_files(url)
    pictures = [file for file in files if file.path.lower().endswith(IMAGE_SUFFIXES)]
    is_same = lies_in(url, images) and lies_in(images, url)
    if is_same:
        pictures = split_masks(pictures)[0]
    elif lies_in(images, url):
        pictures = [file for file in pictures if not lies_in(storage.join(url, file.path), images)]
    return Place(url, tuple(files), tuple(pictures), is_file=False, has_images=is_same)


_READS = 8
"""Files read at once: of a remote store, each waits for the network."""


def read_all(place: Place, *suffixes: str) -> Iterator[tuple[str, bytes | OSError]]:
    """The files whose names end so: path relative to the place, and content, or why it cannot be read; in order."""

    def read(file: FileInfo) -> bytes | OSError:
        try:
            return storage.read_bytes(place.url if place.is_file else storage.join(place.url, file.path))
        except OSError as error:
            return error

    files = [file for file in place.files if file.path.lower().endswith(suffixes)]
    with ThreadPoolExecutor(_READS) as threads:
        for start in range(0, len(files), 64 * _READS):
            chunk = files[start : start + 64 * _READS]
            yield from zip((file.path for file in chunk), threads.map(read, chunk), strict=True)

"""Labels of any format written in any other."""

import os
from collections.abc import Callable

from steel import storage
from steel.errors import InputError
from steel.labels.formats import FORMATS
from steel.labels.labels import Labels, labelled_images


def writable() -> tuple[str, ...]:
    """The names of the formats that are written."""
    return tuple(name for name, form in FORMATS.items() if form.write is not None)


def write_labels(
    labels: Labels, out: str, to: str, on_image: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write labels in a format; nothing appears under `out` before all is written.

    Args:
        labels: Images are read for their sizes.
        out: File to write, a path or URL, whose folder must exist when local; or folder, which must be local, and not
            there or empty.
        to: One of `writable()`.
        on_image: Called with the number of images done and in all.

    Raises:
        ValidationErrors: images and masks that cannot be used.
        InputError: a format that is not written or cannot hold ignored pixels, or an `out` that cannot be made.
    """
    write = FORMATS[to].write if to in FORMATS else None
    if write is None:
        raise InputError(f"--to {to}: labels are not written so, but as {', '.join(writable())}")
    if labels.ignore and not FORMATS[to].is_pixels:
        raise InputError(f"--to {to}: holds no ignored pixels; `masks` does")
    images = labelled_images(labels, on_image)
    if FORMATS[to].writes_folder:
        _write_folder(out, lambda folder: write(folder, labels.class_names, images))
    else:
        write(out, labels.class_names, images)


def _write_folder(out: str, write: Callable[[str], None]) -> None:
    """Fill a local folder, which is not there or empty."""
    if storage.is_remote(out):
        raise InputError(f"{out}: this format is a folder of files; write it to a local one")
    final = storage.local_path(out)
    if os.path.lexists(final) and not (final.is_dir() and not any(final.iterdir())):
        raise InputError(f"{out}: is there already, and not empty; give another --out")
    with storage.open_folder(out) as folder:
        write(os.fspath(folder))

"""YOLO's segmentation text: a file per image, a line per shape: its class, counted from 0, then x y x y ... as shares.

The names of the classes stand in a `data.yaml` (Ultralytics) or a `classes.txt` (Label Studio) beside or above the
files; where there are several, in the nearest, and classes of one name are one. Labels belong to images of the same
relative path, folders called `labels` and `images` left out. A line of four numbers is a box: its centre, its width and
height. A file without lines says that its image is clean.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from steel import storage
from steel.errors import InputError
from steel.images.listing import image_stem
from steel.labels.csv_file import whole_number
from steel.labels.image_index import ImageIndex
from steel.labels.labels import LabelledImage
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.place import Place, look_at, read_all
from steel.labels.polygon import trace_polygons
from steel.labels.shape_collector import ShapeCollector
from steel.labels.shapes import SLACK, Polygon, polygon_of

TABLES = (".yaml", ".yml")
_LISTS = ("classes.txt", "train.txt", "val.txt", "test.txt", "readme.dataset.txt", "readme.roboflow.txt")
"""Text files of such data sets that are no labels, in any case of letters."""


def looks_like_yolo(place: Place, images: ImageIndex) -> bool:
    """Whether there is a text file that is named as an image, or a table of classes and no mask: beside masks any table
    may lie."""
    if place.ending(*TABLES) and not place.masks:
        return True
    texts = [file.path for file in place.files if file.path.lower().endswith(".txt")]
    stems = {_plain_stem(image_id, "images") for image_id in images.image_ids}
    if any(_plain_stem(path, "labels") in stems for path in texts):
        return True
    in_any_case = LabelOptions(any_case=True)
    return any(images.of_file_name(path, in_any_case, "labels").image_id is not None for path in texts)


def folder_of_table(url: str) -> str:
    """Where a table of classes lies: it stands for all below."""
    return url.rpartition("/")[0] or ("/" if url.startswith("/") else ".")


def read_yolo(place: Place, images: ImageIndex, options: LabelOptions) -> FoundLabels:
    """Read a folder of text files, or the one that lies beside a `data.yaml`.

    Args:
        place: Of the files, or of a `data.yaml`.
        images: Of the folder of images.
        options: Classes that it does not name are those of the tables; without a table it must name them, from 0 on.

    Raises:
        ValidationErrors: everything that cannot be used, at once.
        InputError: no table and no names, a table that cannot be read, or two in one folder that differ.
    """
    tables = _read_tables(place, options)
    if place.is_file:
        place = look_at(folder_of_table(place.url), "")
    collector = ShapeCollector(place.url, images, options)
    used = set[str]()
    image_of = {_plain_stem(image_id, "images"): image_id for image_id in images.image_ids}
    for path, data in read_all(place, ".txt"):
        stem = _plain_stem(path, "labels")
        if stem not in image_of and path.rpartition("/")[2].lower() in _LISTS:
            continue
        image_id = collector.open_image(image_of.get(stem, path), None, path)
        if isinstance(data, OSError):
            collector.fail("files that cannot be read", f"{path} ({data})")
            continue
        if image_id is None and options.stray_labels == "skip":  # left out: its lines may be anything
            continue
        folder = _nearest_table(path, tables)
        used.add(folder)
        names = tables.get(folder, {})
        for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
            if not line.strip():
                continue
            try:
                class_id, shape = _parse(line)
            except InputError as error:
                collector.fail("malformed lines", f"{path} line {number} ({error})")
                continue
            if image_id is not None:
                collector.add(image_id, names.get(class_id, f"class {class_id}, which is not listed"), shape)
    numbers: dict[str, list[int]] = {}
    for folder in sorted(used & tables.keys() or tables):
        for class_id, name in sorted(tables[folder].items()):
            numbers.setdefault(name, []).append(class_id)
    return collector.finish(numbers)


def _plain_stem(path: str, folder: str) -> str:
    """A relative path without its extension and without folders of a name."""
    *folders, name = path.split("/")
    return image_stem("/".join([part for part in folders if part != folder] + [name]))


def _parse(line: str) -> tuple[int, Polygon]:
    """The class and the shape of a line.

    Raises:
        InputError: it is no such line.
    """
    first, *rest = line.split()
    class_id = whole_number(first)
    try:
        numbers = np.array([float(word) for word in rest])
    except ValueError:
        class_id = None
    if class_id is None:
        raise InputError(f"{line[:40]!r}")
    if not (np.abs(numbers - 0.5) <= 0.5 + SLACK).all():
        raise InputError("numbers that are no shares of the image's size")
    if len(numbers) == 4:
        x, y, half_width, half_height = *numbers[:2], *(numbers[2:] / 2)
        left, right, top, bottom = x - half_width, x + half_width, y - half_height, y + half_height
        numbers = np.array([left, top, right, top, right, bottom, left, bottom])
    return class_id, polygon_of(numbers, is_relative=True)


def _read_tables(place: Place, options: LabelOptions) -> dict[str, dict[int, str]]:
    """The name of each number, by the folder below the place for whose files it is; "" is the place itself.

    Files without a table at or above them have the only one that there is, or what the user says.

    Raises:
        InputError: no table and no names, a table that cannot be read, or two in one folder that differ.
    """
    tables = _tables_below(place)
    if "" not in tables:
        first, *more = tables.values() or [{}]
        only = {} if any(names != first for names in more) else first
        others = _names_above(place) or only or _names_given(options)
        tables |= {"": others} if others else {}
    if not tables:
        raise InputError(f"{place.url}: no data.yaml or classes.txt that names the classes; give --class-names")
    return tables


def _tables_below(place: Place) -> dict[str, dict[int, str]]:
    found: dict[str, tuple[str, dict[int, str]]] = {}
    for url in place.ending(*TABLES) + [url for url in place.ending(".txt") if url.lower().endswith("/classes.txt")]:
        names = _names_in(url)
        if not names:
            continue
        path = url.removeprefix(storage.join(place.url, ""))
        folder = "" if place.is_file else path.rpartition("/")[0]
        other, known = found.setdefault(folder, (path, names))
        if names != known:
            raise InputError(f"{place.url}: {other} and {path} name other classes; remove the wrong one")
    return {folder: names for folder, (_, names) in found.items()}


def _names_above(place: Place) -> dict[int, str] | None:
    """Those of the table nearest above a folder of labels; None where there is none."""
    folder = place.url.rstrip("/")
    for _ in range(0 if place.is_file else 2):
        folder = folder.rpartition("/")[0] or ("." if "/" not in folder else "/")
        for name in ("data.yaml", "data.yml", "dataset.yaml", "classes.txt"):
            url = storage.join(folder, name)
            if storage.exists(url) and (names := _names_in(url)):
                return names
    return None


def _names_given(options: LabelOptions) -> dict[int, str]:
    """Those that the user names, counted from 0 where their numbers are not said."""
    if options.classes is None:
        return {}
    values = range(len(options.classes)) if options.classes.given == "order" else options.classes.values
    return dict(zip(values, options.classes.names, strict=True))


def _nearest_table(path: str, folders: Collection[str]) -> str:
    """The nearest folder at or above a file that has a table; "" where none has."""
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return path
    return ""


def _names_in(url: str) -> dict[int, str] | None:
    """The names in a table; None when it has none."""
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
        if not url.lower().endswith(TABLES):
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{url}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "names" not in content:
        return None
    names = content["names"]
    entries: dict[Any, Any] = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(entries, dict) or not entries or not all(map(_is_entry, entries.items())):
        raise InputError(f"{url}: `names` is neither a list of names nor a table of numbers and names")
    return {number: str(name) for number, name in entries.items()}


def _is_entry(entry: tuple[Any, Any]) -> bool:
    return type(entry[0]) is int and isinstance(entry[1], str | int)


def write_yolo(out: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Write `labels/<path of the image>.txt` and `data.yaml`: a polygon for each part of a mask that hangs together.

    Args:
        out: Local folder, which exists.
        class_names: Numbered from 0.
        images: Clean ones get an empty file. Digits suffice to find the pixel edges again.
    """
    table = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(class_names))}
    Path(out, "data.yaml").write_text(yaml.safe_dump(table, sort_keys=False, allow_unicode=True), "utf-8")
    for image in images:
        lines = []
        size = np.array([image.width, image.height])
        for class_id, plane in sorted(image.planes.items()):
            for outline in trace_polygons(plane):
                shares = " ".join(f"{share:.9g}" for share in (outline.points / size).ravel().tolist())
                lines.append(f"{class_id - 1} {shares}\n")
        path = Path(out, "labels", f"{image_stem(image.image_id)}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), "utf-8")

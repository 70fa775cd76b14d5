"""The images of a folder by the names that labels have for them."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from steel.errors import list_some
from steel.images.listing import IMAGE_SUFFIXES, UNREAD_SUFFIXES, image_stem
from steel.labels.options import LabelOptions
from steel.validation_errors import Issue

_ENDINGS = (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, ".json", ".txt")
"""Of images, and of the files of labels that are called as their image; what else follows a dot is part of a name."""


class Matched(NamedTuple):
    """What a name in the labels stands for."""

    image_id: str | None
    """None: no image of that name."""
    issue: Issue | None = None
    """Why it cannot stand for that image without an option."""


class ImageIndex:
    """Finds images by relative path, with or without their extension, in the same or in other capitals.

    However their accents are written: of `ü` some systems make one character, and some two, which look the same.

    Args:
        image_ids: Of all images.
        folder: What the folder is called that they are relative to; "" where that says nothing.
    """

    def __init__(self, image_ids: Collection[str], folder: str = "") -> None:
        self.image_ids = tuple(image_ids)
        self._folder = composed(folder)
        self._of_path = _by_name((image_id, image_id) for image_id in image_ids)
        self._of_stem = _by_name((image_stem(image_id), image_id) for image_id in image_ids)
        names = Counter(composed(PurePosixPath(image_id).name) for image_id in image_ids)
        self._of_name = {name: i for i in image_ids if names[name := composed(PurePosixPath(i).name)] == 1}
        self._namesakes: dict[str, list[str]] = {}
        for image_id in image_ids:
            self._namesakes.setdefault(composed(PurePosixPath(image_id).stem), []).append(image_id)
        self._folded = {composed(stem).casefold(): image_id for stem, image_id in self._of_stem.items()}
        self._folders = {composed(image_id).rpartition("/")[0] for image_id in image_ids}

    def __len__(self) -> int:
        return len(self.image_ids)

    def of_path(self, path: str) -> str | None:
        """The image of this relative path; None when there is none."""
        return self._of_path.get(path) or self._of_path.get(composed(path))

    def below_folder(self, path: str) -> str:
        """A path without the name of the folder of images, where it begins with that; other paths as they are."""
        first, _, rest = path.partition("/")
        return rest if rest and composed(first) == self._folder else path

    def of_stem(self, stem: str, options: LabelOptions, shown: str, what: str = "masks") -> Matched:
        """The image whose relative path without extension this is.

        Args:
            stem: With forward slashes.
            options: Whether capitals count.
            shown: What to name in an issue.
            what: The kind of labels, in the plural.
        """
        found = self._plain_of_stem(stem)
        if found is not None:
            return Matched(found)
        near = self._folded.get(composed(stem).casefold())
        if near is None or options.any_case:
            return Matched(near)
        kind = f"{what} named in other capitals than their image (--any-case takes them)"
        return Matched(near, Issue(kind, f"{shown} (for {near})"))

    def of_path_but_ending(self, path: str, options: LabelOptions, shown: str, what: str) -> Matched:
        """The image of this relative path, but that the path has another extension, or none.

        Args:
            path: With forward slashes.
            options: Whether capitals count.
            shown: What to name in an issue.
            what: The kind of labels, in the plural.
        """
        return self._of_stems(list(_stems(path)), options, shown, what)

    def of_file_name(self, name: str, options: LabelOptions, what: str, folder: str = "") -> Matched:
        """The image that a label file means by a file name, which may be a path on the machine where it was made.

        Tried in turn: the whole path, the path without its first folders, the name alone where only one image has it;
        then the paths without extensions, for images that were converted since. A folder in the path that images lie in
        is meant: no namesake in another folder takes the labels of an image that is gone from it.

        Args:
            name: As it stands in the label file.
            options: Whether capitals count.
            what: The kind of labels, in the plural.
            folder: Of the label file, below the place of all labels; stands before the path: labels of several folders
                may name images alike.
        """
        own = list(_tails(_in_storage(name)))
        if not own:
            return Matched(None)
        tails = list(self._tails_to_folder(f"{folder}/{own[0]}"))
        for tail in tails:
            if (found := self.of_path(tail)) is not None:
                return Matched(found)
        if (name_alone := composed(tails[-1])) in self._of_name:
            return Matched(self._of_name[name_alone])
        near = self._of_stems([stem for tail in tails for stem in _stems(tail)], options, name, what)
        if near.image_id is not None:
            return near
        # Of a path there are none: its image is not there.
        namesakes = next(filter(None, (self._namesakes.get(composed(stem)) for stem in _stems(own[0]))), [])
        if len(namesakes) < 2:
            return Matched(None)
        kind = f"{what} named as several images are (a folder before the name, or around the labels, says which)"
        return Matched(None, Issue(kind, f"{name} ({list_some(namesakes, 2)})"))

    def has_stem(self, stem: str) -> bool:
        """Whether an image has this relative path without extension, in any capitals."""
        return composed(stem).casefold() in self._folded

    def _tails_to_folder(self, path: str) -> Iterator[str]:
        """What is left of a path as its first folders go, down to one that images lie in, else to the name alone."""
        for tail in _tails(path):
            yield tail
            if composed(tail).rpartition("/")[0] in self._folders:
                return

    def _of_stems(self, stems: Collection[str], options: LabelOptions, shown: str, what: str) -> Matched:
        """As `of_stem`, of the first that is an image's; one in the same capitals comes before others."""
        for stem in stems:
            if (found := self._plain_of_stem(stem)) is not None:
                return Matched(found)
        near = (self.of_stem(stem, options, shown, what) for stem in stems)
        return next((matched for matched in near if matched.image_id is not None), Matched(None))

    def _plain_of_stem(self, stem: str) -> str | None:
        return self._of_stem.get(stem) or self._of_stem.get(composed(stem))


def _by_name(images: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Images by name, as it is and with its accents composed; one that is called so exactly comes first."""
    exact = dict(images)
    return {composed(name): image_id for name, image_id in exact.items()} | exact


def composed(name: str) -> str:
    """A name with each accent and its letter as one character, where Unicode has one."""
    return unicodedata.normalize("NFC", name)


def _stems(path: str) -> Iterator[str]:
    """What a path may be without its extension: itself, as of `a.1` for `a.1.jpg`, then without a known ending."""
    yield path
    if path.lower().endswith(_ENDINGS):
        yield image_stem(path)


def _in_storage(name: str) -> str:
    """Label Studio calls a file of its local storage `/data/local-files/?d=coil%201/a.jpg`; other names as they are."""
    _, mark, path = name.rpartition("?d=")
    return unquote(path) if mark else name


def _tails(path: str) -> Iterator[str]:
    """A path, and what is left of it as its first folders go."""
    parts = [part for part in path.replace("\\", "/").strip().split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        yield "/".join(parts[start:])

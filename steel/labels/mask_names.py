"""Which mask file belongs to which image: by name, with or without a suffix, in a folder of its own or beside it."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from steel import storage
from steel.images.listing import LOSSLESS_SUFFIXES, LOSSY_SUFFIXES, image_stem
from steel.labels.image_index import ImageIndex
from steel.labels.options import LabelOptions
from steel.labels.stray import NO_IMAGE, UNKNOWN_CLASS, settle
from steel.storage import FileInfo
from steel.validation_errors import Issue

MISSING_HINT = "--missing-mask clean takes no labels for no defect"
_SUFFIX = re.compile(r"[ ._-]+\w*[A-Za-z]\w*")
"""What masks may have at the end of their name that their images lack: a separator, then a word (`_mask`, `-GT`)."""


def match_masks(
    url: str,
    masks: Iterable[FileInfo],
    images: ImageIndex,
    options: LabelOptions,
    place: Callable[[str], tuple[int | None, str]],
    *,
    known: Sequence[str] = (),
    clean: Collection[str] = (),
) -> tuple[dict[str, dict[int, str]], tuple[str, ...]]:
    """The masks of each image by class (0 for label maps), and what was left out.

    Args:
        url: Of the folder that the masks' paths are relative to.
        masks: All mask files.
        images: All images.
        options: What is allowed.
        place: The class of a path (None: of no known one), and the path whose name is the image's.
        known: The classes, for a message.
        clean: Images that need no mask.

    Raises:
        ValidationErrors: masks that are none, second ones, and images without, all at once.
    """
    suffix = find_suffix(masks, images)
    issues: list[Issue] = []
    files: dict[str, dict[int, str]] = {}
    named: set[str] = set()  # images whose mask cannot be used: one issue is enough
    for file in masks:
        class_id, rest = place(file.path)
        matched = images.of_stem(image_stem(rest).removesuffix(suffix), options, file.path)
        image_id = matched.image_id
        if class_id is None:
            issues.append(Issue(UNKNOWN_CLASS, file.path))
        elif image_id is None:
            issues.append(Issue(NO_IMAGE, file.path))
        elif (issue := matched.issue or _file_issue(file, options)) is not None:
            named.add(image_id)
            issues.append(issue)
        elif class_id in files.get(image_id, {}):
            issues.append(Issue("second masks for one image", file.path))
        elif file.size != 0:
            files.setdefault(image_id, {})[class_id] = storage.join(url, file.path)
    hint = f"in {url}"
    if options.missing_mask != "clean":
        fine = {*files, *named, *clean}
        missing = [Issue("images without a mask", image_id) for image_id in images.image_ids if image_id not in fine]
        issues += missing
        hint += f"; {MISSING_HINT}" if missing else ""
    return files, settle(issues, hint, options, known)


def _file_issue(file: FileInfo, options: LabelOptions) -> Issue | None:
    if file.path.lower().endswith(LOSSY_SUFFIXES) and options.mask_threshold is None:
        return Issue("masks in a lossy format (--mask-threshold T takes values from T up as inside)", file.path)
    if file.size == 0 and options.missing_mask != "clean":
        return Issue(f"empty mask files ({MISSING_HINT})", file.path)
    return None


def have_class_folders(masks: Iterable[FileInfo], images: ImageIndex) -> bool:
    """Whether more masks are named as an image below their first folder than in it, whatever their capitals."""
    suffix = find_suffix(masks, images)
    names = [image_stem(file.path).removesuffix(suffix) for file in masks]
    return sum(images.has_stem(name.partition("/")[2]) for name in names) > sum(map(images.has_stem, names))


def find_suffix(masks: Iterable[FileInfo], images: ImageIndex) -> str:
    """What most masks have at the end of their name that their images lack; "" when they are named as the images."""
    counts: Counter[str] = Counter()
    for file in masks:
        stem = image_stem(file.path)
        for name in (stem, stem.partition("/")[2]):
            counts.update([""] if images.has_stem(name) else _suffixes(name, images.has_stem))
    return _most_common(counts)


def split_masks(files: Sequence[FileInfo]) -> tuple[list[FileInfo], list[FileInfo]]:
    """The masks among the image files of one folder, and the images.

    A mask is `a.png` beside `a.jpg`, or `a_mask.png` beside `a.png`. Without either of the two, all are images.
    """
    lossy = {image_stem(file.path) for file in files if file.path.lower().endswith(LOSSY_SUFFIXES)}
    stems = {image_stem(file.path) for file in files}
    counts = Counter(suffix for file in files for suffix in _suffixes(image_stem(file.path), stems.__contains__))
    suffix = _most_common(counts)

    def is_mask(file: FileInfo) -> bool:
        stem = image_stem(file.path)
        if file.path.lower().endswith(LOSSLESS_SUFFIXES) and stem in lossy:
            return True
        return bool(suffix) and stem.endswith(suffix) and stem.removesuffix(suffix) in stems

    masks = [file for file in files if is_mask(file)]
    return masks, [file for file in files if not is_mask(file)]


def _suffixes(stem: str, is_image: Callable[[str], bool]) -> list[str]:
    """All ways to take a suffix from a mask's name so that an image's is left."""
    cuts = [cut for cut in range(1, len(stem)) if stem[cut] in " ._-" and "/" not in stem[cut:]]
    return [stem[cut:] for cut in cuts if _SUFFIX.fullmatch(stem, cut) and is_image(stem[:cut])]


def _most_common(counts: Counter[str]) -> str:
    return max(counts, key=lambda suffix: (counts[suffix], -len(suffix), suffix), default="")

"""From the shapes that a format's reader finds to masks by image and class, every mistake gathered on the way."""

from collections import Counter
from collections.abc import Collection, Mapping

from steel.errors import InputError, counted
from steel.labels.classes import ClassTable
from steel.labels.image_index import ImageIndex, composed
from steel.labels.mask_names import MISSING_HINT
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.shapes import Shape, ShapeMasks
from steel.labels.stray import NO_IMAGE, UNKNOWN_CLASS, settle
from steel.validation_errors import Issue


class ShapeCollector:
    """Gathers shapes under the names that the labels have for their classes."""

    def __init__(self, where: str, images: ImageIndex, options: LabelOptions) -> None:
        self.issues: list[Issue] = []
        self._where = where
        self._images = images
        self._options = options
        self._shapes: dict[str, list[tuple[str, Shape]]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._unlabelled: list[str] = []

    def fail(self, kind: str, name: str) -> None:
        """Remember a mistake."""
        self.issues.append(Issue(kind, name))

    def open_image(self, file_name: str, size: tuple[int, int] | None, shown: str, source: str = "") -> str | None:
        """An image that the labels speak of, as a file name or path from wherever they were made.

        Args:
            file_name: As it stands there.
            size: Height and width that the labels are for, where they say so.
            shown: What to name in a message.
            source: The file that speaks of it, where there may be several: of images of one name it means the one below
                the same folders.

        Returns:
            Its id; None when there is no such image or it was spoken of before, which is remembered as a mistake.
        """
        image_id, issue = self._images.of_file_name(file_name, self._options, "labels", self._folder_of(source))
        if issue is not None:
            self.issues.append(issue)
            if image_id is not None:
                self._unlabelled.append(image_id)  # one issue is enough
        elif image_id is None:
            self.fail(NO_IMAGE, shown)
        elif image_id in self._shapes:
            self.fail("second labels for one image", f"{shown} (for {image_id})")
        else:
            self._shapes[image_id] = []
            if size is not None:
                self._sizes[image_id] = size
            return image_id
        return None

    def _folder_of(self, source: str) -> str:
        """The folders between the place of the labels and one of its files; "" where that file is the place."""
        inside = source.removeprefix(f"{self._where.rstrip('/')}/")
        return "" if inside == source else inside.rpartition("/")[0]

    def add(self, image_id: str, class_name: str, shape: Shape) -> None:
        """A shape of an image that was opened."""
        self._shapes[image_id].append((class_name, shape))

    def classes_of(self, image_id: str) -> set[str]:
        """The names that the shapes of an opened image have."""
        return {name for name, _ in self._shapes[image_id]}

    def used_classes(self) -> set[str]:
        """The names that shapes have so far."""
        return {name for shapes in self._shapes.values() for name, _ in shapes}

    def finish(self, found: Mapping[str, Collection[int]]) -> FoundLabels:
        """All shapes as masks.

        Args:
            found: The classes by the name that the labels have for them, in their order, with their numbers there.

        Raises:
            ValidationErrors: every mistake that was remembered, unknown classes, and images without labels.
            InputError: no classes, too many, or names that cannot be.
        """
        if self._options.classes is None and not found:
            # first what else is wrong: it may be the reason
            settle(self.issues, self._hint(), self._options, [])
        try:
            classes, class_of = resolve_classes(found, self._options.classes)
        except InputError as error:
            raise InputError(f"{self._where}: {error}") from error
        unknown: Counter[str] = Counter()
        masks: dict[str, tuple[tuple[int, Shape], ...]] = {}
        opened = set(self._shapes)
        while self._shapes:  # moved one by one: there may be gigabytes
            image_id, shapes = self._shapes.popitem()
            unknown.update(name for name, _ in shapes if name not in class_of)
            known = tuple((class_of[name], shape) for name, shape in shapes if name in class_of)
            if known:
                masks[image_id] = known
        self.issues += [
            Issue(UNKNOWN_CLASS, f"{name} ({counted(count, 'shape')})") for name, count in sorted(unknown.items())
        ]
        if self._options.missing_mask != "clean":
            fine = opened.union(self._unlabelled)
            self.issues += [Issue("images without labels", i) for i in self._images.image_ids if i not in fine]
        left_out = settle(self.issues, self._hint(), self._options, classes.names)
        return FoundLabels(classes, ShapeMasks(classes.names, masks, self._sizes, self._options, self._where), left_out)

    def _hint(self) -> str:
        is_missing = any(issue.kind == "images without labels" for issue in self.issues)
        return f"in {self._where}" + (f"; {MISSING_HINT}" if is_missing else "")


def resolve_classes(
    found: Mapping[str, Collection[int]], classes: ClassTable | None
) -> tuple[ClassTable, dict[str, int]]:
    """The classes, and the one (from 1) that each name in the labels means; names that mean none are left out.

    However their accents are written, as in the names of images.

    Args:
        found: Names in the labels, and the numbers that the labels have for them.
        classes: What the user says: names as they are in the labels, or names for numbers. As found when None.
    """
    if classes is None:
        names = tuple(dict.fromkeys(map(composed, found)))
        classes = ClassTable(names, tuple(range(1, len(names) + 1)), "order")
    of_name = {composed(name): k for k, name in enumerate(classes.names, 1)}
    of_value = {v: k for k, v in enumerate(classes.values, 1)} if classes.given == "value" else {}
    class_of: dict[str, int] = {}
    for name, numbers in found.items():
        k = of_name.get(composed(name)) or next((of_value[number] for number in numbers if number in of_value), None)
        if k is not None:
            class_of[name] = k
    return classes, class_of

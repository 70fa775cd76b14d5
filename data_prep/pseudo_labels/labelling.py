"""Images on their way from a folder into a further fold: read, compared, predicted, labelled where that is sure."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from data_prep.further_fold import FurtherFold, Groups, NewImage, like_none
from data_prep.manifest import Summary
from data_prep.plan import shuffled
from data_prep.pseudo_labels.known_groups import KnownGroups
from steel.commands.common import image_bar
from steel.errors import InputError, counted, out_of_memory_as
from steel.images.listing import ImageRecord, why_unreadable
from steel.inference.ahead import decode_ahead, map_ahead
from steel.inference.base_predictor import BasePredictor
from steel.inference.prediction import Prediction
from steel.inference.pseudo_label import UnsureBand, pseudo_label
from steel.inference.sources import NamedImage

_GROUPS_WARNING = (
    "warning: the shards keep images together by --groups, and which of those these images belong to nobody has said: "
    "give --groups here, too, or images of other coils or pieces than those that test"
)


class Screened(NamedTuple):
    """What is to be labelled, and what it was compared with."""

    known: list[bytes]
    """What the images of the set are recognised by."""
    groups: Groups | None
    """Of the set and of all new images, where somebody has said which belong together."""
    records: list[ImageRecord]
    """In the order of shards."""


@dataclass
class Labelling:
    """Images on their way into a further fold, and what becomes of those that do not get there."""

    fold: FurtherFold
    predictor: BasePredictor
    band: UnsureBand
    threads: int
    together: KnownGroups | None = None
    """Which images belong together, where somebody has said so."""
    labelled: int = 0
    duplicates: int = 0
    """Of images in the set."""
    held_out: int = 0
    """That belong to images which judge."""
    unsure: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Image id -> why."""
    per_class: Counter[int] = field(default_factory=Counter)
    """Images with sure pixels of a class, from 1; under 0 clean ones."""
    ignored: int = 0
    pixels: int = 0
    """Of the images that were labelled."""
    _signatures: dict[str, bytes] = field(default_factory=dict)

    def screen(self, records: Sequence[ImageRecord]) -> Screened:
        """Leave out what cannot be read, what the set has already, and what belongs to images that judge."""
        with image_bar("looking at the shards") as on_image:
            known = self.fold.known_signatures(self.threads, on_image)
        with image_bar("looking for duplicates") as on_image:
            found = self.fold.signatures(records, self.threads, on_image)
        readable: list[ImageRecord] = []
        for record, signature in zip(records, found, strict=True):
            if isinstance(signature, str):
                self.unreadable[record.image_id] = signature
            else:
                readable.append(record)
                self._signatures[record.image_id] = signature
        is_new = like_none([self._signatures[record.image_id] for record in readable], known).tolist()
        groups, out = None, set[str]()
        if self.together is not None:
            groups = self.together.join(known, {self.fold.image_id(r): self._signatures[r.image_id] for r in readable})
            out = self.together.held_out(groups)
        fresh = [record for record, new in zip(readable, is_new, strict=True) if new]
        left = [record for record in fresh if self.fold.image_id(record) not in out]
        self.duplicates, self.held_out = len(readable) - len(fresh), len(fresh) - len(left)
        return Screened(known, groups, shuffled(left, self.fold.manifest.seed))

    def label(
        self, records: Sequence[ImageRecord], on_image: Callable[[int, int], None]
    ) -> Generator[NewImage, None, None]:
        """The images with what the predictor is sure of; nothing is read before it is asked for.

        Args:
            records: the images.
            on_image: called with the images done so far and in total.

        Raises:
            InputError: none is left.
            OutOfMemoryError: says what needs less.
        """
        by_id = {record.image_id: record for record in records}
        channels, depth = self.predictor.in_channels, self.predictor.depth
        with out_of_memory_as("fewer --threads need less"), ThreadPoolExecutor(self.threads) as pool:

            def images() -> Iterator[NamedImage]:
                decoded = decode_ahead(pool, self.threads, records, channels, depth)
                for record, image in zip(records, decoded, strict=True):
                    if isinstance(image, str):
                        self.unreadable[record.image_id] = image
                    else:
                        yield NamedImage(record.image_id, image.pixels)

            def make(prediction: Prediction) -> tuple[str, NewImage | str | None]:
                return prediction.image_id, self._make(prediction, by_id[prediction.image_id])

            predictions = self.predictor.predict_stream(images())
            made = map_ahead(pool, self.threads, make, predictions, lambda one: one.num_pixels, at_once=True)
            for done, (image_id, new) in enumerate(made, 1):
                on_image(done, len(records))
                if new is None:
                    self.unsure += 1
                elif isinstance(new, str):
                    self.unreadable[image_id] = new
                else:
                    self._count(new)
                    yield new
        if not self.labelled:
            raise InputError(f"no image could be labelled: {self._left_out()}; nothing was written")

    def _make(self, prediction: Prediction, record: ImageRecord) -> NewImage | str | None:
        """What goes into the shards, why the image could not be read again, or None where it is unsure."""
        label = pseudo_label(prediction.decision, prediction.mask_probs, prediction.label_probs, self.band)
        if label is None:
            return None
        try:
            image = self.fold.load(record)
        except (OSError, ValueError) as error:
            return why_unreadable(record, error)
        bitmask = self.fold.bitmask(label.masks, label.ignored)
        return NewImage(self.fold.image_id(record), image, bitmask, self._signatures[record.image_id])

    def _count(self, new: NewImage) -> None:
        bits = int(np.bitwise_or.reduce(new.bitmask, axis=None))
        classes = [k for k in range(1, self.fold.manifest.num_classes + 1) if bits >> (k - 1) & 1]
        self.labelled += 1
        self.per_class.update(classes or [0])
        self.ignored += int(np.count_nonzero(new.bitmask >> self.fold.ignore_bit))
        self.pixels += new.bitmask.size

    def recorded(self) -> dict[str, Any]:
        """What became of the images, as plain JSON values for the manifest."""
        classes = range(1, self.fold.manifest.num_classes + 1)
        return {
            "images": self.labelled,
            "clean": self.per_class[0],
            "per_class": [self.per_class[k] for k in classes],
            "unsure_images": self.unsure,
            "duplicates": self.duplicates,
            "held_out": self.held_out,
            "unreadable": len(self.unreadable),
        }

    def _left_out(self) -> str:
        apart = "" if self.together is None else f"{self.held_out} of groups that judge, "
        return (
            f"{self.unsure} unsure, {self.duplicates} duplicates of images in the shards, {apart}"
            f"{len(self.unreadable)} unreadable"
        )

    def lines(self, summary: Summary) -> list[str]:
        """What became of the images, and of the set."""
        manifest = summary.manifest
        is_unknown = self.together is None and manifest.options.get("groups") is not None
        classes = ", ".join(f"{self.per_class[k]} {name}" for k, name in enumerate(manifest.class_names, 1))
        untuned = "" if self.predictor.is_tuned else "; never tuned, so all thresholds are one half"
        return [
            f"labelled {counted(self.labelled, 'image')}, in fold {self.fold.number}: {self.per_class[0]} "
            f"clean, {classes}; {self.ignored / self.pixels:.1%} of their pixels are ignored{untuned}",
            f"left out: {self._left_out()}",
            *([_GROUPS_WARNING] if is_unknown else []),
            *([] if self.together is None else [self.together.told()]),
            *summary.lines(),
        ]

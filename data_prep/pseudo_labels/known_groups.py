"""Images that belong together by a file, of a set and of those that are to join it; which of these must stay out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.duplicates import group_duplicates, join_groups
from data_prep.further_fold import FurtherFold, Groups
from data_prep.splits import number_groups, read_group_names
from steel.errors import InputError, told_url
from steel.images.listing import ImageRecord


@dataclass(frozen=True)
class KnownGroups:
    """Groups by a file with the header `image,group`, joined with those of the set."""

    fold: FurtherFold
    """That the new images are for."""
    names: Mapping[str, str]
    """Of groups by image: those of the set, and new ones by `FurtherFold.image_id`."""
    trained: Collection[int]
    """Folds of the set that the checkpoint was trained on: none where it was trained on another set."""

    @classmethod
    def read(
        cls, url: str, fold: FurtherFold, records: Sequence[ImageRecord], trained: Collection[int]
    ) -> "KnownGroups":
        """Read the file.

        Args:
            url: path or URL; it names images of the set as the set does, and new ones as their folder does, or, where
                the set has one of that name, as the set will.
            fold: that the new images are for.
            records: the new images.
            trained: folds of the set that the checkpoint was trained on.

        Raises:
            InputError: a file that is malformed, names an image that is nowhere, or none of the set, as which nothing
                would be told of what tests.
        """
        of_set = set(_image_ids(fold))
        new = {_name(record, fold, of_set): fold.image_id(record) for record in records}
        names = read_group_names(url, [*of_set, *new])
        if not names.keys() & of_set:
            raise InputError(
                f"--groups {told_url(url)}: names no image of {fold.reader.root}, so that nothing tells which images "
                "belong to those that test; name images of the set, too, as in the file that it was made with"
            )
        return cls(fold, {new.get(name, name): group for name, group in names.items()}, trained)

    def join(self, new: Mapping[str, bytes]) -> Groups:
        """The groups of the set and of new images, also linked by duplicates among these.

        Args:
            new: signatures by `FurtherFold.image_id`.
        """
        known, num_rows = self.fold.reader.index.group, len(self.fold.reader)
        alike, _ = group_duplicates(list(new.values()))
        otherwise = np.concatenate([known, int(known.max()) + 1 + alike])
        joined = join_groups(otherwise, number_groups([*_image_ids(self.fold), *new], self.names))
        return Groups(joined[:num_rows], dict(zip(new, joined[num_rows:].tolist(), strict=True)))

    def held_out(self, groups: Groups) -> set[str]:
        """The new images, of `join`, that belong to any of the set in a fold which is not among `trained`."""
        of_held = set(groups.of_rows[~np.isin(self.fold.reader.index.fold, list(self.trained))].tolist())
        return {image_id for image_id, group in groups.of_new.items() if group in of_held}


def _image_ids(fold: FurtherFold) -> list[str]:
    """Of the set's images, in their order."""
    return [fold.reader.index.image_id(row) for row in range(len(fold.reader))]


def _name(record: ImageRecord, fold: FurtherFold, of_set: Collection[str]) -> str:
    """What a new image is called in the file."""
    return fold.image_id(record) if record.image_id in of_set else record.image_id

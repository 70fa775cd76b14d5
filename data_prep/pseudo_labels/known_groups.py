"""Images that belong together by a file, of a set and of those that are to join it; which of these must stay out."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.duplicates import group_duplicates, join_groups
from data_prep.further_fold import FurtherFold, Groups
from data_prep.splits import as_spelled, number_groups, read_group_names
from steel.errors import InputError, counted, list_some, told_url
from steel.images.listing import ImageRecord
from steel.shards.selection import labelled_folds, pseudo_folds


@dataclass(frozen=True)
class KnownGroups:
    """Groups by a file with the header `image,group`, joined with those of the set."""

    fold: FurtherFold
    """That the new images are for."""
    held: tuple[int, ...]
    """Folds of the set that judge: what belongs to their images stays out."""
    names: Mapping[str, str]
    """Of groups by image: those of the set, and new ones by `FurtherFold.image_id`."""
    num_new: int
    """Images that are new."""
    unnamed: int
    """Of these, such as the file does not name."""
    of_nothing: int
    """Names in the file that no image has."""

    @classmethod
    def read(cls, url: str, fold: FurtherFold, records: Sequence[ImageRecord], held: Sequence[int]) -> "KnownGroups":
        """Read the file.

        Args:
            url: path or URL; it names images of the set as the set does, or as an earlier round's folder did, and new
                ones as their folder does, or, where the set has one of that name, as the set will. It may name others.
            fold: that the new images are for.
            records: the new images.
            held: folds of the set that judge.

        Raises:
            InputError: a file that is malformed, or names none of the set or no new image, as which nothing would be
                told of what tests; or two new images that it could mean by one name.
        """
        in_set = _image_ids(fold)
        of_set = {image_id: image_id for image_id in in_set}
        new = _by_name(records, fold, of_set)
        meant = {**_of_earlier_rounds(in_set, fold), **new, **of_set}
        spell = as_spelled(meant)
        named = {spell(name): group for name, group in read_group_names(url).items()}
        names = {meant[name]: group for name, group in named.items() if name in meant}
        for those, where in ((of_set.values(), fold.reader.root), (new.values(), "the folder of --unlabelled")):
            if not names.keys() & set(those):
                raise InputError(
                    f"--groups {told_url(url)}: names no image of {where}, so that nothing tells which images belong "
                    "to those that test; name images of both, of the shards as in the file that they were made with"
                )
        unnamed = len(new) - len(names.keys() & set(new.values()))
        return cls(fold, tuple(held), names, len(new), unnamed, len(named.keys() - meant.keys()))

    def join(self, known: Sequence[bytes], new: Mapping[str, bytes]) -> Groups:
        """The groups of the set and of new images, by the file, by the set and by being near-duplicates.

        Args:
            known: signatures of the set's images, in their order.
            new: those of new images by `FurtherFold.image_id`; also of such as will stay out, for what they link.
        """
        group = self.fold.reader.index.group
        alike, _ = group_duplicates([*known, *new.values()])
        apart = np.concatenate([group, int(group.max()) + 1 + np.arange(len(new))])
        by_name = number_groups([*_image_ids(self.fold), *new], self.names)
        joined = join_groups(join_groups(apart, alike), by_name)
        return Groups(joined[: len(known)], dict(zip(new, joined[len(known) :].tolist(), strict=True)))

    def held_out(self, groups: Groups) -> set[str]:
        """The new images, of `join`, that belong to any in a fold that judges."""
        of_held = set(groups.of_rows[np.isin(self.fold.reader.index.fold, self.held)].tolist())
        return {image_id for image_id, group in groups.of_new.items() if group in of_held}

    def told(self) -> str:
        """What the file says of new images: a name that is written in two ways shows as one without a group."""
        new = counted(self.num_new, "new image")
        said = f"warning: --groups does not name {self.unnamed:,} of {new}" if self.unnamed else f"--groups names {new}"
        return said + (f"; {counted(self.of_nothing, 'name')} in it of no image" if self.of_nothing else "")


def folds_that_judge(asked: Sequence[int] | None, trained: Collection[int], fold: FurtherFold) -> list[int]:
    """The folds of a set that validate or test.

    Args:
        asked: those that are named; None where none are.
        trained: folds that the checkpoint was trained on, which then are all others that people have labelled.
        fold: that new images are for.

    Raises:
        InputError: one that the set does not have, or none to be found.
    """
    present = labelled_folds(fold.reader)
    missing = [number for number in asked or () if number not in present]
    if missing:
        there = ", ".join(map(str, present))
        raise InputError(f"--held-out {missing[0]}: people have labelled the folds {there} of {fold.reader.root}")
    held = [number for number in present if number not in trained] if asked is None else sorted({*asked})
    if not held:
        raise InputError(
            "--groups: the checkpoint was trained on every fold, so that it does not tell which are to judge; name "
            "these with --held-out, as 0 1"
        )
    return held


def _image_ids(fold: FurtherFold) -> list[str]:
    """Of the set's images, in their order."""
    return [fold.reader.index.image_id(row) for row in range(len(fold.reader))]


def _by_name(records: Sequence[ImageRecord], fold: FurtherFold, of_set: Collection[str]) -> dict[str, str]:
    """New images by what the file calls them."""
    named = [(fold.image_id(one) if one.image_id in of_set else one.image_id, fold.image_id(one)) for one in records]
    twice = _twice(name for name, _ in named)
    if twice:
        raise InputError(
            f"--groups: {list_some(sorted(twice))} would each name two of the new images, as the set has an image of "
            "that name, too; rename these"
        )
    return dict(named)


def _of_earlier_rounds(image_ids: Sequence[str], fold: FurtherFold) -> dict[str, str]:
    """The set's images that an earlier round has labelled, by what its folder called them, where that says which."""
    rounds = tuple(f"fold-{number}/" for number in pseudo_folds(fold.manifest))
    named = [(name.partition("/")[2], name) for name in image_ids if name.startswith(rounds)] if rounds else []
    twice = _twice(name for name, _ in named)
    return {name: image_id for name, image_id in named if name not in twice}


def _twice(names: Iterable[str]) -> set[str]:
    return {name for name, number in Counter(names).items() if number > 1}

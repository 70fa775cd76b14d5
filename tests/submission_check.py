"""A submission checked as the competition would."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from steel.errors import InputError
from steel.labels.rle import decode_rle
from steel.labels.submission import Row, SubmissionSummary, read_submission
from steel.validation_errors import Issue, raise_issues


def validate_submission(
    path: str | Path,
    *,
    num_classes: int,
    image_ids: Collection[str] | None = None,
    size: tuple[int, int] | Mapping[str, tuple[int, int]] | None = None,
) -> SubmissionSummary:
    """Check a submission as the competition would, all faults at once.

    Args:
        path: the file.
        num_classes: C; class ids are 1 to C.
        image_ids: the images to be answered, all of them and no others; not checked when None.
        size: (height, width) of all images, or of each by its id: every mask must decode to it. Not checked when None.

    Raises:
        InputError: unreadable, or rows that are repeated, missing, of unknown images or classes, or with broken masks.
    """
    submission = read_submission(path)
    issues: list[Issue] = []
    seen: set[tuple[str, int]] = set()
    for row in submission.rows:
        name = f"{row.image_id} class {row.class_id}"
        if not 1 <= row.class_id <= num_classes:
            issues.append(Issue("unknown class ids", name))
        if (row.image_id, row.class_id) in seen:
            issues.append(Issue("repeated rows", name))
        seen.add((row.image_id, row.class_id))
        issues += _mask_issues(row, name, size)
    present = set(submission.image_ids)
    if image_ids is not None:
        issues += [Issue("images without a row", image_id) for image_id in sorted(set(image_ids) - present)]
        issues += [Issue("unknown images", image_id) for image_id in sorted(present - set(image_ids))]
    if submission.is_pairs:
        wanted = ((image_id, k) for image_id in submission.image_ids for k in range(1, num_classes + 1))
        issues += [Issue("missing rows", f"{i} class {k}") for i, k in wanted if (i, k) not in seen]
    raise_issues(issues, f"in {path}")
    return SubmissionSummary(len(present), len(submission.rows), sum(bool(row.rle) for row in submission.rows))


def _mask_issues(row: Row, name: str, size: tuple[int, int] | Mapping[str, tuple[int, int]] | None) -> Iterable[Issue]:
    if not row.rle or size is None:
        return
    shape = size.get(row.image_id) if isinstance(size, Mapping) else size
    if shape is None:
        return  # an unknown image, told as such
    try:
        decode_rle(row.rle, *shape)
    except InputError as error:
        yield Issue("masks that do not decode", f"{name}: {error}")

"""What is to be predicted of a folder and written where: checked before anything is predicted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from steel import __version__, storage
from steel.errors import InputError, told_url
from steel.images.listing import IMAGE_SUFFIXES, ImageRecord, TiffPages, lies_in, list_images, split_pages
from steel.inference.journal import Journal
from steel.inference.writers import WRITERS, FileWriter, FolderWriter, Task
from steel.labels.submission import SUBMISSION_FORMATS
from steel.validation_errors import raise_issues


@dataclass(frozen=True)
class FolderJob:
    """What is to be predicted and written. Small enough to be sent to other ranks."""

    source: str
    """A folder of images, or one image; a path or URL, which may end in a query."""
    out: str
    """The folder to write to; a path or URL."""
    formats: tuple[str, ...] = ("kaggle",)
    """Names in `WRITERS`."""
    columns: str = "ImageId_ClassId"
    """Of the submission, where there is no template: one of `SUBMISSION_FORMATS`."""
    template: str | None = None
    """A sample submission whose rows and order to take."""
    threads: int = 4
    """Decode images and make what is written while the model runs."""
    tiff_pages: TiffPages = "refuse"
    """What a TIFF of several pages is."""

    def task(self, class_names: Sequence[str], records: Sequence[ImageRecord]) -> Task:
        """What the writers are told."""
        image_ids = [record.image_id for record in records]
        return Task(tuple(class_names), image_ids, self.columns, self.template)


class Plan(NamedTuple):
    """The images of a job."""

    records: tuple[ImageRecord, ...]
    """All, in order."""
    missing: tuple[ImageRecord, ...]
    """Those that are still to be predicted."""
    mark: str
    """Of the job's journal."""


def check_job(job: FolderJob) -> None:
    """Check what can be told of a job before its model is loaded and its images are listed.

    Raises:
        InputError: formats or places that cannot be, or files of an earlier job in the way.
    """
    _check_formats(job)
    _check_source(job.source)
    _check_places(job)
    if not Journal(job.out).is_begun():
        _check_empty(job)


def plan_folder(job: FolderJob, class_names: Sequence[str], depends_on: Mapping[str, Any]) -> Plan:
    """Check that a job can be done, and begin its journal or go on with it.

    Args:
        job: what is to be done.
        class_names: of the predictor.
        depends_on: what the predictions depend on, as plain JSON values.

    Raises:
        InputError: no images, formats or places that cannot be, or unfinished predictions of another job.
    """
    check_job(job)
    records = find_images(job.source, job.tiff_pages)
    for name in job.formats:
        WRITERS[name].check(job.task(class_names, records))
    storage.make_folder(job.out)
    journal = Journal(job.out)
    template = None if job.template is None else storage.digest_file(job.template)
    how = {"format": sorted(job.formats), "columns": job.columns, "template": template, "version": __version__}
    how["tiff_pages"] = job.tiff_pages
    journal.begin({"images": told_url(storage.full_path(job.source)), **how, **depends_on})
    gone = journal.take_down_images([record.image_id for record in records])
    done = journal.lines(versions_of(records))
    missing = tuple(record for record in records if record.image_id not in done)
    _remove_pictures(job, class_names, gone.union(record.image_id for record in missing), done)
    return Plan(records, missing, journal.mark)


def versions_of(records: Sequence[ImageRecord]) -> dict[str, str]:
    """Image id -> version of its file: what was predicted of another one does not count. Where its store tells no time
    or hash that is its size."""
    return {record.image_id: record.version or str(record.size) for record in records}


def find_images(source: str, tiff_pages: TiffPages = "refuse") -> tuple[ImageRecord, ...]:
    """The images of a folder, or the one file that `source` names.

    Raises:
        InputError: no image there, or no such file.
    """
    image = _image_of(source)
    if image is None:
        return list_images(source, tiff_pages=tiff_pages)
    info = storage.file_info(source)
    if info is None:
        raise InputError(f"{told_url(source)}: no such file")
    record = ImageRecord(image.rpartition("/")[2], source, version=info.version, size=info.size or 0)
    raise_issues(storage.name_issues([record.image_id]), "rename it")
    return (record,) if tiff_pages == "refuse" else split_pages([record])


def _image_of(source: str) -> str | None:
    """The one image that `source` names, without the query that a URL is fetched with; None for a folder. A store is
    not asked: the name decides."""
    if not storage.is_remote(source):
        return source if storage.local_path(source).is_file() else None
    spelled = (told_url(source), source)  # what looks like a query may be a part of a name, but over HTTP
    return next((url for url in spelled if url.lower().endswith(IMAGE_SUFFIXES)), None)


def _check_formats(job: FolderJob) -> None:
    unknown = [name for name in job.formats if name not in WRITERS]
    if unknown or not job.formats or len(set(job.formats)) < len(job.formats):
        raise InputError(f"--format {','.join(job.formats)}: give some of {', '.join(WRITERS)}, each at most once")
    if job.template is not None and "kaggle" not in job.formats:
        raise InputError("--template: only the format kaggle has one; add that to --format")
    if job.columns != FolderJob.columns and "kaggle" not in job.formats:
        raise InputError("--columns: only the format kaggle has them; add that to --format")
    for name, value, known in (
        ("columns", job.columns, tuple(SUBMISSION_FORMATS)),
        ("tiff-pages", job.tiff_pages, get_args(TiffPages)),
    ):
        if value not in known:  # a command line has its own check
            raise InputError(f"--{name} {value}: choose from {' and '.join(known)}")


def _check_source(source: str) -> None:
    """Refuse a local one that is not there, or whose end, as a slash, is no name that an image could have."""
    if not source:
        raise InputError("images: an empty path; give . for the current folder")
    if storage.is_remote(source):
        return
    path = storage.local_path(source)
    if not path.exists():
        raise InputError(f"{source}: no such file or folder")
    if path.is_file() and source.rpartition("/")[2] != path.name:
        raise InputError(f"{source}: a file, not a folder; leave out what follows {path.name}")


def _folder_writers(job: FolderJob) -> list[FolderWriter]:
    return [writer for name in job.formats if isinstance(writer := WRITERS[name], FolderWriter)]


def replaced_files(job: FolderJob) -> list[str]:
    """The files of earlier jobs that this one will replace when it is done: those that hold all images at once, whole.

    Pictures would be mixed instead, and are refused by `check_job`.
    """
    writers = [WRITERS[name] for name in job.formats]
    places = [storage.join(job.out, writer.place) for writer in writers if isinstance(writer, FileWriter)]
    return [place for place in places if storage.exists(place)]


def _image_folders(job: FolderJob) -> list[str]:
    """Where image files will be written."""
    return [storage.join(job.out, writer.place) for writer in _folder_writers(job)]


def _remove_pictures(job: FolderJob, class_names: Sequence[str], of: Collection[str], kept: Collection[str]) -> None:
    """Remove what earlier attempts have written for images that are gone since, or are to be predicted again.

    It would stay where such an image cannot be read any more. What an image that is `kept` has is left, as `a.png` may
    have come in place of `a.jpg`.
    """
    for writer in _folder_writers(job):
        folder = storage.join(job.out, writer.place)
        files = storage.list_files(folder) if storage.is_folder(folder) else []
        if not files:
            continue
        names = {name for image_id in of for name in writer.names(class_names, image_id)}
        names.difference_update(name for image_id in kept for name in writer.names(class_names, image_id))
        for file in files:
            if file.path in names:
                storage.remove(storage.join(folder, file.path))


def _check_places(job: FolderJob) -> None:
    """Refuse a place that is a file, and outputs that would be taken for images by the next run."""
    if job.out.lower().endswith((*IMAGE_SUFFIXES, ".csv", ".json", ".jsonl")):
        raise InputError(f"{job.out}: the name of a file; give that of a folder for what is written")
    image = _image_of(job.source)
    for folder in _image_folders(job):
        if image is not None:
            mixed = lies_in(image.rpartition("/")[0] or ".", folder)
        else:
            mixed = lies_in(folder, job.source)
        if mixed:
            raise InputError(f"{folder}: pictures there would be mixed with the images; choose another --out")


def _check_empty(job: FolderJob) -> None:
    """Refuse to mix the pictures of two jobs."""
    for folder in _image_folders(job):
        if storage.is_folder(folder) and storage.list_files(folder):
            raise InputError(f"{folder}: holds files of an earlier command; remove it, or give another --out")

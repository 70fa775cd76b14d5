"""What has been predicted of a folder so far: kept in small files, so that a job that was stopped goes on.

Below the output folder lies a hidden one with the description of the job, the names of its images and parts: files of
lines, one for each image with what every output needs of it, as a checksum and JSON. A part appears whole or not at
all; a line that was damaged since is none, nor is one of another version of the image: it is predicted again. Several
ranks write parts side by side; those whose names do not begin with the mark of the job are another's. When the outputs
are complete the folder is removed.
"""

import hashlib
import json
import tempfile
import time
import uuid
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from steel import storage
from steel.errors import InputError, counted, told_stop
from steel.plain import from_plain, parse_json

_FOLDER = ".unfinished"
_DESCRIPTION = "job.json"
_IMAGES = ".images"
_LINES_PER_PART = 512
_SECONDS_PER_PART = 3.0
"""A part is written after so many images or seconds: no more of the work is lost with a process that is killed."""
_LEFTOVER_S = 86400.0
"""Since the last change to a journal of which a process that was killed has left parts: a younger one, or another
hidden folder that lies there, may still be somebody's work."""
_JSON_AT = 9
"""In a line: behind the checksum's eight digits and a blank."""


class _Place(NamedTuple):
    """Where the JSON of an image's line is."""

    url: str
    offset: int
    length: int


class Lines(Mapping[str, dict[str, Any]]):
    """The lines of images, read when they are asked for, in the order of the images."""

    def __init__(self, places: Mapping[str, _Place]) -> None:
        self._places = places

    def __getitem__(self, image_id: str) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(storage.read_range(*self._places[image_id]))
        return line

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places


class Journal:
    """The hidden folder of one output folder."""

    def __init__(self, out: str, mark: str = "") -> None:
        """Of an output folder.

        Args:
            out: a path or URL.
            mark: of the job, once an attempt has begun it.
        """
        self.out = out
        self.mark = mark
        self.folder = storage.join(out, _FOLDER)

    @property
    def staging(self) -> str | None:
        """The path of the local folder in which unfinished files lie; None for a remote one."""
        return None if storage.is_remote(self.out) else str(storage.local_path(self.folder))

    def is_begun(self) -> bool:
        """Whether an earlier attempt has left something."""
        return storage.exists(storage.join(self.folder, _DESCRIPTION))

    def begin(self, job: Mapping[str, Any]) -> None:
        """Begin a job, or go on with it; `mark` is then the job's.

        Args:
            job: all that its outputs depend on, as plain JSON values.

        Raises:
            InputError: what is there belongs to another job, or is damaged.
        """
        storage.make_folder(self.folder)
        if self.staging is not None:
            with suppress(OSError):  # another user's, perhaps: no reason to predict nothing
                storage.remove_leftovers(storage.local_path(self.out), older_than_s=_LEFTOVER_S)
        url = storage.join(self.folder, _DESCRIPTION)
        self.mark = _mark_of(job)
        if not self.is_begun():
            storage.write_text(url, json.dumps(job, indent=1))
            return
        before, now = _read_job(url, self.folder), json.loads(json.dumps(job))
        other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if other:
            raise InputError(
                f"{self.out}: unfinished predictions of another command are there (it differs in {', '.join(other)}); "
                f"finish those, remove {self.folder}, or give another --out"
            )

    def take_down_images(self, image_ids: Collection[str]) -> set[str]:
        """Take down which images this attempt is about; those of earlier ones that are gone since are returned.

        Raises:
            InputError: what is there is damaged.
        """
        before = set[str]()
        for file in storage.list_files(self.folder, (_IMAGES,)):
            before.update(_read_images(storage.join(self.folder, file.path), self.folder))
        now = set(image_ids)
        if new := sorted(now - before):
            url = storage.join(self.folder, f"{uuid.uuid4().hex}{_IMAGES}")
            storage.write_bytes(url, json.dumps(new).encode(), staging=self.staging)
        return before - now

    @contextmanager
    def recorder(self) -> Iterator["Recorder"]:
        """Take down lines; those that are not yet in a part become one however the block ends."""
        recorder = Recorder(self)
        try:
            yield recorder
        finally:
            recorder.flush()

    def lines(self, versions: Mapping[str, str]) -> Lines:
        """What was taken down of these images, given with the versions of their files, and is as it was."""
        places: dict[str, _Place] = {}
        for url in self._parts():
            offset = 0
            for line in storage.read_bytes(url).splitlines(keepends=True):
                text = line[_JSON_AT:]
                if line[:_JSON_AT] == _checksum(text):
                    image_id, version = map(json.loads(text).get, ("image", "version"))
                    if versions.get(image_id) == version:
                        places[image_id] = _Place(url, offset + _JSON_AT, len(text))
                offset += len(line)
        return Lines({image_id: places[image_id] for image_id in versions if image_id in places})

    @contextmanager
    def local_lines(self, versions: Mapping[str, str]) -> Iterator[Lines]:
        """As `lines`, to be read again and again: of a remote folder, a local copy is made first."""
        if self.staging is not None:
            yield self.lines(versions)
            return
        with tempfile.TemporaryDirectory(prefix="steel-") as folder:
            copy = Journal(folder, self.mark)
            storage.make_folder(copy.folder)
            for number, url in enumerate(self._parts()):
                storage.download(url, Path(copy.folder, f"{self.mark}-{number}.jsonl"))
            yield copy.lines(versions)

    def _parts(self) -> list[str]:
        """Of this job: where somebody removed the folder, another that still runs may write into the new one."""
        files = storage.list_files(self.folder, (".jsonl",))
        return [storage.join(self.folder, file.path) for file in files if file.path.startswith(f"{self.mark}-")]

    def is_ours(self) -> bool:
        """Whether the folder is there, and still that of this job."""
        url = storage.join(self.folder, _DESCRIPTION)
        try:
            return _mark_of(_read_job(url, self.folder)) == self.mark
        except (FileNotFoundError, InputError):
            return False

    def check_ours(self) -> None:
        """Refuse to go on where the folder is gone, or another job's by now.

        Raises:
            InputError: it is.
        """
        if not self.is_ours():
            raise InputError(
                f"{self.folder}: gone meanwhile; another command for {self.out} has finished, or somebody removed it"
            )

    def check_whole(self, lines: Mapping[str, Any], image_ids: Collection[str]) -> None:
        """Refuse to write files from fewer lines than there are images.

        Raises:
            InputError: some are gone.
        """
        if lost := len(set(image_ids) - lines.keys()):
            raise InputError(
                f"{self.folder}: what was predicted of {counted(lost, 'image')} is gone meanwhile; "
                "give the same command again"
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say so where the folder goes while it is used: whatever fails then fails for that; and of a stop, Ctrl-C or
        SIGTERM, that nothing is lost by it.

        Raises:
            InputError: it is gone, or another job's.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            error.args = (f"{told_stop(error)}; the same command goes on from here",)
            raise
        except (FileNotFoundError, InputError) as error:
            try:
                self.check_ours()
            except InputError as gone:
                raise gone from error
            raise

    def remove(self) -> None:
        """The outputs are complete. Other commands for them, which may still write there, find the folder gone."""
        storage.remove_at_once(self.folder)


class Recorder:
    """Writes the parts of one process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._prefix = f"{journal.mark}-{uuid.uuid4().hex}"
        self._count = 0
        self._lines: list[bytes] = []
        self._since = time.monotonic()

    def add(self, line: bytes) -> None:
        """Take down a line as `line_of` has made it."""
        self._lines.append(line)
        if len(self._lines) >= _LINES_PER_PART or time.monotonic() - self._since > _SECONDS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Make a part of what has come since the last one.

        Raises:
            InputError: the folder is gone, or another job's by now.
        """
        if self._lines:
            self._journal.check_ours()
            name = f"{self._prefix}-{self._count:06d}.jsonl"
            url = storage.join(self._journal.folder, name)
            storage.write_bytes(url, b"".join(self._lines), staging=self._journal.staging)
            self._count += 1
        self._lines = []
        self._since = time.monotonic()


def line_of(image_id: str, version: str, values: Mapping[str, Any]) -> bytes:
    """The line of an image whose file has this version."""
    text = f"{json.dumps({'image': image_id, 'version': version, **values})}\n".encode()
    return _checksum(text) + text


def _checksum(text: bytes) -> bytes:
    """What stands before the JSON of a line, its end included."""
    return b"%08x " % zlib.crc32(text)


def _mark_of(job: Mapping[str, Any]) -> str:
    """What the names of a job's parts begin with: told by all that its outputs depend on, so the same in every attempt
    and on every rank."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]


def _read_job(url: str, folder: str) -> dict[str, Any]:
    with _damage_told(url, folder):
        job = parse_json(storage.read_bytes(url))
        if not isinstance(job, dict):
            raise InputError("not the description of a job")
        return job


def _read_images(url: str, folder: str) -> tuple[str, ...]:
    with _damage_told(url, folder):
        image_ids: tuple[str, ...] = from_plain(tuple[str, ...], parse_json(storage.read_bytes(url)), "images")
        return image_ids


@contextmanager
def _damage_told(url: str, folder: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{url}: cannot be read ({error}); remove {folder}, or give another --out") from error

"""The output folder: what is in it, whose it is, and where unfinished things lie."""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.options import Options
from data_prep.plan import Plan, ShardPlan, are_comparable
from data_prep.rows import ShardRows, are_sound, read_rows
from steel import storage
from steel.errors import InputError, ResourceError, list_some, told_bytes
from steel.plain import from_dict, parse_json, to_dict
from steel.shards.format import DUPLICATES_NAME, INDEX_NAME, MANIFEST_NAME, Manifest
from steel.shards.shard_files import wrong_sizes

UNFINISHED = ".unfinished"
"""Subfolder of the output that exists as long as the job is not finished."""
_PLAN = "plan.json"


def is_finished(options: Options) -> bool:
    """Whether the output folder already holds the result of these options, as far as the sizes of its files tell.

    Raises:
        InputError: it holds the result of others, or files of it are missing or damaged.
    """
    if not storage.exists(storage.join(options.out, MANIFEST_NAME)):
        return False
    manifest = Manifest.load(options.out)
    refuse_others(options.out, manifest.options, options.recorded())
    refuse_damaged(options.out, manifest)
    return True


def refuse_others(out: str, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises InputError where what the finished shards of a folder were made with differs in anything wanted."""
    told = _told_differences(made_with, wanted)
    if told:
        raise InputError(f"{out}: already holds shards made with other options: {told}; choose another --out")


def refuse_damaged(out: str, manifest: Manifest) -> None:
    """Raises InputError where files of finished shards are missing or damaged, as far as their sizes tell."""
    files = [(INDEX_NAME, manifest.index_size), *((shard.name, shard.size) for shard in manifest.shards)]
    damaged = wrong_sizes(out, files)
    if damaged:
        raise InputError(
            f"{out}: finished before, but files are missing or damaged since: {list_some(damaged)}; "
            "remove the folder and run this again, or choose another --out"
        )


def _told_differences(made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """`seed 0, not 3; groups none, not of a file`; empty where nothing that is wanted differs."""
    return "; ".join(
        f"{name.replace('_', '-')} {_told_value(made_with.get(name))}, not {_told_value(value)}"
        for name, value in wanted.items()
        if made_with.get(name) != value
    )


def _told_value(value: Any) -> str:
    """A plain JSON value much as it would be typed; of a digest the beginning."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(_told_value, value))
    if isinstance(value, dict):
        return " ".join(f"{name} {_told_value(one)}" for name, one in value.items())
    text = str(value)
    return "of a file" if text == "file" else text[:8] if re.fullmatch("[0-9a-f]{64}", text) else text


def is_begun(options: Options) -> bool:
    """Whether an unfinished job is in the output folder."""
    return storage.exists(storage.join(options.out, UNFINISHED, _PLAN))


def refuse_foreign(options: Options) -> None:
    """Raises InputError when the output folder holds files and no job of ours."""
    if is_begun(options) or not storage.exists(options.out):
        return
    others = [file.path for file in storage.list_files(options.out)]
    if others:
        raise InputError(f"{options.out}: is not empty ({list_some(others, 3)}); choose another --out")


def claim(options: Options, plan: Plan, *, may_restart: bool, may_deal: bool) -> str:
    """Mark the output folder as this plan's, so that a later run goes on with it.

    Args:
        options: What to do.
        plan: What it comes to.
        may_restart: Discard what an unfinished run of the same options has written for other images or labels:
            people mend what was refused, then start again. One of other options that has written nothing, as it was
            refused for want of an option, is nothing to keep either.
        may_deal: Go on with what an unfinished run has written that differs in how images are dealt to folds: no part
            of it can be at work now.

    Returns:
        Why something was discarded; empty when nothing was.

    Raises:
        InputError: an unfinished job of other options is there; or of other input, or of another version of this
            program, and it may not be discarded.
    """
    plan_url = storage.join(options.out, UNFINISHED, _PLAN)
    wanted = options.recorded()
    reason = ""
    if storage.exists(plan_url):
        theirs = _read_claim(plan_url)
        if theirs.fingerprint == plan.fingerprint:
            return ""
        differing = _told_differences(theirs.options, wanted)
        is_of_now = are_comparable(theirs.fingerprint, plan.fingerprint)
        is_dealt_anew = may_deal and is_of_now and theirs.shards_fingerprint == plan.shards_fingerprint
        written = [] if is_dealt_anew else _written(options.out)
        if is_dealt_anew:
            storage.remove(storage.join(options.out, DUPLICATES_NAME))  # which may not be asked for any more
        elif not may_restart or (differing and written):
            if differing:
                what = f"with other options: {differing}"
            elif is_of_now:
                what = "with other images, labels, --labels-format, groups or split"
            else:
                what = "of another version of this program"
            raise InputError(
                f"{options.out}: holds an unfinished job {what}; remove the folder or choose another --out"
            )
        if written:
            changed = "the input had changed since an earlier, unfinished run"
            reason = changed if is_of_now else "an earlier, unfinished run was of another version of this program"
        for url in written:
            storage.remove(url)
    mine = json.dumps(to_dict(_Claim(plan.fingerprint, wanted, plan.shards_fingerprint)), indent=1, sort_keys=True)
    storage.write_bytes(plan_url, mine.encode(), staging=staging_folder(options.out))
    return reason


def _written(out: str) -> list[str]:
    """Shards of an unfinished job, and what it has noted of them."""
    folders = (out, (".tar",)), (storage.join(out, UNFINISHED), (".rows", ".levels"))
    return [storage.join(folder, file.path) for folder, names in folders for file in storage.list_files(folder, names)]


@dataclass(frozen=True)
class _Claim:
    """What `plan.json` says: whose the folder is."""

    fingerprint: str
    options: dict[str, Any]
    shards_fingerprint: str = ""


def _read_claim(url: str) -> _Claim:
    try:
        return from_dict(_Claim, parse_json(storage.read_bytes(url)))
    except InputError as error:
        raise InputError(
            f"{url}: cannot be read ({error}); remove the unfinished folder, or choose another --out"
        ) from error


def rows_url(options: Options, shard: ShardPlan) -> str:
    """Where the mark of a finished shard lies."""
    return storage.join(options.out, UNFINISHED, f"{shard.name}.rows")


def levels_url(options: Options, shard: ShardPlan) -> str:
    """Where it is kept how often each value occurs in the images of a shard."""
    return storage.join(options.out, UNFINISHED, f"{shard.name}.levels")


def finished_rows(options: Options, plan: Plan, shard: ShardPlan) -> ShardRows | None:
    """The rows of a shard, if it is complete and belongs to this plan."""
    rows = read_rows(rows_url(options, shard), len(plan.labels.class_names), tiled=options.tile is not None)
    if rows is None or rows.fingerprint != plan.shards_fingerprint:
        return None
    if rows.size != storage.file_size(storage.join(options.out, shard.name)):
        return None
    is_sound = are_sound(
        rows,
        shard.number,
        [record.image_id for record in shard.records],
        some_ignored=plan.labels.ignore,
        with_signatures=options.split_options.group_duplicates,
        tile=options.tile,
    )
    return rows if is_sound else None


def staging_folder(out: str) -> Path:
    """The local folder for unfinished files: on the output's own disk when that is local."""
    if not storage.is_remote(out):
        return storage.local_path(out) / UNFINISHED
    name = hashlib.sha256(out.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"data_prep-{os.getuid()}-{name}"


@contextmanager
def lock(out: str, *, shared: bool) -> Iterator[None]:
    """Keep two jobs out of one folder; parts of one job share it. The lock ends with the process, however that ends.

    What a killed job left half-written is cleared away, unless others may be at work.

    Raises:
        InputError: another job is writing there.
    """
    folder = staging_folder(out)
    storage.make_folder(folder)
    with open(folder / "lock", "wb") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: another job is writing there; wait for it or choose another --out") from None
        if not shared:
            storage.remove_leftovers(folder)
        yield


def clear_unfinished(out: str) -> None:
    """Remove everything that only an unfinished job needs."""
    storage.remove(storage.join(out, UNFINISHED))
    storage.remove(staging_folder(out))


def check_disk(options: Options, missing: Sequence[ShardPlan], workers: int) -> None:
    """Refuse to start what cannot end.

    Raises:
        ResourceError: the disk has too little room for the shards that are missing, or, for a remote output, for those
            being written at a time.
    """
    sizes = sorted((shard.num_bytes for shard in missing), reverse=True)
    needed = sum(sizes[:workers]) if storage.is_remote(options.out) else sum(sizes)
    where = staging_folder(options.out)
    free = storage.free_bytes(where)
    assert free is not None
    if needed > free:
        raise ResourceError(
            f"{where if storage.is_remote(options.out) else options.out}: about {told_bytes(needed)} needed, "
            f"{told_bytes(free)} free; make room or choose another --out"
        )

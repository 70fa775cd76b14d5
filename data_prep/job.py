"""The whole sharding job: plan -> write -> manifest. Killed at any moment, it goes on where it was."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from data_prep.depth import LevelsTask, kept_levels, sum_levels, window_between
from data_prep.folder import (
    check_disk,
    claim,
    clear_unfinished,
    finished_rows,
    is_begun,
    is_finished,
    levels_url,
    lock,
    refuse_foreign,
    rows_url,
    staging_folder,
)
from data_prep.manifest import Summary, draft_manifest, write_manifest
from data_prep.options import Options
from data_prep.plan import Plan, ShardPlan, are_comparable, make_plan
from data_prep.rows import ShardRows
from data_prep.unusable import raise_once
from data_prep.write import ShardTask, write_shard
from steel import storage
from steel.errors import InputError, list_some, told_url
from steel.images.pixel_format import Depth
from steel.shards.format import Manifest
from steel.validation_errors import Issue, ValidationErrors

INPUT_DIGEST = "input_sha256"
"""Among the options in the manifest: of all that the shards were made of."""


@dataclass(frozen=True)
class Result:
    """What a run did."""

    num_written: int
    """Images that this run put into shards."""
    summary: Summary | None = None
    """Of the finished set; None after a part of a job."""
    already_finished: bool = False
    not_compared: str = ""
    """Why nothing tells whether the input of a finished job has changed."""
    left_out: tuple[str, ...] = ()
    """Labels that were left out at the user's word, a line a kind."""


def run_job(
    options: Options,
    executor: Executor,
    *,
    workers: int,
    part: tuple[int, int] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """Write the shards that are missing, then the index and the manifest.

    Args:
        options: What to do.
        executor: Any executor of `concurrent.futures`; tasks and results are picklable.
        workers: How many tasks it runs at a time (for the disk check).
        part: `(k, n)`: write only the k-th of n parts, from 1, and leave the rest to `join_job`.
        tell: is given, before anything is written, why what an earlier, unfinished run had written was discarded.

    Raises:
        ValidationErrors: images and masks that cannot be used, all at once.
        InputError: the input, the options or the output folder are not fit for this.
        ResourceError: the disk has too little room, or that of the images fails.
    """
    if is_finished(options):
        return _leave_finished(options)
    refuse_foreign(options)
    plan = make_plan(options)
    shards = plan.shards if part is None else plan.part(*part)
    if not is_begun(options):
        check_disk(options, shards, workers)  # before anything is written: what is refused here leaves nothing behind
    with lock(options.out, shared=part is not None):
        if is_finished(options):  # by another run, before this one got the lock
            return _leave_finished(options)
        discarded = claim(options, plan, may_restart=part is None, may_deal=part is None)
        if discarded:
            tell(f"{discarded}: started over")
        missing = [shard for shard in shards if finished_rows(options, plan, shard) is None]
        check_disk(options, missing, workers)
        depth = _resolve_depth(options, plan, executor, shards)
        done = sum(len(shard.records) for shard in shards) - sum(len(shard.records) for shard in missing)
        num_written = _write(options, plan, missing, executor, done, depth)
        summary = _finish(options, plan, depth, parts=1) if part is None else None
        return Result(num_written, summary, left_out=plan.labels.left_out)


def join_job(options: Options, num_parts: int) -> Result:
    """The last step of a job that ran in parts.

    Raises:
        InputError: some part is not complete; the line names them.
    """
    if is_finished(options):
        return _leave_finished(options)
    refuse_foreign(options)
    plan = make_plan(options)
    with lock(options.out, shared=False):
        if is_finished(options):  # by another, before this one got the lock
            return _leave_finished(options)
        claim(options, plan, may_restart=False, may_deal=True)
        return Result(0, _finish(options, plan, _known_depth(options, plan), parts=num_parts))


def _leave_finished(options: Options) -> Result:
    """A finished folder stays as it is.

    Raises:
        InputError: names or sizes of images, labels or the format that they are read as, or tables have changed since;
            in a script, corrected labels would else be lost. Or they cannot be read now.
    """
    clear_unfinished(options.out)  # what a run left that was killed after its last step
    gone = list(dict.fromkeys(told_url(url) for url in options.inputs() if not storage.exists(url)))
    if gone:
        return Result(0, already_finished=True, not_compared=f"this is not there now: {list_some(gone)}")
    try:
        fingerprint = make_plan(options).fingerprint
    except InputError as error:
        raise InputError(
            f"{options.out}: is finished, but cannot be compared with what it was made of: {error}"
        ) from error
    made_of = Manifest.load(options.out).options.get(INPUT_DIGEST, "")
    if not are_comparable(made_of, fingerprint):
        return Result(0, already_finished=True, not_compared="another version of this program made it")
    if made_of != fingerprint:
        raise InputError(
            f"{options.out}: already holds shards of other images, labels, --labels-format, groups or split: they "
            "have changed since; choose another --out"
        )
    return Result(0, already_finished=True)


def _resolve_depth(options: Options, plan: Plan, executor: Executor, first: Sequence[ShardPlan]) -> Depth:
    """What the images are read with: for percentiles, after a look at all of the set.

    Args:
        options: What to do.
        plan: What it comes to.
        executor: Counts values.
        first: Shards to begin with: parts of a job that run at the same time share the counting that way.

    Raises:
        ValidationErrors: images that cannot be read.
        InputError: percentiles that make no window.
    """
    if isinstance(options.depth, Depth):
        return options.depth
    begun = {shard.name for shard in first}
    order = sorted(plan.shards, key=lambda shard: shard.name not in begun)
    return window_between(sum_levels([_levels_task(options, plan, shard) for shard in order], executor), options.depth)


def _known_depth(options: Options, plan: Plan) -> Depth:
    """As `_resolve_depth`, from what the parts of a job have counted.

    Raises:
        InputError: no part has counted it all.
    """
    if isinstance(options.depth, Depth):
        return options.depth
    counts = [kept_levels(_levels_task(options, plan, shard)) for shard in plan.shards]
    known = [one for one in counts if one is not None]
    if len(known) < len(counts):
        raise InputError(f"{options.out}: not complete; run all parts, then --join")
    return window_between(np.sum(known, axis=0), options.depth)


def _levels_task(options: Options, plan: Plan, shard: ShardPlan) -> LevelsTask:
    url = levels_url(options, shard)
    return LevelsTask(shard.records, url, plan.shards_fingerprint, str(staging_folder(options.out)))


def _write(options: Options, plan: Plan, missing: list[ShardPlan], executor: Executor, done: int, depth: Depth) -> int:
    """Run one task a missing shard; returns the number of images written."""
    futures = [
        executor.submit(
            write_shard,
            ShardTask(
                shard,
                shard.labels(plan.labels),
                options,
                plan.shards_fingerprint,
                rows_url(options, shard),
                str(staging_folder(options.out)),
                depth,
            ),
        )
        for shard in missing
    ]
    total = done + sum(len(shard.records) for shard in missing)
    issues: list[Issue] = []
    written = 0
    with tqdm(total=total, initial=done, unit="image", desc="sharding") as bar:
        try:
            for future in as_completed(futures):
                try:
                    num_samples = future.result()
                except ValidationErrors as error:
                    issues += error.issues
                    continue
                written += num_samples
                bar.update(num_samples)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    raise_once(issues)
    return written


def _finish(options: Options, plan: Plan, depth: Depth, *, parts: int) -> Summary:
    found = {shard.name: finished_rows(options, plan, shard) for shard in plan.shards}
    complete: list[ShardRows] = [rows for rows in found.values() if rows is not None]
    if len(complete) < len(found):
        beginning = range(1, min(parts, len(plan.shards)) + 1)  # the others have no shard
        unfinished = [k for k in beginning if any(found[s.name] is None for s in plan.part(k, parts))]
        which = list_some([f"{k}/{parts}" for k in unfinished])
        raise InputError(f"{options.out}: not complete; run --part {which} again, then --join {parts}")
    draft = draft_manifest(
        plan.labels.class_names,
        ignore_bit=plan.labels.ignore_bit,
        depth=depth,
        tile=options.tile,
        options={**options.recorded(), INPUT_DIGEST: plan.fingerprint},
    )
    names = [shard.name for shard in plan.shards]
    summary = write_manifest(
        options.out, draft, names, complete, options.split_options, staging=staging_folder(options.out)
    )
    clear_unfinished(options.out)
    return summary

"""What the page of a cross-validation shows of single images: each predicted once more, by the member of its fold."""

from collections.abc import Callable, Mapping
from itertools import chain

import numpy as np

from steel.checkpoint import Checkpoint
from steel.distributed.runtime import Runtime
from steel.inference.predictor import Predictor
from steel.machine import Workers
from steel.reports.crossval_report import ToSee
from steel.reports.gallery import LABELS, RANDOM, TYPICAL, GalleryKeeper, Kept, choose
from steel.shards.reader import ShardReader
from steel.thresholds.nested import Nested
from train.engine.run_inference import show_images
from train.engine.visualise import NUM_EXAMPLES, choose_examples, choose_random


def keep_of_folds(
    members: Mapping[int, Checkpoint],
    nested: Nested,
    to_see: ToSee,
    reader: ShardReader,
    runtime: Runtime,
    *,
    tta: tuple[str, ...],
    pixels_per_pass: int | None,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> Kept:
    """Predict, on this rank alone, the images that the page needs; of all images they are few.

    Args:
        members: by the fold that each has not seen.
        nested: the decision that answers each fold.
        to_see: which images.
        reader: of the shards.
        runtime: its device and precision are taken.
        tta: the views behind the statistics.
        pixels_per_pass: see `Predictor`.
        workers: decoding processes; see `count_evaluation_workers`.
        on_progress: is told how many of how many images are done.
    """
    of_row = np.asarray(reader.index.fold)
    rows = nested.outcome.rows
    kinds = {
        **to_see.kinds,
        TYPICAL: choose_examples(reader, rows, NUM_EXAMPLES),
        RANDOM: choose_random(rows, NUM_EXAMPLES),
    }
    shown = frozenset(chain(*kinds.values()))
    needed = np.array(sorted(shown | to_see.in_doubt), np.int64)
    keepers, done = [], 0
    for fold, member in members.items():
        keeper = GalleryKeeper(nested.decisions[fold], reader.manifest.ignore_bit, shown)
        predictor = Predictor.from_checkpoint(
            member,
            device=runtime.device,
            tta=tta,
            pixels_per_pass=pixels_per_pass,
            precision=runtime.accelerator.mixed_precision,
        )
        of_fold = needed[of_row[needed] == fold]
        for _ in show_images(predictor, reader, of_fold, runtime, keeper, workers=workers):
            done += 1
            on_progress(done, len(needed))
        keepers.append(keeper)
    kinds[LABELS] = choose([keeper.ranking() for keeper in keepers])[LABELS]
    wanted = {row for some in kinds.values() for row in some}
    return Kept(
        kinds,
        {row: layers for keeper in keepers for row, layers in keeper.layers(wanted).items()},
        sorted(region for keeper in keepers for region in keeper.regions),
    )

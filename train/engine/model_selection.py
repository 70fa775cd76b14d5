"""The end of a run: score what may be shipped, find its decision, write the one checkpoint and the report."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from steel import __version__
from steel.checkpoint import Checkpoint, save_checkpoint
from steel.model.optimizer import average_state_dicts
from steel.reports.evaluation import format_table, write_metrics
from steel.shards.format import Manifest
from steel.storage import write_text
from train.engine.batch_plan import PhasePlan
from train.engine.run_folder import RunFolder
from train.engine.run_summary import summarise_run
from train.engine.step import TrainingState
from train.engine.top_checkpoints import name_at
from train.engine.validation import Judge, ValidationResult

logger = logging.getLogger("train.fit")

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Entry:
    """Weights that may be shipped, and what the validation folds say of them with test-time augmentation."""

    name: str
    weights: Weights
    result: ValidationResult


def candidate_weights(judge: Judge, training: TrainingState) -> Iterator[tuple[str, Weights]]:
    """What may be shipped: the last weights, averaged over steps and raw, the best epoch, the k best averaged."""
    ranked = judge.runtime.on_main(lambda: judge.store.readable(judge.progress))
    if training.average is not None:
        yield "moving average at the end", training.average.model.state_dict()
    yield "weights at the end", training.model.state_dict()
    if ranked and ranked[0].file != name_at(judge.progress):
        yield f"best epoch ({ranked[0].epoch:g} of phase {ranked[0].phase + 1})", judge.store.read(ranked[0])
    if len(ranked) > 1:
        yield f"average of the {len(ranked)} best epochs", average_state_dicts([judge.store.read(c) for c in ranked])


def select_model(
    judge: Judge, training: TrainingState, plans: Sequence[PhasePlan], folder: RunFolder, stopped: Callable[[], bool]
) -> bool:
    """Choose, tune and write the checkpoint; False when a stop signal came first (resuming starts this anew)."""
    scratch = copy.deepcopy(training.scored_model)
    entries: list[Entry] = []
    for name, weights in candidate_weights(judge, training):
        if any(judge.runtime.all_gather(stopped())):
            return False
        scratch.load_state_dict(weights)
        result = judge.score(scratch, judge.config.validation.tta, progress=f"scoring the {name}")
        entries.append(Entry(name, {k: v.cpu().clone() for k, v in scratch.state_dict().items()}, result))
    if not judge.runtime.is_main:
        return True

    best = max(entries, key=lambda entry: entry.result.score)  # the first of equals
    scores = {entry.name: entry.result.score for entry in entries}
    best.result.statistics.save(folder.statistics)
    save_checkpoint(folder.last_checkpoint, _checkpoint(judge, training, entries[0], scores))
    save_checkpoint(folder.checkpoint, _checkpoint(judge, training, best, scores))
    metrics = judge.metrics(best.result)
    write_metrics(folder.root / "validation.json", metrics)
    lines = summarise_run(judge, plans, scores, best.name, best.result)
    report = "\n".join([metrics["verdict"]["sentence"], *lines, "", format_table(metrics)])
    write_text(folder.report, report + "\n")
    logger.info("%s", report)
    judge.metric_logger.log_checkpoint(folder.checkpoint)
    return True


def input_size_of(manifest: Manifest) -> tuple[int, int] | None:
    """Height and width that `data_prep --resize` gave every image, which new images must be given too; None without."""
    size = manifest.options.get("resize")
    return None if size is None else (int(size[0]), int(size[1]))


def _checkpoint(judge: Judge, training: TrainingState, entry: Entry, scores: Mapping[str, float]) -> Checkpoint:
    manifest, config, found = judge.reader.manifest, judge.config, entry.result.tuning
    return Checkpoint(
        network=training.model.network,
        class_names=manifest.class_names,
        mean=manifest.mean,
        std=manifest.std,
        decision=found.decision.to_dict(),
        input_size=input_size_of(manifest),
        depth=manifest.depth,
        folds={
            "train": list(judge.rows.train_folds),
            "tuning": list(config.folds.validation),
            "test": list(config.folds.test),
        },
        provenance={
            "steel": __version__,
            "torch": torch.__version__,
            "data_digest": manifest.digest,
            "config": config.recipe(),
            "weights": entry.name,
            "candidates": dict(scores),
            "gates": {gate: decision.to_dict() for gate, decision in found.by_gate.items()},
        },
        tensors={name: tensor.unsqueeze(0) for name, tensor in entry.weights.items()},
    )

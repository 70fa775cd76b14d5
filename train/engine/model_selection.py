"""The end of a run: score what may be shipped, find its decision, write the one checkpoint and the report."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steel import __version__
from steel.checkpoint import Checkpoint, read_header, save_checkpoint
from steel.config import NetworkConfig
from steel.errors import NotFiniteError, SharedError
from steel.metrics.expected import expected_figures
from steel.metrics.scores import decide
from steel.metrics.sizes import scores_by_size
from steel.model.optimizer import average_state_dicts
from steel.plain import to_dict
from steel.reports.evaluation import format_table, write_metrics
from steel.reports.model_card import model_card
from steel.reports.per_image import image_rows, write_image_rows
from steel.shards.selection import data_digests
from steel.storage import write_text
from train.engine.loop_state import LoopState
from train.engine.metric_logger import MetricLogger
from train.engine.run_context import RunContext
from train.engine.run_folder import RunFolder
from train.engine.run_summary import short_summary, summarise_run
from train.engine.step import TrainingState
from train.engine.top_checkpoints import TopCheckpoints
from train.engine.tracked_results import tracked_results
from train.engine.validation import ValidationResult, validate, validation_metrics

logger = logging.getLogger("train.fit")

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """Weights that may be shipped, and what the validation folds say of them with test-time augmentation."""

    name: str
    weights: Weights
    result: ValidationResult


def select_model(
    context: RunContext,
    training: TrainingState,
    state: LoopState,
    top_checkpoints: TopCheckpoints,
    folder: RunFolder,
    metric_logger: MetricLogger,
    stopped: Callable[[], bool],
) -> bool:
    """Choose, tune and write the checkpoint; False when a stop signal came first (resuming starts this anew).

    Raises:
        SharedError: no weights say something of every validation image.
    """
    scratch = copy.deepcopy(training.scored_model(state.phase))
    candidates: list[Candidate] = []
    for name, weights in weights_to_score(context, training, state, top_checkpoints):
        if any(context.runtime.all_gather(stopped())):
            return False
        scratch.load_state_dict(weights)
        try:
            result = validate(context, scratch, context.config.validation.tta, name=f"scoring the {name}")
        except NotFiniteError as error:
            logger.warning("the %s: no score, and they are not shipped (%s)", name, error)
            continue
        candidates.append(Candidate(name, {k: v.cpu().clone() for k, v in scratch.state_dict().items()}, result))
    if not candidates:
        raise SharedError(
            "no weights answer every validation image with finite numbers: nothing was shipped; lower the learning "
            "rate, or give --runtime.precision bf16 or no"
        )
    if context.runtime.is_main:
        with context.live.stage("saving", "writing the checkpoint and the report"):
            best, metrics = _write_results(context, training.model.network, state, candidates, folder)
        if metric_logger.is_watched:
            metric_logger.draw()
            scratch.load_state_dict(best.weights)
            for item in tracked_results(context, scratch, best.result, metrics, folder):
                metric_logger.show(item)
    return True


def weights_to_score(
    context: RunContext, training: TrainingState, state: LoopState, top_checkpoints: TopCheckpoints
) -> Iterator[tuple[str, Weights]]:
    """What may be shipped: the last weights, averaged over steps and raw, the best epoch, the k best averaged."""
    ranked = context.runtime.on_main(top_checkpoints.readable)
    if training.average is not None:
        yield training.average.name, training.average.model.state_dict()
    yield "weights at the end", training.model.state_dict()
    if ranked and (ranked[0].phase, ranked[0].step) != (state.phase, state.step):
        yield f"best epoch ({ranked[0].epoch:g} of phase {ranked[0].phase + 1})", top_checkpoints.read(ranked[0])
    if len(ranked) > 1:
        yield (
            f"average of the {len(ranked)} best epochs",
            average_state_dicts([top_checkpoints.read(kept) for kept in ranked]),
        )


def _write_results(
    context: RunContext, network: NetworkConfig, state: LoopState, candidates: Sequence[Candidate], folder: RunFolder
) -> tuple[Candidate, dict[str, Any]]:
    """Write two checkpoints, of the best candidate and of the first one, the last weights that have a score; metrics
    and the report.

    Returns:
        The best candidate and its metrics.
    """
    best = max(candidates, key=lambda candidate: candidate.result.score)  # the first of equals
    scores = {candidate.name: candidate.result.score for candidate in candidates}
    best.result.statistics.save(folder.statistics)
    save_checkpoint(folder.last_checkpoint, _checkpoint(context, network, candidates[0], scores))
    save_checkpoint(folder.checkpoint, _checkpoint(context, network, best, scores))
    metrics = validation_metrics(context, best.result)
    write_metrics(folder.root / "validation.json", metrics)
    outcome = decide(best.result.statistics, best.result.tuning.decision)
    index, names = context.reader.index, context.reader.manifest.class_names
    write_image_rows(folder.root / "per_image.csv", image_rows(best.result.statistics, outcome, index, names))
    lines = summarise_run(context, state, scores, best.name, best.result.tuning)
    report = "\n".join([metrics["verdict"]["sentence"], *lines, "", format_table(metrics)])
    write_text(folder.report, report + "\n")
    card = model_card(read_header(folder.checkpoint), metrics, scores_by_size(outcome.counts))
    write_text(folder.model_card, card)
    shipped = next(line for line in lines if line.startswith("shipped: "))
    logger.info("%s", short_summary(context, folder, metrics, shipped, time.monotonic() - context.live.begun))
    return best, metrics


def _checkpoint(
    context: RunContext, network: NetworkConfig, candidate: Candidate, scores: Mapping[str, float]
) -> Checkpoint:
    manifest, config, tuning = context.reader.manifest, context.config, candidate.result.tuning
    first = context.first_weights
    return Checkpoint(
        network=network,
        class_names=manifest.class_names,
        mean=first.inputs.mean,
        std=first.inputs.std,
        decision=tuning.decision,
        input_size=manifest.input_size,
        depth=manifest.depth,
        tiling=config.tiling,
        folds={
            "train": list(context.rows.train_folds),
            "tuning": list(config.folds.validation),
            "test": list(config.folds.test),
        },
        provenance={
            "steel": __version__,
            "torch": torch.__version__,
            "data_digest": manifest.digest,
            "data_digests": sorted(data_digests(manifest)),
            "config": config.recipe(),
            "encoder_weights": first.encoder and to_dict(first.encoder),
            "learned_from": [to_dict(one) for one in first.learned_from],
            "weights": candidate.name,
            "candidates": dict(scores),
            "gates": {gate: decision.to_dict() for gate, decision in tuning.by_gate.items()},
            "validation": expected_figures(candidate.result.statistics, tuning.decision),
        },
        tensors={name: tensor.unsqueeze(0) for name, tensor in candidate.weights.items()},
    )

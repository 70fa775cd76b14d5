"""Validation during training: scores the weights so far, keeps the best, shows some images."""

from dataclasses import dataclass
from typing import Any

from steel.config import Config
from steel.distributed.runtime import Runtime
from steel.inference.predictor import Predictor
from steel.metrics.statistics import EvaluationStatistics
from steel.model.network import UnifiedModel
from steel.reports.evaluation import build_metrics
from steel.shards.reader import ShardReader
from steel.thresholds.tuning import Tuning, tune_thresholds
from train.engine.batch_plan import PhasePlan
from train.engine.data import FoldRows
from train.engine.loop_state import LoopState
from train.engine.metric_logger import MetricLogger
from train.engine.run_folder import RunFolder
from train.engine.run_inference import collect_statistics
from train.engine.step import TrainingState
from train.engine.top_checkpoints import TopCheckpoints
from train.engine.visualise import choose_examples, draw_examples


@dataclass(frozen=True)
class ValidationResult:
    """What the validation folds say of some weights."""

    statistics: EvaluationStatistics
    tuning: Tuning

    @property
    def score(self) -> float:
        """Cross-fitted mean Dice: each image is answered by a decision found on others, none on itself."""
        return self.tuning.cross_fitted_score


@dataclass
class Judge:
    """Validates on the validation folds; the same result on every rank."""

    runtime: Runtime
    config: Config
    reader: ShardReader
    rows: FoldRows
    progress: LoopState
    training: TrainingState
    store: TopCheckpoints
    folder: RunFolder
    metric_logger: MetricLogger

    def __call__(self, plan: PhasePlan) -> float:
        """Score the weights after a validation interval of `plan` and keep them if they are good."""
        model = self.training.scored_model
        result = self.score(model, tta=())
        step = self.progress.step
        global_step = plan.first_global_step + step
        where = {"phase": plan.number, "step": step, "global_step": global_step, "epoch": round(plan.epoch_at(step), 4)}
        self.metric_logger.log({"kind": "validation", **where, **validation_record(self.metrics(result))})
        self.store.offer(plan, self.progress, result.score, write=model.state_dict() if self.runtime.is_main else None)
        if self.runtime.is_main:
            self.store.prune(self.folder.states, self.progress)
            examples = choose_examples(self.reader, self.rows.validation, self.config.tracking.num_images)
            pictures = draw_examples(self.predictor(model, ()), result.tuning.decision, self.reader, examples)
            self.metric_logger.log_images(*pictures, global_step)
        return result.score

    def score(self, model: UnifiedModel, tta: tuple[str, ...], progress: str | None = None) -> ValidationResult:
        """Collect the validation folds with `model`, rank 0's weights, and tune on them."""
        self.runtime.broadcast_tensors(model)
        statistics = collect_statistics(
            self.predictor(model, tta),
            self.reader,
            self.rows.validation,
            self.runtime,
            decision=None,
            workers=self.config.runtime.workers,
            progress=progress,
        )
        index = self.reader.index
        tuning = self.runtime.on_main(
            lambda: tune_thresholds(
                statistics,
                training_areas=index.areas[self.rows.train],
                groups=index.group[statistics.rows],
                tta=tta,
                class_names=self.reader.manifest.class_names,
            )
        )
        return ValidationResult(statistics, tuning)

    def metrics(self, result: ValidationResult) -> dict[str, Any]:
        """The metrics of `result` under its own decision."""
        return build_metrics(
            result.statistics,
            result.tuning.decision,
            folds=self.config.folds.validation,
            role="tuning",
            cross_fitted=result.tuning.cross_fitted,
            class_names=self.reader.manifest.class_names,
        )

    def predictor(self, model: UnifiedModel, tta: tuple[str, ...]) -> Predictor:
        """A predictor on `model` as it is, in this run's precision."""
        return Predictor(
            [model],
            mean=self.reader.manifest.mean,
            std=self.reader.manifest.std,
            tta=tta,
            pixels_per_pass=self.config.runtime.pixels_per_pass,
            device=self.runtime.device,
            precision=self.runtime.accelerator.mixed_precision,
        )


def validation_record(metrics: dict[str, Any]) -> dict[str, Any]:
    """The part of the metrics that is worth a line in the history and a curve in the tracker."""
    names = (
        "mean_dice",
        "mean_dice_all_empty",
        "mean_dice_positive",
        "dice_positive_per_class",
        "miou",
        "cross_entropy",
    )
    record = {name: metrics[name] for name in names}
    record |= {"mean_dice_cross_fitted": metrics["cross_fitted"]["mean_dice"]}
    record |= {"warning": metrics["verdict"]["warning"]}
    return record | {"f1": {name: scores["f1"] for name, scores in metrics["classification"].items()}}

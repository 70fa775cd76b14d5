"""Validation: what the validation folds say of some weights, and what is told of it while training goes on."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from steel.inference.predictor import Predictor
from steel.metrics.scores import missed
from steel.metrics.statistics import EvaluationStatistics
from steel.model.network import UnifiedModel
from steel.reports.evaluation import build_metrics, build_validation_scores
from steel.thresholds.tuning import Tuning, tune_thresholds
from steel.tracking.items import MaskedImages
from train.engine.run_context import RunContext
from train.engine.run_inference import collect_statistics
from train.engine.run_progress import PREDICTING, TUNING
from train.engine.visualise import choose_examples, predict_examples


@dataclass(frozen=True)
class ValidationResult:
    """What the validation folds say of some weights."""

    statistics: EvaluationStatistics
    tuning: Tuning

    @property
    def score(self) -> float:
        """Cross-fitted mean Dice: each image is answered by a decision found on others, none on itself."""
        return self.tuning.cross_fitted_score

    @property
    def missed(self) -> list[float | None]:
        """What the same answers missed of clean images and of each class; see `steel.metrics.scores.missed`."""
        return missed(self.tuning.cross_fitted)


def validate(
    context: RunContext, model: UnifiedModel, tta: tuple[str, ...], *, name: str = PREDICTING
) -> ValidationResult:
    """Predict the validation folds and tune the decision on them; depends on weights and data alone.

    All ranks work on both: each predicts its share of the images, and fits its share of the gates. One gate, and what
    every rank does itself, bound what that saves.

    Args:
        context: of the run; all ranks take part, and each has the same result.
        model: rank 0's weights count; the other ranks are given them.
        tta: flipped views to average with the plain one.
        name: what the live line calls it.
    """
    context.runtime.broadcast_tensors(model)
    with context.live.stage(PREDICTING, name, "images") as on_progress:
        statistics = collect_statistics(
            predictor_of(context, model, tta),
            context.reader,
            context.rows.validation,
            context.runtime,
            decision=None,
            workers=context.config.runtime.workers,
            on_progress=on_progress,
        )
    index = context.reader.index
    with context.live.stage(TUNING) as on_progress:
        tuning = tune_thresholds(
            statistics,
            training_areas=index.areas[context.rows.train],
            tta=tta,
            class_names=context.reader.manifest.class_names,
            share=context.runtime.share_out,
            on_progress=on_progress,
        )
    # Hosts whose processors round differently must not part over the score's last bit.
    return ValidationResult(statistics, context.runtime.broadcast(tuning))


def validation_scores(context: RunContext, result: ValidationResult) -> dict[str, Any]:
    """The scores that are worth a line in the history and a curve in the tracker."""
    return build_validation_scores(
        result.statistics,
        result.tuning.decision,
        result.tuning.cross_fitted,
        class_names=context.reader.manifest.class_names,
    )


def validation_metrics(context: RunContext, result: ValidationResult) -> dict[str, Any]:
    """All of `metrics.json` for the validation folds under their own decision, intervals included."""
    return build_metrics(
        result.statistics,
        result.tuning.decision,
        folds=context.config.folds.validation,
        role="tuning",
        cross_fitted=result.tuning.cross_fitted,
        class_names=context.reader.manifest.class_names,
    )


def validation_examples(context: RunContext, model: UnifiedModel, result: ValidationResult) -> MaskedImages | None:
    """A fixed choice of validation images with true and predicted masks; every rank calls this, and predicts its share.

    Returns:
        On rank 0 all of them; None on the others, which wait for nobody.
    """
    runtime, reader = context.runtime, context.reader
    rows = choose_examples(reader, context.rows.validation, context.config.tracking.num_images)
    mine = rows[runtime.rank :: runtime.world]
    examples = predict_examples(predictor_of(context, model, ()), result.tuning.decision, reader, mine) if mine else []
    parts = runtime.gather_on_main(examples, len(rows))
    if not parts:
        return None
    shown = [example for of_ranks in zip_longest(*parts) for example in of_ranks if example is not None]
    return MaskedImages("val/examples", reader.manifest.class_names, shown)


def predictor_of(context: RunContext, model: UnifiedModel, tta: tuple[str, ...]) -> Predictor:
    """A predictor on `model` as it is, in this run's precision."""
    inputs, runtime = context.first_weights.inputs, context.runtime
    return Predictor(
        [model],
        mean=inputs.mean,
        std=inputs.std,
        tta=tta,
        tiling=context.config.tiling,
        pixels_per_pass=context.config.runtime.pixels_per_pass,
        device=runtime.device,
        precision=runtime.accelerator.mixed_precision,
    )

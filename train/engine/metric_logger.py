"""Where a run's figures go: history.jsonl, curves.png, the tracker and the screen; on rank 0 alone."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from steel.tracking.history import History
from steel.tracking.items import Item
from steel.tracking.queue import NullTracker, Status, Tracker
from steel.tracking.trackers import build_tracker
from train.engine.batch_plan import PhasePlan
from train.engine.curves_process import CurvesProcess
from train.engine.loop_state import LoopState
from train.engine.run_context import RunContext
from train.engine.run_folder import RunFolder
from train.engine.step_metrics import Speed

logger = logging.getLogger("train.fit")


class MetricLogger(Protocol):
    """What a run reports its figures to."""

    def log(self, place: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> None:
        """Keep one record: where in the run it belongs, and the figures that `make` computes beside training."""

    @property
    def is_watched(self) -> bool:
        """Whether anybody looks at what is shown; the same on every rank."""

    def show(self, item: Item) -> None:
        """Hand the tracker what is more than a figure; its place is that of the last record."""

    def draw(self) -> None:
        """Draw the curves of all that has been logged."""

    def wait_until_open(self) -> None:
        """Wait, a bounded time, until the tracker is up or given up: to be called before any process is forked."""

    def wait_until_written(self) -> None:
        """Wait until the history has all records; from any thread.

        Raises:
            OSError: one could not be written; those after it are not, either.
        """

    def finish(self, status: Status) -> None:
        """Draw the curves and close the tracker; later calls do nothing."""


@dataclass(frozen=True)
class NullMetricLogger:
    """That of the ranks other than 0: it does nothing."""

    is_watched: bool

    def log(self, place: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> None:
        """Nothing."""

    def show(self, item: Item) -> None:
        """Nothing."""

    def draw(self) -> None:
        """Nothing."""

    def wait_until_open(self) -> None:
        """Nothing."""

    def wait_until_written(self) -> None:
        """Nothing."""

    def finish(self, status: Status) -> None:
        """Nothing."""


class _Beside:
    """Does one thing after another on a thread of its own, in their order: no step of any rank waits for a resampling
    or a slow disk.

    What fails is the last that is tried, so that no line of the history is missing between others. What waits is
    bounded by the states: one that is due before a validation waits for the one before, and that for its records; see
    `train.engine.state_writer.StateWriter`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="metric-logger")
        self._newest: Future[None] | None = None
        self._problem: Exception | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Have something done; raises the problem of what failed before it."""
        self._check()
        self._newest = self._pool.submit(self._try, task)

    def wait(self) -> None:
        """Wait until all is done; raises the problem of what failed."""
        if self._newest is not None:
            self._newest.result()
        self._check()

    def close(self) -> None:
        """Wait until all is done, without raising."""
        self._pool.shutdown(wait=True)

    def _try(self, task: Callable[[], None]) -> None:
        if self._problem is None:
            try:
                task()
            except Exception as problem:  # whoever asks next is told
                self._problem = problem

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem


class MainMetricLogger:
    """Rank 0's: history, curves, tracker and screen."""

    def __init__(self, history: History, tracker: Tracker, curves: CurvesProcess, plans: Sequence[PhasePlan]) -> None:
        self._history = history
        self._beside = _Beside()
        self._tracker = tracker
        self._curves = curves
        self._plans = plans
        self._finished = False
        self._draw_due = False
        """A validation has been written since the curves were last begun."""
        self._global_step = 0
        """Of the last record."""
        self._epochs = {r["phase"]: r["epoch"] for r in history.records() if isinstance(r.get("epoch"), int | float)}
        """Those that each phase has come to: one that stopped early has not had all that it was given."""

    def log(self, place: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> None:
        """Have a record made and handed to the history and the tracker, and what a validation found said.

        Raises:
            OSError: an earlier record could not be written to the history.
        """
        self._draw_what_is_due()
        self._beside.submit(lambda: self._take({**place, **make()}))
        self._global_step = place["global_step"]

    def _take(self, record: dict[str, Any]) -> None:
        """On the thread, which starts no process: a loader's worker that is forked meanwhile would hold that start's
        pipe, and with it this thread, for as long as it lives."""
        self._history.append(record)
        self._epochs[record["phase"]] = record["epoch"]
        epochs_before = sum(epochs for phase, epochs in self._epochs.items() if phase < record["phase"])
        self._tracker.log(tracked_figures(record, epochs_before), record["global_step"])
        if record["kind"] == "validation":  # the live line has the losses
            logger.info("%s", self._line(record))
            self._draw_due = True

    def _draw_what_is_due(self) -> None:
        """Have the curves of the validations in the history drawn, beside training."""
        if self._draw_due:
            self._draw_due = False
            self._curves.draw_beside()

    def draw(self) -> None:
        """Draw the curves of all that has been logged, before anything else is done."""
        self.wait_until_written()
        self._curves.draw_at_last()

    def _line(self, record: dict[str, Any]) -> str:
        plan, positive = self._plans[record["phase"]], record["mean_dice_positive"]
        return (
            f"{plan.phase.name} {record['step']}/{plan.steps}  "
            f"validation: mean Dice {record['mean_dice_cross_fitted']:.4f} cross-fitted, "
            f"{record['mean_dice']:.4f} as tuned (all empty {record['mean_dice_all_empty']:.4f}), "
            f"positive Dice {'none' if positive is None else format(positive, '.4f')}"
            + (f"; {record['warning']}" if record["warning"] else "")
        )

    @property
    def is_watched(self) -> bool:
        """Whether there is a tracker."""
        return not isinstance(self._tracker, NullTracker)

    def show(self, item: Item) -> None:
        """Hand the tracker what is more than a figure; its place is that of the last record."""
        step = self._global_step
        self._beside.submit(lambda: self._tracker.show(item, step))  # behind the figures of its place

    def wait_until_open(self) -> None:
        """Wait for the tracker, a bounded time."""
        self._tracker.wait_until_open()

    def wait_until_written(self) -> None:
        """Wait for the history; see `MetricLogger`."""
        self._beside.wait()

    def finish(self, status: Status) -> None:
        """Draw the curves of what has been written and close the tracker; later calls do nothing."""
        if not self._finished:
            self._finished = True
            self._beside.close()
            self._curves.draw_at_last(may_warn=status != "failed")  # what has ended the run is said, and stays the last
            self._tracker.finish(status)


_PLACE = ("kind", "phase", "step", "global_step", "epoch")
TIMED = ("images_per_second", "data_wait")
"""Figures of a record that differ from run to run, and on another machine."""


def tracked_figures(record: Mapping[str, Any], epochs_before: float) -> dict[str, Any]:
    """A record under the names that a tracker's users look for: `train/`, `val/`, `system/`, and `epoch` of the run.

    Args:
        record: of the history.
        epochs_before: of all phases before the record's.
    """
    space = {"train": "train", "validation": "val"}[record["kind"]]
    figures = {
        f"{'system' if name in TIMED else space}/{name}": value
        for name, value in record.items()
        if name not in _PLACE and value is not None
    }
    return {**figures, f"{space}/phase": record["phase"] + 1, "epoch": epochs_before + record["epoch"]}


def open_metric_logger(context: RunContext, folder: RunFolder, state: LoopState) -> MetricLogger:
    """The logger of this attempt; an earlier one's records that lie beyond `state` are taken back."""
    runtime = context.runtime
    if not runtime.is_main:
        return NullMetricLogger(runtime.broadcast(None))
    history = History(folder.history)
    history.open_at(state.phase, state.step, validated=not state.validation_due)
    tracker = build_tracker(context.config.tracking, folder.root, context.config.told(), folder.attempt)
    metric_logger = MainMetricLogger(history, tracker, CurvesProcess(history, folder.curves), context.plans)
    runtime.broadcast(metric_logger.is_watched)
    return metric_logger


def train_figures(state: LoopState, speed: Speed) -> dict[str, Any]:
    """Figures of the steps in the window of `state`."""
    window = state.window
    # A window of skipped steps alone has no loss: None, since NaN is not JSON.
    return {
        "loss": sum(window.losses.values()) / window.steps if window.steps else None,
        **{f"loss_{head}": loss / window.steps if window.steps else None for head, loss in window.losses.items()},
        "lr": window.lr,
        "images_per_second": speed.images_per_second,
        "data_wait": speed.data_wait,
        "nonfinite_steps": state.nonfinite_steps,
        "scaler_overflows": state.scaler_overflows,
        "bad_samples": state.bad_samples,
    }

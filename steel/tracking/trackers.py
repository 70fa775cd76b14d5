"""The experiment trackers by name, Weights & Biases and TensorBoard; no other package imports either.

Each attempt of a job is a run of its own, as offline runs cannot be resumed; attempts share a group and the step axis.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steel.config import TrackingConfig
from steel.errors import InputError
from steel.tracking.queue import Backend, BackgroundTracker, NullTracker, Status, Tracker
from steel.tracking.tensorboard_backend import TensorboardBackend
from steel.tracking.wandb_backend import WandbBackend, kill_wandb_service

__all__ = ["NullTracker", "Status", "Tracker", "build_tracker"]


def build_tracker(config: TrackingConfig, run_dir: Path, run_config: Mapping[str, Any], attempt: int) -> Tracker:
    """The tracker that the configuration asks for; only rank 0 builds one.

    Args:
        config: which tracker, project and group.
        run_dir: the run folder; the tracker's files go to `wandb/` or `tensorboard/` inside it.
        run_config: the resolved configuration as plain JSON values, stored with the run.
        attempt: which start of this job it is, from 1. Each attempt is a run of its own, as offline runs cannot resume.

    Raises:
        InputError: an unknown tracker, or one whose package is not installed.
    """
    disabled = config.tracker == "wandb" and os.environ.get("WANDB_MODE") == "disabled"
    kind = find_tracker(config.tracker)
    if kind.open is None or disabled:
        return NullTracker()
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        raise InputError(
            f"tracking.tracker: {kind.package} is not installed; install it or give --tracking.tracker none"
        )
    open_backend = functools.partial(kind.open, config, run_dir, run_config, attempt)
    return BackgroundTracker(kind.title, open_backend, abandon=kind.abandon)


def find_tracker(name: str) -> "TrackerKind":
    """The tracker of that name.

    Raises:
        InputError: there is none.
    """
    if name not in TRACKERS:
        raise InputError(f"tracking.tracker: {name!r} is unknown; there are {', '.join(TRACKERS)}")
    return TRACKERS[name]


def _open_tensorboard(_: TrackingConfig, run_dir: Path, run_config: Mapping[str, Any], attempt: int) -> Backend:
    return TensorboardBackend(run_dir / "tensorboard" / f"attempt-{attempt}", run_config)


def _nothing_to_abandon() -> None:
    pass


@dataclass(frozen=True)
class TrackerKind:
    """An experiment tracker that can be chosen."""

    meaning: str
    """In a few words, for `--help`."""
    title: str = ""
    """Its name in messages."""
    open: Callable[[TrackingConfig, Path, Mapping[str, Any], int], Backend] | None = None
    """Starts the backend, in a thread of its own, where it may be slow or fail; arguments as of `build_tracker`. None
    records nothing."""
    package: str | None = None
    """What must be installed."""
    abandon: Callable[[], None] = _nothing_to_abandon
    """Lets go of whatever would keep the process from ending, when the backend did not close in time."""


TRACKERS: dict[str, TrackerKind] = {
    "none": TrackerKind("nothing but the run folder's own history and curves"),
    "wandb": TrackerKind(
        "Weights & Biases, offline without a key", "Weights & Biases", WandbBackend, "wandb", kill_wandb_service
    ),
    "tensorboard": TrackerKind("TensorBoard, in the run folder", "TensorBoard", _open_tensorboard, "tensorboard"),
}
"""Every tracker by name, `--tracking.tracker NAME`."""

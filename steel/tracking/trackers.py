"""The experiment trackers, Weights & Biases and TensorBoard; no other module imports either.

Each attempt of a job is a run of its own, as offline runs cannot be resumed; attempts share a group and the step axis.
"""

import functools
import hashlib
import importlib.util
import json
import logging
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steel.config import TrackingConfig
from steel.errors import InputError
from steel.tracking.queue import FINISH_SECONDS, Backend, BackgroundTracker, NullTracker, Status, Tracker, flatten

__all__ = ["NullTracker", "Status", "Tracker", "build_tracker"]

logger = logging.getLogger(__name__)

START_SECONDS = 15.0
"""How long Weights & Biases may take to accept an online run before it is recorded offline."""


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


class WandbBackend:
    """One Weights & Biases run: an attempt of a job. Attempts share a group and the step axis `step`.

    Without an API key, or when the server does not accept the run, it is recorded offline and a line says so.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path, run_config: Mapping[str, Any], attempt: int) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its shutdown waits for a server that does not answer
        import wandb

        run_name = run_dir.resolve().name

        def start(mode: Literal["online", "offline"]) -> Any:
            return wandb.init(
                project=valid_name(config.project, _NOT_IN_PROJECTS),
                group=valid_name(config.group or run_name),
                name=valid_name(f"{run_name}-{attempt}"),
                job_type="train",
                dir=str(run_dir),
                config={**run_config, "attempt": attempt},
                mode=mode,
                settings=wandb.Settings(
                    console="off", silent=True, init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS * 0.8
                ),
            )

        later = f"recording offline; `wandb sync {run_dir / 'wandb'}/offline-*` uploads it later"
        if wandb.setup().settings.mode in ("offline", "dryrun"):
            logger.warning("Weights & Biases: %s", later)
            self._run = start("offline")
        elif not wandb.login(prompt=False, verify=False):
            logger.warning("Weights & Biases: no API key (WANDB_API_KEY or `wandb login`), %s", later)
            self._run = start("offline")
        else:
            try:
                self._run = start("online")
                logger.info("Weights & Biases: %s", self._run.url)
            except Exception as error:
                logger.warning("Weights & Biases: %s, %s", str(error).splitlines()[0], later)
                self._run = start("offline")
        self._wandb = wandb
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Record figures on the axis `step`."""
        self._run.log({**flatten(record), "step": step})

    def log_images(self, name: str, images: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        """Record pictures as one panel."""
        pairs = zip(images, captions, strict=True)
        self._run.log({name: [self._wandb.Image(image, caption=caption) for image, caption in pairs], "step": step})

    def log_checkpoint(self, path: Path) -> None:
        """Record the file as an artifact of type `model`, without a copy of it."""
        name = valid_name(f"{self._run.group}-model", _NOT_IN_ARTIFACTS)
        artifact = self._wandb.Artifact(name, type="model", description=f"model of {self._run.group}")
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def finish(self, status: Status) -> None:
        """Close the run and Weights & Biases' own service, which would else be waited for when the process exits."""
        exit_code = 0 if status == "finished" else 1
        try:
            self._run.summary["status"] = status
            if status == "interrupted":
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        finally:
            self._wandb.teardown(exit_code)


_NOT_IN_ARTIFACTS = re.compile(r"[^a-zA-Z0-9_.-]")
_NOT_IN_PROJECTS = re.compile(r"[/\\#?%:\r\n]")
_NOT_TEXT = re.compile("[\ud800-\udfff]")
"""How Python spells bytes of a file name that are not UTF-8."""
_NAME_LENGTH = 128


def valid_name(wanted: str, forbidden: re.Pattern[str] = _NOT_TEXT) -> str:
    """`wanted` if Weights & Biases takes it; else as much of it as it takes, and a mark that tells it from others."""
    name = forbidden.sub("-", _NOT_TEXT.sub("-", wanted))
    if name == wanted and len(name) <= _NAME_LENGTH:
        return name
    mark = hashlib.sha256(wanted.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - len(mark) - 1]}-{mark}"


def kill_wandb_service() -> None:
    """Kill this process's wandb service, which retries for minutes; what it received is in the run's file on disk."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text(encoding="ascii").split():
            if Path(f"/proc/{child}/comm").read_bytes().strip() == b"wandb-core":
                os.kill(int(child), signal.SIGKILL)


class TensorboardBackend:
    """TensorBoard event files in a folder of the attempt's own; the attempts lie side by side on the same step axis."""

    def __init__(self, folder: Path, run_config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=10)
        self._writer.add_text("config", f"```json\n{json.dumps(run_config, indent=2)}\n```")

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Record figures; values that are no numbers are left out."""
        for name, value in flatten(record).items():
            if isinstance(value, bool | int | float):
                self._writer.add_scalar(name, value, step)

    def log_images(self, name: str, images: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        """Record each picture under its caption."""
        for image, caption in zip(images, captions, strict=True):
            self._writer.add_image(f"{name}/{caption}", image, step, dataformats="HW" if image.ndim == 2 else "HWC")

    def log_checkpoint(self, path: Path) -> None:
        """Record the file's path."""
        self._writer.add_text("checkpoint", str(path))

    def finish(self, status: Status) -> None:
        """Record how the run ended and close the file."""
        self._writer.add_text("status", status)
        self._writer.close()


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

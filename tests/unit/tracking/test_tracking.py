import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steel.config import TrackingConfig
from steel.errors import InputError
from steel.tracking import queue as tracking_queue
from steel.tracking import trackers as tracking
from steel.tracking.items import Files
from steel.tracking.queue import BackgroundTracker, NullTracker, flatten
from steel.tracking.trackers import TRACKERS, TrackerKind, build_tracker
from steel.tracking.wandb_backend import _NOT_IN_ARTIFACTS, _NOT_IN_PROJECTS, valid_name
from tests.tracked_runs import EXAMPLES, read_offline_run

RUN_CONFIG = {"preset": "smoke", "phases": [{"lr": 0.001}]}


@pytest.mark.usefixtures("no_wandb_account")
def test_each_attempt_is_a_run_of_its_own(tmp_path):
    for attempt in (1, 2):
        tracker = build_tracker(TrackingConfig(tracker="wandb"), tmp_path, RUN_CONFIG, attempt)
        tracker.log({"loss": 1.0}, step=attempt)
        tracker.finish("finished")
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 2


class RecordingBackend(NullTracker):
    """Keeps steps; waits at each call until `gate` is open, and fails on the steps it is told to."""

    def __init__(self, failing_steps=(), gate_open: bool = True) -> None:
        self.steps: list[int] = []
        self.gate = threading.Event()
        if gate_open:
            self.gate.set()
        self.failing_steps = failing_steps

    def log(self, record, step):
        self.gate.wait(60)
        if step in self.failing_steps:
            raise ConnectionError("no route to host")
        self.steps.append(step)


def test_records_arrive_in_order_and_without_a_word(caplog):
    backend = RecordingBackend()
    tracker = BackgroundTracker("Test", lambda: backend)
    for step in range(1000):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("finished")
    assert backend.steps == list(range(1000))
    assert not caplog.records


def test_a_hanging_backend_stops_nothing_and_its_losses_are_counted(caplog, monkeypatch):
    monkeypatch.setattr(tracking_queue, "ABANDON_SECONDS", 0.2)
    backend = RecordingBackend(gate_open=False)
    abandoned = []
    tracker = BackgroundTracker(
        "Test", lambda: backend, abandon=lambda: abandoned.append(True), queue_bytes=50 * 1024, finish_seconds=0.2
    )
    start = time.perf_counter()
    for step in range(1000):
        tracker.log({"loss": 1.0}, step)
    tracker.show(EXAMPLES, 1000)
    assert time.perf_counter() - start < 1
    tracker.finish("finished")
    assert time.perf_counter() - start < 2
    backend.gate.set()
    assert abandoned == [True]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "did not take 1001 of 1001 records" in message


def test_a_slow_backend_loses_only_what_the_queue_could_not_hold(caplog):
    backend = RecordingBackend(gate_open=False)
    tracker = BackgroundTracker("Test", lambda: backend, queue_bytes=50 * 1024)
    for step in range(80):
        tracker.log({"loss": 1.0}, step)
    backend.gate.set()
    tracker.finish("finished")
    assert backend.steps == list(range(50))
    assert "did not take 30 of 80 records (it was too slow)" in caplog.text


def test_a_failing_call_loses_one_record(caplog):
    backend = RecordingBackend(failing_steps=[3])
    tracker = BackgroundTracker("Test", lambda: backend)
    for step in range(6):
        tracker.log({}, step)
    tracker.finish("failed")
    assert backend.steps == [0, 1, 2, 4, 5]
    assert "did not take 1 of 6 records (ConnectionError: no route to host)" in caplog.text


def test_a_dead_backend_is_given_up(caplog):
    backend = RecordingBackend(failing_steps=range(100))
    tracker = BackgroundTracker("Test", lambda: backend, abandon=lambda: backend.steps.append(-1))
    for step in range(200):
        tracker.log({}, step)
    tracker.finish("finished")
    assert backend.steps == [-1]
    assert "did not take 200 of 200 records" in caplog.text


def test_a_backend_that_cannot_start_is_reported(caplog):
    def cannot_start():
        raise PermissionError("read-only folder\nmore")

    tracker = BackgroundTracker("Test", cannot_start)
    tracker.log({}, 1)
    tracker.finish("finished")
    assert "did not take 1 of 1 records (PermissionError: read-only folder)" in caplog.text


def test_workers_may_be_forked_once_the_backend_is_up():
    opening = threading.Event()

    def open_slowly() -> RecordingBackend:
        assert opening.wait(60)
        return RecordingBackend()

    tracker = BackgroundTracker("Test", open_slowly)
    threading.Timer(0.2, opening.set).start()
    start = time.perf_counter()
    tracker.wait_until_open()
    assert opening.is_set() and 0.1 < time.perf_counter() - start < 5
    tracker.finish("finished")


def test_a_backend_that_does_not_come_up_in_time_is_given_up(caplog):
    never, backend, abandoned = threading.Event(), RecordingBackend(), []

    def open_never() -> RecordingBackend:
        never.wait(60)
        return backend

    tracker = BackgroundTracker("Test", open_never, abandon=lambda: abandoned.append(True), open_seconds=0.1)
    tracker.log({}, 1)
    tracker.wait_until_open()
    assert caplog.messages[0].startswith("Test is not up within 0.1 s, so given up; history.jsonl")
    assert abandoned == [True]
    tracker.log({}, 2)
    never.set()  # too late: it takes nothing any more
    start = time.perf_counter()
    tracker.finish("finished")
    assert time.perf_counter() - start < 5 and backend.steps == []
    assert "did not take 2 of 2 records (not up within 0.1 s, so given up)" in caplog.messages[-1]


def test_what_cannot_start_is_not_waited_for():
    def cannot_start() -> RecordingBackend:
        raise PermissionError("read-only folder")

    start = time.perf_counter()
    BackgroundTracker("Test", cannot_start).wait_until_open()
    NullTracker().wait_until_open()
    assert time.perf_counter() - start < 5


NAMES = ["run-1", "прокат", "сталь", "mill 3", "x" * 300, "x" * 301, "a/b:c#d?e%f\\g", "caf\udce9", "-", "結果" * 80]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_are_those_that_wandb_takes(name):
    import wandb
    from wandb.sdk.artifacts._validators import validate_project_name

    artifact = valid_name(f"{name}-model", _NOT_IN_ARTIFACTS)
    project = valid_name(name, _NOT_IN_PROJECTS)
    assert wandb.Artifact(artifact, type="model").name == artifact
    assert validate_project_name(project) == project == wandb.Settings(project=project).project
    shown = valid_name(name)
    assert len(shown) <= 128 and shown.encode()
    if name in ("run-1", "-"):
        assert (artifact, project, shown) == (f"{name}-model", name, name)


def test_different_names_stay_different():
    assert len({valid_name(name, _NOT_IN_ARTIFACTS) for name in NAMES}) == len(NAMES)


@pytest.mark.usefixtures("no_wandb_account")
def test_a_folder_of_any_name_keeps_its_artifact(tmp_path):
    run_dir = tmp_path / "прокат, третий стан"
    run_dir.mkdir()
    checkpoint = run_dir / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    tracker = build_tracker(TrackingConfig(tracker="wandb", project="стан/3"), run_dir, RUN_CONFIG, attempt=1)
    tracker.show(Files("model", f"{run_dir.name}-model", f"model of {run_dir.name}", [checkpoint]), 1)
    tracker.finish("finished")
    records = read_offline_run(run_dir)
    (artifact,) = [r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")] or [
        r.artifact for r in records if r.HasField("artifact")
    ]
    assert [entry.local_path for entry in artifact.manifest.contents] == [str(checkpoint)]
    (run,) = [r.run for r in records if r.HasField("run")]
    assert run.run_group == run_dir.name and artifact.description == f"model of {run_dir.name}"


def test_a_record_is_taken_as_it_was_when_logged():
    backend = RecordingBackend(gate_open=False)
    seen = []
    backend.log = lambda record, step: (backend.gate.wait(60), seen.append(record))  # type: ignore[method-assign]
    tracker = BackgroundTracker("Test", lambda: backend)
    record = {"loss": {"bce": 1.0}}
    tracker.log(record, 1)
    record["loss"]["bce"] = 2.0
    backend.gate.set()
    tracker.finish("finished")
    assert seen == [{"loss/bce": 1.0}]


def test_flatten():
    record = {"dice": {"any": 1, "none": None}, "iou": [2, [3]], "name": "x", "n": np.int64(4), "empty": {}}
    assert flatten(record) == {"dice/any": 1, "iou/1": 2, "iou/2/1": 3, "name": "x", "n": 4}


def test_what_needs_no_backend(tmp_path, monkeypatch):
    assert isinstance(build_tracker(TrackingConfig(tracker="none"), tmp_path, {}, 1), NullTracker)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert isinstance(build_tracker(TrackingConfig(tracker="wandb"), tmp_path, {}, 1), NullTracker)
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="tensorboard is not installed"):
        build_tracker(TrackingConfig(tracker="tensorboard"), tmp_path, {}, 1)


def test_a_tracker_of_the_table_is_opened_with_what_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Lines:
        """A stranger's backend."""

        def __init__(self, config: TrackingConfig, run_dir: Path, run_config: Any, attempt: int) -> None:
            told.append((config.project, run_dir, run_config, attempt))

        def log(self, record: Any, step: int) -> None:
            told.append((dict(record), step))

        def finish(self, status: str) -> None:
            told.append(status)

    monkeypatch.setitem(TRACKERS, "lines", TrackerKind("lines", "Lines", Lines))  # type: ignore[arg-type]
    tracker = build_tracker(TrackingConfig(tracker="lines", project="p"), tmp_path, {"a": 1}, attempt=3)
    tracker.log({"dice": {"any": 0.5}}, step=7)
    tracker.finish("finished")
    assert told == [("p", tmp_path, {"a": 1}, 3), ({"dice/any": 0.5}, 7), "finished"]


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracking\.tracker: 'wand' is unknown; there are none, wandb, tensorboard"):
        build_tracker(TrackingConfig(tracker="wand"), tmp_path, {}, attempt=1)

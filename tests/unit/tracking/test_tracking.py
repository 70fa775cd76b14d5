import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steel.config import TrackingConfig
from steel.errors import InputError
from steel.tracking import queue as tracking_queue
from steel.tracking import trackers as tracking
from steel.tracking.queue import BackgroundTracker, flatten
from steel.tracking.trackers import TRACKERS, NullTracker, TrackerKind, build_tracker, valid_name

RUN_CONFIG = {"preset": "smoke", "phases": [{"lr": 0.001}]}
PICTURE = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)


@pytest.fixture
def no_wandb_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who never logged in, whose home is the test's folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def records_of(file: Path) -> Iterator[bytes]:
    """The records of a `.wandb` file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB."""
    content, position, parts = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def read_offline_run(run_dir: Path) -> list:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    return [Record.FromString(data) for data in records_of(file)]


def items_of(update) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


@pytest.mark.usefixtures("no_wandb_account")
def test_an_offline_wandb_run_holds_the_figures(tmp_path, caplog):
    run_dir = tmp_path / "my run"
    run_dir.mkdir()
    checkpoint = run_dir / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    tracker = build_tracker(TrackingConfig(tracker="wandb", project="steel"), run_dir, RUN_CONFIG, attempt=2)
    tracker.log({"train": {"loss": np.float32(0.5)}, "lr": 1e-3, "phase": "crops"}, step=10)
    tracker.log({"validation": {"dice_per_class": [0.25, None, 0.75]}}, step=20)
    tracker.log_images("validation", [PICTURE, PICTURE[..., 0]], ["a.jpg", "b.jpg"], step=20)
    tracker.log_checkpoint(checkpoint)
    tracker.finish("interrupted")
    tracker.finish("finished")
    tracker.log({"late": 1}, step=30)

    records = read_offline_run(run_dir)
    (run,) = [r.run for r in records if r.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("steel", "my run", "my run-2")
    config = items_of(run.config.update)
    assert config["phases"] == [{"lr": 0.001}]
    assert config["attempt"] == 2
    history = [items_of(r.history.item) for r in records if r.HasField("history")]
    assert [row["step"] for row in history] == [10, 20, 20]
    assert history[0]["train/loss"] == 0.5
    assert history[0]["phase"] == "crops"
    assert history[1]["validation/dice_per_class/1"] == 0.25
    assert history[1]["validation/dice_per_class/3"] == 0.75
    assert "validation/dice_per_class/2" not in history[1]
    assert history[2]["validation/captions"] == ["a.jpg", "b.jpg"]
    assert any(r.metric.step_metric == "step" for r in records if r.HasField("metric"))
    (artifact,) = [r.artifact for r in records if r.HasField("artifact")] or [
        r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")
    ]
    assert artifact.type == "model"
    assert [entry.local_path for entry in artifact.manifest.contents] == [str(checkpoint)]
    (exit_code,) = [r.exit.exit_code for r in records if r.HasField("exit")]
    assert exit_code != 0
    assert any(r.HasField("preempting") for r in records)
    assert "no API key" in caplog.text
    assert "offline" in caplog.text


@pytest.mark.usefixtures("no_wandb_account")
def test_each_attempt_is_a_run_of_its_own(tmp_path):
    for attempt in (1, 2):
        tracker = build_tracker(TrackingConfig(tracker="wandb"), tmp_path, RUN_CONFIG, attempt)
        tracker.log({"loss": 1.0}, step=attempt)
        tracker.finish("finished")
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 2


def test_tensorboard_events_hold_the_figures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = build_tracker(TrackingConfig(tracker="tensorboard"), tmp_path, RUN_CONFIG, attempt=1)
    tracker.log({"train": {"loss": 0.5}, "phase": "crops"}, step=10)
    tracker.log({"train": {"loss": 0.25}}, step=20)
    tracker.log_images("validation", [PICTURE, PICTURE[..., 0]], ["a", "b"], step=20)
    tracker.finish("finished")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "attempt-1")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 0.5), (20, 0.25)]
    assert [(e.step, e.height, e.width) for e in events.Images("validation/b")] == [(20, 8, 16)]
    assert "smoke" in str(events.Tensors("config/text_summary")[0])


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
    tracker.log_images("validation", [PICTURE], ["a"], 1000)
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

    artifact = valid_name(f"{name}-model", tracking._NOT_IN_ARTIFACTS)
    project = valid_name(name, tracking._NOT_IN_PROJECTS)
    assert wandb.Artifact(artifact, type="model").name == artifact
    assert validate_project_name(project) == project == wandb.Settings(project=project).project
    shown = valid_name(name)
    assert len(shown) <= 128 and shown.encode()
    if name in ("run-1", "-"):
        assert (artifact, project, shown) == (f"{name}-model", name, name)


def test_different_names_stay_different():
    assert len({valid_name(name, tracking._NOT_IN_ARTIFACTS) for name in NAMES}) == len(NAMES)


@pytest.mark.usefixtures("no_wandb_account")
def test_a_folder_of_any_name_keeps_its_artifact(tmp_path):
    run_dir = tmp_path / "прокат, третий стан"
    run_dir.mkdir()
    checkpoint = run_dir / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    tracker = build_tracker(TrackingConfig(tracker="wandb", project="стан/3"), run_dir, RUN_CONFIG, attempt=1)
    tracker.log_checkpoint(checkpoint)
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

"""Who may use a run folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from steel.config import Config, DistillConfig
from steel.errors import InputError
from steel.pretrained.encoder import EncoderWeights
from steel.storage import open_write
from train.engine.run_folder import RunFolder
from train.presets import SMOKE


def test_a_run_goes_on_where_the_recipe_is_the_same(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    assert first.open(SMOKE, "data", "auto")
    first.end("interrupted", "SIGTERM")
    first.release()
    second = RunFolder(tmp_path)
    other_runtime = replace(SMOKE, runtime=replace(SMOKE.runtime, workers=0))
    assert second.open(other_runtime, "data", "auto")
    assert second.attempt == 2
    status = second.status()
    assert status is not None and status["state"] == "running"


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    first.open(SMOKE, "data", "auto")
    first.end("finished")
    first.release()
    assert not RunFolder(tmp_path).open(SMOKE, "data", "auto")


@pytest.mark.parametrize(
    ("config", "digest", "resume", "message"),
    [
        (replace(SMOKE, seed=1), "data", "auto", "seed was 0, now 1"),
        (replace(SMOKE, seed=1, reasons={"seed": "told otherwise"}), "data", "auto", r"\(seed was 0, now 1\); "),
        (SMOKE, "other", "auto", "another data set"),
        (SMOKE, "data", "never", "--resume never was given; without that it goes on, or begins anew where"),
    ],
)
def test_a_run_of_something_else_is_refused_and_untouched(tmp_path: Path, config, digest, resume, message) -> None:
    first = RunFolder(tmp_path)
    first.open(SMOKE, "data", "auto")
    (first.states / "000000-00000001").mkdir(parents=True)
    first.end("interrupted")
    first.release()
    before = (tmp_path / "config.json").read_bytes(), (tmp_path / "status.json").read_bytes()
    with pytest.raises(InputError, match=message):
        RunFolder(tmp_path).open(config, digest, resume)
    assert before == ((tmp_path / "config.json").read_bytes(), (tmp_path / "status.json").read_bytes())


def of_weights(weights: str) -> Config:
    return replace(SMOKE, model=replace(SMOKE.model, weights=weights))


@pytest.mark.parametrize(
    ("former", "now", "difference"),
    [
        ("https://host/w.pth?sig=5ecret1", "https://user:5ecret@host/w.pth?sig=5ecret2", None),
        ("/here/w.pth", "/moved/w.pth", None),
        ("hub", "none", r"\(model\.weights was hub, now none\)"),
        ("none", "https://host/w.pth?sig=5ecret", r"\(model\.weights was none, now a file\)"),
    ],
)
def test_a_run_that_goes_on_asks_not_where_its_weights_were(
    former: str, now: str, difference: str | None, tmp_path: Path
) -> None:
    first = RunFolder(tmp_path)
    first.open(of_weights(former), "data", "auto")
    (first.states / "000000-00000001").mkdir(parents=True)
    first.end("interrupted")
    first.release()
    if difference is None:
        assert RunFolder(tmp_path).open(of_weights(now), "data", "auto")
    else:
        with pytest.raises(InputError, match=difference):
            RunFolder(tmp_path).open(of_weights(now), "data", "auto")


def test_no_secret_of_a_url_is_kept(tmp_path: Path) -> None:
    config = of_weights("https://user:5ecret@host/w.pth?sig=5ecret")
    config = replace(config, distill=DistillConfig("https://host/teacher.safetensors?sig=5ecret"))
    RunFolder(tmp_path).open(config, "data", "auto")
    assert "5ecret" not in (tmp_path / "config.json").read_text()
    assert config.recipe()["model"]["weights"] == "https://host/w.pth"
    assert config.recipe()["distill"]["teacher"] == "https://host/teacher.safetensors"
    assert EncoderWeights("resnet18", "https://host/w.pth?sig=5ecret", "", "", 1, 1).source == "https://host/w.pth"


def begin(root: Path, budget: str) -> None:
    """A run that has saved a state."""
    folder = RunFolder(root)
    folder.open(SMOKE, "data", "auto", budget)
    (folder.states / "000000-00000001").mkdir(parents=True, exist_ok=True)
    folder.release()


@pytest.mark.parametrize(
    ("first", "now", "message"),
    [
        ("30m", "2h", r"was started with --budget 30m, now --budget 2h; leave it out to go on, or"),
        ("8passes", "12passes", "with --budget 8passes, now --budget 12passes"),
        ("", "8passes", "was started without --budget, now --budget 8passes"),
    ],
)
def test_another_budget_is_refused_also_after_a_resume_without_one(
    tmp_path: Path, first: str, now: str, message: str
) -> None:
    begin(tmp_path, first)
    begin(tmp_path, "")
    begin(tmp_path, first)
    with pytest.raises(InputError, match=message):
        RunFolder(tmp_path).open(SMOKE, "data", "auto", now)


def test_a_finished_run_is_not_asked_to_go_on_with_another_budget(tmp_path: Path) -> None:
    begin(tmp_path, "1passes")
    RunFolder(tmp_path).end("finished")
    message = "is finished, with --budget 1passes; choose another --out for a run with --budget 2passes"
    with pytest.raises(InputError, match=f"^--out {tmp_path}: {message}$"):
        RunFolder(tmp_path).open(SMOKE, "data", "auto", "2passes")


def test_a_run_of_an_earlier_version_does_not_tell_its_budget_and_goes_on(tmp_path: Path) -> None:
    begin(tmp_path, "30m")
    written = json.loads((tmp_path / "config.json").read_text())
    del written["budget"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    for budget in ("2h", "30m", ""):
        begin(tmp_path, budget)


def test_a_run_that_never_saved_a_state_can_be_started_otherwise(tmp_path: Path) -> None:
    """As after a first attempt that failed before its first step."""
    first = RunFolder(tmp_path)
    first.open(SMOKE, "data", "auto", "30m")
    first.end("failed", "phase full: phases.1.micro-batch 1 ...")
    first.release()
    (first.states / ".staging-of-one-that-was-killed").mkdir(parents=True)
    second = RunFolder(tmp_path)
    assert not second.has_states
    assert second.open(replace(SMOKE, seed=1), "data", "auto", "2h")
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["config"]["seed"], written["budget"]) == (1, "2h")
    assert second.attempt == 2


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(InputError, match=r"holiday\.jpg"):
        RunFolder(tmp_path).open(SMOKE, "data", "auto")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    for look in (lambda folder: folder.check(SMOKE, "data", "auto"), lambda folder: folder.open(SMOKE, "data", "auto")):
        folder = RunFolder(tmp_path / "holiday.jpg")
        assert folder.begun_config() is None  # what a run is asked first
        with pytest.raises(InputError, match=r"holiday\.jpg: a file, not a folder; choose another name"):
            look(folder)


@contextmanager
def run_of_another_process(root: Path, then: str = "wait()") -> Iterator[subprocess.Popen[bytes]]:
    """A process that has opened the run folder and done more, in which `wait()` waits; killed at the end."""
    code = (
        "import sys, time\nfrom steel.storage import open_write\nfrom train.engine.run_folder import RunFolder\n"
        "from train.presets import SMOKE\nfolder = RunFolder(sys.argv[1])\nfolder.open(SMOKE, 'data', 'auto')\n"
        f"def wait():\n    print('there', flush=True)\n    time.sleep(60)\n{then}"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, cwd=os.getcwd())
    assert other.stdout is not None
    with other.stdout:
        assert other.stdout.readline() == b"there\n"
        yield other
        other.kill()
        other.wait()


def test_a_live_run_is_refused_and_a_killed_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.engine.run_folder._CLAIM_S", 0.2)
    with (
        run_of_another_process(tmp_path) as holder,
        pytest.raises(InputError, match=f"live run \\(pid {holder.pid}"),
    ):
        RunFolder(tmp_path).open(SMOKE, "data", "auto")
    assert RunFolder(tmp_path).open(SMOKE, "data", "auto")


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").open(SMOKE, "data", "auto")


def test_the_first_failure_recorded_stands(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(SMOKE, "data", "auto")
    folder.end("failed", "rank 1: out of memory")
    folder.end("failed", "rank 0: connection closed")
    status = folder.status()
    assert status is not None and status["reason"] == "rank 1: out of memory"


def test_a_start_that_was_killed_at_once_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".unfinished-config").touch()
    assert RunFolder(tmp_path).open(SMOKE, "data", "auto")


def test_what_was_being_written_when_a_run_was_killed_goes(tmp_path: Path) -> None:
    """Else each such end leaves the size of a checkpoint on the disk; what others are writing there stays."""
    writing = (
        "folder.top_checkpoints.mkdir()\n"
        "with open_write(folder.checkpoint) as one, open_write(folder.top_checkpoints / 'best') as other:\n    wait()"
    )
    with run_of_another_process(tmp_path, writing):
        pass
    left = sorted(tmp_path.rglob(".unfinished-*"))
    assert len(left) == 2
    for path in left:
        os.utime(path, (time.time() - 601, time.time() - 601))
    with open_write(tmp_path / "model.onnx") as file:  # by another program
        assert RunFolder(tmp_path).open(SMOKE, "data", "auto")
        assert not any(path.exists() for path in left)
        file.write(b"whole")
    assert (tmp_path / "model.onnx").read_bytes() == b"whole"
    assert (tmp_path / "config.json").exists()


def test_a_failure_is_recorded_even_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.open(SMOKE, "data", "auto")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.engine.run_folder.write_bytes", full)
    folder.end("failed", "the disk is full")
    status = folder.status()
    assert status is not None and (status["state"], status["reason"]) == ("failed", "the disk is full")


def test_a_folder_on_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.engine.run_folder.write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        RunFolder(tmp_path).open(SMOKE, "data", "auto")


class AnotherRank:
    """One that hears what rank 0 has found."""

    def __init__(self, found: bool) -> None:
        self.found = found

    def on_main(self, task: Callable[[], bool]) -> bool:
        return self.found


def test_every_rank_may_record_its_failure_once_the_folder_is_claimed(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(SMOKE, "data", "auto")
    before = (tmp_path / "status.json").read_bytes()
    folder = RunFolder(tmp_path)
    folder.record_failure("of another run, or of none")
    assert not folder.claim(AnotherRank(False), SMOKE, "data", "auto")  # type: ignore[arg-type]
    folder.record_failure("of a run that has finished")
    assert (tmp_path / "status.json").read_bytes() == before
    assert folder.claim(AnotherRank(True), SMOKE, "data", "auto")  # type: ignore[arg-type]
    folder.record_failure("rank 1: out of memory")
    status = folder.status()
    assert status is not None and (status["state"], status["reason"]) == ("failed", "rank 1: out of memory")

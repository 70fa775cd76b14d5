"""Sharding that is killed, or runs out of disk, at any moment, and then goes on to the same bytes."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from tqdm import tqdm

from data_prep import folder as output_folder
from data_prep.__main__ import main
from data_prep.shard_file import HashedFile
from steel import storage
from steel.errors import InputError
from steel.shards.reader import ShardReader
from tests.image_folder import arguments, tree_digest, write_images
from tests.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    write_images(folder, 12)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, str]:
    assert main(arguments(folder, folder / "shards")) == 0
    return tree_digest(folder / "shards")


def run_killed_at(line: list[str], number: int) -> bool:
    """Run in a child that kills itself right before its `number`-th file operation that matters; False: it finished."""
    if tqdm.monitor is not None:
        tqdm.monitor.exit()  # a thread that could hold its lock at this moment, in the child for ever
        tqdm.monitor = None
    child = os.fork()
    if child == 0:
        cv2.setNumThreads(0)  # the parent's threads are not there to be waited for
        tqdm.set_lock(threading.RLock())  # the one it shares with the parent could die locked
        signal.alarm(100)  # sooner than the test's own limit
        calls = 0

        def deadly(change: Callable) -> Callable:
            def changed(*names, **options):  # type: ignore[no-untyped-def]
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*names, **options)

            return changed

        for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "fsync"), (storage, "make_folder")):
            setattr(module, name, deadly(getattr(module, name)))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(main(line))
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def final_names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.exists() else set()


def test_killed_at_every_step_the_next_run_finishes_the_job(
    folder: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    step = 0
    killed = True
    while killed:
        step += 1
        out = tmp_path / f"out{step}"
        killed = run_killed_at(arguments(folder, out), step)
        digests = tree_digest(out) if out.exists() else {}
        for name in final_names(out) - {".unfinished"}:
            assert digests[name] == undisturbed[name], f"step {step}: {name} is half-written"
        assert main(arguments(folder, out)) == 0
        assert tree_digest(out) == undisturbed, f"step {step}"
        assert {path.name for path in out.iterdir()} == set(undisturbed), f"step {step}"
        shutil.rmtree(out)
    assert step > 20


def test_killed_again_and_again_the_job_makes_progress(
    folder: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # every run has the few steps that one shard takes, after those that find out where the last one was
    runs = 0
    while run_killed_at(arguments(folder, tmp_path / "out"), 15):
        runs += 1
        assert runs < 10
    assert runs >= 1
    assert tree_digest(tmp_path / "out") == undisturbed


def test_a_real_process_with_workers_killed_in_a_loop(tmp_path: Path) -> None:
    write_images(tmp_path, 200)
    out = tmp_path / "out"
    assert main(arguments(tmp_path, tmp_path / "whole", shard_size=10)) == 0
    line = [sys.executable, "-m", "data_prep", *arguments(tmp_path, out, shard_size=10, workers=2)]
    for num_shards in (0, 3, 11):  # killed when so many are there, in the middle of the next ones
        process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL)
        workers: set[int] = set()
        while process.poll() is None and (len(workers) < 2 or len(list(out.glob("*.tar"))) < num_shards):
            workers |= children_of(process.pid)
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was done too soon to be killed"
        deadline = time.monotonic() + 20
        while any(map(is_alive, workers)):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.02)
    assert subprocess.run(line, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert tree_digest(out) == tree_digest(tmp_path / "whole")


@pytest.fixture(scope="module")
def large_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of images that each take a while, and what becomes of them undisturbed."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "images").mkdir()
    for number in range(24):
        noise = np.random.default_rng(number).integers(0, 256, (600, 1000), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), noise, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n0.png,1,1 3\n")
    assert main(arguments(folder, folder / "shards", shard_size=12, tile="512x512")) == 0
    return folder


HEEDS_INTERRUPTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests run in may ignore it, and its children with it
from data_prep.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("stop", "workers", "code"), [(signal.SIGINT, 1, 130), (signal.SIGINT, 2, 130), (signal.SIGTERM, 2, 143)]
)
def test_an_interrupted_process_ends_within_its_shard_and_goes_on(
    large_images: Path, tmp_path: Path, stop: signal.Signals, workers: int, code: int
) -> None:
    out = tmp_path / "out"
    line = arguments(large_images, out, shard_size=12, tile="512x512")
    command = [sys.executable, "-c", HEEDS_INTERRUPTS, *line, "--workers", str(workers)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not any(size > 1 << 20 for size in half_written(out)):
        assert process.poll() is None, "it was done too soon to be stopped"
        time.sleep(0.005)
    process.send_signal(stop)
    told = process.communicate()[1].splitlines()[-1]
    assert (process.returncode, told) == (code, "interrupted" if code == 130 else "stopped by SIGTERM")
    assert final_names(out) == set() and half_written(out) == []
    assert main(line) == 0
    assert tree_digest(out) == tree_digest(large_images / "shards")


def test_ctrl_c_while_workers_import_is_one_line(large_images: Path, tmp_path: Path) -> None:
    """A terminal tells all processes of a job; workers import for seconds before their first own instruction."""
    line = arguments(large_images, tmp_path / "out", shard_size=12, tile="512x512", workers=2)
    command = [sys.executable, "-c", HEEDS_INTERRUPTS, *line]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(spawned_by(process.pid)) < 2:
        assert process.poll() is None, "it was done too soon to be stopped"
        time.sleep(0.005)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    told = [line for line in process.communicate()[1].replace("\r", "\n").splitlines() if "sharding: " not in line]
    assert process.returncode == 130
    assert [line for line in told if line] == ["interrupted"]


def spawned_by(pid: int) -> list[int]:
    """Its worker processes, which have begun or are about to."""
    workers = []
    for child in children_of(pid):
        with contextlib.suppress(OSError):
            workers += [child] * (b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
    return workers


def half_written(out: Path) -> list[int]:
    """The sizes in bytes of files that are being written."""
    sizes = []
    for path in out.glob(".unfinished/.unfinished-*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sizes


def children_of(pid: int) -> set[int]:
    """Process ids of its children, whichever of its threads started them."""
    children: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children |= set(map(int, task.read_text().split()))
    return children


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_full_disk_is_one_line_and_no_half_finished_name(
    folder: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written, room = 0, (folder / "shards" / "shard-000000.tar").stat().st_size + 1000

    def write(file: HashedFile, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_write(file, data)

    real_write = HashedFile.write
    monkeypatch.setattr(HashedFile, "write", write)
    out = tmp_path / "out"
    assert main(arguments(folder, out)) == 1
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert error.startswith("error: No space left on device: ")
    assert str(out / "shard-") in error
    assert final_names(out) == {"shard-000000.tar"}
    assert not list(out.rglob(".unfinished-*"))

    monkeypatch.undo()
    assert main(arguments(folder, out)) == 0
    assert tree_digest(out) == undisturbed


def test_a_killed_worker_is_one_line_and_the_next_run_goes_on(
    folder: Path, undisturbed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_others = set(children_of(os.getpid()))

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for pid in set(children_of(os.getpid())) - of_others:
                if b"spawn_main" in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    assert main(arguments(folder, tmp_path / "out", workers=2)) == 1
    killer.join()
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: a worker process was killed")
    assert "the same command goes on" in told
    assert main(arguments(folder, tmp_path / "out")) == 0
    assert tree_digest(tmp_path / "out") == undisturbed


def test_too_little_room_is_told_before_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda url: 50_000)
    assert main(arguments(folder, tmp_path / "out")) == 1
    assert " 49 KiB free; make room" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_jobs_do_not_share_a_folder(
    folder: Path, undisturbed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with output_folder.lock(str(out), shared=False):
        assert main(arguments(folder, out)) == 2
        assert main(arguments(folder, out, part="1/2")) == 2
    assert "another job is writing there" in capsys.readouterr().err
    with output_folder.lock(str(out), shared=True):
        assert main(arguments(folder, out, part="1/2")) == 0
        assert main(arguments(folder, out)) == 2
    assert main(arguments(folder, out)) == 0
    assert tree_digest(out) == undisturbed


def test_a_shard_that_vanished_is_written_again(folder: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(arguments(folder, out, part="1/1")) == 0
    (out / "shard-000001.tar").unlink()
    with open(out / "shard-000002.tar", "ab") as file:
        file.truncate(1000)
    assert main(arguments(folder, out)) == 0
    assert tree_digest(out) == undisturbed


@pytest.mark.parametrize("name", ["shard-000001.tar", "index.arrow"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_finished_set_that_was_damaged_is_not_called_finished(
    folder: Path, undisturbed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    out = Path(shutil.copytree(folder / "shards", tmp_path / "out"))
    size = (out / name).stat().st_size
    if harm == "cut":
        os.truncate(out / name, size // 2)
    else:
        (out / name).unlink()
    with pytest.raises(InputError, match="make the shards again with `python -m data_prep` and another --out"):
        ShardReader(out)
    assert main(arguments(folder, out)) == 2
    told = capsys.readouterr().err
    assert f"{name} ({f'{size // 2} of {size} bytes' if harm == 'cut' else 'missing'}); remove the folder and" in told
    assert main(arguments(folder, tmp_path / "other")) == 0
    shutil.rmtree(out)
    assert main(arguments(folder, out)) == 0
    assert tree_digest(out) == tree_digest(tmp_path / "other") == undisturbed


def test_of_a_damaged_manifest_the_advice_is_one_that_helps(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(folder / "shards", tmp_path / "out"))
    os.truncate(out / "manifest.json", 100)
    assert main(arguments(folder, out)) == 2
    assert "make the shards again with `python -m data_prep` and another --out" in capsys.readouterr().err

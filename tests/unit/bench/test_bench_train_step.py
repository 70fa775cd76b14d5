"""The sides of the bench of a step do the same work: equal first losses on equal data."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from bench.speed.row import Side
from bench.speed.run import RowResult, SideResult
from bench.speed.worker import ROOT, Worker
from bench.train_step import ours, plain, setting
from bench.train_step.__main__ import _against_peers, _remark
from bench.train_step.rows import DEFAULT, KINDS, UNKEPT, rows_of
from bench.train_step.setting import Setting
from steel import machine
from steel.distributed.runtime import start
from steel.precision import has_native_bf16

COMPILED_PLAIN = "plain loop, channels_last, compiled"
TINY: dict[str, Any] = {"encoder": "tu-test_resnet", "height": 32, "width": 64}
TINY |= {"batch": 4, "micro": 2, "steps": 2, "threads": 1}  # a step of ours is told with the next
PEERS = ROOT / ".bench" / "step-peers" / "bin" / "python"


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("architecture", "encoder"), [("Unet", "tu-test_resnet"), ("FPN", "tu-test_resnet"), ("Unet", "efficientnet-b0")]
)
def test_ours_and_the_plain_loop_lose_the_same_in_the_first_step(architecture: str, encoder: str) -> None:
    """Also where smp's network would drop channels or whole blocks by chance."""
    found = []
    for module, options in (
        (ours, {}),
        (ours, {"runtime": {"channels_last": False}}),
        (plain, {"channels_last": True}),
        (plain, {"channels_last": False}),
    ):
        images, seconds = module.step(**TINY | {"architecture": architecture, "encoder": encoder}, **options)
        assert images == 8 and seconds > 0
        found.append(module.figures())
    losses = [each["first_loss"] for each in found]
    assert losses[0] > 0.1
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert all({"step_ms", "memory_gib"} <= each.keys() for each in found)
    assert not any({"host_ms", "device_ms"} & each.keys() for each in found)


def test_figures_of_several_ranks_are_medians_over_the_repeats_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([900, 10, 40, 20])
    monkeypatch.setattr(ours, "_OF_RANKS", defaultdict(list))

    def run(*_: Any, **__: Any) -> Any:
        number = next(said)
        told = json.dumps([8, 1.0, {"step_ms": number, "memory_gib": number / 10, "first_loss": 0.5}])
        return Mock(returncode=0, stdout=f"a word before\n{told}\n")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(4):
        assert ours.ranks(world=2, **TINY) == (8, 1.0)
    assert ours.figures() == {"step_ms": 20, "memory_gib": 2, "first_loss": 0.5}


@pytest.mark.skipif(not PEERS.exists(), reason="the peers' environment has not been made")
def test_the_peers_accumulate_the_same_losses(tmp_path: Path) -> None:
    """Lightning and MONAI, over two micro-batches a step, in both layouts."""
    ours.step(**TINY)
    with Worker(PEERS, "bench.train_step.peers", tmp_path / "log") as peers:
        for task, channels_last in product(("lightning", "monai"), (True, False)):
            images, seconds = peers.ask(task, **TINY, keep_freed=True, channels_last=channels_last)
            assert images == 8 and seconds > 0
            assert peers.ask("figures")["first_loss"] == pytest.approx(ours.figures()["first_loss"], rel=1e-5)


@pytest.mark.skipif(not PEERS.exists(), reason="the peers' environment has not been made")
@pytest.mark.skipif(not has_native_bf16("cpu"), reason="needs a CPU with bfloat16")
@pytest.mark.parametrize("channels_last", [True, False])
def test_lightning_clips_in_bfloat16_too(channels_last: bool, tmp_path: Path) -> None:
    """Which it refuses to do for a fused optimizer."""
    with Worker(PEERS, "bench.train_step.peers", tmp_path / "log") as peers:
        peers.ask("lightning", **TINY, keep_freed=True, channels_last=channels_last, precision="bf16")
        assert peers.ask("figures")["first_loss"] > 0


def test_the_first_loss_is_that_of_the_first_step_whole() -> None:
    meter = setting.Meter(Setting(**TINY))
    for share in (0.25, 0.5, 4.0, 8.0):
        meter.lose(torch.tensor(share))
    assert meter.first_loss == 0.75


def test_one_side_of_ours_has_the_peers_allocator_and_is_held_against_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where training sets one: on a CPU. A process of its own has it, as it cannot be taken back."""
    library = Mock()
    library.CDLL.return_value.mallopt.return_value = 1
    monkeypatch.setattr(machine, "ctypes", library)
    ours.step(**TINY, keep_freed=False)
    assert not library.CDLL.called
    ours.step(**TINY)
    assert library.CDLL.called

    row, _ = rows_of(["made-up"], [DEFAULT], "")
    (side,) = [side for side in row.sides if side.label == UNKEPT]
    assert side.options["keep_freed"] is False and [each.where for each in row.sides].count(side.where) == 1
    on_gpu = rows_of(["made-up"], [replace(DEFAULT, device="cuda")], "")
    assert all(each.label != UNKEPT for row in on_gpu for each in row.sides)
    peers = [
        SideResult(Side("a", "a", "a", target=1.0), (2.0, 4.0, 4.0), ()),
        SideResult(Side("b", "b", "b"), (1.0, 1.0, 1.0), ()),
    ]
    result = SideResult(side, (1.0, 3.0, 5.0), ())
    assert _against_peers(RowResult(row, (result, *peers)), result) == "0.75x as fast as a"


def test_the_peers_have_our_allocator_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU: beside what they do without it, or alone. Where there is none, that is told."""
    made_up, kept, fed = rows_of(["made-up", "loader"], [DEFAULT], "shards")
    sides = [made_up.sides[0], *(side for side in made_up.sides if side.target is not None)]
    assert [(side.label, side.target) for side in kept.sides] == [(side.label, side.target) for side in sides]
    assert not any(side.options.get("keep_freed") for side in made_up.sides)
    for row in (kept, fed):
        assert all(side.options["keep_freed"] for side in row.sides)
        assert row.name.startswith("kept ") and row.title.endswith("all keep freed memory")
        loops = {f"{loop}{layout}" for loop, layout in product(("plain", "lightning", "monai"), ("", "-nchw"))}
        assert {side.where for side in row.sides} >= {"ours", *loops}
    on_gpu = rows_of(KINDS, [replace(DEFAULT, device="cuda")], "shards")
    assert not any("kept" in row.name or "keep_freed" in side.options for row in on_gpu for side in row.sides)

    asked = Mock(return_value=True)
    monkeypatch.setattr(setting, "keep_freed_memory", asked)
    plain.step(**TINY, channels_last=True)
    assert not asked.called
    plain.step(**TINY, channels_last=True, keep_freed=True)
    assert asked.called
    asked.return_value = False
    with pytest.raises(RuntimeError, match="freed memory is not kept"):
        plain.step(**TINY, channels_last=True, keep_freed=True)


def test_a_cpu_that_computes_in_bfloat16_is_measured_in_it_too() -> None:
    """As training takes it there; with the same targets, and our allocator on all sides."""
    rows = rows_of(["made-up"], [DEFAULT], "", bf16=True)
    assert [row.name.split(" Unet")[0] for row in rows] == ["made-up", "kept made-up", "kept bf16"]
    float32, _, mixed = rows
    assert {side.options["precision"] for side in mixed.sides} == {"bf16"}
    targets = {side.label: side.target for side in float32.sides if side.target is not None and side.task != "monai"}
    assert {side.label: side.target for side in mixed.sides if side.target is not None} == targets
    assert "ours, NCHW" in {side.label for side in mixed.sides}
    assert all(side.options["keep_freed"] for side in mixed.sides)
    on_gpu = rows_of(["made-up"], [replace(DEFAULT, device="cuda", precision="bf16")], "", bf16=True)
    assert [row.name.split()[0] for row in on_gpu] == ["made-up", "float32"]


@pytest.mark.skipif(not has_native_bf16("cpu"), reason="needs a CPU with bfloat16")
def test_in_bfloat16_ours_and_the_plain_loop_lose_the_same(tmp_path: Path) -> None:
    losses = []
    for module, options in (
        ("ours", {"precision": "bf16"}),
        ("plain", {"precision": "bf16", "channels_last": True}),
        ("plain", {"precision": "bf16", "channels_last": False}),
        ("ours", {"precision": "no"}),
    ):  # each in a process of its own, which has one precision
        with Worker(sys.executable, f"bench.train_step.{module}", tmp_path / "log") as side:
            side.ask("step", **{**TINY, **options})
            losses.append(side.ask("figures")["first_loss"])
    mixed, *others, exact = losses
    assert others == pytest.approx([mixed] * 2, rel=1e-2)
    assert mixed == pytest.approx(exact, rel=5e-2) and mixed != exact


def test_one_rank_sums_gradients_as_several_do() -> None:
    """By what training takes on the device, and once a step, not with each micro-batch."""
    assert (ours.backend_of("cuda"), ours.backend_of("cpu")) == ("nccl", "gloo")
    sums = []

    def note(_: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sums.append(bucket.index())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    try:
        loop = ours.Loop(Setting(**TINY), start("no", cpu=True), ddp=True)
        loop.training.wrapped.register_comm_hook(None, note)  # type: ignore[operator]
        loop.repeat()
    finally:
        torch.distributed.destroy_process_group()
    assert sums.count(0) == TINY["steps"]  # of two micro-batches each


def test_the_time_of_the_host_is_of_steps_that_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the device has to do before and after."""
    now = [0.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(setting.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: pass_time(100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1 << 30)
    monkeypatch.setattr(torch.cuda, "Event", Mock(**{"return_value.elapsed_time.return_value": 7.0}))
    meter = setting.Meter(Setting(device="cuda", steps=2))
    for host in (9.0, 0.3, 0.2, 0.4):  # the first is left out: kernels are chosen, memory is asked for
        meter.launch()
        pass_time(host + 0.5)
        meter.launched(waited=0.5)
        meter.start()
        pass_time(2)
        meter.stepped()
        meter.stepped()
        meter.stop()
    figures = meter.figures()
    assert figures == {"step_ms": 51_000, "memory_gib": 1, "host_ms": pytest.approx(300), "device_ms": 7.0}


def test_the_time_of_the_device_is_read_once_the_stretch_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each step, from the event behind the one before it; the first stretch is left out, as ever."""
    ticks, waits = iter([0.0, 90.0, 91.0, 92.0, 100.0, 103.0, 105.0, 109.0]), Mock()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(ticks)

        def elapsed_time(self, later: "Event") -> float:
            assert waits.call_count % 2 == 0, "read before the device was done"
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "synchronize", waits)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1 << 30)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    meter = setting.Meter(Setting(device="cuda", steps=3))
    meter.launch()
    meter.launched()
    waits.reset_mock()
    for _ in range(2):
        meter.start()
        for _ in range(3):
            meter.stepped()
        meter.stop()
    assert waits.call_count == 4  # where a stretch begins and where it ends
    assert meter.figures()["device_ms"] == 3.0
    assert _remark("", {"step_ms": 4.0, "host_ms": 1.5, "device_ms": 3.0}) == (
        "4 ms a step, 1.5 ms of the host, 3.0 ms of the device"
    )


def test_on_a_cpu_only_a_loop_in_channels_last_goes_without_the_fused_optimizer() -> None:
    """The table says so; on a GPU all sides have it."""
    loops = {channels_last: plain.Loop(Setting(**TINY), channels_last) for channels_last in (True, False)}
    assert {last: loop._optimizer.defaults["fused"] for last, loop in loops.items()} == {True: False, False: True}
    rows = {device: rows_of(["made-up"], [replace(DEFAULT, device=device)], "") for device in ("cpu", "cuda")}
    remarks = {
        device: {
            side.label: side.remark for row in rows[device] for side in row.sides if side.where.startswith("plain")
        }
        for device in rows
    }
    assert remarks["cpu"] == {"plain loop, channels_last": "", "plain loop, NCHW": "fused AdamW"}
    assert remarks["cuda"] == dict.fromkeys(remarks["cpu"], "") | {COMPILED_PLAIN: "beside ours, compiled"}


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_where_ours_is_compiled_on_a_gpu_the_plain_loop_is_too(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph, which is also run as it is: what takes the time is generating code for it."""
    compiled: list[object] = []
    torch_compile = torch.compile

    def compile_for_test(function: Any, *, dynamic: bool) -> Any:
        compiled.append(function)
        return torch_compile(function, dynamic=dynamic, backend=backend, fullgraph=True)

    monkeypatch.setattr(torch, "compile", compile_for_test)
    plain._loop.cache_clear()  # else its last loop may not be the last that was made
    rows = {device: rows_of(["made-up"], [replace(DEFAULT, device=device)], "")[0] for device in ("cpu", "cuda")}
    assert COMPILED_PLAIN not in {side.label for side in rows["cpu"].sides}
    (side,) = (side for side in rows["cuda"].sides if side.label == COMPILED_PLAIN)
    losses = []
    for how in ({"channels_last": True}, {name: side.options[name] for name in ("channels_last", "compiled")}):
        plain.step(**TINY, **how)
        losses.append(plain.figures()["first_loss"])
    assert len(compiled) == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize(("architecture", "encoder"), [("Unet", "tu-test_resnet"), ("FPN", "efficientnet-b0")])
def test_gradients_of_the_loop_in_nchw_lie_as_the_fused_optimizer_takes_for_granted(
    architecture: str, encoder: str
) -> None:
    """In memory as their parameters do; the stride of a size of 1 says nothing of that."""
    chosen = Setting(**TINY | {"architecture": architecture, "encoder": encoder})
    network, batch = setting.build_network(chosen).train(), next(setting.micro_batches(chosen))
    setting.loss_of(chosen, network, batch.images, batch.targets, channels_last=False).backward()
    for name, parameter in network.named_parameters():
        assert parameter.is_contiguous(), name
        assert parameter.grad is None or parameter.grad.is_contiguous(), name


def _descendants(pid: int) -> set[int]:
    """Processes that one has started, and those that they have."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | _descendants(child)
    return found


def _measures(pid: int) -> bool:
    """Not so of what a program asks before it measures, as `git` and `lscpu`."""
    try:
        return b"bench.speed.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    """Not so of one that has ended and whose parent has not asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("rows", "processes"), [("ddp", 1), pytest.param("ranks", 4, marks=pytest.mark.slow)])
def test_sigterm_ends_the_processes_that_measure(rows: str, processes: int, tmp_path: Path) -> None:
    """A worker in the midst of its steps; one whose launcher runs two ranks, each in a session of its own."""
    words = ["--rows", rows, "--device", "cpu", "--encoders", TINY["encoder"], "--sizes", "32x64", "--batch", "2"]
    words += ["--steps", "1000000", "--out", str(tmp_path / "table.md"), "--work", str(tmp_path)]
    line = [sys.executable, "-m", "bench.train_step", *words]
    started: set[int] = set()
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL) as bench:
        try:
            _wait_for(lambda: len(found := _descendants(bench.pid)) >= processes and any(map(_measures, found)))
            time.sleep(3)  # whatever they are at
            started = _descendants(bench.pid)
            bench.send_signal(signal.SIGTERM)
            assert bench.wait(30) == 128 + signal.SIGTERM
            _wait_for(lambda: not any(map(_is_alive, started)))
        finally:
            for pid in filter(_is_alive, {bench.pid, *started}):
                os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "table.md").exists()

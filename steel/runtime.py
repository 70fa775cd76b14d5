"""Which rank is this: the Accelerator, collectives, stop signals. Only this module touches torch.distributed."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import nn
from torch.distributed import distributed_c10d

from steel.errors import InputError, LostRankError, OutOfMemoryError, SharedError
from steel.handshake import agree_on_attempt
from steel.heartbeat import SILENCE_S, Heartbeat
from steel.model.precision import has_native_bf16

T = TypeVar("T")

COLLECTIVE_TIMEOUT_S = 1800.0
"""A collective that waits longer than this fails: rank 0 may calibrate or write while the others wait."""


@dataclass(frozen=True)
class Runtime:
    """One rank's view of the job."""

    accelerator: Accelerator
    heartbeat: Heartbeat | None = None
    """Of a job of several ranks."""

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def all_reduce_sum(self, array: np.ndarray) -> np.ndarray:
        """Sum an integer or float array over the ranks; every rank gets the sum, in the array's own dtype."""
        if self.world == 1:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def start_sum(self, values: torch.Tensor) -> "PendingSum":
        """Begin summing a small tensor over the ranks without waiting; `PendingSum.read` waits."""
        work = dist.all_reduce(values, async_op=True) if self.world > 1 else None
        return PendingSum(values, work)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable `value` on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """Every rank's picklable `value`, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def broadcast_tensors(self, module: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers of `module`, in place."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def on_main(self, task: Callable[[], T]) -> T:
        """Run `task` on rank 0 alone and give its picklable result to every rank.

        Raises:
            SharedError: on every rank alike, if the task met a mistake of the user or failed to read or write, so that
                no rank waits for another.
        """
        outcome: tuple[T | None, str | None] = (None, None)
        if self.is_main:
            try:
                outcome = (task(), None)
            except (InputError, OSError) as error:
                outcome = (None, str(error))
        value, problem = self.broadcast(outcome)
        if problem is not None:
            raise SharedError(problem)
        return value

    def main_first(self, task: Callable[[], T]) -> T:
        """Run `task` on every rank, on rank 0 before all others: what it downloads, the others find."""
        with self.accelerator.main_process_first():
            return task()

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    @contextlib.contextmanager
    def guard(self, signals: "StopSignals", on_lost: Callable[[str], None]) -> Iterator[None]:
        """Watch over the other ranks while the block runs.

        Args:
            signals: once one has come, a rank's silence is borne for less long.
            on_lost: told which rank hangs, before this process ends because of it.

        Raises:
            LostRankError: a collective failed because a rank is gone; the message names it.
            OutOfMemoryError: this rank asked for more memory than there is.
        """
        heartbeat = self.heartbeat
        if heartbeat is not None:
            heartbeat.hurried, heartbeat.on_lost = (lambda: signals.received), on_lost
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if _is_out_of_memory(error):
                raise OutOfMemoryError(_tell_out_of_memory(error)) from error
            if heartbeat is None or not _is_broken_collective(error):
                raise
            raise LostRankError(f"lost contact with the other ranks: {heartbeat.find_lost()}") from error
        finally:
            if heartbeat is not None:
                heartbeat.on_lost = lambda message: None

    def say_failed(self, reason: str) -> None:
        """Let the other ranks know why this one is about to end."""
        if self.heartbeat is not None:
            self.heartbeat.leave(reason)

    def close(self) -> None:
        """Leave the process group; the job's last act."""
        if self.heartbeat is not None:
            self.heartbeat.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass
class PendingSum:
    """A sum over ranks under way."""

    values: torch.Tensor
    work: Any

    def read(self) -> list[float]:
        """Wait for the sum and return it as host numbers."""
        if self.work is not None:
            self.work.wait()
        return self.values.tolist()


def start(precision: str = "auto", *, cpu: bool = False) -> Runtime:
    """Join the job this process was launched into and build its Accelerator.

    Args:
        precision: `auto`, `no`, `bf16` or `fp16`.
        cpu: stay on the CPU even where there is a GPU.

    Raises:
        InputError: the launcher started several processes but Accelerate sees another number, so each would believe it
            is alone and write the same output; or the precision is not to be had on this device.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if not torch.cuda.is_available():
        cpu = True
        # Several processes on CPUs only join into one group when Accelerate is told that there is no GPU to share.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    process_group = InitProcessGroupKwargs(timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    if world > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        process_group.init_method = f"{_JOIN_SCHEME}://"
    ddp = DistributedDataParallelKwargs(broadcast_buffers=True, gradient_as_bucket_view=True)
    try:
        accelerator = Accelerator(
            mixed_precision=_choose_precision(precision, cpu), cpu=cpu, kwargs_handlers=[process_group, ddp]
        )
    except ValueError as error:
        raise InputError(f"runtime.precision {precision}: {error}") from error
    if accelerator.num_processes != world:
        raise InputError(
            f"the launcher started {world} processes but Accelerate sees {accelerator.num_processes}: each would "
            "believe it is alone; launch with one of launch/accelerate/*.yaml or torchrun"
        )
    if "TORCHELASTIC_RUN_ID" in os.environ or _is_accelerate(os.getppid()):
        _die_with_parent()
    return Runtime(accelerator, _start_heartbeat(accelerator.process_index, world) if world > 1 else None)


_JOIN_SCHEME = "steel-attempt"


def _join_attempt(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """Torch's way of joining a job, with keys in the job's store that no earlier attempt has used."""
    store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
    name = agree_on_attempt(store, rank, world, timeout_s=COLLECTIVE_TIMEOUT_S)
    yield dist.PrefixStore(f"attempt-{name}", store), rank, world
    raise RuntimeError("a job is joined once")


dist.register_rendezvous_handler(_JOIN_SCHEME, _join_attempt)


def _start_heartbeat(rank: int, world: int) -> Heartbeat:
    store = distributed_c10d._get_default_store().clone()
    store.set_timeout(timedelta(seconds=SILENCE_S))
    return Heartbeat(store, rank, world)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the host or the device refused memory; torch has no exception of its own for the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _tell_out_of_memory(error: Exception) -> str:
    said = str(error).partition("\n")[0] or "the host refused memory"
    return f"out of memory ({said}); a smaller phases.N.micro-batch needs less at the same batch size"


def _is_broken_collective(error: Exception) -> bool:
    """Whether `error` says that a connection to another rank broke; gloo has no exception of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "Connection" in str(error)


def _choose_precision(precision: str, cpu: bool) -> str | None:
    if precision != "auto":
        return precision
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return None  # what `accelerate launch --mixed_precision` said
    return "bf16" if has_native_bf16("cpu" if cpu else "cuda") else "no"


def launcher_rank() -> int:
    """This process's rank as the launcher says it: to be used before (or without) `start`."""
    return int(os.environ.get("RANK", "0"))


def _is_accelerate(process: int) -> bool:
    """Whether `process` is `accelerate launch`, which tells a single process nothing about itself."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return b"accelerate" in file.read()
    except OSError:
        return False


def _die_with_parent(interval_s: float = 0.5) -> None:
    """End this process soon after its launcher is gone: torch elastic starts ranks in sessions of their own, so killing
    the launcher would otherwise leave ranks that go on writing the run folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def seed_micro_batch(*key: int) -> None:
    """Seed torch's generators, on every device, from a tuple of integers: dropout then depends on nothing else."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, dtype=np.uint64)[0]) >> 1)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch alike on every rank, so that all build the same first weights."""
    set_seed(seed % 2**32)


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the loop reads; a second signal ends the process at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    SAME_S = 1.0
    """Signals so soon after the first mean the same stop: a scheduler tells all processes of a job, and the launcher
    among them passes it on."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._first = 0.0

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Handle the signals inside the block and put the former handlers back after it.

        A thread takes them, from a pipe that the interpreter fills at once: a handler would wait until the main thread
        is back from whatever it waits for, such as a collective that never ends.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        listener = threading.Thread(target=self._listen, args=(reading,), name="stop-signals", daemon=True)
        listener.start()
        former_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        former = {number: signal.signal(number, lambda number, frame: None) for number in self.SIGNALS}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former_pipe)
            os.write(writing, b"\0")
            listener.join()
            os.close(reading)
            os.close(writing)

    def _listen(self, pipe: int) -> None:
        while number := os.read(pipe, 1)[0]:
            if number in self.SIGNALS:
                self._take(signal.Signals(number))

    def _take(self, received: signal.Signals) -> None:
        now = time.monotonic()
        if self.name is None:
            self.name, self._first = received.name, now
        elif now - self._first > self.SAME_S:
            os._exit(128 + received)

    @property
    def received(self) -> bool:
        return self.name is not None

"""Which rank is this: the Accelerator, what ranks tell each other. Only this module and `joining` touch
torch.distributed.

Two groups connect the ranks. The default group, NCCL on GPUs, sums and spreads tensors where they are. Numbers and
objects of the hosts go over gloo: a rank that waits for another there leaves its GPU alone, and a lost rank breaks the
connection at once, on GPUs as on CPUs. Where ranks compute on CPUs the default group is gloo itself and does both.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, set_seed
from torch import nn

from steel.distributed.accelerate_environment import says_cpu, settle_environment
from steel.distributed.ending import Ending
from steel.distributed.heartbeat import Heartbeat
from steel.distributed.joining import (
    die_with_launcher,
    is_broken_collective,
    join_hosts,
    meet_in_one_network,
    process_group_options,
    start_heartbeat,
)
from steel.errors import InputError, LostRankError, SharedError, describe, exit_code
from steel.machine import keep_freed_memory, own_binding, own_cores, usable_cores
from steel.precision import choose_precision

T = TypeVar("T")

logger = logging.getLogger("steel.distributed.runtime")


@dataclass(frozen=True)
class Runtime:
    """One rank's view of the job."""

    accelerator: Accelerator
    ending: Ending = field(default_factory=lambda: Ending(0))
    """What happens when the job fails."""
    hosts: dist.ProcessGroup | None = None
    """The gloo group; None where the default group is that, or there is one rank."""
    cores: float = field(default_factory=usable_cores)
    """Of this machine, that are this rank's own; see `own_cores`."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        """How many processes share the job."""
        return self.accelerator.num_processes

    @property
    def device(self) -> torch.device:
        """What this process computes on."""
        device = self.accelerator.device
        # Torch tells `cpu:0`, which ranks on CPUs get, from `cpu`, and would copy from one to the other for ever.
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.accelerator.is_main_process

    @property
    def heartbeat(self) -> Heartbeat | None:
        """Of a job of several ranks."""
        return self.ending.heartbeat

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum `tensor` over the ranks, in place, on the device it is on."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def broadcast_tensors(self, module: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers of `module`, in place, on the device they are on."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sum each of a few host numbers over the ranks, in float64; every rank gets the sums."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums, group=self.hosts)
        return sums.tolist()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable `value` on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.hosts)
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """Every rank's picklable `value`, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value, group=self.hosts)
        return box

    def gather_on_main(self, value: T, num_ranks: int) -> list[T]:
        """The picklable `value` of each of the first `num_ranks` ranks, on rank 0; the others go on at once, with none.

        `all_gather` takes the largest value's size of every rank, on every rank: too much for pictures.
        """
        if self.is_main:
            values: list[Any] = [value]
            for rank in range(1, min(num_ranks, self.world)):
                box: list[Any] = [None]
                dist.recv_object_list(box, src=rank, group=self.hosts)
                values += box
            return values
        if self.rank < num_ranks:
            dist.send_object_list([value], dst=0, group=self.hosts)
        return []

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier(group=self.hosts)

    def on_main(self, task: Callable[[], T]) -> T:
        """Run `task` on rank 0 alone and give its picklable result to every rank.

        Raises:
            SharedError: on every rank alike, if the task met a mistake of the user or failed to read or write, so that
                no rank waits for another.
        """
        outcome: tuple[T | None, str | None, int] = (None, None, 0)
        if self.is_main:
            try:
                outcome = (task(), None, 0)
            except (InputError, OSError) as error:
                outcome = (None, describe(error), exit_code(error))
        value, problem, code = self.broadcast(outcome)
        if problem is not None:
            raise SharedError(problem, code)
        return value

    def share_out(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Deal `tasks`, which are the same on every rank, to the ranks; every rank gets all of their picklable results.

        Returns:
            In the order of `tasks`; what they are does not depend on how many ranks there are.
        """
        parts = self.all_gather([task() for task in tasks[self.rank :: self.world]])
        return [parts[number % self.world][number // self.world] for number in range(len(tasks))]

    def forget_trainings(self) -> None:
        """Let go of the networks and optimizers of trainings that are over, and of the device memory that they took.

        The Accelerator holds all that was ever prepared. They hold themselves as well, in cycles, and it collects
        garbage before it lets go of them: so it is asked twice.
        """
        self.accelerator.free_memory()
        self.accelerator.free_memory()

    @contextlib.contextmanager
    def running(self) -> Iterator["Runtime"]:
        """Everything a program does in its job: under the guard, and left together with the other ranks at the end.

        An error ends the process of a job of several ranks, with the error's exit code; see `steel.distributed.ending`.
        """
        try:
            with self.guard():
                yield self
                self.barrier()  # rank 0 may still write, and its failure is everybody's
        except BaseException:
            if self.heartbeat is not None:
                self.ending.leave()
            raise
        self.close()

    @contextlib.contextmanager
    def guard(
        self, record: Callable[[str], None] | None = None, hurried: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Watch over the job while the block runs: its failure, here or on another rank, is said, recorded and told to
        the other ranks before anything else. Guards nest; the innermost acts.

        Args:
            record: told in a line why the job has failed, on every rank; by default what the guard outside of this has.
            hurried: whether the job has been told to stop: a rank's silence is then borne for less long.

        Raises:
            LostRankError: a collective failed because a rank is gone; the message names it.
        """
        with self.ending.recording(record), self._hurrying(hurried):
            try:
                yield
            except BaseException as error:
                if self.heartbeat is None or not is_broken_collective(error):
                    self.ending.fail(error)
                    raise
                lost = LostRankError(self.heartbeat.find_lost(str(error).partition("\n")[0]))
                self.ending.fail(lost)
                raise lost from error

    @contextlib.contextmanager
    def _hurrying(self, hurried: Callable[[], bool] | None) -> Iterator[None]:
        if hurried is None or self.heartbeat is None:
            yield
            return
        former, self.heartbeat.hurried = self.heartbeat.hurried, hurried
        try:
            yield
        finally:
            self.heartbeat.hurried = former

    def close(self) -> None:
        """Leave the job after success; its last act."""
        if self.heartbeat is not None:
            self.heartbeat.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


def start(precision: str = "auto", *, cpu: bool = False) -> Runtime:
    """Join the job this process was launched into and build its Accelerator.

    Args:
        precision: `auto`, `no`, `bf16` or `fp16`.
        cpu: stay on the CPU even where there is a GPU.

    Raises:
        InputError: the launcher started several processes but Accelerate sees another number, so each would believe it
            is alone and write the same output; the precision is not to be had on this device; or accelerate was
            configured for another way of training.
        LostRankError: some rank did not come.
    """
    for line in settle_environment(os.environ):
        logger.warning("%s", line)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cpu = cpu or says_cpu(os.environ)
    if not torch.cuda.is_available():
        cpu = True
        # Several processes on CPUs only join into one group when Accelerate is told that there is no GPU to share.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    if cpu:
        keep_freed_memory()
    meet_in_one_network()
    # Running statistics are joined after each step (steel.model.batch_norm), not overwritten with rank 0's.
    # Gradients stay in the buckets that are summed: put there once a step, by their division, never copied back.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # its heir is newer than 2.11
    mixed_precision = _choose_precision(precision, cpu)
    options = [process_group_options(), ddp]
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=options)
    except (ValueError, ImportError, NotImplementedError) as error:
        raise InputError(f"accelerate cannot start with mixed precision {mixed_precision} here: {error}") from error
    except (dist.DistError, TimeoutError) as error:
        said = str(error).partition("\n")[0]
        raise LostRankError(f"the ranks did not all join the job: {said}") from error
    if accelerator.distributed_type not in _DATA_PARALLEL or accelerator.device.type not in ("cpu", "cuda"):
        raise InputError(
            f"accelerate chose {accelerator.distributed_type.value} on {accelerator.device}; ranks here train on CPUs "
            "or CUDA GPUs, in data-parallel processes: hide the other device (USE_TORCH_XLA=0 for torch_xla)"
        )
    if accelerator.num_processes != world:
        raise InputError(
            f"the launcher started {world} processes but Accelerate sees {accelerator.num_processes}: each would "
            "believe it is alone; launch with one of launch/accelerate/*.yaml or torchrun"
        )
    die_with_launcher()
    ending = Ending(accelerator.process_index)
    if world == 1:
        return Runtime(accelerator, ending)
    ending.heartbeat = start_heartbeat(accelerator.process_index, world, ending.give_up)
    runtime = Runtime(accelerator, ending, join_hosts())
    with runtime.guard():
        own = own_binding()
        return replace(runtime, cores=own_cores(own, runtime.all_gather(own)))


_DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def _choose_precision(precision: str, cpu: bool) -> str:
    """As `choose_precision`, but that `auto` is what `accelerate launch --mixed_precision` said, if it did."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    is_launched = precision == "auto" and launched != "no"
    try:
        return choose_precision(launched if is_launched else precision, "cpu" if cpu else "cuda")
    except InputError as error:
        said = f"accelerate launch --mixed_precision {launched}" if is_launched else f"--runtime.precision {precision}"
        raise SharedError(f"{said}: {error}") from error


def launcher_rank() -> int:
    """This process's rank as the launcher says it: to be used before (or without) `start`."""
    return int(os.environ.get("RANK", "0"))


def seed_micro_batch(*key: int) -> None:
    """Seed torch's generators, on every device, from a tuple of integers: dropout then depends on nothing else."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, dtype=np.uint64)[0]) >> 1)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch alike on every rank, so that all build the same first weights."""
    set_seed(seed % 2**32)

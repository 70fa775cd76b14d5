"""Accelerate's launcher for one machine, run inside this process: its words are left out, what it knows comes back."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Passed on to the ranks, which save and leave at SIGTERM, SIGINT and SIGUSR1."""
STOP_SECONDS = 100
"""That the ranks have for it: a slow disk may still be writing the state before, and torch's 30 would lose this one."""


def launch_ranks(
    module: str, arguments: Sequence[str], *, processes: int, threads: int, config_file: Path
) -> int | signal.Signals:
    """Run `python -m MODULE ARGUMENT...` in several ranks until all have ended.

    A signal goes to each rank once. What has not ended `STOP_SECONDS` later is killed, and so it is at a second signal.

    Args:
        module: what each rank runs.
        arguments: its command line.
        processes: number of ranks, at least 2.
        threads: of each rank, unless OMP_NUM_THREADS says otherwise.
        config_file: one of launch/accelerate.

    Returns:
        The exit code of the rank that failed first, 0 when none did, 1 when a signal ended it; or the signal that ended
        the job, whatever the ranks made of it.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = {
        "--config_file": str(config_file),
        "--num_processes": str(processes),
        "--num_cpu_threads_per_process": os.environ.get("OMP_NUM_THREADS") or str(threads),
    }
    words = [word for option in options.items() for word in option]
    parsed = launch_command_parser().parse_args([*words, "--module", module, *arguments])
    parsed.signals_to_handle = SIGNALS
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_SECONDS))
    logging.disable()  # in this process alone
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:  # it has said why
            return failure.exitcode
        print(f"error: rank {rank} was ended by {failure.signal_name()}", file=sys.stderr)
        return 1
    except SignalException as error:
        for process in psutil.Process().children(recursive=True):
            process.kill()
        return error.sigval
    return 0

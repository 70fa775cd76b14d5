"""What a user did wrong, and how a program says so."""

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence


class InputError(ValueError):
    """A mistake in what the user gave: the message is one line that says what, where and what to do about it."""


class SharedError(InputError):
    """A mistake that every rank of a job finds alike: rank 0 alone says it."""


class LostRankError(RuntimeError):
    """The job cannot go on, for another rank is gone; the message names it."""


class OutOfMemoryError(RuntimeError):
    """Host or device refused memory; the message says what needs less."""


_LAST_WORD_S = 30.0
"""How long the other ranks leave a `SharedError` to rank 0: a launcher ends the job when the first of them ends."""


def list_some(names: Sequence[str], limit: int = 5) -> str:
    """`a, b, c and 7 more`: the first `limit` names and how many were left out."""
    shown = ", ".join(names[:limit])
    hidden = len(names) - limit
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def run_program(main: Callable[[], int | None]) -> int:
    """Run a program's `main` and turn its errors into one line on stderr and an exit code.

    Returns:
        2 for bad input (`InputError`), 1 for a full disk, a refused file, a lost rank or too little memory, 130 for
        Ctrl-C, else what `main` returned.
        Anything else is a defect of ours and keeps its traceback.
    """
    try:
        return main() or 0
    except SharedError as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(_LAST_WORD_S)
        else:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (LostRankError, OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        print(f"error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)  # noqa: T201
        return 1

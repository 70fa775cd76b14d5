"""What a user did wrong, and how a program says so."""

import errno
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from steel.startup import Terminated, sigterm_unwinds


def printable(text: str) -> str:
    """`text` as one line of valid UTF-8: line ends, control characters and bytes of a file name that are no text come
    out as `\\n`, `\\x1b`, `\\xff`."""
    return _UNPRINTABLE.sub(_escape, text)


def told_url(text: str | os.PathLike[str]) -> str:
    """`text`, where it holds a URL, without what may be secret in it: its login (`user:password@`) and all from `?` or
    `#` on (a signature, a token). For whatever is shown or stored; fetching needs the whole."""
    text = os.fspath(text)
    store, separator, place = text.partition("://")
    if not separator or store.lower().endswith(("file", "local")):
        return text
    return store + separator + re.split("[?#]", _LOGIN.sub(r"\1", place), maxsplit=1)[0]


def without_secrets(text: str) -> str:
    """`text` with every URL in it as `told_url` tells one, but that only those of HTTP end at `?` or `#`, as files of
    other stores may be called so. In a sentence a URL goes on to the next blank, punctuation before that left out; in
    quotes its query goes on to the second of them."""
    return _QUERIES.sub(r"\1", _QUOTED_QUERIES.sub(r"\1", _LOGINS.sub("", text)))


_LOGIN = re.compile("(^|//)[^/]*@")
_LOGINS = re.compile(r"(?<=://)[^/\s]*@")
# A URL without a query is matched, too: looked for in each of many, the query would cost the square of their number.
_QUERIES = re.compile(r"""(https?://[^\s?#]*)(?:[?#]\S*(?<![:;,.)\]'"`]))?""", re.IGNORECASE)
_QUOTED_QUERIES = re.compile(r"""((['"`])https?://[^\s?#'"`]*)[?#].*?(?=\2)""", re.IGNORECASE)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python spells a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


class InputError(ValueError):
    """A mistake in what the user gave: the message is one line that says what, where and what to do about it, without
    the secrets of URLs."""

    def __str__(self) -> str:
        return printable(without_secrets(super().__str__()))


class SharedError(InputError):
    """What every rank of a job finds wrong alike: rank 0 alone says it."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code
        """The program's exit code."""


class ResourceError(InputError):
    """Nothing is wrong with what the user gave: the machine has too little room, or has ended a process."""


@contextmanager
def alike_on_all_ranks() -> Iterator[None]:
    """Turn a mistake of the user that the block, or the function it decorates, finds into one that rank 0 alone says.

    For what every rank does with the same values, and nothing else: what another rank alone met would be said by none.

    Raises:
        SharedError: in place of InputError.
    """
    try:
        yield
    except InputError as error:
        if isinstance(error, SharedError | ResourceError):
            raise
        raise SharedError(str(error), exit_code(error)) from error


class NotFiniteError(InputError):
    """What a network says of an image is not finite, and so nothing: least of all that the image is clean."""


class SharedNotFiniteError(SharedError, NotFiniteError):
    """The same, known to every rank alike."""


class LostRankError(RuntimeError):
    """The job cannot go on, for another rank is gone; the message names it."""


class OutOfMemoryError(RuntimeError):
    """Host or device refused memory; the message says what needs less."""


_EXIT_CODES = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE), 1
) | dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), 2)
"""Of what the operating system may say of disks and rights (1) and of names (2); other errors are defects of ours."""
_WAYS_OUT = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; make room there or choose another place") | {
    errno.EROFS: "; choose another place",
    errno.EFBIG: "; choose another place, or a higher `ulimit -f`",
}
"""What to do about a disk that takes no more, or nothing."""
LAST_WORD_S = 30.0
"""How long the other ranks leave a `SharedError` to rank 0: a launcher ends the job when the first of them ends."""


def list_some(names: Sequence[str], limit: int = 5) -> str:
    """`a, b, c and 7 more`: the first `limit` names and how many were left out."""
    shown = ", ".join(names[:limit])
    hidden = len(names) - limit
    return f"{shown} and {hidden:,} more" if hidden > 0 else shown


def counted(number: float, word: str) -> str:
    """`1 image`, `2 images`, `0.5 epochs`, `3 classes`."""
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:,g} {word}{ending}" if number < 1e6 else f"{number:,.0f} {word}{ending}"


def told_bytes(number: int) -> str:
    """`52 KiB`, `48 MiB`, `1.0 GiB`."""
    if number >= 2**30:
        return f"{number / 2**30:.1f} GiB"
    return f"{number / 2**20:.0f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


_OUT_OF_MEMORY = re.compile(
    r"out of memory|allocate memory|insufficient memory|ALLOC(ATION)?_FAILED|bad_alloc", re.IGNORECASE
)
"""CUDA, torch's CPU allocator and the operating system, OpenCV, cuBLAS and cuDNN, C++."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or device refused memory, in whatever words a library says so; not for errors that were told before.

    Python and numpy raise MemoryError. Torch has an exception of its own for its CUDA allocator alone: all else comes
    as a RuntimeError (`CUDA error: out of memory`, `CUDNN_STATUS_ALLOC_FAILED`, `CUBLAS_STATUS_ALLOC_FAILED`, the
    host's `can't allocate memory`, NCCL's `Cuda failure 'out of memory'`), and failing system calls as an OSError.
    """
    if isinstance(error, InputError | OutOfMemoryError | LostRankError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return _OUT_OF_MEMORY.search(str(error)) is not None


@contextmanager
def out_of_memory_as(advice: str | Callable[[], str]) -> Iterator[None]:
    """Turn an error of the block that says that memory has run out into one that says what needs less.

    Args:
        advice: what to do, or who is asked for it once memory has run out.

    Raises:
        OutOfMemoryError: with the first line of what was said, and `advice`.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_told_memory(error, advice if isinstance(advice, str) else advice())) from error


def _told_memory(error: BaseException, advice: str) -> str:
    said = str(error).strip().partition("\n")[0] or "the host refused memory"
    return f"out of memory ({said}); {advice}"


def run_program(main: Callable[[], int | None]) -> int:
    """Run a program's `main` and turn its errors into one line on stderr and an exit code.

    From here on no character fails to print: what the console's encoding lacks is escaped, so that a run's last line
    cannot cost its result. SIGTERM ends `main` as Ctrl-C does, unless it has its own way with it.

    Returns:
        2 for bad input (`InputError`), 1 for a full disk, a refused file, a lost rank, a killed worker or too little
        memory, 130 for Ctrl-C, 143 for SIGTERM, 141 where nobody reads the output any more, else what `main` returned.
        Anything else is a defect of ours and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with sigterm_unwinds():
        return _run(main)


def _run(main: Callable[[], int | None]) -> int:
    try:
        try:
            return main() or 0
        finally:
            if sys.stdout is not None:  # as with `>&-`, where printing is in vain and no error
                sys.stdout.flush()
    except BrokenPipeError:
        # What Python would flush at its end has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        code = report(error)
        if code is None:
            raise
        if isinstance(error, SharedError) and not _is_first():
            time.sleep(LAST_WORD_S)
        return code


def report(error: BaseException) -> int | None:
    """Say on stderr, in one line and once, what made a program end; of what all ranks find alike rank 0 alone speaks.

    Returns:
        The program's exit code, as `run_program` has it; None for a defect, of which nothing is said.
    """
    told = _line_and_code(error)
    if told is None:
        return None
    line, code = told
    everybodys = isinstance(error, SharedError | KeyboardInterrupt)
    if not vars(error).get(_REPORTED) and (_is_first() or not everybodys):
        with suppress(OSError), _bars_away():  # OSError: nobody reads it any more
            print(printable(without_secrets(line)), file=sys.stderr, flush=True)  # noqa: T201
    vars(error)[_REPORTED] = True
    return code


_REPORTED = "reported by steel"


def _bars_away() -> AbstractContextManager[object]:
    """Takes progress bars off the terminal while a line is written; before tqdm is imported there is none."""
    tqdm = sys.modules.get("tqdm")
    return nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(file=sys.stderr)


def exit_code(error: InputError | OSError) -> int:
    """That of a program which ends with `error`: 2, but 1 where disks or rights are behind it."""
    if isinstance(error, SharedError):
        return error.code
    if isinstance(error, ResourceError):
        return 1
    system = error.__cause__ if isinstance(error, InputError) else error
    return _EXIT_CODES.get(system.errno or 0, 2) if isinstance(system, OSError) else 2


def describe(error: InputError | OSError) -> str:
    """What a user did wrong, or what the operating system refuses and where, without its number, and what helps."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'while writing'}{_WAYS_OUT.get(error.errno or 0, '')}"
    return str(error)


def _line_and_code(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, InputError):
        return f"error: {error}", exit_code(error)
    if isinstance(error, LostRankError | OutOfMemoryError):
        return f"error: {error}", 1
    if isinstance(error, KeyboardInterrupt):
        return told_stop(error), Terminated.CODE if isinstance(error, Terminated) else 130
    if isinstance(error, OSError) and error.errno in _EXIT_CODES:
        return f"error: {describe(error)}", exit_code(error)
    if is_out_of_memory(error):
        return f"error: {_told_memory(error, 'fewer workers, or less else on this machine, leave more')}", 1
    return None


def told_stop(error: KeyboardInterrupt) -> str:
    """What ended a program that was asked to stop, and what its author may have had to say of that."""
    return str(error) or "interrupted"


def _is_first() -> bool:
    """Whether this is rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"

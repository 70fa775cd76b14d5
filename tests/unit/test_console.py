"""What programs say: on one line, on any console, and files in UTF-8 whatever the locale."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main as shard
from steel.errors import InputError, printable, run_program
from steel.labels.submission import write_submission
from tests.image_folder import arguments, write_images
from tests.paths import ROOT


@contextmanager
def ascii_console() -> Iterator[io.BytesIO]:
    """stdout and stderr as with PYTHONIOENCODING=ascii: a character beyond it is an error."""
    said = io.BytesIO()
    out, err = (io.TextIOWrapper(said, encoding="ascii", errors="strict", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        yield said


def test_a_character_that_the_console_lacks_is_escaped() -> None:
    with ascii_console() as said:
        with pytest.raises(UnicodeEncodeError):
            print("Riß")
        assert run_program(lambda: print("Riß in прокат")) == 0
        assert said.getvalue() == b"Ri\\xdf in \\u043f\\u0440\\u043e\\u043a\\u0430\\u0442\n"


def test_an_error_that_the_console_cannot_spell_keeps_its_exit_code() -> None:
    def fail() -> None:
        raise InputError("Bänder/1.jpg: unreadable")

    with ascii_console() as said:
        assert run_program(fail) == 2
        assert said.getvalue() == b"error: B\\xe4nder/1.jpg: unreadable\n"


def test_sharding_ends_well_on_such_a_console(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    out = tmp_path / "прокат"
    with ascii_console() as said:
        assert shard(arguments(tmp_path, out, class_names="Riß,b,c,d")) == 0
        assert b"Ri\\xdf" in said.getvalue()
    assert (out / "manifest.json").exists()


def test_help_is_printed_on_such_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.arguments.EXECUTOR_KINDS", ("Prozeß",))
    with ascii_console() as said:
        with pytest.raises(SystemExit) as done:
            shard(["--help"])
        assert done.value.code == 0
        assert b"Proze\\xdf" in said.getvalue()


def test_files_are_utf_8_where_the_locale_is_not(tmp_path: Path) -> None:
    code = (
        "import locale, sys, numpy as np\n"
        "from steel.storage import write_text\n"
        "from steel.labels.submission import write_submission\n"
        "assert locale.getpreferredencoding(False) != 'UTF-8'\n"
        "write_text(sys.argv[1] + '/report.txt', 'Ri\\xdf')\n"
        "write_submission(sys.argv[1] + '/s.csv', [('St\\xfcck.jpg', np.zeros((1, 2, 2), bool))])\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "report.txt").read_bytes() == "Riß".encode()
    write_submission(tmp_path / "here.csv", [("Stück.jpg", np.zeros((1, 2, 2), bool))])
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert "Stück.jpg_1".encode() in (tmp_path / "s.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain, Riß, прокат, 鋼", "plain, Riß, прокат, 鋼"),
        ("two\nlines\r\tand \x1b[31mred", r"two\nlines\r\tand \x1b[31mred"),
        (os.fsdecode(b"a\xff\xfe.jpg"), r"a\xff\xfe.jpg"),
        ("half \ud83d of a smile, end\u2028of line, \x85", r"half \ud83d of a smile, end\u2028of line, \x85"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_one_line_of_valid_text(text: str, line: str) -> None:
    assert printable(text) == line
    assert str(InputError(text)) == line
    assert len(line.splitlines()) == 1 and line.encode()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES])
def test_what_the_system_says_of_a_file_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "data/a.jpg")

    assert run_program(fail) == 1
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: data/a.jpg\n"


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    def fail() -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with pytest.raises(OSError, match="Bad file descriptor"):
        run_program(fail)

"""What programs say: on one line, on any console, and files in UTF-8 whatever the locale."""

import errno
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main as shard
from steel import __version__
from steel.cli import main as steel
from steel.distributed.runtime import start
from steel.errors import InputError, counted, printable, run_program, told_url, without_secrets
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


def test_counts_in_words() -> None:
    said = [counted(1, "epoch"), counted(0.5, "epoch"), counted(4242, "step"), counted(0, "image")]
    assert said == ["1 epoch", "0.5 epochs", "4,242 steps", "0 images"]
    assert counted(12_345_678, "image") == "12,345,678 images"


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


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        steel(["--version"])
    assert (done.value.code, capsys.readouterr().out) == (0, f"steel {__version__}\n")


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
@pytest.mark.parametrize("program", ["explore", "synth", "data_prep"])
def test_a_seed_is_from_0_to_below_the_63rd_power_of_2(
    program: str, seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = {"explore": [str(tmp_path), "--out", str(out)], "synth": [str(out), "--num-train", "1"]}.get(program)
    with pytest.raises(SystemExit) as done:
        shard([*arguments(tmp_path, out), "--seed", seed]) if line is None else steel([program, *line, "--seed", seed])
    assert (done.value.code, out.exists()) == (2, False)
    told = f"error: argument --seed: {seed} is not in [0, 2**63); --help lists the options\n"
    assert capsys.readouterr().err == told


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


DISKS_AND_RIGHTS = dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES), 1)
NAMES = dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR), 2)


@pytest.mark.parametrize(("number", "code"), (DISKS_AND_RIGHTS | NAMES).items())
def test_what_the_system_says_of_files_is_one_line(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is no mistake in the input, whoever says it in which words; a name that leads nowhere is one."""

    def fail() -> None:
        raise OSError(number, os.strerror(number), "data/a.jpg")

    def fail_in_other_words() -> None:
        try:
            fail()
        except OSError as error:
            raise InputError("could not keep data/a.jpg") from error

    ways_out = {
        errno.ENOSPC: "; make room there or choose another place",
        errno.EROFS: "; choose another place",
        errno.EFBIG: "; choose another place, or a higher `ulimit -f`",
    }
    said = f"error: {os.strerror(number)}: data/a.jpg{ways_out.get(number, '')}\n"
    assert run_program(fail) == code
    assert capsys.readouterr().err == said
    assert run_program(fail_in_other_words) == code
    assert capsys.readouterr().err == "error: could not keep data/a.jpg\n"
    runtime = start("no", cpu=True)
    assert run_program(lambda: runtime.on_main(fail)) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "command", ["steel.cli --help", "steel.cli predict --help", "data_prep --help", "train --help"]
)
def test_nobody_has_to_read_to_the_end(command: str) -> None:
    """As in `steel --help | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    # argparse forgives a lost reader of its help itself.
    assert (done.returncode, done.stderr) in ((141, ""), (0, ""))


def test_output_that_nobody_reads_ends_a_program_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = "from steel.errors import run_program; raise SystemExit(run_program(lambda: print('x' * 100)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_program_may_begin_without_a_place_to_print_to() -> None:
    """As with `>&-`."""
    program = "from steel.errors import run_program; raise SystemExit(run_program(lambda: print('x')))"
    line = ["bash", "-c", 'exec "$0" -c "$1" >&-', sys.executable, program]
    done = subprocess.run(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_the_locale_cannot_read_are_not_called_broken(tmp_path: Path) -> None:
    """In a Python that takes names for ASCII; the names themselves are UTF-8."""
    (tmp_path / "прокат.jpg").write_bytes(b"")
    program = f"from steel.images.listing import list_images; list_images({str(tmp_path)!r})"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert "not ascii (PYTHONUTF8=1 reads names as UTF-8): \\xd0\\xbf" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError("to decode a PNG"), "to decode a PNG"), (MemoryError(), "the host refused memory")],
)
def test_memory_that_runs_out_is_one_line(error: MemoryError, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert run_program(fail) == 1
    way_out = "fewer workers, or less else on this machine, leave more"
    assert capsys.readouterr().err == f"error: out of memory ({said}); {way_out}\n"


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    def fail() -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with pytest.raises(OSError, match="Bad file descriptor"):
        run_program(fail)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://host/a/w.pth?X-Amz-Signature=5ecret&x=a/b", "https://host/a/w.pth"),
        ("https://user:5ec@ret@host:8443/w@2.pth#5ecret", "https://host:8443/w@2.pth"),
        ("https://user:5ec?r#et@host/w.pth", "https://host/w.pth"),
        ("simplecache::ftp://user:5ecret@host/w.pth", "simplecache::ftp://host/w.pth"),
        ("zip://w.pth::https://user:5ecret@host/a.zip?5ecret", "zip://w.pth::https://host/a.zip"),
        ("--model.weights=https://host/w.pth?5ecret", "--model.weights=https://host/w.pth"),
        ("s3://bucket/model@v2/", "s3://bucket/model@v2/"),
        ("file:///data/a#b?c.pth", "file:///data/a#b?c.pth"),
        ("FILE:///data/me@home/a#b?c.pth", "FILE:///data/me@home/a#b?c.pth"),
        ("HTTPS://user:5ecret@host/w.pth?5ecret", "HTTPS://host/w.pth"),
        ("data/me@home/a#b?c.pth", "data/me@home/a#b?c.pth"),
        ("hub", "hub"),
    ],
)
def test_a_url_is_told_without_its_secrets(text: str, told: str) -> None:
    assert told_url(text) == told_url(told) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://user:5ecret@host/a/s.tar: lost", "https://host/a/s.tar: lost"),
        ("s3://key:5ec@ret@bucket and `ftp://u:5ecret@h/x`", "s3://bucket and `ftp://h/x`"),
        ("https://host/a.csv?sig=5ecret: no such file", "https://host/a.csv: no such file"),
        (
            "labels ('http://u:5ecret@h/a.csv?5ecret#5ecret'), https://h/b#5ecret",
            "labels ('http://h/a.csv'), https://h/b",
        ),
        (
            "http://host/a.csv: a what? of https://h, s3://b/coil#1?.jpg",
            "http://host/a.csv: a what? of https://h, s3://b/coil#1?.jpg",
        ),
        ("HTTPS://host/a.csv?sig=5ecret, Http://h/b#5ecret.", "HTTPS://host/a.csv, Http://h/b."),
        ("'https://h/a?5ecret and 5ecret': lost, \"http://h/it's?5ecret\"", "'https://h/a': lost, \"http://h/it's\""),
        ("a 'https://h/a' and what? of 'b'; 'https://h?5ecret", "a 'https://h/a' and what? of 'b'; 'https://h"),
        ("s3://bucket/model@v2 of me@home", "s3://bucket/model@v2 of me@home"),
        ("at https://host or me@home/x", "at https://host or me@home/x"),
        ("C:\\a@b, /data//me@home/x", "C:\\a@b, /data//me@home/x"),
    ],
)
def test_an_error_tells_no_secrets(text: str, told: str) -> None:
    assert without_secrets(text) == str(InputError(text)) == told


@pytest.mark.parametrize("text", [f"https://h/a?{':' * 20_000}x", "https://" * 5000, "'https://h?" * 4000])
def test_no_length_of_an_error_holds_up_telling_it(text: str) -> None:
    """It took from 6 s on, by the square of what others had sent."""
    begun = time.process_time()
    str(InputError(text))
    assert time.process_time() - begun < 1

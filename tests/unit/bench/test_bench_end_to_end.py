"""`bench.end_to_end`: what `nvidia-smi` and a run folder say, when the target is judged, and the whole command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.end_to_end.__main__ import main
from bench.end_to_end.page import ON_NO_GPU, Row, judge, tables
from bench.end_to_end.program import Ended, run
from bench.end_to_end.run_records import PhaseRecord, RunRecord, phase_records, read_run
from bench.gpu_samples import Card, Spread, in_words, parse_cards, sampled
from steel.errors import InputError, run_program
from tests.paths import ROOT

H100 = "NVIDIA H100 80GB HBM3"
SAMPLES = (
    f"0, {H100}, 570.86.15, 700.00, 68.91, 345, 2619, 31, 0, 0\n"
    "1, NVIDIA H200, 570.86.15, 700.00, 75.02, 345, 3201, 30, 0, 4\n"
    f"0, {H100}, 570.86.15, 700.00, 612.40, 1980, 2619, 55, 97, 20481\n"
    "1, NVIDIA H200, 570.86.15, 700.00, 75.11, 345, 3201, 30, 0, 4\n"
    f"0, {H100}, 570.86.15, 700.00, 655.72, 1755, 2619, 61, 99, 20987\n"
    "1, NVIDIA H200, 570.86.15, 700.00, 75.40, 345, 3201, 30, 0, 4\n"
)


def test_medians_and_maxima_of_each_card_the_busiest_first() -> None:
    busy, idle = parse_cards(SAMPLES)
    assert (busy.name, busy.driver, busy.power_limit) == (H100, "570.86.15", 700)
    assert busy.figures == {
        "power.draw": (612.40, 655.72),
        "clocks.sm": (1755, 1980),
        "clocks.mem": (2619, 2619),
        "temperature.gpu": (55, 61),
        "utilization.gpu": (97, 99),
        "memory.used": (20481, 20987),
    }
    assert idle.name == "NVIDIA H200"
    busy = busy._replace(figures={name: busy.figures[name] for name in ("power.draw", "clocks.sm")})
    assert (
        in_words([busy]) == f"{H100}, driver 570.86.15, limit 700 W, power, W 612.4 (655.72), SM clock, MHz 1755 (1980)"
    )
    assert in_words([]) == "not told: no nvidia-smi"


def test_what_a_card_does_not_tell_is_missing() -> None:
    (card,) = parse_cards(
        "0, Tesla K80, 470.82.01, [Not Supported], [N/A], 562, 2505, 40, [N/A], 3\n"
        "0, Tesla K80, 470.82.01, [Not Supported], 61.10, 875, 2505, 44, [N/A], [Unknown Error]\n"
    )
    assert card.power_limit is None
    assert in_words([card]).startswith("Tesla K80, driver 470.82.01, no limit told, power, W 61.1 (61.1), ")
    assert card.figures == {
        "power.draw": (61.10, 61.10),
        "clocks.sm": (718.5, 875),
        "clocks.mem": (2505, 2505),
        "temperature.gpu": (42, 44),
        "memory.used": (3, 3),
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        f"0, {H100}, 570.86.15, 700.00, 68.91, 345, 2619, 31, 0, 2",  # cut short: of 20481
    ],
)
def test_other_lines_are_passed_over(text: str) -> None:
    assert parse_cards(text) == []


def test_nvidia_smi_runs_for_as_long_as_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/words\necho $$ > {tmp_path}/pid\nprintf "{SAMPLES}"\nexec sleep 60\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with sampled(tmp_path / "samples"):
        _wait_for(lambda: (tmp_path / "samples").read_text() == SAMPLES)
    assert not _is_alive(int((tmp_path / "pid").read_text()))
    words = (tmp_path / "words").read_text().split()
    assert words[0].count(",") == 9 and words[1:] == "--format=csv,noheader,nounits -lms 1000 -i 0,1".split()


def test_without_nvidia_smi_there_are_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with sampled(tmp_path / "samples"):
        pass
    assert (tmp_path / "samples").read_bytes() == b""


def test_time_and_speed_of_a_phase_by_hand() -> None:
    phases = [{"name": name, "epochs": 1, "crop": [0, 0], "batch_size": 8} for name in ("crops", "full")]
    train = {"kind": "train", "data_wait": 0.1}
    found = phase_records(
        phases,
        [
            {**train, "phase": 0, "step": 10, "images_per_second": 40.0},  # 80 images in 2 s, of which 0.2 s waited
            {"kind": "validation", "phase": 0, "step": 10},
            {**train, "phase": 0, "step": 30, "images_per_second": 20.0, "data_wait": 0.5},  # 160 in 8 s, 4 s waited
            {**train, "phase": 0, "step": 33, "images_per_second": None, "data_wait": None},  # 24 at 24 a second
            {**train, "phase": 1, "step": 1, "images_per_second": None, "data_wait": None},
        ],
    )
    assert found[0][:3] == ("crops", 1, (0, 0))
    assert found[0][3:] == pytest.approx((11, 24, 0.42))
    assert found[1] == ("full", 1, (0, 0), 0, 0, 0)


SAID = """training Unet with resnet34 on 10,054 images of 4 classes; 1257 images validate, 1257 are kept for a test
2 processes on cuda:0, mixed precision: bf16
phase crops: compiled: a micro-batch takes 3.1 ms compiled and 4.0 ms not, 1.29 times as fast; compiling took 41 s
took 1:02:03, of which validation 1:05, compiling 0:41, threshold tuning 0:09
model    a/model.safetensors, with model_card.md
"""


def _run_folder(folder: Path, state: str) -> Path:
    phase = {"name": "crops", "epochs": 30, "crop": [256, 512], "batch_size": 64}
    files = {
        "status.json": {"state": state},
        "config.json": {"config": {"phases": [phase]}},
        "validation.json": {
            "cross_fitted": {"mean_dice": 0.9},
            "mean_dice_all_empty": 0.85,
            "mean_dice_positive": None,
        },
        "history.jsonl": {"kind": "train", "phase": 0, "step": 10, "images_per_second": 640.0, "data_wait": 0.0},
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values) + "\n")
    return folder


def test_a_run_folder_is_read(tmp_path: Path) -> None:
    record = read_run(_run_folder(tmp_path, "finished"), SAID)
    assert record.about.startswith("Unet with resnet34 on 10,054 images")
    assert (record.processes, record.device, record.precision) == (2, "cuda:0", "bf16")
    assert record.phases == (PhaseRecord("crops", 30, (256, 512), 1, 640, 0),)
    assert record.spent == {"validation": 65, "compiling": 41, "threshold tuning": 9}
    assert [sentence[:22] for sentence in record.compiled] == ["phase crops: compiled:"]
    assert (record.mean_dice, record.mean_dice_all_empty, record.mean_dice_positive) == (0.9, 0.85, None)


def test_what_has_not_finished_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the run was interrupted; give the same command again"):
        read_run(_run_folder(tmp_path, "interrupted"), SAID)
    with pytest.raises(ValueError, match="has not said"):
        read_run(_run_folder(tmp_path, "finished"), "took its time\n")


FULL = (PhaseRecord("crops", 30, (256, 512), 100, 2000, 0), PhaseRecord("full", 8, (0, 0), 100, 500, 0))
SHORT = (FULL[0]._replace(epochs=1), FULL[1])
CARD = Card(H100, "570", 700, {"power.draw": Spread(600, 690)})
KAGGLES = (12_568, (256, 1600))


def _row(seconds: float = 899, device: str = "cuda:0", cards: tuple = (CARD,), processes: int = 1, phases=FULL) -> Row:
    told = ("phase crops: compiled: twice as fast",)
    record = RunRecord("Unet", processes, device, "bf16", phases, {"validation": 65}, told, 0.9, 0.85, 0.5)
    return Row("on", Ended(0, seconds, 3 << 30), record, cards)


@pytest.mark.parametrize(
    ("row", "data", "said"),
    [
        (_row(899), KAGGLES, "reached"),
        (_row(899, cards=(CARD._replace(name="NVIDIA H200"),)), KAGGLES, "reached"),
        (_row(900), KAGGLES, "**missed**"),
        (_row(899, "cpu", ()), KAGGLES, ON_NO_GPU),
        (_row(899), (48, (256, 1600)), "not judged: 48 images of 256x1600"),
        (_row(899), (12_568, (64, 400)), "not judged: 12,568 images of 64x400"),
        (_row(899, phases=SHORT), KAGGLES, "not judged: other phases"),
        (_row(899, processes=2), KAGGLES, "not judged: 2 GPUs"),
        (_row(899, cards=(CARD._replace(name="NVIDIA L4"),)), KAGGLES, "not judged: NVIDIA L4"),
        (_row(899, cards=()), KAGGLES, "not judged: no nvidia-smi names the card"),
    ],
)
def test_the_target_is_judged_of_full_trainings_on_the_cards_that_it_names(row: Row, data: tuple, said: str) -> None:
    assert judge(row, *data) == said


def test_tables_have_a_cell_for_each_column() -> None:
    on_cpu = _row(600, "cpu", ())
    other = on_cpu._replace(compile="off", record=on_cpu.record._replace(spent={"compiling": 7}))
    lines = tables([_row(899), other], *KAGGLES)
    counts = {line.count("|") for line in lines if line.startswith("|")}
    assert counts == {10}  # nine columns in both
    assert "| on | 14:59 | reached | 2,000 images/s for 1:40, 0.0% data wait |" in lines[2]
    assert f"| off | 10:00 | {ON_NO_GPU} |" in lines[3]
    assert f"| on | {H100}, driver 570 | 700 W | 600 (690) | - |" in lines[7]
    assert f"| off | {ON_NO_GPU} | - |" in lines[8]
    assert lines[-1] == "- compile off: phase crops: compiled: twice as fast"


def test_of_several_trainings_medians_stand_with_their_spread() -> None:
    """The target is judged of the median; each training says what its GPU did, and what compiling brought."""
    faster = (FULL[0]._replace(seconds=80, images_per_second=2500), FULL[1])
    lines = tables([_row(903), _row(600), _row(899, phases=faster)], *KAGGLES)
    assert lines[2].startswith(
        "| on | 14:59 (10:00 to 15:03) | reached | 2,000 (2,000 to 2,500) images/s for 1:40 (1:20 to 1:40), 0.0% data"
    )
    assert "| 1:05 | 3.0 GiB | 0.9000, all empty 0.8500, " in lines[2]  # each time the same
    assert sum(line.startswith(f"| on | {H100}") for line in lines) == 3
    assert lines.count("- compile on: phase crops: compiled: twice as fast") == 3
    on_cpu = tables([_row(600, "cpu", ())] * 3, *KAGGLES)
    assert sum(line.startswith(f"| on | {ON_NO_GPU} | -") for line in on_cpu) == 1


def test_a_program_is_timed_and_its_end_known(tmp_path: Path) -> None:
    ended = run([sys.executable, "-c", "print('said'); raise SystemExit(3)"], tmp_path / "log")
    assert ended.code == 3 and ended.seconds > 0 and ended.peak_bytes > 1 << 20
    assert (tmp_path / "log").read_text() == "said\n"


@pytest.mark.parametrize(("hears", "patience"), [("", 60), ("signal.signal(signal.SIGINT, signal.SIG_IGN); ", 0.1)])
def test_ctrl_c_ends_what_is_running(hears: str, patience: float, tmp_path: Path) -> None:
    sleeper = f"import os, signal, time; {hears}print(os.getpid(), flush=True); time.sleep(60)"
    line, log = [sys.executable, "-c", sleeper], tmp_path / "log"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background job has none
        "from pathlib import Path; from bench.end_to_end import program; "
        f"program.PATIENCE = {patience}; program.run({line!r}, Path({str(log)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        _wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert not _is_alive(int(log.read_text().splitlines()[0]))


TINY = "--images 40 --size 64x160 --preset smoke --compile off".split()


def _command(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        "-m",
        "bench.end_to_end",
        "--out",
        str(tmp_path / "out.md"),
        "--work",
        str(tmp_path),
        *words,
    ]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_a_training_from_strips_to_the_table_and_one_that_fails(tmp_path: Path) -> None:
    done = _command(tmp_path, *TINY, "--", "--runtime.workers", "0")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out.md").read_text()
    assert done.stdout.strip() == page.strip()
    assert (
        "data: 40 strips of 64x160, made by `steel synth` in " in page
        and "preset smoke, Unet with resnet18 on 24" in page
    )
    assert page.count(ON_NO_GPU) == 2 and "| off | 0:" in page and str(tmp_path) not in page
    assert "- made by: `python -m bench.end_to_end --out out.md " in page and "- repeats: 1 of each, and none " in page

    failed = _command(tmp_path, *TINY, "--", "--folds.test", "7", "--folds.validation", "8")
    assert failed.returncode == 2
    assert "steel synth" not in failed.stderr, "made a second time"
    assert "error: training, compile off, ended with exit code 2; all it said: " in failed.stderr.splitlines()[-1]
    assert "folds" in failed.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "0"], "--images"),
        (["--size", "64"], "--size"),
        (["--preset", "none"], "--preset none: unknown"),
        (["--", "--phases.0.epoch", "1"], "--phases.0.epoch: no such option"),
        (["--", "--out=elsewhere"], "--out=elsewhere after --"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench.end_to_end", "--work", str(tmp_path), *words])
    try:
        code = run_program(main)
    except SystemExit as end:  # argparse's
        code = end.code
    assert code == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and told.startswith("error: ") and said in told
    assert list(tmp_path.iterdir()) == []


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

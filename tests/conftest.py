"""Data shared by the tests: a tiny Severstal-shaped set, synthesised and sharded once a session."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # set before torch is imported: parallel test processes share the cores
    cores, workers = len(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    """Take back the logging set-up of programs that are run inside this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture
def fresh_accelerate() -> None:
    """Forget the precision that an earlier test of this process has settled for Accelerate."""
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def emulated_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose bfloat16 is no faster than float32, whatever runs the test: `auto` is float32."""
    monkeypatch.setattr("steel.precision.has_native_bf16", lambda device_type: False)


@pytest.fixture
def no_wandb_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who never logged in, whose home is the test's folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def no_malloc_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this process and those it starts the environment says nothing of how memory is to be had."""
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def no_children() -> None:
    """End worker processes that earlier tests have left, for tests that count their own."""
    for child in multiprocessing.active_children():
        child.terminate()
        child.join(10)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's layout: 27 training and 5 test images of 64x160."""
    from steel.synthetic.dataset import synthesize

    out = tmp_path_factory.mktemp("tiny") / "data"
    synthesize(str(out), 27, 5, 0, height=64, width=160, class_share=(0.2, 0.2, 0.3, 0.2), workers=1)
    return out


@pytest.fixture(scope="session")
def tiny_shards(tiny_data: Path) -> Path:
    """The training images of `tiny_data` in 3 folds; 27 is a multiple neither of 2 nor of 4."""
    from data_prep.__main__ import main

    out = tiny_data.parent / "shards"
    options = ["--images", tiny_data / "train_images", "--labels", tiny_data / "train.csv", "--out", out]
    assert main([str(o) for o in (*options, "--folds", 3, "--shard-size", 10, "--workers", 1)]) == 0
    return out

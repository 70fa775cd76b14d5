"""Where the tests of weights look for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from steel.pretrained import downloads
from tests.weight_server import Files, serve_files


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def server() -> Iterator[tuple[str, Files]]:
    """See `serve_files`."""
    yield from serve_files()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SILENCE_S", 0.4)

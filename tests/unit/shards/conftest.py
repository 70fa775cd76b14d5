"""Shard folders that the tests of reading share."""

from pathlib import Path

import pytest

from tests.shard_folder import small_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture
def own_shards(tmp_path: Path) -> Path:
    """A folder that the test may damage."""
    return small_shards(tmp_path / "shards")

"""A folder of images with run-length masks, and its shards, that the tests of `data_prep` share."""

from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.image_folder import NUM_IMAGES, arguments, write_images


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input that is only read."""
    folder = tmp_path_factory.mktemp("input")
    write_images(folder, NUM_IMAGES)
    return folder


@pytest.fixture(scope="session")
def shards(folder: Path) -> Path:
    """What becomes of it; only read, too."""
    out = folder / "shards"
    assert main(arguments(folder, out)) == 0
    return out


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """The same input, that the test may change."""
    write_images(tmp_path, NUM_IMAGES)
    return tmp_path

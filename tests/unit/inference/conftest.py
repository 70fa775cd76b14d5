"""A folder of images, a predictor for it, and what it predicts, that the tests of predictions of folders share.

Made in 0.4 s, once a process. What needs torch is imported for them alone: other tests beside them begin without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from steel.inference.predictor import Predictor


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` with smooth noise, `model.safetensors`."""
    from tests.predicted_folder import write_folder

    root = tmp_path_factory.mktemp("predict")
    write_folder(root)
    return root


@pytest.fixture(scope="session")
def predictor(folder: Path) -> "Predictor":
    from steel.inference.predictor import Predictor

    return Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", pixels_per_pass=4000)


@pytest.fixture(scope="session")
def undisturbed(folder: Path, predictor: "Predictor") -> Path:
    """All formats of all images."""
    from steel.inference.folder_job import FolderJob
    from steel.inference.predict_folder import predict_folder
    from tests.predicted_folder import ALL

    job = FolderJob(str(folder / "images"), str(folder / "undisturbed"), ALL)
    summary = predict_folder(predictor, job, {})
    assert (summary.images, summary.unreadable, summary.not_in_sample) == (5, {}, 0)
    assert 0 < min(summary.per_class) <= max(summary.per_class) <= summary.defective <= 5
    return Path(job.out)

"""What an evaluation refuses before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest

from steel.checkpoint import save_checkpoint
from steel.errors import InputError
from steel.images.pixel_format import Depth
from tests.random_members import make_member
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.evaluate import _open, build_parser


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("class 1", "rust")}, "its classes are class 1, rust, those of the shards class 1, class 2"),
        ({"depth": Depth("high-byte")}, "it reads images of 16 bits by high-byte, the shards theirs by 8-bit"),
    ],
)
def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    images, masks = [steel_image(n, 32, 64) for n in range(4)], [defect_mask(n, 32, 64, 2) for n in range(4)]
    shards = make_shards(tmp_path / "shards", images, masks, num_classes=2)
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, replace(make_member(1), **changes))
    words = ["--checkpoint", str(checkpoint), "--data", str(shards), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match=rf"^--checkpoint .*model.safetensors: .*{message}"):
        _open(build_parser().parse_args(words))


@pytest.mark.parametrize(
    ("out", "message"), [("s3://bucket/x", "s3://bucket/x is no folder of this machine"), ("", "an empty value")]
)
def test_results_go_to_a_folder_of_this_machine(out: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--checkpoint", "model.safetensors", "--data", "shards", "--out", out])
    assert f"argument --out: {message}" in capsys.readouterr().err

"""Files of weights give tensors and nothing else: no code runs, and each fault is one line."""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from steel.errors import InputError
from steel.pretrained.files import parse_weights

TENSORS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.num_batches_tracked": torch.tensor(4)}


def torch_file(path: Path, value: Any, **options: Any) -> bytes:
    torch.save(value, path, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("place", "wrapped"),
    [
        ("", TENSORS),
        ("state_dict", {"state_dict": TENSORS, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}),
        ("model.module", {"model": {"module": TENSORS}, "best": 0.5}),
        ("", {n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in TENSORS.items()}),
    ],
    ids=["state dict", "training state", "nested", "parameters"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_weights_are_found_in_what_training_programs_save(
    place: str, wrapped: Any, zipped: bool, tmp_path: Path
) -> None:
    data = torch_file(tmp_path / "w.pth", wrapped, _use_new_zipfile_serialization=zipped)
    found = parse_weights(data, "w.pth")
    tensors = found.states[place]
    assert list(tensors) == list(TENSORS)
    assert all(tensors[name].equal(tensor) and not tensors[name].requires_grad for name, tensor in TENSORS.items())
    assert found.sha256 == hashlib.sha256(data).hexdigest() and found.metadata == {}


def test_safetensors_bring_what_they_say_of_themselves() -> None:
    found = parse_weights(safetensors.torch.save(TENSORS, {"license": "Apache-2.0"}), "w.safetensors")
    assert (
        found.states.keys() == {""}
        and found.states[""].keys() == TENSORS.keys()
        and found.metadata == {"license": "Apache-2.0"}
    )
    assert not found.is_checkpoint


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    value = TENSORS | {"extra": Trap(tmp_path / "ran")}
    data = torch_file(tmp_path / "w.pth", value, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"w\.pth: holds more than tensors.*could run code"):
        parse_weights(data, "w.pth")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_another_programs_objects_is_refused(tmp_path: Path) -> None:
    value = {"state_dict": TENSORS, "args": argparse.Namespace(lr=0.1)}
    with pytest.raises(InputError, match="save its state dict alone"):
        parse_weights(torch_file(tmp_path / "w.pth", value), "w.pth")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no weights",
        b"<!DOCTYPE html><html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        b"\xff\xd8\xff\xe0 a picture",
        bytes(100),
    ],
)
def test_what_is_no_file_of_weights_is_not_suspected_of_running_code(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^w: neither a safetensors nor a torch file of weights, or damaged$"):
        parse_weights(data, "w")


def test_what_is_no_file_of_weights_is_one_line(tmp_path: Path) -> None:
    whole = torch_file(tmp_path / "w.pth", TENSORS)
    safe = safetensors.torch.save(TENSORS)
    for data in (b"", b"<html>not found</html>", whole[: len(whole) // 2], safe[:-1], safe[:20], b"\x80\x02K\x01."):
        with pytest.raises(InputError, match=r"^w: ") as caught:
            parse_weights(data, "w")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="holds no tensors"):
        parse_weights(torch_file(tmp_path / "n.pth", {"epoch": 1}), "n.pth")

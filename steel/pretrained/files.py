"""Files of weights, read without running anything that is in them."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from steel.checkpoint_header import METADATA_KEY
from steel.errors import InputError


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds."""

    states: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    """Sets of tensors by where they are in the file, such as `model_ema`, or nothing; each by the names that the file
    has for them. A torch file has these in the order of the network's modules; a safetensors file has lost that."""
    sha256: str
    """Of the whole file."""
    metadata: Mapping[str, str]
    """What a safetensors file says of itself; nothing for other files."""

    @property
    def is_checkpoint(self) -> bool:
        """Whether this program wrote it, or says so."""
        return METADATA_KEY in self.metadata


def parse_weights(data: bytes, name: str) -> WeightFile:
    """The tensors of a safetensors file, or of a file of `torch.save` that holds nothing but tensors and plain values.

    Args:
        data: the file.
        name: for errors.

    Raises:
        InputError: neither, damaged, without tensors, or a pickle that would run code.
    """
    if data[8:9] == b"{":
        tensors, metadata = _parse_safetensors(data, name)
        states = {"": tensors} if tensors else {}
    else:
        states, metadata = _parse_torch(data, name), {}
    if not states:
        raise InputError(f"{name}: holds no tensors by name")
    return WeightFile(states, hashlib.sha256(data).hexdigest(), metadata)


def _parse_safetensors(data: bytes, name: str) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        tensors = safetensors.torch.load(data)
        table = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: damaged ({error}); copy it again") from error
    return tensors, table.get("__metadata__", {})


_OF_TORCH = b"PK", b"\x80"
"""How a zip archive begins, and a pickle, as `torch.save` writes and wrote them."""


def _parse_torch(data: bytes, name: str) -> dict[str, dict[str, Tensor]]:
    neither = f"{name}: neither a safetensors nor a torch file of weights, or damaged"
    if not data.startswith(_OF_TORCH):  # torch would say of a page or a text that it could run code
        raise InputError(neither)
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have errors of their own for what they cannot read
        reason = " ".join(str(error).split())
        if "weights_only" in reason or "Unsupported global" in reason:
            raise InputError(
                f"{name}: holds more than tensors, and loading it could run code that it brings; "
                "save its state dict alone, best as safetensors"
            ) from error
        raise InputError(neither) from error
    return {place: tensors for place, tensors in _states(loaded) if tensors}


def _states(loaded: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors of each mapping in `loaded`, and its place: training programs put the weights under a name beside
    other things."""
    if not isinstance(loaded, Mapping) or depth == 0:
        return
    yield place, {str(name): value.detach() for name, value in loaded.items() if isinstance(value, Tensor)}
    for name, value in loaded.items():
        yield from _states(value, f"{place}.{name}".lstrip("."), depth - 1)

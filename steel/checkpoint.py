"""The one-file checkpoint: safetensors with everything that is needed to answer, and where it came from.

    8 bytes          length of the header, little-endian
    header           JSON: the tensors' types, shapes and places, and under `__metadata__` the one key `steel`:
                     {"version", "sha256", "content": network, class names, normalisation, decision, folds, ...}
    tensors          each with a leading members dimension, so that an ensemble is the same kind of file

`sha256` covers the content, which holds another over the tensors: a flipped bit anywhere is found. Reading the header
(`steel.checkpoint_header`) needs neither torch nor safetensors; loading never unpickles.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from steel import storage
from steel.checkpoint_header import (
    MAX_HEADER_BYTES,
    METADATA_KEY,
    header_length,
    make_metadata,
    network_to_dict,
    parse_header,
)
from steel.config import NetworkConfig, TilingConfig
from steel.decision import Decision
from steel.errors import InputError, told_url
from steel.images.pixel_format import EIGHT_BITS, Depth
from steel.plain import from_dict

if TYPE_CHECKING:
    from torch import Tensor


_DATA = ("data_digest", "data_digests")
"""What a provenance says of the shards that a checkpoint was trained on."""


@dataclass(frozen=True)
class Checkpoint:
    """One network, or an ensemble of networks of one kind, ready to answer."""

    network: NetworkConfig
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Of the training images, one value per channel, in 0..1."""
    std: tuple[float, ...]
    tensors: dict[str, "Tensor"] = field(repr=False)
    """The state dict of the network, every tensor with a leading members dimension."""
    decision: Decision | None = None
    """None when it was never tuned."""
    folds: dict[str, list[int]] = field(default_factory=dict)
    """Role (`train`, `tuning`, `test`) to folds of the training data."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """What it was made from and with: plain JSON values, for the record."""
    input_size: tuple[int, int] | None = None
    """(height, width) that images are resized to before the network sees them; None for images as they are."""
    depth: Depth = EIGHT_BITS
    """How images of 16 bits become images of 8."""
    tiling: TilingConfig = field(default_factory=TilingConfig)
    """Which images go through the network in tiles, and in which."""

    @property
    def members(self) -> int:
        """Networks in this checkpoint."""
        return len(next(iter(self.tensors.values())))

    def member_state(self, member: int) -> dict[str, "Tensor"]:
        """The state dict of one network."""
        return {name: tensor[member] for name, tensor in self.tensors.items()}


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to a path or URL; nothing appears there before it is complete and on disk.

    Tensors may lie on any device and in any memory format. Their names must be the network's own: what DDP and
    torch.compile put in front of them is a mistake of the caller.

    Raises:
        InputError: a weight is NaN or infinite: no image would have an answer.
    """
    import safetensors.torch

    wrapped = [name for name in checkpoint.tensors if name.startswith("module.") or "_orig_mod." in name]
    assert not wrapped, f"unwrap the model before saving: {wrapped[0]}"
    fault = _contradiction(checkpoint)
    assert fault is None, fault
    # Copies: safetensors takes neither channels-last tensors nor two names for one memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    broken = _not_finite(tensors)
    if broken is not None:
        raise InputError(f"{told_url(path)}: not written: numbers in its {broken} are not finite; train it again")
    metadata = {METADATA_KEY: make_metadata(content_of(checkpoint, digest_tensors(tensors)))}
    data = safetensors.torch.save(tensors, metadata=metadata)
    storage.write_bytes(path, data)


def content_of(checkpoint: Checkpoint, tensors_sha256: str) -> dict[str, Any]:
    """What a file says of a checkpoint beside its weights: plain JSON values."""
    content = {
        "network": network_to_dict(checkpoint.network),
        "class_names": list(checkpoint.class_names),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "decision": _plain_decision(checkpoint),
        "folds": checkpoint.folds,
        "provenance": checkpoint.provenance,
        "input_size": checkpoint.input_size and list(checkpoint.input_size),
        "depth": dataclasses.asdict(checkpoint.depth),
        "tiling": dataclasses.asdict(checkpoint.tiling),
        "members": checkpoint.members,
        "tensors_sha256": tensors_sha256,
    }
    return cast(dict[str, Any], json.loads(json.dumps(content)))  # as it will be read


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint from a path or URL and check every byte of it; tensors come on the CPU.

    Raises:
        InputError: no such file, not a checkpoint, damaged, truncated, of a newer version, or with numbers that are
            not finite.
    """
    return load_with_header(path)[0]


def load_with_header(path: str | os.PathLike[str]) -> tuple[Checkpoint, dict[str, Any]]:
    """As `load_checkpoint`, with what `read_header` gives of the same bytes."""
    return _parse(read_file(path), told_url(path))


def parse_checkpoint(data: bytes, path: str) -> Checkpoint:
    """As `load_checkpoint`, of a file's bytes; `path` is for errors."""
    return _parse(data, path)[0]


def _parse(data: bytes, path: str) -> tuple[Checkpoint, dict[str, Any]]:
    import safetensors
    import safetensors.torch

    head = data[:8]
    header = parse_header(path, head, data[8 : 8 + header_length(head)], len(data))
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:  # also of types unknown to torch
        raise InputError(f"{path}: damaged ({error}); copy or make it again") from error
    if digest_tensors(tensors) != header["tensors_sha256"]:
        raise InputError(f"{path}: damaged (its weights do not match their checksum); copy or make it again")
    checkpoint = Checkpoint(
        network=from_dict(NetworkConfig, header["network"]),
        class_names=tuple(header["class_names"]),
        mean=tuple(header["mean"]),
        std=tuple(header["std"]),
        decision=header["decision"] and Decision.from_dict(header["decision"]),
        folds=header["folds"],
        provenance=header["provenance"],
        input_size=header["input_size"] and tuple(header["input_size"]),
        depth=from_dict(Depth, header["depth"]),
        tiling=from_dict(TilingConfig, header["tiling"]),
        tensors=tensors,
    )
    fault = _contradiction(checkpoint)
    if fault is not None:
        raise InputError(f"{path}: not a checkpoint that this program can use ({fault})")
    broken = _not_finite(tensors)
    if broken is not None:
        raise InputError(
            f"{path}: numbers in its {broken} are not finite, and so is no answer of such a network; take another "
            "checkpoint of its training, or train it again"
        )
    return checkpoint, header


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its weights; needs no torch.

    Returns:
        The content as stored (`network`, `class_names`, ..., all plain JSON values), `version`, and `tensors`: name to
        {"dtype", "shape"}.

    Raises:
        InputError: no such file, not a checkpoint, truncated, of a newer version, or with a damaged header.
    """
    size = storage.file_size(path)
    if size is None:
        raise InputError(f"{told_url(path)}: no such file")
    head = read_file(path, 0, 8)
    return parse_header(told_url(path), head, read_file(path, 8, min(header_length(head), MAX_HEADER_BYTES)), size)


def stack_members(checkpoints: Sequence[Checkpoint], names: Sequence[str] | None = None) -> Checkpoint:
    """One ensemble of all members of `checkpoints`, which must hold the same network for the same classes.

    The decision is kept where all agree on it, else dropped: thresholds found for single networks are not those of
    their average. A fold counts as trained on when any member was trained on it, and as test when it was that for all;
    of members from different shards, whose folds are others under the same numbers, each tells its own alone.

    Args:
        checkpoints: at least one.
        names: what to call them in errors and in the provenance; `member 1`, ... when None.

    Raises:
        InputError: they differ in network, classes, normalisation, input size, depth or tiling.
    """
    import torch

    assert checkpoints, "nothing to stack"
    names = names or [f"member {i}" for i in range(1, len(checkpoints) + 1)]
    first = checkpoints[0]
    for checkpoint, name in zip(checkpoints, names, strict=True):
        for attribute in ("class_names", "network", "mean", "std", "input_size", "depth", "tiling"):
            mine, theirs = getattr(checkpoint, attribute), getattr(first, attribute)
            if mine != theirs:
                what = attribute.replace("_", " ")
                raise InputError(
                    f"{name}: differs from {names[0]} in {what} ({_told_apart(mine, theirs)}); "
                    "an ensemble takes checkpoints of one network for one task"
                )
    train, tuning, test = ([set(c.folds.get(role, ())) for c in checkpoints] for role in ("train", "tuning", "test"))
    seen, tuned = set().union(*train), set().union(*tuning)
    digests = {c.provenance.get("data_digest") for c in checkpoints}
    data = {key: first.provenance[key] for key in _DATA if key in first.provenance}
    folds = {
        "train": sorted(seen),
        "tuning": sorted(tuned - seen),
        "test": sorted(set.intersection(*test) - tuned - seen),
    }
    if len(digests) > 1 or not all(c.folds for c in checkpoints):  # or one that is itself of different shards
        data, folds = {}, {}
    return dataclasses.replace(
        first,
        tensors={name: torch.cat([c.tensors[name] for c in checkpoints]) for name in first.tensors},
        decision=first.decision if all(c.decision == first.decision for c in checkpoints) else None,
        folds=folds,
        provenance={
            **data,
            "members": [
                {"name": name, "folds": c.folds, "provenance": {**c.provenance, "decision": _plain_decision(c)}}
                for c, name in zip(checkpoints, names, strict=True)
            ],
        },
    )


def unstack_members(checkpoint: Checkpoint) -> list[tuple[str, Checkpoint]]:
    """Each member by its name, as a checkpoint of its own with the decision, folds and provenance that it came with.

    What the file does not say, as one of before it was kept, is None or empty.
    """
    entries = list(member_entries(checkpoint.provenance))
    if len(entries) != checkpoint.members:
        entries = [{"name": f"member {i}", "folds": {}, "provenance": {}} for i in range(1, checkpoint.members + 1)]
    members = []
    for i, entry in enumerate(entries):
        decision = entry["provenance"].get("decision")
        member = dataclasses.replace(
            checkpoint,
            tensors={name: tensor[i : i + 1] for name, tensor in checkpoint.tensors.items()},
            decision=None if decision is None else Decision.from_dict(decision),
            folds=entry["folds"],
            provenance=entry["provenance"],
        )
        members.append((entry["name"], member))
    return members


def default_views(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The flips that are averaged unless others are asked for: those of the decision; of an ensemble that has none,
    those that the decisions of all members have in common, in the order of the first."""
    if checkpoint.decision is not None:
        return checkpoint.decision.tta
    decisions = [member.decision for _, member in unstack_members(checkpoint)]
    first, *others = (() if decision is None else decision.tta for decision in decisions)
    return tuple(view for view in first if all(view in views for views in others))


def member_entries(provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a provenance says of each network, those of ensembles within an ensemble one by one."""
    for entry in provenance.get("members", ()):
        within = list(member_entries(entry["provenance"]))
        yield from within or [entry]


def _plain_decision(checkpoint: Checkpoint) -> dict[str, Any] | None:
    return None if checkpoint.decision is None else checkpoint.decision.to_dict()


def _told_apart(mine: Any, theirs: Any) -> str:
    """What one value is and not the other; of networks that have the same name, the settings in which they differ."""
    if not isinstance(mine, NetworkConfig):
        return f"{mine}, not {theirs}"
    names = [f"{network.architecture} on {network.encoder}" for network in (mine, theirs)]
    if names[0] != names[1]:
        return f"{names[0]}, not {names[1]}"
    pairs = {each.name: (getattr(mine, each.name), getattr(theirs, each.name)) for each in dataclasses.fields(mine)}
    return "; ".join(f"{name.replace('_', ' ')} {a}, not {b}" for name, (a, b) in pairs.items() if a != b)


def _contradiction(checkpoint: Checkpoint) -> str | None:
    """What in `checkpoint` does not go together; None when a reader may rely on it."""
    network = checkpoint.network
    if len(checkpoint.class_names) != network.num_classes:
        return f"{len(checkpoint.class_names)} class names for {network.num_classes} classes"
    if not len(checkpoint.mean) == len(checkpoint.std) == network.in_channels:
        return f"normalisation of {len(checkpoint.mean)} channels for {network.in_channels}"
    if not all(map(math.isfinite, (*checkpoint.mean, *checkpoint.std))):
        return "a mean or standard deviation that is not finite"
    if min(checkpoint.std) <= 0:
        return "a standard deviation that is not positive"
    members = {tensor.shape[:1] for tensor in checkpoint.tensors.values()}
    if len(members) != 1 or members <= {(), (0,)}:
        return f"tensors for {sorted(members)} members"
    return None


def _not_finite(tensors: Mapping[str, "Tensor"]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity; None where none does."""
    from steel.model.passes import intra_op_threads

    with intra_op_threads(1):  # beside other work on the machine, threads wait for each other at each tensor
        return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)


def _is_finite(tensor: "Tensor") -> bool:
    import torch

    # Adding numbers up takes a thirtieth of the time of a look at each. A sum may overflow, though, where none of them
    # did.
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def read_file(path: str | os.PathLike[str], offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of a checkpoint at a path or URL; `length` of them from `offset` on, where one is given.

    Raises:
        InputError: no such file, or a folder.
    """
    try:
        return storage.read_bytes(path) if length is None else storage.read_range(path, offset, length)
    except FileNotFoundError:
        raise InputError(f"{told_url(path)}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{told_url(path)}: a folder, not a checkpoint file") from None


def digest_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """Over names, types, shapes and values, in the order of names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

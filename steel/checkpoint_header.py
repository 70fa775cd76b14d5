"""The header of a checkpoint: parsed and checked down to every value that a reader relies on, without torch."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from steel.config import NetworkConfig, TilingConfig
from steel.decision import Decision, check_covers
from steel.errors import InputError
from steel.extensions import say_missing
from steel.images.pixel_format import EIGHT_BITS, MAX_RESIZED_SIDE, Depth
from steel.plain import from_dict, from_plain, parse_json, to_dict
from steel.shards.split_roles import LearnedFrom

FORMAT_VERSION = 1
METADATA_KEY = "steel"
MAX_HEADER_BYTES = 100_000_000  # as safetensors itself has it


@dataclass(frozen=True)
class _Entry:
    """A tensor in the header, as safetensors has it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class _Header:
    """What stands under our key in the header."""

    version: int
    sha256: str
    content: dict[str, Any]


@dataclass(frozen=True)
class _Choice:
    """On which folds of which shards weights or a decision were once chosen."""

    digest: str | None
    folds: list[int]


@dataclass(frozen=True)
class _Member:
    """What an ensemble's provenance says of one of its members."""

    name: str
    folds: dict[str, list[int]]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Expected:
    """What a provenance says of the images that the decision was tuned on; see `steel.metrics.expected`."""

    images: int
    defective_share: float
    mean_probabilities: tuple[float, ...]


_NO_FURTHER_HEADS: dict[str, Any] = {"heads": []}
"""What a network that says nothing of further heads has."""


def network_to_dict(network: NetworkConfig) -> dict[str, Any]:
    """A network as the content holds it: without a word of further heads where it has none."""
    values = to_dict(network)
    return {name: value for name, value in values.items() if (name, value) not in _NO_FURTHER_HEADS.items()}


_CONTENT = {
    "network": NetworkConfig,
    "class_names": tuple[str, ...],
    "mean": tuple[float, ...],
    "std": tuple[float, ...],
    "decision": Decision | None,
    "folds": dict[str, list[int]],
    "provenance": dict[str, Any],
    "input_size": tuple[int, int] | None,
    "depth": Depth,
    "tiling": TilingConfig,
    "members": int,
    "tensors_sha256": str,
}
"""What the content must hold at least."""


def header_length(head: bytes) -> int:
    """Bytes of the header that follows the first 8, which are `head`; 0 when there are not so many."""
    return int.from_bytes(head, "little") if len(head) == 8 else 0


def parse_header(path: str, head: bytes, rest: bytes, size: int) -> dict[str, Any]:
    """The content of a header, checked against its checksum and the file's size.

    Args:
        path: for errors.
        head: the first 8 bytes.
        rest: what follows, the header at least.
        size: of the whole file.
    """
    if path.lower().endswith(".onnx"):
        raise InputError(f"{path}: an exported graph, by its name; give the model.safetensors that it was made of")
    length = header_length(head)
    if length == 0 or length > min(len(rest), MAX_HEADER_BYTES):
        raise InputError(f"{path}: not a checkpoint of this program, or its beginning is damaged or cut off")
    try:
        table = from_plain(dict[str, Any], parse_json(rest[:length]), "header")
        metadata = from_plain(dict[str, str], table.pop("__metadata__", {}), "metadata").get(METADATA_KEY)
        entries = from_plain(dict[str, _Entry], table, "tensors")
    except InputError as error:
        raise InputError(f"{path}: not a checkpoint of this program, or its header is damaged ({error})") from error
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if metadata is None:
        raise InputError(
            f"{path}: a safetensors file of another program; give a model.safetensors that train.fit wrote"
        )
    if size != 8 + length + end:
        raise InputError(f"{path}: truncated or damaged ({size} bytes instead of {8 + length + end}); copy it again")
    version, content = parse_metadata(path, metadata)
    shapes = {name: {"dtype": entry.dtype, "shape": list(entry.shape)} for name, entry in entries.items()}
    return {"version": version, **content, "tensors": shapes}


def parse_metadata(path: str, metadata: str) -> tuple[int, dict[str, Any]]:
    """The version and the content of what stands under our key in a file's metadata.

    Raises:
        InputError: damaged, of a newer version, or with values that no reader can use; begins with `path`.
    """
    try:
        header = from_dict(_Header, parse_json(metadata))
    except InputError as error:
        raise InputError(f"{path}: its header is damaged ({error}); copy or make it again") from error
    version, content = header.version, header.content
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version}, written by a newer program; this one reads up to {FORMAT_VERSION}: "
            "upgrade it"
        )
    if digest_content(content) != header.sha256:
        raise InputError(f"{path}: its header does not match its checksum; copy or make it again")
    # Files from before there was a choice name none, or no window.
    content = {"depth": {}, "tiling": to_dict(TilingConfig()), **content}
    if isinstance(content["depth"], dict):
        content["depth"] = to_dict(EIGHT_BITS) | content["depth"]
    if isinstance(content.get("network"), dict):
        content["network"] = _NO_FURTHER_HEADS | content["network"]
    try:
        _check_content(content)
    except InputError as error:
        missing = say_missing(content.get("provenance"))
        told = f"; {missing}" if missing else ""
        raise InputError(f"{path}: not a checkpoint that this program can use ({error}{told})") from error
    return version, content


def make_metadata(content: dict[str, Any]) -> str:
    """What stands under our key in the metadata of a file with such a content."""
    header = {"version": FORMAT_VERSION, "sha256": digest_content(content), "content": content}
    return json.dumps(header, separators=(",", ":"))


def _check_content(content: dict[str, Any]) -> None:
    """Raises InputError unless the content is what readers of a header rely on."""
    missing = [name for name in _CONTENT if name not in content]
    if missing:
        raise InputError(f"{missing[0]} is missing")
    found = {name: from_plain(kind, content[name], name) for name, kind in _CONTENT.items()}
    num_classes, decision, size = found["network"].num_classes, found["decision"], found["input_size"]
    if len(found["class_names"]) != num_classes:
        raise InputError(f"{len(found['class_names'])} class names for {num_classes} classes")
    if decision is not None:
        check_covers(decision, num_classes)
    if size is not None and not all(1 <= side <= MAX_RESIZED_SIDE for side in size):
        raise InputError(f"images of {size[0]}x{size[1]} pixels")
    _check_provenance(found["provenance"])
    expected = from_plain(_Expected | None, found["provenance"].get("validation"), "provenance.validation")
    if expected is not None and len(expected.mean_probabilities) != 1 + num_classes:
        raise InputError(f"{len(expected.mean_probabilities)} mean probabilities for {num_classes} classes")


def _check_provenance(provenance: dict[str, Any]) -> None:
    """Raises InputError unless the parts of a provenance that are acted on can be; the others are for the record."""
    from_plain(dict[str, Decision], provenance.get("gates", {}), "provenance.gates")
    from_plain(Decision | None, provenance.get("decision"), "provenance.decision")
    from_plain(dict[str, Any] | None, provenance.get("encoder_weights"), "provenance.encoder_weights")
    for known_by in ("data_digests", "tuning_digests"):
        from_plain(list[str], provenance.get(known_by, []), f"provenance.{known_by}")
    from_plain(list[_Choice], provenance.get("tuned_before", []), "provenance.tuned_before")
    from_plain(list[LearnedFrom], provenance.get("learned_from", []), "provenance.learned_from")
    for member in from_plain(list[_Member], provenance.get("members", []), "provenance.members"):
        _check_provenance(member.provenance)


def digest_content(content: Any) -> str:
    """The sha256 that a header gives of its content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

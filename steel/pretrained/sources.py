"""Where published weights are: a hub and its cache on this machine, a file or folder, a URL."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from steel import storage
from steel.errors import InputError, list_some
from steel.model.libraries import smp, timm
from steel.pretrained.downloads import fetch_from_hub, fetch_stored, fetch_url, within_silence
from steel.pretrained.licences import smp_licence

_WAYS_OUT = (
    "three ways out: the hub's cache, filled elsewhere and copied (--model.weights hub with HF_HOME and "
    "HF_HUB_OFFLINE=1), a mirror of the hub (HF_ENDPOINT), or a file (--model.weights PATH; none trains from scratch): "
    "docs/pretrained.md"
)
_ABSENT = "no such file there", "check the address"
_CLOSED = "not for everybody", "fetch it with your login"
_ANSWERS = {401: _CLOSED, 403: _CLOSED, 404: _ABSENT, 410: _ABSENT}
"""What a server means, and what to do about it."""
FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Of weights in a folder or in a repository of the hub, in the order in which they are looked for."""
SETTINGS_NAME = "config.json"


@dataclass(frozen=True)
class Source:
    """A file of weights, and what stands beside it."""

    name: str
    """For people: `timm/resnet34.a1_in1k`, a path or a URL."""
    data: bytes = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`mean`, `std`, `license` and the like, where they are known."""


@dataclass(frozen=True)
class Published:
    """Where the weights of an encoder's name are published."""

    repository: str
    """Of the hub; nothing where there is a URL alone."""
    revision: str | None
    files: tuple[str, ...]
    url: str
    settings: Mapping[str, Any]


def read_source(weights: str, encoder: str) -> Source:
    """What `--model.weights` names for this encoder.

    Raises:
        InputError: not there, or not to be had from here; says what else to try.
    """
    if weights == "hub":
        published = find_published(encoder)
        return _read_hub(published, encoder) if published.repository else _read_url(published.url, published.settings)
    if weights.startswith(("http://", "https://")):
        return _read_url(weights, {})
    return _read_file(weights)


def find_published(encoder: str) -> Published:
    """Where smp or timm (`tu-...`) say that an encoder's weights are.

    Raises:
        InputError: there are none under that name.
    """
    if not encoder.startswith("tu-"):
        choices = smp.encoders.encoders[encoder]["pretrained_settings"]
        tag = "imagenet" if "imagenet" in choices else next(iter(choices))
        settings = {"license": smp_licence(encoder, tag)}
        return Published(choices[tag]["repo_id"], choices[tag]["revision"], FILE_NAMES[:1], "", settings)
    config = timm_settings(encoder)
    repository, _, revision = (config.get("hf_hub_id") or "").partition("@")
    if not repository and not config.get("url"):
        tagged = [f"tu-{name}" for name in timm.list_pretrained(f"{encoder[3:].partition('.')[0]}*")]
        other = f"some have other names: {list_some(tagged)}" if tagged else "train from scratch (none), or give a file"
        raise InputError(f"model.weights hub: nobody has published weights for encoder {encoder!r}; {other}")
    name = config.get("hf_hub_filename")
    return Published(repository, revision or None, (name,) if name else FILE_NAMES, config.get("url") or "", config)


def timm_settings(encoder: str) -> dict[str, Any]:
    """What timm says of the weights of a `tu-...` encoder (its default ones without a tag); nothing of others."""
    if not encoder.startswith("tu-"):
        return {}
    try:
        config = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"), allow_unregistered=True)
    except RuntimeError:  # a tag that there is not
        return {}
    return {} if config is None else dict(config.to_dict())


def _read_file(weights: str) -> Source:
    """A file or folder on this machine or in a store."""
    is_remote = storage.is_remote(weights)
    try:
        if is_remote:
            storage.load_driver(weights)
            path = within_silence(lambda: _find_file(weights))
            data = fetch_stored(path)
        else:
            path = _find_file(weights)
            data = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"model.weights {weights}: no such file (or hub, none, a URL)") from None
    except InputError:
        raise
    except Exception as error:  # each store fails in its own way
        ways_out = f"; {_WAYS_OUT}" if is_remote else ""
        raise InputError(f"model.weights {weights}: cannot be read ({_reason(error)}){ways_out}") from error
    beside = storage.join(path.rpartition("/")[0] or ".", SETTINGS_NAME)
    return Source(weights, data, {} if is_remote else _read_settings(Path(beside)))


def _find_file(weights: str) -> str:
    """The file that is named, or the one of weights in the folder that is."""
    if not storage.is_folder(weights):
        return weights
    name = next((n for n in FILE_NAMES if storage.exists(storage.join(weights, n))), None)
    if name is None:
        raise InputError(f"model.weights {weights}: a folder without {' or '.join(FILE_NAMES)}; name the file")
    return storage.join(weights, name)


def _read_url(url: str, settings: Mapping[str, Any]) -> Source:
    try:
        return Source(url, fetch_url(url), settings)
    except HTTPError as error:  # the server is reached: ways around the network lead nowhere
        raise InputError(f"model.weights {url}: {_say_answer(error)}") from error
    except Exception as error:  # every transport fails in its own way, and each means the same to the user
        raise InputError(f"model.weights {url}: cannot be fetched ({_reason(error)}); {_WAYS_OUT}") from error


def _read_hub(published: Published, encoder: str) -> Source:
    revision = published.revision
    try:
        path = fetch_from_hub(published.repository, published.files, revision)
    except Exception as error:
        raise InputError(
            f"model.weights hub: no weights for encoder {encoder!r} from {published.repository} "
            f"({published.files[0]}): {_reason(error)}; {_WAYS_OUT}"
        ) from error
    settings = dict(published.settings)
    if not encoder.startswith("tu-"):  # timm has them in itself
        settings |= _fetch_settings(published.repository, revision)
    name = f"{published.repository}@{revision}" if revision else published.repository
    return Source(name, path.read_bytes(), settings)


def _fetch_settings(repository: str, revision: str | None) -> dict[str, Any]:
    """Nothing where they are not to be had: a cache may have been filled with the weights alone."""
    try:
        return _read_settings(fetch_from_hub(repository, (SETTINGS_NAME,), revision))
    except Exception:  # as above
        return {}


def _read_settings(path: Path) -> dict[str, Any]:
    """Of a file as timm and smp write it beside weights; nothing where there is none, or another program's."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    values = values.get("pretrained_cfg", values) if isinstance(values, dict) else {}
    return {name: values[name] for name in ("mean", "std", "license") if values.get(name)}


def _say_answer(error: HTTPError) -> str:
    """What is wrong where a server has answered and sends no file, and what to do."""
    wrong, remedy = _ANSWERS.get(error.code, ("cannot be fetched", "try again later"))
    said = f"{error.code} {error.reason}".strip()
    return f"{wrong} (the server answers {said}); {remedy}, or give a file, hub or none: docs/pretrained.md"


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason  # which urllib wraps into words of its own
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"

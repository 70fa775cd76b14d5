"""Where published weights are: a hub and its cache on this machine, a file or folder, a URL."""

import http.client
import json
import logging
import ssl
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from huggingface_hub.errors import HfHubHTTPError

from steel import storage
from steel.errors import InputError, list_some, told_url
from steel.model.libraries import smp, timm
from steel.pretrained.downloads import fetch_from_hub, fetch_stored, fetch_url
from steel.pretrained.licences import smp_licence
from steel.pretrained.stem import Normalisation

logger = logging.getLogger("train.fit")

_WAYS_OUT = (
    "three ways out: the hub's cache, filled elsewhere and copied (--model.weights hub with HF_HOME and "
    "HF_HUB_OFFLINE=1), a mirror of the hub (HF_ENDPOINT), or a file (--model.weights PATH; none trains from scratch): "
    "docs/pretrained.md"
)
_UNTRUSTED = (
    "its certificate is not trusted here: behind a company's proxy name the file of the company's CA as SSL_CERT_FILE "
    "(for s3:// as AWS_CA_BUNDLE); else "
)
_ABSENT, _CLOSED = (404, 410), (401, 403)
"""What a server answers of something that is not there, or not for everybody."""
FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Of weights in a folder or in a repository of the hub, in the order in which they are looked for."""
SETTINGS_NAME = "config.json"


@dataclass(frozen=True)
class Settings:
    """What is known of weights beside their file: as timm has it, or a `config.json`."""

    place: str = ""
    """For people."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """`mean`, `std`, `license` and the like, unchecked."""

    @property
    def licence(self) -> str | None:
        """Its key, or whatever text there is."""
        licence = self.values.get("license")
        return licence if isinstance(licence, str) else None

    def inputs(self) -> Normalisation | None:
        """What the weights expect of their inputs; None where they do not say.

        Raises:
            InputError: they say what cannot be.
        """
        mean, std = (self.values.get(name) for name in ("mean", "std"))
        if mean is None or std is None:
            return None
        if not (_is_row(mean) and _is_row(std) and len(mean) == len(std) and min(std) > 0):
            raise InputError(
                f"model.weights: {self.place} has mean {mean!r:.60} and std {std!r:.60}, and not a list of 1 or 3 "
                "numbers in 0..1 each, std above 0; mend it, or give --model.mean and --model.std"
            )
        return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def _is_row(values: Any) -> bool:
    """Whether `values` are numbers in 0..1, one for each of 1 or 3 channels."""
    return (
        isinstance(values, list | tuple)
        and len(values) in (1, 3)
        and all(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 for value in values)
    )


@dataclass(frozen=True)
class Source:
    """A file of weights, and what stands beside it."""

    name: str
    """For people: `timm/resnet34.a1_in1k`, a path, or a URL without its secrets."""
    data: bytes = field(repr=False)
    read_settings: Callable[[], Settings] = field(default=Settings, repr=False)

    @cached_property
    def settings(self) -> Settings:
        """Looked up when first asked for: a checkpoint of this program needs none."""
        return self.read_settings()


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
        if published.repository:
            return _read_hub(published, encoder)
        return _read_url(published.url, lambda: Settings("timm", published.settings))
    if weights.lower().startswith(("http://", "https://")):
        return _read_url(weights, lambda: _read_beside(_url_beside(weights), fetch_url))
    return _read_stored(weights) if storage.is_remote(weights) else _read_file(weights)


def check_there(weights: str) -> None:
    """See at once that a path of `--model.weights` on this machine leads somewhere; of others nothing is known yet.

    Raises:
        InputError: it does not.
    """
    if weights in ("hub", "none") or storage.is_remote(weights):
        return
    with suppress(OSError):  # a place that cannot be looked at: told with its reason when it is read
        if not storage.exists(weights):
            raise _no_file(weights)


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
    """A file or folder on this machine."""
    try:
        path = _find_file(weights)
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise _no_file(weights) from None
    except InputError:
        raise
    except Exception as error:  # also a name that cannot be one
        raise InputError(f"model.weights {weights}: cannot be read ({_reason(error)})") from error
    return Source(weights, data, lambda: _read_settings(storage.local_path(_beside(path))))


def _read_stored(weights: str) -> Source:
    """A file or folder of a store."""
    storage.load_driver(weights)
    try:
        path, data = fetch_stored(lambda: _find_file(weights))
    except FileNotFoundError:
        raise _no_file(weights) from None
    except InputError:
        raise
    except Exception as error:  # each store fails in its own way
        reason = _reason(error, weights)
        raise InputError(f"model.weights {told_url(weights)}: cannot be read ({reason}); {_ways_out(error)}") from error
    return Source(told_url(weights), data, lambda: _read_beside(_beside(path), _fetch_one))


def _fetch_one(url: str) -> bytes:
    return fetch_stored(lambda: url)[1]


def _no_file(weights: str) -> InputError:
    return InputError(f"model.weights {told_url(weights)}: no such file (or hub, none, a URL)")


def _beside(path: str) -> str:
    """Where the settings of the weights at `path` are, if there are any."""
    return storage.join(path.rpartition("/")[0] or ".", SETTINGS_NAME)


def _url_beside(url: str) -> str:
    """Likewise over HTTP; with the same login and query, which may open the whole folder."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{SETTINGS_NAME}").geturl()


def _find_file(weights: str) -> str:
    """The file that is named, or the one of weights in the folder that is."""
    if not storage.is_folder(weights):
        return weights
    name = next((n for n in FILE_NAMES if storage.exists(storage.join(weights, n))), None)
    if name is None:
        raise InputError(
            f"model.weights {told_url(weights)}: a folder without {' or '.join(FILE_NAMES)}; name the file"
        )
    return storage.join(weights, name)


def _read_url(url: str, read_settings: Callable[[], Settings]) -> Source:
    name = told_url(url)
    try:
        return Source(name, fetch_url(url), read_settings)
    except HTTPError as error:  # the server is reached: ways around the network lead nowhere
        answer = _say_answer(error.code, "check the address", "fetch it with your login")
        raise InputError(f"model.weights {name}: {answer}, or give a file, hub or none: docs/pretrained.md") from error
    except Exception as error:  # every transport fails in its own way, and each means the same to the user
        reason = _reason(error, url)
        raise InputError(f"model.weights {name}: cannot be fetched ({reason}); {_ways_out(error)}") from error


def _read_hub(published: Published, encoder: str) -> Source:
    revision = published.revision
    try:
        path = fetch_from_hub(published.repository, published.files, revision)
    except Exception as error:
        missing = (
            f"model.weights hub: no weights for encoder {encoder!r} from {published.repository} ({published.files[0]})"
        )
        if isinstance(error, HfHubHTTPError):  # as above
            code = error.response.status_code
            answer = _say_answer(code, "check HF_ENDPOINT, if it is set", "log in (HF_TOKEN)")
            raise InputError(f"{missing}: {answer}, or give a file or none: docs/pretrained.md") from error
        raise InputError(f"{missing}: {_reason(error)}; {_ways_out(error)}") from error
    name = f"{published.repository}@{revision}" if revision else published.repository
    if encoder.startswith("tu-"):
        return Source(name, path.read_bytes(), lambda: Settings("timm", published.settings))
    return Source(name, path.read_bytes(), partial(_fetch_settings, published))


def _fetch_settings(published: Published) -> Settings:
    """Those that are known alone where others are not to be had: a cache may have been filled with just the weights."""
    try:
        path = fetch_from_hub(published.repository, (SETTINGS_NAME,), published.revision)
    except Exception:  # as above
        return Settings("smp", published.settings)
    found = _read_settings(path)
    return Settings(f"{SETTINGS_NAME} of {published.repository}", {**published.settings, **found.values})


def _read_settings(path: Path) -> Settings:
    """Nothing where there is no such file."""
    try:
        return _parse_settings(path.read_bytes(), str(path))
    except OSError:
        return Settings()


def _read_beside(url: str, fetch: Callable[[str], bytes]) -> Settings:
    """Of a store or server, which may well have none; that others cannot be had is said, and no error."""
    try:
        return _parse_settings(fetch(url), told_url(url))
    except Exception as error:  # as above
        code = error.code if isinstance(error, HTTPError) else None
        if not isinstance(error, FileNotFoundError) and code not in _ABSENT:
            logger.warning(
                "encoder weights: no settings from %s (%s); --model.mean and --model.std say what the weights expect",
                told_url(url),
                _reason(error, url) if code is None else _say_code(code),
            )
        return Settings()


def _parse_settings(data: bytes, place: str) -> Settings:
    """Of a file as timm and smp write it beside weights; nothing where it is another program's."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return Settings()
    if not isinstance(values, dict):
        return Settings()
    own = values.get("pretrained_cfg")
    values = own if isinstance(own, dict) else values
    known = {name: values.get(name) for name in ("mean", "std", "license")}
    return Settings(place, {name: value for name, value in known.items() if value not in (None, "")})


def _say_answer(code: int, if_absent: str, if_closed: str) -> str:
    """What is wrong where a server has answered and sends no file, and what to do."""
    wrong, remedy = "cannot be fetched", "try again later"
    if code in _ABSENT:
        wrong, remedy = "no such file there", if_absent
    elif code in _CLOSED:
        wrong, remedy = "not for everybody", if_closed
    return f"{wrong} (the server answers {_say_code(code)}); {remedy}"


def _say_code(code: int) -> str:
    return f"{code} {http.client.responses.get(code, '')}".strip()


def _ways_out(error: BaseException) -> str:
    """What to do where nothing is to be had."""
    return _UNTRUSTED + _WAYS_OUT if _is_untrusted(error) else _WAYS_OUT


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether a certificate is behind an error, which each transport wraps in its own way."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _reason(error: BaseException, url: str = "") -> str:
    """The kind of an error and its words; about a `url` with secrets the kind alone, for words may quote them."""
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason  # which urllib wraps into words of its own
    if told_url(url) != url:
        return type(error).__name__
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' ...')}"

"""A file that predicts, of either kind, as what predicts. Torch is imported for a checkpoint alone."""

import os
from collections.abc import Sequence
from typing import Any

from steel import storage
from steel.checkpoint import read_header
from steel.checkpoint_header import digest_content
from steel.errors import told_url
from steel.inference.base_predictor import BasePredictor
from steel.inference.onnx_predictor import OnnxPredictor, read_onnx_header
from steel.startup import uncollected


def is_onnx(source: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is that of an exported graph, by its name."""
    return told_url(source).lower().endswith(".onnx")


def load_predictor(
    source: str | os.PathLike[str],
    *,
    device: str = "auto",
    tta: Sequence[str] | None = None,
    pixels_per_pass: int | None = None,
    precision: str = "auto",
) -> BasePredictor:
    """A predictor of a checkpoint, or of its exported graph where the name ends in `.onnx`.

    Args:
        source: a path or URL.
        device: `auto` takes a GPU if there is one.
        tta: flipped views to average with the plain one; those of the decision when None.
        pixels_per_pass: in images of one padded size; what is fast on the device when None.
        precision: `no`, `bf16`, `fp16`; `auto` takes bf16 where the device is fast at it.

    Raises:
        InputError: not a usable file, or not as asked for.
    """
    if is_onnx(source):
        return OnnxPredictor.from_file(
            source, device=device, tta=tta, pixels_per_pass=pixels_per_pass, precision=precision
        )
    with uncollected():
        from steel.inference.predictor import Predictor

        return Predictor.from_checkpoint(
            source, device=device, tta=tta, pixels_per_pass=pixels_per_pass, precision=precision
        )


def read_any_header(source: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of either kind says of itself; needs no torch."""
    return read_onnx_header(source) if is_onnx(source) else read_header(source)


def digest_source(source: str | os.PathLike[str]) -> str:
    """What tells a file of either kind from all others.

    A checkpoint's header has a checksum of all that follows it, which loading has compared: the weights, of which a
    store would have to send every byte once more, are not read again.
    """
    return storage.digest_file(source) if is_onnx(source) else digest_content(read_header(source))

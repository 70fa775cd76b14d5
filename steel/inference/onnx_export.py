"""A checkpoint as one ONNX file: uint8 images in, quantised probabilities out, at any size.

Normalisation, padding, members, views and rounding are inside the graph, so that the thresholds of the decision, which
goes into the file's metadata, apply to its outputs as they are.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steel import storage
from steel.checkpoint import Checkpoint, content_of, digest_tensors
from steel.checkpoint_header import METADATA_KEY, make_metadata
from steel.errors import InputError
from steel.inference.predictor import Predictor, build_models
from steel.model.network import UnifiedModel, reflect_to_stride, scale_and_shift
from steel.model.tta import average_probs, view_probs
from steel.views import check_tta, flips_of

_OPSET = 18


class OnnxModel(nn.Module):
    """The graph: what `Predictor.probabilities` does, with constants in place of arguments."""

    scale: Tensor
    shift: Tensor

    def __init__(self, models: Sequence[UnifiedModel], checkpoint: Checkpoint, tta: Sequence[str]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.stride = models[0].stride
        self.flips = flips_of(tta)
        scale, shift = scale_and_shift(checkpoint.mean, checkpoint.std, torch.device("cpu"))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, H, W) uint8 -> mask_probs (n, C, H, W) and label_probs (n, 1 + C), uint8."""
        inputs = torch.addcmul(self.shift, images.float(), self.scale)
        padded = reflect_to_stride(inputs, self.stride)
        mask_probs, label_probs = average_probs(
            view_probs(member.forward_padded, padded, axes)  # type: ignore[arg-type]
            for member in self.members
            for axes in self.flips
        )
        height, width = images.shape[-2:]
        return mask_probs[..., :height, :width], label_probs


def export_onnx(checkpoint: Checkpoint, path: str | os.PathLike[str], tta: Sequence[str] | None = None) -> int:
    """Write `checkpoint` as ONNX to a path or URL, see `make_onnx`; returns at how many sizes it was checked."""
    data, num_sizes = make_onnx(checkpoint, tta)
    storage.write_bytes(path, data)
    return num_sizes


def make_onnx(checkpoint: Checkpoint, tta: Sequence[str] | None = None) -> tuple[bytes, int]:
    """`checkpoint` as ONNX, after checking its predictions against `Predictor`'s at other sizes.

    Args:
        checkpoint: one network or an ensemble.
        tta: views to average with the plain one, in the graph; those of the decision when None.

    Returns:
        The file, and at how many sizes the predictions were compared.

    Raises:
        InputError: the packages of the `onnx` extra are missing, or the network cannot be exported for any size.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}: pip install 'steel-defects[onnx]'") from error
    if tta is None:
        tta = () if checkpoint.decision is None else checkpoint.decision.tta
    views = check_tta(tta)
    members = build_models(checkpoint)
    stride = members[0].stride
    model = OnnxModel(members, checkpoint, views).eval()
    name = f"{checkpoint.network.architecture} on {checkpoint.network.encoder}"
    try:
        data = _export(model, checkpoint, (2 * stride + 3, 3 * stride + 5), views)
    except Exception as error:  # each operator that cannot be exported fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} cannot be exported as ONNX ({type(error).__name__}: {reason})") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    predictor = Predictor(members, mean=checkpoint.mean, std=checkpoint.std, tta=views, device="cpu", precision="no")
    sizes = _sizes_to_check(stride)
    for size in sizes:
        _check(session, predictor, size, name)
    return data, len(sizes)


def _export(model: OnnxModel, checkpoint: Checkpoint, size: tuple[int, int], views: Sequence[str]) -> bytes:
    example = torch.zeros(2, checkpoint.network.in_channels, *size, dtype=torch.uint8)
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["images"],
            output_names=["mask_probs", "label_probs"],
            dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.metadata_props.add(key=METADATA_KEY, value=_metadata(checkpoint, views, model.stride))
    return proto.SerializeToString()


def _metadata(checkpoint: Checkpoint, views: Sequence[str], stride: int) -> str:
    """What the checkpoint says of itself, and of the graph: its views and its stride."""
    content = content_of(checkpoint, digest_tensors(checkpoint.tensors))
    tensors = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in checkpoint.tensors.items()
    }
    return make_metadata(content | {"tensors": tensors, "tta": list(views), "stride": stride})


def _sizes_to_check(stride: int) -> list[tuple[int, int]]:
    """Whole strides and others, odd and even, smaller than the stride and larger, none of them the example's."""
    return [
        (stride, 2 * stride),
        (5 * stride, 4 * stride),
        (3 * stride + 1, stride - 1),
        (stride + 2, 4 * stride - 3),
        (stride // 2 + 1, stride // 2),
        (3, 2 * stride + 1),
    ]


def _check(session: Any, predictor: Predictor, size: tuple[int, int], name: str) -> None:
    """Compare one random image; a graph that was specialised to its example's size fails here or before."""
    shape = size if predictor.in_channels == 1 else (*size, predictor.in_channels)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (expected,) = predictor.predict([image])
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    try:
        mask_probs, label_probs = session.run(None, {"images": planes[None]})
    except Exception as error:  # the runtime's own type is not public
        raise InputError(f"{name} cannot be exported as ONNX for any size: its graph fails at {size}") from error
    for found, own in ((mask_probs[0], expected.mask_probs), (label_probs[0], expected.label_probs)):
        # The last bits of a probability differ between runtimes, and with them now and then the rounding.
        if found.shape != own.shape or np.abs(found.astype(int) - own).max() > 1:
            raise InputError(
                f"{name} cannot be exported as ONNX for any size: its graph predicts differently at {size}"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the log and warnings of whoever makes a graph; what counts is checked afterwards."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

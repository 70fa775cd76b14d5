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
from tqdm import tqdm

from steel import storage
from steel.checkpoint import Checkpoint, content_of, default_views, digest_tensors
from steel.checkpoint_header import METADATA_KEY, make_metadata, parse_metadata
from steel.config import TilingConfig
from steel.errors import InputError
from steel.images.pixel_format import EIGHT_BITS
from steel.inference.fixed_padding import fix_padding
from steel.inference.label_head import encode_head
from steel.inference.onnx_predictor import OnnxPredictor
from steel.inference.predictor import Predictor, build_models
from steel.model.heads import ClassificationHead, pool
from steel.model.network import UnifiedModel, reflect_to_stride, scale_and_shift
from steel.model.tta import average_probs, view_parts
from steel.plain import to_dict
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is said of images (n, c, H, W) uint8.

        Returns:
            mask_probs (n, C, H, W) and label_probs (n, 1 + C), uint8. Of each of V views and members the encoder's last
            feature, (n, V, F, h', w'), and the masks' largest logits in squares of one stride, (n, V, C, h'', w''),
            both float32 and in the images' orientation: what labels of an image are told from that is seen in tiles.
        """
        inputs = torch.addcmul(self.shift, images.float(), self.scale)
        padded = reflect_to_stride(inputs, self.stride)
        probs, features, peaks = [], [], []
        for member in self.members:
            for axes in self.flips:
                masks, encoded = view_parts(member.segment, padded, axes)  # type: ignore[arg-type]
                labels = member.classification_head.classify(pool(encoded), masks.amax(dim=(2, 3)))  # type: ignore
                probs.append((torch.sigmoid(masks), torch.sigmoid(labels)))
                features.append(encoded)
                peaks.append(_peaks(masks, self.stride))
        mask_probs, label_probs, _ = average_probs(probs)
        height, width = images.shape[-2:]
        return mask_probs[..., :height, :width], label_probs, torch.stack(features, 1), torch.stack(peaks, 1)


def _peaks(masks: Tensor, stride: int) -> Tensor:
    """The largest of each square; not finite where anything in it is not, which a runtime's maximum passes over."""
    means = nn.functional.avg_pool2d(masks, stride)
    return torch.where(means.isfinite(), nn.functional.max_pool2d(masks, stride), means)


def export_onnx(checkpoint: Checkpoint, path: str | os.PathLike[str], tta: Sequence[str] | None = None) -> int:
    """Write `checkpoint` as ONNX to a path or URL, see `make_onnx`; returns at how many sizes it was checked."""
    data, num_sizes = make_onnx(checkpoint, tta)
    storage.write_bytes(path, data)
    return num_sizes


def make_onnx(checkpoint: Checkpoint, tta: Sequence[str] | None = None) -> tuple[bytes, int]:
    """`checkpoint` as ONNX, after checking its predictions against `Predictor`'s at other sizes.

    Args:
        checkpoint: one network or an ensemble.
        tta: views to average with the plain one, in the graph; those of `default_views` when None.

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
    views = check_tta(default_views(checkpoint) if tta is None else tta)
    members = build_models(checkpoint)
    stride = members[0].stride
    model = OnnxModel([fix_padding(member) for member in members], checkpoint, views).eval()
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
    for size in tqdm(sizes, desc="checking the graph", unit="size", disable=None, leave=False):
        _check(session, predictor, size, name)
    _check_in_tiles(session, predictor, (5 * stride + 1, 7 * stride - 2), name)
    return data, len(sizes)


def _export(model: OnnxModel, checkpoint: Checkpoint, size: tuple[int, int], views: Sequence[str]) -> bytes:
    example = torch.zeros(2, checkpoint.network.in_channels, *size, dtype=torch.uint8)
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["images"],
            output_names=["mask_probs", "label_probs", "features", "mask_peaks"],
            dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.metadata_props.add(key=METADATA_KEY, value=_metadata(checkpoint, views, model))
    return proto.SerializeToString()


def _metadata(checkpoint: Checkpoint, views: Sequence[str], model: OnnxModel) -> str:
    """What the checkpoint says of itself, and of the graph: its views, its stride and its classification heads."""
    content = content_of(checkpoint, digest_tensors(checkpoint.tensors))
    tensors = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in checkpoint.tensors.items()
    }
    heads = [_encode_head(member.classification_head) for member in model.members]  # type: ignore[arg-type]
    own = {"tta": list(views), "stride": model.stride, "label_heads": heads}
    return make_metadata(content | {"tensors": tensors} | own)


def _encode_head(head: ClassificationHead) -> str:
    return encode_head(*(each.detach().numpy() for each in (head.linear.weight, head.linear.bias, head.reliance)))


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
    image = _random_image(size, predictor.in_channels)
    (expected,) = predictor.predict([image])
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    try:
        mask_probs, label_probs = session.run(["mask_probs", "label_probs"], {"images": planes[None]})
    except Exception as error:  # the runtime's own type is not public
        raise InputError(f"{name} cannot be exported as ONNX for any size: its graph fails at {size}") from error
    if not (_agree(mask_probs[0], expected.mask_probs) and _agree(label_probs[0], expected.label_probs)):
        raise InputError(f"{name} cannot be exported as ONNX for any size: its graph predicts differently at {size}")


def _check_in_tiles(session: Any, predictor: Predictor, size: tuple[int, int], name: str) -> None:
    """Compare what the graph and the networks say of one random image in small tiles, and of its labels above all."""
    image, stride = _random_image(size, predictor.in_channels), predictor.stride
    tiling = TilingConfig(budget=1, tile=4 * stride, overlap=stride)
    in_tiles = Predictor(
        predictor.models,
        mean=predictor.mean,
        std=predictor.std,
        tta=predictor.tta,
        tiling=tiling,
        device="cpu",
        precision="no",
    )
    content = parse_metadata(name, session.get_modelmeta().custom_metadata_map[METADATA_KEY])[1]
    as_they_come = {"input_size": None, "depth": to_dict(EIGHT_BITS), "tiling": to_dict(tiling)}
    (found,) = OnnxPredictor(session, content | as_they_come, device="cpu").predict([image])
    (expected,) = in_tiles.predict([image])
    if not (_agree(found.mask_probs, expected.mask_probs) and _agree(found.label_probs, expected.label_probs)):
        raise InputError(f"{name} cannot be exported as ONNX: its graph predicts differently in tiles")


def _random_image(size: tuple[int, int], in_channels: int) -> np.ndarray:
    shape = size if in_channels == 1 else (*size, in_channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """Within a rounding: the last bits of a probability differ between runtimes, and with them now and then that."""
    return found.shape == expected.shape and int(np.abs(found.astype(int) - expected).max()) <= 1


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

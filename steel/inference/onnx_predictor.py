"""An exported graph, ready to predict: images in, predictions out, with onnxruntime and without torch.

Normalisation, padding, members, views and rounding are inside the graph (`steel.inference.onnx_export`); resizing,
grouping, the decision and all that is written are those of every predictor.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from steel import storage
from steel.checkpoint_header import METADATA_KEY, digest_content, parse_metadata
from steel.config import TilingConfig
from steel.decision import Decision, default_decision
from steel.errors import InputError, out_of_memory_as, told_url
from steel.images.pixel_format import Depth
from steel.inference.base_predictor import BasePredictor
from steel.inference.batching import Cleared, ImageProbs
from steel.inference.int8_report import Int8Report
from steel.inference.label_head import LabelPool, decode_head
from steel.inference.tiles import Blender, is_tiled, make_tiles
from steel.machine import usable_cores
from steel.plain import from_dict, from_plain
from steel.views import flips_of

PIXELS_PER_PASS = 1 << 16
"""As for torch on a CPU: larger batches are not faster there, see `steel.model.passes`."""
_OF_A_BATCH = ["mask_probs", "label_probs", "features", "mask_peaks"]
_OF_A_TILE = ["mask_probs", "features", "mask_peaks"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxPredictor(BasePredictor):
    """A file of `steel export`, ready to predict."""

    def __init__(
        self, session: Any, header: dict[str, Any], *, device: str, pixels_per_pass: int | None = None
    ) -> None:
        """Predict with a session.

        Args:
            session: of onnxruntime.
            header: as `read_onnx_header` gives it.
            device: where it runs.
            pixels_per_pass: as many images of one padded size share a pass as have no more pixels than that, but at
                least one; what is fast when None.
        """
        super().__init__(pixels_per_pass, PIXELS_PER_PASS)
        self._session = session
        self.header = header
        self.class_names = tuple(header["class_names"])
        self.is_tuned = header["decision"] is not None
        stored = header["decision"]
        self.decision = Decision.from_dict(stored) if stored is not None else default_decision(len(self.class_names))
        self.tta = tuple(header["tta"])
        self.in_channels = int(header["network"]["in_channels"])
        self.stride = int(header["stride"])
        size = header["input_size"]
        self.input_size = None if size is None else (int(size[0]), int(size[1]))
        self.depth = from_dict(Depth, header["depth"])
        self.tiling = from_dict(TilingConfig, header["tiling"])
        heads = [decode_head(text, len(self.class_names)) for text in header["label_heads"]]
        self._heads = [head for head in heads for _ in flips_of(self.tta)]
        self.device = device
        self.precision = "int8" if "int8" in header else "no"

    @classmethod
    def from_file(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str = "auto",
        tta: Sequence[str] | None = None,
        pixels_per_pass: int | None = None,
        precision: str = "auto",
    ) -> "OnnxPredictor":
        """A predictor of the exported graph at a path or URL.

        Args:
            source: a file of `steel export`.
            device: `auto` takes a GPU if the installed onnxruntime can use one; `cpu`, `cuda`.
            tta: must be the views in the graph, if given.
            pixels_per_pass: as in the constructor.
            precision: `auto`, or what the graph computes in: `no` for float32, `int8`.

        Raises:
            InputError: not a usable graph, or one that is not as asked for.
        """
        data = _read(source)
        session, device = _open(data, source, device)
        header = _header_of(session, source)
        views = tuple(header["tta"])
        if tta is not None and tuple(tta) != views:
            raise InputError(
                f"{told_url(source)}: the views averaged are in the graph ({', '.join(views) or 'none'}); "
                "export it again for others, or leave out --tta"
            )
        found = cls(session, header, device=device, pixels_per_pass=pixels_per_pass)
        found.file_digest = hashlib.sha256(data).hexdigest()
        if precision not in ("auto", found.precision):
            made_in = "float32" if found.precision == "no" else found.precision
            raise InputError(f"{told_url(source)}: the graph computes in {made_in}; leave out --precision {precision}")
        return found

    def model_digest(self) -> str:
        """Over the header, which holds the checksum of the weights that the graph was made of."""
        return digest_content(self.header)

    def _stream(self, batches: Iterable[np.ndarray], cleared: Cleared | None) -> Iterator[ImageProbs]:
        for batch in batches:
            count, _, height, width = batch.shape
            if is_tiled(height, width, self.tiling, self.stride):
                yield self._in_tiles(batch)
                continue
            with out_of_memory_as(
                f"in a pass of {count} images of {height}x{width}; fewer --pixels-per-pass need less"
            ):
                mask_probs, label_probs, *told_from = self._session.run(_OF_A_BATCH, {"images": batch})
            yield ImageProbs(mask_probs, label_probs, _is_finite(*told_from))

    def _in_tiles(self, batch: np.ndarray) -> ImageProbs:
        """Probabilities of one image beyond the budget, (1, c, H, W) of whole strides.

        They are those of `Predictor` within 1 of 255.
        """
        height, width = batch.shape[-2:]
        tiles = make_tiles(height, width, self.tiling, self.stride)
        blender = Blender(len(self.class_names), height, width)
        labels, is_finite = LabelPool(self._heads), np.ones(1, bool)
        for done, tile in enumerate(tiles, start=1):
            part = batch[..., tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
            with out_of_memory_as(f"in a pass of a tile of {part.shape[-2]}x{part.shape[-1]}, the graph's size"):
                masks, *told_from = self._session.run(_OF_A_TILE, {"images": np.ascontiguousarray(part)})
            blender.add(tile, masks[0] / np.float32(255))
            labels.add(tile, *(planes[0] for planes in told_from))
            is_finite &= _is_finite(*told_from)
            self.on_tile(done, len(tiles))
        return ImageProbs(blender.finish()[None], labels.label_probs()[None], is_finite)


def _is_finite(features: np.ndarray, mask_peaks: np.ndarray) -> np.ndarray:
    """(n,) bool: of which images no number is NaN or infinite in what a graph tells labels from, which is all that it
    has of floating point: probabilities are rounded within, where NaN becomes 0."""
    return np.logical_and(*(np.isfinite(each).all(axis=(1, 2, 3, 4)) for each in (features, mask_peaks)))


def read_onnx_header(source: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported graph says of the checkpoint it was made of, as `steel.checkpoint.read_header`, and of itself:
    `tta`, the views in it, `stride`, `label_heads` (see `steel.inference.label_head`), and `int8`, where it is
    quantised: how, and what that cost.

    Raises:
        InputError: no such file, or not a graph of `steel export`.
    """
    session, _ = _open(_read(source), source, "cpu")
    return _header_of(session, source)


def _read(source: str | os.PathLike[str]) -> bytes:
    """The file at a path or URL."""
    try:
        return storage.read_bytes(source)
    except FileNotFoundError:
        raise InputError(f"{told_url(source)}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{told_url(source)}: a folder, not a file of `steel export`") from None


def _open(data: bytes, source: str | os.PathLike[str], device: str) -> tuple[Any, str]:
    """A session of onnxruntime for a graph, and the device that it runs on; `source` is for errors."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}: pip install 'steel-defects[onnx]'") from error
    there = [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    wanted = there[-1] if device == "auto" else device
    if wanted not in there:
        raise InputError(f"device {device!r} is not to be had here with this onnxruntime; choose auto or {there[0]}")
    try:
        session = make_session(data, wanted)
    except InputError:  # of the threads, not of the file
        raise
    except Exception as error:  # the runtime's own types are not public
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{told_url(source)}: not an ONNX graph that can be run, or damaged ({reason})") from error
    if _PROVIDERS[wanted] in session.get_providers():
        return session, wanted
    if device != "auto":  # where a library of CUDA's is missing, the runtime goes on without a word on the CPU
        raise InputError(
            f"device {device!r}: this onnxruntime is made for it, but cannot load CUDA or cuDNN here; install what "
            f"it asks for, or choose auto or {there[0]}"
        )
    return session, there[0]


def make_session(data: bytes, device: str = "cpu") -> Any:
    """A session of onnxruntime for a graph; fails with the runtime's own errors.

    Raises:
        InputError: see `session_threads`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # who opens it tells what is wrong, in one line
    options.intra_op_num_threads = session_threads()
    return onnxruntime.InferenceSession(data, options, providers=[_PROVIDERS[device]])


def session_threads() -> int:
    """Threads of a session on a CPU: the first number of `OMP_NUM_THREADS`, which may have one for each level of
    threads within threads; all cores where that says nothing.

    Raises:
        InputError: it is no number.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    first = text.partition(",")[0].strip()
    if text and not first.isdecimal():
        raise InputError(f"OMP_NUM_THREADS={text}: not a number of threads; give one, such as 4, or unset it")
    return int(first or 0) or max(1, int(usable_cores()))


def _header_of(session: Any, source: str | os.PathLike[str]) -> dict[str, Any]:
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if metadata is None:
        raise InputError(f"{told_url(source)}: an ONNX graph of another program; give one that `steel export` wrote")
    version, content = parse_metadata(told_url(source), metadata)
    try:
        from_plain(tuple[str, ...], content.get("tta"), "tta")
        from_plain(int, content.get("stride"), "stride")
        for text in from_plain(tuple[str, ...], content.get("label_heads"), "label_heads"):
            decode_head(text, len(content["class_names"]))
        from_plain(Int8Report | None, content.get("int8"), "int8")
    except InputError as error:
        raise InputError(
            f"{told_url(source)}: a graph of another version of this program; export the checkpoint again ({error})"
        ) from error
    return {"version": version, **content}

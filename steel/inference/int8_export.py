"""An exported graph whose convolutions compute in whole numbers of 8 bits, measured against the one it was made of.

The ranges of the numbers are those that images of some folds give the graph's tensors; what that costs is measured on
images of other folds.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steel import storage
from steel.checkpoint import Checkpoint
from steel.checkpoint_header import METADATA_KEY, make_metadata, parse_metadata
from steel.errors import InputError, told_url
from steel.images.geometry import restore_size
from steel.inference.batching import prepare
from steel.inference.int8_report import MAX_LOSS, NUM_IMAGES, GraphScore, Int8Report
from steel.inference.onnx_export import make_onnx, quiet
from steel.inference.onnx_predictor import OnnxPredictor, make_session, session_threads
from steel.inference.sources import NamedImage
from steel.inference.tiles import is_tiled, make_tiles
from steel.metrics.scores import decide, score
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.plain import to_dict
from steel.shards.reader import ShardReader
from steel.shards.selection import check_same_task, rows_in
from steel.shards.split_roles import tuning_folds

_TOGETHER = 32
"""Images that go through one graph and then through the other, so that both see the same machine; fewer, if they are
large."""
_PIXELS_TOGETHER = 1 << 24
_OPERATORS = ["Conv", "Relu", "Add", "Concat", "Resize", "MaxPool"]
"""Where convolutional networks spend their time, and what lies between; all else stays in float32."""


class Int8Folds(NamedTuple):
    """Which folds of the shards play which role."""

    calibration: tuple[int, ...]
    scored: tuple[int, ...]


def export_int8(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    reader: ShardReader,
    *,
    tta: Sequence[str] | None = None,
    folds: Int8Folds | None = None,
    num_images: int = NUM_IMAGES,
    max_loss: float | None = MAX_LOSS,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Int8Report:
    """Write `checkpoint` as ONNX in 8 bits to a path or URL, unless that costs too much.

    Args:
        checkpoint: one network or an ensemble.
        path: where to.
        reader: of images like those that will be predicted.
        tta: as for `make_onnx`.
        folds: which images give the ranges, and which are scored; those that it was trained on, and tuned on alone,
            when None.
        num_images: that give the ranges, at most; half of them have defects, where there are so many.
        max_loss: of mean or positive Dice, above which nothing is written; None for no limit.
        on_image: is told how many images of all are done.

    Raises:
        InputError: as for `make_onnx`; shards of another task, or without these folds; or more is lost.
    """
    in_channels, depth = checkpoint.network.in_channels, checkpoint.depth
    check_same_task("the checkpoint", checkpoint.class_names, in_channels, depth, reader.manifest)
    calibration, scored = folds or _own_folds(checkpoint, reader)
    if set(calibration) & set(scored):
        raise InputError("folds for int8: those that are scored must not give the ranges")
    rows = calibration_rows(reader, rows_in(reader, calibration, "calibration"), num_images)
    scored_rows = rows_in(reader, scored, "scored")
    if not reader.index.areas[scored_rows].any():
        raise InputError(f"folds for int8: no image of fold {', '.join(map(str, scored))} has a defect; name others")
    data, _ = make_onnx(checkpoint, tta)
    before = _side(data)
    total = len(rows) + len(scored_rows)

    def inputs() -> Iterator[np.ndarray]:
        for done, row in enumerate(rows.tolist(), start=1):
            yield from _passes(before.predictor, reader.read(row).image)
            on_image(done, total)

    quantised = quantise(data, inputs())
    scores = _measure((before, _side(quantised)), reader, scored_rows, lambda done: on_image(len(rows) + done, total))
    report = Int8Report(calibration, len(rows), scored, len(scored_rows), session_threads(), *scores)
    if max_loss is not None and report.loss > max_loss:
        raise InputError(
            f"{told_url(path)}: not written: {_say_loss(report)}: more than --int8-max-loss {max_loss:g} is lost; "
            "--force writes it"
        )
    storage.write_bytes(path, _with_report(quantised, path, report))
    return report


def quantise(data: bytes, inputs: Iterable[np.ndarray]) -> bytes:
    """The graph of a file with its convolutions, and what lies between them, in 8 bits.

    Weights have a scale for each channel and 7 bits, as sums of 8-bit products overflow on processors without VNNI;
    activations have one scale for each tensor, from the least to the largest value that was seen. All is written as
    pairs of QuantizeLinear and DequantizeLinear, which other runtimes understand as well.

    Args:
        data: a file of `make_onnx`.
        inputs: (n, c, H, W) uint8, what the graph is shown.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="steel-") as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            onnx.load_model_from_string(data),
            path,
            _Inputs(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return path.read_bytes()


class _Inputs:
    """onnxruntime's protocol for what calibrates."""

    def __init__(self, inputs: Iterable[np.ndarray]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, None after the last."""
        images = next(self._inputs, None)
        return None if images is None else {"images": images}


class _Timed:
    """A session that counts the seconds that it runs."""

    def __init__(self, session: Any) -> None:
        self.session, self.seconds = session, 0.0

    def run(self, names: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """As the session does."""
        begun = time.perf_counter()
        outputs = self.session.run(names, inputs)
        self.seconds += time.perf_counter() - begun
        return outputs


class _Side(NamedTuple):
    """One of the graphs that are compared."""

    predictor: OnnxPredictor
    session: _Timed


def _side(data: bytes) -> _Side:
    """A graph, to be run on the CPU."""
    session = make_session(data)
    metadata = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
    timed = _Timed(session)
    return _Side(OnnxPredictor(timed, parse_metadata("graph", metadata)[1], device="cpu"), timed)


def _passes(predictor: OnnxPredictor, image: np.ndarray) -> Iterator[np.ndarray]:
    """(1, c, H, W) uint8: what the graph is shown of an image, whole or tile by tile."""
    named, tiling, stride = NamedImage("", image), predictor.tiling, predictor.stride
    pixels = prepare(0, named, predictor.in_channels, predictor.depth, predictor.input_size, stride).pixels
    height, width = pixels.shape[1:]
    if not is_tiled(height, width, tiling, stride):
        yield pixels[None]
        return
    for rows, columns in make_tiles(height, width, tiling, stride):
        yield np.ascontiguousarray(pixels[None, :, rows.start : rows.stop, columns.start : columns.stop])


def _own_folds(checkpoint: Checkpoint, reader: ShardReader) -> Int8Folds:
    """Those that the checkpoint was trained on, and tuned on alone, if these are its shards."""
    digest, train = reader.manifest.digest, tuple(checkpoint.folds.get("train", ()))
    tuning = tuple(sorted(tuning_folds([digest], checkpoint.folds, checkpoint.provenance) - set(train)))
    is_own = digest == checkpoint.provenance.get("data_digest")
    if not (is_own and train and tuning):
        what = (
            "the checkpoint names no folds there that trained it and others that tuned it, as of a cross-validation"
            if is_own
            else "not the shards that the checkpoint says it was trained and tuned on"
        )
        raise InputError(
            f"{reader.root}: {what}; name the folds whose images calibrate and those that are scored, with --int8-folds"
        )
    return Int8Folds(train, tuning)


def calibration_rows(reader: ShardReader, rows: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of `rows`, evenly from all of them; half have defects, as far as there are such and others."""
    defective = reader.index.areas[rows].any(axis=1)
    there, clean = rows[defective], rows[~defective]
    num_there = min(len(there), max(-(-num // 2), num - len(clean)))
    return np.sort(np.concatenate([_spread(there, num_there), _spread(clean, num - num_there)]))


def _spread(rows: np.ndarray, num: int) -> np.ndarray:
    """`num` of `rows`, evenly from first to last; all of them if they are fewer."""
    num = min(num, len(rows))
    return rows[np.arange(num) * len(rows) // max(1, num)]


def _measure(
    sides: tuple[_Side, _Side], reader: ShardReader, rows: np.ndarray, on_image: Callable[[int], None]
) -> tuple[GraphScore, GraphScore]:
    """What both graphs are worth on the images of `rows`, by the decision that is in them, and how fast they are."""
    pixels = int((reader.index.height[rows].astype(np.int64) * reader.index.width[rows]).max())
    together = max(1, min(_TOGETHER, _PIXELS_TOGETHER // pixels))
    found: tuple[list[ImageStatistics], list[ImageStatistics]] = ([], [])
    for side in sides:  # the first pass of a size makes room for all further ones
        side.predictor.predict([reader.read(int(rows[0])).image])
        side.session.seconds = 0.0
    for start in range(0, len(rows), together):
        samples = [reader.read(row, original_mask=True) for row in rows[start : start + together].tolist()]
        for side, statistics in zip(sides, found, strict=True):
            for sample, one in zip(samples, side.predictor.predict([s.image for s in samples]), strict=True):
                mask_probs = restore_size(one.network_probs, *sample.bitmask.shape)
                ignored = reader.manifest.ignore_bit
                counted = image_statistics(sample.row, mask_probs, one.label_probs, sample.bitmask, ignore_bit=ignored)
                statistics.append(counted)
        on_image(start + len(samples))
    before, after = (_score(side, statistics) for side, statistics in zip(sides, found, strict=True))
    return before, after


def _score(side: _Side, images: Sequence[ImageStatistics]) -> GraphScore:
    num_classes = len(side.predictor.class_names)
    scores = score(decide(EvaluationStatistics.from_images(images, num_classes), side.predictor.decision))
    mean_dice, positive_dice = float(scores.mean_dice), float(scores.mean_dice_positive)
    return GraphScore(mean_dice, positive_dice, round(len(images) / side.session.seconds, 2))


def _with_report(data: bytes, path: str | os.PathLike[str], report: Int8Report) -> bytes:
    """The graph with the report in its metadata."""
    import onnx

    model = onnx.load_model_from_string(data)
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    _, content = parse_metadata(told_url(path), entry.value)
    entry.value = make_metadata(content | {"int8": to_dict(report)})
    return model.SerializeToString()


def _say_loss(report: Int8Report) -> str:
    before, after = report.float32, report.int8
    return (
        f"in 8 bits mean Dice is {after.mean_dice:.4f} instead of {before.mean_dice:.4f}, positive Dice "
        f"{after.positive_dice:.4f} instead of {before.positive_dice:.4f}, on {report.scored_images} images"
    )

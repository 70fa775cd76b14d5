"""Formats for `test_fuzz`: checkpoints, and what a run leaves in its folder."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steel.checkpoint import Checkpoint, load_checkpoint, read_header, save_checkpoint
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision, default_decision, kept
from steel.errors import InputError
from steel.metrics.scores import decide
from steel.metrics.statistics import EvaluationStatistics
from steel.model.network import normalise
from steel.pretrained.encoder import EncoderWeights
from steel.pretrained.stem import Normalisation
from steel.reports.describe import describe_checkpoint
from steel.reports.plots import plot_history
from steel.shards.split_roles import LearnedFrom, SeenFolds, role_of
from steel.tracking.history import History
from tests.fuzzing import JSON_EDITS, Format, Random, edit_bytes, edit_json, edit_json_line, edit_value
from train.engine.loop_state import LoopState
from train.engine.run_folder import RunFolder
from train.engine.state import (
    RECORD,
    TENSORS,
    SavedState,
    digest_record,
    find_newest_state,
    read_state,
    top_checkpoint_files,
    write_state,
)
from train.engine.top_checkpoints import TopCheckpoint, TopCheckpoints
from train.engine.weight_initialisation import FirstWeights
from train.presets import SMOKE

# --- checkpoints ---


def make_checkpoint(folder: Path) -> str:
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    tensors = {"encoder.weight": torch.arange(24.0).reshape(2, 3, 4), "head.steps": torch.tensor([7, 8])}
    decision = default_decision(2)
    member = {"name": "one", "folds": {"train": [2]}, "provenance": {"data_digest": "d"}}
    weights = {"source": "w.pth", "licence": "MIT"}
    gates = {"none": decision.to_dict()}
    start = {"source": "a", "seen": [{"digest": "d", "train": [3], "tuning": []}]}
    provenance = {"data_digest": "d", "gates": gates, "members": [member], "encoder_weights": weights}
    provenance["learned_from"] = [start]
    folds = {"train": [2], "tuning": [0], "test": [1]}
    saved = Checkpoint(network, ("Riß", "b"), (0.4,), (0.2,), tensors, decision, folds, provenance, (64, 128))
    save_checkpoint(folder / "model.safetensors", saved)
    return "model.safetensors"


def read_checkpoint(folder: Path) -> Any:
    path = folder / "model.safetensors"
    lines = describe_checkpoint(read_header(path))
    checkpoint = load_checkpoint(path)
    role = role_of([1], ["d"], checkpoint.folds, checkpoint.provenance)
    gates = [Decision.from_dict(gate) for gate in checkpoint.provenance.get("gates", {}).values()]
    tensors = {name: tensor.tolist() for name, tensor in checkpoint.tensors.items()}
    return lines, role, gates, checkpoint.decision, tensors, checkpoint.members, checkpoint.input_size


def edit_content(data: bytes, random: Random) -> bytes:
    """Change one value of a checkpoint's content."""
    return _with_header(data, lambda table: _edit_under_key(table, random))


def _edit_under_key(table: dict[str, Any], random: Random) -> None:
    header = json.loads(table["__metadata__"]["steel"])
    header["content"] = edit_value(header["content"], random)
    text = json.dumps(header["content"], sort_keys=True, separators=(",", ":"))
    header["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    table["__metadata__"]["steel"] = json.dumps(header)


def edit_tensor_table(data: bytes, random: Random) -> bytes:
    """Change what the header says of the tensors."""

    def change(table: dict[str, Any]) -> None:
        metadata = table.pop("__metadata__", {})
        found = edit_value(table, random)
        table.clear()
        table.update(found if isinstance(found, dict) else {"x": found})
        table["__metadata__"] = metadata

    return _with_header(data, change)


def _with_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    change(table)
    header = json.dumps(table).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + data[end:]


# --- what a run leaves ---

KEPT = TopCheckpoint(0.5, 0, 5, 1.5)


def make_state(folder: Path) -> str:
    write_state(folder, SavedState(LoopState(0, 5), (), {"model.w": torch.ones(6)}), keep=2)
    saved = SavedState(
        LoopState(1, 7, stopped_early=["early"], missed_before=[0.5, None]), (KEPT,), {"model.w": torch.arange(6.0)}
    )
    write_state(folder, saved, keep=2)
    return f"000001-00000007/{RECORD}"


def make_state_tensors(folder: Path) -> str:
    make_state(folder)
    return f"000001-00000007/{TENSORS}"


def read_newest_state(folder: Path) -> Any:
    """As resuming does; the state before stands in for one that is refused."""
    newest, refused = find_newest_state(folder)
    assert newest is not None and all("000001-00000007" in line for line in refused)
    top_checkpoint_files(folder)  # passes over what is damaged
    if refused:
        assert read_state(newest).tensors["model.w"].tolist() == [1.0] * 6
        raise InputError(refused[0])
    state = read_state(newest)
    state.loop.check_within([9, 9], f"--out {folder}, {RECORD}, {TENSORS}")
    return state.loop, state.top_checkpoints, {name: tensor.tolist() for name, tensor in state.tensors.items()}


def mend_state(folder: Path) -> None:
    record, tensors = folder / "000001-00000007" / RECORD, folder / "000001-00000007" / TENSORS
    try:
        values = json.loads(record.read_bytes())
        values |= {
            "tensors_size": tensors.stat().st_size,
            "tensors_sha256": hashlib.sha256(tensors.read_bytes()).hexdigest(),
        }
        values["sha256"] = digest_record({name: value for name, value in values.items() if name != "sha256"})
        record.write_text(json.dumps(values))
    except (ValueError, TypeError):
        pass  # beyond mending


def make_top_checkpoint(folder: Path) -> str:
    TopCheckpoints(folder, 1).write(KEPT, {"w": torch.arange(12.0).reshape(3, 4)})
    return KEPT.file


def read_top_checkpoint(folder: Path) -> Any:
    return {n: t.tolist() for n, t in TopCheckpoints(folder, 1).read(KEPT).items()}


def make_history(folder: Path) -> str:
    history = History(folder / "history.jsonl")
    history.open_at(0, 0)
    for step in (1, 2, 3):
        place = {"phase": step // 3, "step": step, "global_step": step, "epoch": step / 3}
        loss = {"loss": 0.5 / step, "loss_segmentation": 0.25, "lr": 1e-3, "images_per_second": 40.5}
        history.append({"kind": "train", **place, **loss})
        scores = {"mean_dice": 0.5, "mean_dice_positive": None, "dice_positive_per_class": {"a": 0.5, "b": None}}
        history.append({"kind": "validation", **place, **scores, "f1": {"any": 0.5}})
    history.close()
    return "history.jsonl"


def read_history(folder: Path) -> Any:
    history = History(folder / "history.jsonl")
    records = history.records()
    history.open_at(1, 2)
    history.close()
    return records, history.records()


def draw_history(folder: Path) -> Any:
    plot_history(History(folder / "history.jsonl").records(), folder / "curves.png")


def make_run(folder: Path) -> str:
    run = RunFolder(folder)
    run.open(SMOKE, "digest", "auto")
    run.end("interrupted", "stopped by SIGTERM")
    run.release()
    return "status.json"


def make_run_config(folder: Path) -> str:
    make_run(folder)
    return "config.json"


def make_first_weights(folder: Path) -> str:
    seen = (SeenFolds("d", (3,), ()),)
    weights = EncoderWeights("resnet18", "smp-hub/resnet18.imagenet", "ab" * 32, "BSD-3-Clause", 99, 100)
    RunFolder(folder).keep_first_weights(
        FirstWeights(weights, Normalisation((0.4,), (0.2,)), (LearnedFrom("a", seen),))
    )
    return "first_weights.json"


def read_first_weights(folder: Path) -> Any:
    first = RunFolder(folder).first_weights()
    return first, normalise(
        torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3), first.inputs.mean, first.inputs.std
    ).tolist()


def read_run(folder: Path) -> Any:
    run = RunFolder(folder)
    try:
        goes_on = run.open(SMOKE, "digest", "auto")
        attempt = run.attempt
        run.end("finished")
        return goes_on, attempt
    finally:
        run.release()


def make_decision(folder: Path) -> str:
    decision = Decision((ClassDecision(100, 120, 5, 900), ClassDecision()), "soft", 99, ("hflip",))
    (folder / "decision.json").write_text(json.dumps(decision.to_dict()))
    return "decision.json"


def read_decision(folder: Path) -> Any:
    decision = Decision.from_dict(json.loads((folder / "decision.json").read_bytes()))
    areas, probs = np.array([[3, 2**31]]), np.array([[1, 2, 3]], np.uint8)
    if len(decision.classes) == 2:
        return decision, kept(decision, areas, probs).tolist()
    return decision, None


def make_statistics(folder: Path) -> str:
    random = np.random.default_rng(0)
    counts = random.integers(0, 50, (5, 2, 2, 256)).astype(np.uint32)
    probs = random.integers(0, 256, (5, 3)).astype(np.uint8)
    EvaluationStatistics(np.arange(5) * 3, counts, probs).save(folder / "validation_statistics.npz")
    return "validation_statistics.npz"


def read_statistics(folder: Path) -> Any:
    statistics = EvaluationStatistics.load(folder / "validation_statistics.npz")
    outcome = decide(statistics, default_decision(statistics.num_classes))
    return statistics.rows.tolist(), statistics.label_probs.tolist(), statistics.histograms.sum(), repr(outcome)


def edit_arrays(data: bytes, random: Random) -> bytes:
    """Change an array: its type, shape, order or number of dimensions, or leave it out."""
    with np.load(io.BytesIO(data)) as file:
        arrays: dict[str, Any] = dict(file)
    name = sorted(arrays)[int(random.integers(3))]
    array = arrays[name]
    changes: list[Callable[[], Any]] = [
        lambda: array.astype(np.float64),
        lambda: array.astype(np.int32),
        lambda: array[:-1],
        lambda: array[::-1],
        lambda: array[None],
        lambda: array[..., :1],
        lambda: array.astype(str),
        lambda: np.int64(3),
        lambda: array - array.dtype.type(9),
        lambda: np.concatenate([array, array]),
        lambda: np.zeros((0, *array.shape[1:]), array.dtype),
        lambda: array.astype(array.dtype.newbyteorder(">")),
    ]
    kind = int(random.integers(len(changes) + 1))
    if kind == len(changes):
        del arrays[name]
    else:
        arrays[name] = changes[kind]()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


FORMATS: dict[str, Format] = {
    "checkpoint": Format(make_checkpoint, read_checkpoint, (edit_bytes, edit_tensor_table), is_hashed=True),
    "checkpoint, hashes mended": Format(make_checkpoint, read_checkpoint, (edit_content,)),
    "state": Format(make_state, read_newest_state, JSON_EDITS, mend_state, is_hashed=True),
    "state's tensors": Format(
        make_state_tensors,
        read_newest_state,
        (edit_bytes, edit_tensor_table),
        mend_state,
        is_hashed=True,
    ),
    "kept weights": Format(make_top_checkpoint, read_top_checkpoint, (edit_bytes,), is_hashed=True),
    "history": Format(make_history, read_history, (edit_json_line, edit_json_line, edit_bytes)),
    "status": Format(make_run, read_run, JSON_EDITS),
    "config": Format(make_run_config, read_run, JSON_EDITS, names="folder"),
    "first weights": Format(make_first_weights, read_first_weights, JSON_EDITS, names="folder"),
    "decision": Format(make_decision, read_decision, (edit_json,), names="ecision"),
    "statistics": Format(make_statistics, read_statistics, (edit_arrays, edit_bytes)),
}

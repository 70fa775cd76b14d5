"""What a report says of how it came about: what was evaluated on what, and how fast."""

from pathlib import Path
from typing import Any

import torch

from steel.checkpoint import Checkpoint, digest_tensors
from steel.distributed.runtime import Runtime
from steel.errors import told_url
from steel.inference.predictor import Predictor
from steel.reports.describe import flat_scalars, member_folds
from steel.shards.reader import ShardReader


def speed_of(images: int, seconds: float, predictor: Predictor, runtime: Runtime) -> dict[str, Any]:
    """How fast the images were evaluated, and on what; these values differ from run to run."""
    return {
        "images_per_second": round(images / seconds, 2),
        "seconds": round(seconds, 2),
        "views_per_image": 1 + len(predictor.tta),
        "device": device_name(runtime.device),
        "processes": runtime.world,
        "precision": predictor.precision,
        "pixels_per_pass": predictor.pixels_per_pass,
    }


def device_name(device: torch.device) -> str:
    """What a person calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def provenance_of(checkpoint: Checkpoint, path: str | Path, reader: ShardReader) -> dict[str, Any]:
    """What was evaluated on what, as short plain values.

    Args:
        checkpoint: that was evaluated.
        path: its file, as the user named it.
        reader: of the shards.
    """
    folds = {f"{role}_folds": ", ".join(map(str, folds)) or "none" for role, folds in checkpoint.folds.items()}
    of_members = {} if "train" in checkpoint.folds else member_folds(checkpoint.provenance)
    return {
        "checkpoint": told_url(path),
        "data": told_url(reader.root),
        "checkpoint_weights_sha256": digest_tensors(checkpoint.tensors),
        "network": f"{checkpoint.network.architecture} on {checkpoint.network.encoder}",
        "members": checkpoint.members,
        **folds,
        **{f"member_{i}": f"{name} ({told})" for i, (name, told) in enumerate(of_members, 1)},
        "evaluated_data": reader.manifest.digest,
        **{name: value for name, value in flat_scalars(checkpoint.provenance) if not name.startswith("gates.")},
    }


def recipe_reasons(checkpoint: Checkpoint) -> dict[str, str]:
    """Why the options that `--preset auto` and `--budget` have chosen are as they are, by their names; of an ensemble
    where all members say the same."""
    members = [each["provenance"] for each in checkpoint.provenance.get("members", ())] or [checkpoint.provenance]
    told = [each.get("config", {}).get("reasons", {}) for each in members]
    return dict(told[0]) if all(each == told[0] for each in told) else {}

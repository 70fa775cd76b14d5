"""What a run says of itself."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from steel.config import SamplingConfig
from train.engine.compilation import CompileChoice
from train.engine.loop_state import LoopState
from train.engine.run_folder import RunFolder
from train.engine.run_summary import (
    explain_balance,
    explain_compilations,
    explain_sampling,
    explain_skips,
    short_summary,
)


def test_imbalance_is_put_into_words() -> None:
    areas = np.zeros((20, 3), np.int32)
    areas[:12, 0] = 5
    areas[12:14, 1] = 5
    line = explain_balance(areas, ("spot", "scratch", "patch"))
    assert "20 images: 6 clean, spot in 12, scratch in 2, patch in 0" in line
    assert "no training image has patch" in line


def test_balanced_classes_need_no_warning() -> None:
    areas = np.eye(2, dtype=np.int32).repeat(4, axis=0)
    assert explain_balance(areas, ("a", "b")).endswith("a in 4, b in 4")
    areas = np.concatenate([np.tile([[1, 0]], (10, 1)), [[0, 1]]])
    assert "a is 10 times as frequent as b" in explain_balance(areas, ("a", "b"))


def test_sampling_is_put_into_words() -> None:
    assert explain_sampling(SamplingConfig(defect_crop=0)) == "every image once an epoch"
    moved = "; 50% of the crops of defective images were moved onto a defect"
    words = explain_sampling(SamplingConfig(order="balanced", defect_crop=0.5))
    assert words == f"clean images and each class in equal shares{moved}"
    words = explain_sampling(SamplingConfig(order="balanced", defective_only=True, defect_crop=0.5))
    assert words == f"each class in equal shares{moved}"
    words = explain_sampling(SamplingConfig(defective_only=True, defect_crop=0))
    assert words == "every defective image once an epoch"
    words = explain_sampling(SamplingConfig(defect_crop=0, zoom=(0.5, 2.0)))
    assert words == "every image once an epoch; crops at a scale of 0.5 to 2"
    assert explain_sampling(SamplingConfig(zoom=(0.5, 0.5))).endswith("; crops at a scale of 0.5")
    missed = "up to 25% of the samples for what the last validation before it missed"
    words = explain_sampling(SamplingConfig(hard=0.25, defect_crop=0))
    assert words == f"{missed}; of the others every image once an epoch"
    assert explain_sampling(SamplingConfig(paste=0.25)).endswith(
        "into 25% of the crops with room for it a defect of some image was pasted"
    )


def test_a_damaged_sample_is_counted_as_often_as_it_is_drawn() -> None:
    assert explain_skips(LoopState()) == []
    steps, samples = explain_skips(LoopState(nonfinite_steps=3, bad_samples=6))
    assert steps == "3 steps were skipped for a non-finite loss or gradient"
    assert samples == "damaged samples were drawn 6 times and left out; `python -m data_prep.verify` names them"


def test_what_was_compiled_is_said_by_phase() -> None:
    choices = [CompileChoice(False), CompileChoice(True, 1.3)]
    said = "phase full: compiled: a micro-batch was 1.30 times as fast with a graph as without"
    assert explain_compilations(["crops", "full", "last"], choices) == [said]


def test_the_next_command_can_be_pasted_into_a_shell() -> None:
    context: Any = SimpleNamespace(
        live=SimpleNamespace(spent={}),
        rows=SimpleNamespace(test=[0]),
        config=SimpleNamespace(folds=SimpleNamespace(test=(1, 2))),
        reader=SimpleNamespace(root=Path("my shards")),
    )
    names = ("dice_per_class", "dice_positive_per_class", "true_images_per_class", "predicted_images_per_class")
    metrics = {"verdict": {"sentence": "better than answering nothing"}, **{name: {} for name in names}}
    last = short_summary(context, RunFolder("Müller's run"), metrics, "shipped: the last weights", 1.0).splitlines()[-1]
    assert shlex.split(last) == [
        *("next", "python", "-m", "train.evaluate", "--checkpoint", "Müller's run/model.safetensors"),
        *("--data", "my shards", "--folds", "1,2", "--out", "Müller's run/test"),
    ]

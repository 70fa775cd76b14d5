"""`bench.tta`: its cost worked by hand, and bare passes of the network that the predictor runs."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import tta
from bench.tta import Times, bare_passes, page
from steel.config import NetworkConfig
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel


def test_the_cost_is_beyond_as_many_bare_passes_and_is_held_against_the_target() -> None:
    few = Times((64, 128), 8, bare=(1.0, 2.0, 1.0), plain=(1.1, 2.1, 1.1), views=(4.0, 8.4, 4.1))
    much = Times((256, 1600), 1, bare=(1.0, 1.0, 1.0), plain=(1.0, 1.0, 1.0), views=(4.4, 4.2, 4.4))
    assert few.costs == pytest.approx([0.0, 0.05, 0.025])
    text = page([few, much], {"machine": "two cores", "repeats": 3})
    assert "\n- machine: two cores\n- repeats: 3\n" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2] == [
        *("64x128", "8", "1.0 (1.0 to 2.0)", "1.1 (1.1 to 2.1)", "4.1 (4.0 to 8.4)"),
        *("+2.5 % (+0 to +5)", "at most +5 %: reached"),
    ]
    assert rows[3][-2:] == ["+10.0 % (+5 to +10)", "at most +5 %: **missed**"]


def test_bare_passes_are_of_the_predictors_own_network() -> None:
    """Whose BatchNorms are folded: without that a saving of theirs would be taken for one of the views."""
    model = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 4, 1, (8, 8))).eval()
    ran: list[nn.Module] = []
    model.register_forward_pre_hook(lambda module, _: ran.append(module))  # the predictor's copy has it, too
    predictor = Predictor([model], mean=tta.MEAN, std=tta.STD, device="cpu")
    ran.clear()
    bare_passes(predictor, torch.zeros(2, 1, 32, 64), 3)
    assert ran == predictor.models * 3


def test_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--encoder", "tu-test_resnet", "--sizes", "32x64", "32x32", "--repeats", "2", "--out"]
    monkeypatch.setattr(sys, "argv", ["tta", *words, str(tmp_path / "tta.md")])
    tta.main()
    text = (tmp_path / "tta.md").read_text()
    assert "| 32x64 " in text and "| 32x32 " in text and "\n- repeats: 2\n" in text
    assert "\n- made by: `python -m bench.tta --encoder tu-test_resnet " in text

"""The table of encoders: its arithmetic, and that it has every preset it should."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import encoders
from bench.encoders import PRESETS, count_flops
from steel.pretrained.licences import NOT_RECORDED, licence_text
from steel.pretrained.sources import find_published
from tests.paths import ROOT
from train.presets import SMOKE


def test_operations_are_counted_as_the_page_says() -> None:
    """A 3x3 convolution from 2 to 5 channels at 6x8 places, then a 1x1 from 5 to 4: multiplications and additions."""
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.Conv2d(5, 4, 1, bias=False))
    assert count_flops(model, torch.zeros(1, 2, 6, 8)) == 2 * 48 * (2 * 5 * 9 + 5 * 4)


def test_every_preset_with_published_weights_is_in_the_table() -> None:
    page = (ROOT / "bench" / "encoders.md").read_text()
    for preset in PRESETS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{preset.preset}`")]
        published = find_published(preset.model.encoder)
        licence = licence_text(published.settings["license"])
        assert published.repository in row and licence in row and licence != NOT_RECORDED


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.slow
def test_a_preset_is_timed_trained_and_shipped(is_given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On synthetic strips and on images of one's own, with what it was made with."""
    monkeypatch.setattr(encoders, "PRESETS", (SMOKE,))
    monkeypatch.setattr(encoders, "SIZE", (64, 64))
    words = ["--out", str(tmp_path / "encoders.md")]
    if is_given:
        images, labels = encoders.make_strips(tmp_path / "strips")
        words += ["--images", str(images), "--labels", str(labels)]
    monkeypatch.setattr(sys, "argv", ["encoders", *words])
    encoders.main()
    page = (tmp_path / "encoders.md").read_text()
    trained = "one pass of each phase over 20 images" if is_given else "3 steps of each phase on 20 synthetic strips"
    assert f"\n- trained: {trained} of 64x200" in page and str(tmp_path) not in page
    assert "\n- made by: `python -m bench.encoders --out encoders.md" in page
    assert "\n- seconds of that, start and validations included: smoke " in page
    assert page.splitlines()[-1].startswith("| `smoke` | ")


def test_images_come_with_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--images", str(tmp_path)], ["--images", str(tmp_path), "--labels", str(tmp_path / "absent.csv")]):
        monkeypatch.setattr(sys, "argv", ["encoders", *words, "--out", str(tmp_path / "table.md")])
        with pytest.raises(SystemExit) as refused:
            encoders.main()
        assert refused.value.code == 2
    assert list(tmp_path.iterdir()) == []

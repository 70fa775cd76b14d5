"""The table of encoders: its arithmetic, and that it has every preset it should."""

import torch
from torch import nn

from bench.encoders import PRESETS, count_flops
from steel.pretrained.licences import NOT_RECORDED, licence_text
from steel.pretrained.sources import find_published
from tests.paths import ROOT


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

"""What losses are tried on."""

import math

import torch


def logit(p: float) -> float:
    """Whose sigmoid is `p`."""
    return math.log(p / (1 - p))


def random_case(
    seed: int, n: int = 2, classes: int = 3, height: int = 6, width: int = 8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and masks (n, classes, height, width), the first class absent, and valid pixels (n, 1, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, height, width, generator=generator)
    masks = (torch.rand(n, classes, height, width, generator=generator) < 0.3).float()
    masks[:, 0] = 0  # an absent class
    valid = (torch.rand(n, 1, height, width, generator=generator) < 0.7).float()
    return logits, masks, valid

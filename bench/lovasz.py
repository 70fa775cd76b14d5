"""Time of the Lovász loss, sorting all classes or those that are present: `python -m bench.lovasz [--device cuda]`."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from steel.loading.train_loader import present_pairs
from steel.model.losses import lovasz_hinge

SHARES = (0.12, 0.03, 0.45, 0.1)
"""Of crops that hold each of Severstal's classes, half of the crops of defective images moved onto a defect."""
SHAPES = ((8, 256, 512), (1, 256, 1600), (4, 256, 1600))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.lovasz", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| micro-batch | present pairs | all sorted | present sorted | gain |\n|---|---|---|---|---|")
    for shape in SHAPES:
        print(_line(shape, torch.device(options.device), options.repeats), flush=True)


def _line(shape: tuple[int, int, int], device: torch.device, repeats: int) -> str:
    num, height, width = shape
    masks = torch.zeros(num, len(SHARES), height, width)
    held = torch.rand(num, len(SHARES)) < torch.tensor(SHARES)
    held[0, 2] = True
    masks[held] = (torch.rand(int(held.sum()), height, width) < 0.1).float()
    packed = (masks * 2.0 ** torch.arange(len(SHARES))[:, None, None]).sum(1).to(torch.uint8)
    pairs = torch.from_numpy(present_pairs(packed.numpy(), len(SHARES))).to(device)
    logits = torch.randn(masks.shape).to(device).requires_grad_()
    masks, valid = masks.to(device), torch.ones(num, 1, height, width, device=device)
    every, present = (
        _milliseconds(lambda chosen=chosen: _pass(logits, masks, valid, chosen), device, repeats)  # type: ignore[misc]
        for chosen in (None, pairs)
    )
    shown = "x".join(map(str, shape))
    count = f"{int(held.sum())} of {held.numel()}, {len(pairs)} sorted"
    return f"| {shown} | {count} | {every:.1f} ms | {present:.1f} ms | {every / present:.2f}x |"


def _pass(logits: Tensor, masks: Tensor, valid: Tensor, pairs: Tensor | None) -> None:
    (gradient,) = torch.autograd.grad(lovasz_hinge(logits, masks, valid, pairs).sum(), logits)
    assert gradient.shape == logits.shape


def _milliseconds(run: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Median of some runs, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


if __name__ == "__main__":
    main()

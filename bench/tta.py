"""What test-time augmentation costs beyond its forward passes: `python -m bench.tta [--device cuda]`.

Each figure is of one image of a batch: bare forward passes of the network with their probabilities, one for each view,
against the predictor with all views, from uint8 images to quantised probabilities on the host. On a GPU views share
passes, and fewer images come together.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from steel.config import NetworkConfig
from steel.images.geometry import images_per_pass
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel, normalise
from steel.views import VIEWS

SIZES = ((128, 128), (256, 256), (256, 512), (256, 1600))
MEAN, STD = (0.4,), (0.2,)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.tta", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", type=_size, default=SIZES, metavar="HxW", help="of images")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = NetworkConfig("Unet", options.encoder, 4, 1)
    model = UnifiedModel(network).eval().to(memory_format=torch.channels_last)
    print(f"U-Net, {options.encoder}, {options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        "| size | images per pass | bare pass | one view | views | cost over bare passes |\n|---|---|---|---|---|---|"
    )
    for size in options.sizes:
        print(_line(model, size, torch.device(options.device), options.repeats), flush=True)


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def _line(model: UnifiedModel, size: tuple[int, int], device: torch.device, repeats: int) -> str:
    predictors = [
        Predictor([model], mean=MEAN, std=STD, tta=views, device=device, precision="auto")
        for views in ((), tuple(VIEWS))
    ]
    nums = [images_per_pass(*size, each.pixels_per_pass, views=each.views_at_once) for each in predictors]
    num = nums[0]  # of one view, as of a bare pass
    images = torch.randint(0, 256, (num, 1, *size), dtype=torch.uint8)
    inputs = normalise(images.to(device), MEAN, STD).contiguous(memory_format=torch.channels_last)

    def bare() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=predictors[0].precision == "bf16"),
        ):
            for output in model(inputs).values():
                torch.sigmoid(output.float())

    def predict(predictor: Predictor, together: int) -> Callable[[], None]:
        batches = list(torch.cat([images] * 4).split(together))
        return lambda: sum(1 for _ in predictor.stream_probabilities(batches)) and None

    runs = [lambda: [bare() for _ in range(4)], *map(predict, predictors, nums)]
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for number, run in enumerate(runs):
            seconds = _seconds(run, device)
            if turn:
                times[number].append(seconds)
    views = 1 + len(VIEWS)
    one, plain, all_views = (1000 * statistics.median(some) / (4 * num) for some in times)
    costs = [b / (views * a) - 1 for a, b in zip(times[0], times[2], strict=True)]
    shown = "x".join(map(str, size))
    cost = f"{100 * statistics.median(costs):+.1f} % ({100 * min(costs):+.0f} to {100 * max(costs):+.0f})"
    return f"| {shown} | {num} | {one:.1f} ms | {plain:.1f} ms | {views}: {all_views:.1f} ms | {cost} |"


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of the processor's time on a CPU, which other load changes least; of the clock's on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()

"""How long the search for hidden duplicates takes, and what it finds, on synthetic steel-like textures.

`python -m bench.duplicates --num-images 100000` makes originals and copies of them (flipped, turned, noisy, darker),
computes every signature and groups them, on one core. Decoding is not part of it.
"""

import time

import cv2
import numpy as np
from tqdm import tqdm

from data_prep.duplicates import group_duplicates, image_signature
from steel.commands.common import Parser


def make_original(rng: np.random.Generator, side: int) -> np.ndarray:
    """A (side, side) uint8 image: grain at two scales, uneven light, and half of the times a black edge."""
    grain = rng.normal(0, 6, (side, side)).astype(np.float32)
    patches = cv2.resize(rng.normal(0, 12, (12, 12)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    left, right = rng.uniform(70, 150, 2)
    light = np.linspace(left, right, side, dtype=np.float32)
    pixels = grain + patches + light
    if rng.random() < 0.5:
        pixels[:, : side // 4] = 0
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_copy(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image flipped, turned, with another brightness and some noise."""
    turned = np.rot90(image[:: rng.choice([-1, 1])], int(rng.integers(4))).astype(np.float32)
    return np.clip(turned * rng.uniform(0.8, 1.1) + rng.normal(0, 2, turned.shape), 0, 255).astype(np.uint8)


def main() -> None:
    """Measure, and print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=100_000)
    parser.add_argument("--copies", type=float, default=0.5, help="share of the images that are copies of another")
    parser.add_argument("--side", type=int, default=128, help="height and width of an image, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    cv2.setNumThreads(1)
    rng = np.random.default_rng(options.seed)
    num_originals = max(1, round(options.num_images * (1 - options.copies)))
    truth = np.concatenate([np.arange(num_originals), rng.integers(num_originals, size=options.num_images)])
    truth = rng.permutation(truth[: options.num_images])
    signatures, seconds = [], 0.0
    for original in tqdm(truth, desc="signatures", unit="image"):
        image = make_copy(rng, make_original(np.random.default_rng([options.seed, original]), options.side))
        start = time.perf_counter()
        signatures.append(image_signature(image))
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    groups, report = group_duplicates(signatures)
    grouping = time.perf_counter() - start

    same = np.unique(np.stack([truth, groups], axis=1), axis=0)
    print(f"images                 {options.num_images}, {num_originals} of them originals")
    print(f"signatures             {seconds:.1f} s on one core ({1e3 * seconds / options.num_images:.2f} ms an image)")
    print(f"grouping               {grouping:.1f} s on one core")
    print(f"groups                 {report.num_groups} (true: {len(np.unique(truth))})")
    print(f"originals torn apart   {np.sum(np.unique(same[:, 0], return_counts=True)[1] > 1)}")
    print(f"groups of several      {np.sum(np.unique(same[:, 1], return_counts=True)[1] > 1)}")


if __name__ == "__main__":
    main()

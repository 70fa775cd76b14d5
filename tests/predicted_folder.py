"""A small folder of images, and a checkpoint that finds something in each, for tests of predictions of folders."""

from pathlib import Path

import cv2
import numpy as np

from steel.decision import ClassDecision, Decision
from steel.inference.writers import WRITERS
from tests.serving import save_tiny_model

SIZES = {"a.jpg": (40, 48), "b.png": (33, 47), "line/c.png": (40, 48), "line/d.jpg": (20, 90), "Öl, 1.png": (31, 31)}
DECISION = Decision(classes=(ClassDecision(pixel_threshold=120), ClassDecision(min_area=30)), tta=("hflip",))
ALL = tuple(WRITERS)


def write_folder(root: Path) -> None:
    """`images/` with smooth noise, `model.safetensors`."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image = cv2.GaussianBlur(rng.integers(0, 256, size, dtype=np.uint8), (5, 5), 1.5)
        (root / "images" / name).write_bytes(cv2.imencode(name[-4:], image)[1].tobytes())
    save_tiny_model(root / "model.safetensors", decision=DECISION)

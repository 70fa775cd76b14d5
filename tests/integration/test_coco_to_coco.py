"""The README's five commands: a COCO export goes in, and COCO's form comes out where there is no torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.paths import ROOT

CLASSES = ("pit", "scratch")
README = (ROOT / "README.md").read_text()
BLOCK = re.search(r"```\n((?:(?!```).)*annotations\.json.*?)```", README, re.DOTALL)
STEEL = "import sys; {before}from steel.cli import main; sys.exit(main())"
NO_TORCH = (
    "sys.modules.update(dict.fromkeys(('torch', 'timm', 'safetensors', 'onnx', 'segmentation_models_pytorch'))); "
)


def write_export(folder: Path) -> None:
    """Gray images with bright polygons, and a file as labelling tools write it."""
    rng = np.random.default_rng(0)
    listed, annotations = [], []
    (folder / "images").mkdir()
    for number in range(12):
        image = rng.integers(40, 80, (64, 96), dtype=np.uint8)
        listed.append({"id": 10 + number, "file_name": f"{number:02d}.png", "height": 64, "width": 96})
        for category in range(number % 3):
            left, top = int(rng.integers(5, 50)), int(rng.integers(5, 30))
            corners = np.array([[left, top], [left + 30, top + 4], [left + 20, top + 25]])
            cv2.fillPoly(image, [corners], 160 + 80 * category)
            shape = {"segmentation": [corners.ravel().tolist()], "iscrowd": 0, "area": 1.0, "bbox": [0, 0, 1, 1]}
            annotations.append(
                {"id": 1 + len(annotations), "image_id": 10 + number, "category_id": 3 + category, **shape}
            )
        cv2.imwrite(str(folder / "images" / f"{number:02d}.png"), image)
    categories = [{"id": 3 + k, "name": name} for k, name in enumerate(CLASSES)]
    export = {"images": listed, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(export))


@pytest.mark.slow
def test_five_commands(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_export(tmp_path)
    assert BLOCK is not None
    commands = BLOCK[1].splitlines()
    assert len(commands) == 5
    for line in commands:
        words = line.partition("#")[0].split()
        if words[0] == "pip":  # the environment is this one, without torch; in a second one: test_onnx_predictor
            continue
        if words[0] == "steel":
            before = NO_TORCH if words[1] == "predict" else ""
            command = [sys.executable, "-c", STEEL.format(before=before), *words[1:]]
        else:
            command = [sys.executable, *("smoke" if word == "severstal" else word for word in words[1:])]
        variables = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    coco = COCO(str(tmp_path / "predictions" / "coco.json"))
    assert [category["name"] for category in coco.dataset["categories"]] == list(CLASSES)
    assert [image["file_name"] for image in coco.dataset["images"]] == [f"{number:02d}.png" for number in range(12)]
    lines = (tmp_path / "predictions" / "predictions.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["regions"]) for line in lines) == len(coco.anns)
    assert len(list((tmp_path / "predictions" / "overlays").iterdir())) == 12

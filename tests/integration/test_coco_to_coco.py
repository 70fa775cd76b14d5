"""The README's five commands: a COCO export of polygons goes in, and COCO's form comes out of a second environment,
without torch. Both ends are pycocotools' own: areas and boxes of the export, and what is read of the predictions."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.paths import ROOT
from tests.second_environment import make_environment, make_wheel

CLASSES = ("pit", "scratch")
SIZE = (64, 96)
NUM_IMAGES = 40
README = (ROOT / "README.md").read_text()
BLOCK = re.search(r"```\n((?:(?!```).)*annotations\.json.*?)```", README, re.DOTALL)
QUICK = ("--preset", "demo")
"""A recipe of minutes instead of hours, which asks for no weights: the small network learns what these images show."""


def polygons(rng: np.random.Generator, category: int) -> list[list[float]]:
    """An object: of the first class one triangle, of the second two bars that belong together."""
    left, top = (float(rng.integers(2, end)) for end in (50, 30))
    if category == 0:
        return [[left, top, left + 34.5, top + 4, left + 20, top + 28]]
    bar = np.array([[left, top], [left + 30, top + 2], [left + 30, top + 9], [left, top + 8]])
    return [(bar + np.array([0, down])).ravel().tolist() for down in (0, 14)]


def write_export(folder: Path) -> None:
    """Gray images with bright polygons, a third of them clean, and their export as the COCO tools keep it."""
    rng = np.random.default_rng(0)
    listed, annotations = [], []
    (folder / "images").mkdir()
    for number in range(NUM_IMAGES):
        image = rng.integers(40, 80, SIZE, dtype=np.uint8)
        listed.append({"id": 10 + number, "file_name": f"{number:02d}.png", "height": SIZE[0], "width": SIZE[1]})
        for category in range(2) if number % 6 == 5 else [number % 2] if number % 3 else []:
            shape = polygons(rng, category)
            whole = coco_mask.merge(coco_mask.frPyObjects(shape, *SIZE))
            image[coco_mask.decode(whole).astype(bool)] = 160 + 70 * category
            annotations.append(
                {
                    "id": 1 + len(annotations),
                    "image_id": 10 + number,
                    "category_id": 3 + category,
                    "segmentation": shape,
                    "area": float(coco_mask.area(whole)),
                    "bbox": coco_mask.toBbox(whole).tolist(),
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / "images" / f"{number:02d}.png"), image)
    categories = [{"id": 3 + k, "name": name} for k, name in enumerate(CLASSES)]
    export = {"images": listed, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(export))


def run(line: str, folder: Path, there: dict[str, str]) -> None:
    """A command as it stands in the README; the last two in the second environment.

    Training takes a quicker recipe, and the CPU.
    """
    words = shlex.split(line, comments=True)
    variables = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    if words[0] == "pip" or words[:2] == ["steel", "predict"]:
        variables = there
    elif words[0] == "steel":
        words = [sys.executable, "-c", "from steel.cli import main; raise SystemExit(main())", *words[1:]]
    else:
        words = [sys.executable, *words[1:], *(QUICK if words[2] == "train" else ())]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def masks_by_class(coco: COCO) -> dict[tuple[str, str], np.ndarray]:
    """(file name, class name) to what pycocotools makes of its shapes together."""
    masks = {}
    for image in coco.dataset["images"]:
        for category in coco.dataset["categories"]:
            found = coco.imgToAnns[image["id"]]
            own = [coco.annToMask(one) for one in found if one["category_id"] == category["id"]]
            masks[image["file_name"], category["name"]] = np.any([np.zeros(SIZE), *own], axis=0)
    return masks


def check_predictions(folder: Path) -> None:
    """What pycocotools reads of the predictions is what was drawn, for the most part, and what the other files say."""
    coco, export = (COCO(str(folder / name)) for name in ("predictions/coco.json", "annotations.json"))
    assert [category["name"] for category in coco.dataset["categories"]] == list(CLASSES)
    names = [f"{number:02d}.png" for number in range(NUM_IMAGES)]
    assert [image["file_name"] for image in coco.dataset["images"]] == names
    for one in coco.anns.values():
        mask = np.asfortranarray(coco.annToMask(one))
        assert one["area"] == mask.sum() > 0
        assert one["bbox"] == coco_mask.toBbox(coco_mask.encode(mask)).tolist()
    found, drawn = masks_by_class(coco), masks_by_class(export)
    marked = {key: mask for key, mask in drawn.items() if mask.any()}
    dice = [2 * (found[key] & mask).sum() / (found[key].sum() + mask.sum()) for key, mask in marked.items()]
    assert np.mean(dice) > 0.7

    lines = (folder / "predictions" / "predictions.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["regions"]) for line in lines) == len(coco.anns)
    assert len(list((folder / "predictions" / "overlays").iterdir())) == NUM_IMAGES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_commands(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_export(tmp_path)
    assert BLOCK is not None
    commands = BLOCK[1].splitlines()
    assert len(commands) == 5
    assert "`make wheel`" in README
    make_wheel(tmp_path / "checkout", tmp_path / "wheels")
    there = make_environment(tmp_path / "env")
    for line in commands:
        run(line, tmp_path, there)
    find = ["python", "-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('pycocotools'))"]
    assert subprocess.run(find, env=there, capture_output=True, text=True, check=True).stdout == "None None\n"
    check_predictions(tmp_path)

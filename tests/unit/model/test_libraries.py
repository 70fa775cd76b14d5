"""What the network's libraries are spared on import is there when it is asked for."""

import json
import subprocess
import sys

from tests.paths import ROOT

PROGRAM = """
import json, sys
import steel
bare = sorted({"numpy", "torch", "cv2"} & sys.modules.keys())
import steel.inference.predictor
spared = sorted({"wandb", "torch._dynamo", "sympy"} & sys.modules.keys())

import torch
from torchvision.ops import roi_align
pooled = roi_align(torch.arange(16.0).reshape(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 1, aligned=True)

import torch._dynamo
import wandb
double = torch.compile(lambda x: 2 * x, backend="eager")
print(json.dumps([bare, spared, pooled.item(), double(torch.ones(2)).tolist(), hasattr(wandb, "init")]))
print(json.dumps([torch._dynamo.__file__ is not None, hasattr(torch._dynamo.utils, "counters")]))
"""


def test_the_compiler_and_wandb_are_imported_by_those_who_use_them() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == [[], [], 7.5, [2.0, 2.0], True]  # the mean of 0 to 15 is 7.5
    assert second == [True, True]

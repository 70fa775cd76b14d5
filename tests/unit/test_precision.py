"""One decision on mixed precision for training, evaluation and prediction."""

import pytest
import torch

from steel.config import NetworkConfig
from steel.distributed.runtime import _choose_precision
from steel.errors import InputError
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel
from steel.precision import choose_precision


def test_a_gpu_that_only_emulates_bf16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of 2018 does, of which torch says that it supports bf16."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_precision("auto", "cuda") == "no"
    assert choose_precision("bf16", "cuda") == "bf16"
    assert _choose_precision("auto", cpu=False) == "no"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert choose_precision("auto", "cuda") == "bf16"


@pytest.mark.parametrize("fast", [True, False])
def test_training_and_prediction_decide_alike(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    model = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, 1, decoder_channels=(8, 8)))
    assert _choose_precision("auto", cpu=True) == ("bf16" if fast else "no")
    predictor = Predictor([model], mean=(0.5,), std=(0.2,), device="cpu")
    assert predictor.precision == ("bf16" if fast else "no")


def test_the_launcher_speaks_for_auto_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr("steel.precision.has_native_bf16", lambda device_type: False)
    assert _choose_precision("auto", cpu=True) == "bf16"
    assert _choose_precision("no", cpu=True) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(InputError, match=r"accelerate launch --mixed_precision fp8: precision 'fp8' is unknown"):
        _choose_precision("auto", cpu=True)


def test_fp16_needs_a_gpu() -> None:
    """Accelerate would train in float32 without a word."""
    assert choose_precision("fp16", "cuda") == "fp16"
    with pytest.raises(InputError, match=r"--runtime\.precision fp16: precision fp16 needs a GPU"):
        _choose_precision("fp16", cpu=True)

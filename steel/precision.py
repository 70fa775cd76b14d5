"""Which mixed precision a forward pass takes: decided here for training, evaluation and prediction alike."""

import torch

from steel.errors import InputError

PRECISIONS = ("auto", "no", "bf16", "fp16")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""In which convolutions and matrices are multiplied, by the name that `choose_precision` gives."""


def choose_precision(precision: str, device_type: str) -> str:
    """`precision`, and for `auto` what the device is good at: `no`, `bf16` or `fp16`.

    Raises:
        InputError: an unknown name, or fp16 where there is no GPU: training would quietly take float32 instead.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; choose {', '.join(PRECISIONS)}")
    if precision == "fp16" and device_type != "cuda":
        raise InputError("precision fp16 needs a GPU; choose auto, no or bf16")
    if precision == "auto":
        return "bf16" if has_native_bf16(device_type) else "no"
    return precision


def has_native_bf16(device_type: str) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 there, not merely emulated."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

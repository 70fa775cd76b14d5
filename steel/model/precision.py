"""Which mixed precision a forward pass takes, and which one a device is good at."""

import torch

from steel.errors import InputError

PRECISIONS = ("auto", "no", "bf16", "fp16")


def choose_precision(precision: str, device_type: str) -> str:
    """The precision of a forward pass, `no`, `bf16` or `fp16`; for `auto` the one that the device is good at.

    Prediction and evaluation both ask here, and nobody else, so that they see the same network.

    Raises:
        InputError: an unknown name.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; choose {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bf16" if has_native_bf16(device_type) else "no"
    return precision


def has_native_bf16(device_type: str) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 there, not merely emulated."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

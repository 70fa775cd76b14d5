"""Which mixed precision a device is good at."""

import torch


def has_native_bf16(device_type: str) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 there, not merely emulated."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

"""Which of a GPU's kernels training takes. Validation takes those of prediction: PyTorch's own choice."""

import contextlib
from collections.abc import Iterator

import torch

from steel.config import RuntimeConfig


@contextlib.contextmanager
def training_kernels(config: RuntimeConfig) -> Iterator[None]:
    """For the block, as `cudnn_benchmark` and `tf32` of the run say; afterwards as before. Changes nothing on a CPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = config.cudnn_benchmark, config.tf32, config.tf32
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before

"""What libraries say when memory runs out or a rank is lost, in their own words, and what only sounds like it."""

import errno

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist

from steel.distributed.joining import is_broken_collective
from steel.errors import InputError, LostRankError, OutOfMemoryError, is_out_of_memory, out_of_memory_as

NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "
PAIR = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] "
DEBUG = "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\nDevice-side assertion tracking was not enabled by user."

OUT_OF_MEMORY = {
    "the allocator of torch for CUDA": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB."
    ),
    "CUDA itself": torch.AcceleratorError(
        f"CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'\n{DEBUG}"
    ),
    "CUDA itself, in earlier versions": RuntimeError(f"CUDA error: out of memory\n{DEBUG}"),
    "cuDNN 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    "NCCL": dist.DistBackendError(
        f"{NCCL}unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.29.3\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    "the allocator of torch for CPUs": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "a system call": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "Python": MemoryError(),
    "ONNX Runtime": Exception(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"
    ),
}
LOST = {
    "gloo, a peer that died": RuntimeError(
        f"{PAIR}Connection closed by peer [127.0.0.1]:5309. This is typically caused"
    ),
    "gloo, a peer that closed": RuntimeError(f"{PAIR}Read error [10.0.0.2]:5309: Connection reset by peer"),
    "gloo, a peer that is silent": RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv "
        "operation to complete"
    ),
    "gloo, a group that does not form": RuntimeError("Gloo connectFullMesh failed with [127.0.1.1]:33011"),
    "NCCL, a peer that died": dist.DistBackendError(
        f"{NCCL}remote process exited or there was a network error, NCCL version 2.29.3\nncclRemoteError: A call "
        "failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\nsocketProgress: "
        "Connection closed by remote peer node2<45614>"
    ),
    "NCCL, after an abort": RuntimeError("NCCL communicator was aborted on rank 1."),
    "the store": dist.DistNetworkError("Connection reset by peer"),
    "the store, in time": dist.DistStoreError("Timed out after 1801 seconds waiting for clients. 1/2 clients joined."),
}
NEITHER = {
    "S3": ValueError("Connection was closed before we received a valid response from endpoint URL"),
    "a web server": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "a pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "CUDA": torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered\n{DEBUG}"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    "a shape": RuntimeError(
        "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0"
    ),
    "a user's mistake": InputError("a data-loading process was killed; most often it has run out of memory"),
    "what was told before": OutOfMemoryError("out of memory (CUDA out of memory); a smaller batch needs less"),
    "what another rank said": LostRankError("rank 1 (node pid 7) failed: out of memory (CUDA out of memory)"),
}


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_memory_that_ran_out_is_no_lost_rank(name):
    assert is_out_of_memory(OUT_OF_MEMORY[name])
    assert not is_broken_collective(OUT_OF_MEMORY[name])


@pytest.mark.parametrize("name", LOST)
def test_a_lost_rank_is_no_lack_of_memory(name):
    assert is_broken_collective(LOST[name])
    assert not is_out_of_memory(LOST[name])


@pytest.mark.parametrize("name", NEITHER)
def test_what_only_sounds_like_it(name):
    assert not is_out_of_memory(NEITHER[name]) and not is_broken_collective(NEITHER[name])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(2**50),
        lambda: np.empty(2**60, np.uint8),
        lambda: cv2.resize(np.zeros((8, 8), np.uint8), (2**30, 2**20)),
    ],
    ids=["torch", "numpy", "opencv"],
)
def test_more_than_this_machine_has(ask):
    with pytest.raises(OutOfMemoryError, match=r"^out of memory \(.+\); take less$"), out_of_memory_as("take less"):
        ask()


def test_other_errors_stay_as_they_are():
    with pytest.raises(KeyError), out_of_memory_as("take less"):
        raise KeyError("x")

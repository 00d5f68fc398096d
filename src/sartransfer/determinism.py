"""Computing on a GPU so that the same seed gives the same numbers."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Compute on `device` so that a training done twice on the same machine ends with the same numbers.

    On the CPU nothing is changed: there it is so already. On a GPU PyTorch is told to take its deterministic kernels
    (https://pytorch.org/docs/stable/notes/randomness.html); it warns of an operation that has none, as some networks of
    timm and segmentation_models_pytorch may use, and goes on. What was set before is set again afterwards.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    if not device.startswith("cuda"):
        yield
        return
    # cuBLAS reads it when it is first called in a process; after that it is too late, and PyTorch says so.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # its attribute is made at run time
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    kept = cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory
    cuda: Any = torch.backends.cuda
    attention = cuda.cudnn_sdp_enabled(), cuda.mem_efficient_sdp_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Benchmarking chooses kernels by time, hence by chance. Memory is filled for those who read what they never wrote.
    cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory = False, True, False
    # These two kinds of attention add up gradients in any order unless every warning is an error; the others do not.
    cuda.enable_cudnn_sdp(False)
    cuda.enable_mem_efficient_sdp(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory = kept
        cuda.enable_cudnn_sdp(attention[0])
        cuda.enable_mem_efficient_sdp(attention[1])

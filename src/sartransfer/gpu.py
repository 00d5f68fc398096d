"""The few calls that are about a GPU: pinned memory, copies that do not wait, and float32 that stays float32."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def on_gpu(device: str) -> bool:
    """Say whether a device is a CUDA GPU."""
    return device.startswith("cuda")


def layout(device: str, dtype: torch.dtype = torch.float32) -> torch.memory_format:
    """Return how images lie in memory where networks are fastest: channels last, but for float32 on a GPU.

    Measured on an H200 (`benchmarks/RESULTS.md`): a U-Net in float32 takes .61 s a scene with channels last and .46
    without, in bf16 .14 and .17.
    """
    if on_gpu(device) and dtype == torch.float32:
        return torch.contiguous_format
    return torch.channels_last


def gpu_bytes(device: str) -> int | None:
    """Return the memory of a GPU in bytes, used or not; None for the CPU.

    All of it, not what is free now: the same call must plan the same windows after a kill.
    """
    return int(torch.cuda.get_device_properties(device).total_memory) if on_gpu(device) else None


def empty(shape: tuple[int, ...], device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an empty tensor on the CPU, from which a copy to `device` need not wait."""
    return torch.empty(shape, dtype=dtype, pin_memory=on_gpu(device))


def send(image: Tensor, device: str) -> Tensor:
    """Return a tensor on a device; from pinned memory this returns before it is copied.

    torch does not give pinned memory out again before the copies from it are done.
    """
    return image.to(device, non_blocking=True)


def fetch(answer: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; the call waits until it is there, in memory that is not pinned."""
    if not answer.is_cuda:
        return lambda: answer
    answer = answer.contiguous()
    host = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
    host.copy_(answer, non_blocking=True)
    done = mark(answer.device)

    def arrived() -> Tensor:
        done()
        return host.clone()  # whoever keeps it does not keep pinned memory

    return arrived


def mark(device: str | torch.device) -> Callable[[], None]:
    """Return a call that waits until a GPU has done all that it was given until now; on the CPU all is done."""
    if torch.device(device).type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


@contextlib.contextmanager
def float32_kept(device: str) -> Iterator[None]:
    """Convolve in float32 on a GPU: torch would take TF32 there, with 10 bits of mantissa, unless told otherwise.

    ``torch.set_float32_matmul_precision("high")`` asks for TF32, and is heard here. (CUDA semantics, "TensorFloat-32",
    pytorch.org/docs/stable/notes/cuda.html.)
    """
    if not on_gpu(device):
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.get_float32_matmul_precision() != "highest"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

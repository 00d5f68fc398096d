"""The network in torch itself, in float32 or bf16, on the CPU or a GPU, laid out in memory as is fastest there."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sartransfer.gpu import float32_kept, layout


def load_torch(part: nn.Module, examples: Sequence[tuple[Tensor, ...]], device: str) -> Callable[..., Tensor]:
    """Return a part in float32; see `kinds.Load`."""
    return _load(part, device, torch.float32)


def load_torch_bf16(
    part: nn.Module, examples: Sequence[tuple[Tensor, ...]], device: str
) -> Callable[..., Tensor]:
    """Return a part whose weights and maps are bf16 (accumulated in float32); see `kinds.Load`."""
    return _load(part, device, torch.bfloat16)


def _load(part: nn.Module, device: str, dtype: torch.dtype) -> Callable[..., Tensor]:
    form = layout(device, dtype)
    ready = copy.deepcopy(part).to(device=device, dtype=dtype, memory_format=form).eval()  # type: ignore[call-overload]

    def run(*inputs: Tensor) -> Tensor:
        """Answer where the inputs are: what is on a GPU already stays there."""
        with torch.inference_mode(), float32_kept(device):
            given = (x.to(device=device, dtype=dtype).contiguous(memory_format=form) for x in inputs)
            answer: Tensor = ready(*given)
            return answer.float().to(inputs[0].device)

    return run

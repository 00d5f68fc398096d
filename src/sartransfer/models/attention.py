"""Attention as the processor likes it while a network trains in bfloat16."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

LIMIT = 2**26
"""Weights of one attention (images x heads x tokens x tokens) above which the fused kernel is kept: 128 MiB in
bfloat16, and training holds on to two such matrices a block."""


@contextlib.contextmanager
def quick_attention(model: nn.Module) -> Iterator[None]:
    """Let timm's attention in `model` train by plain matrix products where those are faster than its fused kernel.

    That is so on the CPU in bfloat16: PyTorch's fused kernel there multiplies without the processor's bfloat16
    instructions (577 tokens, 3 heads of 64, 16 images, one thread: 179 ms forward and backward, against 67 ms as
    products). What is computed is the same; the attention weights are rounded to bfloat16, as everything else is. In
    evaluation, on a GPU, in float32 and for more weights than `LIMIT` the fused kernel stays, which needs no memory
    for them. The choice follows from shapes alone, so the same seed gives the same numbers.

    Args:
        model: any network; those without timm's attention stay as they are.
    """
    parts: list[Any] = [
        m for m in model.modules() if getattr(m, "fused_attn", False) and hasattr(m, "num_heads")
    ]
    hooks = [part.register_forward_pre_hook(_choose) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in parts:
            part.fused_attn = True


def _choose(part: Any, given: tuple[Any, ...]) -> None:
    x = given[0]  # (images, tokens, channels); of windows of images in a Swin transformer
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    few = x.shape[0] * part.num_heads * x.shape[1] ** 2 <= LIMIT
    part.fused_attn = not (part.training and x.device.type == "cpu" and half and few)

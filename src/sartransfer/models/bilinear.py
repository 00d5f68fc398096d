"""Bilinear enlargement whose gradient is the same in every run."""

import torch
from torch import Tensor
from torch.nn import functional as F


def enlarged(x: Tensor, *, size: tuple[int, int] | None = None, factor: int | None = None) -> Tensor:
    """Return images (B, C, h, w) enlarged bilinearly to `size` = (H, W), or by a factor (`align_corners` false).

    The gradient of PyTorch's own kernel adds up in any order on a GPU. Where deterministic algorithms are asked for,
    the same weights are applied as two matrix products, in float32: equal but for rounding.
    """
    if not (x.requires_grad and x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.interpolate(x, size=size, scale_factor=factor, mode="bilinear", align_corners=False)
    height, width = x.shape[-2:]
    return by_matrices(x, size or (height * (factor or 1), width * (factor or 1)))


def by_matrices(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (B, C, h, w) enlarged to `size`: rows and columns each times a matrix of the bilinear weights."""
    with torch.autocast(x.device.type, enabled=False):
        rows, cols = (_weights(n, m, x) for n, m in zip(x.shape[-2:], size, strict=True))
        return (rows @ x.float() @ cols.mT).to(x.dtype)


def _weights(given: int, wanted: int, x: Tensor) -> Tensor:
    """Return the matrix (wanted, given) that interpolates along one side."""
    unit = torch.eye(given, device=x.device)[None]
    return F.interpolate(unit, size=wanted, mode="linear", align_corners=False)[0].mT

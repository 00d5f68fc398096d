"""Bilinear enlargement by matrices: PyTorch's own, by values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from sartransfer.models.bilinear import by_matrices, enlarged


@pytest.mark.parametrize("size", [(32, 48), (4, 6), (11, 17), (5, 7), (64, 6)])
def test_matrices_give_what_interpolate_gives(size):
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    (wanted,) = torch.autograd.grad(expected, x, upstream)
    found = by_matrices(x, size)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_the_sum_is_in_float32_under_mixed_precision():
    x = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = by_matrices(x, (20, 20))
    expected = F.interpolate(x.float(), size=(20, 20), mode="bilinear", align_corners=False)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0.01, atol=1e-3)


def test_on_the_cpu_nothing_is_changed():
    x = torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.equal(enlarged(x, factor=16), F.interpolate(x, scale_factor=16, mode="bilinear"))
    assert torch.equal(enlarged(x, size=(9, 30)), F.interpolate(x, size=(9, 30), mode="bilinear"))

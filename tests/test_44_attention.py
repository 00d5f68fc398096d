"""Attention by matrix products while training on the CPU in bfloat16, and only then."""

import pytest
import torch
from torch.nn import functional as F

from sartransfer.models import attention
from sartransfer.models.attention import quick_attention
from sartransfer.models.prithvi_encoder import PrithviEncoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PrithviEncoder(2, width=64, depth=2, heads=4, patch=4)


@pytest.fixture
def fused(monkeypatch):
    """Count the calls of PyTorch's fused attention."""
    calls = []
    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *given, **more: calls.append(1) or plain(*given, **more)
    )
    return calls


def gradients(encoder, dtype):
    image = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        (out,) = encoder(image)
    out.float().square().mean().backward()
    return out.detach().float(), torch.cat([p.grad.flatten() for p in encoder.parameters()])


def test_it_is_the_same_attention(encoder, fused):
    """In bfloat16 it is as near to float32 as the fused kernel is (within half as much again)."""
    exact = gradients(encoder, torch.float32)
    kernel = gradients(encoder, torch.bfloat16)
    assert len(fused) == 4
    with quick_attention(encoder):
        products = gradients(encoder, torch.bfloat16)
        again = gradients(encoder, torch.bfloat16)
    assert len(fused) == 4  # none more
    for mine, theirs, true, twice in zip(products, kernel, exact, again, strict=True):
        assert torch.equal(mine, twice)
        assert (mine - true).norm() <= 1.5 * (theirs - true).norm()
        assert (mine - true).norm() < 0.02 * true.norm()


@pytest.mark.parametrize("case", ["evaluated", "float32", "many", "after"])
def test_else_the_fused_kernel_stays(encoder, fused, monkeypatch, case):
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    if case == "many":
        monkeypatch.setattr(attention, "LIMIT", 3 * 4 * 65**2 - 1)
    encoder.train(case != "evaluated")
    with quick_attention(encoder):
        if case != "after":
            gradients(encoder, dtype)
    if case == "after":
        gradients(encoder, dtype)
    assert len(fused) == 2


def test_the_limit_itself_is_taken_by_products(encoder, fused, monkeypatch):
    monkeypatch.setattr(
        attention, "LIMIT", 3 * 4 * 65**2
    )  # 3 images, 4 heads, 64 patches and the class token
    with quick_attention(encoder):
        gradients(encoder, torch.bfloat16)
    assert not fused


def test_it_is_given_back_after_an_error(encoder, fused):
    encoder.requires_grad_(False)  # nothing to go back through
    with pytest.raises(RuntimeError, match="require grad"), quick_attention(encoder):
        gradients(encoder, torch.bfloat16)
    encoder.requires_grad_(True)
    gradients(encoder, torch.bfloat16)
    assert len(fused) == 2

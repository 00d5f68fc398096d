"""Whole images in validation: by windows as in one pass."""

import numpy as np
import pytest
import torch

from sartransfer import predict, whole_images
from sartransfer.models import build_model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18-aspp", {"aspp_channels": 8, "rates": [1, 2, 3]}),
        ("unet-resnet18", {"decoder_channels": [8, 8, 4, 4]}),
    ],
)
def test_large_images_are_answered_as_in_one_pass(monkeypatch, name, options):
    torch.manual_seed(0)
    model = build_model(name, 2, 3, **options).eval()
    images = torch.randn(2, 2, 200, 176)
    images[:, :, :40] = 0.0  # what lies beyond the cut
    with torch.no_grad():
        whole = whole_images.whole_logits(model, images)
        assert torch.equal(whole, model(images))
        monkeypatch.setattr(whole_images, "ONE_PASS_PIXELS", 64 * 64)
        monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 64 * 64)
        monkeypatch.setattr(predict, "CORE", 64)
        asked = []
        windows = predict.predict_windows
        monkeypatch.setattr(
            whole_images, "predict_windows", lambda *a: (asked.append(w) or w for w in windows(*a))
        )
        parts = whole_images.whole_logits(model, images)
    assert len(asked) == 2 * 4 * 3
    assert parts.dtype == torch.float32
    np.testing.assert_allclose(parts.numpy(), whole.numpy(), atol=2e-4)

"""Prediction: several views of an image, and scenes of several files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sartransfer.errors import InputError
from sartransfer.models import build_model
from sartransfer.predict import predict_logits
from sartransfer.readers import open_files


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("resnet18-aspp", 2, 3, aspp_channels=8).eval()


@pytest.mark.parametrize("views", [4, 8])
def test_views_are_the_mean_probability_of_flips_and_turns(views: int) -> None:
    model = small_network()
    image = torch.randn(1, 2, 40, 56, generator=torch.Generator().manual_seed(1))
    wanted = torch.zeros(1, 3, 40, 56)
    with torch.inference_mode():
        for turns in (0, 2) if views == 4 else (0, 1, 2, 3):
            for mirror in (False, True):
                view = np.rot90(image.numpy()[..., ::-1] if mirror else image.numpy(), turns, axes=(2, 3))
                shares = model(torch.from_numpy(view.copy())).softmax(1).numpy()
                back = np.rot90(shares, -turns, axes=(2, 3))
                wanted += torch.from_numpy((back[..., ::-1] if mirror else back).copy())
    found = predict_logits(model, image, views=views).softmax(1)
    torch.testing.assert_close(found, wanted / views, atol=1e-5, rtol=0)


def test_all_views_make_the_answer_turn_with_the_image() -> None:
    model = small_network()
    image = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(2))
    turned = predict_logits(model, torch.rot90(image, 1, (2, 3)), views=8)
    torch.testing.assert_close(
        turned, torch.rot90(predict_logits(model, image, views=8), 1, (2, 3)), atol=1e-4, rtol=0
    )
    one = predict_logits(model, torch.rot90(image, 1, (2, 3)))
    assert not torch.allclose(one, torch.rot90(predict_logits(model, image), 1, (2, 3)), atol=1e-2)


def test_another_number_of_views_is_refused() -> None:
    with pytest.raises(InputError, match="Must be one of: 1, 4, 8"):
        predict_logits(small_network(), torch.zeros(1, 2, 32, 32), views=3)


def test_two_files_are_one_scene(tmp_path: Path) -> None:
    before = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(before).save(tmp_path / "b.png")
    Image.fromarray(before + 100).save(tmp_path / "a.png")
    files = f"{tmp_path / 'b.png'}|{tmp_path / 'a.png'}"
    scene = open_files(files, "before=digital_number@reference|after=digital_number@flood")
    assert scene.names == ("before", "after")
    np.testing.assert_array_equal(scene.read().data, np.stack([before, before + 100]))
    with pytest.raises(InputError, match="2 files, but bands for 1"):
        open_files(files, "before=digital_number")

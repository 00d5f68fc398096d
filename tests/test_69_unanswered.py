"""A network that says NaN or infinity of a valid pixel makes no map: argmax would call it a class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_69_whole_scenes import BANDS, CLASSES, CONTRACT, NETWORKS, scene_of

from sartransfer import predict
from sartransfer.errors import InputError
from sartransfer.map_layers import plan_layers, window_values
from sartransfer.mapping import predict_scene
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.predict import plan_scene, predict_classes, predict_windows
from sartransfer.scene import ArraySource, Scene
from sartransfer.windowed import NO_ANSWER, all_answered, labels, unanswered
from sartransfer.windows import EXACT, ONE_PASS, OVERLAP, SPLIT

torch.set_num_threads(1)
LOWEST = float(np.finfo(np.float32).min)  # what GDAL and others write as nodata of float32


def checkpoint_of(name):
    return Checkpoint(NETWORKS[name](), CLASSES, CONTRACT, {}, Path(f"{name}/best.safetensors"))


def damaged(scene, value=LOWEST):
    """The scene with columns of an undeclared nodata at its lower edge."""
    reading = scene.read()
    values = np.where(reading.valid, reading.data, np.nan).astype(np.float32)
    values[:, -9:, 40:43] = value
    return Scene("scene", BANDS, scene.height, scene.width, ArraySource(values))


@pytest.fixture
def windows(monkeypatch):
    def cut(method):
        if method != ONE_PASS:
            monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
            monkeypatch.setattr(predict, "CORE", 64)

    return cut


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("unet", ONE_PASS, {}),
        ("unet", ONE_PASS, {"probabilities": "uint8"}),
        ("unet", EXACT, {}),
        ("unet", EXACT, {"views": 4}),
        ("unet", EXACT, {"entropy": True}),
        ("aspp", SPLIT, {}),
        ("aspp", SPLIT, {"views": 4}),
        ("aspp-global", SPLIT, {}),
        ("aspp-global", SPLIT, {"probabilities": True}),
    ],
)
def test_an_undeclared_nodata_makes_no_map(tmp_path, windows, name, method, options):
    windows(method)
    network, scene = checkpoint_of(name), scene_of(150, 131)
    views = options.get("views", 1)
    assert plan_scene(network.model, 150, 131, views=views).method == method
    assert predict_scene(
        network, scene, tmp_path / "good.tif", **options
    ).counts  # NaN is nodata and no answer
    with (
        np.errstate(all="ignore"),
        pytest.raises(InputError, match=r"valid pixels.* no finite answer.*-3\.4e38"),
    ):
        predict_scene(network, damaged(scene), tmp_path / "bad.tif", **options)
    assert not (tmp_path / "bad.tif").exists()


def test_several_networks_and_overlapped_windows(tmp_path, monkeypatch):
    networks, scene = [checkpoint_of("unet"), checkpoint_of("unet-resnet18")], damaged(scene_of(70, 64))
    with np.errstate(all="ignore"), pytest.raises(InputError, match="no finite answer"):
        predict_scene(networks, scene, tmp_path / "m.tif")
    plan = replace(plan_scene(networks[0].model, 70, 64), method=OVERLAP, core=32, halo=32)
    with np.errstate(all="ignore"), pytest.raises(InputError, match="no finite answer"):
        list(predict_classes(networks[0], networks[0].model, scene, "cpu", plan=plan))


@pytest.mark.parametrize("name", ["aspp", "aspp-global"])
def test_the_split_stage_tells_the_same_pixels_as_logits_do(windows, name):
    """Where coarse answers are not finite, classes are those of the enlarged logits, and these tell which pixels."""
    windows(SPLIT)
    network, scene = checkpoint_of(name), damaged(scene_of(150, 131), np.nan)
    plain = [(w, c.copy()) for w, c, _ in predict_classes(network, network.model, scene, "cpu")]
    for (window, classes), (other, logits, _) in zip(
        plain, predict_windows(network, network.model, scene, "cpu"), strict=True
    ):
        assert window == other
        best = logits.topk(2, dim=0).values
        clear = (best[0] - best[1] > 1e-5).numpy()
        np.testing.assert_array_equal(classes[clear], logits.argmax(0).numpy()[clear])


def test_pixels_that_are_not_valid_may_have_any_answer(tmp_path):
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    logits[1, 2, 3], logits[0, 4, 6], logits[:, 0, 0] = torch.nan, torch.inf, -torch.inf
    valid = np.ones((5, 7), bool)
    valid[2, 3] = valid[4, 6] = valid[0, 0] = False
    layers = plan_layers(tmp_path / "m.tif", CLASSES)
    (classes,) = window_values(layers, [logits], valid)
    wanted = logits.nan_to_num(0, 0, 0).argmax(0).numpy()
    np.testing.assert_array_equal(classes[0][valid], wanted[valid])
    assert (classes[0][~valid] == 255).all()
    for row, col in ((2, 3), (4, 6), (0, 0)):
        one = valid.copy()
        one[row, col] = True
        with pytest.raises(InputError, match=r"^1 valid pixels have no finite answer"):
            window_values(layers, [logits], one)


def test_labels_are_argmax_but_where_there_is_no_answer():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 9, 11, generator=generator)
    assert all_answered(logits)
    assert torch.equal(labels(logits).long(), logits.argmax(0))
    logits[2, 1, 1] = -torch.inf  # a mean probability of 0
    assert all_answered(logits)
    assert torch.equal(labels(logits).long(), logits.argmax(0))
    huge = torch.full((2, 3, 3), 3e38)  # the sum is too large, the logits are not
    assert not unanswered(huge).any()
    assert (labels(huge) == 0).all()
    for place, odd in enumerate((torch.nan, torch.inf)):
        logits[place, 3, 4 + place] = odd
    logits[:, 8, 8] = -torch.inf
    found = labels(logits)
    expected = torch.zeros(9, 11, dtype=torch.bool)
    expected[3, 4] = expected[3, 5] = expected[8, 8] = True
    assert torch.equal(unanswered(logits), expected)
    assert torch.equal(found == NO_ANSWER, expected)
    assert torch.equal(found[~expected].long(), logits.argmax(0)[~expected])

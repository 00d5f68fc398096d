"""Maps on a GPU: windows are one pass, classes made there are those of the logits, reading ahead changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sartransfer import predict
from sartransfer.ahead import Flow
from sartransfer.contract import InputBand, InputContract
from sartransfer.geotiff import write_geotiff
from sartransfer.gpu import empty, fetch, float32_kept, mark, send
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, write_checkpoint
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.predict import open_engine, plan_flow, plan_scene, predict_classes, predict_windows
from sartransfer.radar.units import parse_unit
from sartransfer.scene import ArraySource, Band, Scene
from sartransfer.windows import EXACT, OVERLAP, SPLIT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
torch.set_num_threads(1)
CLASSES = ("land", "water", "ice")
CONTRACT = InputContract(tuple(InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper()) for p in ("vv", "vh")))
BANDS = tuple(Band(f"sigma0_{p}_db", parse_unit("sigma0_db"), p.upper()) for p in ("vv", "vh"))
SIZE = (700, 531)
METHODS = {"unet-resnet18": EXACT, "resnet18-aspp": SPLIT}


def network(name):
    torch.manual_seed(0)
    model = build_model(name, 2, 3)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 2, 96, 96))
    return model.eval()


def values_of():
    values = np.random.default_rng(0).normal(size=(2, *SIZE)).astype(np.float32)
    values[:, :70, 100:200] = np.nan
    return values


def given(name):
    """A network on the GPU and a scene that goes through it in one pass."""
    model = network(name).to("cuda")
    scene = Scene("scene", BANDS, *SIZE, ArraySource(values_of()))
    return Checkpoint(model, CLASSES, CONTRACT, {}, None), scene


def by_windows(monkeypatch, model, core=192):
    """A plan of windows of `core` pixels."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "GPU_CORE", core)
    monkeypatch.setattr(predict, "HALO", 96)
    return plan_scene(model, *SIZE, device="cuda")


def joined(function, checkpoint, scene, **options):
    """All windows in their places, each pixel given once."""
    found, times = None, np.zeros(SIZE, dtype=int)
    for window, answer, valid in function(checkpoint, checkpoint.model, scene, "cuda", **options):
        answer = torch.as_tensor(answer)
        assert not answer.is_cuda
        if found is None:
            found = torch.zeros(*answer.shape[:-2], *SIZE, dtype=answer.dtype)
        found[(..., *window.slices)] = answer
        times[window.slices] += 1
        np.testing.assert_array_equal(valid, checkpoint.contract.read(scene, window).valid)
    assert (times == 1).all()
    return found


def clear(logits, bound):
    """Where the margin is larger than rounding."""
    best = logits.topk(2, dim=0).values
    return best[0] - best[1] > 2 * bound


@pytest.mark.parametrize("views", [1, 4])
@pytest.mark.parametrize("name", METHODS)
def test_windows_are_one_pass_and_classes_those_of_the_logits(monkeypatch, name, views):
    checkpoint, scene = given(name)
    whole = joined(predict_windows, checkpoint, scene, views=views)
    plan = by_windows(monkeypatch, checkpoint.model)
    assert plan.method == METHODS[name]
    found = joined(predict_windows, checkpoint, scene, plan=plan, views=views)
    bound = 1e-5 * max(1.0, float(whole.abs().max()))
    torch.testing.assert_close(found, whole, atol=bound, rtol=0)
    labels = joined(predict_classes, checkpoint, scene, plan=plan, views=views)
    assert labels.dtype == torch.uint8
    sure = clear(whole, bound)
    assert sure.float().mean() > 0.99
    assert torch.equal(labels[sure].long(), whole.argmax(0)[sure])


@pytest.mark.parametrize("name", METHODS)
def test_reading_ahead_changes_nothing(monkeypatch, name):
    checkpoint, scene = given(name)
    plan = by_windows(monkeypatch, checkpoint.model)
    flow = plan_flow(scene, "cuda")
    assert flow.ahead
    one_by_one = Flow("cuda")
    wanted = joined(predict_windows, checkpoint, scene, plan=plan, flow=one_by_one)
    for each in (flow, replace(flow, rows=0, threads=3), replace(flow, ahead=1, lag=3)):
        found = joined(predict_windows, checkpoint, scene, plan=plan, flow=each)
        torch.testing.assert_close(found, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())), rtol=0)


def test_features_that_do_not_fit_the_gpu_are_kept_by_the_machine(monkeypatch):
    checkpoint, scene = given("resnet18-aspp")
    plan = by_windows(monkeypatch, checkpoint.model)
    wanted = joined(predict_windows, checkpoint, scene, plan=plan)
    monkeypatch.setattr(predict, "features_fit", lambda *_: False)
    found = joined(predict_windows, checkpoint, scene, plan=plan)
    torch.testing.assert_close(found, wanted, atol=1e-5 * max(1.0, float(wanted.abs().max())), rtol=0)


def test_overlapped_windows_are_those_of_the_cpu(monkeypatch):
    checkpoint, scene = given("unet-resnet18")
    plan = replace(by_windows(monkeypatch, checkpoint.model), method=OVERLAP, core=96, halo=96)
    found = joined(predict_windows, checkpoint, scene, plan=plan)
    model = network("unet-resnet18")
    here = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    for window, logits, _ in predict_windows(here, model, scene, "cpu", plan=plan):
        torch.testing.assert_close(
            found[(slice(None), *window.slices)].softmax(0), logits.softmax(0), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("engine", ["torch", "torch-bf16", "auto"])
@pytest.mark.parametrize("name", METHODS)
def test_engines_on_the_gpu_give_the_networks_answer(monkeypatch, name, engine):
    checkpoint, scene = given(name)
    plan = by_windows(monkeypatch, checkpoint.model)
    wanted = joined(predict_windows, checkpoint, scene, plan=plan)
    chosen = open_engine(engine, checkpoint, checkpoint.model, scene, "cuda")
    assert chosen.engine in (("eager", "torch") if engine == "auto" else (engine,))
    found = joined(predict_windows, checkpoint, scene, plan=plan, engine=chosen)
    share = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    assert share < (0.05 if engine == "torch-bf16" else 1e-4)


def test_a_map_made_on_the_gpu_is_that_of_the_cpu(monkeypatch, tmp_path):
    path = write_checkpoint(
        tmp_path / "best",
        network("resnet18-aspp"),
        {"classes": list(CLASSES), "contract": CONTRACT.to_json()},
    )
    scene = write_geotiff(tmp_path / "scene.tif", values_of(), descriptions=[b.name for b in BANDS])
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "GPU_CORE", 192)
    here = predict_scene(path, scene, tmp_path / "cpu.tif", entropy=True)
    there = predict_scene(path, scene, tmp_path / "gpu.tif", entropy=True, device="cuda")
    alone = predict_scene(path, scene, tmp_path / "classes.tif", device="cuda")
    pixels = sum(here.counts.values())
    for found in (there, alone):
        assert sum(found.counts.values()) == pixels
        assert all(abs(found.counts[c] - here.counts[c]) <= 1e-3 * pixels for c in CLASSES)


def test_copies_arrive_whole_and_float32_stays_float32():
    image = empty((2, 300, 200), "cuda")
    assert image.is_pinned()
    image.copy_(torch.randn(2, 300, 200, generator=torch.Generator().manual_seed(0)))
    there = send(image, "cuda")
    turned = fetch(there.transpose(1, 2))
    mark("cuda")()
    back = turned()
    assert torch.equal(back, image.transpose(1, 2))
    assert not back.is_pinned()
    conv = torch.nn.Conv2d(64, 64, 3, bias=False)
    maps = torch.randn(1, 64, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), float32_kept("cuda"):
        wanted = conv.double()(maps.double())
        found = conv.float().to("cuda")(maps.to("cuda")).cpu()
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()  # TF32: about 3e-4

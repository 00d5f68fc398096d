"""Windows that are read and begun ahead, as for a GPU, on the CPU: the same answers, files and errors as one by one."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from sartransfer import mapping, predict
from sartransfer.ahead import SERIAL, Flow
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError
from sartransfer.geotiff import write_geotiff
from sartransfer.gpu import empty, fetch, float32_kept, gpu_bytes, mark, on_gpu, send
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, write_checkpoint
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.split_stage import Features
from sartransfer.predict import open_engine, plan_flow, plan_scene, predict_classes, predict_windows
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_scene
from sartransfer.readers.opening import StackedSource
from sartransfer.scene import ArraySource, Band, Scene
from sartransfer.windows import EXACT, OVERLAP, SPLIT

torch.set_num_threads(1)
CLASSES = ("land", "water", "ice")
CONTRACT = InputContract(tuple(InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper()) for p in ("vv", "vh")))
BANDS = tuple(Band(f"sigma0_{p}_db", parse_unit("sigma0_db"), p.upper()) for p in ("vv", "vh"))
AHEAD = Flow("cpu", ahead=2, threads=2, rows=16, lag=1)
SIZE = (110, 83)
NAMES = ("exact", "split", "overlap")


def network(name):
    torch.manual_seed(0)
    if name == "split":
        model = build_model("resnet18-aspp", 2, 3, aspp_channels=16, rates=[2, 12], pooling="global")
    else:
        model = build_model("unet", 2, 3, channels=[8, 8])
    with torch.no_grad():
        model(torch.randn(2, 2, 96, 96))
    return model.eval()


def values_of(size=SIZE):
    values = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    values[:, :20, 30:50] = np.nan  # no value
    return values


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 48)
    monkeypatch.setattr(predict, "ENGINE_CORES", 1)
    monkeypatch.setattr(predict, "HALO", 32)


def given(name):
    """A checkpoint, a scene and a plan of the method."""
    model = network(name)
    plan = plan_scene(model, *SIZE)
    if name == "overlap":
        plan = replace(plan, method=OVERLAP, core=32, halo=32)
    assert plan.method == {"exact": EXACT, "split": SPLIT, "overlap": OVERLAP}[name]
    scene = Scene("scene", BANDS, *SIZE, ArraySource(values_of()))
    return Checkpoint(model, CLASSES, CONTRACT, {}, None), scene, plan


def answers(function, name, flow, **more):
    checkpoint, scene, plan = given(name)
    found = function(checkpoint, checkpoint.model, scene, "cpu", plan=plan, flow=flow, **more)
    return [(w, torch.as_tensor(a).clone(), v.copy()) for w, a, v in found]


def assert_equal(found, wanted):
    assert [w for w, _, _ in found] == [w for w, _, _ in wanted]
    for (_, one, valid), (_, other, known) in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
        np.testing.assert_array_equal(valid, known)


@pytest.mark.parametrize("views", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_windows_begun_ahead_are_those_one_by_one(small, name, views):
    wanted = answers(predict_windows, name, SERIAL, views=views)
    found = answers(predict_windows, name, AHEAD, views=views)
    assert_equal(found, wanted)
    numbers = answers(predict_classes, name, AHEAD, views=views)
    for (_, labels, _), (_, logits, _) in zip(numbers, wanted, strict=True):
        if name == "split" and views == 1:  # `enlarge_classes`: the same but for ties
            best = logits.topk(2, 0).values
            clear = best[0] - best[1] > 1e-5
            assert torch.equal(labels[clear], logits.argmax(0).to(torch.uint8)[clear])
        else:
            assert torch.equal(labels, logits.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("engine", ["eager", "torch"])
@pytest.mark.parametrize("views", [1, 8])
def test_features_kept_on_a_device_give_the_same_logits(small, monkeypatch, engine, views):
    wanted = answers(predict_windows, "split", SERIAL, views=views, engine=engine)
    monkeypatch.setattr(predict, "features_fit", lambda *_: True)
    found = answers(predict_windows, "split", AHEAD, views=views, engine=engine)
    numbers = answers(predict_classes, "split", AHEAD, views=views, engine=engine)
    for (w, one, valid), (v, other, known), (_, labels, _) in zip(found, wanted, numbers, strict=True):
        assert w == v
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(valid, known)
        assert torch.equal(labels, one.argmax(0).to(torch.uint8))


def test_features_kept_on_a_device_are_those_kept_in_memory():
    block = torch.randn(5, 130, 7, generator=torch.Generator().manual_seed(0))
    kept, there = Features(130, 7, 5), Features(130, 7, 5, device="cpu")
    for features in (kept, there):
        features.write(0, 0, block[:, :70])
        features.write(70, 0, block[:, 70:])
    assert torch.equal(there.read(60, 90), kept.read(60, 90))
    torch.testing.assert_close(
        there.mean()[0, :, 0, 0], block.double().mean((1, 2)).float(), atol=1e-7, rtol=0
    )
    torch.testing.assert_close(there.mean(), kept.mean(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_done_is_not_asked_for_again(small, name):
    wanted = answers(predict_windows, name, SERIAL)
    done = {w for i, (w, _, _) in enumerate(wanted) if i % 3}
    found = answers(predict_windows, name, AHEAD, done=done)
    assert_equal(found, [each for each in wanted if each[0] not in done])


@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_the_reader_reaches_the_caller_and_threads_stop(small, name):
    checkpoint, scene, plan = given(name)

    class Damaged:
        def read(self, indices, window):
            if window.row + window.height > 100:
                raise InputError("damaged tile")
            return scene.source.read(indices, window)

    damaged = replace(scene, source=Damaged())
    with pytest.raises(InputError, match="damaged tile"):
        list(predict_windows(checkpoint, checkpoint.model, damaged, "cpu", plan=plan, flow=AHEAD))
    early = predict_windows(checkpoint, checkpoint.model, scene, "cpu", plan=plan, flow=AHEAD)
    next(early)
    early.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


@pytest.mark.parametrize("name", ["exact", "split"])
def test_a_map_begun_ahead_is_the_same_file_also_after_it_was_stopped(small, monkeypatch, tmp_path, name):
    write_geotiff(tmp_path / "scene.tif", values_of(), descriptions=[b.name for b in BANDS])
    path = write_checkpoint(
        tmp_path / "best", network(name), {"classes": list(CLASSES), "contract": CONTRACT.to_json()}
    )
    scene = tmp_path / "scene.tif"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    plain = predict_scene(path, scene, tmp_path / "one" / "map.tif")
    monkeypatch.setattr(predict, "plan_flow", lambda *_: AHEAD)
    monkeypatch.setattr(mapping, "plan_flow", lambda *_: AHEAD)
    windows = []

    def stop(done, total):
        windows.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_scene(path, scene, tmp_path / "two" / "map.tif", progress=stop)
    assert (tmp_path / "two" / ".map.tif.partial").is_dir()
    again = []
    found = predict_scene(path, scene, tmp_path / "two" / "map.tif", progress=lambda d, _: again.append(d))
    assert again[0] == 3  # what was written is not computed again, and what was only begun is
    assert found.path.read_bytes() == plain.path.read_bytes()
    assert found.counts == plain.counts
    shutil.rmtree(tmp_path / "two")


def test_for_a_gpu_windows_are_larger_and_the_memory_told_is_the_machines(monkeypatch):
    monkeypatch.setattr(predict, "gpu_bytes", lambda device: 128 * 2**30 if on_gpu(device) else None)
    for name in ("exact", "split"):
        model = network(name)
        here, there = (plan_scene(model, 9000, 9000, device=d) for d in ("cpu", "cuda"))
        assert (here.core, there.core) == (predict.CORE, predict.GPU_CORE)
        assert there.halo == here.halo
        side = there.core + 2 * there.halo
        held = predict.GPU_AHEAD + predict.GPU_LAG
        assert there.memory > held * side * side * 2 * 4  # the images that are read ahead, at least
        if name == "split":  # many rows at once: a GPU is not filled by few
            assert here.rows <= there.rows == 64
        assert there.memory < 2**30 + (0 if name == "exact" else 2 * there.features_bytes)
    monkeypatch.setattr(predict, "gpu_bytes", lambda device: 2**29)
    small = plan_scene(network("exact"), 9000, 9000, device="cuda")
    assert small.core < predict.GPU_CORE
    less = plan_scene(network("exact"), 9000, 9000, device="cuda", memory=600 * 2**20)
    assert less.memory <= 600 * 2**20


def test_threads_read_strips_where_a_source_reads_no_more_than_it_is_asked_for(tmp_path):
    array = Scene("scene", BANDS, *SIZE, ArraySource(values_of()))
    write_geotiff(tmp_path / "a.tif", values_of())
    file = open_scene(tmp_path / "a.tif")
    assert plan_flow(array, "cpu") == SERIAL
    assert plan_flow(array, "cuda").rows == predict.STRIP_ROWS[ArraySource]
    both = replace(array, source=StackedSource((array.source, file.source), (2, 2)))
    assert plan_flow(file, "cuda").rows == plan_flow(both, "cuda").rows == 512
    other = replace(array, source=StackedSource((array.source, object()), (2, 2)))
    assert plan_flow(other, "cuda").rows == 0


def test_on_the_cpu_nothing_is_copied_and_nothing_waited_for():
    image = torch.ones(2, 3)
    assert fetch(image)() is image
    assert send(image, "cpu") is image
    assert mark("cpu")() is None
    assert gpu_bytes("cpu") is None
    assert empty((2, 3), "cpu").shape == (2, 3)
    assert not on_gpu("cpu")
    before = torch.backends.cudnn.allow_tf32
    with float32_kept("cpu"):
        assert torch.backends.cudnn.allow_tf32 == before
    with float32_kept("cuda"):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_an_engine_of_torch_answers_where_the_images_are(small):
    checkpoint, scene, _ = given("split")
    chosen = open_engine("torch", checkpoint, checkpoint.model, scene, "cpu")
    image = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(chosen.network(image), checkpoint.model(image), atol=1e-4, rtol=0)

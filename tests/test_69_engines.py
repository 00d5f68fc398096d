"""Engines: each gives what the network gives, windows are one pass within each, and auto takes one that agrees."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from test_69_whole_scenes import BANDS, CLASSES, CONTRACT, NETWORKS, SOURCE, network, scene_of
from torch import nn

from sartransfer import predict
from sartransfer.engines import choice, kinds
from sartransfer.engines.choice import BOUND, choose_engine, compare_logits, sample_windows
from sartransfer.engines.kinds import AUTO, EAGER, ENGINES, NAMES, candidates, find_engine
from sartransfer.engines.parts import Body, Encoder, folded, head_band
from sartransfer.engines.served import Served
from sartransfer.errors import InputError
from sartransfer.geotiff import write_geotiff
from sartransfer.journal import Journal
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, write_checkpoint
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.split_stage import (
    Features,
    band_bytes,
    decode_band,
    decode_by_bands,
    decode_with,
    enlarge,
    enlarge_classes,
)
from sartransfer.predict import open_engine, plan_scene, predict_classes, predict_logits, predict_windows
from sartransfer.scene import ArraySource, Scene
from sartransfer.windows import EXACT, SPLIT, cut

torch.set_num_threads(1)
HERE = [n for n, e in ENGINES.items() if not e.missing and n != "openvino-bf16"]
FP32 = [n for n in HERE if ENGINES[n].exact]


@pytest.fixture(scope="module")
def networks():
    """Networks by name, built once."""
    others = {"convnext": network("smp:Unet:tu-convnext_atto", encoder_depth=3, decoder_channels=[8, 8, 8])}
    return {name: build() for name, build in NETWORKS.items()} | others


@pytest.fixture(scope="module")
def served(networks):
    """(engine, network) -> the network in the engine, loaded once: loading takes most of these tests' time."""
    made = {}

    def one(engine, name):
        if (engine, name) not in made:
            samples = [image_of(96, 128, seed) for seed in (5, 6)]
            made[engine, name] = Served(networks[name], engine, samples=samples)
        return made[engine, name]

    return one


def image_of(height, width, seed=0):
    return torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(seed))


def whole(checkpoint, scene, given, plan, **options):
    """The logits of all windows in their places."""
    found = torch.zeros(3, scene.height, scene.width)
    for window, logits, _ in predict_windows(
        checkpoint, checkpoint.model, scene, "cpu", plan=plan, engine=given, **options
    ):
        found[(slice(None), *window.slices)] = logits
    return found


@pytest.mark.parametrize("name", ["unet", "aspp"])
@pytest.mark.parametrize("engine", FP32)
def test_an_engine_in_float32_is_the_network(engine, name, networks, served):
    """For sizes that it was not loaded with, and that are no multiples of the stride."""
    for size in ((64, 96), (131, 70)):
        image = image_of(*size)
        with torch.inference_mode():
            wanted = networks[name](image)
        found = predict_logits(served(engine, name), image)
        assert found.shape == wanted.shape
        bound = 1e-5 * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, atol=bound, rtol=0)
        best = wanted.topk(2, dim=1).values
        clear = (best[:, 0] - best[:, 1]) > 2 * bound
        assert torch.equal(found.argmax(1)[clear], wanted.argmax(1)[clear])


@pytest.mark.parametrize("engine", FP32)
def test_views_in_an_engine_are_views_of_the_network(engine, networks, served):
    image = image_of(64, 96)
    wanted = predict_logits(networks["aspp"], image, views=8)
    found = predict_logits(served(engine, "aspp"), image, views=8)
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize(("engine", "error"), [("torch-bf16", 0.05), ("openvino-bf16", 0.05), ("int8", 0.25)])
def test_engines_of_less_precision_are_near_the_network_and_not_it(engine, error, networks, served):
    if ENGINES[engine].missing:
        pytest.skip(f"needs {ENGINES[engine].missing}")
    try:
        found = served(engine, "aspp")(image_of(96, 160))
    except InputError as refused:
        pytest.skip(str(refused))  # a processor without bf16
    with torch.inference_mode():
        wanted = networks["aspp"](image_of(96, 160))
    off = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    assert 1e-4 < off < error
    _, changed, agrees = compare_logits([found], [wanted])
    assert not agrees
    assert changed < 2 * error


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        *((e, "aspp") for e in HERE),
        *((e, n) for e in FP32 for n in ("unet", "convnext")),
        ("torch", "aspp-global"),
    ],
)
def test_windows_in_an_engine_are_one_pass_in_it(monkeypatch, engine, name, served, networks):
    """Equal bits where the kernels do not depend on a window's size, and else to 1e-5 (int8: to its steps)."""
    checkpoint = Checkpoint(networks[name], CLASSES, CONTRACT, {}, None)
    scene = scene_of(250, 171)
    given = choice.Choice(engine, served(engine, name), ())
    image, _ = CONTRACT.read(scene)
    wanted = predict_logits(given.network, torch.from_numpy(image)[None])[0]
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 64)
    plan = replace(plan_scene(networks[name], 250, 171), rows=4)
    assert plan.method == (SPLIT if "aspp" in name else EXACT)
    found = whole(checkpoint, scene, given, plan)
    print(engine, name, "equal bits" if torch.equal(found, wanted) else f"{(found - wanted).abs().max():.1g}")
    if not torch.equal(found, wanted):
        limit = {"torch-bf16": 2**-7, "int8": 2**-7}.get(engine, 1e-5)
        torch.testing.assert_close(found, wanted, atol=limit * float(wanted.abs().max()), rtol=0)
    for window, labels, _ in predict_classes(
        checkpoint, checkpoint.model, scene, "cpu", plan=plan, engine=given
    ):
        logits = found[(slice(None), *window.slices)]
        best = logits.topk(2, dim=0).values
        moved = torch.from_numpy(labels) != logits.argmax(0)
        assert not (best[0] - best[1])[moved].gt(1e-5 * logits.abs().max()).any()


@pytest.mark.parametrize("pooling", ["average", "global"])
def test_the_heads_bands_in_folded_form_are_the_head(pooling):
    model = network("resnet18-aspp", aspp_channels=16, rates=[1, 2, 5], pooling=pooling)
    features = Features(18, 10, 256)
    features.write(0, 0, torch.randn(256, 18, 10, generator=torch.Generator().manual_seed(0)).relu())
    with torch.inference_mode():
        wanted = decode_by_bands(model, features, 18)
        head = head_band(model.decoder)
        mean = head.mean(features)
        assert (mean is None) == (pooling == "average")
        for rows in (2, 4, 18):
            for first in range(0, 18, rows):
                last = min(18, first + rows)
                found = head(*head.inputs(features, first, last, mean))[0].permute(1, 2, 0)
                np.testing.assert_allclose(found, wanted[first:last], atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("pooling", "height"), [("global", 3), ("global", 8), ("global", 21), ("average", 4), ("average", 22)]
)
def test_bands_have_one_size_and_are_the_head(pooling, height):
    """An engine compiles a head with dilated convolutions anew for each size, and keeps the room of both."""
    head = build_model("resnet18-aspp", 2, 3, aspp_channels=16, rates=[1, 3], pooling=pooling).eval().decoder
    features = Features(height, 10, 256)
    features.write(0, 0, torch.randn(256, height, 10, generator=torch.Generator().manual_seed(1)))
    asked = []
    mean = features.mean() if pooling == "global" else None

    def band(first, last):
        asked.append(last - first)
        return decode_band(head, features, first, last, mean)

    with torch.inference_mode():
        found = decode_with(band, features, 8, 3)
        wanted = head(features.read(0, height))[0].permute(1, 2, 0)
    assert set(asked) == {min(8, height)}
    assert len(asked) == -(-height // 8)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


RELEASED = """
import json
import torch
from sartransfer.engines.kinds import ENGINES, Releases
from sartransfer.engines.parts import Encoder, folded
from sartransfer.models import build_model
torch.set_num_threads(1)
def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))
example = (torch.zeros(1, 2, 64, 96),)
run = ENGINES["openvino"].load(folded(Encoder(build_model("resnet18-aspp", 2, 3).eval()), [example]), [example], "cpu")
image = torch.randn(1, 2, 1536, 1536, generator=torch.Generator().manual_seed(2))
first = run(image)
before = held()
assert isinstance(run, Releases)
run.release()
print(json.dumps([before - held(), torch.equal(run(image), first)]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_openvino_gives_back_what_lies_between_layers():
    """In a process of its own: one that has trained keeps freed memory (`train.keep_freed_memory`)."""
    pytest.importorskip("openvino")
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + RELEASED], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    given_back, same = json.loads(run.stdout)
    # The first convolution's answer alone: 64 channels at half the size, float32.
    assert given_back > 64 * 768**2 * 4 / 2
    assert same


def test_batch_norms_are_folded_where_a_convolution_goes_nowhere_else():
    class Twice(nn.Module):
        """The convolution's answer is used with and without its batch norm."""

        def __init__(self):
            super().__init__()
            self.one, self.norm = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)
            nn.init.uniform_(self.norm.running_mean, -1, 1)

        def forward(self, x):
            y = self.one(x)
            return self.norm(y) + y

    torch.manual_seed(0)
    twice, image = Twice().eval(), image_of(16, 16)
    kept = folded(twice, [(image,)])
    assert isinstance(kept.norm, nn.BatchNorm2d)
    torch.testing.assert_close(kept(image), twice(image))
    model = NETWORKS["unet-resnet18"]()
    body = folded(Body(model), [(image_of(64, 64),)])
    assert not [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]  # the network itself stays
    encoder = folded(Encoder(NETWORKS["aspp"]()), [(image_of(64, 64),)])
    assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classes_of_a_window_are_those_of_its_logits(classes):
    low = np.random.default_rng(classes).normal(size=(9, 7, classes)).astype(np.float32)
    for window in (*cut(140, 105, 48), *cut(9 * 16, 7 * 16, 64)):
        place = window.row, window.col, window.height, window.width
        logits = enlarge(low, *place)
        found = enlarge_classes(low, *place)
        assert found.dtype == torch.uint8
        best = logits.topk(2, dim=0).values
        clear = best[0] - best[1] > 1e-5
        assert clear.float().mean() > 0.99
        assert torch.equal(found[clear].long(), logits.argmax(0)[clear])
    flat = np.ones((2, 2, classes), dtype=np.float32)
    assert not enlarge_classes(flat, 0, 0, 32, 32).any()  # of equal logits the first


def test_a_scene_in_one_pass_gives_the_classes_of_its_logits(networks):
    checkpoint = Checkpoint(networks["unet"], CLASSES, CONTRACT, {}, None)
    scene = scene_of(40, 50)
    ((_, logits, valid),) = predict_windows(checkpoint, checkpoint.model, scene, "cpu")
    ((_, labels, again),) = predict_classes(checkpoint, checkpoint.model, scene, "cpu")
    assert (labels == logits.argmax(0).numpy()).all()
    assert (valid == again).all()


def test_auto_takes_the_fastest_that_agrees(monkeypatch, networks):
    """Engines that are wrong, broken or slow are not taken, and it is told why."""
    model, samples = networks["aspp"], [image_of(64, 64), image_of(64, 96)]

    def wrong(part, examples, device):
        right = ENGINES["torch"].load(part, examples, device)
        return lambda *x: right(*x) * 1.00005 + 0.02

    def broken(part, examples, device):
        raise RuntimeError("no such kernel")

    torch_load = ENGINES["torch"].load
    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, "wrong", kinds.Engine(wrong, 1.0))
        patch.setitem(ENGINES, "broken", kinds.Engine(broken, 1.0))
        patch.setitem(ENGINES, "first", kinds.Engine(torch_load, 1e-4))
        patch.setitem(ENGINES, "second", kinds.Engine(torch_load, 1e-4))
        patch.setattr(choice, "candidates", lambda device: ["wrong", "broken", "first", "second"])
        clock = iter([0, 9, 0, 1, 0, 5, 0, 3])  # begun and ended: eager, wrong, first, second
        patch.setattr(choice.time, "perf_counter", lambda: next(clock))
        found = choose_engine(AUTO, model, "cpu", samples)
        trials = {t.engine: t for t in found.trials}
        assert found.engine == found.network.name == "second"
        assert not trials["wrong"].agrees
        assert "logits differ by" in trials["wrong"].describe()
        assert "no such kernel" in trials["broken"].describe()
        assert [t.seconds for t in found.trials] == [9, 1, float("inf"), 5, 3]
        assert found.describe().startswith("second (logits differ by")
        clock = iter([0, 2, 0, 1, 0, 5, 0, 3])
        assert choose_engine(AUTO, model, "cpu", samples).engine == EAGER
    with pytest.raises(InputError, match=r"wrong.* is not known"):
        choose_engine("wrong", model, "cpu", samples)


def test_an_engine_that_is_named_and_does_not_agree_is_refused(monkeypatch, networks):
    load = ENGINES["torch"].load

    def wrong(part, examples, device):
        right = load(part, examples, device)
        return lambda *x: right(*x) + 0.1

    samples = [image_of(64, 64)]
    monkeypatch.setitem(ENGINES, "torch", replace(ENGINES["torch"], load=wrong))
    with pytest.raises(InputError, match=r"does not give what the network gives \(its encoder: .*eager"):
        choose_engine("torch", networks["aspp"], "cpu", samples)
    monkeypatch.setitem(ENGINES, "torch", replace(ENGINES["torch"], load=wrong, error=10.0))
    with pytest.raises(InputError, match=r"differs from the network by .* on this scene, 0.001 is allowed"):
        choose_engine("torch", networks["aspp"], "cpu", samples)


def test_agreement_is_counted_by_hand():
    wanted = torch.tensor([[[[4.0, 1.0, 0.0]], [[0.0, 1.001, 3.0]]]])
    near = wanted.clone()
    near[0, 1, 0, 1] -= 0.002
    assert compare_logits([near], [wanted]) == (
        pytest.approx(0.002 / 4, rel=1e-3),
        pytest.approx(1 / 3),
        True,
    )
    far = wanted.clone()
    far[0, 0, 0, 0] += 2 * 4 * BOUND
    difference, changed, agrees = compare_logits([far], [wanted])
    assert (difference, changed, agrees) == (pytest.approx(2 * BOUND, rel=1e-3), 0, False)
    far[0, 0, 0, 0] = float("nan")
    assert not compare_logits([far], [wanted])[2]
    assert not compare_logits([wanted[..., :2]], [wanted])[2]


def test_mistakes_are_told(monkeypatch, networks):
    assert NAMES[:2] == (AUTO, EAGER)
    with pytest.raises(InputError, match=r"engine='openvin' is not known.*Did you mean 'openvino'\?"):
        find_engine("openvin")
    with pytest.raises(InputError, match="'onnxruntime' runs on the CPU only, and device='cuda'"):
        find_engine("onnxruntime", "cuda")
    assert candidates("cuda") == ["torch"]
    monkeypatch.setitem(ENGINES, "openvino", replace(ENGINES["openvino"], packages=("no_such_package",)))
    with pytest.raises(InputError, match=r"needs no_such_package: pip install 'sartransfer\[fast\]'"):
        Served(networks["aspp"], "openvino")
    assert "openvino" not in candidates()
    with pytest.raises(InputError, match=r"int8.* takes its ranges from windows"):
        Served(networks["aspp"], "int8")
    with pytest.raises(InputError, match="no window with a value"):
        choose_engine("torch", networks["aspp"], "cpu", [])


def test_a_network_that_answers_in_its_own_way_stays_in_torch():
    class Own(nn.Module):
        task, in_channels, num_classes, stride = "segment", 2, 3, 4

        def forward(self, x):
            return torch.cat([x, x[:, :1] - x.mean(dim=(2, 3), keepdim=True)[:, 1:]], 1)

    with pytest.raises(InputError, match=r"answers in a way of its own. Use 'torch'"):
        Served(Own().eval(), "onnxruntime")
    image = image_of(20, 24)
    torch.testing.assert_close(Served(Own().eval(), "torch")(image), Own()(image))


def test_sample_windows_are_the_fullest():
    values = np.full((2, 1300, 1200), np.nan, dtype=np.float32)
    values[:, 800:, 700:] = 1.0
    scene = Scene("s", BANDS, 1300, 1200, ArraySource(values))
    found = sample_windows(lambda w: CONTRACT.read(scene, w), 1300, 1200, 16)
    assert 1 <= len(found) <= choice.SAMPLES
    assert found[0].shape == (1, 2, 512, 500 // 16 * 16 + 16) or found[0].shape[-2] <= 512
    full = [float((image != 0).float().mean()) for image in found]
    assert full == sorted(full, reverse=True)
    assert full[0] > 0.9
    empty = Scene("s", BANDS, 60, 60, ArraySource(np.full((2, 60, 60), np.nan, dtype=np.float32)))
    assert sample_windows(lambda w: CONTRACT.read(empty, w), 60, 60, 16) == []


def test_small_scenes_stay_as_they_are(monkeypatch, networks):
    """Auto loads nothing for a scene that goes in one pass; a larger one is tried on its own windows."""
    checkpoint = Checkpoint(networks["aspp"], CLASSES, CONTRACT, {}, None)
    scene = scene_of(100, 90)
    assert open_engine(AUTO, checkpoint, checkpoint.model, scene, "cpu").engine == EAGER
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(choice, "candidates", lambda device: ["torch"])
    found = open_engine(AUTO, checkpoint, checkpoint.model, scene, "cpu")
    assert [t.engine for t in found.trials] == [EAGER, "torch"]
    assert found.trials[1].agrees
    assert found.trials[1].difference < 1e-5


def test_what_an_engine_holds_is_in_the_plan(monkeypatch):
    model = build_model("resnet18-aspp", 2, 3).eval()
    size, some = (6000, 5000), 400 * kinds.MIB
    most = max(e.bytes for e in ENGINES.values() if e.exact)
    found = {name: plan_scene(model, *size, engine=name) for name in ("onnxruntime", "torch-bf16", AUTO)}
    less = plan_scene(model, *size, memory=some + ENGINES["torch"].bytes, engine="torch")
    assert plan_scene(model, *size, engine="openvino").memory < found[AUTO].memory  # it keeps fewer tensors
    with pytest.raises(InputError, match=r"the engine alone needs 224 MiB, and 230 MiB are allowed.*eager"):
        plan_scene(model, *size, memory=230 * kinds.MIB, engine="openvino")
    monkeypatch.setattr(predict, "CORE", predict.ENGINE_CORES * predict.CORE)
    plain = plan_scene(model, *size)
    for name in ("onnxruntime", "torch-bf16"):
        assert found[name] == replace(plain, memory=plain.memory + ENGINES[name].bytes)
    # OpenVINO is one of those that `auto` may take: it keeps the room of the head's band beside the encoder's.
    band = int(1.3 * band_bytes(model.decoder, -(-size[1] // 32) * 2, plain.rows))
    assert found[AUTO].memory == plain.memory + most + band
    assert (found[AUTO].frugal, found["torch-bf16"].frugal) == (False, True)
    tight = plan_scene(model, *size, engine=AUTO, memory=found[AUTO].memory - 1)
    assert tight.frugal
    assert tight.memory < found[AUTO].memory
    small = plan_scene(model, *size, memory=some)
    assert less == replace(small, memory=small.memory + ENGINES["torch"].bytes)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_stopped_map_goes_on_with_the_engine_that_was_chosen(tmp_path, monkeypatch, networks):
    """A second trial on the same machine may find another one faster; two engines in one map would not be one map."""
    write_checkpoint(
        tmp_path / "best", networks["aspp"], {"classes": CLASSES, "contract": CONTRACT.to_json()}
    )
    values = np.random.default_rng(3).normal(size=(2, 150, 130)).astype(np.float32)
    write_geotiff(tmp_path / "scene.tif", values, descriptions=[b.name for b in BANDS])
    words = tmp_path / "best.json", tmp_path / "scene.tif", tmp_path / "map.tif"
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 32)
    add = Journal.add

    def stop(self, window):
        add(self, window)
        if self.path is not None and self.path.name == "windows.jsonl":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        patch.setattr(choice, "candidates", lambda device: ["torch"])
        clock = iter([0, 9, 0, 1])  # eager, torch
        patch.setattr(choice.time, "perf_counter", lambda: next(clock))
        with pytest.raises(KeyboardInterrupt):
            predict_scene(*words, engine=AUTO)
    monkeypatch.setattr(choice, "candidates", lambda device: [])  # now it would be eager
    found = predict_scene(*words, engine=AUTO)
    with rasterio.open(words[2]) as file:
        told, labels = file.tags()["SARTRANSFER_ENGINE"], file.read(1)
    assert told == found.engine
    assert told.startswith("torch (logits differ by")
    assert "classes at 0.00%" in told
    with torch.inference_mode():
        wanted = networks["aspp"](torch.from_numpy(values)[None])[0]
    best = wanted.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    assert (labels[clear] == wanted.argmax(0).numpy()[clear]).all()

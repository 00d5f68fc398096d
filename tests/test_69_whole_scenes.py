"""Scenes beyond one pass: the map from windows is that of one pass, in the memory that was told, also after a kill."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import nn
from torch.nn import functional as F

from sartransfer import predict
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.journal import Journal
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, write_checkpoint
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.split_stage import Features, can_split, decode_by_bands, encode, enlarge
from sartransfer.predict import plan_scene, predict_windows
from sartransfer.radar.units import parse_unit
from sartransfer.scene import ArraySource, Band, Scene, Window
from sartransfer.windows import EXACT, MEASURED, ONE_PASS, OVERLAP, SPLIT, covering, cut, unviewed, viewed

torch.set_num_threads(1)
SOURCE = Path(predict.__file__).parent.parent
CLASSES = ("land", "water", "ice")
CONTRACT = InputContract(tuple(InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper()) for p in ("vv", "vh")))
BANDS = tuple(Band(f"sigma0_{p}_db", parse_unit("sigma0_db"), p.upper()) for p in ("vv", "vh"))


def network(name, **options):
    """A network with random weights whose batch norms have seen numbers, so that no layer is nearly constant."""
    torch.manual_seed(0)
    model = build_model(name, 2, 3, **options)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 2, 96, 96))
    return model.eval()


NETWORKS = {
    "unet-resnet18": lambda: network("unet-resnet18", encoder_depth=3, decoder_channels=[16, 8, 8]),
    "unet": lambda: network("unet", channels=[8, 8, 16]),
    "aspp": lambda: network("resnet18-aspp", aspp_channels=16, rates=[1, 2, 5]),
    "aspp-global": lambda: network("resnet18-aspp", aspp_channels=16, rates=[2, 12], pooling="global"),
}


def pyramid():
    return network("smp:PSPNet:resnet18", psp_out_channels=24)


def scene_of(height, width, seed=0):
    values = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    values[:, : height // 9, : width // 5] = np.nan
    return Scene("scene", BANDS, height, width, ArraySource(values))


def joined(checkpoint, scene, views=1, **options):
    """The logits of all windows in their places, every pixel of which is given once."""
    whole = torch.zeros(3, scene.height, scene.width)
    times = np.zeros((scene.height, scene.width), dtype=int)
    for window, logits, valid in predict_windows(
        checkpoint, checkpoint.model, scene, "cpu", views, **options
    ):
        whole[(slice(None), *window.slices)] = logits
        times[window.slices] += 1
        assert (valid == checkpoint.contract.read(scene, window).valid).all()
    assert (times == 1).all()
    return whole


def assert_same(found, wanted):
    """Equal logits to 1e-5 of their size, and equal classes wherever the margin is above that."""
    bound = 1e-5 * max(1.0, float(wanted[wanted.isfinite()].abs().max()))
    torch.testing.assert_close(found, wanted, atol=bound, rtol=0)
    best = wanted.topk(2, dim=0).values
    clear = best[0] - best[1] > 2 * bound
    assert torch.equal(found.argmax(0)[clear], wanted.argmax(0)[clear])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "core"), [((250, 331), 64), ((401, 70), 96)])
def test_windows_are_one_pass(monkeypatch, name, size, core):
    model = NETWORKS[name]()
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = scene_of(*size)
    assert plan_scene(model, *size).method == ONE_PASS
    whole = joined(checkpoint, scene)
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", core)
    plan = plan_scene(model, *size)
    assert plan.method == (SPLIT if "aspp" in name else EXACT)
    assert plan.exact
    assert_same(joined(checkpoint, scene, plan=plan), whole)
    if plan.method == SPLIT:  # kept in a file: the same bits
        other = replace(plan, features_in_memory=False)
        assert torch.equal(joined(checkpoint, scene, plan=other), joined(checkpoint, scene, plan=plan))


def test_a_halo_of_one_step_less_is_not_enough(monkeypatch):
    """The halo is as wide as needed and no wider: what is left out would be seen."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    model = NETWORKS["unet"]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # nothing is switched off or cancels
            parameter.abs_().add_(0.05 if "weight" in name else 0.0)
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = Scene("s", BANDS, 192, 64, ArraySource(np.random.default_rng(0).uniform(1, 2, (2, 192, 64))))
    plan = replace(plan_scene(model, 192, 64), core=32)
    assert plan.stride == 4
    wanted = joined(checkpoint, scene, plan=replace(plan, method=ONE_PASS))
    exact = (joined(checkpoint, scene, plan=plan) - wanted).abs().max()
    short = (joined(checkpoint, scene, plan=replace(plan, halo=plan.halo - plan.stride)) - wanted).abs().max()
    assert exact <= 1e-6 * wanted.abs().max()
    assert short > 0
    assert short > 3 * exact


@pytest.mark.parametrize("name", ["unet-resnet18", "aspp"])
@pytest.mark.parametrize("views", [4, 8])
def test_views_by_windows_are_views_of_one_pass(monkeypatch, name, views):
    """Also where the sides are no multiples of the stride, so that every view lies on a grid of its own."""
    checkpoint = Checkpoint(NETWORKS[name](), CLASSES, CONTRACT, {}, None)
    scene = scene_of(150, 203)
    whole = joined(checkpoint, scene, views)
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 96)
    assert_same(joined(checkpoint, scene, views), whole)


@pytest.mark.parametrize("pooling", ["average", "global"])
def test_the_heads_bands_are_the_head(pooling):
    model = network("resnet18-aspp", aspp_channels=16, rates=[1, 2, 5], pooling=pooling)
    assert can_split(model)
    with torch.inference_mode():
        features = encode(model, torch.randn(1, 2, 352, 131, generator=torch.Generator().manual_seed(0)))
        wanted = model.decoder(features)
        kept = Features(*features.shape[2:], features.shape[1])
        kept.write(0, 0, features[0])
        for rows in (2, 6, 64):
            found = torch.from_numpy(decode_by_bands(model, kept, rows)).permute(2, 0, 1)
            torch.testing.assert_close(found, wanted[0], atol=1e-6, rtol=1e-5)


def test_enlarging_by_windows_is_enlarging_the_whole():
    low = np.random.default_rng(0).normal(size=(9, 7, 3)).astype(np.float32)
    whole = F.interpolate(
        torch.from_numpy(low).permute(2, 0, 1)[None].contiguous(), scale_factor=16, mode="bilinear"
    )[0]
    for window in (*cut(140, 105, 48), Window(16, 32, 5, 7)):
        found = enlarge(low, window.row, window.col, window.height, window.width)
        torch.testing.assert_close(found, whole[(slice(None), *window.slices)], atol=1e-6, rtol=0)


@pytest.mark.parametrize("view", [(t, m) for t in range(4) for m in (False, True)])
def test_windows_of_views_are_where_the_pixels_go(view):
    image = np.arange(6 * 11).reshape(6, 11)
    seen = np.rot90(image[:, ::-1] if view[1] else image, view[0])
    for window in (Window(0, 0, 6, 11), Window(1, 3, 2, 5), Window(5, 10, 1, 1)):
        place = viewed(window, 6, 11, view)
        assert set(seen[place.slices].ravel()) == set(image[window.slices].ravel())
        assert unviewed(place, 6, 11, view) == window


class Everything(nn.Module):
    """A network that sees its whole image: each pixel, and the largest of all, which nobody measures."""

    task, in_channels, num_classes, stride = "segment", 2, 3, 4

    def forward(self, x):
        most = x.amax(dim=(2, 3), keepdim=True)
        return torch.cat([x, x[:, :1] * 0.5 + most[:, 1:]], dim=1)


class Pixels(Everything):
    """A network that sees one pixel, in words of which no reach is known."""

    def forward(self, x):
        return torch.cumsum(torch.cat([x, x[:, :1]], dim=1).flatten(2), 1).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("size", [(64, 80), (37, 50), (9, 70), (16, 16), (17, 8)])
def test_overlapped_windows_weigh_to_one_and_are_told_of(monkeypatch, size):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "HALO", 8)
    scene = scene_of(*size)
    checkpoint = Checkpoint(Pixels().eval(), CLASSES, CONTRACT, {}, None)
    plan = plan_scene(checkpoint.model, *size)
    assert (plan.method, plan.exact, plan.halo) == (OVERLAP, False, 8)
    assert "16 px with smooth weights (not exact" in plan.describe()
    image, _ = CONTRACT.read(scene)
    wanted = checkpoint.model(torch.from_numpy(image)[None])[0].softmax(0)
    torch.testing.assert_close(joined(checkpoint, scene).softmax(0), wanted, atol=1e-6, rtol=1e-5)

    checkpoint = replace(checkpoint, model=Everything().eval())
    found = joined(checkpoint, scene)
    windows = list(cut(*size, 8))
    some = windows[:: 2 if len(windows) > 2 else 3]
    again = {w: x for w, x, _ in predict_windows(checkpoint, checkpoint.model, scene, "cpu", done=some)}
    assert set(again) == set(windows) - set(some)
    for window, logits in again.items():
        assert torch.equal(logits, found[(slice(None), *window.slices)])


def test_overlapped_windows_are_the_weighted_mean_by_hand(monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "HALO", 8)
    scene, model = scene_of(29, 35), Everything().eval()
    image = torch.from_numpy(CONTRACT.read(scene).data)
    total, weight = torch.zeros(3, 29, 35), torch.zeros(29, 35)
    for top, bottom in covering(29, 8):
        for left, right in covering(35, 8):
            part = model(image[None, :, top:bottom, left:right])[0].softmax(0)
            rows, cols = ((np.arange(b - a) + 0.5) / 16 for a, b in ((top, bottom), (left, right)))
            smooth = [np.sin(np.pi * x) ** 2 for x in (rows, cols)]
            for values, (a, b), side in zip(smooth, ((top, bottom), (left, right)), (29, 35), strict=True):
                values[:8] = 1 if a == 0 else values[:8]
                values[8:] = 1 if b == side else values[8:]
            w = torch.from_numpy(np.outer(*smooth)).float()
            total[:, top:bottom, left:right] += w * part
            weight[top:bottom, left:right] += w
    torch.testing.assert_close(weight, torch.ones(29, 35))
    found = joined(Checkpoint(model, CLASSES, CONTRACT, {}, None), scene)
    torch.testing.assert_close(found.softmax(0), total, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["unet", "aspp"])
def test_less_memory_means_smaller_windows_and_too_little_is_refused(name):
    model = NETWORKS[name]()
    size = 6000, 5000
    plan = plan_scene(model, *size)
    less = plan_scene(model, *size, memory=plan.memory // 2)
    assert less.core < plan.core or less.features_in_memory < plan.features_in_memory
    assert less.memory <= plan.memory // 2
    with pytest.raises(InputError, match=r"need .* MiB .*, and 1 MiB are allowed. Allow more"):
        plan_scene(model, *size, memory=2**20)
    # A scene of twice the size takes no more, but for what the split stage keeps of it.
    larger = plan_scene(model, 12000, 5000, memory=plan.memory // 2)
    assert larger.memory <= plan.memory // 2


def test_a_journal_forgets_a_line_that_was_cut_and_another_task(tmp_path):
    path = tmp_path / "j"
    with Journal(path, {"a": 1}) as journal:
        assert not journal.continued
        journal.add(Window(0, 0, 2, 3))
        journal.add(Window(2, 0, 2, 3))
        with pytest.raises(OutputError, match="in use"):
            Journal(path, {"a": 1})
    path.write_bytes(path.read_bytes()[:-4])
    with Journal(path, {"a": 1}) as journal:
        assert journal.continued
        assert journal.done == {Window(0, 0, 2, 3)}
        journal.add(Window(2, 0, 2, 3))
    with Journal(path, {"a": 1}) as journal:
        assert journal.done == {Window(0, 0, 2, 3), Window(2, 0, 2, 3)}
    with Journal(path, {"a": 2}) as journal:
        assert journal.done == set()


@pytest.fixture(scope="module", params=["unet", "aspp"])
def files(request, tmp_path_factory):
    """A checkpoint and a scene, as files."""
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(
        folder / "best",
        NETWORKS[request.param](),
        {"classes": CLASSES, "contract": CONTRACT.to_json()},
    )
    values = np.random.default_rng(3).normal(size=(2, 210, 170)).astype(np.float32)
    values[:, :70, :40] = np.nan
    write_geotiff(folder / "scene.tif", values, descriptions=[b.name for b in BANDS])
    return folder


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from sartransfer import mapping, predict, streaming, journal
predict.ONE_PASS_PIXELS, predict.CORE = 1, 64
left = int(sys.argv[4])
add = journal.Journal.add
def counted(self, window):
    global left
    add(self, window)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.add = counted
mapping.predict_scene(sys.argv[1], sys.argv[2], sys.argv[3], probabilities="uint8", entropy=True)
"""


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_killed_map_goes_on_and_is_the_same_to_the_byte(files, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 64)
    words = files / "best.json", files / "scene.tif"
    options = {"probabilities": "uint8", "entropy": True}
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = predict_scene(*words, tmp_path / "whole" / "map.tif", **options)
    target = tmp_path / "killed" / "map.tif"
    split = whole.plan.method == SPLIT
    # The split stage keeps 12 windows of features first: one kill among them, one among the map's.
    for after in (5, 7 + 4) if split else (5,):
        head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        run = subprocess.run(
            [sys.executable, "-c", head + KILLED, *map(str, words), str(target), str(after)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == -9, run.stderr
        assert [p.name for p in target.parent.iterdir()] == [".map.tif.partial"]
    journal = target.parent / ".map.tif.partial" / "windows.jsonl"
    done = len(journal.read_text().splitlines()) - 1
    assert done == (4 if split else 5)

    asked = []
    through = predict.predict_logits
    monkeypatch.setattr(predict, "predict_logits", lambda *a, **k: asked.append(1) or through(*a, **k))
    again = predict_scene(*words, target, **options)
    assert len(asked) == (0 if split else 12 - 5)
    assert sorted(p.name for p in target.parent.iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (target.parent / path.name).read_bytes()
    assert (again.counts, again.warnings) == (whole.counts, whole.warnings)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ctrl_c_keeps_what_is_done_and_another_task_does_not_take_it(files, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 128)
    words = files / "best.json", files / "scene.tif", tmp_path / "map.tif"
    add = Journal.add

    def stop(self, window):
        add(self, window)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_scene(*words)
    kept = tmp_path / ".map.tif.partial"
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]
    monkeypatch.setattr(predict, "CORE", 96)  # other windows: nothing of that can be used
    found = predict_scene(*words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]
    assert sum(found.counts.values()) == 210 * 170 - 70 * 40


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_uint8_probabilities_and_entropy_are_those_of_the_logits(files, tmp_path):
    words = files / "best.json", files / "scene.tif"
    fine = predict_scene(*words, tmp_path / "fine.tif", probabilities=True)
    found = predict_scene(*words, tmp_path / "map.tif", probabilities="uint8", entropy=True)
    with rasterio.open(fine.probabilities) as file:
        shares = file.read()
    known = np.isfinite(shares[0])
    with rasterio.open(found.probabilities) as file:
        assert (file.dtypes, file.nodata) == (("uint8",) * 3, 255)
        assert file.scales == pytest.approx([1 / 254] * 3)
        told = file.read()
    assert (told[:, ~known] == 255).all()
    assert np.abs(told[:, known] / 254 - shares[:, known]).max() <= 0.5 / 254 + 1e-6
    with rasterio.open(found.entropy) as file:
        entropy = file.read(1)
    assert (np.isnan(entropy) == ~known).all()
    p = shares[:, known].astype(np.float64)
    np.testing.assert_allclose(entropy[known], -(p * np.log(p)).sum(axis=0), atol=1e-5)
    with pytest.raises(InputError, match="probabilities='uint16' is not known"):
        predict_scene(*words, tmp_path / "b.tif", probabilities="uint16")


PEAK = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from sartransfer.contract import InputContract
from sartransfer import mapping, predict
from sartransfer.models import read_checkpoint
from sartransfer.predict import plan_scene, predict_logits
from sartransfer.readers import open_scene
import rasterio
predict.ONE_PASS_PIXELS = 1
checkpoint, scene = read_checkpoint(sys.argv[1]), open_scene(sys.argv[2])
predict_logits(checkpoint.model, torch.zeros(1, 2, 64, 64))  # what libraries load on first use is theirs
def now():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
limit = int(sys.argv[4])
before, told = now(), plan_scene(checkpoint.model, scene.height, scene.width, memory=limit).memory
result = mapping.predict_scene(checkpoint, sys.argv[2], sys.argv[3], memory=limit)
with open("/proc/self/status") as file:  # ru_maxrss would keep the peak of the process that started this one
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
print(json.dumps([told, peak - before, result.plan.method, result.plan.core]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("name", "limit", "method"),
    [("unet-resnet18", 200, EXACT), ("aspp", 150, SPLIT), ("pspnet", 250, MEASURED)],
)
def test_peak_memory_is_what_was_told(tmp_path, name, limit, method):
    """One pass over this scene would take several times as much."""
    model = pyramid() if method == MEASURED else NETWORKS[name]()
    write_checkpoint(tmp_path / "best", model, {"classes": CLASSES, "contract": CONTRACT.to_json()})
    values = np.random.default_rng(3).normal(size=(2, 800, 1000)).astype(np.float32)
    write_geotiff(tmp_path / "scene.tif", values, descriptions=[b.name for b in BANDS])
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    words = tmp_path / "best.json", tmp_path / "scene.tif", tmp_path / "map.tif", limit * 2**20
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + PEAK, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    told, taken, went, core = json.loads(run.stdout)
    assert went == method
    assert core < 800
    assert taken <= told <= limit * 2**20
    assert taken > told / 6, (taken, told)
    print(name, told / 2**20, taken / 2**20, core)


WRITTEN = """
import json, sys
from pathlib import Path
import numpy as np
import rasterio
from sartransfer.cloud import Layer, cache_within
from sartransfer.scene import GeoReference
from sartransfer.streaming import GrowingMap, writing_bytes
from sartransfer.windows import cut
side, limit = int(sys.argv[3]), int(sys.argv[4])
if sys.argv[2] == "classes":
    layer = Layer(Path(sys.argv[1]), 1, "uint8", 255, ("class",), {0: (0, 0, 0), 1: (9, 9, 9)}, overviews="mode")
else:
    layer = Layer(Path(sys.argv[1]), 2, "float32", float("nan"), ("a", "b"))
generator = np.random.default_rng(0)
def memory(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))
with GrowingMap([layer], side, side, None) as growing:
    for window in cut(side, side, 512):
        shape = layer.count, window.height, window.width
        values = generator.integers(0, 2, shape) if layer.count == 1 else generator.normal(size=shape)
        growing.add(window, [values])
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak so far is forgotten
    before = memory("VmRSS")
    growing.finish(GeoReference(), {}, cache=cache_within(limit))
print(json.dumps([writing_bytes([layer], side, side, limit), memory("VmHWM") - before]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="memory is read from /proc")
@pytest.mark.parametrize(("what", "side"), [("classes", 5500), ("probabilities", 2600)])
def test_a_map_is_written_in_the_memory_that_is_told(tmp_path, what, side):
    """Budgets under 204 MiB leave GDAL a smaller cache: with its usual one these take 30 to 60 MiB more."""
    limit = 100 * 2**20
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    words = tmp_path / "map.tif", what, side, limit
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + WRITTEN, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    told, taken = json.loads(run.stdout)
    print(what, told / 2**20, taken / 2**20)
    assert taken <= told <= limit, (taken, told)


def test_a_line_of_pixels_is_counted_as_it_is_padded():
    """Of a stride of 8, 1 x 1,000,000 pixels are 8,000,000 in the network: more than one pass takes."""
    model = NETWORKS["unet-resnet18"]()
    assert plan_scene(model, 1, 500_000).method == ONE_PASS
    plan = plan_scene(model, 1, 1_000_000)
    assert plan.method == EXACT
    assert plan.memory < plan_scene(model, 1, 500_000).memory / 5

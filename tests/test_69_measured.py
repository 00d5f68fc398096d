"""Networks that ask something of the whole image: measured by windows, then asked by windows, as in one pass."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from test_69_whole_scenes import CLASSES, CONTRACT, NETWORKS, assert_same, joined, network, scene_of
from torch import nn
from torch.nn import functional as F

from sartransfer import forecast, predict, scene_plan, windowed
from sartransfer.map_layers import plan_layers
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.placed import bilinear_weights, measure
from sartransfer.models.receptive import find_reach
from sartransfer.models.segmenter import Segmenter
from sartransfer.predict import plan_scene
from sartransfer.scene_plan import MOST_PASSES, measured_reach
from sartransfer.windows import EXACT, MEASURED, OVERLAP, cut, grow

torch.set_num_threads(1)


class Means(nn.Module):
    """A gate by the mean of all pixels, as squeeze and excitation has it."""

    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class Flat(nn.Module):
    """The same mean without its two sides, added by a linear layer."""

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x):
        return x + self.linear(x.mean((2, 3)))[:, :, None, None]


class Pyramid(nn.Module):
    """Means of 1, 2 x 2, 3 x 3 and 5 x 5 parts, enlarged, looked at by a convolution before they meet the rest."""

    def __init__(self, channels, aligned):
        super().__init__()
        self.aligned = aligned
        self.look = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))

    def forward(self, x):
        for parts, look in zip((1, 2, 3, 5), self.look, strict=True):
            means = F.adaptive_avg_pool2d(x, parts)
            wide = F.interpolate(means, size=x.shape[-2:], mode="bilinear", align_corners=self.aligned)
            x = x + look(wide)
        return x


class Corners(nn.Module):
    """Halved, and enlarged again with aligned corners."""

    def __init__(self, channels):
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x):
        return x + F.interpolate(self.down(x), scale_factor=2, mode="bilinear", align_corners=True)


class Norms(nn.Module):
    """A gate by each channel's norm over the image (global response norm of ConvNeXt V2), turned or as it is."""

    def __init__(self, turned):
        super().__init__()
        self.turned = turned

    def forward(self, x):
        x = x.permute(0, 2, 3, 1) if self.turned else x
        norms = x.norm(p=2, dim=(1, 2) if self.turned else (2, 3), keepdim=True)
        x = x + x * (norms / (norms.mean(-1 if self.turned else 1, keepdim=True) + 1e-6))
        return x.permute(0, 3, 1, 2) if self.turned else x


class Squeezed(nn.Module):
    """A mean over rows and columns of a turned map, without its two sides."""

    def forward(self, x):
        y = x.permute(0, 2, 3, 1)
        return (y * torch.sigmoid(y.mean((1, 2)))[:, None, None]).permute(0, 3, 1, 2)


class OtherMean(nn.Module):
    def forward(self, x):
        return x + x.mean((1, 2), keepdim=True)


def small(*parts):
    """A segmenter whose decoder is these parts, on a grid of 8 pixels."""
    torch.manual_seed(1)
    steps = [nn.Conv2d(2 if i == 0 else 8, 8, 3, 2, 1) for i in range(2)]
    encoder = nn.Sequential(steps[0], nn.ReLU(), steps[1], nn.ReLU())
    head = nn.Sequential(nn.Conv2d(8, 3, 3, padding=1), nn.UpsamplingBilinear2d(scale_factor=4))
    return Segmenter(
        encoder, nn.Sequential(*parts), head, in_channels=2, num_classes=3, stride=8, factor=1, classifier_names=()
    ).eval()  # fmt: skip


SMALL = {
    "corners": (lambda: small(Corners(8)), 0),
    "mean": (lambda: small(Means(8)), 1),
    "flat mean": (lambda: small(Flat(8), nn.ReLU()), 1),
    "pyramid": (lambda: small(Pyramid(8, False)), 4),
    "pyramid, aligned": (lambda: small(Pyramid(8, True)), 4),
    "group norm": (lambda: small(nn.GroupNorm(4, 8), nn.ReLU(), nn.GroupNorm(2, 8, affine=False)), 2),
    "norms": (lambda: small(Norms(False), Norms(True)), 2),
    "mean of a turned map": (lambda: small(Squeezed()), 1),
    "one after the other": (lambda: small(Means(8), Corners(8), nn.GroupNorm(2, 8), Means(8)), 3),
}


@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.parametrize("name", SMALL)
def test_measured_windows_are_one_pass(monkeypatch, name, views):
    """Of sides that are no multiples of the stride: what is padded counts in the means of one pass, too."""
    made, passes = SMALL[name]
    model = made()
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = scene_of(131, 203)
    whole = joined(checkpoint, scene, views)
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 40)
    plan = plan_scene(model, 131, 203, views=views)
    assert (plan.method, plan.passes, plan.exact) == (MEASURED, passes, True)
    assert plan.halo < 60
    assert_same(joined(checkpoint, scene, views, plan=plan), whole)


@pytest.mark.parametrize(
    ("name", "options", "size", "core"),
    [
        ("smp:PSPNet:resnet18", {"psp_out_channels": 24}, (331, 298), 80),
        ("smp:DeepLabV3Plus:resnet18", {"decoder_channels": 16, "decoder_atrous_rates": (1, 2, 3)}, (690, 610), 320),
        ("smp:DeepLabV3:resnet18", {"decoder_channels": 16, "decoder_atrous_rates": (1, 2, 3)}, (520, 450), 192),
    ],
)  # fmt: skip
def test_deeplab_and_pspnet_are_exact(monkeypatch, name, options, size, core):
    model = network(name, **options)
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = scene_of(*size)
    whole = joined(checkpoint, scene)
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", core)
    plan = plan_scene(model, *size)
    assert (plan.method, plan.passes) == (MEASURED, 1)
    assert plan.halo + plan.core < max(size)  # not every window sees everything
    assert_same(joined(checkpoint, scene, plan=plan), whole)


THREE = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


@pytest.mark.parametrize(
    ("name", "options", "passes", "size"),
    [
        ("smp:FPN:resnet18", {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}, 3, (70, 650)),
        ("smp:UPerNet:resnet18", {"encoder_depth": 3, "decoder_channels": 16}, 1, (331, 298)),
        ("smp:Segformer:resnet18", {"encoder_depth": 3, "decoder_segmentation_channels": 16}, 0, (331, 298)),
        ("smp:Unet:resnet18", {**THREE, "decoder_channels": [16] * 3, "decoder_attention_type": "scse"}, 5, (331, 298)),
        ("smp:Unet:tu-efficientnet_b0", THREE, 5, (331, 298)),
        ("smp:Unet:tu-poolformer_s12", THREE, 8, (331, 298)),
        ("smp:Unet:tu-convnextv2_atto", THREE, 4, (331, 298)),
    ],
)  # fmt: skip
def test_pyramids_and_gates_are_exact(monkeypatch, name, options, passes, size):
    """Group norms amplify the last bits of float32: windows and one pass are held against one pass in float64.

    Also with more looks than a plan takes of itself, for their price.
    """
    monkeypatch.setattr(scene_plan, "MOST_PASSES", 8)
    model = network(name, **options)
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = scene_of(*size)
    whole = joined(checkpoint, scene)
    image = torch.from_numpy(CONTRACT.read(scene, scene.window)[0]).double()
    with torch.inference_mode():
        true = copy.deepcopy(model).double()(image[None])[0]
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 160)
    plan = plan_scene(model, *size)
    assert (plan.method, plan.passes) == (MEASURED, passes)
    assert max(plan.halo, plan.look) + plan.core < max(size)  # not every window sees everything
    found = joined(checkpoint, scene, plan=plan)
    bound = 1e-5 * max(1.0, float(true.abs().max()))
    assert (found - true).abs().max() <= max(bound, 2 * (whole - true).abs().max())
    assert (found - whole).abs().max() <= 5 * bound


def test_a_halo_of_one_step_less_is_not_enough(monkeypatch):
    """The halo is as wide as needed: also for what is measured, which one window alone would get wrong."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 40)
    model = SMALL["pyramid, aligned"][0]()
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = scene_of(120, 200)
    plan = plan_scene(model, 120, 200)
    reach = measured_reach(model)
    assert plan.halo == reach.halo
    exact = joined(checkpoint, scene, plan=plan)
    for less in ({"halo": plan.halo - plan.stride}, {"look": plan.look - plan.stride}):
        assert (exact - joined(checkpoint, scene, plan=replace(plan, **less))).abs().max() > 1e-5
    wider = replace(plan, halo=plan.halo + plan.stride, look=plan.look + plan.stride)
    assert_same(joined(checkpoint, scene, plan=wider), exact)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("given", "wanted"), [(1, 9), (2, 6), (5, 20), (6, 64), (160, 640)])
def test_bilinear_weights_are_those_of_torch(aligned, given, wanted):
    whole = F.interpolate(torch.eye(given)[None], size=wanted, mode="linear", align_corners=aligned)[0].mT
    part = bilinear_weights(
        given, wanted, aligned, (wanted // 3, wanted // 2), (given // 4, given - given // 4)
    )
    assert torch.equal(part, whole[wanted // 3 :][: wanted // 2, given // 4 :])


@pytest.fixture
def asked(monkeypatch):
    """A network that asks three times, and a scene of many windows."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 40)
    model = SMALL["one after the other"][0]()
    return Checkpoint(model, CLASSES, CONTRACT, {}, None), scene_of(120, 200)


def test_what_was_measured_is_kept_for_a_later_call(monkeypatch, tmp_path, asked):
    checkpoint, scene = asked
    first = joined(checkpoint, scene, scratch=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["measured0"]
    looks = []
    monkeypatch.setattr(windowed, "measure", lambda *a: looks.append(a))
    assert torch.equal(joined(checkpoint, scene, scratch=tmp_path), first)
    assert not looks


def test_a_pass_that_is_done_is_not_looked_at_again(monkeypatch, tmp_path, asked):
    """Stopped in the third look, a later call begins with that one, and its answer is the same to the bit."""
    checkpoint, scene = asked
    undisturbed = joined(checkpoint, scene)
    looks, number = [], len(list(cut(120, 200, 40)))

    def stopped(*args):
        looks.append(args)
        if len(looks) == 2 * number + 3:
            raise KeyboardInterrupt
        measure(*args)

    monkeypatch.setattr(windowed, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        joined(checkpoint, scene, scratch=tmp_path)
    assert torch.equal(joined(checkpoint, scene, scratch=tmp_path), undisturbed)
    assert len(looks) == 2 * number + 3 + number


def test_the_time_of_looks_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    checkpoint = Checkpoint(SMALL["one after the other"][0](), CLASSES, CONTRACT, {}, None)
    looked, clock = [], itertools.count()
    monkeypatch.setattr(forecast, "measure", lambda *a: (looked.append(a), next(clock), next(clock)))
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(forecast, "predict_logits", lambda *a, **k: None)
    told = forecast.foresee([checkpoint], plan_layers(tmp_path / "map.tif", CLASSES), 4000, 4000)
    assert len(looked) == told.plan.passes == 3
    answer, look = (
        1 / 256**2,
        7 / 256**2,
    )  # by this clock: a tick for a question of the time, two more for a look
    pixels = [
        sum(
            w.height * w.width
            for w in (grow(k, halo, 8, 4000, 4000) for k in cut(4000, 4000, told.plan.core))
        )
        for halo in (told.plan.halo, told.plan.look)
    ]
    assert told.seconds == pytest.approx(answer * pixels[0] + look * pixels[1])


def test_auto_is_the_network_itself_and_engines_say_that_they_are_not_exact(monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    model = SMALL["mean"][0]()
    plan = plan_scene(model, 4000, 4000, engine="auto")
    assert (plan.method, plan.memory) == (MEASURED, plan_scene(model, 4000, 4000).memory)
    assert plan.describe().endswith(
        "looked at once before for what the network asks of the whole image (exact)"
    )
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    assert predict.open_engine("auto", checkpoint, model, scene_of(120, 200), "cpu").engine == "eager"
    other = plan_scene(model, 4000, 4000, engine="torch")
    assert (other.method, other.exact) == (OVERLAP, False)
    assert plan_scene(NETWORKS["unet"](), 4000, 4000).method == EXACT


def test_windows_that_would_be_all_halo_are_overlapped_ones(monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 1024)
    model = network("smp:DeepLabV3Plus:resnet18", decoder_channels=16)
    wide = plan_scene(model, 9000, 9000)
    assert (wide.method, wide.core, wide.halo, wide.look) == (MEASURED, 1024, 864, 256)
    tight = plan_scene(model, 9000, 9000, memory=wide.memory // 4)
    assert tight.method == OVERLAP
    assert tight.memory <= wide.memory // 4


def test_networks_that_ask_too_often_or_otherwise_are_overlapped():
    many = small(*(Means(8) for _ in range(MOST_PASSES + 1)))
    assert find_reach(many, 2, multiple=8, measuring=True).passes == MOST_PASSES + 1
    assert measured_reach(many) is None
    assert measured_reach(small(*(Means(8) for _ in range(MOST_PASSES)))) is not None
    assert measured_reach(small(nn.AdaptiveMaxPool2d(1))) is None  # another question than those known
    assert measured_reach(small(OtherMean())) is None  # of channels and rows
    assert (
        measured_reach(small(nn.ConstantPad2d((1, 0, 1, 0), 0.0))) is None
    )  # a map that is no part of the image
    assert measured_reach(NETWORKS["unet"]()) is None  # it needs nothing of the kind
    assert measured_reach(NETWORKS["aspp-global"]()) is None  # the split stage is faster

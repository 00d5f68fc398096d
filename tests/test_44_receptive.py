"""How far a network sees and on which grid, worked out from its operations, against probing it with numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartransfer.models import build_model
from sartransfer.models.receptive import Reach, find_reach, peak_bytes
from sartransfer.models.split_stage import encode

torch.set_num_threads(1)


def probed(model, channels, stride, side, call=None):
    """Pixels before and after an aligned block of answers that have a gradient; nothing is cut off by a ReLU.

    Weights become positive, activations linear and maxima means, so that no dependence cancels or is switched off.
    """
    model = copy.deepcopy(model).double().eval()
    for module in list(model.modules()):
        for child, part in list(module.named_children()):
            if isinstance(part, nn.ReLU):
                setattr(module, child, nn.Identity())
            elif isinstance(part, nn.MaxPool2d):
                setattr(module, child, nn.AvgPool2d(part.kernel_size, part.stride, part.padding))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(1e-3)
    found = [0, 0]
    first = side // 2 // stride * stride
    for axis in (2, 3):
        x = torch.rand(1, channels, side, side, dtype=torch.float64, requires_grad=True)
        y = (call or (lambda m, x: m(x)))(model, x)
        cells = side // y.shape[2]
        block = slice(first // cells, (first + stride) // cells)
        (y[:, :, block] if axis == 2 else y[:, :, :, block]).sum().backward()
        touched = torch.nonzero(x.grad.abs().sum(dim=(0, 1, 5 - axis)) > 0).ravel().tolist()
        assert touched[0] > 0
        assert touched[-1] < side - 1
        found = [max(found[0], first - touched[0]), max(found[1], touched[-1] + 1 - first - stride)]
    return tuple(found)


class Layers(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("layers", "stride"),
    [
        ([nn.Conv2d(1, 2, 3, padding=1)], 1),
        ([nn.Conv2d(1, 2, 3, padding=6, dilation=6), nn.Conv2d(2, 1, (1, 5), padding=(0, 2))], 1),
        ([nn.Conv2d(1, 2, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(2, 1, 3, padding=1)], 4),
        ([nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, padding=1), nn.Upsample(scale_factor=2, mode="nearest")], 2),
        ([nn.AvgPool2d(4), nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(1, 1, 3, padding=1)], 4),
        ([nn.AvgPool2d(2), nn.ConvTranspose2d(1, 2, 2, stride=2), nn.Conv2d(2, 1, 3, padding=1)], 2),
        ([nn.Conv2d(1, 4, 2, stride=2), nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)], 2),
        ([nn.AvgPool2d(2), nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2)], 2),
    ],
)
def test_single_layers_are_as_probed(layers, stride):
    torch.manual_seed(0)
    model = Layers(*layers).eval()
    reach = find_reach(model, 1)
    assert reach.stride == stride
    assert (reach.before, reach.after) == probed(model, 1, stride, 48)


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("unet-resnet18", {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}, 192),
        ("unet-resnet18", {"decoder_channels": [8, 8, 8, 8]}, 320),
        ("unet", {"channels": [4, 4, 4]}, 96),
        ("resnet18-aspp", {"aspp_channels": 4, "rates": [1, 2]}, 384),
    ],
)
def test_networks_are_as_probed(name, options, side):
    torch.manual_seed(0)
    model = build_model(name, 2, 3, **options).eval()
    reach = find_reach(model, 2, multiple=model.stride)
    assert reach.stride == model.stride  # what the network says of itself
    assert (reach.before, reach.after) == probed(model, 2, model.stride, side)
    assert reach.halo % reach.stride == 0
    assert reach.halo - reach.stride < max(reach.before, reach.after) <= reach.halo


def test_resnet18_through_layer3_sees_211_pixels():
    model = build_model("resnet18-aspp", 2, 3).eval()
    reach = find_reach(model, 2, call=encode)
    assert reach == Reach(16, 105, 90)
    assert reach.before + reach.after + reach.stride == 211
    assert reach.halo == 112
    whole = find_reach(build_model("resnet18-aspp", 2, 3, rates=[6, 12, 18]).eval(), 2, multiple=32)
    assert whole.halo == 448  # 416 and the 32 pixel grid of the 2x2 averages


@pytest.mark.parametrize(
    "model",
    [
        lambda: build_model("resnet18-aspp", 2, 3, pooling="global"),
        lambda: build_model("smp:FPN:resnet18", 2, 3),  # aligned corners
        lambda: build_model("smp:Unet:efficientnet-b0", 2, 3),  # squeeze and excitation
        lambda: build_model("timm:resnet10t", 2, 3),
        lambda: Layers(nn.Conv2d(2, 2, 3, padding=1), nn.AdaptiveAvgPool2d(4), nn.Upsample(scale_factor=8)),
        lambda: Layers(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
        lambda: Layers(nn.Flatten(2), nn.Unflatten(2, (128, 512))),
    ],
    ids=["global mean", "aligned corners", "squeeze", "classifier", "adaptive", "reflect", "flatten"],
)
def test_what_sees_everything_or_is_not_known_has_no_halo(model):
    assert find_reach(model().eval(), 2, multiple=32).halo is None


def test_statistics_of_the_batch_have_no_halo():
    model = Layers(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
    assert find_reach(model.eval(), 2).halo == 1
    assert find_reach(model.train(), 2).halo is None


class Numbers(nn.Module):
    def forward(self, x):
        return x * float(x.mean())


def test_a_network_that_looks_at_its_numbers_has_no_halo():
    assert find_reach(Numbers(), 2).halo is None
    assert peak_bytes(Numbers(), [(1, 2, 8, 8)], at_least=77) == 77


def test_bytes_alive_are_those_of_a_chain_by_hand():
    model = Layers(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 1, 1)).eval()
    pixels, four = 32 * 32, 4
    # The input (held by the caller) and, at the most, a map of 4 channels and the one it becomes.
    assert peak_bytes(model, [(1, 1, 32, 32)]) == four * (pixels + 4 * pixels + 4 * pixels)


class Skip(nn.Module):
    def forward(self, x):
        return F.relu(x) + F.avg_pool2d(x, 3, 1, 1)


def test_branches_that_meet_see_as_far_as_the_farther_one():
    assert find_reach(Skip(), 1) == Reach(1, 1, 1)

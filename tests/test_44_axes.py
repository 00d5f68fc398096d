"""Maps that are turned, folded and joined: how far networks of today see, against probing them with numbers."""

import pytest
import torch
from test_44_receptive import Layers, probed
from torch import nn
from torch.nn import functional as F

from sartransfer.models import build_model
from sartransfer.models.receptive import find_reach

torch.set_num_threads(1)


class Turned(nn.Module):
    """A ConvNeXt block: a wide convolution by channel, then norm and linear layers over channels at the end."""

    def __init__(self, channels=4):
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Sequential(
            nn.Linear(channels, 3 * channels), nn.GELU(), nn.Linear(3 * channels, channels)
        )
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        y = self.linear(self.norm(self.wide(x).permute(0, 2, 3, 1))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class Folded(nn.Module):
    """A linear layer over channels of maps whose rows and columns are one dimension, as SegFormer's decoder has it."""

    def __init__(self, channels=4):
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 3, padding=1)
        self.linear = nn.Linear(channels, channels)

    def forward(self, x):
        y = self.look(x)
        y = self.linear(y.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).reshape(x.shape)


class Stacked(nn.Module):
    """The sum of a stack, as of a feature pyramid."""

    def __init__(self, channels=4):
        super().__init__()
        self.looks = nn.ModuleList(nn.Conv2d(channels, channels, n, padding=n // 2) for n in (1, 3, 5))

    def forward(self, x):
        stack = torch.stack([look(x) for look in self.looks])
        return stack.sum(dim=0) + stack.mean(0) + stack[1] + stack.unbind()[2]


class Parts(nn.Module):
    """Channels in parts that look one after the other, as Res2Net has it."""

    def __init__(self, channels=4):
        super().__init__()
        self.looks = nn.ModuleList(nn.Conv2d(channels // 2, channels // 2, 3, padding=1) for _ in range(2))

    def forward(self, x):
        first, second = torch.split(x, 2, dim=1)
        first = self.looks[0](first)
        one, other = self.looks[1](first + second).chunk(2, 1)
        return torch.cat([first, torch.cat([one, other], 1).squeeze(0).unsqueeze(0)], 1)


class Smaller(nn.Module):
    """A side less by a whole factor, bilinearly, and as it was."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        small = F.interpolate(x, scale_factor=1 / self.factor, mode="bilinear")
        return F.interpolate(small, scale_factor=self.factor, mode="nearest")


@pytest.mark.parametrize(
    ("layers", "stride"),
    [
        ([Turned()], 1),
        ([nn.Conv2d(4, 4, 2, stride=2), Turned(), nn.Upsample(scale_factor=2, mode="bilinear")], 2),
        ([Folded()], 1),
        ([nn.AvgPool2d(2), Folded(), Folded(), nn.Upsample(scale_factor=2)], 2),
        ([Stacked()], 1),
        ([Parts()], 1),
        ([Smaller(2), nn.Conv2d(4, 4, 3, padding=1)], 2),
        ([Smaller(3)], 3),
        ([Smaller(4)], 4),
    ],
    ids=["turned", "turned, halved", "folded", "folded, halved", "stacked", "parts", "by 2", "by 3", "by 4"],
)
def test_layers_are_as_probed(layers, stride):
    torch.manual_seed(0)
    model = Layers(*layers).eval()
    reach = find_reach(model, 4, multiple=stride)
    assert reach.stride == stride
    assert (reach.before, reach.after) == probed(model, 4, stride, 48)


@pytest.mark.parametrize(
    ("name", "side"), [("smp:Unet:tu-convnext_atto", 384), ("smp:Unet:tu-res2net50_26w_4s", 384)]
)
def test_networks_are_as_probed(name, side):
    torch.manual_seed(0)
    model = build_model(name, 2, 3, encoder_depth=3, decoder_channels=[8, 8, 8]).eval()
    reach = find_reach(model, 2, multiple=model.stride)
    assert (reach.before, reach.after) == probed(model, 2, model.stride, side)


class Placed(nn.Module):
    """An embedding of places: the same image elsewhere has another answer."""

    def __init__(self, joined):
        super().__init__()
        self.where, self.joined = nn.Parameter(torch.rand(1, 2, 256, 256)), joined

    def forward(self, x):
        return torch.cat([x, self.where], 1)[:, :2] if self.joined else x + self.where


class Tokens(nn.Module):
    """A linear layer over places, as in an MLP-Mixer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 256)

    def forward(self, x):
        return self.linear(x)


class Attention(nn.Module):
    def forward(self, x):
        tokens = x.flatten(2)
        return (tokens @ (tokens.transpose(1, 2) @ tokens)).reshape(x.shape)


class Written(nn.Module):
    """An answer that is written into memory of its own, part by part."""

    def forward(self, x):
        answer = torch.zeros(x.shape, device=x.device)
        answer[:, :1] = x[:, :1].mean((2, 3), keepdim=True)
        return answer


class WrittenKnown(nn.Module):
    """What was measured, written into memory that is looked at from its start."""

    def forward(self, x):
        known = x.mean((2, 3), keepdim=True)
        place = torch.zeros(known.shape, device=x.device)
        place[:, :1] = known[:, :1]
        return x * place


class Filtered(nn.Module):
    """Weights of a convolution that the image itself makes."""

    def forward(self, x):
        return F.conv2d(
            torch.zeros(1, 2, 256, 256, device=x.device), x[:, :, :3, :3].expand(2, 2, 3, 3), padding=1
        )


class Sideways(nn.Module):
    """Rows looked at as columns: what lies above is looked for on the left."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(2, 2, (3, 1), padding=(1, 0))

    def forward(self, x):
        return self.look(x.transpose(2, 3))


@pytest.mark.parametrize(
    "model",
    [
        Placed(joined=False),
        Placed(joined=True),
        Tokens(),
        Attention(),
        Written(),
        WrittenKnown(),
        Filtered(),
        Sideways(),
        Layers(nn.Flatten(2), nn.Unflatten(2, (128, 512))),
        Layers(nn.Flatten(1, 2), nn.Unflatten(1, (2, 256))),
        Layers(nn.Flatten(2), nn.Softmax(2), nn.Unflatten(2, (256, 256))),
        Layers(nn.LayerNorm(256)),
    ],
    ids=["embedding", "embedding joined", "tokens", "attention", "written", "written, known", "filtered", "sideways",
         "folded otherwise", "channels folded", "softmax of all", "norm of rows"],
)  # fmt: skip
def test_what_sees_everything_or_is_not_known_has_no_halo(model):
    assert find_reach(model.eval(), 2).halo is None
    assert find_reach(model.eval(), 2, measuring=True).halo is None

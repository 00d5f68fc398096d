"""Backbones of terratorch by name: with a registry of our own form, and with terratorch itself where it is there."""

import sys
import types
import warnings

import pytest
import torch
from torch import nn

from sartransfer.errors import RecipeError, WeightsError
from sartransfer.models import build_model, library_weights, load_initialization

torch.set_num_threads(1)


class Convolutions(nn.Module):
    """Two maps, of a quarter and an eighth."""

    def __init__(self, in_chans):
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 6, 4, stride=4)
        self.next = nn.Conv2d(6, 10, 2, stride=2)

    def forward(self, x):
        """Return the maps, finest first."""
        first = self.stem(x)
        return [first, self.next(first)]


class Tokens(nn.Module):
    """A class token and one token a patch of 8 pixels, or maps with their channels last."""

    def __init__(self, bands, last=False):
        super().__init__()
        self.proj, self.last = nn.Conv2d(len(bands), 5, 8, stride=8), last

    def forward(self, x):
        """Return one answer."""
        found = self.proj(x)
        if self.last:
            return [found.permute(0, 2, 3, 1)]
        tokens = found.flatten(2).transpose(1, 2)
        return [torch.cat([tokens[:, :1], tokens], dim=1)]


class Registry(dict):
    """Name -> class."""

    def build(self, name, pretrained=False, **words):
        """Build one; published weights are ones."""
        model = self[name](**(words if words else {"in_chans": 2}))
        if pretrained:
            for p in model.parameters():
                nn.init.ones_(p)
        return model


@pytest.fixture
def backbones(monkeypatch):
    found = types.ModuleType("terratorch.registry")
    found.BACKBONE_REGISTRY = Registry(
        small=Convolutions,
        tokens=Tokens,
        last=lambda bands: Tokens(bands, last=True),
        odd=lambda bands: nn.Flatten(),
    )
    monkeypatch.setitem(sys.modules, "terratorch", types.ModuleType("terratorch"))
    monkeypatch.setitem(sys.modules, "terratorch.registry", found)


@pytest.mark.parametrize(
    ("name", "stride", "channels"), [("small", 8, [6, 10]), ("tokens", 8, [5]), ("last", 8, [5])]
)
def test_a_backbone_segments_images_of_any_size(backbones, name, stride, channels):
    model = build_model(f"terratorch:{name}", 2, 3, decoder_channels=4).eval()
    assert model.stride == stride
    assert [c.in_channels for c in model.decoder.lateral] == channels
    assert model(torch.zeros(2, 2, 37, 50)).shape == (2, 3, 37, 50)
    assert model.built["name"] == f"terratorch:{name}"
    assert model.first_layer()[1].in_channels == 2


def test_tokens_go_back_to_where_they_came_from(backbones):
    model = build_model("terratorch:tokens", 1, 2, decoder_channels=4).eval()
    from sartransfer.models.terratorch_backbones import maps_of

    x = torch.randn(1, 1, 24, 40)
    (found,) = maps_of(model.encoder, x)
    torch.testing.assert_close(found, model.encoder.proj(x))
    last = build_model("terratorch:last", 1, 2, decoder_channels=4).eval()
    torch.testing.assert_close(maps_of(last.encoder, x)[0], last.encoder.proj(x))


def test_its_published_weights_are_a_start_and_meet_our_bands(backbones):
    weights = library_weights("terratorch", "small")
    assert weights.source == "terratorch:small"
    model = build_model("terratorch:small", 3, 2, decoder_channels=4)
    report = load_initialization(model, weights, source=weights.source)
    assert report.adapted == ("encoder.stem.weight",)
    assert set(report.loaded) == {"encoder.stem.bias", "encoder.next.weight", "encoder.next.bias"}
    assert torch.equal(model.encoder.next.weight, torch.ones(10, 6, 2, 2))


def test_what_does_not_fit_is_refused(backbones):
    with pytest.raises(RecipeError, match=r"no backbone 'smal'\. Did you mean 'small'"):
        build_model("terratorch:smal", 2, 2)
    with pytest.raises(RecipeError, match="neither a map nor a grid"):
        build_model("terratorch:odd", 2, 2)
    with pytest.raises(RecipeError, match="cannot be built with 2 bands"):
        build_model("terratorch:small", 2, 2, depth=3)
    with pytest.raises(RecipeError, match="'pretrained' is not allowed"):
        build_model("terratorch:small", 2, 2, pretrained=True)
    with pytest.raises(WeightsError, match="terratorch has no backbone 'other'"):
        library_weights("terratorch", "other")
    with pytest.raises(RecipeError, match="Prithvi's form"):
        build_model("terratorch:small", 2, 2, lora={"rank": 2})


def test_without_terratorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "terratorch.registry", None)
    for ask in (
        lambda: build_model("terratorch:small", 2, 2),
        lambda: library_weights("terratorch", "small"),
    ):
        with pytest.raises(RecipeError, match=r"pip install 'sartransfer\[terratorch\]'"):
            ask()


@pytest.mark.parametrize(
    "name", ["timm_resnet18", "prithvi_eo_tiny", "ssl4eos12_resnet18_sentinel2_rgb_moco"]
)
def test_backbones_of_terratorch_itself(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("terratorch.registry", reason="terratorch, an extra, is not installed")
        model = build_model(f"terratorch:{name}", 2, 2, decoder_channels=8).eval()
    assert model(torch.zeros(1, 2, 70, 100)).shape == (1, 2, 70, 100)
    again = build_model(f"terratorch:{name}", 2, 2, decoder_channels=8)
    report = load_initialization(again, model.encoder.state_dict(), source="x")
    assert not [n for n in report.random if n.startswith("encoder.")]

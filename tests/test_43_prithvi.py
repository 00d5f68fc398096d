"""Prithvi: the published encoder by its formulas, its file layouts, five ways to other bands; LoRA; the U-Net."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, RecipeError, WeightsError
from sartransfer.models import build_model, freeze, load_initialization, read_checkpoint, write_checkpoint
from sartransfer.models.channels import adapt_first_layer
from sartransfer.models.lora import LoraLinear, add_lora, is_lora, merge_lora, without_lora
from sartransfer.models.prithvi import PrithviSegmenter, layer_of
from sartransfer.models.prithvi_decoders import NeckHead, PyramidUNet
from sartransfer.models.prithvi_encoder import PrithviEncoder, position_embedding
from sartransfer.models.prithvi_weights import HUB, flat_patches, hub_weights, load_prithvi
from sartransfer.models.weights import Weights, read_weights

torch.set_num_threads(1)
TINY = {"width": 32, "depth": 4, "heads": 2, "neck_channels": 16, "head_channels": 8}
SMALL_UNET = {**TINY, "decoder": "unet", "decoder_channels": [16, 12, 8, 8]}
SIZES = {  # width, depth, heads, patch: config.json of the repositories on the hub
    "prithvi-v1-100m": (768, 12, 12, 16),
    "prithvi-v2-300m": (1024, 24, 16, 16),
    "prithvi-v2-600m": (1280, 32, 16, 14),
}


def _tiny(in_channels=6, **options):
    torch.manual_seed(0)
    model = build_model("prithvi-v1-100m", in_channels, 2, **{**TINY, **options})
    assert isinstance(model, PrithviSegmenter)
    return model.eval()


def _count(module):
    return sum(p.numel() for p in module.parameters())


# The layout of Prithvi_100M.pt (V1, flat), by hand: NASA-IMPACT/hls-foundation-os, hls-gfm/models_mae.py; and that of
# Prithvi_EO_V1_100M.pt and Prithvi_EO_V2_*.pt (prefixed): prithvi_mae.py on the hub.
BLOCK = {
    "norm1.weight": (1,),
    "norm1.bias": (1,),
    "attn.qkv.weight": (3, 1),
    "attn.qkv.bias": (3,),
    "attn.proj.weight": (1, 1),
    "attn.proj.bias": (1,),
    "norm2.weight": (1,),
    "norm2.bias": (1,),
    "mlp.fc1.weight": (4, 1),
    "mlp.fc1.bias": (4,),
    "mlp.fc2.weight": (1, 4),
    "mlp.fc2.bias": (1,),
}  # in multiples of the width


def _layout(width, depth, patch, frames, *, prefixed, inner=512, inner_depth=8):
    """Name -> shape of every tensor in a published file."""
    one, two = ("encoder.", "decoder.") if prefixed else ("", "")
    places = frames * (224 // patch) ** 2 + 1
    shapes = {
        f"{one}cls_token": (1, 1, width),
        f"{one}pos_embed": (1, places, width),
        f"{two}mask_token": (1, 1, inner),
        f"{two}decoder_pos_embed": (1, places, inner),
        f"{one}patch_embed.proj.weight": (width, 6, 1, patch, patch),
        f"{one}patch_embed.proj.bias": (width,),
        f"{one}norm.weight": (width,),
        f"{one}norm.bias": (width,),
        f"{two}decoder_embed.weight": (inner, width),
        f"{two}decoder_embed.bias": (inner,),
        f"{two}decoder_norm.weight": (inner,),
        f"{two}decoder_norm.bias": (inner,),
        f"{two}decoder_pred.weight": (6 * patch**2, inner),
        f"{two}decoder_pred.bias": (6 * patch**2,),
    }
    for number in range(depth):
        shapes |= {f"{one}blocks.{number}.{n}": tuple(k * width for k in s) for n, s in BLOCK.items()}
    for number in range(inner_depth):
        shapes |= {f"{two}decoder_blocks.{number}.{n}": tuple(k * inner for k in s) for n, s in BLOCK.items()}
    return shapes


def _published(width=32, depth=4, patch=16, *, prefixed, seed=1):
    """A small file of the published layout: the same values, whatever the prefix."""
    generator = torch.Generator().manual_seed(seed)
    shapes = _layout(width, depth, patch, 3, prefixed=False, inner=32, inner_depth=2)
    tensors = {n: 0.1 * torch.randn(s, generator=generator) for n, s in sorted(shapes.items())}
    if not prefixed:
        return tensors
    inner = ("decoder", "mask_token")
    return {("decoder." if n.startswith(inner) else "encoder.") + n: t for n, t in tensors.items()}


@pytest.mark.parametrize("grid", [(1, 14, 14), (3, 2, 5), (2, 16, 16)])
def test_the_position_embedding_is_the_formula(grid):
    channels, (frames, rows, columns) = 32, grid
    places = position_embedding(channels, grid)
    assert places.shape == (1 + frames * rows * columns, channels)
    assert places.dtype == torch.float32
    expected = [[0.0] * channels]
    for t in range(frames):
        for row in range(rows):
            for column in range(columns):
                token = []
                for place, part in ((column, 12), (row, 12), (t, 8)):  # 6/16, 6/16 and 4/16 of 32
                    angles = [place / 10000 ** (2 * i / part) for i in range(part // 2)]
                    token += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
                expected.append(token)
    torch.testing.assert_close(places, torch.tensor(expected), rtol=0, atol=1e-7)


def _slow_tokens(encoder, x, frames):
    """The encoder once more, with a 3-D convolution and attention in loops."""
    state = {n: t.double() for n, t in encoder.state_dict().items()}
    width, heads = encoder.width, encoder.blocks[0].attn.num_heads
    kernel = state["patch_embed.proj.weight"].unsqueeze(2)
    video = x.double().reshape(len(x), frames, -1, *x.shape[-2:]).transpose(1, 2)
    patches = F.conv3d(video, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[2:])
    places = position_embedding(width, tuple(patches.shape[2:])).double()
    tokens = patches.flatten(2).transpose(1, 2) + places[1:]
    t = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens], dim=1)

    def norm(v, name):
        v = (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return v * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(v, name):
        return v @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    found = []
    for number in range(encoder.depth):
        at = f"blocks.{number}"
        q, k, v = linear(norm(t, f"{at}.norm1"), f"{at}.attn.qkv").split(width, dim=-1)
        parts = []
        for h in range(heads):
            own = slice(h * width // heads, (h + 1) * width // heads)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(width // heads)
            parts.append(scores.softmax(-1) @ v[..., own])
        t = t + linear(torch.cat(parts, -1), f"{at}.attn.proj")
        inner = linear(norm(t, f"{at}.norm2"), f"{at}.mlp.fc1")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        t = t + linear(inner, f"{at}.mlp.fc2")
        found.append(t)
    return [*found[:-1], norm(t, "norm")]


@pytest.mark.parametrize(("frames", "patch", "size"), [(1, 16, (48, 64)), (3, 14, (28, 42))])
def test_the_encoder_is_the_published_function(frames, patch, size):
    torch.manual_seed(2)
    encoder = PrithviEncoder(
        2, width=32, depth=3, heads=2, patch=patch, frames=frames, layers=range(3)
    ).double()
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.2)
    x = torch.randn(2, frames * 2, *size, dtype=torch.float64)
    tokens, slow = encoder.tokens(x), _slow_tokens(encoder, x, frames)
    for mine, theirs in zip(tokens, slow, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    rows, columns = size[0] // patch, size[1] // patch
    maps = encoder(x)
    for t in range(frames):
        for row, column in ((0, 0), (1, columns - 1)):
            place = 1 + (t * rows + row) * columns + column
            for tokens_of, map_of in zip(slow, maps, strict=True):
                torch.testing.assert_close(map_of[:, t * 32 : (t + 1) * 32, row, column], tokens_of[:, place])
    with pytest.raises(InputError, match=f"multiples of {patch}"):
        encoder(x[..., :-1])


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder.", "backbone."])
def test_every_published_layout_loads_whole_and_gives_the_same(tmp_path, prefix):
    flat = _published(prefixed=False)
    longer = {prefix + n: t for n, t in flat.items()}
    named = _published(prefixed=True) if prefix == "encoder." else longer
    torch.save(named, tmp_path / "prithvi.pt")
    weights = read_weights(tmp_path / "prithvi.pt")
    assert (weights.source, len(weights.sha256)) == ("prithvi.pt", 64)
    model, peer = _tiny(), _tiny()
    report = load_prithvi(model, weights, source=weights.source)
    names = {f"encoder.{n}" for n in model.encoder.state_dict()}
    assert set(report.loaded) == names
    assert len(names) == 5 + 12 * 4
    assert not report.partial
    assert report.adapted == ()
    assert not any(n.startswith("encoder.") for n in report.random)
    assert len(report.ignored) == len(named) - len(names)
    assert {n.rpartition(".")[2] for n in report.ignored} >= {"pos_embed", "mask_token", "decoder_pos_embed"}
    assert "as it is, 6 channels" in report.first_layer
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor.flatten(), flat[name].flatten())
    load_prithvi(peer, flat, source="flat")
    peer.decoder.load_state_dict(model.decoder.state_dict())
    peer.segmentation_head.load_state_dict(model.segmentation_head.state_dict())
    x = torch.randn(1, 6, 64, 64)
    assert torch.equal(model(x), peer(x))


def test_the_full_encoders_have_the_published_parameters_and_names():
    """86,237,184 and 303.9 M from the papers' sizes; the files' bytes as the hub lists them."""
    counts = {"prithvi-v1-100m": 86_237_184, "prithvi-v2-300m": 303_886_336, "prithvi-v2-600m": 631_188_480}
    for name, (width, depth, heads, patch) in SIZES.items():
        with torch.device("meta"):
            model = build_model(name, 6, 2, decoder="unet")
        assert _count(model.encoder) == counts[name]
        assert model.encoder.blocks[0].attn.num_heads == heads
        shapes = _layout(width, depth, patch, 3, prefixed=True)
        theirs = {
            n: s[:2] + s[3:] if len(s) == 5 else s
            for n, s in shapes.items()
            if n.startswith("encoder.") and not n.endswith("pos_embed")
        }
        own = {n: tuple(t.shape) for n, t in model.state_dict().items() if n.startswith("encoder.")}
        assert own == theirs
        assert len(own) == 5 + 12 * depth
    assert 5 + 12 * 12 == 149

    def size(name, frames):
        width, depth, _, patch = SIZES[name]
        return 4 * sum(math.prod(s) for s in _layout(width, depth, patch, frames, prefixed=False).values())

    assert (
        0 < 453_672_901 - size("prithvi-v1-100m", 3) < 200_000
    )  # Prithvi_100M.pt; the rest is its directory
    assert round(size("prithvi-v2-300m", 4) / 1e9, 2) == 1.33  # Prithvi_EO_V2_300M.pt
    assert round(size("prithvi-v2-600m", 4) / 1e9, 2) == 2.64  # Prithvi_EO_V2_600M.pt


@pytest.mark.parametrize("decoder", ["fcn", "unet"])
def test_the_fine_tuned_layers_are_those_of_the_reference(decoder):
    with torch.device("meta"):
        model = build_model("prithvi-v1-100m", 2, 2, decoder=decoder)
        large = build_model("prithvi-v2-600m", 2, 2, decoder=decoder)
    assert model.encoder.layers == ((11,) if decoder == "fcn" else (2, 5, 8, 11))
    assert large.encoder.layers == ((31,) if decoder == "fcn" else (7, 15, 23, 31))
    assert model.stride == (16 if decoder == "fcn" else 32)
    assert large.stride == (14 if decoder == "fcn" else 28)
    if decoder == "fcn":
        assert [m.out_channels for m in model.decoder.neck if isinstance(m, nn.ConvTranspose2d)] == [768] * 4
        assert model.decoder.out_channels == 256
    else:
        assert [b[0].out_channels for b in model.decoder.blocks] == [512, 256, 128, 64]


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_mean_answers_equal_bands_as_before(bands):
    flat = _published(prefixed=False)
    six, model = _tiny(), _tiny(bands)
    load_prithvi(six, flat, source="x")
    report = load_prithvi(model, flat, source="x")
    assert report.adapted == ("encoder.patch_embed.proj.weight",)
    assert f"6 channels -> {bands}: the mean kernel" in report.first_layer
    kernel = flat["patch_embed.proj.weight"][:, :, 0]
    for band in range(bands):
        own = model.encoder.patch_embed.proj.weight[:, band]
        torch.testing.assert_close(own, kernel.mean(1) * 6 / bands)
    x = torch.randn(1, 1, 48, 48)
    mine, theirs = (m.encoder.tokens(x.expand(-1, c, -1, -1)) for m, c in ((model, bands), (six, 6)))
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-4, atol=1e-5)


def _filled(in_channels, options, start, flat):
    """A network with the same decoder as all others here, and the weights."""
    model = _tiny(in_channels, **options)
    report = load_prithvi(model, flat, source="x", **start)
    assert not report.partial
    generator = torch.Generator().manual_seed(9)
    for p in [*model.decoder.parameters(), *model.segmentation_head.parameters()]:
        with torch.no_grad():
            p.normal_(0, 0.1, generator=generator)
    return model, report


def test_select_and_pad_are_the_six_band_network_with_zeros_elsewhere():
    flat = _published(prefixed=True)
    six, _ = _filled(6, {}, {}, flat)
    x = torch.randn(2, 2, 50, 40)
    for way in ("select", "pad"):
        for places in ([0, 1], [4, 2]):
            wide = torch.zeros(2, 6, 50, 40)
            wide[:, places] = x
            start = {"first_layer": "select", "select": places} if way == "select" else {}
            model, report = _filled(2, {"slots": places} if way == "pad" else {}, start, flat)
            torch.testing.assert_close(model(x), six(wide), rtol=1e-4, atol=1e-5)
            assert str(places) in report.describe()
            assert model.encoder.patch_embed.proj.in_channels == (2 if way == "select" else 6)


def test_conv1x1_leaves_the_six_kernels_and_starts_as_repeat():
    flat = _published(prefixed=False)
    model, report = _filled(2, {}, {"first_layer": "conv1x1"}, flat)
    peer, _ = _filled(2, {}, {"first_layer": "repeat"}, flat)
    assert torch.equal(model.encoder.patch_embed.proj.weight, flat["patch_embed.proj.weight"][:, :, 0])
    assert model.input_projection.weight.shape == (6, 2, 1, 1)
    assert report.adapted == ("input_projection.weight",)
    x = torch.randn(2, 2, 40, 50)
    torch.testing.assert_close(model(x), peer(x), rtol=1e-4, atol=1e-5)
    expected = adapt_first_layer(flat["patch_embed.proj.weight"][:, :, 0], 2)
    assert torch.equal(peer.encoder.patch_embed.proj.weight, expected)


def test_two_dates_are_two_frames_of_one_band():
    flat = _published(prefixed=False)
    model, report = _filled(2, {"frames": 2}, {"first_layer": "mean"}, flat)
    kernel = flat["patch_embed.proj.weight"][:, :, 0]
    own = model.encoder.patch_embed.proj.weight
    torch.testing.assert_close(own, kernel.sum(1, keepdim=True))  # 6 / 1 of the mean: one band in all six
    assert "6 channels -> 1" in report.first_layer
    assert any("2 frames of 1 band" in note for note in report.notes)
    assert model.in_channels == 2
    x = torch.randn(1, 2, 32, 48)
    slow = _slow_tokens(model.encoder, x, 2)[-1]
    torch.testing.assert_close(model.encoder.tokens(x)[0], slow.float(), rtol=1e-4, atol=1e-5)
    six, _ = _filled(12, {"frames": 2}, {}, flat)  # the published network on two frames of six equal bands
    six.load_state_dict({**model.state_dict(), "encoder.patch_embed.proj.weight": kernel})
    torch.testing.assert_close(model(x), six(x.repeat_interleave(6, dim=1)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(x), model(x.flip(1)))  # before and after are not the same thing


def test_frames_take_every_other_way_too():
    flat = _published(prefixed=False)
    x = torch.randn(1, 4, 40, 40)  # before VV, VH, after VV, VH
    projected, report = _filled(4, {"frames": 2}, {"first_layer": "conv1x1"}, flat)
    repeated, _ = _filled(4, {"frames": 2}, {"first_layer": "repeat"}, flat)
    assert projected.input_projection.weight.shape == (6, 2, 1, 1)
    assert report.adapted == ("input_projection.weight",)
    torch.testing.assert_close(projected(x), repeated(x), rtol=1e-4, atol=1e-5)
    padded, _ = _filled(4, {"frames": 2, "slots": [5, 0]}, {}, flat)
    selected, _ = _filled(4, {"frames": 2}, {"first_layer": "select", "select": [5, 0]}, flat)
    torch.testing.assert_close(padded(x), selected(x), rtol=1e-4, atol=1e-5)


def test_wrong_ways_to_other_bands_are_refused():
    flat = _published(prefixed=False)
    with pytest.raises(WeightsError, match="Did you mean 'select'"):
        load_prithvi(_tiny(2), flat, source="x", first_layer="selct")
    for places in ([0], [0, 0], [0, 6], [-1, 0]):
        with pytest.raises(RecipeError, match="different numbers from 0 to 5"):
            _tiny(2, slots=places)
    for places in ([0], [0, 6], [-1, 0], None):
        with pytest.raises(WeightsError, match="one index from 0 to 5 for each of the 2 bands"):
            load_prithvi(_tiny(2), flat, source="x", first_layer="select", select=places)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("decoder", ["fcn", "unet"])
def test_any_image_size_is_padded_run_and_cropped(name, decoder):
    torch.manual_seed(0)
    options = TINY if decoder == "fcn" else SMALL_UNET
    model = build_model(name, 2, 3, **options).eval()
    stride = model.stride
    assert stride == SIZES[name][3] * (1 if decoder == "fcn" else 2)
    for height, width in ((50, 33), (stride, 2 * stride), (1, 1)):
        x = torch.randn(2, 2, height, width)
        high, wide = -(-height // stride) * stride, -(-width // stride) * stride
        padded = torch.zeros(2, 2, high, wide)
        padded[..., :height, :width] = x
        with torch.inference_mode():
            logits = model(x)
            expected = model.segmentation_head(model.decoder(model.encoder(padded)))
            factor = model.decoder.scale / model.encoder.patch
            assert expected.shape == (2, 3, high * factor, wide * factor)
            expected = F.interpolate(expected, size=(high, wide), mode="bilinear", align_corners=False)
        assert logits.shape == (2, 3, height, width)
        torch.testing.assert_close(logits, expected[..., :height, :width], rtol=0, atol=1e-6)
    channels_last = torch.randn(2, 2, 40, 40).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(channels_last), model(channels_last.contiguous()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [TINY, SMALL_UNET])
@pytest.mark.parametrize("frames", [1, 2])
def test_every_parameter_gets_a_gradient_and_a_step_lowers_the_loss(options, frames):
    torch.manual_seed(4)
    model = build_model("prithvi-v1-100m", 2, 2, **options, frames=frames, dropout=0.0)
    x, target = torch.randn(2, 2, 64, 64), torch.randint(2, (2, 64, 64))
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert losses[-1] < losses[0]


def test_the_pyramid_decoder_is_smps_unet_decoder_on_the_learned_pyramid():
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    torch.manual_seed(0)
    own = PyramidUNet(32, channels=(16, 12, 8, 8)).eval()
    peer = UnetDecoder([8, 8, 16, 32, 32], (16, 12, 8, 8), n_blocks=4).eval()
    theirs = list(peer.state_dict())
    mine = [t for n, t in own.state_dict().items() if n.startswith("blocks.")]
    peer.load_state_dict(dict(zip(theirs, mine, strict=True)))
    features = [torch.randn(1, 32, 4, 6) for _ in range(4)]
    four = F.conv_transpose2d(features[0], own.four[0].weight, own.four[0].bias, stride=2)
    four = F.conv_transpose2d(F.gelu(own.four[1](four)), own.four[3].weight, own.four[3].bias, stride=2)
    two = F.conv_transpose2d(features[1], own.two.weight, own.two.bias, stride=2)
    pyramid = [four, two, features[2], F.max_pool2d(features[3], 2)]
    finest = torch.zeros(1, 1, 32, 48)  # it tells the peer the size to end with, and no more
    torch.testing.assert_close(own(features), peer([finest, *pyramid]))


def test_the_neck_doubles_four_times_and_norms_every_pixel():
    torch.manual_seed(0)
    own = NeckHead(12, neck_channels=8, head_channels=5).double().eval()
    x = torch.randn(1, 12, 2, 3, dtype=torch.float64)
    y = x
    for number in (0, 4):
        first, norm, _, second = own.neck[number : number + 4]
        # A transposed 2x2 convolution with stride 2 puts a product into each of four pixels.
        for conv in (first, second):
            out = torch.zeros(1, conv.out_channels, 2 * y.shape[2], 2 * y.shape[3], dtype=torch.float64)
            for i in (0, 1):
                for j in (0, 1):
                    out[..., i::2, j::2] = torch.einsum("bchw,cd->bdhw", y, conv.weight[:, :, i, j])
            y = out + conv.bias.view(1, -1, 1, 1)
            if conv is first:
                y = (y - y.mean(1, keepdim=True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
                y = F.gelu(y * norm.ln.weight.view(1, -1, 1, 1) + norm.ln.bias.view(1, -1, 1, 1))
    torch.testing.assert_close(own([x]), own.head(y))
    assert own([x]).shape == (1, 5, 32, 48)


def test_a_wrong_file_is_never_a_silent_random_start(tmp_path, monkeypatch):
    flat = _published(prefixed=False)
    with pytest.raises(WeightsError, match="neither a file nor the name"):
        hub_weights(str(tmp_path / "absent.pt"))
    with pytest.raises(WeightsError, match="Did you mean 'prithvi-v1-100m'"):
        hub_weights("prithvi-v1-100")
    with pytest.raises(WeightsError, match="OWNER/NAME/FILE"):
        hub_weights("huggingface:someone/thing")
    torch.save({"fc.weight": torch.zeros(2, 3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="holds no Prithvi encoder"):
        load_prithvi(_tiny(), read_weights(tmp_path / "other.pt"), source="other.pt")
    with pytest.raises(WeightsError, match="joins 2 frames"):
        flat_patches({"patch_embed.proj.weight": torch.zeros(8, 6, 2, 4, 4)}, "x")
    wide = _published(width=64, prefixed=True)
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_prithvi(_tiny(), wide, source="wide")
    shallow = {n: t for n, t in flat.items() if not n.startswith("blocks.3.")}
    with pytest.raises(WeightsError, match="lacks 12 tensors"):
        load_prithvi(_tiny(), shallow, source="shallow")
    fine = _published(patch=14, prefixed=False)
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_prithvi(_tiny(), fine, source="fine")
    report = load_prithvi(_tiny(), _published(depth=6, prefixed=False), source="deep")
    assert any("blocks 4 to 5 of the weights are not used" in note for note in report.notes)

    def fail(**_):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    for name in (*HUB, "ibm-nasa-geospatial/Prithvi-EO-2.0-300M", "huggingface:a/b/c.pt"):
        with pytest.raises(WeightsError, match=r"could not be fetched.*no route.*give its path"):
            hub_weights(name)


def test_the_hub_is_asked_for_the_published_file(tmp_path, monkeypatch):
    torch.save(_published(prefixed=True), tmp_path / "w.pt")
    asked = []

    def give(**words):
        asked.append(words)
        return str(tmp_path / "w.pt")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", give)
    weights = hub_weights("prithvi-v1-100m")
    repository, file = "ibm-nasa-geospatial/Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt"
    assert weights.source == f"huggingface:{repository}/{file}"
    assert hub_weights(repository).source == weights.source
    assert hub_weights("huggingface:a/b/c.pt").source == "huggingface:a/b/c.pt"
    assert asked == [
        {"repo_id": repository, "filename": file, "revision": None},
        {"repo_id": repository, "filename": file, "revision": None},
        {"repo_id": "a/b", "filename": "c.pt", "revision": None},
    ]
    assert isinstance(weights, Weights)
    assert len(weights.sha256) == 64


def test_a_random_start_is_one_that_was_asked_for():
    report = load_prithvi(_tiny(2), None, source="random", freeze=["encoder.blocks.0", "encoder.cls_token"])
    assert report.parameters["random"] == report.parameters["total"]
    assert not report.partial
    assert set(report.frozen) == {"encoder.cls_token", *(f"encoder.blocks.0.{n}" for n in BLOCK)}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decoder": "fpn"}, "fcn, unet"),
        ({"frames": 4}, "cannot share 6 bands"),
        ({"width": 40}, "multiple of 16"),
        ({"heads": 5}, "multiple of 16 and of heads=5"),
        ({"decoder": "unet", "depth": 3}, "takes 4 layers"),
        ({"decoder": "unet", "decoder_channels": [8, 8]}, "four numbers"),
        ({"frames": 3, "slots": [0, 1, 2]}, "2 different numbers"),
        ({"decodr": "unet"}, "Did you mean 'decoder'"),
        ({"lora": {"rang": 2}}, "Did you mean 'rank'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, match):
    with pytest.raises(RecipeError, match=match):
        build_model("prithvi-v1-100m", 6, 2, **{**TINY, **options})


def test_layers_are_numbered_from_the_image_to_the_answer():
    model = _tiny(2, frames=2)
    load_prithvi(model, _published(prefixed=False), source="x", first_layer="conv1x1")
    numbers = {n: model.layer_of(n) for n, _ in model.named_parameters()}
    assert numbers["input_projection.weight"] == numbers["encoder.cls_token"] == 0
    assert numbers["encoder.patch_embed.proj.weight"] == 0
    for block in range(4):
        mine = {k for n, k in numbers.items() if n.startswith(f"encoder.blocks.{block}.")}
        assert mine == {block + 1}
    late = ("encoder.norm.", "decoder.", "segmentation_head.")
    assert {k for n, k in numbers.items() if n.startswith(late)} == {5} == {model.last_layer}
    assert layer_of("encoder.blocks.11.attn.qkv.lora_a", 12) == 12
    with pytest.raises(WeightsError, match="0 to 3"):
        layer_of("encoder.blocks.4.norm1.weight", 4)


def _stir(model, seed=7):
    generator = torch.Generator().manual_seed(seed)
    for n, p in model.named_parameters():
        if is_lora(n):
            with torch.no_grad():
                p.normal_(0, 0.2, generator=generator)


def test_lora_starts_as_the_network_and_merges_into_its_weights():
    model = _tiny(2)
    plain = copy.deepcopy(model)
    x = torch.randn(1, 2, 48, 48)
    names = add_lora(model.encoder, rank=3, alpha=6.0)
    assert names == [f"blocks.{i}.attn.{part}" for i in range(4) for part in ("qkv", "proj")]
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-6)
        trained = {n for n, p in model.encoder.named_parameters() if p.requires_grad}
        assert trained == {f"{n}.{part}" for n in names for part in ("lora_a", "lora_b")}
        assert all(p.requires_grad for p in model.decoder.parameters())
        assert sum(p.numel() for p in model.encoder.parameters() if p.requires_grad) == 4 * 3 * (
            32 + 96 + 32 + 32
        )
        _stir(model)
        before = model(x)
        assert (before - plain(x)).abs().max() > 1e-3
        qkv = model.encoder.blocks[0].attn.qkv
        expected = qkv.weight.double() + 2 * qkv.lora_b.double() @ qkv.lora_a.double()
        assert merge_lora(model) == [f"encoder.{n}" for n in names]
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    assert type(model.encoder.blocks[0].attn.qkv) is nn.Linear
    torch.testing.assert_close(
        model.encoder.blocks[0].attn.qkv.weight.double(), expected, rtol=1e-6, atol=1e-7
    )
    assert list(model.state_dict()) == list(plain.state_dict())
    assert merge_lora(model) == []


def test_a_lora_layer_is_its_formula_and_only_it_learns():
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(5, 4).double(), rank=2, alpha=3.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = x @ layer.weight.T + layer.bias + 3.0 / 2 * (x @ layer.lora_a.T) @ layer.lora_b.T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.merged()(x), expected)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3, bias=False))
    assert add_lora(model, rank=2, layers=["2", "3"], keep=["0.bias"]) == ["2", "3"]
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"0.bias", "2.lora_a", "2.lora_b", "3.lora_a", "3.lora_b"}


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"rank": 0}, "1 or more"),
        ({"alpha": 0.0}, "above 0"),
        ({"rank": 40}, "rank=40 is more than blocks.0.attn.qkv"),
        ({"layers": ["*.attn.kqv"]}, "names no linear layer"),
        ({"keep": ["patch"]}, "names no parameter"),
    ],
)
def test_wrong_settings_of_lora_are_refused_and_change_nothing(words, match):
    model = _tiny(2)
    with pytest.raises(WeightsError, match=match):
        add_lora(model.encoder, **words)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(is_lora(n) for n, _ in model.named_parameters())
    add_lora(model.encoder, rank=1)
    with pytest.raises(WeightsError, match="adapted already"):
        add_lora(model.encoder, rank=1)


def test_a_network_with_lora_takes_published_weights_and_survives_its_checkpoint(tmp_path):
    options = {**TINY, "frames": 2, "lora": {"rank": 2, "layers": ["*.attn.qkv"], "keep": ["patch_embed"]}}
    model = build_model("prithvi-v1-100m", 4, 2, **options)
    report = load_prithvi(
        model, _published(prefixed=True), source="x", first_layer="conv1x1", freeze=["decoder.neck"]
    )
    assert not report.partial
    assert {n for n in report.random if n.startswith("encoder.")} == {
        f"encoder.blocks.{i}.attn.qkv.{part}" for i in range(4) for part in ("lora_a", "lora_b")
    }
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(report.frozen) == {n for n, _ in model.named_parameters()} - learning
    assert learning >= {"encoder.patch_embed.proj.weight", "input_projection.weight"}
    assert not any(n.startswith("decoder.neck") or ".mlp." in n for n in learning)
    assert report.parameters["frozen"] == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    _stir(model)
    model.eval()
    contract = InputContract(tuple(InputBand(b, "sigma0_db") for b in ("vv", "vh", "vv after", "vh after")))
    metadata = {"classes": ["dry", "flooded"], "contract": contract.to_json()}
    x = torch.randn(1, 4, 32, 48)
    again = read_checkpoint(write_checkpoint(tmp_path / "best", model, metadata)).model
    assert torch.equal(again(x), model(x))
    with torch.no_grad():
        before = model(x)
        merge_lora(model)
        merged = read_checkpoint(write_checkpoint(tmp_path / "merged", model, metadata)).model
        torch.testing.assert_close(merged(x), before, rtol=0, atol=1e-6)
    assert "lora" not in merged.built["options"]
    assert model.in_channels == 4
    rerun = load_prithvi(
        build_model("prithvi-v1-100m", 4, 2, **options),
        again.state_dict(),
        source="run",
        first_layer="conv1x1",
    )
    assert "with its 1x1 convolution from 2 channels" in rerun.first_layer
    assert {n for n in rerun.random if n.startswith("encoder.")} == set()


def test_freezing_by_globs_holds_for_prithvi_too():
    model = _tiny(2)
    names = freeze(model, ["encoder.blocks.[01].*", "encoder.patch_embed"])
    assert len(names) == 2 * 12 + 2


def test_the_unet_has_the_originals_parameters():
    """31,037,633 for three bands and one class: milesial/Pytorch-UNet without bilinear upsampling."""
    with torch.device("meta"):
        model = build_model("unet", 3, 2)
    assert _count(model) == 31_037_633 + 65
    widths, total = (64, 128, 256, 512, 1024), 0
    for inside, outside in zip((3, *widths[:-1]), widths, strict=True):
        total += 9 * inside * outside + 9 * outside**2 + 4 * outside
    for below, above in zip(widths[1:], widths[:-1], strict=True):
        total += 4 * below * above + above + 9 * 2 * above**2 + 9 * above**2 + 4 * above
    assert _count(model) == total + 2 * 64 + 2
    assert model.stride == 16


def test_the_unet_is_its_drawing():
    """Two levels, layer by layer; then five levels on any size, where a shift by the stride shifts the logits."""
    torch.manual_seed(0)
    model = build_model("unet", 2, 3, channels=[4, 6]).eval()
    x = torch.randn(1, 2, 8, 10)

    def twice(v, convs):
        for i in (0, 3):
            v = F.relu(convs[i + 1](F.conv2d(v, convs[i].weight, padding=1)))
        return v

    top = twice(x, model.encoder.levels[0])
    low = twice(F.max_pool2d(top, 2), model.encoder.levels[1])
    up = F.conv_transpose2d(low, model.decoder.ups[0].weight, model.decoder.ups[0].bias, stride=2)
    joined = twice(torch.cat([top, up], 1), model.decoder.levels[0])
    torch.testing.assert_close(model(x), model.segmentation_head(joined))
    deep = build_model("unet", 2, 2, channels=[4, 4, 8, 8, 8]).eval()
    assert deep(torch.randn(1, 2, 33, 50)).shape == (1, 2, 33, 50)
    image = torch.randn(1, 2, 304, 304)
    with torch.inference_mode():
        one, two = deep(image[..., :288, :288]), deep(image[..., 16:, 16:])
    torch.testing.assert_close(one[..., 128:160, 128:160], two[..., 112:144, 112:144], rtol=0, atol=1e-6)
    for channels in ([4], [4, 0]):
        with pytest.raises(RecipeError, match="two levels"):
            build_model("unet", 2, 2, channels=channels)
    report = load_initialization(model, None, source="random")
    assert report.parameters["random"] == _count(model)


@pytest.fixture(scope="module")
def terratorch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "terratorch.models.backbones.prithvi_mae", reason="terratorch, the peer, is not installed"
        )
        yield module


@pytest.mark.parametrize(("frames", "patch", "depth"), [(1, 16, 4), (2, 16, 4), (3, 14, 5)])
@pytest.mark.parametrize("flat", [False, True])
def test_the_encoder_is_terratorchs(terratorch, tmp_path, frames, patch, depth, flat):
    """Its masked autoencoder's own keys, saved as published, read by us: the same tokens after every block."""
    torch.manual_seed(11)
    peer = terratorch.PrithviMAE(
        img_size=4 * patch, patch_size=(1, patch, patch), num_frames=frames, in_chans=6, embed_dim=64, depth=depth,
        num_heads=4, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2,
    ).eval()  # fmt: skip
    for p in peer.parameters():
        nn.init.normal_(p, std=0.15)
    state = {n.removeprefix("encoder.").removeprefix("decoder.") if flat else n: t
             for n, t in peer.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "peer.pt")
    model = build_model(
        "prithvi-v2-300m", 6 * frames, 2, width=64, depth=depth, heads=4, patch=patch, frames=frames, decoder="unet",
        decoder_channels=[8, 8, 8, 8],
    ).eval()  # fmt: skip
    report = load_prithvi(model, read_weights(tmp_path / "peer.pt"), source="peer")
    assert not report.partial
    model.encoder.layers = tuple(range(depth))
    x = torch.randn(2, 6, frames, 4 * patch, 4 * patch)
    with torch.inference_mode():
        theirs = peer.encoder.forward_features(x)
        mine = model.encoder.tokens(x.transpose(1, 2).reshape(2, 6 * frames, *x.shape[-2:]))
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        maps = peer.encoder.prepare_features_for_image_model(theirs)
        for a, b in zip(model.encoder(x.transpose(1, 2).reshape(2, -1, *x.shape[-2:])), maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    print("largest difference", max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)))


def test_the_pyramid_decoder_is_terratorchs(terratorch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from terratorch.models.decoders.unet_decoder import UNetDecoder
        from terratorch.models.necks import LearnedInterpolateToPyramidal
    torch.manual_seed(3)
    own = PyramidUNet(32, channels=(16, 12, 8, 8)).eval()
    neck = LearnedInterpolateToPyramidal([32] * 4).eval()
    decoder = UNetDecoder([8, 16, 32, 32], [16, 12, 8, 8]).eval()
    values = list(own.state_dict().values())
    names = [*(("neck", n) for n in neck.state_dict()), *(("decoder", n) for n in decoder.state_dict())]
    shared = dict(zip(names, values, strict=True))
    for part, module in (("neck", neck), ("decoder", decoder)):
        module.load_state_dict({n: t for (p, n), t in shared.items() if p == part})
    features = [torch.randn(1, 32, 4, 6) for _ in range(4)]
    with torch.inference_mode():
        # It hands its first map on twice, so that recent smp does not double the size in the last block, as its
        # older versions did and ours does. With that size named the two agree.
        assert decoder(neck(features)).shape == (1, 8, 16, 24)
        ended = decoder.decoder([torch.zeros(1, 1, 32, 48), *neck(features)])
        torch.testing.assert_close(own(features), ended)


def test_low_rank_additions_are_merged_in_what_is_exported():
    model = build_model("vit", 2, 2, width=32, depth=2, heads=2, patch=8, neck_channels=8, head_channels=8)
    assert without_lora(model) is model
    add_lora(model.encoder, rank=2)
    _stir(model)
    plain = without_lora(model.eval())
    assert not any(is_lora(n) for n in plain.state_dict())
    assert any(is_lora(n) for n in model.state_dict())
    x = torch.randn(1, 2, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)

"""Networks: sizes, any image size, shifts, names, and agreement with the libraries they come from."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from sartransfer.errors import InputError, RecipeError, WeightsError
from sartransfer.models import METHODS, MODELS, Segmenter, adapt_first_layer, build_model, freeze

torch.set_num_threads(1)
SMALL = {"aspp_channels": 16, "rates": (1, 2, 3)}


def _count(module):
    return sum(p.numel() for p in module.parameters())


def _settle(model, seed=0):
    """Give batch norms and class layers values a trained network could have, and switch to evaluation."""
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=g)
            module.running_var.uniform_(0.5, 2, generator=g)
            with torch.no_grad():
                module.bias.normal_(0, 0.1, generator=g)
    return model.eval()


@pytest.mark.parametrize(("channels", "total"), [(256, 5_604_930), (128, 3_964_482)])
def test_the_sea_ice_network_has_the_published_number_of_parameters(channels, total):
    model = build_model("resnet18-aspp", 3, 2, aspp_channels=channels)
    assert _count(model) == total
    assert _count(model.encoder) == 2_782_784


def test_the_sea_ice_networks_head_is_torchvisions_deeplab_head_by_name_of_operation():
    """With global pooling the head is torchvision's DeepLabHead: same weights, same numbers."""
    peer = _settle(torchvision.models.segmentation.deeplabv3.DeepLabHead(256, 2, (12, 24, 36)))
    model = build_model("resnet18-aspp", 3, 2, pooling="global").eval()
    theirs = list(peer.state_dict().values())
    names = list(model.decoder.state_dict())
    assert [tuple(v.shape) for v in model.decoder.state_dict().values()] == [tuple(v.shape) for v in theirs]
    model.decoder.load_state_dict(dict(zip(names, theirs, strict=True)))
    x = torch.randn(2, 256, 7, 9)
    torch.testing.assert_close(model.decoder(x), peer(x))


@pytest.mark.parametrize("enlarge", [1.5, 2])
def test_small_chips_are_enlarged_before_the_trunk(enlarge):
    model = build_model("resnet18", 1, 3, enlarge=enlarge).eval()
    plain = build_model("resnet18", 1, 3).eval()
    plain.load_state_dict(model.state_dict())
    chips = torch.randn(2, 1, 40, 36)
    larger = torch.nn.functional.interpolate(chips, scale_factor=float(enlarge), mode="bilinear")
    torch.testing.assert_close(model(chips), plain(larger))
    with pytest.raises(RecipeError, match=r"enlarge=0\.5 is not allowed"):
        build_model("resnet18", 1, 3, enlarge=0.5)


def test_the_encoder_is_torchvisions_resnet18():
    peer = _settle(torchvision.models.resnet18(weights=None, num_classes=4))
    model = build_model("resnet18", 3, 4).eval()
    assert _count(model) == _count(peer)
    state = {("head." if n.startswith("fc.") else "encoder.") + n.removeprefix("fc."): t
             for n, t in peer.state_dict().items()}  # fmt: skip
    model.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 65, 50)
    torch.testing.assert_close(model(x), peer(x))


@pytest.mark.parametrize(
    "name", ["resnet18-aspp", "unet-resnet18", "smp:FPN:resnet18", "smp:Unet:mobilenet_v2"]
)
def test_any_image_size_is_padded_run_and_cropped(name):
    options = SMALL if name == "resnet18-aspp" else {}
    model = _settle(build_model(name, 2, 3, **options))
    x = torch.randn(1, 2, 250, 333)
    with torch.inference_mode():
        logits = model(x)
        s = model.stride
        height, width = -(-250 // s) * s, -(-333 // s) * s
        padded = torch.zeros(1, 2, height, width)
        padded[..., :250, :333] = x
        expected = model.segmentation_head(model.decoder(model.encoder(padded)))
        if name == "resnet18-aspp":
            assert expected.shape[-2:] == (height // 16, width // 16)
            expected = F.interpolate(expected, scale_factor=16, mode="bilinear", align_corners=False)
    assert logits.shape == (1, 3, 250, 333)
    assert torch.equal(logits, expected[..., :250, :333])


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (32, 64), (17, 100)])
def test_small_and_odd_images_pass(size):
    model = _settle(build_model("resnet18-aspp", 2, 2, **SMALL))
    assert model(torch.randn(2, 2, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize(("pooling", "stride"), [("average", 32), ("global", 16)])
def test_the_stride_of_the_sea_ice_network(pooling, stride):
    assert build_model("resnet18-aspp", 2, 2, pooling=pooling, **SMALL).stride == stride


def _shifted(model, shift, size=512, margin=224):
    """Interior logits of an image, and of the same image cut `shift` pixels further right and down."""
    x = torch.randn(1, 2, size + shift, size + shift, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        one, two = model(x[..., :size, :size]), model(x[..., shift:, shift:])
    inside = slice(margin, size - margin)
    moved = slice(margin - shift, size - margin - shift)
    return one[..., inside, inside], two[..., moved, moved]


def test_shifting_the_image_by_the_stride_shifts_the_logits():
    model = _settle(build_model("resnet18-aspp", 2, 2, **SMALL))
    one, two = _shifted(model, model.stride)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    one, two = _shifted(model, 16)  # half the stride: the 2x2 averages fall elsewhere
    assert (one - two).abs().max() > 1e-3 * one.std()


def test_without_the_pooling_branch_averages_a_shift_by_16_would_do_but_global_pooling_sees_the_border():
    model = _settle(build_model("resnet18-aspp", 2, 2, pooling="global", **SMALL))
    one, two = _shifted(model, 16)
    assert (one - two).abs().max() > 1e-5  # the mean over the image differs: a scene and its tiles disagree
    for p in model.decoder.pooling_branch.parameters():
        nn.init.zeros_(p)
    model.decoder.pooling_branch[1].running_mean.zero_()
    one, two = _shifted(model, 16)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "PSPNet", "DeepLabV3Plus", "MAnet", "UnetPlusPlus"])
def test_a_library_network_gives_the_librarys_numbers(architecture):
    torch.manual_seed(0)
    model = build_model(f"smp:{architecture}:resnet18", 2, 3)
    peer = getattr(smp, architecture)("resnet18", encoder_weights=None, in_channels=2, classes=3)
    peer.load_state_dict(model.state_dict(), strict=False)
    _settle(model)
    peer.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(1, 2, 64, 96)
    torch.testing.assert_close(model(x), peer.eval()(x))


def test_parts_without_influence_are_dropped():
    model = build_model("unet-resnet18", 2, 2)
    whole = smp.Unet("resnet18", encoder_weights=None, encoder_depth=4, decoder_channels=(128, 64, 32, 16),
                     in_channels=2, classes=2)  # fmt: skip
    assert _count(whole) - _count(model) == _count(whole.encoder.layer4) == 8_393_728
    assert _count(model.encoder) == 2_782_784 - 64 * 49
    model(torch.randn(2, 2, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("name", ["smp:PSPNet:resnet18", "smp:Unet:tu-convnext_atto", "resnet18-aspp"])
def test_every_parameter_gets_a_gradient(name):
    model = build_model(name, 2, 3)
    model(torch.randn(2, 2, 64, 64)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", [*MODELS, "smp:Segformer:resnet18", "timm:convnext_atto", "timm:resnet10t"])
@pytest.mark.parametrize("bands", [1, 6])
def test_every_network_tells_what_it_is(name, bands):
    # A foundation model of 631 million parameters is the same code with other numbers.
    small = {"width": 32, "depth": 4, "heads": 2} if name.startswith("prithvi") else {}
    model = build_model(name, bands, 4, **small)
    size = (4, 40, 50) if model.task == "segment" else (4,)
    assert model.eval()(torch.randn(2, bands, 40, 50)).shape == (2, *size)
    assert isinstance(model, Segmenter) == (model.task == "segment")
    assert (model.in_channels, model.num_classes) == (bands, 4)
    last = dict(model.named_parameters())
    assert all(last[n].shape[0] == 4 for n in model.classifier_names)
    assert model.classifier_names
    assert model.first_layer()[1].in_channels == bands
    assert any(n.startswith("encoder.") for n in last)
    assert model.built["name"] == name


def test_the_seed_decides_the_start():
    def start(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model("unet-resnet18", 2, 2).parameters()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("resnet18-asp", {}, "Did you mean 'resnet18-aspp'"),
        ("smp:Unett:resnet18", {}, "Did you mean 'Unet'"),
        ("smp:Unet:resnet19", {}, "smp encoder"),
        ("smp:DPT:tu-vit_base_patch16_224", {}, "smp architecture"),
        ("timm:resnet18x", {}, r"^timm has no model 'resnet18x'\. Near it: resnet18"),
        ("timm:hf-hub:someone/thing", {}, "model="),
        ("smp:Unet:tu-hf_hub_thing", {}, "timm has no model 'hf_hub_thing'"),
        ("resnet18-aspp", {"aspp_chanels": 3}, "Did you mean 'aspp_channels'"),
        ("resnet18-aspp", {"pooling": "mean"}, "average, global"),
        ("smp:Unet:resnet18", {"encoder_weights": "imagenet"}, "not allowed"),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}, "not allowed"),
        ("smp:Unet:resnet18", {"nonsense": 1}, "nonsense"),
        ("smp:Unet:tu-resnet18", {"nonsense": 1}, "nonsense"),
        ("smp:Unet:tu-swin_tiny_patch4_window7_224", {}, "images of any size"),
        ("resnet18", {"dropout": torch.nn}, "plain values"),
    ],
)
def test_unknown_names_and_options_are_refused(name, options, match):
    with pytest.raises(RecipeError, match=match):
        build_model(name, 3, 2, **options)


def test_bands_and_classes_are_checked():
    with pytest.raises(RecipeError, match="two classes"):
        build_model("resnet18", 3, 1)
    with pytest.raises(InputError, match=r"\(B, 2, H, W\)"):
        build_model("resnet18", 2, 2)(torch.zeros(1, 3, 8, 8))


def test_frozen_batch_norms_keep_their_statistics():
    model = build_model("resnet18-aspp", 2, 2, **SMALL)
    names = freeze(model, ["encoder.layer1", "*.bn1.weight"])
    assert "encoder.layer1.0.conv1.weight" in names
    assert "encoder.layer2.0.bn1.weight" in names
    assert "encoder.layer2.0.bn1.bias" not in names
    model.eval()
    model.train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(torch.randn(2, 2, 64, 64))
    moved = {n for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert not any(n.startswith("encoder.layer1.") for n in moved)
    assert "encoder.layer2.0.bn1.running_mean" in moved  # half frozen: its shift still learns
    with pytest.raises(
        WeightsError, match=r"'encoder.layer11' names no parameter.*Did you mean 'encoder.layer1"
    ):
        freeze(model, ["encoder.layer11"])


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 13])
@pytest.mark.parametrize("method", ["repeat", "mean"])
def test_equal_channels_give_the_response_of_before(bands, method):
    weight = torch.randn(8, 3, 7, 7, dtype=torch.float64)
    x = torch.randn(2, 1, 20, 20, dtype=torch.float64)
    before = F.conv2d(x.expand(-1, 3, -1, -1), weight)
    after = F.conv2d(x.expand(-1, bands, -1, -1), adapt_first_layer(weight, bands, method))
    torch.testing.assert_close(after, before)


def test_repeat_in_closed_form_and_as_timm():
    from timm.models import adapt_input_conv

    w = torch.randn(4, 3, 5, 5)
    r, g, b = w.unbind(1)
    torch.testing.assert_close(
        adapt_first_layer(w, 2), torch.stack([r + b, g], 1)
    )  # bands 1, 2, 1 in R, G, B
    four = adapt_first_layer(w, 4)
    torch.testing.assert_close(four, torch.stack([r / 2, g, b, r / 2], 1))
    for bands in (1, 3, 6, 12):
        torch.testing.assert_close(adapt_first_layer(w, bands), adapt_input_conv(bands, w.clone()))


def test_mean_and_select_in_closed_form():
    w = torch.randn(4, 3, 5, 5)
    for c in range(6):
        torch.testing.assert_close(adapt_first_layer(w, 6, "mean")[:, c], w.mean(1) / 2)
    assert torch.equal(adapt_first_layer(w, 2, "select", select=[2, 0]), w[:, [2, 0]])
    assert torch.equal(adapt_first_layer(w, 3, "select", select=[2, 1, 0]), w.flip(1))


@pytest.mark.parametrize("method", ["repeat", "mean", "conv1x1"])
def test_as_many_channels_leave_the_weight_as_it_is(method):
    w = torch.randn(4, 3, 5, 5)
    assert torch.equal(adapt_first_layer(w, 3, method), w)
    assert torch.equal(adapt_first_layer(w, 7, "conv1x1"), w)


def test_wrong_methods_weights_and_indices_are_refused():
    w = torch.randn(4, 3, 5, 5)
    with pytest.raises(WeightsError, match="repeat, mean, select, conv1x1"):
        adapt_first_layer(w, 2, "tile")
    for select in (None, [0], [0, 3], [-1, 0]):
        with pytest.raises(WeightsError, match="from 0 to 2"):
            adapt_first_layer(w, 2, "select", select=select)
    with pytest.raises(WeightsError, match="cannot be fitted"):
        adapt_first_layer(w[0, 0], 2)
    assert set(METHODS) == {"repeat", "mean", "select", "conv1x1"}


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_a_projection_starts_as_repeat(bands):
    """conv1x1 before a three-channel network = that network with its first layer adapted by `repeat`."""
    model = _settle(build_model("resnet18-aspp", bands, 2, **SMALL)).double()
    w = torch.randn(64, 3, 7, 7, dtype=torch.float64)
    x = torch.randn(1, bands, 40, 50, dtype=torch.float64)
    with torch.inference_mode():
        model.encoder.conv1.weight.copy_(adapt_first_layer(w, bands))
        one = model(x)
        model.add_input_projection(3)
        model.encoder.conv1.weight.copy_(w)
        torch.testing.assert_close(model(x), one)
    if bands == 3:
        assert torch.equal(model.input_projection.weight[:, :, 0, 0], torch.eye(3).double())

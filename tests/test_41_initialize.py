"""Initialization: every tensor accounted for, nothing loaded silently, names of many writers matched."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch.nn import functional as F

from sartransfer.errors import WeightsError
from sartransfer.models import (
    InitializationReport,
    Weights,
    adapt_first_layer,
    build_model,
    library_weights,
    load_initialization,
    read_weights,
)
from sartransfer.recipe import FileStart
from sartransfer.stages import initialize

torch.set_num_threads(1)
SMALL = {"aspp_channels": 16, "rates": (1, 2, 3)}
ENCODER = 2_782_784  # conv1 to layer3 with three channels


@pytest.fixture(scope="module")
def resnet():
    """A whole torchvision state dict with values of its own."""
    torch.manual_seed(5)
    state = torchvision.models.resnet18(weights=None, num_classes=45).state_dict()
    return {n: torch.rand_like(t) + 0.5 if t.is_floating_point() else t + 7 for n, t in state.items()}


@pytest.fixture(scope="module")
def imagenet():
    folder = os.environ.get("SARTRANSFER_WEIGHTS")
    if not folder:
        pytest.skip("SARTRANSFER_WEIGHTS is not set: needs resnet18-imagenet1k-v1-layer1-3.pth")
    return read_weights(Path(folder) / "resnet18-imagenet1k-v1-layer1-3.pth")


def _without(state, part):
    return {n: t for n, t in state.items() if not n.startswith(part)}


def _check(model, report):
    """Every parameter and buffer is in exactly one of loaded, adapted, random; the counts add up."""
    names = [*report.loaded, *report.adapted, *report.random]
    assert sorted(names) == sorted(model.state_dict())
    p = report.parameters
    assert p["loaded"] + p["adapted"] + p["random"] == p["total"]
    assert p["total"] == sum(x.numel() for x in model.parameters())


def test_random_is_reported_as_random_and_changes_nothing():
    model = build_model("resnet18-aspp", 2, 2, **SMALL)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    report = load_initialization(model, None, source="random")
    _check(model, report)
    assert report.loaded == report.adapted == report.ignored == ()
    assert not report.partial
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert "100.0 % random" in report.describe()


def test_the_imagenet_file_fills_the_sea_ice_encoder(imagenet):
    model = build_model("resnet18-aspp", 3, 2)
    report = load_initialization(model, imagenet, source="imagenet")
    _check(model, report)
    assert report.parameters == {
        "total": 5_604_930, "loaded": ENCODER, "adapted": 0, "random": 2_822_146, "frozen": 0
    }  # fmt: skip
    assert (report.ignored, report.partial) == ((), False)
    assert report.first_layer == "as it is, 3 channels"
    assert all(n.startswith("decoder.") for n in report.random)
    for name, tensor in imagenet.tensors.items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
    assert "49.6 % loaded" in report.describe()


def _stage3(state, x):
    """ResNet-18 to layer3 in torch.nn.functional alone, evaluation mode (He et al., 2016)."""

    def norm(y, n):
        s = [state[f"{n}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *s, training=False)

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in (1, 2, 3):
        for block in (0, 1):
            n, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, state[f"{n}.conv1.weight"], stride=stride, padding=1), f"{n}.bn1"))
            y = norm(F.conv2d(y, state[f"{n}.conv2.weight"], padding=1), f"{n}.bn2")
            if stride == 2:
                x = F.conv2d(x, state[f"{n}.downsample.0.weight"], stride=2)
                x = norm(x, f"{n}.downsample.1")
            x = F.relu(x + y)
    return x


@pytest.mark.parametrize("name", ["resnet18-aspp", "unet-resnet18"])
def test_the_loaded_encoder_computes_what_the_weights_mean(imagenet, name):
    model = build_model(name, 3, 2).eval()
    load_initialization(model, imagenet, source="imagenet")
    x = torch.randn(1, 3, 64, 96)
    features = model.encoder(x)
    features = features[-1] if isinstance(features, list) else features
    torch.testing.assert_close(features, _stage3(imagenet.tensors, x), rtol=1e-4, atol=1e-4)


def test_the_imagenet_file_fills_the_whole_unet_encoder_for_two_bands(imagenet):
    model = build_model("unet-resnet18", 2, 2)
    report = load_initialization(model, imagenet, source="imagenet")
    _check(model, report)
    assert report.parameters["loaded"] == ENCODER - 3 * 64 * 49
    assert report.parameters["adapted"] == 2 * 64 * 49
    assert not report.partial
    assert not any(n.startswith("encoder.") for n in report.random)


def test_the_classifier_says_that_layer4_is_missing_and_how_to_allow_it(imagenet):
    model = build_model("resnet18", 3, 7)
    before = model.encoder.conv1.weight.clone()
    with pytest.raises(WeightsError, match=r"encoder\.layer4\.0\.conv1\.weight.*and .* more") as caught:
        load_initialization(model, imagenet, source="imagenet")
    assert 'allow_missing: ["encoder.layer4.*"]' in str(caught.value)
    assert torch.equal(model.encoder.conv1.weight, before)  # nothing was changed
    report = load_initialization(model, imagenet, source="imagenet", allow_missing=["encoder.layer4.*"])
    _check(model, report)
    assert report.partial
    assert report.parameters["loaded"] == ENCODER
    assert any("as allowed" in n for n in report.notes)
    assert "PARTIAL" in report.describe()


@pytest.mark.parametrize(
    "prefix", ["", "module.", "encoder.", "backbone.", "module.encoder_q.", "model.net."]
)
def test_prefixes_are_found(resnet, prefix):
    model = build_model("resnet18-aspp", 3, 2, **SMALL)
    report = load_initialization(model, {prefix + n: t for n, t in resnet.items()}, source="x")
    assert report.parameters["loaded"] == ENCODER
    assert torch.equal(model.encoder.layer3[1].conv2.weight, resnet["layer3.1.conv2.weight"])
    assert prefix + "layer4.0.conv1.weight" in report.ignored
    assert prefix + "fc.weight" in report.ignored
    assert (f"prefix '{prefix}' stripped" in " ".join(report.notes)) == (prefix not in ("", "encoder."))


def test_a_momentum_encoder_beside_the_encoder_is_ignored(resnet):
    both = {f"encoder_q.{n}": t for n, t in resnet.items()} | {
        f"encoder_k.{n}": t * 0 + 9 for n, t in resnet.items()
    }
    model = build_model("resnet18-aspp", 3, 2, **SMALL)
    load_initialization(model, both, source="moco")
    assert torch.equal(model.encoder.bn1.weight, resnet["bn1.weight"])


@pytest.mark.parametrize("allow", [[], ["*"]])
def test_a_file_that_matches_nothing_is_refused_whatever_is_allowed(resnet, allow):
    model = build_model("resnet18-aspp", 3, 2, **SMALL)
    with pytest.raises(WeightsError, match="nothing in wrong"):
        load_initialization(
            model, {f"p-{n}-q": t for n, t in resnet.items()}, source="wrong", allow_missing=allow
        )
    with pytest.raises(WeightsError, match="nothing in wrong"):
        load_initialization(model, {}, source="wrong", allow_missing=allow)
    head = {n: t for n, t in model.state_dict().items() if n.startswith("decoder.")}
    with pytest.raises(WeightsError, match="nothing in wrong"):
        load_initialization(model, head, source="wrong", allow_missing=["encoder.*"])


def test_another_shape_is_refused_unless_allowed(resnet):
    wrong = resnet | {"layer2.0.conv1.weight": torch.zeros(128, 64, 1, 1)}
    model = build_model("resnet18-aspp", 3, 2, **SMALL)
    with pytest.raises(WeightsError, match=r"\(128, 64, 1, 1\) in the weights and \(128, 64, 3, 3\)"):
        load_initialization(model, wrong, source="x")
    report = load_initialization(model, wrong, source="x", allow_missing=["encoder.layer2"])
    assert [n for n in report.random if n.startswith("encoder.")] == ["encoder.layer2.0.conv1.weight"]
    assert report.partial
    stem = resnet | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(WeightsError, match=r"\(64, 3, 3, 3\) in the weights"):
        load_initialization(build_model("resnet18-aspp", 2, 2, **SMALL), stem, source="x")


def test_nan_in_the_weights_is_refused(resnet):
    bad = {n: t.clone() for n, t in resnet.items()}
    bad["layer1.0.bn1.bias"][3] = float("nan")
    with pytest.raises(WeightsError, match=r"NaN or infinity in 'layer1\.0\.bn1\.bias'"):
        load_initialization(build_model("resnet18-aspp", 3, 2, **SMALL), bad, source="x")


def test_old_files_without_batch_counters_are_whole(resnet):
    old = {n: t for n, t in resnet.items() if not n.endswith("num_batches_tracked")}
    model = build_model("resnet18", 3, 7)
    report = load_initialization(model, old, source="old")
    _check(model, report)
    assert not report.partial
    assert "encoder.bn1.num_batches_tracked" in report.random


@pytest.mark.parametrize("bands", [1, 2, 6, 13])
@pytest.mark.parametrize("method", ["repeat", "mean", "select", "conv1x1"])
def test_the_first_layer_meets_the_bands(resnet, bands, method):
    model = build_model("resnet18-aspp", bands, 2, **SMALL).eval()
    select = [i % 3 for i in range(bands)] if method == "select" else None
    report = load_initialization(model, resnet, source="x", first_layer=method, select=select)
    _check(model, report)
    weight = adapt_first_layer(resnet["conv1.weight"], bands, method, select=select)
    assert torch.equal(model.encoder.conv1.weight, weight)
    assert f"3 channels -> {bands}" in report.first_layer
    if method == "conv1x1":
        assert report.adapted == ("input_projection.weight",)
        assert report.parameters["adapted"] == 3 * bands
        assert report.parameters["loaded"] == ENCODER
    else:
        assert report.adapted == ("encoder.conv1.weight",)
        assert report.parameters["adapted"] == 64 * 49 * bands
    if method != "select":  # equal bands answer as three equal channels did
        x = torch.randn(1, 1, 32, 32)
        peer = F.conv2d(x.expand(-1, 3, -1, -1), resnet["conv1.weight"], stride=2, padding=3)
        ours = model.encoder.conv1(model.input_projection(x.expand(-1, bands, -1, -1)))
        torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-4)
    model(torch.randn(1, bands, 40, 40))


def test_a_selection_is_obeyed_though_the_channels_agree(resnet):
    model = build_model("resnet18-aspp", 3, 2, **SMALL)
    report = load_initialization(model, resnet, source="x", first_layer="select", select=[0, 0, 2])
    assert report.adapted == ("encoder.conv1.weight",)
    assert torch.equal(model.encoder.conv1.weight, resnet["conv1.weight"][:, [0, 0, 2]])
    with pytest.raises(WeightsError, match="Did you mean 'repeat'"):
        load_initialization(model, resnet, source="x", first_layer="repeats")


def test_an_earlier_run_brings_its_decoder_and_its_head_only_when_kept():
    torch.manual_seed(1)
    earlier = build_model("unet-resnet18", 2, 3).state_dict()
    for replace, classes, kept in [(True, 3, False), (False, 3, True), (False, 2, False)]:
        model = build_model("unet-resnet18", 2, classes)
        report = load_initialization(model, earlier, source="run", replace_head=replace)
        _check(model, report)
        assert ("segmentation_head.0.weight" in report.loaded) == kept
        assert torch.equal(model.segmentation_head[0].weight, earlier["segmentation_head.0.weight"]) == kept
        assert set(report.random) == (set() if kept else set(model.classifier_names))
        assert set(report.ignored) == set(report.random)
    assert "final layer not kept" in report.notes[0]


def test_a_classifier_passes_its_encoder_on_to_a_segmentation_network():
    source = build_model("resnet18", 1, 45).state_dict()
    model = build_model("unet-resnet18", 2, 2)
    report = load_initialization(model, source, source="stage")
    assert report.parameters["loaded"] == ENCODER - 3 * 64 * 49
    assert torch.equal(model.encoder.conv1.weight, source["encoder.conv1.weight"].expand(-1, 2, -1, -1) / 2)
    assert any(n.startswith("encoder.layer4.") for n in report.ignored)


def test_a_decoder_of_another_width_stays_random_and_is_noted():
    earlier = build_model("resnet18-aspp", 2, 2, aspp_channels=8).state_dict()
    model = build_model("resnet18-aspp", 2, 2, aspp_channels=16)
    report = load_initialization(model, earlier, source="run")
    _check(model, report)
    assert any("other shapes" in n for n in report.notes)
    assert not report.partial
    assert not any(n.startswith("decoder.") and n.endswith("weight") for n in report.loaded)


def test_a_head_by_another_name_can_be_kept(resnet):
    model = build_model("resnet18", 3, 45)
    report = load_initialization(model, resnet, source="x", replace_head=False)
    assert torch.equal(model.head.weight, resnet["fc.weight"])
    assert (report.random, report.ignored) == ((), ())


def test_an_earlier_runs_projection_is_kept_or_folded_in(resnet):
    torch.manual_seed(2)
    run = build_model("resnet18-aspp", 2, 2, **SMALL)
    load_initialization(run, resnet, source="x", first_layer="conv1x1")
    torch.nn.init.normal_(run.input_projection.weight)
    run.eval()
    x = torch.randn(1, 2, 40, 50)
    for method in ("conv1x1", "repeat"):
        model = build_model("resnet18-aspp", 2, 2, **SMALL).eval()
        report = load_initialization(
            model, run.state_dict(), source="run", first_layer=method, replace_head=False
        )
        _check(model, report)
        assert ("input_projection.weight" in report.loaded) == (method == "conv1x1")
        assert "1x1 convolution" in report.first_layer
        assert report.ignored == ()
        torch.testing.assert_close(
            model.encoder.conv1(model.input_projection(x)),
            run.encoder.conv1(run.input_projection(x)),
            rtol=1e-4,
            atol=1e-4,
        )
    three = build_model("resnet18-aspp", 3, 2, **SMALL)
    report = load_initialization(three, run.state_dict(), source="run")
    assert "folded in, 2 channels -> 3" in report.first_layer


def test_timm_weights_match_a_timm_network():
    torch.manual_seed(3)
    peer = timm.create_model("resnet10t", pretrained=False).state_dict()
    model = build_model("timm:resnet10t", 3, 5)
    report = load_initialization(model, peer, source="timm")
    _check(model, report)
    assert set(report.random) == {"head.weight", "head.bias"}
    assert set(report.ignored) == {"fc.weight", "fc.bias"}


def test_freezing_is_apart_from_loading(resnet):
    model = build_model("resnet18-aspp", 3, 2, **SMALL)
    report = load_initialization(model, resnet, source="x", freeze=["encoder"])
    assert report.parameters["frozen"] == ENCODER
    assert set(report.frozen) == {f"encoder.{n}" for n, _ in model.encoder.named_parameters()}
    assert all(p.requires_grad == (not n.startswith("encoder.")) for n, p in model.named_parameters())
    fresh = build_model("resnet18-aspp", 2, 2, **SMALL)
    before = fresh.encoder.bn1.weight.clone()
    with pytest.raises(WeightsError, match="names no parameter"):
        load_initialization(fresh, resnet, source="x", freeze=["backbone.*"], first_layer="conv1x1")
    assert torch.equal(fresh.encoder.bn1.weight, before)
    assert fresh.encoder.conv1.in_channels == 2
    report = load_initialization(
        fresh, resnet, source="x", freeze=["input_projection"], first_layer="conv1x1"
    )
    assert report.frozen == ("input_projection.weight",)


def test_the_report_survives_json(resnet):
    model = build_model("resnet18-aspp", 2, 2, **SMALL)
    link = load_initialization(model, None, source="first")
    report = load_initialization(model, resnet, source="second", freeze=["encoder.bn1"]).with_links([link])
    values = json.loads(json.dumps(report.to_json()))
    assert set(values) == {
        "source", "loaded", "adapted", "random", "frozen", "ignored", "parameters", "first_layer", "partial",
        "notes", "links",
    }  # fmt: skip
    assert set(values["parameters"]) == {"total", "loaded", "adapted", "random", "frozen"}
    assert InitializationReport.from_json(values) == report
    with pytest.raises(WeightsError, match="twice"):
        InitializationReport("x", loaded=("a",), adapted=(), random=("a",))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict"])
def test_files_of_many_writers_are_read(tmp_path, resnet, wrap):
    named = {f"module.{n}": t for n, t in resnet.items()}
    path = tmp_path / "weights.pth"
    torch.save(named if wrap is None else {wrap: named, "epoch": 3}, path)
    weights = read_weights(path)
    assert weights.tensors.keys() == resnet.keys()
    assert all(torch.equal(weights.tensors[n], t) for n, t in resnet.items())
    assert (weights.in_channels, weights.source, len(weights.sha256)) == (3, "weights.pth", 64)


def test_safetensors_are_read(tmp_path, resnet):
    save_file(resnet, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").tensors.keys() == resnet.keys()


SAR_HUB = {"TSX": 32, "BEN": 19, "OSU": 10, "NWPU": 45, "Million-AID": 51}
"""Classes of the data sets behind the checkpoints of SAR-HUB and SAR_specific_models."""


@pytest.mark.parametrize(("dataset", "classes"), SAR_HUB.items())
@pytest.mark.parametrize("bands", [1, 3])
def test_sar_hub_checkpoints_start_a_classifier(tmp_path, resnet, dataset, classes, bands):
    """As published: a plain state dict of torchvision's names under DataParallel's prefix, three input channels."""
    state = {f"module.{n}": t for n, t in resnet.items() if not n.startswith("fc.")}
    state |= {"module.fc.weight": torch.rand(classes, 512), "module.fc.bias": torch.rand(classes)}
    path = tmp_path / f"ResNet18_{dataset}.pth"
    torch.save(state, path)
    weights = read_weights(path)
    assert (weights.classes, weights.in_channels) == (classes, 3)
    model = build_model("resnet18", bands, 7)
    start = FileStart.model_validate({"from": "file", "path": str(path)})
    report = initialize(model, start, tmp_path / "stages", device="cpu")
    _check(model, report)
    assert not report.partial
    assert set(report.random) == {"head.weight", "head.bias"} == set(model.classifier_names)
    assert set(report.ignored) == {"fc.weight", "fc.bias"}  # another number of classes: replaced
    assert f"trained to tell {classes} classes apart" in report.describe()
    assert torch.equal(model.encoder.layer4[1].conv2.weight, resnet["layer4.1.conv2.weight"])
    first = resnet["conv1.weight"]
    assert torch.equal(model.encoder.conv1.weight, first if bands == 3 else first.sum(dim=1, keepdim=True))
    assert report.adapted == (() if bands == 3 else ("encoder.conv1.weight",))
    assert model.head.weight.shape == (7, 512)


def test_a_swin_checkpoint_nested_under_model_is_read(tmp_path):
    """SAR-HUB's Swin files hold the state under ``model``, beside the optimizer's."""
    state = {
        "module.patch_embed.proj.weight": torch.rand(96, 3, 4, 4),
        "module.layers.0.blocks.0.attn.qkv.weight": torch.rand(288, 96),
        "module.head.weight": torch.rand(51, 768),
        "module.head.bias": torch.rand(51),
    }
    path = tmp_path / "swin.pth"
    torch.save(
        {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "max_accuracy": 0.9},
        path,
    )
    weights = read_weights(path)
    assert weights.tensors.keys() == {n.removeprefix("module.") for n in state}
    assert (weights.classes, weights.in_channels) == (51, 3)


@pytest.mark.parametrize("bands", [1, 3])
def test_a_swin_of_its_authors_starts_timms(tmp_path, bands):
    """SAR-HUB's Swin has the names of its authors' code: a downsampling is of the stage before it, not after it."""
    options = {
        "img_size": 32,
        "window_size": 2,
        "embed_dim": 12,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 3, 4),
    }
    torch.manual_seed(3)
    peer = timm.create_model("swin_tiny_patch4_window7_224", num_classes=51, **options).eval()
    state = {}
    for name, tensor in peer.state_dict().items():
        parts = name.replace("head.fc.", "head.").split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        state["module." + ".".join(parts)] = tensor
    state["module.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.long)
    path = tmp_path / "swin.pth"
    torch.save({"model": state}, path)
    model = build_model("timm:swin_tiny_patch4_window7_224", bands, 7, **options).eval()
    start = FileStart.model_validate({"from": "file", "path": str(path)})
    report = initialize(model, start, tmp_path / "stages", device="cpu")
    _check(model, report)
    assert not report.partial
    assert set(report.random) == set(model.classifier_names)
    x = torch.randn(2, 1, 32, 32)
    expected = peer.forward_head(peer.forward_features(x.expand(-1, 3, -1, -1)), pre_logits=True)
    given = model.encoder(x.expand(-1, bands, -1, -1))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_one_band_meets_three():
    """And back: a network of one radar band starts one of three, which answers three equal bands as the one did."""
    torch.manual_seed(4)
    earlier = build_model("resnet18", 1, 5)
    model = build_model("resnet18", 3, 45)
    report = load_initialization(model, earlier.state_dict(), source="stage")
    _check(model, report)
    assert report.first_layer.startswith("1 channels -> 3")
    x = torch.randn(2, 1, 64, 64)
    ours, peer = model.eval().encoder(x.expand(-1, 3, -1, -1)), earlier.eval().encoder(x)
    torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-5)


def test_weights_without_a_class_layer_have_no_classes(resnet):
    assert Weights(_without(resnet, "fc"), "x").classes is None
    assert Weights(resnet, "x").classes == 45
    bare = load_initialization(
        build_model("resnet18", 3, 2), Weights(_without(resnet, "fc"), "x"), source="x"
    )
    assert not any("classes apart" in n for n in bare.notes)


class _Thing:
    """Something that only pickle could rebuild."""


def test_broken_files_are_refused_in_plain_words(tmp_path, resnet):
    good, half = tmp_path / "good.pth", tmp_path / "half.pth"
    torch.save({n: t for n, t in resnet.items() if "layer" not in n}, good)
    half.write_bytes(good.read_bytes()[:2000])
    torch.save({"thing": _Thing()}, tmp_path / "pickled.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    (tmp_path / "zero.pt").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not weights at all")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    np.save(tmp_path / "w.npy", np.zeros(3))
    for name, match in [
        ("none.pth", "no such file"),
        ("half.pth", "truncated|damaged"),
        ("pickled.pth", "never executed"),
        ("empty.pth", "no state dict"),
        ("tensor.pth", "no state dict"),
        ("zero.pt", "truncated"),
        ("text.pth", "damaged|truncated"),
        ("bad.safetensors", "truncated"),
        ("w.npy", "are .safetensors"),
    ]:
        with pytest.raises(WeightsError, match=match):
            read_weights(tmp_path / name)
    with pytest.raises(WeightsError, match="no tensors"):
        Weights({}, "x")


def test_library_weights_come_by_name(monkeypatch, resnet):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: dict(resnet))
    weights = library_weights("torchvision", "ResNet18_Weights.IMAGENET1K_V1")
    assert weights.source == "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    report = load_initialization(build_model("resnet18", 3, 2), weights, source=weights.source)
    assert not report.partial
    real = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: real(name, pretrained=False))
    assert "fc.weight" in library_weights("timm", "resnet10t.c3_in1k").tensors
    import segmentation_models_pytorch as smp

    encoder = smp.encoders.get_encoder
    monkeypatch.setattr(smp.encoders, "get_encoder", lambda name, weights: encoder(name, weights=None))
    assert "layer4.0.conv1.weight" in library_weights("smp", "imagenet", "smp:Unet:resnet18").tensors
    assert library_weights("smp", "imagenet", "unet-resnet18").source == "smp:resnet18:imagenet"


def test_a_hub_out_of_reach_is_an_error_and_never_a_random_start(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    monkeypatch.setattr("timm.create_model", fail)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", fail)
    for call in (
        ("torchvision", "ResNet18_Weights.IMAGENET1K_V1"),
        ("timm", "resnet18.a1_in1k"),
        ("smp", "imagenet", "resnet18"),
    ):
        with pytest.raises(WeightsError, match=r"could not be fetched.*no route.*give its path"):
            library_weights(*call)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (("torchvisoin", "x"), "Did you mean 'torchvision'"),
        (("torchvision", "ResNet18_Weights.IMAGENET1K_V9"), "no weights"),
        (("torchvision", "resnet18"), "no weights"),
        (("timm", "resnet18.nothing"), "no pretrained weights"),
        (("timm", "hf_hub:a/b"), "no pretrained weights"),
        (("smp", "imagenett", "resnet18"), "Did you mean 'imagenet'"),
        (("smp", "imagenet", "resnet19"), "smp encoder"),
    ],
)
def test_unknown_library_weights_are_refused(call, match):
    with pytest.raises(WeightsError, match=match):
        library_weights(*call)

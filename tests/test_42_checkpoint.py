"""Checkpoints: what is written is read back, and nothing damaged or foreign is taken for one."""

import json

import pytest
import torch

from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import OutputError, WeightsError
from sartransfer.models import build_model, load_initialization, read_checkpoint, write_checkpoint

torch.set_num_threads(1)
SMALL = {"aspp_channels": 8, "rates": (1, 2, 3)}
CONTRACT = InputContract(
    (
        InputBand("hh", "sigma0_db", "HH", mean=-13.4, std=5.4),
        InputBand("change", "sigma0_db", difference=("a", "b"), std=2.0),
    )
)
META = {"classes": ["water", "ice"], "contract": CONTRACT.to_json(), "epoch": 7}


def _write(folder, name="best", model=None, **more):
    model = model or build_model("resnet18-aspp", 2, 2, **SMALL)
    write_checkpoint(folder / name, model, META | more)
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18-aspp", SMALL | {"pooling": "global"}),
        ("unet-resnet18", {"decoder_channels": [32, 16, 16, 8]}),
        ("resnet18", {"dropout": 0.3}),
        ("timm:resnet10t", {}),
        ("smp:FPN:resnet18", {"encoder_depth": 4}),
    ],
)
def test_a_network_survives_the_round_trip(tmp_path, name, options):
    torch.manual_seed(0)
    model = build_model(name, 2, 2, **options)
    model(torch.randn(2, 2, 64, 64))  # moves the batch norms
    path = write_checkpoint(tmp_path / "run" / "best", model, META)
    back = read_checkpoint(path)
    x = torch.randn(1, 2, 50, 40)
    assert torch.equal(back.model(x), model.eval()(x))
    assert not back.model.training
    assert (back.classes, back.contract, back.task) == (("water", "ice"), CONTRACT, model.task)
    assert back.metadata["epoch"] == 7
    assert back.metadata["model"]["name"] == name
    assert sorted(p.name for p in path.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_projection_survives_the_round_trip(tmp_path):
    weights = build_model("resnet18", 3, 9).state_dict()
    model = build_model("resnet18-aspp", 2, 2, **SMALL)
    report = load_initialization(model, weights, source="x", first_layer="conv1x1")
    torch.nn.init.normal_(model.input_projection.weight)
    _write(tmp_path, model=model, initialization=report, nothing=float("nan"))
    back = read_checkpoint(tmp_path)
    x = torch.randn(1, 2, 40, 40)
    assert torch.equal(back.model(x), model.eval()(x))
    assert back.model.input_projection.weight.shape == (3, 2, 1, 1)
    assert back.metadata["initialization"] == report.to_json()  # objects with to_json are taken
    assert back.metadata["nothing"] is None


def test_files_stems_and_folders_lead_to_the_same(tmp_path):
    best = _write(tmp_path, "best.v1")
    _write(tmp_path, "best", best)
    last = _write(tmp_path, "last")
    for path in ("best.v1", "best.v1.json", "best.v1.safetensors", "."):
        back = read_checkpoint(tmp_path / path)
        assert torch.equal(back.model.decoder.classifier.weight, best.decoder.classifier.weight)
    back = read_checkpoint(str(tmp_path), which="last")
    assert torch.equal(back.model.decoder.classifier.weight, last.decoder.classifier.weight)
    with pytest.raises(WeightsError, match="best, last"):
        read_checkpoint(tmp_path, which="newest")


def test_writing_again_replaces_both_files(tmp_path):
    _write(tmp_path, epoch=1)
    model = _write(tmp_path, epoch=2)
    back = read_checkpoint(tmp_path)
    assert back.metadata["epoch"] == 2
    assert torch.equal(back.model.encoder.conv1.weight, model.encoder.conv1.weight)


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_damage_is_noticed(tmp_path):
    _write(tmp_path)
    tensors, described = tmp_path / "best.safetensors", tmp_path / "best.json"
    data, text = tensors.read_bytes(), described.read_text()
    for broken in (data[:-1], data[:100], b"", data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]):
        tensors.write_bytes(broken)
        with pytest.raises(WeightsError, match="damaged, truncated, or not the one"):
            read_checkpoint(tmp_path)
    tensors.write_bytes(data)
    for broken, match in [
        (text[:50], "no JSON"),
        ("[]", "not a sartransfer checkpoint"),
        ("{}", "not a sartransfer checkpoint"),
    ]:
        described.write_text(broken)
        with pytest.raises(WeightsError, match=match):
            read_checkpoint(tmp_path)
    described.write_text(text)
    read_checkpoint(tmp_path)


def test_a_missing_half_is_named(tmp_path):
    _write(tmp_path)
    (tmp_path / "best.safetensors").rename(tmp_path / "kept")
    with pytest.raises(WeightsError, match=r"best\.safetensors is missing"):
        read_checkpoint(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "best.safetensors")
    (tmp_path / "best.json").unlink()
    with pytest.raises(WeightsError, match=r"best\.json is missing"):
        read_checkpoint(tmp_path / "best.safetensors")


def test_halves_of_two_checkpoints_are_not_mixed(tmp_path):
    _write(tmp_path, "best")
    _write(tmp_path, "last")
    (tmp_path / "last.safetensors").replace(tmp_path / "best.safetensors")
    with pytest.raises(WeightsError, match="not the one"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"model": {"name": "resnet18-aspp", "in_channels": 2, "num_classes": 2, "options": {}}},
            "size mismatch",
        ),
        ({"model": {"name": "resnet19", "in_channels": 2, "num_classes": 2}}, "resnet19"),
        ({"model": {"name": "resnet18"}}, "in_channels"),
        ({"classes": ["a", "b", "c"]}, "names 3 classes and 2 bands"),
        ({"contract": [{"name": "hh"}]}, "unit"),
        ({"contract": CONTRACT.to_json()[:1]}, "2 classes and 1 bands"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, values, match):
    _write(tmp_path)
    _change(tmp_path / "best.json", **values)
    with pytest.raises(WeightsError, match=match):
        read_checkpoint(tmp_path)


def test_what_does_not_fit_is_not_written(tmp_path):
    model = build_model("resnet18-aspp", 2, 2, **SMALL)
    for more, match in [
        ({"classes": ["ice"]}, "classes must be 2"),
        ({"contract": []}, "contract must be 2"),
        ({"thing": object()}, "JSON values"),
    ]:
        with pytest.raises(WeightsError, match=match):
            write_checkpoint(tmp_path / "best", model, META | more)
    model.built = {}
    with pytest.raises(WeightsError, match="build_model"):
        write_checkpoint(tmp_path / "best", model, META)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_earlier_checkpoint_whole(tmp_path, monkeypatch):
    first = _write(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        _write(tmp_path / "file")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sartransfer.wholefile.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        _write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "best.safetensors", "file"]
    back = read_checkpoint(tmp_path)
    assert torch.equal(back.model.encoder.conv1.weight, first.encoder.conv1.weight)

"""Checkpoints of others: JSON of any shape and weights of any value end in a network that is right, or in one error."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load, save

from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, WeightsError
from sartransfer.models import build_model, read_checkpoint, write_checkpoint

torch.set_num_threads(1)
CONTRACT = InputContract((InputBand("hh", "sigma0_db", "HH", mean=-13.4, std=5.4),))
META = {"classes": ["water", "ice"], "contract": CONTRACT.to_json(), "views": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    write_checkpoint(folder / "best", build_model("unet", 1, 2, channels=[4, 4, 4]), META)
    return json.loads((folder / "best.json").read_text()), (folder / "best.safetensors").read_bytes()


def put(folder, values, data):
    (folder / "best.safetensors").write_bytes(data)
    values = values | {"sha256": hashlib.sha256(data).hexdigest()}
    (folder / "best.json").write_text(json.dumps(values))
    return folder


def test_the_one_that_is_changed_below_is_right(tmp_path, files):
    found = read_checkpoint(put(tmp_path, *files))
    assert (found.classes, found.contract, found.views) == (("water", "ice"), CONTRACT, 4)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model",), "x"),
        (("model",), [1]),
        (("model", "name"), 5),
        (("model", "name"), ["a"]),
        (("model", "in_channels"), "1"),
        (("model", "options"), "abc"),
        (("model", "input_projection"), "x"),
        (("contract",), "abc"),
        (("contract",), ["abc"]),
        (("contract",), None),
        (("contract", 0, "unit"), 5),
        (("contract", 0, "std"), "x"),
        (("contract", 0, "mean"), None),
        (("contract", 0, "mean"), 1e300),
        (("contract", 0, "std"), 1e-300),
        (("contract", 0, "difference"), 5),
        (("contract", 0, "difference"), "ab"),
        (("contract", 0, "difference"), ["a", "b", "c"]),
        (("views",), "abc"),
        (("views",), [1]),
        (("views",), None),
        (("views",), True),
        (("views",), 0),
        (("views",), float("inf")),
        (("classes",), "ab"),
        (("classes",), ["a", "a"]),
        (("classes",), ["a", "a "]),
        (("classes",), ["", "a"]),
        (("classes",), [1, 2]),
        (("classes",), {"a": 0, "b": 1}),
        (("classes",), ["a", "b\u001b[2J"]),
        (("classes",), ["a", "a\u200b"]),
        (("classes",), 5),
    ],
)
def test_json_of_another_shape_is_one_error(tmp_path, files, place, value):
    values = json.loads(json.dumps(files[0]))
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(WeightsError, match=r"best\.json"):
        read_checkpoint(put(tmp_path, values, files[1]))


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"format": "sartransfer checkpoint 1", "format": "x"}', "[1]", ""]
)
def test_what_is_no_object_is_one_error(tmp_path, files, text):
    put(tmp_path, *files)
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(WeightsError, match=r"best\.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, files, odd):
    tensors = load(files[1])
    name = next(n for n, t in tensors.items() if t.is_floating_point() and t.numel() > 3)
    tensors[name].view(-1)[2] = odd
    with pytest.raises(WeightsError, match=rf"1 of the \d+ numbers of {name} are NaN or infinity"):
        read_checkpoint(put(tmp_path, files[0], save(tensors)))


def test_classes_that_cannot_be_told_apart_are_not_written(tmp_path):
    model = build_model("unet", 1, 2, channels=[4, 4, 4])
    with pytest.raises(WeightsError, match="unique; twice: 'ice'"):
        write_checkpoint(tmp_path / "best", model, META | {"classes": ["ice", "ice"]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mean", "std"), [(1e300, 1.0), (-1e39, 1.0), (0.0, 1e-300), (0.0, 1e39), (0.0, 0.0)]
)
def test_a_normalization_that_float32_cannot_say(mean, std):
    with pytest.raises(InputError, match="cannot be normalized"):
        InputBand("hh", "sigma0_db", mean=mean, std=std)

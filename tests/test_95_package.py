"""The package: what it exports, what it does not load, what it must not hold, and that arrays are enough."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_data import write_small

import sartransfer

ROOT = Path(__file__).parent.parent
SOURCE = Path(sartransfer.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 480


def test_the_public_names_are_these():
    assert sartransfer.__all__ == [
        "Band",
        "Recipe",
        "Scene",
        "Window",
        "__version__",
        "build_model",
        "compare",
        "open_scene",
        "predict_scene",
    ]
    assert dir(sartransfer) == sartransfer.__all__
    for name in sartransfer.__all__:
        assert getattr(sartransfer, name).__doc__ or name == "__version__"
    with pytest.raises(AttributeError, match="no attribute 'compar'"):
        sartransfer.compar  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+", sartransfer.__version__)
    assert f'version = "{sartransfer.__version__}"' in (ROOT / "pyproject.toml").read_text()


def python(code, *words, folder=None):
    """Run code in a fresh Python with this package; returns what it printed."""
    head = f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, words)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = """
import sartransfer
heavy = {"torch", "lightning", "rasterio", "matplotlib", "timm", "segmentation_models_pytorch", "numpy", "pydantic"}
print(sorted(heavy & sys.modules.keys()))
from sartransfer import Recipe, Scene, open_scene
import sartransfer.cli
print(sorted((heavy - {"numpy", "pydantic"}) & sys.modules.keys()))
"""
    assert python(code).split("\n")[:2] == ["[]", "[]"]


ARRAYS_ALONE = """
import pathlib


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("rasterio", "osgeo", "geopandas", "fiona"):
            raise ImportError(f"{name} is not installed here")


sys.meta_path.insert(0, Blocker())
import torch

torch.set_num_threads(1)
import sartransfer
from sartransfer.models import read_checkpoint
from sartransfer.predict import predict_logits, predict_windows

folder = pathlib.Path(sys.argv[1])
recipe = sartransfer.Recipe.from_yaml(folder / "recipe.yaml")
result = sartransfer.compare(recipe, folder / "out", device="cpu")
print([run["status"] for run in result.results["runs"]], result.failed)
checkpoint = read_checkpoint(folder / "out/runs/random/1/seed0")
scene = sartransfer.open_scene(folder / "data/test0.npz")
image, valid = checkpoint.contract.read(scene)
logits = predict_logits(checkpoint.model, torch.from_numpy(image)[None])
((window, again, seen),) = predict_windows(checkpoint, checkpoint.model, scene, "cpu")
print(tuple(logits.shape), torch.equal(logits[0], again), window == scene.window, bool(seen.all()))
try:
    sartransfer.open_scene(folder / "scene.tif")
except sartransfer.errors.InputError as error:
    print(error)
print("rasterio" in sys.modules)
"""


def test_training_and_inference_need_no_rasterio(tmp_path):
    write_small(tmp_path / "data", {"train": 4, "validation": 2, "test": 2})
    values = {
        "name": "arrays", "task": "segment", "data": {"catalog": "data/catalog.csv"},
        "model": {"name": "unet-resnet18", "options": {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}},
        "initializations": {"random": "random"}, "seeds": 1, "primary": {"metric": "iou_macro"},
        "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "scene.tif").write_bytes(b"II*\0")
    lines = python("import sartransfer.errors" + ARRAYS_ALONE, tmp_path).splitlines()
    assert lines[0] == "['finished'] []"
    assert lines[1] == "(1, 2, 32, 32) True True True"
    assert "GeoTIFF needs rasterio (pip install rasterio), or prepare arrays (.npz) elsewhere." in lines[2]
    assert lines[3] == "False"


@functools.cache
def parsed():
    return [(path, list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))) for path in MODULES]


def calls(name):
    """Every call of a function, by its last name, in the package: (module, keyword arguments)."""
    for path, nodes in parsed():
        for node in nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield path.name, {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_nothing_that_is_loaded_can_run_code():
    loads = list(calls("torch.load"))
    assert loads
    assert all(given.get("weights_only") == "True" for _, given in loads), loads
    arrays = list(calls("np.load"))
    assert arrays
    assert all(given.get("allow_pickle") == "False" for _, given in arrays), arrays
    fits = list(calls("trainer.fit"))
    assert fits
    assert all(given.get("weights_only") == "True" for _, given in fits)
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"\bpickle\.(load|loads|Unpickler)\b|\beval\(|\bexec\(|shell=True|\bjoblib\b",
            text.replace(".eval()", ""),
        ), path
        assert not re.search(r"yaml\.(unsafe_load|full_load|Loader|UnsafeLoader|FullLoader)\b", text), path
    for name in ("np.load", "np.savez", "np.save"):
        assert all(given.get("allow_pickle") != "True" for _, given in calls(name))


def test_no_array_is_loaded_with_pickled_objects(tmp_path):
    np.savez(tmp_path / "bad.npz", data=np.array([[[{}]]], dtype=object))
    with pytest.raises(sartransfer.errors.InputError):
        sartransfer.open_scene(tmp_path / "bad.npz").read()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_modules_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < MOST_LINES
    assert not text or ast.get_docstring(ast.parse(text))
    assert path.name not in ("utils.py", "helpers.py", "common.py", "misc.py")


def tracked():
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name.decode() for name in done.stdout.split(b"\0") if name]
    return [p for p in paths if p.is_file()]


def test_no_file_names_a_person_a_machine_or_a_registry():
    # Put together here, so that this file does not hold what it looks for.
    address = re.compile(rb"[\w.+-]{1,64}@[\w-]{1,64}\.(?:[\w-]{1,64}\.)*[a-z]{2,10}\b", re.IGNORECASE)
    places = [b"/" + folder + b"/" for folder in (b"work", b"home", b"root", b"Users", b"mnt")]
    hosts = [
        b"index" + b"-url",
        b"files.python" + b"hosted",
        b"artifact" + b"ory",
        b"nexus" + b".",
        b"pypi" + b".org/simple",
    ]
    places += [b"file:" + b"//"]
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data[:8000]:
            continue  # pictures and arrays
        for word in (*places, *hosts):
            if word in data:
                found.append(f"{path.relative_to(ROOT)}: {word.decode()}")
        found += [f"{path.relative_to(ROOT)}: {m.group().decode()}" for m in address.finditer(data)]
    assert not found, found


def test_dependencies_are_named_with_a_lower_bound():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["scripts"] == {"sartransfer": "sartransfer.cli:main"}
    assert all(">=" in dependency for dependency in project["dependencies"])


def test_every_module_has_a_place_among_the_layers():
    import tomllib

    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = [name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")]
    there = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert contract["exhaustive"] is True
    assert sorted(listed) == sorted(there - {"__init__", *contract["exhaustive_ignores"]})

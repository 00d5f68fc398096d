"""Small generated scenes for tests of training: prepared arrays with labels, and what trains on them."""

import numpy as np
import torch

from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.contract import InputContract
from sartransfer.data.normalize import fit_normalization, resolve_contract
from sartransfer.data.patches import SceneStore
from sartransfer.models import build_model
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry
from sartransfer.readers.array import write_array
from sartransfer.recipe import PrimaryRecipe, TrainingRecipe
from sartransfer.scene import Band
from sartransfer.train import Task, fit

UNET = {"decoder_channels": [16, 16, 8, 8]}
ASPP = {"aspp_channels": 8, "rates": [1, 2, 3]}
CLASSES = ("land", "water")
PRIMARY = PrimaryRecipe.model_validate({"metric": "iou", "class": "water"})
META = {"note": "a test"}


def blobs(rng, size):
    """A smooth random field cut at zero: (size, size) of 0 and 1."""
    waves = np.fft.fftfreq(size)
    low = np.exp(-((waves[:, None] ** 2 + waves**2) / 0.006))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * low).real
    return (field > 0).astype(np.uint8)


def write_scene(path, rng, *, size=32, bands=("vv", "vh"), unit="sigma0_db", wrong=False, ignore=0.0):
    """One scene of backscatter in dB, water 6 dB darker; `wrong` turns the label round."""
    label = blobs(rng, size)
    values = np.stack([-8.0 - 3 * i - 6.0 * label + rng.normal(size=label.shape) for i in range(len(bands))])
    label = 1 - label if wrong else label
    label = np.where(rng.random(label.shape) < ignore, 255, label).astype(np.uint8)
    described = [Band(b, parse_unit(unit), b.upper() if b in ("vv", "vh") else None) for b in bands]
    return write_array(path, values.astype(np.float32), described, label=label)


def make_catalog(folder, splits=None, *, seed=0, wrong=(), name="small", **scene):
    """Scenes by split, each a group of its own; splits named in `wrong` have their labels turned round."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    entries = []
    for split, count in (splits or {"train": 8, "validation": 3, "test": 2}).items():
        for i in range(count):
            path = write_scene(folder / f"{split}{i}.npz", rng, wrong=split in wrong, **scene)
            entries.append(
                Entry(f"{split}{i}", (Asset(path),), label=path, split=split or None, group=f"{split}{i}")
            )
    return Catalog(name, tuple(entries), CLASSES)


def write_small(folder, splits=None, **more):
    """The same, as a catalog file; returns its path as text."""
    return str(write_catalog(make_catalog(folder, splits, **more), folder / "catalog.csv"))


def contract_of(catalog):
    """All bands of the catalog's scenes, normalized by those of its training split."""
    scenes = [open_entry(e) for e in catalog.in_split("train")]
    return fit_normalization(resolve_contract((), scenes[0]), scenes)


def make_task(catalog, training=None, *, patch=None, primary=PRIMARY, store=SceneStore):
    """What `fit` trains on."""
    contract: InputContract = contract_of(catalog)
    held = catalog.in_split("validation")
    recipe = TrainingRecipe.model_validate(
        {"batch_size": 4, "epochs": 2, "precision": "fp32"} | (training or {})
    )
    return Task(
        store(catalog, catalog.in_split("train"), contract),
        SceneStore(catalog, held, contract) if held else None,
        recipe,
        primary,
        catalog.classes,
        patch,
    )


def make_model(name="unet-resnet18", options=None, *, bands=2, seed=0):
    """A small network with a random start."""
    torch.manual_seed(seed)
    return build_model(name, bands, 2, **(options or (UNET if name.startswith("unet") else ASPP)))


def run_fit(folder, task, model=None, *, seed=0, precision="fp32", progress=None, device="cpu"):
    """`fit` with the metadata that a checkpoint needs."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = META | {"classes": list(task.classes), "contract": task.train.contract.to_json()}
    return fit(
        folder,
        model or make_model(),
        task,
        seed=seed,
        device=device,
        precision=precision,
        metadata=meta,
        progress=progress,
    )


def tensors(folder, which):
    """The tensors of a kept checkpoint."""
    from safetensors.torch import load_file

    return load_file(folder / f"{which}.safetensors")


def same_tensors(one, other):
    """Say whether two sets of tensors are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def numbers(rows):
    """The curves without the seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

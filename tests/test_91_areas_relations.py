"""evaluate and areas: scores on a rule's labels, on training's scenes and on unknown ones give no silent interval."""

import json

import numpy as np
import pytest
import torch

from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.contract import InputBand, InputContract
from sartransfer.geotiff import write_geotiff
from sartransfer.models import build_model, write_checkpoint
from sartransfer.runs import write_json
from sartransfer.scene import GeoReference

pytestmark = pytest.mark.usefixtures("one_thread")
CONTRACT = InputContract((InputBand("vv", "sigma0_db", "VV", mean=-10.0, std=3.0),))
RECIPE = """name: r
task: segment
data: {{catalog: {catalog}, validation: {{fraction: 0}}}}
model: {{name: unet-resnet18}}
initializations: {{random: random}}
seeds: [0]
primary: {{metric: iou, class: wet}}
training: {{epochs: 1, weights: last}}
"""


def scenes_of(folder, name, split, seeds, tags=None):
    entries = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        place = GeoReference("EPSG:32633", (40.0, 0.0, 5e5 + 1e4 * seed, 0.0, -40.0, 6e6))
        wet = (np.arange(32) < 12)[:, None] & np.ones((32, 32), bool)
        values = np.where(wet, -18.0, -9.0) + rng.normal(0, 2, wet.shape)
        image = write_geotiff(folder / f"{name}{seed}.tif", values[None].astype(np.float32), georeference=place,
                              descriptions=["sigma0_vv_db"], units=["sigma0_db"], overwrite=True)  # fmt: skip
        label = write_geotiff(folder / f"{name}{seed}_l.tif", wet.astype(np.uint8), georeference=place, tags=tags,
                              overwrite=True)  # fmt: skip
        entries.append(
            Entry(f"{name}{seed}", (Asset(image),), label=label, split=split, group=f"event {name}{seed}")
        )
    return entries


def learn(model):
    """Teach a network that what is dark is wet: areas by one that knows nothing are not estimable."""
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    label = (torch.arange(32) < 12)[:, None].expand(32, 32).long()[None].repeat(4, 1, 1)
    noise = torch.Generator().manual_seed(0)
    for _ in range(40):
        values = torch.where(label > 0, -18.0, -9.0) + 2 * torch.randn(label.shape, generator=noise)
        loss = torch.nn.functional.cross_entropy(model((values[:, None] + 10) / 3), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint in the folder of a run that was trained on six scenes; and a map by it."""
    folder = tmp_path_factory.mktemp("run")
    known = Catalog("known", (*scenes_of(folder, "k", "train", range(6)), *scenes_of(folder, "t", "test", [9])),
                    ("dry", "wet"))  # fmt: skip
    write_catalog(known, folder / "known.csv")
    torch.manual_seed(0)
    model = build_model("unet-resnet18", 1, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
    learn(model)
    meta = {"classes": ("dry", "wet"), "contract": CONTRACT.to_json(), "identity": "it", "epoch": 1}
    write_checkpoint(folder / "run/best", model, meta)
    write_json(folder / "run/run.json", {"identity": "it", "status": "finished", "weights": "best"})
    (folder / "run/recipe.yaml").write_text(RECIPE.format(catalog=folder / "known.csv"))
    return folder


def test_only_new_events_with_labels_of_their_own_give_an_interval(call, run, tmp_path):
    (tmp_path / "other").mkdir()
    sets = {
        "new": scenes_of(tmp_path, "n", "test", range(20, 26)),
        "rule": scenes_of(tmp_path, "r", "test", range(30, 36), {"SARTRANSFER_FLOOD": '{"rules": "change"}'}),
        "seen": scenes_of(tmp_path, "s", "test", range(6)),  # training's scenes by other names
    }
    words = (
        "predict",
        run / "run",
        run / "k0.tif",
        "-o",
        tmp_path / "map.tif",
        "--device",
        "cpu",
        "--engine",
        "eager",
    )
    assert call(*words)[0] == 0
    told = {}
    for name, entries in sets.items():
        catalog = write_catalog(Catalog(name, tuple(entries), ("dry", "wet")), tmp_path / f"{name}.csv")
        scores = tmp_path / f"{name}.json"
        code, _, err = call("evaluate", run / "run", "--catalog", catalog, "-o", scores, "--device", "cpu")
        assert code == 0, err
        kept = json.loads(scores.read_text())["test"]
        areas = ("areas", tmp_path / "map.tif", "--scores", scores, "-o", tmp_path / f"{name}-areas.json")
        told[name] = (kept["relation"], "warning" in err, *call(*areas)[::2])
        forced = (
            "areas",
            tmp_path / "map.tif",
            "--scores",
            scores,
            "--split",
            "test",
            "-o",
            tmp_path / "f.json",
        )
        code, _, said = call(*forced, "--overwrite")
        assert (code, "warning: test: " in said) == (0, name != "new")
        relations = json.loads((tmp_path / "f.json").read_text())["wet"]["relations"]
        assert relations == {"test": kept["relation"]}  # a table of areas says on what its interval rests
    assert told["new"][:3] == ("unseen events", False, 0)
    for name, relation, reason in (
        ("rule", "labels of a rule", "its labels are a rule's"),
        ("seen", "same scenes", "of the scenes that were trained on [6 of 6 scenes"),
    ):
        assert told[name][:3] == (relation, True, 2)
        assert reason in told[name][3]
        assert not (tmp_path / f"{name}-areas.json").exists()
    # The checkpoint by itself, without its run: nobody knows.
    (tmp_path / "alone").mkdir()
    for ending in ("json", "safetensors"):
        (tmp_path / f"alone/n.{ending}").write_bytes((run / f"run/best.{ending}").read_bytes())
    lone = tmp_path / "lone.json"
    code, _, err = call("evaluate", tmp_path / "alone/n.json", "--catalog", tmp_path / "new.csv", "-o", lone)
    assert (code, "whether the network was trained on its scenes is not known" in err) == (0, True)
    code, _, err = call("areas", tmp_path / "map.tif", "--scores", lone)
    assert (code, "not at hand" in err) == (2, True)

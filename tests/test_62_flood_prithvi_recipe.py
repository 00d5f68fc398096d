"""recipes/flood-prithvi.yaml, from its images and Prithvi's file to the report, with all but its sizes as written."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_43_prithvi import _published

from sartransfer import plan
from sartransfer.plan import estimate, plan_comparison
from sartransfer.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Path(__file__).parent.parent / "recipes/flood-prithvi.yaml"
TINY = (
    "{decoder: fcn, frames: 2, width: 32, depth: 3, heads: 2, patch: 16, neck_channels: 8, head_channels: 8}"
)
SIZES = (
    f"model.options={TINY}", "initializations.unet.model.options={channels: [4, 4, 4, 4, 4]}", "data.patch.size=32",
    "seeds=2", "training.epochs=1",
)  # fmt: skip
STARTS = {"unet", "prithvi", "prithvi-frozen", "prithvi-lora", "prithvi-random"}


def write_pairs(folder, numbers, rng):
    """Pairs of 8-bit images of unrelated places, a flooded strip 60 values darker, and its mask, as OMBRIA's are."""
    for name in ("BEFORE", "AFTER", "MASK"):
        (folder / name).mkdir(parents=True)
    for number in numbers:
        before = rng.normal(150, 25, (32, 32))
        wet = np.zeros((32, 32), bool)
        wet[: rng.integers(6, 20)] = True
        after = before - 60 * wet + rng.normal(0, 5, wet.shape)
        for name, kind, values in (
            ("BEFORE", "before", before),
            ("AFTER", "after", after),
            ("MASK", "mask", 255 * wet),
        ):
            image = np.clip(np.round(values), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / name / f"S1_{kind}_{number:04d}.png")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the recipe finds OMBRIA and Prithvi: a folder of generated pairs, a small file of the published layout."""
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    write_pairs(folder / "ombria/OmbriaS1/train", range(1, 13), rng)
    write_pairs(folder / "ombria/OmbriaS1/test", range(1, 4), rng)
    torch.save(_published(width=32, depth=3, prefixed=True), folder / "Prithvi_EO_V1_100M.pt")
    return folder


@pytest.fixture(autouse=True)
def told(places, monkeypatch):
    monkeypatch.setenv("SARTRANSFER_DATA", str(places))
    monkeypatch.setenv("SARTRANSFER_PRITHVI", str(places / "Prithvi_EO_V1_100M.pt"))


def test_the_recipe_runs_from_end_to_end(call, tmp_path):
    sets = [word for size in SIZES for word in ("--set", size)]
    code, printed, said = call("compare", RECIPE, "-o", tmp_path / "out", "--device", "cpu", *sets)
    assert code == 0, said
    assert (tmp_path / "out/report.html").is_file()
    assert "prithvi" in printed
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {r["initialization"] for r in results["runs"]} == STARTS
    assert {r["status"] for r in results["runs"]} == {"finished"}
    # OMBRIA's 2021 events are not there: all that is left continues what is trained on, and is said to
    assert [(t["name"], t["relation"]) for t in results["test_sets"]] == [("test", "same scenes")]
    pairs = {(c["a"], c["b"]) for c in results["contrasts"]}
    assert {("prithvi", "unet"), ("prithvi-lora", "unet")} <= pairs  # the paper's question
    with (tmp_path / "out/results.csv").open() as file:
        rows = [
            r for r in csv.DictReader(file) if (r["metric"], r["class"], r["scene"]) == ("iou", "flooded", "")
        ]
    assert {r["initialization"] for r in rows} == STARTS | {"rule:threshold"}
    assert all(0 <= float(r["value"]) <= 1 for r in rows if r["value"])  # the paper's 2.2 cannot be
    reports = {
        n: json.loads((tmp_path / f"out/runs/{n}/1/seed0/initialization.json").read_text()) for n in STARTS
    }
    encoder = [n for n in reports["prithvi"]["loaded"] if n.startswith("encoder.blocks.")]
    assert len(encoder) == 3 * 12  # every tensor of every block
    assert "encoder.patch_embed.proj.weight" in reports["prithvi"]["adapted"]  # six bands to one
    assert set(encoder) <= set(reports["prithvi-frozen"]["loaded"])
    assert not reports["prithvi-random"]["loaded"]
    frozen = set(reports["prithvi-frozen"]["frozen"])
    assert set(encoder) <= frozen
    lora = reports["prithvi-lora"]
    assert any("lora" in n for n in lora["random"])
    assert not set(lora["frozen"]) >= frozen  # its patch embedding learns


def test_each_network_is_timed_once_and_it_is_said_which(tmp_path, call, monkeypatch):
    """Four of the five starts are one network: the dry run timed it four times, and was silent for minutes."""
    built = []
    whole = plan.build_model
    monkeypatch.setattr(plan, "build_model", lambda *a, **k: built.append(a[0]) or whole(*a, **k))
    heard = []
    recipe = Recipe.from_yaml(RECIPE, SIZES)
    found = estimate(plan_comparison(recipe, tmp_path / "out"), "cpu", heard.append)
    assert built == ["unet", "prithvi-v1-100m"]
    assert heard == [
        "timing steps of unet (unet): 8 of 32 x 32 pixels",
        "timing steps of prithvi-v1-100m (prithvi): 8 of 32 x 32 pixels",
    ]
    seconds = found.seconds_per_run
    assert set(seconds) == STARTS
    assert len({seconds[n] for n in STARTS - {"unet"}}) == 1
    sets = [word for size in SIZES for word in ("--set", size)]
    code, _, said = call("compare", RECIPE, "-o", tmp_path / "out", "--device", "cpu", "--dry-run", *sets)
    assert (code, said.count("timing steps of")) == (0, 2)
    # Another batch is another step.
    more = Recipe.from_yaml(RECIPE, (*SIZES, "initializations.prithvi-random.training={batch_size: 4}"))
    heard.clear()
    estimate(plan_comparison(more, tmp_path / "out"), "cpu", heard.append)
    assert len(heard) == 3


def test_a_slow_step_is_timed_once(monkeypatch):
    """After one to warm up; quick ones three times, of which the middle counts."""
    recipe = Recipe.from_yaml(RECIPE, SIZES).training
    for costs, expected in (((9, 7, 7, 7), 7), ((9, 1, 3, 2), 2)):
        ticks = iter([t for cost in costs for t in (0, cost)])
        monkeypatch.setattr(plan.time, "perf_counter", lambda ticks=ticks: next(ticks))
        step = plan._step_seconds(torch.nn.Conv2d(2, 2, 1), recipe, "segment", (8, 8), 2, 2, "cpu")
        assert step == expected
        assert len(list(ticks)) == (4 if expected == 7 else 0)

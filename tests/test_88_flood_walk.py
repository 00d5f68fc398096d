"""docs/flood.md walked through: from an archive on loopback to polygons of a flood with their areas."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from small_stac import RTC, SearchServer, StaticServer, rtc_item
from test_85_fetch import AFTER, BEFORE, CRS, LEFT, NAME, TOP, area_file

from sartransfer.geotiff import write_geotiff
from sartransfer.models.checkpoint import read_checkpoint
from sartransfer.scene import GeoReference

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIDE = 112
EVENTS = {"ebro": 0.0, "po": 20_000.0}
WET = slice(20, 80)  # rows and columns that are flooded
BANDS = "before_vv=gamma0,before_vh=gamma0|after_vv=gamma0,after_vh=gamma0"


def images(seed):
    """Backscatter of 4.4 looks before, and after with a square of 600 m at a tenth of it."""
    before, after = np.random.default_rng(seed).gamma(4.4, 0.05 / 4.4, (2, 2, SIDE, SIDE)).astype(np.float32)
    after[:, WET, WET] /= 10
    return before, after


@pytest.fixture
def endpoint(tmp_path):
    with StaticServer(tmp_path / "archive") as files:
        items = []
        for number, east in enumerate(EVENTS.values()):
            before, after = images(number)
            for day, image in (("20241019", before), ("20241031", after)):
                name = NAME.format(day).replace("56344", f"5634{number}")
                items.append(rtc_item(files, name, image, left=LEFT + east, top=TOP))
        with SearchServer(items) as server:
            yield server.url


def test_from_two_dates_to_polygons_with_areas(call, endpoint, tmp_path):
    def done(*words):
        code, out, err = call(*words)
        assert code == 0, (words, err)
        return out

    for event, east in EVENTS.items():
        left = LEFT + east
        (tmp_path / event).mkdir()
        area = area_file(tmp_path / event, left + 60, TOP - 60, left + 10 * SIDE - 60, TOP - 10 * SIDE + 60)
        done("fetch", "flood", "--area", area, "--before", BEFORE, "--after", AFTER, "--endpoint", endpoint,
             "--collection", RTC, "-o", tmp_path / event)  # fmt: skip
        done("prepare", "flood", tmp_path / event / "before.tif", tmp_path / event / "after.tif",
             "-o", tmp_path / event / "mask.tif")  # fmt: skip
    pairs = [w for e in EVENTS for w in ("--pair", f"{e}=" + "|".join(
        str(tmp_path / e / f"{n}.tif") for n in ("before", "after", "mask")))]  # fmt: skip
    done("prepare", "tiles", *pairs, "--size", 32, "--test", "po", "-o", tmp_path / "tiles")
    recipe = {
        "name": "walk", "task": "segment",
        "data": {
            "catalog": "tiles/catalog.csv", "validation": {"fraction": 0},
            "bands": [{"name": "before_vh", "unit": "gamma0_db"}, {"name": "after_vh", "unit": "gamma0_db"}],
        },
        "model": {"name": "unet-resnet18", "options": {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}},
        "initializations": {"random": "random"}, "seeds": 1, "baselines": ["threshold"],
        "primary": {"metric": "iou", "class": "flooded"},
        "training": {"epochs": 15, "batch_size": 4, "weights": "last", "precision": "fp32",
                     "optimizer": {"name": "adamw", "lr": 3e-3}},
    }  # fmt: skip
    (tmp_path / "walk.yaml").write_text(yaml.safe_dump(recipe))
    done("compare", tmp_path / "walk.yaml", "-o", tmp_path / "out", "--device", "cpu")
    results = json.loads((tmp_path / "out/results.json").read_text())
    rule = {(s["test_set"], s["metric"], s["class"]): s["value"] for s in results["rules"][0]["scores"]}
    assert (
        rule["po", "iou", "flooded"] > 0.8
    )  # the rule on tiles against itself on the whole scene: not 1, near it
    run = tmp_path / "out/runs/random/1/seed0"
    done(
        "evaluate", run, "--recipe", tmp_path / "walk.yaml", "-o", tmp_path / "scores.json", "--device", "cpu"
    )
    pair = "|".join(str(tmp_path / "po" / f"{n}.tif") for n in ("before", "after"))
    target = tmp_path / "flood.tif"
    done("predict", run, pair, "-o", target, "--bands", BANDS, "--polygons", "--probabilities",
         "--device", "cpu", "--engine", "eager")  # fmt: skip
    words = (
        "areas",
        target,
        "--probabilities",
        tmp_path / "flood-probabilities.tif",
        "-o",
        tmp_path / "areas.json",
    )
    for more, expected in (  # a rule's labels are not the truth, and one test event says nothing of others
        ((), "(po: its labels are a rule's, so that its errors are agreement with that rule)"),
        (("--split", "po"), "1 groups of test scenes are too few to tell how areas vary"),
    ):
        code, _, err = call(*words, "--scores", tmp_path / "scores.json", *more)
        assert (code, expected in err) == (2, True), err
    done(*words)
    areas = json.loads((tmp_path / "areas.json").read_text())
    assert areas["flooded"]["km2"] == pytest.approx(0.36, rel=0.3)  # a square of 600 m
    assert areas["flooded"]["expected_km2"] == pytest.approx(0.36, rel=0.3)

    import pyogrio

    _, _, _, columns = pyogrio.raw.read(tmp_path / "flood.gpkg", layer="classes")
    meta = pyogrio.read_info(tmp_path / "flood.gpkg", layer="classes")
    assert len(columns[0]) >= 2
    assert str(CRS) in meta["crs"] or "32630" in meta["crs"]


TRAINED = ("po", "ebro")
TESTED = {
    "elbe": 10,
    "oder": 6,
    "main": 4,
    "saar": 3,
    "ruhr": 2.2,
}  # how much darker water is: some is missed
RULED, NEW = "weser", "new"
NAMES = ("before_vv", "before_vh", "after_vv", "after_vh")


def write_event(folder, number, darker):
    """Write a pair as fetch does, and its true mask, which stands for one drawn by hand."""
    before, after = np.random.default_rng(100 + number).gamma(4.4, 0.05 / 4.4, (2, 2, 96, 96)).astype("f4")
    wet = np.zeros((96, 96), dtype=np.uint8)
    wet[16 + number : 70, 20 : 60 + 3 * number] = 1
    after[:, wet == 1] /= darker
    place = GeoReference(f"EPSG:{CRS}", (10.0, 0.0, LEFT + 20_000 * number, 0.0, -10.0, TOP))
    folder.mkdir()
    for name, image in (("before", before), ("after", after)):
        bands = ["gamma0_vv", "gamma0_vh"]
        write_geotiff(
            folder / f"{name}.tif", image, georeference=place, descriptions=bands, units=["gamma0"] * 2
        )
    write_geotiff(folder / "hand.tif", wet, georeference=place, nodata=255.0)


def by_hand(folder, runs):
    """Confusion of each event from the tiles and the bare networks: softmax, mean, argmax."""
    networks = [read_checkpoint(run, which="last") for run in runs]
    found = {}
    with (folder / "catalog.csv").open() as file:
        next(file)  # the catalog's classes
        rows = [row for row in csv.DictReader(file) if row["split"] in TESTED]
    for row in rows:
        with rasterio.open(folder / row["images"]) as file:
            bands = dict(zip(NAMES, file.read().astype(np.float64), strict=True))
        with rasterio.open(folder / row["label"]) as file:
            truth = file.read(1)
        shares = 0
        for network in networks:
            values = [(10 * np.log10(bands[b.name]) - b.mean) / b.std for b in network.contract.bands]
            with torch.no_grad():
                logits = network.model.eval()(torch.from_numpy(np.stack(values).astype("f4"))[None])[0]
            shares = shares + logits.softmax(0).numpy() / len(networks)
        guess = shares.argmax(0)
        matrix = [[((truth == i) & (guess == j)).sum() for j in range(2)] for i in range(2)]
        found[row["group"]] = found.get(row["group"], 0) + np.array(matrix)
    return found


def section(step):
    """The text of a step of docs/flood.md."""
    text = (Path(__file__).parents[1] / "docs/flood.md").read_text(encoding="utf-8")
    return text.split(f"\n## {step}. ")[1].split("\n## ")[0]


def commands_of(step):
    """The commands of a step of docs/flood.md, each as words."""
    blocks = section(step).replace("\\\n", " ").split("```")[1::2]
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line)[1:] for line in lines]


def test_five_test_events_give_the_area_of_an_ensemble_an_interval(call, tmp_path, monkeypatch):
    """Step 5 as written with step 4's recipe, but for tiles of 32 px, a tiny network, and one more event by a rule."""
    monkeypatch.chdir(tmp_path)

    def done(*words):
        code, out, err = call(*words)
        assert code == 0, (words, err)
        return out, err

    events = {**dict.fromkeys(TRAINED, 5), **TESTED, RULED: 8, NEW: 5}
    for number, (event, darker) in enumerate(events.items()):
        write_event(tmp_path / event, number, darker)
    for event in (*TRAINED, RULED):
        done("prepare", "flood", f"{event}/before.tif", f"{event}/after.tif", "-o", f"{event}/mask.tif")
    written = yaml.safe_load(section(4).split("```yaml")[1].split("```")[0])
    recipe = written | {
        "model": {"name": "unet-resnet18", "options": {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}},
        "initializations": {"imagenet": "random"},  # by that name only: nothing is loaded here
        "seeds": 3, "rule_labelled": [],  # elbe is drawn by hand now; of the ruled event its tiles say it
        "training": {"epochs": 8, "batch_size": 4, "weights": "last", "precision": "fp32",
                     "optimizer": {"name": "adamw", "lr": 3e-3}},
    }  # fmt: skip
    Path("my-floods.yaml").write_text(yaml.safe_dump(recipe))
    tiles, compare, predict, evaluate, areas = commands_of(5)
    ruled = f"{RULED}={RULED}/before.tif|{RULED}/after.tif|{RULED}/mask.tif"
    done(*tiles, "--size", 32, "--pair", ruled, "--test", RULED)
    done(*compare)
    done(*predict)
    out, _ = done(*evaluate)
    assert "ruhr: 3 networks" in out
    out, err = done(*areas)
    assert "test sets: elbe, oder, main, saar, ruhr (5 groups)" in err
    assert f"left out: {RULED}: its labels are a rule's" in err
    assert "adjusted km2 [95 %]" in out
    assert Path("flood.gpkg").is_file()

    told = json.loads(Path("areas.json").read_text())
    assert told["flooded"]["test_sets"] == list(TESTED)
    mapped = np.array([row["km2"] for row in told.values()])
    groups = by_hand(tmp_path / "tiles", [tmp_path / f"out/runs/imagenet/1/seed{seed}" for seed in range(3)])
    scored = json.loads(Path("scores.json").read_text())
    for event, matrix in groups.items():
        counted = sum(np.array(scene["confusion"]) for scene in scored[event]["scenes"])
        assert np.abs(counted - matrix).sum() <= 4  # ties within rounding may fall either way
    matrices = np.array([groups[event] for event in sorted(groups)], dtype=float)
    assert len(matrices) == 5

    # Recall and false alarms, and the area that they make of the map (Rogan and Gladen).
    def area(tests, shown):
        together = tests.sum(0)
        recall, false = together[1, 1] / together[1].sum(), together[0, 1] / together[0].sum()
        return (shown - false * mapped.sum()) / (recall - false)

    flooded = area(matrices, mapped[1])
    assert 0 < flooded < mapped.sum()
    assert told["flooded"]["adjusted_km2"] == pytest.approx(flooded, rel=2e-3)
    # This scene with the errors of one event, corrected by the others.
    off = []
    for g, one in enumerate(matrices):
        recall, false = one[1, 1] / one[1].sum(), one[0, 1] / one[0].sum()
        shown = recall * flooded + false * (mapped.sum() - flooded)
        off.append(flooded - area(np.delete(matrices, g, axis=0), shown))
    half = 2.7764 * np.std(off, ddof=1) * np.sqrt(1 + 1 / 5)  # t of 4 degrees of freedom
    assert half > 0.01 * flooded
    assert told["flooded"]["low_km2"] == pytest.approx(
        max(0, flooded - half), abs=0.01 * half + 2e-3 * flooded
    )
    high = min(mapped.sum(), flooded + half)
    assert told["flooded"]["high_km2"] == pytest.approx(high, abs=0.01 * half + 2e-3 * flooded)

    swapped = [*evaluate[:1], evaluate[evaluate.index("--ensemble") + 1], "--recipe", "my-floods.yaml"]
    done(*swapped, "--split", "ruhr", "-o", "one.json")
    for scores, more, expected in (
        ("one.json", (), "Score what made the map, 3 networks together"),
        ("scores.json", ("--split", "elbe", "--split", "oder"), "2 groups of test scenes"),
        ("scores.json", ("--split", "rhine"), "split='rhine' is not known"),
    ):
        code, _, err = call("areas", "flood.tif", "--scores", scores, *more)
        assert (code, expected in err) == (2, True), err

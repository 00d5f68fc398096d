"""docs/flood.md walked through: from an archive on loopback to polygons of a flood with their areas."""

import json

import numpy as np
import pytest
import yaml
from small_stac import RTC, SearchServer, StaticServer, rtc_item
from test_85_fetch import AFTER, BEFORE, CRS, LEFT, NAME, TOP, area_file

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
        "initializations": {"random": "random"}, "seeds": 1, "baselines": ["threshold"], "rule_labelled": ["po"],
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
    code, _, err = call(*words, "--scores", tmp_path / "scores.json")
    assert (code, "too few to tell how areas vary" in err) == (
        2,
        True,
    )  # one test event says nothing of others
    done(*words)
    areas = json.loads((tmp_path / "areas.json").read_text())
    assert areas["flooded"]["km2"] == pytest.approx(0.36, rel=0.3)  # a square of 600 m
    assert areas["flooded"]["expected_km2"] == pytest.approx(0.36, rel=0.3)

    import pyogrio

    _, _, _, columns = pyogrio.raw.read(tmp_path / "flood.gpkg", layer="classes")
    meta = pyogrio.read_info(tmp_path / "flood.gpkg", layer="classes")
    assert len(columns[0]) >= 2
    assert str(CRS) in meta["crs"] or "32630" in meta["crs"]

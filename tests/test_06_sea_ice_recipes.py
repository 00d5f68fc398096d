"""The recipes of the sea-ice experiment: the numbers of the paper, and in what the variants differ."""

from pathlib import Path

import numpy as np
import pytest

from sartransfer.radar.sea_ice.swath import SEAMS, SWATH_M, look_triangle
from sartransfer.recipe import Recipe

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def read(monkeypatch):
    monkeypatch.setenv("SARTRANSFER_DATA", "/data")
    monkeypatch.setenv("SARTRANSFER_WEIGHTS", "/weights")
    return lambda name, *more: Recipe.from_yaml(RECIPES / f"{name}.yaml", more)


def flat(values, head=""):
    """Every setting by its dotted name."""
    out = {}
    for key, value in values.items():
        out |= flat(value, f"{head}{key}.") if isinstance(value, dict) and value else {f"{head}{key}": value}
    return out


def test_the_numbers_of_the_paper(read):
    asked = flat(read("sea-ice").to_json())
    assert {
        "data.dataset": "extremeearth", "data.validation.halves.months": [2, 6, 8, 12], "data.patch.size_m": 80000,
        "data.patch.per_scene": 100, "model.name": "resnet18-aspp", "model.options.aspp_channels": 128,
        "seeds": [0, 1, 2], "training.batch_size": 32, "training.optimizer.name": "adam",
        "training.optimizer.lr": 1e-5, "training.schedule.name": "plateau", "training.schedule.patience": 5,
        "training.schedule.factor": 0.1, "training.schedule.min_lr": 1e-8, "training.early_stop.patience": 20,
        "training.monitor": "loss", "training.weights": "best", "initializations.random.from": "random",
        "initializations.imagenet.from": "file", "initializations.imagenet.freeze": [],
        "training.augment.flips": False, "training.augment.rotations": False, "training.augment.gain": 0.0,
    }.items() <= asked.items()  # fmt: skip
    assert [b["name"] for b in asked["data.bands"]] == ["sigma0_hh_db", "sigma0_hv_db", "incidence_angle_deg"]


@pytest.mark.parametrize(("channels", "parameters"), [(128, 3_964_482), (256, 5_604_930)])
def test_the_networks_have_the_parameters_that_the_files_name(read, channels, parameters):
    from sartransfer.models import build_model

    recipe = read("sea-ice" if channels == 128 else "sea-ice-code")
    model = build_model(recipe.model.name, 3, 2, **recipe.model.options)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_code_differs_in_what_its_file_says(read):
    paper, code = (flat(read(name).to_json()) for name in ("sea-ice", "sea-ice-code"))
    differ = {k for k in paper.keys() | code.keys() if paper.get(k) != code.get(k)}
    imagenet = {f"initializations.imagenet.{k}" for k in ("from", "path", "name")}
    asked = {"model.options.aspp_channels", "data.patch.redraw", "training.weights"}
    assert differ == {"name", *asked, *imagenet}
    settings = ("name=sea-ice-code", "model.options.aspp_channels=256", "data.patch.redraw=false",
                "training.weights=last")  # fmt: skip
    by_hand = flat(read("sea-ice", *settings).to_json())
    assert {k for k in by_hand.keys() | code.keys() if by_hand.get(k) != code.get(k)} == imagenet


def test_the_simulated_one_is_a_quarter_of_the_scale(read):
    full, small = read("sea-ice").to_json(), read("sea-ice-simulated").to_json()
    options = small["data"]["options"]
    assert options["size"] * options["pixel_m"] == pytest.approx(400_000)  # the paper's scenes: 400 km
    assert small["data"]["patch"]["size_m"] == full["data"]["patch"]["size_m"]
    assert [80 * r for r in (12, 24, 36)] == [
        options["pixel_m"] * r for r in small["model"]["options"]["rates"]
    ]
    assert small["data"]["validation"] == full["data"]["validation"]
    angles = full["strata"]["seams_deg"]  # for products that do not say; simulated scenes do
    only_full = ("seams_deg", "polygon_edge_m")  # simulated scenes say where their seams are
    assert small["strata"] == full["strata"] | {name: small["strata"][name] for name in only_full}
    assert not any(small["strata"][name] for name in only_full)
    seams = look_triangle(np.array(SEAMS[1:-1]) * SWATH_M)[0]
    np.testing.assert_allclose(angles, seams, atol=0.05)


def test_the_stand_in_tests_other_data(read):
    recipe = read("sea-ice-ombria")
    assert [b.name for b in recipe.data.bands] == ["after"]
    assert set(recipe.data.external) == {"sen1floods11"}
    assert recipe.groups_are == "events"
    assert read("sea-ice").groups_are == "scenes"

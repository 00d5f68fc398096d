"""What would end or spoil a comparison is said before its first run: leaks of starts, labels, bands, networks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from small_data import ASPP, CLASSES, make_catalog, write_small
from typer.testing import CliRunner

import sartransfer
from sartransfer.before import check_label, check_networks, check_scenes
from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.cli import app
from sartransfer.comparison import compare, plan_comparison, train_one
from sartransfer.data.resolve import open_catalog
from sartransfer.errors import CatalogError, InputError, LeakageError, RecipeError, UnitError
from sartransfer.histories import refuse_leaking_starts
from sartransfer.models import build_model
from sartransfer.models.build import MODELS, networks_for
from sartransfer.readers import open_entry, read_label
from sartransfer.recipe import Recipe, StageRecipe, parse_recipe
from sartransfer.runs import write_json

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = {"epochs": 1, "batch_size": 4, "precision": "fp32"}
SPLITS = {"train": 4, "test": 2}


def recipe_of(path, starts=None, **more):
    values = {
        "name": "before", "task": "segment",
        "data": {"catalog": str(path), "validation": {"fraction": 0.3}} | more.pop("data", {}),
        "model": {"name": "resnet18-aspp", "options": ASPP},
        "initializations": starts or {"random": "random"}, "seeds": 1,
        "primary": {"metric": "iou", "class": "water"},
        "training": TRAINING | more.pop("training", {}),
    }  # fmt: skip
    return parse_recipe(values | more)


def chain(path, *, name="seen", task="segment", data=None, **more):
    data = {"catalog": str(path), "validation": {"fraction": 0.3}} | (data or {})
    return {
        "from": "stages",
        "stages": [{"name": name, "task": task, "data": data, "training": TRAINING} | more],
    }


@pytest.fixture
def path(tmp_path):
    return write_small(tmp_path / "data", SPLITS, seed=5)


@pytest.fixture
def leaking(path):
    """The same scenes, the first test scene among those that are trained on."""
    lines = [
        t.replace(",test,", ",train,") if t.startswith("test0") else t
        for t in Path(path).read_text().splitlines()
    ]
    other = Path(path).with_name("leaking.csv")
    other.write_text("\n".join(lines) + "\n")
    return str(other)


@pytest.fixture
def elsewhere(tmp_path):
    return write_small(tmp_path / "elsewhere", {"train": 3, "test": 1}, seed=6)


def refused(recipe, out, error, words):
    """Nothing is trained, nothing written."""
    with pytest.raises(error, match=words):
        compare(recipe, out, device="cpu")
    assert not out.exists()


def fake_run(folder, recipe, start="random", identity="abc"):
    """The folder of a run as far as its history goes: no weights."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    write_json(folder / "run.json", {"identity": identity, "status": "finished", "initialization": start})
    (folder / "best.json").write_text(json.dumps({"identity": "abc"}))
    return {"from": "run", "path": str(folder)}


def look(recipe):
    return refuse_leaking_starts(recipe.initializations, open_catalog(recipe.data), recipe.data)


# ---- starts that have seen test scenes ----


def test_a_stage_that_trains_with_labels_on_a_test_scene_is_refused(path, leaking, tmp_path):
    starts = {"random": "random", "chain": chain(leaking)}
    words = (
        r"initialization 'chain': stage 'seen' would be trained on scenes of a test set .*content: .*test0"
    )
    refused(recipe_of(path, starts), tmp_path / "out", LeakageError, words)


def test_a_later_stage_and_a_stage_behind_a_stage_are_looked_at(path, leaking, elsewhere):
    two = chain(elsewhere, name="first")
    two["stages"].append(chain(leaking)["stages"][0])
    with pytest.raises(LeakageError, match=r"'x': stage 'seen' would be trained"):
        look(recipe_of(path, {"x": two}))
    inner = chain(
        elsewhere, name="outer", start=chain(leaking) | {"model": {"name": "resnet18-aspp", "options": ASPP}}
    )
    with pytest.raises(LeakageError, match=r"'x': stage 'seen' would be trained"):
        look(recipe_of(path, {"x": inner}))


def test_stages_on_training_scenes_and_on_other_data_pass(path, elsewhere):
    starts = {"own": chain(path), "other": chain(elsewhere), "drawn": chain(elsewhere, task="segment")}
    assert look(recipe_of(path, starts)) == []


def test_a_place_that_a_stage_is_trained_on_is_not_new(tmp_path):
    """Other pixels, another catalog, half of the ground of a test scene; further off it passes."""
    target = tiffs(tmp_path / "a", seed=1)
    near, far = (tiffs(tmp_path / name, seed=2, east=east) for name, east in (("b", 30160.0), ("c", 1e5)))
    with pytest.raises(LeakageError, match=r"would be trained on scenes of a test set .*footprint"):
        look(recipe_of(target, {"x": chain(near)}))
    assert look(recipe_of(target, {"x": chain(far)})) == []


def test_a_group_of_the_same_catalog_is_one_event_and_may_be_declared(tmp_path):
    catalog = make_catalog(tmp_path / "data", SPLITS, seed=5)
    entries = [replace(e, group="event") if e.id in ("train0", "test0") else e for e in catalog.entries]
    path = write_catalog(catalog.with_entries(entries), tmp_path / "data" / "catalog.csv")
    free = {"validation": {"fraction": 0.0}}
    chained = chain(path, data=free | {"same_scenes": ["test"]}, training=TRAINING | {"weights": "last"})
    declared = recipe_of(
        path, {"x": chained}, data=free | {"same_scenes": ["test"]}, training={"weights": "last"}
    )
    assert look(declared) == []
    undeclared = declared.data.model_copy(update={"same_scenes": ()})
    with pytest.raises(LeakageError, match=r"group: 1 of 'test' .*train0 and test0"):
        refuse_leaking_starts(declared.initializations, open_catalog(declared.data), undeclared)


def test_a_run_that_was_trained_on_a_test_scene_is_refused(path, leaking, tmp_path):
    """Trained for good, and then by its recipe alone."""
    before, _ = train_one(recipe_of(leaking), tmp_path / "before", "random", device="cpu")
    folder = before.folder.path
    words = r"initialization 'again': run .*seed0 was trained on scenes of a test set .*content: .*test0"
    starts = {"random": "random", "again": {"from": "run", "path": str(folder)}}
    refused(recipe_of(path, starts), tmp_path / "out", LeakageError, words)
    starts["again"] = {"from": "file", "path": str(folder / "best.safetensors")}
    refused(recipe_of(path, starts), tmp_path / "out", LeakageError, words)


def test_a_run_is_known_by_what_lies_behind_it(path, leaking, elsewhere, tmp_path):
    good = fake_run(tmp_path / "runs" / "good", recipe_of(path))
    assert look(recipe_of(path, {"x": good})) == []
    chained = fake_run(
        tmp_path / "runs" / "chained", recipe_of(elsewhere, {"random": "random", "y": chain(leaking)}), "y"
    )
    with pytest.raises(LeakageError, match=r"'x': stage 'seen' of run .*chained was trained"):
        look(recipe_of(path, {"x": chained}))
    bad = fake_run(tmp_path / "runs" / "bad", recipe_of(leaking))
    twice = fake_run(tmp_path / "runs" / "twice", recipe_of(elsewhere, {"random": "random", "y": bad}), "y")
    with pytest.raises(LeakageError, match=r"'x': run .*bad was trained"):
        look(recipe_of(path, {"x": twice}))
    # A start of the run's recipe that is not the run's own says nothing of it.
    other = fake_run(tmp_path / "runs" / "other", recipe_of(elsewhere, {"random": "random", "y": bad}))
    assert look(recipe_of(path, {"x": other})) == []


def test_a_link_of_a_chain_and_the_link_before_it(path, leaking, elsewhere, tmp_path):
    for number, (name, where) in enumerate((("seen", leaking), ("last", elsewhere)), start=1):
        folder = tmp_path / "stages" / f"{number}-{name}-f0"
        fake_run(folder, recipe_of(path))
        stage = StageRecipe.model_validate(chain(where, name=name)["stages"][0])
        (folder / "recipe.yaml").write_text(stage.model_dump_json(indent=1, by_alias=True))
        source = "random" if number == 1 else "run 1-seen-f0 (best, epoch 1)"
        write_json(folder / "initialization.json", {"source": source})
    for name in ("1-seen-f0", "2-last-f0"):
        with pytest.raises(LeakageError, match=r"run .*1-seen-f0 was trained"):
            look(recipe_of(path, {"x": {"from": "run", "path": str(tmp_path / "stages" / name)}}))
    shutil.rmtree(tmp_path / "stages" / "1-seen-f0")
    found = look(recipe_of(path, {"x": {"from": "run", "path": str(tmp_path / "stages" / "2-last-f0")}}))
    assert len(found) == 1
    assert "1-seen-f0 was trained on is not at hand" in found[0]


@pytest.mark.parametrize("lost", ["catalog", "scenes", "recipe", "identity"])
def test_a_run_of_which_nothing_is_known_is_warned_of(path, tmp_path, lost):
    other = write_small(tmp_path / "gone", {"train": 3, "test": 1}, seed=7)
    start = fake_run(tmp_path / "run", recipe_of(other), identity="other" if lost == "identity" else "abc")
    if lost == "catalog":
        Path(other).unlink()
    elif lost == "scenes":
        (tmp_path / "gone" / "train1.npz").unlink()
    elif lost == "recipe":
        (tmp_path / "run" / "recipe.yaml").write_text("just: words")
    (warning,) = look(recipe_of(path, {"x": start}))
    assert "Start 'x'" in warning
    assert "not known whether it has seen" in warning


def test_the_warning_is_the_plans(path, tmp_path):
    other = write_small(tmp_path / "gone", {"train": 3, "test": 1}, seed=7)
    before, _ = train_one(recipe_of(other), tmp_path / "before", "random", device="cpu")
    shutil.rmtree(tmp_path / "gone")
    plan = plan_comparison(
        recipe_of(path, {"x": {"from": "run", "path": str(before.folder.path)}}), tmp_path / "out"
    )
    assert [w for w in plan.warnings if "not at hand" in w]


def test_scenes_without_a_split_are_told_of_where_somebody_could_fill_it(path, tmp_path):
    """A dataset leaves scenes out on purpose (the demo has one to be mapped); a catalog of one's own may not."""
    text = Path(path).read_text()
    lines = [t.replace(",test,", ",,") if t.startswith("test0,") else t for t in text.splitlines()]
    Path(path).write_text("\n".join(lines) + "\n")
    plan = plan_comparison(recipe_of(path), tmp_path / "out")
    assert [w for w in plan.warnings if "have no split and are left out: test0." in w]
    shipped = Path(sartransfer.__file__).parent / "templates" / "demo.yaml"
    demo = Recipe.from_yaml(Path(shutil.copy(shipped, tmp_path)))  # its scenes are made beside it
    assert any(not e.split for e in open_catalog(demo.data).entries)
    assert not [w for w in plan_comparison(demo, tmp_path / "demo").warnings if "no split" in w]


# ---- labels and bands ----


def tiff(path, values, *, east=5e5, size=10.0, bands=()):
    values = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path, "w", driver="GTiff", width=values.shape[2], height=values.shape[1], count=len(values),
        dtype=values.dtype, crs="EPSG:32632", transform=Affine(size, 0, east, 0, -size, 5e6),
    ) as file:  # fmt: skip
        file.write(values)
        for number, name in enumerate(bands, start=1):
            file.set_band_description(number, name)
    return path


def tiffs(folder, *, seed=0, east=0.0):
    """Eight scenes of 32 x 32 pixels with labels, 5 km from each other: train, one validation, one test."""
    folder.mkdir(parents=True)
    rng, entries = np.random.default_rng(seed), []
    for i, split in enumerate(["train"] * 4 + ["validation"] * 2 + ["test"] * 2):
        at = 5e5 + 5000 * i + east
        values = rng.gamma(4, 0.02, (2, 32, 32)).astype(np.float32)
        scene = tiff(folder / f"s{i}.tif", values, east=at, bands=("sigma0_vv", "sigma0_vh"))
        label = tiff(folder / f"l{i}.tif", (values[0] < 0.06).astype(np.uint8), east=at)
        entries.append(Entry(f"s{i}", (Asset(scene),), label=label, split=split, group=f"g{i}"))
    return write_catalog(Catalog("tiffs", tuple(entries), CLASSES), folder / "catalog.csv")


@pytest.mark.parametrize("number", [5, 7])
@pytest.mark.parametrize("what", ["size", "place", "missing", "none", "two bands"])
def test_a_bad_label_of_validation_or_test_is_said_before_training(tmp_path, number, what):
    path = tiffs(tmp_path / "data")
    entry = next(e for e in open_catalog(recipe_of(path).data).entries if e.id == f"s{number}")
    values, at = np.zeros((32, 32), np.uint8), 5e5 + 5000 * number
    if what == "size":
        tiff(entry.label, values[:16], east=at)
    elif what == "place":
        tiff(entry.label, values, east=at + 10)
    elif what == "two bands":
        tiff(entry.label, np.stack([values, values]), east=at)
    elif what == "missing":
        entry.label.unlink()
    else:
        path.write_text(path.read_text().replace(f"l{number}.tif", ""))
        entry = replace(entry, label=None)
    with pytest.raises(InputError) as scoring:
        read_label(entry, Catalog("x", (entry,), CLASSES))
    with pytest.raises((InputError, CatalogError)) as found:
        compare(recipe_of(path), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    assert f"s{number}" in str(found.value) or f"l{number}.tif" in str(found.value)
    if what in ("size", "place", "none"):
        assert str(found.value) == str(scoring.value)


def test_good_labels_pass_and_only_asked_test_sets_are_looked_at(tmp_path):
    path = tiffs(tmp_path / "data")
    catalog = open_catalog(recipe_of(path).data)
    assert check_scenes(catalog, "segment", ["test"], ()) == 2
    (tmp_path / "data" / "l7.tif").unlink()
    assert check_scenes(catalog, "segment", [], ()) == 2
    with pytest.raises(InputError, match="l7"):
        check_scenes(catalog, "segment", ["test"], ())


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_images_of_labels_are_looked_at_as_they_are_read(tmp_path, mode):
    """Grey and palette images are labels, whatever else lies beside them."""
    scene, label = tmp_path / "s.png", tmp_path / "l.png"
    Image.new("L", (20, 10)).save(scene)
    entry = Entry("s", (Asset(scene),), label=label)
    catalog = Catalog("x", (entry,), CLASSES)
    for size in ((20, 10), (10, 20)):
        Image.new(mode, size).save(label)
        if size == (20, 10) and mode != "RGB":
            check_label(entry, open_entry(entry))
            read_label(entry, catalog)
            continue
        for looked in (lambda: check_label(entry, open_entry(entry)), lambda: read_label(entry, catalog)):
            with pytest.raises(InputError, match=r"pixels|one layer|one band"):
                looked()


def test_bands_that_are_not_there_or_of_unknown_unit_are_said_before_training(tmp_path):
    path = tiffs(tmp_path / "data")
    words = "sigma0_hh"
    refused(recipe_of(path, data={"bands": ["sigma0_hh"]}), tmp_path / "out", InputError, words)
    at = 5e5 + 5000 * 6
    tiff(tmp_path / "data" / "s6.tif", np.ones((2, 32, 32), np.float32), east=at, bands=("sigma0_vv", "x"))
    refused(recipe_of(path), tmp_path / "out", InputError, "sigma0_vh")
    for i in range(8):
        values = np.random.default_rng(i).normal(size=(1, 32, 32)).astype(np.float32)
        tiff(tmp_path / "data" / f"s{i}.tif", values, east=5e5 + 5000 * i)
    refused(recipe_of(path), tmp_path / "out", UnitError, "unit of band .* is unknown")


# ---- recipes ----


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"class_weights": [1.0, 2.0, 3.0]}, "class_weights has 3 numbers, there are 2 classes"),
        ({"loss": {"dice": 1.0}, "loss_options": {"dice": {"classes": [2]}}}, "classes=.* from 0 to 1"),
        ({"loss": {"nothing": 1.0}}, "loss='nothing'"),
    ],
)
def test_a_loss_that_does_not_fit_is_said_before_training(path, tmp_path, training, words):
    refused(recipe_of(path, training=training), tmp_path / "out", RecipeError, words)
    starts = {"random": "random", "own": {"from": "random", "training": training}}
    refused(recipe_of(path, starts), tmp_path / "out", RecipeError, words)


def test_lora_that_is_said_twice_is_refused_before_training(path, tmp_path):
    """The plan of a dry run says what every run would say."""
    model = {"name": "unet-resnet18", "options": {"lora": {"rank": 2}}}
    recipe = recipe_of(path, model=model, training={"lora": {"rank": 4}})
    with pytest.raises(RecipeError, match=r"lora stands in model\.options and in training"):
        check_networks(recipe, open_catalog(recipe.data), 2)
    refused(recipe, tmp_path / "out", RecipeError, "say it once, in training.lora")


def test_top2_is_a_score_of_patches_alone(path):
    with pytest.raises(RecipeError, match=r"top2.* is for task: classify"):
        recipe_of(path, primary={"metric": "top2"})
    assert (
        parse_recipe(
            recipe_of(path).to_json() | {"task": "classify", "primary": {"metric": "top2"}}
        ).primary.metric
        == "top2"
    )


@pytest.mark.parametrize("seeds", [[-1, 1], [2**70, 1], [2**32]])
def test_seeds_that_no_generator_takes_are_refused(path, seeds):
    with pytest.raises(RecipeError, match="seeds"):
        recipe_of(path, seeds=seeds)


def test_the_largest_seed_is_taken(path):
    assert recipe_of(path, seeds=[2**32 - 1]).seeds == (2**32 - 1,)
    np.random.default_rng(2**32 - 1)


@pytest.mark.parametrize(
    "options",
    [{"aspp_channels": 0}, {"aspp_channels": "x"}, {"aspp_channels": 8.5}, {"aspp_channels": True}, {"rates": [0]},
     {"rates": 3}, {"rates": ["x"]}, {"dropout": 1.5}, {"dropout": "x"}],
)  # fmt: skip
def test_options_of_the_head_are_checked(options, path, tmp_path):
    (name,) = options
    with pytest.raises(RecipeError, match=f"{name}=.* is not allowed"):
        build_model("resnet18-aspp", 2, 2, **options)
    recipe = recipe_of(path, model={"name": "resnet18-aspp", "options": ASPP | options})
    refused(recipe, tmp_path / "out", RecipeError, f"{name}=.* is not allowed")


@pytest.mark.parametrize(
    ("model", "task", "fits"),
    [("resnet18", "segment", "resnet18-aspp"), ("timm:resnet18", "segment", "smp:ARCHITECTURE:ENCODER"),
     ("resnet18-aspp", "classify", "timm:NAME"), ("unet-resnet18", "classify", "resnet18")],
)  # fmt: skip
def test_a_network_of_another_task_is_named_with_those_that_fit(path, model, task, fits):
    values = recipe_of(path).to_json() | {
        "task": task,
        "model": {"name": model},
        "primary": {"metric": "accuracy"},
    }
    recipe = parse_recipe(values)
    with pytest.raises(RecipeError, match=f"model '{model}' .*recipe's task is '{task}'.*{fits}"):
        check_networks(recipe, open_catalog(recipe.data, check=False), 2)


def test_a_network_of_another_task_is_refused_by_a_comparison(path, tmp_path):
    wrong = {"name": "resnet18"}
    refused(recipe_of(path, model=wrong), tmp_path / "out", RecipeError, r"Networks that segment: .*unet")
    starts = {"random": "random", "other": {"from": "random", "model": wrong}}
    refused(recipe_of(path, starts), tmp_path / "out", RecipeError, "model 'resnet18' gives one class")


def test_networks_are_listed_by_what_they_are():
    for name in ("resnet18-aspp", "resnet18", "unet", "vit"):
        assert name in networks_for(build_model(name, 2, 2).task)
    assert set(MODELS) <= {*networks_for("segment"), *networks_for("classify")}
    assert not set(networks_for("segment")) & set(networks_for("classify"))


@pytest.mark.parametrize("pooling", ["global", "average"])
def test_a_batch_of_one_small_image_is_refused_before_batch_norm_does(path, tmp_path, pooling):
    """Both poolings leave one value a channel of 32 x 32 pixels: 2 x 2 features, whose mean is one."""
    model = {"name": "resnet18-aspp", "options": ASPP | {"pooling": pooling}}
    words = "batch norm sees one value .* training.batch_size 2 or more"
    refused(recipe_of(path, model=model, training={"batch_size": 1}), tmp_path / "out", RecipeError, words)
    network = build_model("resnet18-aspp", 2, 2, **model["options"]).train()
    with pytest.raises(RecipeError, match=words):
        network(torch.zeros(1, 2, 32, 32))
    assert network(torch.zeros(2, 2, 32, 32)).shape == (2, 2, 32, 32)
    assert network.eval()(torch.zeros(1, 2, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("training", "size", "fits"),
    [({"batch_size": 1}, 32, False), ({"batch_size": 1, "freeze_batch_norm": True}, 32, True),
     ({"batch_size": 2}, 32, True), ({"batch_size": 1}, 64, True)],
)  # fmt: skip
def test_batches_of_one_are_refused_only_where_they_end_training(tmp_path, training, size, fits):
    """What is said is what the network does in training, with memory."""
    path = write_small(tmp_path / "data", SPLITS, size=size)
    recipe = recipe_of(path, training=training)
    catalog = open_catalog(recipe.data)
    network = build_model("resnet18-aspp", 2, 2, **ASPP).train()
    if training.get("freeze_batch_norm"):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    image = torch.zeros(training["batch_size"], 2, size, size)
    if fits:
        check_networks(recipe, catalog, 2)
        network(image)
        return
    for fails in (lambda: check_networks(recipe, catalog, 2), lambda: network(image)):
        with pytest.raises(RecipeError, match="batch norm sees one value"):
            fails()


# ---- the command line ----


@pytest.mark.parametrize("command", [["compare"], ["compare", "--folds", "2"], ["train"]])
def test_warnings_are_printed_before_the_first_run_and_once(command, tmp_path, monkeypatch):
    """Intensities that are called decibels."""
    folder = tmp_path / "data"
    path = tiffs(folder)
    for i in range(8):
        values = np.random.default_rng(i).gamma(4, 0.02, (1, 32, 32)).astype(np.float32)
        tiff(folder / f"s{i}.tif", values, east=5e5 + 5000 * i, bands=("sigma0_vv_db",))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(recipe_of(path).to_yaml())
    runner = CliRunner()
    if command == ["compare"]:
        dry = runner.invoke(
            app, ["compare", str(recipe), "--dry-run", "--out", str(tmp_path / "out"), "--device", "cpu"]
        )
        assert dry.exit_code == 0, dry.output
        warnings = [line for line in dry.stderr.splitlines() if line.startswith("warning: scene")]
        assert len(warnings) == 8
        assert len(set(warnings)) == 8

    heard = []
    told = "sartransfer.comparison.train_job"
    from sartransfer import comparison, terminal

    kept, printed = comparison.train_job, terminal.err.print

    def train(*args, **more):
        heard.append("run")
        return kept(*args, **more)

    def show(*args, **more):
        heard.append(str(args[0]))
        printed(*args, **more)

    monkeypatch.setattr(told, train)
    monkeypatch.setattr(terminal.err, "print", show)
    whole = runner.invoke(app, [*command, str(recipe), "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert whole.exit_code == 0, whole.output
    of_scenes = [i for i, text in enumerate(heard) if text.startswith("[yellow]warning:[/] scene")]
    assert (
        len(of_scenes) == len({heard[i] for i in of_scenes}) > 5
    )  # folds leave the recipe's own tests alone
    assert max(of_scenes) < heard.index("run")

"""Chains of transfer and their runs: trained once, shared, reported; and the catalogs they are trained on."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_data import UNET, make_catalog, numbers, same_tensors, tensors, write_scene, write_small

from sartransfer import stages
from sartransfer.catalog import Asset, Entry, read_catalog, write_catalog
from sartransfer.data.resolve import open_catalog, open_training_data
from sartransfer.errors import CatalogError, InputError, LeakageError, RecipeError, WeightsError
from sartransfer.models import InitializationReport, build_model
from sartransfer.recipe import (
    DataRecipe,
    FileStart,
    ModelRecipe,
    PrimaryRecipe,
    RandomStart,
    RunStart,
    StagesStart,
    TrainingRecipe,
)
from sartransfer.runs import RunFolder, fingerprint, read_json
from sartransfer.stages import Job, content_of, initialize, stage_job, train_job, train_stages

torch.set_num_threads(1)

MODEL = ModelRecipe(name="unet-resnet18", options=UNET)
TRAINING = {"epochs": 1, "batch_size": 2, "precision": "fp32"}
PRIMARY = PrimaryRecipe.model_validate({"metric": "accuracy"})
RANDOM = RandomStart.model_validate({"from": "random"})
SPLITS = {"train": 3, "test": 1}


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """Optical-like scenes of three bands, radar of one, and the target of two."""
    base = tmp_path_factory.mktemp("data")
    return {
        "three": write_small(base / "three", SPLITS, bands=("red", "green", "blue"), seed=1),
        "one": write_small(base / "one", SPLITS, bands=("vv",), seed=2),
        "two": write_small(base / "two", SPLITS, seed=3),
    }


@pytest.fixture(scope="module")
def misleading(tmp_path_factory):
    """Three bands, and a validation whose labels are turned round: the first epoch is the best."""
    splits = {"train": 2, "validation": 2, "test": 1}
    bands = ("red", "green", "blue")
    return write_small(tmp_path_factory.mktemp("wrong"), splits, wrong=["validation"], bands=bands)


@pytest.fixture
def trained(monkeypatch):
    """The names of what was trained, in order."""
    done = []
    kept = stages.fit

    def fit(folder, *rest, **more):
        done.append(folder.name)
        return kept(folder, *rest, **more)

    monkeypatch.setattr(stages, "fit", fit)
    return done


def test_a_link_that_another_process_is_training_is_waited_for_and_taken(catalogs, tmp_path, trained):
    start = chain_of(stage("optical", catalogs["three"]))
    (folder, _) = train_stages(start, tmp_path / "first", device="cpu")
    name, found = folder.path.name, []
    other = RunFolder(tmp_path / "second" / name)
    waiter = threading.Thread(
        target=lambda: found.append(train_stages(start, tmp_path / "second", device="cpu")[0])
    )
    with other.alone():  # as another process would
        waiter.start()
        shutil.copytree(folder.path, other.path)
    waiter.join(60)
    assert found[0].path == other.path
    assert trained == [name]  # once, and not by the one that waited


def data_of(path, **more):
    return DataRecipe.model_validate({"catalog": path, "validation": {"fraction": 0.3}} | more)


def stage(name, path, *, training=None, **more):
    return {
        "name": name,
        "task": "segment",
        "data": {"catalog": path, "validation": {"fraction": 0.3}},
        "training": TRAINING | (training or {}),
    } | more


def chain_of(*links, **more):
    values = {"from": "stages", "stages": list(links), "model": MODEL.model_dump()} | more
    return StagesStart.model_validate(values)


def chain(catalogs, **more):
    return chain_of(stage("optical", catalogs["three"]), stage("radar", catalogs["one"]), **more)


def run_job(folder, start, path, *, seed=0, model=MODEL, training=None):
    """One run from a start, its stages beside it."""
    data = data_of(path)
    job = Job("x", "segment", data, model, start, TrainingRecipe.model_validate(TRAINING | (training or {})),
              PRIMARY, seed)  # fmt: skip
    catalog = open_catalog(data)
    identity = job.identity(fingerprint(catalog), content_of(start))
    run = RunFolder(folder)
    report = train_job(
        job, run, open_training_data(catalog, data), identity=identity, stages_folder=folder.parent / "stages",
        device="cpu", recipe_yaml="",
    )  # fmt: skip
    return run, report


# ---- chains ----


def test_a_chain_is_trained_once_and_shared(tmp_path, catalogs, trained):
    start = chain(catalogs)
    runs = {}
    for seed in (0, 1):
        runs[seed], report = run_job(tmp_path / f"seed{seed}", start, catalogs["two"], seed=seed)
        assert [link.source.partition(" (")[0] for link in report.links] == ["random", f"run {trained[0]}"]
        assert report.source == "stages: optical -> radar"
        assert InitializationReport.from_json(read_json(runs[seed].path / "initialization.json")) == report
    assert [t.rpartition("-")[0] or t for t in trained] == ["1-optical", "2-radar", "seed0", "seed1"]
    one, two = (tensors(r.path, "last") for r in runs.values())
    assert not same_tensors(one, two)

    # Found or trained: the run's own chance is the same.
    again, _ = run_job(tmp_path / "elsewhere" / "seed1", start, catalogs["two"], seed=1)
    assert len(trained) == 7
    assert same_tensors(tensors(again.path, "last"), two)
    assert again.record["identity"] == runs[1].record["identity"]
    checkpoint = json.loads((runs[0].path / "best.json").read_text())
    assert len(checkpoint["initialization"]["links"]) == 2


def test_pixels_are_looked_at_for_leaks_once_a_link_not_once_a_run(tmp_path, catalogs, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "sartransfer.stages.open_catalog",
        lambda data, *, check=True: asked.append(check) or open_catalog(data, check=check),
    )
    start = chain(catalogs)
    for _ in range(3):
        train_stages(start, tmp_path, device="cpu")
    assert sum(asked) == len(start.stages)


def test_each_link_hands_its_weights_down_and_meets_the_bands(tmp_path, catalogs):
    start = chain(catalogs, first_layer="mean")
    last, reports = train_stages(start, tmp_path, device="cpu")
    first = next(tmp_path.glob("1-optical-*"))
    assert [r.first_layer.partition(":")[0] for r in reports] == ["random, 3 channels", "3 channels -> 1"]
    torch.manual_seed(5)
    model = build_model(MODEL.name, 2, 2, **UNET)
    report = initialize(model, start, tmp_path, device="cpu")
    assert report.first_layer.startswith("1 channels -> 2")
    given, own = tensors(last.path, "best"), model.state_dict()
    assert report.adapted == ("encoder.conv1.weight",)
    assert set(report.random) == set(model.classifier_names)
    for name in report.loaded:
        assert torch.equal(given[name], own[name]), name
    # Two equal bands give what the one band gave: that is what the adaptation promises.
    expected = given["encoder.conv1.weight"]
    torch.testing.assert_close(own["encoder.conv1.weight"].sum(1, keepdim=True), expected)
    assert not same_tensors(tensors(first, "best"), given)


def test_the_weights_that_a_stage_asks_for_are_handed_down(tmp_path, misleading):
    name = "encoder.layer3.1.conv2.weight"
    for which in ("best", "last"):
        training = {"weights": which, "epochs": 3, "optimizer": {"lr": 0.002}}
        start = chain_of(stage("a", misleading, training=training))
        folder, _ = train_stages(start, tmp_path, device="cpu")
        model = build_model(MODEL.name, 3, 2, **UNET)
        initialize(model, start, tmp_path, device="cpu")
        kept = {w: tensors(folder.path, w)[name] for w in ("best", "last")}
        assert not torch.equal(kept["best"], kept["last"])
        assert torch.equal(model.state_dict()[name], kept[which])


def identities(start, folder, trained):
    """Train a chain (in so far as it is not yet) and return the folders that it used."""
    before = len(trained)
    last, _ = train_stages(start, folder, device="cpu")
    return last.path.name, trained[before:]


def test_a_link_is_trained_again_when_what_it_depends_on_changes(tmp_path, catalogs, trained, monkeypatch):
    monkeypatch.setattr(stages, "train_job", lambda job, folder, *a, **k: faked(job, folder, trained, **k))

    def used(*links, **more):
        return identities(chain_of(*links, **more), tmp_path, trained)

    optical, radar = stage("optical", catalogs["three"]), stage("radar", catalogs["one"])
    base, new = used(optical, radar)
    assert len(new) == 2
    assert used(optical, radar) == (base, [])
    # the last link alone
    for changed in (
        stage("radar", catalogs["two"]),
        stage("radar", catalogs["one"], training={"epochs": 2}),
        stage("radar", catalogs["one"], seed=1),
        stage("radar", catalogs["one"], model={"name": "unet-resnet18"}),
        stage("radar", catalogs["one"], start={"from": "random", "freeze": ["encoder.layer1"]}),
        stage("radar", catalogs["one"], start={"from": "random", "first_layer": "conv1x1"}),
    ):
        name, new = used(optical, changed)
        assert len(new) == 1
        assert name != base
    # the first link, and so the second too
    for changed in (
        stage("optical", catalogs["three"], training={"epochs": 2}),
        stage("optical", catalogs["three"], training={"weights": "last"}),
        stage("optical", catalogs["three"], seed=7),
    ):
        name, new = used(changed, radar)
        assert len(new) == 2
        assert name != base
    # how the chain meets the bands is the second link's business, not the first's
    for more in (
        {"first_layer": "mean"},
        {"first_layer": "select", "select": [1]},
        {"first_layer": "select", "select": [2]},
    ):
        name, new = used(optical, radar, **more)
        assert len(new) == 1
        assert name != base
    # a smaller chain shares its beginning
    assert used(optical)[1] == []


def faked(job, folder, trained, *, identity, **_):
    trained.append(folder.path.name)
    folder.start(identity, "", {})
    folder.finish({})
    report = InitializationReport("x", (), (), ())
    (folder.path / "initialization.json").write_text(json.dumps(report.to_json()))
    return report


def test_the_content_of_a_stage_counts_and_its_place_does_not(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(stages, "train_job", lambda job, folder, *a, **k: faked(job, folder, trained, **k))
    here = write_small(tmp_path / "here", SPLITS, seed=4)
    start = chain_of(stage("a", here))
    name, _ = identities(start, tmp_path / "s", trained)
    content = content_of(start)
    there = tmp_path / "moved" / "far"
    there.parent.mkdir()
    (tmp_path / "here").rename(there)
    moved = chain_of(stage("a", str(there / "catalog.csv")))
    assert identities(moved, tmp_path / "s", trained) == (name, [])
    assert content_of(moved) == content
    write_scene(there / "train0.npz", np.random.default_rng(99)) if not (
        there / "train0.npz"
    ).unlink() else None
    assert content_of(moved) != content
    assert len(identities(moved, tmp_path / "s", trained)[1]) == 1


def test_the_file_that_a_chain_begins_with_counts(tmp_path, catalogs, trained, monkeypatch):
    monkeypatch.setattr(stages, "train_job", lambda job, folder, *a, **k: faked(job, folder, trained, **k))
    file = tmp_path / "w.safetensors"
    start = chain_of(stage("a", catalogs["one"], start={"from": "file", "path": str(file)}))
    found = set()
    for value in (0.0, 1.0):
        save_file({"x": torch.full((2,), value)}, file)
        found.add((identities(start, tmp_path / "s", trained)[0], content_of(start)))
    assert len({name for name, _ in found}) == len({content for _, content in found}) == 2


def test_what_a_later_stage_says_of_its_start_is_kept_or_refused(tmp_path, catalogs):
    before = RunFolder(tmp_path)
    freeze = {"from": "random", "freeze": ["encoder.layer1"], "allow_missing": ["encoder.layer3"]}
    start = chain_of(
        stage("a", catalogs["one"]),
        stage("b", catalogs["two"], start=freeze),
        first_layer="select",
        select=[0, 0],
    )
    job = stage_job(start.stages[1], start, before, 1)
    assert isinstance(job.start, RunStart)
    assert (job.start.freeze, job.start.allow_missing) == (("encoder.layer1",), ("encoder.layer3",))
    assert (job.start.first_layer, job.start.select, job.start.which) == ("select", (0, 0), "best")
    other = chain_of(
        stage("a", catalogs["one"]),
        stage("b", catalogs["two"], start={"from": "file", "path": "w.safetensors"}),
    )
    with pytest.raises(RecipeError, match="'b' starts from the stage before it, not from 'file'"):
        stage_job(other.stages[1], other, before, 1)
    nameless = chain_of(stage("a", catalogs["one"]), model=None)
    with pytest.raises(RecipeError, match="'a' names no model"):
        stage_job(nameless.stages[0], nameless, None, 0)


def test_a_chain_from_chips_to_scenes(tmp_path, catalogs):
    """Classification first, segmentation after: the body is kept, the head is new, layer4 has no place."""
    rng = np.random.default_rng(0)
    entries = []
    for i in range(6):
        path = write_scene(tmp_path / f"chip{i}.npz", rng, bands=("vv",), size=32)
        entries.append(Entry(f"c{i}", (Asset(path),), category=("land", "water")[i % 2], split="train"))
    base = make_catalog(tmp_path / "unused", {"train": 1}, size=8)
    path = write_catalog(base.with_entries(entries), tmp_path / "chips.csv")
    link = stage("chips", str(path), task="classify", model={"name": "resnet18"})
    run, report = run_job(tmp_path / "run", chain_of(link), catalogs["two"])
    assert run.record["status"] == "finished"
    assert any(name.startswith("encoder.layer4") for name in report.ignored)
    assert not [n for n in report.random if n.startswith("encoder.")]
    assert all(n.startswith(("decoder.", "segmentation_head.")) for n in report.random)
    wrong = chain_of(stage("chips", str(path), task="classify"))
    with pytest.raises(
        RecipeError, match=r"'unet-resnet18' is made to segment, the recipe's task is 'classify'"
    ):
        run_job(tmp_path / "run2", wrong, catalogs["two"])


# ---- other starts ----


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, misleading):
    """A run to start from, whose best and last differ."""
    folder = tmp_path_factory.mktemp("earlier") / "seed0"
    run, _ = run_job(folder, RANDOM, misleading, training={"epochs": 3, "optimizer": {"lr": 0.002}})
    assert run.record["best_epoch"] < 3
    return run


@pytest.mark.parametrize("which", ["best", "last"])
def test_from_a_run(tmp_path, earlier, which):
    start = RunStart.model_validate({"from": "run", "path": str(earlier.path), "which": which})
    model = build_model(MODEL.name, 3, 2, **UNET)
    report = initialize(model, start, tmp_path, device="cpu")
    given, own = tensors(earlier.path, which), model.state_dict()
    epoch = json.loads((earlier.path / f"{which}.json").read_text())["epoch"]
    assert report.source == f"run seed0 ({which}, epoch {epoch})"
    for name in own:
        assert torch.equal(given[name], own[name]) == (name not in model.classifier_names), name
    assert report.parameters["loaded"] + report.parameters["random"] == report.parameters["total"]
    assert content_of(start)


def test_the_content_of_the_run_counts(earlier):
    found = {
        content_of(RunStart.model_validate({"from": "run", "path": str(earlier.path), "which": w}))
        for w in ("best", "last")
    }
    assert len(found) == 2


def test_from_a_file_in_full_and_in_part(tmp_path, earlier):
    file = tmp_path / "w.safetensors"
    given = tensors(earlier.path, "best")
    save_file(given, file)
    full = FileStart.model_validate({"from": "file", "path": str(file)})
    model = build_model(MODEL.name, 3, 2, **UNET)
    assert initialize(model, full, tmp_path, device="cpu").source == "w.safetensors"
    assert content_of(full)

    save_file({n: t for n, t in given.items() if not n.startswith("encoder.layer3")}, file)
    with pytest.raises(WeightsError, match=r"lacks .* allow_missing: .*encoder\.layer3\.\*"):
        initialize(build_model(MODEL.name, 3, 2, **UNET), full, tmp_path, device="cpu")
    part = FileStart.model_validate(
        {
            "from": "file",
            "path": str(file),
            "allow_missing": ["encoder.layer3.*"],
            "freeze": ["encoder.layer1"],
        }
    )
    report = initialize(model, part, tmp_path, device="cpu")
    assert report.partial
    assert {n for n in report.random if n.startswith("encoder.")} == {
        n for n in model.state_dict() if n.startswith("encoder.layer3.")
    }
    assert set(report.frozen) == {n for n, p in model.named_parameters() if not p.requires_grad}
    assert report.frozen


def test_weights_that_are_not_there_are_named(tmp_path):
    for path in ("none.safetensors", "none.pth"):
        with pytest.raises(WeightsError, match="no weights at"):
            content_of(FileStart.model_validate({"from": "file", "path": str(tmp_path / path)}))
    with pytest.raises(WeightsError, match="missing"):
        content_of(RunStart.model_validate({"from": "run", "path": str(tmp_path)}))
    assert content_of(RANDOM) == ""


def test_a_frozen_start_stays_through_a_whole_run(tmp_path, earlier, catalogs):
    start = RunStart.model_validate({"from": "run", "path": str(earlier.path), "freeze": ["encoder"]})
    run, _ = run_job(tmp_path / "r", start, catalogs["three"], training={"epochs": 2})
    given, end = tensors(earlier.path, "best"), tensors(run.path, "last")
    for name in end:
        if name.startswith("encoder."):
            assert torch.equal(end[name], given[name]), name
    assert not torch.equal(end["decoder.blocks.0.conv1.0.weight"], given["decoder.blocks.0.conv1.0.weight"])


def test_the_same_job_gives_the_same_numbers_whatever_was_drawn_before(tmp_path, catalogs):
    found = []
    for name in "ab":
        torch.rand(len(found) + 1)
        run, _ = run_job(tmp_path / name, RANDOM, catalogs["two"])
        rows = [line.split(",")[:-1] for line in (run.path / "curves.csv").read_text().splitlines()]
        found.append((rows, tensors(run.path, "last")))
    assert found[0][0] == found[1][0]
    assert same_tensors(found[0][1], found[1][1])
    assert numbers([{"epoch": 1, "seconds": 2}]) == [{"epoch": 1}]


def test_a_checkpoint_knows_the_pixels_that_its_catalog_states_and_its_run_stays_the_same(tmp_path, catalogs):
    bare = read_catalog(catalogs["one"])
    path = write_catalog(replace(bare, pixel_m=10.0), Path(catalogs["one"]).with_name("stated.csv"))
    runs = [run_job(tmp_path / n, RANDOM, p)[0] for n, p in (("a", catalogs["one"]), ("b", str(path)))]
    assert [read_json(r.path / "best.json")["pixel_m"] for r in runs] == [None, [10.0, 10.0]]
    assert (
        runs[0].record["identity"] == runs[1].record["identity"]
    )  # so finished runs are still found finished


# ---- identity ----


def test_the_identity_of_a_job_is_all_that_its_result_depends_on():
    data = data_of("a/catalog.csv")
    job = Job("x", "segment", data, MODEL, RANDOM, TrainingRecipe.model_validate(TRAINING), PRIMARY, 0)
    base = job.identity("content")
    others = [
        replace(job, seed=1),
        replace(job, fraction=0.5),
        replace(job, model=ModelRecipe(name="unet-resnet18")),
        replace(job, data=data_of("a/catalog.csv", normalization="none")),
        replace(job, training=TrainingRecipe.model_validate(TRAINING | {"epochs": 9})),
        replace(job, start=RandomStart.model_validate({"from": "random", "freeze": ["encoder"]})),
        replace(job, primary=PrimaryRecipe.model_validate({"metric": "iou_macro"})),
    ]
    found = [o.identity("content") for o in others] + [
        job.identity("other"),
        job.identity("content", "stages"),
    ]
    assert len({base, *found}) == len(found) + 1
    same = [
        replace(job, name="y"),
        replace(job, data=data_of("b/other.csv")),
        replace(job, training=TrainingRecipe.model_validate(TRAINING | {"workers": 3})),
        replace(
            job, training=TrainingRecipe.model_validate(TRAINING | {"gradient_clip": None, "accumulate": 1})
        ),
    ]
    assert {s.identity("content") for s in same} == {base}


# ---- catalogs ----


def opened(path, **more):
    return open_catalog(data_of(path, **more))


def test_validation_is_drawn_from_training_alone_by_its_seed(tmp_path):
    path = write_small(tmp_path, {"train": 10, "test": 2}, size=8)
    catalog = opened(path)
    assert {s: len(catalog.in_split(s)) for s in catalog.splits} == {"train": 7, "validation": 3, "test": 2}
    assert opened(path) == catalog
    other = opened(path, validation={"fraction": 0.3, "seed": 1})
    assert {e.id for e in other.in_split("validation")} != {e.id for e in catalog.in_split("validation")}
    assert opened(path, validation={"fraction": 0}).in_split("validation") == ()


def test_a_validation_that_is_there_is_taken(tmp_path):
    path = write_small(tmp_path, {"train": 4, "validation": 1, "test": 1}, size=8)
    assert [e.id for e in opened(path).in_split("validation")] == ["validation0"]


def test_a_catalog_without_splits_says_what_to_do(tmp_path):
    path = write_small(tmp_path, {"": 6}, size=8)
    with pytest.raises(
        CatalogError, match=r"has no splits. Fill the `split` column .* data.test: \{fraction: 0.2\}"
    ):
        opened(path)
    drawn = opened(path, test={"fraction": 0.34})
    assert {s: len(drawn.in_split(s)) for s in drawn.splits} == {"train": 3, "validation": 1, "test": 2}


def test_nothing_to_learn_from_is_said(tmp_path):
    path = write_small(tmp_path, {"test": 2}, size=8)
    with pytest.raises(CatalogError, match="no scene in the split 'train'"):
        opened(path)
    assert len(open_catalog(data_of(path), need_training=False).in_split("test")) == 2


def test_the_same_content_on_both_sides_is_refused(tmp_path):
    catalog = make_catalog(tmp_path, {"train": 3, "test": 1}, size=8)
    copy = tmp_path / "copy.npz"
    copy.write_bytes(catalog.entries[0].label.read_bytes())
    leak = replace(catalog.entries[-1], assets=(Asset(copy),), label=copy)
    path = str(write_catalog(catalog.with_entries([*catalog.entries[:3], leak]), tmp_path / "c.csv"))
    for more in ({}, {"same_scenes": ["test"]}):  # the same image twice never passes
        with pytest.raises(LeakageError, match=r"content: 1 of 'test' .* train0 and test0"):
            opened(path, validation={"fraction": 0}, **more)
    assert len(open_catalog(data_of(path), check=False).entries) == 4


def test_a_group_on_both_sides_passes_only_where_it_is_declared(tmp_path):
    catalog = make_catalog(tmp_path, {"train": 3, "test": 1, "far": 1}, size=8)
    entries = [replace(e, group="train0") if e.id in ("test0",) else e for e in catalog.entries]
    path = str(write_catalog(catalog.with_entries(entries), tmp_path / "c.csv"))
    for more in ({}, {"same_scenes": ["far"]}):
        with pytest.raises(LeakageError, match="group: 1 of 'test'"):
            opened(path, validation={"fraction": 0}, **more)
    assert len(opened(path, validation={"fraction": 0}, same_scenes=["test"]).entries) == 5


def test_classes_may_be_named_by_the_recipe(tmp_path):
    path = write_small(tmp_path, SPLITS, size=8)
    with pytest.raises(RecipeError, match=r"\['dry', 'wet'\] differ from the catalog's \['land', 'water'\]"):
        opened(path, classes=["dry", "wet"])
    turned = opened(path, classes=["wet", "dry"], label_values={0: "dry", 1: "wet", 255: "ignore"})
    assert turned.classes == ("wet", "dry")
    assert turned.label_values == {0: 1, 1: 0, 255: 255}
    plain = open_training_data(opened(path), data_of(path)).train
    found = open_training_data(turned, data_of(path)).train
    np.testing.assert_array_equal(found.read(0)[2].mask, 1 - plain.read(0)[2].mask)
    with pytest.raises(RecipeError, match=r"data.label_values\[1\].*Did you mean 'water'"):
        opened(path, label_values={0: "land", 1: "watr"})


def test_a_catalog_without_classes_needs_them(tmp_path):
    catalog = replace(make_catalog(tmp_path, SPLITS, size=8), classes=())
    path = str(write_catalog(catalog, tmp_path / "c.csv"))
    with pytest.raises(RecipeError, match=r"give data\.classes in the order of their labels"):
        opened(path)
    assert opened(path, classes=["dry", "wet"]).classes == ("dry", "wet")


def test_a_dataset_is_named_with_its_folder(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'ombria'"):
        open_catalog(DataRecipe.model_validate({"dataset": "ombra", "root": str(tmp_path)}))
    with pytest.raises(RecipeError, match=r"needs data\.root"):
        open_catalog(DataRecipe.model_validate({"dataset": "ombria"}))
    with pytest.raises(InputError, match="is not there"):
        opened(str(tmp_path / "none.csv"))


def test_a_fraction_trains_and_normalizes_on_fewer_scenes_and_leaves_the_rest(tmp_path):
    path = write_small(tmp_path, {"train": 8, "validation": 2, "test": 2}, size=8)
    data = data_of(path)
    catalog = opened(path)
    found = {f: open_training_data(catalog, data, fraction=f) for f in (0.25, 0.5, 1.0)}
    ids = {f: [e.id for e in d.train.entries] for f, d in found.items()}
    assert {f: len(i) for f, i in ids.items()} == {0.25: 2, 0.5: 4, 1.0: 8}
    assert set(ids[0.25]) < set(ids[0.5]) < set(ids[1.0])
    for fraction, opened_data in found.items():
        assert len(opened_data.validation) == 2
        assert len(opened_data.catalog.in_split("test")) == 2
        pixels = []
        for name in ids[fraction]:
            with np.load(Path(path).parent / f"{name}.npz") as file:
                pixels.append(file["data"].reshape(2, -1).astype(np.float64))
        values = np.concatenate(pixels, axis=1)
        means = [b.mean for b in opened_data.contract.bands]
        np.testing.assert_allclose(means, values.mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose([b.std for b in opened_data.contract.bands], values.std(axis=1), rtol=1e-6)
    bare = open_training_data(catalog, data_of(path, normalization="none"))
    assert [(b.mean, b.std) for b in bare.contract.bands] == [(0, 1), (0, 1)]

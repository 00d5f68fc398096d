"""Comparisons by folds: each event held out of the training that is scored on it, and all judged as one comparison."""

import csv
import html
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from test_70_results import check_again
from typer.testing import CliRunner

from sartransfer import comparison, stages
from sartransfer.catalog import Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.cli import app
from sartransfer.comparison import compare, train_one
from sartransfer.errors import CatalogError, InputError, LeakageError, OutputError
from sartransfer.folds import EACH, compare_folds, cut_folds, first_fold, plan_folds
from sartransfer.geotiff import write_geotiff
from sartransfer.joined import HELD_OUT, gather_folds
from sartransfer.radar.units import parse_unit
from sartransfer.readers.array import write_array
from sartransfer.recipe import Recipe, parse_recipe
from sartransfer.report import write_report
from sartransfer.results import TestSet
from sartransfer.scene import Band, GeoReference
from sartransfer.statistics import crossed_interval, t_interval
from sartransfer.wording import UNSEEN_EVENTS, verdict_parts

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 32
BANDS = (Band("vv", parse_unit("sigma0_db"), "VV"),)
EVENTS = {"train": ("e0", "e0", "e1", "e2", "e3"), "validation": ("e4",), "published": ("p0", "p0")}
TAKING_PART = {"e0", "e1", "e2", "e3", "e4"}
STARTS = {"random": "random", "held": {"from": "random", "freeze": ["encoder.layer1"]}}
FOLDS, SEEDS = 2, (0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Dark water and bright land, speckled; every scene another pattern."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    entries = []
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    for split, events in EVENTS.items():
        for i, event in enumerate(events):
            water = np.sin(7 * x + rng.uniform(0, 6)) + np.cos(6 * y + rng.uniform(0, 6)) > 0
            values = np.where(water, -18.0, -9.0) + rng.normal(0, 2, (1, SIZE, SIZE))
            path = write_array(folder / f"{split}_{i}.npz", values.astype(np.float32), BANDS,
                               label=water.astype(np.uint8))  # fmt: skip
            entries.append(Entry(f"{split}_{i}", (Asset(path),), label=path, split=split, group=event))
    whole = Catalog("tiny", tuple(entries), ("dry", "flooded"), source="simulated for a test")
    write_catalog(whole, folder / "tiny.csv")
    return folder


def make_recipe(folder, catalog="tiny.csv", **more):
    values = {
        "name": "tiny", "task": "segment",
        "data": {"catalog": str(folder / catalog), "validation": {"fraction": 0.4}},
        "model": {"name": "resnet18-aspp", "options": {"aspp_channels": 8}},
        "initializations": STARTS, "seeds": list(SEEDS), "primary": {"metric": "iou", "class": "flooded"},
        "training": {"epochs": 1, "batch_size": 2, "optimizer": {"lr": 0.003}, "precision": "fp32"},
    }  # fmt: skip
    data = values["data"] | more.pop("data", {})
    return parse_recipe(values | more | {"data": data})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished comparison by folds; copied before anything is done to it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("finished") / "out"
    compare_folds(cut_folds(make_recipe(data), FOLDS), out)
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out", symlinks=True)


@pytest.fixture
def trained(monkeypatch):
    """What every run that is trained is: (start, seed), and its training, validation and held-out groups."""
    calls = []

    def spy(job, folder, scenes, **words):
        splits = ("train", "validation", HELD_OUT)
        calls.append((job.name, job.seed, *({e.group for e in scenes.catalog.in_split(s)} for s in splits)))
        return stages.train_job(job, folder, scenes, **words)

    monkeypatch.setattr(comparison, "train_job", spy)
    return calls


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def kept_confusions(out, start, seed):
    """(group, scene) -> confusion matrix, read from the folds' own files."""
    found = {}
    for k in range(1, FOLDS + 1):
        path = out / "folds" / str(k) / "runs" / start / "1" / f"seed{seed}" / "scores" / f"{HELD_OUT}.json"
        for scene in json.loads(path.read_text())["scenes"]:
            assert (scene["group"], scene["id"]) not in found
            found[scene["group"], scene["id"]] = np.array(scene["confusion"])
    return found


def iou(confusion):
    return confusion[1, 1] / (confusion[1].sum() + confusion[:, 1].sum() - confusion[1, 1])


# --- which groups are where ------------------------------------------------------------------------


def test_a_group_is_never_trained_on_and_held_out_and_each_is_held_out_once(data, tmp_path, monkeypatch):
    looked = []

    def look(job, folder, scenes, **words):
        splits = {s: {e.group for e in scenes.catalog.in_split(s)} for s in scenes.catalog.splits}
        looked.append((job.name, job.seed, splits))
        raise InputError("seen")

    monkeypatch.setattr(comparison, "train_job", look)
    cut = cut_folds(make_recipe(data, seeds=1), EACH)
    assert len(cut.catalogs) == 5
    assert cut.runs == 5 * 2
    assert "5 folds of 5 events, 2 runs each: 10 runs in all" in cut.describe()
    result = compare_folds(cut, tmp_path / "out")
    assert len(result.failed) == len(looked) == 10
    for start in STARTS:
        mine = [splits for name, seed, splits in looked if (name, seed) == (start, 0)]
        held = [group for splits in mine for group in splits[HELD_OUT]]
        assert sorted(held) == sorted(TAKING_PART)
        for splits in mine:
            assert set(splits) == {"train", "validation", HELD_OUT}
            assert not splits["train"] & splits[HELD_OUT]
            assert not splits["validation"] & splits[HELD_OUT]
            assert not splits["train"] & splits["validation"]
            assert set.union(*splits.values()) == TAKING_PART  # the published test set stays unseen
    # Nothing is there to judge: that is said, and the report can be written.
    assert result.results["table"] == result.results["contrasts"] == []
    assert any("10 of 10 runs have failed" in w for w in result.results["warnings"])
    write_report(tmp_path / "out")


def test_folds_of_a_catalog_without_splits_hold_all_groups(data):
    whole = read_catalog(data / "tiny.csv")
    write_catalog(whole.with_entries(replace(e, split=None) for e in whole.entries), data / "plain.csv", True)
    cut = cut_folds(make_recipe(data, "plain.csv"), EACH)
    assert sorted(g for groups in cut.groups for g in groups) == sorted(TAKING_PART | {"p0"})
    with pytest.raises(CatalogError, match="has no splits"):  # as ever without folds
        compare(make_recipe(data, "plain.csv"), data / "nowhere")
    held = cut_folds(make_recipe(data, "plain.csv", data={"tests": {"mine": {"groups": ["e1"]}}}), EACH)
    assert sorted(g for groups in held.groups for g in groups) == sorted(TAKING_PART - {"e1"} | {"p0"})
    write_catalog(whole.with_entries(replace(e, group=None) for e in whole.entries), data / "lone.csv", True)
    with pytest.raises(CatalogError, match="6 scenes to train on have none"):
        cut_folds(make_recipe(data, "lone.csv"), 2)
    with pytest.raises(CatalogError, match="n=9 folds"):
        cut_folds(make_recipe(data), 9)


def test_a_chain_that_sees_a_held_out_group_is_refused(data):
    stage = {"name": "before", "task": "segment", "training": {"epochs": 1, "batch_size": 2}}
    starts = {"random": "random", "chain": {"from": "stages", "stages": [stage]}}
    stage["data"] = {"catalog": str(data / "tiny.csv"), "validation": {"fraction": 0.4}}
    with pytest.raises(LeakageError, match="'chain' cannot be compared by folds"):
        cut_folds(make_recipe(data, initializations=starts), 2)
    whole = read_catalog(data / "tiny.csv")
    write_catalog(  # the same pixels under other names
        Catalog("other", tuple(Entry(f"x{e.id}", e.assets, e.label, split="train", group=f"x{e.group}")
                               for e in whole.entries if e.split == "train"), whole.classes),
        data / "copies.csv", True,
    )  # fmt: skip
    stage["data"] = {"catalog": str(data / "copies.csv"), "validation": {"fraction": 0.4}}
    with pytest.raises(LeakageError, match="content"):
        cut_folds(make_recipe(data, initializations=starts), 2)


def test_a_chain_on_the_same_ground_long_before_passes_where_the_recipe_lets_it(tmp_path):
    """As `compare` lets it: what lies `footprint_days` apart is another scene of the same ground."""

    def scenes(name, year, seed):
        rng, entries = np.random.default_rng(seed), []
        for i in range(3):
            place = GeoReference("EPSG:32632", (10.0, 0.0, 5e5 + 5000.0 * i, 0.0, -10.0, 5e6))
            values = rng.normal(-12, 3, (1, SIZE, SIZE)).astype(np.float32)
            file = write_geotiff(
                tmp_path / f"{name}{i}.tif", values, georeference=place, descriptions=["sigma0_db_vv"],
                tags={"START": f"{year}-06-01T06:00:00+00:00"},
            )  # fmt: skip
            label = write_geotiff(
                tmp_path / f"{name}{i}l.tif", (values[0] < -12).astype(np.uint8), georeference=place
            )
            entries.append(
                Entry(f"{name}{i}", (Asset(file),), label=label, split="train", group=f"{name}{i}")
            )
        write_catalog(Catalog(name, tuple(entries), ("dry", "flooded")), tmp_path / f"{name}.csv")

    scenes("new", 2021, 0)
    scenes("old", 2015, 1)
    stage = {
        "name": "before", "task": "segment", "training": {"epochs": 1, "batch_size": 2},
        "data": {"catalog": str(tmp_path / "old.csv"), "validation": {"fraction": 0.4}},
    }  # fmt: skip
    starts = {"random": "random", "chain": {"from": "stages", "stages": [stage]}}
    with pytest.raises(
        LeakageError, match=r"stage 'before' would be trained on scenes of a test set .*footprint"
    ):
        cut_folds(make_recipe(tmp_path, "new.csv", initializations=starts), 2)
    apart = make_recipe(tmp_path, "new.csv", initializations=starts, data={"footprint_days": 365})
    assert len(cut_folds(apart, 2).catalogs) == 2
    near = make_recipe(tmp_path, "new.csv", initializations=starts, data={"footprint_days": 3650})
    with pytest.raises(LeakageError, match="footprint"):
        cut_folds(near, 2)


# --- the numbers -----------------------------------------------------------------------------------


def test_joined_scores_are_those_of_the_folds_summed(data, finished):
    results = results_of(finished)
    joined, by_group = {}, {}
    for start in STARTS:
        for seed in SEEDS:
            kept = kept_confusions(finished, start, seed)
            assert {group for group, _ in kept} == TAKING_PART
            joined[start, seed] = iou(sum(kept.values()))
            for group in TAKING_PART:
                by_group[start, seed, group] = iou(sum(m for (g, _), m in kept.items() if g == group))
    with (finished / "results.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if (r["metric"], r["class"]) == ("iou", "flooded")]
    assert {r["test_set"] for r in rows} == {HELD_OUT}
    whole = {(r["initialization"], int(r["seed"])): float(r["value"]) for r in rows if not r["group"]}
    assert whole == pytest.approx(joined, nan_ok=True)
    groups = {
        (r["initialization"], int(r["seed"]), r["group"]): float(r["value"] or "nan")
        for r in rows if r["group"] and not r["scene"]
    }  # fmt: skip
    assert groups == pytest.approx(by_group, nan_ok=True)
    for row in results["confusion"]:
        total = sum(sum(kept_confusions(finished, row["initialization"], s).values()) for s in SEEDS)
        assert row["matrix"] == total.tolist()
    (contrast,) = results["contrasts"]
    differences = np.array([joined["held", s] - joined["random", s] for s in SEEDS])
    here, new = contrast["statements"]
    interval = t_interval(differences)
    assert (here["mean"], here["low"], here["high"]) == pytest.approx(
        (interval.mean, interval.low, interval.high)
    )
    crossed = np.array(
        [[by_group["held", s, g] - by_group["random", s, g] for g in sorted(TAKING_PART)] for s in SEEDS]
    )
    held = results["folds"][0]["held_out"]
    first = np.isin(sorted(TAKING_PART), held)
    assert 0 < first.sum() < 5
    crossed = np.stack([crossed[:, first].mean(axis=1), crossed[:, ~first].mean(axis=1)], axis=1)
    interval = crossed_interval(crossed)  # what one training held out counts as one
    assert new["scope"] == "on new events"
    assert (new["mean"], new["low"], new["high"]) == pytest.approx(
        (interval.mean, interval.low, interval.high)
    )
    test_set = TestSet(
        HELD_OUT, 6, 5, UNSEEN_EVENTS, held_out=tuple(tuple(f["held_out"]) for f in results["folds"])
    )
    assert contrast["folds"] == 2
    check_again((finished / "results.csv").read_text(), results["contrasts"], make_recipe(data), [test_set])


def test_what_is_said_and_shown(finished):
    results = results_of(finished)
    said = " ".join(results["verdict"])
    assert "On new events, held-out" in said
    assert "Each of the 5 events was held out of the training that is scored on it (2 folds)" in said
    assert "Runs of one seed in different folds are different trainings" in said
    (test_set,) = results["test_sets"]
    assert (test_set["scenes"], test_set["groups"], test_set["relation"]) == (6, 5, "unseen events")
    assert results["warnings"] == []
    assert [f["fold"] for f in results["folds"]] == [1, 2]
    assert sorted(g for f in results["folds"] for g in f["held_out"]) == sorted(TAKING_PART)
    assert {(r["initialization"], r["seed"], r["fold"]) for r in results["runs"]} == {
        (name, s, k) for name in STARTS for s in SEEDS for k in (1, 2)
    }
    for run in results["runs"]:
        assert (finished / run["folder"] / "best.safetensors").is_file()
    looks = [(look["test_set"], look["recipe_hash"], look["runs"]) for look in results["looks"]]
    assert looks == [(HELD_OUT, results["recipe_hash"], 8)]
    page = html.unescape(write_report(finished).read_text(encoding="utf-8"))
    for parts in verdict_parts(
        results["verdict"], results["contrasts"]
    ):  # where, what and why stand apart there
        assert all(part in page for part in parts)
    assert "medians over the folds" in page


def test_panels_show_what_networks_make_of_scenes_that_they_have_not_seen(finished):
    best = {}
    for path in (finished / "panels").glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            panel = dict(file)
        best[str(panel["rank"])] = panel
        assert int(panel["seed"]) == SEEDS[0]
        for name, value, prediction in zip(
            panel["initializations"], panel["scores"], panel["predictions"], strict=True
        ):
            kept = kept_confusions(finished, str(name), SEEDS[0])
            (confusion,) = (m for (_, scene), m in kept.items() if scene == str(panel["scene"]))
            truth, guess = panel["label"] == 1, prediction == 1
            assert confusion[1, 1] == (truth & guess).sum()  # of the fold's own network
            assert value == pytest.approx(iou(confusion), nan_ok=True)
    assert set(best) == {"best", "median", "worst"}
    wholes = {n: iou(sum(kept_confusions(finished, n, SEEDS[0]).values())) for n in STARTS}
    winner = max(wholes, key=wholes.get)
    ranked = sorted((iou(m), scene) for (_, scene), m in kept_confusions(finished, winner, SEEDS[0]).items())
    assert str(best["best"]["scene"]) == ranked[-1][1]
    assert str(best["worst"]["scene"]) == ranked[0][1]


# --- going on, and what goes wrong -----------------------------------------------------------------


def test_finished_runs_are_not_repeated_and_a_seed_is_added(data, out, trained):
    before = (out / "results.json").read_bytes()
    result = compare_folds(cut_folds(make_recipe(data), FOLDS), out)
    assert trained == []
    assert (out / "results.json").read_bytes() == before
    assert result.results["contrasts"][0]["seeds"] == [0, 1]
    recipe = make_recipe(data, baselines=["threshold"])
    assert result.results["warnings"] == []
    (rule,) = compare_folds(cut_folds(recipe, FOLDS), out).results["rules"]
    assert trained == []
    total = sum(
        np.array(scene["confusion"])
        for k in (1, 2)
        for scene in json.loads((out / f"folds/{k}/rules/threshold-{HELD_OUT}.json").read_text())["scenes"]
    )
    (value,) = (s["value"] for s in rule["scores"] if (s["metric"], s["class"]) == ("iou", "flooded"))
    assert value == pytest.approx(iou(total))
    assert rule["words"][HELD_OUT].startswith("in each fold anew, in the first: water below Otsu's threshold")
    with pytest.raises(OutputError, match="2 folds of other groups than these 3"):
        compare_folds(cut_folds(make_recipe(data), 3), out)
    with pytest.raises(OutputError, match="comparison by folds"):
        train_one(make_recipe(data), out, "random")
    with pytest.raises(OutputError, match="without folds"):
        compare_folds(cut_folds(make_recipe(data), FOLDS), out / "folds" / "1")


def test_each_fold_is_an_ordinary_comparison(data, out, trained):
    recipe = Recipe.from_yaml(out / "folds" / "1" / "recipe.yaml")
    kept = results_of(out / "folds" / "1")
    again = compare(recipe, out / "folds" / "1").results
    assert trained == []
    for key in ("table", "contrasts", "verdict", "test_sets"):
        assert again[key] == kept[key]


def test_weights_of_unknown_origin_are_told_of(data, out, tmp_path):
    """A run of one fold has seen what another holds out, and is refused; without its recipe nobody knows."""
    earlier = out / "folds" / "1" / "runs" / "random" / "1" / "seed0"
    lost = shutil.copytree(earlier, tmp_path / "lost")
    (lost / "recipe.yaml").unlink()
    known, unknown = (
        cut_folds(
            make_recipe(
                data, initializations={"random": "random", "again": {"from": "run", "path": str(path)}}
            ),
            FOLDS,
        )
        for path in (earlier, lost)
    )
    with pytest.raises(
        LeakageError, match=r"fold 2: initialization 'again': run .*seed0 was trained on scenes"
    ):
        plan_folds(known, out)
    cut = unknown
    result = gather_folds(cut.recipe, plan_folds(cut, out), out)
    said = "Whether the weights of again (an earlier run, a file) have seen a held-out scene is not known."
    assert said in result.verdict
    assert said in result.results["warnings"]
    assert {r["status"] for r in result.results["runs"] if r["initialization"] == "again"} == {"missing"}


def test_a_failed_run_leaves_its_start_and_seed_out_of_the_scores(data, out, monkeypatch):
    plans = plan_folds(cut_folds(make_recipe(data), FOLDS), out)
    broken = next(r for r in plans[1].runs if (r.initialization, r.job.seed) == ("held", 1))
    shutil.rmtree(broken.folder.path)

    def end(*args, **words):
        raise KeyboardInterrupt

    def fail(*args, **words):
        raise InputError("the disk of this test is broken")

    (out / "results.json").unlink()
    monkeypatch.setattr(comparison, "train_job", end)
    with pytest.raises(KeyboardInterrupt):
        compare_folds(cut_folds(make_recipe(data), FOLDS), out)
    assert not (out / "results.json").exists()
    monkeypatch.setattr(comparison, "train_job", fail)
    result = compare_folds(cut_folds(make_recipe(data), FOLDS), out)
    (failed,) = result.failed
    assert (failed["initialization"], failed["seed"], failed["fold"]) == ("held", 1, 2)
    (incomplete,) = (w for w in result.results["warnings"] if w.startswith("Incomplete"))
    assert "held, seed 1 (fold 2)" in incomplete
    assert incomplete in result.verdict
    assert result.results["contrasts"][0]["seeds"] == [0]
    counts = {r["initialization"]: r["n_seeds"] for r in result.results["table"] if r["metric"] == "accuracy"}
    assert counts == {"random": 2, "held": 1}
    write_report(out)
    monkeypatch.setattr(comparison, "train_job", stages.train_job)
    again = compare_folds(cut_folds(make_recipe(data), FOLDS), out)
    assert again.failed == []
    assert again.results["contrasts"][0]["seeds"] == [0, 1]


def test_the_first_fold_is_planned_without_writing(data, tmp_path):
    with first_fold(cut_folds(make_recipe(data), FOLDS), tmp_path / "out") as plan:
        assert len(plan.open_runs()) == 4
    assert not (tmp_path / "out").exists()


def test_the_first_fold_of_a_finished_comparison_has_nothing_to_do(data, finished):
    with first_fold(cut_folds(make_recipe(data), FOLDS), finished) as plan:
        assert plan.open_runs() == []


def test_a_chain_on_other_data_is_trained_once_for_all_folds(data, tmp_path, monkeypatch):
    links = []

    def spy(job, *args, **words):
        links.append(job.name)
        return train(job, *args, **words)

    train = stages.train_job
    monkeypatch.setattr(stages, "train_job", spy)
    whole = read_catalog(data / "tiny.csv")
    other = (replace(e, split="train") for e in whole.entries if e.split == "published")
    write_catalog(whole.with_entries(other), data / "published.csv", True)
    stage = {"name": "before", "task": "segment",
             "training": {"epochs": 1, "batch_size": 2, "weights": "last", "precision": "fp32"},
             "data": {"catalog": str(data / "published.csv"), "validation": {"fraction": 0}}}  # fmt: skip
    starts = {"chain": {"from": "stages", "stages": [stage]}}
    result = compare_folds(cut_folds(make_recipe(data, initializations=starts, seeds=1), 2), tmp_path / "out")
    assert [r["error"] for r in result.failed] == []
    assert links == ["stage before"]
    assert (tmp_path / "out" / "folds" / "2" / "stages").resolve() == tmp_path / "out" / "stages"


def test_classified_patches_are_joined_with_their_logits(tmp_path):
    rng = np.random.default_rng(3)
    entries = []
    for i in range(12):
        values = rng.normal(i % 2, 1, (1, SIZE, SIZE)).astype(np.float32)
        path = write_array(tmp_path / f"{i}.npz", values, BANDS)
        entries.append(
            Entry(f"c{i}", (Asset(path),), category="ab"[i % 2], split="train", group=f"g{i // 3}")
        )
    write_catalog(Catalog("chips", tuple(entries), ("a", "b")), tmp_path / "chips.csv")
    recipe = make_recipe(
        tmp_path, "chips.csv", task="classify", model={"name": "timm:resnet10t"}, seeds=1,
        initializations={"random": "random"}, primary={"metric": "accuracy"},
    )  # fmt: skip
    out = tmp_path / "out"
    found = compare_folds(cut_folds(recipe, 2), out)
    assert [r["error"] for r in found.failed] == []
    result = found.results
    logits, labels = [], []
    for k in (1, 2):
        with np.load(out / f"folds/{k}/runs/random/1/seed0/logits/{HELD_OUT}.npz") as file:
            logits.append(file["logits"])
            labels.append(file["labels"])
    right = np.concatenate(logits).argmax(1) == np.concatenate(labels)
    assert len(right) == 12
    (ensemble,) = result["ensembles"]
    assert (ensemble["patches"], ensemble["accuracy"]) == (12, pytest.approx(right.mean()))
    (calibration,) = result["calibration"]
    assert calibration["ece_before"] is not None
    assert calibration["temperature"] is None  # each fold's training has its own
    assert {r["group"] for r in result["patches"]["collections"]} == {"g0", "g1", "g2", "g3"}
    write_report(out)


# --- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folds", "1"], "a number from 2, or `each`"),
        (["--folds", "all"], "a number from 2, or `each`"),
        (["--folds", "2", "--cluster", "local:2"], "--folds runs on this machine"),
        (["--folds", "8"], "n=8 folds"),
    ],
)
def test_mistakes_are_told(data, tmp_path, words, said):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe(data).to_json()))
    result = CliRunner().invoke(app, ["compare", str(recipe), "-o", str(tmp_path / "out"), *words])
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_makes_and_goes_on(data, out, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(make_recipe(data).to_json()))
    words = ["compare", str(recipe), "-o", str(out), "--folds", "2"]
    dry = CliRunner().invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 0
    assert "2 folds of 5 events, 4 runs each: 8 runs in all" in dry.stdout
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert "Each of the 5 events was held out" in done.stdout
    assert (out / "report.html").is_file()
    assert {p.stem for p in (out / "figures").iterdir()} >= {"scores", "differences", "curves", "confusion"}

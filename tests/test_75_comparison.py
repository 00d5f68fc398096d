"""Whole comparisons on tiny made-up scenes: what is repeated, what is not, and what is written down."""

import csv
import html
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_70_results import check_again

from sartransfer import comparison, stages
from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry, write_catalog
from sartransfer.comparison import compare, gather, plan_comparison, train_one
from sartransfer.errors import CatalogError, InputError, OutputError, RecipeError
from sartransfer.evaluate import read_scores
from sartransfer.metrics import scores
from sartransfer.models.checkpoint import read_checkpoint
from sartransfer.plan import estimate
from sartransfer.radar.units import parse_unit
from sartransfer.readers.array import write_array
from sartransfer.recipe import parse_recipe
from sartransfer.report import write_report
from sartransfer.scene import Band
from sartransfer.statistics import smallest_detectable_difference
from sartransfer.wording import verdict_parts

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 32
BANDS = tuple(Band(n, parse_unit("sigma0_db"), n.upper()) for n in ("vv", "vh"))
EVENTS = {"train": ["t0", "t1", "t2", "t3", "t4", "t5"], "north": ["n0", "n0", "n1"], "south": ["s0", "s1"]}
MODEL = {"name": "resnet18-aspp", "options": {"aspp_channels": 8}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Water is dark, land is bright, both speckled; a stripe has no label, a corner no value."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    entries = []
    for split, events in EVENTS.items():
        for i, event in enumerate(events):
            y, x = np.mgrid[:SIZE, :SIZE] / SIZE
            water = np.sin(7 * x + rng.uniform(0, 6)) + np.cos(6 * y + rng.uniform(0, 6)) > rng.uniform(
                -0.5, 0.5
            )
            level = np.where(water, -18.0, -9.0) + rng.normal(0, 1)
            values = (level + rng.normal(0, 2, (2, SIZE, SIZE))).astype(np.float32)
            values[1] -= 6
            values[:, :4, :5] = np.nan
            label = water.astype(np.uint8)
            label[:, -3:] = IGNORE_INDEX
            path = write_array(folder / f"{split}_{i}.npz", values, BANDS, label=label)
            entries.append(Entry(f"{split}_{i}", (Asset(path),), label=path, split=split, group=event))
    source = "simulated for a test"
    write_catalog(
        Catalog("tiny floods", tuple(entries), ("dry", "flooded"), source=source), folder / "tiny.csv"
    )
    return folder


STARTS = {"random": "random", "held": {"from": "random", "freeze": ["encoder.layer1"]}}


def make_recipe(folder, starts=None, *, seeds=2, epochs=1, **more):
    values = {
        "name": "tiny", "task": "segment",
        "data": {
            "catalog": str(folder / "tiny.csv"), "validation": {"fraction": 0.34},
            "patch": {"size": SIZE, "per_scene": 3},
        },
        "model": MODEL, "initializations": STARTS if starts is None else starts, "seeds": seeds,
        "primary": {"metric": "iou", "class": "flooded"},
        "training": {"epochs": epochs, "batch_size": 2, "optimizer": {"lr": 0.003}, "precision": "fp32"},
    }  # fmt: skip
    return parse_recipe(values | more)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished comparison of two starts and two seeds; copied before anything is done to it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("finished") / "out"
    compare(make_recipe(data), out)
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def trained(monkeypatch):
    """The (start, seed, fraction) of every run that is trained."""
    calls = []

    def spy(job, *args, **kwargs):
        calls.append((job.name, job.seed, job.fraction))
        return stages.train_job(job, *args, **kwargs)

    monkeypatch.setattr(comparison, "train_job", spy)
    return calls


class Watched:
    """A watcher that remembers."""

    def __init__(self):
        self.warnings, self.states, self.epochs = [], [], []

    def warn(self, warnings):
        self.warnings.append(tuple(warnings))

    def run(self, number, of, name, state):
        self.states.append((number, of, name, state))

    def epoch(self, name, epoch, of, row):
        self.epochs.append((name, epoch, of))


def files(folder):
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in sorted((folder / "runs").rglob("*")) if p.is_file()
    }  # fmt: skip


def statuses(result):
    return {(r["initialization"], r["seed"], r["fraction"]): r["status"] for r in result.results["runs"]}


def looks(folder):
    return [json.loads(line) for line in (folder / "test-looks.jsonl").read_text().splitlines()]


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


# --- what is there after a comparison --------------------------------------------------------------


def test_results_json_says_what_was_done(data, finished):
    results = results_of(finished)
    assert (results["task"], results["simulated"], results["classes"]) == (
        "segment",
        True,
        ["dry", "flooded"],
    )
    assert [(r["initialization"], r["seed"]) for r in results["runs"]] == [
        ("random", 0), ("held", 0), ("random", 1), ("held", 1),  # seeds first: an early stop can be compared
    ]  # fmt: skip
    assert {r["status"] for r in results["runs"]} == {"finished"}
    for run in results["runs"]:
        assert run["epochs"] == run["best_epoch"] == len(run["curves"]["train_loss"]) == 1
        assert (finished / run["folder"] / "best.safetensors").is_file()
    tests = {t["name"]: (t["scenes"], t["groups"], t["events_unseen"]) for t in results["test_sets"]}
    assert tests == {"north": (3, 2, True), "south": (2, 2, True)}
    assert results["data"]["splits"]["train"] == {"scenes": 4, "groups": 4}
    assert [n["name"] for n in results["data"]["normalization"]] == ["vv", "vh"]
    assert results["initialization_reports"]["held"]["parameters"]["frozen"] > 0
    assert results["initialization_reports"]["random"]["parameters"]["frozen"] == 0
    assert results["recipe_hash"] == make_recipe(data).digest()
    assert results["warnings"] == []
    for row in results["confusion"]:
        folders = [finished / "runs" / row["initialization"] / "1" / f"seed{s}" for s in (0, 1)]
        total = sum(read_scores(f, row["test_set"]).confusion for f in folders)
        assert row["matrix"] == total.tolist()


def test_the_csv_is_enough_for_every_contrast(data, finished):
    results = results_of(finished)
    plan = plan_comparison(make_recipe(data), finished)
    check_again((finished / "results.csv").read_text(), results["contrasts"], plan.recipe, plan.test_sets)
    names = {c["test_set"] for c in results["contrasts"]}
    assert names == {"north", "south", "unseen events"}


def test_scores_are_those_of_the_checkpoint_and_every_look_is_logged(data, finished):
    checkpoint = read_checkpoint(finished / "runs" / "held" / "1" / "seed1")
    catalog = plan_comparison(make_recipe(data), finished).catalog
    found = comparison.evaluate_checkpoint(checkpoint, catalog, "north")
    kept = read_scores(finished / "runs" / "held" / "1" / "seed1", "north")
    assert [s.confusion.tolist() for s in found.scenes] == [s.confusion.tolist() for s in kept.scenes]
    with (finished / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [
        r for r in rows
        if (r["initialization"], r["seed"], r["test_set"], r["group"], r["metric"], r["class"])
        == ("held", "1", "north", "", "iou", "flooded")
    ]  # fmt: skip
    assert float(row["value"]) == scores(found.confusion)["iou"][1]
    seen = [(look["initialization"], look["seed"], look["test_set"]) for look in looks(finished)]
    assert sorted(seen) == sorted((i, s, t) for i in STARTS for s in (0, 1) for t in ("north", "south"))
    told = {(look["test_set"], look["recipe_hash"]): look["runs"] for look in results_of(finished)["looks"]}
    digest = make_recipe(data).digest()
    assert told == {("north", digest): 4, ("south", digest): 4}


def test_panels_hold_the_scenes_and_predictions(data, finished):
    paths = sorted(p.stem for p in (finished / "panels").iterdir())
    assert paths == ["north-best", "north-median", "north-worst", "south-best", "south-worst"]
    folders = {n: finished / "runs" / n / "1" / "seed0" for n in STARTS}
    for test_set in ("north", "south"):
        panels = {}
        for path in (finished / "panels").glob(f"{test_set}-*.npz"):
            with np.load(path, allow_pickle=False) as file:
                panels[str(file["rank"])] = dict(file)
        kept = {n: read_scores(f, test_set) for n, f in folders.items()}
        best = max(kept, key=lambda n: scores(kept[n].confusion)["iou"][1])
        ranked = sorted((scores(s.confusion)["iou"][1], s.id) for s in kept[best].scenes)
        assert str(panels["best"]["scene"]) == ranked[-1][1]
        assert str(panels["worst"]["scene"]) == ranked[0][1]
        if "median" in panels:
            assert str(panels["median"]["scene"]) == ranked[1][1]
        for panel in panels.values():
            assert panel["initializations"].tolist() == list(STARTS)
            assert panel["band_names"].tolist() == ["vv", "vh"]
            assert np.isnan(panel["image"][:, :4, :5]).all()
            assert np.isfinite(panel["image"]).sum() == 2 * (SIZE * SIZE - 20)
            assert (panel["predictions"][:, :4, :5] == IGNORE_INDEX).all()
            assert (panel["label"][:, -3:] == IGNORE_INDEX).all()
            for name, prediction, value in zip(STARTS, panel["predictions"], panel["scores"], strict=True):
                counts = (panel["label"] != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
                truth, guess = panel["label"][counts] == 1, prediction[counts] == 1
                assert value == pytest.approx((truth & guess).sum() / (truth | guess).sum())
                (one,) = [s for s in kept[name].scenes if s.id == str(panel["scene"])]
                assert one.confusion[1, 1] == (truth & guess).sum()


def test_the_report_holds_the_verdict(out):
    results = results_of(out)
    assert "too few runs to tell" in results["verdict"][0]
    page = html.unescape(write_report(out).read_text(encoding="utf-8"))
    for parts in verdict_parts(
        results["verdict"], results["contrasts"]
    ):  # where, what and why stand apart there
        assert all(part in page for part in parts)
    assert "simulated" in page


# --- going on --------------------------------------------------------------------------------------


def test_finished_runs_are_not_repeated(data, out, trained):
    before, table, seen = files(out), (out / "results.csv").read_bytes(), looks(out)
    watcher = Watched()
    compare(make_recipe(data), out, watcher=watcher)
    assert trained == []
    assert files(out) == before
    assert (out / "results.csv").read_bytes() == table
    assert looks(out) == seen
    assert [s[3] for s in watcher.states] == ["begins", "found finished"] * 4
    assert watcher.epochs == []


def test_a_run_that_another_process_trains_stops_the_comparison_and_stays_its_own(data, tmp_path, trained):
    out, recipe = tmp_path / "out", make_recipe(data)
    plan = plan_comparison(recipe, out)
    taken = plan.runs[1].folder
    with taken.alone(), pytest.raises(OutputError, match="another process trains this run"):
        compare(recipe, out)
    assert len(trained) == 1  # the one before it
    assert not taken.path.exists()  # nothing was written into it, not even that it failed
    assert compare(recipe, out).failed == []


def test_without_weights_all_is_judged_again_and_the_pictures_stay(data, out, trained):
    plan = plan_comparison(make_recipe(data), out)
    pictures = {p.name: p.read_bytes() for p in (out / "panels").iterdir()}
    first = next(r.folder.path for r in plan.runs if r.job.seed == 0)
    (first / f"{plan.recipe.training.weights}.safetensors").unlink()
    gather(plan)  # the pictures are of the other seed now
    assert {p.name for p in (out / "panels").iterdir()} == set(pictures)
    other = {p.name: p.read_bytes() for p in (out / "panels").iterdir()}
    for weights in out.glob("runs/**/*.safetensors"):
        weights.unlink()
    (out / "results.json").unlink()
    gather(plan)
    assert trained == []
    assert results_of(out)["table"]
    assert {p.name: p.read_bytes() for p in (out / "panels").iterdir()} == other


def test_gather_trains_nothing(data, out, trained):
    before, results = files(out), results_of(out)
    for name in ("results.csv", "results.json"):
        (out / name).unlink()
    shutil.rmtree(out / "panels")
    found = gather(plan_comparison(make_recipe(data), out))
    assert (trained, files(out)) == ([], before)
    assert results_of(out) == results == json.loads(json.dumps(found.results))
    assert (out / "panels" / "north-best.npz").is_file()
    assert found.failed == []


def test_a_start_a_seed_and_a_fraction_are_added_without_repeating(data, out, trained):
    before = files(out)
    more = STARTS | {"gentle": {"from": "random", "freeze": ["encoder.layer2"]}}
    result = compare(make_recipe(data, more, seeds=3), out)
    expected = {("gentle", s, 1.0) for s in (0, 1, 2)} | {("random", 2, 1.0), ("held", 2, 1.0)}
    assert set(trained) == expected
    assert len(trained) == 5
    assert {k: v for k, v in files(out).items() if k in before} == before
    assert set(statuses(result).values()) == {"finished"}
    assert {(c["a"], c["b"]) for c in result.results["contrasts"]} == {
        ("held", "random"),
        ("gentle", "random"),
    }
    assert result.results["contrasts"][0]["seeds"] == [0, 1, 2]
    trained.clear()
    result = compare(make_recipe(data, seeds=[1], fractions=[1.0, 0.5]), out)
    assert sorted(trained) == [("held", 1, 0.5), ("random", 1, 0.5)]
    scenes = {(r["fraction"], r["n_seeds"]) for r in result.results["table"] if r["metric"] == "accuracy"}
    assert scenes == {(1.0, 1), (0.5, 1)}


@pytest.mark.parametrize("draw", ["by-seed", "once"])
def test_each_seed_has_its_own_labels_the_same_for_all_starts(data, tmp_path, monkeypatch, draw):
    """Unless a recipe asks for one draw: then seed 0's is everybody's. All labels need no draw."""
    drawn = {}

    def look(job, folder, data, **words):
        drawn[job.name, job.fraction, job.seed] = frozenset(e.id for e in data.catalog.in_split("train"))
        raise InputError("seen")

    monkeypatch.setattr(comparison, "train_job", look)
    recipe = make_recipe(data, seeds=4, fractions=[1.0, 0.5], fraction_draw=draw)
    compare(recipe, tmp_path / "out")
    half = {seed: drawn["random", 0.5, seed] for seed in range(4)}
    assert half == {seed: drawn["held", 0.5, seed] for seed in range(4)}
    assert {len(found) for found in half.values()} == {2}  # of four: two more are held out
    assert (len(set(half.values())) == 1) == (draw == "once")
    assert len({drawn[name, 1.0, seed] for name in STARTS for seed in range(4)}) == 1
    other = plan_comparison(make_recipe(data, seeds=4, fractions=[1.0, 0.5]), tmp_path / "out")
    for mine, theirs in zip(plan_comparison(recipe, tmp_path / "out").runs, other.runs, strict=True):
        same = draw == "by-seed" or mine.job.fraction == 1 or mine.job.seed == 0
        assert (mine.identity == theirs.identity) == same


def test_a_start_is_taken_out_again(data, out, trained):
    result = compare(make_recipe(data, {"held": STARTS["held"]}), out)
    assert trained == []
    assert result.results["contrasts"] == []
    assert "Nothing to compare" in result.verdict[-1]
    assert (out / "runs" / "random" / "1" / "seed0" / "best.safetensors").is_file()


def test_a_changed_setting_makes_runs_anew_and_keeps_the_old(data, out, trained):
    changed = make_recipe(data, seeds=[0], epochs=2)
    plan = plan_comparison(changed, out)
    assert len(plan.open_runs()) == 2
    nothing = gather(plan).results
    assert {r["status"] for r in nothing["runs"]} == {"missing"}
    assert "2 of 2 runs are not finished." in nothing["warnings"]
    assert (nothing["table"], nothing["initialization_reports"]) == ([], {})
    before = {k: v for k, v in files(out).items() if "/seed0/" in k}
    result = compare(changed, out)
    assert trained == [("random", 0, 1.0), ("held", 0, 1.0)]
    assert {r["epochs"] for r in result.results["runs"]} == {2}
    after = files(out)
    for name, place in before.items():
        assert after[name.replace("/seed0/", "/seed0.old-1/")] == place


def test_train_one_is_found_by_the_comparison(data, tmp_path, trained):
    recipe, out = make_recipe(data, seeds=1), tmp_path / "out"
    planned, report = train_one(recipe, out, "held")
    assert trained == [("held", 0, 1.0)]
    assert (planned.folder.path / "last.safetensors").is_file()
    assert report.to_json()["parameters"]["frozen"] > 0
    assert not (out / "test-looks.jsonl").exists()  # training looks at no test set
    train_one(recipe, out, "held", 0)
    assert len(trained) == 1
    compare(recipe, out)
    assert trained == [("held", 0, 1.0), ("random", 0, 1.0)]
    with pytest.raises(RecipeError, match=r"initialization='hold' is not known.*Did you mean 'held'"):
        train_one(recipe, out, "hold")
    with pytest.raises(RecipeError, match="seed=7"):
        train_one(recipe, out, "held", 7)


# --- what goes wrong -------------------------------------------------------------------------------


def test_a_test_scene_without_a_labelled_pixel_is_told(data, tmp_path):
    """It is in no score, and an interval over "five scenes" would be one over four."""
    folder = shutil.copytree(data, tmp_path / "data")
    text = (folder / "tiny.csv").read_text()
    with np.load(folder / "north_1.npz") as file:
        kept = {name: file[name] for name in file.files}
    (key,) = [name for name in kept if "label" in name]
    kept[key] = np.full_like(kept[key], IGNORE_INDEX)
    np.savez(folder / "north_1.npz", **kept)
    result = compare(make_recipe(folder, {"random": "random"}, seeds=1), tmp_path / "out")
    assert "north_1" in text
    (told,) = [w for w in result.results["warnings"] if "in no score" in w]
    assert told.startswith(
        "Test set 'north': 1 of 3 scenes (north_1) have no pixel with both a value and a label"
    )
    plain = compare(make_recipe(data, {"random": "random"}, seeds=1), tmp_path / "plain")
    assert not [w for w in plain.results["warnings"] if "in no score" in w]


def test_a_failed_run_is_reported_and_tried_again_alone(data, out, monkeypatch):
    """A start whose weights do not fit, beside runs that are finished and one that is not."""
    save_file({"someone.elses.weight": torch.zeros(3)}, out.parent / "odd.safetensors")
    starts = STARTS | {"odd": {"from": "file", "path": str(out.parent / "odd.safetensors")}}
    recipe = make_recipe(data, starts, seeds=3)
    calls = []
    real = stages.train_job
    monkeypatch.setattr(
        comparison, "train_job", lambda job, *a, **k: calls.append(job.name) or real(job, *a, **k)
    )
    watcher = Watched()
    result = compare(recipe, out, watcher=watcher)
    assert sorted(calls) == ["held", "odd", "odd", "odd", "random"]  # the others went on
    assert {k[0] for k, v in statuses(result).items() if v == "failed"} == {"odd"}
    assert [r["seed"] for r in result.failed] == [0, 1, 2]
    assert all("odd.safetensors" in r["error"] for r in result.failed)
    assert sum(s[3].startswith("failed: ") for s in watcher.states) == 3
    assert "3 of 9 runs have failed." in result.results["warnings"]
    assert {(c["a"], c["b"], len(c["seeds"])) for c in result.results["contrasts"]} == {("held", "random", 3)}
    before = {k: v for k, v in files(out).items() if "/odd/" not in k}
    calls.clear()
    compare(recipe, out)
    assert calls == ["odd"] * 3
    assert {k: v for k, v in files(out).items() if "/odd/" not in k} == before


def test_a_run_that_failed_once_ends_as_if_it_had_not(data, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        real = stages.train_job

        def raising(job, *args, **kwargs):
            if (job.name, job.seed) == ("held", 1):
                raise RuntimeError("the power failed")
            return real(job, *args, **kwargs)

        patch.setattr(comparison, "train_job", raising)
        result = compare(make_recipe(data), out)
    assert [(r["initialization"], r["seed"]) for r in result.failed] == [("held", 1)]
    assert "RuntimeError: the power failed" in result.failed[0]["error"]  # no user's mistake: with its place
    assert "Traceback" in result.failed[0]["error"]
    result = compare(make_recipe(data), out)
    assert result.failed == []
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_what_fails_before_training_is_a_failure_too_and_spoils_nothing(data, out, monkeypatch):
    """Data that cannot be opened, in a folder that still holds the finished run of another setting."""
    old = (out / "runs" / "random" / "1" / "seed0" / "run.json").read_text()

    def raising(*args):
        raise CatalogError("no patch was found")

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_training_data", raising)
        result = compare(make_recipe(data, seeds=[0], epochs=2), out)
    assert [r["error"] for r in result.failed] == ["no patch was found"] * 2
    assert (out / "runs" / "random" / "1" / "seed0.old-1" / "run.json").read_text() == old


def test_a_run_whose_scoring_failed_is_scored_again_not_trained(data, out, trained, monkeypatch):
    folder = out / "runs" / "held" / "1" / "seed1"
    (folder / "scores" / "south.json").unlink()
    table = (out / "results.csv").read_bytes()
    before = {k: v for k, v in files(out).items() if k.endswith(".safetensors")}

    def raising(*args, **kwargs):
        raise InputError("a scene is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "evaluate_checkpoint", raising)
        result = compare(make_recipe(data), out)
    assert [(r["initialization"], r["seed"], r["error"]) for r in result.failed] == [
        ("held", 1, "a scene is damaged")
    ]
    result = compare(make_recipe(data), out)
    assert (trained, result.failed) == ([], [])
    assert {k: v for k, v in files(out).items() if k.endswith(".safetensors")} == before
    assert (out / "results.csv").read_bytes() == table


def test_a_full_disk_ends_the_comparison(data, tmp_path, monkeypatch):
    calls = []

    def full(job, *args, **kwargs):
        calls.append(job.name)
        raise OutputError("cannot write: no space left on device")

    monkeypatch.setattr(comparison, "train_job", full)
    with pytest.raises(OutputError, match="no space"):
        compare(make_recipe(data), tmp_path / "out")
    assert len(calls) == 1


def test_the_folder_of_something_else_is_refused(data, out, tmp_path, trained):
    before = files(out)
    with pytest.raises(OutputError, match="holds the comparison 'tiny', not 'other'"):
        compare(make_recipe(data, name="other"), out)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is not a comparison"):
        compare(make_recipe(data), full)
    with pytest.raises(OutputError, match="is a file"):
        compare(make_recipe(data), full / "letter.txt")
    with pytest.raises(OutputError, match="is not a comparison"):
        train_one(make_recipe(data), full, "random")
    assert (trained, files(out), sorted(p.name for p in full.iterdir())) == ([], before, ["letter.txt"])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"primary": {"metric": "iou", "class": "floded"}}, RecipeError, "Did you mean 'flooded'"),
        ({"tests": ["nort"]}, RecipeError, "Did you mean 'north'"),
        ({"initializations": {"a": {"from": "file", "path": "/no/such.pth"}}}, Exception, "no weights at"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_run(data, tmp_path, trained, change, error, words):
    with pytest.raises(error, match=words):
        compare(make_recipe(data, **change) if "initializations" not in change
                else make_recipe(data, change["initializations"]), tmp_path / "out")  # fmt: skip
    assert trained == []
    assert not (tmp_path / "out").exists()


# --- the estimate ----------------------------------------------------------------------------------


def test_the_estimate_trains_nothing_and_says_what_it_takes(data, out, tmp_path, trained):
    before = files(out)
    fresh = estimate(plan_comparison(make_recipe(data, seeds=7, epochs=3), tmp_path / "new"), "cpu")
    assert not (tmp_path / "new").exists()
    assert (fresh.runs, fresh.open, fresh.seeds) == (14, 14, 7)
    assert set(fresh.seconds_per_run) == set(STARTS)
    assert fresh.seconds == pytest.approx(7 * sum(fresh.seconds_per_run.values()))
    assert fresh.seconds > 0
    training = {"epochs": 3, "batch_size": 2, "optimizer": {"lr": 0.003}, "precision": "fp32", "min_steps": 6}
    more = STARTS | {"third": {"from": "random", "freeze": ["encoder.layer1"]}}
    shares = make_recipe(data, seeds=2, fractions=[1.0, 0.5], training=training, initializations=more)
    few = estimate(plan_comparison(shares, tmp_path / "new"), "cpu")
    assert few.contrasts == 2
    # 4 scenes of 3 patches: 6 steps of 2; half of them are gone through twice. Both are as long.
    assert few.seconds == pytest.approx(2 * 2 * sum(few.seconds_per_run.values()))
    shares = make_recipe(data, seeds=2, fractions=[1.0, 0.5], training=training | {"min_steps": 0})
    less = estimate(plan_comparison(shares, tmp_path / "new"), "cpu")
    assert 2 * sum(less.seconds_per_run.values()) < less.seconds < 4 * sum(less.seconds_per_run.values())
    parameters = sum(t.numel() for t in read_checkpoint(out / "runs/random/1/seed0").model.parameters())
    assert fresh.disk_bytes == 4 * parameters * (14 * 2 + 3)  # best and last each; one resume state
    assert fresh.memory_bytes > 4 * parameters
    assert fresh.smallest_p == 2 / 2**7
    assert fresh.contrasts == 1
    assert fresh.detectable == {sd: smallest_detectable_difference(7, sd) for sd in (0.005, 0.01, 0.02)}
    partly = estimate(plan_comparison(make_recipe(data, seeds=3), out), "cpu")
    assert (partly.runs, partly.open) == (6, 2)
    assert set(partly.detectable.values()) == {float("inf")}
    assert (trained, files(out)) == ([], before)


# --- the same numbers ------------------------------------------------------------------------------


def broken_chain(data):
    """A chain whose first link cannot be trained: a network that segments, asked to classify."""
    stage = {
        "name": "optical",
        "task": "classify",
        "data": {"catalog": str(data / "tiny.csv")},
        "training": {"epochs": 1},
    }
    return {"from": "stages", "stages": [stage]}


def test_two_processes_give_the_same_table_and_failures_as_one(data, finished, tmp_path):
    """One thread each here, so that sums are taken in one order and every byte can agree."""
    recipe = make_recipe(data, STARTS | {"chain": broken_chain(data)})
    watcher = Watched()
    two = compare(recipe, tmp_path / "two", jobs=2, watcher=watcher)
    one = compare(recipe, tmp_path / "one")
    for result in (two, one):  # first, so that the message says why
        assert {
            r["initialization"]: r["error"][-300:] for r in result.failed if r["initialization"] != "chain"
        } == {}
    assert (tmp_path / "two" / "results.csv").read_bytes() == (tmp_path / "one" / "results.csv").read_bytes()
    assert (tmp_path / "two" / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert statuses(two) == statuses(one)
    assert {k[0] for k, v in statuses(two).items() if v == "failed"} == {"chain"}
    assert all("made to segment" in r["error"] for r in (*two.failed, *one.failed))
    assert len(watcher.states) == 6
    for name in STARTS:
        for seed in (0, 1):
            place = f"runs/{name}/1/seed{seed}/best.safetensors"
            assert (tmp_path / "one" / place).read_bytes() == (tmp_path / "two" / place).read_bytes()
    assert len(looks(tmp_path / "two")) == 8


def test_chips_are_compared_with_logits_and_top2(tmp_path):
    rng = np.random.default_rng(2)
    classes, entries = ("ship", "ice", "sea"), []
    for i in range(24):
        values = (rng.normal(-12, 3, (2, SIZE, SIZE)) + 4 * (i % 3)).astype(np.float32)
        path = write_array(tmp_path / f"chip{i}.npz", values, BANDS)
        split = "train" if i < 15 else "test"
        group = f"{split}{i // 3}"
        entries.append(Entry(f"chip{i}", (Asset(path),), category=classes[i % 3], split=split, group=group))
    write_catalog(Catalog("chips", tuple(entries), classes), tmp_path / "chips.csv")
    recipe = make_recipe(
        tmp_path, {"random": "random", "held": {"from": "random", "freeze": ["encoder.layer1"]}}, task="classify",
        data={"catalog": str(tmp_path / "chips.csv"), "validation": {"fraction": 0.4}},
        model={"name": "resnet18"}, primary={"metric": "top2"}, seeds=[5],
    )  # fmt: skip
    result = compare(recipe, tmp_path / "out")
    assert result.failed == []
    found = read_scores(tmp_path / "out" / "runs" / "held" / "1" / "seed5", "test")
    assert np.stack([s.logits for s in found.scenes]).shape == (9, 3)
    (row,) = [
        r for r in result.results["table"]
        if (r["initialization"], r["test_set"], r["metric"]) == ("held", "test", "top2")
    ]  # fmt: skip
    assert row["mean"] == found.top2()
    assert row["low"] is None
    for rank in ("best", "median", "worst"):
        with np.load(tmp_path / "out" / "panels" / f"test-{rank}.npz", allow_pickle=False) as panel:
            assert panel["label"].shape == ()
            assert panel["predictions"].shape == (2,)
    assert "one seed says nothing of chance" in result.verdict[0]
    assert write_report(tmp_path / "out").is_file()


def test_panels_do_not_outlive_their_scenes(data, out):
    stale = out / "panels" / "gone-best.npz"
    shutil.copy(out / "panels" / "north-best.npz", stale)
    gather(plan_comparison(replace_tests(make_recipe(data)), out))
    assert sorted(p.stem for p in (out / "panels").iterdir()) == ["south-best", "south-worst"]


def replace_tests(recipe):
    return recipe.model_copy(update={"tests": ("south",)})

"""What the report shows of labelled scenes: the table of all scores, strata, whole scenes; on fabricated results."""

import itertools
import json
import math

import numpy as np
import pytest
from test_80_report import NAMES, SCRIPT, Page, edit, make_results

from sartransfer import figures, report
from sartransfer.figures import strata
from sartransfer.scene_tables import scene_figures
from sartransfer.wording import group_words, metric_words

KINDS = {
    "incidence_angle_deg": [(20, 30), (30, 40), (40, 47)],
    "seam_m": [(0, 1000), (1000, 5000), (5000, None)],
    "edge_px": [(0, 2), (2, None)],
}


def add_strata(results, kinds=KINDS):
    """Strata of every start and test set, and the averages that the table of all scores has; numbers of no meaning."""
    rng = np.random.default_rng(3)
    rows = []
    for name in results["initializations"]:
        for test in results["test_sets"]:
            for kind, bins in kinds.items():
                for low, high in bins:
                    scores = [
                        _score(rng, *s) for s in (("iou", "flooded"), ("accuracy", ""), ("recall", "dry"))
                    ]
                    rows.append({
                        "initialization": name, "fraction": 1.0, "test_set": test["name"], "kind": kind, "low": low,
                        "high": high, "pixels": int(rng.integers(10, 90_000)), "matrix": [[1, 2], [3, 4]],
                        "scores": scores,
                    })  # fmt: skip
    results["strata"] = rows
    extra = []
    for row in [r for r in results["table"] if r["metric"] == "iou"]:
        for metric, class_ in (
            ("f1_weighted", ""),
            ("iou_macro", ""),
            ("recall", "dry"),
            ("recall", "flooded"),
        ):
            extra.append(row | {"metric": metric, "class": class_, "high": 1.2, "low": row["mean"] - 0.1})
    results["table"] += extra


def _score(rng, metric, class_):
    mean = float(rng.uniform(0.3, 0.9))
    return {"metric": metric, "class": class_, "mean": mean, "low": mean - 0.05, "high": mean + 0.05,
            "values": [mean] * 3}  # fmt: skip


def test_the_page_has_all_scores_and_strata(tmp_path):
    folder = edit(make_results(tmp_path), add_strata)
    page = Page(report.write_report(folder))
    assert {a["id"] for a in page.named("section")} >= {"scores", "strata"}
    assert "All scores: mean of the runs [95 % interval, cut at 0 and 1]" in page.text
    for words in ("F1 (weighted)", "IoU (macro)", "Recall of flooded", "By incidence angle", "0–1 km", "from 5 km",
                  "20–30", "from 2 ", "By distance from the nearest seam"):  # fmt: skip
        assert words in page.text, words
    assert ", 1.000]" in page.text  # an interval of shares ends at 1
    assert "1.2" not in page.text.split("All scores:")[1].split("All other scores")[0]


def test_without_strata_nothing_is_said_of_them(tmp_path):
    page = Page(report.write_report(make_results(tmp_path)))
    assert "strata" not in {a["id"] for a in page.named("section")}
    assert "By kind of pixel" not in page.text


def test_what_was_cut_for_validation_is_said(tmp_path):
    from sartransfer.scene_tables import halves_words

    halves = "data: {validation: {halves: {months: [2, 6], scenes: [<b>], side: ne, buffer_m: 5000.0}}}"
    words = "(month 2, month 6, <b>): their NE halves validate, the others train, 5000 m from the cut."
    words = f"Scenes cut in two {words}"
    assert halves_words(halves) == words
    page = Page(report.write_report(edit(make_results(tmp_path), lambda r: r.update(recipe=halves))))
    assert words in page.text
    assert halves_words(halves.replace("5000.0", "0.0")).endswith("counted in both splits.")
    for other in ("data: {validation: {fraction: 0.2, halves: null}}", "task: segment", "", "[1, 2", "a"):
        assert halves_words(other) is None


def test_a_recall_of_few_pixels_is_hollow(tmp_path):
    """Against the share worked out here: 4 of 104 pixels are few, 5 of 100 are not, none has no recall at all."""
    results = report.read_results(edit(make_results(tmp_path, panels=False), add_strata))
    of = {"classes": ["dry", "flooded"]}
    for matrix, rare in (([[4, 0], [50, 50]], (True, False)), ([[0, 5], [0, 95]], (False, False)),
                         ([[0, 0], [3, 7]], (False, False)), ([[9, 990], [1, 0]], (False, True))):  # fmt: skip
        assert tuple(strata.is_rare({"matrix": matrix}, c, of) for c in of["classes"]) == rare
    for row in results["strata"]:
        row["matrix"] = [[1, 0], [50, 49]]  # of dry there is one pixel: its recall is hollow, the rest is not
    figure = figures.draw_strata(results, 1.0, "seam_m")
    hollow = [any(line.get_markerfacecolor() == "white" for line in axes.lines) for axes in figure.axes]
    labels = [axes.get_ylabel() for axes in figure.axes]
    columns = len(results["test_sets"])
    rows = {labels[i]: hollow[i : i + columns] for i in range(0, len(labels), columns)}
    assert rows == {name: [name == "recall of dry"] * columns for name in rows}
    assert "recall of dry" in rows


def test_the_tallest_bar_of_all_test_sets_has_its_number_inside(tmp_path):
    """Two test sets share an axis: one even, one with all its pixels in one bin; and names of bins that do not meet."""
    results = report.read_results(edit(make_results(tmp_path, panels=False), add_strata))
    last = results["test_sets"][0]["name"]
    for row in results["strata"]:
        row["pixels"] = 100 if row["test_set"] != last or row["low"] == 1000 else 0
    figure = figures.draw_strata(results, 1.0, "seam_m")
    columns = len(results["test_sets"])
    assert columns > 1
    for axes in figure.axes[:columns]:
        assert axes.get_ylim()[1] > 1.2 * max(bar.get_height() for bar in axes.patches)


@pytest.mark.parametrize(("tests", "turned"), [(1, 0), (2, 0), (4, 90)])
def test_names_of_bins_do_not_meet(tmp_path, tests, turned):
    bins = {"edge_px": [(0, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, None)]}
    folder = make_results(tmp_path, test_sets=tests, panels=False)
    results = report.read_results(edit(folder, lambda r: add_strata(r, bins)))
    figure = figures.draw_strata(results, 1.0, "edge_px")
    figure.draw_without_rendering()
    for axes in figure.axes[-tests:]:
        assert {t.get_rotation() for t in axes.get_xticklabels()} == {turned}
        boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    ("shape", "step", "facts", "words"),
    [
        ((3, 625, 625), 2, {"size": (1250, 1250), "step": 2, "pixel_m": 320.0, "seed": 0},
         "1250 × 1250 pixels of 320 m: 400 × 400 km; 1 in 4 shown along each side; predictions of seed 0"),
        ((1, 20, 30), 1, {"size": (20, 30), "step": 1, "pixel_m": math.nan, "seed": 4},
         "30 × 20 pixels; predictions of seed 4"),
        ((3, 625, 625), 2, {}, "625 × 625 pixels; 1 in 2 shown along each side"),
    ],
)  # fmt: skip
def test_a_panel_has_the_size_of_its_scene(shape, step, facts, words):
    assert report._size_words(shape, step, facts) == words


def test_names_in_strata_are_escaped_and_gaps_said(tmp_path):
    def wreck(results):
        add_strata(results)
        renamed = json.loads(json.dumps(results).replace('"optical"', json.dumps(SCRIPT)))
        results.clear()
        results.update(renamed)
        for score in results["strata"][0]["scores"]:
            score |= {"mean": None, "low": None, "high": None, "values": [None] * 3}
        for score in results["strata"][1]["scores"]:
            score |= {"low": None, "high": None}

    path = report.write_report(edit(make_results(tmp_path), wreck))
    assert SCRIPT not in path.read_text()
    assert "undefined" in Page(path).text
    assert "no interval" in Page(path).text


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("starts", "tests"), [(1, 1), (3, 3)])
def test_strata_are_drawn_and_nothing_is_cut_off(tmp_path, kind, starts, tests):
    folder = edit(make_results(tmp_path, starts=starts, test_sets=tests, panels=False), add_strata)
    results = report.read_results(folder)
    figure = figures.draw_strata(results, 1.0, kind)
    figures.render(figure, "png")
    whole = figure.get_tightbbox().padded(-0.02)
    assert whole.x0 >= 0
    assert whole.x1 <= figure.get_figwidth()
    assert whole.y1 <= figure.get_figheight()
    assert figures.draw_strata(results, 0.5, kind) is None
    assert set(scene_figures(results, 1.0)) == {"by-incidence-angle", "by-seam", "by-edge"}


@pytest.mark.parametrize("tests", [1, 2, 4])
def test_the_legend_of_differences_is_whole(tmp_path, tests):
    results = report.read_results(make_results(tmp_path, test_sets=tests, panels=False))
    figure = figures.draw_differences(results, 1.0)
    figures.render(figure, "png")
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("tests", [1, 4])
@pytest.mark.parametrize("ending", ["", " of a name as long as people give"])
def test_no_legend_is_cut_off_however_long_the_names_are(tmp_path, tests, ending):
    def rename(results):
        add_strata(results)
        text = json.dumps(results)
        for name in NAMES:
            text = text.replace(json.dumps(name), json.dumps(name + ending))
        results.clear()
        results.update(json.loads(text))

    folder = make_results(tmp_path, starts=6, test_sets=tests, panels=False, fractions=(1.0, 0.1))
    results = report.read_results(edit(folder, rename))
    for figure in (
        figures.draw_label_efficiency(results),
        figures.draw_curves(results, 1.0),
        figures.draw_epochs(results, 1.0),
        figures.draw_strata(results, 1.0, "seam_m"),
        figures.draw_differences(results, 1.0),
    ):
        figures.render(figure, "png")
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        panels = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
        assert max(panel.y1 for panel in panels) <= box.y0 + 5  # nor does it hide what is below


def test_a_legend_of_several_lines_is_read_line_by_line(tmp_path):
    results = report.read_results(make_results(tmp_path, starts=6, panels=False))
    figure = figures.draw_curves(results, 1.0)
    figures.render(figure, "png")
    (legend,) = figure.legends
    boxes = {text.get_text(): text.get_window_extent() for text in legend.get_texts()}
    height = max(box.height for box in boxes.values())
    lines = {name: round((box.y0 + box.y1) / 2 / height) for name, box in boxes.items()}
    read = sorted(boxes, key=lambda name: (-lines[name], boxes[name].x0))
    assert len(set(lines.values())) > 1
    assert read == list(results["initializations"])


def test_where_nothing_was_validated_the_training_loss_is_drawn(tmp_path):
    def unvalidated(results):
        for run in results["runs"]:
            for key in ("validation_loss", "validation_metric"):
                run["curves"][key] = [None] * len(run["curves"]["epoch"])

    results = report.read_results(edit(make_results(tmp_path, panels=False), unvalidated))
    (axes,) = figures.draw_curves(results, 1.0).axes
    assert axes.get_title(loc="left") == "training loss (nothing was validated)"
    run = results["runs"][0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), run["curves"]["train_loss"])


def test_a_test_set_of_one_scene_has_no_best_and_worst(tmp_path):
    folder = make_results(tmp_path, test_sets=2)
    for rank in ("median", "worst"):
        (folder / "panels" / f"test-a-{rank}.npz").unlink()
    page = Page(report.write_report(folder))
    shown = page.text.split("Initializations Where")[0].split("by their score. Images")[1]
    first, second = shown.split(" test-b ")
    assert "Best:" not in first
    assert "Best:" in second


def test_groups_have_their_own_name(tmp_path):
    def rename(results):
        results["groups_are"] = "scenes"
        results["contrasts"] += [c | {"test_set": "unseen events"} for c in results["contrasts"]]
        results["table"] += [r | {"test_set": "unseen events"} for r in results["table"]]

    page = Page(report.write_report(edit(make_results(tmp_path), rename)))
    assert "On new scenes" in page.text
    assert "unseen scenes" in page.text
    assert "unseen events" not in page.text
    sentence = (
        "On new events, unseen events (a, b): 6 seeds, 3 events. A new event; only one event; eventful."
    )
    assert group_words(sentence, "collections") == (
        "On new collections, unseen collections (a, b): 6 seeds, 3 collections. A new collection; only one "
        "collection; eventful."
    )
    assert group_words(sentence, "events") == sentence


def test_ice_is_pale_and_water_dark():
    from sartransfer import pictures

    land, flood = pictures.class_colours(2, ["dry", "flooded"])
    assert pictures.class_colours(2, ["water", "ice"]) == [flood, land]
    assert pictures.class_colours(2) == [land, flood]


def test_averages_have_their_name():
    assert metric_words("iou_weighted") == "IoU (weighted)"
    assert metric_words("f1_macro") == "F1 (macro)"
    assert metric_words("iou", "ice") == "IoU of ice"


def test_panels_show_all_of_a_large_scene(monkeypatch, tmp_path):
    """One pixel in n along each side, of image, label and prediction alike."""
    import torch
    from small_data import contract_of, make_catalog, make_model

    from sartransfer import panels
    from sartransfer.evaluate import SceneScore, TestScores
    from sartransfer.models.checkpoint import Checkpoint
    from sartransfer.readers import open_entry, read_label
    from sartransfer.recipe import parse_recipe
    from sartransfer.results import ScoredRun

    catalog = make_catalog(tmp_path, {"train": 1, "test": 1}, size=70)
    model = make_model("resnet18-aspp", {"aspp_channels": 4, "rates": [1, 2, 3]}).eval()
    checkpoint = Checkpoint(model, catalog.classes, contract_of(catalog), {}, tmp_path)
    recipe = parse_recipe({
        "name": "x", "task": "segment", "data": {"catalog": "x"}, "model": {"name": "unet-resnet18"},
        "initializations": {"a": "random"}, "seeds": 1, "primary": {"metric": "accuracy"},
    })  # fmt: skip
    monkeypatch.setattr(panels, "LARGEST", 25)
    monkeypatch.setattr(panels, "ROWS", 8)
    scored = SceneScore("test0", "test0", np.eye(2, dtype=np.int64))
    run = ScoredRun("a", 1.0, 0, {"test": TestScores("test", catalog.classes, (scored,))})
    runs, checkpoints = {"a": run}, {"a": checkpoint}
    panels.write_panel(tmp_path / "p.npz", catalog, "test0", "best", runs, checkpoints, "test", recipe)
    (entry,) = catalog.in_split("test")
    scene = open_entry(entry)
    with torch.no_grad():
        image = torch.from_numpy(checkpoint.contract.read(scene).data)[None]
        predicted = model(image).argmax(1)[0].numpy()
    with np.load(tmp_path / "p.npz") as kept:
        np.testing.assert_array_equal(kept["image"], scene.read().data[:, ::3, ::3])
        np.testing.assert_array_equal(kept["label"], read_label(entry, catalog)[::3, ::3])
        np.testing.assert_array_equal(kept["predictions"][0], predicted[::3, ::3])
        assert (kept["size"].tolist(), int(kept["step"]), int(kept["seed"])) == ([70, 70], 3, 0)
        assert np.isnan(kept["pixel_m"])  # the scene lies on no map

"""The report's section on ensembles and calibration, from made-up logits: nothing below was measured."""

import base64
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from test_80_report import SCRIPT, Page, edit, make_results

from sartransfer import figures, report
from sartransfer.certainty import calibration_json, ensembles_json
from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.recipe import parse_recipe
from sartransfer.results import ScoredRun

CLASSES = ("settlement", "industry", "transport", "agriculture", "vegetation", "bare", "water")


def make_scores(rng, test_set, number, skill, sharpness):
    truth = rng.integers(0, len(CLASSES), number)
    logits = sharpness * (
        rng.normal(size=(number, len(CLASSES))) + skill * np.eye(len(CLASSES))[truth]
    ).astype(np.float32)
    empty = np.zeros((len(CLASSES),) * 2, dtype=np.int64)
    chips = [
        SceneScore(f"c{i}", f"g{i % 9}", empty, row, int(y))
        for i, (row, y) in enumerate(zip(logits, truth, strict=True))
    ]
    return TestScores(test_set, CLASSES, tuple(chips))


def add_noise(rng, found):
    chips = tuple(
        SceneScore(s.id, s.group, s.confusion, s.logits + rng.normal(0, 1.5, 7).astype("f4"), s.label)
        for s in found.scenes
    )
    return TestScores(found.test_set, CLASSES, chips)


def make_patches(folder, *, starts=3, fractions=(1.0,), bagged=(), seeds=6, sure=(), **more):
    """A comparison of patches with ensembles and calibration; `sure` starts never err on validation."""
    make_results(
        folder, task="classify", classes=CLASSES, starts=starts, fractions=fractions, panels=False, seeds=seeds,
        **more,
    )  # fmt: skip
    names = json.loads((folder / "results.json").read_text())["initializations"]
    recipe = parse_recipe({
        "name": "fixture", "task": "classify", "data": {"catalog": "none.csv"}, "model": {"name": "resnet18"},
        "initializations": {n: {"from": "random", "training": {"bootstrap": n in bagged}} for n in names},
        "seeds": seeds, "fractions": list(fractions), "primary": {"metric": "accuracy"},
    })  # fmt: skip
    runs, held = [], {}
    for i, name in enumerate(names):
        for fraction in fractions:
            for seed in range(seeds):
                rng = np.random.default_rng([i, seed])
                parts = {
                    t: make_scores(np.random.default_rng([7, j]), t, 700, 2.2 + 0.5 * i - 0.5 * j, 2)
                    for j, t in enumerate(("test-a", "test-b"))
                }
                noisy = {t: add_noise(rng, found) for t, found in parts.items()}
                key = (name, fraction, seed)
                runs.append(ScoredRun(*key, noisy))
                skill = 20 if name in sure else 2.2
                held[key] = add_noise(rng, make_scores(rng, "validation", 300, skill, 2))
    values = {
        "ensembles": ensembles_json(runs, recipe),
        "calibration": calibration_json(runs, held, recipe),
    }
    return edit(folder, lambda r: r.update(values))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    return make_patches(folder, bagged=("sar",), sure=("optical",), fractions=(1.0, 0.1))


def test_ensembles_and_calibration_have_a_section(full):
    page = Page(report.write_report(full))
    assert not page.open
    assert {"ensembles"} <= {s.get("id") for s in page.named("section")}
    results = json.loads((full / "results.json").read_text())
    text = page.text[page.text.index("The runs of all seeds as one") :]
    assert "marked bagged , each run trained on patches drawn with replacement" in text
    for entry in results["ensembles"]:
        words = [f"{entry[k]:.4f}".removeprefix("0") for k in ("accuracy", "low", "high")]
        assert "{} [{}, {}]".format(*words) in text
        row = text[text.index(f"{entry['initialization']} 6 ") :]
        assert row.startswith(f"{entry['initialization']} 6 {'bagged' if entry['bagged'] else 'seeds'}")
    for row in results["calibration"]:
        if row["initialization"] == "optical":
            assert row["temperature"] is None
            assert "none 0 of 6 runs" in text
        else:
            assert f"{row['temperature']:.2f} 6 of 6 runs" in text
            moved = [f"{row[k]:.3f}".removeprefix("0") for k in ("ece_before", "ece_after")]
            assert " → ".join(moved) in text
    alts = [i["alt"] for i in page.named("img") if i["alt"].startswith("Reliability")]
    assert len(alts) == 4  # two test sets, two shares


def test_no_bag_is_said_where_there_is_none(tmp_path):
    folder = make_patches(tmp_path, starts=2, seeds=2)
    text = Page(report.write_report(folder)).text
    assert "No bagging: the runs trained on the same patches" in text
    assert "6 bagged" not in text


def test_without_them_the_report_is_as_it_was(tmp_path):
    """Older results, and scenes: no section, no link to one."""
    older = make_results(tmp_path, task="classify", panels=False)
    first = report.write_report(older).read_text()
    assert "nsembles" not in first
    edit(older, lambda r: r.update(ensembles=[], calibration=[]))
    assert report.write_report(older).read_text() == first


def test_the_figure_names_the_starts_and_is_safe(full, tmp_path):
    results = report.read_results(full)
    assert figures.draw_reliability(results | {"calibration": []}, 1.0) is None
    assert figures.draw_reliability(results, 0.5) is None
    both, one = figures.draw_reliability(results, 1.0), figures.draw_reliability(results, 1.0, "test-b")
    assert len([a for a in both.axes if a.get_visible()]) == 6
    shown = [a for a in one.axes if a.get_visible()]
    assert [a.get_title(loc="left") for a in shown] == ["random", "optical", "sar"]
    found = {c["initialization"]: c for c in results["calibration"] if c["test_set"] == "test-b"}
    for axes in shown:
        cells = found[axes.get_title(loc="left")]["bins_before"]
        drawn = axes.collections[-1].get_offsets()
        assert np.asarray(drawn) == pytest.approx(np.array([[b["confidence"], b["accuracy"]] for b in cells]))
    path = full / "results.json"
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "results.json").write_text(path.read_text().replace('"sar"', json.dumps(f"$x_{{1}}${SCRIPT}")))
    page = Page(report.write_report(evil))
    assert page.named("script") == []
    for image in page.named("img"):
        root = ElementTree.fromstring(base64.b64decode(image["src"].split(",", 1)[1]))
        assert not [e for e in root.iter() if e.tag.endswith("script")]
    assert "reliability.png" in [p.name for p in report.write_figures(evil, evil / "figures")]

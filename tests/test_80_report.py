"""The report and its figures, on fabricated results: every number below is a fixture, measured nowhere."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sartransfer import figures, pictures, report
from sartransfer.errors import InputError, OutputError

SCRIPT = "<script>alert(1)</script>"
NAMES = ("random", "optical", "sar", "optical-then-sar", "foundation", "remote-sensing")


def make_results(
    tmp_path,
    *,
    task="segment",
    name="fixture: floods",
    starts=3,
    test_sets=2,
    seeds=6,
    fractions=(1.0,),
    classes=("dry", "flooded"),
    panels=True,
    failed=False,
    simulated=False,
):
    """Write a comparison's folder with fabricated numbers and return it."""
    rng = np.random.default_rng(7)
    names, sets = NAMES[:starts], [f"test-{chr(97 + i)}" for i in range(test_sets)]
    primary = (
        {"metric": "iou", "class": "flooded"} if task == "segment" else {"metric": "accuracy", "class": ""}
    )
    others = [{"metric": "f1", "class": c} for c in classes] + [{"metric": "cohen_kappa", "class": ""}]
    score = {
        (n, f, t): 0.62 + 0.03 * i + 0.05 * np.log10(f) - 0.07 * j + 0.012 * rng.standard_normal(seeds)
        for i, n in enumerate(names)
        for f in fractions
        for j, t in enumerate(sets)
    }
    results = {
        "sartransfer": "0.1.0", "name": name, "task": task, "simulated": simulated,
        "created": "2026-01-02T03:04:05Z", "classes": list(classes), "primary": primary, "baseline": "random",
        "initializations": list(names), "fractions": list(fractions), "seeds": list(range(seeds)),
        "verdict": [
            f"{names[-1]} is the best start here: 6 points above random.",
            "On this test set that is certain; on new events there are too few to tell.",
            "optical and sar cannot be told apart.",
        ],
        "test_sets": [
            {"name": t, "scenes": 40, "groups": 4 - i % 3, "events_unseen": i != 1,
             "relation": "same scenes" if i == 1 else "unseen events"}
            for i, t in enumerate(sets)
        ],
        "table": [
            _row(key, m, values + shift)
            for m, shift in [(primary, 0), *((o, 0.05) for o in others)]
            for key, values in score.items()
        ],
        "contrasts": [
            _contrast(a, "random", f, t, primary, score[a, f, t] - score["random", f, t], new=t != "test-b")
            for a in names[1:]
            for f in fractions
            for t in sets
        ],
        "runs": [_run(rng, n, f, s, i) for i, n in enumerate(names) for f in fractions for s in range(seeds)],
        "confusion": [
            {"initialization": n, "fraction": f, "test_set": t, "matrix": _matrix(rng, len(classes))}
            for n, f, t in score
        ],
        "initialization_reports": {n: _loading(n) for n in names},
        "recipe": "task: segment\nmodel: unet\n", "recipe_hash": "c0ffee",
        "environment": {
            "python": "3.11.9", "platform": "Linux", "processor": "fixture processor", "cores": 2,
            "memory_gib": 7.8, "device": "cpu", "precision": "32", "packages": {"torch": "2.6.0"},
            "commit": "abc1234", "dirty": True,
        },
        "data": {
            "catalog": "fixture", "source": "made for a test, see https://example.org/terms", "hash": "beef",
            "splits": {"train": {"scenes": 200, "groups": 9}, "validation": {"scenes": 50, "groups": 2}},
            "normalization": [{"name": "vv_after", "unit": "dB", "mean": -11.2, "std": 4.31}],
        },
        "looks": [{"time": "2026-01-02", "test_set": sets[0], "recipe_hash": "c0ffee", "runs": 18}],
        "warnings": ["The label of scene 17 is all ignored."],
    }  # fmt: skip
    if failed:
        results["runs"][1] |= {"status": "failed", "error": f"OutOfMemoryError: {SCRIPT}", "curves": None}
        results["runs"][2] |= {"status": "missing", "epochs": None, "best_epoch": None, "seconds": None}
        results["runs"][2]["curves"] = None
    (tmp_path / "results.json").write_text(json.dumps(results))
    if panels:
        (tmp_path / "panels").mkdir(exist_ok=True)
        for i, (t, rank) in enumerate((t, rank) for t in sets[:2] for rank in report.RANKS):
            save_panel(tmp_path / "panels" / f"{t}-{rank}.npz", names, classes, task, rank, seed=i)
    return tmp_path


def save_panel(path, names, classes, task, rank, *, seed):
    rng = np.random.default_rng(seed)
    size = 96 if task == "segment" else 48
    y, x = np.mgrid[:size, :size] / size
    wave = np.sin(5 * x + seed) + np.cos(6 * y * x + seed)
    label = np.digitize(wave, np.quantile(wave, np.linspace(0, 1, len(classes) + 1)[1:-1])).astype(np.uint8)
    image = np.stack([rng.normal(size=label.shape), rng.gamma(4, 1 / 4, label.shape) - label, wave])
    image = image.astype(np.float32)
    if task == "segment":
        image[:, -8:, :] = np.nan
        wrong = [np.roll(label, 2 + 2 * i, axis=1) for i in range(len(names))]
        label[-8:] = 255
    else:
        wrong = [np.uint8((i + seed) % len(classes)) for i in range(len(names))]
        label = np.uint8(seed % len(classes))
    np.savez(
        path, image=image, band_names=np.array(["vv_before", "vv_after", "vv_change"]), label=label,
        scene=np.array(f"scene-{seed:03d}"), rank=np.array(rank), initializations=np.array(names),
        predictions=np.stack(wrong), scores=np.linspace(0.5, 0.9, len(names)),
    )  # fmt: skip


def _row(key, metric, values):
    half = 2.57 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    mean = float(values.mean())
    return dict(zip(("initialization", "fraction", "test_set"), key, strict=True)) | metric | {
        "mean": mean, "low": mean - half if half else None, "high": mean + half if half else None,
        "sd": float(values.std()), "n_seeds": len(values), "values": values.tolist(),
    }  # fmt: skip


def _contrast(a, b, fraction, test_set, metric, d, *, new):
    mean, half = float(d.mean()), 2.57 * float(d.std(ddof=1)) / len(d) ** 0.5 if len(d) > 1 else 0.01
    here = {
        "scope": "on this test set", "mean": mean, "low": mean - half, "high": mean + half, "p_value": 0.03,
        "p_adjusted": 0.04, "verdict": "better" if mean > half else "too few runs to tell",
        "reason": f"The difference is {100 * mean:+.2f} points over {len(d)} paired runs (p = 0.03).",
    }  # fmt: skip
    wide = {"mean": mean, "low": mean - 0.06, "high": mean + 0.06, "verdict": "too few runs to tell"}
    none = {"mean": None, "low": None, "high": None, "verdict": "not estimable"}
    there = {
        "scope": "on new events", "p_value": None, "p_adjusted": None, **(wide if new else none),
        "reason": "The interval includes 0 and reaches beyond 1 point."
        if new else "The groups were also seen in training, so they say nothing about new events.",
    }  # fmt: skip
    return metric | {
        "a": a, "b": b, "fraction": fraction, "test_set": test_set, "difference": mean, "effect_size": 2.3,
        "per_seed": d.tolist(), "statements": [here, there],
    }  # fmt: skip


def _run(rng, name, fraction, seed, level):
    epochs = int(rng.integers(14, 30))
    t = np.arange(1, epochs + 1)
    noise = 0.02 * rng.standard_normal(epochs)
    return {
        "initialization": name, "fraction": fraction, "seed": seed, "status": "finished", "error": None,
        "epochs": epochs, "best_epoch": epochs - 5, "seconds": 61.5 * epochs, "folder": f"runs/{name}",
        "curves": {
            "epoch": t.tolist(), "train_loss": np.exp(-t / 9).tolist(),
            "validation_loss": (0.3 + np.exp(-t / (9 - level)) + noise).tolist(),
            "validation_metric": (0.6 + 0.02 * level - 0.5 * np.exp(-t / (9 - level)) + noise).tolist(),
            "learning_rate": [1e-3] * epochs,
        },
    }  # fmt: skip


def _matrix(rng, number):
    matrix = rng.integers(0, 400, (number, number)) + 4000 * np.eye(number, dtype=int)
    return matrix.tolist()


def _loading(name):
    loaded = {} if name == "random" else {"loaded": 11_100_000, "adapted": 9_408, "frozen": 0}
    counts = {"loaded": 0, "adapted": 0, "frozen": 0} | loaded
    counts |= {"random": 14_320_000 - counts["loaded"] - counts["adapted"], "total": 14_320_000}
    one = {
        "source": "drawn at random" if name == "random" else f"weights of {name}",
        "loaded": [] if name == "random" else ["encoder.layer1.0.conv1.weight"],
        "adapted": ["encoder.conv1.weight"],
        "random": ["decoder.blocks.0.conv1.0.weight"], "frozen": [], "ignored": ["fc.weight"],
        "parameters": counts, "first_layer": "3 optical bands were averaged and repeated for 3 radar bands.",
        "partial": name == "sar", "notes": ["The batch statistics were loaded too."],
    }  # fmt: skip
    return one | {"links": [one] if name == "optical-then-sar" else []}


def edit(folder, change):
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))
    return folder


class Page(html.parser.HTMLParser):
    """Every tag with its attributes, and the text outside style sheets."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every element is closed where it should be

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = make_results(
        tmp_path_factory.mktemp("full"), name=f"recipe {SCRIPT}", failed=True, simulated=True
    )
    return report.write_report(folder)


def test_report_answers_first_and_holds_every_part(full):
    page = Page(full)
    assert full.name == "report.html"
    assert not page.open
    assert [p.name for p in full.parent.iterdir() if p.name.endswith(".tmp")] == []
    order = [
        "sar is the best start here", "Simulated data", "What may be said", "On this test set",
        "On new events", "Scores", "Learning curves", "Confusion", "best, median, worst",
        "Where every parameter", "Data",
        "Looks at test scores", "task: segment", "fixture processor", "The label of scene 17",
    ]  # fmt: skip
    places = [page.text.index(words) for words in order[:2]]
    body = page.text.index("The groups were also seen in training")
    assert places == sorted(places)
    assert all(words in page.text for words in order)
    assert places[1] < body
    assert "Partial load." in page.text
    assert all(image["alt"] for image in page.named("img"))


def test_foreign_text_is_escaped_everywhere(tmp_path):
    def poison(value):
        if isinstance(value, dict):
            return {k: poison(v) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v) for v in value]
        keep = ("segment", "iou", "flooded", "random", "optical", "sar", "finished", "on this test set")
        free = isinstance(value, str) and value not in (*keep, "on new events", "test-a", "test-b", "better")
        return f'{value}{SCRIPT}"onload="$x_{{1}}&' if free else value

    folder = make_results(tmp_path, failed=True)
    edit(folder, lambda r: r.update(poison(r)))
    path = report.write_report(folder)
    page = Page(path)
    assert "<script" not in path.read_text()
    assert page.named("script") == []
    assert page.text.count(SCRIPT) > 30  # it is shown as words
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]


def test_an_initialization_named_like_markup_is_harmless_in_the_plots_too(tmp_path):
    folder = make_results(tmp_path, panels=False)
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"optical"', json.dumps("a$b</text><script>\x01")))
    page = Page(report.write_report(folder))
    svgs = [i["src"] for i in page.named("img") if i["src"].startswith("data:image/svg+xml;base64,")]
    assert len(svgs) == 6  # differences, scores, curves, means by epoch, two test sets' confusion
    for svg in svgs:
        root = ElementTree.fromstring(base64.b64decode(svg.split(",", 1)[1]))
        assert not [e for e in root.iter() if e.tag.endswith("script")]


def test_nothing_is_asked_from_elsewhere(full):
    page = Page(full)
    references = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset", "data")]
    assert references
    assert all(r.startswith(("data:image/", "#")) for r in references)
    assert "url(" not in full.read_text()
    assert "@import" not in full.read_text()
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    anchors = {a["href"][1:] for a in page.named("a")}
    assert anchors <= {a["id"] for a in page.named("section")}


def test_failed_and_missing_runs_are_told_with_their_error(full):
    page = Page(full)
    assert "16 of 18 runs finished" in page.text
    assert "2 runs failed or missing" in page.text
    assert f"OutOfMemoryError: {SCRIPT}" in page.text


def test_undefined_is_never_zero(tmp_path):
    def blank(results):
        for row in results["table"]:
            if row["initialization"] == "sar":
                row.update(mean=float("nan"), low=None, high=None, sd=None, values=[None] * 6)
            elif row["initialization"] == "optical":
                row["values"][0] = None
        for c in results["contrasts"]:
            if c["a"] == "sar":
                c.update(difference=None, effect_size=None, per_seed=[None] * 6)
                for s in c["statements"]:
                    s.update(
                        mean=None, low=None, high=None, verdict="not estimable", reason="It is undefined."
                    )

    folder = edit(make_results(tmp_path), blank)
    np.savez(folder / "panels" / "x.npz", a=1)
    with pytest.raises(InputError, match="not a panel"):
        report.write_report(folder)
    (folder / "panels" / "x.npz").unlink()
    page = Page(report.write_report(folder))
    table = page.text[page.text.index("mean [95 % interval]") :]
    row = table[table.index(" sar ") :][:60]
    assert row.startswith(" sar undefined 6 seeds undefined 6 seeds")
    assert "1 undefined" in page.text
    assert report.write_figures(folder, tmp_path / "f")


def test_results_without_any_number_still_make_a_page(tmp_path):
    folder = make_results(tmp_path, panels=False, starts=1)
    edit(
        folder,
        lambda r: r.update(table=[], contrasts=[], runs=[], confusion=[], looks=[], verdict=[], warnings=[]),
    )
    text = Page(report.write_report(folder)).text
    assert "The results hold no verdict." in text
    assert "There is no score yet." in text
    assert report.write_figures(folder, tmp_path / "f") == []


def test_with_many_differences_the_unseen_events_together_come_first(tmp_path):
    def pool(results):
        rows = [c for c in results["contrasts"] if c["test_set"] == "test-c"]
        results["contrasts"] += [c | {"test_set": "unseen events"} for c in rows]

    folder = edit(make_results(tmp_path, starts=4, test_sets=3, panels=False), pool)
    text = Page(report.write_report(folder)).text
    at_once, folded = text[text.index("a − b") :].split("All other differences (9)")
    folded = folded[: folded.index("Scores")]
    assert at_once.count("unseen events") == 3
    assert "test-a" not in at_once
    assert all(folded.count(f"random {name}") == 3 for name in ("test-a", "test-b", "test-c"))


def test_one_seed_has_no_interval(tmp_path):
    assert "(no interval)" in Page(report.write_report(make_results(tmp_path, seeds=1))).text


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.7124, ".712"), (1.0, "1.000"), (-0.0414, "−.041"), (None, "undefined"), (-0.0001, ".000")],
)
def test_number_words(value, words):
    assert report.number_words(value) == words


def test_an_estimate_has_no_more_decimals_than_its_interval_bears():
    assert report.estimate_words({"mean": 0.712, "low": 0.690, "high": 0.734}) == ".712 [.690, .734]"
    assert report.estimate_words({"mean": 0.712, "low": 0.5, "high": 0.9}) == ".71 [.50, .90]"
    words = report.estimate_words({"mean": 0.041, "low": -0.002, "high": 0.08}, sign=True)
    assert words == "+.041 [−.002, +.080]"
    assert report.estimate_words({"mean": None, "low": None, "high": None}) == "undefined"


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        ("by-seed", "Each seed draws its own scenes"),
        ("once", "All seeds share one draw of the scenes"),
        (None, ""),
    ],
)
def test_the_report_says_which_labels_a_share_holds(tmp_path, draw, words):
    """Results of older versions do not tell, and the page then says nothing."""
    folder = make_results(tmp_path, panels=False, fractions=(1.0, 0.1), starts=2)
    if draw:
        edit(folder, lambda r: r.update(fraction_draw=draw))
    page = report.write_report(folder).read_text()
    said = [
        s for s in ("Each seed draws its own scenes", "All seeds share one draw of the scenes") if s in page
    ]
    assert said == ([words] if words else [])


def test_write_figures_draws_png_from_results_alone(tmp_path):
    folder = make_results(tmp_path, panels=False, fractions=(1.0, 0.1), starts=2)
    paths = report.write_figures(folder, tmp_path / "f")
    assert [p.name for p in paths] == [
        *("scores.png", "differences.png", "curves.png", "epochs.png", "confusion.png"),
        "label-efficiency.png",
    ]
    assert {p.name for p in (tmp_path / "f").iterdir()} == {p.name for p in paths}
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
    first = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in report.write_figures(folder, tmp_path / "f")] == first


def test_missing_damaged_and_incomplete_results_are_refused(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        report.write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        report.write_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks .*verdict"):
        report.write_report(tmp_path)
    folder = edit(make_results(tmp_path), lambda r: r["environment"].pop("device"))
    with pytest.raises(InputError, match="device"):
        report.write_report(folder)
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    folder = make_results(tmp_path, panels=False, starts=2, test_sets=1)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        report.write_report(folder, out=tmp_path / "taken")
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "taken"}


def test_colours_belong_to_the_initialization():
    results = {"initializations": ["a", "random", "b"], "baseline": "random"}
    colours = figures.initialization_colours(results)
    assert colours["random"] == figures.BASELINE_COLOUR
    assert len(set(colours.values())) == 3


def decoded(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def test_error_picture_marks_exactly_the_wrong_pixels():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(2, 40, 50))
    label = rng.integers(0, 3, (40, 50)).astype(np.uint8)
    prediction = rng.integers(0, 3, (40, 50)).astype(np.uint8)
    label[:5] = 255
    factor = pictures.PICTURE_SIZE // 50
    picture = decoded(pictures.make_error_picture(image, (1,), label, prediction, 3))
    assert picture.shape == (40 * factor, 50 * factor, 3)
    purple = (picture == [0x8E, 0x24, 0xAA]).all(axis=-1)
    wrong = (label != prediction) & (label != 255)
    np.testing.assert_array_equal(purple, np.kron(wrong, np.ones((factor, factor), dtype=bool)))


def test_class_picture_shows_each_class_in_its_colour_and_hatches_the_ignored():
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    classes[2, 3] = 255
    shades = pictures.class_colours(11)
    picture = decoded(pictures.make_class_picture(classes, shades))
    factor = pictures.PICTURE_SIZE // 4
    for (row, column), value in np.ndenumerate(classes):
        block = picture[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor].reshape(
            -1, 3
        )
        seen = {"#" + bytes(c.tolist()).hex() for c in np.unique(block, axis=0)}
        assert seen == ({shades[value].lower()} if value != 255 else set(pictures.IGNORED_COLOURS))


def test_an_answer_without_a_label_shows_through_the_hatching():
    """Over land a class can be told, and that it is not counted: its colour, and that mixed with the grey."""
    classes = np.zeros((400, 400), dtype=np.uint8)
    classes[:, 200:] = 1
    unlabelled = np.zeros((400, 400), dtype=bool)
    unlabelled[200:] = True
    plain = decoded(pictures.make_class_picture(classes, pictures.class_colours(2)))
    picture = decoded(pictures.make_class_picture(classes, pictures.class_colours(2), unlabelled))
    np.testing.assert_array_equal(picture[:100], plain[:100])
    for columns in (slice(0, 100), slice(100, 200)):
        own, below = plain[0, columns.start], picture[100:, columns].reshape(-1, 3)
        grey = np.array([int(pictures.IGNORED_COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)])
        mixed = (own.astype(int) + grey) // 2
        assert {tuple(c) for c in np.unique(below, axis=0).tolist()} == {
            tuple(own.tolist()),
            tuple(mixed.tolist()),
        }
        assert (below == own).all(axis=1).mean() == pytest.approx(0.5, abs=0.02)


def test_large_scenes_are_thinned_on_the_same_grid():
    label = np.zeros((1500, 900), dtype=np.uint8)
    label[::4, ::4] = 1
    assert pictures.picture_step(1500, 900) == 4
    picture = decoded(pictures.make_class_picture(label, pictures.class_colours(2)))
    assert picture.shape[:2] == (375, 225)
    assert {"#" + bytes(c.tolist()).hex() for c in np.unique(picture.reshape(-1, 3), axis=0)} == {"#26648e"}


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (["vv_before", "vv_after", "vv_change"], (1,)),
        (["hh", "hv", "incidence_angle"], (1,)),
        (["vh_after", "vv_after", "vh_before"], (1,)),
        (["blue", "green", "red", "nir"], (2, 1, 0)),
        (["elevation"], (0,)),
    ],
)
def test_shown_bands(names, bands):
    assert pictures.shown_bands(names) == bands


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on PATH")
    return path


QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps"),
    *("--enable-logging=stderr", "--v=0"),
)


def browse(chromium, page, folder):
    """Open the page in a fresh browser; return its console lines and the addresses that the page asked for.

    The browser itself asks for a few of its own (the time, say); those have no origin in its net log.
    """
    folder.mkdir()
    log, profile = folder / "net.json", folder / "profile"
    arguments = [*QUIET, f"--user-data-dir={profile}", "--window-size=1280,2000", f"--log-net-log={log}"]
    arguments += [f"--screenshot={folder / 'page.png'}", page.as_uri()]
    done = subprocess.run([chromium, *arguments], capture_output=True, text=True, timeout=60, check=True)
    asked = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    mine = {p["url"] for p in asked if "url" in p and p.get("initiator", "not an origin") != "not an origin"}
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], mine


def test_a_browser_opens_it_offline_without_a_complaint(chromium, full, tmp_path):
    console, asked = browse(chromium, full, tmp_path / "report")
    assert console == []
    assert {url for url in asked if not url.startswith(("data:", "file:"))} == set()
    with Image.open(tmp_path / "report" / "page.png") as image:
        page = np.asarray(image.convert("L"))
    assert page.shape == (2000, 1280)
    assert (page < 128).mean() > 0.005  # it drew something

    # The check bites: a page that leaks, and one whose policy has to stop a script, are both noticed.
    leak, blocked = tmp_path / "leak.html", tmp_path / "blocked.html"
    leak.write_text('<img src="http://127.0.0.1:9/leak.png">')
    assert "http://127.0.0.1:9/leak.png" in browse(chromium, leak, tmp_path / "leak")[1]
    blocked.write_text(full.read_text().replace("</main>", "<script>document.title = 1</script></main>"))
    assert browse(chromium, blocked, tmp_path / "blocked")[0]


def test_the_axis_of_scores_ends_where_scores_do():
    row = {"initialization": "random", "test_set": "test", "fraction": 1.0, "metric": "accuracy", "class": None,
           "values": [0.4, 0.9], "mean": 0.65, "low": -2.5, "high": 3.8}  # fmt: skip
    results = {"table": [row], "initializations": ["random"], "primary": {"metric": "accuracy", "class": None},
               "test_sets": [{"name": "test"}], "baseline": "random"}  # fmt: skip
    (axes,) = figures.draw_scores(results, 1.0).axes
    low, high = axes.get_xlim()
    assert -0.1 < low < 0 < 1 < high < 1.1

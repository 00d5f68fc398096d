"""One self-contained page for a comparison: the answer first, then everything it stands on.

`write_report` reads a comparison's folder and writes `report.html`, which opens offline; all that comes from
outside is escaped by the template. `write_figures` writes the plots alone.
"""

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sartransfer.errors import InputError
from sartransfer.npz import UNREADABLE_ZIP, check_members
from sartransfer.results_file import Results, naming_damage, read_results
from sartransfer.rule_tables import add_rules, rule_view
from sartransfer.scene_tables import scene_figures, scene_view
from sartransfer.tables import patch_figures, patch_view, resampled_view
from sartransfer.wholefile import write_bytes
from sartransfer.wording import (
    duration_words,
    estimate_words,
    metric_words,
    number_words,
    p_words,
    verdict_parts,
)

View = dict[str, Any]

PANEL_KEYS = ("image", "band_names", "label", "scene", "rank", "initializations", "predictions", "scores")
PANEL_FACTS = ("size", "step", "pixel_m", "seed")  # panels of before are without
NO_PANEL: tuple[type[Exception], ...] = (*UNREADABLE_ZIP, LookupError, TypeError)
"""What a file that is no panel, or a damaged one, ends in."""
RANKS = ("best", "median", "worst")
ORIGINS = ("loaded", "adapted", "random", "frozen")
SIGNS = {
    "better": "▲",
    "worse": "▼",
    "no difference found": "=",
    "too few runs to tell": "?",
    "not estimable": "–",
}
PIXELS_PER_INCH = 102
ROWS_AT_ONCE = 8
"""So many differences are in view beside the verdict; the others are folded."""


def write_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write the report of the comparison in `folder` and return its path (default `folder`/report.html).

    Reads results.json and panels/*.npz. The file needs nothing else: no network, no script, no other file.
    Raises InputError for results that are missing, damaged or incomplete, OutputError where it cannot write.
    """
    import jinja2

    results = read_results(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sartransfer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number_words,
        "estimate": estimate_words,
        "duration": duration_words,
        "p_value": p_words,
    }
    with naming_damage(folder):
        html = environment.get_template("report.html").render(_view(results, folder / "panels"))
    return write_bytes(out or folder / "report.html", html.encode())


def write_figures(folder: Path, out: Path) -> list[Path]:
    """Write the plots of the comparison in `folder` as PNG files into the folder `out`; return them.

    They are drawn from results.json alone, at the largest share of the labels: scores, differences, curves
    and confusion, label-efficiency where there are several shares, and reliability of classified patches. No
    image of a scene is shown. Plots of which the results hold nothing are left out. Raises as `write_report`
    does.
    """
    from sartransfer import figures

    results = read_results(folder)
    with naming_damage(folder):
        largest = max(results["fractions"])
        drawn = {
            "scores": figures.draw_scores(results, largest),
            "differences": figures.draw_differences(results, largest),
            "curves": figures.draw_curves(results, largest),
            "epochs": figures.draw_epochs(results, largest),
            "confusion": figures.draw_confusion(results, largest),
            "label-efficiency": figures.draw_label_efficiency(results),
            "reliability": figures.draw_reliability(results, largest),
            **patch_figures(results, largest),
            **scene_figures(results, largest),
        }
        pictures = {name: figures.render(figure, "png") for name, figure in drawn.items() if figure}
    return [write_bytes(out / f"{name}.png", content) for name, content in pictures.items()]


def _view(results: Results, panels: Path) -> View:
    """Return everything the template shows, worked out and in order."""
    from sartransfer import figures, pictures

    largest = max(results["fractions"])
    colours = figures.initialization_colours(results)
    fractions = sorted(results["fractions"], reverse=True)
    failed = [r for r in results["runs"] if r["status"] != "finished"]
    seconds = [r["seconds"] for r in results["runs"] if r["seconds"] is not None]
    at_once, folded = _differences(results, largest)
    shown = _panels(results, panels)
    return {
        "r": results,
        "many": results.get("groups_are", "events"),
        "scenes": scene_view(results, _image),
        **rule_view(results),
        "resampled": resampled_view(results),
        "ranked": any(not panel["alone"] for panel in shown),
        "metric": metric_words(results["primary"]["metric"], results["primary"]["class"]),
        "verdict": verdict_parts(results["verdict"], results["contrasts"]),
        "colours": colours,
        "signs": SIGNS,
        "several": len(fractions) > 1,
        "statements": at_once,
        "more_statements": folded,
        "plots": [_plots(results, fraction) for fraction in fractions],
        "efficiency": _image(
            figures.draw_label_efficiency(results),
            "The primary score against the share of the training labels.",
        ),
        "tables": _tables(results),
        "epochs": _epochs(results),
        "ensembles": _ensembles(results),
        "patches": patch_view(results, _image),
        "panels": shown,
        "legend": list(zip(results["classes"], _shades(results["classes"]), strict=True)),
        "error_colour": pictures.ERROR_COLOUR,
        "ignored_colours": pictures.IGNORED_COLOURS,
        "initializations": [
            {
                "name": name,
                "colour": colours[name],
                "report": _loading(results["initialization_reports"].get(name)),
            }
            for name in results["initializations"]
        ],
        "origins": ORIGINS,
        "finished": len(results["runs"]) - len(failed),
        "failed": failed,
        "seconds": sum(seconds) if seconds else None,
    }


def _differences(results: Results, fraction: float) -> tuple[list[View], list[View]]:
    """Return the differences to show beside the verdict, and the others (other pairs, metrics, shares)."""
    from sartransfer import figures

    first: list[View] = []
    others: list[View] = []
    for c in results["contrasts"]:
        words = {s["scope"]: s for s in c["statements"]}
        row = c | {
            "metric_words": metric_words(c["metric"], c["class"]),
            "fraction_words": figures.fraction_words(c["fraction"]),
            "here": words.get("on this test set"),
            "new": words.get("on new events"),
            "primary": figures.is_primary(c, results),
        }
        planned = results["baseline"] in (c["a"], c["b"]) or c.get("differs") == "training"
        main = row["primary"] and c["fraction"] == fraction and planned
        (first if main else others).append(row)
    if len(first) > ROWS_AT_ONCE:
        kept = figures.ordered_test_sets(first, results)[0]
        others = [row for row in first if row["test_set"] != kept] + others
        first = [row for row in first if row["test_set"] == kept]
    return first, others


def _plots(results: Results, fraction: float) -> View:
    """Return the plots of one share of the labels, None where there is nothing to plot."""
    from sartransfer import figures

    metric = metric_words(results["primary"]["metric"], results["primary"]["class"])
    confusion = [c for c in results["confusion"] if c["fraction"] == fraction]
    return {
        "fraction": figures.fraction_words(fraction),
        "differences": _image(
            figures.draw_differences(results, fraction),
            f"Differences in {metric} with 95 % intervals per test set and a dot per seed; the numbers are"
            " in the tables of differences.",
        ),
        "scores": _image(
            figures.draw_scores(results, fraction),
            f"{metric} of every seed with mean and 95 % interval, by initialization and test set; the numbers"
            " are in the table of scores.",
        ),
        "curves": _image(
            figures.draw_curves(results, fraction),
            f"Validation loss and validation {metric} by epoch, one line per seed; the marks are the best"
            " epochs, listed in the table of epochs.",
        ),
        "epochs": _image(
            figures.draw_epochs(results, fraction),
            f"Validation {metric} and losses by epoch, the mean of each initialization's seeds.",
        ),
        "confusion": [
            {
                "test_set": name,
                "image": _image(
                    figures.draw_confusion(results, fraction, name),
                    f"Confusion matrices on {name}, one per initialization, each row adding up to 100 %.",
                ),
            }
            for name in figures.ordered_test_sets(confusion, results)
        ],
    }


def _tables(results: Results) -> list[View]:
    """Return one table (initialization by test set) per metric and share of the labels, the primary first."""
    from sartransfer import figures

    tables: dict[tuple[str, str, float], View] = {}
    for row in results["table"]:
        key = row["metric"], row["class"], row["fraction"]
        table = tables.setdefault(
            key,
            {
                "metric": metric_words(row["metric"], row["class"]),
                "primary": figures.is_primary(row, results),
                "fraction": figures.fraction_words(row["fraction"]),
                "size": row["fraction"],
                "cells": {},
            },
        )
        missing = sum(v is None for v in row["values"])
        cell = row | {"undefined": missing if row["mean"] is not None else 0}
        table["cells"][row["initialization"], row["test_set"]] = cell
    for (name, class_, _), table in tables.items():
        add_rules(table, {"metric": name, "class": class_}, results)
        sets = {test_set for _, test_set in table["cells"]}
        table["test_sets"] = figures.ordered_test_sets([{"test_set": s} for s in sets], results)
    return sorted(tables.values(), key=lambda t: (not t["primary"], -t["size"]))


def _epochs(results: Results) -> list[View]:
    """Return one row per initialization and share: its seeds' best and last epochs and time."""
    from sartransfer import figures

    rows = []
    for fraction in sorted(results["fractions"], reverse=True):
        for name in results["initializations"]:
            runs = [r for r in results["runs"] if (r["initialization"], r["fraction"]) == (name, fraction)]
            done = [r for r in runs if r["status"] == "finished"]
            if runs:
                row = {"name": name, "fraction": figures.fraction_words(fraction)}
                row["seeds"] = {
                    seed: _of_folds([r for r in runs if r["seed"] == seed])
                    for seed in {r["seed"] for r in runs}
                }
                for key in ("epochs", "best_epoch", "seconds"):
                    values = [r[key] for r in done if r[key] is not None]
                    row[key] = statistics.median(values) if values else None
                rows.append(row)
    return rows


def _of_folds(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the one run of a seed, or the medians of its runs in all folds."""
    if len(runs) == 1:
        return runs[0]
    middle: View = {"status": next((r["status"] for r in runs if r["status"] != "finished"), "finished")}
    for key in ("epochs", "best_epoch"):
        values = [r[key] for r in runs if r[key] is not None]
        middle[key] = f"{statistics.median(values):g}" if values else None
    return middle


def _ensembles(results: Results) -> list[View]:
    """Return, for each share of the labels, its ensembles, calibration rows and reliability diagrams by test set."""
    from sartransfer import figures

    views = []
    for fraction in sorted(results["fractions"], reverse=True):
        parts = [
            [row for row in results.get(key, []) if row["fraction"] == fraction]
            for key in ("ensembles", "calibration")
        ]
        if any(parts):
            names = figures.ordered_test_sets([*parts[0], *parts[1]], results)
            view: View = {"fraction": figures.fraction_words(fraction), "test_sets": []}
            for name in names:
                alt = f"Reliability diagrams on {name}, one per initialization; the numbers are in the table."
                image = _image(figures.draw_reliability(results, fraction, name), alt)
                rows = [[row for row in part if row["test_set"] == name] for part in parts]
                view["test_sets"].append(
                    {"name": name, "joined": rows[0], "calibration": rows[1], "image": image}
                )
            views.append(view)
    return views


def _loading(report: Mapping[str, Any] | None) -> View | None:
    """Return an initialization report with its shares; earlier stages of a chain are in it, the same way."""
    if report is None:
        return None
    numbers = report["parameters"]
    total = numbers["total"]
    shares = {origin: numbers[origin] / total if total else 0.0 for origin in ORIGINS}
    # A frozen parameter was loaded too where the three origins already add up: then it is a bar of its own.
    apart = sum(numbers[origin] for origin in ORIGINS) > total
    return {
        **report,
        "shares": shares,
        "bar": [o for o in ORIGINS if shares[o] > 0 and not (apart and o == "frozen")],
        "frozen_apart": apart and numbers["frozen"] > 0,
        "names": [(o, report[o]) for o in (*ORIGINS, "ignored")],
        "links": [_loading(link) for link in report.get("links", [])],
    }


def _panels(results: Results, folder: Path) -> list[View]:
    """Return the panels by test set, best to worst, as pictures or (task classify) as chips with words."""
    from sartransfer import figures

    shades = _shades(results["classes"])
    found = [_panel(path, results["classes"], shades) for path in sorted(folder.glob("*.npz"))]
    names = figures.ordered_test_sets(found, results)
    place = {rank: i for i, rank in enumerate(RANKS)}
    found.sort(key=lambda p: (names.index(p["test_set"]), place.get(p["rank"], len(place))))
    for panel in found:
        panel["alone"] = sum(p["test_set"] == panel["test_set"] for p in found) == 1
    return found


def _panel(path: Path, classes: Sequence[str], shades: Sequence[str]) -> View:
    import numpy as np

    try:
        check_members(path)
        with np.load(path, allow_pickle=False) as archive:
            data = {key: archive[key] for key in PANEL_KEYS}
            facts = {key: archive[key] for key in PANEL_FACTS if key in archive}
        return _panel_view(path, data, facts, classes, shades)
    except NO_PANEL as error:
        raise InputError(
            f"{path} is not a panel: {error}. Delete it and run the comparison again."
        ) from error


def _panel_view(path: Path, data: View, facts: View, classes: Sequence[str], shades: Sequence[str]) -> View:
    from sartransfer import pictures

    image, label = data["image"], data["label"]
    bands = pictures.shown_bands([str(n) for n in data["band_names"]])
    step = pictures.picture_step(*image.shape[-2:])
    starts = []
    for name, prediction, score in zip(
        data["initializations"], data["predictions"], data["scores"], strict=True
    ):
        start: View = {"name": str(name), "score": float(score) if math.isfinite(score) else None}
        if label.ndim:
            start["prediction"] = _uri(
                pictures.make_class_picture(prediction, shades, label >= len(classes)), "image/png"
            )
            errors = pictures.make_error_picture(image, bands, label, prediction, len(classes))
            start["errors"] = _uri(errors, "image/png")
        else:
            start["predicted"] = _class_words(int(prediction), classes)
            start["right"] = int(prediction) == int(label)
        starts.append(start)
    return {
        "test_set": path.stem.rsplit("-", 1)[0],
        "rank": str(data["rank"]),
        "scene": str(data["scene"]),
        "bands": ", ".join(str(data["band_names"][b]) for b in bands),
        "image": _uri(pictures.make_scene_picture(image, bands), "image/png"),
        "label": _uri(pictures.make_class_picture(label, shades), "image/png") if label.ndim else None,
        "category": None if label.ndim else _class_words(int(label), classes),
        "size": _size_words(image.shape, step, facts if label.ndim else {}),
        "large": step > 1,
        "starts": starts,
    }


def _size_words(shape: Sequence[int], step: int, facts: Mapping[str, Any]) -> str:
    """Return the size of a scene (not of what was kept of it), how much of it is shown, and whose answers these are."""
    height, width = (int(n) for n in facts.get("size", shape[-2:]))
    step *= int(facts.get("step", 1))
    metres = float(facts.get("pixel_m", math.nan))
    words = [f"{width} × {height} pixels"]
    if math.isfinite(metres):
        words[0] += f" of {metres:.3g} m: {width * metres / 1000:.3g} × {height * metres / 1000:.3g} km"
    if step > 1:
        words.append(f"1 in {step} shown along each side")
    if "seed" in facts:
        words.append(f"predictions of seed {int(facts['seed'])}")
    return "; ".join(words)


def _shades(classes: Sequence[str]) -> list[str]:
    from sartransfer import pictures

    return pictures.class_colours(len(classes), classes)


def _class_words(index: int, classes: Sequence[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else "ignored"


def _image(figure: Any, alt: str) -> View | None:
    """Return a plot as a data URI with its width on the page and its words, or None for no plot."""
    from sartransfer import figures

    if figure is None:
        return None
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    return {"uri": _uri(figures.render(figure, "svg"), "image/svg+xml"), "width": width, "alt": alt}


def _uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"

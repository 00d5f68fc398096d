"""The command about areas: how much of each class a map shows, and how certain that is."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from sartransfer.errors import InputError, one_of, refuse_existing, refuse_input
from sartransfer.terminal import err, out, show_path
from sartransfer.wording import NOT_KNOWN, OTHER_DATA, RULE_LABELS, SAME_SCENES

LEFT_OUT = {
    SAME_SCENES: "of the scenes that were trained on",
    RULE_LABELS: "its labels are a rule's, so that its errors are agreement with that rule",
    OTHER_DATA: "from other data",
    NOT_KNOWN: "whether the network was trained on its scenes is not known",
}
"""Relation of a test set (`results.TestSet`) -> why its errors are not joined with others' unless it is named."""


def areas(
    map_path: Annotated[Path, typer.Argument(help="A map of classes: a GeoTIFF.", metavar="MAP")],
    probabilities: Annotated[
        Path | None,
        typer.Option(
            help="The map's probabilities (MAP-probabilities.tif): their sums are told as expected areas."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Scores of the same checkpoints (evaluate --out): areas corrected by its errors on them."
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="A test set of the scores (repeatable; groups of all count). Default: all but those of training's "
            "scenes, of rule labels, from other data, or of which it is not known what they are."
        ),
    ] = None,
    target: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table as JSON too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Tell the area of each class on the ellipsoid, and what the errors of the map's networks make of it."""
    from sartransfer.area_estimates import corrected_areas
    from sartransfer.polygons import check_pair, class_areas, expected_areas
    from sartransfer.runs import write_json

    if target is not None:
        refuse_input(target, [p for p in (map_path, probabilities, scores) if p is not None])
        refuse_existing(target, overwrite)
    found = class_areas(map_path)
    rows: dict[str, dict[str, Any]] = {
        name: {"pixels": pixels, "km2": area / 1e6} for name, (pixels, area) in found.items()
    }
    if probabilities is not None:
        check_pair(map_path, probabilities)
        for name, area in zip(rows, expected_areas(probabilities, len(rows)), strict=True):
            rows[name]["expected_km2"] = area / 1e6
    if scores is not None:
        confusions, relations = _confusions(scores, split, list(rows), map_path)
        used = list(relations)
        estimate = corrected_areas(confusions, np.array([row["km2"] for row in rows.values()]), list(rows))
        for i, row in enumerate(rows.values()):
            row["adjusted_km2"], row["low_km2"], row["high_km2"] = (
                float(values[i]) for values in (estimate.area, estimate.low, estimate.high)
            )
            row["test_sets"], row["groups"] = used, len(confusions)
            row["relations"] = relations
            if estimate.notes:
                row["notes"] = list(estimate.notes)
    _show(rows)
    if scores is not None:
        for note in estimate.notes:
            _tell(f"warning: {note}")
        _tell(
            f"adjusted: by how often the {len(confusions)} test groups' classes are missed and seen where they are "
            "not. In brackets: where the area of one new scene lies in 95 of 100, if this scene is to the test groups "
            "as they are to each other."
        )
    if target is not None:
        write_json(target, rows)
        show_path("areas", target)


def _confusions(
    path: Path, splits: list[str] | None, classes: list[str], map_path: Path
) -> tuple[Any, dict[str, str | None]]:
    """Return confusion matrices by group (G, K, K) from what `evaluate --out` wrote, and the test sets they are of.

    Test sets come with their relation to training, None where the scores do not say it (of an earlier version).

    Groups of several test sets are told apart by set. Without `splits` every set counts that is not left out
    (`LEFT_OUT`), which is said.

    Raises `InputError` for a set that is not there, none that is left, scores of other classes, other networks or
    other views than the map's, where both say.
    """
    from sartransfer.geotiff import opened

    try:
        sets = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(found["scenes"], list) for found in sets.values()):
            raise TypeError("no scenes")
        used = _choose(path, sets, splits)
        with opened(map_path) as file:
            tags = file.tags()
        groups: dict[tuple[str, str], Any] = {}
        for name in used:
            found = sets[name]
            if found["classes"] != classes:
                raise InputError(
                    f"{path} is about the classes {', '.join(found['classes'])}, the map about {', '.join(classes)}."
                )
            _check_network(path, found, tags)
            for scene in found["scenes"]:
                matrix = np.array(scene["confusion"], dtype=np.int64)
                key = (name, scene["group"])
                groups[key] = groups.get(key, 0) + matrix
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not there. Write it: sartransfer evaluate CHECKPOINT ... --out {path}."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no scores as sartransfer evaluate --out writes them ({error})."
        ) from error
    if not groups:
        raise InputError(f"{path} holds no scene of {', '.join(used) or 'any test set'}.")
    _tell(f"test sets: {', '.join(used)} ({len(groups)} groups)")
    names = [group for _, group in groups]
    for name in used:
        scenes = sets[name]["scenes"]
        if len(scenes) > 1 and all(scene["group"] == scene["id"] for scene in scenes):
            _tell(
                f"warning: the scenes of {name} name no group, and each counts as one: if they are pieces of one "
                "event, the interval is too narrow."
            )
    if twice := sorted({group for group in names if names.count(group) > 1}):
        _tell(
            f"warning: {', '.join(twice)} in more than one test set. Each counts as a group of its own: if it is one "
            "event, the interval is too narrow (--split chooses test sets)."
        )
    return np.stack(list(groups.values())), {name: sets[name].get("relation") for name in used}


def _choose(path: Path, sets: dict[str, Any], splits: list[str] | None) -> list[str]:
    """Return the test sets to be joined, and say of the others why they are not."""
    why = {name: _reason(found) for name, found in sets.items() if found.get("relation") in LEFT_OUT}
    for name in splits or ():
        if name not in sets:
            raise InputError(one_of("split", name, sets))
        if name in why:
            _tell(f"warning: {name}: {why[name]}.")
    untold = [name for name in splits or sets if sets[name].get("relation") is None]
    if untold:
        _tell(
            f"warning: {', '.join(untold)}: the scores do not say whether the network was trained on these scenes. "
            "Score them anew (sartransfer evaluate)."
        )
    if splits:
        return list(dict.fromkeys(splits))
    used = [name for name in sets if name not in why]
    reasons = "; ".join(f"{name}: {words}" for name, words in why.items())
    if not used:
        raise InputError(
            f"no test set of {path} tells how the network errs on new events ({reasons}). Score one that does, or name "
            "one to take it all the same (--split NAME)."
        )
    if why:
        _tell(f"left out: {reasons}")
    return used


def _reason(found: dict[str, Any]) -> str:
    """Return why a test set is left out: by its relation, and by what `evaluate` found."""
    why = found.get("relation_why")
    return LEFT_OUT[found["relation"]] + (f" [{why}]" if why else "")


def _tell(text: str) -> None:
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def _check_network(path: Path, found: dict[str, Any], tags: dict[str, Any]) -> None:
    """Refuse scores of other networks than the map's (by its tags), or of other views, in whatever order."""
    mine = tags.get("SARTRANSFER_CHECKPOINT")
    if mine is None:
        return
    views = json.loads(tags.get("SARTRANSFER_OPTIONS", "{}")).get("views")
    theirs = str(found.get("checkpoint", mine))
    networks, scored = mine.split("; "), theirs.split("; ")
    if sorted(scored) != sorted(networks):
        ensemble = " --ensemble ..." if len(networks) > 1 else ""
        raise InputError(
            f"{path} holds scores of {theirs!r}, and the map is by {mine!r}: its errors are others. "
            f"Score what made the map, {_networks(len(networks))} (sartransfer evaluate CHECKPOINT{ensemble} --out)."
        )
    seen = found.get("member_views") or [found.get("views")] * len(scored)
    if not views or None in seen:
        return
    if sorted(zip(networks, views, strict=True)) != sorted(zip(scored, seen, strict=True)):
        raise InputError(
            f"{path} holds scores with views={_each(seen)}, and the map was made with views={_each(views)}. Score "
            "with the map's (sartransfer evaluate --views)."
        )


def _networks(number: int) -> str:
    return "one network" if number == 1 else f"{number} networks together"


def _each(views: list[int]) -> str:
    """Return views of all networks as one number where they agree."""
    return ", ".join(map(str, views if len(set(views)) > 1 else views[:1]))


def _show(rows: dict[str, dict[str, Any]]) -> None:
    total = sum(row["km2"] for row in rows.values())
    first = next(iter(rows.values()), {})
    table = Table("class", "pixels", "km2", "share", title="area on the ellipsoid")
    for wanted, title in (("expected_km2", "expected km2"), ("adjusted_km2", "adjusted km2 [95 %]")):
        if wanted in first:
            table.add_column(title)
    for name, row in rows.items():
        cells = [
            escape(name),
            str(row["pixels"]),
            f"{row['km2']:,.4f}",
            f"{row['km2'] / total:.2%}" if total else "",
        ]
        if "expected_km2" in row:
            cells.append(f"{row['expected_km2']:,.4f}")
        if "adjusted_km2" in row:
            cells.append(f"{row['adjusted_km2']:,.4f} [{row['low_km2']:,.4f}, {row['high_km2']:,.4f}]")
        table.add_row(*cells)
    out.print(table)

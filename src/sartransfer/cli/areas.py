"""The command about areas: how much of each class a map shows, and how certain that is."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from sartransfer.errors import InputError, one_of, refuse_existing
from sartransfer.terminal import err, out, show_path


def areas(
    map_path: Annotated[Path, typer.Argument(help="A map of classes: a GeoTIFF.", metavar="MAP")],
    probabilities: Annotated[
        Path | None,
        typer.Option(
            help="Its probabilities (MAP-probabilities.tif): their sums are told as expected areas."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Scores of the same checkpoint (evaluate --out): areas corrected by its errors on them."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which test set of the scores; default: the only one.")
    ] = None,
    target: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table as JSON too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Tell the area of each class on the ellipsoid, and what the checkpoint's errors make of it."""
    from sartransfer.area_estimates import resampled_areas
    from sartransfer.polygons import check_pair, class_areas, expected_areas
    from sartransfer.runs import write_json

    if target is not None:
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
        confusions = _confusions(scores, split, list(rows), map_path)
        estimate = resampled_areas(confusions, np.array([row["km2"] for row in rows.values()]))
        for i, row in enumerate(rows.values()):
            row["adjusted_km2"], row["low_km2"], row["high_km2"] = (
                float(values[i]) for values in (estimate.area, estimate.low, estimate.high)
            )
    _show(rows)
    if scores is not None:
        err.print(
            "adjusted: by the errors on the test set, drawn again by group; true if this scene errs as those do.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if target is not None:
        write_json(target, rows)
        show_path("areas", target)


def _confusions(path: Path, split: str | None, classes: list[str], map_path: Path) -> Any:
    """Return the confusion matrix of each group of a test set (G, K, K), from what `evaluate --out` wrote.

    Raises `InputError` for scores of other classes, another network or other views than the map's, where both say.
    """
    try:
        sets = json.loads(path.read_text(encoding="utf-8"))
        name = split or (next(iter(sets)) if len(sets) == 1 else None)
        if name not in sets:
            raise InputError(one_of("split", name, sets))
        found = sets[name]
        if found["classes"] != classes:
            raise InputError(
                f"{path} is about the classes {', '.join(found['classes'])}, the map about {', '.join(classes)}."
            )
        _check_network(path, found, map_path)
        groups: dict[str, Any] = {}
        for scene in found["scenes"]:
            matrix = np.array(scene["confusion"], dtype=np.int64)
            groups[scene["group"]] = groups.get(scene["group"], 0) + matrix
        return np.stack(list(groups.values()))
    except OSError as error:
        raise InputError(
            f"{path} is not there. Write it: sartransfer evaluate CHECKPOINT ... --out {path}."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no scores as sartransfer evaluate --out writes them ({error})."
        ) from error


def _check_network(path: Path, found: dict[str, Any], map_path: Path) -> None:
    from sartransfer.geotiff import opened

    with opened(map_path) as file:
        tags = file.tags()
    mine, views = (
        tags.get("SARTRANSFER_CHECKPOINT"),
        json.loads(tags.get("SARTRANSFER_OPTIONS", "{}")).get("views"),
    )
    if mine is not None and found.get("checkpoint", mine) != mine:
        raise InputError(
            f"{path} holds scores of {found['checkpoint']!r}, and the map is by {mine!r}: its errors are others. "
            "Score the network that made the map (sartransfer evaluate --out)."
        )
    if views and found.get("views", views[0]) != views[0]:
        raise InputError(
            f"{path} holds scores with views={found['views']}, and the map was made with views={views[0]}. Score "
            "with the map's (sartransfer evaluate --views)."
        )


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

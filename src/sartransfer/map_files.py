"""The files of a map, and those of them that stand beside its rasters: table of classes, polygons, STAC item."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sartransfer.attribute_table import attribute_table
from sartransfer.errors import InputError
from sartransfer.map_layers import class_colours, plan_layers
from sartransfer.polygons import PolygonOptions, class_areas, write_polygons
from sartransfer.stac import MapFacts, make_item


def map_paths(out: Path, layers: Sequence[Path], polygons: bool, stac: bool) -> list[Path]:
    """Return every file of a map: its layers, the table of classes, polygons and STAC item."""
    names = beside_paths(out)
    more = [names["table"], *([names["polygons"]] if polygons else [])]
    return [layers[0], *more, *layers[1:], *([names["item"]] if stac else [])]


def beside_paths(out: Path) -> dict[str, Path]:
    """Return what may stand beside the rasters of a map."""
    return {
        "table": out.with_name(f"{out.name}.aux.xml"),
        "polygons": out.with_suffix(".gpkg"),
        "item": out.with_suffix(".stac.json"),
    }


def all_beside(path: Path) -> list[Path]:
    """Return the files that may stand beside a map, but for its table of classes."""
    layers = plan_layers(path, ("a", "b"), probabilities=True, entropy=True, spread=True)
    return map_paths(path, [layer.path for layer in layers], True, True)[2:]


def write_beside(
    made: Path,
    out: Path,
    classes: tuple[str, ...],
    counts: Sequence[int],
    polygons: PolygonOptions | None,
    written: datetime,
    facts: MapFacts | None,
) -> tuple[list[tuple[Path, Path]], dict[str, float] | None]:
    """Write what stands beside a map, in the folder of its parts: the table of classes, polygons, STAC item.

    Args:
        made: the map as it lies there. out: where it goes. classes, counts: its classes and their pixels.
        polygons: None: none are wanted. written: the time that their file notes.
        facts: of the item, without the areas; None: none is wanted.

    Returns:
        Which file goes where; and the areas of the classes, where polygons or item needed them.
    """
    folder, names = made.parent, beside_paths(out)
    pairs = [(folder / "table.aux.xml", names["table"])]
    pairs[0][0].write_text(attribute_table(classes, class_colours(classes), counts), "utf-8")
    areas: dict[str, float] | None = None
    if polygons is not None:
        pairs.append((folder / "polygons.gpkg", names["polygons"]))
        areas = write_polygons(made, pairs[-1][0], polygons, overwrite=True, written=written).areas
    if facts is not None:
        areas = _areas(made) if areas is None else areas
        item = make_item(replace(facts, areas=areas), out.parent)
        pairs.append((folder / "item.json", names["item"]))
        pairs[-1][0].write_text(f"{json.dumps(item, indent=2, allow_nan=False)}\n", "utf-8")
    return pairs, areas


def _areas(path: Path) -> dict[str, float] | None:
    """Return the areas of a map's classes; None where they cannot be known (no place, no pyproj)."""
    try:
        return {name: area for name, (_, area) in class_areas(path).items()}
    except InputError:
        return None

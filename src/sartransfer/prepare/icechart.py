"""A label raster on a scene's grid from an ice chart's polygons."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.errors import InputError, OutputError, one_of
from sartransfer.geotiff import check_outputs, write_geotiff
from sartransfer.prepare.icechart_geometry import (
    ChartFile,
    check_grid,
    draw_near,
    draw_polygons,
    draw_values,
    frame_of,
    project_polygons,
    read_chart,
    tiles,
)
from sartransfer.prepare.icechart_time import chart_span, check_time, scene_span
from sartransfer.radar.icechart import (
    CLASSES,
    DOMINANCE,
    REASONS,
    Coding,
    Columns,
    Reason,
    What,
    choose_columns,
    label_value,
    read_polygons,
)
from sartransfer.readers import open_scene
from sartransfer.scene import Scene, Window

WINDOW = 2048
MAX_HOURS = 6.0
POLYGON = 3  # shapely's number for it: what mending a crossed polygon leaves of lines has no inside
Edges = Literal["polygons", "labels"]
# WMO's colour code (WMO/TD-No. 1215), with blues for water; floe sizes have none there.
COLOURS: dict[What, tuple[tuple[int, int, int], ...]] = {
    "ice-water": ((0, 100, 255), (240, 240, 240)),
    "concentration": (
        (0, 100, 255), (140, 255, 160), (140, 255, 160), (140, 255, 160), (255, 255, 0), (255, 255, 0),
        (255, 255, 0), (255, 125, 7), (255, 125, 7), (255, 0, 0), (255, 0, 0),
    ),
    "stage": ((0, 100, 255), (240, 210, 250), (170, 40, 240), (155, 210, 0), (0, 120, 0), (180, 100, 50)),
    "floe": (
        (0, 100, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214), (49, 130, 189), (84, 39, 143)
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreparedLabel:
    """What was written, and what was found."""

    path: Path
    """uint8: the class, 255 where there is none."""
    classes: tuple[str, ...]
    counts: dict[str, int]
    """Pixels by class."""
    left_out: dict[str, int]
    """Pixels without a class, by why."""
    polygons: int
    """Polygons that lie on the scene."""
    hours: float | None
    """Between chart and scene, at most where only a date is known; None: not checked."""
    warnings: tuple[str, ...]


def prepare_icechart(
    chart: str | Path,
    scene: str | Path | Scene,
    out: str | Path,
    *,
    what: What = "ice-water",
    dominance: float = DOMINANCE,
    buffer_m: float = 0.0,
    edges: Edges = "polygons",
    polygons_out: str | Path | None = None,
    columns: Columns | Mapping[str, str] | str | None = None,
    coding: Coding | None = None,
    undetermined: Mapping[str, Iterable[int]] | None = None,
    values: Mapping[str, Mapping[str, str]] | None = None,
    layer: str | None = None,
    chart_crs: str | None = None,
    chart_time: datetime | str | None = None,
    time_column: str | None = None,
    scene_time: datetime | str | None = None,
    max_hours: float | None = MAX_HOURS,
    window: int = WINDOW,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedLabel:
    """Make a label raster of an ice chart: its polygons, brought to a scene's projection and drawn on its grid.

    A pixel belongs to the polygon that holds its centre. Land, ice shelf, what is not known, what no polygon covers,
    and what polygons of different classes cover have no class (255, the file's nodata). Polygons are drawn window by
    window; the label itself is held in memory, a byte a pixel. Classes stand in the tag ``SARTRANSFER_CLASSES``, how
    the label was made in ``SARTRANSFER_ICECHART``. Needs pyogrio (the extra ``icechart``).

    Args:
        chart: Shapefile or GeoPackage with polygons; its time is looked for in its name, see below.
        scene: on a map, or a file that a reader knows. out: the label, a GeoTIFF (.tif).
        what: ``ice-water``, ``concentration``, ``stage`` or ``floe`` (`radar.icechart.label_value`).
        dominance: share of the ice that a stage or floe size must have.
        buffer_m: pixels whose centre lies so near an edge have no class; in metres of the scene's projection.
        edges: ``polygons``: all sides of all polygons; ``labels``: only where the label changes (or ends).
        polygons_out: write the number of each pixel's polygon too (.tif; its place in the chart from 1, 0 for none), by
            which scores are told by distance from a polygon's edge (`strata.polygon_edge_m`).
        columns: which columns say what: a key of `radar.icechart.COLUMNS`, {role: column}, `Columns`, or None for
            SIGRID-3 names. coding, undetermined, values: their code (sigrid3, egg), codes that mean nothing, and what
            words and numbers of the chart's own mean: {"POLY_TYPE": {"ice": "I"}} (`radar.icechart.choose_columns`).
        layer: of a GeoPackage with several. chart_crs: where the file does not say it.
        chart_time, time_column: when the chart is valid, or the column that says it; None: as the chart's name says.
            scene_time: None: as the scene says. All in UTC. A date alone is the whole day: its nearest hour counts
            for `max_hours`, its farthest for what is returned and warned of.
        max_hours: between the two, at most; None: not checked.
        window: pixels a side that are drawn at once. overwrite: replace a file that exists. progress: told (windows
            done, in all).

    Raises:
        InputError: a file that is missing, damaged or without its projection (.prj), codes that are not known
            (named, with their number) or may be tenths, a polygon wrapped around the antimeridian, chart and scene
            that do not overlap or lie too far apart in time, a chart whose name has two dates, a scene that is not on
            a map, or no pixel with a class.
        OutputError: a file exists, its folder does not, or it cannot be written; both files are written, or none.
    """
    chart, out = Path(chart), Path(out)
    _check(what, buffer_m, edges, window, max_hours)
    polygons_out = None if polygons_out is None else Path(polygons_out)
    if polygons_out == out:
        raise OutputError(f"{out} is to be the label and the polygons: give two names.")
    given = [chart] if isinstance(scene, Scene) else [chart, Path(scene)]
    for path in (out, *([] if polygons_out is None else [polygons_out])):
        check_outputs([path], given, overwrite, what="label", lost="the chart or the scene itself")
    scene = scene if isinstance(scene, Scene) else open_scene(scene)
    metre = check_grid(scene, buffer_m)
    file = read_chart(chart, layer, chart_crs)
    chosen = choose_columns(
        list(file.table), columns, coding=coding, undetermined=undetermined, values=values
    )
    polygons = read_polygons(chosen, {name: list(found) for name, found in file.table.items()})
    labels = np.array([label_value(p, what, dominance) for p in polygons], dtype=np.int64)
    shapes, places = project_polygons(file, scene, buffer_m / metre if buffer_m > 0 else 0.0)
    if not len(places):
        raise _apart(chart, file, scene)
    hours, warnings = None, ["the time between chart and scene was not checked"]
    if max_hours is not None:
        times = _times(file, time_column, places, chart)
        spans = chart_span(chart, chart_time, time_column, times)
        hours, note = check_time(chart, scene, spans, scene_span(scene, scene_time), max_hours)
        warnings = [note] if note else []
    labels = labels[places]
    lines = _lines(shapes, labels, edges) if buffer_m > 0 else None
    numbers = np.dtype(np.uint16 if len(polygons) < 2**16 else np.uint32)
    drawn = _draw_all(
        _Shapes(shapes, labels, places, lines, buffer_m / metre), scene, len(CLASSES[what]), window,
        numbers=None if polygons_out is None else numbers, progress=progress,
    )  # fmt: skip
    if not drawn.polygons:
        raise _apart(chart, file, scene)
    if drawn.overlaps:
        share = drawn.overlaps / drawn.label.size
        warnings.append(
            f"{drawn.overlaps} pixels ({share:.2%}) lie in overlapping polygons with different labels: left out"
        )
    made = _summary(out, drawn, what, hours, chart, warnings)
    settings = {
        "what": what, "dominance": dominance, "buffer_m": buffer_m, "edges": edges, "columns": dict(chosen.names),
        "coding": chosen.coding, "values": {role: dict(meant) for role, meant in chosen.values.items()},
        "max_hours": max_hours, "hours": hours, "left_out": made.left_out,
    }  # fmt: skip
    tags = {
        "SARTRANSFER_VERSION": __version__,
        "SARTRANSFER_CLASSES": ",".join(f"{i}={name}" for i, name in enumerate(made.classes)),
        "SARTRANSFER_CHART": chart.name,
        "SARTRANSFER_SCENE": scene.id,
        "SARTRANSFER_ICECHART": json.dumps(settings),
        "SARTRANSFER_WARNINGS": "; ".join(made.warnings) or "none",
        "AREA_OR_POINT": "Area",
    }
    _write(drawn, scene, out, polygons_out, tags, dict(enumerate(COLOURS[what])), overwrite)
    return made


def _check(what: str, buffer_m: float, edges: str, window: int, most: float | None) -> None:
    """Refuse what cannot work before anything is read."""
    if what not in CLASSES:
        raise InputError(one_of("what", what, CLASSES))
    if edges not in ("polygons", "labels"):
        raise InputError(one_of("edges", edges, ("polygons", "labels")))
    if not (math.isfinite(buffer_m) and buffer_m >= 0):
        raise InputError(f"--buffer (buffer_m={buffer_m}): must be 0 (none) or more metres.")
    if most is not None and not most >= 0:
        raise InputError(
            f"max_hours={most}: must be 0 or more; --any-time (max_hours=None) leaves the check out."
        )
    if window < 1:
        raise InputError(f"window={window}: must be at least 1 pixel.")


def _times(file: ChartFile, column: str | None, places: NDArray[np.intp], chart: Path) -> list[object]:
    if column is None:
        return []
    if column not in file.table:
        raise InputError(f"{chart}: --time-column: " + one_of("time_column", column, file.table))
    return list(file.table[column][places])


def _lines(shapes: NDArray[np.object_], values: NDArray[np.int64], edges: Edges) -> NDArray[np.object_]:
    """Return the lines that a buffer is drawn around."""
    import shapely

    if edges == "labels":
        # One region of pixels without a class, whatever the reason.
        merged = np.minimum(values, int(Reason.BUFFER))
        groups = [
            shapely.get_parts(shapely.get_parts(shapely.make_valid(shapes[merged == v]))) for v in set(merged)
        ]
        shapes = np.array(
            [shapely.union_all(g[shapely.get_type_id(g) == POLYGON]) for g in groups], dtype=object
        )
    return np.asarray(shapely.boundary(shapes), dtype=object)


@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """What is drawn, in the scene's projection."""

    shapes: NDArray[np.object_]
    """(N,) polygons that may lie on the scene."""
    values: NDArray[np.int64]
    """(N,) their classes and `Reason`s."""
    places: NDArray[np.intp]
    """(N,) their places in the chart."""
    lines: NDArray[np.object_] | None
    """Around which a buffer is drawn; None: none is."""
    buffer: float
    """In units of the projection."""


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """A chart on a scene's grid, and what was found on the way."""

    label: NDArray[np.uint8]
    """(H, W): the class, 255 where there is none."""
    owners: NDArray[np.unsignedinteger[Any]] | None
    """(H, W): the polygon's place in the chart from 1, where it was asked for; 0 for none."""
    pixels: NDArray[np.int64]
    """(256,) of each class and `Reason`."""
    polygons: int
    """That hold a pixel."""
    overlaps: int
    """Pixels in overlapping polygons of different labels."""


def _draw_all(
    drawing: _Shapes,
    scene: Scene,
    classes: int,
    window: int,
    *,
    numbers: np.dtype[Any] | None,
    progress: Callable[[int, int], None] | None,
) -> _Drawn:
    """Draw a chart window by window.

    Args:
        drawing: its polygons. scene: whose grid it is. classes: how many there are; what is over them has no label.
        window: pixels a side. numbers: type of the polygons' numbers; None: they are not drawn. progress: told (windows
            done, in all).
    """
    label = np.full((scene.height, scene.width), Reason.NOT_CHARTED, dtype=np.uint8)
    owners = None if numbers is None else np.zeros(label.shape, numbers)
    pixels = np.zeros(256, dtype=np.int64)
    drawn: set[int] = set()
    overlaps = 0
    windows = list(tiles(scene, window))
    for done, part in enumerate(windows, start=1):
        here, twice = _draw(drawing, scene, part, drawn)
        overlaps += twice
        pixels += np.bincount(here.ravel(), minlength=256)
        here[here >= classes] = Reason.NOT_CHARTED
        label[part.slices] = here
        if owners is not None:
            found = draw_polygons(drawing.shapes, drawing.places, scene.georeference, part)
            owners[part.slices] = found + 1
        if progress:
            progress(done, len(windows))
    return _Drawn(label, owners, pixels, len(drawn), overlaps)


def _draw(drawing: _Shapes, scene: Scene, part: Window, drawn: set[int]) -> tuple[NDArray[np.uint8], int]:
    """Draw one window: classes and `Reason`s, and the number of pixels in overlapping polygons of different labels.

    `drawn` gets the places of the polygons that hold a pixel.
    """
    import shapely

    place, shapes = scene.georeference, drawing.shapes
    here = np.flatnonzero(shapely.intersects(shapely.box(*shapely.bounds(shapes).T), frame_of(place, part)))
    high, low, seen = draw_values(shapes[here], drawing.values[here], drawing.places[here], place, part)
    drawn.update(seen.tolist())
    overlap = (high != low) & (low < int(Reason.BUFFER))  # of two that both have no class, either will do
    out = np.where(high < 0, int(Reason.NOT_CHARTED), high).astype(np.uint8)
    out[overlap] = Reason.CONTRADICTORY
    if drawing.lines is not None:
        classed = out < int(Reason.BUFFER)
        out[classed & draw_near(drawing.lines, drawing.buffer, place, part)] = Reason.BUFFER
    return out, int(overlap.sum())


def _write(
    drawn: _Drawn,
    scene: Scene,
    out: Path,
    polygons_out: Path | None,
    tags: Mapping[str, str],
    colours: Mapping[int, tuple[int, int, int]],
    overwrite: bool,
) -> None:
    """Write the label, and the polygons' numbers where they are wanted: both files or none."""
    write_geotiff(
        out, drawn.label, georeference=scene.georeference, descriptions=["class"], tags=tags,
        nodata=int(Reason.NOT_CHARTED), colormap=colours, overwrite=overwrite,
    )  # fmt: skip
    if polygons_out is None or drawn.owners is None:
        return
    kept = {name: tags[name] for name in ("SARTRANSFER_CHART", "SARTRANSFER_SCENE", "AREA_OR_POINT")}
    try:
        write_geotiff(
            polygons_out, drawn.owners, georeference=scene.georeference, descriptions=["polygon"], tags=kept,
            nodata=0, overwrite=overwrite,
        )  # fmt: skip
    except BaseException:  # Ctrl-C too
        out.unlink(missing_ok=True)
        raise


def _summary(
    out: Path, drawn: _Drawn, what: What, hours: float | None, chart: Path, warnings: list[str]
) -> PreparedLabel:
    classes, pixels = CLASSES[what], drawn.pixels
    left_out = {words: int(pixels[reason]) for reason, words in REASONS.items() if pixels[reason]}
    counts = {name: int(pixels[i]) for i, name in enumerate(classes)}
    if not any(counts.values()):
        found = ", ".join(f"{n} pixels {words}" for words, n in left_out.items())
        raise InputError(
            f"{chart}: no pixel of the scene has a class of {what!r}: {found}. Is the chart of this scene, and does it "
            "fill the columns that are needed?"
        )
    contradictory = int(pixels[Reason.CONTRADICTORY]) - drawn.overlaps
    if contradictory:
        warnings.append(
            f"{contradictory} pixels are called water and have a tenth of ice or more, or have parts over their total: "
            "left out"
        )
    missing = int(pixels[Reason.NOT_CHARTED]) / int(pixels.sum())
    if missing > 0.5:
        warnings.append(f"the chart covers only {1 - missing:.0%} of the scene")
    return PreparedLabel(out, classes, counts, left_out, drawn.polygons, hours, tuple(warnings))


def _apart(chart: Path, file: ChartFile, scene: Scene) -> InputError:
    import shapely

    left, bottom, right, top = shapely.total_bounds(file.geometries)
    return InputError(
        f"{chart} does not overlap scene {scene.id!r}: no polygon holds the centre of a pixel. Is it the chart of this "
        f"region? Its polygons reach over {left:.6g} to {right:.6g} and {bottom:.6g} to {top:.6g} in {file.crs[:40]}."
    )


__all__ = ["PreparedLabel", "prepare_icechart"]

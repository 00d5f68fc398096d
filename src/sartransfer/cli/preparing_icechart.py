"""The command that draws an ice chart on a scene's grid."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sartransfer.cli.options import Overwrite
from sartransfer.terminal import err, out, show_path


def icechart(
    chart: Annotated[Path, typer.Argument(help="Polygons: a Shapefile or GeoPackage.", metavar="CHART")],
    scene: Annotated[Path, typer.Argument(help="The scene whose grid the labels get.", metavar="SCENE")],
    target: Annotated[Path, typer.Option("--out", "-o", help="The label raster to write, a GeoTIFF.")],
    what: Annotated[str, typer.Option(help="ice-water, concentration, stage or floe.")] = "ice-water",
    dominance: Annotated[
        float, typer.Option(help="Least share of a polygon's ice that its class must have.")
    ] = 0.65,
    buffer_m: Annotated[
        float, typer.Option("--buffer", help="Metres around polygon edges that get no label.")
    ] = 0.0,
    edges: Annotated[
        str,
        typer.Option(help="Where --buffer counts: polygons (all edges) or labels (where the label changes)."),
    ] = "polygons",
    columns: Annotated[
        list[str] | None,
        typer.Option(help="sigrid3, extremeearth, ai4arctic, egg, cis-egg; or ROLE=COLUMN (repeatable)."),
    ] = None,
    coding: Annotated[
        str | None,
        typer.Option(help="The code in these columns: sigrid3, or egg (tenths as 9+, stages as 7.)."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--value",
            help="What a word or number of the chart's own means: ice=I, SA:old=95; without a role a letter is of "
            "POLY_TYPE, a number of CT (repeatable).",
        ),
    ] = None,
    undetermined: Annotated[
        list[str] | None, typer.Option(help="Codes that mean nothing: ROLE=CODE,CODE (repeatable).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Which layer, of a GeoPackage with several.")] = None,
    chart_crs: Annotated[
        str | None, typer.Option(help="The chart's projection, if it does not say it: EPSG:3411.")
    ] = None,
    chart_time: Annotated[
        str | None,
        typer.Option(help="When the chart holds, if it does not say so: 2018-01-16T07:54:30, in UTC."),
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="The column that says when the chart holds.")
    ] = None,
    scene_time: Annotated[
        str | None, typer.Option(help="When the scene was taken, if it does not say so.")
    ] = None,
    max_hours: Annotated[float, typer.Option(help="Most hours between chart and scene.")] = 6.0,
    any_time: Annotated[
        bool, typer.Option("--any-time", help="Do not check the time between chart and scene.")
    ] = False,
    polygons: Annotated[
        bool,
        typer.Option(
            "--polygons",
            help="Write the polygons' numbers too, as OUT_polygons.tif: scores by distance from edges.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw an ice chart as a label raster on a scene's grid; land and what is not known get no label."""
    from sartransfer.errors import InputError
    from sartransfer.prepare import prepare_icechart

    if any_time and (chart_time or time_column or scene_time):
        raise InputError("--any-time leaves the check out: leave out the times, or --any-time.")
    if chart_time and time_column:
        raise InputError("--chart-time and --time-column both say when the chart holds: give one.")
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("drawing", total=None)
        made = prepare_icechart(
            chart,
            scene,
            target,
            what=cast(Any, what),
            dominance=dominance,
            buffer_m=buffer_m,
            edges=cast(Any, edges),  # words that are none are refused there, and of the code too
            polygons_out=target.with_name(f"{target.stem}_polygons.tif") if polygons else None,
            columns=_columns(columns or []),
            coding=cast(Any, coding),
            values=_values(values or []),
            undetermined=_undetermined(undetermined or []),
            layer=layer,
            chart_crs=chart_crs,
            chart_time=chart_time,
            time_column=time_column,
            scene_time=scene_time,
            max_hours=None if any_time else max_hours,
            overwrite=overwrite,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    title = f"{made.polygons} polygons on the scene"
    table = Table("pixels", "class", title=escape(title), min_width=len(title))
    for name, number in (*made.counts.items(), *((f"no label: {k}", n) for k, n in made.left_out.items())):
        table.add_row(f"{number:,}", escape(name))
    out.print(table)
    for warning in made.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    show_path("label", made.path)


def _columns(words: list[str]) -> dict[str, str] | str | None:
    """Read one known name, or ROLE=COLUMN for each."""
    from sartransfer.errors import InputError

    if not words:
        return None
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    if len(pairs) != len(words):
        raise InputError(
            f"--columns {' '.join(words)}: give one known name, or ROLE=COLUMN for each, each role once."
        )
    return {role.strip().upper(): column.strip() for role, column in pairs.items()}


def _values(words: list[str]) -> dict[str, dict[str, str]]:
    """Read [ROLE:]TEXT=CODE: role -> {text: code}."""
    from sartransfer.errors import InputError
    from sartransfer.radar.icechart import ROLES
    from sartransfer.radar.sigrid3 import POLY_TYPES

    found: dict[str, dict[str, str]] = {}
    for word in words:
        text, sign, code = (part.strip() for part in word.rpartition("="))
        role, colon, rest = text.partition(":")
        if colon and role.strip().upper() in ROLES:
            role, text = role.strip().upper(), rest.strip()
        else:
            role = "POLY_TYPE" if code.upper() in POLY_TYPES else "CT"
        if not sign or not text or not code:
            raise InputError(
                f"--value {word!r}: give TEXT=CODE, such as ice=I, or ROLE:TEXT=CODE, such as SA:old=95."
            )
        if found.setdefault(role, {}).setdefault(text, code) != code:
            raise InputError(f"--value {word!r}: {text} of {role} means {found[role][text]} already.")
    return found


def _undetermined(words: list[str]) -> dict[str, frozenset[int]]:
    """Read ROLE=CODE,CODE: role -> codes."""
    from sartransfer.errors import InputError

    found: dict[str, frozenset[int]] = {}
    for word in words:
        role, _, codes = word.partition("=")
        try:
            numbers = frozenset(int(code) for code in codes.split(","))
        except ValueError as error:
            raise InputError(f"--undetermined {word!r}: give ROLE=CODE,CODE, such as SA=13,45.") from error
        role = role.strip().upper()
        found[role] = found.get(role, frozenset()) | numbers
    return found

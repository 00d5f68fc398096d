"""Commands that get images from public archives."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sartransfer.cli.options import Overwrite
from sartransfer.terminal import err, out, show_path

if TYPE_CHECKING:
    from sartransfer.fetch import FetchPlan, FloodRequest
    from sartransfer.radar.speckle import SpeckleFilter

TAKES = {
    "looks": ("lee", "refined_lee", "gamma_map"),
    "size": ("lee", "frost", "gamma_map"),
    "radius": ("focal_mean",),
    "damping": ("frost",),
}
"""Setting of a speckle filter -> the filters that it is for; the refined Lee filter has one size."""


def flood(
    area: Annotated[
        Path | None, typer.Option(help="The area: a GeoJSON file with polygons, in degrees.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="Days before the flood, START/END (2024-10-01/2024-10-28), or one day.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Days during the flood, START/END, or one day.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="valencia or mississippi: dates and an area, inferred.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for before.tif, after.tif, provenance.json.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="planetary-computer (default), planetary-computer-grd, copernicus, earth-engine."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Address of any STAC API, instead of --source.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="The collection of that API, with --endpoint.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="What the assets of --endpoint hold: gamma0, sigma0, with _db; amplitude for GRD products."
        ),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Google Cloud project, for earth-engine.")] = None,
    polarizations: Annotated[
        list[str] | None, typer.Option("--polarization", help="VV, VH (repeatable); default: both.")
    ] = None,
    orbit_pass: Annotated[
        str | None, typer.Option("--pass", help="ascending or descending; default: either.")
    ] = None,
    relative_orbit: Annotated[
        int | None, typer.Option("--orbit", help="Relative orbit; default: the one that covers most.")
    ] = None,
    mix_orbits: Annotated[
        bool, typer.Option("--mix-orbits", help="Let before and after be of different orbits.")
    ] = False,
    dates: Annotated[str, typer.Option(help="one pass a period, or all of them, the latest on top.")] = "one",
    resolution: Annotated[float, typer.Option(help="Metres a pixel.")] = 10.0,
    crs: Annotated[str | None, typer.Option(help="Projection; default: the UTM zone.")] = None,
    speckle: Annotated[
        str, typer.Option(help="none, focal_mean, lee, refined_lee, frost, gamma_map.")
    ] = "none",
    looks: Annotated[
        float | None,
        typer.Option(
            "--speckle-looks",
            help="Looks, for lee, refined_lee, gamma_map; default: estimated from the image.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--speckle-size", help="Pixels a side, for lee, frost, gamma_map: odd; default 7."),
    ] = None,
    radius: Annotated[
        float | None, typer.Option("--speckle-radius", help="Metres, for focal_mean; default 50.")
    ] = None,
    damping: Annotated[float | None, typer.Option("--speckle-damping", help="For frost; default 2.")] = None,
    decibel: Annotated[bool, typer.Option("--db/--linear", help="Decibels, or linear power.")] = False,
    min_coverage: Annotated[
        float, typer.Option(help="Least share of the area with a value on either date.")
    ] = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is there and its size.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Get Sentinel-1 before and after a flood, of one orbit and on one grid, with where it comes from."""
    from sartransfer.errors import InputError, one_of
    from sartransfer.fetch import (
        PRESETS,
        FloodRequest,
        fetch_flood,
        open_archive,
        parse_period,
        plan_flood,
        read_area,
    )

    if preset is not None and preset not in PRESETS:
        raise InputError(one_of("preset", preset, PRESETS))
    known = PRESETS[preset] if preset else None
    if known is None:
        lacking = [f"--{n}" for n, v in (("area", area), ("before", before), ("after", after)) if v is None]
        if lacking:
            raise InputError(f"{', '.join(lacking)} missing: name area and periods, or a preset (--preset).")
    if folder is None and not dry_run:
        raise InputError("--out is missing: name a folder, or list only (--dry-run).")
    request = FloodRequest(
        read_area(area) if area else known.area,  # type: ignore[union-attr]
        parse_period(before) if before else known.before,  # type: ignore[union-attr]
        parse_period(after) if after else known.after,  # type: ignore[union-attr]
        polarizations=tuple(p.upper() for p in polarizations) if polarizations else ("VV", "VH"),
        orbit_pass=orbit_pass or (known.orbit_pass if known else None),
        relative_orbit=relative_orbit,
        mix_orbits=mix_orbits,
        dates=dates,
        resolution=resolution,
        crs=crs,
        speckle=_speckle(speckle, looks=looks, size=size, radius=radius, damping=damping),
        decibel=decibel,
        min_coverage=min_coverage,
        note=_note(known.note if known else "", given={"area": area, "before": before, "after": after}),
    )
    archive = open_archive(source, endpoint=endpoint, collection=collection, unit=unit, project=project)
    plan = plan_flood(request, archive)
    _show(plan, request)
    if dry_run or folder is None:
        return
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("loading", total=None)
        made = fetch_flood(
            plan,
            folder,
            overwrite=overwrite,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    for period, share in made.coverage.items():
        out.print(f"{period}: {share:.1%} of the area has a value", highlight=False)
    for warning in made.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    show_path("before", made.before)
    show_path("after", made.after)
    show_path("provenance", made.provenance)


def _speckle(name: str, **given: Any) -> "SpeckleFilter":
    """Return a filter; refuses what it does not take, which would change nothing without a word."""
    from sartransfer.errors import InputError
    from sartransfer.radar.speckle import SpeckleFilter

    told = {key: value for key, value in given.items() if value is not None}
    plain = SpeckleFilter(name)
    for key in told:
        if name not in TAKES[key]:
            raise InputError(
                f"--speckle-{key} is for --speckle {' or '.join(TAKES[key])}, and --speckle is {name!r}. Leave it out."
            )
    return replace(plain, **told)


def _note(note: str, given: dict[str, object]) -> str:
    """Say of a preset what was not taken from it."""
    own = [name for name, value in given.items() if value is not None]
    return f"{note} Given instead: {', '.join(own)}." if note and own else note


def _show(plan: "FetchPlan", request: "FloodRequest") -> None:
    """List what the archive has, what is taken of it, and the sizes."""
    from sartransfer.fetch.passes import covered_share

    if request.note:
        out.print(escape(request.note), highlight=False, soft_wrap=True)
    table = Table("", "taken at (UTC)", "satellite", "pass", "orbit", "covers", "item", title="found")
    for period in ("before", "after"):
        chosen = plan.frames(period)
        for one in plan.found[period]:
            table.add_row(
                f"{period} *" if one in chosen else period,
                f"{one.time:%Y-%m-%d %H:%M}",
                escape(one.platform),
                one.orbit_pass or "?",
                "?" if one.relative_orbit is None else str(one.relative_orbit),
                f"{covered_share([one], request.area):.0%}",
                escape(one.id),
            )
    out.print(table)
    for period, dropped in plan.dropped.items():
        for reason, number in dropped.items():
            out.print(escape(f"left out {period}: {number} {reason}"), highlight=False)
    grid = plan.grid
    lines = (
        f"* taken: {plan.choice.why}",
        f"grid: {grid.height} x {grid.width} pixels of {grid.resolution:g} m in {grid.crs[:40]}",
        f"to load: at most about {plan.bytes_to_load / 1e6:,.1f} MB; to write: {plan.bytes_to_write / 1e6:,.1f} MB "
        "(neither compressed)",
    )
    for line in lines:
        out.print(escape(line), highlight=False, soft_wrap=True)

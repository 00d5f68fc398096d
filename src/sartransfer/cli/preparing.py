"""Commands that turn products and labelled scenes into what recipes take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from sartransfer.cli.options import CatalogSource, Overwrite, open_scenes
from sartransfer.terminal import err, out, show_path

if TYPE_CHECKING:
    from sartransfer.scene import Band


def patches(
    source: CatalogSource,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the patches and their catalog.")],
    size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 160,
    min_share: Annotated[
        float, typer.Option(help="Least share of a patch's known pixels that its class must have.")
    ] = 0.5,
    min_known: Annotated[
        float, typer.Option(help="Least share of a patch's pixels with a label and a value.")
    ] = 0.7,
) -> None:
    """Cut labelled scenes into patches that do not overlap, each with the class that most of its pixels have."""
    from sartransfer.prepare import prepare_patches

    scenes = open_scenes(source)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("cutting", total=len(scenes.entries))
        made = prepare_patches(
            scenes,
            folder,
            size,
            min_share=min_share,
            min_known=min_known,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    table = Table("class", "patches", title=escape(f"{size} px, {made.groups} collections"))
    for name, number in made.counts.items():
        table.add_row(escape(name), str(number))
    out.print(table)
    out.print(
        f"left out: {made.unknown} too little known, {made.mixed} without a majority, {made.edge} at edges.",
        highlight=False,
    )
    show_path("catalog", made.catalog)


def flood(
    before: Annotated[Path, typer.Argument(help="The scene before the flood.", metavar="BEFORE")],
    after: Annotated[Path, typer.Argument(help="The scene during it, on the same grid.", metavar="AFTER")],
    target: Annotated[Path, typer.Option("--out", "-o", help="The mask to write, a GeoTIFF.")],
    rule: Annotated[
        str,
        typer.Option(
            help="un_spider, un_spider_5_percent, db_drop, log_ratio_otsu, log_ratio_kittler_illingworth, fuzzy."
        ),
    ] = "un_spider",
    band: Annotated[
        str | None, typer.Option(help="Band or polarization compared; default: the only one, or VH.")
    ] = None,
    seasonality: Annotated[Path | None, typer.Option(help="Months of water a year (JRC), 0 to 12.")] = None,
    slope: Annotated[Path | None, typer.Option(help="Slope of the ground.")] = None,
    slope_unit: Annotated[str | None, typer.Option(help="degrees or percent: what --slope is in.")] = None,
    hand: Annotated[
        Path | None, typer.Option(help="Metres above the nearest drainage, for the fuzzy rules.")
    ] = None,
    thresholds: Annotated[
        list[float] | None,
        typer.Option("--threshold", help="Report the area at this threshold too (repeatable)."),
    ] = None,
    map_threshold: Annotated[
        str | None,
        typer.Option(help="Map at this threshold, not the rule's: a number, otsu or kittler_illingworth."),
    ] = None,
    max_slope: Annotated[
        float | None, typer.Option(help="Slope from which pixels are removed, in --max-slope-unit.")
    ] = None,
    max_slope_unit: Annotated[
        str | None, typer.Option(help="degrees or percent: what --max-slope is in.")
    ] = None,
    permanent_months: Annotated[
        int | None, typer.Option(help="Months of water a year from which water is permanent.")
    ] = None,
    min_connected: Annotated[int | None, typer.Option(help="Least connected pixels of a flood.")] = None,
    radius: Annotated[
        float | None, typer.Option(help="Radius of the focal mean that smooths both scenes, in metres.")
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(help="What the files hold: VV=sigma0,VH=sigma0; where they differ, BEFORE|AFTER."),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(help="Metres, or HEIGHT,WIDTH, of a pixel, where the scenes do not say where they are."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Map a flood by the change between two scenes: a mask, and which rule removed each pixel."""
    from sartransfer.errors import InputError, UnitError, one_of
    from sartransfer.prepare import prepare_flood
    from sartransfer.radar.flood import PRACTICES, Slope, SlopeUnit, change_settings
    from sartransfer.radar.fuzzy import FuzzySettings

    if rule not in (*PRACTICES, "fuzzy"):
        raise InputError(one_of("rule", rule, (*PRACTICES, "fuzzy")))
    for name, unit in (("slope-unit", slope_unit), ("max-slope-unit", max_slope_unit)):
        if unit is not None and unit not in list(SlopeUnit):
            raise UnitError(one_of(name, unit, SlopeUnit))
    if (max_slope is None) != (max_slope_unit is None):
        raise UnitError(
            "--max-slope and --max-slope-unit go together: --max-slope 5 --max-slope-unit degrees."
        )
    changes: dict[str, Any] = {
        "threshold": None if map_threshold is None else _number_or_name(map_threshold),
        "max_slope": Slope(max_slope, SlopeUnit(max_slope_unit))
        if max_slope is not None and max_slope_unit
        else None,
        "permanent_months": permanent_months,
        "min_connected": min_connected,
        "radius": radius,
    }
    changed = [name for name, value in changes.items() if value is not None]
    if rule == "fuzzy" and changed:
        raise InputError(
            "--map-threshold, --max-slope, --permanent-months, --min-connected and --radius are of rules by change; "
            "the fuzzy rules find their own limits. Leave them out, or choose another --rule."
        )
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True) as bar:
        task = bar.add_task("windows read: 0")
        made = prepare_flood(
            before,
            after,
            target,
            settings=FuzzySettings() if rule == "fuzzy" else change_settings(PRACTICES[rule], **changes),
            band=band,
            seasonality=seasonality,
            slope=slope,
            slope_unit=SlopeUnit(slope_unit) if slope_unit else None,
            hand=hand,
            thresholds=thresholds or (),
            bands=_bands_of_two(bands) if bands else ((), ()),
            pixel_size=_metres(pixel_size) if pixel_size else None,
            overwrite=overwrite,
            progress=lambda done: bar.update(task, description=f"windows read: {done}"),
        )
    name = f"{rule}, {', '.join(changed)} changed" if changed else rule
    table = Table("pixels", "why", title=escape(f"{name}: {made.area_km2:.3f} km² flooded"))
    for words, number in made.counts.items():
        table.add_row(f"{number:,}", escape(words))
    out.print(table)
    for name, threshold in made.thresholds.items():
        out.print(escape(f"threshold of {name}: {threshold.value:.3f} ({threshold.method})"), highlight=False)
    if made.sensitivity is not None:
        for limit, area in zip(made.sensitivity.thresholds, made.sensitivity.area_km2, strict=True):
            out.print(f"at a threshold of {limit:g}: {area:.3f} km²", highlight=False)
    for warning in made.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    show_path("mask", made.mask)
    show_path("provenance", made.provenance)


def _number_or_name(words: str) -> float | str:
    try:
        return float(words)
    except ValueError:
        return words


def _bands_of_two(words: str) -> "tuple[tuple[Band, ...], tuple[Band, ...]]":
    from sartransfer.errors import InputError
    from sartransfer.scene import parse_bands

    parts = [parse_bands(part) for part in words.split("|")]
    if len(parts) > 2 or not all(parts):
        raise InputError(f"--bands {words!r}: give bands for both files (VH=sigma0), or BEFORE|AFTER.")
    return parts[0], parts[-1]


def _metres(words: str) -> tuple[float, float]:
    from sartransfer.errors import InputError

    try:
        sizes = [float(w) for w in words.split(",")]
        return sizes[0], sizes[{1: 0, 2: 1}[len(sizes)]]
    except (ValueError, KeyError) as error:
        raise InputError(f"--pixel-size {words!r}: give metres, such as 10, or HEIGHT,WIDTH.") from error


def tiles(
    source: Annotated[
        str | None,
        typer.Argument(help="A catalog of scenes with masks and events (group).", metavar="[CATALOG]"),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the tiles and their catalog.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--pair",
            help="Instead of a catalog: EVENT=BEFORE|AFTER|MASK (repeatable; an event may have several).",
        ),
    ] = None,
    tests: Annotated[
        list[str] | None, typer.Option("--test", help="An event that is held out whole (repeatable).")
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option("--validation", help="An event to validate on (repeatable).")
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option(
            help="Draw so many tiles from all events, all filtered, as the flood paper did: 156,20,20."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw that --counts asks for.", min=0)] = 0,
    size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 256,
    min_flooded: Annotated[
        float, typer.Option(help="Least share flooded of a training tile; tests are kept whole.")
    ] = 0.1,
    min_known: Annotated[
        float, typer.Option(help="Least share of a training tile with label and value.")
    ] = 0.7,
    flooded: Annotated[str, typer.Option(help="The class whose share counts.")] = "flooded",
) -> None:
    """Cut mapped floods into tiles: training where it is flooded, tests whole, split by event, all hashed."""
    from sartransfer.errors import InputError
    from sartransfer.prepare import TileSettings, pair_catalog, prepare_tiles

    if folder is None:
        raise InputError("--out is missing: name a folder.")
    if (source is None) == (not pairs):
        raise InputError("name a catalog, or pairs (--pair EVENT=BEFORE|AFTER|MASK).")
    scenes = open_scenes(source) if source is not None else pair_catalog([_pair(p) for p in pairs or ()])
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("cutting", total=len(scenes.entries))
        made = prepare_tiles(
            scenes,
            folder,
            TileSettings(size, min_flooded, min_known, flooded),
            tests=tests or (),
            validation=validation or (),
            counts=_counts(counts) if counts else None,
            seed=seed,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    table = Table("split", "event", "tiles", title=escape(f"{size} px, {made.hash[:12]}"))
    for split, events in made.counts.items():
        for event, number in events.items():
            table.add_row(escape(split), escape(event), str(number))
    out.print(table)
    out.print("left out: " + ", ".join(f"{n} {why}" for why, n in made.left_out.items()), highlight=False)
    for name, number in made.filtered_tests.items():
        out.print(
            escape(f"{name} filtered as training: {number} tiles ({made.filtered.name})"), highlight=False
        )
    show_path("catalog", made.catalog)
    show_path("listing", made.listing)


def _pair(words: str) -> tuple[str, tuple[Path, Path, Path]]:
    from sartransfer.errors import InputError

    event, sign, rest = words.partition("=")
    files = [Path(p.strip()) for p in rest.split("|")]
    if not sign or not event or len(files) != 3:
        raise InputError(f"--pair {words!r}: give EVENT=BEFORE|AFTER|MASK.")
    return event, (files[0], files[1], files[2])


def _counts(words: str) -> tuple[int, int, int]:
    from sartransfer.errors import InputError

    try:
        first, second, third = (int(w) for w in words.split(","))
    except ValueError as error:
        raise InputError(f"--counts {words!r}: give training,validation,test such as 156,20,20.") from error
    return first, second, third


def sentinel1(
    product: Annotated[
        Path,
        typer.Argument(help="A GRD product: SAFE folder, zip, or as in a cloud archive.", metavar="PRODUCT"),
    ],
    target: Annotated[Path, typer.Option("--out", "-o", help="The GeoTIFF to write.")],
    quantity: Annotated[str, typer.Option(help="sigma0, beta0 or gamma0.")] = "sigma0",
    decibel: Annotated[bool, typer.Option("--db/--linear", help="Decibels, or linear power.")] = True,
    denoise: Annotated[bool, typer.Option(help="Subtract the thermal noise.")] = True,
    azimuth_noise: Annotated[
        bool,
        typer.Option(help="Subtract the scalloping of the thermal noise too, where the product gives it."),
    ] = True,
    border_noise: Annotated[
        str,
        typer.Option(
            help="Noise along the image's edges: auto (masked in products before IPF 2.9), mask or keep."
        ),
    ] = "auto",
    multilook: Annotated[int, typer.Option(min=1, help="Pixels a side that are averaged.")] = 2,
    crs: Annotated[
        str | None, typer.Option(help="Projection, e.g. EPSG:3413; default: polar stereographic or UTM.")
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel in units of the projection; default: as large as the averaged pixels."
        ),
    ] = None,
    sea_level: Annotated[
        bool, typer.Option("--sea-level", help="Place pixels on the ellipsoid: for sea ice beside mountains.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Map a Sentinel-1 EW or IW GRD product: calibrated, denoised, averaged, geocoded, with its incidence angle."""
    from sartransfer.prepare import prepare_sentinel1

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("mapping", total=None)
        made = prepare_sentinel1(
            product,
            target,
            quantity=quantity,
            decibel=decibel,
            denoise=denoise,
            azimuth_noise=azimuth_noise,
            border_noise=border_noise,
            multilook=multilook,
            crs=crs,
            pixel_size=pixel_size,
            sea_level=sea_level,
            overwrite=overwrite,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    out.print(
        escape(
            f"{', '.join(made.bands)}: {made.height} x {made.width} pixels of {made.pixel_size:g} {made.unit} in "
            f"{made.crs[:40]}, "
            f"{made.valid_share:.0%} with values"
        ),
        highlight=False,
        soft_wrap=True,
    )
    for warning in made.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    show_path("scene", made.path)

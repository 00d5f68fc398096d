"""Commands that make data of their own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from sartransfer.terminal import err, out, show_path
from sartransfer.wording import duration_words


def sea_ice(
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for scenes, charts, labels and catalog.")
    ],
    months: Annotated[str, typer.Option(help="Which months to simulate: 1-12, or 1,7, or 1-3,7.")] = "1-12",
    size: Annotated[int, typer.Option(help="Pixels a side of a scene; 5000 of 80 m is full size.")] = 1000,
    pixel: Annotated[
        float, typer.Option(help="Metres a pixel; the product's pixels are half as large.")
    ] = 80.0,
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    mistakes: Annotated[
        float, typer.Option(help="Share of the chart's polygons that are called something else.")
    ] = 0.05,
    safe: Annotated[
        bool, typer.Option("--safe", help="Write Sentinel-1 products too, for prepare sentinel1.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes and write nothing.")] = False,
) -> None:
    """Simulate EW scenes of sea ice, one a month: HH, HV, angle, an analyst's chart, labels, truth and a catalog."""
    from sartransfer.data.simulated_ice import IceSettings, claim, estimate, write_ice_scenes

    settings = IceSettings(seed, size, pixel, mistakes, parse_months(months))
    if not dry_run:
        claim(folder, settings)
    found = estimate(folder, settings, safe=safe)
    out.print(
        f"{found.scenes} of {len(settings.months)} scenes to make: {found.disk_bytes / 2**30:.2f} GiB on disk, about "
        f"{duration_words(found.seconds)}, {found.memory_bytes / 2**30:.1f} GiB of memory",
        highlight=False,
        soft_wrap=True,
    )
    if dry_run:
        return
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("simulating", total=None)

        def show(name: str, done: int, of: int) -> None:
            bar.update(task, description=escape(name), completed=done, total=of)

        write_ice_scenes(folder, settings, safe=safe, progress=show)
    out.print("Simulated, not measured: see docs/sea-ice-simulated.md.", highlight=False, soft_wrap=True)
    show_path("catalog", folder / "catalog.csv")


def parse_months(text: str) -> tuple[int, ...]:
    """Read months as ``1-3,7``; raises `InputError` for what is none."""
    from sartransfer.errors import InputError

    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(
                f"--months {text!r}: {part.strip()!r} is no month. Write 1-12, or 1,7, or 1-3,7."
            )
        end = int(last) if dash else int(first)
        if not 1 <= int(first) <= end <= 12:
            raise InputError(f"--months {text!r}: {part.strip()!r} must go from 1 to 12, upwards.")
        found |= set(range(int(first), end + 1))
    return tuple(sorted(found))

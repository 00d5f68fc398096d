"""Commands that turn products and labelled scenes into what recipes take."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sartransfer.cli.options import CatalogSource, open_scenes
from sartransfer.terminal import err, out, show_path


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

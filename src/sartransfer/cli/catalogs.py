"""Commands over catalogs: list, check, write, folds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sartransfer.cli.options import CatalogSource, Overrides, Overwrite, open_scenes, recipe_of
from sartransfer.terminal import err, out, show_path


def list_(
    source: CatalogSource, scenes: Annotated[bool, typer.Option("--scenes", help="List every scene.")] = False
) -> None:
    """Show what a catalog holds: scenes and groups by split, classes, and on request every scene."""
    found = open_scenes(source)
    table = Table(
        "split",
        "scenes",
        "groups",
        title=escape(f"{found.name}: {', '.join(found.classes) or 'no classes named'}"),
    )
    for split in (*found.splits, None):
        entries = [e for e in found.entries if e.split == split]
        if entries:
            groups = {e.group or e.id for e in entries}
            table.add_row(escape(split or "(none)"), str(len(entries)), str(len(groups)))
    out.print(table)
    if scenes:
        for e in found.entries:
            row = (
                e.id,
                e.split or "-",
                e.group or "-",
                e.category or (str(e.label) if e.label else "no label"),
            )
            out.print(escape("  ".join(row)), highlight=False, soft_wrap=True)
    if found.source:
        out.print(escape(found.source), soft_wrap=True)


def check(source: CatalogSource, overrides: Overrides = None) -> None:
    """Look for what is wrong: missing files, sizes, labels, units, duplicates, and scenes on both sides of a split.

    Scenes without a split beside others that have one are told of, and are no problem by themselves.
    Of a recipe also: scenes without the bands that it asks for, or with units that cannot be turned into its units, and
    test scenes without what its strata need. What the recipe allows on both sides of a split is counted apart.
    """
    from sartransfer.data.check import check_catalog
    from sartransfer.data.leakage import check_leakage, refused
    from sartransfer.data.resolve import drawn_tests, find_leaks, open_catalog
    from sartransfer.data.splits import left_out

    recipe = recipe_of(source, overrides)
    found = open_scenes(source, recipe)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading", total=len(found.entries))
        problems = check_catalog(
            found,
            bands=None if recipe is None else recipe.data.bands,
            strata=None if recipe is None else recipe.strata,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    for warning in left_out(found):
        out.print(f"[yellow]warning[/] {escape(warning)}", highlight=False, soft_wrap=True)
    for problem in problems:
        out.print(
            f"[yellow]{problem.kind}[/] {escape(problem.id)}: {escape(problem.message)}",
            highlight=False,
            soft_wrap=True,
        )
    leaks, allowed = [], 0
    if not any(p.kind in ("missing file", "unreadable") for p in problems):
        if recipe is None:
            leaks = check_leakage(found)
        else:  # as a comparison looks for them
            every = find_leaks(open_catalog(recipe.data, check=False, cut=False), recipe.data)
            leaks = refused(every, recipe.data.same_scenes, drawn_tests(recipe.data))
            allowed = len(every) - len(leaks)
    for leak in leaks:
        out.print(f"[yellow]leak[/] {escape(str(leak))}", highlight=False, soft_wrap=True)
    out.print(
        f"{len(found.entries)} scenes, {len(problems)} problems, {len(leaks)} leaks between splits"
        + (f" ({allowed} more are allowed by the recipe)." if allowed else "."),
        highlight=False,
    )
    if problems or leaks:
        raise typer.Exit(1)


def write(
    source: CatalogSource,
    target: Annotated[
        Path, typer.Option("--out", "-o", help="The catalog to write: .csv, .geojson or .json.")
    ],
    overwrite: Overwrite = False,
) -> None:
    """Write a dataset's or another catalog's scenes as CSV or GeoJSON, to be edited and used in a recipe."""
    from sartransfer.catalog import write_catalog

    found = open_scenes(source)
    write_catalog(found, target, overwrite=overwrite)
    show_path("catalog", target)


def folds(
    source: CatalogSource,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for one catalog a fold.")],
    number: Annotated[int, typer.Option("--folds", min=2, help="How many folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the draw of groups into folds.", min=0)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Cut a catalog into folds by group, for cross-validation: each group is the test set `held-out` of one fold."""
    from sartransfer.catalog import write_catalog
    from sartransfer.data.splits import group_folds

    cut = group_folds(open_scenes(source), number, seed, name="held-out")
    folder.mkdir(parents=True, exist_ok=True)
    for i, fold in enumerate(cut, start=1):
        show_path("catalog", write_catalog(fold, folder / f"fold-{i}.csv", overwrite=overwrite))

"""Commands that train and compare: demo, compare, train, report, schema."""

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from sartransfer.cli.options import (
    ClusterKeys,
    ClusterPlain,
    ClusterWords,
    Device,
    Devices,
    FoldWords,
    Out,
    Overrides,
    RecipePath,
    check_cluster,
    read_recipe,
    with_devices,
)
from sartransfer.errors import SartransferError
from sartransfer.terminal import (
    Watcher,
    err,
    failure_words,
    out,
    show_estimate,
    show_path,
    show_verdict,
    show_warnings,
)

if TYPE_CHECKING:
    from sartransfer.gather import Comparison
    from sartransfer.recipe import Recipe


def demo(
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for data, runs, report and map.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulated scenes.", min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Compare two starts on simulated scenes, write the report and map a scene: needs no data."""
    from sartransfer.demo import run_demo

    with Watcher() as watcher:
        result = run_demo(folder, seed=seed, device=device, watcher=watcher)
    show_verdict(result.comparison, watcher.warned)
    out.print(
        "The images are simulated: optical and multilook SAR pictures of the same kind of landscape.",
        soft_wrap=True,
    )
    show_path("report", result.report)
    show_path("map", result.map.path)
    show_path("figure", result.figure)
    _end(result.comparison)


def compare(
    recipe: RecipePath,
    folder: Out = Path("out"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes and train nothing.")] = False,
    device: Device = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each with its share of the cores.")] = 1,
    folds: FoldWords = None,
    devices: Devices = None,
    cluster: ClusterWords = None,
    cluster_tls: ClusterKeys = None,
    cluster_plain: ClusterPlain = False,
    overrides: Overrides = None,
) -> None:
    """Train every start with every seed, score them, and say which is better and whether that is certain."""
    check_cluster(cluster, cluster_tls, cluster_plain)
    read = read_recipe(recipe, with_devices(overrides, devices), folder)
    if cluster and jobs > 1:
        raise SartransferError("--jobs is for this machine: with --cluster, say how many workers (local:4).")
    if folds:
        if cluster:
            raise SartransferError("--folds runs on this machine: leave --cluster out, and say --jobs.")
        _compare_folds(read, folder, folds, dry_run, device, jobs)
        return
    from sartransfer.cluster import open_cluster
    from sartransfer.comparison import carry_out
    from sartransfer.plan import plan_comparison

    plan = plan_comparison(read, folder)
    if dry_run:
        show_warnings(plan.warnings)
        show_estimate(plan, device)
        return
    with Watcher() as watcher, ExitStack() as stack:
        opened = (
            stack.enter_context(open_cluster(cluster, keys=cluster_tls, plain=cluster_plain))
            if cluster
            else None
        )
        watcher.warn(plan.warnings)
        result = carry_out(plan, device=device, jobs=jobs, cluster=opened, watcher=watcher)
    _show(result, watcher.warned)


def train(
    recipe: RecipePath,
    folder: Out = Path("out"),
    initialization: Annotated[
        str | None, typer.Option("--start", help="Which of the recipe's initializations; default: the last.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed; default: the recipe's first.")] = None,
    device: Device = "auto",
    devices: Devices = None,
    overrides: Overrides = None,
) -> None:
    """Train one run of a recipe: one start, one seed; `compare` with the same folder finds it finished."""
    read = read_recipe(recipe, with_devices(overrides, devices), folder)
    from sartransfer.comparison import train_one
    from sartransfer.timings import waiting_warning

    name = initialization or list(read.initializations)[-1]
    with Watcher() as watcher:
        planned, report = train_one(read, folder, name, seed, device=device, watcher=watcher)
    out.print(escape(report.describe()), highlight=False, soft_wrap=True)
    if slow := waiting_warning([planned.folder.path], read.data.cache):
        out.print(escape(slow), highlight=False, soft_wrap=True)
    show_path("run", planned.folder.path)
    show_path("checkpoint", planned.folder.path / f"{planned.job.training.weights}.safetensors")


def report(folder: Annotated[Path, typer.Argument(help="A comparison's folder.", metavar="FOLDER")]) -> None:
    """Write the report of a comparison again, from its results."""
    from sartransfer.report import write_figures, write_report

    path = write_report(folder)
    write_figures(folder, folder / "figures")
    show_path("report", path)


def schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    import json

    from sartransfer.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=1))


def _compare_folds(recipe: "Recipe", folder: Path, words: str, dry_run: bool, device: str, jobs: int) -> None:
    """Compare by folds: say what that makes, then do it."""
    from sartransfer.folds import EACH, compare_folds, cut_folds, first_fold

    number: int | Literal["each"]
    if words == EACH:
        number = EACH
    elif words.isdecimal() and int(words) >= 2:
        number = int(words)
    else:
        raise SartransferError(f"--folds {words}: a number from 2, or `{EACH}` to leave out each group once.")
    cut = cut_folds(recipe, number)
    out.print(escape(cut.describe()), highlight=False, soft_wrap=True)
    if dry_run:
        with first_fold(cut, folder) as plan:
            out.print(f"What the first fold takes (all: {len(cut.catalogs)} times that):", soft_wrap=True)
            show_warnings(plan.warnings)
            show_estimate(plan, device)
        return
    with Watcher() as watcher:
        result = compare_folds(cut, folder, device=device, jobs=jobs, watcher=watcher)
    _show(result, watcher.warned)


def _show(result: "Comparison", told: Collection[str]) -> None:
    """Show the verdict, without the warnings that were `told`, write figures and report, end with what went wrong."""
    from sartransfer.report import write_figures, write_report

    folder = result.out
    if len(result.failed) < len(result.results["runs"]):
        show_verdict(result, told)
        write_figures(folder, folder / "figures")
        show_path("report", write_report(folder))
        show_path("results", folder / "results.csv")
    _end(result)


def _end(result: "Comparison") -> None:
    """End with what went wrong: exit code 2 for a mistake of the user, 1 for one of ours."""
    if result.failed:
        words = failure_words(result.failed, len(result.results["runs"]))
        if "Traceback" not in words:
            raise SartransferError(words)
        err.print(words, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)

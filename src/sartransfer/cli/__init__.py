"""The command line: verbs over recipes, catalogs, checkpoints and scenes."""

import errno
import sys
from typing import Annotated

import typer
from rich.markup import escape

from sartransfer import __version__
from sartransfer.cli import (
    areas,
    auditing,
    catalogs,
    cluster,
    comparing,
    fetching,
    mapping,
    preparing,
    preparing_icechart,
    scoring,
    simulating,
)
from sartransfer.errors import SartransferError, words_of
from sartransfer.terminal import err, out

# Heavy packages are imported inside the commands, so that --help and a wrong path answer at once.

FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run the command line; a mistake of the user ends in one message and exit code 2."""
    try:
        app(prog_name="sartransfer")
    except SartransferError as error:
        _fail(words_of(error))
    except OSError as error:
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        hint = " Free some space, or choose another place." if error.errno in FULL else ""
        kept = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        _fail(f"{place}{error.strerror}.{hint}{kept}")
    except SystemExit as end:
        terminated = type(end).__name__ == "SIGTERMException"  # Lightning's, which would exit with 0
        stopped = _interrupted(end)
        if not terminated and stopped is None:
            raise
        notes = getattr(stopped, "__notes__", None)
        text = " ".join(notes) if notes else _kept(sys.argv[1:3])
        err.print(f"stopped: {text}", highlight=False, soft_wrap=True)
        sys.exit(143 if terminated else 130)


def _fail(message: str) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _kept(words: list[str]) -> str:
    """Say what is left of a command that was stopped, by its first two words."""
    if words[:1] in (["compare"], ["demo"], ["train"]):
        return "finished runs and epochs are kept, and the same command goes on from there."
    if words in (["prepare", "patches"], ["prepare", "tiles"]) or words[:1] in (["fetch"], ["simulate"]):
        return "what is done is kept, and the same command goes on from there."
    return "nothing was written."


def _interrupted(end: BaseException | None) -> KeyboardInterrupt | None:
    """Return the Ctrl-C behind an exit, if there is one: Typer and Lightning catch it and exit in their own ways."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end


def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


app = typer.Typer(
    name="sartransfer",
    help="Which pretrained start works best on your radar images, by how much, and is that certain?",
    callback=_options,
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
app.command()(comparing.demo)
app.command()(comparing.compare)
app.command()(comparing.train)
app.command()(scoring.evaluate)
app.command()(scoring.ensemble)
app.command()(mapping.predict)
app.command()(mapping.vectorize)
app.command()(areas.areas)
app.command()(comparing.report)
app.command()(comparing.schema)

app.command()(auditing.audit)

catalog_app = typer.Typer(no_args_is_help=True, help="List, check and write catalogs of scenes.")
catalog_app.command("list")(catalogs.list_)
catalog_app.command()(catalogs.check)
catalog_app.command()(catalogs.write)
catalog_app.command()(catalogs.folds)
app.add_typer(catalog_app, name="catalog")

prepare_app = typer.Typer(
    no_args_is_help=True, help="From products and labelled scenes to what recipes take."
)
prepare_app.command()(preparing.sentinel1)
prepare_app.command()(preparing_icechart.icechart)
prepare_app.command()(preparing.patches)
prepare_app.command()(preparing.flood)
prepare_app.command()(preparing.tiles)
app.add_typer(prepare_app, name="prepare")

cluster_app = typer.Typer(no_args_is_help=True, help="Keys and job files for work on many machines.")
cluster_app.command()(cluster.keys)
cluster_app.command()(cluster.job)
app.add_typer(cluster_app, name="cluster")

fetch_app = typer.Typer(no_args_is_help=True, help="Images from public archives.")
fetch_app.command()(fetching.flood)
app.add_typer(fetch_app, name="fetch")

simulate_app = typer.Typer(no_args_is_help=True, help="Scenes made by physics, where none may be shipped.")
simulate_app.command("sea-ice")(simulating.sea_ice)
app.add_typer(simulate_app, name="simulate")

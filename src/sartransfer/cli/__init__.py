"""The command line: verbs over recipes, catalogs, checkpoints and scenes."""

import errno
import sys
from typing import Annotated

import typer
from rich.markup import escape

from sartransfer import __version__
from sartransfer.cli import catalogs, comparing, preparing, scoring
from sartransfer.errors import SartransferError
from sartransfer.terminal import err, out

# Heavy packages are imported inside the commands, so that --help and a wrong path answer at once.

FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run the command line; a mistake of the user ends in one message and exit code 2."""
    try:
        app(prog_name="sartransfer")
    except SartransferError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        hint = " Free some space, or choose another place." if error.errno in FULL else ""
        _fail(f"{place}{error.strerror}.{hint}")
    except SystemExit as end:
        terminated = type(end).__name__ == "SIGTERMException"  # Lightning's, which would exit with 0
        if not terminated and not _interrupted(end):
            raise
        resumes = any(word in sys.argv[1:2] for word in ("compare", "demo", "train", "prepare"))
        text = "finished runs and epochs are kept, and the same command goes on from there."
        err.print(f"stopped: {text if resumes else 'nothing was written.'}", highlight=False, soft_wrap=True)
        sys.exit(143 if terminated else 130)


def _fail(message: str) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _interrupted(end: BaseException | None) -> bool:
    """Say whether Ctrl-C is behind an exit: Typer and Lightning catch it and exit in their own ways."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end is not None


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
app.command()(scoring.predict)
app.command()(comparing.report)
app.command()(comparing.schema)

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
prepare_app.command()(preparing.icechart)
prepare_app.command()(preparing.patches)
prepare_app.command()(preparing.flood)
app.add_typer(prepare_app, name="prepare")

"""What can go wrong, as one tree.

::

    SartransferError            every mistake a user can mend; the command line prints it and exits with 2
    ├── InputError              a file that is missing, damaged, of another size or kind
    ├── UnitError               quantities or scales that cannot be turned into each other, or are unknown
    ├── CatalogError            a catalog that does not hold together
    │   └── LeakageError        the same scene, footprint, content or continued image on both sides of a split
    ├── RecipeError             a recipe with an unknown key or a value that is not allowed
    ├── WeightsError            weights that do not fit the network, or were expected and not found
    ├── FetchError              an archive that cannot be reached, or has not what was asked for
    ├── ClusterError            machines that do not answer, or do not see the same files
    └── OutputError             a result that cannot be written: it exists already, the disk is full
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class SartransferError(Exception):
    """A mistake that the user can mend; its message names the value, what is allowed and the fix."""


class InputError(SartransferError):
    """A file that is missing, damaged, of another size or of another kind than was asked for."""


class UnitError(SartransferError):
    """Quantities or scales that cannot be turned into each other, or that are not known."""


class CatalogError(SartransferError):
    """A catalog that does not hold together."""


class LeakageError(CatalogError):
    """The same scene, footprint, file content or continued image on both sides of a split."""


class RecipeError(SartransferError):
    """A recipe with an unknown key or a value that is not allowed."""


class WeightsError(SartransferError):
    """Weights that do not fit the network, or that were expected and not found."""


class FetchError(SartransferError):
    """An archive that cannot be reached, or has not what was asked for."""


class ClusterError(SartransferError):
    """Machines that do not answer, that do not see the same files, or that others could get into."""


class OutputError(SartransferError):
    """A result that cannot be written: it exists already, or the disk is full."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the allowed word nearest to `value`, or an empty string."""
    close = difflib.get_close_matches(value, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def one_of(name: str, value: object, allowed: Iterable[object]) -> str:
    """Return the message for a value that is not among the allowed ones."""
    words = [str(a) for a in allowed]
    return f"{name}={value!r} is not known. Must be one of: {', '.join(words)}.{nearest(str(value), words)}"


def words_of(error: BaseException) -> str:
    """Return an error's message with the notes that were added to it, for people who see no traceback."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise `OutputError` for a file that is there already, unless it may be replaced, and for one without a folder."""
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already. Choose another name, or overwrite it (overwrite=True, --overwrite)."
        )


def refuse_input(path: Path, inputs: Iterable[Path], called: str | None = None) -> None:
    """Raise `OutputError` for a file to be written that is one of `inputs`, even where it may be replaced.

    `called`: what the message calls an input.
    """
    for file in inputs:
        if path.exists() and file.exists() and path.samefile(file):
            what = called or f"what is read ({file})"
            raise OutputError(f"{path} is {what}, which would be lost. Choose another name.")

"""The command that works published numbers out again."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sartransfer.cli.options import Overwrite
from sartransfer.terminal import err, out, show_path

MARKS = {"fits": "fits", "does not fit": "[yellow]does not fit[/]", "impossible": "[bold red]impossible[/]"}


def audit(
    claims: Annotated[
        Path | None, typer.Argument(help="Published scores and counts: YAML or JSON.", metavar="CLAIMS")
    ] = None,
    example: Annotated[
        str | None, typer.Option(help="Claims that come with the package instead: flood.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the findings here too.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Work published numbers out again: what fits, what cannot be, and the smallest slip that explains it.

    Ends with code 1 where something is impossible or does not fit.
    """
    from sartransfer.audit import audit_claims, example_claims, read_claims
    from sartransfer.errors import InputError, refuse_existing
    from sartransfer.runs import write_json
    from sartransfer.wording import number_words

    if (claims is None) == (example is None):
        raise InputError("name a file of claims, or an example (--example flood).")
    if json_path is not None:
        refuse_existing(json_path, overwrite)
    read = example_claims(example) if example is not None else read_claims(Path(str(claims)))
    found = audit_claims(read)
    out.print(escape(read.source), highlight=False, soft_wrap=True)
    table = Table("claim", "what", "verdict", "why")
    for one in found:
        slips = [
            f"{'smallest explanation' if i == 0 else 'or'}: {s.words}" + _true(s.low, s.high, number_words)
            for i, s in enumerate(one.explanations)
        ]
        words = "\n".join([one.message, *slips])
        table.add_row(escape(one.row), escape(one.what), MARKS.get(one.verdict, one.verdict), escape(words))
    out.print(table)
    wrong = sum(f.verdict in ("impossible", "does not fit") for f in found)
    if json_path is not None:
        write_json(
            json_path, {"source": read.source, "note": read.note, "findings": [asdict(f) for f in found]}
        )
        show_path("findings", json_path)
    err.print(f"{wrong} of {len(found)} findings are faults.", highlight=False)
    if wrong:
        raise typer.Exit(1)


def _true(low: float, high: float, words: object) -> str:
    """Say which true scores a slip implies; a slip of sums has none."""
    if low == high == 0 or not callable(words):
        return ""
    first, second = words(low), words(high)
    return f" (truly {first})" if first == second else f" (truly {first} to {second})"

"""What the command line shows: paths, verdicts, failures, tables, and how a comparison goes on."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

from sartransfer.wording import duration_words

if TYPE_CHECKING:
    from sartransfer.gather import Comparison
    from sartransfer.plan import Plan

# What would move the cursor, change what stands there already or reverse what is read, in texts of others (names of
# classes in a checkpoint, of files): C0 but tab and line feed, DEL, C1, bidirectional marks; and what UTF-8 cannot say.
_UNPRINTED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Console(rich.console.Console):
    """A terminal or file that shows ``?`` for each control character of a text; colours and bars are rich's own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of what is shown, without control characters."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(_UNPRINTED.sub("?", segment.text), segment.style)


out = Console()
err = Console(stderr=True)


def show_path(what: str, path: Path) -> None:
    """Print where something was written, as seen from here where it lies below."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    out.print(f"{what}: {escape(str(path))}", highlight=False, soft_wrap=True)


def show_warnings(warnings: Iterable[str]) -> None:
    """Print warnings, a line each."""
    for warning in warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)


def show_verdict(result: "Comparison", told: Collection[str] = ()) -> None:
    """Print what each start found and adapted, warnings that were not `told` yet, and the verdict."""
    from sartransfer.models.initialize import InitializationReport

    for name, values in result.results["initialization_reports"].items():
        words = InitializationReport.from_json(values).describe()
        out.print(escape(f"{name}: {words}"), highlight=False, soft_wrap=True)
    show_warnings(w for w in result.results["warnings"] if w not in told)
    for sentence in result.verdict:
        out.print(escape(sentence), highlight=False, soft_wrap=True)


def score_table(name: str, confusion: Any, classes: tuple[str, ...], top2: float | None) -> Table:
    """Return the scores of one test set as a table."""
    from sartransfer.metrics import tidy

    table = Table("class", "metric", "value", title=escape(name))
    rows = list(tidy(confusion, classes))
    if top2 is not None:
        rows.append(("", "top2", top2))
    for class_, metric, value in rows:
        table.add_row(escape(class_), metric, "undefined" if value != value else f"{value:.4f}")
    return table


def show_estimate(plan: "Plan", device: str) -> None:
    """Measure a few steps and print what a comparison takes and what it can find."""
    from sartransfer.plan import estimate

    def tell(text: str) -> None:
        err.print(text, highlight=False, markup=False, soft_wrap=True)

    with out.status("measuring training steps ..."):
        found = estimate(plan, device, tell)
    table = Table("", "", show_header=False, title=f"{escape(plan.recipe.name)}: what it takes")
    table.add_row("runs", f"{found.runs}, of which {found.open} are still to be done")
    table.add_row("labels", found.labels)
    for name, seconds in found.seconds_per_run.items():
        table.add_row(f"one run, {escape(name)}", f"at most {duration_words(seconds)}")
    table.add_row(
        "time in all",
        f"at most {duration_words(found.seconds)} on this machine, after the stages of chains",
    )
    table.add_row("memory", f"about {found.memory_bytes / 2**30:.1f} GiB")
    table.add_row("disk", f"about {found.disk_bytes / 2**30:.2f} GiB")
    n = found.seeds
    table.add_row(f"smallest p with {n} seeds", f"{found.smallest_p:.3f} (exact sign-flip test)")
    for sd, difference in found.detectable.items():
        text = "none: too few seeds to be certain" if difference == float("inf") else f"{difference:.3f}"
        table.add_row(f"smallest difference found, if seeds differ by {sd:g}", text)
    out.print(table)
    out.print(
        "Smallest difference: what is called better in four of five comparisons, for that standard deviation "
        "of the paired differences between seeds (in the primary metric, on a fixed test set)"
        + (f", corrected for {found.contrasts} planned contrasts." if found.contrasts > 1 else "."),
        soft_wrap=True,
    )


def failure_words(runs: Sequence[dict[str, Any]], of: int) -> str:
    """Return what went wrong in the runs that failed: each reason once, with the runs it stopped."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        share = f", {run['fraction']:.0%} of the labels" if run["fraction"] < 1 else ""
        reasons.setdefault(str(run["error"]), []).append(
            f"{run['initialization']}{share}, seed {run['seed']}"
            + (f", fold {run['fold']}" if "fold" in run else "")
        )
    lines = [f"{why} ({'; '.join(names)})" for why, names in reasons.items()]
    return f"{len(runs)} of {of} runs failed: " + "\n".join(lines)


class Watcher:
    """Shows runs and epochs as they go: a live line in a terminal, a line a run elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            console=err, transient=True, disable=not err.is_terminal,
        )  # fmt: skip
        self.bar = self.progress.add_task("", total=1, note="")
        self.told: set[str] = set()
        self.warned: tuple[str, ...] = ()
        """Warnings that were shown before the first run: they need not be shown again."""

    def __enter__(self) -> "Watcher":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def warn(self, warnings: Sequence[str]) -> None:
        """Print what is odd, before hours of training and not after them."""
        self.warned = tuple(warnings)
        show_warnings(warnings)

    def run(self, number: int, of: int, name: str, state: str) -> None:
        """Print a finished run, or begin the bar of a new one."""
        if state == "begins":
            self.progress.update(
                self.bar, description=f"[{number}/{of}] {escape(name)}", completed=0, note=""
            )
            return
        if state in self.told:
            state = "failed, as before"
        elif state.startswith("failed"):
            self.told.add(state)
        err.print(f"[{number}/{of}] {name}: {state}", highlight=False, markup=False, soft_wrap=True)

    def epoch(self, name: str, epoch: int, of: int, row: dict[str, Any]) -> None:
        """Move the bar."""
        note = f"loss {row['train_loss']:.3f}"
        if row.get("validation_metric") is not None:
            note += f", validation {row['validation_metric']:.3f}"
        self.progress.update(self.bar, total=of, completed=epoch, note=f"{epoch}/{of} {note}")

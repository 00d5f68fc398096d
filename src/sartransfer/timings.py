"""``timing.csv`` of a run: how long each epoch took, how much of that went by waiting for data, and when to say so."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sartransfer.textfile import write_text

FILE = "timing.csv"
COLUMNS = ("epoch", "seconds", "waited_seconds", "waited_share")
SHARE, SECONDS = 0.05, 60.0  # of waiting: under either of them nothing is gained by a cache
NO_CACHE = "none"  # of `data.cache`


def write_timing(folder: Path, rows: Iterable[Sequence[float]]) -> None:
    """Write one row an epoch, as `COLUMNS` says."""
    lines = [",".join(COLUMNS), *(",".join(f"{v:.6g}" for v in row) for row in rows)]
    write_text(folder / FILE, "\n".join(lines) + "\n")


def read_timing(folder: Path) -> tuple[float, float]:
    """Return the seconds of a run's training, and those of them that waited for data; zeros where none are known."""
    try:
        _, *lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
        rows = [[float(cell) for cell in line.split(",")] for line in lines]
        return sum(row[1] for row in rows), sum(row[2] for row in rows)
    except (OSError, ValueError, IndexError):
        return 0.0, 0.0


def waiting_warning(folders: Iterable[Path], cache: str) -> str | None:
    """Return what to do about runs that waited for data, more than `SHARE` of their time and than `SECONDS` in all.

    Args:
        folders: of runs. cache: their recipe's ``data.cache``.
    """
    found = [read_timing(folder) for folder in folders]
    seconds, waited = sum(s for s, _ in found), sum(w for _, w in found)
    if waited <= SECONDS or waited <= SHARE * seconds:
        return None
    text = f"{waited / seconds:.0%} of the training's {seconds / 60:.0f} minutes went by waiting for data"
    if cache == NO_CACHE:
        return f"{text}. With `data.cache: memory-map` scenes are decoded once, to disk, and read from there."
    return f"{text}, though scenes are cached. Is the disk of SARTRANSFER_CACHE slow?"

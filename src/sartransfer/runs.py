"""A run's folder: what was asked for, where it was done, how far it got, and what came of it."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sartransfer.catalog import Catalog
from sartransfer.errors import InputError, OutputError
from sartransfer.gpu import on_gpu
from sartransfer.journal import lock
from sartransfer.textfile import write_text

Status = Literal["missing", "unfinished", "finished", "failed"]
STATUSES = ("unfinished", "finished", "failed")  # as records have them
TEXTS, NUMBERS = ("identity", "status", "started", "finished", "error"), ("epochs", "best_epoch", "seconds")
PACKAGES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "lightning", "numpy", "rasterio")

LARGE_FILE = 64 << 20  # larger ones are read once a process, for as long as they stay as they are


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One training with one seed, on disk."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where there is none. Raises `InputError` for one that is damaged."""
        file = self.path / "run.json"
        return _checked(file, read_json(file)) if file.is_file() else {}

    def status(self, identity: str) -> Status:
        """Say how far the run with this identity got here; a run of another identity counts as missing."""
        record = self.record
        if record.get("identity") != identity:
            return "missing"
        found: Status = record["status"]
        return found

    def start(self, identity: str, recipe_yaml: str, facts: dict[str, Any]) -> None:
        """Open the folder for a run: an unfinished run of the same identity is kept, to be resumed.

        What lies there from a run of another identity is moved aside (``seed0.old-1``), never deleted.
        """
        # A folder without a record may hold weights and a resume state of anything: it counts as another run.
        taken = self.path.is_dir() and any(self.path.iterdir())
        if taken and self.record.get("identity") != identity:
            number = 1
            while (old := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
                number += 1
            self.path.rename(old)
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"identity": identity, "status": "unfinished", "started": now(), **facts}
        if self.record.get("started"):
            record["started"] = self.record["started"]
        write_json(self.path / "run.json", record)
        write_text(self.path / "recipe.yaml", recipe_yaml)

    @contextlib.contextmanager
    def alone(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder for this process while it trains in it: two in one folder would spoil each other's files.

        Let go of by a kill too. `wait`: until another process is done; else that is an error.

        Raises:
            OutputError: another process trains this run, or the lock cannot be written.
        """
        place = self.path.with_name(f".{self.path.name}.lock")
        held = "another process trains this run. Wait until it has finished, or choose another folder."
        while True:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise OutputError(f"cannot write {place}: {error.strerror}.") from None
            lock(file, self.path, None if wait else held)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), place.stat()):
                    break
            os.close(
                file
            )  # whoever had it has removed the file meanwhile: what was taken is no lock any more
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove what is open
                place.unlink()
            os.close(file)

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the run as finished; the resume state is no longer needed and goes."""
        write_json(
            self.path / "run.json",
            {**self.record, **facts, "status": "finished", "finished": now(), "error": None},
        )
        for state in (
            self.path / "resume.pt",
            *self.path.glob(".resume.pt.*.tmp"),
        ):  # a kill leaves the latter
            state.unlink(missing_ok=True)

    def fail(self, error: str) -> None:
        """Mark the run as failed, with the reason; it is tried again when the comparison is started again."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path / "run.json", {**self.record, "status": "failed", "finished": now(), "error": error}
        )


def _checked(file: Path, record: Any) -> dict[str, Any]:
    """Return the record of a run; raises `InputError` where it is none."""
    if not isinstance(record, dict):
        fault = f"it holds {type(record).__name__}, not the record of a run"
    elif "identity" in record and record.get("status") not in STATUSES:
        fault = f"status={record.get('status')!r}, must be one of: {', '.join(STATUSES)}"
    else:
        said = {key: value for key, value in record.items() if value is not None}
        wrong = [key for key in TEXTS if not isinstance(said.get(key, ""), str)]
        wrong += [key for key in NUMBERS if not isinstance(said.get(key, 0), int | float)]
        if not wrong:
            return record
        fault = f"{wrong[0]}={record[wrong[0]]!r}"
    raise InputError(
        f"{file} is damaged: {fault}. Delete it and run again: what lies in its folder is moved aside."
    )


def chosen_weights(path: Path) -> str:
    """Return which weights stand for a run folder: what its recipe said, ``best`` where nothing is said."""
    return str(RunFolder(path).record.get("weights", "best")) if path.is_dir() else "best"


def fingerprint(catalog: Catalog) -> str:
    """Return a hash of a catalog and of the content of every file it names; places do not enter."""
    total = hashlib.sha256()
    for entry in catalog.entries:
        total.update(repr((entry.id, entry.category, entry.split, entry.group)).encode())
        for asset in entry.assets:
            total.update(repr(asset.bands).encode())
            total.update(_product(asset.path))
        if entry.label is not None:
            total.update(_content(entry.label))
        if entry.part is not None:
            total.update(repr(entry.part).encode())
    total.update(repr((catalog.classes, sorted(catalog.label_values.items()))).encode())
    return total.hexdigest()[:16]


def _product(path: Path) -> bytes:
    """Hash an image file, or the folder of a product by its files and their names in it."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    if not files:
        return _content(path)
    parts = [str(p.relative_to(path)).encode() + _content(p) for p in files]
    return hashlib.sha256(b"".join(parts)).digest()


def _content(path: Path) -> bytes:
    try:
        facts = path.stat()
        look = (
            _digest if facts.st_size > LARGE_FILE else _digest.__wrapped__
        )  # clocks of files tick in milliseconds
        return look(path.resolve(), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    except FileNotFoundError:
        raise InputError(f"the catalog names {path}, which does not exist.") from None
    except OSError as error:
        raise InputError(f"the catalog names {path}, which cannot be read: {error.strerror}.") from None


@functools.lru_cache(maxsize=1 << 17)
def _digest(path: Path, size: int, *changed: int) -> bytes:
    """Hash a whole file: a label that is mended in its middle is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(str(size).encode())).digest()


def environment(device: str, precision: str) -> dict[str, Any]:
    """Return what a number depends on: versions, hardware, and the commit of this code."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    commit, dirty = commit_of(Path(__file__).parent)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "device": torch.cuda.get_device_name() if on_gpu(device) else device,
        "precision": precision,
        "packages": versions,
        "commit": commit,
        "dirty": dirty,
    }


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """Return the git commit `folder` is at and whether its tracked files were changed since; None without git."""
    if shutil.which("git") is None:
        return None, None

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", str(folder)) is None:  # lies in somebody else's checkout
        return None, None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return commit, None if changed is None else bool(changed)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_json(path: Path) -> Any:
    """Read JSON; raises `InputError` for a file that is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run again.") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON in one step; NaN is refused (what is undefined is null)."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

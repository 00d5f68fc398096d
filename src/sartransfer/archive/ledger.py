"""What is done of an archive, on disk: a kill at any moment costs no map that is whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sartransfer.errors import OutputError
from sartransfer.journal import lock

LEDGER = "maps.jsonl"


def stamp(path: Path) -> list[int] | None:
    """Return what tells a file from one that replaces it; None where there is none."""
    return [path.stat().st_mtime_ns, path.stat().st_size] if path.exists() else None


class Ledger:
    """What is done of an archive: a line of JSON for each scene that was begun, mapped or failed; the last one counts.

    One process at a time writes it.
    """

    def __init__(self, folder: Path) -> None:
        """Open or begin ``maps.jsonl`` in a folder. Raises `OutputError` where another process has it open."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / LEDGER
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error}.") from error
        lock(self._file, self.path, "another process maps into this folder. Wait for it.")
        self.lines: list[dict[str, Any]] = []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):
            os.write(self._file, b"\n")  # a line that a kill cut off; the next one must not become part of it
        for line in text.splitlines():
            try:
                self.lines.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                continue

    def of(self, name: str, key: str, path: Path) -> dict[str, Any] | None:
        """Return the record of a scene whose map is at `path` and was made by the task `key`; None: by another.

        A map that was replaced since it was noted is another's too.
        """
        own = [line for line in self.lines if line.get("name") == name]
        seen = stamp(path)
        while own and own[-1].get("status") == "begun" and own[-1].get("replaces") == seen:
            own.pop()  # it came to nothing: the map is still the one that was to be replaced
        last: dict[str, Any] = own[-1] if own else {}
        if last.get("key") != key or last.get("status") == "failed":
            return None
        if last.get("status") == "finished":
            return last if last.get("stamp", seen) == seen else None
        # Maps are put in place whole: one that came after "begun" is finished, by a worker we did not live to hear.
        return {"name": name, "status": "finished", "map": path.name, "key": key}

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a line; on disk when this returns."""
        self.lines.append(dict(record))
        try:
            os.write(self._file, (json.dumps(dict(record)) + "\n").encode())
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error}). Is the disk full?") from error

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

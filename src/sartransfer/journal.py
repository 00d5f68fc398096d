"""What of a long task is done: a small file of lines that survives a process that is killed."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sartransfer.errors import OutputError
from sartransfer.scene import Window


class Journal:
    """The windows that are done, one line each, each on disk before `add` returns.

    A last line that was cut off by a kill does not count. A journal of another task (another header) begins anew.
    """

    def __init__(
        self,
        path: Path | None,
        header: Mapping[str, Any] | None = None,
        forget: Callable[[], None] | None = None,
    ) -> None:
        """Open or begin a journal; None: nothing is kept.

        `forget`: removes what another task left; a journal that is begun names the new task only after that, so that
        nobody takes the one for the other where the process is killed between. Raises `OutputError` where another
        process has it open, or it cannot be written.
        """
        self.path = path
        self.done: set[Window] = set()
        self.continued = False
        """Whether a journal of this task was there."""
        self._file = -1
        if path is None:
            return
        first = first_line(header or {})
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            lock(self._file, path, "another process makes this map. Wait for it, or choose another name.")
            text = os.pread(self._file, os.fstat(self._file).st_size, 0).decode("utf-8", errors="replace")
            lines = text.split("\n")[:-1]
            if lines and lines[0] == first:
                self.continued = True
                self.done = {Window(*values) for values in map(_window, lines[1:]) if values}
                whole = "\n".join(lines) + "\n"
                os.ftruncate(self._file, len(whole.encode()))
            else:
                self._begin(first, forget)
        except OSError as error:
            self._close()
            raise OutputError(f"{path} cannot be written ({error}). Is the disk full?") from error

    def _begin(self, first: str, forget: Callable[[], None] | None) -> None:
        os.ftruncate(self._file, 0)
        os.fsync(self._file)
        if forget is not None:
            try:
                forget()
            except BaseException:
                self._close()
                raise
        os.write(self._file, f"{first}\n".encode())
        os.fsync(self._file)

    def add(self, window: Window) -> None:
        """Note that a window is done; what it gave must be on disk before."""
        if self.path is None:
            self.done.add(window)
            return
        line = json.dumps([window.row, window.col, window.height, window.width])
        try:
            os.write(self._file, f"{line}\n".encode())
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error}). Is the disk full?") from error
        self.done.add(window)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)  # this lets go of the lock as well, as a kill does
            self._file = -1


def first_line(header: Mapping[str, Any]) -> str:
    """Return the line by which a journal knows its task."""
    return json.dumps(dict(header), sort_keys=True)


def _window(line: str) -> tuple[int, int, int, int] | None:
    try:
        row, col, height, width = json.loads(line)
    except ValueError:
        return None
    return int(row), int(col), int(height), int(width)


def lock(file: int, path: Path, held: str | None) -> None:
    """Take an open file for this process alone, until it is closed.

    Args:
        file: its descriptor, which is closed where another process has it. path: its name, for the message.
        held: who has it then, and what to do; None: wait until it is free.

    Raises:
        OutputError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if held is None else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(file)
        raise OutputError(f"{path} is in use: {held}") from error

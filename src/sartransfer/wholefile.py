"""Files that are there whole or not at all, whatever stops the writing."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sartransfer.errors import OutputError


@contextmanager
def replacing(path: Path, *faults: type[Exception], durable: bool = False) -> Iterator[Path]:
    """Give a name beside `path` to write under: it becomes `path` where the block ends well, and is removed otherwise.

    So a reader sees the old file or the whole new one, also while several processes write it.

    Args:
        path: what is there already is replaced.
        faults: what the writer raises for a file that it could not write, beside `OSError`.
        durable: have it on disk before it gets its name, so that a power cut leaves the old file or the new one.

    Raises:
        OutputError: for an `OSError` or one of `faults`, in the block or after it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    caught: tuple[type[Exception], ...] = (OSError, *faults)
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except caught as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise OutputError(
            f"cannot write {path}: {reason}. Free some space, or choose another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be the fault, or none
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> Path:
    """Write a file whole, and its folder where there is none; return its path. The rest is as `replacing` says."""
    with replacing(path, durable=durable) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
    return path

"""Text files, written whole or not at all."""

import os
from pathlib import Path

from sartransfer.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it, so that nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {error.strerror}. Free some space, or choose another place."
        ) from None

"""Text files, written whole or not at all."""

from pathlib import Path

from sartransfer.wholefile import replacing


def write_text(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it; raises `OutputError` where that cannot be."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

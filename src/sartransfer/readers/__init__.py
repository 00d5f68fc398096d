"""From a file to a Scene: one function a format, chosen by name or by the file's ending."""

from sartransfer.readers.opening import (
    ENDINGS,
    READERS,
    open_entry,
    open_files,
    open_scene,
    read_label,
)

__all__ = ["ENDINGS", "READERS", "open_entry", "open_files", "open_scene", "read_label"]

"""From a file to a Scene: one function a format, chosen by name, by the file's ending or by its content."""

from sartransfer.readers.opening import (
    DETECTORS,
    ENDINGS,
    READERS,
    open_entry,
    open_files,
    open_scene,
    read_label,
    refuse_many_classes,
    refuse_unsaid_labels,
    unsaid_labels,
)

__all__ = [
    "DETECTORS",
    "ENDINGS",
    "READERS",
    "open_entry",
    "open_files",
    "open_scene",
    "read_label",
    "refuse_many_classes",
    "refuse_unsaid_labels",
    "unsaid_labels",
]

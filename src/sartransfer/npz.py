"""Arrays in zip archives (.npz) of others: what damage raises, and headers that are not believed unread."""

import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

Header = tuple[tuple[int, ...], np.dtype[Any]]

DAMAGED_ZIP: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # of a header, or of bz2
    tokenize.TokenError,  # of a header that is cut off
    KeyError,  # a member that the list names and the archive has not
    RuntimeError,  # encrypted; NotImplementedError: a method that is not known
    OverflowError,
    MemoryError,
)
"""What reading a damaged zip may raise besides `OSError`, which may also be of what is written meanwhile."""

UNREADABLE_ZIP: tuple[type[Exception], ...] = (OSError, *DAMAGED_ZIP)
"""What opening and reading a zip may raise."""

MOST_RATIO = 1100  # deflate packs no more than 1032 bytes into one (zlib, technical details)
SMALL = 1 << 20  # bytes; what is said to be smaller harms nobody


def check_members(path: Path) -> dict[str, Header]:
    """Return shape and type of every array in an archive without reading its numbers.

    A header must say as many bytes as its member unpacks to, and these no more than deflate can pack: it would
    otherwise claim all memory. Raises one of `UNREADABLE_ZIP`.
    """
    out = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                first = npy.read_magic(file) == (1, 0)
                read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
                shape, _, dtype = read(file)
                size = file.tell() + math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and (min(shape, default=0) < 0 or size != member.file_size):
                raise ValueError(
                    f"{member.filename} says shape {tuple(shape)} of {dtype}, {size} bytes, but has {member.file_size}"
                )
            if member.file_size > max(SMALL, MOST_RATIO * member.compress_size):
                raise ValueError(
                    f"{member.filename} says {member.file_size} bytes, which {member.compress_size} cannot hold"
                )
            out[member.filename.removesuffix(".npy")] = (tuple(shape), dtype)
    return out

"""Memory that the C library keeps after it was freed, given back to the machine."""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any


@functools.cache
def _trim() -> Callable[[int], Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return None


def give_back_memory() -> None:
    """Give freed memory back to the machine, where the C library is glibc; else do nothing.

    glibc keeps freed blocks of up to 32 MB for later ones. Windows at a scene's edges are of other sizes than those
    inside, so that kept blocks do not fit and add up: a scene of 3000 x 3000 px took 521 MiB so, and 303 MiB where
    they were given back after each window (496 were told).
    """
    if trim := _trim():
        trim(0)

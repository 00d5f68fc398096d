"""Arrays at places of an open file, by plain calls: mapped pages would count as memory of the process."""

import os
from typing import Any

from numpy.typing import NDArray

from sartransfer.errors import OutputError


def write_at(file: int, values: NDArray[Any], place: int) -> None:
    """Write a contiguous array from byte `place` on. Raises `OSError` (disk full)."""
    view = values.reshape(-1).data.cast("B")
    while view:
        done = os.pwrite(file, view, place)
        view, place = view[done:], place + done


def read_at(file: int, values: NDArray[Any], place: int) -> None:
    """Fill a contiguous array with the bytes from `place` on. Raises `OutputError` for a file that ends before."""
    view = values.reshape(-1).data.cast("B")
    while view:
        done = os.preadv(file, [view], place)
        if done == 0:
            raise OutputError("what was kept on disk ends too early: was it cut? Remove it and run again.")
        view, place = view[done:], place + done

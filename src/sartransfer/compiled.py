"""Loops over pixels compiled by numba where it is installed (extra ``fast``); numpy does the same work where it is not.

A kernel is a plain function of arrays. It is compiled in each process when the first large image comes, which takes a
second or two, and is kept there: numba's cache on disk is pickled, and nothing pickled is loaded here. No fast
mathematics: a compiled loop adds in the order that its numpy twin does, and gives the same bits.
"""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LARGE = 1 << 22
"""Pixels from which compiling pays: numpy takes a fraction of a second for fewer."""
BAND = 256  # rows that a thread takes at least

Kernel = Callable[..., Any]
_ready: dict[tuple[Kernel, str], Kernel] = {}


def kernel_for(
    function: Kernel, signature: str, pixels: int, helpers: Sequence[Kernel] = ()
) -> Kernel | None:
    """Return the compiled `function`, or None where numpy shall do the work.

    Args:
        function: of arrays and numbers, without Python objects. signature: numba's, so that it is compiled once.
        pixels: of the image; few are left to numpy, unless the kernel is compiled already.
        helpers: functions that `function` calls.

    None too where numba is not installed, or switched off by ``NUMBA_DISABLE_JIT=1``; with a warning where this version
    of it cannot compile the function.
    """
    if (function, signature) in _ready:
        return _ready[function, signature]
    if pixels < LARGE:
        return None
    done = _compiled(function, signature, tuple(helpers))
    if done is not None:
        _ready[function, signature] = done
    return done


@functools.cache
def _compiled(function: Kernel, signature: str, helpers: tuple[Kernel, ...]) -> Kernel | None:
    try:
        import numba
        from numba.extending import register_jitable
    except ImportError:
        return None
    if getattr(numba.config, "DISABLE_JIT", False):
        return None
    for helper in helpers:
        _known(helper, register_jitable)
    try:
        done: Kernel = numba.njit(signature, nogil=True, error_model="numpy")(function)
    except numba.core.errors.NumbaError as error:
        first = str(error).splitlines()[0]
        warnings.warn(f"numba {numba.__version__} cannot compile {function.__name__}: {first}", stacklevel=2)
        return None
    return done


@functools.cache
def _known(helper: Kernel, register: Callable[[Kernel], Kernel]) -> None:
    register(helper)


def thread_count() -> int:
    """Return the threads that kernels may use: the processors given to this process, or OMP_NUM_THREADS if fewer."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    wanted = int(given) if given.isdigit() and int(given) > 0 else os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted, allowed))


def run_bands(work: Callable[[int, int], Any], height: int, *, step: int = BAND) -> list[Any]:
    """Call ``work(top, bottom)`` for bands of rows that make up `height`, in threads; what it returns, from the top.

    Kernels let go of Python's lock. `step`: a band's rows are a multiple of it.
    """
    threads = thread_count()
    rows = max(step, -(-height // (threads * step)) * step)
    bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
    if len(bands) == 1:
        return [work(*bands[0])]
    with ThreadPoolExecutor(len(bands)) as pool:
        return list(pool.map(lambda band: work(*band), bands))

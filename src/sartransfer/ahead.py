"""Windows of a scene that threads read before they are asked for, and work that is begun before the last is waited for.

For a GPU, which else waits while a window is read, and again while an answer is copied back.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sartransfer.errors import InputError
from sartransfer.scene import Reading, Window

Job = TypeVar("Job")
Result = TypeVar("Result")
Read = Callable[[Window], Reading]
"""Window of the scene -> its normalized bands (C, h, w) and valid pixels (h, w)."""
Seen = tuple[Tensor, Tensor]
"""A window's normalized bands (C, h, w) float32 and valid pixels (h, w), on the CPU."""
Room = Callable[[Window], Tensor]
"""Window -> an empty image (C, h, w) float32 on the CPU, pinned where it goes to a GPU."""


@dataclass(frozen=True, slots=True)
class Flow:
    """How the windows of a scene come to a network, and how far its answers may lag behind."""

    device: str = "cpu"
    """Where images go and answers stay until all is worked out of them."""
    ahead: int = 0
    """Windows that are read before they are asked for; 0: each is read when its turn comes, without a thread."""
    threads: int = 1
    """Threads that read. They share no handle: sources open their files for each read."""
    rows: int = 0
    """Rows of a strip that one thread reads at a time; 0: a whole window."""
    lag: int = 0
    """Windows that are begun before the first of them is waited for."""

    def __post_init__(self) -> None:
        if min(self.ahead, self.threads - 1, self.rows, self.lag) < 0:
            raise InputError(f"{self}: ahead, rows and lag are 0 or more, threads 1 or more.")


SERIAL = Flow()


def in_order(
    work: Callable[[Job], Result], jobs: Iterable[Job], ahead: int, threads: int
) -> Iterator[Result]:
    """Yield `work(job)` of each job in order, done by threads; at most `ahead` are begun and not handed out.

    Jobs are taken in the caller's thread. An error is raised where its result would have come. Closing the generator
    stops the threads: what is not begun is dropped, what is begun is waited for.
    """
    yield from _bounded(lambda pool, job: pool.submit(work, job).result, jobs, ahead, threads)


def _bounded(
    begin: Callable[[Executor, Job], Callable[[], Result]], jobs: Iterable[Job], ahead: int, threads: int
) -> Iterator[Result]:
    waiting: deque[Callable[[], Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    try:
        for job in jobs:
            waiting.append(begin(pool, job))
            if len(waiting) >= ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def lagging(begun: Iterable[Callable[[], Result]], lag: int) -> Iterator[Result]:
    """Yield what calls give, each of them made once `lag` later ones were taken: so much is under way meanwhile."""
    waiting: deque[Callable[[], Result]] = deque()
    for finish in begun:
        waiting.append(finish)
        del finish  # it may hold a window
        if len(waiting) > lag:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def strips(window: Window, rows: int) -> Iterator[Window]:
    """Cut a window at the scene's multiples of `rows`, so that no tile of a file lies in two of them; 0: not at all."""
    top, end = window.row, window.row + window.height
    while top < end:
        bottom = min(end, (top // rows + 1) * rows) if rows else end
        yield Window(top, window.col, bottom - top, window.width)
        top = bottom


def read_ahead(
    read: Read, jobs: Iterable[tuple[Job, Window]], flow: Flow, room: Room
) -> Generator[tuple[Job, Callable[[], Seen]]]:
    """Yield jobs in order, each with a call (to be made once) that gives what its window holds.

    Args:
        read: pixel by pixel, so that a window's strips together are the window; called from `flow.threads` threads.
        jobs: and the window that each needs. At most `flow.ahead` windows are being read or wait to be handed out.
        flow: how many, and by how many threads.
        room: gives the image that a window is read into.

    An error of `read` is raised where its window would have come. Close the generator to leave early.
    """
    if not flow.ahead:  # nothing is held here: the window is read when the call is made
        for job, window in jobs:
            yield job, partial(_read_now, read, window)
        return

    def begin(pool: Executor, each: tuple[Job, Window]) -> Callable[[], tuple[Job, Callable[[], Seen]]]:
        job, window = each
        image, valid = room(window), torch.empty(window.height, window.width, dtype=torch.bool)

        def fill(strip: Window) -> None:
            place = slice(strip.row - window.row, strip.row - window.row + strip.height)
            data, known = read(strip)
            image.numpy()[:, place] = data  # by numpy: torch would bring a team of threads for each of these
            valid.numpy()[place] = known

        parts = [pool.submit(fill, strip) for strip in strips(window, flow.rows)]

        def finish() -> tuple[Job, Callable[[], Seen]]:
            for part in parts:
                part.result()
            return job, lambda: (image, valid)

        return finish

    yield from _bounded(begin, jobs, flow.ahead, flow.threads)


def _read_now(read: Read, window: Window) -> Seen:
    data, valid = read(window)
    return torch.from_numpy(data), torch.from_numpy(valid)

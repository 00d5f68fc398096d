"""Hand out tasks, bounded in flight, and give back what became of each: a value, or why there is none."""

import contextlib
import functools
import queue
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartransfer import __version__, errors
from sartransfer.cluster.opening import WAIT, Cluster
from sartransfer.errors import ClusterError, SartransferError, words_of

AHEAD = 2  # tasks in flight for each that can be done at a time, so that no worker waits for the next one
LOST = "the cluster is lost; what is done is kept, start again."
LOOK = 1.0  # seconds after which we look whether workers have come or gone


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task."""

    value: Any = None
    error: str | None = None
    """Why there is no value; None: there is one."""
    kind: str = ""
    """The name of the error's class."""
    known: bool = True
    """Whether it is a `SartransferError`, a mistake that the user can mend; else `error` is a traceback."""

    def get(self) -> Any:
        """Return the value, or raise the error as what it was in the worker; one that we do not know as it is told."""
        if self.error is None:
            return self.value
        if not self.known:
            raise RuntimeError(f"in a worker: {self.error}")
        raise getattr(errors, self.kind, SartransferError)(self.error)

    @property
    def line(self) -> str:
        """The error in one line."""
        lines = (self.error or "").strip().splitlines() or [self.kind]
        return lines[0] if self.known else lines[-1]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a worker must find before its first task: this version, and the folder that all share."""

    version: str
    proof: Path
    token: str

    def check(self) -> None:
        """Raise `ClusterError` where this worker is of another version or does not see the shared folder."""
        if self.token in _CHECKED:
            return
        if self.version != __version__:
            raise ClusterError(
                f"a worker has sartransfer {__version__}, this is {self.version}. Install one version."
            )
        try:
            seen = self.proof.read_text(encoding="utf-8") == self.token
        except OSError:
            seen = False
        if not seen:
            raise ClusterError(
                f"a worker does not see the folder {self.proof.parent}: all machines must have it at the same path."
            )
        _CHECKED.add(self.token)


_CHECKED: set[str] = set()


def run_tasks(
    cluster: Cluster,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    share: Path,
    ahead: int = AHEAD,
) -> Iterator[tuple[Any, Outcome]]:
    """Yield (item, outcome) of ``function(item)`` for every item, in the order in which they are done.

    At most `ahead` tasks for each that the workers can do at a time are in flight, so neither `items` nor values pile
    up. A task whose worker dies is done again by another; one that has ended three workers is given up, and said so.

    Args:
        cluster: open. function: importable by workers (or a `functools.partial` of such a one).
        items: what to do, taken one by one. share: a folder that every worker must see at this path.
        ahead: see above.

    Raises:
        ClusterError: the cluster is lost, has had no worker for `WAIT` seconds (SLURM and Kubernetes may take longer),
            or a worker is of another version or sees other files; what was done before has been yielded.
    """
    from distributed import Future
    from distributed.client import ClosedClientError

    token = uuid.uuid4().hex
    proof = share.resolve() / f".sartransfer-cluster-{token}"
    proof.write_text(token, encoding="utf-8")
    work = functools.partial(_work, function, Ticket(__version__, proof, token))
    finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
    flying: dict[str, tuple[Future, Any]] = {}
    rest = iter(items)
    left = True
    alone = time.monotonic()
    try:
        while left or flying:
            threads = _threads(cluster)
            if threads:
                alone = time.monotonic()
            elif time.monotonic() - alone > WAIT and cluster.place.kind not in ("slurm", "kubernetes"):
                raise ClusterError(
                    f"the cluster has had no worker for {WAIT:g} s: what is done is kept, start again."
                )
            while left and len(flying) < ahead * max(1, threads, cluster.place.workers):
                try:
                    item = next(rest)
                except StopIteration:
                    left = False
                    break
                # Not pure: Dask would take two equal tasks for one. Not released before we have looked at it.
                try:
                    future = cluster.client.submit(work, item, pure=False)
                except ClosedClientError:
                    raise ClusterError(LOST) from None
                flying[future.key] = future, item
                future.add_done_callback(finished.put)
            if not flying:
                continue
            try:
                future = finished.get(timeout=LOOK)
            except queue.Empty:
                if cluster.client.status not in ("running", "connecting"):
                    raise ClusterError(LOST) from None
                continue
            if future.status in (
                "pending",
                "lost",
            ):  # its worker died with the value in hand: it is done again
                future.add_done_callback(finished.put)
                continue
            _, item = flying.pop(future.key)
            yield item, _outcome(future)
    finally:
        if flying and cluster.client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):  # lost meanwhile: there is nothing to take back
                cluster.client.cancel([future for future, _ in flying.values()], force=True)
        proof.unlink(missing_ok=True)


def _threads(cluster: Cluster) -> int:
    """Return how many tasks can be done at a time; raises `ClusterError` where the scheduler does not say."""
    try:
        return cluster.threads()
    except Exception as error:  # what Dask raises depends on how far the connection had come
        raise ClusterError(f"{LOST} ({type(error).__name__}: {error})") from error


def _work(function: Callable[[Any], Any], ticket: Ticket, item: Any) -> Outcome:
    ticket.check()
    return attempt(function, item)


def attempt(function: Callable[[Any], Any], item: Any) -> Outcome:
    """Do a task; what goes wrong becomes words, since not every exception survives the way back from a worker."""
    try:
        return Outcome(function(item))
    except SartransferError as error:
        return Outcome(None, words_of(error), type(error).__name__)
    except Exception as error:
        words = "".join(traceback.format_exception(error, limit=-3))
        return Outcome(None, words, type(error).__name__, known=False)


def _outcome(future: Any) -> Outcome:
    from distributed import KilledWorker

    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status == "error":
        error = future.exception()
        if isinstance(error, KilledWorker):
            return Outcome(
                None,
                "its worker process was killed again and again: out of memory, perhaps. Give each worker more of it, "
                "or start fewer workers.",
                "ClusterError",
            )
        if isinstance(error, ClusterError):
            raise error
        raise ClusterError(
            f"a task could not be sent or its answer not read: {type(error).__name__}: {error}"
        )
    raise ClusterError(LOST)

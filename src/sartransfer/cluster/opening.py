"""Open a cluster: start workers here, on SLURM or on Kubernetes, or join one that runs."""

import json
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartransfer.cluster.jobs import SETTINGS as ENVIRONMENT
from sartransfer.cluster.jobs import THREADS
from sartransfer.cluster.keys import EXTRA, new_security, read_security
from sartransfer.cluster.places import Place, parse_place
from sartransfer.errors import ClusterError

WAIT = 60  # seconds that a running cluster, or processes here, may take until the first worker answers
# A worker may start processes of its own: those that read training data, those of several devices.
# No pages over HTTP: what a scheduler would show there, it shows to all who are on the machine. And no
# profiler: a thread that walks the frames of all others a hundred times a second, also here, beside a local scheduler.
SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.daemon": False,
    "distributed.admin.tick.limit": "1h",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
PAGES = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is open."""

    client: Any
    """A `distributed.Client`."""
    place: Place

    def threads(self) -> int:
        """Return how many tasks its workers can do at a time, now."""
        return sum(self.client.nthreads().values())


@contextmanager
def open_cluster(
    where: "str | Place | Cluster", *, keys: Path | None = None, plain: bool = False, wait: float = WAIT
) -> Iterator[Cluster]:
    """Open a cluster for as long as the context lasts; one that is open already is passed through and stays open.

    Dask sends pickled functions between processes, which can do all that their user can. So: processes here listen on
    the loopback address alone and know each other by keys made for this one time; SLURM's workers by such keys too,
    in a folder of the user's; an address beyond this machine must be ``tls://``.

    Args:
        where: words as `parse_place` reads them. keys: a folder with keys of a running cluster (`write_keys`); None: as
            Dask's own configuration says. plain: join ``tcp://`` beyond this machine all the same.
        wait: seconds for the first worker; SLURM and Kubernetes may keep us waiting longer.

    Raises:
        ClusterError: words that are not known, a cluster that does not answer, a way in that is not safe, or the extra
            ``cluster`` is not installed.
    """
    if isinstance(where, Cluster):
        yield where
        return
    place = parse_place(where) if isinstance(where, str) else where
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise ClusterError(f"a cluster needs dask ({EXTRA}).") from error
    if place.kind == "file":
        place = _scheduler_of(Path(place.address), wait)
    if place.is_plain and not plain:
        raise ClusterError(
            f"{place.address} is beyond this machine and not encrypted: whoever reaches it can run anything as you. "
            "Start the scheduler with keys (`sartransfer cluster keys`) and use tls:// with --cluster-tls, or say "
            "--cluster-plain on a network that you trust."
        )
    with ExitStack() as stack, dask.config.set(SETTINGS):
        try:
            if place.address:
                security = read_security(keys) if keys else None
                client = Client(place.address, security=security, timeout=wait, set_as_default=False)
            else:
                started = STARTERS[place.kind](place, stack)
                client = Client(started, set_as_default=False)
            stack.callback(client.close)
            if place.address or place.kind == "local":
                client.wait_for_workers(1, timeout=wait)
        except ClusterError:
            raise
        except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
            raise ClusterError(
                f"the cluster {place.address or place.kind!r} does not answer: {error or type(error).__name__}. "
                "Is it running, does it have workers, and are the keys its own (--cluster-tls FOLDER)?"
            ) from error
        yield Cluster(client, place)


def _scheduler_of(path: Path, wait: float) -> Place:
    """Return the place that a scheduler file names, once it is there."""
    until = time.monotonic() + wait
    while not path.is_file():
        if time.monotonic() > until:
            raise ClusterError(f"{path} is not there after {wait:g} s: has the scheduler started?")
        time.sleep(0.1)
    try:
        return parse_place(str(json.loads(path.read_text(encoding="utf-8"))["address"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{path} is no scheduler file of Dask: {error}.") from error


def _start_local(place: Place, stack: ExitStack) -> Any:
    """Start processes here, each with its share of the cores and of nothing that others could reach."""
    from distributed import LocalCluster

    folder = tempfile.mkdtemp(prefix="sartransfer-cluster-")  # mode 0700
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // place.workers))
    cluster = LocalCluster(
        n_workers=place.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        protocol="tls://",
        security=new_security(),
        scheduler_kwargs=PAGES,
        worker_dashboard_address=None,
        # Networks' memory is none that Dask could spill: a limit would only stop its workers without a word.
        memory_limit=0,
        local_directory=folder,
        silence_logs=logging.CRITICAL,
        env=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
    )
    stack.callback(cluster.close)
    return cluster


def _start_slurm(place: Place, stack: ExitStack) -> Any:
    """Ask SLURM for workers; what is not said here comes from Dask's own file ``jobqueue.yaml``."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ClusterError(f"slurm needs dask-jobqueue ({EXTRA}).") from error
    # Without it dask-jobqueue would fail in the background, and wait for workers for ever.
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "slurm needs the command sbatch, which is not on this machine's PATH. Start this where jobs are submitted, "
            "or write a job file there: sartransfer cluster job --kind slurm."
        )
    given = dict(place.options)
    # Its workers read the keys from a folder that all nodes see: below the home, unless another is named.
    shared = Path(given.pop("keys", "~/.sartransfer-cluster")).expanduser()
    shared.mkdir(parents=True, exist_ok=True, mode=0o700)
    cores = int(given.pop("cores", "1"))
    cluster = SLURMCluster(
        n_workers=place.workers,
        cores=cores,
        processes=1,
        memory=given.pop("memory", "8GB"),
        security=new_security(),
        protocol="tls://",
        shared_temp_directory=str(shared),
        scheduler_options=PAGES,
        worker_extra_args=["--nthreads", "1", "--no-dashboard"],
        job_script_prologue=[
            f"export {name}={shlex.quote(value)}"
            for name, value in (dict.fromkeys(THREADS, str(cores)) | ENVIRONMENT).items()
        ],
        **given,
    )
    stack.callback(_remove_keys, cluster)  # after it is closed: no job of it starts any more
    stack.callback(cluster.close)
    return cluster


def _remove_keys(cluster: Any) -> None:
    """Remove the files in which dask-jobqueue hands the keys to its workers."""
    for name in ("ca_file", "cert", "key"):
        if (file := getattr(cluster, f"_job_{name}", None)) is not None:
            file.close()  # a temporary file: this removes it


def _start_kubernetes(place: Place, stack: ExitStack) -> Any:
    """Ask the Dask operator of a Kubernetes cluster for workers."""
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise ClusterError(
            "kubernetes needs dask-kubernetes (pip install 'sartransfer[kubernetes]')."
        ) from error
    given = dict(place.options)
    if "image" not in given:
        raise ClusterError("kubernetes needs an image that holds sartransfer: kubernetes:8,image=NAME.")
    cluster = KubeCluster(
        name=given.get("name", "sartransfer"),
        image=given["image"],
        namespace=given.get("namespace"),
        n_workers=place.workers,
        env=ENVIRONMENT,
        worker_command=["dask", "worker", "--nthreads", "1", "--no-dashboard"],
    )
    stack.callback(cluster.close)
    return cluster


STARTERS = {"local": _start_local, "slurm": _start_slurm, "kubernetes": _start_kubernetes}
"""Kind -> starts workers, and leaves their end with the stack."""

"""Job files for SLURM and Kubernetes: one scheduler, its workers and one command, with keys of their own.

They are made and checked here (syntax, quoting, and a SLURM script run with a stand-in for ``srun``); none of them has
ever run on a SLURM or a Kubernetes cluster, and each says so in its first lines.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from sartransfer import __version__
from sartransfer.errors import ClusterError

PORT = 8786
UNTRIED = "has never run there: it was made and checked elsewhere. Read it before you trust it"
PLAIN = re.compile(r"[\w.:+@/=-]+")
NAME = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")
MEMORY = re.compile(r"([1-9]\d*)(MB|GB)")
TIME = re.compile(r"(\d+-)?\d{1,3}:[0-5]\d:[0-5]\d")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Dask's settings, as it reads them from the environment: workers may start processes, and show no pages over HTTP.
SETTINGS = {
    "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
}


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What a job file says."""

    command: tuple[str, ...]
    """Words after ``sartransfer``, without those about the cluster: ``predict CHECKPOINT scenes.txt --out maps``."""
    folder: str
    """An absolute folder that all machines see at this path; keys and the scheduler's address lie there meanwhile."""
    name: str = "sartransfer"
    workers: int = 4
    cores: int = 4
    """Of each worker."""
    memory: str = "16GB"
    """Of each worker: ``16GB``, ``500MB``."""
    time: str = "12:00:00"
    """SLURM: after which it ends, as [DAYS-]HH:MM:SS."""
    partition: str = ""
    account: str = ""
    python: str = "python"
    """The Python in which sartransfer is installed, on those machines or in that image."""
    image: str = ""
    """Kubernetes: an image that holds sartransfer."""
    claim: str = ""
    """Kubernetes: a PersistentVolumeClaim (ReadWriteMany), mounted at `folder`."""
    namespace: str = "default"

    def __post_init__(self) -> None:
        if not self.command:
            raise ClusterError("a job needs a command: predict ... or compare ...")
        if not self.folder.startswith("/"):
            raise ClusterError(
                f"folder={self.folder!r} must be absolute: every machine sees it at this path."
            )
        _check("name", self.name, NAME, "small letters, digits and dashes, as my-job")
        _check("memory", self.memory, MEMORY, "a whole number of MB or GB, as 16GB")
        _check("time", self.time, TIME, "[DAYS-]HH:MM:SS, as 12:00:00")
        for name in ("partition", "account", "image", "claim", "namespace"):
            if getattr(self, name):
                _check(name, getattr(self, name), PLAIN, "letters, digits and ._:+@/=-")
        for name in ("workers", "cores"):
            if getattr(self, name) < 1:
                raise ClusterError(f"{name}={getattr(self, name)} must be 1 or more.")
        for word in (*self.command, self.folder, self.python):
            if any(ord(c) < 32 for c in word):
                raise ClusterError(f"{word!r} holds a control character.")

    @property
    def megabytes(self) -> int:
        """Memory of a worker."""
        number, unit = MEMORY.fullmatch(self.memory).groups()  # type: ignore[union-attr]
        return int(number) * (1000 if unit == "GB" else 1)


def slurm_job(job: JobSettings) -> str:
    """Return a script for ``sbatch``: one allocation in which a scheduler, its workers and the command run.

    The command's exit code is the job's. Started again after a kill, it goes on with what is done.
    """
    options = {
        "job-name": job.name,
        "ntasks": job.workers + 1,  # the scheduler and the command take the place of one
        "cpus-per-task": job.cores,
        "mem-per-cpu": f"{-(-job.megabytes // job.cores)}M",
        "time": job.time,
        "output": f"{job.name}-%j.log",
        "partition": job.partition,
        "account": job.account,
    }
    head = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    threads = " ".join(f"{name}={job.cores}" for name in THREADS)
    python, keys = shlex.quote(job.python), '"$RUN/keys"'
    both = [
        "--protocol tls --tls-ca-file " + keys + "/certificate.pem",
        "--tls-cert " + keys + "/certificate.pem --tls-key " + keys + "/key.pem",
        "--no-dashboard --dashboard-address 127.0.0.1:0",
        '--scheduler-file "$RUN/scheduler.json"',
    ]
    lines = [
        "#!/bin/bash",
        *head,
        f"# Written by sartransfer {__version__} for SLURM.",
        f"# It {UNTRIED}.",
        "set -euo pipefail",
        f"export {threads} {' '.join(f'{n}={shlex.quote(v)}' for n, v in SETTINGS.items())}",
        f'RUN={shlex.quote(job.folder)}/.cluster-"${{SLURM_JOB_ID:?this is a job for sbatch}}"',
        'rm -rf -- "$RUN"  # of this very job, before SLURM put it into the queue again',
        'mkdir -p -m 700 "$RUN"',
        """trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$RUN"' EXIT""",
        "",
        "# Keys of this job alone: whoever has them can run anything as you.",
        f"{python} -m sartransfer.cli cluster keys {keys}",
        "",
        _long([f"{python} -m distributed.cli.dask_scheduler --port 0", *both]) + " &",
        "",
        _long(
            [
                # Since SLURM 22.05 srun does not take cpus-per-task from sbatch: workers would share one core.
                f"srun --ntasks={job.workers} --cpus-per-task={job.cores} {python} -m distributed.cli.dask_worker",
                *both,
                "--nthreads 1 --memory-limit 0 --death-timeout 300",
                '--local-directory "${TMPDIR:-/tmp}"',
            ]
        )
        + " &",
        "",
        _long(
            [
                f"{python} -m sartransfer.cli {shlex.join(job.command)}",
                f'--cluster "file:$RUN/scheduler.json" --cluster-tls {keys}',
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def kubernetes_job(job: JobSettings) -> str:
    """Return manifests for ``kubectl apply``: a Job of workers, and one of the command with its scheduler beside it.

    The keys are a Secret that you make once; the first lines say how. The pods have no account at the cluster, run as
    no root, and speak only to each other (where the network enforces policies).
    """
    for name in ("image", "claim"):
        if not getattr(job, name):
            raise ClusterError(f"a job for Kubernetes needs {name}=NAME.")
    labels = {"app.kubernetes.io/name": "sartransfer", "app.kubernetes.io/instance": job.name}
    scheduler_labels = {**labels, "app.kubernetes.io/component": "scheduler"}
    address = f"tls://{job.name}-scheduler:{PORT}"
    tls = [
        "--tls-ca-file",
        "/keys/certificate.pem",
        "--tls-cert",
        "/keys/certificate.pem",
        "--tls-key",
        "/keys/key.pem",
    ]
    quiet = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]

    def container(name: str, *words: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "image": job.image,
            # A list, so no shell reads it; Kubernetes itself would fill in $(NAME), and make one $ of two.
            "command": [w.replace("$", "$$") for w in (job.python, "-m", *words)],
            "env": [
                *({"name": n, "value": str(job.cores)} for n in THREADS),
                *({"name": n, "value": v} for n, v in SETTINGS.items()),
            ],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "data", "mountPath": job.folder},
                {"name": "keys", "mountPath": "/keys", "readOnly": True},
            ],
            **more,
        }

    def pods(labels: dict[str, str], containers: list[Any], before: list[Any]) -> dict[str, Any]:
        return {
            "metadata": {"labels": labels},
            "spec": {
                "restartPolicy": "OnFailure",
                "automountServiceAccountToken": False,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
                "initContainers": before,
                "containers": containers,
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": job.claim}},
                    {"name": "keys", "secret": {"secretName": f"{job.name}-keys", "defaultMode": 0o440}},
                ],
            },
        }

    room = {"cpu": str(job.cores), "memory": f"{job.megabytes}M"}
    worker = container(
        "worker", "distributed.cli.dask_worker", address, "--protocol", "tls", *tls, *quiet,
        "--nthreads", "1", "--memory-limit", "0", "--death-timeout", "300", "--local-directory", "/tmp",
        resources={"requests": room, "limits": {"memory": room["memory"]}},
    )  # fmt: skip
    scheduler = container(
        "scheduler", "distributed.cli.dask_scheduler", "--protocol", "tls", "--port", str(PORT), *tls, *quiet,
        restartPolicy="Always",  # a sidecar: it starts before the command and ends with it
        resources={"requests": {"cpu": "500m", "memory": "1G"}},
    )  # fmt: skip
    command = container(
        "command", "sartransfer.cli", *job.command, "--cluster", address, "--cluster-tls", "/keys",
        resources={"requests": {"cpu": "1", "memory": room["memory"]}},
    )  # fmt: skip
    place = {"namespace": job.namespace, "labels": labels}
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{job.name}-scheduler", **place},
            "spec": {"clusterIP": "None", "selector": scheduler_labels, "publishNotReadyAddresses": True,
                     "ports": [{"name": "tls", "port": PORT}]},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": job.name, **place},
            "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"],
                     "ingress": [{"from": [{"podSelector": {"matchLabels": labels}}]}]},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"{job.name}-workers", **place},
            "spec": {"parallelism": job.workers, "backoffLimit": 10 * job.workers,
                     "template": pods(labels, [worker], [])},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job.name, **place},
            "spec": {"backoffLimit": 3, "template": pods(scheduler_labels, [command], [scheduler])},
        },
    ]  # fmt: skip
    keys = f"kubectl -n {job.namespace} create secret generic {job.name}-keys --from-file=keys"
    head = [
        f"# Written by sartransfer {__version__} for Kubernetes 1.29 or later. It {UNTRIED}.",
        "# Keys first, once; whoever has them can run anything in these pods:",
        f"#   sartransfer cluster keys keys && {keys}",
        "# The claim must be ReadWriteMany; workers end by themselves when the command has ended.",
    ]
    return (
        "\n".join(head) + "\n" + yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, explicit_start=True)
    )


JOBS: dict[str, Callable[[JobSettings], str]] = {"slurm": slurm_job, "kubernetes": kubernetes_job}
"""Kind -> text of its job file."""


class _Plain(yaml.SafeDumper):
    """Writes a value that occurs twice twice, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _long(parts: list[str]) -> str:
    """Return one command over several lines."""
    return " \\\n  ".join(parts)


def _check(name: str, value: str, form: re.Pattern[str], words: str) -> None:
    if not form.fullmatch(value):
        raise ClusterError(f"{name}={value!r} is not allowed. Write {words}.")

"""Tasks on other processes and machines by Dask: where they run, who may speak to whom, and how they are handed out."""

from sartransfer.cluster.jobs import JOBS, JobSettings, kubernetes_job, slurm_job
from sartransfer.cluster.keys import CERTIFICATE, KEY, write_keys
from sartransfer.cluster.opening import Cluster, open_cluster
from sartransfer.cluster.places import Place, parse_place
from sartransfer.cluster.tasks import Outcome, attempt, run_tasks

__all__ = [
    "CERTIFICATE",
    "JOBS",
    "KEY",
    "Cluster",
    "JobSettings",
    "Outcome",
    "Place",
    "attempt",
    "kubernetes_job",
    "open_cluster",
    "parse_place",
    "run_tasks",
    "slurm_job",
    "write_keys",
]

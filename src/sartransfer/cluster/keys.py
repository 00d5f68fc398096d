"""Keys with which the processes of one cluster know each other: whoever has them may run anything as its user."""

import os
from pathlib import Path
from typing import Any

from sartransfer.errors import ClusterError, OutputError

CERTIFICATE, KEY = "certificate.pem", "key.pem"
EXTRA = "pip install 'sartransfer[cluster]'"


def new_security() -> Any:
    """Return a `distributed.Security` with keys made now, in memory: scheduler, workers and client must all show them.

    Raises `ClusterError` where the extra ``cluster`` is not installed.
    """
    try:
        from distributed.security import Security

        return Security.temporary()
    except ImportError as error:
        raise ClusterError(f"keys for a cluster need dask and cryptography ({EXTRA}).") from error


def write_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new certificate and its key (readable by you alone) into a folder; valid for a year.

    Raises `OutputError` where either is there already; nothing is written then.
    """
    given = new_security().get_tls_config_for_role("client")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = folder / CERTIFICATE, folder / KEY
    for path in paths:  # both before either is written: one beside the other's pair would fit nothing
        if path.exists():
            raise OutputError(f"{path} exists already. Use it, or choose another folder.")
    for path, text in zip(paths, (given["ca_file"], given["key"]), strict=True):
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise OutputError(f"{path} exists already. Use it, or choose another folder.") from None
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(text)
    return paths


def read_security(folder: Path) -> Any:
    """Return a `distributed.Security` with the keys that `write_keys` left in a folder.

    Raises `ClusterError` for a folder without them, or a key that others may read.
    """
    certificate, key = folder / CERTIFICATE, folder / KEY
    for path in (certificate, key):
        if not path.is_file():
            raise ClusterError(
                f"{path} is not there. Make keys with `sartransfer cluster keys {folder}`, on a disk that all see."
            )
    seen = key.stat()
    # A secret that Kubernetes mounts belongs to root, and to the group as which the pod runs.
    barred = 0o077 if os.name == "posix" and seen.st_uid == os.getuid() else 0o007
    if os.name == "posix" and seen.st_mode & barred:
        raise ClusterError(f"{key} can be read by others, who could run anything as you: chmod 600 {key}.")
    try:
        from distributed.security import Security
    except ImportError as error:
        raise ClusterError(f"a cluster needs dask ({EXTRA}).") from error
    roles = {f"tls_{role}_{part}": str(path)
             for role in ("client", "scheduler", "worker")
             for part, path in (("cert", certificate), ("key", key))}  # fmt: skip
    return Security(require_encryption=True, tls_ca_file=str(certificate), **roles)

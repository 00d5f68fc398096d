"""Where tasks run, in the words of ``--cluster``: plain text to a checked value, nothing is opened."""

import ipaddress
import re
from dataclasses import dataclass

from sartransfer.errors import ClusterError, one_of

KINDS = ("local", "slurm", "kubernetes", "file", "tcp", "tls")
EXAMPLES = (
    "local:4, slurm:8,cores=4,memory=16GB,walltime=02:00:00, kubernetes:8,image=NAME, file:/shared/scheduler.json, "
    "tcp://127.0.0.1:8786 or tls://HOST:PORT"
)
SLURM_OPTIONS = ("cores", "memory", "walltime", "queue", "account", "interface", "keys")
KUBERNETES_OPTIONS = ("image", "namespace", "name")
FORMS = {
    "cores": (re.compile(r"[1-9][0-9]{0,4}"), "a whole number above 0, as cores=4"),
    "memory": (
        re.compile(r"[1-9][0-9]*(\.[0-9]+)?[KMGT]i?B", re.IGNORECASE),
        "an amount and its unit, as memory=16GB",
    ),
}
"""Option -> what it must look like, and that in words."""
LAST_PORT = 65535
OPTIONS = {"local": (), "slurm": SLURM_OPTIONS, "kubernetes": KUBERNETES_OPTIONS}


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks run."""

    kind: str
    """One of `KINDS`."""
    workers: int = 0
    """Worker processes to start; 0 for a cluster that others have started."""
    address: str = ""
    """Of a running scheduler, or the path of its scheduler file."""
    options: tuple[tuple[str, str], ...] = ()
    """What SLURM or Kubernetes are asked for, as written."""

    @property
    def is_plain(self) -> bool:
        """Whether others on the network could read the messages and, worse, send some."""
        return self.kind == "tcp" and not is_loopback(self.address)


def parse_place(text: str) -> Place:
    """Read the words of ``--cluster``.

    ``local:N`` starts N processes here; ``slurm:N`` and ``kubernetes:N`` start N workers there, with options as
    ``,NAME=VALUE``; an address or ``file:PATH`` (a scheduler file) is a cluster that runs already.

    Raises `ClusterError` for words that are none of these.
    """
    kind, sign, rest = text.strip().partition(":")
    if kind not in KINDS or not sign or not rest:
        raise ClusterError(f"{one_of('cluster', text, KINDS)} For example {EXAMPLES}.")
    if kind in ("tcp", "tls"):
        found = re.fullmatch(r"//(\[[0-9a-fA-F:]+\]|[\w.-]+):([0-9]{1,5})", rest)
        if not found:
            raise ClusterError(f"cluster={text!r} is no address. Write {kind}://HOST:PORT.")
        if not 1 <= int(found.group(2)) <= LAST_PORT:
            raise ClusterError(f"cluster={text!r}: the port must be 1 to {LAST_PORT}.")
        return Place(kind, address=text.strip())
    if kind == "file":
        return Place(kind, address=rest)
    number, *words = rest.split(",")
    if not re.fullmatch(r"[1-9]\d{0,4}", number):
        raise ClusterError(f"cluster={text!r}: {number!r} is no number of workers. For example {EXAMPLES}.")
    options = []
    for word in words:
        name, sign, value = word.partition("=")
        if name not in OPTIONS[kind]:
            raise ClusterError(one_of(f"option of {kind}", name, OPTIONS[kind]) if OPTIONS[kind] else
                               f"cluster={text!r}: {kind} takes no options.")  # fmt: skip
        if not sign or not value:
            raise ClusterError(f"cluster={text!r}: write {name}=VALUE.")
        if name in FORMS and not FORMS[name][0].fullmatch(value):
            raise ClusterError(f"cluster={text!r}: {name}={value!r} is not allowed. Write {FORMS[name][1]}.")
        options.append((name, value))
    return Place(kind, int(number), options=tuple(options))


def is_loopback(address: str) -> bool:
    """Say whether an address ``tcp://HOST:PORT`` stays on this machine; a name other than localhost does not."""
    host = address.partition("//")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

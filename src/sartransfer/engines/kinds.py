"""Which engines there are: one visible dict, what each needs, and how near to the network it must stay."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from sartransfer.engines.with_int8 import load_int8
from sartransfer.engines.with_onnxruntime import load_onnxruntime
from sartransfer.engines.with_openvino import load_openvino, load_openvino_bf16
from sartransfer.engines.with_torch import load_torch, load_torch_bf16
from sartransfer.errors import InputError, one_of

Run = Callable[..., Tensor]
"""Tensors (1, C, h, w) float32 -> one such tensor; h and w may differ from call to call.

They are on the CPU; an engine that knows CUDA takes them from its device as well, and answers there.
"""


@runtime_checkable
class Releases(Protocol):
    """A `Run` that keeps memory from call to call, and can give it back."""

    def release(self) -> None:
        """Give it back; the next call makes room anew."""
        ...


Example = tuple[Tensor, ...]
"""What one call takes."""


class Load(Protocol):
    """Make a part of a network ready to run."""

    def __call__(self, part: nn.Module, examples: Sequence[Example], device: str) -> Run:
        """Return `part` in the engine.

        Args:
            part: in evaluation mode, batch norms folded (`parts.folded`); it is not changed.
            examples: inputs, the first of the kind that it will get; int8 takes its ranges from all of them.
            device: ``cpu`` or ``cuda``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run a network."""

    load: Load
    error: float
    """Most that its answers may differ from the network's own: root mean square, relative to theirs."""
    packages: tuple[str, ...] = ()
    """What must be installed beside torch."""
    exact: bool = True
    """Whether it computes in float32, so that ``auto`` may choose it."""
    cuda: bool = False
    bytes: int = 0
    """What it holds for itself once a network is loaded: libraries, copies of the weights, workspaces."""
    overhead: float = 1.3
    """Bytes that it takes for each byte of the tensors in torch of a split stage's encoder: those that fuse layers keep
    fewer. Of whole networks 1.3 are counted at least."""

    keeps: bool = False
    """Whether it keeps what lies between layers from call to call (`Releases`)."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.packages if find_spec(name) is None)


MIB = 2**20
ENGINES: dict[str, Engine] = {
    "openvino": Engine(load_openvino, 1e-4, ("openvino",), bytes=224 * MIB, overhead=0.9, keeps=True),
    "onnxruntime": Engine(load_onnxruntime, 1e-4, ("onnx", "onnxruntime"), bytes=160 * MIB),
    "torch": Engine(load_torch, 1e-4, cuda=True, bytes=64 * MIB),
    "openvino-bf16": Engine(
        load_openvino_bf16, 0.05, ("openvino",), exact=False, bytes=224 * MIB, overhead=0.9, keeps=True
    ),
    "torch-bf16": Engine(load_torch_bf16, 0.05, exact=False, cuda=True, bytes=64 * MIB),
    "int8": Engine(
        load_int8, 0.25, ("onnx", "onnxruntime"), exact=False, bytes=320 * MIB, overhead=0.9, keeps=True
    ),
}
"""Name -> engine; beside these ``eager`` (the network as it is) and ``auto`` are names of `predict_scene`."""
EAGER, AUTO = "eager", "auto"
NAMES = (AUTO, EAGER, *ENGINES)


def find_engine(name: str, device: str = "cpu") -> Engine:
    """Return an engine by name; raises `InputError` for an unknown one, or one that cannot run here."""
    if name not in ENGINES:
        raise InputError(one_of("engine", name, NAMES))
    engine = ENGINES[name]
    if engine.missing:
        raise InputError(
            f"engine={name!r} needs {' and '.join(engine.missing)}: pip install 'sartransfer[fast]', or take "
            "engine='torch'."
        )
    if device != "cpu" and not engine.cuda:
        on_gpu = ", ".join(n for n, e in ENGINES.items() if e.cuda)
        raise InputError(
            f"engine={name!r} runs on the CPU only, and device={device!r}. Engines there: {on_gpu}."
        )
    return engine


def may_become(name: str) -> list[Engine]:
    """Return the engines that a name of `NAMES` may come to; none for ``eager``."""
    return [e for n, e in ENGINES.items() if n == name or (name == AUTO and e.exact)]


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of what engines of these names need beside torch: another version may round otherwise."""
    needed = {package for name in names if name in ENGINES for package in ENGINES[name].packages}
    return {package: _version(package) for package in sorted(needed)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # importable, and not installed by its own name (onnxruntime-gpu)
        return "unknown"


def candidates(device: str = "cpu") -> list[str]:
    """Return the engines among which ``auto`` chooses: in float32, installed, for this device."""
    return [n for n, e in ENGINES.items() if e.exact and not e.missing and (device == "cpu" or e.cuda)]

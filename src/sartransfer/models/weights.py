"""Pretrained tensors from a file or from a library's hub, as plain names and tensors."""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sartransfer.errors import WeightsError, nearest, one_of

SUFFIXES = (".safetensors", ".pt", ".pth")
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "network")
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel and torch.compile; others are found when names are matched."""
LAST_LAYERS = ("fc.weight", "head.weight", "head.fc.weight", "classifier.weight", "classif.weight")
"""What networks call the weight of their class layer (K, C)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, and where they come from."""

    tensors: Mapping[str, Tensor] = field(repr=False)
    source: str
    """A file's name, or ``torchvision:NAME``, ``timm:NAME``, ``smp:ENCODER:NAME``."""
    sha256: str = ""
    """Of the file; empty for a library's weights."""

    def __post_init__(self) -> None:
        if not self.tensors:
            raise WeightsError(f"{self.source} holds no tensors.")

    @property
    def in_channels(self) -> int | None:
        """Input channels of the first four-dimensional tensor: those of the first layer, in a usual order."""
        return next((int(t.shape[1]) for t in self.tensors.values() if t.ndim == 4), None)

    @property
    def classes(self) -> int | None:
        """How many classes the weights were trained to tell apart, by their last layer; None where they hold none.

        It tells the checkpoints of SAR-HUB and SAR_specific_models apart, which say nothing else of themselves:
        TerraSAR-X land cover 32, BigEarthNet 19, OpenSARUrban 10, NWPU-RESISC45 45, Million-AID 51.
        """
        found = [
            int(tensor.shape[0])
            for name, tensor in self.tensors.items()
            if tensor.ndim == 2 and any(name == last or name.endswith("." + last) for last in LAST_LAYERS)
        ]
        return found[-1] if found else None


def read_weights(path: str | Path) -> Weights:
    """Read a state dict from ``.safetensors``, ``.pt`` or ``.pth``; nothing in the file is executed.

    A dict nested under ``state_dict``, ``model`` and the like is taken out, and the prefixes of
    DistributedDataParallel and torch.compile are stripped.

    Raises:
        WeightsError: no such file, another kind of file, a truncated one, one that needs pickled code, or one
            without tensors.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights are {', '.join(SUFFIXES)} files.")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file.")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return Weights(_unwrap(tensors, path), path.name, sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is truncated, or no safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds pickled objects beside its tensors, which are never executed here. "
            "Where it was made, save the tensors alone: torch.save(model.state_dict(), path)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is truncated, or no PyTorch file: {first}") from error


def _unwrap(value: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(value, Mapping):
        inner = next((k for k in NESTED if isinstance(value.get(k), Mapping)), None)
        if inner is None:
            break
        value = value[inner]
    tensors = (
        {str(k): v for k, v in value.items() if isinstance(v, Tensor)} if isinstance(value, Mapping) else {}
    )
    if not tensors:
        raise WeightsError(
            f"{path} holds no state dict: expected names and tensors, plain or under one of "
            f"{', '.join(NESTED)}."
        )
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def library_weights(source: str, name: str, model_name: str = "") -> Weights:
    """Get a library's pretrained weights by name, from its hub or from the hub's cache.

    Args:
        source: ``torchvision``, ``timm``, ``smp`` or ``terratorch``.
        name: torchvision: ``ResNet18_Weights.IMAGENET1K_V1``; timm: a model with its tag,
            ``resnet18.a1_in1k``; smp: the weights of an encoder, ``imagenet``.
        model_name: for smp, the encoder, or a network's name that ends with it (``smp:Unet:resnet34``).

    Raises:
        WeightsError: an unknown name, or a hub that cannot be reached. There is never a random start instead.
    """
    if source not in LIBRARIES:
        raise WeightsError(one_of("weights library", source, LIBRARIES))
    return LIBRARIES[source](name, model_name)


def _torchvision(name: str, model_name: str) -> Weights:
    from torchvision.models import get_weight

    try:
        entry = get_weight(name)
    except (ValueError, KeyError) as error:
        raise WeightsError(
            f"torchvision has no weights {name!r}; a name is like ResNet18_Weights.IMAGENET1K_V1."
        ) from error
    label = f"torchvision:{name}"
    return Weights(_download(label, lambda: entry.get_state_dict(progress=False, check_hash=True)), label)


def _timm(name: str, model_name: str) -> Weights:
    import timm

    if not timm.is_model(name) or not timm.models.is_model_pretrained(name):
        known = timm.list_pretrained()
        raise WeightsError(f"timm has no pretrained weights for {name!r}.{nearest(name, known)}")
    label = f"timm:{name}"
    return Weights(_download(label, lambda: timm.create_model(name, pretrained=True).state_dict()), label)


def _smp(name: str, model_name: str) -> Weights:
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.encoders import encoders

    encoder = model_name.split(":")[-1]
    encoder = encoder.removeprefix("unet-")
    if encoder not in encoders:
        raise WeightsError(one_of("smp encoder", encoder, sorted(encoders)))
    known = list(encoders[encoder]["pretrained_settings"])
    if name not in known:
        raise WeightsError(one_of(f"weights of smp encoder {encoder}", name, known))
    label = f"smp:{encoder}:{name}"
    fetch = smp.encoders.get_encoder
    return Weights(_download(label, lambda: fetch(encoder, weights=name).state_dict()), label)


def _terratorch(name: str, model_name: str) -> Weights:
    from sartransfer.models.terratorch_backbones import registry, terratorch_weights

    registry()  # that it is missing is told as it is, not as a hub out of reach
    label = f"terratorch:{name}"
    return Weights(_download(label, lambda: terratorch_weights(name)), label)


LIBRARIES: dict[str, Callable[[str, str], Weights]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "smp": _smp,
    "terratorch": _terratorch,
}


def _download(label: str, fetch: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return dict(fetch())
    except Exception as error:  # hubs raise the errors of three HTTP libraries
        raise WeightsError(
            f"{label}: the weights could not be fetched ({type(error).__name__}: {str(error)[:200]}). "
            "Is the hub within reach? Otherwise fetch the file elsewhere and give its path instead."
        ) from error

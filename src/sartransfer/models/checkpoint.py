"""Checkpoints: a network's tensors (safetensors) and what it takes and gives (JSON) side by side."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sartransfer.contract import InputContract
from sartransfer.errors import SartransferError, WeightsError, one_of
from sartransfer.models.build import build_model
from sartransfer.models.network import Network
from sartransfer.textfile import class_names, parse_json
from sartransfer.wholefile import write_bytes

FORMAT = "sartransfer checkpoint 1"
WHICH = ("best", "last")
# What JSON of other types and values than ours makes of building a network and its contract.
_MALFORMED = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RuntimeError, MemoryError,
    SafetensorError, SartransferError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network with what is needed to use it."""

    model: Network = field(repr=False)
    """In evaluation mode."""
    classes: tuple[str, ...]
    contract: InputContract
    """The bands it expects, their units and their normalization."""
    metadata: Mapping[str, Any] = field(repr=False)
    """All of the JSON file."""
    path: Path
    """The tensors file."""

    @property
    def views(self) -> int:
        """Flips and turns of an image that it is to be asked with (`predict.predict_logits`)."""
        return int(self.metadata.get("views", 1))

    @property
    def task(self) -> str:
        """``segment`` or ``classify``."""
        return self.model.task


def write_checkpoint(path_stem: str | Path, model: Network, metadata: Mapping[str, Any]) -> Path:
    """Write ``STEM.safetensors`` and ``STEM.json``, each to a temporary name first, the JSON last.

    Args:
        path_stem: folder and name without suffix, e.g. ``run/best``.
        model: as `build_model` made it.
        metadata: JSON values; ``classes`` (names, in the order of the logits) and ``contract``
            (`InputContract.to_json`) are needed, anything else (recipe, epoch, initialization ...) is kept.
            Objects with a ``to_json`` method are taken as well; NaN and infinity become null. The format, the
            network, the task, the versions and the tensors' SHA-256 are added.

    Returns:
        The JSON file's path.

    Raises:
        WeightsError: a network that `build_model` did not make, classes and bands that do not fit it, or names of
            classes that `textfile.class_names` does not take.
        OutputError: the files cannot be written.
    """
    from safetensors.torch import save

    stem = Path(path_stem)
    if not model.built:
        raise WeightsError("only a network from build_model can be written: its name and options are needed.")
    described = json.loads(json.dumps(dict(metadata), default=_to_json))
    values = _finite(described)
    try:
        class_names(values.get("classes") or ())
    except ValueError as error:
        raise WeightsError(f"{stem}: {error}.") from error
    for key, expected in (("classes", model.num_classes), ("contract", model.in_channels)):
        if len(values.get(key) or ()) != expected:
            raise WeightsError(
                f"the checkpoint's {key} must be {expected} to fit the network, not {values.get(key)!r}."
            )
    data = save({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, {"format": "pt"})
    projection = getattr(model.input_projection, "out_channels", None)
    values |= {
        "format": FORMAT,
        "sartransfer": _version("sartransfer"),
        "torch": torch.__version__,
        "task": model.task,
        "model": {**model.built, "input_projection": projection},
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(values, indent=1, allow_nan=False)
    target = _with(stem, ".json")
    write_bytes(_with(stem, ".safetensors"), data, durable=True)
    write_bytes(target, text.encode(), durable=True)
    return target


def read_checkpoint(path: str | Path, which: str = "best", device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint and build its network, in evaluation mode; nothing in the files is executed.

    Args:
        path: the ``.safetensors`` or the ``.json`` file, their common stem, or a run's folder.
        which: ``best`` or ``last``, for a folder.
        device: where the network goes.

    Raises:
        WeightsError: a file is missing, damaged, not ours, from another writing than its other half, or
            does not fit the network it names; weights that are not finite, or classes that cannot be told apart.
    """
    from safetensors.torch import load

    stem = _stem(Path(path), which)
    tensors_file, values = _with(stem, ".safetensors"), _read_json(_with(stem, ".json"))
    if not tensors_file.is_file():
        raise WeightsError(f"{tensors_file} is missing: a checkpoint is a .safetensors and a .json file.")
    data = tensors_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != values.get("sha256"):
        raise WeightsError(
            f"{tensors_file} is damaged, truncated, or not the one that {stem.name}.json was written with. "
            "Copy both files again, or resume the run."
        )
    try:
        tensors = load(data)
        described = dict(values["model"])
        options = described.get("options") or {}
        model = build_model(described["name"], described["in_channels"], described["num_classes"], **options)
        if described.get("input_projection"):
            model.add_input_projection(described["input_projection"])
        model.load_state_dict(tensors, strict=True)
        contract = InputContract.from_json(values["contract"])
        classes = class_names(values["classes"])
        checkpoint = Checkpoint(model.eval(), classes, contract, values, tensors_file)
        if isinstance(values.get("views"), bool) or checkpoint.views < 1:
            raise ValueError(f"views={values.get('views')!r} must be a whole number from 1")
    except _MALFORMED as error:
        raise WeightsError(
            f"{stem.name}.json and {tensors_file} do not make a network: {type(error).__name__}: {error}"
        ) from error
    _refuse_not_finite(model, tensors_file)
    if len(classes) != model.num_classes or len(contract.bands) != model.in_channels:
        raise WeightsError(
            f"{stem}.json names {len(classes)} classes and {len(contract.bands)} bands, the network has "
            f"{model.num_classes} and {model.in_channels}."
        )
    model.to(device)
    return checkpoint


def _refuse_not_finite(model: Network, path: Path) -> None:
    """Refuse weights of NaN or infinity: all that the network answers would be one class. (Masks may hold -inf.)"""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        if odd := int((torch.isnan(tensor) | torch.isposinf(tensor)).sum()):
            raise WeightsError(
                f"{path}: {odd} of the {tensor.numel()} numbers of {name} are NaN or infinity: its training diverged. "
                "Take an earlier run's, or train anew with a smaller training.optimizer.lr or training.gradient_clip."
            )


def _stem(path: Path, which: str) -> Path:
    if path.suffix in (".safetensors", ".json"):
        return path.with_suffix("")
    if path.is_dir():
        if which not in WHICH:
            raise WeightsError(one_of("which", which, WHICH))
        return path / which
    return path


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # with_suffix would cut a stem that has a dot


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"{path} is missing: a checkpoint is a .safetensors and a .json file.")
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path} is truncated, or no JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(f"{path} is not a sartransfer checkpoint (no format {FORMAT!r}).")
    return values


def _to_json(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    raise WeightsError(f"checkpoint metadata must be JSON values, not {type(value).__name__} ({value!r}).")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

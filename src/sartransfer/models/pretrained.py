"""Weights of a pretraining on disk: tensors (safetensors) and what they were learned from (JSON), side by side."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sartransfer.errors import WeightsError
from sartransfer.models.checkpoint import _finite, _stem, _version, _with
from sartransfer.models.masked import MaskedAutoencoder
from sartransfer.models.weights import Weights, read_weights
from sartransfer.wholefile import write_bytes

FORMAT = "sartransfer pretraining 1"


def write_pretrained(path_stem: Path, model: MaskedAutoencoder, metadata: Mapping[str, Any]) -> Path:
    """Write ``STEM.safetensors`` and ``STEM.json``, each to a temporary name first, the JSON last.

    Args:
        path_stem: folder and name without suffix, e.g. ``stage/best``.
        model: its encoder and its light decoder are kept. metadata: JSON values; NaN becomes null.

    Raises:
        OutputError: the files cannot be written.
    """
    from safetensors.torch import save

    data = save({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, {"format": "pt"})
    values = _finite(json.loads(json.dumps(dict(metadata)))) | {
        "format": FORMAT,
        "sartransfer": _version("sartransfer"),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    target = _with(path_stem, ".json")
    write_bytes(_with(path_stem, ".safetensors"), data, durable=True)
    write_bytes(target, json.dumps(values, indent=1, allow_nan=False).encode(), durable=True)
    return target


def is_pretrained(path: str | Path, which: str = "best") -> bool:
    """Say whether a folder, file or stem holds the weights of a pretraining."""
    file = _with(_stem(Path(path), which), ".json")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_pretrained(path: str | Path, which: str = "best") -> tuple[Weights, dict[str, Any]]:
    """Read the weights of a pretraining and what they were learned from.

    Args:
        path: a folder of `pretrain`, one of its two files, or their stem. which: ``best`` or ``last``, for a folder.

    Raises:
        WeightsError: a file is missing, damaged, or not from the same writing as its other half.
    """
    stem = _stem(Path(path), which)
    if not is_pretrained(path, which):
        raise WeightsError(f"{stem}.json is not there, or not of a pretraining (format {FORMAT!r}).")
    values = json.loads(_with(stem, ".json").read_text(encoding="utf-8"))
    weights = read_weights(_with(stem, ".safetensors"))
    if weights.sha256 != values.get("sha256"):
        raise WeightsError(
            f"{stem}.safetensors is damaged, truncated, or not the one that {stem.name}.json was written with."
        )
    return weights, values

"""Hashes of what a recipe asks for, and the paths in it."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from sartransfer.errors import RecipeError


def digest(values: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of JSON `values`."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_places(values: Any) -> Any:
    """Return JSON `values` without machine paths: the last two parts of each path remain."""
    if isinstance(values, dict):
        return {
            k: "/".join(Path(v).parts[-2:]) if k in PLACES and isinstance(v, str) else without_places(v)
            for k, v in values.items()
        }
    return [without_places(v) for v in values] if isinstance(values, list) else values


PLACES = ("root", "catalog", "path")


def resolve_paths(values: Any, base: Path) -> Any:
    """Expand ``${NAME}`` and make the paths under `PLACES` absolute."""
    if isinstance(values, dict):
        return {
            k: _place(v, base) if k in PLACES and isinstance(v, str) else resolve_paths(v, base)
            for k, v in values.items()
        }
    return [resolve_paths(v, base) for v in values] if isinstance(values, list) else values


def _place(text: str, base: Path) -> str:
    def expand(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise RecipeError(
                f"the recipe names ${{{name}}}, which is not set. Set it (export {name}=/path) or write the path."
            )
        return os.environ[name]

    return str(base / Path(re.sub(r"\$\{(\w+)\}", expand, text)).expanduser())

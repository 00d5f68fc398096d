"""results.json as the report reads it: whole, with finite numbers, and with one clear error where it is neither."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sartransfer.errors import InputError
from sartransfer.wording import UNSEEN_EVENTS

Results = dict[str, Any]

RESULT_KEYS = (
    *("sartransfer", "name", "task", "simulated", "created", "classes"),
    *("primary", "baseline", "initializations"),
    *("fractions", "seeds", "verdict", "test_sets", "table", "contrasts", "runs", "confusion"),
    *("initialization_reports", "recipe", "recipe_hash", "environment", "data", "looks", "warnings"),
)


def read_results(folder: Path) -> Results:
    """Return `folder`/results.json, checked for its keys; numbers that are not finite become None."""
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing. Give the folder that `sartransfer compare` wrote (its option -o)."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}. Run the comparison again.") from error
    if not isinstance(results, dict) or (lacking := [k for k in RESULT_KEYS if k not in results]):
        wanted = ", ".join(lacking) if isinstance(results, dict) else "an object of results"
        raise InputError(f"{path} lacks {wanted}. Run the comparison again: finished runs are kept.")
    if not results["fractions"]:
        raise InputError(f"{path} names no share of the labels (fractions=[]). Run the comparison again.")
    checked: Results = _finite(results)
    named: Results = _named(checked, f"unseen {checked.get('groups_are', 'events')}")
    return named


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Turn what members of a wrong type or form end in, wherever they are used, into one `InputError`.

    Results are not checked against a schema: what the report needs of them is what it reads.
    """
    import jinja2
    import yaml

    try:
        yield
    except (
        KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
        jinja2.UndefinedError, yaml.YAMLError,
    ) as error:  # fmt: skip
        words = f"it lacks {error}" if isinstance(error, KeyError) else f"{error} ({type(error).__name__})"
        raise InputError(
            f"{folder / 'results.json'} is damaged: {words}; make it again with `sartransfer compare` (finished runs "
            "are kept)."
        ) from error


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite (Python writes NaN into JSON) by None, everywhere below `value`."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(value: Any, unseen: str) -> Any:
    """Say what the groups of unseen test sets are where results say events, everywhere below `value`."""
    if isinstance(value, dict):
        return {key: _named(item, unseen) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, unseen) for item in value]
    return unseen if value == UNSEEN_EVENTS else value

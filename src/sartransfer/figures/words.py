"""The words of a plot, and its numbers as arrays."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.wording import metric_words

Results = Mapping[str, Any]


def fraction_words(fraction: float) -> str:
    """Return a share of the labels in percent, such as ``2.5 %``."""
    return f"{100 * fraction:.4g} %"


def is_primary(row: Mapping[str, Any], results: Results) -> bool:
    """Whether a row of the table or a contrast is about the primary metric."""
    primary = results["primary"]
    return bool(row["metric"] == primary["metric"] and row["class"] == primary["class"])


def ordered_test_sets(rows: Iterable[Mapping[str, Any]], results: Results) -> list[str]:
    """Return the test sets that `rows` speak of: those joined over events first, then as in the results."""
    present = {row["test_set"] for row in rows}
    listed = [t["name"] for t in results["test_sets"]]
    return sorted(present - set(listed)) + [name for name in listed if name in present]


def primary_words(results: Results) -> str:
    """Return the primary metric for people, of 40 letters at most."""
    return short(metric_words(results["primary"]["metric"], results["primary"]["class"]), 40)


def pair_words(a: str, b: str) -> str:
    """Return ``a − b``, on two lines where the names are long."""
    first, second = short(a, 26), short(b, 26)
    return f"{first} − {second}" if len(first) + len(second) <= 22 else f"{first}\n− {second}"


def wrapped(name: str) -> str:
    """Return a name on at most two lines."""
    return "\n".join(textwrap.wrap(short(name, 48), 26)[:2]) or "(no name)"


def short(text: str, length: int) -> str:
    """Return `text` without control characters, its middle left out where it is longer than `length`."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= length:
        return text
    kept = length // 2
    return f"{text[:kept]}…{text[len(text) - (length - kept - 1) :]}"


def floats(values: Iterable[float | None]) -> NDArray[np.float64]:
    """Return values as an array, NaN for None."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def spread(number: int, reach: float) -> NDArray[np.float64]:
    """Return places from -reach to reach, so that equal values do not hide each other."""
    return np.linspace(-reach, reach, number) if number > 1 else np.zeros(number)

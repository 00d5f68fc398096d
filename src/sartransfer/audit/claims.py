"""What a publication claims, as a file: scores as they are printed, counts where they are given."""

import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from pydantic_core import ValidationError

from sartransfer.errors import InputError, one_of
from sartransfer.faults import describe_faults, read_yaml
from sartransfer.recipe.strict import Strict

METRICS = ("accuracy", "precision", "recall", "f1", "iou", "kappa")
EXAMPLES = ("flood",)
MOST_BYTES = 4 << 20
_NUMBER = re.compile(r"([+-]?)(\d*)(?:[.,](\d+))?\s*(%?)")


@dataclass(frozen=True, slots=True)
class Printed:
    """A number as it is printed: it stands for all that round to it."""

    text: str
    value: float
    """A share: percent are divided by 100."""
    step: float
    """Of the last printed place, in the unit of `value`."""

    @property
    def low(self) -> float:
        """The least number that is printed so."""
        return self.value - self.step / 2

    @property
    def high(self) -> float:
        """The largest."""
        return self.value + self.step / 2

    def holds(self, value: float) -> bool:
        """Say whether a value is printed so; halves may be rounded either way."""
        return self.low - 1e-9 <= value <= self.high + 1e-9


def parse_printed(text: str | float | int, percent: bool = False) -> Printed:
    """Return a printed number: ``.712``, ``2.2``, ``83.4 %``; with `percent`, all of a table are in percent.

    Quote numbers in YAML: 0.60 and 0.6 are one number to it, but not one claim. Raises `InputError`.
    """
    words = str(text).strip()
    found = _NUMBER.fullmatch(words)
    if found is None or not (found[2] or found[3]) or isinstance(text, bool):
        raise InputError(f"{words!r} is no printed number: give it as .712, 2.2 or '83.4 %'.")
    sign = -1 if found[1] == "-" else 1
    scale = 100.0 if percent or found[4] else 1.0
    value = sign * float(f"{found[2] or 0}.{found[3] or 0}") / scale
    return Printed(words, value, 10.0 ** -len(found[3] or "") / scale)


class Row(Strict):
    """One line of a table: a model's scores, and the counts they come from where these are given."""

    name: str
    scores: dict[str, str | float] = Field(default_factory=dict)
    """Metric -> as printed; quote numbers, so that no zero is lost."""
    matrix: tuple[tuple[int, ...], ...] | None = None
    """Confusion matrix: rows truth, columns prediction."""
    counts: dict[str, int] | None = None
    """Or tp, fp, fn, tn of one class."""
    positive: int = 1
    """Which class of the matrix precision, recall, f1 and iou are of, with average: class."""
    average: Literal["class", "macro", "micro", "weighted", "unknown"] = "class"
    """Of one class; means over classes; from summed counts; or not said."""
    percent: bool = False
    """All scores are in percent."""

    @field_validator("scores", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in METRICS:
                raise ValueError(one_of("score", name, METRICS))
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.matrix is not None and self.counts is not None:
            raise ValueError("give `matrix` or `counts`, not both")
        if self.counts is not None:
            if set(self.counts) != {"tp", "fp", "fn", "tn"} or min(self.counts.values()) < 0:
                raise ValueError("`counts` needs tp, fp, fn and tn, from 0")
            if self.positive != 1:
                raise ValueError(
                    "`positive` goes with `matrix`: tp of `counts` is of the class that is meant"
                )
        if self.matrix is not None:
            size = len(self.matrix)
            if size < 2 or any(len(r) != size for r in self.matrix) or min(min(r) for r in self.matrix) < 0:
                raise ValueError("`matrix` must be square, of counts from 0")
            if not 0 <= self.positive < size:
                raise ValueError(f"`positive` must be a class from 0 to {size - 1}")
        try:
            self.printed()
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def printed(self) -> dict[str, Printed]:
        """The scores as printed numbers."""
        return {name: parse_printed(text, self.percent) for name, text in self.scores.items()}

    def confusion(self) -> NDArray[np.int64] | None:
        """The counts as a confusion matrix (K, K), or None."""
        if self.counts is not None:
            c = self.counts
            return np.array([[c["tn"], c["fp"]], [c["fn"], c["tp"]]], dtype=np.int64)
        return None if self.matrix is None else np.array(self.matrix, dtype=np.int64)


class Sum(Strict):
    """Parts that are said to make a total."""

    name: str
    parts: dict[str, int]
    total: str | int
    """A number, or a bound: ``<150``, ``>=100``, ``about 200``."""

    @field_validator("total")
    @classmethod
    def _readable(cls, value: str | int) -> str | int:
        split_total(str(value))
        return value


class Claims(Strict):
    """What a publication claims."""

    source: str
    """Which publication: numbers are facts, but they are somebody's."""
    note: str = ""
    rows: tuple[Row, ...] = ()
    sums: tuple[Sum, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.rows and not self.sums:
            raise ValueError("nothing is claimed: give `rows` or `sums`")
        names = [r.name for r in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("two rows have one name")
        return self


def split_total(text: str) -> tuple[str, int]:
    """Return the relation (``<``, ``<=``, ``>``, ``>=``, ``=``, ``about``) and the number of a stated total."""
    found = re.fullmatch(r"\s*(<=|>=|<|>|=|about|)\s*(\d+)\s*", text)
    if found is None:
        raise ValueError(f"total {text!r}: a whole number, or one after <, <=, >, >= or about")
    return found[1] or "=", int(found[2])


def read_claims(path: str | Path) -> Claims:
    """Read claims from YAML or JSON; raises `InputError` naming every fault and its place."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no claims at {path}. Give the path of a YAML or JSON file.")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is over {MOST_BYTES >> 20} MB: no table is that long.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    return _parse(text, str(path))


def example_claims(name: str = "flood") -> Claims:
    """Return claims that come with the package: the flood paper's."""
    if name not in EXAMPLES:
        raise InputError(one_of("example", name, EXAMPLES))
    file = importlib.resources.files("sartransfer") / "templates" / f"claims-{name}.yaml"
    return _parse(file.read_text(encoding="utf-8"), f"example {name}")


def _parse(text: str, where: str) -> Claims:
    try:
        values = read_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(
            f"{where} holds {type(values).__name__}, not the keys of claims (source, rows, sums)."
        )
    try:
        return Claims.model_validate(values)
    except ValidationError as error:
        lines = describe_faults(error.errors(), values)
        raise InputError(f"{where} holds no claims that can be checked:\n" + "\n".join(lines)) from None

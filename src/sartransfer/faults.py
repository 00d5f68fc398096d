"""Recipes as text: YAML read strictly, single settings changed, and what is wrong put into words."""

import difflib
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import yaml

from sartransfer.errors import RecipeError, nearest, one_of

MERGE = "tag:yaml.org,2002:merge"
MOST_ALIASED = 100_000  # values; nine lists of nine aliases each are 43 million
MOST_MERGED = 200  # keys
STARTS = ("random", "torchvision", "timm", "smp", "terratorch", "file", "hub", "run", "stages")
TASKS = ("segment", "classify")


def read_yaml(text: str) -> Any:
    """Return the plain values of YAML text.

    Raises `yaml.YAMLError`, also for a key that stands twice, an alias that holds itself, aliases that stand for over
    `MOST_ALIASED` values, values that are not what their form says (``2024-13-45``), and lists nested too deeply.
    """
    try:
        values = yaml.load(text, _Plain)  # noqa: S506 - it is a SafeLoader
        counts: dict[int, int] = {}
        added = _expanded(values, counts, set()) - sum(counts.values())
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of PyYAML's scanner: no such character
        raise yaml.YAMLError(str(error)) from None
    if added > MOST_ALIASED:
        raise yaml.YAMLError(
            f"its aliases (*) stand for over {MOST_ALIASED:,} values. Write out what is meant, without aliases"
        )
    return values


def _expanded(value: Any, counts: dict[int, int], path: set[int]) -> int:
    """Return how many values there are with each alias written out; `counts`: those of each list or group alone."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, dict | list | tuple | set):
            return 1
        key = id(value)
        if key in path:
            raise yaml.YAMLError("an alias (*) stands for something that holds itself")
        if key not in sizes:
            path.add(key)
            items = list(value.values() if isinstance(value, dict) else value)
            counts[key] = 1 + sum(not isinstance(i, dict | list | tuple | set) for i in items)
            sizes[key] = 1 + sum(size(i) for i in items)
            path.remove(key)
        return sizes[key]

    return size(value)


class _Plain(yaml.SafeLoader):
    """YAML in which no key stands twice (PyYAML would keep the last one), and faults say where they are."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            words = f"{str(node.value)[:40]!r} is no {kind}. Quote it if it is a text"
            raise yaml.MarkedYAMLError(None, None, words, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, Any]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                # By its text, and by what it means: 1, 01, 1.0 and true are one key to Python.
                same = {("text", key.value), ("value", self.construct_object(key))}
                if seen & same:
                    raise yaml.MarkedYAMLError(None, None, f"key {key.value!r} stands twice", key.start_mark)
                seen |= same
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay merged groups (<<) into a group; each is written out, so that their number must be kept in bounds."""
        total = 0
        for key, value in node.value:
            if key.tag != MERGE:
                continue
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(part, yaml.MappingNode):
                    self.flatten_mapping(part)
                    total += len(part.value)
        if total > MOST_MERGED:
            raise yaml.MarkedYAMLError(
                None, None, f"over {MOST_MERGED:,} keys are merged (<<) into one group", node.start_mark
            )
        super().flatten_mapping(node)


def set_value(values: dict[str, Any], override: str) -> None:
    """Set one of the `values` of a recipe by a text such as ``training.epochs=3``; raises `RecipeError`."""
    key, sign, text = override.partition("=")
    if not sign or not all(key.strip().split(".")):
        raise RecipeError(f"override {override!r} is not of the form key.subkey=value.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"override {override!r}: {parent!r} is a value, not a group of keys.")
    try:
        values[last] = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: its value is not readable as YAML: {error}") from None


def describe_faults(faults: Sequence[Any], values: Any) -> list[str]:
    """Return one line a fault that pydantic found in `values`: its dotted place in the YAML, and what to do."""
    found = [(_place(fault["loc"], values), fault) for fault in faults]
    lines = []
    for place, fault in found:
        # Of a list whose only item is faulty pydantic also says that it is empty: the item's fault is enough.
        if fault["type"] == "too_short" and any(p.startswith(f"{place}.") for p, _ in found):
            continue
        lines.append(f"  {place or 'top level'}: {_message(fault)}")
    return lines


def _place(loc: Sequence[int | str], values: Any) -> str:
    """Return where a fault stands; pydantic's names for the members of a union are left out."""
    place = []
    tagged = False
    for part in loc:
        if isinstance(values, dict) and not tagged and part in (values.get("from"), values.get("task")):
            tagged = True
            continue
        tagged = False
        own = (isinstance(values, dict) and part in values) or (
            isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        )
        if not own and part in (*STARTS, *TASKS):
            continue
        values = values[part] if own else None
        place.append(str(part))
    return ".".join(place)


def _message(fault: Any) -> str:
    given, kind, context = fault.get("input"), fault["type"], fault.get("ctx", {})
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _tag(given, context)
    message: str = fault["msg"].removeprefix("Value error, ")
    if kind in ("value_error", "missing"):  # our own words, which name the value; or nothing to show
        return "is needed and missing" if kind == "missing" else message
    hint = ""
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a group of keys"
    elif kind in ("tuple_type", "list_type"):
        message = "must be a list"
    elif kind == "literal_error":
        hint = nearest(str(given), re.findall(r"'([^']*)'", context["expected"]))
    elif kind == "string_type" and isinstance(given, int | float | date):
        hint = " Quote it: without quotes YAML reads it as a number, a date or a truth value."
    message = message.replace("Input should be", "must be")
    if given is None or isinstance(given, str | int | float | bool):
        message += f" (given: {'nothing' if given is None else repr(given)})"
    elif isinstance(given, date):
        message += f" (given: the date {given})"
    return f"{message}.{hint}" if hint else message


def _tag(given: Any, context: dict[str, Any]) -> str:
    """Say that ``task`` or ``from``, which decides what other keys there may be, is missing or unknown."""
    key, allowed = ("task", TASKS) if "task" in context["discriminator"] else ("from", STARTS)
    if "tag" in context:
        hint = " (Weights in a file: {from: file, path: ...}.)" if key == "from" else ""
        return one_of(key, context["tag"], allowed) + hint
    close = difflib.get_close_matches(key, [str(k) for k in given], n=1, cutoff=0.7)
    unknown = f"unknown key {close[0]!r}. Did you mean {key!r}? " if close else ""
    return f"{unknown}`{key}` is needed, one of: {', '.join(allowed)}"

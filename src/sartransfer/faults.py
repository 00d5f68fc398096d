"""Recipes as text: YAML read strictly, single settings changed, and what is wrong put into words."""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from sartransfer.errors import RecipeError, nearest, one_of

STARTS = ("random", "torchvision", "timm", "smp", "terratorch", "file", "hub", "run", "stages")
TASKS = ("segment", "classify")


def read_yaml(text: str) -> Any:
    """Return the plain values of YAML text.

    Raises `yaml.YAMLError`, also for a key that stands twice and for an alias that holds itself.
    """
    values = yaml.load(text, _UniqueKeys)  # noqa: S506 - it is a SafeLoader
    try:
        json.dumps(values, skipkeys=True, default=str)
    except ValueError:
        raise yaml.YAMLError("an alias (*) stands for something that holds itself") from None
    return values


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: PyYAML would keep the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"key {key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


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
    message = message.replace("Input should be", "must be")
    if given is None or isinstance(given, str | int | float | bool):
        message += f" (given: {'nothing' if given is None else repr(given)})"
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

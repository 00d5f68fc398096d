"""Text: files written whole, JSON of others read strictly, names that can be told apart."""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sartransfer.wholefile import replacing

HIDDEN = ("Cc", "Cf", "Cs")  # Unicode's categories of control, format (zero-width) and surrogate characters


def write_text(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it; raises `OutputError` where that cannot be."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str) -> Any:
    """Return the values of JSON that others wrote.

    Raises `ValueError` for what is no JSON, a key that stands twice in one object (`json` would keep the last one and
    say nothing), and brackets nested deeper than Python can follow.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def composed(text: str) -> str:
    """Return a name without spaces at its ends and in Unicode's composed form (NFC), in which equal names are equal."""
    return unicodedata.normalize("NFC", text).strip()


def hidden_character(text: str) -> str | None:
    """Return the first character that nobody sees (control, zero-width, lone surrogate) as ``U+200B``, or None."""
    if text.isascii() and text.isprintable():
        return None
    return next((f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in HIDDEN), None)


def class_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Return the names of classes, `composed`.

    Raises `ValueError` for what is no list of texts, an empty name, a hidden character, and two classes of one name:
    their pixels, areas and scores would be added up as one.
    """
    if isinstance(names, str | dict) or not isinstance(names, Iterable):
        raise ValueError(f'classes must be a list of names, such as ["dry", "flooded"], not {names!r:.80}')
    found = []
    for name in names:
        if not isinstance(name, str) or not composed(name):
            raise ValueError(
                f'classes must be names in quotes, such as ["dry", "flooded"]; {name!r:.80} is none'
            )
        if hidden := hidden_character(composed(name)):
            raise ValueError(
                f"class {name!r} holds a character that is not seen ({hidden}). Write it anew without"
            )
        found.append(composed(name))
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(
            f"classes must be unique; twice: {', '.join(map(repr, twice))}. Give each class a name of its own"
        )
    return tuple(found)

"""XML of products, read so that a hostile file can do no harm."""

import math
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sartransfer.errors import InputError

MOST_BYTES = 64 << 20  # annotations of TerraSAR-X and Sentinel-1 have some 20 at most
MOST_LEVELS = 100


def read_xml(path: str | Path) -> Element:
    """Read a whole XML file as an element tree; namespaces as ElementTree writes them: ``{uri}name``.

    Entities are how XML files attack their readers (billions of characters from a few lines, files and hosts
    that are not theirs), and no annotation of an agency declares any: a document type declaration is refused,
    and with it every entity. Raises `InputError` for that, and for a file that is missing, no XML, over 64 MB
    or nested over 100 levels deep.
    """
    path = Path(path)
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    if data is None:
        raise InputError(f"{path} has over {MOST_BYTES >> 20} MB: that is no annotation.")
    return parse_xml(data, str(path))


def parse_xml(data: bytes, name: str) -> Element:
    """Read XML from memory, as in `read_xml`; `name` is what errors call it."""
    builder = TreeBuilder()
    level = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal level
        level += 1
        if level > MOST_LEVELS:
            raise InputError(f"{name} is nested over {MOST_LEVELS} levels deep: that is no annotation.")
        builder.start(_named(tag), {_named(key): value for key, value in attributes.items()})

    def end(tag: str) -> None:
        nonlocal level
        level -= 1
        builder.end(_named(tag))

    def refuse(*_: Any) -> NoReturn:
        raise InputError(
            f"{name} declares a document type or entities, which are refused: they can make a parser read other "
            "files or fill the memory. Products of agencies declare none; take the file as it was delivered."
        )

    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise InputError(f"{name} cannot be read as XML: {error}. Is it whole?") from error


def _named(tag: str) -> str:
    return "{" + tag if "}" in tag else tag


def read_text(element: Element, where: str, path: str, *, kind: str) -> str:
    """Return the text at `path`; raises `InputError` where there is none (`where`: the file, `kind`: what it is)."""
    text = (element.findtext(path) or "").strip()
    if not text:
        raise InputError(f"{where} does not say {path}. Is it whole, and {kind}?")
    return text


def read_number(element: Element, where: str, path: str, *, kind: str) -> float:
    """Return the finite number at `path`; raises `InputError` as `read_text`, and for anything else."""
    text = read_text(element, where, path, kind=kind)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {path} is {text!r}, which is no number.")
    return value

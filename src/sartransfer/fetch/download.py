"""One file over HTTP: whole, the one that was asked for, and gone on with only where it is still the same."""

import contextlib
import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sartransfer.errors import FetchError, OutputError
from sartransfer.fetch.stac import TIMEOUT, bare_address, required

TOKEN = "SARTRANSFER_STAC_TOKEN"
"""Environment variable with a bearer token, sent to the endpoint's own download hosts only."""
BLOCK = 1 << 16  # bytes; a block that breaks off is lost
LONGEST_NAME = 200  # bytes; file systems take 255, and endings are added meanwhile
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0, and BigTIFF
HTML_STARTS = (b"<!doctype html", b"<html")
# Multihash codes and lengths as the STAC file extension writes them (multiformats' table), in hexadecimal.
CHECKSUMS = {"1220": "sha256", "1340": "sha512", "1114": "sha1", "d50110": "md5"}
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_ALL = re.compile(r"bytes \*/(\d+)")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file in an archive, and what the archive says of it."""

    href: str
    size: int | None = None
    """Bytes; None: not said."""
    checksum: str | None = None
    """Multihash in hexadecimal; kinds that are not in `CHECKSUMS` are not looked at."""


class _NotThatFileError(Exception):
    """What came is no continuation of what is there."""


def download(remote: Remote | str, path: Path, *, origins: Sequence[str] = ()) -> Path:
    """Download a file, going on where an earlier try stopped; renamed when it is whole.

    It goes on only where the server vouches that the file is still the same (ETag or Last-Modified, kept in
    ``<name>.part.tag``), and begins anew otherwise. What comes must be as long as announced, have the size and the
    checksum that the archive names, and begin as a file of its name does: no page to sign in is kept as an image.

    Args:
        remote: where it is, and what is known of it; or its address alone.
        path: where it goes. origins: such as ``https://host``, which may be sent the token of `TOKEN`.

    Raises:
        FetchError: not on http(s), an answer that is no success, or not the file that was announced.
        OutputError: it cannot be written.
    """
    remote = Remote(remote) if isinstance(remote, str) else remote
    parts = split_address(remote.href)
    if parts.scheme not in ("http", "https"):
        raise FetchError(
            f"{remote.href[:200]!r} is not on http or https: products in an object store that needs keys cannot be "
            "loaded. Take another source, or download the product yourself and use `sartransfer prepare sentinel1`."
        )
    part, tag = (path.with_name(f"{path.name}{ending}") for ending in (".part", ".part.tag"))
    headers = {"Accept-Encoding": "identity"} | _token(parts, origins)
    try:
        try:
            _load(remote.href, part, tag, headers)
        except _NotThatFileError:
            part.unlink(missing_ok=True)
            try:
                _load(remote.href, part, tag, headers)
            except _NotThatFileError as error:
                raise FetchError(f"{bare_address(remote.href)} cannot be loaded: {error}.") from error
        _check_whole(remote, path, part)
        part.replace(path)
        tag.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Is the disk full?"
        ) from error
    return path


def _load(href: str, part: Path, tag: Path, headers: dict[str, str]) -> None:
    """Load a file into `part`; raises `_NotThatFileError` where what comes does not fit what is there."""
    requests = required("requests", "pystac-client")
    validator = _kept_validator(tag)
    have = part.stat().st_size if validator and part.is_file() else 0
    if have:
        headers = headers | {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with requests.get(href, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code in (401, 403):
                raise FetchError(
                    f"{bare_address(href)} needs an account (HTTP {answer.status_code}). Put its token into the "
                    f"environment variable {TOKEN}; it is sent over https only, and to the endpoint's own hosts."
                )
            if answer.status_code == 416 and have:
                found = _ALL.fullmatch(answer.headers.get("Content-Range", "").strip())
                if found and int(found[1]) == have and _same(answer, validator):
                    return  # the process ended between the last byte and the new name
                raise _NotThatFileError("what was begun is no part of it")
            answer.raise_for_status()
            going_on = answer.status_code == 206
            expected = _expected(answer, have) if going_on else _length(answer)
            if going_on and not _same(answer, validator):
                raise _NotThatFileError("it has changed since it was begun")
            if not going_on:
                tag.unlink(missing_ok=True)
            with part.open("ab" if going_on else "wb") as file:
                if not going_on:
                    _keep_validator(answer, tag)
                for block in answer.iter_content(BLOCK):
                    file.write(block)
    except requests.RequestException as error:
        query = split_address(href).query
        words = str(error).replace(query, "...") if query else str(error)
        raise FetchError(
            f"{bare_address(href)} could not be loaded: {words[:300]}. Try again: what is there is kept."
        ) from error
    size = part.stat().st_size
    if expected is not None and size > expected:
        raise _NotThatFileError(f"it came with {size} bytes, but {expected} were announced")
    if expected is not None and size < expected:
        raise FetchError(f"{bare_address(href)} stopped at {size} of {expected} bytes. Try again.")


def _expected(answer: Any, have: int) -> int | None:
    """Return how long the file of a partial answer is; raises where the part does not begin at byte `have`."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not have or found is None or int(found[1]) != have or _encoded(answer):
        raise _NotThatFileError(
            f"the server sends the part {answer.headers.get('Content-Range', '')[:80]!r}, not that from byte {have}"
        )
    return int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _length(answer: Any) -> int | None:
    """Return how many bytes a whole answer holds once it is unpacked; None where that is not said."""
    words = answer.headers.get("Content-Length", "").strip()
    return int(words) if words.isascii() and words.isdigit() and not _encoded(answer) else None


def _encoded(answer: Any) -> bool:
    return answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")


def _validator(answer: Any) -> str:
    """Return what tells this state of a file from others, for If-Range; weak tags do not serve (RFC 9110, 13.1.5)."""
    if _encoded(answer):
        return ""
    etag: str = answer.headers.get("ETag", "").strip()
    if etag:
        return etag if etag.startswith('"') else ""
    changed: str = answer.headers.get("Last-Modified", "").strip()
    return changed


def _same(answer: Any, validator: str) -> bool:
    """Say whether an answer is of the file that was begun, as far as it says anything."""
    said = answer.headers.get("ETag" if validator.startswith('"') else "Last-Modified", "").strip()
    return said in ("", validator)


def _kept_validator(tag: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        words = tag.read_text(encoding="utf-8").strip()
        return words if words.isascii() and words.isprintable() else ""
    return ""


def _keep_validator(answer: Any, tag: Path) -> None:
    if found := _validator(answer):
        tag.write_text(found, encoding="utf-8")


def _check_whole(remote: Remote, path: Path, part: Path) -> None:
    """Refuse, and remove, what is not the file that was announced."""
    size = part.stat().st_size
    with part.open("rb") as file:
        head = file.read(512)
        kind = next((c for c in CHECKSUMS if (remote.checksum or "").lower().startswith(c)), None)
        file.seek(0)
        digest = hashlib.file_digest(file, CHECKSUMS[kind]).hexdigest() if kind else ""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    fault = ""
    if text.startswith(HTML_STARTS):
        fault = f"is a web page, perhaps one to sign in: put a token into the environment variable {TOKEN}"
    elif path.suffix.lower() in (".tif", ".tiff") and not head.startswith(TIFF_STARTS):
        fault = f"is no TIFF: it begins with {head[:16]!r}"
    elif path.suffix.lower() in (".xml", ".safe") and not text.startswith(b"<"):
        fault = f"is no XML: it begins with {head[:16]!r}"
    elif remote.size is not None and size != remote.size:
        fault = f"has {size} bytes, but the archive says {remote.size} (file:size)"
    elif kind and f"{kind}{digest}" != (remote.checksum or "").lower():
        fault = f"has the {CHECKSUMS[kind]} {digest}, which is not the archive's (file:checksum)"
    if fault:
        part.unlink()
        raise FetchError(f"what came of {bare_address(remote.href)} {fault}. It was not kept; try again.")


def split_address(href: str) -> SplitResult:
    """Return the parts of an address; raises `FetchError` for what is none."""
    try:
        parts = urlsplit(href)
        _ = parts.port  # is read, and may be no number
    except ValueError as error:
        raise FetchError(f"{href[:200]!r} is no address: {error}.") from error
    return parts


def origin_of(href: str) -> str:
    """Return scheme, host and port of an address: ``https://host:443``."""
    parts = split_address(href)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _token(parts: SplitResult, origins: Sequence[str]) -> dict[str, str]:
    """Return the header with the token, for the endpoint's own hosts, and never in the clear but on this machine."""
    token = os.environ.get(TOKEN, "").strip()
    here = origin_of(parts.geturl())
    secret = parts.scheme == "https" or _is_loopback(parts.hostname or "")
    if not token or not secret or here not in map(origin_of, origins):
        return {}
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise FetchError(
            f"the environment variable {TOKEN} holds a space or a character that no token has (only plain ASCII "
            "does): copy it again."
        )
    return {"Authorization": f"Bearer {token}"}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

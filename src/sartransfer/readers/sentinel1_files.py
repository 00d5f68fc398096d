"""The files of a Sentinel-1 product: in a SAFE folder, in a zip, or in the flat layout of public cloud archives.

In all of them the XML files lie in ``annotation/`` and ``annotation/calibration/`` and the images in
``measurement/``. Names are as delivered (``s1a-ew-grd-hh-20221130t014342-...-001.xml``) or short (``ew-hh.xml``).
Files are found by their names and never by what the manifest points to, so that a product cannot point elsewhere.
"""

import os
import re
import stat
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from sartransfer.errors import InputError
from sartransfer.npz import UNREADABLE_ZIP
from sartransfer.readers.xml import MOST_BYTES

FOLDERS = ("", "annotation/", "annotation/calibration/", "measurement/")
MANIFEST = "manifest.safe"
MOST_MEMBERS = 10_000  # a product has some 30 files
_NAME = re.compile(r"(?:s1[a-z]-)?(?P<mode>[a-z]{2})(?:-grd)?-(?P<polarization>hh|hv|vh|vv)(?![a-z])")


class ProductFiles(Protocol):
    """The files of one product, named as in its folder: ``annotation/ew-hh.xml``."""

    @property
    def id(self) -> str:
        """The product's name, without .SAFE or .zip."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """All files in `FOLDERS`."""
        ...

    def label(self, name: str) -> str:
        """Return what errors call a file."""
        ...

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a small file (an XML)."""
        ...

    def raster(self, name: str) -> str:
        """Return under what path GDAL opens a file."""
        ...


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """A product as a folder."""

    folder: Path
    names: tuple[str, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """The folder's name without .SAFE."""
        return _bare(self.folder.resolve().name)

    def label(self, name: str) -> str:
        """Return the path as given."""
        return str(self.folder / name)

    def size(self, name: str) -> int:
        """Return the file's bytes."""
        return (self.folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        """Return the file's content; raises `InputError` if it is over 64 MB or cannot be read."""
        _check_size(self.label(name), self.size(name))
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.label(name)} cannot be read: {error.strerror or error}.") from error

    def raster(self, name: str) -> str:
        """Return the absolute path."""
        return str((self.folder / name).resolve())


@dataclass(frozen=True, slots=True)
class ZipFiles:
    """A product in a zip; nothing of it is unpacked."""

    path: Path
    prefix: str
    """The folder in the archive that holds the product: ``S1A_....SAFE/``, or empty."""
    sizes: dict[str, int] = field(repr=False)

    @property
    def id(self) -> str:
        """The name of the folder in the archive without .SAFE, or else of the archive."""
        return _bare(PurePosixPath(self.prefix).name or self.path.name)

    @property
    def names(self) -> tuple[str, ...]:
        """The files of the product."""
        return tuple(self.sizes)

    def label(self, name: str) -> str:
        """Return the archive's path and the name in it."""
        return f"{self.path}!{self.prefix}{name}"

    def size(self, name: str) -> int:
        """Return the bytes of the unpacked file."""
        return self.sizes[name]

    def read(self, name: str) -> bytes:
        """Return the content of a member; raises `InputError` if it is over 64 MB or damaged."""
        _check_size(self.label(name), self.size(name))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.prefix + name) as file:
                data = file.read(MOST_BYTES + 1)
        except UNREADABLE_ZIP as error:
            raise InputError(f"{self.label(name)} cannot be read: {error}. Is the zip whole?") from error
        _check_size(self.label(name), len(data))
        return data

    def raster(self, name: str) -> str:
        """Return the member as GDAL's /vsizip/ names it."""
        return f"/vsizip/{{{self.path.resolve()}}}/{self.prefix}{name}"


def open_product_files(path: str | Path) -> ProductFiles:
    """Return the files of a product, given its folder, its manifest or its zip.

    Raises `InputError` where there is no product, where a zip holds several, or names files outside of itself (an
    absolute path, ``..``, a link), and where a link in a folder leads out of it.
    """
    path = Path(path)
    if path.name == MANIFEST and path.is_file():
        path = path.parent
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError(f"{path} is not there. Check the path.")
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is no Sentinel-1 GRD product: give its SAFE folder, its zip, or a folder with annotation/ and "
            "measurement/ as in public cloud archives."
        )
    return _open_zip(path)


def find_file(
    files: ProductFiles, folder: str, prefix: str, polarization: str, endings: tuple[str, ...]
) -> str:
    """Return the one file of a polarization in a folder of the product; `prefix`: ``noise-``, ``calibration-`` or none.

    Raises `InputError`, naming what is missing, unless there is just one.
    """
    found = [n for n, p in _named(files, folder, prefix, endings) if p == polarization]
    if len(found) == 1:
        return found[0]
    what = f"{folder}{prefix}*{polarization.lower()}*{endings[0]}"
    if found:
        raise InputError(f"{files.label(folder)} holds {len(found)} files for {what}: {', '.join(found)}.")
    there = [n for n in files.names if n.startswith(folder) and "/" not in n[len(folder) :]]
    raise InputError(
        f"{files.label(folder)}: {what} is missing. There: {', '.join(there) or 'nothing'}. Download it again."
    )


def polarizations(files: ProductFiles) -> tuple[str, ...]:
    """Return the polarizations that have an annotation, the one received as it was sent first: HH, HV or VV, VH."""
    found = {p for _, p in _named(files, "annotation/", "", (".xml",))}
    return tuple(p for p in ("HH", "VV", "HV", "VH") if p in found)


def _named(files: ProductFiles, folder: str, prefix: str, endings: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (name, polarization) of the files in a folder that are named as those of a product are."""
    out = []
    for name in files.names:
        parent, _, bare = name.rpartition("/")
        if (
            f"{parent}/" != folder
            or not bare.lower().startswith(prefix)
            or not bare.lower().endswith(endings)
        ):
            continue
        match = _NAME.match(bare[len(prefix) :].lower())
        if match:
            out.append((name, match["polarization"].upper()))
    return out


def _open_folder(folder: Path) -> FolderFiles:
    root = folder.resolve()
    names = []
    for inner in FOLDERS:
        part = folder / inner
        if not part.is_dir():
            continue
        for entry in sorted(os.scandir(part), key=lambda e: e.name):
            if not entry.is_file() or _is_of_macos(entry.name):
                continue
            if not Path(entry.path).resolve().is_relative_to(root):
                raise InputError(
                    f"{entry.path} leads out of the product: refused. Copy the file to its place."
                )
            names.append(inner + entry.name)
    files = FolderFiles(folder, tuple(names))
    if not polarizations(files):
        raise InputError(
            f"{folder} is no Sentinel-1 GRD product: annotation/ holds no XML file named as s1a-ew-grd-hh-....xml or "
            "ew-hh.xml."
        )
    return files


def _open_zip(path: Path) -> ZipFiles:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except UNREADABLE_ZIP as error:
        raise InputError(f"{path} cannot be read as a zip: {error}. Is it whole?") from error
    if len(members) > MOST_MEMBERS:
        raise InputError(f"{path} holds {len(members)} files: that is no Sentinel-1 product.")
    for member in members:
        _check_member(path, member)
    members = [m for m in members if not _is_of_macos(m.filename)]
    names = [m.filename for m in members if not m.is_dir()]
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise InputError(f"{path} holds two files of one name: {', '.join(twice[:3])}. Download it again.")
    prefixes = {n[: n.rindex("annotation/")] for n in names if re.search(r"(^|/)annotation/[^/]+\.xml$", n)}
    if len(prefixes) != 1:
        raise InputError(
            f"{path} holds {len(prefixes)} Sentinel-1 products (folders with annotation/*.xml), one was expected."
        )
    (prefix,) = prefixes
    sizes = {
        m.filename[len(prefix) :]: m.file_size
        for m in members
        if not m.is_dir() and m.filename.startswith(prefix) and _folder(m.filename[len(prefix) :]) in FOLDERS
    }
    files = ZipFiles(path, prefix, sizes)
    if not polarizations(files):
        raise InputError(
            f"{path} is no Sentinel-1 GRD product: {prefix}annotation/ holds no s1a-ew-grd-hh-....xml."
        )
    return files


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    # orig_filename: the name as it stands in the archive; zipfile turns or cuts some characters
    for name in (member.filename, member.orig_filename):
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise InputError(
                f"{path} names the file {name!r}, outside of itself: refused. Download it again."
            )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{path} holds the link {member.filename!r}: refused. Download it again.")
    if member.flag_bits & 1:
        raise InputError(f"{path} is encrypted ({member.filename!r}). Unpack it first.")


def _is_of_macos(name: str) -> bool:
    """Say whether a file is what macOS lays beside others in zips and on foreign disks."""
    parts = PurePosixPath(name).parts
    return bool(parts) and (parts[0] == "__MACOSX" or parts[-1].startswith("._"))


def _check_size(label: str, size: int) -> None:
    if size > MOST_BYTES:
        raise InputError(f"{label} has over {MOST_BYTES >> 20} MB: that is no annotation.")
    if size == 0:
        raise InputError(f"{label} is empty (0 bytes). Download it again.")


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _bare(name: str) -> str:
    for ending in (".zip", ".SAFE"):
        if name.lower().endswith(ending.lower()):
            name = name[: -len(ending)]
    return name

"""Decoded scenes that a disk has damaged: made anew where they are opened, and told of where they are not."""

import json
import os
import zlib

import numpy as np
import pytest
from test_33_cache import SIZE, contract, write_scenes

from sartransfer.data import cache, decoded
from sartransfer.data.decoded import KINDS, PlaneFile, Planes, write_planes
from sartransfer.data.patches import SceneStore
from sartransfer.errors import InputError
from sartransfer.scene import Window

ALL = Window(0, 0, *SIZE)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SARTRANSFER_CACHE_GB", raising=False)
    monkeypatch.setattr(cache, "_in_use", set())
    monkeypatch.setattr(cache, "_seen_whole", {})
    return tmp_path / "cache"


def opened(catalog, kind):
    return SceneStore(catalog, catalog.entries, contract(catalog), cache=kind)


def flipped(data):
    """Some bytes in the middle and one at the start, as a bad block has them; as many as there were."""
    out = bytearray(data)
    for place in (0, len(out) // 2, len(out) - 1):
        out[place] ^= 0x5A
    return bytes(out)


DAMAGES = {"flipped": flipped, "zeroed": lambda data: bytes(len(data))}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in KINDS for name in ("image", "label")),
        *(("bitshuffle-lz4", name) for name in ("image.index", "label.index")),
    ],
)
def test_files_whose_bytes_have_changed_are_made_anew(tmp_path, folder, kind, name, damage):
    """Of the same size and, as a failing disk has it, the same time of change."""
    catalog = write_scenes(tmp_path / "data", whole_numbers=False, number=1)
    plain = SceneStore(catalog, catalog.entries, contract(catalog), cache_bytes=0).read(0, ALL)
    opened(catalog, kind).prepare()
    (path,) = folder.glob(f"*/{name}")
    before, good = path.stat(), path.read_bytes()
    path.write_bytes(DAMAGES[damage](good))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    store = opened(catalog, kind)
    image, valid, label = store.read(0, ALL)
    assert np.array_equal(image, plain[0])
    assert np.array_equal(valid, plain[1])
    assert np.array_equal(label.mask, plain[2].mask)
    assert path.read_bytes() == good
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_says_each_files_checksum_and_one_without_is_made_anew(tmp_path, folder, kind):
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=1)
    opened(catalog, kind).prepare()
    (path,) = folder.glob("*/header.json")
    header = json.loads(path.read_text())
    files = {p.name: zlib.crc32(p.read_bytes()) for p in path.parent.iterdir() if p != path}
    assert header["crc32"] == files
    assert len(files) == (2 if kind == "memory-map" else 4)
    old = {key: value for key, value in header.items() if key != "crc32"}  # as earlier versions wrote it
    other = {**header, "made_from": {**header["made_from"], "size": [217, 300]}}
    for text in (old, other):
        path.write_text(json.dumps(text))
        opened(catalog, kind).prepare()
        assert json.loads(path.read_text()) == header


def test_checksums_are_compared_once_in_a_process(tmp_path, folder, monkeypatch):
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=2)
    opened(catalog, "memory-map").prepare()
    read = []
    real = cache._checksum
    monkeypatch.setattr(cache, "_checksum", lambda path: read.append(path) or real(path))
    for _ in range(3):
        opened(catalog, "memory-map").prepare()
    assert read == []  # when they were made
    cache._seen_whole.clear()  # as in another process
    for _ in range(3):
        opened(catalog, "memory-map").prepare()
    assert len(read) == len(set(read)) == 4


def test_files_are_on_disk_before_they_get_their_name(tmp_path, folder, monkeypatch):
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=1)
    kept = []
    real = os.fsync

    def noted(file):
        kept.append(os.fstat(file).st_ino)
        assert not list(folder.glob("[!.]*/header.json"))
        real(file)

    monkeypatch.setattr(os, "fsync", noted)
    opened(catalog, "bitshuffle-lz4").prepare()
    (place,) = folder.iterdir()
    assert {p.stat().st_ino for p in place.iterdir()} <= set(kept)


def test_what_breaks_after_it_was_opened_is_told_in_words(tmp_path):
    planes = Planes("bitshuffle-lz4", (1, 128, 256), "float32")
    values = np.random.default_rng(0).random((1, 128, 256)).astype(np.float32)
    write_planes(tmp_path / "p", planes, [values])
    file = PlaneFile(tmp_path / "p", planes)
    assert np.array_equal(file.read(Window(0, 0, 128, 256)), values)
    with (tmp_path / "p").open("r+b") as out:
        out.write(bytes((tmp_path / "p").stat().st_size))
    with pytest.raises(InputError, match=r"p is damaged .*Remove the folder .*; it is made anew"):
        file.read(Window(0, 0, 128, 256))


def test_an_index_that_points_nowhere_is_not_followed(tmp_path):
    planes = Planes("bitshuffle-lz4", (1, 128, 384), "uint8")
    write_planes(tmp_path / "p", planes, [np.ones((1, 128, 384), np.uint8)])
    index = decoded._index(tmp_path / "p")
    good = np.fromfile(index, "<u8")
    for places in ([0, good[2], good[1], good[3]], [1, *good[1:]], [0, good[1], good[1], good[3]]):
        np.array(places, "<u8").tofile(index)
        with pytest.raises(InputError, match="not whole"):
            PlaneFile(tmp_path / "p", planes).open()

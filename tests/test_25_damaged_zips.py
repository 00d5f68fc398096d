"""Zips that are damaged, that lie about their size, or unpack to too much: one error, and no memory taken."""

import io
import struct
import zipfile

import numpy as np
import pytest
from small_safe import make_product, write_product, zip_product

from sartransfer.errors import InputError
from sartransfer.prepare import sentinel1
from sartransfer.prepare.sentinel1 import prepare_sentinel1
from sartransfer.readers.array import open_array, read_key, write_array
from sartransfer.readers.sentinel1_files import open_product_files
from sartransfer.scene import Band, GeoReference

GOOD = np.random.default_rng(0).integers(0, 4, (1, 64, 64)).astype(np.float32)


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def head(words):
    """The beginning of a .npy file with any words for its header (numpy's format, version 1.0)."""
    text = words.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
    return path


def read(path):
    scene = open_array(path)
    return scene.source.read([0], scene.window)


def turned(path, first, last):
    """Turn all bits of some bytes."""
    data = bytearray(path.read_bytes())
    for i in range(first, last):
        data[i] ^= 0xFF
    path.write_bytes(data)


def method(path, number, flags=0):
    """Say another packing method, or flags, in both headers of the only member."""
    data = bytearray(path.read_bytes())
    central = data.find(b"PK\1\2")
    data[6] |= flags
    data[central + 8] |= flags
    if number is not None:
        data[8] = data[central + 10] = number
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["header", "numbers"])
def test_a_damaged_array_is_told(tmp_path, place):
    path = npz(tmp_path / "a.npz", data=npy(GOOD))
    np.testing.assert_array_equal(read(path)[0], GOOD)
    start = path.read_bytes().find(b"data.npy") + 8
    turned(path, *((start, start + 12) if place == "header" else (start + 200, start + 260)))
    with pytest.raises(InputError, match=r"a\.npz cannot be read as \.npz"):
        read(path)


@pytest.mark.parametrize(("number", "flags"), [(99, 0), (14, 0), (12, 0), (None, 1)])
def test_other_methods_and_encryption_are_told(tmp_path, number, flags):
    path = npz(tmp_path / "a.npz", data=npy(GOOD))
    method(path, number, flags)
    with pytest.raises(InputError, match=r"a\.npz cannot be read as \.npz"):
        read(path)


@pytest.mark.parametrize(
    "words",
    [
        "{'descr':'<f4','fortran_order':False,'shape':(1,1000000,1000000)}",
        "{'descr':'<f4','fortran_order':False,'shape':(1,-4,4)}",
        "{'descr':'<f4','fortran_order':False,'shape':(1,4",
    ],
)
def test_headers_are_not_believed(tmp_path, words):
    with pytest.raises(InputError, match=r"a\.npz cannot be read as \.npz"):
        open_array(npz(tmp_path / "a.npz", data=head(words)))  # without any memory for what it claims


def test_a_member_that_says_more_than_it_can_hold_is_told(tmp_path):
    """Header and directory agree on a terabyte; 64-bit sizes are not needed for that they are believed."""
    size = 3_900_000_000
    path = npz(tmp_path / "a.npz", data=head(f"{{'descr':'|u1','fortran_order':False,'shape':(1,1,{size})}}"))
    data = bytearray(path.read_bytes())
    central = data.find(b"PK\1\2")
    data[central + 24 : central + 28] = struct.pack("<I", size + 128)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"which .* cannot hold"):
        open_array(path)


def test_constant_arrays_are_no_bombs(tmp_path):
    path = write_array(tmp_path / "a.npz", np.zeros((1, 2048, 2048), np.float32), [Band("x")])
    assert path.stat().st_size < 20_000
    assert read(path)[0].sum() == 0


@pytest.mark.parametrize(
    "transform", [np.zeros(3), np.array(["a"] * 6), np.array(1.0), np.full(6, np.nan), np.zeros((1, 6))]
)
def test_a_transform_is_six_finite_numbers(tmp_path, transform):
    path = npz(tmp_path / "a.npz", data=npy(GOOD), transform=npy(transform))
    with pytest.raises(InputError, match=r"'transform' is .*must be 6 finite numbers"):
        open_array(path)
    place = GeoReference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6))
    write_array(tmp_path / "b.npz", GOOD, [Band("x")], georeference=place)
    assert open_array(tmp_path / "b.npz").georeference == place


def test_objects_are_not_loaded(tmp_path):
    path = npz(
        tmp_path / "a.npz", data=npy(GOOD), crs=head("{'descr':'|O','fortran_order':False,'shape':(1,)}")
    )
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        read_key(path, "crs")


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safe")
    made = make_product(np.random.default_rng(0))
    return zip_product(write_product(folder, made), folder / "p.zip")


def damaged(source, path, part):
    """A copy of a zip in which the packed bytes of a file are turned."""
    path.write_bytes(source.read_bytes())
    with zipfile.ZipFile(source) as archive:
        member = next(m for m in archive.infolist() if part in m.filename and m.file_size)
    start = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    turned(path, start, start + 40)
    return path


@pytest.mark.parametrize("part", ["annotation/s1", "noise-", "calibration-", "measurement/"])
def test_a_damaged_product_is_told(product, tmp_path, part):
    with pytest.raises(InputError):
        prepare_sentinel1(damaged(product, tmp_path / "d.zip", part), tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_a_zip_whose_list_is_damaged_is_told(product, tmp_path):
    path = tmp_path / "d.zip"
    path.write_bytes(product.read_bytes())
    turned(path, path.read_bytes().find(b"PK\1\2") + 6, path.read_bytes().find(b"PK\1\2") + 30)
    with pytest.raises(InputError):
        open_product_files(path)


def test_a_zip_bomb_is_not_unpacked(product, tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(product) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            more = b"\0" * 5_000_000 if "measurement/" in member.filename else b""
            new.writestr(member.filename, old.read(member) + more)
    written = []
    monkeypatch.setattr(sentinel1, "SPARE", 1 << 20)
    monkeypatch.setattr("shutil.copyfileobj", lambda *words: written.append(words))
    with pytest.raises(InputError, match=r"bomb\.zip is not unpacked: .*measurement/.* would have 4 MB"):
        prepare_sentinel1(path, tmp_path / "out.tif")
    assert not written


def test_the_bounds_of_an_image_are_its_annotation_and_what_images_pack_to():
    class Product:
        rows, columns = 10_000, 20_000

    def member(size, packed):
        info = zipfile.ZipInfo("m.tiff")
        info.file_size, info.compress_size = size, packed
        return info

    pixels = 2 * 10_000 * 20_000
    for size, packed in ((pixels, pixels // 2), (pixels, pixels // 200), (60 << 20, 1)):
        sentinel1._check_bomb(Product, "p.zip", member(size, packed))
    with pytest.raises(InputError, match="an image of 10000 x 20000 pixels has under 826 MB"):
        sentinel1._check_bomb(Product, "p.zip", member(2 * pixels + (64 << 20) + 1, pixels))
    with pytest.raises(InputError, match="no image packs to under 1 / 200"):
        sentinel1._check_bomb(Product, "p.zip", member(pixels, pixels // 201))

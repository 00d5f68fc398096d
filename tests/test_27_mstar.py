"""MSTAR: Phoenix files written field by field from the format's description, never with the reader's code."""

import struct
from collections import Counter

import numpy as np
import pytest

from sartransfer.contract import InputBand, InputContract
from sartransfer.data.check import check_catalog
from sartransfer.data.datasets import DATASETS
from sartransfer.data.leakage import check_leakage, refuse_leaks, relation
from sartransfer.data.splits import assign_validation
from sartransfer.errors import InputError, LeakageError, UnitError
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry, open_scene
from sartransfer.readers.mstar import (
    PhoenixHeader,
    is_phoenix,
    open_mstar,
    read_phoenix,
    read_phoenix_header,
)
from sartransfer.scene import Band, Window

CHIP = {
    "TargetType": "t72_tank",
    "TargetSerNum": "132",
    "TargetAz": "154.793579",
    "TargetRoll": "0.000000",
    "DesiredDepression": "17",
    "MeasuredDepression": "17.206310",
    "Polarization": "HH",
}
TYPES = {
    "2S1": "2s1_gun",
    "BMP2": "bmp2_tank",
    "BRDM_2": "brdm2_truck",
    "BTR60": "btr60_transport",
    "BTR70": "btr70_transport",
    "D7": "d7_bulldozer",
    "T62": "t62_tank",
    "T72": "t72_tank",
    "ZIL131": "zil131_truck",
    "ZSU_23_4": "zsu23-4_gun",
}


def phoenix(magnitudes, phases=None, facts=CHIP, *, value="f", native=b"", version="01.04", **changes):
    """The bytes of a Phoenix file: an ASCII header, a native one, magnitudes and then phases, big-endian.

    Lengths stand in fields of fixed width, so that the header's length does not depend on what they say.
    """
    rows, columns = len(magnitudes), len(magnitudes[0])
    phases = [[0] * columns] * rows if phases is None else phases
    data = b"".join(
        struct.pack(">" + value, v) for layer in (magnitudes, phases) for row in layer for v in row
    )
    head = ""
    for length, size in ((0, 0), (None, None)):  # once to measure it, once with what was measured
        fields = {
            "PhoenixHeaderLength": f"{len(head.encode()) if length is None else 0:05d}",
            "PhoenixSigSize": f"{len(head.encode()) + len(native) + len(data) if size is None else 0:010d}",
            "PhoenixSigNum": "0001",
            "PhoenixHeaderCallingSequence": "/usr/bin/mkphoenix -a=1 -b=2",
            "native_header_length": str(len(native)),
            "Filename": "HB03333.015",
            "NumberOfColumns": str(columns),
            "NumberOfRows": str(rows),
            **facts,
            **changes,
        }
        lines = [f"{key}= {text}" for key, text in fields.items() if text is not None]
        head = "\n".join(["", f"[PhoenixHeaderVer{version}]", *lines, "[EndofPhoenixHeader]", ""])
    return head.encode("ascii") + native + data


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


MAGNITUDES = [[0.0, 0.5, 1.25], [2.0, 3.5, 4.75]]
PHASES = [[0.0, 1.5, -1.5], [3.0, -3.0, 0.25]]


@pytest.mark.parametrize("native", [b"", b"N" * 512])
@pytest.mark.parametrize("version", ["01.04", "01.05"])
@pytest.mark.parametrize("ending", ["015", "000", "xyz"])
def test_magnitudes_come_before_phases_row_by_row(tmp_path, native, version, ending):
    path = write(tmp_path / f"HB03333.{ending}", phoenix(MAGNITUDES, PHASES, native=native, version=version))
    assert is_phoenix(path)
    scene = open_scene(path)  # by its content: the ending says nothing
    assert scene.bands == (Band("amplitude", parse_unit("amplitude"), "HH"),)
    assert (scene.height, scene.width, scene.platform) == (2, 3, "MSTAR X-band")
    data, valid = scene.read()
    np.testing.assert_array_equal(data[0], MAGNITUDES)
    assert valid.all()
    np.testing.assert_array_equal(scene.read(window=Window(1, 1, 1, 2)).data[0], [[3.5, 4.75]])
    np.testing.assert_array_equal(scene.read(units="intensity").data[0], np.square(MAGNITUDES))
    magnitude, phase = read_phoenix(path)
    np.testing.assert_array_equal(magnitude, MAGNITUDES)
    np.testing.assert_array_equal(phase, PHASES)
    assert (magnitude.dtype, phase.dtype) == (np.float32, np.float32)


def test_the_header_is_read_as_written(tmp_path):
    path = write(tmp_path / "a.015", phoenix(MAGNITUDES))
    header = read_phoenix_header(path)
    raw = path.read_bytes()
    assert header == PhoenixHeader(
        "01.04", 2, 3, raw.index(b"[EndofPhoenixHeader]\n") + 21, 4, "t72_tank", "132", 154.793579, 17.0, 17.20631, "HH"
    )  # fmt: skip
    assert header.depression_deg == 17
    assert header.fields["PhoenixHeaderCallingSequence"] == "/usr/bin/mkphoenix -a=1 -b=2"
    measured = write(
        tmp_path / "b.015", phoenix(MAGNITUDES, DesiredDepression=None, MeasuredDepression="14.6")
    )
    assert read_phoenix_header(measured).depression_deg == 15
    bare = write(tmp_path / "c.015", phoenix(MAGNITUDES, facts={}))
    header = read_phoenix_header(bare)
    assert (header.target_type, header.serial_number, header.azimuth_deg, header.depression_deg) == (
        None,
    ) * 4
    assert open_mstar(bare).bands[0].polarization == "HH"


def test_full_scenes_are_sixteen_bits(tmp_path):
    counts = [[0, 1, 513], [4095, 65535, 7]]
    path = write(tmp_path / "hb06173", phoenix(counts, value="H", native=b"\0" * 512, facts={}))
    assert read_phoenix_header(path).bytes_per_value == 2
    np.testing.assert_array_equal(open_scene(path).read().data[0], counts)
    magnitude, phase = read_phoenix(path)
    np.testing.assert_array_equal(magnitude, counts)
    assert magnitude.dtype == np.uint16
    assert phase is None  # its scale stands nowhere in the header


def test_what_is_not_finite_is_not_valid(tmp_path):
    path = write(tmp_path / "a.000", phoenix([[1.0, float("nan")], [float("inf"), 2.0]]))
    data, valid = open_scene(path).read()
    np.testing.assert_array_equal(valid, [[True, False], [False, True]])
    np.testing.assert_array_equal(data[0], [[1, np.nan], [np.nan, 2]])


@pytest.mark.parametrize("missing", [1, 4, 24, 40, 200, 400])
def test_a_truncated_file_is_refused(tmp_path, missing):
    whole = phoenix(MAGNITUDES, PHASES)
    path = write(tmp_path / "cut.015", whole[:-missing])
    with pytest.raises(InputError, match=r"cut\.015.*truncated.*Download it again"):
        open_mstar(path)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
    path = write(tmp_path / "a.015", phoenix(MAGNITUDES, PHASES))
    scene = open_scene(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="shorter than when it was opened"):
        scene.read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NumberOfRows": None}, "lacks 'NumberOfRows'"),
        ({"NumberOfColumns": None}, "lacks 'NumberOfColumns'"),
        ({"native_header_length": None}, "lacks 'native_header_length'"),
        ({"PhoenixSigSize": None}, "lacks 'PhoenixSigSize'"),
        ({"PhoenixHeaderLength": None}, "lacks 'PhoenixHeaderLength'"),
        ({"NumberOfRows": "two"}, "NumberOfRows= 'two' is no whole number"),
        ({"NumberOfRows": "-2"}, "NumberOfRows= '-2' is no whole number"),
        ({"NumberOfRows": "0"}, "are not magnitude and phase of 0 x 3 pixels"),
        (
            {"NumberOfColumns": "4"},
            r"48 bytes of data are not .* 2 x 4 pixels, neither in float32 \(64 bytes\)",
        ),
        ({"PhoenixHeaderLength": "00012"}, "PhoenixHeaderLength= 12, but the header ends at byte"),
        ({"PhoenixSigSize": "0000000100"}, "and 100 as its header says .PhoenixSigSize.: it is damaged"),
        ({"TargetAz": "north"}, "TargetAz= 'north' is no number"),
        ({"DesiredDepression": "nan"}, "DesiredDepression= 'nan' is no number"),
        ({"Polarization": "XX"}, "Polarization= 'XX' is not one of HH"),
    ],
)
def test_headers_that_do_not_hold_together_are_refused(tmp_path, changes, message):
    path = write(tmp_path / "bad.015", phoenix(MAGNITUDES, PHASES, **changes))
    with pytest.raises(InputError, match=r"bad\.015.*" + message):
        read_phoenix_header(path)


def test_what_is_no_phoenix_file_is_refused(tmp_path):
    path = write(tmp_path / "a.015", b"\xff\xd8\xff\xe0 a picture" * 20)
    assert not is_phoenix(path)
    assert not is_phoenix(tmp_path)
    with pytest.raises(InputError, match="is no Phoenix file"):
        open_mstar(path)
    with pytest.raises(InputError, match=r"no reader is known for '\.015'"):
        open_scene(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_phoenix_header(tmp_path / "no.015")
    late = write(tmp_path / "late", b"x" * 100 + phoenix(MAGNITUDES))
    with pytest.raises(InputError, match="is no Phoenix file"):
        open_mstar(late)


def test_bands_may_rename_but_not_reinterpret(tmp_path):
    path = write(tmp_path / "a.015", phoenix(MAGNITUDES))
    assert open_scene(path, "mstar", [Band("magnitude")]).bands == (
        Band("magnitude", parse_unit("amplitude"), "HH"),
    )
    with pytest.raises(UnitError, match="is an amplitude, not sigma0"):
        open_scene(path, bands=[Band("x", parse_unit("sigma0"))])
    with pytest.raises(InputError, match="is HH as the file says, but VV"):
        open_scene(path, bands=[Band("x", polarization="VV")])
    with pytest.raises(InputError, match="2 are named: a, b"):
        open_scene(path, bands=[Band("a"), Band("b")])


def test_a_recipe_may_ask_for_log2_amplitudes(tmp_path):
    scene = open_scene(write(tmp_path / "a.015", phoenix([[0.0, 1.0, 3.0], [7.0, 15.0, 65535.0]])))
    contract = InputContract((InputBand("amplitude", "amplitude_log2", "HH"),))
    np.testing.assert_array_equal(contract.read(scene).data[0] * 16, [[0, 1, 2], [3, 4, 16]])


def chip(root, folder, category, serial, depression, azimuth, *, seed=0, name=None):
    """One chip where a CD has it; the same endings stand for other vehicles elsewhere."""
    facts = CHIP | {
        "TargetType": TYPES.get(category, category),
        "TargetSerNum": serial,
        "TargetAz": f"{azimuth:.6f}",
        "DesiredDepression": str(depression),
        "MeasuredDepression": f"{depression + 0.3}",
    }
    side = 3 + seed % 3
    values = np.random.default_rng([seed, int(azimuth * 10), depression]).rayleigh(1.0, (side, side)).tolist()
    file = name or f"HB{seed:02}{int(azimuth * 10):05}.0{seed % 27:02}"
    return write(root / folder / file, phoenix(values, facts=facts))


TEN = [
    ("2S1", "b01"), ("BMP2", "9563"), ("BRDM_2", "E-71"), ("BTR60", "k10yt7532"), ("BTR70", "c71"),
    ("D7", "92v13015"), ("T62", "A51"), ("T72", "132"), ("ZIL131", "E12"), ("ZSU_23_4", "d08"),
]  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A small MSTAR release: vehicles at many depressions, variants, a calibration target, a scene, pictures."""
    root = tmp_path_factory.mktemp("mstar")
    azimuths = (10.0, 29.9, 30.0, 200.0, 359.5)
    for number, (category, serial) in enumerate(TEN):
        for depression in (15, 17, 30):
            for azimuth in azimuths:
                chip(
                    root,
                    f"CD/{depression}_DEG/{category}",
                    category,
                    serial,
                    depression,
                    azimuth,
                    seed=number,
                )
    variants = ["S7", "A32", "A62", "A63", "A64", "812", "A04", "A05", "A07", "A10"]
    for number, serial in enumerate(variants, start=10):
        for depression in (15, 17, 30, 45):
            chip(root, f"VARIANTS/{depression}", "T72", serial, depression, 77.0, seed=number)
    for number, serial in enumerate(["9566", "SN_C21"], start=20):
        for depression in (15, 17):
            chip(root, f"TARGETS/{depression}", "BMP2", serial, depression, 77.0, seed=number)
    chip(root, "CD/17_DEG/SLICY", "slicey", "1", 17, 10.0, seed=30)
    write(root / "CD/CLUTTER/HB06160", phoenix([[1, 2], [3, 4]], value="H", facts={"TargetType": "t72_tank"}))
    write(root / "CD/README.TXT", b"MSTAR public release")
    write(root / "CD/17_DEG/2S1/HB19377.jpg", b"\xff\xd8\xff")
    return root


def test_the_standard_condition_is_told_by_the_header(release):
    catalog = DATASETS["mstar-soc"](release)
    assert catalog.classes == tuple(sorted(TYPES))
    assert Counter((e.split, e.category) for e in catalog.entries) == {
        (split, category): 5 for split in ("train", "test") for category in TYPES
    }
    for entry in catalog.entries:
        header = read_phoenix_header(entry.assets[0].path)
        assert header.desired_depression_deg == {"train": 17, "test": 15}[entry.split]
        assert header.target_type == TYPES[entry.category]
        assert (entry.category, header.serial_number) in TEN
    assert check_catalog(catalog) == []
    assert open_entry(catalog.entries[0]).band("amplitude").polarization == "HH"


def test_groups_are_vehicles_by_sector_of_azimuth(release):
    catalog = DATASETS["mstar-soc"](release)
    for split in ("train", "test"):
        groups = Counter(e.group for e in catalog.in_split(split) if e.category == "T72")
        assert groups == {
            "T72 132, azimuth 000": 2,  # 10.0 and 29.9 degrees
            "T72 132, azimuth 030": 1,
            "T72 132, azimuth 180": 1,
            "T72 132, azimuth 330": 1,
        }
    drawn = assign_validation(catalog, 0.3, seed=1)
    assert {e.category for e in drawn.in_split("validation")} == set(TYPES)
    trained = {e.group for e in drawn.in_split("train")}
    assert not trained & {e.group for e in drawn.in_split("validation")}


def test_the_same_vehicles_in_the_test_set_must_be_declared(release):
    catalog = assign_validation(DATASETS["mstar-soc"](release), 0.3, seed=1)
    leaks = check_leakage(catalog)
    assert {k.kind for k in leaks} == {"group"}
    with pytest.raises(LeakageError, match="same_scenes"):
        refuse_leaks(leaks)
    refuse_leaks(leaks, allowed={"test"})
    assert relation(catalog, "test", leaks) == "same scenes"


def test_the_extended_conditions(release):
    first = DATASETS["mstar-eoc1"](release)
    assert first.classes == ("2S1", "BRDM_2", "T72", "ZSU_23_4")
    found = Counter((e.split, e.category, e.id.split("/")[1], e.id.split("/")[2]) for e in first.entries)
    assert found == {
        (split, category, serial, depression): 1 if serial == "a64" else 5
        for split, depression in (("train", "17deg"), ("test", "30deg"))
        for category, serial in (("2S1", "b01"), ("BRDM_2", "e71"), ("T72", "a64"), ("ZSU_23_4", "d08"))
    }
    second = DATASETS["mstar-eoc2"](release)
    assert second.classes == ("BMP2", "BRDM_2", "BTR70", "T72")
    assert second.test_sets == ("version", "configuration")
    serials = {
        s: Counter(f"{e.category} {e.id.split('/')[1]}" for e in second.in_split(s)) for s in second.splits
    }
    assert serials == {
        "train": {"BMP2 9563": 5, "BRDM_2 e71": 5, "BTR70 c71": 5, "T72 132": 5},
        "configuration": {f"T72 {s}": 2 for s in ("s7", "a32", "a62", "a63", "a64")},
        "version": {f"BMP2 {s}": 2 for s in ("9566", "c21")}
        | {f"T72 {s}": 2 for s in ("812", "a04", "a05", "a07", "a10")},
    }
    assert {e.id.split("/")[2] for e in second.in_split("version")} == {"15deg", "17deg"}
    assert [relation(second, s) for s in second.test_sets] == ["unseen events"] * 2


def test_releases_that_lack_or_repeat_something_are_refused(tmp_path):
    for category, serial in TEN[:9]:
        for depression in (15, 17):
            chip(tmp_path, f"{depression}/{category}", category, serial, depression, 5.0)
    with pytest.raises(
        InputError, match=r"no chips of ZSU_23_4 d08 \(test\), ZSU_23_4 d08 \(train\).*Download"
    ):
        DATASETS["mstar-soc"](tmp_path)
    for depression in (15, 17):
        chip(tmp_path, f"{depression}/ZSU", "ZSU_23_4", "d08", depression, 5.0)
    assert len(DATASETS["mstar-soc"](tmp_path).entries) == 20
    copy = chip(tmp_path, "again/17", "D7", "92v13015", 17, 5.0)
    with pytest.raises(InputError, match="one chip twice"):
        DATASETS["mstar-soc"](tmp_path)
    copy.unlink()
    facts = {k: v for k, v in CHIP.items() if k != "TargetSerNum"}
    write(tmp_path / "HB00001.000", phoenix(MAGNITUDES, facts=facts))
    with pytest.raises(InputError, match=r"chip of T72, but its header lacks TargetSerNum"):
        DATASETS["mstar-soc"](tmp_path)
    with pytest.raises(InputError, match="holds no chips of mstar-eoc1"):
        DATASETS["mstar-eoc1"](tmp_path / "again")

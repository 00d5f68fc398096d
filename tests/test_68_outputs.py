"""What stands beside a map: the layout of its files, colours and names for a GIS, ensembles, polygons, STAC item."""

import ctypes
import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from test_68_maps_kept import stop_after_one_window

from sartransfer import mapping, members, predict, streaming
from sartransfer.contract import InputBand, InputContract
from sartransfer.engines import kinds
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import map_classes, opened, write_classes_tag, write_geotiff
from sartransfer.map_layers import COLOURS, NODATA, plan_layers, window_values
from sartransfer.mapping import predict_scene
from sartransfer.members import count_windows, plan_members
from sartransfer.models import build_model, read_checkpoint, write_checkpoint
from sartransfer.polygons import PolygonOptions
from sartransfer.scene import ArraySource, Band, GeoReference, Scene
from sartransfer.stac import outline, scene_time

torch.set_num_threads(1)
SOURCE = Path(predict.__file__).parent.parent
CLASSES = ("land", "open water", "ice, new & <thin>")
BANDS = (InputBand("sigma0_vv_db", "sigma0_db", "VV", mean=-10.0, std=3.0),)
CONTRACT = InputContract(BANDS)
PLACE = GeoReference(crs="EPSG:32633", transform=(40.0, 0.0, 500000.0, 0.0, -40.0, 6000000.0))
NAME = "S1A_EW_GRDM_1SDH_20210203T040506_20210203T040606"
HEIGHT, WIDTH = 300, 280


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A scene and three networks with random weights: two of one kind, one of another."""
    folder = tmp_path_factory.mktemp("files")
    for seed, depth in enumerate((3, 3, 4)):
        torch.manual_seed(seed)
        channels = [16, 8, 8, 8][:depth]
        model = build_model("unet-resnet18", 1, 3, encoder_depth=depth, decoder_channels=channels)
        meta = {"classes": CLASSES, "contract": CONTRACT.to_json(), "identity": f"network-{seed}", "epoch": 3}
        write_checkpoint(folder / f"n{seed}", model, meta)
    values = np.random.default_rng(3).normal(-10, 3, size=(1, HEIGHT, WIDTH)).astype(np.float32)
    values[:, 100:] += 6
    values[:, :70, :40] = np.nan
    write_geotiff(folder / f"{NAME}.tif", values, georeference=PLACE, descriptions=[BANDS[0].name])
    return folder


def networks(files, *numbers):
    return [files / f"n{i}.json" for i in numbers]


def read(path):
    with rasterio.open(path) as file:
        return file.read()


# --- a TIFF's structure, read by hand -------------------------------------------------------------------------


def directories(path):
    """Every image directory of a little-endian TIFF in file order: (where, {tag: numbers})."""
    data = path.read_bytes()
    assert data[:2] == b"II"
    big = struct.unpack_from("<H", data, 2)[0] == 43
    place = struct.unpack_from("<Q" if big else "<I", data, 8 if big else 4)[0]
    kinds = {1: "B", 2: "B", 3: "H", 4: "I", 12: "d", 16: "Q"}
    found = []
    while place:
        number = struct.unpack_from("<Q" if big else "<H", data, place)[0]
        tags, at = {}, place + (8 if big else 2)
        for _ in range(number):
            tag, kind, count = struct.unpack_from("<HHQ" if big else "<HHI", data, at)
            size = struct.calcsize(kinds[kind]) * count
            inline = at + (12 if big else 8)
            start = (
                inline
                if size <= (8 if big else 4)
                else struct.unpack_from("<Q" if big else "<I", data, inline)[0]
            )
            tags[tag] = struct.unpack_from(f"<{count}{kinds[kind]}", data, start)
            at += 20 if big else 12
        found.append((place, tags))
        place = struct.unpack_from("<Q" if big else "<I", data, at)[0]
    return found, data


SUBFILE, WIDE, HIGH, COMPRESSION, PREDICTOR, TILE_WIDE, TILE_HIGH, OFFSETS = (
    254,
    256,
    257,
    259,
    317,
    322,
    323,
    324,
)


def assert_cloud_optimized(path):
    """The rules of rio-cogeo: tiled, overviews down to one tile, directories first and in order, then pixels."""
    found, data = directories(path)
    assert b"LAYOUT=IFDS_BEFORE_DATA" in data[:400]
    assert b"KNOWN_INCOMPATIBLE_EDITION=NO\n" in data[:400]
    places = [place for place, _ in found]
    assert places == sorted(places)
    assert places[0] < 400
    sizes = [(tags[HIGH][0], tags[WIDE][0]) for _, tags in found]
    for (_, tags), size, before in zip(found, sizes, [None, *sizes], strict=False):
        assert tags[COMPRESSION] == (8,)
        assert tags[TILE_WIDE] == tags[TILE_HIGH] == (256,)
        assert tags.get(SUBFILE, (0,)) == ((0,) if before is None else (1,))
        if before is not None:
            assert all(one == -(-two // 2) for one, two in zip(size, before, strict=True))
    assert max(sizes[-1]) <= 256
    begins = [min(tags[OFFSETS]) for _, tags in found]
    assert max(places) < min(begins)
    assert begins == sorted(begins, reverse=True)  # the smallest overview's pixels first
    return [tags for _, tags in found]


def test_every_file_of_a_map_is_cloud_optimized(files, tmp_path):
    found = predict_scene(
        networks(files, 0, 1), files / f"{NAME}.tif", tmp_path / "map.tif", probabilities="float16", entropy=True,
        spread=True,
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "map-entropy.tif", "map-probabilities.tif", "map-spread.tif", "map.tif", "map.tif.aux.xml"
    ]  # fmt: skip
    for path in (found.path, found.probabilities, found.entropy, found.spread):
        tags = assert_cloud_optimized(path)
        assert len(tags) == 2
        assert tags[0].get(PREDICTOR, (1,)) == ((1,) if path == found.path else (3,))
        with rasterio.open(path) as file, rasterio.open(files / f"{NAME}.tif") as scene:
            assert (file.crs, file.transform) == (scene.crs, scene.transform)
            assert file.overviews(1) == [2]
            assert file.tags()["SARTRANSFER_CHECKPOINT"] == "network-0 epoch 3; network-1 epoch 3"
            assert file.tags()["AREA_OR_POINT"] == "Area"


def test_overviews_are_the_mode_of_classes_and_the_mean_of_numbers(files, tmp_path):
    found = predict_scene(networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif", probabilities=True)
    with rasterio.open(found.path) as file, rasterio.open(found.path, overview_level=0) as small:
        values = file.read(1).reshape(HEIGHT // 2, 2, WIDTH // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
        seen = small.read(1).ravel()
    times = np.stack([(values == i).sum(1) for i in range(3)], axis=1)
    known = times.sum(1) > 0
    assert ((seen == NODATA) == ~known).all()
    assert (times[known, seen[known]] == times[known].max(1)).all()
    assert (seen[known] != values[known, 0]).any()  # the nearest would be that
    with (
        rasterio.open(found.probabilities) as file,
        rasterio.open(found.probabilities, overview_level=0) as small,
    ):
        blocks = file.read().reshape(3, HEIGHT // 2, 2, WIDTH // 2, 2)
        some = np.isfinite(blocks).any((2, 4))
        mean = np.nansum(blocks, (2, 4)) / np.maximum(np.isfinite(blocks).sum((2, 4)), 1)
        given = small.read()
    np.testing.assert_array_equal(np.isfinite(given), some)
    np.testing.assert_allclose(given[some], mean[some], atol=1e-6)


def test_probabilities_of_16_bits_are_the_rounded_ones_and_smaller(files, tmp_path):
    words = networks(files, 0), files / f"{NAME}.tif"
    fine = predict_scene(*words, tmp_path / "fine.tif", probabilities="float32")
    half = predict_scene(*words, tmp_path / "half.tif", probabilities="float16")
    np.testing.assert_array_equal(
        read(half.probabilities), read(fine.probabilities).astype("f2").astype("f4")
    )
    assert half.probabilities.stat().st_size < 0.8 * fine.probabilities.stat().st_size
    assert (tmp_path / "half.tif").stat().st_size == (tmp_path / "fine.tif").stat().st_size


# --- names and colours ----------------------------------------------------------------------------------------


def test_gdal_reads_names_and_colours_of_the_classes(files, tmp_path):
    """Through the C library inside rasterio, since its Python side knows no attribute tables."""
    found = predict_scene(networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif")
    table = ET.parse(tmp_path / "map.tif.aux.xml").find("PAMRasterBand/GDALRasterAttributeTable")
    assert [f.find("Usage").text for f in table.findall("FieldDefn")] == ["5", "2", "1", "6", "7", "8"]
    rows = [[cell.text for cell in row.findall("F")] for row in table.findall("Row")]
    assert rows == [
        [str(i), name, str(found.counts[name]), *map(str, COLOURS[i])] for i, name in enumerate(CLASSES)
    ]
    folder = Path(rasterio.__file__).parent.parent / "rasterio.libs"
    libraries = sorted(folder.glob("libgdal*"))
    if not libraries:
        pytest.skip("this rasterio brings no GDAL of its own")
    gdal = ctypes.CDLL(str(libraries[0]))
    for name in ("GDALOpen", "GDALGetRasterBand", "GDALGetDefaultRAT"):
        getattr(gdal, name).restype = ctypes.c_void_p
    gdal.GDALRATGetValueAsString.restype = ctypes.c_char_p
    gdal.GDALRATGetNameOfCol.restype = ctypes.c_char_p
    gdal.GDALGetRasterCategoryNames.restype = ctypes.POINTER(ctypes.c_char_p)
    gdal.GDALAllRegister()
    file = gdal.GDALOpen(os.fsencode(found.path), 0)
    band = ctypes.c_void_p(gdal.GDALGetRasterBand(ctypes.c_void_p(file), 1))
    rat = ctypes.c_void_p(gdal.GDALGetDefaultRAT(band))
    columns = [gdal.GDALRATGetNameOfCol(rat, i).decode() for i in range(gdal.GDALRATGetColumnCount(rat))]
    assert columns == ["Value", "Class", "Count", "Red", "Green", "Blue"]
    assert [
        [gdal.GDALRATGetValueAsString(rat, r, c).decode() for c in range(6)]
        for r in range(gdal.GDALRATGetRowCount(rat))
    ] == rows
    assert [gdal.GDALRATGetColOfUsage(rat, usage) for usage in (2, 6, 7, 8, 1)] == [1, 3, 4, 5, 2]
    names = gdal.GDALGetRasterCategoryNames(band)
    assert [names[i].decode() for i in range(3)] == list(CLASSES)
    gdal.GDALClose(ctypes.c_void_p(file))


def test_names_come_back_from_the_tag(files, tmp_path):
    found = predict_scene(networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif")
    with opened(found.path) as file:
        assert map_classes(file) == dict(enumerate(CLASSES))
    assert write_classes_tag(("land", "water")) == "0=land,1=water"


def test_what_a_gis_noted_about_an_earlier_map_goes_with_it(files, tmp_path):
    words = networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif"
    predict_scene(*words, entropy=True)
    stale = tmp_path / "map-entropy.tif.aux.xml"
    stale.write_text("<PAMDataset>statistics of another map</PAMDataset>")
    predict_scene(*words, entropy=True, overwrite=True)
    assert not stale.exists()


# --- ensembles ------------------------------------------------------------------------------------------------


def shares_of(path, values):
    model = read_checkpoint(path).model
    image = np.where(np.isfinite(values), (values + 10) / 3, 0).astype(np.float32)
    with torch.no_grad():
        return model(torch.from_numpy(image)[None]).double().softmax(1)[0].numpy()


def entropy(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(0)


@pytest.mark.parametrize("windows", [False, True])
def test_networks_together_give_their_mean_and_what_they_disagree_about(
    files, tmp_path, monkeypatch, windows
):
    if windows:
        monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
        monkeypatch.setattr(predict, "CORE", 160)
    paths = networks(files, 0, 2)
    found = predict_scene(
        paths, files / f"{NAME}.tif", tmp_path / "map.tif", probabilities=True, entropy=True, spread=True
    )
    values = read(files / f"{NAME}.tif")
    known = np.isfinite(values[0])
    shares = np.stack([shares_of(path, values) for path in paths])
    mean = shares.mean(0)
    told = read(found.probabilities)
    np.testing.assert_allclose(told[:, known], mean[:, known], atol=2e-5)
    np.testing.assert_allclose(read(found.entropy)[0][known], entropy(mean)[known], atol=1e-4)
    mutual = entropy(mean) - np.mean([entropy(p) for p in shares], axis=0)
    np.testing.assert_allclose(read(found.spread)[0][known], mutual[known], atol=1e-4)
    assert mutual[known].max() > 0.01
    assert np.isnan(read(found.spread)[0][~known]).all()
    np.testing.assert_array_equal(read(found.path)[0][known], told.argmax(0)[known])
    assert (read(found.path)[0][~known] == NODATA).all()


def test_spread_is_nothing_where_all_agree_and_log_2_where_two_are_sure_of_the_opposite():
    layers = plan_layers(Path("map.tif"), ("a", "b"), spread=True)
    logits = torch.tensor([[[30.0, 30.0]], [[-30.0, -30.0]]])
    other = torch.tensor([[[30.0, -30.0]], [[-30.0, 30.0]]])
    _, spread = window_values(layers, [logits, other], np.ones((1, 2), bool))
    np.testing.assert_allclose(spread[0, 0], [0.0, np.log(2)], atol=1e-6)


def test_networks_that_do_not_fit_together_are_refused(files, tmp_path):
    scene = files / f"{NAME}.tif"
    with pytest.raises(InputError, match="two checkpoints at least"):
        predict_scene(networks(files, 0), scene, tmp_path / "map.tif", spread=True)
    with pytest.raises(InputError, match="is named twice"):
        predict_scene(networks(files, 0, 0), scene, tmp_path / "map.tif")
    (tmp_path / "link").symlink_to(files)
    with pytest.raises(InputError, match="is named twice"):
        predict_scene([files / "n0.json", tmp_path / "link" / "n0.json"], scene, tmp_path / "map.tif")
    (tmp_path / "link").unlink()
    with pytest.raises(InputError, match="no checkpoint is named"):
        predict_scene([], scene, tmp_path / "map.tif")
    model = build_model("unet-resnet18", 1, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
    other = write_checkpoint(tmp_path / "n", model, {"classes": ["a", "b"], "contract": CONTRACT.to_json()})
    with pytest.raises(InputError, match="They must be the same, in the same order"):
        predict_scene([*networks(files, 0), other], scene, tmp_path / "map.tif")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_memory_of_several_networks_is_more_than_of_one_and_kept(files):
    checkpoints = [read_checkpoint(path) for path in networks(files, 0, 2)]
    size = 4000, 4000
    (one, *_), alone = plan_members(checkpoints[:1], *size)
    plans, together = plan_members(checkpoints, *size)
    assert len({plan.core for plan in plans}) == 1
    assert together > alone
    limit = 400 * 2**20
    plans, within = plan_members(checkpoints, *size, memory=limit)
    assert within <= limit
    assert plans[0].core < one.core
    assert count_windows(plans[0], *size) == (-(-4000 // plans[0].core)) ** 2
    with pytest.raises(InputError, match="allowed"):
        plan_members(checkpoints, *size, memory=2**20)


def test_several_networks_in_an_engine_do_not_hold_their_room_together(files, tmp_path, monkeypatch):
    """Three U-Nets in OpenVINO took 7.2 GB on 4096 x 4096 pixels where 3.0 GB were told: each kept its own."""
    pytest.importorskip("openvino")
    from sartransfer.engines import with_openvino
    from sartransfer.engines.kinds import ENGINES

    asked, rested = [], []
    call, release = with_openvino.OpenVinoPart.__call__, with_openvino.OpenVinoPart.release

    def counted(part, *inputs):
        # A network is asked when every other one has rested since it was asked last.
        assert all(other is part or rested.count(other) == asked.count(other) for other in asked)
        answer = call(part, *inputs)
        if inputs[0].shape[-1] > 256:  # a window, and no sample on which an engine is tried
            asked.append(part)
        return answer

    def noted(part):
        rested.extend([part] * (asked.count(part) - rested.count(part)))
        release(part)

    monkeypatch.setattr(with_openvino.OpenVinoPart, "__call__", counted)
    monkeypatch.setattr(with_openvino.OpenVinoPart, "release", noted)
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 128)
    monkeypatch.setattr("sartransfer.engines.choice.SIDE", 64)
    values = np.random.default_rng(5).normal(-10, 3, size=(1, 512, 512)).astype(np.float32)
    write_geotiff(tmp_path / "scene.tif", values, georeference=PLACE, descriptions=[BANDS[0].name])
    both = networks(files, 0, 2)
    predict_scene(both, tmp_path / "scene.tif", tmp_path / "fast.tif", engine="openvino")
    assert len(set(asked)) == 2
    assert len(asked) == 2 * 4  # windows of 256 px
    assert sorted(map(id, rested)) == sorted(map(id, asked))
    predict_scene(both, tmp_path / "scene.tif", tmp_path / "plain.tif")
    with rasterio.open(tmp_path / "fast.tif") as fast, rasterio.open(tmp_path / "plain.tif") as plain:
        assert (fast.read() == plain.read()).mean() > 0.999
    # What each further network holds is told.
    checkpoints = [read_checkpoint(path) for path in both]
    told = [plan_members(checkpoints, 512, 512, engine=engine)[1] for engine in ("openvino", "eager")]
    assert told[0] - told[1] >= 1.6 * ENGINES["openvino"].bytes


# --- the STAC item --------------------------------------------------------------------------------------------


def test_the_stac_item_says_what_the_map_is(files, tmp_path):
    pystac = pytest.importorskip("pystac")
    from pystac.extensions.classification import ClassificationExtension
    from pystac.extensions.projection import ProjectionExtension
    from pystac.extensions.raster import RasterExtension

    found = predict_scene(
        networks(files, 0, 1), files / f"{NAME}.tif", tmp_path / "map.tif", probabilities="uint8", entropy=True,
        spread=True, polygons=PolygonOptions(), stac=True,
    )  # fmt: skip
    item = pystac.Item.from_file(found.item)
    assert (item.id, item.datetime) == ("map", datetime(2021, 2, 3, 4, 5, 6, tzinfo=UTC))
    west, south, east, north = item.bbox
    assert 14.9 < west < 15.01 < east < 15.3
    assert 53.9 < south < 54.1 < north < 54.2
    assert item.geometry["type"] == "Polygon"
    place = ProjectionExtension.ext(item)
    assert (place.epsg, place.shape, place.transform[:6]) == (32633, [HEIGHT, WIDTH], list(PLACE.transform))
    assert set(item.assets) == {"classes", "probabilities", "entropy", "spread", "polygons"}
    for asset in item.assets.values():
        assert Path(asset.get_absolute_href()).exists()
    for name in ("classes", "probabilities", "entropy", "spread"):
        bands = RasterExtension.ext(item.assets[name]).bands
        with rasterio.open(item.assets[name].get_absolute_href()) as file:
            assert tuple(b.properties["name"] for b in bands) == file.descriptions
            assert tuple(str(b.data_type) for b in bands) == file.dtypes
            assert all(
                b.nodata == file.nodata or (b.nodata == "nan" and np.isnan(file.nodata)) for b in bands
            )
            assert [b.scale or 1.0 for b in bands] == pytest.approx(file.scales)
    classes = ClassificationExtension.ext(item.assets["classes"]).classes
    assert [(c.value, c.description) for c in classes] == [*enumerate(CLASSES), (255, "no value")]
    assert [c.color_hint for c in classes] == ["0072B2", "E69F00", "009E73", None]
    links = [link for link in item.links if link.rel == "derived_from"]
    assert [Path(link.get_absolute_href()).resolve() for link in links] == [(files / f"{NAME}.tif").resolve()]
    assert item.properties["sartransfer:checkpoints"] == ["network-0 epoch 3", "network-1 epoch 3"]
    pixels = sum(found.counts.values()) * 1600 / 1e6
    # The scale of UTM 33 about its central meridian: 0.9996, squared.
    assert sum(item.properties["sartransfer:area_km2"].values()) == pytest.approx(
        pixels / 0.9996**2, rel=1e-4
    )
    assert found.areas == {
        k: pytest.approx(v * 1e6) for k, v in item.properties["sartransfer:area_km2"].items()
    }
    text = found.item.read_text()
    assert str(tmp_path) not in text
    assert str(files) not in text


def test_a_scene_that_does_not_tell_its_time_needs_one(tmp_path, files):
    def scene(name, time=None):
        return Scene(name, (Band("x"),), 4, 4, ArraySource(np.zeros((1, 4, 4))), PLACE, time=time)

    given = datetime(2020, 1, 2, 3)
    assert scene_time(scene("a"), given) == given.replace(tzinfo=UTC)
    assert scene_time(scene("a", given)) == given.replace(tzinfo=UTC)
    assert scene_time(scene("x_20210203T040506_y")) == datetime(2021, 2, 3, 4, 5, 6, tzinfo=UTC)
    for name in ("a", "20219999T999999", "120210203T0405067"):
        with pytest.raises(InputError, match="Give it: --time"):
            scene_time(scene(name))
    middle, later = given + timedelta(minutes=5), given + timedelta(hours=2)
    for own in (scene("a", given), scene(f"x_{given:%Y%m%dT%H%M%S}")):
        assert scene_time(own, middle) == middle.replace(tzinfo=UTC)
        assert scene_time(own, later.replace(tzinfo=timezone(timedelta(hours=2)))) == given.replace(
            tzinfo=UTC
        )
        with pytest.raises(
            InputError, match=r"taken at 2020-01-02T03:00:00Z.* and not at 2020-01-02T05:00:00Z"
        ):
            scene_time(own, later)  # as of a list with one --time
    plain = tmp_path / "plain.tif"
    plain.write_bytes((files / f"{NAME}.tif").read_bytes())
    with pytest.raises(InputError, match="Give it: --time"):
        predict_scene(networks(files, 0), plain, tmp_path / "map.tif", stac=True)
    found = predict_scene(networks(files, 0), plain, tmp_path / "map.tif", stac=given)
    assert json.loads(found.item.read_text())["properties"]["datetime"] == "2020-01-02T03:00:00Z"


def area_of(geometry):
    shapely = pytest.importorskip("shapely")
    return shapely.geometry.shape(geometry).area


def test_outlines_across_the_antimeridian_and_around_a_pole():
    geometry, box = outline(GeoReference("EPSG:4326", (0.01, 0, 179.0, 0, -0.01, 72.0)), 100, 300)
    assert geometry["type"] == "MultiPolygon"
    assert box == pytest.approx([179.0, 71.0, -178.0, 72.0])
    assert area_of(geometry) == pytest.approx(3.0)
    geometry, box = outline(GeoReference("EPSG:3995", (4000.0, 0, -100000.0, 0, -4000.0, 2000000.0)), 50, 50)
    assert geometry["type"] == "MultiPolygon"
    assert box[0] > 170
    assert box[2] < -170
    geometry, box = outline(GeoReference("EPSG:3413", (1000.0, 0, -1e5, 0, -1000.0, 2e5)), 300, 300)
    assert (box[0], box[2], box[3]) == (-180, 180, 90)
    assert 87 < box[1] < 88.5
    geometry, box = outline(GeoReference("EPSG:3031", (1000.0, 0, -1e5, 0, -1000.0, 2e5)), 300, 300)
    assert (box[0], box[1], box[2]) == (-180, -90, 180)
    points = ((0, 0, 10.0, 60.0, 0), (0, 50, 10.5, 60.1, 0), (40, 0, 10.1, 59.6, 0), (40, 50, 10.6, 59.7, 0))
    geometry, box = outline(GeoReference("EPSG:4326", None, points), 40, 50)
    assert box == pytest.approx([10.0, 59.6, 10.6, 60.1])
    assert outline(GeoReference(), 4, 5) == (None, None)


# --- all of it, killed ----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from sartransfer import map_files, mapping, predict
from sartransfer.polygons import PolygonOptions
predict.ONE_PASS_PIXELS, predict.CORE = 1, 160
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
map_files.make_item = kill  # polygons are written by then
mapping.predict_scene(
    sys.argv[3:], sys.argv[1], sys.argv[2], probabilities="float16", spread=True,
    polygons=PolygonOptions(min_area=1e4, simplify=50.0), stac=True,
)
"""


def test_a_map_killed_among_its_polygons_is_the_same_to_the_byte(files, tmp_path, monkeypatch):
    pytest.importorskip("pyogrio")
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 160)
    words = networks(files, 0, 1), files / f"{NAME}.tif"
    options = {"probabilities": "float16", "spread": True, "stac": True}
    options["polygons"] = PolygonOptions(min_area=1e4, simplify=50.0)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    predict_scene(*words, tmp_path / "whole" / "map.tif", **options)
    target = tmp_path / "killed" / "map.tif"
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    run = subprocess.run(
        [sys.executable, "-c", head + KILLED, str(words[1]), str(target), *map(str, words[0])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == -9, run.stderr
    assert [p.name for p in target.parent.iterdir()] == [".map.tif.partial"]
    assert (target.parent / ".map.tif.partial" / "polygons.gpkg").exists()
    told = []
    predict_scene(*words, target, **options, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 4)]
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == [
        "map-probabilities.tif", "map-spread.tif", "map.gpkg", "map.stac.json", "map.tif", "map.tif.aux.xml"
    ]  # fmt: skip
    assert sorted(p.name for p in target.parent.iterdir()) == names
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (target.parent / name).read_bytes(), name


def test_a_stopped_map_goes_on_with_the_engine_that_it_began_with(files, tmp_path, monkeypatch):
    """What is fastest may be another engine the next time: then nothing that is done could be used."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 160)
    words = networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif"
    stop_after_one_window(monkeypatch, *words, engine="eager")
    first, second = (read_checkpoint(path) for path in networks(files, 0, 1))
    assert mapping._earlier_engines(words[2], [first]) == ["eager"]
    assert mapping._earlier_engines(words[2], [first, second]) == ["auto"]
    assert mapping._earlier_engines(words[2], [second]) == ["auto"]  # another network: it may not run there
    assert mapping._earlier_engines(tmp_path / "other.tif", [first]) == ["auto"]
    journal = tmp_path / ".map.tif.partial" / streaming.JOURNAL
    text = journal.read_text()
    journal.write_text(text.replace('"engines": ["eager"]', '"engines": ["int8"]'))
    assert mapping._earlier_engines(words[2], [first]) == ["auto"]  # "auto" never takes it
    journal.write_text(text)
    asked = []
    through = mapping.open_members
    monkeypatch.setattr(
        mapping, "open_members", lambda *a, **k: asked.append(k["engines"]) or through(*a, **k)
    )
    monkeypatch.setattr(members, "plan_scene", lambda *a, engine, **k: predict.plan_scene(*a, **k))
    told = []
    predict_scene(*words, engine="auto", progress=lambda done, total: told.append(done))
    assert asked == [["eager"]]
    assert told == [1, 2, 3, 4]
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.tags()["SARTRANSFER_ENGINE"] == "eager"


def test_a_stopped_map_begins_anew_with_another_version_of_its_engine(files, tmp_path, monkeypatch):
    """Half a map by one OpenVINO and half by the next would equal the map of neither."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 160)
    words = networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif"
    stop_after_one_window(monkeypatch, *words, engine="onnxruntime")
    assert streaming.earlier_task(words[2])["packages"] == {
        name: version(name) for name in ("onnx", "onnxruntime")
    }
    monkeypatch.setattr(kinds, "version", lambda package: "0.0.1")
    told = []
    predict_scene(*words, engine="onnxruntime", progress=lambda done, total: told.append(done))
    assert told[0] == 0


def test_what_stands_beside_is_replaced_only_on_request(files, tmp_path):
    words = networks(files, 0), files / f"{NAME}.tif", tmp_path / "map.tif"
    for name in ("map.tif.aux.xml", "map.gpkg", "map.stac.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match=f"{name} exists"):
            predict_scene(*words, polygons=PolygonOptions(), stac=True)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    nowhere = write_geotiff(
        tmp_path / "nowhere.tif", np.zeros((1, 9, 9), np.float32), descriptions=["sigma0_vv_db"]
    )
    with pytest.raises(InputError, match="areas are not known"):
        predict_scene(words[0], nowhere, words[2], polygons=PolygonOptions())
    assert [p.name for p in tmp_path.iterdir()] == ["nowhere.tif"]

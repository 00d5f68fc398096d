"""TerraSAR-X products of the real layout, written here without the reader; numbers worked out by hand."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, UnitError
from sartransfer.radar.incidence import incidence_angle
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_scene
from sartransfer.readers.terrasarx import is_terrasarx, open_terrasarx
from sartransfer.readers.terrasarx_annotation import read_terrasarx_annotation
from sartransfer.readers.xml import parse_xml, read_xml
from sartransfer.scene import Band, Window

NAME = "TSX1_SAR__MGD_SE___SM_S_SRA_20100202T050000_20100202T050008"
ROWS, COLUMNS = 5, 9
DN = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS) * 100
CORNERS = (  # row, column (from 1), latitude, longitude, incidence angle: near range on the left
    (1, 1, 48.2, 11.5, 33.0),
    (1, COLUMNS, 48.2, 11.7, 35.0),
    (ROWS, 1, 48.1, 11.5, 33.0),
    (ROWS, COLUMNS, 48.1, 11.7, 35.0),
)
CENTER = (3, 5, 48.15, 11.6, 34.0)


def point(tag, row, column, latitude, longitude, angle):
    refs = "" if row is None else f"<refRow>{row}</refRow><refColumn>{column}</refColumn>"
    return (
        f"<{tag}>{refs}<lat>{latitude}</lat><lon>{longitude}</lon>"
        f"<azimuthTimeUTC>2010-02-02T05:00:04.000000Z</azimuthTimeUTC><rangeTime>4.2E-03</rangeTime>"
        f"<incidenceAngle>{angle}</incidenceAngle></{tag}>"
    )


def annotation(
    layers, corners, center, *, variant="MGD", calibrated="CALIBRATED", shape=(ROWS, COLUMNS), head=""
):
    images = "".join(
        f'<imageData layerIndex="{i}"><polLayer>{pol}</polLayer><file><location><host>.</host><path>{folder}</path>'
        f"<filename>{file}</filename></location><size>1234</size></file></imageData>"
        for i, (pol, folder, file, _) in enumerate(layers, start=1)
    )
    constants = "".join(
        f'<calibrationConstant layerIndex="{i}"><DRAoffset>SRA</DRAoffset><polLayer>{pol}</polLayer>'
        f"<beamID>strip_005</beamID><calFactor>{factor}</calFactor></calibrationConstant>"
        for i, (pol, _, _, factor) in enumerate(layers, start=1)
        if factor is not None
    )
    pols = "".join(f"<polLayer>{layer[0]}</polLayer>" for layer in layers)
    places = "".join(point("sceneCornerCoord", *c) for c in corners)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
{head}<level1Product xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="l1.xsd">
  <generalHeader fileName="{NAME}.xml"><mission>TSX</mission></generalHeader>
  <productComponents>
    <annotation><type>GEOREF</type><file><location><path>ANNOTATION</path></location></file></annotation>
    {images}
  </productComponents>
  <productInfo>
    <missionInfo><mission>TSX-1</mission><absOrbit>14542</absOrbit><orbitDirection>DESCENDING</orbitDirection></missionInfo>
    <acquisitionInfo><sensor>SAR</sensor><imagingMode>SM</imagingMode><lookDirection>RIGHT</lookDirection>
      <polarisationMode>SINGLE</polarisationMode><polarisationList>{pols}</polarisationList></acquisitionInfo>
    <productVariantInfo><productType>{variant}_SE__SM_S</productType><productVariant>{variant}</productVariant>
      <projection>GROUNDRANGE</projection><radiometricCorrection>{calibrated}</radiometricCorrection>
    </productVariantInfo>
    <imageDataInfo><imageDataType>DETECTED</imageDataType><imageDataFormat>GEOTIFF</imageDataFormat>
      <imageRaster><numberOfRows>{shape[0]}</numberOfRows><numberOfColumns>{shape[1]}</numberOfColumns>
      </imageRaster></imageDataInfo>
    <sceneInfo><sceneID>C14</sceneID><start><timeUTC>2010-02-02T05:00:00.125000Z</timeUTC></start>
      {point("sceneCenterCoord", *center)}{places}</sceneInfo>
  </productInfo>
  <calibration>{constants}</calibration>
</level1Product>
"""


def make_product(
    root, images=None, *, name=NAME, corners=CORNERS, center=CENTER, folder="IMAGEDATA", place=None, factor="1.0E-05",
    **more,
):  # fmt: skip
    """A product folder with everything the real one has that matters here; `images`: polarization -> array."""
    images = {"HH": DN} if images is None else images
    base = root / name
    for part in ("IMAGEDATA", "ANNOTATION", "PREVIEW", "SUPPORT"):
        (base / part).mkdir(parents=True)
    (base / "ANNOTATION" / "GEOREF.xml").write_text("<geoReference/>")
    layers = []
    for pol, array in images.items():
        file = f"IMAGE_{pol}_SRA_strip_005.tif"
        profile = {
            "driver": "GTiff",
            "dtype": "uint16",
            "count": 1,
            "height": array.shape[0],
            "width": array.shape[1],
        }
        with rasterio.open(base / "IMAGEDATA" / file, "w", **profile, **(place or {})) as out:
            out.write(array, 1)
        layers.append((pol, folder, file, factor))
    shape = more.pop("shape", next(iter(images.values())).shape)
    (base / f"{name}.xml").write_text(annotation(layers, corners, center, shape=shape, **more))
    return base


@pytest.fixture(autouse=True)
def _plain_tiffs():
    """The generator's own images have no coordinates, as MGD images often do; rasterio would warn."""
    import warnings

    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def test_the_annotation_is_read_as_written(tmp_path):
    folder = make_product(tmp_path)
    product = read_terrasarx_annotation(folder)
    assert read_terrasarx_annotation(folder / f"{NAME}.xml") == product
    assert (product.product_type, product.mission, product.orbit_direction) == ("MGD", "TSX-1", "DESCENDING")
    assert (product.look_direction, product.rows, product.columns) == ("RIGHT", ROWS, COLUMNS)
    assert product.start == datetime(2010, 2, 2, 5, 0, 0, 125000, tzinfo=UTC)
    (layer,) = product.layers
    assert (layer.polarization, layer.calibration_factor) == ("HH", 1e-5)
    assert layer.path == folder / "IMAGEDATA/IMAGE_HH_SRA_strip_005.tif"
    assert [(c.row, c.column) for c in product.corners] == [(0, 0), (0, 8), (4, 0), (4, 8)]
    assert (product.center.row, product.center.incidence_angle_deg) == (2, 34.0)


def test_bands_time_and_place(tmp_path):
    folder = make_product(tmp_path)
    assert is_terrasarx(folder)
    assert not is_terrasarx(tmp_path)
    for path in (folder, folder / f"{NAME}.xml"):
        scene = open_scene(path)
        assert [(b.name, str(b.unit), b.polarization) for b in scene.bands] == [
            ("amplitude_hh", "amplitude", "HH"),
            ("sigma0_hh", "sigma0", "HH"),
            ("incidence_angle_deg", "incidence_angle_deg", None),
        ]
        assert (scene.height, scene.width, scene.platform) == (ROWS, COLUMNS, "TSX-1")
        assert scene.time == datetime(2010, 2, 2, 5, 0, 0, 125000, tzinfo=UTC)
        assert scene.georeference.crs == "EPSG:4326"
        assert scene.georeference.gcps[0] == (0.5, 0.5, 11.5, 48.2, 0.0)


def test_sigma0_by_hand(tmp_path):
    """DN 400 at column 4: the angle is 34 degrees, sigma0 = 1e-5 * 400^2 * sin 34 = 1.6 * 0.559193 = 0.894709."""
    scene = open_scene(make_product(tmp_path))
    data, valid = scene.read(["sigma0_hh"])
    assert data[0, 0, 4] == pytest.approx(0.894709, abs=1e-6)
    assert data[0, 4, 0] == pytest.approx(1e-5 * 3600**2 * 0.5446390, rel=1e-6)  # sin 33
    assert data[0, 4, 8] == pytest.approx(1e-5 * 4400**2 * 0.5735764, rel=1e-6)  # sin 35
    assert data[0, 2, 2] == pytest.approx(1e-5 * 2000**2 * math.sin(math.radians(33.5)), rel=1e-6)
    decibels = scene.read(["sigma0_hh"], units="sigma0_db").data
    assert decibels[0, 0, 4] == pytest.approx(10 * math.log10(0.894709), abs=1e-4)
    np.testing.assert_array_equal(valid, DN > 0)  # where DN is 0 nothing was imaged
    np.testing.assert_array_equal(scene.read(["amplitude_hh"]).data[0][DN > 0], DN[DN > 0])
    angles = scene.read(["incidence_angle_deg"])
    np.testing.assert_allclose(angles.data[0], np.broadcast_to(np.linspace(33, 35, 9), (5, 9)), rtol=1e-6)
    assert angles.valid.all()


def test_windows_are_parts_of_the_whole(tmp_path):
    scene = open_scene(make_product(tmp_path))
    whole = scene.read()
    for window in (Window(1, 2, 3, 4), Window(4, 8, 1, 1), Window(0, 0, 5, 1)):
        part = scene.read(window=window)
        rows, cols = window.slices
        np.testing.assert_array_equal(part.data, whole.data[:, rows, cols])
        np.testing.assert_array_equal(part.valid, whole.valid[rows, cols])


def test_the_centre_bends_the_angle_along_range(tmp_path):
    """A centre of 34.2 instead of 34: +0.2 at mid range, 4 * 0.2 * 1/4 * 3/4 = +0.15 at a quarter, 0 at the ends."""
    scene = open_scene(make_product(tmp_path, center=(*CENTER[:4], 34.2)))
    angles = scene.read(["incidence_angle_deg"]).data[0]
    np.testing.assert_allclose(angles[0, [0, 2, 4, 6, 8]], [33.0, 33.65, 34.2, 34.65, 35.0], atol=1e-5)
    np.testing.assert_allclose(angles[3], angles[0], atol=1e-5)


def test_bilinear_between_four_different_corners():
    """A quarter down and half across: (30 + 38)/2 * 3/4 + (32 + 44)/2 * 1/4 = 25.5 + 9.5 = 35; any order of corners."""
    corners = [(0, 0, 30.0), (0, 10, 38.0), (20, 0, 32.0), (20, 10, 44.0)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        angle = incidence_angle([corners[i] for i in order])
        assert float(angle(5, 5)) == pytest.approx(35.0)
        assert [float(angle(r, c)) for r, c, _ in corners] == pytest.approx([30, 38, 32, 44])
    assert angle(np.zeros((4, 1)), np.zeros((1, 6))).shape == (4, 6)
    off = incidence_angle(corners, (1.0, 1.0, 80.0))  # no centre at all
    assert float(off(5, 5)) == pytest.approx(35.0)
    for bad in (corners[:3], [(0, 0, 30), (1, 1, 31), (2, 2, 32), (3, 3, 33)], [*corners[:3], corners[0]]):
        with pytest.raises(InputError, match=r"corners|area"):
            incidence_angle(bad)


def test_geocoded_products_find_their_corners_by_coordinates(tmp_path):
    """A footprint that is turned in the map: what refRow says there is not believed, latitude and longitude are."""
    to_map = rasterio.Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5340000.0)
    turned = {(2.0, 12.0): 30.0, (12.0, 30.0): 30.0, (32.0, 20.0): 40.0, (22.0, 2.0): 40.0}  # a parallelogram
    corners = []
    for (row, column), angle in turned.items():
        x, y = 500000.0 + 10 * (column + 0.5), 5340000.0 - 10 * (row + 0.5)
        (lon,), (lat,) = transform("EPSG:32632", "EPSG:4326", [x], [y])
        corners.append((1, 1, lat, lon, angle))
    (lon,), (lat,) = transform("EPSG:32632", "EPSG:4326", [500165.0], [5339825.0])  # row 17, column 16
    image = np.full((40, 40), 100, dtype=np.uint16)
    name = NAME.replace("MGD", "EEC")
    folder = make_product(
        tmp_path, {"VV": image}, name=name, variant="EEC", corners=corners, center=(1, 1, lat, lon, 35.0),
        place={"crs": "EPSG:32632", "transform": to_map},
    )  # fmt: skip
    scene = open_scene(folder)
    assert scene.georeference.transform == tuple(to_map)[:6]
    angles = scene.read(["incidence_angle_deg"]).data[0]
    for (row, column), angle in turned.items():
        assert angles[int(row), int(column)] == pytest.approx(angle, abs=1e-3)
    assert angles[17, 16] == pytest.approx(35.0, abs=1e-3)
    assert angles[12, 7] == pytest.approx(35.0, abs=1e-3)  # half way along the side from (2, 12) to (22, 2)
    sigma0 = scene.read(["sigma0_vv"]).data[0]
    assert sigma0[17, 16] == pytest.approx(1e-5 * 100**2 * math.sin(math.radians(35)), rel=1e-4)


def test_two_polarizations(tmp_path):
    folder = make_product(tmp_path, {"HH": DN, "VV": DN + np.uint16(7)})
    scene = open_scene(folder)
    assert scene.names == ("amplitude_hh", "sigma0_hh", "amplitude_vv", "sigma0_vv", "incidence_angle_deg")
    data, valid = scene.read(["amplitude_vv", "amplitude_hh"])
    np.testing.assert_array_equal(data[:, valid], np.stack([DN + 7, DN])[:, DN > 0])
    np.testing.assert_array_equal(scene.read(["amplitude_vv"]).valid, np.ones_like(DN, dtype=bool))
    chosen = open_scene(folder, bands=[Band("sigma0_vv", parse_unit("sigma0")), Band("amplitude_hh")])
    assert chosen.names == ("sigma0_vv", "amplitude_hh")
    np.testing.assert_array_equal(chosen.read().data, scene.read(["sigma0_vv", "amplitude_hh"]).data)
    with pytest.raises(InputError, match="Did you mean 'sigma0_hh'"):
        open_scene(folder, bands=[Band("sigma0_h")])
    with pytest.raises(UnitError, match="is sigma0, not sigma0_db"):
        open_scene(folder, bands=[Band("sigma0_hh", parse_unit("sigma0_db"))])


def test_what_is_not_calibrated_has_no_sigma0(tmp_path):
    scene = open_scene(make_product(tmp_path, calibrated="NOTCALIBRATED", factor=None))
    assert scene.names == ("amplitude_hh", "incidence_angle_deg")


def test_a_network_may_be_fed_log2_amplitudes(tmp_path):
    image = np.array([[1, 3, 7], [15, 31, 65535]], dtype=np.uint16)
    places = [(1, 1), (1, 3), (2, 1), (2, 3)]
    corners = [(*new, *old[2:]) for new, old in zip(places, CORNERS, strict=True)]
    scene = open_scene(
        make_product(tmp_path, {"HH": image}, corners=corners, center=(1.5, 2, 48.15, 11.6, 34.0))
    )
    contract = InputContract((InputBand("amplitude_hh", "amplitude_log2", "HH", mean=0.5, std=0.25),))
    np.testing.assert_allclose(
        contract.read(scene).data[0], (np.array([[1, 2, 3], [4, 5, 16]]) / 16 - 0.5) / 0.25
    )


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ("<productVariant>MGD", "<productVariant>SSC", r"'SSC' is not known.*Complex products"),
        ("1.0E-05", "none", "calFactor is 'none'"),
        ("1.0E-05", "0", "calFactor 0.0 cannot be"),
        (
            "<polLayer>HH</polLayer><beamID>",
            "<polLayer>VV</polLayer><beamID>",
            "0 calibration factors for HH",
        ),
        ("<polLayer>HH</polLayer><file>", "<polLayer>H</polLayer><file>", "polLayer='H' is not known"),
        ("<incidenceAngle>34.0", "<incidenceAngle>134.0", "incidence angle of 134.0 degrees cannot be"),
        ("sceneCornerCoord", "sceneCorner", "gives 0 corners"),
        ("sceneCenterCoord", "sceneCentre", "does not say productInfo/sceneInfo/sceneCenterCoord"),
        ("numberOfRows", "rows", "does not say productInfo/imageDataInfo/imageRaster/numberOfRows"),
        ("2010-02-02T05:00:00.125000Z", "yesterday", "start time 'yesterday'"),
        ("level1Product", "level2Product", "no TerraSAR-X annotation: its root is level2Product"),
        ("<refRow>1<", "<refRow>5<", "enclose an area"),
        ("<numberOfColumns>9", "<numberOfColumns>8", r"5 x 9 pixels, one of 5 x 8 as its annotation says"),
        ("</level1Product>", "", "cannot be read as XML"),
        ("IMAGE_HH_SRA_strip_005", "IMAGE_HH_SRA_strip_006", "is not there"),
    ],
)
def test_annotations_that_do_not_hold_together_are_refused(tmp_path, pattern, replacement, message):
    folder = make_product(tmp_path)
    path = folder / f"{NAME}.xml"
    text = path.read_text()
    assert pattern in text
    path.write_text(text.replace(pattern, replacement))
    with pytest.raises(InputError, match=message):
        open_terrasarx(path)


def test_a_folder_without_or_with_two_annotations(tmp_path):
    folder = make_product(tmp_path)
    renamed = folder.rename(tmp_path / "renamed")
    assert open_scene(renamed).id == NAME  # the one annotation within
    (renamed / "other.xml").write_text((renamed / f"{NAME}.xml").read_text())
    with pytest.raises(InputError, match="holds 2 annotations"):
        open_terrasarx(renamed)
    with pytest.raises(InputError, match="no reader is known for this folder"):
        open_scene(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_terrasarx_annotation(tmp_path / "none.xml")


@pytest.mark.parametrize("folder", ["../..", "IMAGEDATA/../..", "absolute", "link"])
def test_no_image_outside_the_product_is_opened(tmp_path, folder):
    (tmp_path / "elsewhere").mkdir()
    product = make_product(tmp_path / "elsewhere" / "deep")
    outside = tmp_path / "elsewhere" / "IMAGE_HH_SRA_strip_005.tif"
    (product / "IMAGEDATA/IMAGE_HH_SRA_strip_005.tif").replace(outside)
    if folder == "link":
        (product / "link").symlink_to(tmp_path / "elsewhere")
    path = product / f"{NAME}.xml"
    named = str(outside.parent) if folder == "absolute" else folder
    path.write_text(path.read_text().replace("<path>IMAGEDATA</path>", f"<path>{named}</path>"))
    with pytest.raises(InputError, match=r"is not in the product's folder: refused"):
        open_terrasarx(product)


BOMB = """<!DOCTYPE level1Product [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;">]>
"""
OUTSIDE = '<!DOCTYPE level1Product [<!ENTITY a SYSTEM "%s">]>\n'


@pytest.mark.parametrize("head", [BOMB, OUTSIDE, '<!DOCTYPE level1Product SYSTEM "other.dtd">\n'])
def test_entities_are_refused_before_anything_is_expanded(tmp_path, head):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = make_product(tmp_path, head=head % secret if "%s" in head else head)
    with pytest.raises(InputError, match="declares a document type or entities, which are refused"):
        open_terrasarx(folder)


def test_xml_is_the_tree_that_elementtree_reads():
    from xml.etree import ElementTree

    text = (
        b'<a xmlns="urn:one" xmlns:x="urn:two" x:k="1" k="2">t&amp;&#228;<x:b/>u<c><![CDATA[<d>]]></c>v</a>'
    )
    mine, peer = parse_xml(text, "text"), ElementTree.fromstring(text)
    assert ElementTree.tostring(mine) == ElementTree.tostring(peer)
    assert mine.tag == "{urn:one}a"
    assert mine.attrib == {"{urn:two}k": "1", "k": "2"}


@pytest.mark.parametrize(
    "data", [b"", b"<a>", b"<a></b>", b"\xff\xfe<a/>", b"<a/><b/>", b"a,b,c", b"<a>&x;</a>"]
)
def test_what_is_no_xml_is_refused(tmp_path, data):
    (tmp_path / "a.xml").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.xml cannot be read as XML"):
        read_xml(tmp_path / "a.xml")


def test_xml_of_absurd_depth_or_size_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nested over 100 levels"):
        parse_xml(b"<a>" * 101 + b"</a>" * 101, "deep")
    parse_xml(b"<a>" * 100 + b"</a>" * 100, "deep enough")
    monkeypatch.setattr("sartransfer.readers.xml.MOST_BYTES", 1 << 20)
    (tmp_path / "big.xml").write_bytes(b"<a>" + b" " * (1 << 20) + b"</a>")
    with pytest.raises(InputError, match="has over 1 MB"):
        read_xml(tmp_path / "big.xml")

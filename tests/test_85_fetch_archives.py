"""GRD products downloaded, calibrated and mapped, and Earth Engine by its REST interface: both on loopback.

Earth Engine's exchange is constructed, not recorded from an account: the discovery document and the list of algorithms
are those that Google ships with earthengine-api for its own tests, the answers have the form of the REST reference
(value:compute, image:computePixels), and what is asked is read back from the expression graph.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from shapely.geometry import box, mapping
from small_safe import Swath, make_product, write_product
from small_stac import Quiet, SearchServer, Server, StaticServer

from sartransfer import open_scene
from sartransfer.errors import FetchError
from sartransfer.fetch import FloodRequest, fetch_flood, open_archive, parse_box, parse_period, plan_flood
from sartransfer.fetch import earth_engine as ee_module
from sartransfer.fetch import grd as grd_module
from sartransfer.fetch.grd import ProductArchive, download
from sartransfer.fetch.stac import Endpoint
from sartransfer.prepare import prepare_sentinel1

pytestmark = [
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BEFORE, AFTER = parse_period("2024-10-07/2024-10-28"), parse_period("2024-10-30/2024-11-11")
GRD = "sentinel-1-grd"


@pytest.fixture
def files(tmp_path):
    with StaticServer(tmp_path / "archive") as server:
        yield server


def grd_item(files, day, seed, name):
    """A product of 0.6 x 0.8 km and its item, as stactools makes it for the Planetary Computer."""
    swath = Swath(spacing=10.0, latitude=39.3, longitude=-0.4, heading=192.0)
    made = make_product(np.random.default_rng(seed), 60, 80, ("VV", "VH"), mode="IW", swath=swath)
    quiet = replace(made, range_noise=lambda line: (np.array([0, 79]), np.array([40.0, 40.0])))
    folder = write_product(files.folder / "GRD" / name, quiet, flat=True)
    corners = [
        tuple(float(v) for v in swath(r, c))[::-1] for r, c in ((0, 0), (0, 79), (59, 79), (59, 0), (0, 0))
    ]
    assets = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            inner = path.relative_to(folder).as_posix()
            kind = "schema-" + "-".join(inner.split("/")[1:-1]) if inner.endswith("xml") else "data"
            assets[f"{kind}-{path.stem}"] = {
                "href": f"{files.url}/{path.relative_to(files.folder).as_posix()}?sig=secret", "roles": ["data"],
            }  # fmt: skip
    return folder, {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": GRD,
        "stac_extensions": ["https://stac-extensions.github.io/sat/v1.0.0/schema.json"],
        "geometry": {"type": "Polygon", "coordinates": [corners]}, "bbox": [-0.5, 39.2, -0.3, 39.4],
        "properties": {
            "datetime": f"2024-{day}T06:12:54.653288Z", "platform": "SENTINEL-1A", "sar:instrument_mode": "IW",
            "sar:polarizations": ["VV", "VH"], "sat:orbit_state": "descending", "sat:relative_orbit": 8,
            "s1:shape": [60, 80],
        },
        "assets": assets, "links": [],
    }  # fmt: skip


@pytest.fixture
def products(files):
    return {
        "before": grd_item(files, "10-19", 1, "S1A_IW_GRDH_1SDV_20241019T061254_056169_06DFB8"),
        "after": grd_item(files, "10-31", 2, "S1A_IW_GRDH_1SDV_20241031T061254_056344_06E6A5"),
    }


def middle(item):
    """A quarter of a footprint, about its middle."""
    from shapely.geometry import shape

    place = shape(item["geometry"])
    x, y = place.centroid.coords[0]
    west, south, east, north = place.bounds
    dx, dy = (east - west) / 8, (north - south) / 8
    return parse_box(f"{x - dx},{y - dy},{x + dx},{y + dy}")


def test_products_become_sigma0_as_prepare_sentinel1_makes_it(files, products, tmp_path):
    folder, item = products["after"]
    with SearchServer([i for _, i in products.values()]) as server:
        archive = open_archive(endpoint=server.url, collection=GRD)
        request = FloodRequest(middle(item), BEFORE, AFTER)
        plan = plan_flood(request, archive)
        assert plan.bytes_to_load == 2 * 60 * 80 * 2 * 2
        made = fetch_flood(plan, tmp_path / "out")
    scene = open_scene(made.after)
    assert [str(b.unit) for b in scene.bands] == ["sigma0", "sigma0"]
    own = prepare_sentinel1(folder, tmp_path / "own.tif", decibel=False, multilook=1, crs=plan.grid.crs,
                            pixel_size=10.0)  # fmt: skip
    with rasterio.open(own.path) as file:
        whole, names, moved = file.read(), file.descriptions, file.transform
    col, row = round((plan.grid.left - moved.c) / 10), round((moved.f - plan.grid.top) / 10)
    rows, cols = slice(row, row + plan.grid.height), slice(col, col + plan.grid.width)
    expected = np.stack([whole[names.index(f"sigma0_{p}")][rows, cols] for p in ("vv", "vh")])
    np.testing.assert_allclose(scene.read().data, expected, rtol=1e-5)
    assert json.loads((tmp_path / "out/provenance.json").read_text())["archive"]["kind"] == "stac, products"
    assert "secret" not in (tmp_path / "out/provenance.json").read_text()
    assert not any("rfi" in name or "kml" in name for _, name, _ in files.asked)


def test_a_download_goes_on_where_it_stopped(files, tmp_path):
    data = np.random.default_rng(0).bytes(1_000_000)
    (files.folder / "a.bin").parent.mkdir(parents=True)
    (files.folder / "a.bin").write_bytes(data)
    files.cut = {"a.bin"}
    with pytest.raises(FetchError, match=r"a\.bin (could not be loaded|stopped at)"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin")
    kept = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < kept < 1_000_000
    download(f"{files.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data
    assert files.asked[-1] == ("GET", "a.bin", f"bytes={kept}-")
    assert not (tmp_path / "a.bin.part").exists()


def test_a_download_that_cannot_be_is_told_without_its_signature(files, tmp_path, monkeypatch):
    with pytest.raises(FetchError, match="404") as told:
        download(f"{files.url}/none.bin?sig=secret", tmp_path / "a")
    assert "secret" not in str(told.value)
    for href in ("s3://eodata/a.tiff", "a.tiff", "/etc/hostname"):
        with pytest.raises(FetchError, match="not on http or https"):
            download(href, tmp_path / "a")


def test_a_product_that_lacks_files_or_leads_elsewhere_is_refused(files, products, tmp_path):
    item = products["after"][1]
    for name in [n for n in item["assets"] if "calibration" in n]:
        del item["assets"][name]
    item["id"] = products["before"][1]["id"] + "/../../x"
    with SearchServer([i for _, i in products.values()]) as server:
        archive = ProductArchive(Endpoint(server.url, GRD, "amplitude"))
        plan = plan_flood(FloodRequest(middle(item), BEFORE, AFTER), archive)
        with pytest.raises(FetchError, match=r"has no assets for annotation/calibration/"):
            fetch_flood(plan, tmp_path / "out")
    assert not (tmp_path / "x").exists()


def test_an_alternate_address_is_taken_where_the_first_needs_keys(files, products):
    import pystac

    item = products["after"][1]
    for asset in item["assets"].values():
        asset["alternate"] = {"https": {"href": asset["href"].replace("http://", "https://")}}
        asset["href"] = "s3://eodata/" + urlsplit(asset["href"]).path
    found = dict(grd_module.product_files(pystac.Item.from_dict(item)))
    assert len(found) == 9  # the manifest, and four files of either polarization
    assert all(remote.href.startswith("https://") for remote in found.values())


class Engine(Server):
    """The REST interface of Earth Engine for one collection: `images` are what it holds."""

    def __init__(self, images):
        import ee

        self.images, self.asked, self.fail = images, [], None
        self.tests = Path(ee.__file__).parent / "tests"
        super().__init__(Answers)


class Answers(Quiet):
    """GET of discovery and algorithms, POST of expressions."""

    def do_GET(self):  # noqa: N802
        """Answer what the client asks when it starts."""
        here, path = self.server.owner, urlsplit(self.path).path
        if "discovery" in path:
            document = json.loads((here.tests / "cloud_api_discovery_document.json").read_text())
            return self.answer(200, json.dumps(document | {"rootUrl": here.url + "/"}).encode())
        if path.endswith("/algorithms"):
            return self.answer(200, (here.tests / "algorithms.json").read_bytes())
        return self.answer(404, b"{}")

    def do_POST(self):  # noqa: N802
        """Answer value:compute and image:computePixels."""
        here, path = self.server.owner, urlsplit(self.path).path
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        here.asked.append((path, body))
        if here.fail:
            error = {"error": {"code": 403, "message": here.fail, "status": "PERMISSION_DENIED"}}
            return self.answer(403, json.dumps(error).encode())
        if path.endswith("value:compute"):
            calls = functions(body["expression"])
            first, last = (int(calls["DateRange"][k]) for k in ("start", "end"))
            inside = [i for i in here.images if first <= i["properties"]["system:time_start"] < last]
            result = {"type": "ImageCollection", "bands": [], "id": ee_module.COLLECTION, "features": inside}
            return self.answer(200, json.dumps({"result": result}).encode())
        out = io.BytesIO()
        np.save(
            out, pixels_of(functions(body["expression"])["Image.load"]["id"], body["grid"], body["bandIds"])
        )
        return self.answer(200, out.getvalue(), "application/octet-stream")


def functions(expression):
    """The calls of an expression graph by name, with their constant arguments."""
    values, found = expression["values"], {}

    def value(node):
        if "valueReference" in node:
            return value(values[node["valueReference"]])
        if "constantValue" in node:
            return node["constantValue"]
        if "arrayValue" in node:
            return [value(v) for v in node["arrayValue"]["values"]]
        if "functionInvocationValue" in node:
            call = node["functionInvocationValue"]
            arguments = {k: value(v) for k, v in call.get("arguments", {}).items()}
            found[call["functionName"]] = arguments
            return call["functionName"]
        return node

    value(values[expression["result"]])
    return found


def pixels_of(image, grid, bands):
    """Pixels that say where they are: x for VV, y for VH, plus the image's day; masked west of a line."""
    place, size = grid["affineTransform"], grid["dimensions"]
    x = place["translateX"] + place["scaleX"] * (np.arange(size["width"]) + 0.5)
    y = place["translateY"] + place["scaleY"] * (np.arange(size["height"]) + 0.5)
    day = int(image.rsplit("/", 1)[1].split("_")[4][6:8])
    out = np.zeros((size["height"], size["width"]), dtype=[(b, "<f8") for b in bands])
    for band in bands:
        out[band] = day + (x[None] if band == "VV" else y[:, None]) / 1e7
    return out


def ee_image(day, orbit=8, mode="IW"):
    """An image as getInfo describes it."""
    from datetime import UTC, datetime

    moment = datetime(2024, *(int(v) for v in day.split("-")), 6, 12, 54, tzinfo=UTC)
    name = f"S1A_{mode}_GRDH_1SDV_{moment:%Y%m%dT%H%M%S}_20241031T061319_056344_06E6A5_94A5"
    ring = [list(p) for p in mapping(box(-1, 39, 0.5, 40))["coordinates"][0]]
    return {
        "type": "Image", "id": f"{ee_module.COLLECTION}/{name}", "bands": [], "version": 1,
        "properties": {
            "system:index": name, "system:time_start": int(moment.timestamp() * 1000), "instrumentMode": mode,
            "orbitProperties_pass": "DESCENDING", "relativeOrbitNumber_start": orbit, "platform_number": "A",
            "transmitterReceiverPolarisation": ["VV", "VH"],
            "system:footprint": {"type": "LinearRing", "coordinates": ring},
        },
    }  # fmt: skip


@pytest.fixture
def engine(monkeypatch):
    import ee
    from google.auth.credentials import AnonymousCredentials

    ee.Reset()
    monkeypatch.setattr(
        ee.deprecation, "_FetchDataCatalogStac", dict
    )  # which assets are old: from the network
    with Engine([ee_image("10-07"), ee_image("10-19"), ee_image("10-31"), ee_image("11-05", 30)]) as server:
        server.archive = ee_module.EarthEngineArchive("a-project", server.url, AnonymousCredentials())
        yield server
    ee.Reset()


AREA = parse_box("-0.41,39.30,-0.40,39.31")


def test_earth_engine_is_asked_for_linear_power_of_one_orbit(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(ee_module, "TILE", 64)
    plan = plan_flood(FloodRequest(AREA, BEFORE, AFTER), engine.archive)
    assert [f.time.day for f in (*plan.frames("before"), *plan.frames("after"))] == [19, 31]
    asked = functions(engine.asked[0][1]["expression"])
    assert asked["ImageCollection.load"]["id"] == "COPERNICUS/S1_GRD_FLOAT"
    assert asked["Filter.equals"] == {"leftField": "instrumentMode", "rightValue": "IW"}
    assert asked["Filter.intersects"]["leftField"] == ".all"
    assert asked["DateRange"] == {
        "start": 1728259200000,
        "end": 1730160000000,
    }  # 7 Oct 2024 to before 29 Oct, UTC
    made = fetch_flood(plan, tmp_path / "out")
    scene = open_scene(made.after)
    assert [str(b.unit) for b in scene.bands] == ["sigma0", "sigma0"]
    x = plan.grid.left + 10 * (np.arange(plan.grid.width) + 0.5)
    y = plan.grid.top - 10 * (np.arange(plan.grid.height) + 0.5)
    data, _ = scene.read()
    np.testing.assert_allclose(data[0], np.broadcast_to(31 + x / 1e7, data[0].shape), rtol=1e-6)
    np.testing.assert_allclose(data[1], np.broadcast_to((31 + y / 1e7)[:, None], data[1].shape), rtol=1e-6)
    pixels = [b for p, b in engine.asked if p.endswith("computePixels")]
    assert len(pixels) == 2 * -(-plan.grid.height // 64) * -(-plan.grid.width // 64)
    assert all(p["fileFormat"] == "NPY" and p["grid"]["crsCode"] == "EPSG:32630" for p in pixels)
    calls = functions(pixels[0]["expression"])
    assert calls["Image.resample"]["mode"] == "bilinear"
    assert calls["Image.constant"]["value"] == ee_module.NODATA
    assert calls["Image.unmask"]["sameFootprint"] is False
    assert calls["Image.unmask"]["input"] == "Image.resample"  # else -1 would be mixed into the edges


def test_masked_pixels_of_earth_engine_have_no_value(engine, tmp_path, monkeypatch):
    real = pixels_of

    def masked(image, grid, bands):
        out = real(image, grid, bands)
        for band in bands:
            out[band][:, :9] = ee_module.NODATA
        return out

    monkeypatch.setitem(globals(), "pixels_of", masked)
    plan = plan_flood(FloodRequest(AREA, BEFORE, AFTER, min_coverage=0.5), engine.archive)
    made = fetch_flood(plan, tmp_path / "out")
    data, valid = open_scene(made.before).read()
    assert not valid[:, :9].any()
    assert valid[:, 9:].all()
    assert np.isnan(data[:, :, :9]).all()


def test_refusals_of_earth_engine_say_what_to_do(engine):
    engine.fail = "Earth Engine API has not been used in project 1 before or it is disabled."
    with pytest.raises(
        FetchError, match=r"Earth Engine refuses: .*disabled.*earthengine authenticate.*--project"
    ):
        plan_flood(FloodRequest(AREA, BEFORE, AFTER), engine.archive)
    engine.fail = None
    del engine.images[0]["properties"]["relativeOrbitNumber_start"]
    with pytest.raises(FetchError, match="without 'relativeOrbitNumber_start'"):
        plan_flood(FloodRequest(AREA, BEFORE, AFTER), engine.archive)


def test_earth_engine_without_an_account_is_told(monkeypatch, tmp_path):
    import ee

    ee.Reset()

    def none():
        raise ee.EEException("Please authorize access to your Earth Engine account")

    monkeypatch.setattr(ee.data, "get_persistent_credentials", none)
    archive = open_archive("earth-engine", project="a-project")
    with pytest.raises(FetchError, match="authorize access"):
        archive.search(AREA, BEFORE)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ee", None)
    with pytest.raises(FetchError, match=r"earthengine-api is not installed.*sartransfer\[earth-engine\]"):
        open_archive("earth-engine").search(AREA, BEFORE)
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    with pytest.raises(FetchError, match=r"pystac-client is not installed.*sartransfer\[fetch\]"):
        open_archive("copernicus").search(AREA, BEFORE)
    monkeypatch.setitem(sys.modules, "planetary_computer", None)
    from sartransfer.fetch.stac import signed

    with pytest.raises(FetchError, match="planetary-computer is not installed"):
        signed(None)


def test_the_planetary_computer_s_signature_is_asked_for_when_pixels_are_loaded(
    files, products, tmp_path, monkeypatch
):
    import planetary_computer

    signed = []
    monkeypatch.setattr(planetary_computer, "sign", lambda item: signed.append(item.id) or item)
    with SearchServer([i for _, i in products.values()]) as server:
        archive = ProductArchive(Endpoint(server.url, GRD, "amplitude", sign=True))
        plan = plan_flood(FloodRequest(middle(products["after"][1]), BEFORE, AFTER), archive)
        assert not signed
        fetch_flood(plan, tmp_path / "out")
    assert sorted(signed) == sorted(i["id"] for _, i in products.values())

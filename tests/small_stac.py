"""A small STAC API and the files behind it on loopback, with items of the form that real archives have.

`StaticServer` serves files with byte ranges, as object stores do. `SearchServer` answers GET / and GET or POST /search
as the STAC API specification says (core, item-search: collections, bbox, intersects, datetime, limit, next links by
token). `rustac_server` starts rustac's server, which knows nothing of these tests.
"""

import contextlib
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds, transform_geom
from shapely.geometry import box, mapping, shape

RTC = "sentinel-1-rtc"
TAKEN = re.compile(r"_(\d{8}T\d{6})_")


def write_cog(path, array, crs, left, top, resolution, nodata=-32768.0):
    """A cloud-optimized GeoTIFF of one float32 band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="COG", height=array.shape[0], width=array.shape[1], count=1, dtype="float32", crs=crs,
        transform=rasterio.Affine(resolution, 0, left, 0, -resolution, top), nodata=nodata, blocksize=128,
    ) as file:  # fmt: skip
        file.write(array.astype(np.float32), 1)
    return path


def rtc_item(files, name, array, *, crs=32630, left=0.0, top=0.0, resolution=10.0, orbit=8, state="descending",
             footprint=None, polarizations=("VV", "VH"), **more):  # fmt: skip
    """An item as the Planetary Computer describes a Sentinel-1 RTC image, and its COGs in the folder of the server.

    `array` is (bands, H, W) in the order of `polarizations`.
    """
    height, width = array.shape[1:]
    bounds = (left, top - height * resolution, left + width * resolution, top)
    geometry = footprint or transform_geom(f"EPSG:{crs}", "EPSG:4326", mapping(box(*bounds)))
    moment = datetime.strptime(TAKEN.search(name)[1], "%Y%m%dT%H%M%S")
    assets = {}
    for band, values in zip(polarizations, array, strict=True):
        path = f"GRD/{name}/measurement/iw-{band.lower()}.rtc.tiff"
        write_cog(files.folder / path, values, f"EPSG:{crs}", left, top, resolution)
        assets[band.lower()] = {
            "href": f"{files.url}/{path}",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "title": f"{band}: {'vertical' if band[0] == 'V' else 'horizontal'} transmit",
            "description": "Terrain-corrected gamma naught values of signal transmitted with vertical polarization",
            "raster:bands": [{"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}],
            "roles": ["data"],
        }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/sar/v1.0.0/schema.json",
            "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
            "https://stac-extensions.github.io/projection/v1.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "id": name,
        "collection": RTC,
        "bbox": list(shape(geometry).bounds),
        "geometry": json.loads(json.dumps(geometry)),
        "properties": {
            "datetime": f"{moment:%Y-%m-%dT%H:%M:%S.653288Z}",
            "start_datetime": f"{moment:%Y-%m-%dT%H:%M:%S.153776+00:00}",
            "platform": f"SENTINEL-1{name[2]}",
            "constellation": "Sentinel-1",
            "s1:resolution": "high",
            "s1:orbit_source": "RESORB",
            "s1:processing_level": "1",
            "sar:frequency_band": "C",
            "sar:center_frequency": 5.405,
            "sar:instrument_mode": name.split("_")[1],
            "sar:polarizations": list(polarizations),
            "sar:product_type": "GRD",
            "sar:pixel_spacing_range": 10,
            "sar:pixel_spacing_azimuth": 10,
            "sar:looks_equivalent_number": 4.4,
            "sat:orbit_state": state,
            "sat:relative_orbit": orbit,
            "sat:absolute_orbit": 56344,
            "proj:epsg": crs,
            "proj:shape": [height, width],
            "proj:transform": [resolution, 0.0, left, 0.0, -resolution, top, 0.0, 0.0, 1.0],
            "proj:bbox": list(bounds),
            **more,
        },
        "links": [],
        "assets": assets,
    }


def collection_json(name):
    """A collection, as small as the specification lets it be."""
    return {
        "type": "Collection", "id": name, "stac_version": "1.0.0", "description": name, "license": "CC-BY-4.0",
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2014-10-10T00:28:21Z", None]]},
        },
        "links": [],
    }  # fmt: skip


class Quiet(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        """Say nothing."""

    def answer(self, status, body=b"", kind="application/json", **headers):
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server:
    """A server in a thread on a free port of loopback."""

    def __init__(self, handler):
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.http.owner = self
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class StaticServer(Server):
    """Files of a folder with byte ranges; `broken` names answer 503, `cut` stops an answer half way once."""

    def __init__(self, folder):
        self.folder, self.asked, self.broken, self.cut = Path(folder), [], set(), set()
        self.headers = []
        super().__init__(Files)


class Files(Quiet):
    """GET and HEAD of files."""

    def do_HEAD(self):
        """Answer without a body."""
        self.do_GET()

    def do_GET(self):
        """Answer a file, or the part that Range names."""
        owner, name = self.server.owner, urlsplit(self.path).path.lstrip("/")
        owner.asked.append((self.command, name, self.headers.get("Range")))
        owner.headers.append((name, dict(self.headers)))
        path = owner.folder / name
        if any(b in name for b in owner.broken):
            return self.answer(503, b"busy", "text/plain")
        if not path.is_file():
            return self.answer(404, b"not there", "text/plain")
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if found is None or self.headers.get("If-Range", tag) != tag:
            if name in owner.cut and self.command == "GET":
                owner.cut.discard(name)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", tag)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return None
            return self.answer(200, data, "image/tiff", Accept_Ranges="bytes", ETag=tag)
        first = int(found[1])
        last = min(int(found[2] or len(data) - 1), len(data) - 1)
        if first > last:
            return self.answer(416, b"", "image/tiff", Content_Range=f"bytes */{len(data)}")
        return self.answer(
            206, data[first : last + 1], "image/tiff", Accept_Ranges="bytes", ETag=tag,
            Content_Range=f"bytes {first}-{last}/{len(data)}",
        )  # fmt: skip


class SearchServer(Server):
    """STAC API over items in memory; `page` is the most of one page."""

    def __init__(self, items, page=2):
        self.items, self.page, self.asked = items, page, []
        super().__init__(Search)


class Search(Quiet):
    """Landing page, conformance, collections and item search."""

    def do_GET(self):
        """Answer the landing page, a collection or a search by query string."""
        url, here = urlsplit(self.path), self.server.owner
        if url.path.rstrip("/") == "":
            return self.reply(landing(here.url))
        if url.path == "/conformance":
            return self.reply({"conformsTo": landing(here.url)["conformsTo"]})
        if url.path == "/search":
            words = {k: v[0] for k, v in parse_qs(url.query).items()}
            asked = dict(words)
            for key in ("collections", "ids"):
                if key in words:
                    asked[key] = words[key].split(",")
            if "bbox" in words:
                asked["bbox"] = [float(v) for v in words["bbox"].split(",")]
            if "intersects" in words:
                asked["intersects"] = json.loads(words["intersects"])
            return self.search(asked)
        return self.reply({"code": "NotFound", "description": url.path}, 404)

    def do_POST(self):
        """Answer a search by body."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return self.search(body) if self.path == "/search" else self.reply({"code": "NotFound"}, 404)

    def search(self, asked):
        """Answer one page of a search."""
        here = self.server.owner
        here.asked.append(asked)
        if "bbox" in asked and "intersects" in asked:
            return self.reply(
                {"code": "BadRequest", "description": "bbox and intersects exclude each other"}, 400
            )
        found = [i for i in here.items if matches(i, asked)]
        first = int(asked.get("token", 0))
        many = min(int(asked.get("limit", 10)), here.page)
        links = [{"rel": "root", "href": here.url, "type": "application/json"}]
        if first + many < len(found):
            links.append({
                "rel": "next", "href": f"{here.url}/search", "type": "application/geo+json", "method": "POST",
                "body": {**asked, "token": str(first + many)}, "merge": False,
            })  # fmt: skip
        part = found[first : first + many]
        return self.reply(
            {"type": "FeatureCollection", "features": part, "links": links, "numberReturned": len(part)}
        )

    def reply(self, value, status=200):
        """Send JSON."""
        self.answer(status, json.dumps(value).encode())


def landing(url):
    """The landing page."""
    return {
        "type": "Catalog", "id": "small", "stac_version": "1.0.0", "description": "a test",
        "conformsTo": [
            "https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search",
            "https://api.stacspec.org/v1.0.0/collections",
        ],
        "links": [
            {"rel": "self", "href": url, "type": "application/json"},
            {"rel": "root", "href": url, "type": "application/json"},
            {"rel": "search", "href": f"{url}/search", "type": "application/geo+json", "method": "GET"},
            {"rel": "search", "href": f"{url}/search", "type": "application/geo+json", "method": "POST"},
        ],
    }  # fmt: skip


def matches(item, asked):
    """Say whether an item answers a search."""
    if asked.get("collections") and item["collection"] not in asked["collections"]:
        return False
    if asked.get("ids") and item["id"] not in asked["ids"]:
        return False
    place = shape(item["geometry"])
    if asked.get("bbox") and not place.intersects(box(*asked["bbox"])):
        return False
    if asked.get("intersects") and not place.intersects(shape(asked["intersects"])):
        return False
    if asked.get("datetime"):
        start, end = (datetime.fromisoformat(t) for t in asked["datetime"].split("/"))
        return start <= datetime.fromisoformat(item["properties"]["datetime"]) <= end
    return True


@contextlib.contextmanager
def rustac_server(items, folder):
    """rustac's own server (github.com/stac-utils/rustac) over the same items; skips where it is not installed."""
    program = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
    if program is None:
        pytest.skip("rustac is not installed (pip install rustac)")
    collections = sorted({i["collection"] for i in items})
    for name in collections:
        (folder / f"{name}.json").write_text(json.dumps(collection_json(name)))
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [str(folder / f"{n}.json") for n in (*collections, "items")]
    with (folder / "rustac.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", *files, "-a", f"127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(400):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                if process.poll() is not None:
                    raise RuntimeError((folder / "rustac.log").read_text())
                time.sleep(0.02)  # until it listens: it says so only on its own log
            yield url
        finally:
            process.terminate()
            process.wait(10)


def area_of(crs, left, top, right, bottom):
    """The box of a projection as GeoJSON in degrees, a little inside."""
    west, south, east, north = transform_bounds(f"EPSG:{crs}", "EPSG:4326", left, bottom, right, top)
    return {"type": "Feature", "properties": {}, "geometry": mapping(box(west, south, east, north))}

"""A map of classes as polygons in a GeoPackage, with their areas on the ellipsoid."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.areas import Ground, divided, open_ground, polygon_areas
from sartransfer.cloud import CACHE
from sartransfer.errors import InputError, OutputError, refuse_existing
from sartransfer.geotiff import map_classes, opened, quiet, read_georeference
from sartransfer.regions import find_runs, merge_small

PIXELS = 2**20  # of a map that are looked at together, in whole rows
CHUNK = 20_000  # polygons that are written together
POINTS = 500_000  # points of theirs, where one has not more alone
ARCHIVE = "!"  # in a path, pyogrio looks for an archive before it
LAYER, AREAS = "classes", "areas"
GIS = 'polygons need pyogrio, pyproj and shapely 2.1: pip install "sartransfer[gis]".'


@dataclass(frozen=True, slots=True)
class PolygonOptions:
    """How a map becomes polygons."""

    min_area: float = 0.0
    """Minimum mapping unit in square metres: smaller regions join their largest neighbour."""
    simplify: float = 0.0
    """Metres: borders are simplified where the triangles left out are smaller than this squared; neighbours keep their
    common border, so that neither gaps nor overlaps appear. 0: borders follow the pixels."""

    def __post_init__(self) -> None:
        for name in ("min_area", "simplify"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"{name}={value} must be a number of 0 or more.")


def describe_options(options: PolygonOptions) -> str:
    """Return the options in words: the description of the layer ``classes``."""
    return f"min_area {options.min_area:.12g} m2, simplify {options.simplify:.12g} m"


@dataclass(frozen=True, slots=True)
class PolygonResult:
    """What was written."""

    path: Path
    polygons: int
    areas: dict[str, float]
    """Square metres of each class: of all pixels of the map, before small regions were joined."""


def write_polygons(
    map_path: str | Path,
    out: str | Path,
    options: PolygonOptions | None = None,
    *,
    classes: Sequence[str] | None = None,
    colours: dict[int, tuple[int, int, int]] | None = None,
    overwrite: bool = False,
    written: datetime | None = None,
) -> PolygonResult:
    """Write the regions of a map as polygons, a GeoPackage with the layers ``classes`` and ``areas``.

    Layer ``classes``: a polygon a region (pixels that hang together by their sides), with class_id, class, colour and
    area_m2 on the ellipsoid. Table ``areas``: a row a class with pixels, area_km2 of the map, and polygons and
    polygons_km2 of the layer (not the same where small regions were joined, or borders simplified).

    Memory: the map is read by rows. With a minimum mapping unit, about 300 bytes a run of equal pixels along a row;
    with simplification all polygons are held at once (16 bytes a pixel of border, a few times); otherwise `CHUNK` at a
    time, beside what GDAL holds of the borders.

    Args:
        map_path: a GeoTIFF of class numbers (one uint8 band) with CRS and transform.
        out: ends in ``.gpkg``.
        options: minimum mapping unit and simplification; None: neither.
        classes: names; None: as the map says (tag ``SARTRANSFER_CLASSES``), or the numbers.
        colours: red, green, blue of each class; None: the map's.
        overwrite: replace a file that is there.
        written: the time that the GeoPackage notes as its own (UTC where it names no zone); None: now. The same time
            gives the same bytes.

    Raises `InputError` for a map that is none, without CRS, or the extra ``gis`` missing; `OutputError` for a file that
    is there or cannot be written.
    """
    map_path, out = Path(map_path), Path(out)
    options = options or PolygonOptions()
    if out.suffix.lower() != ".gpkg":
        raise OutputError(
            f"{out} does not end in .gpkg: polygons are written as a GeoPackage. Change the name."
        )
    refuse_existing(out, overwrite)
    check_extra()
    with opened(map_path) as file:
        if file.count != 1 or file.dtypes[0] != "uint8":
            raise InputError(
                f"{map_path} has {file.count} bands of {file.dtypes[0]}: a map of classes has one, of uint8."
            )
        georeference, height, width = read_georeference(file), file.height, file.width
        nodata = 255 if file.nodata is None else int(file.nodata)
        known = dict(enumerate(classes)) if classes is not None else map_classes(file)
        colours = colours or map_colours(file)
    ground = open_ground(georeference, height, width)
    # The folder is beside the result, so that the finished file only changes its name.
    prefix = f".{out.name}.".replace(ARCHIVE, "_")
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as name,
        _plain_name(Path(name)) as folder,
    ):
        temporary = folder / "out.gpkg"
        pixels, areas = _totals(map_path, ground)
        plain = Path(name) / "plain.tif"
        _write_plain(plain, map_path, ground, options.min_area, nodata)
        found = _regions(plain, nodata)
        if options.simplify > 0:
            found = _simplified(found, ground, options.simplify)
        words = describe_options(options)
        writer = _Writer(temporary, ground, known, colours, words, written or datetime.now(UTC))
        for values, polygons in found:
            writer.add(values, polygons)
        writer.finish(pixels, areas, nodata)
        temporary.replace(out)
    return PolygonResult(
        out,
        int(writer.counts.sum()),
        {known.get(i, str(i)): float(areas[i]) for i in _listed(known, pixels, nodata)},
    )


@contextlib.contextmanager
def _plain_name(folder: Path) -> Iterator[Path]:
    """Give a name of a folder without the sign that pyogrio takes for an archive's end: the files stay where they are.

    Raises `OutputError` where there is none.
    """
    if ARCHIVE not in str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sartransfer-") as name:
        link = Path(name) / "folder"
        try:
            if ARCHIVE in name:
                raise OSError(f"the system's temporary folder {name} has it too")
            link.symlink_to(folder.absolute(), target_is_directory=True)
        except OSError as error:
            raise OutputError(
                f"polygons cannot be written to {folder.parent}: a path with {ARCHIVE} is taken for an archive's "
                f"({error}). Choose another name."
            ) from error
        yield link


def check_extra() -> None:
    """Raise `InputError` where what polygons need is not installed."""
    try:
        import pyogrio  # noqa: F401
        import pyproj  # noqa: F401
        import shapely
    except ImportError as error:
        raise InputError(GIS) from error
    if not hasattr(shapely, "coverage_simplify"):
        raise InputError(GIS)


def class_areas(map_path: str | Path) -> dict[str, tuple[int, float]]:
    """Return class name -> (pixels, square metres on the ellipsoid) of a map of classes; see `write_polygons`."""
    with opened(Path(map_path)) as file:
        georeference, height, width = read_georeference(file), file.height, file.width
        known, nodata = map_classes(file), 255 if file.nodata is None else int(file.nodata)
    pixels, areas = _totals(Path(map_path), open_ground(georeference, height, width))
    return {known.get(i, str(i)): (int(pixels[i]), float(areas[i])) for i in _listed(known, pixels, nodata)}


def expected_areas(path: str | Path, classes: int) -> NDArray[np.float64]:
    """Return the expected area of each class in square metres: the sum of its probability over all pixels.

    Args:
        path: probabilities as `mapping.predict_scene` writes them, a band a class.
        classes: how many there must be.

    Raises `InputError` for another number of bands, and what `areas.open_ground` raises.
    """
    import rasterio
    from rasterio.windows import Window as Part

    path = Path(path)
    with rasterio.Env(GDAL_CACHEMAX=CACHE), opened(path) as file:
        if file.count != classes or not all(
            (name or "").startswith("probability_") for name in file.descriptions
        ):
            raise InputError(f"{path} does not hold the probabilities of {classes} classes, a band a class.")
        ground = open_ground(read_georeference(file), file.height, file.width)
        total = np.zeros(classes)
        step = max(1, rows_at_once(file.width) // classes)
        for first in range(0, file.height, step):
            part = Part(0, first, file.width, min(step, file.height - first))
            values, valid = file.read(window=part), file.read_masks(1, window=part) > 0
            areas = np.where(valid, ground.pixel_areas(first, values.shape[1]), 0.0)
            for i in range(classes):
                total[i] += np.where(valid, values[i] * file.scales[i], 0.0).ravel() @ areas.ravel()
    return total


def check_pair(map_path: str | Path, probabilities: str | Path) -> None:
    """Raise `InputError` where probabilities are not those of a map: of another grid, scene, file, network or views."""
    told = []
    for path in (Path(map_path), Path(probabilities)):
        with opened(path) as file:
            tags = file.tags()
            grid = {"pixels": (file.height, file.width), "place": read_georeference(file)}
            names = ("CHECKPOINT", "SCENE", "FILES", "CLASSES")
            made = json.loads(tags.get("SARTRANSFER_OPTIONS", "{}"))  # `streaming.map_note`
            how = {name: made.get(name) for name in ("networks", "bands", "views")}
            told.append(grid | {n.lower(): tags.get(f"SARTRANSFER_{n}") for n in names} | how)
    for what, one in told[0].items():
        other = told[1][what]
        if one != other and None not in (one, other):  # other programs keep no tags
            raise InputError(
                f"{probabilities} is not of the same run as {map_path}: {what} {other}, not {one}. Make both anew "
                "by one command (sartransfer predict --probabilities)."
            )


def map_colours(file: Any) -> dict[int, tuple[int, int, int]]:
    """Return the colours of an open map; empty where it has none."""
    try:
        return {int(k): tuple(rgba[:3]) for k, rgba in file.colormap(1).items()}
    except ValueError:
        return {}


def _listed(known: dict[int, str], pixels: NDArray[np.int64], nodata: int) -> list[int]:
    """Return the class numbers of a table: those with a name, and those that the map has."""
    return sorted({i for i in (*known, *np.flatnonzero(pixels).tolist()) if i != nodata})


def rows_at_once(width: int) -> int:
    """Return how many rows of a map are looked at together."""
    return max(1, PIXELS // width)


def _rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    import rasterio
    from rasterio.windows import Window as Part

    with rasterio.Env(GDAL_CACHEMAX=CACHE), opened(path) as file:
        step = rows_at_once(file.width)
        for first in range(0, file.height, step):
            yield first, file.read(1, window=Part(0, first, file.width, min(step, file.height - first)))


def _totals(path: Path, ground: Ground) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return pixels and square metres of each value 0 to 255."""
    pixels, areas = np.zeros(256, dtype=np.int64), np.zeros(256)
    for first, values in _rows(path):
        flat = values.ravel()
        pixels += np.bincount(flat, minlength=256)
        areas += np.bincount(flat, ground.pixel_areas(first, len(values)).ravel(), minlength=256)
    return pixels, areas


def _write_plain(out: Path, path: Path, ground: Ground, min_area: float, nodata: int) -> None:
    """Write the map without regions below the minimum mapping unit, in strips and without a place.

    GDAL follows borders line by line, and would bring them into the map's coordinates itself.
    """
    import rasterio
    from rasterio.windows import Window as Part

    rows = _rows(path)
    if min_area > 0:
        runs = find_runs(rows, ground.height, ground.width, ground.pixel_areas)
        rows = merge_small(runs, min_area, nodata).rows(rows_at_once(ground.width))
    with quiet(), rasterio.open(
        out, "w", driver="GTiff", count=1, height=ground.height, width=ground.width, dtype="uint8",
        bigtiff="if_safer",
    ) as file:  # fmt: skip
        for first, values in rows:
            file.write(values, 1, window=Part(0, first, ground.width, len(values)))


Found = Iterator[tuple[NDArray[np.uint8], NDArray[Any]]]
"""(class numbers (n,), shapely polygons (n,) in pixel coordinates)."""


def _regions(path: Path, nodata: int) -> Found:
    """Yield the regions of a map as polygons, `CHUNK` at a time."""
    import rasterio
    from rasterio.features import shapes

    with opened(path) as file:
        found = shapes(rasterio.band(file, 1), connectivity=4, transform=rasterio.Affine.identity())
        values: list[int] = []
        rings: list[NDArray[np.float64]] = []
        numbers, points = [0], 0
        for geometry, value in found:
            if int(value) == nodata:
                continue
            values.append(int(value))
            rings += [np.array(ring, dtype=np.float64) for ring in geometry["coordinates"]]
            numbers.append(len(rings))
            points += sum(map(len, rings[numbers[-2] :]))
            if len(values) == CHUNK or points >= POINTS:
                yield _polygons(values, rings, numbers)
                values, rings, numbers, points = [], [], [0], 0
        if values:
            yield _polygons(values, rings, numbers)


def _polygons(
    values: list[int], rings: list[NDArray[np.float64]], numbers: list[int]
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    import shapely

    ends = np.cumsum([0, *map(len, rings)])
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, np.concatenate(rings), (ends, np.array(numbers))
    )
    return np.array(values, dtype=np.uint8), polygons


def _simplified(found: Found, ground: Ground, tolerance: float) -> Found:
    """Simplify all borders at once: where three regions meet, and along common borders, all stay in touch."""
    import shapely

    chunks = list(found)
    if not chunks:
        return
    values = np.concatenate([v for v, _ in chunks])
    # Every pixel's corner becomes a point: neighbours must have the points of their common border in common.
    points, rings, firsts = divided(np.concatenate([p for _, p in chunks]), 1.0)
    del chunks
    down, right = ground.pixel_sides
    # A pixel is 1 wide and so many sixteenths high: exact in binary, so that no border moves by rounding.
    scale = np.array([1.0, max(1.0, np.rint(16 * down / right)) / 16])
    level = shapely.from_ragged_array(shapely.GeometryType.POLYGON, np.rint(points) * scale, (rings, firsts))
    simple = shapely.coverage_simplify(level, tolerance / right)
    simple = shapely.transform(simple, lambda points: points / scale)  # corners of pixels, all of them
    for first in range(0, len(values), CHUNK):
        yield values[first : first + CHUNK], simple[first : first + CHUNK]


class _Writer:
    """Writes polygons chunk by chunk, and the table of areas in the end."""

    def __init__(
        self,
        path: Path,
        ground: Ground,
        classes: dict[int, str],
        colours: dict[int, tuple[int, int, int]],
        words: str,
        written: datetime,
    ) -> None:
        self.path, self.ground, self.classes, self.written = path, ground, classes, written
        self.words = words
        self.colours = {i: "#{:02x}{:02x}{:02x}".format(*rgb) for i, rgb in colours.items()}
        self.counts, self.areas = np.zeros(256, dtype=np.int64), np.zeros(256)
        self.begun = False

    def add(self, values: NDArray[np.uint8], polygons: NDArray[Any]) -> None:
        import shapely

        areas = polygon_areas(self.ground, polygons)
        self.counts += np.bincount(values, minlength=256)
        self.areas += np.bincount(values, areas, minlength=256)
        placed = shapely.transform(polygons, self.ground.to_crs)
        numbers = values.tolist()
        fields = {
            "class_id": values.astype(np.int32),
            "class": np.array([self.classes.get(i, str(i)) for i in numbers], dtype=object),
            "colour": np.array([self.colours.get(i, "") for i in numbers], dtype=object),
            "area_m2": areas,
        }
        self._write(LAYER, fields, shapely.to_wkb(placed), "Polygon", append=self.begun)
        self.begun = True

    def finish(self, pixels: NDArray[np.int64], areas: NDArray[np.float64], nodata: int) -> None:
        """Write the table; `pixels` and `areas` of the map, in square metres."""
        if not self.begun:  # nothing but nodata
            self.add(np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=object))
        numbers = _listed(self.classes, pixels, nodata)
        fields = {
            "class_id": np.array(numbers, dtype=np.int32),
            "class": np.array([self.classes.get(i, str(i)) for i in numbers], dtype=object),
            "pixels": pixels[numbers],
            "area_km2": areas[numbers] / 1e6,
            "polygons": self.counts[numbers],
            "polygons_km2": self.areas[numbers] / 1e6,
        }
        self._write(AREAS, fields, None, None, append=True)

    def _write(
        self, layer: str, fields: dict[str, Any], geometry: Any, kind: str | None, *, append: bool
    ) -> None:
        import pyogrio

        written = self.written if self.written.tzinfo else self.written.replace(tzinfo=UTC)
        stamp = written.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": stamp})
        try:
            pyogrio.raw.write(
                self.path,
                geometry,
                list(fields.values()),
                list(fields),
                layer=layer,
                driver="GPKG",
                geometry_type=kind,
                crs=self.ground.crs.to_wkt() if kind else None,
                append=append,
                **({} if append or not kind else {"DESCRIPTION": self.words}),
            )
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
            raise OutputError(f"{self.path} could not be written ({error}). Is the disk full?") from error
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})

"""Two scenes of one area and what is known of its ground, read by windows with the halo a filter needs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.areas import open_ground
from sartransfer.errors import InputError, UnitError
from sartransfer.geotiff import GeoTiffSource, opened
from sartransfer.radar.flood import PixelAreas, smooth_db
from sartransfer.radar.speckle import SpeckleFilter
from sartransfer.radar.units import Quantity, Scale, Unit
from sartransfer.readers import open_scene
from sartransfer.scene import Band, GeoReference, Scene, Window, as_utc
from sartransfer.windows import cut, grow, inside, rounded

LOOKS_SIDE = 2048  # pixels a side of the middle of a scene from which its looks are estimated
WGS84 = (6378137.0, 0.0066943799901413165)  # semi-major axis in metres, eccentricity squared
TRUE_SCALE = 0.01  # a projection whose pixels are within this share of their true size is taken at its word


@dataclass(frozen=True, slots=True)
class FloodPair:
    """A scene before and one after on one grid, and layers of the ground on the same grid."""

    before: Scene
    after: Scene
    layers: dict[str, Scene]
    """``seasonality``, ``slope``, ``hand``: scenes of one band."""
    pixel_size: tuple[float, float]
    """Height and width of a pixel in metres, at the middle of the scene."""
    areas: PixelAreas
    """Of the pixels of some rows, on the ellipsoid as `sartransfer.areas` has them where the place is known."""

    @property
    def height(self) -> int:
        """Rows."""
        return self.after.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.after.width

    def windows(self, size: int, tile: int) -> Iterator[Window]:
        """Return windows that cover the grid, of `size` pixels rounded up to whole tiles."""
        return cut(self.height, self.width, rounded(size, tile))

    def read_db(
        self, scene: Scene, band: str, window: Window, speckle: SpeckleFilter, mean_of: str
    ) -> NDArray[np.float32]:
        """Read one band of a window filtered, in dB; the same numbers as filtering the whole scene gives."""
        grown = grow(window, max(speckle.halo(self.pixel_size)), 1, self.height, self.width)
        unit = scene.band(band).unit
        data, valid = scene.read([band], grown)
        filtered = smooth_db(data[0], unit, speckle, mean_of, valid=valid, pixel_size=self.pixel_size)
        return filtered[inside(window, grown)]

    def read_layer(self, name: str, window: Window, halo: int = 0) -> NDArray[np.float32] | None:
        """Read a layer of the ground with `halo` pixels round it, NaN without a value; None: there is no such layer."""
        if name not in self.layers:
            return None
        grown = grow(window, halo, 1, self.height, self.width)
        data: NDArray[np.float32] = self.layers[name].read(window=grown).data[0]
        return data

    def with_looks(self, scene: Scene, band: str, speckle: SpeckleFilter) -> SpeckleFilter:
        """Return the filter with its looks: those known, or those of the scene's middle, whatever the windows."""
        if not speckle.needs_looks or speckle.looks is not None:
            return speckle
        unit = scene.band(band).unit
        linear = Unit(unit.quantity, Scale.LINEAR)
        data, valid = scene.read([band], scene.central_window(LOOKS_SIDE), units=linear)
        power = data[0] ** 2 if unit.quantity is Quantity.AMPLITUDE else data[0]
        return replace(speckle, looks=speckle.resolve_looks(power, valid))


def open_flood_pair(
    before: str | Path | Scene,
    after: str | Path | Scene,
    layers: dict[str, str | Path | Scene | None],
    pixel_size: tuple[float, float] | None = None,
    bands: tuple[Sequence[Band], Sequence[Band]] = ((), ()),
) -> FloodPair:
    """Open both scenes and the layers, and check that all lie on one grid and that before comes before after.

    `pixel_size` (height, width) in metres is for scenes that do not say where they are. `bands` are those of the files
    before and after; none: as they say. Raises `InputError`.
    """
    for scene, told in zip((before, after), bands, strict=True):
        if isinstance(scene, Scene) and told:
            raise InputError(f"scene {scene.id!r} is open already: bands can be named for files only.")
    one, two = (
        s if isinstance(s, Scene) else open_scene(s, bands=told or None)
        for s, told in zip((before, after), bands, strict=True)
    )
    opened = {n: s if isinstance(s, Scene) else open_scene(s) for n, s in layers.items() if s is not None}
    for name, scene in (("before", one), *opened.items()):
        _check_grid(name, scene, two)
    for name, scene in opened.items():
        if len(scene.bands) != 1:
            raise InputError(f"{name} ({scene.id}) has the bands {', '.join(scene.names)}: must have one.")
    check_order(before, after, one, two)
    placed = two if two.georeference.transform else one
    size = _pixel_size(placed, pixel_size)
    return FloodPair(one, two, opened, size, _pixel_areas(placed, size, pixel_size is not None))


def choose_bands(pair: FloodPair, band: str | None) -> tuple[str, str]:
    """Return the band's name in either scene: by name or polarization; None: the only one, or VH as in the practice."""
    out = []
    for scene in (pair.before, pair.after):
        if band is None and len(scene.bands) == 1:
            out.append(scene.bands[0])
            continue
        wanted = band or "VH"
        found = [b for b in scene.bands if wanted in (b.name, b.polarization)]
        if len(found) != 1:
            raise InputError(
                f"scene {scene.id!r} has {len(found) or 'no'} bands that are {wanted!r}: {', '.join(scene.names)}. "
                "Name one with `band` (--band), or say what the bands are with `bands` (--bands VV=sigma0,VH=sigma0)."
            )
        out.append(found[0])
    one, two = out
    if one.polarization != two.polarization:
        raise InputError(
            f"before is {one.polarization or 'of no polarization'}, after {two.polarization or 'of none'}: a change "
            "can be told from one polarization only."
        )
    return one.name, two.name


def band_unit(scene: Scene, band: str) -> Unit:
    """Return a band's unit; raises `UnitError` where nobody has said it."""
    unit = scene.band(band).unit
    if unit.quantity is Quantity.UNKNOWN:
        raise UnitError(
            f"scene {scene.id!r}: the unit of band {band!r} is not known. Say it in the file's band description "
            "(sigma0_vh_db) or tag (UNIT=sigma0_db), or with `bands` (--bands VH=sigma0_db)."
        )
    return unit


def check_order(before: str | Path | Scene, after: str | Path | Scene, one: Scene, two: Scene) -> None:
    """Raise `InputError` where both files are one, or the first was taken later than the second.

    `one` and `two` are the scenes of `before` and `after`.
    """
    files = {Path(i).resolve() for i in (before, after) if not isinstance(i, Scene)}
    if len(files) == 1 and not isinstance(before, Scene) and not isinstance(after, Scene):
        raise InputError(f"before and after are both {after}: give two files.")
    first, last = _time(one), _time(two)
    if first is not None and last is not None and as_utc(first) > as_utc(last):
        raise InputError(f"before is of {first}, after of {last}: the two scenes are swapped.")


def origin_warnings(one: Scene, two: Scene, speckle: SpeckleFilter) -> tuple[str, ...]:
    """Say where files that were fetched or prepared here differ by more than the flood, before and after.

    By their tags: other orbits (``SARTRANSFER_ORBITS`` of `fetch flood`, ``PASS`` and ``RELATIVE_ORBIT`` of `prepare
    sentinel1`), and speckle that was filtered already (``SARTRANSFER_SPECKLE``) before `speckle` filters it again.
    """
    tags = [_tags(scene) for scene in (one, two)]
    out = []
    first, last = (_orbits(t) for t in tags)
    if first and last and first != last:
        words = [", ".join(sorted(o)) for o in (first, last)]
        out.append(
            f"before is of orbit {words[0]}, after of {words[1]}: differences of geometry look like change"
        )
    filters = [_filter_of(t) for t in tags]
    for scene, name in zip((one, two), filters, strict=True):
        if name not in (None, "none") and speckle.name != "none":
            out.append(
                f"scene {scene.id!r} was filtered already ({name}), and the rule filters it again ({speckle.name})"
            )
    if None not in filters and filters[0] != filters[1]:
        out.append(
            f"before was filtered by {filters[0]}, after by {filters[1]}: that their speckle differs looks like change"
        )
    return tuple(out)


def _tags(scene: Scene) -> Mapping[str, str]:
    """Return the tags of a scene's file, none of what is no GeoTIFF."""
    if not isinstance(scene.source, GeoTiffSource):
        return {}
    with opened(scene.source.path) as file:
        return dict(file.tags())


def _orbits(tags: Mapping[str, str]) -> set[str]:
    """Return pass and relative orbit of all images in a file: ``descending-12``; none where that is not known."""
    fetched = set(tags.get("SARTRANSFER_ORBITS", "").lower().split())
    if fetched:
        return fetched if all(o.rpartition("-")[2].isdigit() for o in fetched) else set()
    number = tags.get("RELATIVE_ORBIT", "")
    return {f"{tags.get('PASS', '').lower()}-{number}"} if number.isdigit() else set()


def _filter_of(tags: Mapping[str, str]) -> str | None:
    """Return the name of the speckle filter a file was fetched with; None: it does not say."""
    try:
        return str(json.loads(tags["SARTRANSFER_SPECKLE"])["name"])
    except (KeyError, TypeError, ValueError):
        return None


def _time(scene: Scene) -> datetime | None:
    times = (scene.time, *(b.time for b in scene.bands))
    return next((t for t in times if t is not None), None)


def _check_grid(name: str, scene: Scene, reference: Scene) -> None:
    if (scene.height, scene.width) != (reference.height, reference.width):
        raise InputError(
            f"{name} ({scene.id}) has {scene.height} x {scene.width} pixels, after ({reference.id}) "
            f"{reference.height} x {reference.width}. Bring them onto one grid first."
        )
    one, two = scene.georeference, reference.georeference
    if one.transform is None or two.transform is None:
        return
    a, b = (np.array(g.transform).reshape(2, 3) for g in (one, two))
    corners = np.array(
        [[0, 0, 1], [scene.width, 0, 1], [0, scene.height, 1], [scene.width, scene.height, 1]]
    ).T
    moved = float(np.abs((a - b) @ corners).max()) > 0.5 * float(np.abs(a[:, :2]).max())
    if moved or _differ(one.crs, two.crs):
        raise InputError(
            f"{name} ({scene.id}) and after ({reference.id}) do not lie on one grid: {one.transform} and "
            f"{two.transform}, or their coordinate systems differ. Warp one onto the other first."
        )


def _differ(one: str | None, two: str | None) -> bool:
    if one is None or two is None or one == two:
        return False
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(one) != CRS.from_user_input(two))


def _pixel_size(scene: Scene, given: tuple[float, float] | None) -> tuple[float, float]:
    """Return a pixel's height and width in metres at the middle."""
    place = scene.georeference
    if given is not None:
        if not (min(given) > 0 and np.isfinite(given).all()):
            raise InputError(f"pixel_size={given}: metres, above 0.")
        return given
    if place.transform is None or place.crs is None:
        raise InputError(
            f"scene {scene.id!r} does not say how large its pixels are. Give `pixel_size` in metres, (10, 10) for "
            "Sentinel-1 GRD (--pixel-size 10)."
        )
    nominal = _nominal(place)
    height, width, _ = _true_size(place, scene.height / 2, scene.width / 2)
    middle = (height, width)
    if nominal is not None and all(abs(n / m - 1) < TRUE_SCALE for n, m in zip(nominal, middle, strict=True)):
        return nominal
    return middle


def _pixel_areas(scene: Scene, size: tuple[float, float], given: bool) -> PixelAreas:
    """Return the areas of pixels on the ellipsoid; without a place they are those of the size that was given."""
    place = scene.georeference
    by_row = np.full(scene.height, size[0] * size[1])
    if place.transform is not None and place.crs is not None:
        try:
            return open_ground(place, scene.height, scene.width).pixel_areas
        except InputError:  # without pyproj (extra gis), or where it cannot tell
            if not given:
                rows = np.unique(np.linspace(0, scene.height - 1, 33).round())
                true = [_true_size(place, float(row) + 0.5, scene.width / 2)[2] for row in rows]
                by_row = np.interp(np.arange(scene.height), rows, true)

    def areas(first: int, rows: int) -> NDArray[np.float64]:
        return by_row[first : first + rows, None]

    return areas


def _nominal(place: GeoReference) -> tuple[float, float] | None:
    """Return a pixel's height and width as a projected coordinate system has them, in metres."""
    from rasterio.crs import CRS

    crs = CRS.from_user_input(place.crs)
    if not crs.is_projected or place.transform is None:
        return None
    a, b, _, d, e, _ = place.transform
    factor = float(crs.linear_units_factor[1])
    return float(np.hypot(b, e)) * factor, float(np.hypot(a, d)) * factor


def _true_size(place: GeoReference, row: float, col: float) -> tuple[float, float, float]:
    """Return height, width and area of a pixel on the WGS84 ellipsoid, metres."""
    from rasterio.warp import transform

    assert place.transform is not None
    a, b, c, d, e, f = place.transform
    cols = np.array([col, col, col - 0.5, col + 0.5])
    rows = np.array([row - 0.5, row + 0.5, row, row])
    lon, lat = transform(place.crs, "EPSG:4326", list(a * cols + b * rows + c), list(d * cols + e * rows + f))
    phi = np.deg2rad(np.asarray(lat))
    squash = 1 - WGS84[1] * np.sin(phi.mean()) ** 2
    north = WGS84[0] * (1 - WGS84[1]) / squash**1.5 * phi
    around = (np.asarray(lon) - lon[0] + 180) % 360 - 180
    east = WGS84[0] / np.sqrt(squash) * np.cos(phi.mean()) * np.deg2rad(around)
    down, right = (np.array([east[j] - east[i], north[j] - north[i]]) for i, j in ((0, 1), (2, 3)))
    area = abs(float(down[0] * right[1] - down[1] * right[0]))
    return float(np.hypot(*down)), float(np.hypot(*right)), area

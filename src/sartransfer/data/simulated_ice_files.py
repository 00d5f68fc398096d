"""Writing one simulated sea-ice scene: its GeoTIFF, chart, labels, truth, details and, if wanted, its product."""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.data.ice_analyst import (
    COLUMNS,
    DISPLACEMENT_M,
    Zone,
    cell_of,
    count_cells,
    draw_chart,
)
from sartransfer.data.simulated_ice_product import EPSG, Place, describe_product, to_map
from sartransfer.errors import OutputError
from sartransfer.radar.calibration import decibels, floor_power
from sartransfer.radar.sea_ice.backscatter import NAMES
from sartransfer.radar.sea_ice.geometry import LAND
from sartransfer.radar.sea_ice.scene import IceScene
from sartransfer.radar.sea_ice.swath import POLARIZATIONS, SUBSWATHS
from sartransfer.readers.geopackage import write_geopackage
from sartransfer.readers.sentinel1_writing import write_sentinel1
from sartransfer.textfile import write_text

LOOKS = 2  # pixels of the product a side in one of the scene: 40 -> 80 m
BLOCK = 256  # rows of a scene that are worked on at once
BANDS = ("sigma0_hh_db", "sigma0_hv_db", "incidence_angle_deg")
UNITS = ("sigma0_db", "sigma0_db", "incidence_angle_deg")
SOURCE = "simulated by sartransfer (radar/sea_ice), not measured"
NODATA = 255
COAST_FINE = 4  # points of the coast between two nodes of the coarse grid: every 80 m at full size
LEAST_ISLAND = 5e-5  # of the scene: maps of this scale show no smaller island (8 km^2 at full size; assumed)


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """The files of one scene in a folder."""

    folder: Path
    id: str

    @property
    def image(self) -> Path:
        """HH, HV and the incidence angle."""
        return self.folder / "scenes" / f"{self.id}.tif"

    @property
    def label(self) -> Path:
        """Ice and water by the chart."""
        return self.folder / "labels" / f"{self.id}_label.tif"

    @property
    def polygons(self) -> Path:
        """The number of the chart's polygon at each pixel."""
        return self.folder / "polygons" / f"{self.id}_polygons.tif"

    @property
    def truth(self) -> Path:
        """What really lies there."""
        return self.folder / "truth" / f"{self.id}_truth.tif"

    @property
    def chart(self) -> Path:
        """The polygons."""
        return self.folder / "charts" / f"{self.id}.gpkg"

    @property
    def details(self) -> Path:
        """What the scene was made with; written last, so that it says the scene is whole."""
        return self.folder / "details" / f"{self.id}.json"

    @property
    def products(self) -> Path:
        """The folder of SAFE products."""
        return self.folder / "products"


def write_scene(
    files: SceneFiles,
    scene: IceScene,
    place: Place,
    time: datetime,
    *,
    mistakes: float,
    safe: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all files of a scene, each under a temporary name first, in blocks of rows.

    The image is what `prepare.sentinel1` would make of the product: noise subtracted as annotated, calibrated,
    averaged 2 x 2 in linear power, floored and in decibels. Near range lies in the east.

    Raises `OutputError` if something cannot be written.
    """
    lines, columns = scene.shape
    for part in (files.image, files.label, files.polygons, files.truth, files.chart, files.details):
        part.parent.mkdir(parents=True, exist_ok=True)
    cell = cell_of(lines, columns)
    counts = np.zeros((-(-lines // cell), -(-columns // cell), len(NAMES)), dtype=np.int64)
    total = -(-lines // (LOOKS * BLOCK))

    def made() -> Iterator[tuple[int, NDArray[np.uint16]]]:
        with ExitStack() as stack:
            image = stack.enter_context(_Raster(files.image, scene, place, time, BANDS, "float32", UNITS))
            truth = stack.enter_context(_Raster(files.truth, scene, place, time, ("surface",), "uint8"))
            for number, (first, surface, _, dn) in enumerate(scene.blocks(LOOKS * BLOCK)):
                count_cells(surface, first, cell, counts)
                row = first // LOOKS
                image.write(row, _image(scene, first, dn))
                truth.write(row, surface[::LOOKS, ::LOOKS][None, : dn.shape[1] // LOOKS, : columns // LOOKS])
                yield first, dn
                if progress:
                    progress(number + 1, total)

    if safe:
        files.products.mkdir(exist_ok=True)
        write_sentinel1(files.products, describe_product(scene, place, time), made(), overwrite=True)
    else:
        for _ in made():
            pass
    zones = draw_chart(
        counts,
        cell,
        _coast(scene),
        scene.seed,
        mistakes=mistakes,
        displacement_px=DISPLACEMENT_M / scene.swath.stretch / scene.swath.spacing_m,
    )
    shapes = _on_map(scene, place, zones)
    _write_chart(files, zones, shapes)
    _write_labels(files, scene, place, time, zones, shapes)
    details = describe(files.id, scene, time, zones, mistakes)
    write_text(files.details, json.dumps(details, indent=1) + "\n")


def describe(
    id: str, scene: IceScene, time: datetime, zones: tuple[Zone, ...], mistakes: float
) -> dict[str, Any]:
    """Return what a scene was made with, as its details file says it; rows and columns are those of the GeoTIFF."""
    rows, columns = (n // LOOKS for n in scene.shape)
    seams = [
        {
            "between": [SUBSWATHS[i - 1], SUBSWATHS[i]],
            "line": [[0.0, columns - bound / LOOKS], [float(rows), columns - bound / LOOKS]],
        }
        for i, bound in enumerate(scene.swath.bounds[1:-1], start=1)
    ]
    noise = {
        p: {s: round(float(10 * np.log10(e)), 3) for s, e in zip(SUBSWATHS, errors, strict=True)}
        for p, errors in zip(POLARIZATIONS, scene.noise_error, strict=True)
    }
    return {
        "id": id,
        "month": time.month,
        "season": "melt" if time.month in (6, 7, 8, 9) else "freeze-up",
        "wind_m_s": round(scene.weather.wind_m_s, 2),
        "wind_direction_deg": round(scene.weather.wind_direction_deg, 1),
        "melted": scene.weather.melted,
        "looks_of_product": scene.looks,
        "averaged": f"{LOOKS} x {LOOKS}",
        "pixel_m": scene.swath.spacing_m * LOOKS,
        "swath_stretch": round(scene.swath.stretch, 4),
        "seams": seams,
        "nesz_db": {p: [round(float(10 * np.log10(v.min())), 2), round(float(10 * np.log10(v.max())), 2)]
                    for p, v in zip(POLARIZATIONS, scene.tables.annotated, strict=True)},
        "noise_error_db": noise,
        "mistakes_asked": mistakes,
        "mistakes": [
            {"polygon": i, "what": z.mistake} for i, z in enumerate(zones, start=1) if z.mistake is not None
        ],
        "polygons": len(zones),
        "truth_values": dict(enumerate(NAMES)),
        "seed": scene.seed,
        "source": SOURCE,
    }  # fmt: skip


def _image(scene: IceScene, first: int, counts: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return HH and HV in dB and the angle (3, rows, columns) of a block of the product, as preparing makes them."""
    rows, columns = (n // LOOKS for n in counts.shape[1:])
    cut = counts[:, : rows * LOOKS, : columns * LOOKS]
    power = np.square(cut, dtype=np.float32) / np.square(scene.tables.amplitude[: columns * LOOKS])
    power -= scene.noise_rows(first, rows * LOOKS)[:, :, : columns * LOOKS].astype(np.float32)
    mean = power.reshape(2, rows, LOOKS, columns, LOOKS).mean(axis=(2, 4), dtype=np.float64)
    middle = (np.arange(columns, dtype=np.float64) + 0.5) * LOOKS - 0.5
    angle = np.broadcast_to(scene.swath.incidence_deg(middle), (rows, columns))
    return np.concatenate([decibels(floor_power(mean)), angle[None]]).astype(np.float32)


class _Raster:
    """A GeoTIFF on the scene's grid, written row by row from the top, and renamed when it is whole."""

    def __init__(
        self,
        path: Path,
        scene: IceScene,
        place: Place,
        time: datetime,
        names: tuple[str, ...],
        dtype: str,
        units: tuple[str, ...] = (),
        nodata: int | None = None,
    ) -> None:
        import rasterio

        self.path, self.names, self.units, self.time = path, names, units, time
        self.partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tif")
        size = scene.swath.spacing_m * LOOKS
        rows, columns = (n // LOOKS for n in scene.shape)
        left, top = place.left + scene.swath.spacing_m * (scene.swath.columns % LOOKS), place.top
        self.file = rasterio.open(
            self.partial, "w", driver="GTiff", count=len(names), dtype=dtype, height=rows, width=columns,
            crs=f"EPSG:{EPSG}", transform=rasterio.Affine(size, 0, left, 0, -size, top), nodata=nodata, tiled=True,
            blockxsize=BLOCK, blockysize=BLOCK, compress="deflate", zlevel=1, predictor=3 if dtype == "float32" else 2,
            bigtiff="if_safer",
        )  # fmt: skip

    def __enter__(self) -> "_Raster":
        return self

    def write(self, row: int, data: NDArray[Any]) -> None:
        """Write (bands, rows, columns) in the product's order; the map has near range at the right."""
        from rasterio.windows import Window

        if data.shape[1]:
            self.file.write(data[:, :, ::-1], window=Window(0, row, data.shape[2], data.shape[1]))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from rasterio.errors import RasterioError

        try:
            if kind is None:
                self.file.update_tags(
                    SOURCE=SOURCE,
                    SOFTWARE=f"sartransfer {__version__}",
                    START=self.time.isoformat(),
                    PLATFORM="simulated",
                    AREA_OR_POINT="Area",
                )
                for i, name in enumerate(self.names, start=1):
                    self.file.set_band_description(i, name)
                for i, unit in enumerate(self.units, start=1):
                    self.file.update_tags(i, UNIT=unit)
            self.file.close()
            if kind is None:
                self.partial.replace(self.path)
        except (OSError, RasterioError) as error:
            raise OutputError(f"{self.path} could not be written: {error}. Is the disk full?") from error
        finally:
            self.partial.unlink(missing_ok=True)


def _coast(scene: IceScene) -> Any:
    """Return land as a shapely geometry in pixels of the product, None where there is none: as exact as maps are."""
    import shapely
    from rasterio.features import shapes

    grid, field = scene.ground.grid, scene.ground.fields[LAND]
    if not (field > 0).any():
        return None
    fine = zoom(field, [(n - 1) * COAST_FINE + 1 for n in field.shape])
    step = grid.step / COAST_FINE
    parts = [
        shapely.geometry.shape(s) for s, v in shapes((fine > 0).astype(np.uint8), connectivity=4) if v == 1
    ]
    # values stand at the centres of their cells: half a step up and left of where these were drawn
    moved = shapely.transform(np.array(parts, dtype=object), lambda xy: (xy - 0.5) * step + 0.5)
    smooth = shapely.simplify(moved, 1.5 * step)
    large = smooth[shapely.area(smooth) > LEAST_ISLAND * scene.shape[0] * scene.shape[1]]
    return shapely.make_valid(shapely.union_all(large)) if len(large) else None


def zoom(field: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return a field (H, W) on more points between the same corners, bilinear."""
    for axis, size in enumerate(shape):
        at = np.linspace(0, field.shape[axis] - 1, size)
        low = np.minimum(at.astype(np.intp), field.shape[axis] - 2)
        weight = (at - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        field = field.take(low, axis=axis) * (1 - weight) + field.take(low + 1, axis=axis) * weight
    return field


def _on_map(scene: IceScene, place: Place, zones: tuple[Zone, ...]) -> list[Any]:
    import shapely

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(to_map(scene, place, points[:, 0], points[:, 1]), axis=1)

    return [shapely.normalize(shapely.transform(z.shape, move)) for z in zones]


def _write_chart(files: SceneFiles, zones: tuple[Zone, ...], shapes: list[Any]) -> None:
    table: dict[str, Any] = {"id": list(range(1, len(zones) + 1)), "POLY_TYPE": [z.kind for z in zones]}
    table |= {name: [z.codes[name] for z in zones] for name in COLUMNS}
    write_geopackage(files.chart, "icechart", shapes, table, EPSG, overwrite=True)


def _write_labels(
    files: SceneFiles,
    scene: IceScene,
    place: Place,
    time: datetime,
    zones: tuple[Zone, ...],
    shapes: list[Any],
) -> None:
    """Draw the chart on the scene's grid as `prepare.icechart` does: ice, water or nothing; and its polygons."""
    import rasterio
    from rasterio.features import rasterize

    rows, columns = (n // LOOKS for n in scene.shape)
    value = np.array(
        [NODATA] + [NODATA if z.is_ice is None else int(z.is_ice) for z in zones], dtype=np.uint8
    )
    numbered = [(shape, i) for i, shape in enumerate(shapes, start=1)]
    with (
        _Raster(files.label, scene, place, time, ("class",), "uint8", nodata=NODATA) as label,
        _Raster(files.polygons, scene, place, time, ("polygon",), "uint16") as polygons,
    ):
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            lies = label.file.transform @ rasterio.Affine.translation(0, first)
            drawn = rasterize(numbered, (count, columns), transform=lies, dtype="uint16")[:, ::-1]
            polygons.write(first, drawn[None])
            label.write(first, value[drawn][None])


def scene_time(month: int) -> datetime:
    """Return when the scene of a month is said to have been taken."""
    return datetime(2018, month, 15, 8, tzinfo=UTC)

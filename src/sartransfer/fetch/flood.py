"""Two dates of one area from an archive: plan, list, load by parts, check, write with provenance."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.errors import FetchError, InputError, OutputError
from sartransfer.fetch.archive import Archive
from sartransfer.fetch.passes import Acquisition, Choice, Pass, choose_passes, covered_share, usable
from sartransfer.fetch.request import Area, FloodRequest, Grid, area_mask, plan_grid
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.units import Scale, Unit, convert
from sartransfer.runs import now, read_json, write_json
from sartransfer.scene import GeoReference
from sartransfer.wholefile import replacing

VERSION = 1  # raise when pixels come out otherwise: parts of an older version are not gone on with
PART = 1024  # pixels a side that are loaded at once
PERIODS = ("before", "after")
PARTS = ".fetch"
PROVENANCE = "provenance.json"


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What an archive has, what is taken of it, and what that weighs."""

    request: FloodRequest
    archive: Archive
    grid: Grid
    found: dict[str, tuple[Acquisition, ...]]
    """By period: what the filters kept."""
    dropped: dict[str, dict[str, int]]
    """By period: filter -> images that it took out."""
    choice: Choice
    bytes_to_load: int
    """From the archive, at most about; not compressed."""
    bytes_to_write: int
    """Of both images, not compressed."""

    def passes(self, period: str) -> tuple[Pass, ...]:
        """The passes taken of a period, earliest first."""
        return self.choice.before if period == "before" else self.choice.after

    def frames(self, period: str) -> tuple[Acquisition, ...]:
        """The frames taken of a period, earliest first."""
        return tuple(f for p in self.passes(period) for f in p.frames)

    def digest(self) -> str:
        """Hash of all that the pixels depend on: parts of another plan are not gone on with."""
        facts = {
            "version": VERSION,
            "archive": self.archive.describe(),
            "grid": asdict(self.grid),
            "polarizations": self.request.polarizations,
            "frames": {p: [f.id for f in self.frames(p)] for p in PERIODS},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class FetchedFlood:
    """What was written."""

    before: Path
    after: Path
    provenance: Path
    coverage: dict[str, float]
    """By period: share of the area's pixels with a value in every band."""
    warnings: tuple[str, ...]


def plan_flood(request: FloodRequest, archive: Archive) -> FetchPlan:
    """Ask an archive what it has, and choose; nothing is loaded.

    Raises `FetchError`: the archive cannot be asked, has nothing that will do, or no orbit has both periods, or what
    it has covers less than ``request.min_coverage`` of the area. `InputError`: a grid that cannot be.
    """
    grid = plan_grid(request)
    found: dict[str, tuple[Acquisition, ...]] = {}
    dropped: dict[str, dict[str, int]] = {}
    for period in PERIODS:
        have = archive.search(request.area, getattr(request, period))
        kept, dropped[period] = usable(have, request)
        found[period] = tuple(kept)
        if not kept:
            why = (
                "; ".join(f"{n} {reason}" for reason, n in dropped[period].items()) or "the archive has none"
            )
            raise FetchError(
                f"no image {period} ({getattr(request, period)}) of the area will do: {why}. Widen the period, or "
                "loosen the filters (pass, relative orbit, polarization)."
            )
    choice = choose_passes(found["before"], found["after"], request)
    plan = FetchPlan(
        request, archive, grid, found, dropped, choice, 0, 2 * _pixels(grid) * 4 * len(request.polarizations)
    )
    for period in PERIODS:
        share = covered_share(plan.frames(period), request.area)
        if share < request.min_coverage:
            raise FetchError(
                f"the images {period} cover {share:.1%} of the area by their footprints, less than "
                f"{request.min_coverage:.0%} ({_named(plan.frames(period))}). Take several passes (--dates all), "
                "another orbit, a smaller area, or less: --min-coverage."
            )
    size = sum(archive.bytes_to_load(f, grid, request.polarizations) for p in PERIODS for f in plan.frames(p))
    return FetchPlan(request, archive, grid, found, dropped, choice, size, plan.bytes_to_write)


def fetch_flood(
    plan: FetchPlan,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FetchedFlood:
    """Load both dates and write ``before.tif``, ``after.tif`` and ``provenance.json`` into a folder.

    Bands say quantity, polarization and scale (``gamma0_vh``, ``sigma0_vv_db``); a pixel without a value in one band is
    NaN there. Parts are kept under ``.fetch`` until all is written: called again after an interruption with the same
    plan, only what is missing is loaded. Frames of a pass are joined with the later one on top, and where several
    passes of a period are taken, the later pass.

    Args:
        plan: of `plan_flood`. out: the folder. overwrite: replace files that are there.
        progress: told (parts done, parts in all).

    Raises:
        FetchError: the archive fails, or too few of the area's pixels have a value: nothing is written then.
        OutputError: files exist, or cannot be written.
    """
    out = Path(out)
    paths = {p: out / f"{p}.tif" for p in PERIODS}
    _check_out(out, (*paths.values(), out / PROVENANCE), overwrite)
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / PARTS / plan.digest()
    scratch.mkdir(parents=True, exist_ok=True)
    images, coverage = {}, {}
    inside = area_mask(plan.request.area, plan.grid)
    windows = list(_windows(plan.grid))
    for number, period in enumerate(PERIODS):
        images[period] = _assemble(
            plan, period, scratch, windows, number * len(windows), 2 * len(windows), progress
        )
        good = np.isfinite(images[period]).all(axis=0) & inside
        coverage[period] = float(good.sum() / inside.sum())
        if coverage[period] < plan.request.min_coverage:
            raise FetchError(
                f"{coverage[period]:.1%} of the area's pixels have a value {period}, less than "
                f"{plan.request.min_coverage:.0%} ({_named(plan.frames(period))}). Take several passes (--dates all), "
                "another orbit, or less: --min-coverage. What was loaded is kept."
            )
    for period in PERIODS:
        _write(plan, period, images.pop(period), coverage[period], paths[period])
    warnings = (*plan.choice.warnings, *_gaps(coverage))
    write_json(out / PROVENANCE, _provenance(plan, coverage, warnings))
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return FetchedFlood(paths["before"], paths["after"], out / PROVENANCE, coverage, warnings)


def _check_out(out: Path, paths: Sequence[Path], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file. Name a folder.")
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already. Name another folder, or overwrite it (--overwrite).")


def _assemble(
    plan: FetchPlan,
    period: str,
    scratch: Path,
    windows: Sequence[tuple[int, int, int, int]],
    done: int,
    of: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    """Return a period's image (B, H, W), linear power; parts that are on disk are not loaded again."""
    bands = len(plan.request.polarizations)
    image = np.full((bands, plan.grid.height, plan.grid.width), np.nan, dtype=np.float32)
    for number, (row, col, height, width) in enumerate(windows):
        path = scratch / f"{period}-{row:06d}-{col:06d}.npy"
        part = _kept(path, (bands, height, width))
        if part is None:
            part = _mosaic(plan, period, plan.grid.part(row, col, height, width), scratch)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, part)
        image[:, row : row + height, col : col + width] = part
        if progress:
            progress(done + number + 1, of)
    return image


def _mosaic(plan: FetchPlan, period: str, grid: Grid, scratch: Path) -> NDArray[np.float32]:
    """Join the frames of a period on a part of the grid, later ones on top; a pixel's bands are of one frame."""
    names = plan.request.polarizations
    out = np.full((len(names), grid.height, grid.width), np.nan, dtype=np.float32)
    where = _outline(grid)
    for frame in sorted(plan.frames(period), key=lambda f: (f.time, f.id), reverse=True):
        open_ = ~np.isfinite(out).all(axis=0)
        if not open_.any():
            break
        if not frame.footprint.intersects(where.geometry):
            continue
        part = plan.archive.load(frame, grid, names, scratch)
        if part.shape != out.shape:
            raise FetchError(f"{frame.id} came as {part.shape}, not as {out.shape}.")
        whole = np.isfinite(part).all(axis=0)
        take = open_ & (whole | ~np.isfinite(out).any(axis=0))
        out[:, take] = part[:, take]
    return out


def _kept(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    if not path.is_file():
        return None
    try:
        part = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = part.shape == shape and part.dtype == np.float32
    return np.asarray(part, dtype=np.float32) if fits else None


def _windows(grid: Grid) -> Iterator[tuple[int, int, int, int]]:
    for row in range(0, grid.height, PART):
        for col in range(0, grid.width, PART):
            yield row, col, min(PART, grid.height - row), min(PART, grid.width - col)


def _outline(grid: Grid) -> Area:
    """Return a part of the grid in degrees, a tenth larger, to leave out frames that lie elsewhere."""
    from rasterio.warp import transform_bounds
    from shapely.geometry import box

    right, bottom = grid.left + grid.width * grid.resolution, grid.top - grid.height * grid.resolution
    west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", grid.left, bottom, right, grid.top)
    aside = 0.1 * max(east - west, north - south)
    return Area(
        box(max(west - aside, -180), max(south - aside, -90), min(east + aside, 180), min(north + aside, 90))
    )


def band_names(plan: FetchPlan) -> tuple[list[str], Unit]:
    """Return the bands' names as `open_scene` understands them, and their unit."""
    quantity = plan.archive.unit.quantity
    unit = Unit(quantity, Scale.DB if plan.request.decibel else Scale.LINEAR)
    ending = "_db" if plan.request.decibel else ""
    return [f"{quantity}_{p.lower()}{ending}" for p in plan.request.polarizations], unit


def _write(plan: FetchPlan, period: str, image: NDArray[np.float32], coverage: float, path: Path) -> None:
    """Filter, convert and write one image."""
    speckle, size = plan.request.speckle, (plan.grid.resolution,) * 2
    if speckle.name != "none":
        image = np.stack([speckle(band, np.isfinite(band), pixel_size=size) for band in image])
    names, unit = band_names(plan)
    if plan.request.decibel:
        image = convert(image, plan.archive.unit, unit)
    if not np.isfinite(image).any():
        raise InputError(f"not one pixel {period} has a value.")
    frames = plan.frames(period)
    write_geotiff(
        path,
        image,
        georeference=GeoReference(plan.grid.crs, plan.grid.transform),
        descriptions=names,
        units=[str(unit)] * len(names),
        tags={
            "SARTRANSFER_VERSION": __version__,
            "SARTRANSFER_TIMES": " ".join(f"{p.time:%Y-%m-%dT%H:%M:%SZ}" for p in plan.passes(period)),
            "SARTRANSFER_ORBITS": " ".join(
                dict.fromkeys(
                    f"{a or 'unknown'}-{'unknown' if b is None else b}" for a, b in (f.orbit for f in frames)
                )
            ),
            "SARTRANSFER_ITEMS": " ".join(f.id for f in frames),
            "SARTRANSFER_SPECKLE": json.dumps(asdict(speckle)),
            "SARTRANSFER_COVERAGE": f"{coverage:.4f}",
            "AREA_OR_POINT": "Area",
        },
        nodata=float("nan"),
        overwrite=True,
    )


def _gaps(coverage: dict[str, float]) -> list[str]:
    return [f"{1 - s:.1%} of the area has no value {p}." for p, s in coverage.items() if s < 0.9995]


def _provenance(plan: FetchPlan, coverage: dict[str, float], warnings: Sequence[str]) -> dict[str, Any]:
    request = plan.request
    names, unit = band_names(plan)
    return {
        "sartransfer": __version__,
        "written": now(),
        "note": request.note,
        "archive": plan.archive.describe(),
        "area": request.area.to_json(),
        "periods": {p: str(getattr(request, p)) for p in PERIODS},
        "grid": {**asdict(plan.grid), "transform": list(plan.grid.transform)},
        "bands": names,
        "unit": str(unit),
        "speckle": asdict(request.speckle),
        "dates": request.dates,
        "choice": plan.choice.why,
        "items": {p: [_item(f) for f in plan.frames(p)] for p in PERIODS},
        "not_taken": {p: [f.id for f in plan.found[p] if f not in plan.frames(p)] for p in PERIODS},
        "filtered_out": plan.dropped,
        "coverage": coverage,
        "warnings": list(warnings),
    }


def _item(frame: Acquisition) -> dict[str, Any]:
    return {
        "id": frame.id,
        "time": frame.time.isoformat(),
        "platform": frame.platform,
        "mode": frame.mode,
        "pass": frame.orbit_pass,
        "relative_orbit": frame.relative_orbit,
        "polarizations": list(frame.polarizations),
    }


def _pixels(grid: Grid) -> int:
    return grid.height * grid.width


def _named(frames: Sequence[Acquisition]) -> str:
    return ", ".join(f.id for f in frames[:4]) + (f" and {len(frames) - 4} more" if len(frames) > 4 else "")


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """Return what ``provenance.json`` of a fetched folder says; raises `InputError` where it is not there."""
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        raise InputError(f"{path} is not there. Give the folder that `sartransfer fetch flood` wrote.")
    values: dict[str, Any] = read_json(path)
    return values

"""Twelve simulated EW scenes of sea ice, one a month, with charts and labels: a dataset that needs no file.

No labelled Sentinel-1 EW scene may be shipped. These are physics from papers (`radar.sea_ice`) and prove that the
machinery does what it says; no score measured on them says how well real ice is told from real water.
"""

import json
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, TRAIN, Asset, Catalog, Entry, write_catalog
from sartransfer.data.simulated import seed_of
from sartransfer.data.simulated_ice_files import LOOKS, SOURCE, SceneFiles, scene_time, write_scene
from sartransfer.data.simulated_ice_product import Place
from sartransfer.errors import InputError, OutputError
from sartransfer.radar.sea_ice.scene import IceScene, make_ice_scene

VERSION = 1  # raise when the simulation changes, so that old folders are not taken for new ones
MONTHS = tuple(range(1, 13))
MANIFEST = "simulated.json"
CLASSES = ("water", "ice")
TESTS = {1: "january", 7: "july"}
"""Month -> test set, as in Karimzadeh and Pires de Lima (IGARSS 2023): freeze-up and melt."""
# Upper left corner of January's scene on the map (EPSG:3413), and gap between scenes: all of a full-size year
# lies north of 66 degrees and clear of the pole, no two scenes on the same ground.
ORIGIN, GAP_M, ACROSS = (240_000.0, -320_000.0), 20_000.0, 4
BYTES_A_PIXEL = 9.5  # three bands of float32 and four rasters of labels, packed; of a scene's pixel
SAMPLE_ROWS = 128  # lines that are made to tell how long all take


@dataclass(frozen=True, slots=True)
class IceSettings:
    """What a folder of simulated scenes is made with."""

    seed: int = 0
    size: int = 1000
    """Pixels a side of a scene; the product has twice as many. 5,000 of 80 m is full size."""
    pixel_m: float = 80.0
    mistakes: float = 0.05
    """Share of a chart's polygons that are called what they are not."""
    months: tuple[int, ...] = MONTHS

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: must be 0 or above.")
        if not 64 <= self.size <= 10_000:
            raise InputError(f"size={self.size}: must be 64 to 10000 pixels.")
        if not 10 <= self.pixel_m <= 2000:
            raise InputError(f"pixel_m={self.pixel_m:g}: must be 10 to 2000 m.")
        if self.size * self.pixel_m > 450_000:
            raise InputError(
                f"size={self.size} pixels of {self.pixel_m:g} m are {self.size * self.pixel_m / 1000:g} km: an EW "
                "swath has 420. Take fewer or smaller pixels."
            )
        if not 0 <= self.mistakes <= 1:
            raise InputError(f"mistakes={self.mistakes:g}: a share of the polygons, 0 to 1.")
        if (
            not self.months
            or sorted(set(self.months)) != list(self.months)
            or not set(self.months) <= set(MONTHS)
        ):
            raise InputError(f"months={list(self.months)}: must be of 1 to 12, each once, in order.")


@dataclass(frozen=True, slots=True)
class IceEstimate:
    """What a folder of simulated scenes will take."""

    scenes: int
    """Still to be made."""
    disk_bytes: int
    seconds: float
    memory_bytes: int


def simulated_sea_ice(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 1000,
    pixel_m: float = 80.0,
    mistakes: float = 0.05,
    months: tuple[int, ...] = MONTHS,
) -> Catalog:
    """Return the catalog of simulated sea-ice scenes in `folder`, written first where they are not there yet.

    Bands are ``sigma0_hh_db``, ``sigma0_hv_db`` and ``incidence_angle_deg``; labels are the chart's, ``water`` and
    ``ice``, 255 on land. January and July are test sets, the other months ``train``, as in ExtremeEarth v2. The
    group is the scene. Scenes that are there are not made again, so that what was stopped goes on.

    Args:
        folder: where. seed: of everything. size: pixels a side. pixel_m: metres. mistakes: share of the polygons.
        months: which.

    Raises `InputError` for values that are not possible, `OutputError` if the folder holds something else, or the
    same of other settings.
    """
    return write_ice_scenes(Path(folder), IceSettings(seed, size, pixel_m, mistakes, tuple(months)))


def write_ice_scenes(
    folder: Path,
    settings: IceSettings,
    *,
    safe: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Catalog:
    """Write the scenes that a folder lacks, then its catalog; return that.

    `safe`: write their products too. `progress`: told (scene, blocks done, blocks in all). See `simulated_sea_ice`.
    """
    claim(folder, settings)
    for month in settings.months:
        files = files_of(folder, month)
        if is_whole(files, safe):
            continue
        write_scene(
            files,
            scene_of(settings, month),
            place_of(settings, month),
            scene_time(month),
            mistakes=settings.mistakes,
            safe=safe,
            progress=None if progress is None else _naming(progress, files.id),
        )
    there = tuple(m for m in MONTHS if is_whole(files_of(folder, m), safe=False))
    write_catalog(_catalog(folder, there), folder / "catalog.csv", overwrite=True)
    return _catalog(folder, settings.months)


def claim(folder: Path, settings: IceSettings) -> None:
    """Make the folder, or check that it holds these scenes; raises `OutputError` where it holds something else."""
    wanted = {"kind": "sea ice", "version": VERSION, **asdict(settings)}
    del wanted["months"]  # more of them may be made later
    manifest = folder / MANIFEST
    if manifest.is_file():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError:
            found = "nothing that can be read"
        if found != wanted:
            raise OutputError(
                f"{folder} holds simulated scenes of other settings: {found}; wanted: {wanted}. Name another "
                "folder, or remove it."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} exists and holds no simulated scenes ({MANIFEST} is missing). Name another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error


def estimate(folder: Path, settings: IceSettings, *, safe: bool = False) -> IceEstimate:
    """Say what is still to be written, and how long that takes by a sample of the first scene's lines."""
    left = [m for m in settings.months if not is_whole(files_of(folder, m), safe)]
    pixels = settings.size**2
    if not left:
        return IceEstimate(0, 0, 0.0, 0)
    begin = clock.perf_counter()
    scene = scene_of(settings, left[0])
    made = clock.perf_counter() - begin
    rows = min(SAMPLE_ROWS, scene.swath.lines)
    scene.surface_rows(0, 1)  # kernels are compiled here, once
    scene.counts_rows(0, *scene.surface_rows(0, 1))
    begin = clock.perf_counter()
    scene.counts_rows(0, *scene.surface_rows(0, rows))
    blocks = (clock.perf_counter() - begin) * scene.swath.lines / rows
    # averaging, decibels and packing take about 12 ns a pixel of the product more, the chart some seconds
    seconds = len(left) * (made + blocks + 12e-9 * pixels * LOOKS**2 * 4 + 3)
    disk = int(len(left) * pixels * (BYTES_A_PIXEL + (2 * 2 * LOOKS**2 if safe else 0)))
    memory = int(400e6 + 60 * settings.size * LOOKS * 512)
    return IceEstimate(len(left), disk, seconds, memory)


def files_of(folder: Path, month: int) -> SceneFiles:
    """Return the files of a month's scene."""
    return SceneFiles(Path(folder), f"sim_{scene_time(month):%Y%m%dt%H%M%S}")


def is_whole(files: SceneFiles, safe: bool) -> bool:
    """Say whether a scene is there: its details, which are written last, and its product if that is wanted."""
    return files.details.is_file() and (not safe or bool(product_of(files)))


def product_of(files: SceneFiles) -> Path | None:
    """Return the product of a scene, if it was written."""
    stamp = files.id.removeprefix("sim_").upper()
    return next(iter(sorted(files.products.glob(f"*_{stamp}_*.SAFE"))), None)


def scene_of(settings: IceSettings, month: int) -> IceScene:
    """Return the scene of a month, nothing of whose pixels is made yet."""
    side = settings.size * LOOKS
    return make_ice_scene(side, side, settings.pixel_m / LOOKS, month, seed_of(settings.seed, 7, month))


def place_of(settings: IceSettings, month: int) -> Place:
    """Return ground of its own for a month's scene: west to east, then south; corners on whole pixels."""
    row, column = divmod(month - 1, ACROSS)
    step = settings.size * settings.pixel_m + GAP_M
    left, top = ORIGIN[0] + column * step, ORIGIN[1] - row * step
    return Place(
        round(left / settings.pixel_m) * settings.pixel_m, round(top / settings.pixel_m) * settings.pixel_m
    )


def _catalog(folder: Path, months: tuple[int, ...]) -> Catalog:
    entries = []
    for month in months:
        files = files_of(folder, month)
        entries.append(
            Entry(
                id=files.id,
                assets=(Asset(files.image),),
                label=files.label,
                split=TESTS.get(month, TRAIN),
                group=files.id,
                time=scene_time(month),
                platform="simulated",
            )
        )
    return Catalog(
        "simulated sea ice", tuple(entries), CLASSES, {0: 0, 1: 1, 255: IGNORE_INDEX}, source=SOURCE
    )


def _naming(progress: Callable[[str, int, int], None], id: str) -> Callable[[int, int], None]:
    return lambda done, of: progress(id, done, of)

"""Simulated data for the demo and tests: plentiful optical images, few SAR labels, a scene to map."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import TRAIN, Asset, Catalog, Entry
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.landscape import CLASSES
from sartransfer.radar.synthetic import OPTICAL_BANDS, SimulatedScene, make_scene
from sartransfer.radar.units import parse_unit
from sartransfer.scene import Band, GeoReference

VERSION = 1  # raise when the simulation changes, so that old folders are not taken for new ones
SOURCE = "simulated by sartransfer (radar/synthetic.py), not measured"
MAP_ID = "map"
FULL_SCALE_REFLECTANCE = 0.25  # what 255 stands for in the optical images; brighter is clipped
SAR_BANDS = (
    Band("sigma0_vv_db", parse_unit("sigma0_db"), "VV"),
    Band("sigma0_vh_db", parse_unit("sigma0_db"), "VH"),
)
_MANIFEST = "simulated.json"
_PIXEL_M = 10.0


def simulated_optical(
    folder: Path, *, seed: int = 0, train: int = 64, test: int = 8, size: int = 96
) -> Catalog:
    """Return the catalog of simulated optical scenes in `folder`, written first if they are not there yet.

    Each scene is a PNG of red, green, blue (8 bits, 255 = reflectance .25) and a PNG of class indices, of
    size x size pixels; every scene is a group of its own. Splits: ``train`` and ``test``.

    Raises `OutputError` if the folder holds something else, or the same of other parameters.
    """
    check_counts(seed=seed, train=train, test=test, size=size)
    names = [f"optical_{i:03d}" for i in range(train + test)]

    def write(into: Path) -> None:
        for i, name in enumerate(names):
            scene = make_scene(size, seed_of(seed, 1, i), seed_of(seed, 2, i))
            write_png(into / f"{name}.png", _eight_bits(scene.optical).transpose(1, 2, 0))
            write_png(into / f"{name}_label.png", scene.classes)

    settings = {"kind": "optical", "seed": seed, "train": train, "test": test, "size": size}
    write_once(folder, settings, write)
    bands = tuple(Band(name, parse_unit("optical")) for name in OPTICAL_BANDS)
    entries = tuple(
        Entry(
            id=name,
            assets=(Asset(folder / f"{name}.png", bands=bands),),
            label=folder / f"{name}_label.png",
            split=TRAIN if i < train else "test",
            group=name,
        )
        for i, name in enumerate(names)
    )
    return Catalog("simulated optical", entries, CLASSES, source=SOURCE)


def simulated_sar(
    folder: Path,
    *,
    seed: int = 0,
    train_groups: int = 6,
    test_groups: int = 5,
    scenes_per_test_group: int = 2,
    size: int = 128,
    map_size: int = 384,
    looks: float = 2.0,
) -> Catalog:
    """Return the catalog of simulated SAR scenes in `folder`, written first if they are not there yet.

    Each scene is a GeoTIFF of sigma0_vv_db and sigma0_vh_db (float32) and a GeoTIFF of class indices, on 10
    m pixels in UTM zone 33 north, no two on the same ground. A group is an event: its wind, moisture and
    incidence angle are its own. Split ``train`` has one scene a group, ``test`` several scenes of each of
    its groups, which training never sees. One larger scene, id ``map``, of a further event, belongs to no
    split: it is there to be mapped.

    Raises `OutputError` if the folder holds something else, or the same of other parameters.
    """
    check_counts(
        seed=seed,
        train_groups=train_groups,
        test_groups=test_groups,
        scenes_per_test_group=scenes_per_test_group,
        size=size,
        map_size=map_size,
    )
    plan = [(f"train_{g:02d}", TRAIN, g) for g in range(train_groups)]
    for g in range(test_groups):
        plan += [(f"test_{g:02d}_{s}", "test", train_groups + g) for s in range(scenes_per_test_group)]
    plan.append((MAP_ID, "", train_groups + test_groups))

    def write(into: Path) -> None:
        for i, (name, split, group) in enumerate(plan):
            pixels = size if split else map_size
            scene = make_scene(pixels, seed_of(seed, 3, i), seed_of(seed, 4, group), looks=looks)
            _write_sar(into, name, scene, _place(i, max(size, map_size)))

    settings = {
        "kind": "sar",
        "seed": seed,
        "train_groups": train_groups,
        "test_groups": test_groups,
        "scenes_per_test_group": scenes_per_test_group,
        "size": size,
        "map_size": map_size,
        "looks": looks,
    }
    write_once(folder, settings, write)
    entries = tuple(
        Entry(
            id=name,
            assets=(Asset(folder / f"{name}.tif", bands=SAR_BANDS),),
            label=folder / f"{name}_label.tif",
            split=split or None,
            group=f"event_{group:02d}",
            platform="simulated",
        )
        for name, split, group in plan
    )
    return Catalog("simulated SAR", entries, CLASSES, source=SOURCE)


def seed_of(seed: int, kind: int, number: int) -> int:
    """Return one integer for (seed, kind, number); the kinds keep the streams apart."""
    return int(np.random.SeedSequence([seed, kind, number]).generate_state(1, np.uint64)[0])


def check_counts(*, seed: int, **counts: int) -> None:
    """Raise `InputError` for a seed below 0 or a count below 1."""
    if seed < 0:
        raise InputError(f"seed={seed}: must be 0 or above.")
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1.")


def _place(number: int, widest: int) -> GeoReference:
    """Return ground of its own for the scene of this number: west to east, with a gap."""
    step = _PIXEL_M * widest + 1000.0
    rows, column = divmod(number, 20)
    west, north = 330_000.0 + column * step, 5_400_000.0 + rows * step
    return GeoReference("EPSG:32633", (_PIXEL_M, 0.0, west, 0.0, -_PIXEL_M, north))


def _write_sar(folder: Path, name: str, scene: SimulatedScene, place: GeoReference) -> None:
    decibel = (10.0 * np.log10(scene.sar)).astype(np.float32)
    tags = {"SOURCE": SOURCE}
    write_geotiff(
        folder / f"{name}.tif",
        decibel,
        georeference=place,
        descriptions=[b.name for b in SAR_BANDS],
        units=[str(b.unit) for b in SAR_BANDS],
        tags=tags,
    )
    write_geotiff(
        folder / f"{name}_label.tif",
        scene.classes[None],
        georeference=place,
        descriptions=["class"],
        tags=tags,
    )


def _eight_bits(reflectance: NDArray[np.float32]) -> NDArray[np.uint8]:
    stretched = np.clip(reflectance / FULL_SCALE_REFLECTANCE, 0, 1)
    display: NDArray[np.uint8] = np.rint(255 * stretched).astype(np.uint8)
    return display


def write_png(path: Path, pixels: NDArray[np.uint8 | np.uint16]) -> None:
    """Write a grey (H, W) image of 8 or 16 bits, or an 8-bit colour image (H, W, 3)."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def write_once(folder: Path, settings: dict[str, object], write: Callable[[Path], None]) -> None:
    """Fill `folder` by `write` unless it was filled with these settings before; whole or not at all."""
    wanted = {"version": VERSION, **settings}
    if _is_filled(folder, wanted):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)  # mkdtemp makes it private
        write(partial)
        (partial / _MANIFEST).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        try:
            os.replace(partial, folder)  # noqa: PTH105 - takes an empty folder's place, never a full one's
        except OSError as error:
            # Another process may have finished the same data in the meantime; then its folder serves.
            if not _is_filled(folder, wanted):
                raise OutputError(f"cannot write simulated data to {folder}: {error.strerror}.") from error
    except OSError as error:
        raise OutputError(f"cannot write simulated data to {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_filled(folder: Path, wanted: dict[str, object]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputError(
            f"{folder} exists and holds no simulated data ({_MANIFEST} is missing or damaged). "
            "Name another folder, or remove it."
        ) from None
    if found != wanted:
        raise OutputError(
            f"{folder} holds simulated data of other settings: {found}; wanted: {wanted}. "
            "Name another folder, or remove it."
        )
    return True

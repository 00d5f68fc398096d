"""Seconds and peak memory of preparing whole scenes: a Sentinel-1 EW product, and a flood mask from two dates.

    python benchmarks/products.py [--size 10000] [--folder FOLDER]

A simulated EW product (SAFE folder, HH and HV, 16 bits, noise vectors) goes through `sartransfer prepare sentinel1` by
all its defaults: calibration, thermal noise, 2 x 2 looks, geocoding. Two dates of speckle with a lake that grows go
through `sartransfer prepare flood --rule un_spider`. Each command runs in a process of its own and its peak is what
Linux calls VmHWM, imports and all. The aim of both is less than 2 GB. Inputs of 10,000 x 10,000 take 1.3 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_GB = 2.0
LOOKS = 4.4
COMMAND = """
import json, sys
from sartransfer.cli import main
try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
with open("/proc/self/status") as file:  # ru_maxrss would keep the peak of the process that started this one
    print("peak", next(int(line.split()[1]) for line in file if line.startswith("VmHWM")))
"""


def make_product(folder: Path, size: int) -> Path:
    """Write a simulated product of May and return its SAFE folder."""
    from sartransfer.data.simulated_ice import IceSettings, write_ice_scenes

    write_ice_scenes(folder, IceSettings(0, size, 40.0, 0.05, (5,)), safe=True)
    return next(folder.rglob("*.SAFE"))


def make_dates(folder: Path, size: int) -> tuple[Path, Path]:
    """Write VH in dB before and after: land of -14 dB, a lake of -24 dB that is wider after."""
    import numpy as np
    import rasterio

    folder.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    paths = folder / "before.tif", folder / "after.tif"
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        options = {
            "driver": "GTiff",
            "height": size,
            "width": size,
            "count": 1,
            "dtype": "float32",
            "tiled": True,
        }
        with rasterio.open(
            path, "w", **options, crs="EPSG:32630", transform=transform, compress="deflate"
        ) as file:
            file.set_band_description(1, "sigma0_vh_db")
            file.update_tags(1, unit="sigma0_db")
            for top in range(0, size, 512):
                rows = min(512, size - top)
                y, x = np.mgrid[top : top + rows, :size] / size - 0.5
                lake = y**2 + (1 + np.sin(9 * y)) * x**2 < (0.03, 0.09)[number]
                power = np.where(lake, 10**-2.4, 10**-1.4) * rng.gamma(LOOKS, 1 / LOOKS, (rows, size))
                file.write(
                    (10 * np.log10(power)).astype(np.float32),
                    1,
                    window=rasterio.windows.Window(0, top, size, rows),
                )
    return paths


def measured(*arguments: str | Path) -> tuple[float, float]:
    """Run a command of sartransfer in a process of its own; returns its seconds and its peak in GB."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"sartransfer {' '.join(map(str, arguments))} failed:\n{done.stdout}\n{done.stderr}")
    kilobytes = int(done.stdout.rsplit("peak", 1)[1].split()[0])
    return time.perf_counter() - began, kilobytes * 1024 / 1e9


def main() -> None:
    """Make the inputs, prepare them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000, help="pixels a side")
    parser.add_argument("--folder", type=Path, help="where the inputs are kept; default: thrown away")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        product = make_product(folder / f"product-{given.size}", given.size)
        before, after = make_dates(folder / f"dates-{given.size}", given.size)
        out = Path(temporary)
        rows = {
            "prepare sentinel1": measured("prepare", "sentinel1", product, "-o", out / "scene.tif"),
            "prepare flood --rule un_spider": measured(
                "prepare", "flood", before, after, "-o", out / "mask.tif", "--rule", "un_spider"
            ),
        }
    print(f"\n{given.size} x {given.size} pixels\n\n| command | s | peak GB | aim GB |\n|---|---|---|---|")
    for name, (seconds, peak) in rows.items():
        print(f"| `{name}` | {seconds:.0f} | {peak:.2f} | {LIMIT_GB:g} |")
    print(json.dumps({name: {"seconds": s, "peak_gb": p} for name, (s, p) in rows.items()}))
    if any(peak >= LIMIT_GB for _, peak in rows.values()):
        raise SystemExit("a peak is above the aim")


if __name__ == "__main__":
    main()

"""What mapping a year of Arctic EW scenes costs: arithmetic over measured inputs, each of which can be given.

    python benchmarks/archive_cost.py                                # the table of docs/clusters.md
    python benchmarks/archive_cost.py --measure --side 10000         # measure a scene on this machine first
    python benchmarks/archive_cost.py --scenes 80000 --machines 50 --price 0.40

A scene is measured in a process of its own: processor seconds (all threads; other work on the machine disturbs them
less than the clock), the peak of its memory, and the bytes of its map. The network has random weights, which cost what
trained ones cost. The scene is simulated, in the size of an EW GRD product of medium resolution.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

DAYS = 365.25
ORBITS = 175 / 12  # a day and satellite: 175 orbits in a repeat cycle of 12 days (ESA, Sentinel-1 User Guide)
INCLINATION, CIRCLE = 98.18, 66.56  # degrees: of the orbit (ESA data sheet), and the Arctic Circle
SLICE = 64.0  # seconds of an EW scene: S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446
# Howell, Brady, Komarov 2022 (The Cryosphere 16, 1125): 135,471 SAR images of the Arctic by Sentinel-1 A and B and
# three satellites of RCM in the 20 months March 2020 to October 2021.
PUBLISHED = 135_471 / 20 * 12


def arctic_minutes() -> float:
    """Minutes of one orbit that a satellite is above the Arctic Circle: an upper bound of what it can take there."""
    top = math.sin(math.radians(180 - INCLINATION))
    share = math.acos(math.sin(math.radians(CIRCLE)) / top) / math.pi
    return share * 24 * 60 / ORBITS


@dataclass(frozen=True)
class Inputs:
    """What the arithmetic takes; each can be given on the command line."""

    # Two of the five satellites of the published count, as if all took as many: an assumption.
    scenes: float = round(PUBLISHED * 2 / 5, -2)
    """A year."""
    pixels: float = 100e6
    """Of a scene: 400 km x 400 km at 40 m."""
    cpu_seconds: float = 0.0
    """Processor seconds to map one scene."""
    prepare_seconds: float = 0.0
    """Processor seconds to calibrate, denoise and geocode it; 0 where products are mapped as they are."""
    memory_gb: float = 0.0
    """At the peak, of one worker."""
    map_mb: float = 0.0
    """Of one map on disk."""
    product_mb: float = 400.0
    """Of one product: two polarizations of 16 bits, not compressed."""
    machines: int = 10
    cores: int = 16
    """Of a machine; one worker for each `threads` of them."""
    threads: int = 1
    """Of a worker."""
    use: float = 0.8
    """Share of the processors' time that goes into scenes: reading, writing and waiting take the rest (assumed)."""
    price: float = 0.04
    """Of one core for one hour, in whatever money."""


@dataclass(frozen=True)
class Cost:
    """What comes of it."""

    core_hours: float
    hours: float
    """On all machines together."""
    memory_gb: float
    """A machine."""
    maps_gb: float
    products_tb: float
    megabytes_a_second: float
    """That must be read, over all machines, to keep them busy."""
    money: float


def cost(given: Inputs) -> Cost:
    """Work it out."""
    core_seconds = given.scenes * (given.cpu_seconds + given.prepare_seconds) / given.use
    hours = core_seconds / 3600 / (given.machines * given.cores)
    return Cost(
        core_hours=core_seconds / 3600,
        hours=hours,
        memory_gb=given.memory_gb * (given.cores // given.threads),
        maps_gb=given.scenes * given.map_mb / 1e3,
        products_tb=given.scenes * given.product_mb / 1e6,
        megabytes_a_second=given.scenes * given.product_mb / (hours * 3600) if hours else math.inf,
        money=core_seconds / 3600 * given.price,
    )


def make_scene(folder: Path, side: int) -> None:
    """Write a simulated scene of two bands in dB, and a network with random weights: ResNet-18 and ASPP."""
    import numpy as np
    import rasterio
    import torch

    from sartransfer.contract import InputBand, InputContract
    from sartransfer.models import build_model, write_checkpoint

    rng = np.random.default_rng(0)
    coarse = rng.normal(-14, 3, size=(2, side // 64 + 2, side // 64 + 2)).astype(np.float32)
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", count=2, height=side, width=side, dtype="float32", tiled=True,
        blockxsize=512, blockysize=512, bigtiff="if_safer", crs="EPSG:3413",
        transform=rasterio.transform.from_origin(0, 0, 40, 40),
    ) as file:  # fmt: skip
        for row in range(0, side, 512):
            rows = min(512, side - row)
            at = (np.arange(row, row + rows)[:, None] // 64, np.arange(side)[None] // 64)
            for band in range(2):
                noise = rng.normal(size=(rows, side)).astype(np.float32)
                window = rasterio.windows.Window(0, row, side, rows)
                file.write(coarse[band][at] + noise, band + 1, window=window)
        for band, name in enumerate(("sigma0_hh_db", "sigma0_hv_db")):
            file.set_band_description(band + 1, name)
    torch.manual_seed(0)
    bands = tuple(InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper(), mean=-14, std=3) for p in ("hh", "hv"))
    model = build_model("resnet18-aspp", 2, 6, rates=[12, 24, 36], pooling="global").eval()
    classes = tuple("abcdef")
    write_checkpoint(
        folder / "best",
        model,
        {"classes": classes, "contract": InputContract(bands).to_json()},
    )


CHILD = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[3]))
from sartransfer.mapping import predict_scene
folder = sys.argv[1]
found = predict_scene(folder + "/best.json", folder + "/scene.tif", folder + "/map.tif", engine=sys.argv[2])
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) * 1024, "plan": found.plan.describe(), "foreseen": found.plan.memory}))
"""


def measure(side: int, engine: str, threads: int) -> dict[str, float | str]:
    """Map one scene in a process of its own and tell what it took."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_scene(folder, side)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        words = [sys.executable, "-c", CHILD, place, engine, str(threads)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        told = json.loads(done.stdout.splitlines()[-1])
        size = sum(p.stat().st_size for p in folder.glob("map.tif*"))
    return {
        "side": side, "engine": engine, "threads": threads,
        "cpu_seconds": round(cpu, 1), "clock_seconds": round(clock, 1),
        "memory_gb": round(told["peak"] / 1e9, 2), "map_mb": round(size / 1e6, 1), "plan": told["plan"],
    }  # fmt: skip


def tables(given: Inputs) -> str:
    """Return the pages' tables as Markdown."""
    lines = [
        "| input | value |",
        "|---|---|",
        *(f"| {f.name} | {getattr(given, f.name):,.10g} |" for f in fields(given)),
        "",
        "| machines | core hours | hours | days | memory of one | maps | products read | to be read | price |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for machines in sorted({1, given.machines, 5 * given.machines}):
        found = cost(replace(given, machines=machines))
        lines.append(
            f"| {machines} x {given.cores} cores | {found.core_hours:,.0f} | {found.hours:,.1f} | "
            f"{found.hours / 24:,.1f} | {found.memory_gb:,.1f} GB | {found.maps_gb:,.0f} GB | "
            f"{found.products_tb:,.1f} TB | {found.megabytes_a_second:,.0f} MB/s | {found.money:,.0f} |"
        )
    return "\n".join(lines)


# 2026-11-20, 2 cores of an AMD processor (AVX-512) under much other work, one thread, float32. cpu_seconds, memory_gb:
# --measure --side 10000 (eager; split stage). prepare_seconds: `sartransfer prepare sentinel1` of simulated products
# of 2,500^2 (2.7 s) and 5,000^2 (7.0 s), the line through both at 10,000^2. map_mb: the simulated truth of five kinds
# of ice, 0.34 MB of deflate for 2,500^2, scaled, with a third for overviews.
MEASURED = {"cpu_seconds": 93.1, "memory_gb": 1.72, "map_mb": 7.3, "prepare_seconds": 107.0}


def main() -> None:
    """Read the command line, measure if asked, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in fields(Inputs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float if field.type is float else int)
    parser.add_argument(
        "--measure", action="store_true", help="map one scene here first, and take its numbers"
    )
    parser.add_argument("--side", type=int, default=10_000, help="of the measured scene, in pixels")
    parser.add_argument("--engine", default="eager", help="that maps it")
    words = vars(parser.parse_args())
    given = replace(Inputs(), **MEASURED)
    if words["measure"]:
        found = measure(words["side"], words["engine"], int(words["threads"] or given.threads))
        print(json.dumps(found), "\n")
        scale = given.pixels / words["side"] ** 2
        seconds = round(float(found["cpu_seconds"]) * scale, 1)
        given = replace(given, cpu_seconds=seconds, memory_gb=float(found["memory_gb"]))
    told = {f.name: words[f.name] for f in fields(Inputs) if words[f.name] is not None}
    print(tables(replace(given, **told)))
    bound = ORBITS * DAYS * arctic_minutes() * 60 / SLICE
    print(
        f"\nScenes a year: published for five satellites {PUBLISHED:,.0f}; the geometric bound of one, always on "
        f"above the Arctic Circle ({arctic_minutes():.1f} min of each orbit), {bound:,.0f}."
    )


if __name__ == "__main__":
    main()

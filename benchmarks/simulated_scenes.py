"""Time simulated EW scenes, compiled against plain numpy, side by side in one run, and check that both mean the same.

    python benchmarks/simulated_scenes.py [--size 10000] [--sample 1000] [--turns 3] [--month 3]

The contestants make the same thing from the same ground: what lies in each pixel, its backscatter in HH and HV,
noise by sub-swath with scalloping, speckle, and the 16-bit numbers of the product. *Plain numpy* is what one
writes first: fields by scipy's interpolation, every formula at every pixel (CMOD5.N too), numpy's gamma generator,
in blocks of rows. *numpy tables* is the package without numba; *compiled* with it. They take turns; a number is
the median over turns of wall time for --sample rows of a scene of --size columns; compiled makes whole scenes,
whose time and peak memory are told. Compiling and making the ground are told apart. Then statistics of both: means
by surface, looks, correlation of neighbours, noise.

Target (shared reference): 40 times plain numpy. Numbers of the two differ pixel by pixel (other random numbers);
what must agree is their distribution.
"""

import argparse
import resource
import statistics
import time

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from sartransfer import compiled
from sartransfer.compiled import thread_count
from sartransfer.radar.sea_ice import scene
from sartransfer.radar.sea_ice.backscatter import Surface, sea_backscatter, signature_of
from sartransfer.radar.sea_ice.floes import draw_floes
from sartransfer.radar.sea_ice.geometry import AGE, EDGE, FROST, LAND, LEAD_1, LEAD_2, TONE, WIND
from sartransfer.radar.sea_ice.scene import FLOE_TONE_DB, GUST, IceScene, make_ice_scene
from sartransfer.radar.sea_ice.swath import POLARIZATIONS

Numbers = NDArray[np.uint16]
TARGET = 40.0
BLOCK = 256  # rows at a time


def plain_numpy(
    made: IceScene, first: int, rows: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Numbers]:
    """Return surface and numbers of some rows, formula by formula."""
    ground, swath, weather = made.ground, made.swath, made.weather
    width, step, limit = swath.columns, ground.grid.step, ground.thresholds
    at = np.meshgrid(np.arange(first, first + rows) / step, np.arange(width) / step, indexing="ij")
    names = (EDGE, LEAD_1, LEAD_2, AGE, FROST, LAND, TONE, WIND)
    field = {k: map_coordinates(ground.fields[k], at, order=1) for k in names}
    fine, coarse = (
        t[np.arange(first, first + rows)[:, None] % len(t), np.arange(width) % len(t)] / 32.0
        for t in ground.tiles
    )
    codes = np.zeros((rows, width), dtype=np.uint8)
    draw_floes(ground.floes.crossing(first, rows), first, codes)
    edge, frost = field[EDGE] + limit.ragged * coarse, field[FROST]
    surface = np.where((edge > -3) & (frost + edge > limit.grease), Surface.NEW, Surface.WATER)
    floe = np.where(codes > 8, Surface.OLD, Surface.FIRST_YEAR)
    surface = np.where((edge > 0) & (codes > 0), floe, surface)
    pack, base = edge >= 1, np.where(field[AGE] > limit.old, Surface.OLD, Surface.FIRST_YEAR)
    lead = (np.abs(field[LEAD_1]) < limit.lead_1) | (np.abs(field[LEAD_2]) < limit.lead_2)
    frozen = np.where(
        frost > limit.young, Surface.YOUNG, np.where(frost > limit.new, Surface.NEW, Surface.WATER)
    )
    surface = np.where(pack, np.where(lead, frozen, np.where(codes > 0, floe, base)), surface)
    on_floe = (codes > 0) & (edge > 0) & ~(pack & lead) & (field[LAND] <= limit.fast)
    surface = np.where(
        field[LAND] > 0, Surface.LAND, np.where(field[LAND] > limit.fast, Surface.FAST, surface)
    )
    tone = np.where(on_floe, (codes.astype(int) - 1) % 8 - 3.5, 0.0)
    angle = swath.incidence_deg(np.arange(width))[None, :] + np.zeros((rows, 1))
    sigma0 = np.empty((2, rows, width))
    for kind in np.unique(surface):
        here = surface == kind
        if kind == Surface.WATER:
            wind = weather.wind_m_s * np.exp(field[WIND][here] + GUST * (fine + coarse)[here])
            sigma0[:, here] = sea_backscatter(
                np.clip(wind, 0.5, 40.0), weather.wind_direction_deg, angle[here]
            )
            continue
        s = signature_of(Surface(kind), weather.melted)
        off = angle[here] - 35.0
        uneven = (
            s.regional_db * field[TONE][here]
            + s.texture_db * (fine + coarse)[here]
            + FLOE_TONE_DB * tone[here]
        )
        sigma0[0, here] = 10 ** ((s.hh_db + s.hh_slope * off + uneven) / 10)
        sigma0[1, here] = 10 ** ((s.hv_db + s.hv_slope * off + s.hv_share * uneven) / 10)
    counts = np.empty((2, rows, width), dtype=np.uint16)
    widths = np.diff(swath.bounds)
    for k, polarization in enumerate(POLARIZATIONS):
        factors = np.repeat(swath.scalloping(polarization, np.arange(first, first + rows)), widths, axis=0).T
        noise = np.repeat(made.noise_error[k], widths) * swath.nesz(polarization) * factors
        drawn = rng.gamma(made.looks / 4, 1 / made.looks, (rows + 1, width + 1))
        speckle = drawn[:-1, :-1] + drawn[1:, :-1] + drawn[:-1, 1:] + drawn[1:, 1:]
        table = swath.sigma_table(np.arange(width))
        counts[k] = np.clip(np.rint(np.sqrt((sigma0[k] + noise) * speckle) * table), 1, 65535)
    return surface.astype(np.uint8), counts


def package(made: IceScene, first: int, rows: int) -> tuple[NDArray[np.uint8], Numbers]:
    """Return the same from the package."""
    surface, level = made.surface_rows(first, rows)
    return surface, made.counts_rows(first, surface, level)


def statistics_of(made: IceScene, surface: NDArray[np.uint8], counts: Numbers) -> dict[str, float]:
    """Return what must not depend on who made the numbers."""
    power = np.square(counts.astype(np.float64) / made.tables.amplitude)
    out = {}
    for kind in (Surface.WATER, Surface.FIRST_YEAR, Surface.OLD):
        here = surface == kind
        for k, polarization in enumerate(POLARIZATIONS):
            if here.sum() > 1000:
                out[f"{kind.name.lower()} {polarization}, dB"] = 10 * np.log10(power[k][here].mean())
    smooth = surface == Surface.FIRST_YEAR
    near = smooth[:, :-1] & smooth[:, 1:]
    for k, polarization in enumerate(POLARIZATIONS):
        left, right = power[k][:, :-1][near], power[k][:, 1:][near]
        out[f"neighbours {polarization}, correlation"] = float(np.corrcoef(np.log(left), np.log(right))[0, 1])
        # difference of neighbours cancels what the ground does: var = 2 (1 - correlation) / looks of the logarithm
        out[f"neighbours {polarization}, variance of log ratio"] = float(np.log(left / right).var())
    dark = surface == Surface.WATER
    for i, (start, end) in enumerate(zip(made.swath.bounds[:-1], made.swath.bounds[1:], strict=True)):
        here = dark[:, start:end]
        if here.sum() > 1000:
            out[f"water HV in EW{i + 1}, dB"] = 10 * np.log10(power[1][:, start:end][here].mean())
    return out


def main() -> None:
    """Measure and print."""
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--size", type=int, default=10_000)
    parse.add_argument("--sample", type=int, default=512, help="rows that plain numpy makes in a turn")
    parse.add_argument("--turns", type=int, default=3)
    parse.add_argument("--month", type=int, default=3)
    given = parse.parse_args()
    compiled.LARGE = 1
    begin = time.perf_counter()
    made = make_ice_scene(given.size, given.size, 40.0, given.month, 1)
    ground_s = time.perf_counter() - begin
    begin = time.perf_counter()
    package(made, 0, 64)
    compile_s = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    middle = (given.size - given.sample) // 2

    def by_plain() -> None:
        for first in range(middle, middle + given.sample, BLOCK):
            plain_numpy(made, first, min(BLOCK, middle + given.sample - first), rng)

    def by_tables() -> None:
        kernel_for = scene.kernel_for
        scene.kernel_for = lambda *_: None
        try:
            for first in range(middle, middle + given.sample, BLOCK):
                package(made, first, min(BLOCK, middle + given.sample - first))
        finally:
            scene.kernel_for = kernel_for

    def by_kernels() -> None:
        for first in range(0, given.size, BLOCK):
            package(made, first, min(BLOCK, given.size - first))

    share = given.size / given.sample
    jobs = {
        "plain numpy": (by_plain, share),
        "numpy tables": (by_tables, share),
        "compiled": (by_kernels, 1.0),
    }
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(given.turns):
        for name, (work, times) in jobs.items():
            begin, used = time.perf_counter(), time.process_time()
            work()
            wall[name].append((time.perf_counter() - begin) * times)
            cpu[name].append((time.process_time() - used) * times)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    pixels = 2 * given.size**2 / 1e6
    base = statistics.median(wall["plain numpy"])
    base_cpu = statistics.median(cpu["plain numpy"])
    print(f"{given.size} x {given.size} pixels, HH and HV, month {given.month}; {thread_count()} threads")
    print(f"medians of {given.turns}; ground {ground_s:.1f} s, compiling {compile_s:.1f} s, both once")
    print(f"peak memory {memory:.2f} GB, plain numpy included")
    print(f"{'':14} {'s a scene':>10} {'Mpx/s':>8} {'times':>7} {'CPU s':>8} {'times':>7}")
    for name in jobs:
        s, c = statistics.median(wall[name]), statistics.median(cpu[name])
        print(f"{name:14} {s:10.2f} {pixels / s:8.1f} {base / s:7.1f} {c:8.2f} {base_cpu / c:7.1f}")
    print(f"target: {TARGET:g} times plain numpy\n\nstatistics of {given.sample} rows")
    one = plain_numpy(made, middle, given.sample, rng)
    two = package(made, middle, given.sample)
    if (one[0] != two[0]).mean() > 1e-4:
        raise SystemExit(f"surfaces differ in {(one[0] != two[0]).mean():.2%} of the pixels")
    print(f"{'':42} {'plain':>9} {'compiled':>9}")
    first, second = statistics_of(made, *one), statistics_of(made, *two)
    for name in first:
        print(f"{name:42} {first[name]:9.3f} {second[name]:9.3f}")


if __name__ == "__main__":
    main()

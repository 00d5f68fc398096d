"""A simulated EW scene: ground, weather and radar put together, made block by block of rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.compiled import kernel_for, run_bands
from sartransfer.errors import InputError
from sartransfer.radar.sea_ice import kernels, plain
from sartransfer.radar.sea_ice.backscatter import (
    NAMES,
    Surface,
    Weather,
    mean_backscatter,
    sea_backscatter,
    signature_of,
)
from sartransfer.radar.sea_ice.fields import Field
from sartransfer.radar.sea_ice.floes import draw_floes
from sartransfer.radar.sea_ice.geometry import Ground, make_ground
from sartransfer.radar.sea_ice.speckle import row_keys, speckle_table
from sartransfer.radar.sea_ice.swath import LOOKS, NOISE_ERROR, POLARIZATIONS, SUBSWATHS, Swath

LEVELS = 64
BAND = 64  # rows that a thread takes at least
STEP_DB = 0.2  # between levels of brightness; finer than speckle shows
STEP_WIND = 0.025  # between levels of the logarithm of wind speed
FLOE_TONE_DB = 0.35  # between floes of one class, of which there are eight tones. Assumed
GUST = 0.12  # standard deviation of the logarithm of wind from pixel to pixel: gusts, streaks, swell. Assumed
TABLE_COLUMNS = 512  # columns of the table of means, at least: .05 degrees of incidence angle


@dataclass(frozen=True, slots=True)
class RadarTables:
    """All that the radar adds to a ground, as kernels take it."""

    means: Field
    """(2, 7, LEVELS, columns >> shift): linear sigma0."""
    shift: int
    """Columns that share an entry of `means`, as a power of two."""
    noise: Field
    """(2, columns): noise-equivalent sigma0 that is there, without scalloping."""
    annotated: NDArray[np.float64]
    """(2, columns): the one that the annotation gives."""
    amplitude: Field
    """(columns,): A of sigma0, as interpolated from the annotation."""
    gains: Field
    """(7, 3): levels a surface gains by a unit of region, texture and tone."""
    speckle: Field
    """(65536,)."""


@dataclass(frozen=True, slots=True)
class IceScene:
    """One scene, nothing of whose pixels is made yet."""

    swath: Swath
    weather: Weather
    seed: int
    ground: Ground
    tables: RadarTables
    noise_error: tuple[tuple[float, ...], tuple[float, ...]]
    """By polarization and sub-swath: noise that is there over the noise annotated."""
    looks: float

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and columns of the product."""
        return self.swath.lines, self.swath.columns

    def surface_rows(self, first: int, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what lies in rows from `first` on (`Surface`), and its brightness in levels: both (rows, columns)."""
        self._check(first, rows)
        g, pixels = self.ground, self.swath.lines * self.swath.columns
        codes = np.zeros((rows, self.swath.columns), dtype=np.uint8)
        floes = g.floes.crossing(first, rows)
        draw = kernel_for(kernels.floe_rows, kernels.FLOES, pixels)
        if draw is None:
            draw_floes(floes, first, codes)
        else:
            run_bands(lambda top, bottom: draw(top, bottom, first, *floes.arrays(), codes), rows, step=BAND)
        kernel = kernel_for(kernels.ground, kernels.GROUND, pixels, kernels.HELPERS)
        if kernel is None:
            return plain.ground_rows(g, first, codes, self.tables.gains)
        surface, level = np.empty_like(codes), np.empty_like(codes)
        given = (first, g.grid.step, g.fields, g.thresholds.as_array(), codes, *g.tiles, self.tables.gains)
        run_bands(lambda top, bottom: kernel(top, bottom, *given, surface, level), rows, step=BAND)
        return surface, level

    def counts_rows(
        self, first: int, surface: NDArray[np.uint8], level: NDArray[np.uint8]
    ) -> NDArray[np.uint16]:
        """Return the product's numbers DN in HH and HV (2, rows, columns) of rows made by `surface_rows`."""
        t, rows = self.tables, len(surface)
        lines = np.arange(first, first + rows, dtype=np.float64)
        factors = np.stack([self.swath.scalloping(p, lines) for p in POLARIZATIONS]).astype(np.float32)
        keys = np.stack([row_keys(self.seed, k, first, rows + 1) for k in range(len(POLARIZATIONS))])
        bounds = np.array(self.swath.bounds)
        given = (surface, level, t.means, t.shift, t.noise, factors, bounds, t.amplitude, keys, t.speckle)
        pixels = self.swath.lines * self.swath.columns
        kernel = kernel_for(kernels.radar, kernels.RADAR, pixels, (kernels.draw,))
        if kernel is None:
            return plain.radar_rows(*given)
        counts = np.empty((len(POLARIZATIONS), *surface.shape), dtype=np.uint16)
        run_bands(lambda top, bottom: kernel(top, bottom, *given, counts), rows, step=BAND)
        return counts

    def blocks(
        self, rows: int = 512
    ) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]]:
        """Yield (first row, surface, level, counts) from the first line to the last, so many rows at a time."""
        if rows < 1:
            raise InputError(f"rows={rows}: must be at least 1.")
        for first in range(0, self.swath.lines, rows):
            surface, level = self.surface_rows(first, min(rows, self.swath.lines - first))
            yield first, surface, level, self.counts_rows(first, surface, level)

    def expected(self, first: int, surface: NDArray[np.uint8], level: NDArray[np.uint8]) -> Field:
        """Return linear sigma0 (2, rows, columns) without noise and speckle: what a perfect radar would give."""
        columns = np.arange(self.swath.columns) >> self.tables.shift
        return np.stack([m[surface, level, columns] for m in self.tables.means])

    def noise_rows(self, first: int, rows: int) -> NDArray[np.float64]:
        """Return the annotated noise-equivalent sigma0 (2, rows, columns), with scalloping."""
        lines, widths = np.arange(first, first + rows, dtype=np.float64), np.diff(self.swath.bounds)
        return np.stack(
            [
                np.repeat(self.swath.scalloping(p, lines), widths, axis=0).T * level
                for p, level in zip(POLARIZATIONS, self.tables.annotated, strict=True)
            ]
        )

    def _check(self, first: int, rows: int) -> None:
        if not (first >= 0 and rows >= 1 and first + rows <= self.swath.lines):
            raise InputError(f"rows {first} to {first + rows - 1} are not in a scene of {self.swath.lines}.")


def make_ice_scene(
    lines: int,
    columns: int,
    spacing_m: float,
    month: int,
    seed: int,
    *,
    looks: float = LOOKS,
    noise_error: float = NOISE_ERROR,
    coast: bool | None = None,
    wind_m_s: float | None = None,
) -> IceScene:
    """Return the scene of one month, all of it drawn from `seed`.

    Args:
        lines, columns: of the product, at least 16; columns span the swath from 19 to 46 degrees, whatever their
        number. spacing_m: between them; 40 in EW GRDM. month: 1 to 12.
        looks: equivalent number of looks of the product.
        noise_error: standard deviation of the noise that is there against the one annotated, by sub-swath.
        coast: with land; None: drawn. wind_m_s: None: drawn.

    Raises `InputError` for values that are not possible.
    """
    if seed < 0:
        raise InputError(f"seed={seed}: must be 0 or above.")
    if not 0 <= noise_error < 0.5:
        raise InputError(f"noise_error={noise_error}: must be 0 to 0.5.")
    rng = np.random.default_rng([seed, 1])
    # Wind over the Nordic seas: mean 7 m/s in summer, 10 in winter, Weibull of shape 2 (assumed; as in reanalyses)
    calm = 1 + np.cos(2 * np.pi * (month - 1) / 12)
    drawn = float(np.clip(rng.weibull(2.2) * (7.0 + 1.5 * calm), 2.0, 20.0))
    weather = Weather(month, drawn if wind_m_s is None else wind_m_s, float(rng.uniform(0, 360)))
    swath = Swath(lines, columns, spacing_m, tuple(float(v) for v in rng.random(len(SUBSWATHS))))
    errors = 1 + noise_error * rng.standard_normal((len(POLARIZATIONS), len(SUBSWATHS)))
    ground = make_ground(lines, columns, spacing_m, weather, seed, coast=coast)
    return IceScene(
        swath,
        weather,
        seed,
        ground,
        _tables(swath, weather, errors, looks),
        (tuple(map(float, errors[0])), tuple(map(float, errors[1]))),
        looks,
    )


def _tables(swath: Swath, weather: Weather, errors: NDArray[np.float64], looks: float) -> RadarTables:
    shift = max(0, int(np.log2(max(swath.columns // TABLE_COLUMNS, 1))))
    columns = np.arange(swath.columns, dtype=np.float64)
    starts = np.arange(0, swath.columns, 1 << shift)
    angle = swath.incidence_deg(starts.astype(np.float64) + ((1 << shift) - 1) / 2)
    deviation = np.arange(LEVELS) - LEVELS / 2
    means = np.empty((len(POLARIZATIONS), len(NAMES), LEVELS, len(starts)), dtype=np.float32)
    gains = np.empty((len(NAMES), 3), dtype=np.float32)
    for surface in Surface:
        if surface is Surface.WATER:
            wind = np.clip(weather.wind_m_s * np.exp(STEP_WIND * deviation), 0.5, 40.0)
            means[:, surface] = sea_backscatter(wind[:, None], weather.wind_direction_deg, angle)
            gains[surface] = (1 / STEP_WIND, GUST / STEP_WIND, 0.0)
            continue
        s = signature_of(surface, weather.melted)
        mean = mean_backscatter(surface, weather, angle)
        share = np.array([1.0, s.hv_share])[:, None]
        gain = 10 ** (share * STEP_DB * deviation / 10)
        means[:, surface] = gain[:, :, None] * mean[:, None, :]
        gains[surface] = (s.regional_db / STEP_DB, s.texture_db / STEP_DB, FLOE_TONE_DB / STEP_DB)
    annotated = np.stack([swath.nesz(p) for p in POLARIZATIONS])
    there = annotated * np.repeat(errors, np.diff(swath.bounds), axis=1)
    return RadarTables(
        means,
        shift,
        there.astype(np.float32),
        annotated,
        swath.sigma_table(columns).astype(np.float32),
        gains,
        speckle_table(looks),
    )

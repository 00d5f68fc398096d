"""Where ice lies: an edge with eddies, a marginal zone of floes, a pack with leads, a coast with fast ice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.sea_ice.backscatter import Weather
from sartransfer.radar.sea_ice.fields import TILES, Field, Grid, at_quantile, make_tile
from sartransfer.radar.sea_ice.floes import (
    EXPONENTS,
    LARGEST_M,
    OLD_FROM,
    SMALLEST_M,
    TONES,
    Floes,
    make_floes,
    mean_area,
    power_law,
)

STEP = 8  # pixels between nodes of the coarse fields
# By month, January first. Shares of the scene, as in the Fram Strait and along East Greenland, where the ice is
# widest in March and narrowest in September, and its margin is broadest in summer. Round numbers, assumed.
ICE_SHARE = (0.62, 0.66, 0.68, 0.67, 0.64, 0.58, 0.50, 0.42, 0.36, 0.44, 0.52, 0.58)
MARGIN_SHARE = (0.05, 0.05, 0.05, 0.06, 0.07, 0.10, 0.13, 0.14, 0.12, 0.09, 0.07, 0.06)
OLD_SHARE = (0.40, 0.40, 0.40, 0.40, 0.42, 0.45, 0.50, 0.58, 0.65, 0.50, 0.45, 0.42)
"""Of the pack: first-year ice melts first, and what is left in September is old by definition from October on."""
FREEZING = (1.0, 1.0, 1.0, 0.9, 0.5, 0.0, 0.0, 0.0, 0.4, 0.9, 1.0, 1.0)
"""How readily open water among ice freezes over, 0 to 1."""
FAST_MONTHS = (1, 2, 3, 4, 5, 6, 7, 11, 12)
NAMES = ("edge", "lead_1", "lead_2", "age", "frost", "land", "tone", "wind")
"""Coarse fields, in the order in which kernels take them."""
EDGE, LEAD_1, LEAD_2, AGE, FROST, LAND, TONE, WIND = range(len(NAMES))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What turns fields into classes; kernels take these numbers in this order."""

    lead_1: float
    """Half-width of the leads of one direction, in the field's units."""
    lead_2: float
    old: float
    """Where the age field lies above, the pack between floes is old ice."""
    new: float
    """Leads whose frost lies above are new ice, not water."""
    young: float
    """And above this, young ice."""
    grease: float
    """Between the floes of the margin, water whose frost lies above is new ice."""
    fast: float
    """Land field above which there is fast ice at the coast; 9 where the month has none."""
    ragged: float
    """How far texture moves the ice edge, in units of the edge field: 1 is the width of the margin."""

    def as_array(self) -> NDArray[np.float32]:
        """Return the numbers (8,)."""
        return np.array([getattr(self, n) for n in self.__dataclass_fields__], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ground:
    """A scene's ground before the radar looks: everything that blocks of rows are made from."""

    grid: Grid
    fields: NDArray[np.float32]
    """(8, nodes down, nodes along), by `NAMES`."""
    thresholds: Thresholds
    floes: Floes
    tiles: tuple[NDArray[np.int8], NDArray[np.int8]]
    """Texture: fine, and coarse; added."""

    def __post_init__(self) -> None:
        if self.fields.shape != (len(NAMES), *self.grid.shape) or self.fields.dtype != np.float32:
            raise InputError(
                f"fields must be float32 {(len(NAMES), *self.grid.shape)}, not {self.fields.shape}."
            )


def make_ground(
    height: int, width: int, pixel_m: float, weather: Weather, seed: int, *, coast: bool | None = None
) -> Ground:
    """Return the ground of one scene, drawn from `seed`.

    The edge, the margin, the coast and the wind are as wide as the scene is, so that a small scene is the full one in
    small; leads, floes and texture have their size in metres.

    Args:
        height, width: pixels of `pixel_m` metres.
        weather: its month sets shares and whether leads freeze. coast: whether there is land; None: drawn, one in
        two.
    """
    streams = np.random.SeedSequence(seed).spawn(12)
    rng = [np.random.default_rng(s) for s in streams]
    grid = Grid(height, width, STEP)
    month = weather.month - 1
    extent = float(max(height, width))
    edge = _edge(grid, extent, rng[0], ICE_SHARE[month] + rng[0].uniform(-0.06, 0.06), MARGIN_SHARE[month])
    land, shore = _coast(grid, extent, rng[1], coast)
    turn = rng[2].uniform(0, np.pi)
    lead_px = 14_000.0 / pixel_m  # leads lie some ten kilometres apart (assumed)
    lead_px = min(lead_px, extent / 8)
    leads = [
        grid.make(lead_px, rng[3 + i], smoothness=2.4, aspect=9.0, turn=turn + i * rng[2].uniform(0.6, 1.4))
        for i in range(2)
    ]
    age = grid.make(extent / 12, rng[5], smoothness=1.8)
    frost = grid.make(extent / 20, rng[6], smoothness=1.6)
    tone = grid.make(extent / 25, rng[7], smoothness=1.5)
    # Lulls and fronts: the logarithm of wind speed varies by a quarter over a scene (assumed).
    wind = np.float32(0.25) * grid.make(extent / 6, rng[8], smoothness=2.0)
    freezing = FREEZING[month]
    width_1, width_2 = (0.022, 0.014) if freezing > 0.5 else (0.05, 0.035)  # summer's openings are wider
    thresholds = Thresholds(
        lead_1=width_1,
        lead_2=width_2,
        old=at_quantile(age, OLD_SHARE[month] * 0.6),
        new=2.5 - 3.5 * freezing,
        young=3.4 - 3.2 * freezing,
        grease=4.0 - 3.4 * freezing,
        fast=-shore if weather.month in FAST_MONTHS else 9.0,
        ragged=0.12,
    )
    fields = np.stack([edge, *leads, age, frost, land, tone, wind]).astype(np.float32)
    floes = _floes(grid, fields, thresholds, pixel_m, weather, rng[9])
    tiles = make_tile(TILES[0], 0.9, rng[10]), make_tile(TILES[1], 3.0, rng[11])
    return Ground(grid, fields, thresholds, floes, tiles)


def _edge(grid: Grid, extent: float, rng: np.random.Generator, share: float, margin: float) -> Field:
    """Return the edge field: below 0 open sea, above 1 pack, between them the margin.

    A slope across the scene, bent by a rough field and twisted by eddies of a twelfth of the scene, as shear makes
    along the East Greenland Current.
    """
    rows, cols = grid.shape
    turn = rng.uniform(-0.7, 0.7)  # ice lies to the far range, the west of a descending pass, more or less
    y, x = np.mgrid[:rows, :cols].astype(np.float32) * (grid.step / extent)
    field = 2.6 * (x * np.cos(turn) + y * np.sin(turn)) + 0.55 * grid.make(extent / 5, rng, smoothness=1.9)
    field += 0.10 * grid.make(extent / 40, rng, smoothness=1.5)
    stir = [grid.make(extent / 24, rng, smoothness=2.5) * np.float32(extent / 45) for _ in range(2)]
    field = grid.warp(field.astype(np.float32), *stir)
    outer, inner = at_quantile(field, share + margin / 2), at_quantile(field, share - margin / 2)
    return ((field - outer) / (inner - outer)).astype(np.float32)


def _coast(grid: Grid, extent: float, rng: np.random.Generator, wanted: bool | None) -> tuple[Field, float]:
    """Return the land field (above 0: land), and how far below 0 fast ice reaches."""
    rows, cols = grid.shape
    drawn, share = rng.random() < 0.5, rng.uniform(0.03, 0.12)
    y, x = np.mgrid[:rows, :cols].astype(np.float32) * (grid.step / extent)
    turn = rng.uniform(-0.4, 0.4)
    field = 3.0 * (x * np.cos(turn) + y * np.sin(turn)) + 0.35 * grid.make(extent / 7, rng, smoothness=1.8)
    field += 0.10 * grid.make(extent / 30, rng, smoothness=1.6)  # fjords and skerries
    if not (drawn if wanted is None else wanted):
        return np.full(grid.shape, -9.0, dtype=np.float32), 0.0
    shore = at_quantile(field, share)
    return (field - shore).astype(np.float32), 0.16


def _floes(
    grid: Grid,
    fields: NDArray[np.float32],
    thresholds: Thresholds,
    pixel_m: float,
    weather: Weather,
    rng: np.random.Generator,
) -> Floes:
    """Return the floes of margin and pack: as many as cover the wanted share where they may lie.

    Discs at random places cover 1 - exp(-density x area): so many are drawn that this is what is wanted; in the
    margin it rises from nothing to nine tenths.
    """
    month = weather.month - 1
    smallest = max(SMALLEST_M / pixel_m, 3.0)
    largest = max(min(LARGEST_M / pixel_m, max(grid.height, grid.width) / 8), 2 * smallest)
    exponent = EXPONENTS[month]
    densest = -np.log(1 - 0.9)
    area = mean_area(exponent, smallest, largest)
    count = int(densest * grid.height * grid.width / area)
    places = rng.random((count, 2)) * (grid.height, grid.width)
    diameter = power_law(count, exponent, smallest, largest, rng)
    keep, tone, old = rng.random(count), rng.integers(0, TONES, count), rng.random(count)
    i, j = (places / grid.step).astype(np.int64).T
    edge, age = fields[EDGE][i, j].astype(np.float64), fields[AGE][i, j]
    cover = np.clip(edge, 0.0, 0.9)
    cover[edge >= 1] = 0.6  # the pack between its floes is a matrix of other ice
    # waves break what lies at the outer edge: no floe there is larger than its place in the margin allows
    fits = diameter * pixel_m < 300.0 * np.exp(np.clip(edge, 0, 1) * np.log(LARGEST_M / 300.0))
    kept = (keep < -np.log(1 - cover) / densest) & (edge > 0) & (fits | (edge >= 1))
    share = OLD_SHARE[month]
    is_old = old < np.where(age > thresholds.old, 0.5 + share / 2, share / 2)
    code = (1 + tone + np.where(is_old, OLD_FROM - 1, 0)).astype(np.uint8)
    return make_floes(places[kept], diameter[kept], code[kept], rng)

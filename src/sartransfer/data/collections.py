"""Simulated collections of land-cover patches: cities that differ in look, brightness and texture.

No shared data set of SAR patches names the collections its patches were cut from, and a test on unseen ones needs
them. These are made: X-band-like amplitudes of 16 bits with labels in three levels, imbalanced as Huang et al. (2020)
report, in collections each with conditions of its own, so that one not trained on is another distribution. They prove
that the machinery does what it says; no number measured on them says anything of real cities.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data.simulated import SOURCE, check_counts, seed_of, write_once, write_png
from sartransfer.radar.landscape import make_field
from sartransfer.radar.synthetic import make_speckle
from sartransfer.radar.units import parse_unit
from sartransfer.scene import Band

BANDS = (Band("amplitude", parse_unit("amplitude"), "HH"),)
AMPLITUDE = (
    316.0  # of sigma nought 1: -10 dB becomes 100, the middle of what the paper's normalization expects
)
NESZ_DB = -24.0
BAND_DB = -20.0  # asphalt, rails' bed and rivers
MIXED = 0.5  # share of patches in which a second cover has up to 45 % of the pixels


@dataclass(frozen=True, slots=True)
class Cover:
    """How one kind of land cover looks, in round numbers: a plausible picture, not a measurement."""

    share: float
    """Of all patches, before a city's own mix; the sums of level 1 are near the paper's training set."""
    db: float
    """Mean of the ground, dB."""
    order: float = 20.0
    """Of the texture (variance 1 / order); small is rough."""
    length_px: float = 2.0
    """Correlation length of the texture."""
    blocks_px: float = 0.0
    """Side of the blocks between streets; 0: none."""
    walls_db: float = 0.0
    """Double bounce at the blocks' near sides, above the ground."""
    points: float = 0.0
    """Bright scatterers on 1000 pixels."""
    points_db: float = 0.0
    """How bright they are, above the ground, on average."""
    band_px: float = 0.0
    """Width of a smooth dark band (road, track, runway, river); 0: none."""
    fields_db: float = 0.0
    """Spread between parallel fields, dB."""


COVERS = {
    "settlements/high density/skyscrapers": Cover(0.06, -6.5, 8, 2, 22, 13, 12, 16),
    "settlements/high density/blocks": Cover(0.16, -8, 8, 2, 16, 10, 8, 13),
    "settlements/low density/villas": Cover(0.17, -9.5, 8, 1.5, 11, 7, 8, 10),
    "settlements/low density/villages": Cover(0.08, -10.5, 10, 2, 0, 0, 6, 10, 0, 1.5),
    "industrial/production/factories": Cover(0.035, -9, 12, 3, 30, 12, 5, 15),
    "industrial/storage/tanks": Cover(0.022, -11, 15, 3, 0, 0, 3, 18),
    "public transport/roads/motorways": Cover(0.05, -10, 12, 2, 0, 0, 2, 10, 7),
    "public transport/rail/tracks": Cover(0.025, -11, 10, 2, 0, 0, 6, 12, 3),
    "public transport/air/airfields": Cover(0.011, -14, 25, 3, 0, 0, 1, 12, 12),
    "agriculture/cropland/fields": Cover(0.08, -11.5, 25, 3, fields_db=3),
    "agriculture/orchards/groves": Cover(0.035, -10, 14, 2, 0, 0, 4, 5, 0, 1.5),
    "vegetation/forest/closed": Cover(0.06, -9, 6, 1.2),
    "vegetation/grass/meadows": Cover(0.034, -12.5, 18, 3),
    "bare ground/sand/beaches": Cover(0.025, -16.5, 30, 5),
    "bare ground/rock/quarries": Cover(0.018, -12, 5, 2.5),
    "water/open/sea": Cover(0.08, -18, 40, 6),
    "water/inland/lakes": Cover(0.03, -21, 50, 8),
    "water/inland/rivers": Cover(0.02, -11, 12, 2, band_px=18),
    "military/airbase/hangars": Cover(0.012, -12, 15, 2, 26, 10, 2, 14, 10),
    "unclassified/mixed/mixed": Cover(0.013, 0),  # looks like any of the others
}
CLASSES = tuple(COVERS)
UNCLASSIFIED = CLASSES[-1]
TOP = tuple(dict.fromkeys(c.split("/")[0] for c in CLASSES))


@dataclass(frozen=True, slots=True)
class City:
    """What the patches of one collection have in common."""

    cover_db: dict[str, float]
    """Added to the covers of each class of level 1: gain, incidence, moisture, season, wind."""
    looks: float
    smoothness: float
    """Factor of the order of every texture."""
    scale: float
    """Factor of the side of its blocks."""
    street_deg: float
    """Direction of its streets against the range direction; walls are brightest where it is 0."""
    blur_px: float
    """Resolution: standard deviation of a Gaussian."""
    mix: NDArray[np.float64]
    """(K,), share of each cover; sums to 1."""


def simulated_collections(
    folder: Path, *, seed: int = 0, collections: int = 12, patches: int = 130, size: int = 48
) -> Catalog:
    """Return the catalog of simulated collections in `folder`, written first if they are not there yet.

    Patches are 16-bit PNGs of one band ``amplitude`` (HH). The class is a path of three levels
    (``settlements/high density/blocks``); ``level: 1`` and ``drop: [military, unclassified]`` leave the paper's
    seven. The group is the city, whose conditions and mix of classes are its own. No split: take test sets out with
    ``data.tests``. Raises `OutputError` if the folder holds something else, or the same of other parameters.

    Args:
        folder: where. seed: of everything. collections: cities. patches: in each. size: pixels a side.
    """
    check_counts(seed=seed, collections=collections, patches=patches, size=size)
    cities = {
        f"city{c + 1:02d}": make_city(np.random.default_rng(seed_of(seed, 5, c))) for c in range(collections)
    }
    plan = [
        (f"{name}_{i:04d}", name, cover)
        for name, city in cities.items()
        for i, cover in enumerate(
            c for c, n in zip(CLASSES, _counts(city.mix, patches), strict=True) for _ in range(n)
        )
    ]

    def write(into: Path) -> None:
        for name in cities:
            (into / name).mkdir()
        for number, (id, name, cover) in enumerate(plan):
            rng = np.random.default_rng(seed_of(seed, 6, number))
            write_png(into / name / f"{id}.png", make_patch(cover, cities[name], size, rng))

    settings = {
        "kind": "collections",
        "seed": seed,
        "collections": collections,
        "patches": patches,
        "size": size,
    }
    write_once(folder, settings, write)
    entries = tuple(
        Entry(
            id=id,
            assets=(Asset(folder / name / f"{id}.png", "image", BANDS),),
            category=cover,
            group=name,
            platform="simulated",
        )
        for id, name, cover in plan
    )
    return Catalog(
        "simulated collections",
        entries,
        CLASSES,
        source=SOURCE.replace("radar/synthetic", "data/collections"),
    )


def make_city(rng: np.random.Generator) -> City:
    """Draw the conditions of one collection."""
    gain = rng.normal(0, 1.5)
    cover_db = {name: gain + rng.normal(0, 3.0 if name == "water" else 1.5) for name in TOP}
    mix = np.array([c.share for c in COVERS.values()]) * np.exp(rng.normal(0, 0.5, len(COVERS)))
    return City(
        cover_db=cover_db,
        looks=float(rng.uniform(1, 5)),
        smoothness=float(np.exp(rng.normal(0, 0.5))),
        scale=float(rng.uniform(0.7, 1.4)),
        street_deg=float(rng.uniform(-45, 45)),
        blur_px=float(rng.uniform(0, 0.8)),
        mix=mix / mix.sum(),
    )


def make_patch(cover: str, city: City, size: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the amplitude (size, size) of a patch that is mostly `cover`, as that city's images show it."""
    names = CLASSES[:-1]
    if cover == UNCLASSIFIED:
        cover = str(rng.choice(names))
    power = _ground(cover, city, size, rng)
    if rng.random() < MIXED:
        other = str(rng.choice(names, p=city.mix[:-1] / city.mix[:-1].sum()))
        field = make_field(size, size / 4, rng)
        power = np.where(
            field < np.quantile(field, rng.uniform(0, 0.45)), _ground(other, city, size, rng), power
        )
    power = ndimage.gaussian_filter(power, city.blur_px) + 10 ** (NESZ_DB / 10)
    amplitude = AMPLITUDE * np.sqrt(power * make_speckle(power.shape, city.looks, rng))
    stored: NDArray[np.uint16] = np.clip(np.rint(amplitude), 0, 65535).astype(np.uint16)
    return stored


def _ground(name: str, city: City, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return linear sigma nought (size, size) of one cover, before blur, noise and speckle."""
    cover = COVERS[name]
    level = 10 ** ((cover.db + city.cover_db[name.split("/")[0]] + rng.normal(0, 0.7)) / 10)
    spread = np.sqrt(np.log1p(1 / (cover.order * city.smoothness)))  # log-normal texture of mean 1
    texture = np.exp(spread * make_field(size, cover.length_px, rng) - spread**2 / 2)
    power: NDArray[np.float64] = level * texture
    if cover.fields_db:
        across, _ = _turned(size, rng.uniform(0, np.pi))
        number = np.floor(across / rng.uniform(8, 16)).astype(int)
        power *= 10 ** (rng.normal(0, cover.fields_db, np.ptp(number) + 1)[number - number.min()] / 10)
    if cover.blocks_px:
        power *= _blocks(cover, city, size, rng)
    number_of_points = rng.poisson(cover.points * size * size / 1000)
    if number_of_points:
        power[tuple(rng.integers(size, size=(2, number_of_points)))] += (
            level * 10 ** (cover.points_db / 10) * rng.exponential(1.0, number_of_points)
        )
    if cover.band_px:
        across, _ = _turned(size, rng.uniform(0, np.pi))
        distance = np.abs(across - rng.uniform(0.3, 0.7) * across.max())
        smooth = 10 ** ((BAND_DB + city.cover_db[name.split("/")[0]]) / 10)
        power[distance < cover.band_px / 2] = smooth
    return power


def _blocks(cover: Cover, city: City, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a factor (size, size): streets 5 dB darker, walls brighter the straighter they face the radar."""
    turn = np.deg2rad(city.street_deg + rng.normal(0, 4))
    side = cover.blocks_px * city.scale
    u, v = (x + rng.uniform(0, side) for x in _turned(size, turn))
    street = (u % side < 2) | (v % side < 2)
    block = (np.floor(u / side).astype(int) % 97) * 97 + np.floor(v / side).astype(int) % 97
    facing = np.cos(2 * turn) ** 2  # nothing at 45 degrees: the cardinal effect, roughly
    height = 10 ** (cover.walls_db / 10) * facing * rng.exponential(1.0, 97 * 97)[block]
    wall = (u % side >= 2) & (u % side < 3.5)
    factor: NDArray[np.float64] = np.where(street, 10**-0.5, np.where(wall, 1 + height, 1.0))
    return factor


def _turned(size: int, turn: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two coordinates at right angles, (size, size) each, turned by an angle, from 0 on."""
    y, x = np.mgrid[:size, :size].astype(float)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return u - u.min(), v - v.min()


def _counts(mix: NDArray[np.float64], total: int) -> list[int]:
    """Share `total` out by the largest remainder."""
    exact = mix * total
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return [int(n) for n in counts]

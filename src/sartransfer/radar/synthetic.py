"""A simulated landscape seen by an optical sensor and by a C-band SAR: a stand-in for data, never a proof.

Both sensors look at the same kind of landscape (`landscape.py`), each with its own physics. What is a
published formula, what was measured and what is only a plausible round number is said at each constant.
Simplified on purpose: no relief in the radar image (no layover, no shadow), no bright edges where water
meets trunks, one look direction, speckle independent between polarizations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from sartransfer.errors import InputError
from sartransfer.radar.landscape import FOREST, WATER, Landscape, make_field, make_landscape

OPTICAL_BANDS = ("red", "green", "blue")

REFERENCE_ANGLE_DEG = 38.0  # the middle of Sentinel-1's interferometric wide swath (about 30 to 46 degrees)

# Mean sigma nought (VV, VH) in dB at the reference angle. Measured for orientation on the eight
# hand-labelled chips of Sen1Floods11 (Bonafilia et al. 2020): scene means of dry land, all covers together,
# are VV -10 to -6, VH -17 to -14; of flooded pixels VV -19 to -9, VH -27 to -18. Forest: its upper end is
# the rain forest's gamma nought of about -6.5 dB (VV), long used to calibrate C-band radars, with VH about
# 6 dB below; temperate forest lies 1 to 2 dB lower. Open land: short vegetation and soil return less than
# forest, above all in VH. Round numbers.
OPEN_LAND_DB = (-11.0, -18.0)
FOREST_DB = (-9.0, -14.5)

# Falling with the incidence angle as a power of its cosine (the cosine law in Ulaby, Moore and Fung 1982,
# Microwave Remote Sensing II): 1 for a volume (gamma nought constant: forest), 2 for a Lambertian surface.
OPEN_LAND_COSINE_POWER = 2.0
FOREST_COSINE_POWER = 1.0

# Spread between fields in dB (VV, VH), crop by crop and by roughness. Round numbers: the handbook of Ulaby
# and Dobson (1989) gives distributions of soil and short vegetation several dB wide. The two polarizations
# go together.
FIELD_SPREAD_DB = (2.0, 2.0)
FIELD_CORRELATION = 0.6

# Order of the gamma-distributed texture under the speckle (product model, intensity K-distributed: Jakeman
# and Pusey 1976; Oliver and Quegan 1998); small is rough. Forest is rougher than fields. Round
# numbers, as are the correlation lengths (pixels).
FOREST_TEXTURE = (6.0, 1.2)
OPEN_LAND_TEXTURE = (25.0, 3.0)

# Sentinel-1's specified limit of the noise-equivalent sigma nought (ESA); measured values are a little lower.
NESZ_DB = -22.0

# Red, green, blue reflectance at the surface, rounded to the size usual in spectral libraries (USGS
# splib07, Kokaly et al. 2017): clear and silty water, dry soil, green crop, closed forest.
CLEAR_WATER = (0.020, 0.035, 0.045)
SILTY_WATER = (0.090, 0.095, 0.070)
SOIL = (0.190, 0.145, 0.105)
CROP = (0.050, 0.095, 0.045)
FOREST_COLOUR = (0.032, 0.058, 0.030)
HAZE = (0.010, 0.016, 0.028)  # additive, bluest, as molecules scatter

# CMOD5.N, VV backscatter of the sea from the neutral wind at 10 m: Hersbach 2010, J. Atmos. Oceanic
# Technol. 27, table 1; its form is that of CMOD5, Hersbach et al. 2007, J. Geophys. Res. 112, C03006,
# appendix.
_CMOD5N = (
    *(0.0, -0.6878, -0.7957, 0.3380, -0.1728, 0.0, 0.0040, 0.1103, 0.0159, 6.7329, 2.7713, -2.2885, 0.4971),
    *(-0.7250, 0.0450, 0.0066, 0.3222, 0.0120, 22.7, 2.0813, 3.0, 8.3659, -3.3428, 1.3236, 6.2437, 2.3893),
    *(0.3249, 4.1590, 1.6930),
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What differs from one event (acquisition, region, season) to the next."""

    wind_speed: float
    """Neutral wind at 10 m over water, m/s."""
    wind_direction_deg: float
    """Relative to the look direction; 0: blowing towards the radar."""
    open_land_db: float
    """Added to open land: soil moisture and season."""
    forest_db: float
    """Added to forest: moisture and leaves."""
    near_angle_deg: float
    """Incidence angle at the first column, degrees."""

    def __post_init__(self) -> None:
        if not 0.2 <= self.wind_speed <= 50:
            raise InputError(f"wind_speed={self.wind_speed:g}: CMOD5.N is for 0.2 to 50 m/s.")
        if not 15 <= self.near_angle_deg <= 60:
            raise InputError(f"near_angle_deg={self.near_angle_deg:g}: must be from 15 to 60 degrees.")


@dataclass(frozen=True, slots=True)
class SimulatedScene:
    """One landscape and both images of it, on one grid."""

    classes: NDArray[np.uint8]
    """(H, W)."""
    optical: NDArray[np.float32]
    """(3, H, W), red, green, blue reflectance, 0 to 1."""
    sar: NDArray[np.float32]
    """(2, H, W), sigma nought VV and VH, linear, noise not subtracted."""
    incidence_angle_deg: NDArray[np.float32]
    """(H, W)."""


def make_optical(landscape: Landscape, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a red, green, blue image (3, H, W) of reflectance, 0 to 1, as a satellite would see it.

    Colour by class (water from clear to silty, fields from bare to green, one by one), rows within fields,
    crowns in the woods, sunlight on the relief, haze, blur by the optics and noise. Scenes differ in light,
    haze, silt and season.
    """
    classes, parcels = landscape.classes, landscape.parcels
    size = classes.shape[0]
    light, haze = rng.uniform(0.75, 1.25), rng.uniform(0.0, 1.0)
    silt = np.clip(rng.beta(1.0, 1.5) + 0.1 * make_field(size, 12.0, rng), 0, 1)
    number = int(parcels.max()) + 1
    green = rng.beta(0.9 + rng.uniform(0, 1.5), 0.9, number)[parcels]
    brightness = np.exp(rng.normal(0, 0.22, number))[parcels]
    rows = _make_plough_rows(parcels, number, rng)
    open_land = _mix(SOIL, CROP, green) * brightness * (1 + rows + 0.06 * make_field(size, 2.0, rng))
    crowns = make_field(size, 0.8, rng) + 0.5 * make_field(size, 4.0, rng)
    forest = _mix(FOREST_COLOUR, CROP, np.full(classes.shape, rng.uniform(0.0, 0.5))) * np.exp(0.28 * crowns)
    water = _mix(CLEAR_WATER, SILTY_WATER, silt)
    slope = np.gradient(landscape.relief.astype(float), axis=1 if rng.random() < 0.5 else 0)
    land = np.where(classes == FOREST, forest, open_land) * (1 + rng.uniform(0.5, 1.2) * slope)
    seen = np.where(classes == WATER, water, land)
    seen = ndimage.gaussian_filter(seen, (0, 0.5, 0.5))  # the optics' blur, half a pixel
    seen = light * seen + haze * np.array(HAZE)[:, None, None] + rng.normal(0, 0.004, seen.shape)
    image: NDArray[np.float32] = np.clip(seen, 1e-4, 1.0).astype(np.float32)
    return image


def _mix(low: tuple[float, ...], high: tuple[float, ...], share: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = np.array(low)[:, None, None], np.array(high)[:, None, None]
    mixed: NDArray[np.float64] = first + (second - first) * share
    return mixed


def _make_plough_rows(
    parcels: NDArray[np.int32], number: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    y, x = np.mgrid[: parcels.shape[0], : parcels.shape[1]].astype(float)
    angle = rng.uniform(0, np.pi) + rng.choice([0, np.pi / 2], number)
    wave = 2 * np.pi / rng.uniform(3.0, 6.0, number)
    strength = 0.10 * rng.beta(0.7, 1.5, number)
    phase = wave[parcels] * (np.cos(angle)[parcels] * x + np.sin(angle)[parcels] * y)
    rows: NDArray[np.float64] = strength[parcels] * np.sin(phase)
    return rows


def make_conditions(rng: np.random.Generator) -> Conditions:
    """Draw one event: wind 1.5 to 9 m/s from anywhere, moisture, near incidence angle 30 to 41 degrees.

    The spread of moisture (1.2 dB on open land, .5 dB on forest) is a round number.
    """
    return Conditions(
        wind_speed=rng.uniform(1.5, 9.0),
        wind_direction_deg=rng.uniform(0, 360),
        open_land_db=rng.normal(0, 1.2),
        forest_db=rng.normal(0, 0.5),
        near_angle_deg=rng.uniform(30, 41),
    )


def make_incidence_angle(size: int, near_deg: float, *, span_deg: float = 4.0) -> NDArray[np.float32]:
    """Return incidence angles (size, size) in degrees, rising with the column from `near_deg` by `span_deg`.

    Real scenes of this size span a tenth of a degree; the span is stretched so that a small scene shows the
    trend.
    """
    return np.broadcast_to(
        np.linspace(near_deg, near_deg + span_deg, size, dtype=np.float32), (size, size)
    ).copy()


def sigma0_water(
    wind_speed: NDArray[np.floating] | float,
    wind_direction_deg: NDArray[np.floating] | float,
    incidence_angle_deg: NDArray[np.floating] | float,
) -> NDArray[np.float64]:
    """Return linear sigma nought of open water, (2, ...) for VV and VH, arguments broadcast together.

    VV by CMOD5.N (Hersbach 2010), VH by ``.592 U - 35.652`` dB (Vachon and Wolfe 2011, IEEE Geosci. Remote
    Sens. Lett. 8, 456), which knows neither angle nor direction. Both are for the sea: a lake of short
    fetch is often darker. Wind in m/s; direction 0: towards the radar.
    """
    speed, direction, angle = np.broadcast_arrays(
        np.asarray(wind_speed, float), wind_direction_deg, incidence_angle_deg
    )
    cross = 10 ** ((0.592 * speed - 35.652) / 10)
    return np.stack([_cmod5n(speed, np.deg2rad(direction), (angle - 40.0) / 25.0), cross])


def _cmod5n(v: NDArray[np.float64], phi: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CMOD5.N's linear VV for wind v (m/s), direction phi (radians), scaled incidence angle x."""
    c = _CMOD5N
    s, s0 = (c[7] + c[8] * x) * v, c[12] + c[13] * x
    above = 1 / (1 + np.exp(-np.maximum(s, s0)))
    below = np.power(np.where(s < s0, s / s0, 1.0), s0 * (1 - above))
    gamma = c[9] + c[10] * x + c[11] * x**2
    b0 = (above * below) ** gamma * 10 ** (
        c[1] + c[2] * x + c[3] * x**2 + c[4] * x**3 + (c[5] + c[6] * x) * v
    )
    b1 = c[14] * (1 + x) - c[15] * v * (0.5 + x - np.tanh(4 * (x + c[16] + c[17] * v)))
    b1 /= 1 + np.exp(0.34 * (v - c[18]))
    y0, n = c[19], c[20]
    y = 1 + v / (c[21] + c[22] * x + c[23] * x**2)
    y = np.where(y < y0, y0 - (y0 - 1) / n + (y - 1) ** n / (n * (y0 - 1) ** (n - 1)), y)
    b2 = (-(c[24] + c[25] * x + c[26] * x**2) + (c[27] + c[28] * x) * y) * np.exp(-y)
    sea: NDArray[np.float64] = b0 * (1 + b1 * np.cos(phi) + b2 * np.cos(2 * phi)) ** 1.6
    return sea


def sigma0_land(
    level_db: tuple[float, float], cosine_power: float, incidence_angle_deg: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return linear sigma nought (2, ...) of a cover with `level_db` (VV, VH) at the reference angle."""
    ratio = np.cos(np.deg2rad(incidence_angle_deg.astype(float))) / np.cos(np.deg2rad(REFERENCE_ANGLE_DEG))
    return np.stack([10 ** (db / 10) * ratio**cosine_power for db in level_db])


def make_texture(size: int, order: float, length_px: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return gamma-distributed texture (size, size) of mean 1 and variance 1 / order.

    `length_px` is the correlation length. A Gaussian field is carried to the gamma distribution through
    both distribution functions (a table of 2001 points), which keeps the distribution exact and the
    correlation nearly so.
    """
    if order <= 0:
        raise InputError(f"order={order:g}: the order of a gamma texture must be above 0.")
    nodes = np.linspace(-6, 6, 2001)
    # From the nearer tail, since 1 - 1e-17 is 1.
    values = np.where(
        nodes < 0,
        stats.gamma.ppf(stats.norm.cdf(nodes), order),
        stats.gamma.isf(stats.norm.sf(nodes), order),
    )
    texture: NDArray[np.float64] = np.interp(make_field(size, length_px, rng), nodes, values / order)
    return texture


def make_speckle(
    shape: tuple[int, ...], looks: float, rng: np.random.Generator, *, correlation_px: float = 0.0
) -> NDArray[np.float64]:
    """Return multilook intensity speckle of mean 1 and variance 1 / looks: gamma with that shape parameter.

    Fully developed speckle (Goodman 1976). With `correlation_px` above 0 neighbours go together: each look
    is the power of a complex Gaussian field smoothed over that standard deviation (last two axes), which
    leaves the distribution as it is; looks must then be whole. Raises `InputError` otherwise, and for looks
    below 1.
    """
    if not np.isfinite(looks) or looks < 1:
        raise InputError(f"looks={looks:g}: the number of looks must be finite and at least 1.")
    if correlation_px <= 0:
        return rng.gamma(looks, 1.0 / looks, shape)
    if looks != round(looks):
        raise InputError(f"looks={looks:g}: correlated speckle needs a whole number of looks.")
    sigma = (0.0,) * (len(shape) - 2) + (correlation_px,) * 2
    impulse = np.zeros((129, 129))
    impulse[64, 64] = 1.0
    power = float((ndimage.gaussian_filter(impulse, correlation_px) ** 2).sum())
    total = np.zeros(shape)
    for _ in range(2 * round(looks)):  # real and imaginary parts
        total += ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap") ** 2
    return total / (2 * round(looks) * power)


def make_sar(
    landscape: Landscape,
    rng: np.random.Generator,
    *,
    conditions: Conditions,
    incidence_angle_deg: NDArray[np.floating],
    looks: float = 4.0,
    nesz_db: float = NESZ_DB,
    correlation_px: float = 0.0,
    texture: bool = True,
) -> NDArray[np.float32]:
    """Return linear sigma nought (2, H, W), VV and VH, of a landscape under `conditions`.

    Intensity = (class sigma nought at this angle x texture + noise) x speckle; the noise floor `nesz_db` is
    not subtracted, as in products before thermal noise removal. With `texture` False every class is
    homogeneous: no fields, no gusts, no texture; speckle and noise remain. `incidence_angle_deg` is (H, W),
    `looks` at least 1.
    """
    classes, parcels = landscape.classes, landscape.parcels
    if incidence_angle_deg.shape != classes.shape:
        raise InputError(
            f"incidence_angle_deg has the shape {incidence_angle_deg.shape}, the landscape {classes.shape}."
        )
    c, size = conditions, classes.shape[0]
    angle = incidence_angle_deg
    open_land = sigma0_land(OPEN_LAND_DB, OPEN_LAND_COSINE_POWER, angle) * 10 ** (c.open_land_db / 10)
    forest = sigma0_land(FOREST_DB, FOREST_COSINE_POWER, angle) * 10 ** (c.forest_db / 10)
    speed: NDArray[np.float64] | float = c.wind_speed
    if texture:
        mixed = [[1.0, FIELD_CORRELATION], [FIELD_CORRELATION, 1.0]]
        spread = rng.multivariate_normal([0, 0], mixed, int(parcels.max()) + 1) * FIELD_SPREAD_DB
        open_land = (
            open_land * 10 ** (spread.T[:, parcels] / 10) * make_texture(size, *OPEN_LAND_TEXTURE, rng)
        )
        forest = forest * make_texture(size, *FOREST_TEXTURE, rng)
        gusts = np.exp(0.2 * make_field(size, 12.0, rng))  # lulls and gusts over water: a round number
        speed = np.clip(c.wind_speed * gusts, 0.2, 50.0)
    water = sigma0_water(speed, c.wind_direction_deg, angle)
    ground = np.choose(classes, [water, open_land, forest])
    power = ground + 10 ** (nesz_db / 10)
    return (power * make_speckle(power.shape, looks, rng, correlation_px=correlation_px)).astype(np.float32)


def make_scene(
    size: int, seed: int, group_seed: int, *, looks: float = 4.0, correlation_px: float = 0.0
) -> SimulatedScene:
    """Return one scene: landscape and images from `seed`, conditions of its event from `group_seed`.

    The same numbers give the same scene; scenes of one `group_seed` share wind, moisture and incidence angle.
    """
    ground, eye, radar = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    # An own key, so that scene 5 of event 5 does not draw event and landscape from one stream.
    conditions = make_conditions(np.random.default_rng(np.random.SeedSequence(group_seed, spawn_key=(99,))))
    landscape = make_landscape(size, ground)
    angle = make_incidence_angle(size, conditions.near_angle_deg)
    sar = make_sar(
        landscape,
        radar,
        conditions=conditions,
        incidence_angle_deg=angle,
        looks=looks,
        correlation_px=correlation_px,
    )
    return SimulatedScene(landscape.classes, make_optical(landscape, eye), sar, angle)

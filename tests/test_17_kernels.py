"""Compiled loops: the bits of their numpy twins, and float64 scipy's numbers, at edges, gaps and any cut."""

import builtins
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

import sartransfer.compiled as compiled
from sartransfer.errors import UnitError
from sartransfer.metrics import confusion_matrix
from sartransfer.radar import flood
from sartransfer.radar.connected import connected_counts
from sartransfer.radar.filters import decay, focal_mean, frost, gamma_map, lee, refined_lee
from sartransfer.radar.neighbourhoods import disc
from sartransfer.radar.units import parse_unit

LOOKS = 4.4


def good(power, valid):
    return None if valid is None else valid & (power >= 0)


RUN = {
    "lee": lambda x, v: lee(x, LOOKS, v),
    "gamma_map": lambda x, v: gamma_map(x, LOOKS, v),
    "frost": frost,
    "refined_lee": lambda x, v: refined_lee(x, LOOKS, v),
    "focal_mean": lambda x, v: focal_mean(x, good(x, v), radius=5.0),
    "focal_mean_m": lambda x, v: focal_mean(x, good(x, v), radius=50.0, pixel_size=(10.0, 25.0)),
}  # fmt: skip


@pytest.fixture
def only(monkeypatch):
    """Have numpy do the work, or numba, whatever the size."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def choose(numba, threads=1):
        if numba:
            pytest.importorskip("numba")
        monkeypatch.setattr(compiled, "_ready", {})
        monkeypatch.setattr(compiled, "LARGE", 1 if numba else 1 << 60)
        monkeypatch.setattr(compiled, "thread_count", lambda: threads)

    return choose


def image(shape, *, gaps, seed=0):
    """Fields, speckle and a point target; with gaps also NaN, infinity, negatives, zeros and an invalid corner."""
    rng = np.random.default_rng(seed)
    ground = np.where(np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 50 > 25, 0.2, 0.01)
    power = (ground * rng.gamma(LOOKS, 1 / LOOKS, shape)).astype(np.float32)
    power[shape[0] // 2, shape[1] // 2] = 50.0
    if not gaps:
        return power, None
    valid = rng.random(shape) > 0.01
    valid[-9:, -12:] = False
    power[2:4, 3:20], power[5], power[0, 0] = np.nan, np.inf, -1.0
    power[9:25, 1:17] = 0.0
    return power, valid


SHAPES = [(75, 290), (9, 11), (1, 5), (40, 64)]


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("gaps", [False, True])
def test_compiled_filters_give_the_bits_of_numpy(only, name, gaps):
    for shape in SHAPES:
        power, valid = image(shape, gaps=gaps and min(shape) > 26)
        only(numba=False)
        slow = RUN[name](power, valid)
        for threads in (1, 2):
            only(numba=True, threads=threads)
            fast = RUN[name](power, valid)
            assert fast.dtype == np.float32
            assert np.array_equal(fast, slow, equal_nan=True), shape
    # A view with steps, and one that begins elsewhere, are images like any other.
    power, valid = image((80, 300), gaps=gaps)
    part = (slice(1, None, 2), slice(7, None))
    one = RUN[name](power[part], None if valid is None else valid[part])
    only(numba=False)
    other = RUN[name](power[part], None if valid is None else valid[part])
    assert np.array_equal(one, other, equal_nan=True)


def test_threads_cut_an_image_where_no_bit_changes(only, monkeypatch):
    power, valid = image((75, 90), gaps=True)
    only(numba=True)
    whole = lee(power, LOOKS, valid)
    monkeypatch.setattr(compiled, "BAND", 8)
    seen = []
    real = compiled.run_bands

    def small(work, height, *, step=8):
        return real(lambda t, b: (seen.append((t, b)), work(t, b))[1], height, step=8)

    monkeypatch.setattr("sartransfer.radar.large.run_bands", small)
    only(numba=True, threads=3)
    assert np.array_equal(lee(power, LOOKS, valid), whole, equal_nan=True)
    assert sorted(seen) == [(0, 32), (32, 64), (64, 75)]


def scipy_moments(x, good, footprint):
    """Mean and variance over the neighbours that have a value, by scipy in float64."""
    kernel = footprint.astype(np.float64)
    sums = [ndimage.correlate(a, kernel, mode="constant") for a in (x, x * x, good.astype(np.float64))]
    number = np.maximum(sums[2], 1)
    mean = sums[0] / number
    return mean, np.maximum(sums[1] / number - mean**2, 0)


def by_scipy(name, x, good):
    """The filters once more, from scipy's sums in float64."""
    box, noise = np.ones((7, 7)), 1 / LOOKS
    if name == "focal_mean":
        y, z = np.mgrid[-5:6, -5:6]
        return scipy_moments(x, good, y * y + z * z <= 25)[0]
    if name == "focal_mean_m":
        y, z = np.mgrid[-5:6, -2:3]
        return scipy_moments(x, good, (10 * y) ** 2 + (25 * z) ** 2 <= 2500)[0]
    mean, variance = scipy_moments(x, good, box)
    c2 = np.divide(variance, mean**2, out=np.zeros_like(mean), where=mean > 0)
    if name == "lee":
        share = np.divide(np.maximum(c2 - noise, 0), c2 * (1 + noise), out=np.zeros_like(c2), where=c2 > 0)
        return mean + share * (x - mean)
    if name == "gamma_map":
        a = (1 + noise) / np.where(c2 > noise, c2 - noise, 1)
        b = mean * (a - LOOKS - 1)
        root = (b + np.sqrt(b * b + 4 * a * LOOKS * mean * x)) / (2 * a)
        return np.where(c2 <= noise, mean, np.where(c2 >= 2 * noise, x, root))
    above, below = np.zeros_like(x), np.zeros_like(x)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            one = np.zeros((7, 7))
            one[3 + dy, 3 + dx] = 1
            weight = np.exp(-2.0 * c2 * np.hypot(dy, dx))
            above += weight * ndimage.correlate(x, one, mode="constant")
            below += weight * ndimage.correlate(good.astype(np.float64), one, mode="constant")
    return above / np.maximum(below, 1e-300)


@pytest.mark.parametrize("numba", [False, True])
@pytest.mark.parametrize(
    "name", [n for n in RUN if n != "refined_lee"]
)  # that one is a double loop in test_17_speckle
def test_filters_are_within_1e_5_of_scipy_in_float64(only, name, numba):
    only(numba=numba)
    for gaps in (False, True):
        power, valid = image((60, 77), gaps=gaps)
        good = np.isfinite(power) & (power >= 0) & (True if valid is None else valid)
        truth = by_scipy(name, np.where(good, power, 0).astype(np.float64), good)
        found = RUN[name](power, valid)
        assert np.array_equal(np.isfinite(found), good)
        assert np.allclose(found[good], truth[good], rtol=1e-5, atol=1e-12)


def test_decay_is_the_exponential():
    t = -np.concatenate([[0.0], np.geomspace(1e-9, 40, 3000)])
    assert np.abs(decay(t) - np.exp(t)).max() < 2e-11
    assert decay(np.array([0.0]))[0] == 1.0
    assert (np.diff(decay(np.sort(t))) >= 0).all()
    assert decay(np.array([-1e4]))[0] < 1e-17


def test_decibels_are_refused_by_compiled_filters_too(only):
    only(numba=True)
    values = np.random.default_rng(0).normal(-12, 3, (60, 60)).astype(np.float32)
    valid = np.ones(values.shape, bool)
    valid[:30] = False
    with pytest.raises(UnitError, match="1800 of 1800 values are negative: decibels, perhaps"):
        lee(values, LOOKS, valid)
    assert np.isfinite(focal_mean(values, radius=3.0)).all()  # a mean of any values


def slow_counts(flagged, cap, neighbours):
    structure = ndimage.generate_binary_structure(2, 1 if neighbours == 4 else 2)
    labels, _ = ndimage.label(flagged, structure)
    return np.where(flagged, np.minimum(np.bincount(labels.ravel())[labels], cap), 0)


@pytest.mark.parametrize("neighbours", [4, 8])
def test_compiled_regions_are_those_of_scipy(only, neighbours):
    only(numba=True)
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (1, 40), (40, 1), (37, 53), (200, 90)):
        for share in (0.0, 0.1, 0.4, 0.6, 0.9, 1.0):
            flagged = rng.random(shape) < share
            for cap in (1, 8, 255):
                found = connected_counts(flagged, cap, neighbours=neighbours)
                assert np.array_equal(found, slow_counts(flagged, cap, neighbours)), (shape, share, cap)
    spiral = np.zeros((41, 41), bool)  # one region, met again and again from all sides
    for k in range(0, 20, 4):
        spiral[k : 41 - k, k] = spiral[k, k : 41 - k] = spiral[40 - k, k : 41 - k] = True
        spiral[k + 2 : 41 - k, 40 - k] = True
    assert np.array_equal(
        connected_counts(spiral, 255, neighbours=neighbours), slow_counts(spiral, 255, neighbours)
    )


def literal_rules(levels, ground, settings, index):
    """`flood.decide` pixel by pixel, in the words of its docstring."""
    flagged = (levels > index) & (ground < 128)
    counts = slow_counts(flagged & (ground & 1 == 0), 255, 8)
    out = np.zeros(levels.shape, np.uint8)
    for place in np.ndindex(*levels.shape):
        g = int(ground[place])
        if g >= 128:
            out[place] = flood.Rule.NO_VALUE
        elif not flagged[place]:
            out[place] = flood.Rule.DRY
        elif g & 1:
            out[place] = flood.Rule.PERMANENT_WATER
        elif counts[place] < settings.min_connected:
            out[place] = flood.Rule.FEW_CONNECTED
        elif g & 2:
            out[place] = flood.Rule.STEEP
        else:
            out[place] = flood.Rule.SLOPE_UNKNOWN if g & 4 else flood.Rule.FLOODED
    return out


@pytest.mark.parametrize("numba", [False, True])
def test_every_pixel_gets_the_rule_of_the_literal_loop(only, numba):
    only(numba=numba)
    rng = np.random.default_rng(2)
    levels = rng.integers(0, 4, (43, 31)).astype(np.uint8)
    ground = (rng.integers(0, 8, levels.shape) * (rng.random(levels.shape) < 0.3)).astype(np.uint8)
    ground |= (rng.random(levels.shape) < 0.1).astype(np.uint8) << np.uint8(7)
    for least in (1, 3, 40):
        settings = flood.FloodSettings(min_connected=least)
        for index in (0, 2):
            found = flood.decide(levels, ground, settings, index)
            assert np.array_equal(found, literal_rules(levels, ground, settings, index))


def test_a_flood_map_is_the_same_compiled_or_not(only):
    rng = np.random.default_rng(3)
    before, after = (rng.normal(-10, 1, (120, 130)).astype(np.float32) for _ in range(2))
    after[30:80, 20:90] -= 9
    before[:5], after[50, 50], before[60, 60], after[70, 7] = np.nan, np.nan, 0.0, 0.0
    layers = flood.Layers(
        seasonality=rng.integers(0, 13, before.shape).astype(np.float32),
        slope=np.where(rng.random(before.shape) < 0.05, np.nan, 7 * rng.random(before.shape)),
        slope_unit=flood.SlopeUnit.DEGREES,
    )
    maps = []
    for numba in (False, True):
        only(numba=numba, threads=2)
        unit = parse_unit("sigma0_db")
        maps.append(flood.map_flood(before, after, unit, pixel_size=(10.0, 10.0), layers=layers).provenance)
    assert np.array_equal(*maps)
    assert len(np.unique(maps[0])) >= 6


def test_a_disc_is_symmetric_which_its_sums_rely_on():
    for radius in np.linspace(0, 30, 200):
        for size in ((1.0, 1.0), (10.0, 25.0), (0.7, 0.3)):
            assert disc(float(radius), size) == disc(float(radius), size)[::-1]


def without_numba(name, *more, real=builtins.__import__):
    if name.partition(".")[0] == "numba":
        raise ImportError(name)
    return real(name, *more)


def test_without_numba_numpy_does_the_work(only, monkeypatch):
    only(numba=False)
    power, valid = image((40, 64), gaps=True)
    slow = frost(power, valid)
    matrix = confusion_matrix(np.arange(6), np.arange(6) // 2, 6)
    monkeypatch.setattr(compiled, "LARGE", 1)
    compiled._compiled.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_numba)
        assert np.array_equal(frost(power, valid), slow, equal_nan=True)
        assert np.array_equal(confusion_matrix(np.arange(6), np.arange(6) // 2, 6), matrix)
    assert compiled._ready == {}
    compiled._compiled.cache_clear()
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert np.array_equal(frost(power, valid), slow, equal_nan=True)
    assert compiled._ready == {}
    compiled._compiled.cache_clear()


def test_small_images_do_not_load_numba():
    code = """
import sys
import numpy as np
from sartransfer.metrics import confusion_matrix
from sartransfer.radar.filters import lee
lee(np.ones((50, 50), np.float32), 4.0)
confusion_matrix(np.zeros(9, int), np.zeros(9, int), 2)
print("numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "threads"), [("1", 1), ("", None), ("3,2", 3), ("many", None), ("0", None), ("1000000", None)]
)
def test_threads_are_those_given_to_the_process(monkeypatch, text, threads):
    import os

    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert compiled.thread_count() == min(threads or given, given)

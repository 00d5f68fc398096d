"""Speckle filters, held against literal double loops, simulated gamma fields and closed forms."""

import math

import numpy as np
import pytest

from sartransfer.errors import InputError, UnitError
from sartransfer.radar.neighbourhoods import box_sum, disc, disc_sum, filter_blocks, ring_sums, run_sum
from sartransfer.radar.speckle import (
    FILTERS,
    SpeckleFilter,
    focal_mean,
    frost,
    gamma_map,
    lee,
    number_of_looks,
    quegan,
    refined_lee,
)
from sartransfer.radar.synthetic import make_speckle


def scene(seed=0, shape=(19, 23), looks=4.0, gaps=True):
    """Two fields, a point target, speckle, zeros, and pixels without a value: NaN, infinite, negative, not valid."""
    rng = np.random.default_rng(seed)
    ground = np.where(np.add.outer(np.arange(shape[0]), np.arange(shape[1])) > 20, 0.2, 0.01)
    ground[5, 6] = 30.0
    power = (ground * rng.gamma(looks, 1 / looks, shape)).astype(np.float32)
    valid = np.ones(shape, dtype=bool)
    if gaps:
        power[0, 0], power[7, 9], power[8, 9] = np.nan, np.inf, -0.01
        power[12, 2:5] = 0.0
        valid[14:, 18:] = False
        valid[3, 3] = False
    return power, valid


def neighbours(power, valid, i, j, offsets):
    """The values at offsets of pixel (i, j) that are there: literal, one by one."""
    out = []
    for dy, dx in offsets:
        y, x = i + dy, j + dx
        if 0 <= y < power.shape[0] and 0 <= x < power.shape[1] and valid[y, x]:
            value = float(power[y, x])
            if math.isfinite(value) and value >= 0:
                out.append((value, math.hypot(dy, dx)))
    return out


def box(radius):
    return [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]


def moments(values):
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


def each_pixel(power, valid, function):
    out = np.full(power.shape, np.nan)
    for i in range(power.shape[0]):
        for j in range(power.shape[1]):
            if neighbours(power, valid, i, j, [(0, 0)]):
                out[i, j] = function(i, j)
    return out


def mmse(z, values, looks):
    mean, variance = moments(values)
    signal = (variance - mean**2 / looks) / (1 + 1 / looks)
    return mean if signal <= 0 or variance == 0 else mean + signal / variance * (z - mean)


def slow_focal_mean(power, valid, radius, size=(1, 1)):
    reach = [(y, x) for y, x in box(12) if (y * size[0]) ** 2 + (x * size[1]) ** 2 <= radius**2 * (1 + 1e-8)]
    return each_pixel(
        power, valid, lambda i, j: moments([v for v, _ in neighbours(power, valid, i, j, reach)])[0]
    )


def slow_lee(power, valid, looks, size):
    return each_pixel(
        power,
        valid,
        lambda i, j: mmse(
            float(power[i, j]), [v for v, _ in neighbours(power, valid, i, j, box(size // 2))], looks
        ),
    )


def slow_frost(power, valid, size, damping):
    def pixel(i, j):
        near = neighbours(power, valid, i, j, box(size // 2))
        mean, variance = moments([v for v, _ in near])
        squared = variance / mean**2 if mean else 0.0
        weights = [math.exp(-damping * squared * d) for _, d in near]
        return sum(w * v for w, (v, _) in zip(weights, near, strict=True)) / sum(weights)

    return each_pixel(power, valid, pixel)


def slow_gamma_map(power, valid, looks, size):
    def pixel(i, j):
        z = float(power[i, j])
        mean, variance = moments([v for v, _ in neighbours(power, valid, i, j, box(size // 2))])
        squared, noise = (variance / mean**2 if mean else 0.0), 1 / looks
        if squared <= noise:
            return mean
        if squared >= 2 * noise:
            return z
        a = (1 + noise) / (squared - noise)
        # The root of the quadratic that the likelihood's maximum fulfils: a x^2 + (L + 1 - a) m x - L m z = 0.
        b, c = (looks + 1 - a) * mean, -looks * mean * z
        return (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)

    return each_pixel(power, valid, pixel)


def slow_refined_lee(power, valid, looks):
    halves = [
        [(y, x) for y, x in box(3) if keep(y, x)]
        for keep in (
            lambda y, x: x <= 0, lambda y, x: x >= 0,
            lambda y, x: x <= y, lambda y, x: x >= y,
            lambda y, x: y <= 0, lambda y, x: y >= 0,
            lambda y, x: x <= -y, lambda y, x: x >= -y,
        )
    ]  # fmt: skip
    masks = (
        [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
        [[0, 1, 1], [-1, 0, 1], [-1, -1, 0]],
        [[1, 1, 1], [0, 0, 0], [-1, -1, -1]],
        [[1, 1, 0], [1, 0, -1], [0, -1, -1]],
    )
    outer = (((1, 0), (1, 2)), ((2, 0), (0, 2)), ((0, 1), (2, 1)), ((0, 0), (2, 2)))

    def pixel(i, j):
        means = [[None] * 3 for _ in range(3)]
        for r in range(3):
            for c in range(3):
                offsets = [(2 * (r - 1) + y, 2 * (c - 1) + x) for y, x in box(1)]
                near = neighbours(power, valid, i, j, offsets)
                means[r][c] = sum(v for v, _ in near) / len(near) if near else None
        middle = means[1][1]
        means = [[middle if m is None else m for m in row] for row in means]
        gradients = [abs(sum(m[r][c] * means[r][c] for r in range(3) for c in range(3))) for m in masks]
        edge = gradients.index(max(gradients))
        (r0, c0), (r1, c1) = outer[edge]
        side = 0 if abs(middle - means[r0][c0]) <= abs(middle - means[r1][c1]) else 1
        values = [v for v, _ in neighbours(power, valid, i, j, halves[2 * edge + side])]
        return mmse(float(power[i, j]), values, looks)

    return each_pixel(power, valid, pixel)


def agree(fast, slow):
    assert fast.dtype == np.float32
    assert np.array_equal(np.isnan(fast), np.isnan(slow))
    known = ~np.isnan(slow)
    assert np.allclose(fast[known], slow[known], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("size", [3, 7])
def test_lee_frost_and_gamma_map_are_the_literal_double_loops(gaps, size):
    power, valid = scene(gaps=gaps)
    agree(lee(power, 4.0, valid, size=size), slow_lee(power, valid, 4.0, size))
    agree(frost(power, valid, size=size, damping=1.5), slow_frost(power, valid, size, 1.5))
    agree(gamma_map(power, 4.0, valid, size=size), slow_gamma_map(power, valid, 4.0, size))
    # The middle branch, the likeliest value itself, is met too.
    mean = slow_focal_mean(power, valid, 0.0)
    fast = gamma_map(power, 4.0, valid, size=size)
    assert ((fast != mean.astype(np.float32)) & np.isfinite(fast)).sum() > 20


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_refined_lee_is_the_literal_double_loop(gaps, seed):
    power, valid = scene(seed=seed, gaps=gaps)
    agree(refined_lee(power, 4.0, valid), slow_refined_lee(power, valid, 4.0))


@pytest.mark.parametrize(("radius", "size"), [(1.0, (1, 1)), (5.0, (1, 1)), (50.0, (10, 20)), (0.4, (1, 1))])
def test_focal_mean_is_the_literal_double_loop_in_pixels_and_metres(radius, size):
    power, valid = scene()
    good = valid & (power >= 0)
    agree(focal_mean(power, good, radius=radius, pixel_size=size), slow_focal_mean(power, good, radius, size))


def test_a_disc_of_50_m_on_10_m_pixels_has_81_pixels():
    assert disc(50.0, (10.0, 10.0)) == (0, 3, 4, 4, 4, 5, 4, 4, 4, 3, 0)
    assert sum(2 * w + 1 for w in disc(50.0, (10.0, 10.0))) == 81
    assert disc(0.3, (0.1, 0.1)) == disc(3.0)  # 0.1 + 0.1 + 0.1 is above 0.3 in floating point
    assert disc(0.0) == (0,)
    assert disc(50.0, (10.0, 25.0)) == (0, 1, 1, 1, 1, 2, 1, 1, 1, 1, 0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(InputError, match="radius"):
            disc(bad)


def test_quegan_is_the_literal_formula():
    rng = np.random.default_rng(3)
    stack = (rng.gamma(4, 0.25, (3, 13, 11)) * np.array([0.1, 0.5, 0.02])[:, None, None]).astype(np.float32)
    valid = np.ones(stack.shape, dtype=bool)
    stack[0, 2, 3], valid[1, 6:, 8:] = np.nan, False
    stack[2, 8:, :4] = 0.0  # all zero round some pixels: no ratio from that date there
    fast = quegan(stack, valid, size=5)
    means = np.stack([each_pixel(i, v, lambda y, x, i=i, v=v: moments(
        [p for p, _ in neighbours(i, v, y, x, box(2))])[0]) for i, v in zip(stack, valid, strict=True)])  # fmt: skip
    slow = np.full(stack.shape, np.nan)
    for k, y, x in np.ndindex(*stack.shape):
        ratios = [stack[t, y, x] / means[t, y, x] for t in range(3) if means[t, y, x] > 0]
        if np.isfinite(means[k, y, x]):
            slow[k, y, x] = means[k, y, x] * (sum(ratios) / len(ratios) if ratios else 0.0)
    assert (means[2] == 0).any()
    agree(fast, slow)


def test_sums_are_those_of_shifted_copies():
    x = np.random.default_rng(0).normal(size=(20, 17))
    for length in range(1, 12):
        slow = sum(x[:, k : k + 17 - length + 1] for k in range(length))
        assert np.allclose(run_sum(x, length, 1), slow)
        assert np.allclose(run_sum(x.T, length, 0), slow.T)
    assert np.allclose(box_sum(x, 3)[4, 5], x[4:7, 5:8].sum())
    assert np.allclose(
        disc_sum(x, disc(3.0))[2, 3], sum(x[5 + y, 6 + v] for y, v in box(3) if y * y + v * v <= 9)
    )
    rings = ring_sums(x, 5)  # (5, 0) and (4, 3) are one distance
    assert set(rings) == {y * y + v * v for y, v in box(5)}
    for squared, ring in rings.items():
        assert np.allclose(ring[4, 3], sum(x[9 + y, 8 + v] for y, v in box(5) if y * y + v * v == squared))


@pytest.mark.parametrize("name", FILTERS)
def test_any_block_and_any_window_with_its_halo_give_the_same_bits(name):
    power, valid = scene(seed=5, shape=(61, 47))
    chosen = SpeckleFilter(name, radius=3.0, looks=4.0)
    whole = chosen(power, valid)
    ry, rx = chosen.halo()
    for top, bottom, left, right in ((0, 20, 0, 47), (17, 61, 9, 30), (30, 31, 40, 47)):
        t, b, lo, hi = max(top - ry, 0), min(bottom + ry, 61), max(left - rx, 0), min(right + rx, 47)
        part = chosen(power[t:b, lo:hi], valid[t:b, lo:hi])
        inner = part[top - t : top - t + bottom - top, left - lo : left - lo + right - left]
        assert np.array_equal(inner, whole[top:bottom, left:right], equal_nan=True)
    sums = filter_blocks(power, valid, (3, 3), lambda x, _: box_sum(x, 7), block=8)
    assert np.array_equal(
        sums, filter_blocks(power, valid, (3, 3), lambda x, _: box_sum(x, 7)), equal_nan=True
    )


def enl(image, margin=6):
    inner = image[margin:-margin, margin:-margin].astype(np.float64)
    return inner.mean() ** 2 / inner.var()


@pytest.mark.parametrize("looks", [1.0, 4.4])
def test_filters_gain_looks_and_keep_the_mean_on_homogeneous_speckle(looks):
    power = 0.05 * make_speckle((260, 260), looks, np.random.default_rng(7))
    # A mean of n independent pixels has n times their looks. Neighbouring means go together, which makes the measured
    # variance of an image of 250^2 pixels scatter by some per cent.
    mean = focal_mean(power, radius=3.0)
    assert enl(mean) == pytest.approx(29 * looks, rel=0.08)
    # A damping of 0 is the mean over the box; more damping smooths less.
    assert enl(frost(power, damping=0.0)) == pytest.approx(49 * looks, rel=0.1)
    assert enl(frost(power, damping=0.0)) > enl(frost(power, damping=2.0)) > 3 * looks
    found = {
        "lee": lee(power, looks),
        "refined_lee": refined_lee(power, looks),
        "gamma_map": gamma_map(power, looks),
        "frost": frost(power),
        "focal_mean": mean,
    }
    least = {"lee": 10, "refined_lee": 5, "gamma_map": 8, "frost": 3, "focal_mean": 20}
    # Measured here, and no more than they are known for: gamma-MAP returns a mode, not a mean, and is low.
    bias = {"lee": 0.03, "refined_lee": 0.04, "gamma_map": 0.06, "frost": 0.01, "focal_mean": 0.005}
    for name, image in found.items():
        assert enl(image) > least[name] * looks, name
        assert abs(image.mean() / 0.05 - 1) < bias[name], name


def test_the_multitemporal_filter_gains_what_its_paper_says():
    dates, size, looks = 6, 7, 4.0
    means = np.array([0.02, 0.1, 0.05, 0.3, 0.01, 0.2])
    stack = make_speckle((dates, 200, 200), looks, np.random.default_rng(2)) * means[:, None, None]
    out = quegan(stack, size=size)
    n = size * size
    for k in range(dates):
        assert enl(out[k]) == pytest.approx(looks * dates * n / (dates + n - 1), rel=0.08)
        assert out[k].mean() == pytest.approx(means[k], rel=0.01)


@pytest.mark.parametrize("looks", [1.0, 4.4, 12.0])
@pytest.mark.parametrize("size", [5, 9, 15])
def test_the_number_of_looks_of_homogeneous_speckle_is_found(looks, size):
    found = [
        number_of_looks(make_speckle((400, 400), looks, np.random.default_rng(s)), size=size)
        for s in range(3)
    ]
    assert np.mean(found) == pytest.approx(looks, rel=0.12 if size == 5 else 0.06)


def test_the_number_of_looks_is_found_among_fields_and_gaps():
    rng = np.random.default_rng(4)
    fields = np.kron(10 ** rng.uniform(-2, 0, (12, 12)), np.ones((37, 37)))
    power = fields * make_speckle(fields.shape, 4.4, rng)
    valid = rng.random(power.shape) > 0.0005
    assert number_of_looks(power, valid) == pytest.approx(4.4, rel=0.1)
    # The naive estimate over the whole image, which edges and fields ruin:
    assert power.mean() ** 2 / power.var() < 1.0
    assert number_of_looks(power * 1e6, valid) == pytest.approx(number_of_looks(power, valid), rel=1e-3)


def test_looks_are_refused_where_there_is_nothing_to_estimate_them_from():
    with pytest.raises(InputError, match=r"none of 4 windows .* Give `looks`"):
        number_of_looks(np.full((20, 20), 0.3))
    with pytest.raises(InputError, match="none of 0 windows"):
        number_of_looks(np.ones((5, 5)))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="looks="):
            lee(np.ones((9, 9)), bad)


@pytest.mark.parametrize("name", FILTERS)
def test_zeros_constants_and_gaps(name):
    chosen = SpeckleFilter(name, radius=3.0, looks=4.0)
    zeros = np.zeros((12, 12), np.float32)
    assert np.array_equal(chosen(zeros), zeros)
    assert np.allclose(chosen(zeros + 0.3), 0.3, rtol=1e-6)
    alone = np.full((12, 12), np.nan, np.float32)
    assert np.isnan(chosen(alone)).all()
    alone[4, 7] = 0.2
    out = chosen(alone)
    assert np.isfinite(out).sum() == 1  # no value is made up
    assert out[4, 7] == pytest.approx(0.2)
    assert np.isnan(chosen(zeros, np.zeros((12, 12), bool))).all()
    # What is not valid does not leak into its neighbours, whatever it is.
    power, valid = scene(gaps=False)
    valid[9, 9] = False
    dirty = power.copy()
    dirty[9, 9] = 1e30
    assert np.array_equal(chosen(dirty, valid), chosen(power, valid), equal_nan=True)


@pytest.mark.parametrize("name", FILTERS)
def test_decibels_are_refused(name):
    with pytest.raises(UnitError, match="decibels, perhaps"):
        SpeckleFilter(name, looks=4.0)(np.random.default_rng(0).normal(-12, 3, (10, 10)))


def test_a_mean_of_decibels_is_asked_for_by_name():
    db = np.random.default_rng(0).normal(-12, 3, (10, 10)).astype(np.float32)
    assert np.array_equal(SpeckleFilter(radius=2.0).mean(db), focal_mean(db, radius=2.0))
    with pytest.raises(UnitError, match="only a focal mean"):
        SpeckleFilter("lee").mean(db)


def test_settings_are_checked():
    for bad in (
        {"name": "lea"},
        {"size": 4},
        {"size": 1},
        {"looks": 0.0},
        {"radius": -1.0},
        {"damping": -1.0},
    ):
        with pytest.raises(InputError):
            SpeckleFilter(**bad)
    with pytest.raises(InputError, match="Did you mean 'lee'"):
        SpeckleFilter("lea")
    with pytest.raises(InputError, match="refined Lee"):
        SpeckleFilter("refined_lee", size=5)
    assert SpeckleFilter("focal_mean", radius=50.0).halo((10.0, 20.0)) == (5, 2)
    assert SpeckleFilter("lee", size=9).halo() == (4, 4)
    for shape in ((3, 3, 3), (0, 4)):
        with pytest.raises(InputError, match="cannot be filtered"):
            lee(np.ones(shape), 1.0)
    with pytest.raises(InputError, match="valid has the shape"):
        lee(np.ones((4, 4)), 1.0, np.ones((4, 5), bool))
    with pytest.raises(InputError, match="T, H, W"):
        quegan(np.ones((4, 4)))


def test_looks_not_known_are_estimated_from_the_image():
    power = make_speckle((90, 90), 4.0, np.random.default_rng(1))
    assert np.array_equal(SpeckleFilter("lee")(power), lee(power, number_of_looks(power)))

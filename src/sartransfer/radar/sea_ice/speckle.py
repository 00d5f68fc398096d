"""Gamma speckle from 16 random bits a pixel, the same for a pixel whatever block it is made in.

A pixel's number is a function of seed, layer, row and column (a counter, hashed), so that no state is carried. The
16 bits choose one of 65,536 equally likely parts of the distribution, whose mean stands in a table.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sartransfer.errors import InputError

BITS = 16
NEIGHBOURS = 4
# EW GRDM: resolution 93 x 87 m on pixels of 40 m (ESA, as LOOKS), so that neighbours share half of what they
# see. The mean of 2 x 2 independent gamma numbers of shape L/4 is gamma of shape L, and two pixels side by side
# share two of the four: a correlation of .5, of .25 across a corner, and none further out. SplitMix64: Steele,
# Lea and Flood 2014, OOPSLA, doi 10.1145/2660193.2660195.
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def speckle_table(looks: float) -> NDArray[np.float32]:
    """Return (65536,) means of equally likely parts of the gamma distribution of mean 1 / 4 and shape looks / 4.

    Four of these make one pixel of mean 1 and variance 1 / looks; the parts' own spread is lost, .02 % of the
    variance. Raises `InputError` for looks below 1.
    """
    if not (np.isfinite(looks) and looks >= 1):
        raise InputError(f"looks={looks}: must be finite and at least 1.")
    shape, n = looks / NEIGHBOURS, 1 << BITS
    edges = special.gammaincinv(shape, np.arange(1, n) / n)
    # the integral of x times the density up to x is shape times the distribution of shape + 1
    below = np.concatenate([[0.0], special.gammainc(shape + 1, edges), [1.0]])
    table: NDArray[np.float32] = (np.diff(below) * n / NEIGHBOURS).astype(np.float32)
    return table


def row_keys(seed: int, layer: int, first: int, rows: int) -> NDArray[np.uint64]:
    """Return the number (rows,) at which the counter of each row begins."""
    base = np.random.SeedSequence([seed, layer]).generate_state(1, np.uint64)
    row = np.arange(first, first + rows, dtype=np.uint64)
    return _mix(base + row * np.uint64(SECOND))


def independent(keys: NDArray[np.uint64], columns: int, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return independent numbers of a table (rows, columns): four to each hash of the counter."""
    words = -(-columns // 4)
    counter = np.arange(1, words + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    hashed = _mix(keys[:, None] + counter[None, :])
    shifts = np.arange(0, 64, BITS, dtype=np.uint64)
    bits = (hashed[:, :, None] >> shifts) & np.uint64((1 << BITS) - 1)
    return table[bits.reshape(len(keys), -1)[:, :columns].astype(np.intp)]


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    return z ^ (z >> np.uint64(31))

"""Patches that share pixels, against brute force over every pair and offset; splits by whole group."""

import itertools
from collections import Counter

import numpy as np
import pytest

from sartransfer.data.overlap import PROBE, content_pairs, position_pairs, split_groups
from sartransfer.errors import CatalogError


@pytest.mark.parametrize("seed", range(4))
def test_places_within_a_patch_of_each_other(seed):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 400, (80, 2))
    images = rng.choice(["a", "b"], 80).tolist()
    brute = [
        (i, j)
        for i, j in itertools.combinations(range(80), 2)
        if images[i] == images[j] and np.abs(places[i] - places[j]).max() <= 64
    ]
    assert position_pairs(places, images, 64) == brute
    assert brute


def test_patches_that_only_touch_belong_together():
    places = np.array([[0, 0], [0, 64], [64, 64], [129, 64], [-64, 0]])
    assert position_pairs(places, ["a"] * 5, 64) == [(0, 1), (0, 2), (0, 4), (1, 2), (1, 4)]
    assert position_pairs(places[:0], [], 64) == []


def brute_force(patches):
    """Every pair that agrees on all shared pixels at some offset that leaves PROBE pixels each way or more."""
    side = patches.shape[1]
    reach = range(PROBE - side, side - PROBE + 1)
    found = []
    for i, j in itertools.combinations(range(len(patches)), 2):
        for down, right in itertools.product(reach, reach):
            a, b = slice(max(0, down), min(side, side + down)), slice(max(0, right), min(side, side + right))
            other = patches[j][a.start - down : a.stop - down, b.start - right : b.stop - right]
            if np.array_equal(patches[i][a, b], other):
                found.append((i, j))
                break
    return found


@pytest.mark.parametrize("seed", range(3))
def test_shared_pixels_are_found_wherever_patches_are_said_to_lie(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 2000, (40, 40), dtype=np.uint16)
    places = rng.integers(0, 28, (12, 2))
    cut = [image[r : r + 12, c : c + 12] for r, c in places]
    patches = np.stack([*cut, *rng.integers(0, 2000, (4, 12, 12), dtype=np.uint16), cut[0]])
    # nearly the same: one pixel of what they share differs
    patches[-2] = patches[-1]
    patches[-2][5, 6] += 1
    found = content_pairs(patches)
    assert found == brute_force(patches)
    shared = 12 - np.abs(places[:, None] - places[None]).max(axis=-1)
    for i, j in itertools.combinations(range(12), 2):
        if shared[i, j] >= PROBE:
            assert (i, j) in found
    assert (0, len(patches) - 1) in found
    assert (0, len(patches) - 2) not in found


def test_flat_patches_are_nobodys_copy():
    assert content_pairs(np.zeros((3, 16, 16), dtype=np.uint8)) == []
    assert content_pairs(np.zeros((0, 16, 16), dtype=np.uint8)) == []
    assert content_pairs(np.ones((2, 3, 3), dtype=np.uint8)) == []


SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def loss(groups, classes, split):
    """Sum of squared deviations of class shares, relative to what is wanted, by counting."""
    total = Counter(classes)
    held = Counter((c, split[g]) for g, c in zip(groups, classes, strict=True))
    return sum((held[c, s] / total[c] / share - 1) ** 2 for c in total for s, share in SHARES.items())


@pytest.mark.parametrize("seed", range(8))
def test_a_division_is_near_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    groups = [f"g{k}" for k in rng.integers(0, 8, 60)]
    classes = [f"class {k}" for k in rng.integers(0, 3, 60)]
    split = split_groups(groups, classes, SHARES)
    assert set(split) == set(groups)
    names = sorted(set(groups))
    best = min(
        loss(groups, classes, dict(zip(names, parts, strict=True)))
        for parts in itertools.product(SHARES, repeat=len(names))
    )
    assert loss(groups, classes, split) <= 1.5 * best + 0.05
    shuffled = rng.permutation(60)
    again = split_groups([groups[i] for i in shuffled], [classes[i] for i in shuffled], SHARES)
    assert again == split  # nothing is drawn, and the order does not matter


def test_every_class_is_in_every_split_or_it_is_said():
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    classes = ["x", "y", "x", "y", "x", "y", "x"]
    split = split_groups(groups, classes, SHARES)
    for kind in "xy":
        assert {split[g] for g, c in zip(groups, classes, strict=True) if c == kind} == set(SHARES)
    with pytest.raises(CatalogError, match="no patch of class 'z' can be in split"):
        split_groups([*groups, "e"], [*classes, "z"], SHARES)
    for bad in ({"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}):
        with pytest.raises(CatalogError, match="together 1"):
            split_groups(groups, classes, bad)

"""Regions too small for a map join their neighbours, as a slow reference does it pixel by pixel."""

import numpy as np
import pytest
from scipy import ndimage

from sartransfer.regions import find_runs, merge_small

NODATA = 255


def regions_of(image):
    """Number the regions of an image (4-connected, equal values), in the order of their first pixels."""
    labels, last = np.zeros(image.shape, dtype=int), 0
    for value in np.unique(image):
        found, number = ndimage.label(image == value)
        labels[found > 0] = found[found > 0] + last
        last += number
    _, firsts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(firsts))
    return order[inverse].reshape(image.shape)


def slow(image, areas, min_area):
    """The rule in the words of `merge_small`, region by region."""
    image = image.copy()
    while True:
        labels = regions_of(image)
        number = labels.max() + 1
        size = [areas[labels == i].sum() for i in range(number)]
        value = [image[labels == i][0] for i in range(number)]
        near = [set() for _ in range(number)]
        for one, two in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
            for i, j in zip(one.ravel(), two.ravel(), strict=True):
                if i != j and NODATA not in (value[i], value[j]):
                    near[i].add(j)
                    near[j].add(i)
        moves = {}
        for i in range(number):
            small = [j for j in near[i] if size[j] < min_area]
            if size[i] < min_area and near[i] and all((size[i], i) < (size[j], j) for j in small):
                moves[i] = max(near[i], key=lambda j: (size[j], j))
        if not moves:
            return image
        for i, j in moves.items():
            image[labels == i] = value[j]


def merged(image, areas, min_area, step):
    height, width = image.shape
    rows = ((first, image[first : first + step]) for first in range(0, height, step))
    runs = find_runs(rows, height, width, lambda first, n: areas[first : first + n])
    np.testing.assert_array_equal(np.concatenate([r for _, r in runs.rows(3)]), image)
    assert runs.areas.sum() == pytest.approx(areas.sum())
    return np.concatenate([rows for _, rows in merge_small(runs, min_area, NODATA).rows(step)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("min_area", [2.5, 7.0, 60.0])
def test_small_regions_join_as_in_the_slow_reference(seed, min_area):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 3, (23, 19)).astype(np.uint8)
    smooth = ndimage.uniform_filter(rng.normal(size=image.shape), 3)
    image = np.where(rng.random(image.shape) < 0.5, image, np.digitize(smooth, [-0.2, 0.2])).astype(np.uint8)
    image[5:9, 4:12] = NODATA
    image[6, 6] = 1  # an island in nodata
    areas = np.linspace(0.8, 1.2, 23)[:, None] * np.ones(19)  # as in degrees: rows differ
    found = merged(image, areas, min_area, step=5)
    np.testing.assert_array_equal(found, slow(image, areas, min_area))
    assert ((found == NODATA) == (image == NODATA)).all()
    assert found[6, 6] == 1
    labels = regions_of(found)
    for i in range(labels.max() + 1):
        inside = labels == i
        around = ndimage.binary_dilation(inside) & ~inside
        alone = (found[around] == NODATA).all()
        assert found[inside][0] == NODATA or alone or areas[inside].sum() >= min_area


def test_nothing_changes_where_all_is_large_or_all_is_one():
    image = np.kron(np.array([[0, 1], [2, 0]]), np.ones((6, 7))).astype(np.uint8)
    areas = np.ones(image.shape)
    np.testing.assert_array_equal(merged(image, areas, 42.0, 4), image)
    one = np.zeros((5, 4), dtype=np.uint8)
    np.testing.assert_array_equal(merged(one, np.ones((5, 4)), 1e9, 2), one)
    nothing = np.full((5, 4), NODATA, dtype=np.uint8)
    np.testing.assert_array_equal(merged(nothing, np.ones((5, 4)), 1e9, 2), nothing)

"""Half a scene to train on, half to validate on: a straight cut through the footprint, and what lies on which side.

As in Karimzadeh and Pires de Lima (IGARSS 2023): the scene's area of values is a square that stands on the map at an
angle; the cut joins the middle of its left and upper corners to the middle of its lower and right ones. In their code
(github.com/geohai/sea-ice-segment, resources/EE_IO-poly_type-all.csv) the lower left half (SW) trains and the upper
right one (NE) validates. Theirs cuts the labels only, so that training patches see validation pixels; here a window is
on a side when all of it is.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import TRAIN, VALIDATION, Catalog, Entry
from sartransfer.data.ground import pixel_metres
from sartransfer.errors import CatalogError, InputError
from sartransfer.parts import Cut, Part, Side
from sartransfer.readers import open_entry
from sartransfer.recipe import HalvesRecipe
from sartransfer.scene import Scene, Window

COMPASS: dict[str, Side] = {"ne": "upper-right", "sw": "lower-left"}
"""The sides as the paper's code calls them, on a map whose top is north."""
ROWS = 256  # lines read at a time where a footprint is looked for
STEPS = 500  # pixels along the longer side of a thinned footprint: the cut is known to 1/1000 of the scene


def take_halves(catalog: Catalog, recipe: HalvesRecipe) -> Catalog:
    """Cut training scenes in two: one half stays in ``train``, the other becomes ``validation``.

    A scene ``id`` becomes the entries ``id-sw`` and ``id-ne``: the same files, each with its `Part`, beyond which
    neither pixels nor labels are read. A buffer is taken from the training half.

    Args:
        catalog: with a split ``train`` and no ``validation``. recipe: which scenes, which side, what buffer.

    Raises:
        CatalogError: no such scene in training, a month wanted of a scene without a time, validation exists already.
        InputError: a scene without values, or a buffer in metres where a pixel has no length in metres.
    """
    if catalog.in_split(VALIDATION):
        raise CatalogError(
            f"catalog {catalog.name!r} has a validation split already. Leave data.validation.halves out, or clear it."
        )
    chosen = _chosen(catalog, recipe)
    entries: list[Entry] = []
    for entry in catalog.entries:
        if entry.id not in chosen:
            entries.append(entry)
            continue
        scene = open_entry(entry)
        cut = cut_scene(scene)
        buffer = recipe.buffer_m / pixel_metres(scene) if recipe.buffer_m else 0.0
        for name, side in reversed(COMPASS.items()):  # training first, where the NE half validates
            held = name == recipe.side
            part = Part(cut, side, 0.0 if held else buffer)
            part.window(scene.height, scene.width)  # an empty half is told of now
            split = VALIDATION if held else TRAIN
            entries.append(replace(entry, id=f"{entry.id}-{name}", split=split, part=part))
    return catalog.with_entries(entries)


def cut_scene(scene: Scene) -> Cut:
    """Cut the footprint of a scene in half: `cut_in_half` on a thinned mask of its valid pixels, read by lines."""
    step = max(1, max(scene.height, scene.width) // STEPS)
    valid = np.concatenate([v[:, ::step] for v in _lines(scene, step)])
    cut = cut_in_half(valid)
    if step == 1:
        return cut
    # A thinned pixel stands for the upper left one of its square: its centre lies at half a fine pixel.
    offset = 0.5 - 0.5 * step
    return Cut(cut.row * step + offset, cut.col * step + offset, cut.normal)


def cut_in_half(valid: NDArray[np.bool_]) -> Cut:
    """Cut the footprint of a scene in half.

    Args:
        valid: (H, W), True where the scene has values; of a large scene every tenth pixel will do, scaled back.

    Its corners are those of the smallest rectangle, turned as it may be, that holds all these pixels. Where it stands
    straight the cut is level. Raises `InputError` if nothing is valid.
    """
    left, upper, right, lower = _corners(valid)
    one, two = (left + upper) / 2, (lower + right) / 2
    along = (two - one) / np.hypot(*(two - one))
    normal = np.array([-along[1], along[0]])  # (rows, columns), across
    middle = (one + two) / 2
    if normal @ ((upper + right) / 2 - middle) < 0:
        normal = -normal
    return Cut(float(middle[0]), float(middle[1]), (float(normal[0]), float(normal[1])))


def _chosen(catalog: Catalog, recipe: HalvesRecipe) -> set[str]:
    train = catalog.in_split(TRAIN)
    ids = {e.id for e in train}
    unknown = [s for s in recipe.scenes if s not in ids]
    if unknown:
        raise CatalogError(
            f"data.validation.halves.scenes: {', '.join(unknown)} is not among the training scenes of catalog "
            f"{catalog.name!r}: {', '.join(sorted(ids)[:20])}."
        )
    chosen = set(recipe.scenes)
    if not recipe.months:
        return chosen
    months: dict[int, list[str]] = {}
    for entry in train:
        time = entry.time or open_entry(entry).time
        if time is None:
            raise CatalogError(
                f"data.validation.halves.months: entry {entry.id!r} has no time. Fill the catalog's column `time`, or "
                "name the scenes (data.validation.halves.scenes)."
            )
        months.setdefault(time.month, []).append(entry.id)
    missing = [m for m in recipe.months if m not in months]
    if missing:
        raise CatalogError(
            f"data.validation.halves.months: no training scene of catalog {catalog.name!r} is of month "
            f"{', '.join(map(str, missing))}; there are {', '.join(map(str, sorted(months)))}."
        )
    return chosen | {i for m in recipe.months for i in months[m]}


def _lines(scene: Scene, step: int) -> Iterator[NDArray[np.bool_]]:
    """Yield where every `step`-th line of a scene is valid, some lines at a time."""
    block = max(step, ROWS // step * step)
    for row in range(0, scene.height, block):
        window = Window(row, 0, min(block, scene.height - row), scene.width)
        yield scene.read(window=window).valid[::step]


def _corners(valid: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Return the left, upper, right and lower corner of a footprint, each (row, column)."""
    import shapely

    rows = np.flatnonzero(valid.any(axis=1))
    if rows.size == 0:
        raise InputError("no pixel of the scene has a value: its footprint cannot be cut in half.")
    first = valid[rows].argmax(axis=1)
    last = valid.shape[1] - valid[rows, ::-1].argmax(axis=1)
    # Both ends of each line of pixels, upper and lower edge: these hold the corners of all pixels.
    ends = [(r + down, c) for down in (0, 1) for r, c in ((rows, first), (rows, last))]
    points = np.concatenate([np.stack([c, r], axis=1) for r, c in ends]).astype(np.float64)
    rectangle = shapely.oriented_envelope(shapely.multipoints(points))
    ring = shapely.get_coordinates(rectangle)[:4, ::-1]
    # Left is the leftmost corner; of two, the lower: then upper, right and lower follow clockwise as one sees them.
    at = int(np.lexsort((-ring[:, 0], np.round(ring[:, 1], 6)))[0])
    turn = 1 if ring[(at + 1) % 4][0] < ring[(at - 1) % 4][0] else -1
    return tuple(ring[(at + turn * k) % 4] for k in range(4))

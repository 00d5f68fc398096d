"""Strata of a scene's pixels: by incidence angle, by distance from a seam between sub-swaths, from a polygon edge."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import Catalog, Entry
from sartransfer.data.ground import pixel_metres
from sartransfer.data.seams import read_seams
from sartransfer.errors import InputError
from sartransfer.geotiff import opened
from sartransfer.radar.units import Quantity
from sartransfer.readers import open_entry, read_label
from sartransfer.recipe import StrataRecipe
from sartransfer.scene import Scene, Window
from sartransfer.windows import grow, inside

ANGLE = "incidence_angle_deg"
POLYGONS = "polygon_edge"  # kinds of strata whose names begin so
OUTSIDE = -1
"""Bin of a pixel that is in none."""
FLAT = 1e-9  # degrees a pixel below which an angle does not say how far a seam is


@dataclass(frozen=True, slots=True)
class Strata:
    """The strata of one scene, worked out window by window."""

    recipe: StrataRecipe
    scene: Scene
    metres: float | None
    """Side of a pixel; None where nothing is asked for in metres."""
    angle: str | None
    """The scene's band of incidence angles."""
    seams: tuple[NDArray[np.float64], ...] | None
    """Lines (N, 2) of rows and columns along which sub-swaths meet; None: they meet at the recipe's angles."""
    label: NDArray[np.uint8]
    """(H, W) class indices; where they change is an edge."""
    polygons: NDArray[np.unsignedinteger] | None
    """(H, W) numbers of the chart's polygons; None where nothing is asked of their edges."""

    def bins(self, window: Window) -> dict[str, NDArray[np.int64]]:
        """Return, for each kind of the recipe, the bin of every pixel of a window (h, w), `OUTSIDE` for none."""
        found: dict[str, NDArray[np.int64]] = {}
        for kind, edges in self.recipe.bins.items():
            if kind == ANGLE:
                found[kind] = in_bins(self._angles(window), edges, closed=True)
            elif kind == "seam_m":
                found[kind] = in_bins(self._from_seams(window), edges)
            else:
                unit = 1.0 if kind.endswith("_px") else self.metres or math.nan
                areas = (
                    self.polygons if kind.startswith(POLYGONS) and self.polygons is not None else self.label
                )
                found[kind] = in_bins(self._from_edges(areas, window, edges[-1] / unit) * unit, edges)
        return found

    def _angles(self, window: Window) -> NDArray[np.float64]:
        angles: NDArray[np.float64] = self.scene.read([self.angle or ""], window).data[0].astype(np.float64)
        return angles

    def _from_seams(self, window: Window) -> NDArray[np.float64]:
        metres = self.metres or math.nan
        if self.seams is None:
            return distance_from_angles(self._angles(window), self.recipe.seams_deg) * metres
        return distance_from_lines(self.seams, window) * metres

    def _from_edges(
        self, areas: NDArray[np.unsignedinteger], window: Window, farthest: float
    ) -> NDArray[np.float64]:
        """Return pixels from the nearest edge; right up to `farthest`, and infinite where none is as near."""
        seen = grow(window, math.ceil(farthest) + 1, 1, self.scene.height, self.scene.width)
        valid = self.scene.read([self.scene.names[0]], seen).valid
        return distance_from_edges(areas[seen.slices], valid)[inside(window, seen)]


def open_strata(recipe: StrataRecipe, entry: Entry, catalog: Catalog) -> Strata:
    """Open what the strata of a scene need; its label is read whole.

    Raises `InputError` for what the recipe asks and the scene does not have: incidence angles, seams, a map.
    """
    asked = _asked(recipe, entry)
    polygons = _read_polygons(entry, asked[0]) if _of_polygons(recipe) else None
    return Strata(recipe, *asked, label=read_label(entry, catalog), polygons=polygons)


def check_strata(recipe: StrataRecipe, entry: Entry) -> None:
    """Raise the error that `open_strata` would raise for a scene, without reading a pixel."""
    _asked(recipe, entry)


def _asked(
    recipe: StrataRecipe, entry: Entry
) -> tuple[Scene, float | None, str | None, tuple[NDArray[np.float64], ...] | None]:
    """Return the scene, the metres of a pixel, its band of angles and its seams, as far as the recipe needs them."""
    scene = open_entry(entry)
    seams = read_seams(entry, scene) if recipe.seam_m else ()
    if seams is None and not recipe.seams_deg:
        raise InputError(
            f"strata.seam_m: scene {scene.id!r} does not say where its sub-swaths meet. Give the angles at which they "
            "do (strata.seams_deg), or leave strata.seam_m out. sartransfer prepare sentinel1 writes seams of products "
            "that have azimuth noise vectors."
        )
    angle = next((b.name for b in scene.bands if b.unit.quantity is Quantity.INCIDENCE_ANGLE), None)
    if angle is None and (recipe.incidence_angle_deg or seams is None):
        raise InputError(
            f"strata: scene {scene.id!r} has no band of incidence angles; it has {', '.join(scene.names)}. Leave "
            "strata.incidence_angle_deg and strata.seams_deg out, or make the scene with sartransfer prepare sentinel1."
        )
    if _of_polygons(recipe):
        _polygons_file(entry)
    in_metres = any(kind.endswith("_m") for kind in recipe.bins)
    metres = pixel_metres(scene) if in_metres else None
    return scene, metres, angle, seams


def _of_polygons(recipe: StrataRecipe) -> bool:
    return any(kind.startswith(POLYGONS) for kind in recipe.bins)


def _polygons_file(entry: Entry) -> Path:
    """Return where the polygons' numbers of an entry lie: beside its label, or in ``polygons`` beside its folder."""
    label = entry.label
    if label is None:
        raise InputError(f"strata: entry {entry.id!r} has no label raster.")
    places = (
        label.with_name(f"{label.stem}_polygons.tif"),
        label.parent.parent / "polygons" / f"{label.stem.removesuffix('_label')}_polygons.tif",
    )
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise InputError(
            f"strata.polygon_edge_m: {places[0]} is missing, the polygons of entry {entry.id!r}. Make its label with "
            "sartransfer prepare icechart --polygons, or take strata.edge_m: where the label changes."
        )
    return found


def _read_polygons(entry: Entry, scene: Scene) -> NDArray[np.unsignedinteger]:
    path = _polygons_file(entry)
    with opened(path) as file:
        if (file.height, file.width, file.count) != (scene.height, scene.width, 1):
            raise InputError(
                f"{path} has {file.count} bands of {file.height} x {file.width} pixels; scene {scene.id!r} has "
                f"{scene.height} x {scene.width}. Make label and polygons anew on this scene."
            )
        numbers = file.read(1)
    if numbers.dtype.kind != "u":
        raise InputError(f"{path}: numbers of polygons are uint8, uint16 or uint32, not {numbers.dtype}.")
    found: NDArray[np.unsignedinteger] = numbers
    return found


def bins_of(kind: str, edges: tuple[float, ...]) -> int:
    """Return the number of bins of a kind: between the edges of angles, and from each edge of distances on."""
    return len(edges) - 1 if kind == ANGLE else len(edges)


def in_bins(
    values: NDArray[np.float64], edges: tuple[float, ...], *, closed: bool = False
) -> NDArray[np.int64]:
    """Return the bin of each value by its lower edge, `OUTSIDE` below the first and for NaN.

    Args:
        values: any shape. edges: rising. closed: the last edge ends the last bin, which holds it; else that has no end.
    """
    places = np.searchsorted(np.asarray(edges), values, side="right") - 1
    if closed:
        last = len(edges) - 1
        places = np.where(values == edges[-1], last - 1, places)
        places[(places >= last) & (values > edges[-1])] = OUTSIDE
    places[np.isnan(values)] = OUTSIDE
    return places.astype(np.int64)


def distance_from_edges(label: NDArray[np.unsignedinteger], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the pixels from each pixel's centre to the nearest edge of a label (H, W), inf where there is none.

    An edge runs between two pixels side by side, both `valid`, of different labels; what is ignored is a label too, so
    that coasts and unknown polygons have edges, and the border of the image has none.
    """
    from scipy.ndimage import distance_transform_edt

    edge = np.zeros(label.shape, dtype=np.bool_)
    for one, two in ((np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (label[one] != label[two]) & valid[one] & valid[two]
        edge[one] |= differ
        edge[two] |= differ
    if not edge.any():
        return np.full(label.shape, np.inf)
    distance: NDArray[np.float64] = distance_transform_edt(~edge)
    return distance + 0.5  # an edge pixel's centre lies half a pixel from the edge


def distance_from_lines(lines: tuple[NDArray[np.float64], ...], window: Window) -> NDArray[np.float64]:
    """Return the pixels from each pixel's centre of a window (h, w) to the nearest of lines (N, 2) of (row, column)."""
    rows = np.arange(window.row, window.row + window.height)[:, None] + 0.5
    cols = np.arange(window.col, window.col + window.width)[None, :] + 0.5
    nearest = np.full((window.height, window.width), np.inf)
    for line in lines:
        for (r, c), (r2, c2) in pairwise(line):
            length = (r2 - r) ** 2 + (c2 - c) ** 2
            along = np.clip(((rows - r) * (r2 - r) + (cols - c) * (c2 - c)) / length, 0, 1) if length else 0.0
            nearest = np.minimum(nearest, np.hypot(rows - r - along * (r2 - r), cols - c - along * (c2 - c)))
    return nearest


def distance_from_angles(angles: NDArray[np.float64], seams: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the pixels from each pixel to where the incidence angle (h, w) is that of a seam, to first order.

    The difference in degrees over the angle's slope, which is steady within some kilometres; the slope is the median
    of the window, since that of neighbouring pixels rounds. NaN where there is no angle, or it does not change.
    """
    down, across = (np.abs(np.diff(angles, axis=axis)) for axis in (0, 1))
    slope = float(np.hypot(_middle(down), _middle(across)))
    if not slope > FLAT:
        return np.full(angles.shape, np.nan)
    nearest: NDArray[np.float64] = np.min([np.abs(angles - seam) for seam in seams], axis=0) / slope
    return nearest


def _middle(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else 0.0

"""How large the pixels of a scene are on the ground."""

from collections.abc import Sequence

import numpy as np

from sartransfer.errors import InputError
from sartransfer.recipe import PatchRecipe
from sartransfer.scene import GeoReference, Scene

SAME = 0.005  # share by which pixels of scenes trained together may differ and still be called of one size
EARTH = 6371008.8  # metres: mean radius of the WGS 84 ellipsoid (Moritz 2000, Geodetic Reference System 1980)
FAR = 1.25  # times larger or smaller than in training from where on a network is warned of


def pixel_metres(scene: Scene) -> float:
    """Return the side of a scene's pixels in metres: the root of a pixel's area on its projection.

    Raises `InputError` where the scene does not lie on a projection, or it is in degrees: give pixels then.
    """
    place = scene.georeference
    if place.crs is None or place.transform is None:
        raise InputError(
            f"scene {scene.id!r} does not lie on a map, so a pixel has no length in metres. Geocode it (sartransfer "
            "prepare sentinel1), or give lengths in pixels."
        )
    try:
        from rasterio.crs import CRS
    except ImportError:
        raise InputError(
            "lengths in metres need rasterio, to know a projection's unit (pip install rasterio); or give pixels."
        ) from None
    crs = CRS.from_user_input(place.crs)
    if not crs.is_projected:
        raise InputError(
            f"scene {scene.id!r} lies in degrees, where metres have no one length. Bring it to a projection, or give "
            "lengths in pixels."
        )
    a, b, _, d, e, _ = place.transform
    return float(abs(a * e - b * d) ** 0.5 * crs.linear_units_factor[1])


def ground_metres(scene: Scene) -> float | None:
    """Return about how long the side of a scene's pixels is on the ground, in degrees and by control points too.

    On a projection as `pixel_metres`; in degrees of a sphere, at the scene's middle; of control points the plane that
    fits them best. None where nothing says it.
    """
    place, found = scene.georeference, None
    if place.crs is None:
        return None
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError

        crs = CRS.from_user_input(place.crs)
    except (ImportError, CRSError):
        return None
    if place.transform is not None:
        a, b, c, d, e, f = place.transform
        col, row = scene.width / 2 + np.array([0, 1, 0, 1]), scene.height / 2 + np.array([0, 0, 1, 1])
        x, y = a * col + b * row + c, d * col + e * row + f
    elif len(place.gcps) >= 3:
        row, col, x, y = np.array([point[:4] for point in place.gcps]).T
    else:
        return None
    if crs.is_projected:
        found = np.stack([x, y], axis=1) * crs.linear_units_factor[1]
    elif crs.is_geographic:  # in space, so that neither the pole nor the antimeridian is an exception
        lon, lat = x * crs.units_factor[1], y * crs.units_factor[1]
        found = EARTH * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    if found is None:
        return None
    grid = np.stack([col - col.mean(), row - row.mean()], axis=1)
    sides, _, rank, _ = np.linalg.lstsq(grid, found - found.mean(0), rcond=None)
    area = np.linalg.det(sides @ sides.T)
    return float(area**0.25) if rank == 2 and area > 0 else None


def common_pixel_metres(scenes: Sequence[Scene]) -> float:
    """Return the side of the pixels of several scenes in metres; raises `InputError` where they differ."""
    sizes = [(pixel_metres(scene), scene.id) for scene in scenes]
    (smallest, one), (largest, other) = min(sizes), max(sizes)
    if largest > (1 + SAME) * smallest:
        raise InputError(
            f"scenes of {smallest:g} m ({one!r}) and {largest:g} m pixels ({other!r}) cannot be trained on together in "
            "patches of one size in metres. Bring them to one pixel size, or give data.patch.size."
        )
    return smallest


def trained_pixel_metres(scenes: Sequence[Scene], stated: float | None = None) -> tuple[float, float] | None:
    """Return the smallest and the largest side of a pixel in metres.

    Args:
        scenes: of training. stated: what their catalog says of those that do not lie on a map (`Catalog.pixel_m`).

    Returns:
        None where a scene does not say, nor the catalog.
    """
    try:
        sizes = [
            stated if stated and scene.georeference == GeoReference() else pixel_metres(scene)
            for scene in scenes
        ]
    except InputError:
        return None
    return (min(sizes), max(sizes)) if sizes else None


def pixel_warning(scene: Scene, trained: Sequence[float] | None) -> str | None:
    """Say that a scene's pixels are larger or smaller on the ground than those a network was trained on.

    Args:
        scene: to be mapped. trained: from `trained_pixel_metres`; None: not known.

    Returns:
        None where they are within `FAR` times, or one of the two is not known.
    """
    if trained is None:
        return None
    side = ground_metres(scene)
    if side is None:
        return None
    smallest, largest = trained
    if smallest / FAR <= side <= largest * FAR:
        return None
    known = f"{smallest:g} m" if largest <= (1 + SAME) * smallest else f"{smallest:g} to {largest:g} m"
    return (
        f"scene {scene.id!r} has pixels of {side:.3g} m, and training had {known}: what the network knows "
        "is of another size there. Bring the scene to the training's pixel size."
    )


def in_pixels(patch: PatchRecipe, scenes: Sequence[Scene]) -> PatchRecipe:
    """Return a recipe of patches whose side is in pixels, of the size in metres where one is asked for.

    Raises `InputError` where the scenes do not say how large a pixel is, differ, or a patch would have none.
    """
    if patch.size is not None or patch.size_m is None:
        return patch
    metres = common_pixel_metres(scenes)
    size = round(patch.size_m / metres)
    if size < 1:
        raise InputError(
            f"data.patch.size_m={patch.size_m:g} is less than a pixel of {metres:g} m. Give a larger size."
        )
    return patch.model_copy(update={"size": size})

"""How large the pixels of a scene are on the ground."""

from collections.abc import Sequence

from sartransfer.errors import InputError
from sartransfer.recipe import PatchRecipe
from sartransfer.scene import Scene

SAME = 0.005  # share by which pixels of scenes trained together may differ and still be called of one size
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


def trained_pixel_metres(scenes: Sequence[Scene]) -> tuple[float, float] | None:
    """Return the smallest and the largest side of a pixel in metres; None where a scene does not say."""
    try:
        sizes = [pixel_metres(scene) for scene in scenes]
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
    try:
        side = pixel_metres(scene)
    except InputError:
        return None
    smallest, largest = trained
    if smallest / FAR <= side <= largest * FAR:
        return None
    known = f"{smallest:g} m" if largest <= (1 + SAME) * smallest else f"{smallest:g} to {largest:g} m"
    return (
        f"scene {scene.id!r} has pixels of {side:g} m, and training had {known}: what the network knows "
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

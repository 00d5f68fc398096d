"""Pictures of a scene, of its classes and of its errors: arrays in, PNG bytes out."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

TWO_CLASSES = ("#e9e4d4", "#26648e")
CLASS_COLOURS = (
    *("#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#CC6677", "#999933", "#AA4499"),
    *("#4d4d4d", "#F4A582", "#B2DF8A", "#A6761D", "#BEAED4", "#1B4F72", "#FDDBC7"),
)
"""Tol's muted scheme, lengthened for up to 16 classes; classes beyond repeat it."""
ERROR_COLOUR = "#8e24aa"
IGNORED_COLOURS = ("#c9c9c9", "#a3a3a3")
PICTURE_SIZE = 384
"""Longest side of a picture, in pixels: larger scenes are thinned, smaller ones enlarged by whole numbers."""

_NOT_BACKSCATTER = (
    *("change", "difference", "ratio", "angle", "incidence", "elevation", "dem", "height", "slope", "mask"),
)


def class_colours(number: int, names: Sequence[str] = ()) -> list[str]:
    """Return one colour per class (two classes: pale ground, dark target; ice pale and water dark, as they are)."""
    if number == 2:
        water_first = [n.lower() for n in names] == ["water", "ice"]
        return list(reversed(TWO_CLASSES) if water_first else TWO_CLASSES)
    return [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(number)]


def picture_step(height: int, width: int) -> int:
    """Return n where a picture shows one pixel in n along each side (1: all of them)."""
    return -(-max(height, width) // PICTURE_SIZE)


def shown_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Return the bands to show: red, green and blue where named so, else the last backscatter band.

    One taken after the event goes first; a change, an incidence angle or a height is shown only where there
    is nothing else.
    """
    lower = [n.lower() for n in names]
    if {"red", "green", "blue"} <= set(lower):
        return tuple(lower.index(c) for c in ("red", "green", "blue"))
    usable = [i for i, n in enumerate(lower) if not any(word in n for word in _NOT_BACKSCATTER)]
    usable = usable or list(range(len(lower)))
    after = [i for i in usable if any(word in lower[i] for word in ("after", "post", "flood"))]
    return ((after or usable)[-1],)


def make_scene_picture(image: ArrayLike, bands: Sequence[int]) -> bytes:
    """Return the bands of `image` (B, H, W) stretched from the 2nd to the 98th percentile."""
    return _png(_scene_rgb(np.asarray(image, dtype=np.float64), bands))


def make_class_picture(
    classes: ArrayLike, colours: Sequence[str], unlabelled: ArrayLike | None = None
) -> bytes:
    """Return the class indices (H, W) in the classes' colours; what is no class (255: ignored) is hatched.

    Where `unlabelled` (H, W) is true the class shows through the hatching: an answer that no label judges (over land).
    """
    thinned = _thin(np.asarray(classes))
    ignored = (thinned < 0) | (thinned >= len(colours))
    table = np.array([_rgb(c) for c in colours], dtype=np.uint8)
    rgb = _enlarge(table[np.where(ignored, 0, thinned)])
    if unlabelled is not None:
        through = _enlarge(_thin(np.asarray(unlabelled, dtype=bool)))
        hatched = (rgb.astype(np.uint16) + _hatch(rgb, through)) // 2
        rgb = np.where(_stripes(through.shape)[..., None], rgb, hatched).astype(np.uint8)
    return _png(_hatch(rgb, _enlarge(ignored)))


def make_error_picture(
    image: ArrayLike, bands: Sequence[int], label: ArrayLike, prediction: ArrayLike, num_classes: int
) -> bytes:
    """Return the pale grey scene with misclassified pixels in one purple and ignored pixels hatched."""
    truth, predicted = _thin(np.asarray(label)), _thin(np.asarray(prediction))
    ignored = truth >= num_classes
    grey = _scene_rgb(np.asarray(image, dtype=np.float64), bands).mean(axis=-1, keepdims=True)
    rgb = np.repeat(95 + 0.6 * grey, 3, axis=-1).astype(np.uint8)
    rgb[_enlarge((truth != predicted) & ~ignored)] = _rgb(ERROR_COLOUR)
    return _png(_hatch(rgb, _enlarge(ignored)))


def _thin(array: NDArray[Any]) -> NDArray[Any]:
    step = picture_step(*array.shape[-2:])
    return array[..., ::step, ::step]


def _enlarge(pixels: NDArray[Any]) -> NDArray[Any]:
    factor = max(1, PICTURE_SIZE // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _scene_rgb(image: NDArray[np.float64], bands: Sequence[int]) -> NDArray[np.uint8]:
    """Stretch each band by its own percentiles; every pixel is thinned as the label is, never averaged."""
    stretched = []
    for band in _thin(image[list(bands)]):
        finite = band[np.isfinite(band)]
        low, high = np.percentile(finite, [2, 98]) if finite.size else (0.0, 1.0)
        span = high - low if high > low else 1.0
        stretched.append(255 * np.clip((np.where(np.isfinite(band), band, low) - low) / span, 0, 1))
    rgb = np.stack(stretched if len(stretched) == 3 else stretched[:1] * 3, axis=-1).astype(np.uint8)
    invalid = ~np.isfinite(_thin(image[list(bands)])).all(axis=0)
    return _hatch(_enlarge(rgb), _enlarge(invalid))


def _hatch(rgb: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    stripe = _stripes(where.shape)
    rgb = rgb.copy()
    rgb[where & stripe], rgb[where & ~stripe] = _rgb(IGNORED_COLOURS[0]), _rgb(IGNORED_COLOURS[1])
    return rgb


def _stripes(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    return np.asarray((rows + columns) // 5 % 2 == 0)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _png(rgb: NDArray[np.uint8]) -> bytes:
    """Encode `rgb` without loss, with a palette where 256 colours are enough (a third of the size)."""
    packed = rgb.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    colours, place = np.unique(packed, return_inverse=True)
    if colours.size <= 256:
        picture = Image.fromarray(place.reshape(packed.shape).astype(np.uint8))
        picture.putpalette([int(c) >> shift & 255 for c in colours for shift in (16, 8, 0)])
    else:
        picture = Image.fromarray(rgb)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

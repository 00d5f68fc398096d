"""The reader ``image``: PNG, JPEG and plain TIFF by Pillow, without coordinates.

Display values carry no physics: grey is declared ``digital_number`` and colour ``optical``, unless the
catalog says otherwise (a 16-bit PNG of amplitudes: ``amplitude=amplitude``).
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sartransfer.errors import InputError
from sartransfer.radar.units import parse_unit
from sartransfer.scene import Band, Scene, Window

GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
COLOUR = ("RGB", "RGBA")
ALPHA = ("LA", "RGBA")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Pixels of an image; decoded at each read (the format allows no less), then cut to the window."""

    path: Path

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; where an alpha channel is 0 nothing is valid."""
        values, alpha = _decode(self.path)
        rows, cols = window.slices
        out = values[list(indices), rows, cols]
        valid = np.isfinite(out)
        if alpha is not None:
            valid = valid & (alpha[rows, cols].astype(np.int64) > 0)
        return out, valid


def open_image(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open a grey (8 or 16 bit) or RGB image; size and mode are read now, pixels later.

    Grey is one band ``grey`` (digital_number), RGB is ``red``, ``green``, ``blue`` (optical), unless `bands`
    says otherwise. Alpha becomes the valid mask (0 is not valid) and is not a band. Palette images are
    refused: their numbers are places in a palette. Raises `InputError` for these, and for damaged files.
    """
    path = Path(path)
    with opened_image(path) as image:
        mode, (width, height) = image.mode, image.size
    if mode not in GREY + COLOUR:
        raise InputError(
            f"{path}: images of mode {mode!r} cannot be read as a scene. Must be grey (8 or 16 bit) or RGB; "
            "convert it first (a palette's numbers are not measurements)."
        )
    count = 3 if mode in COLOUR else 1
    if bands and len(bands) != count:
        names = ", ".join(b.name for b in bands)
        raise InputError(f"{path} has {count} band(s) (mode {mode}), but {len(bands)} are named: {names}.")
    plain = (
        tuple(Band(n, unit=parse_unit("optical")) for n in ("red", "green", "blue"))
        if count == 3
        else (Band("grey", unit=parse_unit("digital_number")),)
    )
    return Scene(id=path.stem, bands=bands or plain, height=height, width=width, source=ImageSource(path))


def read_image_values(path: Path) -> NDArray[np.generic]:
    """Read a one-layer image's raw numbers (H, W); of a palette image its places in the palette."""
    with opened_image(path) as image:
        if image.mode not in (*GREY, "P") or image.mode in ALPHA:
            raise InputError(
                f"{path}: a label image must have one layer of class values; mode {image.mode!r} has "
                f"{len(image.getbands())}. Save it as grey or palette."
            )
        return np.asarray(image)


def _decode(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Return values (B, H, W) and alpha (H, W) or None."""
    with opened_image(path) as image:
        alpha = np.asarray(image.getchannel("A")) if image.mode in ALPHA else None
        values = np.asarray(image)
    if values.ndim == 2:
        return values[None], alpha
    values = np.moveaxis(values, 2, 0)
    return (values if alpha is None else values[:-1]), alpha


@contextlib.contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open a plain image whose size is sane; raises `InputError` for none, a damaged one or another kind of file."""
    if not path.is_file():
        raise InputError(
            f"{path} is not there. Check the path; a catalog's paths are relative to the catalog."
        )
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}. Is it whole?") from error

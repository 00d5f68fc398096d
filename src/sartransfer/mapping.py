"""A trained network and a scene in, a georeferenced map out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sartransfer import __version__
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.models.checkpoint import Checkpoint, read_checkpoint
from sartransfer.predict import HALO, ONE_PASS_PIXELS, predict_windows
from sartransfer.readers import open_scene
from sartransfer.scene import Band, Scene

NODATA = 255
# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233),
    (213, 94, 0), (240, 228, 66), (120, 120, 120),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MapResult:
    """What was written, and what is odd about it."""

    path: Path
    probabilities: Path | None
    counts: dict[str, int]
    """Pixels of each class."""
    warnings: tuple[str, ...]


def predict_scene(
    checkpoint: str | Path | Checkpoint,
    scene: str | Path | Scene,
    out: str | Path,
    *,
    bands: tuple[Band, ...] | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
) -> MapResult:
    """Map a scene: its class at every pixel as a GeoTIFF, georeferenced as the scene.

    Args:
        checkpoint: a run folder, a checkpoint's path, or a checkpoint that was read.
        scene: a file that a reader knows, or an open scene.
        out: where the map goes (uint8, 255 where the scene has no value; class names and colours inside).
        bands: what the scene's bands are, where the file does not say.
        probabilities: write ``<out>-probabilities.tif`` too: one float32 band a class, NaN without a value.
        overwrite: replace a map that is there. device: ``cpu`` or ``cuda``.

    Returns:
        `MapResult`; its warnings (values that belie their unit, a scene far from training) are also in the
        map's metadata, as tag ``SARTRANSFER_WARNINGS``.

    Raises:
        InputError, UnitError: a scene that the network cannot take, or without a single valid pixel.
        OutputError: the map exists already, or cannot be written.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(Path(checkpoint))
    if checkpoint.model.task != "segment":
        raise InputError("this checkpoint classifies whole patches; maps are made by segmentation networks.")
    if not isinstance(scene, Scene):
        scene = open_scene(scene, bands=bands)
    out = Path(out)
    extra = out.with_name(f"{out.stem}-probabilities.tif") if probabilities else None
    for path in (out, extra):
        if path is not None and path.exists() and not overwrite:
            raise OutputError(f"{path} exists. Choose another name, or overwrite it (--overwrite).")
    checkpoint.contract.check(scene)
    model = checkpoint.model.to(device).eval()
    classes = checkpoint.classes
    labels = np.full((scene.height, scene.width), NODATA, dtype=np.uint8)
    shares = None
    if extra is not None:
        shares = np.full((len(classes), scene.height, scene.width), np.nan, dtype=np.float32)
    warnings: dict[str, None] = {}
    for window, logits, valid in predict_windows(checkpoint, model, scene, device):
        if not valid.any():
            continue
        for warning in checkpoint.contract.warnings(scene, checkpoint.contract.read(scene, window)):
            warnings.setdefault(warning)
        labels[window.slices] = np.where(valid, logits.argmax(0).numpy(), NODATA)
        if shares is not None:
            shares[(slice(None), *window.slices)] = np.where(valid, torch.softmax(logits, 0).numpy(), np.nan)
    if (labels == NODATA).all():
        raise InputError(f"scene {scene.id!r} has no valid pixel: nothing to map.")
    tags = _tags(checkpoint, scene, tuple(warnings))
    colours = {i: COLOURS[i % len(COLOURS)] for i in range(len(classes))}
    if extra is not None and shares is not None:
        names = [f"probability_{c}" for c in classes]
        write_geotiff(
            extra, shares, georeference=scene.georeference, descriptions=names, tags=tags, nodata=float("nan"),
            overwrite=overwrite,
        )  # fmt: skip
    write_geotiff(
        out, labels, georeference=scene.georeference, descriptions=["class"], tags=tags, nodata=NODATA,
        colormap=colours, overwrite=overwrite,
    )  # fmt: skip
    counts = np.bincount(labels.ravel(), minlength=256)
    found = {name: int(counts[i]) for i, name in enumerate(classes)}
    return MapResult(out, extra, found, tuple(warnings))


def _tags(checkpoint: Checkpoint, scene: Scene, warnings: tuple[str, ...]) -> dict[str, str]:
    exact = scene.height * scene.width <= ONE_PASS_PIXELS
    return {
        "SARTRANSFER_VERSION": __version__,
        "SARTRANSFER_CLASSES": ",".join(f"{i}={c}" for i, c in enumerate(checkpoint.classes)),
        "SARTRANSFER_CHECKPOINT": f"{checkpoint.metadata.get('identity', '')}"
        f" epoch {checkpoint.metadata.get('epoch', '')}",
        "SARTRANSFER_SCENE": scene.id,
        "SARTRANSFER_METHOD": "one pass"
        if exact
        else f"windows with a halo of {HALO} px (not exact where the network sees farther)",
        "SARTRANSFER_WARNINGS": "; ".join(warnings) or "none",
        "AREA_OR_POINT": "Area",
    }

"""A trained network and a scene in, a georeferenced map out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sartransfer import __version__
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.models.checkpoint import Checkpoint, read_checkpoint
from sartransfer.predict import HALO, ONE_PASS_PIXELS, predict_windows
from sartransfer.readers import open_files
from sartransfer.runs import chosen_weights
from sartransfer.scene import Band, Reading, Scene, format_bands

NODATA = 255
SAMPLE = 2048 * 2048  # pixels of a scene, evenly spread, that are looked at for what is odd
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
    bands: tuple[Band, ...] | str | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    views: int | None = None,
    device: str = "cpu",
) -> MapResult:
    """Map a scene: its class at every pixel as a GeoTIFF, georeferenced as the scene.

    Args:
        checkpoint: a run folder, a checkpoint's path, or a checkpoint that was read.
        scene: a file that a reader knows, several files of one scene as ``before.tif|after.tif``, or an open
            scene.
        out: where the map goes (uint8, 255 where the scene has no value; class names and colours inside).
        bands: what the scene's bands are, where the file does not say; as text in the words of
            `scene.parse_bands`, file by file with the same ``|``.
        probabilities: write ``<out>-probabilities.tif`` too: one float32 band a class, NaN without a value.
        overwrite: replace a map that is there.
        views: flips and turns that are averaged (1, 4, 8); None: as many as the checkpoint was made for.
        device: ``cpu`` or ``cuda``.

    Returns:
        `MapResult`; its warnings (values that belie their unit, a scene far from training) are also in the
        map's metadata, as tag ``SARTRANSFER_WARNINGS``.

    Raises:
        InputError, UnitError: a scene that the network cannot take, or without a single valid pixel.
        OutputError: the map exists already or cannot be written; nothing is left then.
    """
    if not isinstance(checkpoint, Checkpoint):
        path = Path(checkpoint)
        checkpoint = read_checkpoint(path, which=chosen_weights(path))
    if checkpoint.model.task != "segment":
        raise InputError("this checkpoint classifies whole patches; maps are made by segmentation networks.")
    out = Path(out)
    extra = out.with_name(f"{out.stem}-probabilities.tif") if probabilities else None
    files = [] if isinstance(scene, Scene) else [Path(name.strip()) for name in str(scene).split("|")]
    _check_out(out, extra, files, overwrite)
    if not isinstance(scene, Scene):
        scene = open_files(
            str(scene), bands if isinstance(bands, str) or bands is None else format_bands(bands)
        )
    checkpoint.contract.check(scene)
    model = checkpoint.model.to(device).eval()
    classes = checkpoint.classes
    labels = np.full((scene.height, scene.width), NODATA, dtype=np.uint8)
    shares = None
    if extra is not None:
        shares = np.full((len(classes), scene.height, scene.width), np.nan, dtype=np.float32)
    step = max(1, scene.height * scene.width // SAMPLE)
    looked_at = []
    for window, logits, valid in predict_windows(checkpoint, model, scene, device, views):
        if not valid.any():
            continue
        looked_at.append(checkpoint.contract.read(scene, window).data[:, valid][:, ::step])
        labels[window.slices] = np.where(valid, logits.argmax(0).numpy(), NODATA)
        if shares is not None:
            shares[(slice(None), *window.slices)] = np.where(valid, torch.softmax(logits, 0).numpy(), np.nan)
    if not looked_at:
        raise InputError(f"scene {scene.id!r} has no valid pixel: nothing to map.")
    sample = np.concatenate(looked_at, axis=1)[:, None]
    warnings = checkpoint.contract.warnings(scene, Reading(sample, np.ones(sample.shape[1:], dtype=bool)))
    tags = _tags(checkpoint, scene, warnings)
    colours = {i: COLOURS[i % len(COLOURS)] for i in range(len(classes))}
    if extra is not None and shares is not None:
        names = [f"probability_{c}" for c in classes]
        write_geotiff(
            extra, shares, georeference=scene.georeference, descriptions=names, tags=tags, nodata=float("nan"),
            overwrite=overwrite,
        )  # fmt: skip
    try:
        write_geotiff(
            out, labels, georeference=scene.georeference, descriptions=["class"], tags=tags, nodata=NODATA,
            colormap=colours, overwrite=overwrite,
        )  # fmt: skip
    except OutputError:
        if extra is not None:
            extra.unlink(missing_ok=True)  # both or none
        raise
    counts = np.bincount(labels.ravel(), minlength=256)
    found = {name: int(counts[i]) for i, name in enumerate(classes)}
    return MapResult(out, extra, found, tuple(warnings))


def _check_out(out: Path, extra: Path | None, files: Sequence[Path], overwrite: bool) -> None:
    """Refuse what could not be written in the end, before anything is computed."""
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{out} does not end in .tif: a map is written as a GeoTIFF. Change the name.")
    if not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written: there is no folder {out.parent}. Make it first.")
    for path in (out, extra):
        if path is None or not path.exists():
            continue
        if any(file.exists() and path.samefile(file) for file in files):
            raise OutputError(f"{path} is the scene itself, which would be lost. Choose another name.")
        if path.is_dir():
            raise OutputError(f"{path} is a folder. Give the name of a file.")
        if not overwrite:
            raise OutputError(f"{path} exists. Choose another name, or overwrite it (--overwrite).")


def _tags(checkpoint: Checkpoint, scene: Scene, warnings: Sequence[str]) -> dict[str, str]:
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

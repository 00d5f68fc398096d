"""A trained network and a scene in, a georeferenced map out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartransfer import __version__
from sartransfer.errors import InputError, one_of
from sartransfer.geotiff import check_outputs
from sartransfer.models.checkpoint import Checkpoint, read_checkpoint
from sartransfer.predict import plan_scene, predict_windows
from sartransfer.readers import open_files
from sartransfer.runs import chosen_weights
from sartransfer.scene import Band, Reading, Scene, format_bands
from sartransfer.streaming import GrowingMap, Layer
from sartransfer.windows import ScenePlan, cut

NODATA = 255
SAMPLE = 2048 * 2048  # pixels up to which all of a scene are looked at for what is odd
SPREAD = 1024 * 1024  # pixels, evenly spread, that are looked at in a larger one
SHARES = 254  # what a probability of 1 is in eight bits; 255 is nodata
PROBABILITIES = ("float32", "uint8")
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
    entropy: Path | None = None
    plan: ScenePlan | None = None
    """How the scene went through the network, and the memory that was foreseen."""


def predict_scene(
    checkpoint: str | Path | Checkpoint,
    scene: str | Path | Scene,
    out: str | Path,
    *,
    bands: tuple[Band, ...] | str | None = None,
    probabilities: bool | str = False,
    entropy: bool = False,
    overwrite: bool = False,
    views: int | None = None,
    device: str = "cpu",
    memory: int | None = None,
) -> MapResult:
    """Map a scene: its class at every pixel as a GeoTIFF, georeferenced as the scene.

    A large scene is mapped window by window (`predict.plan_scene`), in memory that does not grow with it. What is
    done is kept in a folder beside the map; where the process is killed, the same call goes on from there, and the
    files are the same to the byte. (That needs a checkpoint and a scene from files.)

    Args:
        checkpoint: a run folder, a checkpoint's path, or a checkpoint that was read.
        scene: a file that a reader knows, several files of one scene as ``before.tif|after.tif``, or an open
            scene.
        out: where the map goes (uint8, 255 where the scene has no value; class names and colours inside).
        bands: what the scene's bands are, where the file does not say; as text in the words of
            `scene.parse_bands`, file by file with the same ``|``.
        probabilities: write ``<out>-probabilities.tif`` too, one band a class: True or ``float32`` (NaN without a
            value), or ``uint8`` (the file's scale of 1/254 applied to 0 to 254; 255 without a value).
        entropy: write ``<out>-entropy.tif`` too: the entropy of the class probabilities in nats, float32, NaN without
            a value.
        overwrite: replace a map that is there.
        views: flips and turns that are averaged (1, 4, 8); None: as many as the checkpoint was made for.
        device: ``cpu`` or ``cuda``.
        memory: bytes that prediction may take (`predict.plan_memory`); None: a size of windows that suits most.

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
    kind = "float32" if probabilities is True else probabilities or None
    if kind is not None and kind not in PROBABILITIES:
        raise InputError(one_of("probabilities", kind, PROBABILITIES))
    layers = _layers(out, checkpoint.classes, kind, entropy)
    files = [] if isinstance(scene, Scene) else [Path(name.strip()) for name in str(scene).split("|")]
    check_outputs([layer.path for layer in layers], files, overwrite, what="map", lost="the scene itself")
    if not isinstance(scene, Scene):
        scene = open_files(
            str(scene), bands if isinstance(bands, str) or bands is None else format_bands(bands)
        )
    checkpoint.contract.check(scene)
    views = views or checkpoint.views
    plan = plan_scene(checkpoint.model, scene.height, scene.width, views=views, memory=memory)
    sample = _sample(checkpoint, scene, plan)
    warnings = checkpoint.contract.warnings(scene, Reading(sample, np.ones(sample.shape[1:], dtype=bool)))
    model = checkpoint.model.to(device).eval()
    task = _task(checkpoint, scene, files, plan, views, device)
    with GrowingMap(layers, scene.height, scene.width, task) as growing:
        found = predict_windows(
            checkpoint, model, scene, device, views, plan=plan, done=growing.done,
            scratch=growing.folder if growing.resumable else None,
        )  # fmt: skip
        for window, logits, valid in found:
            growing.add(window, _values(logits, valid, kind, entropy))
        counts = growing.counts()
        growing.finish(scene.georeference, _tags(checkpoint, scene, plan, warnings), overwrite=overwrite)
    paths = {layer.path.stem.removeprefix(out.stem): layer.path for layer in layers}
    return MapResult(
        out,
        paths.get("-probabilities"),
        {name: int(counts[i]) for i, name in enumerate(checkpoint.classes)},
        tuple(warnings),
        paths.get("-entropy"),
        plan,
    )


def _layers(out: Path, classes: Sequence[str], probabilities: str | None, entropy: bool) -> list[Layer]:
    """Return the files to write, the classes first."""
    colours = {i: COLOURS[i % len(COLOURS)] for i in range(len(classes))}
    layers = [Layer(out, 1, "uint8", NODATA, ("class",), colours)]
    names = tuple(f"probability_{c}" for c in classes)
    path = out.with_name(f"{out.stem}-probabilities.tif")
    if probabilities == "uint8":
        layers.append(Layer(path, len(names), "uint8", NODATA, names, scale=1 / SHARES))
    elif probabilities:
        layers.append(Layer(path, len(names), "float32", float("nan"), names))
    if entropy:
        path = out.with_name(f"{out.stem}-entropy.tif")
        layers.append(Layer(path, 1, "float32", float("nan"), ("entropy_nats",)))
    return layers


def _values(
    logits: Tensor, valid: NDArray[np.bool_], probabilities: str | None, entropy: bool
) -> list[NDArray[Any]]:
    """Return what a window (K, h, w) gives to each of the layers, nodata where it is not valid."""
    values: list[NDArray[Any]] = [np.where(valid, logits.argmax(0).numpy(), NODATA)[None].astype(np.uint8)]
    if probabilities:
        shares = torch.softmax(logits, 0).numpy()
        if probabilities == "uint8":
            values.append(np.where(valid, np.rint(shares * SHARES), NODATA).astype(np.uint8))
        else:
            values.append(np.where(valid, shares, np.nan).astype(np.float32))
    if entropy:
        spread = torch.special.entr(torch.softmax(logits, 0)).sum(0).numpy()
        values.append(np.where(valid, spread, np.nan)[None].astype(np.float32))
    return values


def _sample(checkpoint: Checkpoint, scene: Scene, plan: ScenePlan) -> NDArray[np.float32]:
    """Return valid pixels of the scene, evenly spread, normalized: (C, 1, N). Raises `InputError` for none."""
    pixels = scene.height * scene.width
    step = 1 if pixels <= SAMPLE else max(1, pixels // SPREAD)

    def parts() -> Iterator[NDArray[np.float32]]:
        for window in cut(scene.height, scene.width, plan.core):
            data, valid = checkpoint.contract.read(scene, window)
            if valid.any():
                yield data[:, valid][:, ::step]

    found = list(parts())
    if not found:
        raise InputError(f"scene {scene.id!r} has no valid pixel: nothing to map.")
    return np.concatenate(found, axis=1)[:, None]


def _task(
    checkpoint: Checkpoint, scene: Scene, files: Sequence[Path], plan: ScenePlan, views: int, device: str
) -> dict[str, Any] | None:
    """Return all that a map depends on, so that a killed one is gone on with; None where that is not known."""
    tensors = checkpoint.metadata.get("sha256")
    if not files or tensors is None:
        return None
    parts = [p for file in files for p in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "tensors": tensors,
        "contract": checkpoint.contract.to_json(),
        "scene": [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in parts if p.is_file()],
        "bands": [repr(band) for band in scene.bands],
        "plan": plan.to_json(),
        "views": views,
        "device": device,
        "classes": list(checkpoint.classes),
    }


def _tags(checkpoint: Checkpoint, scene: Scene, plan: ScenePlan, warnings: Sequence[str]) -> dict[str, str]:
    return {
        "SARTRANSFER_VERSION": __version__,
        "SARTRANSFER_CLASSES": ",".join(f"{i}={c}" for i, c in enumerate(checkpoint.classes)),
        "SARTRANSFER_CHECKPOINT": f"{checkpoint.metadata.get('identity', '')}"
        f" epoch {checkpoint.metadata.get('epoch', '')}",
        "SARTRANSFER_SCENE": scene.id,
        "SARTRANSFER_METHOD": plan.describe(),
        "SARTRANSFER_WARNINGS": "; ".join(warnings) or "none",
        "AREA_OR_POINT": "Area",
    }

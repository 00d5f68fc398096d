"""Array in, array out: a network's answer for one image, in one pass or by overlapping windows."""

import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sartransfer.ahead import SERIAL, Flow
from sartransfer.engines.choice import Choice, choose_engine, sample_windows
from sartransfer.engines.kinds import AUTO, EAGER, ENGINES, may_become
from sartransfer.engines.served import Served
from sartransfer.errors import InputError, one_of
from sartransfer.geotiff import GeoTiffSource
from sartransfer.gpu import fetch, float32_kept, gpu_bytes, layout, on_gpu, send
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.placed import placed_logits
from sartransfer.models.segmenter import Segmenter
from sartransfer.models.split_stage import EagerHalves
from sartransfer.scene import ArraySource, Reading, Scene, Window
from sartransfer.scene_plan import (
    OVERHEAD,
    Limits,
    features_fit,
    in_one_pass,
    measured_reach,
    plan_passes,
)
from sartransfer.windowed import (
    NO_ANSWER,
    Answer,
    exact_windows,
    labels,
    measured_image,
    mixed,
    overlapped_windows,
    refuse_unanswered,
    split_windows,
    turned,
    turned_back,
)
from sartransfer.windows import MEASURED, ONE_PASS, OVERLAP, SPLIT, ScenePlan, View

ONE_PASS_PIXELS = 2048 * 2048  # up to this many pixels a scene goes through in one pass
HALO = 256  # half of an overlapped window, for networks of which no window is exact
CORE = 1024  # side of the part of a window that is kept
ENGINE_CORES = (
    2  # windows of engines are so many times as wide: less of them is halo, and it is what takes time
)
# Side of what is kept of a window on a GPU: a U-Net's halo then is a third of the work and not half, some hundred
# kernels take milliseconds where their launches take one, and its tensors stay below 4 GB in float32.
GPU_CORE = 2048
GPU_AHEAD = 3  # windows read ahead for a GPU: one that it takes next, two that threads are at
GPU_LAG = (
    1  # windows begun before the one before is waited for: its copy back is hidden, and one is enough for it
)
GPU_THREADS = 8  # most that read: with more, one process's locks and the memory's speed are the limit
# Rows that a thread reads at a time, so that threads share a window; of a file, tiles of up to 512 rows are decoded
# once. Other sources may read a whole image for any window: theirs are not cut.
STRIP_ROWS: dict[type, int] = {ArraySource: 128, GeoTiffSource: 512}
FEATURES_IN_MEMORY = 512 * 2**20  # bytes of kept features up to which they need no file
BAND_BYTES = 256 * 2**20  # bytes for a band of the split stage's head
CHIPS_AT_ONCE = 64  # chips of one shape that go through the network together


def choose_device(wanted: str) -> str:
    """Return ``cuda`` or ``cpu`` for ``auto``; raises `InputError` for a device that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if on_gpu(wanted) and not torch.cuda.is_available():
        raise InputError(f"device={wanted!r}, but no CUDA device is here. Use device=cpu.")
    if wanted != "cpu" and not on_gpu(wanted):
        raise InputError(f"device={wanted!r} is not known. Must be one of: auto, cpu, cuda.")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """Return ``bf16`` or ``fp32``: ``auto`` takes bf16 where the processor computes in it."""
    if wanted != "auto":
        return wanted
    if on_gpu(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[None]:
    """Return the context in which a network computes in bf16, or as it is for fp32."""
    if precision == "bf16":
        return torch.autocast(device_type=device.split(":")[0], dtype=torch.bfloat16)
    return nullcontext()


def predict_logits(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    views: int = 1,
    stay: bool = False,
) -> Tensor:
    """Return the logits of a batch, in one pass.

    Args:
        model: in eval mode already, on `device`; or a network in an engine (`open_engine`).
        images: (B, C, H, W) float32, normalized.
        device: where the network is. precision: fp32 or bf16 (logits come back in float32).
        views: 1, 4 or 8 flips and turns of each image whose probabilities are averaged.
        stay: leave the logits on `device`.

    On a GPU float32 is float32, and not TF32, unless ``torch.set_float32_matmul_precision`` asks for it.

    Returns:
        The logits (of several views: the logarithms of their mean probabilities), float32, on the CPU:
        (B, K, H, W) for segmentation, (B, K) for classification.

    Raises:
        InputError: another number of channels than the network has, or of views than 1, 4 or 8.
    """
    checked_views(views)
    expected = getattr(model, "in_channels", images.shape[1])
    if images.shape[1] != expected:
        raise InputError(f"the network takes {expected} bands, the image has {images.shape[1]}.")
    form = layout(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    images = images.to(device).contiguous(memory_format=form)
    with torch.inference_mode(), autocast(precision, device), float32_kept(device):
        if views == 1:
            logits: Tensor = model(images)
            return logits.float() if stay else logits.float().cpu()
        logits = mixed([_seen(model, images, view, form) for view in VIEWS[views]], dim=1)
    return logits if stay else logits.cpu()


def checked_views(views: int) -> int:
    """Return a number of flips and turns; raises `InputError` for one that is not on offer."""
    if views != 1 and views not in VIEWS:
        raise InputError(one_of("views", views, (1, *VIEWS)))
    return views


VIEWS: dict[int, tuple[View, ...]] = {
    4: tuple((turns, mirror) for turns in (0, 2) for mirror in (False, True)),
    8: tuple((turns, mirror) for turns in range(4) for mirror in (False, True)),
}
"""Number of views -> (turns by 90 degrees, mirrored) of each."""


def _seen(model: Callable[[Tensor], Tensor], images: Tensor, view: View, form: torch.memory_format) -> Tensor:
    """Return the logits of one view of `images`, turned back where they are images."""
    logits = model(turned(images, view).contiguous(memory_format=form)).float()
    return logits if logits.ndim == 2 else turned_back(logits, view)


def plan_scene(
    model: nn.Module,
    height: int,
    width: int,
    *,
    views: int = 1,
    memory: int | None = None,
    engine: str = EAGER,
    device: str = "cpu",
) -> ScenePlan:
    """Work out how a scene of this size goes through a network, and the memory that takes.

    A scene up to `ONE_PASS_PIXELS` goes in one pass. A larger one goes by windows that are exact where the network's
    reach has a bound, by the split stage where its head can be run over the whole scene, after measuring what it asks
    of the whole image where that can be done (in ``eager`` and ``auto``, which is ``eager`` then), and else by
    overlapped windows, which is not exact.

    Args:
        model: in evaluation mode; its weights are not looked at.
        height, width: of the scene, in pixels.
        views: flips and turns that are averaged.
        memory: bytes that this may take; windows are made smaller until they fit. None: windows of `CORE` pixels (in
            an engine twice that), features in memory up to `FEATURES_IN_MEMORY`.
        engine: what it runs in: engines hold memory of their own. ``auto`` counts as the one that holds most.
        device: where it runs. On a GPU windows are of `GPU_CORE` pixels, or smaller until one takes no more than half
            of the GPU's memory; what is told then is the memory of the machine, not the GPU's.

    Raises:
        InputError: less memory than the smallest window needs.
    """
    checked_views(views)
    engine = _settled(engine, model, height, width)
    asked = may_become(engine)
    fixed = max((e.bytes for e in asked), default=0)
    overhead = max((e.overhead for e in asked), default=OVERHEAD)
    core = CORE if engine == EAGER else ENGINE_CORES * CORE
    keeps = any(e.keeps for e in asked)
    sizes = ONE_PASS_PIXELS, core, HALO, FEATURES_IN_MEMORY, BAND_BYTES
    limits = Limits(*sizes, memory, fixed, overhead, keeps=keeps, measures=engine == EAGER)
    if on_gpu(device):
        held = GPU_AHEAD + GPU_LAG + 2  # and the window that is begun, and the one that is given out
        limits = replace(limits, core=GPU_CORE, gpu=gpu_bytes(device), held=held)
    return plan_passes(model, height, width, views, limits)


def _settled(engine: str, model: nn.Module, height: int, width: int) -> str:
    """Return the engine, ``eager`` for an ``auto`` that can be nothing else: a small scene, or a network to measure."""
    if engine != AUTO:
        return engine
    if height * width <= ONE_PASS_PIXELS or measured_reach(model) is not None:
        return EAGER
    return engine


def plan_flow(scene: Scene, device: str) -> Flow:
    """Return how windows are read and begun ahead for a device: not at all for the CPU, which has no time to spare."""
    if not on_gpu(device):
        return SERIAL
    sources = getattr(scene.source, "sources", (scene.source,))  # those of a scene in several files
    rows = [STRIP_ROWS.get(type(source), 0) for source in sources]
    threads = min(GPU_THREADS, os.cpu_count() or 1)
    return Flow(device, GPU_AHEAD, threads, 0 if 0 in rows else max(rows), GPU_LAG)


def reading_bytes(scene: Scene, plan: ScenePlan) -> int:
    """Return the bytes that reading a window of a plan takes beyond what the plan counts: files in high strips."""
    sources = getattr(scene.source, "sources", (scene.source,))
    side = min(plan.core + 2 * plan.halo, max(scene.height, scene.width))
    return sum(s.window_bytes(side) for s in sources if isinstance(s, GeoTiffSource))


def open_engine(engine: str, checkpoint: Checkpoint, model: nn.Module, scene: Scene, device: str) -> Choice:
    """Return a network in an engine, tried on windows of a scene, for `predict_windows` and `predict_classes`.

    Args:
        engine: ``eager``; an engine of `engines.kinds.ENGINES`; or ``auto``: the fastest installed one that agrees
            with the network on windows of this scene. Up to `ONE_PASS_PIXELS` that is ``eager``: to load an engine
            would take longer than the scene; and for networks that are measured (`plan_scene`).
        checkpoint, model, scene, device: as `predict_windows` takes them.

    Raises:
        InputError: an engine that is not known, not installed, or does not give what the network gives.
    """
    engine = _settled(engine, model, scene.height, scene.width)
    if engine not in (AUTO, *ENGINES):  # eager, or a mistake
        return choose_engine(engine, model, device, ())

    def read(window: Window) -> Reading:
        return checkpoint.contract.read(scene, window)

    stride = int(getattr(model, "stride", 1))
    return choose_engine(engine, model, device, sample_windows(read, scene.height, scene.width, stride))


def predict_classes(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    scene: Scene,
    device: str,
    views: int | None = None,
    *,
    plan: ScenePlan | None = None,
    done: Container[Window] = (),
    scratch: Path | None = None,
    engine: str | Choice = EAGER,
    flow: Flow | None = None,
) -> Iterable[tuple[Window, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield the windows of a scene with their classes (h, w) uint8 and valid pixels (h, w).

    The arguments are those of `predict_windows`. The split stage makes no logits of full size then, and from a GPU
    only the classes come back. Raises `InputError` where the answer for a valid pixel is not finite.
    """
    found = _windows(checkpoint, model, scene, device, views, plan, done, scratch, engine, flow, classes=True)
    for window, numbers, valid in found:
        labelled = numbers.numpy()
        unknown = labelled == NO_ANSWER
        if unknown.any():
            refuse_unanswered(int((unknown & valid).sum()), f" of scene {scene.id!r}, {window},")
        yield window, labelled, valid


def predict_windows(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    scene: Scene,
    device: str,
    views: int | None = None,
    *,
    plan: ScenePlan | None = None,
    done: Container[Window] = (),
    scratch: Path | None = None,
    engine: str | Choice = EAGER,
    flow: Flow | None = None,
) -> Iterable[tuple[Window, torch.Tensor, NDArray[np.bool_]]]:
    """Yield the windows of a scene with their logits (K, h, w) and valid pixels (h, w); none overlap.

    Args:
        checkpoint, model, scene, device: the network, in eval mode on `device`, and what it is asked about.
        views: as `predict_logits` takes them; None: as many as the checkpoint was made for.
        plan: how, from `plan_scene`; None: as that does without a limit of memory.
        done: windows that are not asked for again.
        scratch: a folder of the caller's for what is kept between windows, so that a later call with the same plan
            and engine goes on from there; None: memory, or a temporary file that is removed.
        engine: ``eager`` (the network as it is), another word that `open_engine` takes, or what that returned.
        flow: how windows are read and begun ahead; None: as `plan_flow` says for the device. A window that comes out
            is done; those that are begun beyond it are nobody's yet, and asked for again by a later call.
    """
    yield from _windows(
        checkpoint, model, scene, device, views, plan, done, scratch, engine, flow, classes=False
    )


def _windows(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    scene: Scene,
    device: str,
    views: int | None,
    plan: ScenePlan | None,
    done: Container[Window],
    scratch: Path | None,
    engine: str | Choice,
    flow: Flow | None,
    *,
    classes: bool,
) -> Iterator[Answer]:
    number = checked_views(views or checkpoint.views)
    each = VIEWS.get(number, ((0, False),))
    size = scene.height, scene.width
    chosen = engine
    if not isinstance(chosen, Choice):
        chosen = open_engine(chosen, checkpoint, model, scene, device)
    network = chosen.network
    # Its memory is not asked for: small scenes are many.
    if plan is None and in_one_pass(model, *size, ONE_PASS_PIXELS):
        plan = ScenePlan(ONE_PASS, int(getattr(model, "stride", 1)), max(size), 0)
    plan = plan or plan_scene(model, *size, views=number, engine=chosen.engine, device=device)
    flow = flow or plan_flow(scene, device)
    bands = len(checkpoint.contract.bands)

    def read(window: Window) -> Reading:
        return checkpoint.contract.read(scene, window)

    def ask(image: Tensor, views: int = 1) -> Tensor:
        return predict_logits(network, image[None], device=device, views=views, stay=True)[0]

    if plan.method == SPLIT:
        halves = EagerHalves(cast(Segmenter, model), device) if network is model else cast(Served, network)
        features_on = device if features_fit(plan.features_bytes, gpu_bytes(device)) else None
        yield from split_windows(
            read,
            halves,
            size,
            plan,
            each,
            done,
            scratch,
            flow,
            bands=bands,
            classes=classes,
            features_on=features_on,
        )
    elif plan.method == OVERLAP:
        whole = partial(ask, views=number)
        yield from overlapped_windows(read, whole, size, plan, done, flow, bands=bands, classes=classes)
    elif plan.method != ONE_PASS:
        wholes = {}
        for number, view in enumerate(each if plan.method == MEASURED else ()):
            file = scratch and scratch / f"measured{number}"
            wholes[view] = measured_image(read, model, size, plan, view, file, flow, bands)

        def ask_placed(image: Tensor, view: View, place: Window) -> Tensor:
            return placed_logits(model, image, wholes[view], place) if wholes else ask(image)

        yield from exact_windows(read, ask_placed, size, plan, each, done, flow, bands=bands, classes=classes)
    elif scene.window not in done:
        image, valid = read(scene.window)
        logits = ask(send(torch.from_numpy(image), device), number)
        yield scene.window, fetch(labels(logits) if classes else logits)(), valid


def predict_chip(
    checkpoint: Checkpoint, model: torch.nn.Module, scene: Scene, device: str, views: int | None = None
) -> NDArray[np.float32]:
    """Return the logits (K,) of one chip, cut from its centre as in training."""
    ((_, logits),) = predict_chips(checkpoint, model, [scene], device, views)
    return logits


def predict_chips(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    scenes: Iterable[Scene],
    device: str,
    views: int | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (number, logits (K,)) of every chip, cut from its centre as in training.

    Chips of one shape go through the network together, `CHIPS_AT_ONCE` at most and no more pixels than
    `ONE_PASS_PIXELS`; so they come out of order where the shapes differ. A chip's logits do not depend on its
    company, but for rounding. Scenes are read when their turn comes.

    Raises:
        InputError: a scene smaller than the chip that the network was trained on.
    """
    number_of_views = views or checkpoint.views
    waiting: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = {}

    def answered(batch: list[tuple[int, NDArray[np.float32]]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        images = torch.from_numpy(np.stack([image for _, image in batch]))
        logits = predict_logits(model, images, device=device, views=number_of_views).numpy()
        yield from zip((number for number, _ in batch), logits, strict=True)

    for number, scene in enumerate(scenes):
        image, _ = checkpoint.contract.read(scene, _chip_window(checkpoint, scene))
        batch = waiting.setdefault(image.shape, [])
        batch.append((number, image))
        if len(batch) >= min(CHIPS_AT_ONCE, max(1, ONE_PASS_PIXELS // (image.shape[-2] * image.shape[-1]))):
            yield from answered(waiting.pop(image.shape))
    for batch in waiting.values():
        yield from answered(batch)


def _chip_window(checkpoint: Checkpoint, scene: Scene) -> Window:
    chip = checkpoint.metadata.get("chip")
    if chip is None:
        return scene.window
    if chip > min(scene.height, scene.width):
        raise InputError(
            f"{scene.id!r} of {scene.height} x {scene.width} px is smaller than the chip of {chip}."
        )
    return scene.central_window(chip)

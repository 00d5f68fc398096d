"""Which way a scene goes through a network, and the memory that takes: worked out before a pixel is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from sartransfer.errors import InputError
from sartransfer.models.aspp import OUTPUT_STRIDE, AsppHead
from sartransfer.models.receptive import Reach, find_reach, peak_bytes
from sartransfer.models.segmenter import Segmenter
from sartransfer.models.split_stage import FLOAT, band_bytes, can_split, encode
from sartransfer.windows import EXACT, MEASURED, ONE_PASS, OVERLAP, SPLIT, ScenePlan, rounded

OVERHEAD = 1.3  # what kernels take for themselves, measured against the tensors they work on
# The same for whole networks: many blocks of just under 32 MB stay in the heap (ConvNeXt: 1.35 beyond SLACK).
WHOLE_OVERHEAD = 1.4
# Of a network that is asked under `models.placed`: up to 1.5 was measured beyond SLACK and this, since freed blocks of
# up to 32 MB stay in the heap while it goes on.
ASKED_OVERHEAD, ASKED_SLACK = 1.6, 128 * 2**20
SLACK = (
    96 * 2**20
)  # bytes of allocators, readers and threads: freed blocks of the heap that do not fit the next tensor
GPU_PASS, GPU_FEATURES = 2, 4  # one part in so many of a GPU that one pass, and a scene's features, may take
GPU_BAND = 2 * 2**30  # bytes for a band of the head there: of 25,000 px of width all 64 rows
READING_BYTES = (
    256 * 2**20
)  # of threads that read strips for a GPU: 8 of them, 512 rows of 3000 px, 20 bytes a pixel
MOST_PASSES = 4  # looks at all windows before they are asked; overlapped windows see each pixel four times
PIXEL_BYTES = 1024.0  # of a pixel in a network whose tensors cannot be counted beforehand


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that a plan keeps to."""

    one_pass: int
    """Pixels up to which a scene goes in one pass."""
    core: int
    """Side of the part of a window that is kept, where memory allows it."""
    overlap: int
    """Half of an overlapped window, in pixels."""
    features: int
    """Bytes of kept features up to which they need no file."""
    band: int
    """Bytes for a band of the split stage's head."""
    memory: int | None = None
    """Bytes that the network may take in all; None: no limit but the others."""
    fixed: int = 0
    """Bytes that an engine holds for itself, whatever the scene."""
    overhead: float = OVERHEAD
    """Bytes that it takes for each byte of the network's tensors in torch."""
    gpu: int | None = None
    """Bytes of the GPU that the network is on; None: it is on the CPU."""
    keeps: bool = False
    """Whether the engine keeps what lies between layers from call to call."""
    held: int = 0
    """Windows that are in memory at once for it: read ahead, begun, or given out."""
    measures: bool = True
    """Whether the network is asked as it is, so that what it asks of the whole image can be measured."""


def features_fit(features: int, gpu: int | None) -> bool:
    """Say whether the split stage's features stay on a GPU of `gpu` bytes (None: there is none)."""
    return gpu is not None and features <= gpu // GPU_FEATURES


def in_one_pass(model: object, height: int, width: int, limit: int) -> bool:
    """Say whether a scene goes in one pass: with up to `limit` pixels, or fewer where the network itself says so.

    Counted as the network pads them: one row of pixels becomes as many as its stride. A vision transformer knows where
    in its image a patch lies, and answers larger images than it was trained on from places that no training has seen.
    """
    stride = int(getattr(model, "stride", 1))
    most = min(limit, int(getattr(model, "one_pass_pixels", limit)))
    return rounded(height, stride) * rounded(width, stride) <= most


def measured_reach(model: nn.Module) -> Reach | None:
    """Return how far a network sees that asks something of the whole image which windows can measure; else None.

    None as well for one that needs nothing of the kind, runs by the split stage, or asks too often.
    """
    method, reach = (SPLIT, None) if can_split(model) else _way(model, measures=True)
    return reach if method == MEASURED else None


def _way(model: nn.Module, measures: bool) -> tuple[str, Reach]:
    """Return by which windows a network that is not split goes, and how far it sees; the halo is None for `OVERLAP`."""
    stride, channels = int(getattr(model, "stride", 1)), int(getattr(model, "in_channels", 1))
    reach = find_reach(model, channels, multiple=stride)
    if reach.halo is not None:
        return EXACT, reach
    if measures:
        known = find_reach(model, channels, multiple=stride, measuring=True)
        if known.halo is not None and known.passes <= MOST_PASSES:
            return MEASURED, known
    return OVERLAP, reach


def plan_passes(model: nn.Module, height: int, width: int, views: int, limits: Limits) -> ScenePlan:
    """Work out how a scene of this size goes through a network, and the memory that takes.

    See `predict.plan_scene`.

    Args:
        model: in evaluation mode; its weights are not looked at.
        height, width: of the scene, in pixels.
        views: flips and turns that are averaged.
        limits: windows are made smaller than its core until they fit into its memory.

    Raises:
        InputError: less memory than the smallest window needs.
    """
    if not limits.fixed:
        return _plan(model, height, width, views, limits)
    rest = None if limits.memory is None else limits.memory - limits.fixed
    if rest is not None and rest <= SLACK:
        raise InputError(
            f"the engine alone needs {limits.fixed / 2**20:.0f} MiB, and {(limits.memory or 0) / 2**20:.0f} MiB are "
            "allowed. Allow more memory, or take the engine `eager`."
        )
    plan = _plan(model, height, width, views, replace(limits, memory=rest))
    return replace(plan, memory=plan.memory + limits.fixed)


def _plan(model: nn.Module, height: int, width: int, views: int, limits: Limits) -> ScenePlan:
    """Plan within `limits.memory`, which no longer holds what an engine takes for itself."""
    stride, channels = int(getattr(model, "stride", 1)), int(getattr(model, "in_channels", 1))
    memory = limits.memory
    if in_one_pass(model, height, width, limits.one_pass):
        plan = ScenePlan(ONE_PASS, stride, max(height, width), 0)
        plan = replace(plan, memory=_pass_bytes(model, channels, height, width, views, limits))
        if memory is None or plan.memory <= memory:
            return plan
    if can_split(model):
        return _plan_split(cast(Segmenter, model), height, width, views, limits)
    method, reach = _way(model, limits.measures)
    if method != OVERLAP:
        plan = _plan_windows(model, height, width, views, limits, reach, method)
        # Narrower windows are nearly all halo: overlapped ones are told as what they are, and end sooner.
        if method == EXACT or (_fits(plan, limits) and 2 * plan.core >= plan.halo):
            return _within(plan, limits)
    half = rounded(max(limits.overlap, 1), reach.stride)
    plan = ScenePlan(OVERLAP, reach.stride, half, half)
    taken = _pass_bytes(model, channels, min(height, 2 * half), min(width, 2 * half), views, limits)
    # Two strips and what leaves one.
    taken += 3 * FLOAT * half * width * int(getattr(model, "num_classes", 8))
    return _within(replace(plan, memory=taken), limits)


def _plan_windows(
    model: nn.Module, height: int, width: int, views: int, limits: Limits, reach: Reach, method: str
) -> ScenePlan:
    """Return exact windows that fit, or the smallest that there are; of a network with a bound to its reach."""
    channels, halo = int(getattr(model, "in_channels", 1)), reach.halo or 0
    if method == MEASURED:
        limits = replace(limits, overhead=max(limits.overhead, ASKED_OVERHEAD))
    core, most = rounded(limits.core, reach.stride), max(halo, reach.look)
    while True:
        side = min(height, core + 2 * most), min(width, core + 2 * most)
        plan = ScenePlan(method, reach.stride, core, halo, passes=reach.passes, look=reach.look)
        taken = _pass_bytes(model, channels, *side, views, limits)
        plan = replace(plan, memory=taken + (ASKED_SLACK if method == MEASURED else 0))
        if (_fits(plan, limits) and _gpu_fits(model, channels, *side, limits)) or core == reach.stride:
            return plan
        core = _smaller(core, reach.stride)


def _plan_split(model: Segmenter, height: int, width: int, views: int, limits: Limits) -> ScenePlan:
    head, memory = cast(AsppHead, model.decoder), limits.memory
    reach = find_reach(model, model.in_channels, call=encode)
    stride = math.lcm(model.stride, reach.stride)
    if reach.halo is None:
        raise InputError("the network's encoder has no bound to how far it sees: it cannot be split.")
    halo = -(-max(reach.before or 0, reach.after or 0) // OUTPUT_STRIDE) * OUTPUT_STRIDE
    # Turned by 90 degrees, a scene's features are as wide as the scene is high.
    wide = rounded(max(height, width) if views == 8 else width, stride) // OUTPUT_STRIDE
    cells = rounded(height, stride) * rounded(width, stride) // OUTPUT_STRIDE**2
    features = cells * FLOAT * int(cast(nn.Conv2d, cast(nn.Sequential, head.branches[0])[0]).in_channels)
    answers = (
        views * cells * FLOAT * model.num_classes + height * width // 8
    )  # and a bit a pixel: is it valid?
    there = features_fit(features, limits.gpu)
    most = limits.features if memory is None else memory // 2
    plans = []
    for held in (True, False):
        if not held if there else held and features > most:
            continue
        kept = answers + (features if held and not there else 0)
        room = limits.band
        if limits.gpu is not None:
            room = min(GPU_BAND, limits.gpu // 8)
        elif memory is not None:  # beside what is held while a band goes through the head
            room = int(min(memory // 2, (memory - kept - SLACK) / OVERHEAD))
        rows = 2
        while rows < 64 and band_bytes(head, wide, rows + 2) <= room:
            rows += 2
        band = 0 if there else int(OVERHEAD * band_bytes(head, wide, rows))
        core = rounded(limits.core, stride)
        while True:
            side = min(height, core + 2 * halo), min(width, core + 2 * halo)
            window = _pass_bytes(model, model.in_channels, *side, 1, limits, encode)
            # Enlarged logits of one window, of their views and of what is read again.
            last = core * core * FLOAT * (model.num_classes * (2 + min(views, 2)) + 2 * model.in_channels)
            # Some engines' encoders and heads keep their room from call to call, unless that is too much (frugal).
            both = kept + max(window + band, last + SLACK)
            frugal = not limits.keeps or (memory is not None and both > memory)
            taken = kept + max(window, band + SLACK, last + SLACK) if frugal else both
            fits = memory is None or taken <= memory
            if (fits and _gpu_fits(model, model.in_channels, *side, limits, encode)) or core <= stride:
                break
            core = _smaller(core, stride)
        plans.append(ScenePlan(SPLIT, stride, core, halo, rows, features, held, frugal, taken))
        if core == rounded(limits.core, stride):
            break
    # Small windows are mostly halo: a file costs less than they do.
    return _within(max(plans, key=lambda plan: (_fits(plan, limits), plan.core)), limits)


def _fits(plan: ScenePlan, limits: Limits) -> bool:
    return limits.memory is None or plan.memory <= limits.memory


def _smaller(core: int, stride: int) -> int:
    return max(stride, core * 3 // 4 // stride * stride)


def _pass_bytes(
    model: nn.Module,
    channels: int,
    height: int,
    width: int,
    views: int,
    limits: Limits,
    call: Callable[..., Tensor] | None = None,
) -> int:
    """Return the bytes of one pass: the network's tensors, the reading before it and what its kernels take."""
    multiple = int(getattr(model, "stride", 1))
    pixels = rounded(height, multiple) * rounded(width, multiple)
    classes = int(getattr(model, "num_classes", 8))
    if limits.gpu is not None:
        # Pinned memory comes in powers of two: up to twice the image. Logits wait pinned, and are copied once.
        images = limits.held * pixels * (2 * FLOAT * channels + 1)
        return images + 4 * FLOAT * pixels * classes + READING_BYTES + SLACK
    network = _network_bytes(model, channels, height, width, call)
    # With skip connections OpenVINO takes up to 1.23 of the tensors in torch; of the split stage's encoder 0.8.
    overhead = limits.overhead if call is not None else max(limits.overhead, WHOLE_OVERHEAD)
    logits = FLOAT * pixels * classes * (2 if views == 1 else views + 2)
    return int(overhead * network) + 3 * FLOAT * pixels * channels + logits + SLACK


def _network_bytes(
    model: nn.Module, channels: int, height: int, width: int, call: Callable[..., Tensor] | None
) -> float:
    multiple = int(getattr(model, "stride", 1))
    shape = (1, channels, rounded(height, multiple), rounded(width, multiple))
    return peak_bytes(model, [shape], call, at_least=PIXEL_BYTES * shape[2] * shape[3])


def _gpu_fits(
    model: nn.Module,
    channels: int,
    height: int,
    width: int,
    limits: Limits,
    call: Callable[..., Tensor] | None = None,
) -> bool:
    """Say whether one pass takes no more of the GPU than it may; without one, it does."""
    if limits.gpu is None:
        return True
    return limits.overhead * _network_bytes(model, channels, height, width, call) <= limits.gpu // GPU_PASS


def _within(plan: ScenePlan, limits: Limits) -> ScenePlan:
    if limits.memory is not None and not _fits(plan, limits):
        needed, allowed = ((bytes + limits.fixed) / 2**20 for bytes in (plan.memory, limits.memory))
        raise InputError(
            f"this scene and network need {needed:.0f} MiB ({plan.describe()}), and {allowed:.0f} MiB are allowed. "
            "Allow more memory, or leave it out."
        )
    return plan

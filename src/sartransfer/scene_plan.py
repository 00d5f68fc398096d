"""Which way a scene goes through a network, and the memory that takes: worked out before a pixel is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from sartransfer.errors import InputError
from sartransfer.models.aspp import OUTPUT_STRIDE, AsppHead
from sartransfer.models.receptive import find_reach, peak_bytes
from sartransfer.models.segmenter import Segmenter
from sartransfer.models.split_stage import FLOAT, band_bytes, can_split, encode
from sartransfer.windows import EXACT, ONE_PASS, OVERLAP, SPLIT, ScenePlan, rounded

OVERHEAD = 1.3  # what kernels take for themselves, measured against the tensors they work on
SLACK = 64 * 2**20  # bytes of allocators, readers and threads
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
    stride, channels = int(getattr(model, "stride", 1)), int(getattr(model, "in_channels", 1))
    memory = limits.memory
    if height * width <= limits.one_pass:
        plan = ScenePlan(ONE_PASS, stride, max(height, width), 0)
        plan = replace(plan, memory=_pass_bytes(model, channels, height, width, views))
        if memory is None or plan.memory <= memory:
            return plan
    if can_split(model):
        return _plan_split(cast(Segmenter, model), height, width, views, limits)
    reach = find_reach(model, channels, multiple=stride)
    if reach.halo is None:
        half = rounded(max(limits.overlap, 1), reach.stride)
        plan = ScenePlan(OVERLAP, reach.stride, half, half)
        taken = _pass_bytes(model, channels, min(height, 2 * half), min(width, 2 * half), views)
        taken += (
            3 * FLOAT * half * width * int(getattr(model, "num_classes", 8))
        )  # two strips and what leaves one
        return _within(replace(plan, memory=taken), memory)
    core = rounded(limits.core, reach.stride)
    while True:
        side = min(height, core + 2 * reach.halo), min(width, core + 2 * reach.halo)
        plan = ScenePlan(EXACT, reach.stride, core, reach.halo)
        plan = replace(plan, memory=_pass_bytes(model, channels, *side, views))
        if memory is None or plan.memory <= memory or core == reach.stride:
            return _within(plan, memory)
        core = rounded(core // 2, reach.stride)


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
    answers = views * cells * FLOAT * model.num_classes
    held = features <= (limits.features if memory is None else memory // 2)
    room = max(limits.band if memory is None else memory // 2, 1)
    rows = 2
    while rows < 64 and band_bytes(head, wide, rows + 2) <= room:
        rows += 2
    core = rounded(limits.core, stride)
    while True:
        plan = ScenePlan(SPLIT, stride, core, halo, rows, features, held)
        side = min(height, core + 2 * halo), min(width, core + 2 * halo)
        window = _pass_bytes(model, model.in_channels, *side, 1, encode)
        # Enlarged logits of one window, of their views and of what is read again.
        last = core * core * FLOAT * (model.num_classes * (2 + min(views, 2)) + 2 * model.in_channels)
        taken = answers + (features if held else 0)
        taken += max(window, int(OVERHEAD * band_bytes(head, wide, rows)), last) + SLACK
        plan = replace(plan, memory=taken)
        if memory is None or taken <= memory or core <= stride:
            return _within(plan, memory)
        core = rounded(core // 2, stride)


def _pass_bytes(
    model: nn.Module,
    channels: int,
    height: int,
    width: int,
    views: int,
    call: Callable[..., Tensor] | None = None,
) -> int:
    """Return the bytes of one pass: the network's tensors, the reading before it and what its kernels take."""
    multiple = int(getattr(model, "stride", 1))
    shape = (1, channels, rounded(height, multiple), rounded(width, multiple))
    pixels = shape[2] * shape[3]
    network = peak_bytes(model, [shape], call, at_least=PIXEL_BYTES * pixels)
    logits = FLOAT * pixels * int(getattr(model, "num_classes", 8)) * (2 if views == 1 else views + 2)
    return int(OVERHEAD * network) + 3 * FLOAT * pixels * channels + logits + SLACK


def _within(plan: ScenePlan, memory: int | None) -> ScenePlan:
    if memory is not None and plan.memory > memory:
        raise InputError(
            f"this scene and network need {plan.memory / 2**20:.0f} MiB ({plan.describe()}), and {memory / 2**20:.0f} "
            "MiB are allowed. Allow more memory, or leave it out."
        )
    return plan

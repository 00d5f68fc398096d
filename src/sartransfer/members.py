"""The networks that map a scene together, window by window: how each goes through it, and what all answer."""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sartransfer.engines.choice import Choice
from sartransfer.engines.kinds import EAGER, may_become
from sartransfer.engines.served import Served
from sartransfer.errors import InputError
from sartransfer.gpu import on_gpu
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.split_stage import FLOAT
from sartransfer.predict import open_engine, plan_scene, predict_classes, predict_windows
from sartransfer.scene import Scene, Window
from sartransfer.windows import EXACT, MEASURED, ONE_PASS, OVERLAP, SPLIT, ScenePlan

FURTHER = 0.6  # of what an engine holds with its first network; measured .2 to .6
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """One network, and how it goes through a scene."""

    checkpoint: Checkpoint
    engine: Choice
    """What is asked: the checkpoint's network, in evaluation mode on its device, or that network in an engine."""
    plan: ScenePlan
    views: int


def check_members(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise `InputError` for none, a network that classifies patches, or networks that know different classes."""
    if not checkpoints:
        raise InputError("no checkpoint is named: a map needs one at least.")
    first = checkpoints[0]
    for checkpoint in checkpoints:
        if checkpoint.model.task != "segment":
            raise InputError(
                "this checkpoint classifies whole patches; maps are made by segmentation networks."
                + (f" ({checkpoint.path})" if len(checkpoints) > 1 else "")
            )
        if checkpoint.classes != first.classes:
            raise InputError(
                f"{first.path} knows the classes {', '.join(first.classes)}, {checkpoint.path} knows "
                f"{', '.join(checkpoint.classes)}. They must be the same, in the same order."
            )
    paths = [c.path.resolve() for c in checkpoints if c.path is not None]  # one file has many names
    if twice := [p for p in paths if paths.count(p) > 1 and len(paths) == len(checkpoints)]:
        raise InputError(f"{twice[0]} is named twice: it would count twice.")


def plan_members(
    checkpoints: Sequence[Checkpoint],
    height: int,
    width: int,
    *,
    views: int | None = None,
    memory: int | None = None,
    engine: str = EAGER,
    device: str = "cpu",
    reading: Callable[[ScenePlan], int] | None = None,
) -> tuple[list[ScenePlan], int]:
    """Return how each network goes through a scene of this size, all by the same windows, and the memory of all.

    They are asked one after the other at each window, so that of their passes only the largest counts; what they keep
    between windows adds up.

    Args:
        views: flips and turns that are averaged; None: as many as each checkpoint was made for.
        memory: bytes that all of them may take. engine, device: what they run in and where; see `predict.plan_scene`.
        reading: how many bytes reading a window takes beyond what plans count (`predict.reading_bytes`).

    Raises `InputError` for networks whose windows cannot be the same, and less memory than is needed.
    """
    each = memory
    for _ in range(8):
        plans = [
            plan_scene(
                c.model, height, width, views=views or c.views, memory=each, engine=engine, device=device
            )
            for c in checkpoints
        ]
        plans = _one_cut(plans) if len(plans) > 1 else plans
        blocks = reading(plans[0]) if reading else 0
        if memory is not None and blocks > memory // 2:
            raise InputError(
                f"the blocks of the scene's file are so large that reading a window takes {blocks / 2**20:.0f} MiB of "
                f"the {memory / 2**20:.0f} that are allowed. Make it tiled: gdal_translate -co TILED=YES IN.tif OUT.tif"
            )
        if len(plans) == 1:
            total = plans[0].memory + blocks
            if memory is None or total <= memory:
                return plans, total
            each = memory - blocks
            continue
        total = (
            blocks + _together(checkpoints, plans, height, width, views) + _further(engine) * (len(plans) - 1)
        )
        if on_gpu(device):  # for each of them windows are read ahead
            total += sum(plan.memory for plan in plans) - max(plan.memory for plan in plans)
        if memory is None or total <= memory:
            return plans, total
        each = int((each or memory) - max(total - memory, memory // 50))
        if each <= 0:
            break
    raise InputError(
        f"{len(checkpoints)} networks together need more than the {memory or 0:,} bytes that are allowed. Allow more "
        "memory, or ask fewer networks."
    )


def _one_cut(plans: list[ScenePlan]) -> list[ScenePlan]:
    core = min(plan.core for plan in plans)
    for plan in plans:
        fits = plan.core == core or (plan.method in (EXACT, SPLIT, MEASURED) and core % plan.stride == 0)
        if not fits or (plan.method == ONE_PASS) != (plans[0].method == ONE_PASS):
            words = "; ".join(plan.describe() for plan in plans)
            raise InputError(f"these networks cannot go through a scene by the same windows ({words}).")
    return [replace(plan, core=core) for plan in plans]


def _together(
    checkpoints: Sequence[Checkpoint], plans: Sequence[ScenePlan], height: int, width: int, views: int | None
) -> int:
    pixels = min(height, plans[0].core) * min(width, plans[0].core)
    kept = []
    for checkpoint, plan in zip(checkpoints, plans, strict=True):
        classes = len(checkpoint.classes)
        state = 4 * FLOAT * classes * pixels  # logits and probabilities that wait for the others
        if plan.method == SPLIT:
            cells = (height // 16 + 2) * (width // 16 + 2)
            state += FLOAT * classes * cells * (views or checkpoint.views)
        elif plan.method == OVERLAP:
            state += 3 * FLOAT * classes * plan.core * width
        kept.append(state)
    return max(plan.memory for plan in plans) + sum(kept)


def _further(engine: str) -> int:
    """Return the bytes of each network after the first in an engine: its weights, and code that is made for it."""
    return int(FURTHER * max((e.bytes for e in may_become(engine)), default=0))


def count_windows(plan: ScenePlan, height: int, width: int) -> int:
    """Return how many windows a scene of this size comes in."""
    return math.ceil(height / plan.core) * math.ceil(width / plan.core)


def open_members(
    checkpoints: Sequence[Checkpoint],
    plans: Sequence[ScenePlan],
    scene: Scene,
    device: str,
    *,
    views: int | None = None,
    engines: Sequence[str] = (EAGER,),
) -> list[Member]:
    """Return the networks on their device and in their engines (`predict.open_engine`), ready to be asked.

    Args:
        engines: one for each network, or one for all.
    """
    names = list(engines) * (len(checkpoints) if len(engines) == 1 else 1)
    return [
        Member(c, open_engine(name, c, c.model.to(device).eval(), scene, device), plan, views or c.views)
        for c, plan, name in zip(checkpoints, plans, names, strict=True)
    ]


def predict_members(
    members: Sequence[Member],
    scene: Scene,
    device: str,
    *,
    done: Container[Window] = (),
    scratch: Path | None = None,
) -> Iterator[tuple[Window, list[Tensor], NDArray[np.bool_]]]:
    """Yield the windows of a scene with the logits (K, h, w) of every network and the valid pixels (h, w).

    Args:
        members: with plans of the same windows (`plan_members`).
        scene, device, done, scratch: as `predict.predict_windows` takes them; each of several networks has a folder of
            its own in `scratch`.
    """
    answers = []
    for number, member in enumerate(members):
        folder = scratch
        if scratch is not None and len(members) > 1:
            folder = scratch / f"network{number}"
            folder.mkdir(exist_ok=True)
        found = predict_windows(
            member.checkpoint, member.checkpoint.model, scene, device, member.views, plan=member.plan, done=done,
            scratch=folder, engine=member.engine,
        )  # fmt: skip
        answers.append(_resting(found, member) if len(members) > 1 else found)
    for each in zip(*answers, strict=True):
        window = each[0][0]
        if any(other != window for other, _, _ in each):
            raise RuntimeError("networks answered for different windows: their plans differ.")
        valid = np.logical_and.reduce([known for _, _, known in each])
        yield window, [logits for _, logits, _ in each], valid


def _resting(found: Iterable[T], member: Member) -> Iterator[T]:
    """Pass on a network's windows; before each its engine gives back what it would keep for the next one.

    While one network computes, the others hold nothing but what they will need again (`_together`).
    """
    for each in found:
        if isinstance(member.engine.network, Served):
            member.engine.network.rest()
        yield each


def predict_member_classes(
    member: Member, scene: Scene, device: str, *, done: Container[Window] = (), scratch: Path | None = None
) -> Iterator[tuple[Window, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield the windows of a scene with the classes (h, w) of one network alone, where nothing else is asked for."""
    yield from predict_classes(
        member.checkpoint, member.checkpoint.model, scene, device, member.views, plan=member.plan, done=done,
        scratch=scratch, engine=member.engine,
    )  # fmt: skip

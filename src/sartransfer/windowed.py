"""A network's answer for a scene that is too large for one pass: exact windows, the split stage, overlapped windows.

What reads the scene and what asks the network are arguments, so that these functions know neither files nor devices.
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartransfer.errors import OutputError
from sartransfer.heap import give_back_memory
from sartransfer.journal import Journal
from sartransfer.models.aspp import OUTPUT_STRIDE
from sartransfer.models.split_stage import FLOAT, Features, Halves, enlarge, enlarge_classes
from sartransfer.scene import Reading, Window
from sartransfer.windows import (
    ScenePlan,
    View,
    covering,
    cut,
    grow,
    hull,
    inside,
    rounded,
    unviewed,
    viewed,
    viewed_size,
)

Read = Callable[[Window], Reading]
"""Window of the scene -> its normalized bands (C, h, w) and valid pixels (h, w)."""
Ask = Callable[[Tensor], Tensor]
"""Image (C, h, w) -> logits (K, h, w), on the CPU."""
Size = tuple[int, int]


def exact_window(
    read: Read, ask: Ask, size: Size, plan: ScenePlan, views: tuple[View, ...], kept: Window
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return logits and valid pixels of one window, each view seen on the grid that it would have in one pass."""
    seen = {}
    for view in views:
        place = grow(viewed(kept, *size, view), plan.halo, plan.stride, *viewed_size(*size, view))
        seen[view] = unviewed(place, *size, view)
    whole = hull(list(seen.values()))
    data, valid = read(whole)
    image = torch.from_numpy(data)
    found = []
    for view, window in seen.items():
        logits = turned_back(ask(turned(image[(slice(None), *inside(window, whole))], view)), view)
        found.append(logits[(slice(None), *inside(kept, window))])
    del image, logits
    give_back_memory()
    return mixed(found), valid[inside(kept, whole)]


def turned(image: Tensor, view: View) -> Tensor:
    """Return a view of an image (C, h, w)."""
    return torch.rot90(image.flip(-1) if view[1] else image, view[0], (-2, -1))


def turned_back(image: Tensor, view: View) -> Tensor:
    """Return an image (C, h, w) from its view."""
    back = torch.rot90(image, -view[0], (-2, -1))
    return back.flip(-1) if view[1] else back


def mixed(logits: list[Tensor]) -> Tensor:
    """Return the logits of one view, or the logarithms of the mean probabilities of several."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([found.log_softmax(0) for found in logits]).logsumexp(0) - math.log(len(logits))


def split_windows(
    read: Read,
    halves: Halves,
    size: Size,
    plan: ScenePlan,
    views: tuple[View, ...],
    done: Container[Window],
    scratch: Path | None,
    *,
    classes: bool = False,
) -> Iterator[tuple[Window, Tensor, NDArray[np.bool_]]]:
    """Yield windows, logits and valid pixels by the split stage (`models.split_stage`), view after view.

    With `scratch` a later call goes on where this one was stopped. With `classes` the windows' classes (h, w) uint8
    come in place of logits; for one view no logits of full size are made.
    """
    with contextlib.ExitStack() as stack:
        folder = scratch
        if folder is None and not plan.features_in_memory:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sartransfer-")))
        masks: dict[
            Window, NDArray[np.uint8]
        ] = {}  # bits of what is valid: the scene is not read again for it
        answers = [
            _answers(read, halves, size, plan, view, folder, str(i), masks) for i, view in enumerate(views)
        ]

    def valid(kept: Window) -> NDArray[np.bool_]:
        if kept not in masks:  # an earlier call looked at it
            return read(kept).valid
        bits = np.unpackbits(masks.pop(kept), count=kept.height * kept.width)
        return bits.reshape(kept.height, kept.width).astype(bool)

    for kept in cut(*size, plan.core):
        if kept in done:
            continue
        if classes and len(views) == 1 and views[0] == (0, False):
            labels = enlarge_classes(answers[0], kept.row, kept.col, kept.height, kept.width)
            yield kept, labels, valid(kept)
            continue
        found = []
        for view, answer in zip(views, answers, strict=True):
            place = viewed(kept, *size, view)
            found.append(turned_back(enlarge(answer, place.row, place.col, place.height, place.width), view))
        logits = mixed(found)
        yield kept, logits.argmax(0).to(torch.uint8) if classes else logits, valid(kept)


def _answers(
    read: Read,
    halves: Halves,
    size: Size,
    plan: ScenePlan,
    view: View,
    folder: Path | None,
    name: str,
    masks: dict[Window, NDArray[np.uint8]],
) -> NDArray[np.float32]:
    """Return the logits (h, w, K) at 1/16 of one view of the whole scene; fill `masks` from the view as it is."""
    finished = folder / f"answers{name}.npy" if folder else None
    if finished is not None and finished.exists():
        return cast(NDArray[np.float32], np.load(finished, allow_pickle=False))
    height, width = viewed_size(*size, view)
    cells = rounded(height, halves.stride) // OUTPUT_STRIDE, rounded(width, halves.stride) // OUTPUT_STRIDE
    channels = plan.features_bytes // (FLOAT * cells[0] * cells[1])
    place = folder / f"features{name}.raw" if folder else None
    record = folder / f"features{name}.done" if folder else None
    with Features(*cells, channels, place) as features, Journal(record) as journal:
        for kept in cut(height, width, plan.core):
            if kept in journal.done:
                continue
            seen = grow(kept, plan.halo, halves.stride, height, width)
            data, valid = read(unviewed(seen, *size, view))
            if view == (0, False):
                masks[kept] = np.packbits(valid[inside(kept, seen)])
            image = turned(torch.from_numpy(data), view)[None]
            del data, valid
            # The zeros of one pass, at the scene's true edges and nowhere else.
            below = -height % halves.stride if seen.row + seen.height == height else 0
            right = -width % halves.stride if seen.col + seen.width == width else 0
            block = halves.encode(image, (below, right))[0]
            row, col = kept.row // OUTPUT_STRIDE, kept.col // OUTPUT_STRIDE
            top, left = row - seen.row // OUTPUT_STRIDE, col - seen.col // OUTPUT_STRIDE
            rows = rounded(kept.height, halves.stride) // OUTPUT_STRIDE
            cols = rounded(kept.width, halves.stride) // OUTPUT_STRIDE
            features.write(row, col, block[:, top : top + rows, left : left + cols])
            journal.add(kept)
            del image, block
            give_back_memory()
        answers = halves.decode(features, plan.rows)
    if finished is not None:
        _save(finished, answers)
    if place is not None:
        place.unlink(missing_ok=True)  # no later step reads them
    return answers


def _save(path: Path, array: NDArray[np.float32]) -> None:
    temporary = path.with_name(f".{path.stem}.tmp.npy")
    try:
        np.save(temporary, array)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} could not be written ({error}). Is the disk full?") from error


def overlapped_windows(
    read: Read, ask: Ask, size: Size, plan: ScenePlan, done: Container[Window]
) -> Iterator[tuple[Window, Tensor, NDArray[np.bool_]]]:
    """Yield squares of half a window, each the weighted mean of the probabilities of up to four windows.

    Weights are sin^2 along rows and columns: those of overlapping windows sum to 1 and are 0 at their borders. The
    logits are the logarithms of the mean probabilities.
    """
    step, (height, width) = plan.halo, size
    strips: dict[int, Tensor] = {}  # number of a strip of `step` rows -> sums (K, step, width)
    bands = covering(height, step)
    for number, (top, bottom) in enumerate(bands):
        # A strip is ready when the last window that looks at it has been asked.
        ends = bottom if number == len(bands) - 1 else top + step
        due = [k for k in cut(*size, step) if top <= k.row < bottom and k not in done]
        if due:
            for left, right in covering(width, step):
                logits = ask(torch.from_numpy(read(Window(top, left, bottom - top, right - left)).data))
                weights = _ramp(top, bottom, step, height)[:, None] * _ramp(left, right, step, width)
                shares = logits.softmax(0) * weights
                for row in range(top, bottom, step):
                    part = shares[:, row - top : row - top + step]
                    if row not in strips:
                        strips[row] = torch.zeros(len(shares), part.shape[1], width)
                    strips[row][:, :, left:right] += part
        for kept in due:
            if kept.row < ends:
                sums = strips[kept.row][:, :, kept.col : kept.col + kept.width]
                yield kept, sums.log(), read(kept).valid
        strips.pop(top, None)
        give_back_memory()


def _ramp(first: int, last: int, step: int, side: int) -> Tensor:
    """Return the weights of a window of two steps along one side; 1 where no other window looks."""
    place = torch.arange(last - first)
    weights = torch.sin(math.pi * (place + 0.5) / (2 * step)) ** 2
    if first == 0:
        weights[:step] = 1.0
    if last == side:
        weights[step:] = 1.0
    return weights

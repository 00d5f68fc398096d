"""A network's answer for a scene that is too large for one pass: exact windows, the split stage, overlapped windows.

What reads the scene and what asks the network are arguments, so that these functions know neither files nor devices. On
a GPU an image stays until its classes or logits are worked out, while threads read the next windows (`ahead.Flow`).
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sartransfer.ahead import SERIAL, Flow, Read, Seen, lagging, read_ahead
from sartransfer.errors import InputError
from sartransfer.gpu import empty, fetch, mark, send
from sartransfer.heap import give_back_memory
from sartransfer.journal import Journal
from sartransfer.models.aspp import OUTPUT_STRIDE
from sartransfer.models.placed import WholeImage, measure
from sartransfer.models.split_stage import FLOAT, Answers, Features, Halves, enlarge, enlarge_classes
from sartransfer.scene import Window
from sartransfer.wholefile import replacing
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

Ask = Callable[[Tensor], Tensor]
"""Image (C, h, w) -> logits (K, h, w), both on the flow's device."""
AskPlaced = Callable[[Tensor, View, Window], Tensor]
"""As `Ask`, of a view of the scene and the window's place in it."""
Size = tuple[int, int]
Answer = tuple[Window, Tensor, NDArray[np.bool_]]
"""Window, its logits (K, h, w) or classes (h, w) uint8 on the CPU, and its valid pixels (h, w)."""
Room = Callable[[Window], Tensor]
NO_ANSWER = 255  # in place of a class: there are at most 255


def exact_windows(
    read: Read,
    ask: AskPlaced,
    size: Size,
    plan: ScenePlan,
    views: tuple[View, ...],
    done: Container[Window],
    flow: Flow = SERIAL,
    *,
    bands: int = 1,
    classes: bool = False,
) -> Iterator[Answer]:
    """Yield windows, logits and valid pixels, each view seen on the grid that it would have in one pass.

    Args:
        read, ask, size, plan, views, done: the scene, the network, how, and what is not asked for again.
        flow: how many windows are read ahead and begun. bands: of the network, for windows that are read ahead.
        classes: yield classes (h, w) uint8 in place of logits.
    """

    def seen(kept: Window) -> dict[View, tuple[Window, Window]]:
        """Return what is looked at of each view: its place in the view, and in the scene."""
        found = {}
        for view in views:
            place = grow(viewed(kept, *size, view), plan.halo, plan.stride, *viewed_size(*size, view))
            found[view] = place, unviewed(place, *size, view)
        return found

    jobs = (
        (kept, hull([window for _, window in seen(kept).values()]))
        for kept in cut(*size, plan.core)
        if kept not in done
    )  # which are done is asked when a window's turn to be read comes

    def begin(kept: Window, get: Callable[[], Seen]) -> Callable[[], Answer]:
        places = seen(kept)
        whole = hull([window for _, window in places.values()])
        data, valid = get()
        image = send(data, flow.device)
        found = []
        for view, (place, window) in places.items():
            part = turned(image[(slice(None), *inside(window, whole))], view)
            logits = turned_back(ask(part, view, place), view)
            found.append(logits[(slice(None), *inside(kept, window))])
        del data, image, logits
        if not flow.ahead:
            give_back_memory()
        answer = mixed(found)
        return partial(
            _finished, kept, fetch(labels(answer) if classes else answer), valid[inside(kept, whole)]
        )

    with closing(read_ahead(read, jobs, flow, _room(bands, flow))) as readings:
        yield from lagging((begin(kept, get) for kept, get in readings), flow.lag)


def measured_image(
    read: Read,
    model: nn.Module,
    size: Size,
    plan: ScenePlan,
    view: View,
    file: Path | None = None,
    flow: Flow = SERIAL,
    bands: int = 1,
) -> WholeImage:
    """Return what a network asks of one view of a whole scene, for `models.placed.placed_logits`.

    Args:
        read, size, plan, flow, bands: as `exact_windows` takes them.
        model: in evaluation mode, on the flow's device.
        file: where it is kept for a later call after each pass, and taken from if an earlier one has left it.
    """
    height, width = viewed_size(*size, view)
    stride = int(getattr(model, "stride", 1))
    whole, done = WholeImage(rounded(height, stride), rounded(width, stride)), 0
    if file is not None and file.exists():
        with safe_open(file, "pt", device=flow.device) as kept:
            whole.known = {int(number): kept.get_tensor(number) for number in kept.keys()}  # noqa: SIM118
            done = int(kept.metadata()["passes"])
    for number in range(done, plan.passes):
        jobs = _looks(size, view, plan.core, plan.look, plan.stride)
        with closing(read_ahead(read, jobs, flow, _room(bands, flow))) as readings:
            for kept, get in readings:
                image = turned(send(get()[0], flow.device), view)
                measure(model, image, whole, grow(kept, plan.look, plan.stride, height, width), kept)
                del image
                if not flow.ahead:
                    give_back_memory()
        whole.end_pass()
        if file is not None:
            found = {str(question): sums.contiguous().cpu() for question, sums in whole.known.items()}
            with replacing(file) as temporary:
                save_file(found, temporary, metadata={"passes": str(number + 1)})
    return whole


def _looks(size: Size, view: View, core: int, halo: int, stride: int) -> Iterator[tuple[Window, Window]]:
    """Yield the windows of a view of a scene, each with what of the scene must be read for it."""
    height, width = viewed_size(*size, view)
    for kept in cut(height, width, core):
        yield kept, unviewed(grow(kept, halo, stride, height, width), *size, view)


def _room(bands: int, flow: Flow) -> Room:
    return lambda window: empty((bands, window.height, window.width), flow.device)


def _finished(kept: Window, arrived: Callable[[], Tensor], valid: Tensor) -> Answer:
    return kept, arrived(), valid.numpy()


def labels(logits: Tensor) -> Tensor:
    """Return the classes (h, w) uint8 of logits (K, h, w), where they are; `NO_ANSWER` for NaN and infinity.

    The sum is NaN or infinite where one of them is: pixels are looked at one by one only then.
    """
    classes = logits.argmax(0).to(torch.uint8)
    if logits.is_cuda:  # to ask for the sum would wait for the GPU
        return classes.masked_fill_(unanswered(logits), NO_ANSWER)
    return classes if all_answered(logits) else classes.masked_fill_(unanswered(logits), NO_ANSWER)


def all_answered(logits: Tensor) -> bool:
    """Say that no logit is NaN or infinity, by one sum; False where it may be, or the sum is too large."""
    total = float(logits.sum())
    return not (math.isnan(total) or total == math.inf)


def unanswered(logits: Tensor) -> Tensor:
    """Say where one of the logits (K, ...) is NaN or infinity, (...).

    (-inf is a probability of 0, as mean probabilities can have.)
    """
    best = logits.amax(0)  # NaN if one of them is
    return torch.isnan(best) | torch.isinf(best)


def refuse_unanswered(pixels: int, window: str = "") -> None:
    """Raise `InputError` for valid pixels without a finite answer: argmax would make a class of it."""
    if pixels:
        raise InputError(
            f"{pixels} valid pixels{window} have no finite answer: the network says NaN or infinity. Its weights are "
            "finite as far as they were read from a checkpoint, so look at the scene: is there a number such as "
            "-3.4e38, a nodata that the file does not declare (gdal_edit.py -a_nodata VALUE FILE), or are its units "
            "others than the bands say?"
        )


def turned(image: Tensor, view: View) -> Tensor:
    """Return a view of an image (..., h, w)."""
    image = image.flip(-1) if view[1] else image
    return torch.rot90(image, view[0], (-2, -1)) if view[0] else image  # which copies to turn by nothing, too


def turned_back(image: Tensor, view: View) -> Tensor:
    """Return an image (..., h, w) from its view."""
    back = torch.rot90(image, -view[0], (-2, -1)) if view[0] else image
    return back.flip(-1) if view[1] else back


def mixed(logits: list[Tensor], dim: int = 0) -> Tensor:
    """Return the logits of one view, or the logarithms of the mean probabilities of several; classes are at `dim`."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([found.log_softmax(dim) for found in logits]).logsumexp(0) - math.log(len(logits))


def split_windows(
    read: Read,
    halves: Halves,
    size: Size,
    plan: ScenePlan,
    views: tuple[View, ...],
    done: Container[Window],
    scratch: Path | None,
    flow: Flow = SERIAL,
    *,
    bands: int = 1,
    classes: bool = False,
    features_on: str | None = None,
) -> Iterator[Answer]:
    """Yield windows, logits and valid pixels by the split stage (`models.split_stage`), view after view.

    With `scratch` a later call goes on where this one was stopped. With `classes` the windows' classes (h, w) uint8
    come in place of logits; for one view no logits of full size are made on the CPU. `features_on`: the device that
    keeps the features, and on which classes or logits are made; None: memory or a file, as planned. `flow` and `bands`
    are those of `exact_windows`.
    """
    with contextlib.ExitStack() as stack:
        folder = scratch
        if folder is None and not plan.features_in_memory and features_on is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sartransfer-")))
        masks: dict[
            Window, NDArray[np.uint8]
        ] = {}  # bits of what is valid: the scene is not read again for it
        room = _room(bands, flow)
        answers = [
            _answers(read, halves, size, plan, view, folder, str(i), masks, flow, room, features_on)
            for i, view in enumerate(views)
        ]

    first = answers[0]
    plain = classes and len(views) == 1 and views[0] == (0, False) and not isinstance(first, Tensor)
    plain = plain and bool(np.isfinite(first).all())  # else pixels are looked at one by one

    def valid(kept: Window) -> NDArray[np.bool_]:
        if kept not in masks:  # an earlier call looked at it
            return read(kept).valid
        bits = np.unpackbits(masks.pop(kept), count=kept.height * kept.width)
        return bits.reshape(kept.height, kept.width).view(np.bool_)

    def begin(kept: Window) -> Callable[[], Answer]:
        if plain and not isinstance(first, Tensor):
            found = enlarge_classes(first, kept.row, kept.col, kept.height, kept.width)
            return lambda: (kept, found, valid(kept))
        seen = []
        for view, answer in zip(views, answers, strict=True):
            place = viewed(kept, *size, view)
            seen.append(turned_back(enlarge(answer, place.row, place.col, place.height, place.width), view))
        logits = mixed(seen)
        arrived = fetch(labels(logits) if classes else logits)
        return lambda: (kept, arrived(), valid(kept))

    yield from lagging((begin(kept) for kept in cut(*size, plan.core) if kept not in done), flow.lag)


def _answers(
    read: Read,
    halves: Halves,
    size: Size,
    plan: ScenePlan,
    view: View,
    folder: Path | None,
    name: str,
    masks: dict[Window, NDArray[np.uint8]],
    flow: Flow,
    room: Room,
    features_on: str | None,
) -> Answers:
    """Return the logits (h, w, K) at 1/16 of one view of the whole scene; fill `masks` from the view as it is."""
    finished = folder / f"answers{name}.npy" if folder else None
    if finished is not None and finished.exists():
        found = cast(NDArray[np.float32], np.load(finished, allow_pickle=False))
        return found if features_on is None else torch.from_numpy(found).to(features_on)
    height, width = viewed_size(*size, view)
    cells = rounded(height, halves.stride) // OUTPUT_STRIDE, rounded(width, halves.stride) // OUTPUT_STRIDE
    channels = plan.features_bytes // (FLOAT * cells[0] * cells[1])
    place = folder / f"features{name}.raw" if folder and features_on is None else None
    record = folder / f"features{name}.done" if place and folder else None
    with Features(*cells, channels, place, features_on) as features, Journal(record) as journal:

        def begin(kept: Window, get: Callable[[], Seen]) -> Callable[[], None]:
            seen = grow(kept, plan.halo, halves.stride, height, width)
            data, valid = get()
            if view == (0, False):
                masks[kept] = np.packbits(valid.numpy()[inside(kept, seen)])
            image = turned(data if features_on is None else send(data, features_on), view)[None]
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
            if not flow.ahead:
                del image, block
                give_back_memory()
            ready = mark(features_on or "cpu")

            def finish() -> None:
                ready()
                journal.add(kept)

            return finish

        looks = _looks(size, view, plan.core, plan.halo, halves.stride)
        jobs = (look for look in looks if look[0] not in journal.done)
        with closing(read_ahead(read, jobs, flow, room)) as readings:
            for _ in lagging((begin(kept, get) for kept, get in readings), flow.lag):
                pass
        if plan.frugal:
            halves.rest()
        answers = halves.decode(features, plan.rows)
        if plan.frugal:
            halves.rest()
    if finished is not None:
        _save(finished, answers.cpu().numpy() if isinstance(answers, Tensor) else answers)
    if place is not None:
        place.unlink(missing_ok=True)  # no later step reads them
    return answers


def _save(path: Path, array: NDArray[np.float32]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def overlapped_windows(
    read: Read,
    ask: Ask,
    size: Size,
    plan: ScenePlan,
    done: Container[Window],
    flow: Flow = SERIAL,
    *,
    bands: int = 1,
    classes: bool = False,
) -> Iterator[Answer]:
    """Yield squares of half a window, each the weighted mean of the probabilities of up to four windows.

    Weights are sin^2 along rows and columns: those of overlapping windows sum to 1 and are 0 at their borders. The
    logits are the logarithms of the mean probabilities. `flow`, `bands` and `classes` are those of `exact_windows`.
    """
    step, (height, width) = plan.halo, size
    strips: dict[int, Tensor] = {}  # first row of a strip of `step` rows -> sums (K, step, width)
    known: dict[
        int, Tensor
    ] = {}  # and its valid pixels, where windows are read ahead; else they are read again
    rows = covering(height, step)
    due = [[k for k in cut(*size, step) if top <= k.row < end and k not in done] for top, end in rows]
    jobs = (
        (None, Window(top, left, bottom - top, right - left))
        for (top, bottom), asked in zip(rows, due, strict=True)
        if asked
        for left, right in covering(width, step)
    )

    def add(top: int, bottom: int, left: int, right: int, get: Callable[[], Seen]) -> None:
        image, valid = get()
        logits = ask(send(image, flow.device))
        weights = _ramp(top, bottom, step, height)[:, None] * _ramp(left, right, step, width)
        shares = logits.softmax(0) * weights.to(logits.device)
        for row in range(top, bottom, step):
            part = shares[:, row - top : row - top + step]
            if row not in strips:
                strips[row] = torch.zeros(len(shares), part.shape[1], width, device=part.device)
                known[row] = torch.zeros(part.shape[1] if flow.ahead else 0, width, dtype=torch.bool)
            strips[row][:, :, left:right] += part
            if flow.ahead:
                known[row][:, left:right] = valid[row - top : row - top + step]

    def give(kept: Window) -> Callable[[], Answer]:
        place = slice(kept.col, kept.col + kept.width)
        sums = strips[kept.row][:, :, place].log()
        arrived = fetch(labels(sums) if classes else sums)
        valid = known[kept.row][:, place].numpy() if flow.ahead else read(kept).valid
        return lambda: (kept, arrived(), valid)

    def begun(readings: Iterator[tuple[None, Callable[[], Seen]]]) -> Iterator[Callable[[], Answer]]:
        for number, ((top, bottom), asked) in enumerate(zip(rows, due, strict=True)):
            # A strip is ready when the last window that looks at it has been asked.
            ends = bottom if number == len(rows) - 1 else top + step
            if asked:
                for left, right in covering(width, step):
                    _, get = next(readings)
                    add(top, bottom, left, right, get)
            yield from (give(kept) for kept in asked if kept.row < ends)
            strips.pop(top, None)
            known.pop(top, None)
            if not flow.ahead:
                give_back_memory()

    with closing(read_ahead(read, jobs, flow, _room(bands, flow))) as readings:
        yield from lagging(begun(readings), flow.lag)


def _ramp(first: int, last: int, step: int, side: int) -> Tensor:
    """Return the weights of a window of two steps along one side; 1 where no other window looks."""
    place = torch.arange(last - first)
    weights = torch.sin(math.pi * (place + 0.5) / (2 * step)) ** 2
    if first == 0:
        weights[:step] = 1.0
    if last == side:
        weights[step:] = 1.0
    return weights

"""A network that asks of the whole image, asked by windows: what it asks is measured first, window by window.

Pyramid pooling takes means over the image, or over a part of it, group norms its mean and variance, and enlarging with
aligned corners its size. Each is a few numbers that windows add up. What one of them depends on must be known before,
so that the windows are looked at `Reach.passes` times; then they are asked for the answer.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sartransfer.gpu import float32_kept, layout
from sartransfer.models.receptive import asked_of_all
from sartransfer.scene import Window
from sartransfer.windows import rounded

DOUBLES = 1 << 20
"""Numbers of a map that are in memory in float64 at once, while they are added up."""


class _EnoughError(Exception):
    """Nothing that comes later in the network can be measured yet."""


@dataclass
class WholeImage:
    """What a network has been told of one image."""

    height: int
    """In pixels, padded to a multiple of the network's stride."""
    width: int
    known: dict[int, Tensor] = field(default_factory=dict)
    """Number of a question, in the order of the network's operations -> sums over the image, float64."""
    sums: dict[int, Tensor] = field(default_factory=dict)
    """Those of the pass that goes on."""

    def end_pass(self) -> None:
        """Take the sums as those of the whole image: every window was looked at."""
        self.known |= self.sums
        self.sums = {}


def measure(model: nn.Module, image: Tensor, whole: WholeImage, seen: Window, kept: Window) -> None:
    """Look at a window, and add what it knows of the whole image to ``whole.sums``.

    Args:
        model: a network in evaluation mode for which `find_reach` with ``measuring`` has found a bound.
        image: (C, h, w) float32, on the network's device.
        whole: of this image, with what earlier passes have measured.
        seen: the window's place in pixels, from a multiple of the network's stride, and to one or to the image's end.
        kept: the part of it that is counted: of all windows they cover the image once.
    """
    last = max(whole.sums) if whole.sums else None  # the first window of a pass finds it
    with contextlib.suppress(_EnoughError):
        _ask(model, image, _Placed(whole, _stride(model), seen, kept, last))


def placed_logits(model: nn.Module, image: Tensor, whole: WholeImage, seen: Window) -> Tensor:
    """Return the logits (K, h, w) of a window, right where the network's reach lies inside of it.

    The arguments are those of `measure`; `whole` knows what every pass has measured.
    """
    return _ask(model, image, _Placed(whole, _stride(model), seen))


def _stride(model: nn.Module) -> int:
    return int(getattr(model, "stride", 1))


def _ask(model: nn.Module, image: Tensor, mode: "_Placed") -> Tensor:
    device = str(image.device)
    # Inference mode would show operations before they are taken apart into those that are known here.
    with torch.inference_mode(False), torch.no_grad(), float32_kept(device):
        batch = image.clone()[None].contiguous(memory_format=layout(device))
        mode.mark(batch)
        with mode:
            logits: Tensor = model(batch)
    return logits[0].float()


class _Placed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what is asked of the whole image, and of its size; all else is computed on the window."""

    def __init__(
        self,
        whole: WholeImage,
        stride: int,
        seen: Window,
        kept: Window | None = None,
        last: int | None = None,
    ) -> None:
        """`kept` and `last`: for measuring; the last question that is measured in this pass, where that is known."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.whole, self.seen, self.kept, self.last = whole, seen, kept, last
        self.sides = rounded(seen.height, stride), rounded(seen.width, stride)
        self.number = 0

    def mark(self, tensor: Tensor, is_map: bool = True, guess: bool = False) -> None:
        """Say whether a tensor is a map of the window, and whether it depends on something that is not known yet."""
        tensor._sartransfer_map = is_map  # type: ignore[attr-defined]
        tensor._sartransfer_guess = guess  # type: ignore[attr-defined]

    def cell(self, axis: int, cells: int) -> int:
        """Return the pixels of a cell of a map that has so many of them along the window."""
        return self.sides[axis] // cells

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        is_map = any(getattr(t, "_sartransfer_map", False) for t in given)
        guess = any(getattr(t, "_sartransfer_guess", False) for t in given)
        name = func.overloadpacket.__name__
        dims = asked_of_all(name, args) if is_map else None
        if dims is not None:
            result, guess = self._measured(name, func, args, kwargs, guess, dims)
            is_map = name == "native_group_norm"
        elif name == "upsample_bilinear2d" and (not is_map or args[2]):
            result = self._enlarged(args[0], args[1], bool(args[2]), is_map)
            is_map = True
        else:
            result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.mark(tensor, is_map, guess)
        return result

    def _measured(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        guess: bool,
        dims: tuple[int, int],
    ) -> tuple[Any, bool]:
        """Return the answer to a question of the whole image, and whether it is a guess from this window alone."""
        number, question, x = self.number, QUESTIONS[name], args[0].movedim(dims, (2, 3))
        self.number += 1
        cells = self.cell(0, x.shape[2]), self.cell(1, x.shape[3])
        size = self.whole.height // cells[0], self.whole.width // cells[1]
        if number in self.whole.known:
            found = question.answer(self.whole.known[number], size, args)
            moved = dims != (2, 3) and found.ndim == 4
            return found.movedim((2, 3), dims) if moved else found, guess
        if self.kept is None:
            raise RuntimeError(f"question {number} of the network ({name}) was not measured.")
        if not guess:
            kept, seen = self.kept, self.seen
            rows = _counted(kept.row - seen.row, kept.height, seen.height, cells[0])
            cols = _counted(kept.col - seen.col, kept.width, seen.width, cells[1])
            first = kept.row // cells[0], kept.col // cells[1]
            added = question.sums(x[..., rows, cols], first, size, args)
            before = self.whole.sums.get(number)
            self.whole.sums[number] = added if before is None else before + added
        if number == self.last:
            raise _EnoughError
        return func(*args, **kwargs), True

    def _enlarged(self, x: Tensor, wanted: list[int], aligned: bool, is_map: bool) -> Tensor:
        """Return the window's part of what enlarging the whole map would give, by torch's own weights for that."""
        sides = []
        places = (self.seen.row, self.whole.height), (self.seen.col, self.whole.width)
        for axis, (first, whole) in enumerate(places):
            given, out = x.shape[2 + axis], wanted[axis]
            fine, coarse = self.cell(axis, out), self.cell(axis, given)
            # A map of the window lies in that of the whole image; what was measured is whole.
            total, start = (whole // coarse, first // coarse) if is_map else (given, 0)
            sides.append(
                bilinear_weights(total, whole // fine, aligned, (first // fine, out), (start, given)).to(
                    x.device
                )
            )
        rows, cols = sides
        return rows @ x @ cols.mT


def _counted(first: int, side: int, of: int, cell: int) -> slice:
    """Return the cells of a window that are counted: to the image's padded end where the window reaches it."""
    return slice(first // cell, None if first + side == of else (first + side) // cell)


def bilinear_weights(
    given: int, wanted: int, aligned: bool, rows: tuple[int, int], cols: tuple[int, int]
) -> Tensor:
    """Return a part of the matrix (wanted, given) that enlarges one side bilinearly, in torch's own arithmetic.

    Args:
        given, wanted: cells of the whole side before and after.
        aligned: whether the first and last cells' centres stay where they are (``align_corners``).
        rows, cols: first one and number of those that are wanted; weights of other columns are left out.
    """
    place = torch.arange(rows[0], rows[0] + rows[1], dtype=torch.float32)
    if aligned:
        source = place * torch.tensor((given - 1) / max(wanted - 1, 1), dtype=torch.float32)
    else:
        step = torch.tensor(given / wanted, dtype=torch.float32)
        source = ((place + 0.5) * step - 0.5).clamp_min(0)
    low = source.floor().clamp_max(given - 1)
    share, column = (source - low)[:, None], low.long()[:, None] - cols[0]
    cell = torch.arange(cols[1])
    above = (column + 1).clamp_max(given - 1 - cols[0])
    return torch.where(cell == column, 1 - share, 0.0) + torch.where(cell == above, share, 0.0)


@dataclass(frozen=True, slots=True)
class Question:
    """What an operation asks of the whole map: what windows add up, and the operation's answer from that."""

    sums: Callable[[Tensor, tuple[int, int], tuple[int, int], tuple[Any, ...]], Tensor]
    """(cells of the map, turned to (1, C, h, w), their first row and column, the map's size, arguments) -> sums,
    float64."""
    answer: Callable[[Tensor, tuple[int, int], tuple[Any, ...]], Any]
    """(sums over the map, its size, arguments) -> what the operation returns."""


def _bins(side: int, number: int, first: int, count: int, device: torch.device) -> Tensor:
    """Return which of `count` cells from `first` lie in each of `number` parts of a side, (number, count) float64."""
    cell = torch.arange(first, first + count, device=device)
    part = torch.arange(number, device=device)[:, None]
    begin, end = part * side // number, -(-(part + 1) * side // number)
    return ((cell >= begin) & (cell < end)).double()


def _part_sums(x: Tensor, first: tuple[int, int], size: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    rows, cols = (_bins(size[a], parts[a], first[a], x.shape[2 + a], x.device) for a in (0, 1))
    return _by_channels(x, lambda part: rows @ part @ cols.mT)


def _by_channels(x: Tensor, sums: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `sums` of some channels in float64 after some: of all at once the copy would be twice the map."""
    at_once = max(1, DOUBLES // (x.shape[2] * x.shape[3]))
    return torch.cat([sums(part.to(torch.float64, copy=True)) for part in torch.split(x, at_once, 1)], 1)


def _part_means(sums: Tensor, size: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    rows, cols = (_bins(size[a], parts[a], 0, size[a], sums.device).sum(1) for a in (0, 1))
    return (sums / (rows[:, None] * cols)).float()


def _mean(sums: Tensor, size: tuple[int, int], args: tuple[Any, ...]) -> Tensor:
    keeps = len(args) > 2 and bool(args[2])
    found = _part_means(sums, size, (1, 1))
    return found if keeps else found[..., 0, 0]


def _square_sums(x: Tensor, first: tuple[int, int], size: tuple[int, int], args: tuple[Any, ...]) -> Tensor:
    return _by_channels(x, lambda part: part.square_().sum((2, 3), keepdim=True))


def _norm(sums: Tensor, size: tuple[int, int], args: tuple[Any, ...]) -> Tensor:
    keeps = len(args) > 3 and bool(args[3])
    found = sums.sqrt().float()
    return found if keeps else found[..., 0, 0]


def _group_sums(x: Tensor, first: tuple[int, int], size: tuple[int, int], args: tuple[Any, ...]) -> Tensor:
    def both(part: Tensor) -> Tensor:
        return torch.stack([part.sum((2, 3)), part.square_().sum((2, 3))], 2)

    return _by_channels(x, both).reshape(int(args[6]), -1, 2).sum(1).mT


def _group_norm(sums: Tensor, size: tuple[int, int], args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = args[0], args[1], args[2]
    groups, eps = int(args[6]), float(args[7])
    number = size[0] * size[1] * x.shape[1] // groups
    mean = sums[0] / number
    scale = (sums[1] / number - mean.square()).clamp_min(0).add(eps).rsqrt()
    channels = x.shape[1] // groups
    factor, shift = scale.repeat_interleave(channels), (-mean * scale).repeat_interleave(channels)
    if weight is not None:
        factor, shift = factor * weight.double(), shift * weight.double()
    if bias is not None:
        shift = shift + bias.double()
    factor, shift = (each.to(x.dtype)[:, None, None] for each in (factor, shift))
    return torch.addcmul(shift, x, factor), mean.float()[None], scale.float()[None]


QUESTIONS: dict[str, Question] = {
    "mean": Question(lambda x, first, size, args: _part_sums(x, first, size, (1, 1)), _mean),
    "_adaptive_avg_pool2d": Question(
        lambda x, first, size, args: _part_sums(x, first, size, tuple(args[1])),
        lambda sums, size, args: _part_means(sums, size, tuple(args[1])),
    ),
    "linalg_vector_norm": Question(_square_sums, _norm),
    "native_group_norm": Question(_group_sums, _group_norm),
}
"""Operation -> what it asks of the whole map."""

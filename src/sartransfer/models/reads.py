"""Which cells of a map each operation reads for a range of the cells that it gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from sartransfer.models.axes import argument

Range = tuple[int, int]
"""First index and last index + 1."""
Reads = Callable[[int, Range], Range | None]
"""(axis, range of cells that are given) -> range of cells that are read; None: all."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one operation reads and how its cells lie."""

    reads: Reads
    scale: Fraction = field(default_factory=lambda: Fraction(1))
    """Cells of the input from cell to cell of the output."""


def every(axis: int, cells: Range) -> Range | None:
    """Of an operation that may read everything."""
    return None


def same(axis: int, cells: Range) -> Range | None:
    """Of an operation that reads for a cell only that cell."""
    return cells


def rule_of(
    name: str, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], measuring: bool
) -> Rule | None:
    """Return what an operation reads of a map (1, C, h, w); None for one that may read everything.

    Args:
        name, args, kwargs: of the operation, as torch dispatches it.
        output: what it gives.
        measuring: whether what is asked of the whole image, and its size, count as known.
    """
    if output.ndim != 4:
        return None
    if measuring and name == "native_group_norm":
        return Rule(same)  # with the whole image's statistics
    if name in ("native_batch_norm", "_native_batch_norm_legit"):
        return None if args[5] else Rule(same)  # statistics of the batch: of the whole image
    if name == "convolution":
        return _convolution(*args[1:])
    if name in ("max_pool2d_with_indices", "max_pool2d"):
        size = _pair(args[1])
        step = _pair(argument(args, kwargs, 2, "stride", []) or size)
        return _sliding(
            size,
            step,
            _pair(argument(args, kwargs, 3, "padding", 0)),
            _pair(argument(args, kwargs, 4, "dilation", 1)),
        )
    if name == "avg_pool2d":
        size = _pair(args[1])
        step = _pair(argument(args, kwargs, 2, "stride", []) or size)
        return _sliding(size, step, _pair(argument(args, kwargs, 3, "padding", 0)), (1, 1))
    if name in ("upsample_nearest2d", "_upsample_nearest_exact2d", "pixel_shuffle", "upsample_bilinear2d"):
        return _resizing(name, output, args, measuring)
    if name == "constant_pad_nd":
        left, top = args[1][0], args[1][2] if len(args[1]) > 2 else 0
        return Rule(lambda axis, r: _moved(r, -(top, left)[axis])) if len(args[1]) <= 4 else None
    if name == "slice":
        dim, start = argument(args, kwargs, 1, "dim", 0) % 4, argument(args, kwargs, 2, "start", 0) or 0
        if argument(args, kwargs, 4, "step", 1) != 1 or start < 0:
            return None
        return Rule(lambda axis, r: _moved(r, start if dim == axis + 2 else 0))
    return None


def _convolution(
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Rule | None:
    if weight.ndim != 4:
        return None
    size, step, pad, rate = (weight.shape[2], weight.shape[3]), _pair(stride), _pair(padding), _pair(dilation)
    if not transposed:
        return _sliding(size, step, pad, rate)
    if step[0] != step[1]:
        return None

    def reads(axis: int, cells: Range) -> Range:
        k, t, p, d = size[axis], step[axis], pad[axis], rate[axis]
        return -(-(cells[0] + p - d * (k - 1)) // t), (cells[1] - 1 + p) // t + 1

    return Rule(reads, Fraction(1, step[0]))


def _sliding(
    size: tuple[int, int], step: tuple[int, int], pad: tuple[int, int], rate: tuple[int, int]
) -> Rule | None:
    if step[0] != step[1]:
        return None

    def reads(axis: int, cells: Range) -> Range:
        t, p = step[axis], pad[axis]
        return cells[0] * t - p, (cells[1] - 1) * t - p + rate[axis] * (size[axis] - 1) + 1

    return Rule(reads, Fraction(step[0]))


def _resizing(name: str, output: Tensor, args: tuple[Any, ...], measuring: bool) -> Rule | None:
    factors = {Fraction(o, i) for o, i in zip(output.shape[2:], args[0].shape[2:], strict=True)}
    if len(factors) != 1:
        return None
    factor = factors.pop()
    aligned = name == "upsample_bilinear2d" and args[2]
    if factor.denominator != 1:
        smaller = factor.numerator == 1 and name == "upsample_bilinear2d" and not aligned
        return _reducing(factor.denominator) if smaller else None
    f = factor.numerator
    if aligned and not measuring:
        return None  # the grid depends on the image's size

    def nearest(axis: int, cells: Range) -> Range:
        return cells[0] // f, (cells[1] - 1) // f + 1

    def bilinear(axis: int, cells: Range) -> Range:
        # Cell o lies at (o + 1/2) / f - 1/2 of the coarse grid, between two cells (on one, at most, if f is odd).
        return (2 * cells[0] + 1 - f) // (2 * f), -(-(2 * cells[1] - 1 - f) // (2 * f)) + 1

    def corners(axis: int, cells: Range) -> Range:
        # Cell o of f h cells lies at o (h - 1) / (f h - 1), which is o / f or less than a cell before it.
        return (cells[0] - f + 1) // f, (cells[1] - 1) // f + 2

    if aligned:
        return Rule(corners, Fraction(1, f))
    return Rule(bilinear if name == "upsample_bilinear2d" else nearest, Fraction(1, f))


def _reducing(f: int) -> Rule:
    """Of every f-th place, bilinearly."""

    def bilinear(axis: int, cells: Range) -> Range:
        # Cell o lies at f (o + 1/2) - 1/2 of the fine grid: on a cell if f is odd, between two if it is even.
        return (f * (2 * cells[0] + 1) - 1) // 2, f * (2 * cells[1] - 1) // 2 + 1

    return Rule(bilinear, Fraction(f))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _moved(cells: Range, by: int) -> Range:
    return cells[0] + by, cells[1] + by

"""Where an image's rows and columns lie among a tensor's dimensions, followed through what works cell by cell.

Networks turn maps (1, C, h, w) to (1, h, w, C) for norms and linear layers (ConvNeXt), fold rows and columns into one
dimension (SegFormer's decoder) or stack maps (feature pyramids). As long as rows and columns are known, so is a cell.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_leaves

Axis = Literal["rows", "cols", "both"] | None
"""What a dimension runs along: rows, columns, both (row after row), or neither."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows and columns of a map are."""

    axes: tuple[Axis, ...]
    """One for each dimension of the tensor."""
    size: tuple[int, int]
    """Rows and columns of the map."""

    @property
    def plain(self) -> bool:
        """Whether it is (1, C, h, w)."""
        return self.axes == PLAIN


PLAIN: tuple[Axis, ...] = (None, None, "rows", "cols")

POINTWISE = frozenset(
    """
    _native_batch_norm_legit_no_training _prelu_kernel _to_copy abs add add_ addcdiv addcmul alias celu clamp clamp_
    clone contiguous copy_ detach div div_ dropout elu elu_ exp gelu hardsigmoid hardsigmoid_ hardswish
    hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ lerp log maximum minimum mish mish_ mul mul_
    neg pow prelu relu relu6 relu_ rsqrt rsub sigmoid sigmoid_ silu silu_ softplus sqrt sub sub_ tanh tanh_ where
    """.split()  # noqa: SIM905
)
"""Operations that read for a number only the numbers of its own place."""


def plain(tensor: Tensor) -> Layout | None:
    """Return the layout of a map (1, C, h, w); None for a tensor of other dimensions."""
    return Layout(PLAIN, (tensor.shape[2], tensor.shape[3])) if tensor.ndim == 4 else None


def followed(
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    maps: Sequence[tuple[Tensor, Layout]],
    output: Tensor,
) -> Layout | None:
    """Return the layout of what an operation gives if each of its cells is read off that cell of the maps alone.

    Args:
        name: of the operation, as torch dispatches it.
        args, kwargs: of the operation.
        maps: the tensors among its arguments that are maps of the image.
        output: what it gives.

    Returns:
        None where a cell reads others, or where rows and columns cannot be told any more.
    """
    tensor, layout = maps[0]
    if any(other.size != layout.size for _, other in maps):
        return None
    if name in POINTWISE:
        axes = _broadcast(maps, output)
    elif any(other.axes != layout.axes for _, other in maps) or name not in _FOLLOWED:
        return None
    elif name in _OF_ONE and (len(maps) > 1 or args[_OF_ONE[name]] is not tensor):
        return None  # a product of two maps, or one whose weights the map is
    else:
        axes = _FOLLOWED[name](_Call(args, kwargs, tensor, layout, output))
    if axes is None or len(axes) != output.ndim:
        return None
    if name in POINTWISE or name in ("cat", "stack"):
        meets = layout.axes if name == "stack" else axes
        counted = args[1:] if name == "copy_" else args  # what was there before is gone
        rest = [t for t in tree_leaves((counted, kwargs)) if isinstance(t, Tensor)]
        if any(_differs(t, meets) for t in rest if not any(t is known for known, _ in maps)):
            return None
    return Layout(tuple(axes), layout.size)


def _differs(constant: Tensor, axes: Sequence[Axis]) -> bool:
    """Say whether a tensor that is no map has other numbers for other cells, as embeddings of places do."""
    sides = reversed(list(zip(constant.shape, constant.stride(), strict=True)))
    differs = any(axis and n > 1 and step for (n, step), axis in zip(sides, reversed(axes), strict=False))
    return differs and constant.numel() > 0  # some encoders add maps of no channels


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str, default: Any) -> Any:
    """Return an argument of an operation, given by place or by name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


@dataclass(frozen=True, slots=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensor: Tensor
    """The first map."""
    layout: Layout
    output: Tensor

    @property
    def axes(self) -> list[Axis]:
        return list(self.layout.axes)

    def dim(self, place: int = 1) -> int:
        return int(argument(self.args, self.kwargs, place, "dim", 0)) % len(self.layout.axes)

    def free(self, *dims: int) -> bool:
        """Say that the image does not run along these dimensions."""
        return all(self.layout.axes[dim] is None for dim in dims)


_Found = Sequence[Axis] | None


def _broadcast(maps: Sequence[tuple[Tensor, Layout]], output: Tensor) -> _Found:
    found = set()
    for tensor, layout in maps:
        added = output.ndim - tensor.ndim
        sides = tuple(n for n, axis in zip(tensor.shape, layout.axes, strict=True) if axis)
        axes: tuple[Axis, ...] = (None,) * added + layout.axes
        if added < 0 or sides != tuple(n for n, axis in zip(output.shape, axes, strict=True) if axis):
            return None
        found.add(axes)
    return found.pop() if len(found) == 1 else None


def _along(call: _Call) -> _Found:
    """Of what works along one dimension: `cat` and softmax."""
    return call.axes if call.free(call.dim()) else None


def _split(call: _Call) -> _Found:
    return call.axes if call.free(call.dim(2)) else None


def _sliced(call: _Call) -> _Found:
    return call.axes if call.free(call.dim()) or call.output.shape == call.tensor.shape else None


def _removed(call: _Call) -> _Found:
    """Of `select` and `unbind`, which take a dimension away."""
    dim = call.dim()
    return [axis for i, axis in enumerate(call.axes) if i != dim] if call.free(dim) else None


def _squeezed(call: _Call) -> _Found:
    dims = argument(call.args, call.kwargs, 1, "dim", range(call.tensor.ndim))
    dims = [int(dim) % call.tensor.ndim for dim in ([dims] if isinstance(dims, int) else dims)]
    return [axis for i, axis in enumerate(call.axes) if i not in dims or call.tensor.shape[i] != 1]


def _stacked(call: _Call) -> _Found:
    axes = call.axes
    dim = int(argument(call.args, call.kwargs, 1, "dim", 0)) % (len(axes) + 1)
    return [*axes[:dim], None, *axes[dim:]]


def _reduced(call: _Call) -> _Found:
    given = argument(call.args, call.kwargs, 1, "dim", None)
    if given is None or given == []:
        return None  # over everything
    dims = [int(dim) % call.tensor.ndim for dim in ([given] if isinstance(given, int) else given)]
    if not call.free(*dims):
        return None
    if argument(call.args, call.kwargs, 2, "keepdim", False):
        return call.axes
    return [axis for i, axis in enumerate(call.axes) if i not in dims]


def _normed(call: _Call) -> _Found:
    """Of layer norms, over the last dimensions."""
    return call.axes if call.free(*range(-len(call.args[1]), 0)) else None


def _permuted(call: _Call) -> _Found:
    return [call.axes[int(dim)] for dim in call.args[1]]


def _transposed(call: _Call) -> _Found:
    axes = call.axes
    first, second = call.args[1:3] if len(call.args) > 2 else (0, 1)  # `t` names none
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def _expanded(call: _Call) -> _Found:
    return [None] * (call.output.ndim - call.tensor.ndim) + call.axes


def _multiplied(call: _Call) -> _Found:
    return call.axes if call.free(-1) else None


def _folded(call: _Call) -> _Found:
    """Of `view`: dimensions that are joined or parted, in groups of as many numbers before as after.

    Rows and columns may be joined to one dimension, row after row, and be parted again as they were.
    """
    # No side of a map is 1 when it is followed, so that dimensions of 1 are never its rows or columns.
    before = [(n, axis) for n, axis in zip(call.tensor.shape, call.axes, strict=True) if n != 1]
    after = [n for n in call.output.shape if n != 1]
    found: list[Axis] = []
    while before or after:
        old, new = before[:1], after[:1]
        before, after = before[1:], after[1:]
        while (lack := math.prod(new) - math.prod(n for n, _ in old)) != 0:
            if lack > 0:
                if not before:
                    return None
                old.append(before.pop(0))
            else:
                if not after:
                    return None
                new.append(after.pop(0))
        axes = [axis for _, axis in old]
        if all(axis is None for axis in axes):
            found += [None] * len(new)
        elif len(old) == len(new) == 1:
            found += axes
        elif axes == ["rows", "cols"] and len(new) == 1:
            found.append("both")
        elif axes == ["both"] and tuple(new) == call.layout.size:
            found += ["rows", "cols"]
        else:
            return None
    named = iter(found)
    return [None if n == 1 else next(named) for n in call.output.shape]


_OF_ONE = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1}
"""Products of matrices -> which argument may be the map."""
_FOLLOWED: dict[str, Callable[[_Call], _Found]] = {
    **dict.fromkeys(("cat", "_softmax", "_log_softmax"), _along),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "slice": _sliced,
    **dict.fromkeys(("select", "unbind"), _removed),
    "squeeze": _squeezed,
    **dict.fromkeys(("unsqueeze", "stack"), _stacked),
    **dict.fromkeys(("sum", "mean", "amax", "amin"), _reduced),
    "native_layer_norm": _normed,
    "permute": _permuted,
    **dict.fromkeys(("transpose", "t"), _transposed),
    "expand": _expanded,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _folded),
    **dict.fromkeys(_OF_ONE, _multiplied),
}
"""Operation -> the axes of what it gives."""

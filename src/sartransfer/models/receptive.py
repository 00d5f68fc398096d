"""How far a network sees, on which grid, and what it holds in memory: read off its own operations, without numbers.

The network runs once on the meta device, which computes shapes only. Every operation that touches the image is
written down with the indices that it reads for a range of indices that it gives; walking back from the answer then
says exactly which input pixels a block of answers needs.
"""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Range = tuple[int, int]
"""First index and last index + 1."""
NEEDS_NUMBERS = (RuntimeError, TypeError, ValueError, AssertionError)
"""What a network ends in on the meta device if it looks at numbers; torch's missing kernels are RuntimeErrors, too."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which pixels around an aligned block of answers a network looks at."""

    stride: int
    """Shifting the input by this many pixels shifts every map inside the network by whole cells."""
    before: int | None
    """Pixels above (or left of) a block that starts at a multiple of `stride`; None: no bound was found."""
    after: int | None
    """Pixels below (or right of) a block that ends at a multiple of `stride`; None: no bound was found."""
    passes: int = 0
    """How often all windows must be looked at before, for what the network asks of the whole image."""
    look: int = 0
    """The halo of those looks: what is measured often needs less than the answer."""

    @property
    def halo(self) -> int | None:
        """The smallest multiple of `stride` that covers both sides; None where no window is exact."""
        if self.before is None or self.after is None:
            return None
        return -(-max(self.before, self.after, 0) // self.stride) * self.stride


def find_reach(
    model: nn.Module,
    in_channels: int,
    *,
    multiple: int = 1,
    call: Callable[..., Any] | None = None,
    measuring: bool = False,
) -> Reach:
    """Work out how far a network in evaluation mode sees.

    Known are convolutions (also transposed and dilated), max and average pooling, enlarging by a whole factor
    (nearest, bilinear without aligned corners, pixel shuffle), padding with a constant, cropping, concatenation of
    channels and what works pixel by pixel. Anything else (attention, means over the image, aligned corners,
    statistics of the batch) counts as seeing everything.

    Args:
        model: its weights are not looked at.
        in_channels: of the input.
        multiple: the input's sides must be a multiple of this (`Network.stride`).
        call: ``call(model, x)`` in place of the whole network, e.g. its encoder alone.
        measuring: take as known what `models.placed` can measure of the whole image (means over it or over parts of
            it, the statistics of group norms), and its size, on which aligned corners depend. Every map must then be
            a whole fraction of the image.

    Returns:
        `Reach`; its sides are None where the answer may depend on every pixel, or is no image.
    """
    side = multiple * max(4, -(-256 // multiple))
    try:
        walk = _walk(model, call or _forward, [(1, in_channels, side, side)], measuring)
    except NEEDS_NUMBERS:
        return Reach(multiple, None, None)  # what cannot run without numbers looks at them
    stride = math.lcm(multiple, *(n.scale.numerator for n in walk.nodes if n.scale))
    if walk.answer is None or (measuring and (stride != multiple or not walk.fractions)):
        return Reach(stride, None, None)
    reaches = []
    for node in (walk.answer, *walk.asked):  # what is measured must be right on the block, too
        if (found := _reach(walk.nodes, node, stride)) is None:
            return Reach(stride, None, None)
        reaches.append(found)
    look = max((found.halo or 0 for found in reaches[1:]), default=0)
    return Reach(stride, reaches[0].before, reaches[0].after, walk.passes, look)


def _reach(nodes: Sequence["_Node"], node: "_Node", stride: int) -> Reach | None:
    """Return which input pixels a block of one map needs; None where there is no bound."""
    if node.scale is None:
        return None
    cells = int(Fraction(stride) / node.scale)  # of a block that begins and ends on the grid
    first, last = 0, 0
    for axis in (0, 1):
        found = _needed(nodes, node, axis, (cells, 2 * cells))
        if found is None:
            return None
        first, last = max(first, stride - found[0]), max(last, found[1] - 2 * stride)
    return Reach(stride, first, last)


def peak_bytes(
    model: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    call: Callable[..., Any] | None = None,
    *,
    at_least: float = 0.0,
) -> int:
    """Return the most bytes of tensors alive at once while a network answers inputs of these shapes.

    Counted are inputs, what lies between and the answer, in float32; neither the weights nor what a kernel takes
    for itself. Networks that cannot run without numbers are taken to need `at_least` bytes.
    """
    try:
        return _walk(model, call or _forward, shapes).peak
    except NEEDS_NUMBERS:
        return int(at_least)


def _forward(model: nn.Module, *inputs: Tensor) -> Any:
    return model(*inputs)


class _Called(nn.Module):
    """A function of a network as a network, whose tensors `functional_call` can replace."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call
        self.training = model.training

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self.model, *inputs)


def _walk(
    model: nn.Module, call: Callable[..., Any], shapes: Sequence[tuple[int, ...]], measuring: bool = False
) -> "_Walk":
    called = _Called(model, call)
    held = {**dict(called.named_parameters()), **dict(called.named_buffers())}
    walk = _Walk(shapes[0][-1] if measuring else None)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
    ):  # inference mode would hide what operations are made of
        empty = {n: torch.empty_like(t, device="meta") for n, t in held.items()}
        inputs = [torch.empty(shape, device="meta") for shape in shapes]
        for tensor in inputs:
            walk.count(tensor)
        walk.mark(inputs[0], _Node(0, (), Fraction(1)))
        with walk:
            answer = torch.func.functional_call(called, empty, tuple(inputs))
    walk.answer = _node(answer) if isinstance(answer, Tensor) else None
    return walk


Reads = Callable[[int, Range], Range | None]
"""(axis, range of cells that are given) -> range of cells that are read; None: all."""


@dataclass(slots=True)
class _Node:
    """One map of the network: which maps it was made of, and how."""

    number: int
    parents: tuple[tuple["_Node", Reads], ...]
    scale: Fraction | None
    """Input pixels from cell to cell; None where that has no meaning any more."""


@dataclass
class _Rule:
    """What one operation reads and how its cells lie."""

    reads: Reads
    scale: Fraction = field(default_factory=lambda: Fraction(1))
    """Cells of the input from cell to cell of the output."""


def _node(tensor: Tensor) -> _Node | None:
    found: _Node | None = getattr(tensor, "_sartransfer_node", None)
    return found


class _Walk(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation on the image, and how many bytes are alive."""

    def __init__(self, side: int | None = None) -> None:
        """`side`: of the image, where what is asked of all of it counts as known; else None."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.side = side
        self.asked: list[_Node] = []
        """Maps of which something is measured."""
        self.passes = 0
        self.fractions = True
        """Whether every map is a whole fraction of the image."""
        self.nodes: list[_Node] = []
        self.answer: _Node | None = None
        self.alive: dict[int, int] = {}
        self.held = self.peak = 0

    def mark(self, tensor: Tensor, node: _Node) -> None:
        node.number = len(self.nodes)
        self.nodes.append(node)
        tensor._sartransfer_node = node  # type: ignore[attr-defined]

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if self.alive.setdefault(key, 0) == 0:
            self.held += size
            self.peak = max(self.peak, self.held)
        self.alive[key] += 1
        weakref.finalize(tensor, self._dropped, key, size)

    def _dropped(self, key: int, size: int) -> None:
        self.alive[key] -= 1
        if self.alive[key] == 0:
            self.held -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        seen = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        given = [t for t in seen if _node(t) is not None]
        result = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        for tensor in outputs:
            if not any(tensor is t for t in seen):
                self.count(tensor)
        name = func.overloadpacket.__name__
        if self.side is not None and outputs:
            given = self._known(name, seen, given, outputs, args)
        if given and outputs:
            node = _joined(name, given, outputs[0], args, kwargs, self.side is not None)
            for tensor in outputs:
                self.mark(tensor, _Node(0, node.parents, node.scale))
            if self.side is not None and node.scale and outputs[0].shape[-1] * node.scale != self.side:
                self.fractions = False
        return result

    def _known(
        self,
        name: str,
        seen: Sequence[Tensor],
        given: list[Tensor],
        outputs: Sequence[Tensor],
        args: tuple[Any, ...],
    ) -> list[Tensor]:
        """Return the maps that the output of an operation depends on, where what is measured counts as known."""
        level = max((getattr(t, "_sartransfer_level", 0) for t in seen), default=0)
        if given and measurable(name, args):
            node = _node(given[0])
            assert node is not None
            self.asked.append(node)
            level += 1
            self.passes = max(self.passes, level)
            given = given if name == "native_group_norm" else []
        elif name == "upsample_bilinear2d" and not given:
            # Of something known to an image's size: it needs no pixel, but what looks at it later has an edge.
            cell = Fraction(self.side or 0, outputs[0].shape[-1])

            def reads(axis: int, cells: Range) -> Range:
                return math.floor(cells[0] * cell), math.ceil(cells[1] * cell)

            self.mark(outputs[0], _Node(0, ((self.nodes[0], reads),), cell))
        for tensor in outputs:
            tensor._sartransfer_level = level  # type: ignore[attr-defined]
        return given


def measurable(name: str, args: tuple[Any, ...]) -> bool:
    """Say whether an operation asks of a whole map (1, C, h, w) something that `models.placed` can measure."""
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return False
    if name == "mean":
        return len(args) > 1 and {int(d) % 4 for d in args[1] or ()} == {2, 3}
    return name in ("_adaptive_avg_pool2d", "native_group_norm")


def _joined(
    name: str,
    given: Sequence[Tensor],
    output: Tensor,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    measuring: bool,
) -> _Node:
    """Return the node of what an operation gives for maps that we know."""
    parents = [(t, node) for t in given if (node := _node(t)) is not None]
    rule = _rule(name, output, args, kwargs, measuring)
    if rule is None or any(n.scale is None or t.ndim != 4 for t, n in parents):
        return _Node(0, tuple((n, _all) for _, n in parents), None)
    scales = {n.scale for _, n in parents}
    if len(scales) > 1 or (name in POINTWISE and any(t.shape[2:] != output.shape[2:] for t, _ in parents)):
        return _Node(0, tuple((n, _all) for _, n in parents), None)
    (scale,) = scales
    assert scale is not None
    return _Node(0, tuple((n, rule.reads) for _, n in parents), scale * rule.scale)


def _all(axis: int, cells: Range) -> Range | None:
    return None


def _same(axis: int, cells: Range) -> Range | None:
    return cells


POINTWISE = frozenset(
    """
    _native_batch_norm_legit_no_training _prelu_kernel _to_copy abs add add_ alias cat celu clamp clamp_
    clone contiguous copy_ detach div div_ dropout elu elu_ exp gelu hardsigmoid hardsigmoid_ hardswish
    hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ lerp log maximum minimum mish mish_ mul mul_
    neg pow prelu relu relu6 relu_ rsub sigmoid sigmoid_ silu silu_ softplus sub sub_ tanh tanh_ where
    """.split()  # noqa: SIM905
)
"""Operations that read for a cell only that cell (of all channels)."""


def _rule(
    name: str, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], measuring: bool
) -> _Rule | None:
    """Return what an operation reads; None for one that may read everything."""
    if output.ndim != 4:
        return None
    if measuring and name == "native_group_norm":
        return _Rule(_same)  # with the whole image's statistics
    if name in POINTWISE:
        return None if name == "cat" and _argument(args, kwargs, 1, "dim", 0) not in (1, -3) else _Rule(_same)
    if name in ("native_batch_norm", "_native_batch_norm_legit"):
        return None if args[5] else _Rule(_same)  # statistics of the batch: of the whole image
    if name in ("_softmax", "_log_softmax"):
        return _Rule(_same) if args[1] in (1, -3) else None
    if name == "convolution":
        return _convolution(*args[1:])
    if name in ("max_pool2d_with_indices", "max_pool2d"):
        size = _pair(args[1])
        step = _pair(_argument(args, kwargs, 2, "stride", []) or size)
        return _sliding(
            size,
            step,
            _pair(_argument(args, kwargs, 3, "padding", 0)),
            _pair(_argument(args, kwargs, 4, "dilation", 1)),
        )
    if name == "avg_pool2d":
        size = _pair(args[1])
        step = _pair(_argument(args, kwargs, 2, "stride", []) or size)
        return _sliding(size, step, _pair(_argument(args, kwargs, 3, "padding", 0)), (1, 1))
    if name in ("upsample_nearest2d", "_upsample_nearest_exact2d", "pixel_shuffle", "upsample_bilinear2d"):
        return _enlarging(name, output, args, measuring)
    if name == "constant_pad_nd":
        left, top = args[1][0], args[1][2] if len(args[1]) > 2 else 0
        return _Rule(lambda axis, r: _moved(r, -(top, left)[axis])) if len(args[1]) <= 4 else None
    if name == "slice":
        dim, start = _argument(args, kwargs, 1, "dim", 0) % 4, _argument(args, kwargs, 2, "start", 0) or 0
        if _argument(args, kwargs, 4, "step", 1) != 1 or start < 0:
            return None
        return _Rule(lambda axis, r: _moved(r, start if dim == axis + 2 else 0))
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
) -> _Rule | None:
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

    return _Rule(reads, Fraction(1, step[0]))


def _sliding(
    size: tuple[int, int], step: tuple[int, int], pad: tuple[int, int], rate: tuple[int, int]
) -> _Rule | None:
    if step[0] != step[1]:
        return None

    def reads(axis: int, cells: Range) -> Range:
        t, p = step[axis], pad[axis]
        return cells[0] * t - p, (cells[1] - 1) * t - p + rate[axis] * (size[axis] - 1) + 1

    return _Rule(reads, Fraction(step[0]))


def _enlarging(name: str, output: Tensor, args: tuple[Any, ...], measuring: bool) -> _Rule | None:
    factors = {Fraction(o, i) for o, i in zip(output.shape[2:], args[0].shape[2:], strict=True)}
    if len(factors) != 1 or (factor := factors.pop()).denominator != 1:
        return None
    f = factor.numerator
    aligned = name == "upsample_bilinear2d" and args[2]
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
        return _Rule(corners, Fraction(1, f))
    return _Rule(bilinear if name == "upsample_bilinear2d" else nearest, Fraction(1, f))


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _moved(cells: Range, by: int) -> Range:
    return cells[0] + by, cells[1] + by


def _needed(nodes: Sequence[_Node], answer: _Node, axis: int, cells: Range) -> Range | None:
    """Return the range of input pixels that a range of the answer's cells needs; None: all."""
    wanted: dict[int, Range] = {answer.number: cells}
    for number in range(answer.number, 0, -1):
        if number not in wanted:
            continue
        for parent, reads in nodes[number].parents:
            found = reads(axis, wanted[number])
            if found is None:
                return None
            known = wanted.get(parent.number, found)
            wanted[parent.number] = min(known[0], found[0]), max(known[1], found[1])
    return wanted.get(0)

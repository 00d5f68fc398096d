"""How far a network sees, on which grid, and what it holds in memory: read off its own operations, without numbers.

The network runs once on the meta device, which computes shapes only. Every operation that touches the image is
written down with the indices that it reads for a range of indices that it gives; walking back from the answer then
says exactly which input pixels a block of answers needs.
"""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sartransfer.models.axes import Layout, followed, plain
from sartransfer.models.reads import Range, Reads, every, rule_of, same

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
    (nearest, bilinear without aligned corners, pixel shuffle), padding with a constant, cropping and what works pixel
    by pixel, on maps that are turned or folded, too (`models.axes`). Anything else (attention, means over the image,
    aligned corners, statistics of the batch) counts as seeing everything.

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
    answer = walk.answer
    if answer is None or answer.layout is None or not answer.layout.plain:
        return Reach(stride, None, None)
    if measuring and (stride != multiple or not walk.fractions):
        return Reach(stride, None, None)
    reaches = []
    for node in (answer, *walk.asked):  # what is measured must be right on the block, too
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
        walk.mark(inputs[0], _Node(0, (), Fraction(1), plain(inputs[0])))
        with walk:
            answer = torch.func.functional_call(called, empty, tuple(inputs))
    walk.answer = _node(answer) if isinstance(answer, Tensor) else None
    return walk


@dataclass(slots=True)
class _Node:
    """One map of the network: which maps it was made of, and how."""

    number: int
    parents: tuple[tuple["_Node", Reads], ...]
    scale: Fraction | None
    """Input pixels from cell to cell; None where that has no meaning any more."""
    layout: Layout | None
    """Of the tensor; None with `scale`."""


def _node(tensor: Tensor) -> _Node | None:
    found: _Node | None = getattr(tensor, "_sartransfer_node", None)
    return found


def _level(tensor: Tensor) -> int:
    """Return after how many looks at all windows a tensor is known that does not depend on single pixels."""
    return int(getattr(tensor, "_sartransfer_level", 0))


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
        self.alive: dict[int, list[weakref.ref[Tensor]]] = {}
        """Memory -> the tensors that look at it."""
        self.held = self.peak = 0

    def mark(self, tensor: Tensor, node: _Node) -> None:
        node.number = len(self.nodes)
        self.nodes.append(node)
        tensor._sartransfer_node = node  # type: ignore[attr-defined]

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self.alive.setdefault(key, []):
            self.held += size
            self.peak = max(self.peak, self.held)
        self.alive[key].append(weakref.ref(tensor))
        weakref.finalize(tensor, self._dropped, key, size)

    def _dropped(self, key: int, size: int) -> None:
        self.alive[key] = [ref for ref in self.alive[key] if ref() is not None]
        if not self.alive[key]:
            self.held -= size

    def overwrite(self, tensor: Tensor) -> None:
        """Give up what was known of other tensors that look at the memory of one that was written."""
        for ref in self.alive.get(tensor.untyped_storage()._cdata, []):
            other = ref()
            if other is not None and other is not tensor:
                self.mark(other, _lost([]))

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
            for tensor in outputs:
                node = _joined(name, given, tensor, args, kwargs, self.side is not None)
                self.mark(tensor, node)
                if self.side is not None and node.layout and node.scale:
                    self.fractions &= node.layout.size[1] * node.scale == self.side
        for tensor in outputs:
            if any(tensor is t for t in seen) and (given or _level(tensor)):
                self.overwrite(tensor)
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
        level = max(map(_level, seen), default=0)
        node = _node(args[0]) if given and _asks(name, args) else None
        if node is not None:
            self.asked.append(node)
            level += 1
            self.passes = max(self.passes, level)
            given = given if name == "native_group_norm" else []
        elif name == "upsample_bilinear2d" and not given:
            # Of something known to an image's size: it needs no pixel, but what looks at it later has an edge.
            cell = Fraction(self.side or 0, outputs[0].shape[-1])

            def reads(axis: int, cells: Range) -> Range:
                return math.floor(cells[0] * cell), math.ceil(cells[1] * cell)

            self.mark(outputs[0], _Node(0, ((self.nodes[0], reads),), cell, plain(outputs[0])))
        for tensor in outputs:
            tensor._sartransfer_level = level  # type: ignore[attr-defined]
        return given


def asked_of_all(name: str, args: tuple[Any, ...]) -> tuple[int, int] | None:
    """Return the dimensions of rows and columns of a whole map of which an operation asks what windows can measure.

    None for other operations. Whether rows and columns lie there is not looked at.
    """
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return None
    if name in ("_adaptive_avg_pool2d", "native_group_norm"):
        return 2, 3
    place = {"mean": 1, "linalg_vector_norm": 2}.get(name)
    if place is None or len(args) <= place or not args[place] or (place == 2 and args[1] != 2):
        return None
    first, *others = sorted(int(dim) % 4 for dim in args[place])
    return (first, first + 1) if first in (1, 2) and others == [first + 1] else None


def _asks(name: str, args: tuple[Any, ...]) -> bool:
    """Say whether what an operation asks can be measured, and is asked of rows and columns."""
    dims = asked_of_all(name, args)
    layout = node.layout if dims is not None and (node := _node(args[0])) is not None else None
    return layout is not None and dims is not None and tuple(layout.axes[d] for d in dims) == ("rows", "cols")


def _joined(
    name: str,
    given: Sequence[Tensor],
    output: Tensor,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    measuring: bool,
) -> _Node:
    """Return the node of what an operation gives for maps that we know."""
    known = [(t, node) for t in given if (node := _node(t)) is not None]
    parents = [node for _, node in known]
    maps = [(t, node.layout) for t, node in known if node.layout is not None]
    scales = {node.scale for node in parents}
    scale = scales.pop()
    if scale is None or scales or len(maps) < len(known):
        return _lost(parents)
    # `models.placed` does not know where rows and columns are: it would measure other dimensions as if they were.
    taken = measuring and asked_of_all(name, args) is not None and not _asks(name, args)
    layout = None if taken else followed(name, args, kwargs, maps, output)
    if layout is not None:
        return _Node(0, tuple((node, same) for node in parents), scale, layout)
    alone = (
        len(maps) == 1 and maps[0][0] is args[0] and maps[0][1].plain
    )  # not the weights of a convolution, say
    rule = rule_of(name, output, args, kwargs, measuring) if alone else None
    if rule is None:
        return _lost(parents)
    return _Node(0, tuple((node, rule.reads) for node in parents), scale * rule.scale, plain(output))


def _lost(parents: Sequence[_Node]) -> _Node:
    """Return the node of what may have read everything."""
    return _Node(0, tuple((node, every) for node in parents), None, None)


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

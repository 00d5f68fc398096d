"""Give a network its start, and account for every tensor: loaded, adapted or random."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sartransfer.errors import WeightsError, one_of
from sartransfer.models.channels import METHODS, adapt_first_layer
from sartransfer.models.network import Network, check_finite, check_freeze, matching
from sartransfer.models.network import freeze as freeze_parameters
from sartransfer.models.weights import Weights

COUNTER = "num_batches_tracked"  # batch norm's step count, unused with a fixed momentum: old files lack it
PROJECTION = "input_projection.weight"
HEADS = ("fc", "head", "classifier", "head.fc", "classif")  # what others call the last layer
DOWNSAMPLE = "layers.{}.downsample.reduction.weight"  # of a Swin


@dataclass(frozen=True)
class InitializationReport:
    """What became of every parameter and buffer of a network when it was given its start."""

    source: str
    loaded: tuple[str, ...]
    """Taken from the weights as they are."""
    adapted: tuple[str, ...]
    """The first layer fitted to the bands, or the projection put before it."""
    random: tuple[str, ...]
    """As the network was built (batch-norm buffers too, which start at 0 and 1)."""
    frozen: tuple[str, ...] = ()
    """Parameters that training leaves alone, whatever their start."""
    ignored: tuple[str, ...] = ()
    """Names in the weights that the network has no place for."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Numbers of parameters (not buffers): total, loaded, adapted, random, frozen."""
    first_layer: str = ""
    """In words, how the first layer met the bands."""
    partial: bool = False
    """True where encoder tensors are random though weights were given, because that was allowed."""
    notes: tuple[str, ...] = ()
    links: tuple["InitializationReport", ...] = ()
    """Reports of a chain's earlier stages, first link first."""

    def __post_init__(self) -> None:
        names = Counter([*self.loaded, *self.adapted, *self.random])
        twice = [n for n, count in names.items() if count > 1]
        if twice:
            raise WeightsError(f"an initialization report counts {', '.join(twice[:3])} twice.")

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {
            **values,
            "parameters": dict(self.parameters),
            "links": [link.to_json() for link in self.links],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "InitializationReport":
        """Read back what `to_json` wrote."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        plain["links"] = tuple(cls.from_json(link) for link in values.get("links", ()))
        return cls(**plain)

    def with_links(self, links: Sequence["InitializationReport"]) -> "InitializationReport":
        """Return the report with those of a chain's earlier stages."""
        return replace(self, links=tuple(links))

    def describe(self) -> str:
        """Return a few lines for the terminal: the shares in per cent, the first layer, the notes."""
        total = max(self.parameters.get("total", 0), 1)
        shares = ", ".join(
            f"{100 * self.parameters.get(kind, 0) / total:.1f} % {kind}"
            for kind in ("loaded", "adapted", "random", "frozen")
        )
        lines = [
            f"{self.source}: {total:,} parameters: {shares}" + (" (PARTIAL)" if self.partial else ""),
            f"  first layer: {self.first_layer}",
        ]
        if self.ignored:
            lines.append(f"  not used: {_some(self.ignored)}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass
class _Plan:
    """What is to be copied where, worked out in full before the network is touched."""

    values: dict[str, Tensor] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first_layer: str = ""
    projection: int | None = None
    """Channels of the projection to put before the network."""


def load_initialization(
    model: Network,
    tensors: Mapping[str, Tensor] | Weights | None,
    *,
    source: str,
    first_layer: str = "repeat",
    select: Sequence[int] | None = None,
    allow_missing: Sequence[str] = (),
    freeze: Sequence[str] = (),
    replace_head: bool = True,
) -> InitializationReport:
    """Fill a network's encoder, and its decoder where the weights have it, and report on every tensor.

    Names are matched directly, under ``encoder.``, or after the prefix that fits best. All of the encoder
    is expected; the final class layer stays random unless ``replace_head=False`` and the classes agree. The
    network is changed only if everything fits.

    Args:
        model: as `build_model` returns it; changed in place.
        tensors: the weights; None for a random start (the caller has seeded before building).
        source: what to call the weights in the report.
        first_layer: one of `channels.METHODS`, for weights made for another number of bands.
        select: indices for ``first_layer="select"``.
        allow_missing: globs or module names of encoder parts that may stay random: ``encoder.layer4.*``.
        freeze: globs or module names of parameters that training leaves alone.
        replace_head: False keeps the weights' final class layer where it fits.

    Raises:
        WeightsError: nothing matches; an encoder tensor is missing or of another shape and that is not
            allowed; NaN in the weights; a method, index or glob that does not fit.
    """
    if first_layer not in METHODS:
        raise WeightsError(one_of("first_layer", first_layer, METHODS))
    plan = _Plan(first_layer=f"random, {model.in_channels} channels")
    given: Mapping[str, Tensor] = tensors.tensors if isinstance(tensors, Weights) else tensors or {}
    if tensors is not None:
        plan = _plan(model, given, source, first_layer, select, allow_missing, replace_head)
    if isinstance(tensors, Weights) and tensors.classes and replace_head:
        plan.notes.append(
            f"trained to tell {tensors.classes} classes apart; that last layer is not taken over"
        )
    check_freeze(model, freeze, [PROJECTION] if plan.projection else [])
    _apply(model, plan)
    frozen = freeze_parameters(model, freeze) if freeze else []
    return _report(model, plan, given, source, frozen)


def _plan(
    model: Network,
    given: Mapping[str, Tensor],
    source: str,
    method: str,
    select: Sequence[int] | None,
    allow_missing: Sequence[str],
    replace_head: bool,
) -> _Plan:
    state = model.state_dict()
    found, prefix = _match(given, list(state), source)
    plan = _Plan(notes=[f"prefix {prefix!r} stripped from the names in the weights"] if prefix else [])
    if not replace_head:
        _match_head(model, given, found)
    first = f"{model.first_layer()[0]}.weight"
    projection = given.get(prefix + PROJECTION)
    misfits = []
    for name, own in state.items():
        origin = found.get(name)
        if origin is None:
            plan.missing.append(name)
            continue
        tensor = given[origin]
        if name in model.classifier_names and (replace_head or tensor.shape != own.shape):
            if not replace_head:
                plan.notes.append(f"final layer not kept: {_shapes(name, tensor, own)}")
        elif name == first and _adaptable(model, tensor, own):
            check_finite(origin, tensor)
            plan.used.add(origin)
            if projection is not None:
                check_finite(PROJECTION, projection)
                plan.used.add(prefix + PROJECTION)
            _plan_first(plan, model, name, tensor, projection, method, select)
        elif tensor.shape == own.shape:
            check_finite(origin, tensor)
            plan.values[name] = tensor
            plan.used.add(origin)
        elif name.startswith("encoder.") and not matching([name], allow_missing):
            raise WeightsError(
                f"{source} does not fit the network: {_shapes(name, tensor, own)}. Are they another "
                f"network's? "
                f'To leave this part random: allow_missing: ["{_part(name)}.*"].'
            )
        else:
            plan.missing.append(name)
            misfits.append(name)
    if misfits:
        plan.notes.append(f"{len(misfits)} tensors have other shapes in the weights: {_some(misfits)}")
    _check_missing(plan, model, source, allow_missing)
    return plan


def _match(given: Mapping[str, Tensor], names: Sequence[str], source: str) -> tuple[dict[str, str], str]:
    """Return {network's name: weights' name} under the prefix that matches most, and that prefix.

    What remains of the weights' names without it is a name of the network, or one of its encoder.
    """
    own = set(names)
    called = _called(given, own)
    fits: Counter[tuple[str, str]] = Counter()
    for name in called.values():
        starts = [0, *(i + 1 for i, c in enumerate(name) if c == ".")]
        for start in starts:
            for under in ("", "encoder."):
                if under + name[start:] in own:
                    fits[name[:start], under] += 1
    if not fits:
        raise WeightsError(
            f"nothing in {source} matches the network: it has {_some(list(given))}, "
            f"the network {_some(names)}."
        )
    (prefix, under), _ = fits.most_common(1)[0]  # of equals the first met: a momentum encoder's query, say
    found = {}
    for origin, name in called.items():
        target = under + name.removeprefix(prefix)
        if name.startswith(prefix) and target in own:
            found[target] = origin
    return found, prefix


def _called(given: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """Return {weights' name: the name to match it by}; they differ where a Swin of its authors meets one of timm.

    The authors' files (SAR-HUB's too) count a downsampling to the stage before it, timm to the stage after it.
    """
    first = DOWNSAMPLE.format(0)
    later = any(n.endswith(DOWNSAMPLE.format(1)) for n in own) and not any(n.endswith(first) for n in own)
    if not later or not any(n.endswith(first) for n in given):
        return {n: n for n in given}
    shift = re.compile(r"(?<=\blayers\.)\d+(?=\.downsample\.)")
    return {n: shift.sub(lambda found: str(int(found[0]) + 1), n) for n in given}


def _match_head(model: Network, given: Mapping[str, Tensor], found: dict[str, str]) -> None:
    """Find the weights' final class layer by its usual names."""
    for target in model.classifier_names:
        last = target.rpartition(".")[2]
        origin = next((f"{h}.{last}" for h in HEADS if f"{h}.{last}" in given), None)
        if target not in found and origin is not None:
            found[target] = origin


def _adaptable(model: Network, tensor: Tensor, own: Tensor) -> bool:
    """Say whether the first layers differ in their input channels at most, and meet the bands directly."""
    same = (
        tensor.ndim == own.ndim == 4 and tensor.shape[0] == own.shape[0] and tensor.shape[2:] == own.shape[2:]
    )
    return same and own.shape[1] == model.in_channels


def _plan_first(
    plan: _Plan,
    model: Network,
    name: str,
    tensor: Tensor,
    projection: Tensor | None,
    method: str,
    select: Sequence[int] | None,
) -> None:
    bands = model.in_channels
    words = ""
    if projection is not None:  # an earlier run's own 1x1 convolution before this layer
        if method == "conv1x1" and projection.shape[1] == bands:
            plan.values |= {name: tensor, PROJECTION: projection}
            plan.projection = tensor.shape[1]
            plan.first_layer = f"as it is, with its 1x1 convolution from {bands} channels"
            return
        # The two are one convolution, because neither the projection nor the padding adds anything.
        tensor = torch.einsum("oikl,ic->ockl", tensor, projection[:, :, 0, 0].to(tensor))
        words = "with its 1x1 convolution folded in, "
        plan.adapted.append(name)
    given = tensor.shape[1]
    plan.values[name] = adapt_first_layer(tensor, bands, method, select=select)
    if given == bands and method != "select":
        plan.first_layer = words + f"as it is, {bands} channels"
        return
    plan.first_layer = words + f"{given} channels -> {bands}: {METHODS[method]}"
    if method == "select":
        plan.first_layer += f" {list(select or ())}"
    if method == "conv1x1":
        plan.projection = given
    plan.adapted.append(PROJECTION if method == "conv1x1" else name)


def _check_missing(plan: _Plan, model: Network, source: str, allow_missing: Sequence[str]) -> None:
    if not any(n.startswith("encoder.") and not n.endswith(COUNTER) for n in plan.values):
        raise WeightsError(
            f"nothing in {source} fits the network's encoder: nothing would be loaded. Are they another "
            f"network's? The encoder has {_some([f'encoder.{n}' for n in model.encoder.state_dict()])}."
        )
    expected = [n for n in plan.missing if n.startswith("encoder.") and not n.endswith(COUNTER)]
    allowed = matching(expected, allow_missing)
    absent = [n for n in expected if n not in allowed]
    if absent:
        parts = ", ".join(f'"{p}.*"' for p in dict.fromkeys(_part(n) for n in absent))
        raise WeightsError(
            f"{source} lacks {len(absent)} tensors of the network's encoder: {_some(absent)}. "
            f"Are they another network's? To leave these parts random on purpose: allow_missing: [{parts}]."
        )
    if expected:
        plan.notes.append(f"{len(expected)} encoder tensors stay random, as allowed: {_some(expected)}")


def _apply(model: Network, plan: _Plan) -> None:
    if plan.projection is not None:
        model.add_input_projection(plan.projection)
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in plan.values.items():
            state[name].copy_(tensor)  # state_dict's tensors share memory with the network's


def _report(
    model: Network, plan: _Plan, given: Mapping[str, Tensor], source: str, frozen: list[str]
) -> InitializationReport:
    names = list(model.state_dict())
    adapted = [n for n in names if n in plan.adapted]
    loaded = [n for n in names if n in plan.values and n not in plan.adapted]
    random = [n for n in names if n not in plan.values and n not in plan.adapted]
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    kinds = {"total": names, "loaded": loaded, "adapted": adapted, "random": random, "frozen": frozen}
    return InitializationReport(
        source=source,
        loaded=tuple(loaded),
        adapted=tuple(adapted),
        random=tuple(random),
        frozen=tuple(frozen),
        ignored=tuple(n for n in given if n not in plan.used),
        parameters={k: sum(sizes.get(n, 0) for n in group) for k, group in kinds.items()},
        first_layer=plan.first_layer,
        partial=any(n.startswith("encoder.") and not n.endswith(COUNTER) for n in plan.missing),
        notes=tuple(plan.notes),
    )


def _part(name: str) -> str:
    """Return the module to name in `allow_missing`: encoder.layer4 for encoder.layer4.0.conv1.weight."""
    return ".".join(name.split(".")[:2])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shapes(name: str, tensor: Tensor, own: Tensor) -> str:
    return f"{name} is {tuple(tensor.shape)} in the weights and {tuple(own.shape)} in the network"

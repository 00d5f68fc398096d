"""Low-rank adaptation: train a small product of two matrices beside each frozen linear layer (LoRA).

Hu et al. (2022), arXiv:2106.09685. The layer's own weight keeps its name, so that checkpoints fit with and without
it, and `merge_lora` adds the product to it when training is over.
"""

import copy
import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import WeightsError, nearest
from sartransfer.models.network import Network, matching

LAYERS = ("*.attn.qkv", "*.attn.proj")
"""The linear layers that are adapted where nothing else is asked for: those of the attention."""
NAMES = ("lora_a", "lora_b")


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank addition: x W' + b + (alpha / rank) x A' B'.

    It takes over the parameters of `base`. A starts random and B at zero, so that nothing changes at first.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        beside = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.scale * beside

    def merged(self) -> nn.Linear:
        """Return a plain linear layer that answers the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        added = self.scale * (self.lora_b.detach().double() @ self.lora_a.detach().double())
        weight = (self.weight.detach().double() + added).to(self.weight.dtype)
        plain.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)


def is_lora(name: str) -> bool:
    """Say whether a parameter of this name belongs to a low-rank addition."""
    return name.rpartition(".")[2] in NAMES


def add_lora(
    module: nn.Module,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    layers: Sequence[str] = LAYERS,
    dropout: float = 0.0,
    keep: Sequence[str] = (),
) -> list[str]:
    """Put low-rank additions beside linear layers of `module`, and freeze everything else in it.

    Args:
        module: changed in place; usually a network's encoder, so that its decoder goes on learning.
        rank: of the product; its size is rank * (in + out) parameters a layer.
        alpha: the addition is scaled by alpha / rank.
        layers: globs, or names of modules that hold them, of the linear layers that are adapted.
        dropout: before A, in training.
        keep: globs or module names of parameters that go on learning, e.g. ``patch_embed``.

    Returns:
        The names of the adapted layers, in the module's order.

    Raises:
        WeightsError: a pattern that names nothing, a rank that is no saving or below 1, a layer adapted already.
    """
    if rank < 1 or not alpha > 0:
        raise WeightsError(f"lora: {rank=}, {alpha=}: the rank must be 1 or more and alpha above 0.")
    linear = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    chosen = _chosen(linear, layers, "linear layer")
    kept = _chosen(dict(module.named_parameters()), keep, "parameter")
    for name in chosen:
        layer = linear[name]
        if isinstance(layer, LoraLinear):
            raise WeightsError(f"lora: {name} is adapted already; merge_lora first.")
        if rank > min(layer.in_features, layer.out_features):
            raise WeightsError(
                f"lora: rank={rank} is more than {name} ({layer.out_features} x {layer.in_features}) has; "
                "take a smaller one."
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in kept)
    for name in chosen:
        parent, _, last = name.rpartition(".")
        adapted = LoraLinear(linear[name], rank, alpha, dropout).train(linear[name].training)
        setattr(module.get_submodule(parent), last, adapted)
    return chosen


def _chosen(
    named: dict[str, nn.Linear] | dict[str, nn.Parameter], patterns: Sequence[str], what: str
) -> list[str]:
    for pattern in patterns:
        if not matching(named, [pattern]) and pattern not in named:
            raise WeightsError(f"lora: {pattern!r} names no {what}.{nearest(pattern, named)}")
    found = matching(named, patterns) | set(named).intersection(patterns)
    return [name for name in named if name in found]


def merge_lora(module: nn.Module) -> list[str]:
    """Add every low-rank product to its layer's weight, and return the names of those layers.

    The sum is formed in float64; the answers stay the same up to the rounding of the weight's own type. A
    network is then one that was built without `lora`. Frozen weights stay frozen.
    """
    adapted = [(n, m) for n, m in module.named_modules() if isinstance(m, LoraLinear)]
    for name, layer in adapted:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.merged())
    if isinstance(module, Network) and module.built:
        options = {k: v for k, v in module.built["options"].items() if k != "lora"}
        module.built = {**module.built, "options": options}
    return [name for name, _ in adapted]


def without_lora(module: nn.Module) -> nn.Module:
    """Return a module that answers the same without low-rank additions: itself where it has none, else a merged copy.

    For export: an engine need not compute the additions.
    """
    if not any(isinstance(m, LoraLinear) for m in module.modules()):
        return module
    merged = copy.deepcopy(module)
    merge_lora(merged)
    return merged

"""The parts of a segmentation network that engines run, as modules of tensors alone: no padding and no crop."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sartransfer.models.aspp import AsppHead
from sartransfer.models.segmenter import Segmenter
from sartransfer.models.split_stage import Features, band_margin

SAME = 1e-3  # what folding may change, relative to the largest answer; float32 gives 1e-5


class Body(nn.Module):
    """A segmenter's logits at its own resolution, before they are enlarged: (B, C, H, W) -> (B, K, h, w)."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.input_projection, self.encoder = model.input_projection, model.encoder
        self.decoder, self.segmentation_head = model.decoder, model.segmentation_head

    def forward(self, x: Tensor) -> Tensor:
        """Take an image whose sides are multiples of the network's stride."""
        answer: Tensor = self.segmentation_head(self.decoder(self.encoder(self.input_projection(x))))
        return answer


class Encoder(nn.Module):
    """A segmenter's encoder: (B, C, H, W) -> features (B, F, H / 16, W / 16)."""

    gives_channels_last = True  # as `Features` keeps them; an engine that can does so

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.input_projection, self.encoder = model.input_projection, model.encoder

    def forward(self, x: Tensor) -> Tensor:
        """Take an image whose sides are multiples of 16."""
        answer: Tensor = self.encoder(self.input_projection(x))
        return answer


class HeadBand(nn.Module):
    """An ASPP head for a band of rows, every branch with its own margin, batch norms folded.

    The pooling branch comes in already projected: what is constant, or a quarter of the cells, is not worth an engine.
    """

    takes_channels_last = True  # the features, as `Features` keeps them

    def __init__(self, head: AsppHead) -> None:
        super().__init__()
        branches = [_fused(cast(nn.Sequential, b)) for b in head.branches]
        self.rates = [b.dilation[0] if b.kernel_size[0] > 1 else 0 for b in branches]
        self.margin = max(self.rates)
        for branch, rate in zip(branches, self.rates, strict=True):
            branch.padding = (0, rate)
        self.branches = nn.ModuleList(branches)
        whole = _fused(head.project)
        split = sum(b.out_channels for b in branches)
        self.project = nn.Conv2d(split, whole.out_channels, 1, bias=False)
        self.project.weight = nn.Parameter(whole.weight[:, :split].detach().clone())
        self.refine = _fused(head.refine)
        self.refine.padding = (0, 1)
        self.classifier = copy.deepcopy(head.classifier)
        # For `pool`, which runs outside of engines.
        self._pooling, self._kind = head.pooling_branch, head.pooling
        self._pooled = nn.Conv2d(whole.in_channels - split, whole.out_channels, 1)
        self._pooled.weight = nn.Parameter(whole.weight[:, split:].detach().clone())
        self._pooled.bias = nn.Parameter(cast(Tensor, whole.bias).detach().clone())

    def forward(self, x: Tensor, pooled: Tensor, inside: Tensor) -> Tensor:
        """Return the logits (1, K, n, w) of a band.

        Args:
            x: (1, F, n + 2 + 2 margin, w), the features with their margins, zero beyond the scene's edges.
            pooled: (1, C, n + 2, w) or (1, C, 1, 1), what the pooling branch adds to the projection.
            inside: (1, 1, n + 2, 1), 0 for a row beyond the scene's edges and 1 for the others.
        """
        found = []
        for branch, rate in zip(self.branches, self.rates, strict=True):
            spare = self.margin - rate
            found.append(F.relu(branch(x[:, :, spare : x.shape[2] - spare])))
        narrow = F.relu(self.project(torch.cat(found, 1)) + pooled) * inside
        answer: Tensor = self.classifier(F.relu(self.refine(narrow)))
        return answer

    def inputs(
        self, features: Features, first: int, last: int, mean: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `forward`'s arguments for rows [first, last) of a scene's features.

        `mean`: (1, F, 1, 1), the mean of all features for a head with global pooling; else None.
        """
        top, bottom, height = first - 1, last + 1, features.height
        start, stop = max(0, top - self.margin), min(height, bottom + self.margin)
        above, below = start - (top - self.margin), bottom + self.margin - stop
        x = features.read(start, stop)
        if above or below:  # as they lie in memory: channels last
            x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, above, below)).permute(0, 3, 1, 2)
        inside = torch.ones(1, 1, bottom - top, 1, device=features.device)
        inside[:, :, : max(0, -top)] = 0
        inside[:, :, inside.shape[2] - max(0, bottom - height) :] = 0
        with torch.inference_mode():
            if mean is not None:
                return x, self._pooled(self._pooling(mean)), inside
            a, b = max(0, (top // 2 - 1) * 2), min(height, (-(-bottom // 2) + 1) * 2)
            pooled = self._pooling(F.avg_pool2d(features.read(a, b), 2, 2))
            pooled = F.interpolate(pooled, scale_factor=2, mode="bilinear", align_corners=False)
            pooled = pooled[:, :, max(0, top) - a : min(height, bottom) - a]
            pooled = F.pad(pooled, (0, 0, max(0, -top), max(0, bottom - height)))
            return x, self._pooled(pooled), inside

    def mean(self, features: Features) -> Tensor | None:
        """Return what `inputs` wants as the mean over a scene."""
        return features.mean() if self._kind != "average" else None


def head_band(head: AsppHead) -> HeadBand:
    """Return a head for bands, in evaluation mode, on the CPU."""
    band = HeadBand(copy.deepcopy(head).cpu().float().eval()).eval()
    assert band.margin + 1 == band_margin(head)
    return band


def _fused(block: nn.Sequential) -> nn.Conv2d:
    """Return the convolution of convolution, batch norm and more, with the batch norm's numbers in it."""
    return fuse_conv_bn_eval(cast(nn.Conv2d, block[0]), cast(nn.BatchNorm2d, block[1]))


def folded(part: nn.Module, examples: Sequence[tuple[Tensor, ...]]) -> nn.Module:
    """Return a copy of a part on the CPU whose batch norms are folded into the convolutions before them.

    Pairs are found by running the first example: a batch norm whose input is what a convolution gave, each of them
    called once. Where that changes an answer (the convolution's output went elsewhere too), nothing is folded.
    """
    plain = copy.deepcopy(part).cpu().float().eval()
    names = {module: name for name, module in plain.named_modules()}
    made: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def gave(module: nn.Module, _: object, output: Tensor) -> None:
        made.append((output, cast(nn.Conv2d, module)))
        calls[module] = calls.get(module, 0) + 1

    def takes(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        pairs.extend((conv, cast(nn.BatchNorm2d, module)) for output, conv in made if output is inputs[0])

    hooks = [m.register_forward_hook(gave) for m in plain.modules() if type(m) is nn.Conv2d]
    hooks += [m.register_forward_pre_hook(takes) for m in plain.modules() if type(m) is nn.BatchNorm2d]
    with torch.inference_mode():
        wanted: Tensor = plain(*examples[0])
    made.clear()
    for hook in hooks:
        hook.remove()
    ready = copy.deepcopy(plain)
    for conv, norm in pairs:
        if calls[conv] == calls[norm] == 1 and norm.track_running_stats:
            ready.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
            ready.set_submodule(names[norm], nn.Identity())
    with torch.inference_mode():
        found: Tensor = ready(*examples[0])
    same = bool((found - wanted).abs().max() <= SAME * wanted.abs().max().clamp_min(1e-30))
    return ready.eval() if same else plain

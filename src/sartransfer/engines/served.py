"""A segmentation network in an engine: whole for windows, or its two halves for the split stage.

What is on a GPU already is answered there; else images and answers are on the CPU.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.engines.kinds import Engine, Example, Releases, Run, find_engine
from sartransfer.engines.parts import Body, Encoder, HeadBand, folded, head_band
from sartransfer.errors import InputError
from sartransfer.gpu import float32_kept
from sartransfer.models.aspp import AsppHead
from sartransfer.models.segmenter import Segmenter
from sartransfer.models.split_stage import Answers, Features, can_split, decode_with, padded

BAND_ROWS = 128  # rows of features that go through the head at once where a caller does not say


class Served:
    """A network in an engine, to be called like the network: (B, C, H, W) -> logits (B, K, H, W).

    Its parts are loaded when they are first needed, and compared with the network's own then.
    """

    def __init__(
        self, model: nn.Module, name: str, device: str = "cpu", samples: Sequence[Tensor] = ()
    ) -> None:
        """Check that the engine can run here.

        Args:
            model: in evaluation mode.
            name: of an engine in `kinds.ENGINES`.
            device: ``cpu`` or ``cuda``.
            samples: normalized images (1, C, H, W) of the scene; int8 takes its ranges from them.

        Raises:
            InputError: an engine that is not known, not installed, or not for this network or device.
        """
        self.model, self.name, self.device = model, name, device
        self.engine: Engine = find_engine(name, device)
        self.splits = can_split(model)
        self.plain = type(model).forward is Segmenter.forward
        if not self.plain and not self.engine.cuda:  # only torch runs what it cannot be told in tensors
            raise InputError(
                f"engine={name!r} runs networks of an encoder, a decoder and a head; this one answers in a way of "
                "its own. Use 'torch', 'torch-bf16' or 'eager'."
            )
        if name == "int8" and not samples:
            raise InputError("engine='int8' takes its ranges from windows of a scene, and was given none.")
        self.in_channels = int(getattr(model, "in_channels", 1))
        self.stride = int(getattr(model, "stride", 1))
        self._samples = [padded(x.float().cpu(), self.stride) for x in samples]
        self._runs: dict[str, Run] = {}
        self._head: HeadBand | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of a batch, each image in one pass."""
        return torch.cat([self._one(image[None]) for image in self._taken(images)])

    def _taken(self, images: Tensor) -> Tensor:
        return images.float() if self.engine.cuda else images.float().cpu()

    def _one(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if not self.plain:
            return self._part("whole")(image)
        model = cast(Segmenter, self.model)
        if self.splits:
            block = self.encode(image)[0]
            where = str(block.device) if block.is_cuda else None
            with Features(block.shape[1], block.shape[2], block.shape[0], device=where) as features:
                features.write(0, 0, block)
                logits = torch.as_tensor(self.decode(features, BAND_ROWS)).permute(2, 0, 1)[None]
        else:
            logits = self._part("body")(padded(image, self.stride))
        if model.factor > 1:
            logits = F.interpolate(
                logits.contiguous(), scale_factor=model.factor, mode="bilinear", align_corners=False
            )
        return logits[..., :height, :width]

    def encode(self, images: Tensor, beyond: tuple[int, int] | None = None) -> Tensor:
        """Return the encoder's features of an image (1, C, H, W), as `models.split_stage.encode` does."""
        return self._part("encoder")(padded(self._taken(images), self.stride, beyond))

    def decode(self, features: Features, rows: int) -> Answers:
        """Return the logits (h, w, K) of all features, by bands of `rows` rows."""
        run, head = self._part("head"), cast(HeadBand, self._head).to(features.device or "cpu")
        with torch.inference_mode(), float32_kept(self.device):
            mean = head.mean(features)
            return decode_with(
                lambda first, last: run(*head.inputs(features, first, last, mean)),
                features,
                rows,
                head.classifier.out_channels,
            )

    def rest(self) -> None:
        """Give back the memory that the engine keeps from call to call; the next call makes room anew."""
        for run in self._runs.values():
            if isinstance(run, Releases):
                run.release()

    def _part(self, kind: str) -> Run:
        """Return a part in the engine; raises `InputError` where it does not give what the network gives."""
        if kind not in self._runs:
            part, examples = self._made(kind)
            run = self.engine.load(part, examples, self.device)
            self._check(kind, part, run, examples[-1])
            self._runs[kind] = run
        return self._runs[kind]

    def _made(self, kind: str) -> tuple[nn.Module, list[Example]]:
        samples = (
            self._samples if self.device == "cpu" else []
        )  # what is read off them here is read on the CPU
        images: list[Example] = [(x,) for x in samples or _noise(self.in_channels, self.stride)]
        if kind == "whole":
            return folded(self.model, images), images
        model = cast(Segmenter, self.model)
        if kind == "body":
            return folded(Body(model), images), images
        encoder = folded(Encoder(model), images)
        if kind == "encoder":
            return encoder, images
        self._head = head = head_band(cast(AsppHead, model.decoder))
        examples: list[Example] = []
        for (image,) in images:
            with torch.inference_mode():
                block = encoder(image)[0]
            features = Features(block.shape[1], block.shape[2], block.shape[0])
            features.write(0, 0, block)
            examples.append(head.inputs(features, 0, features.height, head.mean(features)))
        return head, examples

    def _check(self, kind: str, part: nn.Module, run: Run, example: Example) -> None:
        """Compare a part with its own in torch, for an image of another size than that it was loaded with."""
        with torch.inference_mode():
            wanted: Tensor = part(*example)
        found = run(*example)
        scale = float(wanted.square().mean().sqrt())
        error = (
            float((found - wanted).square().mean().sqrt()) / max(scale, 1e-30)
            if found.shape == wanted.shape
            else float("inf")
        )
        if not error <= self.engine.error:
            raise InputError(
                f"engine={self.name!r} does not give what the network gives (its {kind}: {error:.2g} of its size, "
                f"{self.engine.error:g} is allowed). Use engine='eager', and tell us of the network."
            )


def _noise(channels: int, stride: int) -> list[Tensor]:
    """Return two images of different sizes, multiples of the stride."""
    generator, side = torch.Generator().manual_seed(0), stride * -(-64 // stride)
    sizes = (side, side + stride), (side + 3 * stride, side)
    return [torch.randn(1, channels, *size, generator=generator) for size in sizes]

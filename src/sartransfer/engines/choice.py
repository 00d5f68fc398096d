"""Which engine a scene is mapped with: the fastest installed one that agrees with the network on its windows."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sartransfer.engines.kinds import AUTO, EAGER, ENGINES, NAMES, candidates
from sartransfer.engines.served import Served
from sartransfer.errors import InputError, one_of
from sartransfer.gpu import float32_kept
from sartransfer.scene import Reading, Window

BOUND = 1e-3  # most that logits may differ, relative to the largest of them (and to 1)
SIDE = 512  # of a window that engines are tried on, in pixels
SAMPLES = 4
PLACES = 4  # such windows are looked for at this many places along a side


@dataclass(frozen=True, slots=True)
class Trial:
    """How an engine did on windows of the scene, against the network as it is."""

    engine: str
    seconds: float
    """Of one window; infinite where the engine was refused."""
    difference: float
    """Largest difference of logits, relative to the largest logit (and to 1)."""
    changed: float
    """Share of the pixels whose class is another."""
    agrees: bool
    """No logit differs by more than `BOUND`, so that classes differ only where the margin is below twice that."""
    reason: str = ""
    """Why it was refused."""

    def describe(self) -> str:
        """Return the trial in words, for a map's metadata."""
        if self.engine == EAGER:
            return EAGER
        if self.reason:
            return f"{self.engine} ({self.reason})"
        return f"{self.engine} (logits differ by {self.difference:.1g}, classes at {self.changed:.2%} of samples)"


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that was chosen, and how all did."""

    engine: str
    network: nn.Module | Served
    """What is to be asked: the network, or the network in the engine."""
    trials: tuple[Trial, ...]

    def describe(self) -> str:
        """Return the chosen engine and how near it is to the network, for a map's metadata."""
        return next((t.describe() for t in self.trials if t.engine == self.engine), self.engine)


def compare_logits(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float, bool]:
    """Return (largest difference relative to the largest logit, share of changed classes, whether that agrees)."""
    scale = max(1.0, *(float(x.abs().max()) for x in wanted))
    difference, changed, pixels, margins_hold = 0.0, 0, 0, True
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape or not bool(one.isfinite().all()):
            return float("inf"), 1.0, False
        difference = max(difference, float((one - other).abs().max()) / scale)
        best = other.topk(2, dim=1).values
        moved = one.argmax(1) != other.argmax(1)
        margins_hold &= bool((best[:, 0] - best[:, 1])[moved].le(2 * BOUND * scale).all())
        changed, pixels = changed + int(moved.sum()), pixels + moved.numel()
    return difference, changed / max(pixels, 1), difference <= BOUND and margins_hold


def sample_windows(read: Callable[[Window], Reading], height: int, width: int, stride: int) -> list[Tensor]:
    """Return the `SAMPLES` fullest of windows (1, C, h, w) spread over the scene, normalized, fullest first."""
    side = max(stride, SIDE // stride * stride)
    found: list[tuple[int, int, Tensor]] = []
    for place, window in enumerate(_spread(height, width, side, stride)):
        data, valid = read(window)
        if seen := int(valid.sum()):
            found.append((-seen, place, torch.from_numpy(data)[None]))
        found = sorted(found, key=lambda f: f[:2])[:SAMPLES]
    return [image for _, _, image in found]


def _spread(height: int, width: int, side: int, stride: int) -> Iterator[Window]:
    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        return sorted({round(last * i / (PLACES - 1)) // stride * stride for i in range(PLACES)})

    for row in starts(height):
        for col in starts(width):
            yield Window(row, col, min(side, height - row), min(side, width - col))


def try_engine(
    model: nn.Module, name: str, device: str, samples: Sequence[Tensor], wanted: Sequence[Tensor]
) -> tuple[Trial, Served | None]:
    """Load an engine, and compare it with what the network answered (`wanted`) to the same samples."""
    try:
        served = Served(model, name, device, samples)
        found = [served(image.to(device)).cpu() for image in samples]
        begun = time.perf_counter()
        served(samples[0].to(device)).cpu()
        seconds = time.perf_counter() - begun
    except Exception as error:  # an engine of another project may fail in any way: another one is taken
        return Trial(name, float("inf"), float("inf"), 1.0, False, f"refused: {error}"), None
    difference, changed, agrees = compare_logits(found, wanted)
    reason = "" if agrees or not ENGINES[name].exact else f"logits differ by {difference:.1g}"
    return Trial(name, seconds, difference, changed, agrees, reason), served


def choose_engine(wanted: str, model: nn.Module, device: str, samples: Sequence[Tensor]) -> Choice:
    """Return the network in the engine of this name, tried on windows of the scene.

    Args:
        wanted: ``eager`` (the network as it is), an engine, or ``auto``: of those in float32 that are installed and
            agree the one that took least time, or the network as it is where none was faster.
        model: in evaluation mode, on `device`.
        device: ``cpu`` or ``cuda``.
        samples: normalized images (1, C, H, W) of the scene, one at least unless ``eager`` is wanted.

    Raises:
        InputError: an engine that is not known, not installed, or does not give what the network gives.
    """
    if wanted not in NAMES:
        raise InputError(one_of("engine", wanted, NAMES))
    if wanted == EAGER:
        return Choice(EAGER, model, ())
    if not samples:
        raise InputError(f"engine={wanted!r}: the scene has no window with a value to try it on.")
    with torch.inference_mode(), float32_kept(device):
        answers = [model(image.to(device)).float().cpu() for image in samples]
        begun = time.perf_counter()
        model(samples[0].to(device)).cpu()
        seconds = time.perf_counter() - begun
    plain = Trial(EAGER, seconds, 0.0, 0.0, True)
    if wanted != AUTO:
        served = Served(model, wanted, device, samples)  # its errors are the caller's
        difference, changed, agrees = compare_logits(
            [served(image.to(device)).cpu() for image in samples], answers
        )
        if served.engine.exact and not agrees:
            raise InputError(
                f"engine={wanted!r} differs from the network by {difference:.2g} on this scene, {BOUND:g} is allowed. "
                "Use engine='eager' or 'auto'."
            )
        return Choice(wanted, served, (Trial(wanted, float("nan"), difference, changed, agrees),))
    trials, ready = [plain], {}
    for name in candidates(device):
        trial, made = try_engine(model, name, device, samples, answers)
        trials.append(trial)
        if made is not None and trial.agrees:
            ready[name] = made
    best = min((t for t in trials if t.agrees), key=lambda t: t.seconds).engine
    network = model if best == EAGER else ready[best]
    return Choice(best, network, tuple(trials))

"""What mapping a scene will take, told before it begins: windows, memory, disk and time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sartransfer.cloud import Layer
from sartransfer.engines.kinds import EAGER
from sartransfer.members import count_windows, plan_members
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.models.placed import WholeImage, measure
from sartransfer.predict import predict_logits
from sartransfer.scene import Window
from sartransfer.streaming import writing_bytes
from sartransfer.windows import EXACT, MEASURED, OVERLAP, SPLIT, ScenePlan, cut, grow, rounded
from sartransfer.wording import duration_words

SIDE = 256  # of the image that is timed, in pixels


@dataclass(frozen=True, slots=True)
class Forecast:
    """What mapping a scene will take."""

    plan: ScenePlan
    """Of the first network."""
    windows: int
    memory: int
    """Bytes beyond what the process holds already, at most."""
    disk: int
    """Bytes beside the map while it grows, at most; the map itself takes less."""
    seconds_per_window: float
    """Measured on a small image with the networks as they are: engines take less."""

    @property
    def seconds(self) -> float:
        """Of the whole scene."""
        return self.windows * self.seconds_per_window

    def describe(self) -> str:
        """Return the forecast in words."""
        number = f"{self.windows} windows" if self.windows > 1 else "one window"
        return (
            f"{number}, {self.plan.describe()}; at most {in_bytes(self.memory)} of memory and {in_bytes(self.disk)} of "
            f"disk; about {duration_words(self.seconds_per_window)} a window, {duration_words(self.seconds)} in all"
        )


def foresee(
    networks: Sequence[Checkpoint],
    layers: Sequence[Layer],
    height: int,
    width: int,
    *,
    views: int | None = None,
    memory: int | None = None,
    device: str = "cpu",
    engine: str = EAGER,
    reading: Callable[[ScenePlan], int] | None = None,
) -> Forecast:
    """Work out what mapping a scene of this size takes; the arguments are those of `mapping.predict_scene`."""
    plans, taken = plan_members(
        networks, height, width, views=views, memory=memory, engine=engine, device=device,
        reading=reading,
    )  # fmt: skip
    windows = count_windows(plans[0], height, width)
    raw = sum(layer.count * layer.kept.itemsize for layer in layers) * height * width
    # The raw layers, and at worst as much again and a third of overviews for the finished files.
    disk = raw + raw * 4 // 3
    taken = max(taken, writing_bytes(layers, height, width, memory))
    disk += sum(plan.features_bytes for plan in plans if plan.method == SPLIT)
    seconds = 0.0
    for network, plan in zip(networks, plans, strict=True):
        answer, looks = _seconds_per_pixel(network, plan.passes, device)
        once = answer * _pixels_seen(plan, height, width) + looks * _with_halo(plan, plan.look, height, width)
        seconds += once * (views or network.views)
    return Forecast(plans[0], windows, taken, disk, seconds / windows)


def _seconds_per_pixel(network: Checkpoint, passes: int, device: str) -> tuple[float, float]:
    """Return what an answer takes, and what all looks before it do, which end at the last thing they ask for."""
    model = network.model.to(device).eval()
    side = rounded(SIDE, model.stride)
    image = torch.zeros(1, model.in_channels, side, side)
    predict_logits(model, image, device=device)  # what is set up on first use does not count
    begun = time.perf_counter()
    predict_logits(model, image, device=device)
    answered = time.perf_counter()
    whole, place = WholeImage(side, side), Window(0, 0, side, side)
    for _ in range(passes):
        measure(model, image[0].to(device), whole, place, place)
        whole.end_pass()
    return (answered - begun) / side**2, (time.perf_counter() - answered) / side**2


def _pixels_seen(plan: ScenePlan, height: int, width: int) -> int:
    """Return how many pixels go through the network for its answer, halos included."""
    if plan.method == OVERLAP:
        return 4 * height * width
    if plan.method not in (EXACT, SPLIT, MEASURED):
        return height * width
    return _with_halo(plan, plan.halo, height, width)


def _with_halo(plan: ScenePlan, halo: int, height: int, width: int) -> int:
    seen = (grow(kept, halo, plan.stride, height, width) for kept in cut(height, width, plan.core))
    return sum(window.height * window.width for window in seen)


def in_bytes(number: float) -> str:
    """Return bytes as people read them: 812 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"

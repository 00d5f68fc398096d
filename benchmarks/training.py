"""Training ResNet-18: images a second in float32, channels last, bf16, and of a frozen encoder that remembers.

    python benchmarks/training.py [--sides 64 128 160] [--batch 32] [--threads 2] [--repeats 3]

One process; each way of a table row runs in turn, `repeats` rounds, medians. A step is forward, cross-entropy, backward
and AdamW's update on a batch that lies in memory. The last columns are a frozen encoder (`training.freeze: encoder`):
its first epoch, and an epoch after that, when the features of all images are remembered (`sartransfer.remembered`).

``--parity`` trains on simulated chips (three kinds of texture under speckle) in float32 and bf16 and prints the test
accuracies. That a remembering encoder ends with the same numbers is tests/test_57_remembered.py.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sartransfer.models import build_model
from sartransfer.models.network import freeze
from sartransfer.recipe import AugmentRecipe
from sartransfer.remembered import remembering
from sartransfer.train import keep_freed_memory

CLASSES = 10
PLAIN = AugmentRecipe(flips=False, rotations=False)


def stepper(images: torch.Tensor, labels: torch.Tensor, way: str) -> Callable[[torch.Tensor], None]:
    """Return a function that trains one step on the images at some places."""
    torch.manual_seed(0)
    model = build_model("resnet18", images.shape[1], CLASSES).train()
    form = torch.contiguous_format if way == "float32" else torch.channels_last
    if way == "frozen":
        freeze(model, ["encoder"])
    model.to(memory_format=form)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    bf16 = way in ("bf16", "frozen")

    def step(places: torch.Tensor) -> None:
        batch = images[places].contiguous(memory_format=form)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(batch)
        functional.cross_entropy(logits.float(), labels[places]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step.model, step.optimizer = model, optimizer  # type: ignore[attr-defined]
    return step


def table(side: int, batch: int, repeats: int, steps: int) -> str:
    """Return a row of images a second."""
    generator = torch.Generator().manual_seed(side)
    images = torch.randn(batch * steps, 3, side, side, generator=generator)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    batches = torch.arange(len(images)).split(batch)
    ways: dict[str, list[float]] = {
        n: [] for n in ("float32", "channels last", "bf16", "frozen, first epoch", "frozen, later")
    }
    made = {name: stepper(images, labels, name) for name in ("float32", "channels last", "bf16")}
    for step in made.values():
        step(batches[0])  # what is set up on first use does not count

    def timed(name: str, step: Any) -> None:
        began = time.perf_counter()
        for places in batches:
            step(places)
        ways[name].append(len(images) / (time.perf_counter() - began))

    for _ in range(repeats):
        for name, step in made.items():
            timed(name, step)
        frozen: Any = stepper(images, labels, "frozen")
        with remembering(frozen.model, PLAIN, batch, "cpu"):
            timed("frozen, first epoch", frozen)
            timed("frozen, later", frozen)
    rates = {name: statistics.median(found) for name, found in ways.items()}
    cells = (f"{rate:,.0f} ({rate / rates['float32']:.1f}x)" for rate in rates.values())
    return f"| {side} | " + " | ".join(cells) + " |"


def chips(number: int, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return chips of three textures under one-look speckle: stripes, blobs and nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, number)
    grid = np.arange(side)
    images = np.empty((number, 1, side, side), dtype=np.float32)
    for image, label in zip(images, labels, strict=True):
        turn, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)
        along = np.cos(turn) * grid[:, None] + np.sin(turn) * grid
        across = np.cos(turn) * grid - np.sin(turn) * grid[:, None]
        texture = [
            np.sin(along / 2 + phase[0]),
            np.sin(along / 3 + phase[0]) * np.sin(across / 3 + phase[1]),
            0 * along,
        ]
        image[0] = 0.7 * texture[label] + np.log(rng.gamma(1.0, 1.0, (side, side)) + 1e-6)
    return torch.from_numpy((images - images.mean()) / images.std()), torch.from_numpy(labels)


def parity(side: int, batch: int, epochs: int) -> None:
    """Print test accuracies of the ways, three seeds each."""
    print("\n| way | test accuracy, three seeds |\n|---|---|")
    images, labels = chips(480, side, 1)
    tests, truth = chips(960, side, 2)
    for way in ("float32", "bf16"):
        found = []
        for seed in range(3):
            step: Any = stepper(images, labels, way)
            order = torch.Generator().manual_seed(seed)
            falling = torch.optim.lr_scheduler.LinearLR(step.optimizer, 1.0, 0.01, epochs)
            for _ in range(epochs):
                for places in torch.randperm(len(images), generator=order).split(batch):
                    step(places)
                falling.step()
            step.model.eval()
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=way == "bf16"):
                guess = torch.cat([step.model(part).argmax(1) for part in tests.split(batch)])
            found.append(float((guess == truth).double().mean()))
        print(f"| {way} | {', '.join(f'{f:.3f}' for f in found)} |", flush=True)


def main() -> None:
    """Print the table."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--sides", type=int, nargs="+", default=[64, 128, 160])
    ask.add_argument("--batch", type=int, default=32)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--steps", type=int, default=6)
    ask.add_argument("--parity", action="store_true")
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    print(f"Images a second, batch {given.batch}, {given.threads} threads; times float32.\n")
    print(
        "| px | float32 | channels last | bf16, channels last | frozen, first epoch | frozen, later epochs |"
    )
    print("|---|---|---|---|---|---|")
    for side in given.sides:
        print(table(side, given.batch, given.repeats, given.steps), flush=True)
    if given.parity:
        parity(48, given.batch, 10)


if __name__ == "__main__":
    main()

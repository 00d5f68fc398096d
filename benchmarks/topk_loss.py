"""Time the smooth top-2 loss, forward and backward, against its peers side by side in one run.

    python benchmarks/topk_loss.py [--peer FOLDER] [--turns 10] [--large]

FOLDER is a checkout of github.com/oval-group/smooth-topk (GPL; imported when given, nothing of it is copied): the
authors' divide and conquer. Without it the peer is our own, the recursion that any other k takes. One thread, batch
256, float32. The contestants take turns; a number is the median CPU time of one call over all turns, warm, which what
else runs on the machine moves little where calls are short; in brackets, the peer's fastest call over our median.
Freed memory is kept, as in trainings. Losses and gradients are checked against each other first. Targets: 15 / 25 / 40
times the peer at n = 7 / 45 to 150 / from 1000, and at most 3 times cross-entropy from n = 45 on.
"""

import argparse
import contextlib
import importlib
import io
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sartransfer.losses import TopKSmoothLoss, topk
from sartransfer.train import keep_freed_memory

BATCH = 256
TURN_SECONDS = 0.1
Loss = Callable[[Tensor, Tensor], Tensor]


def enumeration(n: int) -> Loss:
    """Return the loss by its definition: every pair of classes."""
    pairs = torch.combinations(torch.arange(n))

    def loss(scores: Tensor, target: Tensor) -> Tensor:
        values = scores[:, pairs[:, 0]].add(scores[:, pairs[:, 1]]) / 2
        hit = (pairs == target[:, None, None]).any(2)
        every = torch.logsumexp(values + (~hit).float(), 1)
        return (every - torch.logsumexp(values.masked_fill(~hit, -torch.inf), 1)).mean()

    return loss


def divide_and_conquer(n: int, peer: Path | None) -> Loss:
    """Return the peer's loss, or our recursion for any k."""
    if peer is None:
        settings = TopKSmoothLoss().settings
        return lambda scores, target: topk._any_k(scores, target, None, 2, settings)
    if str(peer) not in sys.path:
        sys.path.insert(0, str(peer))
        # The peer takes `range` from the package `future`, for Python 2.
        future, names = types.ModuleType("future"), types.ModuleType("future.builtins")
        names.range = range  # type: ignore[attr-defined]
        sys.modules.setdefault("future", future)
        sys.modules.setdefault("future.builtins", names)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its temperature
        return importlib.import_module("topk.svm").SmoothTopkSVM(n_classes=n, alpha=1.0, tau=1.0, k=2)


def step(loss: Loss, scores: Tensor, target: Tensor) -> Callable[[], Tensor]:
    """Return one forward and backward."""

    def run() -> Tensor:
        scores.grad = None
        value = loss(scores, target)
        value.backward()
        return value

    return run


def measure(steps: dict[str, Callable[[], Tensor]], turns: int) -> dict[str, list[float]]:
    """Return the CPU microseconds of each call, the contestants taking turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, run in steps.items():
            run()  # the one before has emptied the cache
            until = time.process_time() + TURN_SECONDS
            while True:
                began = time.process_time_ns()
                run()
                times[name].append((time.process_time_ns() - began) / 1e3)
                if time.process_time() > until:
                    break
    return times


def verdict(reached: bool, target: str) -> str:
    """Return whether a target is reached, in words."""
    return f"({target}: {'yes' if reached else 'NO'})"


def check(steps: dict[str, Callable[[], Tensor]], scores: Tensor) -> str:
    """Return the largest differences of losses and gradients from ours; raises where they are not equal."""
    ours = steps["ours"]().item()
    gradient = scores.grad.clone() if scores.grad is not None else torch.zeros(())
    far = [0.0, 0.0]
    for name, run in steps.items():
        if name == "cross-entropy":
            continue
        value = run().item()
        slope = scores.grad if scores.grad is not None else torch.ones(())
        far = [max(far[0], abs(value - ours)), max(far[1], float((slope - gradient).abs().max()) * BATCH)]
    if far[0] > 1e-5 or far[1] > 1e-4:
        raise SystemExit(f"the losses are not equal: {far}")
    return f"{far[0]:.0e}, {far[1]:.0e}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="checkout of oval-group/smooth-topk")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--large", action="store_true", help="n = 10000 too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    peer = "oval-group/smooth-topk" if arguments.peer else "our own recursion, float64 (no --peer was given)"
    print(f"Divide and conquer: {peer}. torch {torch.__version__}, microseconds a call.\n")
    print(
        "| n | pairs | divide and conquer | ours | cross-entropy | times faster | of cross-entropy | off by |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n, target_peer in (
        (7, 15),
        (45, 25),
        (150, 25),
        (1000, 40),
        *([(10000, 40)] if arguments.large else []),
    ):
        generator = torch.Generator().manual_seed(n)
        scores = torch.randn(BATCH, n, generator=generator).requires_grad_()
        target = torch.randint(0, n, (BATCH,), generator=generator)
        losses = {
            "ours": TopKSmoothLoss(ignore_index=-100),  # as cross-entropy has it; 255 is a class here
            "cross-entropy": torch.nn.CrossEntropyLoss(),
            "peer": divide_and_conquer(n, arguments.peer),
        }
        if n <= 150:  # more pairs do not fit the memory
            losses["pairs"] = enumeration(n)
        steps = {name: step(loss, scores, target) for name, loss in losses.items()}
        off = check(steps, scores)
        calls = measure(steps, arguments.turns)
        took = {name: statistics.median(times) for name, times in calls.items()}
        faster, slower = took["peer"] / took["ours"], took["ours"] / took["cross-entropy"]
        least = min(calls["peer"]) / took["ours"]
        goal = verdict(faster >= target_peer, f">= {target_peer}")
        reached = [f"{faster:.1f} ({least:.1f}) {goal}", f"{slower:.2f}"]
        if n >= 45:
            reached[1] += f" {verdict(slower <= 3, '<= 3')}"
        columns = ("pairs", "peer", "ours", "cross-entropy")
        cells = [f"{took[c]:,.0f}" if c in took else "-" for c in columns]
        print(f"| {n} | {' | '.join(cells)} | {' | '.join(reached)} | {off} |", flush=True)


if __name__ == "__main__":
    main()

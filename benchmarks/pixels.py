"""Confusion matrices, speckle filters and a flood mask over many pixels, against their peers, in one run.

    python benchmarks/pixels.py [--pixels 9000000] [--turns 5] [--threads 1] [--keep-freed]

Peers: torchmetrics' MulticlassConfusionMatrix, scikit-learn's confusion_matrix and torch.bincount; the filters as
they are written with scipy.ndimage in float32 (`uniform_filter` for boxes, `correlate` for discs and halves, 49
shifts for Frost's); for the flood mask the same rule with scipy's correlation and labels, and, cheaper and another
rule, with boxes of 7 x 7 pixels instead of its disc of 50 m. A number is the median over turns of the processor time
for a hundred million pixels, which what else runs on the machine moves less; with more threads than one it is the
time on the clock. Freed memory goes back to the system, as C libraries do by themselves; with --keep-freed it is
kept, which helps the peers with their many temporary images more than us. Numba's compiling is told apart. Outputs
are checked first: matrices equal, filters within 1e-5 of scipy's in float64.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

HUNDRED_MILLION = 1e8
LOOKS = 4.4


def main() -> None:
    """Run the contest and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=9_000_000, help="of each image")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of our kernels and of torch; scipy has one")
    parser.add_argument("--keep-freed", action="store_true", help="keep freed memory, as trainings do")
    words = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(words.threads)
    import torch

    torch.set_num_threads(words.threads)
    if words.keep_freed:
        from sartransfer.train import keep_freed_memory

        keep_freed_memory()
    clock = time.process_time if words.threads == 1 else time.perf_counter
    print(f"{words.pixels:,} pixels, {words.threads} thread(s), seconds for 1e8 pixels\n")
    print("| | sartransfer | peer | peer's seconds | times | target |\n|---|---|---|---|---|---|")
    confusion(words.pixels, words.turns, clock)
    side = int(words.pixels**0.5)
    filters(side, words.turns, clock)
    flood(side, words.turns, clock)


def measure(
    contestants: dict[str, Callable[[], Any]], turns: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Let contestants take turns; the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            began = clock()
            run()
            seconds[name].append(clock() - began)
    return {name: statistics.median(s) for name, s in seconds.items()}


def row(what: str, found: dict[str, float], pixels: int, targets: dict[str, str] | None = None) -> None:
    """Print one line for each peer."""
    scale = HUNDRED_MILLION / pixels
    ours = found["sartransfer"]
    for name, seconds in found.items():
        if name != "sartransfer":
            target = (targets or {}).get(name, "")
            print(
                f"| {what} | {ours * scale:.3g} | {name} | {seconds * scale:.3g} | {seconds / ours:.1f}x | {target} |",
                flush=True,
            )


def confusion(pixels: int, turns: int, clock: Callable[[], float]) -> None:
    """Seven classes, a tenth of the target ignored."""
    import numpy as np
    import torch
    from sklearn.metrics import confusion_matrix as scikit_learn
    from torchmetrics.classification import MulticlassConfusionMatrix

    from sartransfer.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    target = rng.integers(0, 7, pixels).astype(np.uint8)
    guess = np.where(rng.random(pixels) < 0.8, target, rng.integers(0, 7, pixels)).astype(np.uint8)
    target[rng.random(pixels) < 0.1] = 255
    few = slice(0, pixels // 8)  # scikit-learn sorts: a part of the pixels is enough to know its pace
    for dtype in ("uint8", "int64"):
        t, p = target.astype(dtype), guess.astype(dtype)
        tensors = torch.from_numpy(t.astype(np.int64)), torch.from_numpy(p.astype(np.int64))
        metric = MulticlassConfusionMatrix(7, ignore_index=255, validate_args=False)

        def bincount(tensors: tuple[torch.Tensor, torch.Tensor] = tensors) -> torch.Tensor:
            keep = tensors[0] != 255
            return torch.bincount(tensors[0][keep] * 7 + tensors[1][keep], minlength=49).reshape(7, 7)

        def peer(
            metric: MulticlassConfusionMatrix = metric, tensors: tuple[torch.Tensor, torch.Tensor] = tensors
        ) -> torch.Tensor:
            metric.reset()
            metric.update(tensors[1], tensors[0])
            return metric.compute()

        ours = confusion_matrix(t, p, 7, ignore_index=255)  # compiled here
        assert (ours == peer().numpy()).all()
        assert (ours == bincount().numpy()).all()
        found = measure(
            {
                "sartransfer": lambda t=t, p=p: confusion_matrix(t, p, 7, ignore_index=255),
                "torchmetrics": peer,
                "torch.bincount": bincount,
            },
            turns,
            clock,
        )
        if dtype == "uint8":
            known = t[few] != 255
            began = clock()
            scikit_learn(t[few][known], p[few][known])
            found["scikit-learn"] = (clock() - began) * 8
        row(f"confusion matrix, {dtype}", found, pixels, {"torchmetrics": "150x"})


def filters(side: int, turns: int, clock: Callable[[], float]) -> None:
    """Filters over 7 x 7 pixels of gamma speckle over fields."""
    import numpy as np

    from sartransfer.radar import filters as ours

    rng = np.random.default_rng(0)
    fields = np.kron(10 ** rng.uniform(-2, 0, (-(-side // 250),) * 2), np.ones((250, 250)))[:side, :side]
    power = (fields * rng.standard_gamma(LOOKS, (side, side)) / LOOKS).astype(np.float32)
    part = power[:700, :700]
    contest: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
        "focal mean, disc of 3 px": (lambda x: ours.focal_mean(x, radius=3.0), scipy_disc, ""),
        "Lee": (lambda x: ours.lee(x, LOOKS), scipy_lee, "20x"),
        "gamma-MAP": (lambda x: ours.gamma_map(x, LOOKS), scipy_gamma_map, "20x"),
        "Frost": (ours.frost, scipy_frost, "30x"),
        "refined Lee": (lambda x: ours.refined_lee(x, LOOKS), scipy_refined_lee, "40x"),
    }
    for name, (mine, theirs, target) in contest.items():
        began = time.process_time()
        mine(power)
        first = time.process_time() - began
        truth, inner = (
            theirs(part.astype(np.float64)),
            (slice(8, -8),) * 2,
        )  # scipy mirrors edges, we leave out
        worst = np.abs(mine(part)[inner] / truth[inner] - 1).max()
        assert worst < 1e-5, (name, worst)
        found = measure(
            {
                "sartransfer": lambda mine=mine: mine(power),
                "scipy, float32": lambda theirs=theirs: theirs(power),
            },
            turns,
            clock,
        )
        row(name, found, power.size, {"scipy, float32": target})
        print(f"<!-- {name}: first call {first:.1f} s with compiling; worst difference {worst:.1g} -->")


def scipy_disc(x: Any) -> Any:
    """Mean over 29 pixels by correlation."""
    import numpy as np
    from scipy.ndimage import correlate

    y, z = np.mgrid[-3:4, -3:4]
    disc = (y * y + z * z <= 9).astype(x.dtype)
    return correlate(x, disc / disc.sum())


def scipy_moments(x: Any) -> tuple[Any, Any]:
    """Mean and variance over 7 x 7 pixels."""
    import numpy as np
    from scipy.ndimage import uniform_filter

    mean = uniform_filter(x, 7)
    return mean, np.maximum(uniform_filter(x * x, 7) - mean * mean, 0)


def scipy_lee(x: Any) -> Any:
    """Lee's filter as it is usually written."""
    import numpy as np

    mean, variance = scipy_moments(x)
    noise = x.dtype.type(1 / LOOKS)
    share = np.maximum(variance - noise * mean * mean, 0) / np.maximum(variance * (1 + noise), 1e-30)
    return mean + share * (x - mean)


def scipy_gamma_map(x: Any) -> Any:
    """The gamma-MAP filter."""
    import numpy as np

    mean, variance = scipy_moments(x)
    noise, looks = x.dtype.type(1 / LOOKS), x.dtype.type(LOOKS)
    c2 = variance / (mean * mean)
    a = (1 + noise) / np.where(c2 > noise, c2 - noise, 1)
    b = mean * (a - looks - 1)
    likeliest = (b + np.sqrt(b * b + 4 * a * looks * mean * x)) / (2 * a)
    return np.where(c2 <= noise, mean, np.where(c2 >= 2 * noise, x, likeliest))


def scipy_frost(x: Any) -> Any:
    """Frost's filter by 49 shifts."""
    import numpy as np

    mean, variance = scipy_moments(x)
    decay = -2 * variance / (mean * mean)
    padded = np.pad(x, 3, mode="symmetric")
    above, below = np.zeros_like(x), np.zeros_like(x)
    for dy in range(7):
        for dx in range(7):
            weight = np.exp(decay * x.dtype.type(np.hypot(dy - 3, dx - 3)))
            above += weight * padded[dy : dy + x.shape[0], dx : dx + x.shape[1]]
            below += weight
    return above / below


def scipy_refined_lee(x: Any) -> Any:
    """The refined Lee filter: sums over eight halves by correlation, and the one along the edge."""
    import numpy as np
    from scipy.ndimage import correlate, uniform_filter

    from sartransfer.radar.directional import EDGES

    y, z = np.mgrid[-3:4, -3:4]
    halves = [z <= 0, z >= 0, z <= y, z >= y, y <= 0, y >= 0, z <= -y, z >= -y]
    means, middle = uniform_filter(x, 3), uniform_filter(x, 3)

    def area(i: int, j: int) -> Any:
        return np.roll(means, (-2 * (i - 1), -2 * (j - 1)), (0, 1))

    steepest, chosen = np.full(x.shape, -1, x.dtype), np.zeros(x.shape, np.int8)
    for number, (brighter, darker, (one, other)) in enumerate(EDGES):
        slope = np.abs(sum(area(*p) for p in brighter) - sum(area(*p) for p in darker))
        first = np.abs(middle - area(*one)) <= np.abs(middle - area(*other))
        chosen = np.where(slope > steepest, np.where(first, 2 * number, 2 * number + 1), chosen)
        steepest = np.maximum(steepest, slope)
    mean, squares = np.zeros_like(x), np.zeros_like(x)
    for number, half in enumerate(halves):
        kernel = half.astype(x.dtype) / half.sum()
        here = chosen == number
        mean = np.where(here, correlate(x, kernel), mean)
        squares = np.where(here, correlate(x * x, kernel), squares)
    variance, noise = np.maximum(squares - mean * mean, 0), x.dtype.type(1 / LOOKS)
    share = np.maximum(variance - noise * mean * mean, 0) / np.maximum(variance * (1 + noise), 1e-30)
    return mean + share * (x - mean)


def flood(side: int, turns: int, clock: Callable[[], float]) -> None:
    """The recommended practice's mask: two images in dB, permanent water, slope, connected pixels."""
    import numpy as np

    from sartransfer.radar.flood import Layers, Rule, SlopeUnit, map_flood
    from sartransfer.radar.units import parse_unit

    rng = np.random.default_rng(0)

    def decibels() -> Any:
        return (
            10 * np.log10(0.1 * rng.standard_gamma(LOOKS, (side, side), dtype=np.float32) / LOOKS)
        ).astype(np.float32)

    before, after = decibels(), decibels()
    wet = np.kron(rng.random((-(-side // 50),) * 2) < 0.1, np.ones((50, 50), bool))[:side, :side]
    after[wet] -= 8
    months = (12 * (rng.random((side, side)) < 0.02)).astype(np.float32)
    slope = (8 * rng.random((side, side))).astype(np.float32)
    layers, unit = Layers(months, slope, SlopeUnit.DEGREES), parse_unit("sigma0_db")

    def ours(n: int = side) -> Any:
        cut = (slice(0, n),) * 2
        part = Layers(months[cut], slope[cut], SlopeUnit.DEGREES) if n < side else layers
        return map_flood(before[cut], after[cut], unit, pixel_size=(10.0, 10.0), layers=part)

    n = min(side, 2000)
    ours()  # compiled here
    same = scipy_flood(before[:n, :n], after[:n, :n], months[:n, :n], slope[:n, :n])
    inner = (slice(6, -6),) * 2
    differ = float((same[inner] != (ours(n).provenance == Rule.FLOODED)[inner]).mean())
    assert differ < 1e-5, differ  # float32 sums at the threshold
    images = before, after, months, slope
    found = measure(
        {
            "sartransfer": ours,
            "scipy, the same disc": lambda: scipy_flood(*images),
            "scipy, a box of 7 x 7 instead": lambda: scipy_flood(*images, box=True),
        },
        turns,
        clock,
    )
    row("flood mask", found, before.size, {"scipy, a box of 7 x 7 instead": "8x"})
    print(f"<!-- flood mask: {differ:.1g} of the pixels differ from scipy's in float32 -->")


def scipy_flood(before: Any, after: Any, months: Any, slope: Any, *, box: bool = False) -> Any:
    """The same rule with scipy: True where flooded."""
    import numpy as np
    from scipy.ndimage import correlate, label, uniform_filter

    y, x = np.mgrid[-5:6, -5:6]
    disc = (y * y + x * x <= 25).astype(np.float32)
    disc /= disc.sum()

    def smooth(image: Any) -> Any:
        return uniform_filter(image, 7) if box else correlate(image, disc)

    candidate = (smooth(after) / smooth(before) > 1.25) & ~(months >= 10)
    labels, number = label(candidate, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=number + 1)
    sizes[0] = 0
    return candidate & (sizes[labels] >= 8) & (slope < 5)


if __name__ == "__main__":
    main()

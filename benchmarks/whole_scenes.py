"""Whole scenes: one eager pass, our engines and three libraries' loops, same weights and scene, in one run.

    python benchmarks/whole_scenes.py --size 4096 --peers FOLDER --figure benchmarks/figures/whole_scenes.png

Each method runs in a process of its own: seconds from the file to the classes in memory (median over repeats; by the
clock and of the processor, which other work on the machine disturbs less), the peak of the process's memory (VmHWM)
beyond what it held before anything was read or loaded, and the pixels whose class is not that of one eager pass.
``--peers`` is a folder made with ``pip install --target`` of monai, torchgeo and terratorch; what is missing is
left out, and it is said why.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("eager", "torch", "onnxruntime", "openvino", "torch-bf16", "openvino-bf16", "int8")
HALO = 704  # logits of ResNet-18 + ASPP with rates 12, 24, 36 look 681 pixels to each side
METHODS = {
    "one pass, eager": "pass:eager",
    "one pass, batch norms folded": "pass:torch",
    **{f"split stage, {e}": f"split:{e}" for e in OURS},
    "halo of 704 px, openvino": "halo:openvino",
    "halo of 704 px, onnxruntime": "halo:onnxruntime",
    "torchgeo GridGeoSampler 512 / 384": "peer:torchgeo",
    "terratorch tiled_inference 512 / 448": "peer:terratorch",
    "MONAI sliding_window_inference 512, overlap .25": "peer:monai",
}
"""What the table says -> what the child is asked for."""


def make_scene(folder: Path, size: int) -> None:
    """Write a scene of patches with speckle (2 bands, dB) and a network with random weights."""
    import rasterio
    import torch
    from rasterio.transform import from_origin

    from sartransfer.models import build_model, write_checkpoint

    rng = np.random.default_rng(0)
    coarse = rng.normal(-14, 3, size=(2, size // 64 + 2, size // 64 + 2)).astype(np.float32)
    place = {"crs": "EPSG:32633", "transform": from_origin(500000, 8000000, 40, 40)}
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", count=2, height=size, width=size, dtype="float32",
        tiled=True, blockxsize=512, blockysize=512, bigtiff="if_safer", **place,
    ) as file:  # fmt: skip
        for row in range(0, size, 512):
            rows = min(512, size - row)
            at = (np.arange(row, row + rows)[:, None] // 64, np.arange(size)[None] // 64)
            looks = rng.standard_gamma(4.4, size=(2, rows, size)).astype(np.float32) / 4.4
            values = coarse[:, at[0], at[1]] + 10 * np.log10(looks)
            window = rasterio.windows.Window(0, row, size, rows)
            file.write(values.astype(np.float32), window=window)
        for number, name in enumerate(("sigma0_hh_db", "sigma0_hv_db")):
            file.set_band_description(number + 1, name)
    torch.manual_seed(0)
    model = build_model("resnet18-aspp", 2, 3, pooling="global")
    with torch.no_grad():
        for _ in range(3):  # batch norms that have seen numbers
            model(torch.randn(2, 2, 256, 256))
    contract = [
        {"name": f"sigma0_{p}_db", "unit": "sigma0_db", "polarization": p.upper(), "mean": -14.0, "std": 4.0}
        for p in ("hh", "hv")
    ]
    write_checkpoint(
        folder / "best", model, {"classes": ["water", "young ice", "old ice"], "contract": contract}
    )


def status(key: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    with Path("/proc/self/status").open(encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


class Child:
    """One method on one scene."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        from sartransfer import predict
        from sartransfer.models import read_checkpoint
        from sartransfer.readers import open_scene

        torch.set_num_threads(threads)
        self.folder, self.predict = folder, predict
        self.checkpoint = read_checkpoint(folder / "best.json")
        self.model = self.checkpoint.model.eval()
        self.scene = open_scene(folder / "scene.tif")
        with torch.inference_mode():
            self.model(torch.zeros(1, 2, 64, 64))
        self.torch = torch
        self.before = status("VmRSS")

    def image(self) -> Any:
        """The whole scene, normalized: (1, 2, H, W)."""
        return self.torch.from_numpy(self.checkpoint.contract.read(self.scene).data)[None]

    def ready(self, method: str, memory: int | None) -> Callable[[], Any]:
        """Load what a method needs; returns what gives the classes (H, W) uint8."""
        kind, _, name = method.partition(":")
        if kind == "peer":
            return {"torchgeo": self.torchgeo, "terratorch": self.terratorch, "monai": self.monai}[name]()
        if kind == "pass":
            network = self.model
            if name == "torch":
                from sartransfer.engines.parts import Body, folded

                body = folded(Body(self.model), [(self.torch.zeros(1, 2, 64, 96),)])
                body = body.to(memory_format=self.torch.channels_last)

                def network(x: Any) -> Any:
                    x = x.contiguous(memory_format=self.torch.channels_last)
                    return self.torch.nn.functional.interpolate(body(x), scale_factor=16, mode="bilinear")

            return lambda: network(self.image())[0].argmax(0).to(self.torch.uint8).numpy()
        self.predict.ONE_PASS_PIXELS = 1
        side = self.scene.height, self.scene.width
        if kind == "halo":
            return self.halo(name)
        plan = self.predict.plan_scene(self.model, *side, engine=name, memory=memory)
        print(f"{method}: {plan.describe()}, {plan.memory >> 20} MiB told", file=sys.stderr)
        chosen = self.predict.open_engine(name, self.checkpoint, self.model, self.scene, "cpu")
        print(f"{method}: {chosen.describe()}", file=sys.stderr)

        def split() -> Any:
            out = np.empty(side, dtype=np.uint8)
            for window, labels, _ in self.predict.predict_classes(
                self.checkpoint, self.model, self.scene, "cpu", plan=plan, engine=chosen
            ):
                out[window.slices] = labels
            return out

        return split

    def halo(self, name: str) -> Callable[[], Any]:
        """Exact windows with the halo of the whole network, given the scene's mean of features."""
        from sartransfer.models.split_stage import Features
        from sartransfer.windows import cut, grow, inside

        chosen = self.predict.open_engine(name, self.checkpoint, self.model, self.scene, "cpu")
        served, size = chosen.network, (self.scene.height, self.scene.width)
        total, cells = 0, 0  # the mean, which windows cannot know; not timed
        for kept in cut(*size, 1024):
            seen = grow(kept, 112, 16, *size)
            block = served.encode(
                self.torch.from_numpy(self.checkpoint.contract.read(self.scene, seen).data)[None]
            )
            rows, cols = (slice(s.start // 16, -(-s.stop // 16)) for s in inside(kept, seen))
            part = block[0, :, rows, cols]
            total, cells = total + part.double().sum((1, 2)), cells + part[0].numel()
        mean = (total / cells).float()[None, :, None, None]
        Features.mean = lambda features: mean  # type: ignore[method-assign]

        def windows() -> Any:
            out = np.empty(size, dtype=np.uint8)
            for kept in cut(*size, 2048):
                seen = grow(kept, HALO, 16, *size)
                image = self.torch.from_numpy(self.checkpoint.contract.read(self.scene, seen).data)[None]
                logits = served(image)[0][(slice(None), *inside(kept, seen))]
                out[kept.slices] = logits.argmax(0)
            return out

        return windows

    def monai(self) -> Callable[[], Any]:
        from monai.inferers import sliding_window_inference

        return lambda: (
            sliding_window_inference(self.image(), (512, 512), 4, self.model, overlap=0.25)[0]
            .argmax(0)
            .numpy()
        )

    def terratorch(self) -> Callable[[], Any]:
        # Its packages' own imports load everything they know; this one function needs two files of them.
        root = next(Path(p) for p in sys.path if (Path(p) / "terratorch").is_dir())
        for name in ("terratorch", "terratorch.models", "terratorch.tasks"):
            module = types.ModuleType(name)
            module.__path__ = [str(root / name.replace(".", "/"))]
            sys.modules[name] = module
        import_module("terratorch.registry")  # first: its modules import each other in a circle
        from terratorch.tasks.tiled_inference import tiled_inference

        return lambda: (
            tiled_inference(self.model, self.image(), crop=512, stride=448, batch_size=4)[0].argmax(0).numpy()
        )

    def torchgeo(self) -> Callable[[], Any]:
        from torch.utils.data import DataLoader
        from torchgeo.datasets import RasterDataset, stack_samples
        from torchgeo.samplers import GridGeoSampler

        class Scenes(RasterDataset):  # type: ignore[misc]
            filename_glob = "scene.tif"

        size, step, torch = 512, 384, self.torch
        mean, std = -14.0, 4.0

        def loop() -> Any:
            dataset = Scenes(str(self.folder))
            out = np.zeros((self.scene.height, self.scene.width), dtype=np.uint8)
            sampler = GridGeoSampler(dataset, size=size, stride=step)
            places = list(sampler)
            loader = DataLoader(dataset, sampler=sampler, batch_size=1, collate_fn=stack_samples)
            for (x, y, _), sample in zip(places, loader, strict=True):
                labels = self.model((sample["image"] - mean) / std)[0].argmax(0).to(torch.uint8).numpy()
                col, row = round((x.start - 500000) / 40), round((8000000 - y.stop) / 40)
                top, left = max(0, -row), max(0, -col)
                part = out[max(0, row) : row + size, max(0, col) : col + size]
                part[:] = labels[top : top + part.shape[0], left : left + part.shape[1]]
            return out

        return loop


def child(folder: Path, method: str, repeats: int, threads: int, memory: int | None, keep: str) -> None:
    """Run one method and print what was measured as JSON."""
    import torch

    warnings.simplefilter("ignore")
    one = Child(folder, threads)
    with torch.inference_mode():
        begun = time.perf_counter()
        ask = one.ready(method, memory)
        loaded, seconds, processor = time.perf_counter() - begun, [], []
        for _ in range(repeats):
            begun, worked = time.perf_counter(), time.process_time()
            classes = ask()
            seconds.append(time.perf_counter() - begun)
            processor.append(time.process_time() - worked)
    peak = status("VmHWM") - one.before
    np.save(folder / f"{keep}.npy", np.asarray(classes, dtype=np.uint8))
    middle = statistics.median_low
    print(json.dumps({"s": middle(seconds), "cpu": middle(processor), "load": loaded, "peak": peak}))


def ask(
    folder: Path, method: str, words: argparse.Namespace, memory: int | None, keep: str
) -> dict[str, Any] | str:
    """Run a method in a process of its own; returns what it measured, or why it could not."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", method, "--folder", str(folder)]
    command += ["--repeats", str(words.repeats), "--threads", str(words.threads), "--keep", keep]
    command += ["--memory", str(memory)] if memory else []
    command += ["--peers", words.peers] if words.peers else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:160]
    for line in done.stderr.splitlines():
        if line.startswith(method):
            print(f"  {line}", file=sys.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def scene_of(size: int) -> Iterator[Path]:
    """A temporary folder with a scene and a network."""
    with tempfile.TemporaryDirectory(prefix="whole-scenes-") as name:
        make_scene(Path(name), size)
        yield Path(name)


def table(words: argparse.Namespace) -> None:
    """Print every method on one scene as a table."""
    print(f"Scene {words.size}^2, 2 bands, 3 classes; {words.threads} thread(s), {words.repeats} repeats.\n")
    print(
        "| method | s | against one pass | CPU s | against | peak MB | share | pixels that differ | load s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with scene_of(words.size) as folder:
        reference, memory = None, None
        for title, method in METHODS.items():
            if words.only and not any(w in title for w in words.only) and reference is not None:
                continue
            if method.startswith("peer") and not words.peers:
                print(f"| {title} | left out: no --peers |", flush=True)
                continue
            found = ask(folder, method, words, memory if method.startswith("split") else None, "found")
            if isinstance(found, str) and method.startswith("split") and memory:
                print(f"  {title}: {found}; without a limit:", file=sys.stderr)
                found = ask(folder, method, words, None, "found")
            if isinstance(found, str):
                print(f"| {title} | left out: {found} |", flush=True)
                continue
            classes = np.load(folder / "found.npy")
            if reference is None:
                reference, base = classes, found
                memory = found["peak"] // 4 if words.quarter else None
            wrong = int((classes != reference).sum())
            told = "reference" if found is base else f"{wrong} ({wrong / classes.size:.2g})"
            print(
                f"| {title} | {found['s']:.2f} | {base['s'] / found['s']:.1f}x | {found['cpu']:.2f} | "
                f"{base['cpu'] / found['cpu']:.1f}x | {found['peak'] / 1e6:.0f} | "
                f"{found['peak'] / base['peak']:.2f} | {told} | {found['load']:.1f} |",
                flush=True,
            )


def scale(words: argparse.Namespace) -> None:
    """Draw seconds and memory over scene size, for one eager pass and the split stage in two engines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {"one pass, eager": "pass:eager", "split stage, eager": "split:eager"}
    kinds |= {f"split stage, {e}": f"split:{e}" for e in ("openvino", "openvino-bf16")}
    sizes = [round(words.smallest * k**0.5 / 64) * 64 for k in (1, 2, 4, 8, 16)]
    found: dict[str, list[tuple[float, float, float]]] = {title: [] for title in kinds}
    limit = words.limit << 20
    for size in sizes:
        with scene_of(size) as folder:
            for title, method in kinds.items():
                one = ask(folder, method, words, limit if method.startswith("split") else None, "found")
                if isinstance(one, str):
                    print(f"{size}^2 {title}: left out: {one}", file=sys.stderr)
                    continue
                found[title].append((size * size / 1e6, one["cpu"], one["peak"] / 1e6))
                print(f"{size}^2 {title}: {found[title][-1]}", flush=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for title, rows in found.items():
        for axis, values in zip(axes, (1, 2), strict=True):
            axis.plot([r[0] for r in rows], [r[values] for r in rows], "o-", label=title)
    axes[0].set(xlabel="megapixels", ylabel="seconds of the processor", xlim=(0, None), ylim=(0, None))
    axes[1].set(xlabel="megapixels", ylabel="peak memory, MB", xlim=(0, None), ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"ResNet-18 + ASPP over scene size, {words.threads} thread(s), {words.limit} MiB allowed")
    Path(words.figure).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(words.figure, dpi=120)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096, help="side of the scene; 0: no table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", help="folder of pip install --target with monai, torchgeo, terratorch")
    parser.add_argument("--only", nargs="*", help="words of the methods to run (one eager pass always runs)")
    parser.add_argument("--quarter", action="store_true", help="let ours take a quarter of one pass's memory")
    parser.add_argument("--figure", help="draw seconds and memory over 1 to 16 times --smallest squared")
    parser.add_argument("--smallest", type=int, default=1536)
    parser.add_argument(
        "--limit", type=int, default=768, help="MiB that the split stage may take in the figure"
    )
    for hidden in ("--child", "--folder", "--keep"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.peers:
        sys.path.append(str(Path(words.peers).resolve()))
    if words.child:
        child(Path(words.folder), words.child, words.repeats, words.threads, words.memory, words.keep)
        return
    if words.size:
        table(words)
    if words.figure:
        scale(words)


if __name__ == "__main__":
    main()

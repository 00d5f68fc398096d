"""Random training patches from a large GeoTIFF, against torchgeo's RandomGeoSampler, in one run.

    python benchmarks/random_patches.py [--peer PYTHON] [--size 10000] [--seconds 4] [--turns 3] [--train 10]

PYTHON is the interpreter of an environment of its own with torchgeo (``python -m venv peers``; ``peers/bin/pip
install torchgeo requests``); without it that contestant is left out, and the table says so. The scene: two bands of
16-bit counts of 4.4 looks, as a GRD product has them, deflated in tiles of 512 (predictor 2). Each contestant reads
random windows of 256 and 1000 pixels for some seconds, in turns; a number is the median over the turns of patches per
second of processor time, one thread, which what else runs on the machine moves less. GDAL's block cache is 64 MB,
where tiles are decoded anew for each patch ("cold"), or 2000 MB, which holds a scene of this size ("hot": it is
filled first). Ours are normalized float32 in a batch that is used again; torchgeo's are float32 as they are. First
windows are compared by value: decoded files against the GeoTIFF, bit for bit, and torchgeo's sums against it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIDES = (256, 1000)
BATCHES = {256: 8, 1000: 2}  # patches in the batch that is used again
MEAN, STD = 300.0, 150.0

PEER = """
import json, os, sys, time, warnings
warnings.filterwarnings("ignore")
os.environ["GDAL_CACHEMAX"] = sys.argv[2]
import torch
torch.set_num_threads(1)
from torchgeo.datasets import RasterDataset
from torchgeo.samplers import RandomGeoSampler

class Scene(RasterDataset):
    filename_glob = "scene.tif"
    is_image = True

data = Scene(sys.argv[1])
for line in sys.stdin:
    order = json.loads(line)
    sampler = RandomGeoSampler(data, size=order["side"], length=10**6)
    if order.get("fill"):
        data[data.bounds]
    if "check" in order:
        found = []
        for box, _ in zip(sampler, range(order["check"])):
            image = data[box]["image"]
            x, y = (box[0].start, box[1].stop) if isinstance(box, tuple) else (box.minx, box.maxy)
            found.append([x, y, list(image.shape), float(image.double().sum())])
        print(json.dumps(found), flush=True)
        continue
    done, began, clock = 0, time.process_time(), time.perf_counter()
    for box in sampler:
        data[box]["image"].float()
        done += 1
        if time.perf_counter() - clock > order["seconds"]:
            break
    print(json.dumps(done / (time.process_time() - began)), flush=True)
"""

OURS = """
import json, os, sys, time
os.environ["GDAL_CACHEMAX"] = sys.argv[3]
from pathlib import Path
import numpy as np
from random_patches import catalog, contract
from sartransfer.data.patches import SceneStore
from sartransfer.scene import Window

catalog = catalog(Path(sys.argv[1]))
kind = sys.argv[2]
began, clock = time.process_time(), time.perf_counter()
store = SceneStore(catalog, catalog.entries, contract(), cache=kind, cache_bytes=0)
store.prepare()
print(json.dumps([time.process_time() - began, time.perf_counter() - clock]), flush=True)
height, width = store.shape(0)
rng = np.random.default_rng(0)
for line in sys.stdin:
    order = json.loads(line)
    side, batch = order["side"], order["batch"]
    images, valid = np.zeros((batch, 2, side, side), np.float32), np.zeros((batch, side, side), bool)
    store.read_into(0, Window(0, 0, side, side), images[0], valid[0])  # kernels are compiled here
    done, began, clock = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - clock < order["seconds"]:
        for k in range(batch):
            row, col = rng.integers(height - side), rng.integers(width - side)
            store.read_into(0, Window(int(row), int(col), side, side), images[k], valid[k])
        done += batch
    print(json.dumps(done / (time.process_time() - began)), flush=True)
"""


def contract():
    """Two bands of counts, normalized."""
    from sartransfer.contract import InputBand, InputContract

    return InputContract(tuple(InputBand(n, "digital_number", mean=MEAN, std=STD) for n in ("HH", "HV")))


def catalog(path: Path):
    """The scene alone, as a chip without a label."""
    from sartransfer.catalog import Asset, Catalog, Entry
    from sartransfer.radar.units import parse_unit
    from sartransfer.scene import Band

    bands = tuple(Band(n, parse_unit("digital_number")) for n in ("HH", "HV"))
    entry = Entry("scene", (Asset(path, bands=bands),), category="sea", split="train")
    return Catalog("scene", (entry,), ("sea", "ice"))


def make_scene(path: Path, size: int) -> None:
    """Write counts of 16 bits: fields of several brightnesses under speckle of 4.4 looks, band by band of rows."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=size, width=size, dtype="uint16", crs="EPSG:32633",
        transform=from_origin(500000, 8000000, 40, 40), tiled=True, blockxsize=512, blockysize=512,
        compress="deflate", predictor=2, zlevel=6,
    ) as file:  # fmt: skip
        for row in range(0, size, 512):
            rows = min(512, size - row)
            fields = 150 + 250 * rng.random((2, 1, -(-size // 200)))
            amplitude = np.repeat(fields, 200, axis=2)[:, :, :size]
            speckle = np.sqrt(rng.standard_gamma(4.4, (2, rows, size), dtype=np.float32) / 4.4)
            block = (amplitude * speckle).astype(np.uint16)
            file.write(block, window=rasterio.windows.Window(0, row, size, rows))


class Contestant:
    """A process that answers orders, a line each."""

    def __init__(self, python: str, code: str, *words: object) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, "-c", code, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def answer(self):
        """Read one line."""
        return json.loads(self.process.stdout.readline())

    def ask(self, **order):
        """Give an order and wait for its answer."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def check(path: Path, kinds, peer: Contestant | None) -> None:
    """Compare windows of each contestant with the GeoTIFF's own."""
    import rasterio

    from sartransfer.data.patches import SceneStore
    from sartransfer.scene import Window

    scenes = catalog(path)
    plain = SceneStore(scenes, scenes.entries, contract(), cache_bytes=0)
    rng = np.random.default_rng(1)
    for kind in kinds:
        store = SceneStore(scenes, scenes.entries, contract(), cache=kind)
        for side in (*SIDES, 1, 129):
            for _ in range(3):
                window = Window(*(int(rng.integers(n - side + 1)) for n in plain.shape(0)), side, side)
                one, other = store.read(0, window), plain.read(0, window)
                assert np.array_equal(one[0], other[0])
                assert np.array_equal(one[1], other[1])
    if peer is not None:
        with rasterio.open(path) as file:
            for x, y, shape, total in peer.ask(side=256, check=5):
                col, row = ((x - file.transform.c) / 40, (file.transform.f - y) / 40)
                assert shape == [2, 256, 256], shape
                same = file.read(window=rasterio.windows.Window(round(col), round(row), 256, 256))
                assert same.sum(dtype=np.float64) == total


def main() -> None:
    """Run the contest and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="the Python of an environment with torchgeo")
    parser.add_argument("--size", type=int, default=10_000, help="pixels a side of the scene")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the scene and its decoded files are made, and stay"
    )
    parser.add_argument("--train", type=int, default=0, help="steps of a training that is timed too; 0: none")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        run(words, words.folder or Path(temporary))


def run(words: argparse.Namespace, folder: Path) -> None:
    """Measure in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scene.tif"
    if not path.is_file():
        make_scene(path, words.size)
    os.environ["SARTRANSFER_CACHE"] = str(folder / "cache")
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    kinds = ("memory-map", "bitshuffle-lz4")
    ours = {(kind, 64): Contestant(sys.executable, OURS, path, kind, 64) for kind in kinds}
    conversion = {kind: who.answer() for (kind, _), who in ours.items()}
    ours["none", 64] = Contestant(sys.executable, OURS, path, "none", 64)
    ours["none", 64].answer()
    peers = {}
    if words.peer:
        peers = {megabytes: Contestant(words.peer, PEER, folder, megabytes) for megabytes in (64, 2000)}
    check(path, kinds, peers.get(64))
    rates: dict[tuple[str, int, int], list[float]] = {}
    for turn in range(words.turns):
        for side in SIDES:
            everyone = {("torchgeo", m): p for m, p in peers.items()} | ours
            for (name, megabytes), who in everyone.items():
                fill = megabytes == 2000 and turn == 0 and side == SIDES[0]
                rate = who.ask(side=side, seconds=words.seconds, fill=fill, batch=BATCHES[side])
                rates.setdefault((name, megabytes, side), []).append(rate)
    for who in (*ours.values(), *peers.values()):
        who.close()
    report(folder, path, conversion, {k: statistics.median(v) for k, v in rates.items()})
    if words.train:
        waiting(folder, path, words.train)


def waiting(folder: Path, path: Path, steps: int) -> None:
    """Train a U-Net on ResNet-18 on 256 px patches with labels, and say how much of the time it waits for them."""
    import rasterio
    import torch

    from sartransfer.catalog import Asset, Catalog, Entry
    from sartransfer.data.patches import SceneStore
    from sartransfer.models import build_model
    from sartransfer.recipe import PatchRecipe, PrimaryRecipe, TrainingRecipe
    from sartransfer.train import Task, fit

    label = folder / "label.tif"
    if not label.is_file():
        with rasterio.open(path) as scene:
            profile = {**scene.profile, "count": 1, "dtype": "uint8"}
        with rasterio.open(label, "w", **profile) as file:
            row = np.tile(np.repeat(np.arange(2, dtype=np.uint8), 100), -(-file.width // 200))[: file.width]
            for top in range(0, file.height, 512):
                rows = min(512, file.height - top)
                window = rasterio.windows.Window(0, top, file.width, rows)
                file.write(np.broadcast_to(row, (1, rows, file.width)), window=window)
    torch.set_num_threads(1)
    bands = catalog(path).entries[0].assets[0].bands
    entry = Entry("scene", (Asset(path, bands=bands),), label=label, split="train", group="a")
    scenes = Catalog("scene", (entry,), ("sea", "ice"), {0: 0, 1: 1})
    print("\n| data.cache | steps of 8 patches | seconds | waited for data |\n|---|---|---|---|")
    for kind, number in (("none", 2), ("bitshuffle-lz4", steps), ("memory-map", steps)):
        store = SceneStore(scenes, scenes.entries, contract(), cache=kind, cache_bytes=0)
        training = TrainingRecipe(epochs=1, batch_size=8, precision="fp32", weights="last")
        patch, primary = PatchRecipe(size=256, per_scene=8 * number), PrimaryRecipe(metric="iou_macro")
        task = Task(store, None, training, primary, scenes.classes, patch)
        torch.manual_seed(0)
        model, metadata = build_model("unet-resnet18", 2, 2), {"classes": list(scenes.classes)}
        with tempfile.TemporaryDirectory(dir=folder) as place:
            metadata["contract"] = contract().to_json()
            fit(Path(place), model, task, seed=0, device="cpu", precision="fp32", metadata=metadata)
            head, line = (Path(place) / "timing.csv").read_text().splitlines()
        told = dict(zip(head.split(","), map(float, line.split(",")), strict=True))
        print(f"| {kind} | {number} | {told['seconds']:.1f} | {told['waited_share']:.1%} |", flush=True)


def report(folder: Path, path: Path, conversion, rates) -> None:
    """Print sizes, conversion and rates."""
    print(f"GeoTIFF {path.stat().st_size / 1e6:.0f} MB")
    for header in sorted(folder.glob("cache/*/header.json")):
        kind = json.loads(header.read_text())["made_from"]["kind"]
        size = sum(f.stat().st_size for f in header.parent.iterdir()) / 1e6
        seconds = conversion.get(kind, (0, 0))
        print(
            f"{kind}: {size:.0f} MB, converted in {seconds[0]:.1f} s of processor time ({seconds[1]:.1f} s)"
        )
    print("\n| patches per second | 256 px | times torchgeo cold, hot | 1000 px | times torchgeo cold, hot |")
    print("|---|---|---|---|---|")
    order = [("torchgeo", 64), ("torchgeo", 2000), ("none", 64), ("bitshuffle-lz4", 64), ("memory-map", 64)]
    for name, megabytes in order:
        if (name, megabytes, SIDES[0]) not in rates:
            print(f"| {name}, GDAL cache {megabytes} MB | not run: no --peer | | | |")
            continue
        label = {"none": "sartransfer, data.cache: none", "torchgeo": "torchgeo RandomGeoSampler"}.get(name)
        label = label or f"sartransfer, data.cache: {name}"
        label += f" (GDAL cache {megabytes} MB)" if name in ("none", "torchgeo") else ""
        cells = []
        for side in SIDES:
            rate = rates[name, megabytes, side]
            peer = [rates.get(("torchgeo", m, side)) for m in (64, 2000)]
            times = ", ".join("-" if p is None else f"{rate / p:.1f}x" for p in peer)
            cells += [f"{rate:,.0f}", times]
        print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

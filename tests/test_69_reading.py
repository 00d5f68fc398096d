"""What reading a scene's file takes is in the plan: GDAL decodes whole blocks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from test_69_whole_scenes import BANDS, CLASSES, CONTRACT, SOURCE

from sartransfer.errors import InputError
from sartransfer.forecast import foresee
from sartransfer.geotiff import GeoTiffSource
from sartransfer.map_layers import plan_layers
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, read_checkpoint, write_checkpoint
from sartransfer.predict import plan_scene, predict_logits, predict_windows
from sartransfer.scene import ArraySource, GeoReference, Scene
from sartransfer.stac import outline

MIB = 2**20
SIDE = 4000

READ = """
import json, sys
from sartransfer.readers import open_scene
from sartransfer.scene import Window
scene = open_scene(sys.argv[1])
scene.read(window=Window(0, 0, 1, 1)) if sys.argv[3] == "tiled" else None
def memory(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = memory("VmRSS")
scene.read(window=Window(512, 512, int(sys.argv[2]), int(sys.argv[2])))
print(json.dumps(memory("VmHWM") - before))
"""


def write_scene(path, rows, **options):
    """A scene of one band, 61 MiB as float32, in blocks of so many rows."""
    kind = {"blockysize": rows} if rows else {"tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=SIDE, width=SIDE, dtype="float32", compress="deflate",
        crs="EPSG:32633", transform=rasterio.Affine(40, 0, 500000, 0, -40, 8000000), **kind,
    ) as file:  # fmt: skip
        for band, name in enumerate(b.name for b in BANDS):
            file.set_band_description(band + 1, name)
        file.write(np.full((2, SIDE, SIDE), -10, np.float32))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = build_model("unet-resnet18", 2, 3, encoder_depth=3, decoder_channels=[8, 8, 8])
    write_checkpoint(folder / "best", model, {"classes": CLASSES, "contract": CONTRACT.to_json()})
    write_scene(folder / "strip.tif", SIDE)
    write_scene(folder / "tiled.tif", None)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("name", "side"), [("strip", 256), ("tiled", 256)])
def test_what_reading_a_window_takes_is_told(files, name, side):
    """A window of 256 px is half a MiB; a file in one strip is decoded whole for it, 122 MiB, twice."""
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    words = files / f"{name}.tif", side, name
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + READ, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    taken = json.loads(run.stdout)
    told = GeoTiffSource(files / f"{name}.tif").window_bytes(side)
    whole = 2 * SIDE * SIDE * 4
    if name == "strip":
        assert whole < taken  # both bands, and what they are taken apart from
        assert 1.9 * whole < told <= 2 * whole
    assert taken <= told + 16 * MIB


def test_files_in_high_strips_are_in_the_forecast_and_refused_where_memory_is_short(files, tmp_path):
    checkpoint = read_checkpoint(files / "best.json")
    layers = plan_layers(tmp_path / "map.tif", CLASSES)
    limit = 400 * MIB
    with pytest.raises(
        InputError, match=r"reading a window takes 2[34]\d MiB of the 400.*gdal_translate -co TILED=YES"
    ):
        predict_scene(checkpoint, files / "strip.tif", tmp_path / "map.tif", memory=limit)
    assert not list(tmp_path.iterdir())
    without = foresee([checkpoint], layers, SIDE, SIDE, memory=4 * limit)
    reading = foresee([checkpoint], layers, SIDE, SIDE, memory=4 * limit, reading=lambda plan: 100 * MIB)
    assert reading.memory == without.memory + 100 * MIB
    assert reading.plan.core == without.plan.core


def test_views_that_are_not_on_offer_are_refused_by_windows_too(files):
    checkpoint = read_checkpoint(files / "best.json")
    model = checkpoint.model.eval()
    scene = Scene("s", BANDS, 96, 80, ArraySource(np.zeros((2, 96, 80), np.float32)))
    with pytest.raises(InputError, match=r"views.*3.*1, 4, 8"):
        list(predict_windows(checkpoint, model, scene, "cpu", 3))
    with pytest.raises(InputError, match=r"views.*3.*1, 4, 8"):
        plan_scene(model, 5000, 5000, views=3)
    with pytest.raises(InputError, match=r"views.*3.*1, 4, 8"):
        predict_logits(model, torch.zeros(1, 2, 32, 32), views=3)


@pytest.mark.parametrize(
    ("left", "step", "box"),
    [
        (-100, 1.0, [-100, 60, 100, 80]),  # wider than half the globe
        (-180, 1.8, [-180, 60, 180, 80]),  # all of it
        (0, 1.8, [-180, 60, 180, 80]),  # all of it, counted from Greenwich
        (170, 0.1, [170, 60, -170, 80]),  # across the antimeridian
        (-190, 0.1, [170, 60, -170, 80]),
    ],
)
def test_the_box_of_a_wide_map_in_degrees(left, step, box):
    place = GeoReference(crs="EPSG:4326", transform=(step, 0, left, 0, -0.1, 80))
    geometry, found = outline(place, 200, 200)
    assert geometry is not None
    np.testing.assert_allclose(found, box, atol=1e-9)

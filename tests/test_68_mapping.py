"""Maps: what a network says of a scene stands at the right place, in the right units, and says what is odd."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import nn

from sartransfer import members, predict, streaming
from sartransfer.cloud import write_cloud_optimized
from sartransfer.contract import InputBand, InputContract
from sartransfer.data.ground import ground_metres, pixel_warning, trained_pixel_metres
from sartransfer.errors import InputError, OutputError, UnitError
from sartransfer.geotiff import write_geotiff
from sartransfer.mapping import COLOURS, NODATA, predict_scene
from sartransfer.models import build_model, read_checkpoint, write_checkpoint
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.predict import predict_chip, predict_logits, predict_windows
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_scene
from sartransfer.scene import ArraySource, Band, GeoReference, Scene, parse_bands
from sartransfer.windows import cut, grow, rounded

torch.set_num_threads(1)
CLASSES = ("land", "water", "ice")
MEANS, STDS = np.array([-10.0, -16.0]), np.array([3.0, 4.0])
CONTRACT = InputContract(
    tuple(
        InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper(), mean=float(m), std=float(s))
        for p, m, s in zip(("vv", "vh"), MEANS, STDS, strict=True)
    )
)
PLACE = GeoReference(crs="EPSG:32633", transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 6000000.0))
POINTS = GeoReference(
    crs="EPSG:4326",
    gcps=((0, 0, 10.0, 60.0, 0), (0, 50, 10.5, 60.1, 0), (40, 0, 10.1, 59.6, 0), (40, 50, 10.6, 59.7, 0)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a small network with random weights, whose batch norms have seen numbers."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_model("unet-resnet18", 2, 3, encoder_depth=3, decoder_channels=[16, 8, 8])
    for _ in range(3):
        model(torch.randn(4, 2, 32, 32))
    write_checkpoint(folder / "best", model, {"classes": CLASSES, "contract": CONTRACT.to_json(), "epoch": 3})
    return folder


def decibels(height, width, seed=0):
    """Backscatter as the network was normalized for: (2, height, width) float32."""
    noise = np.random.default_rng(seed).normal(size=(2, height, width))
    return (MEANS[:, None, None] + STDS[:, None, None] * noise).astype(np.float32)


def write_scene(path, values, *, names=("sigma0_vv_db", "sigma0_vh_db"), place=PLACE, **more):
    return write_geotiff(path, values, georeference=place, descriptions=names, **more)


def in_memory(values, unit="sigma0_db"):
    bands = tuple(Band(n, parse_unit(unit), p) for n, p in (("sigma0_vv_db", "VV"), ("sigma0_vh_db", "VH")))
    return Scene("scene", bands, *values.shape[1:], ArraySource(values), PLACE)


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def assert_same_classes(one, other, shares):
    """Equal maps, but for pixels whose two likeliest classes are as likely to float32's precision."""
    two = np.sort(shares, axis=0)[-2:]
    close = two[1] - two[0] < 1e-4
    assert close.mean() < 0.01
    np.testing.assert_array_equal(one[~close], other[~close])


@pytest.mark.parametrize("place", [PLACE, POINTS], ids=["transform", "control points"])
@pytest.mark.parametrize("size", [(40, 50), (33, 47), (7, 9)])
def test_a_map_is_the_networks_answer_at_the_scenes_place(tmp_path, run, size, place):
    values = decibels(*size)
    values[:, :3, -4:] = np.nan
    values[1, 5, 1] = np.nan  # one band is enough to know nothing
    scene = write_scene(tmp_path / "scene.tif", values, place=place)
    found = predict_scene(run, scene, tmp_path / "map.tif", probabilities=True)

    known = np.isfinite(values).all(axis=0)
    image = np.where(known, (values - MEANS[:, None, None]) / STDS[:, None, None], 0).astype(np.float32)
    with torch.no_grad():
        shares = read_checkpoint(run).model(torch.from_numpy(image)[None]).softmax(1)[0].numpy()
    with rasterio.open(found.path) as file, rasterio.open(scene) as given:
        assert (file.count, file.height, file.width, file.dtypes) == (1, *size, ("uint8",))
        assert (file.crs, file.transform) == (given.crs, given.transform)
        assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in given.gcps[0]
        ]
        assert file.gcps[1] == given.gcps[1]
        assert (file.nodata, file.descriptions) == (NODATA, ("class",))
        assert [file.colormap(1)[i][:3] for i in range(3)] == list(COLOURS[:3])
        labels, tags = file.read(1), file.tags()
    assert_same_classes(labels, np.where(known, shares.argmax(0), NODATA), shares)
    assert tags["SARTRANSFER_CLASSES"] == "0=land,1=water,2=ice"
    assert (tags["SARTRANSFER_METHOD"], tags["SARTRANSFER_WARNINGS"]) == ("one pass", "none")
    assert found.counts == {c: int((labels == i).sum()) for i, c in enumerate(CLASSES)}
    assert sum(found.counts.values()) == known.sum()

    assert found.probabilities == tmp_path / "map-probabilities.tif"
    with rasterio.open(found.probabilities) as file:
        assert file.descriptions == tuple(f"probability_{c}" for c in CLASSES)
        assert (file.crs, file.transform, len(file.gcps[0])) == (given.crs, given.transform, len(place.gcps))
        told = file.read()
    assert np.isnan(told[:, ~known]).all()
    np.testing.assert_allclose(told[:, known].sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(told[:, known], shares[:, known], atol=1e-5)
    np.testing.assert_array_equal(labels[known], told.argmax(axis=0)[known])


def test_nodata_of_the_file_is_nodata_of_the_map(tmp_path, run):
    values = decibels(20, 24)
    values[:, 4:9, 2:5] = -9999
    scene = write_scene(tmp_path / "scene.tif", values, nodata=-9999)
    labels = read(predict_scene(run, scene, tmp_path / "map.tif").path)[0]
    assert ((labels == NODATA) == (values[0] == -9999)).all()


def test_units_and_names_of_the_scene_do_not_matter(tmp_path, run):
    values = decibels(32, 40)
    first = read(predict_scene(run, in_memory(values), tmp_path / "a.tif").path)
    power = (10 ** (values.astype(np.float64) / 10)).astype(np.float32)
    scene = write_scene(tmp_path / "linear.tif", power[::-1], names=("sigma0_vh", "sigma0_vv"))
    found = predict_scene(run, scene, tmp_path / "b.tif")
    assert (read(found.path) != first).mean() < 0.005  # float32 there and back may tip a tie
    assert found.warnings == ()
    scene = write_scene(tmp_path / "plain.tif", values, names=("one", "two"))
    found = predict_scene(run, scene, tmp_path / "c.tif", bands=parse_bands("VV=sigma0_db,VH=sigma0_db"))
    np.testing.assert_array_equal(read(found.path), first)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("one", "two"), InputError, ["sigma0_vv_db", "one (unknown)", "bands"]),
        (("sigma0_vv_db", "sigma0_hh_db"), InputError, ["'sigma0_vh_db' (sigma0_db, VH)", "sigma0_hh_db"]),
        (("vv", "vh"), InputError, ["sigma0_vv_db", "vv (unknown)"]),
        (("gamma0_vv_db", "gamma0_vh_db"), InputError, ["sigma0_vv_db", "gamma0_vv_db (gamma0_db)"]),
        (("sigma0_vv_db", "sigma0_vv"), InputError, ["sigma0_vh_db"]),
    ],
)
def test_bands_that_are_not_the_networks_are_refused(tmp_path, run, names, error, words):
    scene = write_scene(tmp_path / "scene.tif", decibels(16, 16), names=names)
    with pytest.raises(error) as found:
        predict_scene(run, scene, tmp_path / "map.tif")
    assert all(w in str(found.value) for w in words), found.value
    assert names_in(tmp_path) == ["scene.tif"]


def test_a_band_of_the_right_name_and_the_wrong_unit_is_refused(tmp_path, run):
    scene = in_memory(decibels(16, 16), unit="gamma0_db")
    with pytest.raises(UnitError, match="'sigma0_vv_db' is gamma0_db, the network expects sigma0_db"):
        predict_scene(run, scene, tmp_path / "map.tif")
    with pytest.raises(UnitError, match=r"is unknown, .* Say what the band is"):
        predict_scene(run, in_memory(decibels(16, 16), unit="unknown"), tmp_path / "map.tif")


def test_a_missing_band_and_a_scene_without_values_are_refused(tmp_path, run):
    scene = write_scene(tmp_path / "one.tif", decibels(16, 16)[:1], names=("sigma0_vv_db",))
    with pytest.raises(InputError, match="no band 'sigma0_vh_db'"):
        predict_scene(run, scene, tmp_path / "map.tif")
    scene = write_scene(tmp_path / "nothing.tif", np.full((2, 16, 16), np.nan, np.float32))
    with pytest.raises(InputError, match="'nothing' has no valid pixel"):
        predict_scene(run, scene, tmp_path / "map.tif", probabilities=True)
    assert names_in(tmp_path) == ["nothing.tif", "one.tif"]


def test_a_classifier_makes_no_map(tmp_path):
    model = build_model("timm:resnet10t", 2, 3)
    path = write_checkpoint(tmp_path / "best", model, {"classes": CLASSES, "contract": CONTRACT.to_json()})
    with pytest.raises(InputError, match="classifies whole patches"):
        predict_scene(path, in_memory(decibels(16, 16)), tmp_path / "map.tif")


@pytest.mark.parametrize("windows", [False, True])
def test_odd_values_are_warned_of_once_and_in_the_map(tmp_path, run, monkeypatch, windows):
    if windows:
        _small_windows(monkeypatch)
    linear = 10 ** (decibels(96, 80) / 10)  # declared dB, but linear power
    found = predict_scene(run, in_memory(linear), tmp_path / "linear.tif")
    assert len([w for w in found.warnings if "99 % of the values are positive" in w]) == 2
    far = predict_scene(run, in_memory(decibels(96, 80) - 20), tmp_path / "far.tif")
    assert [w.partition(": ")[0] for w in far.warnings] == [
        "scene 'scene', band 'sigma0_vv_db'", "scene 'scene', band 'sigma0_vh_db'"
    ]  # fmt: skip
    assert "-6.7 training standard deviations" in far.warnings[0]
    assert "-5.0 training standard deviations" in far.warnings[1]
    for result in (found, far):
        with rasterio.open(result.path) as file:
            assert file.tags()["SARTRANSFER_WARNINGS"] == "; ".join(result.warnings)


def test_angles_of_300_are_warned_of(tmp_path):
    torch.manual_seed(0)
    bands = (*CONTRACT.bands, InputBand("incidence_angle_deg", "incidence_angle_deg", mean=35.0, std=200.0))
    model = build_model("unet-resnet18", 3, 3, encoder_depth=3, decoder_channels=[8, 8, 8])
    meta = {"classes": CLASSES, "contract": InputContract(bands).to_json()}
    path = write_checkpoint(tmp_path / "best", model, meta)
    values = np.concatenate([decibels(16, 16), np.full((1, 16, 16), 300, np.float32)])
    scene = write_scene(tmp_path / "s.tif", values, names=[b.name for b in bands])
    found = predict_scene(path, scene, tmp_path / "map.tif")
    assert len(found.warnings) == 1
    assert "incidence_angle_deg" in found.warnings[0]
    assert "from 300 to 300; expected 0 to 90" in found.warnings[0]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ([10, 10], None), ([8, 12], None), ([12.4, 40], None), ([1, 8.1], None), (None, None),
        ([40, 40], "has pixels of 10 m, and training had 40 m"), ([2, 4], "and training had 2 to 4 m"),
    ],
)  # fmt: skip
def test_a_scene_of_other_pixels_than_in_training_is_warned_of(tmp_path, trained, expected):
    torch.manual_seed(0)
    model = build_model("unet-resnet18", 2, 3, encoder_depth=3, decoder_channels=[8, 8, 8])
    meta = {"classes": CLASSES, "contract": CONTRACT.to_json(), "pixel_m": trained}
    path = write_checkpoint(tmp_path / "best", model, meta)
    found = predict_scene(path, write_scene(tmp_path / "s.tif", decibels(16, 16)), tmp_path / "map.tif")
    texts = [text for text in found.warnings if "pixels of" in text]
    assert len(texts) == (expected is not None)
    assert expected is None or expected in texts[0]
    with rasterio.open(found.path) as file:
        assert file.tags()["SARTRANSFER_WARNINGS"] == ("; ".join(found.warnings) or "none")


ANGLE, NORTH = np.radians(20.0), 80.0


def _points(height, width, side):
    """Control points of a scene that lies askew across the antimeridian, its pixels so many metres wide."""
    geod = pytest.importorskip("pyproj").Geod(ellps="WGS84")
    found = []
    for row in (0, height // 2, height):
        for col in (0, width // 2, width):
            east, north = (col - width / 2) * side, (height / 2 - row) * side
            bearing = np.degrees(np.arctan2(east, north) + ANGLE)
            lon, lat, _ = geod.fwd(180.0, NORTH, bearing, np.hypot(east, north))
            found.append((row, col, lon, lat, 0.0))
    return GeoReference(crs="EPSG:4326", gcps=tuple(found))


@pytest.mark.parametrize("side", [10.0, 40.0])
@pytest.mark.parametrize("kind", ["degrees", "points"])
def test_pixels_in_degrees_and_of_control_points_are_compared_with_trainings(kind, side):
    steps = (side / 111194.9, side / 111194.9 / np.cos(np.radians(NORTH)))  # a degree of a sphere of 6371 km
    degrees = GeoReference(crs="EPSG:4326", transform=(steps[1], 0.0, 10.0, 0.0, -steps[0], NORTH))
    place = degrees if kind == "degrees" else _points(500, 900, side)
    scene = Scene("s", (Band("a"),), 500, 900, ArraySource(np.zeros((1, 1, 1))), place)
    assert ground_metres(scene) == pytest.approx(side, rel=0.01)
    assert pixel_warning(scene, [side, side]) is None
    assert f"and training had {2 * side:g} m" in (pixel_warning(scene, [2 * side, 2 * side]) or "")


@pytest.mark.parametrize(
    "place",
    [
        GeoReference(), GeoReference(crs="EPSG:4326"), GeoReference(transform=PLACE.transform),
        GeoReference(crs="EPSG:4326", gcps=tuple((i, i, 10.0 + i, 60.0, 0.0) for i in range(4))),
    ],
)  # fmt: skip
def test_a_scene_that_does_not_say_where_it_is_has_pixels_of_no_size(place):
    scene = Scene("s", (Band("a"),), 20, 20, ArraySource(np.zeros((1, 1, 1))), place)
    assert ground_metres(scene) is None
    assert pixel_warning(scene, [10, 10]) is None


def test_the_size_of_training_pixels_is_known_where_all_scenes_say_it(tmp_path):
    wide = GeoReference(crs="EPSG:32633", transform=(40.0, 0.0, 500000.0, 0.0, -40.0, 6000000.0))
    one = open_scene(write_scene(tmp_path / "a.tif", decibels(16, 16)))
    two = open_scene(write_scene(tmp_path / "b.tif", decibels(16, 16), place=wide))
    degrees = open_scene(write_scene(tmp_path / "c.tif", decibels(16, 16), place=POINTS))
    assert trained_pixel_metres([one, two, one]) == pytest.approx((10, 40))
    assert trained_pixel_metres([one, degrees]) is None
    assert trained_pixel_metres([]) is None
    bare = replace(one, georeference=GeoReference())
    assert trained_pixel_metres([bare]) is None
    assert trained_pixel_metres([bare, bare], 10.0) == (10.0, 10.0)  # as the catalog says of scenes on no map
    assert trained_pixel_metres([bare, two], 10.0) == pytest.approx((10, 40))  # a map says it itself
    assert trained_pixel_metres([bare, degrees], 10.0) is None


def _small_windows(monkeypatch, core=32, halo=32):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", core)
    monkeypatch.setattr(predict, "HALO", halo)


@pytest.mark.parametrize("stride", [1, 8, 32])
@pytest.mark.parametrize("size", [(64, 64), (65, 31), (100, 37), (1, 200), (33, 129)])
def test_windows_cover_every_pixel_once_on_one_grid(size, stride):
    times = np.zeros(size, dtype=int)
    for kept in cut(*size, rounded(30, stride)):
        seen = grow(kept, rounded(10, stride), stride, *size)
        times[kept.slices] += 1
        assert seen.row % stride == seen.col % stride == 0
        assert seen.is_inside(*size)
        for low, high, edge in (
            (kept.row - seen.row, seen.row + seen.height - kept.row - kept.height, size[0]),
            (kept.col - seen.col, seen.col + seen.width - kept.col - kept.width, size[1]),
        ):
            assert low >= 10 or low in (kept.row, kept.col)  # a halo, or the scene's edge
            assert high >= 10 or seen.row + seen.height == edge or seen.col + seen.width == edge
    assert (times == 1).all()


class Near(nn.Module):
    """A network that sees 9 cells of 4 pixels: pools, two 5x5 convolutions, brings back to the scene's size."""

    task, in_channels, num_classes, stride = "segment", 2, 3, 4

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 5, padding=2), nn.Conv2d(6, 3, 5, padding=2)

    def forward(self, x):
        height, width = x.shape[2:]
        padded = nn.functional.pad(x, (0, -width % 4, 0, -height % 4))
        cells = self.second(self.first(nn.functional.avg_pool2d(padded, 4)).relu())
        return nn.functional.interpolate(cells, scale_factor=4, mode="nearest")[..., :height, :width]


@pytest.mark.parametrize("size", [(64, 64), (77, 101), (30, 130), (33, 95)])
def test_windows_equal_one_pass_where_the_network_sees_no_farther_than_the_halo(tmp_path, monkeypatch, size):
    torch.manual_seed(1)
    checkpoint = Checkpoint(Near().eval(), CLASSES, CONTRACT, {}, tmp_path)
    values = decibels(*size, seed=2)
    values[:, 10:14, 20:29] = np.nan
    whole = predict_scene(checkpoint, in_memory(values), tmp_path / "one.tif", probabilities=True)
    _small_windows(monkeypatch, core=28)
    parts = predict_scene(checkpoint, in_memory(values), tmp_path / "many.tif", probabilities=True)
    shares = read(whole.probabilities)
    np.testing.assert_allclose(read(parts.probabilities), shares, atol=1e-5)
    assert_same_classes(read(parts.path)[0], read(whole.path)[0], shares)
    with rasterio.open(parts.path) as file:
        assert "halo of 16 px" in file.tags()["SARTRANSFER_METHOD"]


def test_windows_equal_one_pass_for_a_network_of_ours_with_a_wide_halo(monkeypatch):
    torch.manual_seed(0)
    model = build_model("unet-resnet18", 2, 3, encoder_depth=3, decoder_channels=[16, 8, 8]).eval()
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {}, None)
    scene = in_memory(decibels(391, 45))
    with torch.inference_mode():
        ((_, whole, _),) = predict_windows(checkpoint, model, scene, "cpu")
        _small_windows(monkeypatch, core=64, halo=128)
        parts = torch.zeros_like(whole)
        for window, logits, _ in predict_windows(checkpoint, model, scene, "cpu"):
            parts[(slice(None), *window.slices)] = logits
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_picture_without_place_makes_a_map_without_place(tmp_path):
    torch.manual_seed(0)
    model = build_model("unet-resnet18", 1, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
    contract = InputContract((InputBand("grey", "digital_number", mean=128.0, std=60.0),))
    path = write_checkpoint(tmp_path / "best", model, {"classes": ["a", "b"], "contract": contract.to_json()})
    picture = np.random.default_rng(0).integers(0, 256, (21, 34)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "scene.png")
    found = predict_scene(path, tmp_path / "scene.png", tmp_path / "map.tif")
    scene = open_scene(found.path)
    assert (scene.height, scene.width, scene.georeference) == (21, 34, GeoReference())
    image = torch.from_numpy((picture.astype(np.float32) - 128) / 60)[None, None]
    expected = predict_logits(read_checkpoint(path).model, image)[0].argmax(0).numpy()
    np.testing.assert_array_equal(read(found.path)[0], expected)


@pytest.mark.parametrize("probabilities", [False, True])
def test_what_is_there_is_replaced_only_on_request(tmp_path, run, probabilities):
    scene = in_memory(decibels(16, 16))
    there = tmp_path / ("map-probabilities.tif" if probabilities else "map.tif")
    there.write_text("mine")
    with pytest.raises(OutputError, match=f"{there.name} exists.*--overwrite"):
        predict_scene(run, scene, tmp_path / "map.tif", probabilities=probabilities)
    assert there.read_text() == "mine"
    assert len(names_in(tmp_path)) == 1
    predict_scene(run, scene, tmp_path / "map.tif", probabilities=probabilities, overwrite=True)
    assert read(there).shape[1:] == (16, 16)


def test_outputs_that_cannot_be_are_refused_before_anything_is_computed(tmp_path, run, monkeypatch):
    path = write_scene(tmp_path / "scene.tif", decibels(16, 16))
    before = path.read_bytes()
    monkeypatch.setattr(members, "predict_classes", None)  # would fail if it came so far
    (tmp_path / "folder.tif").mkdir()
    for name, words in (
        ("scene.tif", "is the scene itself"),
        ("sub/../scene.tif", "no folder"),
        ("map.png", "does not end in .tif"),
        ("missing/map.tif", "no folder"),
        ("folder.tif", "is a folder"),
    ):
        with pytest.raises(OutputError, match=words):
            predict_scene(run, path, tmp_path / name, overwrite=True)
    assert path.read_bytes() == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 128 KiB, where the machine lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    words = ["-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *words], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs root and mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing_behind(small_disk, run):
    values = decibels(256, 256)
    with pytest.raises(OutputError, match="disk full"):
        predict_scene(run, in_memory(values), small_disk / "map.tif", probabilities=True)
    assert names_in(small_disk) == []


@pytest.mark.parametrize("when", [0, 1])
def test_a_map_that_cannot_be_written_takes_its_probabilities_with_it(tmp_path, run, monkeypatch, when):
    def full(path, *words):
        if path.name == f"{when}.tif":
            raise OutputError("No space left on device")
        return write_cloud_optimized(path, *words)

    monkeypatch.setattr(streaming, "write_cloud_optimized", full)
    with pytest.raises(OutputError, match="No space"):
        predict_scene(run, in_memory(decibels(16, 16)), tmp_path / "map.tif", probabilities=True)
    assert names_in(tmp_path) == []


def test_logits_are_asked_for_with_the_networks_bands_and_come_back_in_float32(run):
    model = read_checkpoint(run).model
    with pytest.raises(InputError, match="takes 2 bands, the image has 3"):
        predict_logits(model, torch.zeros(1, 3, 32, 32))
    images = torch.randn(2, 2, 32, 40, generator=torch.Generator().manual_seed(0))
    exact = predict_logits(model, images)
    rough = predict_logits(model, images, precision="bf16")
    assert exact.dtype == rough.dtype == torch.float32
    assert exact.shape == (2, 3, 32, 40)
    assert 0 < (exact - rough).abs().max() < 0.1 * exact.abs().max()


def test_a_chip_is_cut_from_its_centre():
    torch.manual_seed(0)
    model = build_model("timm:resnet10t", 2, 3).eval()
    checkpoint = Checkpoint(model, CLASSES, CONTRACT, {"chip": 32}, None)
    values = decibels(41, 50)
    cut = torch.from_numpy((values[:, 4:36, 9:41] - MEANS[:, None, None]) / STDS[:, None, None]).float()
    found = predict_chip(checkpoint, model, in_memory(values), "cpu")
    np.testing.assert_allclose(found, predict_logits(model, cut[None])[0].numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="31 x 50 px is smaller than the chip of 32"):
        predict_chip(checkpoint, model, in_memory(values[:, :31]), "cpu")

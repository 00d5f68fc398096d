"""Maps that are stopped at a bad moment, over old ones, of scenes that change, by networks that differ."""

import gc
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from sartransfer import mapping, predict, streaming
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.journal import Journal
from sartransfer.mapping import MapResult, files_tag, predict_scene
from sartransfer.models import build_model, write_checkpoint
from sartransfer.polygons import PolygonOptions, write_polygons
from sartransfer.radar.units import parse_unit
from sartransfer.scene import ArraySource, Band, GeoReference, Scene, Window

torch.set_num_threads(1)
SOURCE = Path(predict.__file__).parent.parent
CLASSES = ("land", "water")
PLACE = GeoReference(crs="EPSG:32633", transform=(40.0, 0.0, 500000.0, 0.0, -40.0, 6000000.0))
KILLED = 7


def contract(*names, mean=-10.0):
    return InputContract(
        tuple(InputBand(f"sigma0_{n}_db", "sigma0_db", n.upper(), mean=mean, std=3.0) for n in names)
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Networks a and b for VV, h for VH, far for a VV of other values; and a scene of VV and VH."""
    folder = tmp_path_factory.mktemp("files")
    wanted = {"a": contract("vv"), "b": contract("vv"), "h": contract("vh"), "far": contract("vv", mean=20.0)}
    for seed, (name, bands) in enumerate(wanted.items()):
        torch.manual_seed(seed)
        model = build_model("unet-resnet18", 1, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
        meta = {"classes": CLASSES, "contract": bands.to_json(), "identity": name, "epoch": 1}
        write_checkpoint(folder / name, model, meta)
    write_scene(folder / "scene.tif")
    return folder


def write_scene(path, values=None, **more):
    if values is None:
        values = np.random.default_rng(3).normal(-10, 3, size=(2, 96, 80)).astype(np.float32)
        values[:, :20, :30] = np.nan
    names = ["sigma0_vv_db", "sigma0_vh_db"]
    return write_geotiff(path, values, georeference=PLACE, descriptions=names[: len(values)], **more)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def small(monkeypatch):
    """Windows of 32 px."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 32)


def in_child(code, *words):
    """Run code that kills its process."""
    head = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(SOURCE)!r})
import torch
torch.set_num_threads(1)
from sartransfer import mapping, predict, streaming
from sartransfer.mapping import predict_scene
predict.ONE_PASS_PIXELS, predict.CORE = 1, 32
def kill(*_, **__):
    os._exit({KILLED})
"""
    run = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert run.returncode == KILLED, run.stderr


def stop_after_one_window(monkeypatch, *words, **options):
    add = streaming.GrowingMap.add

    def stop(self, window, arrays):
        add(self, window, arrays)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streaming.GrowingMap, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_scene(*words, **options)


def windows_done_before(*words, **options):
    """Make a map; return how many of its windows were there already."""
    told = []
    predict_scene(*words, **options, progress=lambda done, total: told.append(done))
    return told[0]


# --- killed ---------------------------------------------------------------------------------------------------


def test_a_journal_names_its_task_only_when_what_another_left_is_gone(tmp_path):
    path = tmp_path / "j"
    with Journal(path, {"a": 1}) as journal:
        journal.add(Window(0, 0, 2, 3))

    def killed():
        assert path.read_bytes() == b""  # neither the one nor the other
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal(path, {"a": 2}, killed)
    called, continued = [], []
    for header in ({"a": 2}, {"a": 2}, {"a": 1}):  # the lock was let go of
        with Journal(path, header, lambda: called.append(1)) as journal:
            continued.append(journal.continued)
            assert journal.done == set()
    assert continued == [False, True, False]
    assert len(called) == 2


def test_a_kill_while_another_tasks_parts_are_removed_leaves_none_of_them_to_trust(
    files, tmp_path, monkeypatch, small
):
    """Else the journal named network B already, and B's map was made of A's answers and features."""
    target = tmp_path / "map.tif"
    stop_after_one_window(monkeypatch, files / "a", files / "scene.tif", target)
    kept = tmp_path / ".map.tif.partial"
    assert (kept / "0.raw").exists()
    (kept / "features.raw").write_bytes(b"of network a")
    (kept / "features.done").write_text("{}\n[0, 0, 32, 32]\n")
    killed = "streaming.GrowingMap._forget = kill\npredict_scene(*sys.argv[1:])"
    in_child(killed, files / "b", files / "scene.tif", target)
    assert (kept / "features.raw").exists()
    begun = []
    arrays = mapping.map_arrays

    def looked(*args):
        begun.extend(names(kept))
        return arrays(*args)

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "map_arrays", looked)
        predict_scene(files / "b", files / "scene.tif", target)
    assert begun == ["0.raw", streaming.JOURNAL]
    predict_scene(files / "b", files / "scene.tif", tmp_path / "fresh.tif")
    assert target.read_bytes() == (tmp_path / "fresh.tif").read_bytes()
    assert names(tmp_path) == ["fresh.tif", "fresh.tif.aux.xml", "map.tif", "map.tif.aux.xml"]


AMONG = """
replace, left = Path.replace, int(sys.argv[4])
def counted(self, target):
    global left
    if Path(target).parent == Path(sys.argv[3]).parent:
        left -= 1
        if left < 0:
            kill()
    return replace(self, target)
Path.replace = counted
predict_scene(*sys.argv[1:4], probabilities=True, overwrite=sys.argv[5] == "overwrite")
"""


@pytest.fixture
def half_placed(files, tmp_path):
    """Kill a call among the files that it puts in place; return where the map is to be."""

    def begin(after, *, overwrite=False):
        in_child(
            AMONG,
            files / "a",
            files / "scene.tif",
            tmp_path / "map.tif",
            after,
            "overwrite" if overwrite else "",
        )
        return tmp_path / "map.tif"

    return begin


def test_a_map_killed_among_its_files_is_gone_on_with_by_the_same_call(files, tmp_path, half_placed, small):
    words = files / "a", files / "scene.tif"
    target = half_placed(1)
    assert names(tmp_path) == [".map.tif.partial", "map.tif.aux.xml"]
    # Once more, one file later: of what was placed, all is known again.
    half_placed(2)
    assert names(tmp_path) == [".map.tif.partial", "map-probabilities.tif", "map.tif.aux.xml"]
    assert windows_done_before(*words, target, probabilities=True) == 9
    (tmp_path / "whole").mkdir()
    predict_scene(*words, tmp_path / "whole" / "map.tif", probabilities=True)
    whole = names(tmp_path / "whole")
    assert names(tmp_path) == sorted([*whole, "whole"])
    for name in whole:
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_files_of_a_killed_call_are_not_another_calls(files, tmp_path, half_placed, small):
    target = half_placed(2)
    kept = target.with_name("map-probabilities.tif")
    before = kept.read_bytes()
    for network, options in (("b", {"probabilities": True}), ("a", {"probabilities": True, "entropy": True})):
        with pytest.raises(OutputError, match=r"exists already\. Choose another name"):
            predict_scene(files / network, files / "scene.tif", target, **options)
        assert kept.read_bytes() == before
    words = files / "a", files / "scene.tif", target
    kept.write_text("mine")  # put there since
    with pytest.raises(OutputError, match=r"map-probabilities.tif exists"):
        predict_scene(*words, probabilities=True)
    assert kept.read_text() == "mine"
    kept.unlink()
    assert windows_done_before(*words, probabilities=True) == 9


def test_an_old_file_that_was_to_be_replaced_is_not_a_killed_calls_own(files, tmp_path, half_placed, small):
    old = tmp_path / "map-probabilities.tif"
    old.write_text("old")
    target = half_placed(1, overwrite=True)
    assert old.read_text() == "old"
    with pytest.raises(OutputError, match=r"map-probabilities.tif exists"):
        predict_scene(files / "a", files / "scene.tif", target, probabilities=True)
    assert old.read_text() == "old"
    assert (
        windows_done_before(files / "a", files / "scene.tif", target, probabilities=True, overwrite=True) == 9
    )
    assert not (tmp_path / ".map.tif.partial").exists()


def test_overviews_and_masks_of_an_earlier_map_go_with_it(files, tmp_path):
    words = files / "a", files / "scene.tif", tmp_path / "map.tif"
    predict_scene(*words, probabilities=True)
    found = {}
    for name in ("map.tif", "map-probabilities.tif"):
        with rasterio.open(tmp_path / name) as file:
            found[name] = file.read(), file.read_masks()
        for ending in (".ovr", ".msk"):
            noted = {"driver": "GTiff", "height": 48, "width": 40, "count": 1, "dtype": "uint8"}
            with rasterio.open(
                tmp_path / f"{name}{ending}", "w", **noted, transform=rasterio.Affine.scale(2)
            ):
                pass
    predict_scene(*words, probabilities=True, overwrite=True)
    assert names(tmp_path) == ["map-probabilities.tif", "map.tif", "map.tif.aux.xml"]
    for name, (values, masks) in found.items():
        with rasterio.open(tmp_path / name) as file:
            assert file.overviews(1) == []
            np.testing.assert_array_equal(file.read(), values)
            np.testing.assert_array_equal(file.read_masks(), masks)


# --- the scene's files ----------------------------------------------------------------------------------------

NODATA_NOTE = (
    "<PAMDataset><PAMRasterBand band='1'><NoDataValue>-9999</NoDataValue></PAMRasterBand></PAMDataset>"
)
STATISTICS = """<PAMDataset>
  <PAMRasterBand band="1">
    <Histograms><HistItem><HistMin>-20</HistMin><HistCounts>1|2</HistCounts></HistItem></Histograms>
    <Metadata>
      <MDI key="STATISTICS_MAXIMUM">3.5</MDI>
      <MDI key="STATISTICS_VALID_PERCENT">100</MDI>
    </Metadata>
  </PAMRasterBand>
</PAMDataset>
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scene.tif.aux.xml", NODATA_NOTE), ("scene.tif.msk", "mask"), ("scene.tfw", "40\n0\n0\n-40\n0\n0\n"),
        ("scene.tifw", "40\n0\n0\n-40\n0\n0\n"), ("scene.wld", "40\n0\n0\n-40\n0\n0\n"),
    ],
)  # fmt: skip
def test_what_stands_beside_a_scene_is_part_of_it(files, tmp_path, name, text):
    scene = tmp_path / "scene.tif"
    shutil.copy(files / "scene.tif", scene)
    bare = files_tag([scene]), streaming.sidecars([scene])
    assert bare[1] == []
    (tmp_path / name).write_text(text)
    one = files_tag([scene]), streaming.sidecars([scene])
    assert len(one[1]) == 1
    (tmp_path / name).write_text(text.replace("9", "8").replace("40", "50").replace("mask", "MASK2"))
    two = files_tag([scene]), streaming.sidecars([scene])
    assert len({bare[0], one[0], two[0]}) == 3
    assert one[1] != two[1]
    (tmp_path / "copy").mkdir()
    for path in (scene, tmp_path / name):
        shutil.copy(path, tmp_path / "copy")
    assert files_tag([tmp_path / "copy" / "scene.tif"]) == two[0]  # wherever they lie
    (tmp_path / name).unlink()
    assert (files_tag([scene]), streaming.sidecars([scene])) == bare


def test_a_scene_that_changes_by_a_note_beside_it_is_begun_anew(files, tmp_path, monkeypatch, small):
    values = np.random.default_rng(3).normal(-10, 3, size=(1, 96, 80)).astype(np.float32)
    values[:, 40:, 50:] = -9999
    scene = write_scene(tmp_path / "scene.tif", values)
    words, notes = (files / "a", scene, tmp_path / "map.tif"), tmp_path / "scene.tif.aux.xml"
    stop_after_one_window(monkeypatch, *words)
    notes.write_text(STATISTICS)  # somebody looked at it in QGIS: the same scene
    stop_after_one_window(monkeypatch, *words)
    done = (tmp_path / ".map.tif.partial" / streaming.JOURNAL).read_text().splitlines()
    assert len(done) == 1 + 2
    notes.write_text(NODATA_NOTE)
    assert windows_done_before(*words) == 0
    with rasterio.open(words[2]) as file:
        assert ((file.read(1) == 255) == (values[0] == -9999)).all()
        assert file.tags()["SARTRANSFER_FILES"] == files_tag([scene])


def test_statistics_beside_a_nodata_value_change_nothing(tmp_path):
    scene = write_scene(tmp_path / "scene.tif")
    notes = tmp_path / "scene.tif.aux.xml"
    notes.write_text(STATISTICS)
    assert streaming.sidecars([scene]) == []
    notes.write_text(NODATA_NOTE)
    before = files_tag([scene])
    inner = STATISTICS.split('band="1">')[1].split("</PAMRasterBand>")[0]
    notes.write_text(NODATA_NOTE.replace("</PAMRasterBand>", f"{inner}</PAMRasterBand>"))
    assert "STATISTICS_MAXIMUM" in notes.read_text()
    assert files_tag([scene]) == before


# --- several networks -----------------------------------------------------------------------------------------


def test_networks_without_a_common_valid_pixel_map_nothing(files, tmp_path, monkeypatch, small):
    values = np.random.default_rng(3).normal(-10, 3, size=(2, 96, 80)).astype(np.float32)
    values[0, :48], values[1, 48:] = np.nan, np.nan
    scene = write_scene(tmp_path / "scene.tif", values)
    words = [files / "a", files / "h"], scene, tmp_path / "map.tif"
    words_of_it = "no pixel that is valid in the bands of all networks: nothing to map"
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "open_members", None)  # would fail if it came so far
        with pytest.raises(InputError, match=words_of_it):
            predict_scene(*words)
    assert names(tmp_path) == ["scene.tif"]
    monkeypatch.setattr(mapping, "_odd_values", lambda *_: [])  # found out only in the end
    with pytest.raises(InputError, match="nothing to map") as found:
        predict_scene(*words)
    assert names(tmp_path) == ["scene.tif"]
    assert not getattr(found.value, "__notes__", [])  # there is nothing to go on with


def test_a_map_without_a_pixel_can_be_told(capsys):
    from sartransfer.cli.mapping import _show

    _show(MapResult(Path("map.tif"), None, {"land": 0, "water": 0}, ()))
    assert "land: 0 pixels, 0.0%" in capsys.readouterr().out


def test_each_network_is_warned_of_by_its_own_training(files, tmp_path):
    scene = files / "scene.tif"
    together = predict_scene([files / "a", files / "far"], scene, tmp_path / "one.tif").warnings
    assert len(together) == 1
    assert together[0].startswith("network 2 (")
    assert "/far.safetensors): scene 'scene', band 'sigma0_vv_db': its mean lies -10.0" in together[0]
    assert str(tmp_path) not in together[0]
    assert predict_scene([files / "a", files / "b"], scene, tmp_path / "two.tif").warnings == ()
    alone = predict_scene(files / "far", scene, tmp_path / "three.tif").warnings
    assert [together[0].partition("): ")[2]] == list(alone)


def many_bands(count, side):
    bands = tuple(InputBand(f"b{i}", "digital_number", mean=100.0, std=20.0) for i in range(count))
    values = np.random.default_rng(0).normal(100, 20, size=(count, side, side)).astype(np.float32)
    values[:, : side // 2] += 7
    values[:, 0, 0] = np.nan
    scene = Scene(
        "s",
        tuple(Band(b.name, parse_unit("digital_number")) for b in bands),
        side,
        side,
        ArraySource(values),
        PLACE,
    )
    return InputContract(bands), scene


@pytest.mark.parametrize("core", [100, 256, 1000])
@pytest.mark.parametrize("count", [1, 6])
def test_what_is_looked_at_of_a_scene_is_bounded_and_spread_evenly(monkeypatch, count, core):
    """Of 2040 x 2040 pixels in 8 bands all were: 282 MiB, where 116 were told for the whole map."""
    side, most = 512, 9000
    monkeypatch.setattr(mapping, "SPREAD", most)
    monkeypatch.setattr(mapping, "VALUES", 4 * most)
    wanted, scene = many_bands(count, side)
    plan = type("Plan", (), {"core": core})
    (sample,) = mapping._samples([wanted], scene, plan, predict.plan_flow(scene, "cpu"))
    limit = min(most, 4 * most // count)
    assert sample.shape[:2] == (count, 1)
    assert 0.8 * limit < sample.shape[2] <= limit + (side // core + 1) ** 2  # one more a window
    whole = wanted.read(scene).data.reshape(count, -1)
    np.testing.assert_allclose(sample.mean((1, 2)), whole.mean(1), atol=0.05)
    # No column of a window is left out.
    index = np.arange(side * side, dtype=np.float32).reshape(1, side, side)
    one = InputContract((InputBand("b0", "digital_number"),))
    places = Scene("s", scene.bands[:1], side, side, ArraySource(index), PLACE)
    (seen,) = mapping._samples([one], places, plan, predict.plan_flow(scene, "cpu"))
    assert len(np.unique(seen.ravel().astype(int) % side)) == side


def test_all_of_a_small_scene_is_looked_at_and_let_go_of(files, tmp_path, monkeypatch):
    kept, alive = [], []
    samples, arrays = mapping._samples, mapping.map_arrays

    def noted(*args):
        found = samples(*args)
        kept.extend(weakref.ref(each) for each in found)
        assert found[0].shape == (1, 1, 96 * 80 - 20 * 30)
        return found

    def looked(*args):
        gc.collect()
        alive.extend(ref() is not None for ref in kept)
        return arrays(*args)

    monkeypatch.setattr(mapping, "_samples", noted)
    monkeypatch.setattr(mapping, "map_arrays", looked)
    predict_scene(files / "a", files / "scene.tif", tmp_path / "map.tif")
    assert alive == [False]


# --- names of GeoPackages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a!b.gpkg", "a!b/c.gpkg", "zip!/x!.gpkg", "plain.gpkg"])
def test_a_geopackage_may_have_an_exclamation_mark_in_its_path(tmp_path, name):
    pyogrio = pytest.importorskip("pyogrio")
    labels = np.repeat(np.arange(3, dtype=np.uint8), 12).reshape(1, 6, 6)
    made = write_geotiff(tmp_path / "m!ap.tif", labels, georeference=PLACE)
    out = tmp_path / name
    out.parent.mkdir(exist_ok=True)
    found = write_polygons(made, out, classes=("x", "y", "z"))
    assert (found.polygons, found.path) == (3, out)
    plain = tmp_path / "copy.gpkg"
    shutil.copy(out, plain)
    assert pyogrio.read_info(plain, layer="classes")["features"] == 3
    assert [p for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_a_map_with_an_exclamation_mark_has_polygons(files, tmp_path):
    pytest.importorskip("pyogrio")
    found = predict_scene(files / "a", files / "scene.tif", tmp_path / "a!b.tif", polygons=PolygonOptions())
    assert found.polygons == tmp_path / "a!b.gpkg"
    assert names(tmp_path) == ["a!b.gpkg", "a!b.tif", "a!b.tif.aux.xml"]


def test_a_path_that_no_link_can_make_plain_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("pyogrio")
    labels = np.zeros((1, 6, 6), np.uint8)
    made = write_geotiff(tmp_path / "map.tif", labels, georeference=PLACE)
    (tmp_path / "a!").mkdir()

    def refused(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    monkeypatch.setattr("sartransfer.polygons._totals", None)  # would fail if it came so far
    with pytest.raises(OutputError, match=r"is taken for an archive's .*Choose another name"):
        write_polygons(made, tmp_path / "a!" / "out.gpkg")
    assert names(tmp_path / "a!") == []

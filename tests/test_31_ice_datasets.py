"""AI4Arctic and ExtremeEarth from generated files of the published structure: units, charts, splits."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy.interpolate import RegularGridInterpolator

from sartransfer.data.datasets.ai4arctic import ai4arctic, packed_values
from sartransfer.data.datasets.extremeearth import HALVES, STAMPS, extremeearth
from sartransfer.errors import InputError
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.icechart import CLASSES
from sartransfer.radar.units import UNKNOWN
from sartransfer.readers import open_entry, opening, read_label
from sartransfer.readers.ai4arctic import (
    PUBLISHED,
    Encoding,
    find_encoding,
    open_ai4arctic,
    pack,
    read_ai4arctic_chart,
    read_ai4arctic_label,
)
from sartransfer.scene import GeoReference, Window

HEIGHT, WIDTH = 42, 63
RAW = "S1B_EW_GRDM_1SDH_20180124T194759_20180124T194859_020301_022AA4_1F75_icechart_dmi_201801241950_SouthEast_RIC.nc"
HH, HV, ANGLE = PUBLISHED
CODES = [
    "id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE",
    "1;92;-9;93;05;-9;-9;-9;-9;-9;-9;-9;-9;-9;I",
    "2;91;50;95;06;40;81;22;-9;-9;-9;-9;-9;-9;I",
    "3;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;W",
    "4;60;40;95;03;20;97;03;-9;-9;-9;-9;-9;-9;I",
    "5;01;-9;-9;-9;-9;-9;-9;-9;-9;-9;98;-9;-9;I",
]
# by hand: polygon -> concentration, stage, floe (255: none); 0 and 9 are not in the table
BY_HAND = {
    0: (255, 255, 255), 1: (10, 4, 4), 2: (10, 255, 255), 3: (0, 0, 0), 4: (6, 5, 2), 5: (0, 0, 0), 9: (255, 255, 255)
}  # fmt: skip


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="netCDF needs h5py (the extra ai4arctic)")


def physical(rng, height=HEIGHT, width=WIDTH):
    """HH, HV and incidence angle of a scene, in dB and degrees."""
    angle = np.broadcast_to(np.linspace(19.0, 46.5, width), (height, width)).astype(np.float32)
    hh = -14 - 0.25 * (angle - 34) + rng.normal(0, 3, (height, width))
    hv = -25 - 0.1 * (angle - 34) + rng.normal(0, 2, (height, width))
    return {HH: hh.astype(np.float32), HV: hv.astype(np.float32), ANGLE: angle}


def polygons(rng, height=HEIGHT, width=WIDTH):
    return rng.choice(list(BY_HAND), (height, width)).astype(np.uint8)


def write_raw(h5py, path, seed=0, strings=True):
    """A raw scene, as the dataset has them: a grid of points, polygon numbers and their codes."""
    rng = np.random.default_rng(seed)
    values, chart = physical(rng), polygons(rng)
    values[HH][0, :5] = np.nan
    lines, samples = np.meshgrid(np.linspace(0, HEIGHT - 1, 7), np.linspace(0, WIDTH - 1, 5), indexing="ij")
    angle = 19 + 0.4 * samples + 0.02 * lines
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name in (HH, HV):
            file[name] = values[name]
        file["polygon_icechart"] = chart
        if strings:
            file.create_dataset("polygon_codes", data=CODES, dtype=h5py.string_dtype())
        else:
            longest = max(map(len, CODES))
            file["polygon_codes"] = np.array([list(c.ljust(longest)) for c in CODES], dtype="S1")
        for name, grid in (
            ("line", lines), ("sample", samples), ("incidenceangle", angle), ("latitude", 70 - lines / 100),
            ("longitude", -30 + samples / 50),
        ):  # fmt: skip
            file[f"sar_grid_{name}"] = grid.ravel()
    return values, chart, (lines[:, 0], samples[0], angle)


def classes_of(chart):
    table = np.full((10, 3), 255, np.uint8)
    for number, classes in BY_HAND.items():
        table[number] = classes
    return table[chart]


def write_ready(h5py, path, how="standardized", seed=0, reference=None):
    """A ready-to-train scene; the chart stands in `reference` where that is given, as of the test scenes."""
    rng = np.random.default_rng(seed)
    values, chart = physical(rng), classes_of(polygons(rng))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, (mean, std) in PUBLISHED.items():
            low, high = values[name].min(), values[name].max()
            if how == "standardized":
                stored = (values[name] - mean) / std
            else:
                stored = 2 * (values[name] - low) / (high - low) - 1
            if name != ANGLE:
                stored[:3] = 0  # masked land
            file[name] = stored.astype(np.float32)
            file[name].attrs["variable_fill_value"] = 0
    with h5py.File(reference or path, "a") as file:
        for i, name in enumerate(("SIC", "SOD", "FLOE")):
            file[name] = chart[..., i]
            file[name].attrs["chart_fill_value"] = 255
    return values, chart


# --- units -----------------------------------------------------------------------------------------------------------


def coded(values, how):
    if how == "physical":
        return values
    if how == "standardized":
        return {n: (v - PUBLISHED[n][0]) / PUBLISHED[n][1] for n, v in values.items()}
    return {n: 2 * (v - v.min()) / (v.max() - v.min()) - 1 for n, v in values.items()}


@pytest.mark.parametrize(
    ("how", "found"),
    [("physical", Encoding.PHYSICAL), ("standardized", Encoding.STANDARDIZED), ("scaled", Encoding.UNKNOWN)],
)
@pytest.mark.parametrize("seed", range(3))
def test_units_are_found_out(how, found, seed):
    values = coded(physical(np.random.default_rng(seed)), how)
    assert find_encoding(values[ANGLE], values[HH], values[HV]) is found


def test_numbers_that_disagree_have_no_unit():
    rng = np.random.default_rng(0)
    one, other = physical(rng), coded(physical(rng), "standardized")
    empty = np.full(3, np.nan)
    assert find_encoding(one[ANGLE], other[HH], other[HV]) is Encoding.UNKNOWN
    assert find_encoding(other[ANGLE], one[HH], one[HV]) is Encoding.UNKNOWN
    assert find_encoding(one[ANGLE] / 57.3, one[HH], one[HV]) is Encoding.UNKNOWN  # radians
    assert find_encoding(one[ANGLE], 10 ** (one[HH] / 10), 10 ** (one[HV] / 10)) is Encoding.UNKNOWN  # linear
    assert find_encoding(empty, one[HH], one[HV]) is Encoding.UNKNOWN
    assert find_encoding(one[ANGLE], empty, empty) is Encoding.PHYSICAL


# --- reader ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strings", [True, False])
def test_a_raw_scene(h5py, tmp_path, strings):
    values, chart, (lines, samples, angle) = write_raw(h5py, tmp_path / RAW, strings=strings)
    scene = open_ai4arctic(tmp_path / RAW)
    assert scene.names == ("sigma0_hh_db", "sigma0_hv_db", "incidence_angle_deg")
    assert [str(b.unit) for b in scene.bands] == ["sigma0_db", "sigma0_db", "incidence_angle_deg"]
    assert (scene.time, scene.platform) == (datetime(2018, 1, 24, 19, 47, 59), "Sentinel-1B")
    window = Window(5, 11, 20, 33)
    data, valid = scene.read(window=window)
    np.testing.assert_array_equal(data[:2], [values[n][window.slices] for n in (HH, HV)])
    rows, cols = np.mgrid[5:25, 11:44]
    wanted = RegularGridInterpolator((lines, samples), angle)(np.stack([rows, cols], -1))
    np.testing.assert_allclose(data[2], wanted, atol=1e-4)
    assert valid.all()
    assert scene.read().valid.sum() == HEIGHT * WIDTH - 5
    assert scene.georeference.crs == "EPSG:4326"
    assert scene.georeference.gcps[0] == (0.0, 0.0, -30.0, 70.0, 0.0)
    for i, what in enumerate(("concentration", "stage", "floe")):
        np.testing.assert_array_equal(read_ai4arctic_chart(tmp_path / RAW, what), classes_of(chart)[..., i])
    sic = classes_of(chart)[..., 0]
    np.testing.assert_array_equal(
        read_ai4arctic_chart(tmp_path / RAW), np.where(sic == 255, 255, (sic > 0).astype(int))
    )
    assert (read_ai4arctic_chart(tmp_path / RAW, "stage", dominance=0.52)[chart == 2] == 5).all()


def test_a_standardized_scene_is_decibels_again(h5py, tmp_path):
    path = tmp_path / "20180124T194759_dmi_prep.nc"
    values, chart = write_ready(h5py, path)
    scene = open_ai4arctic(path)
    data, valid = scene.read()
    assert not valid[:3].any()
    assert valid[3:].all()
    np.testing.assert_allclose(data[:, 3:], np.stack([values[n] for n in PUBLISHED])[:, 3:], atol=1e-4)
    assert str(scene.bands[0].unit) == "sigma0_db"
    assert scene.georeference == GeoReference()
    np.testing.assert_array_equal(read_ai4arctic_chart(path, "floe"), chart[..., 2])
    power = scene.read(["sigma0_hh_db"], units="sigma0").data[0, 3:]
    np.testing.assert_allclose(power, 10 ** (values[HH][3:] / 10), rtol=1e-4)


def test_a_scaled_scene_opens_without_a_unit(h5py, tmp_path):
    path = tmp_path / "20180124T194759_dmi_prep.nc"
    write_ready(h5py, path, how="scaled")
    scene = open_ai4arctic(path)
    assert {b.unit for b in scene.bands} == {UNKNOWN}
    assert np.abs(scene.read(window=Window(3, 0, 9, 9)).data).max() <= 1


def test_files_that_are_not_as_published(h5py, tmp_path):
    path = tmp_path / RAW
    with pytest.raises(InputError, match="is not there"):
        open_ai4arctic(path)
    path.write_bytes(b"CDF\x01 something else")
    with pytest.raises(InputError, match="cannot be read as netCDF-4"):
        open_ai4arctic(path)
    write_raw(h5py, path)
    with h5py.File(path, "a") as file:
        line = file["sar_grid_line"][()]
        del file["sar_grid_line"]
        file["sar_grid_line"] = line + np.arange(len(line))
    with pytest.raises(InputError, match="no regular grid"):
        open_ai4arctic(path)
    with h5py.File(path, "a") as file:
        del file["sar_grid_line"], file["polygon_codes"]
    with pytest.raises(InputError, match="neither sar_incidenceangle nor sar_grid_line"):
        open_ai4arctic(path)
    with pytest.raises(InputError, match="without their codes"):
        read_ai4arctic_chart(path)
    with h5py.File(path, "a") as file:
        del file[HV]
    with pytest.raises(InputError, match="has no nersc_sar_secondary"):
        open_ai4arctic(path)
    ready = tmp_path / "20180124T194759_dmi_prep.nc"
    write_ready(h5py, ready, reference=tmp_path / "x_reference.nc")
    with pytest.raises(InputError, match=r"no ice chart \(SIC\)"):
        read_ai4arctic_chart(ready)
    with h5py.File(tmp_path / "x_reference.nc", "a") as file:
        file["SIC"][0, 0] = 11
    with pytest.raises(InputError, match="classes that are not known: 11"):
        read_ai4arctic_chart(tmp_path / "x_reference.nc")
    with pytest.raises(InputError, match="what='ice'"):
        read_ai4arctic_chart(tmp_path / "x_reference.nc", "ice")


@pytest.mark.parametrize("how", ["external", "virtual", "link", "soft link"])
def test_values_that_lie_in_another_file_are_not_read(h5py, tmp_path, how):
    """HDF5 can name any file of the machine as a variable's values."""
    write_raw(h5py, tmp_path / RAW)
    open_ai4arctic(tmp_path / RAW)
    other = tmp_path / "other.nc"
    with h5py.File(other, "w") as file:
        file["x"] = np.zeros((HEIGHT, WIDTH), np.float32)
    with h5py.File(tmp_path / RAW, "a") as file:
        del file[HH]
        if how == "external":
            stored = [(str(other), 0, 4 * HEIGHT * WIDTH)]
            file.create_dataset(HH, (HEIGHT, WIDTH), np.float32, external=stored)
        elif how == "virtual":
            layout = h5py.VirtualLayout((HEIGHT, WIDTH), np.float32)
            layout[:] = h5py.VirtualSource(str(other), "x", (HEIGHT, WIDTH))
            file.create_virtual_dataset(HH, layout)
        elif how == "link":
            file[HH] = h5py.ExternalLink(str(other), "x")
        else:
            file["group/there"] = h5py.ExternalLink(str(other), "x")
            file[HH] = h5py.SoftLink("/group/there")
    with pytest.raises(InputError, match=f"{HH} lies in another file"):
        open_ai4arctic(tmp_path / RAW)


def test_without_h5py_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install .*sartransfer\[ai4arctic\]"):
        open_ai4arctic(tmp_path / RAW)


# --- catalogs --------------------------------------------------------------------------------------------------------


def test_every_packed_value_has_its_class():
    sizes = [len(CLASSES[w]) for w in ("concentration", "stage", "floe")]
    for what, place in (("ice-water", 0), ("concentration", 0), ("stage", 1), ("floe", 2)):
        table = packed_values(what)
        assert len(table) == np.prod([n + 1 for n in sizes])
        for _ in range(50):
            chosen = [np.random.default_rng(len(table)).choice([*range(n), 255]) for n in sizes]
            value = table[int(pack(*(np.uint8([c]) for c in chosen))[0])]
            expected = chosen[place]
            if what == "ice-water" and expected != 255:
                expected = int(expected > 0)
            assert value == expected


def test_a_catalog_of_ready_to_train_scenes(h5py, tmp_path, monkeypatch):
    root = tmp_path / "ready"
    write_ready(h5py, root / "20180124T194759_dmi_prep.nc")
    write_ready(h5py, root / "20190301T101010_cis_prep.nc", seed=1)
    charted = write_ready(
        h5py,
        root / "20200505T050505_dmi_prep.nc",
        seed=2,
        reference=root / "20200505T050505_dmi_reference.nc",
    )[1]
    catalog = ai4arctic(root)
    assert [e.split for e in catalog.entries] == ["train", "train", "test"]
    assert catalog.entries[2].label.name == "20200505T050505_dmi_reference.nc"
    assert catalog.entries[0].group == "20180124T194759"
    monkeypatch.setitem(opening.READERS, "ai4arctic", open_ai4arctic)
    assert open_entry(catalog.entries[2]).names[0] == "sigma0_hh_db"
    values = read_ai4arctic_label(catalog.entries[2].label)
    for i, what in enumerate(("concentration", "stage", "floe")):
        label = opening._classes(values, values >= 0, ai4arctic(root, what).label_values, root)
        np.testing.assert_array_equal(label, charted[..., i])
    write_raw(h5py, root / RAW)
    with pytest.raises(InputError, match="1 raw and 3 ready-to-train"):
        ai4arctic(root)


def test_a_catalog_of_raw_scenes(tmp_path):
    root = tmp_path / "ai4arctic"
    for folder, day in (("train", "20180124"), ("Raw_Test", "20190124"), ("latest", "20200124")):
        path = root / folder / RAW.replace("20180124", day)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    catalog = ai4arctic(root)
    assert {e.group: e.split for e in catalog.entries} == {
        "20180124T194759": "train",
        "20190124T194759": "test",
        "20200124T194759": "train",
    }
    with pytest.raises(InputError, match="no scenes of AI4Arctic"):
        ai4arctic(tmp_path / "none")
    with pytest.raises(InputError, match="what='kind'"):
        ai4arctic(tmp_path, "kind")


def test_extremeearth_from_its_polygons_to_its_catalog(tmp_path):
    pyogrio = pytest.importorskip("pyogrio", reason="ice charts need pyogrio (the extra icechart)")
    from sartransfer.prepare.icechart import prepare_icechart

    labels, scenes = tmp_path / "Sea_Ice-labels", tmp_path / "scenes"
    labels.mkdir()
    scenes.mkdir()
    polar = "+proj=stere +lat_0=90 +lon_0=0 +datum=WGS84 +units=m"  # the dataset's own
    for stamp in STAMPS:
        place = GeoReference(polar, (80.0, 0.0, -300_000.0, 0.0, -80.0, -1_000_000.0))
        write_geotiff(scenes / f"{stamp}.tif", np.zeros((8, 8), np.float32), georeference=place)
        pyogrio.raw.write(
            labels / f"seaice_s1_{stamp}.shp",
            shapely.to_wkb(shapely.box([-301e3, -299_680], -1_002e3, [-299_680, -298e3], -999e3)),
            [np.array([1, 2]), np.array(["I", "W"], object), np.array([95, 13])],
            ["id", "poly_type", "SA"],
            geometry_type="Polygon",
            crs=polar,
        )
        chart = labels / f"seaice_s1_{stamp}.shp"
        prepare_icechart(
            chart, scenes / f"{stamp}.tif", tmp_path / f"{chart.stem}.tif", columns="extremeearth"
        )
    catalog = extremeearth(tmp_path)
    splits = {e.time.month: e.split for e in catalog.entries}
    assert splits == {1: "january", 7: "july"} | dict.fromkeys((2, 3, 4, 5, 6, 8, 9, 10, 11, 12), "train")
    assert len({e.group for e in catalog.entries}) == 12
    label = read_label(catalog.entries[0], catalog)
    np.testing.assert_array_equal(label, np.broadcast_to([1] * 4 + [0] * 4, (8, 8)))
    assert {datetime.strptime(s[:8], "%Y%m%d").month for s in STAMPS} == set(range(1, 13)) > set(HALVES)
    (tmp_path / f"seaice_s1_{STAMPS[3]}.tif").unlink()
    with pytest.raises(InputError, match=rf"lacks seaice_s1_{STAMPS[3]}\. Download ExtremeEarth v2"):
        extremeearth(tmp_path)
    assert len(extremeearth(tmp_path, STAMPS[:3]).entries) == 3
    with pytest.raises(InputError, match="no scenes of ExtremeEarth"):
        extremeearth(tmp_path, ("20180101t000000",))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / f"{STAMPS[0]}.tif").write_bytes(b"")
    with pytest.raises(InputError, match="2 files"):
        extremeearth(tmp_path, STAMPS[:1])


def _year_on_one_place(root):
    """Twelve scenes of 40 x 40 pixels of 8 km, shifted by one pixel against each other, and their labels."""
    rng = np.random.default_rng(0)
    for i, stamp in enumerate(STAMPS):
        place = GeoReference("EPSG:3413", (8000.0, 0.0, 5e5 + 8000 * (i % 4), 0.0, -8000.0, -9e5))
        angle = np.broadcast_to(np.linspace(19, 46, 40), (40, 40))
        bands = np.stack([rng.normal(-14, 3, (40, 40)), rng.normal(-25, 2, (40, 40)), angle]).astype(
            np.float32
        )
        label = np.repeat(np.array([[1] * 20 + [0] * 20], np.uint8), 40, axis=0)
        write_geotiff(
            root / f"{stamp}.tif",
            bands,
            georeference=place,
            descriptions=["sigma0_hh_db", "sigma0_hv_db", "incidence_angle_deg"],
            units=["sigma0_db", "sigma0_db", "incidence_angle_deg"],
        )
        write_geotiff(root / f"seaice_s1_{stamp}.tif", label, georeference=place)
        write_geotiff(root / f"seaice_s1_{stamp}_polygons.tif", label + np.uint8(1), georeference=place)


def test_the_papers_recipe_takes_scenes_of_one_place_at_other_months(tmp_path, monkeypatch):
    """ExtremeEarth's twelve scenes overlap: the recipe says that ice drifts, and nothing else lets them pass."""
    from typer.testing import CliRunner

    from sartransfer.cli import app
    from sartransfer.errors import LeakageError
    from sartransfer.plan import plan_comparison
    from sartransfer.recipe import Recipe

    monkeypatch.setenv("SARTRANSFER_DATA", str(tmp_path))
    monkeypatch.setenv("SARTRANSFER_WEIGHTS", str(tmp_path))
    root = tmp_path / "extremeearth"
    root.mkdir()
    _year_on_one_place(root)
    path = Path(__file__).parents[1] / "recipes" / "sea-ice.yaml"
    recipe = Recipe.from_yaml(path, ["initializations.imagenet=random"])
    plan = plan_comparison(recipe, tmp_path / "out")
    assert {(t.name, t.relation) for t in plan.test_sets} == {
        ("january", "unseen events"),
        ("july", "unseen events"),
    }
    assert [w for w in plan.warnings if "stands on ground that is trained on, 14 days apart" in w] == [
        w for w in plan.warnings if "data.footprint_days" in w
    ]
    assert len([w for w in plan.warnings if "data.footprint_days" in w]) == 2
    runner = CliRunner()
    clean = runner.invoke(app, ["catalog", "check", str(path)])
    assert clean.exit_code == 0, clean.output
    assert "12 scenes" not in clean.output  # four are cut in two
    assert "16 scenes, 0 problems, 0 leaks between splits." in " ".join(clean.output.split())
    # January and 18 December are 336 days apart, mid-January and mid-February 28: 30 days refuse the latter.
    for days in ("null", "30"):
        with pytest.raises(LeakageError, match=r"data\.footprint_days"):
            plan_comparison(Recipe.from_yaml(path, [f"data.footprint_days={days}"]), tmp_path / "out")
    without = Recipe.from_yaml(path, ["strata.seams_deg=[]"])
    with pytest.raises(InputError, match=r"strata\.seam_m: scene '20180116t075430' does not say where"):
        plan_comparison(without, tmp_path / "out")
    told = runner.invoke(app, ["catalog", "check", str(path), "--set", "strata.seams_deg=[]"])
    assert told.exit_code == 1
    assert "2 problems" in told.output
    assert "strata 20180116t075430" in told.output

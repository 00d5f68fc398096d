"""GeoTIFF: what is written comes back; what is damaged, remote or half written is refused."""

import contextlib
import resource
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from sartransfer import cloud, geotiff, polygons
from sartransfer.errors import InputError, OutputError, UnitError
from sartransfer.geotiff import footprint, open_geotiff, write_geotiff
from sartransfer.radar.units import UNKNOWN, parse_unit
from sartransfer.scene import Band, GeoReference, Window, parse_bands

rasterio = pytest.importorskip("rasterio")
UTM = GeoReference("EPSG:32633", (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0))
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(-12.0, 3.0, (2, 300, 290)).astype(np.float32)


@pytest.fixture
def tif(tmp_path):
    return write_geotiff(
        tmp_path / "a.tif",
        IMAGE,
        georeference=UTM,
        descriptions=("sigma0_vv_db", "VH"),
        units=("sigma0_db",) * 2,
    )


def test_what_is_written_comes_back(tif):
    scene = open_geotiff(tif)
    np.testing.assert_array_equal(scene.read().data, IMAGE)
    assert scene.bands == (
        Band("sigma0_vv_db", parse_unit("sigma0_db"), "VV"),
        Band("VH", parse_unit("sigma0_db"), "VH"),
    )
    assert scene.georeference.transform == UTM.transform
    assert rasterio.crs.CRS.from_wkt(scene.georeference.crs).to_epsg() == 32633


def test_windows_and_band_order(tif):
    data, valid = open_geotiff(tif).read(["VH", "sigma0_vv_db"], Window(250, 17, 50, 31))
    np.testing.assert_array_equal(data, IMAGE[::-1, 250:300, 17:48])
    assert valid.all()


def test_stored_in_deflated_tiles_with_tags_and_a_colormap(tmp_path):
    classes = RNG.integers(0, 3, (70, 50), dtype=np.uint8)
    path = write_geotiff(
        tmp_path / "m.tif",
        classes,
        georeference=UTM,
        tags={"MODEL": "demo"},
        nodata=255,
        colormap={0: (1, 2, 3), 1: (4, 5, 6)},
    )
    with rasterio.open(path) as file:
        assert file.profile["tiled"]
        assert file.profile["compress"] == "deflate"
        assert file.tags()["MODEL"] == "demo"
        assert file.colormap(1)[1] == (4, 5, 6, 255)
        assert file.nodata == 255
        np.testing.assert_array_equal(file.read(1), classes)


def test_nodata_masks_and_nan_are_not_valid(tmp_path):
    image = IMAGE.copy()
    image[0, :5], image[1, 7, 7] = -9999.0, np.nan
    _, valid = open_geotiff(write_geotiff(tmp_path / "n.tif", image, nodata=-9999.0)).read()
    expected = np.ones(image.shape[1:], dtype=bool)
    expected[:5], expected[7, 7] = False, False
    np.testing.assert_array_equal(valid, expected)


def test_an_internal_mask_counts(tmp_path):
    mask = np.ones((40, 40), dtype=bool)
    mask[:, :3] = False
    path = tmp_path / "mask.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=1, height=40, width=40, dtype="uint8", crs="EPSG:4326",
            transform=rasterio.Affine(1e-4, 0, 10, 0, -1e-4, 50),
        ) as file,
    ):  # fmt: skip
        file.write(np.ones((1, 40, 40), dtype=np.uint8))
        file.write_mask(mask)
    np.testing.assert_array_equal(open_geotiff(path).read().valid, mask)


def test_scale_and_offset_of_the_file_are_applied(tmp_path):
    path = write_geotiff(tmp_path / "s.tif", np.full((8, 8), 100, dtype=np.int16), georeference=UTM)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.5,), (-70.0,)
    np.testing.assert_array_equal(open_geotiff(path).read().data, np.full((1, 8, 8), -20.0))


def test_control_points_come_back(tmp_path):
    points = ((0.0, 0.0, 20.0, 70.0, 0.0), (0.0, 8.0, 21.0, 70.0, 0.0), (8.0, 0.0, 20.0, 69.0, 5.0))
    path = write_geotiff(
        tmp_path / "g.tif", IMAGE[0, :8, :8], georeference=GeoReference("EPSG:4326", None, points)
    )
    georeference = open_geotiff(path).georeference
    assert georeference.gcps == points
    assert georeference.transform is None
    assert rasterio.crs.CRS.from_wkt(georeference.crs).to_epsg() == 4326


def test_a_file_that_says_nothing_opens_as_unknown(tmp_path):
    path = write_geotiff(tmp_path / "u.tif", IMAGE)
    scene = open_geotiff(path)
    assert scene.names == ("band_1", "band_2")
    assert {b.unit for b in scene.bands} == {UNKNOWN}
    assert scene.georeference == GeoReference()
    with pytest.raises(UnitError, match="unknown"):
        scene.read(units="sigma0_db")
    assert open_geotiff(path, parse_bands("VV=sigma0_db,VH=sigma0_db")).bands[1].unit == parse_unit(
        "sigma0_db"
    )


@pytest.mark.parametrize(
    ("description", "unit", "polarization"),
    [
        ("sigma0_hv", "sigma0", "HV"),
        ("gamma0_vv_db", "gamma0_db", "VV"),
        ("incidence_angle_deg", "incidence_angle_deg", None),
        ("HH", "unknown", "HH"),
        ("something", "unknown", None),
        ("amplitude_hh", "amplitude", "HH"),
    ],
)
def test_meaning_is_read_off_descriptions(tmp_path, description, unit, polarization):
    path = write_geotiff(tmp_path / "d.tif", IMAGE[0, :8, :8], descriptions=(description,))
    assert open_geotiff(path).bands == (Band(description, parse_unit(unit), polarization),)


def test_contradictions_about_units_are_refused(tif, tmp_path):
    with pytest.raises(UnitError, match=r"sigma0_db as the file says, but gamma0_db"):
        open_geotiff(tif, parse_bands("VV=gamma0_db,VH=sigma0_db"))
    with pytest.raises(InputError, match="has 2 bands"):
        open_geotiff(tif, parse_bands("VV=sigma0_db"))
    path = write_geotiff(tmp_path / "x.tif", IMAGE[0], descriptions=("sigma0_vv_db",), units=("sigma0",))
    with pytest.raises(UnitError, match="belies"):
        open_geotiff(path)


def test_complex_pixels_are_refused(tmp_path):
    path = tmp_path / "c.tif"
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 10, 0, -1e-4, 50)}
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=8, width=8, dtype="complex64", **place
    ) as f:
        f.write(np.ones((1, 8, 8), dtype=np.complex64))
    with pytest.raises(InputError, match="complex64"):
        open_geotiff(path)
    with pytest.raises(InputError, match="complex64"):
        write_geotiff(tmp_path / "d.tif", np.ones((8, 8), dtype=np.complex64))


@pytest.mark.parametrize(
    "name",
    ["/vsicurl/http://localhost/a.tif", "http://localhost/a.tif", "/vsizip/a.zip/a.tif", "nowhere.tif", "."],
)
def test_only_plain_local_files_are_opened(name):
    with pytest.raises(InputError, match="no local file"):
        open_geotiff(name)


def test_a_vrt_in_disguise_is_not_followed(tmp_path, tif):
    fake = tmp_path / "fake.tif"
    fake.write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{tif}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(InputError, match="cannot be read as a TIFF"):
        open_geotiff(fake)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.95])
def test_a_truncated_file_is_refused(tif, tmp_path, share):
    whole = tif.read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="Is it whole"):
        open_geotiff(cut).read()


def test_an_existing_file_is_kept_unless_asked(tif):
    before = tif.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write_geotiff(tif, IMAGE[0])
    assert tif.read_bytes() == before
    write_geotiff(tif, IMAGE[0], overwrite=True)
    assert len(open_geotiff(tif).bands) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        write_geotiff(tmp_path / "no" / "a.tif", IMAGE)


@pytest.mark.parametrize("limit", [4096, 100_000, 400_000])
def test_a_write_cut_short_leaves_nothing(tmp_path, limit):
    """A limit on file size makes write(2) fall short, as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OutputError, match="Free some space"):
            write_geotiff(tmp_path / "a.tif", IMAGE, georeference=UTM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_loses_pixels_in_silence_is_noticed(tmp_path, monkeypatch):
    real = geotiff._write

    def lossy(path, image, *rest):
        image = image.copy()
        image[-1, -1, -1] = 0
        real(path, image, *rest)

    monkeypatch.setattr(geotiff, "_write", lossy)
    with pytest.raises(OutputError, match="could not be written whole"):
        write_geotiff(tmp_path / "a.tif", IMAGE)
    assert list(tmp_path.iterdir()) == []


def test_threads_may_read_one_scene(tif):
    scene, wrong = open_geotiff(tif), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(10):
            r, c = (int(v) for v in rng.integers(0, 200, 2))
            if not np.array_equal(
                scene.read(window=Window(r, c, 60, 60)).data, IMAGE[:, r : r + 60, c : c + 60]
            ):
                wrong.append((r, c))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_warnings_stay_silenced_when_another_thread_ends(tmp_path, monkeypatch):
    """Filters are the whole process's: whoever ends first must not bring the warning back for those inside."""

    @contextlib.contextmanager
    def ending_inside():
        """A file that another thread has open, and closes once the code that is tested is inside."""
        with contextlib.ExitStack() as other:
            other.enter_context(geotiff.quiet())

            def end():
                other.close()
                warnings.warn("not georeferenced", rasterio.errors.NotGeoreferencedWarning, stacklevel=1)

            yield end

    layer = cloud.Layer(tmp_path / "a.tif", 1, "uint8", 255, ("class",))
    values = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    (tmp_path / "raw").write_bytes(values.tobytes())
    with ending_inside() as end:

        def blocks():
            end()
            yield Window(0, 0, 3, 4), values

        cloud.write_cloud_optimized(layer.path, tmp_path / "raw", layer, 3, 4, GeoReference(), {}, blocks)
    ground = SimpleNamespace(height=3, width=4)
    with ending_inside() as end:

        def rows(_):
            end()
            yield 0, values[0]

        monkeypatch.setattr(polygons, "_rows", rows)
        polygons._write_plain(tmp_path / "plain.tif", tmp_path / "map.tif", ground, 0.0, 255)


def test_footprint_in_degrees():
    plain = footprint(GeoReference("EPSG:4326", (0.5, 0, 10, 0, -0.25, 60)), 8, 4)
    np.testing.assert_allclose([plain.min(0), plain.max(0)], [[10, 58], [12, 60]])
    # a UTM zone's central meridian is its easting 500 km
    utm = footprint(UTM, 100, 100)
    assert utm[:, 0].min() == pytest.approx(15.0, abs=1e-9)
    assert footprint(GeoReference(), 8, 8) is None


def test_footprint_runs_on_past_the_antimeridian():
    outline = footprint(GeoReference("EPSG:32701", (1000.0, 0, 100000, 0, -1000.0, 8000000)), 100, 200)
    assert np.ptp(outline[:, 0]) < 10


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (IMAGE, {"georeference": GeoReference("EPSG:0", UTM.transform)}, "'EPSG:0' is not known"),
        (IMAGE, {"georeference": GeoReference("Rome", UTM.transform)}, "'Rome' is not known"),
        (IMAGE, {"colormap": {0: (0, 0, 0)}}, "a colormap is for one uint8 band"),
        (np.zeros((4, 4), dtype=np.uint8), {"nodata": 300}, "nodata=300 is no uint8"),
        (np.zeros((4, 4), dtype=np.uint8), {"nodata": np.nan}, "nodata=nan is no uint8"),
        (np.zeros((4, 4), dtype=np.int64), {}, "is no image"),
        (np.zeros(4, dtype=np.uint8), {}, "is no image"),
        (np.zeros((1, 0, 4), dtype=np.uint8), {}, "is no image"),
        (IMAGE, {"descriptions": ("a",)}, "2 bands, but 1 descriptions"),
        (IMAGE, {"units": ("sigma0_db", "sigma1")}, "unit='sigma1' is not known"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, array, options, message):
    with pytest.raises((InputError, UnitError), match=message):
        write_geotiff(tmp_path / "a.tif", array, **options)
    assert list(tmp_path.iterdir()) == []

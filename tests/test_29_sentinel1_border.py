"""Border noise of old Sentinel-1 products, noise that cannot be, and names that mislead; products made here."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_safe import Simulated, file_names, make_product, write_product, zip_product

import sartransfer
from sartransfer.errors import InputError, OutputError
from sartransfer.prepare.sentinel1 import prepare_sentinel1
from sartransfer.radar.border import Border, border_depth, is_dark, leading_runs
from sartransfer.radar.noise import NoiseBlock
from sartransfer.readers.sentinel1 import find_border, open_sentinel1, read_backscatter
from sartransfer.readers.sentinel1_annotation import read_sentinel1_annotation
from sartransfer.readers.sentinel1_border import has_border_noise, measure_border
from sartransfer.scene import Window

SOURCE = Path(sartransfer.__file__).parent.parent
OLD = {"noise": "old", "processor": "002.84"}


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def array(*values):
    return np.array(values, dtype=np.float64)


def imaged(rng, rows=60, columns=80):
    return {p: rng.integers(300, 900, (rows, columns)).astype(np.uint16) for p in ("HH", "HV")}


def noise_of(rows, columns):
    """What `small_safe` annotates, in DN^2."""
    return 250.0 + np.arange(columns) + np.arange(rows)[:, None] / 10


def valid_of(folder, **options):
    """Where HH and HV have values: (2, H, W)."""
    scene = open_sentinel1(folder, **options)
    return np.stack([scene.read([name]).valid for name in ("sigma0_hh", "sigma0_hv")])


def map_of(path):
    with rasterio.open(path) as file:
        return file.read(), file.tags()


class Even(Simulated):
    """A product so wide that the tables of others would fall below 0."""

    def table(self, quantity, line, pixel):
        return 500.0 + 0 * pixel


# --- arrays ---


def test_runs_and_depths_are_as_counted_one_by_one(rng):
    for wide in (0, 1, 7):
        dark = rng.random((50, wide)) < 0.8
        expected = [next((i for i, d in enumerate(row) if not d), wide) for row in dark]
        np.testing.assert_array_equal(leading_runs(dark), expected)
    for number in (1, 2, 3, 8, 9, 10, 40, 60):
        runs = rng.integers(0, 12, number)  # 10 is the limit: some do not end
        runs[45:] = 11
        medians = {}
        for place in range(number):
            reach = min(4, place, number - 1 - place)
            ended = sorted(r for r in runs[place - reach : place + reach + 1] if r < 10)
            if ended:
                medians[place] = ended[(len(ended) - 1) // 2]
        expected = [medians[min(medians, key=lambda p: abs(p - place))] for place in range(number)]
        np.testing.assert_array_equal(border_depth(runs, 10), expected)
    np.testing.assert_array_equal(border_depth(np.array([11, 10, 30]), 10), [0, 0, 0])


def test_a_border_encloses_what_has_values():
    border = Border(np.array([2, 0, 0]), np.array([0, 1, 0]), np.array([0, 0, 0, 2]), np.array([1, 0, 0, 0]))
    whole = np.array([[0, 0, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(border.inside(0, 0, 3, 4), whole)
    np.testing.assert_array_equal(border.inside(1, 2, 2, 2), whole[1:, 2:])
    assert border.deepest == 2
    with pytest.raises(InputError, match="opposite edges"):
        Border(np.zeros(3, int), np.zeros(2, int), np.zeros(4, int), np.zeros(4, int))


def test_a_pixel_is_dark_by_its_number_and_by_its_noise():
    counts, noise = np.array([[0, 11, 29, 30, 65535]], dtype=np.uint16), np.full((1, 5), 121.2)
    np.testing.assert_array_equal(is_dark(counts, noise), [[True, True, False, False, False]])
    np.testing.assert_array_equal(is_dark(counts, np.full((1, 5), 1e10)), [[True, True, True, False, False]])
    np.testing.assert_array_equal(is_dark(counts, None), [[True, True, True, False, False]])


# --- whole products ---


@pytest.mark.parametrize("fields", [OLD, {"noise": "unscaled", "processor": "002.36"}, {}])
def test_a_clean_product_loses_nothing(tmp_path, rng, fields):
    folder = write_product(tmp_path, Simulated(imaged(rng), **fields))
    made = {
        way: prepare_sentinel1(folder, tmp_path / f"{way}.tif", border_noise=way) for way in ("auto", "keep")
    }
    np.testing.assert_array_equal(map_of(made["auto"].path)[0], map_of(made["keep"].path)[0])
    assert made["auto"].warnings == ()
    assert valid_of(folder).all()


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("strip_pixels", [1 << 20, 7 * 80])
def test_a_strip_of_border_noise_is_lost_and_nothing_else(tmp_path, rng, monkeypatch, edge, strip_pixels):
    """Of 12 pixels, in one sitting and by 7 rows at once: with a few bright ones in it, as compression leaves them."""
    monkeypatch.setattr("sartransfer.readers.sentinel1_border.STRIP_PIXELS", strip_pixels)
    counts = imaged(rng)
    strip = {"left": np.s_[:, :12], "right": np.s_[:, -12:], "top": np.s_[:12], "bottom": np.s_[-12:]}[edge]
    inside = np.ones((60, 80), dtype=bool)
    inside[strip] = False
    for image in counts.values():
        image[strip] = rng.integers(1, 12, image[strip].shape)
    counts["HH"][~inside & (rng.random((60, 80)) < 0.01)] = 60
    folder = write_product(tmp_path, Simulated(counts, **OLD))
    for valid in valid_of(folder):
        wrong = valid != inside
        assert wrong.mean() < 0.01
        far = np.abs(np.indices((60, 80)) - np.array([29.5, 39.5])[:, None, None])
        assert not (wrong & (far < np.array([15.5, 25.5])[:, None, None]).all(axis=0)).any()
    product, read = read_sentinel1_annotation(folder), []

    def counted(layer, window):
        read.append(window.height * window.width)
        return counts["HH"][window.row : window.row + window.height]

    measure_border(product, counted)
    assert (max(read), sum(read)) == (min(strip_pixels, 60 * 80), 60 * 80)  # once through the image
    part = open_sentinel1(folder).read(["sigma0_hv"], Window(5, 3, 40, 70)).valid
    np.testing.assert_array_equal(part, valid_of(folder)[1][5:45, 3:73])
    assert valid_of(folder, border_noise="keep").all()


def test_the_depth_follows_steps_of_the_border_exactly(tmp_path, rng):
    """As where the sampling window's start changes; no bright pixel in it, so to the pixel."""
    counts = imaged(rng)
    inside = np.ones((60, 80), dtype=bool)
    inside[:20, :7], inside[20:, :15], inside[:33, 76:] = False, False, False
    inside[:3], inside[55:] = False, False
    counts["HH"][~inside] = rng.integers(0, 12, (~inside).sum())
    folder = write_product(tmp_path, Simulated(counts, **OLD))
    valid = valid_of(folder)
    np.testing.assert_array_equal(valid[0], inside)
    np.testing.assert_array_equal(valid[1], inside)  # what the co-polarized image says holds for the other


def test_the_map_has_no_border_noise_and_says_so(tmp_path, rng):
    counts = imaged(rng)
    for image in counts.values():
        image[:, :20] = rng.integers(1, 12, (60, 20))
    folder = write_product(tmp_path, Simulated(counts, **OLD))
    made = prepare_sentinel1(folder, tmp_path / "a.tif")
    data, tags = map_of(made.path)
    good = np.isfinite(data[0])
    assert data[:2, good].min() > -10  # 300 of 600, squared: -6 dB
    assert good.sum() == pytest.approx(60 * 60 / 4, rel=0.1)
    assert tags["BORDER_NOISE"] == "masked, to 20 pixels from an edge"
    assert (made.warnings, tags["SARTRANSFER_WARNINGS"]) == ((), "none")
    kept = prepare_sentinel1(folder, tmp_path / "b.tif", border_noise="keep")
    data, tags = map_of(kept.path)
    at_floor = [(data[i] <= -39.999).sum() / np.isfinite(data[0]).sum() for i in (0, 1)]
    assert min(at_floor) > 0.2
    words = (
        f"{at_floor[0]:.0%} of sigma0_hh_db, {at_floor[1]:.0%} of sigma0_hv_db lies at the floor of -40 dB"
    )
    assert kept.warnings == (f"{words}: border noise was kept: --border-noise mask",)
    assert (tags["BORDER_NOISE"], tags["SARTRANSFER_WARNINGS"]) == ("kept", kept.warnings[0])
    linear = prepare_sentinel1(folder, tmp_path / "c.tif", border_noise="keep", decibel=False)
    assert f"{at_floor[1]:.0%} of sigma0_hv" in linear.warnings[0]
    zipped = prepare_sentinel1(zip_product(folder, tmp_path / "p.zip"), tmp_path / "d.tif")
    np.testing.assert_array_equal(map_of(zipped.path)[0], map_of(made.path)[0])


def test_dark_water_at_an_edge_is_not_eaten(tmp_path, rng):
    """Noise and nothing else, of 4.4 looks (IW) on the left half: every second pixel lies below the mean of noise."""
    counts = imaged(rng, 240, 200)
    dark = noise_of(240, 200) * rng.gamma(4.4, 1 / 4.4, (240, 200))
    counts["HH"][:, :100] = np.maximum(1, np.round(np.sqrt(dark)))[:, :100]
    folder = write_product(tmp_path, Simulated(counts, **OLD))
    product = read_sentinel1_annotation(folder)
    assert find_border(product).deepest <= 5
    lost = ~valid_of(folder)[0]
    assert lost.mean() < 0.01
    assert not lost[6:-6, 6:-6].any()
    counts["HH"][:, :100] = 5  # no such water: but even then, what has no end within the margin is no border
    other = tmp_path / "other"
    other.mkdir()
    wide = write_product(other, Simulated(counts, **OLD))
    assert find_border(read_sentinel1_annotation(wide)).deepest == 0
    assert valid_of(wide).all()
    made = prepare_sentinel1(wide, tmp_path / "a.tif")
    assert "of sigma0_hh_db lies at the floor" in made.warnings[0]  # said instead


def test_the_margin_is_20_km(tmp_path, rng, monkeypatch):
    for metres, lost in (
        (480.0, False),
        (520.0, True),
    ):  # of 40 m: 12 and 13 pixels, a strip of 12 ends in the second
        monkeypatch.setattr("sartransfer.readers.sentinel1_border.MARGIN_M", metres)
        counts = imaged(rng)
        counts["HH"][:, :12] = 3
        folder = tmp_path / f"{metres:g}"
        folder.mkdir()
        assert valid_of(write_product(folder, Simulated(counts, **OLD)))[0][:, :12].any() != lost
    from sartransfer.radar import border

    assert border.MARGIN_M == 20_000


def test_old_products_are_told_by_their_processor_or_their_noise(tmp_path, rng):
    product = make_product(rng)
    for number, (fields, manifest, old) in enumerate(
        (
            ({"processor": "002.84", "noise": "old"}, True, True),
            ({"processor": "002.90"}, True, False),
            ({"processor": "003.52"}, True, False),
            ({"processor": "002.72", "noise": "none"}, True, True),
            ({"processor": "?", "noise": "old"}, True, True),
            ({"noise": "old"}, False, True),
            ({}, False, False),
            ({"noise": "removed"}, False, False),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_product(folder, replace(product, **fields))
        if not manifest:
            (path / "manifest.safe").unlink()
        read = read_sentinel1_annotation(path)
        assert has_border_noise(read) == old
        assert (find_border(read) is not None) == old
        assert find_border(read, "keep") is None
        assert find_border(read, "mask") is not None
    with pytest.raises(InputError, match="border_noise"):
        open_sentinel1(path, border_noise="yes")
    with pytest.raises(InputError, match="border_noise"):
        prepare_sentinel1(path, tmp_path / "a.tif", border_noise="yes")


# --- noise that cannot be ---


def test_noise_blocks_of_impossible_factors_are_refused():
    for factors in ((np.nan, 1.0), (-1.0, 0.5), (1.0, 0.0), (1.0, np.inf), (1.0, 1e6)):
        with pytest.raises(InputError, match=r"noise block EW1: factor .* at line"):
            NoiseBlock("EW1", 0, 10, 0, 10, array(0, 5), array(*factors))
    with pytest.raises(InputError, match="noise block"):
        NoiseBlock("EW1", 0, 10, 0, 10, array(0, np.nan), array(1, 1))


def test_factors_go_on_for_one_step_and_never_below_zero():
    steep = NoiseBlock("EW1", 0, 99, 0, 10, array(0, 1), array(1.3, 1.0))
    np.testing.assert_allclose(steep.factor(array(0, 1, 1.5, 2, 3, 99)), [1.3, 1.0, 0.85, 0.7, 0.7, 0.7])
    rising = NoiseBlock("EW1", 0, 99, 0, 10, array(10, 20), array(1.0, 1.3))
    np.testing.assert_allclose(rising.factor(array(0, 5, 20, 25, 30, 99)), [0.7, 0.85, 1.3, 1.45, 1.6, 1.6])
    falling = NoiseBlock("EW1", 0, 99, 0, 10, array(10, 20), array(9.0, 1.0))
    np.testing.assert_allclose(falling.factor(array(0, 10, 20, 21, 99)), [17, 9, 1, 0.5, 0.5])
    # steps of ten lines, and a last one of two: on for ten, as real products need
    short = NoiseBlock("EW1", 0, 99, 0, 10, array(0, 10, 20, 22), array(1, 1, 1, 1.02))
    np.testing.assert_allclose(short.factor(array(26, 32, 40)), [1.06, 1.12, 1.12])


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("noiseAzimuthLut", "nan", "noise block EW1: factor nan at line 0"),
        ("noiseAzimuthLut", "-1.0", "noise block EW1: factor -1 at line 0"),
        ("noiseRangeLut", "nan", "no numbers"),
        ("noiseRangeLut", "-3.0", "noise of -3 at line 0, pixel 0: no noise is below 0"),
        ("noiseRangeLut", "1e9", r"noise of 1e\+09 at line 0, pixel 0 is 34.4 dB in sigma0"),
        ("noiseRangeLut", "1e-9", "noise of 1e-09 at line 0, pixel 0 is -145.6 dB in sigma0"),
    ],
)
def test_one_impossible_number_in_the_noise_is_found_and_its_file_named(tmp_path, rng, tag, value, words):
    product = make_product(rng)
    folder = write_product(tmp_path, product)
    name = file_names(product, flat=False)["HV"][2]
    head, mark, rest = (folder / name).read_text().partition(f"<{tag} ")
    inner, end, numbers = rest.partition(">")
    (folder / name).write_text(f"{head}{mark}{inner}{end}{value} {numbers.partition(' ')[2]}")
    for act in (open_sentinel1, lambda p: prepare_sentinel1(p, tmp_path / "a.tif")):
        with pytest.raises(InputError, match=words) as error:
            act(folder)
        assert name in str(error.value)
    prepare_sentinel1(folder, tmp_path / "b.tif", denoise=False)


def test_noise_in_another_unit_is_refused(tmp_path, rng):
    """20 dB more or less than the -31 dB there should be, on the whole: the median tells."""
    for scale, level in ((100, "-10"), (1 / 100, "-50")):
        folder = tmp_path / f"{scale:.3f}"
        folder.mkdir()

        def ranges(line, scale=scale):
            pixels = np.arange(0, 80, 9)
            return pixels, (250.0 + pixels) * scale

        product = write_product(folder, make_product(rng, range_noise=ranges))
        with pytest.raises(InputError, match=rf"noise of {level}\.\d dB in sigma0 cannot be"):
            open_sentinel1(product)


def test_outside_every_block_noise_is_that_along_range(tmp_path, rng):
    blocks = (
        ("EW1", 0, 59, 0, 30, [0, 30, 59], [2, 2, 2]),
        ("EW2", 0, 59, 45, 79, [0, 30, 59], [2, 2, 2]),
    )
    product = read_sentinel1_annotation(write_product(tmp_path, make_product(rng, blocks=blocks)))
    noise = product.layers[0].noise.at(np.arange(60), np.arange(80))
    np.testing.assert_allclose(noise[0, 31:45], 250 + np.arange(31, 45))
    np.testing.assert_allclose(noise[0, :28], 2 * (250 + np.arange(28)))
    np.testing.assert_allclose(noise[0, 45:], 2 * (250 + np.arange(45, 80)))
    assert np.isfinite(read_backscatter(product, 0, Window(0, 0, 60, 80))[0]).all()


# --- names ---


def test_a_map_is_named_as_a_geotiff_and_never_replaces_its_product(tmp_path, rng):
    folder = write_product(tmp_path, make_product(rng))
    for name in ("scene.nc", "scene", "scene.tif.gz"):
        with pytest.raises(OutputError, match=r"does not end in \.tif"):
            prepare_sentinel1(folder, tmp_path / name)
    assert prepare_sentinel1(folder, tmp_path / "scene.TIFF").path.is_file()
    image = next((folder / "measurement").iterdir())
    before = image.read_bytes()
    with pytest.raises(OutputError, match="is the product itself"):
        prepare_sentinel1(folder, image, overwrite=True)
    assert image.read_bytes() == before


def test_what_macos_adds_is_passed_over(tmp_path, rng):
    folder = write_product(tmp_path, make_product(rng))
    path = zip_product(folder, tmp_path / "p.zip")
    plain = open_sentinel1(path)
    names = [f.relative_to(folder).as_posix() for f in folder.rglob("*.xml")]
    with zipfile.ZipFile(path, "a") as archive:
        for name in names:
            place, _, bare = name.rpartition("/")
            archive.writestr(f"__MACOSX/{folder.name}/{place}/._{bare}", b"\0\5\x16\7")
            archive.writestr(f"{folder.name}/{place}/._{bare}", b"\0\5\x16\7")
    for file in (folder / "annotation").glob("*.xml"):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    for product in (path, folder):
        scene = open_sentinel1(product)
        assert scene.id == plain.id
        np.testing.assert_array_equal(scene.read(["amplitude_hh"]).data, plain.read(["amplitude_hh"]).data)
        assert not [n for n in read_sentinel1_annotation(product).files.names if "._" in n]
    shutil.copyfile(path, tmp_path / "evil.zip")
    with zipfile.ZipFile(tmp_path / "evil.zip", "a") as archive:
        archive.writestr("__MACOSX/../../evil", b"")
    with pytest.raises(InputError, match="refused"):
        open_sentinel1(tmp_path / "evil.zip")


def test_only_satellites_that_there_are(tmp_path, rng):
    for number, mission in enumerate(("S1E", "S1Z", "S1F")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(InputError, match=r"missionId.*S1A.*S1D"):
            read_sentinel1_annotation(write_product(folder, make_product(rng, mission=mission)))


def test_the_command_takes_the_border_noise(tmp_path, rng, capsys, monkeypatch):
    from sartransfer.cli import main

    counts = imaged(rng)
    for image in counts.values():
        image[:, :20] = 5
    folder = write_product(tmp_path, Simulated(counts, **OLD))
    printed = {}
    for way, code in (("auto", 0), ("keep", 0), ("perhaps", 2)):
        target = tmp_path / f"{way}.tif"
        words = ["prepare", "sentinel1", str(folder), "-o", str(target), "--border-noise", way]
        monkeypatch.setattr("sys.argv", ["sartransfer", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert (end.value.code or 0) == code
        printed[way] = capsys.readouterr().err
    assert "warning" not in printed["auto"]
    assert "border noise was kept" in printed["keep"]
    assert "auto" in printed["perhaps"]


# --- memory ---


PEAK = """
import json, resource, sys
import sartransfer.prepare.sentinel1 as prepare
import sartransfer.readers.sentinel1 as reader
import sartransfer.readers.sentinel1_border as border
# all that is kept at once, made as small beside this scene as it is beside a whole one
prepare.BLOCK, prepare.STRIP_PIXELS, border.STRIP_PIXELS = 128, 1 << 15, 1 << 15
prepare.CACHE_MB = reader.CACHE_MB = 2
def peak():
    with open("/proc/self/status") as file:  # ru_maxrss would keep the peak of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
peaks = []
for product, out in zip(sys.argv[1::2], sys.argv[2::2]):
    prepare.prepare_sentinel1(product, out)
    peaks.append(peak())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_peak_of_the_process_does_not_grow_with_the_scene(tmp_path, rng):
    """16 times the pixels, an old product: the small one first, so that what is loaded once counts for neither."""
    words = []
    for side in (400, 1600):
        folder = tmp_path / str(side)
        folder.mkdir()
        counts = {"HH": rng.integers(300, 900, (side, side), dtype=np.uint16)}
        words += [write_product(folder, Even(counts, step=100, **OLD)), folder / "a.tif"]
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + PEAK, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    small, large = json.loads(run.stdout)
    # calibrated whole: DN in 16 bits, its table, noise and power in 64, and where it is valid
    whole = (2 + 3 * 8 + 1) * (1600**2 - 400**2)
    print(
        f"{small / 2**20:.0f} MB, {large / 2**20:.0f} MB; the arrays would have taken {whole / 2**20:.0f} MB more"
    )
    assert large - small < whole / 3

"""Strata of pixels: by incidence angle, distance from a seam, distance from an edge; against brute force."""

import json
from itertools import pairwise

import numpy as np
import pytest

from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data.strata import (
    bins_of,
    distance_from_angles,
    distance_from_edges,
    distance_from_lines,
    in_bins,
    open_strata,
)
from sartransfer.errors import InputError
from sartransfer.geotiff import write_geotiff
from sartransfer.readers import open_entry
from sartransfer.recipe import StrataRecipe
from sartransfer.scene import GeoReference, Window

METRES = 80.0


def test_bins_against_one_value_at_a_time():
    edges = (20.0, 30.0, 40.0)
    values = np.array([19.9, 20, 29.9, 30, 39.9, 40, 40.1, np.nan, np.inf])
    np.testing.assert_array_equal(in_bins(values, edges, closed=True), [-1, 0, 0, 1, 1, 1, -1, -1, -1])
    np.testing.assert_array_equal(in_bins(values, edges), [-1, 0, 0, 1, 1, 2, 2, -1, 2])
    assert bins_of("incidence_angle_deg", edges) == 2
    assert bins_of("edge_m", edges) == 3


def test_distance_from_an_edge_is_that_of_the_nearest_pixel_of_another_label():
    """Brute force: edge pixels are those with a neighbour of another label; half a pixel further lies the edge."""
    rng = np.random.default_rng(5)
    label = (rng.normal(size=(23, 31)).cumsum(0).cumsum(1) > 0).astype(np.uint8)
    label[15:, 20:] = 255
    valid = np.ones(label.shape, dtype=bool)
    valid[:, :3] = False
    points = []
    for r, c in np.ndindex(*label.shape):
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            q, d = r + dr, c + dc
            inside = 0 <= q < 23 and 0 <= d < 31
            if inside and label[r, c] != label[q, d] and valid[r, c] and valid[q, d]:
                points.append((r, c))
    points = np.array(points)
    slow = [[np.hypot(*(points - (r, c)).T).min() + 0.5 for c in range(31)] for r in range(23)]
    np.testing.assert_allclose(distance_from_edges(label, valid), slow)
    assert np.isinf(distance_from_edges(np.zeros((4, 4), np.uint8), np.ones((4, 4), bool))).all()


def test_the_border_of_the_image_is_no_edge():
    label = np.zeros((8, 8), np.uint8)
    label[:, :3] = 255
    assert np.isinf(distance_from_edges(label, label == 0)).all()


def test_distance_from_lines_is_that_of_their_nearest_point():
    rng = np.random.default_rng(0)
    lines = (
        np.array([[0.0, 3.0], [9.0, 5.0], [12.0, 5.0]]),
        np.array([[2.0, 11.0], [2.0, 11.0], [8.0, 14.0]]),
    )
    window = Window(1, 2, 9, 12)
    found = distance_from_lines(lines, window)
    steps = np.linspace(0, 1, 4001)[:, None]
    dense = np.concatenate([a + steps * (b - a) for line in lines for a, b in pairwise(line)])
    for r, c in rng.integers(0, 9, (30, 2)):
        slow = np.hypot(*(dense - (r + 1.5, c + 2.5)).T).min()
        assert found[r, c] == pytest.approx(slow, abs=2e-3)
    assert np.isinf(distance_from_lines((), window)).all()


def test_distance_from_an_angle_is_that_of_its_line():
    rows, cols = np.mgrid[:40, :60] + 0.5
    angles = (20 + 0.03 * cols + 0.004 * rows).astype(np.float32).astype(np.float64)
    found = distance_from_angles(angles, (21.0, 25.0))
    exact = abs(0.03 * cols + 0.004 * rows - 1.0) / np.hypot(0.03, 0.004)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert np.isnan(distance_from_angles(np.full((3, 3), 30.0), (21.0,))).all()


def write_scene(folder, *, size=64, tag=True, angle=True):
    """A scene with a tilted seam, an angle along its columns, and a label of three squares."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    label = np.zeros((size, size), np.uint8)
    label[10:40, 15:50] = 1
    label[50:, 5:25] = 255
    hh = rng.normal(-12, 2, (size, size))
    angles = np.broadcast_to(np.linspace(20, 46, size), (size, size))
    bands = [hh, angles] if angle else [hh]
    names = ("sigma0_hh_db", "incidence_angle_deg")[: len(bands)]
    place = GeoReference("EPSG:3413", (METRES, 0, 5000, 0, -METRES, 9000))
    seam = [[5000 + METRES * c, 9000 - METRES * r] for r, c in ((0, 30), (size, 36))]
    path = folder / "scenes" / "one.tif"
    path.parent.mkdir(exist_ok=True)
    tags = {"SEAMS": json.dumps([seam])} if tag else None
    units = ("sigma0_db", "incidence_angle_deg")[: len(bands)]
    values = np.stack(bands).astype(np.float32)
    write_geotiff(path, values, georeference=place, descriptions=names, units=units, tags=tags)
    write_geotiff(folder / "label.tif", label, georeference=place)
    entry = Entry("one", (Asset(path),), folder / "label.tif", split="test", group="one")
    return entry, Catalog("ice", (entry,), ("water", "ice"))


def recipe(**kinds):
    return StrataRecipe.model_validate(kinds)


ALL = {"incidence_angle_deg": [20, 28, 36, 46], "seam_m": [0, 400, 1200], "edge_m": [0, 160, 500, 900]}


def test_windows_have_the_bins_of_the_whole(tmp_path):
    """What is near a window's border is looked for beyond it."""
    entry, catalog = write_scene(tmp_path)
    strata = open_strata(recipe(**ALL), entry, catalog)
    whole = strata.bins(Window(0, 0, 64, 64))
    assert {k: set(np.unique(v)) for k, v in whole.items()} == {
        "incidence_angle_deg": {0, 1, 2}, "seam_m": {0, 1, 2}, "edge_m": {0, 1, 2, 3},
    }  # fmt: skip
    for row in range(0, 64, 16):
        for col in range(0, 64, 16):
            window = Window(row, col, 16, 16)
            for kind, bins in strata.bins(window).items():
                np.testing.assert_array_equal(bins, whole[kind][window.slices], err_msg=kind)
    label = strata.label
    metres = METRES * distance_from_edges(label, np.ones(label.shape, bool))
    np.testing.assert_array_equal(whole["edge_m"], in_bins(metres, (0.0, 160.0, 500.0, 900.0)))
    rows, cols = np.mgrid[:64, :64] + 0.5
    seam = METRES * abs((cols - 30) * 64 - rows * 6) / np.hypot(64, 6)
    np.testing.assert_array_equal(whole["seam_m"], in_bins(seam, (0.0, 400.0, 1200.0)))


def test_seams_lie_in_a_tag_or_beside_the_scene_or_at_an_angle(tmp_path):
    entry, catalog = write_scene(tmp_path / "a")
    tagged = open_strata(recipe(seam_m=[0, 400, 1200]), entry, catalog)
    entry, catalog = write_scene(tmp_path / "b", tag=False)
    with pytest.raises(InputError, match="does not say where its sub-swaths meet"):
        open_strata(recipe(seam_m=[0, 400]), entry, catalog)
    (tmp_path / "b" / "details").mkdir()
    seams = [{"between": ["EW1", "EW2"], "line": [[0, 30], [64, 36]]}]
    (tmp_path / "b" / "details" / "one.json").write_text(json.dumps({"seams": seams}))
    beside = open_strata(recipe(seam_m=[0, 400, 1200]), entry, catalog)
    window = Window(0, 0, 64, 64)
    np.testing.assert_array_equal(tagged.bins(window)["seam_m"], beside.bins(window)["seam_m"])
    asked = recipe(
        seam_m=[0, 400, 1200], seams_deg=[30.0]
    )  # what the scene itself says is nearer to the truth
    np.testing.assert_array_equal(
        open_strata(asked, entry, catalog).bins(window)["seam_m"], beside.bins(window)["seam_m"]
    )
    (tmp_path / "b" / "details" / "one.json").unlink()
    by_angle = open_strata(recipe(seam_m=[0, 400], seams_deg=[30.0]), entry, catalog).bins(window)["seam_m"]
    column = (30 - 20) / (46 - 20) * 63  # where the angle is 30 degrees
    near = abs(np.arange(64) - column) * METRES < 400
    np.testing.assert_array_equal(by_angle == 0, np.broadcast_to(near, (64, 64)))
    (tmp_path / "b" / "details" / "one.json").write_text(json.dumps({"seams": [{"line": "here"}]}))
    with pytest.raises(InputError, match="pairs of numbers"):
        open_strata(recipe(seam_m=[0, 400]), entry, catalog)


def test_polygon_edges_lie_between_polygons_of_one_class_too(tmp_path):
    """Two polygons of ice side by side: the label does not change between them, and the distance is to their line."""
    entry, catalog = write_scene(tmp_path)
    asked = recipe(edge_px=[0, 3, 9], polygon_edge_m=[0, 240, 720])
    with pytest.raises(InputError, match=r"label_polygons\.tif is missing.*--polygons"):
        open_strata(asked, entry, catalog)
    numbers = np.ones((64, 64), np.uint16)
    numbers[:, 30:] = 700
    numbers[50:] = 0
    path = tmp_path / "label_polygons.tif"
    write_geotiff(path, numbers, georeference=open_entry(entry).georeference)
    whole = open_strata(asked, entry, catalog).bins(Window(0, 0, 64, 64))
    rows, cols = np.mgrid[:64, :64] + 0.5
    side, bottom = np.where(rows < 50, abs(cols - 30), np.hypot(cols - 30, rows - 49.5)), abs(rows - 50)
    metres = METRES * np.minimum(side, bottom)
    far = abs(metres - 240) > METRES  # half a pixel or so round the corner, where edges end
    far &= abs(metres - 720) > METRES
    bins = in_bins(metres, (0.0, 240.0, 720.0))
    np.testing.assert_array_equal(whole["polygon_edge_m"][far], bins[far])
    np.testing.assert_array_equal(
        whole["edge_px"],
        open_strata(recipe(edge_px=[0, 3, 9]), entry, catalog).bins(Window(0, 0, 64, 64))["edge_px"],
    )
    write_geotiff(path, numbers[1:], overwrite=True)
    with pytest.raises(InputError, match="1 bands of 63 x 64 pixels"):
        open_strata(asked, entry, catalog)


def test_what_a_scene_does_not_have_is_named(tmp_path):
    entry, catalog = write_scene(tmp_path, angle=False)
    with pytest.raises(InputError, match="no band of incidence angles"):
        open_strata(recipe(incidence_angle_deg=[20, 30]), entry, catalog)
    assert open_strata(recipe(edge_px=[0, 3]), entry, catalog).bins(Window(0, 0, 9, 9))["edge_px"].shape == (
        9,
        9,
    )
    assert open_entry(entry).names == ("sigma0_hh_db",)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"seam_m": [3]},
        {"edge_m": [0, 5, 5]},
        {"edge_m": [0, 1], "edge_px": [0, 1]},
        {"polygon_edge_m": [0, 1], "polygon_edge_px": [0, 1]},
        {"seams_deg": [28.0]},
    ],
)
def test_a_recipe_of_strata_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"rising|either|goes with|at least one"):
        recipe(**wrong)


# ---- seams of a product ----


def test_seams_lie_between_the_blocks_of_neighbouring_sub_swaths(tmp_path):
    """Three sub-swaths whose bounds step once; the tag's points on the map against Snyder's formulas."""
    import small_safe

    from sartransfer.prepare import prepare_sentinel1
    from sartransfer.readers import open_scene

    lines = small_safe.marks(199, 10)
    factors = [1.0] * len(lines)
    blocks = (
        ("EW1", 0, 99, 0, 49, lines, factors), ("EW1", 100, 199, 0, 51, lines, factors),
        ("EW2", 0, 99, 50, 109, lines, factors), ("EW2", 100, 199, 52, 109, lines, factors),
        ("EW3", 0, 199, 110, 159, lines, factors),
    )  # fmt: skip
    swath = small_safe.Swath(2500.0, 80.0, 20.0, 215.0)
    rng = np.random.default_rng(0)
    product = small_safe.make_product(rng, 200, 160, ("HH",), swath=swath, blocks=blocks)
    made = prepare_sentinel1(
        small_safe.write_product(tmp_path, product), tmp_path / "map.tif", multilook=1, pixel_size=2500.0
    )
    entry = Entry("map", (Asset(made.path),))
    scene = open_scene(made.path)
    from sartransfer.data.seams import read_seams

    one, two = read_seams(entry, scene)
    left, top = scene.georeference.transform[2], scene.georeference.transform[5]
    for line, points in ((one, [(-0.5, 49.5), (99.5, 49.5), (99.5, 51.5), (199.5, 51.5)]),
                         (two, [(-0.5, 109.5), (99.5, 109.5), (99.5, 109.5), (199.5, 109.5)])):  # fmt: skip
        x, y = small_safe.polar_stereographic(*swath(*np.array(points).T))
        expected = np.stack([(top - y) / 2500, (x - left) / 2500], axis=1)
        np.testing.assert_allclose(line, expected, atol=0.05)
    assert (distance_from_lines((one,), scene.window) < 0.71).sum() > 150


# ---- scores by strata ----


def test_the_matrices_of_strata_add_up_to_the_scene_and_are_kept(tmp_path):
    import torch
    from small_data import make_model

    from sartransfer.data.normalize import fit_normalization, resolve_contract
    from sartransfer.evaluate import evaluate_checkpoint, read_scores, write_scores
    from sartransfer.metrics import confusion_matrix
    from sartransfer.models.checkpoint import Checkpoint
    from sartransfer.recipe import BandRecipe

    entry, catalog = write_scene(tmp_path)
    scene = open_entry(entry)
    contract = fit_normalization(resolve_contract((BandRecipe(name="sigma0_hh_db"),), scene), [scene])
    model = make_model("resnet18-aspp", {"aspp_channels": 8, "rates": [1, 2, 3]}, bands=1).eval()
    checkpoint = Checkpoint(model, catalog.classes, contract, {}, tmp_path)
    wanted = recipe(**ALL)
    (found,) = evaluate_checkpoint(checkpoint, catalog, "test", strata=wanted).scenes
    with torch.no_grad():
        image = torch.from_numpy(contract.read(scene).data)[None]
        predicted = model(image).argmax(1)[0].numpy()
    strata = open_strata(wanted, entry, catalog)
    for kind, bins in strata.bins(scene.window).items():
        assert found.strata[kind].sum() == found.confusion.sum() == (strata.label != 255).sum()
        np.testing.assert_array_equal(found.strata[kind].sum(axis=0), found.confusion)
        for i, matrix in enumerate(found.strata[kind]):
            slow = confusion_matrix(strata.label, predicted, 2, valid=bins == i, ignore_index=255)
            np.testing.assert_array_equal(matrix, slow)

    scores = evaluate_checkpoint(checkpoint, catalog, "test", strata=wanted)
    write_scores(scores, tmp_path)
    kept = read_scores(tmp_path, "test", 1, wanted)
    assert kept.bins == scores.bins == wanted.bins
    for kind in wanted.bins:
        np.testing.assert_array_equal(kept.scenes[0].strata[kind], found.strata[kind])
    # other bins than these were not counted: the test set must be scored anew; without strata these will do
    assert read_scores(tmp_path, "test", 1, recipe(edge_m=[0, 160])) is None
    assert read_scores(tmp_path, "test", 1) is not None
    plain = evaluate_checkpoint(checkpoint, catalog, "test")
    write_scores(plain, tmp_path)
    assert read_scores(tmp_path, "test", 1, wanted) is None
    np.testing.assert_array_equal(plain.confusion, scores.confusion)


def test_rows_of_strata_are_those_of_their_matrices():
    from sartransfer.evaluate import SceneScore, TestScores
    from sartransfer.recipe import parse_recipe
    from sartransfer.results import ScoredRun, strata_rows
    from sartransfer.statistics import t_interval

    rng = np.random.default_rng(2)
    asked = parse_recipe({
        "name": "x", "task": "segment", "data": {"catalog": "x"}, "model": {"name": "unet-resnet18"},
        "initializations": {"a": "random", "b": "random"}, "seeds": 3, "primary": {"metric": "iou_weighted"},
    })  # fmt: skip
    bins = {"edge_m": (0.0, 100.0, 300.0)}

    def run(name, seed):
        scenes = []
        for i in range(2):
            matrices = rng.integers(1, 90, (3, 2, 2))
            matrices[2, 1] = 0  # no ice far from an edge
            scenes.append(SceneScore(f"s{i}", f"s{i}", matrices.sum(0), strata={"edge_m": matrices}))
        return ScoredRun(
            name, 1.0, seed, {"test": TestScores("test", ("water", "ice"), tuple(scenes), 1, bins)}
        )

    runs = [run(name, seed) for name in "ab" for seed in range(3)]
    rows = strata_rows(runs, asked)
    assert [(r["initialization"], r["low"], r["high"]) for r in rows] == [
        (n, low, high) for n in "ab" for low, high in ((0, 100), (100, 300), (300, None))
    ]
    for row in rows:
        i = bins["edge_m"].index(row["low"])
        mine = [r.tests["test"] for r in runs if r.initialization == row["initialization"]]
        matrices = [sum(s.strata["edge_m"][i] for s in scores.scenes) for scores in mine]
        np.testing.assert_array_equal(row["matrix"], sum(matrices))
        assert row["pixels"] == matrices[0].sum()
        (ice,) = (s for s in row["scores"] if (s["metric"], s["class"]) == ("recall", "ice"))
        if i == 2:
            assert ice["mean"] is None
            assert ice["values"] == [None] * 3
        else:
            values = [m[1, 1] / m[1].sum() for m in matrices]
            assert ice["values"] == pytest.approx(values)
            interval = t_interval(np.array(values))
            assert (ice["low"], ice["high"]) == pytest.approx((interval.low, interval.high))


def test_the_real_product_has_four_seams():
    import os
    from pathlib import Path

    from sartransfer.radar.noise import seam_lines
    from sartransfer.readers.sentinel1_annotation import read_sentinel1_annotation

    folder = os.environ.get("SARTRANSFER_DATA")
    if folder is None:
        pytest.skip("SARTRANSFER_DATA is not set")
    (path,) = Path(folder).glob("S1A_EW_GRDM_1SDH_20221130T014342*")
    product = read_sentinel1_annotation(path)
    blocks = product.layers[0].noise.blocks
    seams = seam_lines(blocks)
    # read off the annotation by hand: the last range sample of EW1 to EW4 where the next sub-swath begins
    assert [line[0, 1] for line in seams] == [3117.5, 5020.5, 7091.5, 8965.5]
    assert {line[-1, 0] for line in seams} == {product.rows - 0.5}

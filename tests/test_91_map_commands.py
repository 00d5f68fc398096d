"""Commands that make maps: several scenes at once, what it takes told beforehand, stopped and gone on, vectorized."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch

from sartransfer import members, predict, streaming
from sartransfer.archive import made
from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.cli import main
from sartransfer.cli.mapping import parse_bytes
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError
from sartransfer.forecast import in_bytes
from sartransfer.geotiff import write_geotiff
from sartransfer.models import build_model, write_checkpoint
from sartransfer.plan import relation_of
from sartransfer.scene import GeoReference
from sartransfer.wording import duration_words

torch.set_num_threads(1)
SOURCE = Path(predict.__file__).parent.parent
CONTRACT = InputContract((InputBand("vv", "sigma0_db", "VV", mean=-10.0, std=3.0),))
PLACE = GeoReference(crs="EPSG:32633", transform=(40.0, 0.0, 500000.0, 0.0, -40.0, 6000000.0))


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line; returns (exit code, printed, errors)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sartransfer", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two checkpoints, two scenes, and one that is no scene."""
    folder = tmp_path_factory.mktemp("files")
    for seed in range(2):
        torch.manual_seed(seed)
        model = build_model("unet-resnet18", 1, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
        meta = {"classes": ("dry", "wet"), "contract": CONTRACT.to_json(), "identity": f"n{seed}", "epoch": 1}
        write_checkpoint(folder / f"n{seed}", model, meta)
        values = np.random.default_rng(seed).normal(-10, 3, (1, 90, 70)).astype(np.float32)
        write_geotiff(
            folder / f"s{seed}.tif", values, georeference=PLACE, descriptions=["vv"], units=["sigma0_db"]
        )
    (folder / "poisoned.tif").write_text("no image")
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_everything_at_once(call, files, tmp_path):
    code, printed, said = call(
        "predict", files / "n0.json", files / "s0.tif", "-o", tmp_path / "map.tif", "--ensemble", files / "n1.json",
        "--probabilities-as", "uint8", "--entropy", "--spread", "--polygons", "--min-area", "1ha", "--simplify", 60,
        "--stac", "--time", "2021-01-01T06:00:00", "--memory", "2GB",
    )  # fmt: skip
    assert code == 0, said
    assert names(tmp_path) == [
        "map-entropy.tif", "map-probabilities.tif", "map-spread.tif", "map.gpkg", "map.stac.json", "map.tif",
        "map.tif.aux.xml",
    ]  # fmt: skip
    for word in (
        "dry: ",
        "wet: ",
        "area on the ellipsoid",
        "km2",
        "map: ",
        "spread: ",
        "polygons: ",
        "STAC item: ",
    ):
        assert word in printed
    km2 = sum(
        float(line.split("│")[2]) for line in printed.splitlines() if line.startswith(("│ dry", "│ wet"))
    )
    assert km2 == pytest.approx(90 * 70 * 1600 / 1e6 / 0.9996**2, rel=1e-3)


def test_several_scenes_go_into_a_folder_and_a_poisoned_one_stops_no_other(call, files, tmp_path):
    scenes = [files / name for name in ("s0.tif", "poisoned.tif", "s1.tif")]
    words = ("predict", files / "n0.json", *scenes, "-o", tmp_path / "maps")
    code, _, said = call(*words)
    assert code == 2
    assert "poisoned.tif cannot be read as a TIFF" in said
    assert "1 of 3 scenes could not be mapped" in said
    assert "Traceback" not in said
    assert names(tmp_path / "maps") == ["s0.tif", "s0.tif.aux.xml", "s1.tif", "s1.tif.aux.xml"]
    before = (tmp_path / "maps" / "s0.tif").stat().st_mtime_ns
    code, _, said = call(*words)
    assert said.count("is there already") == 2
    assert (tmp_path / "maps" / "s0.tif").stat().st_mtime_ns == before
    (tmp_path / "next").mkdir()  # a scene of another day, whose name and grid are the same
    other = shutil.copy2(scenes[0], tmp_path / "next" / "s0.tif")
    assert call("predict", files / "n0.json", other, scenes[2], "-o", tmp_path / "maps")[0] == 0  # a copy
    with rasterio.open(other, "r+") as file:
        file.write(file.read() + 1)
    os.utime(other, ns=(before - 10**9, before - 10**9))
    code, _, said = call("predict", files / "n0.json", other, scenes[2], "-o", tmp_path / "maps")
    assert (code, said.count("is there already")) == (2, 1)
    assert "s0.tif exists" in said
    code, _, said = call("predict", files / "n1.json", *scenes[::2], "-o", tmp_path / "maps")
    assert "2 of 2 scenes could not be mapped" in said  # maps of another network are not taken for these
    assert "exists" in said
    code, _, said = call("predict", files / "n0.json", *scenes[::2], "-o", tmp_path / "maps", "--overwrite")
    assert code == 0, said
    assert call("predict", files / "n0.json", *scenes, "-o", tmp_path / "map.tif")[0] == 2
    (tmp_path / "list.txt").write_text("".join(f"{scene}\n" for scene in scenes))
    code, _, said = call("predict", files / "n0.json", tmp_path / "list.txt", "-o", tmp_path / "map.tif")
    assert (code, "several scenes do not go into one map" in said) == (2, True)
    assert not (tmp_path / "map.tif").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "s0.tif").write_bytes(scenes[0].read_bytes())
    code, _, said = call(
        "predict", files / "n0.json", scenes[0], tmp_path / "other" / "s0.tif", "-o", tmp_path / "m"
    )
    assert "two scenes are called 's0'" in said


def test_what_is_odd_about_the_maps_of_a_list_is_told_when_they_are_made_and_found(
    call, files, tmp_path, monkeypatch
):
    for number in range(3):  # linear power under the name of decibels
        values = np.full((1, 20, 20), 0.01 + number, np.float32)
        write_geotiff(tmp_path / f"odd{number}.tif", values, descriptions=["vv"], units=["sigma0_db"])
    lines = [files / "s0.tif", *(tmp_path / f"odd{number}.tif" for number in range(3))]
    (tmp_path / "list.txt").write_text("".join(f"{scene}\n" for scene in lines))
    words = ("predict", files / "n0.json", tmp_path / "list.txt", "-o", tmp_path / "maps")
    monkeypatch.setattr("sartransfer.cli.cluster.WARNED", 2)
    for _ in range(2):
        code, _, said = call(*words)
        assert code == 0, said
        told = [line for line in said.splitlines() if line.startswith("warning: ")]
        assert told[0].startswith("warning: odd0: scene 'odd0', band 'vv': ")
        assert {line.split(":")[1] for line in told[:-1]} == {" odd0", " odd1"}
        assert told[-1].startswith("warning: 1 more maps have warnings: ")
        assert "maps.jsonl" in told[-1]


def test_a_map_made_with_other_options_is_not_taken_for_the_one_that_is_asked_for(call, files, tmp_path):
    """Named one by one, or in a list with its ledger; with the same options, or such as change nothing, it is."""
    pytest.importorskip("pyogrio")
    values = np.random.default_rng(0).normal(-10, 3, (1, 50, 40)).astype(np.float32)
    one = write_geotiff(tmp_path / "s0.tif", values, georeference=PLACE)  # does not say what its band is
    (tmp_path / "list.txt").write_text("s0.tif\n")
    (tmp_path / "named").mkdir()
    base = {
        "--engine": "eager", "--probabilities-as": "uint8", "--polygons": None, "--min-area": "1ha",
        "--stac": None, "--time": "2021-01-01T06:00:00", "--views": 1,
        "--bands": "vv=sigma0_db:VV",
    }  # fmt: skip

    def words(scene, out, **changed):
        asked = {**base, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
        pairs = [(n,) if v is None else (n, v) for n, v in asked.items() if v is not False]
        return ("predict", files / "n0.json", scene, "-o", out, *(word for pair in pairs for word in pair))

    places = ((one, tmp_path / "named"), (tmp_path / "list.txt", tmp_path / "listed"))
    for scene, out in places:
        assert call(*words(scene, out))[0] == 0
        before = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.suffix != ".jsonl"}
        for changed, expected in (
            ({"views": 4}, "views=1 instead of 4"),
            ({"engine": "torch-bf16"}, "computed in float32 instead of torch-bf16"),
            ({"probabilities_as": "float16"}, "probabilities as uint8 instead of float16"),
            ({"entropy": None}, "s0-entropy.tif is not beside it"),
            ({"bands": "vv=sigma0:VV"}, "its bands were taken for something else"),
            (
                {"min_area": "2ha"},
                "polygons with min_area 10000 m2, simplify 0 m instead of min_area 20000 m2",
            ),
            ({"simplify": 60}, "instead of min_area 10000 m2, simplify 60 m"),
            ({"time": "2022-01-01"}, "2021-01-01T06:00:00Z instead of 2022-01-01T00:00:00Z"),
            ({"ensemble": files / "n1.json"}, "by other networks"),
        ):
            code, _, said = call(*words(scene, out, **changed))
            assert (code, "s0.tif exists and was made otherwise: " in said, expected in said) == (
                2,
                True,
                True,
            ), said
            assert "Overwrite it" in said
        for changed in ({}, {"engine": "torch"}, {"views": False}, {"polygons": False, "min_area": False}):
            code, _, said = call(*words(scene, out, **changed))
            assert (code, "is there already" in said or "found finished" in said) == (0, True), said
        assert {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.suffix != ".jsonl"} == before
        # Somebody maps the scene anew, under the name that the ledger knows.
        assert call(*words(one, out / "s0.tif", views=8), "--overwrite")[0] == 0
        code, _, said = call(*words(scene, out))
        assert (code, "views=8 instead of 1" in said) == (2, True), said
        write_geotiff(
            out / "s0.tif", np.zeros((1, 50, 40), np.uint8), overwrite=True
        )  # without a word of how
        code, _, said = call(*words(scene, out))
        assert (code, "as maps of an earlier version" in said) == (2, True), said


def test_windows_that_are_not_exact_are_compared():
    note = {"networks": "a", "bands": [], "views": [1], "engines": ["eager"], "layers": {"": "uint8"}}
    exact, other = ({**note, "plans": [["windows", core, 16]]} for core in (64, 128))
    assert made._compared(exact, other) == []
    overlap = {**note, "plans": [["overlap", 64, 32]]}
    assert made._compared(overlap, overlap) == []
    assert "by overlapped windows of 64 px" in made._compared(overlap, exact)[0]


def test_what_an_earlier_map_left_beside_is_told_of(call, files, tmp_path):
    words = ("-o", tmp_path / "map.tif", "--overwrite")
    assert call("predict", files / "n0.json", files / "s0.tif", *words, "--entropy", "--polygons")[0] == 0
    code, _, said = call("predict", files / "n1.json", files / "s0.tif", *words, "--entropy")
    assert (code, said.count("is of an earlier map")) == (0, 1)
    assert "map.gpkg is of an earlier map" in said.replace("\n", "")


def test_a_dry_run_tells_what_it_takes_and_writes_nothing(call, files, tmp_path, monkeypatch):
    words = ("predict", files / "n0.json", files / "s0.tif", "-o", tmp_path / "map.tif", "--dry-run")
    code, printed, said = call(*words, "--probabilities", "--engine", "eager")
    assert code == 0, said
    assert "90 x 70 pixels, one window, one pass; at most " in printed
    assert "in all" in printed
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 32)
    _, printed, _ = call(*words, "--engine", "eager")
    assert "9 windows, windows of 32 px with a halo of" in printed
    code, _, said = call(*words, "--memory", "1MB", "--engine", "eager")
    assert (code, "Allow more memory" in said) == (2, True)
    assert names(tmp_path) == []


def test_ctrl_c_says_that_the_same_command_goes_on(call, files, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 32)
    words = ("predict", files / "n0.json", files / "s0.tif", "-o", tmp_path / "map.tif", "--engine", "eager")
    through = members.predict_classes

    def stopped(*args, **options):
        for number, found in enumerate(through(*args, **options)):
            if number == 4:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(members, "predict_classes", stopped)
        code, _, said = call(*words)
    assert code == 130
    assert said.startswith(
        f"stopped: 4 finished windows are kept in {tmp_path / '.map.tif.partial'}: the same "
    )
    assert names(tmp_path) == [".map.tif.partial"]
    asked = []
    logits = predict.predict_logits
    monkeypatch.setattr(predict, "predict_logits", lambda *a, **k: asked.append(1) or logits(*a, **k))
    code, _, said = call(*words)
    assert (code, len(asked)) == (0, 9 - 4), said
    assert names(tmp_path) == ["map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("what", ["disk", "block"])
def test_what_goes_wrong_late_costs_no_window_and_the_same_command_goes_on(
    call, files, tmp_path, monkeypatch, what
):
    """A disk that is full, or a block that cannot be read: the map is that of a command that nothing stopped."""
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 32)
    options = ("--engine", "eager", "--entropy")
    words = ("predict", files / "n0.json", files / "s0.tif", *options, "-o", tmp_path / "map.tif")
    through, write = members.predict_windows, streaming.write_at

    def unreadable(*args, **more):
        for number, found in enumerate(through(*args, **more)):
            if number == stop:
                raise InputError("block 4 of s0.tif cannot be read.")
            yield found

    def full(file, values, place):
        if place == (stop // 3 * 32 * 70 + stop % 3 * 32) * values.itemsize:  # the window's first line
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, values, place)

    where = ".map.tif.partial"
    for stop in (0, 4):
        with monkeypatch.context() as patch:
            if what == "disk":
                patch.setattr(streaming, "write_at", full)
            else:
                patch.setattr(members, "predict_windows", unreadable)
            code, _, said = call(*words)
        assert (code, said.count("error:"), "Traceback" in said) == (2, 1, False), said
        assert {"disk": "No space left on device", "block": "block 4"}[what] in said
        assert (f"4 finished windows are kept in {tmp_path / where}: the same command goes on" in said) == (
            stop == 4
        )
        assert names(tmp_path) == ([where] if stop else [])
    asked, logits = [], predict.predict_logits
    with monkeypatch.context() as patch:
        patch.setattr(predict, "predict_logits", lambda *a, **k: asked.append(1) or logits(*a, **k))
        code, _, said = call(*words)
    assert (code, len(asked)) == (0, 9 - 4), said
    (tmp_path / "whole").mkdir()
    assert call(*words[:-1], tmp_path / "whole" / "map.tif")[0] == 0
    for name in names(tmp_path / "whole"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_list_of_scenes_says_what_is_kept_of_each(call, files, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "ONE_PASS_PIXELS", 1)
    monkeypatch.setattr(predict, "CORE", 32)
    through = members.predict_classes

    def unreadable(*args, **options):
        yield from list(through(*args, **options))[:2]
        raise InputError("block 2 cannot be read.")

    monkeypatch.setattr(members, "predict_classes", unreadable)
    (tmp_path / "list.txt").write_text(f"{files / 's0.tif'}\n{files / 's1.tif'}\n")
    (tmp_path / "listed").mkdir()
    for out, *scenes in (
        (tmp_path / "named", files / "s0.tif", files / "s1.tif"),
        (tmp_path / "listed", tmp_path / "list.txt"),
    ):
        code, _, said = call("predict", files / "n0.json", *scenes, "-o", out, "--engine", "eager")
        assert code == 2
        for name in ("s0", "s1"):
            assert f"2 finished windows are kept in {out / f'.{name}.tif.partial'}" in said


def test_mistakes_are_told_in_one_message(call, files, tmp_path):
    words = ("predict", files / "n0.json", files / "s0.tif", "-o", tmp_path / "map.tif")
    for more, expected in (
        (("--memory", "much"), "memory='much' is not understood"),
        (("--min-area", "1ha"), "add --polygons"),
        (("--polygons", "--min-area", "1acre"), "min-area='1acre' is not understood"),
        (("--probabilities-as", "float8"), "probabilities='float8' is not known"),
        (("--spread",), "two checkpoints at least"),
        (("--stac",), "does not tell when it was taken"),
        (("--stac", "--time", "yesterday"), "is not ISO 8601"),
        (("--time", "2021-01-01"), "add --stac"),
        (("--engine", "eagr"), "engine='eagr' is not known"),
        (("--engine", "eagr", "--dry-run"), "engine='eagr' is not known"),
        (("--ensemble", files / "n0.json"), "is named twice"),
    ):
        code, printed, said = call(*words, *more)
        assert (code, printed, said.count("error:")) == (2, "", 1), said
        assert expected in said
        assert "Traceback" not in said
    assert names(tmp_path) == []


def test_a_map_that_is_there_is_vectorized(call, files, tmp_path):
    assert call("predict", files / "n0.json", files / "s0.tif", "-o", tmp_path / "map.tif")[0] == 0
    code, printed, said = call(
        "vectorize", tmp_path / "map.tif", "-o", tmp_path / "map.gpkg", "--min-area", "5000m2"
    )
    assert code == 0, said
    assert "area on the ellipsoid" in printed
    assert " polygons" in printed
    assert (tmp_path / "map.gpkg").exists()
    code, _, said = call("vectorize", tmp_path / "map.tif", "-o", tmp_path / "map.gpkg")
    assert (code, "exists already" in said) == (2, True)


@pytest.mark.parametrize(
    ("text", "number"),
    [("4GB", 4 * 10**9), ("2 GiB", 2**31), ("500mb", 5 * 10**8), ("1024", 1024), ("1.5kB", 1500)],
)
def test_amounts_of_memory(text, number):
    assert parse_bytes(text) == number
    with pytest.raises(InputError, match="Write it as 4GB"):
        parse_bytes(text + "x")


def test_amounts_and_durations_are_told_as_people_read_them():
    assert [in_bytes(n) for n in (12, 2_500, 812_000_000, 4e9, 3e13)] == [
        "12 B",
        "2.5 kB",
        "812 MB",
        "4 GB",
        "30 TB",
    ]
    assert [duration_words(s) for s in (0.23, 45, 600, 9000)] == ["0.23 s", "45 s", "10 min", "2 h 30 min"]


def test_areas_are_told_expected_and_corrected(call, files, tmp_path):
    words = ("predict", files / "n0.json", files / "s0.tif", "-o", tmp_path / "map.tif", "--probabilities")
    assert call(*words)[0] == 0
    scenes = [
        {"id": f"{i}", "group": f"event{i % 6}", "confusion": [[80 + i, 20], [10, 30 + i]]} for i in range(12)
    ]
    (tmp_path / "scores.json").write_text(json.dumps({"test": {"classes": ["dry", "wet"], "scenes": scenes}}))
    code, printed, said = call(
        "areas", tmp_path / "map.tif", "--probabilities", tmp_path / "map-probabilities.tif", "--scores",
        tmp_path / "scores.json", "-o", tmp_path / "areas.json",
    )  # fmt: skip
    assert code == 0, said
    first = said
    assert "adjusted km2 [95 %]" in printed
    told = json.loads((tmp_path / "areas.json").read_text())
    total = sum(row["km2"] for row in told.values())
    assert total == pytest.approx(90 * 70 * 1600 / 1e6 / 0.9996**2, rel=1e-3)
    assert sum(row["expected_km2"] for row in told.values()) == pytest.approx(total)
    assert sum(row["adjusted_km2"] for row in told.values()) == pytest.approx(total)
    with rasterio.open(tmp_path / "map-probabilities.tif") as file:
        share = file.read(2).mean()
    assert told["wet"]["expected_km2"] == pytest.approx(share * total, rel=1e-4)
    all_of_them = sum(np.array(s["confusion"]) for s in scenes)
    words = ("predict", files / "n1.json", files / "s0.tif", "-o", tmp_path / "other.tif", "--probabilities")
    assert call(*words)[0] == 0
    (tmp_path / "anew").mkdir()
    values = np.random.default_rng(9).normal(-10, 3, (1, 90, 70)).astype(np.float32)
    anew = write_geotiff(
        tmp_path / "anew" / "s0.tif", values, georeference=PLACE, descriptions=["vv"], units=["sigma0_db"]
    )
    for name, scene, more in (("views", files / "s0.tif", ("--views", 4)), ("files", anew, ())):
        words = (
            "predict",
            files / "n0.json",
            scene,
            "-o",
            tmp_path / f"{name}.tif",
            "--probabilities",
            *more,
        )
        assert call(*words)[0] == 0
    for name, which in (("of", {"checkpoint": "n1 epoch 1"}), ("seen", {"views": 4})):
        told_so = {"test": {"classes": ["dry", "wet"], "scenes": scenes} | which}
        (tmp_path / f"{name}.json").write_text(json.dumps(told_so))
    rates = all_of_them / all_of_them.sum(1, keepdims=True)
    expected = np.linalg.solve(rates.T, [told["dry"]["km2"], told["wet"]["km2"]])
    assert told["wet"]["adjusted_km2"] == pytest.approx(expected[1])
    assert told["wet"]["low_km2"] < told["wet"]["adjusted_km2"] < told["wet"]["high_km2"]
    (note,) = told["wet"]["notes"]  # far more is mapped as wet than on any test group
    assert "% of the test groups' maps: whether the errors are alike so far outside is not known." in note
    assert f"warning: {note}" in first
    assert "adjusted: by how often the 6 test groups' classes are missed" in first
    assert "warning: the scenes of test name no group" not in first
    for scene in scenes:
        scene["group"] = scene["id"]
    (tmp_path / "ungrouped.json").write_text(
        json.dumps({"test": {"classes": ["dry", "wet"], "scenes": scenes}})
    )
    code, _, said = call("areas", tmp_path / "map.tif", "--scores", tmp_path / "ungrouped.json")
    assert (code, "warning: the scenes of test name no group, and each counts as one" in said) == (0, True)
    for scene in scenes:
        scene["confusion"] = [[60, 40], [30, 20]]
    (tmp_path / "useless.json").write_text(
        json.dumps({"test": {"classes": ["dry", "wet"], "scenes": scenes}})
    )
    for more, expected in (
        (("--scores", tmp_path / "no.json"), "is not there"),
        (("--scores", tmp_path), "cannot be read: Is a directory"),
        (("--scores", tmp_path / "useless.json"), "does not tell them apart, and areas are not estimable"),
        (("--scores", tmp_path / "areas.json"), "holds no scores as sartransfer evaluate --out writes them"),
        (("--probabilities", tmp_path / "map.tif"), "does not hold the probabilities of 2 classes"),
        (("-o", tmp_path / "areas.json"), "exists already"),
        (("--probabilities", tmp_path / "other-probabilities.tif"), "is not of the same run"),
        (("--probabilities", tmp_path / "views-probabilities.tif"), "views [4], not [1]"),
        (("--probabilities", tmp_path / "files-probabilities.tif"), "is not of the same run"),
        (("--scores", tmp_path / "of.json"), "scores of 'n1 epoch 1', and the map is by 'n0 epoch 1'"),
        (("--scores", tmp_path / "seen.json"), "scores with views=4, and the map was made with views=1"),
    ):
        code, _, said = call("areas", tmp_path / "map.tif", *more)
        assert (code, expected in said, "Traceback" in said) == (2, True, False), said


def test_test_sets_are_joined_and_those_that_tell_of_no_new_event_left_out(call, files, tmp_path):
    """Six sets of scores as `evaluate` writes them; the area by hand from those that may count."""
    words = (
        "predict",
        files / "n0.json",
        files / "s0.tif",
        "-o",
        tmp_path / "map.tif",
        "--ensemble",
        files / "n1.json",
    )
    assert call(*words)[0] == 0
    sets, matrices = {}, {}
    relations = {
        "elbe": "unseen events", "oder": "unseen events", "old": None, "inner": "same scenes",
        "ruled": "labels of a rule", "lent": "other data",
    }  # fmt: skip
    for i, (name, relation) in enumerate(relations.items()):
        groups = ("east", "west") if name in ("elbe", "oder") else (name,)
        scenes = [
            {"id": f"{name}{k}", "group": g, "confusion": [[90 - 3 * i, 10], [5 + 4 * k, 40]]}
            for k, g in enumerate(groups * 2)
        ]
        matrices[name] = sum(np.array(s["confusion"]) for s in scenes)
        sets[name] = {
            "classes": ["dry", "wet"], "scenes": scenes, "checkpoint": "n1 epoch 1; n0 epoch 1", "views": 1,
            "member_views": [1, 1],
        } | ({"relation": relation} if relation else {})  # fmt: skip
    (tmp_path / "scores.json").write_text(json.dumps(sets))
    words = ("areas", tmp_path / "map.tif", "--scores", tmp_path / "scores.json")
    code, _, said = call(*words, "-o", tmp_path / "areas.json")
    assert code == 0, said
    assert "test sets: elbe, oder, old (5 groups)" in said  # east and west twice: told apart by set
    assert "warning: east, west in more than one test set" in said
    for text in ("inner: of the scenes that were trained on", "ruled: its labels", "lent: from other data"):
        assert text in said
    told = json.loads((tmp_path / "areas.json").read_text())
    mapped = np.array([told["dry"]["km2"], told["wet"]["km2"]])
    errors = matrices["elbe"] + matrices["oder"] + matrices["old"]
    rates = errors / errors.sum(1, keepdims=True)
    assert told["wet"]["adjusted_km2"] == pytest.approx(np.linalg.solve(rates.T, mapped)[1])
    assert (told["wet"]["test_sets"], told["wet"]["groups"]) == (["elbe", "oder", "old"], 5)
    named = [w for name in ("elbe", "oder", "ruled") for w in ("--split", name)]
    code, _, said = call(*words, *named)
    assert (code, "test sets: elbe, oder, ruled (5 groups)" in said) == (0, True)
    assert "warning: ruled: its labels are a rule's" in said
    sets["elbe"]["member_views"] = [1, 4]
    (tmp_path / "seen.json").write_text(json.dumps(sets))
    sets["elbe"]["checkpoint"] = "n0 epoch 1"
    (tmp_path / "one.json").write_text(json.dumps(sets))
    (tmp_path / "none.json").write_text(json.dumps({n: sets[n] for n in ("inner", "lent")}))
    for name, expected in (
        ("seen", "scores with views=1, 4, and the map was made with views=1"),
        (
            "one",
            "Score what made the map, 2 networks together (sartransfer evaluate CHECKPOINT --ensemble ...",
        ),
        ("none", "no test set of"),
    ):
        code, _, said = call("areas", tmp_path / "map.tif", "--scores", tmp_path / f"{name}.json")
        assert (code, expected in said, "Traceback" in said) == (2, True, False), said


def test_scores_say_how_a_test_set_relates_to_training():
    """In the words of a comparison's plan; without training scenes nothing is known."""
    kept = {"train": "po", "new": "elbe", "tied": "po", "ruled": "oder"}
    entries = tuple(Entry(s, (Asset(Path("a.tif")),), split=s, group=g) for s, g in kept.items())
    known = Catalog("floods", entries, ("dry", "flooded"))
    data = SimpleNamespace(external={"lent": None, "both": None}, same_scenes=("said",), tests={})
    recipe = SimpleNamespace(rule_labelled=("ruled", "both"), data=data)
    assert {name: relation_of(recipe, known, name) for name in ("new", "tied", "ruled", "lent", "both", "said")} == {
        "new": "unseen events", "tied": "same scenes", "ruled": "labels of a rule", "lent": "other data",
        "both": "labels of a rule", "said": "same scenes",
    }  # fmt: skip
    assert relation_of(None, known, "ruled") == "unseen events"
    assert relation_of(None, known.with_entries(entries[1:]), "new") == "not known"

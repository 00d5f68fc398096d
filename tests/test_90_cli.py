"""The command line: every mistake ends in one clear message and exit code 2, and every command does its job."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from small_data import make_catalog, write_small
from small_data import write_scene as write_labelled

from sartransfer import cli, members
from sartransfer.catalog import read_catalog, write_catalog
from sartransfer.cli import catalogs, main
from sartransfer.contract import InputBand, InputContract
from sartransfer.geotiff import write_geotiff
from sartransfer.models import build_model, write_checkpoint
from sartransfer.readers.array import write_array
from sartransfer.scene import Band, GeoReference, parse_bands

torch.set_num_threads(1)
SMALL = {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}
CONTRACT = InputContract(
    (
        InputBand("vv", "sigma0_db", "VV", mean=-11, std=3.2),
        InputBand("vh", "sigma0_db", "VH", mean=-14, std=3.2),
    )
)
META = {"classes": ["land", "water"], "contract": CONTRACT.to_json(), "identity": "small", "epoch": 1}


@pytest.fixture
def refuse(call):
    """Run the command line and return its one message: exit code 2, nothing else, no traceback."""

    def run(*words):
        code, _, said = call(*words)
        assert code == 2, said
        assert "Traceback" not in said
        assert said.count("error:") == 1
        return said.partition("error: ")[2].strip()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small checkpoint as a run would leave it."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    write_checkpoint(folder / "best", build_model("unet-resnet18", 2, 2, **SMALL), META)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a catalog of small labelled scenes."""
    folder = tmp_path_factory.mktemp("data")
    write_small(folder, {"train": 6, "validation": 2, "test": 2})
    return folder


def recipe(folder, catalog, **more):
    values = {
        "name": "small", "task": "segment", "data": {"catalog": str(catalog)},
        "model": {"name": "unet-resnet18", "options": SMALL},
        "initializations": {"random": "random"}, "seeds": 1, "primary": {"metric": "iou", "class": "water"},
        "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    } | more  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def scene(path, values=None, *, names=("vv", "vh"), units=("sigma0_db", "sigma0_db")):
    if values is None:
        noise = np.random.default_rng(0).normal(size=(2, 33, 47))
        values = (np.array([-11, -14])[:, None, None] + 3.2 * noise).astype(np.float32)
    place = GeoReference(crs="EPSG:32633", transform=(10.0, 0.0, 5e5, 0.0, -10.0, 6e6))
    return write_geotiff(path, values, georeference=place, descriptions=names, units=units)


# --- mistakes -------------------------------------------------------------------------------------------------


def test_files_that_are_not_there(refuse, tmp_path, trained):
    (tmp_path / "here.tif").write_bytes(b"")
    no = tmp_path / "no"
    assert f"no recipe at {no}.yaml" in refuse("compare", f"{no}.yaml")
    assert f"no recipe at {no}.yaml" in refuse("train", f"{no}.yaml")
    assert f"{no}.tif is not there" in refuse("predict", trained, f"{no}.tif", "-o", tmp_path / "map.tif")
    message = refuse("predict", no, tmp_path / "here.tif", "-o", tmp_path / "map.tif")
    assert f"{no}.json is missing: a checkpoint is" in message
    assert f"{no}.csv is not there" in refuse("catalog", "list", f"{no}.csv")
    assert f"{no}.csv is not there" in refuse("evaluate", trained, "--catalog", f"{no}.csv")
    assert f"{no}/results.json is missing" in refuse("report", no)
    path = recipe(tmp_path, f"{no}.csv")
    assert f"{no}.csv is not there" in refuse("compare", path, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scenes_that_cannot_be_mapped(refuse, tmp_path, trained):
    whole = scene(tmp_path / "whole.tif").read_bytes()
    (tmp_path / "half.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "scene.doc").write_text("no image")
    one = np.full((1, 8, 8), -10, np.float32)
    scene(tmp_path / "one.tif", one, names=("vv",), units=("sigma0_db",))
    scene(tmp_path / "unknown.tif", units=())
    scene(tmp_path / "gamma.tif", units=("gamma0_db", "gamma0_db"))
    scene(tmp_path / "nothing.tif", np.full((2, 8, 8), np.nan, np.float32))
    before = set(tmp_path.iterdir())

    def map_of(name, *more):
        return refuse("predict", trained, tmp_path / name, "-o", tmp_path / "map.tif", *more)

    assert "half.tif cannot be read as a TIFF" in map_of("half.tif")
    assert "text.tif cannot be read as a TIFF" in map_of("text.tif")
    assert "no reader is known for '.doc'" in map_of("scene.doc")
    assert "'one' has no band 'vh' (sigma0_db, VH); it has vv (sigma0_db)" in map_of("one.tif")
    assert "has 2 bands (vv, vh), but 1 are named (VV)" in map_of("whole.tif", "--bands", "VV=sigma0_db")
    assert "band 'vv' is unknown, the network expects sigma0_db" in map_of("unknown.tif")
    assert "band 'vv' is gamma0_db, the network expects sigma0_db" in map_of("gamma.tif")
    message = map_of("whole.tif", "--bands", "VV=sigma,VH=sigma0_db")
    assert "unit='sigma' is not known" in message
    assert "Did you mean 'sigma0'?" in message
    assert "'nothing' has no valid pixel" in map_of("nothing.tif")
    assert set(tmp_path.iterdir()) == before


def test_checkpoints_that_cannot_be_used(refuse, tmp_path, trained):
    path = scene(tmp_path / "scene.tif")
    damaged = shutil.copytree(trained, tmp_path / "damaged")
    data = (damaged / "best.safetensors").read_bytes()
    (damaged / "best.safetensors").write_bytes(data[: len(data) // 2])
    assert "best.safetensors is damaged" in refuse("predict", damaged, path, "-o", tmp_path / "map.tif")
    (damaged / "best.json").write_text("{")
    assert "best.json is truncated" in refuse("predict", damaged, path, "-o", tmp_path / "map.tif")
    write_checkpoint(tmp_path / "chips" / "best", build_model("timm:resnet10t", 2, 2), META)
    message = refuse("predict", tmp_path / "chips", path, "-o", tmp_path / "map.tif")
    assert message.startswith("this checkpoint classifies whole patches")


def test_outputs_that_are_there_already(refuse, tmp_path, trained, data):
    path = scene(tmp_path / "scene.tif")
    for name in ("map.tif", "scores.json", "other.csv"):
        (tmp_path / name).write_text("mine")
    assert "map.tif exists" in refuse("predict", trained, path, "-o", tmp_path / "map.tif")
    catalog = data / "catalog.csv"
    assert "other.csv exists" in refuse("catalog", "write", catalog, "-o", tmp_path / "other.csv")
    message = refuse("evaluate", trained, "--catalog", catalog, "-o", tmp_path / "scores.json")
    assert "scores.json exists" in message
    assert "--overwrite" in message
    assert all((tmp_path / n).read_text() == "mine" for n in ("map.tif", "scores.json", "other.csv"))
    assert "no folder" in refuse("evaluate", trained, "--catalog", catalog, "-o", tmp_path / "no" / "s.json")
    asked = recipe(tmp_path, catalog)
    before = asked.read_text()
    assert "would be replaced by the resolved recipe" in refuse("compare", asked, "-o", tmp_path)
    assert asked.read_text() == before
    asked = asked.rename(tmp_path / "mine.yaml")
    assert f"{tmp_path} exists and is not a comparison" in refuse("train", asked, "-o", tmp_path)
    assert f"{asked} is a file; give a folder" in refuse("compare", asked, "-o", asked)
    assert f"{asked}/deeper: Not a directory." in refuse("compare", asked, "-o", asked / "deeper")
    assert "holds something else" in refuse("demo", "-o", tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "recipe.yaml").write_text("name: theirs")
    message = refuse("compare", asked, "-o", tmp_path / "theirs")
    assert "holds the comparison 'theirs', not 'small'" in message


def test_recipes_with_mistakes(refuse, tmp_path, data, monkeypatch):
    catalog = data / "catalog.csv"
    out = ("-o", tmp_path / "out")
    message = refuse("compare", recipe(tmp_path, catalog, training={"epoch": 3}), *out)
    assert "training: unknown key 'epoch'. Did you mean 'epochs'?" in message
    path = recipe(tmp_path, catalog)
    assert "is not of the form key.subkey=value" in refuse("compare", path, "--set", "training.epochs", *out)
    assert "Did you mean 'epochs'?" in refuse("train", path, "--set", "training.epohcs=3", *out)
    assert "device='tpu' is not known. Must be one of: auto, cpu" in refuse(
        "compare", path, "--device", "tpu", *out
    )
    assert "device='gpu'" in refuse("predict", tmp_path, path, "-o", "map.tif", "--device", "gpu")
    message = refuse("train", path, "--start", "randm", *out)
    assert "initialization='randm' is not known. Must be one of: random. Did you mean 'random'?" in message
    assert "seed=9 is not known. Must be one of: 0." in refuse("train", path, "--seed", "9", *out)
    primary = {"metric": "iou", "class": "watr"}
    message = refuse("compare", recipe(tmp_path, catalog, primary=primary), *out)
    assert "primary.class='watr' is not known. Must be one of: land, water. Did you mean 'water'?" in message
    message = refuse("compare", recipe(tmp_path, catalog, data={"dataset": "ombra", "root": "x"}), *out)
    assert "data.dataset='ombra'" in message
    assert "Did you mean 'ombria'?" in message
    message = refuse("compare", recipe(tmp_path, catalog, model={"name": "unett"}), *out)
    assert "model='unett' is not known" in message
    path.write_text("name: [")
    assert "not readable as YAML" in refuse("compare", path, *out)
    assert not list((tmp_path / "out").glob("runs/*/*/*/best.*"))


def test_datasets_with_mistakes(refuse, trained, tmp_path):
    message = refuse("catalog", "list", "eurosatt=somewhere")
    assert "dataset='eurosatt' is not known" in message
    assert "Did you mean 'eurosat'?" in message
    assert "say where it lies, as eurosat=FOLDER" in refuse("catalog", "check", "eurosat")
    assert "holds no folders of images" in refuse("catalog", "list", f"eurosat={tmp_path}")
    assert "say where it lies, as nwpu=FOLDER" in refuse("evaluate", trained, "--dataset", "nwpu")
    assert "--recipe, --catalog or --dataset, one of them" in refuse("evaluate", trained)
    assert "one of them" in refuse("evaluate", trained, "--dataset", "nwpu=x", "--catalog", "c.csv")


def test_commands_with_mistakes(call):
    for words, expected in (
        (["predct"], "Did you mean 'predict'?"),
        (["predict", "a", "b"], "Missing option '--out'"),
        (["compare", "r.yaml", "--job", "3"], "--jobs"),
        (["compare", "r.yaml", "--jobs", "0"], "--jobs"),
        (["train", "r.yaml", "--seed", "one"], "integer"),
    ):
        code, _, said = call(*words)
        assert (code, expected in said, "Traceback" in said) == (2, True, False), said


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "sea-ice", "OUT", "--seed", "-1"),
        ("demo", "--out", "OUT", "--seed", "-1"),
        ("prepare", "tiles", "pairs.csv", "-o", "OUT", "--seed", "-1"),
    ],
)
def test_a_seed_below_0_is_refused_before_anything_is_made(call, tmp_path, words):
    code, _, said = call(*(tmp_path / "out" if word == "OUT" else word for word in words))
    assert code == 2
    assert "Traceback" not in said
    assert "'--seed'" in said
    assert "greater than or equal to 0" in " ".join(said.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [("--cluster-tls", "keys"), ("--cluster-plain",)])
def test_how_to_join_a_cluster_without_one_is_refused(refuse, tmp_path, trained, data, more):
    path, asked = scene(tmp_path / "scene.tif"), recipe(tmp_path, data / "catalog.csv")
    for words in (
        ("predict", trained, path, "-o", tmp_path / "map.tif"),
        ("compare", asked, "-o", tmp_path / "out"),
        ("compare", asked, "-o", tmp_path / "out", "--folds", "2"),
    ):
        assert f"{more[0]} is for --cluster" in refuse(*words, *more)
    assert not (tmp_path / "map.tif").exists()
    assert not (tmp_path / "out").exists()


def test_labels_of_another_size(refuse, call, tmp_path):
    write_small(tmp_path / "data", {"train": 4, "validation": 1, "test": 1})
    wrong = write_labelled(tmp_path / "data" / "wrong.npz", np.random.default_rng(0), size=16)
    catalog = tmp_path / "data" / "catalog.csv"
    lines = catalog.read_text().splitlines()
    lines[2:6] = [line.replace(",,,train", ",,,wrong").replace(f"wrong{i}.npz", wrong.name)
                  for i, line in enumerate(lines[2:6])]  # fmt: skip
    catalog.write_text("\n".join(lines) + "\n")
    path = recipe(tmp_path, catalog, seeds=2)
    message = refuse("train", path, "-o", tmp_path / "one")
    assert "has 16 x 16 pixels, the scene has 32 x 32" in message
    message = refuse("compare", path, "-o", tmp_path / "all")
    assert "runs failed" not in message  # said before the first run
    assert "has 16 x 16 pixels, the scene has 32 x 32" in message
    assert not (tmp_path / "all").exists()
    code, said, _ = call("catalog", "check", catalog)
    assert code == 1
    assert "label train0: entry 'train0'" in said
    assert "6 scenes, 4 problems, 0 leaks between splits." in said


def test_weights_that_do_not_fit_stop_their_start_alone(refuse, call, tmp_path, data):
    torch.save({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "weights.pth")
    starts = {"random": "random", "file": {"from": "file", "path": "weights.pth"}}
    path = recipe(tmp_path, data / "catalog.csv", initializations=starts, seeds=2)
    message = refuse("train", path, "-o", tmp_path / "one")
    assert "weights.pth does not fit the network: encoder.conv1.weight is (3, 3) in the weights" in message
    code, printed, said = call("compare", path, "-o", tmp_path / "out")
    assert code == 2
    assert "error: 2 of 4 runs failed: weights.pth does not fit the network" in said
    assert said.endswith("(file, seed 0; file, seed 1)\n")
    assert said.count("failed, as before") == 1
    assert "report: " in printed
    done = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [(r["initialization"], r["status"]) for r in done] == [
        ("random", "finished"), ("file", "failed"), ("random", "finished"), ("file", "failed")
    ]  # fmt: skip
    (tmp_path / "weights.pth").unlink()
    assert "no weights at" in refuse("compare", path, "-o", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_ends_a_training_and_leaves_nothing_half(refuse, tmp_path, data, monkeypatch):
    path = recipe(tmp_path, data / "catalog.csv")
    real = Path.write_text

    def full(self, text, *more, **options):
        if self.name.startswith(".curves.csv"):
            real(self, text[:10], *more, **options)
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, text, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        message = refuse("compare", path, "-o", tmp_path / "out")
    assert "curves.csv: No space left on device. Free some space, or choose another place." in message
    found = {p.name for p in (tmp_path / "out" / "runs").rglob("*") if p.is_file()}
    assert not {n for n in found if n.endswith(".tmp")}
    assert json.loads(next((tmp_path / "out").rglob("run.json")).read_text())["status"] == "unfinished"


def test_a_full_disk_leaves_no_half_map(refuse, tmp_path, trained):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    words = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *words], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs root and mount")
    try:
        path = scene(
            tmp_path / "scene.tif", np.random.default_rng(0).normal(-11, 3, (2, 200, 200)).astype("f4")
        )
        message = refuse("predict", trained, path, "-o", disk / "map.tif", "--probabilities")
        assert "disk full" in message
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "a place: No space left on device. Free some space, or choose another place."),
        (errno.EACCES, "a place: Permission denied."),
        (errno.EROFS, "a place: Read-only file system."),
    ],
)
def test_what_the_system_refuses_is_told(refuse, monkeypatch, number, words):
    def fail(**_):
        raise OSError(number, os.strerror(number), "a place")

    monkeypatch.setattr(cli, "app", fail)
    assert refuse() == words


def test_errors_that_are_ours_are_not_hidden(monkeypatch):
    for error in (OSError("of some library"), ZeroDivisionError()):

        def fail(error=error, **_):
            raise error

        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(type(error)):
            main()


def test_square_brackets_in_messages_are_not_markup(refuse):
    assert "[red]x[/red].yaml" in refuse("compare", "[red]x[/red].yaml")


# --- in processes of their own --------------------------------------------------------------------------------


def process(*words, cwd, **more):
    command = [sys.executable, "-m", "sartransfer.cli", *map(str, words)]
    source = str(Path(cli.__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def test_a_mistake_ends_the_process_with_code_2(tmp_path):
    for words, expected in (
        (["compare", "no.yaml"], "error: no recipe at no.yaml. Give the path of a YAML file.\n"),
        (["catalog", "list", "no.csv"], "error: no.csv is not there. Check the path of the catalog.\n"),
    ):
        run = process(*words, cwd=tmp_path)
        printed, said = run.communicate()
        assert (run.returncode, printed) == (2, "")
        assert said == expected


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_from_outside_it_says_so_and_keeps_the_epochs(tmp_path, data, sent, code):
    path = recipe(tmp_path, data / "catalog.csv")
    more = ("-o", "out", "--set", "training.epochs=2000")
    # A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    run = process("compare", path, *more, cwd=tmp_path, **heard)
    curves = tmp_path / "out/runs/random/1/seed0/curves.csv"
    while run.poll() is None and not (curves.is_file() and curves.read_text().count("\n") > 2):
        time.sleep(0.05)  # the only way to know how far another process is
    run.send_signal(sent)
    try:
        printed, said = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == code, said
    assert printed == ""
    assert said == "stopped: finished runs and epochs are kept, and the same command goes on from there.\n"
    assert (curves.parent / "resume.pt").is_file()
    assert json.loads((curves.parent / "run.json").read_text())["status"] == "unfinished"


def test_ctrl_c_in_a_command_that_keeps_nothing(call, trained, tmp_path, monkeypatch):
    def interrupt(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(members, "predict_classes", interrupt)
    path = scene(tmp_path / "scene.tif")
    code, printed, said = call("predict", trained, path, "-o", tmp_path / "map.tif")
    assert (code, printed, said) == (130, "", "stopped: nothing was written.\n")
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("compare x.yaml", "finished runs and epochs are kept, and the same command goes on from there."),
        ("train x.yaml", "finished runs and epochs are kept, and the same command goes on from there."),
        ("demo", "finished runs and epochs are kept, and the same command goes on from there."),
        ("prepare patches x.csv", "what is done is kept, and the same command goes on from there."),
        ("prepare tiles x.csv", "what is done is kept, and the same command goes on from there."),
        ("fetch flood", "what is done is kept, and the same command goes on from there."),
        ("simulate sea-ice", "what is done is kept, and the same command goes on from there."),
        ("prepare flood tiles patches", "nothing was written."),
        ("prepare sentinel1 x.SAFE", "nothing was written."),
        ("prepare icechart x.shp", "nothing was written."),
        ("catalog check compare", "nothing was written."),
    ],
)
def test_ctrl_c_promises_only_what_is_kept(call, monkeypatch, words, kept):
    def interrupt(*_, **__):
        raise SystemExit(130) from KeyboardInterrupt()

    monkeypatch.setattr(cli, "app", interrupt)
    assert call(*words.split()) == (130, "", f"stopped: {kept}\n")


# --- what the commands do -------------------------------------------------------------------------------------


def test_help_names_every_command_and_what_it_takes(call):
    code, printed, _ = call("--help")
    assert code == 0
    for command in (
        "demo",
        "compare",
        "train",
        "evaluate",
        "ensemble",
        "predict",
        "report",
        "schema",
        "catalog",
        "prepare",
    ):
        assert command in printed
        code, text, _ = call(command, "-h")
        assert code == 0
        assert "Usage: sartransfer " + command in text
    code, printed, _ = call("--version")
    assert (code, printed.strip()) == (0, cli.__version__)


def test_each_line_of_help_can_be_read_alone():
    """None leans on the line above it: "Of the draw.", "Its collection."."""
    from typer.main import get_command

    def options(command):
        for inner in getattr(command, "commands", {}).values():
            yield from options(inner)
        yield from ((command.name, p.opts[0], p.help) for p in command.params if hasattr(p, "help"))

    found = [*options(get_command(cli.app))]
    assert len(found) > 150
    leaning = re.compile(r"(Of|Its|Or|And|Which:|With its|In units|At the|[A-Z]\w+\.$)")
    assert [one for one in found if leaning.match(one[2] or "") and one[1].startswith("--")] == []


def test_a_check_of_a_catalog_tells_how_far_it_is(call, data, monkeypatch):
    """It reads every pixel: the bar goes from nothing to all scenes."""
    seen = []

    class Told(catalogs.Progress):
        def update(self, task, **words):
            seen.append((words["completed"], words["total"]))
            super().update(task, **words)

    monkeypatch.setattr(catalogs, "Progress", Told)
    assert call("catalog", "check", data / "catalog.csv")[0] == 0
    assert seen == [(number, 10) for number in range(1, 11)]


def test_the_schema_is_json(call):
    code, printed, _ = call("schema")
    assert code == 0
    assert {"SegmentRecipe", "ClassifyRecipe"} <= json.loads(printed)["$defs"].keys()


def test_predict_writes_a_map_and_says_what_is_in_it(call, tmp_path, trained):
    path = scene(tmp_path / "scene.tif")
    words = ("predict", trained, path, "-o", tmp_path / "map.tif", "--probabilities")
    code, printed, said = call(*words)
    assert (code, said) == (0, "")
    with rasterio.open(tmp_path / "map.tif") as file, rasterio.open(path) as given:
        assert (file.shape, file.transform, file.crs) == (given.shape, given.transform, given.crs)
        counts = np.bincount(file.read(1).ravel(), minlength=2)
    for name, count in zip(("land", "water"), counts, strict=True):
        assert f"{name}: {count} pixels, {count / (33 * 47):.1%}\n" in printed
    assert f"map: {tmp_path / 'map.tif'}\n" in printed
    assert f"probabilities: {tmp_path / 'map-probabilities.tif'}\n" in printed
    assert call(*words)[0] == 2
    assert call(*words, "--overwrite")[0] == 0


def test_predict_warns_of_what_is_odd(call, tmp_path, trained):
    with rasterio.open(scene(tmp_path / "scene.tif")) as file:
        values = file.read()
    linear = scene(tmp_path / "linear.tif", 10 ** (values / 10))
    code, _, said = call("predict", trained, linear, "-o", tmp_path / "map.tif")
    assert code == 0
    lines = said.splitlines()
    assert all(line.startswith("warning: scene 'linear', band '") for line in lines)
    assert "99 % of the values are positive" in lines[0]
    assert "training standard deviations from the training mean" in said
    with rasterio.open(tmp_path / "map.tif") as file:
        told = file.tags()["SARTRANSFER_WARNINGS"]
    assert told == "; ".join(line.removeprefix("warning: ") for line in lines)
    shifted = scene(tmp_path / "plain.tif", values, names=("one", "two"), units=())
    code, _, said = call(
        "predict", trained, shifted, "-o", tmp_path / "b.tif", "--bands", "VV=sigma0_db,VH=sigma0_db"
    )
    assert (code, said) == (0, "")


def test_a_catalog_is_listed_checked_and_written(call, tmp_path, data):
    catalog = data / "catalog.csv"
    code, printed, _ = call("catalog", "list", catalog, "--scenes")
    assert code == 0
    assert "small: land, water" in printed
    rows = [[w.strip() for w in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    assert rows == [["train", "6", "6"], ["validation", "2", "2"], ["test", "2", "2"]]
    assert sum(line.startswith(("train", "validation", "test")) for line in printed.splitlines()) == 10
    code, printed, _ = call("catalog", "check", catalog)
    assert (code, printed) == (0, "10 scenes, 0 problems, 0 leaks between splits.\n")
    for name in ("copy.csv", "copy.geojson"):
        assert call("catalog", "write", catalog, "-o", tmp_path / name)[0] == 0
        assert read_catalog(tmp_path / name) == read_catalog(catalog)
    text = (tmp_path / "copy.csv").read_text()
    (tmp_path / "bad.csv").write_text(text.replace("train0.npz", "gone.npz"))
    code, printed, _ = call("catalog", "check", tmp_path / "bad.csv")
    assert code == 1
    assert "missing file train0: " in printed
    twice = next(line for line in text.splitlines() if line.startswith("train1,"))
    (tmp_path / "leak.csv").write_text(
        text + twice.replace("train1,", "again,", 1).replace(",train,", ",test,") + "\n"
    )
    code, printed, _ = call("catalog", "check", tmp_path / "leak.csv")
    assert code == 1
    assert "duplicate again: holds the same image as entry 'train1'" in printed
    assert "leak " in printed


def test_a_recipes_scenes_are_checked_for_the_bands_that_it_asks_for(call, tmp_path):
    """A scene without one, one in a unit of another kind, and a band that is odd but not asked for."""
    scenes = {"train": 3, "validation": 1, "test": 2}
    path = recipe(tmp_path, write_small(tmp_path / "data", scenes))
    asked = ("--set", "data.bands=[{name: vv}, {name: vh, unit: sigma0}]")
    rng = np.random.default_rng(7)
    for name in ("train0", "test0", "test1"):
        (tmp_path / "data" / f"{name}.npz").unlink()
    write_labelled(tmp_path / "data" / "train0.npz", rng, bands=("vv",))
    write_labelled(tmp_path / "data" / "test1.npz", rng, unit="amplitude")
    bands = (*parse_bands("vv=sigma0_db:VV,vh=sigma0:VH"), Band("odd"))
    values = rng.uniform(0.01, 0.1, (3, 32, 32)).astype(np.float32) - np.array([10, 0, 0])[:, None, None]
    write_array(tmp_path / "data" / "test0.npz", values, bands, label=np.zeros((32, 32), np.uint8))

    def kinds(*words):
        code, printed, _ = call("catalog", "check", *words)
        lines = printed.splitlines()
        assert lines[-1] == f"6 scenes, {len(lines) - 1} problems, 0 leaks between splits."
        assert code == (len(lines) > 1)
        return [line.partition(": ")[::2] for line in lines[:-1]]

    found = kinds(path, *asked)
    assert [where for where, _ in found] == ["bands train0", "bands test1"]
    assert "'vh'" in found[0][1]
    assert "'vv' is amplitude, the network expects sigma0_db" in found[1][1]
    # No bands are asked for: those of the first training scene, vv alone.
    assert [where for where, _ in kinds(path)] == ["bands test1"]
    assert [where for where, _ in kinds(path, "--set", "data.bands=[{name: vh, unit: amplitude}]")] == [
        "bands train0", "bands train1", "bands train2"
    ]  # fmt: skip
    # A catalog alone says what its own scenes are.
    assert [where for where, _ in kinds(tmp_path / "data" / "catalog.csv")] == ["unit test0"]
    code, _, said = call("catalog", "check", tmp_path / "data" / "catalog.csv", *asked)
    assert (code, "is none (.yaml)" in said) == (2, True)
    code, _, said = call("catalog", "check", path, "--set", "data.bnds=[]")
    assert (code, "bnds" in said) == (2, True)


def test_folds_hold_each_group_out_once(call, tmp_path, data):
    assert call("catalog", "folds", data / "catalog.csv", "-o", tmp_path, "--folds", "4")[0] == 0
    folds = [read_catalog(tmp_path / f"fold-{i}.csv") for i in (1, 2, 3, 4)]
    held = [e.id for fold in folds for e in fold.in_split("held-out")]
    source = read_catalog(data / "catalog.csv")
    assert sorted(held) == sorted(e.id for e in source.entries if e.split in ("train", "validation"))
    for fold in folds:
        groups = {e.group or e.id for e in fold.in_split("held-out")}
        assert groups.isdisjoint({e.group or e.id for e in fold.in_split("train")})
    code, _, said = call("catalog", "folds", data / "catalog.csv", "-o", tmp_path, "--folds", "4")
    assert code == 2
    assert "exists" in said


def test_a_dry_run_finds_labels_that_training_would_stumble_over(call, refuse, tmp_path):
    path = recipe(tmp_path, write_small(tmp_path / "data", {"train": 3, "validation": 1, "test": 1}))
    words = ("compare", path, "-o", tmp_path / "out", "--dry-run")
    file = tmp_path / "data" / "train1.npz"
    whole = file.read_bytes()
    values, bands = np.ones((2, 32, 32), np.float32), parse_bands("vv=sigma0_db:VV,vh=sigma0_db:VH")
    for label, expected in (
        (np.full((32, 32), 7, np.uint8), "value 7"),
        (np.zeros((32, 31), np.uint8), "train1"),
        (None, "train1"),
    ):
        file.unlink()
        if label is None:
            file.write_bytes(whole[:-200])
        else:
            write_array(file, values, bands)
            with np.load(file) as kept:
                content = {**kept, "label": label}
            np.savez(file, **content)
        assert expected in refuse(*words)
    for number in range(3):
        place = tmp_path / "data" / f"train{number}.npz"
        place.unlink()
        write_array(place, values + np.arange(32), bands, label=np.full((32, 32), 255, np.uint8))
    message = refuse(*words)
    assert "all 3 training scenes looked at (of 3) hold nothing but ignored pixels" in message
    assert not (tmp_path / "out").exists()


def test_what_was_trained_is_found_scored_and_reported(call, tmp_path, data):
    path = recipe(tmp_path, data / "catalog.csv", seeds=2)
    out = tmp_path / "out"
    code, printed, _ = call("compare", path, "-o", out, "--dry-run")
    assert (code, "2, of which 2 are still to be done" in printed, out.exists()) == (0, True, False)
    assert "of 6 of 6 training scenes looked at" in printed
    code, _, said = call("compare", path, "-o", out, "--dry-run", "--set", "data.patch.size=1000")
    assert (code, "is smaller than data.patch.size=1000" in " ".join(said.split())) == (2, True)

    code, printed, _ = call("train", path, "-o", out, "--seed", "1")
    run = out / "runs/random/1/seed1"
    assert code == 0
    assert "100.0 % random" in printed
    assert f"checkpoint: {run / 'best.safetensors'}\n" in printed
    kept = (run / "best.safetensors").stat().st_mtime_ns

    code, printed, said = call("compare", path, "-o", out)
    assert code == 0
    assert said.splitlines() == ["[1/2] random, seed 0: finished", "[2/2] random, seed 1: found finished"]
    assert (run / "best.safetensors").stat().st_mtime_ns == kept
    report = out / "report.html"
    assert f"report: {report}\n" in printed
    assert list((out / "figures").glob("*.png"))
    first = report.read_text()
    report.unlink()
    assert call("report", out)[0] == 0
    assert report.read_text() == first

    code, printed, _ = call(
        "evaluate", run, "--catalog", data / "catalog.csv", "-o", tmp_path / "scores.json"
    )
    assert code == 0
    assert "undefined" in printed or "water" in printed
    told = json.loads((tmp_path / "scores.json").read_text())
    assert list(told) == ["test"]
    more = {"checkpoint", "member_views", "relation", "relation_why"}  # what `areas` asks of scores
    assert {k: v for k, v in told["test"].items() if k not in more} == json.loads(
        (run / "scores/test.json").read_text()
    )
    assert more <= set(told["test"])
    looks = [json.loads(line) for line in (run / "test-looks.jsonl").read_text().splitlines()]
    assert [(look["test_set"], look["catalog"]) for look in looks] == [("test", "small")]
    code, printed, _ = call("evaluate", run, "--recipe", path, "--split", "validation")
    assert code == 0
    assert "validation" in printed
    assert call("predict", run, data / "test0.npz", "-o", tmp_path / "map.tif")[0] == 0


def test_scenes_that_cannot_be_scored(refuse, tmp_path, trained, data):
    other = shutil.copytree(data, tmp_path / "data") / "catalog.csv"
    text = other.read_text()
    assert "has no split 'tset'; it has train, validation, test" in refuse(
        "evaluate", trained, "--catalog", other, "--split", "tset"
    )
    other.write_text(text.replace('"water"', '"ice"'))
    assert "knows the classes land, water, the catalog has land, ice" in refuse(
        "evaluate", trained, "--catalog", other
    )
    lines = text.splitlines()
    other.write_text("\n".join(line for line in lines if not line.startswith("test")) + "\n")
    message = refuse("evaluate", trained, "--catalog", other)
    assert "has no test set: only train, validation" in message
    assert "--split" in message


def test_a_run_that_is_ours_to_mend_ends_with_code_1(call, tmp_path, data, monkeypatch):
    def broken(*words, **options):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("sartransfer.comparison.train_job", broken)
    code, _, said = call("compare", recipe(tmp_path, data / "catalog.csv"), "-o", tmp_path / "out")
    assert code == 1
    assert "1 of 1 runs failed" in said
    assert "ZeroDivisionError: ours" in said


def test_scenes_are_cut_into_patches_that_a_recipe_can_take(call, refuse, tmp_path):
    folder = tmp_path / "scenes"
    catalog = make_catalog(folder, {"train": 2, "test": 1}, size=32)
    write_catalog(catalog, folder / "scenes.csv")
    code, printed, _ = call("prepare", "patches", folder / "scenes.csv", "-o", tmp_path / "out", "--size", 16)
    assert code == 0
    assert "catalog: " in printed
    made = read_catalog(tmp_path / "out" / "catalog.csv")
    left = sum(int(n) for n in re.findall(r"(\d+) (?:too little|without|at edges)", printed))
    assert len(made.entries) + left == 3 * 4
    assert {e.category for e in made.entries} <= set(catalog.classes)
    said = refuse("prepare", "patches", folder / "scenes.csv", "-o", tmp_path / "out", "--size", 16)
    assert "out" in said
    assert "size" in refuse(
        "prepare", "patches", folder / "scenes.csv", "-o", tmp_path / "b", "--size", 64_000
    )


def test_a_flood_is_mapped_by_change_from_the_command_line(call, refuse, tmp_path):
    rng = np.random.default_rng(0)
    before = rng.gamma(9, 0.1 / 9, (1, 48, 48)).astype(np.float32)
    after = rng.gamma(9, 0.1 / 9, (1, 48, 48)).astype(np.float32)
    after[:, 16:32, 16:32] /= 20  # 13 dB darker: flooded
    place = GeoReference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6))
    for name, values in (("before", before), ("after", after)):
        write_geotiff(
            tmp_path / f"{name}.tif", values, descriptions=["VV"], units=["sigma0"], georeference=place
        )
    words = ("prepare", "flood", tmp_path / "before.tif", tmp_path / "after.tif", "-o", tmp_path / "m.tif")
    code, printed, _ = call(*words, "--rule", "db_drop", "--threshold", "3", "--threshold", "99")
    assert code == 0
    assert "at a threshold of 99: 0.000" in printed
    with rasterio.open(tmp_path / "m.tif") as file:
        found = file.read(1)
    assert found[20:28, 20:28].all()  # the filter of 50 m blurs the border
    assert not found[:8].any()
    assert "--overwrite" in refuse(*words)
    assert "un_spider" in refuse(*words, "--rule", "un_spidr")
    assert "degrees" in refuse(*words, "--overwrite", "--slope-unit", "gon")

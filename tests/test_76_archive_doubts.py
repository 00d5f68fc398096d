"""What an audit of archives and clusters found: cut maps, two scenes with one file, jobs that are started again."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sartransfer.archive import maps, order_of, predict_scenes, read_scenes, work
from sartransfer.archive.ledger import Ledger
from sartransfer.archive.made import is_whole, refuse_clashes
from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.cli.cluster import is_list
from sartransfer.cluster import (
    JobSettings,
    open_cluster,
    opening,
    parse_place,
    run_tasks,
    slurm_job,
    tasks,
    write_keys,
)
from sartransfer.cluster.opening import Cluster
from sartransfer.cluster.places import Place
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import ClusterError, InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.mapping import predict_scene
from sartransfer.models import build_model, write_checkpoint

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A checkpoint and three scenes."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    model = build_model("unet", 2, 3, channels=[8, 8, 16])
    with torch.no_grad():
        model(torch.randn(2, 2, 96, 96))
    contract = InputContract(tuple(InputBand(f"sigma0_{p}_db", "sigma0_db", p.upper()) for p in ("vv", "vh")))
    meta = {"classes": ("land", "water", "ice"), "contract": contract.to_json()}
    write_checkpoint(folder / "best", model.eval(), meta)
    for number in range(3):
        values = np.random.default_rng(number).normal(size=(2, 280, 310)).astype(np.float32)
        values[:, :70, :40] = np.nan
        write_geotiff(folder / f"scene{number}.tif", values, descriptions=[b.name for b in contract.bands])
    return folder


@pytest.fixture(scope="module")
def mapped(unet):
    """A folder with the map of scene 0 and its probabilities and polygons' stand-ins, never to be changed."""
    folder = unet / "mapped"
    orders = [order_of(str(unet / "scene0.tif"))]
    predict_scenes([unet / "best.json"], orders, folder, device="cpu", probabilities="uint8", entropy=True)
    return folder


def test_a_cut_map_is_found_wherever_it_was_cut(mapped, tmp_path):
    """Also within the last tile, or within the four bytes that follow it; whole ones are whole."""
    for name in ("scene0.tif", "scene0-probabilities.tif", "scene0.tif.aux.xml"):
        data, path = (mapped / name).read_bytes(), tmp_path / name
        path.write_bytes(data)
        assert is_whole(path), name
        places = {*range(0, len(data) - 40, max(1, len(data) // 150)), *range(len(data) - 40, len(data))}
        if name.endswith(".xml"):
            places.discard(len(data) - 1)  # the end of its last line
        for place in sorted(places):
            path.write_bytes(data[:place])
            assert not is_whole(path), (name, place, len(data))


def test_a_map_of_many_tiles_and_overviews_is_whole(tmp_path):
    """As large files of others too: odd sizes, several levels, overviews that were added behind the pixels."""
    import rasterio

    values = np.random.default_rng(0).integers(0, 200, (2, 1301, 1027), dtype=np.uint8)
    options = {"count": 2, "height": 1301, "width": 1027, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", tiled=True, blockxsize=256, blockysize=256, **options
    ) as file:
        file.write(values)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.build_overviews([2, 4, 8])
    with rasterio.open(tmp_path / "b.tif", "w", driver="COG", blocksize=256, **options) as file:
        file.write(values)
    for name in "ab":
        path = tmp_path / f"{name}.tif"
        assert is_whole(path)
        path.write_bytes(path.read_bytes()[:-1])
        assert not is_whole(path)


def test_polygons_and_items_that_are_cut_are_found(tmp_path):
    import sqlite3

    path = tmp_path / "m.gpkg"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 50)
    assert is_whole(path)
    data = path.read_bytes()
    for place in (0, 10, 31, 4096, len(data) - 1):
        path.write_bytes(data[:place])
        assert not is_whole(path)
    item = tmp_path / "m.stac.json"
    item.write_text(json.dumps({"a": {"b": 1}}))
    assert is_whole(item)
    item.write_text('{"a": {"b": 1}')
    assert not is_whole(item)


@pytest.mark.parametrize("name", ["scene0.tif", "scene0-entropy.tif"])
@pytest.mark.parametrize("copied", [True, False])
def test_a_cut_map_is_not_taken_for_finished(unet, mapped, tmp_path, name, copied):
    """Neither with a ledger that knows the map as it is now, nor without one."""
    folder = tmp_path / "maps"
    shutil.copytree(mapped, folder, copy_function=shutil.copy2)
    cut = folder / name
    cut.write_bytes(cut.read_bytes()[: 3 * cut.stat().st_size // 4])
    if copied and name == "scene0.tif":
        (folder / "maps.jsonl").unlink()
    orders = [order_of(str(unet / "scene0.tif"))]
    options = {"device": "cpu", "probabilities": "uint8", "entropy": True}
    found = predict_scenes([unet / "best.json"], orders, folder, **options)
    assert "not whole" in found.failed[0]["error"]
    again = predict_scenes([unet / "best.json"], orders, folder, overwrite=True, **options)
    assert not again.failed
    assert cut.read_bytes() == (mapped / name).read_bytes()


def test_a_cut_map_on_the_command_line(call, unet, mapped, tmp_path):
    for name in ("scene0.tif", "scene0.tif.aux.xml"):
        shutil.copy(mapped / name, tmp_path / name)
    words = (
        "predict",
        unet / "best.json",
        unet / "scene0.tif",
        unet / "scene1.tif",
        "-o",
        tmp_path,
        "--engine",
        "eager",
    )
    code, _, err = call(*words)
    assert code == 0, err
    assert "is there already" in err
    (tmp_path / "scene0.tif").write_bytes((mapped / "scene0.tif").read_bytes()[:-2])
    code, _, err = call(*words)
    assert code == 2
    assert "it is not whole" in " ".join(err.split())


def test_two_scenes_that_would_write_one_file_are_refused(call, unet, tmp_path):
    names = ("a", "a-probabilities", "b")
    for name, number in zip(names, (0, 1, 2), strict=True):
        shutil.copy(unet / f"scene{number}.tif", tmp_path / f"{name}.tif")
    orders = [order_of(str(tmp_path / f"{name}.tif")) for name in names]
    out = tmp_path / "maps"
    with pytest.raises(InputError, match=r"two scenes would write a-probabilities\.tif"):
        predict_scenes([unet / "best.json"], orders, out, probabilities="uint8", device="cpu")
    assert not out.exists()
    paths = [out / f"{order.name}.tif" for order in orders]
    refuse_clashes(paths, {})  # without probabilities there is nothing that both would write
    refuse_clashes(paths, {"entropy": True, "stac": True})
    with pytest.raises(InputError, match="two scenes would write"):
        refuse_clashes(list(reversed(paths)), {"probabilities": True})
    (tmp_path / "list.txt").write_text("".join(f"{name}.tif\n" for name in names))
    scenes = [tmp_path / f"{name}.tif" for name in names]
    for given in ([tmp_path / "list.txt"], scenes):
        code, _, err = call(
            "predict",
            unet / "best.json",
            *given,
            "-o",
            out,
            "--engine",
            "eager",
            "--probabilities-as",
            "uint8",
        )
        assert (code, "two scenes would write a-probabilities.tif" in " ".join(err.split())) == (2, True)
        assert not out.exists()
    code, _, err = call("predict", unet / "best.json", *scenes, "-o", out, "--engine", "eager")
    assert code == 0, err
    assert len(list(out.glob("*.tif"))) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_appeared_is_not_taken_for_the_scenes_map(unet, mapped, tmp_path, overwrite):
    """That of another scene is refused, or replaced where that was asked; its own counts as made."""
    task = work.plan_task([unet / "best.json"], "cpu", {"engine": "eager"})
    order, path = order_of(str(unet / "scene1.tif")), tmp_path / "scene1.tif"
    for ending in ("", ".aux.xml"):  # of scene 0
        shutil.copy(mapped / f"scene0.tif{ending}", tmp_path / f"scene1.tif{ending}")
    asked = work.SceneWork(order, path, overwrite, None)
    if not overwrite:
        with pytest.raises(OutputError, match="it is of other files"):
            work.map_whole(task, asked)
        path.unlink()
        path.with_name("scene1.tif.aux.xml").unlink()
    alone = predict_scene(unet / "best.json", unet / "scene1.tif", tmp_path / "alone.tif")
    assert work.map_whole(task, asked).counts == alone.counts
    assert path.read_bytes() == (tmp_path / "alone.tif").read_bytes()
    again = work.map_whole(task, asked)
    assert again.counts == alone.counts
    assert "made by a worker that then died" in again.warnings[0]


def test_what_the_ledger_took_for_finished_is_looked_at(unet, mapped, tmp_path):
    """A scene was begun, and a file of another appeared under its name: that is no map of it."""
    order = order_of(str(unet / "scene1.tif"))
    task = work.plan_task([unet / "best.json"], "cpu", {})
    with Ledger(tmp_path) as ledger:
        ledger.add({"name": "scene1", "key": maps._key(order, task), "status": "begun", "replaces": None})
    for ending in ("", ".aux.xml"):
        shutil.copy(mapped / f"scene0.tif{ending}", tmp_path / f"scene1.tif{ending}")
    found = predict_scenes([unet / "best.json"], [order], tmp_path, device="cpu")
    assert "it is of other files" in found.failed[0]["error"]


def test_what_stands_beside_a_scene_is_in_the_ledgers_key(unet, tmp_path):
    """A nodata value that a GIS program notes beside a scene makes another scene of it; statistics do not."""
    shutil.copy(unet / "scene1.tif", tmp_path)
    order, notes = order_of(str(tmp_path / "scene1.tif")), tmp_path / "scene1.tif.aux.xml"
    task = work.plan_task([unet / "best.json"], "cpu", {})
    alone = maps._key(order, task)
    values = '<MDI key="STATISTICS_MEAN">1</MDI>'
    notes.write_text(
        f'<PAMDataset><PAMRasterBand band="1"><Metadata>{values}</Metadata></PAMRasterBand></PAMDataset>'
    )
    assert maps._key(order, task) == alone
    notes.write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>-9999</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert maps._key(order, task) != alone


def test_slurm_without_sbatch_says_so_at_once(call, unet, tmp_path, monkeypatch):
    """Before keys are made, and before dask-jobqueue fails in the background."""
    monkeypatch.setattr(opening.shutil, "which", lambda name: None)
    with (
        pytest.raises(ClusterError, match="sbatch, which is not on this machine"),
        open_cluster(f"slurm:1,keys={tmp_path}/keys"),
    ):
        pass
    assert not (tmp_path / "keys").exists()
    code, _, err = call(
        "predict", unet / "best.json", unet / "scene0.tif", "-o", tmp_path / "m.tif",
        "--cluster", f"slurm:1,keys={tmp_path}/keys",
    )  # fmt: skip
    assert (code, "needs the command sbatch" in " ".join(err.split())) == (2, True)
    assert not list(tmp_path.iterdir())


def test_keys_of_a_slurm_cluster_are_removed_with_it(tmp_path, monkeypatch):
    """By dask-jobqueue's own way of handing them on, which leaves them to the garbage collector; none is submitted."""
    import dask_jobqueue

    order = []

    class Fake:
        """As much of the cluster as writes keys."""

        shared_temp_directory = str(tmp_path)
        _get_worker_security = dask_jobqueue.SLURMCluster._get_worker_security

        def __init__(self, *, security, **_):
            self._get_worker_security(security)

        def close(self):
            order.append(len(list(tmp_path.iterdir())))

    monkeypatch.setattr(dask_jobqueue, "SLURMCluster", Fake)
    monkeypatch.setattr(opening.shutil, "which", lambda name: f"/usr/bin/{name}")
    with contextlib.ExitStack() as stack:
        kept = opening._start_slurm(parse_place(f"slurm:1,keys={tmp_path}"), stack)
        assert len(list(tmp_path.glob(".dask-jobqueue.worker.*"))) == 3
    assert order == [3]
    assert kept is not None  # still referred to
    assert not list(tmp_path.iterdir())


def test_a_job_that_is_put_into_the_queue_again_begins_anew(tmp_path):
    """What its first start left, keys and the address of a scheduler that is gone, is not there for the second."""
    fake = tmp_path / "fake"
    fake.write_text(
        """#!/bin/bash
case "$*" in
  *"cluster keys"*) test -e "$5/certificate.pem" && exit 2; mkdir -p "$5"; touch "$5/certificate.pem";;
  *scheduler*) ls "$RUN_SEEN" >> "$NOTES";;
esac
"""
    )
    fake.chmod(0o755)
    shutil.copy(fake, tmp_path / "srun")
    folder = tmp_path / "it's a -folder"
    run = folder / ".cluster-7"
    (run / "keys").mkdir(parents=True)
    (run / "keys" / "certificate.pem").touch()
    (run / "scheduler.json").write_text("{}")
    other = folder / ".cluster-77"
    other.mkdir()
    job = JobSettings(("predict", "/a"), str(folder), python=str(fake))
    text = slurm_job(job)
    lines = text.splitlines()
    emptied = next(n for n, line in enumerate(lines) if line.startswith('rm -rf -- "$RUN"'))
    assert lines[emptied - 1].startswith("RUN=")
    assert lines[emptied + 1] == 'mkdir -p -m 700 "$RUN"'
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "NOTES": str(tmp_path / "notes"),
        "RUN_SEEN": str(run),
    }  # fmt: skip
    subprocess.run(["bash"], input=text + "wait\n", text=True, check=True, env=environment, timeout=60)
    assert "keys" in (tmp_path / "notes").read_text()
    assert "scheduler.json" not in (tmp_path / "notes").read_text()
    assert [p.name for p in folder.iterdir()] == [".cluster-77"]


@pytest.mark.parametrize("words", [("--cluster=local:2",), ("--cluster", "local:2"), ("--cluster-tls=k",)])
def test_a_job_says_itself_where_its_workers_are(call, words):
    given = ("cluster", "job", "--kind", "slurm", "--folder", "/data", "--", "predict", "a", "b")
    code, _, err = call(*given, *words)
    assert (code, "leave --cluster out" in err) == (2, True)
    assert call(*given, "--out", "--clustered")[0] == 0


@pytest.mark.parametrize("time", ["1:99:99", "1:00:60", "1:60:00", "1-1:99:00"])
def test_times_that_are_none_are_refused(time):
    with pytest.raises(ClusterError, match="time="):
        JobSettings(("predict", "a"), "/data", time=time)


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem"])
def test_keys_are_a_pair_or_nothing(call, tmp_path, name):
    (tmp_path / name).write_text("old")
    code, _, err = call("cluster", "keys", tmp_path)
    assert (code, "exists already" in " ".join(err.split())) == (2, True)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputError, match="exists already"):
        write_keys(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("slurm:2,cores=abc", "cores='abc' is not allowed. Write a whole number"),
        ("slurm:2,cores=0", "cores='0'"),
        ("slurm:2,memory=lots", "memory='lots' is not allowed. Write an amount"),
        ("tcp://127.0.0.1:99999", "the port must be 1 to 65535"),
        ("tls://host:0", "the port must be 1 to 65535"),
    ],
)
def test_numbers_of_a_place_are_read_before_anything_is_opened(words, message):
    with pytest.raises(ClusterError, match=message), open_cluster(words):
        pass


def test_other_numbers_of_a_place_are_as_before():
    for words in ("slurm:2,cores=4,memory=16GB", "slurm:2,memory=1.5GiB", "slurm:1,memory=500MB"):
        assert parse_place(words).workers >= 1
    assert parse_place("tcp://127.0.0.1:65535").address == "tcp://127.0.0.1:65535"


@pytest.mark.parametrize("after", [0, 3])
def test_a_scheduler_that_is_gone_is_a_lost_cluster(tmp_path, after):
    """At its first question or at a later one: one message, and no file of ours is left in the shared folder."""
    from distributed.comm import CommClosedError

    class Client:
        status, asked = "running", 0

        def nthreads(self):
            if self.asked >= after:
                raise CommClosedError("in <TCP> Client->Scheduler: closed")
            self.asked += 1
            return {"a": 1}

        def submit(self, function, item, pure):
            return Done(item)

        def cancel(self, futures, force):
            raise CommClosedError("closed")

    class Done:
        def __init__(self, item):
            self.key, self.item, self.status = str(item), item, "finished"

        def add_done_callback(self, call):
            if self.item < 2:
                call(self)

        def result(self):
            return tasks.Outcome(self.item)

    done = []
    found = run_tasks(Cluster(Client(), Place("local", 1)), _same, range(9), share=tmp_path)
    with pytest.raises(ClusterError, match="the cluster is lost; what is done is kept"):
        done.extend(item for item, _ in found)
    assert done == ([] if after == 0 else [0, 1])
    assert not list(tmp_path.iterdir())


def _same(item):
    return item


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_benchmarks_are_given_their_peers():
    """As `make` would call them: from an environment of the peers' own, which git does not see and `clean` removes."""

    def lines(*words):
        found = subprocess.run(
            ["make", "-n", "-B", "-o", ".venv/installed", *words],
            cwd=ROOT,
            text=True,
            check=True,
            capture_output=True,
        )
        return found.stdout.replace("\\\n", " ").splitlines()

    with_peers = lines("benchmark")
    (pip,) = [line for line in with_peers if "pip install" in line]
    assert pip.startswith(".peers/bin/python -m pip install")
    assert {"torchgeo", "monai", "terratorch"} <= set(pip.split())
    assert any("random_patches.py --peer .peers/bin/python" in line for line in with_peers)
    assert any(
        "whole_scenes.py" in line and "--peers .peers/lib/python*/site-packages" in line
        for line in with_peers
    )
    assert any('topk_loss.py --peer "a b"' in line for line in lines("benchmark", "SMOOTH_TOPK=a b"))
    without = lines("benchmark", "PEERS=")
    assert not [line for line in without if "peer" in line or "pip" in line]
    assert sum("benchmarks/" in line for line in without) == sum("benchmarks/" in line for line in with_peers)
    assert any(line.startswith("rm ") and ".peers" in line.split() for line in lines("clean"))
    assert ".peers/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "://" not in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("ending", [".CSV", ".GeoJSON", ".TXT"])
def test_endings_of_lists_may_be_written_large(tmp_path, ending):
    """A catalog is no text list whose rows, and header, are names of scenes."""
    plain = tmp_path / f"list{ending.lower()}"
    if ending == ".TXT":
        plain.write_text("a.tif\n")
    else:
        write_catalog(Catalog("mine", (Entry("one", (Asset(tmp_path / "a.tif"),)),), ()), plain)
    large = plain.with_name(f"LIST{ending}")
    large.write_text(plain.read_text())
    assert is_list([str(large)])
    orders = read_scenes(large)
    assert orders == read_scenes(plain)
    assert [order.scene for order in orders] == [str(tmp_path / "a.tif")]
